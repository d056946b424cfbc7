// Decides whether one SKU's calls are linearizable, and if not, which calls show it.
//
// That no bound of SKUCheck is violated is necessary, and where all quantities are equal and no answer
// states a number it is sufficient too: takes as late and gives as early as they may be then meet
// every demand that can be met. In general it is not: three units cannot be taken from two places of
// two. So an order is looked for, by two ways of guessing and then by looking through all of them; if
// that takes too long, nothing is claimed.

struct Linearization {
  enum Verdict {
    /// An order was found, and replayed.
    case yes
    /// There is none: the effects that show it, by index.
    case no([Int])
    case undecided
  }

  /// What all SKUs of a history may cost beyond a first guess each.
  struct Budget {
    /// Sets of effects that are looked at.
    var sets = 2_000_000
    /// Steps, of some 50 ns each, of guesses that go around places where others have failed.
    var work = 20_000_000
  }

  /// Sets of effects that may be looked at for one SKU.
  static let setsPerSKU = 50_000
  /// Of no more effects every order is looked through before any second guess.
  static let smallEffects = 200
  /// Guesses for one SKU at most.
  static let detoursMost = 256
  static let triesPerPlace: UInt64 = 48
  /// And for finding a part of which nothing can be left out, of those that are not linearizable.
  static let budgetForPart = 1_000_000

  /// - Parameter budget: is lessened by what was spent.
  static func decide(_ effects: Effects, budget: inout Budget) -> Verdict {
    if guess(effects, detours: 0, &budget) { return .yes }
    // Of few effects every order is sooner looked through than guessed at again and again.
    let isSmall = effects.all.count <= smallEffects
    if !isSmall, guess(effects, detours: detoursMost, &budget) { return .yes }
    switch search(effects, &budget.sets) {
    case .yes: return .yes
    case .no: return .no(part(of: effects))
    case .undecided:
      return isSmall && guess(effects, detours: detoursMost, &budget) ? .yes : .undecided
    }
  }

  /// Whether an order can be guessed, one way or the other.
  private static func guess(
    _ effects: Effects, detours: Int, _ budget: inout Budget
  ) -> Bool {
    for policy in WitnessPolicy.allCases
    where hasWitness(effects, policy, detoursMost: detours, &budget) {
      return true
    }
    return false
  }

  /// Whether an order can be guessed, going around one place after the other where the guess fails.
  private static func hasWitness(
    _ effects: Effects, _ policy: WitnessPolicy, detoursMost: Int, _ budget: inout Budget
  ) -> Bool {
    var detours: [Detour] = []
    for round in 0...detoursMost {
      if round > 0, budget.work <= 0 { return false }
      var scheduler = WitnessScheduler(effects, policy, detours: detours)
      let order = scheduler.run()
      if round > 0 { budget.work -= scheduler.workSpent }
      if let order { return StockModel.replays(effects, in: order) }
      guard let failed = scheduler.failed else { return false }
      let effect = effects.all[failed]
      let length = effect.to.minus(effect.from)
      if let last = detours.indices.last, effect.from <= detours[last].to {
        // The same place again: begin earlier, and draw other numbers.
        detours[last].seed += 1
        if detours[last].seed > triesPerPlace { return false }
        if detours[last].seed.isMultiple(of: 8) {
          detours[last].from = detours[last].from.minus(length)
        }
      } else {
        detours.append(Detour(from: effect.from.minus(length), to: effect.to, seed: 1))
      }
    }
    return false
  }

  private static func search(_ effects: Effects, _ budget: inout Int) -> Verdict {
    let share = min(budget, setsPerSKU)
    var search = ExhaustiveSearch(effects, budget: share)
    defer { budget -= search.spent }
    switch search.run() {
    case .order(let order): return StockModel.replays(effects, in: order) ? .yes : .undecided
    case .none: return .no([])
    case .overBudget: return .undecided
    }
  }

  private static func isContradictory(_ effects: Effects, _ budget: inout Int) -> Bool {
    if case .no = search(effects, &budget) { true } else { false }
  }

  // MARK: A part that shows it

  /// Of effects that are not linearizable, some that are not either, and of which nothing can be left
  /// out: without any one of them, nothing is shown. Fewer others may do too. Those that are left out
  /// may still have happened, or not: then these show it whatever the others did. Where the budget
  /// ends first, more is kept than is needed.
  private static func part(of effects: Effects) -> [Int] {
    var budget = budgetForPart
    // The shortest prefix by answers: what was not answered by then is of unknown outcome.
    let ends = Set(effects.all.filter(\.isRequired).map(\.to)).sorted()
    var low = 0
    var high = ends.count - 1
    while low < high {
      let middle = (low + high) / 2
      if isContradictory(effects.answered(by: ends[middle]), &budget) {
        high = middle
      } else {
        low = middle + 1
      }
    }
    var part = ends.isEmpty ? effects : effects.answered(by: ends[low])
    if !isContradictory(part, &budget) { part = effects }
    for index in part.all.indices where part.all[index].isRequired {
      let less = part.optional(index)
      if isContradictory(less, &budget) { part = less }
    }
    return part.all.indices.filter { part.all[$0].isRequired }
  }
}

extension Effects {
  /// What is known when only answers until `time` have come. Indices stay as they are.
  fileprivate func answered(by time: Int64) -> Effects {
    changing { $0.to > time ? $0.withoutDemand : $0 }
  }

  /// The same, but `index` may as well never have happened.
  fileprivate func optional(_ index: Int) -> Effects {
    changing(index) { $0.withoutDemand }
  }
}

extension Effect {
  /// As if it had never been answered: it may have happened at any time from its send on, or never. An
  /// answer that demands nothing says nothing: it may be left out.
  fileprivate var withoutDemand: Effect {
    Effect(
      kind: kind, isRequired: false, hold: hold, units: units, from: from, to: .max,
      subject: subject, limit: limit, takesAll: takesAll, stated: stated,
      statedHeld: statedHeld, statedCommitted: statedCommitted)
  }
}
