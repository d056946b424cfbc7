// Frames as they come in: cut out of the bytes, checked, and handed to what each is about.

/// The receiving side of a connection (RFC 9113 sections 4 to 6). Throws what ends the connection; errors
/// of one stream are answered by a reset.
enum ServerFrameReader {
  static func read(
    _ state: UnsafeMutablePointer<ServerConnectionState>, _ bytes: UnsafeBufferPointer<UInt8>
  ) throws(ConnectionFault) {
    guard var next = bytes.baseAddress else { return }
    var left = bytes.count
    try unsafe readPreface(state, &next, &left)
    if unsafe state.pointee.partial.count > 0 {
      try unsafe completePartial(state, &next, &left)
    }
    while left >= FrameHeader.length {
      let header = unsafe FrameHeader(next)
      try unsafe check(header, state)
      let length = FrameHeader.length + header.payloadLength
      if left < length { break }
      try unsafe frame(header, next + FrameHeader.length, state)
      unsafe next += length
      left -= length
    }
    if left > 0 {
      let context = unsafe state.pointee.context
      guard unsafe state.pointee.partial.append(next, left, &context.pointee.pool) else {
        throw .protocolViolation(.internalError)
      }
    }
    if unsafe state.pointee.partial.count == 0 && state.pointee.headerStream == 0 {
      unsafe state.pointee.unfinishedSinceNanoseconds = 0
    } else if unsafe state.pointee.unfinishedSinceNanoseconds == 0 {
      // 0 means that all is whole.
      unsafe state.pointee.unfinishedSinceNanoseconds =
        max(1, state.pointee.context.pointee.nowNanoseconds)
    }
    // The peer makes us answer, and does not read the answers.
    if unsafe state.pointee.control.count > ServerConnectionState.controlBytesMax {
      throw .controlFlood
    }
  }

  private static func readPreface(
    _ state: UnsafeMutablePointer<ServerConnectionState>, _ next: inout UnsafePointer<UInt8>,
    _ left: inout Int
  ) throws(ConnectionFault) {
    let length = Preface.client.utf8CodeUnitCount
    while left > 0, unsafe state.pointee.prefaceCount < length {
      let expected = unsafe Preface.client.utf8Start[state.pointee.prefaceCount]
      if unsafe next.pointee != expected { throw .protocolViolation(.protocolError) }
      unsafe state.pointee.prefaceCount += 1
      unsafe next += 1
      left -= 1
    }
  }

  /// Fills up the frame that the last bytes left unfinished, and handles it once it is whole.
  private static func completePartial(
    _ state: UnsafeMutablePointer<ServerConnectionState>, _ next: inout UnsafePointer<UInt8>,
    _ left: inout Int
  ) throws(ConnectionFault) {
    let context = unsafe state.pointee.context
    func take(upTo wanted: Int) throws(ConnectionFault) -> Bool {
      let count = unsafe min(left, wanted - state.pointee.partial.count)
      if count > 0 {
        guard unsafe state.pointee.partial.append(next, count, &context.pointee.pool) else {
          throw .protocolViolation(.internalError)
        }
        unsafe next += count
        left -= count
      }
      return unsafe state.pointee.partial.count >= wanted
    }
    guard try take(upTo: FrameHeader.length), let start = unsafe state.pointee.partial.start else {
      return
    }
    let header = unsafe FrameHeader(start)
    try unsafe check(header, state)
    guard try take(upTo: FrameHeader.length + header.payloadLength),
      let whole = unsafe state.pointee.partial.start
    else { return }
    try unsafe frame(header, whole + FrameHeader.length, state)
    unsafe state.pointee.partial.destroy(&context.pointee.pool)
    // The next one has its own time. A header block has no more than one frame has.
    if unsafe state.pointee.headerStream == 0 {
      unsafe state.pointee.unfinishedSinceNanoseconds = 0
    }
  }

  /// What a frame's header alone can get wrong.
  private static func check(
    _ header: FrameHeader, _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    // Section 4.2.
    if header.payloadLength > Defaults.frameBytesMax { throw .protocolViolation(.frameSizeError) }
    // Section 3.4: the preface ends with SETTINGS.
    if unsafe !state.pointee.settingsReceived,
      header.type != FrameType.settings || header.has(FrameFlag.acknowledgement)
    {
      throw .protocolViolation(.protocolError)
    }
    // Section 6.10: nothing comes between the frames of a header block.
    let open = unsafe state.pointee.headerStream
    if open != 0, header.type != FrameType.continuation || header.stream != open {
      throw .protocolViolation(.protocolError)
    }
  }

