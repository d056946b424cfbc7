import Posix
import Testing

@testable import LoadHistory
@testable import LoadKit
@testable import LoadReport

/// Whole runs of everything that a workload can ask for, and of servers that fail on the way.
@Suite(.serialized) struct EngineRunTests {
  private struct Ended {
    let report: Report
    let exitStatus: Int32
    /// What the interval hook was told: answers, and latencies.
    let told: [(answered: Int, latencies: Int)]
    let seconds: Double
  }

  private func result(
    _ fault: FakeServer.Fault, _ change: (inout RunOptions) -> Void
  ) throws -> Ended {
    let server = try FakeServer(fault)
    defer { server.stop() }
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:\(server.port)")))
    options.connections = 2
    options.streams = 4
    options.operations = 400
    options.seed = 3
    options.run = RunID(42)
    options.workload.duplicateShare = 0
    change(&options)
    var told: [(answered: Int, latencies: Int)] = []
    var hooks = RunHooks()
    hooks.interval = { interval, latencies, _ in told.append((interval.answered, latencies.count)) }
    let start = SystemClock.monotonicNanoseconds()
    let ended = try LoadKit.run(options, hooks: hooks)
    return Ended(
      report: ended.report, exitStatus: ended.exitStatus, told: told,
      seconds: Double(SystemClock.monotonicNanoseconds() - start) / 1e9)
  }

  @Test func everythingThatAWorkloadCanAskFor() throws {
    let ended = try result(.none) {
      $0.operations = 1_200
      $0.workload.skuCount = 3
      $0.workload.units = 200
      $0.workload.timeToLiveNanoseconds = 30_000_000_000...60_000_000_000
      $0.workload.lines = 1...2
      $0.workload.readShare = 0.2
      $0.workload.restockShare = 0.1
      $0.workload.restockUnits = 1...3
      $0.workload.extendShare = 0.3
      $0.workload.replaceShare = 0.3
      $0.workload.duplicateShare = 0.2
      $0.workload.copies = 2...4
      $0.workload.payTimeNanoseconds = 0...3_000_000
      $0.workload.thinkTimeNanoseconds = 0...1_000_000
    }
    let report = ended.report
    #expect(ended.exitStatus == 0, "\(report.text)")
    for outcome in [
      Outcome.reserved, .replaced, .confirmed, .released, .extended, .restocked, .read, .replayed,
    ] {
      #expect(report.outcomes[outcome.name] ?? 0 > 0, "\(outcome.name)")
    }
    #expect(Set(report.latencyMicroseconds.keys) == Set(measuredMethodNames + ["all"]))
    let check = try #require(report.check)
    #expect(check.restocked > 0)
    #expect(check.readsJustified > 0)
    #expect(report.outcomes.values.reduce(0, +) == report.attempts)
    #expect(report.limitedBy == .load, "\(report.limitReason)")
    // Every call stands in one interval, and every interval was told once.
    #expect(report.intervals.reduce(0) { $0 + $1.answered } == report.attempts)
    #expect(ended.told.map(\.answered) == report.intervals.map(\.answered))
    #expect(ended.told.map(\.latencies) == report.intervals.map(\.latencyMicroseconds.count))
    #expect(report.serviceTimeMicroseconds == report.latencyMicroseconds["all"])
  }

  @Test(arguments: [1, 2])
  func whatIsCutOffIsDecidedByRetries(threads: Int) throws {
    let ended = try result(.none) {
      $0.operations = 2_000
      $0.connections = 4
      $0.threads = threads
      $0.workload.units = 300
      $0.workload.cutShare = 0.1
      $0.workload.closeShare = 0.005
      $0.workload.retriesUnknown = true
      $0.workload.duplicateShare = 0.1
    }
    let report = ended.report
    #expect(ended.exitStatus == 0, "\(report.text)")
    #expect(report.outcomes["cut off on purpose", default: 0] > 50)
    #expect(report.connectionsRedialled > 0)
    #expect(report.connectionsLost == 0)
    #expect(report.check?.unknownOutcomes == 0)
    #expect(report.failedShare == 0)
  }

