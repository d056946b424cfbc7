// A connection to a holdfast server, for commands that call one.
internal import Bytes
package import GRPC
internal import HTTP2
internal import Posix

/// The connection is of no more use; in words for an operator.
package struct ServiceClientError: Error, CustomStringConvertible {
  package enum Kind: Sendable {
    /// Nothing has that name.
    case unknownHost
    /// Nobody listens there, or nobody answers.
    case unreachable
    /// Whoever listens is not who was meant, or does not speak TLS.
    case untrusted
    /// What came is not what a holdfast server says.
    case malformed
    /// There was a connection, and there is none.
    case lost
    /// The caller's own token or certificate cannot be used.
    case credentials
    /// The system refuses a socket or a descriptor.
    case system
  }

  package let kind: Kind
  package let description: String

  package init(_ kind: Kind, _ description: String) {
    self.kind = kind
    self.description = description
  }
}

/// What became of a call.
package struct ServiceCallEnd {
  package let callID: UInt64
  package let status: StatusCode
  /// The server has ended the call properly: what it says is so. Otherwise, what it decided is unknown, but where it
  /// `isUnprocessed`.
  package let isAnswered: Bool
  /// The server has said that it did not look at the call.
  package let isUnprocessed: Bool
  /// The server's words, or ours where it has none; empty for OK.
  package let text: String
  /// Of the google.rpc.Status that came with a status other than OK; empty where there is none.
  package let details: StatusDetails
  /// The response of a call that does not stream it.
  package let message: [UInt8]

  /// Of google.rpc.ErrorInfo; empty where there is none.
  package var reason: String { details.reason }
}

