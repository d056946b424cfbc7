// A queue for each item, first come, first served (a ticket lock): a session takes the item's next ticket,
// waits until it is served, reads and writes, and calls the next. Several items: their queues one after
// the other, in the order of the items' numbers, so that nobody waits in a circle.
//
// Who has a ticket cannot leave: all behind would wait for ever. So nobody waits for a bounded time, but
// behind a bounded number: who finds `waitersMax` sessions before it, the one that is served included,
// takes no ticket. That counts as a conflict, and is tried again as any other. A session that is
// descheduled keeps all behind it waiting, even those that could run: the price of the order.
internal import Synchronization

enum Queued: ConcurrencyStrategy {
  @inline(__always)
  static func attempt(_ kind: TransactionKind, _ session: StoreSession) -> Attempt {
    let changes = session.scratch.changes
    for position in 0..<changes.count {
      guard waitForTurn(changes.ordinal(lockedAt: position), session) else {
        session.counters.conflictsLocked.add()
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

/// One item's queue, 8 bytes. Zero bits are an empty one.
struct ItemQueue: ~Copyable {
  /// Sessions in a queue, at most: as many as a large machine has event loops.
  static let waitersMax = 64

  private let next: Atomic<UInt32>
  private let serving: Atomic<UInt32>

  /// - Parameter first: the first ticket's number.
  init(first: UInt32 = 0) {
    next = Atomic(first)
    serving = Atomic(first)
  }

  /// Sessions that have a ticket and have not ended their turn.
  var count: Int { Int(next.load(ordering: .relaxed) &- serving.load(ordering: .relaxed)) }

  /// nil where `waitersMax` are before it.
  @inline(__always)
  borrowing func takeTicket() -> UInt32? {
    var ticket = next.load(ordering: .relaxed)
    while true {
      // Both only move on: no more can be before us than this says, and where it is less than none,
      // `ticket` is not the next any more.
      let before = Int32(bitPattern: ticket &- serving.load(ordering: .relaxed))
      if before >= Self.waitersMax { return nil }
      let (exchanged, seen) = next.compareExchange(
        expected: ticket, desired: ticket &+ 1, ordering: .relaxed)
      if exchanged { return ticket }
      ticket = seen
    }
  }

  /// Whether it is the ticket's turn; acquires what the one before has written.
  @inline(__always)
  borrowing func isServing(_ ticket: UInt32) -> Bool {
    serving.load(ordering: .acquiring) == ticket
  }

  /// Ends the turn of the ticket that is served. Its holder only.
  @inline(__always)
  borrowing func callNext() {
    serving.store(serving.load(ordering: .relaxed) &+ 1, ordering: .releasing)
  }
}
