// What a worker counts: calls and latencies, by interval and over the measured part, its own CPU, and the
// first thing that went wrong.
internal import LoadHistory
internal import LoadReport
internal import Posix
internal import Synchronization

struct Meter {
  private(set) var statistics = Statistics()
  /// When the last answer came.
  private(set) var lastAnswered: Int64 = 0

  private let worker: Int
  private let control: RunControl
  private let serverPID: Int32?
  private var grid = IntervalGrid(startNanoseconds: 0, measureFrom: 0, lengthNanoseconds: nil)
  private var interval = IntervalCounts()
  /// When the interval ends.
  private(set) var nextNanoseconds = Int64.max
  private var intervalCPU: Int64 = 0
  private var isMeasuring = false
  private var measureStarted: Int64 = 0
  private var cpuAtStart: Int64 = 0
  private var serverCPUAtStart: Int64?
  private var counted = (accepted: 0, refused: 0, failed: 0)
  /// What of it main was told.
  private var reported = (accepted: 0, refused: 0, failed: 0)

  /// Main is told when so many calls more have been counted.
  private static let reportedTogether = 64

  init(_ options: RunOptions, worker: Int, control: RunControl) {
    self.worker = worker
    self.control = control
    // One worker asks for all.
    serverPID = worker == 0 ? options.serverPID : nil
  }

  /// - Parameter grid: of the slices in which counts are handed over.
  mutating func start(_ grid: IntervalGrid, at start: Int64) {
    self.grid = grid
    interval.number = grid.number(at: start)
    nextNanoseconds = grid.start(of: interval.number + 1)
    intervalCPU = Machine.threadCPUNanoseconds()
  }

  // MARK: The measured part

  mutating func beginMeasuring(_ now: Int64) {
    isMeasuring = true
    measureStarted = now
    cpuAtStart = Machine.threadCPUNanoseconds()
    serverCPUAtStart = serverPID.flatMap { Machine.processCPUNanoseconds(of: $0) }
  }

  /// Ends the measured part, unless it has not begun or is over.
  ///
  /// - Parameter end: its end.
  mutating func finishMeasuring(_ end: Int64) {
    guard isMeasuring else { return }
    interval.isMeasured = true
    isMeasuring = false
    statistics.wallNanoseconds = max(0, end - measureStarted)
    statistics.cpuNanoseconds = Machine.threadCPUNanoseconds() - cpuAtStart
    // The last answer may be a while ago, and what was done since is in the processor's time.
    let sinceStart = SystemClock.monotonicNanoseconds() - measureStarted
    statistics.busyShare = Double(statistics.cpuNanoseconds) / Double(max(1, sinceStart))
    if let serverPID, let start = serverCPUAtStart,
      let now = Machine.processCPUNanoseconds(of: serverPID)
    {
      statistics.serverCPUNanoseconds = now - start
    }
  }

  /// The instant up to which there were answers in the measured part.
  var lastAnsweredMeasured: Int64 { max(measureStarted, lastAnswered) }

  // MARK: Calls

  mutating func sent() { statistics.attempts += 1 }

  /// A message of so many Reserves leaves.
  mutating func messageSent(count: Int) {
    statistics.messages += 1
    statistics.messageRequests += count
  }

  /// The results of a message have come. Its latency counts from its send: what waited for it is in those of its
  /// Reserves.
  mutating func messageAnswered(_ call: InFlightCall, _ now: Int64, wasDue: Bool?) {
    guard wasDue ?? isMeasuring else { return }
    statistics.messageLatencies.record(now - call.sentNanoseconds)
  }

  /// Takes down how late a tick of the schedule was looked at.
  ///
  /// - Parameter wasDue: in the measured part.
  mutating func recordLag(_ nanoseconds: Int64, wasDue: Bool) {
    interval.scheduleLag.record(nanoseconds)
    if wasDue { statistics.scheduleLag.record(nanoseconds) }
  }

  /// An answer has come.
  ///
  /// - Parameters:
  ///   - wasDue: in the measured part, by the schedule; nil where its answer decides (closed loop).
  ///   - separatesServiceTime: it counts from the send, the latency from when the call was due.
  mutating func answered(
    _ call: InFlightCall, _ now: Int64, wasDue: Bool?, separatesServiceTime: Bool
  ) {
    lastAnswered = now
    interval.answered += 1
    if isMeasuring { statistics.measured += 1 }
    record(
      call.task.method, since: call.sinceNanoseconds,
      sent: separatesServiceTime ? call.sentNanoseconds : nil, now,
      isMeasured: wasDue ?? isMeasuring)
  }

