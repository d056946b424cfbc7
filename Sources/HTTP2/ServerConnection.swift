// One server-side HTTP/2 connection (RFC 9113): bytes in, events out; responses in, bytes out.
//
// Framing and HPACK are our own. A whole libnghttp2 session cost more than half of a call (callbacks per
// field, allocations per frame), for generality that a gRPC server has no use for: measured in
// docs/ARCHITECTURE.md.

/// A handle on one connection's state; trivial to copy. Close it exactly once.
@safe package struct ServerConnection {
  let state: UnsafeMutablePointer<ServerConnectionState>

  /// What the owner calls this connection.
  package var token: UInt64 { unsafe state.pointee.token }
  /// The peer's first SETTINGS have come: its preface is whole.
  package var isEstablished: Bool { unsafe state.pointee.settingsReceived }
  /// The highest stream that the peer opened; 0: none yet.
  package var lastStream: Int32 { unsafe state.pointee.lastStream }
  /// Streams that are open, but for those that only drain.
  package var streamCount: Int { unsafe state.pointee.streams.count }
  /// Bytes of responses that the connection has not taken yet.
  package var queuedBytes: Int { unsafe state.pointee.queuedBytes }

  /// Nothing is left to say, and nothing will be heard: end the connection.
  package var isFinished: Bool {
    if wantsWrite { return false }
    if unsafe state.pointee.fault != nil { return true }
    return unsafe state.pointee.refusesAfter != nil && state.pointee.streams.count == 0
  }

  /// Something waits to be written and may be written now.
  package var wantsWrite: Bool {
    unsafe state.pointee.control.count > 0 || state.pointee.toSend.first != nil
  }

  /// Hands over what was read. Events are appended to the context's queue. After a fault the goodbye
  /// is in the output, and what is received is dropped.
  package func receive(_ bytes: UnsafeRawBufferPointer) -> ConnectionFault? {
    guard unsafe state.pointee.fault == nil else { return nil }
    do throws(ConnectionFault) {
      try unsafe ServerFrameReader.read(state, bytes.bindMemory(to: UInt8.self))
      return nil
    } catch {
      fail(error)
      return error
    }
  }

  /// Ends the connection: GOAWAY says why, and what comes from now on is dropped.
  package func fail(_ fault: ConnectionFault) {
    guard unsafe state.pointee.fault == nil else { return }
    unsafe state.pointee.fault = fault
    unsafe state.pointee.sendGoAway(
      // Section 6.8: the number never rises again.
      fault.code, lastStream: state.pointee.refusesAfter ?? state.pointee.lastStream,
      debug: fault.debugText)
  }

  /// Since when the peer has been sending a frame or a header block that is not whole (monotonic
  /// nanoseconds); nil where it is not.
  package var unfinishedSinceNanoseconds: Int64? {
    let since = unsafe state.pointee.unfinishedSinceNanoseconds
    return since > 0 ? since : nil
  }

  /// Says that no new streams will be served soon (section 6.8: a GOAWAY with the largest number).
  package func announceShutdown() {
    // Section 6.8: the number never rises again.
    guard unsafe state.pointee.refusesAfter == nil else { return }
    unsafe state.pointee.sendGoAway(.noError, lastStream: .max)
  }

  /// Refuses streams from here on; those that are open are served.
  package func refuseNewStreams() {
    guard unsafe state.pointee.refusesAfter == nil else { return }
    unsafe state.pointee.refusesAfter = state.pointee.lastStream
    unsafe state.pointee.sendGoAway(.noError, lastStream: state.pointee.lastStream)
  }

  /// Asks the peer for a sign of life (section 6.7).
  package func ping() {
    unsafe state.pointee.sendControl(type: FrameType.ping, 8) {
      unsafe Wire.put(0x686f_6c64, $0)
      unsafe Wire.put(0x6661_7374, $0 + 4)
    }
  }

  /// The owner leaves bytes of streams unread until `resumeData`.
  package func pauseData() {
    unsafe state.pointee.isDataPaused = true
    // Whoever resumes it looks at the connections that have something to write: this one may have nothing.
    unsafe state.pointee.touch()
  }

  package var isDataPaused: Bool { unsafe state.pointee.isDataPaused }

  /// Gives `data` events to the streams whose owner left bytes unread.
  package func resumeData() {
    guard unsafe state.pointee.isDataPaused else { return }
    unsafe state.pointee.isDataPaused = false
    var next = unsafe state.pointee.firstStream
    while let record = unsafe next {
      unsafe next = record.pointee.next
      // A whole request without its response may be what its owner has left off.
      guard
        unsafe record.pointee.policy.isStreaming || record.pointee.flags.contains(.endReceived),
        unsafe !record.pointee.flags.contains(.responseEnds)
      else { continue }
      // One that has ended waits for its end, even with nothing left to read.
      if unsafe record.pointee.unreadCount > 0 || record.pointee.flags.contains(.endReceived) {
        unsafe state.pointee.context.pointee.events.append(.data, record)
      }
    }
  }

  /// Resets the streams whose responses have waited for the peer's window since before `nanoseconds`
  /// (monotonic), and gives their memory back. How many.
  package func resetStalledStreams(before nanoseconds: Int64) -> Int {
    var count = 0
    var next = unsafe state.pointee.firstStream
    while let record = unsafe next {
      unsafe next = record.pointee.next
      let since = unsafe record.pointee.stalledSinceNanoseconds
      guard since > 0, since < nanoseconds else { continue }
      // gRPC's clients read this as RESOURCE_EXHAUSTED.
      unsafe state.pointee.sendReset(record.pointee.number, .enhanceYourCalm)
      unsafe ServerConnectionState.closeStream(record)
      count += 1
    }
    return count
  }

  /// The most recently opened stream that is still open; `stream(after:)` leads on.
  package var firstStream: Stream? { unsafe state.pointee.firstStream.map { unsafe Stream($0) } }

  /// The stream that was opened before `stream`, which must be open.
  package func stream(after stream: Stream) -> Stream? {
    unsafe stream.record.pointee.next.map { unsafe Stream($0) }
  }

  /// What the owner decided for this connection's header blocks holds no longer.
  package func forgetHeaderBlocks() {
    let context = unsafe state.pointee.context
    unsafe state.pointee.headerCache.forget(&context.pointee.pool)
    unsafe state.pointee.resolvedCache.forget(&context.pointee.pool)
  }

  /// Ends the connection. Every stream that is open gets its `closed` event.
  package func close() {
    while let record = unsafe state.pointee.firstStream {
      unsafe ServerConnectionState.closeStream(record)
    }
    let context = unsafe state.pointee.context
    if let record = unsafe state.pointee.headerRecord { unsafe HeaderReader.release(record, state) }
    unsafe state.pointee.streams.destroy(&context.pointee.pool)
    unsafe state.pointee.draining.destroy(&context.pointee.pool)
    unsafe state.pointee.control.destroy(&context.pointee.pool)
    unsafe state.pointee.partial.destroy(&context.pointee.pool)
    unsafe state.pointee.headerBlock.destroy(&context.pointee.pool)
    unsafe state.pointee.headerCache.forget(&context.pointee.pool)
    unsafe state.pointee.resolvedCache.forget(&context.pointee.pool)
    unsafe state.pointee.unlistTouched()
    unsafe state.deinitialize(count: 1)
    unsafe context.pointee.pool.free(UnsafeMutableRawPointer(state))
  }
}

