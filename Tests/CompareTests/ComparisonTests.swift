import Foundation
import Testing

@testable import LoadReport

/// Reports as runs could have written them.
enum Fake {
  static func report(
    label: String? = nil, second: Int = 0, rate: Double = 1_000, p99: Double = 2_000,
    conflicts: Double = 0, result: Report.Result = .good, change: (inout Report) -> Void = { _ in }
  ) -> Report {
    var report = Report()
    report.label = label
    report.startedAt = "2026-11-21T10:00:\(second < 10 ? "0" : "")\(second).000Z"
    report.verdict = verdict(result)
    report.requestsPerSecond = rate
    report.requestsMeasured = 10_000
    report.latencyMicroseconds["all"] = LatencySummary(
      count: 10_000, mean: 1_000, p50: 900, p99: p99, p999: p99 * 2, max: p99 * 3)
    report.latencySpectrum = [SpectrumPoint(50, 900), SpectrumPoint(99, p99)]
    report.serverCPUMicrosecondsPerRequest = 2_000 / rate
    report.generatorCPUMicrosecondsPerRequest = 0.8
    report.configuration.loop = "closed"
    report.configuration.scenario = "custom"
    report.configuration.seed = 1
    report.environment.processors = 2
    var server = Report.ServerSide()
    server.conflictsPerCommit = conflicts
    server.commits = 1_000
    report.server = server
    change(&report)
    return report
  }

  static func verdict(_ result: Report.Result) -> Verdict {
    var verdict = Verdict()
    verdict.result = result
    if result == .violated {
      verdict.oversold = Verdict.Oversold()
      verdict.oversold?.sku = "x-1"
      verdict.oversold?.units = 7
    }
    return verdict
  }

  /// `rounds` runs of each variant in turn, the second one's order turned round in every other.
  static func turns(_ rates: [(String, Double)], rounds: Int) -> [ComparedReport] {
    var second = 0
    return (0..<rounds).flatMap { round in
      (round % 2 == 0 ? rates : rates.reversed()).map { name, rate in
        second += 1
        // What both share, and a little that they do not.
        let drift = 1 + 0.2 * Double(round) + 0.002 * Double(second * 7_919 % 13 - 6)
        return ComparedReport(
          variant: name, file: "", report: report(second: second, rate: rate * drift))
      }
    }
  }

  static func json(_ report: Report) throws -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    return [UInt8](try encoder.encode(report))
  }
}

@Suite struct ComparisonTests {
  @Test func turnsArePaired() throws {
    let comparison = Comparison(Fake.turns([("a", 1_000), ("b", 1_100)], rounds: 5))
    #expect(comparison.variants == ["a", "b"])
    let one = try #require(comparison.cases.first)
    #expect(comparison.cases.count == 1 && one.warnings.isEmpty)
    let rate = try #require(one.measures.first { $0.name == "rate" })
    #expect(rate.figures.map(\.variant) == ["a", "b"] && rate.figures.map(\.runs) == [5, 5])
    #expect(rate.figures[0].ratio == nil)
    let ratio = try #require(rate.figures[1].ratio)
    #expect(ratio.method == .paired && ratio.isShown && abs(ratio.value - 1.1) < 0.02)
    // Nobody counted conflicts, so there is no such row.
    #expect(!one.measures.contains { $0.name == "conflicts" })
    #expect(one.spectra["b"] == [SpectrumPoint(50, 900), SpectrumPoint(99, 2_000)])
    #expect(comparison.findings.contains { $0.contains("b leads a by a factor of 1.1") })
  }

  @Test func oneAfterTheOtherIsNotPaired() throws {
    var reports = Fake.turns([("a", 1_000), ("b", 1_100)], rounds: 4)
    for index in reports.indices {
      let late = reports[index].variant == "b" ? 30 : 0
      reports[index].report.startedAt = "2026-11-21T10:00:\(10 + index + late)Z"
    }
    let one = try #require(Comparison(reports).cases.first)
    #expect(one.ratio(of: "rate", "b", to: "a")?.method == .unpaired)
    for index in reports.indices { reports[index].report.startedAt = "" }
    #expect(Comparison(reports).cases[0].ratio(of: "rate", "b", to: "a")?.method == .unpaired)
  }

