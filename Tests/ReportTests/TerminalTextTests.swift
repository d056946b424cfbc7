import Testing

@testable import LoadReport

struct TerminalTextTests {
  private func terminal(_ columns: Int, colours: Bool = false) -> Terminal {
    var terminal = Terminal()
    terminal.canRedraw = true
    terminal.hasColours = colours
    terminal.columns = columns
    return terminal
  }

  // MARK: Summary

  @Test(arguments: [80, 97, 100, 120, 300]) func theSummaryFitsAScreen(columns: Int) {
    let lines = Sample.report.text(on: terminal(columns)).dropLast().split(
      separator: "\n", omittingEmptySubsequences: false)
    for line in lines { #expect(line.count <= columns, "\(line)") }
    #expect(lines.count <= (columns < 100 ? 34 : 30))
    #expect(lines[0].hasPrefix("VERDICT: nothing oversold, nothing lost — 10,000,000 units"))
  }

  @Test(arguments: [
    (0, "VERDICT: nothing oversold, nothing lost — "),
    (1, "VERDICT: nothing oversold, nothing lost, 1 SKU undecided — "),
    (1_200, "VERDICT: nothing oversold, nothing lost, 1,200 SKUs undecided — "),
  ])
  func theVerdictSaysWhatIsUndecided(skus: Int, beginning: String) {
    var check = Report.Check()
    check.holds = true
    check.skusUndecided = skus
    #expect(check.verdict.sentence.hasPrefix(beginning), "\(check.verdict.sentence)")
  }

  /// What most runs say: a closed loop that nothing went wrong in.
  @Test func anOrdinaryRunFitsTheSmallestScreen() {
    var report = Sample.report
    report.configuration.rate = nil
    report.configuration.arrivals = nil
    report.label = nil
    report.warnings = []
    report.thresholds = []
    report.connectionsLost = 0
    report.firstFailure = nil
    report.outcomes["stream reset"] = nil
    report.outcomes["connection lost"] = nil
    report.codes = ["OK": 1_756_661, "FAILED_PRECONDITION": 78_430]
    let lines = report.text(on: terminal(80)).dropLast().split(
      separator: "\n", omittingEmptySubsequences: false)
    #expect(lines.count <= 24)
  }

  @Test func theVerdictOfALogIsOneLine() {
    #expect(
      Sample.report.text.split(separator: "\n").first.map(String.init)
        == Sample.report.verdict.sentence)
  }

  @Test func coloursAreForTerminalsThatHaveThem() {
    #expect(!Sample.report.text(on: terminal(100)).contains("\u{1b}"))
    #expect(Sample.report.text(on: terminal(100, colours: true)).contains("\u{1b}[1;31mVERDICT"))
    var kept = Sample.report
    kept.thresholds.removeAll { !$0.isPassed }
    #expect(kept.text(on: terminal(100, colours: true)).contains("\u{1b}[1;32mVERDICT"))
    #expect(!Sample.report.text.contains("\u{1b}"))
  }

  @Test func theSummarySaysWhatFailedAndWhatLimited() {
    var report = Sample.report
    report.limitedBy = .generator
    report.limitReason = "the busiest thread worked 97 % of its time"
    report.warnings.append("the generator was the limit: \(report.limitReason)")
    report.isPartial = true
    let text = report.text
    #expect(text.ranges(of: "the busiest thread").count == 1)
    #expect(text.contains("BROKEN     p99.9<25ms (151 ms)"))
    #expect(text.contains("kept       p99<25ms (4.20 ms)"))
    #expect(text.contains("limited by THE GENERATOR: the busiest thread"))
    #expect(text.contains("PARTIAL: the run ended before it was to"))
  }

  @Test func linesBreakBetweenFactsAndWithinLongOnes() {
    #expect(Text.wrapped(["aa", "bb", "cc"], separator: ", ", width: 6) == ["aa, bb", "cc"])
    #expect(Text.wrapped(["one two three"], separator: ", ", width: 7) == ["one two", "three"])
    #expect(Text.wrapped(["abcdefgh"], separator: ", ", width: 3) == ["abc", "def", "gh"])
    #expect(Text.wrapped([], separator: ", ", width: 3).isEmpty)
  }

  // MARK: Live view

  private func picture(failed: Int = 0) -> LivePicture {
    var picture = LivePicture()
    for second in 0...20 {
      var progress = Progress()
      progress.elapsedSeconds = Double(second)
      progress.totalSeconds = 40
      progress.answered = second * 5_000
      progress.accepted = second * 4_000
      progress.refused = second * 1_000
      progress.failed = failed
      progress.interval = Sample.report.intervals[second]
      picture.take(progress)
    }
    return picture
  }

  @Test func theLiveViewHasProgressRateLatencyAndOutcomes() {
    let lines = picture().lines(on: terminal(100))
    #expect(lines[0].contains(" 50 %  20.0 of 40.0 s"))
    #expect(lines[1].hasPrefix("rate      5,000 of 10,000 requests/s  "))
    #expect(lines[2].hasPrefix("latency   p50 "))
    #expect(lines[3] == "calls     80,000 accepted · 20,000 refused")
    #expect(lines.count == 4)
  }

  @Test(arguments: [1, 10, 20, 40, 60, 80, 100, 250]) func noLineIsWiderThanTheTerminal(
    columns: Int
  ) {
    for failed in [0, 3] {
      for line in picture(failed: failed).lines(on: terminal(columns)) {
        #expect(line.count <= max(columns, 10), "\(line)")
      }
    }
  }

  @Test func failuresAreNotCutOff() {
    #expect(picture(failed: 7).lines(on: terminal(100))[3].hasSuffix("refused  7 FAILED"))
    #expect(picture(failed: 7).lines(on: terminal(40))[3].hasPrefix("calls     7 FAILED · 80,000"))
    #expect(picture(failed: 7).plainLine.hasSuffix("20,000 refused · 7 FAILED"))
  }

  @Test func withoutATerminalItIsOneLine() {
    let line = picture().plainLine
    #expect(line.hasPrefix("  20.0 of 40.0 s · 5,000 of 10,000 requests/s · p50 "))
    #expect(!line.contains("\n") && !line.contains("\u{1b}"))
  }

  @Test func redrawingGoesUpOverTheLinesAndClearsThem() {
    #expect(LiveView.redrawing(0, with: ["a", "b"]) == "\u{1b}[0Ja\nb\n")
    #expect(LiveView.redrawing(2, with: ["c"]) == "\u{1b}[2A\r\u{1b}[0Jc\n")
    #expect(LiveView.redrawing(1, with: []) == "\u{1b}[1A\r\u{1b}[0J")
  }

  @Test(arguments: [
    (0, "░░░░"), (1, "████"), (0.5, "██░░"), (0.53, "██▏░"), (-1, "░░░░"), (7, "████"),
  ]) func barsAreDrawnToAnEighth(share: Double, bar: String) {
    #expect(LivePicture.bar(share, width: 4) == bar)
  }

  @Test func aSparklineGoesUpToTheGreatest() {
    #expect(LivePicture.sparkline([0, 1, 4, 8]) == "▁▁▄█")
    #expect(LivePicture.sparkline([0, 0]).isEmpty)
    #expect(LivePicture.sparkline([]).isEmpty)
    #expect(LivePicture.sparkline([.infinity, 1]).isEmpty)
  }
}
