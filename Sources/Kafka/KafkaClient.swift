// One instance of librdkafka: its handle, the queue of its events, and what it says of the cluster.
internal import CKafka
internal import Glibc
internal import Messaging
internal import Posix

/// A client, producer or consumer. Used by one thread; the library's own threads write to its queues alone.
@safe final class KafkaClient {
  enum Kind { case producer, consumer }

  private static let noNews = ["will be ignored by this", "enable.gapless.guarantee"]

  let handle: OpaquePointer
  /// What the library has to say comes here, as events.
  let queue: OpaquePointer
  let log: KafkaLog
  private let wakeup: Wakeup
  private(set) var health = ClusterHealth()

  /// - Parameter wakeup: signalled when something comes into an empty queue.
  init(
    _ kind: Kind, _ settings: KafkaSettings, wakeup: Wakeup, log: KafkaLog
  ) throws(BrokerError) {
    self.log = log
    self.wakeup = wakeup
    let configuration = try unsafe settings.configuration()
    unsafe rd_kafka_conf_set_events(
      configuration,
      RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG | RD_KAFKA_EVENT_REBALANCE
        | RD_KAFKA_EVENT_OFFSET_COMMIT)
    var text = KafkaText()
    let made = unsafe text.filled { buffer, size in
      unsafe rd_kafka_new(
        kind == .producer ? RD_KAFKA_PRODUCER : RD_KAFKA_CONSUMER, configuration, buffer, size)
    }
    guard let made = unsafe made else {
      // The library takes the configuration only where it succeeds.
      unsafe rd_kafka_conf_destroy(configuration)
      throw .unsuitable(text.value)
    }
    guard let main = unsafe rd_kafka_queue_get_main(made) else {
      unsafe rd_kafka_destroy(made)
      throw .away("out of memory")
    }
    unsafe handle = made
    unsafe queue = main
    unsafe rd_kafka_set_log_queue(handle, queue)
    unsafe watch(queue)
  }

  /// The queue is given up first: what it says from now on is for nobody.
  deinit {
    unsafe rd_kafka_queue_io_event_enable(queue, -1, nil, 0)
    unsafe rd_kafka_queue_destroy(queue)
    // Consumers are closed before, within a bound; the library would wait without one.
    unsafe rd_kafka_destroy_flags(handle, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE)
  }

  /// Has the wakeup signalled when a queue is no longer empty.
  func watch(_ queue: OpaquePointer) {
    var one: UInt64 = 1
    unsafe rd_kafka_queue_io_event_enable(queue, wakeup.number, &one, 8)
  }

  // MARK: Events

  /// The next event of the queue, to be freed by `rd_kafka_event_destroy`; nil: none for now. Errors and lines of the log
  /// are taken care of here.
  /// - Parameter milliseconds: how long to wait for it.
  /// - Throws: where an error of the client as a whole says that the connection is of no more use.
  func nextEvent(waiting milliseconds: Int32 = 0) throws(BrokerError) -> OpaquePointer? {
    while let event = unsafe rd_kafka_queue_poll(queue, milliseconds) {
      switch unsafe rd_kafka_event_type(event) {
      case RD_KAFKA_EVENT_LOG:
        unsafe note(log: event)
        unsafe rd_kafka_event_destroy(event)
      case RD_KAFKA_EVENT_ERROR:
        defer { unsafe rd_kafka_event_destroy(event) }
        try unsafe note(error: event)
      default: return unsafe event
      }
    }
    return nil
  }

  private func note(log event: OpaquePointer) {
    var (facility, text): (UnsafePointer<CChar>?, UnsafePointer<CChar>?) = (nil, nil)
    var level: Int32 = 0
    guard unsafe rd_kafka_event_log(event, &facility, &text, &level) == 0,
      let facility = unsafe facility, let text = unsafe text
    else { return }
    let name = unsafe String(cString: facility)
    let line = unsafe String(cString: text)
    // The operator's properties are for both kinds of client, and one of ours is called experimental: no news.
    if name == "CONFWARN", Self.noNews.contains(where: { line.contains($0) }) { return }
    log.note(facility: name, line, now: SystemClock.monotonicNanoseconds())
  }

  private func note(error event: OpaquePointer) throws(BrokerError) {
    var text = unsafe String(cString: rd_kafka_event_error_string(event))
    if unsafe rd_kafka_event_error_is_fatal(event) != 0 {
      var words = KafkaText()
      let code = unsafe words.filled { buffer, size in
        unsafe rd_kafka_fatal_error(handle, buffer, size)
      }
      if !words.value.isEmpty { text = words.value }
      try health.end(code, text, now: SystemClock.monotonicNanoseconds())
    } else {
      try health.note(
        unsafe rd_kafka_event_error(event), text, now: SystemClock.monotonicNanoseconds())
    }
  }

  /// A partition's error, which comes in place of a message.
  func note(partition message: UnsafeMutablePointer<rd_kafka_message_t>) throws(BrokerError) {
    let words = unsafe rd_kafka_message_errstr(message).map { unsafe String(cString: $0) }
    let error = unsafe message.pointee.err
    try health.note(
      error, words ?? KafkaErrors.text(error), now: SystemClock.monotonicNanoseconds())
  }

  /// A broker has answered.
  func noteLife() { health.noteLife() }

  /// Asks whether a broker is there at all, where connections fail and nobody has answered for long enough.
  /// - Throws: `away` where none is.
  func probe(patience: Int64) throws(BrokerError) {
    guard health.isSuspect(now: SystemClock.monotonicNanoseconds(), patience: patience) else {
      return
    }
    if unsafe metadata(milliseconds: 1000) == nil { return health.noteLife() }
    throw .away(health.lastWords)
  }

  // MARK: Metadata

