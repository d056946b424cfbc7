// What a worker's customers do: what an operation begins with, and what follows from an answer.
internal import LoadHistory

struct Operations {
  /// Also for what goes wrong on the way.
  var draws: Draws
  private let workload: Workload
  /// Without checked answers there is no reservation to go on with.
  private let goesOn: Bool
  /// What follows, and was not taken yet.
  private var following: [SendTask] = []

  init(_ options: RunOptions, weights: AliasTable?, seed: UInt64) {
    let owner = options.agentShare.flatMap { $0.ownsSKUs ? ($0.index, $0.count) : nil }
    draws = Draws(options.workload, weights: weights, owner: owner, seed: seed)
    workload = options.workload
    goesOn = options.verifies
  }

  // MARK: Beginning

  /// Opens another operation. Its first call.
  mutating func open(in ledger: inout Ledger, _ schedule: Schedule, _ now: Int64) -> SendTask {
    if schedule.isProbing { return openReserve(lineCount: 1, &ledger, schedule, now) }
    switch draws.opening() {
    case .reserve: return openReserve(lineCount: draws.lineCount(), &ledger, schedule, now)
    case .read:
      return SendTask(operation: ledger.openRead(sku: draws.sku()), method: .getStock)
    case .count:
      let operation = ledger.openCount(sku: draws.sku(), missing: draws.missingUnits())
      return SendTask(operation: operation, method: .getStock)
    case .restock:
      let operation = ledger.openRestock(sku: draws.sku(), units: draws.restockUnits())
      return SendTask(operation: operation, method: .adjustStock)
    }
  }

  private mutating func openReserve(
    lineCount: Int, _ ledger: inout Ledger, _ schedule: Schedule, _ now: Int64
  ) -> SendTask {
    let first = ledger.lineCount
    let isPartial = draws.isPartial()
    for _ in 0..<lineCount {
      let line = draws.line()
      let minimum = isPartial ? (line.quantity + 1) / 2 : 0
      ledger.addLine(CartLine(sku: line.sku, quantity: line.quantity, minimum: minimum))
    }
    for alternative in 1..<max(1, workload.warehouses) {
      for index in first..<first + lineCount {
        ledger.addLine(elsewhere(ledger.line(at: index), alternative))
      }
    }
    var timeToLive = draws.timeToLiveNanoseconds()
    if let storm = schedule.stormNanoseconds, !schedule.isProbing {
      timeToLive = max(1_000_000_000, storm - now)
    }
    let operation = ledger.openReserve(
      lineCount: lineCount, alternatives: workload.warehouses - 1,
      timeToLiveNanoseconds: timeToLive, limit: draws.limit())
    return SendTask(operation: operation, method: .reserve)
  }

  /// The same product's units in another warehouse: the one that is so many behind it, in a circle.
  private func elsewhere(_ line: CartLine, _ alternative: Int) -> CartLine {
    let products = workload.skuCount / workload.warehouses
    return CartLine(
      sku: UInt32((Int(line.sku) + alternative * products) % workload.skuCount),
      quantity: line.quantity, minimum: line.minimum)
  }

  // MARK: Going on

  /// Begins what follows from an answer, or from its absence.
  ///
  /// - Parameter isAcceptance: it is the first of a Reserve.
  mutating func goOn(
    after task: SendTask, _ reply: Reply, isAcceptance: Bool, _ ledger: inout Ledger,
    _ schedule: Schedule, _ now: Int64
  ) {
    switch (task.method, reply) {
    case (.confirm, .accepted) where workload.keepsCommitted && goesOn:
      ship(task.operation, &ledger, schedule, now)
    case (.getStock, .read(let level)) where ledger[task.operation].kind == .count:
      ledger.setExpected(level.onHand, of: task.operation)
      following.append(
        SendTask(operation: task.operation, method: .adjustStock, dueNanoseconds: now))
    default:
      let next = next(after: task, isAcceptance: isAcceptance, &ledger, schedule, now)
      if let next { following.append(next) }
    }
  }

