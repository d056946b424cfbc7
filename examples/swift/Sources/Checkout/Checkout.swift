import ArgumentParser
import Foundation
import GRPCCore
import GRPCNIOTransportHTTP2

/// How a checkout has ended: the last line, and the exit status.
enum Outcome {
  case sold
  case notSold(String)
  case failed(String)

  var line: String {
    switch self {
    case .sold: "sold"
    case .notSold(let why): "not sold: \(why)"
    case .failed(let why): "failed: \(why)"
    }
  }

  var status: Int32 {
    switch self {
    case .sold: 0
    case .notSold: 1
    case .failed: 3
    }
  }
}

enum Payment: String, ExpressibleByArgument, CaseIterable {
  case ok, declined, ask
}

struct Options: ParsableArguments {
  @Option(help: "HOST:PORT; default: HOLDFAST_TARGET, or 127.0.0.1:7420") var target: String?
  @Option(help: "What is bought.") var sku: String
  @Option(help: "How many.") var units: Int64 = 1
  @Option(help: "The order's id: reference of the hold, and in its key.") var order: String
  @Option(help: "Which attempt of the customer: in the key.") var attempt = 1
  @Option(help: "Set the units on hand first.") var stock: Int64?
  @Option(help: "Seconds of the hold.") var ttl: Int64 = 60
  @Option(help: "ask: on standard input.") var payment = Payment.ok
  @Option(help: "Seconds of each call.") var deadline = 5.0
  @Option(help: "TLS; a PEM file; default: HOLDFAST_TLS_CA") var tlsCa: String?
  @Option(help: "The name in the server's certificate.") var tlsName: String?
}

@main
struct Checkout: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "checkout",
    abstract: "One checkout against Holdfast: hold units, take the payment, confirm or release.")

  @OptionGroup var options: Options

  func run() async throws {
    let outcome: Outcome
    let environment = ProcessInfo.processInfo.environment
    do {
      outcome = try await withGRPCClient(transport: transport(environment)) { client in
        try await Sale(client: client, options: options, token: environment["HOLDFAST_TOKEN"]).run()
      }
    } catch let refused as Refused {
      refused.explain()
      outcome = .failed(refused.reason)
    } catch is OrderEvents.NoEvent {
      outcome = .failed("no event")
    }
    say(outcome.line)
    throw ExitCode(outcome.status)
  }

  private func transport(_ environment: [String: String]) throws -> HTTP2ClientTransport.Posix {
    let target = options.target ?? environment["HOLDFAST_TARGET"] ?? "127.0.0.1:7420"
    guard let colon = target.lastIndex(of: ":"),
      let port = Int(target[target.index(after: colon)...])
    else {
      throw ValidationError("--target is HOST:PORT")
    }
    var security = HTTP2ClientTransport.Posix.TransportSecurity.plaintext
    if let authority = options.tlsCa ?? environment["HOLDFAST_TLS_CA"] {
      security = .tls { $0.trustRoots = .certificates([.file(path: authority, format: .pem)]) }
    }
    let host = String(target[..<colon])
    // An address is no name: TLS compares it with the addresses of the certificate.
    let isAddress = host.allSatisfy { $0.isNumber || $0 == "." }
    return try HTTP2ClientTransport.Posix(
      target: isAddress ? .ipv4(address: host, port: port) : .dns(host: host, port: port),
      transportSecurity: security,
      config: .defaults {
        $0.http2.authority = options.tlsName
        $0.connection.keepalive = .init(
          time: .seconds(30), timeout: .seconds(20), allowWithoutCalls: false)
      },
      serviceConfig: JSONDecoder().decode(
        ServiceConfig.self, from: Data(PackageResources.retry_policy_json)))
  }
}

func say(_ text: String) {
  print(text)
  fflush(nil)
}

func complain(_ text: String) {
  FileHandle.standardError.write(Data("\(text)\n".utf8))
}
