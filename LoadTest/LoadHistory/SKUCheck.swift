// One SKU's calls against what a correct server can have done, by bounds that hold for every one.
//
// - *Surely taken*: an accepted reserve's units from its answer until its Release was sent or its
//   expiry can have come; for ever, once confirmed. OVERSOLD: at some instant they exceed the stock and
//   whatever may have been added by then.
// - *Possibly taken*: from the send until the Release was answered or the expiry must have come; a
//   call of unknown outcome may hold from its send on for ever. INSUFFICIENT_STOCK is justified if at
//   some instant of its call these leave fewer than it asked for, and if the number that it stated
//   lies between the two bounds.
// - Balances that were read, on the way or at the end, lie between the bounds of their time.

/// The check of one SKU.
struct SKUCheck {
  let history: SKUHistory
  /// As the server knows it.
  let name: String
  /// The balances at the end; nil where nobody could read them.
  let level: ReadLevel?
  let describe: CallDescriber
  private let bounds: SKUBounds

  /// Calls that are named beside the one that is wrong.
  private static let othersNamed = 1_000

  init(_ history: SKUHistory, name: String, level: ReadLevel?, describe: CallDescriber) {
    self.history = history
    self.name = name
    self.level = level
    self.describe = describe
    bounds = SKUBounds(history)
  }

  /// - Returns: whether everything lies within its bounds.
  /// - Parameter choices: takes down which alternatives of several SKUs were passed over with reason.
  func run(
    _ books: borrowing Books, _ findings: inout Findings, _ choices: inout ChoiceCheck
  ) -> Bool {
    let before = findings.counts
    addUp(&findings)
    checkOversold(books, &findings)
    if let level { checkLevel(level, books, &findings) }
    checkRefusals(books, &findings)
    checkLimits(books, &findings)
    checkChoices(books, &findings, &choices)
    checkReads(books, &findings)
    checkRefusedCounts(books, &findings)
    return findings.counts == before
  }

  private func addUp(_ findings: inout Findings) {
    for hold in history.holds where hold.isCertain {
      findings.accepted += hold.units
      if hold.fate == .sold {
        findings.confirmed += hold.units
      } else if hold.isReleased {
        findings.released += hold.units
      } else if let level, hold.fate == .returned, hold.giveFrom <= level.sentNanoseconds {
        findings.expired += hold.units
      }
    }
    for restock in history.restocks where restock.isCertain { findings.restocked += restock.units }
  }

  private func checkOversold(_ books: borrowing Books, _ findings: inout Findings) {
    let peak = bounds.taken.least.peak()
    guard peak.units > history.sellable else { return }
    let restocked = history.restocks.filter { $0.from <= peak.time }
    let added = restocked.reduce(Int64(0)) { $0 + $1.units }
    let atOnce = history.holds.filter { hold in
      guard let sure = hold.surelyTaken else { return false }
      return sure.from <= peak.time && peak.time < sure.until
    }
    // The fewest that show it: the largest first.
    var sum: Int64 = 0
    var shown: [Hold] = []
    for hold in atOnce.sorted(by: { ($0.units, $1.takeTo) > ($1.units, $0.takeTo) })
    where sum <= history.sellable + added {
      sum += hold.units
      shown.append(hold)
    }
    let calls = describe.holds(shown, books) + describe.restocks(restocked, books)
    let more = added > 0 ? " and \(added) added" : ""
    findings.note(
      Violation(
        .oversold,
        """
        SKU \(name): \(peak.units + added) \(peak.units + added == 1 ? "unit" : "units") surely held or sold at once, of \(history.sellable)\(more)
        """,
        sku: name, count: peak.units - history.sellable, calls: calls))
  }

