// What a connection's bytes go through: the socket alone, or TLS on it. The one place where a program
// asks which; server and load generator see bytes.
internal import Glibc

/// Which readiness of the socket an operation waits for. TLS may have to write before it can read, and the
/// reverse (RFC 8446, section 4.6.3: a key update wants an answer).
package enum Readiness: Equatable, Sendable {
  case readable
  case writable
}

/// What a read or a write did.
package enum Transfer: Equatable, Sendable {
  /// So many bytes moved, 1 or more.
  case moved(Int)
  /// None moved: try again once the socket is ready for this.
  case wouldBlock(Readiness)
  /// Reading only: the peer has ended its side as it should.
  case ended
  /// The connection is of no more use.
  case failed(TransportFailure)
}

/// Why a connection is of no more use.
package enum TransportFailure: Error, Equatable, Sendable, CustomStringConvertible {
  case socket(Errno)
  /// The peer ended its side during the handshake.
  case endedInHandshake
  /// The peer ended its side without TLS's close_notify (RFC 8446, section 6.1). Many gRPC clients do;
  /// HTTP/2 has lengths of its own, so nothing can be cut off unseen.
  case truncated
  /// The first bytes are not TLS; what they look like.
  case notTLS(FirstBytes)
  /// The peer spends more bytes on its handshake than any honest one.
  case handshakeTooLarge
  case tls(TLSError)

  package var description: String {
    switch self {
    case .socket(let error): error.description
    case .endedInHandshake: "the peer ended the connection in the TLS handshake"
    case .truncated: "the peer ended the connection without TLS's close_notify"
    case .notTLS(let bytes): "the peer does not speak TLS, but \(bytes)"
    case .handshakeTooLarge: "the peer's TLS handshake is too large"
    case .tls(let error): error.description
    }
  }
}

/// How a handshake stands.
package enum Handshake: Equatable, Sendable {
  /// Over. The peer's first bytes may have come with its end: read at once, not only when the socket is
  /// readable again.
  case done
  case wouldBlock(Readiness)
  case failed(TransportFailure)
}

