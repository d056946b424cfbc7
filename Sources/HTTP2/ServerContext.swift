// What the connections of one loop share: memory, streams, the queue of events, the output buffer.
internal import Bytes

/// What happened on a stream.
package struct StreamEvent {
  package enum Kind: UInt8, Sendable {
    /// Its header fields are new: accept the stream, or reject it, before anything else.
    case head
    /// Bytes came, as the stream's policy asks; or bytes were dropped (`Stream.isOversize`).
    case data
    /// The peer has sent everything.
    case end
    /// Of a stream that streams its response: half of what it had queued is out.
    case writable
    /// The header list passed the limit: the fields cannot be trusted to be whole.
    case headerListTooLarge
    /// It is gone. Release it.
    case closed
  }

  package let kind: Kind
  package let stream: Stream
}

/// One per loop thread; everything of it is confined to that thread.
@safe package final class ServerContext {
  let state: UnsafeMutablePointer<ContextState>

  /// - Parameters:
  ///   - captured: the request header fields that the owner wants to see, nine at most.
  ///   - changing: which of them has another value in every call; where it is the only one that is new, it
  ///     is there for the owner in the stream of a known header block too.
  ///   - header: a field that stands in every response, beside :status.
  ///   - trailer: the trailer of every response that ends without others.
  package init(
    limits: HTTP2Limits, captured: [StaticString], changing: Int? = nil, header: ConstantField,
    trailer: ConstantField
  ) {
    precondition(captured.count <= 9, "at most nine fields")
    if let changing { precondition(captured.indices.contains(changing), "a captured field") }
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(
      to: ContextState(
        limits: limits, captured: captured, changing: changing, header: header, trailer: trailer))
  }

  // The pool's memory stays: a context lives as long as its thread, and threads end with the process.
  deinit {
    unsafe state.pointee.destroy()
    unsafe state.deinitialize(count: 1)
    unsafe state.deallocate()
  }

  /// The time of the turn, for budgets; monotonic nanoseconds.
  package func setNow(nanoseconds: Int64) { unsafe state.pointee.nowNanoseconds = nanoseconds }

  /// A new connection, with our SETTINGS and window in its output. nil where there is no memory.
  /// - Parameter token: what the owner calls it.
  package func open(token: UInt64) -> ServerConnection? {
    guard let memory = unsafe state.pointee.pool.allocate(MemoryLayout<ServerConnectionState>.size)
    else {
      return nil
    }
    let connection = unsafe memory.bindMemory(to: ServerConnectionState.self, capacity: 1)
    unsafe connection.initialize(
      to: ServerConnectionState(
        context: state, token: token, limits: state.pointee.limits,
        nowNanoseconds: state.pointee.nowNanoseconds))
    unsafe sendPreface(connection)
    return unsafe ServerConnection(state: connection)
  }

  /// The server's side of the preface (section 3.4): SETTINGS, and the connection's window.
  private func sendPreface(_ connection: UnsafeMutablePointer<ServerConnectionState>) {
    let limits = unsafe state.pointee.limits
    let settings: [(UInt16, UInt32)] = [
      (Setting.headerTableSize, UInt32(clamping: limits.headerTableBytes)),
      (Setting.maxConcurrentStreams, UInt32(clamping: limits.concurrentStreams)),
      (Setting.initialWindowSize, UInt32(clamping: limits.streamWindowBytes)),
      (Setting.maxHeaderListSize, UInt32(clamping: limits.headerListBytesMax)),
    ]
    unsafe connection.pointee.sendControl(type: FrameType.settings, settings.count * 6) { out in
      for (index, (name, value)) in settings.enumerated() {
        unsafe out[index * 6] = UInt8(truncatingIfNeeded: name >> 8)
        unsafe out[index * 6 + 1] = UInt8(truncatingIfNeeded: name)
        unsafe Wire.put(value, out + index * 6 + 2)
      }
    }
    let more = Int64(limits.connectionWindowBytes) - Int64(Defaults.windowBytes)
    if more > 0 { unsafe connection.pointee.sendWindowUpdate(more, stream: 0) }
  }

  // MARK: Events

  /// Events that wait, oldest first. Handling one may append more.
  package var eventCount: Int { unsafe state.pointee.events.count }

  /// Event `index`.
  package func event(at index: Int) -> StreamEvent { unsafe state.pointee.events[index] }

  /// All events were handled.
  package func clearEvents() { unsafe state.pointee.events.count = 0 }

  /// Calls `body` with the token of every connection that got something to write since the last call.
  package func takeTouched(_ body: (UInt64) -> Void) {
    while let connection = unsafe state.pointee.touched {
      unsafe state.pointee.touched = connection.pointee.nextTouched
      unsafe connection.pointee.nextTouched = nil
      unsafe connection.pointee.isTouched = false
      body(unsafe connection.pointee.token)
    }
  }

  /// What bodies and responses take beside the inline bytes of their streams.
  package var bufferedBytes: Int { unsafe state.pointee.bufferedBytes }

  // MARK: Output

  /// Bytes to write, made by `ServerConnection.fillOutput`.
  package var output: UnsafeRawBufferPointer {
    unsafe UnsafeRawBufferPointer(
      start: state.pointee.output.storage, count: state.pointee.output.count)
  }

  /// The output was written or kept elsewhere.
  package func clearOutput() { unsafe state.pointee.output.count = 0 }
}

/// The queue of events: manual memory, since an Array would be retained at every look.
@safe struct EventQueue {
  private var storage: UnsafeMutablePointer<StreamEvent>
  private var capacity = 1024
  fileprivate(set) var count = 0

