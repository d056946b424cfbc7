internal import Log
// Commands by seed: each is given to the store and to the model, and the answers are compared.
internal import Posix
internal import StockStore

struct ReserveCommand {
  var key: String
  var caller: String
  var lines: [TestLine]
  var alternatives: [[TestLine]] = []
  var ttl: Int64?
  var reference = ""
  var limits: [TestLimit] = []

  var decisionKey: Model.DecisionKey {
    Model.DecisionKey(method: .reserve, caller: caller, key: key)
  }
}

struct AdjustCommandText {
  var key: String
  var caller: String
  var adjustment: Model.Adjustment

  var decisionKey: Model.DecisionKey {
    Model.DecisionKey(method: .adjust, caller: caller, key: key)
  }
}

struct BatchCommandText {
  var key: String
  var caller: String
  var batch: Model.Batch

  var decisionKey: Model.DecisionKey {
    Model.DecisionKey(method: .adjustTogether, caller: caller, key: key)
  }
}

struct ReplaceCommandText {
  var key: String
  var requester: TestRequester
  var replacement: Model.Replacement

  var decisionKey: Model.DecisionKey {
    Model.DecisionKey(method: .replace, caller: requester.caller, key: key)
  }
}

extension SimulationRun {
  static let references = [
    "", "", "order:1", "order:2", "cart", String(repeating: "r", count: 64),
  ]
  static let callers = ["", "shop", String(repeating: "c", count: 64)]
  static let reasons = [4, 60, 500].map { String(repeating: "r", count: $0) }
  private static let keyPadding = String(repeating: "-", count: 58)
  /// Commands that may be sent again, and reservations that are worked with.
  static let rememberedMax = 40

  /// A turn of one session, or of both at the same time.
  func runTurn() throws(Violation) {
    if settings.hasShards && random.chance(60) { return try runTwoTurns() }
    let session = random.number(0...1)
    try beginTurn(session)
    // One at most makes a hold: no two ever end at the same moment, so that their order is known.
    if random.chance(60) { try reserve(session, anyReserve()) }
    for _ in 0..<random.number(0...settings.changesMax) { try change(session) }
    try read(session)
    try endTurn(session)
  }

  private func runTwoTurns() throws(Violation) {
    for session in 0...1 { try beginTurn(session) }
    for session in [0, 1, 0] {
      model.now = turnTimes[session]
      askModel()
      if session == 0 && random.chance(60) { try reserveAroundGap() }
      try change(session)
      try read(session)
    }
    for session in 0...1 { try endTurn(session) }
  }

  func change(_ session: Int) throws(Violation) {
    if random.chance(settings.adjustPercent) {
      if settings.removePercent > 0, random.chance(settings.removePercent) {
        return try remove(session)
      }
      switch random.number(0...99) {
      case 0..<20: return try adjustTogether(session)
      case 20..<32: return try importRows(session)
      default: return try adjust(session)
      }
    }
    switch random.number(0...12) {
    case 0..<5: try confirm(session)
    case 5..<8: try release(session)
    case 8..<10: try extend(session)
    default: try replace(session)
    }
  }

  /// Odd by a few nanoseconds, so that no two holds end at the same moment.
  func passTime() throws(Violation) {
    let duration = random.number(1...seconds(random.pick([1, 10, 300, 2000, 100_000])))
    log("\(duration) ns pass")
    clock.advance(byNanoseconds: duration)
    try beginTurn(0)
    try endTurn(0)
    if random.chance(15) { try finishSweep() }
  }

  // MARK: Turns

  func beginTurn(_ session: Int) throws(Violation) {
    guard let store else { return }
    clock.advance(byNanoseconds: stepToTurn())
    let time = sessions[session].beginTurn().nanoseconds
    turnTimes[session] = time
    model.beginSweptTurn(time)
    let budget =
      settings.limits.expiriesPerTurn + 2 * Int(model.decisionCount - decisionsBefore[session])
    let ended = try noteExpiries()
    if ended > budget { throw violation("at most \(budget) holds to end", "\(ended)") }
    let total = store.statistics().reservationsExpired
    if total != expiredBefore { throw violation("\(expiredBefore) expired holds", "\(total)") }
    try noteState()
    decisionsBefore[session] = model.decisionCount
    askModel()
  }

