import Log
import Posix
import Simulation
import Testing

@testable import StockStore

/// Holds end on the nanosecond, wherever the wheel keeps them.
@Suite struct WheelTests {
  static let tick: Int64 = 1 << 30
  static let block: Int64 = 1 << 40

  private func makeFixture() -> Fixture {
    var limits = testLimits(reservations: 1000)
    limits.holdNanosecondsMax = .max
    let it = Fixture(limits)
    _ = it.session.adjust("make", "a", .setOnHand(1 << 40))
    return it
  }

  /// Times to live around every edge: the next nanosecond, ticks, blocks, and beyond all lists.
  @Test(arguments: [
    1, 2, tick - 1, tick, tick + 1, 2 * tick, 1023 * tick, 1024 * tick, block - 1, block, block + 1,
    block + tick, 2 * block, 127 * block, 128 * block - 1, 128 * block, 128 * block + tick,
    129 * block, 300 * block + 5,
  ])
  func endsOnTime(ttl: Int64) throws {
    // From several phases of the tick and the block.
    for phase in [0, 1, Self.tick / 2, Self.block - Self.tick - 7, Self.block - 1] {
      let it = makeFixture()
      it.advance(phase + 1)
      let hold = try #require(it.session.reserve("k", "a", 1, ttl: ttl).value)
      it.advance(ttl - 1)
      #expect(it.session.reservation(hold.id).value?.state == .held)
      #expect(it.session.level("a")?.held == 1)
      #expect(it.store.audit() == [])
      it.advance(1)
      #expect(it.session.level("a")?.held == 0)
      #expect(it.session.reservation(hold.id).value?.state == .expired)
      #expect(it.store.audit() == [])
    }
  }

  /// The next block is opened before the last ticks of the one before it come.
  @Test func theNextBlockIsNotForgottenForATickOfThisOne() throws {
    let it = makeFixture()
    it.advance(Self.block - it.clock.now().nanoseconds % Self.block)
    _ = it.session.reserve("soon", "a", 1, ttl: 5 * Self.tick)
    let last = try #require(it.session.reserve("last", "a", 1, ttl: 1020 * Self.tick).value)
    _ = it.session.reserve("next", "a", 1, ttl: 1030 * Self.tick)
    it.advance(6 * Self.tick)
    #expect(it.session.release(last.id, by: TestRequester()).value != nil)
    #expect(it.store.audit() == [])
    it.advance(1024 * Self.tick)
    #expect(it.session.level("a")?.held == 0)
    #expect(it.store.audit() == [])
  }

  /// The same in many small steps: holds pass from list to list.
  @Test func endsOnTimeInSmallSteps() {
    let it = makeFixture()
    var random = SeededRandom(seed: 5)
    var due: [Int64] = []
    let start = it.clock.now().nanoseconds
    for index in 0..<400 {
      let ttl = Int64.random(in: 1...(3 * Self.block), using: &random)
      _ = it.session.reserve("k\(index)", "a", 1, ttl: ttl)
      due.append(start + ttl)
    }
    while !due.isEmpty {
      it.advance(Int64.random(in: 1...(20 * Self.tick), using: &random))
      let now = it.clock.now().nanoseconds
      due.removeAll { $0 <= now }
      #expect(it.session.level("a")?.held == Int64(due.count))
    }
    #expect(it.store.audit() == [])
  }

  @Test func extendsBothWays() throws {
    let it = makeFixture()
    let hold = try #require(it.session.reserve("k", "a", 1, ttl: 5 * Self.tick).value)
    for ttl in [2 * Self.block, 3, 700 * Self.tick, 500 * Self.block, Self.tick, 9] {
      let extended = it.session.extend(hold.id, ttlNanoseconds: ttl, mayShorten: true)
      #expect(extended.value?.state == .held && !extended.replayed)
      #expect(it.store.audit() == [])
    }
    it.advance(8)
    #expect(it.session.reservation(hold.id).value?.state == .held)
    it.advance(1)
    #expect(it.session.reservation(hold.id).value?.state == .expired)
    #expect(it.store.audit() == [])
  }

  /// A slot that is used again while the timer of its earlier use still lies in the heap.
  @Test func staleTimersMeanNothing() throws {
    var limits = testLimits(reservations: 1)
    limits.itemsMax = 1
    let it = Fixture(limits)
    _ = it.session.adjust("make", "a", .setOnHand(10))
    for index in 0..<20 {
      let hold = try #require(it.session.reserve("k\(index)", "a", 1, ttl: 1000).value)
      _ = it.session.release(hold.id)
    }
    let last = try #require(it.session.reserve("last", "a", 1, ttl: 2000).value)
    it.advance(1000)
    #expect(it.session.reservation(last.id).value?.state == .held)
    #expect(it.store.audit() == [])
  }

  /// By default a tenth of a million; HOLDFAST_TEST_SCALE=10 for all.
  @Test func manyDueInOneTick() {
    let count = 100_000 * testScale
    let it = Fixture(testLimits(reservations: 2 * count))
    _ = it.session.adjust("make", "a", .setOnHand(1 << 40))
    for index in 0..<count { _ = it.session.reserve("k\(index)", "a", 1, ttl: seconds(60)) }
    it.advance(seconds(60) - 1)
    #expect(it.session.level("a")?.held == Int64(count))
    it.advance(1)
    #expect(it.session.level("a")?.held == 0)
    #expect(it.store.statistics().reservationsExpired == UInt64(count))
    #expect(it.store.audit() == [])
  }
}
