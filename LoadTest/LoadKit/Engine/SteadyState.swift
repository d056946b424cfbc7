// When a run has warmed up, and whether it stayed as it then was.
//
// MSER-5 (White, An effective truncation heuristic for bias reduction in simulation output, 1997): the
// series is averaged by fives, and of all places to cut its beginning off that one is taken at which the
// mean of the rest is known best: the least sum of squares over the square of how many are left. Where
// that place lies in the second half, the series has not settled. The rate and the 99th percentile are
// two such series; of latencies the logarithm is taken, since they spread by factors.
internal import Glibc
internal import LoadReport

/// One series of figures, as they come.
struct SteadySeries {
  private var values: [Double] = []

  /// Averages of so many make a point.
  static let together = 5
  /// Fewer points say nothing.
  static let pointsMinimum = 4

  mutating func add(_ value: Double) { values.append(value) }

  init(_ values: [Double] = []) { self.values = values }

  var points: [Double] {
    stride(from: 0, to: values.count - SteadySeries.together + 1, by: SteadySeries.together).map {
      values[$0..<$0 + SteadySeries.together].reduce(0, +) / Double(SteadySeries.together)
    }
  }

  /// How many points MSER cuts off; nil where there are too few.
  static func cut(_ points: [Double]) -> Int? {
    guard points.count >= pointsMinimum else { return nil }
    var best = (cut: 0, error: Double.infinity)
    // Of a single point nothing spreads: the last two stay.
    for cut in 0...(points.count - 2) {
      let rest = points[cut...]
      let mean = rest.reduce(0, +) / Double(rest.count)
      let squares = rest.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
      let error = squares / Double(rest.count * rest.count)
      // The rounding of a sum is no reason to cut.
      if error < best.error * (1 - 1e-9) - 1e-18 { best = (cut, error) }
    }
    return best.cut
  }

  /// Whether more than half of it is left after the cut.
  var isSettled: Bool {
    let points = points
    guard let cut = SteadySeries.cut(points) else { return false }
    return 2 * cut < points.count
  }

  /// The change from the first third of the points to the last, where it is more than chance; else nil.
  ///
  /// - Parameter least: a smaller change, by the values themselves, is none.
  func drift(least: (_ from: Double, _ to: Double) -> Bool) -> (from: Double, to: Double)? {
    let third = values.count / 3
    guard third >= SteadySeries.pointsMinimum else { return nil }
    let first = values.prefix(third)
    let last = values.suffix(third)
    let (from, fromError) = SteadySeries.mean(first)
    let (to, toError) = SteadySeries.mean(last)
    // Neighbours are alike, so that chance moves their mean by more than their spread says.
    let chance = 6 * (fromError * fromError + toError * toError).squareRoot()
    return abs(to - from) > chance && !least(from, to) ? (from, to) : nil
  }

  private static func mean(_ values: ArraySlice<Double>) -> (mean: Double, error: Double) {
    let count = Double(values.count)
    let mean = values.reduce(0, +) / count
    let squares = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
    return (mean, (squares / (count - 1) / count).squareRoot())
  }
}

/// Says when a run's warm-up may end.
struct WarmUpWatch {
  private var rates = SteadySeries()
  private var tails = SteadySeries()

  /// Takes a slice of the warm-up. True once both series have settled.
  mutating func take(_ slice: Slice) -> Bool {
    guard slice.seconds > 0 else { return false }
    rates.add(Double(slice.counts.answered) / slice.seconds)
    let p99 = slice.counts.latencies.all.microseconds(at: 99)
    tails.add(log(max(1, p99)))
    return rates.isSettled && tails.isSettled
  }
}

/// Whether the measured part stayed as it began.
enum Drift {
  /// Smaller changes of the rate, and of the 99th percentile, are nobody's concern.
  private static let rateShare = 0.1
  private static let tailFactor = 1.5

  /// What changed, in sentences; nothing where nothing did, or where that cannot be told.
  static func sentences(_ intervals: [Report.Interval]) -> [String] {
    // The last may be what is left over.
    let measured = intervals.filter { $0.isMeasured && $0.seconds > 0 }.dropLast()
    let rates = SteadySeries(measured.map { Double($0.answered) / $0.seconds })
    let tails = SteadySeries(measured.map { log(max(1, $0.latencyMicroseconds.p99)) })
    var sentences: [String] = []
    if let (from, to) = rates.drift(least: { abs($1 - $0) <= rateShare * $0 }) {
      sentences.append(
        "the rate went from \(Text.decimal(from, 0)) to \(Text.decimal(to, 0)) requests/s")
    }
    if let (from, to) = tails.drift(least: { abs($1 - $0) <= log(tailFactor) }) {
      sentences.append(
        "the 99th percentile went from \(Text.duration(microseconds: exp(from))) to "
          + Text.duration(microseconds: exp(to)))
    }
    return sentences
  }
}