  /// To the next turn: now and then, to the very instant at which a sale begins or ends.
  private func stepToTurn() -> Int64 {
    let now = clock.now().nanoseconds
    let step = random.number(1...Int64(1000))
    guard settings.salePercent > 0, random.chance(30) else { return step }
    let bounds = model.items.values.compactMap { $0.sale.nextBound(after: now) }
    guard let bound = bounds.min(), bound - now <= seconds(60) else { return step }
    return bound - now
  }

  /// Tells the model which holds the store has ended since, each with a state of its own.
  @discardableResult
  func noteExpiries() throws(Violation) -> Int {
    let ended = expiries.take()
    for (id, lsn) in ended {
      guard model.expire(id) else { throw violation("no end of \(id), which is not due", "one") }
      append(Snapshot(lsn: lsn, model: model))
      noteHistory()
    }
    counts.expired += ended.count
    expiredBefore += UInt64(ended.count)
    if hasFailed, !ended.isEmpty { throw violation("no decision after a failure", "holds ended") }
    return ended.count
  }

  /// What the next command must answer is what it would if all that is due had ended.
  func askModel() {
    expected = nil
    guard model.hasDue(at: model.now), !isInGap else { return }
    var model = self.model
    model.beginTurn(model.now)
    expected = model
  }

  /// Turns end, until the sweep has got to everything: it takes no more of them than there are holds, each
  /// moved three times and ended.
  func finishSweep() throws(Violation) {
    for _ in 0...4 * model.reservations.count {
      if storage.isDown || hasFailed || storage.bytesMax != .max { return }
      try settle()
      if !model.hasDue(at: clock.now().nanoseconds) { return }
      try beginTurn(0)
      try endTurn(0)
    }
    if storage.isDown || hasFailed || !model.hasDue(at: clock.now().nanoseconds) { return }
    throw violation("the sweep to get to every hold", "some are due and held")
  }

  func endTurn(_ session: Int) throws(Violation) {
    sessions[session].endTurn()
    try noteExpiries()
    notePromise()
    if wantsSettling {
      wantsSettling = false
      try settle()
    }
  }

  // MARK: Commands

  func anySKU() -> String { "sku\(random.number(0...settings.skus - 1))" }

  func anyKey(_ letter: String) -> String {
    keysMade += 1
    let key = "\(letter)\(keysMade)"
    return settings.keyBytesMin == 0 ? key : key + Self.keyPadding
  }

  private func anyID() -> ReservationID {
    var id = ReservationID(slot: 0, generation: 0, tag: 0)
    // Most of those that are forgotten by now are passed over.
    for _ in 0..<3 where !ids.isEmpty && model.reservations[id]?.state != .held {
      id = random.pick(ids)
    }
    return id
  }

  func anyReserve() -> ReserveCommand {
    if random.chance(25), !reserves.isEmpty {
      var earlier = random.pick(reserves)
      // The same payload in another form, then another payload.
      if random.chance(40) { earlier.lines.reverse() }
      if random.chance(20), earlier.lines[0].quantity > 1, earlier.lines[0].minimum == 0,
        earlier.lines.count < RunSettings.linesMax
      {
        earlier.lines[0].quantity -= 1
        earlier.lines.append(TestLine(sku: earlier.lines[0].sku, quantity: 1))
      }
      if random.chance(20) { earlier.ttl = earlier.ttl.map { $0 + 1 } ?? seconds(600) }
      if random.chance(20) { earlier.lines[0].quantity += 1 }
      if random.chance(10) { earlier.reference = random.pick(Self.references) }
      if random.chance(10) { earlier.alternatives.reverse() }
      if random.chance(10) { earlier.limits = anyLimits() }
      if random.chance(50) { earlier.limits.reverse() }
      return earlier
    }
    let isChosen = random.chance(30)
    let count = isChosen && random.chance(70) ? random.number(0...random.pick([1, 3, 8])) : 0
    return ReserveCommand(
      key: anyKey("k"), caller: random.pick(Self.callers), lines: anyLines(isChosen),
      alternatives: (0..<count).map { _ in anyLines(isChosen) },
      ttl: random.chance(20) ? nil : random.number(seconds(1)...seconds(5000)),
      reference: random.pick(Self.references), limits: anyLimits())
  }

