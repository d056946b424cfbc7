/// Something that must never be: what a run has found.
package struct Violation: Error, CustomStringConvertible, Sendable {
  package let seed: UInt64
  /// The run's step, from 1; 0 before the first, and where there are no steps.
  package let step: Int
  package let expected: String
  package let seen: String
  /// Arguments that show it again.
  package let arguments: String

  package var description: String {
    """
    seed \(seed), step \(step)
      expected: \(expected)
      seen:     \(seen)
      again:    make simulate ARGS='\(arguments)'
    """
  }
}
