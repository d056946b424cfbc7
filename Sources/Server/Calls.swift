// From the events of streams to calls, and from responses to their streams: the one place where HTTP/2,
// gRPC and the handler meet. What a call is, is GRPC's (`ServerCall`); here is who does what with it.
internal import Bytes
internal import GRPC
internal import HTTP2
internal import Metrics

/// The calls of one loop.
@safe final class Calls {
  /// Messages of one streaming call that are handled before the other calls have their turn.
  private static let messagesPerTurnMax = 256
  /// Executing so many calls takes longer than memory takes to answer.
  private static let callsAhead = 3

  let handler: any CallHandler
  let context: ServerContext
  private let metrics: RPCRecorder
  let limits: CallLimits
  let response = Response()
  let inflater: Inflater
  private let deflater = Deflater()
  /// Header fields of a compressed response, beside the constant one.
  private let headers = HeaderFields()
  private let gate = DurabilityGate()
  let table = CallTable(empty: ServerCall())
  /// Somebody wants to hear of slow calls; else nothing is measured.
  let isTimed: Bool
  // Not optional: to look into one costs a reference count, at every call.
  let times: SlowCallMeter
  /// Calls of batched methods that may have something to do (BatchedCalls.swift).
  let batches = RingQueue<BatchEntry>(capacity: 64)
  private let streamingCalls: StreamingCallCounts
  private let methods: [MethodDescriptor]
  private let latencyQuantiles: UInt64
  private let closedRun: UnsafeMutablePointer<ClosedRun>
  /// Monotonic nanoseconds: the iteration's time.
  var nowNanoseconds: Int64 = 0
  /// Finds the name in the certificate of a connection's peer, by the connection's number.
  var certificate: (Int) -> CertificateName? = { _ in nil }

  /// Calls that ended alike in this iteration: they are counted together.
  private struct ClosedRun {
    var method = -1
    var code = -1
    var latencyNanoseconds: Int64 = -1
    var count: UInt64 = 0
  }

  /// - Parameter connectionsMax: the numbers of connections are below it.
  init(
    handler: any CallHandler, context: ServerContext, metrics: RPCRecorder, limits: CallLimits,
    connectionsMax: Int, slowCalls: SlowCalls? = nil
  ) {
    self.handler = handler
    self.context = context
    self.metrics = metrics
    self.limits = limits
    isTimed = slowCalls != nil
    times = SlowCallMeter(slowCalls)
    inflater = Inflater(messageBytesMax: limits.longestMessageBytesMax)
    methods = type(of: handler).methods
    precondition(methods.count <= 64, "a handler has at most 64 methods")
    var quantiles: UInt64 = 0
    for (number, method) in methods.enumerated() where method.hasLatencyQuantiles {
      quantiles |= 1 << UInt64(number)
    }
    latencyQuantiles = quantiles
    streamingCalls = StreamingCallCounts(connectionsMax: connectionsMax)
    unsafe closedRun = .allocate(capacity: 1)
    unsafe closedRun.initialize(to: ClosedRun())
  }

  deinit { unsafe closedRun.deallocate() }

  /// A call whose handler had to wait has room again: its next messages are not to wait for the next bytes.
  private(set) var hasResumed = false

  /// Asks the handler for its late responses.
  func deliver() {
    hasResumed = false
    handler.deliver(to: self)
  }

  // MARK: Events

  /// Handles every event that waits. The number of messages that were handed to the handler.
  func handleEvents() -> Int {
    var count = 0
    var index = 0
    var expected = 0
    while index < context.eventCount {
      while expected <= min(index + Self.callsAhead, context.eventCount - 1) {
        expect(context.event(at: expected))
        expected += 1
      }
      let event = context.event(at: index)
      index += 1
      switch event.kind {
      case .head: count += decide(event.stream)
      case .data, .end: count += advance(event.stream)
      case .headerListTooLarge: reject(event.stream, .headerListTooLarge)
      case .writable:
        handler.resumed(Self.id(event.stream))
        hasResumed = true
      case .closed: closed(event.stream)
      }
    }
    context.clearEvents()
    countClosed()
    return count
  }

