// Header blocks of responses, written by hand (RFC 7541). Two fields are the same in every good response:
// the owner's constant response field and its constant trailer. They are entered into the peer's dynamic
// table once per connection and are one byte each from then on. So are the fields of a whole block that
// comes again and again: in a flash sale nearly all responses are one refusal, which would be some 640
// bytes each. Everything else is written as literals, which change no table.

/// A field whose name and value never change; both have less than 127 bytes.
package struct ConstantField: Sendable {
  package let name: StaticString
  package let value: StaticString

  package init(_ name: StaticString, _ value: StaticString) {
    precondition(name.utf8CodeUnitCount < 127 && value.utf8CodeUnitCount < 127)
    self.name = name
    self.value = value
  }
}

/// One connection's encoder.
@safe struct HeaderEncoder {
  /// Longest block that is written here but for those of the owner: size updates, a status, a constant
  /// field.
  static let blockBytesMax = 260
  /// Size updates at the beginning of a block: to 0, and to the default.
  static let sizeUpdateBytesMax = 4
  /// Of an entry beside its name and value (section 4.1).
  static let entryOverhead = 32
  /// Of the peer's table, for the fields of blocks that come again. The two constant fields have the rest.
  private static let repeatedBytesMax =
    Int(Defaults.headerTableBytes) - 2 * (126 + 126 + entryOverhead)

  /// A block that came before.
  private struct Repeated: BitwiseCopyable {
    var number: UInt64 = 0
    /// Order of the entry of its first field, behind the constant one; the others follow.
    var firstEntry: Int32 = 0
    /// Its fields in the table; 0 where it was not entered.
    var fieldCount: Int32 = 0
  }

  private enum Constant: Int {
    case header = 0
    case trailer
  }

  /// With a table smaller than the default no entries are made.
  private var usesTable = true
  /// The next block must begin by setting the table's size to 0 (section 4.2).
  private var mustShrink = false
  /// For each constant field the order of its entry; 0 where it was not entered. The newest entry has
  /// index 62.
  private var entered = InlineArray<2, Int>(repeating: 0)
  private var entries = 0
  private var repeatedBytes = 0
  private var repeated = InlineArray<4, Repeated>(repeating: Repeated())

  /// SETTINGS_HEADER_TABLE_SIZE. Once it was smaller than the default, no table is used any more.
  mutating func peerTableSizeChanged(to bytes: UInt32) {
    if bytes >= Defaults.headerTableBytes || !usesTable { return }
    usesTable = false
    mustShrink = true
  }

  /// :status 200 and the constant response field. The number of bytes written.
  mutating func writeHeaders(_ field: ConstantField, _ out: UnsafeMutablePointer<UInt8>) -> Int {
    let at = unsafe writeSizeUpdate(out)
    unsafe out[at] = 0x88
    return unsafe at + 1 + writeConstant(.header, field, out + at + 1)
  }

  /// The constant trailer. The number of bytes written.
  mutating func writeTrailers(_ field: ConstantField, _ out: UnsafeMutablePointer<UInt8>) -> Int {
    let at = unsafe writeSizeUpdate(out)
    return unsafe at + writeConstant(.trailer, field, out + at)
  }

  /// A size update where one is due. The number of bytes written.
  private mutating func writeSizeUpdate(_ out: UnsafeMutablePointer<UInt8>) -> Int {
    guard mustShrink else { return 0 }
    mustShrink = false
    unsafe out[0] = 0x20
    forgetEntries()
    return 1
  }

  private mutating func forgetEntries() {
    entered = .init(repeating: 0)
    entries = 0
    repeatedBytes = 0
    for index in repeated.indices { repeated[index].fieldCount = 0 }
  }

  private mutating func writeConstant(
    _ constant: Constant, _ field: ConstantField, _ out: UnsafeMutablePointer<UInt8>
  ) -> Int {
    let entry = entered[constant.rawValue]
    if entry > 0 { return unsafe writeIndex(of: entry, out) }
    if usesTable {
      entries += 1
      entered[constant.rawValue] = entries
      unsafe out[0] = 0x40
    } else {
      unsafe out[0] = 0
    }
    let nameLength = unsafe Self.writeString(field.name, out + 1)
    return unsafe 1 + nameLength + Self.writeString(field.value, out + 1 + nameLength)
  }

  /// The index of an entry (section 6.1). The table has less than 128 of them.
  private func writeIndex(of entry: Int, _ out: UnsafeMutablePointer<UInt8>) -> Int {
    let index = 62 + entries - entry
    guard index >= 127 else {
      unsafe out[0] = 0x80 | UInt8(index)
      return 1
    }
    unsafe out[0] = 0xff
    unsafe out[1] = UInt8(index - 127)
    return 2
  }

