// What is delivered, and what the broker is told of it; and the queues and exchanges that are declared.
import BrokerTesting
import Messaging
import Posix
import Testing

@testable import RabbitMQ

struct DeliveryTests {
  /// A peer that delivers these bytes, and then runs the rest of a script.
  private func peer(
    delivering bytes: [UInt8],
    _ rest: @escaping @Sendable (Peer) throws -> Void = { $0.waitForEnd() }
  ) throws -> ScriptedPeer {
    try ScriptedPeer { peer in
      try peer.logIn()
      try peer.beginDeliveries()
      try peer.send(bytes)
      try rest(peer)
    }
  }

  private func consumer(_ peer: ScriptedPeer, prefetch: Int = 100) throws -> RabbitMQConnection {
    let connection = try peer.connect()
    try connection.consume([.deadLetters("orders")], prefetch: prefetch, group: "")
    return connection
  }

  private func deliveries(_ notices: [BrokerNotice]) -> [BrokerDelivery] {
    notices.compactMap { if case .delivery(let delivery) = $0 { delivery } else { nil } }
  }

  private static func row(_ name: String, _ kind: String, _ value: [UInt8]) -> [UInt8] {
    short(name) + Array(kind.utf8) + value
  }

  @Test func readsWhatSendersSet() throws {
    let row = Self.row
    // One of every kind of field, tables in tables too.
    let table =
      row("a", "t", [1]) + row("b", "b", [1]) + row("c", "B", [1]) + row("d", "s", [0, 1])
      + row("e", "u", [0, 1]) + row("f", "I", u32(1)) + row("g", "i", u32(1))
      + row("h", "l", u64(1))
      + row("i", "L", u64(1)) + row("j", "f", u32(1)) + row("k", "d", u64(1))
      + row("l", "D", [0] + u32(1)) + row("m", "S", long("x")) + row("n", "A", long([0x74, 1]))
      + row("o", "T", u64(1)) + row("p", "F", long(row("q", "F", long([])))) + row("r", "V", [])
      + row("s", "x", long([1])) + row("x-delivery-count", "l", u64(4))
      + row("cloudEvents_id", "S", long("order-7"))
      + row("cloudEvents:type", "S", long("OrderPlaced"))
      + row("cloudEvents_partitionkey", "S", long("sku"))
    let properties =
      u16(0b1111_1111_1111_1100) + short("application/json") + short("gzip") + long(table) + [2, 5]
      + short("corr") + short("reply") + short("60000") + short("message") + u64(5) + short("type")
      + short("user") + short("app") + short("cluster")
    let peer = try peer(
      delivering: deliver(1, redelivered: true) + header(5, properties) + body([1, 2])
        + frame(8, 0, [])
        + body([]) + body([3, 4, 5]) + deliver(2) + header(0))
    let connection = try consumer(peer)
    let taken = deliveries(try told(connection, until: 2))
    #expect(taken.count == 2)
    let first = try #require(taken.first)
    #expect(first.tag == 1 && first.origin == "orders" && first.earlierDeliveries == 4)
    #expect(first.id == "order-7" && first.type == "OrderPlaced" && first.partitionKey == "sku")
    #expect(first.contentType == "application/json" && first.correlationID == "corr")
    #expect(first.replyTo == "reply" && first.body == [1, 2, 3, 4, 5] && first.omittedBytes == 0)
    let second = try #require(taken.last)
    #expect(second.id == "" && second.body == [] && second.earlierDeliveries == 0)
    connection.close()
    #expect(peer.finish() == [])
  }

  /// Properties that break off or lie: what was read before stays, and the message comes all the same.
  private static let broken: [[UInt8]] = [
    [], [0], u16(0x8000), u16(0x8000) + [200, 1], u16(0xffff), u16(0x2000), u16(0x2000) + u32(99),
    u16(0x2000) + u32(0xffff_ffff), u16(0x2000) + long([3, 97]), u16(0x2000) + long([1, 97, 0]),
    u16(0x2000) + long([1, 97, 83] + u32(0xffff_ffff)), u16(0x2000) + long([1, 97, 70] + u32(5)),
    u16(0x2000) + long(row("x-delivery-count", "S", long("9"))),
    u16(0x2000) + long(row("x-delivery-count", "l", u64(UInt64(bitPattern: -9)))),
    u16(0x2000) + long(row("cloudEvents_id", "l", u64(9))),
    u16(0x2080) + long((0..<5000).reduce([UInt8]()) { table, _ in row("a", "F", long(table)) })
      + short("deep"),
    u16(0x0080) + [3, 0xff, 0xfe, 0x00], u16(0x1800), u16(0x0040) + [1],
  ]

