// A command that runs for years beside a server: its metrics, its thread, its end, and what the service manager hears of it.
internal import Admin
internal import Glibc
internal import Metrics
internal import Posix
internal import Supervision
internal import Synchronization
internal import Version

/// What relay and intake have in common.
struct ClientService {
  /// How often the service manager is told how it is.
  private static let statusNanoseconds: Int64 = 1_000_000_000

  private let name: String
  private let admin: AdminServer?
  private let manager: ServiceManager?
  private let status: @Sendable () -> String
  private let interruption: Interruption

  /// From now on SIGINT and SIGTERM are remembered.
  /// - Parameters:
  ///   - name: of the command; also of its thread.
  ///   - adminPort: nil: there are no pages.
  ///   - lastRound: when the command's thread came round last, in monotonic nanoseconds.
  ///   - status: one line on how it is.
  init(
    _ name: String, metrics: @escaping MetricsPage.Source, adminHost: String, adminPort: UInt16?,
    readiness: @escaping @Sendable () -> ServingState,
    lastRound: @escaping @Sendable () -> Int64, status: @escaping @Sendable () -> String
  ) throws(CommandFailure) {
    interruption = Interruption()
    self.name = name
    self.status = status
    admin = try Self.admin(metrics, adminHost, adminPort, readiness)
    manager = ServiceManager.find(Machine.environment) { CommandFailure.complain($0) }
    manager?.watch([Watched(name, lastRound: lastRound)])
    do throws(Errno) { try manager?.start() } catch {
      throw CommandFailure(
        description: "cannot start the thread that tells the service manager: \(error)")
    }
  }

  private static func admin(
    _ metrics: @escaping MetricsPage.Source, _ host: String, _ port: UInt16?,
    _ readiness: @escaping @Sendable () -> ServingState
  ) throws(CommandFailure) -> AdminServer? {
    guard let port else { return nil }
    ProcessMetrics.begin()
    let page = MetricsPage()
    page.add(metrics)
    page.add { ProcessMetrics.expose(into: &$0) }
    do throws(AdminServerError) {
      return try AdminServer(
        host: host, port: port, limits: Limits.admin, page: page, readiness: readiness,
        information: { [("Version", Build.text), ("Build", Build.configuration)] })
    } catch {
      throw CommandFailure(description: "\(error)")
    }
  }

  /// Says on standard output that it runs: the only line there.
  func announce(_ text: String) {
    let pages = admin.map { " admin http://\($0.host):\($0.port)" } ?? ""
    print("\(text)\(pages) pid \(Machine.processID)")
    fflush(nil)
  }

  /// It ends, and may take so long.
  func stopping(within nanoseconds: Int64) {
    manager?.stopping(
      status: "finishes what it has", within: nanoseconds + Self.statusNanoseconds)
  }

  /// Runs `body` on a thread of its own, for it waits for sockets. What it returns.
  func run(
    _ body: @escaping @Sendable (Interruption) -> CommandFailure?
  ) async -> CommandFailure? {
    let pages = Task { try await admin?.run() }
    let words = Task {
      while !Task.isCancelled {
        manager?.tell(status: status())
        try await Task.sleep(nanoseconds: UInt64(Self.statusNanoseconds))
      }
    }
    manager?.ready(status: status())
    let result = await onThread(body)
    words.cancel()
    pages.cancel()
    _ = await (pages.result, words.result)
    return result
  }

  private func onThread(
    _ body: @escaping @Sendable (Interruption) -> CommandFailure?
  ) async -> CommandFailure? {
    await withCheckedContinuation { continuation in
      do throws(Errno) {
        _ = try Thread(name: name) { continuation.resume(returning: body(interruption)) }
      } catch {
        continuation.resume(
          returning: CommandFailure(description: "cannot start a thread: \(error)"))
      }
    }
  }
}
