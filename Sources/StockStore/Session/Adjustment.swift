internal import Log
internal import Synchronization

/// A change of one item's stock while it is tried: `TransactionKind.adjustment`. It is large: reach for its
/// parts where it is, in the session's scratch.
struct Adjustment {
  var command = AdjustCommand(
    scope: IdempotencyScope(caller: .empty, key: .empty),
    item: ItemName(sku: .empty, location: .empty), change: .none, safetyStock: nil,
    check: .none, reason: .empty)
  /// Of the command, for the journal's record; so are the slot and its generation, where there is one.
  var fingerprint: UInt64 = 0
  var slot: UInt32 = 0
  var generation: UInt32 = 0
  /// Of an item that there was, where it changes.
  var safetyStockBefore: Int64?
  /// The item is to be removed: of the command, item, check and reason say how.
  var removes = false
  /// What becomes of the item.
  var after = StockLevel(item: ItemHandle(ordinal: 0), .none, version: 0)
}

extension StoreSession {
  /// As `read`, for the one item of an adjustment.
  func readAdjustment() -> Reading {
    let ordinal = scratch.changes[0].ordinal
    guard let word = unlockedWord(ordinal) else { return .conflict }
    let before = balances(ordinal, word)
    scratch.changes[0].word = word
    if scratch.adjustment.removes { return readRemoval(before, word) }
    let balances = balances(after: scratch.adjustment.command, before.balances)
    if let refusal = refusal(scratch.adjustment.command, before, balances) {
      let lsn = core.items[ordinal].lsn.load(ordering: .acquiring)
      return .refused(refusal, lsn: lsn, index: 0)
    }
    let after = StockLevel(
      item: before.item, balances, version: nextVersion(word),
      sale: scratch.adjustment.command.sale ?? before.sale)
    scratch.adjustment.after = after
    if core.log.isKeeping {
      let command = scratch.adjustment.command
      scratch.record.beginAdjusted(
        command, time: now, slot: scratch.adjustment.slot,
        generation: scratch.adjustment.generation, fingerprint: scratch.adjustment.fingerprint,
        level: after, safetyStockBefore: before.version == 0 ? nil : before.safetyStock,
        name: before.version == 0 ? command.item : nil)
    }
    // Before an item was made there was nothing to tell of it; before it was made anew there was.
    scratch.adjustment.safetyStockBefore =
      word == 0 || after.safetyStock == before.safetyStock ? nil : before.safetyStock
    return .writable
  }

  /// As `readAdjustment`, of an item that is to be removed.
  @inline(never)
  private func readRemoval(_ before: StockLevel, _ word: UInt64) -> Reading {
    let command = scratch.adjustment.command
    var refusal: Refusal?
    if before.version == 0 {
      refusal = .itemNotFound(line: 0)
    } else if let mismatch = mismatch(command.check, before) {
      refusal = mismatch
    } else if before.onHand | before.held | before.committed != 0,
      core.fault != .removeHeldItem || before.onHand | before.committed != 0
    {
      refusal = .itemNotEmpty(
        item: before.item, onHand: before.onHand, held: before.held, committed: before.committed)
    }
    if let refusal {
      let lsn = core.items[before.item.ordinal].lsn.load(ordering: .acquiring)
      return .refused(refusal, lsn: lsn, index: 0)
    }
    let version = nextVersion(word)
    scratch.adjustment.after = StockLevel(item: before.item, .none, version: version)
    scratch.adjustment.safetyStockBefore = before.safetyStock == 0 ? nil : before.safetyStock
    if core.log.isKeeping {
      // It tells what there was last.
      scratch.record.beginRemoved(
        command, time: now, slot: scratch.adjustment.slot,
        generation: scratch.adjustment.generation, fingerprint: scratch.adjustment.fingerprint,
        level: StockLevel(item: before.item, before.balances, version: version))
    }
    return .writable
  }

  /// As `apply`, for the one item of an adjustment, which is locked.
  func applyAdjustment(lsn: UInt64) {
    let removes = scratch.adjustment.removes
    if removes, core.fault != .limitOutlivesItem {
      core.items.setRemovedAt(scratch.changes[0].ordinal, lsn)
    }
    apply(
      scratch.changes[0], scratch.adjustment.after,
      sale: removes ? .always : scratch.adjustment.command.sale,
      safetyStockBefore: scratch.adjustment.safetyStockBefore, removes: removes, lsn: lsn)
  }

  /// Gives a locked item its balances, and unlocks it.
  /// - Parameters:
  ///   - sale: its window, where that is set.
  ///   - before: its safety stock, where that changes.
  @inline(__always)
  private func apply(
    _ change: ItemChange, _ after: StockLevel, sale: SaleWindow?,
    safetyStockBefore before: Int64?, removes: Bool = false, lsn: UInt64
  ) {
    let (ordinal, word) = (change.ordinal, change.word)
    // Before anybody can read the new one: or it would be taken for what it was all along.
    if core.log.isKeeping, let before {
      store.safetyStockChanges.append(ordinal, before: before, lsn: lsn)
    }
    core.noteShortage(after.balances)
    core.items[ordinal].store(after.balances)
    if let sale { core.items.setSale(ordinal, sale) }
    core.items[ordinal].lsn.store(lsn, ordering: .releasing)
    unlock(ordinal, ItemWord.word(after.version - 1, isRemoved: removes))
    if removes {
      counters.items.add(-1)
      counters.removedItems.add()
    } else if !ItemWord.isMade(word) {
      counters.items.add()
      if ItemWord.isRemoved(word) { counters.removedItems.add(-1) }
    }
  }

