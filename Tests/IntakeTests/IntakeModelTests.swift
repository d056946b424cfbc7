import BrokerTesting
import Messaging
import Testing

// What an intake promises, under faults of both sides drawn from seeds.
@testable import Intake

struct IntakeModelTests {
  /// Every kind of fault alone, and all of them at once, over many seeds.
  @Test(arguments: [
    Faults(),
    Faults(brokerLost: 8),
    Faults(brokerLost: 8, brokerUnreachable: 50, lateConfirmations: 50),
    Faults(serverLost: 10),
    Faults(serverLost: 10, serverUnreachable: 50, batchUnavailable: 20),
    Faults(orderUnavailable: 10),
    Faults(halfAnswered: 15),
    Faults(forbidden: 20),
    Faults(
      brokerLost: 5, brokerUnreachable: 30, lateConfirmations: 30, serverLost: 5,
      serverUnreachable: 30, batchUnavailable: 10, orderUnavailable: 5, halfAnswered: 5,
      forbidden: 5),
  ])
  func answersEachOrderAsItIsDecidedOnce(_ faults: Faults) {
    for seed in UInt64(1)...12 {
      var random = Seeded(seed &* 31)
      let rig = Rig(faults, seed: seed, stock: ["a": 40, "b": 1000, "c": 25, "d": 0, "e": 60])
      var placed: [(String, String, Int64)] = []
      var poison = 0
      for number in 0..<250 {
        switch Int.random(in: 0..<20, using: &random) {
        case 0:
          rig.putBody([0xff, UInt8(truncatingIfNeeded: number)], id: "poison-\(number)")
          poison += 1
        case 1 where !placed.isEmpty:
          // The same again.
          let (id, sku, quantity) = placed.randomElement(using: &random)!
          rig.put(id, sku, quantity)
        default:
          let sku = ["a", "b", "c", "d", "e"].randomElement(using: &random)!
          let quantity = Int64.random(in: 1...3, using: &random)
          rig.put("o-\(number)", sku, quantity)
          placed.append(("o-\(number)", sku, quantity))
        }
        if random.chance(20) { rig.turn(Int.random(in: 1...4, using: &random)) }
        if random.chance(2) { rig.kill() }
      }
      #expect(rig.settle(), "seed \(seed) does not come to an end: \(rig.words.suffix(9))")
      rig.checkAnswers()
      rig.checkOrder()
      let dead = Set(rig.broker.dead.map(\.id))
      #expect(dead.count == poison && dead.allSatisfy { $0.hasPrefix("poison-") })
      #expect(rig.broker.unacceptedMax <= 50)
      #expect(rig.broker.accepted.count >= 250)
    }
  }

  @Test func decidesManyOrdersInFewBatches() {
    let rig = Rig { $0.prefetch = 1000 }
    for number in 0..<2000 { rig.put("o-\(number)") }
    #expect(rig.settle())
    rig.checkAnswers()
    #expect(rig.server.largestBatch > 400)
    #expect(rig.metric(#"holdfast_intake_orders_total{outcome="reserved"}"#) == 2000)
    #expect(rig.metric(#"holdfast_intake_answers_total{type="StockReserved"}"#) == 2000)
    #expect(rig.metric("holdfast_intake_order_seconds_count") == 2000)
    #expect(rig.metric("holdfast_intake_in_hand") == 0)
    #expect(rig.words.isEmpty)
  }
}

// MARK: One at a time

