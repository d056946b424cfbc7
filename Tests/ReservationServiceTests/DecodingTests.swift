import CHoldfastProto
import CProtobufC
import GRPC
import ReservationService
import StockStore
import Testing

/// What protobuf's wire format lets writers choose, and what must make no difference.
@Suite("Decoding")
struct DecodingTests {
  /// A Reserve, and what it is the same as. Keys are recorded with their payload, so a replay shows that
  /// both are read alike.
  struct Spelling: CustomTestStringConvertible {
    let testDescription: String
    let plain: Message
    let spelled: Message
  }

  private static let spellings: [Spelling] = {
    func spelling(_ note: String, _ plain: Message, _ spelled: Message) -> Spelling {
      Spelling(testDescription: note, plain: plain, spelled: spelled)
    }
    let lines = [line("a", 1, at: "x"), line("b", 2)]
    let plain = reserve("k", lines, ttl: duration(60, nanos: 5))
    let bare = reserve("k", [line("a", 300)])
    return [
      spelling("the key last", bare, Message().with(2, line("a", 300)).with(1, "k")),
      spelling(
        "the ttl first", plain,
        Message().with(3, duration(60, nanos: 5)).adding(
          reserve("k", lines).bytes)),
      spelling(
        "the ttl in two parts", plain,
        Message().with(3, Message().with(2, 5 as Int64)).adding(reserve("k", lines).bytes)
          .with(3, Message().with(1, 60 as Int64))),
      spelling(
        "of two parts of the ttl, the later number counts", plain,
        reserve("k", lines, ttl: duration(70, nanos: 5)).with(3, Message().with(1, 60 as Int64))),
      spelling("an empty part more", plain, plain.with(3, Message())),
      spelling("the key twice", bare, Message().with(1, "other").adding(bare.bytes)),
      spelling(
        "a line backwards", bare,
        Message().with(1, "k").with(2, Message().with(3, 300 as Int64).with(1, "a"))),
      spelling(
        "every field of a line twice", reserve("k", [line("a", 1, at: "x")]),
        reserve("k", [line("b", 9, at: "y").adding(line("a", 1, at: "x").bytes)])),
      spelling(
        "a location that is unset again", bare,
        reserve("k", [line("a", 1, at: "y").adding(stock("a").with(3, 300 as Int64).bytes)])),
      spelling(
        "the lines apart", plain,
        Message().with(2, lines[0]).with(1, "k").with(3, duration(60, nanos: 5)).with(2, lines[1])),
      spelling(
        "long tags, lengths and numbers", bare,
        Message().adding([0x8a, 0x00, 0x81, 0x80, 0x80, 0x80, 0x00, 0x6b])
          .adding([0x92, 0x80, 0x80, 0x80, 0x00, 0x8e, 0x00])
          .adding([0x0a, 0x81, 0x00, 0x61])
          .adding([0x98, 0x00, 0xac, 0x82, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00])),
      // A varint's tenth byte has bits that no 64-bit number has.
      spelling(
        "bits beyond 64", bare,
        Message().with(1, "k").with(
          2,
          Message().with(1, "a").adding(
            [0x18, 0xac, 0x82, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02]))),
    ]
  }()

  @Test("Other spellings of one Reserve", arguments: spellings)
  func spelling(_ each: Spelling) throws {
    let service = Service()
    for (sku, location) in [("a", ""), ("a", "x"), ("b", "")] {
      _ = try service.ok(
        "AdjustStock", adjust("put \(sku) \(location)", sku, by: 300, at: location))
    }
    let first = try service.ok("Reserve", each.plain)
    let again = try service.ok("Reserve", each.spelled)
    #expect(again.flag(3), "another payload or key")
    #expect(again.text(1) == first.text(1))
  }

