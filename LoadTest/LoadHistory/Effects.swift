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
    /// Balances are stated.
    case read
  }

  let kind: Kind
  /// False where it may as well never have happened.
  var isRequired = true
  /// Which hold this is about; -1 for none.
  var hold: Int32 = -1
  let units: Int64
  let from: Int64
  let to: Int64
  /// What a refusal said is available, or -1 if it said nothing; what a read said is on hand.
  var stated: Int64 = -1
  /// What a read said is held.
  var statedHeld: Int64 = 0

  var isObservation: Bool { kind == .refuse || kind == .read }
}

/// The calls for one SKU as effects.
struct Effects {
  private(set) var all: [Effect] = []
  /// Of each effect, the operation that it is of; nil for the balances at the end.
  private(set) var references: [OperationReference?] = []
  private(set) var holdCount = 0
  let stock: Int64

  /// - Parameter level: the balances at the end; nil where they are not known.
  init(_ history: SKUHistory, level: ReadLevel?) {
    stock = history.stock
    for hold in history.holds { add(hold) }
    for refusal in history.refusals {
      add(
        Effect(
          kind: .refuse, units: refusal.units, from: refusal.from, to: refusal.to,
          stated: refusal.available ?? -1), refusal.reference)
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
  }

  private mutating func add(_ hold: Hold) {
    let number = Int32(truncatingIfNeeded: holdCount)
    holdCount += 1
    add(
      Effect(
        kind: .take, isRequired: hold.isCertain, hold: number, units: hold.units,
        from: hold.takeFrom, to: hold.takeTo), hold.reference)
    if hold.fate != .sold {
      add(
        Effect(
          kind: .give, isRequired: hold.fate == .returned && hold.isCertain, hold: number,
          units: hold.units, from: hold.giveFrom, to: hold.giveTo), hold.reference)
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
        kind: .read, units: 0, from: from, to: to, stated: level.onHand, statedHeld: level.held),
      reference)
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
      all.filter { $0.isRequired && ($0.isObservation || $0.kind == .take) }
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
  /// Of each hold: 0 before it was taken, 1 while it is live, 2 after its end.
  private var holds: [UInt8]

  init(stock: Int64, holdCount: Int) {
    onHand = stock
    holds = Array(repeating: 0, count: holdCount)
  }

  var available: Int64 { onHand - held }

  func isLive(_ hold: Int32) -> Bool { holds[Int(hold)] == 1 }

  /// Whether `effect` can happen now.
  func allows(_ effect: Effect) -> Bool {
    switch effect.kind {
    case .take: holds[Int(effect.hold)] == 0 && available >= effect.units
    case .give, .sell: holds[Int(effect.hold)] == 1
    case .restock: true
    case .refuse: available < effect.units && (effect.stated < 0 || effect.stated == available)
    case .read: onHand == effect.stated && held == effect.statedHeld
    }
  }

  /// `effect`, which is allowed, happens.
  mutating func apply(_ effect: Effect) {
    switch effect.kind {
    case .take:
      held += effect.units
      holds[Int(effect.hold)] = 1
    case .give:
      held -= effect.units
      holds[Int(effect.hold)] = 2
    case .sell:
      held -= effect.units
      onHand -= effect.units
      holds[Int(effect.hold)] = 2
    case .restock: onHand += effect.units
    case .refuse, .read: break
    }
  }

  /// `effect`, which has happened last, has not.
  mutating func undo(_ effect: Effect) {
    switch effect.kind {
    case .take:
      held -= effect.units
      holds[Int(effect.hold)] = 0
    case .give:
      held += effect.units
      holds[Int(effect.hold)] = 1
    case .sell:
      held += effect.units
      onHand += effect.units
      holds[Int(effect.hold)] = 1
    case .restock: onHand -= effect.units
    case .refuse, .read: break
    }
  }

  /// Whether the effects can happen in `order`, each in its window, and none that is required is
  /// missing: the proof that they are linearizable.
  static func replays(_ effects: Effects, in order: [Int]) -> Bool {
    var model = StockModel(stock: effects.stock, holdCount: effects.holdCount)
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
