// Why a command is refused, where there is more than one reason.

/// Refusals of one command, as many as it can have lines.
struct RefusalList {
  private let refusals: FixedArray<Refusal>
  private(set) var count = 0
  /// Of a reserve that had alternatives: how many were tried, its lines included; else 0.
  var alternativesTried = 0

  init(capacity: Int) {
    refusals = FixedArray(capacity: capacity, repeating: .reservationNotFound)
  }

  func free() { refusals.free() }

  subscript(index: Int) -> Refusal {
    precondition(index >= 0 && index < count, "no such refusal")
    return refusals[index]
  }

  @inline(__always)
  mutating func removeAll() {
    count = 0
    alternativesTried = 0
  }

  mutating func append(_ refusal: Refusal) {
    refusals[count] = refusal
    count += 1
  }
}
