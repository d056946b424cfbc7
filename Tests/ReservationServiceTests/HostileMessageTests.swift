import GRPC
import ReservationService
import StockStore
import Testing

/// Whatever the bytes, the answer is INVALID_ARGUMENT or what a valid request gets, and never a trap.
@Suite("Hostile messages")
struct HostileMessageTests {
  /// One valid request of every method that reads one.
  static let valid: [(method: String, message: Message)] = [
    (
      "Reserve",
      reserve("key-1", [line("a", 1), line("b", 2, at: "Oslo")], ttl: duration(60, nanos: 5))
    ),
    ("Confirm", of("0123456789abcdefghij").with(2, line("a", 1, at: "x")).with(3, true)),
    ("Release", of("0123456789abcdefghij")),
    ("Extend", of("0123456789abcdefghij").with(2, duration(300))),
    ("GetReservation", of("0123456789abcdefghij")),
    (
      "ListReservations",
      Message().with(1, 10 as Int64).with(2, "").with(3, 1 as Int64)
    ),
    ("AdjustStock", adjust("key-2", "a", by: 5, at: "Oslo").with(8, 3 as Int64)),
    ("RemoveItem", remove("key-6", "a").with(3, "Oslo").with(4, 7 as Int64)),
    ("BatchAdjustStock", batch("key-5", [part("a", by: 1), part("b", by: 2)])),
    (
      "AdjustStock", adjustment("key-3", "b") { $0.with(5, 9 as Int64).with(6, 0 as Int64) }
    ),
    ("GetStock", stock("a", at: "Oslo")),
    ("BatchGetStock", Message().with(1, stock("a")).with(1, stock("b", at: "Oslo"))),
    ("ListStock", Message().with(1, 10 as Int64).with(2, String(repeating: "0", count: 32))),
    ("Check", Message().with(1, "holdfast.v1.StockService")),
    ("/grpc.health.v1.Health/Watch", Message().with(1, "holdfast.v1.StockService")),
    (
      "/holdfast.v1.EventService/Watch",
      Message().with(2, 1).with(3, 1).with(4, Message().with(1, "sku")).with(
        6, Message().with(1, 10))
    ),
    ("ServerReflectionInfo", Message().with(1, "host").with(4, "holdfast.v1.StockService")),
    ("ServerReflectionInfo", Message().with(7, "*")),
  ]

  private static let codes: Set<StatusCode> = [
    .invalidArgument, .notFound, .failedPrecondition, .aborted, .resourceExhausted,
  ]

  private let service = Service()

  /// `Service.call` itself checks that the answer is well-formed.
  @discardableResult
  private func answer(_ method: String, _ bytes: [UInt8]) throws -> Answer {
    let answer = try service.call(method, bytes: bytes)
    if case .failure(let refused) = answer {
      #expect(Self.codes.contains(refused.code), "\(method) \(bytes): \(refused)")
    }
    return answer
  }

  private func isMalformed(_ answer: Answer) -> Bool {
    if case .failure(let refused) = answer { refused.code == .invalidArgument } else { false }
  }

