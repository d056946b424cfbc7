// What a peer may cost: budgets, header lists, bodies, windows, streams.
import HTTP2
import Testing

@Suite struct ServerLimitTests {
  private let block = ServerField.literals(ServerField.call("/a/A"))

  private func limited(_ change: (inout HTTP2Limits) -> Void) -> HTTP2Limits {
    var limits = ServerUnderTest.limits
    change(&limits)
    return limits
  }

  // MARK: Budgets

  enum Spent: String, CaseIterable {
    case resets, provokedResets, resetsOfNothing, pings, settings, emptyData, priorities, lateData,
      lateTrailers

    var fault: ConnectionFault {
      switch self {
      case .resets, .provokedResets, .resetsOfNothing: .resetFlood
      case .pings: .pingFlood
      case .settings: .settingsFlood
      case .emptyData, .priorities: .emptyFrameFlood
      case .lateData, .lateTrailers: .lateFrameFlood
      }
    }

    /// What the GOAWAY frame says about it.
    var text: String {
      switch self {
      case .resets, .provokedResets, .resetsOfNothing: "too_many_resets"
      case .pings: "too_many_pings"
      case .settings: "too_many_settings"
      case .emptyData, .priorities: "too_many_empty_frames"
      case .lateData, .lateTrailers: "too_many_frames_on_streams_that_were_reset"
      }
    }

    /// What spends one token; `stream` is new each time.
    func bytes(_ stream: UInt32, _ block: [UInt8]) -> [UInt8] {
      switch self {
      case .resets: ServerFrame.headers(stream, block) + ServerFrame.reset(stream)
      case .provokedResets: ServerFrame.headers(stream, block) + ServerFrame.windowUpdate(stream, 0)
      case .resetsOfNothing: ServerFrame.reset(0, 0)
      case .pings: ServerFrame.ping()
      case .settings: ServerFrame.settings()
      case .emptyData: ServerFrame.data(1, [], endsStream: false)
      case .priorities: ServerFrame.priority(stream)
      // Stream 3 is reset by then.
      case .lateData: ServerFrame.data(3, [1], endsStream: false)
      case .lateTrailers: ServerFrame.headers(3, [], endsStream: true)
      }
    }
  }

  @Test(arguments: Spent.allCases) func budgets(spent: Spent) throws {
    let budget = Budget(burst: 8, perSecond: 10)
    let limits = limited {
      $0.resets = budget
      $0.pings = budget
      $0.settings = budget
      $0.emptyFrames = budget
      $0.lateFrames = budget
    }
    let server = try ServerUnderTest(limits: limits)
    let context = server.context
    #expect(server.receive(ServerFrame.preface + ServerFrame.settings()) == nil)
    #expect(server.receive(ServerFrame.headers(1, block)) == nil)
    if spent == .lateData || spent == .lateTrailers {
      #expect(server.receive(ServerFrame.headers(3, block)) == nil)
      server.send([1], on: try #require(server.openStreams.last))
      #expect(try server.frames().last?.kind == ServerFrame.Kind.reset)
    }
    var stream: UInt32 = 3
    func spend(_ count: Int) -> ConnectionFault? {
      for _ in 0..<count {
        stream += 2
        if let fault = server.receive(spent.bytes(stream, block)) { return fault }
      }
      return nil
    }
    // The preface's SETTINGS took one token of theirs.
    #expect(spend(spent == .settings ? 7 : 8) == nil)
    context.setNow(nanoseconds: 100_000_000)
    #expect(spend(1) == nil, "a tenth of a second is one token")
    // An hour is the burst and no more.
    context.setNow(nanoseconds: 3_600_000_000_000)
    #expect(spend(8) == nil)
    #expect(spend(1) == spent.fault)
    let frames = try server.frames()
    let goAway = try #require(frames.last { $0.kind == ServerFrame.Kind.goAway })
    #expect(Array(goAway.payload[4..<8]) == [0, 0, 0, 11])
    #expect(String(decoding: goAway.payload.dropFirst(8), as: UTF8.self) == spent.text)
    #expect(server.connection.isFinished)
    server.close()
  }

  /// A frame and a header block have to end; the next one has its own time.
  @Test func whatIsUnfinishedIsSeen() throws {
    let server = try ServerUnderTest.connected()
    let whole =
      ServerFrame.headers(1, Array(block[..<5]), endsHeaders: false)
      + ServerFrame.continuation(1, Array(block[5...]), endsHeaders: true)
      + ServerFrame.data(1, grpcMessage([1]))
    // Where the header block ends, and DATA begins.
    let blockEnd = 9 + 5 + 9 + block.count - 5
    for (at, byte) in whole.enumerated() {
      server.context.setNow(nanoseconds: Int64(at + 1))
      #expect(server.receive([byte]) == nil)
      let end = at + 1
      let since: Int64? =
        end < blockEnd ? 1 : end == blockEnd || end == whole.count ? nil : Int64(blockEnd + 1)
      #expect(server.connection.unfinishedSinceNanoseconds == since, "after byte \(end)")
    }
    // All at once but for the beginning of the next.
    server.context.setNow(nanoseconds: 1_000)
    #expect(server.receive(Array(ServerFrame.ping()[..<10])) == nil)
    server.context.setNow(nanoseconds: 2_000)
    #expect(
      server.receive(Array(ServerFrame.ping()[10...]) + Array(ServerFrame.ping()[..<3])) == nil)
    #expect(server.connection.unfinishedSinceNanoseconds == 2_000)
    server.connection.fail(.unfinishedFrame)
    let frames = try server.frames()
    let goAway = try #require(frames.last { $0.kind == ServerFrame.Kind.goAway })
    #expect(String(decoding: goAway.payload.dropFirst(8), as: UTF8.self) == "frame_timeout")
    #expect(server.connection.isFinished)
    server.close()
  }

