/// Histograms over the same fixed bounds, with exactly one writing thread and any number of readers.
///
/// Values are whole numbers in a unit of the owner's choice (nanoseconds, attempts, calls). There
/// is one row per labelled series, such as one per method.
package final class HistogramCells: Sendable {
  /// The inclusive upper bounds of the buckets, ascending; one more bucket takes what lies above.
  package let upperBounds: [Int64]
  /// How many rows there are, at least 1.
  package let rows: Int

  private let cells: CounterCells
  private let sums: CounterCells
  /// One more than bounds.
  let bucketsPerRow: Int

  /// Makes empty histograms. `upperBounds` are sorted here; `rows` is at least 1.
  package init(upperBounds: [Int64], rows: Int = 1) {
    self.upperBounds = upperBounds.sorted()
    self.rows = max(rows, 1)
    bucketsPerRow = upperBounds.count + 1
    cells = CounterCells(count: self.rows * bucketsPerRow)
    sums = CounterCells(count: self.rows)
  }

  /// Counts `value` `count` times. Writing thread only. Negative values count as 0, a row out of
  /// range as the last row.
  package func record(_ value: Int64, row: Int = 0, count: UInt64 = 1) {
    let row = UInt(bitPattern: row) < UInt(bitPattern: rows) ? row : rows - 1
    let value = max(value, 0)
    cells.add(count, at: row * bucketsPerRow + bucket(of: value))
    sums.add(UInt64(value) &* count, at: row)
  }

  /// The bucket that counts `value`; the last one lies above all bounds.
  @inline(__always)
  func bucket(of value: Int64) -> Int {
    // From the lowest bound up: the common values are the small ones, a few comparisons away.
    var bucket = 0
    while bucket < bucketsPerRow - 1, value > upperBounds[bucket] {
      bucket += 1
    }
    return bucket
  }

  /// What stands in a row, from any thread. The sum may be ahead of or behind the counts by the
  /// value that is being recorded at this moment. A row out of range reads the last one.
  package func snapshot(row: Int = 0) -> HistogramSnapshot {
    let row = UInt(bitPattern: row) < UInt(bitPattern: rows) ? row : rows - 1
    let counts = (0..<bucketsPerRow).map { cells.value(at: row * bucketsPerRow + $0) }
    return HistogramSnapshot(counts: counts, sum: sums.value(at: row))
  }
}

/// The counts and the sum of one histogram at one moment; snapshots of several threads add up.
package struct HistogramSnapshot: Sendable, Equatable {
  /// Values per bucket, not cumulative; the last bucket is the one above all bounds.
  package private(set) var counts: [UInt64]
  /// The sum of the values, in their unit, wrapping at 2^64.
  package private(set) var sum: UInt64

  /// A snapshot of these counts and this sum; without arguments an empty one to add others to.
  package init(counts: [UInt64] = [], sum: UInt64 = 0) {
    self.counts = counts
    self.sum = sum
  }

  /// How many values were counted.
  package var count: UInt64 { counts.reduce(0, &+) }

  /// Adds the snapshot of another thread's histogram over the same bounds.
  package mutating func add(_ other: HistogramSnapshot) {
    if counts.isEmpty { counts = Array(repeating: 0, count: other.counts.count) }
    for index in 0..<min(counts.count, other.counts.count) {
      counts[index] &+= other.counts[index]
    }
    sum &+= other.sum
  }
}
