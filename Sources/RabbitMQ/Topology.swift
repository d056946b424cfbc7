// Exchanges and queues: made where they are not there, looked at where they are, and consumed.
internal import CRabbitMQ
package import Messaging
internal import Posix

extension RabbitMQConnection {
  /// An answer to one question. Queues with a log on the disk are made in a second or so.
  private static let answerNanoseconds: Int64 = 30_000_000_000
  /// How often a broker may deliver a message of a shared queue before it throws it away. RabbitMQ 4 does so after 20 times
  /// if nobody says a number, and lost connections count. 3.10 knows no word for never.
  private static let deliveriesMax: Int64 = 1_000_000_000

  package func declare(_ declarations: [BrokerDeclaration]) throws(BrokerError) {
    for declaration in declarations {
      switch declaration {
      case .destination(let name): try declareExchange(name, type: "topic")
      case .deadLetters(let name): try declareQueue(name, isShared: true)
      case .partitioned(let name, let count): try declarePartitions(name, count)
      case .single(let name): try declareOrderQueue(name)
      case .subscription(let destination, let pattern):
        _ = try subscription(to: destination, pattern)
      }
    }
  }

  package func consume(
    _ sources: [BrokerDeclaration], prefetch: Int, group: String
  ) throws(BrokerError) {
    var queues: [String] = []
    for source in sources {
      switch source {
      case .destination(let name): throw .unsuitable("exchange '\(name)' is no queue")
      case .deadLetters(let name), .single(let name): queues.append(name)
      case .partitioned(let name, let count): queues += Self.partitions(name, count)
      case .subscription(let destination, let pattern):
        queues.append(try subscription(to: destination, pattern))
      }
    }
    if queues.isEmpty { return }
    // The queues' shares: a limit over all consumers is not to be had of quorum queues.
    let share = UInt16(min(65_535, max(1, prefetch / queues.count)))
    self.prefetch += Int(share) * queues.count
    try ask("prefetching \(share)") { () throws(BrokerError) in
      try send(AMQP_BASIC_QOS_METHOD) { _ in
        amqp_basic_qos_t(prefetch_size: 0, prefetch_count: share, global: 0)
      }
      guard case .qosOK = try answer() else { throw .fault("no basic.qos-ok") }
    }
    for queue in queues {
      // Deliveries come before the answer may.
      consumers.append(queue)
      let tag = String(consumers.count - 1)
      try ask("consuming queue '\(queue)'") { () throws(BrokerError) in
        try unsafe send(AMQP_BASIC_CONSUME_METHOD) { texts in
          unsafe amqp_basic_consume_t(
            ticket: 0, queue: texts(queue), consumer_tag: texts(tag), no_local: 0, no_ack: 0,
            exclusive: 0, nowait: 0, arguments: texts.table([]))
        }
        guard case .consumeOK = try answer() else { throw .fault("no basic.consume-ok") }
      }
    }
  }

  /// The queues behind a consistent-hash exchange.
  private static func partitions(_ name: String, _ count: Int) -> [String] {
    (0..<count).map { "\(name).\($0)" }
  }

  private func declarePartitions(_ name: String, _ count: Int) throws(BrokerError) {
    try declareExchange(name, type: "x-consistent-hash")
    for queue in Self.partitions(name, count) {
      try declareOrderQueue(queue)
      // The routing key says how large the queue's share is.
      try bind(queue, to: name, key: "10")
    }
    let next = "\(name).\(count)"
    if try messages(in: next) != nil {
      throw .unsuitable(
        "queue '\(next)' is there: \(count) partitions are fewer than there were, and what it gets nobody would read"
      )
    }
  }

  /// What is taken from it is taken in its order.
  private func declareOrderQueue(_ name: String) throws(BrokerError) {
    try declareQueue(name, isShared: true, arguments: [("x-single-active-consumer", .flag(true))])
  }

  package func depth(of queue: String) throws(BrokerError) -> Int? { try messages(in: queue) }

