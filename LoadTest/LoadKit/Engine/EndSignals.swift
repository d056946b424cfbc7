// SIGINT, SIGTERM and SIGHUP end a run early: it drains, compares and reports what it has. A second one
// ends the program at once, and a server that it has started with it.
internal import Glibc
internal import LoadReport
internal import Posix
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

  /// Takes the signals over, and has a failed write be an error. Safe to repeat.
  package static func handle() {
    // Makes the atomic now: a handler may not.
    _ = first.load(ordering: .relaxed)
    Signals.makeFailedWritesErrors()
    for number in [SIGINT, SIGTERM, SIGHUP] {
      // nohup(1) has it ignored.
      if number == SIGHUP, isIgnored(number) { continue }
      _ = signal(number) { number in
        // Only what signal-safety(7) allows.
        let isFirst = EndSignals.first.compareExchange(
          expected: 0, desired: number, ordering: .acquiringAndReleasing
        ).exchanged
        if isFirst { return }
        AlternateScreen.leave()
        ChildProcess.killLastGroup()
        _exit(128 + number)
      }
    }
  }

  private static func isIgnored(_ number: Int32) -> Bool {
    var action = sigaction()
    _ = unsafe sigaction(number, nil, &action)
    // No closure can be compared; SIG_IGN is the address 1 (signal(2)).
    let handler = unsafe unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self)
    return handler == 1
  }
}
