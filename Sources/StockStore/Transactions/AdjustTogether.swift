// BatchAdjustStock: several items are adjusted in one commit, all or none, under one key. Each change is what
// AdjustStock makes of it alone; the first that cannot be made is why none is.
//
// Items that are unknown are looked for first, before anything is locked. What an item lacks is seen in the commit.
internal import Bytes
internal import Log

extension StoreSession {
  /// What became of a change that was to be appended.
  package enum AppendedChange: Equatable {
    case appended
    /// There are 64.
    case full
    /// The names of all are longer than StoreLimits.adjustedNameBytesMax together.
    case namesTooLong
    /// Another change is of the same item.
    case sameItem
  }

  /// Empties the changes for the next `adjustTogether` or `importRows`.
  package func clearChanges() { scratch.group.removeAll() }

  /// Adds a change; its scope, reference and reason are those of all. What it borrows must stay until the command has
  /// returned.
  package func appendChange(_ command: AdjustCommand) -> AppendedChange {
    let lines = min(core.limits.linesPerReservation, StoreLimits.linesMax)
    if scratch.group.count >= lines { return .full }
    let hash = core.keys.itemHash(command.item)
    if scratch.group.index(command.item, hash) != nil { return .sameItem }
    guard scratch.group.hasRoom(for: command.item, lines: lines) else { return .namesTooLong }
    core.index.prefetch(hash)
    scratch.group.append(command, hash: hash)
    return .appended
  }

  /// Makes the changes that were appended, one at least.
  /// - Returns: how many balances `changedLevel` has; or what `adjust` answers to the first change that cannot be made,
  ///   which is `refusedChange`. Of several, those of unknown items come first. Recorded are the same.
  package func adjustTogether(_ command: BatchAdjustCommand) -> Decision<Int> {
    assertInTurn()
    scratch.lineCount = 0
    scratch.viewLevelCount = 0
    scratch.further.removeAll()
    scratch.reference = command.reference
    if scratch.hasBacklog { finishDueOfGroup() }
    let identity = identity(.adjustTogether, command.scope)
    let fingerprint = groupFingerprint(command)
    let number = core.shardNumber(identity)
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }

