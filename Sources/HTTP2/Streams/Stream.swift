// What the owner of a context may ask and say about one stream: requests. ResponseWriting.swift has the
// other direction.

/// A stream, from the first event that names it until `release`. Trivial to copy. Its owner must not use it
/// after `release`; to name it for longer, keep its `id`.
@safe package struct Stream {
  let record: UnsafeMutablePointer<StreamRecord>

  init(_ record: UnsafeMutablePointer<StreamRecord>) { unsafe self.record = record }

  /// The name under which it can be found again.
  package var id: StreamID {
    unsafe StreamID(index: record.pointee.index, generation: record.pointee.generation)
  }
  /// Where the owner may keep what it knows of the stream: below the largest number of open streams.
  package var index: Int { unsafe Int(record.pointee.index) }

  /// It is gone, by either side: whatever is done to it has no effect.
  package var isClosed: Bool { unsafe record.pointee.flags.contains(.closed) }
  /// The peer has sent everything.
  package var hasEnded: Bool { unsafe record.pointee.flags.contains(.endReceived) }
  /// Bytes of the body were dropped: it passed the policy's limit, or the loop has no room for it.
  package var isOversize: Bool { unsafe record.pointee.flags.contains(.oversize) }
  /// The response is whole, sent or not.
  package var hasResponse: Bool { unsafe record.pointee.flags.contains(.responseEnds) }
  /// The peer may have seen some of the response.
  package var isReleased: Bool {
    unsafe record.pointee.releasedCount > 0 || record.pointee.droppedCount > 0
      || (record.pointee.flags.contains(.responseEnds)
        && record.pointee.releasedCount == record.pointee.outgoing.count)
  }
  /// The response began with header fields of its own.
  package var hasOwnHeaders: Bool { unsafe record.pointee.flags.contains(.ownHeaders) }
  /// When its header block came, in monotonic nanoseconds.
  package var openedNanoseconds: Int64 { unsafe record.pointee.openedNanoseconds }
  /// Bytes of the body that came so far, those that were dropped included.
  package var receivedBytes: Int { unsafe Int(clamping: record.pointee.bodyReceived) }
  /// Bytes of the response that the peer has not taken, released or not.
  package var queuedBytes: Int { unsafe record.pointee.outgoing.count - record.pointee.sentCount }

  /// The stream's connection; only while it is not closed.
  package var connection: ServerConnection? {
    guard !isClosed, let state = unsafe record.pointee.connection else { return nil }
    return unsafe ServerConnection(state: state)
  }

  /// What the owner made of the header block (`ServerContext.accept`); nil before it has. Valid until
  /// `release`.
  @unsafe package var notes: UnsafeMutableRawPointer? {
    guard let notes = unsafe record.pointee.notes else { return nil }
    return unsafe HeaderNotes.bytes(notes)
  }

  // MARK: Header fields

  /// Calls `body` with a captured field, by its place among the context's names; empty where it is absent.
  package func withField<Result>(_ index: Int, _ body: (Span<UInt8>) -> Result) -> Result {
    body(unsafe record.pointee.field(index).span)
  }

  /// Whether a captured field came, and whether it came more than once.
  package func hasField(_ index: Int) -> Bool {
    unsafe record.pointee.fieldsPresent & UInt16(1) << UInt16(index) != 0
  }
  package func isFieldRepeated(_ index: Int) -> Bool {
    unsafe record.pointee.fieldsRepeated & UInt16(1) << UInt16(index) != 0
  }

  // MARK: The body

  /// Bytes of it that wait to be consumed.
  package var unreadBytes: Int { unsafe record.pointee.unreadCount }

  /// Calls `body` with the bytes that wait to be consumed.
  package func withBody<Result>(_ body: (Span<UInt8>) -> Result) -> Result {
    let bytes = unsafe UnsafeBufferPointer(
      start: record.pointee.body.start + record.pointee.bodyOffset,
      count: record.pointee.unreadCount)
    return body(unsafe bytes.span)
  }
}

extension ServerContext {
  /// The stream of that name; nil where it is gone.
  package func stream(_ id: StreamID) -> Stream? {
    guard let record = unsafe state.pointee.streams.find(id),
      unsafe !record.pointee.flags.contains(.closed)
    else { return nil }
    return unsafe Stream(record)
  }

