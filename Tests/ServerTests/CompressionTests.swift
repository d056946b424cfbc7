import GRPC
import Posix
import Server
import Testing

@Suite("Compressed messages")
struct CompressionTests {
  private static let encodings: [MessageEncoding] = [.gzip, .deflate]

  private static func compressed(_ message: [UInt8], _ encoding: MessageEncoding) throws -> [UInt8] {
    let deflater = Deflater()
    let isWorthIt = deflater.deflate(message.span, encoding)
    try #require(isWorthIt)
    return deflater.withMessage { span in span.indices.map { span[$0] } }
  }

  /// A message of the response, inflated where its flag says so; with the flag.
  private static func read(_ call: CallState, _ encoding: MessageEncoding) throws -> [(UInt8, [UInt8])] {
    var messages: [(UInt8, [UInt8])] = []
    var rest = call.body[...]
    for message in try #require(call.messages) {
      let flag = try #require(rest.first)
      rest = rest.dropFirst(5 + message.count)
      if flag == 0 {
        messages.append((flag, message))
      } else {
        let inflater = Inflater(messageBytesMax: 1 << 20)
        let result = inflater.inflate(message.span, encoding)
        #expect(result != .malformed)
        messages.append((flag, inflater.withMessage { span in span.indices.map { span[$0] } }))
      }
    }
    return messages
  }

  private let long = (0..<4000).map { UInt8($0 / 100) }

  @Test("A compressed request is answered in kind, where that is worth it", arguments: encodings)
  func unary(encoding: MessageEncoding) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let fields = [("grpc-encoding", "\(encoding.name)")]
    let body = Frame.message(try Self.compressed(long, encoding), flag: 1)
    for chunk in [1, 7, 16_384] {
      let call = try client.answer(try client.start("echo", body: body, fields, chunk: chunk))
      #expect(call.code == 0 && call.fields["grpc-encoding"] == "\(encoding.name)")
      let messages = try Self.read(call, encoding)
      #expect(messages.map(\.0) == [1] && messages.map(\.1) == [long])
      #expect(call.body.count < 1000)
    }
    // A plain message in a call that may compress; a response too short to compress.
    let plain = try client.call("echo", long, fields)
    #expect(try Self.read(plain, encoding).map(\.1) == [long])
    let short = try client.call("echo", [1], fields)
    #expect(short.messages == [[1]] && short.fields["grpc-encoding"] == nil)
  }

  @Test(
    "What the client does not accept is not sent, and nobody gets what was not asked for",
    arguments: [
      ([("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity,deflate")], true),
      ([("grpc-accept-encoding", "identity,deflate,gzip")], false),
      ([("grpc-encoding", "identity"), ("grpc-accept-encoding", "gzip")], false), ([], false),
    ])
  func plainResponses(fields: [(String, String)], isCompressed: Bool) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let body =
      isCompressed
      ? Frame.message(try Self.compressed(long, .gzip), flag: 1) : Frame.message(long)
    let call = try client.answer(try client.start("echo", body: body, fields))
    #expect(call.code == 0 && call.fields["grpc-encoding"] == nil)
    #expect(try Self.read(call, .gzip).map(\.0) == [0])
    #expect(call.messages == [long])
  }

  @Test("Messages of a stream are compressed one by one", arguments: encodings)
  func streams(encoding: MessageEncoding) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let fields = [("grpc-encoding", "\(encoding.name)")]
    let packed = Frame.message(try Self.compressed(long, encoding), flag: 1)
    let body = packed + Frame.message([1, 2]) + packed
    let chat = try client.answer(try client.start("chat", body: body, fields))
    let messages = try Self.read(chat, encoding)
    #expect(messages.map(\.0) == [1, 0, 1] && messages.map(\.1) == [long, [1, 2], long])
    #expect(chat.code == 0 && chat.fields["grpc-encoding"] == "\(encoding.name)")
    // The first was too short to compress: the headers are out, and said nothing of it.
    let late = try client.answer(try client.start("chat", body: Frame.message([1]) + packed, fields))
    let plain = try Self.read(late, encoding)
    #expect(plain.map(\.0) == [0, 0] && plain.map(\.1) == [[1], long])
    #expect(late.code == 0 && late.fields["grpc-encoding"] == nil)
    let sum = try client.answer(try client.start("sum", body: body, fields))
    let total = 2 * long.reduce(0) { $0 + Int($1) } + 3
    #expect(sum.messages == [Array("3 \(total)".utf8)])
  }

  @Test("A compressed response waits for the journal like any other")
  func held() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let body = Frame.message([8, 1])
    let stream = try client.start("big", body: body, [("grpc-encoding", "gzip")])
    #expect(fixture.eventually { fixture.board.read { $0.executed[4] } == 1 })
    #expect(try client.call("echo", [1]).messages == [[1]])
    #expect(client.calls[stream] == nil)
    fixture.board.makeDurable(upTo: 1)
    let call = try client.answer(stream)
    #expect(try Self.read(call, .gzip).map(\.1) == [[UInt8](repeating: 8, count: 8192)])
    #expect(call.fields["grpc-encoding"] == "gzip")
  }

  @Test("A failure has no encoding", arguments: encodings)
  func failures(encoding: MessageEncoding) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let fields = [("grpc-encoding", "\(encoding.name)")]
    let call = try client.call("fail", [5] + long.prefix(600), fields)
    #expect(call.code == 5 && call.fields["grpc-encoding"] == nil)
  }

  @Test("What inflates past the limit is refused, and what is no stream", arguments: encodings)
  func hostile(encoding: MessageEncoding) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let fields = [("grpc-encoding", "\(encoding.name)")]
    let whole = try Self.compressed([UInt8](repeating: 0, count: 65_536), encoding)
    let bomb = try Self.compressed([UInt8](repeating: 0, count: 10_000_000), encoding)
    #expect(bomb.count < 65_536)
    let other = try Self.compressed(long, encoding == .gzip ? .deflate : .gzip)
    let cases: [(String, [UInt8], StatusCode)] = [
      ("the limit", whole, .ok), ("a bomb", bomb, .resourceExhausted),
      ("garbage", [1, 2, 3, 4, 5], .internal), ("nothing", [], .internal),
      ("cut off", Array(whole.dropLast(3)), .internal), ("more behind it", whole + [0], .internal),
      ("of the other kind", other, .internal),
    ]
    for method in ["echo", "chat", "sum"] {
      for (name, message, code) in cases {
        let stream = try client.start(method, body: Frame.message(message, flag: 1), fields)
        let call = try client.answer(stream)
        #expect(call.code == code.rawValue, "\(method): \(name)")
        client.forget(stream)
      }
      #expect(try client.call("echo", [1]).messages == [[1]])
    }
    #expect(fixture.board.read { $0.executed[0] } == 4)
  }

  @Test("The flag without an encoding is an error, also in a stream", arguments: ["echo", "chat"])
  func flagAlone(method: String) throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let body = Frame.message(try Self.compressed(long, .gzip), flag: 1)
    for fields in [[], [("grpc-encoding", "identity")]] {
      let call = try client.answer(try client.start(method, body: body, fields))
      #expect(call.code == StatusCode.internal.rawValue)
      #expect(call.text == "a compressed message without grpc-encoding")
    }
    #expect(fixture.board.read { $0.executed.isEmpty })
  }
}
