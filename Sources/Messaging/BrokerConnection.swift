// What relay, intake and load generator ask of a broker. RabbitMQ and Kafka each have a connection of their own;
// nothing here knows which.

/// A message on its way to a broker: a CloudEvent in binary mode, whose attributes travel beside the body.
package struct BrokerMessage: Equatable, Sendable {
  /// The exchange or the topic. Empty: the queue or topic that `routingKey` names; where there is none, that is this
  /// message's own mistake, and no other's.
  package var destination: String
  /// What RabbitMQ routes by, up to 255 bytes; Kafka does not look at it.
  package var routingKey: String
  /// Messages of one key stay in order: the SKU. What Kafka chooses the partition by; an attribute for RabbitMQ's
  /// consistent-hash exchange.
  package var partitionKey: String
  /// The CloudEvent's id, the same whenever the message is sent again: consumers drop doubles by it.
  package var id: String
  /// The CloudEvent's type, such as StockReserved.
  package var type: String
  /// The CloudEvent's source.
  package var source: String
  /// application/json or application/protobuf.
  package var contentType: String
  /// Nanoseconds since 1970; 0: not told.
  package var time: Int64
  /// What this answers or is about: AMQP's correlation-id. Empty: nothing.
  package var correlationID: String
  /// The queue that answers go to. Empty: where answers always go.
  package var replyTo: String
  /// More attributes of the CloudEvent, by names of [a-z0-9].
  package var attributes: [(name: String, value: String)]
  package var body: [UInt8]

  package init(
    to destination: String, routingKey: String = "", partitionKey: String = "", id: String = "",
    type: String = "", source: String = "", contentType: String = "", time: Int64 = 0,
    correlationID: String = "", replyTo: String = "",
    attributes: [(name: String, value: String)] = [], body: [UInt8] = []
  ) {
    self.destination = destination
    self.routingKey = routingKey
    self.partitionKey = partitionKey
    self.id = id
    self.type = type
    self.source = source
    self.contentType = contentType
    self.time = time
    self.correlationID = correlationID
    self.replyTo = replyTo
    self.attributes = attributes
    self.body = body
  }

  package static func == (a: BrokerMessage, b: BrokerMessage) -> Bool {
    a.destination == b.destination && a.routingKey == b.routingKey
      && a.partitionKey == b.partitionKey && a.id == b.id && a.type == b.type
      && a.source == b.source && a.contentType == b.contentType && a.time == b.time
      && a.correlationID == b.correlationID && a.replyTo == b.replyTo && a.body == b.body
      && a.attributes.elementsEqual(b.attributes) { $0 == $1 }
  }
}

/// A message that a broker has given us.
package struct BrokerDelivery: Sendable {
  /// Names the delivery on this connection: what `accept` is told.
  package var tag: UInt64
  /// The queue, or the topic and its partition, that it came from.
  package var origin: String
  /// As the sender set them; empty where it did not.
  package var id: String
  package var type: String
  package var contentType: String
  package var partitionKey: String
  package var correlationID: String
  package var replyTo: String
  /// How often it was delivered before, as far as the broker says: 0, or 1 where it says only that it was. What its sender
  /// says of that does not count.
  package var earlierDeliveries: Int
  package var body: [UInt8]
  /// The body had so many bytes, more than are kept, and is not here. 0: it is.
  package var omittedBytes: Int

  package init(
    tag: UInt64, origin: String, id: String = "", type: String = "", contentType: String = "",
    partitionKey: String = "", correlationID: String = "", replyTo: String = "",
    earlierDeliveries: Int = 0, body: [UInt8] = [], omittedBytes: Int = 0
  ) {
    self.tag = tag
    self.origin = origin
    self.id = id
    self.type = type
    self.contentType = contentType
    self.partitionKey = partitionKey
    self.correlationID = correlationID
    self.replyTo = replyTo
    self.earlierDeliveries = earlierDeliveries
    self.body = body
    self.omittedBytes = omittedBytes
  }
}