  private func checkLevel(
    _ read: ReadLevel, _ books: borrowing Books, _ findings: inout Findings
  ) {
    guard let level = read.level else {
      findings.note(Violation(.itemMissing, "SKU \(name): the server does not know it"))
      return
    }
    findings.held = findings.held.plus(level.held)
    let gone = bounds.gone.range(from: read.sentNanoseconds, through: read.answeredNanoseconds)
    let onHand = (history.stock - gone.upperBound)...(history.stock - gone.lowerBound)
    if !onHand.contains(level.onHand) {
      let added = history.restocks.reduce(Int64(0)) { $0 + ($1.isCertain ? $1.units : 0) }
      let plus = added > 0 ? " + \(added) added" : ""
      findings.note(
        Violation(
          .onHandDiffers,
          """
          SKU \(name): \(level.onHand) on hand, but \(history.stock)\(plus) − \
          \(history.keepsCommitted ? "the shipped and not found" : "\(sum { $0.fate == .sold }) confirmed") \
          is \(SKUCheck.text(onHand))
          """,
          count: SKUCheck.distance(level.onHand, onHand),
          calls: describe.holds(
            history.holds.filter { $0.fate != .returned }.prefix(SKUCheck.othersNamed), books)
            + describe.restocks(history.restocks.prefix(SKUCheck.othersNamed), books)
            + changes(books)))
    }
    checkCommitted(level, read, books, &findings)
    let held = bounds.held.range(from: read.sentNanoseconds, through: read.answeredNanoseconds)
    if !held.contains(level.held) {
      findings.note(
        Violation(
          .heldDiffers,
          """
          SKU \(name): \(level.held) held, but by the answers it is \(SKUCheck.text(held)): \
          \(sum { _ in true }) accepted − \(sum { $0.fate == .sold }) confirmed − \
          \(sum { $0.isReleased }) released − the expired
          """,
          count: SKUCheck.distance(level.held, held),
          calls: describe.holds(
            history.holds.filter { $0.possiblyHeld.until >= read.sentNanoseconds }
              .prefix(SKUCheck.othersNamed), books)))
    }
  }

  private func checkCommitted(
    _ level: StockLevel, _ read: ReadLevel, _ books: borrowing Books, _ findings: inout Findings
  ) {
    let committed = bounds.committed.range(
      from: read.sentNanoseconds, through: read.answeredNanoseconds)
    if committed.contains(level.committed) { return }
    findings.note(
      Violation(
        .onHandDiffers,
        """
        SKU \(name): \(level.committed) committed, but by the answers it is \
        \(SKUCheck.text(committed)): \(sum { $0.fate == .sold }) confirmed − the shipped
        """,
        count: SKUCheck.distance(level.committed, committed),
        calls: describe.holds(
          history.holds.filter { $0.fate != .returned }.prefix(SKUCheck.othersNamed), books)
          + changes(books)))
  }

  /// Every attempt of what changed stock otherwise than a restock.
  private func changes(_ books: borrowing Books) -> [CallLine] {
    var lines: [CallLine] = []
    for change in history.changes.prefix(SKUCheck.othersNamed) {
      lines += describe.all(change.reference, units: change.units, books)
    }
    return lines
  }

  private func sum(where isCounted: (Hold) -> Bool) -> Int64 {
    history.holds.reduce(Int64(0)) { $0 + ($1.isCertain && isCounted($1) ? $1.units : 0) }
  }

  static func text(_ range: ClosedRange<Int64>) -> String {
    range.count == 1 ? "\(range.lowerBound)" : "\(range.lowerBound) to \(range.upperBound)"
  }

  private static func distance(_ value: Int64, _ range: ClosedRange<Int64>) -> Int64 {
    let nearest = min(max(value, range.lowerBound), range.upperBound)
    return Int64(clamping: value.minus(nearest).magnitude)
  }

  // MARK: Refusals and reads

  private func checkRefusals(_ books: borrowing Books, _ findings: inout Findings) {
    if history.refusals.isEmpty { return }
    let taken = IndexedBracket(bounds.taken)
    for refusal in history.refusals {
      let range = taken.range(from: refusal.from, through: refusal.to)
      let available =
        (history.sellable - range.upperBound)...(history.sellable - range.lowerBound)
      guard let problem = SKUCheck.problem(refusal, available, of: history.sellable) else {
        findings.refusalsJustified += 1
        continue
      }
      let key = describe.key(refusal.reference, books)
      findings.note(
        Violation(
          .unjustifiedRefusal,
          "SKU \(name), key \(key): INSUFFICIENT_STOCK for \(refusal.units), \(problem)",
          calls: findings.keepsAnother(.unjustifiedRefusal)
            ? describe.all(refusal.reference, units: refusal.units, books)
              + others(from: refusal.from, to: refusal.to, books) : []))
    }
  }