  @Test func aloneTheyShowNothing() throws {
    let comparison = Comparison(Fake.turns([("a", 1_000), ("b", 9_000)], rounds: 1))
    let text = comparison.text(drawsRatios: true)
    #expect(text.contains("one run each: noise unknown, no difference shown"))
    #expect(comparison.findings[0].contains("no difference shown between a and b"))
  }

  @Test func whatIsOpenSaysWhatWouldDecideIt() throws {
    let noise = [1.02, 0.97, 1.05, 0.99]
    var second = 0
    let reports = noise.indices.flatMap { round in
      [("a", 1_000.0), ("b", 1_012)].map { name, rate in
        second += 1
        let drift = name == "a" ? noise[round] : noise[(round + 1) % 4]
        return ComparedReport(
          variant: name, file: "", report: Fake.report(second: second, rate: rate * drift))
      }
    }
    let comparison = Comparison(reports)
    let rate = try #require(comparison.cases[0].ratio(of: "rate", "b", to: "a"))
    let runs = try #require(rate.runsNeeded)
    #expect(!rate.isShown && runs > 10)
    #expect(
      comparison.findings.contains {
        $0.contains("\(runs) for requests per second") && $0.contains("(--repeat \(runs))")
          && $0.contains("more than 1,000 runs of each would be needed for latency p99")
      }, "\(comparison.findings)")
    let lone = Comparison(Fake.turns([("a", 1_000), ("b", 1_100)], rounds: 1))
    #expect(lone.findings.contains { $0.contains("6 of each (--repeat 6)") })
  }

  @Test func whoOversellsLoses() {
    var reports = Fake.turns([("a", 1_000), ("b", 5_000)], rounds: 3)
    for index in reports.indices where reports[index].variant == "b" {
      reports[index].report.verdict = Fake.verdict(.violated)
    }
    let comparison = Comparison(reports)
    #expect(
      comparison.disqualified == [
        "b loses: 3 of 3 runs violated an invariant, such as VERDICT: OVERSOLD by 7 units on SKU x-1"
      ])
    #expect(comparison.text(drawsRatios: false).hasPrefix("LOST       b loses"))
    #expect(comparison.html.contains("class=\"verdict bad\""))
  }

  /// What is not the same for both variants, and what is said of it.
  struct Difference: Sendable {
    let warning: String
    let change: @Sendable (inout Report, _ variant: String) -> Void

    static let all = [
      Difference(warning: "streams differs: a: 10; b: 40") {
        $0.configuration.streams = $1 == "a" ? 10 : 40
      },
      Difference(warning: "seed differs: a: 1; b: 2") {
        $0.configuration.seed = $1 == "a" ? 1 : 2
      },
      Difference(warning: "skus differs: a: none; b: 9") {
        $0.configuration.workload = $1 == "a" ? [:] : ["skus": .whole(9)]
      },
      Difference(
        warning: "the generator was the limit, so these rates say nothing of the server: b 3 of 3"
      ) { $0.limitedBy = $1 == "b" ? .generator : .server },
      Difference(warning: "runs that ended before they were to: a 3 of 3") {
        $0.isPartial = $1 == "a"
      },
    ]
  }

  @Test(arguments: Difference.all)
  func differencesOfTheLoadAreTold(difference: Difference) {
    var reports = Fake.turns([("a", 1_000), ("b", 1_100)], rounds: 3)
    for index in reports.indices {
      difference.change(&reports[index].report, reports[index].variant)
      // None of these is a difference.
      reports[index].report.configuration.target = "127.0.0.1:\(index)"
      reports[index].report.configuration.run = "\(index)"
      reports[index].report.configuration.commandLine = "\(index)"
    }
    #expect(Comparison(reports).cases[0].warnings == [difference.warning])
  }

  /// Every variant under two loads is two cases; a load that one of them lacks is a warning.
  @Test func severalLoadsAreSeveralCases() {
    var reports = Fake.turns([("a", 1_000), ("b", 1_100)], rounds: 2)
    for (index, var report) in reports.enumerated() {
      report.report.startedAt = "2026-11-21T11:00:0\(index)Z"
      report.report.configuration.scenario = "carts"
      reports.append(report)
    }
    let comparison = Comparison(reports)
    #expect(comparison.cases.map(\.name) == ["scenario custom", "scenario carts"])
    #expect(comparison.findings[0].contains("b leads a by a factor of 1.1"))
    let partial = Comparison(reports.dropLast(4) + [reports[reports.count - 1]])
    #expect(partial.cases.count == 1 && partial.cases[0].warnings.count == 1)
  }

  @Test func zeroConflictsHaveNoRatio() throws {
    var reports = Fake.turns([("a", 1_000), ("b", 1_100)], rounds: 2)
    for index in reports.indices where reports[index].variant == "b" {
      reports[index].report.server?.conflictsPerCommit = 0.25
    }
    let comparison = Comparison(reports)
    let measured = comparison.cases[0].measures.first { $0.name == "conflicts" }
    let figures = try #require(measured?.figures)
    #expect(figures.map(\.mean) == [0, 0.25] && figures[1].ratio == nil)
    #expect(comparison.text(drawsRatios: true).contains("no ratio to nothing"))
    #expect(comparison.findings.contains { $0.contains("at most 0.25 conflicts (b).") })
  }

  @Test(arguments: [-1, 1e16, 1e308, 1e-300, .infinity, .nan])
  func figuresThatNoRunCanHave(rate: Double) throws {
    var reports = Fake.turns([("a", 1_000), ("b", 1_100)], rounds: 2)
    for index in reports.indices where reports[index].variant == "b" {
      reports[index].report.requestsPerSecond = rate
    }
    let comparison = Comparison(reports)
    #expect(comparison.cases[0].measures[0].figures.map(\.runs) == [2, 0])
    #expect(comparison.text(drawsRatios: true).contains("not measured"))
    _ = try JSONEncoder().encode(comparison)
  }

  @Test func threeVariantsDrawn() {
    let text = Comparison(Fake.turns([("a", 1_000), ("b", 2_000), ("c", 1_001)], rounds: 5))
      .text(drawsRatios: true)
    let rows = text.split(separator: "\n").filter { $0.hasPrefix("  b ") || $0.hasPrefix("  c ") }
    #expect(rows.count >= 10 && rows.allSatisfy { $0.count <= 104 })
    #expect(rows[0].contains("× (") && rows[0].contains(" better"))
    #expect(rows[0].contains("●") && rows[0].contains("│"))
  }

  /// Three loads: a faster b under one of them, a c behind both under another.
  @Test func manyLoadsAtAGlance() throws {
    func runs(_ scenario: String, _ rates: [(String, Double)], minute: Int) -> [ComparedReport] {
      Fake.turns(rates, rounds: 5).enumerated().map { index, compared in
        var compared = compared
        compared.report.configuration.scenario = scenario
        let second = index < 10 ? "0\(index)" : "\(index)"
        compared.report.startedAt = "2026-11-21T10:0\(minute):\(second)Z"
        return compared
      }
    }
    let comparison = Comparison(
      runs("x", [("a", 1_000), ("b", 1_500), ("c", 1_000)], minute: 1)
        + runs("y", [("a", 1_000), ("b", 1_000), ("c", 500)], minute: 2)
        + runs("z", [("a", 1_000), ("b", 1_000), ("c", 1_000)], minute: 3))
    #expect(
      comparison.findings[0]
        == "Requests per second in a closed loop: b leads the others by a factor of 1.50 "
        + "under scenario x; b leads c by a factor of 2.00 under scenario y; no lead is shown under "
        + "scenario z.")
    let rate = try #require(comparison.overviews.first)
    #expect(
      rate.measure.name == "rate"
        && rate.rows.map(\.name) == ["scenario x", "scenario y", "scenario z"])
    #expect(rate.rows.map { $0.figures[1].ratio?.briefText } == ["1.50×", "~", "~"])
    let brief = comparison.text(drawsRatios: false, isWhole: false)
    #expect(brief.contains("scenario y") && !brief.contains("baseline"))
    #expect(comparison.text(drawsRatios: false).contains("baseline"))
    #expect(comparison.html.contains("At a glance"))
  }

  @Test func pagesEscapeWhatTheyAreTold() {
    let hostile = "<script>alert(1)</script>"
    var comparison = Comparison(Fake.turns([("a", 1_000), (hostile, 1_100)], rounds: 3))
    comparison.notes = [hostile]
    comparison.title = hostile
    #expect(!comparison.html.contains(hostile))
    #expect(comparison.html.contains("&lt;script&gt;"))
  }
}

