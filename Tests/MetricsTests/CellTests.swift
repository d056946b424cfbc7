import Testing

@testable import Metrics

@Suite("Cells")
struct CellTests {
  @Test("An index out of range counts in the last cell", arguments: [3, 4, -1, Int.max, Int.min])
  func counterClamps(index: Int) {
    let cells = CounterCells(count: 4)
    cells.add(2, at: index)
    #expect((0..<4).map { cells.value(at: $0) } == [0, 0, 0, 2])
    #expect(cells.value(at: index) == 2)
  }

  @Test("Counters wrap, and a row of none still has one", arguments: [0, -1, Int.min])
  func counterEdges(count: Int) {
    let cells = CounterCells(count: count)
    #expect(cells.count == 1)
    cells.add(.max, at: 0)
    cells.add(2, at: 0)
    #expect(cells.value(at: 0) == 1)
    cells.set(9, at: 0)
    #expect(cells.value(at: 5) == 9)
  }

  @Test(
    "A value goes to the first bucket whose bound it does not pass",
    arguments: [
      (Int64.min, 0), (-1, 0), (0, 0), (1, 0), (2, 1), (10, 1), (11, 2), (100, 2), (101, 3),
      (Int64.max, 3),
    ])
  func histogramBuckets(value: Int64, bucket: Int) {
    let cells = HistogramCells(upperBounds: [100, 1, 10])
    cells.record(value, count: 3)
    var counts: [UInt64] = [0, 0, 0, 0]
    counts[bucket] = 3
    #expect(
      cells.snapshot() == HistogramSnapshot(counts: counts, sum: UInt64(max(value, 0)) &* 3))
  }

  @Test("Rows are apart, and one out of range is the last", arguments: [2, 3, -1, Int.max])
  func histogramRows(row: Int) {
    let cells = HistogramCells(upperBounds: [5], rows: 3)
    cells.record(1, row: 0)
    cells.record(9, row: row)
    #expect(cells.snapshot(row: 0) == HistogramSnapshot(counts: [1, 0], sum: 1))
    #expect(cells.snapshot(row: 1).count == 0)
    #expect(cells.snapshot(row: row) == HistogramSnapshot(counts: [0, 1], sum: 9))
  }

  @Test("Snapshots add up, from an empty one too")
  func snapshots() {
    var sum = HistogramSnapshot()
    sum.add(HistogramSnapshot(counts: [1, 2], sum: 10))
    sum.add(HistogramSnapshot(counts: [3, 4], sum: 5))
    #expect(sum == HistogramSnapshot(counts: [4, 6], sum: 15))
    #expect(sum.count == 10)
  }
}
