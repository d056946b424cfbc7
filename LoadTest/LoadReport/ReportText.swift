// The report as text: the verdict first, one screen in all.

extension Report {
  /// The report for a log, without colours, lines of at most 100 columns but for the verdict, which is
  /// one line.
  package var text: String { text(on: Terminal()) }

  /// The report for a terminal, in its width. Widths below 80 are taken for 80.
  package func text(on terminal: Terminal) -> String {
    ReportText(report: self, terminal: terminal).lines.joined(separator: "\n") + "\n"
  }
}

extension Report {
  /// The warnings that say something else than what the run was limited by, which has its own place.
  var warningsBesideTheLimit: [String] {
    warnings.filter { limitReason.isEmpty || !$0.contains(limitReason) }
  }
}

private struct ReportText {
  let report: Report
  let terminal: Terminal
  private static let labelWidth = 11

  /// Of what stands behind a label.
  private var width: Int { min(110, max(80, terminal.columns)) - ReportText.labelWidth }

  var lines: [String] {
    var lines = verdictLines
    if let check = report.check { lines += checkLines(check) }
    lines += wrapped("run", configuration)
    if report.limitedBy != .unknown || !report.limitReason.isEmpty {
      lines += wrapped("limited by", [limit])
    }
    lines += [""] + latencyTable + [""]
    lines += wrapped(
      "calls", Outcome.allCases.compactMap { entry($0.name, report.outcomes[$0.name]) })
    lines += wrapped("gRPC", grpcCodeNames.compactMap { entry($0, report.codes[$0]) })
    lines += connectionLines + serverLines
    lines += wrapped("agents", report.agents.map(agentFact))
    lines += wrapped("generator", generator)
    lines += thresholdLines
    for warning in report.warningsBesideTheLimit {
      lines += wrapped("WARNING", [printable(warning)], style: .warning)
    }
    return lines + wrapped("left out", [report.leavesOut.map(printable).joined(separator: "; ")])
  }

  // MARK: Verdict

  private var verdictLines: [String] {
    let style: TextStyle =
      switch report.standing {
      case .held: .good
      case .broken: .bad
      case .partly: .warning
      }
    var verdict = printable(report.verdict.sentence)
    if report.isPartial { verdict += " — PARTIAL: the run ended before it was to" }
    // Programs look for one line; a terminal would break it within words.
    let lines =
      terminal.canRedraw
      ? Text.wrapped([verdict], separator: "", width: width + ReportText.labelWidth) : [verdict]
    return lines.map { terminal.styled($0, style) }
  }

  private func checkLines(_ check: Report.Check) -> [String] {
    var facts = [
      "\(Text.counted(check.keys, "key")) on \(Text.counted(check.skus, "SKU"))"
    ]
    switch check.linearizable {
    case .yes: facts.append("linearizable")
    case .no: facts.append("NOT linearizable")
    case .undecided where check.skusUndecided > 0:
      facts.append("\(Text.counted(check.skusUndecided, "SKU")) undecided")
    case .undecided: break
    }
    let counts = [
      (check.duplicatesCompared, "duplicate", " like the first answer"),
      (check.refusalsJustified, "refusal", " justified"),
      (check.readsJustified, "read", " justified"), (check.samplesCompared, "balance", " sampled"),
      (check.unknownOutcomes, "outcome", " unknown"),
    ]
    facts += counts.filter { $0.0 > 0 }.map { Text.counted($0.0, $0.1) + $0.2 }
    var lines = wrapped("checked", facts)
    if let feed = check.feed { lines += wrapped("feed", feedFacts(feed)) }
    for example in check.examples {
      // A history has a line for each call, in columns of its own.
      let parts = example.split(separator: "\n").map { printable(String($0)) }
      lines.append(labelled("violated", parts.first ?? "", .bad))
      lines += parts.dropFirst().map { labelled("", $0) }
    }
    return lines
  }