  /// How many wait in a queue; nil: it is not there, as far as this user may know, or it cannot be asked for.
  private func messages(in name: String) throws(BrokerError) -> Int? {
    // To ask on the first one would end it where there is no such queue.
    if !hasSecondChannel { return nil }
    return try ask("queue '\(name)'") { () throws(BrokerError) in
      try openChannel(
        secondChannel, by: SystemClock.monotonicNanoseconds() + Self.answerNanoseconds)
      try unsafe send(AMQP_QUEUE_DECLARE_METHOD, channel: secondChannel) { texts in
        unsafe amqp_queue_declare_t(
          ticket: 0, queue: texts(name), passive: 1, durable: 0, exclusive: 0, auto_delete: 0,
          nowait: 0, arguments: texts.table([]))
      }
      let count: Int?
      switch try answer() {
      case .queueDeclareOK(_, let messages):
        count = messages
        try unsafe send(AMQP_CHANNEL_CLOSE_METHOD, channel: secondChannel) { texts in
          unsafe amqp_channel_close_t(
            reply_code: 200, reply_text: texts("done"), class_id: 0, method_id: 0)
        }
        guard case .channelCloseOK = try answer() else { throw .fault("no channel.close-ok") }
      case .channelClose:
        count = nil
        link.output.appendMethod(UInt32(AMQP_CHANNEL_CLOSE_OK_METHOD), channel: secondChannel)
      default: throw .fault("no queue.declare-ok")
      }
      return count
    }
  }

  /// A queue of this connection alone, gone with it.
  private func subscription(
    to destination: String, _ pattern: String
  ) throws(BrokerError) -> String {
    if let queue = subscriptions[[destination, pattern]] { return queue }
    let queue = try declareQueue("", isShared: false)
    try bind(queue, to: destination, key: pattern)
    subscriptions[[destination, pattern]] = queue
    return queue
  }

  /// Looks whether an exchange is there, and makes none.
  /// - Throws: `unsuitable` where it is not.
  package func require(exchange name: String) throws(BrokerError) {
    try ask("exchange '\(name)'") { () throws(BrokerError) in
      try unsafe send(AMQP_EXCHANGE_DECLARE_METHOD) { texts in
        unsafe amqp_exchange_declare_t(
          ticket: 0, exchange: texts(name), type: texts(""), passive: 1, durable: 0,
          auto_delete: 0, internal: 0, nowait: 0, arguments: texts.table([]))
      }
      guard case .exchangeDeclareOK = try answer() else { throw .fault("no exchange.declare-ok") }
    }
  }

  private func declareExchange(_ name: String, type: String) throws(BrokerError) {
    try ask("exchange '\(name)' of type \(type)") { () throws(BrokerError) in
      try unsafe send(AMQP_EXCHANGE_DECLARE_METHOD) { texts in
        unsafe amqp_exchange_declare_t(
          ticket: 0, exchange: texts(name), type: texts(type), passive: 0, durable: 1,
          auto_delete: 0, internal: 0, nowait: 0, arguments: texts.table([]))
      }
      guard case .exchangeDeclareOK = try answer() else { throw .fault("no exchange.declare-ok") }
    }
  }

  /// - Parameter isShared: it outlives this connection, and the loss of a broker of several.
  /// - Returns: its name, which the broker chooses where it is empty.
  @discardableResult
  private func declareQueue(
    _ name: String, isShared: Bool, arguments: [(String, CTexts.Value)] = []
  ) throws(BrokerError) -> String {
    let shared: [(String, CTexts.Value)] = [
      ("x-queue-type", .text("quorum")), ("x-delivery-limit", .number(Self.deliveriesMax)),
    ]
    let arguments = isShared ? shared + arguments : arguments
    return try ask("queue '\(name)'") { () throws(BrokerError) in
      try unsafe send(AMQP_QUEUE_DECLARE_METHOD) { texts in
        unsafe amqp_queue_declare_t(
          ticket: 0, queue: texts(name), passive: 0, durable: isShared ? 1 : 0,
          exclusive: isShared ? 0 : 1, auto_delete: isShared ? 0 : 1, nowait: 0,
          arguments: texts.table(arguments))
      }
      guard case .queueDeclareOK(let queue, _) = try answer() else {
        throw .fault("no queue.declare-ok")
      }
      return queue
    }
  }

  private func bind(_ queue: String, to exchange: String, key: String) throws(BrokerError) {
    try ask("queue '\(queue)' at exchange '\(exchange)'") { () throws(BrokerError) in
      try unsafe send(AMQP_QUEUE_BIND_METHOD) { texts in
        unsafe amqp_queue_bind_t(
          ticket: 0, queue: texts(queue), exchange: texts(exchange), routing_key: texts(key),
          nowait: 0, arguments: texts.table([]))
      }
      guard case .queueBindOK = try answer() else { throw .fault("no queue.bind-ok") }
    }
  }

  /// - Parameter what: in words, for the error of a broker that does not do it.
  private func ask<Result>(
    _ what: String, _ body: () throws(BrokerError) -> Result
  ) throws(BrokerError) -> Result {
    try guarded { () throws(BrokerError) in
      question = what
      defer { question = nil }
      return try body()
    }
  }

  private func answer() throws(BrokerError) -> ServerMethod {
    try reply(by: SystemClock.monotonicNanoseconds() + Self.answerNanoseconds)
  }
}