  /// A string of less than 127 bytes, without Huffman coding.
  static func writeString(_ text: StaticString, _ out: UnsafeMutablePointer<UInt8>) -> Int {
    let count = text.utf8CodeUnitCount
    unsafe out[0] = UInt8(count)
    unsafe (out + 1).update(from: text.utf8Start, count: count)
    return 1 + count
  }

  // MARK: Blocks of the owner

  /// A block of the owner's that comes once, as it is. The number of bytes written, one more than the block
  /// has at most.
  mutating func writeLiterals(
    _ block: UnsafeBufferPointer<UInt8>, _ out: UnsafeMutablePointer<UInt8>
  ) -> Int {
    let update = unsafe writeSizeUpdate(out)
    guard let base = block.baseAddress else { return update }
    unsafe (out + update).update(from: base, count: block.count)
    return update + block.count
  }

  /// A block that may come again. The second time that it comes to this connection it is entered into the
  /// table. The number of bytes written, at most `sizeUpdateBytesMax` more than the block has.
  /// - Parameter header: the constant response field.
  mutating func writeKept(
    _ kept: UnsafeMutablePointer<KeptBlock>, _ header: ConstantField,
    _ out: UnsafeMutablePointer<UInt8>
  ) -> Int {
    let block = unsafe UnsafeBufferPointer(KeptBlock.bytes(kept))
    if usesTable {
      let number = unsafe kept.pointee.number
      let slot = Int(truncatingIfNeeded: number) & 3
      if repeated[slot].number != number {
        repeated[slot] = Repeated(number: number)
      } else if repeated[slot].fieldCount > 0 {
        return unsafe writeIndexes(of: repeated[slot], header, out)
      } else if let count = unsafe enter(slot, block, header, out) {
        return count
      }
    }
    return unsafe writeLiterals(block, out)
  }

  private mutating func writeIndexes(
    of block: Repeated, _ header: ConstantField, _ out: UnsafeMutablePointer<UInt8>
  ) -> Int {
    // The constant field may become an entry now, behind those of the block.
    var at = unsafe writeHeaders(header, out)
    for index in 0..<block.fieldCount {
      at += unsafe writeIndex(of: Int(block.firstEntry + index), out + at)
    }
    return at
  }

  /// Writes a block so that its fields become entries; nil where they would take too much of the table. A
  /// table that is full is emptied, by size updates, and filled anew.
  private mutating func enter(
    _ slot: Int, _ block: UnsafeBufferPointer<UInt8>, _ header: ConstantField,
    _ out: UnsafeMutablePointer<UInt8>
  ) -> Int? {
    guard let fields = unsafe LiteralFields(block.span, behind: header),
      let base = block.baseAddress, fields.entryBytes <= Self.repeatedBytesMax
    else { return nil }
    var at = 0
    if repeatedBytes + fields.entryBytes > Self.repeatedBytesMax {
      forgetEntries()
      // To 0 and to 4,096 (section 4.2: the smallest first).
      unsafe out[0] = 0x20
      unsafe out[1] = 0x3f
      unsafe out[2] = 0xe1
      unsafe out[3] = 0x1f
      at = Self.sizeUpdateBytesMax
    }
    unsafe at += writeHeaders(header, out + at)
    repeated[slot].firstEntry = Int32(entries + 1)
    repeated[slot].fieldCount = Int32(fields.count)
    let byteCount = block.count - fields.start
    unsafe (out + at).update(from: base + fields.start, count: byteCount)
    var place = at
    for index in 0..<fields.count {
      // Literal with incremental indexing, new name (section 6.2.1).
      unsafe out[place] = 0x40
      place += Int(fields.lengths[index])
    }
    entries += fields.count
    repeatedBytes += fields.entryBytes
    return at + byteCount
  }
}

/// Where a block's literals lie, behind the status and the constant response field.
private struct LiteralFields {
  static let countMax = 8

  /// Where the first one begins.
  let start: Int
  private(set) var count = 0
  private(set) var lengths = InlineArray<8, UInt16>(repeating: 0)
  /// Bytes that they take as entries of a table.
  private(set) var entryBytes = 0

  /// Nil for a block that is not made so, or has more fields than are worth it.
  init?(_ block: Span<UInt8>, behind header: ConstantField) {
    guard block.count > 0, block[0] == 0x88,
      let length = Self.length(of: header, in: block, at: 1)
    else { return nil }
    start = 1 + length
    var at = start
    while at < block.count {
      guard let length = Self.literal(in: block, at: at), count < Self.countMax else { return nil }
      lengths[count] = UInt16(length.all)
      count += 1
      entryBytes += length.text + HeaderEncoder.entryOverhead
      at += length.all
    }
    guard count > 0 else { return nil }
  }

