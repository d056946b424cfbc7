// The header-block cache: which blocks are known again, and when they no longer are.
import HTTP2
import Testing

@Suite struct ServerHeaderCacheTests {
  private static var limits: HTTP2Limits {
    var limits = ServerUnderTest.limits
    limits.headerListBytesMax = 32 * 1024
    return limits
  }

  private func connected() throws -> ServerUnderTest {
    try ServerUnderTest.connected(limits: Self.limits)
  }

  private func call(_ stream: UInt32, _ block: [UInt8]) -> [UInt8] {
    var bytes: [UInt8] = []
    for at in stride(from: 0, to: block.count, by: 16_384) {
      let part = Array(block[at..<min(at + 16_384, block.count)])
      let isLast = at + 16_384 >= block.count
      bytes +=
        at == 0
        ? ServerFrame.headers(stream, part, endsHeaders: isLast)
        : ServerFrame.continuation(stream, part, endsHeaders: isLast)
    }
    return bytes + ServerFrame.data(stream, grpcMessage([]))
  }

  /// HPACK literals that are never indexed (RFC 7541 section 6.2.3).
  private func neverIndexed(_ fields: [ServerField]) -> [UInt8] {
    fields.flatMap { [0x10] + ServerField.literals([$0])[1...] }
  }

  /// Calls with a block, and how many of them the owner was asked about.
  private func asked(_ server: ServerUnderTest, _ blocks: [[UInt8]], _ stream: inout UInt32)
    -> [Int]
  {
    blocks.map { block in
      let before = server.count(.head)
      #expect(server.receive(call(stream, block)) == nil)
      stream += 2
      return server.count(.head) - before
    }
  }

  @Test(arguments: [0, 1, 126, 127, 128, 500, 4_000, 8_192]) func literalsThatChangeNoTableAreHits(
    tokenBytes: Int
  ) throws {
    let fields =
      ServerField.call("/a/A", timeout: "1S", caller: "me")
      + [ServerField("authorization", String(repeating: "t", count: tokenBytes))]
    for block in [ServerField.literals(fields), neverIndexed(fields)] {
      let server = try connected()
      var stream: UInt32 = 1
      #expect(asked(server, [block, block, block, block], &stream) == [1, 0, 0, 0])
      let expected = ServerUnderTest.Call(
        head: 65, body: grpcMessage([]), timeout: "1S", caller: "me")
      #expect(server.calls == [expected, expected, expected, expected])
      server.close()
    }
  }

  @Test func oneByteMakesAnotherBlock() throws {
    let server = try connected()
    var stream: UInt32 = 1
    let block = neverIndexed(ServerField.call("/a/A", caller: String(repeating: "c", count: 100)))
    #expect(asked(server, [block, block], &stream) == [1, 0])
    // Only bytes of texts: the others may make it malformed.
    for at in block.count - 100..<block.count {
      var other = block
      other[at] = UInt8(ascii: "d")
      #expect(asked(server, [other], &stream) == [1], "byte \(at)")
      var caller = Array(repeating: UInt8(ascii: "c"), count: 100)
      caller[at - (block.count - 100)] = UInt8(ascii: "d")
      #expect(server.calls.last?.caller == String(decoding: caller, as: UTF8.self))
      _ = try server.frames()
    }
    server.close()
  }

  @Test func blocksThatAreTooLongAreReadEachTime() throws {
    let server = try connected()
    var stream: UInt32 = 1
    for (length, again) in [(11_000, 0), (13_000, 1), (20_000, 1)] {
      let fields =
        ServerField.call("/a/A") + [ServerField("x", String(repeating: "x", count: length))]
      let block = ServerField.literals(fields)
      #expect(asked(server, [block, block], &stream) == [1, again], "\(length)")
      _ = try server.frames()
    }
    server.close()
  }

  enum Change: String, CaseIterable {
    case entry, sizeUpdate, trailers, refusedEntry
  }

  @Test(arguments: Change.allCases) func aBlockThatChangesTheTableDropsTheCache(change: Change)
    throws
  {
    var limits = Self.limits
    limits.concurrentStreams = 2
    let server = try ServerUnderTest.connected(limits: limits)
    var stream: UInt32 = 1
    let block = ServerField.literals(ServerField.call("/a/A"))
    let fields = ServerField.call("/a/B")
    let entry = [0x40] + ServerField.literals([ServerField("x", "y")])[1...]
    #expect(asked(server, [block, block], &stream) == [1, 0])
    _ = try server.frames()
    switch change {
    case .entry: #expect(server.receive(call(stream, ServerField.literals(fields) + entry)) == nil)
    case .sizeUpdate:
      #expect(server.receive(call(stream, [0x20] + ServerField.literals(fields))) == nil)
    case .trailers:
      #expect(server.receive(ServerFrame.headers(stream, block)) == nil)
      #expect(server.receive(ServerFrame.headers(stream, entry, endsStream: true)) == nil)
    case .refusedEntry:
      for _ in 0..<2 {
        #expect(server.receive(ServerFrame.headers(stream, block)) == nil)
        stream += 2
      }
      let heads = server.count(.head)
      #expect(server.receive(call(stream, ServerField.literals(fields) + entry)) == nil)
      #expect(server.count(.head) == heads, "it is refused")
      #expect(server.receive(ServerFrame.reset(stream - 2) + ServerFrame.reset(stream - 4)) == nil)
    }
    stream += 2
    _ = try server.frames()
    #expect(asked(server, [block], &stream) == [1])
    #expect(asked(server, [block], &stream) == [0])
    server.close()
  }

