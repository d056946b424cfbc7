internal import Synchronization

/// Where decisions go. `append` is called while everything that the decision changes is locked, so that
/// the order of the log is the order of the commits. In memory there is nothing to write: it counts.
struct DecisionLog {
  private struct Header: ~Copyable {
    let last = Atomic<UInt64>(0)
  }

  private let header = PaddedArray<Header>(count: 1) { _ in Header() }

  /// The number of the newest decision; 0 before the first.
  var last: UInt64 { header[0].last.load(ordering: .acquiring) }

  func free() { header.free() }

  /// The log sequence number of a new decision, from 1.
  @inline(__always)
  func append() -> UInt64 { header[0].last.wrappingAdd(1, ordering: .relaxed).newValue }
}
