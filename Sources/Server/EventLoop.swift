// One event loop: a thread with its own epoll set, connections and buffers. A turn is one straight
// line: receive all, execute all, sync once, send all (DESIGN section 4).
internal import GRPC
internal import HTTP2
internal import Metrics
internal import Posix

/// Confined to its thread after `run` began, but for the mailbox.
final class EventLoop {
  static let listenerToken = UInt64.max
  static let mailboxToken = UInt64.max - 1
  private static let readBufferBytes = 256 * 1024
  private static let acceptsPerTurnMax = 64
  /// How long a peer has to end its side after we ended ours.
  private static let lingerNanoseconds: Int64 = 1_000_000_000
  /// How often timeouts are looked at. Clients time their calls themselves; this frees what they left.
  private static let tickNanoseconds: Int64 = 100_000_000

  let limits: ServerLimits
  let handler: any CallHandler
  let methods: MethodSets
  let context: SessionContext
  let metrics: RPCRecorder
  let reply = Reply()
  let fields = HeaderFields()
  private let poller: Poller
  private let mailbox: Mailbox
  private let peers: [Mailbox]
  private var listener: FileDescriptor?
  private var isListenerPaused = false
  private let readBuffer = ReadBuffer(capacity: EventLoop.readBufferBytes)
  // The loop's own state: one thread, and no access that overlaps another. Checking that costs 3 % of a
  // call.
  @exclusivity(unchecked) var connections: ConnectionTable
  @exclusivity(unchecked) private var touched: [Int] = []
  @exclusivity(unchecked) var waiting: WaitingReplies
  @exclusivity(unchecked) var statusText = HeaderText(capacity: 4096)
  @exclusivity(unchecked) var detailsText = HeaderText(capacity: 8192)
  /// Monotonic nanoseconds: when this turn's bytes were there, and then when its calls were executed.
  @exclusivity(unchecked) var nowNanoseconds: Int64 = 0
  private var nextTickNanoseconds: Int64 = 0
  private var shutdown = ShutdownProgress()

  init(
    limits: ServerLimits, listener: consuming FileDescriptor, mailbox: Mailbox, peers: [Mailbox],
    handler: any CallHandler, metrics: RPCRecorder
  ) throws(Errno) {
    self.limits = limits
    self.handler = handler
    methods = MethodSets(type(of: handler).methods)
    self.metrics = metrics
    self.mailbox = mailbox
    self.peers = peers
    poller = try Poller()
    try poller.add(listener.number, token: Self.listenerToken)
    try poller.add(mailbox.descriptor, token: Self.mailboxToken)
    self.listener = consume listener
    context = SessionContext(
      limits: limits.http2,
      fieldNames: [RequestField.method, .path, .contentType, .encoding, .caller].map(\.name),
      timeoutName: RequestField.timeout.name)
    unsafe connections = ConnectionTable(capacity: limits.connectionsMax)
    unsafe waiting = WaitingReplies(bytesMax: limits.waitingReplyBytesMax)
  }

  /// Runs until the shutdown is complete. Throws where epoll itself fails.
  func run() throws(Errno) {
    while !shutdown.isComplete { try turn() }
  }

  private func turn() throws(Errno) {
    // 1. Everything that can be read is read.
    let ready = try poller.wait(timeoutMilliseconds: waitMilliseconds)
    unsafe nowNanoseconds = SystemClock.monotonicNanoseconds()
    unsafe context.setNow(nanoseconds: nowNanoseconds)
    unsafe metrics.turnBegan(nowNanoseconds: nowNanoseconds)
    for index in 0..<ready { receive(poller.event(at: index)) }

    // 2. Every call that is whole is executed; the handler asks for durability of all of them at once.
    if context.eventCount > 0 {
      handler.beginTurn()
      let calls = dispatchEvents()
      handler.endTurn()
      metrics.turn(calls: calls)
      unsafe nowNanoseconds = SystemClock.monotonicNanoseconds()
    }

    // 3. Every reply that may be shown is sent, with one write per connection.
    handler.deliver(to: self)
    sendDurableReplies()
    flushTouched()
    if unsafe nowNanoseconds >= nextTickNanoseconds { tick() }
  }

