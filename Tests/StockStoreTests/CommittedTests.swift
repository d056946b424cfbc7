// Stock as it is on the shelf: what is sold and not shipped, what is owed, and what is promised beyond it.
import Log
import Simulation
import Testing

@testable import StockStore

/// An item as a case begins.
private struct Shelf: Sendable {
  var onHand: Int64
  var held: Int64 = 0
  var committed: Int64 = 0
  var safetyStock: Int64 = 0

  var balances: Balances {
    Balances(onHand: onHand, held: held, committed: committed, safetyStock: safetyStock)
  }

  /// Makes the item "a", by commands, and gives its live hold, if there is one.
  func make(_ session: StoreSession) throws -> ReservationID? {
    _ = session.adjust("make", "a", .setOnHand(held + committed))
    if committed > 0 {
      let sold = try #require(session.reserve("sold", "a", committed).value)
      _ = session.confirm(sold.id, keepCommitted: true)
    }
    let hold = held > 0 ? session.reserve("held", "a", held).value : nil
    _ = session.adjust(
      "count", "a", .setOnHand(onHand), safetyStock: safetyStock, allowsShortage: true)
    #expect(session.level("a")?.balances == balances)
    return hold?.id
  }
}

private enum Outcome: Sendable {
  case becomes(Shelf)
  /// Of units on hand, or on offer.
  case lacks(_ requested: Int64, available: Int64)
  case lacksCommitted(_ requested: Int64, committed: Int64)
  case onHandMismatch(Int64)

  func check(_ shelf: Shelf, _ refusal: Refusal?, _ session: StoreSession, _ name: String) {
    let item = ItemHandle(ordinal: 0)
    var expected: (Refusal?, Shelf) = (nil, shelf)
    switch self {
    case .becomes(let shelf): expected.1 = shelf
    case .lacks(let requested, let available):
      expected.0 = .insufficientStock(item: item, requested: requested, available: available)
    case .lacksCommitted(let requested, let committed):
      expected.0 = .insufficientCommitted(item: item, requested: requested, committed: committed)
    case .onHandMismatch(let current): expected.0 = .onHandMismatch(current: current)
    }
    #expect(refusal == expected.0, "\(name)")
    #expect(session.level("a")?.balances == expected.1.balances, "\(name)")
  }
}

private struct AdjustmentCase: Sendable, CustomTestStringConvertible {
  var shelf: Shelf
  var change: AdjustCommand.Change
  var allowsShortage = false
  var expectedOnHand: Int64?
  var outcome: Outcome

  var testDescription: String { "\(shelf), \(change), \(allowsShortage ? "short" : "")" }
}

private let plenty = Shelf(onHand: 10, held: 0, committed: 4)
private let short = Shelf(onHand: 3, held: 2, committed: 4)
private let overcommitted = Shelf(onHand: 5, held: 5, safetyStock: -5)

private let adjustments: [AdjustmentCase] = [
  .init(shelf: plenty, change: .ship(4), outcome: .becomes(Shelf(onHand: 6))),
  .init(shelf: plenty, change: .ship(1), outcome: .becomes(Shelf(onHand: 9, committed: 3))),
  .init(shelf: plenty, change: .ship(5), outcome: .lacksCommitted(5, committed: 4)),
  .init(shelf: plenty, change: .uncommit(4), outcome: .becomes(Shelf(onHand: 10))),
  .init(shelf: plenty, change: .uncommit(5), outcome: .lacksCommitted(5, committed: 4)),
  .init(
    shelf: plenty, change: .delta(-6), outcome: .becomes(Shelf(onHand: 4, committed: 4))),
  .init(shelf: plenty, change: .delta(-7), outcome: .lacks(7, available: 6)),
  .init(shelf: plenty, change: .setOnHand(3), outcome: .lacks(7, available: 6)),
  .init(
    shelf: plenty, change: .delta(-7), allowsShortage: true,
    outcome: .becomes(Shelf(onHand: 3, committed: 4))),
  .init(
    shelf: plenty, change: .setOnHand(0), allowsShortage: true,
    outcome: .becomes(Shelf(onHand: 0, committed: 4))),
  .init(
    shelf: plenty, change: .delta(-11), allowsShortage: true, outcome: .lacks(11, available: 10)),
  // Who is short may get better bit by bit, and ship what is there.
  .init(
    shelf: short, change: .delta(1), outcome: .becomes(Shelf(onHand: 4, held: 2, committed: 4))),
  .init(shelf: short, change: .setOnHand(3), outcome: .becomes(short)),
  .init(shelf: short, change: .none, outcome: .becomes(short)),
  .init(shelf: short, change: .delta(-1), outcome: .lacks(1, available: -3)),
  .init(
    shelf: short, change: .ship(3), outcome: .becomes(Shelf(onHand: 0, held: 2, committed: 1))),
  .init(shelf: short, change: .ship(4), outcome: .lacks(4, available: 3)),
  .init(
    shelf: short, change: .uncommit(4), outcome: .becomes(Shelf(onHand: 3, held: 2))),
  // Negative safety stock is what may be promised, not what may be taken away.
  .init(shelf: overcommitted, change: .delta(-1), outcome: .lacks(1, available: 0)),
  .init(
    shelf: overcommitted, change: .delta(-1), allowsShortage: true,
    outcome: .becomes(Shelf(onHand: 4, held: 5, safetyStock: -5))),
  .init(
    shelf: plenty, change: .setOnHand(9), expectedOnHand: 10,
    outcome: .becomes(Shelf(onHand: 9, committed: 4))),
  .init(shelf: plenty, change: .setOnHand(9), expectedOnHand: 6, outcome: .onHandMismatch(10)),
]

