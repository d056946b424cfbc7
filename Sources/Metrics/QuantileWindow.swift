/// The values of the last minute for quantiles within 1 %, with exactly one writing thread and any
/// number of readers. Memory and work per value are constant whatever the traffic.
///
/// The window is a ring of histograms, each for one interval of 10 s. Six are read: the running one
/// and the five before it. The writer alone rotates: when it hears of a new interval it clears the
/// ring's next histogram and stamps it with the interval.
///
/// A scrape that races a rotation is harmless. The ring has a seventh histogram, so the one that is
/// being cleared left the window 10 s ago and a reader skips it by its stamp. Only a reader that is
/// suspended for 10 s between reading the clock and the cells can meet a histogram in between: its
/// one answer then lacks or repeats some old values. Nothing else can happen, because every cell is
/// an atomic and its memory stays.
package final class QuantileWindow: Sendable {
  /// The length of one interval.
  package static let intervalNanoseconds: Int64 = 10_000_000_000
  /// How many intervals an answer covers, the running one included.
  package static let intervalsRead: UInt64 = 6

  private static let ringSize = 7

  /// The histograms of the ring, one after the other.
  private let buckets = CounterCells(count: ringSize * LogLinearBuckets.count)
  /// Per histogram the interval whose values it holds, plus 1; 0 while it has never held any.
  private let stamps = CounterCells(count: ringSize)
  /// One cell: the index in `buckets` where the running histogram starts.
  private let runningStart = CounterCells(count: 1)

  /// An empty window at time 0.
  package init() {
    stamps.add(1, at: 0)
  }

  /// Tells the time, on any monotonic clock that the readers share. Writing thread only, before the
  /// values that belong to it: once per turn is enough. A time before the last one changes nothing.
  package func advance(nowNanoseconds: Int64) {
    let stamp = Self.stamp(nowNanoseconds)
    let running = runningStart.value(at: 0)
    let runningPosition = Int(running) / LogLinearBuckets.count
    guard stamp > stamps.value(at: runningPosition) else { return }

    let position = Int((stamp - 1) % UInt64(Self.ringSize))
    let start = position * LogLinearBuckets.count
    stamps.set(0, at: position)
    for bucket in start..<(start + LogLinearBuckets.count) {
      buckets.set(0, at: bucket)
    }
    stamps.set(stamp, at: position)
    runningStart.set(UInt64(start), at: 0)
  }

  /// Counts `value` `count` times at the time of the last `advance`. Writing thread only. Values
  /// below 0 count as 0, values from 2^40 as the greatest below it.
  package func record(_ value: Int64, count: UInt64 = 1) {
    let start = Int(runningStart.value(at: 0))
    buckets.add(count, at: start + LogLinearBuckets.index(of: value))
  }

  /// The quantiles of all values that the windows counted in the last intervals before
  /// `nowNanoseconds`, from any thread; nil for each of `quantiles` (0 to 1) if there are none.
  package static func quantiles(
    _ quantiles: [Double], of windows: [QuantileWindow], nowNanoseconds: Int64
  ) -> [Double?] {
    var counts = [UInt64](repeating: 0, count: LogLinearBuckets.count)
    for window in windows {
      window.addLiveCounts(to: &counts, nowNanoseconds: nowNanoseconds)
    }
    return quantiles.map { LogLinearBuckets.quantile($0, counts: counts) }
  }

  private func addLiveCounts(to counts: inout [UInt64], nowNanoseconds: Int64) {
    let newest = Self.stamp(nowNanoseconds)
    let oldest = newest > Self.intervalsRead ? newest - Self.intervalsRead + 1 : 1
    for position in 0..<Self.ringSize {
      // A writer may already be an interval ahead of the reader's clock: its values are live too.
      guard stamps.value(at: position) >= oldest else { continue }
      let start = position * LogLinearBuckets.count
      for bucket in 0..<LogLinearBuckets.count {
        counts[bucket] &+= buckets.value(at: start + bucket)
      }
    }
  }

  private static func stamp(_ nowNanoseconds: Int64) -> UInt64 {
    UInt64(max(nowNanoseconds, 0) / intervalNanoseconds) + 1
  }
}

/// Buckets that grow with their values: 64 to each power of two, so that a bucket's middle is
/// within 1/128 (0.8 %) of every value in it. Values below 128 have a bucket each.
enum LogLinearBuckets {
  private static let bucketsPerOctaveBits = 6
  private static let bucketsPerOctave = 1 << bucketsPerOctaveBits
  /// Values from 2^40 on (18 minutes in nanoseconds) share the last bucket.
  private static let valueBits = 40

  static let count = (valueBits - bucketsPerOctaveBits + 1) * bucketsPerOctave

  static func index(of value: Int64) -> Int {
    let value = Int(min(max(value, 0), (1 << valueBits) - 1))
    let octave = Int.bitWidth - 1 - (value | 1).leadingZeroBitCount
    let shift = max(octave - bucketsPerOctaveBits, 0)
    // The first octave above the shift starts at bucketsPerOctave, hence no overlap.
    return shift * bucketsPerOctave + (value >> shift)
  }

  /// The value in the middle of a bucket.
  static func middle(of index: Int) -> Double {
    let shift = max(index / bucketsPerOctave - 1, 0)
    let lowest = (index - shift * bucketsPerOctave) << shift
    return Double(lowest) + Double((1 << shift) - 1) / 2
  }

  /// The value below which a share `quantile` (0 to 1) of the counted values lies, by nearest rank;
  /// nil if nothing was counted.
  static func quantile(_ quantile: Double, counts: [UInt64]) -> Double? {
    let total = counts.reduce(0, &+)
    guard total > 0 else { return nil }
    let rank = max((min(max(quantile, 0), 1) * Double(total)).rounded(.up), 1)
    var seen = 0.0
    for (index, count) in counts.enumerated() where count > 0 {
      seen += Double(count)
      if seen >= rank { return middle(of: index) }
    }
    return nil
  }
}
