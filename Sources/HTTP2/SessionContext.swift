// What the connections of one loop share: memory, streams, the queue of events, the output buffer.

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
  package func open(token: UInt64) -> Session? {
    guard let memory = unsafe state.pointee.pool.allocate(MemoryLayout<SessionState>.size) else {
      return nil
    }
    let session = unsafe memory.bindMemory(to: SessionState.self, capacity: 1)
    unsafe session.initialize(
      to: SessionState(
        context: state, token: token, limits: state.pointee.limits,
        nowNanoseconds: state.pointee.nowNanoseconds))
    unsafe sendPreface(session)
    return unsafe Session(state: session)
  }

  /// The server's side of the preface (section 3.4): SETTINGS, and the connection's window.
  private func sendPreface(_ session: UnsafeMutablePointer<SessionState>) {
    let limits = unsafe state.pointee.limits
    let settings: [(UInt16, UInt32)] = [
      (Setting.headerTableSize, UInt32(clamping: limits.headerTableBytes)),
      (Setting.maxConcurrentStreams, UInt32(clamping: limits.concurrentStreams)),
      (Setting.initialWindowSize, UInt32(clamping: limits.streamWindowBytes)),
      (Setting.maxHeaderListSize, UInt32(clamping: limits.headerListBytesMax)),
    ]
    unsafe session.pointee.sendControl(type: FrameType.settings, settings.count * 6) { out in
      for (index, (name, value)) in settings.enumerated() {
        unsafe out[index * 6] = UInt8(truncatingIfNeeded: name >> 8)
        unsafe out[index * 6 + 1] = UInt8(truncatingIfNeeded: name)
        unsafe Wire.put(value, out + index * 6 + 2)
      }
    }
    let more = Int64(limits.connectionWindowBytes) - Int64(Defaults.windowBytes)
    if more > 0 { unsafe session.pointee.sendWindowUpdate(more, stream: 0) }
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
    let stream = unsafe StreamID(index: record.pointee.index, generation: record.pointee.generation)
    unsafe (storage + count).initialize(to: StreamEvent(kind: kind, stream: stream))
    count += 1
  }

  func destroy() { unsafe storage.deallocate() }
}

/// Bytes on their way out: one buffer a loop, used by one connection at a time.
@safe struct OutputBuffer {
  /// One write's worth.
  private static let capacity = 256 * 1024
  /// The longest that one stream writes at once: HEADERS, a DATA frame, and trailers.
  private static let frameBytesMax =
    Defaults.frameBytesMax + 3 * FrameHeader.length + 2 * AnswerHeaders.blockBytesMax

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

/// The context's state, at a fixed address, since sessions point at it.
@safe struct ContextState: ~Copyable {
  let limits: HTTP2Limits
  var pool = MemoryPool()
  var streams = StreamTable()
  var events = EventQueue()
  var output = OutputBuffer()
  var bufferedBytes = 0
  var nowNanoseconds: Int64 = 0
  /// For the text of fields while they are decoded.
  var scratch: HPACKScratch
  let fieldNames: UnsafeMutablePointer<StaticString>
  let fieldCount: Int
  let timeoutName: StaticString

  init(limits: HTTP2Limits, fieldNames: [StaticString], timeoutName: StaticString) {
    self.limits = limits
    self.timeoutName = timeoutName
    scratch = HPACKScratch(capacity: max(limits.headerListBytesMax, limits.headerTableBytes))
    fieldCount = fieldNames.count
    unsafe self.fieldNames = .allocate(capacity: fieldNames.count)
    for (index, name) in fieldNames.enumerated() {
      unsafe (self.fieldNames + index).initialize(to: name)
    }
  }

  mutating func destroy() {
    streams.destroy()
    events.destroy()
    unsafe output.storage.deallocate()
    unsafe fieldNames.deallocate()
  }

  /// Makes room for `more` bytes; false where the loop's budget is spent. A refusal is exempt from it:
  /// it is what a spent budget is answered with.
  mutating func reserve(
    _ more: Int, in bytes: inout StreamBytes, isRefusal: Bool = false
  ) -> Bool {
    let needed = bytes.count + more
    if needed <= bytes.capacity { return true }
    let larger = max(needed, bytes.capacity * 2)
    let charge = bytes.isInline ? larger : larger - bytes.capacity
    guard isRefusal || bufferedBytes + charge <= limits.bufferedBytesMax,
      let block = unsafe pool.allocate(larger)
    else { return false }
    let start = unsafe block.bindMemory(to: UInt8.self, capacity: larger)
    unsafe start.update(from: bytes.start, count: bytes.count)
    if !bytes.isInline { unsafe pool.free(UnsafeMutableRawPointer(bytes.start)) }
    unsafe bytes.start = start
    bytes.capacity = larger
    bufferedBytes += charge
    return true
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
