import Foundation
import Posix
import Synchronization
import Testing

@testable import LoadHistory
@testable import LoadKit
@testable import LoadReport

/// What is looked at while a run lasts: slices, conditions that end it, its warm-up, its metrics.
@Suite struct LiveRunTests {
  private func slice(
    _ number: Int, seconds: Double = 1, answered: Int = 100, failed: Int = 0,
    microseconds: Int64 = 500, isMeasured: Bool = true
  ) -> Slice {
    var counts = IntervalCounts()
    counts.isMeasured = isMeasured
    counts.answered = answered
    counts.outcomes[Outcome.reserved.rawValue] = answered - failed
    counts.outcomes[Outcome.tooBusy.rawValue] = failed
    for _ in 0..<answered { counts.latencies.record(microseconds * 1_000, .reserve) }
    return Slice(startSeconds: Double(number) * seconds, seconds: seconds, counts: counts)
  }

  private func options() throws -> RunOptions {
    RunOptions(target: try #require(Endpoint("127.0.0.1:1")))
  }

  // MARK: Slices

  @Test func longIntervalsComeInSlices() throws {
    var options = try options()
    options.durationSeconds = 30
    options.warmUpSeconds = 0
    options.intervalSeconds = 3
    let grid = IntervalGrid(options, startNanoseconds: 0)
    #expect(grid.lengthNanoseconds == 3_000_000_000)
    #expect(grid.slices.lengthNanoseconds == 1_000_000_000)
    #expect(grid.slices.start(of: 3) == grid.start(of: 1))
    var timeline = Timeline(options, startNanoseconds: 0)
    let handovers = [IntervalHandover(), IntervalHandover()]
    var slices: [Int] = []
    var intervals: [Int] = []
    func hand(_ worker: Int, _ number: Int, _ answered: Int, next: Int) {
      var counts = IntervalCounts()
      counts.number = number
      counts.answered = answered
      counts.latencies.record(1_000, .confirm)
      handovers[worker].exchange(&counts, next: next)
    }
    func collect() {
      timeline.collect(handovers, server: nil) {
        slices.append($0.counts.answered)
      } tell: { interval, latencies in
        intervals.append(interval.answered)
        #expect(latencies.count == interval.methods["Confirm"]?.count)
      }
    }
    for number in 0..<2 {
      hand(0, number, 10, next: number + 1)
      hand(1, number, 1, next: number + 1)
      collect()
    }
    #expect(slices == [11, 11] && intervals.isEmpty)
    hand(0, 2, 10, next: 3)
    // The second worker slept through two slices.
    hand(1, 2, 1, next: 5)
    collect()
    #expect(slices == [11, 11, 11] && intervals == [33])
    hand(0, 3, 5, next: 4)
    for handover in handovers { handover.finish() }
    collect()
    collect()
    #expect(slices == [11, 11, 11, 5] && intervals == [33, 5])
    #expect(timeline.intervals.map(\.startSeconds) == [0, 3])
  }

  // MARK: Conditions

  @Test(arguments: [
    ("errors>5% for 3s", 3.0), ("p99 > 200 ms", 5), ("rate<100/s for 1m", 60),
    ("Confirm.p99.9>=1sfor10s", 10), ("service.max>1s for 1s", 1), ("lag.p99>1ms for 2 s", 2),
  ])
  func conditions(text: String, seconds: Double) throws {
    #expect(try AbortCondition(text).seconds == seconds)
  }

  @Test(arguments: [
    ("", "has none of"), ("errors", "has none of"), ("errors>5% for", "behind 'for'"),
    ("errors>5% for 0.5s", "behind 'for'"), ("errors>5% for 11m", "behind 'for'"),
    ("errors>5% for 3x", "behind 'for'"), ("conflicts>5%", "what is looked at"),
    ("message.p99>1ms for 3s", "what is looked at"), ("p98>1ms for 3s", "is no metric"),
    ("\u{1b}>1 for 1s", "is no metric"),
  ])
  func noConditions(text: String, reason: String) {
    let error = #expect(throws: ThresholdError.self) { try AbortCondition(text) }
    #expect(error?.description.contains(reason) == true, "\(error?.description ?? "")")
    #expect(error?.description.contains("\u{1b}") == false)
  }

  /// Slices of a second: which of them ends the run.
  private func ends(
    _ text: String, _ slices: [Slice], _ change: (inout RunOptions) -> Void = { _ in }
  )
    throws -> Int?
  {
    var options = try options()
    options.abortConditions = [try AbortCondition(text)]
    change(&options)
    var watch = AbortWatch(options)
    for (number, slice) in slices.enumerated() {
      if let abort = watch.take(slice) {
        #expect(abort.expression == text && abort.atSeconds == slice.endSeconds)
        return number
      }
    }
    return nil
  }

  @Test func aConditionIsAboutTheWholeOfItsTime() throws {
    let good = (0..<5).map { slice($0) }
    let bad = (5..<10).map { slice($0, failed: 20) }
    // 60 of 300 are above 15 % once three seconds are bad, 40 of 300 are not.
    #expect(try ends("errors>15% for 3s", good + bad) == 7)
    #expect(try ends("errors>10% for 3s", good + bad) == 6)
    #expect(try ends("errors>25% for 3s", good + bad) == nil)
    #expect(try ends("errors>1% for 3s", bad) == 2)
    #expect(try ends("errors>1% for 3s", Array(bad.prefix(2))) == nil)
    #expect(try ends("rate<100/s for 2s", good + [slice(5, answered: 90)]) == 5)
    #expect(try ends("rate<100/s for 2s", good) == nil)
    // The 99th percentile of the window, not of its last second.
    let slow = (5..<9).map { slice($0, answered: 1, microseconds: 400_000) }
    // Of 202 the 200th is fast, of 103 the 102nd is slow.
    #expect(try ends("p99>200ms for 4s", good + slow) == 7)
    #expect(try ends("Reserve.p50>200ms for 4s", good + slow) == 8)
    #expect(try ends("Confirm.p50>200ms for 4s", good + slow) == nil)
  }

  @Test func theWarmUpDoesNotCount() throws {
    let warmUp = (0..<9).map { slice($0, failed: 100, isMeasured: false) }
    #expect(try ends("errors>1% for 3s", warmUp) == nil)
    #expect(try ends("errors>1% for 3s", warmUp + [slice(9)] + (10..<12).map { slice($0) }) == nil)
  }

  /// A closed loop that hears nothing waits; an open one may have asked nothing.
  @Test func silenceIsALatency() throws {
    let silent = (0..<4).map { slice($0, answered: 0) }
    #expect(try ends("p99>2s for 3s", silent) == 2)
    #expect(try ends("p99>4s for 3s", silent) == nil)
    #expect(try ends("p99>2s for 3s", silent) { $0.profile = LoadProfile(ratePerSecond: 1) } == nil)
  }

  @Test func aRunEndsAndSaysWhy() throws {
    let server = try FakeServer(.saysGoodbye(every: 3))
    defer { server.stop() }
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:\(server.port)")))
    options.connections = 2
    options.streams = 2
    options.durationSeconds = 60
    options.warmUpSeconds = 0
    options.workload.units = 1 << 40
    options.workload.thinkTimeNanoseconds = 2_000_000...2_000_000
    options.abortConditions = [try AbortCondition("rate<1000000/s for 1s")]
    let begin = SystemClock.monotonicNanoseconds()
    let ended = try LoadKit.run(options)
    #expect(SystemClock.monotonicNanoseconds() - begin < 40_000_000_000)
    #expect(ended.exitStatus == 4, "\(ended.report.text)")
    #expect(ended.report.isPartial && ended.report.result == .good)
    #expect(ended.report.abort?.expression == "rate<1000000/s for 1s")
    #expect(
      ended.report.warnings.first?.hasPrefix(
        "the run ended early: --abort-if 'rate<1000000/s for 1s' was so at ") == true)
  }

