// Several changes of stock in one command, by seed.
internal import StockStore

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
}
