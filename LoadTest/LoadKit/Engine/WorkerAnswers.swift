internal import HTTP2
// What a worker does with an answer: takes it down, counts it, and decides what follows from it.
internal import LoadHistory
internal import LoadReport
internal import Posix
internal import Synchronization

extension WorkerLoop {
  mutating func takeAnswers(_ index: Int, _ now: Int64) {
    for position in 0..<connections[index].http.answers.count {
      take(connections[index].http.answers[position], by: index, now)
    }
    connections[index].http.forgetAnswers()
  }

  private mutating func take(_ answer: ClientAnswer, by index: Int, _ now: Int64) {
    let number = Int(truncatingIfNeeded: answer.callID)
    let flight = flights[number]
    freeFlights.append(number)
    // A call that was cut off has no latency.
    let isAnswered = answer.outcome == .answered || answer.outcome == .malformed
    if phase == .measuring, isAnswered { statistics.measured += 1 }
    if isAnswered, isMeasured(flight, now) {
      statistics.latencies[flight.method.rawValue].record(now - flight.sinceNanoseconds)
      if pacer != nil { statistics.serviceTimes.record(now - flight.sentNanoseconds) }
    }
    let reply = reply(to: flight.method, answer, index)
    count(reply, flight.method, answer, index)
    let isNew = ledger.answered(
      flight.operation, flight.method, reply, sentAt: flight.sentNanoseconds, at: now)
    if isNew {
      switch draws.ending() {
      case .none: break
      case .confirm:
        followUps.append(
          SendTask(operation: flight.operation, method: .confirm, isDuplicate: false))
      case .release:
        followUps.append(
          SendTask(operation: flight.operation, method: .release, isDuplicate: false))
      }
    }
  }

  /// Closed loop: answers that come in the measured part. Open loop: calls that were due in it.
  private func isMeasured(_ flight: Flight, _ now: Int64) -> Bool {
    if pacer == nil { return phase == .measuring }
    return flight.sinceNanoseconds >= measureFrom && flight.sinceNanoseconds < measureTo
  }

  private func reply(to method: Method, _ answer: ClientAnswer, _ index: Int) -> Reply {
    if !options.verifies, answer.outcome == .answered, answer.grpcStatus == 0 {
      return .accepted(id: ReservationID(number: 0), expiresNanoseconds: 0, isReplayed: false)
    }
    return Reply(answer, to: method, connections[index].http, names)
  }

  private mutating func count(
    _ reply: Reply, _ method: Method, _ answer: ClientAnswer, _ index: Int
  ) {
    let status = answer.grpcStatus
    if answer.outcome == .answered, statistics.codes.indices.contains(status) {
      statistics.codes[status] += 1
    }
    let outcome = WorkerLoop.outcome(reply, method, answer)
    statistics.outcomes[outcome.rawValue] += 1
    switch outcome {
    case .reserved, .confirmed, .released, .replayed: tally.accepted += 1
    case .insufficientStock, .expired, .tooBusy: tally.refused += 1
    default:
      tally.failed += 1
      guard statistics.firstFailure == nil else { return }
      let text = connections[index].http.withStatusMessage(of: answer) { percentDecoded($0) }
      let code =
        grpcCodeNames.indices.contains(status)
        ? ", \(grpcCodeNames[status])" : answer.httpStatus > 0 ? ", HTTP \(answer.httpStatus)" : ""
      statistics.firstFailure =
        "\(method.name): \(outcome.name)\(code)\(text.isEmpty ? "" : ": \(text)")"
    }
  }

  private static func outcome(_ reply: Reply, _ method: Method, _ answer: ClientAnswer) -> Outcome {
    switch reply {
    case .accepted(_, _, true): return .replayed
    case .accepted:
      switch method {
      case .reserve: return .reserved
      case .confirm: return .confirmed
      case .release: return .released
      case .extend: return .extended
      case .adjustStock: return .restocked
      case .getStock, .batchGetStock: return .read
      }
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

  /// Adds what is new to the counts that the progress line shows.
  mutating func report() {
    let answered = tally.accepted + tally.refused + tally.failed
    guard answered - reported.answered >= 64 || phase == .draining else { return }
    control.answered.add(answered - reported.answered, ordering: .relaxed)
    control.accepted.add(tally.accepted - reported.accepted, ordering: .relaxed)
    control.refused.add(tally.refused - reported.refused, ordering: .relaxed)
    control.failed.add(tally.failed - reported.failed, ordering: .relaxed)
    reported = (answered, tally.accepted, tally.refused, tally.failed)
  }
}
