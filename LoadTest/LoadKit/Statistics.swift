// What one worker counts while it runs, and how the workers' counts come together.
internal import Histogram

/// Latencies in nanoseconds, to three digits, up to an hour (which longer ones count as).
struct Latencies {
  private static let maximumNanoseconds: UInt64 = 3_600_000_000_000
  private var histogram = Histogram<UInt64>(
    highestTrackableValue: maximumNanoseconds, numberOfSignificantValueDigits: .three)

  mutating func record(_ nanoseconds: Int64) {
    let value = UInt64(max(0, nanoseconds))
    histogram.record(min(value, Latencies.maximumNanoseconds))
  }

  mutating func add(_ other: Latencies) { histogram.add(other.histogram) }

  var count: Int { Int(clamping: histogram.totalCount) }

  var summary: LatencySummary {
    guard count > 0 else { return LatencySummary() }
    func microseconds(_ percentile: Double) -> Double {
      Double(histogram.valueAtPercentile(percentile)) / 1_000
    }
    return LatencySummary(
      count: count, mean: histogram.mean / 1_000, p50: microseconds(50), p90: microseconds(90),
      p95: microseconds(95), p99: microseconds(99), p999: microseconds(99.9),
      p9999: microseconds(99.99), max: Double(histogram.maxRecorded) / 1_000)
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
}

/// How calls ended, by what that means to the shop.
package enum Outcome: Int, CaseIterable, Sendable {
  case reserved, confirmed, released, replayed
  case insufficientStock, expired, otherRefusal, tooBusy
  case malformed, reset, unprocessed, lost, otherFailure

  package var name: String {
    switch self {
    case .reserved: "reserved"
    case .confirmed: "confirmed"
    case .released: "released"
    case .replayed: "replayed"
    case .insufficientStock: "refused, no stock"
    case .expired: "refused, expired"
    case .otherRefusal: "refused otherwise"
    case .tooBusy: "server busy"
    case .malformed: "malformed"
    case .reset: "stream reset"
    case .unprocessed: "not processed"
    case .lost: "connection lost"
    case .otherFailure: "failed"
    }
  }
}

/// One worker's counts. Latencies and `measured` are of the measured part, the rest of the whole run.
struct Statistics {
  /// By method, Reserve, Confirm, Release.
  var latencies = [Latencies](repeating: Latencies(), count: Method.measured.count)
  /// Open loop: from the actual send.
  var serviceTimes = Latencies()
  /// Open loop: how late the generator looked at each tick.
  var scheduleLag = Latencies()
  var outcomes = [Int](repeating: 0, count: Outcome.allCases.count)
  /// By gRPC code.
  var codes = [Int](repeating: 0, count: grpcCodeNames.count)
  var attempts = 0
  /// Answers that came in the measured part.
  var measured = 0
  /// Ticks of an open loop that were never sent.
  var unsentTicks = 0
  var connectionsLost = 0
  /// The first thing that went wrong, with the server's words.
  var firstFailure: String?
  var firstConnectionLoss: String?
  /// CPU of this worker's thread and wall time, in the measured part.
  var cpuNanoseconds: Int64 = 0
  var wallNanoseconds: Int64 = 0
  /// The server's CPU in the measured part, by worker 0 alone.
  var serverCPUNanoseconds: Int64?

  mutating func add(_ other: Statistics) {
    for index in latencies.indices { latencies[index].add(other.latencies[index]) }
    serviceTimes.add(other.serviceTimes)
    scheduleLag.add(other.scheduleLag)
    for index in outcomes.indices { outcomes[index] += other.outcomes[index] }
    for index in codes.indices { codes[index] += other.codes[index] }
    attempts += other.attempts
    measured += other.measured
    unsentTicks += other.unsentTicks
    connectionsLost += other.connectionsLost
    firstFailure = firstFailure ?? other.firstFailure
    firstConnectionLoss = firstConnectionLoss ?? other.firstConnectionLoss
    cpuNanoseconds += other.cpuNanoseconds
    wallNanoseconds = max(wallNanoseconds, other.wallNanoseconds)
    serverCPUNanoseconds = serverCPUNanoseconds ?? other.serverCPUNanoseconds
  }
}
