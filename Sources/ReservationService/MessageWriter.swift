internal import Posix
internal import StockStore

/// Writes protobuf's wire format (protobuf.dev, "Encoding") straight into one buffer, used again for
/// every answer. protobuf-c would want a tree of C structs first, then two passes over it.
@safe final class MessageWriter {
  // Behind a constant pointer: properties of a class are checked for exclusive access at every use.
  private let state: UnsafeMutablePointer<State>

  @unsafe private struct State {
    var storage: UnsafeMutablePointer<UInt8>
    var capacity: Int
    var count = 0
  }

  init(capacity: Int = 4096) {
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(
      to: State(storage: .allocate(capacity: capacity), capacity: capacity))
  }

  deinit {
    unsafe storage.deallocate()
    unsafe state.deallocate()
  }

  private var storage: UnsafeMutablePointer<UInt8> { unsafe state.pointee.storage }

  private(set) var count: Int {
    get { unsafe state.pointee.count }
    set { unsafe state.pointee.count = newValue }
  }

  func reset() { count = 0 }

  func withBytes<R>(_ body: (Span<UInt8>) -> R) -> R {
    let bytes = unsafe UnsafeBufferPointer(start: storage, count: count)
    return body(unsafe bytes.span)
  }

  // MARK: Fields; proto3 leaves out what is zero or empty

  func field(_ number: Int, _ value: UInt64) {
    if value == 0 { return }
    reserve(20)
    putTag(number, wireType: 0)
    putVarint(value)
  }

  func field(_ number: Int, _ value: Int64) { field(number, UInt64(bitPattern: value)) }

  func field(_ number: Int, _ value: Bool) { field(number, UInt64(value ? 1 : 0)) }

  func field(_ number: Int, _ text: StaticString) {
    let bytes = unsafe UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
    field(number, unsafe bytes.span)
  }

  func field(_ number: Int, _ bytes: BorrowedBytes) {
    let bytes = unsafe bytes.pointer.bindMemory(to: UInt8.self)
    field(number, unsafe bytes.span)
  }

  func field(_ number: Int, _ bytes: Span<UInt8>) {
    if bytes.isEmpty { return }
    reserve(20 + bytes.count)
    putTag(number, wireType: 2)
    putVarint(UInt64(bytes.count))
    put(bytes)
  }

  func field(_ number: Int, _ id: ReservationID) {
    reserve(20 + ReservationID.textLength)
    putTag(number, wireType: 2)
    putVarint(UInt64(ReservationID.textLength))
    let text = unsafe UnsafeMutableBufferPointer(
      start: storage + count, count: ReservationID.textLength)
    var span = unsafe text.mutableSpan
    id.write(to: &span)
    count += ReservationID.textLength
  }

  /// A number as decimal text.
  func field(_ number: Int, decimal value: Int64) {
    nested(number) { text(decimal: value) }
  }

  /// A submessage, also an empty one: what `body` writes, with its length before it.
  func nested(_ number: Int, _ body: () -> Void) {
    let start = begin(number)
    body()
    end(start)
  }

  /// A google.protobuf.Timestamp; not through `nested`, whose closure would be retained in every
  /// Reserve. The store's times are after 1970.
  func field(_ number: Int, _ time: Timestamp) {
    let start = begin(number)
    field(1, time.nanoseconds / 1_000_000_000)
    field(2, time.nanoseconds % 1_000_000_000)
    end(start)
  }

  /// A google.protobuf.Duration of 0 or more nanoseconds.
  func duration(_ number: Int, nanoseconds: Int64) {
    let start = begin(number)
    field(1, nanoseconds / 1_000_000_000)
    field(2, nanoseconds % 1_000_000_000)
    end(start)
  }

  /// Begins a submessage: where its content starts, behind one byte for its length.
  private func begin(_ number: Int) -> Int {
    reserve(21)
    putTag(number, wireType: 2)
    count += 1
    return count
  }

  /// Ends the submessage whose content starts at `start`. Most are shorter than 128 bytes, and fit their
  /// one byte of length; others are moved, which costs less than measuring them first.
  private func end(_ start: Int) {
    let length = count - start
    if length < 0x80 {
      unsafe storage[start - 1] = UInt8(truncatingIfNeeded: length)
      return
    }
    reserve(10)
    let shift = Self.varintLength(UInt64(length)) - 1
    unsafe (storage + start + shift).update(from: storage + start, count: length)
    count = start - 1
    putVarint(UInt64(length))
    count += length
  }

  // MARK: Bare text, inside `nested`

  func text(_ text: StaticString) {
    let bytes = unsafe UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
    reserve(bytes.count)
    put(unsafe bytes.span)
  }

  func text(_ bytes: Span<UInt8>) {
    reserve(bytes.count)
    put(bytes)
  }

  func text(_ text: String) {
    for byte in text.utf8 { self.text(byte: byte) }
  }

  func text(byte: UInt8) {
    reserve(1)
    putByte(byte)
  }

  func text(decimal value: Int64) {
    reserve(20)
    if value < 0 { putByte(UInt8(ascii: "-")) }
    var magnitude = value.magnitude
    var digits = InlineArray<20, UInt8>(repeating: 48)
    var first = 20
    repeat {
      first -= 1
      digits[first] = 48 + UInt8(truncatingIfNeeded: magnitude % 10)
      magnitude /= 10
    } while magnitude > 0
    put(digits.span.extracting(first..<20))
  }

  // MARK: Bytes, where room was made

  private func putTag(_ number: Int, wireType: Int) { putVarint(UInt64(number << 3 | wireType)) }

  @inline(__always)
  private func putVarint(_ value: UInt64) {
    if value < 0x80 { return putByte(UInt8(truncatingIfNeeded: value)) }
    putLongVarint(value)
  }

  private func putLongVarint(_ value: UInt64) {
    var value = value
    while value > 0x7f {
      putByte(UInt8(truncatingIfNeeded: value) | 0x80)
      value >>= 7
    }
    putByte(UInt8(truncatingIfNeeded: value))
  }

  private func putByte(_ byte: UInt8) {
    unsafe storage[count] = byte
    count += 1
  }

  private func put(_ bytes: Span<UInt8>) {
    unsafe bytes.withUnsafeBufferPointer { source in
      guard let base = source.baseAddress else { return }
      unsafe (storage + count).update(from: base, count: source.count)
    }
    count += bytes.count
  }

  private static func varintLength(_ value: UInt64) -> Int {
    max(1, (UInt64.bitWidth - value.leadingZeroBitCount + 6) / 7)
  }

  private func reserve(_ more: Int) {
    if unsafe count + more > state.pointee.capacity { grow(count + more) }
  }

  private func grow(_ needed: Int) {
    let larger = unsafe max(needed, state.pointee.capacity * 2)
    let fresh = UnsafeMutablePointer<UInt8>.allocate(capacity: larger)
    unsafe fresh.update(from: storage, count: count)
    unsafe storage.deallocate()
    unsafe state.pointee.storage = fresh
    unsafe state.pointee.capacity = larger
  }
}
