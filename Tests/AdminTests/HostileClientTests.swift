import Admin
import Metrics
import Posix
import Testing

@Suite("Admin port under bad clients")
struct HostileClientTests {
  private static func isAlive(port: UInt16) async -> Bool {
    let answer = await onThread { RawClient.answer(port: port, "GET /livez") }
    return answer?.hasPrefix("HTTP/1.1 200 OK\r\n") == true
  }

  @Test(
    "Bytes that are no request get an error or an end",
    arguments: [
      "\r\n\r\n", "GET\r\n\r\n", "get / HTTP/1.1\r\n\r\n", "\0\0\0\0\n\n",
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\u{16}\u{3}\u{1}\u{2}", "\0", " ", "\n", "\r\n\n",
    ])
  func garbage(request: String) async throws {
    try await withAdminServer { port in
      let answer = await onThread { RawClient.exchange(port: port, request) }
      #expect(answer?.hasPrefix("HTTP/1.1 400 ") == true, "\(answer ?? "no answer")")
      #expect(answer?.contains("\r\nConnection: close\r\n") == true)
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
      let status = start.isEmpty ? "400" : "431"
      #expect(answer == "" || answer?.hasPrefix("HTTP/1.1 \(status) ") == true)
      #expect(await Self.isAlive(port: port))
    }
  }

