import Foundation
import Testing

@testable import LoadReport

@Suite struct StudentTests {
  /// From printed tables of Student's t.
  @Test(
    arguments: [
      (1, 0.975, 12.7062), (2, 0.975, 4.3027), (3, 0.975, 3.1824), (4, 0.975, 2.7764),
      (5, 0.975, 2.5706), (10, 0.975, 2.2281), (30, 0.975, 2.0423), (120, 0.975, 1.9799),
      (1, 0.95, 6.3138), (4, 0.95, 2.1318), (4, 0.995, 4.6041), (9, 0.999, 4.2968),
    ] as [(Int, Double, Double)])
  func quantilesOfTheTable(degrees: Int, probability: Double, expected: Double) {
    let quantile = StudentT.quantile(probability, degreesOfFreedom: Double(degrees))
    #expect(abs(quantile - expected) < 0.00006)
  }

  @Test func manyDegreesAreTheNormalDistribution() {
    #expect(abs(StudentT.quantile(0.975, degreesOfFreedom: 1e6) - 1.959966) < 1e-5)
    #expect(abs(StudentT.cumulative(0, degreesOfFreedom: 7) - 0.5) < 1e-12)
  }

  /// Of one degree it is Cauchy's, of two it has a formula: both in closed form.
  @Test(arguments: [0.1, 0.5, 1, 2, 5, 20, 1_000])
  func closedForms(t: Double) {
    let one = 0.5 + atan(t) / .pi
    let two = 0.5 + t / (2 * (2 + t * t).squareRoot())
    #expect(abs(StudentT.cumulative(t, degreesOfFreedom: 1) - one) < 1e-12)
    #expect(abs(StudentT.cumulative(t, degreesOfFreedom: 2) - two) < 1e-12)
  }

  @Test func fractionsOfDegrees() {
    let quantiles = [2, 2.5, 3].map { StudentT.quantile(0.975, degreesOfFreedom: $0) }
    #expect(quantiles[0] > quantiles[1] && quantiles[1] > quantiles[2])
  }
}

@Suite struct RatioTests {
  @Test func oneRunEachShowsNothing() throws {
    let ratio = try #require(Ratio([200], to: [100], arePaired: true))
    #expect(abs(ratio.value - 2) < 1e-12)
    #expect(ratio.method == .single && !ratio.isShown && ratio.low == nil && ratio.chance == nil)
    #expect(ratio.text == "2.00×, one run each: noise unknown, no difference shown")
    #expect(Ratio([1, 2, 3], to: [2], arePaired: false)?.method == .single)
  }

  /// Log-ratios 0.1, 0.2, 0.3: mean 0.2, deviation 0.1, so the reach is 4.3027 × 0.1 / √3.
  @Test func pairedInterval() throws {
    let baseline = [100.0, 1_000, 10]
    let variant = zip(baseline, [0.1, 0.2, 0.3]).map { $0 * exp($1) }
    let ratio = try #require(Ratio(variant, to: baseline, arePaired: true))
    let reach = 4.302653 * 0.1 / 3.0.squareRoot()
    #expect(ratio.method == .paired)
    #expect(abs(ratio.value - exp(0.2)) < 1e-9)
    #expect(abs(ratio.low! - exp(0.2 - reach)) < 1e-6)
    #expect(abs(ratio.high! - exp(0.2 + reach)) < 1e-6)
    #expect(!ratio.isShown)
    // All of one sign: two of eight.
    #expect(ratio.chance == 0.25)
  }

