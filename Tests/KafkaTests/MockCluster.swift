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

  /// How far a group has come in a partition; nil: it has not said.
  func position(of group: String, in topic: String, _ partition: Int32) -> Int64? {
    guard let client = unsafe reader(group: group),
      let list = unsafe rd_kafka_topic_partition_list_new(1)
    else { return nil }
    defer {
      unsafe rd_kafka_topic_partition_list_destroy(list)
      unsafe rd_kafka_destroy(client)
    }
    unsafe rd_kafka_topic_partition_list_add(list, topic, partition)
    guard unsafe rd_kafka_committed(client, list, 10_000) == RD_KAFKA_RESP_ERR_NO_ERROR else {
      return nil
    }
    let offset = unsafe list.pointee.elems[0].offset
    return offset < 0 ? nil : offset
  }

  private func reader(group: String) -> OpaquePointer? {
    var words = KafkaText()
    let configuration = unsafe rd_kafka_conf_new()
    for (name, value) in [("bootstrap.servers", servers), ("group.id", group)] {
      _ = unsafe words.filled { unsafe rd_kafka_conf_set(configuration, name, value, $0, $1) }
    }
    return unsafe words.filled { unsafe rd_kafka_new(RD_KAFKA_CONSUMER, configuration, $0, $1) }
  }

  /// Messages of a topic as they are in its partitions, from the first on, until so many of them differ. Not read by the
  /// module under test, and without the wait of a group.
  func records(of topic: String, differing count: Int) throws -> [Record] {
    let partitions: Int32 = 4
    let reader = try unsafe #require(unsafe self.reader(group: "nobody"))
    defer { unsafe rd_kafka_destroy(reader) }
    let handle = unsafe rd_kafka_topic_new(reader, topic, nil)
    let queue = unsafe rd_kafka_queue_new(reader)
    for number in 0..<partitions {
      let beginning = Int64(RD_KAFKA_OFFSET_BEGINNING)
      #expect(unsafe rd_kafka_consume_start_queue(handle, number, beginning, queue) == 0)
    }
    defer {
      for number in 0..<partitions { unsafe rd_kafka_consume_stop(handle, number) }
      unsafe rd_kafka_queue_destroy(queue)
      unsafe rd_kafka_topic_destroy(handle)
    }
    var records: [Record] = []
    var ids: Set<String> = []
    let end = SystemClock.monotonicNanoseconds() + longest
    while ids.count < count {
      try #require(SystemClock.monotonicNanoseconds() < end, "\(ids.count) of \(count) are there")
      guard let message = unsafe rd_kafka_consume_queue(queue, 100) else { continue }
      if unsafe message.pointee.err == RD_KAFKA_RESP_ERR_NO_ERROR {
        records.append(unsafe Record(message))
        ids.insert(records[records.count - 1].id)
      }
      unsafe rd_kafka_message_destroy(message)
    }
    return records
  }
}

/// A message as it is in a partition.
@safe struct Record {
  let key: String
  let partition: Int32
  let milliseconds: Int64
  let body: String
  private(set) var headers: [String: String] = [:]

  var id: String { headers["ce_id"] ?? "" }

  init(_ message: UnsafeMutablePointer<rd_kafka_message_t>) {
    func text(_ start: UnsafeRawPointer?, _ count: Int) -> String {
      unsafe String(decoding: UnsafeRawBufferPointer(start: start, count: count), as: UTF8.self)
    }
    key = unsafe text(message.pointee.key, message.pointee.key_len)
    partition = unsafe message.pointee.partition
    milliseconds = unsafe rd_kafka_message_timestamp(message, nil)
    body = unsafe text(message.pointee.payload, message.pointee.len)
    var list: OpaquePointer?
    guard unsafe rd_kafka_message_headers(message, &list) == RD_KAFKA_RESP_ERR_NO_ERROR else {
      return
    }
    var (name, value): (UnsafePointer<CChar>?, UnsafeRawPointer?) = (nil, nil)
    var (index, size) = (0, 0)
    while unsafe rd_kafka_header_get_all(list, index, &name, &value, &size)
      == RD_KAFKA_RESP_ERR_NO_ERROR
    {
      if let name = unsafe name { headers[unsafe String(cString: name)] = unsafe text(value, size) }
      index += 1
    }
  }
}

/// Longer than anything takes on a busy machine.
let longest: Int64 = 60_000_000_000

extension KafkaConnection {
  /// Polls until something holds.
  func poll(until isDone: @autoclosure () -> Bool, _ take: (BrokerNotice) -> Void) throws {
    let end = SystemClock.monotonicNanoseconds() + longest
    while !isDone() {
      try #require(SystemClock.monotonicNanoseconds() < end, "it did not come to pass")
      try poll(milliseconds: 100, take)
    }
  }

  /// Polls until so many messages have come, and takes no more than come with them.
  func deliveries(_ count: Int) throws -> [BrokerDelivery] {
    var deliveries: [BrokerDelivery] = []
    try poll(until: deliveries.count >= count) {
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
    try poll(until: fates.count == messages.count) { fates.note($0) }
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
    case .refused(let number, let reason, _):
      #expect(refused.updateValue(reason, forKey: number) == nil)
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
