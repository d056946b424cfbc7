// The library's log, passed on a line at a time, and no more than somebody would read.

/// One for each connection; used by its thread.
final class KafkaLog {
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

  private let report: (String) -> Void
  private var kinds: [String: Kind] = [:]

  init(_ report: @escaping (String) -> Void) { self.report = report }

  /// - Parameters:
  ///   - facility: the library's word for the kind of line.
  ///   - now: monotonic nanoseconds.
  func note(facility: String, _ text: String, now: Int64) {
    if var kind = kinds[facility] {
      guard now - kind.toldAt >= kind.interval else {
        kind.leftOut += 1
        kinds[facility] = kind
        return
      }
      let leftOut = kind.leftOut == 0 ? "" : " (\(kind.leftOut) more of \(facility) before it)"
      let isNew = now - kind.toldAt >= Self.intervals.upperBound && kind.leftOut == 0
      let next = isNew ? Self.intervals.lowerBound : kind.interval * 2
      kinds[facility] = Kind(toldAt: now, interval: min(next, Self.intervals.upperBound))
      report("\(text)\(leftOut)")
      return
    }
    guard kinds.count < Self.facilitiesMax else { return }
    kinds[facility] = Kind(toldAt: now, interval: Self.intervals.lowerBound)
    report(text)
  }

  /// A line of this module's own.
  func note(_ text: String) { report(text) }
}
