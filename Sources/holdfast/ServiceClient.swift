// A connection to a holdfast server, for commands that call one: `backup` and `project`.
internal import Bytes
internal import FoundationEssentials
internal import GRPC
internal import HTTP2
internal import Posix
internal import Version

/// Where a server listens, and how it is spoken to.
struct ServiceTarget: CustomStringConvertible {
  let host: String
  let port: UInt16
  /// What the server's certificate has to be of.
  var name: String
  /// nil: without TLS.
  var tls: TLSClientContext?
  var metadata: [ClientMetadata] = []

  /// `127.0.0.1:7420`, `[::1]:7420`, `host:7420`, or `unix:/path`.
  init?(_ text: String) {
    if let path = UnixSocket.path(ofHost: text) {
      if path.isEmpty { return nil }
      (host, port, name) = (text, 0, "localhost")
      return
    }
    guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]),
      port > 0
    else { return nil }
    var host = String(text[..<colon])
    if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
    if host.isEmpty { return nil }
    (self.host, self.port, name) = (host, port, host)
  }

  var description: String { port == 0 ? host : authority }

  fileprivate var authority: String {
    if port == 0 { return name }
    return name.contains(":") ? "[\(name)]:\(port)" : "\(name):\(port)"
  }
}

/// The connection is of no more use; in words for an operator.
struct ServiceClientError: Error, CustomStringConvertible {
  let description: String

  init(_ description: String) { self.description = description }
}

/// What became of a call.
struct ServiceCallEnd {
  let callID: UInt64
  let status: StatusCode
  /// The server's words, or ours where it has none; empty for OK.
  let text: String
  /// Of google.rpc.ErrorInfo; empty where there is none.
  let reason: String
  /// The response of a call that does not stream it.
  let message: [UInt8]
}