  /// Announces a call whose turn comes soon, where it is a plain one.
  private func expect(_ event: StreamEvent) {
    let stream = event.stream
    guard case .end = event.kind, !stream.isClosed, !stream.hasResponse,
      let notes = unsafe stream.notes
    else { return }
    let context = unsafe notes.assumingMemoryBound(to: CallContext.self)
    guard case .unary = unsafe context.pointee.type, unsafe !context.pointee.isBatched else {
      return
    }
    stream.withBody { body in
      guard body.count > Framing.prefixLength, body[0] == 0 else { return }
      unsafe handler.expect(
        body.extracting(Framing.prefixLength...), of: Call(id: Self.id(stream), context: context))
    }
  }

  /// A header block that is new to its connection: what it means is decided and kept with it.
  private func decide(_ stream: HTTP2.Stream) -> Int {
    guard let http = stream.connection else { return 0 }
    let headers = RequestHeaders(stream, certificate: certificate(Int(http.token)))
    switch headers.decide(number: { handler.method(atPath: $0) }) {
    case .reject(let rejection): reject(stream, rejection)
    case .call(let method, let encoding, let responseEncoding, let timeout):
      response.begin()
      guard let principal = handler.start(method: method, headers: headers, response: response)
      else {
        startRejected(stream, method: method)
        return 0
      }
      let (type, isBatched) = (methods[method].type, methods[method].isBatched)
      let notes = CallContext(
        method: method, type: type, encoding: encoding, responseEncoding: responseEncoding,
        isBatched: isBatched, timeoutNanoseconds: timeout, traceParent: headers.traceParent,
        principal: principal)
      guard
        context.accept(
          stream, notes: notes, policy: limits.policy(type, isBatched: isBatched))
      else {
        reject(stream, .overloaded)
        return 0
      }
      // What came together with the header block had no event of its own.
      if !stream.hasEnded { return advance(stream) }
    }
    return 0
  }

  /// The handler wants no calls with this header block, and has said why.
  private func startRejected(_ stream: HTTP2.Stream, method: Int) {
    let call = unsafe table.call(stream.index)
    unsafe begin(stream, call, method: method)
    unsafe write(stream, call, ends: true)
    release(stream)
  }

  /// Takes what there is of a request.
  private func advance(_ stream: HTTP2.Stream) -> Int {
    // Reset behind its end, or rejected: nobody waits for the rest.
    guard !stream.isClosed, !stream.hasResponse, let notes = unsafe stream.notes else { return 0 }
    let context = unsafe notes.assumingMemoryBound(to: CallContext.self)
    let call = unsafe table.call(stream.index)
    if case .idle = unsafe call.pointee.phase {
      guard unsafe start(stream, call, context) else { return 0 }
    }
    if stream.isOversize {
      // Within the limit, the loop has no room for it now.
      let bytesMax = unsafe limits.bodyBytesMax(isBatched: context.pointee.isBatched)
      reject(stream, stream.receivedBytes > bytesMax ? .messageTooLarge : .overloaded)
      return 0
    }
    if unsafe context.pointee.isBatched {
      unsafe enqueue(stream, call)
      return 0
    }
    if unsafe context.pointee.type.streamsRequests {
      return unsafe advanceStreaming(stream, call, context)
    }
    return unsafe step(stream, call, context) == .message ? 1 : 0
  }

  /// The first event of a call. False where it is rejected.
  private func start(
    _ stream: HTTP2.Stream, _ call: UnsafeMutablePointer<ServerCall>,
    _ context: UnsafeMutablePointer<CallContext>
  ) -> Bool {
    let connection = Int(stream.connection?.token ?? 0)
    let timeout = RequestHeaders.timeout(
      of: stream, otherwise: unsafe context.pointee.timeoutNanoseconds)
    unsafe call.pointee.start(
      timeoutNanoseconds: timeout ?? .max, openedNanoseconds: stream.openedNanoseconds,
      connection: connection)
    metrics.started(method: unsafe Int(context.pointee.method))
    if timeout == nil {
      reject(stream, .malformedTimeout)
      return false
    }
    if case .unary = unsafe context.pointee.type { return true }
    unsafe call.pointee.isCounted = true
    guard streamingCalls.add(connection, limits) else {
      reject(stream, .tooManyStreams)
      return false
    }
    return true
  }

