// Publishes messages in order by an idempotent producer.
internal import Bytes
internal import CKafka
internal import Messaging
internal import Posix

/// The producer of a connection. Within a partition the broker takes a message once and behind its predecessor, or the
/// producer ends: sequence numbers see to it, however often the library sends a batch again, and whoever leads the
/// partition by then. What was not confirmed by this producer is published again by another one, in order.
@safe final class KafkaProducer {
  /// Events are taken at most so many at a time, so that a caller gets to its other work.
  private static let eventsMax = 1024
  /// Destinations come from configuration, and some from orders: beyond so many they are forgotten and looked up anew.
  private static let topicsMax = 256
  /// How long after its end a producer may take to say which message was the cause.
  private static let lastWordsNanoseconds: Int64 = 1_000_000_000

  let client: KafkaClient
  private var topics: [String: OpaquePointer] = unsafe [:]
  /// The number of the newest message.
  private var last: UInt64 = 0
  /// Messages that are neither confirmed nor refused.
  private(set) var outstanding = 0
  /// Messages that did not come as far as the library.
  private var refusals: [BrokerNotice] = []
  /// Since when nothing was confirmed, though something is on its way; monotonic nanoseconds.
  private var silentSince: Int64 = 0
  private var isBlocked = false
  /// How long a broker may take to confirm before that is told, in nanoseconds.
  private let silenceMax: Int64

  init(
    _ access: BrokerAccess, silenceMax: Int64, wakeup: Wakeup, log: KafkaLog
  ) throws(BrokerError) {
    self.silenceMax = silenceMax
    client = try KafkaClient(.producer, .producer(access), wakeup: wakeup, log: log)
  }

  /// What is still on its way is given up.
  deinit {
    forgetTopics()
    _ = unsafe rd_kafka_purge(client.handle, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT)
  }

  // MARK: Publishing

  func publish(_ message: BrokerMessage) throws(BrokerError) -> UInt64 {
    last += 1
    let number = last
    // RabbitMQ's default exchange: the queue is a topic here.
    let isAddressed = message.destination.isEmpty
    let name = isAddressed ? message.routingKey : message.destination
    guard Self.isTopic(name) else {
      refusals.append(
        .refused(number, reason: "UNROUTABLE", text: "\(name.prefix(64)) cannot be a topic's name"))
      return number
    }
    let topic = try unsafe topic(name)
    if outstanding == 0 { silentSince = SystemClock.monotonicNanoseconds() }
    guard let headers = unsafe KafkaHeaders.made(for: message) else { throw .away("out of memory") }
    let error = unsafe produce(message, topic, headers, token(number, isAddressed))
    if error == RD_KAFKA_RESP_ERR_NO_ERROR {
      outstanding += 1
      return number
    }
    unsafe rd_kafka_headers_destroy(headers)
    switch verdict(error, isAddressed) {
    case .message(let reason):
      refusals.append(
        .refused(number, reason: reason, text: "the topic \(name): \(KafkaErrors.text(error))"))
      return number
    case .unsuitable: throw .unsuitable("the topic \(name): \(KafkaErrors.text(error))")
    case .away, .passing: throw .away(KafkaErrors.text(error))
    }
  }

  private func produce(
    _ message: BrokerMessage, _ topic: OpaquePointer, _ headers: OpaquePointer,
    _ token: UnsafeMutableRawPointer?
  ) -> rd_kafka_resp_err_t {
    var key = message.partitionKey
    return key.withUTF8 { key in
      unsafe message.body.withUnsafeBytes { body in
        // Without a key any partition will do. A body of no bytes is not the same as none, which deletes.
        unsafe holdfast_kafka_produce(
          client.handle, topic, key.isEmpty ? nil : key.baseAddress, key.count,
          body.baseAddress ?? UnsafeRawPointer(topic), body.count, message.time / 1_000_000,
          headers,
          token)
      }
    }
  }

  /// What the library gives back with a message: its number, and whether the message named its topic itself.
  private func token(_ number: UInt64, _ isAddressed: Bool) -> UnsafeMutableRawPointer? {
    unsafe UnsafeMutableRawPointer(bitPattern: UInt(number) << 1 | (isAddressed ? 1 : 0))
  }

