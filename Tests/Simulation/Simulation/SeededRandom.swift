/// Random numbers that a seed determines, on every machine (splitmix64, Steele and others).
package struct SeededRandom: RandomNumberGenerator {
  private var state: UInt64

  package init(seed: UInt64) { state = seed }

  package mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }

  /// True `percent` times of a hundred.
  package mutating func chance(_ percent: Int) -> Bool { number(0...99) < percent }

  /// A number of the range.
  package mutating func number<Number: FixedWidthInteger>(_ range: ClosedRange<Number>) -> Number {
    Number.random(in: range, using: &self)
  }

  /// One of `choices`, which must not be empty.
  package mutating func pick<Choices: RandomAccessCollection>(
    _ choices: Choices
  ) -> Choices.Element {
    choices[choices.index(choices.startIndex, offsetBy: number(0...choices.count - 1))]
  }

  /// A generator of its own, whose numbers depend on nothing that is drawn from this one later.
  package mutating func split() -> SeededRandom { SeededRandom(seed: next()) }
}
