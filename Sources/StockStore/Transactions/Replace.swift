// Replace puts other lines in the place of a hold's: one commit of what is between the two. An item of both keeps
// its units, so that a hold is never in its own way and nobody else gets in between.
//
// Two decisions are written at once, of which each has its shard: the reservation has other lines, and the key has
// its answer. Both shards are locked, the one with the lower number first, for as long as it takes.
internal import Bytes
internal import Log
internal import Posix

/// What a Replace asks for, besides the lines that were appended.
package struct ReplaceCommand {
  package let scope: IdempotencyScope
  package let reservation: ReservationID
  /// 0: whatever the revision.
  package let expectedRevision: UInt64
  /// Above 0; nil: the hold ends when it would.
  package let ttlNanoseconds: Int64?
  /// Empty: as it is.
  package let reference: BorrowedBytes

  package init(
    scope: IdempotencyScope, reservation: ReservationID, expectedRevision: UInt64 = 0,
    ttlNanoseconds: Int64? = nil, reference: BorrowedBytes = .empty
  ) {
    self.scope = scope
    self.reservation = reservation
    self.expectedRevision = expectedRevision
    self.ttlNanoseconds = ttlNanoseconds
    self.reference = reference
  }
}

extension StoreSession {
  /// Puts the lines that were appended in the place of those that the reservation holds, or changes nothing.
  /// - Returns: the reservation right after, also where the command is repeated; or `insufficientStock`,
  ///   `notOnSale`, `limitExceeded`, `itemNotFound` (all recorded), `reservationNotFound`, `reservationExpired`,
  ///   `reservationConfirmed`,
  ///   `reservationReleased`, `notOwnHold`, `revisionMismatch`, `conflictTooBusy`, `idempotencyKeyReused`,
  ///   `longerThanMaxHold`, `tableFull`, `unavailable`.
  package func replace(
    _ command: ReplaceCommand, by requester: Requester = .nameless
  ) -> Decision<ReservationView> {
    defer {
      scratch.lineCount = 0
      scratch.replacement.isReplacing = false
    }
    scratch.viewCount = 0
    scratch.further.removeAll()
    scratch.reference = command.reference
    // What lies in memory comes while the payload is hashed, and the held items while the key is looked for.
    core.slab.records.prefetch(command.reservation.slot)
    let identity = identity(.replace, command.scope)
    let locks = ShardPair(
      key: core.shardNumber(identity), hold: core.slab.owner(command.reservation.slot))
    core.shards[locks.key].prefetchUnlocked(identity)
    prefetchItems()
    let fingerprint = replaceFingerprint(command)
    lock(locks)
    defer { unlock(locks) }
    if locks.hold != nil { prefetchHeldItems(command.reservation.slot) }
    var mayFinish = true
    while true {
      if let slot = recorded(identity, locks.key) {
        return replay(
          slot, isSamePayload: core.slab[slot].fingerprint == fingerprint,
          accepted: recordedReplace)
      }
      if let refusal = reasonNotToReplace(command, locks, requester) {
        counters.refusedOther.add()
        return refusal
      }
      if let line = gatherHolds() {
        counters.refusedOther.add()
        return refuse(
          unknownItems(from: line), .replace, command.scope, identity, fingerprint, locks.key,
          name: scratch.lines[line].item)
      }
      gatherReplacement(command, locks)
      beginReplaced(command, identity, fingerprint, locks.key)
      switch commitReplacement() {
      case .refused(let refusal, _):
        if refusal.mayPassWithExpiry, scratch.hasBacklog, mayFinish {
          // As in `reserve`.
          mayFinish = false
          scratch.replacement.isReplacing = false
          unlock(locks)
          finishDueOfLines()
          lock(locks)
          continue
        }
        if case .itemNotFound = refusal {
          // As in `reserve`.
          scratch.replacement.isReplacing = false
          scratch.further.removeAll()
          continue
        }
        count(refusal)
        if core.fault == .replaceHalfway, case .insufficientStock = refusal {
          giveBack(command.reservation, locks)
        }
        return refuse(
          refusal, .replace, command.scope, identity, fingerprint, locks.key)
      case .committed(let lsn):
        keepReplacement(command, locks, lsn: lsn)
        recordReplace(command, identity, fingerprint, locks.key, lsn: lsn)
        counters.replaced.add()
        return accepted(command.reservation, replayed: false)
      }
    }
  }

