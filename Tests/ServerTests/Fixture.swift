// A server with a handler that does what a test tells it.
import GRPC
import HTTP2
import Metrics
import Posix
import Server
import Synchronization
import Testing

let millisecond: Int64 = 1_000_000
let second: Int64 = 1_000_000_000

/// What the handlers of all loops did, and what they are to do.
final class Board: Sendable {
  struct State {
    var durableLSN: UInt64 = 0
    /// Late answers may go out.
    var isReleased = false
    /// Calls executed, by loop and by method.
    var executedByLoop: [Int: Int] = [:]
    var executed: [Int: Int] = [:]
    var cancelled: [CallID] = []
    var drains = 0
    var wakes: [@Sendable () -> Void] = []
  }

  private let state = Mutex(State())

  func read<R: Sendable>(_ body: (borrowing State) -> R) -> R { state.withLock { body($0) } }

  func change(_ body: (inout State) -> Void) { state.withLock { body(&$0) } }

  /// Makes everything up to `lsn` durable, and wakes the loops.
  func makeDurable(upTo lsn: UInt64) {
    change { $0.durableLSN = lsn }
    wake()
  }

  /// Lets the late answers out.
  func release() {
    change { $0.isReleased = true }
    wake()
  }

  private func wake() { for wake in read({ $0.wakes }) { wake() } }
}

/// What it answers is in the message and in the method's name.
final class FakeHandler: CallHandler {
  enum Method: Int, CaseIterable {
    /// The message.
    case echo
    /// A failure with the message's first byte as its code and the message as its details.
    case fail
    /// The message, once the LSN in its first byte is durable; a failure where there is a second byte.
    case durable
    /// The message, when it is released.
    case later
    /// So many KiB as the message's first byte says, once the LSN in its second byte is durable.
    case big
    /// A stream that begins with the message and does not end.
    case watch
    /// Each message comes back; one that begins with 255 is a failure.
    case chat

    var type: MethodType {
      switch self {
      case .watch: .serverStreaming
      case .chat: .bidirectional
      default: .unary
      }
    }

    var name: String { "\(self)" }
  }

  static let methods = Method.allCases.map {
    MethodDescriptor(
      service: "test.Service", method: $0.name, type: $0.type, isReservation: $0 == .durable)
  }

  private let board: Board
  private let loop: Int
  private var late: [(call: CallID, message: [UInt8])] = []

  init(board: Board, loop: Int) {
    self.board = board
    self.loop = loop
  }

  func method(atPath path: Span<UInt8>) -> Int? {
    let text = String(decoding: path.indices.map { path[$0] }, as: UTF8.self)
    return Self.methods.firstIndex { $0.path == text }
  }

  func beginTurn() {}
  func endTurn() {}
  var durableLSN: UInt64 { board.read { $0.durableLSN } }
  func drain() { board.change { $0.drains += 1 } }

  func cancelled(_ call: CallID) {
    board.change { $0.cancelled.append(call) }
    late.removeAll { $0.call == call }
  }

  func reject(_ rejection: Rejection, reply: Reply) {
    reply.fail(rejection.code)
    reply.append(rejection.text)
    reply.beginDetails()
    reply.append(rejection.reason)
    if rejection.code == .unavailable { reply.retryMilliseconds = 250 }
  }

  func handle(
    method: Int, message: Span<UInt8>, caller: Span<UInt8>, call: CallID, reply: Reply
  ) -> Completion {
    board.change {
      $0.executedByLoop[loop, default: 0] += 1
      $0.executed[method, default: 0] += 1
    }
    let first = message.isEmpty ? 0 : message[0]
    switch Method(rawValue: method) {
    case .fail:
      reply.fail(StatusCode(rawValue: Int(first)) ?? .unknown)
      reply.append("100% größer\n")
      reply.beginDetails()
      reply.append(message)
    case .durable:
      if message.count > 1 {
        reply.fail(.aborted)
        reply.retryMilliseconds = Int32(message[1])
        reply.beginDetails()
      } else {
        reply.append(message)
      }
      return .reply(lsn: UInt64(first))
    case .later:
      late.append((call, message.indices.map { message[$0] }))
      return .later
    case .big:
      let kibibyte = [UInt8](repeating: first, count: 1024)
      for _ in 0..<first { reply.append(kibibyte.span) }
      return .reply(lsn: message.count > 1 ? UInt64(message[1]) : 0)
    case .chat where first == 255:
      reply.fail(.dataLoss)
      reply.append("lost")
      reply.beginDetails()
      reply.append(message)
    default:
      reply.append(message)
      reply.append(caller)
    }
    return .reply(lsn: 0)
  }

