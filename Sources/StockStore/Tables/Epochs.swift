// When may the memory of a replaced index table be freed? When every session has ended the turn in
// which it may have read the table's address. By the same marks all sessions are kept out of their turns for
// a moment, so that something can change that must stay the same during a turn.
internal import Posix
internal import Synchronization

/// A session's place in the scheme: the epoch in which its turn began, 0 between turns.
struct EpochMark: ~Copyable {
  let epoch = Atomic<UInt64>(0)

  var isInTurn: Bool { epoch.load(ordering: .acquiring) != 0 }
}

/// Tables that were replaced, until they can be freed.
final class Epochs: Sendable {
  private struct Retired {
    let table: IndexTable
    /// Turns that began in this epoch or later see the new table.
    let epoch: UInt64
  }

  private let current = Atomic<UInt64>(1)
  /// No turn begins.
  private let isPaused = Atomic<Bool>(false)
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
    // The mark must be seen before any table's address is read, and before the pause is.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    if isPaused.load(ordering: .acquiring) { enterAfterPause(mark) }
  }

  @inline(never)
  private func enterAfterPause(_ mark: borrowing EpochMark) {
    var waiting = Waiting()
    repeat {
      leave(mark)
      while isPaused.load(ordering: .acquiring) { waiting.once() }
      mark.epoch.store(current.load(ordering: .acquiring), ordering: .relaxed)
      atomicMemoryFence(ordering: .sequentiallyConsistent)
    } while isPaused.load(ordering: .acquiring)
  }

  /// Calls `body` while no session is in a turn; those that begin one wait. By one thread at a time, which
  /// is in none.
  /// - Parameter isAnyInTurn: whether the mark of any session says so.
  func betweenTurns(isAnyInTurn: () -> Bool, _ body: () -> Void) {
    isPaused.store(true, ordering: .sequentiallyConsistent)
    // Either a session sees the pause, or its mark is seen here.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    var waiting = Waiting()
    while isAnyInTurn() { waiting.once() }
    body()
    isPaused.store(false, ordering: .releasing)
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
