// What the calls of a run say about one SKU, each with the times between which it took effect.
//
// All times are of the generator's clock. A decision took effect between its call's first send and its
// first answer; one of unknown outcome at any time from its send on, or never.
//
// A hold that falls due gives its units back at the first turn of the server at or after expires_at.
// The offset between the clocks is known within bounds, so expires_at is too. And a call that was
// under way when the hold fell due may have been decided by a clock read before: it may have seen the
// hold live until it was answered.

/// Which operation of which ledger.
struct OperationReference: BitwiseCopyable, Equatable {
  let ledger: Int
  let operation: Int
}

/// Units of one SKU that a reserve held, or may have held.
struct Hold: BitwiseCopyable {
  /// What became of the units.
  enum Fate: BitwiseCopyable {
    /// They came back, or will.
    case returned
    case sold
    /// A Confirm was cut off: one or the other.
    case either
  }

  let reference: OperationReference
  let units: Int64
  /// False where nobody knows whether the reserve was accepted.
  let isCertain: Bool
  let takeFrom: Int64
  let takeTo: Int64
  /// What the reserve was made with.
  var limit: SubjectLimit?
  /// More was asked for, and these are all that there were.
  var isPartial = false
  var fate = Fate.returned
  /// When the units came back, if they did.
  var giveFrom = Int64.max
  var giveTo = Int64.max
  /// When they were sold, if they were.
  var sellFrom = Int64.max
  var sellTo = Int64.max
  /// Came back by Release.
  var isReleased = false
  /// Whether `giveTo` is due to the clock, and not to an answer.
  fileprivate var isGivenByClock = false

  /// From when to when they are surely not to be had; empty where it never is sure.
  var surelyTaken: (from: Int64, until: Int64)? {
    guard isCertain else { return nil }
    let until = fate == .sold ? .max : giveFrom
    return until > takeTo ? (takeTo, until) : nil
  }
  /// From when to when they may not be to be had.
  var possiblyTaken: (from: Int64, until: Int64) {
    (takeFrom, fate == .returned && isCertain ? giveTo : .max)
  }
  /// The same of the units that the server calls held.
  var surelyHeld: (from: Int64, until: Int64)? {
    guard isCertain else { return nil }
    let until = fate == .sold ? sellFrom : fate == .either ? min(sellFrom, giveFrom) : giveFrom
    return until > takeTo ? (takeTo, until) : nil
  }
  var possiblyHeld: (from: Int64, until: Int64) {
    (takeFrom, isCertain ? (fate == .sold ? sellTo : giveTo) : .max)
  }
}

/// A reserve that was refused for want of this SKU.
struct RefusedReserve: BitwiseCopyable {
  let reference: OperationReference
  let units: Int64
  let from: Int64
  let to: Int64
  /// What the refusal said is available; nil if it said nothing.
  let available: Int64?
}

/// What came before the alternative that a reserve holds, or of a refused one any alternative: it could not be held when
/// the server looked at it, so that one of its SKUs had too little.
struct PassedOver: BitwiseCopyable {
  let reference: OperationReference
  let alternative: Int
  /// The fewest that would have done.
  let units: Int64
  /// There is no other SKU that can have had too little.
  let isAlone: Bool
  let from: Int64
  let to: Int64
}

/// A reserve, or what a Replace adds, that was refused because a subject would have had more than its limit. Where
/// units are lacking, that is what is said: there were enough of each of its SKUs.
struct RefusedByLimit: BitwiseCopyable {
  let reference: OperationReference
  let units: Int64
  /// nil where it was another SKU of the cart of which the subject would have had too many.
  let limit: SubjectLimit?
  /// What the refusal said the subject has; nil if it said nothing.
  let used: Int64?
  let from: Int64
  let to: Int64
}

/// Balances that the server stated.
struct BalanceRead: BitwiseCopyable {
  /// nil for the balances at the end of the run.
  let reference: OperationReference?
  let from: Int64
  let to: Int64
  let level: StockLevel
}

