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

  /// What its owner keeps of a request.
  static let bodyBytesMax = 1000

  static let limits = HTTP2Limits(
    concurrentStreams: 100, headerListBytesMax: 4096, headerBlockBytesMax: 1 << 20,
    headerTableBytes: 4096, bufferedBytesMax: 4 << 20,
    connectionWindowBytes: 1 << 20, streamWindowBytes: 1 << 16,
    resets: Budget(burst: 100_000, perSecond: 1), pings: Budget(burst: 100_000, perSecond: 1),
    settings: Budget(burst: 100_000, perSecond: 1),
    emptyFrames: Budget(burst: 100_000, perSecond: 1),
    lateFrames: Budget(burst: 100_000, perSecond: 1),
    // A response that comes early is followed by a reset, but where a test says otherwise.
    drain: DrainLimits(
      streamsMax: 0, streamBytesMax: 100_000, nanosecondsMax: 1_000_000_000,
      kibibytes: Budget(burst: 1_000, perSecond: 1)))

  /// An event, with the name that its stream had then.
  struct Event {
    let kind: StreamEvent.Kind
    let id: StreamID
  }

  /// What is kept with a header block: bytes alone.
  struct Notes: BitwiseCopyable {
    var head: Int32 = 0
    var timeoutCount: Int8 = -1
    var timeout = InlineArray<16, UInt8>(repeating: 0)
    var callerCount: UInt8 = 0
    var caller = InlineArray<128, UInt8>(repeating: 0)
  }

  let context: ServerContext
  let connection: ServerConnection
  /// What is done with a call that is whole.
  var answer: (ServerUnderTest, HTTP2.Stream) -> Void
  /// Whether `data` events are asked for.
  var wantsData = false
  /// Whether bytes are consumed as soon as `data` events tell of them.
  var readsData = false
  /// Whether header blocks are accepted.
  var accepts = true
  private(set) var calls: [Call] = []
  private(set) var events: [Event] = []
  /// Captured fields of the last `head` event, and which of them came twice.
  private(set) var fields: [String] = []
  private(set) var repeatedFields: [Bool] = []
  /// What of the body was there then.
  private(set) var bodyAtHead: [UInt8] = []
  /// Streams that events told of and that are not released.
  private var known: [HTTP2.Stream] = []
  private var isClosed = false
  /// Open streams, oldest first.
  var openStreams: [HTTP2.Stream] {
    var streams: [HTTP2.Stream] = []
    var next = isClosed ? nil : connection.firstStream
    while let stream = next {
      streams.append(stream)
      next = connection.stream(after: stream)
    }
    return streams.reversed()
  }
  /// Streams of which bytes were dropped.
  private var oversize: [StreamID] = []
  var oversizeCount: Int { oversize.count }

  /// Answers with the message "hello".
  static func hello(_ server: ServerUnderTest, _ stream: HTTP2.Stream) {
    server.send(Array("hello".utf8), on: stream)
  }

  static func makeContext(_ limits: HTTP2Limits = limits) -> ServerContext {
    ServerContext(
      limits: limits, captured: fieldNames + ["grpc-timeout"], changing: fieldNames.count,
      header: ConstantField("content-type", "application/grpc"),
      trailer: ConstantField("grpc-status", "0"))
  }

  init(
    _ context: ServerContext, token: UInt64 = 7,
    answer: @escaping (ServerUnderTest, HTTP2.Stream) -> Void = ServerUnderTest.hello
  ) throws {
    self.context = context
    connection = try #require(context.open(token: token))
    self.answer = answer
  }

  convenience init(
    limits: HTTP2Limits = limits,
    answer: @escaping (ServerUnderTest, HTTP2.Stream) -> Void = ServerUnderTest.hello
  ) throws {
    try self.init(Self.makeContext(limits), answer: answer)
  }

  /// A server whose client has sent its preface, and has read the server's.
  static func connected(
    limits: HTTP2Limits = limits, settings: [(UInt16, UInt32)] = [],
    answer: @escaping (ServerUnderTest, HTTP2.Stream) -> Void = ServerUnderTest.hello
  ) throws -> ServerUnderTest {
    let server = try ServerUnderTest(limits: limits, answer: answer)
    #expect(server.receive(ServerFrame.preface + ServerFrame.settings(settings)) == nil)
    _ = try server.frames()
    return server
  }

  /// One turn: the bytes, then the events.
  func receive(_ bytes: [UInt8]) -> ConnectionFault? {
    let fault = unsafe bytes.withUnsafeBytes { unsafe connection.receive($0) }
    handleEvents()
    return fault
  }

  /// Everything that may be written now.
  func output() -> [UInt8] {
    var bytes: [UInt8] = []
    var rounds = 0
    while connection.wantsWrite, rounds < 10_000 {
      rounds += 1
      connection.fillOutput()
      bytes += unsafe Array(context.output)
      context.clearOutput()
    }
    #expect(rounds < 10_000, "it wants to write, and does not")
    handleEvents()
    return bytes
  }

  func frames() throws -> [ServerFrame] { try #require(ServerFrame.parse(output())) }

  // MARK: Responses

  /// Sends a message, to be seen at once.
  func send(_ message: [UInt8], on stream: HTTP2.Stream, ends: Bool = true) {
    let bytes = grpcMessage(message)
    let isTaken = context.append(bytes.span, to: stream)
    #expect(isTaken)
    if ends { context.end(stream) }
    release(stream)
  }

  func end(_ stream: HTTP2.Stream, trailers: HeaderFields? = nil) {
    context.end(stream, trailers: trailers)
    release(stream)
  }

  func respond(_ stream: HTTP2.Stream, headersOnly fields: HeaderFields) {
    fields.withBlock { context.respond(stream, headersOnly: $0) }
    release(stream)
  }

  /// Everything of the response may be seen.
  func release(_ stream: HTTP2.Stream) {
    context.release(stream, upTo: context.position(stream))
  }

  func close() {
    connection.close()
    isClosed = true
    handleEvents()
    let areAllReleased = known.isEmpty
    #expect(areAllReleased)
  }

  func count(_ kind: StreamEvent.Kind) -> Int { events.count { $0.kind == kind } }

  // MARK: Events

  /// Handles what waits, as every turn does.
  func handleEvents() {
    var index = 0
    while index < context.eventCount {
      let event = context.event(at: index)
      index += 1
      events.append(Event(kind: event.kind, id: event.stream.id))
      if event.kind != .closed, !known.contains(where: { $0.id == event.stream.id }) {
        known.append(event.stream)
      }
      handle(event)
    }
    context.clearEvents()
  }

  private func handle(_ event: StreamEvent) {
    let stream = event.stream
    switch event.kind {
    case .head: decideHead(stream)
    case .end:
      noteOversize(stream)
      ended(stream)
    case .closed:
      known.removeAll { $0.id == stream.id }
      context.release(stream)
    case .data:
      noteOversize(stream)
      if readsData, !stream.isClosed {
        context.consume(stream.withBody { $0.count }, of: stream)
      }
    case .headerListTooLarge, .writable: break
    }
  }

  private func noteOversize(_ stream: HTTP2.Stream) {
    if stream.isOversize, !oversize.contains(stream.id) { oversize.append(stream.id) }
  }

  /// The path's last character says what the head is.
  private func decideHead(_ stream: HTTP2.Stream) {
    fields = Self.fieldNames.indices.map { stream.withField($0) { Self.text($0) } }
    repeatedFields = Self.fieldNames.indices.map { stream.isFieldRepeated($0) }
    var notes = Notes()
    notes.head = Int32(fields[1].utf8.last ?? 0)
    for (index, byte) in fields[4].utf8.prefix(128).enumerated() { notes.caller[index] = byte }
    notes.callerCount = UInt8(clamping: fields[4].utf8.prefix(128).count)
    if stream.hasField(5) {
      let timeout = stream.withField(5) { Self.bytes($0) }.prefix(16)
      for (index, byte) in timeout.enumerated() { notes.timeout[index] = byte }
      notes.timeoutCount = Int8(timeout.count)
    }
    bodyAtHead = stream.withBody { Self.bytes($0) }
    guard accepts, !stream.isClosed else { return }
    let policy =
      wantsData
      ? BodyPolicy(bytesMax: Int(Self.limits.streamWindowBytes), tellsAt: 1, isStreaming: true)
      : BodyPolicy(bytesMax: Self.bodyBytesMax, tellsAt: 0, isStreaming: false)
    let isAccepted = context.accept(stream, notes: notes, policy: policy)
    #expect(isAccepted)
    noteOversize(stream)
  }

  private func ended(_ stream: HTTP2.Stream) {
    if stream.isClosed { return }
    let body = stream.withBody { Self.bytes($0) }
    var call = Call(head: 0, body: body, timeout: nil, caller: "")
    if let notes = notes(of: stream) {
      call.head = notes.head
      call.caller = Self.text(notes.caller.span.extracting(0..<Int(notes.callerCount)))
      if notes.timeoutCount >= 0 {
        call.timeout = Self.text(notes.timeout.span.extracting(0..<Int(notes.timeoutCount)))
      }
    }
    // Of a block that is known but for this field, it alone is there.
    if stream.hasField(5) { call.timeout = stream.withField(5) { Self.text($0) } }
    calls.append(call)
    if !stream.hasResponse { answer(self, stream) }
  }

  /// What was kept with a stream's header block.
  func notes(of stream: HTTP2.Stream) -> Notes? {
    guard let notes = unsafe stream.notes else { return nil }
    return unsafe notes.load(as: Notes.self)
  }

  static func bytes(_ span: Span<UInt8>) -> [UInt8] {
    var bytes: [UInt8] = []
    for index in span.indices { bytes.append(span[index]) }
    return bytes
  }

  static func text(_ span: Span<UInt8>) -> String { String(decoding: bytes(span), as: UTF8.self) }
}
