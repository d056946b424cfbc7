internal import Log
internal import Posix
internal import StockStore

/// Serves those who are at the end of the log. Confined to its thread.
final class TailReader {
  /// Blocks that are kept for who comes a little late.
  private static let recentMax = 4
  /// Before it reads again: many groups make one block, and one wake-up. Under load a block is made of more of
  /// them, unless one of full length has left some.
  private static let restNanoseconds: Int64 = 2_000_000
  private static let restNanosecondsUnderLoad: Int64 = 10_000_000
  /// Of records in a block: more than a few decisions come to.
  private static let bytesUnderLoad: UInt64 = 4 << 10
  /// How often a watch is told how far it is, of which nothing concerns it: more often than its heartbeats.
  private static let tellNanoseconds: Int64 = 100_000_000

  private struct Waiter {
    let request: ChangeFeed.Request
    let filter: EventFilter
    /// Behind it there may be something for the watch: not before the reader's.
    var point: LogPoint
    /// Up to where the watch knows that there is nothing.
    var told: UInt64
  }

  private struct WatchID: Hashable {
    let port: ObjectIdentifier
    let watch: UInt64

    init(_ request: ChangeFeed.Request) {
      port = ObjectIdentifier(request.port)
      watch = request.watch
    }
  }

  private let feed: ChangeFeed
  private let encoder: EventEncoder
  /// Of all watches; what they want is what becomes an event.
  private var filters: [WatchID: EventFilter] = [:]
  /// Behind what was read last, and from where it goes on; nil while nobody waits.
  private var point: LogPoint?
  private var cursor: (any LogCursor)?
  private var recent: [EventBlock] = []
  /// Who waits for what concerns it.
  private var waiting: [Waiter] = []
  /// Who begins once everything up to the number was read.
  private var starting: [(request: ChangeFeed.Request, lsn: UInt64)] = []
  /// When the waiting were told last, in monotonic nanoseconds.
  private var toldNanoseconds: Int64 = 0
  /// Since when nobody watches, in monotonic nanoseconds; nil while somebody does, or where it does not matter.
  private var unwatchedSince: Int64?

  init(_ feed: ChangeFeed) {
    self.feed = feed
    encoder = EventEncoder(feed.store, feed.retained)
    encoder.interest = Interest()
  }

  /// What a step has come to.
  enum Standing {
    case nobodyWaits
    /// A block, of so many bytes of records.
    case hasRead(bytes: UInt64)
    /// Nothing more is durable.
    case hasReadAll
  }

  func run() {
    while !feed.isStopping {
      switch step() {
      case .nobodyWaits: feed.tail.wakeup.wait(nanoseconds: idleNanoseconds())
      case .hasRead(let bytes):
        _ = tellHowFar()
        let isUnderLoad = bytes > Self.bytesUnderLoad && bytes < feed.limits.blockBytes
        // Not on the requests, which come as soon as a block was sent.
        feed.rest.wait(
          nanoseconds: isUnderLoad ? Self.restNanosecondsUnderLoad : Self.restNanoseconds)
      case .hasReadAll:
        let nanoseconds = tellHowFar()
        feed.client.arm(true)
        // Something may have become durable before it was armed.
        if feed.log.endLSN == point?.lsn { feed.tail.wakeup.wait(nanoseconds: nanoseconds) }
        feed.client.arm(false)
      }
    }
  }

  func step() -> Standing {
    for request in feed.tail.take() { take(request) }
    if waiting.isEmpty && starting.isEmpty {
      // The next to come says where to go on.
      (point, cursor, recent) = (nil, nil, [])
      return .nobodyWaits
    }
    return read().map { .hasRead(bytes: $0) } ?? .hasReadAll
  }

  // MARK: What is kept only for those who watch

  private func keepDecisions() {
    unwatchedSince = nil
    feed.store.keepDecisions()
  }

  /// How long to sleep where nobody waits: what is kept is given up when nobody has watched for some time.
  private func idleNanoseconds() -> Int64 {
    guard let keepNanoseconds = feed.keepNanoseconds, feed.watchCount == 0 else {
      unwatchedSince = nil
      return .max
    }
    let now = SystemClock.monotonicNanoseconds()
    let since = unwatchedSince ?? now
    unwatchedSince = since
    if now - since < keepNanoseconds { return keepNanoseconds - (now - since) }
    feed.store.forgetDecisions()
    return .max
  }

  // MARK: Requests