struct Restock: BitwiseCopyable {
  let reference: OperationReference
  let units: Int64
  /// `to` is `Int64.max` where nobody knows whether it was done.
  let from: Int64
  let to: Int64
  let isCertain: Bool
}

/// A change of stock that is no restock.
struct StockChange: BitwiseCopyable {
  enum Kind: BitwiseCopyable {
    /// On hand and committed fall.
    case ship
    /// Committed falls.
    case uncommit
    /// On hand becomes `units`, where it was `expected`.
    case count
  }

  let kind: Kind
  let reference: OperationReference
  let units: Int64
  var expected: Int64 = 0
  /// `to` is `Int64.max` where nobody knows whether it was done.
  let from: Int64
  let to: Int64
  let isCertain: Bool
}

/// A count that was refused: on hand was not what it expected, or what it counted is held and sold.
struct RefusedCount: BitwiseCopyable {
  let reference: OperationReference
  let counted: Int64
  let expected: Int64
  let isMismatch: Bool
  let from: Int64
  let to: Int64
}

/// All calls for one SKU.
struct SKUHistory {
  let sku: Int
  /// On hand before the run.
  let stock: Int64
  /// What may be held beyond what is on hand.
  let overcommit: Int64
  let keepsCommitted: Bool
  private(set) var holds: [Hold] = []
  private(set) var refusals: [RefusedReserve] = []
  private(set) var limitRefusals: [RefusedByLimit] = []
  private(set) var passedOver: [PassedOver] = []
  private(set) var reads: [BalanceRead] = []
  private(set) var restocks: [Restock] = []
  private(set) var changes: [StockChange] = []
  private(set) var refusedCounts: [RefusedCount] = []

  /// What can be held and sold at once before anything is added.
  var sellable: Int64 { stock.plus(overcommit) }

  init(
    _ sku: Int, stock: Int64, safetyStock: Int64 = 0, _ groups: LinesBySKU,
    _ books: borrowing Books, _ clock: ClockOffset
  ) {
    self.sku = sku
    self.stock = stock
    overcommit = -safetyStock
    keepsCommitted = books.keepsCommitted
    var last: LinesBySKU.Entry?
    for entry in groups.entries(of: sku) {
      // Lines of one cart for the same SKU count together.
      if let before = last, before.reference == entry.reference,
        before.alternative == entry.alternative
      {
        last?.units += entry.units
        last?.least += entry.least
        last?.newUnits += entry.newUnits
        continue
      }
      if let last { add(last, books, clock) }
      last = entry
    }
    if let last { add(last, books, clock) }
    extendGivesByClock()
  }

  private mutating func add(
    _ entry: LinesBySKU.Entry, _ books: borrowing Books, _ clock: ClockOffset
  ) {
    books.withLedger(entry.reference.ledger) { ledger in
      switch ledger[entry.reference.operation].kind {
      case .reserve:
        let summary = ReserveSummary(ledger, entry.reference.operation)
        let first = holds.count
        let limit = ledger[entry.reference.operation].limit
        let replace = summary.replace
        if replace.decision != .unknown || replace.mayHaveActed, summary.reserve.isAccepted {
          addReplaced(entry, summary, limit, clock)
        } else if ledger.hasChoice(entry.reference.operation) {
          addChoice(entry, summary, ledger, clock)
        } else if entry.units > 0 {
          addReserve(entry, summary, limit, clock)
        }
        for index in first..<holds.count { holds[index].limit = limit }
      case .read: addReads(entry.reference, ledger)
      case .restock: addRestock(entry, ledger)
      case .ship, .uncommit, .count: addChange(entry, ledger)
      }
    }
  }

  private mutating func addReserve(
    _ entry: LinesBySKU.Entry, _ summary: ReserveSummary, _ limit: SubjectLimit?,
    _ clock: ClockOffset
  ) {
    let reserve = summary.reserve
    switch reserve.decision {
    case .accepted:
      holds.append(SKUHistory.hold(entry, summary, clock))
    case .refused: addRefused(entry.reference, entry.units, reserve, summary.refusal, limit)
    case .unknown: addUnknown(entry.reference, entry.units, summary, clock)
    }
  }

