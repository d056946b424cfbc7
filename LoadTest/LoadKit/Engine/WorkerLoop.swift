// What one worker does, in one value that only its thread knows.
//
// An iteration: do what has become due, send, wait, read every connection that has something, record
// the answers, send again. Follow-ups (confirm, release, extend) and repetitions go before new
// operations. What is due when is the Schedule's, connections are the ConnectionPool's, what waits to be
// sent the RetryQueue's, what is in flight the CallTable's, and what is counted the Meter's.
internal import GRPC
internal import LoadHistory
internal import LoadReport
internal import Posix
internal import Synchronization

/// A worker's state, in one value that only its thread knows.
struct WorkerLoop: ~Copyable {
  /// A call that is to be cut off while it is under way. Streams of one connection have numbers of their
  /// own; its token tells it from the one before.
  private struct Cut: BitwiseCopyable {
    let call: Int
    let stream: UInt32
    let token: UInt64
  }

  /// Among the threads of all agents.
  private let number: Int
  let options: RunOptions
  private let control: RunControl
  let names: SKUNames
  private let keys: KeyNames
  /// Where main compares balances while the load runs.
  let watch: WatchRecorder?
  var message = MessageBuffer()
  /// Where Reserves go out many in a message.
  var reserves: ReserveMessages
  var operations: Operations
  var ledger: Ledger
  var schedule: Schedule
  var pool: ConnectionPool
  var retries: RetryQueue
  var calls: CallTable
  var meter: Meter
  /// Where Reserves go through a queue.
  var orders: OrderLane?
  private var cuts = DelayedTasks<Cut>()
  var isRunning = false
  /// Since then no answer has come, although calls were in flight or waited to be sent.
  var quietSince: Int64 = 0

  /// The longest that a worker waits without a look at what main wants.
  private static let waitLongest: Int64 = 100_000_000
  /// A server that has not said hello by then is not there.
  private static let connectNanoseconds: Int64 = 5_000_000_000
  /// A call whose outcome stays unknown is sent again so often, the first few times at once, then
  /// with pauses that double up to the longest.
  private static let retriesMaximum = 20
  private static let retryPauseLongest: Int64 = 128_000_000
  /// A call that is cut off while it is under way is cut within this time.
  private static let cutWithinNanoseconds: UInt64 = 1_000_000

  /// - Parameter local: its number among this program's threads.
  init(number local: Int, options: RunOptions, control: RunControl, weights: AliasTable?)
    throws(LoadError)
  {
    let number = options.firstWorker + local
    self.number = number
    self.options = options
    self.control = control
    names = SKUNames(run: options.run)
    keys = KeyNames(run: options.run)
    let count = options.share(of: options.connections, worker: number)
    // Key, time to live, a limit, and lines of a SKU and a quantity.
    let requestLines = options.workload.lines.upperBound * options.workload.warehouses
    let messageMaximum =
      96 + 4 * options.workload.warehouses + requestLines * (names.length + 20)
    // Of a message of many the beginning has to fit; the rest follows as the windows let it through.
    pool = try ConnectionPool(
      options, count: count, messageMaximum: max(messageMaximum, WorkerLoop.messageStart(options)))
    reserves = ReserveMessages(
      options.workload, requestMaximum: messageMaximum, connections: count,
      calls: count * options.streams)
    // Each worker draws its own numbers from the one seed.
    var seeds = Random(seed: options.seed &+ UInt64(number))
    operations = Operations(options, weights: weights, seed: seeds.next())
    ledger = Ledger(
      worker: number, names: names, keys: keys, keepsCommitted: options.workload.keepsCommitted,
      isOfOrders: options.via != nil)
    if let via = options.via {
      orders = OrderLane(via, worker: number, names: names, keys: keys)
    }
    watch = options.watches ? WatchRecorder(control.watched[local]) : nil
    schedule = Schedule(options, worker: number)
    retries = RetryQueue(connections: count)
    calls = CallTable(capacity: count * options.streams)
    meter = Meter(options, worker: local, control: control)
  }

  private static func messageStart(_ options: RunOptions) -> Int {
    options.workload.api == .unary ? 0 : 16_000
  }

