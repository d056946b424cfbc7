// One event loop: a thread with its own epoll set, connections and buffers. An iteration is one straight
// line: receive all, execute all, sync once, send all (docs/ARCHITECTURE.md).
internal import GRPC
internal import HTTP2
internal import Metrics
internal import Posix

/// Confined to its thread after `run` began, but for the mailbox.
final class EventLoop {
  private static let mailboxToken = UInt64.max - 1
  /// How often timeouts are looked at. Clients time their calls themselves; this frees what they left.
  private static let tickNanoseconds: Int64 = 100_000_000
  /// How often a loop without connections looks at what fell due: for the metrics and the memory alone,
  /// since every call sees due holds as ended.
  private static let idleMilliseconds: Int32 = 1000

  private let limits: ServerLimits
  private let handler: any CallHandler
  private let context: ServerContext
  private let metrics: RPCRecorder
  private let connections: ConnectionTable
  private let calls: Calls
  private var authenticationGeneration: UInt64 = 0
  /// Monotonic nanoseconds: when this iteration's bytes were there, and then when its calls were executed.
  private var nowNanoseconds: Int64 = 0

  private let io: ConnectionIO
  /// This loop's, and those of all loops.
  private let mailbox: Mailbox
  private let mailboxes: [Mailbox]
  /// nil once the way down has begun, and where another loop accepts for this one.
  private var listener: Listener?
  private let timeouts: ConnectionTimeouts
  private var nextTickNanoseconds: Int64 = 0
  private var shutdown = ShutdownProgress()
  private var trimming = MemoryTrimming()

  init(
    limits: ServerLimits, listener: Int32?, mailbox: Mailbox,
    mailboxes: [Mailbox], peers: PeerTable, tls: TLSServerContext?, notices: ConnectionNotices,
    handler: any CallHandler, metrics: RPCRecorder, slowCalls: SlowCalls? = nil
  ) throws(Errno) {
    self.limits = limits
    self.handler = handler
    self.metrics = metrics
    self.mailbox = mailbox
    context = ServerContext(
      limits: limits.http2,
      captured: RequestField.allCases.map(\.name) + type(of: handler).metadata,
      changing: RequestField.timeout.rawValue, header: ContentType.field,
      trailer: ConstantField("grpc-status", "0"))
    connections = ConnectionTable(
      capacity: limits.connectionsMax + limits.evictedConnectionsMax)
    calls = Calls(
      handler: handler, context: context, metrics: metrics, limits: limits.calls,
      connectionsMax: connections.capacity, slowCalls: slowCalls)
    timeouts = ConnectionTimeouts(limits)
    io = try ConnectionIO(
      limits: limits, connections: connections, context: context, metrics: metrics,
      mailbox: mailbox, peers: peers, tls: tls, notices: notices)
    try io.poller.add(mailbox.descriptor, token: Self.mailboxToken)
    self.mailboxes = mailboxes
    calls.certificate = { [connections] index in
      guard let name = unsafe connections[index].certificate else { return nil }
      return unsafe name.pointee
    }
    guard let listener else { return }
    self.listener = try Listener(
      FileDescriptor(owning: listener), connectionsMax: limits.connectionsMax, mailbox: mailbox,
      mailboxes: mailboxes, peers: peers, poller: io.poller)
  }

  deinit { connections.destroy() }

  /// Runs until the shutdown is complete. Throws where epoll itself fails.
  func run() throws(Errno) {
    while !shutdown.isComplete { try turn() }
  }

  private func turn() throws(Errno) {
    // 1. Everything that can be read is read.
    let ready = try io.poller.wait(timeoutMilliseconds: waitMilliseconds)
    nowNanoseconds = SystemClock.monotonicNanoseconds()
    mailbox.noteRound(at: nowNanoseconds)
    calls.nowNanoseconds = nowNanoseconds
    context.setNow(nanoseconds: nowNanoseconds)
    metrics.turnBegan(nowNanoseconds: nowNanoseconds)
    // Before any header block is read: what was decided about callers may hold no longer.
    if authenticationGeneration != handler.authenticationGeneration { forgetCallers() }
    for index in 0..<ready { receive(io.poller.event(at: index)) }
    io.resumeStreamingCalls()

    // 2. Every call that is whole is executed; the handler asks for durability of all of them at once.
    if context.eventCount > 0 || handler.hasBacklog || calls.hasUnfinished {
      handler.beginTurn()
      let count = calls.handleEvents() + calls.runBatches()
      handler.endTurn()
      let began = nowNanoseconds
      nowNanoseconds = SystemClock.monotonicNanoseconds()
      calls.nowNanoseconds = nowNanoseconds
      metrics.turn(calls: count, nanoseconds: nowNanoseconds - began)
    }

    // 3. Every response that may be seen is sent, with one write per connection.
    calls.deliver()
    calls.releaseDurable()
    flushTouched()
    if nowNanoseconds >= nextTickNanoseconds { tick() }
  }

  private var waitMilliseconds: Int32 {
    if connections.hasTouched || io.hasResumable || calls.hasResumed || calls.hasUnfinished {
      return 0
    }
    if handler.hasBacklog { return 1 }
    if connections.count == 0 && !shutdown.hasBegun && !(listener?.isPaused ?? false) {
      return Self.idleMilliseconds
    }
    let left = nextTickNanoseconds - nowNanoseconds
    return Int32(clamping: max(0, left) / 1_000_000 + 1)
  }

  private func receive(_ event: Poller.Event) {
    switch event.token {
    case Listener.token: accept()
    case Self.mailboxToken: readMailbox()
    default: io.receive(event, at: nowNanoseconds)
    }
  }

