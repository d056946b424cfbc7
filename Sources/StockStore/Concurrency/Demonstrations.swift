// Strategies that are broken on purpose: for showing that a test, the simulation or a load generator
// notices.
internal import Log
internal import Synchronization

#if canImport(Glibc)
  internal import Glibc
#else
  internal import Darwin
#endif

/// Check, then write, with the CPU given away in between: what another thread wrote meanwhile is lost.
enum Unchecked: ConcurrencyStrategy {
  static func attempt(_ kind: TransactionKind, _ session: StoreSession) -> Attempt {
    if kind != .writeSet { return Optimistic.attempt(kind, session) }
    let core = session.core
    for index in 0..<session.scratch.changes.count {
      let ordinal = session.scratch.changes[index].ordinal
      session.scratch.changes[index].before = core.items[ordinal].balances
      if let lack = session.scratch.changes[index].lack, session.isRefused(index) {
        let refusal = Refusal.insufficientStock(
          item: ItemHandle(ordinal: ordinal), requested: lack.requested, available: lack.available)
        return .done(.refused(refusal, lsn: 0))
      }
    }
    if session.scratch.changes.limits.count > 0,
      case .refused(let refusal, let lsn, _)? = session.readLimits()
    {
      return .done(.refused(refusal, lsn: lsn))
    }
    _ = sched_yield()
    session.writeLines()
    let lsn = session.appendRecord()
    if session.scratch.changes.limits.count > 0 { session.applyLimits(lsn: lsn) }
    for index in 0..<session.scratch.changes.count {
      let change = session.scratch.changes[index]
      session.store(change, lsn: lsn)
      core.items[change.ordinal].word.wrappingAdd(2, ordering: .acquiringAndReleasing)
      session.counters.rowsAffected.add()
    }
    return .done(.committed(lsn: lsn))
  }
}

/// The log sequence number is taken when others can see what was done already: what they do about
/// it may come to stand before it in the log.
enum LateNumber: ConcurrencyStrategy {
  static func attempt(_ kind: TransactionKind, _ session: StoreSession) -> Attempt {
    guard kind == .writeSet, case .writable = session.read(kind) else {
      return Optimistic.attempt(kind, session)
    }
    guard session.lockAllIfUnchanged() else { return .conflict }
    session.apply(kind, lsn: session.core.log.last)
    session.store.runDeliberateGap()
    return .done(.committed(lsn: session.appendRecord()))
  }
}

/// Locking without the seal: a holder whose lock was taken over writes what it made of old balances.
enum Unfenced: ConcurrencyStrategy {
  static func attempt(_ kind: TransactionKind, _ session: StoreSession) -> Attempt {
    guard Locking.takeAll(session) else { return .conflict }
    let reading = session.read(kind)
    session.store.runDeliberateGap()
    let attempt = session.finish(reading, kind)
    for position in 0..<session.scratch.changes.count { Locking.freeHeld(session, position) }
    return attempt
  }
}
