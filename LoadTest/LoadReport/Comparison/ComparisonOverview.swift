// Many loads at a glance: for each measure that matters a table of loads by variants.

extension Comparison {
  /// One measure under all loads of a kind.
  struct Overview {
    var measure: Measure
    /// The measure and the loop: "requests per second, closed loop".
    var title: String
    /// By load: its name, and a figure for each variant.
    var rows: [(name: String, figures: [Figure])]
  }

  /// What is told of closed loops; of open ones, where the rate is given, the latencies.
  private static let closedMeasures = [
    "rate", "server_cpu", "conflicts", "retries", "waits", "fenced", "combined",
  ]
  private static let latencyMeasures = ["p50", "p99", "p99.9"]

  /// Loads so few are read one by one.
  var needsOverview: Bool { cases.count > 2 }

  var overviews: [Overview] {
    let closed = cases.filter { $0.configuration.loop != "open" }
    let open = cases.filter { $0.configuration.loop == "open" }
    return Comparison.closedMeasures.compactMap { overview($0, closed.isEmpty ? open : closed) }
      + Comparison.latencyMeasures.compactMap { overview($0, open.isEmpty ? closed : open) }
  }

  private func overview(_ name: String, _ cases: [Case]) -> Overview? {
    guard let measure = Measure.named(name) else { return nil }
    let rows = cases.compactMap { one in
      one.measures.first { $0.name == name }.map { (name: one.shortName, figures: $0.figures) }
    }
    let loop = cases.first?.configuration.loop == "open" ? "open loop" : "closed loop"
    return rows.isEmpty
      ? nil : Overview(measure: measure, title: "\(measure.title), \(loop)", rows: rows)
  }

  /// The tables as text, their columns as wide as they need.
  var overviewLines: [String] {
    var lines = [
      "Means, and ratios to \(variants[0]) where a difference is shown (~ where none is):", "",
    ]
    for overview in overviews {
      let table =
        [[overview.title] + variants]
        + overview.rows.map { row in
          [row.name]
            + row.figures.map { figure in
              let mean = figure.mean.map { overview.measure.text($0) } ?? "—"
              return [mean, figure.ratio?.briefText].compactMap(\.self).joined(separator: " ")
            }
        }
      let widths = (0...variants.count).map { column in table.map { $0[column].count }.max() ?? 0 }
      for row in table {
        lines.append(
          row.enumerated().map { column, cell in
            column == 0 ? Text.left(cell, widths[0]) : Text.right(cell, widths[column])
          }.joined(separator: "  "))
      }
      lines.append("")
    }
    return lines
  }
}

extension Ratio {
  /// For the cell of a table: "1.23×", or "~" where no difference is shown.
  var briefText: String { isShown ? Ratio.times(value, 2) : "~" }
}
