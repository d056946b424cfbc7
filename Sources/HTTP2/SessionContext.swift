// What the connections of one loop share: memory, streams, the queue of events, the output buffer.
internal import CNGHTTP2

/// What happened on a stream.
package struct StreamEvent: Sendable {
  package enum Kind: UInt8, Sendable {
    /// Its header fields are new: decide what they mean (`setHead`) before anything else.
    case head
    /// Bytes came on a stream whose owner wants to hear of them before the end.
    case data
    /// The peer has sent everything.
    case end
    /// The body passed the limit: what came beyond it was dropped.
    case oversize
    /// The header list passed the limit: the fields cannot be trusted to be whole.
    case headerListTooLarge
    /// It is gone. Release it.
    case closed
  }

  package let kind: Kind
  package let stream: StreamID
}

/// One per loop thread; everything of it is confined to that thread.
@safe package final class SessionContext {
  let state: UnsafeMutablePointer<ContextState>

  /// - Parameters:
  ///   - fieldNames: the header fields of interest, five at most, in the owner's order.
  ///   - timeoutName: a field whose text is kept by itself, since it differs from call to call.
  package init(limits: HTTP2Limits, fieldNames: [StaticString], timeoutName: StaticString) {
    precondition(fieldNames.count <= 5, "at most five fields")
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(
      to: ContextState(limits: limits, fieldNames: fieldNames, timeoutName: timeoutName))
    unsafe state.pointee.memory = .allocate(capacity: 1)
    unsafe state.pointee.memory?.initialize(to: NGHTTP2Memory.make(state))
  }

  deinit { unsafe state.pointee.destroy() }

  /// The time of the turn, for budgets; monotonic nanoseconds.
  package func setNow(nanoseconds: Int64) { unsafe state.pointee.nowNanoseconds = nanoseconds }

  /// A new connection, with our SETTINGS and window in its output. nil where there is no memory.
  /// - Parameter token: what the owner calls it.
  package func open(token: UInt64) -> Session? {
    guard let memory = unsafe state.pointee.pool.allocate(MemoryLayout<SessionState>.size) else {
      return nil
    }
    let session = unsafe memory.bindMemory(to: SessionState.self, capacity: 1)
    var library: OpaquePointer?
    // Codes: 0 or NGHTTP2_ERR_NOMEM.
    guard
      unsafe nghttp2_session_server_new3(
        &library, state.pointee.callbacks, session, state.pointee.options, state.pointee.memory) == 0,
      let library = unsafe library
    else {
      unsafe state.pointee.pool.free(memory)
      return nil
    }
    let limits = unsafe state.pointee.limits
    let now = unsafe state.pointee.nowNanoseconds
    unsafe session.initialize(
      to: SessionState(
        library: library, context: state, token: token,
        resets: TokenBucket(limits.resets, nowNanoseconds: now),
        pings: TokenBucket(limits.pings, nowNanoseconds: now),
        settings: TokenBucket(limits.settings, nowNanoseconds: now),
        emptyFrames: TokenBucket(limits.emptyFrames, nowNanoseconds: now)))
    unsafe submitSettings(library, limits)
    return unsafe Session(state: session)
  }

  private func submitSettings(_ library: OpaquePointer, _ limits: HTTP2Limits) {
    let settings = [
      nghttp2_settings_entry(
        settings_id: Int32(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS.rawValue),
        value: UInt32(clamping: limits.concurrentStreams)),
      nghttp2_settings_entry(
        settings_id: Int32(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE.rawValue),
        value: UInt32(clamping: limits.streamWindowBytes)),
      nghttp2_settings_entry(
        settings_id: Int32(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE.rawValue),
        value: UInt32(clamping: limits.headerListBytesMax)),
    ]
    // Codes: 0 or NGHTTP2_ERR_NOMEM (the pool ends the process first), _INVALID_ARGUMENT (our bug).
    let flags = UInt8(NGHTTP2_FLAG_NONE.rawValue)
    _ = unsafe nghttp2_submit_settings(library, flags, settings, settings.count)
    _ = unsafe nghttp2_session_set_local_window_size(
      library, flags, 0, limits.connectionWindowBytes)
  }

  // MARK: Events

  /// Events that wait, oldest first. Handling one may append more.
  package var eventCount: Int { unsafe state.pointee.events.count }

  /// Event `index`.
  package func event(at index: Int) -> StreamEvent { unsafe state.pointee.events[index] }

  /// All events were handled.
  package func clearEvents() { unsafe state.pointee.events.count = 0 }

  // MARK: Output

  /// Bytes to write, made by `Session.fillOutput`.
  package var output: UnsafeRawBufferPointer {
    unsafe UnsafeRawBufferPointer(
      start: state.pointee.output.storage, count: state.pointee.output.count)
  }

  /// The output was written or kept elsewhere.
  package func clearOutput() { unsafe state.pointee.output.count = 0 }
}

