// What the owner of a context may ask and say about one stream. A stale name is never an error: the
// stream went away, and whatever was asked of it does not matter any more.

extension SessionContext {
  /// The stream's connection; nil where the stream is gone.
  package func session(of stream: StreamID) -> Session? {
    guard let record = unsafe open(stream), let session = unsafe record.pointee.session else {
      return nil
    }
    return unsafe Session(state: session)
  }

  /// The owner's notes.
  package func notes(of stream: StreamID) -> StreamNotes? {
    unsafe state.pointee.streams.find(stream)?.pointee.notes
  }

  package func setNotes(_ notes: StreamNotes, of stream: StreamID) {
    unsafe state.pointee.streams.find(stream)?.pointee.notes = notes
  }

  /// The peer has sent everything.
  package func hasEnded(_ stream: StreamID) -> Bool {
    unsafe state.pointee.streams.find(stream)?.pointee.flags.contains(.endReceived) ?? true
  }

  /// The answer has begun.
  package func isAnswered(_ stream: StreamID) -> Bool {
    unsafe state.pointee.streams.find(stream)?.pointee.flags.contains(.answered) ?? true
  }

  /// Bytes of the body that came so far, those that were dropped included.
  package func receivedBytes(of stream: StreamID) -> Int {
    unsafe Int(clamping: state.pointee.streams.find(stream)?.pointee.bodyReceived ?? 0)
  }

  /// From here on `data` events come for this stream, and for those with the same header block. Its
  /// window is given back as `consume` takes bytes; other streams' windows are larger than their bodies.
  package func wantData(_ stream: StreamID) {
    guard let record = unsafe open(stream), let session = unsafe record.pointee.session else {
      return
    }
    unsafe record.pointee.flags.insert(.wantsData)
    unsafe session.pointee.rememberWantsData(record)
  }

  /// Calls `body` with the values of the fields of interest after a `head` event; absent ones are empty.
  package func withFields<R>(
    of stream: StreamID,
    _ body: (Span<UInt8>, Span<UInt8>, Span<UInt8>, Span<UInt8>, Span<UInt8>) -> R
  ) -> R? {
    guard let record = unsafe open(stream) else { return nil }
    // One by one, since an Array of them would be allocated per call.
    return unsafe body(
      record.pointee.field(0).span, record.pointee.field(1).span, record.pointee.field(2).span,
      record.pointee.field(3).span, record.pointee.field(StreamRecord.keptField).span)
  }

  /// Whether a field of interest came more than once; the first was kept.
  /// - Parameter index: its place among the names that the context was made with.
  package func isFieldRepeated(_ index: Int, of stream: StreamID) -> Bool {
    guard let record = unsafe open(stream) else { return false }
    return unsafe record.pointee.fieldsRepeated & 1 << UInt8(index) != 0
  }

  /// What the fields mean: written to the stream's notes. Unless it is below zero, it is remembered for
  /// the connection as well: the next stream with the same header block has no `head` event.
  package func setHead(_ head: Int32, of stream: StreamID) {
    guard let record = unsafe open(stream), let session = unsafe record.pointee.session else {
      return
    }
    unsafe record.pointee.notes.head = head
    if head >= 0 { unsafe session.pointee.rememberHead(head, record) }
    // Only the kept field is needed any more.
    if unsafe record.pointee.fieldCounts[StreamRecord.keptField] == 0 {
      unsafe record.pointee.fieldBytes.destroy(&state.pointee.pool)
    }
  }

  /// Calls `body` with the request's body so far, and the value of the fifth field of interest.
  package func withBody<R>(
    of stream: StreamID, _ body: (_ bytes: Span<UInt8>, _ caller: Span<UInt8>) -> R
  ) -> R? {
    guard let record = unsafe open(stream) else { return nil }
    let bytes = unsafe UnsafeBufferPointer(
      start: record.pointee.body.start + record.pointee.bodyOffset,
      count: record.pointee.unreadCount)
    let caller = unsafe record.pointee.field(StreamRecord.keptField)
    return unsafe body(bytes.span, caller.span)
  }

  /// Drops the first `count` bytes of the body.
  package func consume(_ count: Int, of stream: StreamID) {
    guard let record = unsafe open(stream) else { return }
    let left = unsafe record.pointee.unreadCount - count
    guard left >= 0 else { return }
    unsafe record.pointee.bodyOffset += count
    unsafe record.pointee.dropConsumedBody()
    guard unsafe record.pointee.flags.contains(.wantsData), !hasEnded(stream),
      let session = unsafe record.pointee.session
    else { return }
    // By halves, so that a WINDOW_UPDATE is rare.
    let whole = unsafe Int64(state.pointee.limits.streamWindowBytes)
    let open = unsafe record.pointee.receiveWindow + Int64(left)
    if open < whole / 2 {
      unsafe session.pointee.sendWindowUpdate(whole - open, stream: record.pointee.number)
      unsafe record.pointee.receiveWindow += whole - open
    }
  }

  /// Calls `body` with the text of the timeout field; empty without one.
  package func withTimeout<R>(of stream: StreamID, _ body: (Span<UInt8>) -> R) -> R? {
    guard let record = unsafe open(stream) else { return nil }
    return unsafe body(record.pointee.timeout.span.extracting(0..<Int(record.pointee.timeoutCount)))
  }

  /// Whether there is a timeout field: the common case has none and need not look further.
  package func hasTimeout(_ stream: StreamID) -> Bool {
    unsafe state.pointee.streams.find(stream)?.pointee.flags.contains(.hasTimeout) ?? false
  }

  /// The last thing to do with a stream, after its `closed` event.
  package func release(_ stream: StreamID) {
    guard let record = unsafe state.pointee.streams.find(stream) else { return }
    unsafe record.pointee.forgetFields(&state.pointee.pool)
    unsafe state.pointee.reset(&record.pointee.body)
    unsafe state.pointee.reset(&record.pointee.answer)
    unsafe state.pointee.streams.release(record)
  }

  /// The record of a stream that is not closed.
  func open(_ stream: StreamID) -> UnsafeMutablePointer<StreamRecord>? {
    guard let record = unsafe state.pointee.streams.find(stream),
      unsafe !record.pointee.flags.contains(.closed)
    else { return nil }
    return unsafe record
  }
}
