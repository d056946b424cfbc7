import LoadHistory
import Testing

@testable import LoadKit

/// Draws made often enough to tell their distribution; bounds are four standard errors or the same
/// for chi-square, at fixed seeds.
@Suite struct WorkloadTests {
  private static let count = 100_000

  private func draws(seed: UInt64 = 1, _ change: (inout Workload) -> Void) -> Draws {
    var workload = Workload()
    change(&workload)
    return Draws(workload, weights: AliasTable(workload), seed: seed)
  }

  /// Sum of (seen - expected)² / expected; `shares` add up to 1.
  private func chiSquare(_ counts: [Int], _ shares: [Double]) -> Double {
    let count = Double(counts.reduce(0, +))
    return zip(counts, shares).reduce(0) { sum, bucket in
      let expected = bucket.1 * count
      return sum + (Double(bucket.0) - expected) * (Double(bucket.0) - expected) / expected
    }
  }

  /// Whether `counts` may come from `shares`: chi-square has the mean d and the variance 2d.
  private func fits(_ counts: [Int], _ shares: [Double]) -> Bool {
    let degrees = Double(counts.count - 1)
    return chiSquare(counts, shares) < degrees + 4 * (2 * degrees).squareRoot()
  }

  private func isShare(_ part: Int, of count: Int, _ share: Double) -> Bool {
    let error = (share * (1 - share) / Double(count)).squareRoot()
    return abs(Double(part) / Double(count) - share) <= 4 * error
  }

  private static let distributions: [(text: String, shares: [Double])] = [
    ("single", [1, 0, 0, 0, 0, 0, 0, 0]), ("uniform", Array(repeating: 0.125, count: 8)),
    ("hot:2:0.5", [0.25, 0.25] + Array(repeating: 0.5 / 6, count: 6)),
    ("hot:8:0.1", Array(repeating: 0.125, count: 8)),
    ("hot:1:1", [1, 0, 0, 0, 0, 0, 0, 0]), ("hot:1:0", [0] + Array(repeating: 1.0 / 7, count: 7)),
    ("zipf:0", Array(repeating: 0.125, count: 8)),
    // 840 : 420 : 280 : 210 : 168 : 140 : 120 : 105, of 2,283.
    ("zipf:1", [840, 420, 280, 210, 168, 140, 120, 105].map { $0 / 2_283 }),
  ]

  @Test(arguments: distributions.indices, [1, 2, 3] as [UInt64])
  func skusFollowTheirDistribution(index: Int, seed: UInt64) throws {
    let (text, shares) = Self.distributions[index]
    let distribution = try #require(Distribution(text))
    var draws = draws(seed: seed) {
      $0.skuCount = 8
      $0.distribution = distribution
    }
    var counts = [Int](repeating: 0, count: 8)
    for _ in 0..<Self.count { counts[Int(draws.line().sku)] += 1 }
    let possible = shares.indices.filter { shares[$0] > 0 }
    #expect(shares.indices.allSatisfy { shares[$0] > 0 || counts[$0] == 0 })
    if possible.count > 1 {
      #expect(fits(possible.map { counts[$0] }, possible.map { shares[$0] }), "\(counts)")
    }
  }

  /// 10,000 SKUs in ten groups of like weight.
  @Test func zipfOfManySKUs() {
    let weights = (1...10_000).map { 1 / Double($0) }
    let sum = weights.reduce(0, +)
    var group = [Int](repeating: 0, count: 10_000)
    var shares = [Double](repeating: 0, count: 10)
    var reached = 0.0
    for (sku, weight) in weights.enumerated() {
      group[sku] = min(9, Int(reached / sum * 10))
      shares[group[sku]] += weight / sum
      reached += weight
    }
    var draws = draws {
      $0.skuCount = 10_000
      $0.distribution = .zipf(exponent: 1)
    }
    var counts = [Int](repeating: 0, count: 10)
    for _ in 0..<Self.count { counts[group[Int(draws.sku())]] += 1 }
    let used = shares.indices.filter { shares[$0] > 0 }
    #expect(fits(used.map { counts[$0] }, used.map { shares[$0] }), "\(counts)")
  }

