// Housekeeping at the beginning of a turn: holds that are due end, and decisions past their retention
// are forgotten.
internal import Log

extension StoreSession {
  /// Decisions that a turn forgets at most, besides two for each one recorded since the last.
  private static let collectMin = 64

  /// Ends every hold that is due at this turn's time: no command of the turn meets one.
  @inline(__always)
  func expireDue() {
    for number in 0..<core.shards.count where core.dueTimes[number] <= now { expireDue(number) }
  }

  @inline(never)
  private func expireDue(_ number: Int) {
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }
    core.shards[number].wheel.advance(now)
    while core.shards[number].wheel.hasDue(now) {
      // No room for the record of it: it stays, and nothing is changed before it has ended.
      if !core.log.isAdmitting {
        scratch.unavailable = core.log.reason
        return
      }
      if let slot = core.shards[number].wheel.takeDue(now) { expire(slot, number) }
    }
    core.dueTimes[number] = core.shards[number].wheel.nextDue
  }

  /// Ends the due hold in `slot`, at the time when it fell due. The caller holds the shard's lock.
  func expire(_ slot: UInt32, _ number: Int) {
    let expiresAt = core.slab[slot].expiresAt
    gatherReturn(slot)
    if core.log.isJournaled { beginRecord(.expired, slot, core.idTag(slot), value: expiresAt) }
    guard case .committed(let lsn) = commit(untilDone: true) else {
      preconditionFailure("nothing was required, and there was no last attempt")
    }
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
