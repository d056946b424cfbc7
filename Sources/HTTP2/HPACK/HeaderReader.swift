// Header blocks: HEADERS and CONTINUATION frames, HPACK, and the rules for requests (RFC 9113
// sections 6.2, 6.10, 8.1 to 8.3).

enum HeaderReader {
  /// Frames of one header block, and one more for each KiB of it: with smaller ones a peer costs more than
  /// it sends.
  private static let framesMax = 16

  static func headers(
    _ header: FrameHeader, _ payload: UnsafePointer<UInt8>,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    // Section 5.1.1: clients use odd numbers.
    if header.stream & 1 == 0 { throw .protocolViolation(.protocolError) }
    var block = try unsafe ServerFrameReader.unpadded(header, payload)
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
    try unsafe begin(block, stream: header.stream, endsStream: ends, state)
  }

  // MARK: A block of several frames

  /// It is decoded as it comes, so that of a large one no more is held than a field.
  private static func begin(
    _ block: UnsafeBufferPointer<UInt8>, stream: Int32, endsStream: Bool,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    let isRequest = unsafe stream > state.pointee.lastStream
    unsafe state.pointee.headerStream = stream
    unsafe state.pointee.headerEndsStream = endsStream
    unsafe state.pointee.headerFrames = 1
    unsafe state.pointee.headerBytes = 0
    unsafe state.pointee.headerCheck = FieldCheck(isTrailers: !isRequest)
    if isRequest { unsafe state.pointee.headerRecord = allocate(stream, state) }
    let context = unsafe state.pointee.context
    unsafe state.pointee.headerCache.forget(&context.pointee.pool)
    try unsafe part(block, isLast: false, state)
  }

  static func continuation(
    _ header: FrameHeader, _ payload: UnsafePointer<UInt8>,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    guard header.stream != 0, unsafe state.pointee.headerStream == header.stream else {
      throw .protocolViolation(.protocolError)
    }
    unsafe state.pointee.headerFrames += 1
    if unsafe state.pointee.headerFrames > framesMax + state.pointee.headerBytes / 1024 {
      throw .headerListFlood
    }
    let isLast = header.has(FrameFlag.endHeaders)
    let block = unsafe UnsafeBufferPointer(start: payload, count: header.payloadLength)
    try unsafe part(block, isLast: isLast, state)
    guard isLast else { return }
    unsafe state.pointee.headerStream = 0
    unsafe state.pointee.unfinishedSinceNanoseconds = 0
    let check = unsafe state.pointee.headerCheck
    let ends = unsafe state.pointee.headerEndsStream
    if unsafe header.stream <= state.pointee.lastStream {
      return try unsafe trailers(header.stream, check, endsStream: ends, state)
    }
    unsafe state.pointee.lastStream = header.stream
    unsafe state.pointee.resetStreams.opened(header.stream)
    guard let record = unsafe state.pointee.headerRecord else {
      return try unsafe ServerFrameReader.reset(header.stream, .refusedStream, state)
    }
    unsafe state.pointee.headerRecord = nil
    guard unsafe !isRefusing(state), unsafe list(record, state) else {
      unsafe release(record, state)
      return try unsafe ServerFrameReader.reset(header.stream, .refusedStream, state)
    }
    if try unsafe accept(record, check), ends { try unsafe ServerFrameReader.endReceived(record) }
  }

  private static func part(
    _ part: UnsafeBufferPointer<UInt8>, isLast: Bool,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    let context = unsafe state.pointee.context
    unsafe state.pointee.headerBytes += part.count
    if unsafe state.pointee.headerBytes > context.pointee.limits.headerBlockBytesMax {
      throw .headerListFlood
    }
    var part = unsafe part
    let isBehindAnother = unsafe state.pointee.headerBlock.count > 0
    if isBehindAnother {
      try unsafe keep(part, state)
      unsafe part = UnsafeBufferPointer(
        start: state.pointee.headerBlock.start, count: state.pointee.headerBlock.count)
    }
    let used = try unsafe decode(
      part.span, isLast: isLast, state.pointee.headerRecord, &state.pointee.headerCheck, state)
    if !isBehindAnother {
      try unsafe keep(UnsafeBufferPointer(rebasing: part[used...]), state)
    } else if used == part.count {
      unsafe state.pointee.headerBlock.destroy(&context.pointee.pool)
    } else {
      unsafe state.pointee.headerBlock.removeFirst(used)
    }
  }

