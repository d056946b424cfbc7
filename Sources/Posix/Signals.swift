internal import Glibc
internal import Synchronization

/// What the process does with signals besides ending.
package enum Signals {
  /// The eventfd that the handler of SIGHUP writes to; -1 until there is one.
  private static let hangups = Atomic<Int32>(-1)

  /// From now on a write to a pipe that has lost its reader (EPIPE), and one beyond the limit of a file's
  /// size (EFBIG, setrlimit(2)), is an error of that write. By default each of them kills the process.
  package static func makeFailedWritesErrors() {
    _ = signal(SIGPIPE, SIG_IGN)
    _ = signal(SIGXFSZ, SIG_IGN)
  }

  /// SIGINT or SIGTERM has come since `rememberInterruption`.
  package static var isInterrupted: Bool { interrupted.load(ordering: .relaxed) }
  private static let interrupted = Atomic<Bool>(false)

  /// From now on the first SIGINT or SIGTERM ends nothing: it is remembered. The next one ends the process.
  package static func rememberInterruption() {
    for number in [SIGINT, SIGTERM] {
      _ = signal(number) { number in
        Signals.interrupted.store(true, ordering: .relaxed)
        _ = signal(number, SIG_DFL)
      }
    }
  }

  /// Calls `body` for every SIGHUP from now on, on a thread of its own. Signals that come while it runs
  /// are one. To be called once.
  package static func onHangup(_ body: @escaping @Sendable () -> Void) throws(Errno) {
    let wakeup = try Wakeup()
    _ = try Thread(name: "hangup") {
      while true {
        if wakeup.wait(nanoseconds: .max) { body() }
      }
    }
    // The thread keeps the descriptor open for good.
    hangups.store(wakeup.number, ordering: .releasing)
    _ = signal(SIGHUP) { _ in
      // Only what signal-safety(7) allows.
      let saved = errno
      var one: UInt64 = 1
      _ = unsafe write(Signals.hangups.load(ordering: .acquiring), &one, 8)
      errno = saved
    }
  }
}