  /// Units that may be held, or not.
  private mutating func addUnknown(
    _ reference: OperationReference, _ units: Int64, _ summary: ReserveSummary,
    _ clock: ClockOffset
  ) {
    guard summary.reserve.mayHaveActed else { return }
    let sent = summary.reserve.sentNanoseconds
    var hold = Hold(
      reference: reference, units: units, isCertain: false, takeFrom: sent, takeTo: .max)
    let (due, isTooLate) = sent.addingReportingOverflow(
      clock.lifeAtLeast(timeToLive: summary.timeToLiveNanoseconds))
    hold.giveFrom = isTooLate ? .max : due
    holds.append(hold)
  }

  /// A reserve with alternatives, or that is content with less than it asks for. `entry` is what one of its
  /// alternatives, or its lines, ask for of this SKU.
  private mutating func addChoice(
    _ entry: LinesBySKU.Entry, _ summary: ReserveSummary, _ ledger: borrowing Ledger,
    _ clock: ClockOffset
  ) {
    let operation = entry.reference.operation
    let reserve = summary.reserve
    let chosen = ledger.alternative(of: operation)
    switch reserve.decision {
    case .accepted where entry.alternative == chosen:
      var held = entry
      held.units = ledger.units(of: UInt32(sku), in: ledger.heldLines(of: operation))
      // That it grants nothing of a line is wrong by itself.
      guard held.units > 0 else { return }
      var hold = SKUHistory.hold(held, summary, clock)
      hold.isPartial = held.units < entry.units
      holds.append(hold)
    case .accepted where entry.alternative > chosen: break
    case .refused where entry.alternative == 0:
      addRefused(entry.reference, entry.least, reserve, summary.refusal, nil)
    case .accepted, .refused:
      guard reserve.isAccepted || summary.refusal?.reason == .insufficientStock else { return }
      let cart = ledger.cart(of: operation, alternative: entry.alternative)
      passedOver.append(
        PassedOver(
          reference: entry.reference, alternative: entry.alternative, units: entry.least,
          isAlone: cart.allSatisfy { ledger.line(at: $0).sku == UInt32(sku) },
          from: reserve.sentNanoseconds, to: reserve.answeredNanoseconds))
    case .unknown:
      // Nobody knows which is held, if any, and how much of it: any number of units up to all, in parts that add
      // up to it.
      addUnknown(entry.reference, entry.least, summary, clock)
      var rest = entry.units - entry.least
      var part: Int64 = 1
      while rest > 0 {
        addUnknown(entry.reference, min(part, rest), summary, clock)
        rest -= min(part, rest)
        part *= 2
      }
    }
  }

  /// - Parameter units: that were asked for.
  private mutating func addRefused(
    _ reference: OperationReference, _ units: Int64, _ call: CallSummary, _ refusal: Refusal?,
    _ limit: SubjectLimit?
  ) {
    guard let refusal else { return }
    let isNamed = refusal.sku == UInt32(sku)
    switch refusal.reason {
    case .insufficientStock where isNamed:
      refusals.append(
        RefusedReserve(
          reference: reference, units: units, from: call.sentNanoseconds,
          to: call.answeredNanoseconds, available: refusal.available))
    case .limitExceeded where limit != nil && units > 0:
      limitRefusals.append(
        RefusedByLimit(
          reference: reference, units: units, limit: isNamed ? limit : nil,
          used: isNamed ? refusal.used : nil, from: call.sentNanoseconds,
          to: call.answeredNanoseconds))
    default: break
    }
  }

