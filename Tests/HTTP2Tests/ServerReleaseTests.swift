// Responses that are written before they may be seen.
import HTTP2
import Testing

@Suite struct ServerReleaseTests {
  private typealias Kind = ServerFrame.Kind

  private let block = ServerField.literals(ServerField.call("/a/A"))

  /// A server with one call that is whole and has no response.
  private func waiting(
    limits: HTTP2Limits = ServerUnderTest.limits, settings: [(UInt16, UInt32)] = []
  ) throws -> (ServerUnderTest, HTTP2.Stream) {
    let server = try ServerUnderTest.connected(limits: limits, settings: settings) { _, _ in }
    #expect(
      server.receive(ServerFrame.headers(1, block) + ServerFrame.data(1, grpcMessage([]))) == nil)
    return (server, try #require(server.openStreams.first))
  }

  private func append(_ bytes: [UInt8], _ server: ServerUnderTest, _ stream: HTTP2.Stream) {
    let isTaken = server.context.append(bytes.span, to: stream)
    #expect(isTaken)
  }

  private func data(_ frames: [ServerFrame]) -> [UInt8] {
    frames.filter { $0.kind == Kind.data }.flatMap(\.payload)
  }

  @Test func nothingIsSeenBeforeItsRelease() throws {
    let (server, stream) = try waiting()
    append([1, 2, 3], server, stream)
    let first = server.context.position(stream)
    append([4, 5], server, stream)
    let second = server.context.position(stream)
    server.context.end(stream)
    #expect(!stream.isReleased && stream.hasResponse && stream.queuedBytes == 5)
    #expect(try server.frames().isEmpty)
    server.context.release(stream, upTo: first)
    #expect(stream.isReleased)
    #expect(try data(server.frames()) == [1, 2, 3])
    // What was released once stays so.
    server.context.release(stream, upTo: first - 1)
    #expect(try server.frames().isEmpty && server.connection.streamCount == 1)
    server.context.release(stream, upTo: second)
    let frames = try server.frames()
    #expect(data(frames) == [4, 5] && frames.last?.flags == 5)
    #expect(server.connection.streamCount == 0 && server.connection.queuedBytes == 0)
    server.close()
  }

  @Test func aMessageMayBeWrittenWhereItGoesOut() throws {
    let (server, stream) = try waiting()
    var expected: [UInt8] = []
    for number in 0..<100 as Range<UInt8> {
      let room = unsafe server.context.room(stream)
      let count = min(room.count, 20)
      for index in 0..<count { unsafe room[index] = number }
      server.context.commit(count, to: stream)
      expected += [UInt8](repeating: number, count: count)
      if number % 7 == 0 { append([255], server, stream) }
      if number % 7 == 0 { expected.append(255) }
      if number % 3 == 0 { server.release(stream) }
      if number % 5 == 0 {
        let seen = try data(server.frames())
        #expect(expected.starts(with: seen))
        expected.removeFirst(seen.count)
      }
    }
    server.end(stream)
    #expect(try data(server.frames()) == expected)
    #expect(server.connection.queuedBytes == 0 && server.connection.streamCount == 0)
    server.close()
  }

  @Test(arguments: 0..<30) func randomReleases(seed: UInt64) throws {
    var numbers = ServerSeededNumbers(state: seed)
    let (server, stream) = try waiting(settings: [(4, 1 << 20)])
    var written: [UInt8] = []
    var positions: [Int] = []
    var seen: [UInt8] = []
    var released = 0
    for step in 0..<400 {
      switch Int.random(in: 0..<6, using: &numbers) {
      case 0, 1:
        let bytes = [UInt8](
          repeating: UInt8(truncatingIfNeeded: step),
          count: Int.random(in: 0...300, using: &numbers))
        append(bytes, server, stream)
        written += bytes
        positions.append(written.count)
        #expect(server.context.position(stream) == written.count)
      case 2:
        let room = unsafe server.context.room(stream)
        let count = min(room.count, Int.random(in: 0...40, using: &numbers))
        for index in 0..<count { unsafe room[index] = UInt8(truncatingIfNeeded: step) }
        server.context.commit(count, to: stream)
        written += [UInt8](repeating: UInt8(truncatingIfNeeded: step), count: count)
      case 3:
        guard let position = positions.randomElement(using: &numbers) else { continue }
        server.context.release(stream, upTo: position)
        released = max(released, position)
      case 4:
        seen += try data(server.frames())
        #expect(seen.count == released, "step \(step)")
      default:
        guard Int.random(in: 0..<4, using: &numbers) == 0 else { continue }
        server.context.discardUnreleased(stream)
        written.removeLast(written.count - released)
        positions.removeAll { $0 > released }
        #expect(server.context.position(stream) == released)
      }
      #expect(server.connection.queuedBytes == written.count - seen.count)
      #expect(stream.queuedBytes == written.count - seen.count)
    }
    server.end(stream)
    seen += try data(server.frames())
    #expect(seen == written, "seed \(seed)")
    #expect(server.connection.queuedBytes == 0 && server.connection.streamCount == 0)
    server.close()
  }

