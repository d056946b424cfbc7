// Header blocks of answers, written by hand (RFC 7541). Two fields are the same in every good answer,
// content-type and grpc-status 0: they are entered into the peer's dynamic table once per connection
// and are one byte each from then on. Everything else is written as literals, which change no table.

/// One connection's encoder.
@safe struct AnswerHeaders {
  /// Longest block that is written here.
  static let blockBytesMax = 64
  private static let contentTypeName: StaticString = "application/grpc"
  private static let statusName: StaticString = "grpc-status"

  /// Entries are 60 and 44 bytes (section 4.1): with a smaller table none are made.
  private var usesTable = true
  /// The next block must begin by setting the table's size to 0 (section 4.2).
  private var mustShrink = false
  /// The order of entry; 0 where it was not entered. The newest entry has index 62.
  private var contentTypeEntry = 0
  private var statusEntry = 0
  private var entries = 0

  /// SETTINGS_HEADER_TABLE_SIZE. Once it was smaller than the default, no table is used any more.
  mutating func peerTableSizeChanged(to bytes: UInt32) {
    if bytes >= Defaults.headerTableBytes || !usesTable { return }
    usesTable = false
    mustShrink = true
  }

  /// :status 200 and content-type. The number of bytes written.
  mutating func writeHeaders(_ out: UnsafeMutablePointer<UInt8>) -> Int {
    var at = unsafe writeSizeUpdate(out)
    unsafe out[at] = 0x88
    at += 1
    if contentTypeEntry > 0 {
      unsafe out[at] = 0x80 | UInt8(62 + entries - contentTypeEntry)
      return at + 1
    }
    if usesTable {
      entries += 1
      contentTypeEntry = entries
      // Literal with incremental indexing, name 31 of the static table.
      unsafe out[at] = 0x40 | 31
      at += 1
    } else {
      at += unsafe Self.writeContentTypeName(out + at)
    }
    return unsafe at + Self.writeString(Self.contentTypeName, out + at)
  }

  /// grpc-status 0 as trailers. The number of bytes written.
  mutating func writeTrailers(_ out: UnsafeMutablePointer<UInt8>) -> Int {
    var at = unsafe writeSizeUpdate(out)
    if statusEntry > 0 {
      unsafe out[at] = 0x80 | UInt8(62 + entries - statusEntry)
      return at + 1
    }
    if usesTable {
      entries += 1
      statusEntry = entries
      unsafe out[at] = 0x40
    } else {
      unsafe out[at] = 0
    }
    at += 1
    at += unsafe Self.writeString(Self.statusName, out + at)
    unsafe out[at] = 1
    unsafe out[at + 1] = 48
    return at + 2
  }

  /// A size update where one is due. The number of bytes written.
  mutating func writeSizeUpdate(_ out: UnsafeMutablePointer<UInt8>) -> Int {
    guard mustShrink else { return 0 }
    mustShrink = false
    contentTypeEntry = 0
    statusEntry = 0
    unsafe out[0] = 0x20
    return 1
  }

  /// The name content-type of a literal without indexing: 31 does not fit the four-bit prefix.
  static func writeContentTypeName(_ out: UnsafeMutablePointer<UInt8>) -> Int {
    unsafe out[0] = 0x0f
    unsafe out[1] = 31 - 15
    return 2
  }

  /// A string of less than 127 bytes, without Huffman coding.
  static func writeString(_ text: StaticString, _ out: UnsafeMutablePointer<UInt8>) -> Int {
    let count = text.utf8CodeUnitCount
    unsafe out[0] = UInt8(count)
    unsafe (out + 1).update(from: text.utf8Start, count: count)
    return 1 + count
  }
}

/// The fields of an answer that has headers alone, or of trailers that say more than status 0, as a
/// header block of literals without indexing. Used again for every such answer, so that a refusal costs
/// no memory either.
@safe package final class HeaderFields {
  /// One frame's worth, less a size update.
  private static let bytesMax = Defaults.frameBytesMax - 1

  private let bytes: UnsafeMutablePointer<UInt8>
  private var count = 0

  package init() { unsafe bytes = .allocate(capacity: Self.bytesMax) }

  deinit { unsafe bytes.deallocate() }

  /// Begins an answer: :status and content-type.
  package func reset(httpStatus: Int) {
    count = 0
    if httpStatus == 200 {
      unsafe bytes[0] = 0x88
      count = 1
    } else {
      // :status is name 8 of the static table.
      let status = max(100, min(999, httpStatus))
      unsafe bytes[0] = 8
      unsafe bytes[1] = 3
      unsafe bytes[2] = UInt8(48 + status / 100)
      unsafe bytes[3] = UInt8(48 + status / 10 % 10)
      unsafe bytes[4] = UInt8(48 + status % 10)
      count = 5
    }
    count += unsafe AnswerHeaders.writeContentTypeName(bytes + count)
    count += unsafe AnswerHeaders.writeString("application/grpc", bytes + count)
  }

  /// Begins trailers.
  package func resetTrailers() { count = 0 }

  /// Adds a field; its name has less than 127 bytes. One that does not fit is left out.
  package func add(_ name: StaticString, _ value: Span<UInt8>) {
    guard count + name.utf8CodeUnitCount + value.count + 8 <= Self.bytesMax else { return }
    unsafe bytes[count] = 0
    count += 1
    count += unsafe AnswerHeaders.writeString(name, bytes + count)
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
  package func add(_ name: StaticString, decimal value: UInt32) {
    var digits = InlineArray<10, UInt8>(repeating: 48)
    var first = 10
    var rest = value
    repeat {
      first -= 1
      digits[first] = 48 + UInt8(truncatingIfNeeded: rest % 10)
      rest /= 10
    } while rest > 0
    add(name, digits.span.extracting(first..<10))
  }

  var block: UnsafeBufferPointer<UInt8> { unsafe UnsafeBufferPointer(start: bytes, count: count) }

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
