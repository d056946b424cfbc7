// What a client connection does with the server's frames.

extension ClientConnection {
  /// Most bytes of one header block, over all its frames.
  static let headerBlockBytesMax = 64 * 1024

  /// Takes bytes as they came from the socket, cut anywhere, and sets `events` to what they
  /// completed. After an error the connection is of no more use.
  package mutating func receive(_ bytes: Span<UInt8>) throws(ClientError) {
    clearEvents()
    var at = 0
    let count = bytes.count
    if !partial.isEmpty {
      at = try finishPartialFrame(from: bytes)
      guard partial.isEmpty else { return }
    }
    while count - at >= FrameHeader.length {
      let header = FrameHeader(bytes.extracting(at..<count))
      try check(header)
      let end = at + FrameHeader.length + header.payloadLength
      if end > count { break }
      let payload = bytes.extracting(at + FrameHeader.length..<end)
      try frame(header, payload)
      at = end
    }
    partial.append(bytes.extracting(at..<count))
  }

  /// Completes the frame of which a part came earlier, and handles it. How many bytes that took.
  private mutating func finishPartialFrame(from bytes: Span<UInt8>) throws(ClientError) -> Int {
    var at = 0
    if partial.count < FrameHeader.length {
      at = min(bytes.count, FrameHeader.length - partial.count)
      partial.append(bytes.extracting(0..<at))
      if partial.count < FrameHeader.length { return at }
    }
    let header = partial.withSpan { FrameHeader($0) }
    try check(header)
    let missing = FrameHeader.length + header.payloadLength - partial.count
    let end = at + min(missing, bytes.count - at)
    partial.append(bytes.extracting(at..<end))
    if end - at < missing { return end }
    // Moved out for the call, which may not see the connection change under its payload.
    let whole = exchange(&partial, with: ByteBuffer())
    try whole.withSpan { (whole) throws(ClientError) in
      try frame(header, whole.extracting(FrameHeader.length..<whole.count))
    }
    partial = whole
    partial.removeAll()
    return end
  }

  private mutating func check(_ header: FrameHeader) throws(ClientError) {
    if header.payloadLength > Defaults.frameBytesMax {
      throw ClientError("a frame of more than 16,384 bytes (is this an HTTP/2 server?)")
    }
    if !isReady, header.type != FrameType.settings || header.has(FrameFlag.acknowledgement) {
      throw ClientError("the first frame is not SETTINGS (is this an HTTP/2 server?)")
    }
    if fragmentStream != 0,
      header.type != FrameType.continuation || header.streamID != fragmentStream
    {
      throw ClientError("a header block that another frame interrupts")
    }
  }

  private mutating func frame(_ header: FrameHeader, _ payload: Span<UInt8>)
    throws(ClientError)
  {
    switch header.type {
    case FrameType.data: try data(header, payload)
    case FrameType.headers: try headers(header, payload)
    case FrameType.continuation: try continuation(header, payload)
    case FrameType.settings: try settings(header, payload)
    case FrameType.ping: try ping(header, payload)
    case FrameType.windowUpdate: try windowUpdate(header, payload)
    case FrameType.resetStream: try resetStream(header, payload)
    case FrameType.goAway: try goAway(header, payload)
    case FrameType.pushPromise: throw ClientError("PUSH_PROMISE, although push is off")
    default: break  // PRIORITY, and types that we don't know (RFC 9113, section 4.1)
    }
  }

  // MARK: The response itself

  private mutating func data(_ header: FrameHeader, _ payload: Span<UInt8>)
    throws(ClientError)
  {
    try credit(header.payloadLength)
    let content = payload.extracting(try contentRange(header, payload))
    guard let slot = try openSlot(header) else { return }
    if streams[slot].status < 200 { throw ClientError("DATA before its HEADERS") }
    if streams[slot].body.count + content.count > unreadBytesMax {
      try reset(slot, .oversize)
      return
    }
    streams[slot].body.append(content)
    if header.has(FrameFlag.endStream) {
      try end(slot)
    } else if streams[slot].streamsResponse, content.count > 0 {
      tell(.data, slot)
    }
  }

