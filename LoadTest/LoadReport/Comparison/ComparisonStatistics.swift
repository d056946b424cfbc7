// How much two series of runs differ, and how surely.
//
// Figures of performance vary by factors, so all is done on logarithms: the mean of the log-ratios is
// the ratio of the geometric means, and an interval around it is an interval of ratios. Where the runs
// took turns, a run is set against its neighbour of the same round (paired: what the machine did to both
// cancels out), else the two series as wholes (Welch's interval, which allows them different noise).
//
// Student's interval trusts that logarithms of noise are normal, which a handful of runs cannot show. So
// a difference is called shown only where a permutation test does not speak against it: of all ways in
// which the same figures could have been handed to the two, at most one in twenty is as extreme; where so
// few runs cannot reach that, nothing may be more extreme than what was seen.
internal import Glibc

/// The ratio of a variant's figures to the baseline's.
package struct Ratio: Codable, Equatable, Sendable {
  package enum Method: String, Codable, Sendable {
    /// Runs that took turns, each against its neighbour: Student's interval of the log-ratios.
    case paired
    /// The two series as wholes: Welch's interval.
    case unpaired
    /// One run on a side: there is no telling its noise.
    case single
  }

  /// Of the geometric means.
  package var value: Double
  /// The 95 % interval; absent for `single`.
  package var low: Double?
  package var high: Double?
  package var method: Method
  /// Of all rearrangements of the figures, the share that is at least as far from 1; absent for `single`
  /// and where there are too many.
  package var chance: Double?
  /// The interval does not hold 1, and chance does not explain it.
  package var isShown = false
  /// How many runs of each it would take to show the difference, if the means and the noise stay what
  /// they are; absent where it is shown, for `single`, and where it would be more than 1,000.
  package var runsNeeded: Int?

  /// - Parameters:
  ///   - baseline: one figure of each run.
  ///   - variant: the same of the other.
  ///   - arePaired: the runs took turns; `baseline[i]` belongs to `variant[i]`.
  /// - Returns: nil where a figure is not above zero: it has no ratio.
  package init?(_ variant: [Double], to baseline: [Double], arePaired: Bool) {
    let all = baseline + variant
    guard !baseline.isEmpty, !variant.isEmpty, all.allSatisfy({ $0 > 0 && $0.isFinite }) else {
      return nil
    }
    let before = baseline.map { log($0) }
    let after = variant.map { log($0) }
    let difference = mean(after) - mean(before)
    value = exp(difference)
    guard before.count > 1, after.count > 1 else {
      method = .single
      return
    }
    let standardError: Double
    let degreesOfFreedom: Double
    if arePaired, before.count == after.count {
      method = .paired
      let differences = zip(after, before).map { $0 - $1 }
      standardError = (variance(differences) / Double(differences.count)).squareRoot()
      degreesOfFreedom = Double(differences.count - 1)
      chance = chanceOfSigns(differences)
    } else {
      method = .unpaired
      let errors = [before, after].map { variance($0) / Double($0.count) }
      standardError = (errors[0] + errors[1]).squareRoot()
      // Welch and Satterthwaite. Without any variance the interval is a point, whatever the degrees.
      let parts = zip(errors, [before, after]).map { $0 * $0 / Double($1.count - 1) }
      let sum = parts[0] + parts[1]
      let total = errors[0] + errors[1]
      degreesOfFreedom = sum > 0 ? total * total / sum : Double(all.count - 2)
      chance = chanceOfDivision(before, after)
    }
    let reach = standardError * StudentT.quantile(0.975, degreesOfFreedom: degreesOfFreedom)
    low = exp(difference - reach)
    high = exp(difference + reach)
    let excludesOne = abs(difference) > reach + tolerance
    isShown = excludesOne && !isExplainedByChance(before.count, after.count)
    if !isShown {
      // Of one pair, or of one run of either.
      let noise =
        method == .paired
        ? standardError * Double(before.count).squareRoot()
        : (variance(before) + variance(after)).squareRoot()
      runsNeeded = runsToShow(
        difference: abs(difference), noise: noise, from: max(before.count, after.count) + 1,
        isPaired: method == .paired)
    }
  }

  /// Whether rearrangements that are more extreme than what was seen are common.
  private func isExplainedByChance(_ before: Int, _ after: Int) -> Bool {
    guard let chance else { return false }
    let arrangements =
      method == .paired ? Double(1 << before) : binomial(before + after, before)
    // Two: what was seen, and its mirror image.
    return chance > 0.05 && chance * arrangements > 2.5
  }
}

