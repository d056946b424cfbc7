// The column `owner` of a log: who has it, and for how long without a sign of life.

/// NAME, or NAME/LEASEms. The tables have no place for the lease, and older servers use them too: to those all of it is
/// a name.
struct OwnerColumn: Equatable {
  /// Above every lease that can be set.
  private static let millisecondsMax: Int64 = 3_600_000

  let name: String
  /// In nanoseconds; nil where there is none.
  let lease: Int64?

  /// - Parameter lease: in nanoseconds, positive; rounded up to whole milliseconds.
  init(name: String, lease: Int64) {
    precondition(lease > 0)
    self.name = name
    self.lease = (lease - 1) / 1_000_000 * 1_000_000 + 1_000_000
  }

  /// What is no lease is part of the name.
  init(text: String) {
    guard let slash = text.lastIndex(of: "/"), text.hasSuffix("ms"),
      let milliseconds = Int64(text[text.index(after: slash)...].dropLast(2)),
      1...Self.millisecondsMax ~= milliseconds
    else {
      (name, lease) = (text, nil)
      return
    }
    (name, lease) = (String(text[..<slash]), milliseconds * 1_000_000)
  }

  var text: String { lease.map { "\(name)/\($0 / 1_000_000)ms" } ?? name }
}