/// Used by one thread. It waits for the server in `wait` alone.
@safe package final class ServiceClient {
  private let target: ServiceTarget
  /// Of the host, those that were not tried yet; the next one last.
  private var untried: [String]
  private let poller: Poller
  private var transport = Transport.none
  private var calls: ClientCalls
  private let buffer: UnsafeMutableRawBufferPointer
  private var isConnected = false
  private var awaitsWriting = true
  private var newestCall: UInt64 = 0
  /// Calls for which there was no room yet.
  private var waiting: [(method: Int, callID: UInt64, messages: [[UInt8]])] = []
  private var streams: [UInt64: UInt32] = [:]

  /// `wait` connects: to the host's addresses, one after the other, until one answers.
  /// - Parameters:
  ///   - program: what the server hears as user agent.
  ///   - timeoutNanoseconds: of every call, as the server hears it; the largest number: none.
  package init(
    _ target: ServiceTarget, methods: [ClientMethod], program: String, callsMax: Int = 1,
    timeoutNanoseconds: Int64 = .max
  ) throws(ServiceClientError) {
    self.target = target
    var metadata = target.metadata
    if let token = target.token {
      metadata.append(ClientMetadata(name: "authorization", value: "Bearer \(try token.read())"))
    }
    do throws(ClientError) {
      calls = try ClientCalls(
        methods: methods, authority: target.authority, userAgent: program,
        scheme: target.tls == nil ? "http" : "https", metadata: metadata,
        timeoutNanoseconds: timeoutNanoseconds, callsMax: callsMax)
    } catch {
      throw ServiceClientError(.credentials, "\(error)")
    }
    do throws(Errno) { poller = try Poller() } catch {
      throw ServiceClientError(.system, "epoll: \(error)")
    }
    do throws(HostName.Unknown) {
      let isUnixSocket = UnixSocket.path(ofHost: target.host) != nil
      untried = isUnixSocket ? [target.host] : try HostName.addresses(target.host).reversed()
    } catch {
      throw ServiceClientError(.unknownHost, "\(error)")
    }
    unsafe buffer = .allocate(byteCount: 256 << 10, alignment: 16)
  }

  deinit {
    if transport.descriptor >= 0 { transport.close() }
    unsafe buffer.deallocate()
  }

  /// Begins with the next address.
  private func connect() throws(ServiceClientError) {
    var failure = ServiceClientError(.unreachable, "no address")
    while let address = untried.popLast() {
      do throws(Errno) {
        let socket = try Socket.connect(host: address, port: target.port)
        if let tls = target.tls {
          guard let connection = tls.connect(socket.number, serverName: target.name) else {
            throw .invalid
          }
          transport = connection
          _ = socket.take()
        } else {
          transport = Transport(plain: socket.take())
        }
        awaitsWriting = true
        try poller.add(transport.descriptor, token: 0, writable: true)
        return
      } catch {
        if transport.descriptor >= 0 { transport.close() }
        failure =
          error == .invalid
          ? ServiceClientError(.untrusted, "'\(target.name)' cannot be the name of a server")
          : ServiceClientError(.unreachable, "\(error)")
      }
    }
    throw failure
  }

  /// The server has said what HTTP/2 begins with: calls go out.
  package var isReady: Bool { calls.isReady }

  // MARK: Calls

  /// Begins a call, as soon as the connection lets it. Its name.
  /// - Parameter method: its place among those of the connection.
  package func start(_ method: Int, _ message: [UInt8]) -> UInt64 {
    start(method, messages: [message])
  }

  /// Begins a call that streams its request, whose messages are known: one at least.
  package func start(_ method: Int, messages: [[UInt8]]) -> UInt64 {
    precondition(!messages.isEmpty, "a call without a message")
    newestCall += 1
    waiting.append((method, newestCall, messages))
    return newestCall
  }

  /// Whether a call has gone out, at least in part.
  package func hasBegun(_ callID: UInt64) -> Bool { streams[callID] != nil }

  /// Gives a call up: it is not heard of any more.
  package func cancel(_ callID: UInt64) {
    waiting.removeAll { $0.callID == callID }
    if let stream = streams.removeValue(forKey: callID) { _ = calls.cancel(stream: stream) }
  }

  /// Waits for something to happen, for at most so long.
  /// - Parameters:
  ///   - take: is shown each message of a call that streams them.
  ///   - end: is told of each call that has ended.
  /// - Returns: whether something came from the server.
  package func wait(
    milliseconds: Int32, take: (UInt64, UnsafeRawBufferPointer) -> Void,
    end: (ServiceCallEnd) -> Void
  ) throws(ServiceClientError) -> Bool {
    if transport.descriptor < 0 { try connect() }
    try flush()
    let isReadable = try poll(milliseconds)
    try flush()
    guard isReadable, try read() else { return false }
    for message in calls.messages where streams[message.callID] != nil {
      calls.withMessage(message) { bytes in
        unsafe bytes.withUnsafeBytes { unsafe take(message.callID, $0) }
      }
    }
    for response in calls.responses where streams.removeValue(forKey: response.callID) != nil {
      end(ending(response))
    }
    calls.forgetResponses()
    try flush()
    return true
  }

  private func ending(_ response: ClientResponse) -> ServiceCallEnd {
    let isAnswered = response.outcome == .answered
    let status = isAnswered || response.status != .ok ? response.status : .unknown
    let words = calls.statusText(of: response)
    let text =
      words.isEmpty && status != .ok
      ? Self.words(response.outcome, status, response.httpStatus) : words
    let details = calls.withStatusDetails(of: response) { bytes in
      unsafe bytes.withUnsafeBytes { unsafe StatusDetails($0) }
    }
    let message = calls.withMessage(of: response) { bytes in
      unsafe bytes.withUnsafeBytes { unsafe Array($0) }
    }
    return ServiceCallEnd(
      callID: response.callID, status: status, isAnswered: isAnswered,
      isUnprocessed: response.outcome == .unprocessed, text: text, details: details,
      message: message)
  }

  /// Of a call that ended without words of the server's.
  private static func words(
    _ outcome: ClientCall.Outcome, _ status: StatusCode, _ httpStatus: Int
  ) -> String {
    switch outcome {
    case .answered: "the call failed (\(status.name))"
    case .malformed where httpStatus >= 100 && httpStatus != 200:
      "HTTP status \(httpStatus) instead of gRPC's"
    case .malformed: "what came is no response of gRPC's"
    case .reset(let code): "the call was reset (HTTP/2 error \(code))"
    case .unprocessed: "the server did not look at the call"
    case .lost: "the connection was lost"
    }
  }

  // MARK: The connection

  /// Whether there may be something to read.
  private func poll(_ milliseconds: Int32) throws(ServiceClientError) -> Bool {
    do throws(Errno) {
      guard try poller.wait(timeoutMilliseconds: milliseconds) > 0 else { return false }
    } catch {
      throw ServiceClientError(.system, "epoll: \(error)")
    }
    let event = poller.event(at: 0)
    if !isConnected, event.isWritable || event.isHungUp {
      if let error = Socket.connectError(transport.descriptor) {
        transport.close()
        if untried.isEmpty { throw ServiceClientError(.unreachable, "\(error)") }
        try connect()
        return false
      }
      isConnected = true
    }
    return isConnected && (event.isReadable || event.isHungUp)
  }

  private func startWaiting() throws(ServiceClientError) {
    while calls.isReady, let next = waiting.first {
      if calls.isClosing { throw ServiceClientError(.lost, "the server ends the connection") }
      let (first, last) = (next.messages[0], next.messages.count - 1)
      let result = calls.start(
        next.method, callID: next.callID, message: first.span, ends: last == 0)
      guard case .started(let stream) = result else {
        precondition(result != .messageTooLarge, "messages are kept below what a server takes")
        return
      }
      streams[next.callID] = stream
      waiting.removeFirst()
      for (index, message) in next.messages.enumerated().dropFirst() {
        // False: the call has ended meanwhile, and its end says why.
        if !calls.send(message.span, to: stream, ends: index == last) { break }
      }
    }
  }

  private func flush() throws(ServiceClientError) {
    guard isConnected, try shakeHands() else { return }
    try startWaiting()
    while calls.outputCount > 0 {
      var result = Transfer.wouldBlock(.writable)
      let transport = transport
      calls.flush { bytes in
        result = unsafe bytes.withUnsafeBytes { unsafe transport.write(from: $0) }
        if case .moved(let count) = result { return count }
        return 0
      }
      switch result {
      case .moved: continue
      case .wouldBlock(let readiness): return try watch(forWriting: readiness == .writable)
      case .ended: throw ServiceClientError(.lost, "the server closed the connection")
      case .failed(let failure): throw ServiceClientError(.lost, "\(failure)")
      }
    }
    try watch(forWriting: false)
  }

  /// True once the handshake, if there is one, is over.
  private func shakeHands() throws(ServiceClientError) -> Bool {
    guard transport.isHandshaking else { return true }
    switch transport.handshake() {
    case .done:
      if transport.hasChosenHTTP2 { return true }
      throw ServiceClientError(.malformed, "the server speaks TLS, but not HTTP/2 over it")
    case .wouldBlock(let readiness): try watch(forWriting: readiness == .writable)
    case .failed(let failure): throw Self.handshakeFailure(failure)
    }
    return false
  }

  private static func handshakeFailure(_ failure: TransportFailure) -> ServiceClientError {
    switch failure {
    case .socket: ServiceClientError(.lost, "TLS: \(failure)")
    // So ends a server that stops, and a port that takes no TLS.
    case .endedInHandshake, .truncated:
      ServiceClientError(.lost, "TLS: \(failure) (does the server speak TLS?)")
    case .tls(let error) where error.isCertificateProblem:
      ServiceClientError(.untrusted, "TLS: \(failure)")
    case .notTLS, .handshakeTooLarge, .tls:
      ServiceClientError(.untrusted, "TLS: \(failure) (does the server speak TLS?)")
    }
  }

  private func watch(forWriting: Bool) throws(ServiceClientError) {
    if awaitsWriting == forWriting { return }
    awaitsWriting = forWriting
    do throws(Errno) {
      try poller.modify(transport.descriptor, token: 0, readable: true, writable: forWriting)
    } catch {
      throw ServiceClientError(.system, "epoll: \(error)")
    }
  }

  /// Whether something came.
  private func read() throws(ServiceClientError) -> Bool {
    if transport.isHandshaking { return false }
    switch unsafe transport.read(into: buffer) {
    case .moved(let count):
      // The read has filled the first `count` bytes.
      let bytes = unsafe UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<count])
      do throws(ClientError) {
        try unsafe calls.receive(bytes.bindMemory(to: UInt8.self).span)
      } catch {
        throw ServiceClientError(.malformed, "\(error)")
      }
      return true
    case .wouldBlock: return false
    case .ended: throw ServiceClientError(.lost, "the server closed the connection")
    // With TLS 1.3 a server says only then that it does not take the client's certificate.
    case .failed(.tls(let error)) where !calls.isReady:
      throw Self.handshakeFailure(.tls(error))
    case .failed(let failure): throw ServiceClientError(.lost, "\(failure)")
    }
  }
}
