// The wiring: one store, a handler per event loop, the admin pages, and an orderly end.
internal import Admin
internal import Foundation
internal import GRPC
internal import Logging
internal import Metrics
internal import Posix
internal import ReservationService
internal import Server
internal import ServiceLifecycle
internal import StockStore
internal import Synchronization
internal import UnixSignals

enum Service {
  /// Serves until SIGTERM or SIGINT, then finishes what is open and returns.
  static func run(_ settings: Settings) async throws {
    ProcessMetrics.begin()
    let logger = LogOutput.logger(settings)
    Machine.raiseDescriptorLimit()
    if settings.concurrency == Settings.broken {
      logger.warning("this store oversells on purpose; it is for demonstrations only")
    }
    let store = StockStore(
      limits: Limits.store(settings), clock: SystemClock(),
      concurrency: settings.concurrency == Settings.broken
        ? .uncheckedForDemonstration : .optimistic)
    let metrics = RPCMetrics(
      methods: HoldfastHandler.methods.map {
        RPCMethod(service: $0.service, method: $0.method, type: $0.type.metricsKind)
      }, nowNanoseconds: { SystemClock.monotonicNanoseconds() })
    let page = MetricsPage()
    page.add { metrics.expose(into: &$0) }
    page.add { StoreMetrics.expose(store.statistics(), into: &$0) }
    page.add { ProcessMetrics.expose(into: &$0) }

    let state = ServiceState()
    let admin = try openAdmin(settings, page, state)
    let server = try openServer(settings, store, metrics)
    // Services end in reverse order: gRPC first, while the admin pages say "draining".
    let group = ServiceGroup(
      configuration: ServiceGroupConfiguration(
        services: [
          .init(
            service: AdminService(admin: admin),
            successTerminationBehavior: .gracefullyShutdownGroup,
            failureTerminationBehavior: .gracefullyShutdownGroup),
          .init(
            service: GRPCService(server: server, state: state) {
              announce(settings, server, admin, logger)
            },
            successTerminationBehavior: .gracefullyShutdownGroup,
            failureTerminationBehavior: .gracefullyShutdownGroup),
        ], gracefulShutdownSignals: [.sigterm, .sigint], logger: logger))
    try await group.run()
    logger.info("stopped")
  }

  private static func openAdmin(
    _ settings: Settings, _ page: MetricsPage, _ state: ServiceState
  ) throws(SettingsError) -> AdminServer {
    do {
      return try AdminServer(
        host: settings.adminHost, port: settings.adminPort, page: page,
        readiness: { state.readiness },
        information: [("Version", Build.version), ("Build", Build.configuration)])
    } catch {
      throw SettingsError(description: "\(error); choose another --admin-port, or 0 for a free one")
    }
  }

  private static func openServer(
    _ settings: Settings, _ store: StockStore, _ metrics: RPCMetrics
  ) throws(SettingsError) -> Server {
    do {
      let limits = Limits.store(settings)
      return try Server.start(
        host: settings.host, port: settings.port, loops: settings.loops,
        limits: Limits.server(settings), metrics: metrics
      ) { _ in
        HoldfastHandler(
          session: store.makeSession(), storeLimits: limits, serviceLimits: Limits.service)
      }
    } catch {
      throw SettingsError(
        description:
          "cannot listen on \(settings.host):\(settings.port): \(error); choose another --host or --port"
      )
    }
  }

  private static func announce(
    _ settings: Settings, _ server: Server, _ admin: AdminServer, _ logger: Logger
  ) {
    let process = ProcessInfo.processInfo.processIdentifier
    let target = address(settings.host, server.port)
    let adminTarget = address(settings.adminHost, admin.port)
    // For programs that start this one: the only line on standard output.
    print("holdfast ready: grpc \(target) admin http://\(adminTarget) pid \(process)")
    fflush(nil)
    logger.info(
      "ready",
      metadata: [
        "grpc": "\(target)", "admin": "\(adminTarget)", "loops": "\(settings.loops)",
        "durability": "\(settings.durability)", "version": "\(Build.version)",
      ])
    if Build.configuration == "debug" {
      logger.warning("a debug build: several times slower than a release build")
    }
  }

  private static func address(_ host: String, _ port: UInt16) -> String {
    host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
  }
}

/// Whether the server takes calls, as `/readyz` tells it.
final class ServiceState: Sendable {
  private let value = Mutex(Readiness.starting)

  var readiness: Readiness {
    get { value.withLock { $0 } }
    set { value.withLock { $0 = newValue } }
  }
}

private struct AdminService: ServiceLifecycle.Service {
  let admin: AdminServer

  func run() async throws {
    try await cancelWhenGracefulShutdown { try await admin.run() }
  }
}

/// The event loops as a service: they are threads, so somebody waits for them on one more.
private struct GRPCService: ServiceLifecycle.Service {
  let server: Server
  let state: ServiceState
  let announce: @Sendable () -> Void

  func run() async throws {
    try await withGracefulShutdownHandler {
      // Not any earlier: only now are the signals caught that whoever reads the line may send.
      state.readiness = .ready
      announce()
      try await withCheckedThrowingContinuation {
        (continuation: CheckedContinuation<Void, any Error>) in
        do throws(Errno) {
          _ = try Thread(name: "wait") {
            do throws(Errno) {
              try server.wait()
              continuation.resume()
            } catch {
              continuation.resume(throwing: error)
            }
          }
        } catch {
          continuation.resume(throwing: error)
        }
      }
    } onGracefulShutdown: {
      state.readiness = .draining
      server.shutDown()
    }
  }
}

extension MethodType {
  var metricsKind: RPCMethod.Kind {
    switch self {
    case .unary: .unary
    case .serverStreaming: .serverStream
    case .bidirectional: .bidirectionalStream
    }
  }
}
