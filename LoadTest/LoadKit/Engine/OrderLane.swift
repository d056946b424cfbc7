// One worker's orders on their way through a queue, and the connection that they go by.
internal import LoadHistory
internal import Messaging
internal import Posix

/// Publishes orders, and tells which calls they answer. An order is in flight from its first publish to its answer: where
/// the connection is lost meanwhile, it is published again, with the same id, and so decided once.
final class OrderLane {
  enum Event {
    /// A call is answered.
    case answered(call: Int, ReserveResult)
    /// The broker does not take an order, for good: why.
    case refused(call: Int, String)
    /// The connection is lost: why.
    case lost(String)
    /// It was made again: what is in flight has to be published again.
    case restored
  }

  private let route: OrderRoute
  private let names: SKUNames
  private let keys: KeyNames
  private let worker: Int
  private var connection: (any OrderBroker)?
  /// By operation: its calls in flight, oldest first.
  private var waiting: [Int: [Int]] = [:]
  /// By the numbers of this connection: operations that the broker has not confirmed.
  private var published: [UInt64: Int] = [:]
  /// Operations that the broker did not take, to be published again.
  private var postponed = DelayedTasks<Int>()
  private var connectAt: Int64 = .max
  private var failures: Int64 = 0

  private static let postponedNanoseconds: Int64 = 100_000_000
  /// Between two attempts to connect: doubles from one to the next, up to the most.
  private static let pauseNanoseconds: Int64 = 100_000_000
  private static let doublingsMax: Int64 = 5

  init(_ route: OrderRoute, worker: Int, names: SKUNames, keys: KeyNames) {
    self.route = route
    self.names = names
    self.keys = keys
    self.worker = worker
  }

  /// What a poller waits for; nil without a connection.
  var descriptor: Int32? { connection?.descriptor }

  /// When `work` has something to do by itself.
  var nextNanoseconds: Int64 { min(connectAt, postponed.nextNanoseconds) }

  /// For the first time.
  func connect() throws(LoadError) {
    do throws(BrokerError) { connection = try route.connect() } catch {
      throw LoadError("\(route.description): \(Self.words(error))")
    }
  }

  func close() {
    connection?.close()
    connection = nil
  }

  /// Operations with calls in flight, each as often as it has them.
  var inFlight: [Int] { waiting.flatMap { operation, calls in calls.map { _ in operation } } }

  /// A call is in flight: `publish` follows.
  func begin(_ operation: Int, call: Int) {
    waiting[operation, default: []].append(call)
  }

  /// Publishes an order. Without a connection nothing: it is published once there is one.
  /// - Parameters:
  ///   - sku: of its first line.
  ///   - order: an OrderPlaced.
  func publish(_ operation: Int, sku: UInt32, _ order: borrowing MessageBuffer) {
    guard let connection else { return }
    let key = keys.name(worker: worker, operation: operation)
    let sku = names.name(Int(sku))
    let message = BrokerMessage(
      to: route.orders, routingKey: sku, partitionKey: sku, id: key, type: "OrderPlaced",
      source: "holdfast-load", contentType: "application/protobuf",
      time: SystemClock.wall().nanoseconds, correlationID: key,
      body: order.withSpan { bytes in unsafe bytes.withUnsafeBytes { unsafe Array($0) } })
    // Where it fails, `work` finds out, and all is published again.
    guard let number = try? connection.publish(message) else { return }
    published[number] = operation
  }

  /// The next operation that is to be published again by now.
  func popPostponed(_ now: Int64) -> Int? {
    while let operation = postponed.popDue(at: now) {
      if waiting[operation] != nil { return operation }
    }
    return nil
  }

  /// Sends what waits, takes what has come, and connects again where that is due.
  func work(_ now: Int64, _ events: inout [Event]) {
    guard let connection else {
      if now >= connectAt { connectAgain(now, &events) }
      return
    }
    var tags: [UInt64] = []
    var notices: [BrokerNotice] = []
    do throws(BrokerError) {
      try connection.poll(milliseconds: 0) { notice in
        if case .delivery(let delivery) = notice { tags.append(delivery.tag) }
        notices.append(notice)
      }
      if !tags.isEmpty { try connection.accept(tags) }
    } catch {
      self.connection = nil
      published = [:]
      connectAt = now + Self.pauseNanoseconds
      events.append(.lost("\(route.description): \(Self.words(error))"))
    }
    for notice in notices { take(notice, now, &events) }
  }

  private func connectAgain(_ now: Int64, _ events: inout [Event]) {
    do throws(BrokerError) {
      connection = try route.connect()
      connectAt = .max
      failures = 0
      events.append(.restored)
    } catch {
      failures = min(failures + 1, Self.doublingsMax)
      connectAt = SystemClock.monotonicNanoseconds() + Self.pauseNanoseconds << failures
    }
  }

  private func take(_ notice: BrokerNotice, _ now: Int64, _ events: inout [Event]) {
    switch notice {
    case .confirmed(let number): published[number] = nil
    case .postponed(let number, _):
      guard let operation = published.removeValue(forKey: number) else { return }
      postponed.add(operation, at: now + Self.postponedNanoseconds)
    case .refused(let number, let reason, let text):
      guard let operation = published.removeValue(forKey: number),
        let call = popCall(operation)
      else { return }
      events.append(.refused(call: call, "\(reason), \(text)"))
    case .delivery(let delivery):
      let order = delivery.correlationID.isEmpty ? delivery.id : delivery.correlationID
      // Another worker's, another run's, or an answer that came twice.
      guard let operation = keys.operation(order, worker: worker), let call = popCall(operation)
      else { return }
      events.append(
        .answered(call: call, ReserveResult(orderType: delivery.type, delivery.body.span, names)))
    // Orders wait in the meantime, and their latency says so.
    case .blocked: break
    }
  }

  private func popCall(_ operation: Int) -> Int? {
    guard var calls = waiting.removeValue(forKey: operation) else { return nil }
    let call = calls.removeFirst()
    if !calls.isEmpty { waiting[operation] = calls }
    return call
  }

  private static func words(_ error: BrokerError) -> String {
    switch error {
    case .away(let text), .unsuitable(let text), .messageRefused(_, let text): text
    }
  }
}
