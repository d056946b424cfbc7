// Requests that are answered before they are whole: the rest of them is read and dropped, within limits.
import HTTP2
import Testing

@Suite struct ServerDrainingTests {
  private typealias Kind = ServerFrame.Kind

  private static let second: Int64 = 1_000_000_000
  private let block = ServerField.literals(ServerField.call("/a/A"))
  private let trailers = ServerField.literals([ServerField("sum", "1")])
  /// An eighth of a stream's window.
  private let part = [UInt8](repeating: 0, count: 8_192)

  private func limits(
    streamsMax: Int = 4, streamBytesMax: Int = 100_000, kibibytes: Int64 = 1_000,
    concurrentStreams: Int = 100
  ) -> HTTP2Limits {
    var limits = ServerUnderTest.limits
    limits.concurrentStreams = concurrentStreams
    limits.drain = DrainLimits(
      streamsMax: streamsMax, streamBytesMax: streamBytesMax, nanosecondsMax: 10 * Self.second,
      kibibytes: Budget(burst: kibibytes, perSecond: 1))
    return limits
  }

  /// A server that has answered `streams` before they were whole.
  private func answered(
    _ limits: HTTP2Limits, _ streams: [UInt32] = [1]
  ) throws -> ServerUnderTest {
    let server = try ServerUnderTest.connected(limits: limits)
    for stream in streams { try answer(stream, server) }
    return server
  }

  private func answer(_ stream: UInt32, _ server: ServerUnderTest) throws {
    #expect(server.receive(ServerFrame.headers(stream, block)) == nil)
    server.send([1], on: try #require(server.openStreams.last))
    let frames = try server.frames()
    // The last one ends the stream.
    #expect(frames.map(\.kind) == [Kind.headers, Kind.data, Kind.headers])
    #expect(frames.last?.flags == 5)
  }

  private func goesOn(_ server: ServerUnderTest, _ stream: UInt32) throws {
    let before = server.calls.count
    #expect(
      server.receive(
        ServerFrame.headers(stream, block) + ServerFrame.data(stream, grpcMessage([]))) == nil)
    #expect(server.calls.count == before + 1)
    #expect(try server.frames().contains { $0.stream == stream && $0.flags & 1 == 1 })
  }

  enum End: CaseIterable {
    case data, emptyData, trailers, thePeersReset
  }