  func deliver(to sink: any CallSink) {
    guard !late.isEmpty, board.read({ $0.isReleased }) else { return }
    let reply = Reply()
    for (call, message) in late {
      reply.reset()
      reply.append(message.span)
      sink.send(reply, to: call, ends: true)
    }
    late = []
  }
}

/// A running server.
final class Fixture {
  let board: Board
  let metrics: RPCMetrics
  let server: Server
  private var isOver = false

  static var limits: ServerLimits {
    let plenty = Budget(burst: 1_000_000, perSecond: 1_000_000)
    return ServerLimits(
      http2: HTTP2Limits(
        concurrentStreams: 1024, headerListBytesMax: 16_384, headerBlockBytesMax: 1 << 20,
        headerTableBytes: 4096, bodyBytesMax: 65_541,
        bufferedBytesMax: 256 << 20, connectionWindowBytes: 16 << 20, streamWindowBytes: 1 << 20,
        resets: plenty, pings: plenty, settings: plenty, emptyFrames: plenty,
        lateFrames: plenty),
      messageBytesMax: 65_536, connectionsMax: 1000, unsentBytesMax: 4 << 20,
      handshakeNanosecondsMax: 10 * second, requestNanosecondsMax: 30 * second,
      stalledWriteNanosecondsMax: 60 * second, keepaliveSeconds: 60,
      shutdownNanosecondsMax: 5 * second, waitingReplyBytesMax: 1 << 20)
  }

  init(loops: Int = 1, _ adjust: (inout ServerLimits) -> Void = { _ in }) throws {
    var limits = Self.limits
    adjust(&limits)
    let board = Board()
    let loopNumber = Atomic<Int>(0)
    let counter = Counter(loopNumber)
    self.board = board
    metrics = RPCMetrics(
      methods: FakeHandler.methods.map {
        RPCMethod(service: $0.service, method: $0.method, type: .unary)
      }, nowNanoseconds: { SystemClock.monotonicNanoseconds() })
    server = try Server.start(
      on: try ReservedPort(host: "127.0.0.1", port: 0), loops: loops, limits: limits,
      metrics: metrics
    ) { wake in
      board.change { $0.wakes.append(wake) }
      return FakeHandler(board: board, loop: counter.next())
    }
  }

  deinit { if !isOver { stop() } }

  private final class Counter: Sendable {
    private let value: Atomic<Int>
    init(_ value: consuming Atomic<Int>) { self.value = value }
    func next() -> Int { value.add(1, ordering: .relaxed).oldValue }
  }

  /// Shuts down and waits for the end.
  func stop() {
    isOver = true
    server.shutDown()
    do { try server.wait() } catch { Issue.record("a loop ended early: \(error)") }
  }

  func connect() throws -> Client { try Client(port: server.port) }

  /// A number of the metrics page: the sum over all lines that begin with `name`, and have `code` as
  /// their status code where that is given.
  func metric(_ name: String, with code: String = "") -> Double {
    let page = MetricsPage()
    page.add { [metrics] in metrics.expose(into: &$0) }
    return page.render().split(separator: "\n").filter { $0.hasPrefix(name) }
      .filter { code.isEmpty || $0.contains("grpc_code=\"\(code)\"") }
      .compactMap { $0.split(separator: " ").last.flatMap { Double($0) } }.reduce(0, +)
  }

  /// Looks again and again; false after ten seconds.
  func eventually(_ condition: () -> Bool) -> Bool {
    let deadline = SystemClock.monotonicNanoseconds() + 10 * second
    while !condition() {
      if SystemClock.monotonicNanoseconds() > deadline { return false }
      pause(milliseconds: 2)
    }
    return true
  }
}

/// Lets other threads work.
func pause(milliseconds: Int32) {
  guard let poller = try? Poller(capacity: 1) else { return }
  _ = try? poller.wait(timeoutMilliseconds: milliseconds)
}
