// Reading from a mock cluster: positions, groups and back-pressure.
import CKafkaMock
import Messaging
import Posix
import Synchronization
import Testing

@testable import Kafka

@Suite(OwnThreads())
struct ConsumeTests {
  private static let orders = [BrokerDeclaration.partitioned("orders", count: 4)]

  /// A cluster whose topic `orders` has so many messages.
  private func cluster(_ count: Int, partitions: Int32 = 1) throws -> MockCluster {
    let cluster = try MockCluster()
    cluster.create("orders", partitions: partitions)
    let connection = try cluster.connect()
    #expect(try connection.settle(messages(count, to: "orders")).confirmed.count == count)
    connection.close()
    return cluster
  }

  /// Accepted out of order, with two left over: a later reader begins at the first that was not accepted.
  @Test func beginsAgainAtTheFirstThatWasNotAccepted() throws {
    let cluster = try cluster(20)
    let first = try cluster.connect()
    try first.consume(Self.orders, prefetch: 100, group: "shop")
    let deliveries = try first.deliveries(20)
    #expect(deliveries.map(\.id) == (0..<20).map { "\($0)" })
    #expect(deliveries.allSatisfy { $0.origin == "orders[0]" && $0.earlierDeliveries == 0 })
    let accepted = deliveries.filter { $0.id != "7" && $0.id != "15" }.reversed()
    try first.accept(accepted.map(\.tag))
    // Twice is once.
    try first.accept(accepted.map(\.tag))
    first.close()
    let second = try cluster.connect()
    try second.consume(Self.orders, prefetch: 100, group: "shop")
    let rest = try second.deliveries(13)
    #expect(rest.map(\.id) == (7..<20).map { "\($0)" })
    try second.accept(rest.map(\.tag))
    second.close()
  }

  /// What is accepted is told while the connection lives, and told again where the coordinator does not take it.
  @Test func tellsPositionsWithoutBeingClosed() throws {
    let cluster = try cluster(10)
    let connection = try cluster.connect()
    try connection.consume(Self.orders, prefetch: 100, group: "shop")
    let deliveries = try connection.deliveries(10)
    cluster.fail(
      .offsetCommit,
      [RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS])
    try connection.accept(deliveries.prefix(6).map(\.tag))
    try connection.poll(until: cluster.position(of: "shop", in: "orders", 0) == 6) { _ in }
    try connection.accept(deliveries.suffix(3).map(\.tag))
    try connection.poll(milliseconds: 200) { _ in }
    #expect(cluster.position(of: "shop", in: "orders", 0) == 6)
    try connection.accept(deliveries.map(\.tag))
    connection.close()
    #expect(cluster.position(of: "shop", in: "orders", 0) == 10)
  }

  @Test func holdsBackWhatThePrefetchDoesNotAllow() throws {
    let cluster = try cluster(500, partitions: 4)
    let connection = try cluster.connect()
    try connection.consume(Self.orders, prefetch: 10, group: "shop")
    var hand: [BrokerDelivery] = []
    var seen: Set<String> = []
    let take = { (notice: BrokerNotice) in
      guard case .delivery(let delivery) = notice else { return }
      hand.append(delivery)
      #expect(seen.insert(delivery.id).inserted)
    }
    try connection.poll(until: hand.count == 10, take)
    for _ in 0..<3 { try connection.poll(milliseconds: 20, take) }
    #expect(hand.count == 10)
    try connection.accept(hand.prefix(4).map(\.tag))
    hand.removeFirst(4)
    try connection.poll(until: hand.count == 10, take)
    while seen.count < 500 {
      try connection.accept(hand.map(\.tag))
      hand = []
      try connection.poll(until: !hand.isEmpty, take)
      #expect(hand.count <= 10)
    }
    connection.close()
  }

  /// A topic may be full of them, and the prefetch does not look at bytes.
  @Test func holdsBackLargeBodies() throws {
    let cluster = try MockCluster()
    cluster.create("orders", partitions: 1)
    func publish(_ numbers: ClosedRange<Int>) throws {
      let producer = try cluster.connect()
      defer { producer.close() }
      _ = try producer.settle(
        numbers.map {
          BrokerMessage(
            to: "orders", partitionKey: "a", id: "\($0)", body: Array(repeating: 32, count: 400_000)
          )
        })
    }
    var patience = KafkaConnection.Patience()
    patience.largeBodiesBytesMax = 1_000_000
    let connection = try cluster.connect(patience: patience)
    try connection.consume(Self.orders, prefetch: 1000, group: "shop")
    try publish(1...1)
    var hand = try connection.deliveries(1)
    try publish(2...8)
    var ids = hand.map(\.id)
    let take = { (notice: BrokerNotice) in
      guard case .delivery(let delivery) = notice else { return }
      hand.append(delivery)
      ids.append(delivery.id)
    }
    try connection.poll(until: hand.count == 3, take)
    for _ in 0..<10 { try connection.poll(milliseconds: 50, take) }
    #expect(hand.count == 3)
    while ids.count < 8 {
      try connection.accept(hand.map(\.tag))
      hand = []
      try connection.poll(until: !hand.isEmpty, take)
    }
    #expect(ids == (1...8).map { "\($0)" })
    connection.close()
  }

