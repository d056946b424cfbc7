// RemoveItem: an item that is empty goes, and with it its safety stock, its sale window, and what subjects have bought
// of it under limits. Its record stays in its place and in the index, with its version and a mark in its word, and is
// as good as unknown to everybody; what makes the item again makes it there, and its version goes on. When the store
// is opened and nothing that is known names the place any more, another item may have it (Places.swift): while it
// runs, what a number means never changes.
internal import Bytes
internal import Log

extension StoreSession {
  /// Takes an item away that has nothing on hand, held or committed.
  /// - Returns: whether it is gone; or `itemNotFound`, `itemNotEmpty` (both recorded), `versionMismatch`,
  ///   `conflictTooBusy`, `idempotencyKeyReused`, `tableFull`, `unavailable`.
  package func remove(_ command: RemoveCommand) -> Decision<Bool> {
    assertInTurn()
    scratch.lineCount = 0
    scratch.further.removeAll()
    let hash = core.keys.itemHash(command.item)
    // What is due is no reason to keep it.
    if scratch.hasBacklog, let ordinal = core.find(command.item, hash) { finishDueToShow(ordinal) }
    let identity = identity(.remove, command.scope)
    let fingerprint = removeFingerprint(command, hash)
    let number = core.shardNumber(identity)
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }
    if let slot = recorded(identity, number) {
      return replay(slot, isSamePayload: core.slab[slot].fingerprint == fingerprint) { _ in true }
    }
    guard hasRoom(number) else {
      return Decision(.refused(.tableFull(.reservations)), replayed: false, lsn: 0)
    }
    if let unavailable {
      return Decision(.refused(.unavailable(unavailable)), replayed: false, lsn: 0)
    }
    scratch.changes.removeAll()
    guard let ordinal = core.find(command.item, hash) else {
      return refuseUnknown(command, identity, fingerprint, number)
    }
    return remove(ordinal, command, identity, fingerprint, number)
  }

  private func remove(
    _ ordinal: UInt32, _ command: RemoveCommand, _ identity: Identity, _ fingerprint: UInt64,
    _ number: Int
  ) -> Decision<Bool> {
    let next: (slot: UInt32, generation: UInt32) =
      core.log.isKeeping ? core.shards[number].nextSlot() : (0, 0)
    scratch.changes.append(ItemChange(ordinal: ordinal))
    scratch.adjustment.command = AdjustCommand(
      scope: command.scope, item: command.item, change: .none, safetyStock: nil,
      check: command.expectedVersion == 0 ? .none : .version(command.expectedVersion),
      reason: command.reason)
    scratch.adjustment.removes = true
    scratch.adjustment.fingerprint = fingerprint
    (scratch.adjustment.slot, scratch.adjustment.generation) = next
    switch commitAdjustment() {
    case .committed(let lsn):
      let slot = record(identity, fingerprint, lsn: lsn, number)
      assert(!core.log.isKeeping || scratch.record.slot == slot, "another slot than was written")
      core.slab[slot].kind = .removed
      core.slab[slot].endedAt = now
      core.shards[number].appendEnded(slot)
      return Decision(.accepted(true), replayed: false, lsn: lsn)
    case .refused(let refusal, let lsn):
      // A refusal's record has no lines.
      scratch.changes.removeAll()
      switch refusal {
      case .versionMismatch: return Decision(.refused(refusal), replayed: false, lsn: lsn)
      case .itemNotFound: return refuseUnknown(command, identity, fingerprint, number)
      default: return refuse(refusal, .remove, command.scope, identity, fingerprint, number)
      }
    }
  }

  private func refuseUnknown(
    _ command: RemoveCommand, _ identity: Identity, _ fingerprint: UInt64, _ number: Int
  ) -> Decision<Bool> {
    refuse(
      .itemsNotFound(first: 0, places: 1), .remove, command.scope, identity, fingerprint, number,
      name: command.item)
  }

  /// Every field as it was sent.
  private func removeFingerprint(_ command: RemoveCommand, _ itemHash: UInt64) -> UInt64 {
    var hasher = core.keys.fingerprintHasher()
    hasher.absorb(itemHash)
    hasher.absorb(command.expectedVersion)
    unsafe hasher.absorb(bytes: command.reason.pointer)
    return hasher.finish(UInt64(command.reason.count))
  }
}
