import Testing

@testable import LoadHistory
@testable import LoadKit

/// Several servers, of which one decides.
@Suite struct TargetTests {
  private static let list = "127.0.0.1:1,127.0.0.2:2,[::1]:3"

  private func texts(_ endpoint: Endpoint) -> [String] { endpoint.all.map(\.description) }

  @Test func aListNamesTheFirstAndTheOthers() throws {
    let endpoint = try Endpoint.resolvingList(Self.list)
    #expect(endpoint.description == "127.0.0.1:1")
    #expect(texts(endpoint).joined(separator: ",") == Self.list)
    #expect(try Endpoint.resolvingList("127.0.0.1:1").others.isEmpty)
  }

  @Test(arguments: ["", ",", "127.0.0.1:1,", ",127.0.0.1:1", "127.0.0.1:1,,127.0.0.1:2"])
  func anEmptyPlaceIsNone(text: String) {
    #expect(throws: LoadError.self) { try Endpoint.resolvingList(text) }
  }

  @Test func eachHasItsTurn() throws {
    var endpoint = try Endpoint.resolvingList(Self.list)
    for first in ["127.0.0.2:2", "[::1]:3", "127.0.0.1:1"] {
      endpoint = endpoint.next()
      #expect(endpoint.description == first)
      #expect(endpoint.others.count == 2 && endpoint.others.allSatisfy { $0.others.isEmpty })
    }
  }

  @Test func whoIsNamedIsNext() throws {
    var endpoint = try Endpoint.resolvingList(Self.list)
    endpoint.others[0].name = "two.example"
    #expect(texts(endpoint.next(owner: "[::1]:3")) == ["[::1]:3", "127.0.0.2:2", "127.0.0.1:1"])
    for (owner, next) in [
      ("two.example:2", "127.0.0.2:2"), ("two.example:3", "127.0.0.2:2"),
      ("127.0.0.1:1", "127.0.0.2:2"), ("10.0.0.9:3", "127.0.0.2:2"), ("nonsense", "127.0.0.2:2"),
    ] {
      #expect(endpoint.next(owner: owner).description == next)
    }
    let alone = try Endpoint.resolvingList("127.0.0.1:1")
    #expect(alone.next(owner: "127.0.0.1:1") == alone)
  }

  /// A field of bytes.
  private func field(_ number: UInt8, _ content: [UInt8]) -> [UInt8] {
    [number << 3 | 2, UInt8(content.count)] + content
  }

  private func details(_ reason: String, _ entries: [(String, String)]) -> [UInt8] {
    let info =
      field(1, Array(reason.utf8)) + field(2, Array("holdfast".utf8))
      + entries.flatMap { field(3, field(1, Array($0.0.utf8)) + field(2, Array($0.1.utf8))) }
    let type = Array("type.googleapis.com/google.rpc.ErrorInfo".utf8)
    return [8, 14] + field(3, field(1, type) + field(2, info))
  }

  @Test(
    arguments: [
      ("NOT_OWNER", [("owner", "h:1")], "h:1"), ("NOT_OWNER", [], ""),
      ("NOT_OWNER", [("other", "x"), ("owner", "h:1")], "h:1"), ("LEASE_OVER", [], nil),
      ("OVERLOADED", [("owner", "h:1")], nil),
    ] as [(String, [(String, String)], String?)])
  func theOwnerIsRead(reason: String, entries: [(String, String)], owner: String?) {
    let bytes = details(reason, entries)
    #expect(Refusal.owner(details: bytes.span) == owner)
    let refusal = Refusal(code: 14, details: bytes.span, SKUNames(prefix: "sku-"))
    #expect(Reply(refusal: refusal) == .noEffect)
  }
}
