import CNGHTTP2
import Testing

@testable import HTTP2

/// Frames as a server writes them.
enum Frames {
  static func frame(_ type: UInt8, _ flags: UInt8, _ stream: UInt32, _ payload: [UInt8]) -> [UInt8]
  {
    let count = payload.count
    let header: [UInt8] = [
      UInt8(count >> 16), UInt8(count >> 8 & 255), UInt8(count & 255), type, flags,
    ]
    return header + number(stream) + payload
  }

  static func number(_ value: UInt32) -> [UInt8] {
    [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: value >> $0) }
  }

  static func settings(_ values: [(UInt8, UInt32)] = []) -> [UInt8] {
    frame(4, 0, 0, values.flatMap { [0, $0.0] + number($0.1) })
  }

  /// A literal without indexing (RFC 7541, section 6.2.2), not Huffman coded.
  static func literal(_ name: String, _ value: String) -> [UInt8] {
    [0, UInt8(name.utf8.count)] + Array(name.utf8) + [UInt8(value.utf8.count)] + Array(value.utf8)
  }

  static let status200: [UInt8] = [0x88]

  static func body(_ message: [UInt8]) -> [UInt8] { [0] + number(UInt32(message.count)) + message }

  static func answer(_ stream: UInt32, _ message: [UInt8]) -> [UInt8] {
    frame(1, 4, stream, status200) + frame(0, 0, stream, body(message))
      + frame(1, 5, stream, literal("grpc-status", "0"))
  }
}

/// An answer with its bytes.
struct Seen: Equatable {
  var id: UInt64
  var outcome: ClientAnswer.Outcome
  var http = 200
  var grpc = 0
  var message: [UInt8] = []
  var text = ""
  var details: [UInt8] = []
}

func array(_ span: borrowing Swift.Span<UInt8>) -> [UInt8] { span.indices.map { span[$0] } }

/// A connection of the tests.
struct TestConnection: ~Copyable {
  var http: ClientConnection
  var seen: [Seen] = []

  init(
    callsMaximum: Int = 16, paths: [String] = ["/a.A/B", "/a.A/C"], scheme: String = "http",
    metadata: [ClientMetadata] = []
  ) throws {
    http = try ClientConnection(
      paths: paths, authority: "127.0.0.1:1", userAgent: "test", scheme: scheme,
      metadata: metadata, callsMaximum: callsMaximum)
  }

  mutating func receive(_ bytes: [UInt8]) throws {
    try http.receive(bytes.span)
    take()
  }

  mutating func take() {
    for answer in http.answers {
      seen.append(
        Seen(
          id: answer.callID, outcome: answer.outcome, http: answer.httpStatus,
          grpc: answer.grpcStatus, message: http.withMessage(of: answer) { array($0) },
          text: http.withStatusMessage(of: answer) { String(decoding: array($0), as: UTF8.self) },
          details: http.withStatusDetails(of: answer) { array($0) }))
    }
    http.forgetAnswers()
  }

  mutating func output() -> [UInt8] {
    var bytes: [UInt8] = []
    http.send {
      bytes = array($0)
      return bytes.count
    }
    return bytes
  }

  @discardableResult
  mutating func start(_ id: UInt64, path: Int = 0, _ message: [UInt8] = [1, 2, 3])
    -> ClientConnection.StartResult
  {
    http.start(path: path, callID: id, message: message.span)
  }
}

/// Frames of a client, from its output.
func parse(_ bytes: [UInt8]) -> [(type: UInt8, flags: UInt8, stream: UInt32, payload: [UInt8])] {
  var frames: [(type: UInt8, flags: UInt8, stream: UInt32, payload: [UInt8])] = []
  var at = 0
  while at + 9 <= bytes.count {
    let header = FrameHeader(bytes[at..<at + 9].span)
    let payload = Array(bytes[at + 9..<at + 9 + header.payloadLength])
    frames.append((header.type, header.flags, header.streamID, payload))
    at += 9 + header.payloadLength
  }
  #expect(at == bytes.count)
  return frames
}

