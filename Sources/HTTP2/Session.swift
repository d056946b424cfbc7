// One server-side HTTP/2 connection: bytes in, events out; answers in, bytes out. libnghttp2 does the
// protocol (RFC 9113, 9218, 7541); this file owns what it must not do from its callbacks.
internal import CNGHTTP2

/// A handle on one connection's state; trivial to copy. Close it exactly once.
@safe package struct Session {
  let state: UnsafeMutablePointer<SessionState>

  /// What the owner calls this connection.
  package var token: UInt64 { unsafe state.pointee.token }
  /// The peer's first SETTINGS have come: its preface is whole.
  package var isEstablished: Bool { unsafe state.pointee.settingsReceived }
  /// Streams that are open.
  package var streamCount: Int { unsafe state.pointee.streamCount }
  /// Bytes of answers that the connection has not taken yet.
  package var queuedBytes: Int { unsafe state.pointee.queuedBytes }
  /// Neither side has anything left to say: close the connection.
  package var isFinished: Bool {
    unsafe nghttp2_session_want_read(state.pointee.library) == 0
      && nghttp2_session_want_write(state.pointee.library) == 0
  }
  /// Something waits to be written and may be written now.
  package var wantsWrite: Bool {
    unsafe nghttp2_session_want_write(state.pointee.library) != 0
  }

  /// Hands over what was read. Events are appended to the context's queue. After a fault the goodbye
  /// is in the output; nothing more may be received.
  package func receive(_ bytes: UnsafeRawBufferPointer) -> ConnectionFault? {
    let base = unsafe bytes.bindMemory(to: UInt8.self).baseAddress
    // Codes: the number of bytes (always all of them), or NGHTTP2_ERR_NOMEM, _CALLBACK_FAILURE (a
    // budget was spent), _BAD_CLIENT_MAGIC, _FLOODED. Connection errors are answered by GOAWAY and
    // show in want_read.
    let code = unsafe nghttp2_session_mem_recv(state.pointee.library, base, bytes.count)
    if code >= 0 { return nil }
    let fault = unsafe state.pointee.fault ?? .brokenProtocol(Int32(clamping: code))
    let reason =
      unsafe state.pointee.fault == nil ? NGHTTP2_PROTOCOL_ERROR : NGHTTP2_ENHANCE_YOUR_CALM
    // Codes: 0 or NGHTTP2_ERR_NOMEM, and then there is no goodbye.
    _ = unsafe nghttp2_session_terminate_session(state.pointee.library, reason.rawValue)
    return fault
  }

  /// Moves frames to the context's output until it is full or there is nothing to send. False where
  /// the connection cannot go on.
  package func fillOutput() -> Bool {
    let context = unsafe state.pointee.context
    while unsafe context.pointee.output.hasRoomForFrame {
      var frame: UnsafePointer<UInt8>?
      // Codes: bytes, 0 for nothing more, NGHTTP2_ERR_NOMEM, _CALLBACK_FAILURE (not ours).
      let length = unsafe nghttp2_session_mem_send(state.pointee.library, &frame)
      if length < 0 { return false }
      guard length > 0, let frame = unsafe frame else {
        if unsafe !state.pointee.hasStreamsToStop { return true }
        stopPeers()
        continue
      }
      unsafe context.pointee.output.append(frame, length)
    }
    return true
  }

  /// Resets the streams whose answer went out before their request was whole. Submitted any earlier,
  /// the reset would keep libnghttp2 from sending the answer.
  private func stopPeers() {
    unsafe state.pointee.hasStreamsToStop = false
    var next = unsafe state.pointee.firstStream
    while let record = unsafe next {
      unsafe next = record.pointee.next
      guard unsafe record.pointee.flags.contains(.stopsPeer) else { continue }
      // RFC 9113 section 8.1: NO_ERROR asks the peer to stop sending without ill will.
      // Codes: 0, NGHTTP2_ERR_NOMEM, _INVALID_ARGUMENT (stream 0).
      _ = unsafe nghttp2_submit_rst_stream(
        state.pointee.library, UInt8(NGHTTP2_FLAG_NONE.rawValue), record.pointee.number,
        NGHTTP2_NO_ERROR.rawValue)
    }
  }

  /// Says that no new streams will be served soon (RFC 9113 section 6.8: GOAWAY with the largest id).
  package func announceShutdown() {
    // Codes: 0, NGHTTP2_ERR_NOMEM: the peer then learns of it by `refuseNewStreams`.
    _ = unsafe nghttp2_submit_shutdown_notice(state.pointee.library)
  }

  /// Refuses streams from here on; those that are open are served.
  package func refuseNewStreams() {
    let last = unsafe nghttp2_session_get_last_proc_stream_id(state.pointee.library)
    // Codes: 0, NGHTTP2_ERR_NOMEM, _INVALID_ARGUMENT (not with an id of the session's own).
    _ = unsafe nghttp2_submit_goaway(
      state.pointee.library, UInt8(NGHTTP2_FLAG_NONE.rawValue), last, NGHTTP2_NO_ERROR.rawValue,
      nil, 0)
  }

  /// The name of the most recently opened stream that is still open; `stream(after:)` leads on.
  package var firstStream: StreamID? { unsafe Self.name(unsafe state.pointee.firstStream) }

  /// The stream that was opened before `stream` and is still open.
  package func stream(after stream: StreamID) -> StreamID? {
    guard let record = unsafe state.pointee.context.pointee.streams.find(stream) else { return nil }
    return unsafe Self.name(unsafe record.pointee.next)
  }

  private static func name(_ record: UnsafeMutablePointer<StreamRecord>?) -> StreamID? {
    guard let record = unsafe record else { return nil }
    return unsafe StreamID(index: record.pointee.index, generation: record.pointee.generation)
  }

  /// Ends the connection. Every stream that is open gets its `closed` event.
  package func close() {
    unsafe nghttp2_session_del(state.pointee.library)
    let context = unsafe state.pointee.context
    while let record = unsafe state.pointee.firstStream {
      unsafe SessionState.markClosed(record)
    }
    for index in 0..<5 {
      unsafe SessionState.drop(state.pointee.memo[index])
      unsafe SessionState.drop(state.pointee.incoming[index])
    }
    unsafe state.deinitialize(count: 1)
    unsafe context.pointee.pool.free(UnsafeMutableRawPointer(state))
  }
}