  @Test(arguments: broken.indices)
  func deliversWhatItCannotRead(_ index: Int) throws {
    let peer = try peer(delivering: deliver(1) + header(2, Self.broken[index]) + body([1, 2]))
    let connection = try consumer(peer)
    let taken = deliveries(try told(connection))
    #expect(taken.map(\.body) == [[1, 2]])
    #expect(taken.first?.earlierDeliveries == 0)
    connection.close()
    #expect(peer.finish() == [])
  }

  @Test func keepsNoBodyThatIsTooLarge() throws {
    let size = RabbitMQConnection.bodyBytesMax + 1
    let part = body([UInt8](repeating: 1, count: 131_000))
    let last = body([UInt8](repeating: 1, count: size % 131_000))
    let peer = try ScriptedPeer { peer in
      try peer.logIn()
      try peer.beginDeliveries()
      try peer.send(deliver(1) + header(UInt64(size), u16(0x0080) + short("large")))
      for _ in 0..<(size / 131_000) { try peer.send(part) }
      try peer.send(last)
      try peer.send(deliver(2) + header(1) + body([9]))
      peer.waitForEnd()
    }
    let connection = try consumer(peer)
    let taken = deliveries(try told(connection, until: 2))
    #expect(taken.map(\.omittedBytes) == [size, 0])
    #expect(taken.map(\.body) == [[], [9]])
    #expect(taken.first?.id == "large")
    connection.close()
    #expect(peer.finish() == [])
  }

