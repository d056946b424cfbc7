// TLS on one non-blocking socket, with OpenSSL. Internal to the module: `Transport` is its face.
//
// OpenSSL reads and writes the socket through a BIO of ours, not its own: the own one raises SIGPIPE, and
// asks the kernel once more after every read that took all there was.
internal import COpenSSL
internal import Glibc

/// A connection's state. `Transport` names it by its address; the BIO knows `socket` alone.
@safe struct TLSConnection {
  /// A record on the wire, at most: 16 KiB of content, up to 256 bytes more, a header (RFC 8446, section
  /// 5.2); rounded up to what OpenSSL sets aside for one.
  static let recordBytesMax = 17 * 1024
  /// Content of one record.
  private static let contentBytesMax = 16 * 1024
  /// What a peer may send until its handshake is over: with certificates of an organisation's own CAs
  /// some 10 KiB.
  private static let handshakeBytesMax = 64 * 1024

  private let ssl: OpaquePointer
  private let socket: UnsafeMutablePointer<TLSSocket>
  private let isServer: Bool
  private(set) var isHandshaking = true
  private var handshakeBytesLeft = TLSConnection.handshakeBytesMax
  /// How reading ended: where that came right behind bytes it waits to be told, and it is the answer to
  /// all reads after.
  private var end: Transfer?
  /// Why nothing can be written any more.
  private var writeFailure: TransportFailure?

  // MARK: Making and freeing

  /// A connection of `context` on `descriptor`, whose handshake begins as `isServer` says. nil where there
  /// is no memory.
  /// - Safety: `context` must be an SSL_CTX. The result is to be freed once, by `free`.
  @unsafe static func make(
    context: OpaquePointer, descriptor: Int32, isServer: Bool
  ) -> UnsafeMutablePointer<TLSConnection>? {
    // SSL_new: null without memory. It keeps the context alive.
    guard let ssl = unsafe SSL_new(context) else {
      TLSError.forgetAll()
      return nil
    }
    // BIO_new: null without memory.
    guard let bio = unsafe BIO_new(SocketBIO.shared.method) else {
      unsafe SSL_free(ssl)
      TLSError.forgetAll()
      return nil
    }
    let socket = UnsafeMutablePointer<TLSSocket>.allocate(capacity: 1)
    unsafe socket.initialize(to: TLSSocket(descriptor: descriptor))
    unsafe BIO_set_data(bio, socket)
    unsafe BIO_set_init(bio, 1)
    // Owned by `ssl` from here on, once for both directions.
    unsafe SSL_set_bio(ssl, bio, bio)
    if isServer { unsafe SSL_set_accept_state(ssl) } else { unsafe SSL_set_connect_state(ssl) }
    let connection = UnsafeMutablePointer<TLSConnection>.allocate(capacity: 1)
    unsafe connection.initialize(to: TLSConnection(ssl: ssl, socket: socket, isServer: isServer))
    return unsafe connection
  }

  private init(ssl: OpaquePointer, socket: UnsafeMutablePointer<TLSSocket>, isServer: Bool) {
    unsafe self.ssl = unsafe ssl
    unsafe self.socket = unsafe socket
    self.isServer = isServer
  }

  @unsafe static func free(_ connection: UnsafeMutablePointer<TLSConnection>) {
    unsafe SSL_free(connection.pointee.ssl)
    unsafe connection.pointee.socket.deallocate()
    unsafe connection.deallocate()
    TLSError.forgetAll()
  }

  /// - Safety: for what a context sets before the handshake.
  @unsafe var handle: OpaquePointer { unsafe ssl }

  // MARK: Operations

  mutating func handshake() -> Handshake {
    if case .failed(let failure) = end { return .failed(failure) }
    if !isHandshaking { return .done }
    beginOperation(reading: handshakeBytesLeft)
    // SSL_do_handshake: 1 done; 0 and below: SSL_get_error says why.
    let result = unsafe SSL_do_handshake(ssl)
    handshakeBytesLeft = unsafe socket.pointee.bytesWanted
    if result == 1 {
      isHandshaking = false
      return .done
    }
    let transfer = unfinished(result)
    switch transfer {
    case .wouldBlock(let readiness): return .wouldBlock(readiness)
    case .failed(let failure):
      end = transfer
      writeFailure = failure
      return .failed(failure)
    case .ended, .moved:
      end = .failed(.endedInHandshake)
      writeFailure = .endedInHandshake
      return .failed(.endedInHandshake)
    }
  }

