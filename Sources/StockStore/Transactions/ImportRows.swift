// ImportStock: many items are adjusted, each by itself and without a decision that is recorded for it. What is kept is
// how far the import has come, and it stands in the same record as the changes: after a crash no row is missing of
// those that are counted as done, and none is made twice.
//
// An import is a decision under its id, as others are under their keys, so it is found, forgotten and restored as they
// are. The lock of its shard keeps two streams of one import apart.
internal import Bytes
internal import Log

extension StoreSession {
  /// How many rows of an import are done, and up to which log sequence number that must be durable; 0 where nothing is
  /// known of it.
  package func importedRows(_ scope: IdempotencyScope) -> (rows: UInt64, lsn: UInt64) {
    assertInTurn()
    let identity = identity(.importRows, scope)
    let number = core.shardNumber(identity)
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }
    guard let slot = recorded(identity, number) else { return (0, 0) }
    return (core.slab[slot].importedRows, core.slab[slot].lsn)
  }

  /// Makes the changes that were appended, rows of an import from `firstRow` on, each by itself.
  /// - Returns: how far the import is, and in `importRefusal` what was refused; or `importGap`, `tableFull` of
  ///   reservations, `unavailable`.
  package func importRows(_ command: ImportCommand) -> Decision<ImportProgress> {
    assertInTurn()
    scratch.lineCount = 0
    scratch.further.removeAll()
    if scratch.hasBacklog { finishDueOfGroup() }
    let identity = identity(.importRows, command.scope)
    let number = core.shardNumber(identity)
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }

    let slot = recorded(identity, number)
    let done = slot.map { core.slab[$0].importedRows } ?? 0
    if command.firstRow > done {
      return Decision(
        .refused(.importGap(next: done)), replayed: false, lsn: slot.map { core.slab[$0].lsn } ?? 0)
    }
    if command.firstRow < done, core.fault != .importRowTwice {
      return Decision(
        .accepted(ImportProgress(nextRow: done, changed: nil)), replayed: true,
        lsn: slot.map { core.slab[$0].lsn } ?? 0)
    }
    guard slot != nil || hasRoom(number) else {
      return Decision(.refused(.tableFull(.reservations)), replayed: false, lsn: 0)
    }
    if let unavailable {
      return Decision(.refused(.unavailable(unavailable)), replayed: false, lsn: 0)
    }
    scratch.group.isImport = true
    scratch.group.scope = command.scope
    scratch.group.reason = .empty
    scratch.group.reference = .empty
    scratch.group.fingerprint = 0
    scratch.group.nextRow = done + UInt64(scratch.group.count)
    if let slot {
      (scratch.group.slot, scratch.group.generation) = (slot, core.slab[slot].generation)
    } else if core.log.isKeeping {
      (scratch.group.slot, scratch.group.generation) = core.shards[number].nextSlot()
    }
    gatherRows()
    let lsn = commitRows()
    keepProgress(slot, identity, number, lsn: lsn)
    let changed = (0..<scratch.group.count).count { scratch.group[$0].refusal == nil }
    counters.adjustments.add(changed)
    return Decision(
      .accepted(ImportProgress(nextRow: scratch.group.nextRow, changed: changed)), replayed: false,
      lsn: lsn)
  }

  /// Why the row with this number among those that were appended was refused; nil where it was not.
  package func importRefusal(_ index: Int) -> Refusal? { scratch.group[index].refusal }

  // MARK: The steps

  /// Puts the items into the write set; a row whose item is unknown, and not made by it, is refused.
  private func gatherRows() {
    scratch.changes.removeAll()
    for index in 0..<scratch.group.count {
      let (name, hash) = (scratch.group[index].command.item, scratch.group[index].hash)
      var ordinal = core.find(name, hash)
      if ordinal == nil {
        scratch.group[index].refusal = reasonNotToMake(scratch.group[index].command)
        if scratch.group[index].refusal != nil { continue }
        ordinal = takeName(name, hash)
      }
      guard let ordinal else {
        scratch.group[index].refusal = .tableFull(.items)
        continue
      }
      scratch.group[index].place = scratch.changes.count
      scratch.changes.append(ItemChange(ordinal: ordinal))
    }
  }

  private func commitRows() -> UInt64 {
    if scratch.changes.count > 0 {
      guard case .committed(let lsn) = commitAdjustments() else {
        preconditionFailure("rows are decided each by itself")
      }
      return lsn
    }
    if core.log.isKeeping { writeGroup() }
    return appendRecord()
  }

  /// The import is as far as its record says.
  private func keepProgress(
    _ known: UInt32?, _ identity: Identity, _ number: Int, lsn: UInt64
  ) {
    let slot: UInt32
    if let known {
      slot = known
      core.shards[number].removeEnded(slot)
      core.slab[slot].lsn = lsn
    } else {
      slot = record(identity, 0, lsn: lsn, number)
      core.slab[slot].kind = .imported
    }
    assert(!core.log.isKeeping || scratch.record.slot == slot, "another slot than was written")
    core.slab[slot].importedRows = scratch.group.nextRow
    core.slab[slot].endedAt = now
    // It is remembered from its last row on.
    core.shards[number].appendEnded(slot)
  }
}
