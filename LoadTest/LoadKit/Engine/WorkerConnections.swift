// A worker's connections: dialled, lost, closed on purpose, dialled again.
internal import HTTP2
internal import LoadHistory
internal import Posix

/// What stands beside a connection and outlives it.
struct Lane {
  /// Repetitions that wait for this connection.
  var resends = Queue<WorkerLoop.SendTask>()
  /// Streams that pause between two operations.
  var paused = 0
  /// Dials in a row that came to nothing.
  var failedDials = 0
  /// How often it was dialled: makes the token.
  var dials: UInt64 = 0
  /// Connected, or about to be.
  var isUp = true
  /// Dialled again, and not yet said hello to.
  var isDialling = false
}

extension WorkerLoop {
  /// A connection that fails so often in a row is given up.
  static let failedDialsMaximum = 5
  /// The pause before the first of them; it doubles from one to the next.
  static let dialPauseNanoseconds: Int64 = 100_000_000
  /// A connection that has not said hello by then has failed.
  static let helloNanoseconds: Int64 = 2_000_000_000

  // MARK: Before the run

  /// Connects everything, and waits for the server's hello on each.
  mutating func connect() throws(LoadError) {
    for index in lanes.indices {
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

  // MARK: Receiving

  mutating func waitAndReceive(timeoutNanoseconds: Int64) throws(LoadError) {
    let count = try orFail("epoll") { () throws(Errno) in
      try poller.wait(timeoutNanoseconds: timeoutNanoseconds)
    }
    guard count > 0 else { return }
    for position in 0..<count {
      let event = poller.event(at: position)
      let index = Int(truncatingIfNeeded: event.token & 0xffff_ffff)
      // A late event of a socket that is gone.
      guard connections[index].token == event.token else { continue }
      if event.isWritable || event.isHungUp { connections[index].becameWritable(poller) }
      if event.isReadable || event.isHungUp, connections[index].receive(buffer) {
        let now = SystemClock.monotonicNanoseconds()
        takeAnswers(index, now)
        if isRunning, pacer == nil { pump(index, now) }
        if connections[index].http.isReady { noteHello(index) }
        retireIfClosing(index)
      }
      connections[index].flush(poller)
      acknowledgeLoss(index)
    }
  }

  private mutating func noteHello(_ index: Int) {
    lanes[index].failedDials = 0
    if lanes[index].isDialling { statistics.connectionsRedialled += 1 }
    lanes[index].isDialling = false
  }

  /// A server that has said goodbye (GOAWAY) and answered everything is dialled again.
  private mutating func retireIfClosing(_ index: Int) {
    if connections[index].http.isClosing, connections[index].http.openCalls == 0 {
      connections[index].lose("closed by the server (GOAWAY)")
    }
  }

  // MARK: Losing and dialling

  mutating func acknowledgeLoss(_ index: Int) {
    guard connections[index].shutdownPending else { return }
    let now = SystemClock.monotonicNanoseconds()
    connections[index].acknowledgeLoss(poller)
    lanes[index].isUp = false
    takeAnswers(index, now)
    // Its repetitions go by another connection.
    while let task = lanes[index].resends.popFirst() {
      waitingResends -= 1
      followUps.append(task)
    }
    if connections[index].isClosedByUs {
      delayed.add(.dial(index), at: now)
      return
    }
    if !lanes[index].isDialling { statistics.connectionsLost += 1 }
    let reason = connections[index].lostReason ?? ""
    statistics.firstConnectionLoss = statistics.firstConnectionLoss ?? reason
    dialLater(index, now)
  }

  private mutating func dialLater(_ index: Int, _ now: Int64) {
    let failed = lanes[index].failedDials
    lanes[index].failedDials += 1
    guard isRunning, failed < WorkerLoop.failedDialsMaximum else {
      alive -= 1
      return
    }
    delayed.add(.dial(index), at: now + WorkerLoop.dialPauseNanoseconds << Int64(failed))
  }

  mutating func dial(_ index: Int, _ now: Int64) {
    lanes[index].dials += 1
    let token = UInt64(index) | lanes[index].dials << 32
    do throws(LoadError) {
      connections[index] = try LoadConnection.connect(
        to: options.target, callsMaximum: options.streams, poller: poller, token: token)
    } catch {
      return dialLater(index, now)
    }
    lanes[index].isUp = true
    lanes[index].isDialling = true
    delayed.add(.giveUpDialling(token: token), at: now + WorkerLoop.helloNanoseconds)
  }

  mutating func giveUpDialling(_ token: UInt64) {
    let index = Int(truncatingIfNeeded: token & 0xffff_ffff)
    guard connections[index].token == token, !connections[index].http.isReady else { return }
    connections[index].lose("no hello from the server")
    acknowledgeLoss(index)
  }
}
