import Bytes
import LogFixtures
import Posix
import Simulation
import Synchronization
import Testing

@testable import Log
@testable import StockStore
@testable import StorePersistence

/// What counts as the same payload of a key, and what a directory of an older release makes of it.
@Suite struct PayloadTests {
  private static let cart = [
    TestLine(sku: "a", quantity: 2), TestLine(sku: "b", quantity: 1),
    TestLine(sku: "c", quantity: 3),
  ]

  private func stocked(_ limits: StoreLimits = testLimits()) -> Fixture {
    let it = Fixture(limits)
    for sku in ["a", "b", "c"] { _ = it.session.adjust("put \(sku)", sku, .delta(10)) }
    return it
  }

  @Test func linesAreSummedAndHaveNoOrder() {
    let it = stocked()
    let first = it.session.reserve("k", Self.cart)
    var random = SeededRandom(seed: 5)
    for _ in 0..<50 {
      var lines = Self.cart.flatMap { line in
        (0..<line.quantity).map { _ in TestLine(sku: line.sku, quantity: 1) }
      }
      lines.shuffle(using: &random)
      let again = it.session.reserve("k", lines)
      #expect(again.replayed && again.value?.id == first.value?.id)
    }
    for index in Self.cart.indices {
      var other = Self.cart
      other[index].quantity += 1
      #expect(it.session.reserve("k", other).refusal == .idempotencyKeyReused)
      #expect(
        it.session.reserve("k", other.filter { $0.sku != Self.cart[index].sku }).refusal
          == .idempotencyKeyReused)
    }
  }

  @Test func anUnsetTimeToLiveIsUnsetWhateverTheDefault() throws {
    let before = try JournaledStore(testLimits(), seed: 1)
    _ = before.session.beginTurn()
    _ = before.session.adjust("put", "a", .delta(10))
    let hold = try #require(before.session.reserve("k", "a", 1, ttl: nil).value)
    _ = before.session.reserve("explicit", "a", 1, ttl: seconds(600))
    before.session.endTurn()
    try before.settle()
    var limits = testLimits()
    limits.ttlNanosecondsDefault = seconds(300)
    let (store, _) = try JournaledStore.open(
      before.copyOfFiles(), limits, before.options, before.clock)
    let session = store.makeSession()
    _ = session.beginTurn()
    let again = session.reserve("k", "a", 1, ttl: nil)
    #expect(again.replayed && again.value == hold)
    for ttl in [300, 600] as [Int64] {
      #expect(
        session.reserve("k", "a", 1, ttl: seconds(ttl)).refusal == .idempotencyKeyReused)
    }
    #expect(session.reserve("explicit", "a", 1, ttl: nil).refusal == .idempotencyKeyReused)
    session.endTurn()
  }

  /// A store in which all that is recorded counts as the first release's.
  private func makeFirstRelease(
    _ limits: StoreLimits = testLimits()
  ) -> (store: StockStore, session: StoreSession) {
    let clock = ManualClock()
    let core = StoreCore(
      limits: limits, concurrency: .optimistic, secret: (1, 2), now: clock.now().nanoseconds,
      log: LogRing(shape: .decisions), firstReleaseUntil: .max)
    let store = StockStore(core: core, clock: clock, journal: nil)
    let session = store.makeSession()
    _ = session.beginTurn()
    for sku in ["a", "b", "c"] { _ = session.adjust("put \(sku)", sku, .delta(10)) }
    return (store, session)
  }

  /// As the first release hashed: the lines as they came, then the ttl or the default.
  private func oldFingerprint(_ session: StoreSession, _ lines: [TestLine], ttl: Int64) -> UInt64 {
    var hasher = session.core.keys.fingerprintHasher()
    for line in lines {
      hasher.absorb(withName(line.sku, line.location) { session.core.keys.itemHash($0) })
      hasher.absorb(UInt64(bitPattern: line.quantity))
    }
    return hasher.finish(UInt64(bitPattern: ttl))
  }

  private func becomeOld(
    _ session: StoreSession, _ key: String, _ lines: [TestLine], ttl: Int64
  ) throws {
    let identity = withScope(key, caller: "") { session.core.keys.identity(.reserve, $0) }
    let found = session.core.shards[session.core.shardNumber(identity)].find(identity)
    let slot = try #require(found)
    session.core.slab[slot].fingerprint = oldFingerprint(session, lines, ttl: ttl)
  }

  @Test func decisionsOfOlderReleasesAreFoundAgain() throws {
    let (_, session) = makeFirstRelease()
    let lines = [TestLine(sku: "b", quantity: 1)] + Self.cart
    let unset = try #require(session.reserve("unset", lines, ttl: nil).value)
    try becomeOld(session, "unset", lines, ttl: seconds(600))
    let explicit = try #require(session.reserve("explicit", lines, ttl: seconds(60)).value)
    try becomeOld(session, "explicit", lines, ttl: seconds(60))
    _ = session.reserve("refused", lines + lines + lines, ttl: nil)
    try becomeOld(session, "refused", lines + lines + lines, ttl: seconds(600))

    #expect(session.reserve("unset", lines, ttl: nil).value == unset)
    #expect(session.reserve("explicit", lines, ttl: seconds(60)).value == explicit)
    #expect(session.reserve("refused", lines + lines + lines, ttl: nil).replayed)
    #expect(
      session.reserve("unset", lines, ttl: seconds(60)).refusal == .idempotencyKeyReused)
    // Of an old hold nobody knows whether its ttl was the default then: it is taken for it.
    #expect(session.reserve("explicit", lines, ttl: nil).replayed)
    #expect(
      session.reserve("explicit", Self.cart, ttl: seconds(60)).refusal == .idempotencyKeyReused)
  }

  /// An old hold was made under another default than the one that is in force.
  @Test func aHoldOfAnOlderReleaseTellsItsDefault() throws {
    var limits = testLimits()
    limits.ttlNanosecondsDefault = seconds(45)
    let (_, session) = makeFirstRelease(limits)
    let hold = try #require(session.reserve("k", Self.cart, ttl: seconds(600)).value)
    try becomeOld(session, "k", Self.cart, ttl: seconds(600))
    #expect(session.reserve("k", Self.cart, ttl: nil).value?.id == hold.id)
  }

  /// What this release has recorded is not taken for the first one's.
  @Test func aHoldOfThisReleaseIsNoOldOne() throws {
    let it = stocked()
    _ = it.session.reserve("k", Self.cart, ttl: seconds(600))
    try becomeOld(it.session, "k", Self.cart, ttl: seconds(600))
    #expect(
      it.session.reserve("k", Self.cart, ttl: seconds(600)).refusal == .idempotencyKeyReused)
  }
}

