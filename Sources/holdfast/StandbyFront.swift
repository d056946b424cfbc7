// What a standby shows its clients: where the owner is, or the owner itself.
internal import GRPC
internal import Metrics
internal import Posix
internal import ReservationService
internal import Server
internal import Supervision

/// Serves on the port until this server is the owner: then the real one takes its place there, and nobody is
/// turned away in between.
struct StandbyFront: Sendable {
  private enum Kind {
    case refuses(Server)
    case forwards(Forwarder)
  }

  private let kind: Kind

  init(
    _ settings: Settings, _ port: ReservedPort, _ ownership: LogOwnership, _ metrics: RPCMetrics,
    _ page: MetricsPage, _ watcher: Watcher
  ) throws(CommandFailure) {
    do {
      if settings.forwards {
        let forwarder = try Forwarder.start(
          on: port, limits: ForwarderLimits(connectionsMax: settings.maxConnections / 2),
          owner: { ownership.owner })
        page.add { Self.expose(forwarder.statistics, into: &$0) }
        kind = .forwards(forwarder)
        return
      }
      var limits = Limits.server(settings)
      limits.shutdownNanosecondsMax = Limits.standbyShutdownNanosecondsMax
      let clock = SystemClock()
      let stale = ownership.reads.map {
        StaleReads($0, storeLimits: Limits.store(settings), serviceLimits: Limits.service)
      }
      kind = .refuses(
        try Server.start(
          on: port, loops: 1, limits: limits, metrics: metrics, tls: watcher.certificate?.calls,
          keepsListening: true, notices: watcher.notices
        ) { _ in
          StandbyHandler(
            authorization: Authorization(file: watcher.tokens?.file), clock: clock, stale: stale,
            owner: { ownership.owner })
        })
    } catch {
      throw CommandFailure(description: "cannot listen as a standby (\(error))")
    }
  }

  /// What has to go on for clients to be answered.
  var watched: [Watched] {
    switch kind {
    case .refuses(let server):
      server.lastRounds.enumerated().map { Watched("loop-\($0)", lastRound: $1) }
    case .forwards(let forwarder): [Watched("forward") { forwarder.lastRound }]
    }
  }

  /// Begins to end: clients are told to come again.
  func shutDown() {
    switch kind {
    case .refuses(let server): server.shutDown()
    case .forwards(let forwarder): forwarder.shutDown()
    }
  }

  /// Waits for the end; half a second at most.
  func wait() throws(Errno) {
    switch kind {
    case .refuses(let server): try server.wait()
    case .forwards(let forwarder): try forwarder.wait()
    }
  }

  private static func expose(_ numbers: ForwarderStatistics, into page: inout Exposition) {
    page.counter(
      "holdfast_forwarded_connections_total",
      help: "Connections that this standby has accepted for the owner.",
      value: UInt64(numbers.connections))
    page.gauge(
      "holdfast_forwarded_open_connections", help: "Connections that it passes on now.",
      value: Double(numbers.open))
    page.counter(
      "holdfast_forwarded_bytes_total", help: "Bytes that it has passed on, in both directions.",
      value: UInt64(numbers.bytesToOwner + numbers.bytesToClients))
    page.counter(
      "holdfast_forwarded_failures_total",
      help: "Connections that it has closed: no owner was reached, or there were too many.",
      value: UInt64(numbers.unreachable + numbers.refused))
  }
}