  /// To a topic that a message names itself, it is the message that is at fault.
  private func verdict(_ error: rd_kafka_resp_err_t, _ isAddressed: Bool) -> KafkaVerdict {
    if isAddressed && KafkaErrors.isOfTopic(error) { return .message("UNROUTABLE") }
    return KafkaErrors.ofDelivery(error)
  }

  private func topic(_ name: String) throws(BrokerError) -> OpaquePointer {
    if let known = unsafe topics[name] { return unsafe known }
    if unsafe topics.count >= Self.topicsMax { forgetTopics() }
    guard let topic = unsafe rd_kafka_topic_new(client.handle, name, nil) else {
      throw .away("the topic \(name): \(KafkaErrors.text(rd_kafka_last_error()))")
    }
    unsafe topics[name] = topic
    return unsafe topic
  }

  /// The library keeps a topic for as long as a message for it is on its way.
  private func forgetTopics() {
    while let (_, topic) = unsafe topics.popFirst() { unsafe rd_kafka_topic_destroy(topic) }
  }

  /// As the broker has it: 1 to 249 of [a-zA-Z0-9._-], but neither . nor ..
  static func isTopic(_ name: String) -> Bool {
    1...249 ~= name.utf8.count && name != "." && name != ".."
      && name.utf8.allSatisfy {
        switch $0 {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
          UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"),
          UInt8(ascii: "-"):
          true
        default: false
        }
      }
  }

  // MARK: What the broker says

  /// Takes what has come.
  /// - Returns: whether there was anything.
  func drain(_ take: (BrokerNotice) -> Void) throws(BrokerError) -> Bool {
    var hasCome = !refusals.isEmpty
    let refused = refusals
    refusals = []
    for notice in refused { take(notice) }
    for _ in 0..<Self.eventsMax {
      guard let event = try unsafe client.nextEvent() else { break }
      defer { unsafe rd_kafka_event_destroy(event) }
      guard unsafe rd_kafka_event_type(event) == RD_KAFKA_EVENT_DR else { continue }
      hasCome = true
      try unsafe read(reports: event, take)
    }
    try checkEnd()
    tellSilence(take)
    return hasCome
  }

  private func read(
    reports event: OpaquePointer, _ take: (BrokerNotice) -> Void
  ) throws(BrokerError) {
    var failure: BrokerError?
    var (hasConfirmed, hasRefused) = (false, false)
    while let message = unsafe rd_kafka_event_message_next(event) {
      let token = unsafe UInt64(UInt(bitPattern: message.pointee._private))
      let error = unsafe message.pointee.err
      outstanding -= 1
      if error == RD_KAFKA_RESP_ERR_NO_ERROR {
        hasConfirmed = true
        take(.confirmed(token >> 1))
      } else if token & 1 == 1, KafkaErrors.isOfTopic(error) {
        hasRefused = true
        take(.refused(token >> 1, reason: "UNROUTABLE", text: unsafe words(error, message)))
      } else if failure == nil {
        // What the other messages of the event have come to is still worth knowing.
        failure = unsafe self.failure(error, message)
      }
    }
    if hasConfirmed { client.noteLife() }
    // Where all that was on its way is refused, nothing is left that could be confirmed.
    if hasConfirmed || hasRefused {
      silentSince = SystemClock.monotonicNanoseconds()
      if isBlocked {
        isBlocked = false
        take(.blocked(nil))
      }
    }
    if let failure { throw failure }
  }

  /// A batch fails as a whole, so that the report does not say which of its messages is at fault.
  private func failure(
    _ error: rd_kafka_resp_err_t, _ message: UnsafePointer<rd_kafka_message_t>
  ) -> BrokerError {
    let text = unsafe words(error, message)
    switch KafkaErrors.ofDelivery(error) {
    case .message(let reason): return .messageRefused(reason: reason, text: text)
    case .unsuitable: return .unsuitable(text)
    // The message went with its producer: the producer's end says more.
    case .away, .passing: return .away(client.health.ended?.text ?? text)
    }
  }

  private func words(
    _ error: rd_kafka_resp_err_t, _ message: UnsafePointer<rd_kafka_message_t>
  ) -> String {
    guard let topic = unsafe message.pointee.rkt else { return KafkaErrors.text(error) }
    return
      unsafe "the topic \(String(cString: rd_kafka_topic_name(topic))): \(KafkaErrors.text(error))"
  }