  /// Hands the ledger over.
  mutating func takeLedger() -> Ledger {
    exchange(&ledger, with: Ledger(worker: number, names: names, keys: keys))
  }

  // MARK: Before the run

  /// Connects everything, and waits for the server's hello on each.
  mutating func connect() throws(LoadError) {
    try pool.dialAll()
    let deadline = SystemClock.monotonicNanoseconds() + WorkerLoop.connectNanoseconds
    while !pool.isReady {
      if SystemClock.monotonicNanoseconds() > deadline {
        throw LoadError("\(options.target) does not answer; is a holdfast server running there?")
      }
      try waitAndReceive(timeoutNanoseconds: WorkerLoop.waitLongest)
      if let reason = meter.statistics.firstConnectionLoss {
        throw LoadError("\(options.target): \(reason); is a holdfast server running there?")
      }
    }
    try connectOrders()
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
      let grid = IntervalGrid(options, startNanoseconds: start)
      schedule.start(
        options, at: start, measureFrom: grid.measureFrom, seed: operations.draws.random.next())
      meter.start(grid.slices, at: start)
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
    quietSince = now
    advancePhase(now)
    if !schedule.isOpenLoop { pumpAll(now) }
    var drainDeadline = Int64.max
    while pool.isAlive {
      now = SystemClock.monotonicNanoseconds()
      if now >= meter.nextNanoseconds { meter.handOver(now) }
      advancePhase(now)
      runTimers(now)
      if schedule.isDraining {
        if drainDeadline == .max { drainDeadline = now + Int64(options.drainSeconds * 1e9) }
        // What was due is sent, however late, for its latency counts; then the rest of the
        // follow-ups.
        if schedule.isOpenLoop { sendDue(now) }
        if schedule.hasSentAllSeen { pumpAll(now) }
        if isDrained || now > drainDeadline { break }
      } else if schedule.isOpenLoop {
        sendDue(now)
      } else {
        sendWaiting(now)
      }
      if isQuiet(now) { break }
      try workOrders()
      try waitAndReceive(timeoutNanoseconds: timeout(SystemClock.monotonicNanoseconds()))
      meter.report(all: schedule.isDraining)
    }
    finish(SystemClock.monotonicNanoseconds())
  }

  private mutating func finish(_ now: Int64) {
    if !pool.isAlive, !schedule.isDraining || !isDrained {
      meter.endEarly("the server went away (\(meter.statistics.firstConnectionLoss ?? ""))")
    }
    if !schedule.isDraining {
      // The wait for a server that is gone is no part of a closed loop's measurement: nothing was due
      // in it. In an open loop calls were.
      let isPartOfIt = meter.statistics.endedEarly == nil || schedule.isOpenLoop
      let end = isPartOfIt ? now : meter.lastAnsweredMeasured
      schedule.end(at: end)
      meter.finishMeasuring(end)
    }
    if let orders { meter.gaveUpOrders(orders.inFlight.count) }
    giveUpCallsInFlight(now)
    giveUpUnsent(now)
    pool.endReserveStreams()
    orders?.close()
    meter.report(all: true)
    meter.handOver(now, isLast: true)
  }

  private mutating func isQuiet(_ now: Int64) -> Bool {
    guard !calls.isEmpty || hasToSend(now) else {
      quietSince = now
      return false
    }
    guard now - quietSince > Int64(options.quietSeconds * 1e9) else { return false }
    meter.endEarly("the server did not answer for \(Seconds.decimal(options.quietSeconds)) s")
    return true
  }

  /// Something waits to be sent, such as for a server that allows no streams.
  private func hasToSend(_ now: Int64) -> Bool {
    if !retries.isIdle { return true }
    if schedule.isOpenLoop { return !schedule.hasSentAllSeen }
    return opensOperations(now) && pool.hasUnpausedStream
  }

  private var isDrained: Bool { calls.isEmpty && schedule.hasSentAllSeen && retries.isEmpty }

  func opensOperations(_ now: Int64) -> Bool {
    schedule.opensOperations(now, attempts: meter.statistics.attempts)
  }

