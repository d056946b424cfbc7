// How reports of runs become a comparison.

/// A report, and what it stands for.
package struct ComparedReport: Sendable {
  package var variant: String
  /// Where it was read from, or is kept; empty if nowhere.
  package var file: String
  package var report: Report

  package init(variant: String, file: String, report: Report) {
    self.variant = variant
    self.file = file
    self.report = report
  }
}

extension Comparison.Case {
  /// - Parameters:
  ///   - name: of the load; may be empty.
  ///   - variants: in their order, the baseline first.
  ///   - reports: of all of them; of one instant, in the order in which they ran.
  package init(_ name: String, variants: [String], reports: [ComparedReport]) {
    self.name = name
    // By position where the times are the same: sorted(by:) promises no order of equals.
    let inOrder = reports.enumerated().sorted {
      ($0.element.report.startedAt, $0.offset) < ($1.element.report.startedAt, $1.offset)
    }.map(\.element)
    if let first = inOrder.first {
      configuration = first.report.configuration
      environment = first.report.environment
    }
    runs = inOrder.map { Comparison.Run($0) }
    for measure in Comparison.Measure.all {
      let figures = variants.map { figure(of: measure.name, $0, baseline: variants[0]) }
      // What is zero everywhere says nothing.
      if figures.contains(where: { $0.mean ?? 0 > 0 }) {
        measures.append(Comparison.Measured(name: measure.name, figures: figures))
      }
    }
    for variant in variants {
      let spectrum = middleSpectrum(inOrder.filter { $0.variant == variant }.map(\.report))
      if !spectrum.isEmpty { spectra[variant] = spectrum }
    }
    warnings = comparisonWarnings(inOrder, variants: variants)
  }

  /// What `variant`'s runs have measured, beside the baseline's.
  private func figure(
    of measure: String, _ variant: String, baseline: String
  ) -> Comparison.Figure {
    let values = values(of: measure, variant)
    var figure = Comparison.Figure(variant: variant, runs: values.count, mean: center(of: values))
    if variant != baseline { figure.ratio = ratio(of: measure, variant, to: baseline) }
    return figure
  }

  /// One figure of each run of `variant`, in the order of time.
  package func values(of measure: String, _ variant: String) -> [Double] {
    runs.filter { $0.variant == variant }.compactMap { $0.values[measure] }
  }

  /// How `variant` stands to `other`; nil where a figure is missing or zero.
  package func ratio(of measure: String, _ variant: String, to other: String) -> Ratio? {
    Ratio(
      values(of: measure, variant), to: values(of: measure, other),
      arePaired: tookTurns(variant, other))
  }

  /// Whether each two runs, one after the other, were one of either: AB AB, AB BA, or three in turn.
  func tookTurns(_ one: String, _ other: String) -> Bool {
    let both = runs.filter { $0.variant == one || $0.variant == other }
    guard both.count > 1, both.count % 2 == 0, both.allSatisfy({ !$0.startedAt.isEmpty }) else {
      return false
    }
    return stride(from: 0, to: both.count, by: 2).allSatisfy {
      both[$0].variant != both[$0 + 1].variant
    }
  }
}

extension Comparison.Run {
  init(_ compared: ComparedReport) {
    let report = compared.report
    variant = compared.variant
    file = compared.file
    startedAt = report.startedAt
    verdict = report.verdict
    isPartial = report.isPartial
    for measure in Comparison.Measure.all {
      // A report may say anything; beyond these no run can be, and ratios would overflow.
      guard let value = measure.value(report), value == 0 || (1e-12...1e15).contains(value) else {
        continue
      }
      values[measure.name] = value
    }
  }
}

/// The geometric mean, which ratios go by; the plain one where a value is not above zero.
private func center(of values: [Double]) -> Double? {
  guard !values.isEmpty else { return nil }
  // The ratio to runs that all say 1 is the geometric mean.
  if let ratio = Ratio(values, to: [1], arePaired: false) { return ratio.value }
  return values.reduce(0, +) / Double(values.count)
}

/// At each percentile the median of the reports' values.
private func middleSpectrum(_ reports: [Report]) -> [SpectrumPoint] {
  let spectra = reports.map(\.latencySpectrum).filter { !$0.isEmpty }
  guard let shortest = spectra.map(\.count).min(), let first = spectra.first else { return [] }
  return (0..<shortest).map { index in
    let values = spectra.map { $0[index].microseconds }.sorted()
    let middle = (values[(values.count - 1) / 2] + values[values.count / 2]) / 2
    return SpectrumPoint(first[index].percentile, middle)
  }
}

