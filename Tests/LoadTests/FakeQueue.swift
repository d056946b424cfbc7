import GRPC
import Messaging
import Posix
import Synchronization

@testable import LoadHistory
@testable import LoadKit

/// A broker with an intake behind it, in the test's own process: what is published to it is reserved at a server, in
/// messages of many, and answered.
final class FakeQueue: Sendable {
  enum Fault: Sendable {
    case none
    /// Ends the connection once orders are decided, before they are answered: each time that so many have come.
    case losesAnswers(every: Int)
    /// Answers every order twice.
    case answersTwice
    /// Does not take every such order at first.
    case postpones(every: Int)
    /// Takes no order.
    case refuses
    /// Gives two orders each other's answer.
    case swapsAnswers
    /// Says what nobody has asked for, and what is no answer.
    case babbles
    /// Connects nobody after the first.
    case diesAfter(orders: Int)
    /// Takes orders, and answers none after so many.
    case fallsSilent(after: Int)
    /// Has no exchange for orders.
    case isElsewhere
  }

  let fault: Fault
  private let server: Endpoint
  private let connections = Atomic<Int>(0)

  init(_ fault: Fault = .none, server: Endpoint) {
    self.fault = fault
    self.server = server
  }

  var connectionCount: Int { connections.load(ordering: .relaxed) }

  var route: OrderRoute {
    var route = OrderRoute(BrokerAccess(BrokerAddress("amqp://shop:word@queue")!, program: "test"))
    route.make = { [self] _ throws(BrokerError) in try connect() }
    return route
  }

  private func connect() throws(BrokerError) -> any OrderBroker {
    let before = connections.add(1, ordering: .relaxed).oldValue
    if case .diesAfter = fault, before > 0 { throw .away("nobody listens") }
    do {
      return try FakeQueueConnection(fault, server: server)
    } catch {
      throw .away("\(error)")
    }
  }
}

/// Used by one worker.
private final class FakeQueueConnection: OrderBroker {
  private let fault: FakeQueue.Fault
  private var client: StockClient
  private let wakeup: Wakeup
  private var waiting: [(number: UInt64, message: BrokerMessage)] = []
  private var newest: UInt64 = 0
  private var newestTag: UInt64 = 0
  private var decided = 0
  private var unaccepted: Set<UInt64> = []
  private var hasSubscribed = false

  init(_ fault: FakeQueue.Fault, server: Endpoint) throws {
    self.fault = fault
    client = try StockClient.connect(to: server)
    wakeup = try Wakeup()
  }

  var descriptor: Int32 { wakeup.number }

  func require(exchange name: String) throws(BrokerError) {
    if case .isElsewhere = fault { throw .unsuitable("no exchange '\(name)'") }
  }

  func declare(_ declarations: [BrokerDeclaration]) throws(BrokerError) {
    hasSubscribed = declarations == [.subscription(to: "orders.answers", pattern: "#")]
  }

  func consume(
    _ sources: [BrokerDeclaration], prefetch: Int, group: String
  ) throws(BrokerError) {
    guard hasSubscribed, sources == [.subscription(to: "orders.answers", pattern: "#")] else {
      throw .unsuitable("no subscription")
    }
  }

  func publish(_ message: BrokerMessage) throws(BrokerError) -> UInt64 {
    newest += 1
    waiting.append((newest, message))
    wakeup.signal()
    return newest
  }

  func accept(_ tags: [UInt64]) throws(BrokerError) {
    for tag in tags where unaccepted.remove(tag) == nil { throw .unsuitable("no tag \(tag)") }
  }

  func close() {}

