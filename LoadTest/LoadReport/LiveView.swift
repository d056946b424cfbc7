// How a run stands while it goes on: a few lines that are redrawn in place on a terminal, a plain line
// every few seconds elsewhere.
//
// Lines are never redrawn by hiding the cursor or by another screen: whatever ends the program, the
// terminal is as it was.
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
package struct LiveView {
  private let canRedraw: Bool
  private var picture = LivePicture()
  private var shownSeconds: Double?
  private var linesDrawn = 0
  private static let redrawSeconds = 0.2
  private static let plainSeconds = 5.0

  package init() { canRedraw = Terminal(descriptor: 2).canRedraw }

  /// Draws how the run stands now, if it is time to.
  package mutating func show(_ progress: Progress) {
    picture.take(progress)
    let elapsed = progress.elapsedSeconds - (shownSeconds ?? 0)
    guard elapsed >= (canRedraw ? LiveView.redrawSeconds : LiveView.plainSeconds) else { return }
    shownSeconds = progress.elapsedSeconds
    guard canRedraw else {
      write(picture.plainLine + "\n")
      return
    }
    // Its size may have changed since the last time.
    let lines = picture.lines(on: Terminal(descriptor: 2))
    write(LiveView.redrawing(linesDrawn, with: lines))
    linesDrawn = lines.count
  }

  /// Takes the lines away, for the report to follow.
  package mutating func clear() {
    if linesDrawn > 0 { write(LiveView.redrawing(linesDrawn, with: [])) }
    linesDrawn = 0
    shownSeconds = nil
    picture = LivePicture()
  }

  /// Moves up over `count` lines, and writes others in their place.
  static func redrawing(_ count: Int, with lines: [String]) -> String {
    let up = count > 0 ? "\u{1b}[\(count)A\r" : ""
    return up + "\u{1b}[0J" + lines.map { $0 + "\n" }.joined()
  }

  private func write(_ text: String) {
    let bytes = Array(text.utf8)
    // Nobody is told where standard error is closed.
    _ = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(2, $0.baseAddress, $0.count) }
  }
}

/// What there is to be seen, as text.
struct LivePicture {
  private var progress = Progress()
  /// At least a second before, and at most two; and the one that follows it.
  private var earlier = Progress()
  private var next = Progress()
  /// Answers per second of the intervals so far, the last ones.
  private var rates: [Double] = []
  private var lastIntervalStart: Double?
  private static let ratesKept = 60
  private static let labelWidth = 10

  mutating func take(_ progress: Progress) {
    self.progress = progress
    if progress.elapsedSeconds - next.elapsedSeconds >= 1 {
      earlier = next
      next = progress
    }
    guard let interval = progress.interval, interval.startSeconds != lastIntervalStart,
      interval.seconds > 0
    else { return }
    lastIntervalStart = interval.startSeconds
    rates.append(Double(interval.answered) / interval.seconds)
    if rates.count > LivePicture.ratesKept { rates.removeFirst() }
  }

  /// Over less than a second, it would jump about.
  private var rateNow: Double {
    let seconds = progress.elapsedSeconds - earlier.elapsedSeconds
    return seconds > 0 ? Double(progress.answered - earlier.answered) / seconds : 0
  }

  /// For a log.
  var plainLine: String {
    var facts = [
      "\(Text.right(Text.decimal(progress.elapsedSeconds, 1), 6)) \(goal)", rateText,
    ]
    if let latency { facts.append(latency) }
    facts.append(decided)
    if let failed { facts.append(failed) }
    return facts.joined(separator: " · ")
  }

  /// For a terminal: none is wider than it.
  func lines(on terminal: Terminal) -> [String] {
    var lines = [progressLine(on: terminal)]
    let room = max(0, terminal.columns - LivePicture.labelWidth - 1)
    func add(_ label: String, _ text: String, tail: String = "", tailStyle: TextStyle = .accent) {
      let fitting = String(text.prefix(room))
      let gap = tail.isEmpty || fitting.count + 2 + tail.count > room ? "" : "  \(tail)"
      lines.append(
        terminal.styled(Text.left(label, LivePicture.labelWidth), .dim) + fitting
          + terminal.styled(gap, tailStyle))
    }
    let sparkRoom = min(LivePicture.ratesKept, max(0, room - rateText.count - 2))
    add("rate", rateText, tail: LivePicture.sparkline(Array(rates.suffix(sparkRoom))))
    if let latency { add("latency", latency) }
    let failed = failed ?? ""
    // What failed is not what is cut off.
    let fits = decided.count + 2 + failed.count <= room
    add("calls", fits ? decided : "\(failed) · \(decided)", tail: failed, tailStyle: .bad)
    if let server = progress.interval?.server.flatMap(LivePicture.text(of:)) {
      add("server", server)
    }
    return lines
  }

