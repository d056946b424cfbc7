// The admin port's thread: one epoll set, non-blocking sockets, and the order in which requests are
// answered. Probes come first; of the other pages one is made in each iteration, so that a probe waits
// for one page at most, however many were asked for.
internal import Posix
internal import Synchronization

/// Confined to the thread that made it.
@safe final class AdminLoop {
  private static let listenerToken = UInt64.max
  private static let wakeupToken = UInt64.max - 1
  private static let acceptsPerIterationMax = 64
  /// How many iterations in a row may make no page because more connections were to be accepted.
  private static let pagesPutOffMax = 15
  /// Bytes that one connection may write in an iteration, before the others have theirs.
  private static let writtenPerIterationMax = 256 * 1024
  private static let readBufferBytes = Transport.readBytesMin
  /// How often time limits and streams are looked at.
  private static let tickNanoseconds: Int64 = 100_000_000

  /// A connection and its way for bytes, which it closes with itself.
  private final class Client {
    let token: UInt64
    private(set) var transport: Transport
    let connection: AdminConnection
    /// It stands in `queue`.
    var isQueued = false
    /// Its sending side is shut down.
    var hasEndedSending = false
    var watchesReading = true
    var watchesWriting = false
    /// What the socket has to become ready for so that it can be read: TLS may have to write before.
    var readWaits = Readiness.readable

    init(token: UInt64, transport: Transport, connection: AdminConnection) {
      self.token = token
      self.transport = transport
      self.connection = connection
    }

    deinit { transport.close() }
  }

  private let pages: AdminPages
  private let limits: AdminLimits
  /// nil: connections are plain.
  private let tls: TLSServerContext?
  private let poller: Poller
  private var listener: FileDescriptor?
  private let wakeup: Wakeup
  private let isStopping: () -> Bool
  private let readBuffer: UnsafeMutableRawBufferPointer
  /// By token. A token is never used again, so an event of a connection that is gone finds nothing.
  private var clients: [UInt64: Client] = [:]
  private var nextToken: UInt64 = 0
  /// Whose pages are still to be made, first come, first served.
  private var queue: [UInt64] = []
  private var pagesPutOff = 0
  private var isListenerPaused = false
  private var nowNanoseconds = SystemClock.monotonicNanoseconds()
  private var nextTickNanoseconds: Int64 = 0
  private var stopDeadlineNanoseconds: Int64?

  /// - Parameter isStopping: Whether the server is to end; looked at after every `wakeup`.
  init(
    pages: AdminPages, limits: AdminLimits, tls: TLSServerContext?,
    listener: consuming FileDescriptor, wakeup: Wakeup,
    isStopping: @escaping () -> Bool
  ) throws(Errno) {
    self.pages = pages
    self.limits = limits
    self.tls = tls
    self.wakeup = wakeup
    self.isStopping = isStopping
    poller = try Poller(capacity: limits.connectionsMax + 2)
    unsafe readBuffer = .allocate(byteCount: Self.readBufferBytes, alignment: 16)
    try poller.add(listener.number, token: Self.listenerToken)
    try poller.add(wakeup.number, token: Self.wakeupToken)
    self.listener = consume listener
  }

  deinit { unsafe readBuffer.deallocate() }

  /// Serves until it is to stop and has. Throws where epoll itself fails.
  func run() throws(Errno) {
    while true {
      let ready = try poller.wait(timeoutMilliseconds: waitMilliseconds)
      nowNanoseconds = SystemClock.monotonicNanoseconds()
      var hasConnections = false
      for index in 0..<ready {
        let event = poller.event(at: index)
        switch event.token {
        case Self.listenerToken: hasConnections = true
        case Self.wakeupToken: wakeup.clear()
        default: handle(event)
        }
      }
      // After those that are there: a newcomer may take their place.
      let isCrowded = hasConnections && acceptConnections()
      // A probe may wait among the newcomers, behind thousands of others.
      pagesPutOff = isCrowded && pagesPutOff < Self.pagesPutOffMax ? pagesPutOff + 1 : 0
      if pagesPutOff == 0 { answerOneOfQueue() }
      if nowNanoseconds >= nextTickNanoseconds { tick() }
      if isStopping(), stop() { return }
    }
  }

