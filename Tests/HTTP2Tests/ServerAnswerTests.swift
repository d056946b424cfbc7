// Answers out: frames, trailers, windows, and what becomes of streams that are gone.
import HTTP2
import Testing

@Suite struct ServerAnswerTests {
  private typealias Kind = ServerFrame.Kind
  private static let good = [
    ServerField(":status", "200"), ServerField("content-type", "application/grpc"),
  ]

  private let block = ServerField.literals(ServerField.call("/a/A"))

  private func call(_ stream: UInt32) -> [UInt8] {
    ServerFrame.headers(stream, block) + ServerFrame.data(stream, grpcMessage([]))
  }

  private static func status(_ code: Int) -> [ServerField] {
    [ServerField("grpc-status", "\(code)")]
  }

  private func body(_ frames: [ServerFrame], _ stream: UInt32) -> [UInt8] {
    frames.filter { $0.kind == Kind.data && $0.stream == stream }.flatMap(\.payload)
  }

  @Test func messagesHaveHeadersAndTrailers() throws {
    let server = try ServerUnderTest.connected()
    let decoder = ServerTestDecoder()
    for stream in [1, 3, 5, 7] as [UInt32] {
      #expect(server.receive(call(stream)) == nil)
      #expect(server.connection.queuedBytes > 0 && server.connection.wantsWrite)
      let frames = try server.frames()
      #expect(frames.map(\.kind) == [Kind.headers, Kind.data, Kind.headers])
      #expect(frames.map(\.flags) == [4, 0, 5])
      #expect(frames.allSatisfy { $0.stream == stream })
      #expect(decoder.decode(frames[0].payload) == Self.good)
      #expect(frames[1].payload == grpcMessage(Array("hello".utf8)))
      #expect(decoder.decode(frames[2].payload) == Self.status(0))
      #expect(server.connection.queuedBytes == 0 && !server.connection.wantsWrite)
      #expect(server.connection.streamCount == 0 && server.count(.closed) == Int(stream + 1) / 2)
    }
    server.close()
  }

  @Test(arguments: [0, 1, 9, 10, 16]) func answersEndWithAStatus(code: UInt8) throws {
    let server = try ServerUnderTest.connected { server, stream in
      if code == 0 { return server.end(stream) }
      let trailers = HeaderFields()
      trailers.begin()
      trailers.add("grpc-status", decimal: UInt64(code))
      server.end(stream, trailers: trailers)
    }
    let decoder = ServerTestDecoder()
    for stream in [1, 3, 5] as [UInt32] {
      #expect(server.receive(call(stream)) == nil)
      let frames = try server.frames()
      let fields = frames.flatMap { decoder.decode($0.payload) ?? [] }
      #expect(fields == Self.good + Self.status(Int(code)))
      #expect(frames.map { $0.flags & 1 } == [0, 1])
    }
    server.close()
  }

  @Test(
    "Trailers of their own follow the answer, whatever their length and the peer's window",
    arguments: [1, 100, 16_000], [65_535, 10])
  func longTrailers(length: Int, window: Int) throws {
    let server = try ServerUnderTest.connected { _, _ in }
    if window < 65_535 {
      #expect(server.receive(ServerFrame.settings([(4, UInt32(window))])) == nil)
    }
    #expect(server.receive(call(1)) == nil)
    let stream = try #require(server.openStreams.first)
    _ = try server.frames()
    let message = [UInt8](repeating: 7, count: 20_000)
    server.send(message, on: stream, ends: false)
    let trailers = HeaderFields()
    trailers.begin()
    trailers.add("grpc-status", decimal: 14)
    let value = [UInt8](repeating: 97, count: length)
    trailers.add("grpc-message", value.span)
    server.end(stream, trailers: trailers)
    // Nothing follows the end.
    server.end(stream)
    var frames = try server.frames()
    if window < 65_535 {
      #expect(frames.last?.kind == Kind.data && server.connection.queuedBytes > 0)
      #expect(server.receive(ServerFrame.windowUpdate(1, 30_000)) == nil)
      frames += try server.frames()
    }
    #expect(body(frames, 1) == grpcMessage(message))
    let decoder = ServerTestDecoder()
    let blocks = frames.filter { $0.kind == Kind.headers }.map { decoder.decode($0.payload) }
    #expect(blocks.count == 2 && blocks.first == Self.good)
    let said = [
      ServerField("grpc-status", "14"),
      ServerField("grpc-message", String(repeating: "a", count: length)),
    ]
    #expect(blocks.last == said)
    #expect(frames.last?.flags == 5)
    #expect(server.connection.queuedBytes == 0 && server.connection.streamCount == 0)
    server.close()
  }

