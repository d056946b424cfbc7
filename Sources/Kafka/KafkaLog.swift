// The library's log, passed on a line at a time, and no more than somebody would read.
internal import Synchronization

/// What was told, and when. Outlives the connections of a program: a cluster that is away is connected to again and again.
package final class KafkaLog: Sendable {
  /// Lines of one kind within so many nanoseconds: the first one is told. Twice as many after each one that is, so that a
  /// cluster that is away does not fill a log; after silence for as long as it may be, the first ones again.
  private static let intervals: ClosedRange<Int64> = 1_000_000_000...64_000_000_000
  /// The library has some dozens.
  private static let facilitiesMax = 256

  private struct Kind {
    var toldAt: Int64
    var interval: Int64
    var leftOut = 0
  }

  private let report: @Sendable (String) -> Void
  private let kinds = Mutex<[String: Kind]>([:])

  /// - Parameter report: gets a line at a time, less and less often of one kind.
  package init(_ report: @escaping @Sendable (String) -> Void = { _ in }) { self.report = report }

  /// - Parameters:
  ///   - facility: the library's word for the kind of line.
  ///   - now: monotonic nanoseconds.
  func note(facility: String, _ text: String, now: Int64) {
    if let line = kinds.withLock({ Self.line(facility, text, now, &$0) }) { report(line) }
  }

  /// What is to be told; nil: nothing.
  private static func line(
    _ facility: String, _ text: String, _ now: Int64, _ kinds: inout [String: Kind]
  ) -> String? {
    guard let kind = kinds[facility] else {
      guard kinds.count < facilitiesMax else { return nil }
      kinds[facility] = Kind(toldAt: now, interval: intervals.lowerBound)
      return text
    }
    guard now - kind.toldAt >= kind.interval else {
      kinds[facility]?.leftOut += 1
      return nil
    }
    let isNew = now - kind.toldAt >= intervals.upperBound && kind.leftOut == 0
    let next = isNew ? intervals.lowerBound : min(kind.interval * 2, intervals.upperBound)
    kinds[facility] = Kind(toldAt: now, interval: next)
    return kind.leftOut == 0 ? text : "\(text) (\(kind.leftOut) more of \(facility) before it)"
  }

  /// A line of this module's own.
  func note(_ text: String) { report(text) }
}
