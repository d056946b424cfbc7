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
    report.verdict = Verdict(.unknown, reason: hostile)
    report.limitReason = hostile
    report.generator = hostile
    report.startedAt = hostile
    report.environment.server = hostile
    report.environment.system = hostile
    report.configuration.target = hostile
    report.configuration.scenario = hostile
    report.configuration.commandLine = hostile
    report.configuration.rate = hostile
    report.configuration.workload[hostile] = .text(hostile)
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
    #expect(report.text.split(separator: "\n").first?.hasPrefix("NO VERDICT: </title>") == true)
  }

  @Test func thePageAsksTheNetworkForNothing() {
    let html = Sample.report.html
    for word in ["http://", "https://", "url(", "@import", "<link rel=\"stylesheet\"", " src="] {
      #expect(!html.contains(word), "\(word)")
    }
    #expect(html.contains("default-src 'none'"))
  }

  @Test func theVerdictIsSaidInWordsAndWithASign() {
    var report = Sample.report
    report.thresholds.removeAll { !$0.isPassed }
    #expect(report.html.contains("class=\"verdict good\""))
    #expect(report.html.contains("<strong>Nothing oversold, nothing lost</strong>"))
    #expect(report.html.contains("<p>10,000,000 units in stock, 1,204,113 units accepted: 842,880"))
    report.result = .violated
    report.verdict.violations = ["decided twice": 2]
    report.isPartial = true
    #expect(report.html.contains("class=\"verdict bad\""))
    #expect(
      report.html.contains(
        "<strong>VIOLATED: decided twice (2); the run ended before it was to</strong>"))
  }

  /// What a run has to be for its banner to have a colour, and what the banner then says.
  struct Banner: Sendable {
    let tone: String
    let words: String
    let change: @Sendable (inout Report) -> Void

    static let all = [
      Banner(tone: "good", words: "<strong>Nothing oversold, nothing lost</strong>") { _ in },
      Banner(tone: "warning", words: "nothing lost, 3 SKUs undecided</strong>") {
        $0.verdict.skusUndecided = 3
      },
      Banner(tone: "warning", words: "; the run ended before it was to") { $0.isPartial = true },
      Banner(tone: "warning", words: "; 1 call never sent") { $0.unsent = 1 },
      Banner(tone: "warning", words: "No verdict: gone") {
        $0.verdict = Verdict(.unknown, reason: "gone")
      },
      Banner(tone: "warning", words: "No verdict: nothing was compared") {
        $0.verdict = Verdict(.notChecked, reason: "nothing was compared")
      },
      Banner(tone: "bad", words: "; 1 of 1 requirement broken") {
        $0.thresholds[0].isPassed = false
      },
      Banner(tone: "bad", words: "; the server counts 1 invariant violation") {
        $0.server?.invariantViolations = 1
      },
      Banner(tone: "bad", words: "OVERSOLD by 1 unit on SKU x-1") {
        $0.verdict.result = .violated
        $0.verdict.oversold = Verdict.Oversold()
        $0.verdict.oversold?.sku = "x-1"
        $0.verdict.oversold?.units = 1
      },
      Banner(tone: "bad", words: "SKU x-1 (and 1 more SKU)") {
        $0.verdict.result = .violated
        $0.verdict.oversold = Verdict.Oversold()
        $0.verdict.oversold?.sku = "x-1"
        $0.verdict.oversold?.skus = 2
        // What is broken outweighs what is undecided.
        $0.isPartial = true
      },
    ]
  }

  @Test(arguments: Banner.all)
  func theBannerIsGreenOnlyWhereAllHeld(banner: Banner) throws {
    var report = Sample.report
    report.thresholds.removeAll { !$0.isPassed }
    banner.change(&report)
    let html = report.html
    let start = try #require(html.firstRange(of: "<div class=\"verdict ")).lowerBound
    let markup = html[start...].prefix(700)
    #expect(markup.hasPrefix("<div class=\"verdict \(banner.tone)\""), "\(markup)")
    #expect(markup.contains(banner.words), "\(markup)")
  }

  /// A chart of one code says which: its legend has it, though it is alone.
  @Test func aLoneCodeIsNamed() throws {
    var report = Sample.report
    report.codes = ["OK": 10, "ABORTED": 3]
    let html = report.html
    let start = try #require(html.firstRange(of: "gRPC codes other than OK</h3>")).lowerBound
    #expect(html[start...].prefix(600).contains("</i>ABORTED</li></ul>"))
  }

  /// On a telephone the first column and p99 are what is seen first.
  @Test func theLatencyTableBeginsWithWhatMatters() throws {
    let html = Sample.report.html
    let start = try #require(html.firstRange(of: "<span>Latency by method</span>")).lowerBound
    let heads = html[start...].prefix(700).ranges(of: "<th scope=\"col\"").count
    #expect(heads == 11)
    #expect(
      html[start...].contains(
        "<th scope=\"col\">p50</th><th scope=\"col\">p90</th>"
          + "<th scope=\"col\" class=\"wide\">p95</th><th scope=\"col\">p99</th>"))
    #expect(html.contains(".scroll th:first-child { position: sticky; left: 0;"))
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
