// Several changes of stock in one command, and removals, by seed.
internal import StockStore

struct RemoveCommandText {
  var key: String
  var caller: String
  var removal: Model.Removal

  var decisionKey: Model.DecisionKey {
    Model.DecisionKey(method: .remove, caller: caller, key: key)
  }
}

extension SimulationRun {
  private func anyBatch() -> BatchCommandText {
    if random.chance(20), !batches.isEmpty {
      var earlier = random.pick(batches)
      if random.chance(15) { earlier.batch.adjustments[0].allowsShortage.toggle() }
      if random.chance(15) { earlier.batch.adjustments.reverse() }
      if random.chance(10) { earlier.batch.reference += "x" }
      return earlier
    }
    var skus = (0..<settings.skus).map { "sku\($0)" }
    let count = random.number(1...min(4, skus.count))
    let adjustments = (0..<count).map { _ -> Model.Adjustment in
      let sku = skus.remove(at: random.number(0...skus.count - 1))
      // Most of them can be made, so that most batches can.
      let change = random.chance(25) ? anyChange() : .delta(random.number(0...9))
      var adjustment = Model.Adjustment(sku: sku, change: change, reason: "")
      if random.chance(20) { adjustment.safetyStock = random.number(-5...5) }
      if random.chance(10) { adjustment.check = anyCheck(model.items[sku]) }
      adjustment.allowsShortage = random.chance(15)
      return adjustment
    }
    return BatchCommandText(
      key: anyKey("b"), caller: random.pick(Self.callers),
      batch: Model.Batch(
        adjustments, reference: random.chance(20) ? "order:\(random.number(0...9))" : "",
        reason: random.pick(
          Self.reasons.filter {
            $0.utf8.count <= min(settings.reasonBytesMax, RecordWriter.groupReasonBytesMax)
          }.suffix(2))))
  }

  func adjustTogether(_ session: Int) throws(Violation) {
    let command = anyBatch()
    batches.append(command)
    if batches.count > Self.rememberedMax { batches.removeFirst() }
    let decision = sessions[session].adjustTogether(
      command.key, command.batch, caller: command.caller)
    log("adjust together \(command): \(decision.result)")
    try noteExpiries()
    defer { askModel() }
    if case .unavailable(let reason) = decision.refusal {
      model.seek(command.decisionKey)
      try checkUnavailable(reason, isKnown: model.decision(command.decisionKey) != nil)
      return try noteState()
    }
    let before = model.decisionCount
    let expected = model.adjustTogether(command.key, command.batch, caller: command.caller)
    let seen = sessions[session].answerTogether(decision)
    if var asked = self.expected {
      let (answer, replayed) = asked.adjustTogether(
        command.key, command.batch, caller: command.caller)
      guard seen == answer, decision.replayed == replayed else {
        throw violation(
          "adjust together \(command.key), as if all had ended: \(answer)", "\(seen)")
      }
    }
    try compare(
      "adjust together \(command.key)", expected, (seen, decision.replayed), decision.lsn, before,
      command.decisionKey)
    try noteState()
  }

  // MARK: Removals

  /// Mostly of an item that is empty, where there is one.
  func remove(_ session: Int) throws(Violation) {
    var removal = Model.Removal(sku: anySKU())
    let empty = model.items.filter {
      $0.value.onHand == 0 && $0.value.held == 0 && $0.value.committed == 0
    }
    if random.chance(70), let sku = empty.keys.min() { removal.sku = sku }
    if random.chance(30) {
      removal.expectedVersion =
        random.chance(70) ? model.items[removal.sku]?.version ?? 1 : random.number(1...9)
    }
    var command = RemoveCommandText(
      key: anyKey("x"), caller: random.pick(Self.callers), removal: removal)
    if random.chance(20), let earlier = removals.last {
      command = earlier
      if random.chance(20) { command.removal.expectedVersion += 1 }
    }
    removals = [command]
    let decision = sessions[session].remove(command.key, command.removal, caller: command.caller)
    log("remove \(command): \(decision.result)")
    try noteExpiries()
    defer { askModel() }
    if case .unavailable(let reason) = decision.refusal {
      model.seek(command.decisionKey)
      try checkUnavailable(reason, isKnown: model.decision(command.decisionKey) != nil)
      return try noteState()
    }
    let before = model.decisionCount
    let expected = model.remove(command.key, command.removal, caller: command.caller)
    let seen = sessions[session].answer(decision)
    if decision.value == true, !decision.replayed { counts.removed += 1 }
    if var asked = self.expected {
      let (answer, replayed) = asked.remove(command.key, command.removal, caller: command.caller)
      guard seen == answer, decision.replayed == replayed else {
        throw violation("remove \(command.key), as if all had ended: \(answer)", "\(seen)")
      }
    }
    try compare(
      "remove \(command.key)", expected, (seen, decision.replayed), decision.lsn, before,
      command.decisionKey)
    try noteState()
  }

  // MARK: Imports

  private static let importIDs = ["import:1", "import:2", String(repeating: "i", count: 64)]

  /// Some rows of an import, where it is or somewhere else, as a client sends them that knows or does not know how far
  /// it is.
  func importRows(_ session: Int) throws(Violation) {
    let id = random.pick(Self.importIDs)
    let caller = random.pick(Self.callers)
    let done = model.importedRows(id, caller: caller)
    var firstRow = done
    if random.chance(15), done > 0 { firstRow = UInt64(random.number(0...Int(done) - 1)) }
    if random.chance(5) { firstRow += UInt64(random.number(1...3)) }
    var skus = (0..<settings.skus).map { "sku\($0)" }
    let rows = (0..<random.number(1...min(5, skus.count))).map { _ -> Model.Adjustment in
      let sku = skus.remove(at: random.number(0...skus.count - 1))
      var row = Model.Adjustment(
        sku: sku, change: random.chance(50) ? anyChange() : .delta(random.number(0...9)),
        reason: "")
      if random.chance(20) { row.safetyStock = random.number(-5...5) }
      if random.chance(20) { row.check = anyCheck(model.items[sku]) }
      row.allowsShortage = random.chance(30)
      return row
    }
    let key = Model.DecisionKey(method: .importRows, caller: caller, key: id)
    let decision = sessions[session].importRows(id, firstRow: firstRow, rows, caller: caller)
    let seen = sessions[session].answer(decision, of: rows.count)
    log("import \(id) from \(firstRow), \(rows): \(decision.result)")
    try noteExpiries()
    defer { askModel() }
    if case .unavailable(let reason) = decision.refusal {
      model.seek(key)
      try checkUnavailable(reason, isKnown: firstRow != model.importedRows(id, caller: caller))
      return try noteState()
    }
    let before = model.decisionCount
    let expected = model.importRows(id, firstRow: firstRow, rows, caller: caller)
    if var asked = self.expected {
      let (answer, replayed) = asked.importRows(id, firstRow: firstRow, rows, caller: caller)
      guard seen == answer, decision.replayed == replayed else {
        throw violation("import \(id), as if all had ended: \(answer)", "\(seen)")
      }
    }
    try compare(
      "import \(id)", expected, (seen, decision.replayed), decision.lsn, before, key)
    try noteState()
  }
}
