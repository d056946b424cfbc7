// One connection of the load generator: a socket, and the HTTP/2 client that it carries.
internal import HTTP2
internal import LoadHistory
internal import Posix

/// Why the load generator could not do what it was asked. One line that says what to do.
package struct LoadError: Error, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// Runs `body`; what it throws becomes a LoadError that begins with `doing`.
func orFail<Value: ~Copyable, Failure: Error>(
  _ doing: String, _ body: () throws(Failure) -> Value
) throws(LoadError) -> Value {
  do { return try body() } catch { throw LoadError("\(doing): \(error)") }
}

/// Where a server listens.
package struct Endpoint: Equatable, Sendable, CustomStringConvertible {
  package let host: String
  package let port: UInt16

  /// - Parameter text: an IP address, or a name to be resolved, and a port: 127.0.0.1:8080, [::1]:8080. Or
  ///   a unix socket, which has no port: unix:/path.
  package init?(_ text: String) {
    if let path = UnixSocket.path(ofHost: text) {
      if path.isEmpty { return nil }
      self.init(host: text, port: 0)
      return
    }
    guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]),
      port > 0
    else { return nil }
    var host = String(text[..<colon])
    if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
    if host.isEmpty { return nil }
    self.init(host: host, port: port)
  }

  package init(host: String, port: UInt16) {
    self.host = host
    self.port = port
  }

  /// From a flag: with the address of a name. Of several, the first that takes a connection now.
  package static func resolving(_ text: String) throws(LoadError) -> Endpoint {
    guard let named = Endpoint(text) else {
      throw LoadError("not an address and a port, such as 127.0.0.1:7420, or unix:/path")
    }
    if UnixSocket.path(ofHost: named.host) != nil { return named }
    let addresses: [String]
    do { addresses = try HostName.addresses(named.host) } catch { throw LoadError("\(error)") }
    let endpoints = addresses.map { Endpoint(host: $0, port: named.port) }
    if endpoints.count == 1 { return endpoints[0] }
    return endpoints.first { $0.takesConnections() } ?? endpoints[0]
  }

  package var description: String {
    if UnixSocket.path(ofHost: host) != nil { return host }
    return host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
  }
}

/// A list of values that can't be copied, with room for a fixed number of them.
@safe struct Table<Element: ~Copyable>: ~Copyable {
  /// Room for `capacity` elements, the first `count` initialized; owned by this value.
  private let elements: UnsafeMutablePointer<Element>
  private let capacity: Int
  private(set) var count = 0

  init(capacity: Int) {
    unsafe elements = .allocate(capacity: capacity)
    self.capacity = capacity
  }

  deinit {
    unsafe elements.deinitialize(count: count)
    unsafe elements.deallocate()
  }

  mutating func append(_ element: consuming Element) {
    precondition(count < capacity, "the table is full")
    unsafe (elements + count).initialize(to: element)
    count += 1
  }

  subscript(index: Int) -> Element {
    _read {
      precondition(index >= 0 && index < count, "index out of range")
      yield unsafe elements[index]
    }
    _modify {
      precondition(index >= 0 && index < count, "index out of range")
      yield unsafe &elements[index]
    }
  }
}

/// Where sockets are read into. One serves a whole thread.
@safe struct ReceiveBuffer: ~Copyable {
  private let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 * 1024, alignment: 16)

  deinit { unsafe memory.deallocate() }

  /// Reads once from `descriptor` and hands over what came.
  func read<R>(_ descriptor: Int32, _ body: (IOResult, Span<UInt8>) -> R) -> R {
    let result = unsafe FileDescriptor.read(descriptor, into: memory)
    guard case .moved(let count) = result else { return body(result, Span()) }
    // read(2) has filled the first `count` bytes.
    let bytes = unsafe UnsafeRawBufferPointer(memory).bindMemory(to: UInt8.self)
    return body(result, unsafe bytes.span.extracting(0..<count))
  }
}

struct LoadConnection: ~Copyable {
  private let socket: FileDescriptor
  /// What the poller calls it. A connection that takes the place of another has another token: late
  /// events of a socket that is gone are told by it.
  let token: UInt64
  var http: ClientConnection
  /// Watched for writing: connecting, or the kernel's buffer is full.
  private var awaitsWriting = true
  private var isConnected = false
  /// We are to close it once everything is written.
  private var closesWhenWritten = false
  /// We closed it, calls in flight and all; otherwise it was lost.
  private(set) var isClosedByUs = false
  /// Why the connection is of no more use; nil while it is.
  private(set) var lostReason: String?
  /// Set once when the connection was lost, until the owner has seen it: it stops watching then.
  private(set) var shutdownPending = false

