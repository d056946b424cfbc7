// What the safety stock of an item was at an earlier decision. The records of holds do not say it: it changes
// rarely, and they are many.
internal import Synchronization

/// Changes of safety stock, the newest. Any thread.
package final class SafetyStockChanges: Sendable {
  /// An AdjustStock that changed it.
  private struct Change {
    let lsn: UInt64
    let before: Int64
    let ordinal: UInt32
    /// The change of the same item before, in numbers since the first that was appended.
    let previous: Int?
  }

  /// Changes in the order in which they were told: of one item, that of their numbers.
  private struct Table {
    var changes: [Change] = []
    /// How many were dropped before `changes`.
    var dropped = 0
    /// The newest of each item.
    var newest: [UInt32: Int] = [:]
    /// All changes behind this log sequence number are here.
    var completeFrom: UInt64 = 0

    mutating func append(_ ordinal: UInt32, before: Int64, lsn: UInt64) {
      let number = dropped + changes.count
      changes.append(
        Change(lsn: lsn, before: before, ordinal: ordinal, previous: newest[ordinal]))
      newest[ordinal] = number
    }

    /// What it was at `lsn`; nil where it has not changed since.
    func value(of ordinal: UInt32, at lsn: UInt64) -> Int64? {
      var value: Int64?
      var number = newest[ordinal]
      while let at = number, at >= dropped {
        let change = changes[at - dropped]
        if change.lsn <= lsn { break }
        value = change.before
        number = change.previous
      }
      return value
    }

    /// Forgets the older half.
    mutating func dropHalf() {
      let count = changes.count / 2
      guard count > 0 else { return }
      completeFrom = changes[..<count].reduce(completeFrom) { max($0, $1.lsn) }
      changes.removeFirst(count)
      dropped += count
      newest = newest.filter { $0.value >= dropped }
    }
  }

  private struct State {
    /// What was there when the process began, as far as somebody has read it.
    var older = Table()
    var live = Table()
  }

  /// An import that changes the safety stock of a whole catalogue may be behind a reader; 70 bytes each.
  package let countMax: Int

  private let state = Mutex(State())
  /// The highest number of a change; 0 where there is none.
  private let newestLSN = Atomic<UInt64>(0)

  package init(countMax: Int = 1 << 20) { self.countMax = countMax }

  /// Forgets all, and knows everything behind `lsn`, which will be told. While nothing is changed.
  package func begin(at lsn: UInt64) {
    state.withLock { state in
      state = State()
      newestLSN.store(0, ordering: .releasing)
      state.live.completeFrom = lsn
      state.older.completeFrom = lsn
    }
  }

  /// The item's safety stock was `before` up to the decision `lsn`. The caller has the item locked.
  func append(_ ordinal: UInt32, before: Int64, lsn: UInt64) {
    state.withLock { state in
      if state.live.changes.count >= countMax { state.live.dropHalf() }
      state.live.append(ordinal, before: before, lsn: lsn)
      raiseNewest(lsn)
    }
  }

  /// From which log sequence number on `value` knows.
  package var completeFrom: UInt64 {
    state.withLock { state in
      // What was told live is behind what was read, unless some of it was dropped.
      state.live.dropped > 0 ? state.live.completeFrom : state.older.completeFrom
    }
  }

  /// More have been told than are kept: what is before `completeFrom` cannot be known any more.
  package var hasDropped: Bool { state.withLock { $0.live.dropped > 0 } }

  /// From which log sequence number on changes are told as they are made.
  package var liveFrom: UInt64 { state.withLock { $0.live.completeFrom } }

  /// Tells what a reader found of the time before the process began: all changes behind `lsn`, in order.
  package func setOlder(
    _ changes: [(ordinal: UInt32, before: Int64, lsn: UInt64)], completeFrom lsn: UInt64
  ) {
    var table = Table()
    table.completeFrom = lsn
    for change in changes { table.append(change.ordinal, before: change.before, lsn: change.lsn) }
    let made = table
    let newest = changes.last?.lsn ?? 0
    state.withLock { state in
      state.older = made
      raiseNewest(newest)
    }
  }

  /// Under the lock.
  private func raiseNewest(_ lsn: UInt64) {
    if lsn > newestLSN.load(ordering: .relaxed) { newestLSN.store(lsn, ordering: .releasing) }
  }

  /// What the safety stock of an item was right after the decision `lsn`, from `completeFrom` on.
  /// - Parameter current: what it is, read before this is asked.
  package func value(of ordinal: UInt32, at lsn: UInt64, current: Int64) -> Int64 {
    // Who has read what a change made of it sees the change here.
    if newestLSN.load(ordering: .acquiring) <= lsn { return current }
    return state.withLock { state in
      state.older.value(of: ordinal, at: lsn) ?? state.live.value(of: ordinal, at: lsn) ?? current
    }
  }
}