/// Used by one thread. It waits for the server in `wait` alone.
@safe final class ServiceClient {
  private let target: ServiceTarget
  private let poller: Poller
  private var transport: Transport
  private var calls: ClientCalls
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 16)
  private var isConnected = false
  private var awaitsWriting = true
  private var newestCall: UInt64 = 0
  /// Calls for which there was no room yet.
  private var waiting: [(method: Int, callID: UInt64, message: [UInt8])] = []
  private var streams: [UInt64: UInt32] = [:]

  /// Begins to connect: to the first of the host's addresses.
  /// - Parameter program: what the server hears as user agent.
  init(
    _ target: ServiceTarget, methods: [ClientMethod], program: String, callsMax: Int = 1
  ) throws(ServiceClientError) {
    self.target = target
    do {
      poller = try Poller()
      calls = try ClientCalls(
        methods: methods, authority: target.authority, userAgent: "\(program)/\(Build.version)",
        scheme: target.tls == nil ? "http" : "https", metadata: target.metadata, callsMax: callsMax)
      let isUnixSocket = UnixSocket.path(ofHost: target.host) != nil
      let addresses = isUnixSocket ? [target.host] : try HostName.addresses(target.host)
      transport = try Self.connect(addresses, target)
      try poller.add(transport.descriptor, token: 0, writable: true)
    } catch {
      unsafe buffer.deallocate()
      throw ServiceClientError("\(error)")
    }
  }

  deinit {
    transport.close()
    unsafe buffer.deallocate()
  }

  private static func connect(
    _ addresses: [String], _ target: ServiceTarget
  ) throws -> Transport {
    let socket = try Socket.connect(host: addresses[0], port: target.port)
    guard let tls = target.tls else { return Transport(plain: socket.take()) }
    guard let transport = tls.connect(socket.number, serverName: target.name) else {
      throw CommandFailure(description: "'\(target.name)' cannot be the name of a server")
    }
    _ = socket.take()
    return transport
  }

  // MARK: Calls

  /// Begins a call, as soon as the connection lets it. Its name.
  /// - Parameter method: its place among those of the connection.
  func start(_ method: Int, _ message: [UInt8]) -> UInt64 {
    newestCall += 1
    waiting.append((method, newestCall, message))
    return newestCall
  }

  /// Gives a call up: it is not heard of any more.
  func cancel(_ callID: UInt64) {
    waiting.removeAll { $0.callID == callID }
    if let stream = streams.removeValue(forKey: callID) { _ = calls.cancel(stream: stream) }
  }

  /// Waits for something to happen, for at most so long.
  /// - Parameters:
  ///   - take: is shown each message of a call that streams them.
  ///   - end: is told of each call that has ended.
  /// - Returns: whether something came from the server.
  func wait(
    milliseconds: Int32, take: (UInt64, UnsafeRawBufferPointer) -> Void,
    end: (ServiceCallEnd) -> Void
  ) throws(ServiceClientError) -> Bool {
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
    let text = words.isEmpty && status != .ok ? "the call failed (\(status))" : words
    let reason = calls.withStatusDetails(of: response) { bytes in
      unsafe bytes.withUnsafeBytes { unsafe Self.reason($0) }
    }
    let message = calls.withMessage(of: response) { bytes in
      unsafe bytes.withUnsafeBytes { unsafe Array($0) }
    }
    return ServiceCallEnd(
      callID: response.callID, status: status, text: text, reason: reason, message: message)
  }

  /// The reason in the google.rpc.ErrorInfo of a google.rpc.Status, which is in an Any.
  private static func reason(_ status: UnsafeRawBufferPointer) -> String {
    var fields = unsafe WireFields(status)
    while let field = fields.next() {
      guard field.number == 3 else { continue }
      var any = unsafe WireFields(field.bytes)
      var isInfo = false
      while let part = any.next() {
        if part.number == 1 { isInfo = part.text.hasSuffix("/google.rpc.ErrorInfo") }
        guard isInfo, part.number == 2 else { continue }
        var info = unsafe WireFields(part.bytes)
        while let entry = info.next() {
          if entry.number == 1 { return entry.text }
        }
      }
    }
    return ""
  }

  // MARK: The connection

  /// Whether there may be something to read.
  private func poll(_ milliseconds: Int32) throws(ServiceClientError) -> Bool {
    do throws(Errno) {
      guard try poller.wait(timeoutMilliseconds: milliseconds) > 0 else { return false }
    } catch {
      throw ServiceClientError("epoll: \(error)")
    }
    let event = poller.event(at: 0)
    if !isConnected, event.isWritable || event.isHungUp {
      if let error = Socket.connectError(transport.descriptor) {
        throw ServiceClientError("\(error)")
      }
      isConnected = true
    }
    return isConnected && (event.isReadable || event.isHungUp)
  }

  private func startWaiting() {
    while calls.isReady, let next = waiting.first {
      let result = calls.start(next.method, callID: next.callID, message: next.message.span)
      guard case .started(let stream) = result else { return }
      streams[next.callID] = stream
      waiting.removeFirst()
    }
  }

  private func flush() throws(ServiceClientError) {
    guard isConnected, try shakeHands() else { return }
    startWaiting()
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
      case .ended: throw ServiceClientError("the server closed the connection")
      case .failed(let failure): throw ServiceClientError("\(failure)")
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
      throw ServiceClientError("the server speaks TLS, but not HTTP/2 over it")
    case .wouldBlock(let readiness): try watch(forWriting: readiness == .writable)
    case .failed(let failure):
      throw ServiceClientError("TLS: \(failure) (does the server speak TLS?)")
    }
    return false
  }

  private func watch(forWriting: Bool) throws(ServiceClientError) {
    if awaitsWriting == forWriting { return }
    awaitsWriting = forWriting
    do throws(Errno) {
      try poller.modify(transport.descriptor, token: 0, readable: true, writable: forWriting)
    } catch {
      throw ServiceClientError("epoll: \(error)")
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
        throw ServiceClientError("\(error)")
      }
      return true
    case .wouldBlock: return false
    case .ended: throw ServiceClientError("the server closed the connection")
    case .failed(let failure): throw ServiceClientError("\(failure)")
    }
  }
}