  private init(socket: consuming FileDescriptor, http: consuming ClientConnection, token: UInt64) {
    self.socket = socket
    self.http = http
    self.token = token
  }

  /// Starts connecting, watched by `poller` under `token`.
  static func connect(
    to endpoint: Endpoint, callsMaximum: Int, poller: borrowing Poller, token: UInt64
  ) throws(LoadError) -> LoadConnection {
    let socket = try orFail("cannot connect to \(endpoint) (an IP address and a port?)") {
      () throws(Errno) in try Socket.connect(host: endpoint.host, port: endpoint.port)
    }
    let http = try orFail("HTTP/2") { () throws(ClientError) in
      try ClientConnection(
        paths: Method.paths, authority: endpoint.description, userAgent: "holdfast-load/1",
        callsMaximum: callsMaximum)
    }
    let number = socket.number
    try orFail("epoll") { () throws(Errno) in
      try poller.add(number, token: token, writable: true)
    }
    return LoadConnection(socket: socket, http: http, token: token)
  }

  var isLost: Bool { lostReason != nil }

  /// Whether a call with a message of `messageCount` bytes may start now.
  func hasRoom(for messageCount: Int) -> Bool {
    !closesWhenWritten && http.hasRoom(for: messageCount)
  }

  /// Sends what the kernel takes.
  mutating func flush(_ poller: borrowing Poller) {
    guard isConnected, !isLost else { return }
    let number = socket.number
    while http.outputCount > 0 {
      var result = IOResult.wouldBlock
      http.send { bytes in
        result = unsafe bytes.withUnsafeBytes { unsafe FileDescriptor.send(number, from: $0) }
        if case .moved(let count) = result { return count }
        return 0
      }
      switch result {
      case .moved: continue
      case .wouldBlock: return watch(poller, forWriting: true)
      case .failed(let error): return lose("\(error)")
      }
    }
    if closesWhenWritten {
      isClosedByUs = true
      return lose("closed on purpose")
    }
    if awaitsWriting { watch(poller, forWriting: false) }
  }

  private mutating func watch(_ poller: borrowing Poller, forWriting: Bool) {
    guard awaitsWriting != forWriting else { return }
    awaitsWriting = forWriting
    do {
      try poller.modify(socket.number, token: token, readable: true, writable: forWriting)
    } catch {
      lose("epoll: \(error)")
    }
  }

  /// The poller says that the socket is writable, or hung up while it connected.
  mutating func becameWritable(_ poller: borrowing Poller) {
    if !isConnected {
      if let error = Socket.connectError(socket.number) { return lose("\(error)") }
      isConnected = true
    }
    flush(poller)
  }

  /// Reads once; afterwards `http.answers` are those that came. False where nothing came.
  mutating func receive(_ buffer: borrowing ReceiveBuffer) -> Bool {
    guard isConnected, !isLost else { return false }
    let problem: String? = buffer.read(socket.number) { result, bytes in
      switch result {
      case .moved(0): return "closed by the server"
      case .moved:
        do {
          try http.receive(bytes)
          return nil
        } catch { return "\(error)" }
      case .wouldBlock: return ""
      case .failed(let error): return "\(error)"
      }
    }
    guard let problem else { return true }
    if problem.isEmpty { return false }
    lose(problem)
    return true
  }

  /// Closes the connection as soon as all that waits is written, with calls in flight.
  mutating func closeWhenWritten() { closesWhenWritten = true }

  /// Gives the connection up: afterwards `http.answers` are the calls that were lost with it.
  mutating func lose(_ reason: String) {
    guard !isLost else { return }
    lostReason = reason
    http.close()
    shutdownPending = true
  }

  /// The owner has dealt with the loss.
  mutating func acknowledgeLoss(_ poller: borrowing Poller) {
    shutdownPending = false
    try? poller.remove(socket.number)
  }

  mutating func start(
    _ method: Method, callID: UInt64, _ message: borrowing MessageBuffer
  ) -> ClientConnection.StartResult {
    message.withSpan { http.start(path: method.rawValue, callID: callID, message: $0) }
  }
}
