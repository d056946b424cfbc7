/// Reads protobuf's wire format (protobuf.dev, "Encoding") field by field, for a client: what a field means is
/// for its caller to know, and one that it does not know is passed over.
@safe package struct WireFields {
  /// A field; what a number has no part in is empty.
  @safe package struct Field {
    /// As the .proto file says.
    package let number: Int
    /// Of a varint or a fixed number.
    package let value: UInt64
    /// Of a string or a submessage.
    package let bytes: UnsafeRawBufferPointer

    /// A string, a submessage or a packed list, also an empty one; else a number.
    package let isBytes: Bool

    /// A string; what is not UTF-8 is replaced.
    package var text: String { unsafe String(decoding: bytes, as: UTF8.self) }
    /// A number that may be below zero.
    package var signed: Int64 { Int64(bitPattern: value) }
  }

  private let bytes: UnsafeRawBufferPointer
  private var at = 0
  /// How many bytes the fields so far have taken.
  package var offset: Int { at }
  /// The bytes were no message; `next` has ended.
  package private(set) var isMalformed = false

  /// - Safety: good as long as the bytes are, and so are its fields.
  @unsafe package init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = bytes }

  /// The next field; nil at the end, and where no field begins.
  package mutating func next() -> Field? {
    if unsafe isMalformed || at == bytes.count { return nil }
    guard let tag = varint(), tag >> 3 > 0, let number = Int(exactly: tag >> 3) else {
      return malformed()
    }
    let none = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
    switch tag & 7 {
    case 0:
      guard let value = varint() else { return malformed() }
      return unsafe Field(number: number, value: value, bytes: none, isBytes: false)
    case 2:
      guard let count = varint().flatMap({ Int(exactly: $0) }), unsafe count <= bytes.count - at
      else { return malformed() }
      let start = at
      at += count
      return unsafe Field(
        number: number, value: 0, bytes: UnsafeRawBufferPointer(rebasing: bytes[start..<at]),
        isBytes: true)
    case 1, 5:
      let count = tag & 7 == 1 ? 8 : 4
      guard unsafe count <= bytes.count - at else { return malformed() }
      var value: UInt64 = 0
      for index in (at..<at + count).reversed() { value = unsafe value << 8 | UInt64(bytes[index]) }
      at += count
      return unsafe Field(number: number, value: value, bytes: none, isBytes: false)
    default: return malformed()
    }
  }

  private mutating func malformed() -> Field? {
    isMalformed = true
    return nil
  }

  private mutating func varint() -> UInt64? {
    var value: UInt64 = 0
    for shift in stride(from: UInt64(0), to: 64, by: 7) {
      guard unsafe at < bytes.count else { return nil }
      let byte = unsafe bytes[at]
      at += 1
      value |= UInt64(byte & 0x7f) << shift
      if byte < 0x80 { return value }
    }
    return nil
  }
}
