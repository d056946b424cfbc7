// The change feed: two threads that read the log, and hand blocks of events to the event loops.
//
// A watcher has at most one request here, for the block behind the point up to which it has sent. The tail
// thread knows those who wait for what is decided next: one read and one decoding serve all of them, and who
// wants nothing of it goes on waiting. The
// catch-up thread reads for those who are behind, a block at a time, so that nobody at the tail waits for
// old segments. Nothing is kept for a watcher that does not ask.
//
// A store without a journal keeps decisions while somebody watches, and for some time after: the tail thread
// sees to that, so that a watch begins behind it.
package import Log
package import Posix
package import StockStore
package import Synchronization

/// Where a watch begins.
package enum WatchStart: Sendable {
  case now
  case oldest
  case after(LogPoint)
  /// Nowhere: its token is another store's.
  case foreign
}

/// Why a watch ends.
package enum WatchFailure: Error, Equatable, Sendable {
  /// What it asked for is not kept any more: records are from `oldest` on.
  case tooOld(oldest: UInt64)
  /// The point is of another history.
  case foreign
  /// The log cannot be read.
  case unreadable
}

/// Watches by why they ended, other than by their clients.
package struct EndedWatches: Sendable, Equatable {
  package internal(set) var tooOld: UInt64 = 0
  package internal(set) var foreign: UInt64 = 0
  package internal(set) var unreadable: UInt64 = 0
  /// Refused: there were `FeedLimits.watchesMax`.
  package internal(set) var tooMany: UInt64 = 0

  package init() {}
}

/// What a watch gets for a request.
package enum WatchDelivery: Sendable {
  /// It begins behind this point.
  case begun(LogPoint)
  /// Up to this point there is nothing for it. It has not got what it asked for yet.
  case passed(LogPoint)
  case block(EventBlock)
  case failed(WatchFailure)
}

/// What waits for one event loop. The lock is held for an append or a swap.
package final class WatchPort: Sendable {
  private let inbox = Mutex<[(watch: UInt64, delivery: WatchDelivery)]>([])
  private let hasDeliveries = Atomic<Bool>(false)
  private let wake: @Sendable () -> Void
  /// The least that one of the loop's watches has been sent; UInt64.max without any.
  package let sentLSN = Atomic<UInt64>(.max)

  init(wake: @escaping @Sendable () -> Void) { self.wake = wake }

  func deliver(_ delivery: WatchDelivery, to watch: UInt64) {
    inbox.withLock { $0.append((watch, delivery)) }
    // Once for all that the loop has not taken yet.
    if !hasDeliveries.exchange(true, ordering: .acquiringAndReleasing) { wake() }
  }

  /// Everything since the last call.
  package func take() -> [(watch: UInt64, delivery: WatchDelivery)] {
    guard hasDeliveries.load(ordering: .acquiring) else { return [] }
    hasDeliveries.store(false, ordering: .sequentiallyConsistent)
    return inbox.withLock { deliveries in
      let taken = deliveries
      deliveries = []
      return taken
    }
  }
}

/// The values and the reasons for them stand in the executable's Limits.swift.
package struct FeedLimits: Sendable {
  /// Watches of the server.
  package var watchesMax: Int
  /// Bytes of records that make a block, about.
  package var blockBytes: Int
  /// Bytes of blocks that watchers may keep that do not read; beyond it they read again later.
  package var retainedBytesMax: Int

  package init(watchesMax: Int, blockBytes: Int, retainedBytesMax: Int) {
    self.watchesMax = watchesMax
    self.blockBytes = blockBytes
    self.retainedBytesMax = retainedBytesMax
  }
}

