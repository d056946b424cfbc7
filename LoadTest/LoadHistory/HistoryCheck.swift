// Holds a whole history, and the server's balances after it, against what a correct server can have
// done. Pure: ledgers and balances in, findings out.
//
// Everything is judged by bounds that hold for every correct server, so that no slow, busy or
// half-dead one is ever accused wrongly. Here: what one operation says by itself, and what all say
// about the clock. What the calls for one SKU say together is SKUCheck's.

package struct HistoryCheck {
  let names: SKUNames
  /// Units prepared, by SKU.
  let stock: [Int64]
  /// Of every SKU, 0 or below.
  let safetyStock: Int64
  let levels: [ReadLevel]?
  let describe: CallDescriber
  /// The generator's wall clock less its monotonic clock; nil if not known.
  private let generatorsClockOffset: Int64?
  private var findings = Findings()
  private var clock = ClockOffset(lengthNanoseconds: 0)
  private var searchBudget = Linearization.Budget()
  private var choices = ChoiceCheck()

  /// - Parameters:
  ///   - stock: units put behind each SKU before the run.
  ///   - levels: as many, read after all calls were drained; nil where the server was gone.
  ///   - startNanoseconds: the run's start, for naming calls.
  ///   - startedUnixNanoseconds: the same by the wall clock; 0 if not known.
  package init(
    names: SKUNames, stock: [Int64], safetyStock: Int64 = 0, levels: [ReadLevel]?,
    startNanoseconds: Int64, startedUnixNanoseconds: Int64
  ) {
    self.safetyStock = safetyStock
    self.names = names
    self.stock = stock
    self.levels = levels
    generatorsClockOffset = HistoryCheck.clockOffset(startNanoseconds, startedUnixNanoseconds)
    describe = CallDescriber(
      startNanoseconds: startNanoseconds, startedUnixNanoseconds: startedUnixNanoseconds)
  }

  /// The generator's wall clock less its monotonic clock, by the run's start; nil if not known.
  static func clockOffset(_ startNanoseconds: Int64, _ startedUnixNanoseconds: Int64) -> Int64? {
    startedUnixNanoseconds == 0 ? nil : startedUnixNanoseconds.minus(startNanoseconds)
  }

  /// Checks everything.
  /// - Parameters:
  ///   - books: the ledgers of all workers.
  ///   - noted: violations that were found on the way.
  ///   - skus: those whose calls are checked together; nil for all.
  package mutating func run(
    _ books: borrowing Books, noted: [Violation] = [], skus: Range<Int>? = nil
  ) -> Findings {
    findings = Findings()
    choices = ChoiceCheck()
    for violation in noted { findings.note(violation) }
    readClock(books)
    var ids: Set<ReservationID> = []
    for number in 0..<books.count {
      books.withLedger(number) { ledger in
        findings.keys += ledger.count
        findings.attempts += ledger.attemptCount
        for operation in 0..<ledger.count { check(operation, ledger, &ids) }
      }
    }
    let groups = LinesBySKU(books, skuCount: stock.count)
    let checked = (skus ?? 0..<stock.count).clamped(to: 0..<stock.count)
    findings.skus = checked.count
    for sku in checked {
      findings.stock = findings.stock.plus(stock[sku])
      check(sku: sku, groups, books)
    }
    choices.conclude(names, describe, books, &findings)
    if findings.skusUndecided > 0 { findings.linearizable = .undecided }
    if findings.counts.keys.contains(where: HistoryCheck.contradictions.contains) {
      findings.linearizable = .no
    }
    return findings
  }

  /// The kinds that say that no order of a SKU's calls explains their answers.
  private static let contradictions: Set<Violation.Kind> = [
    .oversold, .limitPassed, .notLinearizable, .onHandDiffers, .heldDiffers, .itemMissing,
    .outOfBounds,
    .wrongRead, .unjustifiedRefusal, .passedOver, .wrongGrant,
  ]

  private mutating func check(sku: Int, _ groups: LinesBySKU, _ books: borrowing Books) {
    let history = SKUHistory(
      sku, stock: stock[sku], safetyStock: safetyStock, groups, books, clock)
    let check = SKUCheck(
      history, name: names.name(sku), level: levels?[sku], describe: describe)
    guard check.run(books, &findings, &choices) else { return }
    let effects = Effects(history, level: levels?[sku])
    switch Linearization.decide(effects, budget: &searchBudget) {
    case .yes: break
    case .undecided: findings.skusUndecided += 1
    case .no(let shown): noteContradiction(sku, effects, shown, books)
    }
  }

  private mutating func noteContradiction(
    _ sku: Int, _ effects: Effects, _ shown: [Int], _ books: borrowing Books
  ) {
    var calls: [CallLine] = []
    var named: [OperationReference] = []
    for index in shown {
      guard let reference = effects.references[index], !named.contains(reference) else { continue }
      named.append(reference)
      calls += describe.all(reference, units: effects.all[index].units, books)
    }
    calls.sort { $0.sentNanoseconds < $1.sentNanoseconds }
    let isOfEnd = shown.contains { effects.references[$0] == nil }
    let last = isOfEnd ? " and the balances at the end" : ""
    findings.note(
      Violation(
        .notLinearizable,
        "SKU \(names.name(sku)): no order of these calls explains their answers\(last)",
        calls: calls))
  }

  // MARK: The clock

  private mutating func readClock(_ books: borrowing Books) {
    clock = HistoryCheck.clock(of: books, generatorsOwn: generatorsClockOffset)
    if clock.gapNanoseconds > 0 { noteGap(books) }
  }

  /// What the acceptances say of the server's clock.
  /// - Parameter generatorsOwn: the generator's wall clock less its monotonic clock; nil if not known.
  static func clock(of books: borrowing Books, generatorsOwn: Int64?) -> ClockOffset {
    var first = Int64.max
    var last = Int64.min
    books.forEachLedger { ledger in
      // A file has them by operation, not in the order of their sends.
      for index in 0..<ledger.attemptCount {
        let sent = ledger.attempt(index).sentNanoseconds
        first = min(first, sent)
        last = max(last, sent)
      }
    }
    var clock = ClockOffset(
      lengthNanoseconds: first <= last ? last.minus(first) : 0, generatorsOwn: generatorsOwn)
    for number in 0..<books.count {
      books.withLedger(number) { ledger in
        for operation in 0..<ledger.count where ledger[operation].kind == .reserve {
          let reference = OperationReference(ledger: number, operation: operation)
          read(ReserveSummary(ledger, operation), of: reference, into: &clock)
        }
      }
    }
    return clock
  }

  private mutating func noteGap(_ books: borrowing Books) {
    var subjects: [String] = []
    var calls: [CallLine] = []
    for reference in clock.extremes {
      books.withLedger(reference.ledger) { ledger in
        subjects.append(subject(reference.operation, ledger))
        calls += self.calls(of: reference.operation, ledger)
      }
    }
    let other = clock.isBoundByOwn ? " and the generator's clock" : ""
    findings.note(
      Violation(
        .wrongExpiry,
        """
        \(subjects.joined(separator: "; "))\(other): no clock explains every expires_at as the \
        time of the decision plus the time to live: they lie \
        \(clock.gapNanoseconds / 1_000_000) ms apart
        """, calls: calls))
  }

  private static func read(
    _ summary: ReserveSummary, of reference: OperationReference, into clock: inout ClockOffset
  ) {
    guard summary.reserve.isAccepted else { return }
    clock.add(
      expires: summary.expiresNanoseconds, timeToLive: summary.timeToLiveNanoseconds,
      sent: summary.reserve.sentNanoseconds, answered: summary.reserve.answeredNanoseconds,
      of: reference)
    if summary.extend.isAccepted {
      // Never past the server's max_hold: it may be less than was asked for.
      clock.add(
        decidedAtLeast: summary.latestExpiresNanoseconds &- summary.timeToLiveNanoseconds,
        answered: summary.extendAnsweredNanoseconds, of: reference)
    }
  }

  // MARK: One operation by itself

  private mutating func check(
    _ operation: Int, _ ledger: borrowing Ledger, _ ids: inout Set<ReservationID>
  ) {
    switch ledger[operation].kind {
    case .read: break
    case .restock, .ship, .uncommit, .count:
      let call = CallSummary(ledger, operation, .adjustStock)
      checkDecisions(call, .adjustStock, operation, ledger)
      // What refuses a count is looked at with the other calls for its SKU.
      let isCount = ledger[operation].kind == .count
      if call.decision == .refused, !isCount || call.reason != .insufficientStock {
        note(.unjustifiedRefusal, "AdjustStock answered \(call.reason.name)", operation, ledger)
      }
    case .reserve:
      let summary = ReserveSummary(ledger, operation)
      checkDecisions(summary.reserve, .reserve, operation, ledger)
      checkDecisions(summary.replace, .replace, operation, ledger)
      checkDecisions(summary.confirm, .confirm, operation, ledger)
      checkDecisions(summary.release, .release, operation, ledger)
      if summary.extend.mayHaveActed { findings.unknownOutcomes += 1 }
      if summary.reserve.isAccepted {
        if !ids.insert(ledger.acceptedID(of: operation)).inserted {
          note(
            .idUsedTwice, "reservation \(ledger.acceptedID(of: operation).text) is another key's",
            operation, ledger)
        }
        if let problem = ChoiceCheck.problem(operation, ledger) {
          note(.wrongGrant, problem, operation, ledger)
        }
        checkEnds(summary, operation, ledger)
      } else if summary.reserve.decision == .refused {
        checkRefusal(summary, operation, ledger)
      }
    }
  }

  private mutating func note(
    _ kind: Violation.Kind, _ text: String, _ operation: Int, _ ledger: borrowing Ledger
  ) {
    findings.note(
      Violation(
        kind, "\(subject(operation, ledger)): \(text)", calls: calls(of: operation, ledger)))
  }

  /// The SKUs and the key of an operation.
  private func subject(_ operation: Int, _ ledger: borrowing Ledger) -> String {
    let skus = Set(ledger.cart(of: operation).map { ledger.line(at: $0).sku }).sorted()
      .map { names.name(Int($0)) }.joined(separator: ", ")
    return "SKU \(skus), key \(ledger.key(of: operation))"
  }

  /// All calls of an operation, with the units of all its lines.
  private func calls(of operation: Int, _ ledger: borrowing Ledger) -> [CallLine] {
    let units = ledger.cart(of: operation).reduce(Int64(0)) {
      $0 + Int64(ledger.line(at: $1).quantity)
    }
    var calls: [CallLine] = []
    ledger.forEachAttempt(of: operation) {
      calls.append(describe.line($0, units: units, ledger))
    }
    return calls.reversed()
  }

  /// The attempts of one call share one decision: one says that it is the first, the others repeat it
  /// with the same values.
  private mutating func checkDecisions(
    _ call: CallSummary, _ method: Method, _ operation: Int, _ ledger: borrowing Ledger
  ) {
    if call.mayHaveActed { findings.unknownOutcomes += 1 }
    let decided = call.decided
    if decided == 0 { return }
    if call.replayed == decided, call.unknown == 0 {
      note(
        .replayWithoutFirst, "\(method.name) was only ever answered as a repetition", operation,
        ledger)
    }
    if decided == 1 { return }
    findings.duplicatesCompared += decided - 1
    if call.first > 1 {
      note(
        .decidedTwice, "\(call.first) answers to \(method.name) say that they are the first",
        operation, ledger)
    }
    if call.refused > 0, call.refused < decided {
      note(
        .answeredDifferently, "\(method.name) was both accepted and refused", operation, ledger)
      return
    }
    var answers: [Answer] = []
    ledger.forEachAttempt(of: operation) { attempt in
      guard attempt.method == method, attempt.isDecided else { return }
      answers.append(ledger.answer(to: attempt))
    }
    if let first = answers.last, let other = answers.first(where: { !$0.repeats(first, method) }) {
      note(
        .answeredDifferently,
        "\(method.name) answered \(describe.text(first)), then \(describe.text(other))"
          + (describe.text(first) == describe.text(other) ? " with other values" : ""), operation,
        ledger)
    }
  }

  private mutating func checkRefusal(
    _ summary: ReserveSummary, _ operation: Int, _ ledger: borrowing Ledger
  ) {
    let reason = summary.reserve.reason
    let isInCart = ledger.cart(of: operation).contains {
      ledger.line(at: $0).sku == summary.refusal?.sku
    }
    let hasLimit = ledger[operation].limit != nil
    let isOfStock = reason == .insufficientStock || reason == .limitExceeded && hasLimit
    if isOfStock, isInCart { return }
    let which = isOfStock ? " and named no SKU of its cart" : ""
    note(.unjustifiedRefusal, "Reserve answered \(reason.name)\(which)", operation, ledger)
  }

  /// Confirm, Release and Extend, given that nobody else ends our reservations.
  private mutating func checkEnds(
    _ summary: ReserveSummary, _ operation: Int, _ ledger: borrowing Ledger
  ) {
    if summary.confirm.isAccepted, summary.release.isAccepted {
      note(.endedTwice, "both Confirm and Release were OK", operation, ledger)
    }
    let due = summary.expiry
    let expiry = clock.local(earliest: due.earliest, latest: due.latest)
    for (call, method) in [(summary.confirm, Method.confirm), (summary.release, .release)] {
      checkEnd(call, method, expiry, operation, ledger)
    }
    if summary.extend.sent > 0 { checkExtends(summary, expiry.earliest, operation, ledger) }
    if summary.replace.sent > 0 { checkReplace(summary, expiry, operation, ledger) }
  }

  /// Each Extend decides anew: it has to come before the expiry that stood until then, and sets a
  /// later one.
  private mutating func checkExtends(
    _ summary: ReserveSummary, _ earliestExpiry: Int64, _ operation: Int, _ ledger: borrowing Ledger
  ) {
    var attempts: [Attempt] = []
    ledger.forEachAttempt(of: operation) { if $0.method == .extend { attempts.append($0) } }
    for (index, attempt) in attempts.enumerated() {
      if attempt.isRefused {
        let isJustified = summary.justifiesRefusal(of: attempt, earliestExpiry)
        if isJustified {
          findings.refusalsJustified += 1
        } else {
          note(
            .unjustifiedRefusal, "Extend answered \(attempt.reason.name)", operation, ledger)
        }
      }
      guard attempt.isAccepted else { continue }
      if attempt.expiresNanoseconds < summary.expiresNanoseconds {
        note(.wrongExpiry, "Extend made the hold shorter", operation, ledger)
      }
      var before = summary
      before.latestExpiresNanoseconds = summary.expiresNanoseconds
      for (other, others) in attempts.enumerated() where other != index && others.isAccepted {
        before.latestExpiresNanoseconds = max(
          before.latestExpiresNanoseconds, others.expiresNanoseconds)
      }
      let due = before.expiry
      let late = attempt.sentNanoseconds.minus(
        clock.local(earliest: due.earliest, latest: due.latest).latest)
      if late > 0 {
        note(
          .endedAfterExpiry,
          "Extend was OK, sent \(late / 1_000_000) ms or more after expires_at",
          operation, ledger)
      }
    }
  }

  private mutating func checkReplace(
    _ summary: ReserveSummary, _ expiry: (earliest: Int64, latest: Int64), _ operation: Int,
    _ ledger: borrowing Ledger
  ) {
    ledger.forEachAttempt(of: operation) { attempt in
      guard attempt.method == .replace, attempt.isRefused else { return }
      let hasLimit = ledger[operation].limit != nil
      if attempt.reason == .insufficientStock || attempt.reason == .limitExceeded && hasLimit {
        // Only what it adds can be short, or too much for one.
        let sku = summary.replaceRefusal?.sku ?? Ledger.none
        if ledger.units(of: sku, in: ledger.newCart(of: operation))
          <= ledger.units(of: sku, in: ledger.cart(of: operation))
        {
          note(
            .unjustifiedRefusal,
            "Replace answered \(attempt.reason.name) and named no SKU that it adds", operation,
            ledger)
        }
      } else if summary.justifiesRefusal(of: attempt, expiry.earliest)
        || attempt.reason == .revisionMismatch && canMismatch(attempt, operation, ledger)
      {
        findings.refusalsJustified += 1
      } else {
        note(.unjustifiedRefusal, "Replace answered \(attempt.reason.name)", operation, ledger)
      }
    }
    let late = summary.replace.sentNanoseconds.minus(expiry.latest)
    if summary.replace.isAccepted, late > 0 {
      note(
        .endedAfterExpiry,
        "Replace was OK, sent \(late / 1_000_000) ms or more after expires_at", operation, ledger)
    }
  }

  /// Whether the reservation can have been at another revision than a Replace expects, at some instant of its call: an
  /// Extend may have raised it meanwhile, or may have been raising it before.
  private func canMismatch(
    _ replace: Attempt, _ operation: Int, _ ledger: borrowing Ledger
  ) -> Bool {
    let expected = Int(ledger[operation].expectedRevision)
    var (least, most) = (1, 1)
    ledger.forEachAttempt(of: operation) { attempt in
      guard attempt.method == .extend, attempt.sentNanoseconds <= replace.answeredNanoseconds else {
        return
      }
      // One that changes nothing is answered as a repetition.
      let isCertain = attempt.isAccepted && !attempt.isReplayed
      if isCertain || attempt.isUnknown { most += 1 }
      if isCertain, attempt.answeredNanoseconds < replace.sentNanoseconds { least += 1 }
    }
    return expected > 0 && (least...most != expected...expected)
  }

  private mutating func checkEnd(
    _ call: CallSummary, _ method: Method, _ expiry: (earliest: Int64, latest: Int64),
    _ operation: Int, _ ledger: borrowing Ledger
  ) {
    switch call.decision {
    case .unknown: break
    case .accepted where call.sentNanoseconds > expiry.latest:
      let late = call.sentNanoseconds.minus(expiry.latest) / 1_000_000
      note(
        .endedAfterExpiry, "\(method.name) was OK, sent \(late) ms or more after expires_at",
        operation, ledger)
    case .accepted: break
    case .refused
    where call.reason == .reservationExpired
      && call.answeredNanoseconds >= expiry.earliest:
      findings.refusalsJustified += 1
    case .refused:
      note(.unjustifiedRefusal, "\(method.name) answered \(call.reason.name)", operation, ledger)
    }
  }
}
