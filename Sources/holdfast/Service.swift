// The wiring: one store, a handler per event loop, the admin pages, and an orderly end.
internal import Access
internal import Admin
internal import ChangeFeed
internal import GRPC
internal import Glibc
internal import Log
internal import Logging
internal import Metrics
internal import Posix
internal import ReservationService
internal import Server
internal import ServiceLifecycle
internal import StockStore
internal import StorePersistence
internal import Supervision
internal import Synchronization
internal import UnixSignals
internal import Version

enum Service {
  /// Serves until SIGTERM or SIGINT, then finishes what is open and returns.
  static func run(_ settings: Settings) async throws {
    ProcessMetrics.begin()
    let logger = LogOutput.logger(settings)
    let manager = try serviceManager(logger)
    let watcher = try Watcher(settings, logger)
    try watcher.start()
    try Signals.onHangup {
      guard let manager else { return watcher.reload() }
      manager.reloading { watcher.reload() }
    }
    for warning in settings.warnings { logger.warning("\(warning)") }
    if settings.concurrency == Settings.broken {
      logger.warning("this store oversells on purpose; it is for demonstrations only")
    }
    let metrics = RPCMetrics(
      methods: HoldfastHandler.methods.map {
        RPCMethod(service: $0.service, method: $0.method, type: $0.type.metricsKind)
      }, nowNanoseconds: { SystemClock.monotonicNanoseconds() },
      wallNanoseconds: { SystemClock.wall().nanoseconds })
    let page = MetricsPage()
    page.add { metrics.expose(into: &$0) }
    page.add { ProcessMetrics.expose(into: &$0) }
    page.add { LimitMetrics.expose(settings, into: &$0) }
    let disk = DiskWatch(settings, logger)
    page.add { disk.expose(into: &$0) }
    if let certificate = watcher.certificate { page.add { certificate.expose(into: &$0) } }

    try requireDescriptors(settings)
    let state = ServiceState(
      logger: logger, manager: manager,
      endNanoseconds: settings.shutdownTimeoutNanoseconds + Limits.endingNanoseconds)
    // First of all the directory: whoever starts a second server should hear of that, not of its port.
    let retention = RetentionWatch(Limits.store(settings), logger)
    let opening = try StoreOpening(settings, logger, retention, manager)
    try disk.start()
    // Then the ports: a recovery may take a while, and would be for nothing.
    let console = try ConsoleKeeper(settings, watcher, metrics, logger) { state.readiness }
    page.add { console.expose(into: &$0) }
    let (admin, port) = try openPorts(settings, page, state, watcher, console.console)
    try console.start()
    let ownership =
      settings.durability == .quorum
      ? try LogOwnership(settings, address(port.host, port.number), logger) : nil
    if let ownership {
      opening.follow(ownership)
      state.show(ownership)
      page.add { ownership.expose(into: &$0) }
      console.attach { $0.ownership = ownership }
    }
    // Not before: a host that is none should be the only thing that is said.
    if watcher.tokens == nil, settings.tls == nil, !HostName.isLoopback(settings.host) {
      logger.warning(
        """
        anybody who reaches this port can change stock, and read what others send: --tokens and \
        --tls-client-ca say who may, --tls-cert encrypts, and a host such as 127.0.0.1 keeps others away
        """, metadata: ["host": "\(settings.host)"])
    }
    // Services end in reverse order: gRPC first, while the admin pages say "draining".
    let group = ServiceGroup(
      configuration: ServiceGroupConfiguration(
        services: [
          .init(
            service: AdminService(admin: admin),
            successTerminationBehavior: .gracefullyShutdownGroup,
            failureTerminationBehavior: .gracefullyShutdownGroup),
          .init(
            service: GRPCService(
              settings: settings, state: state, opening: opening, ownership: ownership,
              manager: manager
            ) {
              store, feed, backups throws(CommandFailure) in
              disk.watch(store)
              page.add { StoreMetrics.expose(store.statistics(), store.concurrency, into: &$0) }
              page.add { JournalMetrics.expose(store.journalStatistics, into: &$0) }
              page.add { ServerClock.expose(store, into: &$0) }
              page.add { retention.expose(into: &$0) }
              if let feed { page.add { WatchMetrics.expose(feed, into: &$0) } }
              console.attach { ($0.store, $0.feed) = (store, feed) }
              return try openServer(settings, port, store, feed, backups, metrics, watcher)
            } standBy: { () throws(CommandFailure) in
              guard settings.isStandby, let ownership else { return nil }
              let front = try StandbyFront(settings, port, ownership, metrics, page, watcher)
              announceStandby(settings, port, admin, logger)
              manager?.watch(front.watched)
              manager?.ready(status: "stands by at \(address(port.host, port.number))")
              return front
            } announce: {
              announce(settings, port, admin, logger)
              manager?.ready(status: "serves gRPC on \(address(port.host, port.number))")
            },
            successTerminationBehavior: .gracefullyShutdownGroup,
            failureTerminationBehavior: .gracefullyShutdownGroup),
        ], gracefulShutdownSignals: [.sigterm, .sigint], logger: logger))
    try await group.run()
    logger.info("stopped")
    if ownership?.isWanted ?? false {
      throw CommandFailure(
        description: "the log was asked for, and given up", status: CommandFailure.fenced)
    }
  }

