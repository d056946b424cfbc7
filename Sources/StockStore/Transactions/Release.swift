internal import Log
internal import Posix

extension StoreSession {
  /// Gives back what the reservation holds.
  /// - Returns: the reservation, `replayed` if it was released before; or `reservationNotFound`,
  ///   `reservationExpired`, `reservationConfirmed`, `notOwnHold`, `conflictTooBusy`, `unavailable`.
  package func release(
    _ id: ReservationID, by requester: Requester = .nameless
  ) -> Decision<ReservationView> {
    withReservation(id, toChangeBy: requester) { slot, number, state in
      switch state {
      case .confirmed: return refused(.reservationConfirmed, slot)
      case .expired: return refused(.reservationExpired, slot)
      case .released:
        counters.replays.add()
        return accepted(id, replayed: true)
      case .held:
        if let unavailable { return refused(.unavailable(unavailable), slot) }
        gatherReturn(slot)
        beginRecord(.released, slot, id.tag, by: requester)
        switch commit() {
        case .refused(let refusal, _): return refused(refusal, slot)
        case .committed(let lsn):
          end(slot, number, .released, at: now, lsn: lsn)
          counters.released.add()
          return accepted(id, replayed: false)
        }
      }
    }
  }

  /// Lets the hold end `ttlNanoseconds` from now (nil: the default), but no later than
  /// `holdNanosecondsMax` after it was made.
  /// - Parameter mayShorten: without it, a hold that would end earlier stays as it is: what comes late must
  ///   not undo what came after it.
  /// - Returns: the reservation, `replayed` if its end is what it was; or `reservationNotFound`,
  ///   `reservationExpired`, `reservationConfirmed`, `reservationReleased`, `notOwnHold`,
  ///   `unavailable`.
  package func extend(
    _ id: ReservationID, ttlNanoseconds: Int64?, mayShorten: Bool = false,
    by requester: Requester = .nameless
  ) -> Decision<ReservationView> {
    withReservation(id, toChangeBy: requester) { slot, number, state in
      switch state {
      case .confirmed: return refused(.reservationConfirmed, slot)
      case .expired: return refused(.reservationExpired, slot)
      case .released: return refused(.reservationReleased, slot)
      case .held: break
      }
      let latest = Timestamp(nanoseconds: core.slab[slot].createdAt)
        .advanced(byNanoseconds: core.limits.holdNanosecondsMax)
      let wanted = Timestamp(nanoseconds: now)
        .advanced(byNanoseconds: ttlNanoseconds ?? core.limits.ttlNanosecondsDefault)
      let expiresAt = min(wanted, latest).nanoseconds
      let current = core.slab[slot].expiresAt
      // Under a lower limit than the hold was made with, its cap may be past: it then ends when it did.
      if expiresAt == current || expiresAt < current && (!mayShorten || expiresAt <= now) {
        counters.replays.add()
        return accepted(id, replayed: true)
      }
      if let unavailable { return refused(.unavailable(unavailable), slot) }
      core.shards[number].wheel.remove(slot)
      core.slab[slot].expiresAt = expiresAt
      core.slab[slot].revision += 1
      if core.log.isKeeping {
        scratch.record.begin(
          .extended, time: now, slot: slot, generation: core.slab[slot].generation,
          tag: id.tag, value: expiresAt, lineCount: 0, caller: requester.caller)
        scratch.record.append(.revision, core.slab[slot].revision)
        scratch.record.append(.reference, core.slab[slot].reference)
      }
      core.slab[slot].lsn = appendRecord()
      startTimer(slot, number)
      return accepted(id, replayed: false)
    }
  }

