// A queue for each item, first come, first served (a ticket lock): a session takes the item's next ticket,
// waits until it is served, reads and writes, and calls the next. Several items: their queues one after
// the other, in the order of the items' numbers, so that nobody waits in a circle.
//
// Who has a ticket cannot leave: all behind would wait for ever. So nobody waits for a bounded time, but
// behind a bounded number: who finds `waitersMax` sessions before it, the one that is served included,
// takes no ticket. That counts as a conflict, and is tried again as any other. A session that is
// descheduled keeps all behind it waiting, even those that could run: the price of the order.

enum Queued: ConcurrencyStrategy {
  @inline(__always)
  static func attempt(_ kind: TransactionKind, _ session: StoreSession) -> Attempt {
    let changes = session.scratch.changes
    for position in 0..<changes.count {
      guard waitForTurn(changes.ordinal(lockedAt: position), session) else {
        session.counters.conflictsLocked.add()
        session.noteConflict(changes.ordinal(lockedAt: position))
        for served in 0..<position { callNext(changes.ordinal(lockedAt: served), session) }
        return .conflict
      }
    }
    let reading = session.read(kind)
    session.store.runDeliberateGap()
    let attempt = session.finish(reading, kind)
    for position in 0..<changes.count { callNext(changes.ordinal(lockedAt: position), session) }
    return attempt
  }

  /// False where the queue was too long to join.
  @inline(__always)
  private static func waitForTurn(_ ordinal: UInt32, _ session: StoreSession) -> Bool {
    guard let ticket = session.core.tables.queues[ordinal].takeTicket() else { return false }
    if session.core.tables.queues[ordinal].isServing(ticket) { return true }
    return session.wait(yieldsMax: .max) { session.core.tables.queues[ordinal].isServing(ticket) }
  }

  @inline(__always)
  private static func callNext(_ ordinal: UInt32, _ session: StoreSession) {
    session.core.tables.queues[ordinal].callNext()
  }
}