/// One connection's way for bytes. A handle without reference counting: its owner closes it exactly once,
/// and uses no copy of it afterwards. Confined to one thread at a time.
///
/// - Plain, each operation is one system call. TLS reads the socket at most once more than there are
///   16 KiB of it, and writes once for every 16 KiB.
/// - What TLS could not write is encrypted already: after `.wouldBlock`, or where fewer bytes moved than
///   were offered, the next write has to begin with the same bytes as the rest of this one, and may have
///   more behind them. They may have been moved in memory.
/// - A read takes all that TLS holds, so that no bytes are left in it of which the socket says nothing.
@safe package struct Transport: BitwiseCopyable {
  /// The socket's number; -1 without one.
  package private(set) var descriptor: Int32
  /// nil: plain. Otherwise the handle's own; freed by `close`.
  private var tls: UnsafeMutablePointer<TLSConnection>?

  /// A buffer for `read` has so many bytes at least where TLS may be in use: what TLS may hold, a whole
  /// record but for its last byte, and as much again from the socket.
  package static let readBytesMin = 2 * TLSConnection.recordBytesMax

  /// No connection.
  package static var none: Transport { Transport(plain: -1) }

  /// Owns `descriptor`, a non-blocking socket, from here on.
  package init(plain descriptor: Int32) {
    self.descriptor = descriptor
    unsafe tls = nil
  }

  /// Owns `tls` and its descriptor.
  @unsafe init(tls: UnsafeMutablePointer<TLSConnection>, descriptor: Int32) {
    self.descriptor = descriptor
    unsafe self.tls = unsafe tls
  }

  package var isTLS: Bool { unsafe tls != nil }

  /// There is a handshake, and it is not over: `handshake` is to be called whenever the socket is ready.
  package var isHandshaking: Bool {
    guard let tls = unsafe tls else { return false }
    return unsafe tls.pointee.isHandshaking
  }

  /// Goes on with the handshake; plain, that is over.
  package func handshake() -> Handshake {
    guard let tls = unsafe tls else { return .done }
    return unsafe tls.pointee.handshake()
  }

  /// Reads what is there, up to the size of `buffer`.
  package func read(into buffer: UnsafeMutableRawBufferPointer) -> Transfer {
    if let tls = unsafe tls { return unsafe tls.pointee.read(into: buffer) }
    switch unsafe FileDescriptor.read(descriptor, into: buffer) {
    case .moved(0): return .ended
    case .moved(let count): return .moved(count)
    case .wouldBlock: return .wouldBlock(.readable)
    case .failed(let error): return .failed(.socket(error))
    }
  }

  /// Writes what the socket takes of `buffer`, which has one byte at least.
  package func write(from buffer: UnsafeRawBufferPointer) -> Transfer {
    if let tls = unsafe tls { return unsafe tls.pointee.write(from: buffer) }
    switch unsafe FileDescriptor.send(descriptor, from: buffer) {
    case .moved(let count): return .moved(count)
    case .wouldBlock: return .wouldBlock(.writable)
    case .failed(let error): return .failed(.socket(error))
    }
  }

  /// Reads bytes off the socket for nothing: after `endSending`, until the peer ends its side. Closing
  /// while bytes are unread is a reset, which takes away what the peer has not read yet.
  package func discard(into buffer: UnsafeMutableRawBufferPointer) -> IOResult {
    unsafe FileDescriptor.read(descriptor, into: buffer)
  }

  /// Answers a peer whose first bytes are not TLS, where the handshake found that out: in the clear, before
  /// the connection is ended. What the kernel does not take at once is not sent.
  package func answerInTheClear(_ answer: StaticString) {
    precondition(isHandshaking, "nothing is sent in the clear once there is TLS")
    let count = answer.utf8CodeUnitCount
    if count == 0 { return }
    // A constant of that length.
    _ = unsafe FileDescriptor.send(
      descriptor, from: UnsafeRawBufferPointer(start: answer.utf8Start, count: count))
  }

  /// Says that nothing more will be sent: close_notify where there is TLS, then FIN.
  package func endSending() {
    if let tls = unsafe tls { unsafe tls.pointee.sayGoodbye() }
    Socket.endSending(descriptor)
  }

  /// Gives back the memory that TLS keeps for records, some 34 KiB, unless it holds part of one. It comes
  /// back with the next byte: for connections that have been silent for a while.
  package func releaseIdleBuffers() {
    if let tls = unsafe tls { unsafe tls.pointee.releaseIdleBuffers() }
  }

  /// Ends and frees everything, once. Says close_notify where that was not said and the kernel takes it.
  package mutating func close() {
    precondition(descriptor >= 0, "a transport is closed once")
    if let tls = unsafe tls {
      unsafe tls.pointee.sayGoodbye()
      unsafe TLSConnection.free(tls)
    }
    FileDescriptor.close(number: descriptor)
    self = .none
  }
}

// MARK: What a handshake found out

extension Transport {
  /// The handshake chose HTTP/2 (ALPN, RFC 7301); false also where nobody spoke of protocols.
  package var hasChosenHTTP2: Bool {
    guard let tls = unsafe tls else { return false }
    return unsafe tls.pointee.hasChosenHTTP2
  }

  /// The handshake went on from an earlier session: no certificates were sent or checked.
  package var isResumed: Bool {
    guard let tls = unsafe tls else { return false }
    return unsafe tls.pointee.isResumed
  }

  /// The TLS version's number on the wire, 0x0303 or 0x0304; nil where it is plain.
  package var tlsVersion: UInt16? {
    guard let tls = unsafe tls else { return nil }
    return unsafe tls.pointee.version
  }

  /// Who the peer's verified certificate says that it is: see `PeerSubject`. nil without a certificate,
  /// before the handshake is over, or where none of its names can be used.
  package var peerSubject: PeerSubject? {
    guard let tls = unsafe tls else { return nil }
    return unsafe tls.pointee.peerSubject
  }
}
