// The charts of a run's page: the spectrum of its latencies, and everything over time.

extension Report {
  // MARK: Spectrum

  var spectrumMarkup: Markup {
    spectrumMarkup(
      "Latency by percentile", latencySpectrum, serviceTimes: serviceTimeSpectrum)
  }

  func spectrumMarkup(
    _ title: String, _ latencySpectrum: [SpectrumPoint],
    serviceTimes serviceTimeSpectrum: [SpectrumPoint], heightPixels: Int = 300
  ) -> Markup {
    guard latencySpectrum.count > 1 else { return "" }
    let all = latencySpectrum + serviceTimeSpectrum
    let lowest = latencySpectrum.first?.microseconds ?? 0
    let highest = latencySpectrum.last?.microseconds ?? 0
    var chart = Chart(
      title: title,
      note: "Each step to the right is one nine more.",
      summary: "Latency from the lowest, \(Text.duration(microseconds: lowest)), to the 99.99th "
        + "percentile, \(Text.duration(microseconds: highest)).",
      horizontal: .percentiles,
      vertical: .logarithmic(all.map(\.microseconds)) { Text.shortDuration(microseconds: $0) })
    chart.heightPixels = heightPixels
    func points(_ spectrum: [SpectrumPoint]) -> [ChartPoint] {
      spectrum.map { ChartPoint($0.percentile, $0.microseconds) }
    }
    let isOpen = configuration.rate != nil
    chart.add(
      isOpen ? "latency, from the scheduled send" : "latency", .first,
      .line(points(latencySpectrum)))
    let hasService = isOpen && serviceTimeSpectrum.count > 1
    if hasService {
      chart.add(
        "service time, from the actual send", .second, .dashed(points(serviceTimeSpectrum)))
    }
    chart.readings = latencySpectrum.enumerated().map { index, point in
      var values = [Text.duration(microseconds: point.microseconds)]
      if hasService, index < serviceTimeSpectrum.count {
        values.append(Text.duration(microseconds: serviceTimeSpectrum[index].microseconds))
      }
      return Chart.Reading(
        x: point.percentile, title: Text.shortest(point.percentile) + " %", values: values)
    }
    return chart.markup
  }

  // MARK: Over time

  var timeCharts: Markup {
    guard !intervals.isEmpty else { return "" }
    let time = Timeline(intervals)
    return Markup([
      rateChart(time), latencyChart(time, "Latency over time") { $0.latencyMicroseconds },
      outcomeChart(time), codeChart(time),
    ])
  }

  private func rateChart(_ time: Timeline) -> Markup {
    let rates = time.intervals.map { Double($0.answered) / $0.seconds }
    let scheduled = time.intervals.map(\.scheduledPerSecond)
    var chart = time.chart(
      "Throughput", note: "Answered calls per second.",
      summary: "At most \(Text.counted(rates.max() ?? 0, "answer")) per second.",
      to: (rates + scheduled.compactMap { $0 }).max() ?? 1)
    var columns: [[String]] = []
    if scheduled.contains(where: { $0 != nil }) {
      chart.add("scheduled", .second, .dashed(time.points(scheduled)))
      columns.append(scheduled.map { $0.map { Text.decimal($0, 0) + " /s" } ?? "—" })
    }
    chart.add("answered", .first, .line(time.points(rates)))
    columns.append(rates.map { Text.decimal($0, 0) + " /s" })
    return time.markup(chart, columns)
  }

  /// - Parameter latency: the latencies of an interval that it is about.
  func latencyChart(
    _ time: Timeline, _ title: String, _ latency: (Interval) -> LatencySummary
  ) -> Markup {
    let figures: [(name: String, tone: Tone)] = [
      ("max", .neutral), ("p99.9", .highest), ("p99", .high), ("p90", .middle), ("p50", .low),
    ]
    let values = figures.map { figure in
      time.intervals.map { interval in
        let latency = latency(interval)
        return latency.count > 0 ? latency.figure(figure.name) : nil
      }
    }
    let all = values.flatMap { $0 }.compactMap { $0 }
    guard !all.isEmpty else { return "" }
    var chart = Chart(
      title: title,
      note: configuration.rate == nil
        ? "Of the answers of each interval."
        : "Of the answers of each interval, from the scheduled send.",
      summary: "The highest is \(Text.duration(microseconds: all.max() ?? 0)).",
      horizontal: time.axis,
      vertical: .logarithmic(all) { Text.shortDuration(microseconds: $0) })
    chart.heightPixels = 220
    for (figure, values) in zip(figures, values) {
      chart.add(figure.name, figure.tone, .line(time.points(values)))
    }
    return time.markup(
      chart, values.map { $0.map { $0.map(Text.duration(microseconds:)) ?? "—" } })
  }

  private func outcomeChart(_ time: Timeline) -> Markup {
    // All failures are one series: they matter together, and are few.
    let named = Outcome.allCases.filter { $0.group != .failed && (outcomes[$0.name] ?? 0) > 0 }
    var stack = named.map { outcome in
      Series(name: outcome.name, tone: outcome.tone) { $0.outcomes[outcome.name] ?? 0 }
    }
    let failures = Outcome.allCases.filter { $0.group == .failed }.map(\.name)
    if (failedShare ?? 0) > 0 {
      stack.append(
        Series(name: "failed", tone: .bad) { interval in
          failures.reduce(0) { $0 + (interval.outcomes[$1] ?? 0) }
        })
    }
    return stackedChart(
      time, "Outcomes", note: "What became of the calls, per second, one upon the other.",
      summary: "Outcomes per second: \(stack.map(\.name).joined(separator: ", ")).", stack)
  }

