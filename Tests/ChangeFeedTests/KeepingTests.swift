import Log
import Posix
import Simulation
import StockStore
import Synchronization
import Testing

@testable import ChangeFeed

/// A store in memory that keeps decisions only from some moment on, and until another.
@Suite(.serialized) struct KeepingTests {
  @Test("What is decided while nothing is kept is counted, and gone for readers")
  func numbersRise() throws {
    let it = try WatchedStore(keeps: false)
    var numbers: [UInt64] = []
    func adjust() { numbers.append(it.adjust("a", .delta(1), key: "k\(numbers.count)")) }
    for _ in 0..<3 { adjust() }
    #expect(!it.log.isKeeping && it.log.drained() == 0 && numbers == [1, 2, 3])
    it.store.keepDecisions()
    let first = it.log.drained()
    #expect(it.log.isKeeping && first == 8 && it.log.oldestLSN() == 8)
    for _ in 0..<2 { adjust() }
    #expect(try it.versions(behind: first) == [4, 5])
    let end = it.log.endLSN
    it.store.forgetDecisions()
    // Nobody has missed anything as long as nothing is decided.
    #expect(try it.log.locate(LogPoint(lsn: end, mark: 0)).lsn == end)
    for _ in 0..<3 { adjust() }
    it.store.keepDecisions()
    let second = it.log.drained()
    #expect(second >= end + 3 && second % 8 == 0)
    for lsn in [0, first, end] {
      #expect(throws: LogCursorError.trimmed(oldest: second)) {
        _ = try it.log.cursor(from: LogPoint(lsn: lsn, mark: 0))
      }
    }
    adjust()
    #expect(try it.versions(behind: second) == [9])
    #expect(numbers == numbers.sorted() && Set(numbers).count == numbers.count)
    // What is asked for twice is done once.
    it.store.keepDecisions()
    #expect(it.log.oldestLSN() == second && it.store.audit() == [])
  }

  @Test("Where nothing was decided in between, nobody has missed anything")
  func aPauseWithoutDecisions() throws {
    let it = try WatchedStore()
    it.adjust("a", .delta(1), key: "k1")
    let end = it.log.drained()
    it.store.forgetDecisions()
    it.store.keepDecisions()
    it.adjust("a", .delta(1), key: "k2")
    #expect(try it.versions(behind: end) == [2])
  }

  @Test("A reader that was in the middle is told that the rest is gone")
  func aReaderThatIsOvertaken() throws {
    let it = try WatchedStore()
    for number in 0..<9 { it.adjust("a", .delta(1), key: "k\(number)") }
    it.log.drain()
    let cursor = it.log.cursorFromOldest()
    it.store.forgetDecisions()
    #expect(throws: LogCursorError.trimmed(oldest: it.log.endLSN)) {
      try unsafe cursor.read(bytesMax: .max) { _, _ in }
    }
  }

  @Test("Safety stock that changed while nothing was kept is what it was when that began")
  func safetyStock() throws {
    let it = try WatchedStore(keeps: false)
    it.adjust("a", .setOnHand(100), safetyStock: 1, key: "k1")
    for round in 0..<2 {
      it.adjust("a", .none, safetyStock: 5, key: "before\(round)")
      it.store.keepDecisions()
      let start = it.log.drained()
      it.reserve([("a", 1)], key: "k2\(round)")
      it.adjust("a", .none, safetyStock: 9, key: "k3\(round)")
      it.reserve([("a", 1)], key: "k4\(round)")
      it.adjust("a", .none, safetyStock: 2, key: "k5\(round)")
      let stocks = try it.events(behind: start).map { event in
        event.split(separator: " ").first { $0.hasPrefix("5=") }
      }
      #expect(stocks == ["5=5", "5=9", "5=9", "5=2"])
      it.store.forgetDecisions()
    }
  }

  @Test("As many holds end in a turn as without a log: everything counts as durable")
  func expiryIsNotHeldBack() throws {
    let it = try WatchedStore()
    it.adjust("a", .setOnHand(10_000), key: "k")
    for number in 0..<3000 { it.reserve([("a", 1)], ttl: 5, key: "h\(number)") }
    #expect(it.log.drained() > 256 << 10)
    it.clock.advance(byNanoseconds: 20 * second)
    // A turn works on a thousand holds, moving them on included; held back, it ends 16.
    for _ in 0..<20 { it.turn {} }
    #expect(it.store.statistics().reservationsExpired == 3000)
  }

  /// What a reader saw of one time of keeping: every event behind `start` up to `end`.
  private struct Period {
    var start: UInt64
    var end: UInt64
    var numbers: [UInt64]
  }

  @Test(
    "Sessions that go on meanwhile: each decision once, and none beside",
    arguments: [ConcurrencyControl.optimistic, .locking, .singleWriter, .queued])
  func manySessions(_ concurrency: ConcurrencyControl) throws {
    let store = try StockStore(
      limits: testLimits(items: 10, reservations: 1 << 17), clock: SystemClock(),
      concurrency: concurrency, ringBytes: 1 << 22, historyBytes: 1 << 26, secret: (1, 2))
    let log = try #require(store.memoryLog)
    try log.start()
    let sessions = try BusySessions(store, count: 4)
    var periods: [Period] = []
    for round in 1...20 {
      sessions.waitForTurns(50)
      store.keepDecisions()
      let start = log.oldestLSN()
      // Not always long enough for anybody to decide anything.
      if round % 4 != 0 { sessions.waitForTurns(20 * round) }
      periods.append(try read(store, log, behind: start))
      store.forgetDecisions()
    }
    let told = sessions.stop()
    log.stop()
    // The order of the numbers is that of the commits, whatever was kept.
    #expect(Set(told.map(\.lsn)).count == told.count)
    for item in 0..<UInt32(BusySessions.itemCount) {
      let versions = told.filter { $0.item == item }.map(\.version)
      #expect(versions == Array(1...UInt64(versions.count)))
    }
    for period in periods {
      let expected = told.map(\.lsn).filter { $0 > period.start && $0 <= period.end }
      #expect(period.numbers == expected)
    }
    #expect(periods.filter { $0.numbers.count > 10 }.count >= 10)
    #expect(store.audit() == [])
  }

  /// What a reader finds that goes to the end as it is now.
  private func read(
    _ store: StockStore, _ log: MemoryLog, behind start: UInt64
  ) throws -> Period {
    log.drain()
    var period = Period(start: start, end: start, numbers: [])
    let point = LogPoint(lsn: start, mark: 0)
    let (encoder, cursor) = (EventEncoder(store: store), try log.cursor(from: point))
    let last = log.endLSN
    while period.end < last,
      let block = try encoder.block(
        behind: LogPoint(lsn: period.end, mark: 0), cursor, bytesMax: 1 << 16)
    {
      period.numbers += block.entries.map(\.lsn)
      period.end = block.end.lsn
    }
    return period
  }
}

