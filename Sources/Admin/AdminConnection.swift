// One connection of the admin port as a state machine: bytes go in and come out, and time passes.
// It has no socket, so that tests can feed it anything.

/// What one client can take of the server, and for how long. holdfast's Limits.swift has the values.
package struct AdminLimits: Sendable {
  /// Connections at a time. One more takes the place of the one that has waited longest.
  package var connectionsMax: Int
  /// The request line and the fields together.
  package var headBytesMax: Int
  /// From the first byte of a head to its last; from accepting to the end of the first head.
  package var headNanosecondsMax: Int64
  /// From a response to the next request.
  package var idleNanosecondsMax: Int64
  /// From the first byte of a response to its last, and for each part of a stream.
  package var sendNanosecondsMax: Int64
  /// How long, and for how many bytes, a peer is read after the last response, lest the reset that
  /// unread bytes cause overtake it.
  package var lingerNanosecondsMax: Int64
  package var lingerBytesMax: Int
  /// For responses in progress at the end of the server.
  package var stopNanosecondsMax: Int64

  package init(
    connectionsMax: Int, headBytesMax: Int, headNanosecondsMax: Int64, idleNanosecondsMax: Int64,
    sendNanosecondsMax: Int64, lingerNanosecondsMax: Int64, lingerBytesMax: Int,
    stopNanosecondsMax: Int64
  ) {
    precondition(connectionsMax > 0 && headBytesMax > 0 && lingerBytesMax > 0, "no such limits")
    self.connectionsMax = connectionsMax
    self.headBytesMax = headBytesMax
    self.headNanosecondsMax = headNanosecondsMax
    self.idleNanosecondsMax = idleNanosecondsMax
    self.sendNanosecondsMax = sendNanosecondsMax
    self.lingerNanosecondsMax = lingerNanosecondsMax
    self.lingerBytesMax = lingerBytesMax
    self.stopNanosecondsMax = stopNanosecondsMax
  }
}

final class AdminConnection {
  enum Phase: Equatable {
    /// Between requests, or within a head.
    case readingHead
    /// A request is there; `respond` is to be called.
    case waiting(AdminRequest)
    /// A response with a known end is on its way out.
    case sending
    /// A response goes on: `pump` asks its stream for more.
    case streaming
    /// All is sent. The sending side is to be shut down, and the peer is read until it does the same.
    case lingering
    /// The socket is to be closed.
    case ended
  }

  private(set) var phase = Phase.readingHead
  /// When the phase began, a head's first byte came, or a stream's output was last full or empty. The
  /// lowest of all connections is the first to go.
  private(set) var sinceNanoseconds: Int64
  private let limits: AdminLimits
  private let bodyBytesMax: (AdminRequest) -> Int
  private var received: [UInt8] = []
  /// Bytes of `received` that hold no end of a head.
  private var searched = 0
  private var hasSkippedEmptyLine = false
  /// A request whose body is still to come, in the time and with the bytes that a head may have.
  private var bodyIsToCome: AdminRequest?
  private var isFirstRequest = true
  private var output: [UInt8] = []
  private var sent = 0
  private var closesConnection = false
  private var stream: (any ResponseStream)?
  private var isChunked = false
  private var streamDueNanoseconds: Int64 = 0
  private var discarded = 0

  /// - Parameter bodyBytesMax: how long a body may be that is read for a request; 0: none is.
  init(
    limits: AdminLimits, nowNanoseconds: Int64,
    bodyBytesMax: @escaping (AdminRequest) -> Int = { _ in 0 }
  ) {
    self.limits = limits
    self.bodyBytesMax = bodyBytesMax
    sinceNanoseconds = nowNanoseconds
  }

  // MARK: Input

  /// Whether the peer is to be read now. Between a request and the end of its response it is not.
  var wantsInput: Bool {
    switch phase {
    case .readingHead, .streaming, .lingering: true
    case .waiting, .sending, .ended: false
    }
  }

