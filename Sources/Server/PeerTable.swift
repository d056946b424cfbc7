internal import Posix
internal import Synchronization

/// How many connections each peer has, over all loops. Asked when a connection comes and when it goes. Those
/// over a unix socket are not counted: nothing tells one peer from the other.
final class PeerTable: Sendable {
  private let connectionsMax: Int
  private let exemptsLoopback: Bool
  /// The kernel knows only the proxy; the header tells later.
  private let readsProxyHeaders: Bool
  private let counts = Mutex<[PeerAddress: Int]>([:])

  init(_ policy: ConnectionPolicy) {
    connectionsMax = policy.perPeerMax
    exemptsLoopback = policy.exemptsLoopback
    readsProxyHeaders = policy.readsProxyHeaders
  }

  /// Whose connection it is, as far as that is known when it is accepted.
  func address(ofAccepted descriptor: Int32) -> PeerAddress {
    readsProxyHeaders ? .local : PeerAddress(ofPeerOf: descriptor)
  }

  /// Counts one more connection of a peer; false where it has as many as it may have.
  func admit(_ address: PeerAddress) -> Bool {
    guard isCounted(address) else { return true }
    return counts.withLock { counts in
      let count = counts[address.subscriber, default: 0]
      guard count < connectionsMax else { return false }
      counts[address.subscriber] = count + 1
      return true
    }
  }

  /// A connection that was admitted is gone.
  func release(_ address: PeerAddress) {
    guard isCounted(address) else { return }
    counts.withLock { counts in
      let count = counts[address.subscriber, default: 0]
      counts[address.subscriber] = count > 1 ? count - 1 : nil
    }
  }

  private func isCounted(_ address: PeerAddress) -> Bool {
    connectionsMax < Int.max && address != .local && !(exemptsLoopback && address.isLoopback)
  }
}
