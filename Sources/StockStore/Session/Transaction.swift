// What a command does to the items of `scratch.changes`: it reads them and decides, then it writes. All that
// it needs lies in the session's scratch, so that another session's thread can do it as well (SingleWriter).
internal import Log
internal import Synchronization

/// What reading the items has shown.
enum Reading {
  /// They can be written as they were read.
  case writable
  /// Nothing is to be written, because of what was read of the change at `index`; as in CommitResult.
  case refused(Refusal, lsn: UInt64, index: Int)
  /// Somebody kept an item locked for long.
  case conflict
}

extension StoreSession {
  /// Reads every item, decides, and completes the journal's record by it. What was read is consistent, and
  /// the refusal true, if the words (`scratch.changes`) are still the same after.
  @inline(__always)
  func read(_ kind: TransactionKind) -> Reading {
    switch kind {
    case .writeSet: readWriteSet()
    case .adjustment: readAdjustment()
    case .adjustments: readAdjustments()
    }
  }

  /// Writes what was read as `writable`, and unlocks. The items' words are locked: the log sequence number
  /// is taken now.
  @inline(__always)
  func write(_ kind: TransactionKind) -> CommitResult {
    let lsn = appendRecord()
    apply(kind, lsn: lsn)
    return .committed(lsn: lsn)
  }

  /// `write` with a number that was taken already.
  @inline(__always)
  func apply(_ kind: TransactionKind, lsn: UInt64) {
    switch kind {
    case .writeSet:
      if scratch.changes.limits.count > 0 { applyLimits(lsn: lsn) }
      for index in 0..<scratch.changes.count {
        store(scratch.changes[index], lsn: lsn)
        unlock(scratch.changes[index].ordinal, scratch.changes[index].word)
      }
    case .adjustment: applyAdjustment(lsn: lsn)
    case .adjustments: applyAdjustments(lsn: lsn)
    }
  }

  /// What comes after `read` where nobody else can write any of the items, nor could since they were read.
  @inline(__always)
  func finish(_ reading: Reading, _ kind: TransactionKind) -> Attempt {
    switch reading {
    case .conflict: return .conflict
    case .refused(let refusal, let lsn, _): return .done(.refused(refusal, lsn: lsn))
    case .writable:
      lockAll()
      return .done(write(kind))
    }
  }

  @inline(__always)
  private func readWriteSet() -> Reading {
    for index in 0..<scratch.changes.count {
      let ordinal = scratch.changes[index].ordinal
      guard let word = unlockedWord(ordinal) else { return .conflict }
      scratch.changes[index].word = word
      let (before, hasSaleWindow) = core.items[ordinal].balancesAndSale
      scratch.changes[index].before = before
      if hasSaleWindow, let refusal = saleRefusal(index) {
        return refuseAll(from: index, refusal) { saleRefusal($0) }
      }
      if let lack = scratch.changes[index].lack, isRefused(index) {
        return refuseLacks(from: index, lack.requested, available: lack.available)
      }
    }
    if scratch.changes.limits.count > 0, let refused = readLimits() { return refused }
    writeLines()
    return .writable
  }

  /// Whether what the change at `index` lacks stops it.
  @inline(never)
  func isRefused(_ index: Int) -> Bool {
    if scratch.alternatives.takesLess, takeWhatIsAvailable(index) { return false }
    guard core.fault == .offerCommitted else { return true }
    let change = scratch.changes[index]
    return change.before.available + change.before.committed < change.required
  }

  /// Refuses for lack of units of the change at `first`, and names all behind it that lack some.
  @inline(never)
  private func refuseLacks(from first: Int, _ requested: Int64, available: Int64) -> Reading {
    if isRemoved(first) { return .refused(.itemNotFound(line: 0), lsn: 0, index: first) }
    let least = scratch.alternatives.takesLess ? shortage(first)?.requested : nil
    return refuseAll(
      from: first, lackRefusal(first, least ?? requested, available: available)
    ) { index in
      shortage(index).map { lackRefusal(index, $0.requested, available: $0.available) }
    }
  }

  /// Whether the item of the change at `index`, which was looked up by its name, has been removed since: whoever asked
  /// looks again. Whoever takes units of an expired hold again finds that there are none.
  private func isRemoved(_ index: Int) -> Bool {
    scratch.changes[index].heldChange > 0 && ItemWord.isRemoved(scratch.changes[index].word)
  }

