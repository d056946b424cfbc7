// A call as the client sees it, without any connection: what its bytes and its end mean.
import GRPC
import HTTP2
import Testing
import WireTesting

@Suite("Client call")
struct ClientCallTests {
  private static func call(_ type: MethodType) -> ClientCall {
    var call = ClientCall()
    call.start(type, callID: 7)
    return call
  }

  private static func next(_ type: MethodType, _ body: [UInt8]) -> ClientCall.Output {
    call(type).next(in: body.span)
  }

  @Test("The one message of a response comes with its end", arguments: MethodType.allCases)
  func messages(type: MethodType) {
    let body = Frames.body([1, 2, 3])
    let whole: ClientCall.Output = type.streamsResponses ? .message(length: 3) : .nothing
    #expect(Self.next(type, body) == whole)
    #expect(Self.next(type, body + [9, 9]) == whole)
    #expect(Self.next(type, Array(body.dropLast())) == .nothing)
    #expect(Self.next(type, []) == .nothing)
    #expect(ClientCall().next(in: body.span) == .nothing)
  }

  @Test("Bytes that are no message end a call that streams responses")
  func malformedMessages() {
    let longest = UInt32(4 << 20)
    #expect(Self.next(.serverStreaming, [1] + Frames.number(1) + [5]) == .malformed(.internal))
    #expect(Self.next(.serverStreaming, [2] + Frames.number(1) + [5]) == .malformed(.internal))
    #expect(
      Self.next(.bidirectional, [0] + Frames.number(longest + 1)) == .malformed(.resourceExhausted))
    #expect(Self.next(.bidirectional, [0] + Frames.number(longest)) == .nothing)
  }

  /// What a call ends with, and what must become of it.
  struct End: Sendable {
    var type = MethodType.unary
    var http = 200
    var field = "0"
    var body: [UInt8] = []
    var outcome = ClientCall.Outcome.malformed
    var status: StatusCode
  }

  static let ends = [
    // Exactly one message, whole and not compressed.
    End(body: Frames.body([]), outcome: .answered, status: .ok),
    End(body: Frames.body([1]), outcome: .answered, status: .ok),
    End(type: .clientStreaming, body: Frames.body([1]), outcome: .answered, status: .ok),
    End(status: .internal), End(body: [0, 0, 0, 0], status: .internal),
    End(body: [0, 0, 0, 0, 2, 1], status: .internal),
    End(body: Frames.body([1]) + [0], status: .internal),
    End(body: Frames.body([1]) + Frames.body([1]), status: .internal),
    End(body: [1, 0, 0, 0, 1, 1], status: .internal),
    End(type: .clientStreaming, status: .internal),
    // Nothing behind messages that were handed over.
    End(type: .serverStreaming, outcome: .answered, status: .ok),
    End(type: .bidirectional, outcome: .answered, status: .ok),
    End(type: .serverStreaming, body: [0, 0], status: .internal),
    // With another status the body is of no interest.
    End(field: "9", outcome: .answered, status: .failedPrecondition),
    End(field: "16", body: [0, 0, 0], outcome: .answered, status: .unauthenticated),
    End(type: .bidirectional, field: "1", body: [0, 0], outcome: .answered, status: .cancelled),
    // No status, and such as are none: the HTTP status says what it was.
    End(field: "", body: Frames.body([1]), status: .unknown), End(field: "17", status: .unknown),
    End(field: "x", status: .unknown), End(field: "-1", status: .unknown),
    End(field: "000", status: .unknown), End(field: " 0", status: .unknown),
    End(http: 503, field: "", status: .unavailable), End(http: -1, field: "", status: .unknown),
    // A status beside an HTTP error is the server's, but no answer.
    End(http: 415, field: "2", status: .unknown),
    End(http: 503, field: "9", status: .failedPrecondition),
    End(http: 204, field: "0", body: Frames.body([1]), status: .ok),
  ]

  @Test("What the end of a stream means", arguments: ends)
  func end(_ end: End) {
    var call = Self.call(end.type)
    let field = Array(end.field.utf8)
    let outcome = call.ended(
      httpStatus: end.http, statusField: field.span, body: end.body.span)
    #expect(outcome == end.outcome)
    #expect(call.status == end.status)
    #expect(call.phase == .ended && call.callID == 7)
  }

  @Test(
    "What other ends mean",
    arguments: [
      (ClientEvent.Kind.reset(2), ClientCall.Outcome.reset(2), StatusCode.internal),
      (.reset(8), .reset(8), .cancelled), (.reset(11), .reset(11), .resourceExhausted),
      (.unprocessed, .unprocessed, .unavailable), (.lost, .lost, .unavailable),
      (.malformed, .malformed, .internal), (.oversize, .malformed, .resourceExhausted),
    ])
  func otherEnds(kind: ClientEvent.Kind, outcome: ClientCall.Outcome, status: StatusCode) {
    var call = Self.call(.unary)
    #expect(call.ended(kind) == outcome)
    #expect(call.status == status)
    #expect(call.phase == .ended)
  }

  @Test("HTTP statuses, as grpc/grpc doc/http-grpc-status-mapping.md has them")
  func httpStatuses() {
    let mapped: [Int: StatusCode] = [
      400: .internal, 401: .unauthenticated, 403: .permissionDenied, 404: .unimplemented,
      429: .unavailable, 502: .unavailable, 503: .unavailable, 504: .unavailable,
    ]
    for http in -2..<1000 { #expect(StatusCode(httpStatus: http) == mapped[http] ?? .unknown) }
  }

  @Test("Error codes of RST_STREAM, as gRPC over HTTP/2 has them")
  func resetCodes() {
    let mapped: [StatusCode] = [
      .internal, .internal, .internal, .internal, .internal, .unknown, .internal, .unavailable,
      .cancelled, .internal, .internal, .resourceExhausted, .permissionDenied, .unknown,
    ]
    for (code, status) in mapped.enumerated() {
      #expect(StatusCode(resetCode: UInt32(code)) == status)
    }
    #expect(StatusCode(resetCode: .max) == .unknown)
  }

  @Test("The header fields of a request")
  func requestFields() {
    let method = ClientMethod(path: "/a.A/B", type: .unary)
    let fields = method.requestFields(
      authority: "h:1", scheme: "https", userAgent: "u",
      metadata: [ClientMetadata(name: "m", value: "1"), ClientMetadata(name: "m", value: "2")],
      timeoutNanoseconds: 1_500_000_000)
    #expect(
      fields == [
        HeaderField(name: ":method", value: "POST"), HeaderField(name: ":scheme", value: "https"),
        HeaderField(name: ":path", value: "/a.A/B"), HeaderField(name: ":authority", value: "h:1"),
        HeaderField(name: "grpc-timeout", value: "1500000u"),
        HeaderField(name: "te", value: "trailers"),
        HeaderField(name: "content-type", value: "application/grpc"),
        HeaderField(name: "user-agent", value: "u"), HeaderField(name: "m", value: "1"),
        HeaderField(name: "m", value: "2"),
      ])
    let plain = method.requestFields(authority: "h:1", scheme: "http", userAgent: "u")
    #expect(plain.count == 7)
    #expect(!plain.contains { $0.name == "grpc-timeout" })
  }
}
