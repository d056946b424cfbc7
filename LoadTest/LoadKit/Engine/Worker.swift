// One thread of the load generator: its own connections, its own ledger, one epoll loop.
//
// A turn: do what has become due, send, wait, read every connection that has something, take down
// the answers, send again. Follow-ups (confirm, release, extend) and repetitions go before new
// operations.
internal import HTTP2
internal import LoadHistory
internal import LoadReport
internal import Posix
internal import Synchronization

/// One worker. Made by main, run on a thread of its own, read by main after that thread was joined.
final class Worker: @unchecked Sendable {
  let number: Int
  let options: RunOptions
  let control: RunControl
  private let weights: AliasTable?
  /// What came of it; set at the end of `run`.
  private var ledger: Ledger?
  private(set) var statistics = Statistics()
  private(set) var failure: LoadError?

  init(number: Int, options: RunOptions, control: RunControl, weights: AliasTable?) {
    self.number = number
    self.options = options
    self.control = control
    self.weights = weights
  }

  func run() {
    Machine.usePreciseTimers()
    do throws(LoadError) {
      var loop = try WorkerLoop(
        number: number, options: options, control: control, weights: weights)
      try loop.connect()
      control.ready.add(1, ordering: .acquiringAndReleasing)
      if try loop.awaitStart() { try loop.run() }
      statistics = loop.statistics
      ledger = loop.takeLedger()
    } catch {
      failure = error
      control.ready.add(1, ordering: .acquiringAndReleasing)
    }
    control.intervals[number].finish()
    control.finished.add(1, ordering: .acquiringAndReleasing)
  }

  /// Hands the ledger over, once.
  func takeLedger() -> Ledger? { ledger.take() }
}

/// A worker's state, in one value that only its thread knows.
struct WorkerLoop: ~Copyable {
  /// One send that is to be made.
  struct SendTask: BitwiseCopyable {
    let operation: Int
    let method: Method
    /// How often the call was sent again because its outcome was unknown.
    var retries: UInt8 = 0
    /// Its answer leads the operation on: the first send, or its retry. False for duplicates.
    var leads = true
    /// Of a follow-up: when it was to be sent.
    var dueNanoseconds: Int64 = 0

    var isFirst: Bool { leads && retries == 0 }
  }

  /// A call in flight.
  struct Flight: BitwiseCopyable {
    var task = SendTask(operation: 0, method: .reserve)
    /// What its latency counts from, and when it was sent.
    var sinceNanoseconds: Int64 = 0
    var sentNanoseconds: Int64 = 0
    /// Where it is in flight; stream 0: nowhere.
    var connection: Int32 = 0
    var stream: UInt32 = 0
  }

  /// What is to be done at a certain time.
  enum DelayedTask: BitwiseCopyable {
    /// A send, by that connection; by any where it is negative.
    case send(SendTask, by: Int)
    /// A stream of the connection has paused for long enough.
    case endPause(Int)
    /// Streams of one connection have numbers of their own; its token tells it from the one before.
    case cut(flight: Int, stream: UInt32, token: UInt64)
    case dial(Int)
    /// The connection with this token should have said hello by now.
    case giveUpDialling(token: UInt64)
  }

  enum Phase { case warmUp, measuring, draining }

  let number: Int
  let options: RunOptions
  let control: RunControl
  let names: SKUNames
  private let keys: KeyNames
  let poller: Poller
  let buffer = ReceiveBuffer()
  var message = MessageBuffer()
  var connections: Table<LoadConnection>
  /// What stands beside each connection, and outlives it.
  var lanes: [Lane]
  var draws: Draws
  var ledger: Ledger
  let watched: WatchCounters
  /// Main compares balances while the load runs.
  let watches: Bool
  var statistics = Statistics()

  var followUps = Queue<SendTask>()
  /// How many repetitions the lanes hold.
  var waitingResends = 0
  /// Duplicates that go out after so many further sends.
  var later = Queue<(attempts: Int, task: SendTask)>()
  var delayed = DelayedTasks<DelayedTask>()
  /// How many of `delayed` are sends.
  var delayedSends = 0
  var flights: [Flight]
  var freeFlights: [Int]
  /// Connections that were not given up.
  var alive = 0

