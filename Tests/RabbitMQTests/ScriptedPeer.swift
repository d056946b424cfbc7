// A broker that says what a test tells it to, byte for byte.
import Messaging
import Posix
import Synchronization

@testable import RabbitMQ

/// Numbers of methods, class and number.
enum M {
  static let start: UInt32 = 0x000a_000a
  static let startOK: UInt32 = 0x000a_000b
  static let secure: UInt32 = 0x000a_0014
  static let tune: UInt32 = 0x000a_001e
  static let tuneOK: UInt32 = 0x000a_001f
  static let open: UInt32 = 0x000a_0028
  static let openOK: UInt32 = 0x000a_0029
  static let close: UInt32 = 0x000a_0032
  static let closeOK: UInt32 = 0x000a_0033
  static let blocked: UInt32 = 0x000a_003c
  static let unblocked: UInt32 = 0x000a_003d
  static let channelOpen: UInt32 = 0x0014_000a
  static let channelOpenOK: UInt32 = 0x0014_000b
  static let channelClose: UInt32 = 0x0014_0028
  static let channelCloseOK: UInt32 = 0x0014_0029
  static let flow: UInt32 = 0x0014_0014
  static let flowOK: UInt32 = 0x0014_0015
  static let exchangeDeclare: UInt32 = 0x0028_000a
  static let exchangeDeclareOK: UInt32 = 0x0028_000b
  static let queueDeclare: UInt32 = 0x0032_000a
  static let queueDeclareOK: UInt32 = 0x0032_000b
  static let queueBind: UInt32 = 0x0032_0014
  static let queueBindOK: UInt32 = 0x0032_0015
  static let qos: UInt32 = 0x003c_000a
  static let qosOK: UInt32 = 0x003c_000b
  static let consume: UInt32 = 0x003c_0014
  static let consumeOK: UInt32 = 0x003c_0015
  static let cancel: UInt32 = 0x003c_001e
  static let publish: UInt32 = 0x003c_0028
  static let `return`: UInt32 = 0x003c_0032
  static let deliver: UInt32 = 0x003c_003c
  static let ack: UInt32 = 0x003c_0050
  static let nack: UInt32 = 0x003c_0078
  static let select: UInt32 = 0x0055_000a
  static let selectOK: UInt32 = 0x0055_000b
}

// Bytes as AMQP has them, written here once more: the tests do not trust the module's.

func u16(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 255)] }

func u32(_ value: UInt32) -> [UInt8] { u16(UInt16(value >> 16)) + u16(UInt16(value & 0xffff)) }

func u64(_ value: UInt64) -> [UInt8] { u32(UInt32(value >> 32)) + u32(UInt32(value & 0xffff_ffff)) }

func short(_ text: String) -> [UInt8] { [UInt8(text.utf8.count)] + Array(text.utf8) }

func long(_ bytes: [UInt8]) -> [UInt8] { u32(UInt32(bytes.count)) + bytes }

func long(_ text: String) -> [UInt8] { long(Array(text.utf8)) }

func frame(_ kind: UInt8, _ channel: UInt16, _ payload: [UInt8]) -> [UInt8] {
  [kind] + u16(channel) + u32(UInt32(payload.count)) + payload + [0xce]
}

func method(_ number: UInt32, _ arguments: [UInt8] = [], channel: UInt16 = 1) -> [UInt8] {
  frame(1, channel, u32(number) + arguments)
}

func close(_ code: UInt16, _ text: String, about: UInt32 = 0) -> [UInt8] {
  u16(code) + short(text) + u32(about)
}

func deliver(
  _ tag: UInt64, consumer: String = "0", redelivered: Bool = false
) -> [UInt8] {
  method(
    M.deliver, short(consumer) + u64(tag) + [redelivered ? 1 : 0] + short("x") + short("key"))
}

/// A header frame: class, weight, size of the body, properties.
func header(_ size: UInt64, _ properties: [UInt8] = u16(0)) -> [UInt8] {
  frame(2, 1, u16(60) + u16(0) + u64(size) + properties)
}

func body(_ bytes: [UInt8]) -> [UInt8] { frame(3, 1, bytes) }

struct PeerError: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// The broker's end of a connection. Used by the script's thread.
final class Peer {
  private static let patience: Int64 = 20_000_000_000

  private let descriptor: FileDescriptor
  private let poller: Poller
  private var input: [UInt8] = []

  fileprivate init(owning number: Int32) throws(Errno) {
    descriptor = FileDescriptor(owning: number)
    poller = try Poller(capacity: 1)
    try poller.add(number, token: 0)
  }

