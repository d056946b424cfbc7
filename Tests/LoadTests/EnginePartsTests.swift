import Foundation
import Posix
import Testing

@testable import LoadHistory
@testable import LoadKit
@testable import LoadReport

/// The parts of the engine that need no server.
@Suite struct EnginePartsTests {
  @Test(arguments: [1, 2, 3, 10, 1_000])
  func delayedTasksComeInTheOrderOfTime(count: Int) {
    var random = Random(seed: UInt64(count))
    var tasks = DelayedTasks<Int64>()
    var times: [Int64] = []
    for _ in 0..<count {
      let time = Int64(random.below(500))
      times.append(time)
      tasks.add(time, at: time)
    }
    times.sort()
    #expect(tasks.nextNanoseconds == times[0])
    let none = tasks.popDue(at: times[0] - 1)
    #expect(none == nil)
    var popped: [Int64] = []
    // Half of them, some more, then all.
    while let time = tasks.popDue(at: 250) { popped.append(time) }
    #expect(popped == times.filter { $0 <= 250 })
    tasks.add(7, at: 7)
    while let next = tasks.popFirst() { popped.append(next.task) }
    #expect(popped == times.filter { $0 <= 250 } + [7] + times.filter { $0 > 250 })
    #expect(tasks.isEmpty)
    #expect(tasks.nextNanoseconds == .max)
  }

  @Test func intervalsEndWhereTheMeasuredPartEnds() throws {
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:1")))
    for (duration, warmUp, count) in [
      (60.0, 1.0, 120), (10, 1, 40), (0.3, 0.1, 1), (3_600, 5, 360),
    ] {
      options.durationSeconds = duration
      options.warmUpSeconds = warmUp
      let grid = IntervalGrid(options, startNanoseconds: 1_000)
      let end = grid.measureFrom + Int64(duration * 1e9)
      #expect(grid.number(at: grid.measureFrom - 1) == -1)
      #expect(grid.number(at: grid.measureFrom) == 0)
      #expect(grid.number(at: end - 1_000) == count - 1)
      #expect(abs(grid.start(of: count) - end) < 1_000)
      #expect(grid.start(of: grid.number(at: 1_000)) == 1_000)
    }
  }

  @Test(arguments: [(0.05, 0.0), (0.05, 50), (1, 1_000), (7, 3_600), (86_400, 0), (86_400, 3_600)])
  func aRunHasAFewIntervals(duration: Double, warmUp: Double) throws {
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:1")))
    options.durationSeconds = duration
    options.warmUpSeconds = warmUp
    try options.validate()
    let grid = IntervalGrid(options, startNanoseconds: 0)
    let end = grid.measureFrom + Int64(duration * 1e9)
    #expect(grid.number(at: end) - grid.number(at: 0) <= 1_501)
    #expect(try #require(grid.lengthNanoseconds) >= 30_000_000)
  }

