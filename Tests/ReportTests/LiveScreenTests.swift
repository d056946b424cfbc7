import Histogram
import Testing

@testable import LoadReport

struct LiveScreenTests {
  private func terminal(_ columns: Int, _ rows: Int, colours: Bool = false) -> Terminal {
    var terminal = Terminal()
    terminal.canRedraw = true
    terminal.hasColours = colours
    terminal.columns = columns
    terminal.rows = rows
    return terminal
  }

  private func progress(second: Int = 20) -> Progress {
    var progress = Progress()
    progress.elapsedSeconds = Double(second)
    progress.totalSeconds = 40
    progress.answered = second * 5_000
    progress.accepted = second * 4_000
    progress.refused = second * 1_000
    progress.interval = Sample.report.intervals[second]
    var window = Progress.Window()
    var latencies = Latencies()
    for microseconds: Int64 in [80, 150, 150, 150, 700, 30_000_000] {
      latencies.record(microseconds * 1_000)
    }
    window.endSeconds = Double(second)
    window.requestsPerSecond = 6
    window.latency = latencies.summary
    window.buckets.add(latencies)
    window.methods = [
      Progress.MethodWindow(name: "Reserve", perSecond: 4, latency: latencies.summary),
      Progress.MethodWindow(name: "Confirm", perSecond: 2, latency: latencies.summary),
    ]
    progress.window = window
    progress.outcomes = ["reserved": 75, "refused, no stock": 20, "server busy": 5]
    progress.codes = ["OK": 75, "FAILED_PRECONDITION": 25]
    progress.server = Sample.report.intervals[61].server
    progress.balancesCompared = 12
    return progress
  }

  private func rows(
    _ terminal: Terminal, title: String = "mixed", _ change: (inout Progress) -> Void = { _ in }
  ) -> [String] {
    var picture = LivePicture()
    for second in 1...20 {
      var progress = progress(second: second)
      change(&progress)
      picture.take(progress)
    }
    return LiveScreen(picture, title: title).rows(on: terminal)
  }

  @Test(arguments: [(100, 24), (100, 60), (120, 40), (160, 50), (400, 200)])
  func thePictureFitsTheScreen(columns: Int, rows: Int) {
    let picture = self.rows(terminal(columns, rows)) { $0.failed = 5 }
    #expect(picture.count <= rows)
    for row in picture { #expect(row.count <= columns, "\(row)") }
  }

  @Test(arguments: [(99, 40, false), (100, 23, false), (100, 24, true), (160, 50, true)])
  func smallTerminalsHaveLines(columns: Int, rows: Int, isFull: Bool) {
    #expect(LiveScreen.fits(terminal(columns, rows)) == isFull)
  }

  @Test func itSaysAllThatIsKnown() {
    let text = rows(terminal(120, 40)).joined(separator: "\n")
    for part in [
      "MEASURING", " 50 %  20.0 of 40.0 s · 20 s left", "5,000 of 10,000 requests/s",
      "80,000 accepted · 20,000 refused", "≤ 100 µs", "≤ 200 µs", "> 10 s", "Reserve ", "Confirm ",
      "reserved ", "75.0 %", "server busy", "FAILED_PRECONDITION", "25.0 %", "CPU 0.", "sync ",
      "live holds", "nothing wrong so far: 12 balances compared",
    ] {
      #expect(text.contains(part), "\(part)")
    }
  }

  @Test func bucketsCountWhatTheyHold() {
    let rows = rows(terminal(120, 40))
    func count(_ label: String) -> String? {
      rows.first { $0.contains(label) }?.prefix(52).split(separator: " ").last.map(String.init)
    }
    #expect(count("≤ 100 µs") == "1")
    #expect(count("≤ 200 µs") == "3")
    #expect(count("≤ 500 µs") == "0")
    #expect(count("≤ 1 ms") == "1")
    #expect(count("> 10 s") == "1")
  }

  @Test func whatDoesNotFitIsInTheFirstRow() {
    // 24 rows have 12 buckets: of 18 from 100 µs to above 10 s the first 6 are one.
    let rows = rows(terminal(100, 24))
    let first = rows.first { $0.contains("≤ ") }
    #expect(first?.contains("≤ 5 ms") == true)
    #expect(first?.prefix(43).split(separator: " ").last == "5")
  }

  @Test func aFaultIsTheVerdict() {
    let text = rows(terminal(120, 40)) {
      $0.faults = 2
      $0.firstFault = "held 7, where only 0 to 3 can be"
    }.joined(separator: "\n")
    #expect(text.contains("VIOLATED, 2 faults: held 7, where only 0 to 3 can be"))
  }

  @Test func colourIsForTerminalsThatHaveIt() {
    #expect(!rows(terminal(120, 40)).joined().contains("\u{1b}"))
    #expect(rows(terminal(120, 40, colours: true)).joined().contains("\u{1b}[1;32mMEASURING"))
  }

  /// Words of the server's and of the user's steer nothing, and take a column a character.
  @Test func hostileWordsStayWords() {
    let hostile = "\u{1b}[2J\u{202E}漢字\u{7}\nx"
    let rows = rows(terminal(100, 40), title: hostile) {
      $0.faults = 1
      $0.firstFault = hostile
      $0.agents = [(hostile, hostile)]
    }
    for row in rows {
      #expect(row.count <= 100)
      #expect(!row.unicodeScalars.contains { $0.value < 0x20 || $0.value > 0x2fff })
    }
  }

  @Test func theWholeScreenIsDrawnFromItsTop() {
    #expect(
      AlternateScreen.drawing(["a", "b"]) == "\u{1b}[Ha\u{1b}[K\r\nb\u{1b}[K\u{1b}[J")
  }

