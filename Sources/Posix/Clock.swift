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

/// The monotonic clock, anchored to the wall clock once, at start: a wall clock that is set
/// afterwards neither ends nor prolongs a hold.
package final class SystemClock: Clock {
  private let offset: Int64

  /// - Parameter notBefore: the last time an earlier run has seen; the clock starts no earlier.
  package init(notBefore: Timestamp = Timestamp(nanoseconds: 0)) {
    let wall = SystemClock.read(CLOCK_REALTIME)
    offset = max(wall, notBefore.nanoseconds) - SystemClock.read(CLOCK_MONOTONIC)
  }

  package func now() -> Timestamp {
    Timestamp(nanoseconds: SystemClock.read(CLOCK_MONOTONIC) + offset)
  }

  /// CLOCK_MONOTONIC in nanoseconds, for measuring durations.
  package static func monotonicNanoseconds() -> Int64 { read(CLOCK_MONOTONIC) }

  private static func read(_ id: clockid_t) -> Int64 {
    var time = timespec()
    _ = unsafe clock_gettime(id, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
  }
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
