// A broker that says what a test tells it to, byte for byte.
package import Messaging
internal import Posix
internal import Synchronization

package struct PeerError: Error, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// The broker's end of a connection. Used by the script's thread.
package final class Peer {
  private static let patience: Int64 = 20_000_000_000

  private let descriptor: FileDescriptor
  private let poller: Poller
  private var input: [UInt8] = []

  fileprivate init(owning number: Int32) throws(Errno) {
    descriptor = FileDescriptor(owning: number)
    poller = try Poller(capacity: 1)
    try poller.add(number, token: 0)
  }

  package func send(_ bytes: [UInt8]) throws {
    var rest = bytes[...]
    let end = SystemClock.monotonicNanoseconds() + Self.patience
    while !rest.isEmpty {
      switch unsafe rest.withUnsafeBytes({ unsafe FileDescriptor.send(descriptor.number, from: $0) }
      ) {
      case .moved(let count): rest = rest.dropFirst(count)
      case .wouldBlock:
        guard SystemClock.monotonicNanoseconds() < end else { throw PeerError("nobody reads") }
        try poller.modify(descriptor.number, token: 0, readable: false, writable: true)
        _ = try poller.wait(timeoutMilliseconds: 1000)
        try poller.modify(descriptor.number, token: 0, readable: true, writable: false)
      case .failed(let error): throw error
      }
    }
  }

  private func read(_ count: Int) throws -> [UInt8] {
    var part = [UInt8](repeating: 0, count: 65_536)
    let end = SystemClock.monotonicNanoseconds() + Self.patience
    while input.count < count {
      switch unsafe part.withUnsafeMutableBytes({
        unsafe FileDescriptor.read(descriptor.number, into: $0)
      }) {
      case .moved(0): throw PeerError("it has hung up")
      case .moved(let moved): input += part[..<moved]
      case .wouldBlock:
        guard SystemClock.monotonicNanoseconds() < end else { throw PeerError("it says nothing") }
        _ = try poller.wait(timeoutMilliseconds: 1000)
      case .failed(let error): throw error
      }
    }
    defer { input.removeFirst(count) }
    return Array(input[..<count])
  }

  /// The next frame, heartbeats too.
  package func anyFrame() throws -> (kind: UInt8, channel: UInt16, payload: [UInt8]) {
    let head = try read(7)
    let count = Int(head[3]) << 24 | Int(head[4]) << 16 | Int(head[5]) << 8 | Int(head[6])
    let payload = try read(count)
    guard try read(1) == [0xce] else { throw PeerError("a frame without its end") }
    return (head[0], UInt16(head[1]) << 8 | UInt16(head[2]), payload)
  }

  package func nextFrame() throws -> (kind: UInt8, channel: UInt16, payload: [UInt8]) {
    while true {
      let frame = try anyFrame()
      if frame.kind != 8 { return frame }
    }
  }

  /// The next frame has to be this method. Its arguments.
  @discardableResult
  package func expect(_ number: UInt32, channel: UInt16 = 1) throws -> [UInt8] {
    let frame = try nextFrame()
    guard frame.kind == 1, frame.channel == channel, Array(frame.payload.prefix(4)) == u32(number)
    else { throw PeerError("\(frame) instead of method \(number)") }
    return Array(frame.payload.dropFirst(4))
  }

  /// A message as it comes: publish, header, bodies. The arguments of publish, the header's payload, the body.
  package func expectMessage() throws -> (publish: [UInt8], header: [UInt8], body: [UInt8]) {
    let publish = try expect(M.publish)
    let header = try nextFrame()
    guard header.kind == 2 else { throw PeerError("no header") }
    let size = header.payload[4..<12].reduce(0) { $0 << 8 | Int($1) }
    var body: [UInt8] = []
    while body.count < size {
      let part = try nextFrame()
      guard part.kind == 3 else { throw PeerError("no body") }
      body += part.payload
    }
    return (publish, header.payload, body)
  }

  /// What of the login has come to an end.
  package enum Phase: CaseIterable {
    case connected, header, startOK, tuneOK, open, channelOpen, select
  }

  /// What it says of itself.
  package struct Manners {
    package var mechanisms = "PLAIN AMQPLAIN"
    package var channelsMax: UInt16 = 2047
    package var frameBytesMax: UInt32 = 131_072
    package var heartbeatSeconds: UInt16 = 60

    package init() {}
  }

  /// Logs a client in, up to a phase.
  /// - Returns: the arguments of the last method that came.
  @discardableResult
  package func logIn(_ manners: Manners = Manners(), until phase: Phase? = nil) throws -> [UInt8] {
    if phase == .connected { return [] }
    guard try read(8) == Array("AMQP\u{0}\u{0}\u{9}\u{1}".utf8) else { throw PeerError("no AMQP") }
    if phase == .header { return [] }
    try send(
      method(
        M.start, [0, 9] + long([]) + long(manners.mechanisms) + long("en_US"), channel: 0))
    let startOK = try expect(M.startOK, channel: 0)
    if phase == .startOK { return startOK }
    try send(
      method(
        M.tune,
        u16(manners.channelsMax) + u32(manners.frameBytesMax) + u16(manners.heartbeatSeconds),
        channel: 0))
    let tuneOK = try expect(M.tuneOK, channel: 0)
    if phase == .tuneOK { return tuneOK }
    let open = try expect(M.open, channel: 0)
    if phase == .open { return open }
    try send(method(M.openOK, short(""), channel: 0))
    try expect(M.channelOpen)
    if phase == .channelOpen { return [] }
    try send(method(M.channelOpenOK, long("")))
    try expect(M.select)
    if phase == .select { return [] }
    try send(method(M.selectOK))
    return []
  }

  /// Answers basic.qos and basic.consume.
  package func beginDeliveries() throws {
    try expect(M.qos)
    try send(method(M.qosOK))
    let consume = try expect(M.consume)
    let queue = Int(consume[2])
    try send(
      method(M.consumeOK, Array(consume[(3 + queue)..<(4 + queue + Int(consume[3 + queue]))])))
  }

  /// Nothing more comes from here.
  package func endSending() { Socket.endSending(descriptor.number) }

  /// Reads until the client hangs up, and lets it go.
  package func waitForEnd() {
    while let frame = try? anyFrame() {
      if frame.kind == 1, Array(frame.payload.prefix(4)) == u32(M.close) {
        try? send(method(M.closeOK, channel: 0))
      }
    }
  }
}

