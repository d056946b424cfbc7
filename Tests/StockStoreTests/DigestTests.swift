import Bytes
import Posix
import Simulation
import Testing

@testable import Log
@testable import StockStore

@Suite struct DigestTests {
  private func store(_ steps: (StoreSession) -> Void) -> StateDigest {
    let fixture = Fixture()
    steps(fixture.session)
    return fixture.store.stateDigest(at: fixture.clock.now())
  }

  private static func stock(_ session: StoreSession) {
    _ = session.adjust("a", "apple", .setOnHand(10))
    _ = session.adjust("b", "pear", .setOnHand(10))
  }

  private static func base(_ session: StoreSession) {
    stock(session)
    _ = session.reserve("r", "apple", 2)
  }

  @Test func theSameCommandsGiveTheSameDigest() {
    #expect(store(Self.base) == store(Self.base))
    #expect(store(Self.base).description.utf8.count == 32)
  }

  /// Each differs from all others in one thing.
  @Test func everyDifferenceShows() {
    let variants: [(StoreSession) -> Void] = [
      { _ in },
      Self.stock,
      Self.base,
      { session in
        Self.stock(session)
        _ = session.reserve("r", "apple", 3)
      },
      { session in
        Self.stock(session)
        _ = session.reserve("r", [TestLine(sku: "apple", quantity: 2)], limits: [TestLimit("c", 2)])
      },
      { session in
        Self.stock(session)
        _ = session.reserve("r", [TestLine(sku: "apple", quantity: 2)], limits: [TestLimit("c", 3)])
      },
      { session in
        Self.stock(session)
        _ = session.reserve("r", [TestLine(sku: "apple", quantity: 2)], limits: [TestLimit("d", 2)])
      },
      { session in
        Self.stock(session)
        _ = session.reserve("r", "pear", 2)
      },
      { session in
        Self.stock(session)
        _ = session.reserve("q", "apple", 2)
      },
      { session in
        Self.stock(session)
        _ = session.reserve("r", "apple", 2, ttl: seconds(601))
      },
      { session in
        Self.stock(session)
        _ = session.reserve("r", "apple", 2)
        _ = session.reserve("x", "apple", 100)
      },
      { session in
        Self.stock(session)
        _ = session.reserve("r", "apple", 2)
        _ = session.reserve("x", "apple", 101)
      },
      { session in
        Self.stock(session)
        _ = session.reserve("r", "apple", 2)
        _ = session.reserve("x", "plum", 1)
      },
      { session in
        Self.base(session)
        Self.withHold(session) { _ = session.confirm($0) }
      },
      { session in
        Self.base(session)
        Self.withHold(session) { _ = session.confirm($0, keepCommitted: true) }
      },
      { session in
        Self.base(session)
        Self.withHold(session) { _ = session.release($0) }
      },
      { session in
        Self.base(session)
        Self.withHold(session) { _ = session.confirm($0, [TestLine(sku: "apple", quantity: 1)]) }
      },
      { session in
        Self.base(session)
        Self.withHold(session) {
          _ = session.confirm($0, [TestLine(sku: "apple", quantity: 1)], keepCommitted: true)
        }
      },
      { session in
        Self.base(session)
        Self.withHold(session) { _ = session.extend($0, ttlNanoseconds: seconds(900)) }
      },
      { session in
        Self.base(session)
        _ = session.adjust("c", "pear", .delta(1))
      },
      { session in
        Self.stock(session)
        _ = session.reserve("r", [TestLine(sku: "apple", quantity: 2)], reference: "order")
      },
      { session in
        Self.stock(session)
        _ = session.reserve("r", [TestLine(sku: "apple", quantity: 2)], reference: "cart")
      },
      { session in
        Self.base(session)
        Self.withHold(session) {
          _ = session.replace("p", Model.Replacement($0, [TestLine(sku: "apple", quantity: 2)]))
        }
      },
      { session in
        Self.base(session)
        Self.withHold(session) {
          _ = session.replace("q", Model.Replacement($0, [TestLine(sku: "apple", quantity: 2)]))
        }
      },
      { session in
        Self.base(session)
        _ = session.adjust("c", "pear", .none, sale: TestSale(isFrozen: true))
      },
      { session in
        Self.base(session)
        _ = session.adjust("c", "pear", .none, sale: TestSale(from: 5))
      },
      { session in
        Self.base(session)
        _ = session.adjust("c", "pear", .none, sale: TestSale(until: 5))
      },
      { session in
        Self.base(session)
        _ = session.adjust("c", "pear", .none, safetyStock: 1)
      },
      // The same units held, by another choice; and the same refusal of other alternatives.
      { session in
        Self.stock(session)
        _ = session.reserve("r", [TestLine(sku: "apple", quantity: 2, minimum: 2)])
      },
      { session in
        Self.stock(session)
        _ = session.reserve(
          "r", [TestLine(sku: "apple", quantity: 99)],
          alternatives: [[TestLine(sku: "apple", quantity: 2)]])
      },
      { session in
        Self.stock(session)
        _ = session.reserve(
          "r", [TestLine(sku: "apple", quantity: 99)],
          alternatives: [[TestLine(sku: "apple", quantity: 2, minimum: 2)]])
      },
      { session in
        Self.base(session)
        _ = session.reserve(
          "x", [TestLine(sku: "apple", quantity: 100)],
          alternatives: [[TestLine(sku: "apple", quantity: 100)]])
      },
    ]
    let digests = variants.map { store($0).description }
    #expect(Set(digests).count == variants.count)
  }

  private static func withHold(_ session: StoreSession, _ body: (ReservationID) -> Void) {
    if let hold = session.reserve("r", "apple", 2).value { body(hold.id) }
  }

  /// What is past its retention does not count, whether or not it was forgotten yet.
  @Test func whatIsPastRetentionDoesNotCount() {
    let fixture = Fixture()
    Self.stock(fixture.session)
    fixture.session.endTurn()
    let later = fixture.clock.now().advanced(byNanoseconds: testLimits().retentionNanoseconds)
    let before = fixture.store.stateDigest(at: later)
    #expect(before != fixture.store.stateDigest(at: fixture.clock.now()))
    fixture.clock.advance(byNanoseconds: testLimits().retentionNanoseconds)
    // Each turn looks at some of the shards.
    for _ in 0..<64 { fixture.advance(0) }
    #expect(fixture.store.statistics().recordedDecisions == 0)
    #expect(fixture.store.stateDigest(at: later) == before)
  }
}
