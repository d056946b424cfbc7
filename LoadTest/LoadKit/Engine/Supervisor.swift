// Main's part while the workers work: it starts them, puts their counts together, looks at the
// server from outside, and ends them early where somebody asks for it.
internal import LoadHistory
internal import LoadReport
internal import Posix
internal import Synchronization

struct Supervisor: ~Copyable {
  let options: RunOptions
  let control: RunControl
  private(set) var workers: [Worker] = []
  private var threads: [Thread] = []
  private var monitor: ServerMonitor
  private var startNanoseconds: Int64 = 0
  private var startedUnixNanoseconds: Int64 = 0
  private var timeline: Timeline
  private var sampler: BalanceSampler?
  /// CPU of the whole machine when the measured part began, and when it ended.
  private var machineBefore: MachineTime?
  private var machineAfter: MachineTime?

  /// How often main looks.
  private static let pauseMilliseconds = 50
  /// The start lies so far ahead that every worker is awake by then.
  private static let startDelayNanoseconds: Int64 = 2_000_000

  /// Starts a thread per worker, and waits until all are connected.
  ///
  /// - Parameter monitor: one that has begun.
  init(_ options: RunOptions, _ monitor: ServerMonitor) throws(LoadError) {
    self.options = options
    self.monitor = monitor
    control = RunControl(workers: options.threads)
    timeline = Timeline(options, startNanoseconds: 0)
    let weights = AliasTable(options.workload)
    for number in 0..<options.threads {
      let worker = Worker(number: number, options: options, control: control, weights: weights)
      workers.append(worker)
      do {
        threads.append(try Thread(name: "load-\(number)") { worker.run() })
      } catch {
        control.startNanoseconds.store(-1, ordering: .releasing)
        throw LoadError("cannot start a thread: \(error)")
      }
    }
    while control.ready.load(ordering: .acquiring) < options.threads { sleep(milliseconds: 1) }
  }

  /// Sets off the workers, stays beside them, and joins them.
  mutating func work(_ hooks: RunHooks) throws(LoadError) {
    let hasFailed = workers.contains { $0.failure != nil }
    begin()
    control.startNanoseconds.store(hasFailed ? -1 : startNanoseconds, ordering: .releasing)
    while control.finished.load(ordering: .acquiring) < threads.count {
      sleep(milliseconds: Supervisor.pauseMilliseconds)
      if EndSignals.received != nil { control.isEnding.store(true, ordering: .relaxed) }
      let now = SystemClock.monotonicNanoseconds()
      noteMachineTime(now)
      let sample = monitor.sampleIfDue(now)
      sampler?.sampleIfDue(now)
      collect(sample, hooks)
      hooks.progress(progress(now))
    }
    for thread in threads { thread.join() }
    if machineAfter == nil { machineAfter = .now() }
    collect(monitor.sample(), hooks)
    hooks.progress(progress(SystemClock.monotonicNanoseconds()))
  }

  private mutating func begin() {
    let now = SystemClock.monotonicNanoseconds()
    startNanoseconds = now + Supervisor.startDelayNanoseconds
    startedUnixNanoseconds =
      SystemClock().now().nanoseconds + Supervisor.startDelayNanoseconds
    timeline = Timeline(options, startNanoseconds: startNanoseconds)
    if options.watches {
      sampler = BalanceSampler(
        options, workers: control.watched, startNanoseconds: startNanoseconds,
        startedUnixNanoseconds: startedUnixNanoseconds)
    }
  }

  private mutating func collect(_ sample: Report.ServerSample?, _ hooks: RunHooks) {
    let startedUnix = startedUnixNanoseconds
    timeline.collect(control.intervals, server: sample) { interval, latencies in
      hooks.interval(interval, latencies, startedUnix)
    }
  }

  private mutating func noteMachineTime(_ now: Int64) {
    if machineBefore == nil, now >= timeline.grid.measureFrom { machineBefore = .now() }
    guard let seconds = options.measuredSeconds, machineAfter == nil else { return }
    if now >= timeline.grid.measureFrom + Int64(seconds * 1e9) { machineAfter = .now() }
  }

  private func progress(_ now: Int64) -> Progress {
    var standing = Progress()
    standing.elapsedSeconds = Double(max(0, now - startNanoseconds)) / 1e9
    standing.totalSeconds = options.measuredSeconds.map { options.warmUpSeconds + $0 }
    standing.totalOperations = options.operations
    if options.operations != nil, let storm = options.workload.dueTogetherNanoseconds {
      // The calls are soon made; what takes its time is what comes after them.
      standing.totalOperations = nil
      standing.totalSeconds = Double(storm + Schedule.probeAfterNanoseconds) / 1e9
    }
    standing.answered = control.answered.load(ordering: .relaxed)
    standing.accepted = control.accepted.load(ordering: .relaxed)
    standing.refused = control.refused.load(ordering: .relaxed)
    standing.failed = control.failed.load(ordering: .relaxed)
    standing.interval = timeline.intervals.last
    return standing
  }

  /// Writes down what main has seen.
  mutating func tell(_ facts: inout RunFacts) {
    facts.startNanoseconds = startNanoseconds
    facts.startedUnixNanoseconds = startedUnixNanoseconds
    facts.intervals = timeline.intervals
    facts.statistics.outcomes = timeline.outcomes
    facts.statistics.codes = timeline.codes
    facts.server = monitor.change
    facts.serverName = monitor.last?.server
    facts.metricsEndedEarly = monitor.lastFailed
    if let machineBefore, let machineAfter {
      facts.machineBusy = machineAfter.busyShare(since: machineBefore)
    }
    facts.signal = EndSignals.received
    facts.samplesCompared = sampler?.compared ?? 0
    facts.sampleFaults = sampler?.faults ?? []
  }
}
