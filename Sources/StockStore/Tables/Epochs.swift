// When may the memory of a replaced index table be freed? When every session has ended the turn in
// which it may have read the table's address.
internal import Synchronization

/// A session's place in the scheme: the epoch in which its turn began, 0 between turns.
struct EpochMark: ~Copyable {
  let epoch = Atomic<UInt64>(0)

  var isInTurn: Bool { epoch.load(ordering: .relaxed) != 0 }
}

/// Tables that were replaced, until they can be freed.
final class Epochs: Sendable {
  private struct Retired {
    let table: IndexTable
    /// Turns that began in this epoch or later see the new table.
    let epoch: UInt64
  }

  private let current = Atomic<UInt64>(1)
  private let retired = Mutex<[Retired]>([])
  /// How many there are, for a look without the lock.
  private let retiredCount = Atomic<Int>(0)

  deinit {
    retired.withLock { list in
      for entry in list { entry.table.free() }
    }
  }

  @inline(__always)
  func enter(_ mark: borrowing EpochMark) {
    mark.epoch.store(current.load(ordering: .acquiring), ordering: .relaxed)
    // The mark must be seen before any table's address is read.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
  }

  @inline(__always)
  func leave(_ mark: borrowing EpochMark) { mark.epoch.store(0, ordering: .releasing) }

  /// Keeps `table`, which no table of the index names any more, until nobody reads it.
  func retire(_ table: IndexTable) {
    let epoch = current.wrappingAdd(1, ordering: .sequentiallyConsistent).newValue
    retired.withLock { $0.append(Retired(table: table, epoch: epoch)) }
    retiredCount.wrappingAdd(1, ordering: .relaxed)
  }

  @inline(__always)
  var hasRetired: Bool { retiredCount.load(ordering: .relaxed) != 0 }

  /// Frees what nobody reads any more. `oldest` gives the smallest epoch of the sessions that are in
  /// a turn, and UInt64.max where none is.
  func collect(oldest: () -> UInt64) {
    retired.withLock { list in
      atomicMemoryFence(ordering: .sequentiallyConsistent)
      let oldest = oldest()
      list.removeAll { entry in
        guard entry.epoch <= oldest else { return false }
        entry.table.free()
        retiredCount.wrappingSubtract(1, ordering: .relaxed)
        return true
      }
    }
  }
}