  @Test(arguments: [
    (nil, 1e-10, 0.0), (nil, 0.000_001, 1), (nil, 0, 0), (nil, 0.05, 51), (nil, .nan, 0),
    ("100/0.0000000001s", 10, 0), ("100/0.01s,0/0.01s", 10, 0),
  ])
  func tooShortARunIsRefused(rate: String?, duration: Double, warmUp: Double) throws {
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:1")))
    options.profile = try rate.map { try #require(LoadProfile($0)) }
    options.durationSeconds = duration
    options.warmUpSeconds = warmUp
    #expect(throws: LoadError.self) { try options.validate() }
  }

  @Test(arguments: [(10.0, 0.05, true), (600, 0.05, false), (600, 0.07, true), (10, 0.04, false)])
  func intervalsAsAskedFor(duration: Double, interval: Double, isTaken: Bool) throws {
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:1")))
    options.durationSeconds = duration
    options.intervalSeconds = interval
    guard isTaken else {
      let error = #expect(throws: LoadError.self) { try options.validate() }
      #expect(error?.description.hasPrefix("--interval must be") == true)
      return
    }
    try options.validate()
    let length = try #require(IntervalGrid(options, startNanoseconds: 0).lengthNanoseconds)
    #expect(abs(Double(length) / 1e9 - interval) < 0.001)
  }

  @Test func intervalsOfARunOfUnknownLengthGrow() {
    let grid = IntervalGrid(startNanoseconds: 0, measureFrom: 0, lengthNanoseconds: nil)
    var number = 0
    var at: Int64 = 0
    while at < 3_600_000_000_000 {
      #expect(grid.number(at: at) == number)
      #expect(grid.start(of: number) == at)
      let length: Int64 = number < 240 ? 250_000_000 : number < 780 ? 1_000_000_000 : 10_000_000_000
      #expect(grid.number(at: at + length - 1) == number)
      at += length
      number += 1
    }
    #expect(number == 240 + 540 + 300)
  }

  @Test func workersIntervalsComeTogether() throws {
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:1")))
    options.durationSeconds = 1
    options.warmUpSeconds = 0
    options.intervalSeconds = 0.5
    options.profile = LoadProfile("0-200/1s")
    var timeline = Timeline(options, startNanoseconds: 0)
    let handovers = [IntervalHandover(), IntervalHandover()]
    var told: [Int] = []
    func handOver(_ worker: Int, _ number: Int, next: Int, _ change: (inout IntervalCounts) -> Void)
    {
      var counts = IntervalCounts()
      counts.number = number
      change(&counts)
      handovers[worker].exchange(&counts, next: next)
      #expect(counts.number == next)
      #expect(counts.answered == 0 && counts.latencies.all.count == 0)
    }
    func collect(_ sample: Report.ServerSample? = nil) {
      timeline.collect(handovers, server: sample) { interval, latencies in
        told.append(interval.answered)
        #expect(latencies.count == interval.latencyMicroseconds.count)
      }
    }
    collect()
    handOver(0, 0, next: 1) {
      $0.answered = 10
      $0.isMeasured = true
      $0.latencies.record(1_000_000, .reserve)
      $0.outcomes[Outcome.reserved.rawValue] = 10
      $0.cpuNanoseconds = 400_000_000
    }
    collect()
    #expect(told.isEmpty)
    // The second worker slept through the first interval's end, and on to the third.
    handOver(1, 0, next: 2) {
      $0.answered = 5
      $0.outcomes[Outcome.read.rawValue] = 5
      $0.cpuNanoseconds = 100_000_000
    }
    var sample = Report.ServerSample()
    sample.liveHolds = 3
    collect(sample)
    #expect(told == [15])
    handOver(0, 1, next: 2) { $0.answered = 7 }
    collect()
    handOver(0, 2, next: 2) { $0.endNanoseconds = 1_100_000_000 }
    for handover in handovers { handover.finish() }
    collect()
    #expect(told == [15, 7, 0])
    let intervals = timeline.intervals
    #expect(intervals.map(\.startSeconds) == [0, 0.5, 1])
    #expect(intervals.map { Text.decimal($0.seconds, 3) } == ["0.500", "0.500", "0.100"])
    #expect(intervals.map(\.isMeasured) == [true, false, false])
    #expect(intervals[0].server?.liveHolds == 3)
    #expect(intervals[0].generatorBusyShare == 0.8)
    #expect(intervals[0].outcomes == ["reserved": 10, "read": 5])
    // 0 to 200 per second: 25 calls in the first half, 75 in the second.
    #expect(intervals.map { Text.decimal($0.scheduledPerSecond ?? -1, 0) } == ["50", "150", "0"])
    #expect(timeline.outcomes[Outcome.reserved.rawValue] == 10)
  }

  @Test func machineFacts() throws {
    let environment = Report.Environment.ofThisMachine()
    #expect(environment.system.hasPrefix("Linux "))
    #expect(environment.processors >= 1)
    #expect(environment.memoryBytes > 1 << 20)
    #expect(utcText(nanoseconds: 1_795_283_177_248_143_000) == "2026-11-21T17:46:17Z")
    #expect(readSmallFile("/no/such/file") == nil)
  }

  /// What processors that this process may not use are busy with is nothing to it.
  @Test func theMachineIsAsBusyAsTheUsableProcessors() throws {
    func time(_ idle: Int, usable: [ClosedRange<Int>]) -> MachineTime? {
      MachineTime(
        """
        cpu  1 2 3 4 5 6 7 8
        cpu0 \(1_000 - idle) 0 100 \(idle) 100 0 0 0 9 9
        cpu1 700 0 0 0 0 0 0 0 9 9
        cpu2 \(1_000 - idle) 0 0 \(idle) 0 0 0 0 9 9
        intr 5
        """, usable: usable)
    }
    let fields = "100 0 100 700 100 0 0 0 9 9"
    let before = try #require(MachineTime("cpu \(fields)\ncpu0 \(fields)", usable: [0...0]))
    let after = try #require(MachineTime("cpu0 190 0 100 705 105 0 0 0 9 9", usable: [0...63]))
    #expect(after.busyShare(since: before) == 0.9)
    #expect(before.busyShare(since: before) == nil)
    #expect(time(500, usable: [0...0])?.all == 1_200)
    #expect(time(500, usable: [0...0])?.busy == 600)
    #expect(time(500, usable: [0...1, 2...9])?.all == 2_900)
    #expect(time(500, usable: [7...9]) == nil)
    #expect(time(500, usable: []) == nil)
    #expect(MachineTime("cpu0 1 2", usable: [0...0]) == nil)
    #expect(MachineTime("", usable: [0...0]) == nil)
    #expect(
      MachineTime.usableProcessors("Name:\tx\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3,8,10-11\n")
        == [0...3, 8...8, 10...11])
    for text in ["", "Cpus_allowed_list:\t", "Cpus_allowed_list:\t3-1,x,99999999999999999999"] {
      #expect(MachineTime.usableProcessors(text).isEmpty)
    }
    #expect(MachineTime.now() != nil)
  }

