// How an answer gets out. The trailers of a good unary answer, grpc-status: 0, are always the same 24
// bytes: they are written right behind the DATA frame instead of being queued and compressed, which
// saves a quarter of the session's work (DESIGN section 9).
internal import CNGHTTP2

extension SessionContext {
  /// Sends a message with its five-byte gRPC prefix; response headers go out before the first one.
  /// Where `ends`, trailers with status 0 follow. False where the stream is gone or the loop's budget
  /// for answers is spent.
  @discardableResult
  package func send(_ message: Span<UInt8>, on stream: StreamID, ends: Bool) -> Bool {
    guard let record = unsafe open(stream) else { return false }
    if unsafe record.pointee.answerOffset == record.pointee.answer.count {
      unsafe record.pointee.answerOffset = 0
      unsafe record.pointee.answer.count = 0
    }
    let length = message.count + 5
    guard unsafe state.pointee.reserve(length, in: &record.pointee.answer) else { return false }
    let at = unsafe record.pointee.answer.start + record.pointee.answer.count
    unsafe at[0] = 0
    for index in 0..<4 {
      unsafe at[1 + index] = UInt8(truncatingIfNeeded: message.count >> (24 - 8 * index))
    }
    unsafe message.withUnsafeBufferPointer { source in
      guard let base = source.baseAddress else { return }
      unsafe (at + 5).update(from: base, count: source.count)
    }
    unsafe record.pointee.answer.count += length
    if let session = unsafe record.pointee.session { unsafe session.pointee.queuedBytes += length }
    if ends { unsafe record.pointee.flags.insert([.answerEnds, .discards]) }
    return unsafe begin(record)
  }

  /// Ends an answer that has begun, with `status` in the trailers.
  package func end(_ stream: StreamID, status: UInt8) {
    guard let record = unsafe open(stream) else { return }
    unsafe record.pointee.endStatus = status
    unsafe record.pointee.flags.insert([.answerEnds, .discards, .libraryTrailers])
    _ = unsafe begin(record)
  }

  /// Answers with headers alone (gRPC over HTTP/2, Trailers-Only): `fields` beside :status and
  /// content-type. Whatever the peer still sends is dropped, and it is told to stop.
  package func sendHeadersOnly(
    on stream: StreamID, httpStatus: Int, fields: HeaderFields
  ) {
    guard let record = unsafe open(stream), let session = unsafe record.pointee.session,
      unsafe !record.pointee.flags.contains(.answered)
    else { return }
    unsafe record.pointee.flags.insert([.answered, .answerEnds, .discards])
    let library = unsafe session.pointee.library
    let number = unsafe record.pointee.number
    unsafe fields.withEntries(httpStatus: httpStatus) { entries, count in
      // Codes: 0, NGHTTP2_ERR_NOMEM, _INVALID_ARGUMENT (not with a stream that is open),
      // _DATA_EXIST (not without data), _PROTO (client side only). The library copies the values.
      _ = unsafe nghttp2_submit_response(library, number, entries, count, nil)
    }
    if unsafe !record.pointee.flags.contains(.endReceived) {
      unsafe record.pointee.flags.insert(.stopsPeer)
      unsafe session.pointee.hasStreamsToStop = true
    }
  }

  /// Submits the response headers, or wakes the stream where they are out already.
  private func begin(_ record: UnsafeMutablePointer<StreamRecord>) -> Bool {
    guard let session = unsafe record.pointee.session else { return false }
    let library = unsafe session.pointee.library
    if unsafe record.pointee.flags.contains(.answered) {
      if unsafe record.pointee.flags.contains(.deferred) {
        unsafe record.pointee.flags.remove(.deferred)
        // Codes: 0, NGHTTP2_ERR_INVALID_ARGUMENT (not deferred: it is then awake anyway), _NOMEM.
        _ = unsafe nghttp2_session_resume_data(library, record.pointee.number)
      }
      return true
    }
    unsafe record.pointee.flags.insert(.answered)
    var provider = unsafe nghttp2_data_provider(
      source: nghttp2_data_source(ptr: record),
      read_callback: { library, _, _, length, flags, source, user in
        unsafe ResponseWriting.read(library, length, flags, source, user)
      })
    let constants = unsafe state.pointee.constants
    // Codes: as in sendHeadersOnly.
    let code = unsafe nghttp2_submit_response(
      library, record.pointee.number, constants.headers, ResponseConstants.headerCount, &provider)
    return code == 0
  }
}

