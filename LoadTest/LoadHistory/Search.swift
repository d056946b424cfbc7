// Looks through every order of one SKU's effects (Wing and Gong 1993), but through no set of effects
// twice (Lowe 2017): what has happened decides what the counter says, whatever the order was.

struct ExhaustiveSearch {
  enum Outcome {
    case order([Int])
    /// There is none: the effects are not linearizable.
    case none
    case overBudget
  }

  private let effects: Effects
  /// Indices by the beginning of the window.
  private let sorted: [Int]
  private var model: StockModel
  /// A bit for each of `sorted` that has happened.
  private var done: [UInt64]
  private var order: [Int] = []
  private var seen: Set<[UInt64]> = []
  private var budget: Int
  /// Sets of effects that were looked at.
  private(set) var spent = 0

  /// More effects than this are not searched.
  static let effectsMaximum = 2_048

  /// - Parameter budget: sets of effects that are looked at, at most.
  init(_ effects: Effects, budget: Int) {
    self.effects = effects
    self.budget = effects.all.count > ExhaustiveSearch.effectsMaximum ? 0 : budget
    // An answer that need not have been given says nothing.
    sorted = effects.all.indices
      .filter { effects.all[$0].isRequired || !effects.all[$0].isObservation }
      .sorted { effects.all[$0].from < effects.all[$1].from }
    model = StockModel(effects)
    done = Array(repeating: 0, count: (effects.all.count + 63) / 64)
  }

  mutating func run() -> Outcome {
    if search(after: .min, firstOpen: 0) { return .order(order) }
    return budget <= 0 ? .overBudget : .none
  }

  private func isDone(_ position: Int) -> Bool {
    done[position / 64] >> UInt64(position % 64) & 1 == 1
  }

  /// - Parameters:
  ///   - time: the latest beginning of what has happened: nothing can happen before.
  ///   - firstOpen: everything before it in `sorted` has happened.
  private mutating func search(after time: Int64, firstOpen: Int) -> Bool {
    guard budget > 0, seen.insert(done).inserted else { return false }
    budget -= 1
    spent += 1
    var first = firstOpen
    while first < sorted.count, isDone(first) { first += 1 }
    let (candidates, isComplete) = candidates(after: time, from: first)
    if isComplete { return true }
    // An answer that is true now may as well be given now, unless that ends another's window.
    if let answer = candidates.first(where: { isFree($0, candidates) }) {
      return step(answer, after: time, firstOpen: first)
    }
    for position in candidates where model.allows(effects.all[sorted[position]]) {
      if step(position, after: time, firstOpen: first) { return true }
    }
    return false
  }

  /// What can happen next: whatever begins before the first end of something required.
  private func candidates(
    after time: Int64, from first: Int
  ) -> (positions: [Int], isComplete: Bool) {
    var end = Int64.max
    var isComplete = true
    for position in first..<sorted.count where !isDone(position) {
      let effect = effects.all[sorted[position]]
      if effect.from > end { break }
      guard effect.isRequired else { continue }
      isComplete = false
      end = min(end, effect.to)
    }
    if isComplete || end < time { return ([], isComplete) }
    var positions: [Int] = []
    for position in first..<sorted.count where !isDone(position) {
      let effect = effects.all[sorted[position]]
      if effect.from > end { break }
      if effect.to >= time { positions.append(position) }
    }
    return (positions, false)
  }

  private func isFree(_ position: Int, _ candidates: [Int]) -> Bool {
    let answer = effects.all[sorted[position]]
    return answer.isObservation && model.allows(answer)
      && candidates.allSatisfy { effects.all[sorted[$0]].to >= answer.from }
  }

  private mutating func step(_ position: Int, after time: Int64, firstOpen: Int) -> Bool {
    let effect = effects.all[sorted[position]]
    model.apply(effect)
    done[position / 64] |= 1 << UInt64(position % 64)
    order.append(sorted[position])
    if search(after: max(time, effect.from), firstOpen: firstOpen) { return true }
    order.removeLast()
    done[position / 64] &= ~(1 << UInt64(position % 64))
    model.undo(effect)
    return false
  }
}