@Suite struct ReadingTests {
  @Test func whatWasWrittenIsRead() throws {
    let report = Fake.report(label: "fast", second: 3, conflicts: 0.5)
    let read = try Report(reading: Fake.json(report))
    // Compared by what they say: a report is not Equatable.
    #expect(try Fake.json(read).sorted() == Fake.json(report).sorted())
    #expect(read.generatorCPUMicrosecondsPerRequest == 0.8)
    #expect(read.serverCPUMicrosecondsPerRequest == 2)
  }

  @Test func whatIsMissingHasItsDefault() throws {
    let json = #"{"schema_version": 3, "requests_per_second": 5, "unheard_of": {"a": [1]}}"#
    let report = try Report(reading: [UInt8](json.utf8))
    #expect(report.requestsPerSecond == 5 && report.result == .unknown)
    #expect(report.configuration.seed == 0 && report.latencyMicroseconds.isEmpty)
  }

  @Test(
    arguments: [
      ("", "it is no report of holdfast-load"), ("[]", "it is no report of holdfast-load"),
      ("{}", "it is no report of holdfast-load"), ("{\"a\":", "it is no report of holdfast-load"),
      (
        #"{"schema_version": 2}"#,
        "it has schema version 2, and only 3 can be compared; run it again with this version of "
          + "holdfast-load"
      ),
      (#"{"schema_version": 3, "started_at": 5}"#, "startedAt is not of its type"),
      (#"{"schema_version": 3, "attempts": 1e99}"#, "it makes no sense"),
      (
        #"{"schema_version": 3, "verdict": {"result": "splendid"}}"#,
        "verdict.result makes no sense"
      ),
    ])
  func whatIsNoReport(json: String, reason: String) {
    #expect {
      _ = try Report(reading: [UInt8](json.utf8))
    } throws: { error in
      "\(error)" == reason
    }
  }

  @Test func everyTruncationIsRefused() throws {
    let json = try Fake.json(Fake.report())
    for count in stride(from: 0, to: json.count, by: 7) {
      #expect(throws: ReportError.self) { _ = try Report(reading: Array(json.prefix(count))) }
    }
  }

  @Test(
    arguments: [
      ("fast-3.json", nil, "fast"), ("dir/fast.12.json", nil, "fast"), ("fast.json", nil, "fast"),
      ("7.json", nil, "7"), ("-7.json", nil, "-7"), ("a-b-1", nil, "a-b"), ("v2.json", nil, "v2"),
      ("x-1.json", "labelled", "labelled"), ("x-1.json", "", "x"),
      ("x-1.json", "a\u{1b}[2J", "a\u{FFFD}[2J"),
    ] as [(String, String?, String)])
  func variantsAreNamed(file: String, label: String?, variant: String) throws {
    let json = try Fake.json(Fake.report(label: label))
    #expect(try ComparedReport(file: file, json: json).variant == variant)
  }
}
