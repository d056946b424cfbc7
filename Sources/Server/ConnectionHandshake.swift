// What TLS needs besides reading and writing: the handshake and its failures, and memory given back.
internal import GRPC
internal import Metrics
internal import Posix

extension ConnectionIO {
  /// A step of a handshake takes up to a millisecond, mostly for a signature: a crowd of newcomers must
  /// not keep the loop from the calls of the others.
  static let handshakesPerTurnMax = 8

  /// How long a connection has to be silent until its memory for records is given back.
  private static let idleNanoseconds: Int64 = 1_000_000_000

  /// Goes on with a connection's handshake. True where it is over, and the connection can be read.
  func handshake(_ index: Int, at nowNanoseconds: Int64) -> Bool {
    // The poller tells of it again.
    if handshakesLeft == 0 { return false }
    handshakesLeft -= 1
    switch connections[index].transport.handshake() {
    case .done:
      read(index, onceWritable: false)
      keepCertificate(index)
      return connections[index].descriptor >= 0
    case .wouldBlock(let readiness):
      read(index, onceWritable: readiness == .writable)
    case .failed(let failure):
      handshakeFailed(index, failure, at: nowNanoseconds)
    }
    return false
  }

  private func handshakeFailed(_ index: Int, _ failure: TransportFailure, at nowNanoseconds: Int64)
  {
    let peer = connections[index].peer
    switch failure {
    // Whoever only looks whether the port is open does so.
    case .socket, .endedInHandshake: return close(index)
    case .notTLS(let bytes):
      metrics.abuse(.plaintextOnTLS)
      notices.note(.plaintextOnTLS, peer, failure)
      connections[index].transport.answerInTheClear(bytes.answerOfTLSPort)
    case .truncated, .handshakeTooLarge, .tls:
      metrics.abuse(.tlsHandshake)
      notices.note(.handshakeFailed, peer, failure)
    }
    // The peer reads why: TLS has sent an alert.
    read(index, onceWritable: false)
    linger(index, at: nowNanoseconds)
  }

  private func keepCertificate(_ index: Int) {
    guard connections[index].descriptor >= 0,
      let subject = connections[index].transport.peerSubject,
      let name = subject.withName({ CertificateName($0) })
    else { return }
    let kept = UnsafeMutablePointer<CertificateName>.allocate(capacity: 1)
    unsafe kept.initialize(to: name)
    // A handshake ends once.
    unsafe connections[index].certificate = unsafe kept
  }

  /// Gives back what TLS keeps for the records of a connection that is silent.
  func releaseIfIdle(_ index: Int, at nowNanoseconds: Int64) {
    guard connections[index].transport.isTLS else { return }
    let active = max(
      connections[index].readNanoseconds, connections[index].progressNanoseconds)
    guard connections[index].releasedNanoseconds <= active,
      nowNanoseconds - active >= Self.idleNanoseconds
    else { return }
    connections[index].releasedNanoseconds = nowNanoseconds
    connections[index].transport.releaseIdleBuffers()
  }
}
