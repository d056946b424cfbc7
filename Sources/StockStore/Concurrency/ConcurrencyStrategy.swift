// The seam between what a command does to items and what keeps commands on the same item apart. Every
// strategy keeps the items' words as ItemWords.swift says: readers, checkpoints and the journal need not
// know which one runs.

/// Keeps others away from the items of one session's `scratch.changes` while it reads and writes them.
/// The calls are bound at compile time.
protocol ConcurrencyStrategy {
  /// Does it once, on the session's thread.
  static func attempt(_ kind: TransactionKind, _ session: StoreSession) -> Attempt
}
