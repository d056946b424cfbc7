internal import Log
internal import Posix
internal import StockStore

/// Serves those who are at the end of the log. Confined to its thread.
final class TailReader {
  /// Blocks that are kept for who comes a little late.
  private static let recentMax = 4
  /// Before it reads again: many groups make one block, and one wake-up.
  private static let restNanoseconds: Int64 = 2_000_000

  private let feed: ChangeFeed
  private let encoder: EventEncoder
  /// Behind what was read last, and from where it goes on; nil while nobody waits.
  private var point: LogPoint?
  private var cursor: (any LogCursor)?
  private var recent: [EventBlock] = []
  /// Who waits for what is behind its point, which is not before `point`.
  private var waiting: [(request: ChangeFeed.Request, point: LogPoint)] = []
  /// Who begins once everything up to the number was read.
  private var starting: [(request: ChangeFeed.Request, lsn: UInt64)] = []
  /// Since when nobody watches, in monotonic nanoseconds; nil while somebody does, or where it does not matter.
  private var unwatchedSince: Int64?

  init(_ feed: ChangeFeed) {
    self.feed = feed
    encoder = EventEncoder(feed.store, feed.retained)
  }

  func run() {
    while !feed.isStopping {
      for request in feed.tail.take() { take(request) }
      if waiting.isEmpty && starting.isEmpty {
        // The next to come says where to go on.
        (point, cursor, recent) = (nil, nil, [])
        feed.tail.wakeup.wait(nanoseconds: idleNanoseconds())
      } else if read() {
        feed.tail.wakeup.wait(nanoseconds: Self.restNanoseconds)
      } else {
        feed.client.arm(true)
        // Something may have become durable before it was armed.
        if feed.log.endLSN == point?.lsn { feed.tail.wakeup.wait(nanoseconds: .max) }
        feed.client.arm(false)
      }
    }
  }

  private func take(_ request: ChangeFeed.Request) {
    switch request.what {
    case .start(let start):
      if case .foreign = start {} else { keepDecisions() }
      if case .now = start { begin(request) } else { feed.catchUp.post(request) }
    case .next(let point): take(request, behind: point)
    case .cancel:
      waiting.removeAll { $0.request.port === request.port && $0.request.watch == request.watch }
      starting.removeAll { $0.request.port === request.port && $0.request.watch == request.watch }
      feed.catchUp.post(request)
    }
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

  private func take(_ request: ChangeFeed.Request, behind wanted: LogPoint) {
    if let block = recent.first(where: { $0.start <= wanted.lsn && wanted.lsn < $0.end.lsn }) {
      return request.port.deliver(.block(block), to: request.watch)
    }
    if let point {
      if wanted.lsn < point.lsn { return feed.catchUp.post(request) }
      return waiting.append((request, wanted))
    }
    // Nobody else waits: it goes on there, unless that is old.
    let end = feed.log.endLSN
    if end > wanted.lsn, end - wanted.lsn > UInt64(feed.limits.blockBytes) {
      return feed.catchUp.post(request)
    }
    do throws(LogCursorError) {
      cursor = try feed.log.cursor(from: wanted)
      point = wanted
      waiting.append((request, wanted))
    } catch {
      request.port.deliver(.failed(feed.failure(error)), to: request.watch)
    }
  }

  /// Reads a block for all who wait; false where nothing more is durable.
  private func read() -> Bool {
    guard let point, let cursor else { return false }
    do throws(LogCursorError) {
      let block = try encoder.block(behind: point, cursor, bytesMax: feed.limits.blockBytes)
      guard let block else { return false }
      self.point = block.end
      recent.append(block)
      if recent.count > Self.recentMax { recent.removeFirst() }
      for waiter in waiting where waiter.point.lsn < block.end.lsn {
        waiter.request.port.deliver(.block(block), to: waiter.request.watch)
      }
      waiting.removeAll { $0.point.lsn < block.end.lsn }
      for starter in starting where starter.lsn <= block.end.lsn {
        starter.request.port.deliver(.begun(block.end), to: starter.request.watch)
      }
      starting.removeAll { $0.lsn <= block.end.lsn }
      return true
    } catch {
      let failure = feed.failure(error)
      for request in waiting.map(\.request) + starting.map(\.request) {
        request.port.deliver(.failed(failure), to: request.watch)
      }
      waiting.removeAll()
      starting.removeAll()
      return false
    }
  }
}
