// Main's part while the workers work: it starts them, puts their counts together, looks at the
// server from outside, and ends them early where somebody asks for it.
internal import LoadHistory
internal import LoadReport
internal import Posix
internal import Synchronization
internal import Version

struct Supervisor: ~Copyable {
  let options: RunOptions
  let control: RunControl
  private var workers: [Worker] = []
  private var threads: [Thread] = []
  /// Where others make the load.
  private var fleet: Fleet?
  private var monitor: ServerMonitor
  private var startNanoseconds: Int64 = 0
  private var startedUnixNanoseconds: Int64 = 0
  /// When the measured part begins; `Int64.max` until that is known.
  private var measureFrom = Int64.max
  private var timeline: Timeline
  private var sampler: BalanceSampler?
  private var live = LiveStatistics()
  private var abortWatch: AbortWatch
  /// What ended the run before its time.
  private var abort: Report.Abort?
  /// Looks for the end of a warm-up that has no fixed length; nil once it was found.
  private var warmUpWatch: WarmUpWatch?
  private var warmUp: Report.WarmUp?
  private var lastSample: Report.ServerSample?
  private var hasPublished = false
  /// CPU of the whole machine when the measured part began, and when it ended.
  private var machineBefore: MachineTime?
  private var machineAfter: MachineTime?

  /// How often main looks.
  private static let pauseMilliseconds = 50
  /// The start lies so far ahead that every worker is awake by then.
  private static let startDelayNanoseconds: Int64 = 2_000_000
  /// The measured part lies so far ahead that every worker has heard of it by then.
  private static let measureDelayNanoseconds: Int64 = 300_000_000