  /// A queue may be full of them: of large bodies so many are kept as fit, until they are accepted. What an order may have
  /// is kept in any case.
  @Test func keepsNoMoreLargeBodiesThanFit() throws {
    let size = 12 << 20
    let fitting = RabbitMQConnection.largeBodiesBytesMax / size
    let small = [UInt8](repeating: 2, count: RabbitMQConnection.largeBodyBytes)
    let sendLarge: @Sendable (Peer, UInt64) throws -> Void = { peer, tag in
      try peer.send(deliver(tag) + header(UInt64(size)))
      let part = body([UInt8](repeating: 1, count: 1 << 16))
      for _ in 0..<(size >> 16) { try peer.send(part) }
    }
    let last = UInt64(fitting + 3)
    let peer = try ScriptedPeer { peer in
      try peer.logIn()
      try peer.beginDeliveries()
      for tag in 1..<last - 1 { try sendLarge(peer, tag) }
      let parts = stride(from: 0, to: small.count, by: 1 << 16).map {
        body(Array(small[$0..<min($0 + 1 << 16, small.count)]))
      }
      try peer.send(deliver(last - 1) + header(UInt64(small.count)) + parts.flatMap { $0 })
      // The acknowledgement of the first one.
      _ = try peer.expect(M.ack)
      try sendLarge(peer, last)
      peer.waitForEnd()
    }
    let connection = try consumer(peer)
    let taken = deliveries(try told(connection, until: fitting + 2))
    #expect(
      taken.map(\.omittedBytes) == Array(repeating: 0, count: fitting) + [size, 0])
    #expect(taken.map(\.body.count) == Array(repeating: size, count: fitting) + [0, small.count])
    try connection.accept([1])
    let next = deliveries(try told(connection))
    #expect(next.map(\.tag) == [last] && next.map(\.body.count) == [size])
    connection.close()
    #expect(peer.finish() == [])
  }

  private static let faults: [[UInt8]] = [
    deliver(2), deliver(0), deliver(1, consumer: "1"), deliver(1, consumer: "x"),
    deliver(1, consumer: "-1"), deliver(1) + deliver(2), deliver(1) + body([1]),
    deliver(1) + header(1) + body([1, 2]), deliver(1) + header(0) + deliver(1),
    deliver(1) + frame(2, 1, u16(50) + u16(0) + u64(0) + u16(0)),
    (1...11).flatMap { deliver($0) + header(0) },
  ]

  @Test(arguments: faults.indices)
  func endsAtDeliveriesThatCannotBe(_ index: Int) throws {
    let peer = try peer(delivering: Self.faults[index])
    let connection = try consumer(peer, prefetch: 10)
    guard case .away(let text) = ending(connection) else {
      Issue.record("it goes on")
      return
    }
    #expect(text.hasPrefix("not AMQP: "), "\(text)")
    connection.close()
    #expect(peer.finish() == [])
  }

  @Test func tellsWhenAQueueIsGone() throws {
    let peer = try peer(delivering: method(M.cancel, short("0") + [1]))
    let connection = try consumer(peer)
    guard case .away(let text) = ending(connection) else {
      Issue.record("it goes on")
      return
    }
    #expect(text.contains("'orders'") || text.contains(" orders"), "\(text)")
    connection.close()
    #expect(peer.finish() == [])
  }

  /// Six are delivered. What is accepted at each step, and what the broker hears: tag, and whether it means all up to it.
  private static let acceptances: [[([UInt64], [(UInt64, UInt8)])]] = [
    [([1, 2, 3, 4, 5, 6], [(6, 1)])],
    [([1], [(1, 0)]), ([3, 2], [(3, 1)]), ([4, 4, 9, 1], [(4, 0)])],
    [([3], [(3, 0)]), ([5, 6], [(5, 0), (6, 0)]), ([1, 2], [(2, 1)]), ([4], [(4, 0)])],
    [([2, 4], [(2, 0), (4, 0)]), ([1, 3, 5], [(5, 1)]), ([6], [(6, 0)])],
    [([6, 1, 3], [(1, 0), (6, 0), (3, 0)]), ([2, 4, 5], [(5, 1)])],
  ]

  @Test(arguments: acceptances.indices)
  func acceptsInFewWords(_ index: Int) throws {
    let steps = Self.acceptances[index]
    let peer = try peer(delivering: (1...6).flatMap { deliver($0) + header(0) }) { peer in
      for step in steps {
        for (tag, multiple) in step.1 {
          guard try peer.expect(M.ack) == u64(tag) + [multiple] else { throw PeerError("\(step)") }
        }
        // The next step.
        try peer.send(method(M.blocked, short("x"), channel: 0))
      }
      try peer.expect(M.close, channel: 0)
      try peer.send(method(M.closeOK, channel: 0))
    }
    let connection = try consumer(peer)
    #expect(try told(connection, until: 6).count == 6)
    for step in steps {
      try connection.accept(step.0)
      #expect(words(try told(connection)) == ["blocked x"])
    }
    connection.close()
    #expect(peer.finish() == [])
  }

  @Test func tellsWhatWasAcceptedBeforeItCloses() throws {
    let peer = try peer(delivering: deliver(1) + header(0)) { peer in
      guard try peer.expect(M.ack) == u64(1) + [0] else { throw PeerError("no ack") }
      try peer.expect(M.close, channel: 0)
      try peer.send(deliver(2) + header(0) + method(M.closeOK, channel: 0))
    }
    let connection = try consumer(peer)
    try connection.accept(deliveries(try told(connection)).map(\.tag))
    connection.close()
    #expect(peer.finish() == [])
  }

  @Test func publishesAndAcceptsWhileItIsCalled() throws {
    let peer = try peer(delivering: deliver(1) + header(0)) { peer in
      // Both leave with the same poll.
      _ = try peer.expectMessage()
      guard try peer.expect(M.ack) == u64(1) + [0] else { throw PeerError("no ack") }
      try peer.send(method(M.ack, u64(1) + [0]))
      peer.waitForEnd()
    }
    let connection = try consumer(peer)
    var errors: [BrokerError] = []
    var notices: [BrokerNotice] = []
    try connection.poll(milliseconds: 20_000) { notice in
      notices.append(notice)
      guard case .delivery(let delivery) = notice else { return }
      do throws(BrokerError) {
        try connection.accept([delivery.tag])
        _ = try connection.publish(BrokerMessage(to: "answers"))
      } catch { errors.append(error) }
    }
    #expect(errors == [])
    // The answer may have come with the same poll already.
    if notices.count == 1 { notices += try told(connection) }
    #expect(words(notices) == ["delivery 1", "confirmed 1"])
    connection.close()
    #expect(peer.finish() == [])
  }

  /// Flow and alarm end apart: what is left of the two holds.
  @Test func heedsFlow() throws {
    let alarm = method(M.blocked, short("low on disk"), channel: 0)
    let peer = try peer(delivering: method(M.flow, [0]) + alarm) { peer in
      guard try peer.expect(M.flowOK) == [0] else { throw PeerError("no flow-ok") }
      try peer.send(method(M.unblocked, channel: 0) + alarm + method(M.flow, [1]))
      guard try peer.expect(M.flowOK) == [1] else { throw PeerError("no flow-ok") }
      try peer.send(method(M.unblocked, channel: 0) + deliver(1) + header(0))
      peer.waitForEnd()
    }
    let connection = try consumer(peer)
    let stopped = "blocked it has stopped the channel's flow"
    #expect(
      words(try told(connection, until: 7)) == [
        stopped, "blocked low on disk", stopped, "blocked low on disk", "blocked low on disk",
        "blocked no more", "delivery 1",
      ])
    connection.close()
    #expect(peer.finish() == [])
  }

  /// Each is owed an answer, which a broker that does not read lets pile up.
  @Test func endsOverAFloodOfFlow() throws {
    let flood = Array(repeating: method(M.flow, [0]), count: 2000).joined()
    let peer = try peer(delivering: Array(flood)) { $0.waitForEnd() }
    let connection = try consumer(peer)
    #expect(ending(connection) == .away("not AMQP: channel.flow, again and again"))
    connection.close()
    #expect(peer.finish() == [])
  }
}