/// The callbacks that give libnghttp2 an answer's bytes.
@safe enum ResponseWriting {
  private static let endStream = UInt8(NGHTTP2_FLAG_END_STREAM.rawValue)

  /// How many bytes the next DATA frame takes (nghttp2_data_source_read_callback).
  static func read(
    _ library: OpaquePointer?, _ room: Int, _ flags: UnsafeMutablePointer<UInt32>?,
    _ source: UnsafeMutablePointer<nghttp2_data_source>?, _ user: UnsafeMutableRawPointer?
  ) -> Int {
    guard let record = unsafe source?.pointee.ptr?.assumingMemoryBound(to: StreamRecord.self),
      let session = unsafe record.pointee.session, let flags = unsafe flags
    else { return Int(NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue) }
    let left = unsafe record.pointee.answer.count - record.pointee.answerOffset
    let ends = unsafe record.pointee.flags.contains(.answerEnds)
    if left == 0 && !ends {
      unsafe record.pointee.flags.insert(.deferred)
      return Int(NGHTTP2_ERR_DEFERRED.rawValue)
    }
    let count = min(left, room)
    if count > 0 { unsafe flags.pointee |= NGHTTP2_DATA_FLAG_NO_COPY.rawValue }
    if count == left && ends {
      unsafe flags.pointee |= NGHTTP2_DATA_FLAG_EOF.rawValue
      if unsafe session.pointee.peerChangedTableSize { unsafe record.pointee.flags.insert(.libraryTrailers) }
      if unsafe record.pointee.flags.contains(.libraryTrailers) {
        unsafe flags.pointee |= NGHTTP2_DATA_FLAG_NO_END_STREAM.rawValue
        unsafe submitTrailers(library, record)
      }
    }
    return count
  }

  private static func submitTrailers(
    _ library: OpaquePointer?, _ record: UnsafeMutablePointer<StreamRecord>
  ) {
    // Two digits at most (StatusCode), most significant first.
    let status = unsafe record.pointee.endStatus
    var digits: (UInt8, UInt8) = (48 + status / 10, 48 + status % 10)
    let skip = status < 10 ? 1 : 0
    let name: StaticString = "grpc-status"
    unsafe withUnsafeMutableBytes(of: &digits) { digits in
      let start = unsafe digits.bindMemory(to: UInt8.self).baseAddress
      var entry = unsafe nghttp2_nv(
        name: UnsafeMutablePointer(mutating: name.utf8Start), value: start.map { unsafe $0 + skip },
        namelen: name.utf8CodeUnitCount, valuelen: 2 - skip, flags: 0)
      // Codes: 0, NGHTTP2_ERR_NOMEM, _INVALID_ARGUMENT (not with an open stream). It copies.
      _ = unsafe nghttp2_submit_trailer(library, record.pointee.number, &entry, 1)
    }
  }

  /// Writes a DATA frame to the output (nghttp2_send_data_callback): its 9-byte header, the bytes, and
  /// behind the last ones our own trailers.
  static func sendData(
    _ head: UnsafePointer<UInt8>?, _ length: Int, _ source: UnsafeMutablePointer<nghttp2_data_source>?,
    _ user: UnsafeMutableRawPointer?
  ) -> Int32 {
    guard let record = unsafe source?.pointee.ptr?.assumingMemoryBound(to: StreamRecord.self),
      let session = unsafe record.pointee.session, let head = unsafe head
    else { return Int32(NGHTTP2_ERR_CALLBACK_FAILURE.rawValue) }
    let context = unsafe session.pointee.context
    guard unsafe context.pointee.output.hasRoomForFrame else {
      return Int32(NGHTTP2_ERR_WOULDBLOCK.rawValue)
    }
    let frame = unsafe context.pointee.output.storage + context.pointee.output.count
    unsafe context.pointee.output.append(head, 9)
    unsafe context.pointee.output.append(
      record.pointee.answer.start + record.pointee.answerOffset, length)
    unsafe record.pointee.answerOffset += length
    unsafe session.pointee.queuedBytes -= length
    if unsafe frame[4] & endStream != 0 {
      // The stream does not end with the data but with the trailers behind it.
      unsafe frame[4] &= ~endStream
      let constants = unsafe context.pointee.constants
      let trailers = unsafe context.pointee.output.storage + context.pointee.output.count
      unsafe context.pointee.output.append(constants.trailers, ResponseConstants.trailersLength)
      // The stream's number stands in the DATA frame's header already.
      for index in 5..<9 { unsafe trailers[index] = frame[index] }
    }
    return 0
  }
}
