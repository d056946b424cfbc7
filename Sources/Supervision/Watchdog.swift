// How long a part of the server may be silent before the service manager is.
internal import Posix

/// A thread that comes round again and again, also while it has nothing to do.
package struct Watched: Sendable {
  /// As an operator knows it: `loop-0`, `journal`.
  package let name: String
  /// When it came round last, in monotonic nanoseconds. Must not wait for anything.
  package let lastRound: @Sendable () -> Int64

  package init(_ name: String, lastRound: @escaping @Sendable () -> Int64) {
    self.name = name
    self.lastRound = lastRound
  }
}

/// What WATCHDOG_USEC asks for.
struct Watchdog: Sendable, Equatable {
  /// Threads of the server come round once a second and more often, unless they hang or work.
  private static let patienceNanosecondsMin: Int64 = 2_000_000_000

  /// How long something may be silent.
  let patienceNanoseconds: Int64
  /// Between two looks.
  let pauseNanoseconds: Int64

  /// nil where no watchdog is asked for, or of another process.
  /// - Parameters:
  ///   - microseconds: the process is ended after so long without a word.
  ///   - processID: who was meant; nil: this one.
  init?(microseconds: String?, processID: String?) {
    guard let microseconds, let value = Int64(microseconds), value > 0, value <= .max / 1000
    else { return nil }
    if let processID, Int32(processID) != Machine.processID { return nil }
    patienceNanoseconds = max(value * 1000 / 2, Self.patienceNanosecondsMin)
    // Four words in the time in which one is asked for.
    pauseNanoseconds = max(value * 1000 / 4, 1_000_000)
  }

  func hangs(_ watched: Watched, now: Int64) -> Bool {
    now - watched.lastRound() > patienceNanoseconds
  }
}