/// Listens on a port of its own, and runs a script for each connection that comes, one after the other.
package final class ScriptedPeer: Sendable {
  package let port: UInt16
  private let listener: Int32
  private let wakeup: Wakeup
  private let outcome = Mutex<[String]>([])
  private let thread = Mutex<Thread?>(nil)

  package init(
    host: String = "127.0.0.1", port: UInt16 = 0,
    _ script: @escaping @Sendable (Peer) throws -> Void
  ) throws {
    let socket = try Socket.listen(host: host, port: port)
    self.port = try Socket.localPort(socket.number)
    listener = socket.take()
    wakeup = try Wakeup()
    let thread = try Thread(name: "peer") { [listener, wakeup, outcome = self] in
      outcome.run(listener, wakeup, script)
    }
    self.thread.withLock { $0 = thread }
  }

  private func run(
    _ listener: Int32, _ wakeup: Wakeup, _ script: @Sendable (Peer) throws -> Void
  ) {
    do {
      let poller = try Poller(capacity: 2)
      try poller.add(listener, token: 0)
      try poller.add(wakeup.number, token: 1)
      while true {
        let count = try poller.wait(timeoutMilliseconds: -1)
        if (0..<count).contains(where: { poller.event(at: $0).token == 1 }) { return }
        guard case .connection(let number) = Socket.accept(listener) else { continue }
        do { try script(try Peer(owning: number)) } catch {
          outcome.withLock { $0.append("\(error)") }
        }
      }
    } catch {
      outcome.withLock { $0.append("\(error)") }
    }
  }

  /// Waits for the script's end. What went wrong in it.
  package func finish() -> [String] {
    wakeup.signal()
    thread.withLock { $0.take() }?.join()
    return outcome.withLock { $0 }
  }

  deinit { FileDescriptor.close(number: listener) }

  package func access(
    _ user: String = "shop:word@", host: String = "127.0.0.1", vhost: String = "orders"
  )
    -> BrokerAccess
  {
    BrokerAccess(
      BrokerAddress("amqp://\(user)\(host):\(port)/\(vhost)")!, program: "holdfast-test/1.0")
  }

}