  private enum Step {
    case nothing
    case message
    case ended
  }

  /// Every message that is whole is handed over and answered, as long as the peer takes the responses.
  /// The rest is left until it does (`ServerConnection.resumeData`).
  private func advanceStreaming(
    _ stream: HTTP2.Stream, _ call: UnsafeMutablePointer<ServerCall>,
    _ context: UnsafeMutablePointer<CallContext>
  ) -> Int {
    var count = 0
    while let http = stream.connection {
      if http.queuedBytes > limits.queuedBytesMax || count == Self.messagesPerTurnMax {
        http.pauseData()
        return count
      }
      switch unsafe step(stream, call, context) {
      case .message: count += 1
      case .nothing, .ended: return count
      }
    }
    return count
  }

  /// Hands over what stands at the front of a request.
  private func step(
    _ stream: HTTP2.Stream, _ call: UnsafeMutablePointer<ServerCall>,
    _ context: UnsafeMutablePointer<CallContext>
  ) -> Step {
    let input = stream.withBody {
      unsafe call.pointee.next(
        in: $0, hasEnded: stream.hasEnded, type: context.pointee.type,
        encoding: context.pointee.encoding, messageBytesMax: limits.messageBytesMax)
    }
    switch input {
    case .nothing: return .nothing
    case .reject(let rejection):
      reject(stream, rejection)
      return .ended
    case .message(let length, let isCompressed):
      // A call whose caller has stopped waiting is not executed.
      if unsafe nowNanoseconds >= call.pointee.deadlineNanoseconds {
        reject(stream, .deadlineExceeded)
        return .ended
      }
      return unsafe message(stream, call, context, length: length, isCompressed: isCompressed)
    case .halfClose:
      unsafe call.pointee.halfClosed()
      beginResponse(stream)
      let completion = unsafe handler.halfClosed(
        Call(id: Self.id(stream), context: context), response: response)
      unsafe complete(stream, call, context, completion)
      return .ended
    }
  }

  private func message(
    _ stream: HTTP2.Stream, _ call: UnsafeMutablePointer<ServerCall>,
    _ context: UnsafeMutablePointer<CallContext>, length: Int, isCompressed: Bool
  ) -> Step {
    let end = Framing.prefixLength + length
    if isCompressed, let problem = unsafe inflate(stream, context, Framing.prefixLength..<end) {
      reject(stream, problem)
      return .ended
    }
    beginResponse(stream)
    if isTimed { times.begin(stream) }
    let ongoing = unsafe Call(id: Self.id(stream), context: context)
    let completion =
      isCompressed
      ? inflater.withMessage { handler.handle($0, of: ongoing, response: response) }
      : stream.withBody {
        handler.handle(
          $0.extracting(Framing.prefixLength..<end), of: ongoing, response: response)
      }
    // A slow call is asked at its end what it was about: then its message must be there still.
    if isTimed, case .unary = unsafe context.pointee.type {
      times.decided(stream)
    } else {
      self.context.consume(end, of: stream)
    }
    if unsafe !context.pointee.type.streamsRequests { unsafe call.pointee.halfClosed() }
    unsafe complete(stream, call, context, completion)
    return .message
  }

  /// Inflates a message; why it cannot be, where it cannot.
  func inflate(
    _ stream: HTTP2.Stream, _ context: UnsafeMutablePointer<CallContext>, _ message: Range<Int>
  ) -> Rejection? {
    let encoding = unsafe context.pointee.encoding
    let bytesMax = unsafe limits.messageBytesMax(isBatched: context.pointee.isBatched)
    let result = stream.withBody {
      inflater.inflate($0.extracting(message), encoding, messageBytesMax: bytesMax)
    }
    switch result {
    case .inflated: return nil
    case .tooLarge: return .messageTooLarge
    case .malformed: return .malformedCompression
    case .noMemory: return .overloaded
    }
  }