  /// A call that is to be cut off may be gone with its connection, and another have its place: what
  /// is cut is the one that was drawn, or none.
  @Test func cutsAndNewConnectionsAtOnce() throws {
    let ended = try result(.none) {
      $0.operations = 3_000
      $0.connections = 3
      $0.streams = 8
      $0.workload.units = 1_000
      $0.workload.cutShare = 0.3
      $0.workload.closeShare = 0.1
      $0.workload.retriesUnknown = true
    }
    let report = ended.report
    #expect(ended.exitStatus == 0, "\(report.text)")
    #expect(report.connectionsRedialled > 100)
    #expect(report.outcomes.values.reduce(0, +) == report.attempts)
    #expect(report.failedShare == 0)
  }

  @Test func whatIsCutOffAndNotRetriedStaysUnknown() throws {
    let ended = try result(.none) { $0.workload.cutShare = 0.2 }
    #expect(ended.exitStatus == 0, "\(ended.report.text)")
    #expect(ended.report.check?.unknownOutcomes ?? 0 > 0)
  }

  @Test(arguments: [FakeServer.Fault.hangsUp(after: 200, times: 3), .saysGoodbye(every: 60)])
  func lostConnectionsAreDialledAgain(fault: FakeServer.Fault) throws {
    let ended = try result(fault) { $0.workload.retriesUnknown = true }
    let report = ended.report
    #expect(ended.exitStatus == 0, "\(report.text)")
    #expect(report.connectionsLost > 0)
    #expect(report.connectionsRedialled > 0)
    #expect(!report.isPartial)
  }

  @Test(arguments: [nil, LoadProfile(ratePerSecond: 500)])
  func aServerThatDiesEndsTheRun(profile: LoadProfile?) throws {
    let ended = try result(.dies(after: 150)) {
      $0.operations = nil
      $0.profile = profile
      $0.durationSeconds = 60
      $0.warmUpSeconds = 0
      $0.workload.retriesUnknown = true
    }
    let report = ended.report
    #expect(ended.exitStatus == 2)
    #expect(report.isPartial)
    #expect(report.verdict.sentence.hasPrefix("NO VERDICT: the balances could not be read"))
    #expect(report.result == .unknown)
    #expect(report.warnings.contains { $0.contains("the server went away") })
    #expect(report.limitedBy == .unknown)
    // Redials are bounded, and the wait for them is not measured.
    #expect(ended.seconds < 30)
    #expect(report.connectionsLost == 2)
    // 500 a second until the third second of dialling was over.
    #expect(profile == nil ? report.unsent == 0 : report.unsent > 1_000)
    #expect(report.requestsMeasured > 0)
  }

  /// A pause of 400 ms in a second of load: an open loop asks on and finds out, a closed loop asks
  /// eight times and has seen nothing.
  @Test func onlyAnOpenLoopSeesAPause() throws {
    func latencies(_ profile: LoadProfile?) throws -> Report {
      try result(.stalls(after: 100, milliseconds: 400)) {
        $0.operations = nil
        $0.profile = profile
        $0.streams = 4
        $0.durationSeconds = 1
        $0.warmUpSeconds = 0
        $0.workload.confirmShare = 0
        $0.workload.releaseShare = 0
      }.report
    }
    let open = try latencies(LoadProfile(ratePerSecond: 400))
    let closed = try latencies(nil)
    let seen = try #require(open.latencyMicroseconds["all"])
    let unseen = try #require(closed.latencyMicroseconds["all"])
    // 40 % of the scheduled calls fell into the pause.
    #expect(seen.p90 > 200_000)
    #expect(unseen.p90 < 200_000)
    // From the actual send an open loop sees no more than a closed one: eight calls of 400.
    let service = try #require(open.serviceTimeMicroseconds)
    #expect(service.p90 < 200_000)
    #expect(service.max > 300_000)
  }