  @Test func metricsPagesAreTold() {
    let earlier = MetricsPage(
      """
      holdfast_journal_sync_seconds_sum 1.5
      holdfast_journal_sync_seconds_count 10
      process_cpu_seconds_total 3
      """)
    let page = MetricsPage(
      """
      HTTP/1.1 200 OK
      Content-Type: text/plain

      holdfast_build_info{version="0.3.0",concurrency="queued"} 1
      holdfast_journal_sync_seconds_bucket{le="0.1"} 3
      holdfast_journal_sync_seconds_sum 2.5
      holdfast_journal_sync_seconds_count 14
      holdfast_journal_group_records_sum 90
      holdfast_journal_group_records_count 9
      process_cpu_seconds_total 4.25
      holdfast_live_holds 12
      holdfast_build_info{version=
      holdfast_conflicts_total{reason="a
      """)
    let change = page.since(earlier)
    #expect(change.syncs == 4)
    #expect(change.syncSeconds == 1)
    #expect(change.groups == 9)
    #expect(change.processorSeconds == 1.25)
    #expect(change.liveHolds == 12)
    #expect(page.server == "holdfast 0.3.0 queued")
  }

  /// What answers --admin is a holdfast server, or the run is not begun.
  @Test(
    arguments: [
      ("HTTP/1.1 200 OK\r\n\r\nholdfast_build_info{version=\"1\"} 1\n", nil),
      ("HTTP/1.0 200 OK\n\nholdfast_build_info 1\n", nil),
      ("HTTP/1.1 200 OK\r\n\r\n<html>hello</html>", "has no holdfast_build_info"),
      ("HTTP/1.1 200 OK\r\n\r\nholdfast_conflicts_total 1\n", "has no holdfast_build_info"),
      ("HTTP/1.1 200 OK\r\n\r\n# holdfast_build_info 1\n", "has no holdfast_build_info"),
      ("HTTP/1.1 404 Not Found\r\n\r\nholdfast_build_info 1\n", "answered with status 404"),
      ("HTTP/1.1 503 Busy\r\n\r\n", "answered with status 503"),
      ("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "answered with status 302"),
      ("HTTP/1.1 2000 OK\r\n\r\nholdfast_build_info 1\n", "no HTTP/1.1 server"),
      ("HTTP/1.1", "no HTTP/1.1 server"), ("", "no HTTP/1.1 server"),
      ("holdfast_build_info 1\n", "no HTTP/1.1 server"),
      ("\0\0\u{18}\u{4}\0\0\0\0\0\0\u{5}", "no HTTP/1.1 server"),
      ("SSH-2.0-OpenSSH_9\r\n", "no HTTP/1.1 server"),
    ] as [(String, String?)])
  func onlyAHoldfastPageHasFigures(response: String, fault: String?) {
    do throws(LoadError) {
      let page = try MetricsPage(response: Array(response.utf8))
      #expect(fault == nil && page.server != nil)
    } catch {
      #expect(error.description.contains(fault ?? "no fault"), "\(error)")
    }
  }

  /// Figures that nothing can have do not spoil the report: JSON knows no infinity.
  @Test(arguments: ["nan", "inf", "-inf", "1e308", "-1", "1e-308", "1e15"])
  func aHostileMetricsPageIsReported(figure: String) throws {
    let names = [
      "holdfast_conflicts_total{reason=\"stale\"}", "holdfast_conflicts_total{reason=\"locked\"}",
      "holdfast_commit_attempts_count", "holdfast_commit_attempts_sum",
      "holdfast_concurrency_waits_total", "holdfast_fenced_total", "holdfast_combined_total",
      "holdfast_invariant_violations_total", "process_resident_memory_bytes",
    ]
    let sane = MetricsPage(names.map { "\($0) 1000\n" }.joined())
    for name in names {
      let page = MetricsPage(
        names.map { "\($0) \($0 == name ? figure : "7")\n" }.joined())
      for change in [page, page.since(sane), sane.since(page)] {
        _ = try JSONEncoder().encode(Report.ServerSide(change))
      }
    }
    #expect(MetricsPage("process_resident_memory_bytes nan").residentBytes == nil)
  }
}

/// What kept a run from more.
@Suite struct LimitTests {
  private static let cases: [(Report.LimitedBy, String, @Sendable (inout LimitEvidence) -> Void)] =
    [
      // A closed loop.
      (.server, "every stream waited for the server", { $0.busiestThread = 0.4 }),
      (.unknown, "too much to call this the server's limit", { $0.busiestThread = 0.8 }),
      (.generator, "busy 95.0 % of the time; use more --threads", { $0.busiestThread = 0.95 }),
      (.load, "--think-time", { $0.thinks = true }),
      // An open loop.
      (.load, "the schedule was carried", { $0.isOpenLoop = true }),
      (
        .generator, "schedule lag p99 5.00 ms",
        {
          $0.isOpenLoop = true
          $0.lagMicroseconds = 5_000
          $0.latencyMicroseconds = 20_000
        }
      ),
      (
        .load, "carried",
        {
          $0.isOpenLoop = true
          $0.lagMicroseconds = 5_000
          $0.latencyMicroseconds = 60_000
        }
      ),
      (
        .server, "90.0 % of the schedule was answered in time",
        {
          $0.isOpenLoop = true
          $0.carriedShare = 0.9
        }
      ),
      (
        .server, "100.0 % of the schedule",
        {
          $0.isOpenLoop = true
          $0.unsent = 7
        }
      ),
      (
        .unknown, "too much to call this",
        {
          $0.isOpenLoop = true
          $0.unsent = 7
          $0.busiestThread = 0.85
        }
      ),
      (
        .unknown, "the generator had a part in it",
        {
          $0.isOpenLoop = true
          $0.unsent = 7
          $0.lagMicroseconds = 5_000
        }
      ),
      // A machine without an idle processor.
      (
        .unknown, "nobody says whose the rest were",
        {
          $0.machineBusy = 0.99
          $0.generatorProcessors = 0.5
        }
      ),
      (
        .unknown, "1.20 by the server, 0.70 by the generator, 0.08 by others",
        {
          $0.machineBusy = 0.99
          $0.generatorProcessors = 0.7
          $0.serverProcessors = 1.2
          $0.busiestThread = 0.6
        }
      ),
      (
        .server, "all 2 processors were busy: 1.80 by the server, 0.15 by the generator",
        {
          $0.machineBusy = 0.99
          $0.generatorProcessors = 0.15
          $0.serverProcessors = 1.8
        }
      ),
      (
        .load, "though all 2 processors were busy",
        {
          $0.machineBusy = 0.99
          $0.isOpenLoop = true
        }
      ),
    ]

