// What a worker sends next, and by which connection.
internal import HTTP2
internal import LoadHistory
internal import LoadReport
internal import Posix

extension WorkerLoop {
  /// A late duplicate goes out after so many further sends.
  private static let duplicateDelay = 256
  /// A call whose outcome stays unknown is sent again so often, the first few times at once, then
  /// with pauses that double up to the longest.
  private static let retriesMaximum = 20
  private static let retryPauseLongest: Int64 = 128_000_000
  /// A call that is cut off while it is under way is cut within this time.
  private static let cutWithinNanoseconds: UInt64 = 1_000_000

  // MARK: Streams that are free

  /// Closed loop: fills every free stream.
  mutating func pumpAll(_ now: Int64) {
    for index in 0..<connections.count { pumpAndFlush(index, now) }
  }

  mutating func pumpAndFlush(_ index: Int, _ now: Int64) {
    pump(index, now)
    connections[index].flush(poller)
    acknowledgeLoss(index)
  }

  mutating func pump(_ index: Int, _ now: Int64) {
    while connections[index].hasRoom(for: messageMaximum), !freeFlights.isEmpty,
      let task = nextTask(index, opens: opensOperations(now) && hasUnpausedStream(index), now)
    {
      send(task, by: index, since: now, now)
    }
  }

  private func hasUnpausedStream(_ index: Int) -> Bool {
    connections[index].http.openCalls + lanes[index].paused < options.streams
  }

  /// Closed loop: what waits while no answer comes goes by any free stream.
  mutating func sendWaiting(_ now: Int64) {
    guard !followUps.isEmpty || waitingResends > 0 else { return }
    while !followUps.isEmpty, let index = roomyConnection(), let task = followUps.popFirst() {
      send(task, by: index, since: now, now)
    }
    if waitingResends > 0 { for index in lanes.indices { pump(index, now) } }
    flushAll()
  }

  // MARK: The schedule

  var hasSentAllSeen: Bool { pacer?.count == seen?.count }

  /// Open loop: sends the ticks that are due, as far as streams are free.
  mutating func sendDue(_ now: Int64) {
    // Ticks that fell due while every stream was busy say nothing about the generator: it slept.
    let countsLag = hasSentAllSeen
    while let tick = seen?.scheduledNanoseconds, tick <= min(now, measureTo - 1) {
      if countsLag {
        interval.scheduleLag.record(now - tick)
        if phase == .measuring { statistics.scheduleLag.record(now - tick) }
      }
      seen?.advance()
    }
    while !hasSentAllSeen, let index = roomyConnection(),
      let tick = pacer?.scheduledNanoseconds, let task = nextTask(index, opens: true, now)
    {
      send(task, by: index, since: tick, now)
      pacer?.advance()
    }
    flushAll()
  }