  var phase = Phase.warmUp
  var isRunning = false
  var measureFrom: Int64 = 0
  var measureTo = Int64.max
  private var measureStarted: Int64 = 0
  private var cpuAtStart: Int64 = 0
  private var serverCPUAtStart: Int64?
  /// Calls that this worker makes in all; without --operations there is no such bound.
  private var attemptsMaximum: Int
  /// Open loop: two cursors in one schedule. `seen` is before the first tick that is not due yet,
  /// `pacer` before the first that was not sent.
  var pacer: Pacer?
  var seen: Pacer?
  /// When the holds of an expiry storm are due.
  var stormNanoseconds: Int64?
  /// Once they are all made, operations from this number on are probes: single reserves that are
  /// released at once, until the storm is over.
  var firstProbe = Int.max
  var nextConnection = 0
  let messageMaximum: Int
  /// Since then no answer has come, although calls were in flight or waited to be sent.
  var quietSince: Int64 = 0
  /// When the last answer came.
  var lastAnswered: Int64 = 0

  private var grid = IntervalGrid(startNanoseconds: 0, measureFrom: 0, lengthNanoseconds: nil)
  var interval = IntervalCounts()
  private var intervalEnds = Int64.max
  private var intervalCPU: Int64 = 0
  private var reported = (answered: 0, accepted: 0, refused: 0, failed: 0)
  var tally = (accepted: 0, refused: 0, failed: 0)

  /// What goes on while the holds of a storm fall due, over all workers, and until how long after.
  static let probesPerSecond = 1_000.0
  static let probeAfterNanoseconds: Int64 = 3_000_000_000

  init(number: Int, options: RunOptions, control: RunControl, weights: AliasTable?)
    throws(LoadError)
  {
    self.number = number
    self.options = options
    self.control = control
    names = SKUNames(run: options.run)
    keys = KeyNames(run: options.run)
    do { poller = try Poller() } catch { throw LoadError("epoll: \(error)") }
    let count = options.share(of: options.connections, worker: number)
    connections = Table(capacity: count)
    lanes = Array(repeating: Lane(), count: count)
    // Each worker draws its own numbers from the one seed.
    var seeds = Random(seed: options.seed &+ UInt64(number))
    draws = Draws(options.workload, weights: weights, seed: seeds.next())
    ledger = Ledger(worker: number, names: names, keys: keys)
    watched = control.watched[number]
    watches = options.watches
    flights = Array(repeating: Flight(), count: count * options.streams)
    freeFlights = Array((0..<count * options.streams).reversed())
    attemptsMaximum = options.operations.map { options.share(of: $0, worker: number) } ?? .max
    // Key, time to live, and lines of a SKU and a quantity.
    messageMaximum = 64 + options.workload.lines.upperBound * (names.length + 16)
  }

  /// Hands the ledger over.
  mutating func takeLedger() -> Ledger {
    exchange(&ledger, with: Ledger(worker: number, names: names, keys: keys))
  }

  // MARK: The run

  /// Waits until main has set the start. False if the run is called off.
  mutating func awaitStart() throws(LoadError) -> Bool {
    while true {
      let start = control.startNanoseconds.load(ordering: .acquiring)
      if start < 0 { return false }
      if start == 0 {
        try waitAndReceive(timeoutNanoseconds: 1_000_000)
        continue
      }
      prepare(startNanoseconds: start)
      while SystemClock.monotonicNanoseconds() < start {
        try waitAndReceive(timeoutNanoseconds: start - SystemClock.monotonicNanoseconds())
      }
      return true
    }
  }

  private mutating func prepare(startNanoseconds start: Int64) {
    grid = IntervalGrid(options, startNanoseconds: start)
    measureFrom = grid.measureFrom
    if let seconds = options.measuredSeconds { measureTo = measureFrom + Int64(seconds * 1e9) }
    stormNanoseconds = options.workload.dueTogetherNanoseconds.map { start + $0 }
    interval.number = grid.number(at: start)
    intervalEnds = grid.start(of: interval.number + 1)
    intervalCPU = Machine.threadCPUNanoseconds()
    guard let profile = options.profile else { return }
    pacer = Pacer(
      profile: profile.warmedUp(seconds: options.warmUpSeconds), arrivals: options.arrivals,
      startNanoseconds: start, worker: number, workers: options.threads,
      seed: draws.random.next())
    seen = pacer
  }