  /// The next of what follows.
  mutating func popNext() -> SendTask? { following.popLast() }

  /// Ships what was sold, item by item, or has it unsold; or leaves it.
  private mutating func ship(
    _ operation: Int, _ ledger: inout Ledger, _ schedule: Schedule, _ now: Int64
  ) {
    guard let isUnsold = draws.shipping() else { return }
    var lines = ledger.heldLines(of: operation)
    if !ledger.newCart(of: operation).isEmpty {
      // Where nobody knows what was sold, nothing can be shipped.
      guard let answer = ledger.decidedAnswer(operation, .replace) else { return }
      if case .accepted = answer { lines = ledger.newCart(of: operation) }
    }
    let due = schedule.isDraining ? now : now + draws.shipTimeNanoseconds()
    for index in lines {
      let line = ledger.line(at: index)
      let shipped = ledger.openShip(sku: line.sku, units: line.quantity, isUnsold: isUnsold)
      following.append(
        SendTask(operation: shipped, method: .adjustStock, dueNanoseconds: due))
    }
  }

  /// What follows from an answer, or from its absence, and when: a reservation is extended, gets other lines,
  /// and is confirmed or released once the customer has paid, each if it is drawn. nil: nothing.
  ///
  /// - Parameter isAcceptance: it is the first of a Reserve.
  private mutating func next(
    after task: SendTask, isAcceptance: Bool, _ ledger: inout Ledger, _ schedule: Schedule,
    _ now: Int64
  ) -> SendTask? {
    let operation = task.operation
    if isAcceptance, schedule.isProbe(operation) {
      return goesOn ? SendTask(operation: operation, method: .release, dueNanoseconds: now) : nil
    }
    if isAcceptance, draws.isExtended() {
      return SendTask(operation: operation, method: .extend, dueNanoseconds: now)
    }
    guard isAcceptance || task.leads && (task.method == .extend || task.method == .replace) else {
      return nil
    }
    if task.method != .replace, goesOn, draws.isReplaced() {
      openReplace(of: operation, &ledger)
      let pause = draws.changeTimeNanoseconds()
      return SendTask(
        operation: operation, method: .replace,
        dueNanoseconds: schedule.isDraining ? now : now + pause)
    }
    return end(operation, schedule, now)
  }

  /// Draws the lines that are to take the place of a reservation's: each goes up, down, to another SKU (another
  /// warehouse's units are another item), or away.
  private mutating func openReplace(of operation: Int, _ ledger: inout Ledger) {
    let cart = ledger.cart(of: operation)
    let expected = ledger.knownRevision(of: operation)
    var count = 0
    for index in cart {
      let old = ledger.line(at: index)
      guard let line = draws.changed(old) else { continue }
      ledger.addLine(line)
      count += 1
    }
    if count == 0 {
      ledger.addLine(draws.line())
      count = 1
    }
    ledger.openReplace(of: operation, lineCount: count, expectedRevision: expected)
  }

  /// Has the reservation confirmed or released once the customer has paid, or leaves it to expire.
  private mutating func end(_ operation: Int, _ schedule: Schedule, _ now: Int64) -> SendTask? {
    guard goesOn else { return nil }
    let method: Method
    switch draws.ending() {
    case .none: return nil
    case .confirm: method = .confirm
    case .release: method = .release
    }
    let pause = draws.payTimeNanoseconds()
    return SendTask(
      operation: operation, method: method, dueNanoseconds: schedule.isDraining ? now : now + pause)
  }
}

extension Method {
  /// Whether an operation begins with it: a closed loop's stream is free for another once it is answered.
  var opens: Bool {
    switch self {
    case .confirm, .release, .extend, .replace: false
    case .reserve, .getStock, .adjustStock, .batchGetStock, .batchReserve, .reserveStream: true
    }
  }
}
