import Log
import StockStore
import Testing

@testable import ChangeFeed

/// Those who wait together at the tail.
@Suite struct FeedStepsTests {
  @Test func whoHasFallenBehindIsToldSoAloneAndTheOthersGoOn() throws {
    let it = try WatchedStore(historyBytes: 1 << 16)
    let feed = try ChangeFeed(
      store: it.store, log: it.log,
      limits: FeedLimits(watchesMax: 10, blockBytes: 4096, retainedBytesMax: 1 << 20),
      hasThreads: false
    ) { _ in }
    let steps = FeedSteps(feed)
    let everything = EventFilter(kinds: EventKind.allCases)
    let port = feed.makePort(wake: {})
    it.adjust("a", .setOnHand(1), key: "first")
    it.log.drain()
    #expect(feed.begin(1, .now, everything, port))
    steps.stepTail()
    guard case .begun(let point)? = port.take().first?.delivery else {
      Issue.record("it has not begun")
      return
    }
    feed.request(1, behind: point, everything, port)
    steps.stepTail()
    // Nobody comes to read for longer than anything is kept.
    for number in 0..<2000 {
      it.adjust("a", .delta(1), key: "key \(number)")
      it.log.drain()
    }
    #expect(it.log.oldestLSN() > point.lsn)
    #expect(feed.begin(2, .now, everything, port))
    steps.stepTail()
    steps.stepCatchUp()
    var told: [UInt64: String] = [:]
    for (watch, delivery) in port.take() {
      switch delivery {
      case .begun(let point): told[watch] = "begun at \(point.lsn)"
      case .passed(let point): told[watch] = "passed \(point.lsn)"
      case .block: told[watch] = "block"
      case .failed(let failure): told[watch] = "\(failure)"
      }
    }
    let oldest = it.log.oldestLSN()
    #expect(told == [1: "tooOld(oldest: \(oldest))", 2: "begun at \(it.log.endLSN)"])
  }
}
