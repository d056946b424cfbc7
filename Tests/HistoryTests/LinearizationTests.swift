import Testing

@testable import LoadHistory

/// The decision against trying every order, and against histories that a correct server has made.
@Suite struct LinearizationTests {
  /// Windows as long as the clock: going around a place of failure begins before all time.
  @Test func windowsWithoutEnd() {
    let reads = (0..<Linearization.smallEffects + 1).map { index in
      Effect(kind: .read, units: 0, from: .min / 4 * 3, to: .max / 2, stated: Int64(index))
    }
    var budget = Linearization.Budget()
    switch Linearization.decide(Effects(stock: 0, reads), budget: &budget) {
    case .no: break
    case .yes, .undecided: Issue.record("what cannot be was not refuted")
    }
  }

  // MARK: Small histories, every order

  /// Whether any order of the effects, with or without those that are not required, is allowed.
  private func isLinearizable(_ effects: Effects) -> Bool {
    tries(effects, [], Set(effects.all.indices))
  }

  private func tries(_ effects: Effects, _ order: [Int], _ left: Set<Int>) -> Bool {
    if StockModel.replays(effects, in: order) { return true }
    // What does not replay so far, apart from what is missing, cannot be mended later.
    var prefix = effects
    for index in left { prefix = prefix.changing(index) { $0.notRequired } }
    if !StockModel.replays(prefix, in: order) { return false }
    return left.contains { tries(effects, order + [$0], left.subtracting([$0])) }
  }

  private func randomEffects(_ random: inout Lehmer, equalUnits: Bool) -> Effects {
    var effects: [Effect] = []
    var holds: Int32 = 0
    let stock = Int64(random.below(5))
    func window(after start: Int64 = 0) -> (Int64, Int64) {
      let from = start + Int64(random.below(8))
      return (from, from + Int64(random.below(6)))
    }
    while effects.count < 2 + random.below(6) {
      let units = equalUnits ? 1 : Int64(1 + random.below(3))
      let (from, to) = window()
      let isRequired = random.below(5) > 0
      switch random.below(8) {
      case 0...3:
        effects.append(
          Effect(
            kind: .take, isRequired: isRequired, hold: holds, units: units, from: from,
            to: isRequired ? to : .max))
        let (endFrom, endTo) = window(after: from)
        if random.below(3) > 0 {
          effects.append(
            Effect(
              kind: random.below(2) == 0 ? .give : .sell,
              isRequired: isRequired && random.below(4) > 0, hold: holds, units: units,
              from: endFrom, to: endTo))
        }
        holds += 1
      case 4:
        effects.append(
          Effect(kind: .restock, isRequired: isRequired, units: units, from: from, to: to))
      case 5, 6:
        effects.append(
          Effect(
            kind: .refuse, units: units, from: from, to: to,
            stated: random.below(2) == 0 ? -1 : Int64(random.below(3))))
      default:
        effects.append(
          Effect(
            kind: .read, units: 0, from: from, to: to, stated: Int64(random.below(5)),
            statedHeld: Int64(random.below(3))))
      }
    }
    return Effects(stock: stock, effects)
  }

  @Test(arguments: [1, 2, 3, 4] as [UInt64])
  func agreesWithEveryOrder(seed: UInt64) {
    var random = Lehmer(state: seed)
    var counts = (yes: 0, no: 0)
    for round in 0..<500 {
      let effects = randomEffects(&random, equalUnits: seed == 1)
      let expected = isLinearizable(effects)
      var budget = Linearization.Budget()
      switch Linearization.decide(effects, budget: &budget) {
      case .yes:
        counts.yes += 1
        #expect(expected, "seed \(seed), round \(round): \(effects.all)")
      case .no(let shown):
        counts.no += 1
        #expect(!expected, "seed \(seed), round \(round): \(effects.all)")
        // The part shows it by itself: the others may have happened, or not.
        var part = effects
        for index in effects.all.indices where !shown.contains(index) {
          part = part.changing(index) { $0.notRequired }
        }
        #expect(!isLinearizable(part), "seed \(seed), round \(round): \(shown) of \(effects.all)")
      case .undecided: Issue.record("seed \(seed), round \(round): undecided \(effects.all)")
      }
    }
    #expect(counts.yes > 50 && counts.no > 50, "\(counts)")
  }

  /// Three units from two places of two: no bound is violated, and yet no order will do.
  @Test func boundsAreNotEnoughForUnequalQuantities() {
    let take = { (hold: Int32, units: Int64, from: Int64, to: Int64) in
      Effect(kind: .take, hold: hold, units: units, from: from, to: to)
    }
    let effects = Effects(
      stock: 4,
      [
        take(0, 2, 0, 1),
        // Four, or two, or none can have been available, but never one.
        Effect(kind: .refuse, units: 3, from: 2, to: 5, stated: 1),
        take(1, 2, 2, 5),
      ])
    var budget = Linearization.Budget()
    guard case .no(let shown) = Linearization.decide(effects, budget: &budget) else {
      Issue.record("an order was found")
      return
    }
    // Whatever the takes of two did.
    #expect(shown == [1])
  }

