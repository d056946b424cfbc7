// Calls of batched methods: each message holds many requests, thousands at most. They are worked off in slices,
// so that nobody's batch keeps the loop from the calls of others: a call gets one slice in an iteration, all
// together get so much, and who had none goes first in the next. What a slice has decided stays decided; a call
// that ends between two of them gets no response for it.
internal import Bytes
internal import GRPC
internal import HTTP2

/// A batched call that may have something to do.
struct BatchEntry: BitwiseCopyable {
  let stream: StreamID
  /// A message is begun: the one at the front of the body, of so many bytes, with its prefix.
  var messageBytes = 0
  var part = MessagePart()
  /// Where its response begins in the stream, with its prefix.
  var responseStart = 0
  /// Of a call that is drained: bytes of the body that are still read. Below 0 before that is known.
  var drainBytes = -1

  init(_ stream: StreamID) { self.stream = stream }

  var isBegun: Bool { messageBytes > 0 }
}

extension Calls {
  /// Requests' worth of work of one call, and of all batched calls of a loop, in one iteration. At about a
  /// microsecond a request (`make bench-stream`) that is half a millisecond, and two.
  static let requestsPerSlice = 512
  static let requestsPerIteration = 2048
  /// Messages up to this length are announced ahead: of longer ones, the handler looks ahead by itself.
  private static let announcedBytesMax = 256
  /// So many of them.
  private static let messagesAhead = 12
  /// What a response is expected to take for each request that is held.
  private static let responseBytesPerRequest = 72
  /// Inflating so many bytes takes as long as a request.
  private static let inflatedBytesPerRequest = 128

  /// Batched calls may have something to do.
  var hasUnfinished: Bool { batches.count > 0 }

  /// Gives a batched call its turn.
  func enqueue(_ stream: HTTP2.Stream, _ call: UnsafeMutablePointer<ServerCall>) {
    if unsafe call.pointee.isQueued { return }
    unsafe call.pointee.isQueued = true
    batches.append(BatchEntry(stream.id))
  }

  /// The server shuts down: the call ends behind what was read of it.
  func drain(_ stream: HTTP2.Stream) {
    let call = unsafe table.call(stream.index)
    // One of which nothing was seen has nothing to be answered.
    if case .idle = unsafe call.pointee.phase { return reject(stream, .shuttingDown) }
    unsafe call.pointee.isDraining = true
    unsafe enqueue(stream, call)
  }

  /// Gives every batched call its slice of this iteration. The requests' worth of what was done.
  func runBatches() -> Int {
    var left = Self.requestsPerIteration
    // Those that come back into the queue have had theirs.
    var waiting = batches.count
    while waiting > 0, left > 0, let entry = batches.first {
      batches.removeFirst()
      waiting -= 1
      guard let stream = context.stream(entry.stream), !stream.hasResponse,
        let notes = unsafe stream.notes
      else { continue }
      let call = unsafe table.call(stream.index)
      unsafe call.pointee.isQueued = false
      var slice = unsafe Slice(
        stream: stream, call: call, context: notes.assumingMemoryBound(to: CallContext.self),
        entry: entry, budget: min(left, Self.requestsPerSlice))
      unsafe run(&slice)
      unsafe left -= slice.spent
    }
    return Self.requestsPerIteration - left
  }
}

/// One slice of one call.
@unsafe private struct Slice {
  /// Why the slice ends.
  enum End {
    /// Nothing is there that could be done.
    case idle
    /// The budget is spent.
    case spent
    /// The peer does not take the responses.
    case full
    /// The one message of the call is done, or the request is whole.
    case done
    case halfClose
    /// The handler has failed the call: the failure is in the response.
    case failed
    /// The message at the front must be inflated.
    case inflate(bytes: Int)
    case reject(Rejection)
  }

  let stream: HTTP2.Stream
  let call: UnsafeMutablePointer<ServerCall>
  let context: UnsafeMutablePointer<CallContext>
  var entry: BatchEntry
  let budget: Int
  var spent = 0
  /// Bytes of the body that are done.
  var consumed = 0
  /// Bytes of the body whose messages were announced.
  var announced = 0
  var messagesAnnounced = 0
  /// Of the responses that are whole: the highest log sequence number, and where they end among what the
  /// slice has written. Below 0: there is none.
  var lsn: UInt64 = 0
  var wholeBytes = -1
  /// Where the slice's own bytes begin in the stream.
  var start = 0

  init(
    stream: HTTP2.Stream, call: UnsafeMutablePointer<ServerCall>,
    context: UnsafeMutablePointer<CallContext>, entry: BatchEntry, budget: Int
  ) {
    unsafe self.stream = stream
    unsafe self.call = call
    unsafe self.context = context
    unsafe self.entry = entry
    unsafe self.budget = budget
  }
}

extension Calls {
  private func run(_ slice: inout Slice) {
    let stream = unsafe slice.stream
    if unsafe slice.call.pointee.isDraining && slice.entry.drainBytes < 0 {
      unsafe slice.entry.drainBytes = stream.unreadBytes
    }
    // Of a message in hand, what is decided stays decided.
    if unsafe slice.entry.isBegun && nowNanoseconds >= slice.call.pointee.deadlineNanoseconds {
      return reject(stream, .deadlineExceeded)
    }
    while unsafe runUnpacked(&slice) {}
  }

