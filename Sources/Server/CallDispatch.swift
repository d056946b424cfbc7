// From the events of streams to calls, and from replies to answers. This is where HTTP/2 ends and gRPC
// begins.
internal import GRPC
internal import HTTP2
internal import Metrics

extension EventLoop {
  /// Handles every event that waits. The number of calls that were handed to the handler.
  func dispatchEvents() -> Int {
    var calls = 0
    var index = 0
    while index < context.eventCount {
      let event = context.event(at: index)
      index += 1
      switch event.kind {
      case .head: calls += decideHead(event.stream)
      case .end: calls += requestEnded(event.stream)
      case .data: calls += streamingData(event.stream)
      case .oversize: oversize(event.stream)
      case .headerListTooLarge:
        reject(event.stream, .headerListTooLarge)
      case .closed: closed(event.stream)
      }
    }
    context.clearEvents()
    return calls
  }

  // MARK: Requests

  private func decideHead(_ stream: StreamID) -> Int {
    let head = context.withFields(of: stream) { method, path, contentType, encoding, _ in
      RequestHead.decide(
        method: method, path: path, contentType: contentType, encoding: encoding,
        number: handler.method(atPath:))
    }
    guard let head else { return 0 }
    context.setHead(head.code, of: stream)
    let method: Int
    switch head {
    case .call(let number): method = number
    case .reject(let rejection):
      // A rejection does not wait for the rest of the request.
      reject(stream, rejection)
      return 0
    }
    guard methods.bidirectional.contains(method) else {
      // What came together with the header fields was not held against the limit yet.
      if isTooLong(stream) { oversize(stream) }
      return 0
    }
    context.wantData(stream)
    // What came together with the header fields had no event of its own.
    return streamingData(stream)
  }

  /// The request is whole: hand it over, or say what is wrong with it.
  private func requestEnded(_ stream: StreamID) -> Int {
    // Reset right behind its end: nobody waits for an answer.
    guard context.session(of: stream) != nil else { return 0 }
    guard let notes = context.notes(of: stream), !context.isAnswered(stream) else {
      return streamingData(stream)
    }
    noteStarted(stream)
    switch RequestHead(code: notes.head) {
    case .call(let method):
      guard isInTime(stream, notes) else { return 0 }
      if methods.bidirectional.contains(method) { return streamingData(stream) }
      return handMessage(of: stream, method: method)
    case .reject(let rejection): reject(stream, rejection)
    }
    return 0
  }

  /// Checks the deadline: a call whose caller has stopped waiting is not executed.
  private func isInTime(_ stream: StreamID, _ notes: StreamNotes) -> Bool {
    guard context.hasTimeout(stream) else { return true }
    let timeout = context.withTimeout(of: stream) { Timeout.nanoseconds($0) } ?? nil
    guard let timeout else {
      reject(stream, .malformedTimeout)
      return false
    }
    if nowNanoseconds - notes.receivedNanoseconds < timeout { return true }
    reject(stream, .deadlineExceeded)
    return false
  }

  private func handMessage(of stream: StreamID, method: Int) -> Int {
    var problem: Rejection?
    let completion = context.withBody(of: stream) { body, caller -> Completion? in
      switch MessageFraming.next(in: body, messageBytesMax: limits.messageBytesMax) {
      case .message(let length) where length == body.count - MessageFraming.prefixLength:
        reply.reset()
        return handler.handle(
          method: method, message: body.extracting(MessageFraming.prefixLength..<body.count),
          caller: caller, call: Self.name(stream), reply: reply)
      case .message: problem = .tooManyMessages
      case .incomplete: problem = body.isEmpty ? .noMessage : .messageCutOff
      case let result: problem = Self.problem(result)
      }
      return nil
    }
    if let problem { reject(stream, problem) }
    guard let completion = completion ?? nil else { return 0 }
    if case .reply(let lsn) = completion {
      sendOrKeep(stream, lsn: lsn, ends: methods.unary.contains(method))
    }
    return 1
  }

  /// What is wrong with a message, whatever the kind of its call.
  private static func problem(_ result: MessageFraming.Result) -> Rejection? {
    switch result {
    case .message, .incomplete: nil
    case .compressed: .compressedMessage
    case .malformed: .malformedPrefix
    case .tooLarge: .messageTooLarge
    }
  }

  private func oversize(_ stream: StreamID) {
    // Within the limit, the loop has no room for it now.
    reject(stream, isTooLong(stream) ? .messageTooLarge : .overloaded)
  }

  /// Whether a body is, or says that it will be, longer than a message may be.
  private func isTooLong(_ stream: StreamID) -> Bool {
    if context.receivedBytes(of: stream) > limits.http2.bodyBytesMax { return true }
    return context.withBody(of: stream) { body, _ in
      if case .tooLarge = MessageFraming.next(in: body, messageBytesMax: limits.messageBytesMax) {
        return true
      }
      return false
    } ?? false
  }

  // MARK: Streaming requests