  /// Why nothing is decided; nil where it can be. The shards are locked.
  private func reasonNotToReplace(
    _ command: ReplaceCommand, _ locks: ShardPair, _ requester: Requester
  ) -> Decision<ReservationView>? {
    func rejected(_ refusal: Refusal) -> Decision<ReservationView> {
      Decision(.refused(refusal), replayed: false, lsn: 0)
    }
    if let ttl = command.ttlNanoseconds, ttl > core.limits.holdNanosecondsMax {
      return rejected(.longerThanMaxHold)
    }
    guard let number = locks.hold else { return rejected(.reservationNotFound) }
    let id = command.reservation
    let useHash = core.keys.useHash(slot: id.slot, generation: id.generation)
    let found = withLockedReservation(id, number, useHash, toChangeBy: requester) {
      slot, state -> Decision<Void> in
      switch state {
      case .confirmed: return refused(.reservationConfirmed, slot)
      case .expired: return refused(.reservationExpired, slot)
      case .released: return refused(.reservationReleased, slot)
      case .held: break
      }
      let revision = core.slab[slot].revision
      if command.expectedRevision != 0, command.expectedRevision != revision,
        core.fault != .replaceAnyRevision
      {
        return refused(.revisionMismatch(current: revision), slot)
      }
      return Decision(.accepted(()), replayed: false, lsn: 0)
    }
    if case .refused(let refusal) = found.result {
      return Decision(.refused(refusal), replayed: false, lsn: found.lsn)
    }
    guard hasRoom(locks.key) else { return rejected(.tableFull(.reservations)) }
    if let unavailable { return rejected(.unavailable(unavailable)) }
    return nil
  }

  // MARK: What changes

  /// Fetches the items that the reservation in `slot` holds, if it is one. Its shard is locked.
  private func prefetchHeldItems(_ slot: UInt32) {
    guard core.slab[slot].kind == .held else { return }
    for index in 0..<core.slab[slot].lineCount {
      core.items.prefetch(core.slab[slot].line(index).item.ordinal)
    }
  }

  /// Turns the changes of `gatherHolds`, which take all that is wanted, into those between what is held and that.
  /// `scratch.replacement` gets the new lines, and how the hold goes on.
  private func gatherReplacement(_ command: ReplaceCommand, _ locks: ShardPair) {
    let slot = command.reservation.slot
    scratch.replacement.isReplacing = true
    scratch.replacement.lineCount = scratch.changes.count
    for index in 0..<scratch.changes.count {
      let change = scratch.changes[index]
      scratch.replacement.lines[index] = ViewLine(
        item: ItemHandle(ordinal: change.ordinal), quantity: change.heldChange)
    }
    for index in 0..<core.slab[slot].lineCount {
      let line = core.slab[slot].line(index)
      if let change = scratch.changes.index(line.item.ordinal) {
        scratch.changes[change].heldChange -= line.quantity
        scratch.changes[change].required = max(0, scratch.changes[change].heldChange)
      } else {
        scratch.changes.append(
          ItemChange(ordinal: line.item.ordinal, heldChange: -line.quantity))
      }
    }
    scratch.changes.removeUnchanged()
    takeLimits(of: slot)
    scratch.replacement.expiresAt = newEnd(slot, command.ttlNanoseconds)
    scratch.replacement.revision = core.slab[slot].revision + 1
  }

  /// When the hold ends from now on: as after an Extend that may not shorten.
  private func newEnd(_ slot: UInt32, _ ttlNanoseconds: Int64?) -> Int64 {
    let current = core.slab[slot].expiresAt
    guard let ttlNanoseconds else { return current }
    let latest = Timestamp(nanoseconds: core.slab[slot].createdAt)
      .advanced(byNanoseconds: core.limits.holdNanosecondsMax)
    let wanted = Timestamp(nanoseconds: now).advanced(byNanoseconds: ttlNanoseconds)
    return max(current, min(wanted, latest).nanoseconds)
  }

  /// Begins the journal's record; the lines come by what is read of the items.
  private func beginReplaced(
    _ command: ReplaceCommand, _ identity: Identity, _ fingerprint: UInt64, _ number: Int
  ) {
    guard core.log.isKeeping else { return }
    let next = core.shards[number].nextSlot()
    let replacement = scratch.replacement
    scratch.record.beginReplaced(
      command.reservation, revision: replacement.revision,
      createdAt: core.slab[command.reservation.slot].createdAt, time: now, slot: next.slot,
      generation: next.generation, fingerprint: fingerprint, expiresAt: replacement.expiresAt,
      lineCount: replacedLineCount, scope: command.scope)
    scratch.record.append(
      .reference,
      command.reference.count > 0
        ? command.reference : core.slab[command.reservation.slot].reference)
  }

  private func commitReplacement() -> CommitResult {
    if scratch.changes.count > 0 { return commit() }
    // The same units of the same items: no item is touched, and nobody can be in the way.
    if core.log.isKeeping { writeReplacedLines() }
    return .committed(lsn: appendRecord())
  }

