// A broker with queues of orders and a server with stock, in memory, whose faults are drawn from a seed. What they have
// taken and decided outlives their connections.
import BrokerTesting
import Bytes
import Client
import GRPC
import Messaging
import Testing

@testable import Intake

/// What goes wrong, in hundredths of calls, messages or orders.
struct Faults {
  /// Polls of the broker's connection that end it.
  var brokerLost = 0
  var brokerUnreachable = 0
  var lateConfirmations = 0
  /// Polls of the server's connection that end it; of the batches on their way, some were decided.
  var serverLost = 0
  var serverUnreachable = 0
  /// Batches that are refused as a whole for now.
  var batchUnavailable = 0
  /// Orders that are refused for now, each alone.
  var orderUnavailable = 0
  /// Responses that end in the middle.
  var halfAnswered = 0
  /// Time that the server denies this program for.
  var forbidden = 0
  /// Ids of orders over which the server always fails: alone in its result, or with its batch.
  var fails: Set<String> = []
  var failsWhole: Set<String> = []
  /// Ids of orders whose answers make the broker end the connection.
  var deadlyAnswers: Set<String> = []
  /// Queues that are not there.
  var missingQueues: Set<String> = []
  /// The connection ends once the broker has said of one that it is not there.
  var endsOverMissingQueues = false
  /// The queue of dead letters is not there.
  var hasNoLetters = false
  /// Nor that of suspects.
  var hasNoSuspects = false
  /// Another intake is the one that is given them.
  var keepsSuspects = false
  /// Ids of orders that end the intake as soon as the server has them.
  var killers: Set<String> = []
}

/// Time that passes as somebody waits.
final class ScriptedTime {
  var now: Int64 = 1_000_000_000

  var clock: OutboxClock {
    OutboxClock(
      now: { [unowned self] in now }, wall: { [unowned self] in 1_800_000_000_000_000_000 + now },
      sleep: { [unowned self] in now += Int64(max($0, 1)) * 1_000_000 })
  }
}

// MARK: The broker

final class OrderBroker {
  struct Queued {
    var delivery: BrokerDelivery
    /// Its place among all that were ever put into its queue.
    let place: Int
  }

  var faults: Faults
  let time: ScriptedTime
  var random: Seeded
  var isCounting = true
  fileprivate(set) var ready: [String: [Queued]] = [:]
  private(set) var placed: [String: Int] = [:]
  /// What was taken, doubles too; the dead letters apart.
  fileprivate(set) var answers: [BrokerMessage] = []
  fileprivate(set) var dead: [BrokerMessage] = []
  fileprivate(set) var accepted: [BrokerDelivery] = []
  /// Ids of messages of which a confirmation was told.
  fileprivate(set) var confirmed: Set<String> = []
  fileprivate(set) var declared: [BrokerDeclaration] = []
  fileprivate(set) var unacceptedMax = 0
  private(set) var connections = 0
  fileprivate(set) var current: OrderConnection?
  var depth = 7

  init(_ faults: Faults, _ time: ScriptedTime, seed: UInt64) {
    self.faults = faults
    self.time = time
    random = Seeded(seed)
  }

  static let suspects = "orders.suspects"

  func put(_ delivery: BrokerDelivery) {
    placed[delivery.origin, default: 0] += 1
    ready[delivery.origin, default: []].append(
      Queued(delivery: delivery, place: placed[delivery.origin]!))
  }

  func forgetDeclarations() { declared = [] }

  /// Of a queue, as a broker says it.
  func depth(of queue: String) -> Int? {
    guard queue == Self.suspects else { return depth }
    return faults.hasNoSuspects ? nil : ready[queue]?.count ?? 0
  }

  var isEmpty: Bool {
    ready.values.allSatisfy(\.isEmpty) && (current?.unaccepted.isEmpty ?? true)
  }

  func connect() throws(BrokerError) -> any BrokerConnection {
    if random.chance(faults.brokerUnreachable) { throw .away("nobody listens") }
    precondition(current == nil, "one connection at a time")
    let connection = OrderConnection(self)
    connections += 1
    current = connection
    return connection
  }

