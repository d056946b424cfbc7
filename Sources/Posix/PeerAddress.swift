internal import Glibc

/// The IP address of a connection's other side. One of IPv4 counts as the IPv6 address that it maps to
/// (RFC 4291 section 2.5.5.2), since a socket of IPv6 shows it so.
package struct PeerAddress: Hashable, Sendable {
  /// The address in network order, its first eight bytes and its last.
  package let high: UInt64
  package let low: UInt64

  /// The machine itself, by another way than IP: a unix socket. No peer has this address of IP, which is
  /// the unspecified one.
  package static let local = PeerAddress(high: 0, low: 0)

  package init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  /// An address of IPv4, in host order.
  package init(ipv4: UInt32) {
    self.init(high: 0, low: 0xffff << 32 | UInt64(ipv4))
  }

  /// Of the peer of a connected socket; `local` where it is none of IP, or gone already.
  package init(ofPeerOf descriptor: Int32) {
    self = unsafe Self.end { unsafe getpeername(descriptor, $0, $1) }
  }

  /// Of this side of a connected socket, likewise.
  package init(ofThisSideOf descriptor: Int32) {
    self = unsafe Self.end { unsafe getsockname(descriptor, $0, $1) }
  }

  private static func end(
    _ ask: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32
  ) -> PeerAddress {
    var storage = sockaddr_storage()
    var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
    let result = unsafe withUnsafeMutablePointer(to: &storage) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe ask($0, &length)
      }
    }
    // ip(7) and ipv6(7): the address stands at offset 4, or at offset 8, in network order.
    let family = Int32(storage.ss_family)
    let address = unsafe withUnsafeBytes(of: &storage) { bytes -> PeerAddress in
      switch family {
      case AF_INET:
        PeerAddress(
          ipv4: UInt32(bigEndian: unsafe bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self)))
      case AF_INET6:
        PeerAddress(
          high: UInt64(bigEndian: unsafe bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)),
          low: UInt64(bigEndian: unsafe bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self)))
      default: .local
      }
    }
    return result == 0 ? address : .local
  }

  /// The address in text; of IPv4 as four numbers.
  package var text: String {
    if let ipv4 {
      return (0..<4).map { "\(ipv4 >> UInt32(24 - 8 * $0) & 0xff)" }.joined(separator: ".")
    }
    if self == .local { return "this machine" }
    var address = in6_addr()
    unsafe withUnsafeMutableBytes(of: &address) { bytes in
      unsafe bytes.storeBytes(of: high.bigEndian, toByteOffset: 0, as: UInt64.self)
      unsafe bytes.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
    }
    var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
    // inet_ntop: null for lengths that are too small.
    guard unsafe inet_ntop(AF_INET6, &address, &text, socklen_t(text.count)) != nil else {
      return "?"
    }
    return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  /// In host order; nil of IPv6.
  package var ipv4: UInt32? {
    high == 0 && low >> 32 == 0xffff ? UInt32(truncatingIfNeeded: low) : nil
  }

  /// 127.0.0.0/8, ::1, or a unix socket.
  package var isLoopback: Bool {
    if let ipv4 { return ipv4 >> 24 == 127 }
    return high == 0 && low <= 1
  }

  /// What counts as one peer: an address of IPv4, or a /64 of IPv6, of which every host has a whole one.
  package var subscriber: PeerAddress {
    ipv4 != nil || isLoopback ? self : PeerAddress(high: high, low: 0)
  }
}
