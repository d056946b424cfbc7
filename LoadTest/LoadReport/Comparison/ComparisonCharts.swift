// What a comparison draws: ratios around 1, the single runs, and the latencies over each other.
internal import Glibc

extension Comparison {
  private static let rowPixels = 13

  /// A forest plot: for each measure a band of rows, one per variant, the ratio as a dot upon its
  /// interval.
  func ratioChart(_ one: Case) -> Chart? {
    let bands = one.measures.compactMap { measured -> (measure: Measure, figures: [Figure])? in
      let measure = Measure.named(measured.name)
      return measured.figures.contains { $0.ratio != nil }
        ? measure.map { ($0, measured.figures) } : nil
    }
    guard !bands.isEmpty else { return nil }
    // In each band a row for every variant, the baseline's left free to part the bands.
    let rows = Double(bands.count * variants.count)
    func place(_ band: Int, _ variant: Int) -> Double {
      rows - Double(band * variants.count + variant)
    }
    let ratios = bands.flatMap(\.figures).compactMap(\.ratio)
    var chart = Chart(
      title: "Ratios to \(variants[0])",
      note: "Each dot is a ratio, the bar its 95 % interval. Bars that cross 1 show no difference.",
      summary: bands.flatMap { band in
        band.figures.compactMap { figure in
          figure.ratio.map { "\(band.measure.title), \(figure.variant): \($0.text)" }
        }
      }.joined(separator: ". "),
      horizontal: .ratios(ratios.flatMap { [$0.value, $0.low, $0.high].compactMap(\.self) }),
      vertical: Axis(
        scale: .linear(0...rows),
        ticks: bands.enumerated().map { index, band in
          Axis.Tick(place(index, 0) - Double(variants.count) / 2, band.measure.title)
        }))
    chart.leftPixels = 7 * (bands.map(\.measure.title.count).max() ?? 8) + 16
    chart.heightPixels = max(80, Comparison.rowPixels * Int(rows))
    chart.add(nil, .neutral, .upright(1))
    for (index, variant) in variants.enumerated().dropFirst() {
      var dots: [ChartPoint] = []
      var bars: [(from: Double, to: Double, y: Double)] = []
      for (band, content) in bands.enumerated() {
        guard let ratio = content.figures[index].ratio else { continue }
        let row = place(band, index)
        dots.append(ChartPoint(ratio.value, row))
        if let low = ratio.low, let high = ratio.high { bars.append((low, high, row)) }
      }
      chart.add(nil, Tone.series(index), .ranges(bars, widthPixels: 3))
      chart.add(variant, Tone.series(index), .dots(dots))
    }
    return chart
  }

  /// Every run's rate, or its tail where the rate was given: a row per variant, from the first run on.
  func runsChart(_ one: Case) -> Chart? {
    let isOpen = one.configuration.loop == "open"
    guard let measure = Measure.named(isOpen ? "p99" : "rate") else { return nil }
    let all = variants.flatMap { one.values(of: measure.name, $0) }.filter { $0 > 0 }
    guard !all.isEmpty else { return nil }
    var chart = Chart(
      title: "\(Text.capitalized(measure.title)) of each run",
      note: "In the order of time, from left to right: drift of the machine shows as a slope.",
      summary: variants.map { variant in
        let texts = one.values(of: measure.name, variant).map { measure.text($0) }
        return "\(variant): \(texts.joined(separator: ", "))"
      }.joined(separator: ". "),
      horizontal: Axis(
        scale: .linear(0...Double(one.runs.count + 1)),
        ticks: [1, one.runs.count].map { Axis.Tick(Double($0), "run \($0)") }),
      vertical: isOpen
        ? .logarithmic(all) { Text.duration(microseconds: $0) }
        : .fromZero(to: all.max() ?? 1))
    for (index, variant) in variants.enumerated() {
      let points = one.runs.enumerated().filter { $0.element.variant == variant }.map {
        ChartPoint(Double($0.offset + 1), $0.element.values[measure.name])
      }
      chart.add(variant, Tone.series(index), .dots(points))
    }
    return chart
  }

  func spectraChart(_ one: Case) -> Chart? {
    let all = one.spectra.values.flatMap { $0 }.map(\.microseconds).filter { $0 > 0 }
    guard !all.isEmpty else { return nil }
    var chart = Chart(
      title: "Latency by percentile",
      note: "Of each variant the middle one of its runs; every further nine takes the same room.",
      summary: variants.map { variant in
        let slowest = one.spectra[variant]?.last?.microseconds ?? 0
        return "\(variant): \(Text.duration(microseconds: slowest)) at 99.99 %"
      }.joined(separator: ". "),
      horizontal: .percentiles, vertical: .logarithmic(all) { Text.duration(microseconds: $0) })
    for (index, variant) in variants.enumerated() {
      let points = (one.spectra[variant] ?? []).map { ChartPoint($0.percentile, $0.microseconds) }
      chart.add(variant, Tone.series(index), .line(points))
    }
    let percentiles = variants.compactMap { one.spectra[$0] }.first?.map(\.percentile) ?? []
    chart.readings = percentiles.enumerated().map { index, percentile in
      Chart.Reading(
        x: percentile, title: "\(Text.shortest(percentile)) %",
        values: variants.map { variant in
          let spectrum = one.spectra[variant] ?? []
          return index < spectrum.count
            ? Text.duration(microseconds: spectrum[index].microseconds) : "—"
        })
    }
    return chart
  }
}

extension Axis {
  /// Logarithmic and as far to the left of 1 as to the right, up to a factor of ten.
  static func ratios(_ values: [Double]) -> Axis {
    let farthest = values.filter { $0 > 0 && $0.isFinite }.map { max($0, 1 / $0) }.max() ?? 1
    let ends: [(end: Double, between: [Double])] = [
      (1.05, [1.02]), (1.1, [1.05]), (1.25, [1.1]), (1.5, [1.2]), (2, [1.5]), (4, [2]),
      (10, [2, 5]),
    ]
    let (end, between) = ends.first { $0.end >= farthest } ?? ends[ends.count - 1]
    let steps = between + [end]
    let ticks = steps.reversed().map { 1 / $0 } + [1] + steps
    return Axis(
      scale: .logarithmic(1 / end...end), ticks: ticks.map { Tick($0, Ratio.times($0, 2)) })
  }
}