  private func accept() {
    listener?.accept(io.poller) { arrival, placement in
      switch placement {
      case .here: io.open(arrival, at: nowNanoseconds)
      case .full: makeRoom(for: arrival)
      case .refused:
        metrics.connectionRefused(.perPeerLimit)
        FileDescriptor.close(number: arrival.descriptor)
      case .elsewhere: break
      }
    }
  }

  /// The server is full: one that is idle gives way, be it another loop's.
  private func makeRoom(for arrival: Mailbox.Arrival) {
    if io.evictIdle(at: nowNanoseconds) { return io.open(arrival, at: nowNanoseconds) }
    var arrival = arrival
    arrival.rejections += 1
    guard arrival.rejections < mailboxes.count,
      let here = mailboxes.firstIndex(where: { $0 === mailbox })
    else { return io.refuse(arrival, .limit) }
    let next = mailboxes[(here + 1) % mailboxes.count]
    next.addConnections(1)
    mailbox.addConnections(-1)
    next.post(arrival)
  }

  private func readMailbox() {
    let contents = mailbox.take()
    for arrival in contents.connections {
      if shutdown.hasBegun {
        io.refuse(arrival, .shutdown)
      } else if arrival.rejections > 0 {
        makeRoom(for: arrival)
      } else {
        io.open(arrival, at: nowNanoseconds)
      }
    }
    if contents.drains && !shutdown.hasBegun { beginShutdown() }
  }

  private func flushTouched() {
    context.takeTouched { connections.touch(Int($0)) }
    io.flushTouched(at: nowNanoseconds)
    // Streams that ended with what was just written, and those that can take more.
    if context.eventCount > 0 { _ = calls.handleEvents() }
  }

  private func forgetCallers() {
    authenticationGeneration = handler.authenticationGeneration
    // Its time tells what has expired.
    handler.beginTurn()
    for index in 0..<connections.usedCount {
      guard let http = connections[index].http else { continue }
      http.forgetHeaderBlocks()
      calls.renewPrincipals(http)
    }
    handler.endTurn()
  }

  // MARK: Housekeeping

  private func tick() {
    nextTickNanoseconds = nowNanoseconds + Self.tickNanoseconds
    listener?.resume(io.poller)
    for index in 0..<connections.usedCount where connections[index].descriptor >= 0 {
      checkTimeouts(index)
    }
    if shutdown.hasBegun { continueShutdown() }
    flushTouched()
    // An empty iteration: the handler's housekeeping goes on while nobody calls.
    handler.beginTurn()
    handler.endTurn()
    if trimming.isDue(bufferedBytes: context.bufferedBytes + io.unsentBytes) { Memory.trim() }
  }

  private func checkTimeouts(_ index: Int) {
    let verdict = timeouts.verdict(connections[index], at: nowNanoseconds)
    switch verdict {
    case .over: return io.close(index)
    case .abuse(let kind):
      metrics.abuse(kind)
      return io.close(index)
    case .fault(let fault):
      metrics.abuse(fault.abuse)
      connections[index].http?.fail(fault)
      connections[index].isEnding = true
      return connections.touch(index)
    case .ping:
      connections[index].pingedNanoseconds = nowNanoseconds
      connections[index].http?.ping()
      connections.touch(index)
    case .drain, .refuseNewStreams, .cutOff: drain(index, verdict)
    case .inTime: io.releaseIfIdle(index, at: nowNanoseconds)
    }
    guard let http = connections[index].http else { return }
    if http.drainingCount > 0 { http.endDraining(nowNanoseconds: nowNanoseconds) }
    guard http.streamCount > 0 else { return }
    calls.expire(http)
    let stalled = nowNanoseconds - limits.stalledWriteNanosecondsMax
    if http.queuedBytes > 0, http.resetStalledStreams(before: stalled) > 0 {
      connections.touch(index)
    }
  }

  /// Ends one connection as a shutdown ends all of them: GOAWAY in two steps (RFC 9113 section 6.8), and
  /// calls have their time.
  private func drain(_ index: Int, _ step: ConnectionTimeouts.Verdict) {
    guard let http = connections[index].http else { return }
    switch step {
    case .drain:
      connections[index].drainsSinceNanoseconds = nowNanoseconds
      http.announceShutdown()
    case .refuseNewStreams:
      connections[index].refusesStreams = true
      http.refuseNewStreams()
    default:
      calls.rejectAll(http)
      connections[index].isEnding = true
    }
    connections.touch(index)
  }

  // MARK: Shutdown

  private func beginShutdown() {
    shutdown.begin(nowNanoseconds: nowNanoseconds)
    listener?.leave(io.poller)
    listener = nil
    handler.drain()
    for index in 0..<connections.usedCount where connections[index].descriptor >= 0 {
      connections[index].http?.announceShutdown()
      connections.touch(index)
    }
    nextTickNanoseconds = nowNanoseconds + Self.tickNanoseconds
  }

  private func continueShutdown() {
    let step = shutdown.step(
      nowNanoseconds: nowNanoseconds, limitNanoseconds: limits.shutdownNanosecondsMax,
      connectionCount: connections.count)
    for index in 0..<connections.usedCount where connections[index].descriptor >= 0 {
      guard let http = connections[index].http else {
        if connections[index].lingersSinceNanoseconds == nil || step == .cutOff {
          io.close(index)
        }
        continue
      }
      // Also those whose first message came after the refusal.
      if shutdown.hasRefused { calls.endStreaming(http) }
      switch step {
      case .wait: if !shutdown.hasRefused { continue }
      case .refuseNewStreams: http.refuseNewStreams()
      case .cutOff:
        calls.rejectAll(http)
        connections[index].isEnding = true
      }
      connections.touch(index)
    }
  }
}
