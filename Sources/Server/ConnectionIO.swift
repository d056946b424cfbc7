// The sockets of one loop's connections. They are opened, read, written and closed here and nowhere else:
// whether a connection runs over TLS concerns this file and ConnectionHandshake.swift alone.
internal import GRPC
internal import HTTP2
internal import Metrics
internal import Posix

/// Confined to its loop's thread.
final class ConnectionIO {
  private static let readBufferBytes = 256 * 1024
  /// Bytes that one connection may write in an iteration, before the others have theirs.
  private static let writtenPerTurnMax = 1024 * 1024

  let poller: Poller
  private let limits: ServerLimits
  /// nil: connections are plain.
  private let tls: TLSServerContext?
  let notices: ConnectionNotices
  let connections: ConnectionTable
  private let context: ServerContext
  let metrics: RPCRecorder
  private let timeouts: ConnectionTimeouts
  /// Where this loop's connections are counted for the other loops.
  private let mailbox: Mailbox
  let peers: PeerTable
  /// Headers of the PROXY protocol that were begun, by connection.
  var proxyHeaders: [Int: ProxyHeader] = [:]
  /// When looking for idle connections makes sense again.
  private var nextEvictionNanoseconds: Int64 = 0
  private let readBuffer = ReadBuffer(capacity: ConnectionIO.readBufferBytes)
  /// What all connections' sockets did not take, in bytes.
  private(set) var unsentBytes = 0
  /// Evicted connections that are read on, the first first.
  private var evicted: [Int] = []
  /// Connections with streaming calls that were left off and may go on.
  private var resumable: [Int] = []
  /// TLS handshakes that may go on in this iteration.
  var handshakesLeft = ConnectionIO.handshakesPerTurnMax

  init(
    limits: ServerLimits, connections: ConnectionTable, context: ServerContext,
    metrics: RPCRecorder, mailbox: Mailbox, peers: PeerTable, tls: TLSServerContext?,
    notices: ConnectionNotices
  ) throws(Errno) {
    self.limits = limits
    self.tls = tls
    self.notices = notices
    self.connections = connections
    self.context = context
    self.metrics = metrics
    self.mailbox = mailbox
    self.peers = peers
    timeouts = ConnectionTimeouts(limits)
    poller = try Poller()
  }

  // MARK: Opening and closing

  /// Takes a connection over. It is closed at once where there is no room for it.
  func open(_ arrival: Mailbox.Arrival, at nowNanoseconds: Int64) {
    let descriptor = arrival.descriptor
    guard
      let index = connections.add(
        transport: Transport(plain: descriptor), peer: arrival.peer,
        nowNanoseconds: nowNanoseconds)
    else { return refuse(arrival, .limit) }
    connections[index].endNanoseconds = timeouts.end(
      openedNanoseconds: nowNanoseconds, random: UInt64.random(in: 0...UInt64.max))
    metrics.connectionOpened()
    // Failure costs only that a peer that vanished is found later.
    try? Socket.detectDeadPeers(descriptor, idleSeconds: limits.keepaliveSeconds)
    do {
      try poller.add(descriptor, token: connections.token(index))
    } catch {
      return close(index)
    }
    if limits.connectionPolicy.readsProxyHeaders {
      connections[index].awaitsProxyHeader = true
    } else {
      beginTLS(index)
    }
  }

  /// From here on all bytes are TLS, where the server has it.
  func beginTLS(_ index: Int) {
    guard let tls else { return }
    // Without memory for it, the connection has no use.
    guard let transport = tls.accept(connections[index].descriptor) else { return close(index) }
    connections[index].transport = transport
  }

  /// Closes a connection that was counted as this loop's and is none of it.
  func refuse(_ arrival: Mailbox.Arrival, _ reason: ConnectionRefusal) {
    mailbox.addConnections(-1)
    peers.release(arrival.peer)
    metrics.connectionRefused(reason)
    FileDescriptor.close(number: arrival.descriptor)
  }

  /// How long a connection has to be idle to give way to a new one.
  private static let evictableNanoseconds: Int64 = 1_000_000_000
  /// How long not to look where there was none.
  private static let evictionPauseNanoseconds: Int64 = 100_000_000

