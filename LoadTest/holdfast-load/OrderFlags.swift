// Orders through a queue: the flags of --via.
internal import ArgumentParser
internal import LoadKit
internal import Messaging
internal import Posix

struct OrderFlags: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      """
      Send Reserves as orders through a queue of RabbitMQ, amqp://USER@HOST:PORT/VHOST or amqps://, and take what \
      `holdfast intake` answers. All else goes to --target.
      """, valueName: "address"))
  var via: String?
  @Option(
    help: ArgumentHelp(
      "File with the broker's password. (default: HOLDFAST_BROKER_PASSWORD, or the address's)",
      valueName: "file"))
  var brokerPasswordFile: String?
  @Option(
    help: ArgumentHelp(
      "PEM file of the CAs that the broker's certificate may be of. (default: the system's)",
      valueName: "file"))
  var brokerCa: String?
  @Option(
    help: ArgumentHelp("PEM file of the certificate to show to the broker.", valueName: "file"))
  var brokerCert: String?
  @Option(help: ArgumentHelp("PEM file of that certificate's key.", valueName: "file"))
  var brokerKey: String?
  @Option(help: ArgumentHelp("The exchange that orders go to.", valueName: "name"))
  var orders = Self.orders
  @Option(help: ArgumentHelp("The topic exchange that answers come from.", valueName: "name"))
  var answers = Self.answers

  private static let orders = "orders"
  private static let answers = "orders.answers"

  /// nil: no order goes through a queue.
  func route() throws(LoadError) -> OrderRoute? {
    guard let via else {
      let given = [brokerPasswordFile, brokerCa, brokerCert, brokerKey].contains { $0 != nil }
      if given || orders != Self.orders || answers != Self.answers {
        throw LoadError("the flags of a broker go with --via")
      }
      return nil
    }
    guard let address = BrokerAddress(via) else {
      throw LoadError("--via is an address such as amqp://USER@HOST:5672/VHOST")
    }
    guard case .amqp(let parts) = address else {
      throw LoadError("--via speaks to RabbitMQ alone (amqp://, amqps://), not to Kafka")
    }
    if (brokerCert == nil) != (brokerKey == nil) {
      throw LoadError("--broker-cert and --broker-key go together")
    }
    if !parts.isTLS, brokerCa != nil || brokerCert != nil {
      throw LoadError("--broker-ca, --broker-cert and --broker-key go with amqps://")
    }
    var access = BrokerAccess(address, program: "holdfast-load/1")
    access.password = Machine.environment("HOLDFAST_BROKER_PASSWORD")
    access.authorityFile = brokerCa
    access.certificateFile = brokerCert
    access.keyFile = brokerKey
    var route = OrderRoute(access)
    route.passwordFile = brokerPasswordFile
    route.orders = orders
    route.answers = answers
    return route
  }
}
