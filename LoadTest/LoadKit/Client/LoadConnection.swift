// One connection of the load generator: a socket, and the calls that it carries.
internal import GRPC
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

  /// Reads once from `transport` and hands over what came.
  func read<R>(_ transport: Transport, _ body: (Transfer, Span<UInt8>) -> R) -> R {
    let result = unsafe transport.read(into: memory)
    guard case .moved(let count) = result else { return body(result, Span()) }
    // The read has filled the first `count` bytes.
    let bytes = unsafe UnsafeRawBufferPointer(memory).bindMemory(to: UInt8.self)
    return body(result, unsafe bytes.span.extracting(0..<count))
  }
}

struct LoadConnection: ~Copyable {
  /// Has to outlive `transport`: OpenSSL's callbacks use it while we read.
  private let context: TLSClientContext?
  /// Ours; closed when this goes.
  private var transport: Transport
  /// What the poller calls it. A connection that takes the place of another has another token: late
  /// events of a socket that is gone are told by it.
  let token: UInt64
  var calls: ClientCalls
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

  private init(
    transport: Transport, context: TLSClientContext?, calls: consuming ClientCalls,
    token: UInt64
  ) {
    self.context = context
    self.transport = transport
    self.calls = calls
    self.token = token
  }

  deinit {
    var transport = transport
    transport.close()
  }

  /// The methods of a run, in the order of `Method`.
  private static let runMethods = Method.allCases.map {
    ClientMethod(
      path: Method.paths[$0.rawValue], type: $0 == .reserveStream ? .bidirectional : .unary)
  }

  /// Starts connecting, watched by `poller` under `token`.
  /// - Parameter methods: nil: those of a run.
  static func connect(
    to endpoint: Endpoint, methods: [ClientMethod]? = nil, callsMaximum: Int,
    poller: borrowing Poller, token: UInt64
  ) throws(LoadError) -> LoadConnection {
    let socket = try orFail("cannot connect to \(endpoint) (an IP address and a port?)") {
      () throws(Errno) in try Socket.connect(host: endpoint.host, port: endpoint.port)
    }
    let calls = try orFail("HTTP/2") { () throws(ClientError) in
      try ClientCalls(
        methods: methods ?? runMethods,
        authority: endpoint.authority, userAgent: "holdfast-load/1",
        scheme: endpoint.tls == nil ? "http" : "https", metadata: endpoint.metadata,
        callsMax: callsMaximum)
    }
    let number = socket.number
    try orFail("epoll") { () throws(Errno) in
      try poller.add(number, token: token, writable: true)
    }
    let transport = try endpoint.transport(on: socket)
    return LoadConnection(transport: transport, context: endpoint.tls, calls: calls, token: token)
  }

  var isLost: Bool { lostReason != nil }

  /// Whether a call with a message of `messageCount` bytes may start now.
  func hasRoom(for messageCount: Int) -> Bool {
    !closesWhenWritten && calls.hasRoom(for: messageCount)
  }

  /// Sends what the kernel takes.
  mutating func flush(_ poller: borrowing Poller) {
    guard isConnected, !isLost else { return }
    guard !transport.isHandshaking || shakeHands(poller) else { return }
    let transport = transport
    while calls.outputCount > 0 {
      var result = Transfer.wouldBlock(.writable)
      calls.flush { bytes in
        result = unsafe bytes.withUnsafeBytes { unsafe transport.write(from: $0) }
        if case .moved(let count) = result { return count }
        return 0
      }
      switch result {
      case .moved: continue
      case .wouldBlock(let readiness): return watch(poller, forWriting: readiness == .writable)
      case .ended: return lose("closed by the server")
      case .failed(let failure):
        return lose(Endpoint.reason(failure, inHandshake: false))
      }
    }
    if closesWhenWritten {
      isClosedByUs = true
      return lose("closed on purpose")
    }
    if awaitsWriting { watch(poller, forWriting: false) }
  }

  /// Goes on with TLS's handshake. True once it is over.
  private mutating func shakeHands(_ poller: borrowing Poller) -> Bool {
    switch transport.handshake() {
    case .done:
      if transport.hasChosenHTTP2 { return true }
      lose("the server speaks TLS, but not HTTP/2 over it")
    case .wouldBlock(let readiness): watch(poller, forWriting: readiness == .writable)
    case .failed(let failure): lose(Endpoint.reason(failure, inHandshake: true))
    }
    return false
  }

  private mutating func watch(_ poller: borrowing Poller, forWriting: Bool) {
    guard awaitsWriting != forWriting else { return }
    awaitsWriting = forWriting
    do {
      try poller.modify(transport.descriptor, token: token, readable: true, writable: forWriting)
    } catch {
      lose("epoll: \(error)")
    }
  }

  /// The poller says that the socket is writable, or hung up while it connected.
  mutating func becameWritable(_ poller: borrowing Poller) {
    if !isConnected {
      if let error = Socket.connectError(transport.descriptor) { return lose("\(error)") }
      isConnected = true
    }
    flush(poller)
  }

  /// Reads once; afterwards `calls.responses` are those that came. False where nothing came.
  mutating func receive(_ buffer: borrowing ReceiveBuffer) -> Bool {
    guard isConnected, !isLost else { return false }
    // The next flush goes on with the handshake, and its end may need no more of the server's bytes.
    if transport.isHandshaking { return false }
    let problem: String? = buffer.read(transport) { result, bytes in
      switch result {
      case .ended: return "closed by the server"
      case .moved:
        do {
          try calls.receive(bytes)
          return nil
        } catch { return "\(error)" }
      case .wouldBlock: return ""
      case .failed(let failure): return Endpoint.reason(failure, inHandshake: false)
      }
    }
    guard let problem else { return true }
    if problem.isEmpty { return false }
    lose(problem)
    return true
  }

  /// Closes the connection as soon as all that waits is written, with calls in flight.
  mutating func closeWhenWritten() { closesWhenWritten = true }

  /// Gives the connection up: afterwards `calls.responses` are the calls that were lost with it.
  mutating func lose(_ reason: String) {
    guard !isLost else { return }
    lostReason = reason
    calls.close()
    shutdownPending = true
  }

  /// The owner has dealt with the loss.
  mutating func acknowledgeLoss(_ poller: borrowing Poller) {
    shutdownPending = false
    try? poller.remove(transport.descriptor)
  }

  mutating func start(
    _ method: Method, callID: UInt64, _ message: borrowing MessageBuffer
  ) -> ClientCalls.StartResult {
    message.withSpan {
      calls.start(method.rawValue, callID: callID, message: $0, ends: method != .reserveStream)
    }
  }

  /// Sends one more message of a ReserveStream. False where the call has ended.
  mutating func send(_ message: borrowing MessageBuffer, to stream: UInt32) -> Bool {
    message.withSpan { calls.send($0, to: stream, ends: false) }
  }
}