  mutating func read(into buffer: UnsafeMutableRawBufferPointer) -> Transfer {
    precondition(buffer.count >= Transport.readBytesMin, "too small a buffer to read TLS into")
    if let end { return end }
    if isHandshaking {
      switch handshake() {
      case .done: break
      case .wouldBlock(let readiness): return .wouldBlock(readiness)
      case .failed(let failure): return .failed(failure)
      }
    }
    // What OpenSSL holds is less than one record, and content is shorter than its record: all of it fits.
    beginOperation(reading: buffer.count - Self.recordBytesMax)
    var count = 0
    while count < buffer.count {
      // SSL_read: the bytes of one record, 1 or more; 0 and below: SSL_get_error says why.
      let result = unsafe SSL_read(
        ssl, buffer.baseAddress.map { unsafe $0 + count }, Int32(buffer.count - count))
      if result > 0 {
        count += Int(result)
        continue
      }
      let transfer = unfinished(result)
      if case .wouldBlock = transfer {
        return count > 0 ? .moved(count) : transfer
      }
      end = transfer
      if count == 0 { return transfer }
      // It is told by the next read. A socket that is shut for reading stays readable: a
      // level-triggered poller brings the owner back.
      _ = unsafe shutdown(socket.pointee.descriptor, Int32(SHUT_RD))
      return .moved(count)
    }
    return .moved(count)
  }

  mutating func write(from buffer: UnsafeRawBufferPointer) -> Transfer {
    precondition(buffer.count > 0, "nothing to write")
    if let writeFailure { return .failed(writeFailure) }
    if isHandshaking {
      switch handshake() {
      case .done: break
      case .wouldBlock(let readiness): return .wouldBlock(readiness)
      case .failed(let failure): return .failed(failure)
      }
    }
    beginOperation(reading: 0)
    var count = 0
    while count < buffer.count {
      // At most a record at a time: OpenSSL insists on no fewer bytes when it is asked again.
      let part = Int32(min(Self.contentBytesMax, buffer.count - count))
      // SSL_write: the bytes written; 0 and below: SSL_get_error says why.
      let result = unsafe SSL_write(ssl, buffer.baseAddress.map { unsafe $0 + count }, part)
      if result > 0 {
        count += Int(result)
        continue
      }
      switch unfinished(result) {
      case .wouldBlock(let readiness):
        return count > 0 ? .moved(count) : .wouldBlock(readiness)
      case .failed(let failure):
        writeFailure = failure
        return .failed(failure)
      case .ended, .moved:
        // No such answer to a write; the socket ended.
        writeFailure = .truncated
        return .failed(.truncated)
      }
    }
    return .moved(count)
  }

  mutating func sayGoodbye() {
    guard !isHandshaking, writeFailure == nil else { return }
    if case .failed = end { return }
    writeFailure = .socket(.brokenPipe)
    beginOperation(reading: 0)
    // SSL_shutdown: 1 and 0: the alert is out; below: not, and nobody would wait for it.
    _ = unsafe SSL_shutdown(ssl)
    TLSError.forgetAll()
  }

  mutating func releaseIdleBuffers() {
    // SSL_free_buffers: 0 where a part of a record is in them.
    if !isHandshaking { _ = unsafe SSL_free_buffers(ssl) }
  }

  /// - Parameter bytes: what the BIO may take off the socket.
  private func beginOperation(reading bytes: Int) {
    TLSError.forgetAll()
    unsafe socket.pointee.bytesWanted = bytes
    unsafe socket.pointee.isEmpty = false
  }

  /// What it means that an operation answered `result`, 0 or below.
  private func unfinished(_ result: Int32) -> Transfer {
    // Valid as long as `self`.
    let socket = unsafe socket.pointee
    if let strangeBytes = socket.strangeBytes { return failed(.notTLS(strangeBytes)) }
    switch unsafe SSL_get_error(ssl, result) {
    case SSL_ERROR_WANT_READ:
      if isHandshaking && handshakeBytesLeft == 0 { return failed(.handshakeTooLarge) }
      return .wouldBlock(.readable)
    case SSL_ERROR_WANT_WRITE: return .wouldBlock(.writable)
    // The peer's close_notify.
    case SSL_ERROR_ZERO_RETURN: return .ended
    default:
      if socket.error != 0 { return failed(.socket(Errno(code: socket.error))) }
      if socket.hasEnded { return failed(isHandshaking ? .endedInHandshake : .truncated) }
      // SSL_get_verify_result: X509_V_OK is 0.
      return .failed(.tls(.take(verification: unsafe SSL_get_verify_result(ssl))))
    }
  }

  private func failed(_ failure: TransportFailure) -> Transfer {
    TLSError.forgetAll()
    return .failed(failure)
  }

  // MARK: What the handshake found out

  var hasChosenHTTP2: Bool {
    var name: UnsafePointer<UInt8>?
    var count: UInt32 = 0
    // SSL_get0_alpn_selected: null and 0 where nothing was chosen; the name is the session's.
    unsafe SSL_get0_alpn_selected(ssl, &name, &count)
    guard let name = unsafe name, count == 2 else { return false }
    return unsafe name[0] == UInt8(ascii: "h") && name[1] == UInt8(ascii: "2")
  }

  // SSL_session_reused: 1 or 0.
  var isResumed: Bool { unsafe SSL_session_reused(ssl) == 1 }

