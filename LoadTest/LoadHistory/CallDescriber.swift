// How the calls of a violation are named.

/// Turns operations into lines.
struct CallDescriber {
  /// Times are told from here: the run's start, by the generator's monotonic clock.
  let startNanoseconds: Int64
  /// The same by its wall clock, since the Unix epoch; for times by the server's.
  let startedUnixNanoseconds: Int64

  func key(_ reference: OperationReference, _ books: borrowing Books) -> String {
    books.withLedger(reference.ledger) { $0.key(of: reference.operation) }
  }

  /// Every attempt of reserves and of what ended them, reserve by reserve.
  func holds(_ holds: some Sequence<Hold>, _ books: borrowing Books) -> [CallLine] {
    var lines: [CallLine] = []
    for hold in holds { lines += all(hold.reference, units: hold.units, books) }
    return lines
  }

  func restocks(_ restocks: some Sequence<Restock>, _ books: borrowing Books) -> [CallLine] {
    var lines: [CallLine] = []
    for restock in restocks { lines += all(restock.reference, units: restock.units, books) }
    return lines
  }

  /// Every attempt of an operation in the order of their sends; `units` are of the SKU in question.
  func all(_ reference: OperationReference, units: Int64, _ books: borrowing Books) -> [CallLine] {
    books.withLedger(reference.ledger) { ledger in
      var lines: [CallLine] = []
      ledger.forEachAttempt(of: reference.operation) { attempt in
        lines.append(line(attempt, units: units, ledger))
      }
      return lines.reversed()
    }
  }

  func line(_ attempt: Attempt, units: Int64, _ ledger: borrowing Ledger) -> CallLine {
    var line = CallLine()
    line.key = ledger.key(of: Int(attempt.operation))
    line.call = attempt.method.name
    line.units = units
    line.sentNanoseconds = attempt.sentNanoseconds &- startNanoseconds
    if attempt.answeredNanoseconds != .max {
      line.answeredNanoseconds = attempt.answeredNanoseconds &- startNanoseconds
    }
    line.answer = text(ledger.answer(to: attempt))
    return line
  }

  func text(_ answer: Answer) -> String {
    switch answer {
    case .none: return "no answer"
    case .withoutEffect: return "not done"
    case .read(let level): return "\(level.onHand) on hand, \(level.held) held"
    case .accepted(let id, let expires, let isReplayed, let grant):
      let name = id.map { " \($0.text)" } ?? ""
      let which = grant.alternative > 0 ? ", alternative \(grant.alternative)" : ""
      let units = grant.lines.map { "\($0.quantity)" }.joined(separator: " + ")
      let granted = which + (units.isEmpty ? "" : ", \(units) granted")
      let due = CallLine.milliseconds(expires &- startedUnixNanoseconds)
      let until = expires > 0 ? " until \(due) ms by its clock" : ""
      return "OK\(name)\(until)\(granted)\(isReplayed ? ", replayed" : "")"
    case .refused(let refusal):
      let available = refusal.available.map { ", \($0) available" } ?? ""
      let used = refusal.used.map { ", \($0) used" } ?? ""
      return refusal.reason.name + available + used + (refusal.isReplayed ? ", replayed" : "")
    }
  }
}
