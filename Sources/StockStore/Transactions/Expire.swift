// Housekeeping at the beginning of a turn: holds that are due end, and decisions past their retention
// are forgotten.
//
// A hold ends at `expiresAt` for every answer. The sweep ends it in its journal, some each turn, so that
// no call waits for a million of them. As long as some may be left (`hasBacklog`), the commands see to it:
//   - a command that names a hold, by id or by key, ends that one first, if it is due;
//   - a command that lacks units, or shows balances, first ends what is due of its items (`finishDue`),
//     and is decided after that;
//   - a command for which a shard has no room first ends one that is due there (`hasRoom`).
// What is left can be seen in nothing else. The record of an expiry stands before that of whatever
// depended on it, since it was made before, under the same locks.
internal import Log
package import Posix
internal import Synchronization

extension StoreSession {
  /// Decisions that a turn forgets at most, besides two for each one recorded since the last.
  private static let collectMin = 64
  /// Holds that are ended or moved on under one lock: others wait for it a few dozen microseconds.
  private static let sweepMax = 64
  /// While so many bytes are on their way to the disk, the sweep does little: the calls' records must not
  /// wait behind it.
  private static let waitingBytesMax: UInt64 = 256 << 10
  private static let sweepMinWhileWaiting = 16

  /// More holds are due, or are to be moved, than this turn has got to: the next should come soon.
  package var hasBacklog: Bool { scratch.hasBacklog }

  /// Begins a turn: reads the clock, ends holds that are due by then, at most so many, and forgets some of
  /// what nobody need remember any more. The time of every command until `endTurn`.
  package func beginTurn() -> Timestamp {
    let now = enterTurn()
    expireDue()
    collectForgotten()
    if epochs.hasRetired { store.collectRetired() }
    return now
  }

  // MARK: The sweep

  /// Ends holds that are due at this turn's time.
  @inline(__always)
  func expireDue() {
    scratch.hasBacklog = false
    for number in 0..<core.shards.count where core.workTimes[number] <= now { return sweep() }
  }

  /// Does what is to be done in the shards' wheels, up to a budget. One session at a time: the others
  /// have calls to answer.
  @inline(never)
  private func sweep() {
    scratch.hasBacklog = true
    scratch.hasStagedDue = false
    guard core.sweep[0].lock.tryLock() else { return }
    defer { core.sweep[0].lock.unlock() }
    var budget = sweepBudget
    for _ in 0..<core.shards.count {
      let number = core.sweep[0].nextShard
      core.sweep[0].nextShard = (number + 1) & (core.shards.count - 1)
      while core.workTimes[number] <= now {
        guard budget > 0, core.log.isAdmitting else { return }
        budget -= max(1, sweep(number, max: min(budget, Self.sweepMax)))
      }
    }
    scratch.hasBacklog = (0..<core.shards.count).contains { core.workTimes[$0] <= now }
  }

  /// More than comes in, so that what is left grows less, whatever the limit.
  private var sweepBudget: Int {
    if core.fault == .starveExpiry { return 0 }
    let budget = core.limits.expiriesPerTurn + 2 * scratch.recordedSinceCollect
    // In memory everything counts as durable, whatever its number.
    let (last, durable) = (core.log.last, core.log.durable)
    let isBehind = core.log.isKeeping && last > durable && last - durable > Self.waitingBytesMax
    return isBehind ? min(budget, Self.sweepMinWhileWaiting) : budget
  }

