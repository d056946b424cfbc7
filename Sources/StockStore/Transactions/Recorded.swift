// Decisions under idempotency keys: found again, recorded, forgotten. Everything here runs under the
// lock of the shard `number`.
internal import Log

extension StoreSession {
  /// The slot of the decision that was recorded for `identity`; nil where there is none.
  @inline(__always)
  func recorded(_ identity: Identity, _ number: Int) -> UInt32? {
    guard let slot = core.shards[number].find(identity) else { return nil }
    endIfDue(slot, number)
    if !isForgotten(slot) { return slot }
    // Where its end could not be recorded, neither can anything else.
    if core.slab[slot].kind != .held { forget(slot, number) }
    return nil
  }

  /// Whether nobody may see the record in `slot` any more, also where it is a hold that ended so long ago
  /// and the sweep has not got to it.
  @inline(__always)
  func isForgotten(_ slot: UInt32) -> Bool {
    let endedAt =
      core.slab[slot].kind == .held ? core.slab[slot].expiresAt : core.slab[slot].endedAt
    return endedAt <= now - core.limits.retentionNanoseconds
  }

  /// Whether nobody need remember the decision in `slot` any more.
  @inline(__always)
  func isPastRetention(_ slot: UInt32) -> Bool {
    core.slab[slot].kind != .held
      && core.slab[slot].endedAt <= now - core.limits.retentionNanoseconds
  }

  /// Whether one more decision can be recorded, if need be in the place of one that has ended.
  @inline(__always)
  func hasRoom(_ number: Int) -> Bool {
    !core.shards[number].isFull || core.shards[number].ended.first != nil || endFirstDue(number)
  }

  /// Forgets the decision that ended longest ago where there is no room for another.
  @inline(__always)
  private func makeRoom(_ number: Int) {
    guard core.shards[number].isFull, let slot = core.shards[number].ended.first else { return }
    if !isPastRetention(slot) { counters.evictedEarly.add() }
    forget(slot, number)
  }

  func forget(_ slot: UInt32, _ number: Int) {
    core.shards[number].forget(slot)
    counters.recordedDecisions.add(-1)
  }

  /// A record for `identity`, made at this turn's time. The caller has seen that there is room, and
  /// sets the rest.
  @inline(__always)
  func record(_ identity: Identity, _ fingerprint: UInt64, lsn: UInt64, _ number: Int) -> UInt32 {
    assert(core.shards[number].lock.isTaken, "a decision outside its shard's lock")
    makeRoom(number)
    let slot = core.shards[number].add(identity)
    core.slab[slot].fingerprint = fingerprint
    core.slab[slot].createdAt = now
    core.slab[slot].lsn = lsn
    counters.recordedDecisions.add()
    scratch.recordedSinceCollect += 1
    return slot
  }

  /// Answers what the store found against a command, and records it if it is a decision.
  func refuse<Value>(
    _ refusal: Refusal, _ method: StoreKeys.Method, _ scope: IdempotencyScope,
    _ identity: Identity, _ fingerprint: UInt64, _ number: Int
  ) -> Decision<Value> {
    switch refusal {
    case .insufficientStock(let item, let requested, let available):
      refuse(
        .insufficientStock(item: item, requested: requested, available: available), method, scope,
        identity, fingerprint, number, name: nil)
    case .itemNotEmpty(let item, let onHand, let held, let committed):
      refuse(
        .itemNotEmpty(item: item, onHand: onHand, held: held, committed: committed), method,
        scope, identity, fingerprint, number, name: nil)
    case .notOnSale(let item, let window):
      refuse(
        .notOnSale(item: item, window), method, scope, identity, fingerprint, number, name: nil)
    case .onHandLimit:
      refuse(
        .onHandLimit(change: method == .adjustTogether ? scratch.group.refused ?? 0 : 0), method,
        scope, identity, fingerprint, number, name: nil)
    case .insufficientCommitted(let item, let requested, let committed):
      refuse(
        .insufficientCommitted(item: item, requested: requested, committed: committed), method,
        scope, identity, fingerprint, number, name: nil)
    case .limitExceeded(let item, let requested, let used, _):
      refuse(
        .limitExceeded(item: item, requested: requested, used: used), method, scope, identity,
        fingerprint, number, name: nil)
    default: Decision(.refused(refusal), replayed: false, lsn: 0)
    }
  }