struct TopologyTests {
  /// Asked on the channel of the messages, a queue that is not there would end it.
  @Test func asksForNoDepthWhereThereIsOneChannel() throws {
    let peer = try ScriptedPeer { peer in
      var manners = Peer.Manners()
      manners.channelsMax = 1
      try peer.logIn(manners)
      try peer.expect(M.close, channel: 0)
      try peer.send(method(M.closeOK, channel: 0))
    }
    let connection = try peer.connect()
    #expect(try connection.depth(of: "orders.0") == nil)
    connection.close()
    #expect(peer.finish() == [])
  }

  @Test func makesWhatIsNotThere() throws {
    let peer = try ScriptedPeer { peer in
      try peer.logIn()
      func exchange(_ name: String, _ type: String) throws {
        let expected = u16(0) + short(name) + short(type) + [0b0000_0010] + u32(0)
        guard try peer.expect(M.exchangeDeclare) == expected else { throw PeerError(name) }
        try peer.send(method(M.exchangeDeclareOK))
      }
      func queue(_ name: String, bits: UInt8, _ table: [UInt8], as real: String? = nil) throws {
        let declared = try peer.expect(M.queueDeclare)
        guard declared == u16(0) + short(name) + [bits] + long(table) else {
          throw PeerError("\(name): \(declared)")
        }
        try peer.send(method(M.queueDeclareOK, short(real ?? name) + u32(0) + u32(0)))
      }
      func bind(_ queue: String, _ exchange: String, _ key: String) throws {
        let expected = u16(0) + short(queue) + short(exchange) + short(key) + [0] + u32(0)
        guard try peer.expect(M.queueBind) == expected else { throw PeerError("bind \(queue)") }
        try peer.send(method(M.queueBindOK))
      }
      let quorum =
        short("x-queue-type") + [0x53] + long("quorum") + short("x-delivery-limit") + [0x6c]
        + u64(1_000_000_000)
      let single = short("x-single-active-consumer") + [0x74, 1]
      try exchange("holdfast.events", "topic")
      try queue("holdfast.events.dead", bits: 0b0010, quorum)
      try exchange("orders", "x-consistent-hash")
      for name in ["orders.0", "orders.1"] {
        try queue(name, bits: 0b0010, quorum + single)
        try bind(name, "orders", "10")
      }
      // Whether there were more: no.
      try peer.expect(M.channelOpen, channel: 2)
      try peer.send(method(M.channelOpenOK, long(""), channel: 2))
      guard try peer.expect(M.queueDeclare, channel: 2) == u16(0) + short("orders.2") + [1] + u32(0)
      else { throw PeerError("no look") }
      try peer.send(
        method(M.channelClose, close(404, "NOT_FOUND", about: M.queueDeclare), channel: 2))
      try peer.expect(M.channelCloseOK, channel: 2)
      // A name that the broker chooses.
      try queue("", bits: 0b1100, [], as: "amq.gen-1")
      try bind("amq.gen-1", "holdfast.events", "#")
      guard try peer.expect(M.qos) == u32(0) + u16(33) + [0] else { throw PeerError("qos") }
      try peer.send(method(M.qosOK))
      for (tag, name) in ["orders.0", "orders.1", "amq.gen-1"].enumerated() {
        let expected = u16(0) + short(name) + short(String(tag)) + [0] + u32(0)
        guard try peer.expect(M.consume) == expected else { throw PeerError("consume \(name)") }
        // A delivery may come before the answer does.
        try peer.send(deliver(UInt64(tag) + 1, consumer: String(tag)) + header(0))
        try peer.send(method(M.consumeOK, short(String(tag))))
      }
      peer.waitForEnd()
    }
    let connection = try peer.connect()
    let subscription = BrokerDeclaration.subscription(to: "holdfast.events", pattern: "#")
    try connection.declare([
      .destination("holdfast.events"), .deadLetters("holdfast.events.dead"),
      .partitioned("orders", count: 2), subscription,
    ])
    try connection.consume(
      [.partitioned("orders", count: 2), subscription], prefetch: 100, group: "g")
    var origins: [String] = []
    for notice in try told(connection, until: 3) {
      if case .delivery(let delivery) = notice { origins.append(delivery.origin) }
    }
    #expect(origins == ["orders.0", "orders.1", "amq.gen-1"])
    connection.close()
    #expect(peer.finish() == [])
  }