    if let slot = recorded(identity, number) {
      let decision = replay(
        slot, isSamePayload: core.slab[slot].fingerprint == fingerprint, accepted: showLevels)
      if decision.replayed { scratch.group.refused = core.slab[slot].refusal.flatMap(changeOf) }
      return namingChange(decision)
    }
    guard hasRoom(number) else {
      return Decision(.refused(.tableFull(.reservations)), replayed: false, lsn: 0)
    }
    if let unavailable {
      return Decision(.refused(.unavailable(unavailable)), replayed: false, lsn: 0)
    }
    while true {
      switch gatherGroup() {
      case .itemNotFound(let change):
        return namingChange(
          refuse(
            .itemsNotFound(first: change, places: 1 << UInt64(change)), .adjustTogether,
            command.scope, identity, fingerprint, number, name: scratch.group[change].command.item))
      case let refusal?:
        let lsn = scratch.group.refused.map {
          removalLSN(scratch.group[$0].command.item, scratch.group[$0].hash)
        }
        return Decision(.refused(refusal), replayed: false, lsn: lsn ?? 0)
      case nil: break
      }
      // nil: an item was removed since its name was looked up.
      if let decision = commitGroup(command, identity, fingerprint, number) { return decision }
      scratch.group.refused = nil
    }
  }

  /// Balances of the last `adjustTogether`, from 0 to as many as it answered, in the order of its changes.
  package func changedLevel(_ index: Int) -> StockLevel {
    precondition(index >= 0 && index < scratch.viewLevelCount, "no such balances")
    return scratch.viewLevels[index]
  }

  /// The change that the refusal of the last `adjustTogether` is about; nil where it is about none.
  package var refusedChange: Int? { scratch.group.refused }

  /// The item of a change, from 0. Good as long as the bytes that the change borrowed.
  package func item(ofChange index: Int) -> ItemName { scratch.group[index].command.item }

  // MARK: The steps

  func finishDueOfGroup() {
    for index in 0..<scratch.group.count {
      let adjustment = scratch.group[index]
      if let ordinal = core.find(adjustment.command.item, adjustment.hash) {
        finishDueToShow(ordinal)
      }
    }
  }

  /// Puts the items into the write set, and takes names for those that are to be made; or why not.
  private func gatherGroup() -> Refusal? {
    scratch.changes.removeAll()
    for index in 0..<scratch.group.count {
      let adjustment = scratch.group[index]
      guard core.find(adjustment.command.item, adjustment.hash) == nil,
        let refusal = reasonNotToMake(adjustment.command)
      else { continue }
      scratch.group.refused = index
      return refusal == .itemNotFound(line: 0) ? .itemNotFound(line: index) : refusal
    }
    for index in 0..<scratch.group.count {
      let adjustment = scratch.group[index]
      let name = adjustment.command.item
      guard let ordinal = core.find(name, adjustment.hash) ?? takeName(name, adjustment.hash) else {
        scratch.group.refused = index
        return .tableFull(.items)
      }
      scratch.group[index].place = index
      scratch.changes.append(ItemChange(ordinal: ordinal))
    }
    return nil
  }

  private func commitGroup(
    _ command: BatchAdjustCommand, _ identity: Identity, _ fingerprint: UInt64, _ number: Int
  ) -> Decision<Int>? {
    scratch.group.scope = command.scope
    scratch.group.reason = command.reason
    scratch.group.reference = command.reference
    scratch.group.fingerprint = fingerprint
    if core.log.isKeeping {
      (scratch.group.slot, scratch.group.generation) = core.shards[number].nextSlot()
    }
    switch commitAdjustments() {
    case .committed(let lsn):
      let slot = record(identity, fingerprint, lsn: lsn, number)
      assert(!core.log.isKeeping || scratch.record.slot == slot, "another slot than was written")
      core.slab[slot].setAdjustedTogether(scratch.group.count) { scratch.group[$0].after }
      core.slab[slot].endedAt = now
      core.shards[number].appendEnded(slot)
      counters.adjustments.add(scratch.group.count)
      return Decision(.accepted(showLevels(slot)), replayed: false, lsn: lsn)
    case .refused(let refusal, let lsn):
      switch refusal {
      case .versionMismatch, .onHandMismatch:
        return Decision(.refused(refusal), replayed: false, lsn: lsn)
      case .itemNotFound: return nil
      case .conflictTooBusy: scratch.group.refused = nil
      default: break
      }
      // A refusal's record has no lines.
      scratch.changes.removeAll()
      return refuse(refusal, .adjustTogether, command.scope, identity, fingerprint, number)
    }
  }

  /// The balances that are recorded in `slot`, for `changedLevel`: the record may go once its shard is unlocked.
  private func showLevels(_ slot: UInt32) -> Int {
    let count = core.slab[slot].levelCount
    for index in 0..<count { scratch.viewLevels[index] = core.slab[slot].level(index) }
    scratch.viewLevelCount = count
    return count
  }

  /// An unknown item is named by its change.
  private func namingChange(_ decision: Decision<Int>) -> Decision<Int> {
    guard case .refused(.itemNotFound) = decision.result, let change = scratch.group.refused else {
      return decision
    }
    return Decision(
      .refused(.itemNotFound(line: change)), replayed: decision.replayed, lsn: decision.lsn)
  }

  /// Which change of this payload a recorded refusal is about.
  private func changeOf(_ refusal: RecordedRefusal) -> Int? {
    switch refusal {
    case .itemsNotFound(let first, _): first
    case .lineNotFound(let line): line
    case .onHandLimit(let change): change
    case .insufficientStock(let item, _, _), .insufficientCommitted(let item, _, _),
      .limitExceeded(let item, _, _), .notOnSale(let item, _), .itemNotEmpty(let item, _, _, _):
      (0..<scratch.group.count).first {
        core.findRecord(scratch.group[$0].command.item, scratch.group[$0].hash) == item.ordinal
      }
    }
  }

  /// Two payloads are the same if all changes are, in their order, and reason and reference.
  private func groupFingerprint(_ command: BatchAdjustCommand) -> UInt64 {
    var hasher = core.keys.fingerprintHasher()
    for index in 0..<scratch.group.count {
      absorbChange(scratch.group[index].command, scratch.group[index].hash, &hasher)
    }
    hasher.absorb(UInt64(scratch.group.count) | UInt64(command.reference.count) << 32)
    unsafe hasher.absorb(bytes: command.reference.pointer)
    unsafe hasher.absorb(bytes: command.reason.pointer)
    return hasher.finish(UInt64(command.reason.count))
  }
}
