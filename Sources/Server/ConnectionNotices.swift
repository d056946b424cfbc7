// What the operator should hear of connections that did not come about. The loops write no log: they leave
// a note here, and another thread takes them now and then.
package import Posix
internal import Synchronization

/// Something about connections that is worth a line in the log.
package struct ConnectionNotice: Sendable {
  package enum Kind: Int, Sendable, CaseIterable {
    /// A client without TLS came to a port with TLS.
    case plaintextOnTLS
    /// A client with TLS came to a port without.
    case tlsOnPlaintext
    /// A TLS handshake failed in another way.
    case handshakeFailed
    /// A connection did not begin as the PROXY protocol does.
    case proxyHeader
  }

  package let kind: Kind
  /// How often since it was last told.
  package var count: Int
  /// The last one's peer, and why it failed where the kind alone does not say it.
  package var peer: PeerAddress
  package var failure: TransportFailure?
}

/// Collects what all loops note.
package final class ConnectionNotices: Sendable {
  private let notices = Mutex<[ConnectionNotice]>([])

  package init() {}

  /// Any thread; allocates where it is the first of its kind.
  func note(
    _ kind: ConnectionNotice.Kind, _ peer: PeerAddress, _ failure: TransportFailure? = nil
  ) {
    notices.withLock { notices in
      guard let index = notices.firstIndex(where: { $0.kind == kind }) else {
        notices.append(ConnectionNotice(kind: kind, count: 1, peer: peer, failure: failure))
        return
      }
      notices[index].count += 1
      notices[index].peer = peer
      notices[index].failure = failure
    }
  }

  /// What was noted since the last call, of the kinds that `isDue` wants to hear of now; the rest stays.
  package func take(
    where isDue: (ConnectionNotice.Kind) -> Bool
  ) -> [ConnectionNotice] {
    notices.withLock { notices in
      let taken = notices.filter { isDue($0.kind) }
      notices.removeAll { isDue($0.kind) }
      return taken
    }
  }
}
