// Latencies in a few wide buckets, for who looks at a run while it lasts: a picture on a terminal, a
// histogram for Prometheus.
/// Counts of latencies by buckets whose upper bounds go 10 µs, 20 µs, 50 µs, 100 µs and so on to 10 s.
package struct LatencyBuckets: Equatable, Sendable {
  /// The upper bounds, in nanoseconds. One more bucket is for what is above all of them.
  package static let boundsNanoseconds: [UInt64] = {
    var bounds: [UInt64] = []
    var decade: UInt64 = 10_000
    while decade < 10_000_000_000 {
      bounds += [decade, decade * 2, decade * 5]
      decade *= 10
    }
    return bounds + [10_000_000_000]
  }()

  /// By bucket: at most its bound, and above the one before.
  package private(set) var counts = [Int](repeating: 0, count: boundsNanoseconds.count + 1)
  package private(set) var sumSeconds = 0.0

  package init() {}

  package var count: Int { counts.reduce(0, +) }

  /// Adds latencies. Within three digits of a bound a latency may be in either bucket.
  package mutating func add(_ latencies: borrowing Latencies) {
    var bucket = 0
    latencies.forEachCount { index, count in
      let value = Latencies.values(at: index).lowerBound
      // They come in the order of their values.
      while bucket < LatencyBuckets.boundsNanoseconds.count,
        value > LatencyBuckets.boundsNanoseconds[bucket]
      {
        bucket += 1
      }
      counts[bucket] += Int(clamping: count)
      sumSeconds += Double(value) * Double(count) / 1e9
    }
  }

  package mutating func add(_ other: LatencyBuckets) {
    for index in counts.indices { counts[index] += other.counts[index] }
    sumSeconds += other.sumSeconds
  }
}