  func poll(
    milliseconds: Int32, _ take: (BrokerNotice) -> Void
  ) throws(BrokerError) {
    wakeup.clear()
    var batch = waiting
    waiting = []
    if case .refuses = fault {
      for (number, _) in batch { take(.refused(number, reason: "REJECTED", text: "no order")) }
      return
    }
    if case .postpones(let every) = fault {
      let isPostponed = { (number: UInt64) in number % UInt64(every) == 0 }
      for (number, _) in batch where isPostponed(number) { take(.postponed(number, text: "full")) }
      batch.removeAll { isPostponed($0.number) }
    }
    if batch.isEmpty { return }
    if case .fallsSilent(let orders) = fault, decided >= orders {
      for (number, _) in batch { take(.confirmed(number)) }
      return
    }
    let results = try decide(batch.map(\.message))
    for (number, _) in batch { take(.confirmed(number)) }
    decided += batch.count
    switch fault {
    case .losesAnswers(let every) where decided >= every: throw .away("cut")
    case .diesAfter(let orders) where decided >= orders: throw .away("cut for good")
    case .babbles: babble(take)
    default: break
    }
    var answers = zip(batch, results).map { answer(to: $0.message, $1) }
    if case .swapsAnswers = fault, answers.count > 1 {
      let first = answers[0]
      (answers[0].body, answers[0].type) = (answers[1].body, answers[1].type)
      (answers[1].body, answers[1].type) = (first.body, first.type)
    }
    if case .answersTwice = fault { answers += answers }
    for answer in answers { deliver(answer, take) }
  }

  private func deliver(_ delivery: BrokerDelivery, _ take: (BrokerNotice) -> Void) {
    newestTag += 1
    unaccepted.insert(newestTag)
    var delivery = delivery
    delivery.tag = newestTag
    take(.delivery(delivery))
  }

  private func babble(_ take: (BrokerNotice) -> Void) {
    for name in ["", "none", String(repeating: "0", count: 22), String(repeating: "g", count: 22)] {
      deliver(
        BrokerDelivery(tag: 0, origin: "q", id: name, type: "StockReserved", body: [1, 2, 3]), take)
    }
    take(.blocked("low on disk"))
    take(.blocked(nil))
  }

  /// The ReserveResults of orders.
  private func decide(_ orders: [BrokerMessage]) throws(BrokerError) -> [Fields] {
    var results: [Fields] = []
    do {
      try client.callAll(1, .batchReserve) { _, message in
        message.removeAll()
        for order in orders { message.appendField(1, bytes: Self.request(order)) }
      } take: { _, calls, answer in
        results = calls.withMessage(of: answer) { bytes in
          Fields(unsafe bytes.withUnsafeBytes { unsafe Array($0) }).nested(1)
        }
        return results.count == orders.count
      }
    } catch {
      throw .away("\(error)")
    }
    return results
  }

  /// The ReserveRequest of an order.
  private static func request(_ order: BrokerMessage) -> [UInt8] {
    let fields = Fields(order.body)
    let isRight =
      order.destination == "orders" && order.type == "OrderPlaced" && order.id == fields.text(1)
      && order.contentType == "application/protobuf" && !order.partitionKey.isEmpty
      && order.routingKey == order.partitionKey
      && fields.nested(2).first?.text(1) == order.partitionKey
    precondition(isRight, "no order: \(order)")
    func copied(_ field: UInt64, as number: UInt64) -> [UInt8] {
      fields.bytes(field).flatMap { Fields.bytes(number, $0) }
    }
    return copied(1, as: 1) + copied(2, as: 2) + copied(3, as: 3) + copied(1, as: 4)
      + copied(4, as: 5) + copied(5, as: 6)
  }

  private func answer(to order: BrokerMessage, _ result: Fields) -> BrokerDelivery {
    let id = Fields.bytes(1, Array(order.id.utf8))
    var delivery = BrokerDelivery(tag: 0, origin: "q", id: order.id, correlationID: order.id)
    if let held = result.nested(1).first {
      delivery.type = "StockReserved"
      delivery.body =
        id + held.bytes(1).flatMap { Fields.bytes(2, $0) }
        + held.bytes(2).flatMap { Fields.bytes(3, $0) } + Fields.varint(4, held.number(4))
        + held.bytes(5).flatMap { Fields.bytes(5, $0) } + Fields.varint(6, 1)
    } else if let failure = result.nested(2).first {
      delivery.type = "StockRejected"
      delivery.body =
        id + Fields.bytes(2, Array(failure.text(2).utf8)) + Fields.bytes(3, Array("no".utf8))
        + failure.bytes(4).filter { Fields($0).text(1) != "replayed" }
        .flatMap { Fields.bytes(4, $0) }
    }
    return delivery
  }
}
