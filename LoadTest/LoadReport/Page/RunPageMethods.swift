// A run's page by method: a row of buttons, and of the method that is chosen its figures, its spectrum and
// its latencies over time.

extension Report {
  /// Nothing where only one method was called: the rest of the page is about it.
  var methodsMarkup: Markup {
    let names = measuredMethodNames.filter { latencyMicroseconds[$0] != nil }
    guard names.count > 1, !methodSpectra.isEmpty else { return "" }
    let time = Timeline(intervals)
    let inputs: [Markup] = names.enumerated().map { index, name in
      let id = Chart.identifier("method " + name)
      let checked: Markup = index == 0 ? " checked" : ""
      return "<input type=\"radio\" name=\"method\" id=\"\(id)\"\(checked)>\n"
    }
    let labels: [Markup] = names.map { name in
      let rate = Double(latencyMicroseconds[name]?.count ?? 0) / max(1e-9, measuredSeconds)
      return """
        <label for="\(Chart.identifier("method " + name))">\(name) \
        <small>\(Text.decimal(rate, 0)) /s</small></label>

        """
    }
    let panels: [Markup] = names.map { name in
      "<div class=\"panel \(Chart.identifier("method " + name))\">\n\(panel(name, time))</div>\n"
    }
    return """
      <div class="choice" role="group" aria-label="Method">
      \(inputs)<div class="tabs">
      \(labels)</div>
      \(panels)</div>

      """
  }

  private func panel(_ name: String, _ time: Timeline) -> Markup {
    let latency = latencyMicroseconds[name] ?? LatencySummary()
    var figures = [
      Markup.keyFigure("Calls", Text.count(Int64(latency.count)))
    ]
    figures += ["p50", "p90", "p99", "p99.9", "max"].map { figure in
      Markup.keyFigure(
        figure, Text.duration(microseconds: latency.figure(figure) ?? 0))
    }
    let charts = [
      spectrumMarkup(
        "\(name) by percentile", methodSpectra[name] ?? [], serviceTimes: [], heightPixels: 220),
      latencyChart(time, "\(name) over time") { $0.methods[name] ?? LatencySummary() },
    ]
    return Markup([.keyFigures(figures), "<div class=\"pair\">\(charts)</div>\n"])
  }
}
