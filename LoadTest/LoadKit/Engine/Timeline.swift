// Puts the workers' slices together, in the order of time, and makes intervals of them.
internal import LoadHistory
internal import LoadReport

/// A slice of an interval, once all workers have handed it over.
struct Slice {
  /// Of the grid.
  var number = 0
  /// Since the first call was due.
  let startSeconds: Double
  let seconds: Double
  let counts: IntervalCounts

  var endSeconds: Double { startSeconds + seconds }
}

/// The intervals of a run.
struct Timeline {
  let grid: IntervalGrid
  /// Of an open loop, its warm-up included.
  private let profile: LoadProfile?
  private var scheduleEnds: Int64
  private let slices: IntervalGrid
  private var pending: [Int: IntervalCounts] = [:]
  /// The number of the next slice to be told.
  private var next: Int
  /// What has come of the interval that is not whole, and its number.
  private var open: (number: Int, counts: IntervalCounts)?
  private(set) var intervals: [Report.Interval] = []
  /// Of all intervals together, by Outcome and by gRPC code.
  private(set) var outcomes = [Int](repeating: 0, count: Outcome.allCases.count)
  private(set) var codes = [Int](repeating: 0, count: grpcCodeNames.count)

  /// - Parameter startNanoseconds: when the first call is due.
  init(_ options: RunOptions, startNanoseconds: Int64) {
    grid = IntervalGrid(options, startNanoseconds: startNanoseconds)
    profile =
      options.warmsUpUntilSteady
      ? options.profile : options.profile?.warmedUp(seconds: options.warmUpSeconds)
    scheduleEnds =
      options.warmsUpUntilSteady
      ? .max : grid.measureFrom + Int64((options.measuredSeconds ?? 0) * 1e9)
    slices = grid.slices
    next = slices.number(at: grid.startNanoseconds)
  }

  /// The measured part ends there: known late where the warm-up has no fixed length.
  mutating func endSchedule(at end: Int64) { scheduleEnds = end }

  /// Takes what the workers have handed over, and tells each slice and each interval that is whole.
  mutating func collect(
    _ handovers: [IntervalHandover], server: Report.ServerSample?,
    slice tellSlice: (Slice) -> Void = { _ in },
    tell: (Report.Interval, borrowing Latencies) -> Void
  ) {
    var doneBelow = Int.max
    for handover in handovers {
      let done = handover.take { counts in
        pending[counts.number, default: IntervalCounts()].add(counts)
      }
      doneBelow = min(doneBelow, done)
    }
    let isOver = doneBelow == .max
    let end = isOver ? max(next, 1 + (pending.keys.max() ?? next - 1)) : doneBelow
    var told: [(interval: Report.Interval, latencies: Latencies)] = []
    while next < end {
      let counts = pending.removeValue(forKey: next) ?? IntervalCounts()
      for index in outcomes.indices { outcomes[index] += counts.outcomes[index] }
      for index in codes.indices { codes[index] += counts.codes[index] }
      let start = slices.start(of: next)
      tellSlice(
        Slice(
          number: next, startSeconds: seconds(start),
          seconds: Double(max(0, (counts.endNanoseconds ?? slices.start(of: next + 1)) - start))
            / 1e9,
          counts: counts))
      let number = grid.number(at: start)
      if let before = open, before.number != number { told.append(close(before)) }
      if open == nil {
        open = (number, counts)
      } else {
        open?.counts.append(counts)
      }
      next += 1
      // The last slice of an interval makes it whole.
      if let before = open, grid.number(at: slices.start(of: next)) > number {
        told.append(close(before))
      }
    }
    if isOver, let before = open { told.append(close(before)) }
    // The newest of them has seen the sample; where none was whole, it belongs to the one before.
    if let server, !told.isEmpty {
      told[told.count - 1].interval.server = server
    } else if let server, !intervals.isEmpty {
      intervals[intervals.count - 1].server = server
    }
    for (interval, latencies) in told {
      intervals.append(interval)
      tell(interval, latencies)
    }
  }

  private func seconds(_ time: Int64) -> Double { Double(time - grid.startNanoseconds) / 1e9 }

  private mutating func close(
    _ whole: (number: Int, counts: IntervalCounts)
  ) -> (Report.Interval, Latencies) {
    open = nil
    let latencies = whole.counts.latencies.all
    return (report(whole.number, whole.counts, latencies), latencies)
  }

  private func report(
    _ number: Int, _ counts: IntervalCounts, _ latencies: borrowing Latencies
  ) -> Report.Interval {
    let start = grid.start(of: number)
    let end = max(start, counts.endNanoseconds ?? grid.start(of: number + 1))
    var interval = Report.Interval()
    interval.startSeconds = Double(start - grid.startNanoseconds) / 1e9
    interval.seconds = Double(end - start) / 1e9
    interval.isMeasured = counts.isMeasured
    interval.answered = counts.answered
    interval.latencyMicroseconds = latencies.summary
    for method in counts.latencies.methods {
      interval.methods[method.name] = counts.latencies[method]?.summary
    }
    interval.serviceTimeMicroseconds =
      counts.serviceTimes.count > 0 ? counts.serviceTimes.summary : interval.latencyMicroseconds
    if let profile {
      interval.scheduleLagMicroseconds = counts.scheduleLag.microseconds(at: 99)
      let calls = [start, end].map { time in
        profile.calls(
          untilSeconds: seconds(min(time, scheduleEnds)))
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