  @Test("The ttl of an Extend in two parts")
  func extend() throws {
    let service = Service()
    _ = try service.ok("AdjustStock", adjust("put", "a", by: 1))
    let made = try service.ok("Reserve", reserve("k", [line("a", 1)], ttl: duration(60)))
    let extended = try service.ok(
      "Extend",
      of(made.text(1)).with(2, Message().with(1, 90 as Int64))
        .with(2, Message().with(2, 7 as Int64)))
    let before = try #require(made.time(2))
    #expect(extended.message(1)?.time(5) == before + 30 * second + 7)
  }

  @Test("An item of a BatchGetStock that comes again is one item more, and is not merged")
  func lists() throws {
    let service = Service()
    _ = try service.ok("AdjustStock", adjust("put", "a", by: 1))
    let found = try service.ok(
      "BatchGetStock", Message().with(1, stock("a")).with(1, Message().with(1, "b")))
    #expect(found.messages(1).map { $0.text(1) } == ["a"])
    #expect(found.messages(2).map { $0.text(1) } == ["b"])
  }

  // MARK: Beside protobuf-c

  private static let methods = [
    "Reserve", "Confirm", "Release", "Extend", "Replace", "GetReservation", "ListReservations",
    "AdjustStock", "BatchAdjustStock", "GetStock", "BatchGetStock", "ListStock", "RemoveItem",
    "Check",
  ]

  private static func request(of method: String) -> ProtobufCMessageDescriptor {
    switch method {
    case "Reserve": unsafe holdfast__v1__reserve_request__descriptor
    case "Confirm": unsafe holdfast__v1__confirm_request__descriptor
    case "Release": unsafe holdfast__v1__release_request__descriptor
    case "Extend": unsafe holdfast__v1__extend_request__descriptor
    case "Replace": unsafe holdfast__v1__replace_request__descriptor
    case "GetReservation": unsafe holdfast__v1__get_reservation_request__descriptor
    case "ListReservations": unsafe holdfast__v1__list_reservations_request__descriptor
    case "AdjustStock": unsafe holdfast__v1__adjust_stock_request__descriptor
    case "BatchAdjustStock": unsafe holdfast__v1__batch_adjust_stock_request__descriptor
    case "RemoveItem": unsafe holdfast__v1__remove_item_request__descriptor
    case "GetStock": unsafe holdfast__v1__get_stock_request__descriptor
    case "BatchGetStock": unsafe holdfast__v1__batch_get_stock_request__descriptor
    case "ListStock": unsafe holdfast__v1__list_stock_request__descriptor
    default: unsafe grpc__health__v1__health_check_request__descriptor
    }
  }

  /// The message as protobuf-c writes it after it has read it; nil where it cannot.
  private static func canonical(
    _ bytes: [UInt8], _ descriptor: ProtobufCMessageDescriptor
  ) -> [UInt8]? {
    unsafe withUnsafePointer(to: descriptor) { descriptor in
      let read = unsafe bytes.withUnsafeBufferPointer {
        unsafe protobuf_c_message_unpack(descriptor, nil, $0.count, $0.baseAddress)
      }
      guard let message = unsafe read else { return nil }
      defer { unsafe protobuf_c_message_free_unpacked(message, nil) }
      var written = [UInt8](
        repeating: 0, count: unsafe protobuf_c_message_get_packed_size(message))
      let count = unsafe written.withUnsafeMutableBufferPointer {
        unsafe protobuf_c_message_pack(message, $0.baseAddress)
      }
      return Array(written.prefix(count))
    }
  }