  @Test(arguments: [false, true]) func whatWasNotReleasedCanBeTakenBack(hasBegun: Bool) throws {
    let (server, stream) = try waiting()
    if hasBegun {
      append([1], server, stream)
      server.release(stream)
      #expect(try data(server.frames()) == [1])
    }
    let headers = HeaderFields()
    headers.begin()
    headers.add("grpc-encoding", "gzip")
    if !hasBegun {
      let isTaken = server.context.begin(stream, headers: headers)
      #expect(isTaken && stream.hasOwnHeaders)
    }
    append([2, 2], server, stream)
    server.context.end(stream)
    server.context.discardUnreleased(stream)
    #expect(!stream.hasResponse && !stream.hasOwnHeaders)
    #expect(server.connection.queuedBytes == 0)
    let failure = HeaderFields()
    if hasBegun {
      failure.begin()
      failure.add("grpc-status", "14")
      failure.withBlock { server.context.end(stream, trailers: $0) }
      server.release(stream)
    } else {
      failure.begin(status: 200)
      failure.add("grpc-status", "14")
      server.respond(stream, headersOnly: failure)
    }
    let frames = try server.frames()
    #expect(data(frames).isEmpty && frames.map(\.flags) == [5])
    let fields = try #require(ServerTestDecoder().decode(frames[0].payload))
    #expect(fields.last == ServerField("grpc-status", "14"))
    // A response that is whole and released stays.
    server.context.discardUnreleased(stream)
    #expect(server.connection.streamCount == 0)
    server.close()
  }

  @Test func aWholeResponseThatIsReleasedIsNotTakenBack() throws {
    let (server, stream) = try waiting()
    server.send([9], on: stream)
    server.context.discardUnreleased(stream)
    #expect(stream.hasResponse)
    #expect(try data(server.frames()) == grpcMessage([9]))
    server.close()
  }

  /// What becomes of a response that its owner keeps, in turn: it is sent, taken back, reset by the peer, and
  /// left behind by the connection's end.
  @Test func aKeptResponseIsShortAndInUseUntilItsStreamIsReleased() throws {
    let server = try ServerUnderTest.connected { _, _ in }
    let decoder = ServerTestDecoder()
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 1024, alignment: 16)
    defer { unsafe memory.deallocate() }
    let kept = unsafe memory.bindMemory(to: KeptBlock.self, capacity: 1)
    let failure = HeaderFields()
    failure.begin(status: 200)
    failure.add("content-type", "application/grpc")
    failure.add("grpc-status", "9")
    failure.add("details", [UInt8](repeating: 100, count: 300).span)
    unsafe kept.initialize(to: KeptBlock(number: 1, count: failure.byteCount))
    failure.withBlock { span in
      for index in span.indices { unsafe KeptBlock.bytes(kept)[index] = span[index] }
    }