  @Test func acknowledgementsThatNobodyReadsEndTheConnection() throws {
    let server = try ServerUnderTest.connected()
    var fault: ConnectionFault?
    for _ in 0..<20_000 where fault == nil { fault = server.receive(ServerFrame.ping()) }
    #expect(fault == .controlFlood)
    server.close()

    let reader = try ServerUnderTest.connected()
    for _ in 0..<10_000 {
      #expect(reader.receive(ServerFrame.ping()) == nil)
      #expect(try reader.frames().map(\.flags) == [ServerFrame.acknowledgement])
    }
    reader.close()
  }

  // MARK: Header lists

  /// A call whose header list has exactly this many bytes (RFC 9113 section 6.5.2).
  private func call(listBytes: Int) -> [ServerField] {
    var fields = ServerField.call("/a/A")
    let have = fields.reduce(0) { $0 + $1.listBytes }
    fields.append(ServerField("x", String(repeating: "v", count: listBytes - have - 33)))
    return fields
  }

  private func headers(_ stream: UInt32, _ block: [UInt8], frame: Int = 16_384) -> [UInt8] {
    var bytes: [UInt8] = []
    for at in stride(from: 0, to: block.count, by: frame) {
      let part = Array(block[at..<min(at + frame, block.count)])
      let isLast = at + frame >= block.count
      bytes +=
        at == 0
        ? ServerFrame.headers(stream, part, endsStream: true, endsHeaders: isLast)
        : ServerFrame.continuation(stream, part, endsHeaders: isLast)
    }
    return bytes
  }

  @Test func headerListsUpToTheLimitAreRead() throws {
    let limit = ServerUnderTest.limits.headerListBytesMax
    let server = try ServerUnderTest.connected()
    let good = ServerField.literals(call(listBytes: limit))
    let long = ServerField.literals(call(listBytes: limit + 1))
    #expect(server.receive(headers(1, good)) == nil)
    #expect(server.count(.head) == 1 && server.count(.headerListTooLarge) == 0)
    #expect(server.receive(headers(3, long)) == nil)
    #expect(server.count(.head) == 1 && server.count(.headerListTooLarge) == 1)
    // The connection goes on.
    #expect(server.receive(headers(5, good)) == nil)
    #expect(server.count(.headerListTooLarge) == 1 && server.calls.count == 3)
    server.close()
  }

