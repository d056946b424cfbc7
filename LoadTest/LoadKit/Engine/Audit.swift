// Holds a history against a server that has been killed and started again since.
//
// Every call of the run that is safe to repeat is sent once more, the same bytes (an Extend would
// begin a new time to live, and a read says nothing of the past):
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
    return "\(Text.counted(acknowledged, "acknowledged decision")), \(count(lost)) lost; "
      + "\(count(unknown)) cut off, \(count(hadHappened)) of them had happened; "
      + check.verdict.sentence
  }
}

/// Sends the calls of `history` again, and compares answers and balances. `history` learns the outcomes.
/// - Parameter followsFeed: reads the change feed from the oldest event that is kept, and holds it against all
///   that is known then.
package func audit(
  _ history: inout History, target: Endpoint, followsFeed: Bool = false
) throws(LoadError) -> Audit {
  var audit = Audit()
  var client = try StockClient.connect(to: target)
  let stock = history.stock
  let replayed = try client.setStock(
    stock, safetyStock: history.safetyStock, history.names, run: history.run,
    reason: RunOptions.stockReason)
  if replayed < stock.count {
    history.violations.append(
      Violation(
        .forgotten, "the stock of \(Text.counted(stock.count - replayed, "SKU")) was set anew"))
  }
  var forgotten: [Violation] = []
  for number in 0..<history.books.count {
    try history.books.withLedger(number) { (ledger) throws(LoadError) in
      for method in [Method.adjustStock, .reserve, .replace, .confirm, .release] {
        try client.sendAgain(method, of: &ledger, &audit, &forgotten)
      }
    }
  }
  history.violations += forgotten
  history.levels = try client.readLevels(stock.count, history.names)
  let feed = followsFeed ? try readFeed(&history, target) : nil
  audit.check = Report.Check(history.check())
  audit.check.feed = feed
  return audit
}

/// The whole feed, after everything: no outcome is unknown any more but those of Extends.
private func readFeed(
  _ history: inout History, _ target: Endpoint
) throws(LoadError) -> Report.Feed {
  let watcher = FeedWatcher(
    target, run: history.run, stock: history.stock, safetyStock: history.safetyStock,
    keepsCommitted: history.books.keepsCommitted, workers: history.books.count, from: .oldest,
    mark: 1 + Machine.random64() >> 8)
  defer { watcher.stop() }
  try watcher.begin()
  if let failure = watcher.finish(history) { throw LoadError("\(target), Watch: \(failure)") }
  history.violations += watcher.violations
  return Report.Feed(
    FeedFacts(counts: watcher.counts, reconnects: watcher.reconnects, isWhole: true))
}

extension StockClient {
  fileprivate mutating func sendAgain(
    _ method: Method, of ledger: inout Ledger, _ audit: inout Audit,
    _ forgotten: inout [Violation]
  ) throws(LoadError) {
    let operations = (0..<ledger.count).filter { ledger.sentCount($0, method) > 0 }
    let endpoint = endpoint
    try callAll(operations.count, method) { index, message in
      ledger.writeRequest(operations[index], method, to: &message)
    } take: { (index, calls, answer) throws(LoadError) in
      let reply = Reply(answer, to: method, calls, ledger.names)
      switch reply {
      case .noEffect, .read: return false
      case .unknown:
        if try StockClient.isDone(answer, calls, method.name, endpoint) {
          throw LoadError("\(endpoint): \(method.name) answered what is not protobuf")
        }
        return false
      case .accepted, .refused:
        ledger.answeredAgain(operations[index], method, reply, &audit, &forgotten)
        return true
      }
    }
  }
}

extension Ledger {
  /// Takes down a decision that was asked for once more, and counts it in `audit`.
  fileprivate mutating func answeredAgain(
    _ operation: Int, _ method: Method, _ reply: Reply, _ audit: inout Audit,
    _ forgotten: inout [Violation]
  ) {
    let now = SystemClock.monotonicNanoseconds()
    let needsAnswer = needsAnswer(operation, method)
    let before = decidedAnswer(operation, method)
    audit.calls += sentCount(operation, method)
    sent(operation, method, at: now)
    answered(operation, method, reply, sentAt: now, at: now)
    guard let before else {
      // The others were told that nothing was decided: this is their first try.
      if needsAnswer { audit.unknown += 1 }
      if reply.isReplayed { audit.hadHappened += 1 }
      return
    }
    audit.acknowledged += 1
    // Refusals of Confirm and Release say what the reservation is, not what was decided.
    let mustRepeat =
      switch before {
      case .accepted: true
      case .refused(let refusal): method.keeps(refusal.reason)
      case .none, .withoutEffect, .read: false
      }
    if mustRepeat, !reply.isReplayed {
      let sku = names.name(Int(line(of: operation).sku))
      let what = "\(method.name) was answered, then decided anew"
      forgotten.append(
        Violation(.forgotten, "SKU \(sku), key \(key(of: operation)): \(what)"))
    } else if Answer(reply).repeats(before, method) {
      audit.standing += 1
    }
  }
}
