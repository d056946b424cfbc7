// A run on a full screen: what the lines of a small terminal say, and beside it the latencies of the last
// second, methods, outcomes, codes, the server, and what is known of its invariants.

struct LiveScreen {
  private let picture: LivePicture
  private let title: String
  private var progress: Progress { picture.progress }

  /// On fewer columns or rows there are a few lines instead.
  private static let columnsMinimum = 100
  private static let rowsMinimum = 24
  private static let labelWidth = 10
  /// Rows that are not the block in the middle.
  private static let rowsAround = 12

  init(_ picture: LivePicture, title: String) {
    self.picture = picture
    self.title = title
  }

  static func fits(_ terminal: Terminal) -> Bool {
    terminal.columns >= columnsMinimum && terminal.rows >= rowsMinimum
  }

  /// No more rows than the terminal has, none wider than it.
  func rows(on terminal: Terminal) -> [String] {
    let width = terminal.columns
    var rows = [head(terminal), bar(terminal), ""]
    rows.append(spark("rate", picture.rateText, picture.rates, terminal))
    let tail = progress.window.map { "p99 \(Text.duration(microseconds: $0.latency.p99))" } ?? "—"
    rows.append(spark("latency", tail, picture.tails, terminal))
    rows.append(calls(terminal))
    rows.append("")
    let height = min(terminal.rows - LiveScreen.rowsAround, 26)
    let left = width * 44 / 100
    let histogram = histogram(width: left - 2, height: height)
    let tables = tables(width: width - left, height: height)
    for index in 0...height {
      let bars = Text.left(index < histogram.count ? histogram[index] : "", left)
      let (text, style) = index < tables.count ? tables[index] : ("", nil)
      rows.append(
        terminal.styled(bars, index == 0 ? .dim : .accent)
          + (style.map { terminal.styled(text, $0) } ?? text))
    }
    rows.append("")
    rows.append(labelled("server", server, nil, terminal))
    if !progress.agents.isEmpty { rows.append(labelled("agents", agents, nil, terminal)) }
    rows.append(labelled("verdict", verdict.text, verdict.style, terminal))
    return Array(rows.prefix(terminal.rows))
  }

  // MARK: Head

  private func head(_ terminal: Terminal) -> String {
    let (phase, style): (String, TextStyle) =
      switch progress.phase {
      case .warmUp: ("WARM-UP", .warning)
      case .measuring: ("MEASURING", .good)
      case .draining: ("DRAINING", .warning)
      case .ending: ("ENDING EARLY", .bad)
      }
    let name = "holdfast-load"
    let room = max(0, terminal.columns - name.count - phase.count - 4)
    let middle = String(Text.plain(title).prefix(room))
    return terminal.styled(name, .bold) + "  " + Text.left(middle, room) + "  "
      + terminal.styled(phase, style)
  }

  private func bar(_ terminal: Terminal) -> String {
    let share = picture.share
    var times = "\(Text.decimal(progress.elapsedSeconds, 1)) \(picture.goal)"
    if let left = secondsLeft { times += " · \(Text.decimal(left, 0)) s left" }
    if progress.phase == .warmUp, progress.totalSeconds == nil {
      times += " · until the run is steady"
    }
    let percent = share.map { Text.right(Text.decimal($0 * 100, 0), 3) + " %  " } ?? ""
    let room = max(0, terminal.columns - percent.count - times.count - 1)
    let bar = share.map { LivePicture.bar($0, width: room) } ?? ""
    return terminal.styled(bar, .accent) + (bar.isEmpty ? "" : " ")
      + String((percent + times).prefix(terminal.columns))
  }

  private var secondsLeft: Double? {
    if let seconds = progress.totalSeconds { return max(0, seconds - progress.elapsedSeconds) }
    guard let operations = progress.totalOperations, picture.rateNow > 0 else { return nil }
    return Double(max(0, operations - progress.answered)) / picture.rateNow
  }

  private func spark(
    _ label: String, _ text: String, _ values: [Double], _ terminal: Terminal
  ) -> String {
    let text = Text.left(text, 32)
    let room = max(0, terminal.columns - LiveScreen.labelWidth - text.count - 2)
    return terminal.styled(Text.left(label, LiveScreen.labelWidth), .dim) + text + "  "
      + terminal.styled(LivePicture.sparkline(Array(values.suffix(room))), .accent)
  }

  private func calls(_ terminal: Terminal) -> String {
    let label = terminal.styled(Text.left("calls", LiveScreen.labelWidth), .dim)
    return label + picture.decided + (picture.failed.map { "  " + terminal.styled($0, .bad) } ?? "")
  }

  // MARK: Block

  /// A title, then a row for each bucket that has something, and those between.
  private func histogram(width: Int, height: Int) -> [String] {
    let title = "latency, the last second"
    guard let buckets = progress.window?.buckets, buckets.count > 0 else { return [title] }
    let counts = buckets.counts
    let used = counts.indices.filter { counts[$0] > 0 }
    let last = used.last ?? 0
    // What does not fit is in the first row.
    let first = max(used.first ?? 0, last - height + 1)
    let most = counts[first...last].max() ?? 1
    let below = counts[..<first].reduce(0, +)
    var rows = [title]
    for index in first...last {
      let count = counts[index] + (index == first ? below : 0)
      let label = Text.right(LiveScreen.bound(index), 8)
      let number = Text.right(Text.count(Int64(count)), 10)
      let room = max(0, width - label.count - number.count - 2)
      let bar = LivePicture.bar(Double(count) / Double(max(1, max(most, count))), width: room)
        .replacing("░", with: " ")
      rows.append("\(label) \(bar) \(number)")
    }
    return rows
  }