/// What a connection knows.
@safe struct ServerConnectionState: ~Copyable {
  /// A peer that provokes frames of ours but does not read them: PING and SETTINGS acknowledgements, resets.
  static let controlBytesMax = 256 * 1024

  let context: UnsafeMutablePointer<ContextState>
  let token: UInt64
  /// HPACK's decoder, with the peer's dynamic table.
  var decoder: HPACKDecoder
  var fault: ConnectionFault?

  // Receiving.
  /// Bytes of the preface that have come.
  var prefaceCount = 0
  var settingsReceived = false
  /// A frame that has not come whole.
  var partial = PoolBytes()
  /// Since when a frame or a header block is not whole; 0: none is.
  var unfinishedSinceNanoseconds: Int64 = 0
  /// Highest stream that the peer opened.
  var lastStream: Int32 = 0
  /// Streams above this are not served any more.
  var refusesAfter: Int32?
  /// The header block that is coming in, where it has several frames: its stream (0: there is none), its
  /// frames and bytes so far, the beginning of a field that is not whole, and what its fields came to.
  var headerStream: Int32 = 0
  var headerEndsStream = false
  var headerFrames = 0
  var headerBytes = 0
  var headerBlock = PoolBytes()
  var headerCheck = FieldCheck(isTrailers: false)
  /// The stream that it will open; not listed yet.
  var headerRecord: UnsafeMutablePointer<StreamRecord>?
  var headerCache = HeaderBlockCache()
  /// By their resolved bytes.
  var resolvedCache = HeaderBlockCache()
  /// What the peer may still send on the connection.
  var receiveWindow: Int64
  var resetStreams = ResetStreams()
  var draining = DrainingStreams()