  func complete(
    _ stream: HTTP2.Stream, _ call: UnsafeMutablePointer<ServerCall>,
    _ context: UnsafeMutablePointer<CallContext>, _ completion: Completion
  ) {
    switch completion {
    case .respond(let lsn):
      let isWritten = unsafe write(
        stream, call, ends: !context.pointee.type.streamsResponses,
        context.pointee.responseEncoding)
      if isWritten { unsafe hold(stream, call, lsn: lsn) }
    // Parts have a way of their own (BatchedCalls.swift).
    case .later, .more: break
    case .end:
      unsafe call.pointee.answered(.ok)
      self.context.end(stream)
      if unsafe call.pointee.heldMessages == 0 { release(stream) }
    }
  }

  // MARK: Responses

  /// The response is written where it goes out, behind the prefix's place.
  func beginResponse(_ stream: HTTP2.Stream) {
    let room = unsafe context.room(stream)
    guard room.count > Framing.prefixLength else { return response.begin() }
    unsafe response.begin(
      in: UnsafeMutableRawBufferPointer(rebasing: room[Framing.prefixLength...]))
  }

  /// Puts the response behind what the stream has; nothing of it may be seen yet. False where there is no
  /// room for it: the call is rejected then.
  @discardableResult
  func write(
    _ stream: HTTP2.Stream, _ call: UnsafeMutablePointer<ServerCall>, ends: Bool,
    _ encoding: MessageEncoding = .identity
  ) -> Bool {
    switch response.kind {
    case .message:
      guard writeMessage(stream, encoding) else {
        reject(stream, .overloaded)
        return false
      }
      guard ends else { return true }
      unsafe call.pointee.answered(.ok)
      context.end(stream, trailers: response.trailers)
    case .failure(let code):
      unsafe call.pointee.answered(code)
      let hasBegun = context.position(stream) > 0
      if !hasBegun, let kept = unsafe response.keptFailure {
        unsafe context.respond(stream, headersOnly: kept)
      } else {
        response.withFailureBlock(asTrailers: hasBegun) { block in
          if hasBegun {
            context.end(stream, trailers: block)
          } else {
            context.respond(stream, headersOnly: block)
          }
        }
      }
    }
    return true
  }

  private func writeMessage(_ stream: HTTP2.Stream, _ encoding: MessageEncoding) -> Bool {
    switch encoding {
    case .identity: break
    case .gzip, .deflate:
      if let isWritten = writeCompressed(stream, encoding) { return isWritten }
    }
    let length = response.message.count
    let prefix = Framing.prefix(length: length, isCompressed: false)
    if response.message.isInOwnMemory {
      guard context.append(prefix.span, to: stream) else { return false }
      return response.message.withBytes { context.append($0, to: stream) }
    }
    let room = unsafe context.room(stream)
    for index in 0..<Framing.prefixLength { unsafe room[index] = prefix[index] }
    context.commit(Framing.prefixLength + length, to: stream)
    return true
  }

  /// Compresses the message where it is worth it; nil where it is not. Only the first of a stream of
  /// responses can say how; the others follow it.
  private func writeCompressed(_ stream: HTTP2.Stream, _ encoding: MessageEncoding) -> Bool? {
    let isFirst = context.position(stream) == 0
    guard isFirst || stream.hasOwnHeaders,
      response.message.withBytes({ deflater.deflate($0, encoding) })
    else { return nil }
    if isFirst {
      headers.begin()
      headers.add("grpc-encoding", encoding.name)
      guard context.begin(stream, headers: headers) else { return false }
    }
    return deflater.withMessage { message in
      let prefix = Framing.prefix(length: message.count, isCompressed: true)
      return context.append(prefix.span, to: stream) && context.append(message, to: stream)
    }
  }

  /// Lets the response be seen: now, or once the journal is durable up to `lsn`. A call that has nothing
  /// held overtakes those that wait: a slow disk does not keep reads of what it has already.
  ///
  /// - Parameter position: where it ends; nil: it is all that the stream has.
  func hold(
    _ stream: HTTP2.Stream, _ call: UnsafeMutablePointer<ServerCall>, lsn: UInt64,
    position: Int? = nil
  ) {
    let position = position ?? context.position(stream)
    if unsafe lsn <= handler.durableLSN && call.pointee.heldMessages == 0 {
      if isTimed { times.releasedAtOnce(stream) }
      return context.release(stream, upTo: position)
    }
    gate.append(DurabilityGate.Entry(stream: stream.id, lsn: lsn, position: position))
    unsafe call.pointee.heldMessages += 1
  }

