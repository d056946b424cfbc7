// Frames on streams that are closed already: late news of streams that we reset, or a peer's mistake
// (RFC 9113 section 5.1).
import HTTP2
import Testing

@Suite struct ServerClosedStreamTests {
  private typealias Kind = ServerFrame.Kind

  private let block = ServerField.literals(ServerField.call("/a/A"))
  private let trailers = ServerField.literals([ServerField("sum", "1")])

  /// A server that has answered `count` calls before they were whole, and so has reset them.
  private func rejecting(_ count: Int) throws -> ServerUnderTest {
    let server = try ServerUnderTest.connected()
    for number in 0..<count {
      #expect(server.receive(ServerFrame.headers(UInt32(2 * number + 1), block)) == nil)
      let stream = try #require(server.openStreams.first)
      server.send([1], on: stream)
      let resets = try server.frames().filter { $0.kind == Kind.reset }
      #expect(resets.map(\.stream) == [UInt32(2 * number + 1)])
    }
    #expect(server.connection.streamCount == 0)
    return server
  }

  /// The connection goes on: a call is answered.
  private func goesOn(_ server: ServerUnderTest, _ stream: UInt32) throws {
    let before = server.calls.count
    #expect(
      server.receive(
        ServerFrame.headers(stream, block) + ServerFrame.data(stream, grpcMessage([]))) == nil)
    #expect(server.calls.count == before + 1)
    #expect(try server.frames().contains { $0.stream == stream && $0.flags & 1 == 1 })
  }

  enum Late: String, CaseIterable {
    case trailers, data, emptyData, dataAndTrailers, windowUpdate, reset
  }

  private func bytes(_ late: Late, _ stream: UInt32) -> [UInt8] {
    switch late {
    case .trailers: ServerFrame.headers(stream, trailers, endsStream: true)
    case .data: ServerFrame.data(stream, [1, 2, 3])
    case .emptyData: ServerFrame.data(stream, [])
    case .dataAndTrailers:
      ServerFrame.data(stream, [1, 2, 3], endsStream: false)
        + ServerFrame.headers(stream, trailers, endsStream: true)
    case .windowUpdate: ServerFrame.windowUpdate(stream, 1)
    case .reset: ServerFrame.reset(stream)
    }
  }

  @Test(arguments: [1, 16, 17, 1_023, 1_024, 1_025, 3_000], Late.allCases)
  func lateFramesOfStreamsThatWereResetAreDropped(streams: Int, late: Late) throws {
    let server = try rejecting(streams)
    for number in 0..<streams {
      #expect(server.receive(bytes(late, UInt32(2 * number + 1))) == nil, "\(number)")
    }
    #expect(try server.frames().isEmpty)
    try goesOn(server, UInt32(2 * streams + 1))
    server.close()
  }

  @Test func lateBlocksKeepTheTablesInStep() throws {
    var encoder = ServerTestEncoder()
    let server = try rejecting(20)
    for number in 0..<20 {
      let block = encoder.encode([ServerField("sum-\(number % 7)", "\(number)")])
      let frame = ServerFrame.headers(UInt32(2 * number + 1), block, endsStream: true)
      #expect(server.receive(frame) == nil)
    }
    let block = encoder.encode(ServerField.call("/a/B", caller: "me"))
    #expect(
      server.receive(ServerFrame.headers(41, block) + ServerFrame.data(41, grpcMessage([]))) == nil)
    #expect(server.calls.map(\.caller) == ["me"])
    server.close()
  }

  /// What a stream is before the frame comes that is not late.
  enum Ended: String, CaseIterable {
    case byBoth, byThePeersReset, bySkipping
  }

  @Test(arguments: Ended.allCases) func streamsThatWeDidNotResetStayClosed(ended: Ended) throws {
    for filling in [0, 1, 1_022] {
      for late in [Late.trailers, .data] {
        let server = try rejecting(filling)
        let stream = UInt32(2 * filling + 1)
        var next = stream + 2
        switch ended {
        case .byBoth: try goesOn(server, stream)
        case .byThePeersReset:
          #expect(
            server.receive(ServerFrame.headers(stream, block) + ServerFrame.reset(stream)) == nil)
        case .bySkipping:
          try goesOn(server, stream + 2)
          next = stream + 4
        }
        let fault = server.receive(bytes(late, stream))
        if late == .trailers {
          #expect(fault == .protocolViolation(.streamClosed))
          #expect(try server.frames().last?.code == 5)
        } else {
          #expect(fault == nil)
          let frames = try server.frames()
          #expect(frames.map(\.kind) == [Kind.reset] && frames.map(\.code) == [5])
          try goesOn(server, next)
        }
        server.close()
      }
    }
  }

  /// A number is used again for another stream only 1,024 streams later: what it was is forgotten.
  @Test func whatIsRememberedBelongsToOneStream() throws {
    let server = try rejecting(1_024)
    try goesOn(server, 2_049)
    #expect(
      server.receive(bytes(.trailers, 2_049)) == .protocolViolation(.streamClosed))
    server.close()

    // A jump over more streams than are remembered.
    let jumping = try rejecting(1_024)
    try goesOn(jumping, 1_000_001)
    #expect(jumping.receive(bytes(.trailers, 1)) == nil)
    #expect(jumping.receive(bytes(.trailers, 999_999)) == .protocolViolation(.streamClosed))
    jumping.close()
  }

  @Test(arguments: [0, 1, 2, 3] as [UInt8]) func idleStreamsStayAnError(kind: UInt8) throws {
    let server = try rejecting(20)
    let frame: [UInt8] =
      switch kind {
      case 0: bytes(.data, 41)
      case 1: bytes(.windowUpdate, 41)
      case 2: bytes(.reset, 41)
      default: bytes(.data, 2)
      }
    #expect(server.receive(frame) == .protocolViolation(.protocolError))
    server.close()
  }

  /// What HAProxy 2.6 sends behind early rejections changes nothing; anything else on stream 0 does.
  @Test func aResetOfNothingIsIgnored() throws {
    let server = try rejecting(20)
    for _ in 0..<100 { #expect(server.receive(ServerFrame.reset(0, 0)) == nil) }
    #expect(try server.frames().isEmpty)
    try goesOn(server, 41)
    server.close()
    for code: UInt32 in [1, 5, 7, 8, 11, 0x8000_0000, .max] {
      let server = try rejecting(1)
      #expect(server.receive(ServerFrame.reset(0, code)) == .protocolViolation(.protocolError))
      server.close()
    }
    for length in [0, 3, 5] {
      let server = try rejecting(1)
      let frame = ServerFrame(
        kind: Kind.reset, stream: 0, payload: [UInt8](repeating: 0, count: length))
      #expect(server.receive(frame.bytes) == .protocolViolation(.protocolError))
      server.close()
    }
  }

  @Test func lateDataCountsOnTheConnection() throws {
    let server = try rejecting(1)
    var given = 0
    let part = [UInt8](repeating: 0, count: 10_000)
    for _ in 0..<200 {
      #expect(server.receive(ServerFrame.data(1, part, endsStream: false)) == nil)
      given += try server.frames().filter { $0.kind == Kind.windowUpdate && $0.stream == 0 }
        .reduce(0) { $0 + Int($1.code) }
    }
    // All but what is less than half of the window.
    #expect(given <= 2_000_000 && given > 2_000_000 - (1 << 19) - part.count)
    server.close()
  }
}
