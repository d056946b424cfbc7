// AdjustStock: on hand, committed or safety stock of an item changes, and an item that is unknown is made.
//
// On hand does not fall below what is held and committed, unless the command allows it: then the shelf is what it is,
// and available is below zero by what is owed. Where it is below already, it may rise as little as it will, and what
// was sold may be shipped. It never falls below zero.
internal import Bytes
internal import Log

extension StoreSession {
  /// Changes the stock of one item, and makes the item if it is unknown.
  /// - Returns: the balances right after; or `insufficientStock` (on hand would fall below what is held and
  ///   committed), `insufficientCommitted`, `itemNotFound` (units are taken of an unknown item),
  ///   `onHandLimit` (all four recorded), `versionMismatch`, `onHandMismatch`, `conflictTooBusy`,
  ///   `idempotencyKeyReused`, `tableFull`, `unavailable`.
  package func adjust(_ command: AdjustCommand) -> Decision<StockLevel> {
    assertInTurn()
    scratch.lineCount = 0
    scratch.further.removeAll()
    let hash = core.keys.itemHash(command.item)
    if scratch.hasBacklog, let ordinal = core.find(command.item, hash) { finishDueToShow(ordinal) }
    let identity = identity(.adjust, command.scope)
    let fingerprint = adjustFingerprint(command, hash)
    let number = core.shardNumber(identity)
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }

    if let slot = recorded(identity, number) {
      return replay(slot, isSamePayload: core.slab[slot].fingerprint == fingerprint) {
        core.slab[$0].adjusted
      }
    }
    guard hasRoom(number) else {
      return Decision(.refused(.tableFull(.reservations)), replayed: false, lsn: 0)
    }
    if let unavailable {
      return Decision(.refused(.unavailable(unavailable)), replayed: false, lsn: 0)
    }
    scratch.changes.removeAll()
    let ordinal: UInt32
    if let known = core.find(command.item, hash) {
      ordinal = known
    } else {
      switch reasonNotToMake(command) {
      case .itemNotFound:
        return refuse(
          .itemsNotFound(first: 0, places: 1), .adjust, command.scope, identity, fingerprint,
          number, name: command.item)
      case let refusal?:
        return Decision(
          .refused(refusal), replayed: false, lsn: removalLSN(command.item, hash))
      case nil: break
      }
      guard let made = takeName(command.item, hash) else {
        return Decision(.refused(.tableFull(.items)), replayed: false, lsn: 0)
      }
      ordinal = made
    }
    return adjust(ordinal, command, identity, fingerprint, number)
  }

  private func adjust(
    _ ordinal: UInt32, _ command: AdjustCommand, _ identity: Identity, _ fingerprint: UInt64,
    _ number: Int
  ) -> Decision<StockLevel> {
    let next: (slot: UInt32, generation: UInt32) =
      core.log.isKeeping ? core.shards[number].nextSlot() : (0, 0)
    scratch.changes.append(ItemChange(ordinal: ordinal))
    scratch.adjustment.command = command
    scratch.adjustment.removes = false
    scratch.adjustment.fingerprint = fingerprint
    (scratch.adjustment.slot, scratch.adjustment.generation) = next
    switch commitAdjustment() {
    case .committed(let lsn):
      let level = scratch.adjustment.after
      let slot = record(identity, fingerprint, lsn: lsn, number)
      assert(!core.log.isKeeping || scratch.record.slot == slot, "another slot than was written")
      core.slab[slot].kind = .adjusted
      core.slab[slot].adjusted = level
      core.slab[slot].endedAt = now
      core.shards[number].appendEnded(slot)
      counters.adjustments.add()
      return Decision(.accepted(level), replayed: false, lsn: lsn)
    case .refused(let refusal, let lsn):
      switch refusal {
      case .versionMismatch, .onHandMismatch:
        return Decision(.refused(refusal), replayed: false, lsn: lsn)
      default: break
      }
      // A refusal's record has no lines.
      scratch.changes.removeAll()
      if case .itemNotFound = refusal {
        return refuse(
          .itemsNotFound(first: 0, places: 1), .adjust, command.scope, identity, fingerprint,
          number, name: command.item)
      }
      return refuse(refusal, .adjust, command.scope, identity, fingerprint, number)
    }
  }

  /// Why an item that is unknown is not made by this change; nil where it is.
  func reasonNotToMake(_ command: AdjustCommand) -> Refusal? {
    switch command.check {
    case .version(let version) where version > 0: return .versionMismatch(current: 0)
    case .onHand(let onHand) where onHand != 0: return .onHandMismatch(current: 0)
    default: return command.change.needsItem ? .itemNotFound(line: 0) : nil
    }
  }

  /// Puts the name into the index, if it is not there yet: its record, at version 0 until the first
  /// commit; nil where the table is full.
  func takeName(_ name: ItemName, _ hash: UInt64) -> UInt32? {
    core.index.lock(hash)
    defer { core.index.unlock(hash) }
    if let ordinal = core.index.find(hash, { core.items.hasName($0, name) }) { return ordinal }
    guard let ordinal = core.items.add(name) else { return nil }
    if let old = core.index.insert(hash, ordinal) { epochs.retire(old) }
    return ordinal
  }

  /// Two payloads are the same if all fields are, as they were sent. A field that is newer than others is hashed
  /// where it is set, and not at all where it is not: what was recorded before stays the same payload.
  private func adjustFingerprint(_ command: AdjustCommand, _ itemHash: UInt64) -> UInt64 {
    var hasher = core.keys.fingerprintHasher()
    absorbChange(command, itemHash, &hasher)
    unsafe hasher.absorb(bytes: command.reason.pointer)
    return hasher.finish(UInt64(command.reason.count))
  }

  /// All but the reason.
  func absorbChange(_ command: AdjustCommand, _ itemHash: UInt64, _ hasher: inout SipHasher) {
    hasher.absorb(itemHash)
    switch command.change {
    case .none: hasher.absorb(0)
    case .delta(let delta):
      hasher.absorb(1)
      hasher.absorb(UInt64(bitPattern: delta))
    case .setOnHand(let onHand):
      hasher.absorb(2)
      hasher.absorb(UInt64(bitPattern: onHand))
    case .ship(let units):
      hasher.absorb(3)
      hasher.absorb(UInt64(bitPattern: units))
    case .uncommit(let units):
      hasher.absorb(4)
      hasher.absorb(UInt64(bitPattern: units))
    }
    // A word that says whether the next is there, so that nil is told from any number.
    hasher.absorb(command.safetyStock == nil ? 0 : 1)
    hasher.absorb(UInt64(bitPattern: command.safetyStock ?? 0))
    let count = UInt64(command.reference.count)
    let newer =
      (command.allowsShortage ? 1 << 8 : 0) | (command.sale == nil ? 0 : 1 << 9) | count << 16
    switch command.check {
    case .none:
      hasher.absorb(newer | 0)
      hasher.absorb(0)
    case .version(let version):
      hasher.absorb(newer | 1)
      hasher.absorb(version)
    case .onHand(let onHand):
      hasher.absorb(newer | 2)
      hasher.absorb(UInt64(bitPattern: onHand))
    }
    if let sale = command.sale {
      hasher.absorb(sale.fromWord)
      hasher.absorb(sale.untilWord)
      hasher.absorb(UInt64(sale.lowBits))
    }
    if count > 0 { unsafe hasher.absorb(bytes: command.reference.pointer) }
  }
}
