// An agent: a generator that makes its part of a run for a coordinator on another machine, one run after
// the other.
internal import LoadHistory
internal import LoadReport
internal import Posix
internal import Synchronization

/// How an agent listens, and what it may be used for.
package struct AgentSettings {
  package var host = "127.0.0.1"
  /// 0: the kernel chooses.
  package var port: UInt16 = 0
  /// What a coordinator has to know; empty on loopback alone.
  package var secret: [UInt8] = []
  /// Servers that load may be made on; nil: any.
  package var allowed: [Endpoint]? = []
  /// Ends after so many runs; nil: goes on until a signal.
  package var runsMaximum: Int?
  /// A server as this agent speaks to it: with TLS or without, under a name that its certificate has to
  /// have.
  package var access: (Endpoint, _ usesTLS: Bool, _ name: String?) throws(LoadError) -> Endpoint = {
    (endpoint, _, _) throws(LoadError) in endpoint
  }

  package init() {}
}

/// Serves coordinators until SIGINT or SIGTERM.
package final class AgentServer {
  package let port: UInt16
  private let settings: AgentSettings
  private let listener: FileDescriptor
  private let poller: Poller

  /// Listens.
  ///
  /// - Throws: where it cannot, or must not: whoever reaches an agent has it make load.
  package init(_ settings: AgentSettings) throws(LoadError) {
    self.settings = settings
    if settings.secret.isEmpty, !AgentServer.isLoopback(settings.host) {
      throw LoadError(
        "an agent that listens beyond this machine needs a secret: whoever reaches it has it make load "
          + "(HOLDFAST_LOAD_SECRET or --agent-secret-file)")
    }
    EndSignals.handle()
    Machine.raiseDescriptorLimit()
    do throws(Errno) {
      try Socket.checkUnused(host: settings.host, port: settings.port)
      listener = try Socket.listen(host: settings.host, port: settings.port, backlog: 16)
      port = try Socket.localPort(listener.number)
      poller = try Poller()
      try poller.add(listener.number, token: 0)
    } catch {
      throw LoadError("cannot listen on \(settings.host):\(settings.port): \(error)")
    }
  }

  package static func isLoopback(_ host: String) -> Bool {
    host.hasPrefix("127.") || host == "::1" || host == "localhost"
  }

  /// Makes runs until a signal, or as many as the settings say. What became of each is told in a line.
  package func serve(_ say: (String) -> Void) throws(LoadError) {
    var runs = 0
    while EndSignals.received == nil, runs < settings.runsMaximum ?? .max {
      guard let socket = try accept(waitingMilliseconds: 200) else { continue }
      do throws(LoadError) {
        let link = try AgentLink(socket)
        try link.greet(isCoordinator: false, secret: settings.secret)
        let session = AgentSession(link, settings) { [self] in refuseOthers() }
        runs += 1
        say(try session.run())
      } catch {
        say("a coordinator: \(error)")
      }
    }
  }

  private func accept(waitingMilliseconds: Int32) throws(LoadError) -> FileDescriptor? {
    do throws(Errno) {
      guard try poller.wait(timeoutMilliseconds: waitingMilliseconds) > 0 else { return nil }
    } catch {
      throw LoadError("epoll: \(error)")
    }
    switch Socket.accept(listener.number) {
    case .connection(let number): return FileDescriptor(owning: number)
    case .wouldBlock, .vanished: return nil
    case .exhausted, .failed:
      sleep(milliseconds: 100)
      return nil
    }
  }

  /// Tells who comes meanwhile that there is a run.
  private func refuseOthers() {
    guard let socket = try? accept(waitingMilliseconds: 0), let link = try? AgentLink(socket) else {
      return
    }
    link.refuse("it makes another run")
  }
}

/// One run for one coordinator.
private final class AgentSession {
  private let link: AgentLink
  private let settings: AgentSettings
  private let refuseOthers: () -> Void
  /// Why the coordinator is no more there, where it is not.
  private var loss: LoadError?
  private var toldNanoseconds: Int64 = 0

  /// A coordinator has so long to start the run: other agents may take their time.
  private static let startMilliseconds: Int64 = 120_000
  private static let jobMilliseconds: Int64 = 10_000
  private static let tellNanoseconds: Int64 = 200_000_000
  /// While its threads work, the coordinator may be silent; afterwards it asks for the ledger.
  private static let askMilliseconds: Int64 = 120_000

  init(_ link: AgentLink, _ settings: AgentSettings, refuseOthers: @escaping () -> Void) {
    self.link = link
    self.settings = settings
    self.refuseOthers = refuseOthers
  }

  /// Makes the run. A line that says what became of it.
  func run() throws(LoadError) -> String {
    let job = try AgentMessage.decode(
      AgentJob.self, try link.expect(.job, within: AgentSession.jobMilliseconds))
    do throws(LoadError) {
      let options = try job.options(target: try target(of: job))
      var supervisor = try Supervisor(options, ServerMonitor(options))
      if let failure = supervisor.failure {
        supervisor.cancel()
        throw failure
      }
      return try run(options, &supervisor)
    } catch {
      link.refuse(error.description)
      throw error
    }
  }