  /// The slowest calls of all are those that never come back.
  @Test(arguments: [nil, LoadProfile(ratePerSecond: 200)])
  func callsThatAreNeverAnsweredCount(profile: LoadProfile?) throws {
    let ended = try result(.ignores(after: 60, count: 5)) {
      // Calls enough that the server comes to those that it ignores, however slow the machine is.
      $0.operations = profile == nil ? 120 : nil
      $0.profile = profile
      $0.durationSeconds = 0.6
      $0.warmUpSeconds = 0
      $0.drainSeconds = 1.5
      $0.workload.thinkTimeNanoseconds = 10_000_000...20_000_000
    }
    let report = ended.report
    #expect(ended.exitStatus == 0, "\(report.text)")
    #expect(report.outcomes["unanswered"] == 5)
    let all = report.attempts + report.unsent
    #expect(report.outcomes.values.reduce(0, +) == all)
    #expect(report.failedShare ?? 0 > 0)
    #expect(report.firstFailure == "Reserve: unanswered")
    #expect(report.warnings.contains { $0.hasPrefix("5 calls not answered by the end") })
    // They were in flight for the whole drain.
    #expect(report.latencyMicroseconds["Reserve"]?.max ?? 0 > 300_000)
    #expect(report.serviceTimeMicroseconds?.max ?? 0 > 300_000)
    #expect(ended.told.reduce(0) { $0 + $1.latencies } == all)
    #expect(ended.told.reduce(0) { $0 + $1.answered } == report.attempts - 5)
  }

  /// 500 calls a second for a second, of a server that stops at the 150th, in five ways that differ in
  /// what becomes of the calls in flight: every call that was due has failed, and has waited.
  @Test(arguments: [
    FakeServer.Fault.allowsNoStreams(after: 150), .ignores(after: 150, count: .max),
    .stopsReading(after: 150), .dies(after: 150), .stalls(after: 150, milliseconds: 1_500),
  ])
  func callsThatAreDueAndNeverSentCount(fault: FakeServer.Fault) throws {
    let ended = try result(fault) {
      $0.operations = nil
      $0.profile = LoadProfile(ratePerSecond: 500)
      $0.durationSeconds = 1
      $0.warmUpSeconds = 0
      $0.drainSeconds = 0.3
      $0.workload.confirmShare = 0
      $0.workload.releaseShare = 0
    }
    let report = ended.report
    let all = report.attempts + report.unsent
    // The server's death is known after three seconds of dialling, and the schedule ends before.
    #expect((499...500).contains(all), "\(report.text)")
    #expect(report.unsent >= 300)
    #expect(report.outcomes["never sent"] == report.unsent)
    #expect(report.outcomes.values.reduce(0, +) == all)
    #expect(report.failedShare ?? 0 > 0.65)
    let latency = try #require(report.latencyMicroseconds["Reserve"])
    let service = try #require(report.serviceTimeMicroseconds)
    #expect(latency.count >= all - 8)
    // Two in three calls waited; the last, due at the end of the schedule, for the drain.
    #expect(latency.p50 > 300_000 && latency.p90 > 700_000 && latency.max > 900_000)
    #expect(service.p50 > 300_000)
    #expect(report.requestsPerSecond < 200)
    for requirement in [
      "errors<50%", "p50<100ms", "Reserve.p99<500ms", "service.p50<100ms", "rate>=400/s",
      "max<700ms",
      "mean<100ms",
    ] {
      #expect(try !Threshold(requirement).evaluate(report).isPassed, "\(requirement)")
    }
    #expect(report.warnings.contains { $0.hasPrefix("\(report.unsent) calls due and never sent") })
    #expect(report.text.contains("never sent \(report.unsent)"))
    #expect(report.standing == .partly)
    #expect(ended.told.reduce(0) { $0 + $1.latencies } >= all - 8)
  }