  private func progressLine(on terminal: Terminal) -> String {
    let share = share
    let times = "\(Text.decimal(progress.elapsedSeconds, 1)) \(goal)"
    let percent = share.map { Text.right(Text.decimal($0 * 100, 0), 3) + " %" } ?? ""
    let room = terminal.columns - LivePicture.labelWidth - percent.count - times.count - 5
    let label = terminal.styled(Text.left("running", LivePicture.labelWidth), .dim)
    guard let share, room >= 10 else {
      return label + String(times.prefix(max(0, terminal.columns - LivePicture.labelWidth - 1)))
    }
    let bar = LivePicture.bar(share, width: min(40, room))
    return label + terminal.styled(bar, .accent) + " \(percent)  \(times)"
  }

  private var share: Double? {
    if let seconds = progress.totalSeconds, seconds > 0 {
      return min(1, max(0, progress.elapsedSeconds / seconds))
    }
    guard let operations = progress.totalOperations, operations > 0 else { return nil }
    return min(1, max(0, Double(progress.answered) / Double(operations)))
  }

  private var goal: String {
    if let seconds = progress.totalSeconds { return "of \(Text.decimal(seconds, 1)) s" }
    guard let operations = progress.totalOperations else { return "s" }
    return "s · \(Text.count(Int64(progress.answered))) of \(Text.counted(operations, "call"))"
  }

  private var rateText: String {
    var asked = ""
    if let scheduled = progress.interval?.scheduledPerSecond, scheduled > 0 {
      asked = " of \(Text.decimal(scheduled, 0))"
    }
    return "\(Text.decimal(rateNow, 0))\(asked) requests/s"
  }

  private var latency: String? {
    guard let latency = progress.interval?.latencyMicroseconds, latency.count > 0 else {
      return nil
    }
    return [("p50", latency.p50), ("p99", latency.p99), ("max", latency.max)]
      .map { "\($0) \(Text.duration(microseconds: $1))" }.joined(separator: " · ")
  }

  private var decided: String {
    "\(Text.count(Int64(progress.accepted))) accepted · "
      + "\(Text.count(Int64(progress.refused))) refused"
  }

  private var failed: String? {
    progress.failed > 0 ? "\(Text.count(Int64(progress.failed))) FAILED" : nil
  }

  private static func text(of server: Report.ServerSample) -> String? {
    let facts = [
      server.conflictsPerSecond.map { Text.counted($0, "conflict") + "/s" },
      server.retriesPerSecond.map { Text.counted($0, "retry", "retries") + "/s" },
      server.syncMicroseconds.map { "sync \(Text.duration(microseconds: $0))" },
      server.processorShare.map { "\(Text.decimal($0, 2)) of a processor" },
    ].compactMap { $0 }
    return facts.isEmpty ? nil : facts.joined(separator: " · ")
  }

  // MARK: Drawing

  /// A bar of `width` characters, drawn to an eighth of one.
  static func bar(_ share: Double, width: Int) -> String {
    let eighths = Int((min(1, max(0, share)) * Double(width * 8)).rounded())
    let partial = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8]
    let full = String(repeating: "█", count: eighths / 8) + partial
    return full + String(repeating: "░", count: max(0, width - full.count))
  }

  /// A character for each value, the higher the greater, from 0 up to the greatest.
  static func sparkline(_ values: [Double]) -> String {
    let levels = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"]
    guard let greatest = values.max(), greatest > 0, greatest.isFinite else { return "" }
    return values.map { levels[min(7, max(0, Int($0 / greatest * 7.999)))] }.joined()
  }
}