  // MARK: What a correct server did

  /// A server that keeps one SKU, and clients whose calls take their time.
  private struct Simulation: ~Copyable {
    var story: Story
    var random: Lehmer
    private var onHand: Int64
    private var holds: [(operation: Int, units: Int64, expires: Int64, isLive: Bool)] = []
    private var now: Int64 = 1_000
    private var answered: [(operation: Int, at: Int64)] = []
    private let unitsMost: Int

    init(seed: UInt64, unitsMost: Int) {
      random = Lehmer(state: seed)
      onHand = Int64(1 + random.below(12))
      story = Story(stock: onHand)
      self.unitsMost = unitsMost
    }

    private var held: Int64 { holds.reduce(0) { $0 + ($1.isLive ? $1.units : 0) } }

    /// The next instant at which the server acts, a call around it, and when the server read its clock.
    private mutating func call() -> (sent: Int64, clock: Int64, answered: Int64) {
      now += Int64(random.below(40))
      let sent = now - Int64(random.below(60))
      let clock = sent + Int64(random.below(Int(now - sent) + 1))
      for index in holds.indices where holds[index].expires <= clock { holds[index].isLive = false }
      return (sent, clock, now + Int64(random.below(60)))
    }

    mutating func step() {
      let isLost = random.below(12) == 0
      let choice = random.below(12)
      let call = call()
      switch choice {
      case 0...5: reserve(call, isLost)
      case 6...9: end(call, isLost)
      case 10: story.read(onHand, held, sent: call.sent, at: call.answered)
      default:
        let units = UInt32(1 + random.below(3))
        if isLost, random.below(2) == 0 {
          story.restock(units, sent: call.sent, at: 0, nil)
        } else {
          onHand += Int64(units)
          story.restock(units, sent: call.sent, at: call.answered, isLost ? nil : Story.done)
        }
      }
    }

    private mutating func reserve(
      _ call: (sent: Int64, clock: Int64, answered: Int64), _ isLost: Bool
    ) {
      let units = UInt32(1 + random.below(unitsMost))
      let operation = story.open(
        [CartLine(sku: 0, quantity: units)], timeToLive: Int64(1_000 + random.below(1_000)))
      story.send(operation, .reserve, at: call.sent)
      let available = onHand - held
      if available >= Int64(units) {
        if isLost, random.below(2) == 0 { return }
        let timeToLive = story.ledger[operation].timeToLiveNanoseconds / 1_000_000
        holds.append((operation, Int64(units), call.clock + timeToLive, true))
        if isLost { return }
        story.accepted(operation, sent: call.sent, at: call.answered, decided: call.clock)
        answered.append((operation, call.answered))
      } else if !isLost {
        story.refused(operation, available: available, sent: call.sent, at: call.answered)
      }
    }

    /// Confirms or releases one whose acceptance the client has seen.
    private mutating func end(_ call: (sent: Int64, clock: Int64, answered: Int64), _ isLost: Bool)
    {
      guard let index = answered.indices.first(where: { answered[$0].at < call.sent }) else {
        return
      }
      let operation = answered.remove(at: index).operation
      let method = random.below(2) == 0 ? Method.confirm : .release
      story.send(operation, method, at: call.sent)
      guard let hold = holds.indices.first(where: { holds[$0].operation == operation }) else {
        return
      }
      if isLost, random.below(2) == 0 { return }
      var reply = Story.refusal(.reservationExpired)
      if holds[hold].isLive {
        holds[hold].isLive = false
        if method == .confirm { onHand -= holds[hold].units }
        reply = Story.done
      }
      if !isLost { story.answer(operation, method, reply, sent: call.sent, at: call.answered) }
    }

    /// The history, with the balances as they are a while later.
    consuming func finish() -> History {
      now += 300
      for index in holds.indices where holds[index].expires <= now { holds[index].isLive = false }
      let levels: [(Int64, Int64)?] = [(onHand, held)]
      let now = now
      return story.history(levels, at: now)
    }
  }

  @Test(arguments: 1...24 as ClosedRange<UInt64>)
  func whatACorrectServerDidIsNeverAccused(seed: UInt64) {
    var undecided = 0
    for round in 0..<10 as Range<UInt64> {
      var simulation = Simulation(
        seed: seed * 1_000 + round, unitsMost: seed.isMultiple(of: 2) ? 1 : 4)
      for _ in 0..<(10 + 20 * Int(round)) { simulation.step() }
      let findings = simulation.finish().check()
      #expect(
        findings.holds,
        "seed \(seed), round \(round): \(findings.violations.map(\.description))")
      undecided += findings.skusUndecided
    }
    #expect(undecided <= 2, "seed \(seed)")
  }
}

extension Effect {
  fileprivate var notRequired: Effect {
    var effect = self
    effect.isRequired = false
    return effect
  }
}