  /// Length of the constant field at a place; nil where another stands there.
  private static func length(
    of field: ConstantField, in block: Span<UInt8>, at start: Int
  ) -> Int? {
    var at = start
    guard at < block.count, block[at] == 0 else { return nil }
    at += 1
    for text in [field.name, field.value] {
      let text = unsafe UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
      guard at + 1 + text.count <= block.count, block[at] == text.count else { return nil }
      for index in text.indices {
        guard unsafe block[at + 1 + index] == text[index] else { return nil }
      }
      at += 1 + text.count
    }
    return at - start
  }

  /// Length of the literal at a place, and of its name and value alone.
  private static func literal(in block: Span<UInt8>, at start: Int) -> (all: Int, text: Int)? {
    guard start + 2 < block.count, block[start] == 0 else { return nil }
    let name = Int(block[start + 1])
    var at = start + 2 + name
    guard name < 127, at < block.count else { return nil }
    var value = Int(block[at] & 127)
    at += 1
    if value == 127 {
      var shift = 0
      repeat {
        guard at < block.count, shift < 21 else { return nil }
        value += Int(block[at] & 127) << shift
        shift += 7
        at += 1
      } while block[at - 1] >= 128
    }
    guard at + value <= block.count else { return nil }
    return (at + value - start, name + value)
  }
}

/// A header block of literals without indexing, while it is made: the fields of a response that has headers
/// alone, or of trailers. Used again for every such response, so that it costs no memory.
@safe package final class HeaderFields {
  private static let bytesMax = unsafe KeptBlock.bytesMax

  private let bytes: UnsafeMutablePointer<UInt8>
  private var count = 0

  package init() { unsafe bytes = .allocate(capacity: Self.bytesMax) }

  deinit { unsafe bytes.deallocate() }

  /// Begins a response: its :status, from 100 to 999.
  package func begin(status: Int) {
    if status == 200 {
      unsafe bytes[0] = 0x88
      count = 1
    } else {
      // :status is name 8 of the static table.
      let status = max(100, min(999, status))
      unsafe bytes[0] = 8
      unsafe bytes[1] = 3
      unsafe bytes[2] = UInt8(48 + status / 100)
      unsafe bytes[3] = UInt8(48 + status / 10 % 10)
      unsafe bytes[4] = UInt8(48 + status % 10)
      count = 5
    }
  }

  /// Begins trailers, or fields that follow others.
  package func begin() { count = 0 }

  /// Bytes of the block so far.
  package var byteCount: Int { count }

  /// Adds a field; its name has less than 127 bytes. One that does not fit is left out.
  package func add(_ name: StaticString, _ value: Span<UInt8>) {
    guard count + name.utf8CodeUnitCount + value.count + 8 <= Self.bytesMax else { return }
    unsafe bytes[count] = 0
    count += 1
    count += unsafe HeaderEncoder.writeString(name, bytes + count)
    writeLength(value.count)
    unsafe value.withUnsafeBufferPointer { source in
      guard let base = source.baseAddress else { return }
      unsafe (bytes + count).update(from: base, count: source.count)
    }
    count += value.count
  }

  /// Adds a field with a constant value.
  package func add(_ name: StaticString, _ value: StaticString) {
    let value = unsafe UnsafeBufferPointer(start: value.utf8Start, count: value.utf8CodeUnitCount)
    add(name, unsafe value.span)
  }

  /// Adds a field whose value is a decimal number.
  package func add(_ name: StaticString, decimal value: UInt64) {
    var digits = InlineArray<20, UInt8>(repeating: 48)
    var first = digits.count
    var rest = value
    repeat {
      first -= 1
      digits[first] = 48 + UInt8(truncatingIfNeeded: rest % 10)
      rest /= 10
    } while rest > 0
    add(name, digits.span.extracting(first..<digits.count))
  }

  /// Calls `body` with the block so far.
  package func withBlock<Result>(_ body: (Span<UInt8>) -> Result) -> Result {
    body(unsafe UnsafeBufferPointer(start: bytes, count: count).span)
  }

  /// A length with a seven-bit prefix (RFC 7541 section 5.1).
  private func writeLength(_ length: Int) {
    guard length >= 127 else {
      unsafe bytes[count] = UInt8(length)
      count += 1
      return
    }
    unsafe bytes[count] = 127
    count += 1
    var rest = length - 127
    while rest >= 128 {
      unsafe bytes[count] = UInt8(truncatingIfNeeded: rest & 127) | 128
      count += 1
      rest >>= 7
    }
    unsafe bytes[count] = UInt8(rest)
    count += 1
  }
}
