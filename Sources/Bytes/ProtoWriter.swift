/// Writes protobuf's wire format (protobuf.dev, "Encoding") in one pass. Used again for every message.
///
/// It writes into memory that somebody lends, as long as that is enough, and else into its own, which
/// grows to the longest message and stays: a message that fits is written where it is wanted.
///
/// A handle without reference counting, since it is passed about in every call: its owner frees it exactly
/// once, with `destroy`, and uses no copy of it afterwards.
@safe package struct ProtoWriter {
  private let state: UnsafeMutablePointer<State>

  @unsafe private struct State {
    /// Where it writes: its own memory or what was lent.
    var storage: UnsafeMutablePointer<UInt8>
    var capacity: Int
    var count = 0
    var own: UnsafeMutablePointer<UInt8>
    var ownCapacity: Int
  }

  /// - Parameter capacity: bytes of its own to begin with, at least 1.
  package init(capacity: Int = 4096) {
    precondition(capacity > 0)
    let own = UnsafeMutablePointer<UInt8>.allocate(capacity: capacity)
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(
      to: State(storage: own, capacity: capacity, own: own, ownCapacity: capacity))
  }

  /// Gives the memory back.
  package func destroy() {
    unsafe state.pointee.own.deallocate()
    unsafe state.deallocate()
  }

  private var storage: UnsafeMutablePointer<UInt8> { unsafe state.pointee.storage }

  /// Bytes of the message so far.
  package private(set) var count: Int {
    get { unsafe state.pointee.count }
    nonmutating set { unsafe state.pointee.count = newValue }
  }

  /// Begins a message in its own memory.
  package func reset() {
    unsafe state.pointee.storage = state.pointee.own
    unsafe state.pointee.capacity = state.pointee.ownCapacity
    count = 0
  }

  /// Begins a message in `room`, which must stay until the next message begins.
  package func reset(in room: UnsafeMutableRawBufferPointer) {
    guard let base = room.baseAddress, room.count > 0 else { return reset() }
    unsafe state.pointee.storage = base.assumingMemoryBound(to: UInt8.self)
    unsafe state.pointee.capacity = room.count
    count = 0
  }

  /// The message outgrew the room that was lent, or none was.
  package var isInOwnMemory: Bool { unsafe state.pointee.storage == state.pointee.own }

  package func withBytes<R>(_ body: (Span<UInt8>) -> R) -> R {
    let bytes = unsafe UnsafeBufferPointer(start: storage, count: count)
    return body(unsafe bytes.span)
  }

  // MARK: Fields; proto3 leaves out what is zero or empty

  package func field(_ number: Int, _ value: UInt64) {
    if value == 0 { return }
    reserve(20)
    putTag(number, wireType: 0)
    putVarint(value)
  }

  package func field(_ number: Int, _ value: Int64) { field(number, UInt64(bitPattern: value)) }

  package func field(_ number: Int, _ value: Bool) { field(number, UInt64(value ? 1 : 0)) }

  package func field(_ number: Int, _ text: StaticString) {
    let bytes = unsafe UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
    field(number, unsafe bytes.span)
  }

  package func field(_ number: Int, _ bytes: Span<UInt8>) {
    if bytes.isEmpty { return }
    reserve(20 + bytes.count)
    putTag(number, wireType: 2)
    putVarint(UInt64(bytes.count))
    put(bytes)
  }

  /// A number as decimal text.
  package func field(_ number: Int, decimal value: Int64) {
    nested(number) { text(decimal: value) }
  }

  /// A submessage, also an empty one: what `body` writes, with its length before it.
  package func nested(_ number: Int, _ body: () -> Void) {
    let start = begin(number)
    body()
    end(start)
  }

  /// A google.protobuf.Timestamp or Duration (seconds = 1, nanos = 2) of 0 or more nanoseconds; not
  /// through `nested`, whose closure would be retained in every call.
  package func field(_ number: Int, seconds nanoseconds: Int64) {
    let start = begin(number)
    field(1, nanoseconds / 1_000_000_000)
    field(2, nanoseconds % 1_000_000_000)
    end(start)
  }

  /// A field of `length` bytes that `body` fills.
  package func field(_ number: Int, length: Int, _ body: (inout MutableSpan<UInt8>) -> Void) {
    reserve(20 + length)
    putTag(number, wireType: 2)
    putVarint(UInt64(length))
    // Bytes have no invalid value, so the room counts as initialized.
    let text = unsafe UnsafeMutableBufferPointer(start: storage + count, count: length)
    var span = unsafe text.mutableSpan
    body(&span)
    count += length
  }

  /// Begins a submessage, without a closure: where its content starts, behind one byte for its length. For
  /// `end`, once what is inside has ended.
  package func begin(_ number: Int) -> Int {
    reserve(21)
    putTag(number, wireType: 2)
    count += 1
    return count
  }

  /// Ends the submessage whose content starts at `start`. Most are shorter than 128 bytes, and fit their
  /// one byte of length; others are moved, which costs less than measuring them first.
  package func end(_ start: Int) {
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

  /// Gives another number to the submessage whose content starts at `start` and has not ended. Both numbers
  /// are below 16.
  package func renumber(_ start: Int, _ number: Int) {
    precondition(number < 16 && start >= 2 && start <= count, "a tag of one byte")
    unsafe storage[start - 2] = UInt8(number << 3 | 2)
  }

  /// Takes back what was written behind the first `length` bytes.
  package func truncate(to length: Int) {
    precondition(length <= count, "more than there is")
    count = length
  }

  /// Puts other bytes in the place of those at `position`, which were written before.
  package func overwrite(at position: Int, with bytes: Span<UInt8>) {
    precondition(position >= 0 && position + bytes.count <= count, "what was not written yet")
    for index in bytes.indices { unsafe storage[position + index] = bytes[index] }
  }

  /// Adds `length` bytes, for the caller to write, all of them: where they lie until more is added.
  package func room(_ length: Int) -> UnsafeMutableRawPointer {
    reserve(length)
    let start = unsafe UnsafeMutableRawPointer(storage + count)
    count += length
    return unsafe start
  }

  // MARK: Bare text, inside `nested`

  package func text(_ text: StaticString) {
    let bytes = unsafe UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
    reserve(bytes.count)
    put(unsafe bytes.span)
  }

  package func text(_ bytes: Span<UInt8>) {
    reserve(bytes.count)
    put(bytes)
  }

  package func text(_ text: String) {
    for byte in text.utf8 { self.text(byte: byte) }
  }

  package func text(byte: UInt8) {
    reserve(1)
    putByte(byte)
  }

  package func text(decimal value: Int64) {
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
    if unsafe needed > state.pointee.ownCapacity || isInOwnMemory {
      let larger = unsafe max(needed, state.pointee.ownCapacity * 2)
      let fresh = UnsafeMutablePointer<UInt8>.allocate(capacity: larger)
      unsafe fresh.update(from: storage, count: count)
      unsafe state.pointee.own.deallocate()
      unsafe state.pointee.own = fresh
      unsafe state.pointee.ownCapacity = larger
    } else {
      unsafe state.pointee.own.update(from: storage, count: count)
    }
    unsafe state.pointee.storage = state.pointee.own
    unsafe state.pointee.capacity = state.pointee.ownCapacity
  }
}