  private func codeChart(_ time: Timeline) -> Markup {
    let names = grpcCodeNames.filter { $0 != "OK" && (codes[$0] ?? 0) > 0 }
    let stack = names.enumerated().map { index, name in
      Series(name: name, tone: .series(index + 1)) { $0.codes[name] ?? 0 }
    }
    return stackedChart(
      time, "gRPC codes other than OK", note: "Answered calls per second, one upon the other.",
      summary: "Answers per second with the codes \(names.joined(separator: ", ")).", stack)
  }

  /// A count per interval.
  private struct Series {
    var name: String
    var tone: Tone
    var count: (Interval) -> Int
  }

  private func stackedChart(
    _ time: Timeline, _ title: String, note: String, summary: String, _ stack: [Series]
  ) -> Markup {
    guard !stack.isEmpty else { return "" }
    var bases = [Double](repeating: 0, count: time.intervals.count)
    var areas: [[ChartPoint]] = []
    var columns: [[String]] = []
    for series in stack {
      let rates = time.intervals.map { Double(series.count($0)) / $0.seconds }
      areas.append(time.steps(rates, upon: bases))
      columns.append(rates.map { Text.decimal($0, $0 < 10 && $0 > 0 ? 1 : 0) + " /s" })
      for index in bases.indices { bases[index] += rates[index] }
    }
    var chart = time.chart(title, note: note, summary: summary, to: bases.max() ?? 1)
    chart.namesLoneSeries = true
    for (series, area) in zip(stack, areas) { chart.add(series.name, series.tone, .area(area)) }
    return time.markup(chart, columns)
  }

  // MARK: Server and generator

  var serverCharts: Markup {
    guard intervals.contains(where: { $0.server != nil }) else { return "" }
    let time = Timeline(intervals)
    let perSecond: @Sendable (Double) -> String = { Text.decimal($0, 0) + " /s" }
    let count: @Sendable (Double) -> String = { Text.decimal($0, $0 < 10 ? 1 : 0) }
    let charts = [
      time.lines(
        "Conflicts and retries", note: "Per second.", label: perSecond, axis: Text.compact,
        [
          ("conflicts", .second, { $0.server?.conflictsPerSecond }),
          ("retries", .first, { $0.server?.retriesPerSecond }),
        ]),
      time.lines(
        "Sync latency", note: "Mean time to make a group durable.",
        label: { Text.duration(microseconds: $0) }, axis: { Text.shortDuration(microseconds: $0) },
        [("sync", .first, { $0.server?.syncMicroseconds })]),
      time.lines(
        "Group size", note: "Decisions that shared a sync, mean.", label: count, axis: Text.compact,
        [("decisions", .third, { $0.server?.groupRecords })]),
      time.lines(
        "Server CPU", note: "Busy processors.", label: { Text.decimal($0, 2) },
        axis: { Text.shortest($0) }, [("processors", .sixth, { $0.server?.processorShare })]),
      time.lines(
        "Live holds", note: "Reservations that neither ended nor expired.",
        label: { Text.decimal($0, 0) }, axis: Text.compact,
        [("holds", .fourth, { $0.server?.liveHolds })]),
      time.lines(
        "Server memory", note: "Resident bytes.", label: { Text.bytes($0) },
        axis: { Text.bytes($0) }, [("resident", .first, { $0.server?.residentBytes })]),
    ]
    return "<div class=\"pair\">\(charts)</div>"
  }

  var generatorCharts: Markup {
    guard !intervals.isEmpty else { return "" }
    let time = Timeline(intervals)
    let charts = [
      time.lines(
        "Busiest thread", note: "Share of its time that it worked.", label: { Text.percent($0) },
        axis: { Text.decimal($0 * 100, 0) + " %" }, top: 1,
        [("busy", .first, { $0.generatorBusyShare })]),
      time.lines(
        "Schedule lag", note: "How late ticks were looked at, 99th percentile.",
        label: { Text.duration(microseconds: $0) }, axis: { Text.shortDuration(microseconds: $0) },
        [("lag", .second, { $0.scheduleLagMicroseconds })]),
    ]
    return "<div class=\"pair\">\(charts)</div>"
  }
}

extension Outcome {
  /// The colour of a timeline.
  fileprivate var tone: Tone {
    switch self {
    case .reserved: .first
    case .replaced: .seventh
    case .confirmed: .third
    case .released: .fifth
    case .extended: .seventh
    case .restocked: .sixth
    case .read: .eighth
    case .replayed: .neutral
    case .insufficientStock, .limitExceeded: .second
    case .expired: .fourth
    case .otherRefusal, .cut: .warning
    case .tooBusy, .malformed, .reset, .unprocessed, .lost, .unanswered, .unsent, .otherFailure:
      .bad
    }
  }
}

extension Text {
  /// For axes: 500 µs, 1 ms, 2.5 s.
  static func shortDuration(microseconds: Double) -> String {
    switch microseconds {
    case ..<1_000: shortest(microseconds) + " µs"
    case ..<1_000_000: shortest(microseconds / 1_000) + " ms"
    default: shortest(microseconds / 1_000_000) + " s"
    }
  }
}