  private static func frame(
    _ header: FrameHeader, _ payload: UnsafePointer<UInt8>,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    switch header.type {
    case FrameType.data: try unsafe data(header, payload, state)
    case FrameType.headers: try unsafe HeaderReader.headers(header, payload, state)
    case FrameType.continuation: try unsafe HeaderReader.continuation(header, payload, state)
    case FrameType.priority: try unsafe priority(header, payload, state)
    case FrameType.resetStream: try unsafe resetStream(header, payload, state)
    case FrameType.settings: try unsafe ServerConnectionFrames.settings(header, payload, state)
    case FrameType.ping: try unsafe ServerConnectionFrames.ping(header, payload, state)
    case FrameType.goAway: try ServerConnectionFrames.goAway(header)
    case FrameType.windowUpdate:
      try unsafe ServerConnectionFrames.windowUpdate(header, payload, state)
    // Section 8.4: clients do not push.
    case FrameType.pushPromise: throw .protocolViolation(.protocolError)
    default: break
    }
  }

  /// The part of a payload between its padding (sections 6.1 and 6.2).
  static func unpadded(
    _ header: FrameHeader, _ payload: UnsafePointer<UInt8>
  ) throws(ConnectionFault) -> UnsafeBufferPointer<UInt8> {
    guard header.has(FrameFlag.padded) else {
      return unsafe UnsafeBufferPointer(start: payload, count: header.payloadLength)
    }
    guard header.payloadLength > 0 else { throw .protocolViolation(.frameSizeError) }
    let count = unsafe header.payloadLength - 1 - Int(payload[0])
    if count < 0 { throw .protocolViolation(.protocolError) }
    return unsafe UnsafeBufferPointer(start: payload + 1, count: count)
  }

  // MARK: DATA (section 6.1)

  private static func data(
    _ header: FrameHeader, _ payload: UnsafePointer<UInt8>,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    if header.stream == 0 { throw .protocolViolation(.protocolError) }
    try unsafe spendConnectionWindow(header.payloadLength, state)
    let bytes = try unsafe unpadded(header, payload)
    let ends = header.has(FrameFlag.endStream)
    if bytes.count == 0, !ends { try unsafe spendEmptyFrame(state) }
    guard let record = unsafe state.pointee.streams.find(header.stream) else {
      // Section 5.1: an idle stream is the peer's error; a closed one may only be late news.
      if unsafe header.stream > state.pointee.lastStream || header.stream & 1 == 0 {
        throw .protocolViolation(.protocolError)
      }
      if let index = unsafe state.pointee.draining.find(header.stream) {
        guard
          let code = unsafe state.pointee.drainData(index, header.payloadLength, ends: ends)
        else { return }
        return try unsafe reset(header.stream, code, state)
      }
      if unsafe state.pointee.resetStreams.mayBeLate(header.stream) {
        return try unsafe spendLateFrame(state)
      }
      return try unsafe reset(header.stream, .streamClosed, state)
    }
    if unsafe record.pointee.flags.contains(.endReceived) {
      return try unsafe reset(record, .streamClosed)
    }
    // Section 6.9: padding counts.
    unsafe record.pointee.receiveWindow -= Int64(header.payloadLength)
    if unsafe record.pointee.receiveWindow < 0 {
      return try unsafe reset(record, .flowControlError)
    }
    unsafe record.pointee.bodyReceived += Int64(bytes.count)
    if unsafe record.pointee.flags.isDisjoint(with: [.discards, .oversize]) {
      unsafe append(bytes, to: record, ends: ends)
    }
    if ends { try unsafe endReceived(record) }
  }

  /// - Parameter ends: the stream ends with these bytes, and its owner will hear of that.
  private static func append(
    _ bytes: UnsafeBufferPointer<UInt8>, to record: UnsafeMutablePointer<StreamRecord>, ends: Bool
  ) {
    guard let state = unsafe record.pointee.connection, let base = bytes.baseAddress else { return }
    let context = unsafe state.pointee.context
    let isAccepted = unsafe record.pointee.flags.contains(.accepted)
    let policy = unsafe record.pointee.policy
    // A stream of which the owner has not said yet what it is may be a window ahead, for this iteration.
    let limit =
      unsafe isAccepted ? policy.bytesMax : Int(context.pointee.limits.streamWindowBytes)
    guard unsafe record.pointee.unreadCount + bytes.count <= limit,
      unsafe context.pointee.reserve(bytes.count, in: &record.pointee.body, of: state)
    else {
      unsafe record.pointee.flags.insert(.oversize)
      if isAccepted { unsafe context.pointee.events.append(.data, record) }
      return
    }
    unsafe record.pointee.body.append(base, bytes.count)
    guard isAccepted, !ends, bytes.count > 0, policy.tellsAt > 0,
      unsafe record.pointee.unreadCount >= policy.tellsAt,
      unsafe policy.isStreaming || !record.pointee.flags.contains(.toldOfData)
    else { return }
    unsafe record.pointee.flags.insert(.toldOfData)
    unsafe context.pointee.events.append(.data, record)
  }

