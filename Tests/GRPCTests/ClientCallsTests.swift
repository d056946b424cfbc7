// The calls of one client connection, fed with frames as a server writes them.
import GRPC
import HTTP2
import Testing
import WireTesting

/// A response with its bytes, or a message of one that is streamed.
private struct Seen: Equatable {
  var id: UInt64
  /// nil: a message of a call that streams them.
  var outcome: ClientCall.Outcome?
  var http = 200
  var status = StatusCode.ok
  var message: [UInt8] = []
  var text = ""
  var details: [UInt8] = []
}

/// Calls of the tests: two unary methods, one for each other kind.
private struct CallsUnderTest: ~Copyable {
  static let methods = [
    ClientMethod(path: "/a.A/B", type: .unary), ClientMethod(path: "/a.A/C", type: .unary),
    ClientMethod(path: "/a.A/S", type: .serverStreaming),
    ClientMethod(path: "/a.A/T", type: .clientStreaming),
    ClientMethod(path: "/a.A/D", type: .bidirectional),
  ]

  var calls: ClientCalls
  var seen: [Seen] = []

  init(callsMax: Int = 16, metadata: [ClientMetadata] = []) throws {
    calls = try ClientCalls(
      methods: Self.methods, authority: "127.0.0.1:1", userAgent: "test", metadata: metadata,
      callsMax: callsMax)
  }

  static func ready(_ settings: [(UInt8, UInt32)] = [], callsMax: Int = 16) throws
    -> CallsUnderTest
  {
    var client = try CallsUnderTest(callsMax: callsMax)
    try client.receive(Frames.settings(settings))
    _ = client.output()
    return client
  }

  /// With the calls 100, 101 and 102 under way, on streams 1, 3 and 5.
  static func withThree(_ method: Int = 0) throws -> CallsUnderTest {
    var client = try ready()
    for id in 100..<103 { _ = client.start(UInt64(id), method) }
    _ = client.output()
    return client
  }

  mutating func receive(_ bytes: [UInt8]) throws {
    defer { take() }
    try calls.receive(bytes.span)
  }

  mutating func take() {
    for message in calls.messages {
      seen.append(
        Seen(
          id: message.callID, outcome: nil, message: calls.withMessage(message) { array($0) }))
    }
    for response in calls.responses {
      seen.append(
        Seen(
          id: response.callID, outcome: response.outcome, http: response.httpStatus,
          status: response.status, message: calls.withMessage(of: response) { array($0) },
          text: calls.statusText(of: response),
          details: calls.withStatusDetails(of: response) { array($0) }))
    }
    calls.forgetResponses()
  }

  mutating func output() -> [UInt8] {
    var bytes: [UInt8] = []
    calls.flush {
      bytes = array($0)
      return bytes.count
    }
    return bytes
  }

  mutating func frames() throws -> [ParsedFrame] {
    let frames = ParsedFrame.parse(output())
    return try #require(frames)
  }

  /// The call's stream; nil where it did not start.
  mutating func start(
    _ id: UInt64, _ method: Int = 0, _ message: [UInt8] = [1, 2, 3], ends: Bool = true
  ) -> UInt32? {
    guard
      case .started(let stream) = calls.start(
        method, callID: id, message: message.span, ends: ends)
    else { return nil }
    return stream
  }

  mutating func mustStart(
    _ id: UInt64, _ method: Int = 0, _ message: [UInt8] = [1, 2, 3], ends: Bool = true
  ) throws -> UInt32 {
    let stream = start(id, method, message, ends: ends)
    return try #require(stream)
  }
}

@Suite("Client calls")
struct ClientCallsTests {
  private static let ok = Frames.literal("grpc-status", "0")