  private mutating func headers(_ header: FrameHeader, _ payload: Span<UInt8>)
    throws(ClientError)
  {
    var block = payload.extracting(try contentRange(header, payload))
    if header.has(FrameFlag.priority) {
      if block.count < 5 { throw ClientError("a short HEADERS frame") }
      block = block.extracting(5..<block.count)
    }
    if header.has(FrameFlag.endHeaders) {
      try headerBlock(header, endsStream: header.has(FrameFlag.endStream), block)
      return
    }
    if header.streamID == 0 { throw ClientError("HEADERS on stream 0") }
    fragmentStream = header.streamID
    fragmentFlags = header.flags
    fragment.removeAll()
    fragment.append(block)
  }

  private mutating func continuation(_ header: FrameHeader, _ payload: Span<UInt8>)
    throws(ClientError)
  {
    if fragmentStream == 0 { throw ClientError("CONTINUATION without HEADERS") }
    if fragment.count + payload.count > ClientConnection.headerBlockBytesMax {
      throw ClientError("a header block of more than 64 KiB")
    }
    fragment.append(payload)
    guard header.has(FrameFlag.endHeaders) else { return }
    fragmentStream = 0
    let whole = exchange(&fragment, with: ByteBuffer())
    let endsStream = fragmentFlags & FrameFlag.endStream != 0
    try whole.withSpan { (whole) throws(ClientError) in
      try headerBlock(header, endsStream: endsStream, whole)
    }
    fragment = whole
  }

  private mutating func headerBlock(
    _ header: FrameHeader, endsStream: Bool, _ block: Span<UInt8>
  ) throws(ClientError) {
    guard let slot = try openSlot(header) else {
      // The dynamic table goes on.
      _ = try decoder.decode(block, endsStream: endsStream, &lateText)
      return
    }
    let fields = try decoder.decode(block, endsStream: endsStream, &streams[slot].text)
    if streams[slot].status < 200 {
      // The response's own headers; interim ones (1xx) may stand before them.
      if fields.status < 100 || (fields.status < 200 && endsStream) {
        return try reset(slot, .malformed)
      }
      streams[slot].status = fields.status
      if !endsStream, fields.status >= 200, streams[slot].streamsResponse { tell(.headers, slot) }
    } else if !endsStream || fields.status != -1 {
      return try reset(slot, .malformed)
    }
    guard endsStream else { return }
    streams[slot].captured = fields.captured
    try end(slot)
  }

  private mutating func tell(_ kind: ClientEvent.Kind, _ slot: Int) {
    let stream = ClientStream(index: slot, number: streams[slot].number)
    events.append(ClientEvent(kind: kind, stream: stream))
  }

  /// The server has ended the stream.
  private mutating func end(_ slot: Int) throws(ClientError) {
    // It may do so before it has our whole request; the rest is then not sent.
    if streams[slot].isSending { try writeReset(slot) }
    finish(slot, .ended)
  }

  /// The response is of no use: we end the stream.
  private mutating func reset(_ slot: Int, _ kind: ClientEvent.Kind) throws(ClientError) {
    try writeReset(slot)
    finish(slot, kind)
  }

  private mutating func writeReset(_ slot: Int) throws(ClientError) {
    let stream = streams[slot].number
    try control(length: 4, type: FrameType.resetStream, flags: 0, stream: stream)
    output.appendBigEndian32(ErrorCode.cancel.rawValue)
  }

  /// The slot of the frame's stream; nil where that has ended.
  private func openSlot(_ header: FrameHeader) throws(ClientError) -> Int? {
    let stream = header.streamID
    if stream & 1 == 0 || stream >= nextStream {
      throw ClientError("a frame on a stream that we never opened")
    }
    return streams.slot(of: stream)
  }

  /// Where in the payload of a DATA or HEADERS frame its content lies.
  private func contentRange(_ header: FrameHeader, _ payload: Span<UInt8>)
    throws(ClientError) -> Range<Int>
  {
    guard header.has(FrameFlag.padded) else { return 0..<payload.count }
    guard payload.count > 0, Int(payload[0]) < payload.count else {
      throw ClientError("a frame with more padding than payload")
    }
    return 1..<payload.count - Int(payload[0])
  }

  // MARK: The connection

  private mutating func settings(_ header: FrameHeader, _ payload: Span<UInt8>)
    throws(ClientError)
  {
    if header.streamID != 0 { throw ClientError("SETTINGS on a stream") }
    if header.has(FrameFlag.acknowledgement) { return }
    if payload.count % 6 != 0 { throw ClientError("a SETTINGS frame of a wrong length") }
    for at in stride(from: 0, to: payload.count, by: 6) {
      let value = payload.bigEndian32(at: at + 2)
      switch Int(payload[at]) << 8 | Int(payload[at + 1]) {
      case Int(Setting.headerTableSize): peerTableSizeChanged(to: value)
      case Int(Setting.maxConcurrentStreams): peerStreamLimitChanged(to: value)
      case Int(Setting.initialWindowSize): try initialWindowChanged(to: value)
      default: break
      }
    }
    isReady = true
    try control(
      length: 0, type: FrameType.settings, flags: FrameFlag.acknowledgement, stream: 0)
  }