  init() { unsafe storage = .allocate(capacity: capacity) }

  subscript(index: Int) -> StreamEvent {
    precondition(index >= 0 && index < count, "no such event")
    return unsafe storage[index]
  }

  mutating func append(_ kind: StreamEvent.Kind, _ record: UnsafeMutablePointer<StreamRecord>) {
    if count == capacity {
      let larger = UnsafeMutablePointer<StreamEvent>.allocate(capacity: capacity * 2)
      unsafe larger.moveInitialize(from: storage, count: count)
      unsafe storage.deallocate()
      unsafe storage = larger
      capacity *= 2
    }
    unsafe (storage + count).initialize(to: StreamEvent(kind: kind, stream: Stream(record)))
    count += 1
  }

  func destroy() { unsafe storage.deallocate() }
}

/// Bytes on their way out: one buffer a loop, used by one connection at a time.
@safe struct OutputBuffer {
  /// One write's worth.
  private static let capacity = 256 * 1024
  /// Header fields of a response beside the constant one.
  static let responseHeadersBytesMax = 512
  /// The longest that one stream writes at once: HEADERS, a DATA frame, and trailers.
  private static let frameBytesMax =
    Defaults.frameBytesMax + 3 * FrameHeader.length + 2 * HeaderEncoder.blockBytesMax
    + responseHeadersBytesMax

  let storage: UnsafeMutablePointer<UInt8>
  var count = 0

  init() { unsafe storage = .allocate(capacity: Self.capacity) }

  var room: Int { Self.capacity - count }
  var hasRoomForFrame: Bool { room >= Self.frameBytesMax }
  var end: UnsafeMutablePointer<UInt8> { unsafe storage + count }

  mutating func append(_ bytes: UnsafePointer<UInt8>, _ length: Int) {
    precondition(length <= room, "the caller looks at the room first")
    unsafe end.update(from: bytes, count: length)
    count += length
  }
}

/// The context's state, at a fixed address, since connections point at it.
@safe struct ContextState: ~Copyable {
  let limits: HTTP2Limits
  var pool = MemoryPool()
  var streams = StreamTable()
  var events = EventQueue()
  var output = OutputBuffer()
  var bufferedBytes = 0
  var nowNanoseconds: Int64 = 0
  /// Connections that have something to write, as a list through them.
  var touched: UnsafeMutablePointer<ServerConnectionState>?
  let captured: UnsafeMutablePointer<StaticString>
  let capturedCount: Int
  let constantHeader: ConstantField
  let constantTrailer: ConstantField
  /// The captured field that has another value in every call.
  let changingField: Int?
  /// For the text of fields while they are decoded.
  var scratch: HPACKScratch
  var resolvedKey = ResolvedKey()
  /// Of the identities of fields.
  let fieldKey = SipKey(
    low: .random(in: 0...UInt64.max), high: .random(in: 0...UInt64.max))

  init(
    limits: HTTP2Limits, captured: [StaticString], changing: Int?, header: ConstantField,
    trailer: ConstantField
  ) {
    self.limits = limits
    changingField = changing
    scratch = HPACKScratch(capacity: max(limits.headerListBytesMax, limits.headerTableBytes))
    constantHeader = header
    constantTrailer = trailer
    capturedCount = captured.count
    unsafe self.captured = .allocate(capacity: captured.count)
    for (index, name) in captured.enumerated() {
      unsafe (self.captured + index).initialize(to: name)
    }
  }

  mutating func destroy() {
    streams.destroy()
    events.destroy()
    unsafe output.storage.deallocate()
    unsafe captured.deallocate()
    resolvedKey.destroy()
  }

  /// Makes room for `more` bytes of a stream of `connection`; false where the connection holds its share
  /// of the loop's budget. A rejection is exempt from it: it is what a spent budget is answered with.
  mutating func reserve(
    _ more: Int, in bytes: inout StreamBytes,
    of connection: UnsafeMutablePointer<ServerConnectionState>,
    isRefusal: Bool = false
  ) -> Bool {
    let needed = bytes.count + more
    if needed <= bytes.capacity { return true }
    let larger = max(needed, bytes.capacity * 2)
    let charge = bytes.isInline ? larger : larger - bytes.capacity
    guard isRefusal || mayHold(unsafe connection.pointee.heldBytes + charge),
      let block = unsafe pool.allocate(larger)
    else { return false }
    let start = unsafe block.bindMemory(to: UInt8.self, capacity: larger)
    unsafe start.update(from: bytes.start, count: bytes.count)
    if !bytes.isInline { unsafe pool.free(UnsafeMutableRawPointer(bytes.start)) }
    unsafe bytes.start = start
    bytes.capacity = larger
    bufferedBytes += charge
    unsafe connection.pointee.heldBytes += charge
    return true
  }

  /// A connection may hold half of what nobody holds. One that is alone then gets a third of the budget,
  /// each of a hundred that take all they can a 102nd, and something is always left for one that comes
  /// (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998).
  private func mayHold(_ bytes: Int) -> Bool {
    bytes <= (limits.bufferedBytesMax - bufferedBytes) / 2
  }

  /// Back to the record's own bytes, empty.
  mutating func reset(_ bytes: inout StreamBytes) {
    bytes.count = 0
    if bytes.isInline { return }
    bufferedBytes -= bytes.capacity
    unsafe pool.free(UnsafeMutableRawPointer(bytes.start))
    unsafe bytes.start = bytes.inline
    bytes.capacity = bytes.inlineCapacity
  }
}
