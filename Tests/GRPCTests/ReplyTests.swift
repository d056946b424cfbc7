import GRPC
import Testing

@Suite("Reply")
struct ReplyTests {
  private static func content(_ reply: Reply) -> [UInt8] {
    reply.withContent { span in span.indices.map { span[$0] } }
  }

  private static func details(_ reply: Reply) -> [UInt8] {
    reply.withDetails { span in span.indices.map { span[$0] } }
  }

  @Test("It grows with what it is given, and keeps every byte", arguments: [1, 63, 64, 65, 1000])
  func growth(chunk: Int) {
    let reply = Reply(capacity: 0)
    var expected: [UInt8] = []
    for index in 0..<40 {
      let bytes = [UInt8](repeating: UInt8(index), count: chunk)
      reply.append(bytes.span)
      reply.append(UInt8(255))
      expected += bytes + [255]
    }
    #expect(reply.count == expected.count)
    #expect(Self.content(reply) == expected)
    #expect(Self.details(reply) == [])
    #expect(reply.kind == .message)
  }

  @Test("An empty message is a message")
  func empty() {
    let reply = Reply()
    let nothing: [UInt8] = []
    reply.append(nothing.span)
    reply.append("")
    #expect(Self.content(reply) == [])
    #expect(reply.kind == .message)
  }

  @Test("A failure is a text and details")
  func failure() {
    let reply = Reply()
    reply.append("left over")
    reply.fail(.aborted)
    reply.append("busy")
    reply.beginDetails()
    let bytes: [UInt8] = [0, 1, 2]
    reply.append(bytes.span)
    #expect(reply.kind == .failure(.aborted))
    #expect(Self.content(reply) == Array("busy".utf8))
    #expect(Self.details(reply) == [0, 1, 2])
  }

  @Test("Every failure begins without the wait of the one before", arguments: StatusCode.allCases)
  func retry(_ code: StatusCode) {
    let reply = Reply()
    #expect(reply.retryMilliseconds == 0)
    reply.fail(.unavailable)
    reply.retryMilliseconds = 250
    reply.append("later")
    reply.beginDetails()
    #expect(reply.retryMilliseconds == 250)
    reply.fail(code)
    #expect(reply.kind == .failure(code))
    #expect(reply.retryMilliseconds == 0)
  }

  @Test("Reset forgets a failure and its details")
  func reset() {
    let reply = Reply()
    reply.fail(.internal)
    reply.append("text")
    reply.beginDetails()
    reply.append("details")
    reply.reset()
    #expect(reply.kind == .message)
    #expect(reply.count == 0)
    reply.append("new")
    #expect(Self.content(reply) == Array("new".utf8))
    #expect(Self.details(reply) == [])
  }

  @Test(
    "Decimals",
    arguments: [
      0, 1, -1, 9, 10, -10, 99, 100, 1_099_511_627_776, .max, .max - 1, .min, .min + 1,
    ] as [Int64])
  func decimals(_ value: Int64) {
    let reply = Reply()
    reply.append(decimal: value)
    #expect(String(decoding: Self.content(reply), as: UTF8.self) == "\(value)")
  }

  @Test(
    "Room that is filled counts as far as it says, within what was asked for",
    arguments: [(0, 0), (10, 0), (10, 4), (10, 10), (10, 11), (10, -1), (500, 500), (500, 7)])
  func room(length: Int, written: Int) {
    let reply = Reply(capacity: 64)
    reply.append("x")
    reply.append(atMost: length) { span in
      #expect(span.count == length)
      for index in 0..<length { span[index] = UInt8(truncatingIfNeeded: index) }
      return written
    }
    let kept = min(length, max(0, written))
    #expect(Self.content(reply) == [120] + (0..<kept).map { UInt8(truncatingIfNeeded: $0) })
  }

  @Test("Status codes are those of gRPC")
  func codes() {
    #expect(StatusCode.allCases.map(\.rawValue) == Array(0...16))
    #expect(StatusCode.invalidArgument.rawValue == 3)
    #expect(StatusCode.failedPrecondition.rawValue == 9)
    #expect(StatusCode.unimplemented.rawValue == 12)
    #expect(StatusCode.internal.rawValue == 13)
    #expect(StatusCode.unavailable.rawValue == 14)
    #expect(StatusCode.unauthenticated.rawValue == 16)
  }
}
