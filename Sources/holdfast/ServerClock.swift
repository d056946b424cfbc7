internal import Log
// The server's time: whether the machine's clock can be believed is asked at the start; what becomes of
// it later is only watched, since the server's own time goes on by itself.
internal import Logging
internal import Metrics
internal import Posix
internal import StockStore
internal import StorePersistence
internal import Synchronization

enum ServerClock {
  /// The clock of a server that starts now.
  /// - Parameter newest: the newest time in its directory; nil where there is none.
  /// - Throws: `unsuitable` where the machine's clock is more likely wrong than right.
  static func start(
    after newest: Timestamp?, _ settings: Settings, _ logger: Logger
  ) throws(JournalError) -> SystemClock {
    let wall = SystemClock.wall()
    let policy = ClockPolicy(
      jumpMax: settings.acceptsClock ? .max : settings.clockJumpMaxNanoseconds)
    let metadata: Logger.Metadata = [
      "clock": "\(CalendarTime(wall.nanoseconds))",
      "newest-record": "\(CalendarTime(newest?.nanoseconds ?? 0))",
    ]
    switch policy.judge(wall: wall, newest: newest) {
    case .plausible: break
    case .behind(let nanoseconds):
      logger.warning(
        """
        the machine's clock is \(seconds(nanoseconds)) s behind the newest record: the server's time \
        begins there and stays ahead, so the end of a hold is told later than other clocks will show it
        """, metadata: metadata)
    case .ahead(let nanoseconds):
      logger.warning(
        """
        the machine's clock is \(seconds(nanoseconds)) s ahead of the newest record: holds that fell due \
        meanwhile end, and decisions past their retention by now are forgotten, so that a retry of one is \
        a new call; if the server was not down for so long, the clock is wrong: set it and start again
        """, metadata: metadata)
    case .tooFarAhead(let nanoseconds):
      throw .unsuitable(
        """
        the machine's clock says \(CalendarTime(wall.nanoseconds)), \(seconds(nanoseconds)) s after the \
        newest record (\(CalendarTime(newest?.nanoseconds ?? 0))): more than --clock-jump-max; set it \
        right, or, if the server was down for so long, start once with --accept-clock: holds that fell \
        due end, and decisions past their retention are forgotten
        """)
    case .outOfRange: throw .unsuitable(outOfRange(wall, newest))
    }
    return newest.map { SystemClock(notBefore: $0) } ?? SystemClock()
  }

  private static func outOfRange(_ wall: Timestamp, _ newest: Timestamp?) -> String {
    let last = CalendarTime(ClockPolicy.range.upperBound)
    if ClockPolicy.range.contains(wall.nanoseconds), let newest {
      return "its newest record is of \(CalendarTime(newest.nanoseconds)): times end at \(last)"
    }
    let said =
      wall.nanoseconds == .max ? "a time after 2262" : "\(CalendarTime(wall.nanoseconds))"
    return "the machine's clock says \(said): set it right; times go from 1970 to \(last)"
  }

  private static func seconds(_ nanoseconds: Int64) -> Int64 { nanoseconds / Limits.second }

  /// The server's time less the wall clock's, in nanoseconds.
  static func offset(of time: Timestamp) -> Int64 {
    let (offset, overflow) = time.nanoseconds.subtractingReportingOverflow(
      SystemClock.wall().nanoseconds)
    // The server's time is in the range, so it is the wall clock that is far below it.
    return overflow ? .max : offset
  }

  static func expose(_ store: StockStore, into page: inout Exposition) {
    page.gauge(
      "holdfast_clock_offset_seconds",
      help: "The server's time, by which holds end, less the wall clock's.",
      value: Double(offset(of: store.time)) / 1e9)
  }
}

/// A thread that watches the wall clock and how long decisions are remembered, and notes the time in the
/// journal of a server without calls.
final class ClockKeeper: Sendable {
  private let store: StockStore
  private let logger: Logger
  private let retention: RetentionWatch
  private let stopping: Wakeup
  private let isStopping = Atomic<Bool>(false)
  private let thread = Mutex<Thread?>(nil)

  init(_ store: StockStore, _ logger: Logger, _ retention: RetentionWatch) throws(Errno) {
    self.store = store
    self.retention = retention
    self.logger = logger
    stopping = try Wakeup()
    let started = try Thread(name: "clock") { [self] in run() }
    thread.withLock { $0 = started }
  }

  func stop() {
    isStopping.store(true, ordering: .releasing)
    stopping.signal()
    let taken = thread.withLock { thread in
      let taken = thread
      thread = nil
      return taken
    }
    taken?.join()
  }

  private func run() {
    var watch = ClockWatch(offset: ServerClock.offset(of: store.time))
    while !isStopping.load(ordering: .acquiring) {
      retention.look(store)
      store.noteTime(afterNanoseconds: Limits.timeNotedNanoseconds)
      let time = store.time
      let offset = ServerClock.offset(of: time)
      if let jump = watch.jump(offset: offset, now: time) {
        logger.warning(
          "the machine's clock was set; the server's time, by which holds end, goes on as it was",
          metadata: [
            "by-seconds": .stringConvertible(Double(jump) / 1e9),
            "clock-offset-seconds": .stringConvertible(Double(offset) / 1e9),
          ])
      }
      stopping.wait(nanoseconds: Limits.clockWatchedNanoseconds)
    }
  }
}