  /// Keeps the beginning of a field until the rest has come.
  private static func keep(
    _ part: UnsafeBufferPointer<UInt8>, _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    guard part.count > 0, let base = part.baseAddress else { return }
    let context = unsafe state.pointee.context
    guard unsafe state.pointee.headerBlock.append(base, part.count, &context.pointee.pool) else {
      throw .protocolViolation(.internalError)
    }
  }

  // MARK: A block of one frame

  private static func blockIsWhole(
    _ block: UnsafeBufferPointer<UInt8>, stream: Int32, endsStream: Bool,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    if unsafe stream > state.pointee.lastStream {
      unsafe state.pointee.lastStream = stream
      unsafe state.pointee.resetStreams.opened(stream)
      return try unsafe request(block, stream, endsStream, state)
    }
    // The block must be read whatever the stream is, or the dynamic tables no longer agree.
    var check = FieldCheck(isTrailers: true)
    try unsafe decode(block, nil, &check, state)
    try unsafe trailers(stream, check, endsStream: endsStream, state)
  }

  private static func request(
    _ block: UnsafeBufferPointer<UInt8>, _ stream: Int32, _ endsStream: Bool,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    guard unsafe !isRefusing(state), let record = unsafe allocate(stream, state) else {
      var check = FieldCheck(isTrailers: false)
      try unsafe decode(block, nil, &check, state)
      return try unsafe ServerFrameReader.reset(stream, .refusedStream, state)
    }
    guard unsafe list(record, state) else {
      unsafe release(record, state)
      throw .protocolViolation(.internalError)
    }
    if let notes = unsafe state.pointee.headerCache.find(block) {
      unsafe acceptKnown(record, notes, endsStream)
    } else {
      let resolved = unsafe resolve(block, state)
      if let resolved, let notes = unsafe state.pointee.resolvedCache.find(resolvedKey(state)) {
        guard try unsafe enter(resolved, of: block, record, state) else { return }
        unsafe acceptKnown(record, notes, endsStream)
      } else {
        guard try unsafe readNew(block, resolved, record, state) else { return }
      }
    }
    if endsStream { try unsafe ServerFrameReader.endReceived(record) }
  }

  /// A block that came before: its meaning is known.
  private static func acceptKnown(
    _ record: UnsafeMutablePointer<StreamRecord>, _ notes: UnsafeMutablePointer<HeaderNotes>,
    _ endsStream: Bool
  ) {
    unsafe notes.pointee.references += 1
    unsafe record.pointee.notes = notes
    unsafe record.pointee.policy = notes.pointee.policy
    unsafe record.pointee.contentLength = notes.pointee.contentLength
    unsafe record.pointee.flags.insert(.accepted)
    // A stream that may be silent for as long as it likes begins now, not with its first bytes.
    guard unsafe notes.pointee.policy.isStreaming, !endsStream,
      let state = unsafe record.pointee.connection
    else { return }
    unsafe state.pointee.context.pointee.events.append(.data, record)
  }

  /// Decodes a block that is new, and remembers it until the owner has said what it means. False where the
  /// stream was reset.
  private static func readNew(
    _ block: UnsafeBufferPointer<UInt8>, _ resolved: ResolvedBlock?,
    _ record: UnsafeMutablePointer<StreamRecord>,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) -> Bool {
    let context = unsafe state.pointee.context
    var check = FieldCheck(isTrailers: false)
    let changesTable = try unsafe decode(block, record, &check, state)
    guard try unsafe accept(record, check) else { return false }
    if check.isTooLarge { return true }
    let stream = unsafe record.pointee.number
    if !changesTable {
      unsafe state.pointee.headerCache.begin(block, stream: stream, &context.pointee.pool)
    } else if resolved != nil, let index = unsafe context.pointee.changingField,
      // Of two, the owner may have taken the other one.
      unsafe !Stream(record).isFieldRepeated(index)
    {
      unsafe state.pointee.resolvedCache.begin(
        resolvedKey(state), stream: stream, &context.pointee.pool)
    }
    return true
  }

  // MARK: Blocks with a field that changes in every call

