// What libnghttp2 calls back. These functions append events and bytes and spend budgets, nothing else:
// the library may not be entered again from them (libnghttp2 manual, "Remarks").
internal import CNGHTTP2

@safe enum SessionCallbacks {
  static func make() -> OpaquePointer? {
    var callbacks: OpaquePointer?
    // Codes: 0 or NGHTTP2_ERR_NOMEM.
    let code = unsafe nghttp2_session_callbacks_new(&callbacks)
    precondition(code == 0, "no memory for HTTP/2 callbacks")
    unsafe nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks) { _, frame, user in
      unsafe SessionCallbacks.beginHeaders(frame, user)
    }
    unsafe nghttp2_session_callbacks_set_on_header_callback2(callbacks) {
      library, frame, name, value, _, user in
      unsafe SessionCallbacks.header(library, frame, name, value, user)
    }
    unsafe nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks) { library, frame, user in
      unsafe SessionCallbacks.frame(library, frame, user)
    }
    unsafe nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks) {
      library, _, stream, bytes, count, _ in
      unsafe SessionCallbacks.data(library, stream, bytes, count)
    }
    unsafe nghttp2_session_callbacks_set_on_stream_close_callback(callbacks) {
      library, stream, code, user in
      unsafe SessionCallbacks.streamClosed(library, stream, code, user)
    }
    unsafe nghttp2_session_callbacks_set_send_data_callback(callbacks) {
      _, _, head, length, source, user in
      unsafe ResponseWriting.sendData(head, length, source, user)
    }
    return unsafe callbacks
  }

  private static let stop = Int32(NGHTTP2_ERR_CALLBACK_FAILURE.rawValue)
  private static let resetStream = Int32(NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue)

  private static func session(
    _ user: UnsafeMutableRawPointer?
  ) -> UnsafeMutablePointer<SessionState>? {
    unsafe user?.assumingMemoryBound(to: SessionState.self)
  }

  private static func record(
    _ library: OpaquePointer?, _ stream: Int32
  ) -> UnsafeMutablePointer<StreamRecord>? {
    unsafe nghttp2_session_get_stream_user_data(library, stream)?
      .assumingMemoryBound(to: StreamRecord.self)
  }

  private static func cut(_ state: UnsafeMutablePointer<SessionState>, _ fault: ConnectionFault) -> Int32 {
    unsafe state.pointee.fault = fault
    return stop
  }

  private static func beginHeaders(
    _ frame: UnsafePointer<nghttp2_frame>?, _ user: UnsafeMutableRawPointer?
  ) -> Int32 {
    guard let frame = unsafe frame, let state = unsafe session(user) else { return stop }
    unsafe state.pointee.incomingBytes = 0
    // Trailers come on a stream that has its record already.
    guard unsafe frame.pointee.headers.cat == NGHTTP2_HCAT_REQUEST else { return 0 }
    let context = unsafe state.pointee.context
    guard let record = unsafe context.pointee.streams.allocate() else { return resetStream }
    let number = unsafe frame.pointee.hd.stream_id
    unsafe record.pointee.session = state
    unsafe record.pointee.number = number
    unsafe record.pointee.notes.receivedNanoseconds = context.pointee.nowNanoseconds
    unsafe record.pointee.next = state.pointee.firstStream
    if let first = unsafe state.pointee.firstStream { unsafe first.pointee.previous = record }
    unsafe state.pointee.firstStream = record
    unsafe state.pointee.streamCount += 1
    // Codes: 0, NGHTTP2_ERR_INVALID_ARGUMENT where the stream is unknown: it was just opened.
    _ = unsafe nghttp2_session_set_stream_user_data(state.pointee.library, number, record)
    return 0
  }

  private static func header(
    _ library: OpaquePointer?, _ frame: UnsafePointer<nghttp2_frame>?, _ name: OpaquePointer?,
    _ value: OpaquePointer?, _ user: UnsafeMutableRawPointer?
  ) -> Int32 {
    guard let frame = unsafe frame, let state = unsafe session(user) else { return stop }
    let nameBytes = unsafe nghttp2_rcbuf_get_buf(name)
    let valueBytes = unsafe nghttp2_rcbuf_get_buf(value)
    let context = unsafe state.pointee.context
    let limit = unsafe context.pointee.limits.headerListBytesMax
    // RFC 9113 section 6.5.2: 32 bytes of overhead a field. The lengths are bounded by the frame size.
    unsafe state.pointee.incomingBytes += nameBytes.len + valueBytes.len + 32
    if unsafe state.pointee.incomingBytes > limit {
      // Four times over: one-byte references to large table entries cost us, not the peer.
      if unsafe state.pointee.incomingBytes > limit * 4 { return unsafe cut(state, .headerListFlood) }
      if let record = unsafe record(library, frame.pointee.hd.stream_id) {
        unsafe record.pointee.flags.insert(.headerListTooLarge)
      }
      return 0
    }
    // RFC 9113 section 8.2: names are not empty; the library lets them pass.
    if unsafe nameBytes.len == 0 { return resetStream }
    guard unsafe frame.pointee.headers.cat == NGHTTP2_HCAT_REQUEST, let base = unsafe nameBytes.base
    else { return 0 }
    let bytes = unsafe UnsafeBufferPointer(start: base, count: nameBytes.len)
    for index in unsafe 0..<context.pointee.fieldCount
    where unsafe matches(bytes, context.pointee.fieldNames[index]) {
      unsafe SessionState.drop(state.pointee.incoming[index])
      unsafe nghttp2_rcbuf_incref(value)
      unsafe state.pointee.incoming[index] = value
      return 0
    }
    if unsafe matches(bytes, context.pointee.timeoutName),
      let record = unsafe record(library, frame.pointee.hd.stream_id)
    {
      // One byte more than a timeout may have shows that it is too long.
      let count = unsafe min(valueBytes.len, 16)
      for index in 0..<count {
        unsafe record.pointee.timeout[index] = valueBytes.base[index]
      }
      unsafe record.pointee.timeoutCount = UInt8(count)
      unsafe record.pointee.flags.insert(.hasTimeout)
    }
    return 0
  }

  private static func matches(_ bytes: UnsafeBufferPointer<UInt8>, _ name: StaticString) -> Bool {
    let count = name.utf8CodeUnitCount
    guard bytes.count == count else { return false }
    // The last byte tells most names of equal length apart.
    guard unsafe bytes[count - 1] == name.utf8Start[count - 1] else { return false }
    for index in 0..<count where unsafe bytes[index] != name.utf8Start[index] { return false }
    return true
  }

  private static func frame(
    _ library: OpaquePointer?, _ frame: UnsafePointer<nghttp2_frame>?,
    _ user: UnsafeMutableRawPointer?
  ) -> Int32 {
    guard let frame = unsafe frame, let state = unsafe session(user) else { return stop }
    let context = unsafe state.pointee.context
    let now = unsafe context.pointee.nowNanoseconds
    let limits = unsafe context.pointee.limits
    let head = unsafe frame.pointee.hd
    let endStream = head.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
    switch UInt32(head.type) {
    case NGHTTP2_HEADERS.rawValue:
      guard let record = unsafe record(library, head.stream_id) else { return 0 }
      if unsafe frame.pointee.headers.cat == NGHTTP2_HCAT_REQUEST { unsafe headDone(state, record) }
      if endStream { unsafe ended(state, record) }
    case NGHTTP2_DATA.rawValue:
      guard let record = unsafe record(library, head.stream_id) else { return 0 }
      if endStream {
        unsafe ended(state, record)
      } else if head.length == 0 {
        if unsafe !state.pointee.emptyFrames.spend(limits.emptyFrames, nowNanoseconds: now) {
          return unsafe cut(state, .emptyFrameFlood)
        }
      }
    case NGHTTP2_PRIORITY.rawValue:
      if unsafe !state.pointee.emptyFrames.spend(limits.emptyFrames, nowNanoseconds: now) {
        return unsafe cut(state, .emptyFrameFlood)
      }
    case NGHTTP2_RST_STREAM.rawValue:
      if unsafe !state.pointee.resets.spend(limits.resets, nowNanoseconds: now) {
        return unsafe cut(state, .resetFlood)
      }
    case NGHTTP2_PING.rawValue:
      if unsafe !state.pointee.pings.spend(limits.pings, nowNanoseconds: now) {
        return unsafe cut(state, .pingFlood)
      }
    case NGHTTP2_SETTINGS.rawValue:
      if unsafe !state.pointee.settings.spend(limits.settings, nowNanoseconds: now) {
        return unsafe cut(state, .settingsFlood)
      }
      unsafe state.pointee.settingsReceived = true
      let settings = unsafe frame.pointee.settings
      for index in unsafe 0..<settings.niv
      where unsafe settings.iv[index].settings_id
        == Int32(NGHTTP2_SETTINGS_HEADER_TABLE_SIZE.rawValue)
        && settings.iv[index].value != 4096
      {
        unsafe state.pointee.peerChangedTableSize = true
      }
    default: break
    }
    return 0
  }

  /// A request's header block is whole: either it is the one before again, or the owner must look.
  private static func headDone(
    _ state: UnsafeMutablePointer<SessionState>, _ record: UnsafeMutablePointer<StreamRecord>
  ) {
    let context = unsafe state.pointee.context
    if unsafe record.pointee.flags.contains(.headerListTooLarge) {
      for index in 0..<5 {
        unsafe SessionState.drop(state.pointee.incoming[index])
        unsafe state.pointee.incoming[index] = nil
      }
      unsafe context.pointee.events.append(.headerListTooLarge, record)
      return
    }
    var same = true
    for index in 0..<5 where unsafe state.pointee.incoming[index] != state.pointee.memo[index] {
      same = false
    }
    same = unsafe same && state.pointee.memoHead != .min
    if same {
      unsafe record.pointee.notes.head = state.pointee.memoHead
      for index in 0..<5 {
        unsafe SessionState.drop(state.pointee.incoming[index])
        unsafe state.pointee.incoming[index] = nil
      }
      // The caller's name is needed again when the message is whole; other calls may come between.
      if let caller = unsafe state.pointee.memo[4] {
        unsafe nghttp2_rcbuf_incref(caller)
        unsafe record.pointee.caller = caller
      }
    } else {
      for index in 0..<5 {
        unsafe record.pointee.fields[index] = state.pointee.incoming[index]
        unsafe state.pointee.incoming[index] = nil
      }
      unsafe context.pointee.events.append(.head, record)
    }
  }

  private static func ended(
    _ state: UnsafeMutablePointer<SessionState>, _ record: UnsafeMutablePointer<StreamRecord>
  ) {
    unsafe record.pointee.flags.insert(.endReceived)
    unsafe state.pointee.context.pointee.events.append(.end, record)
  }

  private static func data(
    _ library: OpaquePointer?, _ stream: Int32, _ bytes: UnsafePointer<UInt8>?, _ count: Int
  ) -> Int32 {
    guard let record = unsafe record(library, stream), let bytes = unsafe bytes,
      unsafe record.pointee.flags.isDisjoint(with: [.discards, .oversize]),
      let state = unsafe record.pointee.session
    else { return 0 }
    let context = unsafe state.pointee.context
    let limit = unsafe context.pointee.limits.bodyBytesMax
    let before = unsafe record.pointee.body.count
    guard before + count <= limit, unsafe context.pointee.reserve(count, in: &record.pointee.body)
    else {
      unsafe oversize(record)
      return 0
    }
    unsafe record.pointee.body.append(bytes, count)
    // A message that says that it will be too long is refused before it is.
    if before < 5, before + count >= 5, unsafe record.pointee.body.announcedLength > limit {
      unsafe oversize(record)
      return 0
    }
    if unsafe record.pointee.flags.contains(.wantsData) {
      unsafe context.pointee.events.append(.data, record)
    }
    return 0
  }

  private static func oversize(_ record: UnsafeMutablePointer<StreamRecord>) {
    guard let state = unsafe record.pointee.session else { return }
    unsafe record.pointee.flags.insert(.oversize)
    unsafe state.pointee.context.pointee.events.append(.oversize, record)
  }

  private static func streamClosed(
    _ library: OpaquePointer?, _ stream: Int32, _ code: UInt32, _ user: UnsafeMutableRawPointer?
  ) -> Int32 {
    guard let state = unsafe session(user) else { return stop }
    if let record = unsafe record(library, stream) { unsafe SessionState.markClosed(record) }
    // Counts the resets that we send as well: a peer can provoke those with broken frames.
    let context = unsafe state.pointee.context
    if code != NGHTTP2_NO_ERROR.rawValue,
      unsafe !state.pointee.resets.spend(
        context.pointee.limits.resets, nowNanoseconds: context.pointee.nowNanoseconds)
    {
      return unsafe cut(state, .resetFlood)
    }
    return 0
  }
}

extension ContextState {
  /// Makes room for `more` bytes; false where the loop's budget is spent.
  mutating func reserve(_ more: Int, in bytes: inout StreamBytes) -> Bool {
    let needed = bytes.count + more
    if needed <= bytes.capacity { return true }
    let larger = max(needed, bytes.capacity * 2)
    let charge = bytes.isInline ? larger : larger - bytes.capacity
    guard bufferedBytes + charge <= limits.bufferedBytesMax,
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
