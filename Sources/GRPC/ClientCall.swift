// One call as the client sees it, and what its requests and responses say in gRPC's words.
package import HTTP2

/// A method that a client calls.
package struct ClientMethod: Equatable, Sendable {
  /// The :path of its calls.
  package let path: String
  package let type: MethodType

  package init(path: String, type: MethodType) {
    self.path = path
    self.type = type
  }

  /// The header fields of its calls (gRPC over HTTP/2, Request-Headers).
  /// - Parameters:
  ///   - timeoutNanoseconds: grpc-timeout; the largest number: none.
  package func requestFields(
    authority: String, scheme: String, userAgent: String, metadata: [ClientMetadata] = [],
    timeoutNanoseconds: Int64 = .max
  ) -> [HeaderField] {
    var fields = [
      HeaderField(name: ":method", value: "POST"), HeaderField(name: ":scheme", value: scheme),
      HeaderField(name: ":path", value: path), HeaderField(name: ":authority", value: authority),
    ]
    if timeoutNanoseconds < .max {
      let text = Timeout.text(nanoseconds: timeoutNanoseconds)
      fields.append(HeaderField(name: "\(RequestField.timeout.name)", value: text))
    }
    fields += [
      HeaderField(name: "te", value: "trailers"),
      HeaderField(name: "\(ContentType.field.name)", value: "\(ContentType.field.value)"),
      HeaderField(name: "user-agent", value: userAgent),
    ]
    return fields + metadata.map { HeaderField(name: $0.name, value: $0.value) }
  }
}

/// The fields of a response's trailers that gRPC looks at, in the order in which they are captured.
package enum ResponseField: Int, CaseIterable {
  case status = 0
  case message
  case details

  /// The field's name on the wire.
  package var name: StaticString {
    switch self {
    case .status: "grpc-status"
    case .message: "grpc-message"
    case .details: "grpc-status-details-bin"
    }
  }
}

/// One call as the client sees it: a state machine without sockets, for all four kinds of call. Its owner
/// shows it the bytes of the response, and how its stream ended; it says what they are.
///
///     idle -> receiving -> ended
package struct ClientCall: BitwiseCopyable {
  package enum Phase: UInt8, BitwiseCopyable {
    /// Not sent.
    case idle
    /// Its request was sent, or is being sent.
    case receiving
    /// Nothing more comes of it.
    case ended
  }

  /// What became of a call.
  package enum Outcome: Equatable, Sendable, BitwiseCopyable {
    /// The server ended the call properly; with status OK its messages are whole, and where it
    /// streams no responses there is exactly one.
    case answered
    /// The server ended the call, but not as gRPC wants it: what it decided is unknown.
    case malformed
    /// RST_STREAM with this error code: what the server decided is unknown.
    case reset(UInt32)
    /// The server has said that it did not look at the call.
    case unprocessed
    /// The connection ended first: what the server decided is unknown.
    case lost
  }

  /// What the bytes of a response hold next.
  package enum Output: Equatable {
    /// Nothing yet: more bytes must come, or the end.
    case nothing
    /// A message: bytes 5 ..< 5 + length.
    case message(length: Int)
    /// Bytes that are no message. The call is to be cancelled, and ends with this status.
    case malformed(StatusCode)
  }

  /// Longest message of a response, in bytes.
  package static let messageBytesMax = 4 << 20

  package private(set) var phase = Phase.idle
  package private(set) var type = MethodType.unary
  /// The status that the call ended with: the server's own, or else what gRPC says of how it ended.
  package private(set) var status = StatusCode.unknown
  /// The owner's name for the call.
  package private(set) var callID: UInt64 = 0

  package init() {}

  /// The call begins, in place of one that has ended.
  package mutating func start(_ type: MethodType, callID: UInt64) {
    precondition(phase != .receiving, "a call starts once")
    phase = .receiving
    status = .unknown
    self.type = type
    self.callID = callID
  }

  /// Looks at the bytes that were not consumed yet. The one message of a call that streams no responses
  /// comes with its end: only then is it known to be the only one.
  package func next(in body: Span<UInt8>) -> Output {
    guard phase == .receiving, type.streamsResponses else { return .nothing }
    switch Framing.next(in: body, messageBytesMax: Self.messageBytesMax) {
    case .message(let length, isCompressed: false): return .message(length: length)
    case .incomplete: return .nothing
    case .tooLarge: return .malformed(.resourceExhausted)
    // No compression was offered.
    case .message(_, isCompressed: true), .malformed: return .malformed(.internal)
    }
  }

  /// The server has ended the stream in order.
  /// - Parameters:
  ///   - httpStatus: the response's :status.
  ///   - statusField: its grpc-status; empty where it is absent.
  ///   - body: its bytes that were not consumed.
  package mutating func ended(httpStatus: Int, statusField: Span<UInt8>, body: Span<UInt8>)
    -> Outcome
  {
    phase = .ended
    guard let code = StatusCode(field: statusField) else {
      status = StatusCode(httpStatus: httpStatus)
      return .malformed
    }
    status = code
    guard httpStatus == 200 else { return .malformed }
    if code != .ok { return .answered }
    if hasWhole(body) { return .answered }
    status = .internal
    return .malformed
  }

  /// The stream ended otherwise.
  package mutating func ended(_ kind: ClientEvent.Kind) -> Outcome {
    phase = .ended
    switch kind {
    case .reset(let code):
      status = StatusCode(resetCode: code)
      return .reset(code)
    case .unprocessed:
      status = .unavailable
      return .unprocessed
    case .lost:
      status = .unavailable
      return .lost
    case .oversize:
      status = .resourceExhausted
      return .malformed
    case .malformed, .ended, .headers, .data:
      status = .internal
      return .malformed
    }
  }

  /// The owner has cancelled the call, because of a malformed response or for reasons of its own.
  package mutating func cancelled(_ status: StatusCode = .cancelled) {
    phase = .ended
    self.status = status
  }

  /// What an OK ends with: one whole message, or nothing behind messages that were handed over.
  private func hasWhole(_ body: Span<UInt8>) -> Bool {
    if type.streamsResponses { return body.isEmpty }
    guard
      case .message(let length, isCompressed: false) = Framing.next(
        in: body, messageBytesMax: Self.messageBytesMax)
    else { return false }
    return body.count == Framing.prefixLength + length
  }
}
