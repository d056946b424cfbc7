// When an item may be reserved.
import Log
import Posix
import Simulation
import Testing

@testable import StockStore

/// The fixture's first turn is at this time.
private let start = Fixture().session.time

private struct SaleCase: Sendable {
  var sale: TestSale
  /// Behind `start`, in nanoseconds.
  var at: Int64
  var isOnSale: Bool
}

private let minute = seconds(60)

private let cases: [SaleCase] = [
  .init(sale: TestSale(), at: 0, isOnSale: true),
  .init(sale: TestSale(isFrozen: true), at: 0, isOnSale: false),
  .init(sale: TestSale(from: start), at: 0, isOnSale: true),
  .init(sale: TestSale(from: start + 1), at: 0, isOnSale: false),
  .init(sale: TestSale(from: start + minute), at: minute - 1, isOnSale: false),
  .init(sale: TestSale(from: start + minute), at: minute, isOnSale: true),
  .init(sale: TestSale(from: start + minute), at: minute + 1, isOnSale: true),
  .init(sale: TestSale(until: start + minute), at: minute - 1, isOnSale: true),
  .init(sale: TestSale(until: start + minute), at: minute, isOnSale: false),
  .init(sale: TestSale(until: start + minute), at: minute + 1, isOnSale: false),
  .init(sale: TestSale(until: start), at: 0, isOnSale: false),
  .init(
    sale: TestSale(from: start + minute, until: start + minute + 1), at: minute - 1, isOnSale: false
  ),
  .init(
    sale: TestSale(from: start + minute, until: start + minute + 1), at: minute, isOnSale: true),
  .init(
    sale: TestSale(from: start + minute, until: start + minute + 1), at: minute + 1, isOnSale: false
  ),
  .init(sale: TestSale(from: start, until: start + minute, isFrozen: true), at: 1, isOnSale: false),
  // Only the nanoseconds differ, in each of the two places where their bits are kept.
  .init(sale: TestSale(from: start + 63), at: 62, isOnSale: false),
  .init(sale: TestSale(from: start + 64), at: 63, isOnSale: false),
  .init(sale: TestSale(from: start + 64), at: 64, isOnSale: true),
  .init(sale: TestSale(until: start + 999_999_999), at: 999_999_998, isOnSale: true),
  .init(sale: TestSale(until: start + 999_999_999), at: 999_999_999, isOnSale: false),
]

@Suite("Sale windows")
struct SaleTests {
  private let item = ItemHandle(ordinal: 0)

  private func refusal(_ sale: TestSale, item: UInt32 = 0) -> Refusal {
    .notOnSale(item: ItemHandle(ordinal: item), sale.window)
  }

  @Test(
    "A Reserve at each instant, and what is recorded of it", arguments: ConcurrencyControl.sound)
  func reserves(_ concurrency: ConcurrencyControl) throws {
    for it in cases {
      let fixture = Fixture(testLimits(), concurrency)
      let session = fixture.session
      _ = session.adjust("make", "a", .setOnHand(10), sale: it.sale)
      #expect(session.level("a")?.sale == it.sale.window)
      fixture.advance(it.at)
      let expected = it.isOnSale ? nil : refusal(it.sale)
      #expect(session.reserve("k", "a", 1).refusal == expected, "\(it)")
      #expect(session.level("a")?.held == (it.isOnSale ? 1 : 0), "\(it)")
      #expect(session.level("a")?.version == (it.isOnSale ? 2 : 1), "\(it)")
      // Whatever becomes of the sale, the answer stays.
      _ = session.adjust(
        "open", "a", .none, sale: it.isOnSale ? TestSale(isFrozen: true) : TestSale())
      let again = session.reserve("k", "a", 1)
      #expect(again.refusal == expected && again.replayed, "\(it)")
      #expect(fixture.store.audit() == [])
    }
  }