  /// Ends the connection that has been without a call for the longest, or that has not sent its preface yet;
  /// false where there is none. Its peer is told which streams were seen, and can send the others elsewhere
  /// (RFC 9113 section 6.8).
  func evictIdle(at nowNanoseconds: Int64) -> Bool {
    guard nowNanoseconds >= nextEvictionNanoseconds else { return false }
    var found: Int?
    var since = nowNanoseconds - Self.evictableNanoseconds + 1
    for index in 0..<connections.usedCount where connections[index].descriptor >= 0 {
      guard connections[index].lingersSinceNanoseconds == nil,
        (connections[index].http?.streamCount ?? 0) == 0,
        connections[index].idleSinceNanoseconds < since
      else { continue }
      since = connections[index].idleSinceNanoseconds
      found = index
    }
    guard let found else {
      nextEvictionNanoseconds = nowNanoseconds + Self.evictionPauseNanoseconds
      return false
    }
    connections[found].http?.refuseNewStreams()
    flush(found, at: nowNanoseconds)
    leavePlace(found)
    metrics.connectionEvicted()
    return true
  }

  /// Another connection takes the place of one that was told to go. A call may be on its way to us: to close
  /// now would be a reset, and takes our GOAWAY away before the peer has read it. So the socket lingers for a
  /// moment; of those that do, only so many.
  private func leavePlace(_ index: Int) {
    // It may be gone already; and one that does not take its GOAWAY has nothing to wait for.
    guard connections[index].descriptor >= 0 else { return }
    guard connections[index].lingersSinceNanoseconds != nil else { return close(index) }
    if evicted.count == limits.evictedConnectionsMax { close(evicted[0]) }
    evicted.append(index)
    connections[index].isEvicted = true
    uncount(index)
  }

  private func uncount(_ index: Int) {
    peers.release(connections[index].peer)
    mailbox.addConnections(-1)
    metrics.connectionClosed()
  }

  func close(_ index: Int) {
    guard connections[index].descriptor >= 0 else { return }
    if connections[index].isEvicted {
      evicted.removeAll { $0 == index }
    } else {
      uncount(index)
    }
    connections[index].http?.close()
    if connections[index].awaitsProxyHeader { proxyHeaders[index] = nil }
    unsentBytes -= connections[index].unsent.count
    connections[index].transport.close()
    connections.remove(index)
  }

  /// Ends our side, and leaves it to the peer to close.
  func linger(_ index: Int, at nowNanoseconds: Int64) {
    guard connections[index].descriptor >= 0,
      connections[index].lingersSinceNanoseconds == nil
    else { return }
    connections[index].lingersSinceNanoseconds = nowNanoseconds
    connections[index].http?.close()
    connections[index].http = nil
    if connections[index].isReadingPaused {
      connections[index].isReadingPaused = false
      updateInterest(index)
    }
    connections[index].transport.endSending()
  }

  // MARK: Reading

  /// Does what an event of a connection's socket asks for; an event of a connection that is gone is
  /// none.
  func receive(_ event: Poller.Event, at nowNanoseconds: Int64) {
    guard let index = connections.index(ofToken: event.token) else { return }
    if event.isWritable {
      connections.touch(index)
      if connections[index].readsOnceWritable { return read(index, at: nowNanoseconds) }
    }
    if event.isReadable || event.isHungUp { read(index, at: nowNanoseconds) }
  }

  private func read(_ index: Int, at nowNanoseconds: Int64) {
    if connections[index].writesOnceReadable {
      connections.touch(index)
    } else if connections[index].isReadingPaused {
      return
    }
    if connections[index].lingersSinceNanoseconds != nil { return discard(index) }
    if connections[index].awaitsProxyHeader, !readProxyHeader(index, at: nowNanoseconds) { return }
    if connections[index].transport.isHandshaking, !handshake(index, at: nowNanoseconds) { return }
    let result = unsafe readBuffer.read(connections[index].transport) { bytes in
      unsafe received(bytes, on: index)
    }
    switch result {
    case .ended, .failed: close(index)
    case .moved(let count):
      metrics.received(bytes: count)
      connections[index].readNanoseconds = nowNanoseconds
      read(index, onceWritable: false)
    case .wouldBlock(let readiness): read(index, onceWritable: readiness == .writable)
    }
  }

  /// Reads what comes after our end, until the peer ends too.
  private func discard(_ index: Int) {
    switch readBuffer.discard(connections[index].transport) {
    case .moved(0), .failed: close(index)
    case .moved(let count): metrics.received(bytes: count)
    case .wouldBlock: break
    }
  }

