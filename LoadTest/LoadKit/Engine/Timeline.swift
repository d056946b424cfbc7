// Puts the workers' intervals together, in the order of time.
internal import LoadReport

/// The intervals of a run.
struct Timeline {
  let grid: IntervalGrid
  /// Of an open loop, its warm-up included.
  private let profile: LoadProfile?
  private let scheduleEnds: Int64
  private var pending: [Int: IntervalCounts] = [:]
  /// The number of the next interval to be told.
  private var next: Int
  private(set) var intervals: [Report.Interval] = []
  /// Of all intervals together, by Outcome and by gRPC code.
  private(set) var outcomes = [Int](repeating: 0, count: Outcome.allCases.count)
  private(set) var codes = [Int](repeating: 0, count: grpcCodeNames.count)

  /// - Parameter startNanoseconds: when the first call is due.
  init(_ options: RunOptions, startNanoseconds: Int64) {
    grid = IntervalGrid(options, startNanoseconds: startNanoseconds)
    profile = options.profile?.warmedUp(seconds: options.warmUpSeconds)
    scheduleEnds = grid.measureFrom + Int64((options.measuredSeconds ?? 0) * 1e9)
    next = grid.number(at: grid.startNanoseconds)
  }

  /// Takes what the workers have handed over, and tells each interval that is whole.
  mutating func collect(
    _ handovers: [IntervalHandover], server: Report.ServerSample?,
    tell: (Report.Interval, borrowing Latencies) -> Void
  ) {
    var doneBelow = Int.max
    for handover in handovers {
      let done = handover.take { counts in
        pending[counts.number, default: IntervalCounts()].add(counts)
      }
      doneBelow = min(doneBelow, done)
    }
    let end = doneBelow == .max ? 1 + (pending.keys.max() ?? next - 1) : doneBelow
    var sample = server
    while next < end {
      let counts = pending.removeValue(forKey: next) ?? IntervalCounts()
      for index in outcomes.indices { outcomes[index] += counts.outcomes[index] }
      for index in codes.indices { codes[index] += counts.codes[index] }
      var interval = report(counts)
      // The newest of them has seen the sample.
      if next + 1 == end { interval.server = sample.take() }
      intervals.append(interval)
      tell(interval, counts.latencies)
      next += 1
    }
    // None was whole: the sample belongs to the one before.
    if let sample, !intervals.isEmpty { intervals[intervals.count - 1].server = sample }
  }

  private func report(_ counts: IntervalCounts) -> Report.Interval {
    let start = grid.start(of: next)
    let end = max(start, counts.endNanoseconds ?? grid.start(of: next + 1))
    var interval = Report.Interval()
    interval.startSeconds = Double(start - grid.startNanoseconds) / 1e9
    interval.seconds = Double(end - start) / 1e9
    interval.isMeasured = counts.isMeasured
    interval.answered = counts.answered
    interval.latencyMicroseconds = counts.latencies.summary
    interval.serviceTimeMicroseconds =
      counts.serviceTimes.count > 0 ? counts.serviceTimes.summary : interval.latencyMicroseconds
    if let profile {
      interval.scheduleLagMicroseconds = counts.scheduleLag.microseconds(at: 99)
      let calls = [start, end].map { time in
        profile.calls(
          untilSeconds: Double(min(time, scheduleEnds) - grid.startNanoseconds) / 1e9)
      }
      interval.scheduledPerSecond = (calls[1] - calls[0]) / max(1e-9, interval.seconds)
    }
    for outcome in Outcome.allCases where counts.outcomes[outcome.rawValue] > 0 {
      interval.outcomes[outcome.name] = counts.outcomes[outcome.rawValue]
    }
    for (code, name) in grpcCodeNames.enumerated() where counts.codes[code] > 0 {
      interval.codes[name] = counts.codes[code]
    }
    interval.generatorBusyShare = min(
      1, Double(counts.cpuNanoseconds) / max(1, Double(end - start)))
    return interval
  }
}
