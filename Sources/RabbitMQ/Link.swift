// The socket of a connection to RabbitMQ: frames out, frames in, heartbeats.
internal import Messaging
internal import Posix

/// One connection's bytes. It waits in `receive` alone, and in no system call. Used by one thread.
@safe final class Link {
  /// What we propose for frames, all around included: RabbitMQ's own limit.
  static let frameBytesMax = 131_072
  /// Rather send than collect more.
  private static let sendBytes = 128 << 10
  /// Room that is kept for output.
  private static let outputBytesKept = 1 << 20

  /// Bytes to send: whole frames are appended. What was sent already is `sent`.
  var output: [UInt8] = []
  private var sent = 0
  private var transport: Transport
  /// Outlives `transport`.
  private let tls: TLSClientContext?
  private let poller: Poller
  private var frames: FrameReader
  private var awaitsWriting = false
  /// Why nothing can be sent any more. What the broker says of it may still be there to read.
  private var writeFailure: String?

  /// 0: there are none.
  private var heartbeatNanoseconds: Int64 = 0
  private var lastSent: Int64
  private var lastReceived: Int64

  /// Connects, TLS included.
  /// - Parameters:
  ///   - address: of IP.
  ///   - name: what the certificate has to be of.
  ///   - deadline: of the monotonic clock.
  init(
    address: String, port: UInt16, name: String, tls: TLSClientContext?, deadline: Int64
  ) throws(BrokerError) {
    self.tls = tls
    do throws(Errno) {
      poller = try Poller(capacity: 1)
      let socket = try Socket.connect(host: address, port: port)
      if let tls {
        guard let connection = tls.connect(socket.number, serverName: name) else {
          throw .invalid
        }
        transport = connection
        _ = socket.take()
      } else {
        transport = Transport(plain: socket.take())
      }
    } catch  where error == .invalid && tls != nil {
      throw .unsuitable("'\(name)' cannot be the name of a server")
    } catch {
      throw .away("\(error)")
    }
    let capacity = 2 * Self.frameBytesMax + Transport.readBytesMin
    frames = FrameReader(payloadBytesMax: Self.frameBytesMax, capacity: capacity)
    lastSent = SystemClock.monotonicNanoseconds()
    lastReceived = lastSent
    // From here on `deinit` closes what there is.
    try watchFirst()
    try awaitConnection(deadline)
    try shakeHands(deadline)
  }

  deinit {
    close()
    frames.free()
  }

  private func watchFirst() throws(BrokerError) {
    do throws(Errno) { try poller.add(transport.descriptor, token: 0, writable: true) } catch {
      throw .away("epoll: \(error)")
    }
    awaitsWriting = true
  }

  private func awaitConnection(_ deadline: Int64) throws(BrokerError) {
    guard try wait(until: deadline) else { throw .away("it does not answer") }
    if let error = Socket.connectError(transport.descriptor) { throw .away("\(error)") }
  }

  private func shakeHands(_ deadline: Int64) throws(BrokerError) {
    while transport.isHandshaking {
      switch transport.handshake() {
      case .done: break
      case .wouldBlock(let readiness):
        try watch(forWriting: readiness == .writable)
        guard try wait(until: deadline) else { throw .away("TLS: it does not answer") }
      case .failed(let failure): throw Self.handshakeError(failure)
      }
    }
    try watch(forWriting: false)
  }

  private static func handshakeError(_ failure: TransportFailure) -> BrokerError {
    switch failure {
    case .socket: .away("TLS: \(failure)")
    case .endedInHandshake, .truncated: .away("TLS: \(failure) (does it speak TLS?)")
    // A broker's first words are AMQP, which look like a word of HTTP.
    case .notTLS: .unsuitable("TLS: the port does not speak TLS (amqps:// at a port of amqp://?)")
    case .handshakeTooLarge, .tls: .unsuitable("TLS: \(failure)")
    }
  }

  /// False: the time was over first.
  private func wait(until deadline: Int64) throws(BrokerError) -> Bool {
    while true {
      let left = deadline - SystemClock.monotonicNanoseconds()
      if left <= 0 { return false }
      if try wait(milliseconds: Int32(clamping: left / 1_000_000 + 1)) { return true }
    }
  }

  private func wait(milliseconds: Int32) throws(BrokerError) -> Bool {
    do throws(Errno) { return try poller.wait(timeoutMilliseconds: milliseconds) > 0 } catch {
      throw .away("epoll: \(error)")
    }
  }

  private func watch(forWriting: Bool) throws(BrokerError) {
    if awaitsWriting == forWriting { return }
    awaitsWriting = forWriting
    do throws(Errno) {
      try poller.modify(transport.descriptor, token: 0, readable: true, writable: forWriting)
    } catch {
      throw .away("epoll: \(error)")
    }
  }

