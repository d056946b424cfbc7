// `holdfast project`: tables in PostgreSQL that follow a server, for reports and joins.
internal import Admin
internal import ArgumentParser
internal import Client
internal import GRPC
internal import Glibc
internal import Log
internal import Metrics
internal import Posix
internal import PostgresLog
internal import Projection
internal import Version

struct ProjectCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "project",
    abstract: "Keep tables in a PostgreSQL database that follow a server.",
    discussion: """
      Watches a server and writes item_balance, reservation and event into a schema of its own, about once a \
      second, in one transaction with the position up to which they go: every event is applied once, \
      whatever is killed. docs/PROJECTION.md describes the tables. Passwords come from where libpq looks for \
      them: PGPASSFILE, a service file.

      Goes on by itself where the server or the database is away, until SIGINT or SIGTERM. Exit status: 0 then, 1 \
      where the tables are not for this version, 64 for a command line that makes no sense.
      """,
    subcommands: [FollowCommand.self, InitCommand.self], defaultSubcommand: FollowCommand.self)

  /// What both need to know.
  struct Tables: ParsableArguments {
    @Option(
      help: ArgumentHelp(
        "The database with the tables: a URI or keywords of libpq (that of --engine).",
        valueName: "address"))
    var database: String?
    @Option(
      help: ArgumentHelp(
        "The PostgreSQL that has the log of a server with --durability quorum: says where its owner is.",
        valueName: "address"))
    var engine: String?
    @Option(help: ArgumentHelp("The schema with the tables; made if missing.", valueName: "name"))
    var schema = "holdfast_view"

    func options() throws(CommandFailure) -> ProjectionOptions {
      guard let address = database ?? engine else {
        throw ProjectCommand.mistake("--database: say where the tables are")
      }
      guard ProjectionOptions.isSchema(schema) else {
        throw ProjectCommand.mistake("--schema: '\(schema)' cannot be the name of a schema")
      }
      var options = ProjectionOptions(database: address)
      options.schema = schema
      return options
    }
  }

  struct InitCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "init", abstract: "Make the tables, and nothing else.")

    @OptionGroup var tables: Tables

    func run() throws {
      do throws(CommandFailure) {
        let options = try tables.options()
        do throws(ProjectionError) {
          let isNew = try Projector.makeTables(options)
          print(isNew ? "made" : "there already", "schema", options.schema)
        } catch {
          throw CommandFailure(description: "\(error)")
        }
      } catch {
        CommandFailure.complain(error.description)
        throw ExitCode(error.status)
      }
    }
  }

  static func mistake(_ text: String) -> CommandFailure {
    CommandFailure(description: text, status: CommandFailure.usage)
  }
}

