internal import Log
internal import Synchronization

/// A change of one item's stock while it is tried: `TransactionKind.adjustment`. It is large: reach for its
/// parts where it is, in the session's scratch.
struct Adjustment {
  var command = AdjustCommand(
    scope: IdempotencyScope(caller: .empty, key: .empty),
    item: ItemName(sku: .empty, location: .empty), change: .none, safetyStock: nil,
    expectedVersion: nil, reason: .empty)
  /// Of the command, for the journal's record; so are the slot and its generation, where there is one.
  var fingerprint: UInt64 = 0
  var slot: UInt32 = 0
  var generation: UInt32 = 0
  /// Of an item that there was, where it changes.
  var safetyStockBefore: Int64?
  /// What becomes of the item.
  var after = StockLevel(
    item: ItemHandle(ordinal: 0), onHand: 0, held: 0, safetyStock: 0, version: 0)
}

extension StoreSession {
  /// As `read`, for the one item of an adjustment.
  func readAdjustment() -> Reading {
    let ordinal = scratch.changes[0].ordinal
    guard let word = unlockedWord(ordinal) else { return .conflict }
    let before = balances(ordinal, word)
    scratch.changes[0].word = word
    let onHand = onHand(after: scratch.adjustment.command.change, before.onHand)
    if let refusal = refusal(before, onHand) {
      let lsn = core.items[ordinal].lsn.load(ordering: .acquiring)
      return .refused(refusal, lsn: lsn, index: 0)
    }
    let after = StockLevel(
      item: before.item, onHand: onHand, held: before.held,
      safetyStock: scratch.adjustment.command.safetyStock ?? before.safetyStock,
      version: before.version == 0 ? core.firstVersion : before.version + 1)
    scratch.adjustment.after = after
    if core.log.isKeeping {
      let command = scratch.adjustment.command
      scratch.record.beginAdjusted(
        command, time: now, slot: scratch.adjustment.slot,
        generation: scratch.adjustment.generation, fingerprint: scratch.adjustment.fingerprint,
        level: after, safetyStockBefore: before.version == 0 ? nil : before.safetyStock,
        name: before.version == 0 ? command.item : nil)
    }
    scratch.adjustment.safetyStockBefore =
      before.version == 0 || after.safetyStock == before.safetyStock ? nil : before.safetyStock
    return .writable
  }

  /// As `apply`, for the one item of an adjustment, which is locked.
  func applyAdjustment(lsn: UInt64) {
    let (ordinal, word) = (scratch.changes[0].ordinal, scratch.changes[0].word)
    let after = scratch.adjustment.after
    core.items[ordinal].onHand.store(after.onHand, ordering: .releasing)
    // Before anybody can read the new one: or it would be taken for what it was all along.
    if core.log.isKeeping, let before = scratch.adjustment.safetyStockBefore {
      store.safetyStockChanges.append(ordinal, before: before, lsn: lsn)
    }
    core.items[ordinal].safetyStock.store(after.safetyStock, ordering: .releasing)
    core.items[ordinal].lsn.store(lsn, ordering: .releasing)
    unlock(ordinal, (after.version - 1) << 1)
    if word >> 1 == 0 { counters.items.add() }
  }

  /// Why on hand cannot become `onHand`; nil where it can.
  @inline(__always)
  private func refusal(_ before: StockLevel, _ onHand: Int64) -> Refusal? {
    if let version = scratch.adjustment.command.expectedVersion, version != before.version {
      return .versionMismatch(current: before.version)
    }
    if onHand < before.held {
      return .insufficientStock(
        item: before.item, requested: before.onHand - onHand,
        available: before.onHand - before.held)
    }
    return onHand > core.limits.quantityMax ? .onHandLimit : nil
  }

  @inline(__always)
  private func onHand(after change: AdjustCommand.Change, _ onHand: Int64) -> Int64 {
    switch change {
    case .none: onHand
    case .delta(let delta): onHand + delta
    case .setOnHand(let onHand): onHand
    }
  }
}