  /// Who started this process and wants to hear of it; nil: nobody.
  private static func serviceManager(_ logger: Logger) throws(CommandFailure) -> ServiceManager? {
    let manager = ServiceManager.find(Machine.environment) { logger.error("\($0)") }
    do throws(Errno) {
      try manager?.start()
    } catch {
      throw CommandFailure(
        description: "cannot start the thread that tells the service manager: \(error)")
    }
    return manager
  }

  /// A server that runs out of them later could neither take calls nor go on with its journal.
  private static func requireDescriptors(_ settings: Settings) throws(CommandFailure) {
    let (most, needed) = (
      Machine.raiseDescriptorLimit(), Limits.descriptorsNeeded(loops: settings.loops)
    )
    if most < needed {
      throw CommandFailure(
        description:
          "the process may have \(most) open files (ulimit -n): with \(settings.loops) loops it "
          + "needs \(needed) at least, and one for each connection")
    }
  }

  /// Takes both ports, or says in one sentence which cannot be had. On the one for calls nothing listens
  /// yet.
  private static func openPorts(
    _ settings: Settings, _ page: MetricsPage, _ state: ServiceState, _ watcher: Watcher,
    _ console: Console
  ) throws(CommandFailure) -> (AdminServer, ReservedPort) {
    var problems: [String] = []
    var flags: [String] = []
    let admin = open("admin-", settings.adminHost, &problems, &flags) { (host) throws in
      try AdminServer(
        host: host, port: settings.adminPort, tls: watcher.certificate?.admin,
        limits: Limits.admin, page: page,
        readiness: { state.readiness },
        information: {
          [("Version", Build.text), ("Build", Build.configuration)] + state.logLines
        }, console: console)
    }
    let port = open("", settings.host, &problems, &flags) { (host) throws in
      do {
        if let path = UnixSocket.path(ofHost: host) { return try ReservedPort(unixSocket: path) }
        return try ReservedPort(host: host, port: settings.port)
      } catch {
        throw CommandFailure(
          description: "cannot listen on \(address(host, settings.port)) for calls (\(error))")
      }
    }
    if let admin, let port { return (admin, port) }
    throw CommandFailure(
      description: problems.joined(separator: ", and ")
        + ": choose another \(flags.joined(separator: ", ")), or port 0 for a free one")
  }

  /// Calls `body` with the addresses of a host until one can be had; nil, and why, where none can.
  /// - Parameter prefix: of the flags that say where.
  private static func open<Opened>(
    _ prefix: String, _ host: String, _ problems: inout [String], _ flags: inout [String],
    _ body: (String) throws -> Opened
  ) -> Opened? {
    var problem: (any Error)?
    do {
      let isUnixSocket = prefix.isEmpty && UnixSocket.path(ofHost: host) != nil
      for address in isUnixSocket ? [host] : try HostName.addresses(host) {
        do { return try body(address) } catch { problem = problem ?? error }
      }
    } catch {
      problem = error
    }
    if let problem { problems.append("\(problem)") }
    flags += ["--\(prefix)host", "--\(prefix)port"]
    return nil
  }

