// `holdfast health`: whether a server serves, for health checks of containers and for scripts.
internal import ArgumentParser
internal import Bytes
internal import Client
internal import GRPC
internal import HTTP2
internal import Posix

struct HealthCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "health",
    abstract: "Ask a server whether it serves; exit status 0 where it does.",
    discussion: """
      Calls grpc.health.v1.Health/Check, and prints its answer: SERVING, or NOT_SERVING of a server that stands by or \
      ends. No token is needed.

      Without --target it asks the server that holdfast serve would start here, with the same environment and --config: so \
      it is a container's health check without a word more. That server is asked over loopback, and its certificate is \
      not checked.

      Exit status: 0 where it is SERVING, 1 where it is not, does not answer in time or cannot be reached, 64 for a \
      command line that makes no sense.
      """)

  private static let method = ClientMethod(path: "/grpc.health.v1.Health/Check", type: .unary)

  @Option(
    help: ArgumentHelp(
      "The server: 127.0.0.1:7420, or unix:/path (the one of this environment).",
      valueName: "address"))
  var target: String?
  @OptionGroup(title: "With --target")
  var access: ServiceAccess
  @Option(
    help: ArgumentHelp(
      "A service of it, such as holdfast.v1.StockService (the server as a whole).",
      valueName: "name"))
  var service = ""
  @Option(help: ArgumentHelp("How long the answer may take (3s).", valueName: "time"))
  var timeout = "3s"
  @Option(
    help: ArgumentHelp(
      "A JSON file with settings, as serve has it (HOLDFAST_CONFIG).", valueName: "file"))
  var config: String?

  func run() async throws {
    try await CommandFailure.report {
      let patience = try Settings.duration(
        timeout, (Limits.second / 1000)...(3600 * Limits.second), "--timeout")
      let server =
        if let target { try access.target(target) } else { try await ownServer() }
      let status = try ask(server, patience)
      print(status)
      if status != "SERVING" { throw ExitCode(1) }
    }
  }

  /// The server of this environment, as one of this machine reaches it.
  private func ownServer() async throws -> ServiceTarget {
    let settings = try await Settings(flags: [:], file: config)
    guard settings.port > 0 || UnixSocket.path(ofHost: settings.host) != nil else {
      throw CommandFailure(
        description: "--target: say which port: the server takes a free one",
        status: CommandFailure.usage)
    }
    if settings.proxyProtocol {
      throw CommandFailure(
        description:
          "the server is behind a proxy (--proxy-protocol): ask that with --target, or /readyz of the admin port",
        status: CommandFailure.usage)
    }
    // Who listens everywhere listens on loopback.
    let host =
      switch settings.host {
      case "0.0.0.0": "127.0.0.1"
      case "::", "[::]": "::1"
      default: settings.host
      }
    let isAddress =
      host.contains(":") && !host.hasPrefix("[") && UnixSocket.path(ofHost: host) == nil
    let text =
      UnixSocket.path(ofHost: host) != nil
      ? host : "\(isAddress ? "[\(host)]" : host):\(settings.port)"
    guard var server = ServiceTarget(text) else {
      throw CommandFailure(
        description: "'\(text)' is no address of a server", status: CommandFailure.usage)
    }
    if let files = settings.tls {
      do throws(TLSFileError) {
        // Where clients need a certificate, the server's own may do.
        server.tls = try TLSClientContext(
          authority: nil, files: settings.tls?.clientAuthority == nil ? nil : files,
          checksServer: false)
      } catch {
        throw CommandFailure(description: "\(error)")
      }
    }
    return server
  }

  /// What the server says of itself.
  private func ask(
    _ server: ServiceTarget, _ patienceNanoseconds: Int64
  ) throws(CommandFailure) -> String {
    let deadline = SystemClock.monotonicNanoseconds() + patienceNanoseconds
    do throws(ServiceClientError) {
      let client = try ServiceClient(server, methods: [Self.method], program: "holdfast-health")
      _ = client.start(0, request)
      var end: ServiceCallEnd?
      while end == nil {
        let left = (deadline - SystemClock.monotonicNanoseconds()) / 1_000_000
        if left <= 0 {
          throw ServiceClientError(.lost, "it has not answered in \(timeout)")
        }
        _ = try unsafe client.wait(
          milliseconds: min(Int32(clamping: left), Limits.healthPollMilliseconds),
          take: { _, _ in }, end: { end = $0 })
      }
      guard let end, end.status == .ok else {
        throw ServiceClientError(.lost, end?.text ?? "")
      }
      return Self.status(end.message)
    } catch {
      throw CommandFailure(description: "\(server): \(error)")
    }
  }

  /// HealthCheckRequest: service = 1.
  private var request: [UInt8] {
    let writer = ProtoWriter(capacity: 256)
    defer { writer.destroy() }
    writer.field(1, service.utf8Span.span)
    return writer.withBytes { bytes in unsafe bytes.withUnsafeBytes { unsafe Array($0) } }
  }

  /// HealthCheckResponse: status = 1.
  private static func status(_ message: [UInt8]) -> String {
    let names = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"]
    return unsafe message.withUnsafeBytes { bytes in
      var fields = unsafe WireFields(bytes)
      var value: UInt64 = 0
      while let field = fields.next() {
        if field.number == 1 { value = field.value }
      }
      return value < names.count ? names[Int(value)] : names[0]
    }
  }
}
