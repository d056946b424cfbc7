// SIGINT and SIGTERM end a run early: it drains, compares and reports what it has. A second one
// ends the program at once.
internal import Glibc
internal import Synchronization

/// The signals that ask the program to end.
package enum EndSignals {
  /// 0 until one came.
  private static let first = Atomic<Int32>(0)

  /// The number of the signal that came first, if one has.
  package static var received: Int32? {
    let number = first.load(ordering: .acquiring)
    return number == 0 ? nil : number
  }

  /// Takes the signals over, and has SIGPIPE ignored: a write to a closed pipe is an error like
  /// others. Safe to repeat.
  package static func handle() {
    // Makes the atomic now: a handler may not.
    _ = first.load(ordering: .relaxed)
    _ = signal(SIGPIPE, SIG_IGN)
    for number in [SIGINT, SIGTERM] {
      _ = signal(number) { number in
        // Only what signal-safety(7) allows.
        let isFirst = EndSignals.first.compareExchange(
          expected: 0, desired: number, ordering: .acquiringAndReleasing
        ).exchanged
        if !isFirst { _exit(128 + number) }
      }
    }
  }
}
