/// A length of time as people write it.
package struct Seconds: Sendable, CustomStringConvertible {
  /// 0 or more.
  package let seconds: Double

  package init(_ seconds: Double) { self.seconds = seconds }

  /// - Parameter text: a number that is not negative, and its unit: us, ms, s, m or h; s without one.
  package init?(_ text: String) {
    let number = text.prefix { !$0.isLetter }
    var (factor, divisor) = (1.0, 1.0)
    switch text.dropFirst(number.count) {
    case "us", "µs": divisor = 1_000_000
    case "ms": divisor = 1_000
    case "", "s": break
    case "m": factor = 60
    case "h": factor = 3_600
    default: return nil
    }
    guard let value = Double(number), value >= 0, (value * factor).isFinite else { return nil }
    seconds = value * factor / divisor
  }

  package var description: String { Seconds.decimal(seconds) }

  /// The shortest text of a number, a whole one without a point.
  package static func decimal(_ number: Double) -> String {
    Int64(exactly: number).map { "\($0)" } ?? "\(number)"
  }
}