  private mutating func flushAll() {
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
      if connections[nextConnection].hasRoom(for: messageMaximum) { return nextConnection }
    }
    return nil
  }

  // MARK: Operations

  private mutating func nextTask(_ index: Int, opens: Bool, _ now: Int64) -> SendTask? {
    if let task = lanes[index].resends.popFirst() {
      waitingResends -= 1
      return task
    }
    if let task = followUps.popFirst() { return task }
    if let first = later.first, first.attempts <= statistics.attempts || phase == .draining {
      return later.popFirst()?.task
    }
    guard opens else { return nil }
    if isProbing { return openReserve(lineCount: 1, now) }
    switch draws.opening() {
    case .reserve: return openReserve(lineCount: draws.lineCount(), now)
    case .read:
      return SendTask(operation: ledger.openRead(sku: draws.sku()), method: .getStock)
    case .restock:
      let operation = ledger.openRestock(sku: draws.sku(), units: draws.restockUnits())
      return SendTask(operation: operation, method: .adjustStock)
    }
  }

  private mutating func openReserve(lineCount: Int, _ now: Int64) -> SendTask {
    for _ in 0..<lineCount { ledger.addLine(draws.line()) }
    var timeToLive = draws.timeToLiveNanoseconds()
    if let stormNanoseconds, !isProbing {
      timeToLive = max(1_000_000_000, stormNanoseconds - now)
    }
    let operation = ledger.openReserve(
      lineCount: lineCount, timeToLiveNanoseconds: timeToLive)
    return SendTask(operation: operation, method: .reserve)
  }

  // MARK: Sending

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
      task: task, sinceNanoseconds: since, sentNanoseconds: now,
      connection: Int32(truncatingIfNeeded: index),
      stream: connections[index].http.latestStream)
    statistics.attempts += 1
    if watches, task.isFirst { watchSent(task) }
    ledger.sent(task.operation, task.method, at: now)
    if isProbing { return }
    if task.isFirst { for _ in 1..<draws.copies() { duplicate(task) } }
    if draws.isCut() { cutSoon(flight, now) }
    if draws.closesConnection() { connections[index].closeWhenWritten() }
  }

  /// The same bytes again: at once by some connection, while the first is in flight, or later.
  private mutating func duplicate(_ task: SendTask) {
    var copy = task
    copy.leads = false
    if draws.random.chance(0.5) {
      repeatSoon(copy, by: Int(draws.random.below(UInt64(lanes.count))))
    } else {
      later.append((statistics.attempts + WorkerLoop.duplicateDelay, copy))
    }
  }

  /// Has `task` sent before anything new, by connection `index` if that is up.
  mutating func repeatSoon(_ task: SendTask, by index: Int) {
    if lanes.indices.contains(index), lanes[index].isUp {
      lanes[index].resends.append(task)
      waitingResends += 1
    } else {
      followUps.append(task)
    }
  }

  func after(_ pause: Int64, _ now: Int64) -> Int64 { phase == .draining ? now : now + pause }

  mutating func sendLater(_ task: SendTask, by index: Int = -1, at time: Int64, _ now: Int64) {
    if time <= now { return repeatSoon(task, by: index) }
    delayed.add(.send(task, by: index), at: time)
    delayedSends += 1
  }

  // MARK: Cutting off

  /// Cuts the call off in the same write as its request, or while the server may be at it.
  private mutating func cutSoon(_ flight: Int, _ now: Int64) {
    let stream = flights[flight].stream
    let token = connections[Int(flights[flight].connection)].token
    if draws.random.chance(0.5) { return cutOff(flight, stream, now) }
    let delay = draws.random.below(WorkerLoop.cutWithinNanoseconds)
    delayed.add(.cut(flight: flight, stream: stream, token: token), at: now + Int64(delay))
  }

  /// Resets the stream of a call that is still in flight.
  mutating func cutOff(_ number: Int, _ stream: UInt32, _ now: Int64) {
    let flight = flights[number]
    let index = Int(flight.connection)
    guard flight.stream == stream, connections[index].http.cancel(stream: stream) else { return }
    land(number)
    interval.outcomes[Outcome.cut.rawValue] += 1
    tally.refused += 1
    ledger.answered(
      flight.task.operation, flight.task.method, .unknown, sentAt: flight.sentNanoseconds, at: now)
    goOn(flight, .unknown, isAcceptance: false, now)
  }

  /// Sends a call of unknown outcome again, by another connection. False where it is not to be, or
  /// was often enough.
  mutating func retry(_ flight: Flight, _ now: Int64) -> Bool {
    let task = flight.task
    guard options.workload.retriesUnknown, task.leads,
      Int(task.retries) < WorkerLoop.retriesMaximum,
      ledger.needsAnswer(task.operation, task.method)
    else { return false }
    var again = task
    again.retries += 1
    let others = UInt64(max(1, lanes.count - 1))
    let index = (Int(flight.connection) + 1 + Int(draws.random.below(others))) % lanes.count
    let pause = task.retries < 3 ? 0 : Int64(1_000_000) << Int64(min(task.retries - 3, 10))
    sendLater(
      again, by: index, at: now + min(pause, WorkerLoop.retryPauseLongest), now)
    return true
  }
}
