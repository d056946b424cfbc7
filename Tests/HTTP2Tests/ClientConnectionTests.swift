// The client's half of a connection, fed with frames as a server writes them.
import Testing
import WireTesting

@testable import HTTP2

/// An event, with what could be read at it.
struct ClientSeen: Equatable {
  var kind: ClientEvent.Kind
  var stream: UInt32
  var status = 200
  var body: [UInt8] = []
  var fields: [String] = ["", ""]
}

/// A connection of the tests.
struct ClientUnderTest: ~Copyable {
  static let shared = [
    HeaderField(name: ":scheme", value: "https"), HeaderField(name: ":authority", value: "a:1"),
    HeaderField(name: "x-same", value: "yes"),
  ]

  var http: ClientConnection
  var seen: [ClientSeen] = []
  /// Streams of responses are consumed as they come.
  var consumes = true

  init(
    requests: [[HeaderField]] = ["/a", "/b", "/c"].map {
      [HeaderField(name: ":method", value: "POST"), HeaderField(name: ":path", value: $0)] + shared
    }, unreadBytesMax: Int = 1000, streamsMax: Int = 16
  ) throws {
    http = try ClientConnection(
      requests: requests, captured: ["x-end", "x-note"], unreadBytesMax: unreadBytesMax,
      streamsMax: streamsMax)
  }

  /// With the server's SETTINGS, and nothing unsent.
  static func ready(_ settings: [(UInt8, UInt32)] = []) throws -> ClientUnderTest {
    var client = try ClientUnderTest()
    try client.receive(Frames.settings(settings))
    _ = client.output()
    return client
  }

  /// With three requests under way, on streams 1, 3 and 5.
  static func withThree(streams: Bool = false) throws -> ClientUnderTest {
    var client = try ready()
    for _ in 0..<3 { client.open(streams: streams) }
    _ = client.output()
    return client
  }

  mutating func receive(_ bytes: [UInt8]) throws {
    defer { take() }
    try http.receive(bytes.span)
  }

  mutating func take() {
    for event in http.events {
      let body = http.withBody(of: event.stream) { array($0) }
      seen.append(
        ClientSeen(
          kind: event.kind, stream: event.stream.number, status: http.status(of: event.stream),
          body: body,
          fields: [0, 1].map {
            http.withField($0, of: event.stream) { String(decoding: array($0), as: UTF8.self) }
          }))
      if consumes, event.kind == .data { http.consume(body.count, of: event.stream) }
    }
    http.clearEvents()
  }

  mutating func output() -> [UInt8] {
    var bytes: [UInt8] = []
    http.send {
      bytes = array($0)
      return bytes.count
    }
    return bytes
  }

  mutating func frames() throws -> [ParsedFrame] {
    let frames = ParsedFrame.parse(output())
    return try #require(frames)
  }

  @discardableResult
  mutating func open(
    _ request: Int = 0, _ body: [UInt8] = [1, 2, 3], ends: Bool = true, streams: Bool = false
  ) -> ClientConnection.OpenResult {
    // In two parts, wherever they meet.
    let head = Array(body.prefix(body.count / 2))
    let tail = Array(body.dropFirst(head.count))
    return http.open(
      request, head: head.span, tail: tail.span, endsStream: ends, streamsResponse: streams)
  }

  mutating func send(_ stream: UInt32, _ body: [UInt8], ends: Bool) -> Bool {
    guard let stream = http.stream(stream) else { return false }
    return http.send(stream, head: body.span, tail: Span(), endsStream: ends)
  }

  mutating func cancel(_ stream: UInt32) -> Bool {
    guard let stream = http.stream(stream) else { return false }
    return http.cancel(stream)
  }
}

@Suite("Client connection")
struct ClientConnectionTests {
  static let end = Frames.literal("x-end", "1")

  static func response(_ stream: UInt32, _ body: [UInt8]) -> [UInt8] {
    Frames.frame(1, 4, stream, Frames.status200) + Frames.frame(0, 0, stream, body)
      + Frames.frame(1, 5, stream, end)
  }

