// One client-side HTTP/2 connection (RFC 9113): requests in, bytes out; bytes in, events out. No sockets.
//
// A request whose body is known is one copy of a finished HEADERS frame and DATA header, some patched
// bytes, and its body; a response is three frames and, mostly, two comparisons. Nothing is allocated for
// a stream once the connection has seen its largest responses.
//
// Whatever the server sends, nothing here traps: what breaks the protocol is thrown as a
// `ClientError`, upon which the owner closes its socket and calls `close`.

/// Why a connection cannot go on.
package struct ClientError: Error, Equatable, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// What happened on a stream.
package struct ClientEvent: Equatable, BitwiseCopyable {
  package enum Kind: Equatable, Sendable, BitwiseCopyable {
    /// The response's headers are there (`ClientConnection.status`). Only of a stream that streams its
    /// response.
    case headers
    /// More of its body is there. Only of a stream that streams its response.
    case data
    /// The last: the server has ended the stream in order.
    case ended
    /// The last: the response is none by HTTP/2's rules. We reset the stream.
    case malformed
    /// The last: more of the body than allowed was not consumed. We reset the stream.
    case oversize
    /// The last: RST_STREAM with this error code. What the server made of the request is unknown.
    case reset(UInt32)
    /// The last: the server has said that it did not look at the request (GOAWAY, REFUSED_STREAM).
    case unprocessed
    /// The last: the connection ended first. What the server made of the request is unknown.
    case lost

    package var isLast: Bool {
      switch self {
      case .headers, .data: false
      case .ended, .malformed, .oversize, .reset, .unprocessed, .lost: true
      }
    }
  }

  package let kind: Kind
  package let stream: ClientStream
}

