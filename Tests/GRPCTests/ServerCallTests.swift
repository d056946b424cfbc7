import GRPC
import Testing

/// What is told of a request's bytes, for all four kinds of call.
@Suite("Server call")
struct ServerCallTests {
  typealias Input = ServerCall.Input

  private static func message(_ bytes: [UInt8], flag: UInt8 = 0) -> [UInt8] {
    [flag, 0, 0, 0, UInt8(bytes.count)] + bytes
  }

  /// Bytes that wait, and what is told of them: of a call with one message and of one with many, each
  /// while the peer goes on and at its end.
  struct Case: CustomTestStringConvertible {
    var name: String
    var bytes: [UInt8]
    var encoding = MessageEncoding.identity
    var one: Input
    var oneAtEnd: Input
    var many: Input
    var manyAtEnd: Input

    var testDescription: String { name }

    /// The same, whatever the call and its end.
    init(
      _ name: String, _ bytes: [UInt8], _ encoding: MessageEncoding = .identity, always: Input
    ) {
      self.init(
        name, bytes, encoding, one: always, oneAtEnd: always, many: always, manyAtEnd: always)
    }

    init(
      _ name: String, _ bytes: [UInt8], _ encoding: MessageEncoding = .identity, one: Input,
      oneAtEnd: Input, many: Input, manyAtEnd: Input
    ) {
      self.name = name
      self.bytes = bytes
      self.encoding = encoding
      self.one = one
      self.oneAtEnd = oneAtEnd
      self.many = many
      self.manyAtEnd = manyAtEnd
    }
  }

  private static let plain = Input.message(length: 2, isCompressed: false)
  private static let packed = Input.message(length: 2, isCompressed: true)

  private static let cases = [
    Case(
      "nothing", [], one: .nothing, oneAtEnd: .reject(.noMessage), many: .nothing,
      manyAtEnd: .halfClose),
    Case(
      "half a prefix", [0, 0], one: .nothing, oneAtEnd: .reject(.messageCutOff), many: .nothing,
      manyAtEnd: .reject(.messageCutOff)),
    Case(
      "half a message", [0, 0, 0, 0, 2, 7], one: .nothing, oneAtEnd: .reject(.messageCutOff),
      many: .nothing, manyAtEnd: .reject(.messageCutOff)),
    Case(
      "a message", message([7, 8]), one: .nothing, oneAtEnd: plain, many: plain, manyAtEnd: plain),
    Case(
      "a message without bytes", message([]), one: .nothing,
      oneAtEnd: .message(length: 0, isCompressed: false),
      many: .message(length: 0, isCompressed: false),
      manyAtEnd: .message(length: 0, isCompressed: false)),
    Case(
      "two messages", message([7, 8]) + message([9]), one: .reject(.tooManyMessages),
      oneAtEnd: .reject(.tooManyMessages), many: plain, manyAtEnd: plain),
    Case(
      "a message and a byte", message([7, 8]) + [0], one: .reject(.tooManyMessages),
      oneAtEnd: .reject(.tooManyMessages), many: plain, manyAtEnd: plain),
    Case("a flag that is none", message([7], flag: 2), always: .reject(.malformedPrefix)),
    Case("compressed, but how", message([7], flag: 1), always: .reject(.compressedMessage)),
    Case(
      "compressed", message([7, 8], flag: 1), .gzip, one: .nothing, oneAtEnd: packed, many: packed,
      manyAtEnd: packed),
    Case(
      "plain among compressed", message([7, 8]), .deflate, one: .nothing, oneAtEnd: plain,
      many: plain, manyAtEnd: plain),
    Case("too long", [0, 0, 0, 0, 101], always: .reject(.messageTooLarge)),
    Case("too long and compressed", [1, 0, 0, 0, 101], .gzip, always: .reject(.messageTooLarge)),
    Case("far too long", [0, 255, 255, 255, 255, 1], always: .reject(.messageTooLarge)),
  ]

  private static func started(_ type: MethodType) -> ServerCall {
    var call = ServerCall()
    call.start(timeoutNanoseconds: .max, openedNanoseconds: 5, connection: 3)
    return call
  }

  private static func next(
    _ call: ServerCall, _ bytes: [UInt8], _ type: MethodType, _ encoding: MessageEncoding,
    hasEnded: Bool
  ) -> ServerCall.Input {
    call.next(
      in: bytes.span, hasEnded: hasEnded, type: type, encoding: encoding, messageBytesMax: 100)
  }

  @Test("What comes next", arguments: cases)
  func inputs(_ request: Case) {
    for type in MethodType.allCases {
      let call = Self.started(type)
      let (going, ended) =
        type.streamsRequests ? (request.many, request.manyAtEnd) : (request.one, request.oneAtEnd)
      for (hasEnded, expected) in [(false, going), (true, ended)] {
        let input = Self.next(call, request.bytes, type, request.encoding, hasEnded: hasEnded)
        #expect(input == expected, "\(type), ended: \(hasEnded)")
      }
    }
  }

  @Test(
    "Nothing comes before a call has started, and behind its end", arguments: MethodType.allCases)
  func phases(type: MethodType) {
    let body = Self.message([7, 8])
    var call = ServerCall()
    #expect(call.phase == .idle && call.status < 0)
    #expect(Self.next(call, body, type, .identity, hasEnded: true) == .nothing)
    call = Self.started(type)
    #expect(call.phase == .receiving && call.connection == 3)
    #expect(Self.next(call, body, type, .identity, hasEnded: true) == Self.plain)
    call.halfClosed()
    #expect(call.phase == .halfClosed)
    #expect(Self.next(call, body, type, .identity, hasEnded: true) == .nothing)
    #expect(Self.next(call, [], type, .identity, hasEnded: true) == .nothing)
    call.answered(.notFound)
    #expect(call.phase == .answered && call.status == 5)
    #expect(Self.next(call, body, type, .identity, hasEnded: true) == .nothing)
  }

  @Test("A call that is answered early takes no more", arguments: MethodType.allCases)
  func answeredEarly(type: MethodType) {
    var call = Self.started(type)
    call.answered(.aborted)
    #expect(Self.next(call, Self.message([1]), type, .identity, hasEnded: true) == .nothing)
    #expect(Self.next(call, [9, 9, 9, 9, 9], type, .identity, hasEnded: true) == .nothing)
  }

  @Test("The deadline is the timeout behind the header block, or never")
  func deadlines() {
    let cases: [(opened: Int64, timeout: Int64, deadline: Int64)] = [
      (0, 0, 0), (100, 1, 101), (100, .max, .max), (.max - 5, 5, .max), (.max - 5, 6, .max),
      (0, .max, .max),
    ]
    for (opened, timeout, deadline) in cases {
      var call = ServerCall()
      #expect(call.deadlineNanoseconds == .max)
      call.start(timeoutNanoseconds: timeout, openedNanoseconds: opened, connection: 0)
      #expect(call.deadlineNanoseconds == deadline)
    }
  }

  @Test("A call that is rejected for its header block has no deadline and no status yet")
  func rejected() {
    var call = ServerCall()
    call.startRejected(connection: 9)
    #expect(call.phase == .receiving && call.connection == 9 && call.status < 0)
    #expect(call.deadlineNanoseconds == .max)
    call.answered(.unimplemented)
    #expect(call.status == 12)
  }

  @Test("Kinds of call say which way messages stream")
  func types() {
    #expect(MethodType.allCases.filter(\.streamsRequests) == [.clientStreaming, .bidirectional])
    #expect(MethodType.allCases.filter(\.streamsResponses) == [.serverStreaming, .bidirectional])
  }
}
