// How answers get out: HEADERS, DATA as the peer's windows allow, and trailers, straight into the
// loop's output buffer (RFC 9113 sections 5.2, 6.1, 6.2, 8.1).

extension SessionContext {
  /// Sends a message with its five-byte gRPC prefix; response headers go out before the first one.
  /// Where `ends`, trailers with status 0 follow. False where the stream is gone or the loop's budget
  /// for answers is spent.
  @discardableResult
  package func send(_ message: Span<UInt8>, on stream: StreamID, ends: Bool) -> Bool {
    guard let record = unsafe open(stream), let session = unsafe record.pointee.session,
      unsafe !record.pointee.flags.contains(.answerEnds)
    else { return false }
    unsafe record.pointee.dropSentAnswer()
    let length = message.count + 5
    guard unsafe state.pointee.reserve(length, in: &record.pointee.answer, of: session) else {
      return false
    }
    let at = unsafe record.pointee.answer.start + record.pointee.answer.count
    unsafe at[0] = 0
    unsafe Wire.put(UInt32(clamping: message.count), at + 1)
    unsafe message.withUnsafeBufferPointer { source in
      guard let base = source.baseAddress else { return }
      unsafe (at + 5).update(from: base, count: source.count)
    }
    unsafe record.pointee.answer.count += length
    unsafe session.pointee.queuedBytes += length
    unsafe record.pointee.flags.insert(ends ? [.answered, .answerEnds, .discards] : .answered)
    unsafe session.pointee.listToSend(record)
    return true
  }

  /// Ends an answer, with status 0 in the trailers.
  package func end(_ stream: StreamID) {
    guard let record = unsafe open(stream), let session = unsafe record.pointee.session,
      unsafe !record.pointee.flags.contains(.answerEnds)
    else { return }
    unsafe record.pointee.flags.insert([.answered, .answerEnds, .discards])
    unsafe session.pointee.listToSend(record)
  }

  /// Ends an answer that has begun, with trailers that say why.
  package func end(_ stream: StreamID, trailers: HeaderFields) {
    guard let record = unsafe open(stream), let session = unsafe record.pointee.session,
      unsafe !record.pointee.flags.contains(.answerEnds)
    else { return }
    let block = unsafe trailers.block
    guard let base = block.baseAddress,
      unsafe state.pointee.reserve(
        block.count, in: &record.pointee.answer, of: session, isRefusal: true)
    else { return }
    unsafe record.pointee.answer.append(base, block.count)
    unsafe record.pointee.trailersCount = block.count
    unsafe session.pointee.queuedBytes += block.count
    unsafe record.pointee.flags.insert([.answered, .answerEnds, .discards])
    unsafe session.pointee.listToSend(record)
  }

  /// Answers with headers alone (gRPC over HTTP/2, Trailers-Only). Whatever the peer still sends is
  /// dropped, and it is told to stop.
  package func sendHeadersOnly(on stream: StreamID, fields: HeaderFields) {
    guard let record = unsafe open(stream), let session = unsafe record.pointee.session,
      unsafe !record.pointee.flags.contains(.answered)
    else { return }
    let block = unsafe fields.block
    guard let base = block.baseAddress,
      unsafe state.pointee.reserve(
        block.count, in: &record.pointee.answer, of: session, isRefusal: true)
    else { return }
    unsafe record.pointee.answer.append(base, block.count)
    unsafe session.pointee.queuedBytes += block.count
    unsafe record.pointee.flags.insert([.answered, .answerEnds, .discards, .headersOnly])
    unsafe session.pointee.listToSend(record)
  }
}

