// Header blocks: HEADERS and CONTINUATION frames, HPACK, and the rules for requests (RFC 9113
// sections 6.2, 6.10, 8.1 to 8.3).
internal import CNGHTTP2

enum HeaderReader {
  /// Frames of one header block: more than a list of the allowed length ever needs.
  private static let framesMax = 16

  static func headers(
    _ header: FrameHeader, _ payload: UnsafePointer<UInt8>,
    _ state: UnsafeMutablePointer<SessionState>
  ) throws(ConnectionFault) {
    // Section 5.1.1: clients use odd numbers.
    if header.stream & 1 == 0 { throw .protocolViolation(.protocolError) }
    var block = try unsafe FrameReader.unpadded(header, payload)
    if header.has(FrameFlag.priority) {
      if block.count < 5 { throw .protocolViolation(.frameSizeError) }
      if unsafe Wire.uint32(payload + (header.has(FrameFlag.padded) ? 1 : 0)) & 0x7fff_ffff
        == UInt32(bitPattern: header.stream)
      {
        throw .protocolViolation(.protocolError)
      }
      unsafe block = UnsafeBufferPointer(rebasing: block[5...])
    }
    let ends = header.has(FrameFlag.endStream)
    if header.has(FrameFlag.endHeaders) {
      return try unsafe blockIsWhole(block, stream: header.stream, endsStream: ends, state)
    }
    unsafe state.pointee.headerStream = header.stream
    unsafe state.pointee.headerEndsStream = ends
    unsafe state.pointee.headerFrames = 1
    try unsafe keep(block, state)
  }

  static func continuation(
    _ header: FrameHeader, _ payload: UnsafePointer<UInt8>,
    _ state: UnsafeMutablePointer<SessionState>
  ) throws(ConnectionFault) {
    guard header.stream != 0, unsafe state.pointee.headerStream == header.stream else {
      throw .protocolViolation(.protocolError)
    }
    unsafe state.pointee.headerFrames += 1
    if unsafe state.pointee.headerFrames > framesMax { throw .headerListFlood }
    try unsafe keep(UnsafeBufferPointer(start: payload, count: header.payloadLength), state)
    guard header.has(FrameFlag.endHeaders) else { return }
    unsafe state.pointee.headerStream = 0
    unsafe state.pointee.unfinishedSinceNanoseconds = 0
    let whole = unsafe UnsafeBufferPointer(
      start: state.pointee.headerBlock.start.map { unsafe UnsafePointer($0) },
      count: state.pointee.headerBlock.count)
    let ends = unsafe state.pointee.headerEndsStream
    try unsafe blockIsWhole(whole, stream: header.stream, endsStream: ends, state)
    let context = unsafe state.pointee.context
    unsafe state.pointee.headerBlock.destroy(&context.pointee.pool)
  }

  private static func keep(
    _ part: UnsafeBufferPointer<UInt8>, _ state: UnsafeMutablePointer<SessionState>
  ) throws(ConnectionFault) {
    guard part.count > 0, let base = part.baseAddress else { return }
    let context = unsafe state.pointee.context
    let limit = unsafe context.pointee.limits.headerListBytesMax * 4
    if unsafe state.pointee.headerBlock.count + part.count > limit { throw .headerListFlood }
    guard unsafe state.pointee.headerBlock.append(base, part.count, &context.pointee.pool) else {
      throw .protocolViolation(.internalError)
    }
  }

  // MARK: A whole block

  private static func blockIsWhole(
    _ block: UnsafeBufferPointer<UInt8>, stream: Int32, endsStream: Bool,
    _ state: UnsafeMutablePointer<SessionState>
  ) throws(ConnectionFault) {
    if unsafe stream > state.pointee.lastStream {
      unsafe state.pointee.lastStream = stream
      unsafe state.pointee.resetStreams.opened(stream)
      return try unsafe request(block, stream, endsStream, state)
    }
    if let record = unsafe state.pointee.streams.find(stream) {
      return try unsafe trailers(block, record, endsStream, state)
    }
    // The block must be read all the same, or the dynamic tables no longer agree.
    var check = FieldCheck(isTrailers: true)
    try unsafe decode(block, nil, &check, state)
    // Section 5.1: on a closed stream this is an error, unless our reset was still on its way.
    guard unsafe state.pointee.resetStreams.mayBeLate(stream) else {
      throw .protocolViolation(.streamClosed)
    }
    try unsafe FrameReader.spendLateFrame(state)
  }

  private static func request(
    _ block: UnsafeBufferPointer<UInt8>, _ stream: Int32, _ endsStream: Bool,
    _ state: UnsafeMutablePointer<SessionState>
  ) throws(ConnectionFault) {
    let context = unsafe state.pointee.context
    let isRefused =
      unsafe state.pointee.refusesAfter != nil
      || state.pointee.streams.count >= context.pointee.limits.concurrentStreams
    guard !isRefused, let record = unsafe open(stream, state) else {
      var check = FieldCheck(isTrailers: false)
      try unsafe decode(block, nil, &check, state)
      return try unsafe FrameReader.reset(stream, .refusedStream, state)
    }
    if let notes = unsafe state.pointee.headerCache.find(block) {
      // A block that came before: its meaning is known.
      unsafe notes.pointee.references += 1
      unsafe record.pointee.notes = notes
      unsafe record.pointee.policy = notes.pointee.policy
      unsafe record.pointee.contentLength = notes.pointee.contentLength
      unsafe record.pointee.flags.insert(.accepted)
    } else {
      guard try unsafe readRequest(block, record, state) else { return }
    }
    if endsStream { try unsafe FrameReader.endReceived(record) }
  }