  private func feedFacts(_ feed: Report.Feed) -> [String] {
    var facts = [
      Text.counted(feed.events, "event"),
      "\(Text.counted(feed.decisionsCompared, "acknowledged decision")) looked up",
    ]
    if feed.others > 0 { facts.append("\(Text.count(Int64(feed.others))) of others") }
    if feed.reconnects > 0 {
      facts.append("\(Text.counted(feed.reconnects, "time")) resumed from its token")
    }
    if !feed.isWhole { facts.append("NOT read to its end") }
    return facts
  }

  // MARK: Setting

  private var configuration: [String] {
    let shape = report.configuration
    let arrivals = shape.arrivals.map { ", \($0)" } ?? ""
    let length =
      shape.operations.map { Text.counted($0, "operation") }
      ?? "\(Text.shortest(shape.durationSeconds ?? 0)) s after "
      + "\(Text.shortest(shape.warmUpSeconds)) s warm-up\(report.warmUp?.qualification ?? "")"
    let facts = [
      report.label ?? "", shape.scenario, report.messages.map(messageFacts) ?? "",
      shape.rate.map { "open loop, \($0) requests/s\(arrivals)" } ?? "closed loop",
      "\(shape.connections) × \(Text.counted(shape.streams, "stream"))",
      Text.counted(shape.threads, "thread"), length, "seed \(shape.seed)",
    ]
    return facts.filter { !$0.isEmpty }.map(printable)
  }

  private func messageFacts(_ messages: Report.Messages) -> String {
    "\(messages.method), \(Text.decimal(messages.requestsPerMessage, 1)) Reserves a message "
      + "(\(number(messages.requestsMaximum)) at most)"
  }

  private var limit: String {
    let name =
      switch report.limitedBy {
      case .load: "the load, which was carried"
      case .server: "the server"
      case .generator: "THE GENERATOR"
      case .unknown: "unknown"
      }
    return report.limitReason.isEmpty ? name : "\(name): \(printable(report.limitReason))"
  }

  // MARK: Latencies

  private var latencyTable: [String] {
    let isWide = width + ReportText.labelWidth >= 97
    var columns = ["p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"]
    if !isWide { columns.remove(at: 2) }
    let columnWidth = isWide ? 9 : 8
    func line(_ name: String, _ count: String, _ rate: String, _ values: [String]) -> String {
      Text.left(name, ReportText.labelWidth) + Text.right(count, isWide ? 12 : 11)
        + Text.right(rate, isWide ? 11 : 9)
        + values.map { Text.right($0, columnWidth) }.joined()
    }
    func row(_ name: String, _ latency: LatencySummary, _ perSecond: Double? = nil) -> String {
      let rate = perSecond ?? Double(latency.count) / max(1e-9, report.measuredSeconds)
      let values = columns.map { Text.duration(microseconds: latency.figure($0) ?? 0) }
      return line(name, number(latency.count), Text.decimal(rate, 0), values)
    }
    var rows = [terminal.styled(line("latency", "count", "per s", columns), .dim)]
    for method in measuredMethodNames {
      if let latency = report.latencyMicroseconds[method] { rows.append(row(method, latency)) }
    }
    if let messages = report.messages {
      rows.append(row("per message", messages.latencyMicroseconds))
    }
    let all = report.latencyMicroseconds["all"] ?? LatencySummary()
    rows.append(terminal.styled(row("all", all, report.requestsPerSecond), .bold))
    if report.configuration.rate != nil {
      if let service = report.serviceTimeMicroseconds { rows.append(row("from send", service)) }
      if let lag = report.scheduleLagMicroseconds { rows.append(row("sched. lag", lag)) }
    }
    return rows
  }

  // MARK: Counts