  // Streams.
  var streams = StreamMap()
  var firstStream: UnsafeMutablePointer<StreamRecord>?

  // Sending.
  var toSend = SendQueue()
  /// Streams that have data, where the connection has no credit for it.
  var waitForConnection = SendQueue()
  var control = PoolBytes()
  var sendWindow: Int64 = Int64(Defaults.windowBytes)
  var peerInitialWindow: Int64 = Int64(Defaults.windowBytes)
  var encoder = HeaderEncoder()
  var queuedBytes = 0
  /// What the connection's streams take of the loop's budget for bodies and responses, in bytes.
  var heldBytes = 0
  var isDataPaused = false
  /// Listed among the context's connections that have something to write, and the next of them.
  var isTouched = false
  var nextTouched: UnsafeMutablePointer<ServerConnectionState>?

  // Abuse.
  var resets: TokenBucket
  var pings: TokenBucket
  var settings: TokenBucket
  var emptyFrames: TokenBucket
  var lateFrames: TokenBucket
  var drained: TokenBucket

  init(
    context: UnsafeMutablePointer<ContextState>, token: UInt64,
    limits: HTTP2Limits, nowNanoseconds now: Int64
  ) {
    unsafe self.context = context
    self.token = token
    decoder = HPACKDecoder(tableBytesMax: limits.headerTableBytes)
    receiveWindow = Int64(limits.connectionWindowBytes)
    resets = TokenBucket(limits.resets, nowNanoseconds: now)
    pings = TokenBucket(limits.pings, nowNanoseconds: now)
    settings = TokenBucket(limits.settings, nowNanoseconds: now)
    emptyFrames = TokenBucket(limits.emptyFrames, nowNanoseconds: now)
    lateFrames = TokenBucket(limits.lateFrames, nowNanoseconds: now)
    drained = TokenBucket(limits.drain.kibibytes, nowNanoseconds: now)
  }

  // MARK: Control frames

  /// Appends a control frame of at most 64 bytes; what does not fit the limit is dropped, and
  /// `ServerFrameReader` then cuts the peer off.
  mutating func sendControl(
    type: UInt8, flags: UInt8 = 0, stream: Int32 = 0, _ length: Int,
    _ fill: (UnsafeMutablePointer<UInt8>) -> Void
  ) {
    guard control.count <= Self.controlBytesMax,
      unsafe control.reserve(FrameHeader.length + length, &context.pointee.pool),
      let start = unsafe control.end
    else { return }
    unsafe Wire.putHeader(start, length: length, type: type, flags: flags, stream: stream)
    unsafe fill(start + FrameHeader.length)
    control.count += FrameHeader.length + length
    touch()
  }

  /// Lists the connection among those that have something to write.
  mutating func touch() {
    if isTouched { return }
    isTouched = true
    let context = unsafe context
    unsafe nextTouched = context.pointee.touched
    // Connections never move: they live in the pool.
    unsafe withUnsafeMutablePointer(to: &self) { unsafe context.pointee.touched = $0 }
  }

  /// The connection ends: it has nothing to write.
  mutating func unlistTouched() {
    guard isTouched else { return }
    let me = unsafe withUnsafeMutablePointer(to: &self) { unsafe $0 }
    if unsafe context.pointee.touched == me {
      unsafe context.pointee.touched = nextTouched
      return
    }
    var other = unsafe context.pointee.touched
    while let connection = unsafe other {
      if unsafe connection.pointee.nextTouched == me {
        unsafe connection.pointee.nextTouched = nextTouched
        return
      }
      unsafe other = connection.pointee.nextTouched
    }
  }

