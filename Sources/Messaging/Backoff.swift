/// How long to wait after something went wrong: twice as long each time, within limits, and never quite the same, so
/// that many who lost one broker do not come back at once.
package struct Backoff {
  /// Nanoseconds.
  private static let min: Int64 = 100_000_000
  private static let max: Int64 = 10_000_000_000

  private var next = Backoff.min

  package init() {}

  /// It goes well again.
  package mutating func reset() { next = Self.min }

  /// Nanoseconds to wait now: between a half and the whole of what has doubled.
  package mutating func wait(_ random: inout some RandomNumberGenerator) -> Int64 {
    defer { next = Swift.min(next * 2, Self.max) }
    return Int64.random(in: next / 2...next, using: &random)
  }
}