  /// Records `refusal` and answers it. `further` has the other items that lack units, if any.
  /// - Parameter name: of the first item that is unknown, where that is why.
  func refuse<Value>(
    _ refusal: RecordedRefusal, _ method: StoreKeys.Method, _ scope: IdempotencyScope,
    _ identity: Identity, _ fingerprint: UInt64, _ number: Int, name: ItemName?
  ) -> Decision<Value> {
    if core.log.isKeeping {
      let next = core.shards[number].nextSlot()
      scratch.record.beginRefused(
        method, refusal, time: now, slot: next.slot, generation: next.generation,
        fingerprint: fingerprint, scope: scope, lines: scratch.changes, further: scratch.further,
        name: name)
      if method != .adjust, method != .remove {
        scratch.record.append(.reference, scratch.reference)
      }
      if case .limitExceeded = refusal {
        scratch.record.append(.limits, scratch.refusedLimit.bytes)
      }
      if scratch.further.alternativesTried > 0 {
        scratch.record.append(
          .choice, byte: UInt8(truncatingIfNeeded: scratch.further.alternativesTried))
      }
    }
    let lsn = appendRecord()
    let slot = record(identity, fingerprint, lsn: lsn, number)
    assert(!core.log.isKeeping || scratch.record.slot == slot, "another slot than was written")
    core.slab[slot].setRefusal(refusal)
    if case .limitExceeded = refusal {
      core.slab[slot].referenceNode = ReferenceNode(
        .empty, hash: 0, slot: slot, limits: scratch.refusedLimit.bytes)
    }
    if scratch.further.count | scratch.further.alternativesTried > 0 { keepFurther(slot) }
    core.slab[slot].endedAt = now
    core.shards[number].appendEnded(slot)
    scratch.further.removeAll()
    return Decision(.refused(tell(refusal, slot)), replayed: false, lsn: lsn)
  }

  @inline(never)
  private func keepFurther(_ slot: UInt32) {
    if scratch.further.alternativesTried > 0 {
      core.slab[slot].setAlternativesTried(scratch.further.alternativesTried)
    }
    if scratch.further.count == 0 { return }
    core.slab[slot].setShortageCount(scratch.further.count)
    for index in 0..<scratch.further.count {
      switch scratch.further[index] {
      case .insufficientStock(let item, let requested, let available):
        core.slab[slot].setShortage(
          index, Shortage(item: item, requested: requested, available: available))
      case .notOnSale(let item, let window):
        core.slab[slot].setClosedSale(index, ClosedSale(item: item, window: window))
      default: preconditionFailure("only what lacks units or is not on sale comes with others")
      }
    }
  }

  /// What the recorded refusal in `slot` says besides the first lack of units.
  @inline(never)
  private func tellFurther(_ slot: UInt32) {
    scratch.further.alternativesTried = core.slab[slot].alternativesTried
    for index in 0..<core.slab[slot].shortageCount {
      let other = core.slab[slot].shortage(index)
      scratch.further.append(
        .insufficientStock(
          item: other.item, requested: other.requested, available: other.available))
    }
  }

  /// The recorded refusal in `slot` as this command's lines have it; `further` gets what else it names.
  @inline(__always)
  private func tell(_ refusal: RecordedRefusal, _ slot: UInt32) -> Refusal {
    switch refusal {
    case .insufficientStock(let item, let requested, let available):
      if core.slab[slot].tellsMore { tellFurther(slot) }
      return .insufficientStock(item: item, requested: requested, available: available)
    case .notOnSale(let item, let window):
      for index in 0..<core.slab[slot].shortageCount {
        let other = core.slab[slot].closedSale(index)
        scratch.further.append(.notOnSale(item: other.item, other.window))
      }
      return .notOnSale(item: item, window)
    case .itemsNotFound(let first, let places):
      return tellUnknownItems(first: first, places: places)
    case .lineNotFound(let line): return .itemNotFound(line: line)
    case .itemNotEmpty(let item, let onHand, let held, let committed):
      return .itemNotEmpty(item: item, onHand: onHand, held: held, committed: committed)
    case .onHandLimit: return .onHandLimit
    case .insufficientCommitted(let item, let requested, let committed):
      return .insufficientCommitted(item: item, requested: requested, committed: committed)
    case .limitExceeded(let item, let requested, let used):
      return .limitExceeded(
        item: item, requested: requested, used: used, maxUnits: showRefusedLimit(slot))
    }
  }

  /// Keeps the limit that the recorded refusal in `slot` is about for `refusedSubject`: its units.
  private func showRefusedLimit(_ slot: UInt32) -> Int64 {
    scratch.refusedLimit.removeAll()
    var reader = LimitReader(core.slab[slot].limits)
    guard let limit = reader.next() else { return 0 }
    scratch.refusedLimit.append(limit)
    return limit.maxUnits
  }

  /// The recorded answer in `slot`, again; `accepted` reads it where it is no refusal.
  func replay<Value>(
    _ slot: UInt32, isSamePayload: Bool, accepted: (UInt32) -> Value
  ) -> Decision<Value> {
    let lsn = core.slab[slot].lsn
    // A command that was tried, and then found its key taken, has what it lacked itself there.
    scratch.further.removeAll()
    guard isSamePayload else {
      counters.keysReused.add()
      return Decision(.refused(.idempotencyKeyReused), replayed: false, lsn: lsn)
    }
    counters.replays.add()
    if let refusal = core.slab[slot].refusal {
      return Decision(.refused(tell(refusal, slot)), replayed: true, lsn: lsn)
    }
    return Decision(.accepted(accepted(slot)), replayed: true, lsn: lsn)
  }
}