  /// One call fails; the calls beside it, and those that come after, do not.
  @Test(arguments: [66_000, 700_000, 1_000_000], [1_100, 16_384])
  func headerListsFarOverTheLimitFailOneCall(listBytes: Int, frame: Int) throws {
    let server = try ServerUnderTest.connected()
    var encoder = ServerTestEncoder()
    let first = encoder.encode(ServerField.call("/a/A", caller: "me"))
    let again = encoder.encode(ServerField.call("/a/A", caller: "me"))
    #expect(server.receive(ServerFrame.headers(1, first)) == nil)
    let block =
      ServerField.literals(call(listBytes: listBytes)) + encoder.encode([ServerField("y", "z")])
    #expect(server.receive(headers(3, block, frame: frame)) == nil)
    #expect(server.count(.headerListTooLarge) == 1 && server.count(.end) == 1)
    // Many fields are no different from a long one.
    let many = (0..<listBytes / 100).map {
      ServerField("x\($0)", String(repeating: "v", count: 60))
    }
    let manyBlock = encoder.encode(ServerField.call("/a/A") + many)
    #expect(server.receive(headers(5, manyBlock, frame: frame)) == nil)
    #expect(server.count(.headerListTooLarge) == 2)
    #expect(server.receive(ServerFrame.data(1, grpcMessage([7]))) == nil)
    let after = encoder.encode(ServerField.call("/a/B", caller: "you"))
    #expect(server.receive(ServerFrame.headers(7, after, endsStream: true)) == nil)
    #expect(server.calls.map(\.caller) == ["", "", "me", "you"])
    #expect(again.count < first.count)
    #expect(server.connection.streamCount == 4)
    server.close()
  }

  @Test func headerBlocksOverTheLimitEndTheConnection() throws {
    let server = try ServerUnderTest.connected()
    let block = ServerField.literals(
      call(listBytes: ServerUnderTest.limits.headerBlockBytesMax + 1000))
    #expect(server.receive(headers(1, block)) == .headerListFlood)
    server.close()
  }

  /// Each costs its bytes' worth of resets.
  @Test func longHeaderListsAreChargedByTheirBytes() throws {
    let limits = limited { $0.resets = Budget(burst: 20, perSecond: 1) }
    let server = try ServerUnderTest.connected(limits: limits)
    let block = ServerField.literals(call(listBytes: 100_000))
    for number in 0..<2 {
      #expect(server.receive(headers(UInt32(2 * number + 1), block)) == nil)
    }
    #expect(server.receive(headers(5, block)) == .resetFlood)
    server.close()
  }

  /// Of a block that never ends no more is held than a field, and a connection that goes away in the middle
  /// of one leaves nothing behind.
  @Test(arguments: [false, true]) func aConnectionMayEndWithinAHeaderBlock(isLong: Bool) throws {
    let context = ServerUnderTest.makeContext()
    for _ in 0..<1000 {
      let server = try ServerUnderTest(context)
      #expect(server.receive(ServerFrame.preface + ServerFrame.settings()) == nil)
      let block = ServerField.literals(call(listBytes: isLong ? 40_000 : 4_000))
      let whole = headers(1, block, frame: 1_300)
      #expect(server.receive(Array(whole[..<(whole.count - 20)])) == nil)
      #expect(server.connection.streamCount == 0 && server.events.isEmpty)
      server.close()
    }
  }

  @Test func blocksInManyFramesOpenStreamsAndEndThem() throws {
    let server = try ServerUnderTest.connected(limits: limited { $0.concurrentStreams = 1 })
    var encoder = ServerTestEncoder()
    let block = encoder.encode(ServerField.call("/a/A", timeout: "1S", caller: "me"))
    #expect(server.receive(headers(1, block, frame: 10)) == nil)
    #expect(server.fields == ["POST", "/a/A", "application/grpc", "", "me"])
    #expect(server.calls.map(\.timeout) == ["1S"] && server.calls.map(\.caller) == ["me"])
    _ = try server.frames()
    // One that is refused is read all the same.
    #expect(server.receive(ServerFrame.headers(3, self.block)) == nil)
    let next = encoder.encode(ServerField.call("/a/B", caller: "you"))
    #expect(server.receive(headers(5, next, frame: 9)) == nil)
    let refused = try server.frames().filter { $0.kind == ServerFrame.Kind.reset }
    #expect(refused.map(\.stream) == [5])
    #expect(server.receive(ServerFrame.reset(3)) == nil)
    let third = encoder.encode(ServerField.call("/a/B", caller: "you"))
    #expect(server.receive(ServerFrame.headers(7, third)) == nil)
    // Trailers.
    let trailers = ServerField.literals([ServerField("x-trailer", "some text")])
    #expect(server.receive(headers(7, trailers, frame: 5)) == nil)
    #expect(server.calls.map(\.caller) == ["me", "you"])
    server.close()
  }

