// Takes a backup from a server: one connection, one call, and the pieces that come with it.
internal import Foundation
internal import GRPC
internal import HTTP2
internal import Log
internal import Posix
internal import StorePersistence

/// Where a server listens, and how it is spoken to.
struct BackupTarget: CustomStringConvertible {
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

/// Why there is no backup from there.
enum BackupClientError: Error {
  /// The connection or the call failed.
  case failed(String)
  /// The server has found its directory damaged.
  case damaged(String)
  /// What came cannot be written.
  case writing(JournalError)
  case interrupted
}

/// One use, by one thread.
@safe final class BackupClient {
  private static let method = "/holdfast.v1.BackupService/Backup"
  private static let pollMilliseconds: Int32 = 100

  private let target: BackupTarget
  private let poller: Poller
  private var transport: Transport
  private var calls: ClientCalls
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 16)
  private var isConnected = false
  private var awaitsWriting = true
  private var hasStarted = false
  private var isWhole = false

  /// Begins to connect: to the first of the host's addresses.
  init(_ target: BackupTarget) throws(BackupClientError) {
    self.target = target
    do {
      poller = try Poller()
      calls = try ClientCalls(
        methods: [ClientMethod(path: Self.method, type: .serverStreaming)],
        authority: target.authority, userAgent: "holdfast-backup/\(Build.version)",
        scheme: target.tls == nil ? "http" : "https", metadata: target.metadata, callsMax: 1)
      let isUnixSocket = UnixSocket.path(ofHost: target.host) != nil
      let addresses = isUnixSocket ? [target.host] : try HostName.addresses(target.host)
      transport = try Self.connect(addresses, target)
      try poller.add(transport.descriptor, token: 0, writable: true)
    } catch {
      unsafe buffer.deallocate()
      throw .failed("\(error)")
    }
  }

  deinit {
    transport.close()
    unsafe buffer.deallocate()
  }

  private static func connect(
    _ addresses: [String], _ target: BackupTarget
  ) throws -> Transport {
    let socket = try Socket.connect(host: addresses[0], port: target.port)
    guard let tls = target.tls else { return Transport(plain: socket.take()) }
    guard let transport = tls.connect(socket.number, serverName: target.name) else {
      throw CommandFailure(description: "'\(target.name)' cannot be the name of a server")
    }
    _ = socket.take()
    return transport
  }

  /// Writes all pieces. Whether they are a backup is for `BackupWriter.finish` to find.
  func receive(
    to writer: BackupWriter, isInterrupted: () -> Bool
  ) throws(BackupClientError) {
    var deadline = SystemClock.monotonicNanoseconds() + Limits.backupSilenceNanoseconds
    while true {
      if isInterrupted() { throw .interrupted }
      let now = SystemClock.monotonicNanoseconds()
      if now > deadline {
        throw .failed("the server is silent; is it a holdfast server, and is it running?")
      }
      let isReadable = try wait()
      try flush()
      guard isReadable, try read() else { continue }
      deadline = now + Limits.backupSilenceNanoseconds
      try takeMessages(writer)
      if let response = calls.responses.first { return try end(response) }
      calls.forgetResponses()
      try flush()
    }
  }

  // MARK: The connection

  /// Whether there may be something to read.
  private func wait() throws(BackupClientError) -> Bool {
    do throws(Errno) {
      guard try poller.wait(timeoutMilliseconds: Self.pollMilliseconds) > 0 else { return false }
    } catch {
      throw .failed("epoll: \(error)")
    }
    let event = poller.event(at: 0)
    if !isConnected, event.isWritable || event.isHungUp {
      if let error = Socket.connectError(transport.descriptor) { throw .failed("\(error)") }
      isConnected = true
    }
    return isConnected && (event.isReadable || event.isHungUp)
  }

