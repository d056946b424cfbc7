internal import Posix
internal import StockStore
internal import Synchronization

/// A filled store and the loops that are timed. Each answers nanoseconds of the thread's
/// CPU time per command, which other programs on the machine disturb less than the clock on the wall.
final class Bench {
  static let fillTTL: Int64 = 3600 * 1_000_000_000
  static let commandsPerTurn = 16
  private static let soldOut = Array("sold-out-000".utf8)

  private let store: StockStore
  private let items: Int
  private let worker: Worker

  /// - Parameter retentionNanoseconds: by default ended decisions go at once, so that every round finds the store as
  ///   it was.
  init(
    items: Int, clock: any Posix.Clock = SystemClock(),
    concurrency: ConcurrencyControl = .optimistic, retentionNanoseconds: Int64 = 1
  ) {
    var limits = Self.limits(items: items)
    limits.retentionNanoseconds = retentionNanoseconds
    store = StockStore(limits: limits, clock: clock, concurrency: concurrency)
    self.items = items
    worker = Worker(store.makeSession(), seed: 1)
  }

  static func limits(items: Int) -> StoreLimits {
    StoreLimits(
      linesPerReservation: 64, quantityMax: 1 << 40, ttlNanosecondsMin: 1,
      ttlNanosecondsDefault: 1, holdNanosecondsMax: 86_400_000_000_000,
      retentionNanoseconds: 1, itemsMax: items + 1, reservationsMax: 16_000_000)
  }

  /// Makes the items, each with plenty of stock, one more that is sold out, and the live holds.
  func fill(liveHolds: Int) {
    for item in 0..<items {
      if item % Self.commandsPerTurn == 0 { worker.nextTurn() }
      worker.makeStock(Picks.name(item), 1 << 40)
    }
    worker.makeStock(Self.soldOut, 0)
    addHolds(Picks(.uniform, items: items, count: liveHolds))
  }

  func addHolds(_ picks: Picks) {
    worker.reserve(picks, ttlNanoseconds: Self.fillTTL)
    worker.forgetHolds()
  }

  /// One empty turn.
  func turn() { worker.nextTurn() }

  var hasBacklog: Bool { worker.hasBacklog }

  func timeTurns() { worker.timeTurns() }

  /// CPU time of the longest since `timeTurns`, in microseconds, and of the hundredth longest: a machine that
  /// is not quiet lengthens a few, and what the store does again and again shows in many.
  var longestTurns: String {
    "\(worker.turn(longest: 1) / 1000) us the longest turn, \(worker.turn(longest: 100) / 1000) us the 100th"
  }

  func reserve(_ picks: Picks, lines: Int = 1, isLimited: Bool = false) -> Double {
    time(picks.count / lines) { worker.reserve(picks, lines: lines, isLimited: isLimited) }
  }

  func releaseAll() -> Double {
    time(worker.holdCount) { worker.endHolds { session, id in session.release(id).isAccepted } }
  }

  func confirmAll() -> Double {
    time(worker.holdCount) {
      worker.endHolds { session, id in
        session.confirm(id, reacquireIfExpired: false).isAccepted
      }
    }
  }

  func replaceAll(_ picks: Picks) -> Double {
    time(worker.holdCount) { worker.replaceHolds(picks) }
  }

  /// A release and a reserve for each hold.
  func swapAll(_ picks: Picks) -> Double { time(worker.holdCount) { worker.swapHolds(picks) } }

  func reserveSoldOut(count: Int) -> Double {
    let picks = Picks(name: Self.soldOut, count: count)
    return time(count) { worker.reserve(picks, expectAccepted: false) }
  }

  /// The holds of a reserve loop asked for again; only the second loop is timed.
  func replay(_ picks: Picks) -> Double {
    let keys = worker.keys
    worker.reserve(picks)
    worker.forgetHolds()
    worker.keys = keys
    // The answers name the same holds: they can be ended afterwards.
    return time(picks.count) { worker.reserve(picks) }
  }

  func read(_ picks: Picks) -> Double { time(picks.count) { worker.read(picks) } }

  /// Two sessions on threads of their own; CPU time of the slower one.
  func reserveOnTwoThreads(_ picks: Picks, lines: Int = 1) throws -> Double {
    let starting = Atomic<Int>(0)
    let slowest = Atomic<Int64>(0)
    let store = store
    let threads = try (0..<2).map { (number: Int) throws in
      let seed = worker.keys.next()
      return try Thread(name: "bench-\(number)") {
        let worker = Worker(store.makeSession(), seed: seed)
        starting.wrappingAdd(1, ordering: .acquiringAndReleasing)
        while starting.load(ordering: .acquiring) < 2 {}
        let start = Machine.threadCPUNanoseconds()
        worker.reserve(picks, lines: lines)
        let elapsed = Machine.threadCPUNanoseconds() - start
        slowest.max(elapsed, ordering: .acquiringAndReleasing)
        worker.endHolds { session, id in session.release(id).isAccepted }
      }
    }
    for thread in threads { thread.join() }
    return Double(slowest.load(ordering: .acquiring)) / Double(picks.count / lines)
  }

  private func time(_ count: Int, _ body: () -> Void) -> Double {
    let start = Machine.threadCPUNanoseconds()
    body()
    let elapsed = Machine.threadCPUNanoseconds() - start
    return Double(elapsed) / Double(max(1, count))
  }

  /// Bytes of an item, and of a live hold with its key and timer.
  var bytes: (item: Double, hold: Double) {
    let statistics = store.statistics()
    let item = Double(statistics.itemBytes + statistics.itemIndexBytes) / Double(statistics.items)
    let hold =
      Double(statistics.reservationBytes + statistics.keyTableBytes + statistics.timerBytes)
      / Double(statistics.liveHolds)
    return (item, hold)
  }

  func printMemory() {
    print("bytes per item \(Int(bytes.item.rounded(.up))) (target 134)")
    print("bytes per live hold \(Int(bytes.hold.rounded(.up))) (target 160)")
  }

  func printStatistics() {
    let statistics = store.statistics()
    print(
      "conflicts: \(statistics.conflictsVersionChanged) changed, \(statistics.conflictsLocked) "
        + "locked; commits by attempts: \(statistics.commitsByAttempts)")
    print(
      "waits \(statistics.waits), fenced \(statistics.fenced), combined \(statistics.combined)")
    print(
      "too busy \(statistics.tooBusy), invariant violations \(statistics.invariantViolations), "
        + "audit: \(store.audit())")
  }
}

extension Decision {
  var isAccepted: Bool { if case .accepted = result { true } else { false } }
}
