// The line that shows how a run stands: redrawn in place on a terminal, a plain line every few
// seconds elsewhere.
internal import Glibc

/// How a run stands. Counts are of all calls since its start.
package struct Progress: Sendable {
  package var elapsedSeconds = 0.0
  package var totalSeconds: Double?
  package var totalOperations: Int?
  package var answered = 0
  package var accepted = 0
  package var refused = 0
  package var failed = 0
  /// The last whole interval: its rate and percentiles, what the server's metrics said.
  package var interval: Report.Interval?

  package init() {}
}

/// Draws progress on standard error.
package struct ProgressLine {
  private let isTerminal: Bool
  private var last: Progress?
  private static let terminalSeconds = 0.2
  private static let plainSeconds = 5.0

  package init() { isTerminal = isatty(2) == 1 }

  package mutating func show(_ progress: Progress) {
    let elapsed = progress.elapsedSeconds - (last?.elapsedSeconds ?? 0)
    guard elapsed >= (isTerminal ? ProgressLine.terminalSeconds : ProgressLine.plainSeconds) else {
      return
    }
    let line = ProgressLine.text(progress, since: last)
    last = progress
    write(isTerminal ? "\r\u{1b}[2K" + line : line + "\n")
  }

  /// Takes the line away, for the report to follow.
  package mutating func clear() {
    if isTerminal, last != nil { write("\r\u{1b}[2K") }
    last = nil
  }

  /// The line; the rate is of the time since `earlier`.
  package static func text(_ progress: Progress, since earlier: Progress?) -> String {
    let seconds = progress.elapsedSeconds - (earlier?.elapsedSeconds ?? 0)
    let rate = seconds > 0 ? Double(progress.answered - (earlier?.answered ?? 0)) / seconds : 0
    let elapsed = Text.right(Text.decimal(progress.elapsedSeconds, 1), 6)
    let part =
      progress.totalSeconds.map { "\(elapsed) of \(Text.decimal($0, 1)) s" }
      ?? progress.totalOperations.map {
        "\(elapsed) s · \(Text.count(Int64(progress.answered))) of \(Text.count(Int64($0))) calls"
      } ?? "\(elapsed) s"
    let counts = [("accepted", progress.accepted), ("refused", progress.refused)]
      .map { "\(Text.count(Int64($0.1))) \($0.0)" }
    let failed = progress.failed > 0 ? " · \(Text.count(Int64(progress.failed))) FAILED" : ""
    return "\(part) · \(Text.decimal(rate, 0)) requests/s · "
      + "\(counts.joined(separator: " · "))\(failed)"
  }

  private func write(_ text: String) {
    let bytes = Array(text.utf8)
    // Nobody is told where standard error is closed.
    _ = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(2, $0.baseAddress, $0.count) }
  }
}