  /// What is wrong with a refusal, when so many units can have been available; nil if nothing is.
  private static func problem(
    _ refusal: RefusedReserve, _ available: ClosedRange<Int64>, of stock: Int64
  ) -> String? {
    if available.lowerBound >= refusal.units {
      return "when at most \(stock - available.lowerBound) of \(stock) can have been held or sold"
    }
    guard let stated = refusal.available else { return nil }
    if stated >= refusal.units { return "though it says that \(stated) are available" }
    if available.contains(stated) { return nil }
    return "with \(stated) available, when it was \(text(available))"
  }

  private func checkReads(_ books: borrowing Books, _ findings: inout Findings) {
    if history.reads.isEmpty { return }
    let gone = IndexedBracket(bounds.gone)
    let held = IndexedBracket(bounds.held)
    let taken = IndexedBracket(bounds.taken)
    let committed = IndexedBracket(bounds.committed)
    for read in history.reads {
      let stock = history.stock
      let level = read.level
      let goneThen = gone.range(from: read.from, through: read.to)
      let takenThen = taken.range(from: read.from, through: read.to)
      let quantities: [(name: String, stated: Int64, range: ClosedRange<Int64>)] = [
        ("on hand", level.onHand, (stock - goneThen.upperBound)...(stock - goneThen.lowerBound)),
        ("held", level.held, held.range(from: read.from, through: read.to)),
        (
          "committed", level.committed, committed.range(from: read.from, through: read.to)
        ),
        (
          "not held or sold", level.onHand.minus(level.held).minus(level.committed),
          (stock - takenThen.upperBound)...(stock - takenThen.lowerBound)
        ),
      ]
      guard let wrong = quantities.first(where: { !$0.range.contains($0.stated) }),
        let reference = read.reference
      else {
        findings.readsJustified += 1
        continue
      }
      findings.note(
        Violation(
          .wrongRead,
          """
          SKU \(name): GetStock answered \(wrong.stated) \(wrong.name), when it was \
          \(SKUCheck.text(wrong.range))
          """,
          calls: findings.keepsAnother(.wrongRead)
            ? describe.all(reference, units: 0, books)
              + others(from: read.from, to: read.to, books) : []))
    }
  }

  /// Whatever was passed over lacked units, and whoever was granted less than was asked for got all that there was.
  private func checkChoices(
    _ books: borrowing Books, _ findings: inout Findings, _ choices: inout ChoiceCheck
  ) {
    let partial = history.holds.filter(\.isPartial)
    if history.passedOver.isEmpty, partial.isEmpty { return }
    let taken = IndexedBracket(bounds.taken)
    for passed in history.passedOver {
      let least = history.sellable - taken.range(from: passed.from, through: passed.to).upperBound
      let isJustified = least < passed.units
      if !passed.isAlone {
        choices.take(passed, isJustified: isJustified)
      } else if isJustified {
        findings.refusalsJustified += 1
      } else {
        let key = describe.key(passed.reference, books)
        findings.note(
          Violation(
            .passedOver,
            """
            SKU \(name), key \(key): \(passed.alternative == 0 ? "its lines" : "alternative \(passed.alternative)") \
            for \(passed.units) could be held all the time: at least \(least) were available
            """,
            calls: findings.keepsAnother(.passedOver)
              ? describe.all(passed.reference, units: passed.units, books)
                + others(from: passed.from, to: passed.to, books) : []))
      }
    }
    for hold in partial {
      // With it, nothing is left at the instant at which it was taken.
      let left =
        history.sellable - taken.range(from: hold.takeFrom, through: hold.takeTo).upperBound
      if left <= 0 { continue }
      findings.note(
        Violation(
          .wrongGrant,
          """
          SKU \(name), key \(describe.key(hold.reference, books)): \(hold.units) were granted, fewer than were asked \
          for, and at least \(left) more were available all the time
          """,
          calls: findings.keepsAnother(.wrongGrant)
            ? describe.all(hold.reference, units: hold.units, books)
              + others(from: hold.takeFrom, to: hold.takeTo, books) : []))
    }
  }