  @Test(arguments: cases.indices)
  func judges(index: Int) {
    let (limit, text, change) = Self.cases[index]
    var evidence = LimitEvidence()
    evidence.processors = 2
    evidence.machineBusy = 0.6
    change(&evidence)
    let judged = evidence.judge()
    #expect(judged.limit == limit, "\(judged.reason)")
    #expect(judged.reason.contains(text), "\(judged.reason)")
  }

  @Test func theReportSaysThatTheGeneratorWasTheLimit() throws {
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:1")))
    options.profile = LoadProfile(ratePerSecond: 1_000)
    var facts = RunFacts(options)
    facts.statistics.wallNanoseconds = 1_000_000_000
    facts.statistics.cpuNanoseconds = 950_000_000
    facts.statistics.measured = 1_000
    for _ in 0..<1_000 { facts.statistics.scheduleLag.record(5_000_000) }
    facts.statistics.unsent = 7
    facts.busyShares = [0.1, 0.95]
    facts.checkFailure = "gone"
    let report = Report(options, facts)
    #expect(report.limitedBy == .generator)
    #expect(report.limitReason.contains("busy 95.0 % of the time"))
    #expect(report.warnings.contains { $0.hasPrefix("the generator was the limit") })
    #expect(report.warnings.contains { $0.hasPrefix("7 calls due and never sent") })
    #expect(report.verdict.sentence == "NO VERDICT: gone")
    #expect(facts.exitStatus == 2)
    #expect(report.generatorCPUMicrosecondsPerRequest == 950)
    #expect(report.scheduleLagMicroseconds?.count == 1_000)
  }
}

/// Balances that are stated while the load runs.
@Suite struct WatchTests {
  /// 100 in stock; 30 reserved of which 5 were refused, 8 confirmed, 4 released; more is under way.
  private static func bounds() -> WatchBounds {
    let worker = WatchCounters()
    worker.add(35, .reserveSent, sku: 3)
    worker.add(20, .reserveDone, sku: 3)
    worker.add(5, .reserveRefused, sku: 3)
    worker.add(9, .confirmSent, sku: 3)
    worker.add(8, .confirmDone, sku: 3)
    worker.add(6, .releaseSent, sku: 3)
    worker.add(4, .releaseDone, sku: 3)
    worker.add(11, .restockSent, sku: 3)
    worker.add(10, .restockDone, sku: 3)
    // Not watched: nothing happens.
    worker.add(1, .reserveSent, sku: 64)
    worker.add(1, .reserveSent, sku: .max)
    var bounds = WatchBounds()
    bounds.stock = 100
    let workers = [worker, WatchCounters()]
    bounds.readDone(workers, sku: 3)
    bounds.readSent(workers, sku: 3)
    bounds.nothingExpired = true
    return bounds
  }