private struct ReserveCase: Sendable {
  var shelf: Shelf
  var quantity: Int64
  /// nil: it is held.
  var available: Int64?
}

private let reserves: [ReserveCase] = [
  .init(shelf: plenty, quantity: 6),
  .init(shelf: plenty, quantity: 7, available: 6),
  .init(shelf: short, quantity: 1, available: -3),
  .init(shelf: Shelf(onHand: 0, safetyStock: -5), quantity: 5),
  .init(shelf: Shelf(onHand: 0, safetyStock: -5), quantity: 6, available: 5),
  .init(shelf: Shelf(onHand: 10, committed: 8, safetyStock: -3), quantity: 5),
  .init(shelf: Shelf(onHand: 10, committed: 8, safetyStock: -3), quantity: 6, available: 5),
  .init(shelf: Shelf(onHand: 10, committed: 8, safetyStock: 1), quantity: 2, available: 1),
]

private struct ConfirmCase: Sendable {
  var shelf: Shelf
  /// nil: all that is held.
  var units: Int64?
  var keepCommitted: Bool
  var isExpired = false
  var outcome: Outcome
}

private let confirms: [ConfirmCase] = [
  .init(
    shelf: Shelf(onHand: 10, held: 4), keepCommitted: true,
    outcome: .becomes(Shelf(onHand: 10, committed: 4))),
  .init(
    shelf: Shelf(onHand: 10, held: 4), units: 3, keepCommitted: true,
    outcome: .becomes(Shelf(onHand: 10, committed: 3))),
  .init(
    shelf: Shelf(onHand: 10, held: 4, committed: 2), units: 3, keepCommitted: false,
    outcome: .becomes(Shelf(onHand: 7, committed: 2))),
  // A pre-order: there is nothing to take away, and all to be promised.
  .init(
    shelf: Shelf(onHand: 0, held: 4, safetyStock: -5), keepCommitted: false,
    outcome: .lacks(4, available: 0)),
  .init(
    shelf: Shelf(onHand: 0, held: 4, safetyStock: -5), keepCommitted: true,
    outcome: .becomes(Shelf(onHand: 0, committed: 4, safetyStock: -5))),
  // A count below what is held: what is there can leave, and all can be sold.
  .init(
    shelf: Shelf(onHand: 2, held: 4), keepCommitted: false, outcome: .lacks(4, available: 2)),
  .init(
    shelf: Shelf(onHand: 2, held: 4), units: 2, keepCommitted: false,
    outcome: .becomes(Shelf(onHand: 0))),
  .init(
    shelf: Shelf(onHand: 2, held: 4), keepCommitted: true,
    outcome: .becomes(Shelf(onHand: 2, committed: 4))),
  .init(
    shelf: short, keepCommitted: false,
    outcome: .becomes(Shelf(onHand: 1, held: 0, committed: 4))),
  // Taken again, the units must be on offer, and on hand if they leave.
  .init(
    shelf: Shelf(onHand: 10, held: 4), keepCommitted: true, isExpired: true,
    outcome: .becomes(Shelf(onHand: 10, committed: 4))),
  .init(
    shelf: Shelf(onHand: 2, held: 4, safetyStock: -2), keepCommitted: true, isExpired: true,
    outcome: .becomes(Shelf(onHand: 2, committed: 4, safetyStock: -2))),
  .init(
    shelf: Shelf(onHand: 2, held: 4, safetyStock: -2), keepCommitted: false, isExpired: true,
    outcome: .lacks(4, available: 2)),
  .init(
    shelf: Shelf(onHand: 2, held: 4), keepCommitted: true, isExpired: true,
    outcome: .lacks(4, available: 2)),
]

