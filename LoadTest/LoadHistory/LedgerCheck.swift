// Holds the whole history, and the server's balances after it, against what a correct server can
// have done. Pure: ledgers and balances in, findings out.
//
// Everything is judged by bounds that hold for every correct server, so that no slow, busy or
// half-dead one is ever accused wrongly:
//
// - A decision fell between its call's first send and its first answer.
// - *Surely held*: an accepted reserve holds its units at least from its answer until its release
//   was sent or its expiry can have come; for ever, once confirmed.
// - *Possibly held*: at most from its send until its release was answered or its expiry must have
//   come; a call whose outcome is unknown may hold from its send on for ever.
// - OVERSOLD: at some instant the units surely held exceed the stock.
// - INSUFFICIENT_STOCK is justified if at some instant between send and answer the units possibly
//   held by others leave fewer than it asked for.
// - expires_at is the decision's time by the server's clock plus the time to live; over all
//   acceptances that bounds the offset between the two clocks.

/// What the server stated about one SKU after the run.
package struct ReadLevel: Sendable {
  /// nil if the server does not know the item.
  package let level: StockLevel?
  /// When it was asked and when the answer came, by the generator's clock.
  package let sentNanoseconds: Int64
  package let answeredNanoseconds: Int64

  package init(level: StockLevel?, sentNanoseconds: Int64, answeredNanoseconds: Int64) {
    self.level = level
    self.sentNanoseconds = sentNanoseconds
    self.answeredNanoseconds = answeredNanoseconds
  }
}

/// What the check found.
package struct Findings: Sendable {
  /// The first few of each kind; `counts` has them all.
  package internal(set) var violations: [Violation] = []
  package internal(set) var counts: [Violation.Kind: Int] = [:]
  /// Units over all SKUs.
  package internal(set) var stock: Int64 = 0
  package internal(set) var accepted: Int64 = 0
  package internal(set) var confirmed: Int64 = 0
  package internal(set) var released: Int64 = 0
  /// Held at the end by the server's word.
  package internal(set) var held: Int64 = 0
  /// Neither confirmed nor released, and due before the balances were read.
  package internal(set) var expired: Int64 = 0
  package internal(set) var keys = 0
  package internal(set) var refusalsJustified = 0
  package internal(set) var duplicatesCompared = 0
  /// Calls whose outcome nobody knows, reserves and ends.
  package internal(set) var unknownOutcomes = 0
  package internal(set) var skus = 0

  package var holds: Bool { counts.isEmpty }

  static let violationsKeptPerKind = 3

  mutating func note(_ violation: Violation) {
    let seen = counts[violation.kind, default: 0]
    counts[violation.kind] = seen + 1
    if seen < Findings.violationsKeptPerKind {
      violations.append(violation)
    } else if violation.kind == .oversold,
      let least = violations.indices.filter({ violations[$0].kind == .oversold })
        .min(by: { violations[$0].count < violations[$1].count }),
      violations[least].count < violation.count
    {
      // Of oversold SKUs the worst are kept.
      violations[least] = violation
    }
  }
}

/// The offset of the server's clock from the generator's, in nanoseconds.
struct ClockOffset {
  var low = Int64.min / 4
  var high = Int64.max / 4
  /// What the clocks may drift apart during a run, and what a server may round expires_at to.
  static let slackNanoseconds: Int64 = 5_000_000

  /// The interval of the generator's clock in which the server's clock passed `time`.
  func local(_ time: Int64) -> (earliest: Int64, latest: Int64) {
    (time - high - ClockOffset.slackNanoseconds, time - low + ClockOffset.slackNanoseconds)
  }
}

