// How responses get out. The owner writes them once, into the stream's outgoing bytes, and releases them
// when they may be seen; from there HEADERS, DATA as the peer's windows allow, and trailers go straight
// into the loop's output buffer (RFC 9113 sections 5.2, 6.1, 6.2, 8.1).

extension ServerContext {
  /// Room behind the stream's outgoing bytes, for `commit`. What is longer goes through `append`.
  package func room(_ stream: Stream) -> UnsafeMutableRawBufferPointer {
    let record = unsafe stream.record
    unsafe record.pointee.dropSentBytes()
    let bytes = unsafe record.pointee.outgoing
    return unsafe UnsafeMutableRawBufferPointer(
      start: bytes.start + bytes.count, count: bytes.capacity - bytes.count)
  }

  /// Makes the room `count` bytes long at least. False where the loop's budget for responses is spent.
  package func makeRoom(_ count: Int, in stream: Stream) -> Bool {
    let record = unsafe stream.record
    guard !stream.isClosed, let connection = unsafe record.pointee.connection else { return true }
    unsafe record.pointee.dropSentBytes()
    return unsafe state.pointee.reserve(
      count, in: &record.pointee.outgoing, of: connection)
  }

  /// Puts other bytes in the place of those at `position`, of which none was released.
  package func overwrite(_ stream: Stream, at position: Int, with bytes: Span<UInt8>) {
    let record = unsafe stream.record
    let offset = unsafe position - record.pointee.droppedCount
    precondition(
      unsafe offset >= record.pointee.releasedCount
        && offset + bytes.count <= record.pointee.outgoing.count,
      "what was not written yet, or may be out")
    for index in bytes.indices {
      unsafe record.pointee.outgoing.start[offset + index] = bytes[index]
    }
  }

  /// `count` bytes of data were written into the room.
  package func commit(_ count: Int, to stream: Stream) {
    let record = unsafe stream.record
    guard let connection = unsafe record.pointee.connection, !stream.isClosed, !stream.hasResponse
    else {
      return
    }
    let bytes = unsafe record.pointee.outgoing
    precondition(count >= 0 && count <= bytes.capacity - bytes.count, "more than there is room for")
    unsafe record.pointee.outgoing.count += count
    unsafe connection.pointee.queuedBytes += count
  }

  /// Appends data to the response. False where the loop's budget for responses is spent.
  package func append(_ data: Span<UInt8>, to stream: Stream) -> Bool {
    guard !stream.isClosed, !stream.hasResponse else { return true }
    unsafe stream.record.pointee.dropSentBytes()
    return appendBytes(data, to: stream)
  }

  /// Gives the response header fields of its own, beside the constant one; before any data.
  package func begin(_ stream: Stream, headers: HeaderFields) -> Bool {
    let record = unsafe stream.record
    guard !stream.isClosed, !stream.hasResponse else { return true }
    precondition(unsafe record.pointee.outgoing.count == 0, "header fields come before data")
    let count = headers.byteCount
    guard headers.withBlock({ appendBytes($0, to: stream) }) else { return false }
    precondition(count <= OutputBuffer.responseHeadersBytesMax, "too many header fields")
    unsafe record.pointee.headersCount = count
    unsafe record.pointee.flags.insert(.ownHeaders)
    return true
  }

  /// Ends the response: with the trailers given, or with the constant one.
  package func end(_ stream: Stream, trailers: HeaderFields? = nil) {
    let record = unsafe stream.record
    guard !stream.isClosed, !stream.hasResponse else { return }
    if let trailers {
      guard trailers.withBlock({ appendBytes($0, to: stream, isFinal: true) }) else { return }
      unsafe record.pointee.trailersCount = trailers.byteCount
    }
    unsafe record.pointee.flags.insert([.responseEnds, .discards])
  }

