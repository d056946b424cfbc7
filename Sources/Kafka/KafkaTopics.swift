// Makes topics that are not there.
internal import CKafka
internal import Messaging
internal import Posix

/// A topic as a declaration wants it.
struct KafkaTopic {
  let name: String
  /// nil: as many as the broker gives by itself.
  var partitions: Int32?
}

/// A topic that is there is left as it is: its partitions decide which one a key has, and other people may have made it.
@safe struct KafkaTopics {
  /// The broker's default, as CreateTopics says it (Kafka 2.4).
  private static let brokerDefault: Int32 = -1

  let client: KafkaClient
  let log: KafkaLog
  /// For all of a call.
  let milliseconds: Int32

  /// - Throws: `unsuitable` where a topic is not there and cannot be made; `away` where no broker answers.
  func make(_ topics: [KafkaTopic]) throws(BrokerError) {
    let deadline = SystemClock.monotonicNanoseconds() + Int64(milliseconds) * 1_000_000
    for topic in topics {
      guard KafkaProducer.isTopic(topic.name) else {
        throw .unsuitable("\(topic.name.prefix(64)) cannot be a topic's name")
      }
      if try look(for: topic) { continue }
      let reason = try create(topic)
      // The brokers tell each other of it.
      while try !look(for: topic) {
        guard SystemClock.monotonicNanoseconds() < deadline else {
          let why = reason.map { " and was not made: \($0)" } ?? ""
          throw .unsuitable(
            "the topic \(topic.name) is not there, or a partition of it has no leader\(why)")
        }
        // Its log and its errors are answered meanwhile.
        if let event = try unsafe client.nextEvent(waiting: 50) {
          unsafe rd_kafka_event_destroy(event)
        }
      }
    }
  }

  /// - Returns: why it was not made; nil: it was.
  private func create(_ topic: KafkaTopic) throws(BrokerError) -> String? {
    var text = KafkaText()
    let made = unsafe text.filled { buffer, size in
      unsafe rd_kafka_NewTopic_new(
        topic.name, topic.partitions ?? Self.brokerDefault, Self.brokerDefault, buffer, size)
    }
    guard let made = unsafe made else {
      throw .unsuitable("the topic \(topic.name): \(text.value)")
    }
    defer { unsafe rd_kafka_NewTopic_destroy(made) }
    guard let queue = unsafe rd_kafka_queue_new(client.handle) else { throw .away("out of memory") }
    defer { unsafe rd_kafka_queue_destroy(queue) }
    let options = unsafe rd_kafka_AdminOptions_new(client.handle, RD_KAFKA_ADMIN_OP_CREATETOPICS)
    defer { unsafe rd_kafka_AdminOptions_destroy(options) }
    unsafe rd_kafka_AdminOptions_set_request_timeout(options, milliseconds, nil, 0)
    unsafe rd_kafka_AdminOptions_set_operation_timeout(options, milliseconds, nil, 0)
    var list: OpaquePointer? = unsafe made
    unsafe rd_kafka_CreateTopics(client.handle, &list, 1, options, queue)
    guard let event = unsafe rd_kafka_queue_poll(queue, milliseconds + 1000) else {
      throw .away("no broker answered to the making of the topic \(topic.name)")
    }
    defer { unsafe rd_kafka_event_destroy(event) }
    return try unsafe outcome(event, topic.name)
  }

  private func outcome(_ event: OpaquePointer, _ name: String) throws(BrokerError) -> String? {
    var error = unsafe rd_kafka_event_error(event)
    var text = unsafe String(cString: rd_kafka_event_error_string(event))
    if error == RD_KAFKA_RESP_ERR_NO_ERROR,
      let result = unsafe rd_kafka_event_CreateTopics_result(event)
    {
      var count = 0
      let results = unsafe rd_kafka_CreateTopics_result_topics(result, &count)
      if count == 1, let one = unsafe results?[0] {
        error = unsafe rd_kafka_topic_result_error(one)
        text =
          unsafe rd_kafka_topic_result_error_string(one).map { unsafe String(cString: $0) } ?? ""
      }
    }
    switch error {
    case RD_KAFKA_RESP_ERR_NO_ERROR, RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS: return nil
    case RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR__TIMED_OUT,
      RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
      throw .away("the topic \(name): \(text)")
    // A broker that does not let it be made may have it all the same.
    default: return text.isEmpty ? KafkaErrors.text(error) : text
    }
  }

  /// Whether a topic can be written and read.
  private func look(for topic: KafkaTopic) throws(BrokerError) -> Bool {
    let count = try client.partitions(of: topic.name, milliseconds: milliseconds)
    if count > 0, let wanted = topic.partitions, wanted != count {
      log.note(
        "the topic \(topic.name) has \(count) partitions, not \(wanted): it is left as it is")
    }
    return count > 0
  }
}
