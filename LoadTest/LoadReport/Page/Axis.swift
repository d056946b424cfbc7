// Axes: where a value stands between the two ends, and which values are worth a label.
internal import Glibc

/// How values spread over an axis.
package enum Scale: Equatable, Sendable {
  case linear(ClosedRange<Double>)
  /// From above 0.
  case logarithmic(ClosedRange<Double>)
  /// Percentiles from 0: every further nine takes as much room as the one before.
  case nines(upTo: Double)

  /// 0 at the lower end, 1 at the upper; values beyond them stand at the ends.
  package func place(_ value: Double) -> Double {
    let place =
      switch self {
      case .linear(let range):
        (value - range.lowerBound) / (range.upperBound - range.lowerBound)
      case .logarithmic(let range):
        log(max(value, range.lowerBound) / range.lowerBound)
          / log(range.upperBound / range.lowerBound)
      case .nines(let upTo): Scale.nines(min(value, upTo)) / Scale.nines(upTo)
      }
    return place.isFinite ? min(1, max(0, place)) : 0
  }

  private static func nines(_ percentile: Double) -> Double { -log10(1 - percentile / 100) }
}

/// One axis of a chart.
package struct Axis: Sendable {
  package struct Tick: Equatable, Sendable {
    package var value: Double
    package var label: String
    /// Whether a telephone does without its label; nil: every other one does.
    package var isMinor: Bool?

    package init(_ value: Double, _ label: String, isMinor: Bool? = nil) {
      self.value = value
      self.label = label
      self.isMinor = isMinor
    }
  }

  package var scale: Scale
  package var ticks: [Tick]

  /// With ticks of one's own: names of rows, for one.
  package init(scale: Scale, ticks: [Tick]) {
    self.scale = scale
    self.ticks = ticks
  }

  /// From 0 up to a round value of at least `value`.
  package static func fromZero(
    to value: Double, label: @Sendable (Double) -> String = Text.compact
  ) -> Axis {
    let top = value.isFinite && value > 0 ? value : 1
    let step = niceStep(top / 4)
    let count = Int((top / step).rounded(.up))
    return Axis(
      scale: .linear(0...step * Double(count)),
      ticks: (0...count).map { Tick(step * Double($0), label(step * Double($0))) })
  }

  /// Logarithmic, over all of `values` that are above 0. It ends at the powers of ten around them, or
  /// at 1, 2 or 5 times those.
  package static func logarithmic(
    _ values: some Sequence<Double>, label: @Sendable (Double) -> String
  ) -> Axis {
    let usable = values.filter { $0 > 0 && $0.isFinite }
    let least = usable.min() ?? 1
    let most = max(usable.max() ?? 10, least * 2)
    let mantissas = [1.0, 2, 5]
    let steps = (Int(floor(log10(least)))...Int(ceil(log10(most)))).flatMap { exponent in
      mantissas.map { $0 * pow(10, Double(exponent)) }
    }
    // A hair's breadth for values that are round themselves.
    let low = steps.last { $0 <= least * 1.000001 } ?? least
    let high = steps.first { $0 >= most * 0.999999 } ?? most
    let inside = steps.filter { $0 >= low && $0 <= high }
    let decades = inside.filter { isPowerOfTen($0) }
    let labelled = inside.count > 7 && decades.count > 1 ? decades : inside
    return Axis(
      scale: .logarithmic(low...high), ticks: labelled.map { Tick($0, label($0)) })
  }

  /// Percentiles up to 99.99.
  package static let percentiles = Axis(
    scale: .nines(upTo: 99.99),
    ticks: [0, 50, 90, 99, 99.9, 99.99].map {
      // The 99th is the one that people look for.
      Tick($0, "\(Text.shortest($0)) %", isMinor: $0 == 50 || $0 == 99.9)
    })

  /// Time from `start` on, in seconds.
  package static func time(from start: Double = 0, to end: Double) -> Axis {
    let length = end - start > 0 && end.isFinite ? end - start : 1
    let steps: [Double] = [
      0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400,
    ]
    let step = steps.first { length / $0 <= 6 } ?? niceStep(length / 6)
    var ticks: [Tick] = []
    var value = (start / step).rounded(.up) * step
    while value <= start + length * 1.0001, ticks.count < 20 {
      ticks.append(Tick(value, Text.time(seconds: value, upTo: start + length)))
      value += step
    }
    return Axis(scale: .linear(start...start + length), ticks: ticks)
  }

  /// 1, 2 or 5 times a power of ten, at least `step`.
  static func niceStep(_ step: Double) -> Double {
    let power = pow(10, floor(log10(step)))
    return power * ([1.0, 2, 5].first { $0 * power >= step * 0.999999 } ?? 10)
  }

  private static func isPowerOfTen(_ value: Double) -> Bool {
    abs(log10(value) - log10(value).rounded()) < 1e-9
  }
}

extension Text {
  /// 7.5 s, or 1:30 and 1:00:00 on an axis that ends at more than 180 s.
  static func time(seconds: Double, upTo end: Double) -> String {
    if end <= 180 { return shortest(seconds) + " s" }
    let whole = Int(min(1e9, max(0, seconds.rounded())))
    func twoDigits(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
    let (hours, minutes) = (whole / 3_600, whole / 60 % 60)
    return hours > 0
      ? "\(hours):\(twoDigits(minutes)):\(twoDigits(whole % 60))"
      : "\(minutes):\(twoDigits(whole % 60))"
  }
}
