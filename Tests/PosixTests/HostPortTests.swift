// HOST:PORT, well written and not.
import Posix
import Testing

struct HostPortTests {
  @Test(arguments: [
    ("host:1", "host", 1), ("127.0.0.1:65535", "127.0.0.1", 65_535), ("[::1]:7420", "::1", 7420),
    ("[fe80::1%eth0]:7420", "fe80::1%eth0", 7420), ("::1:7420", "::1", 7420),
    ("host:007", "host", 7),
  ])
  func readsBoth(_ text: String, _ host: String, _ port: UInt16) {
    #expect(HostPort(text) == HostPort(host: host, port: port))
  }

  @Test(arguments: ["host", "[::1]", "127.0.0.1"])
  func aPortMayBeMissingWhereThereIsAUsualOne(_ text: String) {
    #expect(HostPort(text) == nil)
    #expect(HostPort(text, standard: 5)?.port == 5)
    #expect(HostPort(text + ":6", standard: 5)?.port == 6)
  }

  @Test(arguments: [
    "", ":", ":1", "host:", "host:0", "host:65536", "host:+5", "host:-5", "host: 5", "host:x",
    "host:５",
    "[::1", "[::1:7420", "::1]:7420", "[[::1]]:7420", "[]:7420", "[host]:7420", "[::1]7420",
    "a/b:1",
    "ho st:1", "h\u{e9}:1", String(repeating: "a", count: 256) + ":1",
  ])
  func whatIsNeitherIsNone(_ text: String) {
    #expect(HostPort(text) == nil)
    #expect(HostPort(text, standard: 5) == nil)
  }

  @Test func anAddressWithColonsNeedsBracketsBesideAUsualPort() {
    #expect(HostPort("::1", standard: 5) == nil)
    #expect(HostPort("::1:7420", standard: 5) == nil)
  }

  @Test func zeroIsAPortWhereItMayBe() {
    #expect(HostPort("host:0", ports: 0...65_535)?.port == 0)
  }

  @Test func isWrittenAsItIsRead() {
    for text in ["host:1", "[::1]:7420"] { #expect(HostPort(text)?.description == text) }
  }
}
