// A connection with an owner that does what an event loop does, and that checks what it is told.
internal import GRPC
internal import HTTP2

final class FuzzedServer {
  /// Small, so that inputs of a few KiB reach them. Nothing here is bound to the time that passes.
  private static let limits = HTTP2Limits(
    concurrentStreams: 8, headerListBytesMax: 4096, headerBlockBytesMax: 1 << 18,
    headerTableBytes: 4096, bufferedBytesMax: 1 << 16,
    connectionWindowBytes: 1 << 17, streamWindowBytes: 1 << 16,
    resets: Budget(burst: 100_000, perSecond: 1), pings: Budget(burst: 100_000, perSecond: 1),
    settings: Budget(burst: 100_000, perSecond: 1),
    emptyFrames: Budget(burst: 100_000, perSecond: 1),
    lateFrames: Budget(burst: 100_000, perSecond: 1),
    drain: DrainLimits(
      streamsMax: 4, streamBytesMax: 100_000, nanosecondsMax: 1_000_000_000,
      kibibytes: Budget(burst: 1_000, perSecond: 1)))
  private static let response = Array(repeating: UInt8(7), count: 3000)

  /// One for the process, as a loop has one: it lives as long as its loop. Only libFuzzer's thread uses it.
  nonisolated(unsafe) private static let context = ServerContext(
    limits: limits, captured: RequestField.allCases.map(\.name) + ["caller"],
    changing: RequestField.timeout.rawValue, header: ContentType.field,
    trailer: ConstantField("grpc-status", "0"))

  private let context: ServerContext
  private let http: ServerConnection
  /// Whether whole requests get a response.
  private let answers: Bool
  private var open: [StreamID] = []
  /// Responses that are written and not released.
  private var held: [(stream: StreamID, position: Int)] = []
  private var sent: [UInt8] = []

  init(answers: Bool) {
    self.answers = answers
    context = unsafe Self.context
    guard let http = context.open(token: 7) else { preconditionFailure("no connection") }
    self.http = http
  }

  /// One turn of the loop. True where the connection failed.
  func receive(_ bytes: ArraySlice<UInt8>) -> Bool {
    let fault = unsafe bytes.withUnsafeBytes { unsafe http.receive($0) }
    handleEvents()
    releaseSome()
    write()
    return fault != nil
  }

  /// Ends the connection: every stream is told of, and what was written is whole frames.
  func finish() {
    http.close()
    handleEvents()
    precondition(open.isEmpty, "a stream without an end")
    var at = 0
    while at < sent.count {
      precondition(at + 9 <= sent.count, "half a frame header")
      let length = Int(sent[at]) << 16 | Int(sent[at + 1]) << 8 | Int(sent[at + 2])
      precondition(length <= 16_384, "a frame that is too long")
      precondition(sent[at + 5] & 0x80 == 0, "the reserved bit")
      at += 9 + length
    }
    precondition(at == sent.count, "half a frame")
  }

  private func write() {
    var rounds = 0
    while http.wantsWrite {
      rounds += 1
      precondition(rounds < 10_000, "it wants to write, and does not")
      http.fillOutput()
      sent += unsafe Array(context.output)
      context.clearOutput()
    }
    handleEvents()
  }

  private func handleEvents() {
    var index = 0
    while index < context.eventCount {
      let event = context.event(at: index)
      index += 1
      if event.kind != .closed, !open.contains(event.stream.id) { open.append(event.stream.id) }
      handle(event)
    }
    context.clearEvents()
  }

  private func handle(_ event: StreamEvent) {
    let stream = event.stream
    switch event.kind {
    case .head: decide(stream)
    case .data, .end: advance(stream)
    case .closed:
      open.removeAll { $0 == stream.id }
      context.release(stream)
    case .headerListTooLarge, .writable: break
    }
  }

  private func decide(_ stream: HTTP2.Stream) {
    let meaning = RequestHeaders(stream, certificate: nil).decide { path in
      path.isEmpty ? nil : Int(path[path.count - 1])
    }
    guard case .call(let path, let encoding, let response, let timeout) = meaning else { return }
    let type = MethodType.allCases[path & 3]
    let notes = CallContext(
      method: path, type: type, encoding: encoding, responseEncoding: response,
      timeoutNanoseconds: timeout, principal: Principal(permissions: 7))
    let policy = BodyPolicy(
      bytesMax: type.streamsRequests ? 1 << 16 : 1000, tellsAt: 5,
      isStreaming: type.streamsRequests)
    guard context.accept(stream, notes: notes, policy: policy) else { return }
    if !stream.hasEnded { advance(stream) }
  }

  private func advance(_ stream: HTTP2.Stream) {
    guard !stream.isClosed, !stream.hasResponse, let notes = unsafe stream.notes else { return }
    let call = unsafe notes.assumingMemoryBound(to: CallContext.self).pointee
    precondition(call.principal.permissions == 7, "the notes are another stream's")
    let length = stream.withBody { $0.count }
    if call.type.streamsRequests { context.consume(length, of: stream) }
    guard answers, stream.hasEnded || call.type == .bidirectional else { return }
    let bytes = Self.response.span.extracting(..<min(length * 8, 3000))
    guard context.append(bytes, to: stream) else { return context.discardUnreleased(stream) }
    if stream.hasEnded { context.end(stream) }
    let position = context.position(stream)
    if call.method & 4 == 0 {
      context.release(stream, upTo: position)
    } else {
      held.append((stream.id, position))
    }
  }

  /// Half of what is held may be seen.
  private func releaseSome() {
    for _ in 0..<(held.count + 1) / 2 {
      let (id, position) = held.removeFirst()
      if let stream = context.stream(id) { context.release(stream, upTo: position) }
    }
  }
}