  @Test func messagesOfAStreamFollowEachOther() throws {
    let server = try ServerUnderTest.connected { _, _ in }
    #expect(server.receive(call(1)) == nil)
    let stream = try #require(server.openStreams.first)
    let decoder = ServerTestDecoder()
    var frames: [ServerFrame] = []
    for number in 0..<50 as Range<UInt8> {
      server.send([UInt8](repeating: number, count: Int(number) * 3), on: stream, ends: false)
      if number % 3 == 0 { frames += try server.frames() }
    }
    server.end(stream)
    frames += try server.frames()
    let expected = (0..<50 as Range<UInt8>).flatMap {
      grpcMessage([UInt8](repeating: $0, count: Int($0) * 3))
    }
    #expect(body(frames, 1) == expected)
    let blocks = frames.filter { $0.kind == Kind.headers }.map { decoder.decode($0.payload) }
    #expect(blocks == [Self.good, Self.status(0)])
    #expect(server.connection.queuedBytes == 0 && server.connection.streamCount == 0)
    server.close()
  }

  @Test(arguments: [200, 415, 405]) func refusalsAreHeadersAlone(httpStatus: Int) throws {
    let long = String(repeating: "x", count: 300)
    let server = try ServerUnderTest.connected { server, stream in
      let fields = HeaderFields()
      fields.begin(status: httpStatus)
      fields.add("content-type", "application/grpc")
      fields.add("grpc-status", "12")
      fields.add("grpc-message", long.utf8Span.span)
      server.respond(stream, headersOnly: fields)
    }
    let decoder = ServerTestDecoder()
    for stream in [1, 3] as [UInt32] {
      #expect(server.receive(call(stream)) == nil)
      let frames = try server.frames()
      #expect(frames.map(\.flags) == [5])
      let fields = [
        ServerField(":status", "\(httpStatus)"), ServerField("content-type", "application/grpc"),
        ServerField("grpc-status", "12"), ServerField("grpc-message", long),
      ]
      #expect(decoder.decode(frames[0].payload) == fields)
    }
    #expect(server.connection.queuedBytes == 0)
    server.close()
  }

  @Test func aPeerThatStillSendsIsToldToStop() throws {
    let server = try ServerUnderTest.connected()
    #expect(server.receive(ServerFrame.headers(1, block)) == nil)
    let stream = try #require(server.openStreams.first)
    server.send([1], on: stream)
    let frames = try server.frames()
    #expect(frames.map(\.kind) == [Kind.headers, Kind.data, Kind.headers, Kind.reset])
    #expect(frames.last?.code == 0)
    #expect(server.connection.streamCount == 0)
    // What was on its way is no error.
    #expect(server.receive(ServerFrame.data(1, [1, 2, 3])) == nil)
    #expect(try server.frames().allSatisfy { $0.kind == Kind.reset })
    server.close()
  }

  // MARK: Windows

