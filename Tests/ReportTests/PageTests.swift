import Testing

@testable import LoadReport

struct PageTests {
  private static let hostile = "</title><script>alert(\"1\")</script>&'|\u{202E}\u{1b}[31m"

  @Test func textInMarkupIsEscaped() {
    let markup: Markup = "<td title=\"\(Self.hostile)\">\("a\nb" as String)</td>"
    #expect(
      markup.source == "<td title=\"&lt;/title&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;"
        + "&amp;&#39;|\u{FFFD}\u{FFFD}[31m\">a\nb</td>")
    let outer: Markup = "<p>\(markup)\([markup, markup])\(7)</p>"
    #expect(outer.source.hasSuffix("</td>7</p>"))
  }

  /// Wherever a text of the server's or the user's stands, it stays text.
  @Test func hostileTextsStayText() {
    var report = Sample.report
    let hostile = Self.hostile
    report.label = hostile
    report.verdict = "VERDICT: \(hostile) — \(hostile)"
    report.limitReason = hostile
    report.generator = hostile
    report.startedAt = hostile
    report.environment.server = hostile
    report.environment.system = hostile
    report.configuration.target = hostile
    report.configuration.scenario = hostile
    report.configuration.commandLine = hostile
    report.configuration.rate = hostile
    report.configuration.workload[hostile] = hostile
    report.firstFailure = hostile
    report.warnings = [hostile]
    report.leavesOut = [hostile]
    report.thresholds[0].expression = hostile
    report.check?.examples = [hostile]
    report.check?.violations = [hostile: 1]
    report.server?.conflicts = [hostile: 1]
    let html = report.html
    #expect(html.components(of: "<script>") == 1)
    #expect(html.components(of: "</title>") == 1)
    #expect(!html.contains("\u{202E}") && !html.contains("\u{1b}"))
    #expect(!report.text.contains("\u{1b}"))
    #expect(report.text.split(separator: "\n").first?.hasPrefix("VERDICT: </title>") == true)
  }

  @Test func thePageAsksTheNetworkForNothing() {
    let html = Sample.report.html
    for word in ["http://", "https://", "url(", "@import", "<link rel=\"stylesheet\"", " src="] {
      #expect(!html.contains(word), "\(word)")
    }
    #expect(html.contains("default-src 'none'"))
  }

  @Test func theVerdictIsSaidInWordsAndWithASign() {
    let good = Sample.report.html
    #expect(good.contains("class=\"verdict good\""))
    #expect(good.contains("<strong>Nothing oversold, nothing lost</strong>"))
    var report = Sample.report
    report.result = .violated
    report.isPartial = true
    #expect(report.html.contains("class=\"verdict bad\""))
    #expect(report.html.contains("The run ended before it was to."))
  }

  /// A report with nothing in it has no empty sections, and no numbers that are none.
  @Test func anEmptyReportIsAPage() {
    let html = Report().html
    #expect(!html.contains("<figure") && !html.contains("Thresholds"))
    #expect(!html.lowercased().contains("nan") && !html.contains("inf"))
  }

  @Test func figuresThatAreNoNumbersAreNotDrawn() {
    var report = Sample.report
    report.intervals[5].latencyMicroseconds.p99 = .nan
    report.intervals[6].latencyMicroseconds.max = .infinity
    report.intervals[7].seconds = 0
    report.intervals[8].startSeconds = .nan
    report.intervals[9].server?.conflictsPerSecond = .infinity
    report.latencySpectrum[3].microseconds = .nan
    let html = report.html
    #expect(!html.lowercased().contains("nan<") && !html.contains("inf<"))
  }

  // MARK: Charts

  @Test func aLineHasGapsAndDotsForWhatStandsAlone() {
    var chart = Chart(
      title: "Rate", summary: "A rate.", horizontal: .time(to: 10), vertical: .fromZero(to: 100))
    chart.add(
      "rate", .first,
      .line([
        ChartPoint(0, 0), ChartPoint(5, 100), ChartPoint(6, nil), ChartPoint(7, 50),
        ChartPoint(8, nil), ChartPoint(10, 100),
      ]))
    #expect(chart.markup.source.contains("d=\"M0 10000L5000 0M7000 5000h0M10000 0h0\""))
  }

  @Test func anAreaGoesUpOneSideAndDownTheOther() {
    var chart = Chart(
      title: "Rate", summary: "A rate.", horizontal: .time(to: 10), vertical: .fromZero(to: 100))
    chart.add(nil, .good, .area([ChartPoint(0, 50, base: 10), ChartPoint(10, 100, base: 10)]))
    #expect(
      chart.markup.source.contains("class=\"area good\" d=\"M0 5000L10000 0L10000 9000L0 9000Z\""))
    #expect(!chart.markup.source.contains("class=\"legend\""))
  }

  @Test func readingsAreInTheOrderOfTheLegend() {
    var chart = Chart(
      title: "Rate", summary: "A rate.", horizontal: .time(to: 10), vertical: .fromZero(to: 100))
    chart.add("a|b", .first, .level(3))
    chart.readings = [Chart.Reading(x: 5, title: "5 s", values: ["1 /s"])]
    #expect(chart.markup.source.contains("data-chart=\"first a¦b\n500|5 s|1 /s\""))
  }
}

extension String {
  fileprivate func components(of text: String) -> Int { ranges(of: text).count }
}