  /// A second reader gets its part of the partitions; when the first one leaves, all of them.
  @Test func sharesPartitionsWithAnotherReader() throws {
    let cluster = try cluster(0, partitions: 4)
    let producer = try cluster.connect()
    let (first, second) = (try cluster.connect(), try cluster.connect())
    try first.consume(Self.orders, prefetch: 1000, group: "shop")
    _ = try producer.settle(messages(100, to: "orders", keys: 50))
    var byFirst = try first.deliveries(100)
    // What is accepted in the moment of parting still counts; what is not, the other one gets.
    let kept = byFirst.prefix(90)
    try first.accept(kept.map(\.tag))
    try second.consume(Self.orders, prefetch: 1000, group: "shop")
    var bySecond: [BrokerDelivery] = []
    let end = SystemClock.monotonicNanoseconds() + longest
    var next = 100
    while Set(bySecond.map(\.origin)).count < 2
      || Set(byFirst.dropFirst(100).map(\.origin)).count < 2
    {
      try #require(SystemClock.monotonicNanoseconds() < end)
      for message in messages(8, to: "orders", keys: 50, first: next) {
        _ = try producer.publish(message)
      }
      next += 8
      try producer.poll(milliseconds: 20) { _ in }
      try first.poll(milliseconds: 20) {
        if case .delivery(let delivery) = $0 { byFirst.append(delivery) }
      }
      try second.poll(milliseconds: 20) {
        if case .delivery(let delivery) = $0 { bySecond.append(delivery) }
      }
    }
    // A delivery of before is no longer ours where the partition has gone: accepting it does nothing.
    try first.accept(byFirst.map(\.tag))
    first.close()
    for message in messages(50, to: "orders", keys: 50, first: next) {
      _ = try producer.publish(message)
    }
    next += 50
    try second.accept(bySecond.map(\.tag))
    var seen = Set((byFirst + bySecond).map(\.id))
    while seen.count < next {
      try producer.poll(milliseconds: 20) { _ in }
      let late = try second.deliveries(1)
      seen.formUnion(late.map(\.id))
      try second.accept(late.map(\.tag))
    }
    producer.close()
    second.close()
  }

  @Test func countsWhatATopicHas() throws {
    let cluster = try cluster(25, partitions: 3)
    cluster.create("empty", partitions: 2)
    let connection = try cluster.connect()
    #expect(try connection.depth(of: "orders") == 25)
    // Read or not.
    try connection.consume(Self.orders, prefetch: 100, group: "shop")
    try connection.accept(connection.deliveries(25).map(\.tag))
    _ = try connection.settle(messages(5, to: "orders"))
    #expect(try connection.depth(of: "orders") == 30)
    #expect(try connection.depth(of: "empty") == 0)
    #expect(try connection.depth(of: "nowhere") == nil)
    connection.close()
  }

  @Test func readsATopicFromNowOn() throws {
    let cluster = try cluster(10, partitions: 3)
    let connection = try cluster.connect()
    try connection.consume(
      [.subscription(to: "orders", pattern: "#")], prefetch: 5, group: "")
    for message in messages(20, to: "orders", first: 10) { _ = try connection.publish(message) }
    var seen: [String] = []
    while seen.count < 20 {
      let come = try connection.deliveries(1)
      #expect(come.count <= 5)
      seen += come.map(\.id)
      try connection.accept(come.map(\.tag))
    }
    #expect(Set(seen) == Set((10..<30).map { "\($0)" }))
    connection.close()
  }

  @Test func tellsATopicThatIsNotThere() throws {
    let cluster = try MockCluster()
    cluster.create("nowhere", partitions: 1)
    cluster.setError(RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, of: "nowhere")
    let connection = try cluster.connect()
    try connection.consume([.partitioned("nowhere", count: 1)], prefetch: 1, group: "shop")
    let failure = try connection.breaks()
    guard case .unsuitable(let text) = failure else {
      Issue.record("\(failure)")
      return
    }
    #expect(text.contains("nowhere"))
    connection.close()
  }

  /// Fetches that fail, and a coordinator that moves.
  @Test func readsOnOverFaults() throws {
    let cluster = try MockCluster(brokers: 2)
    cluster.create("orders", partitions: 2)
    let connection = try cluster.connect()
    try connection.consume(Self.orders, prefetch: 1000, group: "shop")
    var seen: Set<String> = []
    for round in 0..<4 {
      cluster.fail(
        .fetch, [RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR__TRANSPORT])
      cluster.setCoordinator(Int32(round % 2) + 1, of: "shop")
      for message in messages(25, to: "orders", first: round * 25) {
        _ = try connection.publish(message)
      }
      try connection.poll(until: seen.count == (round + 1) * 25) {
        if case .delivery(let delivery) = $0 { seen.insert(delivery.id) }
      }
    }
    connection.close()
  }

  /// The mock knows no CreateTopics: what is there is left as it is, and what is not is told.
  @Test func findsTopicsThatAreThere() throws {
    let cluster = try MockCluster()
    cluster.create("orders", partitions: 2)
    for name in ["events", "dead"] { cluster.create(name, partitions: 1) }
    let lines = Mutex<[String]>([])
    let connection = try KafkaConnection.connect(
      cluster.access(), log: KafkaLog { line in lines.withLock { $0.append(line) } })
    try connection.declare([
      .destination("events"), .deadLetters("dead"), .partitioned("orders", count: 8),
      .subscription(to: "events", pattern: "#"),
    ])
    let told = lines.withLock { $0 }
    #expect(told.contains { $0.contains("orders has 2 partitions, not 8") })
    var patience = KafkaConnection.Patience()
    patience.answerMilliseconds = 500
    for name in ["nowhere", "", "a b", "..", String(repeating: "a", count: 250)] {
      let other = try cluster.connect(patience: patience)
      #expect(throws: BrokerError.self) { try other.declare([.destination(name)]) }
      other.close()
    }
    connection.close()
  }
}
