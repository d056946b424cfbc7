import Log
import Posix
import StockStore
import Synchronization
import Testing

@testable import ChangeFeed

/// The feed's threads on a store that keeps decisions only for those who watch.
@Suite(.serialized) struct FeedTests {
  private static let minute: Int64 = 60_000_000_000

  @Test("The first watch is behind what was decided before, and sees all that comes")
  func theFirstWatch() throws {
    let it = try FedStore(keepNanoseconds: Self.minute)
    defer { it.stop() }
    it.adjust()
    let point = try it.begin(1, .now)
    it.adjust()
    it.adjust()
    #expect(try it.versions(1, behind: point, count: 2) == [2, 3])
    // Another one that is there already changes nothing.
    let other = try it.begin(2, .now)
    it.adjust()
    #expect(try it.versions(2, behind: other, count: 1) == [4])
  }

  @Test("The oldest is what was decided since somebody watches")
  func theOldest() throws {
    let it = try FedStore(keepNanoseconds: Self.minute)
    defer { it.stop() }
    it.adjust()
    let point = try it.begin(1, .oldest)
    it.adjust()
    it.log.drain()
    let block = try it.block(2, .oldest)
    #expect(block.entries.count == 1 && block.end.lsn > point.lsn)
  }

  @Test("When nobody has watched for long it keeps nothing, and says so to who comes back")
  func whenNobodyWatches() throws {
    let it = try FedStore(keepNanoseconds: 1)
    defer { it.stop() }
    let point = try it.begin(1, .now)
    it.adjust()
    it.end(1)
    #expect(it.eventually { !it.log.isKeeping })
    let before = it.adjust()
    guard case .failed(.tooOld(let oldest)) = try it.delivery(2, .after(point)) else {
      Issue.record("a watch from a point that is gone")
      return
    }
    #expect(oldest > before && oldest > point.lsn)
    it.end(2)
    #expect(it.eventually { !it.log.isKeeping })
    let later = try it.begin(3, .now)
    it.adjust()
    #expect(try it.versions(3, behind: later, count: 1) == [3])
  }

  @Test("Who comes back in time has missed nothing")
  func whoComesBack() throws {
    let it = try FedStore(keepNanoseconds: Self.minute)
    defer { it.stop() }
    let point = try it.begin(1, .now)
    it.end(1)
    it.adjust()
    let again = try it.begin(2, .after(point))
    #expect(again.lsn == point.lsn)
    #expect(try it.versions(2, behind: again, count: 1) == [1])
  }

  @Test("Who wants nothing of what others read is told how far it is, and gets what it wants")
  func whoWaitsForSomething() throws {
    let it = try FedStore(keepNanoseconds: Self.minute)
    defer { it.stop() }
    let wanted = EventFilter(items: [it.hash("wanted")])
    let point = try it.begin(1, .now, wanted)
    it.request(1, behind: point, wanted)
    let everything = try it.begin(2, .now)
    var numbers: [UInt64] = []
    for _ in 0..<3 { numbers.append(it.adjust()) }
    #expect(try it.versions(2, behind: everything, count: 3) == [1, 2, 3])
    var passed = point.lsn
    while passed < numbers[2] {
      guard case .passed(let point) = try it.next(1) else {
        Issue.record("a block of which the watch wants nothing")
        return
      }
      #expect(point.lsn > passed)
      passed = point.lsn
    }
    let lsn = it.adjust("wanted")
    guard case .block(let block) = try it.next(1) else {
      Issue.record("something else than the event that it waits for")
      return
    }
    let first = block.next(from: block.firstIndex(behind: passed), wanted)
    #expect(first.map { block.entries[$0].lsn } == lsn)
    // What came before it came to wait is not lost.
    it.adjust("wanted")
    it.adjust()
    it.request(1, behind: block.end, wanted)
    guard case .block(let next) = try it.next(1) else { throw FedStore.Unexpected() }
    #expect(next.next(from: next.firstIndex(behind: block.end.lsn), wanted) != nil)
  }

