/// A length of time as people write it.
package struct Seconds: Sendable {
  package let seconds: Double

  /// - Parameter text: a number that is not negative, and its unit: us, ms, s, m or h; s without one.
  package init?(_ text: String) {
    let number = text.prefix { !$0.isLetter }
    let scale: Double
    switch text.dropFirst(number.count) {
    case "us", "µs": scale = 1e-6
    case "ms": scale = 1e-3
    case "", "s": scale = 1
    case "m": scale = 60
    case "h": scale = 3_600
    default: return nil
    }
    guard let value = Double(number), value >= 0, value.isFinite else { return nil }
    seconds = value * scale
  }

  /// The shortest text of a number, a whole one without a point.
  package static func decimal(_ number: Double) -> String {
    Int64(exactly: number).map { "\($0)" } ?? "\(number)"
  }
}
