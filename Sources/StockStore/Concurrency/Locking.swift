// Pessimistic locking, with leases and fencing tokens:
//   1. take the lock of each item, in the order of the items' numbers; wait for those that are held;
//   2. read the balances, and decide;
//   3. seal each lock, in the same order: one compare-and-swap from (token, held) to (token, sealed);
//   4. write, and free the locks.
//
// A grant is a lease. Whoever has waited for one and the same grant for `leaseNanoseconds` takes the lock
// over with the next token: its holder was descheduled, or is stuck, and must not stop the others. The
// lease is counted from when the waiter first saw the grant, so that who finds a lock free reads no clock,
// and the holder has at least its lease. It may come back at any moment and know of nothing. Then it is
// fenced off: its compare-and-swap fails, it frees what it has, and begins again with another grant.
//
// Why nothing that is stale is ever written. Only who has sealed a lock writes the item. A sealed lock is
// never granted to anybody, so of all writers of an item there is one at a time, and the next one's grant
// acquires what the last one's freeing released. Tokens only grow, one with every grant: as long as a lock
// says (t, held), nobody was granted it since t was, so nobody sealed it, so the item is as it was. A
// seal that succeeds says just that for the whole time since the grant, in which the reading lies: the
// reads are ordered after the grant (acquire) and before the seal (release). A refusal is sealed too before
// it is given: it tells of what was read.
//
// Several items: all are read before the first seal, and no item that is sealed changes until it is freed.
// At the moment of the last seal, therefore, all are as they were read, and the log sequence number, taken
// after it, puts the commit where it happened. Where one seal fails, those before are undone: nothing was
// written under them. Grants are waited for in one order, and seals never wait: there is no deadlock.
//
// After the seal there is no way out: who is descheduled there (a few dozen instructions) is waited for.
internal import Posix

enum Locking: ConcurrencyStrategy {
  /// Several times as long as the system usually takes the CPU from a thread. In nanoseconds.
  static let leaseNanoseconds: Int64 = 20_000_000
  /// Waiting ends with the lease, but for a lock that is sealed, or one that others are always quicker to
  /// take: hundreds of milliseconds.
  private static let yieldsMax = 1 << 20

  @inline(__always)
  static func attempt(_ kind: TransactionKind, _ session: StoreSession) -> Attempt {
    guard takeAll(session) else { return .conflict }
    let reading = session.read(kind)
    session.store.runDeliberateGap()
    guard sealAll(session) else {
      session.counters.fenced.add()
      return .conflict
    }
    let attempt = session.finish(reading, kind)
    let changes = session.scratch.changes
    for position in 0..<changes.count { freeSealed(session, position) }
    return attempt
  }

  /// Takes the lock of every item; none where that takes too long, which is counted.
  @inline(__always)
  static func takeAll(_ session: StoreSession) -> Bool {
    let changes = session.scratch.changes
    for position in 0..<changes.count {
      let ordinal = changes.ordinal(lockedAt: position)
      guard let token = session.core.tables.locks[ordinal].take() ?? waitFor(ordinal, session)
      else {
        session.counters.conflictsLocked.add()
        session.noteConflict(ordinal)
        for taken in 0..<position { freeHeld(session, taken) }
        return false
      }
      session.scratch.tokens[position] = token
    }
    return true
  }

  /// Seals every lock; where one was taken over, frees those that were not.
  @inline(__always)
  private static func sealAll(_ session: StoreSession) -> Bool {
    let changes = session.scratch.changes
    for position in 0..<changes.count {
      let ordinal = changes.ordinal(lockedAt: position)
      if session.core.tables.locks[ordinal].seal(session.scratch.tokens[position]) { continue }
      for sealed in 0..<position { freeSealed(session, sealed) }
      for held in position..<changes.count { freeHeld(session, held) }
      return false
    }
    return true
  }

  @inline(__always)
  private static func freeSealed(_ session: StoreSession, _ position: Int) {
    let ordinal = session.scratch.changes.ordinal(lockedAt: position)
    session.core.tables.locks[ordinal].freeSealed(session.scratch.tokens[position])
  }

  @inline(__always)
  static func freeHeld(_ session: StoreSession, _ position: Int) {
    let ordinal = session.scratch.changes.ordinal(lockedAt: position)
    session.core.tables.locks[ordinal].freeHeld(session.scratch.tokens[position])
  }

  /// The token of a lock that was not free; nil where it never was.
  @inline(never)
  private static func waitFor(_ ordinal: UInt32, _ session: StoreSession) -> UInt64? {
    var token: UInt64?
    var seen: UInt64?
    var leaseEnd: Int64 = 0
    _ = session.wait(yieldsMax: yieldsMax) {
      token = session.core.tables.locks[ordinal].take()
      if token != nil { return true }
      let now = session.clockNanoseconds
      let held = session.core.tables.locks[ordinal].heldToken
      if held == nil || held != seen {
        seen = held
        leaseEnd = now + leaseNanoseconds
      } else if let held, now >= leaseEnd {
        token = session.core.tables.locks[ordinal].takeOver(from: held)
      }
      return token != nil
    }
    return token
  }
}
