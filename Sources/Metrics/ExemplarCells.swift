internal import Synchronization

/// The newest traced value of each of many buckets, with exactly one writing thread and any number of readers.
///
/// A slot takes a value once a second at most, so that a writer whose every value is traced pays one
/// comparison for most of them. It never waits, and nothing is allocated. A reader that meets a slot
/// while it is written leaves it out (a seqlock): the next scrape has it.
package final class ExemplarCells: Sendable {
  /// A slot stays as it is for so long.
  package static let intervalNanoseconds: Int64 = 1_000_000_000

  /// One traced value, as it was offered.
  struct Value: Equatable {
    let traceHigh: UInt64
    let traceLow: UInt64
    let value: Int64
    /// On the writer's clock.
    let nanoseconds: Int64
  }

  // Of each slot: how often it began or ended to be written, odd meanwhile; 0: it has never been.
  private static let sequence = 0
  private static let traceHigh = 1
  private static let traceLow = 2
  private static let value = 3
  private static let time = 4
  private static let cellsPerSlot = 5

  private let cells: CounterCells

  /// - Parameter slots: at least 1.
  init(slots: Int) {
    cells = CounterCells(count: max(slots, 1) * Self.cellsPerSlot)
  }

  /// Puts a value into a slot, unless that has a young one. Writing thread only; a slot out of range is a
  /// mistake of the caller, and changes another one.
  func offer(_ offered: Value, slot: Int) {
    let start = slot * Self.cellsPerSlot
    let sequence = cells.value(at: start + Self.sequence)
    if sequence > 0 {
      let age =
        offered.nanoseconds - Int64(bitPattern: cells.value(at: start + Self.time))
      if age < Self.intervalNanoseconds { return }
    }
    cells.set(sequence + 1, at: start + Self.sequence)
    atomicMemoryFence(ordering: .releasing)
    cells.set(offered.traceHigh, at: start + Self.traceHigh)
    cells.set(offered.traceLow, at: start + Self.traceLow)
    cells.set(UInt64(bitPattern: offered.value), at: start + Self.value)
    cells.set(UInt64(bitPattern: offered.nanoseconds), at: start + Self.time)
    atomicMemoryFence(ordering: .releasing)
    cells.set(sequence + 2, at: start + Self.sequence)
  }

  /// What a slot has, from any thread; nil where it has nothing, or is being written.
  func value(slot: Int) -> Value? {
    let start = slot * Self.cellsPerSlot
    let before = cells.value(at: start + Self.sequence)
    guard before > 0, before.isMultiple(of: 2) else { return nil }
    atomicMemoryFence(ordering: .acquiring)
    let found = Value(
      traceHigh: cells.value(at: start + Self.traceHigh),
      traceLow: cells.value(at: start + Self.traceLow),
      value: Int64(bitPattern: cells.value(at: start + Self.value)),
      nanoseconds: Int64(bitPattern: cells.value(at: start + Self.time)))
    atomicMemoryFence(ordering: .acquiring)
    return cells.value(at: start + Self.sequence) == before ? found : nil
  }
}
