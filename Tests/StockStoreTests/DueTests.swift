import Posix
import Simulation
import Synchronization
import Testing

@testable import StockStore

/// Holds that are due and that no sweep has got to: every answer is what it is without them.
@Suite struct DueTests {
  /// A command, and whether its answer is right where all 10 units of "a" and "b" were held by holds that
  /// are due: "due" held 4 of both, "other" 6 of "a" and 6 of "b".
  struct Case: Sendable, CustomStringConvertible {
    let description: String
    let isRight: @Sendable (StoreSession, _ due: ReservationID) -> Bool
  }

  static let cases: [Case] = [
    Case(description: "GetStock") { session, _ in
      session.level("a")?.held == 0 && session.level("a")?.version == 5
    },
    Case(description: "ListStock") { session, _ in
      var held: [Int64] = []
      _ = session.listStock(from: 0) {
        held.append($0.held)
        return true
      }
      return held == [0, 0]
    },
    Case(description: "Reserve of what comes back") { session, _ in
      session.reserve("k", "a", 10, ttl: seconds(60)).value?.state == .held
    },
    Case(description: "Reserve of more than comes back") { session, _ in
      let lines = [TestLine(sku: "a", quantity: 12), TestLine(sku: "b", quantity: 11)]
      let decision = session.reserve("k", lines, ttl: seconds(60))
      return session.refusals(of: decision) == [
        .insufficientStock(item: ItemHandle(ordinal: 0), requested: 12, available: 10),
        .insufficientStock(item: ItemHandle(ordinal: 1), requested: 11, available: 10),
      ]
    },
    Case(description: "Reserve again") { session, _ in
      let decision = session.reserve("due", dueLines, ttl: seconds(10))
      return decision.replayed && decision.value?.state == .expired
        && decision.value?.remainingNanoseconds == 0
    },
    Case(description: "AdjustStock below what was held") { session, _ in
      session.adjust("k", "a", .setOnHand(1)).value?.held == 0
    },
    Case(description: "AdjustStock of the version") { session, _ in
      session.adjust("k", "a", .delta(1), expectedVersion: 5).value?.version == 6
    },
    Case(description: "AdjustStock of an earlier version") { session, _ in
      session.adjust("k", "a", .delta(1), expectedVersion: 3).refusal
        == .versionMismatch(current: 5)
    },
    Case(description: "Confirm") { session, due in
      session.confirm(due, [], reacquire: false).refusal == .reservationExpired
    },
    Case(description: "Confirm with reacquire") { session, due in
      session.confirm(due, [], reacquire: true).value?.state == .confirmed
        && session.level("a")?.onHand == 6 && session.level("b")?.held == 0
    },
    Case(description: "Release") { session, due in
      session.release(due).refusal == .reservationExpired
    },
    Case(description: "Extend") { session, due in
      session.extend(due, ttlNanoseconds: seconds(60)).refusal == .reservationExpired
    },
    Case(description: "GetReservation") { session, due in
      session.reservation(due).value?.state == .expired
    },
    Case(description: "ListReservations") { session, _ in
      var held = 0
      var expired = 0
      _ = session.listReservations(cursor: 0, scanMax: 1000, state: nil) { view in
        if view.state == .held { held += 1 }
        if view.state == .expired { expired += 1 }
        return true
      }
      return held == 0 && expired == 2
    },
  ]

  static let dueLines = [TestLine(sku: "a", quantity: 4), TestLine(sku: "b", quantity: 4)]

  /// Two holds of all units, due in ten seconds; no sweep ends any.
  private func makeFixture(
    _ concurrency: ConcurrencyControl, reservations: Int = 1 << 20
  ) throws -> (Fixture, due: ReservationID) {
    var limits = testLimits(reservations: reservations)
    limits.expiriesPerTurn = 0
    let it = Fixture(limits, concurrency)
    _ = it.session.adjust("make a", "a", .setOnHand(10))
    _ = it.session.adjust("make b", "b", .setOnHand(10))
    let due = try #require(it.session.reserve("due", Self.dueLines, ttl: seconds(10)).value)
    let other = [TestLine(sku: "a", quantity: 6), TestLine(sku: "b", quantity: 6)]
    _ = try #require(it.session.reserve("other", other, ttl: seconds(10)).value)
    // The budget is twice what was made in the turn before.
    it.advance(1)
    return (it, due.id)
  }