  private static func resolve(
    _ block: UnsafeBufferPointer<UInt8>, _ state: UnsafeMutablePointer<ServerConnectionState>
  ) -> ResolvedBlock? {
    let context = unsafe state.pointee.context
    guard let index = unsafe context.pointee.changingField else { return nil }
    return unsafe state.pointee.decoder.resolve(
      block.span, changing: context.pointee.captured[index], hashKey: context.pointee.fieldKey,
      into: &context.pointee.resolvedKey)
  }

  private static func resolvedKey(
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) -> UnsafeBufferPointer<UInt8> {
    unsafe state.pointee.context.pointee.resolvedKey.bytes
  }

  /// Takes the one field of a known block that is new. False where the stream was reset.
  private static func enter(
    _ resolved: ResolvedBlock, of block: UnsafeBufferPointer<UInt8>,
    _ record: UnsafeMutablePointer<StreamRecord>,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) -> Bool {
    let context = unsafe state.pointee.context
    unsafe state.pointee.headerCache.forget(&context.pointee.pool)
    // Its pseudo-header fields were checked when the block was new.
    var fields = unsafe RequestFields(
      check: FieldCheck(isTrailers: true), record: record, context: context)
    do throws(HPACKError) {
      try unsafe state.pointee.decoder.enter(
        resolved, of: block.span, &context.pointee.scratch, &fields)
    } catch {
      throw .protocolViolation(.compressionError)
    }
    if unsafe !fields.check.isMalformed { return true }
    try unsafe ServerFrameReader.reset(record, .protocolError)
    return false
  }

  // MARK: Streams

  private static func isRefusing(_ state: UnsafeMutablePointer<ServerConnectionState>) -> Bool {
    let most = unsafe state.pointee.context.pointee.limits.concurrentStreams
    let open = unsafe state.pointee.streams.count + state.pointee.draining.count
    return unsafe state.pointee.refusesAfter != nil || open >= most
  }

  /// A new stream's record; nil where there is no room.
  private static func allocate(
    _ stream: Int32, _ state: UnsafeMutablePointer<ServerConnectionState>
  ) -> UnsafeMutablePointer<StreamRecord>? {
    guard let record = unsafe state.pointee.context.pointee.streams.allocate() else { return nil }
    unsafe record.pointee.connection = state
    unsafe record.pointee.number = stream
    return unsafe record
  }

  /// Lists a new stream and lets it be found by its number; false where there is no room.
  private static func list(
    _ record: UnsafeMutablePointer<StreamRecord>,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) -> Bool {
    let context = unsafe state.pointee.context
    guard unsafe state.pointee.streams.insert(record, &context.pointee.pool) else { return false }
    unsafe record.pointee.sendWindow = state.pointee.peerInitialWindow
    unsafe record.pointee.receiveWindow = Int64(context.pointee.limits.streamWindowBytes)
    unsafe record.pointee.openedNanoseconds = context.pointee.nowNanoseconds
    unsafe record.pointee.next = state.pointee.firstStream
    if let first = unsafe state.pointee.firstStream { unsafe first.pointee.previous = record }
    unsafe state.pointee.firstStream = record
    return true
  }

  /// Gives back the record of a stream that was never listed.
  static func release(
    _ record: UnsafeMutablePointer<StreamRecord>,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) {
    let context = unsafe state.pointee.context
    unsafe record.pointee.dropFields(&context.pointee.pool)
    unsafe context.pointee.streams.release(record)
  }

  /// What a request's fields lead to. False where the stream was reset.
  private static func accept(
    _ record: UnsafeMutablePointer<StreamRecord>, _ check: FieldCheck
  ) throws(ConnectionFault) -> Bool {
    guard let state = unsafe record.pointee.connection else { return false }
    let context = unsafe state.pointee.context
    if check.isTooLarge {
      unsafe context.pointee.events.append(.headerListTooLarge, record)
      return true
    }
    if !check.isGoodRequest {
      try unsafe ServerFrameReader.reset(record, .protocolError)
      return false
    }
    unsafe record.pointee.contentLength = check.contentLength
    unsafe context.pointee.events.append(.head, record)
    return true
  }

