// What one SKU's calls did, as effects that each happened at one instant, and the counter with holds
// that they happened to. A history is linearizable if its effects can be put into an order in which
// the counter allows every one of them, each at an instant of its window.

/// Something that happened at one instant between `from` and `to`.
struct Effect: BitwiseCopyable, Equatable {
  enum Kind: UInt8, BitwiseCopyable {
    /// Units are held.
    case take
    /// They come back: released, or expired.
    case give
    /// They leave on hand: confirmed.
    case sell
    case restock
    /// A reserve finds less than it asks for.
    case refuse
    /// A reserve finds all that it asks for; where it has a subject, that has too much for it to be held.
    case overLimit
    /// Balances are stated.
    case read
    /// On hand and committed fall.
    case ship
    /// Committed falls.
    case uncommit
    /// On hand, which is as stated, becomes `units`.
    case count
    /// On hand is not as stated.
    case mismatch
    /// What is held and committed is more than `units`.
    case shortCount
  }

  let kind: Kind
  /// False where it may as well never have happened.
  var isRequired = true
  /// Which hold this is about; -1 for none.
  var hold: Int32 = -1
  let units: Int64
  let from: Int64
  let to: Int64
  /// Whom the units are for, among `Effects.subjectCount`; -1 for nobody. And how many that subject may have.
  var subject: Int32 = -1
  var limit: Int64 = 0
  /// Of a take: more was asked for, and these are all that there are.
  var takesAll = false
  /// What a refusal said is available, or used, or -1 if it said nothing; what a read said is on hand.
  var stated: Int64 = -1
  /// What a read said is held.
  var statedHeld: Int64 = 0
  /// What a read said is committed.
  var statedCommitted: Int64 = 0

  var isObservation: Bool {
    switch kind {
    case .refuse, .overLimit, .read, .mismatch, .shortCount: true
    case .take, .give, .sell, .restock, .ship, .uncommit, .count: false
    }
  }
}

extension Effect {
  /// A change that says by its acceptance what the balances were.
  var isConditional: Bool { kind == .ship || kind == .uncommit || kind == .count }
}

/// The calls for one SKU as effects.
struct Effects {
  private(set) var all: [Effect] = []
  /// Of each effect, the operation that it is of; nil for the balances at the end.
  private(set) var references: [OperationReference?] = []
  private(set) var holdCount = 0
  /// Subjects that have limits, and their numbers.
  private(set) var subjectCount = 0
  private var subjects: [UInt32: Int32] = [:]
  let stock: Int64
  /// What may be held beyond what is on hand.
  var overcommit: Int64 = 0
  /// What is sold stays on hand, as committed.
  var keepsCommitted = false

  /// - Parameter level: the balances at the end; nil where they are not known.
  init(_ history: SKUHistory, level: ReadLevel?) {
    stock = history.stock
    overcommit = history.overcommit
    keepsCommitted = history.keepsCommitted
    for hold in history.holds { add(hold) }
    for change in history.changes { add(change) }
    for count in history.refusedCounts {
      add(
        Effect(
          kind: count.isMismatch ? .mismatch : .shortCount, units: count.counted,
          from: count.from, to: count.to, stated: count.expected), count.reference)
    }
    for refusal in history.refusals {
      add(
        Effect(
          kind: .refuse, units: refusal.units, from: refusal.from, to: refusal.to,
          stated: refusal.available ?? -1), refusal.reference)
    }
    for passed in history.passedOver where passed.isAlone {
      add(
        Effect(kind: .refuse, units: passed.units, from: passed.from, to: passed.to),
        passed.reference)
    }
    for refusal in history.limitRefusals {
      add(
        Effect(
          kind: .overLimit, units: refusal.units, from: refusal.from, to: refusal.to,
          subject: number(of: refusal.limit), limit: Int64(refusal.limit?.maxUnits ?? 0),
          stated: refusal.used ?? -1), refusal.reference)
    }
    for read in history.reads { add(read.level, read.from, read.to, read.reference) }
    for restock in history.restocks {
      add(
        Effect(
          kind: .restock, isRequired: restock.isCertain, units: restock.units, from: restock.from,
          to: restock.to), restock.reference)
    }
    if let level, let known = level.level {
      add(known, level.sentNanoseconds, level.answeredNanoseconds, nil)
    }
    leaveOutWhatCameLater()
  }

