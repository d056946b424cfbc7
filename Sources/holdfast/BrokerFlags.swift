// Where the broker is and who speaks to it: the flags of every command that has to do with one, and the variables of the
// environment that stand for them.
internal import ArgumentParser
internal import Client
internal import Kafka
internal import Messaging
internal import Posix
internal import RabbitMQ

struct BrokerFlags: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      """
      The broker: amqp://USER@HOST:PORT/VHOST, amqps:// for TLS, kafka://HOST:PORT,HOST:PORT or kafkas:// \
      (HOLDFAST_BROKER).
      """, valueName: "address"))
  var broker: String?
  @Option(
    help: ArgumentHelp(
      """
      File whose first line is the user's password; read at every connection (or the password itself in \
      HOLDFAST_BROKER_PASSWORD; the credential broker-password of a service).
      """, valueName: "file"), completion: .file())
  var brokerPasswordFile: String?
  @Option(
    help: ArgumentHelp(
      "PEM file of the CAs that the broker's certificate may be of (the system's).",
      valueName: "file"), completion: .file())
  var brokerCa: String?
  @Option(
    help: ArgumentHelp("PEM file of the client's certificate chain.", valueName: "file"),
    completion: .file())
  var brokerCert: String?
  @Option(
    help: ArgumentHelp("PEM file of the client certificate's key.", valueName: "file"),
    completion: .file())
  var brokerKey: String?
  @Option(
    help: ArgumentHelp(
      "A property of librdkafka's, for Kafka alone. May be given again.", valueName: "name=value"))
  var brokerOption: [String] = []

  private static let optionsMax = 64

  /// - Parameter program: what the broker shows of this client, such as holdfast-relay/1.0.
  func source(program: String) throws(CommandFailure) -> BrokerSource {
    guard let text = broker ?? ProcessEnvironment.value("HOLDFAST_BROKER") else {
      throw Self.mistake("--broker: say where the broker is, such as amqp://holdfast@127.0.0.1/")
    }
    // Not the text itself: there may be a password in it.
    guard let address = BrokerAddress(text) else {
      throw Self.mistake(
        "--broker: not an address such as amqp://USER@HOST:5672/VHOST or kafka://HOST:9092")
    }
    var access = BrokerAccess(address, program: program)
    try secure(&access)
    access.properties = try properties(address)
    access.password = ProcessEnvironment.value("HOLDFAST_BROKER_PASSWORD")
    warn(access, isOnCommandLine: broker != nil)
    let source = BrokerSource(
      access: access, passwordFile: brokerPasswordFile ?? credential(access))
    // What is wrong with the file is said at once, not at the first connection.
    do throws(BrokerError) { access.password = try source.password() } catch {
      throw CommandFailure(description: error.words, status: ExitStatus.noInput)
    }
    try check(access)
    return source
  }

  /// What a service manager has put down, where nobody says a password otherwise.
  private func credential(_ access: BrokerAccess) -> String? {
    if access.password != nil || access.address.hasPassword { return nil }
    return ServiceCredential.file("broker-password")?.path
  }

  private func secure(_ access: inout BrokerAccess) throws(CommandFailure) {
    for (flag, file) in [
      ("--broker-ca", brokerCa), ("--broker-cert", brokerCert), ("--broker-key", brokerKey),
    ] {
      guard let file else { continue }
      guard access.address.isTLS else {
        throw Self.mistake("\(flag) goes with amqps:// or kafkas://")
      }
      do throws(Errno) {
        guard try FileContents(path: file, byteCountMax: 0).status.isRegular else {
          throw .notRegular
        }
      } catch {
        throw CommandFailure(description: "\(flag) \(file): \(error)", status: ExitStatus.noInput)
      }
    }
    guard (brokerCert == nil) == (brokerKey == nil) else {
      throw Self.mistake("--broker-cert and --broker-key go together")
    }
    access.authorityFile = brokerCa
    access.certificateFile = brokerCert
    access.keyFile = brokerKey
  }

  private func properties(
    _ address: BrokerAddress
  ) throws(CommandFailure) -> [(name: String, value: String)] {
    guard brokerOption.count <= Self.optionsMax else {
      throw Self.mistake("--broker-option: \(Self.optionsMax) at most")
    }
    if case .amqp = address, !brokerOption.isEmpty {
      throw Self.mistake("--broker-option goes with kafka://")
    }
    var properties: [(name: String, value: String)] = []
    for (index, text) in brokerOption.enumerated() {
      guard let equals = text.firstIndex(of: "="), equals > text.startIndex else {
        // Not the text itself: it may be a secret.
        throw Self.mistake(
          "--broker-option (\(index + 1) of \(brokerOption.count)): not NAME=VALUE")
      }
      properties.append((String(text[..<equals]), String(text[text.index(after: equals)...])))
    }
    return properties
  }

  /// A property that there is not, or not so, does not become right by waiting.
  private func check(_ access: BrokerAccess) throws(CommandFailure) {
    guard case .kafka = access.address else { return }
    do throws(BrokerError) { try KafkaConnection.check(access) } catch {
      let flag = brokerOption.isEmpty ? "--broker" : "--broker-option"
      throw Self.mistake("\(flag): \(error.words)")
    }
  }

  private func warn(_ access: BrokerAccess, isOnCommandLine: Bool) {
    if isOnCommandLine, access.address.hasPassword {
      CommandFailure.complain(
        "warning: everybody on this machine can read a password in --broker (ps): use --broker-password-file or "
          + "HOLDFAST_BROKER_PASSWORD")
    }
    let hasPassword =
      access.address.hasPassword || access.password != nil || brokerPasswordFile != nil
    if hasPassword, !access.address.isTLS, !access.address.isLoopback {
      CommandFailure.complain(
        "warning: the password goes to \(access.address) in the clear: use amqps:// or kafkas://")
    }
  }

  private static func mistake(_ text: String) -> CommandFailure {
    CommandFailure(description: text, status: CommandFailure.usage)
  }
}

