// Latencies as they are counted, and as they are told.
package import Histogram

/// Latencies in nanoseconds, to three digits, up to an hour (which longer ones count as).
package struct Latencies: Sendable {
  package static let maximumNanoseconds: UInt64 = 3_600_000_000_000
  static let significantDigits = 3
  package private(set) var histogram = Histogram<UInt64>(
    highestTrackableValue: maximumNanoseconds, numberOfSignificantValueDigits: .three)

  package init() {}

  package mutating func record(_ nanoseconds: Int64) {
    let value = UInt64(max(0, nanoseconds))
    histogram.record(min(value, Latencies.maximumNanoseconds))
  }

  /// As if `nanoseconds` were recorded `count` times.
  package mutating func record(_ nanoseconds: Int64, count: Int) {
    guard count > 0 else { return }
    histogram.record(
      min(UInt64(max(0, nanoseconds)), Latencies.maximumNanoseconds), count: UInt64(count))
  }

  /// Calls `body` for each value that was recorded, to three digits, from the lowest on: the highest that
  /// cannot be told from it.
  package func forEachValue(_ body: (_ nanoseconds: UInt64, _ count: Int) -> Void) {
    forEachCount { index, count in
      body(Latencies.values(at: index).upperBound, Int(clamping: count))
    }
  }

  package mutating func add(_ other: Latencies) { histogram.add(other.histogram) }

  /// Forgets everything, and keeps the memory.
  package mutating func removeAll() { histogram.reset() }

  /// The longest, in nanoseconds; 0 where there is none.
  package var maximumRecorded: UInt64 { histogram.maxRecorded }

  package var count: Int { Int(clamping: histogram.totalCount) }

  /// Calls `body` for each count above 0, from the lowest value on, with its place in HdrHistogram's
  /// array of counts: 2,048 values by ones, then, again and again, 1,024 by twice as much.
  ///
  /// The library's own way through its counts looks at all of them, which shows where slices of a run are
  /// looked at while it lasts: this one begins at the least value and ends with the greatest.
  func forEachCount(_ body: (_ index: Int, _ count: UInt64) -> Void) {
    var left = histogram.totalCount
    guard left > 0 else { return }
    var index = Latencies.index(of: histogram.min)
    while left > 0 {
      let count = histogram.countForValue(Latencies.values(at: index).lowerBound)
      if count > 0 { body(index, count) }
      left -= min(left, count)
      index += 1
    }
  }

  /// Where HdrHistogram counts a value.
  private static func index(of value: UInt64) -> Int {
    let magnitude = max(0, 53 - value.leadingZeroBitCount)
    return magnitude * 1_024 + Int(value >> UInt64(magnitude))
  }

  /// The values that are counted there.
  static func values(at index: Int) -> ClosedRange<UInt64> {
    let magnitude = max(0, index / 1_024 - 1)
    let lowest = UInt64(index - magnitude * 1_024) << UInt64(magnitude)
    return lowest...lowest + (1 << UInt64(magnitude)) - 1
  }

  /// The value below which `percentile` (0 to 100) of them lie, in microseconds.
  package func microseconds(at percentile: Double) -> Double {
    count > 0 ? Double(histogram.valueAtPercentile(percentile)) / 1_000 : 0
  }

  package var summary: LatencySummary {
    guard count > 0 else { return LatencySummary() }
    var sum = 0.0
    let values = microseconds(at: [50, 90, 95, 99, 99.9, 99.99], sum: &sum)
    return LatencySummary(
      count: count, mean: sum / Double(count), p50: values[0], p90: values[1], p95: values[2],
      p99: values[3], p999: values[4], p9999: values[5],
      max: Double(histogram.maxRecorded) / 1_000)
  }

  /// The spectrum for drawing: percentiles at even steps of the number of nines.
  package var spectrum: [SpectrumPoint] {
    guard count > 0 else { return [] }
    var sum = 0.0
    return zip(SpectrumPoint.percentiles, microseconds(at: SpectrumPoint.percentiles, sum: &sum))
      .map { SpectrumPoint($0, $1) }
  }

  /// What `microseconds(at:)` says of each, in one way through the counts.
  ///
  /// - Parameters:
  ///   - percentiles: rising, below 100.
  ///   - sum: of all latencies, in microseconds.
  private func microseconds(at percentiles: [Double], sum: inout Double) -> [Double] {
    let (least, most) = (histogram.min, histogram.maxRecorded)
    let targets = percentiles.map { percentile in
      percentile == 0 ? 0 : max(1, (percentile.nextDown * Double(count) / 100).rounded(.up))
    }
    var values: [Double] = []
    var passed = 0.0
    var total = 0.0
    forEachCount { index, count in
      let range = Latencies.values(at: index)
      total +=
        Double(range.lowerBound + (range.upperBound - range.lowerBound + 1) / 2) * Double(count)
      passed += Double(count)
      while values.count < targets.count, passed >= targets[values.count] {
        let isLowest = targets[values.count] == 0
        values.append(Double(isLowest ? least : max(least, min(most, range.upperBound))) / 1_000)
      }
    }
    sum = total / 1_000
    return values
  }
}

/// Percentiles in microseconds.
package struct LatencySummary: Codable, Equatable, Sendable {
  package var count = 0
  package var mean = 0.0
  package var p50 = 0.0
  package var p90 = 0.0
  package var p95 = 0.0
  package var p99 = 0.0
  package var p999 = 0.0
  package var p9999 = 0.0
  package var max = 0.0

  package init(
    count: Int = 0, mean: Double = 0, p50: Double = 0, p90: Double = 0, p95: Double = 0,
    p99: Double = 0, p999: Double = 0, p9999: Double = 0, max: Double = 0
  ) {
    self.count = count
    self.mean = mean
    self.p50 = p50
    self.p90 = p90
    self.p95 = p95
    self.p99 = p99
    self.p999 = p999
    self.p9999 = p9999
    self.max = max
  }
}

/// One point of a percentile spectrum.
package struct SpectrumPoint: Codable, Equatable, Sendable {
  /// 0 up to 99.99.
  package var percentile: Double
  package var microseconds: Double

  package init(_ percentile: Double, _ microseconds: Double) {
    self.percentile = percentile
    self.microseconds = microseconds
  }

  /// 0 to 90 by tens, then nine steps for each further nine, up to 99.99.
  static let percentiles: [Double] = {
    var percentiles = (0...9).map { Double($0) * 10 }
    var remaining = 10.0
    for _ in 0..<3 {
      for step in 1...9 { percentiles.append(100 - remaining * (1 - Double(step) * 0.1)) }
      remaining /= 10
    }
    return percentiles
  }()
}