  /// Gives the reports that name the cause a moment to come.
  private func checkEnd() throws(BrokerError) {
    guard let ended = client.health.ended else { return }
    let waited = SystemClock.monotonicNanoseconds() - ended.since
    if outstanding == 0 || waited > Self.lastWordsNanoseconds { throw .away(ended.text) }
  }

  /// A broker that is there may still not take anything: too few replicas, a partition without a leader.
  private func tellSilence(_ take: (BrokerNotice) -> Void) {
    guard outstanding > 0, !isBlocked else { return }
    let silence = SystemClock.monotonicNanoseconds() - silentSince
    guard silence > silenceMax else { return }
    isBlocked = true
    let why = client.health.lastWords
    take(
      .blocked(
        "no message was confirmed for \(silence / 1_000_000_000) s\(why.isEmpty ? "" : ": \(why)")")
    )
  }

  /// Waits until all messages are confirmed, for at most so long.
  func flush(milliseconds: Int64) {
    let end = SystemClock.monotonicNanoseconds() + milliseconds * 1_000_000
    while outstanding > 0, client.health.ended == nil, !client.health.areAllDown {
      let left = (end - SystemClock.monotonicNanoseconds()) / 1_000_000
      guard left > 0 else { return }
      // The library ends the wait early where an event comes, which is to be read.
      _ = unsafe rd_kafka_flush(client.handle, Int32(min(left, 10)))
      do throws(BrokerError) { _ = try drain { _ in } } catch { return }
    }
  }
}

/// The attributes of a CloudEvent as headers of a record (CloudEvents, "Kafka Protocol Binding", binary mode).
@safe enum KafkaHeaders {
  static let prefix = "ce_"

  /// - Returns: what its taker frees or hands to the library; nil: no memory.
  static func made(for message: BrokerMessage) -> OpaquePointer? {
    guard let headers = unsafe rd_kafka_headers_new(message.attributes.count + 9) else {
      return nil
    }
    unsafe add("ce_specversion", "1.0", headers)
    unsafe add("ce_id", message.id, headers)
    unsafe add("ce_type", message.type, headers)
    unsafe add("ce_source", message.source, headers)
    if message.time != 0 {
      unsafe add("ce_time", TimeText.text(nanoseconds: message.time), headers)
    }
    unsafe add("ce_partitionkey", message.partitionKey, headers)
    unsafe add("ce_correlationid", message.correlationID, headers)
    unsafe add("ce_replyto", message.replyTo, headers)
    unsafe add("content-type", message.contentType, headers)
    for (name, value) in message.attributes { unsafe add(prefix + name, value, headers) }
    return unsafe headers
  }

  private static func add(_ name: String, _ value: String, _ headers: OpaquePointer) {
    guard !value.isEmpty else { return }
    _ = unsafe rd_kafka_header_add(
      headers, name, name.utf8.count, value, value.utf8.count)
  }

  /// What a delivery's headers say. Of headers of one name the first counts.
  static func read(
    _ message: UnsafePointer<rd_kafka_message_t>, into delivery: inout BrokerDelivery
  ) {
    var headers: OpaquePointer?
    guard unsafe rd_kafka_message_headers(message, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR,
      let headers = unsafe headers
    else { return }
    var index = 0
    var name: UnsafePointer<CChar>?
    var value: UnsafeRawPointer?
    var size = 0
    while unsafe rd_kafka_header_get_all(headers, index, &name, &value, &size)
      == RD_KAFKA_RESP_ERR_NO_ERROR
    {
      index += 1
      guard let name = unsafe name, let value = unsafe value,
        let field = unsafe field(String(cString: name)), delivery[keyPath: field].isEmpty
      else { continue }
      delivery[keyPath: field] = unsafe String(
        decoding: UnsafeRawBufferPointer(start: value, count: size), as: UTF8.self)
    }
  }

  private static func field(_ name: String) -> WritableKeyPath<BrokerDelivery, String>? {
    switch name {
    case "ce_id": \.id
    case "ce_type": \.type
    case "content-type": \.contentType
    case "ce_partitionkey": \.partitionKey
    case "ce_correlationid": \.correlationID
    case "ce_replyto": \.replyTo
    default: nil
    }
  }
}
