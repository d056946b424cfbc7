// Messages to a mock cluster whose requests fail as a test orders.
import CKafkaMock
import Messaging
import Posix
import Testing

@testable import Kafka

@Suite(OwnThreads())
struct PublishTests {
  @Test func confirmsEachMessageAndKeepsTheOrderOfAKey() throws {
    let cluster = try MockCluster(brokers: 3)
    let connection = try cluster.connect()
    let sent = messages(1000, to: "events")
    #expect(try connection.settle(sent) == Fates(confirmed: Set(1...1000)))
    connection.close()
    let read = try cluster.records(of: "events", differing: 1000)
    #expect(read.count == 1000)
    for key in 0..<8 {
      let ofKey = read.filter { $0.key == "sku-\(key)" }
      #expect(ofKey.map(\.id) == (0..<125).map { "\($0 * 8 + key)" })
      #expect(Set(ofKey.map(\.partition)).count == 1)
    }
  }

  @Test func carriesTheAttributesAsHeaders() throws {
    let cluster = try MockCluster()
    let connection = try cluster.connect()
    var message = messages(1, to: "events")[0]
    message.correlationID = "order-7"
    message.replyTo = "answers"
    var bare = BrokerMessage(to: "events", partitionKey: "sku-0")
    bare.body = []
    _ = try connection.settle([message, bare])
    connection.close()
    let read = try cluster.records(of: "events", differing: 2)
    #expect(
      read.map(\.headers) == [
        [
          "ce_specversion": "1.0", "ce_id": "0", "ce_type": "StockReserved", "ce_source": "test",
          "ce_time": "2025-11-29T13:00:00.500Z", "ce_partitionkey": "sku-0",
          "ce_correlationid": "order-7", "ce_replyto": "answers", "ce_sequence": "0",
          "content-type": "application/json",
        ], ["ce_specversion": "1.0", "ce_partitionkey": "sku-0"],
      ])
    #expect(read.map(\.key) == ["sku-0", "sku-0"] && read.map(\.body) == ["{\"n\":0}", ""])
    #expect(read[0].milliseconds == 1_764_421_200_500)
    // And as this module reads it.
    let reader = try cluster.connect()
    try reader.consume([.partitioned("events", count: 4)], prefetch: 10, group: "reader")
    let deliveries = try reader.deliveries(2)
    reader.close()
    #expect(deliveries.map(\.id) == ["0", ""])
    #expect(deliveries.map(\.type) == ["StockReserved", ""])
    #expect(deliveries.map(\.contentType) == ["application/json", ""])
    #expect(deliveries.map(\.partitionKey) == ["sku-0", "sku-0"])
    #expect(deliveries.map(\.correlationID) == ["order-7", ""])
    #expect(deliveries.map(\.replyTo) == ["answers", ""])
    #expect(deliveries.map(\.body) == [message.body, []])
  }

  /// A message at a time, so that the mock, which does not look at sequence numbers, cannot take the next one first.
  @Test(arguments: [
    [RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION], [RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE],
    [RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT], [RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS],
    [RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR__TRANSPORT],
    // The broker has it already, by an answer that was lost.
    [RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER],
  ])
  func triesAgain(_ errors: [rd_kafka_resp_err_t]) throws {
    let cluster = try MockCluster()
    let connection = try cluster.connect()
    cluster.fail(.produce, errors)
    for number in 1...3 as ClosedRange<UInt64> {
      _ = try connection.publish(messages(1, to: "events", first: Int(number))[0])
      var fates = Fates()
      try connection.poll(until: fates.count == 1) { fates.note($0) }
      #expect(fates == Fates(confirmed: [number]))
    }
    connection.close()
  }

  /// The broker takes a batch or refuses it: which message it is, the outbox finds out.
  @Test(arguments: [
    (RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, "MESSAGE_TOO_LARGE"),
    (RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE, "MESSAGE_TOO_LARGE"),
    (RD_KAFKA_RESP_ERR_INVALID_RECORD, "REJECTED"),
    (RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP, "REJECTED"),
    (RD_KAFKA_RESP_ERR_POLICY_VIOLATION, "REJECTED"),
  ])
  func saysThatAMessageIsRefused(_ error: rd_kafka_resp_err_t, _ reason: String) throws {
    let cluster = try MockCluster()
    let connection = try cluster.connect()
    cluster.fail(.produce, [error])
    _ = try connection.publish(messages(1, to: "events")[0])
    let failure = try connection.breaks()
    guard case .messageRefused(reason, let text) = failure else {
      Issue.record("\(failure)")
      return
    }
    #expect(text.hasPrefix("the topic events: "))
    // The producer is at its end, and says the same again.
    #expect(throws: failure) { try connection.poll(milliseconds: 0) { _ in } }
    #expect(throws: failure) { try connection.publish(messages(1, to: "events")[0]) }
    connection.close()
  }

  @Test(arguments: [
    RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
    RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT, RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS,
  ])
  func saysThatTheClusterIsUnsuitable(_ error: rd_kafka_resp_err_t) throws {
    let cluster = try MockCluster()
    let connection = try cluster.connect()
    cluster.fail(.produce, [error])
    _ = try connection.publish(messages(1, to: "events")[0])
    let failure = try connection.breaks()
    guard case .unsuitable = failure else {
      Issue.record("\(failure)")
      return
    }
    connection.close()
  }

  /// The idempotent producer cannot go on; another one can.
  @Test(arguments: [
    RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
    RD_KAFKA_RESP_ERR_UNKNOWN,
  ])
  func saysThatTheProducerIsAtItsEnd(_ error: rd_kafka_resp_err_t) throws {
    let cluster = try MockCluster()
    let connection = try cluster.connect()
    cluster.fail(.produce, [error])
    _ = try connection.publish(messages(1, to: "events")[0])
    let failure = try connection.breaks()
    guard case .away = failure else {
      Issue.record("\(failure)")
      return
    }
    connection.close()
    let next = try cluster.connect()
    #expect(try next.settle(messages(1, to: "events")) == Fates(confirmed: [1]))
    next.close()
  }

  @Test func refusesByItselfWhatIsTooLargeOrNamesNoTopic() throws {
    let cluster = try MockCluster()
    let connection = try cluster.connect([("message.max.bytes", "1000")])
    var sent = messages(8, to: "events")
    sent[1].body = Array(repeating: 32, count: 1000)
    sent[2].destination = "no topic"
    sent[3].destination = ".."
    sent[4].destination = ""
    (sent[5].destination, sent[5].routingKey) = ("", "answers")
    sent[6].destination = String(repeating: "a", count: 250)
    let fates = try connection.settle(sent)
    #expect(fates.confirmed == [1, 6, 8])
    #expect(
      fates.refused == [
        2: "MESSAGE_TOO_LARGE", 3: "UNROUTABLE", 4: "UNROUTABLE", 5: "UNROUTABLE", 7: "UNROUTABLE",
      ])
    connection.close()
    #expect(try cluster.records(of: "answers", differing: 1).map(\.id) == ["5"])
  }

  /// An order's own wish for a topic must not stop the others; a configured topic that is not there must be told.
  @Test func tellsATopicThatIsNotThere() throws {
    let cluster = try MockCluster()
    for topic in ["gone", "elsewhere"] {
      cluster.create(topic, partitions: 1)
      cluster.setError(RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, of: topic)
    }
    let connection = try cluster.connect([("topic.metadata.propagation.max.ms", "100")])
    var sent = messages(3, to: "events")
    (sent[1].destination, sent[1].routingKey) = ("", "gone")
    let fates = try connection.settle(sent)
    #expect(fates == Fates(confirmed: [1, 3], refused: [2: "UNROUTABLE"]))
    _ = try connection.publish(messages(1, to: "elsewhere")[0])
    let failure = try connection.breaks()
    guard case .unsuitable(let text) = failure else {
      Issue.record("\(failure)")
      return
    }
    #expect(text.contains("elsewhere"))
    connection.close()
  }

  /// A topic that only orders know, and nobody else: its answers are given up before they hold up anything. The second is
  /// not looked for any more.
  @Test func waitsShortlyForATopicThatIsNotThere() throws {
    let cluster = try MockCluster()
    cluster.create("gone", partitions: 1)
    cluster.setError(RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, of: "gone")
    let connection = try cluster.connect()
    let begin = SystemClock.monotonicNanoseconds()
    for number in UInt64(1)...2 {
      _ = try connection.publish(BrokerMessage(to: "", routingKey: "gone", id: "\(number)"))
      var isRefused = false
      try connection.poll(until: isRefused) { notice in
        guard case .refused(number, "UNROUTABLE", _) = notice else {
          Issue.record("\(notice)")
          return
        }
        isRefused = true
      }
    }
    #expect(SystemClock.monotonicNanoseconds() - begin < 9_000_000_000)
    connection.close()
  }

  /// All that was on its way was for a topic that is not there: what comes then must not wait for a confirmation.
  @Test func goesOnOnceNothingIsOnItsWay() throws {
    let cluster = try MockCluster()
    cluster.create("gone", partitions: 1)
    cluster.setError(RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, of: "gone")
    var patience = KafkaConnection.Patience()
    patience.silenceMilliseconds = 50
    let connection = try cluster.connect(
      [("topic.metadata.propagation.max.ms", "1500")], patience: patience)
    _ = try connection.publish(BrokerMessage(to: "", routingKey: "gone", id: "1"))
    var words: [String] = []
    try connection.poll(until: words.last == "goes on") { notice in
      switch notice {
      case .blocked(let reason): words.append(reason == nil ? "goes on" : "blocked")
      case .refused(1, let reason, _): words.append(reason)
      default: Issue.record("\(notice)")
      }
    }
    #expect(words == ["blocked", "UNROUTABLE", "goes on"])
    connection.close()
  }

  /// The user may not write to a topic that an order has named: that is told before the producer ends.
  @Test func saysWhichMessageItWasBeforeItEnds() throws {
    let cluster = try MockCluster()
    let connection = try cluster.connect()
    cluster.fail(.produce, [RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED])
    _ = try connection.publish(BrokerMessage(to: "", routingKey: "others", id: "1"))
    var fates = Fates()
    do throws(BrokerError) {
      for _ in 0..<600 where fates.count == 0 {
        try connection.poll(milliseconds: 100) { fates.note($0) }
      }
    } catch { #expect({ if case .away = error { true } else { false } }(), "\(error)") }
    #expect(fates == Fates(refused: [1: "UNROUTABLE"]))
    connection.close()
  }

  @Test func followsALeaderThatChanges() throws {
    let cluster = try MockCluster(brokers: 2)
    cluster.create("events", partitions: 1)
    let connection = try cluster.connect([("max.in.flight", "1")])
    for round in 0..<4 {
      cluster.setLeader(Int32(round % 2) + 1, of: "events", 0)
      for message in messages(50, to: "events", first: round * 50) {
        _ = try connection.publish(message)
      }
    }
    var fates = Fates()
    try connection.poll(until: fates.count == 200) { fates.note($0) }
    #expect(fates.confirmed == Set(1...200))
    connection.close()
    let read = try cluster.records(of: "events", differing: 200)
    #expect(Set(read.map(\.id)) == Set((0..<200).map { "\($0)" }))
  }

  /// The time of a short absence: the same connection goes on, and what waited leaves in order.
  @Test func outlastsAShortAbsence() throws {
    let cluster = try MockCluster()
    cluster.create("events", partitions: 1)
    let connection = try cluster.connect()
    #expect(try connection.settle(messages(10, to: "events")).count == 10)
    cluster.takeDown()
    for message in messages(10, to: "events", first: 10) { _ = try connection.publish(message) }
    try connection.poll(milliseconds: 200) { Issue.record("\($0) of a broker that is down") }
    cluster.bringUp()
    var fates = Fates()
    try connection.poll(until: fates.count == 10) { fates.note($0) }
    connection.close()
    #expect(try cluster.records(of: "events", differing: 20).map(\.id) == (0..<20).map { "\($0)" })
  }

  @Test func givesUpBrokersThatStayAway() throws {
    let cluster = try MockCluster(brokers: 2)
    var patience = KafkaConnection.Patience()
    patience.downMilliseconds = 200
    let connection = try cluster.connect(patience: patience)
    _ = try connection.settle(messages(1, to: "events"))
    cluster.takeDown()
    let failure = try connection.breaks()
    guard case .away(let text) = failure else {
      Issue.record("\(failure)")
      return
    }
    #expect(!text.isEmpty)
    connection.close()
    let access = try cluster.access()
    do {
      _ = try KafkaConnection.connect(access)
      Issue.record("connected to brokers that are down")
    } catch { #expect({ if case .away = error { true } else { false } }()) }
    cluster.bringUp()
    let next = try cluster.connect()
    #expect(try next.settle(messages(1, to: "events")).confirmed == [1])
    next.close()
  }

  /// Through the outbox, over connections that end again and again. Their order is not looked at: behind a batch that
  /// fails the library may send the next one, which a broker refuses by its sequence number, and the mock does not.
  @Test(arguments: 1...4 as ClosedRange<UInt64>)
  func losesNothingThroughTheOutbox(_ seed: UInt64) throws {
    let cluster = try MockCluster()
    var random = Numbers(seed: seed)
    let outbox = Outbox(
      deadLetters: DeadLetters("dead", on: try cluster.access().address),
      connect: { () throws(BrokerError) in
        guard let access = try? cluster.access([("max.in.flight", "1"), ("linger.ms", "0")]) else {
          throw .away("no address")
        }
        return try KafkaConnection.connect(access)
      }, report: { _ in })
    let faults = [
      RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
      RD_KAFKA_RESP_ERR_INVALID_RECORD, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
      RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
    ]
    let sent = messages(2000, to: "events")
    let end = SystemClock.monotonicNanoseconds() + longest
    for (index, message) in sent.enumerated() {
      outbox.add(message)
      if index % 250 == 100 {
        cluster.fail(.produce, [faults[Int(random.next() % UInt64(faults.count))]])
      }
      if index % 50 == 0 { outbox.step(milliseconds: 10) { _ in } }
    }
    while !outbox.isSettled {
      try #require(SystemClock.monotonicNanoseconds() < end)
      outbox.step(milliseconds: 100) { _ in }
    }
    outbox.close()
    // The mock refuses whatever comes first, not one message: what was alone then is a dead letter.
    let dead = outbox.counts.dead.values.reduce(0, +)
    let letters =
      dead == 0 ? [] : Set(try cluster.records(of: "dead", differing: Int(dead)).map(\.id))
    let records = try cluster.records(of: "events", differing: sent.count - letters.count)
    #expect(Set(records.map(\.id)).union(letters) == Set(sent.map(\.id)))
  }
}

/// The same numbers for the same seed (SplitMix64).
struct Numbers: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
    return mixed ^ (mixed >> 31)
  }
}