  // SSL_version: the number on the wire.
  var version: UInt16 { UInt16(truncatingIfNeeded: unsafe SSL_version(ssl)) }

  var peerSubject: PeerSubject? {
    // SSL_get_verify_result is X509_V_OK also without a certificate. SSL_get0_peer_certificate: null
    // where there is none; it is the session's.
    guard !isHandshaking, unsafe SSL_get_verify_result(ssl) == Int(X509_V_OK),
      let certificate = unsafe SSL_get0_peer_certificate(ssl)
    else { return nil }
    return unsafe PeerSubject(certificate: certificate)
  }
}

/// What the BIO of a connection knows. It has an address of its own: OpenSSL calls the BIO while an
/// operation on the connection is under way, and no memory may be changed by two at once.
private struct TLSSocket: BitwiseCopyable {
  let descriptor: Int32
  /// Bytes that this operation may still take off the socket.
  var bytesWanted = 0
  /// The last read took all that the kernel had: asking again in the same operation costs a system call
  /// for nothing.
  var isEmpty = false
  var hasEnded = false
  /// errno of what failed, or 0.
  var error: Int32 = 0
  /// Some bytes have come.
  private var hasBegun = false
  /// The first of them are not TLS.
  private(set) var strangeBytes: FirstBytes?

  init(descriptor: Int32) { self.descriptor = descriptor }

  /// - Returns: as BIO_read(3): the bytes, 0 at the end, -1 where it failed or would block.
  mutating func receive(into buffer: UnsafeMutableRawBufferPointer, _ bio: OpaquePointer) -> Int32 {
    unsafe hf_bio_clear_retry(bio)
    let most = min(buffer.count, bytesWanted)
    if most == 0 || isEmpty {
      unsafe hf_bio_retry_read(bio)
      return -1
    }
    let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[..<most])
    switch unsafe FileDescriptor.read(descriptor, into: part) {
    case .moved(0):
      hasEnded = true
      return 0
    case .moved(let count):
      isEmpty = count < most
      bytesWanted -= count
      if !hasBegun {
        hasBegun = true
        let bytes = unsafe FirstBytes(UnsafeRawBufferPointer(rebasing: part[..<count]))
        // OpenSSL would answer them with an alert, which only TLS understands.
        if bytes != .tls {
          strangeBytes = bytes
          return -1
        }
      }
      return Int32(truncatingIfNeeded: count)
    case .wouldBlock:
      isEmpty = true
      unsafe hf_bio_retry_read(bio)
      return -1
    case .failed(let failure):
      error = failure.code
      return -1
    }
  }

  /// - Returns: as BIO_write(3): the bytes, -1 where it failed or would block.
  mutating func send(_ bytes: UnsafeRawBufferPointer, _ bio: OpaquePointer) -> Int32 {
    unsafe hf_bio_clear_retry(bio)
    switch unsafe FileDescriptor.send(descriptor, from: bytes) {
    case .moved(let count): return Int32(truncatingIfNeeded: count)
    case .wouldBlock:
      unsafe hf_bio_retry_write(bio)
      return -1
    case .failed(let failure):
      error = failure.code
      return -1
    }
  }
}

/// The kind of BIO that all connections have.
@safe private struct SocketBIO: @unchecked Sendable {
  /// nil where there was no memory for it. Never changed once it is made, and never freed.
  let method: OpaquePointer?

  static let shared = SocketBIO()

  private init() {
    // BIO_get_new_index: -1 where all are used up. BIO_meth_new: null without memory.
    let type = BIO_get_new_index() | BIO_TYPE_SOURCE_SINK
    guard let method = unsafe BIO_meth_new(type, "socket") else {
      unsafe self.method = nil
      return
    }
    unsafe BIO_meth_set_read(method) { bio, buffer, count in
      guard let bio = unsafe bio, let buffer = unsafe buffer, count > 0 else { return -1 }
      return unsafe SocketBIO.socket(bio).pointee.receive(
        into: UnsafeMutableRawBufferPointer(start: buffer, count: Int(count)), bio)
    }
    unsafe BIO_meth_set_write(method) { bio, buffer, count in
      guard let bio = unsafe bio, let buffer = unsafe buffer, count > 0 else { return -1 }
      return unsafe SocketBIO.socket(bio).pointee.send(
        UnsafeRawBufferPointer(start: buffer, count: Int(count)), bio)
    }
    // BIO_ctrl: 1 for a flush, of which there is nothing to do; 0 for all that it does not know.
    unsafe BIO_meth_set_ctrl(method) { _, command, _, _ in command == BIO_CTRL_FLUSH ? 1 : 0 }
    unsafe self.method = unsafe method
  }

  /// - Safety: `bio` must have been made by `TLSConnection.make`.
  @unsafe private static func socket(_ bio: OpaquePointer) -> UnsafeMutablePointer<TLSSocket> {
    // Set before the BIO is used, and valid until it is freed.
    unsafe BIO_get_data(bio).assumingMemoryBound(to: TLSSocket.self)
  }
}