/// The queue of events: manual memory, since it is appended to from C callbacks.
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
    let stream = unsafe StreamID(index: record.pointee.index, generation: record.pointee.generation)
    unsafe (storage + count).initialize(to: StreamEvent(kind: kind, stream: stream))
    count += 1
  }

  func destroy() { unsafe storage.deallocate() }
}

/// Bytes on their way out: one buffer a loop, used by one connection at a time.
@safe struct OutputBuffer {
  /// One write's worth: larger gains nothing on loopback (measured with the bench client at 8 x 100).
  private static let capacity = 256 * 1024
  /// A frame of the default maximum size, its header, and our trailers behind it.
  private static let frameBytesMax = 16384 + 9 + 64

  let storage = UnsafeMutablePointer<UInt8>.allocate(capacity: Self.capacity)
  var count = 0

  var hasRoomForFrame: Bool { Self.capacity - count >= Self.frameBytesMax }

  mutating func append(_ bytes: UnsafePointer<UInt8>, _ length: Int) {
    // libnghttp2's frames fit: SETTINGS_MAX_FRAME_SIZE bounds what it sends to 16 KiB (its own limit).
    precondition(length <= Self.capacity - count, "a frame is at most 16 KiB")
    unsafe (storage + count).update(from: bytes, count: length)
    count += length
  }
}

/// The context's state, at a fixed address for the C callbacks.
@safe struct ContextState {
  let limits: HTTP2Limits
  var pool = MemoryPool()
  var streams = StreamTable()
  var events = EventQueue()
  var output = OutputBuffer()
  var bufferedBytes = 0
  var nowNanoseconds: Int64 = 0
  var memory: UnsafeMutablePointer<nghttp2_mem>?
  let callbacks: OpaquePointer?
  let options: OpaquePointer?
  let constants = ResponseConstants()
  let fieldNames: UnsafeMutablePointer<StaticString>
  let fieldCount: Int
  let timeoutName: StaticString

  init(limits: HTTP2Limits, fieldNames: [StaticString], timeoutName: StaticString) {
    self.limits = limits
    self.timeoutName = timeoutName
    fieldCount = fieldNames.count
    unsafe self.fieldNames = .allocate(capacity: fieldNames.count)
    for (index, name) in fieldNames.enumerated() {
      unsafe (self.fieldNames + index).initialize(to: name)
    }
    unsafe callbacks = SessionCallbacks.make()
    var options: OpaquePointer?
    // Codes: 0 or NGHTTP2_ERR_NOMEM; without options the library's defaults hold, so stop instead.
    let code = unsafe nghttp2_option_new(&options)
    precondition(code == 0, "no memory for HTTP/2 options")
    // Closed streams are never asked for again; keeping them costs memory per connection.
    unsafe nghttp2_option_set_no_closed_streams(options, 1)
    // Our own budget counts resets by either side and lets clients cancel at their deadlines.
    unsafe nghttp2_option_set_stream_reset_rate_limit(
      options, UInt64(limits.resets.burst) * 2, UInt64(limits.resets.perSecond) * 2)
    // No RFC 7540 priority tree: answers go out in the order in which they were made.
    unsafe nghttp2_option_set_server_fallback_rfc7540_priorities(options, 0)
    unsafe self.options = options
  }

  mutating func destroy() {
    unsafe nghttp2_session_callbacks_del(callbacks)
    unsafe nghttp2_option_del(options)
    unsafe memory?.deallocate()
    streams.destroy()
    events.destroy()
    unsafe output.storage.deallocate()
    constants.destroy()
    unsafe fieldNames.deallocate()
  }
}