  @Test("A watch that begins among others misses nothing that was read before for these")
  func whoWantsMoreThanTheOthers() throws {
    let it = try FedStore(keepNanoseconds: Self.minute)
    defer { it.stop() }
    let wanted = EventFilter(items: [it.hash("wanted")])
    let start = try it.begin(1, .now, wanted)
    it.request(1, behind: start, wanted)
    it.adjust()
    it.adjust("wanted")
    // It is in the middle of it now, and the block has the one event. The reader may have met the other
    // one by itself before, and says then how far it is.
    var delivery = try it.next(1)
    while case .passed = delivery { delivery = try it.next(1) }
    guard case .block = delivery else { throw FedStore.Unexpected() }
    let point = try it.begin(2, .after(start))
    #expect(try it.versions(2, behind: point, count: 2) == [1, 1])
  }

  @Test("A token of another store is no reason to keep anything")
  func foreign() throws {
    let it = try FedStore(keepNanoseconds: Self.minute)
    defer { it.stop() }
    guard case .failed(.foreign) = try it.delivery(1, .foreign) else {
      Issue.record("a watch from another store's point")
      return
    }
    #expect(!it.log.isKeeping)
  }
}

/// A store in memory with a feed, and one event loop's port.
private final class FedStore {
  private let it: WatchedStore
  private let feed: ChangeFeed
  private let port: WatchPort
  private let wakeup: Wakeup
  private var deliveries: [(watch: UInt64, delivery: WatchDelivery)] = []
  private var adjustments = 0

  var log: MemoryLog { it.log }

  init(keepNanoseconds: Int64) throws {
    it = try WatchedStore(keeps: false)
    try it.log.start()
    let limits = FeedLimits(watchesMax: 10, blockBytes: 1 << 16, retainedBytesMax: 1 << 20)
    feed = try ChangeFeed(
      store: it.store, log: it.log, limits: limits, keepNanoseconds: keepNanoseconds
    ) { _ in }
    it.log.add(feed.durabilityClient)
    let wakeup = try Wakeup()
    self.wakeup = wakeup
    port = feed.makePort { wakeup.signal() }
  }

  func stop() {
    feed.stop()
    it.log.stop()
  }

  @discardableResult
  func adjust(_ sku: String = "a") -> UInt64 {
    adjustments += 1
    return it.adjust(sku, .delta(1), key: "k\(adjustments)")
  }

  func hash(_ sku: String) -> UInt64 {
    withTexts([sku]) { it.session.itemHash(ItemName(sku: $0[0], location: .empty)) }
  }

  func request(_ watch: UInt64, behind point: LogPoint, _ filter: EventFilter) {
    feed.request(watch, behind: point, filter, port)
  }

  func end(_ watch: UInt64) { feed.end(watch, port) }

  /// What a new watch gets first.
  func delivery(
    _ watch: UInt64, _ start: WatchStart, _ filter: EventFilter = EventFilter()
  ) throws -> WatchDelivery {
    #expect(feed.begin(watch, start, filter, port))
    return try next(watch)
  }

  func begin(
    _ watch: UInt64, _ start: WatchStart, _ filter: EventFilter = EventFilter()
  ) throws -> LogPoint {
    guard case .begun(let point) = try delivery(watch, start, filter) else { throw Unexpected() }
    return point
  }

  func block(_ watch: UInt64, _ start: WatchStart) throws -> EventBlock {
    guard case .block(let block) = try delivery(watch, start) else { throw Unexpected() }
    return block
  }

  /// The versions of the item in the next `count` events.
  func versions(_ watch: UInt64, behind point: LogPoint, count: Int) throws -> [Int] {
    var point = point
    var versions: [Int] = []
    while versions.count < count {
      feed.request(watch, behind: point, EventFilter(), port)
      guard case .block(let block) = try next(watch) else { throw Unexpected() }
      versions += WatchedStore.versions(of: block, behind: point.lsn)
      point = block.end
    }
    return versions
  }

  func next(_ watch: UInt64) throws -> WatchDelivery {
    while true {
      deliveries += port.take()
      if let index = deliveries.firstIndex(where: { $0.watch == watch }) {
        return deliveries.remove(at: index).delivery
      }
      guard wakeup.wait(nanoseconds: 20 * second) else { throw Unexpected() }
    }
  }

  func eventually(_ condition: () -> Bool) -> Bool {
    let deadline = SystemClock.monotonicNanoseconds() + 20 * second
    var waiting = Waiting()
    while !condition() {
      if SystemClock.monotonicNanoseconds() > deadline { return false }
      waiting.once()
    }
    return true
  }

  struct Unexpected: Error {}
}
