// The reader beside the sessions: what it tells is what sessions tell, and it changes nothing.
import Log
import Posix
import Simulation
import Testing

@testable import StockStore

@Suite struct StoreReaderTests {
  private func stock(_ reader: StoreReader, _ sku: String) -> StockLevel? {
    withName(sku, "") { reader.stock($0) }?.level
  }

  @Test("An item is told as a session tells it, and an unknown or removed one not at all")
  func items() {
    let fixture = Fixture(testLimits(), .optimistic)
    let session = fixture.session
    let reader = StoreReader(fixture.store)
    #expect(stock(reader, "a") == nil)
    _ = session.adjust("1", "a", .setOnHand(10), safetyStock: 2)
    _ = session.reserve("h", "a", 3)
    #expect(stock(reader, "a") == session.level("a"))
    #expect(stock(reader, "a")?.available == 5)
    #expect(stock(reader, "b") == nil)
    _ = session.adjust("2", "b", .setOnHand(0))
    _ = session.remove("3", "b")
    #expect(stock(reader, "b") == nil)
  }

  @Test("A reservation is told in each of its states, and a due one as expired before it is swept")
  func reservations() throws {
    let fixture = Fixture(testLimits(), .optimistic)
    let session = fixture.session
    let reader = StoreReader(fixture.store)
    _ = session.adjust("1", "a", .setOnHand(10))
    let id = try #require(session.reserve("h", "a", 3, ttl: seconds(5)).value?.id)
    let held = try #require(reader.reservation(id))
    #expect(held.state == .held && !held.isDue && held.endedAt == nil)
    #expect(held.lines.map(\.quantity) == [3])
    #expect(reader.dueHolds() == (0, false))
    fixture.clock.advance(byNanoseconds: seconds(6))
    let before = fixture.store.statistics()
    let due = try #require(reader.reservation(id))
    #expect(due.state == .expired && due.isDue && due.endedAt == due.expiresAt)
    // It stays held for the sessions until one of them begins a turn.
    #expect(fixture.store.statistics() == before && before.liveHolds == 1)
    session.endTurn()
    _ = session.beginTurn()
    let ended = try #require(reader.reservation(id))
    #expect(ended.state == .expired && !ended.isDue)
    let confirmed = try #require(session.reserve("c", "a", 1).value?.id)
    _ = session.confirm(confirmed)
    #expect(reader.reservation(confirmed)?.state == .confirmed)
    // Another use of the slot, and another tag, are other reservations.
    #expect(
      reader.reservation(ReservationID(slot: id.slot, generation: id.generation &+ 1, tag: id.tag))
        == nil)
    #expect(
      reader.reservation(ReservationID(slot: id.slot, generation: id.generation, tag: id.tag ^ 1))
        == nil)
    #expect(reader.reservation(ReservationID(slot: .max, generation: 1, tag: 1)) == nil)
  }

  @Test(
    "Due holds are counted, whatever the order they are in, up to a number",
    arguments: [1, 2, 7, 64, 501, 600])
  func dueHolds(count: Int) throws {
    let fixture = Fixture(testLimits(), .optimistic)
    let session = fixture.session
    let reader = StoreReader(fixture.store)
    _ = session.adjust("1", "a", .setOnHand(1000))
    for number in 0..<count {
      // Those of odd numbers live on; in no order.
      let ttl = number % 2 == 0 ? 1_000 + (number * 37) % 89 : 60_000 + number
      _ = try #require(session.reserve("k\(number)", "a", 1, ttl: Int64(ttl) * 1_000_000).value)
    }
    // Staged, and not ended.
    session.endTurn()
    _ = session.beginTurn()
    fixture.clock.advance(byNanoseconds: seconds(2))
    let due = (count + 1) / 2
    #expect(reader.dueHolds() == (due, false))
  }

  @Test("The sweep finds balances that cannot be, and none that can")
  func sweep() {
    let fixture = Fixture(testLimits(), .optimistic)
    let session = fixture.session
    for index in 0..<7 { _ = session.adjust("\(index)", "item-\(index)", .setOnHand(5)) }
    _ = session.reserve("h", "item-3", 5)
    let reader = StoreReader(fixture.store)
    reader.sweep(items: 5)
    #expect(reader.report.itemsChecked == 5 && reader.report.sweeps == 0)
    reader.sweep(items: 5)
    #expect(reader.report.itemsChecked == 7 && reader.report.sweeps == 1)
    #expect(reader.report.violations == 0 && reader.report.findings.isEmpty)
    // As a fault in memory would leave it.
    fixture.store.core.items[3].store(Balances(onHand: 4, held: 5, committed: 0, safetyStock: 0))
    reader.sweep(items: 100)
    #expect(reader.report.violations == 1 && reader.report.sweeps == 2)
    #expect(reader.report.findings == ["item-3: 4 on hand, 5 held, 0 committed"])
    reader.sweep(items: 100)
    #expect(reader.report.violations == 2 && reader.report.findings.count == 1)
  }

  @Test("Where somebody has allowed more to be promised than there is, that is no finding")
  func allowedShortage() {
    let fixture = Fixture(testLimits(), .optimistic)
    let session = fixture.session
    _ = session.adjust("1", "a", .setOnHand(0), safetyStock: -5)
    _ = session.reserve("h", "a", 3)
    let reader = StoreReader(fixture.store)
    reader.sweep(items: 10)
    #expect(reader.report.violations == 0 && reader.report.itemsChecked == 1)
  }
}
