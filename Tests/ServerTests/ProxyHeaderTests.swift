import Posix
import Testing

@testable import Server

@Suite("PROXY protocol")
struct ProxyHeaderTests {
  private static let signature = Array("\r\n\r\n\0\r\nQUIT\n".utf8)
  private static let four: [UInt8] = [192, 0, 2, 1, 10, 0, 0, 1, 0x9c, 0x40, 0x1c, 0xfc]
  private static let six: [UInt8] =
    [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] + [UInt8](repeating: 9, count: 20)

  static func header(_ command: UInt8, _ family: UInt8, _ rest: [UInt8]) -> [UInt8] {
    signature + [command, family, UInt8(rest.count >> 8), UInt8(rest.count & 255)] + rest
  }

  /// Gives a header bytes as it wants them, `step` at most at a time: how it ended, and what it took.
  private func read(_ bytes: [UInt8], step: Int) -> (end: ProxyHeader.Progress, taken: Int) {
    var header = ProxyHeader()
    var taken = 0
    while case .needs(let count) = header.progress, taken < bytes.count {
      let next = bytes[taken..<min(bytes.count, taken + min(count, step))]
      taken += next.count
      _ = header.take(next.span)
    }
    return (header.progress, taken)
  }

  static let wholeHeaders: [(header: [UInt8], peer: PeerAddress?)] = [
    (header(0x21, 0x11, four), PeerAddress(ipv4: 0xc000_0201)),
    (header(0x21, 0x11, four + [4, 0, 1, 0]), PeerAddress(ipv4: 0xc000_0201)),
    (
      header(0x21, 0x11, four + [UInt8](repeating: 7, count: 4096 - 12)),
      PeerAddress(ipv4: 0xc000_0201)
    ),
    (header(0x21, 0x21, six), PeerAddress(high: 0x2001_0db8_0000_0000, low: 1)),
    (header(0x21, 0x31, [UInt8](repeating: 0x61, count: 216)), nil),
    (header(0x21, 0x00, []), nil),
    (header(0x21, 0x00, [1, 2, 3]), nil),
    (header(0x20, 0x00, []), nil),
    (header(0x20, 0x11, four), nil),
    (header(0x20, 0xff, [1]), nil),
  ]

  @Test(
    "Headers that are whole, in pieces of any size", arguments: wholeHeaders.indices,
    [1, 5, 16, 5000])
  func whole(index: Int, step: Int) {
    let (header, peer) = Self.wholeHeaders[index]
    // What is behind it is not touched.
    let (end, taken) = read(header + [0x16, 3, 1], step: step)
    #expect(end == .whole(peer))
    #expect(taken == header.count)
  }

  @Test("A header that is cut off wants the rest", arguments: wholeHeaders.indices)
  func cutOff(index: Int) {
    let header = Self.wholeHeaders[index].header
    // Every byte up to the addresses, and some of a long rest.
    let counts = Array(0..<min(header.count, 64)) + stride(from: 64, to: header.count, by: 97)
    for count in counts {
      let (end, taken) = read(Array(header.prefix(count)), step: 1)
      guard case .needs(let more) = end else {
        Issue.record("\(end) after \(count) bytes")
        return
      }
      #expect(taken == count && more == (count < 16 ? 16 : header.count) - count)
    }
  }

  /// And how many bytes tell.
  static let malformedHeaders: [(bytes: [UInt8], count: Int)] = [
    (Array("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".utf8), 1), (Array("PRI * HTTP/2.0\r\n".utf8), 1),
    ([0x16, 3, 1, 0, 100], 1), (signature.dropLast() + [0x0b, 0x21, 0, 0, 0], 12),
    (header(0x11, 0x11, four), 13), (header(0x22, 0x11, four), 13), (header(0xff, 0x11, four), 13),
    (header(0x21, 0x11, Array(four.dropLast())), 16), (header(0x21, 0x21, four), 16),
    (header(0x21, 0x31, [UInt8](repeating: 1, count: 215)), 16), (header(0x21, 0x11, []), 16),
    (header(0x21, 0x12, four), 16), (header(0x21, 0x22, six), 16), (header(0x21, 0x10, four), 16),
    (header(0x21, 0x41, six), 16), (header(0x21, 0x00, [UInt8](repeating: 0, count: 4097)), 16),
    (header(0x20, 0x00, [UInt8](repeating: 0, count: 65_535)), 16),
  ]

  @Test("What is no header is told by its first wrong byte", arguments: malformedHeaders.indices)
  func malformed(index: Int) {
    let (bytes, count) = Self.malformedHeaders[index]
    let (end, taken) = read(bytes, step: 1)
    #expect(end == .malformed)
    #expect(taken == count)
  }
}