  /// The peer has sent everything on a stream.
  static func endReceived(
    _ record: UnsafeMutablePointer<StreamRecord>
  ) throws(ConnectionFault) {
    guard let state = unsafe record.pointee.connection else { return }
    // Section 8.1.1: a body of another length than it said is malformed.
    if unsafe record.pointee.contentLength >= 0
      && record.pointee.contentLength != record.pointee.bodyReceived
    {
      return try unsafe reset(record, .protocolError)
    }
    unsafe record.pointee.flags.insert(.endReceived)
    unsafe state.pointee.context.pointee.events.append(.end, record)
  }

  /// Gives the connection's window back by halves, so that a WINDOW_UPDATE is rare.
  private static func spendConnectionWindow(
    _ length: Int, _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    unsafe state.pointee.receiveWindow -= Int64(length)
    let left = unsafe state.pointee.receiveWindow
    if left < 0 { throw .protocolViolation(.flowControlError) }
    let whole = unsafe Int64(state.pointee.context.pointee.limits.connectionWindowBytes)
    if left < whole / 2 {
      unsafe state.pointee.sendWindowUpdate(whole - left, stream: 0)
      unsafe state.pointee.receiveWindow = whole
    }
  }

  // MARK: PRIORITY (section 5.3: read, checked, and without effect) and RST_STREAM (section 6.4)

  private static func priority(
    _ header: FrameHeader, _ payload: UnsafePointer<UInt8>,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    if header.stream == 0 { throw .protocolViolation(.protocolError) }
    try unsafe spendEmptyFrame(state)
    if header.payloadLength != 5 {
      // Section 6.3: an error of the stream; an idle one cannot be reset (section 6.4).
      if let record = unsafe state.pointee.streams.find(header.stream) {
        return try unsafe reset(record, .frameSizeError)
      }
      if unsafe header.stream > state.pointee.lastStream {
        throw .protocolViolation(.frameSizeError)
      }
      return
    }
    // RFC 7540 section 5.3.1, which RFC 9113 leaves to those who still send it.
    if unsafe Wire.uint32(payload) & 0x7fff_ffff == UInt32(bitPattern: header.stream) {
      throw .protocolViolation(.protocolError)
    }
  }

  private static func resetStream(
    _ header: FrameHeader, _ payload: UnsafePointer<UInt8>,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    if header.stream == 0 {
      // HAProxy 2.6 resets its own placeholder, with stream 0 and NO_ERROR, where it gives a stream up
      // that we had ended while its request was on its way. Section 6.4 calls that an error of the
      // connection, but it says nothing, and all users of that connection would pay for it.
      guard header.payloadLength == 4,
        unsafe Wire.uint32(payload) == ErrorCode.noError.rawValue
      else {
        throw .protocolViolation(.protocolError)
      }
      return try unsafe spendReset(state)
    }
    if header.payloadLength != 4 { throw .protocolViolation(.frameSizeError) }
    if unsafe header.stream > state.pointee.lastStream || header.stream & 1 == 0 {
      throw .protocolViolation(.protocolError)
    }
    try unsafe spendReset(state)
    if let record = unsafe state.pointee.streams.find(header.stream) {
      unsafe ServerConnectionState.closeStream(record)
    } else if let index = unsafe state.pointee.draining.find(header.stream) {
      unsafe state.pointee.endDraining(index)
    }
  }

  // MARK: Errors of one stream (section 5.4.2)

  static func reset(
    _ record: UnsafeMutablePointer<StreamRecord>, _ code: ErrorCode
  ) throws(ConnectionFault) {
    guard let state = unsafe record.pointee.connection else { return }
    let number = unsafe record.pointee.number
    unsafe ServerConnectionState.closeStream(record)
    try unsafe reset(number, code, state)
  }

  /// Counts as a reset of the peer's: it provoked ours (MadeYouReset, CVE-2025-8671).
  static func reset(
    _ stream: Int32, _ code: ErrorCode, _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    try unsafe spendReset(state)
    unsafe state.pointee.sendReset(stream, code)
  }

  static func spendReset(
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    let context = unsafe state.pointee.context
    try unsafe state.pointee.resets.spend(
      context.pointee.limits.resets, nowNanoseconds: context.pointee.nowNanoseconds,
      orFail: .resetFlood)
  }

  private static func spendEmptyFrame(
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    let context = unsafe state.pointee.context
    try unsafe state.pointee.emptyFrames.spend(
      context.pointee.limits.emptyFrames, nowNanoseconds: context.pointee.nowNanoseconds,
      orFail: .emptyFrameFlood)
  }

  static func spendLateFrame(
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    let context = unsafe state.pointee.context
    try unsafe state.pointee.lateFrames.spend(
      context.pointee.limits.lateFrames, nowNanoseconds: context.pointee.nowNanoseconds,
      orFail: .lateFrameFlood)
  }
}
