// One thread of the load generator: its own connections, its own ledger, one epoll loop.
//
// A turn: send what is due, wait, read every connection that has something, take down the answers,
// send again. Follow-ups (confirm, release) and duplicates go before new reserves.
internal import HTTP2
internal import LoadHistory
internal import LoadReport
internal import Posix
internal import Synchronization

/// What main and the workers tell each other while they run.
final class RunControl: Sendable {
  /// Workers whose connections all stand, or that have given up.
  let ready = Atomic<Int>(0)
  /// When the run starts, by the monotonic clock; 0 until main has said so, -1 to call it off.
  let startNanoseconds = Atomic<Int64>(0)
  /// For the progress line, over all workers.
  let answered = Atomic<Int>(0)
  let accepted = Atomic<Int>(0)
  let refused = Atomic<Int>(0)
  let failed = Atomic<Int>(0)
  let finished = Atomic<Int>(0)
}

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
    control.finished.add(1, ordering: .acquiringAndReleasing)
  }

  /// Hands the ledger over, once.
  func takeLedger() -> Ledger? { ledger.take() }
}

/// One send that is to be made.
struct SendTask: BitwiseCopyable {
  let operation: Int
  let method: Method
  let isDuplicate: Bool
}

/// A worker's state, in one value that only its thread knows.
struct WorkerLoop: ~Copyable {
  /// A call in flight.
  struct Flight: BitwiseCopyable {
    var operation = 0
    var method = Method.reserve
    /// What its latency counts from, and when it was sent.
    var sinceNanoseconds: Int64 = 0
    var sentNanoseconds: Int64 = 0
  }

  enum Phase { case warmUp, measuring, draining }

  let number: Int
  let options: RunOptions
  let control: RunControl
  let names: SKUNames
  private let keys: KeyNames
  private let poller: Poller
  private let buffer = ReceiveBuffer()
  private var message = MessageBuffer()
  var connections: Table<LoadConnection>
  /// Duplicates that wait for a certain connection.
  private var resends: [Queue<SendTask>]
  var draws: Draws
  var ledger: Ledger
  var statistics = Statistics()

  var followUps = Queue<SendTask>()
  private var later = Queue<(attempts: Int, task: SendTask)>()
  var flights: [Flight]
  var freeFlights: [Int]
  private var alive = 0

  var phase = Phase.warmUp
  private var isRunning = false
  var measureFrom: Int64 = 0
  var measureTo = Int64.max
  private var measureStarted: Int64 = 0
  private var cpuAtStart: Int64 = 0
  private var serverCPUAtStart: Int64?
  /// Calls that this worker makes in all; without --operations there is no such bound.
  private let attemptsMaximum: Int
  /// Open loop: two cursors in one schedule. `seen` is before the first tick that is not due yet,
  /// `pacer` before the first that was not sent.
  var pacer: Pacer?
  private var seen: Pacer?
  private var nextConnection = 0
  private let messageMaximum: Int
  var reported = (answered: 0, accepted: 0, refused: 0, failed: 0)
  var tally = (accepted: 0, refused: 0, failed: 0)

  /// A late duplicate goes out after so many further sends.
  private static let duplicateDelay = 256

  init(number: Int, options: RunOptions, control: RunControl, weights: AliasTable?)
    throws(LoadError)
  {
    self.number = number
    self.options = options
    self.control = control
    names = SKUNames(run: options.run)
    keys = KeyNames(run: options.run)
    do { poller = try Poller() } catch { throw LoadError("epoll: \(error)") }
    let share = options.connections / options.threads
    let rest = options.connections % options.threads
    let count = share + (number < rest ? 1 : 0)
    connections = Table(capacity: count)
    resends = Array(repeating: Queue(), count: count)
    // Each worker draws its own numbers from the one seed.
    var seeds = Random(seed: options.seed &+ UInt64(number))
    draws = Draws(options.workload, weights: weights, seed: seeds.next())
    ledger = Ledger(worker: number, names: names, keys: keys)
    flights = Array(repeating: Flight(), count: count * options.streams)
    freeFlights = Array((0..<count * options.streams).reversed())
    let operations = options.operations.map { max(1, $0 / options.threads) }
    attemptsMaximum = operations ?? .max
    // Key, time to live, and lines of a SKU and a quantity.
    messageMaximum = 64 + options.workload.lines.upperBound * (names.length + 16)
  }

  /// Hands the ledger over.
  mutating func takeLedger() -> Ledger {
    exchange(&ledger, with: Ledger(worker: number, names: names, keys: keys))
  }

  // MARK: Before the run

