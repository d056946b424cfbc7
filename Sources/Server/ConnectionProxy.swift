// Connections that come through a proxy which says whose they are (PROXY protocol).
internal import Metrics
internal import Posix

extension ConnectionIO {
  /// Goes on with a connection's header. True where it is whole, and what is behind it can be read.
  func readProxyHeader(_ index: Int, at nowNanoseconds: Int64) -> Bool {
    while true {
      let header = proxyHeaders[index, default: ProxyHeader()]
      guard case .needs(let count) = header.progress else {
        preconditionFailure("a header that has ended is not read on")
      }
      switch readHeaderBytes(index, count) {
      case .moved(0), .failed:
        close(index)
        return false
      case .moved(let count):
        metrics.received(bytes: count)
        connections[index].readNanoseconds = nowNanoseconds
      case .wouldBlock: return false
      }
      switch proxyHeaders[index, default: ProxyHeader()].progress {
      case .needs: continue
      case .whole(let address): return identify(index, address)
      case .malformed:
        metrics.abuse(.proxyHeader)
        notices.note(.proxyHeader, PeerAddress(ofPeerOf: connections[index].descriptor))
        close(index)
        return false
      }
    }
  }

  /// Reads up to `count` bytes of the header, and nothing behind it: that may be TLS's.
  private func readHeaderBytes(_ index: Int, _ count: Int) -> IOResult {
    unsafe withUnsafeTemporaryAllocation(byteCount: count, alignment: 1) { buffer in
      let result = unsafe FileDescriptor.read(connections[index].descriptor, into: buffer)
      if case .moved(let count) = result {
        // The kernel has written that many.
        let bytes = unsafe buffer.bindMemory(to: UInt8.self)
        let taken = unsafe bytes.span.extracting(first: count)
        _ = proxyHeaders[index, default: ProxyHeader()].take(taken)
      }
      return result
    }
  }

  /// The header is whole: the connection counts as one of the client's. False where that has too many.
  private func identify(_ index: Int, _ address: PeerAddress?) -> Bool {
    proxyHeaders[index] = nil
    connections[index].awaitsProxyHeader = false
    let peer = address ?? PeerAddress(ofPeerOf: connections[index].descriptor)
    guard peers.admit(peer) else {
      metrics.connectionRefused(.perPeerLimit)
      close(index)
      return false
    }
    connections[index].peer = peer
    beginTLS(index)
    return connections[index].descriptor >= 0
  }
}