  /// Starts a thread per worker, or connects to the agents, and waits until all are connected.
  ///
  /// - Parameter monitor: one that has begun.
  init(_ options: RunOptions, _ monitor: ServerMonitor) throws(LoadError) {
    self.options = options
    self.monitor = monitor
    control = RunControl(workers: options.agents.isEmpty ? options.threads : options.agents.count)
    timeline = Timeline(options, startNanoseconds: 0)
    abortWatch = AbortWatch(options)
    // An agent is told when its warm-up ends.
    warmUpWatch = options.warmsUpUntilSteady && options.agentShare == nil ? WarmUpWatch() : nil
    if !options.agents.isEmpty {
      fleet = try Fleet(options, control)
      return
    }
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

  /// Why a worker could not connect.
  var failure: LoadError? { workers.lazy.compactMap(\.failure).first }

  /// Sets off the workers, stays beside them, and joins them.
  ///
  /// - Parameter start: when the first call is due; nil: now.
  mutating func work(_ hooks: RunHooks, startingAt start: Int64? = nil) throws(LoadError) {
    begin(at: start)
    control.startNanoseconds.store(failure == nil ? startNanoseconds : -1, ordering: .releasing)
    fleet?.start(at: startNanoseconds)
    let parts = fleet?.count ?? threads.count
    while control.finished.load(ordering: .acquiring) < parts {
      sleep(milliseconds: Supervisor.pauseMilliseconds)
      if EndSignals.received != nil { control.isEnding.store(true, ordering: .relaxed) }
      if let fleet {
        if control.isEnding.load(ordering: .relaxed) { fleet.stop() }
        fleet.poll(SystemClock.monotonicNanoseconds())
      }
      let now = SystemClock.monotonicNanoseconds()
      noteMachineTime(now)
      let sample = monitor.sampleIfDue(now)
      sampler?.sampleIfDue(now)
      collect(sample, hooks)
      hooks.progress(progress(now))
    }
    for thread in threads { thread.join() }
    threads = []
    if machineAfter == nil { machineAfter = .now() }
    collect(monitor.sample(), hooks)
    hooks.progress(progress(SystemClock.monotonicNanoseconds()))
  }

  /// Lets the workers go without a run, and waits for them. Safe to repeat.
  mutating func cancel() {
    control.isEnding.store(true, ordering: .relaxed)
    _ = control.startNanoseconds.compareExchange(
      expected: 0, desired: -1, ordering: .acquiringAndReleasing)
    for thread in threads { thread.join() }
    threads = []
  }

  /// Hands over what the workers have counted and taken down.
  mutating func takeResults(_ facts: inout RunFacts, _ books: inout Books) throws(LoadError) {
    if let fleet { return try fleet.takeResults(&facts, &books) }
    for worker in workers {
      if let failure = worker.failure { throw failure }
      facts.add(worker)
      if let ledger = worker.takeLedger() { books.add(ledger) }
    }
  }

  private mutating func begin(at start: Int64?) {
    let now = SystemClock.monotonicNanoseconds()
    let delay =
      fleet == nil ? Supervisor.startDelayNanoseconds : Fleet.startDelayNanoseconds
    startNanoseconds = start ?? now + delay
    startedUnixNanoseconds = SystemClock().now().nanoseconds + (startNanoseconds - now)
    timeline = Timeline(options, startNanoseconds: startNanoseconds)
    if !options.warmsUpUntilSteady { measureFrom = timeline.grid.measureFrom }
    if options.watches {
      sampler = BalanceSampler(
        options, workers: control.watched, startNanoseconds: startNanoseconds,
        startedUnixNanoseconds: startedUnixNanoseconds)
    }
  }

  private mutating func collect(_ sample: Report.ServerSample?, _ hooks: RunHooks) {
    let startedUnix = startedUnixNanoseconds
    lastSample = sample ?? lastSample
    var slices: [Slice] = []
    timeline.collect(control.intervals, server: sample) {
      slices.append($0)
      hooks.slice($0.number, $0)
    } tell: { interval, latencies in
      hooks.interval(interval, latencies, startedUnix)
    }
    for slice in slices { take(slice) }
    guard let publish = hooks.metrics, !slices.isEmpty || !hasPublished else { return }
    hasPublished = true
    let standing = progress(SystemClock.monotonicNanoseconds())
    publish(RunMetrics(information: information, standing, live).text)
  }

  private var information: [(name: String, value: String)] {
    [
      ("version", Build.version), ("run", options.run.text),
      ("scenario", options.workload.scenario), ("loop", options.profile == nil ? "closed" : "open"),
      ("target", options.target.description), ("label", options.label ?? ""),
    ]
  }

  private mutating func take(_ slice: Slice) {
    live.take(slice)
    if abort == nil, let found = abortWatch.take(slice) {
      abort = found
      control.isEnding.store(true, ordering: .relaxed)
    }
    guard warmUpWatch != nil else { return }
    let isSteady = warmUpWatch?.take(slice) ?? false
    guard isSteady || slice.endSeconds >= options.warmUpSeconds else { return }
    warmUpWatch = nil
    measure(from: SystemClock.monotonicNanoseconds(), isSteady: isSteady)
  }

  /// Ends the warm-up with the next interval that all workers can hear of in time.
  private mutating func measure(from now: Int64, isSteady: Bool) {
    let grid = timeline.grid
    let begin = grid.start(of: grid.number(at: now + Supervisor.measureDelayNanoseconds) + 1)
    measureFrom = begin
    timeline.endSchedule(at: begin + Int64((options.measuredSeconds ?? 0) * 1e9))
    var ended = Report.WarmUp()
    ended.seconds = Double(begin - startNanoseconds) / 1e9
    ended.isSteady = isSteady
    warmUp = ended
    control.measureFromNanoseconds.store(begin, ordering: .releasing)
    fleet?.measure(from: begin)
  }

  private mutating func noteMachineTime(_ now: Int64) {
    if machineBefore == nil, now >= measureFrom { machineBefore = .now() }
    guard let measureTo, machineAfter == nil else { return }
    if now >= measureTo { machineAfter = .now() }
  }

  /// When the measured part ends; nil where the number of calls decides, or that is not known yet.
  private var measureTo: Int64? {
    guard let seconds = options.measuredSeconds, measureFrom < .max else { return nil }
    return measureFrom + Int64(seconds * 1e9)
  }

  private func progress(_ now: Int64) -> Progress {
    var standing = Progress()
    standing.elapsedSeconds = Double(max(0, now - startNanoseconds)) / 1e9
    standing.phase = phase(now)
    standing.totalSeconds = measureTo.map { Double($0 - startNanoseconds) / 1e9 }
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
    standing.window = live.window
    standing.outcomes = live.outcomesByName
    standing.codes = live.codesByName
    standing.server = lastSample
    let counted = Int(monitor.change?.invariantViolations ?? 0)
    standing.faults = counted
    switch sampler {
    case .some(let sampler):
      standing.balancesCompared = sampler.compared
      standing.faults += sampler.faults.count
      standing.firstFault = sampler.faults.first?.text
    case .none: break
    }
    standing.abort = abort
    standing.agents = fleet?.standings ?? []
    return standing
  }

  private func phase(_ now: Int64) -> Progress.Phase {
    if control.isEnding.load(ordering: .relaxed) { return .ending }
    if now < measureFrom { return .warmUp }
    if let measureTo, now >= measureTo { return .draining }
    return .measuring
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
    if let machineBefore, let machineAfter, fleet == nil {
      facts.machineBusy = machineAfter.busyShare(since: machineBefore)
    }
    facts.signal = EndSignals.received
    facts.abort = abort
    facts.warmUp = warmUp
    facts.samplesCompared = sampler?.compared ?? 0
    facts.sampleFaults = sampler?.faults ?? []
  }
}