  /// Reading goes on when the socket can be written; or as always, when it can be read.
  func read(_ index: Int, onceWritable: Bool) {
    if connections[index].readsOnceWritable == onceWritable { return }
    guard connections[index].descriptor >= 0 else { return }
    connections[index].readsOnceWritable = onceWritable
    updateInterest(index)
  }

  private func received(_ bytes: UnsafeRawBufferPointer, on index: Int) {
    // What comes after our GOAWAY is read, so that it is not answered by a reset, and dropped.
    if connections[index].isEnding { return }
    connections.touch(index)
    guard let http = connections[index].http ?? (unsafe begin(index, bytes)) else { return }
    if let fault = unsafe http.receive(bytes) {
      metrics.abuse(fault.abuse)
      connections[index].isEnding = true
    }
  }

  /// The first bytes of a connection: is this HTTP/2 at all?
  private func begin(_ index: Int, _ bytes: UnsafeRawBufferPointer) -> ServerConnection? {
    let preface = unsafe Preface.examine(bytes)
    if preface == .http2, let http = context.open(token: UInt64(index)) {
      connections[index].http = http
      return http
    }
    connections[index].isEnding = true
    switch preface {
    case .http1: answer(Preface.http1Answer, index)
    case .tls where !connections[index].transport.isTLS:
      metrics.abuse(.tlsOnPlaintext)
      notices.note(.tlsOnPlaintext, connections[index].peer)
      answer(FirstBytes.answerOfPlainPort, index)
      return nil
    case .http2, .tls, .unknown: break
    }
    metrics.abuse(.protocolError)
    return nil
  }