  /// A new stream's record, listed and found by its number; nil where there is no room.
  private static func open(
    _ stream: Int32, _ state: UnsafeMutablePointer<SessionState>
  ) -> UnsafeMutablePointer<StreamRecord>? {
    let context = unsafe state.pointee.context
    guard let record = unsafe context.pointee.streams.allocate() else { return nil }
    unsafe record.pointee.session = state
    unsafe record.pointee.number = stream
    guard unsafe state.pointee.streams.insert(record, &context.pointee.pool) else {
      unsafe context.pointee.streams.release(record)
      return nil
    }
    unsafe record.pointee.sendWindow = state.pointee.peerInitialWindow
    unsafe record.pointee.receiveWindow = Int64(context.pointee.limits.streamWindowBytes)
    unsafe record.pointee.openedNanoseconds = context.pointee.nowNanoseconds
    unsafe record.pointee.next = state.pointee.firstStream
    if let first = unsafe state.pointee.firstStream { unsafe first.pointee.previous = record }
    unsafe state.pointee.firstStream = record
    return unsafe record
  }

  /// Reads and checks a request's fields. False where the stream was reset.
  private static func readRequest(
    _ block: UnsafeBufferPointer<UInt8>, _ record: UnsafeMutablePointer<StreamRecord>,
    _ state: UnsafeMutablePointer<SessionState>
  ) throws(ConnectionFault) -> Bool {
    let context = unsafe state.pointee.context
    var check = FieldCheck(isTrailers: false)
    try unsafe decode(block, record, &check, state)
    if check.isTooLarge {
      unsafe context.pointee.events.append(.headerListTooLarge, record)
      return true
    }
    if !check.isGoodRequest {
      try unsafe FrameReader.reset(record, .protocolError)
      return false
    }
    unsafe record.pointee.contentLength = check.contentLength
    if unsafe !HeaderBlockCache.changesTable(block) {
      unsafe state.pointee.headerCache.begin(
        block, stream: record.pointee.number, &context.pointee.pool)
    }
    unsafe context.pointee.events.append(.head, record)
    return true
  }

  private static func trailers(
    _ block: UnsafeBufferPointer<UInt8>, _ record: UnsafeMutablePointer<StreamRecord>,
    _ endsStream: Bool, _ state: UnsafeMutablePointer<SessionState>
  ) throws(ConnectionFault) {
    var check = FieldCheck(isTrailers: true)
    try unsafe decode(block, nil, &check, state)
    if unsafe record.pointee.flags.contains(.endReceived) {
      return try unsafe FrameReader.reset(record, .streamClosed)
    }
    // Section 8.1: trailers end the stream, and have no pseudo-header fields.
    if !endsStream || check.isMalformed {
      return try unsafe FrameReader.reset(record, .protocolError)
    }
    try unsafe FrameReader.endReceived(record)
  }

  // MARK: HPACK (RFC 7541)

  /// Decodes a block; the captured fields are kept in `record`.
  private static func decode(
    _ block: UnsafeBufferPointer<UInt8>, _ record: UnsafeMutablePointer<StreamRecord>?,
    _ check: inout FieldCheck, _ state: UnsafeMutablePointer<SessionState>
  ) throws(ConnectionFault) {
    // It may change the dynamic table, and with it the meaning of every block that refers to it.
    let context = unsafe state.pointee.context
    if unsafe HeaderBlockCache.changesTable(block) {
      unsafe state.pointee.headerCache.forget(&context.pointee.pool)
    }
    let decoder = unsafe state.pointee.decoder
    let limit = unsafe context.pointee.limits.headerListBytesMax
    var next = block.baseAddress
    var left = block.count
    while true {
      var field = unsafe nghttp2_nv()
      var flags: Int32 = 0
      // Codes: bytes read; NGHTTP2_ERR_HEADER_COMP, _BUFFER_ERROR (a field beyond 64 KiB), _NOMEM.
      let read = unsafe nghttp2_hd_inflate_hd2(decoder, &field, &flags, next, left, 1)
      if read < 0 { throw .protocolViolation(.compressionError) }
      unsafe next = next.map { unsafe $0 + read }
      left -= read
      if flags & Int32(NGHTTP2_HD_INFLATE_EMIT.rawValue) != 0 {
        // Section 6.5.2: 32 bytes of overhead a field. The library bounds each field.
        unsafe check.listBytes += field.namelen + field.valuelen + 32
        // Four times over: one-byte references to large table entries cost us, not the peer.
        if check.listBytes > limit * 4 { throw .headerListFlood }
        if check.listBytes > limit {
          check.isTooLarge = true
        } else {
          let name = unsafe UnsafeBufferPointer(start: field.name, count: field.namelen)
          let value = unsafe UnsafeBufferPointer(start: field.value, count: field.valuelen)
          unsafe check.add(name, value)
          if let record = unsafe record { unsafe keep(name, value, record, context) }
        }
      }
      if flags & Int32(NGHTTP2_HD_INFLATE_FINAL.rawValue) != 0 {
        // Always 0.
        _ = unsafe nghttp2_hd_inflate_end_headers(decoder)
        return
      }
      if flags & Int32(NGHTTP2_HD_INFLATE_EMIT.rawValue) == 0, left == 0 {
        throw .protocolViolation(.compressionError)
      }
    }
  }

  /// Captures a field that the owner wants to see.
  private static func keep(
    _ name: UnsafeBufferPointer<UInt8>, _ value: UnsafeBufferPointer<UInt8>,
    _ record: UnsafeMutablePointer<StreamRecord>, _ context: UnsafeMutablePointer<ContextState>
  ) {
    for index in unsafe 0..<context.pointee.capturedCount
    where unsafe FieldCheck.equal(name, context.pointee.captured[index]) {
      return unsafe record.pointee.capture(index, value, &context.pointee.pool)
    }
  }
}