  // MARK: Warm-up

  @Test(
    arguments: [
      ([5, 5, 5, 5, 5, 5], 0), ([1, 3, 5, 5, 5, 5, 5, 5], 2), ([1, 2, 3, 4, 5, 6, 7, 8], 6),
      ([9, 1, 1, 1, 1, 1, 1, 1], 1), ([1, 2, 3], nil), ([4, 6, 4, 6, 4, 6, 4, 6], 0),
    ] as [([Double], Int?)])
  func theBeginningIsCutOff(points: [Double], cut: Int?) {
    #expect(SteadySeries.cut(points) == cut)
  }

  @Test func aWarmUpEndsOnceItIsSteady() {
    // Five seconds that rise, then a plateau with a ripple.
    func rate(_ number: Int) -> Int { number < 20 ? 10 * (number + 1) : 200 + (number * 7) % 5 }
    var watch = WarmUpWatch()
    var ended: Int?
    for number in 0..<200 where ended == nil {
      if watch.take(slice(number, seconds: 0.25, answered: rate(number))) { ended = number }
    }
    #expect((25..<60).contains(ended ?? -1), "\(ended ?? -1)")
    var rising = WarmUpWatch()
    for number in 0..<100 {
      let isSteady = rising.take(slice(number, seconds: 0.25, answered: 10 * (number + 1)))
      #expect(!isSteady, "\(number)")
    }
  }

