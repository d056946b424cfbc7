// Bytes in: however they are cut and whatever they are, the connection says the same, or ends cleanly.
import HTTP2
import Testing

/// A small generator of our own: the same numbers on every machine (SplitMix64).
struct ServerSeededNumbers: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var mixed = state
    mixed = (mixed ^ mixed >> 30) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
    return mixed ^ mixed >> 31
  }
}

/// A client's side of a connection with a bit of everything.
private func recording() -> [[UInt8]] {
  typealias Frame = ServerFrame
  var encoder = ServerTestEncoder()
  let block = ServerField.literals(ServerField.call("/a/A"))
  let body = grpcMessage(Array("first".utf8))
  return [
    Frame.preface, Frame.settings([(1, 100), (4, 100_000)]),
    Frame.headers(1, block), Frame.data(1, Array(body[..<3]), endsStream: false),
    Frame.data(1, Array(body[3...])),
    Frame(kind: 0xfa, flags: 0xff, stream: 3, payload: [1, 2, 3]).bytes,
    Frame.headers(3, Array(block[..<10]), endsHeaders: false),
    Frame.continuation(3, Array(block[10..<20]), endsHeaders: false),
    Frame.continuation(3, Array(block[20...]), endsHeaders: true),
    Frame(kind: Frame.Kind.data, flags: Frame.padded, stream: 3, payload: [2] + body + [0, 0])
      .bytes,
    Frame.headers(3, ServerField.literals([ServerField("sum", "1")]), endsStream: true),
    Frame.ping(), Frame.settings(),
    Frame.headers(5, encoder.encode(ServerField.call("/a/B", timeout: "1S"))),
    Frame.data(5, grpcMessage([])),
    Frame.headers(7, encoder.encode(ServerField.call("/a/B", timeout: "1S"))),
    Frame.data(7, grpcMessage([7])),
    Frame.headers(9, encoder.encode(ServerField.call("/a/C", caller: "me")), endsStream: true),
    Frame.headers(11, encoder.encode(ServerField.call("/a/B", timeout: "1S"))),
    Frame.reset(11), Frame.windowUpdate(0, 1), Frame.priority(13),
    Frame.headers(13, encoder.encode(ServerField.call("/a/B", timeout: "1S"))),
    Frame.data(13, grpcMessage([13])),
  ]
}

@Suite struct ServerReceivingTests {
  /// Calls in their order, and the frames of each stream.
  private struct Outcome: Equatable {
    var calls: [ServerUnderTest.Call]
    var frames: [UInt32: [ServerFrame]]
  }

  private func outcome(of chunks: [[UInt8]]) throws -> Outcome {
    let server = try ServerUnderTest()
    for chunk in chunks { #expect(server.receive(chunk) == nil) }
    let frames = try Dictionary(grouping: server.frames(), by: \.stream)
    #expect(server.connection.queuedBytes == 0)
    #expect(server.connection.isEstablished)
    server.close()
    return Outcome(calls: server.calls, frames: frames)
  }

  @Test func everySplitPointGivesTheSame() throws {
    let whole = recording().flatMap { $0 }
    let expected = try outcome(of: [whole])
    #expect(expected.calls.map(\.head) == Array("AABBCB".utf8).map { Int32($0) })
    #expect(expected.calls.map(\.timeout) == [nil, nil, "1S", "1S", nil, "1S"])
    #expect(expected.calls.map(\.caller) == ["", "", "", "", "me", ""])
    #expect(expected.calls.map(\.body).last == grpcMessage([13]))
    #expect(try outcome(of: recording()) == expected)
    #expect(try outcome(of: whole.map { [$0] }) == expected)
    for cut in 1..<whole.count {
      let parts = [Array(whole[..<cut]), Array(whole[cut...])]
      #expect(try outcome(of: parts) == expected, "cut at \(cut)")
    }
  }

  @Test(arguments: 0..<50) func randomPiecesGiveTheSame(seed: UInt64) throws {
    let whole = recording().flatMap { $0 }
    let expected = try outcome(of: [whole])
    var numbers = ServerSeededNumbers(state: seed)
    #expect(try outcome(of: Self.pieces(of: whole, &numbers)) == expected)
  }

  static func pieces(_ most: Int = 60, of bytes: [UInt8], _ numbers: inout ServerSeededNumbers)
    -> [[UInt8]]
  {
    var pieces: [[UInt8]] = []
    var at = 0
    while at < bytes.count {
      let end = min(bytes.count, at + Int.random(in: 1...most, using: &numbers))
      pieces.append(Array(bytes[at..<end]))
      at = end
    }
    return pieces
  }

  // MARK: Hostile bytes

  /// Feeds bytes to a new connection of a context that lives on, and checks what must hold whatever they are.
  private func survives(
    _ context: ServerContext, _ pieces: [[UInt8]], _ what: Comment
  ) throws {
    let server = try ServerUnderTest(context)
    server.wantsData = pieces.count % 2 == 0
    server.readsData = pieces.count % 4 == 0
    var fault: ConnectionFault?
    for piece in pieces {
      fault = server.receive(piece)
      if fault != nil { break }
    }
    let bytes = server.output()
    let frames = try #require(ServerFrame.parse(bytes), what)
    if fault != nil {
      #expect(frames.contains { $0.kind == ServerFrame.Kind.goAway }, what)
      #expect(server.receive(ServerFrame.ping()) == nil, what)
      #expect(server.output().isEmpty, what)
      #expect(server.connection.isFinished, what)
    } else {
      #expect(server.connection.streamCount >= 0 && server.connection.queuedBytes >= 0, what)
    }
    server.close()
    let closed = server.events.filter { $0.kind == .closed }
    #expect(Set(closed.map { "\($0.id)" }).count == closed.count, what)
  }

  private func stillWorks(_ context: ServerContext) throws {
    let server = try ServerUnderTest(context)
    let block = ServerField.literals(ServerField.call("/a/Z"))
    #expect(
      server.receive(
        ServerFrame.preface + ServerFrame.settings() + ServerFrame.headers(1, block)
          + ServerFrame.data(1, grpcMessage([1]))) == nil)
    #expect(server.calls.map(\.head) == [Int32(UInt8(ascii: "Z"))])
    #expect(try server.frames().contains { $0.stream == 1 && $0.flags & 1 == 1 })
    server.close()
  }

