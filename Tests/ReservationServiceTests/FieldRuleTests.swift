import GRPC
import StockStore
import Testing

@Suite("Field rules")
struct FieldRuleTests {
  /// A request with one field that breaks its rule.
  struct Breach: CustomTestStringConvertible {
    let method: String
    let field: String
    let request: Message
    let note: String

    init(_ method: String, _ field: String, _ note: String, _ request: Message) {
      self.method = method
      self.field = field
      self.note = note
      self.request = request
    }

    var testDescription: String { "\(method) \(field): \(note)" }
  }

  private static let long = String(repeating: "x", count: 65)
  private static let id = "00000000000000000000"

  /// Texts that are no SKU. A location may be empty.
  private static let badCodes = [
    ("a space", "a b"), ("65 bytes", long), ("a tab", "a\tb"), ("not ASCII", "größe"),
    ("DEL", "a\u{7f}"), ("NUL inside", "a\u{0}b"), ("NUL behind", "a\u{0}"),
  ]

  private static let keys = [
    ("empty", ""), ("65 bytes", long),
    ("65 bytes of 33 characters", String(repeating: "é", count: 33)),
  ].flatMap { note, key in
    [
      Breach("Reserve", "idempotency_key", note, reserve(key, [line("a", 1)])),
      Breach("AdjustStock", "idempotency_key", note, adjust(key, "a", by: 1)),
    ]
  }

  private static let skus = (badCodes + [("empty", "")]).flatMap { note, sku in
    [
      Breach("Reserve", "lines[1].sku", note, reserve("k", [line("a", 1), line(sku, 1)])),
      Breach("Confirm", "lines[0].sku", note, of(id).with(2, line(sku, 1))),
      Breach("AdjustStock", "sku", note, adjust("k", sku, by: 1)),
      Breach("GetStock", "sku", note, stock(sku)),
      Breach(
        "BatchGetStock", "items[1].sku", note, Message().with(1, stock("a")).with(1, stock(sku))),
    ]
  }

  private static let locations = badCodes.flatMap { note, location in
    [
      Breach("Reserve", "lines[0].location", note, reserve("k", [line("a", 1, at: location)])),
      Breach("Confirm", "lines[0].location", note, of(id).with(2, line("a", 1, at: location))),
      Breach("AdjustStock", "location", note, adjust("k", "a", by: 1, at: location)),
      Breach("GetStock", "location", note, stock("a", at: location)),
      Breach(
        "BatchGetStock", "items[0].location", note, Message().with(1, stock("a", at: location))),
    ]
  }

  private static let subjects = (badCodes + [("empty", "")]).map { note, subject in
    Breach(
      "Reserve", "limits[1].subject", note,
      reserve("k", [line("a", 1)]).with(6, limit("c", 2)).with(6, limit(subject, 2)))
  }

  private static let limits =
    [0, -1, quantityMax + 1, .min, .max].map { units in
      Breach(
        "Reserve", "limits[0].max_units", "\(units)",
        reserve("k", [line("a", 1)]).with(6, limit("c", units)))
    } + [
      Breach(
        "Reserve", "limits[2].subject", "the same twice",
        ["c", "d", "c"].reduce(reserve("k", [line("a", 1)])) { $0.with(6, limit($1, 2)) }),
      Breach(
        "Reserve", "limits", "5",
        (0..<5).reduce(reserve("k", [line("a", 1)])) { $0.with(6, limit("c\($1)", 2)) }),
      Breach("Reserve", "limits[0].subject", "nothing", reserve("k", [line("a", 1)]).with(6, "")),
    ]

  private static let quantities = [0, -1, quantityMax + 1, .min, .max].flatMap { quantity in
    [
      Breach("Reserve", "lines[0].quantity", "\(quantity)", reserve("k", [line("a", quantity)])),
      Breach("Confirm", "lines[0].quantity", "\(quantity)", of(id).with(2, line("a", quantity))),
    ]
  }

  private static let lineCounts = [
    Breach("Reserve", "lines", "none", reserve("k", [])),
    Breach("Reserve", "lines", "65", reserve("k", Array(repeating: line("a", 1), count: 65))),
    Breach(
      "Confirm", "lines", "65",
      (0..<65).reduce(of(id)) { request, _ in request.with(2, line("a", 1)) }),
    Breach("BatchGetStock", "items", "none", Message()),
    Breach(
      "BatchGetStock", "items", "501",
      (0..<501).reduce(Message()) { request, _ in request.with(1, stock("a")) }),
  ]

  private static let durations: [(Int64, Int64)] = [
    (0, 0), (0, 999_999_999), (-1, 0), (86_400, 1), (86_401, 0), (.max, 0), (.min, 0), (5, -1),
    (5, 1_000_000_000), (9_223_372_036, 999_999_999), (-5, -5),
  ]

  private static let lives = durations.flatMap { seconds, nanos in
    let ttl = duration(seconds, nanos: nanos)
    return [
      Breach("Reserve", "ttl", "\(seconds) s \(nanos)", reserve("k", [line("a", 1)], ttl: ttl)),
      Breach("Extend", "ttl", "\(seconds) s \(nanos)", of(id).with(2, ttl)),
    ]
  }