  /// One-byte references to a large entry: little to send, much to read.
  @Test func headerListsThatGrowInDecodingEndTheConnection() throws {
    let server = try ServerUnderTest.connected()
    let entry =
      [0x40]
      + ServerField.literals([ServerField("bomb", String(repeating: "v", count: 3900))])[1...]
    let block = self.block + entry + [UInt8](repeating: 0xbe, count: 4000)
    #expect(server.receive(ServerFrame.headers(1, block)) == .headerListFlood)
    server.close()
  }

  @Test func headerBlocksOfManyFramesEndTheConnection() throws {
    let server = try ServerUnderTest.connected()
    var fault = server.receive(ServerFrame.headers(1, [], endsHeaders: false))
    for _ in 0..<1_000 where fault == nil {
      fault = server.receive(ServerFrame.continuation(1, [], endsHeaders: false))
    }
    #expect(fault == .headerListFlood)
    server.close()
  }

  // MARK: Bodies

  @Test(arguments: [1, 4, 5, 6, 100, 999, 1_000]) func bodiesUpToTheLimitAreKept(piece: Int) throws
  {
    let server = try ServerUnderTest.connected()
    let body = grpcMessage([UInt8](repeating: 9, count: ServerUnderTest.bodyBytesMax - 5))
    #expect(server.receive(ServerFrame.headers(1, block)) == nil)
    for at in stride(from: 0, to: body.count, by: piece) {
      let end = min(at + piece, body.count)
      let frame = ServerFrame.data(1, Array(body[at..<end]), endsStream: end == body.count)
      #expect(server.receive(frame) == nil)
    }
    #expect(server.calls.map(\.body) == [body])
    #expect(server.oversizeCount == 0)
    server.close()
  }

  @Test(arguments: [1, 4, 5, 6, 100, 999, 1_001]) func longerBodiesAreOversizeOnce(piece: Int)
    throws
  {
    let server = try ServerUnderTest.connected()
    let limit = ServerUnderTest.bodyBytesMax
    // The prefix promises little; the body is one byte over the limit all the same, and goes on.
    let body = [0, 0, 0, 0, 1] + [UInt8](repeating: 9, count: limit + 200)
    #expect(server.receive(ServerFrame.headers(1, block)) == nil)
    for at in stride(from: 0, to: body.count, by: piece) {
      let part = Array(body[at..<min(at + piece, body.count)])
      #expect(server.receive(ServerFrame.data(1, part, endsStream: false)) == nil)
      #expect(server.oversizeCount == (at + part.count > limit ? 1 : 0))
    }
    server.close()
  }

