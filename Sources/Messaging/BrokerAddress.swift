// Where a broker is: amqp://, amqps://, kafka://.
internal import Posix

/// The address of a broker, as a flag has it.
package enum BrokerAddress: Equatable, Sendable {
  /// A RabbitMQ: `amqp://USER:PASSWORD@HOST:PORT/VHOST`, amqps for TLS. Every part but the host may be missing.
  case amqp(AMQPAddress)
  /// A Kafka cluster: `kafka://HOST:PORT,HOST:PORT`, kafkas for TLS.
  case kafka(KafkaAddress)
}

package struct AMQPAddress: Equatable, Sendable {
  package var host: String
  package var port: UInt16
  package var user: String
  /// nil: the address has none.
  package var password: String?
  package var virtualHost: String
  package var isTLS: Bool

  package init(
    host: String, port: UInt16, user: String, password: String?, virtualHost: String, isTLS: Bool
  ) {
    self.host = host
    self.port = port
    self.user = user
    self.password = password
    self.virtualHost = virtualHost
    self.isTLS = isTLS
  }
}

package struct KafkaAddress: Equatable, Sendable {
  /// `HOST:PORT`, one at least.
  package var servers: [String]
  package var user: String
  package var password: String?
  package var isTLS: Bool

  package init(servers: [String], user: String, password: String?, isTLS: Bool) {
    self.servers = servers
    self.user = user
    self.password = password
    self.isTLS = isTLS
  }
}

/// How a broker is spoken to.
package struct BrokerAccess: Equatable, Sendable {
  package var address: BrokerAddress
  /// Instead of the address's; read again for every connection by whoever makes it.
  package var password: String?
  /// PEM file of the CAs that the broker's certificate may be of; nil: the system's.
  package var authorityFile: String?
  /// PEM files of the client's certificate and its key: both or none.
  package var certificateFile: String?
  package var keyFile: String?
  /// What the broker shows of this client, such as holdfast-relay/1.0.
  package var program: String
  /// librdkafka's properties, as given; RabbitMQ has none.
  package var properties: [(name: String, value: String)] = []

  package init(_ address: BrokerAddress, program: String) {
    self.address = address
    self.program = program
  }

  package static func == (a: BrokerAccess, b: BrokerAccess) -> Bool {
    a.address == b.address && a.password == b.password && a.authorityFile == b.authorityFile
      && a.certificateFile == b.certificateFile && a.keyFile == b.keyFile
      && a.program == b.program && a.properties.elementsEqual(b.properties) { $0 == $1 }
  }
}

extension BrokerAddress {
  private static let serversMax = 64

  /// nil where the text is none.
  package init?(_ text: String) {
    guard text.utf8.count <= 4096, let scheme = text.firstRange(of: "://") else { return nil }
    let name = text[..<scheme.lowerBound].lowercased()
    var rest = text[scheme.upperBound...]
    guard !rest.contains(where: { "?#".contains($0) }) else { return nil }
    var path: Substring?
    if let slash = rest.firstIndex(of: "/") {
      path = rest[rest.index(after: slash)...]
      rest = rest[..<slash]
    }
    var (user, password): (String, String?) = ("", nil)
    if let at = rest.lastIndex(of: "@") {
      let parts = rest[..<at].split(
        separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
      guard let decoded = Self.decoded(parts[0]), !decoded.isEmpty else { return nil }
      user = decoded
      if parts.count == 2 {
        guard let decoded = Self.decoded(parts[1]) else { return nil }
        password = decoded
      }
      rest = rest[rest.index(after: at)...]
    }
    switch name {
    case "amqp", "amqps":
      let isTLS = name == "amqps"
      // Several hosts are Kafka's.
      guard let server = HostPort(rest, standard: isTLS ? 5671 : 5672), !server.host.contains(",")
      else { return nil }
      var virtualHost = "/"
      if let path {
        guard !path.contains("/"), let decoded = Self.decoded(path) else { return nil }
        if !decoded.isEmpty { virtualHost = decoded }
      }
      self = .amqp(
        AMQPAddress(
          host: server.host, port: server.port, user: user.isEmpty ? "guest" : user,
          password: password,
          virtualHost: virtualHost, isTLS: isTLS))
    case "kafka", "kafkas":
      guard path == nil || path == "" else { return nil }
      var servers: [String] = []
      for part in rest.split(separator: ",", omittingEmptySubsequences: false) {
        guard let server = HostPort(part, standard: 9092) else { return nil }
        servers.append("\(server)")
      }
      guard 1...Self.serversMax ~= servers.count else { return nil }
      self = .kafka(
        KafkaAddress(servers: servers, user: user, password: password, isTLS: name == "kafkas"))
    default: return nil
    }
  }

  /// Without %XX; nil where one is cut off, or what comes out is no UTF-8.
  private static func decoded(_ text: Substring) -> String? {
    var bytes: [UInt8] = []
    var rest = text.utf8[...]
    while let byte = rest.popFirst() {
      if byte != UInt8(ascii: "%") {
        bytes.append(byte)
        continue
      }
      guard let digits = String(rest.prefix(2)), digits.utf8.count == 2,
        let value = UInt8(digits, radix: 16), digits.first != "+"
      else { return nil }
      rest = rest.dropFirst(2)
      bytes.append(value)
    }
    return String(validating: bytes, as: UTF8.self)
  }
}

extension BrokerAddress: CustomStringConvertible {
  /// For an operator: without user and password.
  package var description: String {
    switch self {
    case .amqp(let address):
      return
        "\(address.isTLS ? "amqps" : "amqp")://\(HostPort(host: address.host, port: address.port))"
    case .kafka(let address):
      return "\(address.isTLS ? "kafkas" : "kafka")://\(address.servers.joined(separator: ","))"
    }
  }
}
