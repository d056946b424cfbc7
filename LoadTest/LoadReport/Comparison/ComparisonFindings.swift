// What a comparison shows, in a few sentences. Every word that could be otherwise comes from the figures:
// who leads is asked of the same statistics as the table.

extension Comparison {
  /// At most six sentences: the load carried, the tail, the price, how contention was met, what more runs
  /// would decide, and what all this rests on.
  func makeFindings() -> [String] {
    guard variants.count > 1, !cases.isEmpty else { return [] }
    let closed = cases.filter { $0.configuration.loop != "open" }
    let open = cases.filter { $0.configuration.loop == "open" }
    let tail = open.isEmpty ? "The tail (p99)" : "The tail (p99) at one rate for all"
    let findings = [
      leaders("Requests per second in a closed loop", "rate", closed),
      leaders(tail, "p99", open.isEmpty ? closed : open),
      leaders("Server CPU per request", "server_cpu", closed.isEmpty ? open : closed),
      contention(closed.isEmpty ? open : closed), whatWouldDecide, basis,
    ]
    return findings.compactMap(\.self)
  }

  /// Who is best by one measure under one load.
  private struct Lead {
    var leader: String
    /// Those that it is shown to be better than; an unproved lead is none.
    var behind: [String]
    /// How many times better, 1 or more: of each of those.
    var factors: [Double]
    /// The load.
    var under: String
  }

  private func lead(_ measure: Measure, _ one: Case) -> Lead? {
    let figures = figures(measure.name, one)
    let best =
      measure.better == .higher
      ? figures.max { $0.mean < $1.mean } : figures.min { $0.mean < $1.mean }
    guard let best, figures.count > 1 else { return nil }
    var lead = Lead(leader: best.variant, behind: [], factors: [], under: one.shortName)
    for other in figures where other.variant != best.variant {
      let ratio = one.ratio(of: measure.name, best.variant, to: other.variant)
      guard let ratio, ratio.isShown else { continue }
      lead.behind.append(other.variant)
      lead.factors.append(max(ratio.value, 1 / ratio.value))
    }
    return lead
  }

  /// "Requests per second: b leads a by a factor of 1.20 under x; no difference shown under y."
  private func leaders(_ subject: String, _ name: String, _ cases: [Case]) -> String? {
    guard let measure = Measure.named(name) else { return nil }
    let leads = cases.compactMap { lead(measure, $0) }
    if leads.isEmpty { return nil }
    // Who leads the same others under several loads is told once.
    var groups: [(leader: String, behind: [String], shown: [String])] = []
    for lead in leads where !lead.behind.isEmpty {
      let shown = extent(lead.factors) + (cases.count > 1 ? " under \(lead.under)" : "")
      let index = groups.firstIndex { $0.leader == lead.leader && $0.behind == lead.behind }
      if let index {
        groups[index].shown.append(shown)
      } else {
        groups.append((lead.leader, lead.behind, [shown]))
      }
    }
    var parts = groups.map { leader, behind, shown in
      let areAll = behind.count > 1 && behind.count == variants.count - 1
      return "\(leader) leads \(areAll ? "the others" : list(behind)) \(list(shown))"
    }
    let others = leads.filter(\.behind.isEmpty).map(\.under)
    if groups.isEmpty {
      let whom = variants.count == 2 ? list(variants) : "the best and the others"
      parts = ["no difference shown between \(whom)" + (leads.count > 1 ? " under any load" : "")]
    } else if !others.isEmpty {
      let rest = others.count > 2 ? "the other \(others.count) loads" : list(others)
      parts.append("no lead is shown under \(rest)")
    }
    return "\(subject): \(parts.joined(separator: "; "))."
  }

  /// "by a factor of 1.20", "by factors of 1.20 to 1.90".
  private func extent(_ factors: [Double]) -> String {
    let ends = [factors.min() ?? 1, factors.max() ?? 1].map { Text.decimal($0, 2) }
    return ends[0] == ends[1]
      ? "by a factor of \(ends[0])" : "by factors of \(ends[0]) to \(ends[1])"
  }

  /// The variants that have a figure, with it.
  private func figures(_ measure: String, _ one: Case) -> [(variant: String, mean: Double)] {
    (one.measures.first { $0.name == measure }?.figures ?? []).compactMap { figure in
      figure.mean.map { (figure.variant, $0) }
    }
  }

  /// How commands that met were kept apart, by the server's own count: of each kind the most there was.
  private func contention(_ cases: [Case]) -> String? {
    var most: [(text: String, variant: String, load: String)] = []
    for name in ["conflicts", "retries", "waits", "fenced", "combined"] {
      let all = cases.flatMap { one in
        figures(name, one).map { (load: one.shortName, variant: $0.variant, mean: $0.mean) }
      }
      guard let measure = Measure.named(name), let one = all.max(by: { $0.mean < $1.mean }),
        // Less is told as nothing.
        one.mean >= 0.000_1
      else { continue }
      most.append(("\(measure.text(one.mean)) \(name)", one.variant, one.load))
    }
    guard let first = most.first else { return nil }
    let isOneLoad = most.allSatisfy { $0.load == first.load }
    let parts = most.map { text, variant, load in
      "\(text) (\(variant)\(isOneLoad ? "" : " under \(load)"))"
    }
    let under = isOneLoad && cases.count > 1 ? ", under \(first.load)" : ""
    return "Where commands met, the servers counted per commit at most \(list(parts))\(under)."
  }

  /// How many runs would show the differences that are open, if they are what they seem to be.
  private var whatWouldDecide: String? {
    let names = ["rate", "p99", "server_cpu"]
    var needed: [String] = []
    var hopeless: [String] = []
    var most = 0
    for name in names {
      let ratios = cases.flatMap { $0.measures.filter { $0.name == name } }.flatMap(\.figures)
        .compactMap(\.ratio).filter { !$0.isShown }
      guard let measure = Measure.named(name), !ratios.isEmpty else { continue }
      if ratios.contains(where: { $0.method == .single }) {
        return
          "One run each has no noise to go by: 6 of each (--repeat 6) are the fewest that can show "
          + "a difference."
      }
      if let runs = ratios.compactMap(\.runsNeeded).max() {
        needed.append("\(Text.count(Int64(runs))) for \(measure.title)")
        most = max(most, runs)
      }
      if ratios.contains(where: { $0.runsNeeded == nil }) { hopeless.append(measure.title) }
    }
    if needed.isEmpty, hopeless.isEmpty { return nil }
    let undecided =
      needed.isEmpty
      ? "" : "the open differences would need about \(list(needed)) (--repeat \(most))"
    let equal =
      hopeless.isEmpty ? "" : "more than 1,000 runs of each would be needed for \(list(hopeless))"
    let parts = [undecided, equal].filter { !$0.isEmpty }
    return "At the noise seen, \(parts.joined(separator: "; "))."
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
      ? "one machine with \(Text.counted(processors, "processor")), which the generator shared"
      : "one machine"
    let each = cases.count > 1 ? "each under each load" : "each"
    var text = "All this rests on \(runs) run\(most == 1 ? "" : "s") of \(each), on \(machine)"
    if tested > 0 {
      let shown = ratios.count(where: \.isShown)
      text +=
        "; \(shown) of \(tested) ratios to \(variants[0]) show a difference, and about one in twenty "
        + "would by chance if all were equal"
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