  private func target(of job: AgentJob) throws(LoadError) -> Endpoint {
    guard (1...64).contains(job.targets.count) else { throw LoadError("its targets are none") }
    var endpoints: [Endpoint] = []
    for text in job.targets {
      guard let endpoint = Endpoint(text) else { throw LoadError("its target is no address") }
      guard isAllowed(endpoint) else {
        throw LoadError("\(endpoint) is no target that this agent allows (--allow-target)")
      }
      endpoints.append(try settings.access(endpoint, job.usesTLS, job.serverName))
    }
    var first = endpoints.removeFirst()
    first.others = endpoints
    return first
  }

  /// Without a list, servers on this machine alone.
  private func isAllowed(_ endpoint: Endpoint) -> Bool {
    guard let allowed = settings.allowed else { return true }
    if allowed.isEmpty {
      return AgentServer.isLoopback(endpoint.host)
        || UnixSocket.path(ofHost: endpoint.host) != nil
    }
    return allowed.contains(endpoint)
  }

  private func run(_ options: RunOptions, _ supervisor: inout Supervisor) throws(LoadError)
    -> String
  {
    do throws(LoadError) {
      try link.send(.ready, try AgentMessage.encode(AgentReady()))
      let start = try awaitStart()
      try work(options, &supervisor, from: start)
      if let loss { throw loss }
      try report(&supervisor, from: start)
    } catch {
      supervisor.cancel()
      throw error
    }
    return "run \(options.run.text): made"
  }

  /// Says what time it is until the coordinator says when it starts.
  private func awaitStart() throws(LoadError) -> Int64 {
    let deadline =
      SystemClock.monotonicNanoseconds() + AgentSession.startMilliseconds * 1_000_000
    while SystemClock.monotonicNanoseconds() < deadline {
      if let signal = EndSignals.received { throw LoadError("interrupted by signal \(signal)") }
      refuseOthers()
      guard let frame = try link.next(within: 1_000) else { continue }
      switch frame.kind {
      case .clock: try link.send(.clock, SystemClock.monotonicNanoseconds())
      case .start:
        let start = try AgentLink.number(in: frame)
        let now = SystemClock.monotonicNanoseconds()
        guard (now - 60_000_000_000...now + 60_000_000_000).contains(start) else {
          throw LoadError("it starts the run at another time")
        }
        return start
      case .stop: throw LoadError("the coordinator called the run off")
      case .refused: throw LoadError("it says: \(AgentLink.text(frame.payload))")
      default: throw LoadError("it sent what was not expected of it")
      }
    }
    throw LoadError("it does not start the run")
  }

  private func work(
    _ options: RunOptions, _ supervisor: inout Supervisor, from start: Int64
  ) throws(LoadError) {
    let control = supervisor.control
    var hooks = RunHooks()
    hooks.slice = { [self] number, slice in
      send(.slice, AgentCounts(slice.counts, number: number, start: start))
    }
    hooks.progress = { [self] progress in
      refuseOthers()
      tell(progress)
      listen(control)
    }
    try supervisor.work(hooks, startingAt: start)
  }

  private func send(_ kind: AgentFrame.Kind, _ message: some Encodable) {
    guard loss == nil else { return }
    do throws(LoadError) {
      try link.send(kind, try AgentMessage.encode(message))
    } catch {
      loss = error
    }
  }

  private func tell(_ progress: Progress) {
    let now = SystemClock.monotonicNanoseconds()
    guard now - toldNanoseconds > AgentSession.tellNanoseconds else { return }
    toldNanoseconds = now
    var message = AgentProgress()
    message.answered = progress.answered
    message.accepted = progress.accepted
    message.refused = progress.refused
    message.failed = progress.failed
    send(.progress, message)
  }

  /// Does what the coordinator says. A run without its coordinator is for nobody.
  private func listen(_ control: RunControl) {
    do throws(LoadError) {
      while loss == nil, let frame = try link.next(within: 0) {
        switch frame.kind {
        case .stop: control.isEnding.store(true, ordering: .relaxed)
        case .measure:
          control.measureFromNanoseconds.store(
            try AgentLink.number(in: frame), ordering: .releasing)
        case .clock: try link.send(.clock, SystemClock.monotonicNanoseconds())
        default: throw LoadError("it sent what was not expected of it")
        }
      }
    } catch {
      loss = error
    }
    if loss != nil { control.isEnding.store(true, ordering: .relaxed) }
  }

  /// Hands over what there is.
  private func report(_ supervisor: inout Supervisor, from start: Int64) throws(LoadError) {
    var facts = RunFacts(supervisor.options)
    var books = Books()
    try supervisor.takeResults(&facts, &books)
    let signal = EndSignals.received.map { "the agent was interrupted by signal \($0)" }
    try link.send(
      .statistics,
      try AgentMessage.encode(
        AgentStatistics(
          facts.statistics, busyShares: facts.busyShares,
          endedEarly: signal ?? facts.statistics.endedEarly)))
    while true {
      // A signal has ended the run; it is no reason to keep what it has shown.
      guard let frame = try link.next(within: AgentSession.askMilliseconds) else {
        throw LoadError("it does not ask for the ledger")
      }
      switch frame.kind {
      case .clock: try link.send(.clock, SystemClock.monotonicNanoseconds())
      case .stop: break
      case .ledger:
        let count = try books.encode(startNanoseconds: start) { (piece) throws(LoadError) in
          try link.send(.ledger, piece.indices.map { piece[$0] })
        }
        return try link.send(.ledgerEnd, Int64(count))
      default: throw LoadError("it sent what was not expected of it")
      }
    }
  }
}
