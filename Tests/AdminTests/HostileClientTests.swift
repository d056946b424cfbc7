import Admin
import Metrics
import Testing

@Suite("Admin port under bad clients")
struct HostileClientTests {
  private static func isAlive(port: UInt16) async -> Bool {
    let answer = await onThread { RawClient.exchange(port: port, "GET /livez HTTP/1.1\r\n\r\n") }
    return answer?.hasPrefix("HTTP/1.1 200 OK\r\n") == true
  }

  @Test(
    "Bytes that are no request get an error or an end",
    arguments: [
      ("\r\n\r\n", "400"), ("GET\r\n\r\n", "400"), ("GET /\r\n\r\n", "400"),
      ("GET  / HTTP/1.1\r\n\r\n", "400"), ("get / HTTP/1.1\r\n\r\n", "400"),
      ("GET livez HTTP/1.1\r\n\r\n", "400"), ("GET /a b HTTP/1.1\r\n\r\n", "400"),
      ("GET / HTTP/1.1 \r\n\r\n", "400"), ("GET / FTP/1.1\r\n\r\n", "400"),
      ("GET / HTTP/9.9\r\n\r\n", "505"), ("GET / HTTP/1.\r\n\r\n", "505"),
      ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"), ("GET /\u{7f} HTTP/1.1\r\n\r\n", "400"),
      ("GET /é HTTP/1.1\r\n\r\n", "400"), ("\0\0\0\0\n\n", "400"),
      ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\n\r\n", "400"), ("GET /livez HTTP/1.1\n\n", "200"),
      ("GET /livez HTTP/1.1\r\nno colon\r\n:\r\n\r\n", "200"),
      ("GET /livez HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", "200"),
      ("GET /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", "200"),
    ])
  func garbage(request: String, status: String) async throws {
    try await withAdminServer { port in
      let answer = await onThread { RawClient.exchange(port: port, request) }
      #expect(answer?.hasPrefix("HTTP/1.1 \(status) ") == true, "\(answer ?? "no answer")")
      #expect(await Self.isAlive(port: port))
    }
  }

  @Test(
    "A head that never ends is cut at its limit",
    arguments: [
      "GET / HTTP/1.1\r\n", "GET /", "", "GET / HTTP/1.1\r\nX: ", "GET / HTTP/1.1\r\nX: y\r\n",
    ])
  func hugeHead(start: String) async throws {
    try await withAdminServer { port in
      // Far more than the limit and than the kernel's buffers: the server must not read it all.
      let answer = await onThread { () -> String? in
        guard let client = RawClient(port: port) else { return nil }
        client.send(Array(start.utf8))
        let chunk = [UInt8](repeating: UInt8(ascii: "a"), count: 1 << 20)
        var chunks = 0
        while chunks < 64, client.send(chunk) { chunks += 1 }
        return chunks < 64 ? client.readToEnd() : nil
      }
      // The answer may be lost in the reset that the unread bytes cause.
      #expect(answer == "" || answer?.hasPrefix("HTTP/1.1 431 ") == true)
      #expect(await Self.isAlive(port: port))
    }
  }

