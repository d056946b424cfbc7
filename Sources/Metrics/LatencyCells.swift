// How long calls took, finely enough for quantiles of each method: what the console shows. The page for Prometheus has
// a few buckets for each, since every bucket is a series there; here they cost eight bytes.
internal import Synchronization

/// Histograms of nanoseconds, with exactly one writing thread and any number of readers: 16 buckets to each power of two,
/// so that a bucket's middle is within 3 % of every value in it.
package final class LatencyCells: Sendable {
  private static let bucketsPerOctaveBits = 4
  private static let bucketsPerOctave = 1 << bucketsPerOctaveBits
  /// Values from 2^40 on (18 minutes) share the last bucket.
  private static let valueBits = 40

  /// Buckets of a row.
  static let bucketCount = (valueBits - bucketsPerOctaveBits + 1) * bucketsPerOctave

  private let rows: Int
  private let cells: CounterCells

  /// - Parameter rows: at least 1.
  init(rows: Int) {
    self.rows = max(rows, 1)
    cells = CounterCells(count: self.rows * Self.bucketCount)
  }

  /// Counts `value` `count` times. Writing thread only. Negative values count as 0, a row out of range as the last row.
  func record(_ value: Int64, row: Int, count: UInt64) {
    let row = UInt(bitPattern: row) < UInt(bitPattern: rows) ? row : rows - 1
    cells.add(count, at: row * Self.bucketCount + Self.bucket(of: value))
  }

  /// Adds the counts of a row to `counts`, from any thread.
  func add(row: Int, to counts: inout [UInt64]) {
    for bucket in 0..<Self.bucketCount {
      counts[bucket] &+= cells.value(at: row * Self.bucketCount + bucket)
    }
  }

  static func bucket(of value: Int64) -> Int {
    let value = Int(min(max(value, 0), (1 << valueBits) - 1))
    let octave = Int.bitWidth - 1 - (value | 1).leadingZeroBitCount
    let shift = max(octave - bucketsPerOctaveBits, 0)
    return shift * bucketsPerOctave + (value >> shift)
  }

  /// The value in the middle of a bucket.
  static func middle(of bucket: Int) -> Double {
    let shift = max(bucket / bucketsPerOctave - 1, 0)
    let lowest = (bucket - shift * bucketsPerOctave) << shift
    return Double(lowest) + Double((1 << shift) - 1) / 2
  }
}

/// Latencies of one method at one moment, since the start.
package struct LatencySnapshot: Sendable, Equatable {
  private var counts: [UInt64]

  /// Nothing.
  package init() { counts = [] }

  init(counts: [UInt64]) { self.counts = counts }

  /// What came since an earlier snapshot of the same method.
  package func since(_ earlier: LatencySnapshot) -> LatencySnapshot {
    if earlier.counts.isEmpty { return self }
    return LatencySnapshot(counts: zip(counts, earlier.counts).map { $0 - min($0, $1) })
  }

  /// Values.
  package var count: UInt64 { counts.reduce(0, &+) }

  /// Nanoseconds below which a share `quantile` (0 to 1) of the values lies, by nearest rank and within 3 %; nil without values.
  package func quantile(_ quantile: Double) -> Double? {
    let total = count
    guard total > 0 else { return nil }
    let rank = max((min(max(quantile, 0), 1) * Double(total)).rounded(.up), 1)
    var seen = 0.0
    for (bucket, count) in counts.enumerated() where count > 0 {
      seen += Double(count)
      if seen >= rank { return LatencyCells.middle(of: bucket) }
    }
    return nil
  }
}

/// What the loops have counted by now, as plain numbers: for who shows them elsewhere than on the page.
package struct RPCSnapshot: Sendable {
  /// One method's numbers since the start.
  package struct Method: Sendable {
    package var method: RPCMethod
    package var started: UInt64
    package var handled: UInt64
    /// Of those handled, by the name of the gRPC status; only what there was.
    package var codes: [(name: String, count: UInt64)]
    package var latencies: LatencySnapshot
  }

  package var methods: [Method] = []
  package var connectionsOpen: UInt64 = 0
  package var connectionsOpened: UInt64 = 0
  package var connectionsRefused: UInt64 = 0
  package var connectionsAbusive: UInt64 = 0
  package var receivedBytes: UInt64 = 0
  package var sentBytes: UInt64 = 0
  /// Of reserve calls in the last minute, in nanoseconds: p50, p99, p99.9; nil without any.
  package var reserveQuantiles: [Double?] = []

  /// Nothing counted yet.
  package init() {}
}

extension RPCMetrics {
  /// The methods, the unknown one last, and the connections. From any thread; no loop waits.
  package func snapshot(nowNanoseconds: Int64) -> RPCSnapshot {
    let recorders = recorders.withLock { $0 }
    var snapshot = RPCSnapshot()
    let codes = StatusCodeLabel.names
    for (index, method) in labelledMethods.enumerated() {
      let counts = codes.indices.map { code in
        recorders.sum { $0.handled.value(at: index * codes.count + code) }
      }
      var latencies = [UInt64](repeating: 0, count: LatencyCells.bucketCount)
      let handled = counts.reduce(0, &+)
      if handled > 0 {
        for recorder in recorders { recorder.latencies.add(row: index, to: &latencies) }
      }
      snapshot.methods.append(
        RPCSnapshot.Method(
          method: method, started: recorders.sum { $0.started.value(at: index) }, handled: handled,
          codes: zip(codes, counts).filter { $0.1 > 0 }.map { ($0.0, $0.1) },
          latencies: LatencySnapshot(counts: latencies)))
    }
    // As in `expose`: closed before opened.
    let closed = recorders.sum(.connectionsClosed)
    snapshot.connectionsOpened = recorders.sum(.connectionsOpened)
    snapshot.connectionsOpen = snapshot.connectionsOpened - min(closed, snapshot.connectionsOpened)
    snapshot.connectionsRefused = ConnectionRefusal.allCases.reduce(0) { sum, reason in
      sum &+ recorders.sum { $0.refusals.value(at: reason.cell) }
    }
    snapshot.connectionsAbusive = ConnectionAbuse.allCases.reduce(0) { sum, kind in
      sum &+ recorders.sum { $0.abuses.value(at: kind.cell) }
    }
    snapshot.receivedBytes = recorders.sum(.receivedBytes)
    snapshot.sentBytes = recorders.sum(.sentBytes)
    snapshot.reserveQuantiles = QuantileWindow.quantiles(
      [0.5, 0.99, 0.999], of: recorders.map(\.reservationLatencies),
      nowNanoseconds: nowNanoseconds)
    return snapshot
  }
}