  /// A command that lacked units lets its key go while it ends what is due. Where another session has decided
  /// the same call by then, the answer is that decision, and names what that one names, no more.
  @Test(arguments: [ConcurrencyControl.optimistic, .locking])
  func anotherSessionHasTheSameKeyMeanwhile(_ concurrency: ConcurrencyControl) throws {
    let (it, due) = try makeFixture(concurrency)
    // The hold's shard is locked when its end is observed.
    let key = try #require(
      (0..<100).map { "k\($0)" }.first {
        shard(of: $0, it.store) != it.store.core.slab.owner(due.slot)
      })
    let lines = [TestLine(sku: "a", quantity: 12), TestLine(sku: "b", quantity: 11)]
    nonisolated(unsafe) let other = it.store.makeSession()
    _ = unsafe other.beginTurn()
    let first = Mutex<[Refusal]?>(nil)
    it.advance(seconds(10))
    it.store.setExpiryObserver { _, _ in
      if first.withLock({ $0 }) != nil { return }
      let decision = unsafe other.reserve(key, lines, ttl: seconds(60))
      let refusals = unsafe other.refusals(of: decision)
      first.withLock { $0 = decision.replayed ? [] : refusals }
    }
    let decision = it.session.reserve(key, lines, ttl: seconds(60))
    it.store.setExpiryObserver(nil)
    #expect(decision.replayed)
    let refusals = it.session.refusals(of: decision)
    #expect(refusals.count == 2 && first.withLock { $0 } == refusals)
    #expect(it.store.audit() == [])
  }

  private func shard(of key: String, _ store: StockStore) -> Int {
    withBytes(key) { store.shardNumber(ofReserve: IdempotencyScope(caller: .empty, key: $0)) }
  }

  @Test(arguments: cases, ConcurrencyControl.sound)
  func answersAsIfAllHadEnded(_ command: Case, concurrency: ConcurrencyControl) throws {
    for leap in [seconds(10), 3 * WheelTests.block] {
      let (it, due) = try makeFixture(concurrency)
      it.advance(leap)
      #expect(it.session.hasBacklog && it.store.statistics().reservationsExpired == 0)
      #expect(command.isRight(it.session, due), "\(command) after \(leap) ns")
      #expect(it.store.audit() == [])
    }
  }

  /// A nanosecond earlier, nothing is due, and nothing ends.
  @Test func nothingEndsEarly() throws {
    let (it, due) = try makeFixture(.optimistic)
    it.advance(seconds(10) - 2)
    #expect(it.session.level("a")?.held == 10)
    #expect(it.session.reserve("k", "a", 1, ttl: seconds(60)).value == nil)
    #expect(it.session.reservation(due).value?.state == .held)
    #expect(it.store.statistics().reservationsExpired == 0)
  }

  /// A table that is full of holds has room once one of them is due.
  @Test func dueHoldsMakeRoom() throws {
    var limits = testLimits(reservations: 4)
    limits.expiriesPerTurn = 0
    let it = Fixture(limits)
    _ = it.session.adjust("make", "a", .setOnHand(100))
    for index in 0..<4 {
      _ = try #require(it.session.reserve("k\(index)", "a", 1, ttl: seconds(10)).value)
    }
    it.advance(1)
    #expect(
      it.session.reserve("more", "a", 1, ttl: seconds(60)).refusal == .tableFull(.reservations))
    it.advance(seconds(10))
    #expect(it.session.reserve("more", "a", 1, ttl: seconds(60)).value != nil)
    #expect(it.store.statistics().reservationsExpired == 1 && it.store.audit() == [])
  }

  /// What is past its retention is forgotten, whether or not the sweep has got to it.
  @Test func dueHoldsAreForgotten() throws {
    let (it, due) = try makeFixture(.optimistic)
    it.advance(seconds(86_410))
    #expect(it.session.reservation(due).refusal == .reservationNotFound)
    let again = it.session.reserve("due", Self.dueLines, ttl: seconds(10))
    #expect(!again.replayed && again.value != nil)
    #expect(it.store.audit() == [])
  }

  /// However much is due, a turn ends no more than its budget, and turns end it all.
  @Test func theSweepKeepsToItsBudget() {
    var limits = testLimits(reservations: 1 << 20)
    limits.expiriesPerTurn = 100
    let it = Fixture(limits)
    _ = it.session.adjust("make", "a", .setOnHand(1 << 40))
    for index in 0..<1000 { _ = it.session.reserve("k\(index)", "a", 1, ttl: seconds(60)) }
    it.advance(1)
    it.advance(seconds(60))
    var expired: UInt64 = 0
    var turns = 0
    while it.session.hasBacklog, turns < 100 {
      it.advance(1)
      turns += 1
      let total = it.store.statistics().reservationsExpired
      #expect(total - expired <= 100)
      expired = total
    }
    #expect(expired == 1000 && turns < 40)
    #expect(it.store.audit() == [])
  }

  /// The heaps of items beside a list: whatever is added and removed, what is due first is found first.
  @Test func indexFindsWhatIsDueFirst() {
    let index = DueIndex(items: 3, holds: 1000)
    defer { index.free() }
    var random = SeededRandom(seed: 9)
    var free = Array(index.makeChunk()..<(1 + DueIndex.chunkNodes))
    var nodes: [(node: UInt32, ordinal: UInt32, slot: UInt32, expiresAt: Int64)] = []
    for step in 0..<20_000 {
      if nodes.count < 400 && (nodes.isEmpty || random.chance(52)) {
        let node = free.removeLast()
        let entry = (
          node, UInt32.random(in: 0..<3, using: &random), UInt32(step),
          Int64.random(in: 1...200, using: &random)
        )
        index.add(node, ordinal: entry.1, slot: entry.2, expiresAt: entry.3)
        nodes.append(entry)
      } else {
        let removed = nodes.remove(at: Int.random(in: 0..<nodes.count, using: &random))
        index.remove(removed.node)
        free.append(removed.node)
      }
      for ordinal in 0..<3 as Range<UInt32> {
        let own = nodes.filter { $0.ordinal == ordinal }
        let first = own.map(\.expiresAt).min() ?? .max
        #expect(index.firstDue(ordinal, first - 1) == nil)
        let found = index.firstDue(ordinal, first)
        #expect(own.first { $0.slot == found }?.expiresAt == (own.isEmpty ? nil : first))
        if step % 1000 == 0 { #expect(index.count(ordinal) == own.count) }
      }
    }
  }
}