// MARK: Several cases

extension Comparison {
  /// Of reports that earlier runs have written. Where every variant was run under several loads, each
  /// load is a case.
  package init(_ reports: [ComparedReport]) {
    for report in reports where !variants.contains(report.variant) {
      variants.append(report.variant)
    }
    var loads: [(settings: [String: String], reports: [ComparedReport])] = []
    for report in reports {
      let settings = report.report.configuration.load
      if let index = loads.firstIndex(where: { $0.settings == settings }) {
        loads[index].reports.append(report)
      } else {
        loads.append((settings, [report]))
      }
    }
    let areCases = loads.allSatisfy { Set($0.reports.map(\.variant)).count == variants.count }
    if areCases, loads.count > 1 {
      let names = differences(loads.map(\.settings))
      cases = zip(loads, names).map { Case($1, variants: variants, reports: $0.reports) }
    } else {
      cases = [Case("", variants: variants, reports: reports)]
    }
    finish()
  }

  /// Derives what is said about all cases together.
  package mutating func finish() {
    startedAt = cases.flatMap(\.runs).map(\.startedAt).filter { !$0.isEmpty }.min() ?? ""
    disqualified = []
    for variant in variants {
      let runs = cases.flatMap(\.runs).filter { $0.variant == variant }
      let bad = runs.filter { $0.verdict.result == .violated }
      if let first = bad.first {
        disqualified.append(
          "\(variant) loses: \(bad.count) of \(Text.counted(runs.count, "run")) violated an invariant, "
            + "such as \(first.verdict.sentence)")
      }
    }
    findings = makeFindings()
  }
}

/// What sets each of `settings` apart from the others, as "rate 5000, scenario carts".
private func differences(_ settings: [[String: String]]) -> [String] {
  let names = Set(settings.flatMap(\.keys)).sorted()
  let telling = names.filter { name in Set(settings.map { $0[name] ?? "none" }).count > 1 }
  return settings.map { setting in
    telling.map { "\($0) \(setting[$0] ?? "none")" }.joined(separator: ", ")
  }
}

// MARK: Whether they can be compared

extension Report.Configuration {
  /// What makes the load, by names that people know; not where it went, and not its seed.
  var load: [String: String] {
    var load = workload.mapValues(\.text)
    load["scenario"] = scenario
    load["loop"] = loop
    load["arrivals"] = arrivals
    load["rate"] = rate
    load["connections"] = "\(connections)"
    load["streams"] = "\(streams)"
    load["threads"] = "\(threads)"
    load["warm-up"] = "\(warmUpSeconds) s"
    load["duration"] = durationSeconds.map { "\($0) s" }
    load["operations"] = operations.map { "\($0)" }
    return load
  }
}

private func comparisonWarnings(_ reports: [ComparedReport], variants: [String]) -> [String] {
  var warnings: [String] = []
  /// Warns where the variants do not have the same values of something.
  func compare(_ name: String, _ value: (Report) -> String?) {
    let values = variants.map { variant in
      Set(reports.filter { $0.variant == variant }.map { value($0.report) ?? "none" }).sorted()
    }
    if Set(values).count > 1 {
      let told = zip(variants, values).map { "\($0): \($1.joined(separator: " and "))" }
      warnings.append("\(name) differs: \(told.joined(separator: "; "))")
    } else if let mixed = values.first, mixed.count > 1, name != "seed" {
      warnings.append("\(name) differs from run to run: \(mixed.joined(separator: " and "))")
    }
  }
  for name in Set(reports.flatMap { $0.report.configuration.load.keys }).sorted() {
    compare(name) { $0.configuration.load[name] }
  }
  compare("seed") { String($0.configuration.seed) }
  compare("processor") { $0.environment.processorModel }
  compare("number of processors") { "\($0.environment.processors)" }
  compare("system") { $0.environment.system }
  compare("generator") { $0.generator }
  func tell(_ what: String, _ isSo: (Report) -> Bool) {
    let counts = variants.compactMap { variant -> String? in
      let runs = reports.filter { $0.variant == variant }
      let count = runs.count { isSo($0.report) }
      return count > 0 ? "\(variant) \(count) of \(runs.count)" : nil
    }
    if !counts.isEmpty { warnings.append("\(what): \(counts.joined(separator: ", "))") }
  }
  tell("the generator was the limit, so these rates say nothing of the server") {
    $0.limitedBy == .generator
  }
  tell("runs that ended before they were to") { $0.isPartial }
  tell("runs whose answers were not compared") { $0.result == .unknown || $0.result == .notChecked }
  return warnings
}
