// Calls whose messages hold many requests: in slices, in order, and nobody waits for them.
import GRPC
import Posix
import Server
import Testing

@Suite("Batched calls")
struct BatchedCallTests {
  /// What one call, and all of a loop, get in one iteration.
  private static let slice = 512
  private static let iteration = 2048

  /// Bytes that tell whether any was lost or changed its place; the first is 0: nothing waits for the journal.
  private static func requests(_ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }
  }

  private func begin(_ client: Client, _ fields: [(String, String)] = []) throws -> UInt32 {
    let stream = client.newStream()
    try client.send(Client.head(stream, "batches", fields))
    return stream
  }

  private func send(_ messages: [[UInt8]], _ stream: UInt32, _ client: Client, ends: Bool = false)
    throws
  {
    let body = messages.flatMap { Frame.message($0) }
    for start in stride(from: 0, to: body.count, by: 16_384) {
      let end = min(start + 16_384, body.count)
      try client.send(
        Frame.data(stream, Array(body[start..<end]), ends: ends && end == body.count))
    }
  }

  @Test("A message comes back whole, however long", arguments: [0, 1, 511, 512, 513, 50_000])
  func unary(count: Int) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let call = try client.call("batch", Self.requests(count))
    #expect(call.messages == [Self.requests(count)] && call.code == 0)
    let parts = fixture.board.read { $0.parts }
    #expect(parts.map(\.count).reduce(0, +) == count)
    #expect(parts.count == max(1, (count + Self.slice - 1) / Self.slice))
    #expect(fixture.eventually { fixture.metric("grpc_server_handled_total", with: "OK") == 1 })
  }

  @Test("Each gets a slice of an iteration, and all together so much")
  func slices() throws {
    let fixture = try Fixture()
    let clients = try (0..<10).map { _ in try fixture.connect() }
    let calls = try clients.map { try $0.start("batch", Self.requests(20_000)) }
    for (client, call) in zip(clients, calls) {
      #expect(try client.answer(call).messages == [Self.requests(20_000)])
    }
    let parts = fixture.board.read { $0.parts }
    #expect(parts.map(\.count).reduce(0, +) == 200_000)
    var byTurn: [Int: [Board.Part]] = [:]
    for part in parts { byTurn[part.turn, default: []].append(part) }
    for (_, parts) in byTurn {
      #expect(parts.map(\.count).reduce(0, +) <= Self.iteration)
      #expect(Set(parts.map(\.call)).count == parts.count)
      #expect(parts.allSatisfy { $0.count <= Self.slice })
    }
    // Where many wait they take turns: nobody's second slice comes before everybody's first.
    let last = parts.lastIndex { $0.count < Self.slice } ?? 0
    #expect(last > parts.count - 20)
  }

  @Test("Messages of a stream come back in their order", arguments: [1, 7, 600, 5000])
  func stream(count: Int) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let stream = try begin(client)
    let messages = (0..<40).map { [0, UInt8($0)] + Self.requests(count) }
    try send(messages, stream, client, ends: true)
    let call = try client.answer(stream)
    #expect(call.messages == messages && call.code == 0)
    // And with pauses between them.
    let slow = try begin(client)
    for number in 1...5 {
      try send([Self.requests(count)], slow, client)
      #expect(try client.read { $0.calls[slow]?.messages?.count == number })
    }
    try client.send(Frame.data(slow, [], ends: true))
    #expect(try client.answer(slow).code == 0)
  }

  @Test("A response waits for the journal, and those behind it too")
  func durability() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let stream = try begin(client)
    let messages: [[UInt8]] = [[0, 1], [3] + Self.requests(2000), [2], [0]]
    try send([messages[0]], stream, client)
    #expect(try client.read { $0.calls[stream]?.messages == [messages[0]] })
    try send(Array(messages[1...]), stream, client)
    let unary = try client.start("batch", [3, 1])
    #expect(fixture.eventually { fixture.board.read { $0.parts.count } == 8 })
    #expect(try client.call("echo", [1]).messages == [[1]])
    #expect(client.calls[stream]?.messages == [messages[0]] && client.calls[unary] == nil)
    fixture.board.makeDurable(upTo: 3)
    #expect(try client.read { $0.calls[stream]?.messages == messages })
    #expect(try client.answer(unary).messages == [[3, 1]])
    try client.send(Frame.data(stream, [], ends: true))
    #expect(try client.answer(stream).code == 0)
  }

  @Test("A message that fails ends the stream behind the responses before it", arguments: [0, 3])
  func failure(lsn: UInt8) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let stream = try begin(client)
    try send([[lsn, 1], [lsn, 2], [255, 3], [lsn, 4]], stream, client)
    if lsn > 0 {
      #expect(fixture.eventually { fixture.board.read { $0.parts.count } == 2 })
      #expect(try client.call("echo", [1]).messages == [[1]])
      #expect(client.calls[stream] == nil)
      fixture.board.makeDurable(upTo: UInt64(lsn))
    }
    let call = try client.answer(stream)
    #expect(call.messages == [[lsn, 1], [lsn, 2]] && call.code == StatusCode.dataLoss.rawValue)
    let unary = try client.call("batch", [255])
    #expect(unary.body.isEmpty && unary.code == StatusCode.dataLoss.rawValue)
  }

  @Test("So does one that is too long, cut off, or no message")
  func malformed() throws {
    let fixture = try Fixture { $0.batchMessageBytesMax = 100_000 }
    let client = try fixture.connect()
    let good = Frame.message([0, 1])
    let tooLong: [UInt8] = [0] + Frame.bigEndian(100_001)
    let bodies: [([UInt8], StatusCode)] = [
      (tooLong, .resourceExhausted), ([7, 0, 0, 0, 0], .internal), ([0, 0, 0, 0, 9, 1], .internal),
      (Frame.message([1], flag: 1), .internal),
    ]
    for (body, code) in bodies {
      let call = try client.answer(try client.start("batches", body: good + body))
      #expect(call.messages == [[0, 1]] && call.code == code.rawValue)
      let unary = try client.answer(try client.start("batch", body: body))
      #expect(unary.body.isEmpty && unary.code == code.rawValue)
    }
    let longest = Self.requests(100_000)
    #expect(try client.call("batch", longest).messages == [longest])
    // Said to be too long, before it is there; other methods keep their own limit.
    let early = client.newStream()
    try client.send(Client.head(early, "batch") + Frame.data(early, tooLong, ends: false))
    #expect(try client.answer(early).code == StatusCode.resourceExhausted.rawValue)
    #expect(
      try client.call("echo", Array(longest.prefix(65_537))).code
        == StatusCode.resourceExhausted.rawValue)
    let two = try client.answer(try client.start("batch", body: good + good))
    #expect(two.code == StatusCode.unimplemented.rawValue)
    #expect(
      try client.answer(try client.start("batch", body: [])).code == StatusCode.internal.rawValue)
  }

  @Test(
    "Messages may be compressed, and the longest counts inflated",
    arguments: [MessageEncoding.gzip, .deflate])
  func compressed(encoding: MessageEncoding) throws {
    let fixture = try Fixture { $0.batchMessageBytesMax = 100_000 }
    let client = try fixture.connect()
    let fields = [("grpc-encoding", "\(encoding.name)")]
    let deflater = Deflater()
    func packed(_ message: [UInt8]) throws -> [UInt8] {
      let isWorthIt = deflater.deflate(message.span, encoding)
      try #require(isWorthIt)
      return Frame.message(
        deflater.withMessage { span in span.indices.map { span[$0] } }, flag: 1)
    }
    let long = [UInt8](repeating: 0, count: 100_000)
    let short = [UInt8](repeating: 0, count: 700)
    let unary = try client.answer(try client.start("batch", body: try packed(long), fields))
    #expect(unary.messages == [long] && unary.code == 0)
    let body = try packed(short) + Frame.message([0, 1]) + packed(long) + packed(short)
    let call = try client.answer(try client.start("batches", body: body, fields))
    #expect(call.messages == [short, [0, 1], long, short] && call.code == 0)
    let longer = try packed(long + [0])
    let tooLong = try client.answer(
      try client.start("batches", body: Frame.message([0, 1]) + longer, fields))
    #expect(tooLong.messages == [[0, 1]] && tooLong.code == StatusCode.resourceExhausted.rawValue)
  }

  @Test("A client that does not read is not read, and the others are served")
  func backPressure() throws {
    let fixture = try Fixture { $0.unsentBytesMax = 100_000 }
    let client = try Client(port: fixture.server.port, greets: true, window: 0)
    let stream = try begin(client)
    let message = Self.requests(10_000)
    try send([[UInt8]](repeating: message, count: 60), stream, client)
    func done() -> Int { fixture.board.read { $0.parts.map(\.count).reduce(0, +) } }
    // As many responses as may be unread, and the one that passes the limit.
    #expect(fixture.eventually { done() == 100_000 })
    let other = try fixture.connect()
    #expect(try other.call("batch", message).messages == [message])
    #expect(try other.call("echo", [1]).messages == [[1]])
    #expect(done() == 110_000)
    // Another call of the deaf connection waits as well.
    let unary = try client.start("batch", message)
    #expect(try other.call("echo", [1]).messages == [[1]])
    #expect(done() == 110_000)
    try client.send(Frame.bytes(8, 0, stream, Frame.bigEndian(1 << 29)))
    #expect(
      try client.read { $0.calls[stream]?.messages == [[UInt8]](repeating: message, count: 60) })
    #expect(fixture.eventually { done() == 620_000 })
    try client.send(Frame.bytes(8, 0, unary, Frame.bigEndian(1 << 20)))
    #expect(try client.answer(unary).messages == [message])
  }

  @Test("What is cancelled between two slices stops there")
  func cancelled() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let others = try fixture.connect()
    // Not answered before they are cancelled, be that late.
    let long = [9] + Self.requests(1_000_000)
    let calls = [try client.start("batch", long), try begin(client)]
    try send([long], calls[1], client)
    #expect(fixture.eventually { fixture.board.read { $0.parts.count } > 2 })
    try client.send(Frame.reset(calls[0]) + Frame.reset(calls[1]))
    #expect(fixture.eventually { fixture.board.read { $0.cancelled.count } == 2 })
    let done = fixture.board.read { $0.parts.count }
    #expect(try others.call("echo", [1]).messages == [[1]])
    #expect(try others.call("echo", [1]).messages == [[1]])
    #expect(fixture.board.read { $0.parts.count } == done)
    #expect(
      fixture.eventually { fixture.metric("grpc_server_handled_total", with: "Canceled") == 2 })
    #expect(try client.call("batch", [0]).messages == [[0]])
  }

  @Test("A deadline ends a batch between two slices")
  func deadline() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    // So many that they are not done in a millisecond.
    let call = try client.answer(
      try client.start(
        "batch", body: Frame.message(Self.requests(1_000_000)), [("grpc-timeout", "1m")]))
    #expect(call.code == StatusCode.deadlineExceeded.rawValue && call.body.isEmpty)
    #expect(fixture.board.read { $0.parts.map(\.count).reduce(0, +) } < 1_000_000)
    #expect(try client.call("batch", [0]).messages == [[0]])
  }

  @Test("A shutdown answers what was read, and then says so", arguments: [0, 3])
  func shutdown(lsn: UInt8) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let messages = (0..<30).map { [lsn, UInt8($0)] + Self.requests(3000) }
    let stream = try begin(client)
    try send(messages, stream, client)
    // One that has not come whole.
    try client.send(Frame.data(stream, [0, 0, 0, 0, 9, 0], ends: false))
    let idle = try begin(client)
    let unary = try client.start("batch", [lsn, 1])
    #expect(
      fixture.eventually { fixture.board.read { Set($0.parts.map(\.call)).count } == 2 })
    fixture.server.shutDown()
    #expect(try client.read { !$0.goAways.isEmpty })
    if lsn > 0 { fixture.board.makeDurable(upTo: 3) }
    let call = try client.answer(stream)
    #expect(call.messages == messages && call.code == StatusCode.unavailable.rawValue)
    #expect(call.text == "the server is shutting down")
    #expect(try client.answer(unary).messages == [[lsn, 1]])
    #expect(try client.answer(idle).code == StatusCode.unavailable.rawValue)
    fixture.stop()
  }
}
