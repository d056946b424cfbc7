// Everything that is known of a run when it is over: what its report is made of.
internal import LoadHistory
internal import LoadReport
internal import Posix

/// What was seen of the change feed.
struct FeedFacts {
  let counts: FeedCounts
  /// How often the stream broke, and went on from its token.
  let reconnects: Int
  /// It was read to the last decision.
  let isWhole: Bool
}

struct RunFacts {
  let options: RunOptions
  var startNanoseconds: Int64 = 0
  var startedUnixNanoseconds: Int64 = 0
  var statistics = Statistics()
  /// By thread: CPU time over wall time in the measured part.
  var busyShares: [Double] = []
  var intervals: [Report.Interval] = []
  /// What the server's metrics counted during the run, and what they call it.
  var server: MetricsPage?
  var serverName: String?
  /// Why the server's metrics could not be read at the end; what they counted since the last sample is
  /// missing.
  var metricsEndedEarly: String?
  /// Of all processors together in the measured part, 0 to 1.
  var machineBusy: Double?
  /// The signal that ended the run.
  var signal: Int32?
  /// Generators on other machines, and why some were lost.
  var agents: [Report.AgentSide] = []
  var agentsLost: [String] = []
  /// The condition that ended the run.
  var abort: Report.Abort?
  /// How the warm-up ended, where it had no fixed length.
  var warmUp: Report.WarmUp?
  /// Balances compared during the run, and what was wrong with them.
  var samplesCompared = 0
  var sampleFaults: [SampleFault] = []
  /// What the change feed has told, where it was followed.
  var feed: FeedFacts?
  var findings: Findings?
  var checkSeconds = 0.0
  /// Why there is no comparison with the server, where there was to be one.
  var checkFailure: String?

  init(_ options: RunOptions) { self.options = options }

  mutating func add(_ worker: Worker) {
    // With fewer calls than threads some have nothing to do, and no time to be busy in.
    let isUsed = worker.statistics.attempts > 0
    add(worker.statistics, busyShares: isUsed ? [worker.statistics.busyShare] : [])
  }

  /// - Parameter busyShares: of the threads that have counted it.
  mutating func add(_ counted: Statistics, busyShares shares: [Double]) {
    statistics.add(counted)
    busyShares += shares
  }

  /// Checks the history. Without balances it can still be found violated, but not found good.
  mutating func check(_ history: borrowing History) {
    let begin = SystemClock.monotonicNanoseconds()
    let found = history.check()
    checkSeconds = Double(SystemClock.monotonicNanoseconds() - begin) / 1e9
    if checkFailure == nil || !found.holds { findings = found }
  }

  var endedEarly: String? {
    if let signal { return "interrupted by signal \(signal)" }
    if let lost = agentsLost.first { return lost }
    if let ended = statistics.endedEarly { return ended }
    return abort.map {
      "--abort-if '\($0.expression)' was so at \(Text.decimal($0.atSeconds, 1)) s: \($0.actualText)"
    }
  }

  /// Why the answers to orders say nothing: nobody decides them, or nobody does any more. What becomes of those that wait
  /// nobody knows.
  var silenceOfOrders: String? {
    guard let via = options.via, statistics.ordersSent > 0 else { return nil }
    if statistics.ordersAnswered == 0 {
      // Those that nobody was heard of are failures, too, and say nothing.
      let failure = statistics.ordersGivenUp > 0 ? nil : statistics.firstFailure
      return "no order was answered: \(failure ?? statistics.firstConnectionLoss ?? via.silence)"
    }
    guard statistics.ordersGivenUp > 0, statistics.ordersAnsweredLate == 0, endedEarly == nil
    else { return nil }
    let waiting = Text.counted(statistics.ordersGivenUp, "order")
    return "\(waiting) and no answer in the last \(options.drainSeconds) s: \(via.silence)"
  }

  var exitStatus: Int32 {
    if let findings, !findings.holds { return 1 }
    if let signal { return 128 + signal }
    if statistics.endedEarly != nil || checkFailure != nil { return 2 }
    return abort != nil ? 4 : 0
  }

  var measuredSeconds: Double { Double(statistics.wallNanoseconds) / 1e9 }

  /// All methods together.
  var latencies: Latencies {
    var all = Latencies()
    for latencies in statistics.latencies { all.add(latencies) }
    return all
  }

  /// From the actual send; in a closed loop that is the latency.
  var serviceTimes: Latencies {
    statistics.serviceTimes.count > 0 ? statistics.serviceTimes : latencies
  }

  /// - Parameter latencies: `self.latencies`.
  func limitEvidence(_ latencies: borrowing Latencies) -> LimitEvidence {
    var evidence = LimitEvidence()
    evidence.isOpenLoop = options.profile != nil
    evidence.busiestThread = busyShares.max() ?? 0
    evidence.lagMicroseconds = statistics.scheduleLag.microseconds(at: 99)
    evidence.latencyMicroseconds = latencies.microseconds(at: 99)
    evidence.unsent = statistics.unsent
    if let profile = options.profile {
      evidence.carriedShare = LimitEvidence.carriedShare(
        answered: Double(statistics.measured),
        scheduled: profile.calls(untilSeconds: measuredSeconds),
        isPoisson: options.arrivals == .poisson)
    }
    evidence.thinks =
      options.workload.thinkTimeNanoseconds.upperBound > 0
      || options.workload.dueTogetherNanoseconds != nil
    evidence.processors = Machine.usableProcessors
    evidence.machineBusy = machineBusy
    let wall = Double(max(1, statistics.wallNanoseconds))
    evidence.generatorProcessors = busyShares.reduce(0, +)
    evidence.serverProcessors = statistics.serverCPUNanoseconds.map { Double($0) / wall }
    return evidence
  }
}