  /// Works off what is not compressed. True where a compressed message was put into its place behind that, and
  /// there is budget left for it.
  private func runUnpacked(_ slice: inout Slice) -> Bool {
    let stream = unsafe slice.stream
    let room =
      unsafe slice.context.pointee.gathersMessages
      ? 64
      : min(stream.unreadBytes * 2, slice.budget * Self.responseBytesPerRequest) + 64
    guard context.makeRoom(room, in: stream) else {
      reject(stream, .overloaded)
      return false
    }
    handler.expectNothing()
    unsafe slice.start = context.position(stream)
    unsafe slice.consumed = 0
    unsafe slice.announced = 0
    unsafe slice.messagesAnnounced = 0
    unsafe slice.wholeBytes = -1
    unsafe response.begin(in: context.room(stream))
    let end = stream.withBody { unsafe work(&slice, $0) }
    return unsafe finish(&slice, end)
  }

  /// Works off messages of the body, and writes their responses one behind the other.
  private func work(_ slice: inout Slice, _ body: Span<UInt8>) -> Slice.End {
    let writer = response.message
    while true {
      if unsafe slice.spent >= slice.budget { return .spent }
      if unsafe !slice.entry.isBegun, let end = unsafe begin(&slice, body) { return end }
      unsafe announce(&slice, body)
      let message = unsafe body.extracting(
        (slice.consumed + Framing.prefixLength)..<(slice.consumed + slice.entry.messageBytes))
      let left = unsafe slice.budget - slice.spent
      unsafe slice.entry.part.budget = left
      if isTimed { unsafe times.begin(slice.stream) }
      let completion = unsafe handler.handle(
        message, part: &slice.entry.part,
        of: Call(id: Self.id(slice.stream), context: slice.context), response: response)
      unsafe slice.spent += max(1, left - slice.entry.part.budget)
      if case .failure = response.kind {
        // Of a call that answers its messages, a failure comes with the first part.
        unsafe writer.truncate(to: max(0, slice.entry.responseStart - slice.start))
        unsafe slice.consumed += slice.entry.messageBytes
        return .failed
      }
      // Not by ==, which is a call through a table for each message.
      if case .more = completion { continue }
      unsafe finishMessage(&slice)
      if unsafe !slice.context.pointee.type.streamsRequests { return .done }
    }
  }

  /// Begins the message at the front of what is left; why there is none, where there is none.
  private func begin(_ slice: inout Slice, _ body: Span<UInt8>) -> Slice.End? {
    if let http = unsafe slice.stream.connection,
      http.queuedBytes + response.message.count > limits.queuedBytesMax
    {
      http.pauseData()
      return .full
    }
    let left = unsafe body.extracting(slice.consumed...)
    let input = unsafe slice.call.pointee.next(
      in: left, hasEnded: slice.stream.hasEnded, type: slice.context.pointee.type,
      encoding: slice.context.pointee.encoding, messageBytesMax: limits.batchMessageBytesMax)
    switch input {
    case .nothing: return unsafe slice.entry.drainBytes >= 0 ? .reject(.shuttingDown) : .idle
    case .reject(let rejection): return .reject(rejection)
    case .halfClose: return .halfClose
    case .message(let length, let isCompressed):
      // A call whose caller has stopped waiting is not executed any further.
      if unsafe nowNanoseconds >= slice.call.pointee.deadlineNanoseconds {
        return .reject(.deadlineExceeded)
      }
      let bytes = Framing.prefixLength + length
      if unsafe slice.entry.drainBytes >= 0 && slice.consumed + bytes > slice.entry.drainBytes {
        return .reject(.shuttingDown)
      }
      if isCompressed { return .inflate(bytes: bytes) }
      unsafe slice.entry.messageBytes = bytes
      unsafe slice.entry.part = MessagePart()
      unsafe slice.entry.responseStart = slice.start + response.message.count
      if unsafe slice.context.pointee.gathersMessages { return nil }
      // Its length is not known yet.
      response.message.text(Framing.prefix(length: 0, isCompressed: false).span)
      return nil
    }
  }

  /// The response to the message in hand is whole.
  private func finishMessage(_ slice: inout Slice) {
    let writer = response.message
    if unsafe slice.context.pointee.gathersMessages {
      unsafe slice.consumed += slice.entry.messageBytes
      unsafe slice.entry.messageBytes = 0
      return
    }
    let end = unsafe slice.start + writer.count
    let length = unsafe end - slice.entry.responseStart - Framing.prefixLength
    let prefix = Framing.prefix(length: length, isCompressed: false)
    let offset = unsafe slice.entry.responseStart - slice.start
    if offset >= 0 {
      writer.overwrite(at: offset, with: prefix.span)
    } else {
      // It was begun in an iteration before.
      unsafe context.overwrite(slice.stream, at: slice.entry.responseStart, with: prefix.span)
    }
    unsafe slice.lsn = max(slice.lsn, slice.entry.part.lsn)
    unsafe slice.wholeBytes = writer.count
    unsafe slice.consumed += slice.entry.messageBytes
    unsafe slice.entry.messageBytes = 0
  }