  /// Responds with headers alone. Whatever the peer still sends is dropped.
  package func respond(_ stream: Stream, headersOnly block: Span<UInt8>) {
    let record = unsafe stream.record
    guard !stream.isClosed, !stream.hasResponse else { return }
    precondition(unsafe record.pointee.outgoing.count == 0, "the response has begun")
    guard appendBytes(block, to: stream, isFinal: true) else { return }
    unsafe record.pointee.flags.insert([.responseEnds, .discards, .headersOnly])
  }

  /// Responds with headers alone that are kept: they are not copied, and short where this connection had
  /// them before.
  package func respond(_ stream: Stream, headersOnly kept: UnsafeMutablePointer<KeptBlock>) {
    let record = unsafe stream.record
    guard !stream.isClosed, !stream.hasResponse else { return }
    precondition(unsafe record.pointee.outgoing.count == 0, "the response has begun")
    // A byte stands for it, so that there is something to be held back, released and sent.
    let placeholder: InlineArray<1, UInt8> = [0]
    guard appendBytes(placeholder.span, to: stream, isFinal: true) else { return }
    unsafe record.pointee.keptBlock = kept
    unsafe kept.pointee.references += 1
    unsafe record.pointee.flags.insert([.responseEnds, .discards, .headersOnly])
  }

  /// Ends the response with these trailers, a header block.
  package func end(_ stream: Stream, trailers block: Span<UInt8>) {
    guard !stream.isClosed, !stream.hasResponse, appendBytes(block, to: stream, isFinal: true)
    else { return }
    unsafe stream.record.pointee.trailersCount = block.count
    unsafe stream.record.pointee.flags.insert([.responseEnds, .discards])
  }

  /// Where the response ends so far, for `release(_:upTo:)`.
  package func position(_ stream: Stream) -> Int {
    unsafe stream.record.pointee.droppedCount + stream.record.pointee.outgoing.count
  }

  /// The response may be seen up to `position`.
  package func release(_ stream: Stream, upTo position: Int) {
    let record = unsafe stream.record
    guard !stream.isClosed, let connection = unsafe record.pointee.connection else { return }
    let count = unsafe min(
      position - record.pointee.droppedCount, record.pointee.outgoing.count)
    if unsafe count > record.pointee.releasedCount {
      unsafe record.pointee.releasedCount = count
    }
    unsafe connection.pointee.listToSend(record)
  }

  /// A `writable` event comes once half of what the stream has queued is out.
  package func tellWhenWritable(_ stream: Stream) {
    guard !stream.isClosed else { return }
    unsafe stream.record.pointee.tellsWritableAt = max(1, stream.queuedBytes / 2)
  }

  /// Takes back what was not released: the call ends in another way.
  package func discardUnreleased(_ stream: Stream) {
    let record = unsafe stream.record
    guard !stream.isClosed, let connection = unsafe record.pointee.connection,
      !stream.isWholeReleased
    else { return }
    let dropped = unsafe record.pointee.outgoing.count - record.pointee.releasedCount
    unsafe connection.pointee.queuedBytes -= dropped
    unsafe record.pointee.outgoing.count -= dropped
    unsafe record.pointee.trailersCount = 0
    unsafe record.pointee.dropKeptBlock()
    unsafe record.pointee.flags.subtract([.responseEnds, .headersOnly])
    if unsafe record.pointee.outgoing.count == 0 && record.pointee.droppedCount == 0 {
      unsafe record.pointee.headersCount = 0
      unsafe record.pointee.flags.remove(.ownHeaders)
    }
  }

  /// - Parameter isFinal: exempt from the budget: an error is what a spent budget is answered with.
  private func appendBytes(_ bytes: Span<UInt8>, to stream: Stream, isFinal: Bool = false) -> Bool {
    let record = unsafe stream.record
    guard let connection = unsafe record.pointee.connection,
      unsafe state.pointee.reserve(
        bytes.count, in: &record.pointee.outgoing, of: connection, isRefusal: isFinal)
    else { return false }
    unsafe bytes.withUnsafeBufferPointer { source in
      guard let base = source.baseAddress else { return }
      unsafe record.pointee.outgoing.append(base, source.count)
    }
    unsafe connection.pointee.queuedBytes += bytes.count
    return true
  }
}

