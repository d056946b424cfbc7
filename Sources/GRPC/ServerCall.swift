/// How many messages go which way.
package enum MethodType: UInt8, Sendable, BitwiseCopyable, CaseIterable {
  case unary
  case clientStreaming
  case serverStreaming
  case bidirectional

  /// The client sends any number of messages.
  package var streamsRequests: Bool { self == .clientStreaming || self == .bidirectional }
  /// The server sends any number of messages.
  package var streamsResponses: Bool { self == .serverStreaming || self == .bidirectional }
}

/// What a header block means: decided once, kept with the block, and the same for all calls that come
/// with it. Plain bytes: it holds no reference.
package struct CallContext: BitwiseCopyable {
  /// The method, by the handler's number.
  package let method: Int32
  package let type: MethodType
  /// How compressed messages of the request are compressed.
  package let encoding: MessageEncoding
  /// How messages of the response are compressed, where it is worth it.
  package let responseEncoding: MessageEncoding
  /// As in MethodDescriptor.
  package let isBatched: Bool
  /// grpc-timeout, of calls that bring none of their own; the largest number without one.
  package let timeoutNanoseconds: Int64
  package let traceParent: TraceParent
  package var principal: Principal

  /// Its messages are worked off in parts, and one response follows them all.
  package var gathersMessages: Bool { isBatched && type == .clientStreaming }

  package init(
    method: Int, type: MethodType, encoding: MessageEncoding = .identity,
    responseEncoding: MessageEncoding = .identity, isBatched: Bool = false,
    timeoutNanoseconds: Int64 = .max, traceParent: TraceParent = TraceParent(),
    principal: Principal
  ) {
    self.method = Int32(method)
    self.type = type
    self.encoding = encoding
    self.responseEncoding = responseEncoding
    self.isBatched = isBatched
    self.timeoutNanoseconds = timeoutNanoseconds
    self.traceParent = traceParent
    self.principal = principal
  }
}

/// One call as the server sees it: a state machine without sockets, for all four kinds of call. Its owner
/// shows it the bytes of the request, and it says what comes next; its owner tells it what was answered.
///
///     idle -> receiving -> halfClosed -> answered
///                 \____________________/
package struct ServerCall: BitwiseCopyable {
  package enum Phase: UInt8, BitwiseCopyable {
    /// Nothing of it was seen yet.
    case idle
    /// Messages of the request may come.
    case receiving
    /// The request is whole, and was handed over.
    case halfClosed
    /// The response is whole, seen by the peer or not.
    case answered
  }

  /// What the bytes of a request hold next.
  package enum Input: Equatable {
    /// Nothing yet: more bytes must come.
    case nothing
    /// A message: bytes 5 ..< 5 + length.
    case message(length: Int, isCompressed: Bool)
    /// The peer has sent everything, and every message was taken.
    case halfClose
    case reject(Rejection)
  }

  package private(set) var phase = Phase.idle
  /// The status that the call was answered with; negative before.
  package private(set) var status: Int8 = -1
  /// Messages of the response that wait to be released.
  package var heldMessages: Int32 = 0
  /// The owner counts it among its connection's streaming calls.
  package var isCounted = false
  /// The owner has it in a queue, to go on with its messages.
  package var isQueued = false
  /// The server shuts down: the call ends behind what was read of it.
  package var isDraining = false
  /// The owner's number for the connection.
  package private(set) var connection: UInt32 = 0
  /// When the call must be answered, in monotonic nanoseconds; the largest number without a deadline.
  package private(set) var deadlineNanoseconds: Int64 = .max

  package init() {}

  /// The call begins.
  /// - Parameter timeoutNanoseconds: the context's, or the call's own.
  package mutating func start(timeoutNanoseconds: Int64, openedNanoseconds: Int64, connection: Int)
  {
    precondition(phase == .idle, "a call starts once")
    phase = .receiving
    self.connection = UInt32(connection)
    let (deadline, overflow) = openedNanoseconds.addingReportingOverflow(timeoutNanoseconds)
    deadlineNanoseconds = overflow ? .max : deadline
  }

  /// The call is rejected before it started, because of its header block.
  package mutating func startRejected(connection: Int) {
    precondition(phase == .idle, "a call starts once")
    phase = .receiving
    self.connection = UInt32(connection)
  }

  /// Looks at the bytes that were not consumed yet.
  /// - Parameters:
  ///   - hasEnded: nothing comes behind them.
  ///   - messageBytesMax: longest message, as it is on the wire.
  package func next(
    in body: Span<UInt8>, hasEnded: Bool, type: MethodType, encoding: MessageEncoding,
    messageBytesMax: Int
  ) -> Input {
    guard phase == .receiving else { return .nothing }
    let framing = Framing.next(in: body, messageBytesMax: messageBytesMax)
    switch framing {
    case .malformed: return .reject(.malformedPrefix)
    case .tooLarge: return .reject(.messageTooLarge)
    case .message(_, true) where encoding == .identity: return .reject(.compressedMessage)
    case .message(let length, let isCompressed):
      if !type.streamsRequests {
        // The one message is handed over with the end, so that a second one can be told.
        if body.count > Framing.prefixLength + length { return .reject(.tooManyMessages) }
        if !hasEnded { return .nothing }
      }
      return .message(length: length, isCompressed: isCompressed)
    case .incomplete:
      if !hasEnded { return .nothing }
      if !body.isEmpty { return .reject(.messageCutOff) }
      return type.streamsRequests ? .halfClose : .reject(.noMessage)
    }
  }

  /// The request is whole: its last message or its end was handed over.
  package mutating func halfClosed() {
    precondition(phase == .receiving, "the end of a request comes once")
    phase = .halfClosed
  }

  /// The response is whole. The first status counts, unless the peer cannot have seen it.
  package mutating func answered(_ code: StatusCode) {
    phase = .answered
    status = Int8(code.rawValue)
  }
}
