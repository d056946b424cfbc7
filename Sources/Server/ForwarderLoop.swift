// The thread of a forwarder: an epoll set with the listener and two sockets of each connection.
internal import Posix
internal import Synchronization

/// Confined to its thread.
@safe final class ForwarderLoop {
  private static let listenerToken = UInt64.max
  private static let wakeupToken = UInt64.max - 1
  /// How often owners that did not answer are tried again, and times are looked at.
  private static let tickNanoseconds: Int64 = 50_000_000
  private static let idleMilliseconds: Int32 = 1000
  private static let acceptsPerTurnMax = 64
  private static let bufferBytes = 64 * 1024
  /// A name that was looked up is looked up again after so long.
  private static let addressesNanoseconds: Int64 = 30_000_000_000

  private let limits: ForwarderLimits
  private let sendsProxyHeader: Bool
  private let owner: @Sendable () -> String?
  private let shared: Forwarder.Shared
  private let poller: Poller
  /// Owned; -1 once the end has begun.
  private var listener: Int32 = -1
  /// Out of descriptors: the queue stays readable, so look away until the next tick.
  private var isPaused = false
  private var connections: [ForwardedConnection?] = []
  private var free: [Int] = []
  private var generation: UInt32 = 0
  private var openCount = 0
  private var nowNanoseconds: Int64 = 0
  private var nextTickNanoseconds: Int64 = 0
  private var endNanoseconds = Int64.max
  /// What the owner's name came to.
  private var addresses: (text: String, found: [ForwardedConnection.Address], until: Int64)?
  private let buffer: UnsafeMutableRawBufferPointer

  init(
    listener: Int32, limits: ForwarderLimits, sendsProxyHeader: Bool,
    owner: @escaping @Sendable () -> String?, shared: Forwarder.Shared
  ) throws(Errno) {
    self.limits = limits
    self.sendsProxyHeader = sendsProxyHeader
    self.owner = owner
    self.shared = shared
    unsafe buffer = .allocate(byteCount: Self.bufferBytes, alignment: 16)
    let listener = FileDescriptor(owning: listener)
    poller = try Poller()
    try poller.add(listener.number, token: Self.listenerToken)
    try poller.add(shared.wakeup.number, token: Self.wakeupToken)
    self.listener = listener.take()
  }

  deinit {
    stopListening()
    unsafe buffer.deallocate()
  }

  /// Runs until the end that `Forwarder.shutDown` begins. Throws where epoll itself fails.
  func run() throws(Errno) {
    defer { for index in connections.indices { close(index) } }
    while true {
      let ready = try poller.wait(timeoutMilliseconds: waitMilliseconds)
      nowNanoseconds = SystemClock.monotonicNanoseconds()
      shared.round.store(nowNanoseconds, ordering: .relaxed)
      for position in 0..<ready { take(poller.event(at: position)) }
      if nowNanoseconds >= nextTickNanoseconds { tick() }
      if shared.isEnding.load(ordering: .acquiring) { beginEnd() }
      if nowNanoseconds >= endNanoseconds || listener < 0 && openCount == 0 { return }
    }
  }

  private var waitMilliseconds: Int32 {
    if openCount == 0 && !isPaused { return Self.idleMilliseconds }
    return Int32(clamping: max(0, nextTickNanoseconds - nowNanoseconds) / 1_000_000 + 1)
  }

  private func take(_ event: Poller.Event) {
    switch event.token {
    case Self.listenerToken: if listener >= 0 { accept() }
    case Self.wakeupToken: shared.wakeup.clear()
    default: receive(event)
    }
  }

  private func beginEnd() {
    guard listener >= 0 else { return }
    stopListening()
    endNanoseconds = nowNanoseconds + limits.shutdownNanosecondsMax
    // They have not begun: the server that follows takes them when they come again.
    for index in connections.indices where connections[index]?.isConnected == false { close(index) }
  }

  private func stopListening() {
    guard listener >= 0 else { return }
    // The port may keep the socket for a server to come: then closing this number does not end the watching.
    try? poller.remove(listener)
    FileDescriptor.close(number: listener)
    listener = -1
  }

  // MARK: New connections

  private func accept() {
    for _ in 0..<Self.acceptsPerTurnMax {
      switch Socket.accept(listener) {
      case .connection(let descriptor): open(descriptor)
      case .vanished: continue
      case .wouldBlock: return
      case .exhausted, .failed:
        isPaused = true
        try? poller.modify(listener, token: Self.listenerToken, readable: false, writable: false)
        return
      }
    }
  }

