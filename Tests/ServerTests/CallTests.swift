import GRPC
import Posix
import Server
import Testing

@Suite("Calls")
struct CallTests {
  @Test("A message comes back, in whatever frames it went", arguments: [1, 2, 3, 5, 7, 16_384])
  func echo(chunk: Int) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    for length in [0, 1, 5, 300, 4096] {
      let message = (0..<length).map { UInt8(truncatingIfNeeded: $0) }
      let answer = try client.answer(
        try client.start("echo", body: Frame.message(message), chunk: chunk))
      #expect(answer.messages == [message])
      #expect(answer.httpStatus == "200")
      #expect(answer.fields["content-type"] == "application/grpc")
      #expect(answer.code == 0)
    }
  }

  @Test("The longest message is taken, one byte more is refused")
  func longest() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let message = [UInt8](repeating: 1, count: 65_536)
    #expect(try client.call("echo", message).messages == [message])
    let refused = try client.call("echo", message + [2])
    #expect(refused.code == StatusCode.resourceExhausted.rawValue)
    #expect(refused.fields["grpc-status-details-bin"] != nil)
    #expect(try client.call("echo", [3]).messages == [[3]])
    #expect(fixture.board.read { $0.executed[0] } == 2)
  }

  @Test("A length over the limit is refused before the message has come")
  func refusedEarly() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let stream = client.newStream()
    let prefix: [UInt8] = [0, 0x7f, 0xff, 0xff, 0xff]
    try client.send(
      Client.head(stream, "echo")
        + Frame.data(stream, prefix + [UInt8](repeating: 0, count: 16_000), ends: false))
    for _ in 0..<5 {
      try client.send(Frame.data(stream, [UInt8](repeating: 0, count: 16_000), ends: false))
    }
    #expect(try client.answer(stream).code == StatusCode.resourceExhausted.rawValue)
    #expect(try client.call("echo", [3]).messages == [[3]])
  }

  @Test("The caller's name reaches the handler")
  func caller() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let answer = try client.call("echo", [65], [("caller", "shop-7")])
    #expect(answer.messages == [Array("Ashop-7".utf8)])
    #expect(try client.call("echo", [65]).messages == [[65]])
  }

  @Test("A failure has its code, its text and its details", arguments: 1...16)
  func failure(code: Int) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let answer = try client.call("fail", [UInt8(code), 0xfb, 0xff])
    #expect(answer.httpStatus == "200")
    #expect(answer.code == code)
    #expect(answer.text == "100%25 gr%C3%B6%C3%9Fer%0A")
    let details = answer.fields["grpc-status-details-bin"] ?? ""
    // The last twelve bits of (code, fb, ff) are the same for every code.
    #expect(details.count == 4)
    #expect(details.hasSuffix("v/"))
    #expect(answer.body.isEmpty)
  }

  /// Header fields that are wrong, the HTTP status and the gRPC code.
  private static let wrongHeads: [(String, String, String, Int)] = [
    ("content-type", "application/json", "415", 2),
    ("content-type", "application/grpc-web", "415", 2),
    (":method", "GET", "405", 2), (":method", "PUT", "405", 2),
    (":path", "/test.Service/nothing", "200", 12), (":path", "/", "200", 12),
    ("grpc-encoding", "snappy", "200", 12), ("grpc-timeout", "1x", "200", 13),
    ("grpc-timeout", "123456789n", "200", 13),
  ]

  @Test("Wrong heads are refused", arguments: wrongHeads)
  func wrongHead(name: String, value: String, status: String, code: Int) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let answer = try client.call("echo", [1], [(name, value)])
    #expect(answer.httpStatus == status)
    #expect(answer.code == code)
    #expect(!answer.text.isEmpty)
    #expect(answer.fields["grpc-status-details-bin"] != nil)
    if code == 12 { #expect(answer.fields["grpc-accept-encoding"] == "identity,deflate,gzip") }
    #expect(fixture.board.read { $0.executed.isEmpty })
    #expect(try client.call("echo", [1]).messages == [[1]])
  }

  private static let wrongBodies: [(String, [UInt8], StatusCode)] = [
    ("nothing", [], .internal), ("half a prefix", [0, 0], .internal),
    ("a prefix", [0, 0, 0, 0, 5], .internal), ("half a message", [0, 0, 0, 0, 5, 1, 2], .internal),
    ("two messages", Frame.message([1]) + Frame.message([2]), .unimplemented),
    ("a byte too many", Frame.message([1]) + [0], .unimplemented),
    ("compressed", Frame.message([1], flag: 1), .internal),
    ("a wrong flag", Frame.message([1], flag: 2), .internal),
  ]

  @Test("Wrong bodies are refused", arguments: wrongBodies)
  func wrongBody(name: String, body: [UInt8], code: StatusCode) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let answer = try client.answer(try client.start("echo", body: body))
    #expect(answer.code == code.rawValue)
    #expect(!answer.text.isEmpty)
    #expect(answer.fields["grpc-status-details-bin"] != nil)
    #expect(answer.fields["grpc-retry-pushback-ms"] == nil)
    #expect(fixture.board.read { $0.executed.isEmpty })
    #expect(try client.call("echo", [1]).messages == [[1]])
  }

  @Test("A call whose time is over is not executed", arguments: ["0n", "1n", "0H"])
  func deadline(timeout: String) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    // The end comes in a later turn: the client has seen the answer to another call in between.
    let stream = client.newStream()
    try client.send(Client.head(stream, "echo", [("grpc-timeout", timeout)]))
    _ = try client.call("fail", [3])
    try client.send(Frame.data(stream, Frame.message([1]), ends: true))
    #expect(try client.answer(stream).code == StatusCode.deadlineExceeded.rawValue)
    #expect(fixture.board.read { $0.executed[0] } == nil)
    #expect(try client.call("echo", [1], [("grpc-timeout", "10S")]).messages == [[1]])
    #expect(try client.call("echo", [1], [("grpc-timeout", "99999999H")]).messages == [[1]])
  }

  @Test("A request that does not become whole is refused at its deadline")
  func incomplete() throws {
    let fixture = try Fixture { $0.requestNanosecondsMax = 300 * millisecond }
    let client = try fixture.connect()
    let own = client.newStream()
    let ours = client.newStream()
    let begun = SystemClock.monotonicNanoseconds()
    try client.send(Client.head(own, "echo", [("grpc-timeout", "50m")]))
    try client.send(Client.head(ours, "echo") + Frame.data(ours, [0, 0], ends: false))
    let refused = try client.answer(own)
    #expect(refused.code == StatusCode.deadlineExceeded.rawValue)
    #expect(refused.fields["grpc-status-details-bin"] != nil)
    #expect(SystemClock.monotonicNanoseconds() - begun >= 50 * millisecond)
    #expect(try client.answer(ours).code == StatusCode.deadlineExceeded.rawValue)
    #expect(SystemClock.monotonicNanoseconds() - begun >= 300 * millisecond)
    #expect(try client.call("echo", [1]).messages == [[1]])
  }

  @Test("A thousand calls at once on one connection")
  func many() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let streams = try (0..<1000).map { try client.start("echo", [UInt8($0 % 251)]) }
    for (index, stream) in streams.enumerated() {
      #expect(try client.answer(stream).messages == [[UInt8(index % 251)]])
    }
    #expect(fixture.board.read { $0.executed[0] } == 1000)
  }
}