  /// Connects everything, and waits for the server's hello on each.
  mutating func connect() throws(LoadError) {
    for index in 0..<resends.count {
      connections.append(
        try LoadConnection.connect(
          to: options.target, callsMaximum: options.streams, poller: poller, token: UInt64(index)))
    }
    alive = connections.count
    let deadline = SystemClock.monotonicNanoseconds() + 5_000_000_000
    while !isReady() {
      if SystemClock.monotonicNanoseconds() > deadline {
        throw LoadError("\(options.target) does not answer; is a holdfast server running there?")
      }
      try waitAndReceive(timeoutNanoseconds: 100_000_000)
      if let reason = statistics.firstConnectionLoss {
        throw LoadError("\(options.target): \(reason); is a holdfast server running there?")
      }
    }
  }

  private func isReady() -> Bool {
    for index in 0..<connections.count where !connections[index].http.isReady { return false }
    return true
  }

  /// Waits until main has set the start. False if the run is called off.
  mutating func awaitStart() throws(LoadError) -> Bool {
    while true {
      let start = control.startNanoseconds.load(ordering: .acquiring)
      if start < 0 { return false }
      if start == 0 {
        try waitAndReceive(timeoutNanoseconds: 1_000_000)
        continue
      }
      let warmUp = options.operations == nil ? options.warmUpSeconds : 0
      measureFrom = start + Int64(warmUp * 1e9)
      if let seconds = options.measuredSeconds { measureTo = measureFrom + Int64(seconds * 1e9) }
      if let profile = options.profile {
        pacer = Pacer(
          profile: profile.warmedUp(seconds: warmUp), arrivals: options.arrivals,
          startNanoseconds: start, worker: number, workers: options.threads,
          seed: draws.random.next())
        seen = pacer
      }
      while SystemClock.monotonicNanoseconds() < start {
        try waitAndReceive(timeoutNanoseconds: start - SystemClock.monotonicNanoseconds())
      }
      return true
    }
  }

  // MARK: The run

  mutating func run() throws(LoadError) {
    isRunning = true
    var now = SystemClock.monotonicNanoseconds()
    advancePhase(now)
    if pacer == nil { pumpAll(now) }
    var drainDeadline = Int64.max
    while alive > 0 {
      now = SystemClock.monotonicNanoseconds()
      advancePhase(now)
      if phase == .draining {
        if drainDeadline == .max { drainDeadline = now + Int64(RunOptions.drainSeconds * 1e9) }
        // What was due is sent, however late, for its latency counts; then the rest of the follow-ups.
        if pacer != nil { sendDue(now) }
        if hasSentAllSeen { pumpAll(now) }
        let isDone = freeFlights.count == flights.count && hasSentAllSeen && nothingWaits()
        if isDone || now > drainDeadline { break }
      } else if pacer != nil {
        sendDue(now)
      }
      try waitAndReceive(timeoutNanoseconds: timeout(SystemClock.monotonicNanoseconds()))
      report()
    }
    if phase != .draining { finishMeasuring(SystemClock.monotonicNanoseconds()) }
    while let tick = seen?.scheduledNanoseconds, tick < measureTo { seen?.advance() }
    if let pacer, let seen { statistics.unsentTicks = seen.count - pacer.count }
    report()
  }

  private var hasSentAllSeen: Bool { pacer?.count == seen?.count }

  private func nothingWaits() -> Bool {
    followUps.isEmpty && later.isEmpty && resends.allSatisfy(\.isEmpty)
  }

  private mutating func advancePhase(_ now: Int64) {
    if phase == .warmUp, now >= measureFrom {
      phase = .measuring
      measureStarted = now
      cpuAtStart = Machine.threadCPUNanoseconds()
      if number == 0, let pid = options.serverPID {
        serverCPUAtStart = Machine.processCPUNanoseconds(of: pid)
      }
    }
    let isOver = now >= measureTo || statistics.attempts >= attemptsMaximum
    if phase == .measuring, isOver {
      finishMeasuring(now)
      phase = .draining
    }
  }

  private mutating func finishMeasuring(_ now: Int64) {
    statistics.wallNanoseconds = measureStarted == 0 ? 0 : now - measureStarted
    statistics.cpuNanoseconds = Machine.threadCPUNanoseconds() - cpuAtStart
    if number == 0, let pid = options.serverPID, let start = serverCPUAtStart,
      let end = Machine.processCPUNanoseconds(of: pid)
    {
      statistics.serverCPUNanoseconds = end - start
    }
  }

  /// How long the next wait may last.
  private func timeout(_ now: Int64) -> Int64 {
    var next = now + 100_000_000
    if phase == .warmUp { next = min(next, measureFrom) }
    if phase != .draining {
      next = min(next, measureTo)
      // Ticks that wait for a free stream are sent when an answer comes, not at a time.
      if let pacer, hasSentAllSeen { next = min(next, pacer.scheduledNanoseconds) }
    }
    return next - now
  }

