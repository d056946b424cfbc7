internal import Synchronization

/// How much of what was read is kept in memory by whoever has yet to send it.
final class RetainedBytes: Sendable {
  private let count = Atomic<Int>(0)

  var value: Int { count.load(ordering: .relaxed) }

  func add(_ bytes: Int) { count.add(bytes, ordering: .relaxed) }
}
