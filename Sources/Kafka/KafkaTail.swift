// Reads a topic from now on, for oneself.
internal import CKafka
internal import Messaging
internal import Posix

/// Every partition of a topic, from where it ended when this began; no position is kept. Partitions that the topic gets
/// later are not read.
@safe final class KafkaTail: KafkaReader {
  private static let batch = 256

  let client: KafkaClient
  /// What all partitions deliver into.
  private let queue: OpaquePointer
  private let topic: OpaquePointer
  private let name: String
  private let partitions: Int32
  private var lastTag: UInt64 = 0
  /// Those that are not accepted. The broker is told nothing of them: they count against the prefetch alone.
  private var tags: Set<UInt64> = []

  var unaccepted: Int { tags.count }

  init(
    _ access: BrokerAccess, topic name: String, wakeup: Wakeup, log: KafkaLog,
    milliseconds: Int32
  ) throws(BrokerError) {
    client = try KafkaClient(
      .consumer, .consumer(access, group: nil), wakeup: wakeup, log: log)
    self.name = name
    try client.waitForBroker(milliseconds: milliseconds)
    partitions = try client.partitions(of: name, milliseconds: milliseconds)
    guard partitions > 0 else { throw .unsuitable("the topic \(name) is not there") }
    guard let queue = unsafe rd_kafka_queue_new(client.handle),
      let topic = unsafe rd_kafka_topic_new(client.handle, name, nil)
    else { throw .away("out of memory") }
    unsafe self.queue = queue
    unsafe self.topic = topic
    unsafe client.watch(queue)
    for number in 0..<partitions { try start(number, milliseconds) }
  }

  /// The end is asked for now: what is published behind this call is read.
  private func start(_ number: Int32, _ milliseconds: Int32) throws(BrokerError) {
    let end = try client.watermarks(of: name, number, milliseconds: milliseconds).upperBound
    guard unsafe rd_kafka_consume_start_queue(topic, number, end, queue) == 0 else {
      throw .away("the topic \(name): \(KafkaErrors.text(rd_kafka_last_error()))")
    }
  }

  deinit {
    for number in 0..<partitions { unsafe rd_kafka_consume_stop(topic, number) }
    unsafe rd_kafka_topic_destroy(topic)
    unsafe rd_kafka_queue_io_event_enable(queue, -1, nil, 0)
    unsafe rd_kafka_queue_destroy(queue)
  }

  func drain(room: Int, _ take: (BrokerNotice) -> Void) throws(BrokerError) -> Bool {
    while let event = try unsafe client.nextEvent() { unsafe rd_kafka_event_destroy(event) }
    guard room > 0 else { return false }
    return try unsafe KafkaMessages.taken(
      from: queue, atMost: min(room, Self.batch), of: client
    ) { message in
      lastTag += 1
      tags.insert(lastTag)
      let origin = unsafe "\(name)[\(message.pointee.partition)]"
      take(.delivery(unsafe KafkaMessages.delivery(message, tag: lastTag, origin: origin)))
    } > 0
  }

  func accept(_ tag: UInt64) { tags.remove(tag) }

  func close(milliseconds: Int64) {}
}