  /// Tells the handler of short messages that come next: what they will look up can be fetched.
  private func announce(_ slice: inout Slice, _ body: Span<UInt8>) {
    guard unsafe slice.entry.messageBytes <= Self.announcedBytesMax,
      unsafe slice.entry.part.offset == 0
    else { return }
    if unsafe slice.announced > slice.consumed { unsafe slice.messagesAnnounced -= 1 }
    unsafe slice.announced = max(slice.announced, slice.consumed)
    while unsafe slice.messagesAnnounced < Self.messagesAhead {
      let next = unsafe Framing.next(
        in: body.extracting(slice.announced...), messageBytesMax: Self.announcedBytesMax)
      guard case .message(let length, false) = next else { return }
      let start = unsafe slice.announced + Framing.prefixLength
      unsafe handler.expect(
        body.extracting(start..<(start + length)),
        of: Call(id: Self.id(slice.stream), context: slice.context))
      unsafe slice.announced = start + length
      unsafe slice.messagesAnnounced += 1
    }
  }

  // MARK: The end of a slice

  /// Lets go of what the slice has made, and does what its end asks for. True: it goes on.
  private func finish(_ slice: inout Slice, _ end: Slice.End) -> Bool {
    let (stream, call) = unsafe (slice.stream, slice.call)
    guard commitResponse(to: stream) else {
      reject(stream, .overloaded)
      return false
    }
    if unsafe slice.consumed > 0 {
      unsafe context.consume(slice.consumed, of: stream)
      if unsafe slice.entry.drainBytes >= 0 { unsafe slice.entry.drainBytes -= slice.consumed }
    }
    if case .done = end {
      if isTimed { times.decided(stream) }
      unsafe call.pointee.halfClosed()
      unsafe call.pointee.answered(.ok)
      context.end(stream)
    }
    if unsafe slice.wholeBytes >= 0 {
      unsafe hold(stream, call, lsn: slice.lsn, position: slice.start + slice.wholeBytes)
    }
    switch end {
    case .idle, .done, .full: break
    case .spent: unsafe requeue(slice)
    case .inflate(let bytes): return unsafe inflate(&slice, bytes)
    case .halfClose:
      unsafe call.pointee.halfClosed()
      if unsafe slice.context.pointee.gathersMessages {
        beginResponse(stream)
        let completion = unsafe handler.halfClosed(
          Call(id: Self.id(stream), context: slice.context), response: response)
        unsafe complete(stream, call, slice.context, completion)
        break
      }
      unsafe call.pointee.answered(.ok)
      context.end(stream)
      if unsafe call.pointee.heldMessages == 0 { unsafe hold(stream, call, lsn: 0) }
    case .failed: unsafe fail(slice)
    case .reject(.deadlineExceeded): reject(stream, .deadlineExceeded)
    case .reject(let rejection): unsafe fail(slice, rejection)
    }
    return false
  }

  private func requeue(_ slice: Slice) {
    unsafe slice.call.pointee.isQueued = true
    unsafe batches.append(slice.entry)
  }

  /// Puts what the slice has written behind the stream's response. False where the loop has no room for it.
  private func commitResponse(to stream: HTTP2.Stream) -> Bool {
    let writer = response.message
    if writer.isInOwnMemory { return writer.withBytes { context.append($0, to: stream) } }
    context.commit(writer.count, to: stream)
    return true
  }

  /// Rejects the call behind the responses that it has.
  private func fail(_ slice: Slice, _ rejection: Rejection) {
    unsafe forget(slice.stream)
    response.begin()
    handler.reject(rejection, response: response)
    unsafe fail(slice)
  }

  /// Ends the call with the failure that the response object holds, behind the responses that it has.
  private func fail(_ slice: Slice) {
    let (stream, call) = unsafe (slice.stream, slice.call)
    unsafe write(stream, call, ends: true)
    unsafe hold(stream, call, lsn: 0)
  }

  /// Puts the message at the front into the place of its compressed bytes. True: the slice goes on with it.
  private func inflate(_ slice: inout Slice, _ bytes: Int) -> Bool {
    let stream = unsafe slice.stream
    if let problem = unsafe inflate(stream, slice.context, Framing.prefixLength..<bytes) {
      unsafe fail(slice, problem)
      return false
    }
    let before = stream.unreadBytes
    let isReplaced = inflater.withMessage {
      let prefix = Framing.prefix(length: $0.count, isCompressed: false)
      return context.replace(first: bytes, of: stream, with: prefix.span, $0)
    }
    guard isReplaced else {
      reject(stream, .overloaded)
      return false
    }
    let more = stream.unreadBytes - before
    if unsafe slice.entry.drainBytes >= 0 { unsafe slice.entry.drainBytes += more }
    // Inflating takes its time too.
    unsafe slice.spent += (bytes + more) / Self.inflatedBytesPerRequest
    if unsafe slice.spent < slice.budget { return true }
    unsafe requeue(slice)
    return false
  }
}
