// The server's metrics while the load runs, read by the main thread: a stuck or missing metrics
// page costs a gap in the timeline, and the workers nothing.
internal import LoadReport
internal import Posix

/// Samples the server's metrics, and its process where that is on this machine.
struct ServerMonitor {
  private let admin: Endpoint?
  private let pid: Int32?
  private let spacingNanoseconds: Int64
  private var nextNanoseconds: Int64 = 0
  private(set) var first: MetricsPage?
  private(set) var last: MetricsPage?
  private var lastNanoseconds: Int64 = 0
  private var lastProcessNanoseconds: Int64?
  /// Why the metrics could not be read the last time, where they could not.
  private(set) var lastFailed: String?

  private static let spacingMinimum: Int64 = 500_000_000
  /// A fetch may take so long.
  private static let fetchSeconds = 1.0

  /// Samples are as far apart as the intervals of the report, but half a second at least.
  init(_ options: RunOptions) {
    admin = options.admin
    pid = options.serverPID
    let interval = IntervalGrid(options, startNanoseconds: 0).lengthNanoseconds ?? 0
    spacingNanoseconds = max(interval, ServerMonitor.spacingMinimum)
  }

  /// The first sample, which has to succeed: a wrong --admin is told before the run.
  mutating func begin() throws(LoadError) {
    if let admin { first = try MetricsPage.fetch(admin) }
    last = first
    lastNanoseconds = SystemClock.monotonicNanoseconds()
    lastProcessNanoseconds = pid.flatMap { Machine.processCPUNanoseconds(of: $0) }
    nextNanoseconds = lastNanoseconds + spacingNanoseconds
  }

  /// A sample, where one is due and the server answers.
  mutating func sampleIfDue(_ now: Int64) -> Report.ServerSample? {
    guard admin != nil || pid != nil, now >= nextNanoseconds else { return nil }
    nextNanoseconds = now + spacingNanoseconds
    return sample()
  }

  /// What the server counted from `begin` to the last sample.
  var change: MetricsPage? { first.flatMap { first in last.map { $0.since(first) } } }

  /// Takes a sample now.
  mutating func sample() -> Report.ServerSample? {
    var page: MetricsPage?
    lastFailed = nil
    if let admin {
      do {
        page = try MetricsPage.fetch(admin, timeoutSeconds: ServerMonitor.fetchSeconds)
      } catch {
        lastFailed = error.description
      }
    }
    let process = pid.flatMap { Machine.processCPUNanoseconds(of: $0) }
    guard page != nil || process != nil else { return nil }
    let now = SystemClock.monotonicNanoseconds()
    let seconds = max(1e-3, Double(now - lastNanoseconds) / 1e9)
    var sample = Report.ServerSample()
    if let page, let last {
      let change = page.since(last)
      sample.conflictsPerSecond = change.conflicts.values.reduce(0, +) / seconds
      sample.retriesPerSecond = max(0, change.commitAttempts - change.commits) / seconds
      if let syncs = change.syncs {
        sample.syncsPerSecond = syncs / seconds
        if syncs >= 1 { sample.syncMicroseconds = change.syncSeconds / syncs * 1e6 }
      }
      if let groups = change.groups, groups >= 1 {
        sample.groupRecords = change.groupRecords / groups
      }
      sample.processorShare = change.processorSeconds.map { $0 / seconds }
      sample.residentBytes = page.residentBytes
      sample.liveHolds = page.liveHolds
    }
    if let process, let before = lastProcessNanoseconds {
      sample.processorShare = Double(process - before) / 1e9 / seconds
    }
    if let pid { sample.residentBytes = ServerMonitor.residentBytes(of: pid) }
    last = page ?? last
    lastNanoseconds = now
    lastProcessNanoseconds = process ?? lastProcessNanoseconds
    return sample
  }

  /// Memory of process `pid` that is in RAM (proc(5), /proc/PID/status), if there is one.
  private static func residentBytes(of pid: Int32) -> Double? {
    let line = (readSmallFile("/proc/\(pid)/status") ?? "").split(separator: "\n")
      .first { $0.hasPrefix("VmRSS:") }
    return line?.split(separator: " ").dropFirst().first.flatMap { Double($0) }.map { $0 * 1024 }
  }
}
