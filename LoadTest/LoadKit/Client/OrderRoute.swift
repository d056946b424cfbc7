// Orders through a queue in the place of Reserve calls: where they go, and where their answers come from.
package import Messaging
internal import Posix
internal import RabbitMQ

/// A broker's connection that a thread can wait for beside others.
package protocol OrderBroker: BrokerConnection {
  /// Readable for a poller whenever `poll` has something to do.
  var descriptor: Int32 { get }

  /// Looks whether an exchange is there.
  /// - Throws: `unsuitable` where it is not.
  func require(exchange name: String) throws(BrokerError)
}

extension RabbitMQConnection: OrderBroker {}

/// The way of a run's orders: they are published to an exchange, `holdfast intake` takes them, and what it answers comes
/// from another exchange.
package struct OrderRoute: Sendable {
  package var broker: BrokerAccess
  /// Read again for every connection; nil: the password is the address's, or `broker`'s.
  package var passwordFile: String?
  /// The exchange that orders go to, by their first SKU.
  package var orders = "orders"
  /// The topic exchange that answers come from.
  package var answers = "orders.answers"
  /// Another broker than RabbitMQ, in tests.
  var make: @Sendable (BrokerAccess) throws(BrokerError) -> any OrderBroker = {
    access throws(BrokerError) in try RabbitMQConnection.connect(access)
  }

  package init(_ broker: BrokerAccess) { self.broker = broker }

  private static let passwordBytesMax = 4096
  /// Answers that may be unaccepted at once.
  private static let prefetch = 10_000

  /// Without user and password.
  package var description: String { broker.address.description }

  /// What is wrong where orders are published and no answers come.
  var silence: String {
    "does `holdfast intake` take orders from exchange '\(orders)' of \(description), and answer to '\(answers)'?"
  }

  /// Connects, and has answers come.
  func connect() throws(BrokerError) -> any OrderBroker {
    var access = broker
    if let passwordFile { access.password = try Self.password(passwordFile) }
    let connection = try make(access)
    // The first order would end the channel over it, and each one after it.
    try connection.require(exchange: orders)
    let subscription = BrokerDeclaration.subscription(to: answers, pattern: "#")
    try connection.declare([subscription])
    try connection.consume([subscription], prefetch: Self.prefetch, group: "holdfast-load")
    return connection
  }

  private static func password(_ path: String) throws(BrokerError) -> String {
    do throws(Errno) {
      let contents = try FileContents(path: path, byteCountMax: passwordBytesMax)
      return String(decoding: contents.bytes.prefix { $0 != 0x0a && $0 != 0x0d }, as: UTF8.self)
    } catch {
      throw .unsuitable("the password file \(path): \(error)")
    }
  }

  /// Command lines go into reports and histories: the password of `--via` does not.
  package static func hidingPassword(_ arguments: [String]) -> [String] {
    var hidden = arguments
    for index in hidden.indices {
      let isJoined = hidden[index].hasPrefix("--via=")
      guard isJoined || index > 0 && arguments[index - 1] == "--via" else { continue }
      let text = isJoined ? String(hidden[index].dropFirst(6)) : hidden[index]
      guard let address = BrokerAddress(text) else { continue }
      hidden[index] = (isJoined ? "--via=" : "") + address.description
    }
    return hidden
  }
}
