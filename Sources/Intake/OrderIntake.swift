// Orders from a broker to a server and their answers back: `holdfast intake`.
package import Client
internal import GRPC
package import Messaging

/// Takes orders until it is stopped. Used by one thread, which waits for the broker and the server by turns.
///
/// A delivery is accepted once the broker has confirmed the order's answer, or its dead letter. Everything before that may
/// be lost with a connection or a process, and comes again: the order has the same key at the server and gets the same
/// decision, and its answer has the same id.
package final class OrderIntake {
  /// Of a batch, below what a server takes (1 MiB).
  private static let batchBytesMax = 768 << 10
  /// A wait for broker or server while there is nothing to do.
  private static let idleMilliseconds: Int32 = 100
  /// Dead letters that nobody takes: what was declared may be gone, and is declared again with a new connection. Each time
  /// everything in hand is delivered again: so after twice as long each time, up to an hour.
  private static let stuckNanoseconds: Int64 = 10_000_000_000
  private static let stuckNanosecondsMax: Int64 = 3600_000_000_000
  /// Orders are remembered whose answers have ended a connection.
  private static let unanswerableMax = 10_000
  /// Of orders that go to the dead letters one is told of in so long.
  private static let buriedNanoseconds: Int64 = 10_000_000_000
  /// AMQP has no room for longer ones; what was no UTF-8 has grown.
  private static let correlationBytesMax = 255
  /// Without a delivery for so long there are no more suspects.
  private static let suspectNanoseconds: Int64 = 1_000_000_000

  private let options: IntakeOptions
  private let ownPlaces: Set<String>
  private let metrics: IntakeMetrics
  private let clock: OutboxClock
  private let reader: OrderReader
  private let writer = AnswerWriter()
  private let sources: OrderSources
  private let outbox: Outbox
  private let link: ServerLink
  private let report: (String) -> Void

  private var counts = IntakeCounts()
  /// By origin: where in `lanes`. There are as many as partitions.
  private var laneIndexes: [String: Int] = [:]
  private var lanes: [Lane] = []
  private var laneOfCall: [UInt64: Int] = [:]
  /// By the outbox's numbers: whose answer or dead letter it is.
  private var unsettled: [UInt64: Unsettled] = [:]
  /// Which connection to the broker this is.
  private var connection: UInt64 = 0
  /// Monotonic nanoseconds.
  private var connectedAt: Int64 = 0
  /// What the broker may forget, of this connection.
  private var accepted: [UInt64] = []
  /// By order id: what the broker has said of its answer. Such an order comes again, since the connection ended.
  private var unanswerable: [String: OrderFault] = [:]
  private var stuckSince: Int64?
  private var stuckPatience = OrderIntake.stuckNanoseconds
  private var buriedToldAt: Int64?
  /// Since then.
  private var buriedUntold = 0
  private var isDraining = false
  /// When a suspect came, or could have; monotonic nanoseconds.
  private var suspectAt: Int64 = 0
  private var suspectsToldAt: Int64?

  private struct Unsettled {
    let tag: UInt64
    let connection: UInt64
    let takenAt: Int64
    /// nil: a dead letter, or a suspect on its way to their queue.
    let answer: (orderID: String, kind: Answer.Kind)?
    var isSuspect = false
  }

  /// - Parameters:
  ///   - targets: servers, one at least.
  ///   - address: where the broker is.
  ///   - connectBroker: makes a connection, on which nothing is declared or consumed.
  ///   - connectServer: begins a connection.
  ///   - report: is told, in words, of what goes wrong and when it goes on.
  package init(
    _ options: IntakeOptions, _ targets: [ServiceTarget], metrics: IntakeMetrics,
    clock: OutboxClock = .system, address: BrokerAddress,
    connectBroker: @escaping () throws(BrokerError) -> any BrokerConnection,
    connectServer: @escaping (ServiceTarget) throws(CallFailure) -> any OrderServer,
    report: @escaping (String) -> Void
  ) {
    self.options = options
    ownPlaces = options.ownPlaces
    self.metrics = metrics
    self.clock = clock
    self.report = report
    reader = OrderReader(ttlNanoseconds: options.ttlNanoseconds)
    let sources = OrderSources(options, address: address)
    self.sources = sources
    outbox = Outbox(
      // What is in hand is limited by the prefetch.
      OutboxLimits(messagesMax: 65_536, bytesMax: .max),
      deadLetters: DeadLetters(options.deadLetters, on: address), clock: clock,
      connect: { () throws(BrokerError) in
        let made = try connectBroker()
        do throws(BrokerError) { try sources.begin(made) } catch {
          made.close()
          throw error
        }
        return made
      }, report: { report("\(address): \($0)") })
    link = ServerLink(targets, clock: clock, connect: connectServer, report: report)
  }

  /// Until `isStopped`, which is asked several times a second.
  package func run(isStopped: () -> Bool) {
    while !isStopped() { turn() }
  }

  /// Ends in order: what the server has is answered, and the rest left to the broker.
  /// - Returns: deliveries that were not accepted.
  @discardableResult
  package func drain() -> Int {
    isDraining = true
    let deadline = clock.now() + options.shutdownNanoseconds
    while clock.now() < deadline, link.inFlight > 0 || !unsettled.isEmpty {
      turn()
      // Without a connection everything comes again.
      if !outbox.isConnected { break }
    }
    acceptSettled()
    outbox.close()
    return counts.inHand
  }

  /// Takes what has come from both sides, and sends what is due.
  package func turn() {
    let now = clock.now()
    if !isDraining { sendBatches(now) }
    // Both sides are waited for by turns: briefly for a server that decides, else for the broker.
    let patience = link.patience(now: now)
    link.step(milliseconds: patience ?? 0) { end($0, $1) }
    outbox.step(milliseconds: patience == nil ? idleMilliseconds(now) : 0) { hear($0) }
    acceptSettled()
    loosen(now)
    if !isDraining { readOn(now) }
    metrics.publish(counts, outbox, link, sources.mode, isEnding: isDraining)
  }

  private func idleMilliseconds(_ now: Int64) -> Int32 {
    var next = now + Int64(Self.idleMilliseconds) * 1_000_000
    if !isDraining {
      let opens = now + link.wait(now: now)
      for lane in lanes where !lane.isEmpty { next = min(next, max(opens, lane.nextDue ?? opens)) }
      if !link.isConnected { next = min(next, opens) }
    }
    return next > now ? Int32(clamping: (next - now + 999_999) / 1_000_000) : 0
  }

  // MARK: From the broker

  private func hear(_ notice: OutboxNotice) {
    switch notice {
    case .delivery(let delivery): if !isDraining { take(delivery) }
    case .settled(let number, let isDead): settled(number, isDead ? .dead : .answered)
    case .dropped(let number): settled(number, .dropped)
    case .connected: connectedAt = clock.now()
    case .disconnected: disconnected()
    }
  }

  private func take(_ delivery: BrokerDelivery) {
    let now = clock.now()
    counts.inHand += 1
    if delivery.earlierDeliveries > 0 { counts.redelivered += 1 }
    suspectAt = now
    if sources.mode == .alone { sources.noteSuspect() }
    // The ends of this process's own connections are no order's fault: it has lived through them.
    let isSuspect =
      delivery.earlierDeliveries - Int(clamping: connection) >= options.deliveriesMax
    if isSuspect, sources.mode != .alone, sources.canMove, delivery.omittedBytes == 0 {
      return moveToSuspects(delivery, takenAt: now)
    }
    // It comes again with the next connection.
    if sources.mode == .moving { return }
    do throws(OrderFault) {
      if isSuspect, delivery.omittedBytes == 0 {
        let why = sources.mode == .alone ? "alone" : "without a queue \(options.suspects)"
        throw OrderFault(
          "DELIVERED_TOO_OFTEN",
          "delivered \(delivery.earlierDeliveries) times before, \(why), and never decided")
      }
      let order = try reader.read(delivery)
      lanes[laneIndex(delivery.origin)].add(
        OrderInHand(order, delivery, connection: connection, takenAt: now))
    } catch {
      bury(delivery, error, connection: connection, takenAt: now)
    }
  }

  private func laneIndex(_ origin: String) -> Int {
    if let index = laneIndexes[origin] { return index }
    laneIndexes[origin] = lanes.count
    lanes.append(Lane())
    return lanes.count - 1
  }

  /// To the dead letters.
  private func bury(
    _ delivery: BrokerDelivery, _ fault: OrderFault, connection: UInt64, takenAt: Int64
  ) {
    guard connection == self.connection else { return }
    let number = outbox.addDead(
      asItCame(delivery, to: delivery.origin), reason: fault.reason, text: fault.text,
      omitsBody: delivery.omittedBytes > 0)
    unsettled[number] = Unsettled(
      tag: delivery.tag, connection: connection, takenAt: takenAt, answer: nil)
    counts.dead += 1
    tellBuried(delivery.origin, fault)
  }

  private func asItCame(
    _ delivery: BrokerDelivery, to destination: String, routingKey: String = ""
  ) -> BrokerMessage {
    BrokerMessage(
      to: destination, routingKey: routingKey, partitionKey: delivery.partitionKey,
      id: delivery.id, type: delivery.type, source: options.source,
      contentType: delivery.contentType, correlationID: delivery.correlationID,
      replyTo: delivery.replyTo, body: delivery.body)
  }

  /// Whoever looks for an order finds in the log that there is such a letter, and its reason in the letter.
  private func tellBuried(_ origin: String, _ fault: OrderFault) {
    let now = clock.now()
    if let toldAt = buriedToldAt, now - toldAt < Self.buriedNanoseconds {
      buriedUntold += 1
      return
    }
    let others = buriedUntold == 0 ? "" : "; \(buriedUntold) others since the last that was told of"
    // Some of it is the words of whoever has placed the order, and is not to look like a line of ours.
    let text = fault.text.split(whereSeparator: \.isNewline).joined(separator: " ")
    report("an order of \(origin) goes to the dead letters (\(fault.reason): \(text))\(others)")
    (buriedToldAt, buriedUntold) = (now, 0)
  }

  private enum AnswerFate { case answered, dead, dropped }

  private func settled(_ number: UInt64, _ fate: AnswerFate) {
    guard let entry = unsettled.removeValue(forKey: number) else { return }
    guard entry.connection == connection else {
      // The search for what ended an earlier connection has found it.
      if fate == .dead, let answer = entry.answer, unanswerable.count < Self.unanswerableMax {
        unanswerable[answer.orderID] = OrderFault(
          "ANSWER_REFUSED", "the broker does not take its answer")
      }
      return
    }
    if fate == .dead || unsettled.isEmpty { stuckPatience = Self.stuckNanoseconds }
    // At once: what nobody wants may end the connection with it, and would come again.
    if fate == .dropped { outbox.accept([entry.tag]) } else { accepted.append(entry.tag) }
    counts.inHand -= 1
    if entry.isSuspect {
      if fate == .dead { counts.dead += 1 } else { counts.suspects += 1 }
      return
    }
    if let answer = entry.answer, fate == .answered { counts.answers[answer.kind, default: 0] += 1 }
    metrics.orderTook(clock.now() - entry.takenAt)
  }

  private func acceptSettled() {
    if accepted.isEmpty { return }
    outbox.accept(accepted)
    accepted.removeAll(keepingCapacity: true)
  }

  /// Whatever the connection delivered, and was not accepted, comes again.
  private func disconnected() {
    connection += 1
    accepted.removeAll()
    counts.inHand = 0
    for index in lanes.indices { lanes[index].forgetWaiting() }
    // Answers are made again, but for those of which one is what the broker has ended the connection over.
    if case .messageRefused = outbox.trouble { return }
    outbox.removeAll()
    unsettled.removeAll()
  }

  /// Dead letters for which there is no queue any more are declared by a new connection.
  private func loosen(_ now: Int64) {
    guard outbox.stuck != nil else {
      stuckSince = nil
      return
    }
    let since = stuckSince ?? now
    stuckSince = since
    guard now - since > stuckPatience, outbox.isConnected else { return }
    stuckSince = nil
    stuckPatience = min(stuckPatience * 2, Self.stuckNanosecondsMax)
    connectAnew()
  }

  private func connectAnew() {
    outbox.close()
    disconnected()
  }

  // MARK: Suspects

  private func moveToSuspects(_ delivery: BrokerDelivery, takenAt: Int64) {
    guard let suspects = sources.suspects else { return }
    if sources.mode != .moving { stopLooking() }
    let number = outbox.add(asItCame(delivery, to: "", routingKey: suspects))
    unsettled[number] = Unsettled(
      tag: delivery.tag, connection: connection, takenAt: takenAt, answer: nil, isSuspect: true)
  }

  private func stopLooking() {
    sources.move()
    for index in lanes.indices { lanes[index].forgetWaiting() }
  }

  /// Goes from one way of reading to the next.
  private func readOn(_ now: Int64) {
    guard outbox.isConnected else { return }
    switch sources.mode {
    case .all:
      // Another intake has left some behind.
      if metrics.suspects(since: connectedAt) > 0 { stopLooking() }
    case .moving:
      // What has come is moved, and what the server had is answered.
      if unsettled.isEmpty, laneOfCall.isEmpty { connectAnew() }
    case .alone where !sources.isReading:
      guard link.isOpen else { return }
      tellSuspects(now)
      suspectAt = now
      outbox.use { (connection) throws(BrokerError) in try sources.readSuspects(connection) }
    case .alone:
      guard counts.inHand == 0, now - suspectAt > Self.suspectNanoseconds else { return }
      sources.endReading()
      connectAnew()
    }
  }

  private func tellSuspects(_ now: Int64) {
    if let toldAt = suspectsToldAt, now - toldAt < Self.buriedNanoseconds { return }
    suspectsToldAt = now
    report(
      "\(sources.waiting) orders that were delivered \(options.deliveriesMax) times and never answered are tried one "
        + "by one, from \(options.suspects): something ends intakes; the others wait")
  }

  // MARK: To the server

  private func sendBatches(_ now: Int64) {
    if !link.isOpen || sources.mode == .moving { return }
    for index in lanes.indices {
      let batch = lanes[index].take(
        now: now, countMax: options.batchMax, bytesMax: Self.batchBytesMax)
      if batch.isEmpty { continue }
      let call = link.send(batch.request)
      laneOfCall[call] = index
      counts.batches += 1
      counts.batchedOrders += UInt64(batch.count)
    }
  }

  private func end(_ call: UInt64, _ outcome: ServerLink.Outcome) {
    guard let index = laneOfCall.removeValue(forKey: call) else { return }
    let batch = lanes[index].inFlight
    var again: [OrderInHand]
    switch outcome {
    case .again:
      again = batch
      counts.retries[.server, default: 0] += UInt64(batch.count)
    case .ofAnOrder(let failure) where batch.count == 1:
      again = []
      if let order = failed(batch[0], failure) { again.append(order) }
    case .ofAnOrder:
      again = batch
      lanes[index].suspect()
      counts.retries[.search, default: 0] += UInt64(batch.count)
    case .decided(let response):
      again = decided(batch, response)
      lanes[index].clearSuspects()
    }
    again.removeAll { $0.connection != connection }
    lanes[index].end(again: again)
  }

  /// Those of a batch that have to be tried again.
  private func decided(_ batch: [OrderInHand], _ response: [UInt8]) -> [OrderInHand] {
    var again: [OrderInHand] = []
    var known = 0
    let isWhole = BatchResponse.read(response, count: batch.count) { index, outcome in
      let order = batch[index]
      switch outcome {
      case .held(let field):
        guard let answer = unsafe writer.reserved(order.order, field) else { return false }
        counts.reserved += 1
        publish(answer, order)
      case .failed(let failure):
        if let order = failed(order, failure) { again.append(order) }
      }
      known = index + 1
      return true
    }
    if !isWhole {
      again += batch[known...]
      counts.retries[.server, default: 0] += UInt64(batch.count - known)
      link.distrust()
    }
    return again
  }

  /// The order, where it has to be tried again.
  private func failed(_ order: OrderInHand, _ failure: OrderFailure) -> OrderInHand? {
    let fate = FailureFate(failure)
    switch fate {
    case .rejected:
      counts.rejected += 1
      publish(writer.rejected(order.order, failure), order)
      return nil
    case .dead:
      let reason = failure.reason.isEmpty ? failure.code.name : failure.reason
      bury(order, OrderFault(reason, failure.text))
      return nil
    case .counted:
      order.countedTries += 1
      if order.countedTries >= options.tries {
        bury(
          order,
          OrderFault(
            "TRIED_TOO_OFTEN",
            "\(order.countedTries) tries; the last: \(failure.code.name) \(failure.reason): \(failure.text)"
          ))
        return nil
      }
    case .later, .forbidden: break
    }
    var random = SystemRandomNumberGenerator()
    order.dueAt = clock.now() + max(failure.retryNanoseconds, order.waits.wait(&random))
    counts.retries[fate == .counted ? .counted : .later, default: 0] += 1
    return order
  }

  private func bury(_ order: OrderInHand, _ fault: OrderFault) {
    bury(order.delivery, fault, connection: order.connection, takenAt: order.takenAt)
  }

  private func publish(_ answer: Answer, _ order: OrderInHand) {
    // Of another connection: the order comes again, and its answer with it.
    guard order.connection == connection else { return }
    let id = order.order.id
    let replyTo = order.delivery.replyTo
    let isReply = !replyTo.isEmpty && !ownPlaces.contains(replyTo)
    // Who waits in a queue of its own knows its question by what it has called it.
    let question = order.delivery.correlationID
    let correlationID =
      isReply && 1...Self.correlationBytesMax ~= question.utf8.count ? question : id
    let message = BrokerMessage(
      to: isReply ? "" : options.answers,
      routingKey: isReply ? replyTo : "\(answer.kind.rawValue).\(id)",
      partitionKey: order.order.sku, id: id, type: answer.kind.rawValue, source: options.source,
      contentType: order.order.format.contentType, time: clock.wall(), correlationID: correlationID,
      body: answer.body)
    let number =
      if !unanswerable.isEmpty, let fault = unanswerable[id] {
        outbox.addDead(message, reason: fault.reason, text: fault.text)
      } else {
        outbox.add(message, isDroppable: isReply)
      }
    unsettled[number] = Unsettled(
      tag: order.delivery.tag, connection: order.connection, takenAt: order.takenAt,
      answer: (id, answer.kind))
  }
}
