import GRPC
import Posix
import Server
import Testing

@Suite("Shutdown")
struct ShutdownTests {
  /// How long a shutdown may take on a busy machine, beyond what it waits for.
  private static let slack = 5 * second

  private func timed(_ body: () throws -> Void) rethrows -> Int64 {
    let begun = SystemClock.monotonicNanoseconds()
    try body()
    return SystemClock.monotonicNanoseconds() - begun
  }

  @Test("A server without connections ends at once", arguments: [1, 3])
  func idle(loops: Int) throws {
    let fixture = try Fixture(loops: loops)
    let port = fixture.server.port
    #expect(fixture.eventually { fixture.board.read { $0.wakes.count } == loops })
    fixture.server.shutDown()
    #expect(timed { fixture.stop() } < Self.slack)
    #expect(fixture.board.read { $0.drains } == loops)
    #expect(refusesConnections(port))
  }

  private func refusesConnections(_ port: UInt16) -> Bool {
    guard let socket = try? Socket.connect(host: "127.0.0.1", port: port) else { return true }
    guard let poller = try? Poller(capacity: 1),
      (try? poller.add(socket.number, token: 0, writable: true)) != nil,
      (try? poller.wait(timeoutMilliseconds: 10_000)) == 1
    else { return false }
    return Socket.connectError(socket.number) != nil
  }

  @Test("Clients are told, open calls finish, then the connection is closed")
  func openCalls() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let late = try client.start("later", [1])
    #expect(try client.call("echo", [2]).code == 0)
    fixture.server.shutDown()
    #expect(try client.read { !$0.goAways.isEmpty })
    #expect(client.goAways.first == 0x7fff_ffff)
    #expect(refusesConnections(fixture.server.port))
    // The second notice names the last call that is served.
    #expect(try client.read { $0.goAways.last == late + 2 })
    #expect(!client.isClosed)
    fixture.board.release()
    #expect(try client.answer(late).messages == [[1]])
    #expect(try !client.read { _ in false })
    #expect(client.isClosed)
    #expect(timed { fixture.stop() } < Self.slack)
  }

  @Test("A call that was on its way when it began is served")
  func onItsWay() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let kept = try client.start("later", [1])
    #expect(try client.call("echo", [2]).code == 0)
    fixture.server.shutDown()
    #expect(try client.read { !$0.goAways.isEmpty })
    // At once after the notice, long before it is refused.
    let stream = try client.start("echo", [3])
    #expect(try client.read { $0.calls[stream]?.hasEnded ?? false })
    let answer = try client.answer(stream)
    #expect(answer.code == 0 || answer.resetCode == 7)
    fixture.board.release()
    #expect(try client.answer(kept).messages == [[1]])
  }

  @Test("Streams without an end are ended with UNAVAILABLE")
  func streams() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let watch = try client.start("watch", [1])
    #expect(try client.read { $0.calls[watch]?.messages == [[1]] })
    fixture.server.shutDown()
    let answer = try client.answer(watch)
    #expect(answer.messages == [[1]])
    #expect(answer.code == StatusCode.unavailable.rawValue)
    #expect(answer.text == "the server is shutting down")
    #expect(answer.fields["grpc-status-details-bin"] != nil)
    #expect(answer.fields["grpc-retry-pushback-ms"] == "250")
    #expect(timed { fixture.stop() } < Self.slack)
    #expect(fixture.board.read { $0.cancelled.count } == 1)
    #expect(
      fixture.eventually { fixture.metric("grpc_server_handled_total", with: "Unavailable") == 1 })
  }

  @Test("What does not end is refused when the time is over")
  func bound() throws {
    let fixture = try Fixture { $0.shutdownNanosecondsMax = 400 * millisecond }
    let client = try fixture.connect()
    let never = try client.start("later", [1])
    let undurable = try client.start("durable", [9])
    #expect(fixture.eventually { fixture.board.read { $0.executed[2] } == 1 })
    let elapsed = timed { fixture.stop() }
    #expect(elapsed >= 400 * millisecond)
    #expect(elapsed < 400 * millisecond + Self.slack)
    for stream in [never, undurable] {
      let answer = try client.answer(stream)
      #expect(answer.code == StatusCode.unavailable.rawValue)
      #expect(answer.fields["grpc-retry-pushback-ms"] == "250")
    }
    #expect(fixture.board.read { $0.cancelled.count } == 2)
    #expect(
      fixture.eventually { fixture.metric("grpc_server_handled_total", with: "Unavailable") == 2 })
  }

  @Test("Connections that say nothing or read nothing do not hold it up")
  func silent() throws {
    let fixture = try Fixture { $0.shutdownNanosecondsMax = 2 * second }
    let silent = try Client(port: fixture.server.port, greets: false)
    let deaf = try fixture.connect()
    #expect(try deaf.read { $0.isGreeted })
    for _ in 0..<100 { try deaf.start("big", [200]) }
    #expect(fixture.eventually { fixture.metric("holdfast_connections ") == 2 })
    #expect(timed { fixture.stop() } < 2 * second + Self.slack)
    #expect(try !silent.read { _ in false })
    #expect(silent.isClosed)
  }

  @Test("Idle connections are closed soon")
  func idleConnections() throws {
    let fixture = try Fixture(loops: 2)
    let clients = try (0..<10).map { _ in try fixture.connect() }
    for client in clients { #expect(try client.call("echo", [1]).code == 0) }
    let elapsed = timed { fixture.stop() }
    // Well before the five seconds of the limit.
    #expect(elapsed < 4 * second)
    for client in clients {
      #expect(try !client.read { _ in false })
      #expect(client.isClosed)
      #expect(!client.goAways.isEmpty)
    }
    #expect(fixture.metric("holdfast_connections ") == 0)
  }

  @Test("A port that is taken is an error")
  func taken() throws {
    let fixture = try Fixture()
    #expect(throws: Errno.alreadyInUse) {
      try ReservedPort(host: "127.0.0.1", port: fixture.server.port)
    }
    #expect(throws: Errno.invalid) { try ReservedPort(host: "localhost", port: 0) }
    #expect(try fixture.connect().call("echo", [1]).messages == [[1]])
  }

  @Test("A reserved port refuses connections until the server starts, and goes to one server")
  func reserved() throws {
    let fixture = try Fixture()
    let board = fixture.board
    let port = try ReservedPort(host: "127.0.0.1", port: 0)
    let second = try ReservedPort(host: "127.0.0.1", port: port.number)
    #expect(throws: (any Error).self) { try Client(port: port.number).call("echo", [1]) }
    let server = try Server.start(
      on: port, loops: 2, limits: Fixture.limits, metrics: fixture.metrics
    ) { _ in FakeHandler(board: board, loop: 0) }
    #expect(throws: Errno.alreadyInUse) {
      try Server.start(on: second, loops: 2, limits: Fixture.limits, metrics: fixture.metrics) {
        _ in FakeHandler(board: board, loop: 0)
      }
    }
    #expect(try Client(port: port.number).call("echo", [1]).messages == [[1]])
    server.shutDown()
    try server.wait()
  }
}