  /// No reset, but credit, until the peer ends its side.
  @Test(arguments: End.allCases) func theRestOfARequestIsReadToItsEnd(end: End) throws {
    let server = try answered(limits())
    #expect(server.connection.streamCount == 0 && server.connection.drainingCount == 1)
    for number in 1...11 {
      #expect(server.receive(ServerFrame.data(1, part, endsStream: false)) == nil)
      let frames = try server.frames()
      // Credit for the rest of 100,000 bytes once the window is used up, and not before.
      #expect(frames.map(\.kind) == (number == 8 ? [Kind.windowUpdate] : []), "\(number)")
      #expect(frames.allSatisfy { $0.stream == 1 && $0.code == 34_464 })
    }
    let last: [UInt8] =
      switch end {
      case .data: ServerFrame.data(1, [1])
      case .emptyData: ServerFrame.data(1, [])
      case .trailers: ServerFrame.headers(1, trailers, endsStream: true)
      case .thePeersReset: ServerFrame.reset(1)
      }
    #expect(server.receive(last) == nil)
    #expect(try server.frames().isEmpty)
    #expect(server.connection.drainingCount == 0)
    try goesOn(server, 3)
    // The peer itself has closed it.
    #expect(
      server.receive(ServerFrame.headers(1, trailers, endsStream: true))
        == .protocolViolation(.streamClosed))
    server.close()
  }

  @Test(arguments: [false, true]) func badEndsAreErrorsOfTheStream(isMalformed: Bool) throws {
    let server = try answered(limits())
    let block =
      isMalformed ? ServerField.literals([ServerField(":path", "/a/A")]) : trailers
    #expect(server.receive(ServerFrame.headers(1, block, endsStream: isMalformed)) == nil)
    let frames = try server.frames()
    #expect(frames.map(\.kind) == [Kind.reset] && frames.map(\.code) == [1])
    #expect(server.connection.drainingCount == 0)
    try goesOn(server, 3)
    server.close()
  }

  enum Limit: CaseIterable {
    case streamBytes, connectionBytes, time
  }

  /// Then it is reset, and what is on its way is no error.
  @Test(arguments: Limit.allCases) func readingEnds(at limit: Limit) throws {
    let server = try answered(
      limits(
        streamBytesMax: limit == .streamBytes ? 65_536 + 8_192 : 1 << 20,
        kibibytes: limit == .connectionBytes ? 70 : 1_000))
    if limit == .time {
      server.connection.endDraining(nowNanoseconds: 10 * Self.second - 1)
      #expect(server.connection.drainingCount == 1)
      server.connection.endDraining(nowNanoseconds: 10 * Self.second)
    } else {
      // A window, and what comes to 8 KiB more; 6 KiB are left of the connection's, too few for that.
      for number in 1...(limit == .streamBytes ? 9 : 8) {
        #expect(server.connection.drainingCount == 1, "\(number)")
        #expect(server.receive(ServerFrame.data(1, part, endsStream: false)) == nil)
      }
    }
    #expect(server.connection.drainingCount == 0)
    let frames = try server.frames().filter { $0.stream == 1 && $0.kind != Kind.windowUpdate }
    #expect(frames.map(\.kind) == [Kind.reset] && frames.map(\.code) == [0])
    #expect(server.receive(ServerFrame.data(1, part)) == nil)
    #expect(try server.frames().allSatisfy { $0.kind == Kind.windowUpdate && $0.stream == 0 })
    try goesOn(server, 3)
    server.close()
  }

  /// The bytes of all of a connection's streams are counted together, and what was not sent is given back.
  @Test func manyStreamsShareTheConnectionsBudget() throws {
    // Three windows, and 8 KiB.
    let server = try answered(limits(kibibytes: 200), [1, 3, 5])
    #expect(server.receive(ServerFrame.headers(7, block)) == nil)
    server.send([1], on: try #require(server.openStreams.last))
    let last = try #require(try server.frames().last)
    #expect(last.kind == Kind.reset && last.stream == 7 && last.code == 0)
    // It used an eighth of its window: there is room for another window again, and no more.
    #expect(server.receive(ServerFrame.data(1, part)) == nil)
    try answer(9, server)
    #expect(server.connection.drainingCount == 3)
    for stream: UInt32 in [3, 5, 9] {
      #expect(server.receive(ServerFrame.data(stream, part, endsStream: false)) == nil)
    }
    #expect(try server.frames().isEmpty)
    #expect(server.receive(ServerFrame.headers(11, block)) == nil)
    server.send([1], on: try #require(server.openStreams.last))
    #expect(try server.frames().last?.kind == Kind.reset)
    server.close()
  }

  /// One that finds no place is reset at once.
  @Test func thereAreSoManyAtATime() throws {
    let server = try answered(limits(streamsMax: 4), [1, 3, 5, 7])
    #expect(server.receive(ServerFrame.headers(9, block)) == nil)
    server.send([1], on: try #require(server.openStreams.last))
    let last = try #require(try server.frames().last)
    #expect(last.kind == Kind.reset && last.stream == 9 && last.code == 0)
    // A place that is free again is taken.
    #expect(server.receive(ServerFrame.data(3, [1])) == nil)
    try answer(11, server)
    #expect(server.connection.drainingCount == 4)
    for stream: UInt32 in [11, 1, 7, 5] {
      #expect(server.receive(ServerFrame.data(stream, [])) == nil)
    }
    #expect(server.connection.drainingCount == 0)
    #expect(try server.frames().isEmpty)
    server.close()
  }

  @Test func theyCountAsOpenStreams() throws {
    let server = try answered(limits(concurrentStreams: 3), [1, 3])
    try goesOn(server, 5)
    #expect(server.receive(ServerFrame.headers(7, block) + ServerFrame.headers(9, block)) == nil)
    let frames = try server.frames()
    #expect(frames.map(\.kind) == [Kind.reset] && frames.map(\.stream) == [9])
    #expect(frames.map(\.code) == [7])
    server.close()
  }

  @Test func aPeerThatSendsMoreThanItsWindowIsReset() throws {
    var small = limits(streamBytesMax: 40_000)
    small.streamWindowBytes = 30_000
    let most = ServerFrame.data(1, [UInt8](repeating: 0, count: 16_384), endsStream: false)
    let other = try answered(small)
    #expect(other.receive(most + most) == nil)
    #expect(other.connection.drainingCount == 0)
    let resets = try other.frames().filter { $0.kind == Kind.reset }
    #expect(resets.map(\.code) == [3])
    other.close()
  }

  /// A connection that ends takes them along, and does not wait for them.
  @Test func aConnectionEndsWithoutThem() throws {
    let server = try answered(limits(), [1, 3])
    server.connection.refuseNewStreams()
    _ = server.output()
    #expect(server.connection.isFinished)
    server.close()
  }
}
