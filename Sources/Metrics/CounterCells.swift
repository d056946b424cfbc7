internal import Synchronization

/// A row of 64-bit counters with exactly one writing thread and any number of readers.
///
/// Adding is a relaxed load and a relaxed store, so a plain `add` instruction at most and never a
/// locked one: that is enough because nobody else writes. A reader sees each cell whole, a moment
/// old, and never makes the writer wait. The cells live in memory of their own, in whole cache
/// lines, so that two threads' counters never share one.
@safe
package final class CounterCells: @unchecked Sendable {
  /// How many cells there are, at least 1.
  package let count: Int

  // Unsafe, because the class frees it by hand: it is valid exactly as long as this object lives,
  // and every index passes through `clamped`.
  private let cells: UnsafeMutablePointer<Atomic<UInt64>>

  /// Makes `count` cells (at least 1 is made) that stand at 0.
  package init(count: Int) {
    self.count = max(count, 1)
    unsafe cells = CacheLines.makeCells(count: self.count)
  }

  deinit {
    unsafe CacheLines.free(cells, count: count)
  }

  /// Adds `amount`, wrapping at 2^64. Writing thread only. An index out of range counts in the
  /// last cell.
  package func add(_ amount: UInt64, at index: Int) {
    let cell = unsafe cells + clamped(index)
    unsafe cell.pointee.store(
      cell.pointee.load(ordering: .relaxed) &+ amount, ordering: .relaxed)
  }

  /// The value of a cell, from any thread. An index out of range reads the last cell.
  package func value(at index: Int) -> UInt64 {
    unsafe cells[clamped(index)].load(ordering: .relaxed)
  }

  /// Replaces the value of a cell, as a gauge does. Writing thread only. An index out of range
  /// means the last cell.
  package func set(_ value: UInt64, at index: Int) {
    unsafe cells[clamped(index)].store(value, ordering: .relaxed)
  }

  private func clamped(_ index: Int) -> Int {
    // As unsigned, a negative index is a huge one: one comparison checks both ends.
    UInt(bitPattern: index) < UInt(bitPattern: count) ? index : count - 1
  }
}

/// Memory for cells that shares no cache line with anything else.
private enum CacheLines {
  /// Two lines of 64 bytes: the processor fetches them in pairs.
  private static let alignmentBytes = 128

  /// Cells at 0, to be given back with `free`.
  static func makeCells(count: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
    let bytes = count * MemoryLayout<Atomic<UInt64>>.stride
    let lines = (bytes + alignmentBytes - 1) / alignmentBytes
    let memory = UnsafeMutableRawPointer.allocate(
      byteCount: lines * alignmentBytes, alignment: alignmentBytes)
    let cells = unsafe memory.bindMemory(to: Atomic<UInt64>.self, capacity: count)
    for index in 0..<count {
      unsafe (cells + index).initialize(to: Atomic(0))
    }
    return unsafe cells
  }

  static func free(_ cells: UnsafeMutablePointer<Atomic<UInt64>>, count: Int) {
    unsafe cells.deinitialize(count: count)
    unsafe UnsafeMutableRawPointer(cells).deallocate()
  }
}
