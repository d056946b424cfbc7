// Every change of items goes through here: the command has put the items into `scratch.changes`, a
// strategy (Concurrency/) keeps other commands away from them, and calls what reads and what writes
// (Transaction.swift). A strategy tries once; here it is tried again.
internal import CPlatform

/// How often a commit is tried, and how long it waits in between.
enum RetryPolicy {
  static let attemptsMax = SessionCounters.attemptsMax
  static let immediateRetries = 3
  static let pausesMax: UInt64 = 4096
}

extension StoreSession {
  /// Makes the changes in `scratch.changes`, all or none.
  /// - Parameter untilDone: goes on whatever the number of attempts.
  /// - Returns: also `insufficientStock` (requested and available of the item that lacks units),
  ///   `limitExceeded`, `tableFull` (of limits) and `conflictTooBusy`.
  func commit(untilDone: Bool = false) -> CommitResult {
    transact(.writeSet, untilDone: untilDone)
  }

  /// Makes `scratch.adjustment` of the one item in `scratch.changes`.
  /// - Returns: also `insufficientStock`, `onHandLimit`, `versionMismatch` and `conflictTooBusy`.
  func commitAdjustment() -> CommitResult {
    transact(.adjustment, untilDone: false)
  }

  /// Makes the adjustments of `scratch.group` of the items in `scratch.changes`.
  /// - Returns: as `commitAdjustment`, the refused one is in the group; of an import always that it is done.
  func commitAdjustments() -> CommitResult {
    transact(.adjustments, untilDone: scratch.group.isImport)
  }

  @inline(__always)
  private func transact(_ kind: TransactionKind, untilDone: Bool) -> CommitResult {
    switch core.concurrency {
    case .optimistic: retry(Optimistic.self, kind, untilDone: untilDone)
    case .locking: retryApart(Locking.self, kind, untilDone: untilDone)
    case .singleWriter: retryApart(SingleWriter.self, kind, untilDone: untilDone)
    case .queued: retryApart(Queued.self, kind, untilDone: untilDone)
    case .uncheckedForDemonstration: retryApart(Unchecked.self, kind, untilDone: untilDone)
    case .lateNumberForDemonstration: retryApart(LateNumber.self, kind, untilDone: untilDone)
    case .unfencedForDemonstration: retryApart(Unfenced.self, kind, untilDone: untilDone)
    }
  }

  /// The same as `retry`, in a function of its own: beside the default, the others take no room.
  @inline(never)
  private func retryApart<Strategy: ConcurrencyStrategy>(
    _ strategy: Strategy.Type, _ kind: TransactionKind, untilDone: Bool
  ) -> CommitResult {
    retry(strategy, kind, untilDone: untilDone)
  }

  /// Tries until it is done, or for the last time.
  @inline(__always)
  private func retry<Strategy: ConcurrencyStrategy>(
    _ strategy: Strategy.Type, _ kind: TransactionKind, untilDone: Bool
  ) -> CommitResult {
    var attempts = 1
    while true {
      if case .done(let result) = strategy.attempt(kind, self) {
        counters.commitsByAttempts[min(attempts, RetryPolicy.attemptsMax) - 1].add()
        return result
      }
      if attempts >= RetryPolicy.attemptsMax && !untilDone {
        counters.tooBusy.add()
        return .refused(.conflictTooBusy(attempts: RetryPolicy.attemptsMax), lsn: 0)
      }
      backOff(attempts)
      attempts += 1
    }
  }

  /// Waits before attempt `attempts` + 1: not at all at first, then for a random time that grows.
  @inline(never)
  private func backOff(_ attempts: Int) {
    if scratch.alternatives.takesLess { askForAllAgain() }
    if attempts <= RetryPolicy.immediateRetries { return }
    // Marsaglia's xorshift: good enough to keep two threads from marching in step.
    scratch.random ^= scratch.random << 13
    scratch.random ^= scratch.random >> 7
    scratch.random ^= scratch.random << 17
    let pausesMax = min(32 << UInt64(attempts), RetryPolicy.pausesMax)
    for _ in 0..<scratch.random % pausesMax { hf_pause() }
  }
}