  @Test func driftIsSaid() {
    func intervals(_ rate: (Int) -> Int, _ tail: (Int) -> Double) -> [Report.Interval] {
      (0..<40).map { number in
        var interval = Report.Interval()
        interval.startSeconds = Double(number)
        interval.seconds = 1
        interval.isMeasured = number > 3
        interval.answered = rate(number) + (number * 13) % 7
        interval.latencyMicroseconds.count = interval.answered
        interval.latencyMicroseconds.p99 = tail(number) + Double((number * 11) % 5)
        return interval
      }
    }
    #expect(Drift.sentences(intervals({ _ in 1_000 }, { _ in 900 })).isEmpty)
    // What rises in the warm-up is its purpose.
    #expect(Drift.sentences(intervals({ $0 < 4 ? 10 : 1_000 }, { _ in 900 })).isEmpty)
    let faster = Drift.sentences(intervals({ 1_000 + $0 * 20 }, { _ in 900 }))
    #expect(faster.count == 1 && faster[0].hasPrefix("the rate went from 1,"))
    let slower = Drift.sentences(intervals({ _ in 1_000 }, { 100 + Double($0) * 50 }))
    #expect(slower.count == 1 && slower[0].hasPrefix("the 99th percentile went from "))
  }

  @Test func aRunWarmsUpByItself() throws {
    let server = try FakeServer(.none)
    defer { server.stop() }
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:\(server.port)")))
    options.connections = 2
    options.streams = 2
    options.durationSeconds = 1
    options.warmUpSeconds = 20
    options.warmsUpUntilSteady = true
    options.workload.units = 1 << 40
    options.profile = LoadProfile(ratePerSecond: 400)
    let report = try LoadKit.run(options).report
    let warmUp = try #require(report.warmUp)
    // Four points of five quarters of a second are the least; how soon is the machine's matter.
    #expect((5..<25).contains(warmUp.seconds), "\(warmUp.seconds)")
    #expect(report.configuration.warmUpSeconds == warmUp.seconds)
    #expect(abs(report.measuredSeconds - 1) < 0.5)
    #expect((300...500).contains(report.latencyMicroseconds["all"]?.count ?? 0))
    let measured = report.intervals.filter(\.isMeasured)
    #expect(abs((measured.first?.startSeconds ?? 0) - warmUp.seconds) < 0.001)
    #expect(report.text.contains("s warm-up (until steady)") == warmUp.isSteady)
  }

  // MARK: Metrics

  @Test func theMetricsAreOpenMetrics() {
    var live = LiveStatistics()
    for number in 0..<3 { live.take(slice(number, answered: 10, failed: 1)) }
    var progress = Progress()
    progress.phase = .measuring
    progress.balancesCompared = 7
    let text = RunMetrics(information: [("label", "a\"b\\c\nd")], progress, live).text
    let lines = text.split(separator: "\n").map(String.init)
    #expect(lines.last == "# EOF")
    for line in [
      "holdfast_load_run_info{label=\"a\\\"b\\\\c\u{FFFD}d\"} 1",
      "holdfast_load_phase{phase=\"measuring\"} 1",
      "holdfast_load_phase{phase=\"warm-up\"} 0",
      "holdfast_load_calls_total{group=\"accepted\",outcome=\"reserved\"} 27",
      "holdfast_load_calls_total{group=\"failed\",outcome=\"server busy\"} 3",
      "holdfast_load_latency_seconds_bucket{method=\"Reserve\",le=\"0.0002\"} 0",
      "holdfast_load_latency_seconds_bucket{method=\"Reserve\",le=\"0.0005\"} 30",
      "holdfast_load_latency_seconds_bucket{method=\"Reserve\",le=\"+Inf\"} 30",
      "holdfast_load_latency_seconds_count{method=\"Reserve\"} 30",
      "holdfast_load_balances_compared_total 7",
    ] {
      #expect(lines.contains(line), "\(line)")
    }
    #expect(live.window?.requestsPerSecond == 10)
    #expect(live.window?.methods.map(\.name) == ["Reserve"])
  }

  @Test(arguments: [
    ("GET /metrics HTTP/1.1\r\n\r\n", "200 OK", true),
    ("GET /metrics?x=1 HTTP/1.0\r\nHost: x\r\n\r\n", "200 OK", true),
    ("HEAD /metrics HTTP/1.1\r\n\r\n", "200 OK", false),
    ("POST /metrics HTTP/1.1\r\n\r\n", "405 ", false), ("GET / HTTP/1.1\r\n\r\n", "404 ", false),
    ("\u{0}\u{1}\r\n\r\n", "400 ", false), ("GET /metrics HTTP/1.1", "400 ", false),
    ("", "400 ", false), ("GET /metrics HTTP/2.0\r\n\r\n", "400 ", false),
  ])
  func requestsAreAnswered(request: String, status: String, hasPage: Bool) {
    let response = MetricsServer.response(to: Array(request.utf8), page: Array("the page".utf8))
    let text = String(decoding: response, as: UTF8.self)
    #expect(text.hasPrefix("HTTP/1.1 \(status)"))
    #expect(text.hasSuffix("the page") == hasPage)
  }

  /// The parts of a verdict that JUnit shows are made of all kinds of violations, each once.
  @Test func everyKindOfViolationIsInAPartOfTheVerdict() {
    let parts = Report.Check.parts.flatMap(\.kinds)
    #expect(parts.sorted() == Violation.Kind.allCases.map(\.rawValue).sorted())
  }
}