  private static let levels: [(onHand: Int64, held: Int64, isRight: Bool)] = [
    (101, 5, true), (103, 18, true),
    (100, 10, false), (104, 10, false), (101, 4, false), (101, 19, false),
  ]

  @Test(arguments: levels)
  func onHandAndHeldHaveBounds(onHand: Int64, held: Int64, isRight: Bool) {
    let fault = Self.bounds().fault(of: StockLevel(onHand: onHand, held: held))
    #expect((fault == nil) == isRight, "\(fault ?? "")")
  }

  @Test func whatMayHaveExpiredIsNotMissed() {
    var bounds = Self.bounds()
    bounds.nothingExpired = false
    #expect(bounds.fault(of: StockLevel(onHand: 102, held: 0)) == nil)
    #expect(bounds.fault(of: StockLevel(onHand: 102, held: -1)) != nil)
  }

  /// 100 in stock; 30 confirmed and kept of 34, of which 8 were shipped and 3 unsold; a count found 2 missing; another
  /// shipment of 5 is under way.
  @Test(
    arguments: [
      (90, 0, 19, true), (85, 0, 14, true), (90, 0, 23, true), (90, 67, 23, true),
      (91, 0, 19, false), (84, 0, 19, false), (90, 0, 13, false), (90, 0, 24, false),
      (90, 78, 19, false),
    ] as [(Int64, Int64, Int64, Bool)])
  func committedHasBounds(onHand: Int64, held: Int64, committed: Int64, isRight: Bool) {
    let worker = WatchCounters()
    worker.add(120, .reserveSent, sku: 0)
    worker.add(34, .confirmSent, sku: 0)
    worker.add(30, .confirmDone, sku: 0)
    worker.add(15, .goneSent, sku: 0)
    worker.add(10, .goneDone, sku: 0)
    worker.add(16, .settledSent, sku: 0)
    worker.add(11, .settledDone, sku: 0)
    var bounds = WatchBounds()
    (bounds.stock, bounds.keepsCommitted, bounds.overcommit) = (100, true, 6)
    bounds.readDone([worker], sku: 0)
    bounds.readSent([worker], sku: 0)
    let fault = bounds.fault(
      of: StockLevel(onHand: onHand, held: held, committed: committed))
    #expect((fault == nil) == isRight, "\(fault ?? "")")
  }

  @Test func moreHeldThanOnHand() {
    var bounds = WatchBounds()
    bounds.stock = 3
    bounds.reserveSent = 9
    #expect(
      bounds.fault(of: StockLevel(onHand: 3, held: 4)) == "held 4, more than the 3 on hand")
  }
}
