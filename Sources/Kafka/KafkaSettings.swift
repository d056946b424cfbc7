// librdkafka's properties: what this module relies on, what an address says, and what an operator may add.
internal import CKafka
internal import Messaging

/// The properties of a client, in the order in which they are set.
struct KafkaSettings {
  private(set) var properties: [(name: String, value: String)] = []

  /// What both kinds of client have.
  /// - Throws: `unsuitable` for a property that would cost a message or the order.
  private init(_ access: BrokerAccess) throws(BrokerError) {
    guard case .kafka(let address) = access.address else {
      throw .unsuitable("\(access.address) is no address of Kafka")
    }
    properties = [
      ("bootstrap.servers", address.servers.joined(separator: ",")),
      ("client.id", access.program),
      ("log.queue", "true"),
      ("socket.nagle.disable", "true"),
      ("socket.keepalive.enable", "true"),
      ("reconnect.backoff.ms", "100"),
      ("reconnect.backoff.max.ms", "1000"),
    ]
    for (name, file) in [
      ("ssl.ca.location", access.authorityFile),
      ("ssl.certificate.location", access.certificateFile), ("ssl.key.location", access.keyFile),
    ] {
      if let file { properties.append((name, file)) }
    }
    try secure(address, access)
  }

  /// A user means SASL; so does a mechanism that has no user, such as GSSAPI.
  private mutating func secure(
    _ address: KafkaAddress, _ access: BrokerAccess
  ) throws(BrokerError) {
    let namesMechanism = access.properties.contains { Self.mechanisms.contains($0.name) }
    let usesSASL = !address.user.isEmpty || namesMechanism
    let transport = address.isTLS ? "SSL" : "PLAINTEXT"
    properties.append(
      ("security.protocol", usesSASL ? "SASL_\(transport)" : transport))
    guard !address.user.isEmpty else { return }
    guard let password = access.password ?? address.password else {
      throw .unsuitable("the user \(address.user) has no password")
    }
    if !namesMechanism { properties.append(("sasl.mechanism", "PLAIN")) }
    properties.append(("sasl.username", address.user))
    properties.append(("sasl.password", password))
  }

  /// For publishing: nothing is lost, doubled or overtaken in a partition, however often the library has to try.
  static func producer(_ access: BrokerAccess) throws(BrokerError) -> KafkaSettings {
    var settings = try KafkaSettings(access)
    settings.properties += [
      ("enable.idempotence", "true"),
      // A batch that fails for good ends the producer, so that none overtakes it.
      ("enable.gapless.guarantee", "true"),
      ("acks", "all"),
      // The library never gives a message up: what waits too long is the outbox's to decide.
      ("message.timeout.ms", "0"),
      // As Java's clients choose partitions, so that a key has one partition whoever publishes.
      ("partitioner", "murmur2_random"),
      ("linger.ms", "5"),
      // The outbox has the limit, by count and by bytes.
      ("queue.buffering.max.messages", "10000000"),
      ("queue.buffering.max.kbytes", "2147483647"),
      // How long a topic that was made just now may be unknown to a broker. So long an answer waits whose topic is not there,
      // and its order is in hand: well below the silence after which a connection counts as blocked.
      ("topic.metadata.propagation.max.ms", "3000"),
    ]
    try settings.add(access.properties)
    return settings
  }

  /// For reading as a member of a group, or, where `group` is nil, for oneself.
  static func consumer(
    _ access: BrokerAccess, group: String?
  ) throws(BrokerError) -> KafkaSettings {
    var settings = try KafkaSettings(access)
    if let group { settings.properties.append(("group.id", group)) }
    settings.properties += [
      ("enable.auto.commit", "false"),
      ("enable.auto.offset.store", "false"),
      ("auto.offset.reset", "earliest"),
      ("fetch.error.backoff.ms", "100"),
      // Per partition. A partition that has so many waiting is left alone for a second (librdkafka before 2.2 has no
      // property for that): fewer, and a fast reader would stand still within it.
      ("queued.min.messages", "50000"),
      ("queued.max.messages.kbytes", "32768"),
    ]
    try settings.add(access.properties)
    return settings
  }

  private mutating func add(
    _ given: [(name: String, value: String)]
  ) throws(BrokerError) {
    for (name, value) in given {
      if let reason = Self.objection(to: name, value) {
        // Not the value: it may be a secret.
        throw .unsuitable("the property \(name) cannot be set so: \(reason)")
      }
      properties.append((name, value))
    }
  }

