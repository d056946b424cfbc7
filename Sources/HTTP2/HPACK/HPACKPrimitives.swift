// Integers and texts of HPACK (RFC 7541 section 5), and what can be told of a block without decoding it.

enum HPACKInteger {
  /// Reads an integer whose first `prefixBits` bits stand in the byte at `at`, and moves behind it. nil, with
  /// nothing moved, where the bytes end within it.
  @inline(__always)
  static func read(
    _ bytes: Span<UInt8>, _ at: inout Int, prefixBits: Int
  ) throws(HPACKError) -> Int? {
    guard at < bytes.count else { return nil }
    let most = 1 << prefixBits - 1
    let prefix = Int(bytes[at]) & most
    // Most integers are no longer than that.
    if prefix == most { return try readRest(bytes, &at, most) }
    at += 1
    return prefix
  }

  private static func readRest(
    _ bytes: Span<UInt8>, _ at: inout Int, _ prefix: Int
  ) throws(HPACKError) -> Int? {
    var value = prefix
    var next = at + 1
    var shift = 0
    while true {
      guard next < bytes.count else { return nil }
      // No integer here has a use for more than 32 bits.
      if shift > 28 { throw .integerTooLarge }
      let byte = bytes[next]
      next += 1
      value += Int(byte & 0x7f) << shift
      if value > UInt32.max { throw .integerTooLarge }
      if byte < 0x80 { break }
      shift += 7
    }
    at = next
    return value
  }
}

/// Where a text stands in a block (section 5.2).
struct HPACKText {
  let isHuffman: Bool
  let start: Int
  /// As it was sent, in bytes.
  let count: Int

  var end: Int { start + count }

  /// Whether what it says has more than `most` bytes, whatever it says: no code has more than 30 bits.
  func isTooLong(_ most: Int) -> Bool { count > (isHuffman ? most * 4 : most) }

  /// Reads the length of a text and moves behind the text, which may be beyond the end. nil where the bytes
  /// end within the length.
  static func read(_ bytes: Span<UInt8>, _ at: inout Int) throws(HPACKError) -> HPACKText? {
    guard at < bytes.count else { return nil }
    let isHuffman = bytes[at] >= 0x80
    guard let count = try HPACKInteger.read(bytes, &at, prefixBits: 7) else { return nil }
    let text = HPACKText(isHuffman: isHuffman, start: at, count: count)
    at += count
    return text
  }
}

package enum HPACKBlock {
  /// Whether decoding a block changes the dynamic table. It does not where the block is made of indexed
  /// fields and of literals that are not entered (sections 6.1, 6.2.2, 6.2.3): such a block means the same
  /// every time until another one changes the table. True for a block that is not good.
  package static func changesTable(_ block: Span<UInt8>) -> Bool {
    var at = 0
    do throws(HPACKError) {
      while at < block.count {
        let first = block[at]
        if first >= 0x80 {
          if first != 0xff {
            at += 1
          } else if try HPACKInteger.read(block, &at, prefixBits: 7) == nil {
            return true
          }
          continue
        }
        if first >= 0x20 { return true }
        guard let index = try HPACKInteger.read(block, &at, prefixBits: 4) else { return true }
        if index == 0, try HPACKText.read(block, &at) == nil { return true }
        if try HPACKText.read(block, &at) == nil { return true }
      }
    } catch {
      return true
    }
    return at != block.count
  }
}