/// What a connection knows. libnghttp2 holds its address as user data.
@safe struct SessionState {
  let library: OpaquePointer
  let context: UnsafeMutablePointer<ContextState>
  let token: UInt64
  var firstStream: UnsafeMutablePointer<StreamRecord>?
  var streamCount = 0
  var queuedBytes = 0
  var hasStreamsToStop = false
  var settingsReceived = false
  /// The peer changed SETTINGS_HEADER_TABLE_SIZE: the next header block must begin with a size update
  /// (RFC 7541 section 4.2), so libnghttp2 writes the trailers, not we.
  var peerChangedTableSize = false
  var fault: ConnectionFault?
  /// The last evaluated header fields and what they meant: a client's calls mostly repeat them, and
  /// then HPACK's dynamic table gives the very same objects.
  var memo: StreamRecord.Fields = unsafe .init(repeating: nil)
  var memoHead: Int32 = .min
  /// The fields of the header block that is coming in.
  var incoming: StreamRecord.Fields = unsafe .init(repeating: nil)
  var incomingBytes = 0
  var resets: TokenBucket
  var pings: TokenBucket
  var settings: TokenBucket
  var emptyFrames: TokenBucket

  /// Takes a stream out of its session's list and tells the owner. Its record lives until the event is
  /// done with.
  static func markClosed(_ record: UnsafeMutablePointer<StreamRecord>) {
    guard unsafe !record.pointee.flags.contains(.closed), let state = unsafe record.pointee.session
    else { return }
    unsafe record.pointee.flags.insert(.closed)
    if let previous = unsafe record.pointee.previous {
      unsafe previous.pointee.next = record.pointee.next
    } else {
      unsafe state.pointee.firstStream = record.pointee.next
    }
    if let next = unsafe record.pointee.next { unsafe next.pointee.previous = record.pointee.previous }
    unsafe record.pointee.previous = nil
    unsafe record.pointee.next = nil
    unsafe state.pointee.streamCount -= 1
    unsafe state.pointee.queuedBytes -= record.pointee.answer.count - record.pointee.answerOffset
    unsafe state.pointee.context.pointee.events.append(.closed, record)
  }

  /// Gives up one reference to a header value.
  static func drop(_ field: OpaquePointer?) {
    if let field = unsafe field { unsafe nghttp2_rcbuf_decref(field) }
  }
}
