internal import HTTP2
// Holds a saved run against a server that has been killed and started again since.
//
// Every call of the run is sent once more, the same bytes:
//
// - An acknowledged one has to be answered as it was: the same id and expires_at, or the same refusal
//   with the same values, and as a repetition. Anything else means that the decision was forgotten.
// - One that was cut off is answered as a repetition or as new. Either is right, and either way the
//   ledger knows the outcome from here on.
//
// Thereafter no outcome is unknown, and the balances have to be exactly what the ledger says: a unit
// more or less means that a decision was lost, or applied twice.
package import LoadHistory
package import LoadReport
internal import Posix

/// What an audit of one run has found.
package struct Audit: Codable, Sendable {
  /// Sends of the run, duplicates included, and of earlier audits.
  package var calls = 0
  /// Decisions that the run or an earlier audit was answered, and how many of them still stand.
  package var acknowledged = 0
  package var standing = 0
  /// Decisions that were cut off, and how many of them the server had made before.
  package var unknown = 0
  package var hadHappened = 0
  package var check = Report.Check()

  /// Acknowledged decisions that are gone or different.
  package var lost: Int { acknowledged - standing }
  /// Nothing is lost, nothing was applied twice, and whatever else a run checks holds too.
  package var holds: Bool { lost == 0 && check.holds }

  /// One line.
  package var text: String {
    let count = { (number: Int) in Text.count(Int64(number)) }
    return "\(count(acknowledged)) acknowledged decisions, \(count(lost)) lost; "
      + "\(count(unknown)) cut off, \(count(hadHappened)) of them had happened; \(check.verdict)"
  }
}

/// Sends every call of `saved` again, and compares answers and balances. `saved` learns the outcomes.
package func audit(_ saved: inout SavedRun, target: Endpoint) throws(LoadError) -> Audit {
  var audit = Audit()
  var client = try StockClient.connect(to: target)
  let stock = saved.stock
  let replayed = try client.setStock(
    stock, saved.names, run: saved.run, reason: RunOptions.stockReason)
  for number in 0..<saved.books.count {
    let timeToLive = saved.timeToLiveNanoseconds
    try saved.books.withLedger(number) { (ledger) throws(LoadError) in
      if number == 0, replayed < stock.count {
        ledger.note(.forgotten, "the stock of \(stock.count - replayed) SKUs was set anew")
      }
      for method in Method.measured {
        try client.sendAgain(method, of: &ledger, timeToLiveNanoseconds: timeToLive, &audit)
      }
    }
  }
  let levels = try client.readLevels(stock.count, saved.names)
  var check = LedgerCheck(
    names: saved.names, stock: stock, levels: levels,
    timeToLiveNanoseconds: saved.timeToLiveNanoseconds)
  audit.check = Report.Check(check.run(saved.books))
  return audit
}

extension StockClient {
  fileprivate mutating func sendAgain(
    _ method: Method, of ledger: inout Ledger, timeToLiveNanoseconds: Int64, _ audit: inout Audit
  ) throws(LoadError) {
    let operations = (0..<ledger.count).filter { ledger.wasSent($0, method) }
    let endpoint = endpoint
    try callAll(operations.count, method) { index, message in
      ledger.writeRequest(
        operations[index], method, timeToLiveNanoseconds: timeToLiveNanoseconds, to: &message)
    } take: { (index, http, answer) throws(LoadError) in
      let reply = Reply(answer, to: method, http, ledger.names)
      switch reply {
      case .noEffect: return false
      case .unknown:
        if try StockClient.isDone(answer, http, method.name, endpoint) {
          throw LoadError("\(endpoint): \(method.name) answered what is not protobuf")
        }
        return false
      case .accepted, .refused:
        ledger.answeredAgain(operations[index], method, reply, &audit)
        return true
      }
    }
  }
}

extension Ledger {
  fileprivate func wasSent(_ operation: Int, _ method: Method) -> Bool {
    let record = records[operation]
    switch method {
    case .reserve: return record.reserve.sent > 0
    case .confirm: return record.end.sent > 0 && record.ending == .confirm
    case .release: return record.end.sent > 0 && record.ending == .release
    default: return false
    }
  }

  /// Takes down a decision that was asked for once more, and counts it in `audit`.
  fileprivate mutating func answeredAgain(
    _ operation: Int, _ method: Method, _ reply: Reply, _ audit: inout Audit
  ) {
    let now = SystemClock.monotonicNanoseconds()
    let record = records[operation]
    let before = method == .reserve ? record.reserve : record.end
    let violationsBefore = violationCount
    audit.calls += Int(before.sent)
    if method == .reserve {
      reserveSent(operation, at: now)
      reserveAnswered(operation, reply, at: now)
    } else {
      endSent(operation, record.ending, at: now)
      endAnswered(operation, reply, at: now)
    }
    if before.decision == .unknown {
      // The others were told that nothing was decided: this is their first try.
      if before.mayHaveActed { audit.unknown += 1 }
      if reply.isReplayed { audit.hadHappened += 1 }
      return
    }
    // Refusals of Confirm and Release say what the reservation is, not what was decided.
    let mustRepeat = method == .reserve || before.decision == .accepted
    if mustRepeat, !reply.isReplayed {
      note(.forgotten, "key \(key(of: operation)): \(method.name) was answered, then decided anew")
    }
    audit.acknowledged += 1
    if violationCount == violationsBefore { audit.standing += 1 }
  }
}
