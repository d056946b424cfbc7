// A report such as a run makes, with every field set: made up, the same every time.
import LoadReport

enum Sample {
  /// Two minutes of checkouts in an open loop, with a pause of the server in the middle.
  static let report: Report = {
    var report = Report()
    report.generator = "holdfast-load/0.4"
    report.startedAt = "2026-11-21T18:05:31Z"
    report.label = "optimistic"
    report.limitedBy = .load
    report.limitReason =
      "the schedule was carried; the generator's busiest thread was busy 31.0 % of the time"
    fillSetting(&report)
    fillCheck(&report)
    fillFigures(&report)
    report.intervals = (0..<124).map(interval)
    report.warnings = ["The server was paused for 200 ms at 60 s."]
    report.leavesOut = [
      "Client and server shared 2 processors.",
      "Connections over loopback have no network between them.",
    ]
    var kept = Report.ThresholdResult()
    kept.expression = "p99<25ms"
    kept.actual = 4.2
    kept.actualText = "4.20 ms"
    kept.isPassed = true
    var broken = kept
    broken.expression = "p99.9<25ms"
    broken.actual = 151
    broken.actualText = "151 ms"
    broken.isPassed = false
    report.thresholds = [kept, broken]
    return report
  }()

  private static func fillSetting(_ report: inout Report) {
    report.environment.system = "Linux 6.1.0-41-amd64"
    report.environment.processors = 2
    report.environment.processorModel = "AMD EPYC 7B13"
    report.environment.memoryBytes = 8_343_000_000
    report.environment.server = "holdfast 0.4 optimistic fsync"
    report.configuration.target = "127.0.0.1:7411"
    report.configuration.scenario = "checkout"
    report.configuration.workload = [
      "skus": .whole(1_000), "distribution": .text("zipf:0.99"), "lines": .text("1-3"),
      "confirm_share": .number(0.7), "retries_unknown": .bool(true),
    ]
    report.configuration.loop = "open"
    report.configuration.arrivals = "poisson"
    report.configuration.rate = "10000/60s,20000/60s"
    report.configuration.ratePerSecond = 20_000
    report.configuration.connections = 8
    report.configuration.streams = 100
    report.configuration.threads = 1
    report.configuration.warmUpSeconds = 2
    report.configuration.durationSeconds = 120
    report.configuration.operations = 1_800_000
    report.configuration.seed = 2_876_543_219
    report.configuration.run = "9f3c2a1be0d44f17"
    report.configuration.commandLine =
      "holdfast-load run --target 127.0.0.1:7411 --admin 127.0.0.1:7412 --scenario checkout "
      + "--rate '10000/60s,20000/60s' --arrivals poisson --html out/checkout.html --require 'p99<25ms'"
  }

  private static func fillCheck(_ report: inout Report) {
    var check = Report.Check()
    check.holds = true
    check.linearizable = .yes
    check.skus = 1_000
    check.keys = 1_260_003
    check.stock = 10_000_000
    check.restocked = 500
    check.accepted = 1_204_113
    check.confirmed = 842_880
    check.released = 180_617
    check.expired = 180_616
    check.duplicatesCompared = 12_604
    check.refusalsJustified = 55_890
    check.readsJustified = 90_112
    check.unknownOutcomes = 3
    check.samplesCompared = 7_680
    check.seconds = 1.32
    report.check = check
    report.verdict = check.verdict
  }