package struct LedgerCheck {
  let names: SKUNames
  /// Units prepared, by SKU.
  let stock: [Int64]
  let levels: [ReadLevel]
  let timeToLiveNanoseconds: Int64
  var findings = Findings()
  var offset = ClockOffset()

  /// - Parameters:
  ///   - stock: units put behind each SKU before the run.
  ///   - levels: as many, read after all calls were drained.
  package init(
    names: SKUNames, stock: [Int64], levels: [ReadLevel], timeToLiveNanoseconds: Int64
  ) {
    self.names = names
    self.stock = stock
    self.levels = levels
    self.timeToLiveNanoseconds = timeToLiveNanoseconds
  }

  /// Checks everything. `books` are the ledgers of all workers.
  package mutating func run(_ books: borrowing Books) -> Findings {
    findings.stock = stock.reduce(0, +)
    findings.skus = stock.count
    boundClockOffset(books)
    books.forEachLedger { ledger in
      for violation in ledger.violations { findings.note(violation) }
      // Those that were counted but not kept.
      if let last = ledger.violations.last {
        findings.counts[last.kind, default: 0] += ledger.violationCount - ledger.violations.count
      }
      findings.duplicatesCompared += ledger.duplicatesCompared
      findings.keys += ledger.count
      for operation in 0..<ledger.count { checkAlone(ledger, operation) }
    }
    checkIDs(books)
    let groups = LinesBySKU(books, skuCount: stock.count)
    for sku in stock.indices { check(sku: sku, groups, books) }
    return findings
  }

  // MARK: One call by itself

  private mutating func boundClockOffset(_ books: borrowing Books) {
    var low = offset.low
    var high = offset.high
    books.forEachLedger { ledger in
      for operation in 0..<ledger.count {
        let record = ledger.records[operation]
        guard record.reserve.decision == .accepted else { continue }
        let decided = record.expiresNanoseconds - timeToLiveNanoseconds
        low = max(low, decided - record.reserve.answeredNanoseconds)
        high = min(high, decided - record.reserve.sentNanoseconds)
      }
    }
    if low > high + 2 * ClockOffset.slackNanoseconds {
      findings.note(
        Violation(
          .wrongExpiry,
          """
          no clock explains every expires_at as the time of the decision plus the time to live: \
          they lie \((low - high) / 1_000_000) ms apart
          """))
    }
    offset.low = min(low, high)
    offset.high = max(low, high)
  }

  private mutating func checkAlone(_ ledger: borrowing Ledger, _ operation: Int) {
    let record = ledger.records[operation]
    for attempts in [record.reserve, record.end] {
      if attempts.mayHaveActed { findings.unknownOutcomes += 1 }
      if attempts.replayed > 0, attempts.first == 0, attempts.unknown == 0, attempts.refused == 0 {
        findings.note(
          Violation(.replayWithoutFirst, "key \(ledger.key(of: operation)): \(attempts.replayed) ×")
        )
      }
    }
    if record.reserve.decision == .refused {
      let reason = record.reserve.reason
      let isInCart = ledger.cart(of: operation).contains {
        ledger.line($0).sku == record.refusedSKU
      }
      if reason != .insufficientStock || !isInCart {
        let which = reason == .insufficientStock ? " and named no SKU of its cart" : ""
        findings.note(
          Violation(
            .unjustifiedRefusal,
            "key \(ledger.key(of: operation)): Reserve answered \(reason.name)\(which)"))
      }
    }
    if record.ending != .none { checkEnd(of: record) }
  }

  /// Confirm or Release, given that nobody else ends our reservations.
  private mutating func checkEnd(of record: ReserveRecord) {
    let call = record.ending == .confirm ? "Confirm" : "Release"
    let expiry = offset.local(record.expiresNanoseconds)
    switch record.end.decision {
    case .unknown: break
    case .accepted where record.end.sentNanoseconds > expiry.latest:
      findings.note(
        Violation(
          .endedAfterExpiry,
          """
          reservation \(record.id.text): \(call) was OK, sent \
          \((record.end.sentNanoseconds - expiry.latest) / 1_000_000) ms or more after expires_at
          """))
    case .accepted: break
    case .refused:
      let isJustified =
        record.end.reason == .reservationExpired
        && record.end.answeredNanoseconds >= expiry.earliest
      if isJustified {
        findings.refusalsJustified += 1
      } else {
        findings.note(
          Violation(
            .unjustifiedRefusal,
            "reservation \(record.id.text): \(call) answered \(record.end.reason.name)"))
      }
    }
  }

  private mutating func checkIDs(_ books: borrowing Books) {
    var seen: Set<ReservationID> = []
    seen.reserveCapacity(findings.keys)
    books.forEachLedger { ledger in
      for operation in 0..<ledger.count
      where ledger.records[operation].reserve.decision == .accepted {
        let id = ledger.records[operation].id
        if !seen.insert(id).inserted {
          findings.note(
            Violation(.idUsedTwice, "\(id.text), again for key \(ledger.key(of: operation))"))
        }
      }
    }
  }

  // MARK: One SKU

  private mutating func check(sku: Int, _ groups: LinesBySKU, _ books: borrowing Books) {
    var balance = SKUBalance()
    var refusals: [(ledger: Int, operation: Int)] = []
    let level = levels[sku]
    for entry in groups.entries(of: sku) {
      let record = books.record(entry.ledger, entry.operation)
      let units = Int64(entry.quantity)
      switch record.reserve.decision {
      case .accepted:
        balance.add(record, units: units, expiry: offset.local(record.expiresNanoseconds), level)
      case .refused:
        guard record.reserve.reason == .insufficientStock else { break }
        // A refusal is judged by the SKU that it names; twice in the cart is still one refusal.
        let isSeen = refusals.last.map { $0 == (entry.ledger, entry.operation) } ?? false
        if record.refusedSKU == UInt32(sku), !isSeen {
          refusals.append((entry.ledger, entry.operation))
        }
      case .unknown:
        if record.reserve.mayHaveActed { balance.addUnknown(record, units: units) }
      }
    }
    findings.accepted += balance.accepted
    findings.confirmed += balance.confirmed
    findings.released += balance.released
    findings.expired += balance.expired
    checkOversold(sku, balance)
    checkLevel(sku, balance)
    if !refusals.isEmpty { checkRefusals(sku, refusals, balance, books) }
  }

  private mutating func checkOversold(_ sku: Int, _ balance: SKUBalance) {
    // Without releases and expiry the peak is simply the sum; it is never above it.
    guard balance.accepted > stock[sku] else { return }
    let peak = balance.sure.peak()
    if peak > stock[sku] {
      findings.note(
        Violation(
          .oversold,
          "SKU \(names.name(sku)): \(peak) units surely held or sold at once, of \(stock[sku])",
          count: peak - stock[sku]))
    }
  }

  private mutating func checkLevel(_ sku: Int, _ balance: SKUBalance) {
    guard let level = levels[sku].level else {
      findings.note(Violation(.itemMissing, "SKU \(names.name(sku)): the server does not know it"))
      return
    }
    findings.held += level.held
    let onHand = (stock[sku] - balance.soldMost)...(stock[sku] - balance.confirmed)
    if !onHand.contains(level.onHand) {
      findings.note(
        Violation(
          .onHandDiffers,
          """
          SKU \(names.name(sku)): \(level.onHand) on hand, but \(stock[sku]) − \
          \(balance.confirmed) confirmed is \(LedgerCheck.text(onHand))
          """))
    }
    let held = balance.heldLeast...max(balance.heldLeast, balance.heldMost)
    if !held.contains(level.held) {
      findings.note(
        Violation(
          .heldDiffers,
          """
          SKU \(names.name(sku)): \(level.held) held, but by the answers it is \
          \(LedgerCheck.text(held)): \(balance.accepted) accepted − \(balance.confirmed) \
          confirmed − \(balance.released) released − \(balance.expired) expired
          """))
    }
  }

  private static func text(_ range: ClosedRange<Int64>) -> String {
    range.count == 1 ? "\(range.lowerBound)" : "\(range.lowerBound) to \(range.upperBound)"
  }

  private mutating func checkRefusals(
    _ sku: Int, _ refusals: [(ledger: Int, operation: Int)],
    _ balance: SKUBalance, _ books: borrowing Books
  ) {
    let possible = RangePeaks(balance.possible)
    for (ledger, operation) in refusals {
      let record = books.record(ledger, operation)
      let others = possible.peak(
        from: record.reserve.sentNanoseconds, through: record.reserve.answeredNanoseconds)
      let requested = books.units(of: UInt32(sku), ledger, operation)
      if others + requested > stock[sku] {
        findings.refusalsJustified += 1
      } else {
        findings.note(
          Violation(
            .unjustifiedRefusal,
            """
            key \(books.key(ledger, operation)): INSUFFICIENT_STOCK for \(requested) of SKU \
            \(names.name(sku)), when at most \(others) of \(stock[sku]) can have been held
            """))
      }
    }
  }
}