/// Threads that change the same few items, each in a session of its own.
private final class BusySessions: Sendable {
  /// A decision as a session was told of it.
  struct Told {
    var lsn: UInt64
    var item: UInt32
    var version: UInt64
  }

  static let itemCount = 3

  private let isOver = Atomic<Bool>(false)
  private let turns = Atomic<Int>(0)
  private let told = Mutex<[Told]>([])
  private let threads = Mutex<[Thread]>([])

  init(_ store: StockStore, count: Int) throws {
    for number in 0..<count {
      let thread = try Thread(name: "session") { [self] in run(store, number) }
      threads.withLock { $0.append(thread) }
    }
  }

  private func run(_ store: StockStore, _ number: Int) {
    let session = store.makeSession()
    var mine: [Told] = []
    while !isOver.load(ordering: .relaxed) {
      _ = session.beginTurn()
      for command in 0..<3 {
        let key = "\(number)-\(mine.count)-\(command)"
        let decision = session.adjust(key, "sku\((number + command) % Self.itemCount)", .delta(1))
        // One that met too many others has changed nothing.
        guard let level = decision.value else { continue }
        mine.append(
          Told(lsn: decision.lsn, item: level.item.ordinal, version: level.version))
      }
      session.endTurn()
      turns.add(1, ordering: .relaxed)
    }
    told.withLock { $0 += mine }
  }

  /// Returns when so many more turns have ended.
  func waitForTurns(_ count: Int) {
    let until = turns.load(ordering: .relaxed) + count
    var waiting = Waiting()
    while turns.load(ordering: .relaxed) < until { waiting.once() }
  }

  /// Everything that was decided, in the order of the numbers.
  func stop() -> [Told] {
    isOver.store(true, ordering: .relaxed)
    for thread in threads.withLock({ $0 }) { thread.join() }
    return told.withLock { $0.sorted { $0.lsn < $1.lsn } }
  }
}