extension Session {
  /// Moves frames to the context's output until it is full or nothing may be sent.
  package func fillOutput() {
    let context = unsafe state.pointee.context
    unsafe flushControl(context)
    while let record = unsafe state.pointee.toSend.first,
      unsafe context.pointee.output.hasRoomForFrame
    {
      unsafe AnswerWriter.write(record, state, &context.pointee.output)
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

enum AnswerWriter {
  /// Writes what may be sent of one stream, at most one DATA frame, and lists it again behind the
  /// others where there is more: large answers take turns.
  static func write(
    _ record: UnsafeMutablePointer<StreamRecord>, _ state: UnsafeMutablePointer<SessionState>,
    _ output: inout OutputBuffer
  ) {
    unsafe state.pointee.unlistToSend(record)
    if unsafe record.pointee.flags.contains(.headersOnly) {
      unsafe writeKeptBlock(record, state, &output)
      return unsafe answerIsOut(record, state)
    }
    if unsafe !record.pointee.flags.contains(.headersSent) {
      unsafe record.pointee.flags.insert(.headersSent)
      unsafe writeBlock(record, flags: FrameFlag.endHeaders, &output) {
        unsafe state.pointee.answerHeaders.writeHeaders($0)
      }
    }
    let trailersCount = unsafe record.pointee.trailersCount
    let left = unsafe record.pointee.answer.count - record.pointee.answerOffset - trailersCount
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
      unsafe writeData(record, state, length, &output)
      // The output has room for one long frame, so trailers of their own wait for the next.
      if length < left || trailersCount > 0 { return unsafe state.pointee.listToSend(record) }
    }
    guard unsafe record.pointee.flags.contains(.answerEnds) else { return }
    if trailersCount > 0 {
      unsafe writeKeptBlock(record, state, &output)
    } else {
      unsafe writeBlock(record, flags: FrameFlag.endHeaders | FrameFlag.endStream, &output) {
        unsafe state.pointee.answerHeaders.writeTrailers($0)
      }
    }
    unsafe answerIsOut(record, state)
  }

  /// The stream is closed once both sides have ended it.
  private static func answerIsOut(
    _ record: UnsafeMutablePointer<StreamRecord>, _ state: UnsafeMutablePointer<SessionState>
  ) {
    if unsafe !record.pointee.flags.contains(.endReceived) {
      // Section 8.1: NO_ERROR asks the peer to stop sending without ill will.
      unsafe state.pointee.sendReset(record.pointee.number, .noError)
    }
    unsafe SessionState.closeStream(record)
  }

  private static func writeData(
    _ record: UnsafeMutablePointer<StreamRecord>, _ state: UnsafeMutablePointer<SessionState>,
    _ length: Int, _ output: inout OutputBuffer
  ) {
    let start = unsafe output.end
    unsafe Wire.putHeader(
      start, length: length, type: FrameType.data, flags: 0, stream: record.pointee.number)
    unsafe (start + FrameHeader.length).update(
      from: record.pointee.answer.start + record.pointee.answerOffset, count: length)
    output.count += FrameHeader.length + length
    unsafe record.pointee.answerOffset += length
    unsafe record.pointee.stalledSinceNanoseconds = 0
    unsafe record.pointee.sendWindow -= Int64(length)
    unsafe state.pointee.sendWindow -= Int64(length)
    unsafe state.pointee.queuedBytes -= length
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

  /// Writes the rest of the record's answer, a header block, as the last frame of the stream.
  private static func writeKeptBlock(
    _ record: UnsafeMutablePointer<StreamRecord>, _ state: UnsafeMutablePointer<SessionState>,
    _ output: inout OutputBuffer
  ) {
    let start = unsafe record.pointee.answer.start + record.pointee.answerOffset
    let count = unsafe record.pointee.answer.count - record.pointee.answerOffset
    unsafe writeBlock(record, flags: FrameFlag.endHeaders | FrameFlag.endStream, &output) { out in
      let update = unsafe state.pointee.answerHeaders.writeSizeUpdate(out)
      unsafe (out + update).update(from: start, count: count)
      return update + count
    }
    unsafe record.pointee.answerOffset += count
    unsafe state.pointee.queuedBytes -= count
  }
}