  private var connectionLines: [String] {
    var facts: [String] = []
    if report.connectionsLost > 0 {
      facts.append("\(number(report.connectionsLost)) lost")
      facts.append("\(number(report.connectionsRedialled)) dialled again")
    }
    if report.unsent > 0 {
      facts.append("\(Text.counted(report.unsent, "call")) due and never sent")
    }
    if let failure = report.firstFailure { facts.append("first failure: \(printable(failure))") }
    return facts.isEmpty ? [] : wrapped("failures", facts)
  }

  private var serverLines: [String] {
    var facts: [String] = []
    if let server = report.server {
      let conflicts = server.conflicts.sorted { $0.key < $1.key }.filter { $0.value > 0 }
      let total = conflicts.reduce(0) { $0 + $1.value }
      let byReason = conflicts.map { "\(printable($0.key)) \(Text.decimal($0.value, 0))" }
      facts.append(
        "\(Text.counted(total, "conflict")) (\(Text.percent(server.conflictsPerCommit)) of commits"
          + (byReason.isEmpty ? ")" : "; \(byReason.joined(separator: ", ")))"))
      facts.append(Text.counted(server.retries, "retry", "retries"))
    }
    if let cpu = report.serverCPUMicrosecondsPerRequest {
      facts.append("\(Text.decimal(cpu, 2)) µs CPU per request")
    }
    return facts.isEmpty ? [] : wrapped("server", facts)
  }

  private var generator: [String] {
    [
      "\(Text.decimal(report.generatorCPUMicrosecondsPerRequest, 2)) µs CPU per request",
      "busiest thread \(Text.percent(report.generatorBusyShare)) of the time",
    ]
  }

  private func agentFact(_ agent: Report.AgentSide) -> String {
    if let lost = agent.lost { return "\(printable(agent.address)) LOST: \(printable(lost))" }
    return "\(printable(agent.address)) \(number(agent.requestsMeasured)) measured, busiest thread "
      + "\(Text.percent(agent.busyShare)), clock within "
      + Text.duration(microseconds: agent.clockUncertaintyMicroseconds)
  }

  private var thresholdLines: [String] {
    func facts(_ thresholds: [Report.ThresholdResult]) -> [String] {
      thresholds.map { "\(printable($0.expression)) (\($0.actualText))" }
    }
    return wrapped("BROKEN", facts(report.brokenRequirements), style: .bad)
      + wrapped("kept", facts(report.thresholds.filter(\.isPassed)), style: .good)
  }

  // MARK: Lines

  private func printable(_ text: String) -> String { Text.printable(text) }

  private func number(_ value: Int) -> String { Text.count(Int64(value)) }

  private func entry(_ name: String, _ count: Int?) -> String? {
    count.map { "\(name) \(number($0))" }
  }

  private func labelled(_ label: String, _ text: String, _ style: TextStyle = .dim) -> String {
    terminal.styled(Text.left(label, ReportText.labelWidth), style) + text
  }

  /// `facts` behind a label, on as many lines as they need.
  private func wrapped(
    _ label: String, _ facts: [String], style: TextStyle = .dim
  ) -> [String] {
    Text.wrapped(facts, separator: " · ", width: width).enumerated().map { index, line in
      labelled(index == 0 ? label : "", line, style)
    }
  }
}

extension Text {
  /// `facts` with `separator` between them, in lines of `width`: broken between facts, and within one
  /// only where it is longer than a line.
  static func wrapped(_ facts: [String], separator: String, width: Int) -> [String] {
    var lines: [String] = []
    var line = ""
    for fact in facts {
      if line.isEmpty {
        line = fact
      } else if line.count + separator.count + fact.count <= width {
        line += separator + fact
      } else {
        lines.append(line)
        line = fact
      }
      while line.count > width {
        let fitting = line.prefix(width + 1)
        let space = fitting.lastIndex(of: " ") ?? fitting.index(before: fitting.endIndex)
        lines.append(String(line[..<space]))
        line = String(line[space...].drop { $0 == " " })
      }
    }
    return line.isEmpty ? lines : lines + [line]
  }
}
