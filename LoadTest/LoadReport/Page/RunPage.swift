// The report of a run as a page: the verdict on top, what the run was for beneath, the figures after.

extension Report {
  /// One self-contained HTML file.
  package var html: String {
    var body: Markup = """
      <header>
      <p class="eyebrow">holdfast-load report</p>
      <h1>\(pageTitle)</h1>
      <p>\(subtitle)</p>
      </header>

      """
    body += verdictMarkup
    body += .keyFigures(keyFigures)
    body += limitMarkup
    body += .list("warnings", warningsBesideTheLimit)
    let checked = Markup.section("What was checked", checkMarkup)
    // What is wrong comes first.
    if result == .violated { body += checked }
    body += .section("Requirements", thresholdTable)
    body += .section(
      "Latency", note: latencyNote, Markup([spectrumMarkup, latencyTableMarkup]))
    body += .section("By method", note: methodsNote, methodsMarkup)
    body += .section("Over time", note: timeNote, Markup([timeCharts, intervalTable]))
    body += .section("Server", note: serverNote, serverCharts)
    body += .section(
      "Generator",
      note: "Whether the figures are the server's or those of the program that measured.",
      Markup([generatorCharts, agentTable]))
    body += .section("Outcomes", outcomeTables)
    if result != .violated { body += checked }
    body += .section("Configuration", configurationMarkup)
    body += .section(
      "What the figures leave out", .list("plain", leavesOut))
    body += """
      <footer>\(generator) · report schema \(schemaVersion)</footer>
      """
    return Page(title: "\(pageTitle) · holdfast-load", body: body).html
  }

  private var pageTitle: String {
    label ?? (configuration.scenario.isEmpty ? "Run" : configuration.scenario)
  }

  private var subtitle: String {
    let parts = [
      label == nil ? "" : configuration.scenario, loopText,
      startedAt.replacing("T", with: " ").replacing("Z", with: " UTC"), configuration.target,
    ]
    return parts.filter { !$0.isEmpty }.joined(separator: " · ")
  }

  var loopText: String { configuration.loopText }

  // MARK: Verdict

  private var verdictMarkup: Markup {
    let tone: Tone =
      switch standing {
      case .held: .good
      case .broken: .bad
      case .partly: .warning
      }
    let beginning = result == .good || result == .violated ? "" : "No verdict: "
    // What is undecided stands in the headline of the verdict itself.
    let others = shortcomings.filter { !verdict.headline.hasSuffix($0) }
    let headline = ([beginning + verdict.headline] + others).joined(separator: "; ")
    return .verdict(tone, Text.capitalized(headline), verdict.detail)
  }

  // MARK: Key figures

  private var keyFigures: [Markup] {
    let all = latencyMicroseconds["all"] ?? LatencySummary()
    var figures = [
      Markup.keyFigure(
        "Rate", Text.decimal(requestsPerSecond, 0) + " /s",
        configuration.ratePerSecond.map { "calls, of \(Text.decimal($0, 0)) /s at most asked for" }
          ?? "\(Text.counted(requestsMeasured, "call")) measured"),
      Markup.keyFigure(
        "Median latency", Text.duration(microseconds: all.p50),
        configuration.rate == nil
          ? ""
          : serviceTimeMicroseconds.map {
            "from the actual send: \(Text.duration(microseconds: $0.p50))"
          } ?? ""),
      Markup.keyFigure(
        "99th percentile", Text.duration(microseconds: all.p99),
        "99.9th: \(Text.duration(microseconds: all.p999))"),
      Markup.keyFigure("Slowest", Text.duration(microseconds: all.max)),
    ]
    if let failed = failedShare {
      figures.append(
        Markup.keyFigure(
          "Failed calls", Text.percent(failed), "of \(Text.counted(attempts + unsent, "call"))"))
    }
    if let server {
      figures.append(
        Markup.keyFigure(
          "Conflicts", Text.percent(server.conflictsPerCommit),
          "of \(Text.counted(server.commits, "commit"))"))
    }
    if let cpu = serverCPUMicrosecondsPerRequest {
      figures.append(
        Markup.keyFigure("Server CPU", Text.decimal(cpu, 2) + " µs", "per request"))
    }
    figures.append(
      Markup.keyFigure(
        "Generator CPU", Text.decimal(generatorCPUMicrosecondsPerRequest, 2) + " µs",
        "per request"))
    return figures
  }

  private var limitMarkup: Markup {
    guard limitedBy != .unknown || !limitReason.isEmpty else { return "" }
    let words =
      switch limitedBy {
      case .load: "Limited by the load, which was carried"
      case .server: "Limited by the server"
      case .generator: "Limited by the generator"
      case .unknown: "What was the limit is not known"
      }
    let tone: Tone = limitedBy == .generator ? .warning : .neutral
    let reason = limitReason.isEmpty ? "." : ": \(limitReason)."
    return """
      <p class="limit"><span class="mark \(tone.rawValue)">\(words)</span>\(reason)</p>

      """
  }

  // MARK: Thresholds

  private var thresholdTable: Markup {
    guard !thresholds.isEmpty else { return "" }
    let broken = brokenRequirements.count
    let caption = broken == 0 ? "All kept" : "\(broken) of \(thresholds.count) broken"
    return .table(
      caption, columns: ["Required", "Measured", "Result"],
      rows: thresholds.map { threshold in
        let mark: Markup =
          threshold.isPassed
          ? "<span class=\"mark good\">✓ kept</span>"
          : "<span class=\"mark bad\">✗ BROKEN</span>"
        return ["<code>\(threshold.expression)</code>", "\(threshold.actualText)", mark]
      })
  }

  private var latencyNote: String {
    configuration.rate == nil
      ? "Closed loop: every stream waits for its answer, so that a server that stands still is asked "
        + "less often, and its pauses count once."
      : "Latency counts from the instant that the schedule gave a call, service time from the instant "
        + "that it was sent: where a server stands still, only the first shows what callers wait."
  }

  private var methodsNote: String {
    "Each method by itself: what its callers waited, and when."
  }

  private var timeNote: String {
    "The whole run, warm-up and drain shaded. Point at a chart to read all of them at that instant."
  }

  private var serverNote: String {
    server == nil ? "" : "From the server's metrics, read while the run lasted."
  }
}

extension Report.Configuration {
  /// "open loop, 5,000 requests/s, poisson" or "closed loop, 8 × 100 streams".
  var loopText: String {
    guard let rate else {
      return "closed loop, \(connections) × \(Text.counted(streams, "stream"))"
    }
    let arrivals = arrivals.map { ", \($0) arrivals" } ?? ""
    return "open loop, \(rate) requests/s\(arrivals)"
  }

  /// What is run, in a few words.
  package var title: String {
    [scenario, loopText, target].filter { !$0.isEmpty }.joined(separator: " · ")
  }
}