  /// Two services get the same calls: the one as they were made, the other as protobuf-c read them.
  @Test("As protobuf-c reads it", arguments: methods)
  func besideProtobufC(method: String) throws {
    let seed = UInt64(Self.methods.firstIndex(of: method) ?? 0) + 1
    let (ours, theirs) = (Service(), Service())
    var ids: [String] = []
    for service in [ours, theirs] {
      for sku in ["a", "b"] { _ = try service.ok("AdjustStock", adjust(sku, sku, by: 1000)) }
      ids = try ["1", "2", "3"].map {
        try service.ok("Reserve", reserve("made \($0)", [line("a", 3), line("b", 2)])).text(1)
      }
    }
    var generator = MessageGenerator(seed: seed, ids: ids)
    var counts: (read: Int, malformed: Int) = (0, 0)
    for _ in 0..<400 {
      let bytes = generator.message(method)
      let answer = try ours.call(method, bytes: bytes)
      if let canonical = unsafe Self.canonical(bytes, Self.request(of: method)) {
        counts.read += 1
        let other = try theirs.call(method, bytes: canonical)
        // Of several unknown fields, protobuf-c has another one first.
        let isSame = answer == other || (answer.isUnknownField && other.isUnknownField)
        #expect(isSame, "\(bytes) \(canonical): \(answer), not \(other)")
      } else {
        counts.malformed += 1
        guard case .failure(let refused) = answer else {
          Issue.record("protobuf-c does not read \(bytes): \(answer)")
          continue
        }
        #expect(refused.reason == "MALFORMED_MESSAGE" || answer.isUnknownField, "\(bytes)")
      }
    }
    // The generator makes enough of either kind.
    #expect(counts.read > 250 && counts.malformed > 50, "\(counts)")
    for list in ["ListStock", "ListReservations"] {
      #expect(try ours.ok(list, Message()) == theirs.ok(list, Message()))
    }
    #expect(ours.store.audit() == [])
  }

  /// Requests of a batch are read by another function where they are as most are: each is beside a call of its
  /// own, of what protobuf-c has read.
  @Test("In a batch, as protobuf-c reads it", arguments: 1...4 as ClosedRange<UInt64>)
  func batchesBesideProtobufC(seed: UInt64) throws {
    let (ours, theirs) = (Service(), Service())
    for service in [ours, theirs] {
      for sku in ["a", "b"] { _ = try service.ok("AdjustStock", adjust(sku, sku, by: 1000)) }
    }
    var generator = MessageGenerator(seed: seed, ids: [])
    var counts: (held: Int, refused: Int, malformed: Int) = (0, 0, 0)
    for _ in 0..<40 {
      let requests = (0..<20).map { $0 % 4 == 0 ? generator.message("Reserve") : generator.plain() }
      let batch = requests.reduce(Message()) { $0.with(1, $1) }
      let results = try ours.ok("BatchReserve", batch).messages(1)
      #expect(results.count == requests.count)
      for (request, result) in zip(requests, results) {
        let canonical = unsafe Self.canonical(request, Self.request(of: "Reserve"))
        guard let canonical else {
          counts.malformed += 1
          let reason = result.message(2)?.text(2)
          #expect(reason == "MALFORMED_MESSAGE" || reason == "UNKNOWN_FIELD", "\(request)")
          continue
        }
        switch try theirs.call("Reserve", bytes: canonical) {
        case .message(let held):
          counts.held += 1
          #expect(result.message(1) == held, "\(request)")
        case .failure(let refused):
          counts.refused += 1
          #expect(result.message(2)?.text(2) == refused.reason, "\(request)")
        }
      }
    }
    #expect(counts.held > 50 && counts.refused > 50 && counts.malformed > 50, "\(counts)")
    for list in ["ListStock", "ListReservations"] {
      #expect(try ours.ok(list, Message()) == theirs.ok(list, Message()))
    }
    #expect(ours.store.audit() == [])
  }
}

extension Answer {
  fileprivate var isUnknownField: Bool {
    if case .failure(let refused) = self { refused.reason == "UNKNOWN_FIELD" } else { false }
  }
}

/// Random messages: the fields of a request in any order and number, with values that mean something, in
/// short and long forms; some are damaged.
///
/// Without what protobuf-c reads differently: groups, a NUL in a string, a submessage in parts, tags and
/// lengths of more than five bytes, unknown fields in a submessage's second part.
private struct MessageGenerator {
  private var generator: Generator
  private let ids: [String]
  private var key = 0

  init(seed: UInt64, ids: [String]) {
    generator = Generator(seed: seed)
    self.ids = ids
  }

