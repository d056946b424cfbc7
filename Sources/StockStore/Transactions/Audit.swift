// The invariants (docs/ARCHITECTURE.md, "What must hold"), checked over the whole store. Stops the world: it takes the locks
// of all shards, and every command that changes something runs under one of them.
internal import Posix
internal import Synchronization

extension StockStore {
  /// What does not hold, in words; empty when all is well. Every command waits while it runs: for
  /// tests, and for a server that is about to end.
  package func audit() -> [String] {
    for number in 0..<core.shards.count { core.shards[number].lock.lock() }
    defer { for number in 0..<core.shards.count { core.shards[number].lock.unlock() } }
    var findings: [String] = []
    let live = auditRecords(&findings)
    auditItems(live.heldByItem, &findings)
    var stagedLines = 0
    for number in 0..<core.shards.count {
      stagedLines += auditShard(number, live.holdsByShard[number], &findings)
    }
    auditReferences(&findings)
    auditLimits(&findings)
    let indexed = (0..<core.items.count).reduce(0) { $0 + core.dues.count($1) }
    if indexed != stagedLines {
      findings.append("\(indexed) lines found by their items, \(stagedLines) are staged")
    }
    return findings
  }

  /// Sums up what the live holds hold, and compares the counters with the records.
  private func auditRecords(
    _ findings: inout [String]
  ) -> (heldByItem: [Int64], holdsByShard: [Int]) {
    var heldByItem = [Int64](repeating: 0, count: Int(core.items.count))
    var holdsByShard = [Int](repeating: 0, count: core.shards.count)
    var recorded = 0
    for slot in 0..<core.slab.slotCount {
      guard let number = core.slab.owner(slot), core.slab[slot].kind != .free else { continue }
      recorded += 1
      if core.shards[number].find(core.slab[slot].identity) != slot {
        findings.append("slot \(slot): its key does not lead to it")
      }
      guard core.slab[slot].kind == .held else { continue }
      holdsByShard[number] += 1
      for index in 0..<core.slab[slot].lineCount {
        let line = core.slab[slot].line(index)
        guard line.item.ordinal < heldByItem.count else {
          findings.append("slot \(slot): holds units of an item that is not there")
          continue
        }
        heldByItem[Int(line.item.ordinal)] += line.quantity
      }
    }
    let counted = statisticsWithoutTables()
    let holds = holdsByShard.reduce(0, +)
    if counted.liveHolds != holds {
      findings.append("\(counted.liveHolds) live holds counted, \(holds) found")
    }
    if counted.recordedDecisions != recorded {
      findings.append("\(counted.recordedDecisions) decisions counted, \(recorded) found")
    }
    if counted.invariantViolations != 0 {
      findings.append("\(counted.invariantViolations) commits found impossible balances")
    }
    return (heldByItem, holdsByShard)
  }

  /// Whoever has a reference is found by it, and nobody else.
  private func auditReferences(_ findings: inout [String]) {
    var referenced = 0
    for slot in 0..<core.slab.slotCount where core.slab[slot].state != nil {
      guard let node = core.slab[slot].referenceNode, node.isIndexed else { continue }
      referenced += 1
      if !core.references.has(node) || node.hash != core.keys.referenceHash(node.text) {
        findings.append("slot \(slot): its reference does not lead to it")
      }
    }
    let indexed = core.references.count
    if indexed != referenced {
      findings.append("\(referenced) reservations have a reference, \(indexed) are found by one")
    }
  }