  @Test("Cut off anywhere", arguments: valid.indices)
  func truncated(index: Int) throws {
    let (method, message) = Self.valid[index]
    for length in 0..<message.bytes.count {
      let bytes = Array(message.bytes.prefix(length))
      let answer = try answer(method, bytes)
      // Between two fields it is a whole message again.
      if Fields(bytes) == nil { #expect(isMalformed(answer), "\(method) \(bytes)") }
    }
    try answer(method, message.bytes)
  }

  @Test("Changed at random", arguments: valid.indices)
  func mutated(index: Int) throws {
    let (method, message) = Self.valid[index]
    var generator = Generator(seed: UInt64(index) + 1)
    for _ in 0..<600 {
      var bytes = message.bytes
      for _ in 0..<Int.random(in: 1...4, using: &generator) { Self.mutate(&bytes, &generator) }
      try answer(method, bytes)
    }
    #expect(service.store.audit() == [])
  }

  private static func mutate(_ bytes: inout [UInt8], _ generator: inout Generator) {
    let at = Int.random(in: 0...bytes.count, using: &generator)
    let byte = UInt8.random(in: .min ... .max, using: &generator)
    switch Int.random(in: 0..<5, using: &generator) {
    case 0: bytes.insert(byte, at: at)
    case 1: if at < bytes.count { bytes.remove(at: at) }
    case 2: if at < bytes.count { bytes[at] = byte }
    case 3: if at < bytes.count { bytes[at] ^= 1 << (byte & 7) }
    default: bytes.insert(contentsOf: bytes[..<at], at: at)
    }
    if bytes.count > messageBytesMax { bytes.removeLast(bytes.count - messageBytesMax) }
  }

  @Test("Random bytes")
  func random() throws {
    var generator = Generator(seed: 7)
    for round in 0..<3000 {
      let count = Int.random(in: 0..<40, using: &generator)
      let bytes = (0..<count).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
      try answer(Self.valid[round % Self.valid.count].method, bytes)
    }
  }

  @Test(
    "What no reader may take",
    arguments: [
      [0x0a], [0x0a, 0x05, 0x61], [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
      [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], [0xff], [0x80],
      [UInt8](repeating: 0x80, count: 11), [0x00], [0x07], [0x7b], [0x0b], [0x0c], [0x09, 1, 2],
      [0x0d, 1], [0x0a, 0x80, 0x80, 0x80, 0x80, 0x08], [0x12, 0x01, 0x0a],
      [0x12, 0x02, 0x0a, 0x05],
    ] as [[UInt8]], ["Reserve", "Confirm", "AdjustStock", "GetStock", "BatchGetStock", "Check"])
  func malformed(bytes: [UInt8], method: String) throws {
    let answer = try answer(method, bytes)
    if Fields(bytes) == nil { #expect(isMalformed(answer), "\(answer)") }
  }

  @Test("Of a field that comes twice the last counts, and of a oneof too")
  func repeatedFields() throws {
    _ = try service.ok("AdjustStock", adjust("put", "a", by: 10))
    let twice = Message().with(1, "wrong").with(2, "b").with(5, 3 as Int64)
      .adding(adjust("k", "a", by: 1).bytes)
    #expect(balances(try service.ok("AdjustStock", twice).message(1)) == [11, 0, 0, 11, 2])
    #expect(try service.ok("AdjustStock", adjust("k", "a", by: 1)).flag(2))
  }

  @Test("A NUL inside a string is a byte like another")
  func nulBytes() throws {
    _ = try service.ok("AdjustStock", adjust("put", "a", by: 10))
    let keys = ["k", "k\u{0}", "k\u{0}a", "k\u{0}b", "\u{0}", "\u{0}\u{0}"]
    let ids = try keys.map { try service.ok("Reserve", reserve($0, [line("a", 1)])).text(1) }
    #expect(Set(ids).count == keys.count)
    for (key, id) in zip(keys, ids) {
      let again = try service.ok("Reserve", reserve(key, [line("a", 1)]))
      #expect(again.text(1) == id)
      #expect(again.flag(3))
    }
    #expect(try service.refused("GetStock", stock("a\u{0}")).violations.first?.first == "sku")
    #expect(try service.refused("Check", Message().with(1, "\u{0}")).code == .notFound)
    let id = try #require(ids.first)
    #expect(try service.refused("Release", of(id + "\u{0}")).reason == "INVALID_FIELD")
  }

  /// 80 KiB of the shortest things there are, which unpack to the most memory.
  private static let amplifiers: [(name: String, bytes: [UInt8])] = [
    ("empty submessages", [0x12, 0x00] as [UInt8]), ("empty first fields", [0x0a, 0x00]),
    ("empty third fields", [0x1a, 0x00]), ("unknown varints", [0x78, 0x00]),
    ("unknown empty strings", [0x7a, 0x00]),
    ("submessages of an unknown field", [0x12, 2, 0x78, 0]),
    ("submessages of an empty string", [0x12, 2, 0x0a, 0]),
    ("first fields of an unknown field", [0x0a, 2, 0x78, 0]),
    ("submessages of unknown fields", [0x12, 0x10] + [UInt8](repeating: 0x78, count: 16)),
    ("unknown fixed 32", [0x7d, 0, 0, 0, 0]), ("zero varints", [0x08, 0x00]),
    ("unknown groups", [0x7b, 0x7c]), ("groups that do not end", [0x7b]),
  ].map { name, unit in
    (name, Array(repeatElement(unit, count: messageBytesMax / unit.count).joined()))
  }

  @Test(
    "The worst of 80 KiB", arguments: amplifiers.indices,
    ["Reserve", "Confirm", "Extend", "AdjustStock", "GetStock", "BatchGetStock", "Check"])
  func amplification(index: Int, method: String) throws {
    try answer(method, Self.amplifiers[index].bytes)
    // The next message finds everything as it was.
    _ = try service.ok("ListStock", Message())
  }

  @Test("A read among 80 KiB of unknown fields is served, and a change is not")
  func padded() throws {
    let padding = Array(repeatElement([0x78, 0x00] as [UInt8], count: 40_000).joined())
    _ = try service.ok("AdjustStock", adjust("put", "a", by: 10))
    #expect(try service.ok("GetStock", stock("a").adding(padding)).message(1) != nil)
    let refused = try service.refused("Reserve", reserve("k", [line("a", 1)]).adding(padding))
    #expect(refused.reason == "UNKNOWN_FIELD")
    #expect(refused.metadata == ["path": "", "number": "15"])
  }

  @Test("A method number that does not exist is answered")
  func noSuchMethod() {
    let response = Response()
    let nothing: [UInt8] = []
    for number in [-1, HoldfastHandler.methods.count, Int(Int32.max)] {
      var context = CallContext(method: number, type: .unary, principal: Principal())
      unsafe withUnsafeMutablePointer(to: &context) { context in
        let call = unsafe Call(id: CallID(rawValue: 1), context: context)
        let completion = service.handler.handle(nothing.span, of: call, response: response)
        #expect(completion == .later)
      }
    }
  }
}

/// A random generator whose runs repeat.
struct Generator: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var mixed = (state ^ state >> 30) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
    return mixed ^ mixed >> 31
  }
}