@Suite struct ClientConnectionTests {
  /// Three calls answered with everything that the protocol allows.
  static let script: [UInt8] =
    Frames.frame(1, 4, 3, Frames.literal(":status", "103"))  // interim
    + Frames.frame(1, 4, 1, Frames.status200)
    + Frames.frame(6, 0, 0, [1, 2, 3, 4, 5, 6, 7, 8])  // PING
    + Frames.frame(0, 0, 1, Array(Frames.body([10, 11, 12]).prefix(3)))
    + Frames.frame(1, 0x24, 3, [0, 0, 0, 0, 9] + Frames.status200)  // with priority
    + Frames.frame(0, 8, 3, [2] + Frames.body([20]) + [0, 0])  // padded
    + Frames.frame(8, 0, 0, Frames.number(100_000))
    + Frames.frame(0, 0, 1, Array(Frames.body([10, 11, 12]).dropFirst(3)))
    + Frames.frame(200, 0xff, 7, [1])  // a type that nobody knows
    // Trailers-only: an error, in three pieces, its details in base64 without padding.
    + Frames.frame(1, 1, 5, Frames.status200 + Frames.literal("grpc-status", "9"))
    + Frames.frame(9, 0, 5, Frames.literal("grpc-message", "no%20stock"))
    + Frames.frame(9, 4, 5, Frames.literal("grpc-status-details-bin", "AQIDBA"))
    + Frames.frame(1, 5, 1, Frames.literal("grpc-status", "0"))
    // With indexing: from here on index 62 is this field.
    + Frames.frame(1, 5, 3, [0x40] + Frames.literal("grpc-status", "0").dropFirst())

  static let expected = [
    Seen(
      id: 102, outcome: .answered, http: 200, grpc: 9, text: "no%20stock", details: [1, 2, 3, 4]),
    Seen(id: 100, outcome: .answered, message: [10, 11, 12]),
    Seen(id: 101, outcome: .answered, message: [20]),
  ]

  static func withThreeCalls() throws -> TestConnection {
    var connection = try TestConnection()
    try connection.receive(Frames.settings())
    for id in 100..<103 { connection.start(UInt64(id)) }
    _ = connection.output()
    return connection
  }

  @Test func everySplit() throws {
    for split in 0...Self.script.count {
      var connection = try Self.withThreeCalls()
      try connection.receive(Array(Self.script[..<split]))
      try connection.receive(Array(Self.script[split...]))
      #expect(connection.seen == Self.expected, "split at \(split)")
      #expect(connection.http.openCalls == 0)
    }
  }

  @Test func byteByByte() throws {
    var connection = try Self.withThreeCalls()
    for byte in Self.script { try connection.receive([byte]) }
    #expect(connection.seen == Self.expected)
    let acknowledged = parse(connection.output()).filter { $0.type == 6 }
    #expect(acknowledged.map(\.flags) == [1])
    #expect(acknowledged.map(\.payload) == [[1, 2, 3, 4, 5, 6, 7, 8]])
  }