    func isInUse() -> Bool { unsafe kept.pointee.isInUse }
    func call(_ number: UInt32) throws -> HTTP2.Stream {
      let bytes = ServerFrame.headers(number, block) + ServerFrame.data(number, grpcMessage([]))
      #expect(server.receive(bytes) == nil)
      let stream = try #require(server.openStreams.last)
      unsafe server.context.respond(stream, headersOnly: kept)
      #expect(stream.hasResponse && !stream.isReleased && isInUse())
      return stream
    }
    var lengths: [Int] = []
    for number in [1, 3, 5, 7] as [UInt32] {
      let stream = try call(number)
      #expect(try server.frames().isEmpty)
      server.release(stream)
      let frames = try server.frames()
      #expect(frames.map(\.flags) == [5] && !isInUse())
      lengths.append(frames[0].payload.count)
      #expect(
        decoder.decode(frames[0].payload) == [
          ServerField(":status", "200"), ServerField("content-type", "application/grpc"),
          ServerField("grpc-status", "9"),
          ServerField("details", String(repeating: "d", count: 300)),
        ])
    }
    #expect(lengths.map { $0 < 10 } == [false, false, true, true])

    let takenBack = try call(9)
    server.context.discardUnreleased(takenBack)
    #expect(!takenBack.hasResponse && !isInUse() && server.connection.queuedBytes == 0)
    unsafe server.context.respond(takenBack, headersOnly: kept)
    server.release(takenBack)
    #expect(try server.frames().map(\.payload.count) == [4])

    _ = try call(11)
    #expect(server.receive(ServerFrame.reset(11)) == nil)
    server.handleEvents()
    #expect(!isInUse())

    _ = try call(13)
    server.close()
    #expect(!isInUse() && server.context.bufferedBytes == 0)
  }

  @Test func headerFieldsOfItsOwnComeBehindTheConstantOne() throws {
    let (server, stream) = try waiting()
    let headers = HeaderFields()
    headers.begin()
    headers.add("grpc-encoding", "gzip")
    let isTaken = server.context.begin(stream, headers: headers)
    #expect(isTaken)
    append([1, 2], server, stream)
    server.end(stream)
    let frames = try server.frames()
    let decoder = ServerTestDecoder()
    #expect(
      decoder.decode(frames[0].payload) == [
        ServerField(":status", "200"), ServerField("content-type", "application/grpc"),
        ServerField("grpc-encoding", "gzip"),
      ])
    #expect(data(frames) == [1, 2])
    #expect(decoder.decode(frames[2].payload) == [ServerField("grpc-status", "0")])
    #expect(server.connection.queuedBytes == 0)
    server.close()
  }

  @Test func theOwnerHearsWhenHalfOfAResponseIsOut() throws {
    let (server, stream) = try waiting(settings: [(4, 0)])
    append([UInt8](repeating: 1, count: 1000), server, stream)
    server.release(stream)
    _ = try server.frames()
    #expect(server.count(.writable) == 0)
    server.context.tellWhenWritable(stream)
    for _ in 0..<499 {
      #expect(server.receive(ServerFrame.windowUpdate(1, 1)) == nil)
      _ = try server.frames()
    }
    #expect(server.count(.writable) == 0)
    #expect(server.receive(ServerFrame.windowUpdate(1, 1)) == nil)
    _ = try server.frames()
    #expect(server.count(.writable) == 1)
    // Once, until it is asked for again.
    #expect(server.receive(ServerFrame.windowUpdate(1, 400)) == nil)
    _ = try server.frames()
    #expect(server.count(.writable) == 1 && stream.queuedBytes == 100)
    server.close()
  }

  @Test func aSpentBudgetTakesNothingButTheEnd() throws {
    var limits = ServerUnderTest.limits
    limits.bufferedBytesMax = 10_000
    let (server, stream) = try waiting(limits: limits)
    let long = [UInt8](repeating: 1, count: 20_000)
    let isTaken = server.context.append(long.span, to: stream)
    #expect(!isTaken && stream.queuedBytes == 0 && server.connection.queuedBytes == 0)
    let failure = HeaderFields()
    failure.begin(status: 200)
    let text = [UInt8](repeating: 97, count: 9_999)
    failure.add("grpc-message", text.span)
    failure.add("grpc-status", "14")
    server.respond(stream, headersOnly: failure)
    #expect(try server.frames().map(\.flags) == [5])
    server.close()
    #expect(server.context.bufferedBytes == 0)
  }

  @Test func aStreamThatIsGoneTakesEverythingAndDoesNothing() throws {
    let (server, stream) = try waiting()
    append([1], server, stream)
    var isChecked = false
    // Between its reset and its release.
    let bytes = ServerFrame.reset(1)
    let fault = unsafe bytes.withUnsafeBytes { unsafe server.connection.receive($0) }
    #expect(fault == nil && stream.isClosed)
    append([2], server, stream)
    server.end(stream)
    server.context.discardUnreleased(stream)
    server.context.tellWhenWritable(stream)
    let fields = HeaderFields()
    fields.begin(status: 200)
    server.respond(stream, headersOnly: fields)
    isChecked = stream.connection == nil && server.context.stream(stream.id) == nil
    #expect(isChecked && server.connection.queuedBytes == 0)
    server.handleEvents()
    #expect(try server.frames().isEmpty)
    server.close()
  }

  @Test func whatWasNotReleasedMayBeOverwritten() throws {
    let (server, stream) = try waiting()
    append([1, 2], server, stream)
    server.context.release(stream, upTo: 2)
    #expect(try data(server.frames()) == [1, 2])
    let start = server.context.position(stream)
    append([0, 0, 5], server, stream)
    #expect(server.context.makeRoom(10_000, in: stream))
    #expect(unsafe server.context.room(stream).count >= 10_000)
    server.context.overwrite(stream, at: start, with: [3, 4].span)
    server.context.end(stream)
    server.context.release(stream, upTo: start + 3)
    #expect(try data(server.frames()) == [3, 4, 5])
    server.close()
  }

  @Test func thereIsRoomAsFarAsTheBudgetGoes() throws {
    var limits = ServerUnderTest.limits
    limits.bufferedBytesMax = 30_000
    let (server, stream) = try waiting(limits: limits)
    #expect(server.context.makeRoom(5_000, in: stream))
    #expect(!server.context.makeRoom(20_000, in: stream))
    server.close()
  }

  @Test(arguments: [[], [9], [UInt8](repeating: 9, count: 5_000)])
  func theFrontOfABodyMayBeReplaced(by bytes: [UInt8]) throws {
    let (server, stream) = try waiting()
    // A message's prefix of five bytes is there.
    let isReplaced = server.context.replace(
      first: 3, of: stream, with: [1, 2].span, bytes.span)
    #expect(isReplaced)
    let body = stream.withBody { span in span.indices.map { span[$0] } }
    #expect(body == [1, 2] + bytes + [0, 0] && stream.unreadBytes == body.count)
    server.context.consume(body.count, of: stream)
    #expect(stream.unreadBytes == 0)
    server.close()
  }
}