  /// In one of three runs some reserves have limits for few customers, who therefore come to them.
  private func anyLimits() -> [TestLimit] {
    guard settings.hasLimits, random.chance(50) else { return [] }
    let subjects = ["customer:1", "customer:2", String(repeating: "s", count: 64)]
    let first = Int(random.number(0...2))
    return (0..<Int(random.number(1...3))).map {
      TestLimit(subjects[(first + $0) % 3], random.number(2...9))
    }
  }

  private func anyLines(_ takesLess: Bool) -> [TestLine] {
    let count = random.chance(settings.cartPercent) ? random.number(1...9) : 1
    return (0..<count).map { _ in
      var line = TestLine(sku: anySKU(), quantity: random.number(1...4))
      if takesLess, random.chance(50) {
        line.quantity = random.number(1...12)
        line.minimum = random.number(1...line.quantity)
      }
      return line
    }
  }

  func reserve(_ session: Int, _ command: ReserveCommand) throws(Violation) {
    // What is expected must change nothing: this command, or another one.
    if let expected = model.decisionCount.isMultiple(of: 2) ? command : reserves.last {
      withScope(expected.key, caller: expected.caller) { sessions[session].expectReserve($0) }
    }
    // As in a batch, which must be the same. Not by chance: the histories of the seeds stay what they are.
    let inBatch =
      model.decisionCount.isMultiple(of: 3) ? nil : sessions[session].reserveInBatch(command)
    let decision = inBatch ?? sessions[session].reserve(command)
    log("reserve \(command): \(decision.result)")
    try noteExpiries()
    try compare(session, decision, command)
    try noteState()
    askModel()
  }

  /// Asks the model what the answer to `command`, the session's last, should have been.
  func compare(
    _ session: Int, _ decision: Decision<Hold>, _ command: ReserveCommand
  ) throws(Violation) {
    reserves.append(command)
    if reserves.count > Self.rememberedMax { reserves.removeFirst() }
    if case .unavailable(let reason) = decision.refusal {
      model.seek(command.decisionKey)
      return try checkUnavailable(reason, isKnown: model.decision(command.decisionKey) != nil)
    }
    if let id = decision.value?.id, !decision.replayed {
      guard idsGiven.insert(id).inserted else { throw violation("an id of its own", "\(id) again") }
      ids.append(id)
      if ids.count > Self.rememberedMax { ids.removeFirst() }
    }
    if let choice = decision.value?.choice {
      counts.alternativesHeld += choice.alternative > 0 ? 1 : 0
      counts.minimumsHeld += choice.tellsLines ? 1 : 0
    }
    counts.alternativesRefused += sessions[session].alternativesTried > 0 ? 1 : 0
    let before = model.decisionCount
    let (answer, replayed) = model.reserve(command, id: decision.value?.id)
    let seen = sessions[session].answer(decision)
    if var expected {
      let (answer, replayed) = expected.reserve(command, id: decision.value?.id)
      guard seen == answer, decision.replayed == replayed else {
        throw violation("reserve \(command.key), as if all had ended: \(answer)", "\(seen)")
      }
    }
    try compare(
      "reserve \(command.key)", (answer, replayed), (seen, decision.replayed), decision.lsn, before,
      command.decisionKey)
    if decision.replayed, let id = decision.value?.id {
      try checkShown(decision.lsn, "where \(id.slot) stands") {
        $0.reservations[id] == $1.reservations[id]
      }
    }
  }