  private func open(_ descriptor: Int32) {
    guard openCount < limits.connectionsMax else {
      FileDescriptor.close(number: descriptor)
      return shared.statistics.withLock { $0.refused += 1 }
    }
    generation &+= 1
    let connection = ForwardedConnection(
      client: descriptor, generation: generation & 0x7fff_ffff,
      header: sendsProxyHeader ? ProxyHeader.bytes(passingOn: descriptor) : [], at: nowNanoseconds)
    let index = free.popLast() ?? connections.count
    if index == connections.count {
      connections.append(connection)
    } else {
      connections[index] = connection
    }
    openCount += 1
    shared.statistics.withLock {
      $0.connections += 1
      $0.open += 1
    }
    connect(index)
  }

  private func close(_ index: Int) {
    guard connections[index] != nil else { return }
    connections[index]?.close(poller)
    connections[index] = nil
    free.append(index)
    openCount -= 1
    shared.statistics.withLock { $0.open -= 1 }
  }

  /// Begins to connect to who is the owner now, if anybody.
  private func connect(_ index: Int) {
    guard let text = owner(), !text.isEmpty else { return }
    connections[index]?.address = text
    // The last is tried first.
    connections[index]?.addressesLeft = resolve(text).reversed()
    _ = connections[index]?.connectToNext(index, poller)
  }

  /// The addresses of the owner; none where the text is no address.
  private func resolve(_ text: String) -> [ForwardedConnection.Address] {
    if let addresses, addresses.text == text, nowNanoseconds < addresses.until {
      return addresses.found
    }
    var found: [ForwardedConnection.Address] = []
    if UnixSocket.path(ofHost: text) != nil {
      found = [ForwardedConnection.Address(host: text, port: 0)]
    } else if let owner = HostPort(text) {
      found = ((try? HostName.addresses(owner.host)) ?? []).map {
        ForwardedConnection.Address(host: $0, port: owner.port)
      }
    }
    // A name that is not known may be in a moment.
    let until = found.isEmpty ? 0 : nowNanoseconds + Self.addressesNanoseconds
    addresses = (text, found, until)
    return found
  }

  // MARK: Bytes

  private func receive(_ event: Poller.Event) {
    let index = Int(truncatingIfNeeded: event.token & 0xffff_ffff) >> 1
    let side: ForwardedConnection.Side = event.token & 1 == 0 ? .client : .owner
    guard let connection = connections[index],
      UInt64(connection.generation) == event.token >> 32
    else { return }
    var toOwner = 0
    var toClient = 0
    if !connection.isConnected {
      // A stale event of a socket that was tried before, or it has failed.
      guard connection.isConnecting, event.isWritable || event.isHungUp else { return }
      if connections[index]?.finishConnecting(keepaliveSeconds: limits.keepaliveSeconds) != true {
        _ = connections[index]?.connectToNext(index, poller)
        return
      }
    }
    if event.isWritable {
      let moved = connections[index]?.flush(side, at: nowNanoseconds) ?? 0
      if side == .owner { toOwner += moved } else { toClient += moved }
    }
    if event.isReadable || event.isHungUp {
      guard
        let moved = unsafe connections[index]?.pump(
          from: side, through: buffer, at: nowNanoseconds)
      else { return close(index) }
      if side == .owner { toClient += moved } else { toOwner += moved }
    }
    shared.statistics.withLock {
      $0.bytesToOwner += toOwner
      $0.bytesToClients += toClient
    }
    if connections[index]?.isOver == true || connections[index]?.watch(index, poller) != true {
      close(index)
    }
  }

  // MARK: Time

  private func tick() {
    nextTickNanoseconds = nowNanoseconds + Self.tickNanoseconds
    if isPaused, listener >= 0 {
      isPaused = false
      try? poller.modify(listener, token: Self.listenerToken, readable: true, writable: false)
    }
    let address = owner()
    for index in connections.indices {
      guard let connection = connections[index] else { continue }
      if connection.isConnected {
        if isLeft(connection, address) { close(index) }
      } else if nowNanoseconds - connection.acceptedNanoseconds >= limits.connectNanosecondsMax {
        shared.statistics.withLock { $0.unreachable += 1 }
        close(index)
      } else if !connection.isConnecting || connection.address != address {
        connect(index)
      }
    }
  }

  /// Nothing more is to be hoped for from one side.
  private func isLeft(_ connection: ForwardedConnection, _ address: String?) -> Bool {
    if let since = connection.waitsSinceNanoseconds,
      nowNanoseconds - since >= limits.stalledWriteNanosecondsMax
    {
      return true
    }
    let silence = nowNanoseconds - connection.movedNanoseconds
    // Who does not end its side when the other has would keep its place for ever.
    if connection.isHalfOver, silence >= limits.stalledWriteNanosecondsMax { return true }
    return connection.address != address && silence >= limits.formerOwnerNanosecondsMax
  }
}