struct FollowCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run", abstract: "Keep the tables. This is what is done without a subcommand.")

  @OptionGroup var tables: ProjectCommand.Tables
  @Option(
    help: ArgumentHelp(
      "The server to follow: 127.0.0.1:7420, or unix:/path. With callers, the role read is needed, and stock to see them.",
      valueName: "address"))
  var target: String?
  @Option(help: "From one transaction to the next: 100ms to 1h.")
  var interval = "1s"
  @Option(
    help: ArgumentHelp("Delete events that are older, such as 30d (kept).", valueName: "duration"))
  var keepEvents: String?
  @Option(
    help: ArgumentHelp(
      "Delete reservations that ended so long ago, such as 90d (kept).", valueName: "duration"))
  var keepReservations: String?
  @Option(help: ArgumentHelp("A port for metrics; 0: a free one (none).", valueName: "port"))
  var adminPort: UInt16?
  @Option(help: ArgumentHelp("Where the port for metrics is.", valueName: "address"))
  var adminHost = "127.0.0.1"
  @OptionGroup(title: "How the server is spoken to")
  var access: ServiceAccess

  func run() async throws {
    try await CommandFailure.report {
      let options = try self.options()
      let server = try self.server()
      let metrics = ProjectionMetrics()
      let admin = try self.admin(metrics)
      let interruption = Interruption()
      announce(options, admin)
      let pages = Task { try await admin?.run() }
      let result = await Self.follow(options, metrics, server, interruption)
      pages.cancel()
      _ = await pages.result
      if let problem = result { throw problem }
    }
  }

  private func options() throws(CommandFailure) -> ProjectionOptions {
    var options = try tables.options()
    let interval = try nanoseconds("--interval", interval)
    guard 100_000_000...3_600_000_000_000 ~= interval else {
      throw ProjectCommand.mistake("--interval: 100ms to 1h")
    }
    options.intervalNanoseconds = interval
    for (flag, text, path) in [
      ("--keep-events", keepEvents, \ProjectionOptions.keptEventsNanoseconds),
      ("--keep-reservations", keepReservations, \.keptReservationsNanoseconds),
    ] {
      guard let text else { continue }
      let kept = try nanoseconds(flag, text)
      guard kept >= 60_000_000_000 else { throw ProjectCommand.mistake("\(flag): 1m or more") }
      options[keyPath: path] = kept
    }
    return options
  }

  private func nanoseconds(_ flag: String, _ text: String) throws(CommandFailure) -> Int64 {
    let units: [(String, Int64)] = [
      ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000),
      ("d", 86_400_000_000_000),
    ]
    for (unit, each) in units where text.hasSuffix(unit) {
      guard let count = Int64(text.dropLast(unit.count)), count > 0 else { continue }
      let (product, isTooLong) = count.multipliedReportingOverflow(by: each)
      if !isTooLong { return product }
    }
    throw ProjectCommand.mistake("\(flag): '\(text)' is no duration such as 500ms, 30s, 12h or 30d")
  }

  /// Says where the server is, at every connection.
  private func server() throws(CommandFailure) -> ServerAddress {
    switch (target, tables.engine) {
    case (let target?, nil): return .fixed(try access.target(target))
    case (nil, let engine?):
      // What is wrong with the flags is said at once, not at the first connection.
      _ = try access.target("127.0.0.1:1")
      do throws(Errno) {
        return .owner(try PostgresLog(address: engine), access)
      } catch {
        throw CommandFailure(description: "\(error)")
      }
    default: throw ProjectCommand.mistake("say which server to follow: --target or --engine")
    }
  }

  private func admin(_ metrics: ProjectionMetrics) throws(CommandFailure) -> AdminServer? {
    guard let adminPort else { return nil }
    ProcessMetrics.begin()
    let page = MetricsPage()
    page.add { metrics.add(to: &$0) }
    page.add { ProcessMetrics.expose(into: &$0) }
    do throws(AdminServerError) {
      return try AdminServer(
        host: adminHost, port: adminPort, limits: Limits.admin, page: page,
        readiness: { metrics.isFollowing ? .ready : .recovering },
        information: { [("Version", Build.text), ("Build", Build.configuration)] })
    } catch {
      throw CommandFailure(description: "\(error)")
    }
  }

  private func announce(_ options: ProjectionOptions, _ admin: AdminServer?) {
    let pages = admin.map { " admin http://\($0.host):\($0.port)" } ?? ""
    // For programs that start this one: the only line on standard output.
    print("holdfast projecting: schema \(options.schema)\(pages) pid \(Machine.processID)")
    fflush(nil)
  }

  /// On a thread of its own, for it waits for sockets. nil: it was asked to end.
  private static func follow(
    _ options: ProjectionOptions, _ metrics: ProjectionMetrics, _ server: ServerAddress,
    _ interruption: Interruption
  ) async -> CommandFailure? {
    await withCheckedContinuation { continuation in
      do throws(Errno) {
        _ = try Thread(name: "projector") {
          let projector = Projector(
            options, metrics: metrics,
            connect: { () throws(ProjectionError) in
              try ServiceSource(try server.now()) { interruption.hasCome }
            },
            report: { CommandFailure.complain("project: \($0)") },
            isStopped: { interruption.hasCome })
          do throws(ProjectionError) {
            try projector.run()
            continuation.resume(returning: nil)
          } catch {
            continuation.resume(returning: CommandFailure(description: "\(error)"))
          }
        }
      } catch {
        continuation.resume(
          returning: CommandFailure(description: "cannot start a thread: \(error)"))
      }
    }
  }
}

/// Where the server is that is followed.
private enum ServerAddress: Sendable {
  case fixed(ServiceTarget)
  /// Wherever the log's owner is.
  case owner(PostgresLog, ServiceAccess)