@Suite("Committed, owed and promised units")
struct CommittedTests {
  @Test("Balances share words, and none takes a bit of another")
  func packedBalances() throws {
    let items = ItemTable(capacity: 1)
    defer { items.free() }
    let ordinal = try #require(withName("sku", "") { items.add($0) })
    let most: Int64 = 1 << 46
    for onHand in [0, 1, 1 << 40, most] {
      for held in [0, 1, 1 << 41, most] {
        for committed in [0, 1, 0xffff, 0x1_0000, 0xffff_ffff, 1 << 32, 1 << 41, most] {
          for safetyStock in [-most, -(1 << 40), -1, 0, 1, 1 << 40, most] {
            let balances = Balances(
              onHand: onHand, held: held, committed: committed, safetyStock: safetyStock)
            items[ordinal].store(balances)
            #expect(items[ordinal].balances == balances)
            #expect(items[ordinal].safetyStock == safetyStock)
          }
        }
      }
    }
  }

  @Test("Adjustments", arguments: ConcurrencyControl.sound)
  func adjusts(_ concurrency: ConcurrencyControl) throws {
    for it in adjustments {
      let fixture = Fixture(testLimits(), concurrency)
      _ = try it.shelf.make(fixture.session)
      let decision = fixture.session.adjust(
        "k", "a", it.change, expectedOnHand: it.expectedOnHand, allowsShortage: it.allowsShortage)
      it.outcome.check(it.shelf, decision.refusal, fixture.session, it.testDescription)
      // It is recorded, as it was decided, unless the caller knew too little.
      let again = fixture.session.adjust(
        "k", "a", it.change, expectedOnHand: it.expectedOnHand, allowsShortage: it.allowsShortage)
      #expect(again.value == decision.value && again.refusal == decision.refusal)
      if case .onHandMismatch = it.outcome {
        #expect(!again.replayed)
      } else {
        #expect(again.replayed)
      }
      #expect(fixture.store.audit() == [])
    }
  }

  @Test("Reserves", arguments: ConcurrencyControl.sound)
  func reservesWhatIsAvailable(_ concurrency: ConcurrencyControl) throws {
    for it in reserves {
      let fixture = Fixture(testLimits(), concurrency)
      _ = try it.shelf.make(fixture.session)
      let refusal = fixture.session.reserve("k", "a", it.quantity).refusal
      let expected = it.available.map {
        Refusal.insufficientStock(
          item: ItemHandle(ordinal: 0), requested: it.quantity, available: $0)
      }
      #expect(refusal == expected, "\(it)")
      #expect(fixture.store.audit() == [])
    }
  }

  @Test("Confirms", arguments: ConcurrencyControl.sound)
  func sells(_ concurrency: ConcurrencyControl) throws {
    for it in confirms {
      let fixture = Fixture(testLimits(), concurrency)
      let session = fixture.session
      let id = try #require(try it.shelf.make(session))
      if it.isExpired { fixture.advance(seconds(4000)) }
      let lines = it.units.map { [TestLine(sku: "a", quantity: $0)] } ?? []
      let decision = session.confirm(
        id, lines, reacquire: true, keepCommitted: it.keepCommitted)
      var before = it.shelf
      if it.isExpired { before.held = 0 }
      it.outcome.check(before, decision.refusal, session, "\(it)")
      let again = session.confirm(id, lines, reacquire: true, keepCommitted: it.keepCommitted)
      if decision.value == nil {
        #expect(again.refusal == decision.refusal)
        #expect(session.reservation(id).value?.state == (it.isExpired ? .expired : .held))
      } else {
        #expect(again.replayed)
        let other = session.confirm(
          id, lines, reacquire: true, keepCommitted: !it.keepCommitted)
        #expect(other.refusal == .reservationConfirmed)
      }
      #expect(fixture.store.audit() == [])
    }
  }

  @Test("Every field of an adjustment is a part of its payload")
  func payloads() {
    let session = Fixture().session
    _ = session.adjust("make", "a", .setOnHand(10))
    _ = session.adjust("k", "a", .delta(-1))
    #expect(session.adjust("k", "a", .delta(-1)).replayed)
    for other in [
      session.adjust("k", "a", .delta(-1), allowsShortage: true),
      session.adjust("k", "a", .ship(1)), session.adjust("k", "a", .uncommit(1)),
      session.adjust("k", "a", .delta(-1), expectedOnHand: 10),
      session.adjust("k", "a", .delta(-1), expectedOnHand: 0),
      session.adjust("k", "a", .delta(-1), expectedVersion: 10),
    ] { #expect(other.refusal == .idempotencyKeyReused) }
  }

  @Test("An unknown item has nothing on hand, and nothing to ship")
  func unknownItem() {
    let session = Fixture().session
    for change: AdjustCommand.Change in [.ship(1), .uncommit(1), .delta(-1)] {
      let refusal = session.adjust("\(change)", "a", change, allowsShortage: true).refusal
      #expect(refusal == .itemNotFound(line: 0))
    }
    #expect(
      session.adjust("1", "a", .setOnHand(1), expectedOnHand: 5).refusal
        == .onHandMismatch(current: 0))
    #expect(session.level("a") == nil)
    #expect(session.adjust("2", "a", .setOnHand(1), expectedOnHand: 0).value?.onHand == 1)
  }
}
