// A comparison as a page: who lost and what the figures show on top, then every load with its ratios
// drawn around 1, its runs as dots, and the latencies of the variants over each other.

extension Comparison {
  /// One self-contained HTML file.
  package var html: String {
    let heading = title.isEmpty ? variants.joined(separator: " · ") : title
    var body: Markup = """
      <header>
      <p class="eyebrow">holdfast-load comparison</p>
      <h1>\(heading)</h1>
      <p>\(subtitle)</p>
      </header>

      """
    body += verdictMarkup
    body += .section("What this shows", .list("plain", findings))
    body += Markup(notes.map { "<p class=\"note\">\($0)</p>\n" })
    body += .section(
      "At a glance",
      note:
        "Means, and ratios to \(variants.first ?? "") where a difference is shown; ~ where none is.",
      overviewMarkup)
    for one in cases { body += caseMarkup(one) }
    body += .section("How to read this", .list("plain", Comparison.readingHelp))
    body += .section("Configuration and environment", configurationMarkup)
    body += "<footer>\(generator) · comparison schema \(schemaVersion)</footer>"
    return Page(title: "\(heading) · holdfast-load", body: body).html
  }

  private var subtitle: String {
    let runs = cases.reduce(0) { $0 + $1.runs.count }
    let parts = [
      startedAt, Text.counted(runs, "run"), "baseline: \(variants.first ?? "")",
    ]
    return parts.filter { !$0.isEmpty }.joined(separator: " · ")
  }

  private var verdictMarkup: Markup {
    if !disqualified.isEmpty {
      return Markup(
        disqualified.map { .verdict(.bad, "A variant is out, however fast it is", $0) })
    }
    let runs = cases.flatMap(\.runs)
    let good = runs.count { $0.isProved }
    return good == runs.count
      ? .verdict(.good, "Every run kept every invariant", "Nothing oversold, nothing lost.")
      : .verdict(
        .warning, "\(good) of \(Text.counted(runs.count, "run")) proved correct",
        "The others ended early, were not compared with the server's balances, or have SKUs that "
          + "could not be decided.")
  }

  private static let readingHelp = [
    "A ratio is that of the geometric means of the runs, to the baseline's. Where the runs took turns, "
      + "each is set against its neighbour of the same round.",
    "The interval behind it holds the true ratio in 19 of 20 comparisons, if noise is as it was. One "
      + "that holds 1, or that a reshuffling of so few runs explains, is said to show no difference. "
      + "Of 20 ratios of equals about one shows a difference by chance.",
    "Latencies in a closed loop leave out what a stalled server was never asked; those of an open loop "
      + "count from the scheduled send.",
    "Per commit, by the server's own count: conflicts are commits that found an item changed since it "
      + "was read, retries are further attempts, waits are for a lock, a turn or a writer, fenced are "
      + "commits that came after their lock was taken over, combined are commits that another thread "
      + "did.",
  ]

  private var configurationMarkup: Markup {
    guard let first = cases.first else { return "" }
    let environment = first.environment
    var facts: [(name: String, value: String?)] = [
      ("Processors", "\(environment.processors) × \(environment.processorModel)"),
      ("System", environment.system),
      ("Seed", String(first.configuration.seed)),
      (
        "Connections × streams",
        "\(first.configuration.connections) × \(first.configuration.streams)"
      ),
      ("Generator threads", "\(first.configuration.threads)"),
    ]
    if !commandLine.isEmpty { facts.append(("Command", commandLine)) }
    let settings: [Markup] = cases.map { one in
      let lines = one.configuration.load.sorted { $0.key < $1.key }.map {
        "\($0.key) = \($0.value)"
      }
      return .details(
        "The whole load: \(one.heading)",
        .verbatim(lines.joined(separator: "\n")))
    }
    let started = variants.compactMap { name in commands[name].map { "\(name): \($0)" } }
    let servers: Markup =
      started.isEmpty
      ? "" : .details("How the servers are started", .verbatim(started.joined(separator: "\n")))
    return Markup([.facts(facts), servers, Markup(settings)])
  }

  private var overviewMarkup: Markup {
    guard needsOverview else { return "" }
    return Markup(
      overviews.map { overview in
        .table(
          "\(Text.capitalized(overview.title))\(overview.measure.direction)",
          columns: ["Load"] + variants,
          rows: overview.rows.map { row in
            let cells: [Markup] = row.figures.map { figure in
              let mean = figure.mean.map { overview.measure.text($0) } ?? "—"
              guard let ratio = figure.ratio else { return "\(mean)" }
              let kind = overview.measure.tone(of: ratio).map { "mark \($0.rawValue)" } ?? ""
              return "\(mean) <small class=\"\(kind)\">\(ratio.briefText)</small>"
            }
            return ["\(row.name)"] + cells
          })
      })
  }

  // MARK: One load

  private func caseMarkup(_ one: Case) -> Markup {
    let charts: [Markup] = [runsChart(one), spectraChart(one)].map { $0?.markup ?? "" }
    return .section(
      Text.capitalized(one.heading), note: one.configuration.shape,
      Markup([
        .list("warnings", one.warnings), ratioChart(one)?.markup ?? "", figureTable(one),
        Markup(charts), .details("All runs", runsTable(one)),
      ]))
  }

  private func figureTable(_ one: Case) -> Markup {
    .table(
      "Means, and ratios to \(variants[0])",
      columns: ["Measure"] + variants,
      rows: one.measures.compactMap { measured in
        guard let measure = Measure.named(measured.name) else { return nil }
        let cells: [Markup] = measured.figures.map { figure in
          let mean = figure.mean.map { measure.text($0) } ?? "—"
          guard let ratio = figure.ratio else { return "\(mean)" }
          let kind = measure.tone(of: ratio).map { "mark \($0.rawValue)" } ?? ""
          return "\(mean)<br><small class=\"\(kind)\">\(ratio.shortText)</small>"
        }
        return ["\(measure.title)"] + cells
      })
  }

  private func runsTable(_ one: Case) -> Markup {
    let measures = one.measures.compactMap { Measure.named($0.name) }
    return .table(
      "In the order of time", columns: ["Variant"] + measures.map(\.title) + ["Verdict"],
      rows: one.runs.map { run in
        let figures: [Markup] = measures.map { measure in
          "\(run.values[measure.name].map { measure.text($0) } ?? "—")"
        }
        return ["\(run.variant)"] + figures + ["\(run.words)"]
      })
  }
}

extension Comparison.Measure {
  /// Whether a ratio is good news or bad; nil where it is neither.
  fileprivate func tone(of ratio: Ratio) -> Tone? {
    guard ratio.isShown, better != .neither else { return nil }
    return (ratio.value > 1) == (better == .higher) ? .good : .bad
  }
}

extension Ratio {
  /// For the cells of a table.
  fileprivate var shortText: String {
    guard method != .single else { return "\(Ratio.times(value, 2)), noise unknown" }
    return text
  }
}

extension Comparison.Run {
  /// Nothing that was asked about its invariants is open.
  fileprivate var isProved: Bool {
    verdict.result == .good && verdict.skusUndecided == 0 && !isPartial
  }

  fileprivate var words: String {
    switch verdict.result {
    case .good where isPartial: "holds, partial"
    case .good where verdict.skusUndecided > 0:
      "holds, \(Text.counted(verdict.skusUndecided, "SKU")) undecided"
    case .good: "holds"
    case .violated: "VIOLATED"
    case .unknown: "none"
    case .notChecked: "not checked"
    }
  }
}
