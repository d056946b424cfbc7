// The seam between what a command does to items and what keeps commands on the same item apart. Every
// strategy keeps the items' words as ItemWords.swift says: readers, checkpoints and the journal need not
// know which one runs.

/// How commands that run at the same time are kept apart.
package enum ConcurrencyControl: String, Sendable, CaseIterable {
  /// Read, decide, lock if nothing changed, write; else once more (Optimistic.swift).
  case optimistic
  /// A lock for each item, with a lease and fencing tokens, taken before anything is read (Locking.swift).
  case locking
  /// One writer at a time for each shard of items, which also does what others have posted to the shard
  /// (SingleWriter.swift).
  case singleWriter = "single-writer"
  /// A queue for each item: first come, first served (Queued.swift).
  case queued
  /// Check, then write, with nothing in between to keep others out: oversells under two threads. For
  /// showing that a test or a load generator notices.
  case uncheckedForDemonstration = "unchecked-for-demonstration"
  /// Takes the log sequence number after others can see the change: `DeliberateFault.numberAfterUnlock`.
  case lateNumberForDemonstration = "late-number-for-demonstration"
  /// Locking without the fence: a holder whose lock was taken over writes all the same.
  case unfencedForDemonstration = "unfenced-for-demonstration"

  /// Those that never oversell.
  package static let sound: [ConcurrencyControl] = [.optimistic, .locking, .singleWriter, .queued]
}

/// Keeps others away from the items of one session's `scratch.changes` while it reads and writes them.
/// The calls are bound at compile time.
protocol ConcurrencyStrategy {
  /// Does it once, on the session's thread.
  static func attempt(_ kind: TransactionKind, _ session: StoreSession) -> Attempt
}

/// What strategies keep besides the items' own words; empty but for the one that runs. The locks and the
/// queues of neighbouring items share cache lines, eight to a line. A value of handles, as StoreCore.
struct StrategyTables: Sendable {
  let locks: Region<ItemLock>
  let queues: Region<ItemQueue>
  let writers: WriterShards

  init(_ concurrency: ConcurrencyControl, items: Int) {
    locks = Region(capacity: Self.lockCount(concurrency, items), pages: .huge)
    queues = Region(capacity: Self.queueCount(concurrency, items), pages: .huge)
    writers = WriterShards(isUsed: concurrency == .singleWriter)
  }

  private static func lockCount(_ concurrency: ConcurrencyControl, _ items: Int) -> Int {
    concurrency == .locking || concurrency == .unfencedForDemonstration ? items : 0
  }

  private static func queueCount(_ concurrency: ConcurrencyControl, _ items: Int) -> Int {
    concurrency == .queued ? items : 0
  }

  /// What they take of the address space.
  static func addressSpace(_ concurrency: ConcurrencyControl, items: Int) -> Int {
    Region<ItemLock>.mappedBytes(capacity: lockCount(concurrency, items))
      + Region<ItemQueue>.mappedBytes(capacity: queueCount(concurrency, items))
  }

  /// Bytes in use for so many items.
  func bytes(items: Int) -> Int {
    min(items, locks.capacity) * MemoryLayout<ItemLock>.stride
      + min(items, queues.capacity) * MemoryLayout<ItemQueue>.stride + writers.bytes
  }

  func free() {
    locks.free()
    queues.free()
    writers.free()
  }
}