  /// Effects by themselves, for tests and for parts of a history.
  init(stock: Int64, _ effects: [Effect]) {
    self.stock = stock
    all = effects
    references = Array(repeating: nil, count: effects.count)
    holdCount = Int((effects.map(\.hold).max() ?? -1) + 1)
    subjectCount = Int((effects.map(\.subject).max() ?? -1) + 1)
  }

  private mutating func number(of limit: SubjectLimit?) -> Int32 {
    guard let limit else { return -1 }
    if let number = subjects[limit.subject] { return number }
    subjects[limit.subject] = Int32(truncatingIfNeeded: subjectCount)
    subjectCount += 1
    return Int32(truncatingIfNeeded: subjectCount - 1)
  }

  private mutating func add(_ change: StockChange) {
    let kind: Effect.Kind =
      switch change.kind {
      case .ship: .ship
      case .uncommit: .uncommit
      case .count: .count
      }
    add(
      Effect(
        kind: kind, isRequired: change.isCertain, units: change.units, from: change.from,
        to: change.to, stated: change.expected), change.reference)
  }

  private mutating func add(_ hold: Hold) {
    let number = Int32(truncatingIfNeeded: holdCount)
    holdCount += 1
    let subject = self.number(of: hold.limit)
    add(
      Effect(
        kind: .take, isRequired: hold.isCertain, hold: number, units: hold.units,
        from: hold.takeFrom, to: hold.takeTo, subject: subject,
        limit: Int64(hold.limit?.maxUnits ?? 0), takesAll: hold.isPartial), hold.reference)
    if hold.fate != .sold {
      add(
        Effect(
          kind: .give, isRequired: hold.fate == .returned && hold.isCertain, hold: number,
          units: hold.units, from: hold.giveFrom, to: hold.giveTo, subject: subject),
        hold.reference)
    }
    if hold.fate != .returned {
      // A Confirm is not accepted after the hold has ended.
      add(
        Effect(
          kind: .sell, isRequired: hold.fate == .sold, hold: number, units: hold.units,
          from: hold.sellFrom, to: hold.fate == .sold ? hold.sellTo : hold.giveTo), hold.reference)
    }
  }

  private mutating func add(
    _ level: StockLevel, _ from: Int64, _ to: Int64, _ reference: OperationReference?
  ) {
    add(
      Effect(
        kind: .read, units: 0, from: from, to: to, stated: level.onHand, statedHeld: level.held,
        statedCommitted: level.committed), reference)
  }

  private mutating func add(_ effect: Effect, _ reference: OperationReference?) {
    // A Confirm that nobody answered, sent after the hold's end: it did nothing.
    if effect.from > effect.to { return }
    all.append(effect)
    references.append(reference)
  }

  /// The same effects, each as `change` says.
  func changing(_ change: (Effect) -> Effect) -> Effects {
    var changed = self
    changed.all = all.map(change)
    return changed
  }

  func changing(_ index: Int, _ change: (Effect) -> Effect) -> Effects {
    var changed = self
    changed.all[index] = change(all[index])
    return changed
  }

  /// What need not have happened before the last answer about this SKU says nothing.
  private mutating func leaveOutWhatCameLater() {
    let last =
      all.filter { $0.isRequired && ($0.isObservation || $0.kind == .take || $0.isConditional) }
      .map(\.to).max() ?? .min
    var kept: [Effect] = []
    var keptReferences: [OperationReference?] = []
    for index in all.indices where all[index].from <= last {
      var effect = all[index]
      if effect.to > last { effect.isRequired = false }
      kept.append(effect)
      keptReferences.append(references[index])
    }
    all = kept
    references = keptReferences
  }
}