  @Test(arguments: 1..<9) func corruptedConnections(seed: UInt64) throws {
    var numbers = ServerSeededNumbers(state: seed)
    let context = ServerUnderTest.makeContext()
    let parts = recording()
    for number in 0..<1_000 {
      var mutated = Array(parts[2...].shuffledALittle(&numbers))
      for _ in 0..<Int.random(in: 1...4, using: &numbers) {
        let part = Int.random(in: 0..<mutated.count, using: &numbers)
        let byte = Int.random(in: 0..<mutated[part].count, using: &numbers)
        mutated[part][byte] = UInt8.random(in: 0...255, using: &numbers)
      }
      let bytes = parts[0] + parts[1] + mutated.flatMap { $0 }
      let pieces =
        number % 4 == 0 ? Self.pieces(200, of: bytes, &numbers) : [bytes]
      try survives(context, pieces, "seed \(seed), case \(number)")
    }
    try stillWorks(context)
  }

  @Test(arguments: 1..<9) func randomFrames(seed: UInt64) throws {
    var numbers = ServerSeededNumbers(state: seed &* 7919)
    let context = ServerUnderTest.makeContext()
    let block = ServerField.literals(ServerField.call("/a/A"))
    let payloads = [
      block, Array(block[..<20]), [], [0], [0x80], [0x20], [0xbe], [0x83, 0x86],
      [0, 0, 0, 0], [0, 0, 0, 1], [0x7f, 255, 255, 255], [0, 0, 0, 0, 0], [0, 0, 0, 0, 9, 9],
      [0, 4, 0, 0, 0, 0], [0, 4, 0x7f, 255, 255, 255], [0, 1, 0, 0, 0, 0],
      [UInt8](repeating: 0, count: 8), [UInt8](repeating: 255, count: 300),
    ]
    for number in 0..<1_000 {
      var bytes = ServerFrame.preface + ServerFrame.settings()
      for _ in 0..<Int.random(in: 1...12, using: &numbers) {
        let frame = ServerFrame(
          kind: UInt8.random(in: 0...10, using: &numbers),
          flags: UInt8.random(in: 0...255, using: &numbers)
            & [0, 1, 4, 5, 13, 45, 255].randomElement(using: &numbers)!,
          stream: [0, 1, 1, 1, 3, 5, 2, 101, 0x7fff_ffff, 0x8000_0001].randomElement(
            using: &numbers)!,
          payload: payloads.randomElement(using: &numbers)!)
        bytes += frame.bytes
      }
      try survives(context, Self.pieces(400, of: bytes, &numbers), "seed \(seed), case \(number)")
    }
    try stillWorks(context)
  }
}

extension ArraySlice<[UInt8]> {
  /// Some parts left out, some twice.
  fileprivate func shuffledALittle(_ numbers: inout ServerSeededNumbers) -> [[UInt8]] {
    var parts = Array(self)
    for _ in 0..<Int.random(in: 0...3, using: &numbers) {
      let index = Int.random(in: 0..<parts.count, using: &numbers)
      switch Int.random(in: 0..<3, using: &numbers) {
      case 0: parts.remove(at: index)
      case 1: parts.insert(parts[index], at: index)
      default: parts.swapAt(index, Int.random(in: 0..<parts.count, using: &numbers))
      }
    }
    return parts
  }
}
