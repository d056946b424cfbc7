import Testing

@testable import Metrics

@Suite("Sliding quantiles")
struct QuantileWindowTests {
  private static let seconds: Int64 = 1_000_000_000

  @Test("Every bucket's middle is within 1 % of its lowest and highest value")
  func bucketError() {
    var value: Int64 = 1
    while value < 1 << 40 {
      for sample in [value - 1, value, value + 1] where sample > 0 {
        let middle = LogLinearBuckets.middle(of: LogLinearBuckets.index(of: sample))
        #expect(abs(middle - Double(sample)) <= Double(sample) * 0.01)
      }
      value += max(value / 50, 1)
    }
  }

  @Test("Buckets ascend without gaps", arguments: [0, 6, 7, 8, 20, 39])
  func bucketOrder(octave: Int) {
    let start: Int64 = 1 << octave
    let indices = (-200...200).map { LogLinearBuckets.index(of: max(start + $0, 0)) }
    #expect(zip(indices, indices.dropFirst()).allSatisfy { $1 == $0 || $1 == $0 + 1 })
    #expect(indices.allSatisfy { 0..<LogLinearBuckets.count ~= $0 })
  }

  @Test(
    "Values out of range count at the ends",
    arguments: [
      (Int64.min, 0), (-1, 0), (0, 0), ((1 << 40) - 1, LogLinearBuckets.count - 1),
      (1 << 40, LogLinearBuckets.count - 1), (Int64.max, LogLinearBuckets.count - 1),
    ] as [(Int64, Int)])
  func bucketEnds(value: Int64, index: Int) {
    #expect(LogLinearBuckets.index(of: value) == index)
  }

  @Test(
    "Quantiles are within 1 % of an exact sort",
    arguments: [
      (1, Distribution.uniform), (2, .uniform), (1_000, .uniform), (20_000, .uniform),
      (1, .longTail), (1_000, .longTail), (20_000, .longTail), (500, .constant),
    ])
  func quantileError(count: Int, distribution: Distribution) throws {
    var random = SplitMix(seed: UInt64.random(in: 0...UInt64.max))
    let seed = random.state
    let values = (0..<count).map { _ in distribution.value(&random) }
    let sorted = values.sorted()
    let windows = [QuantileWindow(), QuantileWindow()]
    for (index, value) in values.enumerated() { windows[index % 2].record(value) }

    let quantiles = [0, 0.5, 0.95, 0.99, 0.999, 1]
    let found = QuantileWindow.quantiles(quantiles, of: windows, nowNanoseconds: 0)
    for (quantile, value) in zip(quantiles, found) {
      let rank = max(Int((quantile * Double(count)).rounded(.up)), 1)
      let exact = Double(sorted[rank - 1])
      let value = try #require(value)
      #expect(abs(value - exact) <= exact * 0.01, "quantile \(quantile), seed \(seed)")
    }
  }

  @Test(
    "A value is read for 50 to 60 s",
    arguments: [
      (Int64(0), Int64(0), true), (0, 9, true), (0, 50, true), (0, 59, true), (0, 60, false),
      (9, 59, true), (9, 60, false), (10, 69, true), (10, 70, false), (125, 179, true),
      (125, 180, false), (125, 1_000_000, false),
    ])
  func expiry(recordedSeconds: Int64, readSeconds: Int64, isRead: Bool) {
    let window = QuantileWindow()
    window.advance(nowNanoseconds: recordedSeconds * Self.seconds)
    window.record(64)
    let found = QuantileWindow.quantiles(
      [0.5], of: [window], nowNanoseconds: readSeconds * Self.seconds)
    #expect(found == [isRead ? 64 : nil])
  }

  @Test(
    "The ring forgets what it reuses, whatever the pace", arguments: [1, 5, 10, 15, 35, 70, 700])
  func rotation(stepSeconds: Int64) {
    let window = QuantileWindow()
    for step in 0..<Int64(200) {
      let now = step * stepSeconds
      window.advance(nowNanoseconds: now * Self.seconds)
      window.record(step)
      // The oldest value that is still read began in an interval less than six before this one.
      let oldest = (0...step).first { now / 10 - $0 * stepSeconds / 10 < 6 }
      let found = QuantileWindow.quantiles(
        [0, 1], of: [window], nowNanoseconds: now * Self.seconds)
      #expect(abs((found[0] ?? -1) - Double(oldest ?? -1)) <= Double(step) * 0.01)
      #expect(abs((found[1] ?? -1) - Double(step)) <= Double(step) * 0.01)
    }
  }

  @Test("Time that runs back changes nothing", arguments: [Int64(0), -1, Int64.min, 99])
  func timeBackwards(seconds: Int64) {
    let window = QuantileWindow()
    window.advance(nowNanoseconds: 100 * Self.seconds)
    window.record(5)
    window.advance(
      nowNanoseconds: seconds.multipliedReportingOverflow(by: Self.seconds).partialValue)
    window.record(5)
    #expect(
      QuantileWindow.quantiles([1], of: [window], nowNanoseconds: 100 * Self.seconds) == [5])
  }

  @Test("The last nanosecond that there is does not trap")
  func timeEnd() {
    let window = QuantileWindow()
    window.advance(nowNanoseconds: .max)
    window.record(.max, count: .max)
    #expect(QuantileWindow.quantiles([0.5], of: [window], nowNanoseconds: .max) != [nil])
  }
}

/// Shapes of random latencies.
enum Distribution: Sendable {
  case uniform, longTail, constant

  func value(_ random: inout SplitMix) -> Int64 {
    switch self {
    case .uniform: Int64.random(in: 0...10_000_000, using: &random)
    case .longTail:
      1 << Int64.random(in: 0...38, using: &random) + Int64.random(in: 0...9, using: &random)
    case .constant: 123_457
    }
  }
}

/// A small seeded generator (SplitMix64), so that a failure can be repeated from its seed.
struct SplitMix: RandomNumberGenerator {
  private(set) var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
    return mixed ^ (mixed >> 31)
  }
}