  /// Sends what the socket takes of some more bytes at once: for a broker that is about to be left.
  func sayLast(_ append: (inout [UInt8]) -> Void) {
    // Behind a part of a frame nothing else can come.
    if transport.descriptor < 0 || transport.isHandshaking || unsentBytes > 0 { return }
    append(&output)
    try? flush()
  }

  /// Nothing is sent or received behind it.
  func close() {
    if transport.descriptor >= 0 { transport.close() }
    output = []
    sent = 0
  }

  /// Readable for a poller while there is something to receive, or room for what waits to be sent.
  var descriptor: Int32 { poller.number }

  // MARK: Sending

  /// Bytes that the socket has not taken.
  var unsentBytes: Int { output.count - sent }

  /// Enough has come together to be sent.
  var isFull: Bool { unsentBytes >= Self.sendBytes }

  /// Sends what the socket takes.
  func flush() throws(BrokerError) {
    while unsentBytes > 0, writeFailure == nil {
      // The array stays for the length of the call.
      let result = unsafe output.withUnsafeBytes { bytes in
        unsafe transport.write(from: UnsafeRawBufferPointer(rebasing: bytes[sent...]))
      }
      switch result {
      case .moved(let count): sent += count
      case .wouldBlock(let readiness):
        forgetSent()
        return try watch(forWriting: readiness == .writable)
      // Reading ends soon, and what comes before that may say more.
      case .ended: writeFailure = "the broker closed the connection"
      case .failed(let failure): writeFailure = "\(failure)"
      }
    }
    if sent > 0 { lastSent = SystemClock.monotonicNanoseconds() }
    sent = 0
    output.removeAll(keepingCapacity: output.capacity <= Self.outputBytesKept)
    try watch(forWriting: false)
  }

  private func forgetSent() {
    guard sent > Self.outputBytesKept, sent > output.count / 2 else { return }
    output.removeSubrange(..<sent)
    sent = 0
  }

  // MARK: Receiving

  /// Waits for bytes for at most so long, sends meanwhile what waits, and reads once. Frames that were given out are gone.
  func receive(milliseconds: Int32) throws(BrokerError) {
    let now = SystemClock.monotonicNanoseconds()
    let patience = heartbeatNanoseconds == 0 ? .max : nextHeartbeat - now
    let wait = min(Int64(milliseconds), max(0, patience / 1_000_000 + 1))
    if try self.wait(milliseconds: Int32(clamping: wait)) {
      try flush()
      try read()
    }
    try keepAlive()
  }

  private func read() throws(BrokerError) {
    let room = unsafe frames.room()
    switch unsafe transport.read(into: room) {
    case .moved(let count):
      frames.received(count)
      lastReceived = SystemClock.monotonicNanoseconds()
    case .wouldBlock: break
    case .ended: throw .away(writeFailure ?? "the broker closed the connection")
    // With TLS 1.3 a broker says only then that it does not take the client's certificate.
    case .failed(.tls(let error)) where error.isOurCertificateRejected:
      throw .unsuitable("TLS: \(error)")
    case .failed(let failure): throw .away("\(failure)")
    }
  }

  /// The next frame that has come as a whole, heartbeats left out. It is gone with the next `receive`.
  func nextFrame() throws(BrokerError) -> Frame? {
    while let frame = try frames.next() {
      if frame.kind != .heartbeat { return frame }
    }
    return nil
  }

  // MARK: Heartbeats

  /// As agreed with the broker; 0: none.
  func beginHeartbeats(seconds: UInt16) {
    heartbeatNanoseconds = Int64(seconds) * 1_000_000_000
  }

  private var nextHeartbeat: Int64 {
    min(lastSent + heartbeatNanoseconds / 2, lastReceived + 2 * heartbeatNanoseconds)
  }

  private func keepAlive() throws(BrokerError) {
    if heartbeatNanoseconds == 0 { return }
    let now = SystemClock.monotonicNanoseconds()
    // AMQP 0-9-1, section 4.2.7.
    if now - lastReceived > 2 * heartbeatNanoseconds {
      let seconds = 2 * heartbeatNanoseconds / 1_000_000_000
      throw .away("nothing came from the broker for \(seconds) s")
    }
    if now - lastSent >= heartbeatNanoseconds / 2 {
      // Where bytes wait already, they tell that we are alive as soon as they can leave.
      lastSent = now
      if unsentBytes == 0 {
        output.appendFrame(.heartbeat, channel: 0, byteCount: 0)
        output.append(Frame.end)
      }
      try flush()
    }
  }
}
