// What is due when a store is opened.
package import Log
internal import Posix

extension StoreSession {
  /// Ends the holds that fell due while nobody was there, whatever their shards in the order in which
  /// they fell due, and makes that durable.
  package func expireAllDue() throws(JournalError) {
    guard let journal = store.journal else { return }
    scratch.now = store.clock.now().nanoseconds
    for number in 0..<core.shards.count { core.shards[number].wheel.stageDue(now) }
    while let number = shardOfNextDue() {
      if !core.log.isAdmitting { try journal.stepUntilDurable() }
      while !core.log.isAdmitting, try journal.stepMaintenance() {}
      // No room on the disk: the turns that follow go on with it.
      if !core.log.isAdmitting { return }
      core.shards[number].lock.lock()
      if let slot = core.shards[number].wheel.takeDue(now) { expire(slot, number) }
      core.workTimes[number] = core.shards[number].wheel.nextWork
      core.shards[number].lock.unlock()
    }
    try journal.stepUntilDurable()
  }

  /// The shard with the hold that fell due first; nil where none is due.
  private func shardOfNextDue() -> Int? {
    var first: Int?
    var time = now
    for number in 0..<core.shards.count {
      guard let due = core.shards[number].wheel.firstDue(now) else { continue }
      if first == nil || due < time {
        first = number
        time = due
      }
    }
    return first
  }

  /// The tables were recovered with so much in them: the store goes on counting from there.
  package func restoreCounts(
    items: Int, removedItems: Int, liveHolds: Int, recordedDecisions: Int
  ) {
    counters.items.add(items)
    counters.removedItems.add(removedItems)
    counters.liveHolds.add(liveHolds)
    counters.recordedDecisions.add(recordedDecisions)
  }
}