  private func release(_ stream: HTTP2.Stream) {
    context.release(stream, upTo: context.position(stream))
  }

  /// Lets everything be seen that the journal has.
  func releaseDurable() {
    if gate.isEmpty { return }
    let durableLSN = handler.durableLSN
    while let entry = gate.next(durableLSN: durableLSN) {
      guard let stream = context.stream(entry.stream) else { continue }
      let call = unsafe table.call(stream.index)
      // None is held where the call was rejected meanwhile.
      if unsafe call.pointee.heldMessages > 0 { unsafe call.pointee.heldMessages -= 1 }
      if isTimed { times.released(stream, at: nowNanoseconds) }
      context.release(stream, upTo: entry.position)
    }
  }

  /// Rejects a call, whatever is known of it, unless the peer has its response.
  func reject(_ stream: HTTP2.Stream, _ rejection: Rejection) {
    response.begin()
    handler.reject(rejection, response: response)
    fail(stream)
  }

  /// Ends a call with the failure that the response holds, unless the peer has its response.
  private func fail(_ stream: HTTP2.Stream) {
    guard !stream.isClosed else { return }
    let call = unsafe table.call(stream.index)
    if case .idle = unsafe call.pointee.phase {
      unsafe begin(stream, call, method: method(of: stream))
    }
    context.discardUnreleased(stream)
    if stream.hasResponse { return }
    forget(stream)
    // What was held is taken back: the status that is seen is the rejection's.
    unsafe call.pointee.heldMessages = 0
    unsafe write(stream, call, ends: true)
    release(stream)
  }

  /// A call of several messages and one response is over: the handler keeps something of it between them.
  func forget(_ stream: HTTP2.Stream) {
    guard let notes = unsafe stream.notes else { return }
    let context = unsafe notes.assumingMemoryBound(to: CallContext.self)
    if unsafe context.pointee.gathersMessages { handler.cancelled(Self.id(stream)) }
  }

  /// A call that is rejected before it started.
  private func begin(
    _ stream: HTTP2.Stream, _ call: UnsafeMutablePointer<ServerCall>, method: Int
  ) {
    unsafe call.pointee.startRejected(connection: Int(stream.connection?.token ?? 0))
    metrics.started(method: method)
  }

  /// The number of a stream's method; -1 where its header block means none.
  private func method(of stream: HTTP2.Stream) -> Int {
    guard let notes = unsafe stream.notes else { return -1 }
    return unsafe Int(notes.assumingMemoryBound(to: CallContext.self).pointee.method)
  }

  // MARK: The end of a call

  /// The stream is gone, answered or not: the one place where a call is counted as handled. That comes
  /// after its response was written, so the latency is the whole of what the server took.
  private func closed(_ stream: HTTP2.Stream) {
    let call = unsafe table.call(stream.index)
    let ended = unsafe call.pointee
    unsafe call.pointee = ServerCall()
    let method = method(of: stream)
    if ended.isCounted { streamingCalls.remove(Int(ended.connection)) }
    // Reset before anything of it was handled: it began and ended at once.
    if case .idle = ended.phase { metrics.started(method: method) }
    let isCancelled = ended.status < 0 || ended.heldMessages > 0
    if isCancelled { handler.cancelled(Self.id(stream)) }
    let code = isCancelled ? StatusCode.cancelled.rawValue : Int(ended.status)
    let latency = nowNanoseconds - stream.openedNanoseconds
    count(method: method, code: code, latencyNanoseconds: latency)
    if let notes = unsafe stream.notes {
      let trace = unsafe notes.assumingMemoryBound(to: CallContext.self).pointee.traceParent
      if trace.isSampled {
        metrics.traced(
          method: method, latencyNanoseconds: latency, traceHigh: trace.traceHigh,
          traceLow: trace.traceLow, nowNanoseconds: nowNanoseconds)
      }
      if isTimed { unsafe tellIfSlow(stream, notes, code: code, latency) }
    }
    context.release(stream)
  }