  /// Takes what one read has brought. At most one read and one head are kept.
  func receive(_ bytes: Span<UInt8>, nowNanoseconds: Int64) {
    switch phase {
    case .readingHead:
      if received.isEmpty, !isFirstRequest { sinceNanoseconds = nowNanoseconds }
      for index in bytes.indices { received.append(bytes[index]) }
      readHead(nowNanoseconds)
    case .streaming, .lingering:
      discarded += bytes.count
      if discarded >= limits.lingerBytesMax { end() }
    case .waiting, .sending, .ended: break
    }
  }

  /// The peer sends nothing more. A head that is not whole stays so, and who has left a stream has left.
  func receiveEnd() {
    switch phase {
    case .readingHead, .streaming, .lingering: end()
    case .waiting, .sending, .ended: break
    }
  }

  /// Looks for a request in what was received; pipelined requests wait there for their turn.
  private func readHead(_ nowNanoseconds: Int64) {
    if bodyIsToCome != nil { return readBody(nowNanoseconds) }
    let carriageReturn = UInt8(ascii: "\r")
    // One empty line may stand before a request (RFC 9112 section 2.2).
    if !hasSkippedEmptyLine, received.starts(with: [carriageReturn, UInt8(ascii: "\n")]) {
      received.removeFirst(2)
      hasSkippedEmptyLine = true
    }
    guard let first = received.first else { return }
    if !hasSkippedEmptyLine, received == [carriageReturn] { return }
    // No use in waiting for the end of what is no head, such as a TLS handshake.
    guard (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(first) else {
      return reject(.badRequest, nowNanoseconds)
    }
    let length = RequestParser.headLength(received, searched: searched)
    if length ?? received.count + 1 > limits.headBytesMax {
      return reject(.headerFieldsTooLarge, nowNanoseconds)
    }
    guard let length else {
      searched = received.count
      return
    }
    do {
      let request = try RequestParser.parse(received[..<length])
      received.removeFirst(length)
      searched = 0
      hasSkippedEmptyLine = false
      isFirstRequest = false
      closesConnection = closesConnection || request.closesConnection
      if let length = request.bodyLength, length > 0, length <= bodyBytesMax(request) {
        bodyIsToCome = request
        return readBody(nowNanoseconds)
      }
      enter(.waiting(request), nowNanoseconds)
    } catch {
      reject(error, nowNanoseconds)
    }
  }

  /// Looks for the body in what was received.
  private func readBody(_ nowNanoseconds: Int64) {
    guard var request = bodyIsToCome, let length = request.bodyLength, received.count >= length
    else { return }
    request.body = Array(received[..<length])
    received.removeFirst(length)
    bodyIsToCome = nil
    enter(.waiting(request), nowNanoseconds)
  }

  // MARK: Output

  /// Answers the request that waits.
  func respond(_ response: AdminResponse, nowNanoseconds: Int64) {
    guard case .waiting(let request) = phase else { return }
    switch response.body {
    case .bytes(let bytes):
      send(response, bytes, withBody: !request.isHead, nowNanoseconds)
    case .stream(let stream):
      isChunked = request.isHTTP11
      closesConnection = closesConnection || !isChunked
      output = response.head(
        framing: isChunked ? ("Transfer-Encoding", "chunked") : nil, closes: closesConnection)
      if request.isHead { return enter(.sending, nowNanoseconds) }
      self.stream = stream
      streamDueNanoseconds = nowNanoseconds
      discarded = 0
      enter(.streaming, nowNanoseconds)
    }
  }

  private func reject(_ status: Status, _ nowNanoseconds: Int64) {
    closesConnection = true
    received = []
    let response = AdminResponse.rejection(status)
    guard case .bytes(let bytes) = response.body else { return }
    send(response, bytes, withBody: true, nowNanoseconds)
  }

  private func send(
    _ response: AdminResponse, _ body: [UInt8], withBody: Bool, _ nowNanoseconds: Int64
  ) {
    output = response.head(
      framing: ("Content-Length", "\(body.count)"), closes: closesConnection)
    if withBody { output += body }
    enter(.sending, nowNanoseconds)
  }

  /// Asks the stream for its next bytes where those before are sent. A slow peer is not asked for.
  func pump(nowNanoseconds: Int64) {
    guard phase == .streaming, output.isEmpty, let stream, nowNanoseconds >= streamDueNanoseconds
    else { return }
    switch stream.next(nowNanoseconds: nowNanoseconds) {
    case .later(let nanoseconds): streamDueNanoseconds = nanoseconds
    case .bytes(let bytes):
      // A chunk of length 0 would be the last (RFC 9112 section 7.1).
      if bytes.isEmpty { return }
      let size = String(bytes.count, radix: 16)
      output = isChunked ? Array("\(size)\r\n".utf8) + bytes + Array("\r\n".utf8) : bytes
      sinceNanoseconds = nowNanoseconds
    case .end: endStream(nowNanoseconds)
    }
  }

  private func endStream(_ nowNanoseconds: Int64) {
    stream = nil
    // A request may have been among what was not read: its sender is to know that nobody answers it here.
    if discarded > 0 { closesConnection = true }
    if isChunked { output += Array("0\r\n\r\n".utf8) }
    enter(.sending, nowNanoseconds)
    if output.isEmpty { finish(nowNanoseconds) }
  }

  var hasOutput: Bool { !output.isEmpty }

  /// Passes what is to be sent, not empty, to `body`.
  func withOutput<R>(_ body: (Span<UInt8>) -> R) -> R {
    let bytes = output
    return body(bytes.span.extracting(sent..<bytes.count))
  }

  /// So many bytes of the output are with the kernel.
  func didSend(_ count: Int, nowNanoseconds: Int64) {
    precondition(count >= 0 && count <= output.count - sent, "more sent than there was")
    sent += count
    guard sent == output.count else { return }
    output = []
    sent = 0
    if phase == .sending { finish(nowNanoseconds) } else { sinceNanoseconds = nowNanoseconds }
  }

  /// A response has gone out whole.
  private func finish(_ nowNanoseconds: Int64) {
    if closesConnection {
      received = []
      discarded = 0
      return enter(.lingering, nowNanoseconds)
    }
    enter(.readingHead, nowNanoseconds)
    readHead(nowNanoseconds)
  }

  // MARK: Time and the end

  /// Ends what has taken too long.
  func expire(nowNanoseconds: Int64) {
    let duration = nowNanoseconds - sinceNanoseconds
    switch phase {
    case .readingHead:
      if received.isEmpty, bodyIsToCome == nil {
        let most = isFirstRequest ? limits.headNanosecondsMax : limits.idleNanosecondsMax
        if duration >= most { end() }
      } else if duration >= limits.headNanosecondsMax {
        bodyIsToCome = nil
        reject(.requestTimeout, nowNanoseconds)
      }
    case .sending: if duration >= limits.sendNanosecondsMax { end() }
    case .streaming: if hasOutput, duration >= limits.sendNanosecondsMax { end() }
    case .lingering: if duration >= limits.lingerNanosecondsMax { end() }
    // Its turn comes, however many there are; and it holds one request.
    case .waiting, .ended: break
    }
  }

  /// The server ends: responses are finished, streams get their end, and nothing new is read.
  func stop(nowNanoseconds: Int64) {
    closesConnection = true
    switch phase {
    case .readingHead: end()
    case .streaming: endStream(nowNanoseconds)
    case .waiting, .sending, .lingering, .ended: break
    }
  }

  /// There was no request, and there will be none: the sending side is to be shut down.
  func endSending(nowNanoseconds: Int64) {
    discarded = 0
    enter(.lingering, nowNanoseconds)
  }

  /// Nothing more is read or sent.
  func end() {
    phase = .ended
    output = []
    sent = 0
    received = []
    stream = nil
  }

  private func enter(_ next: Phase, _ nowNanoseconds: Int64) {
    phase = next
    sinceNanoseconds = nowNanoseconds
  }
}