  private static let refusals: [(UInt32, [UInt8], String)] = [
    (
      M.queueDeclare,
      method(
        M.channelClose,
        close(406, "PRECONDITION_FAILED - inequivalent arg 'durable'", about: M.queueDeclare)),
      "queue 'dead': PRECONDITION_FAILED - inequivalent arg 'durable'"
    ),
    (
      M.queueDeclare, method(M.channelClose, close(403, "ACCESS_REFUSED", about: M.queueDeclare)),
      "queue 'dead': ACCESS_REFUSED"
    ),
    (
      M.queueDeclare, method(M.channelClose, close(405, "RESOURCE_LOCKED", about: M.queueDeclare)),
      "queue 'dead': RESOURCE_LOCKED"
    ),
    (
      M.queueDeclare, method(M.close, close(503, "COMMAND_INVALID - unknown type"), channel: 0),
      "queue 'dead': COMMAND_INVALID - unknown type"
    ),
  ]

  @Test(arguments: refusals.indices)
  func tellsWhatIsNotAsItHasToBe(_ index: Int) throws {
    let (number, answer, words) = Self.refusals[index]
    let peer = try ScriptedPeer { peer in
      try peer.logIn()
      try peer.expect(number)
      try peer.send(answer)
      peer.waitForEnd()
    }
    let connection = try peer.connect()
    #expect(throws: BrokerError.unsuitable(words)) {
      try connection.declare([.deadLetters("dead")])
    }
    #expect(peer.finish() == [])
  }

  @Test func noticesPartitionsThatNobodyWouldRead() throws {
    let peer = try ScriptedPeer { peer in
      try peer.logIn()
      try peer.expect(M.exchangeDeclare)
      try peer.send(method(M.exchangeDeclareOK))
      try peer.expect(M.queueDeclare)
      try peer.send(method(M.queueDeclareOK, short("orders.0") + u32(0) + u32(0)))
      try peer.expect(M.queueBind)
      try peer.send(method(M.queueBindOK))
      try peer.expect(M.channelOpen, channel: 2)
      try peer.send(method(M.channelOpenOK, long(""), channel: 2))
      try peer.expect(M.queueDeclare, channel: 2)
      try peer.send(method(M.queueDeclareOK, short("orders.1") + u32(5) + u32(0), channel: 2))
      try peer.expect(M.channelClose, channel: 2)
      try peer.send(method(M.channelCloseOK, channel: 2))
      peer.waitForEnd()
    }
    let connection = try peer.connect()
    do throws(BrokerError) {
      try connection.declare([.partitioned("orders", count: 1)])
      Issue.record("it takes them")
    } catch {
      guard case .unsuitable(let text) = error else {
        Issue.record("\(error)")
        return
      }
      #expect(text.contains("'orders.1'"))
    }
    connection.close()
    #expect(peer.finish() == [])
  }

  @Test func saysWhatHasNoRoom() throws {
    let peer = try ScriptedPeer { peer in
      try peer.logIn()
      peer.waitForEnd()
    }
    let connection = try peer.connect()
    do throws(BrokerError) {
      try connection.declare([.destination(String(repeating: "x", count: 256))])
      Issue.record("it sends it")
    } catch {
      guard case .unsuitable = error else {
        Issue.record("\(error)")
        return
      }
    }
    connection.close()
    #expect(peer.finish() == [])
  }
}