  /// The owner has read the header block and serves the stream. The block's meaning is remembered: the
  /// next stream with the same block on this connection has no `head` event, but the notes at once.
  /// - Parameters:
  ///   - notes: what the owner wants back with each of these streams; at most 256 bytes.
  ///   - policy: what is kept of the body, and when the owner hears of it.
  /// False where there is no memory.
  package func accept<Notes: BitwiseCopyable>(
    _ stream: Stream, notes: Notes, policy: BodyPolicy
  ) -> Bool {
    precondition(
      unsafe MemoryLayout<Notes>.size <= HeaderNotes.bytesMax, "notes are at most 256 bytes")
    let record = unsafe stream.record
    guard let connection = unsafe record.pointee.connection, !stream.isClosed,
      unsafe record.pointee.notes == nil,
      let memory = unsafe state.pointee.pool.allocate(
        MemoryLayout<HeaderNotes>.stride + MemoryLayout<Notes>.size)
    else { return false }
    let block = unsafe memory.bindMemory(to: HeaderNotes.self, capacity: 1)
    unsafe block.initialize(
      to: HeaderNotes(
        references: 1, policy: policy, contentLength: record.pointee.contentLength))
    unsafe HeaderNotes.bytes(block).storeBytes(of: notes, as: Notes.self)
    unsafe record.pointee.notes = block
    unsafe record.pointee.policy = policy
    unsafe record.pointee.flags.insert(.accepted)
    unsafe connection.pointee.headerCache.decide(block, stream: record.pointee.number)
    unsafe connection.pointee.resolvedCache.decide(block, stream: record.pointee.number)
    unsafe record.pointee.dropFields(&state.pointee.pool)
    // What came together with the block was not held against the limit yet.
    if unsafe record.pointee.unreadCount > policy.bytesMax {
      unsafe record.pointee.flags.insert(.oversize)
    }
    return true
  }

  /// Drops the first `count` bytes of the body, and gives the peer credit for them where it streams.
  package func consume(_ count: Int, of stream: Stream) {
    let record = unsafe stream.record
    let left = unsafe record.pointee.unreadCount - count
    precondition(left >= 0, "more is consumed than there is")
    unsafe record.pointee.bodyOffset += count
    unsafe record.pointee.dropConsumedBody()
    guard unsafe record.pointee.policy.isStreaming, !stream.hasEnded, !stream.isClosed,
      let connection = unsafe record.pointee.connection
    else { return }
    // By halves, so that a WINDOW_UPDATE is rare.
    let whole = unsafe Int64(state.pointee.limits.streamWindowBytes)
    let open = unsafe record.pointee.receiveWindow + Int64(left)
    if open < whole / 2 {
      unsafe connection.pointee.sendWindowUpdate(whole - open, stream: record.pointee.number)
      unsafe record.pointee.receiveWindow += whole - open
    }
  }

  /// Puts two pieces of other bytes in the place of the first `count` of the body: as if the peer had sent
  /// them. False where the loop has no room for them.
  package func replace(
    first count: Int, of stream: Stream, with head: Span<UInt8>, _ rest: Span<UInt8>
  ) -> Bool {
    let record = unsafe stream.record
    guard let connection = unsafe record.pointee.connection, !stream.isClosed else { return true }
    let unread = unsafe record.pointee.unreadCount
    precondition(count <= unread, "more is replaced than there is")
    let start = unsafe record.pointee.body.start
    unsafe start.update(from: start + record.pointee.bodyOffset, count: unread)
    unsafe record.pointee.body.count = unread
    unsafe record.pointee.bodyOffset = 0
    let fresh = head.count + rest.count
    guard
      unsafe state.pointee.reserve(
        max(0, fresh - count), in: &record.pointee.body, of: connection)
    else { return false }
    let body = unsafe record.pointee.body.start
    unsafe (body + fresh).update(from: body + count, count: unread - count)
    for index in head.indices { unsafe body[index] = head[index] }
    unsafe rest.withUnsafeBufferPointer { source in
      guard let base = source.baseAddress else { return }
      unsafe (body + head.count).update(from: base, count: source.count)
    }
    unsafe record.pointee.body.count = unread - count + fresh
    return true
  }

  /// The last thing to do with a stream, after its `closed` event.
  package func release(_ stream: Stream) {
    let record = unsafe stream.record
    unsafe record.pointee.dropFields(&state.pointee.pool)
    if let notes = unsafe record.pointee.notes {
      unsafe HeaderNotes.release(notes, &state.pointee.pool)
      unsafe record.pointee.notes = nil
    }
    unsafe state.pointee.reset(&record.pointee.body)
    unsafe state.pointee.reset(&record.pointee.outgoing)
    unsafe state.pointee.streams.release(record)
  }
}