  /// Reads the reservation that was made under this key, and makes none.
  /// - Returns: the reservation, as it stands; the refusal that was recorded, of which `itemNotFound` names no
  ///   items, since nobody has sent any; or `reservationNotFound`.
  package func reservation(of scope: IdempotencyScope) -> Decision<ReservationView> {
    scratch.lineCount = 0
    scratch.viewCount = 0
    scratch.further.removeAll()
    let identity = core.keys.identity(.reserve, scope)
    let number = core.shardNumber(identity)
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }
    guard let slot = recorded(identity, number) else {
      return Decision(.refused(.reservationNotFound), replayed: false, lsn: 0)
    }
    if core.slab[slot].refusal != nil {
      return replay(slot, isSamePayload: true) { view(core.id($0)) }
    }
    return accepted(core.id(slot), replayed: false)
  }

  /// Reads one reservation: as it stands, or `reservationNotFound`.
  package func reservation(_ id: ReservationID) -> Decision<ReservationView> {
    withReservation(id, toChangeBy: .nameless) { _, _, _ in accepted(id, replayed: false) }
  }

  /// Begins the journal's record of what ends the hold in `slot`, by the changes gathered.
  /// - Parameter tag: of the hold's id.
  func beginRecord(
    _ kind: RecordWriter.Kind, _ slot: UInt32, _ tag: UInt64, value: Int64 = 0,
    by requester: Requester = .nameless
  ) {
    guard core.log.isKeeping else { return }
    scratch.record.begin(
      kind, time: now, slot: slot, generation: core.slab[slot].generation,
      tag: tag, value: value, lineCount: scratch.changes.count,
      caller: requester.caller)
    if let node = core.slab[slot].referenceNode {
      scratch.record.append(.reference, node.text)
      // Units that are sold count for these, also when nothing is known of the reservation any more.
      if kind == .confirmed { scratch.record.append(.limits, node.limits) }
    }
  }

  /// Makes the changes that give back all units of the hold in `slot`.
  func gatherReturn(_ slot: UInt32) {
    scratch.changes.removeAll()
    for index in 0..<core.slab[slot].lineCount {
      let line = core.slab[slot].line(index)
      core.items.prefetch(line.item.ordinal)
      scratch.changes.append(
        ItemChange(ordinal: line.item.ordinal, heldChange: -line.quantity))
    }
    takeLimits(of: slot)
  }

  /// Ends the hold in `slot`. Its timer is stopped, its units have been committed.
  /// - Parameter time: of an expiry, when it was to expire.
  func end(_ slot: UInt32, _ number: Int, _ kind: RecordKind, at time: Int64, lsn: UInt64) {
    assert(core.slab[slot].kind == .held && core.shards[number].lock.isTaken, "no hold to be ended")
    core.shards[number].wheel.remove(slot)
    core.slab[slot].kind = kind
    if kind != .expired { core.slab[slot].endedAt = time }
    core.slab[slot].lsn = lsn
    core.shards[number].appendEnded(slot)
    counters.liveHolds.add(-1)
  }

  /// Calls `body` under the shard's lock with the slot and shard of the reservation that `id` names,
  /// and its state at this turn's time. A requester who may change its own holds alone does not get to
  /// another's that could still be changed; what has ended for good tells everybody the same.
  @inline(__always)
  func withReservation(
    _ id: ReservationID, toChangeBy requester: Requester,
    _ body: (_ slot: UInt32, _ number: Int, _ state: ReservationState) -> Decision<ReservationView>
  ) -> Decision<ReservationView> {
    scratch.viewCount = 0
    scratch.further.removeAll()
    core.slab.records.prefetch(id.slot)
    let notFound = Decision<ReservationView>(
      .refused(.reservationNotFound), replayed: false, lsn: 0)
    let useHash = core.keys.useHash(slot: id.slot, generation: id.generation)
    guard let number = core.slab.owner(id.slot) else { return notFound }
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }
    return withLockedReservation(id, number, useHash, toChangeBy: requester) { slot, state in
      body(slot, number, state)
    }
  }

  /// The same, where the reservation's shard is locked.
  @inline(__always)
  func withLockedReservation<Value>(
    _ id: ReservationID, _ number: Int, _ useHash: UInt64, toChangeBy requester: Requester,
    _ body: (_ slot: UInt32, _ state: ReservationState) -> Decision<Value>
  ) -> Decision<Value> {
    let notFound = Decision<Value>(.refused(.reservationNotFound), replayed: false, lsn: 0)
    let slot = id.slot
    guard core.slab[slot].generation == id.generation, core.slab[slot].state != nil,
      core.idTag(useHash, core.slab[slot].identity, createdAt: core.slab[slot].createdAt) == id.tag,
      !isForgotten(slot)
    else { return notFound }
    if core.slab[slot].isDue(dueTime) {
      if core.fault == .actOnDueHold { return body(slot, .held) }
      endIfDue(slot, number)
    }
    guard let state = core.slab[slot].state(at: dueTime) else { return notFound }
    if requester.ownHoldsOnly, state == .held || state == .expired {
      let owner = core.keys.owner(requester.caller)
      if owner == .unknown || core.slab[slot].owner != owner { return refused(.notOwnHold, slot) }
    }
    return body(slot, state)
  }

  @inline(__always)
  func refused<Value>(_ refusal: Refusal, _ slot: UInt32) -> Decision<Value> {
    Decision(.refused(refusal), replayed: false, lsn: core.slab[slot].lsn)
  }

  /// - Parameter id: what `withReservation` has found.
  func accepted(_ id: ReservationID, replayed: Bool) -> Decision<ReservationView> {
    Decision(.accepted(view(id)), replayed: replayed, lsn: core.slab[id.slot].lsn)
  }
}