  mutating func message(_ method: String) -> [UInt8] {
    let bytes = request(method)
    return damaged(bytes)
  }

  /// A Reserve of one line, its fields in their order, as encoders write it; sometimes one is missing, or there
  /// is one more.
  mutating func plain() -> [UInt8] {
    var line = text(
      1, ["a", "a", "a", "b", "b", "c", "a b", "much longer than eight", "\u{7f}tab"])
    if chance(6) { line += text(2, ["", "x", "x y", "ü"]) }
    if !chance(16) { line += number(3, [1, 1, 1, 1, 1, 2, 300, 0, 1 << 41]) }
    if chance(16) { line += unknown() }
    var bytes = keyField(1) + self.bytes(2, line)
    if chance(2) { bytes += ttlField(3) }
    if chance(16) { bytes += unknown() }
    return damaged(bytes)
  }

  private mutating func damaged(_ whole: [UInt8]) -> [UInt8] {
    var bytes = whole
    // Cut, or a byte that is another: never one that makes a group or a NUL in a text.
    if chance(8), !bytes.isEmpty {
      bytes.removeLast(Int.random(in: 1...bytes.count, using: &generator))
    }
    if chance(8) {
      bytes += pick([[0x0d], [0x09, 1], [0x0a, 0x7f], [0x80], [0x0f]])
    }
    return bytes
  }

  /// Of several: nearly all may be made.
  private mutating func change(_ sku: String) -> [UInt8] {
    text(2, [sku]) + (chance(10) ? text(3, ["", "x"]) : [])
      + (chance(2) ? number(4, [1, 2, -1, 0]) : number(5, [1000, 2000]))
      + (chance(10) ? number(pick([10, 11]), [1, 0]) : []) + number(7, [1, 1, 1, 0])
      + (chance(8) ? number(8, [0, 5, -1]) : [])
      + (chance(20) ? text(pick([1, 9, 14]), ["x"]) : [])
  }

