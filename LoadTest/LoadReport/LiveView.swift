// How a run stands while it goes on: a full screen on a terminal that is wide and high enough, a few
// lines that are redrawn in place on a smaller one, a plain line every few seconds elsewhere.
//
// The few lines need nothing of the terminal: whatever ends the program, it is as it was. The full screen
// is the terminal's other one (AlternateScreen.swift), which is left whatever happens but SIGKILL.
internal import Glibc

/// How a run stands. Counts are of all calls since its start.
package struct Progress: Sendable {
  package enum Phase: Sendable {
    case warmUp, measuring, draining
    /// It ends before its time.
    case ending
  }

  /// One method in a window.
  package struct MethodWindow: Sendable {
    package var name: String
    package var perSecond: Double
    package var latency: LatencySummary

    package init(name: String, perSecond: Double, latency: LatencySummary) {
      self.name = name
      self.perSecond = perSecond
      self.latency = latency
    }
  }

  /// The last second or so.
  package struct Window: Sendable {
    /// Since the first call was due.
    package var endSeconds = 0.0
    package var requestsPerSecond = 0.0
    package var latency = LatencySummary()
    package var buckets = LatencyBuckets()
    package var methods: [MethodWindow] = []

    package init() {}
  }

  package var phase = Phase.measuring
  package var elapsedSeconds = 0.0
  package var totalSeconds: Double?
  package var totalOperations: Int?
  package var answered = 0
  package var accepted = 0
  package var refused = 0
  package var failed = 0
  /// The last whole interval: its rate and percentiles, what the server's metrics said.
  package var interval: Report.Interval?
  package var window: Window?
  /// By `Outcome.name` and by gRPC code, since the start.
  package var outcomes: [String: Int] = [:]
  package var codes: [String: Int] = [:]
  /// The last that was read of the server's metrics.
  package var server: Report.ServerSample?
  /// Balances that were read and held against the calls; nil where none are.
  package var balancesCompared: Int?
  /// What was found wrong with them, and what the server itself counts as violated.
  package var faults = 0
  package var firstFault: String?
  /// What ends the run before its time.
  package var abort: Report.Abort?
  /// Generators on other machines: their addresses, and how each stands.
  package var agents: [(name: String, state: String)] = []

  package init() {}
}

/// Draws progress on standard error.
package struct LiveView {
  private let canRedraw: Bool
  private var picture: LivePicture
  private let title: String
  private var shownSeconds: Double?
  private var linesDrawn = 0
  private static let redrawSeconds = 0.2
  private static let plainSeconds = 5.0

  /// - Parameter title: what is run, for the head of a full screen.
  package init(title: String = "") {
    canRedraw = Terminal(descriptor: 2).canRedraw
    self.title = title
    picture = LivePicture()
  }

  /// Draws how the run stands now, if it is time to.
  package mutating func show(_ progress: Progress) {
    picture.take(progress)
    let elapsed = progress.elapsedSeconds - (shownSeconds ?? 0)
    let isDue = elapsed >= (canRedraw ? LiveView.redrawSeconds : LiveView.plainSeconds)
    guard isDue || AlternateScreen.wantsRedraw else { return }
    shownSeconds = progress.elapsedSeconds
    guard canRedraw else {
      write(picture.plainLine + "\n")
      return
    }
    // Its size may have changed since the last time.
    let terminal = Terminal(descriptor: 2)
    if LiveScreen.fits(terminal) {
      if !AlternateScreen.isEntered { takeLinesAway() }
      guard AlternateScreen.enter() else { return }
      write(AlternateScreen.drawing(LiveScreen(picture, title: title).rows(on: terminal)))
      return
    }
    AlternateScreen.leave()
    // Somebody else has the terminal.
    guard AlternateScreen.isInForeground else { return }
    let lines = picture.lines(on: terminal)
    write(LiveView.redrawing(linesDrawn, with: lines))
    linesDrawn = lines.count
  }

  /// Takes the lines away, for the report to follow.
  package mutating func clear() {
    AlternateScreen.leave()
    takeLinesAway()
    shownSeconds = nil
    picture = LivePicture()
  }

  private mutating func takeLinesAway() {
    if linesDrawn > 0 { write(LiveView.redrawing(linesDrawn, with: [])) }
    linesDrawn = 0
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
  private(set) var progress = Progress()
  /// At least a second before, and at most two; and the one that follows it.
  private var earlier = Progress()
  private var next = Progress()
  /// Answers per second and 99th percentiles of the intervals so far, the last ones; of seconds, where
  /// intervals are longer.
  private(set) var rates: [Double] = []
  private(set) var tails: [Double] = []
  private var lastPoint: Double?
  private static let ratesKept = 300
  private static let ratesShown = 60
  private static let labelWidth = 10

  mutating func take(_ progress: Progress) {
    self.progress = progress
    if progress.elapsedSeconds - next.elapsedSeconds >= 1 {
      earlier = next
      next = progress
    }
    if let interval = progress.interval, interval.seconds <= 1 {
      guard interval.startSeconds != lastPoint, interval.seconds > 0 else { return }
      lastPoint = interval.startSeconds
      add(Double(interval.answered) / interval.seconds, interval.latencyMicroseconds)
    } else if let window = progress.window, window.endSeconds != lastPoint {
      lastPoint = window.endSeconds
      add(window.requestsPerSecond, window.latency)
    }
  }

  private mutating func add(_ rate: Double, _ latency: LatencySummary) {
    rates.append(rate)
    tails.append(latency.p99)
    if rates.count > LivePicture.ratesKept {
      rates.removeFirst()
      tails.removeFirst()
    }
  }

  /// Over less than a second, it would jump about.
  var rateNow: Double {
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
    let sparkRoom = min(LivePicture.ratesShown, max(0, room - rateText.count - 2))
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

  var share: Double? {
    if let seconds = progress.totalSeconds, seconds > 0 {
      return min(1, max(0, progress.elapsedSeconds / seconds))
    }
    guard let operations = progress.totalOperations, operations > 0 else { return nil }
    return min(1, max(0, Double(progress.answered) / Double(operations)))
  }

  var goal: String {
    if let seconds = progress.totalSeconds { return "of \(Text.decimal(seconds, 1)) s" }
    guard let operations = progress.totalOperations else { return "s" }
    return "s · \(Text.count(Int64(progress.answered))) of \(Text.counted(operations, "call"))"
  }

  var rateText: String {
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

  var decided: String {
    "\(Text.count(Int64(progress.accepted))) accepted · "
      + "\(Text.count(Int64(progress.refused))) refused"
  }

  var failed: String? {
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