  /// Waits for the first broker.
  /// - Throws: `unsuitable` where one is there and will not have us; `away` where none is.
  func waitForBroker(milliseconds: Int32) throws(BrokerError) {
    var (left, slice): (Int32, Int32) = (milliseconds, 100)
    while left > 0 {
      let error = unsafe metadata(milliseconds: min(slice, left))
      while let event = try unsafe nextEvent() { unsafe rd_kafka_event_destroy(event) }
      guard let error else { return health.noteLife() }
      if KafkaErrors.ofClient(error) == .unsuitable { throw .unsuitable(KafkaErrors.text(error)) }
      if health.areAllDown { throw .away(health.lastWords) }
      left -= slice
      slice *= 2
    }
    throw .away(
      health.lastWords.isEmpty
        ? "no broker answered within \(milliseconds / 1000) s" : health.lastWords)
  }

  /// How many partitions a topic has; 0: it is not there, or not yet to be written and read. All topics are asked for:
  /// asked for one that is not there, a broker may make it, with as many partitions as it likes.
  /// - Throws: `unsuitable` where this user may not see it; `away` where no broker answers.
  func partitions(of name: String, milliseconds: Int32) throws(BrokerError) -> Int32 {
    var (count, code): (Int32, rd_kafka_resp_err_t) = (0, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
    let error = unsafe metadata(ofAll: true, milliseconds: milliseconds) { metadata in
      for index in unsafe 0..<Int(metadata.topic_cnt) {
        let topic = unsafe metadata.topics[index]
        guard unsafe strcmp(topic.topic, name) == 0 else { continue }
        unsafe (count, code) = (topic.partition_cnt, topic.err)
        for index in unsafe 0..<Int(topic.partition_cnt) {
          let leader = unsafe topic.partitions[index].leader
          if leader < 0 { code = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE }
        }
      }
    }
    if let error { throw .away("the topic \(name): \(KafkaErrors.text(error))") }
    switch code {
    case RD_KAFKA_RESP_ERR_NO_ERROR: return count
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE: return 0
    default: throw .unsuitable("the topic \(name): \(KafkaErrors.text(code))")
    }
  }

  /// The first offset of a partition, and the one behind its last.
  /// - Throws: `unsuitable` where this user may not know; `away` where no broker answers.
  func watermarks(
    of topic: String, _ partition: Int32, milliseconds: Int32
  ) throws(BrokerError) -> Range<Int64> {
    var (first, end): (Int64, Int64) = (0, 0)
    let error = unsafe rd_kafka_query_watermark_offsets(
      handle, topic, partition, &first, &end, milliseconds)
    guard error == RD_KAFKA_RESP_ERR_NO_ERROR else {
      let text = "the topic \(topic): \(KafkaErrors.text(error))"
      throw KafkaErrors.ofClient(error) == .unsuitable ? .unsuitable(text) : .away(text)
    }
    return first..<max(first, end)
  }

  /// - Returns: why there is no answer.
  private func metadata(
    ofAll: Bool = false, milliseconds: Int32,
    _ read: (rd_kafka_metadata_t) -> Void = { _ in }
  ) -> rd_kafka_resp_err_t? {
    var metadata: UnsafePointer<rd_kafka_metadata_t>?
    let error = unsafe rd_kafka_metadata(
      handle, ofAll ? 1 : 0, nil, &metadata, milliseconds)
    defer { if let metadata = unsafe metadata { unsafe rd_kafka_metadata_destroy(metadata) } }
    guard error == RD_KAFKA_RESP_ERR_NO_ERROR, let metadata = unsafe metadata else { return error }
    unsafe read(metadata.pointee)
    return nil
  }
}

/// What a client has said of its cluster.
struct ClusterHealth {
  /// Since when connections fail and no broker has answered; monotonic nanoseconds. Not all brokers need to be down: the
  /// library counts those too that it never had a connection to.
  private var troubledSince: Int64?
  /// Every broker that the library knows of is down.
  private(set) var areAllDown = false
  /// The newest error, in the library's words.
  private(set) var lastWords = ""
  /// Why the client can publish or read nothing more, and when it said so.
  private(set) var ended: (text: String, since: Int64)?

  mutating func noteLife() {
    troubledSince = nil
    areAllDown = false
  }

  /// - Throws: `unsuitable` where waiting does not help.
  mutating func note(
    _ error: rd_kafka_resp_err_t, _ text: String, now: Int64
  ) throws(BrokerError) {
    if KafkaErrors.ofClient(error) == .unsuitable { throw .unsuitable(text) }
    if Self.ofConnections.contains(error.rawValue), troubledSince == nil { troubledSince = now }
    if error == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN {
      areAllDown = true
      // "1/1 brokers are down" says less than what came before it.
      if lastWords.isEmpty { lastWords = text }
    } else {
      lastWords = text
    }
  }

  /// The client is at its end. A gap in a partition's order is told by the reports of the messages that made it, which
  /// come behind this.
  mutating func end(
    _ error: rd_kafka_resp_err_t, _ text: String, now: Int64
  ) throws(BrokerError) {
    if KafkaErrors.ofEnd(error) == .unsuitable { throw .unsuitable(text) }
    guard error == RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE else { throw .away(text) }
    if ended == nil { ended = (text, now) }
  }

  /// Whether connections fail and no broker has answered for so long.
  func isSuspect(now: Int64, patience: Int64) -> Bool {
    troubledSince.map { now - $0 >= patience } ?? false
  }

  private static let ofConnections: Set<Int32> = Set(
    [
      RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, RD_KAFKA_RESP_ERR__TRANSPORT,
      RD_KAFKA_RESP_ERR__RESOLVE, RD_KAFKA_RESP_ERR__TIMED_OUT,
    ].map(\.rawValue))
}