  func recordSlowCall() { metrics.slowCall() }

  private func count(method: Int, code: Int, latencyNanoseconds: Int64) {
    if unsafe method == closedRun.pointee.method && code == closedRun.pointee.code
      && latencyNanoseconds == closedRun.pointee.latencyNanoseconds
    {
      unsafe closedRun.pointee.count += 1
      return
    }
    countClosed()
    unsafe closedRun.pointee = ClosedRun(
      method: method, code: code, latencyNanoseconds: latencyNanoseconds, count: 1)
  }

  /// Calls that ended alike are counted together.
  private func countClosed() {
    let run = unsafe closedRun.pointee
    if run.count == 0 { return }
    metrics.handled(
      method: run.method, code: run.code, latencyNanoseconds: run.latencyNanoseconds,
      count: run.count)
    if run.method >= 0, latencyQuantiles & 1 << UInt64(run.method) != 0,
      run.code != StatusCode.cancelled.rawValue
    {
      metrics.reservationLatency(nanoseconds: run.latencyNanoseconds, count: run.count)
    }
    unsafe closedRun.pointee.count = 0
  }

  // MARK: Calls that may go on no longer

  /// What was decided about callers holds no longer: a call without its response goes on where its caller
  /// still may call the method. Also one whose message is still to come: it would be executed for somebody
  /// who may no longer.
  func renewPrincipals(_ http: ServerConnection) {
    forEachStream(of: http) { stream in
      guard !stream.hasResponse, let notes = unsafe stream.notes else { return }
      let context = unsafe notes.assumingMemoryBound(to: CallContext.self)
      response.begin()
      let renewed = unsafe handler.renew(
        context.pointee.principal, method: Int(context.pointee.method), response: response)
      if let renewed {
        unsafe context.pointee.principal = renewed
      } else {
        handler.cancelled(Self.id(stream))
        fail(stream)
      }
    }
  }

  /// Ends the calls of a connection whose deadline passed, and those whose one message does not come to
  /// an end. A call that streams requests may be silent for as long as it has no deadline.
  func expire(_ http: ServerConnection) {
    forEachStream(of: http) { stream in
      guard !stream.hasResponse, let notes = unsafe stream.notes else { return }
      let context = unsafe notes.assumingMemoryBound(to: CallContext.self)
      let age = nowNanoseconds - stream.openedNanoseconds
      let isLate = unsafe age >= context.pointee.timeoutNanoseconds
      if unsafe !stream.hasEnded && !context.pointee.type.streamsRequests {
        if isLate || age >= limits.requestNanosecondsMax { reject(stream, .requestTimeout) }
      } else if isLate {
        cancel(stream, .deadlineExceeded)
      }
    }
  }

  /// Ends the calls whose responses go on for ever, or whose requests may: those of batched methods behind what
  /// was read of them.
  func endStreaming(_ http: ServerConnection) {
    forEachStream(of: http) { stream in
      guard !stream.hasResponse, let notes = unsafe stream.notes else { return }
      let context = unsafe notes.assumingMemoryBound(to: CallContext.self)
      guard unsafe context.pointee.type.streamsResponses || context.pointee.gathersMessages else {
        return
      }
      if unsafe context.pointee.isBatched { return drain(stream) }
      cancel(stream, .shuttingDown)
    }
  }

  /// The shutdown's time is over: every call whose response nobody has seen is rejected.
  func rejectAll(_ http: ServerConnection) {
    forEachStream(of: http) { stream in
      if !stream.isReleased { cancel(stream, .shuttingDown) }
    }
  }

  private func cancel(_ stream: HTTP2.Stream, _ rejection: Rejection) {
    handler.cancelled(Self.id(stream))
    reject(stream, rejection)
  }

  private func forEachStream(of http: ServerConnection, _ body: (HTTP2.Stream) -> Void) {
    var next = http.firstStream
    while let stream = next {
      next = http.stream(after: stream)
      body(stream)
    }
  }

