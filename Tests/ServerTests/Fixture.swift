// A server with a handler that does what a test tells it.
import Bytes
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
    /// Header blocks that were asked about.
    var starts = 0
    var authenticationGeneration: UInt64 = 0
    /// Streams of responses that had to wait, and that went on.
    var fulls = 0
    var resumes = 0
    var floodsDone = 0
    /// Parts of batches: in which iteration of its loop, of which call, and how many bytes of them.
    var parts: [Part] = []
    var wakes: [@Sendable () -> Void] = []
  }

  struct Part {
    let turn: Int
    let call: CallID
    let count: Int
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
  func expect(_ message: Span<UInt8>, of call: Call) {}

  enum Method: Int, CaseIterable {
    /// The message, and the caller's name.
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
    /// The number of messages and the sum of their bytes; a message that begins with 255 is a failure.
    case sum
    /// As many messages of 1 KiB as the message's first byte says, as fast as the client reads.
    case flood
    /// Each message comes back once the LSN in its first byte is durable; as a failure where it has a
    /// second byte.
    case log
    /// Batched: each byte of a message is a request and comes back, once the LSN in the first is durable. A
    /// message that begins with 255 is a failure.
    case batch, batches

    var type: MethodType {
      switch self {
      case .watch, .flood: .serverStreaming
      case .chat, .log, .batches: .bidirectional
      case .sum: .clientStreaming
      default: .unary
      }
    }

    var name: String { "\(self)" }
  }

  static let metadata: [StaticString] = ["caller", "refuse"]
  static let methods = Method.allCases.map {
    MethodDescriptor(
      service: "test.Service", method: $0.name, type: $0.type, hasLatencyQuantiles: $0 == .durable,
      isBatched: $0 == .batch || $0 == .batches)
  }

  private let board: Board
  private let loop: Int
  private var turn = 0
  private var late: [(call: CallID, message: [UInt8])] = []
  private var sums: [CallID: (count: Int, sum: Int)] = [:]
  /// Messages that a call is still to get, and whether it waits for its client.
  private var floods: [CallID: (next: UInt8, end: UInt8, isFull: Bool)] = [:]

  init(board: Board, loop: Int) {
    self.board = board
    self.loop = loop
  }

  func method(atPath path: Span<UInt8>) -> Int? {
    let text = String(decoding: path.indices.map { path[$0] }, as: UTF8.self)
    return Self.methods.firstIndex { $0.path == text }
  }

  func beginTurn() { turn += 1 }
  func endTurn() {}
  var hasBacklog: Bool { false }
  var durableLSN: UInt64 { board.read { $0.durableLSN } }
  var authenticationGeneration: UInt64 { board.read { $0.authenticationGeneration } }
  func drain() { board.change { $0.drains += 1 } }

  /// Who is called "lost" is nobody in the second generation.
  func renew(_ principal: Principal, method: Int, response: Response) -> Principal? {
    let isLost = principal.withName { $0.equals("lost") }
    if !isLost || authenticationGeneration < 2 { return principal }
    Self.fail(response, .unauthenticated, "lost")
    return nil
  }

  func cancelled(_ call: CallID) {
    board.change { $0.cancelled.append(call) }
    late.removeAll { $0.call == call }
    sums[call] = nil
    floods[call] = nil
  }

  func reject(_ rejection: Rejection, response: Response) {
    Self.fail(
      response, rejection.code, "\(rejection.text)", Array("\(rejection.reason)".utf8),
      retryMilliseconds: rejection.code == .unavailable ? 250 : 0, httpStatus: rejection.httpStatus)
  }

  private static func fail(
    _ response: Response, _ code: StatusCode, _ text: String, _ details: [UInt8] = [],
    retryMilliseconds: Int32 = 0, httpStatus: Int = 200
  ) {
    let text = Array(text.utf8)
    response.fail(
      code, text.span, details: details.span, retryMilliseconds: retryMilliseconds,
      httpStatus: httpStatus)
  }

  func start(method: Int, headers: RequestHeaders, response: Response) -> Principal? {
    board.change { $0.starts += 1 }
    if headers.hasMetadata(1) {
      Self.fail(response, .permissionDenied, "refused")
      return nil
    }
    return headers.withMetadata(0) { Principal(name: $0, permissions: 0) }
  }

  func handle(_ message: Span<UInt8>, of call: Call, response: Response) -> Completion {
    board.change {
      $0.executedByLoop[loop, default: 0] += 1
      $0.executed[call.method, default: 0] += 1
    }
    let bytes = message.indices.map { message[$0] }
    let first = bytes.first ?? 0
    switch Method(rawValue: call.method) {
    case .fail:
      Self.fail(response, StatusCode(rawValue: Int(first)) ?? .unknown, "100% größer\n", bytes)
    case .durable, .log:
      if bytes.count > 1 {
        Self.fail(response, .aborted, "", retryMilliseconds: Int32(bytes[1]))
      } else {
        response.message.text(message)
      }
      return .respond(lsn: UInt64(first))
    case .later:
      late.append((call.id, bytes))
      return .later
    case .big:
      let kibibyte = [UInt8](repeating: first, count: 1024)
      for _ in 0..<first { response.message.text(kibibyte.span) }
      return .respond(lsn: bytes.count > 1 ? UInt64(bytes[1]) : 0)
    case .flood:
      floods[call.id] = (0, first, false)
      return .later
    case .chat where first == 255:
      Self.fail(response, .dataLoss, "lost", bytes)
    case .sum where first == 255:
      Self.fail(response, .dataLoss, "lost", bytes)
    case .sum:
      let sum = bytes.reduce(0) { $0 + Int($1) }
      let before = sums[call.id] ?? (0, 0)
      sums[call.id] = (before.count + 1, before.sum + sum)
      return .later
    default:
      response.message.text(message)
      let caller = unsafe call.caller
      response.message.text(unsafe caller.span)
    }
    return .respond(lsn: 0)
  }

  func handle(
    _ message: Span<UInt8>, part: inout MessagePart, of call: Call, response: Response
  ) -> Completion {
    if part.offset == 0, !message.isEmpty, message[0] == 255 {
      Self.fail(response, .dataLoss, "lost")
      return .respond(lsn: 0)
    }
    let end = min(message.count, part.offset + part.budget)
    for index in part.offset..<end { response.message.text(byte: message[index]) }
    let done = Board.Part(turn: turn, call: call.id, count: end - part.offset)
    board.change { $0.parts.append(done) }
    part.budget -= end - part.offset
    part.offset = end
    part.lsn = message.isEmpty ? 0 : UInt64(message[0])
    return end == message.count ? .respond(lsn: part.lsn) : .more
  }

  func halfClosed(_ call: Call, response: Response) -> Completion {
    guard Method(rawValue: call.method) == .sum else { return .end }
    let (count, sum) = sums.removeValue(forKey: call.id) ?? (0, 0)
    response.message.text("\(count) \(sum)")
    return .respond(lsn: 0)
  }

  func resumed(_ call: CallID) {
    board.change { $0.resumes += 1 }
    floods[call]?.isFull = false
  }

  func deliver(to sink: any CallSink) {
    for call in floods.keys { flood(call, sink) }
    guard !late.isEmpty, board.read({ $0.isReleased }) else { return }
    for (call, message) in late {
      let delivery = sink.respond(to: call, lsn: 0, ends: true) {
        $0.message.text(message.span)
      }
      #expect(delivery == .taken)
    }
    late = []
  }

  private func flood(_ call: CallID, _ sink: any CallSink) {
    while let state = floods[call], !state.isFull {
      let delivery = sink.respond(to: call, lsn: 0, ends: false) {
        $0.message.text([UInt8](repeating: state.next, count: 1024).span)
      }
      switch delivery {
      case .taken where state.next + 1 == state.end:
        floods[call] = nil
        board.change { $0.floodsDone += 1 }
      case .taken: floods[call]?.next += 1
      case .full:
        floods[call]?.isFull = true
        board.change { $0.fulls += 1 }
      case .gone: floods[call] = nil
      }
    }
  }
}