  /// A change applies to the open streams as well, and may take a window below zero (RFC 9113,
  /// section 6.9.2).
  private mutating func initialWindowChanged(to window: UInt32) throws(ClientError) {
    if window > 0x7fff_ffff { throw ClientError("a stream window above 2^31 - 1") }
    let change = Int64(window) - initialSendWindow
    initialSendWindow = Int64(window)
    guard sendingStreams > 0 else { return }
    for slot in 0..<streams.count where streams[slot].isSending {
      streams[slot].sendWindow += change
      if streams[slot].sendWindow > 0x7fff_ffff {
        throw ClientError("a stream window above 2^31 - 1")
      }
      sendUnsent(slot: slot)
    }
  }

  private mutating func windowUpdate(_ header: FrameHeader, _ payload: Span<UInt8>)
    throws(ClientError)
  {
    if payload.count != 4 { throw ClientError("a WINDOW_UPDATE frame of a wrong length") }
    let increment = Int64(payload.bigEndian32(at: 0) & 0x7fff_ffff)
    if increment == 0 { throw ClientError("a WINDOW_UPDATE by 0") }
    if header.streamID != 0 {
      // Nothing waits for most of them: a whole request has gone out.
      guard let slot = try openSlot(header), streams[slot].isSending else { return }
      streams[slot].sendWindow += increment
      if streams[slot].sendWindow > 0x7fff_ffff {
        throw ClientError("a stream window above 2^31 - 1")
      }
      sendUnsent(slot: slot)
      return
    }
    sendWindow += increment
    if sendWindow > 0x7fff_ffff { throw ClientError("a connection window above 2^31 - 1") }
    guard sendingStreams > 0 else { return }
    for slot in 0..<streams.count where streams[slot].isSending { sendUnsent(slot: slot) }
  }

  private mutating func ping(_ header: FrameHeader, _ payload: Span<UInt8>)
    throws(ClientError)
  {
    if payload.count != 8 || header.streamID != 0 { throw ClientError("a malformed PING") }
    if header.has(FrameFlag.acknowledgement) { return }
    try control(length: 8, type: FrameType.ping, flags: FrameFlag.acknowledgement, stream: 0)
    output.append(payload)
  }

  private mutating func resetStream(_ header: FrameHeader, _ payload: Span<UInt8>)
    throws(ClientError)
  {
    if payload.count != 4 { throw ClientError("a RST_STREAM frame of a wrong length") }
    guard let slot = try openSlot(header) else { return }
    let code = payload.bigEndian32(at: 0)
    // Section 8.7: it was not processed.
    finish(slot, code == ErrorCode.refusedStream.rawValue ? .unprocessed : .reset(code))
  }

  private mutating func goAway(_ header: FrameHeader, _ payload: Span<UInt8>)
    throws(ClientError)
  {
    if payload.count < 8 || header.streamID != 0 { throw ClientError("a malformed GOAWAY") }
    isClosing = true
    let last = payload.bigEndian32(at: 0) & 0x7fff_ffff
    for slot in 0..<streams.count where streams[slot].number > last { finish(slot, .unprocessed) }
  }

  /// Gives the peer its connection window back, in large pieces. For the streams' see `consume`.
  private mutating func credit(_ count: Int) throws(ClientError) {
    uncredited += count
    guard uncredited >= ClientConnection.receiveWindow / 4 else { return }
    try control(length: 4, type: FrameType.windowUpdate, flags: 0, stream: 0)
    output.appendBigEndian32(UInt32(uncredited))
    uncredited = 0
  }

  /// Begins a frame of our own; the caller appends its `length` bytes.
  private mutating func control(length: Int, type: UInt8, flags: UInt8, stream: UInt32)
    throws(ClientError)
  {
    let most = ClientConnection.outputBytesMax + ClientConnection.controlBytesMax
    if output.count > most { throw ClientError("the server sends control frames but reads none") }
    output.appendFrameHeader(length: length, type: type, flags: flags, stream: stream)
  }
}