  private func anyAdjustment() -> AdjustCommandText {
    if random.chance(15), !adjustments.isEmpty {
      var earlier = random.pick(adjustments)
      if random.chance(20) { earlier.adjustment.safetyStock = 1 }
      if random.chance(20) { earlier.adjustment.reference += "x" }
      if settings.salePercent > 0, random.chance(10) { earlier.adjustment.sale = anySale() }
      return earlier
    }
    let sku = anySKU()
    var adjustment = Model.Adjustment(sku: sku, change: anyChange())
    if random.chance(10) { adjustment.safetyStock = random.number(-5...5) }
    if settings.salePercent > 0, random.chance(settings.salePercent) {
      adjustment.sale = anySale()
    }
    if random.chance(30) { adjustment.check = anyCheck(model.items[sku]) }
    adjustment.allowsShortage = random.chance(15)
    if random.chance(20) { adjustment.reference = "order:\(random.number(0...9))" }
    adjustment.reason = random.pick(
      Self.reasons.filter { $0.utf8.count <= settings.reasonBytesMax }.suffix(2))
    return AdjustCommandText(
      key: anyKey("a"), caller: random.pick(Self.callers), adjustment: adjustment)
  }

  func anyChange() -> AdjustCommand.Change {
    if settings.removePercent > 0, random.chance(20) { return .setOnHand(0) }
    return switch random.number(0...13) {
    case 0: .none
    case 1..<3: .setOnHand(random.number(0...40))
    case 3: .delta(settings.limits.quantityMax)
    case 4..<6: .ship(random.number(1...4))
    case 6..<8: .uncommit(random.number(1...4))
    default: .delta(random.number(-5...20))
    }
  }

  /// Often open again, and with bounds at which turns will be.
  private func anySale() -> TestSale {
    var sale = TestSale()
    if random.chance(40) { return sale }
    sale.isFrozen = random.chance(30)
    if random.chance(50) {
      sale.from = model.now + random.pick([0, 1, -1, seconds(1), seconds(50), -seconds(50)])
    }
    if random.chance(50) {
      sale.until =
        max(model.now, sale.from ?? 0) + random.pick([1, 2, seconds(1), seconds(30), seconds(900)])
      if sale.from == nil, random.chance(30) { sale.until = model.now }
    }
    return sale
  }

  func anyCheck(_ item: Model.Item?) -> AdjustCommand.Check {
    let isRight = random.chance(70)
    return random.chance(50)
      ? .version(isRight ? item?.version ?? 0 : random.number(0...9))
      : .onHand(isRight ? item?.onHand ?? 0 : random.number(0...9))
  }

  func adjust(_ session: Int) throws(Violation) {
    let command = anyAdjustment()
    adjustments.append(command)
    if adjustments.count > Self.rememberedMax { adjustments.removeFirst() }
    let adjustment = command.adjustment
    let decision = sessions[session].adjust(command.key, adjustment, caller: command.caller)
    log("adjust \(command): \(decision.result)")
    try noteExpiries()
    defer { askModel() }
    if case .unavailable(let reason) = decision.refusal {
      model.seek(command.decisionKey)
      try checkUnavailable(reason, isKnown: model.decision(command.decisionKey) != nil)
      return try noteState()
    }
    let before = model.decisionCount
    let expected = model.adjust(command.key, adjustment, caller: command.caller)
    let seen = sessions[session].answer(decision)
    if var asked = self.expected {
      let (answer, replayed) = asked.adjust(command.key, adjustment, caller: command.caller)
      guard seen == answer, decision.replayed == replayed else {
        throw violation("adjust \(command.key), as if all had ended: \(answer)", "\(seen)")
      }
    }
    try compare(
      "adjust \(command.key)", expected, (seen, decision.replayed), decision.lsn, before,
      command.decisionKey)
    try noteState()
  }

  /// - Parameter before: the model's decisions before this one.
  func compare(
    _ what: String, _ expected: (answer: Model.Answer, replayed: Bool),
    _ seen: (answer: Model.Answer, replayed: Bool), _ lsn: UInt64, _ before: UInt64,
    _ key: Model.DecisionKey
  ) throws(Violation) {
    counts.commands += 1
    guard seen.answer == expected.answer, seen.replayed == expected.replayed else {
      throw violation("\(what): \(expected)", "\(seen)")
    }
    try checkNumber(what, lsn, before)
    if seen.replayed {
      try checkShown(lsn, what) { durable, _ in durable.decisions[key] != nil }
    }
  }