  private func take(_ request: ChangeFeed.Request) {
    switch request.what {
    case .start(let start, let filter):
      if case .foreign = start {} else { keepDecisions() }
      filters[WatchID(request)] = filter
      // What was read before has no event that nobody wanted.
      if encoder.interest.add(filter) { recent = [] }
      if case .now = start { begin(request) } else { feed.catchUp.post(request) }
    case .next(let point, let filter): take(request, behind: point, filter)
    case .cancel:
      if let filter = filters.removeValue(forKey: WatchID(request)) {
        encoder.interest.remove(filter)
      }
      waiting.removeAll { WatchID($0.request) == WatchID(request) }
      starting.removeAll { WatchID($0.request) == WatchID(request) }
      feed.catchUp.post(request)
    }
  }

  private func begin(_ request: ChangeFeed.Request) {
    do throws(LogCursorError) {
      let end = try feed.log.endPoint()
      if end.lsn <= point?.lsn ?? end.lsn {
        return request.port.deliver(.begun(point ?? end), to: request.watch)
      }
      starting.append((request, end.lsn))
    } catch {
      request.port.deliver(.failed(feed.failure(error)), to: request.watch)
    }
  }

  private func take(
    _ request: ChangeFeed.Request, behind wanted: LogPoint, _ filter: EventFilter
  ) {
    let takesAny = feed.store.core.fault == .watchNewestBlock
    var waiter = Waiter(request: request, filter: filter, point: wanted, told: wanted.lsn)
    while let block = recent.first(where: {
      (takesAny || $0.start <= waiter.point.lsn) && waiter.point.lsn < $0.end.lsn
    }) {
      if block.mayConcern(filter) {
        return request.port.deliver(.block(block), to: request.watch)
      }
      waiter.point = block.end
    }
    if let point {
      if waiter.point.lsn < point.lsn { return feed.catchUp.post(request) }
      return waiting.append(waiter)
    }
    // Nobody else waits: it goes on there, unless that is old.
    let end = feed.log.endLSN
    if end > wanted.lsn, end - wanted.lsn > UInt64(feed.limits.blockBytes) {
      return feed.catchUp.post(request)
    }
    do throws(LogCursorError) {
      cursor = try feed.log.cursor(from: wanted)
      point = wanted
      waiting.append(waiter)
    } catch {
      request.port.deliver(.failed(feed.failure(error)), to: request.watch)
    }
  }

  // MARK: Reading

  /// Reads a block for all who wait: of how many bytes of records; nil where nothing more is durable.
  private func read() -> UInt64? {
    guard let point, let cursor else { return nil }
    do throws(LogCursorError) {
      let block = try encoder.block(behind: point, cursor, bytesMax: feed.limits.blockBytes)
      guard let block else { return nil }
      self.point = block.end
      recent.append(block)
      if recent.count > Self.recentMax { recent.removeFirst() }
      deliver(block)
      for starter in starting where starter.lsn <= block.end.lsn {
        starter.request.port.deliver(.begun(block.end), to: starter.request.watch)
      }
      starting.removeAll { $0.lsn <= block.end.lsn }
      return block.end.lsn - point.lsn
    } catch {
      // It has fallen behind what is kept, or the log cannot be read. That need not be so where the others
      // are: each is told by itself.
      let (waiting, starting) = (self.waiting, self.starting)
      (self.waiting, self.starting, self.point, self.cursor, recent) = ([], [], nil, nil, [])
      for waiter in waiting {
        feed.catchUp.post(
          ChangeFeed.Request(
            port: waiter.request.port, watch: waiter.request.watch,
            what: .next(waiter.point, waiter.filter)))
      }
      for starter in starting { begin(starter.request) }
      return nil
    }
  }

  private func deliver(_ block: EventBlock) {
    for index in waiting.indices where waiting[index].point.lsn < block.end.lsn {
      if block.mayConcern(waiting[index].filter) {
        waiting[index].request.port.deliver(.block(block), to: waiting[index].request.watch)
      } else {
        waiting[index].point = block.end
      }
    }
    // Who has got it waits no more.
    waiting.removeAll { $0.point.lsn < block.end.lsn }
  }

  /// Tells those who go on waiting up to where there is nothing for them, now and then: in how many nanoseconds
  /// that is due again.
  private func tellHowFar() -> Int64 {
    guard waiting.contains(where: { $0.told < $0.point.lsn }) else { return .max }
    let now = SystemClock.monotonicNanoseconds()
    let due = toldNanoseconds + Self.tellNanoseconds - now
    if due > 0 { return due }
    toldNanoseconds = now
    tellWaiting()
    return .max
  }

  func tellWaiting() {
    for index in waiting.indices where waiting[index].told < waiting[index].point.lsn {
      let waiter = waiting[index]
      waiting[index].told = waiter.point.lsn
      waiter.request.port.deliver(.passed(waiter.point), to: waiter.request.watch)
    }
  }
}
