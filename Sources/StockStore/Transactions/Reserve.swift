internal import Posix

extension StoreSession {
  /// Holds every line that was appended, or none.
  /// - Parameter ttlNanoseconds: within StoreLimits' range; the hold ends at the latest after
  ///   `holdNanosecondsMax`.
  /// - Returns: the hold, or `insufficientStock`, `itemNotFound` (both recorded), `conflictTooBusy`,
  ///   `idempotencyKeyReused`, `tableFull`, `unavailable`.
  package func reserve(_ scope: IdempotencyScope, ttlNanoseconds: Int64) -> Decision<Hold> {
    defer { scratch.lineCount = 0 }
    let identity = core.keys.identity(.reserve, scope)
    let number = core.shardNumber(identity)
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }
    // What lies in memory comes while the payload is hashed.
    core.shards[number].prefetch(identity)
    prefetchItems()
    let fingerprint = reserveFingerprint(ttlNanoseconds)

    if let slot = recorded(identity, number) {
      return replay(slot, fingerprint) { slot in
        Hold(
          id: core.id(slot), expiresAt: Timestamp(nanoseconds: core.slab[slot].firstExpiresAt))
      }
    }
    guard hasRoom(number) else {
      counters.refusedOther.add()
      return Decision(.refused(.tableFull(.reservations)), replayed: false, lsn: 0)
    }
    if let unavailable {
      counters.refusedOther.add()
      return Decision(.refused(.unavailable(unavailable)), replayed: false, lsn: 0)
    }
    if let line = gatherHolds() {
      counters.refusedOther.add()
      return refuse(
        .itemNotFound(line: line), .reserve, scope, identity, fingerprint, number,
        name: scratch.lines[line].item)
    }
    let expiresAt = Timestamp(nanoseconds: now)
      .advanced(byNanoseconds: min(ttlNanoseconds, core.limits.holdNanosecondsMax))
    if core.log.isJournaled {
      let next = core.shards[number].nextSlot()
      scratch.record.beginHeld(
        time: now, slot: next.slot, generation: next.generation, fingerprint: fingerprint,
        expiresAt: expiresAt.nanoseconds, lineCount: scratch.changes.count, scope: scope)
    }
    switch commit() {
    case .refused(let refusal, _):
      if case .insufficientStock = refusal {
        counters.refusedInsufficientStock.add()
      } else {
        counters.refusedOther.add()
      }
      return refuse(refusal, .reserve, scope, identity, fingerprint, number)
    case .committed(let lsn):
      let slot = record(identity, fingerprint, lsn: lsn, number)
      return hold(slot, number, expiresAt: expiresAt, lsn: lsn)
    }
  }

  /// Writes the hold of the units that were just committed into `slot`.
  @inline(__always)
  private func hold(
    _ slot: UInt32, _ number: Int, expiresAt: Timestamp, lsn: UInt64
  ) -> Decision<Hold> {
    core.slab[slot].kind = .held
    core.slab[slot].expiresAt = expiresAt.nanoseconds
    core.slab[slot].firstExpiresAt = expiresAt.nanoseconds
    core.slab[slot].setLineCount(scratch.changes.count)
    for index in 0..<scratch.changes.count {
      let change = scratch.changes[index]
      core.slab[slot].setLine(
        index,
        ViewLine(item: ItemHandle(ordinal: change.ordinal), quantity: change.heldChange))
    }
    startTimer(slot, number)
    counters.held.add()
    counters.liveHolds.add()
    return Decision(
      .accepted(Hold(id: core.id(slot), expiresAt: expiresAt)), replayed: false, lsn: lsn)
  }

  /// Sets the timer of the hold in `slot` by its `expiresAt`.
  @inline(__always)
  func startTimer(_ slot: UInt32, _ number: Int) {
    // A shard where nothing was due for long: its wheel must not stand far behind.
    core.shards[number].wheel.advance(now)
    let due = core.shards[number].wheel.insert(slot)
    if due < core.dueTimes[number] { core.dueTimes[number] = due }
  }

  /// Turns the command's lines into changes, lines of the same item summed. The first line whose item
  /// is unknown, if there is one.
  @inline(__always)
  private func gatherHolds() -> Int? {
    scratch.changes.removeAll()
    for line in 0..<scratch.lineCount {
      guard let ordinal = ordinal(line: line) else { return line }
      let quantity = scratch.lines[line].quantity
      if let index = scratch.changes.index(ordinal) {
        scratch.changes[index].required += quantity
        scratch.changes[index].heldChange += quantity
      } else {
        scratch.changes.append(
          ItemChange(ordinal: ordinal, required: quantity, heldChange: quantity))
      }
    }
    return nil
  }

  /// Two payloads are the same if they name the same items and quantities in the same order, and the
  /// same ttl.
  @inline(__always)
  private func reserveFingerprint(_ ttlNanoseconds: Int64) -> UInt64 {
    var hasher = core.keys.fingerprintHasher()
    for line in 0..<scratch.lineCount {
      hasher.absorb(scratch.lines[line].hash)
      hasher.absorb(UInt64(bitPattern: scratch.lines[line].quantity))
    }
    return hasher.finish(UInt64(bitPattern: ttlNanoseconds))
  }
}
