// A worker's connections: dialled, polled, lost, closed on purpose, dialled again.
internal import GRPC
internal import LoadHistory
internal import Posix

struct ConnectionPool: ~Copyable {
  /// What stands beside a connection and outlives it.
  private struct Slot {
    /// Streams that pause between two operations.
    var paused = 0
    /// Dials in a row that came to nothing.
    var failedDials = 0
    /// How often it was dialled: makes the token.
    var dials: UInt64 = 0
    /// The server that it goes to.
    var target: Endpoint
    /// The server has said that it does not decide: the calls in flight are still answered, and then the
    /// connection goes to this one.
    var nextTarget: Endpoint?
    /// Dialled again, and not yet said hello to.
    var isDialling = false
    /// Connected, or about to be.
    var isUp = true
    /// Its ReserveStream, 0 while it has none, and that call's messages that are not answered.
    var reserveStream: UInt32 = 0
    var unanswered = 0
    /// Orders in flight through a queue on this connection's account.
    var orders = 0
  }

  private enum Timer: BitwiseCopyable {
    /// A stream of the connection has paused for long enough.
    case endPause(Int)
    case dial(Int)
    /// The connection with this token should have said hello by now.
    case giveUpDialling(token: UInt64)
  }

  /// What a timer did to a connection.
  enum Change {
    case pauseEnded(Int)
    case dialled(Int)
    /// Its loss is to be taken.
    case gaveUp(Int)
  }

  /// Why a connection is no more.
  struct Loss {
    let reason: String
    /// We closed it.
    let isOurs: Bool
    /// It goes to another server, for this one does not decide.
    let isMove: Bool
    /// It had been connected; otherwise it is one more dial that failed.
    let wasUp: Bool
  }

  /// What the poller calls the connection to a broker.
  private static let ordersToken = UInt64.max
  /// What a call that goes through a queue has in the place of a stream: no stream of HTTP/2 has it.
  static let orderStream = UInt32.max

  /// What answers name a ReserveStream by.
  static let reserveStreamID = UInt64.max

  /// Of how many servers one decides.
  private let targetCount: Int
  /// Calls and messages in flight on each connection, at most.
  private let streams: Int
  /// Streams of HTTP/2: one more for a ReserveStream, which is in flight with or without messages.
  private let callsMaximum: Int
  /// No message of a request has more bytes.
  private let messageMaximum: Int
  private let poller: Poller
  private let buffer = ReceiveBuffer()
  private var connections: Table<LoadConnection>
  private var slots: [Slot]
  private var timers = DelayedTasks<Timer>()
  /// Connections that were not given up.
  private var alive = 0
  /// The one that the last call of an open loop went by.
  private var latest = 0

  /// A connection that fails so often in a row is given up.
  private static let failedDialsMaximum = 5
  /// The pause before the first of them; it doubles from one to the next.
  private static let dialPauseNanoseconds: Int64 = 100_000_000
  /// A connection that has not said hello by then has failed.
  private static let helloNanoseconds: Int64 = 2_000_000_000

  init(_ options: RunOptions, count: Int, messageMaximum: Int) throws(LoadError) {
    targetCount = options.target.all.count
    streams = options.streams
    callsMaximum = options.streams + (options.workload.api == .stream ? 1 : 0)
    self.messageMaximum = messageMaximum
    do { poller = try Poller() } catch { throw LoadError("epoll: \(error)") }
    connections = Table(capacity: count)
    slots = Array(repeating: Slot(target: options.target), count: count)
  }

  var indices: Range<Int> { 0..<slots.count }
  var isAlive: Bool { alive > 0 }
  /// When a timer is due.
  var nextNanoseconds: Int64 { timers.nextNanoseconds }

  // MARK: Dialling

  /// Dials every connection for the first time.
  mutating func dialAll() throws(LoadError) {
    for index in indices {
      connections.append(
        try LoadConnection.connect(
          to: slots[index].target, callsMaximum: callsMaximum, poller: poller,
          token: UInt64(index)))
    }
    alive = connections.count
  }

  /// Every server has said hello.
  var isReady: Bool {
    for index in indices where !connections[index].calls.isReady { return false }
    return true
  }

  /// Has a connection that is lost dialled again: at once, or after a pause that grows with its failures.
  ///
  /// - Parameter mayDial: otherwise it is given up, as after too many failures.
  mutating func redial(_ index: Int, _ now: Int64, atOnce: Bool, mayDial: Bool) {
    let next = slots[index].nextTarget
    slots[index].nextTarget = nil
    if let next { slots[index].target = next }
    if atOnce { return timers.add(.dial(index), at: now) }
    let failed = slots[index].failedDials
    slots[index].failedDials += 1
    guard mayDial, failed < ConnectionPool.failedDialsMaximum * targetCount else {
      alive -= 1
      return
    }
    if next == nil { slots[index].target = slots[index].target.next() }
    // Each server is tried before the pause grows.
    let round = Int64(failed / targetCount)
    timers.add(.dial(index), at: now + ConnectionPool.dialPauseNanoseconds << round)
  }

