// Whether decisions are remembered for as long as --retention says: there is room for --max-reservations of
// them, and where more come, the oldest that have ended go early.
internal import Logging
internal import Metrics
internal import Posix
internal import StockStore
internal import Synchronization

final class RetentionWatch: Sendable {
  private struct Sample {
    /// Monotonic nanoseconds.
    var time: Int64
    /// Decisions that took a record, since the start.
    var decisions: UInt64
  }

  private struct State {
    /// Of the last minute, oldest first.
    var samples: [Sample] = []
    var horizonSeconds: Double
    var toldAt: Int64 = .min
  }

  /// Rates are those of so long.
  private static let windowNanoseconds = 60 * Limits.second
  /// Below it the records would do for now.
  private static let shareOfRoom = 0.75

  private let retentionSeconds: Double
  private let reservationsMax: Double
  private let logger: Logger
  private let state: Mutex<State>

  init(_ limits: StoreLimits, _ logger: Logger) {
    retentionSeconds = Double(limits.retentionNanoseconds) / 1e9
    reservationsMax = Double(limits.reservationsMax)
    self.logger = logger
    state = Mutex(State(horizonSeconds: Double(limits.retentionNanoseconds) / 1e9))
  }

  /// Looks how fast decisions come; every second or so. Warns where they will be forgotten early, not again
  /// for a while.
  func look(_ store: StockStore) {
    let numbers = store.statistics()
    let now = Sample(
      time: SystemClock.monotonicNanoseconds(),
      decisions: numbers.reservationsHeld + numbers.reservesRefusedInsufficientStock
        + numbers.reservesRefusedLimitExceeded + numbers.reservesRefusedOther
        + numbers.adjustments)
    let share = Double(numbers.recordedDecisions) / reservationsMax
    let warning: (rate: Double, horizon: Double)? = state.withLock { state in
      state.samples.append(now)
      state.samples.removeAll { $0.time < now.time - Self.windowNanoseconds }
      guard let first = state.samples.first, first.time < now.time else { return nil }
      let rate =
        Double(now.decisions - min(now.decisions, first.decisions))
        / (Double(now.time - first.time) / 1e9)
      state.horizonSeconds = min(retentionSeconds, reservationsMax / max(rate, 1e-9))
      guard state.horizonSeconds < retentionSeconds, share >= Self.shareOfRoom,
        state.toldAt == .min || state.toldAt <= now.time - Limits.retentionToldNanoseconds
      else { return nil }
      state.toldAt = now.time
      return (rate, state.horizonSeconds)
    }
    guard let warning else { return }
    logger.warning(
      """
      decisions come faster than they can be remembered for --retention: a retry that comes later than that is \
      a new call; more --max-reservations make room
      """,
      metadata: [
        "decisions-per-second": .stringConvertible(warning.rate.rounded()),
        "remembered-seconds": .stringConvertible(warning.horizon.rounded()),
        "retention-seconds": .stringConvertible(retentionSeconds),
        "recorded-decisions": .stringConvertible(numbers.recordedDecisions),
        "max-reservations": .stringConvertible(Int(reservationsMax)),
      ])
  }

  func expose(into page: inout Exposition) {
    page.gauge(
      "holdfast_retention_horizon_seconds",
      help:
        "How long decisions are remembered at the rate of the last minute: --retention, or less for lack of room.",
      value: state.withLock { $0.horizonSeconds })
  }
}