  func confirm(_ session: Int) throws(Violation) {
    let id = anyID()
    var lines: [TestLine] = []
    if random.chance(50), let reservation = model.reservation(id) {
      for line in reservation.lines where random.chance(70) && line.quantity > 0 {
        lines.append(TestLine(sku: line.sku, quantity: random.number(1...line.quantity)))
        if random.chance(20) { lines.append(TestLine(sku: line.sku, quantity: 1)) }
      }
      if random.chance(5) { lines.append(TestLine(sku: anySKU(), quantity: 1)) }
    }
    let reacquire = random.chance(40)
    let keepCommitted = random.chance(40)
    let requester = anyRequester(id)
    let decision = sessions[session].confirm(
      id, lines, reacquire: reacquire, keepCommitted: keepCommitted, by: requester)
    let what = "confirm \(id.slot) \(lines) \(keepCommitted ? "as committed " : "")\(requester)"
    try compare(what, session, decision, id) { model in
      model.confirm(
        id, lines, reacquire: reacquire, keepCommitted: keepCommitted, by: requester)
    }
  }

  /// Often who reserved it, sometimes one who may change its own holds alone.
  private func anyRequester(_ id: ReservationID) -> TestRequester {
    let owner = model.reservation(id)?.key.caller
    return TestRequester(
      random.chance(50) ? owner ?? "" : random.pick(Self.callers), ownHoldsOnly: random.chance(25))
  }

  func release(_ session: Int) throws(Violation) {
    let id = anyID()
    let requester = anyRequester(id)
    let decision = sessions[session].release(id, by: requester)
    try compare("release \(id.slot) \(requester)", session, decision, id) { model in
      model.release(id, by: requester)
    }
  }

  func extend(_ session: Int) throws(Violation) {
    let id = anyID()
    let ttl = random.chance(10) ? nil : random.number(seconds(1)...seconds(20_000))
    let mayShorten = random.chance(50)
    let requester = anyRequester(id)
    let decision = sessions[session].extend(id, ttl: ttl, mayShorten: mayShorten, by: requester)
    try compare("extend \(id.slot) \(requester)", session, decision, id) { model in
      model.extend(id, ttl: ttl, mayShorten: mayShorten, by: requester)
    }
  }

  private func anyReplace() -> ReplaceCommandText {
    if random.chance(20), !replaces.isEmpty {
      var earlier = random.pick(replaces)
      if random.chance(40) { earlier.replacement.lines.reverse() }
      if random.chance(15) { earlier.replacement.lines[0].quantity += 1 }
      if random.chance(10) { earlier.replacement.reference = random.pick(Self.references) }
      return earlier
    }
    let id = anyID()
    let reservation = model.reservation(id)
    var lines: [TestLine] = []
    for line in reservation?.lines ?? [] where random.chance(75) && line.quantity > 0 {
      let quantity = random.chance(50) ? line.quantity : random.number(1...line.quantity + 3)
      lines.append(TestLine(sku: line.sku, quantity: quantity))
    }
    let added = random.chance(settings.cartPercent) ? random.number(0...4) : 0
    for _ in 0..<max(added, lines.isEmpty ? 1 : 0) {
      lines.append(TestLine(sku: anySKU(), quantity: random.number(1...4)))
    }
    var expected: UInt64 = 0
    if random.chance(40), let revision = reservation?.revision {
      expected = random.chance(75) ? revision : random.number(1...4)
    }
    return ReplaceCommandText(
      key: anyKey("r"), requester: anyRequester(id),
      replacement: Model.Replacement(
        id, lines, expectedRevision: expected,
        ttl: random.chance(70) ? nil : random.number(seconds(1)...seconds(9000)),
        reference: random.pick(Self.references)))
  }