  @Test func dataIsSentExactlyAsCreditIsGiven() throws {
    let server = try ServerUnderTest.connected(settings: [(4, 0)])
    let message = grpcMessage(Array("hello".utf8))
    #expect(server.receive(call(1)) == nil)
    #expect(try server.frames().map(\.kind) == [Kind.headers])
    #expect(!server.connection.wantsWrite && server.connection.queuedBytes == message.count)
    for sent in 1...message.count {
      #expect(server.receive(ServerFrame.windowUpdate(1, 1)) == nil)
      let frames = try server.frames()
      #expect(frames.first?.payload == [message[sent - 1]])
      #expect(server.connection.queuedBytes == message.count - sent)
      #expect(frames.count == (sent == message.count ? 2 : 1))
    }
    #expect(server.connection.streamCount == 0)
    server.close()
  }

  @Test func settingsTakeWindowsBelowZero() throws {
    let answer = [UInt8](repeating: 5, count: 1_000)
    let server = try ServerUnderTest.connected(settings: [(4, 100)]) { $0.send(answer, on: $1) }
    #expect(server.receive(call(1)) == nil)
    var sent = try body(server.frames(), 1).count
    #expect(sent == 100)
    let steps: [(size: UInt32, given: UInt32, total: Int)] = [
      (50, 0, 100), (50, 50, 100), (50, 1, 101), (0, 0, 101), (0, 51, 102), (400, 0, 502),
    ]
    for (size, given, total) in steps {
      let credit = given > 0 ? ServerFrame.windowUpdate(1, given) : []
      #expect(server.receive(ServerFrame.settings([(4, size)]) + credit) == nil)
      sent += try body(server.frames(), 1).count
      #expect(sent == total, "window \(size), credit \(given)")
    }
    server.close()
    #expect(server.connection.streamCount >= 0)
  }

