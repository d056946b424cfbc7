// The client side of one HTTP/2 connection, for unary gRPC calls: bytes in, bytes out, no sockets.
//
// A call is one copy of a finished HEADERS frame and DATA header, eight patched bytes, and its message;
// an answer is three frames and, mostly, two comparisons. Nothing is allocated per call once the
// connection has seen its largest answers.
//
// Whatever the server sends, nothing here traps: what breaks the protocol is thrown as a
// `ClientError`, upon which the owner closes its socket and calls `close`.

/// Why a connection cannot go on.
package struct ClientError: Error, Equatable, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// A field that goes with every call; the name in lower case, both of HTTP's bytes.
package struct ClientMetadata: Equatable, Sendable {
  package let name: String
  package let value: String

  package init(name: String, value: String) {
    self.name = name
    self.value = value
  }
}

/// What became of one call.
package struct ClientAnswer: Equatable {
  package enum Outcome: Equatable, Sendable {
    /// The server ended the call properly; for status 0 there is exactly one message.
    case answered
    /// The server ended the call, but not as gRPC wants it: what it decided is unknown.
    case malformed
    /// RST_STREAM with this error code: what the server decided is unknown.
    case reset(UInt32)
    /// The server has said that it did not look at the call (GOAWAY, or REFUSED_STREAM).
    case unprocessed
    /// The connection ended first: what the server decided is unknown.
    case lost
  }

  /// The owner's name for the call, as given to `start`.
  package let callID: UInt64
  package let outcome: Outcome
  /// The :status, or -1.
  package let httpStatus: Int
  /// The grpc-status, 0 to 16, or -1.
  package let grpcStatus: Int
  fileprivate let slot: Int
  fileprivate let bodyCount: Int
  fileprivate let messageCount: Int
  fileprivate let detailsCount: Int
}