  /// "≤ 200 µs"; of the last "> 10 s".
  private static func bound(_ index: Int) -> String {
    let bounds = LatencyBuckets.boundsNanoseconds
    let bound = bounds[min(index, bounds.count - 1)]
    return (index < bounds.count ? "≤ " : "> ")
      + Text.shortDuration(microseconds: Double(bound) / 1_000)
  }

  private func tables(width: Int, height: Int) -> [(String, TextStyle?)] {
    func line(_ name: String, _ cells: [String]) -> String {
      String(
        (Text.left(name, 13) + cells.map { Text.right($0, 9) }.joined()).prefix(width))
    }
    func row(_ name: String, _ perSecond: Double, _ latency: LatencySummary) -> String {
      line(
        name,
        [Text.decimal(perSecond, 0)]
          + [latency.p50, latency.p99, latency.p999].map { Text.duration(microseconds: $0) })
    }
    var lines: [(String, TextStyle?)] = [
      (line("methods", ["per s", "p50", "p99", "p99.9"]), .dim)
    ]
    if let window = progress.window {
      for method in window.methods {
        lines.append((row(method.name, method.perSecond, method.latency), nil))
      }
      if window.methods.count > 1 {
        lines.append((row("all", window.requestsPerSecond, window.latency), .bold))
      }
    }
    lines.append(("", nil))
    lines += counts("outcomes", Outcome.allCases.map(\.name), progress.outcomes, line) { name in
      Outcome.allCases.first { $0.name == name }?.group == .failed ? .bad : nil
    }
    lines.append(("", nil))
    lines += counts("gRPC codes", grpcCodeNames, progress.codes, line) { _ in nil }
    return Array(lines.prefix(height + 1))
  }

  private func counts(
    _ title: String, _ names: [String], _ counts: [String: Int],
    _ line: (String, [String]) -> String, style: (String) -> TextStyle?
  ) -> [(String, TextStyle?)] {
    let all = Double(max(1, counts.values.reduce(0, +)))
    let rows: [(String, TextStyle?)] = names.compactMap { name in
      guard let count = counts[name], count > 0 else { return nil }
      // Names are longer than methods': they take the place of a column.
      let text =
        Text.left(name, 22) + Text.right(Text.count(Int64(count)), 12)
        + Text.right(Text.percent(Double(count) / all), 10)
      return (text, style(name))
    }
    return rows.isEmpty ? [] : [(title, .dim)] + rows
  }

  // MARK: Foot

  private var server: String {
    guard let server = progress.server else { return "nothing known (--admin, --server-pid)" }
    let facts = [
      server.processorShare.map { "CPU \(Text.decimal($0, 2))" },
      server.syncMicroseconds.map { "sync \(Text.duration(microseconds: $0))" },
      server.groupRecords.map { "\(Text.decimal($0, 1)) decisions a sync" },
      server.conflictsPerSecond.map { Text.counted($0, "conflict") + "/s" },
      server.retriesPerSecond.map { Text.counted($0, "retry", "retries") + "/s" },
      server.liveHolds.map { Text.counted($0, "live hold") },
      server.residentBytes.map { Text.bytes($0) },
    ]
    return facts.compactMap { $0 }.joined(separator: " · ")
  }

  private var agents: String {
    progress.agents.map { "\(Text.plain($0.name)) \(Text.plain($0.state))" }
      .joined(separator: " · ")
  }

  /// What is known so far. All else is said at the end: most of it only the whole history can show.
  private var verdict: (text: String, style: TextStyle) {
    if progress.faults > 0 {
      let first = progress.firstFault.map { ": \(Text.plain($0))" } ?? ""
      return ("VIOLATED, \(Text.counted(progress.faults, "fault"))\(first)", .bad)
    }
    if let abort = progress.abort {
      return ("--abort-if \(Text.plain(abort.expression)): \(abort.actualText)", .bad)
    }
    guard let compared = progress.balancesCompared else {
      return ("nothing is compared while the run lasts", .dim)
    }
    return (
      "nothing wrong so far: \(Text.counted(compared, "balance")) compared; the rest at the end",
      .good
    )
  }

  private func labelled(
    _ label: String, _ text: String, _ style: TextStyle?, _ terminal: Terminal
  ) -> String {
    let text = String(text.prefix(max(0, terminal.columns - LiveScreen.labelWidth)))
    return terminal.styled(Text.left(label, LiveScreen.labelWidth), .dim)
      + (style.map { terminal.styled(text, $0) } ?? text)
  }
}

extension Text {
  /// `text` of characters that take one column each: for words from outside, on a screen whose columns
  /// count.
  static func plain(_ text: String) -> String {
    var scalars = String.UnicodeScalarView()
    for scalar in printable(text).unicodeScalars {
      let isNarrow = scalar.value < 0x300 || scalar.value == 0x2026 || scalar.value == 0x2013
      scalars.append(isNarrow ? scalar : "?")
    }
    return String(scalars)
  }
}
