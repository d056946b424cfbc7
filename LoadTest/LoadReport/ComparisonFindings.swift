// What a comparison shows, in a few sentences. Every word that could be otherwise comes from the figures:
// who leads is asked of the same statistics as the table.

extension Comparison {
  /// At most five sentences: the load carried, the tail, the price, how contention was met, and what all
  /// this rests on.
  func makeFindings() -> [String] {
    guard variants.count > 1, !cases.isEmpty else { return [] }
    let closed = cases.filter { $0.configuration.loop != "open" }
    let open = cases.filter { $0.configuration.loop == "open" }
    let tail = open.isEmpty ? "The tail (p99)" : "The tail (p99) at one rate for all"
    let findings = [
      leaders("Requests per second in a closed loop", "rate", closed),
      leaders(tail, "p99", open.isEmpty ? closed : open),
      leaders("Server CPU per request", "server_cpu", closed.isEmpty ? open : closed),
      contention(closed.isEmpty ? open : closed), basis,
    ]
    return findings.compactMap(\.self)
  }

  /// Who is best by one measure under one load.
  private struct Lead {
    /// The best, and those of whom no difference to it is shown.
    var leaders: [String]
    /// The ratios of the best to the others.
    var ratios: [Double]
  }

  private func lead(_ measure: Measure, _ one: Case) -> Lead? {
    let figures = figures(measure.name, one).sorted {
      measure.better == .higher ? $0.mean > $1.mean : $0.mean < $1.mean
    }
    guard let best = figures.first, figures.count > 1 else { return nil }
    var lead = Lead(leaders: [best.variant], ratios: [])
    for other in figures.dropFirst() {
      let ratio = one.ratio(of: measure.name, best.variant, to: other.variant)
      if let ratio, ratio.isShown {
        lead.ratios.append(ratio.value)
      } else {
        lead.leaders.append(other.variant)
      }
    }
    lead.leaders = variants.filter { lead.leaders.contains($0) }
    return lead
  }

  /// "Requests per second: b leads under x (1.2× to 1.9× of the others'); no difference is shown under y."
  private func leaders(_ subject: String, _ name: String, _ cases: [Case]) -> String? {
    guard let measure = Measure.named(name) else { return nil }
    // Loads with the same leaders are told together.
    var groups: [(leaders: [String], under: [String])] = []
    for one in cases {
      guard let lead = lead(measure, one) else { continue }
      let name = cases.count > 1 ? one.shortName : ""
      let under = [name, extent(lead.ratios)].filter { !$0.isEmpty }.joined(separator: " ")
      if let index = groups.firstIndex(where: { $0.leaders == lead.leaders }) {
        groups[index].under.append(under)
      } else {
        groups.append((lead.leaders, [under]))
      }
    }
    guard !groups.isEmpty else { return nil }
    let parts = groups.map { leaders, under in
      let said =
        leaders.count == variants.count
        ? "no difference shown between \(list(leaders))"
        : leaders.count == 1
          ? "\(leaders[0]) leads"
          : "\(list(leaders)) lead, no difference shown between them,"
      if cases.count == 1 { return under[0].isEmpty ? said : "\(said) \(under[0])" }
      let isEverywhere = under.count == cases.count && leaders.count == variants.count
      return said + (isEverywhere ? " under any load" : " under \(list(under))")
    }
    return "\(subject): \(parts.joined(separator: "; "))."
  }

  /// "(1.2× to 1.9× of the others')".
  private func extent(_ ratios: [Double]) -> String {
    guard let least = ratios.min(), let most = ratios.max() else { return "" }
    let texts = [least, most].map { Ratio.times($0, 2) }
    let extent = texts[0] == texts[1] ? texts[0] : "\(texts[0]) to \(texts[1])"
    return "(\(extent) of the other\(ratios.count == 1 ? "'s" : "s'"))"
  }

  /// The variants that have a figure, with it.
  private func figures(_ measure: String, _ one: Case) -> [(variant: String, mean: Double)] {
    (one.measures.first { $0.name == measure }?.figures ?? []).compactMap { figure in
      figure.mean.map { (figure.variant, $0) }
    }
  }

  /// How commits that met were kept apart, by the server's own count: of each kind the most there was.
  private func contention(_ cases: [Case]) -> String? {
    let parts = ["conflicts", "retries", "waits", "fenced", "combined"].compactMap {
      name -> String? in
      let all = cases.flatMap { one in
        figures(name, one).map { (load: one.shortName, variant: $0.variant, mean: $0.mean) }
      }
      guard let measure = Measure.named(name), let most = all.max(by: { $0.mean < $1.mean }),
        most.mean > 0
      else { return nil }
      let under = cases.count > 1 ? " under \(most.load)" : ""
      return "\(measure.title) at most \(measure.text(most.mean)) (\(most.variant)\(under))"
    }
    return parts.isEmpty
      ? nil : "Where commits met, by the servers' own count: \(parts.joined(separator: "; "))."
  }

  /// How many runs the figures come from, and what they leave open.
  private var basis: String {
    let counts = cases.flatMap { one in
      variants.map { name in one.runs.count { $0.variant == name } }
    }
    let fewest = counts.min() ?? 0
    let most = counts.max() ?? 0
    let runs = fewest == most ? "\(most)" : "\(fewest) to \(most)"
    let ratios = cases.flatMap(\.measures).flatMap(\.figures).compactMap(\.ratio)
    let tested = ratios.count { $0.method != .single }
    let processors = cases.first?.environment.processors ?? 0
    let machine =
      processors > 0
      ? "one machine with \(processors) processors, which the generator shared" : "one machine"
    let each = cases.count > 1 ? "each under each load" : "each"
    var text = "All this is \(runs) run\(most == 1 ? "" : "s") of \(each) on \(machine)"
    if tested > 0 {
      let shown = ratios.count(where: \.isShown)
      text +=
        "; \(shown) of \(tested) ratios to \(variants[0]) show a difference, and of equals about one "
        + "in twenty would"
    }
    if cases.flatMap(\.warnings).contains(where: { $0.hasPrefix("the generator was the limit") }) {
      text += "; in some runs the generator was the limit (see the warnings)"
    }
    return text + "."
  }

  private func list(_ names: [String]) -> String {
    guard let last = names.last, names.count > 1 else { return names.first ?? "" }
    return names.dropLast().joined(separator: ", ") + " and " + last
  }
}

extension Comparison.Case {
  /// Its name without its loop, for where that is said already.
  var shortName: String {
    for loop in [", closed loop", ", open loop"] where name.hasSuffix(loop) {
      return String(name.dropLast(loop.count))
    }
    return name
  }
}