  static func id(_ stream: HTTP2.Stream) -> CallID {
    let id = stream.id
    return CallID(rawValue: UInt64(id.generation) << 32 | UInt64(id.index))
  }
}

extension Calls: CallSink {
  func respond(
    to id: CallID, lsn: UInt64, ends: Bool, _ write: (Response) -> Void
  ) -> Delivery {
    let name = StreamID(
      index: UInt32(truncatingIfNeeded: id.rawValue), generation: UInt32(id.rawValue >> 32))
    guard let stream = context.stream(name), !stream.hasResponse else { return .gone }
    if stream.queuedBytes > limits.streamQueuedBytesMax {
      context.tellWhenWritable(stream)
      return .full
    }
    let call = unsafe table.call(stream.index)
    beginResponse(stream)
    write(response)
    guard unsafe self.write(stream, call, ends: ends) else { return .gone }
    unsafe hold(stream, call, lsn: lsn)
    return .taken
  }
}

/// What a loop's calls may use.
struct CallLimits {
  /// Longest request message, in bytes, compressed or not; and that of batched methods.
  let messageBytesMax: Int
  let batchMessageBytesMax: Int
  /// A request's time from its header fields to its last byte, in nanoseconds, where it is one message.
  let requestNanosecondsMax: Int64
  /// Bytes that a connection may owe before its streaming calls are read no further.
  let queuedBytesMax: Int
  /// Bytes that one call's responses may have queued before its handler has to wait.
  let streamQueuedBytesMax: Int
  /// Streaming calls of one connection, and of one loop.
  let streamingCallsPerConnectionMax: Int
  let streamingCallsMax: Int
  /// The window of a stream: as far as the peer may be ahead of the handler.
  let streamWindowBytes: Int

  var longestMessageBytesMax: Int { max(messageBytesMax, batchMessageBytesMax) }

  func messageBytesMax(isBatched: Bool) -> Int {
    isBatched ? batchMessageBytesMax : messageBytesMax
  }

  /// Longest body of a call whose request is one message.
  func bodyBytesMax(isBatched: Bool) -> Int {
    messageBytesMax(isBatched: isBatched) + Framing.prefixLength
  }

  /// A message that says that it will be too long is rejected before it is there.
  func policy(_ type: MethodType, isBatched: Bool) -> BodyPolicy {
    guard type.streamsRequests else {
      return BodyPolicy(
        bytesMax: bodyBytesMax(isBatched: isBatched), tellsAt: Framing.prefixLength,
        isStreaming: false)
    }
    // Of a batched method, a message that was inflated may lie in front of a window's worth of bytes.
    return BodyPolicy(
      bytesMax: streamWindowBytes + (isBatched ? batchMessageBytesMax : 0),
      tellsAt: Framing.prefixLength, isStreaming: true)
  }
}

/// How many streaming calls every connection has. They stay open for as long as their clients like, so
/// that one client's must not be everybody's.
@safe struct StreamingCallCounts: ~Copyable {
  private let counts: UnsafeMutablePointer<Int32>
  private let total: UnsafeMutablePointer<Int>
  private let connectionsMax: Int

  init(connectionsMax: Int) {
    self.connectionsMax = connectionsMax
    unsafe counts = .allocate(capacity: connectionsMax)
    unsafe counts.initialize(repeating: 0, count: connectionsMax)
    unsafe total = .allocate(capacity: 1)
    unsafe total.initialize(to: 0)
  }

  deinit {
    unsafe counts.deallocate()
    unsafe total.deallocate()
  }

  /// Counts one; false where there are too many, and then it is counted all the same, until `remove`.
  func add(_ connection: Int, _ limits: CallLimits) -> Bool {
    precondition(connection < connectionsMax, "no such connection")
    unsafe counts[connection] += 1
    unsafe total.pointee += 1
    return unsafe Int(counts[connection]) <= limits.streamingCallsPerConnectionMax
      && total.pointee <= limits.streamingCallsMax
  }

  func remove(_ connection: Int) {
    unsafe counts[connection] -= 1
    unsafe total.pointee -= 1
    assert(unsafe counts[connection] >= 0 && total.pointee >= 0)
  }
}