  mutating func run() throws(LoadError) {
    isRunning = true
    var now = SystemClock.monotonicNanoseconds()
    quietSince = now
    advancePhase(now)
    if pacer == nil { pumpAll(now) }
    var drainDeadline = Int64.max
    while alive > 0 {
      now = SystemClock.monotonicNanoseconds()
      if now >= intervalEnds { handOver(now) }
      advancePhase(now)
      doDelayed(now)
      if phase == .draining {
        if drainDeadline == .max { drainDeadline = now + Int64(options.drainSeconds * 1e9) }
        // What was due is sent, however late, for its latency counts; then the rest of the
        // follow-ups.
        if pacer != nil { sendDue(now) }
        if hasSentAllSeen { pumpAll(now) }
        if isDrained || now > drainDeadline { break }
      } else if pacer != nil {
        sendDue(now)
      } else {
        sendWaiting(now)
      }
      if isQuiet(now) { break }
      try waitAndReceive(timeoutNanoseconds: timeout(SystemClock.monotonicNanoseconds()))
      report()
    }
    finish(SystemClock.monotonicNanoseconds())
  }

  private mutating func finish(_ now: Int64) {
    if alive == 0, phase != .draining || !isDrained {
      statistics.endedEarly = "the server went away (\(statistics.firstConnectionLoss ?? ""))"
    }
    if phase != .draining {
      // The wait for a server that is gone is no part of a closed loop's measurement: nothing was due
      // in it. In an open loop calls were.
      let isPartOfIt = statistics.endedEarly == nil || pacer != nil
      let end = isPartOfIt ? now : max(measureStarted, lastAnswered)
      measureTo = min(measureTo, end)
      finishMeasuring(end)
    }
    giveUpFlights(now)
    giveUpUnsent(now)
    phase = .draining
    report()
    interval.endNanoseconds = now
    handOver(now)
  }

  private mutating func isQuiet(_ now: Int64) -> Bool {
    guard freeFlights.count < flights.count || hasToSend(now) else {
      quietSince = now
      return false
    }
    guard now - quietSince > Int64(options.quietSeconds * 1e9) else { return false }
    statistics.endedEarly =
      "the server did not answer for \(Seconds.decimal(options.quietSeconds)) s"
    return true
  }

  /// Something waits to be sent, such as for a server that allows no streams.
  private func hasToSend(_ now: Int64) -> Bool {
    if !followUps.isEmpty || waitingResends > 0 { return true }
    if pacer != nil { return !hasSentAllSeen }
    return opensOperations(now) && lanes.contains { $0.isUp && $0.paused < options.streams }
  }

  private var isDrained: Bool {
    freeFlights.count == flights.count && hasSentAllSeen && delayedSends == 0
      && followUps.isEmpty && later.isEmpty && waitingResends == 0
  }

  // MARK: Phases

  var isProbing: Bool { firstProbe < .max }

  private mutating func advancePhase(_ now: Int64) {
    if phase == .warmUp, now >= measureFrom {
      phase = .measuring
      measureStarted = now
      cpuAtStart = Machine.threadCPUNanoseconds()
      if number == 0, let pid = options.serverPID {
        serverCPUAtStart = Machine.processCPUNanoseconds(of: pid)
      }
    }
    guard phase != .draining else { return }
    if control.isEnding.load(ordering: .relaxed) {
      measureTo = min(measureTo, now)
    } else if now < measureTo, statistics.attempts >= attemptsMaximum, stormNanoseconds != nil,
      !isProbing
    {
      return beginProbing(now)
    }
    guard now >= measureTo || statistics.attempts >= attemptsMaximum else { return }
    finishMeasuring(now)
    phase = .draining
    bringForward()
  }

