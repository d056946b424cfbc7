// A connection with an owner that does what an event loop does, and that checks what it is told.
internal import HTTP2

final class FuzzedServer {
  /// Small, so that inputs of a few KiB reach them. Nothing here is bound to the time that passes.
  private static let limits = HTTP2Limits(
    concurrentStreams: 8, headerListBytesMax: 4096, bodyBytesMax: 1000, bufferedBytesMax: 1 << 16,
    connectionWindowBytes: 1 << 17, streamWindowBytes: 1 << 16,
    resets: Budget(burst: 100_000, perSecond: 1), pings: Budget(burst: 100_000, perSecond: 1),
    settings: Budget(burst: 100_000, perSecond: 1),
    emptyFrames: Budget(burst: 100_000, perSecond: 1))
  private static let fieldNames: [StaticString] = [
    ":method", ":path", "content-type", "grpc-encoding", "caller",
  ]
  private static let response = Array(repeating: UInt8(7), count: 3000)

  /// One for the process, as a loop has one: it lives as long as its loop. Only libFuzzer's thread uses it.
  nonisolated(unsafe) private static let context = SessionContext(
    limits: limits, fieldNames: fieldNames, timeoutName: "grpc-timeout")

  private let context: SessionContext
  private let session: Session
  /// Whether whole requests get a response.
  private let answers: Bool
  private var open: [StreamID] = []
  private var sent: [UInt8] = []

  init(answers: Bool) {
    self.answers = answers
    context = unsafe Self.context
    guard let session = context.open(token: 7) else { preconditionFailure("no session") }
    self.session = session
  }

  /// One turn of the loop. True where the connection failed.
  func receive(_ bytes: ArraySlice<UInt8>) -> Bool {
    let fault = unsafe bytes.withUnsafeBytes { unsafe session.receive($0) }
    handleEvents()
    write()
    return fault != nil
  }

  /// Ends the connection: every stream is told of, and what was written is whole frames.
  func finish() {
    session.close()
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
    while session.wantsWrite {
      rounds += 1
      precondition(rounds < 10_000, "it wants to write, and does not")
      session.fillOutput()
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
      if event.kind != .closed, !open.contains(event.stream) { open.append(event.stream) }
      handle(event)
    }
    context.clearEvents()
  }

  private func handle(_ event: StreamEvent) {
    let stream = event.stream
    switch event.kind {
    case .head:
      let path = context.withFields(of: stream) { _, path, _, _, _ in
        path.isEmpty ? 0 : Int32(path[path.count - 1])
      }
      guard let path else { return }
      context.setHead(path, of: stream)
      if path & 1 == 0 { context.wantData(stream) }
    case .end:
      guard context.notes(of: stream) != nil, context.session(of: stream) != nil else { return }
      _ = context.withTimeout(of: stream) { $0.count }
      let length = context.withBody(of: stream) { body, caller in body.count + caller.count }
      guard answers, let length, !context.isAnswered(stream) else { return }
      _ = context.send(
        Self.response.span.extracting(..<min(length * 8, 3000)), on: stream, ends: true)
    case .closed:
      open.removeAll { $0 == stream }
      context.release(stream)
    case .data:
      let count = context.withBody(of: stream) { body, _ in body.count } ?? 0
      context.consume(count, of: stream)
    case .oversize, .headerListTooLarge: break
    }
  }
}
