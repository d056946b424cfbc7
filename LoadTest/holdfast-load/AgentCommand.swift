internal import ArgumentParser
internal import Glibc
internal import LoadKit
internal import LoadReport
internal import Posix

/// Generators on other machines.
struct AgentFlags: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      """
      Have these generators make the load, each its part of one schedule: addresses of `holdfast-load agent`, with commas \
      between them. --connections, --rate and --operations are of all together, --threads of each.
      """, valueName: "address,…"))
  var agents: String?
  @OptionGroup var secret: SecretFlags
  @Option(
    help: ArgumentHelp(
      "Whether agents ask for the same SKUs (shared), or each for its own (own).",
      valueName: "shared|own"))
  var agentSkus = Ownership.shared

  enum Ownership: String, ExpressibleByArgument, CaseIterable {
    case shared, own
  }

  func apply(to options: inout RunOptions) throws(LoadError) {
    guard let agents else {
      if agentSkus == .own { throw LoadError("--agent-skus goes with --agents") }
      return
    }
    for part in agents.split(separator: ",", omittingEmptySubsequences: false) {
      do throws(LoadError) {
        options.agents.append(try Endpoint.resolving(String(part)))
      } catch {
        throw LoadError("--agents: '\(Text.printable(String(part)))': \(error)")
      }
    }
    options.agentSecret = try secret.read()
    options.agentsOwnSKUs = agentSkus == .own
  }
}

/// What agents and their coordinator know each other by.
struct SecretFlags: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      """
      A file with the secret that agents and their coordinator share, 16 to 1024 bytes; also taken from \
      HOLDFAST_LOAD_SECRET.
      """, valueName: "file"))
  var agentSecretFile: String?

  /// The secret; empty where there is none.
  func read() throws(LoadError) -> [UInt8] {
    var bytes: [UInt8] = []
    if let path = agentSecretFile {
      do throws(Errno) {
        bytes = try SmallFile.read(path, upTo: 1_100)
      } catch {
        throw LoadError("cannot read \(path): \(error)")
      }
      while let last = bytes.last, last == 0x0a || last == 0x0d { bytes.removeLast() }
    } else if let value = unsafe getenv("HOLDFAST_LOAD_SECRET") {
      // Nobody sets a variable while this reads it, and the text is copied.
      bytes = Array(unsafe String(cString: value).utf8)
    } else {
      return []
    }
    guard (16...1_024).contains(bytes.count) else {
      throw LoadError("the agents' secret must have 16 to 1024 bytes")
    }
    return bytes
  }
}

struct AgentCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "agent",
    abstract: "Makes its part of the runs that a coordinator on another machine asks for.",
    discussion: """
      On each of the machines that make load, and on the one that reports:
        holdfast-load agent --listen 10.0.0.2:7430 --allow-target 10.0.0.9:7420
        holdfast-load run --agents 10.0.0.2:7430,10.0.0.3:7430 --target 10.0.0.9:7420

      Whoever reaches an agent and knows its secret has it make load: without a secret it listens on \
      loopback alone, and without --allow-target it asks servers on its own machine alone. Its connection \
      to the coordinator is not encrypted. Certificates and metadata are the agent's own flags; whether \
      TLS is spoken is the coordinator's.

      Exit status: 0 after SIGINT or SIGTERM, 2 it could not listen.
      """)

  @Option(help: ArgumentHelp("An IP address and a port; 0: a free one.", valueName: "address"))
  var listen = "127.0.0.1:7430"
  @Option(
    help: ArgumentHelp(
      "A server that load may be made on; any: every server. May be given again.",
      valueName: "address"))
  var allowTarget: [String] = []
  @OptionGroup var secret: SecretFlags
  @OptionGroup var access: AccessFlags
  @Option(help: ArgumentHelp("End after so many runs.", valueName: "n"))
  var runs: Int?

  func run() throws {
    var settings = AgentSettings()
    guard let place = HostPort(listen, ports: 0...65_535) else {
      throw LoadError("--listen is an IP address and a port, such as 127.0.0.1:7430")
    }
    (settings.host, settings.port) = (place.host, place.port)
    settings.secret = try secret.read()
    settings.runsMaximum = runs
    settings.allowed = try allowTarget.contains("any") ? nil : allowTarget.map { try allowed($0) }
    let flags = access
    settings.access = { (endpoint, usesTLS, name) throws(LoadError) in
      var flags = flags
      flags.tls = usesTLS
      if usesTLS, flags.serverName == nil { flags.serverName = name }
      if !usesTLS { flags.serverName = nil }
      return try flags.apply(to: endpoint)
    }
    let server = try AgentServer(settings)
    let shown = HostPort(host: place.host, port: server.port)
    HoldfastLoad.tell("holdfast-load: agent on \(shown)", on: 1)
    try server.serve { HoldfastLoad.tell("holdfast-load: agent: \($0)") }
  }

  private func allowed(_ text: String) throws(LoadError) -> Endpoint {
    do throws(LoadError) {
      return try Endpoint.resolving(text)
    } catch {
      throw LoadError("--allow-target: '\(Text.printable(text))': \(error)")
    }
  }
}