  private static func fillFigures(_ report: inout Report) {
    report.measuredSeconds = 120
    report.requestsMeasured = 1_799_944
    report.requestsPerSecond = 14_999.5
    let reserve = LatencySummary(
      count: 1_260_000, mean: 610, p50: 312, p90: 720, p95: 1_010, p99: 4_200, p999: 151_000,
      p9999: 196_000, max: 204_800)
    report.latencyMicroseconds = [
      "all": reserve, "Reserve": reserve,
      "Confirm": LatencySummary(
        count: 380_000, mean: 540, p50: 290, p90: 640, p95: 940, p99: 3_900, p999: 148_000,
        p9999: 195_000, max: 203_000),
      "Release": LatencySummary(
        count: 159_944, mean: 530, p50: 284, p90: 630, p95: 930, p99: 3_700, p999: 147_000,
        p9999: 195_000, max: 202_000),
    ]
    report.serviceTimeMicroseconds = LatencySummary(
      count: 1_799_944, mean: 380, p50: 240, p90: 410, p95: 520, p99: 1_400, p999: 5_100,
      p9999: 61_000, max: 201_000)
    report.scheduleLagMicroseconds = LatencySummary(
      count: 1_800_000, mean: 28, p50: 11, p90: 60, p95: 88, p99: 160, p999: 910, p9999: 2_400,
      max: 5_800)
    func spectrum(_ anchors: [(nines: Double, microseconds: Double)]) -> [SpectrumPoint] {
      let nines = (0...40).map { Double($0) / 10 }
      return nines.map { nines in
        let next = anchors.firstIndex { $0.nines >= nines } ?? anchors.count - 1
        let (from, to) = (anchors[max(0, next - 1)], anchors[next])
        let width = max(1e-9, to.nines - from.nines)
        let share = min(1, max(0, (nines - from.nines) / width))
        var remaining = 100.0
        for _ in 0..<Int((nines * 10).rounded()) { remaining *= 0.7943282347242815 }
        return SpectrumPoint(
          100 - remaining, from.microseconds + (to.microseconds - from.microseconds) * share)
      }
    }
    report.latencySpectrum = spectrum([
      (0, 92), (0.3, 312), (1, 720), (1.3, 1_010), (2, 4_200), (2.4, 60_000), (3, 151_000),
      (4, 196_000),
    ])
    report.serviceTimeSpectrum = spectrum([
      (0, 81), (0.3, 240), (1, 410), (1.3, 520), (2, 1_400), (3, 5_100), (4, 61_000),
    ])
    report.methodSpectra = [
      "Reserve": report.latencySpectrum, "Confirm": report.serviceTimeSpectrum,
      "Release": report.serviceTimeSpectrum,
    ]
    report.unsent = 0
    report.attempts = 1_836_007
    report.outcomes = [
      "reserved": 1_204_113, "confirmed": 380_000, "released": 159_944, "replayed": 12_604,
      "refused, no stock": 55_890, "refused, expired": 22_540, "stream reset": 913,
      "connection lost": 3,
    ]
    report.codes = [
      "OK": 1_756_661, "FAILED_PRECONDITION": 78_430, "ABORTED": 890, "UNAVAILABLE": 23,
    ]
    report.connectionsLost = 1
    report.connectionsRedialled = 1
    report.firstFailure = "Reserve: UNAVAILABLE: draining"
    var server = Report.ServerSide()
    server.conflicts = ["version": 41_230, "lock": 310]
    server.commits = 1_744_057
    server.retries = 42_100
    server.conflictsPerCommit = 0.0238
    report.server = server
    report.serverCPUMicrosecondsPerRequest = 9.84
    report.generatorCPUMicrosecondsPerRequest = 2.31
    report.generatorBusyShare = 0.31
  }

  private static func interval(_ second: Int) -> Report.Interval {
    var interval = Report.Interval()
    interval.startSeconds = Double(second)
    interval.seconds = 1
    interval.isMeasured = second >= 2 && second < 122
    let isPaused = second == 62
    let scheduled = second >= 122 ? 0.0 : second < 62 ? 10_000 : 20_000
    interval.scheduledPerSecond = scheduled
    // Ripples that are the same every time.
    let ripple = Double((second * 7_919) % 97) / 97
    interval.answered = Int(scheduled * (isPaused ? 0.82 : 0.99 + ripple * 0.02))
    let load = second < 62 ? 1.0 : 1.5
    let base = (0.9 + ripple * 0.25) * load
    interval.latencyMicroseconds = LatencySummary(
      count: interval.answered, mean: 400 * base, p50: 300 * base, p90: 640 * base, p95: 900 * base,
      p99: isPaused ? 180_000 : 1_500 * base, p999: isPaused ? 198_000 : 2_900 * base,
      p9999: isPaused ? 203_000 : 4_000 * base, max: isPaused ? 204_800 : 5_100 * base)
    interval.methods = [
      "Reserve": interval.latencyMicroseconds, "Confirm": interval.latencyMicroseconds,
    ]
    interval.serviceTimeMicroseconds = interval.latencyMicroseconds
    interval.scheduleLagMicroseconds = 120 + ripple * 80
    let answered = Double(interval.answered)
    interval.outcomes = [
      "reserved": Int(answered * 0.66), "confirmed": Int(answered * 0.2),
      "released": Int(answered * 0.09), "replayed": Int(answered * 0.007),
      "refused, no stock": Int(answered * 0.03 * (second > 90 ? 2 : 1)),
      "refused, expired": Int(answered * 0.012), "stream reset": isPaused ? 913 : 0,
    ]
    interval.codes = [
      "OK": Int(answered * 0.95), "FAILED_PRECONDITION": Int(answered * 0.043),
      "ABORTED": Int(answered * 0.0006), "UNAVAILABLE": isPaused ? 23 : 0,
    ]
    interval.generatorBusyShare = scheduled / 20_000 * 0.31
    if second % 2 == 1 || second > 60 {
      var sample = Report.ServerSample()
      sample.conflictsPerSecond = 340 * base
      sample.retriesPerSecond = 345 * base
      sample.syncMicroseconds = isPaused ? 3_900 : 410 * base
      sample.syncsPerSecond = 900
      sample.groupRecords = scheduled / 900
      sample.processorShare = isPaused ? 0.4 : 0.6 * load * (0.95 + ripple * 0.1)
      sample.residentBytes = 220e6 + Double(second) * 1.1e6
      sample.liveHolds = Double(min(second, 40)) * 260 * load
      interval.server = sample
    }
    return interval
  }
}