  fileprivate func end(_ connection: OrderConnection) {
    if current !== connection { return }
    current = nil
    for var queued in connection.unaccepted.values.sorted(by: { $0.place > $1.place }) {
      let seen = queued.delivery.earlierDeliveries + 1
      queued.delivery.earlierDeliveries = isCounting ? seen : 1
      ready[queued.delivery.origin, default: []].insert(queued, at: 0)
    }
    connection.unaccepted = [:]
  }
}

final class OrderConnection: BrokerConnection {
  private let broker: OrderBroker
  private var published = Published()
  fileprivate var unaccepted: [UInt64: OrderBroker.Queued] = [:]
  private var nextTag: UInt64 = 1
  private var prefetch = 0
  private var readsSuspects = false
  private(set) var isClosed = false
  var failure: BrokerError?

  init(_ broker: OrderBroker) { self.broker = broker }

  func declare(_ declarations: [BrokerDeclaration]) throws(BrokerError) {
    broker.declared = declarations
  }

  func consume(
    _ sources: [BrokerDeclaration], prefetch: Int, group: String
  ) throws(BrokerError) {
    self.prefetch = prefetch
    readsSuspects = sources == [.single(OrderBroker.suspects)]
    #expect(!readsSuspects || prefetch == 1)
  }

  func publish(_ message: BrokerMessage) throws(BrokerError) -> UInt64 {
    precondition(!isClosed, "used after its end")
    return published.append(message)
  }

  func accept(_ tags: [UInt64]) throws(BrokerError) {
    precondition(!isClosed, "used after its end")
    for tag in tags {
      guard let queued = unaccepted.removeValue(forKey: tag) else {
        Issue.record("accepted twice, or never delivered here: \(tag)")
        continue
      }
      broker.accepted.append(queued.delivery)
      #expect(
        broker.confirmed.contains(queued.delivery.id),
        "accepted before its answer was confirmed: \(queued.delivery.correlationID)")
    }
  }

  func depth(of queue: String) throws(BrokerError) -> Int? { broker.depth(of: queue) }

  func poll(milliseconds: Int32, _ take: (BrokerNotice) -> Void) throws(BrokerError) {
    precondition(!isClosed, "used after its end")
    broker.time.now += 200_000
    if let failure {
      broker.end(self)
      throw failure
    }
    let isLost = broker.random.chance(broker.faults.brokerLost)
    let count = published.unseenCount
    let looks = isLost ? Int.random(in: 0...count, using: &broker.random) : count
    do throws(BrokerError) {
      try published.look(atMost: looks) { (number, message) throws(BrokerError) in
        try look(number, message, take)
      }
    } catch {
      broker.end(self)
      throw error
    }
    let hasConfirmed = published.confirm(late: broker.faults.lateConfirmations, &broker.random) {
      broker.confirmed.insert($1.id)
      take(.confirmed($0))
    }
    let hasDelivered = deliver(take)
    if isLost {
      broker.end(self)
      throw .away("the connection broke")
    }
    if !hasConfirmed, !hasDelivered { broker.time.now += Int64(milliseconds) * 1_000_000 }
  }

  private func look(
    _ number: UInt64, _ message: BrokerMessage, _ take: (BrokerNotice) -> Void
  ) throws(BrokerError) -> Bool {
    if message.destination.isEmpty, message.routingKey == "orders.dead" {
      if broker.faults.hasNoLetters {
        take(.refused(number, reason: "UNROUTABLE", text: "no such queue"))
        return false
      }
      broker.dead.append(message)
    } else if message.destination.isEmpty, message.routingKey == OrderBroker.suspects {
      broker.put(
        BrokerDelivery(
          tag: 0, origin: message.routingKey, id: message.id, type: message.type,
          contentType: message.contentType, correlationID: message.correlationID,
          replyTo: message.replyTo, body: message.body))
    } else if broker.faults.deadlyAnswers.contains(message.id) {
      throw .messageRefused(reason: "PRECONDITION_FAILED", text: "not this one")
    } else if message.destination.isEmpty,
      broker.faults.missingQueues.contains(message.routingKey)
    {
      broker.confirmed.insert(message.id)
      take(.refused(number, reason: "UNROUTABLE", text: "no such queue"))
      if broker.faults.endsOverMissingQueues { throw .away("the producer is at its end") }
      return false
    } else {
      broker.answers.append(message)
    }
    return true
  }

  private func deliver(_ take: (BrokerNotice) -> Void) -> Bool {
    var hasDelivered = false
    for origin in broker.ready.keys.sorted() {
      let isOfSuspects = origin == OrderBroker.suspects
      if isOfSuspects != readsSuspects || isOfSuspects && broker.faults.keepsSuspects { continue }
      while unaccepted.count < prefetch, var queued = broker.ready[origin]?.first {
        broker.ready[origin]?.removeFirst()
        queued.delivery.tag = nextTag
        unaccepted[nextTag] = queued
        nextTag += 1
        hasDelivered = true
        broker.unacceptedMax = max(broker.unacceptedMax, unaccepted.count)
        take(.delivery(queued.delivery))
      }
    }
    return hasDelivered
  }

  func close() {
    isClosed = true
    broker.end(self)
  }
}

