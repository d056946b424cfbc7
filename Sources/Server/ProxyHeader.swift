// The PROXY protocol, version 2 ("The PROXY protocol, versions 1 & 2", HAProxy, section 2.2): the header
// with which a proxy begins a connection, ahead of TLS, to say where its client comes from.
internal import Posix

/// Reads a header piece by piece. It says how many bytes it may be given, so
/// that none of those behind the header are taken off the socket.
struct ProxyHeader {
  enum Progress: Equatable {
    /// It is not whole: up to so many bytes more, at least one.
    case needs(Int)
    /// It is whole. nil: it names no address of IP, and the connection comes from whom the kernel says
    /// (the proxy's own connections, and clients of a unix socket).
    case whole(PeerAddress?)
    case malformed
  }

  private static let signature: [UInt8] = Array("\r\n\r\n\0\r\nQUIT\n".utf8)
  /// Signature, version and command, family, and the length of the rest.
  private static let headBytes = 16
  /// The addresses and ports of IPv6; what comes behind them is skipped.
  private static let keptBytesMax = headBytes + 36
  /// Extensions (TLVs) carry names and checksums, a client's certificate at the most.
  static let restBytesMax = 4096

  private var kept: [UInt8] = []
  private var skipped = 0

  /// Takes the next bytes of the connection, no more than were wanted.
  mutating func take(_ bytes: Span<UInt8>) -> Progress {
    for index in bytes.indices {
      if kept.count < Self.keptBytesMax { kept.append(bytes[index]) } else { skipped += 1 }
    }
    return progress
  }

  /// What was taken so far.
  var progress: Progress {
    // Whoever speaks something else need not wait for its end.
    guard kept.starts(with: Self.signature.prefix(kept.count)) else { return .malformed }
    if kept.count > 12, kept[12] != 0x20, kept[12] != 0x21 { return .malformed }
    guard kept.count >= Self.headBytes else { return .needs(Self.headBytes - kept.count) }
    let length = Int(kept[14]) << 8 | Int(kept[15])
    guard length <= Self.restBytesMax, let addressBytes, addressBytes <= length else {
      return .malformed
    }
    let left = Self.headBytes + length - kept.count - skipped
    precondition(left >= 0, "no bytes from behind the header")
    return left > 0 ? .needs(left) : .whole(source)
  }

  /// PROXY, as against LOCAL: the family counts.
  private var namesClient: Bool { kept[12] == 0x21 }

  /// The bytes of the family's addresses and ports; nil for what is no stream.
  private var addressBytes: Int? {
    guard namesClient else { return 0 }
    switch kept[13] {
    case 0x00: return 0
    case 0x11: return 12
    case 0x21: return 36
    case 0x31: return 216
    default: return nil
    }
  }

  /// The client's address, which stands first.
  private var source: PeerAddress? {
    guard namesClient else { return nil }
    switch kept[13] {
    case 0x11: return PeerAddress(ipv4: UInt32(truncatingIfNeeded: number(at: 16, bytes: 4)))
    case 0x21: return PeerAddress(high: number(at: 16, bytes: 8), low: number(at: 24, bytes: 8))
    default: return nil
    }
  }

  /// In network order.
  private func number(at start: Int, bytes: Int) -> UInt64 {
    kept[start..<start + bytes].reduce(0) { $0 << 8 | UInt64($1) }
  }
}

// MARK: - Writing

extension ProxyHeader {
  /// The header of a connection that is passed on: whose it is, and where it came in.
  /// - Parameter connection: the client's socket. Of one that is no more, or of a unix socket, the header names
  ///   nobody (LOCAL).
  static func bytes(passingOn connection: Int32) -> [UInt8] {
    let client = PeerAddress(ofPeerOf: connection)
    let here = PeerAddress(ofThisSideOf: connection)
    guard client != .local, here != .local, let clientPort = try? Socket.peerPort(connection),
      let port = try? Socket.localPort(connection)
    else { return bytes(command: 0x20, family: 0x00, []) }
    let ports = bigEndian(clientPort) + bigEndian(port)
    guard let client4 = client.ipv4, let here4 = here.ipv4 else {
      let addresses = [client.high, client.low, here.high, here.low].flatMap(bigEndian)
      return bytes(command: 0x21, family: 0x21, addresses + ports)
    }
    return bytes(command: 0x21, family: 0x11, bigEndian(client4) + bigEndian(here4) + ports)
  }

  private static func bytes(command: UInt8, family: UInt8, _ rest: [UInt8]) -> [UInt8] {
    signature + [command, family] + bigEndian(UInt16(rest.count)) + rest
  }

  private static func bigEndian<Number: FixedWidthInteger>(_ number: Number) -> [UInt8] {
    stride(from: Number.bitWidth - 8, through: 0, by: -8).map {
      UInt8(truncatingIfNeeded: number >> Number($0))
    }
  }
}
