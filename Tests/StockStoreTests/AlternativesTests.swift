// First that fits: alternatives to what a reserve asks for, and less of it.
import Log
import Posix
import Simulation
import Testing

@testable import StockStore

private func line(_ sku: String, _ quantity: Int64, _ minimum: Int64 = 0) -> TestLine {
  TestLine(sku: sku, quantity: quantity, minimum: minimum)
}

/// What is asked for, of items "a" to "d" with 1 to 4 units, and what must become of it.
private struct Case: Sendable, CustomTestStringConvertible {
  enum Outcome: Sendable {
    /// The lines by SKU, told or not.
    case holds(_ alternative: Int, _ units: [String: Int64], tells: Bool)
    /// SKU, requested, available of all that is named; and how many were tried.
    case lacks([(String, Int64, Int64)], tried: Int)
    /// Lines of the first.
    case unknown([Int])
  }

  var testDescription: String
  var lines: [TestLine]
  var alternatives: [[TestLine]] = []
  var outcome: Outcome

  init(
    _ note: String, _ lines: [TestLine], or alternatives: [TestLine]..., outcome: Outcome
  ) {
    testDescription = note
    self.lines = lines
    self.alternatives = alternatives
    self.outcome = outcome
  }
}

private let seats = (0..<64).map { line("seat\($0)", 1) }

private let cases: [Case] = [
  Case(
    "the lines, where they fit", [line("a", 1)], or: [line("d", 1)],
    outcome: .holds(0, ["a": 1], tells: false)),
  Case(
    "the first that fits", [line("a", 2)], or: [line("b", 3)], [line("c", 3)], [line("d", 1)],
    outcome: .holds(2, ["c": 3], tells: false)),
  Case(
    "as a whole: one line of it does not do", [line("d", 4), line("a", 2)], or: [line("d", 5)],
    [line("a", 1), line("d", 4)], outcome: .holds(2, ["a": 1, "d": 4], tells: false)),
  Case(
    "lines for one item are summed in each", [line("b", 1), line("b", 2)],
    or: [line("c", 1), line("c", 1), line("c", 2)], [line("c", 2), line("a", 1), line("c", 1)],
    outcome: .holds(2, ["a": 1, "c": 3], tells: false)),
  Case(
    "an unknown item makes its alternative impossible", [line("zz", 1)], or: [line("a", 1)],
    outcome: .holds(1, ["a": 1], tells: false)),
  Case(
    "an unknown item in the middle", [line("a", 2)], or: [line("a", 1), line("zz", 1)],
    [line("b", 1)], outcome: .holds(2, ["b": 1], tells: false)),
  Case(
    "eight others, and the last fits", [line("a", 2)], or: [line("a", 3)], [line("a", 4)],
    [line("a", 5)], [line("a", 6)], [line("a", 7)], [line("a", 8)], [line("a", 9)], [line("a", 1)],
    outcome: .holds(8, ["a": 1], tells: false)),
  Case(
    "as many lines as there may be", seats.map { line($0.sku, 2) }, or: seats,
    outcome: .holds(
      1, Dictionary(uniqueKeysWithValues: seats.map { ($0.sku, 1) }), tells: false)),
  Case(
    "none: the first lack counts", [line("zz", 1)], or: [line("b", 9), line("a", 1), line("c", 9)],
    [line("d", 9)], outcome: .lacks([("b", 9, 2), ("c", 9, 3)], tried: 3)),
  Case(
    "none: the lines lack", [line("c", 4)], or: [line("zz", 1)], [line("d", 9)],
    outcome: .lacks([("c", 4, 3)], tried: 3)),
  Case(
    "none: each has an unknown item", [line("a", 1), line("y", 1), line("z", 1)],
    or: [line("b", 9), line("x", 1)], outcome: .unknown([1, 2])),

  Case("all, where all is there", [line("d", 3, 1)], outcome: .holds(0, ["d": 3], tells: true)),
  Case("what is there", [line("d", 9, 2)], outcome: .holds(0, ["d": 4], tells: true)),
  Case("the least that does", [line("d", 9, 4)], outcome: .holds(0, ["d": 4], tells: true)),
  Case("too little", [line("d", 9, 5)], outcome: .lacks([("d", 5, 4)], tried: 0)),
  Case(
    "all of one line and some of the other", [line("b", 2), line("c", 9, 1)],
    outcome: .holds(0, ["b": 2, "c": 3], tells: true)),
  Case(
    "what takes no less lacks", [line("b", 3), line("c", 9, 1)],
    outcome: .lacks([("b", 3, 2)], tried: 0)),
  Case(
    "all that lack are named, with what would do",
    [line("a", 9, 2), line("b", 9, 2), line("c", 8, 5), line("d", 5)],
    outcome: .lacks([("a", 2, 1), ("c", 5, 3), ("d", 5, 4)], tried: 0)),
  Case(
    "minimums are summed, and all of a line without", [line("d", 5, 1), line("d", 2)],
    outcome: .holds(0, ["d": 4], tells: true)),
  Case(
    "and the sum is too much", [line("d", 5, 3), line("d", 2)],
    outcome: .lacks([("d", 5, 4)], tried: 0)),
  Case(
    "an alternative that takes less", [line("a", 2)], or: [line("b", 9, 2), line("c", 1)],
    outcome: .holds(1, ["b": 2, "c": 1], tells: true)),
  Case(
    "lines that take less come first", [line("a", 9, 1)], or: [line("d", 4)],
    outcome: .holds(0, ["a": 1], tells: true)),
  Case(
    "only lines of what is held count", [line("a", 9, 2)], or: [line("d", 4)],
    outcome: .holds(1, ["d": 4], tells: false)),
  Case(
    "none: what would do is named", [line("a", 9, 2)], or: [line("d", 9, 5)],
    outcome: .lacks([("a", 2, 1)], tried: 2)),
]