  private mutating func request(_ method: String) -> [UInt8] {
    switch method {
    case "Reserve":
      return fields(
        [
          { $0.keyField(1) }, { $0.lineField(2) }, { $0.lineField(2) },
          { $0.chance(2) ? $0.referenceField(4) : [] },
          { $0.chance(4) ? $0.alternativeField(5) : [] },
          { $0.chance(3) ? $0.limitField(6) : [] }, { $0.chance(6) ? $0.limitField(6) : [] },
        ], once: { $0.ttlField(3) })
    case "Confirm":
      return fields([
        { $0.idField(1) }, { $0.chance(2) ? $0.lineField(2) : [] },
        { $0.number(3, [0, 1, 2, 1 << 40]) }, { $0.chance(2) ? $0.number(4, [0, 1]) : [] },
      ])
    case "Release": return fields([{ $0.idField(1) }])
    case "GetReservation":
      return chance(3) ? fields([{ $0.keyField(2) }]) : fields([{ $0.idField(1) }])
    case "Replace":
      return fields(
        [
          { $0.keyField(1) }, { $0.idField(2) }, { $0.lineField(3) }, { $0.lineField(3) },
          { $0.chance(3) ? $0.number(4, [0, 1, 2, 3, -1]) : [] },
          { $0.chance(2) ? $0.referenceField(6) : [] },
        ], once: { $0.ttlField(5) })
    case "Extend":
      return fields([{ $0.idField(1) }, { $0.number(3, [0, 1, -1]) }], once: { $0.ttlField(2) })
    case "ListReservations":
      return fields([
        { $0.number(1, [0, 1, 2, 600, -1, 1 << 32 | 1, 1 << 31]) }, { $0.text(2, ["", "x"]) },
        { $0.number(3, [0, 1, 2, 3, 4, 5, -1, 1 << 32 | 1]) },
        { $0.chance(3) ? $0.referenceField(4) : [] },
      ])
    case "BatchAdjustStock":
      return fields([
        { $0.keyField(1) }, { $0.bytes(2, $0.change("a")) },
        { $0.chance(2) ? $0.bytes(2, $0.change($0.pick(["b", "c", "a"]))) : [] },
        { $0.text(3, ["test", "test", ""]) },
        { $0.chance(4) ? $0.text(4, ["", "order:1", "a b"]) : [] },
      ])
    case "RemoveItem":
      return fields([
        { $0.keyField(1) }, { $0.text(2, ["a", "b"]) },
        { $0.chance(4) ? $0.text(3, ["", "x"]) : [] },
        { $0.chance(3) ? $0.number(4, [0, 1, 2, -1]) : [] }, { $0.text(5, ["test", "test", ""]) },
      ])
    case "AdjustStock":
      return fields(
        [
          { $0.keyField(1) }, { $0.text(2, ["a", "b"]) },
          { $0.chance(4) ? $0.text(3, ["", "x"]) : [] },
          {
            $0.chance(2) ? $0.number(4, [1, 2, -1, 1 << 41, 0]) : $0.number(5, [1000, 2000, -1])
          },
          { $0.chance(6) ? $0.number($0.pick([10, 11]), [1, 2, 0]) : [] },
          { $0.chance(2) ? $0.number(6, [0, 1, 2, 3]) : $0.number(7, [1, 1, 0]) },
          { $0.chance(6) ? $0.number(12, [1000, 1001, 0, -1]) : [] },
          { $0.chance(4) ? $0.number(13, [0, 1]) : [] },
          { $0.chance(4) ? $0.text(14, ["", "order:1", "a b"]) : [] },
          { $0.chance(3) ? $0.number(8, [0, 5, -1]) : [] }, { $0.text(9, ["test", "test", ""]) },
        ], once: { $0.chance(2) ? $0.saleField(15) : [] })
    case "GetStock": return item()
    case "BatchGetStock":
      return fields([
        { $0.bytes(1, $0.item()) }, { $0.bytes(1, $0.item()) }, { $0.bytes(1, $0.item()) },
      ])
    case "ListStock":
      return fields([{ $0.number(1, [0, 1, 2, 600, -1]) }, { $0.text(2, ["", "", "x"]) }])
    default: return fields([{ $0.text(1, ["", "holdfast.v1.StockService", "x"]) }])
    }
  }

  private typealias Part = (inout MessageGenerator) -> [UInt8]

  /// The parts in a random order; some are missing, some come twice. `once` comes once at most.
  private mutating func fields(_ parts: [Part], once: Part? = nil) -> [UInt8] {
    var chosen = parts.flatMap { part in
      chance(20) ? [] : chance(10) ? [part, part] : [part]
    }
    if let once, chance(2) { chosen.append(once) }
    if chance(12) { chosen.append { $0.unknown() } }
    chosen.shuffle(using: &generator)
    return chosen.flatMap { $0(&self) }
  }

  /// A field that nobody knows, or a known number in another wire type. A bool is taken by protobuf-c in
  /// any.
  private mutating func unknown() -> [UInt8] {
    let number = pick([1, 2, 15, 16, 300, 1 << 29 - 1])
    switch Int.random(in: 0..<4, using: &generator) {
    case 0: return tag(number, 1) + [UInt8](repeating: 7, count: 8)
    case 1: return tag(number, 5) + [1, 2, 3, 4]
    case 2: return number > 2 ? self.number(number, [0, 5, -1]) : []
    default: return number > 2 ? bytes(number, [65, 66]) : []
    }
  }

  private mutating func keyField(_ number: Int) -> [UInt8] {
    key += 1
    return text(number, ["k\(key)", "k\(key)", "k\(key)", "k\(key / 2)", "", "kü\(key)"])
  }

  private mutating func idField(_ number: Int) -> [UInt8] {
    text(number, ids + ids + ["00000000000000000000", "", "x"])
  }