  private mutating func advancePhase(_ now: Int64) {
    let isEnding = control.isEnding.load(ordering: .relaxed)
    if schedule.awaitsMeasuring {
      let measureFrom = control.measureFromNanoseconds.load(ordering: .acquiring)
      if measureFrom < .max { schedule.learn(measureFrom: measureFrom) }
    }
    while let change = schedule.advance(
      now, attempts: meter.statistics.attempts, isEnding: isEnding)
    {
      switch change {
      case .measuring: meter.beginMeasuring(now)
      case .probing:
        schedule.beginProbing(now, firstProbe: ledger.count, seed: operations.draws.random.next())
      case .draining:
        meter.finishMeasuring(now)
        // Nothing new is begun: what was to be sent later is sent now.
        retries.releaseAll()
      }
    }
  }

  // MARK: Time

  /// How long the next wait may last.
  private func timeout(_ now: Int64) -> Int64 {
    let next = min(
      now + WorkerLoop.waitLongest, meter.nextNanoseconds, retries.nextNanoseconds,
      min(pool.nextNanoseconds, cuts.nextNanoseconds, schedule.nextNanoseconds),
      orders?.nextNanoseconds ?? .max)
    return max(0, next - now)
  }

  /// Does what has become due.
  private mutating func runTimers(_ now: Int64) {
    retries.release(now)
    while let cut = cuts.popDue(at: now) {
      let index = Int(calls[cut.call].connection)
      guard pool.token(index) == cut.token else { continue }
      cutOff(cut.call, cut.stream, now)
      flush(index)
    }
    while let change = pool.runTimer(now) {
      switch change {
      case .pauseEnded(let index): if !schedule.isOpenLoop { pumpAndFlush(index, now) }
      case .dialled(let index): retries.connectionCameUp(index)
      case .gaveUp(let index): takeLoss(index)
      }
    }
  }

  // MARK: Connections

  private mutating func waitAndReceive(timeoutNanoseconds: Int64) throws(LoadError) {
    for position in 0..<(try pool.wait(timeoutNanoseconds: timeoutNanoseconds)) {
      guard let (index, hasReceived) = pool.receive(event: position) else { continue }
      if hasReceived {
        let now = SystemClock.monotonicNanoseconds()
        takeAnswers(index, now)
        if isRunning, !schedule.isOpenLoop { pump(index, now) }
        if pool.noteHello(index) { meter.noteRedial() }
        pool.retireIfClosing(index)
      }
      flush(index)
    }
  }

  private mutating func flush(_ index: Int) {
    pool.flush(index)
    takeLoss(index)
  }

  private mutating func flushAll() {
    for index in pool.indices where pool.hasOutput(index) { flush(index) }
  }

  private mutating func takeLoss(_ index: Int) {
    guard let loss = pool.takeLoss(index) else { return }
    let now = SystemClock.monotonicNanoseconds()
    // Follow-ups of the calls that it loses go by another connection too.
    retries.connectionWentDown(index)
    takeAnswers(index, now)
    if !loss.isOurs, !loss.isMove { meter.noteLoss(loss.reason, wasUp: loss.wasUp) }
    pool.redial(index, now, atOnce: loss.isOurs, mayDial: isRunning)
  }
}

// MARK: - Sending

extension WorkerLoop {
  // MARK: Streams that are free

  /// Closed loop: fills every free stream.
  private mutating func pumpAll(_ now: Int64) {
    for index in pool.indices { pumpAndFlush(index, now) }
  }

  mutating func pumpAndFlush(_ index: Int, _ now: Int64) {
    pump(index, now)
    flush(index)
  }

  private mutating func pump(_ index: Int, _ now: Int64) {
    while pool.hasRoom(index), calls.nextNumber != nil {
      let opens = opensOperations(now) && pool.hasUnpausedStream(index)
      guard let task = nextTask(index, opens: opens, now) else { return }
      send(task, by: index, since: now, opens: opens, now)
    }
  }