// MARK: The server

/// Decides reserves of one line, each key once.
final class StockServer {
  var faults: Faults
  let time: ScriptedTime
  var random: Seeded
  var stock: [String: Int64]
  var isForbidden = false
  private(set) var decisions: [String: (payload: [UInt8], isHeld: Bool)] = [:]
  /// Keys by SKU, as they were first decided.
  private(set) var order: [String: [String]] = [:]
  /// In which response a key was decided, and in which it was put off.
  private(set) var decidedIn: [String: Int] = [:]
  private(set) var putOffIn: [String: Set<Int>] = [:]
  private var batches = 0
  private(set) var largestBatch = 0
  /// An order has come that ends the intake.
  var hasKilled = false
  fileprivate(set) var connections = 0

  init(_ faults: Faults, _ time: ScriptedTime, seed: UInt64, stock: [String: Int64]) {
    self.faults = faults
    self.time = time
    random = Seeded(seed)
    self.stock = stock
  }

  func connect() throws(CallFailure) -> any OrderServer {
    if random.chance(faults.serverUnreachable) {
      throw CallFailure(.connection(.unreachable), "connection refused")
    }
    connections += 1
    return StockConnection(self)
  }

  fileprivate static func refusal(_ code: StatusCode, _ reason: String) -> BatchEnd {
    var failure = CallFailure(.answered(code), "so it is")
    failure.details = StatusDetails(reason: reason)
    return .failure(failure)
  }

  fileprivate func decide(_ request: [UInt8]) -> BatchEnd {
    if isForbidden || random.chance(faults.forbidden) {
      return Self.refusal(.permissionDenied, "ROLE_REQUIRED")
    }
    if random.chance(faults.batchUnavailable) { return Self.refusal(.unavailable, "OVERLOADED") }
    let reserves = TestReserve.all(request)
    if reserves.isEmpty { return Self.refusal(.invalidArgument, "INVALID_FIELD") }
    if reserves.contains(where: { faults.failsWhole.contains($0.key) }) {
      return Self.refusal(.internal, "INTERNAL")
    }
    batches += 1
    largestBatch = max(largestBatch, reserves.count)
    let writer = ProtoWriter()
    defer { writer.destroy() }
    let cut =
      random.chance(faults.halfAnswered) ? Int.random(in: 0..<reserves.count, using: &random) : nil
    for (index, reserve) in reserves.enumerated() {
      // What is left out was decided all the same.
      let end = writer.count
      writer.nested(1) { decide(reserve, writer) }
      if let cut, index >= cut { writer.truncate(to: end) }
    }
    return .response(writer.array())
  }