  /// As `readAdjustment`, for the group. Of an import, what is refused is left out.
  func readAdjustments() -> Reading {
    for index in 0..<scratch.group.count {
      guard let place = scratch.group[index].place else { continue }
      let ordinal = scratch.changes[place].ordinal
      guard let word = unlockedWord(ordinal) else { return .conflict }
      scratch.changes[place].word = word
      let before = balances(ordinal, word)
      let command = scratch.group[index].command
      let balances = balances(after: command, before.balances)
      scratch.group[index].before = before
      scratch.group[index].refusal = refusal(command, before, balances)
      if let refusal = scratch.group[index].refusal, !scratch.group.isImport,
        core.fault != .batchHalfApplied
      {
        scratch.group.refused = index
        let lsn = core.items[ordinal].lsn.load(ordering: .acquiring)
        return .refused(refusal, lsn: lsn, index: place)
      }
      scratch.group[index].after = StockLevel(
        item: before.item, balances, version: nextVersion(word))
    }
    if core.log.isKeeping { writeGroup() }
    return .writable
  }

  /// Makes the journal's record of what was read of the group.
  func writeGroup() {
    scratch.record.beginGroup(scratch.group, time: now)
    for index in 0..<scratch.group.count where scratch.group[index].refusal == nil {
      scratch.record.append(scratch.group[index])
    }
    scratch.record.endGroup(scratch.group)
  }

  /// As `applyAdjustment`, for the group.
  func applyAdjustments(lsn: UInt64) {
    for index in 0..<scratch.group.count {
      guard let place = scratch.group[index].place else { continue }
      if scratch.group[index].refusal != nil {
        // It stays what it was.
        core.items[scratch.changes[place].ordinal].word.store(
          scratch.changes[place].word, ordering: .releasing)
        continue
      }
      let (before, after) = (scratch.group[index].before, scratch.group[index].after)
      let safetyStockBefore =
        scratch.changes[place].word == 0 || after.safetyStock == before.safetyStock
        ? nil : before.safetyStock
      apply(
        scratch.changes[place], after, sale: nil, safetyStockBefore: safetyStockBefore, lsn: lsn)
    }
  }

  /// Why the item cannot have the balances `after`; nil where it can.
  @inline(__always)
  private func refusal(
    _ command: AdjustCommand, _ before: StockLevel, _ after: Balances
  ) -> Refusal? {
    if let mismatch = mismatch(command.check, before) { return mismatch }
    // Removed since its name was looked up.
    if before.version == 0, command.change.needsItem { return .itemNotFound(line: 0) }
    if after.committed < 0 {
      return .insufficientCommitted(
        item: before.item, requested: before.committed - after.committed,
        committed: before.committed)
    }
    if after.onHand < before.onHand {
      let taken = before.onHand - after.onHand
      // What nobody has is not taken, whoever allows what. What ships was promised, and is there to be given.
      let available =
        command.allowsShortage || command.change.ships
        ? before.onHand : min(before.onHand, before.balances.unpromised)
      if taken > available {
        return .insufficientStock(item: before.item, requested: taken, available: available)
      }
    }
    return after.onHand > core.limits.quantityMax ? .onHandLimit : nil
  }

  @inline(__always)
  private func mismatch(_ check: AdjustCommand.Check, _ before: StockLevel) -> Refusal? {
    switch check {
    case .none: nil
    case .version(let version):
      version == before.version ? nil : .versionMismatch(current: before.version)
    case .onHand(let onHand):
      onHand == before.onHand ? nil : .onHandMismatch(current: before.onHand)
    }
  }

  @inline(__always)
  private func balances(after command: AdjustCommand, _ before: Balances) -> Balances {
    var after = before
    switch command.change {
    case .none: break
    case .delta(let delta): after.onHand += delta
    case .setOnHand(let onHand): after.onHand = onHand
    case .ship(let units):
      after.onHand -= units
      if core.fault != .shipOnHandAlone { after.committed -= units }
    case .uncommit(let units): after.committed -= units
    }
    if let safetyStock = command.safetyStock { after.safetyStock = safetyStock }
    return after
  }
}

extension AdjustCommand.Change {
  var ships: Bool {
    if case .ship = self { true } else { false }
  }

  /// Whether there must be units of the item to be taken.
  var needsItem: Bool {
    switch self {
    case .none, .setOnHand: false
    case .delta(let delta): delta < 0
    case .ship, .uncommit: true
    }
  }
}
