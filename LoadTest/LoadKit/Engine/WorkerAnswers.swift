// What a worker does with an answer: takes it down, counts it, and decides what follows from it.
internal import HTTP2
internal import LoadHistory
internal import LoadReport
internal import Posix

extension WorkerLoop {
  mutating func takeAnswers(_ index: Int, _ now: Int64) {
    if !connections[index].http.answers.isEmpty { quietSince = now }
    for position in 0..<connections[index].http.answers.count {
      take(connections[index].http.answers[position], by: index, now)
    }
    connections[index].http.forgetAnswers()
  }

  private mutating func take(_ answer: ClientAnswer, by index: Int, _ now: Int64) {
    let number = Int(truncatingIfNeeded: answer.callID)
    let flight = flights[number]
    land(number)
    // A call that was cut off has no latency.
    if answer.outcome == .answered || answer.outcome == .malformed { measure(flight, now) }
    let reply = reply(to: flight.task.method, answer, index)
    count(reply, flight.task.method, answer, index)
    let isAcceptance = ledger.answered(
      flight.task.operation, flight.task.method, reply, sentAt: flight.sentNanoseconds, at: now)
    if watches { watchDone(flight.task, reply) }
    goOn(flight, reply, isAcceptance: isAcceptance, now)
  }

  /// Frees what the call took up.
  mutating func land(_ number: Int) {
    flights[number].stream = 0
    freeFlights.append(number)
  }

  private mutating func measure(_ flight: Flight, _ now: Int64) {
    lastAnswered = now
    interval.answered += 1
    if phase == .measuring { statistics.measured += 1 }
    record(
      flight.task.method, since: flight.sinceNanoseconds, sent: flight.sentNanoseconds, now,
      isMeasured: pacer == nil
        ? phase == .measuring : wasDueInMeasuredPart(flight.sinceNanoseconds))
  }

  private mutating func record(
    _ method: Method, since: Int64, sent: Int64, _ now: Int64, isMeasured: Bool
  ) {
    let latency = now - since
    interval.latencies.record(latency)
    if isMeasured { statistics.latencies[method.rawValue].record(latency) }
    guard recordsServiceTimes else { return }
    interval.serviceTimes.record(now - sent)
    if isMeasured { statistics.serviceTimes.record(now - sent) }
  }

  /// The run ends with calls in flight. Each has taken at least as long as it has by now: left out,
  /// the slowest calls of all would be those that nobody hears of.
  mutating func giveUpFlights(_ now: Int64) {
    for flight in flights where flight.stream != 0 {
      giveUp(
        .unanswered, flight.task.method, since: flight.sinceNanoseconds,
        sent: flight.sentNanoseconds, now)
    }
  }

  /// The run ends with calls that were due and that no stream was free for. They are what a server that
  /// stands still does to its callers: each has waited since it was due, and nothing came of it.
  ///
  /// A tick of the schedule is the call that it would have been: what waits to be sent, else a new one.
  mutating func giveUpUnsent(_ now: Int64) {
    while let tick = pacer?.scheduledNanoseconds, tick < measureTo {
      pacer?.advance()
      let method = popWaiting()?.method ?? (isProbing ? .reserve : draws.opening().method)
      statistics.unsent += 1
      giveUp(.unsent, method, since: tick, sent: tick, now)
    }
    // A duplicate or a retry that is not sent leaves no caller without an answer to a first call.
    while let task = popWaiting() {
      guard task.isFirst else { continue }
      statistics.unsent += 1
      giveUp(.unsent, task.method, since: task.dueNanoseconds, sent: task.dueNanoseconds, now)
    }
  }

  /// The next of the calls that do not begin an operation.
  private mutating func popWaiting() -> SendTask? {
    for index in lanes.indices {
      if let task = lanes[index].resends.popFirst() {
        waitingResends -= 1
        return task
      }
    }
    return followUps.popFirst()
  }

  private mutating func giveUp(
    _ outcome: Outcome, _ method: Method, since: Int64, sent: Int64, _ now: Int64
  ) {
    record(method, since: since, sent: sent, now, isMeasured: wasDueInMeasuredPart(since))
    interval.outcomes[outcome.rawValue] += 1
    tally.failed += 1
    if statistics.firstFailure == nil {
      statistics.firstFailure = "\(method.name): \(outcome.name)"
    }
  }

  /// In a closed loop they are the latencies.
  private var recordsServiceTimes: Bool { pacer != nil || stormNanoseconds != nil }

  /// An open loop measures the calls that were due in the measured part; a closed loop the answers that
  /// come in it, and what was begun in it and never answered.
  private func wasDueInMeasuredPart(_ since: Int64) -> Bool {
    since >= measureFrom && since < measureTo
  }

  private func reply(to method: Method, _ answer: ClientAnswer, _ index: Int) -> Reply {
    if !options.verifies, answer.outcome == .answered, answer.grpcStatus == 0 {
      return .accepted(id: ReservationID(number: 0), expiresNanoseconds: 0, isReplayed: false)
    }
    return Reply(answer, to: method, connections[index].http, names)
  }

  // MARK: What follows