extension Stream {
  fileprivate var isWholeReleased: Bool {
    unsafe record.pointee.flags.contains(.responseEnds)
      && record.pointee.releasedCount == record.pointee.outgoing.count
  }
}

extension ServerConnection {
  /// Moves frames to the context's output until it is full or nothing may be sent.
  package func fillOutput() {
    let context = unsafe state.pointee.context
    unsafe flushControl(context)
    while let record = unsafe state.pointee.toSend.first,
      unsafe context.pointee.output.hasRoomForFrame
    {
      unsafe ResponseWriter.write(record, state, context)
    }
    unsafe flushControl(context)
  }

  /// Control frames are short and few: as many as fit.
  private func flushControl(_ context: UnsafeMutablePointer<ContextState>) {
    guard let start = unsafe state.pointee.control.start, unsafe state.pointee.control.count > 0
    else { return }
    let count = unsafe min(state.pointee.control.count, context.pointee.output.room)
    unsafe context.pointee.output.append(start, count)
    unsafe state.pointee.control.removeFirst(count)
    if unsafe state.pointee.control.count == 0 {
      unsafe state.pointee.control.destroy(&context.pointee.pool)
    }
  }
}

enum ResponseWriter {
  /// Writes what may be sent of one stream, at most one DATA frame, and lists it again behind the
  /// others where there is more: large responses take turns.
  static func write(
    _ record: UnsafeMutablePointer<StreamRecord>,
    _ state: UnsafeMutablePointer<ServerConnectionState>,
    _ context: UnsafeMutablePointer<ContextState>
  ) {
    unsafe state.pointee.unlistToSend(record)
    guard unsafe record.pointee.hasReleased else { return }
    let isWhole = unsafe record.pointee.releasedCount == record.pointee.outgoing.count
    if unsafe record.pointee.flags.contains(.headersOnly) {
      guard isWhole else { return }
      unsafe writeLastBlock(record, state, context)
      return unsafe responseIsOut(record, state)
    }
    if unsafe !record.pointee.flags.contains(.headersSent) {
      unsafe record.pointee.flags.insert(.headersSent)
      unsafe writeHeaders(record, state, context)
    }
    let trailersCount = unsafe record.pointee.trailersCount
    let dataEnd = unsafe min(
      record.pointee.releasedCount, record.pointee.outgoing.count - trailersCount)
    let left = unsafe dataEnd - record.pointee.sentCount
    if left > 0 {
      if unsafe record.pointee.sendWindow <= 0 {
        unsafe record.pointee.flags.insert(.blocked)
        return unsafe state.pointee.noteStalled(record)
      }
      if unsafe state.pointee.sendWindow <= 0 {
        unsafe state.pointee.noteStalled(record)
        return unsafe state.pointee.waitForConnection.append(record, as: .waitsForConnection)
      }
      let credit = unsafe min(state.pointee.sendWindow, record.pointee.sendWindow)
      let length = min(left, Int(clamping: credit), Defaults.frameBytesMax)
      unsafe writeData(record, state, length, context)
      // The output has room for one long frame, so trailers of their own wait for the next.
      if length < left || trailersCount > 0 { return unsafe state.pointee.listToSend(record) }
    }
    guard unsafe record.pointee.flags.contains(.responseEnds), isWhole else { return }
    if trailersCount > 0 {
      unsafe writeLastBlock(record, state, context)
    } else {
      unsafe writeBlock(
        record, flags: FrameFlag.endHeaders | FrameFlag.endStream, &context.pointee.output
      ) { unsafe state.pointee.encoder.writeTrailers(context.pointee.constantTrailer, $0) }
    }
    unsafe responseIsOut(record, state)
  }

