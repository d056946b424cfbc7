internal import Glibc

/// SplitMix64 (Steele, Lea, Flood 2014): the same seed gives the same draws everywhere.
package struct Random: RandomNumberGenerator, Sendable {
  private var state: UInt64

  package init(seed: UInt64) { state = seed }

  package mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }

  /// 0 up to, not including, `bound`; 0 for a bound of 0.
  package mutating func below(_ bound: UInt64) -> UInt64 {
    next().multipliedFullWidth(by: bound).high
  }

  /// From 0 up to, not including, 1; a multiple of 2^-53.
  package mutating func fraction() -> Double { Double(next() >> 11) * 0x1p-53 }

  /// True with probability `share` (0 to 1). Draws nothing where the answer is certain.
  package mutating func chance(_ share: Double) -> Bool {
    share > 0 && (share >= 1 || fraction() < share)
  }

  /// Any number of `range`, each as likely.
  package mutating func within<Number: FixedWidthInteger>(_ range: ClosedRange<Number>) -> Number {
    guard range.lowerBound < range.upperBound else { return range.lowerBound }
    let width = UInt64(truncatingIfNeeded: range.upperBound &- range.lowerBound)
    return range.lowerBound &+ Number(truncatingIfNeeded: below(width &+ 1))
  }

  /// A draw of the exponential distribution with mean 1: at or above 0, below 37.
  package mutating func exponential() -> Double { -log1p(-fraction()) }
}
