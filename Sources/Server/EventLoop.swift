// One event loop: a thread with its own epoll set, connections and buffers. A turn is one straight
// line: receive all, execute all, sync once, send all (docs/ARCHITECTURE.md).
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
  /// Bytes that one connection may write in a turn, before the others have theirs.
  private static let writtenPerTurnMax = 1024 * 1024
  /// How long a peer has to end its side after we ended ours.
  private static let lingerNanoseconds: Int64 = 1_000_000_000
  /// How often timeouts are looked at. Clients time their calls themselves; this frees what they left.
  private static let tickNanoseconds: Int64 = 100_000_000
  /// How often a loop without connections looks at what fell due: for the metrics and the memory alone,
  /// since every call sees due holds as ended.
  private static let idleMilliseconds: Int32 = 1000

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
  let connections: ConnectionTable
  let waiting: WaitingReplies
  /// Connections with streaming calls that were left off and may go on.
  private var resumable: [Int] = []
  /// What all connections' sockets did not take, in bytes.
  private var unsentBytes = 0
  let statusText = HeaderText(capacity: 4096)
  let detailsText = HeaderText(capacity: 8192)
  /// Monotonic nanoseconds: when this turn's bytes were there, and then when its calls were executed.
  var nowNanoseconds: Int64 = 0
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
    connections = ConnectionTable(capacity: limits.connectionsMax)
    waiting = WaitingReplies(bytesMax: limits.waitingReplyBytesMax)
  }

  /// Runs until the shutdown is complete. Throws where epoll itself fails.
  func run() throws(Errno) {
    while !shutdown.isComplete { try turn() }
  }

  private func turn() throws(Errno) {
    // 1. Everything that can be read is read.
    let ready = try poller.wait(timeoutMilliseconds: waitMilliseconds)
    nowNanoseconds = SystemClock.monotonicNanoseconds()
    context.setNow(nanoseconds: nowNanoseconds)
    metrics.turnBegan(nowNanoseconds: nowNanoseconds)
    for index in 0..<ready { receive(poller.event(at: index)) }
    resumeStreamingCalls()

    // 2. Every call that is whole is executed; the handler asks for durability of all of them at once.
    if context.eventCount > 0 {
      handler.beginTurn()
      let calls = dispatchEvents()
      handler.endTurn()
      let began = nowNanoseconds
      nowNanoseconds = SystemClock.monotonicNanoseconds()
      metrics.turn(calls: calls, nanoseconds: nowNanoseconds - began)
    }

    // 3. Every reply that may be shown is sent, with one write per connection.
    handler.deliver(to: self)
    sendDurableReplies()
    flushTouched()
    if nowNanoseconds >= nextTickNanoseconds { tick() }
  }

  private var waitMilliseconds: Int32 {
    if connections.hasTouched || !resumable.isEmpty { return 0 }
    if connections.count == 0 && !shutdown.hasBegun && !isListenerPaused {
      return Self.idleMilliseconds
    }
    let left = nextTickNanoseconds - nowNanoseconds
    return Int32(clamping: max(0, left) / 1_000_000 + 1)
  }

  // MARK: Receiving

  private func receive(_ event: Poller.Event) {
    switch event.token {
    case Self.listenerToken: accept()
    case Self.mailboxToken: readMailbox()
    default:
      guard let index = connections.index(ofToken: event.token) else { return }
      if event.isWritable { connections.touch(index) }
      if event.isReadable || event.isHungUp { read(index) }
    }
  }

  private func read(_ index: Int) {
    if connections[index].isReadingPaused { return }
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
    if connections[index].isEnding { return }
    connections.touch(index)
    guard let session = connections[index].session ?? (unsafe begin(index, bytes)) else {
      return
    }
    if let fault = unsafe session.receive(bytes) {
      metrics.abuse(fault.abuse)
      connections[index].isEnding = true
    }
  }

  /// The first bytes of a connection: is this HTTP/2 at all?
  private func begin(_ index: Int, _ bytes: UnsafeRawBufferPointer) -> Session? {
    let preface = unsafe Preface.examine(bytes)
    if preface == .http2, let session = context.open(token: UInt64(index)) {
      connections[index].session = session
      return session
    }
    metrics.abuse(.protocolError)
    connections[index].isEnding = true
    if preface == .http1 {
      let text = Preface.http1Answer
      unsafe keepUnsent(
        UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount), of: index)
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
      let index = connections.add(descriptor: descriptor, nowNanoseconds: nowNanoseconds)
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
      try poller.add(descriptor, token: connections.token(index))
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

  private func flushTouched() {
    connections.takeTouched { flush($0) }
    // Streams that ended with what was just written: no event of another kind comes from writing.
    if context.eventCount > 0 { _ = dispatchEvents() }
  }

  private func resumeStreamingCalls() {
    if resumable.isEmpty { return }
    for index in resumable { connections[index].session?.resumeData() }
    resumable.removeAll(keepingCapacity: true)
  }

  private func flush(_ index: Int) {
    guard connections[index].descriptor >= 0 else { return }
    guard sendUnsent(index) else { return }
    if let session = connections[index].session {
      var written = 0
      while session.wantsWrite {
        session.fillOutput()
        written += unsafe context.output.count
        guard writeOutput(index) else { return }
        // A peer that reads as fast as we write must not keep the loop from the others.
        if written > Self.writtenPerTurnMax { return connections.touch(index) }
      }
      if session.isFinished { connections[index].isEnding = true }
      updateReading(index, session)
    }
    watchForWriting(index, false)
    if connections[index].isEnding { linger(index) }
  }

  /// Ends our side, and leaves it to the peer to close.
  private func linger(_ index: Int) {
    guard connections[index].descriptor >= 0,
      connections[index].lingersSinceNanoseconds == nil
    else {
      return
    }
    connections[index].lingersSinceNanoseconds = nowNanoseconds
    connections[index].session?.close()
    connections[index].session = nil
    if connections[index].isReadingPaused {
      connections[index].isReadingPaused = false
      updateInterest(index)
    }
    Socket.endSending(connections[index].descriptor)
  }

  /// Sends what an earlier write left. False where there is still some, or the connection is gone.
  private func sendUnsent(_ index: Int) -> Bool {
    while !connections[index].unsent.isEmpty {
      switch connections[index].unsent.send(to: connections[index].descriptor) {
      case .moved(let count):
        metrics.sent(bytes: count)
        unsentBytes -= count
        connections[index].progressNanoseconds = nowNanoseconds
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
      connections[index].progressNanoseconds = nowNanoseconds
      if count == output.count { return true }
      unsafe keepUnsent(UnsafeRawBufferPointer(rebasing: output[count...]), of: index)
    case .wouldBlock: unsafe keepUnsent(output, of: index)
    case .failed:
      close(index)
      return false
    }
    guard connections[index].descriptor >= 0 else { return false }
    watchForWriting(index, true)
    if let session = connections[index].session { updateReading(index, session) }
    return false
  }

  /// Keeps what the socket did not take. Where all such bytes come to more than the loop has room for,
  /// the connection is closed instead: its peer does not read.
  private func keepUnsent(_ bytes: UnsafeRawBufferPointer, of index: Int) {
    guard unsentBytes + bytes.count <= limits.http2.bufferedBytesMax else {
      metrics.abuse(.slowReader)
      return close(index)
    }
    unsentBytes += bytes.count
    unsafe connections[index].unsent.keep(bytes)
  }

  private func watchForWriting(_ index: Int, _ watch: Bool) {
    if connections[index].isWatchedForWriting == watch { return }
    connections[index].isWatchedForWriting = watch
    updateInterest(index)
  }

  /// A peer that does not take its answers off the socket is not read any further. One that only gives
  /// no credit for them is: credit comes by reading, and streams and buffers are bounded anyway.
  private func updateReading(_ index: Int, _ session: Session) {
    let pauses =
      !connections[index].unsent.isEmpty && session.queuedBytes > limits.unsentBytesMax
    // Streaming calls that had to wait for their peer may go on.
    if session.isDataPaused, session.queuedBytes <= limits.unsentBytesMax / 2 {
      resumable.append(index)
    }
    if connections[index].isReadingPaused == pauses { return }
    connections[index].isReadingPaused = pauses
    updateInterest(index)
  }

  private func updateInterest(_ index: Int) {
    let connection = connections[index]
    do {
      try poller.modify(
        connection.descriptor, token: connections.token(index),
        readable: !connection.isReadingPaused, writable: connection.isWatchedForWriting)
    } catch {
      close(index)
    }
  }

  func close(_ index: Int) {
    guard connections[index].descriptor >= 0 else { return }
    connections[index].session?.close()
    unsentBytes -= connections[index].unsent.count
    FileDescriptor.close(number: connections[index].descriptor)
    connections.remove(index)
    mailbox.addConnections(-1)
    metrics.connectionClosed()
  }

  // MARK: Time

  private func tick() {
    nextTickNanoseconds = nowNanoseconds + Self.tickNanoseconds
    if isListenerPaused, let number = listener?.number {
      isListenerPaused = false
      try? poller.modify(number, token: Self.listenerToken, readable: true, writable: false)
    }
    for index in 0..<connections.usedCount where connections[index].descriptor >= 0 {
      checkTimeouts(index)
    }
    if shutdown.hasBegun { continueShutdown() }
    flushTouched()
    // An empty turn: the handler's housekeeping goes on while nobody calls.
    handler.beginTurn()
    handler.endTurn()
  }

  private func checkTimeouts(_ index: Int) {
    let connection = connections[index]
    if let since = connection.lingersSinceNanoseconds {
      if nowNanoseconds - since > Self.lingerNanoseconds { close(index) }
      return
    }
    if !(connection.session?.isEstablished ?? false),
      nowNanoseconds - connection.openedNanoseconds > limits.handshakeNanosecondsMax
    {
      metrics.abuse(.handshakeTimeout)
      return close(index)
    }
    if connection.isWatchedForWriting,
      nowNanoseconds - connection.progressNanoseconds > limits.stalledWriteNanosecondsMax
    {
      metrics.abuse(.slowReader)
      return close(index)
    }
    if let session = connection.session, session.streamCount > 0 { expireCalls(of: session) }
  }

  // MARK: Shutdown

  private func beginShutdown() {
    shutdown.begin(nowNanoseconds: nowNanoseconds)
    listener = nil
    handler.drain()
    for index in 0..<connections.usedCount where connections[index].descriptor >= 0 {
      connections[index].session?.announceShutdown()
      connections.touch(index)
    }
    nextTickNanoseconds = nowNanoseconds + Self.tickNanoseconds
  }

  private func continueShutdown() {
    let step = shutdown.step(
      nowNanoseconds: nowNanoseconds, limitNanoseconds: limits.shutdownNanosecondsMax,
      connectionCount: connections.count)
    for index in 0..<connections.usedCount where connections[index].descriptor >= 0 {
      guard let session = connections[index].session else {
        if connections[index].lingersSinceNanoseconds == nil || step == .cutOff {
          close(index)
        }
        continue
      }
      // Also those whose first message came after the refusal.
      if shutdown.hasRefused { endStreamingCalls(of: session) }
      switch step {
      case .wait: if !shutdown.hasRefused { continue }
      case .refuseNewStreams: session.refuseNewStreams()
      case .cutOff:
        refuseOpenCalls(of: session)
        connections[index].isEnding = true
      }
      connections.touch(index)
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
