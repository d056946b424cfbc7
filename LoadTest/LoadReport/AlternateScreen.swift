// The terminal's other screen (xterm's ?1049), as full-screen programs use it: what was there comes back
// when it is left. It is left by `leave`, by SIGTSTP until SIGCONT, and by what kills the program, a
// broken precondition included; SIGKILL alone leaves a terminal that reset(1) has to repair.
internal import Glibc
internal import Synchronization

package enum AlternateScreen {
  private static let entered = Atomic<Bool>(false)
  /// The picture is gone or has another size: the next one is not to wait.
  private static let redraw = Atomic<Bool>(false)
  /// The handlers are there, and what the terminal was like is known.
  nonisolated(unsafe) private static var settings = termios()
  nonisolated(unsafe) private static var isPrepared = false

  /// The other screen, no cursor; and back.
  private static let enterSequence: StaticString = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[2J"
  private static let leaveSequence: StaticString = "\u{1b}[?25h\u{1b}[?1049l"

  static var isEntered: Bool { entered.load(ordering: .acquiring) }
  static var wantsRedraw: Bool { redraw.load(ordering: .acquiring) }

  /// The program may write on the terminal: it is not in the background of a shell.
  static var isInForeground: Bool {
    let group = tcgetpgrp(2)
    return group < 0 || group == getpgrp()
  }

  /// Goes to the other screen, unless it is there. False where the terminal is not the program's now.
  ///
  /// To be called by one thread alone.
  static func enter() -> Bool {
    guard isInForeground else { return false }
    redraw.store(false, ordering: .releasing)
    if isEntered { return true }
    prepare()
    show()
    return true
  }

  /// Goes back, unless it has. Safe within a handler of signals.
  package static func leave() {
    guard entered.exchange(false, ordering: .acquiringAndReleasing) else { return }
    write(leaveSequence)
    // From the background it would stop the program (SIGTTOU).
    guard isInForeground else { return }
    // What was typed meanwhile was for nobody; the settings were read before the first `show`.
    _ = tcflush(2, TCIFLUSH)
    var settings = unsafe settings
    _ = unsafe tcsetattr(2, TCSANOW, &settings)
  }

  /// All of the screen, from its first row on.
  static func drawing(_ rows: [String]) -> String {
    "\u{1b}[H" + rows.map { $0 + "\u{1b}[K" }.joined(separator: "\r\n") + "\u{1b}[J"
  }

  private static func show() {
    write(enterSequence)
    // What is typed does not show; control-C and control-Z do what they always do.
    var quiet = unsafe settings
    quiet.c_lflag &= ~tcflag_t(ECHO | ICANON)
    _ = unsafe tcsetattr(2, TCSANOW, &quiet)
    entered.store(true, ordering: .releasing)
  }

  private static func write(_ text: StaticString) {
    // The text is a part of the program.
    _ = unsafe Glibc.write(2, text.utf8Start, text.utf8CodeUnitCount)
  }

  // MARK: Signals

  private static func prepare() {
    guard unsafe !isPrepared else { return }
    unsafe isPrepared = true
    _ = unsafe tcgetattr(2, &settings)
    // Makes the atomics now: a handler may not.
    _ = entered.load(ordering: .relaxed)
    redraw.store(false, ordering: .relaxed)
    _ = signal(SIGWINCH) { _ in AlternateScreen.redraw.store(true, ordering: .releasing) }
    _ = signal(SIGTSTP) { _ in AlternateScreen.stop() }
    _ = signal(SIGCONT) { _ in AlternateScreen.redraw.store(true, ordering: .releasing) }
    // What the program dies of: the terminal first, then the death that it would have died.
    for number in [SIGILL, SIGTRAP, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGQUIT] {
      _ = signal(number) { number in
        AlternateScreen.leave()
        _ = signal(number, SIG_DFL)
        _ = raise(number)
      }
    }
  }

  /// Control-Z: the shell gets the terminal as it was. The next picture goes to the other screen again,
  /// once the program has the terminal back.
  private static func stop() {
    let saved = errno
    leave()
    _ = raise(SIGSTOP)
    redraw.store(true, ordering: .releasing)
    errno = saved
  }
}
