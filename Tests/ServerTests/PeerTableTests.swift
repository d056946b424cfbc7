import Posix
import Testing

@testable import Server

@Suite("Connections of one peer")
struct PeerTableTests {
  private func table(_ most: Int, exemptsLoopback: Bool = true) -> PeerTable {
    var policy = ConnectionPolicy()
    policy.perPeerMax = most
    policy.exemptsLoopback = exemptsLoopback
    return PeerTable(policy)
  }

  private static func six(_ high: UInt64, _ low: UInt64) -> PeerAddress {
    PeerAddress(high: high, low: low)
  }

  @Test("A peer has so many, and another as soon as one goes")
  func limit() {
    let table = table(2)
    let peer = PeerAddress(ipv4: 0xc000_0201)
    #expect(table.admit(peer) && table.admit(peer))
    #expect(!table.admit(peer))
    #expect(table.admit(PeerAddress(ipv4: 0xc000_0202)))
    table.release(peer)
    #expect(table.admit(peer))
    #expect(!table.admit(peer))
  }

  @Test("A refused one is not counted, and one too many that goes does no harm")
  func accounts() {
    let table = table(1)
    let peer = PeerAddress(ipv4: 0xc000_0201)
    #expect(table.admit(peer))
    for _ in 0..<3 { #expect(!table.admit(peer)) }
    table.release(peer)
    table.release(peer)
    #expect(table.admit(peer))
    #expect(!table.admit(peer))
  }

  @Test(
    "Who counts as the same peer",
    arguments: [
      (PeerAddress(ipv4: 0xc000_0201), PeerAddress(ipv4: 0xc000_0202), false),
      (six(0x2001_0db8_0000_0001, 1), six(0x2001_0db8_0000_0001, 2), true),
      (six(0x2001_0db8_0000_0001, 1), six(0x2001_0db8_0000_0002, 1), false),
      // An address of IPv4, as a socket of IPv6 shows it.
      (PeerAddress(ipv4: 0xc000_0201), six(0, 0xffff_c000_0201), true),
    ])
  func samePeer(one: PeerAddress, other: PeerAddress, isSame: Bool) {
    let table = table(1)
    #expect(table.admit(one))
    #expect(table.admit(other) == !isSame)
  }

  @Test(
    "Peers on the machine itself", arguments: [true, false],
    [PeerAddress(ipv4: 0x7f00_0001), PeerAddress(ipv4: 0x7fff_fffe), six(0, 1), .local])
  func loopback(exemptsLoopback: Bool, peer: PeerAddress) {
    let table = table(1, exemptsLoopback: exemptsLoopback)
    #expect(peer.isLoopback)
    #expect(table.admit(peer))
    // Those over a unix socket are never counted.
    #expect(table.admit(peer) == (exemptsLoopback || peer == .local))
  }

  @Test(
    "Addresses that are not the machine's own",
    arguments: [
      PeerAddress(ipv4: 0x8000_0001), PeerAddress(ipv4: 0x7eff_ffff), PeerAddress(ipv4: 0),
      six(0, 2), six(1, 1), six(0xfe80_0000_0000_0000, 1),
    ])
  func notLoopback(peer: PeerAddress) { #expect(!peer.isLoopback) }

  @Test("Without a limit nobody is counted")
  func unlimited() {
    let table = table(.max)
    for _ in 0..<1000 { #expect(table.admit(PeerAddress(ipv4: 0xc000_0201))) }
  }
}