  private func answer(_ text: StaticString, _ index: Int) {
    // A constant of that length.
    unsafe keepUnsent(
      UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount), of: index)
  }

  /// A peer that does not take its responses off the socket is not read any further. One that only gives
  /// no credit for them is: credit comes by reading, and streams and buffers are bounded anyway.
  private func updateReading(_ index: Int, _ http: ServerConnection, at nowNanoseconds: Int64) {
    let pauses =
      !connections[index].unsent.isEmpty && http.queuedBytes > limits.unsentBytesMax
    // Streaming calls that had to wait for their peer may go on.
    if http.isDataPaused, http.queuedBytes <= limits.unsentBytesMax / 2 {
      resumable.append(index)
    }
    if connections[index].isReadingPaused == pauses { return }
    connections[index].isReadingPaused = pauses
    if !pauses { connections[index].resumedNanoseconds = nowNanoseconds }
    updateInterest(index)
  }

  // MARK: Streaming calls that wait for their peer

  /// Streaming calls that were left off may go on.
  var hasResumable: Bool { !resumable.isEmpty }

  /// Gives `data` events to the streaming calls that may go on.
  func resumeStreamingCalls() {
    if resumable.isEmpty { return }
    for index in resumable { connections[index].http?.resumeData() }
    resumable.removeAll(keepingCapacity: true)
  }

  // MARK: Writing

  /// Writes what the connections that were touched have to say, with one write each where that is
  /// enough. Streams may end by it, and then there are events.
  func flushTouched(at nowNanoseconds: Int64) {
    handshakesLeft = Self.handshakesPerTurnMax
    connections.takeTouched { flush($0, at: nowNanoseconds) }
  }

  private func flush(_ index: Int, at nowNanoseconds: Int64) {
    guard connections[index].descriptor >= 0 else { return }
    guard sendUnsent(index, at: nowNanoseconds) else { return }
    if let http = connections[index].http {
      var written = 0
      while http.wantsWrite {
        http.fillOutput()
        written += unsafe context.output.count
        guard writeOutput(index, at: nowNanoseconds) else { return }
        // A peer that reads as fast as we write must not keep the loop from the others.
        if written > Self.writtenPerTurnMax { return connections.touch(index) }
      }
      if http.isFinished {
        if http.drainingCount > 0 {
          // The end of the connection must not come before theirs: a client that has not ended its side of a
          // call takes it for the end of the call (grpc's C core).
          http.resetDraining()
          return flush(index, at: nowNanoseconds)
        }
        connections[index].isEnding = true
      }
      noteCalls(index, http, at: nowNanoseconds)
      updateReading(index, http, at: nowNanoseconds)
    }
    watchForWriting(index, false)
    if connections[index].isEnding { linger(index, at: nowNanoseconds) }
  }

  /// Writes down whether there are calls, or were some since the last time.
  private func noteCalls(_ index: Int, _ http: ServerConnection, at nowNanoseconds: Int64) {
    let isBusy = http.streamCount > 0
    let lastStream = http.lastStream
    if isBusy || connections[index].isBusy || lastStream != connections[index].lastStream {
      connections[index].idleSinceNanoseconds = nowNanoseconds
      connections[index].isBusy = isBusy
      connections[index].lastStream = lastStream
    }
  }

  /// Sends what an earlier write left. False where there is still some, or the connection is gone.
  private func sendUnsent(_ index: Int, at nowNanoseconds: Int64) -> Bool {
    while !connections[index].unsent.isEmpty {
      switch connections[index].unsent.send(over: connections[index].transport) {
      case .moved(let count):
        metrics.sent(bytes: count)
        unsentBytes -= count
        connections[index].progressNanoseconds = nowNanoseconds
      case .wouldBlock(let readiness):
        watchForWriting(index, true, onceReadable: readiness == .readable)
        return false
      case .ended, .failed:
        close(index)
        return false
      }
    }
    return true
  }

  /// Writes the context's output. False where some is left over, or the connection is gone.
  private func writeOutput(_ index: Int, at nowNanoseconds: Int64) -> Bool {
    defer { context.clearOutput() }
    let output = unsafe context.output
    if unsafe output.isEmpty { return true }
    var onceReadable = false
    switch unsafe connections[index].transport.write(from: output) {
    case .moved(let count):
      metrics.sent(bytes: count)
      connections[index].progressNanoseconds = nowNanoseconds
      if count == output.count { return true }
      unsafe keepUnsent(UnsafeRawBufferPointer(rebasing: output[count...]), of: index)
    case .wouldBlock(let readiness):
      onceReadable = readiness == .readable
      unsafe keepUnsent(output, of: index)
    case .ended, .failed:
      close(index)
      return false
    }
    guard connections[index].descriptor >= 0 else { return false }
    watchForWriting(index, true, onceReadable: onceReadable)
    if let http = connections[index].http {
      updateReading(index, http, at: nowNanoseconds)
    }
    return false
  }

  /// Keeps what the socket did not take. Where all such bytes come to more than the loop has room for,
  /// those give way whose peers have not read for the longest.
  private func keepUnsent(_ bytes: UnsafeRawBufferPointer, of index: Int) {
    while unsentBytes + bytes.count > limits.http2.bufferedBytesMax {
      metrics.abuse(.slowReader)
      guard let other = longestStalled() else { return close(index) }
      close(other)
    }
    unsentBytes += bytes.count
    unsafe connections[index].unsent.keep(bytes)
  }

  /// Of the connections with unsent bytes the one whose peer took some least recently.
  private func longestStalled() -> Int? {
    var found: Int?
    var since = Int64.max
    for index in 0..<connections.usedCount where !connections[index].unsent.isEmpty {
      if connections[index].progressNanoseconds < since {
        since = connections[index].progressNanoseconds
        found = index
      }
    }
    return found
  }

  /// - Parameter onceReadable: TLS can write when the socket can be read.
  private func watchForWriting(_ index: Int, _ watch: Bool, onceReadable: Bool = false) {
    if connections[index].isWatchedForWriting == watch,
      connections[index].writesOnceReadable == onceReadable
    {
      return
    }
    connections[index].isWatchedForWriting = watch
    connections[index].writesOnceReadable = onceReadable
    updateInterest(index)
  }

  private func updateInterest(_ index: Int) {
    let connection = connections[index]
    do {
      try poller.modify(
        connection.descriptor, token: connections.token(index),
        readable: !connection.isReadingPaused || connection.writesOnceReadable,
        writable: connection.isWatchedForWriting && !connection.writesOnceReadable
          || connection.readsOnceWritable)
    } catch {
      close(index)
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
    case .lateFrameFlood: .lateFrames
    case .headerListFlood: .headerList
    case .controlFlood: .slowReader
    case .unfinishedFrame: .frameTimeout
    case .protocolViolation: .protocolError
    }
  }
}