  @Test func nothingStartsBeforeSettings() throws {
    var connection = try TestConnection()
    #expect(connection.start(1) == .unavailable)
    try connection.receive(Frames.settings([(3, 2)]))
    #expect(connection.start(1) == .started)
    #expect(connection.start(2) == .started)
    #expect(connection.start(3) == .busy)
    #expect(
      connection.http.start(path: 0, callID: 4, message: [UInt8](repeating: 0, count: 16_380).span)
        == .messageTooLarge)
  }

  /// Whatever order the methods come in, the server decodes the headers that were meant.
  @Test(arguments: [UInt32(4096), 0, 100])
  func requestHeadersDecode(tableSize: UInt32) throws {
    var decoder: OpaquePointer?
    #expect(unsafe nghttp2_hd_inflate_new(&decoder) == 0)
    let inflater = try unsafe #require(unsafe decoder)
    defer { unsafe nghttp2_hd_inflate_del(inflater) }
    if tableSize < 4096 {
      #expect(unsafe nghttp2_hd_inflate_change_table_size(inflater, Int(tableSize)) == 0)
    }
    var connection = try TestConnection(paths: ["/a.A/B", "/a.A/C", "/d.D/E"])
    let isSmall = tableSize < 4096
    try connection.receive(isSmall ? Frames.settings([(1, tableSize)]) : Frames.settings())
    _ = connection.output()
    for (number, path) in [0, 0, 1, 0, 2, 1, 2, 0, 0].enumerated() {
      connection.start(UInt64(number), path: path, [UInt8(number)])
      let frames = parse(connection.output())
      #expect(frames.map(\.type) == [1, 0])
      #expect(frames[1].payload == Frames.body([UInt8(number)]))
      let headers = unsafe Self.inflate(frames[0].payload, inflater)
      #expect(headers[":path"] == ["/a.A/B", "/a.A/C", "/d.D/E"][path])
      #expect(headers[":method"] == "POST")
      #expect(headers["content-type"] == "application/grpc")
      #expect(headers["te"] == "trailers")
      if tableSize == 4096, number > 4 { #expect(frames[0].payload.count == 7) }
    }
  }

  static func inflate(_ block: [UInt8], _ inflater: OpaquePointer) -> [String: String] {
    var headers: [String: String] = [:]
    var at = 0
    while true {
      var pair = unsafe nghttp2_nv()
      var flags: Int32 = 0
      let used = unsafe block[at...].withUnsafeBufferPointer {
        unsafe nghttp2_hd_inflate_hd2(inflater, &pair, &flags, $0.baseAddress, $0.count, 1)
      }
      #expect(used >= 0)
      if used < 0 { return headers }
      at += used
      if flags & 2 != 0 {
        let name = unsafe UnsafeBufferPointer(start: pair.name, count: pair.namelen)
        let value = unsafe UnsafeBufferPointer(start: pair.value, count: pair.valuelen)
        unsafe headers[String(decoding: name, as: UTF8.self)] = String(
          decoding: value, as: UTF8.self)
      }
      if flags & 1 != 0 {
        _ = unsafe nghttp2_hd_inflate_end_headers(inflater)
        return headers
      }
    }
  }

  @Test func smallStreamWindowSendsInParts() throws {
    var connection = try TestConnection()
    try connection.receive(Frames.settings([(4, 4)]))
    _ = connection.output()
    let message: [UInt8] = [1, 2, 3, 4, 5, 6, 7]
    #expect(connection.start(1, message) == .started)
    var sent = parse(connection.output())
    try connection.receive(Frames.frame(8, 0, 1, Frames.number(3)))
    sent += parse(connection.output())
    // The window goes below what was sent already, and comes back.
    try connection.receive(Frames.settings([(4, 2)]) + Frames.settings([(4, 20)]))
    sent += parse(connection.output()).filter { $0.type == 0 }
    let data = sent.filter { $0.type == 0 }
    #expect(data.map(\.payload.count) == [4, 3, 5])
    #expect(data.map(\.flags) == [0, 0, 1])
    #expect(data.flatMap(\.payload) == Frames.body(message))
    try connection.receive(Frames.answer(1, [9]))
    #expect(connection.seen == [Seen(id: 1, outcome: .answered, message: [9])])
  }

  @Test func connectionWindowHoldsCallsBack() throws {
    var connection = try TestConnection(callsMaximum: 100)
    try connection.receive(Frames.settings())
    let message = [UInt8](repeating: 7, count: 16_000)
    var started = 0
    while connection.start(UInt64(started), message) == .started { started += 1 }
    #expect(started == 4)  // 4 × 16,005 of 65,535
    try connection.receive(Frames.frame(8, 0, 0, Frames.number(16_000)))
    #expect(connection.start(9, message) == .started)
  }

  @Test func goAwayAndRefusedStreamsWereNotProcessed() throws {
    var connection = try Self.withThreeCalls()
    try connection.receive(
      Frames.frame(3, 0, 1, Frames.number(7))
        + Frames.frame(7, 0, 0, Frames.number(3) + Frames.number(0)))
    #expect(connection.seen.map(\.id) == [100, 102])
    #expect(connection.seen.map(\.outcome) == [.unprocessed, .unprocessed])
    #expect(connection.start(4) == .unavailable)
    try connection.receive(Frames.answer(3, [1]))
    #expect(connection.seen.last == Seen(id: 101, outcome: .answered, message: [1]))
  }

  @Test func resetsAndLossesAreUnknown() throws {
    var connection = try Self.withThreeCalls()
    try connection.receive(Frames.frame(3, 0, 3, Frames.number(2)))
    connection.http.close()
    connection.take()
    #expect(connection.seen.map(\.outcome) == [.reset(2), .lost, .lost])
    #expect(connection.http.openCalls == 0)
  }

  @Test func aCancelledCallIsResetAndItsLateFramesAreDropped() throws {
    var connection = try Self.withThreeCalls()
    #expect(connection.http.latestStream == 5)
    let isCancelled = connection.http.cancel(stream: 3)
    let isCancelledAgain = connection.http.cancel(stream: 3)
    #expect(isCancelled && !isCancelledAgain)
    let frames = parse(connection.output())
    #expect(frames.map(\.type) == [3])
    #expect(frames.map(\.stream) == [3])
    #expect(frames.map(\.payload) == [Frames.number(8)])
    #expect(connection.http.openCalls == 2)
    let creditBefore = connection.http.uncredited
    // Its late answer enters a field into the header table, which the next answer names.
    try connection.receive(
      Frames.frame(1, 4, 3, Frames.status200) + Frames.frame(0, 0, 3, Frames.body([7]))
        + Frames.frame(1, 5, 3, [0x40] + Frames.literal("grpc-status", "0").dropFirst())
        + Frames.frame(3, 0, 3, Frames.number(8)) + Frames.frame(8, 0, 3, Frames.number(9))
        + Frames.frame(1, 4, 1, Frames.status200) + Frames.frame(0, 0, 1, Frames.body([1]))
        + Frames.frame(1, 5, 1, [0xbe]))
    #expect(connection.http.uncredited - creditBefore == 12)
    #expect(connection.seen == [Seen(id: 100, outcome: .answered, message: [1])])
    connection.http.close()
    connection.take()
    #expect(connection.seen.map(\.id) == [100, 102])
  }

  @Test func cancellingHalfARequestSendsNoMoreOfIt() throws {
    var connection = try TestConnection()
    try connection.receive(Frames.settings([(4, 4)]))
    connection.start(1)
    let isCancelled = connection.http.cancel(stream: 1)
    #expect(isCancelled)
    _ = connection.output()
    try connection.receive(Frames.frame(8, 0, 1, Frames.number(100)) + Frames.settings([(4, 100)]))
    #expect(!parse(connection.output()).contains { $0.type == 0 })
    #expect(connection.http.unsentCalls == 0)
  }

  /// What is no gRPC answer ends its call as malformed; the connection goes on.
  @Test(arguments: [
    // No trailers.
    Frames.frame(1, 4, 1, Frames.status200) + Frames.frame(0, 1, 1, Frames.body([1])),
    // No message, half a message, two messages, a compressed one.
    Frames.frame(1, 4, 1, Frames.status200)
      + Frames.frame(1, 5, 1, Frames.literal("grpc-status", "0")),
    Frames.frame(1, 4, 1, Frames.status200) + Frames.frame(0, 0, 1, [0, 0, 0, 0, 2, 1])
      + Frames.frame(1, 5, 1, Frames.literal("grpc-status", "0")),
    Frames.frame(1, 4, 1, Frames.status200)
      + Frames.frame(0, 0, 1, Frames.body([1]) + [0, 0, 0, 0, 0])
      + Frames.frame(1, 5, 1, Frames.literal("grpc-status", "0")),
    Frames.frame(1, 4, 1, Frames.status200) + Frames.frame(0, 0, 1, [1, 0, 0, 0, 1, 1])
      + Frames.frame(1, 5, 1, Frames.literal("grpc-status", "0")),
    // No status, statuses that are none.
    Frames.frame(1, 5, 1, Frames.status200),
    Frames.frame(1, 5, 1, Frames.status200 + Frames.literal("grpc-status", "17")),
    Frames.frame(1, 5, 1, Frames.status200 + Frames.literal("grpc-status", "x")),
    Frames.frame(1, 5, 1, Frames.literal(":status", "503")),
    Frames.frame(1, 4, 1, Frames.literal(":status", "abc")),
    Frames.frame(1, 4, 1, Frames.literal("grpc-status", "0")),
    // Trailers that don't end.
    Frames.frame(1, 4, 1, Frames.status200) + Frames.frame(1, 4, 1, Frames.status200),
  ])
  func malformedAnswers(bytes: [UInt8]) throws {
    var connection = try Self.withThreeCalls()
    try connection.receive(bytes)
    #expect(connection.seen.map(\.id) == [100])
    #expect(connection.seen.first?.outcome == .malformed)
    // Late frames of a stream that we reset are nothing to anybody.
    try connection.receive(Frames.frame(0, 0, 1, [1, 2, 3]) + Frames.answer(3, [5]))
    #expect(connection.seen.last?.message == [5])
  }

  /// What breaks the connection is thrown.
  @Test(arguments: [
    Frames.frame(0, 0, 1, [1]),  // DATA before HEADERS
    Frames.frame(0, 0, 2, [1]), Frames.frame(0, 0, 7, [1]), Frames.frame(1, 4, 0, [0x88]),
    Frames.frame(0, 8, 1, [1]), Frames.frame(0, 8, 1, []),  // padding
    Frames.frame(1, 0x24, 1, [1, 2]),
    Frames.frame(1, 4, 1, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Frames.frame(1, 4, 1, [0x7f]),
    Frames.frame(1, 4, 1, [0x80]), Frames.frame(1, 4, 1, [0xc0]), Frames.frame(1, 4, 1, [0, 9, 1]),
    Frames.frame(9, 4, 1, []), Frames.frame(1, 0, 1, [0x88]) + Frames.frame(0, 0, 1, [1]),
    Frames.frame(1, 0, 1, []) + Frames.frame(9, 4, 3, []),
    Frames.frame(4, 0, 0, [1, 2, 3]), Frames.frame(4, 0, 1, []),
    Frames.settings([(4, 0x8000_0000)]),
    Frames.frame(5, 4, 1, [0, 0, 0, 2, 0x88]),  // PUSH_PROMISE
    Frames.frame(6, 0, 0, [1]), Frames.frame(7, 0, 0, [1]), Frames.frame(3, 0, 1, [1]),
    Frames.frame(8, 0, 0, Frames.number(0)), Frames.frame(8, 0, 0, Frames.number(0x7fff_ffff)),
    Frames.frame(8, 0, 0, [1]), [0, 0x40, 1, 0, 0, 0, 0, 0, 1],
    Array("HTTP/1.1 400 Bad Request\r\n\r\n".utf8),
  ])
  func brokenProtocol(bytes: [UInt8]) throws {
    var connection = try Self.withThreeCalls()
    #expect(throws: ClientError.self) { try connection.receive(bytes) }
    connection.http.close()
    connection.take()
    #expect(connection.seen.map(\.outcome) == [.lost, .lost, .lost])
  }

  @Test func controlFloodsAndHeaderBombsEnd() throws {
    var connection = try Self.withThreeCalls()
    let pings = [[UInt8]](repeating: Frames.frame(6, 0, 0, [0, 0, 0, 0, 0, 0, 0, 0]), count: 1000)
    #expect(throws: ClientError.self) {
      for _ in 0..<100 { try connection.receive(pings.flatMap { $0 }) }
    }
    // 4,000 bytes into the table, then that field 10,000 times by its index.
    var bomb = try Self.withThreeCalls()
    let field: [UInt8] = [0x40, 1, 97, 0x7f, 0xa1, 0x1e] + [UInt8](repeating: 98, count: 4_000)
    #expect(throws: ClientError.self) {
      try bomb.receive(
        Frames.frame(1, 4, 1, field + [UInt8](repeating: 0xbe, count: 10_000)))
    }
    var endless = try Self.withThreeCalls()
    #expect(throws: ClientError.self) {
      try endless.receive(Frames.frame(1, 0, 1, []))
      for _ in 0..<5 {
        try endless.receive(Frames.frame(9, 0, 1, [UInt8](repeating: 0x88, count: 16_384)))
      }
    }
  }

  /// Flipped, lost and doubled bytes: any answer is right but a trap.
  @Test func garbageNeverTraps() throws {
    var generator = Lehmer(state: 20_261_121)
    for _ in 0..<3_000 {
      var bytes = Self.script
      for _ in 0..<1 + generator.below(4) {
        let at = generator.below(bytes.count)
        switch generator.below(3) {
        case 0: bytes[at] = UInt8(generator.below(256))
        case 1: bytes.remove(at: at)
        default: bytes.insert(bytes[at], at: at)
        }
      }
      var connection = try Self.withThreeCalls()
      let split = generator.below(bytes.count)
      do {
        try connection.receive(Array(bytes[..<split]))
        try connection.receive(Array(bytes[split...]))
      } catch is ClientError {}
      connection.http.close()
      connection.take()
      #expect(connection.seen.count == 3)
      #expect(connection.http.openCalls == 0)
    }
  }

  @Test func manyCallsKeepTheirBytesApart() throws {
    var connection = try TestConnection(callsMaximum: 64)
    try connection.receive(Frames.settings())
    var generator = Lehmer(state: 7)
    var open: [(id: UInt64, stream: UInt32)] = []
    var answered: [UInt64] = []
    var stream: UInt32 = 1
    for id in 0..<5_000 as Range<UInt64> {
      #expect(connection.start(id, path: Int(id % 2)) == .started)
      open.append((id, stream))
      stream += 2
      _ = connection.output()
      guard open.count == 64 || id == 4_999 else { continue }
      // Half of them, in any order, the oldest perhaps not for long.
      for _ in 0..<(id == 4_999 ? open.count : 32) {
        let (id, stream) = open.remove(at: generator.below(open.count))
        answered.append(id)
        try connection.receive(Frames.answer(stream, [UInt8(id & 255), UInt8(id >> 8)]))
      }
    }
    #expect(connection.seen.map(\.id) == answered)
    #expect(
      connection.seen.allSatisfy { $0.message == [UInt8($0.id & 255), UInt8($0.id >> 8)] })
  }
}

/// Small, seeded, and the same everywhere.
struct Lehmer {
  var state: UInt64

  mutating func below(_ bound: Int) -> Int {
    state = state &* 48_271 % 0x7fff_ffff
    return Int(state % UInt64(bound))
  }
}