  private var waitMilliseconds: Int32 {
    // An idle loop without connections sleeps until something comes.
    if unsafe connections.count == 0 && !shutdown.hasBegun && !isListenerPaused { return -1 }
    let left = unsafe nextTickNanoseconds - nowNanoseconds
    return Int32(clamping: max(0, left) / 1_000_000 + 1)
  }

  // MARK: Receiving

  private func receive(_ event: Poller.Event) {
    switch event.token {
    case Self.listenerToken: accept()
    case Self.mailboxToken: readMailbox()
    default:
      guard let index = unsafe connections.index(ofToken: event.token) else { return }
      if event.isWritable { touch(index) }
      if event.isReadable || event.isHungUp { read(index) }
    }
  }

  private func read(_ index: Int) {
    if unsafe connections[index].isReadingPaused { return }
    let result = unsafe readBuffer.read(connections[index].descriptor) { bytes in
      unsafe received(bytes, on: index)
    }
    switch result {
    case .moved(0), .failed: close(index)
    case .moved(let count): metrics.received(bytes: count)
    case .wouldBlock: break
    }
  }

  private func received(_ bytes: UnsafeRawBufferPointer, on index: Int) {
    // What comes after our goodbye is read, so that it is not answered by a reset, and dropped.
    if unsafe connections[index].isEnding { return }
    touch(index)
    guard let session = unsafe connections[index].session ?? (unsafe begin(index, bytes)) else {
      return
    }
    if let fault = unsafe session.receive(bytes) {
      metrics.abuse(fault.abuse)
      unsafe connections[index].isEnding = true
    }
  }

