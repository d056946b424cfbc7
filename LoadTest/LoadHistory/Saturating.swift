// Sums of what may be any 64 bits: a server or a file can state whatever it likes.

extension Int64 {
  /// The sum, or what is nearest to it.
  func plus(_ other: Int64) -> Int64 {
    let (sum, isOverflow) = addingReportingOverflow(other)
    return isOverflow ? (other < 0 ? .min : .max) : sum
  }

  /// The difference, or what is nearest to it.
  func minus(_ other: Int64) -> Int64 {
    let (difference, isOverflow) = subtractingReportingOverflow(other)
    return isOverflow ? (other < 0 ? .max : .min) : difference
  }
}
