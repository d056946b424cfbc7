// Which fields a request may have: RFC 9113 section 8, where gRPC's own servers keep to it.
import HTTP2
import Testing

@Suite struct ServerFieldTests {
  /// A call with one field more, or with another value for one that it has.
  private func call(_ name: String, _ value: String) -> [ServerField] {
    var fields = ServerField.call("/a/A")
    if let index = fields.firstIndex(where: { $0.name == name }) {
      fields[index].value = value
    } else {
      fields.append(ServerField(name, value))
    }
    return fields
  }

  /// Whether a call with these fields is a call, and not reset.
  private func isTaken(_ fields: [ServerField]) throws -> Bool {
    let server = try ServerUnderTest.connected()
    defer { server.close() }
    let block = ServerField.literals(fields)
    #expect(server.receive(ServerFrame.headers(1, block, endsStream: true)) == nil)
    let resets = try server.frames().filter { $0.kind == ServerFrame.Kind.reset }
    #expect(resets.map(\.code) == (server.calls.isEmpty ? [1] : []))
    return !server.calls.isEmpty
  }

  @Test(arguments: [
    ("x", " v"), ("x", "v "), ("x", "\tv \t"), ("x", " "), ("x", ""), ("x", "\u{e9}"),
    ("te", "trailers"), ("te", "Trailers"), ("te", "trailers, deflate"), ("te", "gzip,trailers "),
    (":authority", "/tmp/x.sock"), (":authority", "%2Ftmp%2Fx.sock"), (":authority", ""),
    (":authority", "localhost"), (":authority", "[::1]:80"), (":authority", "/a b"),
    (":path", "/\u{e9}?a=b"),
    ("content-length", " 0 "),
  ]) func taken(name: String, value: String) throws {
    #expect(try isTaken(call(name, value)))
  }

  @Test(arguments: [
    ("x", "a\nb"), ("x", "a\u{0}"), ("x", "\u{7f}"), ("x", "12345678\u{1f}"), ("X", "v"),
    ("x y", "v"),
    ("", "v"), ("te", "deflate"), ("te", "trailersx"), ("te", ""), ("te", ","),
    ("connection", "close"), ("upgrade", "h2c"), (":authority", "a\u{0}"),
    (":path", ""), (":path", "/a b"), (":path", " /a"), (":path", "/a "), (":method", "POST "),
    (":scheme", " http"), (":path", "/12345678\u{7f}"), (":method", "PO ST"),
    (":scheme", "1x"), (":status", "200"), ("content-length", "1x"), ("content-length", "1"),
  ]) func reset(name: String, value: String) throws {
    #expect(try !isTaken(call(name, value)))
  }

  @Test func blanksAroundAValueAreNoPartOfIt() throws {
    let server = try ServerUnderTest.connected()
    let fields = ServerField.call("/a/A", timeout: " 1S\t", caller: "\t me and you ")
    let block = ServerField.literals(fields)
    #expect(server.receive(ServerFrame.headers(1, block, endsStream: true)) == nil)
    #expect(server.calls.map(\.caller) == ["me and you"] && server.calls.map(\.timeout) == ["1S"])
    server.close()
  }

  @Test(arguments: [
    ([], false), (["me"], false), (["me", "you"], true), (["me", "me"], true), (["", "me"], true),
    (["me", ""], true), (["me", "you", "them"], true),
  ]) func aFieldThatComesTwiceIsSaidToBe(callers: [String], isRepeated: Bool) throws {
    let server = try ServerUnderTest.connected { _, _ in }
    // The record's first user leaves nothing to the second.
    for stream: UInt32 in [1, 3] {
      let twice = stream == 1 ? callers : Array(callers.prefix(1))
      let fields = ServerField.call("/a/A") + twice.map { ServerField("caller", $0) }
      let block = ServerField.literals(fields)
      #expect(server.receive(ServerFrame.headers(stream, block, endsStream: true)) == nil)
      #expect(server.repeatedFields[4] == (stream == 1 && isRepeated))
      #expect(!server.repeatedFields[0])
      #expect(server.calls.last?.caller == callers.first ?? "")
      #expect(server.receive(ServerFrame.reset(stream)) == nil)
    }
    server.close()
  }
}