  /// The holds of the storm are made: from here on few and steady calls, on a schedule, show what
  /// the storm does to others.
  private mutating func beginProbing(_ now: Int64) {
    firstProbe = ledger.count
    attemptsMaximum = .max
    // Holds that were opened late live for a second.
    measureTo =
      max(stormNanoseconds ?? now, now + 1_000_000_000) + WorkerLoop.probeAfterNanoseconds
    pacer = Pacer(
      profile: LoadProfile(ratePerSecond: WorkerLoop.probesPerSecond), arrivals: .constant,
      startNanoseconds: now, worker: number, workers: options.threads, seed: draws.random.next())
    seen = pacer
  }

  private mutating func finishMeasuring(_ now: Int64) {
    interval.isMeasured = interval.isMeasured || phase == .measuring
    guard phase == .measuring else { return }
    statistics.wallNanoseconds = now - measureStarted
    statistics.cpuNanoseconds = Machine.threadCPUNanoseconds() - cpuAtStart
    if number == 0, let pid = options.serverPID, let start = serverCPUAtStart,
      let end = Machine.processCPUNanoseconds(of: pid)
    {
      statistics.serverCPUNanoseconds = end - start
    }
  }

  /// Whether a new operation may be begun.
  func opensOperations(_ now: Int64) -> Bool {
    phase != .draining && now < measureTo && statistics.attempts < attemptsMaximum
  }

  // MARK: Counts for main

  private mutating func handOver(_ now: Int64) {
    interval.isMeasured = interval.isMeasured || phase == .measuring
    let cpu = Machine.threadCPUNanoseconds()
    interval.cpuNanoseconds = cpu - intervalCPU
    intervalCPU = cpu
    let next = grid.number(at: now)
    control.intervals[number].exchange(&interval, next: next)
    intervalEnds = grid.start(of: next + 1)
  }

  /// Adds what is new to the counts of the live view.
  private mutating func report() {
    let answered = tally.accepted + tally.refused + tally.failed
    guard answered - reported.answered >= 64 || phase == .draining else { return }
    control.answered.add(answered - reported.answered, ordering: .relaxed)
    control.accepted.add(tally.accepted - reported.accepted, ordering: .relaxed)
    control.refused.add(tally.refused - reported.refused, ordering: .relaxed)
    control.failed.add(tally.failed - reported.failed, ordering: .relaxed)
    reported = (answered, tally.accepted, tally.refused, tally.failed)
  }

  // MARK: Time

  /// How long the next wait may last.
  private func timeout(_ now: Int64) -> Int64 {
    var next = min(now + 100_000_000, intervalEnds, delayed.nextNanoseconds)
    if phase == .warmUp { next = min(next, measureFrom) }
    if phase != .draining {
      next = min(next, measureTo)
      // Ticks that wait for a free stream are sent when an answer comes, not at a time.
      if let pacer, hasSentAllSeen { next = min(next, pacer.scheduledNanoseconds) }
    }
    return max(0, next - now)
  }

  /// Does what has become due.
  private mutating func doDelayed(_ now: Int64) {
    guard delayed.nextNanoseconds <= now else { return }
    while let task = delayed.popDue(at: now) {
      switch task {
      case .send(let task, let index):
        delayedSends -= 1
        repeatSoon(task, by: index)
      case .endPause(let index):
        lanes[index].paused -= 1
        if pacer == nil { pumpAndFlush(index, now) }
      case .cut(let flight, let stream, let token):
        let index = Int(flights[flight].connection)
        guard connections[index].token == token else { continue }
        cutOff(flight, stream, now)
        connections[index].flush(poller)
        acknowledgeLoss(index)
      case .dial(let index): dial(index, now)
      case .giveUpDialling(let token): giveUpDialling(token)
      }
    }
  }

  /// Nothing new is begun: what was to be sent later is sent now.
  private mutating func bringForward() {
    var others: [(time: Int64, task: DelayedTask)] = []
    while let next = delayed.popFirst() {
      if case .send(let task, let index) = next.task {
        repeatSoon(task, by: index)
      } else {
        others.append(next)
      }
    }
    delayedSends = 0
    for other in others { delayed.add(other.task, at: other.time) }
  }
}