  mutating func sendWindowUpdate(_ increment: Int64, stream: Int32) {
    unsafe sendControl(type: FrameType.windowUpdate, stream: stream, 4) {
      unsafe Wire.put(UInt32(clamping: increment), $0)
    }
  }

  /// - Parameter debug: for whoever reads the peer's log; 56 bytes at most.
  mutating func sendGoAway(_ code: ErrorCode, lastStream: Int32, debug: StaticString = "") {
    unsafe sendControl(type: FrameType.goAway, 8 + debug.utf8CodeUnitCount) {
      unsafe Wire.put(UInt32(bitPattern: lastStream), $0)
      unsafe Wire.put(code.rawValue, $0 + 4)
      unsafe ($0 + 8).update(from: debug.utf8Start, count: debug.utf8CodeUnitCount)
    }
  }

  /// Resets a stream, open or not.
  mutating func sendReset(_ stream: Int32, _ code: ErrorCode) {
    unsafe sendControl(type: FrameType.resetStream, stream: stream, 4) {
      unsafe Wire.put(code.rawValue, $0)
    }
    resetStreams.insert(stream)
  }

  // MARK: Streams

  /// Takes a stream out of every list and tells the owner. Its record lives until the event is done
  /// with.
  static func closeStream(_ record: UnsafeMutablePointer<StreamRecord>) {
    guard unsafe !record.pointee.flags.contains(.closed),
      let state = unsafe record.pointee.connection
    else { return }
    unsafe record.pointee.flags.insert(.closed)
    unsafe state.pointee.unlistToSend(record)
    if let previous = unsafe record.pointee.previous {
      unsafe previous.pointee.next = record.pointee.next
    } else {
      unsafe state.pointee.firstStream = record.pointee.next
    }
    if let next = unsafe record.pointee.next {
      unsafe next.pointee.previous = record.pointee.previous
    }
    unsafe record.pointee.previous = nil
    unsafe record.pointee.next = nil
    unsafe state.pointee.streams.remove(record.pointee.number)
    unsafe state.pointee.queuedBytes -= record.pointee.outgoing.count - record.pointee.sentCount
    unsafe state.pointee.heldBytes -=
      record.pointee.body.heldBytes + record.pointee.outgoing.heldBytes
    unsafe state.pointee.context.pointee.events.append(.closed, record)
  }

  /// Lists a stream among those that have something to send, behind the others.
  mutating func listToSend(_ record: UnsafeMutablePointer<StreamRecord>) {
    unsafe record.pointee.flags.remove(.blocked)
    if unsafe record.pointee.sendQueue == .none { unsafe toSend.append(record, as: .toSend) }
    touch()
  }

  mutating func unlistToSend(_ record: UnsafeMutablePointer<StreamRecord>) {
    switch unsafe record.pointee.sendQueue {
    case .none: break
    case .toSend: unsafe toSend.remove(record)
    case .waitsForConnection: unsafe waitForConnection.remove(record)
    }
  }

  /// Bytes of a stream wait for the peer's window. Credit of which the stream has got nothing does not
  /// count: a peer cannot hold a thousand responses with a byte a minute.
  func noteStalled(_ record: UnsafeMutablePointer<StreamRecord>) {
    if unsafe record.pointee.stalledSinceNanoseconds != 0 { return }
    // 0 means that none wait.
    unsafe record.pointee.stalledSinceNanoseconds = max(1, context.pointee.nowNanoseconds)
  }

  /// The connection has credit again: who waited for it goes on, in the order in which they waited.
  mutating func connectionWindowOpened() {
    while let record = unsafe waitForConnection.first {
      unsafe waitForConnection.remove(record)
      unsafe toSend.append(record, as: .toSend)
    }
  }

  /// Every stream's window grew: those that waited for it go on.
  mutating func streamWindowsOpened() {
    var next = unsafe firstStream
    while let record = unsafe next {
      unsafe next = record.pointee.next
      if unsafe record.pointee.flags.contains(.blocked) { unsafe listToSend(record) }
    }
  }
}
