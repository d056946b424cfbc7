import GRPC
import Posix
import Server
import Testing

@Suite("Connections")
struct ConnectionTests {
  private static func abuse(_ kind: String) -> String {
    "holdfast_connection_abuse_total{kind=\"\(kind)\"}"
  }

  @Test(
    "Who speaks HTTP/1.1 is told so",
    arguments: ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST /a HTTP/1.0\r\n\r\n"])
  func http1(request: String) throws {
    let fixture = try Fixture()
    let client = try Client(port: fixture.server.port, greets: false)
    try client.send(Array(request.utf8))
    #expect(try !client.read { _ in false })
    let parts = client.rawInput.split(separator: "\r\n\r\n").map(String.init)
    #expect(parts.first?.hasPrefix("HTTP/1.1 505 ") == true)
    #expect(parts.first?.contains("Content-Length: \(parts.last?.utf8.count ?? 0)") == true)
    #expect(client.isClosed)
    #expect(fixture.eventually { fixture.metric(Self.abuse("protocol_error")) == 1 })
  }

  @Test("A TLS client on a port without TLS gets an alert, is counted, and worth a notice")
  func tlsClient() throws {
    let fixture = try Fixture()
    for _ in 1...3 {
      let client = try Client(port: fixture.server.port, greets: false)
      // The beginning of a ClientHello.
      try client.send([0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3])
      #expect(try !client.read { _ in false })
      // handshake_failure (RFC 8446 section 6.2).
      #expect(Array(client.rawInput.utf8) == [0x15, 3, 3, 0, 2, 2, 40])
      #expect(client.isClosed)
    }
    #expect(fixture.eventually { fixture.metric(Self.abuse("tls_on_plaintext")) == 3 })
    #expect(fixture.notices.take { $0 != .tlsOnPlaintext }.isEmpty)
    #expect(fixture.notices.take { _ in true }.map(\.count) == [3])
    #expect(fixture.notices.take { _ in true }.isEmpty)
  }

  private static let garbage: [[UInt8]] = [
    [0], [0x16, 3, 1, 0, 5], Array("hello\n".utf8), Array("PRI * HTTP/2.1\r\n".utf8),
    Array("GET".utf8) + [0], [UInt8](repeating: 0xff, count: 1000),
    Frame.preface + [UInt8](repeating: 0xff, count: 100),
    Frame.preface + Frame.bytes(0, 0, 1, [1, 2]),
    Frame.preface + Frame.settings + Frame.bytes(1, 4, 2, [0x88]),
    Frame.preface + Frame.settings + Frame.bytes(1, 4, 1, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    Frame.preface + Frame.settings + Frame.bytes(9, 4, 1, []),
    Frame.preface + Frame.settings + [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1],
  ]

  @Test("Garbage is not answered for long", arguments: 0..<12)
  func broken(index: Int) throws {
    let fixture = try Fixture()
    let client = try Client(port: fixture.server.port, greets: false)
    try client.send(Self.garbage[index])
    #expect(try !client.read { _ in false })
    #expect(client.isClosed)
    #expect(try fixture.connect().call("echo", [1]).messages == [[1]])
  }

  @Test("A preface may come byte by byte")
  func slowPreface() throws {
    let fixture = try Fixture()
    let client = try Client(port: fixture.server.port, greets: false)
    let bytes = Frame.preface + Frame.settings
    for byte in bytes { try client.send([byte]) }
    let other = try fixture.connect()
    #expect(try other.call("echo", [1]).messages == [[1]])
    #expect(try client.read { !$0.rawInput.isEmpty })
    #expect(!client.isClosed)
  }

  @Test("Connections over the limit are closed at once and counted")
  func limit() throws {
    let fixture = try Fixture { $0.connectionsMax = 2 }
    let first = try fixture.connect()
    #expect(try first.call("echo", [1]).code == 0)
    // With calls that are open: idle ones would give way.
    try first.start("later", [1])
    do {
      let second = try fixture.connect()
      #expect(try second.call("echo", [2]).code == 0)
      try second.start("later", [2])
      #expect(fixture.eventually { fixture.board.read { $0.executed[3] } == 2 })
      for refused in 1...3 {
        let third = try fixture.connect()
        #expect(try !third.read { $0.isGreeted })
        #expect(third.isClosed)
        #expect(fixture.metric("holdfast_connections_refused_total") == Double(refused))
      }
    }
    #expect(fixture.eventually { fixture.metric("holdfast_connections ") == 1 })
    #expect(try fixture.connect().call("echo", [3]).messages == [[3]])
    #expect(fixture.eventually { fixture.metric("holdfast_connections_accepted_total") == 3 })
  }

  @Test("Who does not say hello in time is cut off", arguments: [0, 10, 24])
  func handshake(prefixLength: Int) throws {
    let fixture = try Fixture { $0.handshakeNanosecondsMax = 150 * millisecond }
    let begun = SystemClock.monotonicNanoseconds()
    let silent = try Client(port: fixture.server.port, greets: false)
    try silent.send(Array(Frame.preface.prefix(prefixLength)))
    let talking = try fixture.connect()
    #expect(try talking.call("echo", [1]).code == 0)
    #expect(try !silent.read { _ in false })
    #expect(silent.isClosed)
    #expect(SystemClock.monotonicNanoseconds() - begun >= 150 * millisecond)
    #expect(fixture.eventually { fixture.metric(Self.abuse("handshake_timeout")) == 1 })
    #expect(try talking.call("echo", [2]).code == 0)
  }

  @Test("Connections are spread evenly over the loops")
  func spread() throws {
    let fixture = try Fixture(loops: 2)
    var clients: [Client] = []
    for _ in 0..<40 {
      let client = try fixture.connect()
      #expect(try client.call("echo", [1]).code == 0)
      clients.append(client)
    }
    #expect(fixture.board.read { $0.executedByLoop } == [0: 20, 1: 20])
    #expect(fixture.eventually { fixture.metric("holdfast_connections ") == 40 })
  }

  @Test("Hundreds that connect at once are all served, and spread evenly")
  func burst() throws {
    let fixture = try Fixture(loops: 2)
    let clients = try (0..<300).map { _ in try fixture.connect() }
    let streams = try clients.map { try $0.start("echo", [5]) }
    for (client, stream) in zip(clients, streams) {
      #expect(try client.answer(stream).messages == [[5]])
    }
    let byLoop = fixture.board.read { $0.executedByLoop }
    // Two loops that accept at the same time may both see the other as the emptier one.
    #expect(abs((byLoop[0] ?? 0) - 150) <= 20)
    #expect(byLoop.values.reduce(0, +) == 300)
  }

  @Test("A client that leaves takes its open calls with it")
  func vanishing() throws {
    let fixture = try Fixture()
    do {
      let client = try fixture.connect()
      for number in UInt8(0)..<3 { try client.start("later", [number]) }
      try client.start("watch", [1])
      #expect(try client.call("echo", [1]).code == 0)
    }
    #expect(fixture.eventually { fixture.board.read { $0.cancelled.count } == 4 })
    #expect(fixture.board.read { Set($0.cancelled).count } == 4)
    fixture.board.release()
    #expect(try fixture.connect().call("later", [1]).messages == [[1]])
    let cancelled = fixture.metric("grpc_server_handled_total", with: "Canceled")
    #expect(cancelled == 4)
  }

  @Test("A call that is reset is cancelled, and its late answer goes nowhere")
  func reset() throws {
    let fixture = try Fixture()
    let client = try fixture.connect()
    let dropped = try client.start("later", [1])
    let kept = try client.start("later", [2])
    #expect(fixture.eventually { fixture.board.read { $0.executed[3] } == 2 })
    try client.send(Frame.reset(dropped))
    #expect(fixture.eventually { fixture.board.read { $0.cancelled.count } == 1 })
    fixture.board.release()
    #expect(try client.answer(kept).messages == [[2]])
    #expect(client.calls[dropped] == nil)
  }

  @Test("A client that leaves in the middle of a request is no call that was executed")
  func vanishingEarly() throws {
    let fixture = try Fixture()
    do {
      let client = try fixture.connect()
      let stream = client.newStream()
      try client.send(Client.head(stream, "echo") + Frame.data(stream, [0, 0, 0], ends: false))
      #expect(try client.call("echo", [1]).code == 0)
    }
    #expect(fixture.eventually { fixture.metric("holdfast_connections ") == 0 })
    #expect(fixture.board.read { $0.executed[0] } == 1)
    #expect(fixture.eventually { fixture.metric("grpc_server_started_total") == 2 })
    #expect(fixture.eventually { fixture.metric("grpc_server_handled_total") == 2 })
  }

  @Test("Who does not read is not read, and goes on where it stopped")
  func paused() throws {
    let fixture = try Fixture { $0.unsentBytesMax = 64 * 1024 }
    let client = try fixture.connect()
    #expect(try client.read { $0.isGreeted })
    // 1,000 requests of 2 KiB for 60 KiB each: sockets hold a few MiB, one read is 256 KiB.
    let message: [UInt8] = [60] + [UInt8](repeating: 0, count: 2047)
    let streams = try (0..<1000).map { _ in try client.start("big", message) }
    #expect(fixture.eventually { fixture.board.read { $0.executed[4] ?? 0 } > 0 })
    let received = stable { fixture.metric("holdfast_received_bytes_total") }
    #expect(received < 1_500_000)
    #expect(fixture.board.read { $0.executed[4] ?? 0 } < 750)
    let other = try fixture.connect()
    #expect(try other.call("echo", [1]).messages == [[1]])
    for stream in streams {
      #expect(try client.answer(stream).code == 0)
      client.forget(stream)
    }
    #expect(fixture.board.read { $0.executed[4] } == 1000)
  }

  /// A number once it has not changed for 50 ms.
  private func stable(_ number: () -> Double) -> Double {
    var last = number()
    while true {
      pause(milliseconds: 50)
      let next = number()
      if next == last { return next }
      last = next
    }
  }

  @Test("Who does not read for too long is cut off")
  func cut() throws {
    let fixture = try Fixture { $0.stalledWriteNanosecondsMax = 200 * millisecond }
    let client = try fixture.connect()
    #expect(try client.read { $0.isGreeted })
    for _ in 0..<200 { try client.start("big", [200]) }
    #expect(fixture.eventually { fixture.metric(Self.abuse("slow_reader")) == 1 })
    #expect(fixture.eventually { fixture.metric("holdfast_connections ") == 0 })
    #expect(try fixture.connect().call("echo", [1]).messages == [[1]])
  }

  @Test("What is counted adds up")
  func metrics() throws {
    let fixture = try Fixture(loops: 2)
    do {
      for _ in 0..<4 {
        let client = try fixture.connect()
        #expect(try client.call("echo", [1]).code == 0)
        #expect(try client.call("fail", [5]).code == 5)
        #expect(try client.call("durable", [0]).code == 0)
        #expect(try client.call("nothing", [1]).code == 12)
        #expect(try client.call("echo", [1], [(":method", "GET")]).code == 2)
        #expect(try client.answer(try client.start("echo", body: [1])).code == 13)
        #expect(try client.call("echo", [UInt8](repeating: 0, count: 65_537)).code == 8)
        #expect(try client.answer(try client.start("chat", body: Frame.message([1]))).code == 0)
        try client.start("watch", [1])
        #expect(try client.read { $0.calls.values.contains { $0.body == Frame.message([1]) } })
      }
    }
    #expect(fixture.eventually { fixture.metric("holdfast_connections ") == 0 })
    #expect(fixture.eventually { fixture.metric("holdfast_connections_accepted_total") == 4 })
    #expect(fixture.eventually { fixture.metric("grpc_server_started_total") == 36 })
    #expect(fixture.eventually { fixture.metric("grpc_server_handled_total") == 36 })
    #expect(fixture.eventually { fixture.metric("grpc_server_handling_seconds_count") == 36 })
    for (code, count) in [
      ("OK", 12), ("NotFound", 4), ("Unimplemented", 4), ("Unknown", 4), ("Internal", 4),
      ("ResourceExhausted", 4), ("Canceled", 4),
    ] {
      #expect(fixture.metric("grpc_server_handled_total", with: code) == Double(count), "\(code)")
    }
    #expect(
      fixture.eventually { fixture.metric("holdfast_reservation_latency_seconds_count") == 4 })
    #expect(fixture.metric("holdfast_received_bytes_total") > 4 * 65_537)
    #expect(fixture.metric("holdfast_sent_bytes_total") > 0)
    #expect(fixture.metric("holdfast_connection_abuse_total") == 0)
  }
}