  @Test("A Replace needs it for what it adds", arguments: ConcurrencyControl.sound)
  func replaces(_ concurrency: ConcurrencyControl) throws {
    for it in cases {
      let fixture = Fixture(testLimits(), concurrency)
      let session = fixture.session
      for sku in ["a", "b"] { _ = session.adjust(sku, sku, .setOnHand(10)) }
      let hold = try #require(session.reserve("h", "a", 3, ttl: seconds(3000)).value)
      _ = session.adjust("set", "a", .none, sale: it.sale)
      fixture.advance(it.at)
      let lines = { (a: Int64, b: Int64) in
        [TestLine(sku: "a", quantity: a), TestLine(sku: "b", quantity: b)].filter {
          $0.quantity > 0
        }
      }
      for (key, quantity, adds) in [("same", 3, false), ("less", 2, false), ("more", 4, true)] {
        let decision = session.replace(key, Model.Replacement(hold.id, lines(Int64(quantity), 1)))
        #expect(decision.refusal == (adds && !it.isOnSale ? refusal(it.sale) : nil), "\(it) \(key)")
      }
      #expect(session.level("a")?.held == (it.isOnSale ? 4 : 2), "\(it)")
      #expect(session.replace("none", Model.Replacement(hold.id, lines(0, 1))).refusal == nil)
      #expect(
        session.replace("again", Model.Replacement(hold.id, lines(1, 1))).refusal
          == (it.isOnSale ? nil : refusal(it.sale)), "\(it)")
      #expect(fixture.store.audit() == [])
    }
  }

  @Test("An expired hold is taken anew only on sale", arguments: ConcurrencyControl.sound)
  func reacquires(_ concurrency: ConcurrencyControl) throws {
    for it in cases {
      let fixture = Fixture(testLimits(), concurrency)
      let session = fixture.session
      _ = session.adjust("make", "a", .setOnHand(10))
      let sale = TestSale(
        from: it.sale.from.map { $0 + minute }, until: it.sale.until.map { $0 + minute },
        isFrozen: it.sale.isFrozen)
      let hold = try #require(session.reserve("h", "a", 3, ttl: seconds(1)).value)
      _ = session.adjust("set", "a", .none, sale: sale)
      fixture.advance(minute + it.at)
      let decision = session.confirm(hold.id, reacquire: true)
      #expect(decision.refusal == (it.isOnSale ? nil : refusal(sale)), "\(it)")
      #expect(session.level("a")?.onHand == (it.isOnSale ? 7 : 10), "\(it)")
      #expect(fixture.store.audit() == [])
    }
  }

  @Test("What is held goes on", arguments: ConcurrencyControl.sound)
  func keepsHolds(_ concurrency: ConcurrencyControl) throws {
    let fixture = Fixture(testLimits(), concurrency)
    let session = fixture.session
    _ = session.adjust("make", "a", .setOnHand(10))
    let holds = try (0..<3).map { try #require(session.reserve("h\($0)", "a", 2).value?.id) }
    _ = session.adjust("freeze", "a", .none, sale: TestSale(until: start, isFrozen: true))
    #expect(session.confirm(holds[0]).refusal == nil)
    #expect(session.confirm(holds[1], keepCommitted: true).refusal == nil)
    #expect(session.extend(holds[2], ttlNanoseconds: seconds(5000)).refusal == nil)
    #expect(session.release(holds[2]).refusal == nil)
    // Balances change as ever, and leave the window.
    #expect(session.adjust("ship", "a", .ship(2)).refusal == nil)
    let level = try #require(session.adjust("count", "a", .delta(1), safetyStock: -3).value)
    #expect(level.sale == TestSale(until: start, isFrozen: true).window)
    #expect(level.onHand == 7 && level.held == 0 && level.committed == 0 && level.safetyStock == -3)
    #expect(session.level("a") == level)
    #expect(fixture.store.audit() == [])
  }

  @Test(
    "A refusal names all that are not on sale, or all that lack units",
    arguments: ConcurrencyControl.sound)
  func namesAll(_ concurrency: ConcurrencyControl) throws {
    let fixture = Fixture(testLimits(), concurrency)
    let session = fixture.session
    let late = TestSale(from: start + 1)
    let frozen = TestSale(until: start + 5, isFrozen: true)
    _ = session.adjust("0", "open", .setOnHand(10))
    _ = session.adjust("1", "late", .setOnHand(10), sale: late)
    _ = session.adjust("2", "frozen", .setOnHand(10), sale: frozen)
    _ = session.adjust("3", "empty", .setOnHand(0))
    func lines(_ skus: [String]) -> [TestLine] { skus.map { TestLine(sku: $0, quantity: 1) } }
    let lacking = Refusal.insufficientStock(
      item: ItemHandle(ordinal: 3), requested: 1, available: 0)
    let carts: [([String], [Refusal])] = [
      (["open", "late", "frozen"], [refusal(late, item: 1), refusal(frozen, item: 2)]),
      (["frozen", "open", "late"], [refusal(frozen, item: 2), refusal(late, item: 1)]),
      (["late", "empty"], [refusal(late, item: 1)]),
      (["empty", "late"], [lacking]),
    ]
    for (skus, expected) in carts {
      let key = skus.joined()
      #expect(session.refusals(of: session.reserve(key, lines(skus))) == expected)
      let again = session.reserve(key, lines(skus).reversed())
      #expect(session.refusals(of: again) == expected && again.replayed)
    }
    // As many as there can be.
    let many = (0..<64).map { "m\($0)" }
    for sku in many { _ = session.adjust(sku, sku, .setOnHand(1), sale: frozen) }
    let refusals = session.refusals(of: session.reserve("many", lines(many)))
    #expect(refusals.count == 64 && refusals[63] == refusal(frozen, item: 67))
    #expect(fixture.store.audit() == [])
  }

  @Test("The window is a part of the payload, and what was there before stays the same payload")
  func payloads() throws {
    let session = Fixture().session
    let sales = [
      nil, TestSale(), TestSale(isFrozen: true), TestSale(from: 5), TestSale(until: 5),
      TestSale(from: 5, until: 6),
    ]
    for (index, sale) in sales.enumerated() {
      let first = session.adjust("k\(index)", "a", .setOnHand(1), sale: sale)
      for other in sales {
        let again = session.adjust("k\(index)", "a", .setOnHand(1), sale: other)
        if other == sale {
          #expect(again.replayed && again.value == first.value)
        } else {
          #expect(again.refusal == .idempotencyKeyReused)
        }
      }
    }
  }

  @Test("Twenty bytes keep every Timestamp")
  func packing() throws {
    let range = SaleWindow.Instant.secondsRange
    var instants: [SaleWindow.Instant] = []
    for seconds in [range.lowerBound, -1, 0, 1, 1_764_000_000, range.upperBound] {
      for nanoseconds: Int64 in [0, 1, 63, 64, 999_999_999] {
        let instant = SaleWindow.Instant(seconds: seconds, nanoseconds: nanoseconds)
        instants.append(try #require(instant))
      }
    }
    for (index, from) in instants.enumerated() {
      for until in instants[(index + 1)...] {
        for isFrozen in [false, true] {
          let window = SaleWindow(from: from, until: until, isFrozen: isFrozen)
          #expect(window.from == from && window.until == until && window.isFrozen == isFrozen)
          #expect(window.isPossible && !window.isAlways && from < until)
        }
      }
      #expect(!SaleWindow(from: from, until: from, isFrozen: false).isPossible)
      #expect(SaleWindow(from: from, until: nil, isFrozen: false).from == from)
      #expect(SaleWindow(from: nil, until: from, isFrozen: false).until == from)
    }
    for (seconds, nanoseconds) in [
      (range.lowerBound - 1, 0), (range.upperBound + 1, 0), (0, -1), (0, 1_000_000_000),
    ] as [(Int64, Int64)] {
      #expect(SaleWindow.Instant(seconds: seconds, nanoseconds: nanoseconds) == nil)
    }
    for bits: UInt32 in [1, 1 << 6, 1 << 15, 1 << 31] {
      #expect(!SaleWindow(fromWord: 0, untilWord: 0, lowBits: bits).isPossible)
    }
    #expect(!SaleWindow(fromWord: 1, untilWord: 0, lowBits: 0).isPossible)
    #expect(!SaleWindow(fromWord: .max, untilWord: 0, lowBits: 1 << 12).isPossible)
  }

  @Test(
    "A change of the window and a Reserve are one behind the other",
    arguments: ConcurrencyControl.sound)
  func races(_ concurrency: ConcurrencyControl) async throws {
    let store = StockStore(
      limits: testLimits(), clock: ManualClock(), concurrency: concurrency, secret: (1, 2))
    let setup = store.makeSession()
    _ = setup.beginTurn()
    _ = setup.adjust("make", "a", .setOnHand(1_000_000))
    setup.endTurn()
    let rounds = 2000
    // While it is frozen, nobody changes it but who opens it again: the next version is the next adjustment's.
    async let broken = Task.detached { () -> [UInt64] in
      let session = store.makeSession()
      var broken: [UInt64] = []
      var frozenAt: UInt64?
      for round in 0..<rounds {
        _ = session.beginTurn()
        let sale = TestSale(isFrozen: round % 2 == 0)
        let version = session.adjust("s\(round)", "a", .none, sale: sale).value?.version
        if let frozenAt, let version, version != frozenAt + 1 { broken.append(version) }
        // One that was too busy leaves it as it is.
        frozenAt = sale.isFrozen ? version : nil
        session.endTurn()
      }
      return broken
    }.value
    async let seen = Task.detached { () -> (held: Int, refused: Int) in
      let session = store.makeSession()
      var counts = (held: 0, refused: 0)
      for round in 0..<rounds {
        _ = session.beginTurn()
        switch session.reserve("r\(round)", "a", 1).refusal {
        case nil: counts.held += 1
        case .notOnSale: counts.refused += 1
        default: break
        }
        session.endTurn()
      }
      return counts
    }.value
    let (wrong, counts) = await (broken, seen)
    #expect(wrong == [] && counts.held + counts.refused > 0)
    #expect(store.audit() == [])
  }
}
