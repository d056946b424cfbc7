// Reserves that go out many in a message (BatchReserve, ReserveStream): a worker's messages, and what they are answered.
internal import GRPC
internal import LoadHistory
internal import LoadReport

extension WorkerLoop {
  // MARK: Sending

  /// Sends a message of `first` and of what else is to be reserved, as far as it has room.
  mutating func sendMessage(
    _ first: SendTask, by index: Int, since: Int64, opens: Bool, _ now: Int64
  ) {
    reserves.begin()
    add(first, since: since, now)
    // Each takes a tick of the schedule; the last is noted by whoever has the first.
    let takesTicks = schedule.isOpenLoop && opens
    while reserves.hasRoom, !takesTicks || schedule.hasAnotherUnsent,
      let task = nextMember(index, opens: opens && (takesTicks || opensOperations(now)), now)
    {
      if takesTicks { schedule.noteSent() }
      add(task, since: takesTicks ? schedule.nextUnsent ?? now : now, now)
    }
    let method = reserves.method ?? .batchReserve
    let count = reserves.members.count
    guard let number = calls.nextNumber,
      let stream = pool.start(method, by: index, callID: number, reserves.body)
    else { return lose(reserves.members, by: index, now) }
    calls.add(
      InFlightCall(
        task: SendTask(operation: first.operation, method: method), sinceNanoseconds: since,
        sentNanoseconds: now, connection: Int32(truncatingIfNeeded: index), stream: stream))
    meter.messageSent(count: count)
    reserves.sent(number, by: index)
    if schedule.isProbing { return }
    if operations.draws.isCut() { cutSoon(number, now) }
    if operations.draws.closesConnection() { pool.closeWhenWritten(index) }
  }

  /// Another Reserve for the message under construction. What else is drawn meanwhile waits for the next free
  /// stream.
  private mutating func nextMember(_ index: Int, opens: Bool, _ now: Int64) -> SendTask? {
    let waiting = retries.popReserve(
      for: index, attempts: meter.statistics.attempts, isDraining: schedule.isDraining)
    if let waiting { return waiting }
    guard opens else { return nil }
    while retries.isIdle || !schedule.isOpenLoop {
      let task = operations.open(in: &ledger, schedule, now)
      if task.method == .reserve { return task }
      retries.append(task)
      if !opensOperations(now) { return nil }
    }
    return nil
  }

  /// Adds a Reserve to the message under construction: it is as good as sent.
  private mutating func add(_ task: SendTask, since: Int64, _ now: Int64) {
    ledger.writeRequest(task.operation, .reserve, to: &message)
    reserves.add(MessageMember(task: task, sinceNanoseconds: since), message)
    meter.sent()
    if task.isFirst { watch?.sent(task, ledger) }
    ledger.sent(task.operation, .reserve, at: now)
    if schedule.isProbing || !task.isFirst { return }
    for _ in 1..<operations.draws.copies() { duplicate(task) }
  }

  // MARK: Answers

  mutating func takeBatch(
    _ number: Int, _ answer: ClientResponse, by index: Int, _ now: Int64
  ) {
    guard answer.outcome == .answered, answer.status == .ok else {
      return takeFailure(of: answer, by: index, now) { loop, outcome, code in
        loop.end(message: number, outcome, code: code, now)
      }
    }
    reserves.results.removeAll(keepingCapacity: true)
    let isWhole = pool.readResults(of: answer, by: index, names, into: &reserves.results)
    takeResults(number, isWhole: isWhole, now)
  }

  /// A message has come on the connection's ReserveStream: it answers the first that is not answered.
  mutating func takeMessage(_ index: Int, at position: Int, _ now: Int64) {
    guard let number = reserves.popUnanswered(index) else {
      return meter.noteFailure("ReserveStream: a response to no message")
    }
    reserves.results.removeAll(keepingCapacity: true)
    let isWhole = pool.readMessage(index, at: position, names, into: &reserves.results)
    takeResults(number, isWhole: isWhole, now)
  }