/// One connection.
package struct ClientConnection: ~Copyable {
  package enum OpenResult: Equatable {
    case opened(ClientStream)
    /// No room now: streams, windows or the output are full. Try after the next event.
    case busy
    /// Not yet (see `isReady`) or no more (see `isClosing`).
    case unavailable
    /// The first bytes of a body are one DATA frame, and have to fit it.
    case tooLarge
  }

  /// Receive windows, connection and streams: larger than anything that we let arrive unread.
  static let receiveWindow = 1 << 30
  /// Streams wait once so many bytes of output are unsent; control frames may still be added.
  static let outputBytesMax = 256 * 1024
  static let controlBytesMax = 64 * 1024
  /// Most bytes of a body that `open` takes.
  package static let openBytesMax = Defaults.frameBytesMax
  /// Most bytes of all header fields of a request, names and values, with 8 more for each: its block
  /// is one frame.
  package static let requestFieldBytesMax = 16_000

  var decoder: ResponseHeaderDecoder
  private var encoder: RequestHeaderEncoder
  /// For each kind of request the finished HEADERS frame and DATA header; empty while they may not be
  /// repeated.
  private var templates: [[UInt8]]

  var streams: ClientStreamTable
  /// How many streams are open.
  package internal(set) var streamCount = 0
  private let streamsMax: Int
  /// What the server allows, at most `streamsMax`.
  var streamLimit: Int
  var nextStream: UInt32 = 1
  /// Most bytes of a response's body that wait to be consumed.
  let unreadBytesMax: Int

  /// The events since the last `receive` or `clearEvents`, in the order in which they came.
  package internal(set) var events: [ClientEvent] = []
  var output = ByteBuffer()
  /// A frame that has come in part.
  var partial = ByteBuffer()
  /// A header block that has come in part, its stream (0: none) and its first frame's flags.
  var fragment = ByteBuffer()
  var fragmentStream: UInt32 = 0
  var fragmentFlags: UInt8 = 0
  /// The text of the captured fields of a block whose stream has ended.
  var lateText = ByteBuffer()

  /// Bytes that the peer still takes: on the connection, and on a new stream.
  var sendWindow = Int64(Defaults.windowBytes)
  var initialSendWindow = Int64(Defaults.windowBytes)
  /// How many streams have not sent END_STREAM.
  var sendingStreams = 0
  /// Bytes received since we last gave credit for them.
  var uncredited = 0

  /// The server's SETTINGS have come: streams may be opened.
  package internal(set) var isReady = false
  /// The server has sent GOAWAY, the stream numbers are used up, or `close` was called.
  package internal(set) var isClosing = false

  /// - Parameters:
  ///   - requests: the header fields of each kind of request, the pseudo-fields first; `open` names them
  ///     by position. An error where one is above `requestFieldBytesMax`.
  ///   - captured: the fields of a block that ends a response which the owner wants to see; four at most.
  ///   - unreadBytesMax: most bytes of a response's body that wait to be consumed, below 1 GiB.
  ///   - streamsMax: most open streams at once, 1 to 1,000,000.
  package init(
    requests: [[HeaderField]], captured: [StaticString], unreadBytesMax: Int, streamsMax: Int
  ) throws(ClientError) {
    for fields in requests {
      let bytes = fields.reduce(0) { $0 + $1.name.utf8.count + $1.value.utf8.count + 8 }
      guard bytes <= Self.requestFieldBytesMax else {
        throw ClientError("a request with more than \(Self.requestFieldBytesMax) bytes of fields")
      }
    }
    precondition(unreadBytesMax < Self.receiveWindow, "a window for all that is unread")
    decoder = ResponseHeaderDecoder(captured: captured)
    encoder = RequestHeaderEncoder(requests)
    templates = Array(repeating: [], count: requests.count)
    self.unreadBytesMax = unreadBytesMax
    self.streamsMax = min(max(1, streamsMax), 1_000_000)
    streamLimit = self.streamsMax
    streams = ClientStreamTable(streamsMax: self.streamsMax)
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
    output.appendBigEndian32(UInt32(ClientConnection.receiveWindow) - UInt32(Defaults.windowBytes))
  }

  /// `ClientStream.index` is below this.
  package var indexCount: Int { streams.count }

  // MARK: Output

  /// Bytes that wait to be sent.
  package var outputCount: Int { output.count }

  /// Shows the bytes that wait; `body` answers how many of them it has sent.
  package mutating func send(_ body: (Span<UInt8>) -> Int) {
    let sent = output.withSpan { body($0) }
    output.dropFirst(sent)
    // Bodies that waited for room in the output go on.
    guard sendingStreams > 0, output.count < ClientConnection.outputBytesMax / 2 else { return }
    for slot in 0..<streams.count where streams[slot].isSending { sendUnsent(slot: slot) }
  }

  // MARK: Requests

  /// Whether `open` will take `count` bytes of a body now.
  package func hasRoom(for count: Int) -> Bool {
    isReady && !isClosing && streamCount < streamLimit
      && output.count < ClientConnection.outputBytesMax && sendWindow >= Int64(count)
  }

  /// Opens a stream.
  /// - Parameters:
  ///   - request: its header fields, by position in what `init` was given.
  ///   - head, tail: the first bytes of its body, in two parts.
  ///   - endsStream: they are all of it; otherwise `send` has more.
  ///   - streamsResponse: the owner hears of the response's headers and data as they come.
  package mutating func open(
    _ request: Int, head: Span<UInt8>, tail: Span<UInt8>, endsStream: Bool, streamsResponse: Bool
  ) -> OpenResult {
    guard isReady, !isClosing else { return .unavailable }
    let bodyCount = head.count + tail.count
    guard bodyCount <= Defaults.frameBytesMax else { return .tooLarge }
    guard hasRoom(for: bodyCount) else { return .busy }

    let number = nextStream
    let slot = streams.freeSlot(for: number)
    nextStream += 2
    if nextStream >= 0x7fff_ffff { isClosing = true }
    streamCount += 1
    streams[slot].number = number
    streams[slot].status = -1
    streams[slot].streamsResponse = streamsResponse
    streams[slot].uncredited = 0
    streams[slot].captured = CapturedFields()
    streams[slot].text.removeAll()
    streams[slot].body.removeAll()
    if initialSendWindow >= Int64(bodyCount) {
      writeRequest(request, stream: number, head: head, tail: tail, endsStream: endsStream)
      sendWindow -= Int64(bodyCount)
      if !endsStream {
        beginSending(slot: slot)
        streams[slot].sendWindow -= Int64(bodyCount)
      }
    } else {
      writeHeaders(request, stream: number)
      beginSending(slot: slot)
      append(slot: slot, head: head, tail: tail, endsStream: endsStream)
    }
    return .opened(ClientStream(index: slot, number: number))
  }

  /// Sends more of a body, as far as the windows let it through; the rest follows by itself.
  /// False where the stream has ended, or its body has.
  package mutating func send(
    _ stream: ClientStream, head: Span<UInt8>, tail: Span<UInt8>, endsStream: Bool
  ) -> Bool {
    let slot = stream.index
    guard streams[slot].number == stream.number, streams[slot].isSending,
      !streams[slot].endsUnsent
    else { return false }
    append(slot: slot, head: head, tail: tail, endsStream: endsStream)
    return true
  }

  /// Gives up a stream: RST_STREAM with CANCEL. What the server made of the request is unknown; there
  /// is no further event, and what still comes for it is dropped, its flow control credited.
  /// False where the stream has ended, or no more control frames fit: then nothing is changed.
  package mutating func cancel(_ stream: ClientStream) -> Bool {
    let slot = stream.index
    guard streams[slot].number == stream.number,
      output.count <= ClientConnection.outputBytesMax
    else { return false }
    output.appendFrameHeader(
      length: 4, type: FrameType.resetStream, flags: 0, stream: stream.number)
    output.appendBigEndian32(ErrorCode.cancel.rawValue)
    free(slot)
    return true
  }

  /// The open stream with this number; nil where it has ended.
  package func stream(_ number: UInt32) -> ClientStream? {
    guard number != 0, let slot = streams.slot(of: number) else { return nil }
    return ClientStream(index: slot, number: number)
  }

  private mutating func writeRequest(
    _ request: Int, stream: UInt32, head: Span<UInt8>, tail: Span<UInt8>, endsStream: Bool
  ) {
    if templates[request].isEmpty {
      let isSteady = encoder.isSteady(request)
      let template = makeTemplate(block: encoder.nextBlock(request))
      if isSteady {
        templates[request] = template
      } else {
        // The block has changed the peer's table, and with it the index of every field.
        forgetTemplates()
      }
      write(template, stream: stream, head: head, tail: tail, endsStream: endsStream)
    } else {
      write(templates[request], stream: stream, head: head, tail: tail, endsStream: endsStream)
    }
  }

  private mutating func forgetTemplates() {
    for index in templates.indices { templates[index] = [] }
  }

  private func makeTemplate(block: [UInt8]) -> [UInt8] {
    let blockCount = block.count
    var template: [UInt8] = [
      UInt8(truncatingIfNeeded: blockCount >> 16), UInt8(truncatingIfNeeded: blockCount >> 8),
      UInt8(truncatingIfNeeded: blockCount), FrameType.headers, FrameFlag.endHeaders,
      0, 0, 0, 0,
    ]
    template += block
    template += [0, 0, 0, FrameType.data, 0, 0, 0, 0, 0]
    return template
  }

  /// `template` ends in a DATA header.
  private mutating func write(
    _ template: [UInt8], stream: UInt32, head: Span<UInt8>, tail: Span<UInt8>, endsStream: Bool
  ) {
    let bodyCount = head.count + tail.count
    let bodyAt = template.count
    let dataAt = bodyAt - FrameHeader.length
    let room = unsafe output.extend(by: bodyAt + bodyCount)
    let start = unsafe room.baseAddress.unsafelyUnwrapped
    unsafe template.withUnsafeBufferPointer { bytes in
      // `room` is as long as all three together; nothing else knows that memory.
      unsafe start.update(from: bytes.baseAddress!, count: bytes.count)
    }
    unsafe head.withUnsafeBufferPointer { bytes in
      guard let base = bytes.baseAddress else { return }
      unsafe (start + bodyAt).update(from: base, count: bytes.count)
    }
    let headCount = head.count
    unsafe tail.withUnsafeBufferPointer { bytes in
      guard let base = bytes.baseAddress else { return }
      unsafe (start + bodyAt + headCount).update(from: base, count: bytes.count)
    }
    unsafe Wire.put(stream, start + 5)
    unsafe Wire.putHeader(
      start + dataAt, length: bodyCount, type: FrameType.data,
      flags: endsStream ? FrameFlag.endStream : 0, stream: Int32(bitPattern: stream))
  }

  private mutating func writeHeaders(_ request: Int, stream: UInt32) {
    let block = encoder.nextBlock(request)
    forgetTemplates()
    output.appendFrameHeader(
      length: block.count, type: FrameType.headers, flags: FrameFlag.endHeaders, stream: stream)
    output.append(block.span)
  }

  // MARK: Bodies that are sent in parts

  private mutating func beginSending(slot: Int) {
    streams[slot].isSending = true
    streams[slot].endsUnsent = false
    streams[slot].sendWindow = initialSendWindow
    streams[slot].unsent.removeAll()
    sendingStreams += 1
  }

  private mutating func append(
    slot: Int, head: Span<UInt8>, tail: Span<UInt8>, endsStream: Bool
  ) {
    streams[slot].unsent.append(head)
    streams[slot].unsent.append(tail)
    streams[slot].endsUnsent = endsStream
    if endsStream, streams[slot].unsent.isEmpty {
      output.appendFrameHeader(
        length: 0, type: FrameType.data, flags: FrameFlag.endStream, stream: streams[slot].number)
      return endSending(slot)
    }
    sendUnsent(slot: slot)
  }

  /// Sends as much of a stream's rest as the windows let through, and the output has room for: control
  /// frames are to fit behind it.
  mutating func sendUnsent(slot: Int) {
    while output.count < ClientConnection.outputBytesMax {
      let held = streams[slot].unsent.count
      let streamWindow = streams[slot].sendWindow
      let count = min(
        held, Int(min(sendWindow, streamWindow, Int64(Defaults.frameBytesMax))))
      guard count > 0 else { return }
      let isLast = count == held && streams[slot].endsUnsent
      output.appendFrameHeader(
        length: count, type: FrameType.data, flags: isLast ? FrameFlag.endStream : 0,
        stream: streams[slot].number)
      streams[slot].unsent.withSpan(from: 0, count: count) { output.append($0) }
      streams[slot].unsent.dropFirst(count)
      streams[slot].sendWindow -= Int64(count)
      sendWindow -= Int64(count)
      if isLast { return endSending(slot) }
    }
  }

  private mutating func endSending(_ slot: Int) {
    streams[slot].isSending = false
    sendingStreams -= 1
  }

  /// The peer's SETTINGS_HEADER_TABLE_SIZE.
  mutating func peerTableSizeChanged(to bytes: UInt32) {
    encoder.peerTableSizeChanged(to: bytes)
    forgetTemplates()
  }

  /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS.
  mutating func peerStreamLimitChanged(to limit: UInt32) {
    streamLimit = Int(min(limit, UInt32(streamsMax)))
  }

  // MARK: Responses

  /// The owner has handled the events: they are not to be seen again.
  package mutating func clearEvents() { events.removeAll(keepingCapacity: true) }

  /// The owner gives the connection up: every open stream ends in `lost`, behind the events that had
  /// come. No stream is opened any more.
  package mutating func close() {
    isClosing = true
    for slot in 0..<streams.count where streams[slot].number != 0 { finish(slot, .lost) }
  }

  /// Frees the slot, and tells of it. What came stays readable until the next `receive` or `open`.
  mutating func finish(_ slot: Int, _ kind: ClientEvent.Kind) {
    events.append(
      ClientEvent(
        kind: kind, stream: ClientStream(index: slot, number: streams[slot].number)))
    free(slot)
  }

  private mutating func free(_ slot: Int) {
    if streams[slot].isSending {
      endSending(slot)
      streams[slot].unsent.removeAll()
    }
    streams[slot].number = 0
    streamCount -= 1
  }

  /// The response's :status, 100 to 999; less where none came.
  package func status(of stream: ClientStream) -> Int {
    Int(streams[stream.index].status)
  }

  /// What came of the response's body and was not consumed yet. Of a stream that has ended only until
  /// the next `receive` or `open`.
  package func withBody<R>(of stream: ClientStream, _ body: (Span<UInt8>) -> R) -> R {
    // `self` is borrowed until `body` has returned: nothing changes.
    let bytes = unsafe unsafeBody(of: stream)
    return body(unsafe bytes.span)
  }

  /// The value of a captured field of the block that ended the response, by its position in `captured`;
  /// empty where it is absent. Otherwise as `withBody`.
  package func withField<R>(
    _ field: Int, of stream: ClientStream, _ body: (Span<UInt8>) -> R
  ) -> R {
    let bytes = unsafe unsafeField(field, of: stream)
    return body(unsafe bytes.span)
  }

  /// - Safety: valid as long as what `withBody` shows.
  @unsafe package func unsafeBody(of stream: ClientStream) -> UnsafeBufferPointer<UInt8> {
    unsafe streams[stream.index].body.unsafeBytes
  }

  /// - Safety: valid as long as what `withField` shows.
  @unsafe private func unsafeField(_ field: Int, of stream: ClientStream)
    -> UnsafeBufferPointer<UInt8>
  {
    let slot = stream.index
    let text = unsafe streams[slot].text.unsafeBytes
    guard let range = streams[slot].captured.range(field), range.upperBound <= text.count else {
      return unsafe UnsafeBufferPointer(start: nil, count: 0)
    }
    return unsafe UnsafeBufferPointer(rebasing: text[range])
  }

  /// The first `count` bytes of the body were handled. Gives the server credit for them.
  package mutating func consume(_ count: Int, of stream: ClientStream) {
    let slot = stream.index
    guard streams[slot].number == stream.number else { return }
    streams[slot].body.dropFirst(count)
    streams[slot].uncredited += count
    let uncredited = streams[slot].uncredited
    // In large pieces; a full output makes it wait for the next.
    guard uncredited >= ClientConnection.receiveWindow / 4,
      output.count <= ClientConnection.outputBytesMax
    else { return }
    output.appendFrameHeader(
      length: 4, type: FrameType.windowUpdate, flags: 0, stream: stream.number)
    output.appendBigEndian32(UInt32(clamping: uncredited))
    streams[slot].uncredited = 0
  }
}