/// A running server.
final class Fixture {
  let board: Board
  let metrics: RPCMetrics
  let notices = ConnectionNotices()
  let server: Server
  private var isOver = false

  static var limits: ServerLimits {
    let plenty = Budget(burst: 1_000_000, perSecond: 1_000_000)
    return ServerLimits(
      http2: HTTP2Limits(
        concurrentStreams: 1024, headerListBytesMax: 16_384, headerBlockBytesMax: 1 << 20,
        headerTableBytes: 4096,
        bufferedBytesMax: 256 << 20,
        connectionWindowBytes: 16 << 20, streamWindowBytes: 1 << 20,
        resets: plenty, pings: plenty, settings: plenty, emptyFrames: plenty,
        lateFrames: plenty,
        drain: DrainLimits(
          streamsMax: 8, streamBytesMax: 1 << 20, nanosecondsMax: 1_000_000_000, kibibytes: plenty)),
      messageBytesMax: 65_536, connectionsMax: 1000, unsentBytesMax: 4 << 20,
      handshakeNanosecondsMax: 10 * second, requestNanosecondsMax: 30 * second,
      stalledWriteNanosecondsMax: 60 * second, keepaliveSeconds: 60,
      shutdownNanosecondsMax: 5 * second, streamQueuedBytesMax: 64 * 1024,
      streamingCallsPerConnectionMax: 100, streamingCallsMax: 200)
  }

  /// - Parameter port: nil: a free one.
  init(
    loops: Int = 1, port: ReservedPort? = nil, keepsListening: Bool = false,
    _ adjust: (inout ServerLimits) -> Void = { _ in }
  ) throws {
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
      on: try port ?? ReservedPort(host: "127.0.0.1", port: 0), loops: loops, limits: limits,
      metrics: metrics, keepsListening: keepsListening, notices: notices
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
