import Foundation
import Log
import Posix
import Simulation
import Testing

@testable import StockStore

/// Multiplies the length of the long tests; 1 unless HOLDFAST_TEST_SCALE says otherwise.
let testScale = Int(ProcessInfo.processInfo.environment["HOLDFAST_TEST_SCALE"] ?? "") ?? 1

/// A store and the model of it, fed with the same commands.
final class ModelRun {
  private let it: Fixture
  private var model: Model
  private var random: SeededRandom
  private let skus: Int
  /// All balances are compared after every so many steps, and the store is audited after every eighth at most.
  private let comparedSteps: Int
  /// Keys and commands that may be sent again.
  private var reserves:
    [(key: String, lines: [TestLine], alternatives: [[TestLine]], ttl: Int64?)] = []
  private var ids: [ReservationID] = []
  private var step = 0

  init(
    seed: UInt64, _ concurrency: ConcurrencyControl, limits: StoreLimits, skus: Int,
    comparedSteps: Int = 1
  ) {
    self.comparedSteps = comparedSteps
    it = Fixture(limits, concurrency)
    model = Model(limits: limits, now: it.clock.now().nanoseconds)
    random = SeededRandom(seed: seed)
    self.skus = skus
  }

  func run(steps: Int) {
    for _ in 0..<steps {
      step += 1
      switch Int.random(in: 0..<100, using: &random) {
      case 0..<15: passTime()
      case 15..<45: reserve()
      case 45..<60: confirm()
      case 60..<70: release()
      case 70..<78: extend()
      case 78..<92: adjust()
      case 92..<95: adjustTogether()
      case 95..<97: importRows()
      default: list()
      }
      if step % comparedSteps == 0 { compareItems() }
      if step % max(8, comparedSteps) == 0 { #expect(it.store.audit() == [], "step \(step)") }
    }
    let statistics = it.store.statistics()
    #expect(statistics.evictedEarly == model.evictedEarly)
    #expect(statistics.recordedDecisions >= model.decisions.count)
    #expect(statistics.items == model.items.count)
  }

  private func chance(_ percent: Int) -> Bool {
    Int.random(in: 0..<100, using: &random) < percent
  }

  private func number(_ range: ClosedRange<Int64>) -> Int64 {
    Int64.random(in: range, using: &random)
  }

  private func anySKU() -> String { "sku\(Int.random(in: 0..<skus, using: &random))" }

  /// Odd by a few nanoseconds, so that no two holds end at the same moment.
  private func passTime() {
    let longest: [Int64] = [1, 10, 2000, 100_000]
    it.advance(number(1...seconds(longest.randomElement(using: &random) ?? 1)))
    model.beginTurn(it.clock.now().nanoseconds)
  }

  private func reserve() {
    it.advance(1)
    model.beginTurn(it.clock.now().nanoseconds)
    let isChosen = chance(30)
    let count = isChosen ? Int.random(in: 0...3, using: &random) : 0
    var command = (
      key: "k\(step)", lines: anyLines(isChosen),
      alternatives: (0..<count).map { _ in anyLines(isChosen) },
      ttl: chance(20) ? nil : number(seconds(1)...seconds(5000))
    )
    if chance(25), let earlier = reserves.randomElement(using: &random) {
      command = earlier
      if chance(40) { command.lines.shuffle(using: &random) }
      if chance(20) { command.ttl = command.ttl.map { $0 + 1 } ?? seconds(600) }
      if chance(20) { command.lines[0].quantity += 1 }
      if chance(10) { command.alternatives.reverse() }
    }
    reserves.append(command)
    if reserves.count > 50 { reserves.removeFirst() }
    let decision = it.session.reserve(
      command.key, command.lines, alternatives: command.alternatives, ttl: command.ttl)
    if let id = decision.value?.id, !decision.replayed { ids.append(id) }
    if ids.count > 60 { ids.removeFirst() }
    let (answer, replayed) = model.reserve(
      command.key, command.lines, alternatives: command.alternatives, ttl: command.ttl,
      id: decision.value?.id)
    let got = it.session.answer(decision)
    #expect(got == answer && decision.replayed == replayed, "step \(step)")
  }

  private func anyLines(_ takesLess: Bool) -> [TestLine] {
    let count = chance(70) ? 1 : Int.random(in: 1...9, using: &random)
    return (0..<count).map { _ in
      let quantity = number(1...6)
      return TestLine(
        sku: anySKU(), quantity: quantity,
        minimum: takesLess && chance(50) ? number(1...quantity) : 0)
    }
  }

  private func anyID() -> ReservationID {
    ids.randomElement(using: &random) ?? ReservationID(slot: 0, generation: 0, tag: 0)
  }

  private func confirm() {
    let id = anyID()
    var lines: [TestLine] = []
    if chance(50), let reservation = model.reservations[id] {
      for line in reservation.lines where chance(70) && line.quantity > 0 {
        lines.append(TestLine(sku: line.sku, quantity: number(1...line.quantity)))
        if chance(20) { lines.append(TestLine(sku: line.sku, quantity: 1)) }
      }
      if chance(5) { lines.append(TestLine(sku: anySKU(), quantity: 1)) }
    }
    let (reacquire, keepCommitted) = (chance(40), chance(40))
    let decision = it.session.confirm(
      id, lines, reacquire: reacquire, keepCommitted: keepCommitted)
    compare(
      decision, id,
      model.confirm(id, lines, reacquire: reacquire, keepCommitted: keepCommitted))
  }

  private func release() {
    let id = anyID()
    compare(it.session.release(id), id, model.release(id))
  }

  private func extend() {
    let id = anyID()
    let ttl = chance(10) ? nil : number(seconds(1)...seconds(20_000))
    let mayShorten = chance(50)
    compare(
      it.session.extend(id, ttlNanoseconds: ttl, mayShorten: mayShorten), id,
      model.extend(id, ttl: ttl, mayShorten: mayShorten))
  }

  private func compare(
    _ decision: Decision<ReservationView>, _ id: ReservationID,
    _ expected: (refusals: [Refusal], replayed: Bool)
  ) {
    #expect(it.session.refusals(of: decision) == expected.refusals, "step \(step)")
    #expect(decision.replayed == expected.replayed, "step \(step)")
    if let view = decision.value { compare(view, id) }
    let read = it.session.reservation(id)
    if let view = read.value {
      compare(view, id)
    } else {
      #expect(model.reservations[id] == nil, "step \(step)")
    }
  }

  private func compare(_ view: ReservationView, _ id: ReservationID) {
    guard let reservation = model.reservations[id] else {
      Issue.record("step \(step): the store knows a reservation that it should not")
      return
    }
    #expect(view.id == id && view.state == reservation.state, "step \(step)")
    #expect(view.createdAt.nanoseconds == reservation.createdAt, "step \(step)")
    #expect(view.expiresAt.nanoseconds == reservation.expiresAt, "step \(step)")
    #expect(view.endedAt?.nanoseconds == reservation.endedAt, "step \(step)")
    var lines: [UInt32: Int64] = [:]
    for line in reservation.lines where line.quantity > 0 {
      lines[model.items[line.sku]?.ordinal ?? .max] = line.quantity
    }
    #expect(it.session.viewLines == lines, "step \(step)")
  }

  private func adjust() {
    let sku = anySKU()
    let key = chance(10) ? "a\(max(0, step - 20))" : "a\(step)"
    let change: AdjustCommand.Change =
      switch Int.random(in: 0..<14, using: &random) {
      case 0: .none
      case 1..<3: .setOnHand(number(0...20))
      case 3: .delta(model.limits.quantityMax)
      case 4..<6: .ship(number(1...4))
      case 6..<8: .uncommit(number(1...4))
      default: .delta(number(-5...20))
      }
    let adjustment = Model.Adjustment(
      sku: sku, change: change, safetyStock: chance(10) ? number(-5...5) : nil,
      check: chance(30) ? anyCheck(model.items[sku]) : .none, allowsShortage: chance(15))
    let decision = it.session.adjust(key, adjustment)
    let (answer, replayed) = model.adjust(key, adjustment)
    let got = it.session.answer(decision)
    #expect(got == answer && decision.replayed == replayed, "step \(step)")
  }

  private func adjustTogether() {
    let key = chance(10) ? "b\(max(0, step - 20))" : "b\(step)"
    var picked = Array(0..<skus)
    picked.shuffle(using: &random)
    let adjustments = picked.prefix(Int.random(in: 1...min(9, skus), using: &random)).map { sku in
      Model.Adjustment(
        sku: "sku\(sku)", change: chance(10) ? .ship(number(1...3)) : .delta(number(-1...9)),
        safetyStock: chance(10) ? number(-5...5) : nil,
        check: chance(5) ? anyCheck(model.items["sku\(sku)"]) : .none, allowsShortage: chance(15),
        reason: "")
    }
    let batch = Model.Batch(adjustments, reference: chance(20) ? "order" : "")
    let decision = it.session.adjustTogether(key, batch)
    let (answer, replayed) = model.adjustTogether(key, batch)
    let got = it.session.answerTogether(decision)
    #expect(got == answer && decision.replayed == replayed, "step \(step)")
  }

  private func importRows() {
    let id = chance(50) ? "one" : "other"
    var row = model.importedRows(id)
    if chance(10) { row += 1 } else if chance(10), row > 2 { row -= 2 }
    var picked = Array(0..<skus)
    picked.shuffle(using: &random)
    let rows = picked.prefix(Int.random(in: 1...min(9, skus), using: &random)).map { sku in
      Model.Adjustment(
        sku: "sku\(sku)", change: chance(20) ? .ship(number(1...3)) : .delta(number(-3...9)),
        safetyStock: chance(10) ? number(-5...5) : nil,
        check: chance(10) ? anyCheck(model.items["sku\(sku)"]) : .none,
        allowsShortage: chance(15), reason: "")
    }
    let decision = it.session.importRows(id, firstRow: row, rows)
    let got = it.session.answer(decision, of: rows.count)
    let (answer, replayed) = model.importRows(id, firstRow: row, rows)
    #expect(got == answer && decision.replayed == replayed, "step \(step)")
    #expect(it.session.importedRows(id).rows == model.importedRows(id), "step \(step)")
  }

  private func anyCheck(_ item: Model.Item?) -> AdjustCommand.Check {
    let isRight = chance(70)
    return chance(50)
      ? .version(isRight ? item?.version ?? 0 : UInt64(number(0...9)))
      : .onHand(isRight ? item?.onHand ?? 0 : number(0...9))
  }

  private func list() {
    let state: ReservationState? = chance(50) ? .held : nil
    var listed: Set<ReservationID> = []
    var cursor: UInt64? = 0
    while let from = cursor {
      var page = 0
      cursor = it.session.listReservations(cursor: from, scanMax: 20, state: state) { view in
        listed.insert(view.id)
        compare(view, view.id)
        page += 1
        return page < 5
      }
    }
    let expected = model.reservations.filter { state == nil || $0.value.state == state }.keys
    #expect(listed == Set(expected), "step \(step)")
  }

  private func compareItems() {
    var levels: [StockLevel] = []
    _ = it.session.listStock(from: 0) {
      levels.append($0)
      return true
    }
    let expected = model.items.values.map(\.level).sorted { $0.item.ordinal < $1.item.ordinal }
    #expect(levels == expected, "step \(step)")
  }
}

/// Random commands, each answer and all balances compared with the model after every step.
@Suite struct ModelTests {
  @Test(arguments: 1...4, ConcurrencyControl.sound)
  func fewItems(seed: UInt64, concurrency: ConcurrencyControl) {
    ModelRun(seed: seed, concurrency, limits: testLimits(), skus: 4).run(steps: 1000 * testScale)
  }

  /// The sweep ends one hold a turn, or what was made twice: answers are what they are without.
  @Test(arguments: 32...33, ConcurrencyControl.sound)
  func slowSweep(seed: UInt64, concurrency: ConcurrencyControl) {
    var limits = testLimits(reservations: seed == 33 ? 1 << 20 : 100_000)
    limits.expiriesPerTurn = 1
    ModelRun(seed: seed, concurrency, limits: limits, skus: 4, comparedSteps: 40)
      .run(steps: 1000 * testScale)
  }

  @Test(arguments: 11...14, ConcurrencyControl.sound)
  func tinyCaps(seed: UInt64, concurrency: ConcurrencyControl) {
    var limits = testLimits(items: 6, reservations: 24)
    limits.retentionNanoseconds = seconds(3000)
    limits.holdNanosecondsMax = seconds(9000)
    ModelRun(seed: seed, concurrency, limits: limits, skus: 8).run(steps: 1500 * testScale)
  }

  @Test(arguments: [21], ConcurrencyControl.sound)
  func manyShards(seed: UInt64, concurrency: ConcurrencyControl) {
    ModelRun(seed: seed, concurrency, limits: testLimits(reservations: 1 << 20), skus: 50)
      .run(steps: 750 * testScale)
  }
}