  /// Messages of one streaming call that are handled before the other calls have their turn.
  private static let messagesPerTurnMax = 256

  /// Bytes of a bidirectional call: every message that is whole is handed over and answered, as long as
  /// the peer takes the answers. The rest is left until it does (`Session.resumeData`).
  private func streamingData(_ stream: StreamID) -> Int {
    guard let notes = context.notes(of: stream), notes.status < 0,
      case .call(let method) = RequestHead(code: notes.head),
      methods.bidirectional.contains(method)
    else { return 0 }
    noteStarted(stream)
    var calls = 0
    while let session = context.session(of: stream) {
      if session.queuedBytes > limits.unsentBytesMax || calls == Self.messagesPerTurnMax {
        session.pauseData()
        connections.touch(Int(session.token))
        return calls
      }
      switch takeMessage(of: stream, method: method) {
      case .none:
        if context.hasEnded(stream) { endStreaming(stream) }
        return calls
      case .rejected(let rejection):
        reject(stream, rejection)
        return calls
      case .handled(let completion):
        calls += 1
        guard case .reply(let lsn) = completion else { continue }
        // A failure ends the call, whatever else was asked.
        let isFailure = reply.kind != .message
        sendOrKeep(stream, lsn: lsn, ends: false)
        if isFailure { return calls }
      }
    }
    return calls
  }

  /// What stands at the front of a streaming call's body.
  private enum Taken {
    case none
    case rejected(Rejection)
    case handled(Completion)
  }

  /// Hands over the first message of a body, if it is whole, and consumes it.
  private func takeMessage(of stream: StreamID, method: Int) -> Taken {
    var taken = Taken.none
    var consumed = 0
    context.withBody(of: stream) { body, caller in
      switch MessageFraming.next(in: body, messageBytesMax: limits.messageBytesMax) {
      case .incomplete: break
      case .message(let length):
        consumed = MessageFraming.prefixLength + length
        reply.reset()
        taken = .handled(
          handler.handle(
            method: method, message: body.extracting(MessageFraming.prefixLength..<consumed),
            caller: caller, call: Self.name(stream), reply: reply))
      case let result:
        if let problem = Self.problem(result) { taken = .rejected(problem) }
      }
    }
    if consumed > 0 { context.consume(consumed, of: stream) }
    return taken
  }

  /// The peer has said everything, and every message is answered.
  private func endStreaming(_ stream: StreamID) {
    let isWhole = context.withBody(of: stream) { body, _ in body.isEmpty } ?? true
    // Its messages may still wait for the journal; the end comes behind them.
    if !isWhole {
      handler.reject(.messageCutOff, reply: reply)
      sendOrKeep(stream, lsn: 0, ends: false)
    } else if waiting.isEmpty || !waiting.appendEnd(of: stream) {
      end(stream)
    }
  }

  /// Ends a streaming call whose answers are all sent.
  private func end(_ stream: StreamID) {
    noteStatus(stream, .ok)
    context.end(stream)
    touchConnection(of: stream)
  }

  // MARK: Answers

  /// Sends the reply, or keeps it until the journal is durable up to it. One that is all of its call
  /// overtakes those that wait: a slow disk does not keep reads of what it has already.
  private func sendOrKeep(_ stream: StreamID, lsn: UInt64, ends: Bool) {
    if lsn <= handler.durableLSN && (ends || waiting.isEmpty) {
      send(reply, on: stream, ends: ends)
    } else if !waiting.append(reply, for: stream, lsn: lsn, ends: ends) {
      // The decision stands and is recorded: a retry gets it once the journal has caught up.
      reject(stream, .overloaded)
    }
  }

  func sendDurableReplies() {
    if waiting.isEmpty { return }
    let durableLSN = handler.durableLSN
    while let next = waiting.next(durableLSN: durableLSN, into: reply) {
      if next.isEnd {
        end(next.stream)
      } else {
        send(reply, on: next.stream, ends: next.ends)
      }
    }
  }

  /// Answers a stream.
  func send(_ reply: Reply, on stream: StreamID, ends: Bool) {
    switch reply.kind {
    case .message:
      guard reply.withContent({ context.send($0, on: stream, ends: ends) }) else {
        return reject(stream, .overloaded)
      }
      if ends { noteStatus(stream, .ok) }
      touchConnection(of: stream)
    case .failure(let code): sendFailure(code, reply, on: stream)
    }
  }

  /// Rejects a call, whatever is known of it.
  func reject(_ stream: StreamID, _ rejection: Rejection) {
    handler.reject(rejection, reply: reply)
    sendFailure(rejection.code, httpStatus: rejection.httpStatus, reply, on: stream)
  }