  private static let badIDs = [
    "", "0", String(repeating: "0", count: 19), String(repeating: "0", count: 21),
    "0000000000000000000w", "0000000000000000000A", "w0000000000000000000",
    "0000000000000000000\u{0}", "0000000000 000000000", "vvvvvvvvvvvvvvvvvvvV",
  ]

  private static let ids = ["Confirm", "Release", "Extend", "GetReservation"].flatMap { method in
    badIDs.map { Breach(method, "reservation_id", "'\($0)'", of($0)) }
  }

  private static let madeUpTokens: [String] = [
    "x", "0", "000000000000000G", "0000000000000001", String(repeating: "0", count: 32),
    String(repeating: "f", count: 32), String(repeating: "0", count: 31),
    String(repeating: "0", count: 33), String(repeating: "A", count: 32),
    "-" + String(repeating: "0", count: 31), String(repeating: "0", count: 31) + "\u{0}",
  ]

  private static let pages: [Breach] = ["ListReservations", "ListStock"].flatMap { method in
    let sizes: [Int64] = [-1, Int64(Int32.min)]
    return sizes.map { Breach(method, "page_size", "\($0)", Message().with(1, $0)) }
      + madeUpTokens.map { Breach(method, "page_token", "'\($0)'", Message().with(2, $0)) }
  }

  private static let states = [5, 99, -1, Int64(Int32.min)].map {
    Breach("ListReservations", "state", "\($0)", Message().with(3, $0))
  }

  private static func change(_ field: String, _ note: String, _ rest: (Message) -> Message)
    -> Breach
  {
    Breach("AdjustStock", field, note, adjustment("k", "a", rest))
  }

  private static func sale(_ field: String, _ note: String, _ window: (Message) -> Message)
    -> Breach
  {
    change(field, note) { $0.with(15, window(Message())).with(7, true) }
  }

  /// A Timestamp, which looks as a Duration does.
  private static func instant(_ seconds: Int64, nanos: Int64 = 0) -> Message {
    Message().with(1, seconds).with(2, nanos)
  }

  private static let adjustments = [
    change("change", "nothing to do") { $0.with(7, true) },
    change("delta", "too much") { $0.with(4, quantityMax + 1).with(7, true) },
    change("delta", "too little") { $0.with(4, -quantityMax - 1).with(7, true) },
    change("delta", "least") { $0.with(4, Int64.min).with(7, true) },
    change("set_on_hand", "below zero") { $0.with(5, -1 as Int64).with(7, true) },
    change("set_on_hand", "too much") { $0.with(5, quantityMax + 1).with(7, true) },
    change("set_safety_stock", "too little") { $0.with(8, -quantityMax - 1).with(7, true) },
    change("set_safety_stock", "too much") { $0.with(8, quantityMax + 1).with(7, true) },
    change("ship", "none") { $0.with(10, 0 as Int64).with(7, true) },
    change("ship", "below zero") { $0.with(10, -1 as Int64).with(7, true) },
    change("ship", "too much") { $0.with(10, quantityMax + 1).with(7, true) },
    change("uncommit", "none") { $0.with(11, 0 as Int64).with(7, true) },
    change("uncommit", "too much") { $0.with(11, quantityMax + 1).with(7, true) },
    change("expected_on_hand", "below zero") { $0.with(4, 1 as Int64).with(12, -1 as Int64) },
    change("expected_on_hand", "too much") { $0.with(4, 1 as Int64).with(12, quantityMax + 1) },
    change("reference", "65 bytes") { $0.with(4, 1 as Int64).with(7, true).with(14, long) },
    change("reference", "a space") { $0.with(4, 1 as Int64).with(7, true).with(14, "order 1") },
    change("change", "a shortage of nothing") { $0.with(13, true).with(7, true) },
    sale("set_sale.sellable_from", "year 0") { $0.with(1, instant(-62_135_596_801)) },
    sale("set_sale.sellable_from", "year 10000") { $0.with(1, instant(253_402_300_800)) },
    sale("set_sale.sellable_from", "least") { $0.with(1, instant(.min)) },
    sale("set_sale.sellable_from", "nanos below 0") { $0.with(1, instant(1, nanos: -1)) },
    sale("set_sale.sellable_from", "a second of nanos") {
      $0.with(1, instant(1, nanos: 1_000_000_000))
    },
    sale("set_sale.sellable_until", "most") { $0.with(2, instant(.max)) },
    sale("set_sale.sellable_until", "nanos") { $0.with(2, instant(1, nanos: Int64(Int32.max))) },
    sale("set_sale.sellable_until", "an empty sale") { $0.with(1, instant(5)).with(2, instant(5)) },
    sale("set_sale.sellable_until", "a nanosecond before") {
      $0.with(1, instant(5, nanos: 7)).with(2, instant(5, nanos: 6))
    },
    sale("set_sale.sellable_until", "1970 is a bound too") {
      $0.with(1, instant(0)).with(2, Message())
    },
    change("version_check", "none") { $0.with(4, 1 as Int64) },
    change("any_version", "false") { $0.with(4, 1 as Int64).with(7, false) },
    Breach(
      "AdjustStock", "reason", "none",
      Message().with(1, "k").with(2, "a").with(4, 1 as Int64).with(7, true)),
    Breach(
      "AdjustStock", "reason", "257 bytes",
      adjust("k", "a", by: 1).with(9, String(repeating: "r", count: 257))),
    Breach("AdjustStock", "reason", "no UTF-8", adjust("k", "a", by: 1).with(9, [0x41, 0xff])),
    Breach("AdjustStock", "idempotency_key", "no UTF-8", adjust("k", "a", by: 1).with(1, [0xc3])),
    Breach(
      "Reserve", "idempotency_key", "no UTF-8",
      reserve("k", [line("a", 1)]).with(1, [0xed, 0xa0, 0x80])),
  ]