  private static func openServer(
    _ settings: Settings, _ port: ReservedPort, _ store: StockStore, _ feed: ChangeFeed?,
    _ backups: BackupStreams?, _ metrics: RPCMetrics, _ watcher: Watcher
  ) throws(CommandFailure) -> Server {
    do {
      let limits = Limits.store(settings)
      let isForAnybody = watcher.tokens == nil && !HostName.isLoopback(settings.host)
      return try Server.start(
        on: port, loops: settings.loops, limits: Limits.server(settings), metrics: metrics,
        tls: watcher.certificate?.calls, notices: watcher.notices, slowCalls: watcher.slowCalls
      ) { wake in
        HoldfastHandler(
          session: store.makeSession(wake: wake), storeLimits: limits,
          serviceLimits: Limits.service, authorization: Authorization(file: watcher.tokens?.file),
          feed: feed, backups: backups, backupsNeedTokens: isForAnybody, wake: wake)
      }
    } catch {
      throw CommandFailure(
        description: "cannot listen on \(address(port.host, port.number)) for calls (\(error)): "
          + "choose another --host or --port")
    }
  }

  /// For programs that start this one: all that is on standard output.
  private static func printLine(
    _ word: String, _ settings: Settings, _ port: ReservedPort, _ admin: AdminServer
  ) {
    let target = address(port.host, port.number)
    let adminTarget = address(admin.host, admin.port)
    let scheme = settings.adminTLS ? "https" : "http"
    print(
      "holdfast \(word): grpc \(target) admin \(scheme)://\(adminTarget) pid \(Machine.processID)")
    fflush(nil)
  }

  private static func announceStandby(
    _ settings: Settings, _ port: ReservedPort, _ admin: AdminServer, _ logger: Logger
  ) {
    printLine("standby", settings, port, admin)
    logger.info(
      "stands by",
      metadata: [
        "grpc": "\(address(port.host, port.number))",
        "admin": "\(address(admin.host, admin.port))", "version": "\(Build.text)",
      ])
  }

  private static func announce(
    _ settings: Settings, _ port: ReservedPort, _ admin: AdminServer, _ logger: Logger
  ) {
    printLine("ready", settings, port, admin)
    let target = address(port.host, port.number)
    let adminTarget = address(admin.host, admin.port)
    logger.info(
      "ready",
      metadata: [
        "grpc": "\(target)", "admin": "\(adminTarget)",
        "loops": .stringConvertible(settings.loops),
        "connections-max": .stringConvertible(settings.maxConnections),
        "durability": "\(settings.durability?.rawValue ?? Settings.memory)",
        "concurrency": "\(settings.concurrency.rawValue)",
        "version": "\(Build.text)",
      ])
    if Build.configuration == "debug" {
      logger.warning("a debug build: several times slower than a release build")
    }
  }

  private static func address(_ host: String, _ port: UInt16) -> String {
    if let path = UnixSocket.path(ofHost: host) { return "unix:\(path)" }
    return host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
  }
}

/// How far the server is, as `/readyz` tells it.
final class ServiceState: Sendable {
  private struct Value {
    /// With durability quorum.
    var log: LogOwnership?
    var readiness = ServingState.starting
    var server: Server?
    var drainBegan: Int64?
  }

  private let value = Mutex(Value())
  /// The value's readiness, for probes: they wait for nothing that is done under the lock.
  private let shown = Atomic<UInt8>(ServingState.starting.rawValue)
  private let logger: Logger
  private let manager: ServiceManager?
  /// How long the way down may take.
  private let endNanoseconds: Int64

  init(logger: Logger, manager: ServiceManager?, endNanoseconds: Int64) {
    self.logger = logger
    self.manager = manager
    self.endNanoseconds = endNanoseconds
  }

  var readiness: ServingState {
    ServingState(rawValue: shown.load(ordering: .acquiring)) ?? .starting
  }

  /// The front page tells of it.
  func show(_ log: LogOwnership) { value.withLock { $0.log = log } }

  var logLines: [(name: String, value: String)] { value.withLock { $0.log }?.lines ?? [] }

  /// Runs `recover`, which a signal may cut short: until it has returned, nobody was promised anything.
  /// - Parameter standsBy: there is another server, for as long as it takes.
  func recovering<Result>(
    standsBy: Bool, _ recover: () throws -> Result
  ) rethrows -> Result {
    set(standsBy ? .standby : .recovering, unless: .draining)
    defer { set(.starting, unless: .draining) }
    return try recover()
  }