  @Test func bodiesOfAllStreamsShareABudgetAndGiveItBack() throws {
    let server = try ServerUnderTest.connected(limits: limited { $0.bufferedBytesMax = 30_000 })
    let part = [0, 0, 0, 3, 0xe3] + [UInt8](repeating: 1, count: 900)
    for round in 0..<20 {
      let streams = (0..<30).map { UInt32(2 * (30 * round + $0) + 1) }
      let before = server.oversizeCount
      for stream in streams {
        let bytes =
          ServerFrame.headers(stream, block) + ServerFrame.data(stream, part, endsStream: false)
        #expect(server.receive(bytes) == nil)
      }
      // 905 bytes take 905 to 1,810 of the budget, of which one connection gets a third.
      #expect((19...25).contains(server.oversizeCount - before), "round \(round)")
      for stream in streams { #expect(server.receive(ServerFrame.reset(stream)) == nil) }
      #expect(server.connection.streamCount == 0)
    }
    server.close()
  }

  /// A connection may hold half of what is free: those that take all they can leave something.
  @Test(arguments: [(1, 333), (2, 250), (14, 62), (50, 19)])
  func connectionsShareTheBudget(connections: Int, share: Int) throws {
    let context = ServerUnderTest.makeContext(limited { $0.bufferedBytesMax = 1_000 * 1_024 })
    let part = [0, 0, 0, 3, 0xe3] + [UInt8](repeating: 1, count: 900)
    var greedy: [ServerUnderTest] = []
    for _ in 0..<connections {
      let server = try ServerUnderTest(context)
      #expect(server.receive(ServerFrame.preface + ServerFrame.settings()) == nil)
      greedy.append(server)
    }
    // By turns, until none gets more.
    for number in 0..<100 {
      for server in greedy {
        let stream = UInt32(2 * number + 1)
        let bytes =
          ServerFrame.headers(stream, block) + ServerFrame.data(stream, part, endsStream: false)
        #expect(server.receive(bytes) == nil)
      }
    }
    // 905 bytes each; all 100 streams of a connection are 90,500.
    let most = min(share * 1_024 / 905, 100)
    for server in greedy {
      let held = 100 - server.oversizeCount
      #expect(abs(held - most) <= 1, "\(held) bodies of \(most)")
    }
    let newcomer = try ServerUnderTest(context)
    #expect(
      newcomer.receive(
        ServerFrame.preface + ServerFrame.settings() + ServerFrame.headers(1, block)
          + ServerFrame.data(1, part)) == nil)
    #expect(newcomer.calls.count == 1)
    newcomer.close()
    for server in greedy { server.close() }
    #expect(context.bufferedBytes == 0)
  }

  // MARK: Responses that wait for credit

  private static let second: Int64 = 1_000_000_000

  @Test(arguments: [false, true]) func streamsThatGetNoCreditAreReset(byConnection: Bool) throws {
    let server = try ServerUnderTest.connected(settings: byConnection ? [] : [(4, 2)]) {
      $0.send([UInt8](repeating: 7, count: 40_000), on: $1)
    }
    server.context.setNow(nanoseconds: 10 * Self.second)
    for stream in [1, 3, 5] as [UInt32] {
      let bytes = ServerFrame.headers(stream, block) + ServerFrame.data(stream, grpcMessage([]))
      #expect(server.receive(bytes) == nil)
    }
    _ = try server.frames()
    #expect(server.connection.streamCount == 3)
    // Credit for one of them is none for the others.
    server.context.setNow(nanoseconds: 20 * Self.second)
    if byConnection {
      #expect(server.receive(ServerFrame.windowUpdate(0, 1)) == nil)
    } else {
      #expect(server.receive(ServerFrame.windowUpdate(3, 1)) == nil)
    }
    #expect(try server.frames().map(\.payload.count) == [1])
    #expect(server.connection.resetStalledStreams(before: 10 * Self.second) == 0)
    let reset = server.connection.resetStalledStreams(before: 20 * Self.second)
    #expect(reset == 2)
    let frames = try server.frames()
    #expect(frames.count == reset)
    #expect(frames.allSatisfy { $0.kind == ServerFrame.Kind.reset && $0.code == 11 })
    // The one that got something has as long again.
    #expect(server.connection.streamCount == 1)
    server.context.setNow(nanoseconds: 30 * Self.second)
    #expect(server.connection.resetStalledStreams(before: 20 * Self.second) == 0)
    #expect(server.connection.resetStalledStreams(before: 20 * Self.second + 1) == 1)
    #expect(server.connection.queuedBytes == 0 && server.connection.streamCount == 0)
    _ = try server.frames()
    #expect(server.context.bufferedBytes == 0)
    server.close()
  }