  @Test(
    "A field that breaks its rule is named",
    arguments: [
      keys, skus, locations, subjects, limits, quantities, lineCounts, lives, ids, pages, states,
      adjustments,
    ].flatMap(\.self))
  func breach(_ breach: Breach) throws {
    let service = Service()
    let refused = try service.refused(breach.method, breach.request)
    #expect(refused.code == .invalidArgument)
    #expect(refused.reason == "INVALID_FIELD")
    #expect(refused.domain == "holdfast")
    #expect(refused.violations.map { $0[0] } == [breach.field])
    #expect(refused.text == refused.violations.first?.joined(separator: ": "))
    // Nothing was recorded or made.
    #expect(try service.refused("GetStock", stock("a")).reason == "ITEM_NOT_FOUND")
    #expect(service.store.statistics().recordedDecisions == 0)
  }

  @Test(
    "The caller's name has its rule in every method",
    arguments: ["a b", long, "ä", "a\tb"], ["Reserve", "GetStock", "ListStock", "Check"])
  func caller(name: String, method: String) throws {
    let refused = try Service().refused(method, Message(), caller: name)
    #expect(refused.code == .invalidArgument)
    #expect(refused.violations.map { $0[0] } == ["holdfast-caller"])
  }

  @Test("Every value at the edge of its rule is taken")
  func edges() throws {
    let service = Service()
    let name = "!" + String(repeating: "~", count: 63)
    let key = String(repeating: "é", count: 32)
    _ = try service.ok(
      "AdjustStock",
      Message().with(1, key).with(2, name).with(3, name).with(5, quantityMax)
        .with(6, 0 as Int64).with(8, 0 as Int64).with(9, String(repeating: "r", count: 256)),
      caller: name)
    let lines = Array(repeating: line(name, 1, at: name), count: 64)
    for (key, ttl) in [
      ("1", duration(1)), ("2", duration(86_400)), ("3", duration(1, nanos: 999_999_999)),
      ("4", duration(86_399, nanos: 999_999_999)),
    ] {
      let limited = (1...4).reduce(reserve(key, lines, ttl: ttl)) {
        $0.with(6, limit(name.dropLast() + "\($1)", quantityMax))
      }
      let held = try service.ok("Reserve", limited, caller: name)
      _ = try service.ok("Confirm", of(held.text(1)).with(2, line(name, 64, at: name)))
    }
    let items = (0..<500).reduce(Message()) { request, _ in
      request.with(1, stock(name, at: name))
    }
    #expect(try service.ok("BatchGetStock", items).messages(1).count == 500)
    for size in [500, 501, Int64(Int32.max)] {
      #expect(try service.ok("ListStock", Message().with(1, size)).messages(1).count == 1)
    }
    let sale = Message().with(1, Self.instant(-62_135_596_800))
      .with(2, Self.instant(253_402_300_799, nanos: 999_999_999)).with(3, false)
    let made = try service.ok(
      "AdjustStock",
      Message().with(1, "sale").with(2, "s").with(15, sale).with(7, true).with(9, "r"))
    #expect(
      made.message(1)?.message(9)?.message(1)?.number(1) == -62_135_596_800)
    #expect(made.message(1)?.message(9)?.message(2)?.number(2) == 999_999_999)
    let down = Message().with(1, "down").with(2, name).with(3, name)
      .with(4, -(quantityMax - 256)).with(7, true).with(9, "r")
    #expect(balances(try service.ok("AdjustStock", down).message(1)).prefix(2) == [0, 0])
  }

  /// Texts are looked at in words of eight bytes.
  @Test("Every byte of a text counts, wherever it stands")
  func everyByte() throws {
    let service = Service()
    for count in [1, 3, 7, 8, 9, 15, 16, 17, 64] {
      for position in 0..<count {
        for byte: UInt8 in [0, 0x20, 0x21, 0x7e, 0x7f, 0x80, 0xa0, 0xa1, 0xff] {
          var text = [UInt8](repeating: 0x61, count: count)
          text[position] = byte
          let refused = try service.refused("GetStock", Message().with(1, text))
          let reason = (0x21...0x7e).contains(byte) ? "ITEM_NOT_FOUND" : "INVALID_FIELD"
          #expect(refused.reason == reason, "\(byte) at \(position) of \(count)")
        }
      }
    }
  }
}