  // MARK: What is kept of it

  /// The hold has its new lines.
  private func keepReplacement(_ command: ReplaceCommand, _ locks: ShardPair, lsn: UInt64) {
    guard let number = locks.hold else { preconditionFailure("a hold that is nowhere") }
    let slot = command.reservation.slot
    let replacement = scratch.replacement
    // What is staged names the items. Else a hold that ends when it did stays where it waits.
    let setsTimer =
      replacement.expiresAt != core.slab[slot].expiresAt || core.shards[number].wheel.isStaged(slot)
    if setsTimer { core.shards[number].wheel.remove(slot) }
    core.slab[slot].replaceLines(replacement.lineCount) { replacement.lines[$0] }
    core.slab[slot].expiresAt = replacement.expiresAt
    core.slab[slot].revision = replacement.revision
    core.slab[slot].lsn = lsn
    if command.reference.count > 0 { keepReference(slot, number) }
    if setsTimer { startTimer(slot, number) }
  }

  /// The key has its answer: the reservation as it is now. It is remembered from when the hold is to end, as its
  /// own key is.
  private func recordReplace(
    _ command: ReplaceCommand, _ identity: Identity, _ fingerprint: UInt64, _ number: Int,
    lsn: UInt64
  ) {
    let held = command.reservation.slot
    let slot = record(identity, fingerprint, lsn: lsn, number)
    core.slab[slot].setReplaced(
      command.reservation, expiresAt: core.slab[held].expiresAt,
      createdAt: core.slab[held].createdAt, revision: core.slab[held].revision,
      lineCount: scratch.replacement.lineCount
    ) { scratch.replacement.lines[$0] }
    // The answer has no limits: the reservation does.
    if let node = core.slab[held].referenceNode, node.isIndexed {
      core.slab[slot].referenceNode = ReferenceNode(node.text, hash: node.hash, slot: slot)
    }
    core.shards[number].appendEnded(slot)
  }

  /// The reservation that is recorded in `slot`, as a replay tells it.
  private func recordedReplace(_ slot: UInt32) -> ReservationView {
    scratch.viewCount = core.slab[slot].lineCount
    for index in 0..<core.slab[slot].lineCount { scratch.view[index] = core.slab[slot].line(index) }
    showReference(core.slab[slot].reference)
    let times = core.slab[slot].replacedTimes
    return ReservationView(
      id: core.slab[slot].replacedID, state: .held,
      createdAt: Timestamp(nanoseconds: times.createdAt),
      expiresAt: Timestamp(nanoseconds: times.expiresAt), endedAt: nil,
      revision: core.slab[slot].revision)
  }

  /// Of `DeliberateFault.replaceHalfway`.
  @inline(never)
  private func giveBack(_ id: ReservationID, _ locks: ShardPair) {
    guard let number = locks.hold else { return }
    scratch.replacement.isReplacing = false
    scratch.further.removeAll()
    gatherReturn(id.slot)
    beginRecord(.released, id.slot, id.tag)
    guard case .committed(let lsn) = commit(untilDone: true) else { return }
    end(id.slot, number, .released, at: now, lsn: lsn)
  }

  // MARK: The payload

  /// As that of Reserve; and the reservation, and the revision that is expected.
  private func replaceFingerprint(_ command: ReplaceCommand) -> UInt64 {
    var hasher = core.keys.replaceFingerprintHasher()
    let id = command.reservation
    hasher.absorb(UInt64(id.slot) << 32 | UInt64(id.generation))
    hasher.absorb(id.tag)
    absorbLines(&hasher)
    if scratch.reference.count > 0 { absorbReference(&hasher) }
    if command.expectedRevision > 0 {
      hasher.absorb(PayloadField.expectedRevision.rawValue)
      hasher.absorb(command.expectedRevision)
    }
    return hasher.finish(UInt64(bitPattern: command.ttlNanoseconds ?? 0))
  }

  // MARK: Two shards

  private func lock(_ pair: ShardPair) {
    core.shards[pair.first].lock.lock()
    if let second = pair.second { core.shards[second].lock.lock() }
  }

  private func unlock(_ pair: ShardPair) {
    if let second = pair.second { core.shards[second].lock.unlock() }
    core.shards[pair.first].lock.unlock()
  }
}

/// The shards of a key and of a reservation, which may be one. Whoever locks two locks the one with the lower
/// number first: nobody waits in a circle.
private struct ShardPair {
  let key: Int
  /// nil where the reservation's id names no slot.
  let hold: Int?

  var first: Int { min(key, hold ?? key) }
  var second: Int? { hold.flatMap { $0 == key ? nil : max($0, key) } }
}