  /// Three calls answered with everything that the protocol allows.
  private static let script: [UInt8] =
    Frames.frame(1, 4, 3, Frames.literal(":status", "103"))  // interim
    + Frames.frame(1, 4, 1, Frames.status200)
    + Frames.frame(6, 0, 0, [1, 2, 3, 4, 5, 6, 7, 8])  // PING
    + Frames.frame(0, 0, 1, Array(Frames.body([10, 11, 12]).prefix(3)))
    + Frames.frame(1, 0x24, 3, [0, 0, 0, 0, 9] + Frames.status200)  // with priority
    + Frames.frame(0, 8, 3, [2] + Frames.body([20]) + [0, 0])  // padded
    + Frames.frame(8, 0, 0, Frames.number(100_000))
    + Frames.frame(0, 0, 1, Array(Frames.body([10, 11, 12]).dropFirst(3)))
    + Frames.frame(200, 0xff, 7, [1])  // a type that nobody knows
    // Trailers-only: an error, in three pieces, its details in base64 without padding.
    + Frames.frame(1, 1, 5, Frames.status200 + Frames.literal("grpc-status", "9"))
    + Frames.frame(9, 0, 5, Frames.literal("grpc-message", "no%20stock"))
    + Frames.frame(9, 4, 5, Frames.literal("grpc-status-details-bin", "AQIDBA"))
    + Frames.frame(1, 5, 1, ok)
    // With indexing: from here on index 62 is this field.
    + Frames.frame(1, 5, 3, [0x40] + ok.dropFirst())

  private static let expected = [
    Seen(
      id: 102, outcome: .answered, status: .failedPrecondition, text: "no stock",
      details: [1, 2, 3, 4]),
    Seen(id: 100, outcome: .answered, message: [10, 11, 12]),
    Seen(id: 101, outcome: .answered, message: [20]),
  ]

  @Test("Bytes cut anywhere")
  func everySplit() throws {
    for split in 0...Self.script.count {
      var client = try CallsUnderTest.withThree()
      try client.receive(Array(Self.script[..<split]))
      try client.receive(Array(Self.script[split...]))
      #expect(client.seen == Self.expected, "split at \(split)")
      #expect(client.calls.openCalls == 0)
    }
  }

