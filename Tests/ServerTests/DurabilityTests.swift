import GRPC
import HTTP2
import Posix
import Server
import Testing

/// The seam for the journal: replies wait for their log sequence number.
@Suite("Durability")
struct DurabilityTests {
  private static let durable = 2

  @Test("Replies wait for their number, refusals too, and come in order")
  func waiting() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let first = try client.start("durable", [1])
    let refused = try client.start("durable", [2, 9])
    let third = try client.start("durable", [3])
    #expect(fixture.eventually { fixture.board.read { $0.executed[Self.durable] } == 3 })
    // A call that waits for nothing does not wait for them.
    #expect(try client.call("echo", [9]).messages == [[9]])

    fixture.board.makeDurable(upTo: 1)
    #expect(try client.answer(first).messages == [[1]])
    #expect(client.calls[refused] == nil)
    fixture.board.makeDurable(upTo: 2)
    let answer = try client.answer(refused)
    #expect(answer.code == StatusCode.aborted.rawValue)
    // What a failure says of retries waits with it.
    #expect(answer.fields["grpc-retry-pushback-ms"] == "9")
    #expect(client.calls[third] == nil)
    fixture.board.makeDurable(upTo: 3)
    #expect(try client.answer(third).messages == [[3]])
    #expect(try client.call("durable", [3]).messages == [[3]])
  }

  @Test("A stream that begins behind waiting replies stays open")
  func stream() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let gate = try client.start("durable", [1])
    #expect(fixture.eventually { fixture.board.read { $0.executed[Self.durable] } == 1 })
    let watch = try client.start("watch", [7])
    #expect(fixture.eventually { fixture.board.read { $0.executed[5] } == 1 })
    fixture.board.makeDurable(upTo: 1)
    #expect(try client.answer(gate).messages == [[1]])
    #expect(try client.read { $0.calls[watch]?.messages == [[7]] })
    // An answer to a later call shows that the stream's end did not come.
    #expect(try client.call("echo", [1]).messages == [[1]])
    #expect(client.calls[watch]?.hasEnded == false)
    fixture.server.shutDown()
    #expect(try client.answer(watch).code == StatusCode.unavailable.rawValue)
  }

  @Test("Many connections' replies come out with one sync")
  func manyConnections() throws {
    let fixture = try Fixture(loops: 2)
    let clients = try (0..<20).map { _ in try fixture.connect() }
    let streams = try clients.map { client in try (1...10).map { try client.start("durable", [$0]) }
    }
    #expect(fixture.eventually { fixture.board.read { $0.executed[Self.durable] } == 200 })
    fixture.board.makeDurable(upTo: 10)
    for (client, streams) in zip(clients, streams) {
      for (index, stream) in streams.enumerated() {
        #expect(try client.answer(stream).messages == [[UInt8(index + 1)]])
      }
    }
  }

  @Test("A reply for a client that has gone is dropped")
  func gone() throws {
    let fixture = try Fixture()
    do {
      let leaving = try fixture.connect()
      try leaving.start("durable", [1])
      try leaving.start("durable", [2, 2])
      #expect(fixture.eventually { fixture.board.read { $0.executed[Self.durable] } == 2 })
    }
    let client = try fixture.connect()
    let stream = try client.start("durable", [3])
    #expect(fixture.eventually { fixture.board.read { $0.executed[Self.durable] } == 3 })
    #expect(fixture.eventually { fixture.metric("holdfast_connections ") == 1 })
    fixture.board.makeDurable(upTo: 3)
    #expect(try client.answer(stream).messages == [[3]])
  }

  @Test("A call that was reset while it waited gets nothing, its neighbours do")
  func reset() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let dropped = try client.start("durable", [1])
    let kept = try client.start("durable", [1])
    #expect(fixture.eventually { fixture.board.read { $0.executed[Self.durable] } == 2 })
    try client.send(Frame.reset(dropped))
    #expect(fixture.eventually { fixture.board.read { $0.cancelled.count } == 1 })
    fixture.board.makeDurable(upTo: 1)
    #expect(try client.answer(kept).messages == [[1]])
    #expect(client.calls[dropped] == nil)
  }

  @Test("When the loop has no room for what waits, the next is refused and the rest still comes")
  func overload() throws {
    // A connection may hold half of what is free.
    let fixture = try Fixture { $0.http2.bufferedBytesMax = 100_000 }
    let client = try fixture.connect()
    let gate = try client.start("durable", [1])
    let answers = try (0..<20).map { _ in try client.start("big", [8, 1]) }
    #expect(fixture.eventually { fixture.board.read { $0.executed[4] } == 20 })
    #expect(try client.answer(try #require(answers.last)).code == StatusCode.unavailable.rawValue)
    #expect(client.calls[answers[0]] == nil)
    fixture.board.makeDurable(upTo: 1)
    #expect(try client.answer(gate).messages == [[1]])
    let codes = try answers.map { try client.answer($0).code }
    let taken = codes.prefix { $0 == 0 }.count
    #expect((2...12).contains(taken))
    #expect(codes.dropFirst(taken).allSatisfy { $0 == 14 })
    #expect(try client.call("big", [2]).messages?.first?.count == 2048)
  }

  @Test("Late answers come through the sink")
  func later() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let late = try (0..<5).map { try client.start("later", [$0]) }
    #expect(try client.call("echo", [7]).messages == [[7]])
    #expect(client.calls[late[0]] == nil)
    fixture.board.release()
    for (index, stream) in late.enumerated() {
      #expect(try client.answer(stream).messages == [[UInt8(index)]])
    }
  }
}
