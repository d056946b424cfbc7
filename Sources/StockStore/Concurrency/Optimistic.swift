// Optimistic concurrency control:
//   1. read each item's word and balances, and decide;
//   2. compare-and-swap each word, in the order of the items' numbers, from what was read to locked;
//      a word that has changed is a conflict: unlock, count, back off, begin again;
//   3. under the locks: take the log sequence number, write the balances;
//   4. unlock each word with its version + 1.
// Nobody waits for anybody before 2. Under contention work is done in vain, and begun again.

enum Optimistic: ConcurrencyStrategy {
  @inline(__always)
  static func attempt(_ kind: TransactionKind, _ session: StoreSession) -> Attempt {
    switch session.read(kind) {
    case .conflict: return .conflict
    case .refused(let refusal, let lsn, let index):
      let change = session.scratch.changes[index]
      guard session.isUnchanged(change.ordinal, change.word) else { return .conflict }
      return .done(.refused(refusal, lsn: lsn))
    case .writable:
      guard session.lockAllIfUnchanged() else { return .conflict }
      return .done(session.write(kind))
    }
  }
}