  private func flush() throws(BackupClientError) {
    guard isConnected, try shakeHands() else { return }
    if calls.isReady, !hasStarted {
      guard case .started = calls.start(0, callID: 1, message: Span()) else { return }
      hasStarted = true
    }
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
      case .ended: throw .failed("the server closed the connection")
      case .failed(let failure): throw .failed("\(failure)")
      }
    }
    try watch(forWriting: false)
  }

  /// True once the handshake, if there is one, is over.
  private func shakeHands() throws(BackupClientError) -> Bool {
    guard transport.isHandshaking else { return true }
    switch transport.handshake() {
    case .done:
      if transport.hasChosenHTTP2 { return true }
      throw .failed("the server speaks TLS, but not HTTP/2 over it")
    case .wouldBlock(let readiness): try watch(forWriting: readiness == .writable)
    case .failed(let failure): throw .failed("TLS: \(failure) (does the server speak TLS?)")
    }
    return false
  }

  private func watch(forWriting: Bool) throws(BackupClientError) {
    if awaitsWriting == forWriting { return }
    awaitsWriting = forWriting
    do throws(Errno) {
      try poller.modify(transport.descriptor, token: 0, readable: true, writable: forWriting)
    } catch {
      throw .failed("epoll: \(error)")
    }
  }

  /// Whether something came.
  private func read() throws(BackupClientError) -> Bool {
    if transport.isHandshaking { return false }
    switch unsafe transport.read(into: buffer) {
    case .moved(let count):
      // The read has filled the first `count` bytes.
      let bytes = unsafe UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<count])
      do throws(ClientError) {
        try unsafe calls.receive(bytes.bindMemory(to: UInt8.self).span)
      } catch {
        throw .failed("\(error)")
      }
      return true
    case .wouldBlock: return false
    case .ended: throw .failed("the server closed the connection")
    case .failed(let failure): throw .failed("\(failure)")
    }
  }

  // MARK: The call

  private func takeMessages(_ writer: BackupWriter) throws(BackupClientError) {
    for message in calls.messages {
      let problem = calls.withMessage(message) { bytes -> BackupClientError? in
        unsafe bytes.withUnsafeBytes { bytes in
          guard let response = unsafe BackupMessage(bytes) else {
            return .failed("the server has sent what is no piece of a backup")
          }
          if response.file.isEmpty {
            isWhole = true
            return nil
          }
          do throws(JournalError) {
            try writer.write(
              unsafe BackupPiece(
                file: response.file, offset: response.offset, bytes: response.data))
            return nil
          } catch {
            return .writing(error)
          }
        }
      }
      if let problem { throw problem }
    }
  }

  private func end(_ response: ClientResponse) throws(BackupClientError) {
    guard response.outcome == .answered, response.status == .ok else {
      let words = calls.statusText(of: response)
      let text = words.isEmpty ? "the call failed (\(response.status))" : words
      throw response.status == .dataLoss ? .damaged(text) : .failed(text)
    }
    if !isWhole { throw .failed("the server has not sent all") }
  }
}

/// A BackupResponse.
@safe private struct BackupMessage {
  private(set) var file = ""
  private(set) var offset = 0
  private(set) var data = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
  private var rest: UnsafeRawBufferPointer.SubSequence

  /// - Safety: good as long as the bytes are.
  @unsafe init?(_ bytes: UnsafeRawBufferPointer) {
    unsafe rest = bytes[...]
    while unsafe !rest.isEmpty {
      guard let tag = varint() else { return nil }
      switch tag {
      case 1 << 3 | 2:
        guard let text = unsafe field() else { return nil }
        file = unsafe String(decoding: text, as: UTF8.self)
      case 2 << 3:
        guard let value = varint().flatMap({ Int(exactly: $0) }) else { return nil }
        offset = value
      case 3 << 3 | 2:
        guard let bytes = unsafe field() else { return nil }
        unsafe data = bytes
      default: return nil
      }
    }
  }

  private mutating func varint() -> UInt64? {
    var value: UInt64 = 0
    for shift in stride(from: UInt64(0), to: 64, by: 7) {
      guard let byte = unsafe rest.popFirst() else { return nil }
      value |= UInt64(byte & 0x7f) << shift
      if byte < 0x80 { return value }
    }
    return nil
  }

  @unsafe private mutating func field() -> UnsafeRawBufferPointer? {
    guard let count = varint().flatMap({ Int(exactly: $0) }), unsafe count <= rest.count else {
      return nil
    }
    let bytes = unsafe UnsafeRawBufferPointer(rebasing: rest.prefix(count))
    unsafe rest = rest.dropFirst(count)
    return unsafe bytes
  }
}
