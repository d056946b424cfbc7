internal import Glibc
internal import Synchronization

/// Nanoseconds since the Unix epoch, by the injected clock. Good until the year 2262.
package struct Timestamp: Comparable, Hashable, Sendable {
  package var nanoseconds: Int64

  package init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  /// `duration` nanoseconds later; saturates.
  package func advanced(byNanoseconds duration: Int64) -> Timestamp {
    let (sum, overflow) = nanoseconds.addingReportingOverflow(duration)
    return Timestamp(nanoseconds: overflow ? (duration < 0 ? .min : .max) : sum)
  }

  package static func < (a: Timestamp, b: Timestamp) -> Bool { a.nanoseconds < b.nanoseconds }
}

/// Where time comes from. One clock serves the whole process; it never runs back.
package protocol Clock: AnyObject, Sendable {
  func now() -> Timestamp
}

/// The machine's time since its start, anchored to the wall clock once: a wall clock that is set
/// afterwards neither ends nor prolongs a hold. Time goes on while the machine sleeps.
package final class SystemClock: Clock {
  #if os(Linux)
    private static let steady = CLOCK_BOOTTIME
  #else
    private static let steady = CLOCK_MONOTONIC
  #endif

  private let offset: Int64

  /// - Parameter notBefore: the last time an earlier run has seen; the clock starts no earlier.
  package init(notBefore: Timestamp = Timestamp(nanoseconds: 0)) {
    let start = max(SystemClock.wall().nanoseconds, notBefore.nanoseconds)
    offset = start - SystemClock.read(Self.steady)
  }

  package func now() -> Timestamp {
    Timestamp(nanoseconds: SystemClock.read(Self.steady)).advanced(byNanoseconds: offset)
  }

  /// What the wall clock says now; the first or last Timestamp where it says something else.
  package static func wall() -> Timestamp { Timestamp(nanoseconds: read(CLOCK_REALTIME)) }

  /// CLOCK_MONOTONIC in nanoseconds, for measuring durations: it stands still while the machine sleeps.
  package static func monotonicNanoseconds() -> Int64 { read(CLOCK_MONOTONIC) }

  /// Nanoseconds since the machine's start, while it slept too: for how long ago something was.
  package static func steadyNanoseconds() -> Int64 { read(steady) }

  private static func read(_ id: clockid_t) -> Int64 {
    var time = timespec()
    _ = unsafe clock_gettime(id, &time)
    let (nanoseconds, overflow) = Int64(time.tv_sec).multipliedReportingOverflow(by: 1_000_000_000)
    if overflow { return time.tv_sec < 0 ? .min : .max }
    return Timestamp(nanoseconds: nanoseconds).advanced(byNanoseconds: Int64(time.tv_nsec))
      .nanoseconds
  }
}

/// Whether a server can begin with what the wall clock says.
package struct ClockPolicy: Sendable {
  package enum Finding: Equatable, Sendable {
    case plausible
    /// Behind the newest record by so many nanoseconds: the store's clock begins there.
    case behind(Int64)
    /// Ahead of it by so many: an outage, or the clock is wrong.
    case ahead(Int64)
    /// Ahead of it by more than an outage takes.
    case tooFarAhead(Int64)
    /// No time that can be counted on from.
    case outOfRange
  }

  /// From 1970 until a year before 64 bits of nanoseconds end, in 2262: no process counts for longer.
  package static let range: ClosedRange<Int64> = 0...(.max - 366 * 86_400 * 1_000_000_000)
  /// A wall clock that is kept right goes back by less.
  private static let behindMin: Int64 = 1_000_000_000
  /// A server that runs writes the time every minute: a restart, or the machine's, takes less.
  private static let aheadMin: Int64 = 300 * 1_000_000_000

  /// The longest plausible outage in nanoseconds.
  private let jumpMax: Int64

  package init(jumpMax: Int64) { self.jumpMax = jumpMax }

  /// - Parameter newest: the newest time on record; nil where there is none.
  package func judge(wall: Timestamp, newest: Timestamp?) -> Finding {
    guard Self.range.contains(wall.nanoseconds) else { return .outOfRange }
    guard let newest else { return .plausible }
    guard Self.range.contains(newest.nanoseconds) else { return .outOfRange }
    // Both are in the range, so that no difference overflows.
    let ahead = wall.nanoseconds - newest.nanoseconds
    if ahead > jumpMax { return .tooFarAhead(ahead) }
    if ahead > Self.aheadMin { return .ahead(ahead) }
    return -ahead > Self.behindMin ? .behind(-ahead) : .plausible
  }
}

/// Notices when the wall clock is set while a server runs, whose own time goes on as it was.
package struct ClockWatch {
  /// Less is no jump: a wall clock is kept right by steps below it.
  package static let jumpMin: Int64 = 1_000_000_000
  /// A clock that is set again and again is told of this often.
  package static let quietNanoseconds: Int64 = 60 * 1_000_000_000

  private var reportedOffset: Int64
  private var reportedAt: Int64?

  /// - Parameter offset: the server's time less the wall clock's, in nanoseconds.
  package init(offset: Int64) { reportedOffset = offset }

  /// By how much the wall clock was set since the last report: forward, or, below zero, back; nil where
  /// nothing is to be reported.
  /// - Parameter now: the server's time.
  package mutating func jump(offset: Int64, now: Timestamp) -> Int64? {
    let (jump, overflow) = reportedOffset.subtractingReportingOverflow(offset)
    guard overflow || jump.magnitude >= Self.jumpMin.magnitude else { return nil }
    if let reportedAt, now.nanoseconds - reportedAt < Self.quietNanoseconds { return nil }
    reportedAt = now.nanoseconds
    reportedOffset = offset
    return overflow ? (offset < 0 ? .max : .min) : jump
  }
}

/// A clock that stands still: for looking at a state as it was.
package final class FixedClock: Clock {
  private let time: Timestamp

  package init(_ time: Timestamp) { self.time = time }

  package func now() -> Timestamp { time }
}

/// A clock that tests set. Starts at 2020-01-01 00:00:00 UTC.
package final class ManualClock: Clock {
  private let time = Atomic<Int64>(1_577_836_800_000_000_000)

  package init() {}

  package func now() -> Timestamp { Timestamp(nanoseconds: time.load(ordering: .acquiring)) }

  /// Moves time forward; a negative duration is ignored, since a clock never runs back.
  package func advance(byNanoseconds duration: Int64) {
    _ = time.wrappingAdd(max(0, duration), ordering: .acquiringAndReleasing)
  }
}
