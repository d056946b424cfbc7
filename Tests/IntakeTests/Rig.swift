// An intake between a scripted broker and a scripted server, and what must hold of all three.
import Bytes
import Client
import Messaging
import Metrics
import Testing

@testable import Intake

final class Rig {
  let time = ScriptedTime()
  let broker: OrderBroker
  let server: StockServer
  let metrics: IntakeMetrics
  private(set) var words: [String] = []
  private(set) var intake: OrderIntake!
  private let options: IntakeOptions
  private let address: BrokerAddress
  /// Of orders that a server can decide, as they were put: where each stands in its queue.
  private(set) var good: [String: (sku: String, place: Int, body: [UInt8])] = [:]

  static let address = BrokerAddress.amqp(
    AMQPAddress(host: "a", port: 1, user: "u", password: nil, virtualHost: "/", isTLS: false))

  init(
    _ faults: Faults = Faults(), seed: UInt64 = 1, stock: [String: Int64] = ["a": 1_000_000],
    address: BrokerAddress = Rig.address, change: (inout IntakeOptions) -> Void = { _ in }
  ) {
    self.address = address
    broker = OrderBroker(faults, time, seed: seed &* 3)
    server = StockServer(faults, time, seed: seed &* 5, stock: stock)
    var options = IntakeOptions()
    options.prefetch = 50
    change(&options)
    self.options = options
    metrics = IntakeMetrics(options, hasQueues: true)
    start()
  }

  /// A process of its own: nothing is known of the one before.
  func start() {
    intake = OrderIntake(
      options, [ServiceTarget("127.0.0.1:1")!], metrics: metrics, clock: time.clock,
      address: address,
      connectBroker: { [broker] () throws(BrokerError) in try broker.connect() },
      connectServer: { [server] (_) throws(CallFailure) in try server.connect() },
      report: { [unowned self] in words.append($0) })
  }

  /// kill -9: nothing is said to anybody.
  func kill() {
    intake = nil
    broker.current?.close()
    start()
  }

  // MARK: Orders

  func put(
    _ id: String, _ sku: String = "a", _ quantity: Int64 = 1, isJSON: Bool = false,
    replyTo: String = "", type: String = "OrderPlaced"
  ) {
    let body = isJSON ? Self.json(id, sku, quantity) : Self.protobuf(id, sku, quantity)
    putBody(
      body, contentType: isJSON ? "application/json" : "application/protobuf", id: id,
      origin: "orders.\(sku.utf8.first! % 4)", replyTo: replyTo, type: type)
    if good[id] == nil { good[id] = (sku, broker.placed["orders.\(sku.utf8.first! % 4)"]!, body) }
  }

  func putBody(
    _ body: [UInt8], contentType: String = "application/json", id: String = "poison",
    origin: String = "orders.0", replyTo: String = "", type: String = "OrderPlaced"
  ) {
    broker.put(
      BrokerDelivery(
        tag: 0, origin: origin, id: id, type: type, contentType: contentType, correlationID: id,
        replyTo: replyTo, body: body))
  }

  static func protobuf(_ id: String, _ sku: String, _ quantity: Int64) -> [UInt8] {
    let writer = ProtoWriter()
    defer { writer.destroy() }
    writer.nested(1) { writer.text(id) }
    writer.nested(2) {
      writer.nested(1) { writer.text(sku) }
      writer.field(3, quantity)
    }
    return writer.array()
  }

  static func json(_ id: String, _ sku: String, _ quantity: Int64) -> [UInt8] {
    Array(#"{"orderId":"\#(id)","lines":[{"sku":"\#(sku)","quantity":"\#(quantity)"}]}"#.utf8)
  }

  // MARK: Running

  func turn(_ count: Int = 1) {
    for _ in 0..<count {
      intake.turn()
      time.now += 50_000
      if server.hasKilled {
        server.hasKilled = false
        kill()
      }
    }
  }

  /// Until something holds; for as many turns as that could ever take.
  func turn(until isDone: (Rig) -> Bool) {
    for _ in 0..<1000 where !isDone(self) { turn() }
    #expect(isDone(self))
  }

  /// How often the server has failed over an order.
  var counted: Double? { metric(#"holdfast_intake_retries_total{reason="counted"}"#) }

  /// Until the queues are empty and everything is accepted. False: it does not come to that.
  func settle(_ turns: Int = 50_000) -> Bool {
    for _ in 0..<turns {
      if broker.isEmpty, broker.current != nil { return true }
      turn()
    }
    return false
  }

  var page: String {
    var page = Exposition()
    metrics.add(to: &page)
    return page.text
  }

  /// A sample of the metrics page.
  func metric(_ name: String) -> Double? {
    page.split(separator: "\n").first { $0.hasPrefix(name + " ") }
      .flatMap { Double($0.dropFirst(name.utf8.count + 1)) }
  }

  // MARK: What must hold

  /// Each good order was decided once, and answered as it was decided; none is among the dead.
  func checkAnswers(but exceptions: Set<String> = []) {
    var types: [String: Set<String>] = [:]
    for answer in broker.answers {
      types[answer.id, default: []].insert(answer.type)
      #expect(answer.correlationID == answer.id && answer.source == "holdfast-intake")
    }
    let dead = Set(broker.dead.map(\.id))
    for (id, order) in good where !exceptions.contains(id) {
      guard let decision = server.decisions[id] else {
        Issue.record("never decided: \(id)")
        continue
      }
      let expected = decision.isHeld ? "StockReserved" : "StockRejected"
      #expect(types[id] == [expected], "\(id) of \(order.sku)")
      #expect(!dead.contains(id), "among the dead: \(id)")
    }
    #expect(server.stock.values.allSatisfy { $0 >= 0 })
  }

  /// Orders of a SKU were decided as they stood in their queue. One that the server has put off alone may have been
  /// passed by those of its own batch.
  func checkOrder() {
    for (sku, keys) in server.order {
      for (index, key) in keys.enumerated() {
        for later in keys[(index + 1)...] where good[later]!.place < good[key]!.place {
          #expect(
            server.putOffIn[later]?.contains(server.decidedIn[key]!) == true,
            "\(key) passed \(later) of \(sku)")
        }
      }
    }
  }
}
