// What a comparison shows, in a few sentences. Every word that could be otherwise comes from the figures:
// who leads is asked of the same statistics as the table.

extension Comparison {
  /// At most five sentences: the load carried, the tail, the price, how contention was met, and what all
  /// this rests on.
  func makeFindings() -> [String] {
    guard variants.count > 1, !cases.isEmpty else { return [] }
    let closed = cases.filter { $0.configuration.loop != "open" }
    let open = cases.filter { $0.configuration.loop == "open" }
    var findings: [String] = []
    if !closed.isEmpty {
      findings.append(sentence("Requests per second in a closed loop", "rate", closed))
    }
    if !open.isEmpty {
      findings.append(sentence("The tail (p99) at the same rate for all", "p99", open))
    } else {
      findings.append(sentence("The tail (p99)", "p99", closed))
    }
    if cases.contains(where: { !figures("server_cpu", $0).isEmpty }) {
      findings.append(
        sentence("Server CPU per request", "server_cpu", closed.isEmpty ? open : closed))
    }
    if let contention = contentionSentence(closed.isEmpty ? open : closed) {
      findings.append(contention)
    }
    findings.append(basis)
    return findings
  }

  /// "Requests per second: under contention-low no difference is shown; under contention-extreme …"
  private func sentence(_ subject: String, _ measure: String, _ cases: [Case]) -> String {
    let parts = cases.map { $0.told(among: cases) + leader(measure, $0) }
    return "\(subject): \(parts.joined(separator: "; "))."
  }

  /// The variants that have a figure, with it.
  private func figures(_ measure: String, _ one: Case) -> [(variant: String, mean: Double)] {
    (one.measures.first { $0.name == measure }?.figures ?? []).compactMap { figure in
      figure.mean.map { (figure.variant, $0) }
    }
  }

  /// Who is ahead, with whom, and by how much of whom.
  private func leader(_ name: String, _ one: Case) -> String {
    guard let measure = Measure.named(name) else { return "not measured" }
    let best = figures(name, one).sorted {
      measure.better == .higher ? $0.mean > $1.mean : $0.mean < $1.mean
    }
    guard let first = best.first, best.count > 1 else { return "not measured" }
    var beside: [String] = []
    var behind: [String] = []
    for other in best.dropFirst() {
      let ratio = one.ratio(of: name, first.variant, to: other.variant)
      if let ratio, ratio.isShown {
        behind.append("\(ratio.text) of \(other.variant)'s")
      } else {
        beside.append(other.variant)
      }
    }
    let figure = measure.text(first.mean)
    if behind.isEmpty {
      let all = variants.filter { name in best.contains { $0.variant == name } }
      return "no difference shown between \(list(all))"
    }
    let lead =
      beside.isEmpty
      ? "\(first.variant) leads with \(figure)"
      : "no difference shown between \(list([first.variant] + beside)), the first with \(figure)"
    return "\(lead), \(behind.joined(separator: ", "))"
  }

  /// What kept the variants' commits apart, by the server's own count.
  private func contentionSentence(_ cases: [Case]) -> String? {
    let names = ["conflicts", "retries"]
    let parts = cases.compactMap { one -> String? in
      let told = names.compactMap { name -> String? in
        let found = figures(name, one).filter { $0.mean > 0 }
        guard let measure = Measure.named(name), !found.isEmpty else { return nil }
        let each = found.map { "\($0.variant) \(measure.text($0.mean))" }
        return "\(measure.title) \(each.joined(separator: ", "))"
      }
      guard !told.isEmpty else { return nil }
      return one.told(among: cases) + told.joined(separator: ", ")
    }
    return parts.isEmpty
      ? nil : "Where commits met (who is not named counted none): \(parts.joined(separator: "; "))."
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
    let environment = cases.first?.environment ?? Report.Environment()
    let machine =
      environment.processors > 0
      ? "one machine with \(environment.processors) processors, which the generator shared"
      : "one machine"
    let limited = Set(
      cases.flatMap(\.warnings).filter { $0.hasPrefix("the generator was the limit") })
    var text = "All this is \(runs) run\(most == 1 ? "" : "s") of each on \(machine)"
    if tested > 0 {
      let shown = ratios.count(where: \.isShown)
      text +=
        "; \(shown) of \(tested) ratios to \(variants[0]) show a difference, and of equals about one "
        + "in twenty would"
    }
    if !limited.isEmpty { text += "; in some runs the generator was the limit (see the warnings)" }
    return text + "."
  }

  private func list(_ names: [String]) -> String {
    guard let last = names.last, names.count > 1 else { return names.first ?? "" }
    return names.dropLast().joined(separator: ", ") + " and " + last
  }
}

extension Comparison.Case {
  /// Its name before what is said of it, where several are spoken of.
  fileprivate func told(among cases: [Comparison.Case]) -> String {
    cases.count > 1 ? "\(name): " : ""
  }
}
