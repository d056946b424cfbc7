// Reserves that go through a queue: a worker's calls by `OrderLane`. To the rest of the worker they are calls as others.
internal import LoadHistory
internal import LoadReport
internal import Posix

extension WorkerLoop {
  private static let orderRounds = 4

  /// Connects to the broker, where orders go through a queue.
  mutating func connectOrders() throws(LoadError) {
    guard let orders else { return }
    try orders.connect()
    try pool.watchOrders(orders.descriptor)
  }

  /// Sends a Reserve as an order, on the account of one of a connection's streams.
  mutating func sendOrder(_ task: SendTask, by index: Int, since: Int64, _ now: Int64) {
    guard let number = calls.nextNumber else { return }
    pool.beginOrder(index)
    calls.add(
      InFlightCall(
        task: task, sinceNanoseconds: since, sentNanoseconds: now,
        connection: Int32(truncatingIfNeeded: index), stream: ConnectionPool.orderStream))
    meter.sent()
    meter.sentOrder()
    if task.isFirst { watch?.sent(task, ledger) }
    ledger.sent(task.operation, .reserve, at: now)
    orders?.begin(task.operation, call: number)
    publish(task.operation)
    if schedule.isProbing { return }
    if task.isFirst { for _ in 1..<operations.draws.copies() { duplicate(task) } }
  }

  private mutating func publish(_ operation: Int) {
    ledger.writeOrder(operation, to: &message)
    orders?.publish(operation, sku: ledger.line(of: operation).sku, message)
  }

  /// Sends and takes what there is.
  mutating func workOrders() throws(LoadError) {
    guard let orders else { return }
    while let operation = orders.popPostponed(SystemClock.monotonicNanoseconds()) {
      publish(operation)
    }
    var events: [OrderLane.Event] = []
    // What follows from answers leaves at once; but other connections have something to do too.
    for _ in 0..<WorkerLoop.orderRounds {
      orders.work(SystemClock.monotonicNanoseconds(), &events)
      if events.isEmpty { return }
      // Once they have come: an answer is not older than what was asked.
      let now = SystemClock.monotonicNanoseconds()
      for event in events { try take(event, now) }
      events.removeAll(keepingCapacity: true)
    }
  }

  private mutating func take(_ event: OrderLane.Event, _ now: Int64) throws(LoadError) {
    switch event {
    case .answered(let number, let result): takeOrder(number, result, now)
    case .refused(let number, let text):
      meter.noteFailure("the broker refuses an order: \(text)")
      endOrder(number, .otherFailure, now)
    case .lost(let reason): meter.noteLoss(reason, wasUp: true)
    case .restored:
      meter.noteRedial()
      try pool.watchOrders(orders?.descriptor)
      for operation in orders?.inFlight ?? [] { publish(operation) }
    }
  }

  private mutating func takeOrder(_ number: Int, _ answer: ReserveResult, _ now: Int64) {
    let call = calls.remove(number)
    pool.endOrder(Int(call.connection))
    quietSince = now
    var result = answer
    if !options.verifies { result = .accepted }
    // Answers do not say whether they repeat one.
    if !ledger.needsAnswer(call.task.operation, .reserve) { result = result.asRepetition }
    noteAnswered(call, now)
    meter.answeredOrder(isLate: schedule.isDraining)
    meter.countCode(result.code)
    count(result)
    conclude(call, result.reply, now)
    if isRunning, !schedule.isOpenLoop { pumpAndFlush(Int(call.connection), now) }
  }

  /// An order came to nothing, as far as anybody knows.
  private mutating func endOrder(_ number: Int, _ outcome: Outcome, _ now: Int64) {
    let call = calls.remove(number)
    pool.endOrder(Int(call.connection))
    meter.count(outcome)
    conclude(call, .noEffect, now)
    if isRunning, !schedule.isOpenLoop { pumpAndFlush(Int(call.connection), now) }
  }
}

extension RunOptions {
  /// What goes through no queue is refused before a run.
  func validateOrders() throws(LoadError) {
    guard via != nil else { return }
    func require(_ holds: Bool, _ text: String) throws(LoadError) {
      if !holds { throw LoadError("--via \(text)") }
    }
    try require(workload.api == .unary, "sends orders one by one: not with --api \(workload.api)")
    try require(
      workload.cutShare == 0 && workload.closeShare == 0,
      "has no calls to cut off: not with --cut-share and --close-share (scenario "
        + "\(workload.scenario))")
    try require(agents.isEmpty && agentShare == nil, "goes without --agents")
    try require(
      target.others.isEmpty || verifies, "with several --target addresses goes without --no-verify")
  }
}