/// Makes connections to the broker that the flags name.
struct BrokerSource: Sendable {
  /// Longer ones are no passwords.
  private static let passwordBytesMax = 4096
  private static let kafkaLog = KafkaLog { CommandFailure.complain("kafka: \($0)") }

  /// Its password is that of the environment.
  let access: BrokerAccess
  let passwordFile: String?

  /// Of the file as it is now, else of the environment; nil: that of the address, if there is one.
  func password() throws(BrokerError) -> String? {
    guard let passwordFile else { return access.password }
    let contents: FileContents
    do throws(Errno) {
      contents = try FileContents(path: passwordFile, byteCountMax: Self.passwordBytesMax)
      guard contents.status.isRegular else { throw .notRegular }
    } catch {
      throw .unsuitable("the password file \(passwordFile): \(error)")
    }
    let line = contents.bytes.prefix { $0 != 0x0a && $0 != 0x0d }
    guard 1...Self.passwordBytesMax ~= line.count,
      let password = String(validating: line, as: UTF8.self)
    else { throw .unsuitable("the password file \(passwordFile): there is no password in it") }
    return password
  }

  /// Waits for the broker.
  func connect() throws(BrokerError) -> any BrokerConnection {
    var access = access
    access.password = try password()
    switch access.address {
    case .amqp: return try RabbitMQConnection.connect(access)
    case .kafka:
      return try KafkaConnection.connect(access, log: Self.kafkaLog)
    }
  }
}

extension BrokerAddress {
  fileprivate var isTLS: Bool {
    switch self {
    case .amqp(let address): address.isTLS
    case .kafka(let address): address.isTLS
    }
  }

  fileprivate var hasPassword: Bool {
    switch self {
    case .amqp(let address): address.password != nil
    case .kafka(let address): address.password != nil
    }
  }

  /// Whether nobody else hears what goes there.
  fileprivate var isLoopback: Bool {
    switch self {
    case .amqp(let address): HostName.isLoopback(address.host)
    case .kafka(let address):
      address.servers.allSatisfy { server in
        let host = server[..<(server.lastIndex(of: ":") ?? server.endIndex)]
        return HostName.isLoopback(String(host.filter { $0 != "[" && $0 != "]" }))
      }
    }
  }
}

extension BrokerError {
  /// For an operator.
  var words: String {
    switch self {
    case .away(let text), .unsuitable(let text): text
    case .messageRefused(let reason, let text): "\(reason): \(text)"
    }
  }
}
