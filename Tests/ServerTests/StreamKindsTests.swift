// What the four kinds of call do beside the usual: back-pressure, deadlines, limits, the journal.
import GRPC
import HTTP2
import Posix
import Server
import Testing

@Suite("Kinds of streaming calls")
struct StreamKindsTests {
  private static let watch = 5
  private static let chat = 6
  private static let sum = 7
  private static let log = 9

  /// Sends one message of a call that goes on.
  private func send(_ message: [UInt8], _ stream: UInt32, _ client: Client) throws {
    try client.send(Frame.data(stream, Frame.message(message), ends: false))
  }

  private func end(_ stream: UInt32, _ client: Client) throws {
    try client.send(Frame.data(stream, [], ends: true))
  }

  private func begin(
    _ method: String, _ client: Client, _ fields: [(String, String)] = []
  ) throws -> UInt32 {
    let stream = client.newStream()
    try client.send(Client.head(stream, method, fields))
    return stream
  }

  private func text(_ call: CallState) -> String? {
    call.messages.map { String(decoding: $0.first ?? [], as: UTF8.self) }
  }

  // MARK: Client streaming

  @Test("Many messages in, one out", arguments: [1, 3, 16_384])
  func sum(chunk: Int) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    for messages in [[], [[]], [[1]], [[1, 2], [], [3], [200, 200]]] as [[[UInt8]]] {
      let body = messages.flatMap { Frame.message($0) }
      let call = try client.answer(try client.start("sum", body: body, chunk: chunk))
      let sum = messages.joined().reduce(0) { $0 + Int($1) }
      #expect(text(call) == "\(messages.count) \(sum)")
      #expect(call.messages?.count == 1 && call.code == 0)
    }
  }

  @Test("More messages than one iteration takes, and no response that would wake the connection")
  func sumOfMany() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let body = (0..<2000).flatMap { _ in Frame.message([1]) }
    let call = try client.answer(try client.start("sum", body: body, chunk: 16_384))
    #expect(text(call) == "2000 2000" && call.code == 0)
  }

  @Test("Nothing comes before the end of a client's stream")
  func sumWaits() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let stream = try begin("sum", client)
    for number in 1...5 as ClosedRange<UInt8> {
      try send([number], stream, client)
      #expect(fixture.eventually { fixture.board.read { $0.executed[Self.sum] } == Int(number) })
      #expect(try client.call("echo", [1]).messages == [[1]])
      #expect(client.calls[stream] == nil)
    }
    try end(stream, client)
    #expect(text(try client.answer(stream)) == "5 15")
  }

  @Test("A client's stream that fails takes no more messages, and its client is told to stop")
  func sumFails() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let stream = try begin("sum", client)
    for message in [[1], [255, 7], [2]] as [[UInt8]] { try send(message, stream, client) }
    let call = try client.answer(stream)
    #expect(call.code == StatusCode.dataLoss.rawValue && call.body.isEmpty)
    #expect(try client.read { $0.calls[stream]?.resetCode == 0 })
    #expect(fixture.board.read { $0.executed[Self.sum] } == 2)
    #expect(try client.call("echo", [1]).messages == [[1]])
  }

  @Test("A client's stream that ends inside a message is an error")
  func sumCut() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let cut = try client.answer(try client.start("sum", body: Frame.message([1]) + [0, 0]))
    #expect(cut.code == StatusCode.internal.rawValue && cut.body.isEmpty)
    let long = try client.answer(try client.start("sum", body: [0, 0, 2, 0, 0]))
    #expect(long.code == StatusCode.resourceExhausted.rawValue)
  }

  // MARK: Server streaming

  @Test("Messages come as fast as the client reads, and no faster")
  func backPressure() throws {
    let fixture = try Fixture { $0.streamQueuedBytesMax = 8 * 1024 }
    let client = try Client(port: fixture.server.port, greets: true, window: 0)
    let stream = try client.start("flood", [200])
    #expect(fixture.eventually { fixture.board.read { $0.fulls } == 1 })
    // Others are served meanwhile; their own credit comes with each call.
    let other = try fixture.connect()
    #expect(try other.call("echo", [1]).messages == [[1]])
    #expect(fixture.board.read { $0.resumes == 0 && $0.floodsDone == 0 })
    #expect(client.calls[stream]?.body.isEmpty ?? true)
    var given = 0
    while given < 200 * 1029 {
      try client.send(Frame.bytes(8, 0, stream, Frame.bigEndian(10_290)))
      given += 10_290
      let wanted = given
      #expect(try client.read { ($0.calls[stream]?.body.count ?? 0) == wanted })
    }
    let (fulls, resumes, done) = fixture.board.read { ($0.fulls, $0.resumes, $0.floodsDone) }
    #expect(fulls == resumes && resumes >= 10 && done == 1)
    let messages = try #require(client.calls[stream]?.messages)
    #expect(messages == (0..<200).map { [UInt8](repeating: UInt8($0), count: 1024) })
  }

  @Test("A flood whose client goes away stops")
  func floodGone() throws {
    let fixture = try Fixture { $0.streamQueuedBytesMax = 8 * 1024 }
    let client = try Client(port: fixture.server.port, greets: true, window: 0)
    let stream = try client.start("flood", [200])
    #expect(fixture.eventually { fixture.board.read { $0.fulls } == 1 })
    try client.send(Frame.reset(stream))
    #expect(fixture.eventually { fixture.board.read { $0.cancelled.count } == 1 })
    #expect(fixture.board.read { $0.floodsDone } == 0)
    #expect(
      fixture.eventually { fixture.metric("grpc_server_handled_total", with: "Canceled") == 1 })
  }

  // MARK: Deadlines

  @Test("A call that streams ends at its deadline", arguments: ["chat", "sum", "log", "watch"])
  func deadline(method: String) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let begun = SystemClock.monotonicNanoseconds()
    let stream: UInt32
    if method == "watch" {
      stream = try client.start(method, [1], [("grpc-timeout", "150m")])
    } else {
      stream = try begin(method, client, [("grpc-timeout", "150m")])
      try send([1], stream, client)
    }
    let call = try client.answer(stream)
    #expect(call.code == StatusCode.deadlineExceeded.rawValue)
    #expect(call.fields["grpc-status-details-bin"] != nil)
    #expect(SystemClock.monotonicNanoseconds() - begun >= 150 * millisecond)
    // What waits for the journal is not sent; what was seen stays.
    let isSeen = method == "chat" || method == "watch"
    #expect(call.messages == (isSeen ? [[1]] : []))
    #expect(fixture.board.read { $0.cancelled.count } == 1)
    fixture.board.makeDurable(upTo: 10)
    #expect(try client.call("durable", [1]).messages == [[1]])
    #expect(
      fixture.eventually {
        fixture.metric("grpc_server_handled_total", with: "DeadlineExceeded") == 1
      })
    #expect(fixture.metric("grpc_server_handled_total", with: "Canceled") == 0)
  }

  @Test("A silent stream without a deadline lives on when requests of its age are given up")
  func silent() throws {
    let fixture = try Fixture { $0.requestNanosecondsMax = 150 * millisecond }
    let client = try fixture.connect()
    let streams = try ["chat", "sum"].map { try begin($0, client) }
    for stream in streams { try send([1], stream, client) }
    // Opened behind them, and given up for its age.
    let incomplete = try begin("echo", client)
    #expect(try client.answer(incomplete).code == StatusCode.deadlineExceeded.rawValue)
    for stream in streams {
      #expect(client.calls[stream]?.hasEnded ?? false == false)
      try send([2], stream, client)
      try end(stream, client)
    }
    #expect(try client.answer(streams[0]).messages == [[1], [2]])
    #expect(text(try client.answer(streams[1])) == "2 3")
  }

  // MARK: The journal

  @Test("Messages of a stream wait for their number, and come in order")
  func held() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let stream = try begin("log", client)
    for number in [1, 3, 2, 4] as [UInt8] { try send([number], stream, client) }
    try end(stream, client)
    #expect(fixture.eventually { fixture.board.read { $0.executed[Self.log] } == 4 })
    #expect(try client.call("echo", [1]).messages == [[1]])
    #expect(client.calls[stream] == nil)
    fixture.board.makeDurable(upTo: 1)
    #expect(try client.read { $0.calls[stream]?.messages == [[1]] })
    // 2 is durable, but stands behind 3.
    fixture.board.makeDurable(upTo: 2)
    #expect(try client.call("echo", [1]).messages == [[1]])
    #expect(client.calls[stream]?.messages == [[1]])
    fixture.board.makeDurable(upTo: 3)
    #expect(try client.read { $0.calls[stream]?.messages == [[1], [3], [2]] })
    #expect(client.calls[stream]?.hasEnded == false)
    fixture.board.makeDurable(upTo: 4)
    let call = try client.answer(stream)
    #expect(call.messages == [[1], [3], [2], [4]] && call.code == 0)
  }

  @Test("A failure waits behind the messages before it")
  func heldFailure() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let stream = try begin("log", client)
    try send([1], stream, client)
    try send([2, 9], stream, client)
    #expect(fixture.eventually { fixture.board.read { $0.executed[Self.log] } == 2 })
    #expect(try client.call("echo", [1]).messages == [[1]])
    #expect(client.calls[stream] == nil)
    fixture.board.makeDurable(upTo: 1)
    #expect(try client.read { $0.calls[stream]?.messages == [[1]] })
    #expect(client.calls[stream]?.hasEnded == false)
    fixture.board.makeDurable(upTo: 2)
    let call = try client.answer(stream)
    #expect(call.code == StatusCode.aborted.rawValue && call.messages == [[1]])
    #expect(call.fields["grpc-retry-pushback-ms"] == "9")
  }

  @Test("A stream that is reset while its messages wait is cancelled, and its neighbours are not")
  func heldReset() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let streams = try (0..<2).map { _ in try begin("log", client) }
    for stream in streams {
      for number in 1...3 as ClosedRange<UInt8> { try send([number], stream, client) }
    }
    #expect(fixture.eventually { fixture.board.read { $0.executed[Self.log] } == 6 })
    try client.send(Frame.reset(streams[0]))
    #expect(fixture.eventually { fixture.board.read { $0.cancelled.count } == 1 })
    // Its record is used again while its messages wait.
    let next = try begin("log", client)
    try send([3], next, client)
    fixture.board.makeDurable(upTo: 3)
    for stream in [streams[1], next] { try end(stream, client) }
    #expect(try client.answer(streams[1]).messages == [[1], [2], [3]])
    #expect(try client.answer(next).messages == [[3]])
    #expect(client.calls[streams[0]] == nil)
  }

  // MARK: Limits

  @Test("A connection has so many streaming calls, and no more")
  func limitPerConnection() throws {
    let fixture = try Fixture { $0.streamingCallsPerConnectionMax = 3 }
    let client = try fixture.connect()
    let chats = try ["chat", "sum"].map { try begin($0, client) }
    for chat in chats { try send([1], chat, client) }
    let watch = try client.start("watch", [1])
    #expect(try client.read { $0.calls[watch]?.messages == [[1]] })
    for method in ["chat", "sum", "watch"] {
      let refused = try client.call(method, [1])
      #expect(refused.code == StatusCode.resourceExhausted.rawValue)
      #expect(refused.text == "too many streaming calls")
    }
    // Other calls, and other connections, are not concerned.
    #expect(try client.call("echo", [1]).messages == [[1]])
    #expect(try fixture.connect().call("chat", [1]).messages == [[1]])
    try end(chats[0], client)
    #expect(try client.answer(chats[0]).code == 0)
    #expect(try client.call("chat", [2]).messages == [[2]])
    try client.send(Frame.reset(watch))
    let chat = try begin("chat", client)
    try send([3], chat, client)
    #expect(try client.read { $0.calls[chat]?.messages == [[3]] })
    #expect(try client.call("chat", [2]).messages == [[2]])
  }

  @Test("Streaming calls count from their header fields on, also where these came before")
  func limitOfSilentCalls() throws {
    let fixture = try Fixture { $0.streamingCallsPerConnectionMax = 3 }
    let client = try fixture.connect()
    let chats = try (0..<5).map { _ in try begin("chat", client) }
    for chat in chats[3...] {
      #expect(try client.answer(chat).code == StatusCode.resourceExhausted.rawValue)
    }
    for chat in chats[..<3] {
      try send([1], chat, client)
      #expect(try client.read { $0.calls[chat]?.messages == [[1]] })
    }
  }

  @Test("A loop has so many streaming calls, whoever has them")
  func limitOfAll() throws {
    let fixture = try Fixture { $0.streamingCallsMax = 4 }
    let other = try fixture.connect()
    do {
      let clients = try (0..<4).map { _ in try fixture.connect() }
      for client in clients {
        let chat = try begin("chat", client)
        try send([1], chat, client)
        #expect(try client.read { $0.calls[chat]?.messages == [[1]] })
      }
      #expect(try other.call("sum", [1]).code == StatusCode.resourceExhausted.rawValue)
      #expect(try other.call("echo", [1]).messages == [[1]])
    }
    #expect(fixture.eventually { fixture.metric("holdfast_connections ") == 1 })
    for _ in 0..<6 { #expect(text(try other.call("sum", [1])) == "1 1") }
  }

  // MARK: Who calls

  @Test("Who calls is asked once for a header block, until that holds no longer")
  func starts() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    for number in 0..<5 as Range<UInt8> {
      #expect(
        try client.call("echo", [number], [("caller", "me")]).messages == [[number, 109, 101]])
    }
    #expect(fixture.board.read { $0.starts } == 1)
    fixture.board.change { $0.authenticationGeneration = 1 }
    #expect(try client.call("echo", [1], [("caller", "me")]).messages == [[1, 109, 101]])
    #expect(try client.call("echo", [2], [("caller", "me")]).messages == [[2, 109, 101]])
    #expect(fixture.board.read { $0.starts } == 2)
  }

  @Test(
    "Calls of a caller who may no longer end, whatever they wait for",
    arguments: ["echo", "watch", "chat", "sum", "later"])
  func revoked(method: String) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let lost = try begin(method, client, [("caller", "lost")])
    let kept = try begin("chat", client, [("caller", "kept")])
    try send([1], kept, client)
    #expect(try client.read { $0.calls[kept]?.messages?.count == 1 })
    // Some have had a message, one waits for it.
    if method == "chat" || method == "sum" { try send([2], lost, client) }
    fixture.board.change { $0.authenticationGeneration = 1 }
    try send([3], kept, client)
    #expect(try client.read { $0.calls[kept]?.messages?.count == 2 })
    let executed = fixture.board.read { $0.executed }
    fixture.board.change { $0.authenticationGeneration = 2 }
    // Nothing has to come for it.
    let answer = try client.answer(lost)
    #expect(answer.code == StatusCode.unauthenticated.rawValue && answer.text == "lost")
    // What still comes is not executed.
    try client.send(Frame.data(lost, Frame.message([9]), ends: true))
    try send([4], kept, client)
    #expect(try client.read { $0.calls[kept]?.messages?.count == 3 })
    #expect(
      fixture.board.read { $0.executed }.values.reduce(0, +) == executed.values.reduce(0, +) + 1)
    #expect(
      fixture.eventually {
        fixture.metric("grpc_server_handled_total", with: "Unauthenticated") == 1
      })
    #expect(fixture.board.read { $0.cancelled }.count == 1)
  }

  @Test("A caller that is refused is asked about again, and counted", arguments: ["echo", "chat"])
  func refusedCaller(method: String) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    for round in 1...3 {
      let call = try client.call(method, [1], [("refuse", "me")])
      #expect(call.code == StatusCode.permissionDenied.rawValue && call.text == "refused")
      #expect(fixture.board.read { $0.starts } == round)
    }
    #expect(fixture.board.read { $0.executed.isEmpty })
    #expect(fixture.eventually { fixture.metric("grpc_server_handled_total") == 3 })
    #expect(
      fixture.eventually {
        fixture.metric("grpc_server_handled_total", with: "PermissionDenied") == 3
      })
    #expect(fixture.eventually { fixture.metric("grpc_server_started_total") == 3 })
  }

  @Test("Calls that end before anything of them came are counted under their method")
  func countedAlike() throws {
    let fixture = try Fixture { $0.requestNanosecondsMax = 100 * millisecond }
    let client = try fixture.connect()
    // The second comes with a header block that is known.
    for _ in 0..<2 {
      let stream = try begin("echo", client)
      #expect(try client.answer(stream).code == StatusCode.deadlineExceeded.rawValue)
    }
    let echo = "{grpc_type=\"unary\",grpc_service=\"test.Service\",grpc_method=\"echo\"}"
    #expect(fixture.eventually { fixture.metric("grpc_server_started_total\(echo)") == 2 })
    #expect(
      fixture.eventually {
        fixture.metric("grpc_server_handled_total", with: "DeadlineExceeded") == 2
      })
  }
}
