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

  /// Calls `body` for each value that was recorded, to three digits, from the lowest on.
  package func forEachValue(_ body: (_ nanoseconds: UInt64, _ count: Int) -> Void) {
    guard count > 0 else { return }
    for recorded in histogram.recordedValues() {
      body(recorded.value, Int(clamping: recorded.count))
    }
  }

  package mutating func add(_ other: Latencies) { histogram.add(other.histogram) }

  /// Forgets everything, and keeps the memory.
  package mutating func removeAll() { histogram.reset() }

  package var count: Int { Int(clamping: histogram.totalCount) }

  /// Calls `body` for each count above 0, from the lowest value on, with its place in HdrHistogram's
  /// array of counts: 2,048 values by ones, then, again and again, 1,024 by twice as much.
  func forEachCount(_ body: (_ index: Int, _ count: UInt64) -> Void) {
    for recorded in histogram.recordedValues() {
      let magnitude = max(0, 53 - recorded.value.leadingZeroBitCount)
      body(magnitude * 1_024 + Int(recorded.value >> UInt64(magnitude)), recorded.count)
    }
  }

  /// The value below which `percentile` (0 to 100) of them lie, in microseconds.
  package func microseconds(at percentile: Double) -> Double {
    count > 0 ? Double(histogram.valueAtPercentile(percentile)) / 1_000 : 0
  }

  package var summary: LatencySummary {
    guard count > 0 else { return LatencySummary() }
    return LatencySummary(
      count: count, mean: histogram.mean / 1_000, p50: microseconds(at: 50),
      p90: microseconds(at: 90), p95: microseconds(at: 95), p99: microseconds(at: 99),
      p999: microseconds(at: 99.9), p9999: microseconds(at: 99.99),
      max: Double(histogram.maxRecorded) / 1_000)
  }

  /// The spectrum for drawing: percentiles at even steps of the number of nines.
  package var spectrum: [SpectrumPoint] {
    guard count > 0 else { return [] }
    return SpectrumPoint.percentiles.map { SpectrumPoint($0, microseconds(at: $0)) }
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