  @Test("The longest head that is allowed is answered, one byte more is not", arguments: [0, 1])
  func headLimit(excess: Int) async throws {
    try await withAdminServer { port in
      let frame = "GET /livez HTTP/1.1\r\nX: \r\n\r\n"
      let padding = AdminServer.requestHeadBytesMax + excess - frame.utf8.count
      let head = frame.replacing("X: ", with: "X: " + String(repeating: "a", count: padding))
      let answer = await onThread { RawClient.exchange(port: port, head) }
      let status = excess == 0 ? "200" : "431"
      // One unread byte may turn the refusal into a reset.
      #expect(
        answer?.hasPrefix("HTTP/1.1 \(status) ") == true || (excess > 0 && answer == ""),
        "\(answer ?? "no answer")")
    }
  }

  @Test("A request is answered after the client has half closed, a part of one is not")
  func halfClosed() async throws {
    try await withAdminServer { port in
      for (request, expected) in [
        ("GET /livez HTTP/1.1\r\n\r\n", "ok\n"), ("GET /li", ""), ("", ""),
      ] {
        let answer = await onThread { () -> String? in
          guard let client = RawClient(port: port) else { return nil }
          client.send(Array(request.utf8))
          client.closeWriting()
          return client.readToEnd()
        }
        #expect(answer.map { $0.hasSuffix(expected) && $0.isEmpty == expected.isEmpty } == true)
      }
    }
  }

  @Test("Random bytes never stop the server")
  func randomBytes() async throws {
    let seed = UInt64.random(in: 0...UInt64.max)
    try await withAdminServer { port in
      await onThread {
        var random = Xorshift(state: seed)
        for _ in 0..<200 {
          guard let client = RawClient(port: port) else { continue }
          let start = random.next() % 2 == 0 ? Array("GET ".utf8) : []
          let count = Int(random.next() % 600)
          client.send(
            start + (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next() >> 40) })
          if random.next() % 2 == 0 { client.resetAtClose() }
        }
      }
      #expect(await Self.isAlive(port: port), "seed \(seed)")
    }
  }

  @Test("Clients that come and go at once leave every descriptor usable")
  func churn() async throws {
    let page = MetricsPage()
    page.add { $0.gauge("g", help: String(repeating: "x", count: 100_000), value: 1) }
    try await withAdminServer(page: page) { port in
      for round in 0..<300 {
        await onThread {
          guard let client = RawClient(port: port) else { return }
          if round % 3 != 0 { client.send(Array("GET /metrics HTTP/1.1\r\n\r\n".utf8)) }
          if round % 2 == 0 { client.resetAtClose() }
        }
        if round % 10 == 0 { #expect(await Self.isAlive(port: port), "round \(round)") }
      }
      let answer = await onThread {
        RawClient.exchange(port: port, "GET /metrics HTTP/1.1\r\n\r\n")
      }
      #expect(answer?.hasSuffix("\ng 1\n") == true)
    }
  }

  @Test("One slow client holds up nobody")
  func slowClient() async throws {
    try await withAdminServer(exchangeDurationMax: .seconds(3_600)) { port in
      let slow = await onThread { RawClient(port: port) }
      _ = await onThread { slow?.send(Array("GET /metr".utf8)) }
      #expect(await Self.isAlive(port: port))
      _ = await onThread { slow?.send(Array("ics HTTP/1.1\r\n\r\n".utf8)) }
      let answer = await onThread { slow?.readToEnd() }
      #expect(answer?.hasPrefix("HTTP/1.1 200 OK\r\n") == true)
    }
  }

  @Test("Idle clients are closed, and those who wait behind them are answered")
  func idleClients() async throws {
    try await withAdminServer(exchangeDurationMax: .milliseconds(300)) { port in
      let idle = await onThread {
        (0..<AdminServer.connectionsMax * 2).map { _ in RawClient(port: port) }
      }
      #expect(idle.allSatisfy { $0 != nil })
      #expect(await Self.isAlive(port: port))
      let ends = await onThread { idle.map { $0?.readToEnd() } }
      #expect(ends.allSatisfy { $0 == "" })
    }
  }

  @Test("A client that does not read its answer is closed")
  func clientThatDoesNotRead() async throws {
    let page = MetricsPage()
    page.add { $0.gauge("g", help: String(repeating: "x", count: 16 << 20), value: 1) }
    try await withAdminServer(page: page, exchangeDurationMax: .milliseconds(300)) { port in
      let client = await onThread { RawClient(port: port) }
      _ = await onThread { client?.send(Array("GET /metrics HTTP/1.1\r\n\r\n".utf8)) }
      #expect(await Self.isAlive(port: port))
      // Sending fails once the server has closed; until then the bytes go nowhere.
      let wasClosed = await onThread {
        var sent = 0
        while sent < 1 << 30, client?.send([UInt8](repeating: 0, count: 1 << 16)) == true {
          sent += 1 << 16
        }
        return sent < 1 << 30
      }
      #expect(wasClosed)
    }
  }

  @Test("A port that is taken, or an address of nobody, is an error in one line")
  func badAddress() async throws {
    let first = try AdminServer(page: MetricsPage(), readiness: { .ready })
    for (host, port) in [("127.0.0.1", first.port), ("192.0.2.1", 0), ("localhost", 0), ("", 0)] {
      let error = #expect(throws: AdminServerError.self) {
        try AdminServer(host: host, port: port, page: MetricsPage(), readiness: { .ready })
      }
      #expect(error?.description.hasPrefix("cannot listen on \(host):\(port) for") == true)
      #expect(error?.description.contains("\n") == false)
    }
  }

  @Test("Cancelling ends the server and frees its port")
  func cancelling() async throws {
    var port: UInt16 = 0
    try await withAdminServer {
      port = $0
      #expect(await Self.isAlive(port: $0))
    }
    let (closed, freed) = (port, port)
    #expect(await onThread { RawClient(port: closed) == nil })
    _ = try AdminServer(port: freed, page: MetricsPage(), readiness: { .ready })
  }
}

/// A small seeded generator (xorshift64), so that a failure can be repeated from its seed.
private struct Xorshift {
  var state: UInt64

  mutating func next() -> UInt64 {
    if state == 0 { state = 1 }
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state
  }
}