  func now() throws(ProjectionError) -> ServiceTarget {
    switch self {
    case .fixed(let target): return target
    case .owner(let log, let access):
      let address: String
      do throws(JournalError) {
        address = try log.state().address
      } catch {
        throw .server("nobody says where it is: \(error)")
      }
      do throws(CommandFailure) {
        if !address.isEmpty { return try access.target(address, warns: false) }
      } catch {
        throw .server("'\(address)', where the log's owner is: \(error)")
      }
      throw .server("the log has no owner now")
    }
  }
}

/// The calls of a projection on one connection.
private final class ServiceSource: StockSource {
  private static let methods = [
    ClientMethod(path: "/holdfast.v1.EventService/Watch", type: .serverStreaming),
    ClientMethod(path: "/holdfast.v1.StockService/ListStock", type: .unary),
    ClientMethod(path: "/holdfast.v1.ReservationService/ListReservations", type: .unary),
  ]
  private static let silenceNanoseconds: Int64 = 30_000_000_000

  private let target: ServiceTarget
  private let client: ServiceClient
  private let isStopped: () -> Bool
  private var watchCall: UInt64?
  private var headCall: (id: UInt64, asked: Int64)?
  private var heardAt = SystemClock.monotonicNanoseconds()

  init(_ target: ServiceTarget, isStopped: @escaping () -> Bool) throws(ProjectionError) {
    self.target = target
    self.isStopped = isStopped
    do throws(ServiceClientError) {
      client = try ServiceClient(
        target, methods: Self.methods, program: "holdfast-project/\(Build.version)", callsMax: 8)
    } catch {
      throw .server("\(target): \(error)")
    }
  }

  func watch(_ request: [UInt8]) {
    endWatch()
    watchCall = client.start(0, request)
    heardAt = SystemClock.monotonicNanoseconds()
  }

  func endWatch() {
    if let watchCall { client.cancel(watchCall) }
    watchCall = nil
  }

  func askHead(_ request: [UInt8]) {
    if headCall != nil { return }
    headCall = (client.start(0, request), SystemClock.wall().nanoseconds)
  }

  func receive(
    milliseconds: Int32, _ body: (StockMessage) -> Void
  ) throws(ProjectionError) {
    var hasHead = false
    let ended = try unsafe wait(milliseconds) { call, bytes in
      if call == watchCall { unsafe body(.events(bytes)) }
      if let head = headCall, head.id == call, !hasHead {
        hasHead = true
        unsafe body(.head(bytes, asked: head.asked))
      }
    }
    if hasHead, let head = headCall {
      client.cancel(head.id)
      headCall = nil
    }
    for end in ended {
      // Without it only less is known of how far the tables are behind.
      if end.callID == headCall?.id { headCall = nil }
      if end.callID == watchCall { throw failure(end) }
    }
  }

  func ask(_ method: StockMethod, _ request: [UInt8]) throws(ProjectionError) -> [UInt8] {
    let index =
      switch method {
      case .listStock: 1
      case .listReservations: 2
      }
    let call = client.start(index, request)
    heardAt = SystemClock.monotonicNanoseconds()
    while !isStopped() {
      for end in try unsafe wait(100, { _, _ in }) where end.callID == call {
        guard end.status == .ok else { throw failure(end) }
        return end.message
      }
    }
    throw .stopped
  }

  /// The calls that have ended.
  private func wait(
    _ milliseconds: Int32, _ take: (UInt64, UnsafeRawBufferPointer) -> Void
  ) throws(ProjectionError) -> [ServiceCallEnd] {
    var ended: [ServiceCallEnd] = []
    let now = SystemClock.monotonicNanoseconds()
    do throws(ServiceClientError) {
      if try unsafe client.wait(milliseconds: milliseconds, take: take, end: { ended.append($0) }) {
        heardAt = now
      }
    } catch {
      throw .server("\(target): \(error)")
    }
    // A server that is well says something every second.
    if now - heardAt > Self.silenceNanoseconds { throw .server("\(target): it is silent") }
    return ended
  }

  private func failure(_ end: ServiceCallEnd) -> ProjectionError {
    switch end.reason {
    case "RESUME_TOKEN_TOO_OLD": .beginAgain("\(target): \(end.text)", isForeign: false)
    case "RESUME_TOKEN_FOREIGN": .beginAgain("\(target): \(end.text)", isForeign: true)
    default:
      .server("\(target): \(end.text)" + (end.reason.isEmpty ? "" : " (\(end.reason))"))
    }
  }
}