  /// What the next timer that is due has done; nil where none is due.
  mutating func runTimer(_ now: Int64) -> Change? {
    while let timer = timers.popDue(at: now) {
      switch timer {
      case .endPause(let index):
        slots[index].paused -= 1
        return .pauseEnded(index)
      case .dial(let index): if dial(index, now) { return .dialled(index) }
      case .giveUpDialling(let token):
        let index = Int(truncatingIfNeeded: token & 0xffff_ffff)
        guard connections[index].token == token, !connections[index].calls.isReady else { continue }
        connections[index].lose("no hello from the server")
        return .gaveUp(index)
      }
    }
    return nil
  }

  private mutating func dial(_ index: Int, _ now: Int64) -> Bool {
    slots[index].dials += 1
    let token = UInt64(index) | slots[index].dials << 32
    do throws(LoadError) {
      connections[index] = try LoadConnection.connect(
        to: slots[index].target, callsMaximum: callsMaximum, poller: poller, token: token)
    } catch {
      redial(index, now, atOnce: false, mayDial: true)
      return false
    }
    slots[index].isUp = true
    slots[index].reserveStream = 0
    slots[index].unanswered = 0
    slots[index].isDialling = true
    timers.add(.giveUpDialling(token: token), at: now + ConnectionPool.helloNanoseconds)
    return true
  }

  /// The connection has received: true for its first bytes after it was dialled again.
  mutating func noteHello(_ index: Int) -> Bool {
    guard connections[index].calls.isReady else { return false }
    slots[index].failedDials = 0
    let isNew = slots[index].isDialling
    slots[index].isDialling = false
    return isNew
  }

  /// The loss of a connection, once; its calls are among its answers then.
  mutating func takeLoss(_ index: Int) -> Loss? {
    guard connections[index].shutdownPending else { return nil }
    connections[index].acknowledgeLoss(poller)
    slots[index].isUp = false
    return Loss(
      reason: connections[index].lostReason ?? "", isOurs: connections[index].isClosedByUs,
      isMove: slots[index].nextTarget != nil,
      wasUp: !slots[index].isDialling)
  }

  // MARK: Receiving

  /// Waits for events. How many there are.
  mutating func wait(timeoutNanoseconds: Int64) throws(LoadError) -> Int {
    try orFail("epoll") { () throws(Errno) in
      try poller.wait(timeoutNanoseconds: timeoutNanoseconds)
    }
  }

  /// Reads what an event announces. The connection, and whether something came; nil where it is a late
  /// event of a socket that is gone.
  mutating func receive(event position: Int) -> (index: Int, hasReceived: Bool)? {
    let event = poller.event(at: position)
    if event.token == ConnectionPool.ordersToken { return nil }
    let index = Int(truncatingIfNeeded: event.token & 0xffff_ffff)
    guard connections[index].token == event.token else { return nil }
    if event.isWritable || event.isHungUp { connections[index].becameWritable(poller) }
    let isReadable = event.isReadable || event.isHungUp
    return (index, isReadable && connections[index].receive(buffer))
  }

  /// A server that has said goodbye (GOAWAY) and answered everything is dialled again.
  mutating func retireIfClosing(_ index: Int) {
    // A ReserveStream has no end of its own: without messages in flight it holds nothing up.
    let idle = slots[index].reserveStream != 0 && slots[index].unanswered == 0 ? 1 : 0
    if slots[index].nextTarget != nil, connections[index].calls.openCalls == idle {
      connections[index].lose("the server is not the owner")
    }
    if connections[index].calls.isClosing, connections[index].calls.openCalls == idle {
      connections[index].lose("closed by the server (GOAWAY)")
    }
  }

  /// Looks whether an answer says that another server decides: nothing new is sent to this one then.
  mutating func noteOwner(_ answer: ClientResponse, by index: Int) {
    guard targetCount > 1, slots[index].nextTarget == nil, answer.outcome == .answered,
      answer.status == .unavailable,
      let owner = connections[index].calls.withStatusDetails(
        of: answer, { Refusal.owner(details: $0) })
    else { return }
    slots[index].nextTarget = slots[index].target.next(owner: owner)
  }

  func answerCount(_ index: Int) -> Int { connections[index].calls.responses.count }

  func answer(_ index: Int, at position: Int) -> ClientResponse {
    connections[index].calls.responses[position]
  }

  /// Messages that came on the connection's ReserveStream.
  func messageCount(_ index: Int) -> Int { connections[index].calls.messages.count }

  /// Reads the results of a message of a ReserveStream, the one at `position`. False if it is malformed.
  mutating func readMessage(
    _ index: Int, at position: Int, _ names: SKUNames, into results: inout [ReserveResult]
  ) -> Bool {
    slots[index].unanswered -= 1
    return connections[index].calls.withMessage(connections[index].calls.messages[position]) {
      readReserveResults($0, names, into: &results)
    }
  }

