package import StockStore

/// Something that must never be: what a run has found.
package struct Violation: Error, CustomStringConvertible, Sendable {
  package let seed: UInt64
  package let fault: DeliberateFault?
  /// The run's step, from 1.
  package let step: Int
  package let expected: String
  package let seen: String

  package var description: String {
    let mutant = fault.map { " --mutant \($0.rawValue)" } ?? ""
    return """
      seed \(seed), step \(step)
        expected: \(expected)
        seen:     \(seen)
        again:    make simulate ARGS='--seed \(seed)\(mutant)'
      """
  }
}