  /// A hold whose lines a Replace has changed, or may have: in parts. Units that both lines have are held
  /// throughout; those that it drops come back at its instant, and those that it adds are taken then. That the
  /// parts end at the *same* instant is not asked for.
  private mutating func addReplaced(
    _ entry: LinesBySKU.Entry, _ summary: ReserveSummary, _ limit: SubjectLimit?,
    _ clock: ClockOffset
  ) {
    let replace = summary.replace
    let more = entry.newUnits - entry.units
    var kept = entry
    kept.units = replace.decision == .refused ? entry.units : min(entry.units, entry.newUnits)
    if kept.units > 0 { holds.append(SKUHistory.hold(kept, summary, clock)) }
    if replace.decision == .refused {
      addRefused(entry.reference, more, replace, summary.replaceRefusal, limit)
    } else if more < 0 {
      var dropped = entry
      dropped.units = -more
      addDropped(SKUHistory.hold(dropped, summary, clock), replace)
    } else if more > 0 {
      var added = entry
      added.units = more
      addAdded(SKUHistory.hold(added, summary, clock), replace)
    }
  }

  private mutating func addDropped(_ whole: Hold, _ replace: CallSummary) {
    var hold = whole
    if replace.isAccepted {
      hold.fate = .returned
      hold.isReleased = true
      hold.giveFrom = max(hold.takeFrom, replace.sentNanoseconds)
      hold.giveTo = replace.answeredNanoseconds
      hold.isGivenByClock = false
    } else {
      // Nobody knows: it came back then, or had the fate of the others.
      hold.fate = hold.fate == .returned ? .returned : .either
      hold.giveFrom = min(hold.giveFrom, max(hold.takeFrom, replace.sentNanoseconds))
    }
    holds.append(hold)
  }

  private mutating func addAdded(_ whole: Hold, _ replace: CallSummary) {
    var hold = Hold(
      reference: whole.reference, units: whole.units, isCertain: replace.isAccepted,
      takeFrom: replace.sentNanoseconds,
      takeTo: replace.isAccepted ? replace.answeredNanoseconds : .max)
    hold.fate = replace.isAccepted || whole.fate == .returned ? whole.fate : .either
    hold.isReleased = whole.isReleased
    hold.isGivenByClock = whole.isGivenByClock && replace.isAccepted
    hold.giveFrom = max(whole.giveFrom, hold.takeFrom)
    hold.giveTo = replace.isAccepted ? max(whole.giveTo, hold.giveFrom) : .max
    hold.sellFrom = whole.sellFrom
    hold.sellTo = whole.sellTo
    holds.append(hold)
  }

  /// What became of an accepted reserve.
  private static func hold(
    _ entry: LinesBySKU.Entry, _ summary: ReserveSummary, _ clock: ClockOffset
  ) -> Hold {
    var hold = Hold(
      reference: entry.reference, units: entry.units, isCertain: true,
      takeFrom: summary.reserve.sentNanoseconds, takeTo: summary.reserve.answeredNanoseconds)
    let due = summary.expiry
    let expiry = clock.local(earliest: due.earliest, latest: due.latest)
    hold.giveFrom = expiry.earliest
    hold.giveTo = expiry.latest
    hold.isGivenByClock = true
    if summary.confirm.isAccepted {
      hold.fate = .sold
      hold.sellFrom = summary.confirm.sentNanoseconds
      hold.sellTo = summary.confirm.answeredNanoseconds
    } else if summary.release.isAccepted {
      hold.isReleased = true
      hold.giveFrom = min(hold.giveFrom, summary.release.sentNanoseconds)
      hold.giveTo = summary.release.answeredNanoseconds
      hold.isGivenByClock = false
    } else if let found = summary.foundExpiredNanoseconds {
      // That it was found late does not say that it came back late.
      hold.giveTo = min(found, expiry.latest)
      hold.isGivenByClock = found > expiry.latest
    } else if summary.confirm.mayHaveActed {
      hold.fate = .either
      hold.sellFrom = summary.confirm.sentNanoseconds
    }
    if summary.release.mayHaveActed {
      hold.giveFrom = min(hold.giveFrom, summary.release.sentNanoseconds)
    }
    hold.giveFrom = max(hold.giveFrom, hold.takeFrom)
    hold.giveTo = max(hold.giveTo, hold.giveFrom)
    return hold
  }