  @Test func bucketsHaveRoundBounds() {
    let bounds = LatencyBuckets.boundsNanoseconds
    #expect(bounds.first == 10_000 && bounds.last == 10_000_000_000 && bounds.count == 19)
    #expect(bounds == bounds.sorted())
    var buckets = LatencyBuckets()
    var latencies = Latencies()
    for nanoseconds: Int64 in [0, 9_000, 11_000, 20_000, 9_000_000_000, 11_000_000_000] {
      latencies.record(nanoseconds)
    }
    buckets.add(latencies)
    #expect(
      buckets.counts.first == 2 && buckets.counts[1] == 2 && buckets.counts.suffix(2) == [1, 1])
    #expect(buckets.count == 6 && abs(buckets.sumSeconds - 20) < 0.02)
  }
}

struct LatenciesTests {
  /// One way through the counts says what the library says of each figure.
  @Test(arguments: [
    [0], [5], [0, 1, 2_047, 2_048, 2_049], [1, 1, 1, 999_999_999_999], [7_000_000],
  ])
  func figuresAreThoseOfTheHistogram(base: [Int64]) {
    var latencies = Latencies()
    var state: UInt64 = 9
    for value in base { latencies.record(value) }
    for _ in 0..<1_000 {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      latencies.record(Int64(state >> 40) + (base.first ?? 0))
    }
    let summary = latencies.summary
    #expect(abs(summary.mean - latencies.histogram.mean / 1_000) < summary.mean * 1e-9 + 1e-9)
    for (value, percentile) in [
      (summary.p50, 50.0), (summary.p90, 90), (summary.p95, 95), (summary.p99, 99),
      (summary.p999, 99.9), (summary.p9999, 99.99),
    ] {
      #expect(value == latencies.microseconds(at: percentile), "\(percentile)")
    }
    #expect(
      latencies.spectrum.allSatisfy { $0.microseconds == latencies.microseconds(at: $0.percentile) }
    )
    var recorded: [UInt64] = []
    latencies.forEachValue { value, count in recorded += [value, UInt64(count)] }
    let expected = latencies.histogram.recordedValues().flatMap { [$0.value, $0.count] }
    #expect(recorded == expected)
  }

  @Test func nothingHasNoFigures() {
    #expect(Latencies().summary == LatencySummary() && Latencies().spectrum.isEmpty)
  }
}