/// The sequential counter with holds.
struct StockModel {
  private(set) var onHand: Int64
  private(set) var held: Int64 = 0
  private(set) var committed: Int64 = 0
  private let overcommit: Int64
  private let keepsCommitted: Bool
  /// Of each hold: 0 before it was taken, 1 while it is live, 2 after its end.
  private var holds: [UInt8]
  /// What each subject holds and has bought.
  private var used: [Int64]

  init(_ effects: Effects) {
    onHand = effects.stock
    overcommit = effects.overcommit
    keepsCommitted = effects.keepsCommitted
    holds = Array(repeating: 0, count: effects.holdCount)
    used = Array(repeating: 0, count: effects.subjectCount)
  }

  /// What the subject of `effect`, which has one, holds and has bought.
  func used(by effect: Effect) -> Int64 { used[Int(effect.subject)] }

  /// Whether the subject of `effect`, if there is one, would have more than it may.
  func passesLimit(_ effect: Effect) -> Bool {
    effect.subject >= 0 && used(by: effect) > effect.limit - effect.units
  }

  var available: Int64 { onHand - held - committed + overcommit }

  func isLive(_ hold: Int32) -> Bool { holds[Int(hold)] == 1 }

  /// Whether `effect` can happen now.
  func allows(_ effect: Effect) -> Bool {
    switch effect.kind {
    case .take:
      holds[Int(effect.hold)] == 0
        && (effect.takesAll ? available == effect.units : available >= effect.units)
        && !passesLimit(effect)
    case .give: holds[Int(effect.hold)] == 1
    case .sell: holds[Int(effect.hold)] == 1 && (keepsCommitted || onHand >= effect.units)
    case .restock: true
    case .ship: committed >= effect.units && onHand >= effect.units
    case .uncommit: committed >= effect.units
    case .count: onHand == effect.stated && effect.units >= held + committed
    case .refuse: available < effect.units && (effect.stated < 0 || effect.stated == available)
    case .overLimit:
      available >= effect.units
        && (effect.subject < 0
          || passesLimit(effect) && (effect.stated < 0 || effect.stated == used(by: effect)))
    case .read:
      onHand == effect.stated && held == effect.statedHeld && committed == effect.statedCommitted
    case .mismatch: onHand != effect.stated
    case .shortCount: effect.units < held + committed
    }
  }

  /// `effect`, which is allowed, happens.
  mutating func apply(_ effect: Effect) {
    change(effect, by: 1)
    switch effect.kind {
    case .take: holds[Int(effect.hold)] = 1
    case .give, .sell: holds[Int(effect.hold)] = 2
    default: break
    }
  }

  /// `effect`, which has happened last, has not.
  mutating func undo(_ effect: Effect) {
    change(effect, by: -1)
    switch effect.kind {
    case .take: holds[Int(effect.hold)] = 0
    case .give, .sell: holds[Int(effect.hold)] = 1
    default: break
    }
  }

  private mutating func change(_ effect: Effect, by sign: Int64) {
    let units = sign * effect.units
    switch effect.kind {
    case .take:
      held += units
      if effect.subject >= 0 { used[Int(effect.subject)] += units }
    case .give:
      held -= units
      if effect.subject >= 0 { used[Int(effect.subject)] -= units }
    // What was bought goes on to count.
    case .sell:
      held -= units
      if keepsCommitted { committed += units } else { onHand -= units }
    case .restock: onHand += units
    case .ship:
      onHand -= units
      committed -= units
    case .uncommit: committed -= units
    case .count: onHand += sign * (effect.units - effect.stated)
    case .refuse, .overLimit, .read, .mismatch, .shortCount: break
    }
  }

  /// Whether the effects can happen in `order`, each in its window, and none that is required is
  /// missing: the proof that they are linearizable.
  static func replays(_ effects: Effects, in order: [Int]) -> Bool {
    var model = StockModel(effects)
    var isDone = [Bool](repeating: false, count: effects.all.count)
    var time = Int64.min
    for index in order {
      let effect = effects.all[index]
      time = max(time, effect.from)
      guard !isDone[index], time <= effect.to, model.allows(effect) else { return false }
      model.apply(effect)
      isDone[index] = true
    }
    return effects.all.indices.allSatisfy { isDone[$0] || !effects.all[$0].isRequired }
  }
}