  /// Moves and ends holds of one shard: how many.
  private func sweep(_ number: Int, max: Int) -> Int {
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }
    var done = core.shards[number].wheel.advance(now, max: max)
    // Without room for the record of its end, a hold stays.
    while done < max, core.log.isAdmitting, let slot = core.shards[number].wheel.takeDue(now) {
      expire(slot, number)
      done += 1
    }
    core.workTimes[number] = core.shards[number].wheel.nextWork
    return done
  }

  // MARK: Ahead of the sweep

  /// Ends all that is due of an item. The caller holds no lock, and its changes are lost.
  @inline(never)
  func finishDue(_ ordinal: UInt32) {
    if !scratch.hasStagedDue { stageDue() }
    while let slot = core.dues.firstDue(ordinal, now), let number = core.slab.owner(slot) {
      core.shards[number].lock.lock()
      endIfDue(slot, number)
      core.shards[number].lock.unlock()
      if scratch.unavailable != nil { return }
    }
  }

  /// The same for all items that the command's lines name.
  @inline(never)
  func finishDueOfLines() {
    if core.fault == .refuseBeforeExpiry { return }
    for line in 0..<scratch.lineCount {
      if let ordinal = ordinal(line: line) { finishDue(ordinal) }
    }
  }

  /// The same for all items of `changes`.
  @inline(never)
  func finishDueOfChanges() {
    if core.fault == .refuseBeforeExpiry { return }
    // What ends has changes of its own. A command that was refused shows no lines.
    let count = scratch.changes.count
    for index in 0..<count {
      scratch.view[index] = ViewLine(
        item: ItemHandle(ordinal: scratch.changes[index].ordinal), quantity: 0)
    }
    for index in 0..<count { finishDue(scratch.view[index].item.ordinal) }
  }

  /// Ends what is due of an item before its balances are shown.
  @inline(never)
  func finishDueToShow(_ ordinal: UInt32) {
    if core.fault != .showDueHolds { finishDue(ordinal) }
  }

  /// What is due is found by its items once it is staged. It is, long before, unless time has leapt.
  private func stageDue() {
    for number in 0..<core.shards.count {
      core.shards[number].lock.lock()
      core.shards[number].wheel.stageDue(now)
      core.shards[number].lock.unlock()
    }
    scratch.hasStagedDue = true
  }

  /// Ends the hold in `slot`, if it is one and is due. Where that cannot be recorded, nothing is changed in
  /// this turn. The caller holds the shard's lock.
  @inline(never)
  func endIfDue(_ slot: UInt32, _ number: Int) {
    guard core.slab[slot].isDue(dueTime) else { return }
    if let unavailable { scratch.unavailable = unavailable } else { expire(slot, number) }
  }

  /// Ends the hold of the shard that fell due first; false where none is due. Likewise.
  @inline(never)
  func endFirstDue(_ number: Int) -> Bool {
    core.shards[number].wheel.stageDue(now)
    guard core.shards[number].wheel.firstDue(now) != nil else { return false }
    if let unavailable {
      scratch.unavailable = unavailable
      return true
    }
    guard let slot = core.shards[number].wheel.takeDue(now) else { return false }
    expire(slot, number)
    return true
  }

  /// Ends the due hold in `slot`, at the time when it fell due. The caller holds the shard's lock.
  func expire(_ slot: UInt32, _ number: Int) {
    let expiresAt = core.slab[slot].expiresAt
    gatherReturn(slot)
    if core.fault == .limitKeptByExpired { scratch.changes.limits.removeAll() }
    if core.log.isKeeping { beginRecord(.expired, slot, core.idTag(slot), value: expiresAt) }
    guard case .committed(let lsn) = commit(untilDone: true) else {
      preconditionFailure("nothing was required, and there was no last attempt")
    }
    if store.hasExpiryObserver.load(ordering: .relaxed) { store.observeExpiry(core.id(slot), lsn) }
    end(slot, number, .expired, at: expiresAt, lsn: lsn)
    let lag = max(0, now - expiresAt)
    counters.expired.add()
    counters.expiryLagNanosecondsSum.add(Int(lag))
    counters.expiryLagNanosecondsMax.raise(to: lag)
  }

  /// Forgets decisions past their retention, a few each turn, one shard after the other.
  @inline(__always)
  func collectForgotten() {
    var budget = Self.collectMin + scratch.recordedSinceCollect * 2
    scratch.recordedSinceCollect = 0
    while budget > 0 {
      let number = scratch.collectShard
      scratch.collectShard = (number + 1) & (core.shards.count - 1)
      let forgotten = forgetEnded(number, max: budget)
      if forgotten == 0 { return }
      budget -= forgotten
    }
  }

  private func forgetEnded(_ number: Int, max: Int) -> Int {
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }
    var forgotten = 0
    while forgotten < max, let slot = core.shards[number].ended.first, isPastRetention(slot) {
      forget(slot, number)
      forgotten += 1
    }
    return forgotten
  }
}