  /// What each subject has of this SKU, and whether that refuses what was refused for it.
  private func checkLimits(_ books: borrowing Books, _ findings: inout Findings) {
    if !history.holds.contains(where: { $0.limit != nil }), history.limitRefusals.isEmpty { return }
    let check = LimitCheck(history)
    for passed in check.passed {
      findings.note(
        Violation(
          .limitPassed,
          """
          SKU \(name), subject \(passed.subject): \(passed.units) units surely held or sold at once, where no \
          reserve allows more than \(passed.maxUnits)
          """,
          sku: name, count: passed.units - passed.maxUnits,
          calls: describe.holds(passed.holds, books)))
    }
    let taken = IndexedBracket(bounds.taken)
    for refusal in history.limitRefusals {
      let range = taken.range(from: refusal.from, through: refusal.to)
      guard let problem = check.problem(refusal, atMost: history.sellable - range.lowerBound)
      else {
        findings.refusalsJustified += refusal.limit == nil ? 0 : 1
        continue
      }
      let key = describe.key(refusal.reference, books)
      findings.note(
        Violation(
          .unjustifiedRefusal,
          "SKU \(name), key \(key): LIMIT_EXCEEDED for \(refusal.units), \(problem)",
          calls: findings.keepsAnother(.unjustifiedRefusal)
            ? describe.all(refusal.reference, units: refusal.units, books)
              + describe.holds(check.holds(of: refusal.limit), books) : []))
    }
  }

  /// A count is refused where on hand was not what it expected, or what it counted is less than what is promised.
  private func checkRefusedCounts(_ books: borrowing Books, _ findings: inout Findings) {
    for count in history.refusedCounts {
      let gone = bounds.gone.range(from: count.from, through: count.to)
      let held = bounds.held.range(from: count.from, through: count.to)
      let committed = bounds.committed.range(from: count.from, through: count.to)
      let isRefuted =
        count.isMismatch
        ? gone.lowerBound == gone.upperBound && history.stock - gone.lowerBound == count.expected
        : held.upperBound.plus(committed.upperBound) <= count.counted
      guard isRefuted else {
        findings.refusalsJustified += 1
        continue
      }
      let reason = count.isMismatch ? "ON_HAND_MISMATCH" : "INSUFFICIENT_STOCK"
      let truth =
        count.isMismatch
        ? "\(count.expected) were on hand"
        : "at most \(held.upperBound.plus(committed.upperBound)) can have been held and committed"
      findings.note(
        Violation(
          .unjustifiedRefusal,
          "SKU \(name), key \(describe.key(count.reference, books)): a count of \(count.counted) "
            + "was answered \(reason), when \(truth)",
          calls: findings.keepsAnother(.unjustifiedRefusal)
            ? describe.all(count.reference, units: count.counted, books)
              + others(from: count.from, to: count.to, books) : []))
    }
  }

  /// The calls that can have had a part in what was available between two instants, the largest first.
  private func others(from: Int64, to: Int64, _ books: borrowing Books) -> [CallLine] {
    let holds = history.holds.filter { hold in
      let possible = hold.possiblyTaken
      return possible.from <= to && possible.until >= from
    }
    let restocks = history.restocks.filter { $0.from <= to }
    let largest = holds.sorted { ($0.units, $1.takeFrom) > ($1.units, $0.takeFrom) }
      .prefix(SKUCheck.othersNamed)
    return describe.holds(largest, books)
      + describe.restocks(restocks.prefix(SKUCheck.othersNamed), books)
  }
}
