// Protobuf by hand, for the dozen fields that the load generator writes: no allocation per message,
// and no code in common with the server that is under test.

/// A message under construction. Its memory is kept from one message to the next.
@safe package struct MessageBuffer: ~Copyable {
  /// Owned by this value.
  private var memory: UnsafeMutablePointer<UInt8>
  private var capacity = 1024
  /// Bytes written so far.
  package private(set) var count = 0

  package init() { unsafe memory = .allocate(capacity: capacity) }

  deinit { unsafe memory.deallocate() }

  /// Begins anew.
  package mutating func removeAll() { count = 0 }

  /// Lends the bytes.
  package func withSpan<R, Failure: Error>(
    _ body: (Span<UInt8>) throws(Failure) -> R
  ) throws(Failure) -> R {
    let bytes = unsafe UnsafeBufferPointer(start: memory, count: count)
    return try body(unsafe bytes.span)
  }

  mutating func append(_ byte: UInt8) {
    if count == capacity { grow() }
    // grow has made room for one more.
    unsafe memory[count] = byte
    count += 1
  }

  private mutating func grow(toHold needed: Int = 0) {
    let new = max(2 * capacity, needed)
    let larger = UnsafeMutablePointer<UInt8>.allocate(capacity: new)
    unsafe larger.update(from: memory, count: count)
    unsafe memory.deallocate()
    unsafe memory = larger
    capacity = new
  }

  private mutating func append(_ bytes: Span<UInt8>) {
    if count + bytes.count > capacity { grow(toHold: count + bytes.count) }
    unsafe bytes.withUnsafeBufferPointer { source in
      guard let base = source.baseAddress else { return }
      // grow has made room, and the source is another buffer's.
      unsafe (memory + count).update(from: base, count: source.count)
    }
    count += bytes.count
  }

  mutating func append(_ bytes: [UInt8]) {
    for byte in bytes { append(byte) }
  }

  mutating func appendVarint(_ value: UInt64) {
    var rest = value
    while rest >= 0x80 {
      append(UInt8(truncatingIfNeeded: rest) | 0x80)
      rest >>= 7
    }
    append(UInt8(truncatingIfNeeded: rest))
  }

  private mutating func appendTag(_ number: UInt8, _ wireType: UInt8) {
    if number < 16 { return append(number << 3 | wireType) }
    appendVarint(UInt64(number) << 3 | UInt64(wireType))
  }

  /// A varint field (wire type 0).
  mutating func appendField(_ number: UInt8, varint value: UInt64) {
    appendTag(number, 0)
    appendVarint(value)
  }

  /// A length-delimited field (wire type 2).
  mutating func appendField(_ number: UInt8, bytes: [UInt8]) {
    appendTag(number, 2)
    appendVarint(UInt64(bytes.count))
    append(bytes)
  }

  /// A length-delimited field (wire type 2), of any length.
  package mutating func appendField(_ number: UInt8, message: borrowing MessageBuffer) {
    appendTag(number, 2)
    appendVarint(UInt64(message.count))
    message.withSpan { append($0) }
  }

  /// Begins a length-delimited field; what follows until `endField` is its content.
  mutating func beginField(_ number: UInt8) -> Int {
    appendTag(number, 2)
    append(0)
    return count
  }

  /// Ends the field that began at `start`.
  mutating func endField(_ start: Int) {
    let length = count - start
    var more = 0
    while length >> (7 * (more + 1)) > 0 { more += 1 }
    if more > 0 {
      // One byte was kept for the length, and it takes more: the content moves.
      for _ in 0..<more { append(0) }
      // Within what has been written; the two overlap.
      unsafe (memory + start + more).update(from: memory + start, count: length)
    }
    for index in 0...more {
      // The length stands right before the content.
      let rest = UInt8(truncatingIfNeeded: length >> (7 * index)) & 0x7f
      unsafe memory[start - 1 + index] = index < more ? rest | 0x80 : rest
    }
  }

  /// `count` decimal digits of `value`, with leading zeros.
  mutating func appendDecimal(_ value: UInt32, digits: Int) {
    var divisor: UInt32 = 1
    for _ in 1..<digits { divisor *= 10 }
    while divisor > 0 {
      append(UInt8(ascii: "0") + UInt8(value / divisor % 10))
      divisor /= 10
    }
  }

  /// `digits` lower-case hexadecimal digits of `value`, with leading zeros.
  mutating func appendHexadecimal(_ value: UInt64, digits: Int) {
    for index in (0..<digits).reversed() {
      let digit = UInt8(truncatingIfNeeded: value >> UInt64(4 * index)) & 0xf
      append(digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") + digit - 10)
    }
  }
}

/// Reads the fields of one message, front to back. What is not protobuf sets `isMalformed`.
package struct MessageReader {
  package struct Field {
    package let number: UInt64
    /// The value of a varint; 0 for other wire types.
    package let varint: UInt64
    /// Where the content of a length-delimited field lies; empty for other wire types.
    package let content: Range<Int>
    package let isBytes: Bool
  }

  private var at: Int
  private let end: Int
  package private(set) var isMalformed = false

  /// Reads the part `range` of the bytes that every `next` is given.
  package init(_ range: Range<Int>) {
    at = range.lowerBound
    end = range.upperBound
  }

  /// The next field, or nil at the end and where it is malformed.
  package mutating func next(in bytes: Span<UInt8>) -> Field? {
    guard at < end, !isMalformed else { return nil }
    guard let tag = varint(in: bytes), tag >> 3 > 0 else { return fail() }
    switch tag & 7 {
    case 0:
      guard let value = varint(in: bytes) else { return fail() }
      return Field(number: tag >> 3, varint: value, content: 0..<0, isBytes: false)
    case 1: return skip(8, tag)
    case 2:
      guard let length = varint(in: bytes), length <= UInt64(end - at) else { return fail() }
      let start = at
      at += Int(length)
      return Field(number: tag >> 3, varint: 0, content: start..<at, isBytes: true)
    case 5: return skip(4, tag)
    default: return fail()
    }
  }

  private mutating func fail() -> Field? {
    isMalformed = true
    return nil
  }

  private mutating func skip(_ count: Int, _ tag: UInt64) -> Field? {
    guard count <= end - at else { return fail() }
    at += count
    return Field(number: tag >> 3, varint: 0, content: 0..<0, isBytes: false)
  }

  /// The next of packed varints, or nil at the end and where it is malformed.
  mutating func nextVarint(in bytes: Span<UInt8>) -> UInt64? {
    guard at < end, !isMalformed else { return nil }
    guard let value = varint(in: bytes) else {
      isMalformed = true
      return nil
    }
    return value
  }

  private mutating func varint(in bytes: Span<UInt8>) -> UInt64? {
    var value: UInt64 = 0
    var shift: UInt64 = 0
    while at < end, at < bytes.count, shift < 64 {
      let byte = bytes[at]
      at += 1
      value |= UInt64(byte & 0x7f) << shift
      if byte < 0x80 { return value }
      shift += 7
    }
    return nil
  }
}