  /// - Parameter sent: what the service time counts from; nil where it is the latency.
  private mutating func record(
    _ method: Method, since: Int64, sent: Int64?, _ now: Int64, isMeasured: Bool
  ) {
    interval.latencies.record(now - since, method)
    if isMeasured { statistics.latencies[method.rawValue].record(now - since) }
    guard let sent else { return }
    interval.serviceTimes.record(now - sent)
    if isMeasured { statistics.serviceTimes.record(now - sent) }
  }

  mutating func count(_ outcome: Outcome) {
    interval.outcomes[outcome.rawValue] += 1
    switch outcome.group {
    case .accepted: counted.accepted += 1
    case .refused: counted.refused += 1
    case .failed: counted.failed += 1
    }
  }

  /// - Parameter status: of gRPC; any other is not counted.
  mutating func countCode(_ status: Int) {
    if interval.codes.indices.contains(status) { interval.codes[status] += 1 }
  }

  /// The run ends without an answer to a call: what has passed is the least that it would have taken.
  ///
  /// - Parameters:
  ///   - outcome: unanswered or unsent.
  ///   - sent: what its service time counts from; nil where that is the latency.
  mutating func giveUp(
    _ outcome: Outcome, _ method: Method, since: Int64, sent: Int64?, _ now: Int64, isMeasured: Bool
  ) {
    record(method, since: since, sent: sent, now, isMeasured: isMeasured)
    count(outcome)
    if outcome == .unsent { statistics.unsent += 1 }
    noteFailure("\(method.name): \(outcome.name)")
  }

  var hasFailure: Bool { statistics.firstFailure != nil }

  /// Keeps the first thing that went wrong.
  mutating func noteFailure(_ text: String) {
    statistics.firstFailure = statistics.firstFailure ?? text
  }

  // MARK: Connections

  mutating func noteRedial() { statistics.connectionsRedialled += 1 }

  /// - Parameter wasUp: it had been connected; otherwise it is one more dial that failed.
  mutating func noteLoss(_ reason: String, wasUp: Bool) {
    if wasUp { statistics.connectionsLost += 1 }
    statistics.firstConnectionLoss = statistics.firstConnectionLoss ?? reason
  }

  mutating func sentOrder() { statistics.ordersSent += 1 }

  /// - Parameter isLate: nothing new is sent any more.
  mutating func answeredOrder(isLate: Bool) {
    statistics.ordersAnswered += 1
    if isLate { statistics.ordersAnsweredLate += 1 }
  }

  mutating func gaveUpOrders(_ count: Int) { statistics.ordersGivenUp += count }

  /// The worker stops before it was to.
  mutating func endEarly(_ reason: String) { statistics.endedEarly = reason }

  // MARK: For main

  /// Hands the interval over, and begins the one that `now` falls into.
  ///
  /// - Parameter isLast: the interval ends now, and not where the grid has it end.
  mutating func handOver(_ now: Int64, isLast: Bool = false) {
    if isLast { interval.endNanoseconds = now }
    interval.isMeasured = interval.isMeasured || isMeasuring
    let cpu = Machine.threadCPUNanoseconds()
    interval.cpuNanoseconds = cpu - intervalCPU
    intervalCPU = cpu
    let next = grid.number(at: now)
    control.intervals[worker].exchange(&interval, next: next)
    nextNanoseconds = grid.start(of: next + 1)
  }

  /// Adds what is new to the counts of the live view, a few calls at a time, or `all` of it.
  mutating func report(all: Bool) {
    let accepted = counted.accepted - reported.accepted
    let refused = counted.refused - reported.refused
    let failed = counted.failed - reported.failed
    let new = accepted + refused + failed
    guard new >= Meter.reportedTogether || all, new > 0 else { return }
    control.answered.add(new, ordering: .relaxed)
    control.accepted.add(accepted, ordering: .relaxed)
    control.refused.add(refused, ordering: .relaxed)
    control.failed.add(failed, ordering: .relaxed)
    reported = counted
  }
}
