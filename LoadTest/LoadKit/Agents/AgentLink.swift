// What a coordinator and an agent say to each other, over one TCP connection.
//
//   | bytes | big-endian                                   |
//   |------:|----------------------------------------------|
//   |     4 | length of what follows, 1 or more            |
//   |     1 | kind (AgentFrame.Kind)                       |
//   |       | payload: JSON, but where its kind says so    |
//
// The two begin with a hello each, of fixed bytes: what they are, the version of all that follows, and a
// nonce. Then each proves that it knows the secret, by an HMAC over both nonces: the coordinator first.
// Until then a frame has 256 bytes at most. Nothing is encrypted: who does not trust the network between
// them puts a tunnel there.
internal import Glibc
internal import Posix

/// One message.
struct AgentFrame {
  enum Kind: UInt8 {
    /// Both: 20 bytes of `AgentLink.magic`, 2 of the version, 32 of a nonce.
    case hello = 1
    /// Both: 32 bytes, HMAC-SHA-256.
    case proof = 2
    /// Both: why it ends, in one line of UTF-8.
    case refused = 3
    /// Coordinator: an AgentJob.
    case job = 4
    /// Agent: its threads are connected; an AgentReady.
    case ready = 5
    /// Coordinator: empty. Agent: its monotonic clock, 8 bytes.
    case clock = 6
    /// Coordinator: when the run starts, by the agent's clock, 8 bytes.
    case start = 7
    /// Coordinator: when the measured part begins, likewise.
    case measure = 8
    /// Coordinator: empty; nothing new is begun.
    case stop = 9
    /// Agent: AgentCounts of a slice.
    case slice = 10
    /// Agent: an AgentProgress.
    case progress = 11
    /// Agent: AgentStatistics, once its threads have ended.
    case statistics = 12
    /// Coordinator: empty; the ledger is to be sent. Agent: a piece of it, as Books.encode makes them.
    case ledger = 13
    /// Agent: how many operations there were, 8 bytes.
    case ledgerEnd = 14
  }

  let kind: Kind
  let payload: [UInt8]
}

/// One end of the connection. Confined to one thread.
final class AgentLink {
  static let magic = Array("holdfast-load agent\n".utf8)
  /// Of all that agents and coordinators say. Another one is refused.
  static let version: UInt16 = 1
  /// A frame's length until the peer has proved that it knows the secret, and afterwards.
  private static let lengthBefore = 256
  private static let lengthAfter = 8 << 20
  /// A peer that takes nothing for so long is given up.
  private static let patienceMilliseconds: Int32 = 10_000
  private static let connectNanoseconds: Int64 = 5_000_000_000

  private let socket: FileDescriptor
  private var input: [UInt8] = []
  private var read = 0
  private var part = [UInt8](repeating: 0, count: 65_536)
  private var lengthMaximum = AgentLink.lengthBefore
  private let poller: Poller

  /// - Parameter socket: connected, or about to be.
  init(_ socket: consuming FileDescriptor) throws(LoadError) {
    self.socket = socket
    do throws(Errno) {
      poller = try Poller()
      try poller.add(self.socket.number, token: 0)
    } catch {
      throw LoadError("epoll: \(error)")
    }
  }

  /// Connects to `endpoint`.
  static func connect(to endpoint: Endpoint) throws(LoadError) -> AgentLink {
    do throws(Errno) {
      let socket = try Socket.connect(host: endpoint.host, port: endpoint.port)
      let poller = try Poller()
      try poller.add(socket.number, token: 0, writable: true)
      let deadline = SystemClock.monotonicNanoseconds() + connectNanoseconds
      while try poller.wait(timeoutMilliseconds: 100) == 0 {
        if SystemClock.monotonicNanoseconds() > deadline { throw Errno(code: ETIMEDOUT) }
      }
      if let error = Socket.connectError(socket.number) { throw error }
      let number = socket.take()
      return try AgentLink.made(of: number)
    } catch {
      throw LoadError("\(error); is holdfast-load agent running there?")
    }
  }

  private static func made(of number: Int32) throws(Errno) -> AgentLink {
    do throws(LoadError) {
      return try AgentLink(FileDescriptor(owning: number))
    } catch {
      throw Errno(code: EMFILE)
    }
  }

  // MARK: Sending

  /// - Throws: where the peer is gone, or takes nothing.
  func send(_ kind: AgentFrame.Kind, _ payload: [UInt8] = []) throws(LoadError) {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(payload.count + 5)
    AgentLink.append(UInt32(payload.count + 1), to: &bytes)
    bytes.append(kind.rawValue)
    bytes += payload
    let count = FileDescriptor.write(
      socket.number, bytes, patienceMilliseconds: AgentLink.patienceMilliseconds)
    if count < bytes.count { throw LoadError("the connection is lost") }
  }

  func send(_ kind: AgentFrame.Kind, _ number: Int64) throws(LoadError) {
    var bytes: [UInt8] = []
    AgentLink.append(UInt64(bitPattern: number), to: &bytes)
    try send(kind, bytes)
  }

  /// Says why it ends; a peer that does not hear it is none.
  func refuse(_ reason: String) { try? send(.refused, Array(reason.utf8.prefix(200))) }

  // MARK: Receiving

  /// The next frame; nil where none has come in time.
  ///
  /// - Parameter milliseconds: 0: only what is there.
  /// - Throws: where the peer is gone, or sends what is no frame.
  func next(within milliseconds: Int64) throws(LoadError) -> AgentFrame? {
    let deadline = SystemClock.monotonicNanoseconds() + milliseconds * 1_000_000
    while true {
      if let frame = try parse() { return frame }
      if try receive() { continue }
      let left = (deadline - SystemClock.monotonicNanoseconds()) / 1_000_000
      if left <= 0 { return nil }
      let wait = Int32(min(left + 1, 200))
      do throws(Errno) {
        _ = try poller.wait(timeoutMilliseconds: wait)
      } catch {
        throw LoadError("epoll: \(error)")
      }
    }
  }