  private mutating func waitAndReceive(timeoutNanoseconds: Int64) throws(LoadError) {
    let count = try orFail("epoll") { () throws(Errno) in
      try poller.wait(timeoutNanoseconds: timeoutNanoseconds)
    }
    guard count > 0 else { return }
    for position in 0..<count {
      let event = poller.event(at: position)
      let index = Int(truncatingIfNeeded: event.token)
      if event.isWritable || event.isHungUp { connections[index].becameWritable(poller) }
      if event.isReadable || event.isHungUp, connections[index].receive(buffer) {
        let now = SystemClock.monotonicNanoseconds()
        takeAnswers(index, now)
        if isRunning, pacer == nil { pump(index, now) }
      }
      connections[index].flush(poller)
      acknowledgeLoss(index)
    }
  }

  private mutating func acknowledgeLoss(_ index: Int) {
    guard connections[index].shutdownPending else { return }
    connections[index].acknowledgeLoss(poller)
    takeAnswers(index, SystemClock.monotonicNanoseconds())
    alive -= 1
    statistics.connectionsLost += 1
    let reason = connections[index].lostReason ?? ""
    statistics.firstConnectionLoss = statistics.firstConnectionLoss ?? reason
    // Its duplicates go by another connection.
    while let task = resends[index].popFirst() { followUps.append(task) }
  }

  // MARK: Sending

  /// Fills every free stream.
  private mutating func pumpAll(_ now: Int64) {
    for index in 0..<connections.count {
      pump(index, now)
      connections[index].flush(poller)
      acknowledgeLoss(index)
    }
  }

  private mutating func pump(_ index: Int, _ now: Int64) {
    while connections[index].http.hasRoom(for: messageMaximum), !freeFlights.isEmpty,
      let task = nextTask(index, opensReserves: opensReserves(now))
    {
      send(task, by: index, since: now, now)
    }
  }

  /// Sends the ticks of the open loop that are due, as far as streams are free.
  private mutating func sendDue(_ now: Int64) {
    guard pacer != nil else { return }
    // Ticks that fell due while every stream was busy say nothing about the generator: it slept.
    let countsLag = phase == .measuring && hasSentAllSeen
    while let tick = seen?.scheduledNanoseconds, tick <= min(now, measureTo - 1) {
      if countsLag { statistics.scheduleLag.record(now - tick) }
      seen?.advance()
    }
    while !hasSentAllSeen, let index = roomyConnection(),
      let tick = pacer?.scheduledNanoseconds, let task = nextTask(index, opensReserves: true)
    {
      send(task, by: index, since: tick, now)
      pacer?.advance()
    }
    for index in 0..<connections.count where connections[index].http.outputCount > 0 {
      connections[index].flush(poller)
      acknowledgeLoss(index)
    }
  }

  /// The next connection in turn that has room.
  private mutating func roomyConnection() -> Int? {
    guard !freeFlights.isEmpty else { return nil }
    for _ in 0..<connections.count {
      nextConnection = nextConnection + 1 < connections.count ? nextConnection + 1 : 0
      if connections[nextConnection].http.hasRoom(for: messageMaximum) { return nextConnection }
    }
    return nil
  }

  private func opensReserves(_ now: Int64) -> Bool {
    phase != .draining && now < measureTo && statistics.attempts < attemptsMaximum
  }

  private mutating func nextTask(_ index: Int, opensReserves: Bool) -> SendTask? {
    if let task = resends[index].popFirst() { return task }
    if let task = followUps.popFirst() { return task }
    if let first = later.first, first.attempts <= statistics.attempts || phase == .draining {
      return later.popFirst()?.task
    }
    guard opensReserves else { return nil }
    return SendTask(operation: openReserve(), method: .reserve, isDuplicate: false)
  }

  private mutating func openReserve() -> Int {
    let count = draws.lineCount()
    for _ in 0..<count { ledger.addLine(draws.line()) }
    return ledger.openReserve(
      lineCount: count, timeToLiveNanoseconds: draws.timeToLiveNanoseconds())
  }

  private mutating func send(_ task: SendTask, by index: Int, since: Int64, _ now: Int64) {
    ledger.writeRequest(task.operation, task.method, to: &message)
    guard let flight = freeFlights.popLast() else { return }
    let result = connections[index].start(task.method, callID: UInt64(flight), message)
    guard result == .started else {
      // hasRoom was asked right before; only a message above its maximum could come here.
      freeFlights.append(flight)
      return
    }
    flights[flight] = Flight(
      operation: task.operation, method: task.method, sinceNanoseconds: since, sentNanoseconds: now)
    statistics.attempts += 1
    ledger.sent(task.operation, task.method, at: now)
    if !task.isDuplicate { for _ in 1..<draws.copies() { duplicate(task) } }
  }

  /// The same bytes again: at once by some connection, while the first is in flight, or later.
  private mutating func duplicate(_ task: SendTask) {
    let copy = SendTask(operation: task.operation, method: task.method, isDuplicate: true)
    if draws.random.chance(0.5) {
      resends[Int(draws.random.below(UInt64(resends.count)))].append(copy)
    } else {
      later.append((statistics.attempts + WorkerLoop.duplicateDelay, copy))
    }
  }
}