  private func decide(_ reserve: TestReserve, _ writer: ProtoWriter) {
    if faults.fails.contains(reserve.key) {
      return failure(.internal, "INTERNAL", writer)
    }
    if let known = decisions[reserve.key] {
      if known.payload != reserve.bytes {
        return failure(.invalidArgument, "IDEMPOTENCY_KEY_REUSED", writer)
      }
      return answer(reserve, isHeld: known.isHeld, writer)
    }
    if !(1...1_000_000 ~= reserve.quantity) {
      return failure(.invalidArgument, "INVALID_FIELD", writer)
    }
    if random.chance(faults.orderUnavailable) {
      putOffIn[reserve.key, default: []].insert(batches)
      return failure(.unavailable, "CONFLICT_TOO_BUSY", writer)
    }
    let left = stock[reserve.sku, default: 0]
    let isHeld = reserve.quantity <= left
    if isHeld { stock[reserve.sku] = left - reserve.quantity }
    decisions[reserve.key] = (reserve.bytes, isHeld)
    decidedIn[reserve.key] = batches
    order[reserve.sku, default: []].append(reserve.key)
    answer(reserve, isHeld: isHeld, writer)
  }

  private func answer(_ reserve: TestReserve, isHeld: Bool, _ writer: ProtoWriter) {
    guard isHeld else { return failure(.failedPrecondition, "INSUFFICIENT_STOCK", writer) }
    writer.nested(1) {
      writer.nested(1) { writer.text("r-" + reserve.key) }
      writer.field(2, seconds: 1_800_000_600_000_000_000)
      writer.field(6, Int64(1))
    }
  }

  private func failure(_ code: StatusCode, _ reason: StaticString, _ writer: ProtoWriter) {
    writer.nested(2) {
      writer.field(1, Int64(code.rawValue))
      writer.field(2, reason)
      writer.nested(3) { writer.text("so it is") }
    }
  }
}

/// A ReserveRequest of one line.
struct TestReserve {
  var bytes: [UInt8]
  var key = ""
  var reference = ""
  var sku = ""
  var quantity: Int64 = 0

  /// Those of a BatchReserveRequest.
  static func all(_ request: [UInt8]) -> [TestReserve] {
    var all: [TestReserve] = []
    unsafe request.withUnsafeBytes { bytes in
      var fields = unsafe WireFields(bytes)
      while let field = fields.next() {
        all.append(TestReserve(unsafe Array(field.bytes)))
      }
      #expect(!fields.isMalformed)
    }
    return all
  }

  init(_ bytes: [UInt8]) {
    self.bytes = bytes
    unsafe bytes.withUnsafeBytes { bytes in
      var fields = unsafe WireFields(bytes)
      while let field = fields.next() {
        switch field.number {
        case 1: key = field.text
        case 2:
          var line = unsafe WireFields(field.bytes)
          while let part = line.next() {
            if part.number == 1 { sku = part.text }
            if part.number == 3 { quantity = part.signed }
          }
        case 4: reference = field.text
        default: break
        }
      }
    }
  }
}

final class StockConnection: OrderServer {
  private let server: StockServer
  private var waiting: [(UInt64, [UInt8])] = []
  private var calls: UInt64 = 0

  init(_ server: StockServer) { self.server = server }

  var isReady: Bool { true }

  func send(_ request: [UInt8]) -> UInt64 {
    calls += 1
    waiting.append((calls, request))
    return calls
  }

  func receive(
    milliseconds: Int32, _ take: (UInt64, BatchEnd) -> Void
  ) throws(CallFailure) {
    server.time.now += 100_000
    let isLost = server.random.chance(server.faults.serverLost)
    // Some of them get their answer only later.
    var count = Int.random(in: 0...waiting.count, using: &server.random)
    if waiting.isEmpty || count == 0 { server.time.now += Int64(milliseconds) * 1_000_000 }
    while count > 0 {
      count -= 1
      let (call, request) = waiting.removeFirst()
      if TestReserve.all(request).contains(where: { server.faults.killers.contains($0.key) }) {
        server.hasKilled = true
        return
      }
      let end = server.decide(request)
      if !isLost || count > 0 { take(call, end) }
    }
    if isLost { throw CallFailure(.connection(.lost), "the server closed the connection") }
  }
}