  @Test func longAnswersAreCutIntoFramesAndAllArrive() throws {
    let answer = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 / 7) }
    var limits = ServerUnderTest.limits
    limits.bufferedBytesMax = 1 << 28
    let server = try ServerUnderTest.connected(
      limits: limits, settings: [(4, 1 << 20), (5, 1 << 20)]
    ) { $0.send(answer, on: $1) }
    let streams = (0..<20).map { UInt32(2 * $0 + 1) }
    for stream in streams { #expect(server.receive(call(stream)) == nil) }
    #expect(server.connection.queuedBytes == 20 * 200_005)
    var frames: [ServerFrame] = []
    for _ in 0..<80 {
      frames += try server.frames()
      #expect(server.receive(ServerFrame.windowUpdate(0, 60_000)) == nil)
    }
    frames += try server.frames()
    #expect(frames.allSatisfy { $0.payload.count <= 16_384 })
    for stream in streams { #expect(body(frames, stream) == grpcMessage(answer)) }
    #expect(server.connection.queuedBytes == 0 && server.connection.streamCount == 0)
    server.close()
  }

  /// Whoever waits for the connection's window gets some of it before another gets much more.
  @Test func streamsTakeTurnsAtTheConnectionsWindow() throws {
    let answer = [UInt8](repeating: 1, count: 100_000)
    let server = try ServerUnderTest.connected(settings: [(4, 1 << 20)]) { $0.send(answer, on: $1) }
    let streams = (0..<5).map { UInt32(2 * $0 + 1) }
    for stream in streams { #expect(server.receive(call(stream)) == nil) }
    var frames = try server.frames()
    for _ in 0..<10 {
      #expect(server.receive(ServerFrame.windowUpdate(0, 16_384)) == nil)
      frames += try server.frames()
    }
    let shares = streams.map { body(frames, $0).count }
    #expect((shares.max() ?? 0) - (shares.min() ?? 0) <= 2 * 16_384, "\(shares)")
    server.close()
  }

  // MARK: Streams that are gone

  @Test func staleNamesFindNothing() throws {
    let server = try ServerUnderTest.connected()
    #expect(server.receive(ServerFrame.headers(1, block)) == nil)
    let stale = try #require(server.openStreams.first)
    let name = stale.id
    let context = server.context
    #expect(context.stream(name)?.connection?.token == 7)
    #expect(server.receive(ServerFrame.reset(1)) == nil)
    // Its record is in use again.
    #expect(server.receive(ServerFrame.headers(3, block)) == nil)
    let fresh = try #require(server.openStreams.first)
    #expect(fresh.id.index == name.index && fresh.id.generation != name.generation)
    #expect(context.stream(name) == nil)
    #expect(context.stream(StreamID(index: name.index + 1, generation: 0)) == nil)
    #expect(context.stream(StreamID(index: .max, generation: 0)) == nil)
    #expect(context.stream(fresh.id)?.id == fresh.id)
    #expect(server.notes(of: fresh)?.head == 65)
    #expect(try server.frames().isEmpty && server.connection.queuedBytes == 0)
    #expect(server.receive(ServerFrame.data(3, grpcMessage([]))) == nil)
    #expect(server.calls.count == 1)
    server.close()
  }

  @Test func answersToClosedStreamsAreIgnored() throws {
    let server = try ServerUnderTest.connected { server, stream in
      server.send([1], on: stream)
      let again: [UInt8] = [2]
      let isTaken = server.context.append(again.span, to: stream)
      #expect(isTaken, "what has its end takes nothing more, and that is no lack of room")
      server.end(stream)
      let fields = HeaderFields()
      fields.begin(status: 200)
      server.respond(stream, headersOnly: fields)
    }
    #expect(server.receive(call(1)) == nil)
    let frames = try server.frames()
    #expect(frames.count == 3 && body(frames, 1) == grpcMessage([1]))
    server.close()
  }

  @Test func aResetDropsTheAnswer() throws {
    let server = try ServerUnderTest.connected(settings: [(4, 3)])
    #expect(server.receive(call(1) + call(3)) == nil)
    #expect(try body(server.frames(), 1).count == 3)
    #expect(server.connection.queuedBytes == 14)
    #expect(server.receive(ServerFrame.reset(1) + ServerFrame.windowUpdate(1, 100)) == nil)
    #expect(server.connection.queuedBytes == 7)
    #expect(try server.frames().isEmpty)
    #expect(server.receive(ServerFrame.windowUpdate(3, 100)) == nil)
    #expect(try body(server.frames(), 3).count == 7)
    #expect(server.connection.queuedBytes == 0)
    server.close()
  }

  @Test func closingTellsOfEveryStreamOnce() throws {
    let context = ServerUnderTest.makeContext()
    for _ in 0..<20 {
      let server = try ServerUnderTest(context)
      #expect(server.receive(ServerFrame.preface + ServerFrame.settings([(4, 0)])) == nil)
      for stream in 0..<30 { #expect(server.receive(call(UInt32(2 * stream + 1))) == nil) }
      #expect(server.connection.streamCount == 30)
      var listed = 0
      var next = server.connection.firstStream
      while let stream = next {
        listed += 1
        next = server.connection.stream(after: stream)
      }
      #expect(listed == 30)
      server.close()
      #expect(server.count(.closed) == 30)
    }
  }

  // MARK: The end

  @Test func aShutdownServesWhatIsOpen() throws {
    let server = try ServerUnderTest.connected()
    #expect(server.receive(ServerFrame.headers(1, block)) == nil)
    server.connection.announceShutdown()
    #expect(server.receive(ServerFrame.headers(3, block)) == nil)
    server.connection.refuseNewStreams()
    let goodbyes = try server.frames().filter { $0.kind == Kind.goAway }
    #expect(
      goodbyes.map { Array($0.payload.prefix(4)) } == [[0x7f, 255, 255, 255], [0, 0, 0, 3]])
    #expect(goodbyes.map(\.code) == [0, 0])
    #expect(server.receive(call(5)) == nil)
    #expect(
      try server.frames().allSatisfy { $0.kind == Kind.reset && $0.stream == 5 && $0.code == 7 })
    for stream in [1, 3] as [UInt32] {
      #expect(!server.connection.isFinished)
      #expect(server.receive(ServerFrame.data(stream, grpcMessage([]))) == nil)
      #expect(try body(server.frames(), stream).count == 10)
    }
    #expect(server.connection.isFinished && server.calls.count == 2)
    server.close()
  }
}
