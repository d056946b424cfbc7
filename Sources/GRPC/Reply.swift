/// The answer to one call, or one message of a stream of answers, while it is made. One per loop,
/// used again for every call: its storage grows to the largest answer and stays.
@safe package final class Reply {
  /// What the reply is.
  package enum Kind: Equatable {
    /// A message (with status OK where it ends the call).
    case message
    /// A status without a message: grpc-message is `text`, grpc-status-details-bin is `details`.
    case failure(StatusCode)
  }

  // Manual memory: an Array would be retained and checked for uniqueness at every append. And behind a
  // constant pointer: properties of a class are checked for exclusive access at every use.
  private let state: UnsafeMutablePointer<State>

  @unsafe private struct State {
    var kind = Kind.message
    var storage: UnsafeMutablePointer<UInt8>
    var capacity: Int
    var count = 0
    /// Where the details begin in a failure; the text stands before.
    var detailsStart = 0
    var retryMilliseconds: Int32 = 0
  }

  package init(capacity: Int = 4096) {
    let capacity = max(64, capacity)
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(
      to: State(storage: .allocate(capacity: capacity), capacity: capacity))
  }

  deinit {
    unsafe storage.deallocate()
    unsafe state.deallocate()
  }

  package private(set) var kind: Kind {
    get { unsafe state.pointee.kind }
    set { unsafe state.pointee.kind = newValue }
  }

  package private(set) var count: Int {
    get { unsafe state.pointee.count }
    set { unsafe state.pointee.count = newValue }
  }

  private var detailsStart: Int {
    get { unsafe state.pointee.detailsStart }
    set { unsafe state.pointee.detailsStart = newValue }
  }

  /// How long the caller of a failed call should wait before it tries again, in milliseconds; 0: the
  /// failure says nothing of that. Sent as grpc-retry-pushback-ms, which clients obey by themselves.
  package var retryMilliseconds: Int32 {
    get { unsafe state.pointee.retryMilliseconds }
    set { unsafe state.pointee.retryMilliseconds = newValue }
  }

  private var storage: UnsafeMutablePointer<UInt8> { unsafe state.pointee.storage }

  /// Begins a new reply: an empty message.
  package func reset() {
    kind = .message
    count = 0
    detailsStart = 0
  }

  /// Begins a failure. Append the text, then call `beginDetails`, then append the details.
  package func fail(_ code: StatusCode) {
    kind = .failure(code)
    count = 0
    detailsStart = 0
    retryMilliseconds = 0
  }

  /// Ends the text of a failure: what is appended from here on are its details, a serialized
  /// google.rpc.Status.
  package func beginDetails() { detailsStart = count }

  /// Appends one byte.
  package func append(_ byte: UInt8) {
    reserve(1)
    unsafe storage[count] = byte
    count += 1
  }

  /// Appends bytes.
  package func append(_ bytes: Span<UInt8>) {
    reserve(bytes.count)
    // Room was just made; the source is checked by Span.
    unsafe bytes.withUnsafeBufferPointer { source in
      guard let base = source.baseAddress else { return }
      unsafe (storage + count).update(from: base, count: source.count)
    }
    count += bytes.count
  }

  /// Appends text.
  package func append(_ text: StaticString) {
    // A StaticString with a pointer representation (all but single scalars) lives for ever.
    let bytes = unsafe UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
    append(unsafe bytes.span)
  }

  /// Appends a decimal number.
  package func append(decimal value: Int64) {
    var magnitude = value.magnitude
    if value < 0 { append(UInt8(ascii: "-")) }
    var digits: InlineArray<20, UInt8> = .init(repeating: 48)
    var first = 20
    repeat {
      first -= 1
      digits[first] = 48 + UInt8(truncatingIfNeeded: magnitude % 10)
      magnitude /= 10
    } while magnitude > 0
    for index in first..<20 { append(digits[index]) }
  }

  /// Makes room for `length` bytes, lets `body` fill them, and appends as many as it says it wrote.
  package func append(atMost length: Int, _ body: (inout MutableSpan<UInt8>) -> Int) {
    reserve(length)
    // The tail of the storage is initialized as far as MutableSpan needs it: bytes have no invalid value.
    let tail = unsafe UnsafeMutableBufferPointer(start: storage + count, count: length)
    var span = unsafe tail.mutableSpan
    count += min(length, max(0, body(&span)))
  }

  /// The message, or the text of a failure.
  package func withContent<R>(_ body: (Span<UInt8>) -> R) -> R {
    let end = kind == .message ? count : detailsStart
    let bytes = unsafe UnsafeBufferPointer(start: storage, count: end)
    return body(unsafe bytes.span)
  }

  /// The details of a failure; empty where there are none.
  package func withDetails<R>(_ body: (Span<UInt8>) -> R) -> R {
    let bytes = unsafe UnsafeBufferPointer(
      start: storage + detailsStart, count: kind == .message ? 0 : count - detailsStart)
    return body(unsafe bytes.span)
  }

  private func reserve(_ more: Int) {
    if unsafe count + more > state.pointee.capacity { grow(to: count + more) }
  }

  private func grow(to needed: Int) {
    let larger = unsafe max(needed, state.pointee.capacity * 2)
    let fresh = UnsafeMutablePointer<UInt8>.allocate(capacity: larger)
    unsafe fresh.update(from: storage, count: count)
    unsafe storage.deallocate()
    unsafe state.pointee.storage = fresh
    unsafe state.pointee.capacity = larger
  }
}