  @Test func responsesThatAreTakenAreNotStalled() throws {
    let server = try ServerUnderTest.connected(settings: [(4, 10)])
    #expect(
      server.receive(ServerFrame.headers(1, block) + ServerFrame.data(1, grpcMessage([]))) == nil)
    // Still open, and with nothing to send: a call that waits for its owner.
    server.answer = { _, _ in }
    #expect(
      server.receive(ServerFrame.headers(3, block) + ServerFrame.data(3, grpcMessage([]))) == nil)
    _ = try server.frames()
    #expect(server.connection.resetStalledStreams(before: .max) == 0)
    #expect(server.connection.streamCount == 1)
    server.close()
  }

  // MARK: Windows and streams

  @Test func dataPastTheWindowOfAStreamResetsIt() throws {
    let server = try ServerUnderTest.connected()
    var frames: [ServerFrame] = []
    #expect(server.receive(ServerFrame.headers(1, block)) == nil)
    for _ in 0..<7 {
      #expect(
        server.receive(ServerFrame.data(1, [UInt8](repeating: 0, count: 10_000), endsStream: false))
          == nil)
      frames += try server.frames()
    }
    #expect(frames.filter { $0.kind == ServerFrame.Kind.reset }.map(\.code) == [3])
    #expect(server.connection.streamCount == 0)
    #expect(
      server.receive(ServerFrame.headers(3, block) + ServerFrame.data(3, grpcMessage([]))) == nil)
    #expect(server.calls.count == 1)
    server.close()
  }

  /// The window of a stream of many messages follows its owner, not the peer.
  @Test(arguments: [true, false]) func aStreamGetsItsWindowBackAsItsOwnerReads(
    readsData: Bool
  ) throws {
    let server = try ServerUnderTest.connected()
    server.wantsData = true
    server.readsData = readsData
    var allowed = Int(ServerUnderTest.limits.streamWindowBytes)
    #expect(server.receive(ServerFrame.headers(1, block)) == nil)
    let part = [UInt8](repeating: 0, count: 9_000)
    var sent = 0
    while allowed >= part.count, sent < 1_000_000 {
      allowed -= part.count
      sent += part.count
      #expect(server.receive(ServerFrame.data(1, part, endsStream: false)) == nil)
      for frame in try server.frames() where frame.stream == 1 {
        #expect(frame.kind == ServerFrame.Kind.windowUpdate)
        allowed += Int(frame.code)
      }
      #expect(allowed <= ServerUnderTest.limits.streamWindowBytes)
    }
    #expect((sent >= 1_000_000) == readsData)
    #expect(server.oversizeCount == 0 && server.connection.streamCount == 1)
    server.close()
  }

  @Test func theWindowOfTheConnectionIsGivenBackWhateverBecomesOfTheData() throws {
    let server = try ServerUnderTest.connected()
    var allowed = ServerUnderTest.limits.connectionWindowBytes
    for number in 0..<400 {
      let stream = UInt32(2 * number + 1)
      let data = ServerFrame.data(stream, [UInt8](repeating: 0, count: 10_000), endsStream: false)
      #expect(allowed >= 20_000)
      allowed -= 20_000
      let bytes = ServerFrame.headers(stream, block) + data + ServerFrame.reset(stream) + data
      #expect(server.receive(bytes) == nil)
      for frame in try server.frames() where frame.kind == ServerFrame.Kind.windowUpdate {
        #expect(frame.stream == 0)
        allowed += Int32(frame.code)
      }
    }
    server.close()
  }

  @Test func streamsOverTheLimitAreRefused() throws {
    let server = try ServerUnderTest.connected(limits: limited { $0.concurrentStreams = 3 })
    for stream in [1, 3, 5, 7, 9] as [UInt32] {
      #expect(server.receive(ServerFrame.headers(stream, block)) == nil)
    }
    let refused = try server.frames().filter { $0.kind == ServerFrame.Kind.reset }
    #expect(refused.map(\.stream) == [7, 9] && refused.map(\.code) == [7, 7])
    #expect(server.connection.streamCount == 3)
    #expect(server.receive(ServerFrame.reset(3) + ServerFrame.headers(11, block)) == nil)
    #expect(server.connection.streamCount == 3)
    #expect(try server.frames().isEmpty)
    server.close()
  }
}