  func send(_ bytes: [UInt8]) throws {
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
  func anyFrame() throws -> (kind: UInt8, channel: UInt16, payload: [UInt8]) {
    let head = try read(7)
    let count = Int(head[3]) << 24 | Int(head[4]) << 16 | Int(head[5]) << 8 | Int(head[6])
    let payload = try read(count)
    guard try read(1) == [0xce] else { throw PeerError("a frame without its end") }
    return (head[0], UInt16(head[1]) << 8 | UInt16(head[2]), payload)
  }

  func nextFrame() throws -> (kind: UInt8, channel: UInt16, payload: [UInt8]) {
    while true {
      let frame = try anyFrame()
      if frame.kind != 8 { return frame }
    }
  }

  /// The next frame has to be this method. Its arguments.
  @discardableResult
  func expect(_ number: UInt32, channel: UInt16 = 1) throws -> [UInt8] {
    let frame = try nextFrame()
    guard frame.kind == 1, frame.channel == channel, Array(frame.payload.prefix(4)) == u32(number)
    else { throw PeerError("\(frame) instead of method \(number)") }
    return Array(frame.payload.dropFirst(4))
  }

  /// A message as it comes: publish, header, bodies. The arguments of publish, the header's payload, the body.
  func expectMessage() throws -> (publish: [UInt8], header: [UInt8], body: [UInt8]) {
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
  enum Phase: CaseIterable {
    case connected, header, startOK, tuneOK, open, channelOpen, select
  }

  /// What it says of itself.
  struct Manners {
    var mechanisms = "PLAIN AMQPLAIN"
    var channelsMax: UInt16 = 2047
    var frameBytesMax: UInt32 = 131_072
    var heartbeatSeconds: UInt16 = 60
  }

  /// Logs a client in, up to a phase.
  /// - Returns: the arguments of the last method that came.
  @discardableResult
  func logIn(_ manners: Manners = Manners(), until phase: Phase? = nil) throws -> [UInt8] {
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
  func beginDeliveries() throws {
    try expect(M.qos)
    try send(method(M.qosOK))
    let consume = try expect(M.consume)
    let queue = Int(consume[2])
    try send(
      method(M.consumeOK, Array(consume[(3 + queue)..<(4 + queue + Int(consume[3 + queue]))])))
  }

  /// Reads until the client hangs up, and lets it go.
  func waitForEnd() {
    while let frame = try? anyFrame() {
      if frame.kind == 1, Array(frame.payload.prefix(4)) == u32(M.close) {
        try? send(method(M.closeOK, channel: 0))
      }
    }
  }
}

/// Listens on a port of its own, and runs a script for each connection that comes, one after the other.
final class ScriptedPeer: Sendable {
  let port: UInt16
  private let listener: Int32
  private let wakeup: Wakeup
  private let outcome = Mutex<[String]>([])
  private let thread = Mutex<Thread?>(nil)

  init(_ script: @escaping @Sendable (Peer) throws -> Void) throws {
    let socket = try Socket.listen(host: "127.0.0.1", port: 0)
    port = try Socket.localPort(socket.number)
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
  func finish() -> [String] {
    wakeup.signal()
    thread.withLock { $0.take() }?.join()
    return outcome.withLock { $0 }
  }

  deinit { FileDescriptor.close(number: listener) }

  func access(_ user: String = "shop:word@", host: String = "127.0.0.1", vhost: String = "orders")
    -> BrokerAccess
  {
    BrokerAccess(
      BrokerAddress("amqp://\(user)\(host):\(port)/\(vhost)")!, program: "holdfast-test/1.0")
  }

  func connect() throws(BrokerError) -> RabbitMQConnection {
    try RabbitMQConnection.connect(access())
  }
}

/// What became of a test's connection.
func told(
  _ connection: RabbitMQConnection, until count: Int = 1
) throws(BrokerError) -> [BrokerNotice] {
  var notices: [BrokerNotice] = []
  let end = SystemClock.monotonicNanoseconds() + 20_000_000_000
  while notices.count < count, SystemClock.monotonicNanoseconds() < end {
    try connection.poll(milliseconds: 1000) { notices.append($0) }
  }
  return notices
}

/// The error that a connection ends with.
/// - Parameter take: is told what comes before.
func ending(
  _ connection: RabbitMQConnection, _ take: (BrokerNotice) -> Void = { _ in }
) -> BrokerError? {
  let end = SystemClock.monotonicNanoseconds() + 20_000_000_000
  while SystemClock.monotonicNanoseconds() < end {
    do throws(BrokerError) { try connection.poll(milliseconds: 1000, take) } catch {
      return error
    }
  }
  return nil
}

/// The same in words: of notices, what they are about.
func words(_ notices: [BrokerNotice]) -> [String] {
  notices.map { notice in
    switch notice {
    case .confirmed(let number): "confirmed \(number)"
    case .refused(let number, let reason, _): "refused \(number) \(reason)"
    case .postponed(let number, _): "postponed \(number)"
    case .delivery(let delivery): "delivery \(delivery.tag)"
    case .blocked(let reason): "blocked \(reason ?? "no more")"
    }
  }
}
