// Follows the change feed beside a run, on a thread and a connection of its own, and has every event checked
// as it comes. Where the stream breaks it goes on from the last token, as any consumer would.
internal import LoadHistory
internal import Posix
internal import Synchronization

/// Made, begun and ended by main. The check is the thread's until that was joined.
final class FeedWatcher: @unchecked Sendable {
  private static let beginNanoseconds: Int64 = 5_000_000_000
  /// Between two connections that failed; doubles up to the longest.
  private static let pauseShortest = 50
  private static let pauseLongest = 1_000
  /// Once the run is over: without anything new for so long, nothing more comes.
  private static let patienceNanoseconds: Int64 = 10_000_000_000

  /// How far it has come, for main.
  private struct Progress {
    var hasBegun = false
    var hasSeenMark = false
    /// When an event, or the first token, came last.
    var movedNanoseconds: Int64 = 0
    /// Why it goes no further.
    var failure: String?
    /// Why the last connection broke.
    var broken: String?
    var connections = 0
  }

  private let target: Endpoint
  private let check: FeedCheck
  private let mark: UInt64
  private let progress: Mutex<Progress>
  private let isStopping = Atomic<Bool>(false)
  private var thread: Thread?
  /// The thread's: where the next connection goes on, and whether nothing can be made of what came.
  private var start: FeedStart
  private var isLost = false

  /// - Parameters:
  ///   - workers: how many ledgers the run has.
  ///   - mark: tells the decision that ends this watch from those that ended others.
  init(
    _ target: Endpoint, run: RunID, stock: [Int64], safetyStock: Int64, keepsCommitted: Bool,
    workers: Int, from start: FeedStart, mark: UInt64
  ) {
    self.target = target
    self.mark = mark
    self.start = start
    let now = SystemClock.monotonicNanoseconds()
    check = FeedCheck(
      run: run, stock: stock, safetyStock: safetyStock, keepsCommitted: keepsCommitted,
      workers: workers, beganNanoseconds: now)
    progress = Mutex(Progress(movedNanoseconds: now))
  }

  // MARK: Main's part

  /// Begins, and waits until the server has said where: nothing that is decided from then on is missed.
  func begin() throws(LoadError) {
    do {
      thread = try Thread(name: "load-watch") { [self] in follow() }
    } catch {
      throw LoadError("cannot start a thread: \(error)")
    }
    let deadline = SystemClock.monotonicNanoseconds() + Self.beginNanoseconds
    while true {
      let progress = progress.withLock { $0 }
      if progress.hasBegun { return }
      if let failure = progress.failure { throw LoadError("\(target), Watch: \(failure)") }
      if SystemClock.monotonicNanoseconds() > deadline {
        throw LoadError("\(target), Watch: \(progress.broken ?? "no answer")")
      }
      sleep(milliseconds: 1)
    }
  }

  /// Ends it, at any time.
  func stop() {
    isStopping.store(true, ordering: .releasing)
    thread?.join()
    thread = nil
  }

  /// Makes a decision behind all others, waits for it in the feed, ends, and compares with the ledgers.
  /// - Returns: why nothing can be said of what is missing; nil where the feed was read to its end.
  func finish(_ history: borrowing History) -> String? {
    defer { stop() }
    let asked = SystemClock.monotonicNanoseconds()
    do throws(LoadError) {
      var client = try StockClient.connect(to: target)
      try client.mark(
        KeyNames.mark(history.run, number: mark), history.names, safetyStock: history.safetyStock)
    } catch {
      return "its end could not be marked: \(error)"
    }
    var isWhole = true
    while true {
      let progress = progress.withLock { $0 }
      if let failure = progress.failure { return failure }
      if progress.hasSeenMark { break }
      let moved = max(progress.movedNanoseconds, asked)
      if SystemClock.monotonicNanoseconds() - moved > Self.patienceNanoseconds {
        isWhole = false
        break
      }
      sleep(milliseconds: 1)
    }
    stop()
    if !isWhole {
      check.note(
        .feedMissing,
        "it stands still behind number \(check.counts.lastLSN); a later decision was acknowledged "
          + "\(Self.patienceNanoseconds / 1_000_000_000) s ago")
    }
    check.compare(history, endNanoseconds: asked)
    return nil
  }

  /// What was found, once it has ended.
  var violations: [Violation] { check.violations }
  var counts: FeedCounts { check.counts }
  var reconnects: Int { progress.withLock { max(0, $0.connections - 1) } }

  // MARK: The thread's part

  private func follow() {
    var pause = Self.pauseShortest
    var target = target
    while !isLost, !isStopping.load(ordering: .acquiring) {
      let connections = progress.withLock { $0.connections }
      do throws(FeedEnd) {
        var stream = try FeedStream.connect(to: target, from: start)
        while !isLost, !isStopping.load(ordering: .acquiring) {
          try stream.turn { message in take(message, behind: connections) }
        }
      } catch .refused(let reason) {
        return progress.withLock { $0.failure = reason }
      } catch {
        progress.withLock { $0.broken = "\(error)" }
        target = target.next()
      }
      let hasAnswered = progress.withLock { $0.connections > connections }
      if hasAnswered { pause = Self.pauseShortest }
      sleep(milliseconds: pause)
      pause = min(2 * pause, Self.pauseLongest)
    }
  }

  /// - Parameter connections: those that had answered when this one began.
  private func take(_ message: Span<UInt8>, behind connections: Int) {
    if isLost { return }
    let before = check.counts.lastLSN
    let now = SystemClock.monotonicNanoseconds()
    guard let token = check.take(message, at: now), !token.isEmpty else {
      isLost = true
      return progress.withLock { $0.failure = "a message that is none of the API, or has no token" }
    }
    start = .behind(token: token)
    let hasMoved = check.counts.lastLSN > before
    let hasSeenMark = check.hasSeen(mark: mark)
    progress.withLock { progress in
      if hasMoved || !progress.hasBegun { progress.movedNanoseconds = now }
      progress.hasBegun = true
      progress.hasSeenMark = hasSeenMark
      progress.connections = connections + 1
    }
  }
}