  /// The results of a message are those of its Reserves, in their order. One that has none is undecided, as far
  /// as anybody knows.
  private mutating func takeResults(_ number: Int, isWhole: Bool, _ now: Int64) {
    let call = calls.remove(number)
    let members = reserves.take(number)
    let isRight = isWhole && (reserves.results.count == members.count || !options.verifies)
    if !isRight { meter.noteFailure("\(call.task.method.name): results do not match the requests") }
    meter.messageAnswered(
      call, now,
      wasDue: schedule.isOpenLoop
        ? schedule.wasDueInMeasuredPart(call.sinceNanoseconds) : nil)
    let malformed = ReserveResult(reply: .unknown, code: 0)
    let accepted = ReserveResult(
      reply: .accepted(id: ReservationID(number: 0), expiresNanoseconds: 0, isReplayed: false),
      code: 0)
    for (position, member) in members.enumerated() {
      let result =
        !options.verifies
        ? accepted : isRight && position < members.count ? reserves.results[position] : malformed
      noteAnswered(call.of(member), now)
      meter.countCode(result.code)
      count(result)
      conclude(call.of(member), result.reply, now)
    }
    if !schedule.isOpenLoop { pause(Int(call.connection), now) }
  }

  mutating func count(_ result: ReserveResult) {
    let outcome = Outcome(result)
    meter.count(outcome)
    if outcome.group == .failed, !meter.hasFailure {
      let code = grpcCodeNames.indices.contains(result.code) ? grpcCodeNames[result.code] : "?"
      meter.noteFailure("Reserve: \(outcome.name), \(code)")
    }
  }

  /// A connection's ReserveStream is over, with the messages that it did not answer.
  mutating func takeEndOfStream(
    _ answer: ClientResponse, by index: Int, _ now: Int64
  ) {
    takeFailure(of: answer, by: index, now) { loop, outcome, code in
      loop.endReserveStream(index, outcome, code: code, now)
    }
  }

  /// A call that carries many has failed as a whole.
  private mutating func takeFailure(
    of answer: ClientResponse, by index: Int, _ now: Int64,
    _ end: (inout WorkerLoop, Outcome, Int?) -> Void
  ) {
    let method = reserves.method ?? .batchReserve
    let reply = pool.reply(answer, to: .reserve, by: index, names)
    var outcome = Outcome(reply, .reserve, answer)
    if outcome == .lost, pool.isClosedByUs(index) { outcome = .cut }
    // What one refusal says of them all is no decision on each.
    if outcome.group == .refused, outcome != .cut { outcome = .otherFailure }
    if outcome.group == .accepted { outcome = .malformed }
    if outcome.group == .failed, !meter.hasFailure { noteFailure(outcome, method, answer, index) }
    end(&self, outcome, answer.outcome == .answered ? answer.status.rawValue : nil)
  }

  mutating func endReserveStream(
    _ index: Int, _ outcome: Outcome, code: Int?, _ now: Int64
  ) {
    pool.reserveStreamEnded(index)
    while let number = reserves.popUnanswered(index) {
      end(message: number, outcome, code: code, now)
    }
  }

  /// A message is over without results: what the server decided of its requests, nobody knows.
  mutating func end(message number: Int, _ outcome: Outcome, code: Int?, _ now: Int64) {
    let call = calls.remove(number)
    for member in reserves.take(number) {
      if code != nil { noteAnswered(call.of(member), now) }
      end(call.of(member), outcome, code: code, now)
    }
    if !schedule.isOpenLoop { pause(Int(call.connection), now) }
  }

  private mutating func end(_ call: InFlightCall, _ outcome: Outcome, code: Int?, _ now: Int64) {
    if let code { meter.countCode(code) }
    meter.count(outcome)
    conclude(call, outcome == .unprocessed ? .noEffect : .unknown, now)
  }

  /// A message could not be sent after all: its call had ended.
  private mutating func lose(_ members: [MessageMember], by index: Int, _ now: Int64) {
    for member in members {
      let call = InFlightCall(
        task: member.task, sinceNanoseconds: member.sinceNanoseconds, sentNanoseconds: now,
        connection: Int32(truncatingIfNeeded: index), stream: 0)
      end(call, .unprocessed, code: nil, now)
    }
  }
}
