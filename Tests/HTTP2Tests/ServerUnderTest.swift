// One server connection in memory, with an owner that does what an event loop does: it handles the
// events of a turn after the bytes, answers calls, and releases streams.
import HTTP2
import Testing

final class ServerUnderTest {
  /// A call that was whole.
  struct Call: Equatable {
    var head: Int32
    var body: [UInt8]
    var timeout: String?
    var caller: String
  }

  static let fieldNames: [StaticString] = [
    ":method", ":path", "content-type", "grpc-encoding", "caller",
  ]

  static let limits = HTTP2Limits(
    concurrentStreams: 100, headerListBytesMax: 4096, headerBlockBytesMax: 1 << 20,
    headerTableBytes: 4096, bodyBytesMax: 1000, bufferedBytesMax: 4 << 20,
    connectionWindowBytes: 1 << 20, streamWindowBytes: 1 << 16,
    resets: Budget(burst: 100_000, perSecond: 1), pings: Budget(burst: 100_000, perSecond: 1),
    settings: Budget(burst: 100_000, perSecond: 1),
    emptyFrames: Budget(burst: 100_000, perSecond: 1),
    lateFrames: Budget(burst: 100_000, perSecond: 1))

  let context: SessionContext
  let session: Session
  /// What is done with a call that is whole.
  var answer: (ServerUnderTest, StreamID) -> Void
  /// Whether `data` events are asked for.
  var wantsData = false
  /// Whether bytes are consumed as soon as `data` events tell of them.
  var readsData = false
  private(set) var calls: [Call] = []
  private(set) var events: [StreamEvent] = []
  /// Fields of interest of the last `head` event.
  private(set) var fields: [String] = []
  /// What of the body was there then.
  private(set) var bodyAtHead: [UInt8] = []
  private(set) var openStreams: [StreamID] = []

  /// Answers with the message "hello".
  static func hello(_ server: ServerUnderTest, _ stream: StreamID) {
    server.send(Array("hello".utf8), on: stream)
  }

  static func makeContext(_ limits: HTTP2Limits = limits) -> SessionContext {
    SessionContext(limits: limits, fieldNames: fieldNames, timeoutName: "grpc-timeout")
  }

  init(
    _ context: SessionContext, token: UInt64 = 7,
    answer: @escaping (ServerUnderTest, StreamID) -> Void = ServerUnderTest.hello
  ) throws {
    self.context = context
    session = try #require(context.open(token: token))
    self.answer = answer
  }

  convenience init(
    limits: HTTP2Limits = limits,
    answer: @escaping (ServerUnderTest, StreamID) -> Void = ServerUnderTest.hello
  ) throws {
    try self.init(Self.makeContext(limits), answer: answer)
  }

  /// A server whose client has sent its preface, and has read the server's.
  static func connected(
    limits: HTTP2Limits = limits, settings: [(UInt16, UInt32)] = [],
    answer: @escaping (ServerUnderTest, StreamID) -> Void = ServerUnderTest.hello
  ) throws -> ServerUnderTest {
    let server = try ServerUnderTest(limits: limits, answer: answer)
    #expect(server.receive(ServerFrame.preface + ServerFrame.settings(settings)) == nil)
    _ = try server.frames()
    return server
  }

  /// One turn: the bytes, then the events.
  func receive(_ bytes: [UInt8]) -> ConnectionFault? {
    let fault = unsafe bytes.withUnsafeBytes { unsafe session.receive($0) }
    handleEvents()
    return fault
  }

  /// Everything that may be written now.
  func output() -> [UInt8] {
    var bytes: [UInt8] = []
    var rounds = 0
    while session.wantsWrite, rounds < 10_000 {
      rounds += 1
      session.fillOutput()
      bytes += unsafe Array(context.output)
      context.clearOutput()
    }
    #expect(rounds < 10_000, "it wants to write, and does not")
    handleEvents()
    return bytes
  }

  func frames() throws -> [ServerFrame] { try #require(ServerFrame.parse(output())) }

  func send(_ message: [UInt8], on stream: StreamID, ends: Bool = true) {
    let isSent = context.send(message.span, on: stream, ends: ends)
    #expect(isSent)
  }

  func close() {
    session.close()
    handleEvents()
    #expect(openStreams.isEmpty)
  }

  func count(_ kind: StreamEvent.Kind) -> Int { events.count { $0.kind == kind } }

  private func handleEvents() {
    var index = 0
    while index < context.eventCount {
      let event = context.event(at: index)
      index += 1
      events.append(event)
      if event.kind != .closed, !openStreams.contains(event.stream) {
        openStreams.append(event.stream)
      }
      handle(event)
    }
    context.clearEvents()
  }

  private func handle(_ event: StreamEvent) {
    let stream = event.stream
    switch event.kind {
    case .head: decideHead(stream)
    case .end: ended(stream)
    case .closed:
      openStreams.removeAll { $0 == stream }
      context.release(stream)
    case .data:
      let count = context.withBody(of: stream) { body, _ in body.count } ?? 0
      if readsData { context.consume(count, of: stream) }
    case .oversize, .headerListTooLarge: break
    }
  }

  /// The path's last character says what the head is.
  private func decideHead(_ stream: StreamID) {
    let read = context.withFields(of: stream) { method, path, type, encoding, caller in
      [Self.text(method), Self.text(path), Self.text(type), Self.text(encoding), Self.text(caller)]
    }
    guard let read else { return }
    fields = read
    context.setHead(Int32(read[1].utf8.last ?? 0), of: stream)
    bodyAtHead = context.withBody(of: stream) { body, _ in Self.bytes(body) } ?? []
    if wantsData { context.wantData(stream) }
  }

  private func ended(_ stream: StreamID) {
    guard let notes = context.notes(of: stream), context.session(of: stream) != nil else { return }
    let timeout = context.withTimeout(of: stream) { Self.text($0) }
    let call = context.withBody(of: stream) { body, caller in
      Call(
        head: notes.head, body: Self.bytes(body),
        timeout: context.hasTimeout(stream) ? timeout : nil, caller: Self.text(caller))
    }
    if let call { calls.append(call) }
    if !context.isAnswered(stream) { answer(self, stream) }
  }

  static func bytes(_ span: Span<UInt8>) -> [UInt8] {
    var bytes: [UInt8] = []
    for index in span.indices { bytes.append(span[index]) }
    return bytes
  }

  static func text(_ span: Span<UInt8>) -> String { String(decoding: bytes(span), as: UTF8.self) }
}