package final class ChangeFeed: Sendable {
  struct Request: Sendable {
    enum What: Sendable {
      case start(WatchStart, EventFilter)
      case next(LogPoint, EventFilter)
      case cancel
    }

    let port: WatchPort
    let watch: UInt64
    let what: What
  }

  /// Requests for one thread.
  final class Inbox: Sendable {
    private let requests = Mutex<[Request]>([])
    let wakeup: Wakeup

    init() throws(Errno) { wakeup = try Wakeup() }

    func post(_ request: Request) {
      requests.withLock { $0.append(request) }
      wakeup.signal()
    }

    func take() -> [Request] {
      requests.withLock { requests in
        let taken = requests
        requests = []
        return taken
      }
    }
  }

  let store: StockStore
  let log: any ReadableLog
  package let limits: FeedLimits
  package let tokens: ResumeToken
  /// How long the store keeps decisions for nobody; nil: always.
  let keepNanoseconds: Int64?
  let tail: Inbox
  let catchUp: Inbox
  /// Ends a rest of the tail thread.
  let rest: Wakeup
  let retained = RetainedBytes()
  let client: TailClient
  private let report: @Sendable (String) -> Void
  private let threads = Mutex<[Thread]>([])
  private let stopping = Atomic<Bool>(false)
  private let watches = Atomic<Int>(0)
  private let sent = Atomic<UInt64>(0)
  private let refusedWatches = Atomic<UInt64>(0)
  private let endedWatches = Mutex(EndedWatches())
  private let ports = Mutex<[WatchPort]>([])

  /// - Parameters:
  ///   - store: no session of it has decided anything yet.
  ///   - keepNanoseconds: how long a store without a journal keeps decisions when nobody watches any more;
  ///     nil: always.
  ///   - hasThreads: otherwise `FeedSteps` does their work.
  ///   - report: takes what the operator should hear of.
  package init(
    store: StockStore, log: any ReadableLog, limits: FeedLimits, keepNanoseconds: Int64? = nil,
    hasThreads: Bool = true,
    report: @escaping @Sendable (String) -> Void
  ) throws(Errno) {
    self.store = store
    self.log = log
    self.limits = limits
    self.keepNanoseconds = keepNanoseconds
    self.report = report
    tokens = ResumeToken(store: store)
    tail = try Inbox()
    catchUp = try Inbox()
    rest = try Wakeup()
    client = TailClient(tail.wakeup)
    store.safetyStockChanges.begin(at: log.endLSN)
    guard hasThreads else { return }
    let tailThread = try Thread(name: "watch tail") { [self] in TailReader(self).run() }
    let oldThread = try Thread(name: "watch") { [self] in CatchUpReader(self).run() }
    threads.withLock { $0 = [tailThread, oldThread] }
  }

  /// Who must be woken when records have become durable.
  package var durabilityClient: any JournalClient { client }

  /// Ends the threads. Nobody watches any more.
  package func stop() {
    stopping.store(true, ordering: .releasing)
    rest.signal()
    tail.wakeup.signal()
    catchUp.wakeup.signal()
    let threads = threads.withLock { list in
      let threads = list
      list = []
      return threads
    }
    for thread in threads { thread.join() }
  }

  var isStopping: Bool { stopping.load(ordering: .acquiring) }

  // MARK: For the loops

  /// Where the deliveries for one loop come in.
  /// - Parameter wake: wakes the loop, from any thread.
  package func makePort(wake: @escaping @Sendable () -> Void) -> WatchPort {
    let port = WatchPort(wake: wake)
    ports.withLock { $0.append(port) }
    return port
  }

  /// Begins a watch; false where there are too many. `watch` must be no other's on that port.
  package func begin(
    _ watch: UInt64, _ start: WatchStart, _ filter: EventFilter, _ port: WatchPort
  ) -> Bool {
    let count = watches.add(1, ordering: .relaxed).newValue
    if count > limits.watchesMax {
      watches.subtract(1, ordering: .relaxed)
      refusedWatches.add(1, ordering: .relaxed)
      return false
    }
    tail.post(Request(port: port, watch: watch, what: .start(start, filter)))
    return true
  }

  /// Asks for the events behind a point that the watch's filter takes. One request of a watch at a time.
  package func request(
    _ watch: UInt64, behind point: LogPoint, _ filter: EventFilter, _ port: WatchPort
  ) {
    tail.post(Request(port: port, watch: watch, what: .next(point, filter)))
  }

  /// Ends a watch. What was on its way to it may still come.
  package func end(_ watch: UInt64, _ port: WatchPort) {
    watches.subtract(1, ordering: .relaxed)
    tail.post(Request(port: port, watch: watch, what: .cancel))
  }

  /// Whether a watcher that cannot send now may keep its block.
  package var hasRoomForBlocks: Bool { retained.value <= limits.retainedBytesMax }

  package func countSent(_ events: Int) { sent.add(UInt64(events), ordering: .relaxed) }

  /// A watch ended for that, and its client was told.
  package func countEnded(_ failure: WatchFailure) {
    endedWatches.withLock {
      switch failure {
      case .tooOld: $0.tooOld += 1
      case .foreign: $0.foreign += 1
      case .unreadable: $0.unreadable += 1
      }
    }
  }

  // MARK: Numbers

  package var watchCount: Int { watches.load(ordering: .relaxed) }
  package var eventsSent: UInt64 { sent.load(ordering: .relaxed) }
  /// Watches that this server ended or refused, since the start.
  package var ended: EndedWatches {
    var ended = endedWatches.withLock { $0 }
    ended.tooMany = refusedWatches.load(ordering: .relaxed)
    return ended
  }

  /// Bytes of durable records that the watcher that is furthest behind was not sent yet.
  package var lagBytes: UInt64 {
    let least = ports.withLock { $0.map { $0.sentLSN.load(ordering: .relaxed) }.min() ?? .max }
    let end = log.endLSN
    return least >= end ? 0 : end - least
  }

  // MARK: For the threads

  func failure(_ error: LogCursorError) -> WatchFailure {
    switch error {
    case .trimmed(let oldest): return .tooOld(oldest: oldest)
    case .otherHistory: return .foreign
    case .failed(let error):
      report("a watch ended: \(error)")
      return .unreadable
    }
  }
}

/// What the feed's threads do, one step after the other and on the caller's thread: for who must know what
/// happens when.
package final class FeedSteps {
  private let tail: TailReader
  private let catchUp: CatchUpReader

  /// - Parameter feed: without threads.
  package init(_ feed: ChangeFeed) {
    tail = TailReader(feed)
    catchUp = CatchUpReader(feed)
  }

  /// Takes what was asked of the tail thread, reads a block where somebody waits for it, and tells those whom
  /// it does not concern.
  package func stepTail() {
    _ = tail.step()
    tail.tellWaiting()
  }

  /// Serves the next of those who are behind.
  package func stepCatchUp() { _ = catchUp.step() }
}

/// The tail thread, as the journal's thread sees it.
final class TailClient: JournalClient {
  private let wakeup: Wakeup
  private let isArmed = Atomic<Bool>(false)

  init(_ wakeup: Wakeup) { self.wakeup = wakeup }

  func arm(_ isArmed: Bool) { self.isArmed.store(isArmed, ordering: .sequentiallyConsistent) }

  // Any record will do.
  var awaitedLSN: UInt64 { isArmed.load(ordering: .sequentiallyConsistent) ? .max : 0 }
  var isAppending: Bool { false }

  func wake() {
    // Once; the thread arms again when it has read everything.
    if isArmed.exchange(false, ordering: .sequentiallyConsistent) { wakeup.signal() }
  }
}
