// A connection to Kafka, by librdkafka. Everything that its threads have to say comes through queues that the caller's
// thread reads: nothing here is called from another thread.
internal import CKafka
package import Messaging
internal import Posix

/// A cluster of Kafka's, as relay, intake and load generator use it. A topic is where messages go, and where they are read
/// from; the key of a record is the message's partition key.
package final class KafkaConnection: BrokerConnection {
  /// What a caller may change, for tests.
  package struct Patience: Sendable {
    /// How long to wait for the first broker, and for each answer of one in `declare` and `consume`.
    package var answerMilliseconds: Int32 = 10_000
    /// How long all brokers may be down until the connection is given up.
    package var downMilliseconds: Int32 = 5_000
    /// How long nothing may be confirmed until that is told.
    package var silenceMilliseconds: Int32 = 10_000
    /// How long `close` may take for what was published and for what was accepted, each.
    package var closeMilliseconds: Int32 = 5_000
    /// Of bodies that are large, about as many bytes may be unaccepted at once: a topic may be full of them.
    package var largeBodiesBytesMax = 32 << 20

    package init() {}
  }

  /// Readers look after their positions this often at least.
  private static let readerNanoseconds: Int64 = 100_000_000
  /// The health of the cluster is looked after this often at least.
  private static let healthNanoseconds: Int64 = 500_000_000
  /// Sources of one call of `consume`.
  private static let readersMax = 64
  /// Larger bodies than an order has.
  private static let largeBodyBytes = 256 << 10
  /// Above these bits a tag says which reader it is of.
  private static let readerShift: UInt64 = 58

  private let access: BrokerAccess
  private let patience: Patience
  private let log: KafkaLog
  private let wakeup: Wakeup
  private let producer: KafkaProducer
  private var readers: [any KafkaReader] = []
  private var prefetch = 0
  /// Bytes of the large bodies that are not accepted, by tag, and of all of them.
  private var largeBodies: [UInt64: Int] = [:]
  private var largeBodiesBytes = 0
  /// Why the connection is of no more use.
  private var failure: BrokerError?
  private var isClosed = false

  /// Waits until a broker is there.
  /// - Parameter log: gets what librdkafka has to say to an operator.
  /// - Throws: `unsuitable` for credentials, certificates and properties; `away` where no broker answers.
  package static func connect(
    _ access: BrokerAccess, patience: Patience = Patience(), log: KafkaLog = KafkaLog()
  ) throws(BrokerError) -> KafkaConnection {
    let connection = try KafkaConnection(access, patience, log)
    try connection.producer.client.waitForBroker(milliseconds: patience.answerMilliseconds)
    return connection
  }

  /// Finds what is wrong with the properties of an operator, without a connection.
  /// - Throws: `unsuitable`.
  package static func check(_ access: BrokerAccess) throws(BrokerError) {
    unsafe rd_kafka_conf_destroy(try KafkaSettings.producer(access).configuration())
  }

  private init(
    _ access: BrokerAccess, _ patience: Patience, _ log: KafkaLog
  ) throws(BrokerError) {
    self.access = access
    self.patience = patience
    self.log = log
    do throws(Errno) { wakeup = try Wakeup() } catch { throw .away(error.description) }
    producer = try KafkaProducer(
      access, silenceMax: Int64(patience.silenceMilliseconds) * 1_000_000, wakeup: wakeup, log: log)
  }

  // MARK: Topics

  package func declare(_ declarations: [BrokerDeclaration]) throws(BrokerError) {
    let topics = declarations.compactMap { declaration -> KafkaTopic? in
      switch declaration {
      case .destination(let name), .deadLetters(let name): KafkaTopic(name: name)
      case .partitioned(let name, let count):
        KafkaTopic(name: name, partitions: Int32(clamping: count))
      case .subscription, .single: nil
      }
    }
    let maker = KafkaTopics(
      client: producer.client, log: log, milliseconds: patience.answerMilliseconds)
    try settled { () throws(BrokerError) in try maker.make(topics) }
  }

  package func consume(
    _ sources: [BrokerDeclaration], prefetch: Int, group: String
  ) throws(BrokerError) {
    precondition(1...65_535 ~= prefetch, "a prefetch of \(prefetch)")
    self.prefetch = prefetch
    var topics: [String] = []
    var tails: [String] = []
    for source in sources {
      switch source {
      case .partitioned(let name, _): topics.append(name)
      case .subscription(let name, _): tails.append(name)
      case .destination, .deadLetters, .single: preconditionFailure("\(source) is not for reading")
      }
    }
    precondition(readers.count + tails.count < Self.readersMax, "too many sources")
    try settled { () throws(BrokerError) in
      for name in tails {
        readers.append(
          try KafkaTail(
            access, topic: name, wakeup: wakeup, log: log,
            milliseconds: patience.answerMilliseconds))
      }
      guard !topics.isEmpty else { return }
      readers.append(
        try KafkaGroup(
          access, topics: topics, group: group, wakeup: wakeup, log: log))
    }
  }

  /// Messages that a topic has, read or not, until its retention or somebody takes them away. Where records were compacted
  /// or transactions ended, that is more than can be read.
  package func depth(of topic: String) throws(BrokerError) -> Int? {
    try settled { () throws(BrokerError) in
      let client = producer.client
      let milliseconds = patience.answerMilliseconds
      let partitions = try client.partitions(of: topic, milliseconds: milliseconds)
      if partitions == 0 { return nil }
      var count = 0
      for number in 0..<partitions {
        count += try client.watermarks(of: topic, number, milliseconds: milliseconds).count
      }
      return count
    }
  }

  // MARK: Messages

  package func publish(_ message: BrokerMessage) throws(BrokerError) -> UInt64 {
    try settled { () throws(BrokerError) in try producer.publish(message) }
  }

  package func accept(_ tags: [UInt64]) throws(BrokerError) {
    if let failure { throw failure }
    for tag in tags {
      if !largeBodies.isEmpty, let count = largeBodies.removeValue(forKey: tag) {
        largeBodiesBytes -= count
      }
      let index = Int(tag >> Self.readerShift)
      guard index < readers.count else { continue }
      readers[index].accept(tag & (1 << Self.readerShift - 1))
    }
  }

  package func poll(
    milliseconds: Int32, _ take: (BrokerNotice) -> Void
  ) throws(BrokerError) {
    let end = SystemClock.monotonicNanoseconds() + Int64(max(0, milliseconds)) * 1_000_000
    try settled { () throws(BrokerError) in
      while true {
        // Before the queues are looked at: what comes behind the look signals again.
        wakeup.clear()
        if try drain(take) { return }
        try probe()
        let left = end - SystemClock.monotonicNanoseconds()
        guard left > 0 else { return }
        wakeup.wait(
          nanoseconds: min(left, readers.isEmpty ? Self.healthNanoseconds : Self.readerNanoseconds))
      }
    }
  }

  private func drain(_ take: (BrokerNotice) -> Void) throws(BrokerError) -> Bool {
    var hasCome = try producer.drain(take)
    for (index, reader) in readers.enumerated() {
      let came = try reader.drain(room: room) { notice in
        guard case .delivery(var delivery) = notice else { return take(notice) }
        delivery.tag |= UInt64(index) << Self.readerShift
        if delivery.body.count > Self.largeBodyBytes {
          largeBodies[delivery.tag] = delivery.body.count
          largeBodiesBytes += delivery.body.count
        }
        take(.delivery(delivery))
      }
      if came { hasCome = true }
    }
    return hasCome
  }

  /// How many deliveries may be taken. While there are large ones in hand, one at a time, and none once they are too many.
  private var room: Int {
    if largeBodiesBytes >= patience.largeBodiesBytesMax { return 0 }
    let room = max(0, prefetch - readers.reduce(0) { $0 + $1.unaccepted })
    return largeBodiesBytes > 0 ? min(room, 1) : room
  }

  private func probe() throws(BrokerError) {
    let patience = Int64(patience.downMilliseconds) * 1_000_000
    try producer.client.probe(patience: patience)
    for reader in readers { try reader.client.probe(patience: patience) }
  }

  /// What has failed once is not tried again.
  private func settled<Result>(
    _ body: () throws(BrokerError) -> Result
  ) throws(BrokerError) -> Result {
    if let failure { throw failure }
    precondition(!isClosed, "a connection that was closed")
    do throws(BrokerError) { return try body() } catch {
      failure = error
      throw error
    }
  }

  package func close() {
    guard !isClosed else { return }
    isClosed = true
    if failure == nil { producer.flush(milliseconds: Int64(patience.closeMilliseconds)) }
    for reader in readers { reader.close(milliseconds: Int64(patience.closeMilliseconds)) }
    readers = []
  }
}
