// The calls of one client connection: bytes in, responses out; no sockets. What `Server` does for
// `ServerCall`, this does for `ClientCall`: it leads each from its stream's events to its end.
package import HTTP2

/// What became of one call.
package struct ClientResponse: Equatable {
  /// The owner's name for the call, as given to `start`.
  package let callID: UInt64
  package let outcome: ClientCall.Outcome
  /// The :status, or less than 100.
  package let httpStatus: Int
  /// The server's own status if it answered; otherwise what gRPC says of such an end.
  package let status: StatusCode
  fileprivate let stream: ClientStream
  fileprivate let hasMessage: Bool
  /// Where grpc-status-details-bin stands in `ClientCalls.details`.
  fileprivate let detailsStart: Int
  fileprivate let detailsCount: Int
}

/// A message of a call that streams its responses.
package struct ClientMessage: Equatable {
  /// The owner's name for the call.
  package let callID: UInt64
  fileprivate let stream: ClientStream
  fileprivate let start: Int
  fileprivate let count: Int
}

package struct ClientCalls: ~Copyable {
  package enum StartResult: Equatable {
    /// `stream`, never 0, names the call to `send` and `cancel`.
    case started(stream: UInt32)
    /// No room now: streams, windows or the output are full. Try after the next response.
    case busy
    /// Not yet (see `isReady`) or no more (see `isClosing`).
    case unavailable
    /// Above `requestBytesMax`.
    case messageTooLarge
  }

  /// Most bytes of all metadata, names and values, with 8 more for each field: with the other fields,
  /// a header block is one frame.
  package static let metadataBytesMax = 12 * 1024

  /// Longest message of a request, in bytes.
  package static let requestBytesMax = 4 << 20
  /// What fits the frame that a call begins with; more follows as the windows let it through.
  private static let firstFrameBytesMax = ClientConnection.openBytesMax - Framing.prefixLength

  private var http: ClientConnection
  private let types: [MethodType]
  /// By the index of their stream.
  private var calls: [ClientCall]
  /// The calls that ended since the last `receive` or `forgetResponses`, in that order.
  package private(set) var responses: [ClientResponse] = []
  /// The messages of calls that stream them, since then.
  package private(set) var messages: [ClientMessage] = []
  /// The streams of whose bodies messages were handed over, and how many bytes of each, by its index:
  /// to be consumed at the next `receive`.
  private var handedOver: [ClientStream] = []
  private var handedOverBytes: [Int]
  private var details = ByteBuffer()

  /// - Parameters:
  ///   - methods: `start` names them by position.
  ///   - authority: HOST:PORT.
  ///   - scheme: http, or https over TLS.
  ///   - metadata: goes with every call; above `metadataBytesMax` it is an error.
  ///   - timeoutNanoseconds: of every call; the largest number: none.
  ///   - callsMax: most calls in flight at once, 1 to 1,000,000.
  package init(
    methods: [ClientMethod], authority: String, userAgent: String, scheme: String = "http",
    metadata: [ClientMetadata] = [], timeoutNanoseconds: Int64 = .max, callsMax: Int
  ) throws(ClientError) {
    // A few bytes more for each field's lengths.
    let metadataBytes = metadata.reduce(0) { $0 + $1.name.utf8.count + $1.value.utf8.count + 8 }
    guard metadataBytes <= Self.metadataBytesMax else {
      throw ClientError("more than \(Self.metadataBytesMax) bytes of metadata")
    }
    let requests = methods.map {
      $0.requestFields(
        authority: authority, scheme: scheme, userAgent: userAgent, metadata: metadata,
        timeoutNanoseconds: timeoutNanoseconds)
    }
    let connection = try ClientConnection(
      requests: requests, captured: ResponseField.allCases.map(\.name),
      unreadBytesMax: Framing.prefixLength + ClientCall.messageBytesMax, streamsMax: callsMax)
    let indexCount = connection.indexCount
    http = connection
    types = methods.map(\.type)
    calls = Array(repeating: ClientCall(), count: indexCount)
    handedOverBytes = Array(repeating: 0, count: indexCount)
  }

  /// The server's SETTINGS have come: calls may start.
  package var isReady: Bool { http.isReady }
  /// No call starts any more: the server has sent GOAWAY, or `close` was called.
  package var isClosing: Bool { http.isClosing }
  /// How many calls are in flight.
  package var openCalls: Int { http.streamCount }

  // MARK: Requests

  /// Whether `start` will take a message of `messageBytes` now. Of a long one only the beginning has to fit.
  package func hasRoom(for messageBytes: Int) -> Bool {
    http.hasRoom(for: Framing.prefixLength + min(messageBytes, Self.firstFrameBytesMax))
  }

  /// Starts a call with its first message.
  /// - Parameter ends: it is the only one of the request; otherwise `send` has more.
  package mutating func start(
    _ method: Int, callID: UInt64, message: Span<UInt8>, ends: Bool = true
  ) -> StartResult {
    guard message.count <= Self.requestBytesMax else { return .messageTooLarge }
    let type = types[method]
    let prefix = Framing.prefix(length: message.count, isCompressed: false)
    let first = min(message.count, Self.firstFrameBytesMax)
    let result = http.open(
      method, head: prefix.span, tail: message.extracting(0..<first),
      endsStream: ends && first == message.count, streamsResponse: type.streamsResponses)
    switch result {
    case .opened(let stream):
      calls[stream.index].start(type, callID: callID)
      if first < message.count {
        _ = http.send(
          stream, head: Span(), tail: message.extracting(first..<message.count), endsStream: ends)
      }
      return .started(stream: stream.number)
    case .busy: return .busy
    case .unavailable: return .unavailable
    case .tooLarge: return .messageTooLarge
    }
  }

  /// Sends one more message of a call that streams its request. False where the call, or its request,
  /// has ended.
  package mutating func send(_ message: Span<UInt8>, to stream: UInt32, ends: Bool) -> Bool {
    guard let stream = http.stream(stream) else { return false }
    let prefix = Framing.prefix(length: message.count, isCompressed: false)
    return http.send(stream, head: prefix.span, tail: message, endsStream: ends)
  }

  /// Ends the request of a call that streams it. False where the call, or its request, has ended.
  package mutating func halfClose(stream: UInt32) -> Bool {
    guard let stream = http.stream(stream) else { return false }
    return http.send(stream, head: Span(), tail: Span(), endsStream: true)
  }

  /// Gives up a call. What the server decided is unknown; no response will be told of.
  /// False where the call has ended, or no more control frames fit: then nothing is changed.
  package mutating func cancel(stream: UInt32) -> Bool {
    guard let stream = http.stream(stream), http.cancel(stream) else { return false }
    calls[stream.index].cancelled()
    return true
  }

  // MARK: Output

  /// Bytes that wait to be sent.
  package var outputCount: Int { http.outputCount }

  /// Shows the bytes that wait; `body` answers how many of them it has sent.
  package mutating func flush(_ body: (Span<UInt8>) -> Int) { http.send(body) }

  // MARK: Responses

  /// Takes bytes as they came from the socket, cut anywhere, and sets `responses` and `messages` to
  /// what they completed. After an error the connection is of no more use.
  package mutating func receive(_ bytes: Span<UInt8>) throws(ClientError) {
    consumeMessages()
    forgetResponses()
    // Also what came before an error counts.
    defer { takeEvents() }
    try http.receive(bytes)
  }

  private mutating func consumeMessages() {
    for position in handedOver.indices {
      let stream = handedOver[position]
      http.consume(handedOverBytes[stream.index], of: stream)
      handedOverBytes[stream.index] = 0
    }
    handedOver.removeAll(keepingCapacity: true)
  }

  /// The owner has handled the responses and messages: they are not to be seen again.
  package mutating func forgetResponses() {
    responses.removeAll(keepingCapacity: true)
    messages.removeAll(keepingCapacity: true)
    details.removeAll()
  }

  /// The owner gives the connection up: every call in flight ends in `lost`, behind the responses that
  /// had come. No call starts any more.
  package mutating func close() {
    http.close()
    takeEvents()
  }

  private mutating func takeEvents() {
    for position in http.events.indices {
      let event = http.events[position]
      var call = calls[event.stream.index]
      if call.type.streamsResponses {
        // A call that was cancelled for what it brought is over, whatever else came with it.
        guard call.phase == .receiving else { continue }
        takeMessages(event.stream)
        call = calls[event.stream.index]
      }
      if event.kind.isLast, call.phase == .receiving { end(call, event) }
    }
    http.clearEvents()
  }

  /// Hands the messages over that are whole.
  private mutating func takeMessages(_ stream: ClientStream) {
    let before = handedOverBytes[stream.index]
    var start = before
    while true {
      let from = start
      let call = calls[stream.index]
      let output = http.withBody(of: stream) { call.next(in: $0.extracting(from..<$0.count)) }
      switch output {
      case .nothing:
        if before == 0, start > 0 { handedOver.append(stream) }
        handedOverBytes[stream.index] = start
        return
      case .message(let length):
        start += Framing.prefixLength
        messages.append(
          ClientMessage(callID: call.callID, stream: stream, start: start, count: length))
        start += length
      case .malformed(let status):
        // Where no more control frames fit, the connection is about to fail.
        _ = http.cancel(stream)
        calls[stream.index].cancelled(status)
        return append(.malformed, of: calls[stream.index], stream)
      }
    }
  }

  private mutating func end(_ ended: ClientCall, _ event: ClientEvent) {
    var call = ended
    let stream = event.stream
    let httpStatus = http.status(of: stream)
    let outcome: ClientCall.Outcome
    if case .ended = event.kind {
      let consumed = call.type.streamsResponses ? handedOverBytes[stream.index] : 0
      outcome = http.withField(ResponseField.status.rawValue, of: stream) { field in
        http.withBody(of: stream) { body in
          call.ended(
            httpStatus: httpStatus, statusField: field,
            body: body.extracting(consumed..<body.count))
        }
      }
    } else {
      outcome = call.ended(event.kind)
    }
    calls[stream.index] = call
    append(outcome, of: call, stream)
  }

  private mutating func append(
    _ outcome: ClientCall.Outcome, of call: ClientCall, _ stream: ClientStream
  ) {
    let isAnswered = if case .answered = outcome { true } else { false }
    let detailsStart = details.count
    if isAnswered, call.status != .ok {
      http.withField(ResponseField.details.rawValue, of: stream) { text in
        details.append(atMost: Base64.decodedBytesMax(text.count)) { Base64.decode(text, to: &$0) }
      }
    }
    responses.append(
      ClientResponse(
        callID: call.callID, outcome: outcome, httpStatus: http.status(of: stream),
        status: call.status, stream: stream,
        hasMessage: isAnswered && call.status == .ok && !call.type.streamsResponses,
        detailsStart: detailsStart, detailsCount: details.count - detailsStart))
  }

  // MARK: What responses hold. Only until the next `receive`, `start` or `close`.

  /// The response's message; empty unless it was `answered` with OK, and where messages are streamed.
  package func withMessage<R>(of response: ClientResponse, _ body: (Span<UInt8>) -> R) -> R {
    // `self` is borrowed until `body` has returned: nothing changes.
    let bytes = unsafe unsafeMessage(of: response)
    return body(unsafe bytes.span)
  }

  /// - Safety: valid as long as what `withMessage` shows.
  @unsafe private func unsafeMessage(of response: ClientResponse) -> UnsafeBufferPointer<UInt8> {
    let bytes = unsafe http.unsafeBody(of: response.stream)
    guard response.hasMessage, bytes.count >= Framing.prefixLength else {
      return unsafe UnsafeBufferPointer(start: nil, count: 0)
    }
    return unsafe UnsafeBufferPointer(rebasing: bytes[Framing.prefixLength...])
  }

  /// A message of a call that streams them.
  package func withMessage<R>(_ message: ClientMessage, _ body: (Span<UInt8>) -> R) -> R {
    http.withBody(of: message.stream) { bytes in
      let start = min(message.start, bytes.count)
      return body(bytes.extracting(start..<min(start + message.count, bytes.count)))
    }
  }

  /// The server's words, the grpc-message; empty where it sent none.
  package func statusText(of response: ClientResponse) -> String {
    guard response.outcome == .answered || response.outcome == .malformed else { return "" }
    return http.withField(ResponseField.message.rawValue, of: response.stream) {
      PercentEncoding.decoded($0)
    }
  }

  /// The response's grpc-status-details-bin (a google.rpc.Status); empty unless it was `answered` with a
  /// status other than OK.
  package func withStatusDetails<R>(
    of response: ClientResponse, _ body: (Span<UInt8>) -> R
  ) -> R {
    details.withSpan(from: response.detailsStart, count: response.detailsCount, body)
  }
}