  /// Welch on logarithms 1, 2, 3, 4 and 3, 5, 7: difference 2.5, errors 5/12 and 4/3,
  /// degrees (5/12 + 4/3)² / ((5/12)²/3 + (4/3)²/2) = 3.2360.
  @Test func welchInterval() throws {
    let ratio = try #require(
      Ratio([3, 5, 7].map { exp($0) }, to: [1, 2, 3, 4].map { exp($0) }, arePaired: false))
    let degrees = pow(5.0 / 12 + 4.0 / 3, 2) / (pow(5.0 / 12, 2) / 3 + pow(4.0 / 3, 2) / 2)
    let reach =
      StudentT.quantile(0.975, degreesOfFreedom: degrees) * (5.0 / 12 + 4.0 / 3).squareRoot()
    #expect(ratio.method == .unpaired)
    #expect(abs(log(ratio.value) - 2.5) < 1e-9)
    #expect(abs(log(ratio.low!) - (2.5 - reach)) < 1e-9)
    #expect(abs(log(ratio.high!) - (2.5 + reach)) < 1e-9)
  }

  /// The variant is the slower one in every round, though the machine's own ups and downs are larger:
  /// only as pairs the runs show it.
  @Test func pairingTakesTheMachineOut() throws {
    let baseline = [100.0, 140, 80, 120, 60]
    let variant = zip(baseline, [0.90, 0.91, 0.89, 0.905, 0.895]).map { $0 * $1 }
    let paired = try #require(Ratio(variant, to: baseline, arePaired: true))
    let unpaired = try #require(Ratio(variant, to: baseline, arePaired: false))
    #expect(paired.isShown && !unpaired.isShown)
    // Two of 32 signs: more than one in twenty, but nothing could be more extreme.
    #expect(paired.chance == 2.0 / 32)
    #expect(unpaired.text.hasPrefix("no difference shown ("))
    #expect(paired.text.hasPrefix("0.900× ("))
  }

  @Test func whatNeverVariesIsNoNoise() throws {
    let same = try #require(Ratio([5, 5, 5], to: [5, 5, 5], arePaired: true))
    #expect(!same.isShown && same.low == 1 && same.high == 1)
    let twice = try #require(Ratio([10, 10, 10], to: [5, 5, 5], arePaired: false))
    #expect(twice.isShown)
  }

  @Test(arguments: [[0, 1, 2], [-1, 1, 1], [.infinity, 1, 1], [.nan, 1, 1], []] as [[Double]])
  func noRatioToNothing(values: [Double]) {
    #expect(Ratio(values, to: [1, 2, 3], arePaired: false) == nil)
    #expect(Ratio([1, 2, 3], to: values, arePaired: false) == nil)
  }

  /// Two series of one distribution: about one in twenty is called different, and no more.
  @Test(arguments: [(true, 3), (true, 5), (false, 4), (false, 8), (true, 20)])
  func likesAreSeldomCalledDifferent(arePaired: Bool, runs: Int) {
    var state: UInt64 = 42
    func uniform() -> Double {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Double(state >> 11) / Double(1 << 53)
    }
    func series() -> [Double] {
      (0..<runs).map { _ in exp((0..<12).reduce(-6.0) { sum, _ in sum + uniform() } * 0.1) }
    }
    let trials = 400
    let shown = (0..<trials).count { _ in
      Ratio(series(), to: series(), arePaired: arePaired)?.isShown ?? true
    }
    #expect(Double(shown) / Double(trials) < 0.08)
    #expect(Double(shown) / Double(trials) > 0.01)
  }

  /// Three runs of 3 % more among noise of 5 %: so many, made the same, do show it.
  @Test(arguments: [true, false])
  func saysHowManyRunsWouldDecide(arePaired: Bool) throws {
    let before = [100.0, 105, 96]
    let after = [106.0, 103, 101]
    let open = try #require(Ratio(after, to: before, arePaired: arePaired))
    #expect(!open.isShown)
    let needed = try #require(open.runsNeeded)
    #expect((6...60).contains(needed))
    func repeated(_ values: [Double]) -> [Double] {
      (0..<(needed + 2) / 3 * 3).map { values[$0 % 3] }
    }
    // The same noise, in samples that are larger: its estimate falls by the share of n - 1.
    let many = try #require(Ratio(repeated(after), to: repeated(before), arePaired: arePaired))
    #expect(many.isShown && many.runsNeeded == nil)
  }

  @Test func noNumberOfRunsDecidesBetweenEquals() throws {
    #expect(try #require(Ratio([5, 6, 7], to: [5, 6, 7], arePaired: true)).runsNeeded == nil)
    #expect(try #require(Ratio([5], to: [6], arePaired: true)).runsNeeded == nil)
    let close = try #require(Ratio([100, 110, 90.01], to: [110, 90, 100], arePaired: true))
    #expect(!close.isShown && close.runsNeeded == nil)
  }

  /// A difference of five standard errors is nearly always found.
  @Test func differencesAreFound() throws {
    let ratio = try #require(
      Ratio([120, 122, 118, 121, 119], to: [100, 101, 99, 100, 102], arePaired: false))
    #expect(ratio.isShown && ratio.low! > 1.15 && ratio.high! < 1.25)
  }
}