  private var waitMilliseconds: Int32 {
    if !queue.isEmpty || isStopping() && stopDeadlineNanoseconds == nil { return 0 }
    if clients.isEmpty, !isListenerPaused { return -1 }
    return Int32(clamping: max(0, nextTickNanoseconds - nowNanoseconds) / 1_000_000 + 1)
  }

  private func tick() {
    nextTickNanoseconds = nowNanoseconds + Self.tickNanoseconds
    for client in Array(clients.values) {
      client.connection.expire(nowNanoseconds: nowNanoseconds)
      settle(client)
    }
    guard isListenerPaused, let number = listener?.number else { return }
    isListenerPaused = (try? poller.add(number, token: Self.listenerToken)) == nil
  }

  /// Closes the port, then lets responses in progress go out. True once that is done.
  private func stop() -> Bool {
    if stopDeadlineNanoseconds == nil {
      stopDeadlineNanoseconds = nowNanoseconds + limits.stopNanosecondsMax
      listener = nil
      isListenerPaused = false
      for client in Array(clients.values) {
        client.connection.stop(nowNanoseconds: nowNanoseconds)
        settle(client)
      }
    }
    // Whoever lingers has got everything.
    let isDone = clients.values.allSatisfy { $0.connection.phase == .lingering }
    guard isDone || nowNanoseconds >= stopDeadlineNanoseconds ?? 0 else { return false }
    clients = [:]
    return true
  }

  // MARK: Accepting

  /// True where there may be more.
  private func acceptConnections() -> Bool {
    for _ in 0..<Self.acceptsPerIterationMax {
      guard let listener = listener?.number else { return false }
      switch Socket.accept(listener) {
      case .connection(let number): add(number)
      case .wouldBlock: return false
      case .vanished: continue
      case .exhausted, .failed:
        // One of ours may be what is missing. The next connection is tried in a tick, not at once.
        evict()
        isListenerPaused = (try? poller.remove(listener)) != nil
        return false
      }
    }
    return true
  }

  private func add(_ number: Int32) {
    if clients.count >= limits.connectionsMax { evict() }
    let token = nextToken
    // No memory for TLS, or to watch it: the peer sees a close.
    guard let transport = transport(number) else { return FileDescriptor.close(number: number) }
    let client = Client(
      token: token, transport: transport,
      connection: AdminConnection(
        limits: limits, nowNanoseconds: nowNanoseconds, bodyBytesMax: pages.formBytesMax))
    guard (try? poller.add(number, token: token)) != nil else { return }
    nextToken += 1
    clients[token] = client
    // Most clients have sent their request by now; so it cannot be evicted before it was read.
    receive(client)
    settle(client)
  }

  private func transport(_ number: Int32) -> Transport? {
    guard let tls else { return Transport(plain: number) }
    return tls.accept(number)
  }

  /// Ends the connection that has waited longest for its peer, or for its turn.
  private func evict() {
    let oldest = clients.values.min {
      $0.connection.sinceNanoseconds < $1.connection.sinceNanoseconds
    }
    if let oldest { clients[oldest.token] = nil }
  }

  // MARK: One connection

  private func handle(_ event: Poller.Event) {
    guard let client = clients[event.token] else { return }
    if event.isReadable || event.isHungUp || client.readWaits == .writable {
      // The peer is gone in both directions where the event comes without being asked for.
      if client.watchesReading || client.readWaits == .writable {
        receive(client)
      } else if event.isHungUp {
        client.connection.end()
      }
    }
    settle(client)
  }

  /// Reads once; the kernel says again where there is more.
  private func receive(_ client: Client) {
    guard client.connection.wantsInput else { return }
    client.readWaits = .readable
    if client.transport.isHandshaking, !handshake(client) { return }
    switch read(client) {
    case .ended: client.connection.receiveEnd()
    case .moved(let count):
      let bytes = unsafe UnsafeRawBufferPointer(rebasing: readBuffer[..<count])
      let typed = unsafe bytes.assumingMemoryBound(to: UInt8.self)
      unsafe client.connection.receive(typed.span, nowNanoseconds: nowNanoseconds)
    case .wouldBlock(let readiness): client.readWaits = readiness
    case .failed: client.connection.end()
    }
  }