  /// The server takes calls, unless it was told to stop in the meantime.
  func serve(_ server: Server) {
    value.withLock { value in
      value.server = server
      if value.readiness == .draining { return server.shutDown() }
      show(.ready, &value)
    }
  }

  /// Begins the way down.
  func drain() {
    manager?.stopping(status: "finishes the calls that it has", within: endNanoseconds)
    value.withLock { value in
      if value.readiness == .recovering || value.readiness == .standby {
        logger.info("stopped while \(value.readiness == .standby ? "standing by" : "recovering")")
        // The journal may be left at any moment.
        _exit(0)
      }
      show(.draining, &value)
      value.drainBegan = value.drainBegan ?? SystemClock.monotonicNanoseconds()
      value.server?.shutDown()
    }
  }

  /// How long the way down has taken so far.
  var drainingNanoseconds: Int64 {
    let now = SystemClock.monotonicNanoseconds()
    return now - (value.withLock { $0.drainBegan } ?? now)
  }

  private func set(_ readiness: ServingState, unless last: ServingState) {
    value.withLock { if $0.readiness != last { show(readiness, &$0) } }
  }

  private func show(_ readiness: ServingState, _ value: inout Value) {
    value.readiness = readiness
    shown.store(readiness.rawValue, ordering: .releasing)
  }
}

private struct AdminService: ServiceLifecycle.Service {
  let admin: AdminServer

  func run() async throws {
    try await cancelWhenGracefulShutdown { try await admin.run() }
  }
}

/// The store and the event loops as a service: recovery and loops are threads' work, so somebody waits
/// for them on one more.
private struct GRPCService: ServiceLifecycle.Service {
  let settings: Settings
  let state: ServiceState
  let opening: StoreOpening
  let ownership: LogOwnership?
  let manager: ServiceManager?
  let openServer:
    @Sendable (StockStore, ChangeFeed?, BackupStreams?) throws(CommandFailure) -> Server
  /// What serves until the store is this server's; nil: nothing.
  let standBy: @Sendable () throws(CommandFailure) -> StandbyFront?
  let announce: @Sendable () -> Void

  func run() async throws {
    try await withGracefulShutdownHandler {
      try await withCheckedThrowingContinuation {
        (continuation: CheckedContinuation<Void, any Error>) in
        do throws(Errno) {
          _ = try Thread(name: "serve") { continuation.resume(with: Result { try serve() }) }
        } catch {
          continuation.resume(throwing: error)
        }
      }
    } onGracefulShutdown: {
      state.drain()
    }
  }

  /// Blocks until the server has ended.
  private func serve() throws {
    let front = try standBy()
    let store = try state.recovering(standsBy: settings.isStandby) { try opening.open() }
    // The front's loops end.
    manager?.watch([])
    front?.shutDown()
    let feed = try opening.openFeed(store)
    defer { feed?.stop() }
    let backups = opening.backups(of: store)
    defer { backups?.stop() }
    let server = try openServer(store, feed, backups)
    // Not any earlier: only now are the signals caught that whoever reads the line may send.
    state.serve(server)
    manager?.watch(watched(server, store))
    announce()
    try front?.wait()
    try server.wait()
    feed?.stop()
    backups?.stop()
    let left = settings.shutdownTimeoutNanoseconds - state.drainingNanoseconds
    try opening.close(store, patienceNanoseconds: max(left, Limits.closingNanosecondsMin))
  }

  /// What has to go on for calls to be answered.
  private func watched(_ server: Server, _ store: StockStore) -> [Watched] {
    var watched = server.lastRounds.enumerated().map { Watched("loop-\($0)", lastRound: $1) }
    if let journal = store.journal {
      watched.append(
        Watched("journal") { [ownership] in
          // It waits for an engine that is away; that is no hanging, and a start would not help.
          if ownership?.isLeaseOver ?? false { return SystemClock.monotonicNanoseconds() }
          return journal.lastRound
        })
    }
    return watched
  }
}

extension MethodType {
  var metricsKind: RPCMethod.Kind {
    switch self {
    case .unary: .unary
    case .clientStreaming: .clientStream
    case .serverStreaming: .serverStream
    case .bidirectional: .bidirectionalStream
    }
  }
}
