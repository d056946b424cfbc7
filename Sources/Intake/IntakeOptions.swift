// What an intake does, as its flags say.
internal import Messaging

package struct IntakeOptions: Sendable {
  /// The queues that orders come from, without their numbers; with Kafka a topic.
  package var orders = "orders"
  /// 1 to 256.
  package var partitions = 4
  /// Where answers go that have no queue of their own: an exchange, or a topic.
  package var answers = "orders.answers"
  package var deadLetters = "orders.dead"
  /// Orders that may be in hand at once: 1 to 65,535.
  package var prefetch = 1000
  /// Orders in a batch: 1 to 8,192, what a server takes.
  package var batchMax = 1000
  /// How often an order over which the server fails is tried: 1 to 1,000.
  package var tries = 5
  /// How often an order may be delivered, where the broker counts that, before it is a suspect (`OrderSources`); and how
  /// often then, alone, before it goes to the dead letters.
  package var deliveriesMax = 10
  /// Of orders that have none, in nanoseconds; nil: the server's.
  package var ttlNanoseconds: Int64?
  /// Whose position in topics it is.
  package var group = "holdfast-intake"
  /// The source of answers, as CloudEvents have one.
  package var source = "holdfast-intake"
  /// Make what is not there.
  package var declares = true
  /// For what is in hand when it is to end, in nanoseconds.
  package var shutdownNanoseconds: Int64 = 10_000_000_000

  package init() {}

  var sources: [BrokerDeclaration] { [.partitioned(orders, count: partitions)] }

  /// Those of the partitions, as RabbitMQ has them.
  package var queues: [String] { (0..<partitions).map { "\(orders).\($0)" } }

  /// Orders that may be what ends the intake.
  package var suspects: String { "\(orders).suspects" }

  /// Where no answer goes, whatever an order wishes: it would come back as an order.
  var ownPlaces: Set<String> { Set([orders, suspects, deadLetters] + queues) }

  /// - Parameter hasQueues: of RabbitMQ; Kafka has topics, and no suspects.
  func declarations(hasQueues: Bool) -> [BrokerDeclaration] {
    sources + [.destination(answers), .deadLetters(deadLetters)]
      + (hasQueues ? [.single(suspects)] : [])
  }
}
