// Header blocks of responses, written by hand (RFC 7541). Two fields are the same in every good response:
// the owner's constant response field and its constant trailer. They are entered into the peer's dynamic
// table once per connection and are one byte each from then on. Everything else is written as literals,
// which change no table.

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
  /// Longest block that is written here: a size update, a status, a constant field.
  static let blockBytesMax = 260

  /// With a table smaller than the default no entries are made.
  private var usesTable = true
  /// The next block must begin by setting the table's size to 0 (section 4.2).
  private var mustShrink = false
  private enum Constant: Int {
    case header = 0
    case trailer
  }

  /// For each constant field the order of its entry; 0 where it was not entered. The newest entry has
  /// index 62.
  private var entered = InlineArray<2, Int>(repeating: 0)
  private var entries = 0

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
  mutating func writeSizeUpdate(_ out: UnsafeMutablePointer<UInt8>) -> Int {
    guard mustShrink else { return 0 }
    mustShrink = false
    entered = .init(repeating: 0)
    unsafe out[0] = 0x20
    return 1
  }

  private mutating func writeConstant(
    _ constant: Constant, _ field: ConstantField, _ out: UnsafeMutablePointer<UInt8>
  ) -> Int {
    let entry = entered[constant.rawValue]
    if entry > 0 {
      unsafe out[0] = 0x80 | UInt8(62 + entries - entry)
      return 1
    }
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

  /// A string of less than 127 bytes, without Huffman coding.
  static func writeString(_ text: StaticString, _ out: UnsafeMutablePointer<UInt8>) -> Int {
    let count = text.utf8CodeUnitCount
    unsafe out[0] = UInt8(count)
    unsafe (out + 1).update(from: text.utf8Start, count: count)
    return 1 + count
  }
}

/// A header block of literals without indexing, while it is made: the fields of a response that has headers
/// alone, or of trailers. Used again for every such response, so that it costs no memory.
@safe package final class HeaderFields {
  /// One frame's worth, less a size update.
  private static let bytesMax = Defaults.frameBytesMax - 1

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