  // MARK: What an operator may not change

  private static let mechanisms: Set = ["sasl.mechanism", "sasl.mechanisms"]

  private struct Fixed {
    /// Aliases are librdkafka's.
    let names: Set<String>
    /// What may be said all the same; empty: nothing.
    var values: Set<String> = []
    let reason: String
  }

  private static let fixed = [
    Fixed(
      names: ["enable.idempotence"], values: ["true"],
      reason: "a message could come twice, or behind its successor"),
    Fixed(
      names: ["enable.gapless.guarantee"], values: ["true"],
      reason: "a message could overtake one that failed"),
    Fixed(
      names: ["acks", "request.required.acks"], values: ["all", "-1"],
      reason: "a message could be lost with one broker"),
    Fixed(
      names: ["message.timeout.ms", "delivery.timeout.ms"], values: ["0"],
      reason: "a message could be given up, and its successor not"),
    Fixed(
      names: ["queuing.strategy"], values: ["fifo"], reason: "a message could overtake another"),
    Fixed(
      names: ["partitioner"], values: ["murmur2_random"],
      reason: "a key would have another partition than with Java's clients"),
    Fixed(
      names: ["queue.buffering.max.messages", "queue.buffering.max.kbytes"],
      reason: "the outbox has a limit of its own"),
    Fixed(names: ["transactional.id"], reason: "messages are published without transactions"),
    Fixed(
      names: ["enable.auto.commit", "auto.commit.enable", "enable.auto.offset.store"],
      values: ["false"], reason: "an order that is not answered yet could be forgotten"),
    Fixed(
      names: ["auto.offset.reset"],
      values: ["earliest", "smallest", "beginning", "error"],
      reason: "orders that came before this start would be skipped"),
    Fixed(names: ["group.id"], reason: "a flag of its own says the group"),
    Fixed(
      names: ["bootstrap.servers", "metadata.broker.list"], reason: "the address says the servers"),
    Fixed(
      names: ["security.protocol"],
      reason: "the address says it: kafkas:// is TLS, and a user or a mechanism is SASL"),
    Fixed(
      names: ["sasl.username", "sasl.password"],
      reason: "the address says the user, and flags say the password"),
    Fixed(
      names: ["ssl.ca.location", "ssl.certificate.location", "ssl.key.location"],
      reason: "flags say the files"),
    Fixed(names: ["log.queue"], reason: "the log is this program's"),
    Fixed(names: ["test.mock.num.brokers"], reason: "what a mock broker is given is lost"),
  ]

  /// Why a property is not to be set so; nil: it may.
  static func objection(to name: String, _ value: String) -> String? {
    if ["max.in.flight", "max.in.flight.requests.per.connection"].contains(name) {
      guard let count = Int(value), count > 5 else { return nil }
      return "more than 5 requests on their way cannot be kept in order"
    }
    guard let rule = fixed.first(where: { $0.names.contains(name) }) else { return nil }
    return rule.values.contains(value.lowercased()) ? nil : rule.reason
  }

  // MARK: For the library

  /// A configuration that its taker frees, or hands to rd_kafka_new.
  /// - Throws: `unsuitable` with the library's words for a name or a value that it does not know.
  func configuration() throws(BrokerError) -> OpaquePointer {
    guard let configuration = unsafe rd_kafka_conf_new() else { throw .away("out of memory") }
    for (name, value) in properties {
      var text = KafkaText()
      let result = unsafe text.filled { buffer, size in
        unsafe rd_kafka_conf_set(configuration, name, value, buffer, size)
      }
      guard result == RD_KAFKA_CONF_OK else {
        unsafe rd_kafka_conf_destroy(configuration)
        throw .unsuitable(text.value)
      }
    }
    return unsafe configuration
  }
}

/// Room for the words of the library.
struct KafkaText {
  private(set) var value = ""

  mutating func filled<Result>(
    _ body: (UnsafeMutablePointer<CChar>, Int) -> Result
  ) -> Result {
    unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 512) { buffer in
      unsafe buffer.initialize(repeating: 0)
      guard let start = buffer.baseAddress else { preconditionFailure("an empty buffer") }
      let result = unsafe body(start, buffer.count)
      value = unsafe String(cString: start)
      return result
    }
  }
}