  /// Closed loop: what waits while no answer comes goes by any free stream.
  private mutating func sendWaiting(_ now: Int64) {
    guard !retries.isIdle else { return }
    while retries.hasForAny, let index = nextConnection(), let task = retries.popForAny() {
      send(task, by: index, since: now, now)
    }
    if retries.hasRepetitions { for index in pool.indices { pump(index, now) } }
    flushAll()
  }

  // MARK: The schedule

  /// Open loop: sends the ticks that are due, as far as streams are free.
  private mutating func sendDue(_ now: Int64) {
    // Ticks that fell due while every stream was busy say nothing about the generator: it slept.
    let countsLag = schedule.hasSentAllSeen
    while let tick = schedule.look(now) {
      if countsLag { meter.recordLag(now - tick, wasDue: schedule.wasDueInMeasuredPart(tick)) }
    }
    while let tick = schedule.nextUnsent, let index = nextConnection(),
      let task = nextTask(index, opens: true, now)
    {
      send(task, by: index, since: tick, opens: true, now)
      schedule.noteSent()
    }
    flushAll()
  }

  /// The next connection in turn that has room.
  private mutating func nextConnection() -> Int? {
    calls.nextNumber == nil ? nil : pool.nextWithRoom()
  }

  // MARK: Operations

  private mutating func nextTask(_ index: Int, opens: Bool, _ now: Int64) -> SendTask? {
    let waiting = retries.popFirst(
      for: index, attempts: meter.statistics.attempts, isDraining: schedule.isDraining)
    if let waiting { return waiting }
    return opens ? operations.open(in: &ledger, schedule, now) : nil
  }

  /// - Parameter opens: a message of many may be filled up with new operations; in an open loop with those
  ///   that are due.
  private mutating func send(
    _ task: SendTask, by index: Int, since: Int64, opens: Bool = false, _ now: Int64
  ) {
    if task.method == .reserve, !task.isAlone, reserves.method != nil {
      return sendMessage(task, by: index, since: since, opens: opens, now)
    }
    if task.method == .reserve, orders != nil {
      return sendOrder(task, by: index, since: since, now)
    }
    ledger.writeRequest(task.operation, task.method, to: &message)
    // hasRoom was asked right before; only a message above its maximum could not be started.
    guard let number = calls.nextNumber,
      let stream = pool.start(task.method, by: index, callID: number, message)
    else { return }
    calls.add(
      InFlightCall(
        task: task, sinceNanoseconds: since, sentNanoseconds: now,
        connection: Int32(truncatingIfNeeded: index), stream: stream))
    meter.sent()
    if task.isFirst { watch?.sent(task, ledger) }
    ledger.sent(task.operation, task.method, at: now)
    if schedule.isProbing { return }
    if task.isFirst { for _ in 1..<operations.draws.copies() { duplicate(task) } }
    if operations.draws.isCut() { cutSoon(number, now) }
    if operations.draws.closesConnection() { pool.closeWhenWritten(index) }
  }

  /// The same bytes again: at once by some connection, while the first is in flight, or later.
  mutating func duplicate(_ task: SendTask) {
    var copy = task
    copy.leads = false
    if operations.draws.random.chance(0.5) {
      let count = UInt64(pool.indices.count)
      retries.append(copy, by: Int(operations.draws.random.below(count)))
    } else {
      // A repetition may come either way: what comes late comes by itself.
      copy.isAlone = true
      retries.appendLate(copy, attempts: meter.statistics.attempts)
    }
  }

  /// - Parameter connection: that is to send it; nil: any.
  private mutating func sendLater(
    _ task: SendTask, by connection: Int? = nil, at time: Int64, _ now: Int64
  ) {
    if time <= now { return retries.append(task, by: connection) }
    retries.append(task, by: connection, at: time)
  }

  // MARK: Cutting off

  /// Cuts the call off in the same write as its request, or while the server may be at it.
  mutating func cutSoon(_ number: Int, _ now: Int64) {
    let call = calls[number]
    if operations.draws.random.chance(0.5) { return cutOff(number, call.stream, now) }
    let delay = operations.draws.random.below(WorkerLoop.cutWithinNanoseconds)
    cuts.add(
      Cut(call: number, stream: call.stream, token: pool.token(Int(call.connection))),
      at: now + Int64(delay))
  }

