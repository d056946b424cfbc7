// librdkafka's mock cluster within the test, and what a test asks of a connection to it.
import CKafkaMock
import Messaging
import Posix
import Testing

@testable import Kafka

/// Requests of Kafka's protocol, by their numbers in it.
enum KafkaRequest: Int16 {
  case produce = 0
  case fetch = 1
  case offsetCommit = 8
  case initProducerID = 22
}

/// Brokers on loopback. Topics are made when somebody asks for them, with 4 partitions. Unlike a broker it does not
/// check sequence numbers, and it makes no topics by CreateTopics.
@safe final class MockCluster {
  private let client: OpaquePointer
  private let cluster: OpaquePointer

  init(brokers: Int32 = 1) throws {
    var words = KafkaText()
    unsafe client = try #require(
      unsafe words.filled { unsafe rd_kafka_new(RD_KAFKA_PRODUCER, nil, $0, $1) })
    unsafe cluster = try #require(unsafe rd_kafka_mock_cluster_new(client, brokers))
  }

  deinit {
    unsafe rd_kafka_mock_cluster_destroy(cluster)
    unsafe rd_kafka_destroy(client)
  }

  var servers: String { unsafe String(cString: rd_kafka_mock_cluster_bootstraps(cluster)) }

  /// - Parameter properties: beside those with which a lost member of a group is soon missed. The mock lets a group wait
  /// for 3 s for members at first.
  func access(_ properties: [(name: String, value: String)] = []) throws -> BrokerAccess {
    var access = BrokerAccess(try #require(BrokerAddress("kafka://\(servers)")), program: "test")
    access.properties =
      [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "200")] + properties
    return access
  }

  func connect(
    _ properties: [(name: String, value: String)] = [],
    patience: KafkaConnection.Patience = .init()
  ) throws -> KafkaConnection {
    try KafkaConnection.connect(access(properties), patience: patience)
  }

  func create(_ topic: String, partitions: Int32) {
    #expect(
      unsafe rd_kafka_mock_topic_create(cluster, topic, partitions, 1)
        == RD_KAFKA_RESP_ERR_NO_ERROR)
  }

  /// The next requests of a kind fail, one by each error.
  func fail(_ request: KafkaRequest, _ errors: [rd_kafka_resp_err_t]) {
    unsafe rd_kafka_mock_push_request_errors_array(
      cluster, request.rawValue, errors.count, errors)
  }

  func setError(_ error: rd_kafka_resp_err_t, of topic: String) {
    unsafe rd_kafka_mock_topic_set_error(cluster, topic, error)
  }

  func setLeader(_ broker: Int32, of topic: String, _ partition: Int32) {
    #expect(
      unsafe rd_kafka_mock_partition_set_leader(cluster, topic, partition, broker)
        == RD_KAFKA_RESP_ERR_NO_ERROR)
  }

  func setCoordinator(_ broker: Int32, of group: String) {
    #expect(
      unsafe rd_kafka_mock_coordinator_set(cluster, "group", group, broker)
        == RD_KAFKA_RESP_ERR_NO_ERROR)
  }

  /// All brokers, or one.
  func takeDown(_ broker: Int32 = -1) {
    #expect(
      unsafe rd_kafka_mock_broker_set_down(cluster, broker) == RD_KAFKA_RESP_ERR_NO_ERROR)
  }

  func bringUp(_ broker: Int32 = -1) {
    #expect(unsafe rd_kafka_mock_broker_set_up(cluster, broker) == RD_KAFKA_RESP_ERR_NO_ERROR)
  }

  /// The first so many messages of a topic, read by a group of its own.
  func messages(of topic: String, _ count: Int) throws -> [BrokerDelivery] {
    let connection = try connect()
    defer { connection.close() }
    try connection.consume(
      [.partitioned(topic, count: 1)], prefetch: 65_535, group: "reader-of-\(topic)")
    return try connection.deliveries(count)
  }
}

/// Longer than anything takes on a busy machine.
let longest: Int64 = 60_000_000_000

extension KafkaConnection {
  /// Polls until something holds.
  func poll(until isDone: () -> Bool, _ take: (BrokerNotice) -> Void) throws {
    let end = SystemClock.monotonicNanoseconds() + longest
    while !isDone() {
      try #require(SystemClock.monotonicNanoseconds() < end, "it did not come to pass")
      try poll(milliseconds: 100, take)
    }
  }

  /// Polls until so many messages have come, and takes no more than come with them.
  func deliveries(_ count: Int) throws -> [BrokerDelivery] {
    var deliveries: [BrokerDelivery] = []
    try poll(until: { deliveries.count >= count }) {
      if case .delivery(let delivery) = $0 { deliveries.append(delivery) }
    }
    return deliveries
  }

  /// Publishes messages and waits for what the broker says to all of them.
  func settle(_ messages: [BrokerMessage]) throws -> Fates {
    var fates = Fates()
    var last: UInt64 = 0
    for message in messages {
      let number = try publish(message)
      #expect(number == last + 1)
      last = number
    }
    try poll(until: { fates.count == messages.count }) { fates.note($0) }
    return fates
  }

  /// Polls until the connection breaks, and says why.
  func breaks(_ take: (BrokerNotice) -> Void = { _ in }) throws -> BrokerError {
    let end = SystemClock.monotonicNanoseconds() + longest
    while SystemClock.monotonicNanoseconds() < end {
      do throws(BrokerError) { try poll(milliseconds: 100, take) } catch { return error }
    }
    throw try #require(nil as BrokerError?, "it did not break")
  }
}

/// What became of messages, by their numbers.
struct Fates: Equatable {
  var confirmed: Set<UInt64> = []
  var refused: [UInt64: String] = [:]

  var count: Int { confirmed.count + refused.count }

  mutating func note(_ notice: BrokerNotice) {
    switch notice {
    case .confirmed(let number): #expect(confirmed.insert(number).inserted)
    case .refused(let number, let reason, _): #expect(refused.updateValue(reason, forKey: number) == nil)
    case .postponed, .delivery, .blocked: break
    }
  }
}

/// Messages `first` and on, over so many keys in turn.
func messages(_ count: Int, to topic: String, keys: Int = 8, first: Int = 0) -> [BrokerMessage] {
  (first..<first + count).map { index in
    BrokerMessage(
      to: topic, partitionKey: "sku-\(index % keys)", id: "\(index)", type: "StockReserved",
      source: "test", contentType: "application/json", time: 1_764_421_200_500_000_000,
      attributes: [("sequence", "\(index)")], body: Array("{\"n\":\(index)}".utf8))
  }
}
