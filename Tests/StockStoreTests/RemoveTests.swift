// Items that go, and come again.
import Log
import Posix
import Simulation
import Testing

@testable import StockStore

@Suite("Removed items")
struct RemoveTests {
  private let item = ItemHandle(ordinal: 0)

  @Test("Only an empty item goes", arguments: ConcurrencyControl.sound)
  func onlyEmpty(_ concurrency: ConcurrencyControl) throws {
    let fixture = Fixture(testLimits(), concurrency)
    let session = fixture.session
    _ = session.adjust("make", "a", .setOnHand(3))
    let held = try #require(session.reserve("h", "a", 2).value?.id)
    func notEmpty(_ onHand: Int64, _ held: Int64, _ committed: Int64) -> Refusal {
      .itemNotEmpty(item: item, onHand: onHand, held: held, committed: committed)
    }
    #expect(session.remove("1", "a").refusal == notEmpty(3, 2, 0))
    // It is recorded, whatever becomes of the item.
    _ = session.confirm(held, keepCommitted: true)
    #expect(session.remove("2", "a").refusal == notEmpty(3, 0, 2))
    _ = session.adjust("ship", "a", .ship(2))
    #expect(session.remove("3", "a").refusal == notEmpty(1, 0, 0))
    _ = session.adjust("short", "a", .setOnHand(0), safetyStock: -5)
    _ = session.reserve("owed", "a", 1)
    #expect(session.remove("4", "a").refusal == notEmpty(0, 1, 0))
    fixture.advance(seconds(601))
    let version = try #require(session.level("a")?.version)
    #expect(
      session.remove("5", "a", expectedVersion: version + 1).refusal
        == .versionMismatch(current: version))
    #expect(session.remove("6", "b").refusal == .itemNotFound(line: 0))
    let gone = session.remove("5", "a", expectedVersion: version)
    #expect(gone.value == true && !gone.replayed)
    #expect(session.remove("5", "a", expectedVersion: version).replayed)
    #expect(session.remove("5", "a").refusal == .idempotencyKeyReused)
    #expect(session.remove("7", "a").refusal == .itemNotFound(line: 0))
    for (key, refusal) in [("1", notEmpty(3, 2, 0)), ("6", .itemNotFound(line: 0))] {
      let again = session.remove(key, key == "6" ? "b" : "a")
      #expect(again.refusal == refusal && again.replayed)
    }
    // Keys of other methods are others.
    #expect(session.reserve("5", "a", 1).refusal == .itemNotFound(line: 0))
    #expect(fixture.store.audit() == [])
    let numbers = fixture.store.statistics()
    #expect(numbers.items == 0 && numbers.removedItems == 1)
  }

  @Test("What is removed is unknown to every command", arguments: ConcurrencyControl.sound)
  func unknown(_ concurrency: ConcurrencyControl) throws {
    let fixture = Fixture(testLimits(), concurrency)
    let session = fixture.session
    for sku in ["a", "b"] { _ = session.adjust(sku, sku, .setOnHand(5)) }
    let expired = try #require(session.reserve("e", "a", 1, ttl: seconds(1)).value?.id)
    let cart = try #require(session.reserve("c", "b", 1, ttl: seconds(3000)).value?.id)
    fixture.advance(seconds(2))
    _ = session.adjust("empty", "a", .setOnHand(0), safetyStock: -9, sale: TestSale(isFrozen: true))
    let removal = session.remove("r", "a")
    #expect(removal.value == true && session.level("a") == nil)
    // What says so without a record of its own waits until the removal is durable.
    let late = Model.Adjustment(sku: "a", change: .setOnHand(1), check: .version(4))
    let told = [
      withName("a", "") { session.stock($0) }.lsn, session.adjust("late", late).lsn,
      session.adjustTogether("late", Model.Batch([late])).lsn,
    ]
    #expect(told == [removal.lsn, removal.lsn, removal.lsn] && removal.lsn > 0)
    var listed: [ItemHandle] = []
    _ = session.listStock(from: 0) {
      listed.append($0.item)
      return true
    }
    #expect(listed == [ItemHandle(ordinal: 1)])
    let unknown = Refusal.itemNotFound(line: 0)
    #expect(session.reserve("1", "a", 1).refusal == unknown)
    #expect(
      session.replace("2", Model.Replacement(cart, [TestLine(sku: "a", quantity: 1)])).refusal
        == unknown)
    for change: AdjustCommand.Change in [.delta(-1), .ship(1), .uncommit(1)] {
      #expect(session.adjust("\(change)", "a", change).refusal == unknown)
    }
    #expect(
      session.adjust("v", "a", .setOnHand(1), expectedVersion: 4).refusal
        == .versionMismatch(current: 0))
    #expect(
      session.adjust("o", "a", .setOnHand(1), expectedOnHand: 4).refusal
        == .onHandMismatch(current: 0))
    // What ended goes on naming it, and cannot be taken again.
    #expect(session.reservation(expired).value?.state == .expired)
    #expect(session.viewLines == [0: 1])
    #expect(
      session.confirm(expired, reacquire: true).refusal
        == .insufficientStock(item: item, requested: 1, available: 0))
    #expect(fixture.store.audit() == [])
  }

  @Test(
    "Made again, it goes on with its version and nothing else", arguments: ConcurrencyControl.sound)
  func again(_ concurrency: ConcurrencyControl) throws {
    let fixture = Fixture(testLimits(items: 1), concurrency)
    let session = fixture.session
    _ = session.adjust("make", "a", .setOnHand(0), safetyStock: 7, sale: TestSale(isFrozen: true))
    _ = session.remove("r", "a")
    // The place is the item's as long as the server runs.
    #expect(session.adjust("b", "b", .setOnHand(1)).refusal == .tableFull(.items))
    let level = try #require(session.adjust("again", "a", .delta(3), expectedVersion: 0).value)
    #expect(
      level
        == StockLevel(
          item: item, onHand: 3, held: 0, committed: 0, safetyStock: 0, version: 3))
    #expect(session.level("a") == level && session.reserve("k", "a", 3).refusal == nil)
    #expect(session.remove("r", "a").replayed)
    #expect(fixture.store.audit() == [])
    let numbers = fixture.store.statistics()
    #expect(numbers.items == 1 && numbers.removedItems == 0)
  }

  /// One adjustment with each command that can make an item anew.
  private static let makers: [(String, @Sendable (StoreSession, Model.Adjustment) -> Refusal?)] = [
    ("AdjustStock", { $0.adjust("again", $1).refusal }),
    ("BatchAdjustStock", { $0.adjustTogether("again", Model.Batch([$1])).refusal }),
    (
      "ImportStock",
      { session, row in
        let decision = session.importRows("again", firstRow: 0, [row])
        return decision.refusal ?? session.importRefusal(0)
      }
    ),
  ]

  @Test("Whoever changes stock makes it anew, or finds that it is unknown", arguments: 0..<3)
  func makers(_ maker: Int) throws {
    let (_, change) = Self.makers[maker]
    let cases: [(AdjustCommand.Change, AdjustCommand.Check, Refusal?)] = [
      (.delta(4), .none, nil), (.setOnHand(4), .version(0), nil), (.none, .onHand(0), nil),
      (.delta(-1), .none, .itemNotFound(line: 0)), (.ship(1), .none, .itemNotFound(line: 0)),
      (.uncommit(1), .none, .itemNotFound(line: 0)),
      (.setOnHand(4), .version(2), .versionMismatch(current: 0)),
      (.setOnHand(4), .onHand(4), .onHandMismatch(current: 0)),
    ]
    for (index, (asked, check, refusal)) in cases.enumerated() {
      let fixture = Fixture(testLimits(), ConcurrencyControl.sound[index % 4])
      let session = fixture.session
      _ = session.adjust("make", "a", .setOnHand(0), safetyStock: 7)
      #expect(session.remove("r", "a").value == true)
      let adjustment = Model.Adjustment(
        sku: "a", change: asked, safetyStock: asked == .none ? 2 : nil, check: check)
      #expect(change(session, adjustment) == refusal, "\(asked) \(check)")
      #expect(session.level("a")?.version == (refusal == nil ? 3 : nil))
      #expect(session.level("a")?.safetyStock == (refusal == nil ? (asked == .none ? 2 : 0) : nil))
      #expect(fixture.store.audit() == [])
    }
  }

  @Test("Of alternatives, what is removed is passed over", arguments: ConcurrencyControl.sound)
  func alternatives(_ concurrency: ConcurrencyControl) throws {
    let fixture = Fixture(testLimits(), concurrency)
    let session = fixture.session
    _ = session.adjust("a", "a", .setOnHand(0))
    _ = session.adjust("b", "b", .setOnHand(3))
    _ = session.remove("r", "a")
    let hold = session.reserve(
      "k", [TestLine(sku: "a", quantity: 1)], alternatives: [[TestLine(sku: "b", quantity: 2)]])
    #expect(hold.value?.choice.alternative == 1)
    #expect(session.level("b")?.held == 2 && fixture.store.audit() == [])
  }

  @Test("What subjects have bought of it is forgotten", arguments: ConcurrencyControl.sound)
  func limits(_ concurrency: ConcurrencyControl) throws {
    let fixture = Fixture(testLimits(), concurrency)
    let session = fixture.session
    func buy(_ key: String, _ sku: String, _ units: Int64) -> Refusal? {
      let decision = session.reserve(
        key, [TestLine(sku: sku, quantity: units)], limits: [TestLimit("ann", 2)])
      if let id = decision.value?.id { _ = session.confirm(id) }
      return decision.refusal
    }
    for sku in ["a", "b"] {
      _ = session.adjust(sku, sku, .setOnHand(2))
      #expect(buy("buy " + sku, sku, 2) == nil)
    }
    let digest = fixture.store.core.digest(at: fixture.clock.now().nanoseconds)
    #expect(session.remove("r", "a").value == true)
    #expect(fixture.store.core.digest(at: fixture.clock.now().nanoseconds) != digest)
    for sku in ["a", "b"] { _ = session.adjust("more " + sku, sku, .delta(5)) }
    #expect(
      buy("b again", "b", 1)
        == .limitExceeded(item: ItemHandle(ordinal: 1), requested: 1, used: 2, maxUnits: 2))
    #expect(buy("a again", "a", 1) == nil && buy("a more", "a", 1) == nil)
    #expect(
      buy("a most", "a", 1) == .limitExceeded(item: item, requested: 1, used: 2, maxUnits: 2))
    #expect(fixture.store.audit() == [])
  }

  @Test("Removing, making and reserving beside each other", arguments: ConcurrencyControl.sound)
  func races(_ concurrency: ConcurrencyControl) async throws {
    let store = StockStore(
      limits: testLimits(), clock: ManualClock(), concurrency: concurrency, secret: (1, 2))
    await withTaskGroup(of: Void.self) { group in
      for worker in 0..<3 {
        group.addTask {
          let session = store.makeSession()
          for round in 0..<1500 {
            _ = session.beginTurn()
            let key = "\(worker)-\(round)"
            let changes = [Model.Adjustment(sku: "a", change: .setOnHand(Int64(round % 2)))]
            switch (worker + round) % 6 {
            case 0: _ = session.adjust(key, changes[0])
            case 1: _ = session.adjustTogether(key, Model.Batch(changes))
            case 2: _ = session.importRows(key, firstRow: 0, changes)
            case 3, 4: _ = session.remove(key, "a")
            default:
              if let id = session.reserve(key, "a", 1).value?.id { _ = session.release(id) }
            }
            session.endTurn()
          }
        }
      }
    }
    #expect(store.audit() == [])
  }
}
