// What ends a run before its time, as --abort-if takes it: 'errors>5% for 3s', 'p99>200ms for 5s'.
//
//   condition = threshold ["for" time]
//
// A condition is about the last so many seconds of the measured part taken together, looked at about
// once a second. Until so much was measured it is not so.
internal import LoadHistory
package import LoadReport

package struct AbortCondition: Sendable {
  /// As it was given.
  package let expression: String
  let threshold: Threshold
  let seconds: Double

  /// Without a time of its own.
  private static let secondsDefault = 5.0
  private static let secondsAllowed = 1.0...600.0

  /// - Throws: in one line what is wrong with it.
  package init(_ expression: String) throws(ThresholdError) {
    var text = expression[...]
    var seconds = AbortCondition.secondsDefault
    func refuse(_ reason: String) -> ThresholdError {
      ThresholdError("'\(Text.printable(expression))' is no condition: \(reason)")
    }
    if let word = expression.ranges(of: "for").last {
      let time = expression[word.upperBound...].filter { !$0.isWhitespace }
      guard let given = Seconds(String(time)), AbortCondition.secondsAllowed.contains(given.seconds)
      else { throw refuse("behind 'for' stands a time of 1s to 10m") }
      seconds = given.seconds
      text = expression[..<word.lowerBound]
    }
    threshold = try Threshold(String(text))
    switch threshold.subject {
    case .conflicts, .latency("message"):
      throw refuse("what is looked at during a run is rate, errors, and latencies but message.")
    case .rate, .errors, .latency: break
    }
    self.expression = expression
    self.seconds = seconds
  }
}

/// Looks at a run's slices as they come.
struct AbortWatch {
  private let conditions: [AbortCondition]
  private let isOpenLoop: Bool
  private let thinks: Bool
  private var entries: [Entry] = []
  private let secondsKept: Double

  /// Latencies of one slice and one subject, as few numbers as they need.
  private struct Counts {
    var values: [(nanoseconds: UInt64, count: Int)] = []

    init(_ latencies: borrowing Latencies) {
      latencies.forEachValue { values.append(($0, $1)) }
    }
  }

  private struct Entry {
    let seconds: Double
    let endSeconds: Double
    let answered: Int
    let outcomes: [Int]
    var latencies: [String: Counts] = [:]
  }

  init(_ options: RunOptions) {
    conditions = options.abortConditions
    isOpenLoop = options.profile != nil
    thinks = options.workload.thinkTimeNanoseconds.upperBound > 0
    secondsKept = conditions.map(\.seconds).max() ?? 0
  }

  /// Takes a slice. What ends the run, where it does.
  mutating func take(_ slice: Slice) -> Report.Abort? {
    guard !conditions.isEmpty, slice.counts.isMeasured, slice.seconds > 0 else { return nil }
    var entry = Entry(
      seconds: slice.seconds, endSeconds: slice.endSeconds, answered: slice.counts.answered,
      outcomes: slice.counts.outcomes)
    for condition in conditions {
      guard case .latency(let subject) = condition.threshold.subject,
        entry.latencies[subject] == nil
      else { continue }
      entry.latencies[subject] = AbortWatch.latencies(of: subject, in: slice.counts)
    }
    entries.append(entry)
    var kept = entries.reduce(0) { $0 + $1.seconds }
    while let first = entries.first, kept - first.seconds >= secondsKept {
      kept -= first.seconds
      entries.removeFirst()
    }
    for condition in conditions {
      if let abort = judge(condition) { return abort }
    }
    return nil
  }

  private static func latencies(of subject: String, in counts: IntervalCounts) -> Counts {
    switch subject {
    case "all": Counts(counts.latencies.all)
    case "service": Counts(counts.serviceTimesOrLatencies)
    case "lag": Counts(counts.scheduleLag)
    default:
      Counts(
        counts.latencies.methods.first { $0.name == subject }
          .flatMap { counts.latencies[$0] } ?? Latencies())
    }
  }

  private func judge(_ condition: AbortCondition) -> Report.Abort? {
    var seconds = 0.0
    var window: [Entry] = []
    for entry in entries.reversed() where seconds < condition.seconds - 1e-6 {
      window.append(entry)
      seconds += entry.seconds
    }
    guard seconds >= condition.seconds - 1e-6, let last = entries.last else { return nil }
    let result = condition.threshold.evaluate(figures(window, seconds, condition))
    guard result.isPassed else { return nil }
    var abort = Report.Abort()
    abort.expression = condition.expression
    abort.actual = result.actual
    abort.actualText = result.actualText
    abort.windowSeconds = seconds
    abort.atSeconds = last.endSeconds
    return abort
  }

  /// A report of the window alone, as far as a threshold asks for it.
  private func figures(
    _ window: [Entry], _ seconds: Double, _ condition: AbortCondition
  ) -> Report {
    var report = Report()
    let answered = window.reduce(0) { $0 + $1.answered }
    report.measuredSeconds = seconds
    report.requestsPerSecond = Double(answered) / seconds
    for outcome in Outcome.allCases {
      let count = window.reduce(0) { $0 + $1.outcomes[outcome.rawValue] }
      if count > 0 { report.outcomes[outcome.name] = count }
    }
    guard case .latency(let subject) = condition.threshold.subject else { return report }
    var latencies = Latencies()
    for entry in window {
      for (value, count) in entry.latencies[subject]?.values ?? [] {
        latencies.record(Int64(clamping: value), count: count)
      }
    }
    // Where nothing is answered at all, what is in flight has waited for as long, and longer.
    if answered == 0, !isOpenLoop, !thinks { latencies.record(Int64(seconds * 1e9)) }
    let summary = latencies.summary
    switch subject {
    case "service": report.serviceTimeMicroseconds = summary
    case "lag": report.scheduleLagMicroseconds = summary
    default: report.latencyMicroseconds[subject] = summary
    }
    return report
  }
}