  /// Begins what follows from an answer, or from its absence.
  mutating func goOn(_ flight: Flight, _ reply: Reply, isAcceptance: Bool, _ now: Int64) {
    let task = flight.task
    let isDecided =
      switch reply {
      case .accepted, .refused, .read: true
      case .noEffect, .unknown: false
      }
    if !isDecided, retry(flight, now) { return }
    if isAcceptance {
      if task.operation < firstProbe, draws.isExtended() {
        followUps.append(
          SendTask(operation: task.operation, method: .extend, dueNanoseconds: now))
      } else {
        end(task.operation, now)
      }
    }
    guard task.leads else { return }
    if task.method == .extend { end(task.operation, now) }
    if pacer == nil, task.method != .confirm, task.method != .release, task.method != .extend {
      pause(Int(flight.connection), now)
    }
  }

  /// Has the reservation confirmed or released once the customer has paid, or leaves it to expire.
  private mutating func end(_ operation: Int, _ now: Int64) {
    guard options.verifies else { return }
    if operation >= firstProbe {
      return followUps.append(
        SendTask(operation: operation, method: .release, dueNanoseconds: now))
    }
    let method: Method
    switch draws.ending() {
    case .none: return
    case .confirm: method = .confirm
    case .release: method = .release
    }
    let due = after(draws.payTimeNanoseconds(), now)
    let task = SendTask(operation: operation, method: method, dueNanoseconds: due)
    sendLater(task, at: due, now)
  }

  /// Closed loop: the stream that made the call thinks before it opens another operation.
  private mutating func pause(_ index: Int, _ now: Int64) {
    guard options.workload.thinkTimeNanoseconds.upperBound > 0, phase != .draining else { return }
    lanes[index].paused += 1
    delayed.add(.endPause(index), at: now + draws.thinkTimeNanoseconds())
  }

  // MARK: Counting

  private mutating func count(
    _ reply: Reply, _ method: Method, _ answer: ClientAnswer, _ index: Int
  ) {
    let status = answer.grpcStatus
    if answer.outcome == .answered, interval.codes.indices.contains(status) {
      interval.codes[status] += 1
    }
    var outcome = WorkerLoop.outcome(reply, method, answer)
    if outcome == .lost, connections[index].isClosedByUs { outcome = .cut }
    interval.outcomes[outcome.rawValue] += 1
    switch outcome.group {
    case .accepted: tally.accepted += 1
    case .refused: tally.refused += 1
    case .failed:
      tally.failed += 1
      noteFailure(outcome, method, answer, index)
    }
  }

  /// Keeps the first thing that went wrong, with the server's words.
  private mutating func noteFailure(
    _ outcome: Outcome, _ method: Method, _ answer: ClientAnswer, _ index: Int
  ) {
    guard statistics.firstFailure == nil else { return }
    let status = answer.grpcStatus
    let text = connections[index].http.withStatusMessage(of: answer) { percentDecoded($0) }
    let code =
      grpcCodeNames.indices.contains(status)
      ? ", \(grpcCodeNames[status])" : answer.httpStatus > 0 ? ", HTTP \(answer.httpStatus)" : ""
    statistics.firstFailure =
      "\(method.name): \(outcome.name)\(code)\(text.isEmpty ? "" : ": \(text)")"
  }

  private static func outcome(_ reply: Reply, _ method: Method, _ answer: ClientAnswer) -> Outcome {
    switch reply {
    case .accepted(_, _, true): return .replayed
    case .accepted: return done(method)
    case .read: return .read
    case .refused(let refusal):
      switch refusal.reason {
      case .insufficientStock: return .insufficientStock
      case .reservationExpired: return .expired
      default: return .otherRefusal
      }
    case .noEffect: return answer.outcome == .unprocessed ? .unprocessed : .tooBusy
    case .unknown:
      switch answer.outcome {
      case .answered: return answer.grpcStatus == 0 ? .malformed : .otherFailure
      case .malformed: return .malformed
      case .reset: return .reset
      case .unprocessed: return .unprocessed
      case .lost: return .lost
      }
    }
  }

  private static func done(_ method: Method) -> Outcome {
    switch method {
    case .reserve: .reserved
    case .confirm: .confirmed
    case .release: .released
    case .extend: .extended
    case .adjustStock: .restocked
    case .getStock, .batchGetStock: .read
    }
  }

  // MARK: The watched SKUs

  /// Counts what a call that is about to leave for the first time asks for.
  mutating func watchSent(_ task: SendTask) {
    switch task.method {
    case .reserve: watch(task, .reserveSent)
    case .confirm: watch(task, .confirmSent)
    case .release: watch(task, .releaseSent)
    case .adjustStock: watch(task, .restockSent)
    case .extend, .getStock, .batchGetStock: break
    }
  }

  /// Counts what a first answer says was done.
  private mutating func watchDone(_ task: SendTask, _ reply: Reply) {
    guard !reply.isReplayed else { return }
    switch (reply, task.method) {
    case (.accepted(_, let expires, _), .reserve):
      watched.noteExpiry(unixNanoseconds: expires)
      watch(task, .reserveDone)
    case (.refused, .reserve): watch(task, .reserveRefused)
    case (.accepted, .confirm): watch(task, .confirmDone)
    case (.accepted, .release): watch(task, .releaseDone)
    case (.accepted, .adjustStock): watch(task, .restockDone)
    default: break
    }
  }

  private func watch(_ task: SendTask, _ kind: WatchCounters.Kind) {
    for index in ledger.cart(of: task.operation) {
      let line = ledger.line(at: index)
      watched.add(line.quantity, kind, sku: line.sku)
    }
  }
}
