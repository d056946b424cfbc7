// How many calls per second an open loop sends, over time.

/// The rate of an open loop over time: constant, ramps and steps.
///
/// Time counts from the start of the profile. C(t), the calls due up to time t, is the integral of
/// the rate: straight in a segment of constant rate, a parabola on a ramp. Call number n (from 0) is
/// due at the last instant at which C is n: where the rate is 0 nothing is due until it rises.
package struct LoadProfile: Equatable, Sendable {
  /// A rate that goes straight from one value to another.
  package struct Segment: Equatable, Sendable {
    /// Calls per second.
    package let fromRate: Double
    package let toRate: Double
    /// Infinite in a profile of one constant rate without an end.
    package let seconds: Double
    /// Where it begins: seconds and calls since the start of the profile.
    let startSeconds: Double
    let startCalls: Double

    var slope: Double { seconds.isFinite ? (toRate - fromRate) / seconds : 0 }
    var endSeconds: Double { startSeconds + seconds }
    var endCalls: Double {
      seconds.isFinite ? startCalls + (fromRate + toRate) / 2 * seconds : .infinity
    }

    /// Seconds since the start of the profile at which C is `calls`, which lies in this segment.
    ///
    /// Of n = f·t + s·t²/2 the root that does not cancel: t = 2n / (f + √(f² + 2·s·n)).
    func seconds(at calls: Double) -> Double {
      let inside = max(0, calls - startCalls)
      if fromRate == toRate { return startSeconds + (inside > 0 ? inside / fromRate : 0) }
      let root = max(0, fromRate * fromRate + 2 * slope * inside).squareRoot()
      return startSeconds + (inside > 0 ? min(seconds, 2 * inside / (fromRate + root)) : 0)
    }
  }

  package private(set) var segments: [Segment] = []

  /// The least rate above 0, and the highest.
  package static let rateMinimum = 0.001
  package static let rateMaximum = 10_000_000.0
  package static let segmentsMaximum = 1_000

  private init() {}

  /// The same rate without an end.
  ///
  /// - Parameter ratePerSecond: over all connections, `rateMinimum` to `rateMaximum`.
  package init(ratePerSecond: Double) { append(ratePerSecond, ratePerSecond, .infinity) }

  private mutating func append(_ fromRate: Double, _ toRate: Double, _ seconds: Double) {
    segments.append(
      Segment(
        fromRate: fromRate, toRate: toRate, seconds: seconds,
        startSeconds: segments.last?.endSeconds ?? 0, startCalls: segments.last?.endCalls ?? 0))
  }

  /// How long it lasts; nil without an end.
  package var seconds: Double? {
    segments.last.flatMap { $0.endSeconds.isFinite ? $0.endSeconds : nil }
  }

  package var ratePerSecondHighest: Double {
    segments.reduce(0) { max($0, $1.fromRate, $1.toRate) }
  }

  /// Calls per second at a time, 0 outside the profile.
  package func rate(atSeconds seconds: Double) -> Double {
    guard let segment = segment(atSeconds: seconds) else { return 0 }
    return segment.fromRate + segment.slope * (seconds - segment.startSeconds)
  }

  /// C: calls due up to a time, at most all.
  package func calls(untilSeconds seconds: Double) -> Double {
    guard seconds > 0, let last = segments.last else { return 0 }
    guard let segment = segment(atSeconds: seconds) else { return last.endCalls }
    let inside = seconds - segment.startSeconds
    return segment.startCalls + (segment.fromRate + segment.slope * inside / 2) * inside
  }

  private func segment(atSeconds seconds: Double) -> Segment? {
    segments.first { seconds >= $0.startSeconds && seconds < $0.endSeconds }
  }

  /// The same, after `seconds` at the rate that it begins with.
  package func warmedUp(seconds: Double) -> LoadProfile {
    guard seconds > 0, let first = segments.first else { return self }
    var profile = LoadProfile()
    profile.append(first.fromRate, first.fromRate, seconds)
    for segment in segments { profile.append(segment.fromRate, segment.toRate, segment.seconds) }
    return profile
  }
}

// MARK: As text

extension LoadProfile: CustomStringConvertible {
  package static let textHelp =
    "5000, or steps and ramps with their lengths: 10000/10s,20000/10s or 0-50000/30s"

  /// - Parameter text: RATE, or segments RATE/TIME or FROM-TO/TIME with commas between them. Rates
  ///   are calls per second, 0 or 0.001 to 10,000,000, not all 0; times as `Seconds` takes them, up to 24 h in
  ///   all.
  package init?(_ text: String) {
    let parts = text.split(separator: ",", omittingEmptySubsequences: false)
    guard parts.count <= LoadProfile.segmentsMaximum else { return nil }
    if parts.count == 1, let rate = LoadProfile.rate(parts[0]) {
      append(rate, rate, .infinity)
    } else {
      for part in parts {
        let halves = part.split(separator: "/", omittingEmptySubsequences: false)
        let rates = halves[0].split(separator: "-", omittingEmptySubsequences: false)
        guard halves.count == 2, rates.count <= 2, let from = LoadProfile.rate(rates[0]),
          let to = LoadProfile.rate(rates[rates.count - 1]), let time = Seconds(String(halves[1])),
          time.seconds > 0
        else { return nil }
        append(from, to, time.seconds)
      }
    }
    guard ratePerSecondHighest > 0, seconds ?? 0 <= 86_400 else { return nil }
  }

  private static func rate(_ text: Substring) -> Double? {
    guard let rate = Double(text), rate == 0 || (rateMinimum...rateMaximum).contains(rate) else {
      return nil
    }
    return rate
  }

  /// As `init?(_:)` takes it.
  package var description: String {
    segments.map { segment in
      let from = Seconds.decimal(segment.fromRate)
      guard segment.seconds.isFinite else { return from }
      let rates =
        segment.fromRate == segment.toRate ? from : "\(from)-\(Seconds.decimal(segment.toRate))"
      return "\(rates)/\(Seconds.decimal(segment.seconds))s"
    }.joined(separator: ",")
  }
}