  @Test("Byte by byte")
  func byteByByte() throws {
    var client = try CallsUnderTest.withThree()
    for byte in Self.script { try client.receive([byte]) }
    #expect(client.seen == Self.expected)
    let pings = try client.frames().filter { $0.type == 6 }
    #expect(
      pings == [ParsedFrame(type: 6, flags: 1, stream: 0, payload: [1, 2, 3, 4, 5, 6, 7, 8])])
  }

  @Test("A request is its header fields, and its message with a prefix")
  func requests() throws {
    var client = try CallsUnderTest()
    #expect(client.start(1) == nil)
    try client.receive(Frames.settings([(3, 4)]))
    _ = client.output()
    #expect(client.start(1, 1, [1, 2, 3]) == 1)
    #expect(client.start(2, 0, []) == 3)
    let frames = try client.frames()
    #expect(frames.map(\.type) == [1, 0, 1, 0])
    #expect(frames[1].payload == [0, 0, 0, 0, 3, 1, 2, 3])
    #expect(frames[3].payload == [0, 0, 0, 0, 0])
    #expect(frames[1].flags == 1)
    // Spelt out in the first block, without Huffman coding.
    let block = String(decoding: frames[0].payload, as: UTF8.self)
    for text in ["/a.A/C", "te", "trailers", "application/grpc", "127.0.0.1:1", "test"] {
      #expect(block.contains(text))
    }
    let tooBig = [UInt8](repeating: 0, count: ClientCalls.requestBytesMax + 1)
    #expect(client.calls.start(0, callID: 3, message: tooBig.span) == .messageTooLarge)
    let big = [UInt8](repeating: 0, count: 16_380)
    #expect(client.start(3, 0, Array(big.dropLast())) == 5)
    #expect(client.start(4) == 7)
    #expect(client.calls.start(0, callID: 5, message: [1].span) == .busy)
    let hasRoom = client.calls.hasRoom(for: 1)
    #expect(!hasRoom)
  }

  @Test("A long message goes out in parts, as fast as windows and output let it")
  func longMessages() throws {
    var client = try CallsUnderTest.ready([(4, 1 << 20)])
    try client.receive(Frames.frame(8, 0, 0, Frames.number(1 << 22)))
    _ = client.output()
    let long = (0..<900_000).map { UInt8(truncatingIfNeeded: $0 / 7) }
    #expect(client.start(1, 0, long) == 1)
    // Control frames are to fit behind what waits.
    #expect(client.calls.outputCount < 300_000)
    var bytes: [UInt8] = []
    while client.calls.outputCount > 0 {
      client.calls.flush { piece in
        let count = min(piece.count, 50_000)
        for index in 0..<count { bytes.append(piece[index]) }
        return count
      }
    }
    let frames = try #require(ParsedFrame.parse(bytes))
    let data = frames.filter { $0.type == 0 }
    #expect(data.flatMap(\.payload) == Frames.body(long))
    #expect(data.map(\.flags).filter { $0 == 1 }.count == 1 && data.last?.flags == 1)
    #expect(data.allSatisfy { $0.payload.count <= 16_384 })
    try client.receive(Frames.answer(1, [7]))
    #expect(client.seen.last?.message == [7])
  }

  @Test("Metadata goes with every call, up to its bound")
  func metadata() throws {
    let most = ClientCalls.metadataBytesMax - 9
    for (count, isGood) in [(most, true), (most + 1, false)] {
      let value = String(repeating: "v", count: count)
      do {
        var client = try CallsUnderTest(metadata: [ClientMetadata(name: "n", value: value)])
        try client.receive(Frames.settings())
        _ = client.output()
        _ = client.start(1)
        let block = String(decoding: try client.frames()[0].payload, as: UTF8.self)
        #expect(isGood && block.contains(value))
      } catch is ClientError {
        #expect(!isGood)
      }
    }
  }

  @Test(
    "What is no gRPC response ends its call as malformed; the connection goes on",
    arguments: [
      // No trailers.
      Frames.frame(1, 4, 1, Frames.status200) + Frames.frame(0, 1, 1, Frames.body([1])),
      // No message, two messages.
      Frames.frame(1, 4, 1, Frames.status200) + Frames.trailers(1),
      Frames.frame(1, 4, 1, Frames.status200)
        + Frames.frame(0, 0, 1, Frames.body([1]) + Frames.body([])) + Frames.trailers(1),
      // No status.
      Frames.frame(1, 5, 1, Frames.status200),
      Frames.frame(1, 5, 1, Frames.literal(":status", "503")),
      Frames.frame(1, 4, 1, Frames.literal(":status", "abc")),
      Frames.frame(1, 4, 1, Frames.literal("grpc-status", "0")),
      // Trailers that don't end.
      Frames.frame(1, 4, 1, Frames.status200) + Frames.frame(1, 4, 1, Frames.status200),
    ])
  func malformed(bytes: [UInt8]) throws {
    var client = try CallsUnderTest.withThree()
    try client.receive(bytes)
    #expect(client.seen.map(\.id) == [100])
    #expect(client.seen.first?.outcome == .malformed)
    try client.receive(Frames.frame(0, 0, 1, [1, 2, 3]) + Frames.answer(3, [5]))
    #expect(client.seen.last?.message == [5])
  }

  @Test("Streams that did not end in order")
  func otherEnds() throws {
    var client = try CallsUnderTest.withThree()
    try client.receive(
      Frames.frame(3, 0, 1, Frames.number(7)) + Frames.frame(3, 0, 3, Frames.number(11)))
    client.calls.close()
    client.take()
    #expect(client.seen.map(\.outcome) == [.unprocessed, .reset(11), .lost])
    #expect(client.seen.map(\.status) == [.unavailable, .resourceExhausted, .unavailable])
    #expect(client.calls.isClosing && client.calls.openCalls == 0)
  }

  @Test("What came before the connection broke counts")
  func brokenBehindAResponse() throws {
    var client = try CallsUnderTest.withThree()
    #expect(throws: ClientError.self) {
      try client.receive(Frames.answer(3, [4]) + Frames.frame(5, 4, 1, [0, 0, 0, 2]))
    }
    client.calls.close()
    client.take()
    #expect(client.seen.map(\.id) == [101, 100, 102])
    #expect(client.seen.map(\.outcome) == [.answered, .lost, .lost])
  }

  @Test("A cancelled call is told of no more")
  func cancelled() throws {
    var client = try CallsUnderTest.withThree()
    let areCancelled = [client.calls.cancel(stream: 3), client.calls.cancel(stream: 3)]
    #expect(areCancelled == [true, false])
    try client.receive(Frames.answer(3, [1]) + Frames.answer(1, [2]))
    client.calls.close()
    client.take()
    #expect(client.seen.map(\.id) == [100, 102])
    // Its place is another call's.
    var next = try CallsUnderTest.ready([(3, 1)], callsMax: 1)
    for id in 0..<20 as Range<UInt64> {
      let stream = try next.mustStart(id)
      let isCancelled = next.calls.cancel(stream: stream)
      #expect(isCancelled)
    }
    #expect(next.calls.openCalls == 0)
  }

  @Test("Refusals keep their details apart")
  func refusals() throws {
    var client = try CallsUnderTest.withThree()
    func refusal(_ stream: UInt32, _ details: String, _ text: String) -> [UInt8] {
      Frames.frame(
        1, 5, stream,
        Frames.status200 + Frames.literal("grpc-status-details-bin", details)
          + Frames.literal("grpc-message", text) + Frames.literal("grpc-status", "5"))
    }
    // With padding, and what is no base64 from its second group on.
    try client.receive(
      refusal(1, "AQI=", "%C3%A4%") + refusal(3, "AQID!QID", "") + refusal(5, "", "x"))
    #expect(client.seen.map(\.details) == [[1, 2], [1, 2, 3], []])
    #expect(client.seen.map(\.text) == ["\u{e4}%", "", "x"])
    #expect(client.seen.allSatisfy { $0.status == .notFound && $0.message.isEmpty })
  }

  @Test("Messages of a call that streams them come one by one, then its end")
  func serverStreaming() throws {
    let script =
      Frames.frame(1, 4, 1, Frames.status200)
      + Frames.frame(0, 0, 1, Frames.body([1]) + Frames.body([]) + Frames.body([2, 2]))
      + Frames.frame(0, 0, 1, Array(Frames.body([3, 3, 3]).prefix(6)))
      + Frames.frame(0, 0, 1, Array(Frames.body([3, 3, 3]).dropFirst(6)) + Frames.body([4]))
    let messages = [[1], [], [2, 2], [3, 3, 3], [4]].map { Seen(id: 100, message: $0) }
    let end = Seen(id: 100, outcome: .answered)
    for split in 0...script.count {
      var client = try CallsUnderTest.withThree(2)
      try client.receive(Array(script[..<split]))
      try client.receive(Array(script[split...]))
      #expect(client.seen == messages, "split at \(split)")
      try client.receive(Frames.trailers(1))
      #expect(client.seen == messages + [end])
    }
    // All at once; the bytes are there until the next `receive`.
    var client = try CallsUnderTest.withThree(2)
    try client.receive(script + Frames.trailers(1))
    #expect(client.seen == messages + [end])
    // The slots of such streams serve others.
    for id in 0..<100 as Range<UInt64> {
      let stream = try client.mustStart(id, Int(id % 2) * 2)
      client.seen.removeAll()
      try client.receive(Frames.answer(stream, [UInt8(id)]))
      let message = Seen(id: id, message: [UInt8(id)])
      let unary = Seen(id: id, outcome: .answered, message: [UInt8(id)])
      #expect(
        client.seen == (id % 2 == 0 ? [unary] : [message, Seen(id: id, outcome: .answered)]))
    }
  }

  @Test("A stream of messages that breaks is cancelled, or ends malformed")
  func brokenStreams() throws {
    let good = Frames.frame(1, 4, 1, Frames.status200) + Frames.frame(0, 0, 1, Frames.body([1]))
    for (bytes, status) in [
      (Frames.frame(0, 0, 1, [1] + Frames.number(1) + [5]), StatusCode.internal),
      (Frames.frame(0, 0, 1, [0] + Frames.number(5 << 20)), .resourceExhausted),
      (Frames.frame(0, 0, 1, [0, 0]) + Frames.trailers(1), .internal),
      (Frames.frame(0, 0, 1, [9, 0, 0, 0, 0]) + Frames.trailers(1), .internal),
    ] {
      var client = try CallsUnderTest.withThree(2)
      try client.receive(good + bytes)
      #expect(client.seen.map(\.id) == [100, 100])
      #expect(client.seen.map(\.outcome) == [nil, .malformed])
      #expect(client.seen.last?.status == status)
      #expect(client.calls.openCalls == 2)
      try client.receive(Frames.answer(3, [7]))
      #expect(client.seen.last == Seen(id: 101, outcome: .answered))
    }
    // A refusal behind messages.
    var client = try CallsUnderTest.withThree(2)
    try client.receive(good + Frames.frame(1, 5, 1, Frames.literal("grpc-status", "14")))
    #expect(client.seen.last == Seen(id: 100, outcome: .answered, status: .unavailable))
  }

  @Test("A request of several messages", arguments: [3, 4])
  func clientStreaming(method: Int) throws {
    var client = try CallsUnderTest.ready()
    let stream = try client.mustStart(1, method, [1], ends: false)
    let areSent = [
      client.calls.send([2, 2].span, to: stream, ends: false),
      client.calls.halfClose(stream: stream),
      client.calls.send([3].span, to: stream, ends: true), client.calls.halfClose(stream: 9),
    ]
    #expect(areSent == [true, true, false, false])
    let data = try client.frames().filter { $0.type == 0 }
    #expect(data.flatMap(\.payload) == Frames.body([1]) + Frames.body([2, 2]))
    #expect(data.map(\.flags) == [0, 0, 1])
    try client.receive(Frames.answer(stream, [7]))
    #expect(client.seen.first?.message == [7])
    #expect(client.seen.last?.outcome == .answered)
  }

  @Test("Flipped, lost and doubled bytes: any outcome is right but a trap", arguments: [0, 2])
  func garbage(method: Int) throws {
    var generator = Lehmer(state: 20_261_121)
    for _ in 0..<3_000 {
      var bytes = Self.script
      for _ in 0..<1 + generator.below(4) {
        let at = generator.below(bytes.count)
        switch generator.below(3) {
        case 0: bytes[at] = UInt8(generator.below(256))
        case 1: bytes.remove(at: at)
        default: bytes.insert(bytes[at], at: at)
        }
      }
      var client = try CallsUnderTest.withThree(method)
      let split = generator.below(bytes.count)
      do {
        try client.receive(Array(bytes[..<split]))
        try client.receive(Array(bytes[split...]))
      } catch is ClientError {}
      client.calls.close()
      client.take()
      #expect(client.seen.count { $0.outcome != nil } == 3)
      #expect(client.calls.openCalls == 0)
    }
  }

  @Test("Many calls keep their bytes apart")
  func manyCalls() throws {
    var client = try CallsUnderTest.ready(callsMax: 64)
    var generator = Lehmer(state: 7)
    var open: [(id: UInt64, stream: UInt32)] = []
    var answered: [UInt64] = []
    for id in 0..<5_000 as Range<UInt64> {
      open.append((id, try client.mustStart(id, Int(id % 2))))
      _ = client.output()
      guard open.count == 64 || id == 4_999 else { continue }
      // Half of them, in any order, the oldest perhaps not for long.
      for _ in 0..<(id == 4_999 ? open.count : 32) {
        let (id, stream) = open.remove(at: generator.below(open.count))
        answered.append(id)
        try client.receive(Frames.answer(stream, [UInt8(id & 255), UInt8(id >> 8)]))
      }
    }
    #expect(client.seen.map(\.id) == answered)
    #expect(client.seen.allSatisfy { $0.message == [UInt8($0.id & 255), UInt8($0.id >> 8)] })
  }
}
