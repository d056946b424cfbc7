// What a service manager hears of this process: that it is ready, that it goes on, that it reads its files again, that
// it ends.
package import Posix
internal import Synchronization

/// The service manager, as systemd is one for a unit with `Type=notify`. Any thread.
///
/// Two things are said again and again, by a thread of its own: in a long start, that it is still on its way
/// (EXTEND_TIMEOUT_USEC), as long as the process works; and once it is ready, that it goes on (WATCHDOG=1), as long as
/// everything that is watched does. Whoever says nothing for too long is ended by the manager and started again.
package final class ServiceManager: Sendable {
  private enum Phase { case starting, ready, stopping }

  private struct State {
    var phase = Phase.starting
    var status = ""
    var watched: [Watched] = []
    /// Those of them that do not go on, and were reported.
    var reported: Set<String> = []
  }

  private let socket: NotifySocket
  private let watchdog: Watchdog?
  private let state = Mutex(State())
  /// Takes what the operator should hear of.
  private let report: @Sendable (String) -> Void

  /// How much longer a start may take from each message on.
  static let extensionNanoseconds: Int64 = 60_000_000_000
  /// How often that is said.
  static let extensionEveryNanoseconds: Int64 = 5_000_000_000
  /// Less CPU time than this since the last message: it waits for something that may never come.
  static let workNanoseconds: Int64 = 5_000_000

  /// Who is to be told; nil where there is nobody.
  /// - Parameters:
  ///   - environment: asks for a variable of the environment.
  ///   - report: takes what the operator should hear of: what cannot be used of the environment, and what hangs.
  package static func find(
    _ environment: (String) -> String?, report: @escaping @Sendable (String) -> Void
  ) -> ServiceManager? {
    let address = environment("NOTIFY_SOCKET")
    do throws(Errno) {
      guard let socket = try NotifySocket(address: address) else { return nil }
      let watchdog = Watchdog(
        microseconds: environment("WATCHDOG_USEC"), processID: environment("WATCHDOG_PID"))
      return ServiceManager(socket, watchdog, report: report)
    } catch {
      report("NOTIFY_SOCKET=\(address ?? ""): \(error); the service manager is told nothing")
      return nil
    }
  }

  init(
    _ socket: NotifySocket, _ watchdog: Watchdog?, report: @escaping @Sendable (String) -> Void
  ) {
    self.socket = socket
    self.watchdog = watchdog
    self.report = report
  }

  // MARK: What happens

  /// One line on how far it is; shown by `systemctl status`.
  package func tell(status: String) {
    let isNew = state.withLock { state in
      defer { state.status = status }
      return state.status != status
    }
    if isNew { socket.send([NotifySocket.line("STATUS", status)]) }
  }

  /// What must go on from now on, in place of what had to; nothing: that is not known.
  package func watch(_ watched: [Watched]) {
    state.withLock { ($0.watched, $0.reported) = (watched, []) }
  }

  /// It does what it was started for.
  package func ready(status: String) {
    let isTold = state.withLock { state in
      if state.phase == .stopping { return false }
      (state.phase, state.status) = (.ready, status)
      return true
    }
    if isTold { socket.send(["READY=1", NotifySocket.line("STATUS", status)]) }
  }

  /// Runs `body`, which reads files again, and tells the manager of its beginning and its end: `systemctl reload` waits
  /// for that. Before it is ready, and on its way down, only runs it.
  package func reloading(_ body: () -> Void) {
    let before = state.withLock { $0.phase == .ready ? $0.status : nil }
    guard let before else { return body() }
    let now = SystemClock.monotonicNanoseconds() / 1000
    socket.send(["RELOADING=1", "MONOTONIC_USEC=\(now)", "STATUS=reading files again"])
    body()
    // READY where the end has begun would take STOPPING back.
    let isReady = state.withLock { $0.phase == .ready }
    if isReady { socket.send(["READY=1", NotifySocket.line("STATUS", before)]) }
  }

  /// It ends.
  /// - Parameter nanoseconds: how long that may take.
  package func stopping(status: String, within nanoseconds: Int64) {
    let isFirst = state.withLock { state in
      defer { (state.phase, state.status) = (.stopping, status) }
      return state.phase != .stopping
    }
    guard isFirst else { return }
    socket.send([
      "STOPPING=1", "EXTEND_TIMEOUT_USEC=\(nanoseconds / 1000)",
      NotifySocket.line("STATUS", status),
    ])
  }

  // MARK: What is said again and again

  /// Says it from now on, until the process ends.
  package func start() throws(Errno) {
    let pause = try Wakeup()
    var lastExtension: (time: Int64, work: Int64) = (.min, 0)
    // The first at once: from then on the start has the time that it needs.
    step(&lastExtension)
    _ = try Thread(name: "supervision") { [self, first = lastExtension] in
      var lastExtension = first
      while true {
        pause.wait(nanoseconds: watchdog?.pauseNanoseconds ?? Self.extensionEveryNanoseconds)
        step(&lastExtension)
      }
    }
  }

  private func step(_ lastExtension: inout (time: Int64, work: Int64)) {
    step(
      now: SystemClock.monotonicNanoseconds(), work: Machine.processCPUNanoseconds(), &lastExtension
    )
  }

  /// Says what there is to be said now.
  /// - Parameters:
  ///   - now: monotonic nanoseconds.
  ///   - work: CPU time of the process so far.
  ///   - lastExtension: when a start was extended last, and the CPU time then.
  func step(now: Int64, work: Int64, _ lastExtension: inout (time: Int64, work: Int64)) {
    switch state.withLock({ $0.phase }) {
    case .starting:
      let isFirst = lastExtension.time == .min
      guard isFirst || now - lastExtension.time >= Self.extensionEveryNanoseconds else { return }
      if isFirst || work - lastExtension.work >= Self.workNanoseconds {
        socket.send(["EXTEND_TIMEOUT_USEC=\(Self.extensionNanoseconds / 1000)"])
      }
      lastExtension = (now, work)
    case .ready: if let watchdog { ping(watchdog, now) }
    case .stopping: break
    }
  }

  private func ping(_ watchdog: Watchdog, _ now: Int64) {
    let watched = state.withLock { $0.watched }
    let hanging = watched.filter { watchdog.hangs($0, now: now) }
    if hanging.isEmpty { socket.send(["WATCHDOG=1"]) }
    let names = Set(hanging.map(\.name))
    let news = state.withLock { state in
      defer { state.reported = names }
      return names.subtracting(state.reported).sorted()
    }
    for name in news {
      let seconds = Double(watchdog.patienceNanoseconds) / 1e9
      report(
        "\(name) has not come round for \(seconds) s: the service manager is not told that this server goes on"
      )
    }
  }
}