  @Test func severalMethodsAreKnownAtATime() throws {
    let server = try connected()
    let blocks = ["/a/A", "/ab/B", "/abc/C", "/abcd/D"].map {
      ServerField.literals(ServerField.call($0))
    }
    var stream: UInt32 = 1
    _ = asked(server, blocks + blocks, &stream)
    let before = server.count(.head)
    for _ in 0..<10 {
      _ = asked(server, blocks, &stream)
      _ = try server.frames()
    }
    // Some may share a place, but not all of them.
    #expect(server.count(.head) - before <= 20)
    let heads = (0..<12).flatMap { _ in "ABCD".utf8.map { Int32($0) } }
    #expect(server.calls.map(\.head) == heads)
    server.close()
  }

  @Test func aBlockThatWasNotAcceptedIsAskedAboutAgain() throws {
    let server = try connected()
    server.accepts = false
    server.answer = { server, stream in server.end(stream) }
    var stream: UInt32 = 1
    let block = ServerField.literals(ServerField.call("/a/A"))
    #expect(asked(server, [block, block, block], &stream) == [1, 1, 1])
    server.accepts = true
    #expect(asked(server, [block, block], &stream) == [1, 0])
    server.close()
  }

  @Test func whatWasDecidedIsForgottenWhenTheOwnerSaysSo() throws {
    let server = try connected()
    var stream: UInt32 = 1
    let block = ServerField.literals(ServerField.call("/a/A", caller: "me"))
    #expect(asked(server, [block, block], &stream) == [1, 0])
    // A stream that is open keeps what was decided for it.
    #expect(server.receive(ServerFrame.headers(stream, block)) == nil)
    server.connection.forgetHeaderBlocks()
    server.connection.forgetHeaderBlocks()
    #expect(server.receive(ServerFrame.headers(stream + 2, block)) == nil)
    #expect(server.count(.head) == 2)
    for number in [stream, stream + 2] {
      #expect(server.receive(ServerFrame.data(number, grpcMessage([]))) == nil)
    }
    #expect(server.calls.map(\.caller) == ["me", "me", "me", "me"])
    stream += 4
    #expect(asked(server, [block], &stream) == [0])
    server.close()
  }

  /// Notes are shared by the entry and its streams; the last of them frees them.
  @Test func notesLiveAsLongAsAnyoneNeedsThem() throws {
    let context = ServerUnderTest.makeContext()
    for round in 0..<50 {
      let server = try ServerUnderTest(context) { _, _ in }
      #expect(server.receive(ServerFrame.preface + ServerFrame.settings()) == nil)
      let block = ServerField.literals(ServerField.call("/a/A", caller: "round \(round)"))
      for number in 0..<20 {
        #expect(server.receive(ServerFrame.headers(UInt32(2 * number + 1), block)) == nil)
        if number == round % 20 { server.connection.forgetHeaderBlocks() }
      }
      for stream in server.openStreams {
        let notes = try #require(server.notes(of: stream))
        let caller = ServerUnderTest.text(
          notes.caller.span.extracting(0..<Int(notes.callerCount)))
        #expect(caller == "round \(round)")
      }
      #expect(server.receive(ServerFrame.reset(1) + ServerFrame.reset(5)) == nil)
      server.close()
    }
    #expect(context.bufferedBytes == 0)
  }

  @Test func aLengthIsCheckedForKnownBlocksToo() throws {
    let server = try connected()
    let fields = ServerField.call("/a/A") + [ServerField("content-length", "5")]
    let block = ServerField.literals(fields)
    var stream: UInt32 = 1
    #expect(asked(server, [block, block], &stream) == [1, 0])
    _ = try server.frames()
    for bytes in [[], [0, 0, 0, 0], [0, 0, 0, 0, 0, 0]] as [[UInt8]] {
      let before = server.calls.count
      #expect(
        server.receive(ServerFrame.headers(stream, block) + ServerFrame.data(stream, bytes)) == nil)
      #expect(server.calls.count == before)
      #expect(try server.frames().map(\.code) == [1])
      stream += 2
    }
    #expect(asked(server, [block], &stream) == [0])
    #expect(server.calls.count == 3)
    server.close()
  }

  @Test func theSameFieldTwiceIsSaidToBe() throws {
    let server = try connected()
    var stream: UInt32 = 1
    let twice = ServerField.call("/a/A", caller: "me") + [ServerField("caller", "me")]
    _ = asked(server, [ServerField.literals(twice)], &stream)
    #expect(server.repeatedFields == [false, false, false, false, true])
    _ = asked(server, [ServerField.literals(ServerField.call("/a/A", caller: "me"))], &stream)
    #expect(server.repeatedFields == [false, false, false, false, false])
    server.close()
  }
}