/// What a broker says.
package enum BrokerNotice: Sendable {
  /// The message of this number is the broker's now: it outlives the broker's restart.
  case confirmed(UInt64)
  /// The message of this number is not, and would not be if it came again: why, in words. `reason` is one word of
  /// [A-Z_], such as UNROUTABLE, MESSAGE_TOO_LARGE or REJECTED.
  case refused(UInt64, reason: String, text: String)
  /// The message of this number is not, and may be if it comes again, as it is: why, in words. So says RabbitMQ of a
  /// queue that is full and rejects what comes (basic.nack).
  case postponed(UInt64, text: String)
  /// A message of a queue or topic that is consumed.
  case delivery(BrokerDelivery)
  /// The broker takes nothing for now (RabbitMQ's alarm for memory or disk), and why; nil: it does again.
  case blocked(String?)
}

/// Why a connection is of no more use. What was on its way may or may not have come to the broker.
package enum BrokerError: Error, Equatable {
  /// The broker is away, or the connection broke: it comes back by itself.
  case away(String)
  /// Credentials, permissions, a name that is not there, a certificate: somebody has to put it right.
  case unsuitable(String)
  /// The broker ended the channel over one of the messages that were on their way, and did not say which: sent one by
  /// one, it shows. `reason` as in `BrokerNotice.refused`.
  case messageRefused(reason: String, text: String)
}

/// What has to be there, and is made where it is not.
package enum BrokerDeclaration: Equatable, Sendable {
  /// A durable topic exchange of RabbitMQ's; with Kafka a topic.
  case destination(String)
  /// A durable queue that is only written to and read by hand; with Kafka a topic.
  case deadLetters(String)
  /// Queues `name.0` and on behind a consistent-hash exchange `name`, which hashes the routing key, each with one
  /// active consumer at a time; with Kafka a topic of so many partitions.
  case partitioned(String, count: Int)
  /// A durable queue with one active consumer at a time, which is written to directly. RabbitMQ alone.
  case single(String)
  /// A queue of this consumer alone, gone with it, bound to a destination by a pattern (`#`: everything); with Kafka:
  /// the topic is read from now on.
  case subscription(to: String, pattern: String)
}

/// A connection to a broker. Used by one thread, which waits in `poll` alone, and in what a caller begins with: making
/// the connection, `declare` and `consume`.
package protocol BrokerConnection: AnyObject {
  /// Makes what is not there, and looks whether what is there is as it has to be.
  func declare(_ declarations: [BrokerDeclaration]) throws(BrokerError)

  /// Begins to deliver messages.
  /// - Parameters:
  ///   - sources: queues, or topics; `.partitioned`, `.single` and `.subscription` alone.
  ///   - prefetch: deliveries that may be unaccepted at once, over all of them: 1 to 65,535.
  ///   - group: whose position in topics it is (Kafka).
  func consume(
    _ sources: [BrokerDeclaration], prefetch: Int, group: String
  ) throws(BrokerError)

  /// Hands a message over. It leaves now or with the next `poll`.
  /// - Returns: its number on this connection, one more than the last one's, the first 1.
  func publish(_ message: BrokerMessage) throws(BrokerError) -> UInt64

  /// Sends what waits, takes what has come, and waits for it for at most so long.
  /// - Parameter take: gets what the broker says. Of the messages, each is confirmed or refused once, in any order.
  func poll(
    milliseconds: Int32, _ take: (BrokerNotice) -> Void
  ) throws(BrokerError)

  /// The broker may forget these deliveries. Tells it now or with the next `poll`.
  func accept(_ tags: [UInt64]) throws(BrokerError)

  /// Messages in a queue that wait for a consumer, or that a topic has; nil where it is not there, or the broker does not
  /// say. Waits for the answer.
  func depth(of queue: String) throws(BrokerError) -> Int?

  /// Ends in order: what was accepted is told. Nothing is called behind it.
  func close()
}

extension BrokerConnection {
  package func depth(of queue: String) throws(BrokerError) -> Int? { nil }
}