  private mutating func addReads(_ reference: OperationReference, _ ledger: borrowing Ledger) {
    var next = ledger.latestAttempt(of: reference.operation)
    while let index = next {
      let attempt = ledger.attempt(index)
      if case .read(let level) = ledger.answer(to: attempt) {
        reads.append(
          BalanceRead(
            reference: reference, from: attempt.sentNanoseconds, to: attempt.answeredNanoseconds,
            level: level))
      }
      next = ledger.attempt(before: attempt)
    }
  }

  private mutating func addRestock(_ entry: LinesBySKU.Entry, _ ledger: borrowing Ledger) {
    let call = CallSummary(ledger, entry.reference.operation, .adjustStock)
    guard call.isAccepted || call.mayHaveActed else { return }
    restocks.append(
      Restock(
        reference: entry.reference, units: entry.units, from: call.sentNanoseconds,
        to: call.answeredNanoseconds, isCertain: call.isAccepted))
  }

  private mutating func addChange(_ entry: LinesBySKU.Entry, _ ledger: borrowing Ledger) {
    let operation = entry.reference.operation
    let record = ledger[operation]
    let call = CallSummary(ledger, operation, .adjustStock)
    let kind: StockChange.Kind =
      switch record.kind {
      case .ship: .ship
      case .uncommit: .uncommit
      default: .count
      }
    if kind == .count { addReads(entry.reference, ledger) }
    let counted = ledger.counted(operation)
    if call.isAccepted || call.mayHaveActed {
      changes.append(
        StockChange(
          kind: kind, reference: entry.reference, units: kind == .count ? counted : entry.units,
          expected: record.expectedOnHand, from: call.sentNanoseconds,
          to: call.answeredNanoseconds, isCertain: call.isAccepted))
    }
    guard kind == .count else { return }
    ledger.forEachAttempt(of: operation) { attempt in
      let isMismatch = attempt.reason == .onHandMismatch
      guard attempt.method == .adjustStock, attempt.isRefused, !attempt.isReplayed,
        isMismatch || attempt.reason == .insufficientStock
      else { return }
      refusedCounts.append(
        RefusedCount(
          reference: entry.reference, counted: counted, expected: record.expectedOnHand,
          isMismatch: isMismatch, from: attempt.sentNanoseconds,
          to: attempt.answeredNanoseconds))
    }
  }

  /// Calls that were under way when a hold fell due may have seen it live.
  private mutating func extendGivesByClock() {
    guard holds.contains(where: \.isGivenByClock) else { return }
    var observers = holds.filter(\.isCertain).map { (from: $0.takeFrom, to: $0.takeTo) }
    observers += refusals.map { (from: $0.from, to: $0.to) }
    observers += limitRefusals.map { (from: $0.from, to: $0.to) }
    observers += passedOver.map { (from: $0.from, to: $0.to) }
    observers += reads.map { (from: $0.from, to: $0.to) }
    observers += refusedCounts.map { (from: $0.from, to: $0.to) }
    observers += changes.filter(\.isCertain).map { (from: $0.from, to: $0.to) }
    observers.sort { $0.from < $1.from }
    var latest = Int64.min
    for index in observers.indices {
      latest = max(latest, observers[index].to)
      observers[index].to = latest
    }
    for index in holds.indices where holds[index].isGivenByClock {
      // The last that was sent before; what it stands for is the latest answer of all before it.
      let due = holds[index].giveTo
      let count = observers.partitioningIndex { $0.from >= due }
      if count > 0 { holds[index].giveTo = max(due, observers[count - 1].to) }
    }
  }
}

extension Array {
  /// The first index of which `isAfter` holds, where it holds of all that follow.
  func partitioningIndex(where isAfter: (Element) -> Bool) -> Int {
    var low = 0
    var high = count
    while low < high {
      let middle = (low + high) / 2
      if isAfter(self[middle]) { high = middle } else { low = middle + 1 }
    }
    return low
  }
}