  private static func trailers(
    _ stream: Int32, _ check: FieldCheck, endsStream: Bool,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) {
    guard let record = unsafe state.pointee.streams.find(stream) else {
      if let index = unsafe state.pointee.draining.find(stream) {
        unsafe state.pointee.endDraining(index)
        if endsStream && !check.isMalformed { return }
        return try unsafe ServerFrameReader.reset(stream, .protocolError, state)
      }
      // Section 5.1: on a closed stream this is an error, unless our reset was still on its way.
      guard unsafe state.pointee.resetStreams.mayBeLate(stream) else {
        throw .protocolViolation(.streamClosed)
      }
      return try unsafe ServerFrameReader.spendLateFrame(state)
    }
    if unsafe record.pointee.flags.contains(.endReceived) {
      return try unsafe ServerFrameReader.reset(record, .streamClosed)
    }
    // Section 8.1: trailers end the stream, and have no pseudo-header fields.
    if !endsStream || check.isMalformed {
      return try unsafe ServerFrameReader.reset(record, .protocolError)
    }
    try unsafe ServerFrameReader.endReceived(record)
  }

  // MARK: HPACK (RFC 7541)

  /// Decodes a whole block; the captured fields are kept in `record`. Whether it changed the dynamic table.
  @discardableResult
  private static func decode(
    _ block: UnsafeBufferPointer<UInt8>, _ record: UnsafeMutablePointer<StreamRecord>?,
    _ check: inout FieldCheck, _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) -> Bool {
    let block = unsafe block.span
    let changesTable = HPACKBlock.changesTable(block)
    if changesTable {
      // The dynamic table gives a block its meaning.
      let context = unsafe state.pointee.context
      unsafe state.pointee.headerCache.forget(&context.pointee.pool)
    }
    unsafe state.pointee.headerBytes = block.count
    _ = try unsafe decode(block, isLast: true, record, &check, state)
    return changesTable
  }

  /// Decodes a part of a block. Returns how many of its bytes were used.
  private static func decode(
    _ part: Span<UInt8>, isLast: Bool, _ record: UnsafeMutablePointer<StreamRecord>?,
    _ check: inout FieldCheck, _ state: UnsafeMutablePointer<ServerConnectionState>
  ) throws(ConnectionFault) -> Int {
    let context = unsafe state.pointee.context
    var fields = unsafe RequestFields(check: check, record: record, context: context)
    let used: Int
    do throws(HPACKError) {
      used = try unsafe state.pointee.decoder.decode(
        part, isLast: isLast, &context.pointee.scratch, &fields)
    } catch {
      throw .protocolViolation(.compressionError)
    }
    check = unsafe fields.check
    // One-byte references to large entries of the table cost us, not the peer.
    if unsafe check.listBytes > context.pointee.limits.headerBlockBytesMax * 4 {
      throw .headerListFlood
    }
    guard isLast, check.isTooLarge else { return used }
    // Such a call costs as much as its bytes: a reset for each frame's worth.
    for _ in unsafe 0...state.pointee.headerBytes / Defaults.frameBytesMax {
      try unsafe ServerFrameReader.spendReset(state)
    }
    return used
  }
}

/// Checks a request's fields, and captures those that the owner wants to see.
@unsafe private struct RequestFields: HPACKFieldSink {
  var check: FieldCheck
  let record: UnsafeMutablePointer<StreamRecord>?
  let context: UnsafeMutablePointer<ContextState>

  mutating func field(_ name: Span<UInt8>, _ value: Span<UInt8>) {
    // RFC 9113 section 6.5.2: 32 bytes of overhead a field.
    guard unsafe count(name.count + value.count + 32) else { return }
    // The values of pseudo-header fields stand for themselves: " /a" is no path, and not that of "/a".
    let isPseudo = name.count > 0 && name[0] == UInt8(ascii: ":")
    let value = isPseudo ? value : value.extracting(FieldText.trimmed(value))
    unsafe check.add(name, value)
    guard let record = unsafe record else { return }
    for index in unsafe 0..<context.pointee.capturedCount
    where unsafe name.says(context.pointee.captured[index]) {
      unsafe value.withUnsafeBufferPointer {
        unsafe record.pointee.capture(index, $0, &context.pointee.pool)
      }
      return
    }
  }

  mutating func skippedField(listBytes: Int) { _ = unsafe count(listBytes) }

  /// Whether the list is within its limit with so many bytes more.
  private mutating func count(_ bytes: Int) -> Bool {
    unsafe check.listBytes += bytes
    if unsafe check.listBytes <= context.pointee.limits.headerListBytesMax { return true }
    unsafe check.isTooLarge = true
    return false
  }
}