  /// What is in the warm-up is no part of the figures, and stands in the outcomes.
  @Test func unsentCallsOfTheWarmUpAreNoLatencies() throws {
    let ended = try result(.stopsReading(after: 20)) {
      $0.operations = nil
      $0.profile = LoadProfile(ratePerSecond: 200)
      $0.durationSeconds = 0.5
      $0.warmUpSeconds = 0.5
      $0.drainSeconds = 0.1
    }
    let latency = try #require(ended.report.latencyMicroseconds["all"])
    #expect((99...101).contains(latency.count), "\(ended.report.text)")
    #expect(ended.report.unsent > 150)
  }

  /// Ends of holds that no stream was free for, when the schedule is a closed loop or over.
  @Test(arguments: [nil, LoadProfile(ratePerSecond: 300)])
  func followUpsThatAreNeverSentCount(profile: LoadProfile?) throws {
    let ended = try result(.allowsNoStreams(after: 100)) {
      $0.operations = nil
      $0.profile = profile
      $0.durationSeconds = 0.6
      $0.warmUpSeconds = 0
      $0.drainSeconds = 0.2
      $0.workload.confirmShare = 1
      $0.workload.releaseShare = 0
      $0.workload.payTimeNanoseconds = 50_000_000...100_000_000
    }
    let report = ended.report
    #expect(report.unsent > 0, "\(report.text)")
    #expect(report.outcomes["never sent"] == report.unsent)
    #expect(report.outcomes.values.reduce(0, +) == report.attempts + report.unsent)
    let confirms = try #require(report.latencyMicroseconds["Confirm"])
    #expect(confirms.max > 200_000)
  }

  /// Whether calls are in flight, or none can be sent.
  @Test(
    arguments: [FakeServer.Fault.allowsNoStreams(after: 60), .ignores(after: 60, count: .max)],
    [nil, LoadProfile(ratePerSecond: 400)])
  func aSilentServerEndsTheRun(fault: FakeServer.Fault, profile: LoadProfile?) throws {
    let ended = try result(fault) {
      $0.profile = profile
      if profile != nil {
        $0.operations = nil
        $0.durationSeconds = 60
        $0.warmUpSeconds = 0
      }
      $0.quietSeconds = 0.5
      $0.workload.confirmShare = 0
      $0.workload.releaseShare = 0
    }
    let report = ended.report
    #expect(ended.exitStatus == 2, "\(report.text)")
    #expect(report.isPartial)
    #expect(report.warnings.contains { $0.contains("the server did not answer for 0.5 s") })
    #expect(report.outcomes.values.reduce(0, +) == report.attempts + report.unsent)
    // From the server's silence on the schedule asked 400 times a second for half a second, or for as long as the
    // machine took to notice.
    #expect(profile == nil ? report.unsent == 0 : report.unsent >= 150)
    #expect(Double(report.unsent) <= 400 * ended.seconds)
    #expect(ended.seconds < 30)
  }

  @Test(arguments: [(10, 3), (1, 4), (7, 7), (401, 2)])
  func operationsAreCallsInAll(operations: Int, threads: Int) throws {
    let ended = try result(.none) {
      $0.operations = operations
      $0.threads = threads
      $0.connections = threads
      $0.workload.confirmShare = 0
      $0.workload.releaseShare = 0
    }
    #expect(ended.exitStatus == 0, "\(ended.report.text)")
    #expect(ended.report.attempts == operations)
    #expect(ended.report.generatorBusyShare <= 1.01)
  }

  /// Streams that think are no silence of the server.
  @Test func thinkingIsNotWaiting() throws {
    let ended = try result(.none) {
      $0.operations = 16
      $0.quietSeconds = 1
      $0.workload.confirmShare = 0
      $0.workload.releaseShare = 0
      $0.workload.thinkTimeNanoseconds = 1_300_000_000...1_300_000_000
    }
    #expect(ended.exitStatus == 0, "\(ended.report.text)")
    #expect(!ended.report.isPartial)
  }