  /// Resets the stream of a call that is still in flight.
  private mutating func cutOff(_ number: Int, _ stream: UInt32, _ now: Int64) {
    let call = calls[number]
    guard call.stream == stream, pool.cancel(Int(call.connection), stream: stream) else { return }
    switch call.task.method {
    case .batchReserve: return end(message: number, .cut, code: nil, now)
    case .reserveStream: return endReserveStream(Int(call.connection), .cut, code: nil, now)
    default: break
    }
    _ = calls.remove(number)
    meter.count(.cut)
    ledger.answered(
      call.task.operation, call.task.method, .unknown, sentAt: call.sentNanoseconds, at: now)
    goOn(call, .unknown, isAcceptance: false, now)
  }

  /// Sends a call of unknown outcome again, by another connection. False where it is not to be, or
  /// was often enough.
  private mutating func retry(_ call: InFlightCall, _ now: Int64) -> Bool {
    let task = call.task
    guard options.workload.retriesUnknown, task.leads,
      Int(task.retries) < WorkerLoop.retriesMaximum,
      ledger.needsAnswer(task.operation, task.method)
    else { return false }
    var again = task
    again.retries += 1
    let count = pool.indices.count
    let others = UInt64(max(1, count - 1))
    let index = (Int(call.connection) + 1 + Int(operations.draws.random.below(others))) % count
    let pause = task.retries < 3 ? 0 : Int64(1_000_000) << Int64(min(task.retries - 3, 10))
    sendLater(again, by: index, at: now + min(pause, WorkerLoop.retryPauseLongest), now)
    return true
  }
}

// MARK: - Answers

extension WorkerLoop {
  private mutating func takeAnswers(_ index: Int, _ now: Int64) {
    let count = pool.answerCount(index)
    let messages = pool.messageCount(index)
    if count + messages > 0 { quietSince = now }
    for position in 0..<messages { takeMessage(index, at: position, now) }
    for position in 0..<count {
      let answer = pool.answer(index, at: position)
      pool.noteOwner(answer, by: index)
      take(answer, by: index, now)
    }
    pool.forgetAnswers(index)
  }

  private mutating func take(_ answer: ClientResponse, by index: Int, _ now: Int64) {
    if answer.callID == ConnectionPool.reserveStreamID {
      return takeEndOfStream(answer, by: index, now)
    }
    let number = Int(truncatingIfNeeded: answer.callID)
    if calls[number].task.method == .batchReserve {
      return takeBatch(number, answer, by: index, now)
    }
    let call = calls.remove(number)
    // A call that was cut off has no latency.
    if answer.outcome == .answered || answer.outcome == .malformed { noteAnswered(call, now) }
    let reply = reply(to: call.task.method, answer, index)
    count(reply, call.task.method, answer, index)
    conclude(call, reply, now)
  }

  mutating func noteAnswered(_ call: InFlightCall, _ now: Int64) {
    meter.answered(
      call, now,
      wasDue: schedule.isOpenLoop ? schedule.wasDueInMeasuredPart(call.sinceNanoseconds) : nil,
      separatesServiceTime: separatesServiceTime)
  }

  /// Takes down what a call was answered, and goes on.
  mutating func conclude(_ call: InFlightCall, _ reply: Reply, _ now: Int64) {
    let isAcceptance = ledger.answered(
      call.task.operation, call.task.method, reply, sentAt: call.sentNanoseconds, at: now)
    watch?.done(call.task, reply, ledger)
    goOn(call, reply, isAcceptance: isAcceptance, now)
  }

  /// In a closed loop service times are the latencies.
  private var separatesServiceTime: Bool {
    schedule.isOpenLoop || schedule.stormNanoseconds != nil
  }

  private func reply(to method: Method, _ answer: ClientResponse, _ index: Int) -> Reply {
    if !options.verifies, answer.outcome == .answered, answer.status == .ok {
      return .accepted(id: ReservationID(number: 0), expiresNanoseconds: 0, isReplayed: false)
    }
    return pool.reply(answer, to: method, by: index, names)
  }

  // MARK: Calls without an answer

