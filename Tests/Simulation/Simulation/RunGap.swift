internal import Log
// For `DeliberateFault.numberAfterUnlock`: between the unlocking and the number of one session's reserve,
// the other one reads, reserves what it sees, and the journal goes on.
internal import StockStore

extension SimulationRun {
  /// A reserve of session 0 while session 1 is in a turn too.
  func reserveAroundGap() throws(Violation) {
    let command = anyReserve()
    guard fault == .store(.numberAfterUnlock), let store else { return try reserve(0, command) }
    isInGap = true
    expected = nil
    store.setDeliberateGap { [self] in
      do throws(Violation) {
        try actInGap(of: command)
      } catch {
        foundInGap = error
      }
    }
    let decision = sessions[0].reserve(command)
    store.setDeliberateGap(nil)
    log("reserve \(command) around a gap: \(decision.result)")
    try noteExpiries()
    try compare(0, decision, command)
    if let (inner, innerDecision) = insideGap {
      insideGap = nil
      model.now = turnTimes[1]
      try compare(1, innerDecision, inner)
      model.now = turnTimes[0]
    }
    isInGap = false
    try noteState()
  }

  private func actInGap(of outer: ReserveCommand) throws(Violation) {
    guard let store, let line = outer.lines.first else { return }
    noteShown(line.sku, withName(line.sku, "") { sessions[1].stock($0) })
    var inner = anyReserve()
    inner.lines = [TestLine(sku: line.sku, quantity: 1)]
    inner.alternatives = []
    // The outer command holds the lock of its key's shard.
    let isApart = store.shardNumber(of: outer) != store.shardNumber(of: inner)
    if isApart && model.decisions[inner.decisionKey] == nil {
      let decision = sessions[1].reserve(inner)
      log("in the gap, reserve \(inner): \(decision.result)")
      insideGap = (inner, decision)
    }
    if random.chance(50) { try stepJournal() }
  }
}

extension StockStore {
  fileprivate func shardNumber(of command: ReserveCommand) -> Int {
    withScope(command.key, caller: command.caller) { shardNumber(ofReserve: $0) }
  }
}