/// The fewest runs of each, from `first` on, whose interval would not hold 1; nil beyond 1,000.
///
/// - Parameter noise: standard deviation of the difference of a pair of runs, in logarithms.
private func runsToShow(difference: Double, noise: Double, from first: Int, isPaired: Bool) -> Int?
{
  func isEnough(_ runs: Int) -> Bool {
    let degreesOfFreedom = Double(isPaired ? runs - 1 : 2 * (runs - 1))
    let reach =
      noise / Double(runs).squareRoot()
      * StudentT.quantile(0.975, degreesOfFreedom: degreesOfFreedom)
    return reach < difference
  }
  let most = 1_000
  // Fewer cannot speak against chance: of 2^5 signs two are one in sixteen, of 2^6 one in 32.
  var low = max(first, 6)
  guard difference > tolerance, low <= most, isEnough(most) else { return nil }
  var high = most
  while low < high {
    let middle = (low + high) / 2
    if isEnough(middle) { high = middle } else { low = middle + 1 }
  }
  return low
}

/// Differences of logarithms that are rounding errors.
private let tolerance = 1e-12
/// Beyond so many runs the rearrangements are not counted out: the interval is trusted.
private let runsMaximum = 12

private func mean(_ values: [Double]) -> Double { values.reduce(0, +) / Double(values.count) }

/// Of the population that `values` are a sample of; two values at least.
private func variance(_ values: [Double]) -> Double {
  let middle = mean(values)
  return values.reduce(0) { $0 + ($1 - middle) * ($1 - middle) } / Double(values.count - 1)
}

/// If the two were alike, each difference could as well have the other sign: the share of all signs
/// that gives a mean at least as far from zero.
private func chanceOfSigns(_ differences: [Double]) -> Double? {
  guard differences.count <= runsMaximum else { return nil }
  let seen = abs(differences.reduce(0, +))
  var extreme = 0
  for signs in 0..<1 << differences.count {
    var sum = 0.0
    for (index, difference) in differences.enumerated() {
      sum += signs >> index & 1 == 0 ? difference : -difference
    }
    if abs(sum) >= seen - tolerance { extreme += 1 }
  }
  return Double(extreme) / Double(1 << differences.count)
}

/// If the two were alike, any of the runs could as well have been the other's: the share of all
/// divisions that gives means at least as far apart.
private func chanceOfDivision(_ before: [Double], _ after: [Double]) -> Double? {
  let all = before + after
  guard all.count <= runsMaximum else { return nil }
  let seen = abs(mean(after) - mean(before))
  let total = all.reduce(0, +)
  var extreme = 0
  var divisions = 0
  for chosen in 0..<1 << all.count where chosen.nonzeroBitCount == after.count {
    var sum = 0.0
    for index in all.indices where chosen >> index & 1 == 1 { sum += all[index] }
    let apart = abs(sum / Double(after.count) - (total - sum) / Double(before.count))
    if apart >= seen - tolerance { extreme += 1 }
    divisions += 1
  }
  return Double(extreme) / Double(divisions)
}

/// How many ways there are to choose `chosen` of `count`.
private func binomial(_ count: Int, _ chosen: Int) -> Double {
  (0..<chosen).reduce(1.0) { $0 * Double(count - $1) / Double($1 + 1) }
}

/// Student's t distribution.
package enum StudentT {
  /// The value that a t variable stays below with `probability`, which lies between 0.5 and 1.
  package static func quantile(_ probability: Double, degreesOfFreedom: Double) -> Double {
    var low = 0.0
    var high = 1.0
    while cumulative(high, degreesOfFreedom: degreesOfFreedom) < probability, high < 1e12 {
      low = high
      high *= 2
    }
    // Each halving gains a bit of a Double's 53.
    for _ in 0..<60 {
      let middle = (low + high) / 2
      if cumulative(middle, degreesOfFreedom: degreesOfFreedom) < probability {
        low = middle
      } else {
        high = middle
      }
    }
    return (low + high) / 2
  }

  /// The probability of at most `t`, which is not negative.
  static func cumulative(_ t: Double, degreesOfFreedom: Double) -> Double {
    let x = degreesOfFreedom / (degreesOfFreedom + t * t)
    return 1 - incompleteBeta(x, degreesOfFreedom / 2, 0.5) / 2
  }

  /// The regularized incomplete beta function, by its continued fraction (Abramowitz and Stegun, 26.5.8)
  /// on that side of it where the fraction converges fast.
  static func incompleteBeta(_ x: Double, _ a: Double, _ b: Double) -> Double {
    if x <= 0 { return 0 }
    if x >= 1 { return 1 }
    if x > (a + 1) / (a + b + 2) { return 1 - incompleteBeta(1 - x, b, a) }
    let logOfBeta = lgamma(a) + lgamma(b) - lgamma(a + b)
    let powers = a * log(x) + b * log(1 - x)
    let front = exp(powers - logOfBeta) / a
    // The fraction 1 + d1 / (1 + d2 / ...) from its front, by Lentz's method, until a term changes nothing: a dozen
    // terms or two. 200 are more than ever needed.
    var fraction = 1.0
    var numerators = 1.0
    var denominators = 0.0
    for term in 1...200 {
      let m = Double(term / 2)
      let even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
      let odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
      let numerator = term % 2 == 0 ? even : odd
      numerators = 1 + numerator / numerators
      denominators = 1 / (1 + numerator * denominators)
      let change = numerators * denominators
      fraction *= change
      if abs(change - 1) < 1e-15 { break }
    }
    return front / fraction
  }
}