  @Test("Nothing is opened before SETTINGS, and no more than they allow")
  func streamLimit() throws {
    var client = try ClientUnderTest()
    #expect(client.open() == .unavailable)
    try client.receive(Frames.settings([(3, 2)]))
    #expect(client.open() == .opened(ClientStream(index: 0, number: 1)))
    #expect(client.open() != .busy)
    #expect(client.open() == .busy)
    #expect(client.open(0, [UInt8](repeating: 0, count: 16_385)) == .tooLarge)
    #expect(client.http.streamCount == 2)
    try client.receive(Self.response(1, []))
    #expect(client.open() != .busy)
  }

  @Test("Both parts of a body are one DATA frame")
  func bodies() throws {
    var client = try ClientUnderTest.ready()
    for (count, ends) in [(0, true), (0, false), (1, true), (2, false), (16_384, true)] {
      let body = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
      client.open(0, body, ends: ends)
      let frames = try client.frames()
      #expect(frames.map(\.type) == [1, 0])
      #expect(frames[0].flags == 4)
      #expect(frames[1].flags == (ends ? 1 : 0))
      #expect(frames[1].payload == body)
      #expect(frames[0].stream == frames[1].stream)
    }
  }

  @Test("Events of a stream that streams its response, and of one that does not")
  func events() throws {
    let head = Frames.frame(1, 4, 1, Frames.literal(":status", "201"))
    let trailers = Frames.frame(1, 5, 1, Frames.literal("x-note", "n") + Self.end)
    let script =
      Frames.frame(1, 4, 1, Frames.literal(":status", "103")) + head
      + Frames.frame(0, 0, 1, [1, 2]) + Frames.frame(0, 0, 1, []) + Frames.frame(0, 0, 1, [3])
      + trailers
    var whole = try ClientUnderTest.withThree()
    try whole.receive(script)
    let ended = ClientSeen(kind: .ended, stream: 1, status: 201, fields: ["1", "n"])
    #expect(whole.seen == [with(ended) { $0.body = [1, 2, 3] }])

    var streamed = try ClientUnderTest.withThree(streams: true)
    for byte in script { try streamed.receive([byte]) }
    func seen(_ kind: ClientEvent.Kind, _ body: [UInt8]) -> ClientSeen {
      ClientSeen(kind: kind, stream: 1, status: 201, body: body)
    }
    #expect(
      streamed.seen == [seen(.headers, []), seen(.data, [1, 2]), seen(.data, [3]), ended])
  }

  private func with(_ seen: ClientSeen, _ change: (inout ClientSeen) -> Void) -> ClientSeen {
    var changed = seen
    change(&changed)
    return changed
  }

  @Test("A response that ends with DATA, or with its headers")
  func ends() throws {
    var client = try ClientUnderTest.withThree()
    try client.receive(
      Frames.frame(1, 4, 3, Frames.status200 + Self.end) + Frames.frame(0, 1, 3, [7])
        + Frames.frame(1, 5, 1, Frames.literal(":status", "404") + Self.end))
    #expect(
      client.seen == [
        // Only fields of the last block are kept.
        ClientSeen(kind: .ended, stream: 3, body: [7]),
        ClientSeen(kind: .ended, stream: 1, status: 404, fields: ["1", ""]),
      ])
    #expect(client.http.streamCount == 1)
  }

  @Test("Blocks that are remembered say the same; a change of the table makes them forgotten")
  func rememberedBlocks() throws {
    var client = try ClientUnderTest.ready()
    // Index 62 is "x-end: 1", later "x-note: n", for the same bytes.
    let enters: [[UInt8]] = [
      [0x40] + Frames.literal("x-end", "1").dropFirst(),
      [0x40] + Frames.literal("x-note", "n").dropFirst(),
    ]
    for enter in enters {
      for block in [enter, [0xbe], [0xbe], [0xbe]] {
        client.open()
        let stream = client.http.nextStream - 2
        try client.receive(
          Frames.frame(1, 4, stream, Frames.status200) + Frames.frame(1, 5, stream, block))
      }
    }
    #expect(
      client.seen.map(\.fields) == Array(repeating: ["1", ""], count: 4)
        + Array(repeating: ["", "n"], count: 4))
    #expect(client.seen.allSatisfy { $0.status == 200 })
  }

  @Test("Of two fields with one name the first counts, and an empty one is a field")
  func repeatedFields() throws {
    var client = try ClientUnderTest.withThree()
    let blocks = [
      Frames.literal("x-end", "1") + Frames.literal("x-end", "2"),
      Frames.literal("x-end", "") + Frames.literal("x-end", "2"),
    ]
    for (index, block) in blocks.enumerated() {
      try client.receive(Frames.frame(1, 5, UInt32(2 * index + 1), Frames.status200 + block))
    }
    #expect(client.seen.map { $0.fields[0] } == ["1", ""])
  }

  @Test("A small stream window sends a body in parts")
  func smallStreamWindow() throws {
    var client = try ClientUnderTest.ready([(4, 4)])
    let body: [UInt8] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    client.open(0, body)
    var sent = try client.frames()
    try client.receive(Frames.frame(8, 0, 1, Frames.number(3)))
    sent += try client.frames()
    // The window goes below what was sent already, and comes back.
    try client.receive(Frames.settings([(4, 2)]) + Frames.settings([(4, 20)]))
    sent += try client.frames()
    let data = sent.filter { $0.type == 0 }
    #expect(data.map(\.payload.count) == [4, 3, 5])
    #expect(data.map(\.flags) == [0, 0, 1])
    #expect(data.flatMap(\.payload) == body)
    #expect(client.http.sendingStreams == 0)
    try client.receive(Self.response(1, [9]))
    #expect(
      client.seen == [
        ClientSeen(kind: .ended, stream: 1, body: [9], fields: ["1", ""])
      ])
  }

  @Test("The connection's window holds streams back")
  func connectionWindow() throws {
    var client = try ClientUnderTest.ready()
    let body = [UInt8](repeating: 7, count: 16_000)
    var opened = 0
    while client.open(0, body) != .busy { opened += 1 }
    #expect(opened == 4)  // 4 × 16,000 of 65,535
    try client.receive(Frames.frame(8, 0, 0, Frames.number(16_000)))
    #expect(client.open(0, body) != .busy)
  }

  @Test("A body that is sent bit by bit, past the windows of its stream and connection")
  func sending() throws {
    var client = try ClientUnderTest.ready()
    client.open(0, [1], ends: false)
    let big = (0..<40_000).map { UInt8(truncatingIfNeeded: $0 / 7) }
    let areSent = [client.send(1, big, ends: false), client.send(1, big, ends: true)]
    #expect(areSent == [true, true])
    let isSentBehindTheEnd = client.send(1, [1], ends: true)
    #expect(!isSentBehindTheEnd)
    var data = try client.frames().filter { $0.type == 0 }
    // The windows are 65,535 bytes.
    #expect(data.map(\.payload.count) == [1, 16_384, 16_384, 7_232, 16_384, 9_150])
    try client.receive(
      Frames.frame(8, 0, 1, Frames.number(100_000)) + Frames.frame(8, 0, 0, Frames.number(10)))
    try client.receive(Frames.frame(8, 0, 0, Frames.number(100_000)))
    data += try client.frames().filter { $0.type == 0 }
    #expect(data.flatMap(\.payload) == [1] + big + big)
    #expect(data.map(\.flags).dropLast().allSatisfy { $0 == 0 })
    #expect(data.last?.flags == 1)
    #expect(client.http.sendingStreams == 0)

    client.open(0, [], ends: false)
    _ = client.output()
    let hasEnded = client.send(3, [], ends: true)
    #expect(hasEnded)
    #expect(try client.frames() == [ParsedFrame(type: 0, flags: 1, stream: 3, payload: [])])
  }

  @Test("A response before the end of its request resets the stream; nothing more is sent")
  func earlyResponse() throws {
    var client = try ClientUnderTest.ready()
    client.open(0, [1], ends: false)
    _ = client.output()
    try client.receive(Self.response(1, [2]))
    #expect(try client.frames().map(\.type) == [3])
    let isSent = client.send(1, [1], ends: true)
    #expect(!isSent)
    #expect(client.seen.map(\.kind) == [.ended])
  }

  @Test("More than may wait unread resets the stream")
  func oversize() throws {
    for streams in [false, true] {
      var client = try ClientUnderTest.withThree(streams: streams)
      client.consumes = false
      let half = Frames.frame(0, 0, 1, [UInt8](repeating: 1, count: 500))
      try client.receive(Frames.frame(1, 4, 1, Frames.status200) + half + half)
      #expect(client.http.streamCount == 3)
      try client.receive(Frames.frame(0, 0, 1, [1]))
      #expect(client.seen.last?.kind == .oversize)
      #expect(try client.frames().map(\.type) == [3])
      #expect(client.http.streamCount == 2)
    }
    // What is consumed does not wait.
    var client = try ClientUnderTest.withThree(streams: true)
    try client.receive(Frames.frame(1, 4, 1, Frames.status200))
    for _ in 0..<10 {
      try client.receive(Frames.frame(0, 0, 1, [UInt8](repeating: 1, count: 900)))
    }
    #expect(client.http.streamCount == 3)
  }

  @Test("Credit is given back in large pieces, to the connection and to a stream that goes on")
  func credit() throws {
    var client = try ClientUnderTest(unreadBytesMax: 20_000)
    try client.receive(Frames.settings())
    client.open(streams: true)
    _ = client.output()
    try client.receive(Frames.frame(1, 4, 1, Frames.status200))
    let data = Frames.frame(0, 0, 1, [UInt8](repeating: 1, count: 16_384))
    let quarter = (1 << 30) / 4
    for _ in 0..<quarter / 16_384 {
      try client.http.receive(data.span)
      client.http.clearEvents()
      guard let stream = client.http.stream(1) else { return #expect(Bool(false), "it ended") }
      client.http.consume(16_384, of: stream)
    }
    let updates = try client.frames()
    #expect(updates.map(\.type) == [8, 8])
    #expect(updates.map(\.stream) == [0, 1])
    #expect(updates.allSatisfy { $0.payload == Frames.number(UInt32(quarter)) })
  }

  @Test("What GOAWAY and REFUSED_STREAM leave out was not processed")
  func goAway() throws {
    var client = try ClientUnderTest.withThree()
    try client.receive(
      Frames.frame(3, 0, 1, Frames.number(7))
        + Frames.frame(7, 0, 0, Frames.number(3) + Frames.number(0)))
    #expect(client.seen.map(\.stream) == [1, 5])
    #expect(client.seen.map(\.kind) == [.unprocessed, .unprocessed])
    #expect(client.open() == .unavailable)
    try client.receive(Self.response(3, [1]))
    #expect(client.seen.last?.body == [1])
  }

  @Test("Resets and losses")
  func resets() throws {
    var client = try ClientUnderTest.withThree()
    try client.receive(Frames.frame(3, 0, 3, Frames.number(2)))
    client.http.close()
    client.take()
    #expect(client.seen.map(\.kind) == [.reset(2), .lost, .lost])
    #expect(client.http.streamCount == 0)
  }

  @Test("A cancelled stream is reset, and its late frames are dropped")
  func cancelled() throws {
    var client = try ClientUnderTest.withThree()
    let areCancelled = [client.cancel(3), client.cancel(3)]
    #expect(areCancelled == [true, false])
    let frames = try client.frames()
    #expect(frames == [ParsedFrame(type: 3, flags: 0, stream: 3, payload: Frames.number(8))])
    #expect(client.http.streamCount == 2)
    let creditBefore = client.http.uncredited
    // Its late response enters a field into the header table, which the next response names.
    try client.receive(
      Frames.frame(1, 4, 3, Frames.status200) + Frames.frame(0, 0, 3, [7, 7, 7])
        + Frames.frame(1, 5, 3, [0x40] + Self.end.dropFirst())
        + Frames.frame(3, 0, 3, Frames.number(8)) + Frames.frame(8, 0, 3, Frames.number(9))
        + Frames.frame(1, 4, 1, Frames.status200) + Frames.frame(0, 0, 1, [1])
        + Frames.frame(1, 5, 1, [0xbe]))
    #expect(client.http.uncredited - creditBefore == 4)
    #expect(client.seen == [ClientSeen(kind: .ended, stream: 1, body: [1], fields: ["1", ""])])
  }

  @Test("Cancelling half a request sends no more of it")
  func cancelledHalf() throws {
    var client = try ClientUnderTest.ready([(4, 2)])
    client.open()
    let isCancelled = client.cancel(1)
    #expect(isCancelled)
    _ = client.output()
    try client.receive(Frames.frame(8, 0, 1, Frames.number(100)) + Frames.settings([(4, 100)]))
    #expect(try !client.frames().contains { $0.type == 0 })
    #expect(client.http.sendingStreams == 0)
  }

  @Test(
    "A response that is none ends its stream; the connection goes on",
    arguments: [
      Frames.frame(1, 4, 1, Frames.literal(":status", "abc")),
      Frames.frame(1, 4, 1, Frames.literal(":status", "0200")),
      Frames.frame(1, 4, 1, Frames.literal(":status", "099")),
      Frames.frame(1, 4, 1, end), Frames.frame(1, 5, 1, Frames.literal(":status", "100")),
      // Trailers that do not end, and trailers with a status.
      Frames.frame(1, 4, 1, Frames.status200) + Frames.frame(1, 4, 1, end),
      Frames.frame(1, 4, 1, Frames.status200) + Frames.frame(1, 5, 1, Frames.status200),
    ])
  func malformed(bytes: [UInt8]) throws {
    var client = try ClientUnderTest.withThree()
    try client.receive(bytes)
    #expect(client.seen.map(\.kind) == [.malformed])
    #expect(try client.frames().map(\.type) == [3])
    // Late frames of a stream that we reset are nothing to anybody.
    try client.receive(Frames.frame(0, 0, 1, [1, 2, 3]) + Self.response(3, [5]))
    #expect(client.seen.last?.body == [5])
  }

  @Test(
    "What breaks the connection is thrown",
    arguments: [
      Frames.frame(0, 0, 1, [1]),  // DATA before HEADERS
      Frames.frame(0, 0, 2, [1]), Frames.frame(0, 0, 7, [1]), Frames.frame(1, 4, 0, [0x88]),
      Frames.frame(0, 8, 1, [1]), Frames.frame(0, 8, 1, []),  // padding
      Frames.frame(1, 0x24, 1, [1, 2]),
      Frames.frame(1, 4, 1, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Frames.frame(1, 4, 1, [0x7f]),
      Frames.frame(1, 4, 1, [0x80]), Frames.frame(1, 4, 1, [0xc0]),
      Frames.frame(1, 4, 1, [0, 9, 1]),
      Frames.frame(9, 4, 1, []), Frames.frame(1, 0, 1, [0x88]) + Frames.frame(0, 0, 1, [1]),
      Frames.frame(1, 0, 1, []) + Frames.frame(9, 4, 3, []),
      Frames.frame(4, 0, 0, [1, 2, 3]), Frames.frame(4, 0, 1, []),
      Frames.settings([(4, 0x8000_0000)]),
      Frames.frame(5, 4, 1, [0, 0, 0, 2, 0x88]),  // PUSH_PROMISE
      Frames.frame(6, 0, 0, [1]), Frames.frame(7, 0, 0, [1]), Frames.frame(3, 0, 1, [1]),
      Frames.frame(8, 0, 0, Frames.number(0)), Frames.frame(8, 0, 0, Frames.number(0x7fff_ffff)),
      Frames.frame(8, 0, 0, [1]), [0, 0x40, 1, 0, 0, 0, 0, 0, 1],
      Array("HTTP/1.1 400 Bad Request\r\n\r\n".utf8),
    ])
  func brokenProtocol(bytes: [UInt8]) throws {
    var client = try ClientUnderTest.withThree()
    #expect(throws: ClientError.self) { try client.receive(bytes) }
    client.http.close()
    client.take()
    #expect(client.seen.map(\.kind) == [.lost, .lost, .lost])
  }

  @Test("Floods of control frames and bombs of header fields end")
  func floods() throws {
    var client = try ClientUnderTest.withThree()
    let pings = [[UInt8]](repeating: Frames.frame(6, 0, 0, [0, 0, 0, 0, 0, 0, 0, 0]), count: 1000)
    #expect(throws: ClientError.self) {
      for _ in 0..<100 { try client.receive(pings.flatMap { $0 }) }
    }
    // 4,000 bytes into the table, then that field 10,000 times by its index.
    var bomb = try ClientUnderTest.withThree()
    let field: [UInt8] = [0x40, 1, 97, 0x7f, 0xa1, 0x1e] + [UInt8](repeating: 98, count: 4_000)
    #expect(throws: ClientError.self) {
      try bomb.receive(Frames.frame(1, 4, 1, field + [UInt8](repeating: 0xbe, count: 10_000)))
    }
    var endless = try ClientUnderTest.withThree()
    #expect(throws: ClientError.self) {
      try endless.receive(Frames.frame(1, 0, 1, []))
      for _ in 0..<5 {
        try endless.receive(Frames.frame(9, 0, 1, [UInt8](repeating: 0x88, count: 16_384)))
      }
    }
  }
}
