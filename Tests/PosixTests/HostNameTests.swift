import Posix
import Testing

@Suite("Names of hosts")
struct HostNameTests {
  @Test(
    "An address is its own name",
    arguments: [
      ("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("::1", "::1"), ("[::1]", "::1"),
      ("0:0:0:0:0:0:0:1", "::1"), ("::", "::"),
    ])
  func addresses(host: String, address: String) throws {
    #expect(try HostName.addresses(host) == [address])
  }

  @Test("localhost is a loopback address that can be listened on")
  func localhost() throws {
    let addresses = try HostName.addresses("localhost")
    #expect(!addresses.isEmpty && Set(addresses).isSubset(of: ["127.0.0.1", "::1"]))
    #expect(Set(addresses).count == addresses.count)
    // Of IPv4 first, as a client takes it.
    #expect(addresses == addresses.sorted { !$0.contains(":") && $1.contains(":") })
    let isOpen = addresses.contains { (try? Socket.listen(host: $0, port: 0)) != nil }
    #expect(isOpen)
  }

  @Test(
    "What has no address is named in the error",
    arguments: [
      "", "[]", "nobody.invalid", "a b", "127.0.0.1:80", "1.2.3.4.5", "::1::", "a\0b",
      String(repeating: "x", count: 70_000),
    ])
  func unknown(host: String) {
    let error = #expect(throws: HostName.Unknown.self) { try HostName.addresses(host) }
    #expect(error?.host == host && error?.reason.isEmpty == false)
  }
}
