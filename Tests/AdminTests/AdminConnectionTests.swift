import Metrics
import Synchronization
import Testing

@testable import Admin

/// A connection without a socket, under a clock that the test moves.
private final class Peer {
  let connection: AdminConnection
  var now: Int64 = 0
  let pages = AdminPages(
    page: MetricsPage(), readiness: { .ready }, information: { [] }, isAllowed: nil)
  private(set) var requests: [AdminRequest] = []
  private(set) var output = ""

  init(limits: AdminLimits = .test) {
    connection = AdminConnection(limits: limits, nowNanoseconds: 0)
  }

  /// Sends bytes, so many in one read, as long as the connection is read, and takes its responses.
  func send(_ bytes: [UInt8], piece: Int = .max, answering: Bool = true) {
    var rest = bytes[...]
    while !rest.isEmpty, connection.wantsInput {
      let part = Array(rest.prefix(piece))
      rest = rest.dropFirst(part.count)
      connection.receive(part.span, nowNanoseconds: now)
      if answering { settle() }
    }
  }

  func send(_ text: String, piece: Int = .max, answering: Bool = true) {
    send(Array(text.utf8), piece: piece, answering: answering)
  }

  /// Answers what waits, and takes all output.
  func settle() {
    while true {
      if case .waiting(let request) = connection.phase {
        requests.append(request)
        connection.respond(pages.response(to: request), nowNanoseconds: now)
      }
      guard connection.hasOutput else { return }
      take()
    }
  }

  func take() {
    guard connection.hasOutput else { return }
    let bytes = connection.withOutput { span in span.indices.map { span[$0] } }
    output += String(decoding: bytes, as: UTF8.self)
    connection.didSend(bytes.count, nowNanoseconds: now)
  }

  func pass(_ nanoseconds: Int64) {
    now += nanoseconds
    connection.expire(nowNanoseconds: now)
  }

  /// The statuses of the responses so far.
  var statuses: [String] {
    output.split(separator: "HTTP/1.1 ", omittingEmptySubsequences: false).dropFirst()
      .map { String($0.prefix(3)) }
  }
}

private let second: Int64 = 1_000_000_000

/// The fields of a request to /livez, and what becomes of it: a status, and whether the connection stays.
private struct Fields: CustomTestStringConvertible {
  let fields: String
  let status: String
  let stays: Bool

  init(_ fields: String, _ status: String, stays: Bool = false) {
    self.fields = fields
    self.status = status
    self.stays = stays
  }

  var testDescription: String { fields.debugDescription }
}