  @Test("The longest head that is allowed is answered, one byte more is not", arguments: [0, 1])
  func headLimit(excess: Int) async throws {
    try await withAdminServer { port in
      let frame = "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: \r\n\r\n"
      let padding = AdminLimits.test.headBytesMax + excess - frame.utf8.count
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
        ("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", "ok\n"), ("GET /li", ""), ("", ""),
        ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "\r\n\r\n"),
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
    let page = longPage(bytes: 100_000)
    try await withAdminServer(page: page) { port in
      for round in 0..<300 {
        await onThread {
          guard let client = RawClient(port: port) else { return }
          if round % 3 != 0 { client.send(Array("GET /metrics HTTP/1.0\r\n\r\n".utf8)) }
          if round % 2 == 0 { client.resetAtClose() }
        }
        if round % 10 == 0 { #expect(await Self.isAlive(port: port), "round \(round)") }
      }
      let answer = await onThread {
        RawClient.answer(port: port, "GET /metrics")
      }
      #expect(answer?.hasSuffix("x 1\n") == true)
    }
  }

  @Test("One slow client holds up nobody, and is answered in the end")
  func slowClient() async throws {
    try await withAdminServer { port in
      let slow = await onThread { RawClient(port: port) }
      _ = await onThread { slow?.send(Array("GET /metr".utf8)) }
      #expect(await Self.isAlive(port: port))
      _ = await onThread { slow?.send(Array("ics HTTP/1.0\r\n\r\n".utf8)) }
      let answer = await onThread { slow?.readToEnd() }
      #expect(answer?.hasPrefix("HTTP/1.1 200 OK\r\n") == true)
    }
  }

  @Test(
    "2,000 slow clients, of whatever kind, and probes answer within a second",
    arguments: ["", "GET /metr", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"])
  func manySlowClients(start: String) async throws {
    // Both ends of the connections are this process.
    let clientsMax = min(2_000, Machine.raiseDescriptorLimit() - 512)
    let page = longPage(bytes: 1 << 20)
    try await withAdminServer(page: page) { port in
      let slow = await onThread {
        (0..<clientsMax).map { _ in
          let client = RawClient(port: port)
          client?.send(Array(start.utf8))
          return client
        }
      }
      #expect(slow.allSatisfy { $0 != nil })
      // Measured on the client's thread: this task may wait for its own.
      let probes = await onThread {
        (0..<10).map { _ in
          let began = ContinuousClock.now
          let answer = RawClient.answer(port: port, "GET /livez")
          return (answer: answer, duration: ContinuousClock.now - began)
        }
      }
      #expect(probes.allSatisfy { $0.answer?.hasSuffix("ok\n") == true })
      // One that took longer tells of the machine.
      #expect(probes.map(\.duration).sorted()[probes.count / 2] < .seconds(1))
      withExtendedLifetime(slow) {}
    }
  }

  @Test("A newcomer takes the place of the one that has been idle longest")
  func eviction() async throws {
    var limits = AdminLimits.test
    limits.connectionsMax = 3
    limits.idleNanosecondsMax = 3_600_000_000_000
    limits.headNanosecondsMax = 3_600_000_000_000
    try await withAdminServer(limits: limits) { port in
      let request = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
      let result = await onThread { () -> (String?, String?) in
        // The first three have their places once they are answered; then the first asks again.
        let clients = (0..<3).compactMap { _ in RawClient(port: port) }
        var answers: [String?] = []
        for client in clients + clients.prefix(1) {
          client.send(Array(request.utf8))
          answers.append(client.read(30))
        }
        let newcomer = RawClient.answer(port: port, "GET /livez")
        guard clients.count == 3, answers.allSatisfy({ $0 != nil }), newcomer != nil else {
          return (nil, nil)
        }
        let evicted = clients[1].readToEnd()
        clients[0].send(Array("GET /livez HTTP/1.0\r\n\r\n".utf8))
        return (evicted, clients[0].readToEnd())
      }
      // The rest of its answer, and the end.
      #expect(result.0?.hasSuffix("ok\n") == true)
      #expect(result.1?.hasSuffix("ok\n") == true)
      #expect(result.1?.contains("Connection: close") == true)
    }
  }

  @Test("Clients that stop in the middle are ended, with 408 where a request had begun")
  func idleClients() async throws {
    var limits = AdminLimits.test
    limits.headNanosecondsMax = 300_000_000
    limits.idleNanosecondsMax = 300_000_000
    try await withAdminServer(limits: limits) { port in
      let ends = await onThread {
        ["", "GET /livez", "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"].map { start in
          let client = RawClient(port: port)
          client?.send(Array(start.utf8))
          return client?.readToEnd()
        }
      }
      #expect(ends[0] == "")
      #expect(ends[1]?.hasPrefix("HTTP/1.1 408 Request Timeout\r\n") == true)
      #expect(ends[2]?.hasSuffix("ok\n") == true)
    }
  }

  @Test("A client that does not read its answer is closed")
  func clientThatDoesNotRead() async throws {
    let page = longPage(bytes: 16 << 20)
    var limits = AdminLimits.test
    limits.sendNanosecondsMax = 300_000_000
    try await withAdminServer(page: page, limits: limits) { port in
      let client = await onThread { RawClient(port: port) }
      _ = await onThread { client?.send(Array("GET /metrics HTTP/1.0\r\n\r\n".utf8)) }
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

  @Test("The probes are for everybody, the rest for who is allowed")
  func authorization() async throws {
    let isAllowed: @Sendable (AdminRequest) -> Bool = { $0.authorization == "Bearer good" }
    try await withAdminServer(isAllowed: isAllowed) { port in
      let ask = { @Sendable (path: String, field: String) in
        RawClient.exchange(
          port: port, "GET \(path) HTTP/1.1\r\nHost: x\r\n\(field)Connection: close\r\n\r\n")
      }
      for (path, field, status) in [
        ("/livez", "", "200"), ("/readyz", "", "200"), ("/", "", "401"), ("/metrics", "", "401"),
        ("/nothing", "", "401"), ("/metrics", "Authorization: Bearer bad\r\n", "401"),
        ("/metrics", "authorization:Bearer good \r\n", "200"),
        ("/nothing", "AUTHORIZATION: Bearer good\r\n", "404"),
        ("/livez", "Authorization: Bearer bad\r\n", "200"),
        ("/", "Authorization: Bearer good\r\nAuthorization: Bearer bad\r\n", "400"),
      ] {
        let answer = await onThread { ask(path, field) }
        #expect(answer?.hasPrefix("HTTP/1.1 \(status) ") == true, "\(path) \(field)")
        let challenges = answer?.contains("\r\nWWW-Authenticate: Bearer\r\n")
        #expect(challenges == (status == "401"), "\(path) \(field)")
      }
    }
  }

  @Test("A response on its way is finished when the server ends")
  func stopping() async throws {
    let page = longPage(bytes: 32 << 20)
    var limits = AdminLimits.test
    limits.stopNanosecondsMax = 20_000_000_000
    limits.sendNanosecondsMax = 20_000_000_000
    var reading: Task<String?, Never>?
    try await withAdminServer(page: page, limits: limits) { port in
      let client = try #require(await onThread { RawClient(port: port) })
      let first = await onThread { () -> String? in
        client.send(Array("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".utf8))
        return client.read(1)
      }
      #expect(first == "H")
      reading = Task { await onThread { client.readToEnd() } }
    }
    let rest = await reading?.value
    #expect(rest?.hasSuffix("x 1\n") == true)
  }

  @Test("A port that is taken, or an address of nobody, is an error in one line")
  func badAddress() async throws {
    let first = try AdminServer(limits: .test, page: MetricsPage(), readiness: { .ready })
    for (host, port) in [("127.0.0.1", first.port), ("192.0.2.1", 0), ("localhost", 0), ("", 0)] {
      let error = #expect(throws: AdminServerError.self) {
        try AdminServer(
          host: host, port: port, limits: .test, page: MetricsPage(), readiness: { .ready })
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
    _ = try AdminServer(
      port: freed, limits: .test, page: MetricsPage(), readiness: { .ready })
  }
}

/// A page of so many bytes or a few more, which is made in no time: names need no escaping.
private func longPage(bytes: Int) -> MetricsPage {
  let name = String(repeating: "x", count: bytes / 3)
  let page = MetricsPage()
  page.add { $0.gauge(name, help: "", value: 1) }
  return page
}

/// A small seeded generator (xorshift64), so that a failure can be repeated from its seed.
struct Xorshift {
  var state: UInt64

  mutating func next() -> UInt64 {
    if state == 0 { state = 1 }
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state
  }
}
