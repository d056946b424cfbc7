// The intervals of a run on one time axis, no more of them than a chart can show.

struct Timeline {
  let intervals: [Report.Interval]
  let axis: Axis
  private static let intervalsAtMost = 300

  init(_ all: [Report.Interval]) {
    var usable = all.filter { $0.seconds > 0 && $0.seconds.isFinite && $0.startSeconds.isFinite }
    // What is left over at the end of a run may be so short that its rates mean nothing.
    if usable.count > 1, usable[usable.count - 1].seconds < usable[usable.count - 2].seconds / 4 {
      let joined = Report.Interval(joining: usable.suffix(2))
      usable.replaceSubrange((usable.count - 2)..., with: [joined])
    }
    let together = (usable.count + Timeline.intervalsAtMost - 1) / Timeline.intervalsAtMost
    intervals = stride(from: 0, to: usable.count, by: max(1, together)).map { start in
      Report.Interval(joining: usable[start..<min(start + together, usable.count)])
    }
    axis = .time(
      from: intervals.first?.startSeconds ?? 0,
      to: intervals.last.map { $0.startSeconds + $0.seconds } ?? 1)
  }

  /// A chart over this time, from 0 up to at least `top`.
  func chart(
    _ title: String, note: String, summary: String, to top: Double,
    label: @Sendable (Double) -> String = Text.compact
  ) -> Chart {
    Chart(
      title: title, note: note, summary: summary, horizontal: axis,
      vertical: .fromZero(to: top, label: label))
  }

  /// A value per interval, in its middle.
  func points(_ values: [Double?]) -> [ChartPoint] {
    zip(intervals, values).map { ChartPoint($0.startSeconds + $0.seconds / 2, $1) }
  }

  /// An area over the whole of each interval.
  func steps(_ values: [Double], upon bases: [Double]) -> [ChartPoint] {
    intervals.indices.flatMap { index in
      let interval = intervals[index]
      let top = bases[index] + values[index]
      return [interval.startSeconds, interval.startSeconds + interval.seconds].map {
        ChartPoint($0, top, base: bases[index])
      }
    }
  }

  /// A small chart of lines, nothing where none has a value. `top` is the least that its axis shows.
  func lines(
    _ title: String, note: String, label: (Double) -> String,
    axis axisLabel: @Sendable (Double) -> String, top: Double = 0,
    _ series: [(name: String, tone: Tone, value: (Report.Interval) -> Double?)]
  ) -> Markup {
    let columns = series.map { intervals.map($0.value) }
    let all = columns.flatMap { $0 }.compactMap { $0 }
    guard let most = all.max() else { return "" }
    var chart = chart(
      title, note: note, summary: "At most \(label(most)).", to: max(most, top), label: axisLabel)
    chart.heightPixels = 130
    for (series, values) in zip(series, columns) {
      // Metrics are read less often than intervals end: the line goes on to the next value.
      chart.add(series.name, series.tone, .line(points(values).filter { $0.y != nil }))
    }
    return markup(chart, columns.map { $0.map { $0.map(label) ?? "—" } })
  }

  /// The chart with what is read where one points at it, a column for each entry of its legend.
  func markup(_ chart: Chart, _ columns: [[String]]) -> Markup {
    var chart = chart
    chart.group = "time"
    chart.bands = unmeasured
    chart.readings = intervals.enumerated().map { index, interval in
      let end = interval.startSeconds + interval.seconds
      return Chart.Reading(
        x: interval.startSeconds + interval.seconds / 2,
        title: "\(Text.decimal(interval.startSeconds, 1)) to \(Text.decimal(end, 1)) s",
        values: columns.map { $0[index] })
    }
    return chart.markup
  }

  /// Warm-up and drain.
  private var unmeasured: [Chart.Band] {
    var bands: [Chart.Band] = []
    for interval in intervals where !interval.isMeasured {
      let end = interval.startSeconds + interval.seconds
      if let last = bands.last, abs(last.to - interval.startSeconds) < interval.seconds / 2 {
        bands[bands.count - 1].to = end
      } else {
        bands.append(Chart.Band(from: interval.startSeconds, to: end))
      }
    }
    return bands
  }
}

extension Report.Interval {
  /// Several as one: counts in all, of latencies the worst of each percentile, of rates the mean.
  init(joining intervals: ArraySlice<Report.Interval>) {
    self = intervals.first ?? Report.Interval()
    guard intervals.count > 1 else { return }
    for next in intervals.dropFirst() {
      answered += next.answered
      isMeasured = isMeasured && next.isMeasured
      outcomes.merge(next.outcomes, uniquingKeysWith: +)
      codes.merge(next.codes, uniquingKeysWith: +)
      latencyMicroseconds = latencyMicroseconds.worst(with: next.latencyMicroseconds)
      methods.merge(next.methods) { $0.worst(with: $1) }
      generatorBusyShare = max(generatorBusyShare, next.generatorBusyShare)
      if let lag = next.scheduleLagMicroseconds {
        scheduleLagMicroseconds = max(scheduleLagMicroseconds ?? 0, lag)
      }
      server = next.server ?? server
    }
    let times = intervals.reduce(0) { $0 + $1.seconds }
    let scheduled = intervals.reduce(0) { $0 + ($1.scheduledPerSecond ?? 0) * $1.seconds }
    if scheduledPerSecond != nil, times > 0 { scheduledPerSecond = scheduled / times }
    if let last = intervals.last { seconds = last.startSeconds + last.seconds - startSeconds }
  }
}

extension LatencySummary {
  /// No percentile of both together is above this.
  fileprivate func worst(with other: LatencySummary) -> LatencySummary {
    LatencySummary(
      count: count + other.count, mean: Swift.max(mean, other.mean), p50: Swift.max(p50, other.p50),
      p90: Swift.max(p90, other.p90), p95: Swift.max(p95, other.p95),
      p99: Swift.max(p99, other.p99),
      p999: Swift.max(p999, other.p999), p9999: Swift.max(p9999, other.p9999),
      max: Swift.max(max, other.max))
  }
}