  /// Whether bytes came.
  private func receive() throws(LoadError) -> Bool {
    let number = socket.number
    // The array is ours for the length of the call.
    let result = unsafe part.withUnsafeMutableBytes { unsafe FileDescriptor.read(number, into: $0) }
    switch result {
    case .moved(0): throw LoadError("the connection was closed")
    case .moved(let count):
      if read > 0 {
        input.removeFirst(read)
        read = 0
      }
      input += part[..<count]
      return true
    case .wouldBlock: return false
    case .failed(let error): throw LoadError("\(error)")
    }
  }

  private func parse() throws(LoadError) -> AgentFrame? {
    guard input.count - read >= 5 else { return nil }
    let length = Int(AgentLink.number(input[read..<read + 4]))
    guard (1...lengthMaximum).contains(length),
      let kind = AgentFrame.Kind(rawValue: input[read + 4])
    else { throw LoadError("it does not speak holdfast-load's agent protocol") }
    guard input.count - read >= 4 + length else { return nil }
    let payload = Array(input[read + 5..<read + 4 + length])
    read += 4 + length
    return AgentFrame(kind: kind, payload: payload)
  }

  // MARK: Numbers

  private static func append(_ value: some FixedWidthInteger, to bytes: inout [UInt8]) {
    for shift in stride(from: value.bitWidth - 8, through: 0, by: -8) {
      bytes.append(UInt8(truncatingIfNeeded: value >> shift))
    }
  }

  private static func number(_ bytes: some Sequence<UInt8>) -> UInt64 {
    bytes.reduce(0) { $0 << 8 | UInt64($1) }
  }

  /// The number of a frame that has one.
  static func number(in frame: AgentFrame) throws(LoadError) -> Int64 {
    guard frame.payload.count == 8 else { throw LoadError("it sent a number of no 8 bytes") }
    return Int64(bitPattern: number(frame.payload))
  }

  // MARK: Hello

  /// Both sides say what they are, then prove that they know the secret.
  ///
  /// - Parameter isCoordinator: it begins.
  /// - Throws: in one line why they do not go together. The peer was told.
  func greet(isCoordinator: Bool, secret: [UInt8]) throws(LoadError) {
    let nonce = (0..<4).flatMap { _ in
      var bytes: [UInt8] = []
      AgentLink.append(Machine.random64(), to: &bytes)
      return bytes
    }
    var hello = AgentLink.magic
    AgentLink.append(AgentLink.version, to: &hello)
    if isCoordinator { try send(.hello, hello + nonce) }
    let theirs = try AgentLink.nonce(of: try expect(.hello), self)
    if !isCoordinator { try send(.hello, hello + nonce) }
    let nonces = isCoordinator ? nonce + theirs : theirs + nonce
    func proof(ofCoordinator: Bool) -> [UInt8] {
      MessageDigest.hmac(
        key: secret, Array((ofCoordinator ? "coordinator" : "agent").utf8) + nonces)
    }
    if isCoordinator { try send(.proof, proof(ofCoordinator: true)) }
    let answer = try expect(.proof)
    guard MessageDigest.areEqual(answer, proof(ofCoordinator: !isCoordinator)) else {
      refuse("the secret is another one")
      throw LoadError("its secret is another one")
    }
    if !isCoordinator { try send(.proof, proof(ofCoordinator: false)) }
    lengthMaximum = AgentLink.lengthAfter
  }

  /// The payload of the next frame, which has to be of that kind.
  ///
  /// - Parameter endsBySignal: somebody who waits for it may end the program. Not once a run has begun:
  ///   what it has shown by then is collected all the same.
  func expect(
    _ kind: AgentFrame.Kind, within milliseconds: Int64 = 5_000, endsBySignal: Bool = true
  ) throws(LoadError) -> [UInt8] {
    let deadline = SystemClock.monotonicNanoseconds() + milliseconds * 1_000_000
    var frame = try next(within: min(200, milliseconds))
    while frame == nil, SystemClock.monotonicNanoseconds() < deadline {
      if endsBySignal, let signal = EndSignals.received {
        throw LoadError("interrupted by signal \(signal)")
      }
      frame = try next(within: 200)
    }
    guard let frame else { throw LoadError("it does not answer") }
    if frame.kind == .refused { throw LoadError("it says: \(AgentLink.text(frame.payload))") }
    guard frame.kind == kind else { throw LoadError("it sent what was not expected of it") }
    return frame.payload
  }

  /// A line of the peer's, fit to be shown.
  static func text(_ bytes: [UInt8]) -> String {
    agentText(String(decoding: bytes.prefix(200), as: UTF8.self))
  }

  private static func nonce(of hello: [UInt8], _ link: AgentLink) throws(LoadError) -> [UInt8] {
    guard hello.count >= magic.count + 2, hello.starts(with: magic) else {
      throw LoadError("it does not speak holdfast-load's agent protocol")
    }
    let theirs = UInt16(truncatingIfNeeded: number(hello[magic.count..<magic.count + 2]))
    guard theirs == version else {
      let words = "agents and coordinators of versions \(theirs) and \(version) do not go together"
      link.refuse("\(words): use the same holdfast-load")
      throw LoadError("\(words): use the same holdfast-load on both sides")
    }
    guard hello.count == magic.count + 2 + 32 else {
      throw LoadError("it does not speak holdfast-load's agent protocol")
    }
    return Array(hello[(magic.count + 2)...])
  }
}