/// One connection.
package struct ClientConnection: ~Copyable {
  package enum StartResult: Equatable {
    case started
    /// No room now: streams, windows or the output are full. Try after the next answer.
    case busy
    /// Not yet (see `isReady`) or no more (see `isClosing`).
    case unavailable
    /// Above 16,379 bytes: a call's message is one DATA frame.
    case messageTooLarge
  }

  /// Most bytes of one answer's message.
  static let answerMaximum = 4 << 20
  /// Receive windows, connection and streams: larger than anything that we let arrive unread.
  static let receiveWindow = 1 << 30
  /// Calls wait once so many bytes of output are unsent; control frames may still be added.
  static let outputMaximum = 256 * 1024
  static let controlOutputMaximum = 64 * 1024
  /// Most bytes of all metadata, names and values: with the other fields, a block is one frame.
  package static let metadataBytesMax = 12 * 1024

  var decoder: ClientHeaderDecoder
  private var requestHeaders: ClientRequestHeaders
  /// Per path the finished HEADERS frame, DATA header and gRPC prefix; empty while it may not be
  /// repeated.
  private var templates: [[UInt8]]

  var calls: ClientCallTable
  /// How many calls are in flight.
  package internal(set) var openCalls = 0
  private let callsMaximum: Int
  /// What the server allows, at most `callsMaximum`.
  var streamLimit: Int
  var nextStream: UInt32 = 1

  /// The answers since the last `receive` or `forgetAnswers`, in the order in which they came.
  package internal(set) var answers: [ClientAnswer] = []
  var output = ClientBytes()
  /// A frame that has come in part.
  var partial = ClientBytes()
  /// A header block that has come in part, its stream (0: none) and its first frame's flags.
  var fragment = ClientBytes()
  var fragmentStream: UInt32 = 0
  var fragmentFlags: UInt8 = 0

  /// Bytes that the peer still takes: on the connection, and on a new stream.
  var sendWindow: Int64 = 65_535
  var initialSendWindow: Int64 = 65_535
  /// How many calls have something unsent.
  var unsentCalls = 0
  /// Bytes received since we last gave credit for them.
  var uncredited = 0

  /// The server's SETTINGS have come: calls may start.
  package internal(set) var isReady = false
  /// The server has sent GOAWAY, the stream numbers are used up, or `close` was called.
  package internal(set) var isClosing = false

  /// - Parameters:
  ///   - paths: each method's `:path`, at most 60; `start` names them by position.
  ///   - authority: HOST:PORT.
  ///   - scheme: http, or https over TLS.
  ///   - metadata: goes with every call; above `metadataBytesMax` it is an error.
  ///   - callsMaximum: most calls in flight at once, 1 to 1,000,000.
  package init(
    paths: [String], authority: String, userAgent: String, scheme: String = "http",
    metadata: [ClientMetadata] = [], callsMaximum: Int
  ) throws(ClientError) {
    // A few bytes more for each field's lengths.
    let metadataBytes = metadata.reduce(0) { $0 + $1.name.utf8.count + $1.value.utf8.count + 8 }
    guard metadataBytes <= Self.metadataBytesMax else {
      throw ClientError("more than \(Self.metadataBytesMax) bytes of metadata")
    }
    decoder = ClientHeaderDecoder()
    requestHeaders = ClientRequestHeaders(
      paths: paths, authority: authority, userAgent: userAgent, scheme: scheme,
      metadata: metadata)
    templates = Array(repeating: [], count: paths.count)
    self.callsMaximum = min(max(1, callsMaximum), 1_000_000)
    streamLimit = self.callsMaximum
    calls = ClientCallTable(callsMaximum: self.callsMaximum)
    writePreface()
  }

  private mutating func writePreface() {
    let preface = Preface.client
    // A static string's bytes live for ever.
    let bytes = unsafe UnsafeBufferPointer(
      start: preface.utf8Start, count: preface.utf8CodeUnitCount)
    unsafe output.append(bytes.span)
    output.appendFrameHeader(length: 12, type: FrameType.settings, flags: 0, stream: 0)
    output.append(0)
    output.append(UInt8(Setting.enablePush))
    output.appendBigEndian32(0)
    output.append(0)
    output.append(UInt8(Setting.initialWindowSize))
    output.appendBigEndian32(UInt32(ClientConnection.receiveWindow))
    output.appendFrameHeader(length: 4, type: FrameType.windowUpdate, flags: 0, stream: 0)
    output.appendBigEndian32(UInt32(ClientConnection.receiveWindow - 65_535))
  }

  // MARK: Output

  /// Bytes that wait to be sent.
  package var outputCount: Int { output.count }

  /// Shows the bytes that wait; `body` answers how many of them it has sent.
  package mutating func send(_ body: (Span<UInt8>) -> Int) {
    let sent = output.withSpan { body($0) }
    output.dropFirst(sent)
  }

  // MARK: Calls

  /// Whether `start` will take a message of `messageCount` bytes now.
  package func hasRoom(for messageCount: Int) -> Bool {
    isReady && !isClosing && openCalls < streamLimit
      && output.count < ClientConnection.outputMaximum && sendWindow >= Int64(messageCount + 5)
  }

  /// Puts one call on the wire. `message` is the protobuf message alone.
  package mutating func start(path: Int, callID: UInt64, message: Span<UInt8>) -> StartResult {
    guard isReady, !isClosing else { return .unavailable }
    let bodyCount = message.count + 5
    guard bodyCount <= Defaults.frameBytesMax else { return .messageTooLarge }
    guard hasRoom(for: message.count) else { return .busy }

    let slot = calls.freeSlot(for: nextStream)
    let stream = nextStream
    nextStream += 2
    if nextStream >= 0x7fff_ffff { isClosing = true }
    openCalls += 1
    calls[slot].stream = stream
    calls[slot].callID = callID
    calls[slot].httpStatus = -1
    calls[slot].body.removeAll()
    calls[slot].text.removeAll()
    calls[slot].unsent.removeAll()

    if initialSendWindow >= Int64(bodyCount) {
      writeCall(path: path, stream: stream, message: message)
      sendWindow -= Int64(bodyCount)
    } else {
      writeCallInParts(slot: slot, path: path, stream: stream, message: message)
    }
    return .started
  }

  /// The stream of the call that was started last, for `cancel`.
  package var latestStream: UInt32 { nextStream &- 2 }

  /// Gives up the call on `stream`: RST_STREAM with CANCEL. What the server decided is unknown; no
  /// answer will be told of, and what still comes for it is dropped, its flow control credited.
  /// False where the call has ended, or no more control frames fit: then nothing is changed.
  package mutating func cancel(stream: UInt32) -> Bool {
    guard stream != 0, output.count <= ClientConnection.outputMaximum,
      let slot = calls.slot(of: stream)
    else { return false }
    output.appendFrameHeader(length: 4, type: FrameType.resetStream, flags: 0, stream: stream)
    output.appendBigEndian32(ErrorCode.cancel.rawValue)
    free(slot)
    return true
  }

  private mutating func writeCall(path: Int, stream: UInt32, message: Span<UInt8>) {
    if templates[path].isEmpty {
      let isSteady = requestHeaders.isSteady(path: path)
      let template = makeTemplate(block: requestHeaders.nextBlock(path: path))
      if isSteady {
        templates[path] = template
      } else {
        // The block has changed the peer's table, and with it the index of every field.
        for index in templates.indices { templates[index] = [] }
      }
      write(template, stream: stream, message: message)
    } else {
      write(templates[path], stream: stream, message: message)
    }
  }

  private func makeTemplate(block: [UInt8]) -> [UInt8] {
    let blockCount = block.count
    var template: [UInt8] = [
      UInt8(truncatingIfNeeded: blockCount >> 16), UInt8(truncatingIfNeeded: blockCount >> 8),
      UInt8(truncatingIfNeeded: blockCount), FrameType.headers, FrameFlag.endHeaders,
      0, 0, 0, 0,
    ]
    template += block
    template += [0, 0, 0, FrameType.data, FrameFlag.endStream, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    return template
  }

  /// `template` ends in a DATA header (nine bytes) and a gRPC prefix (five).
  private mutating func write(_ template: [UInt8], stream: UInt32, message: Span<UInt8>) {
    let messageCount = message.count
    let dataAt = template.count - 14
    let room = unsafe output.extend(by: template.count + messageCount)
    unsafe template.withUnsafeBufferPointer { bytes in
      // `room` is as long as both together; nothing else knows that memory.
      unsafe room.baseAddress!.update(from: bytes.baseAddress!, count: bytes.count)
    }
    unsafe message.withUnsafeBufferPointer { bytes in
      guard let base = bytes.baseAddress else { return }
      unsafe (room.baseAddress! + template.count).update(from: base, count: bytes.count)
    }
    let raw = unsafe UnsafeMutableRawPointer(room.baseAddress.unsafelyUnwrapped)
    unsafe raw.storeBytes(of: stream.bigEndian, toByteOffset: 5, as: UInt32.self)
    // A DATA header opens with its length in 24 bits; the low 16 suffice below 16,384.
    let bodyCount = UInt16(messageCount + 5)
    unsafe raw.storeBytes(of: bodyCount.bigEndian, toByteOffset: dataAt + 1, as: UInt16.self)
    unsafe raw.storeBytes(of: stream.bigEndian, toByteOffset: dataAt + 5, as: UInt32.self)
    let length = UInt32(messageCount).bigEndian
    unsafe raw.storeBytes(of: length, toByteOffset: dataAt + 10, as: UInt32.self)
  }

  /// For a server whose streams open with a window smaller than the message.
  private mutating func writeCallInParts(
    slot: Int, path: Int, stream: UInt32, message: Span<UInt8>
  ) {
    let block = requestHeaders.nextBlock(path: path)
    for index in templates.indices { templates[index] = [] }
    output.appendFrameHeader(
      length: block.count, type: FrameType.headers, flags: FrameFlag.endHeaders,
      stream: stream)
    output.append(block.span)
    calls[slot].unsent.append(0)
    calls[slot].unsent.appendBigEndian32(UInt32(message.count))
    calls[slot].unsent.append(message)
    calls[slot].sendWindow = initialSendWindow
    unsentCalls += 1
    sendUnsent(slot: slot)
  }

  /// Sends as much of a call's rest as the windows let through.
  mutating func sendUnsent(slot: Int) {
    let held = calls[slot].unsent.count
    let streamWindow = calls[slot].sendWindow
    let window = Int(min(sendWindow, streamWindow, Int64(Defaults.frameBytesMax)))
    let count = min(held, window)
    guard count > 0 else { return }
    output.appendFrameHeader(
      length: count, type: FrameType.data,
      flags: count == held ? FrameFlag.endStream : 0, stream: calls[slot].stream)
    calls[slot].unsent.withSpan(from: 0, count: count) { output.append($0) }
    calls[slot].unsent.dropFirst(count)
    calls[slot].sendWindow -= Int64(count)
    sendWindow -= Int64(count)
    if count == held { unsentCalls -= 1 }
  }

  /// The peer's SETTINGS_HEADER_TABLE_SIZE.
  mutating func peerTableSize(is size: UInt32) {
    requestHeaders.peerTableSize(is: size)
    for index in templates.indices { templates[index] = [] }
  }

  /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS.
  mutating func peerStreamLimit(is limit: UInt32) {
    streamLimit = Int(min(limit, UInt32(callsMaximum)))
  }

  // MARK: Answers

  /// The owner has handled the answers: they are not to be seen again.
  package mutating func forgetAnswers() { answers.removeAll(keepingCapacity: true) }

  /// The owner gives the connection up: every call in flight ends in `lost`, behind the answers that
  /// had come. No call starts any more.
  package mutating func close() {
    isClosing = true
    for slot in 0..<calls.count where calls[slot].stream != 0 { finish(slot, .lost) }
  }

  /// Frees the slot and reports the call. Its bytes stay readable until the next `receive`.
  mutating func finish(
    _ slot: Int, _ outcome: ClientAnswer.Outcome, grpcStatus: Int16 = -1, messageCount: Int32 = 0,
    detailsCount: Int32 = 0
  ) {
    answers.append(
      ClientAnswer(
        callID: calls[slot].callID, outcome: outcome, httpStatus: Int(calls[slot].httpStatus),
        grpcStatus: Int(max(-1, grpcStatus)), slot: slot, bodyCount: calls[slot].body.count,
        messageCount: Int(messageCount), detailsCount: Int(detailsCount)))
    free(slot)
  }

  private mutating func free(_ slot: Int) {
    if !calls[slot].unsent.isEmpty {
      unsentCalls -= 1
      calls[slot].unsent.removeAll()
    }
    calls[slot].stream = 0
    openCalls -= 1
  }

  /// The answer's protobuf message; empty unless it was `answered` with status 0. Only until the
  /// next `receive`, `start` or `close`.
  package func withMessage<R>(of answer: ClientAnswer, _ body: (Span<UInt8>) -> R) -> R {
    calls[answer.slot].body.withSpan(from: 5, count: answer.bodyCount - 5, body)
  }

  /// The answer's grpc-message as sent, percent-encoded; otherwise as `withMessage`.
  package func withStatusMessage<R>(of answer: ClientAnswer, _ body: (Span<UInt8>) -> R) -> R {
    calls[answer.slot].text.withSpan(from: 0, count: answer.messageCount, body)
  }

  /// The answer's grpc-status-details-bin (a google.rpc.Status); otherwise as `withMessage`.
  package func withStatusDetails<R>(of answer: ClientAnswer, _ body: (Span<UInt8>) -> R) -> R {
    calls[answer.slot].text.withSpan(
      from: answer.messageCount, count: answer.detailsCount, body)
  }
}