struct IntakeTests {
  /// Also with Kafka it is the order that names the place, so that one that is not there is no trouble of the others.
  @Test(arguments: [
    Rig.address, .kafka(KafkaAddress(servers: ["a:1"], user: "", password: nil, isTLS: false)),
  ])
  func answersWhereTheOrderSays(_ address: BrokerAddress) {
    let rig = Rig(Faults(missingQueues: ["gone"]), address: address)
    rig.put("o-1")
    rig.put("o-2", replyTo: "mine", type: "")
    rig.put("o-3", isJSON: true, replyTo: "gone")
    rig.put("o-4", "none", 1, isJSON: true)
    // It would come back as an order.
    rig.put("o-5", replyTo: "orders.suspects")
    #expect(rig.settle())
    let ways = rig.broker.answers.map {
      [$0.destination, $0.routingKey, $0.contentType, $0.partitionKey]
    }
    #expect(
      Set(ways) == [
        ["orders.answers", "StockReserved.o-1", "application/protobuf", "a"],
        ["orders.answers", "StockReserved.o-5", "application/protobuf", "a"],
        ["", "mine", "application/protobuf", "a"],
        ["orders.answers", "StockRejected.o-4", "application/json", "none"],
      ])
    // Nobody misses it.
    #expect(rig.broker.accepted.count == 5 && rig.broker.dead.isEmpty)
    #expect(rig.metric("holdfast_intake_answers_dropped_total") == 1)
    #expect(rig.metric(#"holdfast_intake_answers_total{type="StockRejected"}"#) == 1)
  }

  /// Who asks and waits knows the answer by its own name of the question, as AMQP's clients do; everybody else by the order's.
  @Test(arguments: [
    ("mine", "question-7", "question-7"), ("mine", "", "o-1"), ("", "question-7", "o-1"),
    ("mine", String(repeating: "\u{fffd}", count: 85), String(repeating: "\u{fffd}", count: 85)),
    ("mine", String(repeating: "\u{fffd}", count: 86), "o-1"),
  ])
  func namesTheQuestion(_ replyTo: String, _ question: String, _ expected: String) {
    let rig = Rig()
    rig.broker.put(
      BrokerDelivery(
        tag: 0, origin: "orders.0", id: "o-1", contentType: "application/json",
        correlationID: question, replyTo: replyTo, body: Rig.json("o-1", "a", 1)))
    #expect(rig.settle())
    #expect(rig.broker.answers.map { [$0.id, $0.correlationID] } == [["o-1", expected]])
  }

  /// What can never be decided goes to the dead letters with its reason, as it came, and nothing else does.
  @Test func buriesPoison() {
    let rig = Rig()
    rig.put("o-1")
    rig.putBody(Array("nonsense".utf8), id: "p-1")
    rig.putBody(Rig.json("p-2", "a", 1), contentType: "text/plain", id: "p-2")
    rig.putBody(Rig.json("p-3", "a", 1), id: "p-3", type: "OrderCancelled")
    // The server knows what a quantity may be.
    rig.putBody(Rig.json("p-4", "a", 0), id: "p-4")
    // The same order, and another payload.
    rig.putBody(Rig.json("o-1", "a", 2), id: "p-5", origin: "orders.1")
    rig.put("o-2")
    #expect(rig.settle())
    rig.checkAnswers()
    let dead = rig.broker.dead.sorted { $0.id < $1.id }
    #expect(dead.map(\.id) == ["p-1", "p-2", "p-3", "p-4", "p-5"])
    #expect(dead[0].body == Array("nonsense".utf8) && dead[1].contentType == "text/plain")
    let reasons = dead.map { letter in letter.attributes.first { $0.name == "deadreason" }?.value }
    #expect(
      reasons == [
        "MALFORMED_BODY", "CONTENT_TYPE_UNKNOWN", "TYPE_UNKNOWN", "INVALID_FIELD",
        "IDEMPOTENCY_KEY_REUSED",
      ])
    #expect(
      dead[0].attributes.contains { $0 == (name: "deaddestination", value: "orders.0") })
    #expect(rig.metric(#"holdfast_intake_orders_total{outcome="dead"}"#) == 5)
    #expect(rig.metric(#"holdfast_intake_dead_letters_total{reason="INVALID_FIELD"}"#) == 1)
  }

  /// What a producer has set is told in one line, and not all of it.
  @Test(arguments: [
    "a\nholdfast: all is well", "a\r\nb", "a" + String(repeating: "\u{301}", count: 9000),
  ])
  func tellsOfPoisonInALine(_ name: String) {
    for isType in [true, false] {
      let rig = Rig()
      rig.putBody(
        Array("{\"\(name.replacing("\n", with: "\\n").replacing("\r", with: "\\r"))\": 1}".utf8),
        type: isType ? name : "")
      #expect(rig.settle() && rig.broker.dead.count == 1)
      #expect(rig.words.count == 1)
      #expect(rig.words.allSatisfy { $0.utf8.count < 500 && !$0.contains(where: \.isNewline) })
    }
  }

  /// An order over which the server fails is tried so often; those of its SKU wait for it, others do not.
  @Test func triesAnOrderSoOften() {
    let rig = Rig(Faults(fails: ["bad"])) { $0.tries = 4 }
    rig.put("bad", "a")
    rig.put("o-1", "a")
    rig.put("o-2", "e")
    rig.turn(8)
    #expect(rig.server.decisions["o-2"] != nil)
    #expect(rig.server.order["a"] == ["o-1"] && rig.broker.dead.isEmpty)
    #expect(rig.settle())
    rig.checkAnswers(but: ["bad"])
    #expect(rig.broker.dead.map(\.id) == ["bad"])
    #expect(rig.broker.dead[0].attributes.contains { $0.value == "TRIED_TOO_OFTEN" })
    #expect(rig.metric(#"holdfast_intake_retries_total{reason="counted"}"#) == 3)
  }

  @Test func ordersOfASKUWaitForTheOneThatIsTriedAgain() {
    let rig = Rig(Faults(fails: ["bad"])) { $0.tries = 1000 }
    rig.put("bad", "a")
    // It waits for 0.8 s at least then, and a turn for 0.1 s at most.
    rig.turn { $0.counted == 5 }
    rig.put("o-1", "a")
    rig.put("o-2", "e")
    rig.turn(6)
    #expect(rig.server.decisions["o-1"] == nil && rig.server.decisions["o-2"] != nil)
    rig.server.faults.fails = []
    #expect(rig.settle())
    #expect(rig.server.order["a"] == ["bad", "o-1"])
    rig.checkAnswers()
  }

  /// The server fails over a whole batch, and does not say over which order.
  @Test func findsTheOrderOverWhichABatchFails() {
    let rig = Rig(Faults(failsWhole: ["bad"])) { $0.prefetch = 500 }
    for number in 0..<300 { rig.put(number == 177 ? "bad" : "o-\(number)") }
    #expect(rig.settle())
    rig.checkAnswers(but: ["bad"])
    rig.checkOrder()
    #expect(rig.broker.dead.map(\.id) == ["bad"])
    #expect(rig.broker.accepted.count == 300)
  }

  /// An answer over which the broker ends the connection does not come again for ever.
  @Test func getsPastADeadlyAnswer() {
    let rig = Rig(Faults(deadlyAnswers: ["o-7", "o-8"]))
    for number in 0..<60 { rig.put("o-\(number)") }
    #expect(rig.settle())
    #expect(rig.broker.accepted.count >= 60)
    #expect(Set(rig.broker.dead.map(\.id)) == ["o-7", "o-8"])
    rig.checkAnswers(but: ["o-7", "o-8"])
  }

  /// The first at once, and then how many there were.
  @Test func tellsOfDeadLettersNowAndThen() {
    let rig = Rig { $0.prefetch = 500 }
    for _ in 0..<100 { rig.putBody(Array("{".utf8)) }
    #expect(rig.settle())
    #expect(rig.words.count == 1)
    #expect(
      rig.words[0].hasPrefix("an order of orders.0 goes to the dead letters (MALFORMED_BODY: "))
    rig.time.now += 10_000_000_000
    rig.putBody(Array(#"{"orderId":"o-1","qty":1}"#.utf8))
    #expect(rig.settle())
    #expect(rig.words.count == 2)
    #expect(rig.words[1].contains("UNKNOWN_FIELD") && rig.words[1].contains("'qty'"))
    #expect(rig.words[1].hasSuffix("; 99 others since the last that was told of"))
  }

  @Test func waitsForWhoeverMayNotCall() {
    let rig = Rig()
    rig.server.isForbidden = true
    rig.put("o-1")
    rig.turn(2000)
    #expect(!rig.metrics.isReady && rig.broker.dead.isEmpty && rig.broker.accepted.isEmpty)
    #expect(rig.words.first?.contains("ROLE_REQUIRED") == true && rig.words.count < 20)
    rig.server.isForbidden = false
    #expect(rig.settle())
    #expect(rig.metrics.isReady)
    rig.checkAnswers()
  }

  @Test func holdsNoMoreThanItsPrefetch() {
    let rig = Rig(Faults(serverUnreachable: 100)) { $0.prefetch = 20 }
    for number in 0..<200 { rig.put("o-\(number)") }
    rig.turn(300)
    #expect(rig.broker.unacceptedMax == 20 && rig.metric("holdfast_intake_in_hand") == 20)
    rig.server.faults.serverUnreachable = 0
    #expect(rig.settle())
    rig.checkAnswers()
  }

  /// It is the connection that ends, again and again, and not the intake: no order is at fault.
  @Test func aConnectionThatEndsOftenBuriesNothing() {
    let rig = Rig { $0.deliveriesMax = 3 }
    rig.server.isForbidden = true
    rig.put("o-1")
    for _ in 0..<20 {
      for _ in 0..<1000 where rig.broker.current == nil { rig.turn() }
      rig.turn(5)
      rig.broker.current?.failure = .away("reset")
      rig.turn()
    }
    #expect(rig.broker.connections == 20)
    rig.server.isForbidden = false
    #expect(rig.settle())
    rig.checkAnswers()
    #expect(rig.broker.dead.isEmpty)
  }

  /// Orders in hand are delivered again by each connection that is made for it: so they are ever fewer.
  @Test func aDeadLetterThatNobodyTakesEndsFewConnections() {
    let rig = Rig(Faults(hasNoLetters: true))
    rig.putBody([0xff], id: "poison")
    rig.put("o-1")
    let start = rig.time.now
    while rig.time.now - start < 900 * 1_000_000_000 { rig.turn() }
    #expect(4...8 ~= rig.broker.connections)
    rig.broker.faults.hasNoLetters = false
    #expect(rig.settle())
    rig.checkAnswers()
    #expect(rig.broker.dead.map(\.id) == ["poison"])
    #expect(rig.broker.dead[0].attributes.contains { $0.value == "MALFORMED_BODY" })
  }

  /// What nobody wants is accepted with its answer's end, also where the connection ends over it.
  @Test func anAnswerThatNobodyWantsDoesNotComeAgain() {
    let rig = Rig(Faults(missingQueues: ["gone"], endsOverMissingQueues: true))
    for number in 0..<5 { rig.put("o-\(number)", replyTo: number == 2 ? "gone" : "") }
    #expect(rig.settle(5000))
    rig.checkAnswers(but: ["o-2"])
    #expect(rig.metric("holdfast_intake_answers_dropped_total") == 1)
  }

  /// While an order has to wait, and others behind it, nothing is to be done: with the server, and without it.
  @Test(arguments: [false, true])
  func doesNotSpinWhileOrdersWait(_ isServerAway: Bool) {
    let rig = Rig(Faults(fails: ["bad"])) { $0.tries = 1000 }
    rig.put("bad", "a")
    rig.turn { $0.counted == 5 }
    for number in 0..<10 { rig.put("o-\(number)", "a") }
    if isServerAway {
      (rig.server.faults.serverLost, rig.server.faults.serverUnreachable) = (100, 100)
    }
    let start = rig.time.now
    rig.turn(500)
    #expect(rig.time.now - start > 10_000_000_000)
    rig.server.faults = Faults()
    #expect(rig.settle())
    rig.checkAnswers()
  }

  /// What is on its way is answered and accepted; the rest is left to the broker.
  @Test func endsInOrder() {
    let rig = Rig { $0.batchMax = 10 }
    for number in 0..<100 { rig.put("o-\(number)") }
    while rig.server.decisions.isEmpty { rig.turn() }
    rig.intake.drain()
    let decided = rig.server.decisions.count
    #expect(decided < 100 && rig.broker.accepted.count == decided)
    #expect(rig.broker.current == nil)
    rig.start()
    #expect(rig.settle())
    rig.checkAnswers()
    #expect(rig.broker.answers.count == 100)
  }

  @Test func theDrainDoesNotWaitForEver() {
    let rig = Rig(Faults(lateConfirmations: 100)) { $0.shutdownNanoseconds = 2_000_000_000 }
    rig.put("o-1")
    rig.turn(50)
    let before = rig.time.now
    rig.intake.drain()
    #expect(2_000_000_000...3_000_000_000 ~= rig.time.now - before)
    #expect(rig.broker.accepted.isEmpty)
  }
}