@Suite struct AlternativesTests {
  private static let units: [(String, Int64)] = [("a", 1), ("b", 2), ("c", 3), ("d", 4)]

  private func stock(_ session: StoreSession) {
    for (sku, units) in Self.units { _ = session.makeStock(sku, units) }
    for seat in seats { _ = session.makeStock(seat.sku, 1) }
  }

  private func handle(_ sku: String, _ session: StoreSession) -> ItemHandle? {
    session.level(sku)?.item
  }

  @Test("The first that fits, or why none does", arguments: cases, ConcurrencyControl.sound)
  private func table(_ each: Case, _ concurrency: ConcurrencyControl) throws {
    let it = Fixture(testLimits(), concurrency)
    let session = it.session
    stock(session)
    func reserve() -> Decision<Hold> {
      session.reserve("k", each.lines, alternatives: each.alternatives)
    }
    let decision = reserve()
    let first = session.answer(decision)
    switch each.outcome {
    case .holds(let alternative, let units, let tells):
      let hold = try #require(decision.value)
      #expect(hold.choice == HoldChoice(alternative: alternative, tellsLines: tells))
      if tells {
        #expect(session.viewLineCount == units.count)
        for (sku, quantity) in units {
          #expect(session.viewLines[handle(sku, session)?.ordinal ?? .max] == quantity)
        }
      }
      for (sku, _) in Self.units { #expect(session.level(sku)?.held == units[sku] ?? 0) }
      #expect(session.reservation(hold.id).value?.state == .held)
      #expect(session.viewLineCount == units.count)
    case .lacks(let shortages, let tried):
      #expect(session.alternativesTried == tried)
      let expected = shortages.map { sku, requested, available in
        Refusal.insufficientStock(
          item: handle(sku, session) ?? ItemHandle(ordinal: .max), requested: requested,
          available: available)
      }
      #expect(first == .refused(expected, alternatives: tried))
    case .unknown(let lines):
      #expect(first == .refused(lines.map { .itemNotFound(line: $0) }))
      #expect(session.alternativesTried == 0)
    }
    // Whatever comes in between, the same again.
    for (sku, _) in Self.units { _ = session.adjust("more \(sku)", sku, .delta(100)) }
    let again = reserve()
    #expect(session.answer(again) == first && again.replayed)
    let counted = it.store.statistics()
    let refusedCount =
      counted.reservesRefusedInsufficientStock + counted.reservesRefusedOther
    #expect(refusedCount == (decision.value == nil ? 1 : 0))
    // Nothing of it is left for the command after.
    let plain = try #require(session.reserve("plain", [line("a", 100)]).value)
    #expect(plain.choice == .asAsked)
    let adjusted = session.adjust("too much", "d", .delta(-1000))
    #expect(adjusted.refusal != nil && session.alternativesTried == 0)
    #expect(it.store.audit() == [])
  }

  @Test("The first answer is told again, whatever became of the hold", arguments: 0...5)
  func replay(_ what: Int) throws {
    let it = Fixture()
    let session = it.session
    stock(session)
    let lines = [line("a", 2)]
    let other = [[line("b", 9, 1), line("c", 2), line("d", 9, 3)]]
    func reserve() -> Decision<Hold> { session.reserve("k", lines, alternatives: other) }
    let made = reserve()
    let hold = try #require(made.value)
    let told = Model.Chosen(
      alternative: 1,
      lines: Dictionary(
        uniqueKeysWithValues: try [("b", 2), ("c", 2), ("d", 4)].map { sku, units in
          (try #require(handle(sku, session)).ordinal, Int64(units))
        }))
    var held: [String: Int64] = ["b": 2, "c": 2, "d": 4]
    switch what {
    case 0: break
    case 1:
      _ = session.replace("r", Model.Replacement(hold.id, [line("a", 1)]))
      held = ["a": 1]
    case 2:
      _ = session.replace("r", Model.Replacement(hold.id, seats))
      _ = session.replace("r2", Model.Replacement(hold.id, [line("d", 1), line("c", 1)]))
      held = ["c": 1, "d": 1]
    case 3:
      #expect(session.confirm(hold.id, [line("d", 1)], keepCommitted: true).value != nil)
      held = [:]
    case 4:
      _ = session.replace("r", Model.Replacement(hold.id, [line("c", 3)]))
      #expect(session.confirm(hold.id, [line("c", 1)]).value != nil)
      held = [:]
    default:
      it.advance(seconds(700))
      #expect(session.confirm(hold.id, [line("b", 1)], reacquire: true).value != nil)
      held = [:]
    }
    for (sku, _) in Self.units { #expect(session.level(sku)?.held == held[sku] ?? 0) }
    let again = reserve()
    guard case .hold(let id, _, _, _, let chosen) = session.answer(again) else {
      Issue.record("refused")
      return
    }
    #expect(id == hold.id && chosen == told && again.replayed)
    // What the reservation is now is another thing.
    let view = session.reservation(hold.id).value
    #expect(view?.id == hold.id)
    if what == 2 { #expect(session.viewLineCount == 2 && view?.revision == 3) }
    if what == 4 { #expect(session.viewLineCount == 1 && session.viewLine(0).quantity == 1) }
    #expect(it.store.audit() == [])
  }

  @Test("The payload is all of it, in whatever order the lines of each come")
  func payload() throws {
    let it = Fixture()
    let session = it.session
    stock(session)
    let lines = [line("a", 1), line("b", 9, 1)]
    let (first, second) = ([line("c", 2), line("d", 3, 2)], [line("d", 1)])
    _ = session.reserve("k", lines, alternatives: [first, second])
    let same = session.reserve(
      "k", [line("b", 9, 1), line("a", 1)],
      alternatives: [[line("d", 2), line("d", 1), line("c", 1), line("c", 1)], second])
    // 2 and 1 without minimums are 3 of which 3 must be.
    #expect(same.refusal == .idempotencyKeyReused)
    let divided = session.reserve(
      "k", [line("b", 9, 1), line("a", 1)],
      alternatives: [[line("d", 2, 1), line("d", 1), line("c", 1), line("c", 1)], second])
    #expect(divided.replayed && divided.value != nil)
    let others: [(lines: [TestLine], alternatives: [[TestLine]])] = [
      (lines, [second, first]), (lines, [first]), (lines, []), (lines, [first, second, second]),
      (first, [lines, second]), ([line("a", 1), line("b", 9)], [first, second]),
      ([line("a", 1), line("b", 9, 2)], [first, second]),
      ([line("a", 1, 1), line("b", 9, 1)], [first, second]),
      (lines, [[line("c", 2), line("d", 3)], second]),
      (lines, [[line("c", 2), line("d", 3, 2), line("d", 1)]]),
      (lines + first, [second]),
    ]
    for (lines, alternatives) in others {
      #expect(
        session.reserve("k", lines, alternatives: alternatives).refusal == .idempotencyKeyReused)
    }
    // Without either it is what it always was.
    #expect(session.reserve("plain", [line("d", 1)]).value != nil)
    #expect(
      session.reserve("plain", [line("d", 1)], alternatives: [[line("c", 1)]]).refusal
        == .idempotencyKeyReused)
    #expect(it.store.audit() == [])
  }

  @Test(
    "What is due ends before an alternative is passed over, or held in part",
    arguments: ConcurrencyControl.sound)
  func due(_ concurrency: ConcurrencyControl) throws {
    var limits = testLimits()
    // The sweep never gets to it by itself.
    limits.expiriesPerTurn = 1
    let it = Fixture(limits, concurrency)
    let session = it.session
    stock(session)
    for number in 0..<40 { _ = session.makeStock("z\(number)", 1) }
    for number in 0..<40 { _ = session.reserve("z\(number)", "z\(number)", 1, ttl: seconds(5)) }
    _ = session.reserve("a", "a", 1, ttl: seconds(5))
    _ = session.reserve("d", "d", 3, ttl: seconds(5))
    // What was made before a turn adds to what it ends.
    it.advance(1)
    it.advance(seconds(6))
    #expect(session.hasBacklog)
    let first = session.reserve("k1", [line("a", 1)], alternatives: [[line("b", 1)]])
    #expect(first.value?.choice == .asAsked)
    let part = session.reserve("k2", [line("b", 3)], alternatives: [[line("d", 4, 1)]])
    #expect(part.value?.choice == HoldChoice(alternative: 1, tellsLines: true))
    #expect(session.viewLineCount == 1 && session.viewLine(0).quantity == 4)
    #expect(it.store.audit() == [])
  }

  @Test(
    "Four seats of a block for each of many, none sold twice, and all are sold",
    arguments: ConcurrencyControl.sound)
  func seatsOfABlock(_ concurrency: ConcurrencyControl) async throws {
    let clock = ManualClock()
    let store = StockStore(
      limits: testLimits(), clock: clock, concurrency: concurrency, secret: (1, 2))
    let maker = store.makeSession()
    _ = maker.beginTurn()
    for seat in seats { _ = maker.makeStock(seat.sku, 1) }
    _ = maker.makeStock("loose", 100)
    maker.endTurn()
    // Blocks of 4, from a place of one's own on; and of loose ones what is left, two at least.
    let taken = await withTaskGroup(of: (blocks: [Int], loose: Int64).self) { group in
      for buyer in 0..<4 {
        group.addTask {
          let session = store.makeSession()
          var blocks: [Int] = []
          var loose: Int64 = 0
          for attempt in 0..<20 {
            _ = session.beginTurn()
            let start = (buyer * 3 + attempt) % 16
            let all = (0..<16).map { (start + $0) % 16 }.prefix(8).map { block in
              (0..<4).map { seats[4 * block + $0] }
            }
            let decision = session.reserve(
              "buyer \(buyer), \(attempt)", all[0],
              alternatives: all.dropFirst() + [[line("loose", 4, 2)]])
            if let hold = decision.value {
              if hold.choice.tellsLines {
                loose += session.viewLine(0).quantity
              } else {
                blocks.append((start + hold.choice.alternative) % 16)
              }
            }
            session.endTurn()
          }
          return (blocks, loose)
        }
      }
      return await group.reduce(into: [(blocks: [Int], loose: Int64)]()) { $0.append($1) }
    }
    let blocks = taken.flatMap(\.blocks)
    #expect(blocks.count == Set(blocks).count, "a block was sold twice")
    #expect(blocks.count == 16)
    #expect(taken.map(\.loose).reduce(0, +) == 100)
    _ = maker.beginTurn()
    for seat in seats { #expect(maker.level(seat.sku)?.held == 1) }
    #expect(maker.level("loose")?.held == 100)
    #expect(store.audit() == [])
    maker.endTurn()
  }
}