  func replace(_ session: Int) throws(Violation) {
    let command = anyReplace()
    replaces.append(command)
    if replaces.count > Self.rememberedMax { replaces.removeFirst() }
    let (key, replacement) = (command.decisionKey, command.replacement)
    let decision = sessions[session].replace(command.key, replacement, by: command.requester)
    log("replace \(command): \(decision.result)")
    try noteExpiries()
    defer { askModel() }
    if case .unavailable(let reason) = decision.refusal {
      model.seek(key)
      try checkUnavailable(reason, isKnown: model.decision(key) != nil)
      return try noteState()
    }
    let before = model.decisionCount
    let expected = model.replace(command.key, replacement, by: command.requester)
    let seen = sessions[session].answer(decision)
    if var asked = self.expected {
      let (answer, replayed) = asked.replace(command.key, replacement, by: command.requester)
      guard seen == answer, decision.replayed == replayed else {
        throw violation("replace \(command.key), as if all had ended: \(answer)", "\(seen)")
      }
    }
    try compare(
      "replace \(command.key)", expected, (seen, decision.replayed), decision.lsn, before, key)
    if let view = decision.value, !decision.replayed {
      try compare(view, replacement.id, session)
    }
    try noteState()
  }

  private func compare(
    _ what: @autoclosure () -> String, _ session: Int, _ decision: Decision<ReservationView>,
    _ id: ReservationID, _ decide: (inout Model) -> (refusals: [Refusal], replayed: Bool)
  ) throws(Violation) {
    log("\(what()): \(decision.result)")
    try noteExpiries()
    defer { askModel() }
    if case .unavailable(let reason) = decision.refusal {
      var asked = model
      try checkUnavailable(reason, isKnown: decide(&asked).replayed)
      return try noteState()
    }
    counts.commands += 1
    let before = model.decisionCount
    let expected = decide(&model)
    let refusals = sessions[session].refusals(of: decision)
    guard refusals == expected.refusals, decision.replayed == expected.replayed else {
      throw violation("\(what()): \(expected)", "\(decision), \(refusals)")
    }
    if var asked = self.expected {
      let other = decide(&asked)
      guard refusals == other.refusals, decision.replayed == other.replayed else {
        throw violation("\(what()), as if all had ended: \(other)", "\(decision), \(refusals)")
      }
    }
    try checkNumber(what(), decision.lsn, before)
    if let view = decision.value { try compare(view, id, session) }
    if model.decisionCount == before, decision.refusal != .reservationNotFound {
      try checkShown(decision.lsn, what()) { $0.reservations[id] == $1.reservations[id] }
    }
    try noteState()
  }

  /// A new decision has the log's last number.
  private func checkNumber(
    _ what: @autoclosure () -> String, _ lsn: UInt64, _ before: UInt64
  ) throws(Violation) {
    guard model.decisionCount > before, let last = sessions.first?.lastLSN, !isInGap else { return }
    if lsn != last { throw violation("\(what()): the log's last number, \(last)", "\(lsn)") }
  }

  /// - Parameter isKnown: the answer needs no record.
  func checkUnavailable(_ reason: Unavailable, isKnown: Bool) throws(Violation) {
    counts.unavailable += 1
    if isKnown { throw violation("the recorded answer", "unavailable: \(reason)") }
    if (reason == .failed) != hasFailed {
      throw violation(hasFailed ? "a failure" : "no failure", "unavailable: \(reason)")
    }
    // Sometimes the journal catches up right away, and must then take changes again.
    if !hasFailed, random.chance(settings.settlePercent) { wantsSettling = true }
  }
}

extension StoreSession {
  func reserve(_ command: ReserveCommand) -> Decision<Hold> {
    reserve(
      command.key, command.lines, alternatives: command.alternatives, ttl: command.ttl,
      reference: command.reference, limits: command.limits, caller: command.caller)
  }
}

extension StoreSession {
  /// The same as a batch does; nil where the command is none of those that are prepared whole.
  fileprivate func reserveInBatch(_ command: ReserveCommand) -> Decision<Hold>? {
    guard command.lines.count == 1, let line = command.lines.first, line.minimum == 0,
      command.alternatives.isEmpty, command.reference.isEmpty, command.limits.isEmpty
    else { return nil }
    return reserveInBatch(command.key, line, ttl: command.ttl, caller: command.caller).decision
  }
}

extension Model {
  fileprivate mutating func reserve(
    _ command: ReserveCommand, id: ReservationID?
  ) -> (Answer, replayed: Bool) {
    reserve(
      command.key, command.lines, alternatives: command.alternatives, ttl: command.ttl,
      reference: command.reference, limits: command.limits, caller: command.caller, id: id)
  }
}