  /// Ends a call with a failure: in the trailers where its answer has begun, else with headers alone.
  private func sendFailure(
    _ code: StatusCode, httpStatus: Int = 200, _ reply: Reply, on stream: StreamID
  ) {
    noteStatus(stream, code)
    let isAnswered = context.isAnswered(stream)
    if isAnswered { fields.resetTrailers() } else { fields.reset(httpStatus: httpStatus) }
    fields.add("grpc-status", decimal: UInt32(code.rawValue))
    statusText.reset()
    reply.withContent { PercentEncoding.append($0, to: statusText) }
    statusText.withSpan { fields.add("grpc-message", $0) }
    detailsText.reset()
    reply.withDetails { Base64.append($0, to: detailsText) }
    if detailsText.count > 0 {
      detailsText.withSpan { fields.add("grpc-status-details-bin", $0) }
    }
    // gRFC A6: clients with a retry policy wait this long, whatever their own back-off says.
    if reply.retryMilliseconds > 0 {
      fields.add("grpc-retry-pushback-ms", decimal: UInt32(reply.retryMilliseconds))
    }
    // gRPC over HTTP/2, compression: a rejection for its encoding names those that are taken.
    if code == .unimplemented { fields.add("grpc-accept-encoding", "identity") }
    if isAnswered {
      context.end(stream, trailers: fields)
    } else {
      context.sendHeadersOnly(on: stream, fields: fields)
    }
    touchConnection(of: stream)
  }

  /// The stream is gone, answered or not: the one place where a call is counted as handled. That comes
  /// after its answer was written, so the latency is the whole of what the server took.
  private func closed(_ stream: StreamID) {
    noteStarted(stream)
    if let notes = context.notes(of: stream) {
      let isCancelled = notes.status < 0
      if isCancelled { handler.cancelled(Self.name(stream)) }
      let method = Self.methodIndex(notes)
      let latency = nowNanoseconds - notes.receivedNanoseconds
      metrics.handled(
        method: method, code: isCancelled ? StatusCode.cancelled.rawValue : Int(notes.status),
        latencyNanoseconds: latency)
      if methods.reservations.contains(method), !isCancelled {
        metrics.reservationLatency(nanoseconds: latency)
      }
    }
    context.release(stream)
  }

  private func noteStarted(_ stream: StreamID) {
    guard var notes = context.notes(of: stream), !notes.isStarted else { return }
    notes.isStarted = true
    context.setNotes(notes, of: stream)
    metrics.started(method: Self.methodIndex(notes))
  }

  /// The first status of a call is the one that its caller sees.
  private func noteStatus(_ stream: StreamID, _ code: StatusCode) {
    noteStarted(stream)
    guard var notes = context.notes(of: stream), notes.status < 0 else { return }
    notes.status = Int8(code.rawValue)
    context.setNotes(notes, of: stream)
  }

  private func touchConnection(of stream: StreamID) {
    if let session = context.session(of: stream) { connections.touch(Int(session.token)) }
  }

  // MARK: Calls that take too long

  /// Refuses the calls of a connection whose deadline passed, or whose request does not come to an end.
  func expireCalls(of session: Session) {
    var next = session.firstStream
    while let stream = next {
      next = session.stream(after: stream)
      guard let notes = context.notes(of: stream), !context.isAnswered(stream),
        !context.hasEnded(stream)
      else { continue }
      let age = nowNanoseconds - notes.receivedNanoseconds
      let timeout = context.withTimeout(of: stream) { Timeout.nanoseconds($0) } ?? nil
      if age >= min(timeout ?? .max, limits.requestNanosecondsMax) {
        reject(stream, .requestTimeout)
      }
    }
  }

  /// Ends the calls whose answers go on for ever.
  func endStreamingCalls(of session: Session) {
    var next = session.firstStream
    while let stream = next {
      next = session.stream(after: stream)
      guard context.isAnswered(stream), let notes = context.notes(of: stream), notes.status < 0
      else {
        continue
      }
      handler.cancelled(Self.name(stream))
      reject(stream, .shuttingDown)
    }
  }

  /// The shutdown's time is over: every call that has no answer is refused.
  func refuseOpenCalls(of session: Session) {
    var next = session.firstStream
    while let stream = next {
      next = session.stream(after: stream)
      if context.isAnswered(stream) { continue }
      reject(stream, .shuttingDown)
    }
  }

  // MARK: Names and numbers

  private static func name(_ stream: StreamID) -> CallID {
    CallID(rawValue: UInt64(stream.generation) << 32 | UInt64(stream.index))
  }

  private static func stream(_ call: CallID) -> StreamID {
    StreamID(
      index: UInt32(truncatingIfNeeded: call.rawValue), generation: UInt32(call.rawValue >> 32))
  }

  /// The index under which a call is counted: below zero for a method that does not exist.
  private static func methodIndex(_ notes: StreamNotes) -> Int {
    if case .call(let method) = RequestHead(code: notes.head) { return method }
    return -1
  }
}

extension EventLoop: CallSink {
  func send(_ reply: Reply, to call: CallID, ends: Bool) {
    let stream = Self.stream(call)
    guard context.session(of: stream) != nil else { return }
    send(reply, on: stream, ends: ends)
  }
}