/// Refusals that name several lines, across a restart, from the journal and from a checkpoint.
@Suite struct SeveralRefusalsTests {
  /// Another session makes the item that a reserve has just found unknown. Recording a refusal of items
  /// that are none ends the process.
  @Test func anItemThatIsMadeMeanwhile() throws {
    let store = StockStore(limits: testLimits(items: 100_000), clock: ManualClock(), secret: (1, 2))
    let count = 20_000
    let next = Atomic<Int>(0)
    let making = try Thread(name: "maker") {
      let maker = store.makeSession()
      for number in 0..<count {
        while next.load(ordering: .acquiring) < number {}
        _ = maker.beginTurn()
        _ = maker.adjust("m\(number)", "x\(number)", .delta(1))
        maker.endTurn()
      }
    }
    let session = store.makeSession()
    let unknown = (0..<20).map { TestLine(sku: "none\($0)", quantity: 1) }
    for number in 0..<count {
      _ = session.beginTurn()
      next.store(number, ordering: .releasing)
      let lines = [TestLine(sku: "x\(number)", quantity: 1)] + unknown
      let decision = session.reserve("k\(number)", lines)
      #expect(session.refusals(of: decision).count >= 20)
      session.endTurn()
    }
    making.join()
    #expect(store.audit() == [])
  }

  private func refusals(
    _ session: StoreSession, _ key: String, _ lines: [TestLine]
  ) -> (refusals: [Refusal], replayed: Bool) {
    let decision = session.reserve(key, lines)
    return (session.refusals(of: decision), decision.replayed)
  }

  @Test(arguments: [false, true], [1, 2, 5, 6, 64])
  func theyOutliveARestart(withCheckpoint: Bool, bad: Int) throws {
    let running = try JournaledStore(testLimits(items: 300), seed: 3)
    let session = running.session
    _ = session.beginTurn()
    for number in 0..<64 {
      _ = session.adjust("s\(number)", "sku\(number)", .setOnHand(1), safetyStock: 5)
      try running.stepAll()
    }
    let lacking = (0..<bad).map { TestLine(sku: "sku\($0)", quantity: Int64($0) + 1) }
    let unknown = (0..<bad).map { TestLine(sku: "none\($0)", quantity: 1) }
    let first = refusals(session, "lacking", lacking)
    #expect(first.refusals.count == bad && !first.replayed)
    #expect(
      first.refusals.last
        == .insufficientStock(
          item: ItemHandle(ordinal: UInt32(bad) - 1), requested: Int64(bad), available: -4))
    let second = refusals(session, "unknown", unknown)
    #expect(second.refusals == (0..<bad).map { .itemNotFound(line: $0) })
    session.endTurn()
    try running.settle()
    let digest = running.digest
    if withCheckpoint { try running.makeCheckpoint {} }
    try running.restart(losingPower: true)
    #expect((running.summary.recordsReplayed == 0) == withCheckpoint)
    #expect(running.summary.digest == digest)
    let after = running.session
    _ = after.beginTurn()
    let lackingAgain = refusals(after, "lacking", lacking.reversed())
    #expect(lackingAgain.refusals == first.refusals && lackingAgain.replayed)
    #expect(refusals(after, "unknown", unknown).refusals == second.refusals)
    #expect(running.store.audit() == [])
    after.endTurn()
  }
}