  private func lackRefusal(_ index: Int, _ requested: Int64, available: Int64) -> Refusal {
    .insufficientStock(
      item: ItemHandle(ordinal: scratch.changes[index].ordinal), requested: requested,
      available: available)
  }

  /// Why the change at `index` may not have more units of its item, which was read, at this time; nil where it may, or
  /// takes none: what is held already is nobody else's, whatever becomes of the sale.
  @inline(never)
  private func saleRefusal(_ index: Int) -> Refusal? {
    let ordinal = scratch.changes[index].ordinal
    guard scratch.changes[index].required > 0, core.items[ordinal].balancesAndSale.hasSaleWindow
    else { return nil }
    let window = core.items.sale(ordinal)
    if window.admits(now) { return nil }
    switch core.fault {
    case .sellUntilIncluded where window.admits(now - 1): return nil
    case .replaceFrozen where window.isFrozen && scratch.replacement.isReplacing: return nil
    default: return .notOnSale(item: ItemHandle(ordinal: ordinal), window)
    }
  }

  /// Refuses because of the change at `first`, and names all behind it that are to be refused for the same reason. What
  /// was read of these stood at the moment at which the last was read; the caller sees to the first.
  @inline(never)
  private func refuseAll(
    from first: Int, _ refusal: Refusal, alike: (_ index: Int) -> Refusal?
  ) -> Reading {
    let others = (first + 1)..<scratch.changes.count
    scratch.further.removeAll()
    for index in others {
      let ordinal = scratch.changes[index].ordinal
      guard let word = unlockedWord(ordinal) else {
        scratch.further.removeAll()
        return .conflict
      }
      scratch.changes[index].word = word
      scratch.changes[index].before = core.items[ordinal].balances
      if isRemoved(index) {
        scratch.further.removeAll()
        return .refused(.itemNotFound(line: 0), lsn: 0, index: index)
      }
      if let other = alike(index) { scratch.further.append(other) }
    }
    for index in others {
      guard isUnchanged(scratch.changes[index].ordinal, scratch.changes[index].word) else {
        scratch.further.removeAll()
        return .conflict
      }
    }
    return .refused(refusal, lsn: 0, index: first)
  }

  /// Puts what becomes of the items into the journal's record, by what was read: ahead of the locks.
  @inline(__always)
  func writeLines() {
    guard core.log.isKeeping else { return }
    // Only now: a hold that is refused needs no such record, and most are where stock has run out.
    if let hold = scratch.holdToRecord {
      scratch.record.beginHeld(
        time: now, slot: hold.slot, generation: hold.generation, fingerprint: hold.fingerprint,
        expiresAt: hold.expiresAt, lineCount: scratch.changes.count, scope: hold.scope)
      if scratch.reference.count > 0 { scratch.record.append(.reference, scratch.reference) }
      if scratch.limits.count > 0 { scratch.record.append(.limits, scratch.limitText.bytes) }
      if scratch.alternatives.isAsked { writeChoice() }
    }
    if scratch.replacement.isReplacing { return writeReplacedLines() }
    var tellsCommitted = scratch.record.tellsCommitted
    for index in 0..<scratch.changes.count {
      let change = scratch.changes[index]
      scratch.record.setLine(
        index, ordinal: change.ordinal,
        quantity: scratch.record.kind == .confirmed ? change.sold : abs(change.heldChange),
        version: change.word >> 1 + 1, onHand: change.before.onHand + change.onHandChange,
        held: change.before.held + change.heldChange)
      if change.before.committed | change.committedChange != 0 { tellsCommitted = true }
    }
    if tellsCommitted {
      scratch.record.setCommitted(lineCount: scratch.changes.count) {
        scratch.changes[$0].after.committed
      }
    }
  }

  /// Stores the balances of an item that the caller has locked.
  @inline(__always)
  func store(_ change: ItemChange, lsn: UInt64) {
    if change.breaksInvariants { counters.invariantViolations.add() }
    var after = change.after.clamped
    if change.committedChange > 0, core.fault == .giveCommittedBack {
      after.committed = change.before.committed
    }
    core.items[change.ordinal].store(after)
    core.items[change.ordinal].lsn.store(lsn, ordering: .releasing)
  }
}