  /// The first bytes of a connection: is this HTTP/2 at all?
  private func begin(_ index: Int, _ bytes: UnsafeRawBufferPointer) -> Session? {
    let preface = unsafe Preface.examine(bytes)
    if preface == .http2, let session = context.open(token: UInt64(index)) {
      unsafe connections[index].session = session
      return session
    }
    metrics.abuse(.protocolError)
    unsafe connections[index].isEnding = true
    if preface == .http1 {
      let text = Preface.http1Answer
      unsafe connections[index].unsent.keep(
        UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }
    return nil
  }

  private func accept() {
    guard let number = listener?.number else { return }
    for _ in 0..<Self.acceptsPerTurnMax {
      switch Socket.accept(number) {
      case .connection(let descriptor): place(descriptor)
      case .vanished: continue
      case .wouldBlock: return
      case .exhausted, .failed:
        // Out of descriptors: the queue stays readable, so look away until the next tick.
        isListenerPaused = true
        try? poller.modify(number, token: Self.listenerToken, readable: false, writable: false)
        return
      }
    }
  }

  /// Gives a new connection to the loop that has the fewest: the kernel's spread over SO_REUSEPORT
  /// sockets is by hash, and eight connections often fall six to two.
  private func place(_ descriptor: Int32) {
    var best = mailbox
    var fewest = mailbox.connectionCount
    var total = fewest
    for peer in peers where peer !== mailbox {
      let count = peer.connectionCount
      total += count
      if count < fewest {
        fewest = count
        best = peer
      }
    }
    if total >= limits.connectionsMax {
      metrics.connectionRefused()
      FileDescriptor.close(number: descriptor)
      return
    }
    best.addConnections(1)
    if best === mailbox { adopt(descriptor) } else { best.post(connection: descriptor) }
  }

  private func adopt(_ descriptor: Int32) {
    guard !shutdown.hasBegun,
      let index = unsafe connections.add(descriptor: descriptor, nowNanoseconds: nowNanoseconds)
    else {
      mailbox.addConnections(-1)
      metrics.connectionRefused()
      FileDescriptor.close(number: descriptor)
      return
    }
    metrics.connectionOpened()
    // Failure costs only that a peer that vanished is found later.
    try? Socket.detectDeadPeers(descriptor, idleSeconds: limits.keepaliveSeconds)
    do {
      unsafe try poller.add(descriptor, token: connections.token(index))
    } catch {
      close(index)
    }
  }

  private func readMailbox() {
    let contents = mailbox.take()
    for descriptor in contents.connections { adopt(descriptor) }
    if contents.drains && !shutdown.hasBegun { beginShutdown() }
  }

  // MARK: Sending

  /// Lists a connection among those to flush at the end of the turn.
  func touch(_ index: Int) {
    if unsafe connections[index].isTouched { return }
    unsafe connections[index].isTouched = true
    unsafe touched.append(index)
  }

  private func flushTouched() {
    // By position: iterating would retain the array.
    for position in unsafe touched.indices where unsafe connections[touched[position]].isTouched {
      unsafe connections[touched[position]].isTouched = false
      unsafe flush(touched[position])
    }
    unsafe touched.removeAll(keepingCapacity: true)
    // Streams that ended with what was just written.
    if context.eventCount > 0 { _ = dispatchEvents() }
  }

  private func flush(_ index: Int) {
    guard unsafe connections[index].descriptor >= 0 else { return }
    guard sendUnsent(index) else { return }
    if let session = unsafe connections[index].session {
      while session.wantsWrite {
        guard session.fillOutput() else { return close(index) }
        guard writeOutput(index) else { return }
      }
      if session.isFinished { unsafe connections[index].isEnding = true }
      updateReading(index, session)
    }
    watchForWriting(index, false)
    if unsafe connections[index].isEnding { linger(index) }
  }

  /// Ends our side, and leaves it to the peer to close.
  private func linger(_ index: Int) {
    guard unsafe connections[index].descriptor >= 0,
      unsafe connections[index].lingersSinceNanoseconds == nil
    else {
      return
    }
    unsafe connections[index].lingersSinceNanoseconds = unsafe nowNanoseconds
    unsafe connections[index].session?.close()
    unsafe connections[index].session = nil
    if unsafe connections[index].isReadingPaused {
      unsafe connections[index].isReadingPaused = false
      updateInterest(index)
    }
    unsafe Socket.endSending(connections[index].descriptor)
  }

  /// Sends what an earlier write left. False where there is still some, or the connection is gone.
  private func sendUnsent(_ index: Int) -> Bool {
    while unsafe !connections[index].unsent.isEmpty {
      switch unsafe connections[index].unsent.send(to: connections[index].descriptor) {
      case .moved(let count):
        metrics.sent(bytes: count)
        unsafe connections[index].progressNanoseconds = unsafe nowNanoseconds
      case .wouldBlock:
        watchForWriting(index, true)
        return false
      case .failed:
        close(index)
        return false
      }
    }
    return true
  }

  /// Writes the context's output. False where some is left over, or the connection is gone.
  private func writeOutput(_ index: Int) -> Bool {
    defer { context.clearOutput() }
    let output = unsafe context.output
    if unsafe output.isEmpty { return true }
    switch unsafe FileDescriptor.send(connections[index].descriptor, from: output) {
    case .moved(let count):
      metrics.sent(bytes: count)
      unsafe connections[index].progressNanoseconds = unsafe nowNanoseconds
      if count == output.count { return true }
      unsafe connections[index].unsent.keep(UnsafeRawBufferPointer(rebasing: output[count...]))
    case .wouldBlock: unsafe connections[index].unsent.keep(output)
    case .failed:
      close(index)
      return false
    }
    watchForWriting(index, true)
    if let session = unsafe connections[index].session { updateReading(index, session) }
    return false
  }

  private func watchForWriting(_ index: Int, _ watch: Bool) {
    if unsafe connections[index].isWatchedForWriting == watch { return }
    unsafe connections[index].isWatchedForWriting = watch
    updateInterest(index)
  }

  /// A peer that does not take its answers is not read any further.
  private func updateReading(_ index: Int, _ session: Session) {
    let limit =
      unsafe connections[index].isReadingPaused ? limits.unsentBytesMax / 2 : limits.unsentBytesMax
    let pauses = session.queuedBytes > limit
    if unsafe connections[index].isReadingPaused == pauses { return }
    unsafe connections[index].isReadingPaused = pauses
    updateInterest(index)
  }

  private func updateInterest(_ index: Int) {
    let connection = unsafe connections[index]
    do {
      unsafe try poller.modify(
        connection.descriptor, token: connections.token(index),
        readable: !connection.isReadingPaused, writable: connection.isWatchedForWriting)
    } catch {
      close(index)
    }
  }

  func close(_ index: Int) {
    guard unsafe connections[index].descriptor >= 0 else { return }
    unsafe connections[index].session?.close()
    unsafe FileDescriptor.close(number: connections[index].descriptor)
    unsafe connections.remove(index)
    mailbox.addConnections(-1)
    metrics.connectionClosed()
  }

  // MARK: Time

  private func tick() {
    nextTickNanoseconds = unsafe nowNanoseconds + Self.tickNanoseconds
    if isListenerPaused, let number = listener?.number {
      isListenerPaused = false
      try? poller.modify(number, token: Self.listenerToken, readable: true, writable: false)
    }
    for index in unsafe 0..<connections.usedCount where unsafe connections[index].descriptor >= 0 {
      checkTimeouts(index)
    }
    if shutdown.hasBegun { continueShutdown() }
    flushTouched()
  }

  private func checkTimeouts(_ index: Int) {
    let connection = unsafe connections[index]
    if let since = connection.lingersSinceNanoseconds {
      if unsafe nowNanoseconds - since > Self.lingerNanoseconds { close(index) }
      return
    }
    if !(connection.session?.isEstablished ?? false),
      unsafe nowNanoseconds - connection.openedNanoseconds > limits.handshakeNanosecondsMax
    {
      metrics.abuse(.handshakeTimeout)
      return close(index)
    }
    if connection.isWatchedForWriting,
      unsafe nowNanoseconds - connection.progressNanoseconds > limits.stalledWriteNanosecondsMax
    {
      metrics.abuse(.slowReader)
      return close(index)
    }
    if let session = connection.session, session.streamCount > 0 { expireCalls(of: session) }
  }

  // MARK: Shutdown

  private func beginShutdown() {
    unsafe shutdown.begin(nowNanoseconds: nowNanoseconds)
    listener = nil
    handler.drain()
    for index in unsafe 0..<connections.usedCount where unsafe connections[index].descriptor >= 0 {
      unsafe connections[index].session?.announceShutdown()
      touch(index)
    }
    nextTickNanoseconds = unsafe nowNanoseconds + Self.tickNanoseconds
  }

  private func continueShutdown() {
    let step = unsafe shutdown.step(
      nowNanoseconds: nowNanoseconds, limitNanoseconds: limits.shutdownNanosecondsMax,
      connectionCount: connections.count)
    for index in unsafe 0..<connections.usedCount where unsafe connections[index].descriptor >= 0 {
      guard let session = unsafe connections[index].session else {
        if unsafe connections[index].lingersSinceNanoseconds == nil || step == .cutOff {
          close(index)
        }
        continue
      }
      switch step {
      case .wait: continue
      case .refuseNewStreams:
        session.refuseNewStreams()
        endStreamingCalls(of: session)
      case .cutOff:
        refuseOpenCalls(of: session)
        unsafe connections[index].isEnding = true
      }
      touch(index)
    }
  }
}

extension ConnectionFault {
  /// The name under which a cut-off is counted.
  var abuse: ConnectionAbuse {
    switch self {
    case .resetFlood: .resetFlood
    case .pingFlood: .pingFlood
    case .settingsFlood: .settingsFlood
    case .emptyFrameFlood: .emptyFrames
    case .headerListFlood: .headerList
    case .controlFlood: .slowReader
    case .protocolViolation: .protocolError
    }
  }
}