private let fieldCases: [Fields] = [
  Fields("Host: x\r\n", "200", stays: true),
  Fields("Host:\r\n", "200", stays: true),
  Fields("host:x\r\nAccept: */*\r\nX-Empty:\r\nX: \u{e9}\r\n", "200", stays: true),
  Fields("Host: x\r\nConnection: keep-alive\r\n", "200", stays: true),
  Fields("Host: x\r\nConnection: close\r\n", "200"),
  Fields("Host: x\r\nConnection: TE , Close\t\r\n", "200"),
  Fields("Host: x\r\nConnection: closed\r\n", "200", stays: true),
  // One Host (RFC 9112 section 3.2).
  Fields("", "400"), Fields("Host: x\r\nHost: x\r\n", "400"),
  Fields("Host: x\r\nhOST: y\r\n", "400"),
  // Lines that are no fields.
  Fields("Host: x\r\nno colon\r\n", "400"), Fields("Host: x\r\n: empty\r\n", "400"),
  Fields("Host : x\r\n", "400"), Fields("Host\t: x\r\n", "400"), Fields("Ho st: x\r\n", "400"),
  Fields("Host: x\r\nX\u{e9}: y\r\n", "400"), Fields("Host: x\r\nX(: y\r\n", "400"),
  // Folded lines, also in the place of the first.
  Fields("Host: x\r\n folded\r\n", "400"), Fields("Host: x\r\n\tfolded\r\n", "400"),
  Fields(" Host: x\r\n", "400"), Fields("Host: x\r\nX: y\r\n Content-Length: 5\r\n", "400"),
  // NUL and other control characters, and CR alone.
  Fields("Host: x\0\r\n", "400"), Fields("Host: x\r\nX: \0\r\n", "400"),
  Fields("Host: x\r\nX\0: y\r\n", "400"), Fields("Host: x\r\nX: a\rb\r\n", "400"),
  Fields("Host: x\r\nX: a\r\r\n", "400"), Fields("Host: x\r\nX: \u{7f}\r\n", "400"),
  Fields("Host: x\r\nX: \u{1b}[2J\r\n", "400"),
  // Bodies: none is read, so nothing behind one is either.
  Fields("Host: x\r\nContent-Length: 0\r\n", "200", stays: true),
  Fields("Host: x\r\nContent-Length: 00\r\n", "200", stays: true),
  Fields("Host: x\r\nContent-Length: 5\r\n", "200"),
  Fields("Host: x\r\nTransfer-Encoding: chunked\r\n", "200"),
  Fields("Host: x\r\nTransfer-Encoding: CHUNKED\r\n", "200"),
  // What two readers would not read alike.
  Fields("Host: x\r\nContent-Length: 0\r\nContent-Length: 0\r\n", "400"),
  Fields("Host: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n", "400"),
  Fields("Host: x\r\nContent-Length: 5, 5\r\n", "400"),
  Fields("Host: x\r\nContent-Length: +5\r\n", "400"),
  Fields("Host: x\r\nContent-Length: -1\r\n", "400"),
  Fields("Host: x\r\nContent-Length: 0x5\r\n", "400"),
  Fields("Host: x\r\nContent-Length:\r\n", "400"),
  Fields("Host: x\r\nContent-Length: 99999999999999999999\r\n", "400"),
  Fields("Host: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", "400"),
  Fields("Host: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n", "400"),
  Fields("Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "400"),
  Fields("Host: x\r\nTransfer-Encoding: identity\r\n", "400"),
  Fields("Host: x\r\nTransfer-Encoding: gzip, chunked\r\n", "400"),
  Fields("Host: x\r\nTransfer-Encoding: chunked, identity\r\n", "400"),
  Fields("Host: x\r\nTransfer-Encoding:\u{b}chunked\r\n", "400"),
  Fields("Host: x\r\nTransfer-Encoding : chunked\r\n", "400"),
  // Lines that end in LF alone are read; what follows them is not.
  Fields("Host: x\n", "200"), Fields("Host: x\nX: y\r\n", "200"),
]

private let requestLines: [(line: String, status: String)] = [
  ("GET /livez HTTP/1.1", "200"), ("HEAD /livez HTTP/1.1", "200"),
  ("GET /livez?a=b HTTP/1.1", "200"),
  ("GET", "400"), ("GET /", "400"), ("GET  / HTTP/1.1", "400"), ("GET / HTTP/1.1 ", "400"),
  ("GET /a b HTTP/1.1", "400"), ("GET\t/\tHTTP/1.1", "400"), ("G3T / HTTP/1.1", "400"),
  ("GET livez HTTP/1.1", "400"), ("GET / FTP/1.1", "400"), ("GET / http/1.1", "400"),
  ("GET / HTTP/9.9", "505"), ("GET / HTTP/1.", "505"), ("GET / HTTP/2.0", "505"),
  ("GET / HTTP/1.10", "505"), ("GET /\u{7f} HTTP/1.1", "400"), ("GET /\u{e9} HTTP/1.1", "400"),
  ("GET /\0 HTTP/1.1", "400"), ("GET /\r HTTP/1.1", "400"), ("GET / HTTP/1.1\r", "400"),
  ("OPTIONS * HTTP/1.1", "400"), ("CONNECT x:1 HTTP/1.1", "400"), ("TRACE /livez HTTP/1.1", "405"),
]

@Suite("The admin port's connection")
struct AdminConnectionTests {
  @Test("Fields", arguments: fieldCases)
  fileprivate func fields(_ item: Fields) {
    let head = "GET /livez HTTP/1.1\r\n\(item.fields)\r\n"
    for piece in [Int.max, 1, 7] {
      let peer = Peer()
      peer.send(head, piece: piece)
      #expect(peer.statuses == [item.status])
      #expect(peer.connection.phase == (item.stays ? .readingHead : .lingering))
      #expect(peer.output.contains("\r\nConnection: close\r\n") == !item.stays)
      // Nothing behind a body, or behind what was rejected, is taken for a request.
      peer.send("GET /livez HTTP/1.1\r\nHost: smuggled\r\n\r\n", piece: piece)
      #expect(peer.statuses.count == (item.stays ? 2 : 1))
    }
  }

  @Test("Request lines", arguments: requestLines)
  func requestLine(line: String, status: String) {
    for piece in [Int.max, 1] {
      let peer = Peer()
      peer.send("\(line)\r\nHost: x\r\n\r\n", piece: piece)
      #expect(peer.statuses == [status])
    }
  }

  @Test("A chunked body that holds a request is no request")
  func smuggled() {
    let peer = Peer()
    peer.send(
      "GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + "0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    #expect(peer.requests.map(\.path) == ["/livez"])
  }

  @Test("What is no head is rejected at its first byte")
  func firstByte() {
    for byte in UInt8.min...UInt8.max {
      let peer = Peer()
      peer.send([byte])
      let mayBegin = byte == UInt8(ascii: "\r") || (65...90).contains(byte)
      #expect(peer.statuses == (mayBegin ? [] : ["400"]), "\(byte)")
    }
  }

  @Test("Requests in one piece are answered in their order, one after the other")
  func pipelining() {
    let paths = ["/livez", "/", "/nothing", "/readyz"]
    let requests = paths.map { "GET \($0) HTTP/1.1\r\nHost: x\r\n\r\n" }
    for piece in [Int.max, 1, 50] {
      let peer = Peer()
      peer.send(requests.joined(), piece: piece)
      #expect(peer.requests.map(\.path) == paths)
      #expect(peer.statuses == ["200", "200", "404", "200"])
      #expect(peer.connection.phase == .readingHead)
    }
    // Without an answer nothing more is read.
    let peer = Peer()
    peer.send(requests.joined(), answering: false)
    #expect(!peer.connection.wantsInput)
    peer.settle()
    #expect(peer.requests.map(\.path) == paths)
  }

  @Test("One empty line before a request is skipped, two are none")
  func emptyLines() {
    let request = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    for piece in [Int.max, 1] {
      let peer = Peer()
      peer.send("\r\n\(request)\r\n\(request)", piece: piece)
      #expect(peer.statuses == ["200", "200"])
      peer.send("\r\n\r\n\(request)", piece: piece)
      #expect(peer.statuses == ["200", "200", "400"])
    }
  }

  @Test("HTTP/1.0 needs no Host, gets no second answer and no chunks")
  func oldVersion() {
    let peer = Peer()
    peer.send("GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /livez HTTP/1.0\r\n\r\n")
    #expect(peer.statuses == ["200"])
    #expect(peer.connection.phase == .lingering)
    let chunked = Peer()
    chunked.send("GET /livez HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")
    #expect(chunked.statuses == ["400"])
  }

  @Test(
    "A head is as long as the limit at the most, however it comes", arguments: [1, 100, Int.max])
  func headLimit(piece: Int) {
    let start = "GET /livez HTTP/1.1\r\nHost: x\r\nX: "
    let room = AdminLimits.test.headBytesMax - start.utf8.count - 4
    for (padding, status) in [(room - 1, "200"), (room, "200"), (room + 1, "431")] {
      let peer = Peer()
      peer.send("\(start)\(String(repeating: "a", count: padding))\r\n\r\n", piece: piece)
      #expect(peer.statuses == [status])
    }
    // Many short lines are as bad as one that is long.
    let peer = Peer()
    peer.send("GET / HTTP/1.1\r\n" + String(repeating: "a:\r\n", count: 5_000), piece: piece)
    #expect(peer.statuses == ["431"])
  }

  @Test("A head of one byte a second ends with 408, whenever it began")
  func slowHead() {
    for isFirst in [true, false] {
      let peer = Peer()
      if !isFirst {
        peer.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        peer.pass(4 * second)
      }
      for byte in "GET / HT".utf8 {
        peer.send([byte])
        peer.pass(second)
        peer.settle()
      }
      #expect(peer.statuses == (isFirst ? ["408"] : ["200", "408"]))
      #expect(peer.connection.phase == .ended)
    }
  }

  @Test("Silence ends a connection without a word")
  func silence() {
    let fresh = Peer()
    fresh.pass(5 * second - 1)
    #expect(fresh.connection.phase == .readingHead)
    fresh.pass(1)
    #expect(fresh.connection.phase == .ended && fresh.output.isEmpty)

    let idle = Peer()
    idle.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    idle.pass(5 * second)
    #expect(idle.connection.phase == .ended && idle.statuses == ["200"])
  }

  @Test("A peer that takes nothing, or never ends its side, is ended")
  func stalled() {
    let peer = Peer()
    peer.send("GET /livez HTTP/1.0\r\n\r\n", answering: false)
    guard case .waiting(let request) = peer.connection.phase else {
      Issue.record("no request")
      return
    }
    peer.connection.respond(peer.pages.response(to: request), nowNanoseconds: 0)
    peer.pass(second)
    // A byte now and then does not help.
    peer.connection.didSend(1, nowNanoseconds: peer.now)
    peer.pass(4 * second)
    #expect(peer.connection.phase == .ended)

    let lingering = Peer()
    lingering.send("GET /livez HTTP/1.0\r\n\r\n")
    #expect(lingering.connection.phase == .lingering)
    lingering.pass(200_000_000)
    #expect(lingering.connection.phase == .ended)

    let talking = Peer()
    talking.send("GET /livez HTTP/1.0\r\n\r\n")
    talking.send([UInt8](repeating: 0, count: 100_000), piece: 4_096)
    #expect(talking.connection.phase == .ended)
  }

  @Test("Stopping finishes what was asked for, and nothing else")
  func stopping() {
    let idle = Peer()
    idle.send("GET /li")
    idle.connection.stop(nowNanoseconds: 0)
    #expect(idle.connection.phase == .ended)

    let asked = Peer()
    asked.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", answering: false)
    asked.connection.stop(nowNanoseconds: 0)
    asked.settle()
    #expect(asked.statuses == ["200"] && asked.output.contains("Connection: close"))
    #expect(asked.connection.phase == .lingering)
  }

  @Test("Random bytes in random pieces never break a rule")
  func random() {
    let seed = UInt64.random(in: 1...UInt64.max)
    var random = Xorshift(state: seed)
    let words = [
      "GET ", "/livez", " HTTP/1.1", "\r\n", "\n", "\r", "Host: x", "Content-Length: ", "5", "\0",
      ":",
      "Transfer-Encoding: chunked", " ", "Connection: close", "\r\n\r\n", "HEAD / HTTP/1.0\r\n\r\n",
    ]
    for _ in 0..<2_000 {
      let peer = Peer()
      for _ in 0..<20 {
        let word = words[Int(random.next() % UInt64(words.count))]
        peer.send(word, piece: 1 + Int(random.next() % 9))
        if random.next() % 8 == 0 { peer.pass(Int64(random.next() % 3) * second) }
        peer.settle()
      }
      peer.connection.receiveEnd()
      #expect(!peer.connection.hasOutput, "seed \(seed)")
      #expect(peer.connection.phase == .ended, "seed \(seed)")
    }
  }
}

/// Says 0, 1, 2 and so on, one a second, up to a last one.
private final class Counting: ResponseStream {
  private let state = Mutex((next: 0, asked: 0))
  private let last: Int

  init(last: Int) { self.last = last }

  var asked: Int { state.withLock { $0.asked } }

  func next(nowNanoseconds: Int64) -> ResponsePart {
    state.withLock { state in
      state.asked += 1
      if state.next > last { return .end }
      if nowNanoseconds < Int64(state.next) * second {
        return .later(nanoseconds: Int64(state.next) * second)
      }
      state.next = Int(nowNanoseconds / second) + 1
      return .bytes(Array("data: \(nowNanoseconds / second)\n\n".utf8))
    }
  }
}

@Suite("Streams on the admin port")
struct AdminStreamTests {
  private static func begin(_ stream: Counting, _ request: String) -> Peer {
    let peer = Peer()
    peer.send(request, answering: false)
    peer.connection.respond(
      AdminResponse(.ok, .stream(stream), contentType: "text/event-stream"), nowNanoseconds: 0)
    return peer
  }

  private static func body(_ peer: Peer) -> String {
    peer.output.split(separator: "\r\n\r\n", maxSplits: 1).last.map(String.init) ?? ""
  }

  @Test("Parts are chunks, and the connection stays")
  func chunks() {
    let stream = Counting(last: 1)
    let peer = Self.begin(stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    for _ in 0..<30 {
      peer.take()
      peer.connection.pump(nowNanoseconds: peer.now)
      peer.take()
      peer.pass(second / 10)
    }
    #expect(peer.output.contains("\r\nTransfer-Encoding: chunked\r\n"))
    #expect(Self.body(peer) == "9\r\ndata: 0\n\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n")
    #expect(peer.connection.phase == .readingHead)
    // Asked for what it said, for when to ask again, and no more often.
    #expect(stream.asked == 4)
    peer.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    #expect(peer.statuses == ["200", "200"])
  }

  @Test("A request behind a stream is not answered, and its sender is not left to wait for that")
  func pipelinedBehindStream() {
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    let peer = Self.begin(Counting(last: 0), request)
    peer.take()
    peer.send(request, answering: false)
    for _ in 0..<2 {
      peer.connection.pump(nowNanoseconds: peer.now)
      peer.take()
      peer.pass(second / 10)
    }
    #expect(Self.body(peer) == "9\r\ndata: 0\n\n\r\n0\r\n\r\n")
    #expect(peer.connection.phase == .lingering)
  }

  @Test("For HTTP/1.0 the end of the connection is the end")
  func withoutChunks() {
    let peer = Self.begin(Counting(last: 0), "GET / HTTP/1.0\r\n\r\n")
    for _ in 0..<2 {
      peer.take()
      peer.connection.pump(nowNanoseconds: peer.now)
      peer.pass(second / 10)
    }
    #expect(!peer.output.contains("Transfer-Encoding"))
    #expect(Self.body(peer) == "data: 0\n\n")
    #expect(peer.connection.phase == .lingering)
  }

  @Test("HEAD gets the head alone")
  func head() {
    let stream = Counting(last: 3)
    let peer = Self.begin(stream, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    peer.take()
    #expect(peer.output.hasSuffix("\r\n\r\n") && stream.asked == 0)
    #expect(peer.connection.phase == .readingHead)
  }

  @Test("Who does not take what there is, is not offered more, and then is ended")
  func slowReader() {
    let stream = Counting(last: 100)
    let peer = Self.begin(stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    peer.take()
    for _ in 0..<45 {
      peer.connection.pump(nowNanoseconds: peer.now)
      peer.pass(second / 10)
    }
    #expect(stream.asked == 1)
    // It gets what it missed as what there is now.
    peer.take()
    peer.connection.pump(nowNanoseconds: peer.now)
    peer.take()
    #expect(Self.body(peer) == "9\r\ndata: 0\n\n\r\n9\r\ndata: 4\n\n\r\n")
    peer.pass(second)
    peer.connection.pump(nowNanoseconds: peer.now)
    peer.pass(5 * second)
    #expect(peer.connection.phase == .ended)
  }

  @Test("The peer's end, too many bytes from it, or the server's end is the stream's")
  func ends() {
    let left = Self.begin(Counting(last: 100), "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    left.take()
    left.connection.receiveEnd()
    #expect(left.connection.phase == .ended)

    let talking = Self.begin(Counting(last: 100), "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    talking.take()
    talking.send([UInt8](repeating: 0, count: 100_000), piece: 1_000)
    #expect(talking.connection.phase == .ended)

    let stopped = Self.begin(Counting(last: 100), "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    stopped.take()
    stopped.connection.stop(nowNanoseconds: 0)
    stopped.take()
    #expect(Self.body(stopped) == "0\r\n\r\n")
    #expect(stopped.connection.phase == .lingering)
  }
}
