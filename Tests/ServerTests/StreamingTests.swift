import GRPC
import HTTP2
import Posix
import Server
import Testing

@Suite("Streaming calls")
struct StreamingTests {
  @Test("A stream of messages both ways", arguments: [1, 4, 16_384])
  func chat(chunk: Int) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let messages: [[UInt8]] = [[1], [], [2, 3], [UInt8](repeating: 9, count: 100)]
    let body = messages.flatMap { Frame.message($0) }
    let answer = try client.answer(try client.start("chat", body: body, chunk: chunk))
    #expect(answer.messages == messages)
    #expect(answer.code == 0)
  }

  @Test("Each message of a stream is answered before the next comes")
  func chatTurns() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let stream = client.newStream()
    try client.send(Client.head(stream, "chat"))
    for number in UInt8(0)..<20 {
      try client.send(Frame.data(stream, Frame.message([number]), ends: false))
      #expect(try client.read { $0.calls[stream]?.messages?.last == [number] })
    }
    try client.send(Frame.data(stream, [], ends: true))
    #expect(try client.answer(stream).code == 0)
  }

  @Test("A stream that ends inside a message is an error")
  func chatCut() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let cut = try client.start("chat", body: Frame.message([1]) + [0, 0, 0])
    let answer = try client.answer(cut)
    #expect(answer.messages == [[1]])
    #expect(answer.code == StatusCode.internal.rawValue)
    #expect(answer.fields["grpc-status-details-bin"] != nil)
    let start = try client.start("chat", body: Frame.message([1]) + Frame.message([2], flag: 9))
    let broken = try client.answer(start)
    #expect(broken.code == StatusCode.internal.rawValue)
    #expect(broken.text == "malformed message prefix")
    #expect(broken.fields["grpc-status-details-bin"] != nil)
    #expect(try client.call("echo", [1]).messages == [[1]])
  }

  @Test("A stream whose header block the server remembers is a stream all the same")
  func rememberedHead() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let fields = Client.fields("chat")
    for number in UInt8(0)..<5 {
      let stream = client.newStream()
      try client.send(
        number == 0
          ? Frame.enteringHeaders(stream, fields)
          : Frame.referringHeaders(stream, count: UInt8(fields.count)))
      // Its header fields are read in a turn of their own.
      #expect(
        fixture.eventually { fixture.metric("holdfast_received_bytes_total") == client.sentBytes })
      for message in [[number], [number, 1]] {
        try client.send(Frame.data(stream, Frame.message(message), ends: false))
        #expect(try client.read(seconds: 2) { $0.calls[stream]?.messages?.last == message })
      }
      try client.send(Frame.data(stream, [], ends: true))
      #expect(try client.answer(stream).code == 0)
    }
  }

  @Test("A first message is answered without waiting for a second, on every stream")
  func firstMessage() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    for number in UInt8(0)..<5 {
      let stream = client.newStream()
      let head = Client.head(stream, "chat")
      let data = Frame.data(stream, Frame.message([number]), ends: false)
      if number % 2 == 0 {
        try client.send(head + data)
      } else {
        try client.send(head)
        _ = try client.call("echo", [1])
        try client.send(data)
      }
      #expect(try client.read(seconds: 2) { $0.calls[stream]?.messages == [[number]] })
      try client.send(Frame.data(stream, [], ends: true))
      #expect(try client.answer(stream).code == 0)
    }
  }

  @Test("A stream may be longer than its window")
  func long() throws {
    let fixture = try Fixture { $0.http2.streamWindowBytes = 65_535 }
    let client = try fixture.connect()
    let stream = client.newStream()
    try client.send(Client.head(stream, "chat"))
    let batch = (0..<20).flatMap { Frame.message([UInt8](repeating: $0, count: 1000)) }
    for round in 1...20 {
      try client.send(
        Frame.data(stream, Array(batch.prefix(15_000)), ends: false)
          + Frame.data(stream, Array(batch.dropFirst(15_000)), ends: round == 20))
      #expect(try client.read { ($0.calls[stream]?.body.count ?? 0) == round * batch.count })
    }
    let answer = try client.answer(stream)
    #expect(answer.code == 0)
    #expect(answer.messages?.count == 400)
  }

  @Test("A stream whose client does not read goes on when it does")
  func unread() throws {
    let fixture = try Fixture { $0.unsentBytesMax = 16 * 1024 }
    let client = try fixture.connect()
    let messages = (0..<1000).map { [UInt8](repeating: UInt8($0 % 251), count: 1000) }
    let stream = try client.start("chat", body: messages.flatMap { Frame.message($0) })
    let answer = try client.answer(stream)
    #expect(answer.messages == messages)
    #expect(answer.code == 0)
  }

  @Test("A stream that failed takes no more messages")
  func failedStream() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let messages: [[UInt8]] = [[1], [255], [2], [3]]
    let body = messages.flatMap { Frame.message($0) }
    let answer = try client.answer(try client.start("chat", body: body))
    #expect(answer.messages == [[1]])
    #expect(answer.code == StatusCode.dataLoss.rawValue)
    // In the trailers, since the answer has begun: all that a failure says.
    #expect(answer.text == "lost")
    #expect(answer.fields["grpc-status-details-bin"] == "/w")
    #expect(fixture.board.read { $0.executed[6] } == 2)
    #expect(try client.call("echo", [1]).messages == [[1]])
    #expect(fixture.eventually { fixture.metric("grpc_server_started_total") == 2 })
    #expect(
      fixture.eventually { fixture.metric("grpc_server_handled_total", with: "DataLoss") == 1 })
  }

  @Test("A stream counts as one call, whatever its turns")
  func counts() throws {
    let fixture = try Fixture()
    do {
      let client = try fixture.connect()
      for ending in [[], [0, 0], Frame.message([2], flag: 9)] as [[UInt8]] {
        let stream = client.newStream()
        try client.send(Client.head(stream, "chat"))
        _ = try client.call("echo", [1])
        try client.send(Frame.data(stream, Frame.message([1]), ends: false))
        #expect(try client.read(seconds: 2) { $0.calls[stream]?.messages == [[1]] })
        try client.send(Frame.data(stream, ending, ends: true))
        #expect(try client.answer(stream).code == (ending.isEmpty ? 0 : 13))
      }
    }
    #expect(fixture.eventually { fixture.metric("holdfast_connections ") == 0 })
    #expect(fixture.eventually { fixture.metric("grpc_server_started_total") == 6 })
    #expect(fixture.eventually { fixture.metric("grpc_server_handled_total", with: "OK") == 4 })
    #expect(
      fixture.eventually { fixture.metric("grpc_server_handled_total", with: "Internal") == 2 })
    #expect(fixture.eventually { fixture.metric("grpc_server_handled_total") == 6 })
  }
}
