// Reserves of a batch that nothing stands in the way of, as nearly all: of one item that has the units, under a key
// that is new. They change the same as `reserve` does, in one pass. What one step finds stays in registers for the
// next: what is written to memory and read back in another width waits for all that was written before.
internal import Bytes
internal import Log
internal import Posix
internal import Synchronization

/// A hold that was just made.
package struct PreparedHold {
  package let id: ReservationID
  /// In nanoseconds since the Unix epoch.
  package let expiresAt: Int64
  /// Log sequence number; 0: there is no hold.
  package let lsn: UInt64

  package var isMade: Bool { lsn != 0 }

  static var none: PreparedHold {
    PreparedHold(id: ReservationID(slot: 0, generation: 0, tag: 0), expiresAt: 0, lsn: 0)
  }
}

extension StoreSession {
  /// Makes the hold of the prepared reserve that `usePrepared` has named, where it was prepared whole and nothing
  /// stands in its way. Else nothing has happened, and it is for `reservePrepared`, or `reserve`.
  package func holdPrepared() -> PreparedHold {
    if scratch.preparedInUse < 0 { return .none }
    // The scratch stays where it is.
    let prepared = unsafe scratch.prepared.address(scratch.preparedInUse)
    guard let whole = unsafe prepared.pointee.whole, case .optimistic = core.concurrency,
      core.fault == nil, unavailable == nil,
      (whole.ttlNanoseconds ?? 0) <= core.limits.holdNanosecondsMax
    else { return .none }
    assertInTurn()
    guard
      let ordinal = unsafe preparedOrdinal(
        prepared.pointee.item, prepared.pointee.itemHash, prepared.pointee.candidate)
    else { return .none }
    let identity = unsafe prepared.pointee.identity
    let number = core.shardNumber(identity)
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }
    scratch.further.removeAll()
    if core.shards[number].isFull || core.shards[number].find(identity) != nil { return .none }
    return unsafe hold(
      whole, prepared.pointee.scope, identity, number, ordinal, prepared.pointee.itemHash)
  }

  /// The item of a prepared reserve.
  @inline(__always)
  private func preparedOrdinal(_ item: ItemName, _ hash: UInt64, _ candidate: UInt32) -> UInt32? {
    if candidate != .max, core.items.hasName(candidate, item), core.isMade(candidate) {
      return candidate
    }
    return core.find(item, hash)
  }

  /// The shard is locked, has room, and does not know the key.
  @inline(__always)
  private func hold(
    _ whole: WholeReserve, _ scope: IdempotencyScope, _ identity: Identity, _ number: Int,
    _ ordinal: UInt32, _ itemHash: UInt64
  ) -> PreparedHold {
    let quantity = whole.quantity
    let word = core.items[ordinal].word.load(ordering: .acquiring)
    let (before, hasSaleWindow) = core.items[ordinal].balancesAndSale
    // What is committed has a place of its own in the record.
    guard word & 1 == 0, !hasSaleWindow, before.committed == 0, before.available >= quantity
    else { return .none }
    let fingerprint = preparedFingerprint(whole, itemHash)
    let expiresAt = Timestamp(nanoseconds: now)
      .advanced(
        byNanoseconds: min(
          whole.ttlNanoseconds ?? core.limits.ttlNanosecondsDefault, core.limits.holdNanosecondsMax)
      ).nanoseconds
    if core.log.isKeeping {
      let next = core.shards[number].nextSlot()
      scratch.record.beginHeld(
        time: now, slot: next.slot, generation: next.generation, fingerprint: fingerprint,
        expiresAt: expiresAt, lineCount: 1, scope: scope)
      scratch.record.setLine(
        0, ordinal: ordinal, quantity: quantity, version: word >> 1 + 1, onHand: before.onHand,
        held: before.held + quantity)
    }
    // As Optimistic does.
    guard
      core.items[ordinal].word.compareExchange(
        expected: word, desired: word | 1, ordering: .acquiringAndReleasing
      ).exchanged
    else { return .none }
    counters.commitsByAttempts[0].add()
    let lsn = appendRecord()
    store(
      ItemChange(
        ordinal: ordinal, required: quantity, heldChange: quantity, word: word, before: before),
      lsn: lsn)
    unlock(ordinal, word)
    let slot = record(identity, fingerprint, lsn: lsn, number)
    assert(!core.log.isKeeping || scratch.record.slot == slot, "another slot than was written")
    core.slab[slot].kind = .held
    core.slab[slot].owner = core.keys.owner(scope.caller)
    core.slab[slot].expiresAt = expiresAt
    core.slab[slot].firstExpiresAt = expiresAt
    core.slab[slot].setLineCount(1)
    core.slab[slot].setLine(0, ViewLine(item: ItemHandle(ordinal: ordinal), quantity: quantity))
    startTimer(slot, number)
    noteReserve(ordinal)
    counters.held.add()
    counters.liveHolds.add()
    return PreparedHold(id: core.id(slot), expiresAt: expiresAt, lsn: lsn)
  }

  /// As that of the same reserve that comes in another way.
  @inline(__always)
  private func preparedFingerprint(_ whole: WholeReserve, _ itemHash: UInt64) -> UInt64 {
    var hasher = core.keys.reserveFingerprintHasher()
    hasher.absorb(itemHash)
    hasher.absorb(UInt64(bitPattern: whole.quantity))
    return hasher.finish(UInt64(bitPattern: whole.ttlNanoseconds ?? 0))
  }
}
