// What a commit is asked to do, and what becomes of it.

enum TransactionKind {
  /// Adds to on hand and held as `scratch.changes` say: Reserve, Confirm, Release, expiry.
  case writeSet
  /// Sets what `scratch.adjustment` says of the one item there: AdjustStock.
  case adjustment
  /// Sets what `scratch.together` says of the items there, in one record: BatchAdjustStock.
  case adjustments
}

enum CommitResult {
  case committed(lsn: UInt64)
  /// Nothing was changed. The refusal tells of what stood in the log up to `lsn`; of a refusal that is
  /// recorded, its own record's number says that.
  case refused(Refusal, lsn: UInt64)
}

enum Attempt {
  case done(CommitResult)
  /// Another command was in the way, which is counted by its reason. Nothing was changed.
  case conflict
}