  private mutating func referenceField(_ number: Int) -> [UInt8] {
    text(number, ["order:1", "order:1", "cart", "", "a b", "ü"])
  }

  private mutating func limitField(_ number: Int) -> [UInt8] {
    let limit = fields([
      { $0.text(1, ["c", "c", "d", "", "a b"]) }, { $0.number(2, [1, 5, 1000, 1 << 40, 0, -1]) },
    ])
    return bytes(number, limit)
  }

  private mutating func lineField(_ number: Int) -> [UInt8] {
    let line = fields([
      { $0.text(1, ["a", "a", "b", "b", "c", ""]) },
      { $0.chance(6) ? $0.text(2, ["", "x", "x y"]) : [] },
      { $0.number(3, [1, 1, 1, 2, 300, 0, -1, 1 << 40, 1 << 41]) },
      { $0.chance(4) ? $0.number(4, [1, 1, 0, 2, -1]) : [] },
    ])
    return bytes(number, line)
  }

  private mutating func alternativeField(_ number: Int) -> [UInt8] {
    bytes(number, fields([{ $0.lineField(1) }, { $0.chance(2) ? $0.lineField(1) : [] }]))
  }

  private mutating func ttlField(_ number: Int) -> [UInt8] {
    bytes(
      number,
      fields([
        { $0.number(1, [1, 60, 600, 1 << 20, 1 << 40, -1]) },
        { $0.chance(2) ? $0.number(2, [0, 5, 999_999_999, 1_000_000_000, -1, 1 << 32 | 7]) : [] },
      ]))
  }

  private mutating func saleField(_ number: Int) -> [UInt8] {
    // Each bound once: it is a submessage.
    var parts = [
      chance(2) ? instantField(1) : [], chance(2) ? instantField(2) : [],
      chance(3) ? self.number(3, [0, 1]) : [],
    ]
    parts.shuffle(using: &generator)
    return bytes(number, Array(parts.joined()))
  }

  private mutating func instantField(_ number: Int) -> [UInt8] {
    bytes(
      number,
      fields([
        { $0.number(1, [0, 1, 1 << 31, -5, 1 << 60]) },
        { $0.chance(2) ? $0.number(2, [0, 5, 999_999_999, 1_000_000_000, -1]) : [] },
      ]))
  }

  private mutating func item() -> [UInt8] {
    fields([
      { $0.text(1, ["a", "b", "c", "a b", ""]) }, { $0.chance(3) ? $0.text(2, ["", "x"]) : [] },
    ])
  }

  // MARK: Forms

  private mutating func chance(_ oneIn: Int) -> Bool {
    Int.random(in: 0..<oneIn, using: &generator) == 0
  }

  private mutating func pick<Value>(_ values: [Value]) -> Value {
    values[Int.random(in: 0..<values.count, using: &generator)]
  }

  private mutating func text(_ number: Int, _ texts: [String]) -> [UInt8] {
    bytes(number, Array(pick(texts).utf8))
  }

  private mutating func bytes(_ number: Int, _ value: [UInt8]) -> [UInt8] {
    tag(number, 2) + varint(UInt64(value.count), bytesMax: 5) + value
  }

  private mutating func number(_ number: Int, _ values: [Int64]) -> [UInt8] {
    tag(number, 0) + varint(UInt64(bitPattern: pick(values)), bytesMax: 10)
  }

  private mutating func tag(_ number: Int, _ wireType: Int) -> [UInt8] {
    varint(UInt64(number << 3 | wireType), bytesMax: 5)
  }

  /// A varint, now and then longer than it need be.
  private mutating func varint(_ value: UInt64, bytesMax: Int) -> [UInt8] {
    var bytes = Message.varint(value)
    if chance(8), bytes.count < bytesMax {
      bytes[bytes.count - 1] |= 0x80
      bytes +=
        [UInt8](
          repeating: 0x80, count: Int.random(in: 0..<bytesMax - bytes.count, using: &generator)) + [
          0
        ]
    }
    return bytes
  }
}