struct QueueDepthsTests {
  @Test func asksForEachQueueNowAndThen() {
    let rig = Rig { $0.partitions = 2 }
    var connections = 0
    var options = IntakeOptions()
    options.partitions = 2
    let depths = QueueDepths(options, hasQueues: true, metrics: rig.metrics, clock: rig.time.clock)
    {
      () throws(BrokerError) in
      connections += 1
      if connections == 1 { throw .away("nobody listens") }
      return try rig.broker.connect()
    }
    depths.step()
    #expect(rig.metric("holdfast_intake_dead_letter_queue_messages")?.isNaN == true)
    for _ in 0..<30 { depths.step() }
    #expect(rig.metric("holdfast_intake_dead_letter_queue_messages") == 7)
    // What is not there is made.
    #expect(
      rig.broker.declared == [
        .partitioned("orders", count: 2), .destination("orders.answers"),
        .deadLetters("orders.dead"),
        .single("orders.suspects"),
      ])
    rig.broker.forgetDeclarations()
    for queue in ["orders.0", "orders.1"] {
      #expect(rig.metric(#"holdfast_intake_queue_messages{queue="\#(queue)"}"#) == 7)
    }
    rig.broker.depth = 9
    depths.step()
    #expect(rig.metric(#"holdfast_intake_queue_messages{queue="orders.1"}"#) == 7)
    for _ in 0..<30 { depths.step() }
    #expect(rig.metric(#"holdfast_intake_queue_messages{queue="orders.1"}"#) == 9)
    #expect(rig.broker.declared.count == 4)
    // What is not known is not told.
    rig.broker.current?.failure = .away("reset")
    depths.step()
    #expect(rig.metric(#"holdfast_intake_queue_messages{queue="orders.1"}"#)?.isNaN == true)
    for _ in 0..<30 { depths.step() }
    #expect(
      rig.metric(#"holdfast_intake_queue_messages{queue="orders.1"}"#) == 9 && connections == 3)
  }
}