  /// The stream is closed once both sides have ended it.
  private static func responseIsOut(
    _ record: UnsafeMutablePointer<StreamRecord>,
    _ state: UnsafeMutablePointer<ServerConnectionState>
  ) {
    if unsafe !record.pointee.flags.contains(.endReceived), unsafe !state.pointee.drain(record) {
      // Section 8.1: NO_ERROR asks the peer to stop sending without ill will.
      unsafe state.pointee.sendReset(record.pointee.number, .noError)
    }
    unsafe ServerConnectionState.closeStream(record)
  }

  private static func writeHeaders(
    _ record: UnsafeMutablePointer<StreamRecord>,
    _ state: UnsafeMutablePointer<ServerConnectionState>,
    _ context: UnsafeMutablePointer<ContextState>
  ) {
    let own = unsafe record.pointee.headersCount
    unsafe writeBlock(record, flags: FrameFlag.endHeaders, &context.pointee.output) { out in
      let count = unsafe state.pointee.encoder.writeHeaders(context.pointee.constantHeader, out)
      if own > 0 { unsafe (out + count).update(from: record.pointee.outgoing.start, count: own) }
      return count + own
    }
    unsafe record.pointee.sentCount += own
    unsafe state.pointee.queuedBytes -= own
  }

  private static func writeData(
    _ record: UnsafeMutablePointer<StreamRecord>,
    _ state: UnsafeMutablePointer<ServerConnectionState>,
    _ length: Int, _ context: UnsafeMutablePointer<ContextState>
  ) {
    let start = unsafe context.pointee.output.end
    unsafe Wire.putHeader(
      start, length: length, type: FrameType.data, flags: 0, stream: record.pointee.number)
    unsafe (start + FrameHeader.length).update(
      from: record.pointee.outgoing.start + record.pointee.sentCount, count: length)
    unsafe context.pointee.output.count += FrameHeader.length + length
    unsafe record.pointee.sentCount += length
    unsafe record.pointee.stalledSinceNanoseconds = 0
    unsafe record.pointee.sendWindow -= Int64(length)
    unsafe state.pointee.sendWindow -= Int64(length)
    unsafe state.pointee.queuedBytes -= length
    if unsafe record.pointee.tellsWritableAt > 0,
      unsafe record.pointee.outgoing.count - record.pointee.sentCount
        <= record.pointee.tellsWritableAt
    {
      unsafe record.pointee.tellsWritableAt = 0
      unsafe context.pointee.events.append(.writable, record)
    }
  }

  private static func writeBlock(
    _ record: UnsafeMutablePointer<StreamRecord>, flags: UInt8, _ output: inout OutputBuffer,
    _ write: (UnsafeMutablePointer<UInt8>) -> Int
  ) {
    let start = unsafe output.end
    let length = unsafe write(start + FrameHeader.length)
    unsafe Wire.putHeader(
      start, length: length, type: FrameType.headers, flags: flags, stream: record.pointee.number)
    output.count += FrameHeader.length + length
  }

  /// Writes the rest of the outgoing bytes, a header block or what stands for one, as the last frame of the
  /// stream.
  private static func writeLastBlock(
    _ record: UnsafeMutablePointer<StreamRecord>,
    _ state: UnsafeMutablePointer<ServerConnectionState>,
    _ context: UnsafeMutablePointer<ContextState>
  ) {
    let block = unsafe UnsafeBufferPointer(
      start: record.pointee.outgoing.start + record.pointee.sentCount,
      count: record.pointee.outgoing.count - record.pointee.sentCount)
    unsafe writeBlock(
      record, flags: FrameFlag.endHeaders | FrameFlag.endStream, &context.pointee.output
    ) {
      if let kept = unsafe record.pointee.keptBlock {
        return unsafe state.pointee.encoder.writeKept(kept, context.pointee.constantHeader, $0)
      }
      return unsafe state.pointee.encoder.writeLiterals(block, $0)
    }
    unsafe record.pointee.sentCount += block.count
    unsafe state.pointee.queuedBytes -= block.count
  }
}