  /// Each subject has of each item what its live holds have, and no entry has nothing. What was sold outlives the
  /// reservations: those that are remembered are the least of it.
  private func auditLimits(_ findings: inout [String]) {
    struct Units {
      var held: Int64 = 0
      var sold: Int64 = 0
    }
    var expected: [UInt64: [UInt32: Units]] = [:]
    for slot in 0..<core.slab.slotCount {
      guard let state = core.slab[slot].state, state == .held || state == .confirmed else {
        continue
      }
      var reader = LimitReader(core.slab[slot].limits)
      while let limit = reader.next() {
        let subject = core.keys.subjectHash(limit.subject)
        for index in 0..<core.slab[slot].lineCount {
          let line = core.slab[slot].line(index)
          var units = expected[subject.low]?[line.item.ordinal] ?? Units()
          if state == .held {
            units.held += line.quantity
          } else if core.slab[slot].lsn > core.items.removedAt(line.item.ordinal) {
            units.sold += line.quantity
          }
          expected[subject.low, default: [:]][line.item.ordinal] = units
        }
      }
    }
    var found = 0
    for place in 0..<core.subjects.placeEnd {
      core.subjects.forEach(at: place) { entry in
        found += 1
        let units = expected[entry.subject.low]?.removeValue(forKey: entry.ordinal) ?? Units()
        let sold = entry.sold(since: core.items.removedAt(entry.ordinal))
        if entry.held != units.held || sold < units.sold || entry.held + entry.sold <= 0 {
          findings.append(
            "item \(entry.ordinal): a subject has \(entry.held) held and \(entry.sold) sold, its "
              + "reservations \(units.held) and \(units.sold)")
        }
      }
    }
    for units in expected.values.joined() where units.value.held + units.value.sold != 0 {
      findings.append("item \(units.key): a subject that has units has no entry")
    }
    if found != core.subjects.count {
      findings.append("\(core.subjects.count) entries of subjects counted, \(found) found")
    }
  }

  private func auditItems(_ heldByItem: [Int64], _ findings: inout [String]) {
    var (made, removed) = (0, 0)
    for ordinal in 0..<core.items.count {
      let word = core.items[ordinal].word.load(ordering: .acquiring)
      let balances = core.items[ordinal].balances
      let (onHand, held, committed) = (balances.onHand, balances.held, balances.committed)
      if word & 1 != 0 { findings.append("item \(ordinal): is locked") }
      if ItemWord.isMade(word) { made += 1 }
      if ItemWord.isRemoved(word) {
        removed += 1
        if core.items.level(ordinal, version: 0)
          != StockLevel(item: ItemHandle(ordinal: ordinal), .none, version: 0)
        {
          findings.append("item \(ordinal): removed, and there is something of it")
        }
      }
      // Where nobody has allowed it, no more is promised than there is.
      if balances != balances.clamped || balances.unpromised < 0 && !core.mayBeShort {
        findings.append(
          "item \(ordinal): \(onHand) on hand, \(held) held, \(committed) committed")
      }
      if held != heldByItem[Int(ordinal)] {
        findings.append(
          "item \(ordinal): \(held) held, its live holds have \(heldByItem[Int(ordinal)])")
      }
      let name = core.items.name(ordinal)
      // A name that was taken for an item that was never made is not kept over a restart.
      if word == 0 && name.sku.count == 0 { continue }
      let found = core.index.find(core.keys.itemHash(name)) { core.items.hasName($0, name) }
      // What is left of an item that nothing names is not found, in a store that is only looked at.
      if found == nil, ItemWord.isRemoved(word) { continue }
      if found != ordinal { findings.append("item \(ordinal): its name does not lead to it") }
    }
    let counted = statisticsWithoutTables().items
    if counted != made { findings.append("\(counted) items counted, \(made) found") }
    let countedRemoved = statisticsWithoutTables().removedItems
    if countedRemoved != removed {
      findings.append("\(countedRemoved) removed items counted, \(removed) found")
    }
  }

  /// - Returns: the lines of its staged holds.
  private func auditShard(_ number: Int, _ holds: Int, _ findings: inout [String]) -> Int {
    let (waiting, stagedLines) = core.shards[number].wheel.countWaiting()
    if waiting != holds {
      findings.append("shard \(number): \(holds) live holds, \(waiting) of them have a timer")
    }
    var ended = 0
    var lastLSN: UInt64 = 0
    var next = core.shards[number].ended.first
    while let slot = next {
      ended += 1
      if core.slab[slot].lsn < lastLSN {
        findings.append("shard \(number): slot \(slot) is queued behind what ended later")
      }
      lastLSN = core.slab[slot].lsn
      if core.slab[slot].kind == .held || core.slab[slot].kind == .free {
        findings.append("shard \(number): slot \(slot) is queued as ended and is not")
      }
      next = core.slab[slot].next == 0 ? nil : core.slab[slot].next - 1
    }
    let recorded = core.shards[number].count
    if ended + holds != recorded {
      findings.append("shard \(number): \(recorded) keys, \(holds) live, \(ended) ended")
    }
    if core.workTimes[number] > core.shards[number].wheel.nextWork {
      findings.append("shard \(number): a hold would fall due unnoticed")
    }
    return stagedLines
  }
}
