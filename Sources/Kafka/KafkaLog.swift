// The library's log, passed on a line at a time, and no more than somebody would read.

/// One for each connection; used by its thread.
final class KafkaLog {
  /// Lines of one kind within so many nanoseconds: the first one is told.
  private static let interval: Int64 = 1_000_000_000
  /// The library has some dozens.
  private static let facilitiesMax = 256

  private struct Kind {
    var toldAt: Int64
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
      guard now - kind.toldAt >= Self.interval else {
        kind.leftOut += 1
        kinds[facility] = kind
        return
      }
      let leftOut = kind.leftOut == 0 ? "" : " (\(kind.leftOut) more of \(facility) before it)"
      kinds[facility] = Kind(toldAt: now)
      report("\(text)\(leftOut)")
      return
    }
    guard kinds.count < Self.facilitiesMax else { return }
    kinds[facility] = Kind(toldAt: now)
    report(text)
  }

  /// A line of this module's own.
  func note(_ text: String) { report(text) }
}