  /// Reads the results of a BatchReserve. False if its response is malformed.
  func readResults(
    of answer: ClientResponse, by index: Int, _ names: SKUNames, into results: inout [ReserveResult]
  ) -> Bool {
    connections[index].calls.withMessage(of: answer) {
      readReserveResults($0, names, into: &results)
    }
  }

  /// The connection's ReserveStream is over; the next message begins another.
  mutating func reserveStreamEnded(_ index: Int) {
    slots[index].reserveStream = 0
    slots[index].unanswered = 0
  }

  /// Ends the requests of every ReserveStream.
  mutating func endReserveStreams() {
    for index in indices where slots[index].reserveStream != 0 {
      _ = connections[index].calls.halfClose(stream: slots[index].reserveStream)
      connections[index].flush(poller)
    }
  }

  mutating func forgetAnswers(_ index: Int) { connections[index].calls.forgetResponses() }

  /// What an answer of the connection means.
  func reply(_ answer: ClientResponse, to method: Method, by index: Int, _ names: SKUNames) -> Reply
  {
    Reply(answer, to: method, connections[index].calls, names)
  }

  /// The server's words.
  func statusText(of answer: ClientResponse, by index: Int) -> String {
    connections[index].calls.statusText(of: answer)
  }

  func isClosedByUs(_ index: Int) -> Bool { connections[index].isClosedByUs }

  // MARK: Sending

  func hasRoom(_ index: Int) -> Bool {
    slots[index].nextTarget == nil && inFlight(index) < streams
      && connections[index].hasRoom(for: messageMaximum)
  }

  /// Calls in flight, and messages of a ReserveStream in the place of that call.
  private func inFlight(_ index: Int) -> Int {
    let stream = slots[index].reserveStream == 0 ? 0 : 1
    return connections[index].calls.openCalls - stream + slots[index].unanswered
      + slots[index].orders
  }

  // MARK: Orders

  /// Has `wait` end whenever a broker's connection has something to do. Closing that ends it.
  mutating func watchOrders(_ descriptor: Int32?) throws(LoadError) {
    guard let descriptor else { return }
    try orFail("epoll") { () throws(Errno) in
      try poller.add(descriptor, token: ConnectionPool.ordersToken)
    }
  }

  /// An order takes one of the connection's streams until it ends.
  mutating func beginOrder(_ index: Int) { slots[index].orders += 1 }
  mutating func endOrder(_ index: Int) { slots[index].orders -= 1 }

  /// The next connection in turn that has room.
  mutating func nextWithRoom() -> Int? {
    for _ in slots.indices {
      latest = latest + 1 < slots.count ? latest + 1 : 0
      if hasRoom(latest) { return latest }
    }
    return nil
  }

  /// Closed loop: whether a stream may open an operation.
  func hasUnpausedStream(_ index: Int) -> Bool {
    inFlight(index) + slots[index].paused < streams
  }

  /// Whether some connection that is up has a stream that does not pause.
  var hasUnpausedStream: Bool { slots.contains { $0.isUp && $0.paused < streams } }

  mutating func pause(_ index: Int, until time: Int64) {
    slots[index].paused += 1
    timers.add(.endPause(index), at: time)
  }

  /// Starts a call. Its stream; nil where it did not fit, which `hasRoom` has ruled out.
  mutating func start(
    _ method: Method, by index: Int, callID: Int, _ message: borrowing MessageBuffer
  ) -> UInt32? {
    if method == .reserveStream { return startMessage(index, message) }
    let result = connections[index].start(method, callID: UInt64(callID), message)
    guard case .started(let stream) = result else { return nil }
    return stream
  }

  /// Sends a message by the connection's ReserveStream, which begins with its first.
  private mutating func startMessage(
    _ index: Int, _ message: borrowing MessageBuffer
  ) -> UInt32? {
    let stream = slots[index].reserveStream
    if stream == 0 {
      let result = connections[index].start(
        .reserveStream, callID: ConnectionPool.reserveStreamID, message)
      guard case .started(let new) = result else { return nil }
      slots[index].reserveStream = new
    } else if !connections[index].send(message, to: stream) {
      return nil
    }
    slots[index].unanswered += 1
    return slots[index].reserveStream
  }

  func hasOutput(_ index: Int) -> Bool { connections[index].calls.outputCount > 0 }

  /// Sends what the kernel takes. The connection may be lost by it.
  mutating func flush(_ index: Int) { connections[index].flush(poller) }

  mutating func closeWhenWritten(_ index: Int) { connections[index].closeWhenWritten() }

  /// Tells the connection from the one that takes its place.
  func token(_ index: Int) -> UInt64 { connections[index].token }

  /// Resets the stream. False where no call is in flight on it.
  mutating func cancel(_ index: Int, stream: UInt32) -> Bool {
    connections[index].calls.cancel(stream: stream)
  }
}