  @Test func sameSeedSameDraws() {
    func lines() -> [CartLine] {
      var draws = draws(seed: 99) {
        $0.skuCount = 1_000
        $0.hotShare = 0.5
        $0.quantity = 1...9
      }
      return (0..<100).map { _ in draws.line() }
    }
    #expect(lines() == lines())
    #expect((30...70).contains(lines().count { $0.sku == 0 }))
    #expect(lines().allSatisfy { $0.sku < 1_000 && (1...9).contains($0.quantity) })
  }

  @Test func rangesAreUniformWithBothEnds() {
    var draws = draws {
      $0.lines = 1...4
      $0.timeToLiveNanoseconds = 1_000_000_000...1_000_000_003
    }
    var lines = [Int](repeating: 0, count: 4)
    var times = [Int](repeating: 0, count: 4)
    for _ in 0..<Self.count {
      lines[draws.lineCount() - 1] += 1
      times[Int(draws.timeToLiveNanoseconds() - 1_000_000_000)] += 1
    }
    #expect(fits(lines, Array(repeating: 0.25, count: 4)))
    #expect(fits(times, Array(repeating: 0.25, count: 4)))
  }

  @Test func endingsFollowTheirShares() {
    var draws = draws {
      $0.confirmShare = 0.5
      $0.releaseShare = 0.3
    }
    var counts: [Ending: Int] = [:]
    for _ in 0..<Self.count { counts[draws.ending(), default: 0] += 1 }
    let endings: [Ending] = [.confirm, .release, .none]
    #expect(fits(endings.map { counts[$0, default: 0] }, [0.5, 0.3, 0.2]))
  }

  @Test func openingsFollowTheirShares() {
    var draws = draws {
      $0.readShare = 0.3
      $0.restockShare = 0.1
    }
    var counts: [Opening: Int] = [:]
    for _ in 0..<Self.count { counts[draws.opening(), default: 0] += 1 }
    let openings: [Opening] = [.reserve, .read, .restock]
    #expect(fits(openings.map { counts[$0, default: 0] }, [0.6, 0.3, 0.1]))
  }

  @Test func copiesAndFaultsFollowTheirShares() {
    var draws = draws {
      $0.duplicateShare = 0.4
      $0.copies = 2...5
      $0.cutShare = 0.05
      $0.closeShare = 0.001
      $0.extendShare = 0.2
    }
    var copies = [Int](repeating: 0, count: 6)
    var (cuts, closes, extends) = (0, 0, 0)
    for _ in 0..<Self.count {
      copies[draws.copies()] += 1
      if draws.isCut() { cuts += 1 }
      if draws.closesConnection() { closes += 1 }
      if draws.isExtended() { extends += 1 }
    }
    #expect(fits(Array(copies[1...]), [0.6, 0.1, 0.1, 0.1, 0.1]))
    #expect(isShare(cuts, of: Self.count, 0.05))
    #expect(isShare(closes, of: Self.count, 0.001))
    #expect(isShare(extends, of: Self.count, 0.2))
  }

  /// What is certain costs no draw: a workload without faults draws as it did before there were any.
  @Test func certaintiesDrawNothing() {
    var draws = draws {
      $0.duplicateShare = 0
      $0.confirmShare = 1
    }
    var untouched = draws.random
    #expect(draws.opening() == .reserve && draws.lineCount() == 1 && draws.copies() == 1)
    #expect(!draws.isCut() && !draws.closesConnection() && !draws.isExtended())
    #expect(draws.ending() == .confirm && draws.payTimeNanoseconds() == 0)
    #expect(draws.random.next() == untouched.next())
  }

  @Test func rangesOfWholeTypesAreDrawn() {
    var random = Random(seed: 4)
    for _ in 0..<100 {
      #expect((Int64.min...Int64.max).contains(random.within(Int64.min...Int64.max)))
      #expect(random.within(Int64.max...Int64.max) == .max)
      #expect(random.fraction() < 1)
    }
    #expect(random.below(0) == 0)
  }

  @Test(arguments: ["single", "uniform", "zipf:0.99", "hot:20:0.5"])
  func distributionsReadWhatTheySay(text: String) {
    #expect(Distribution(text)?.description == text)
  }

  @Test(arguments: [
    "", "zipf", "zipf:", "zipf:-1", "zipf:11", "zipf:nan", "Uniform", "uniform:", "hot", "hot:2",
    "hot:0:0.5", "hot:2:1.1", "hot:2:", "hot:2:0.5:1", "hot:-1:0.5", "hot:x:0.5",
  ])
  func distributionsThatAreNone(text: String) { #expect(Distribution(text) == nil) }
}