  /// Goes on with a handshake; it has the time of a request's head. True where it is over.
  private func handshake(_ client: Client) -> Bool {
    switch client.transport.handshake() {
    case .done: return true
    case .wouldBlock(let readiness): client.readWaits = readiness
    case .failed(let failure):
      if case .notTLS(let bytes) = failure {
        client.transport.answerInTheClear(bytes.answerOfTLSPort)
      }
      client.connection.endSending(nowNanoseconds: nowNanoseconds)
    }
    return false
  }

  /// Makes the page of the one that has waited longest.
  private func answerOneOfQueue() {
    while !queue.isEmpty {
      guard let client = clients[queue.removeFirst()] else { continue }
      client.isQueued = false
      answer(client)
      settle(client)
      return
    }
  }

  private func answer(_ client: Client) {
    guard case .waiting(let request) = client.connection.phase else { return }
    let response = pages.response(to: request)
    // A page may have taken a while, which is not the client's.
    nowNanoseconds = SystemClock.monotonicNanoseconds()
    client.connection.respond(response, nowNanoseconds: nowNanoseconds)
  }

  /// Does what the connection's state asks for, after anything has happened to it.
  private func settle(_ client: Client) {
    let connection = client.connection
    var budget = Self.writtenPerIterationMax
    var mayAnswerProbe = true
    repeat {
      if case .waiting(let request) = connection.phase, !client.isQueued {
        // One probe at once; those pipelined behind it wait like pages, or they would keep the thread.
        if mayAnswerProbe, AdminPages.isProbe(request) {
          mayAnswerProbe = false
          answer(client)
        } else {
          client.isQueued = true
          queue.append(client.token)
        }
      }
      connection.pump(nowNanoseconds: nowNanoseconds)
    } while send(client, &budget)

    if connection.phase == .lingering, !client.hasEndedSending {
      client.hasEndedSending = true
      client.transport.endSending()
    }
    if connection.phase == .ended || !watch(client) { clients[client.token] = nil }
  }

  /// Sends what is to be sent. True where all of it has gone, so that there may be more.
  private func send(_ client: Client, _ budget: inout Int) -> Bool {
    let connection = client.connection
    guard connection.hasOutput, budget > 0 else { return false }
    switch write(client) {
    case .moved(let count):
      budget -= count
      connection.didSend(count, nowNanoseconds: nowNanoseconds)
      return !connection.hasOutput
    case .wouldBlock(.writable): return false
    // TLS would have to read first: the peer renews its keys in pieces, as no honest one does.
    case .wouldBlock(.readable), .ended, .failed:
      connection.end()
      return false
    }
  }

  /// Watches the socket for what the state can use. False where the kernel has no memory for that.
  private func watch(_ client: Client) -> Bool {
    let wantsInput = client.connection.wantsInput
    let hasOutput = client.connection.hasOutput
    let reads = wantsInput && client.readWaits == .readable
    let writes = hasOutput || wantsInput && client.readWaits == .writable
    guard reads != client.watchesReading || writes != client.watchesWriting else { return true }
    client.watchesReading = reads
    client.watchesWriting = writes
    let number = client.transport.descriptor
    return
      (try? poller.modify(number, token: client.token, readable: reads, writable: writes)) != nil
  }

  // MARK: The socket

  private func read(_ client: Client) -> Transfer {
    if client.connection.phase != .lingering {
      return unsafe client.transport.read(into: readBuffer)
    }
    return switch unsafe client.transport.discard(into: readBuffer) {
    case .moved(0): .ended
    case .moved(let count): .moved(count)
    case .wouldBlock: .wouldBlock(.readable)
    case .failed(let error): .failed(.socket(error))
    }
  }

  private func write(_ client: Client) -> Transfer {
    client.connection.withOutput { bytes in
      unsafe bytes.withUnsafeBytes { unsafe client.transport.write(from: $0) }
    }
  }
}
