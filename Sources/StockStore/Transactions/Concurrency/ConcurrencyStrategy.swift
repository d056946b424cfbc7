// The seam between what a command does to items and what keeps commands on the same item apart. Every
// strategy keeps the items' words as ItemWords.swift says: readers, checkpoints and the journal need not
// know which one runs.

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