  /// The run ends with calls in flight. Each has taken at least as long as it has by now: left out,
  /// the slowest calls of all would be those that nobody hears of.
  private mutating func giveUpCallsInFlight(_ now: Int64) {
    for number in calls.numbers where calls.isInFlight(number) {
      let call = calls.remove(number)
      guard call.task.method == reserves.method else {
        giveUp(
          .unanswered, call.task.method, since: call.sinceNanoseconds, sent: call.sentNanoseconds,
          now)
        continue
      }
      for member in reserves.take(number) {
        giveUp(
          .unanswered, .reserve, since: member.sinceNanoseconds, sent: call.sentNanoseconds, now)
      }
    }
  }

  /// The run ends with calls that were due and that no stream was free for. They are what a server that
  /// stands still does to its callers: each has waited since it was due, and nothing came of it.
  ///
  /// A tick of the schedule is the call that it would have been: what waits to be sent, else a new one.
  private mutating func giveUpUnsent(_ now: Int64) {
    while let tick = schedule.popUnsent() {
      let opening = schedule.isProbing ? .reserve : operations.draws.opening().method
      giveUp(.unsent, retries.popOverdue()?.method ?? opening, since: tick, sent: tick, now)
    }
    // A duplicate or a retry that is not sent leaves no caller without an answer to a first call.
    while let task = retries.popOverdue() {
      guard task.isFirst else { continue }
      let due = task.dueNanoseconds
      giveUp(.unsent, task.method, since: due, sent: due, now)
    }
  }

  private mutating func giveUp(
    _ outcome: Outcome, _ method: Method, since: Int64, sent: Int64, _ now: Int64
  ) {
    meter.giveUp(
      outcome, method, since: since, sent: separatesServiceTime ? sent : nil, now,
      isMeasured: schedule.wasDueInMeasuredPart(since))
  }

  // MARK: What follows

  /// Begins what follows from an answer, or from its absence.
  private mutating func goOn(_ call: InFlightCall, _ reply: Reply, isAcceptance: Bool, _ now: Int64)
  {
    let task = call.task
    let isDecided =
      switch reply {
      case .accepted, .refused, .read: true
      case .noEffect, .unknown: false
      }
    if !isDecided, retry(call, now) { return }
    if isAcceptance || task.leads {
      operations.goOn(after: task, reply, isAcceptance: isAcceptance, &ledger, schedule, now)
      while let next = operations.popNext() { sendLater(next, at: next.dueNanoseconds, now) }
    }
    guard task.leads else { return }
    let isAlone = task.method != .reserve || task.isAlone || reserves.method == nil
    if !schedule.isOpenLoop, isAlone, task.method.opens {
      pause(Int(call.connection), now)
    }
  }

  /// Closed loop: the stream that made the call thinks before it opens another operation.
  mutating func pause(_ index: Int, _ now: Int64) {
    guard options.workload.thinkTimeNanoseconds.upperBound > 0, !schedule.isDraining else { return }
    pool.pause(index, until: now + operations.draws.thinkTimeNanoseconds())
  }

  // MARK: Counting

  private mutating func count(
    _ reply: Reply, _ method: Method, _ answer: ClientResponse, _ index: Int
  ) {
    if answer.outcome == .answered { meter.countCode(answer.status.rawValue) }
    var outcome = Outcome(reply, method, answer)
    if outcome == .lost, pool.isClosedByUs(index) { outcome = .cut }
    meter.count(outcome)
    if outcome.group == .failed, !meter.hasFailure {
      noteFailure(outcome, method, answer, index)
    }
  }

  /// Keeps the first thing that went wrong, with the server's words.
  mutating func noteFailure(
    _ outcome: Outcome, _ method: Method, _ answer: ClientResponse, _ index: Int
  ) {
    let text = pool.statusText(of: answer, by: index)
    let http = answer.httpStatus >= 100 && answer.httpStatus != 200
    let code =
      grpcCodeNames[answer.status.rawValue]
      + (http ? ", HTTP \(answer.httpStatus)" : "")
    meter.noteFailure(
      "\(method.name): \(outcome.name), \(code)\(text.isEmpty ? "" : ": \(text)")")
  }
}
