package import Posix
internal import Synchronization

/// A clock that a simulation moves.
package final class SimulatedClock: Clock {
  private let time: Atomic<Int64>

  /// - Parameter time: nanoseconds since the Unix epoch.
  package init(_ time: Int64) { self.time = Atomic(time) }

  package func now() -> Timestamp { Timestamp(nanoseconds: time.load(ordering: .relaxed)) }

  /// Moves time forward.
  package func advance(byNanoseconds duration: Int64) {
    _ = time.wrappingAdd(max(0, duration), ordering: .relaxed)
  }
}
