// Programs that this one starts, and does not leave behind.
internal import CPlatform
internal import Glibc

/// A program that runs in a process group of its own. When the value goes, so does the whole group.
package struct ChildProcess: ~Copyable {
  /// How a program ended.
  package enum Ending: Equatable, Sendable, CustomStringConvertible {
    case exited(status: Int32)
    case killed(signal: Int32)

    package var description: String {
      switch self {
      case .exited(let status): "it ended with status \(status)"
      case .killed(let signal): "signal \(signal) ended it"
      }
    }
  }

  /// The process id, and the group's.
  package let identifier: Int32
  private var hasEnded = false

  /// Starts the program `arguments[0]`, which is looked for in PATH where it has no slash. Standard
  /// input is empty; both outputs are appended to the file at `log`, which is made for its owner alone.
  ///
  /// - Throws: why there is no such program, or no process for it.
  package init(_ arguments: [String], log: String) throws(Errno) {
    let output = FileDescriptor(
      owning: try retrying {
        unsafe hf_open_at(AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND)
      })
    // Copies, since execvp wants them mutable; they end with a null pointer.
    var copies: [UnsafeMutablePointer<CChar>?] = unsafe arguments.map { unsafe strdup($0) }
    unsafe copies.append(nil)
    defer { for index in unsafe copies.indices { unsafe free(copies[index]) } }
    identifier = try retrying { unsafe hf_spawn(copies, output.number) }
  }

  deinit { if !hasEnded { killGroupAndReap(identifier) } }

  /// Kills the program that was started last and its whole group, if they run: for a signal handler that
  /// is about to end this process. The kernel kills the program alone, not what it has started.
  package static func killLastGroup() { hf_kill_last_group() }

  /// How it ended, or nil while it runs. Nothing of its group runs afterwards.
  package mutating func poll() -> Ending? {
    if hasEnded { return nil }
    var information = unsafe siginfo_t()
    // WNOWAIT: the process id stays taken until the group is gone too.
    let options = WEXITED | WNOHANG | WNOWAIT
    _ = unsafe waitid(P_PID, id_t(identifier), &information, options)
    guard unsafe information.si_signo == SIGCHLD else { return nil }
    hasEnded = true
    return killGroupAndReap(identifier)
  }

  /// Asks it to end (SIGTERM, to the program alone), and kills its group after `patience`.
  ///
  /// - Returns: how it ended.
  package mutating func stop(patienceNanoseconds: Int64) -> Ending {
    _ = kill(identifier, SIGTERM)
    let deadline = SystemClock.monotonicNanoseconds().addingReportingOverflow(patienceNanoseconds)
    while deadline.overflow || SystemClock.monotonicNanoseconds() < deadline.partialValue {
      if let ending = poll() { return ending }
      _ = usleep(2_000)
    }
    hasEnded = true
    return killGroupAndReap(identifier)
  }
}

/// Kills whatever is left of the group, and takes down how its leader ended.
@discardableResult
private func killGroupAndReap(_ identifier: Int32) -> ChildProcess.Ending {
  hf_kill_group(identifier)
  var status: Int32 = 0
  _ = try? retrying { unsafe waitpid(identifier, &status, 0) }
  // wait(2): the low seven bits are the signal, the next byte is the status.
  let signal = status & 0x7f
  return signal == 0 ? .exited(status: status >> 8 & 0xff) : .killed(signal: signal)
}