  @Test func aBalanceOutOfBoundsIsFoundWhileTheLoadRuns() throws {
    let ended = try result(.misstatesOnce) {
      $0.operations = nil
      $0.profile = LoadProfile(ratePerSecond: 200)
      $0.durationSeconds = 1.2
      $0.warmUpSeconds = 0
    }
    let check = try #require(ended.report.check)
    #expect(ended.exitStatus == 1)
    #expect(check.violations == ["balance out of bounds during the run": 1])
    #expect(check.samplesCompared > 0)
    #expect(
      check.examples.first?.contains("SKU load-000000002a-0000000, read at ") == true)
  }

  @Test func aReplayThatChangesIsFound() throws {
    let ended = try result(.changesReplays) { $0.workload.duplicateShare = 0.2 }
    #expect(ended.exitStatus == 1)
    #expect(ended.report.check?.violations["duplicate answered differently"] != nil)
  }

  /// Holds that are all due in the same second, and what goes on beside them.
  @Test func anExpiryStorm() throws {
    let ended = try result(.none) {
      $0.operations = 300
      $0.workload.dueTogetherNanoseconds = 1_500_000_000
      $0.workload.confirmShare = 0
      $0.workload.releaseShare = 0
    }
    let report = ended.report
    #expect(ended.exitStatus == 0, "\(report.text)")
    let check = try #require(report.check)
    // All of the storm; on a busy machine a few probes have no time for their release.
    #expect((300...320).contains(check.expired) && check.held <= 8, "\(report.text)")
    #expect(check.released == check.accepted - check.expired - check.held)
    // Probes went on at 1,000 calls per second until 3 s past the storm.
    #expect(report.measuredSeconds > 4)
    #expect(report.attempts > 2_000)
    #expect(report.latencyMicroseconds["Release"]?.count ?? 0 > 500)
  }

  @Test func arrivalsByPoissonAndRamps() throws {
    let ended = try result(.none) {
      $0.operations = nil
      $0.profile = LoadProfile("0-1000/1s")
      $0.arrivals = .poisson
      $0.warmUpSeconds = 0
      $0.threads = 2
    }
    let report = ended.report
    #expect(ended.exitStatus == 0, "\(report.text)")
    // 500 ± 5 standard deviations.
    #expect(abs((report.latencyMicroseconds["all"]?.count ?? 0) - 500) < 112)
    #expect(report.configuration.rate == "0-1000/1s")
    #expect(report.configuration.arrivals == "poisson")
    #expect(report.configuration.ratePerSecond == 1_000)
    #expect(report.intervals.compactMap(\.scheduledPerSecond).max() ?? 0 > 800)
  }

  /// The warm-up keeps the first rate.
  @Test(arguments: [
    ("0-400/0.3s", 0.1, true), ("100-400/0.3s", 0.1, false), ("0-400/0.3s", 0, false),
  ])
  func aWarmUpWithoutLoadIsSaid(rate: String, warmUp: Double, isSaid: Bool) throws {
    let profile = try #require(LoadProfile(rate))
    let ended = try result(.none) {
      $0.operations = nil
      $0.profile = profile
      $0.warmUpSeconds = warmUp
    }
    #expect(
      ended.report.warnings.contains { $0.hasPrefix("there was no load in the warm-up") } == isSaid)
  }

  @Test func nothingIsComparedWhereNobodyAsks() throws {
    let ended = try result(.losesConfirms) { $0.compares = false }
    #expect(ended.exitStatus == 0)
    #expect(ended.report.result == .notChecked)
    #expect(ended.report.verdict.sentence == "NO VERDICT: nothing was compared (--no-check)")
  }
}
