import GRPC
import StockStore
import Testing

/// What a newer client may say that this server does not understand.
@Suite("Unknown fields")
struct UnknownFieldTests {
  private static let id = "00000000000000000000"

  /// A field of every wire type, also empty ones and the largest number.
  private static let strangers: [(note: String, number: Int, bytes: [UInt8])] = [
    ("a number", 99, tag(99, 0) + [5]), ("zero", 98, tag(98, 0) + [0]),
    ("eight bytes", 31, tag(31, 1) + [1, 2, 3, 4, 5, 6, 7, 8]),
    ("a text", 100, tag(100, 2) + [1, 65]), ("an empty text", 16, tag(16, 2) + [0]),
    ("four bytes", 300, tag(300, 5) + [1, 2, 3, 4]),
    ("the largest number", 1 << 29 - 1, tag(1 << 29 - 1, 0) + [1]),
    ("a tag that is longer than it need be", 20, [0xa0, 0x81, 0x00, 0x01]),
    ("an empty group", 98, tag(98, 3) + tag(98, 4)),
    ("a group", 300, tag(300, 3) + of(id).bytes + tag(1, 5) + [1, 2, 3, 4] + tag(300, 4)),
    (
      "groups in a group", 77,
      tag(77, 3) + tag(1, 3) + tag(77, 3) + tag(77, 4) + tag(1, 4) + tag(2, 3) + tag(2, 4)
        + tag(77, 4)
    ),
    ("groups, 100 deep", 50, groups(50, depth: 100)),
  ]

  /// As many groups, each in the one before.
  private static func groups(_ number: Int, depth: Int) -> [UInt8] {
    Array(repeatElement(tag(number, 3), count: depth).joined())
      + Array(repeatElement(tag(number, 4), count: depth).joined())
  }

  private static func tag(_ number: Int, _ wireType: Int) -> [UInt8] {
    Message.varint(UInt64(number << 3 | wireType))
  }

  /// A call that changes something, with a strange field somewhere.
  struct Case: CustomTestStringConvertible {
    let method: String
    let request: Message
    let path: String
    let number: Int
    let note: String

    var testDescription: String { "\(method) '\(path)': \(note)" }
  }

  private static let cases: [Case] = strangers.flatMap { note, number, bytes in
    let strange = line("a", 1).adding(bytes)
    func at(_ path: String, _ method: String, _ request: Message) -> Case {
      Case(method: method, request: request, path: path, number: number, note: note)
    }
    let good = reserve("k", [line("a", 1)])
    return [
      at("", "Reserve", good.adding(bytes)),
      at("", "Reserve", Message().adding(bytes + good.bytes)),
      at("lines[0]", "Reserve", reserve("k", [strange])),
      at("lines[2]", "Reserve", reserve("k", [line("a", 1), line("b", 1), strange, strange])),
      at("ttl", "Reserve", reserve("k", [line("a", 1)], ttl: duration(60).adding(bytes))),
      // Of a submessage that comes twice, both count: readers merge them.
      at("ttl", "Reserve", good.with(3, duration(60).adding(bytes)).with(3, duration(70))),
      at("ttl", "Reserve", good.with(3, duration(60)).with(3, duration(70).adding(bytes))),
      at("", "Confirm", of(id).adding(bytes)),
      at("lines[1]", "Confirm", of(id).with(2, line("a", 1)).with(2, strange).with(3, true)),
      at("", "Release", of(id).adding(bytes)),
      at("", "Extend", of(id).with(2, duration(60)).adding(bytes)),
      at("ttl", "Extend", of(id).with(2, Message().adding(bytes))),
      at("", "Replace", of("k").with(2, id).with(3, line("a", 1)).adding(bytes)),
      at("lines[1]", "Replace", of("k").with(2, id).with(3, line("a", 1)).with(3, strange)),
      at("", "AdjustStock", adjust("k", "a", by: 1).adding(bytes)),
      at("", "AdjustStock", Message().adding(bytes)),
      at("", "BatchAdjustStock", batch("k", [part("a", by: 1)]).adding(bytes)),
      at(
        "changes[1]", "BatchAdjustStock",
        batch("k", [part("a", by: 1), part("b", by: 1).adding(bytes)])),
      at("", "RemoveItem", remove("k", "a").adding(bytes)),
      at("set_sale", "AdjustStock", adjust("k", "a", by: 1).with(15, Message().adding(bytes))),
      at(
        "set_sale.sellable_until", "AdjustStock",
        adjust("k", "a", by: 1).with(15, Message().with(2, Message().adding(bytes)))),
    ]
  }

  @Test("A change is refused, with the field's path and number", arguments: cases)
  func change(_ each: Case) throws {
    let service = Service()
    _ = try service.ok("AdjustStock", adjust("put", "a", by: 10))
    let refused = try service.refused(each.method, each.request)
    #expect(refused.code == .invalidArgument)
    #expect(refused.reason == "UNKNOWN_FIELD")
    #expect(refused.metadata == ["path": each.path, "number": "\(each.number)"])
    let field = each.path.isEmpty ? "\(each.number)" : "\(each.path).\(each.number)"
    #expect(refused.violations.map { $0[0] } == [field])
    #expect(refused.text == refused.violations.first?.joined(separator: ": "))
    // Nothing was changed or recorded: the key is free.
    let level = try service.ok("GetStock", stock("a")).message(1)
    #expect(balances(level) == [10, 0, 0, 10, 1])
    #expect(service.store.statistics().recordedDecisions == 1)
    #expect(try !service.ok("Reserve", reserve("k", [line("a", 1)])).flag(3))
    #expect(try !service.ok("AdjustStock", adjust("k", "a", by: 1)).flag(2))
  }

  @Test("A read passes them over", arguments: strangers.indices)
  func read(index: Int) throws {
    let service = Service()
    let bytes = Self.strangers[index].bytes
    _ = try service.ok("AdjustStock", adjust("put", "a", by: 10))
    let id = try service.ok("Reserve", reserve("k", [line("a", 2)])).text(1)
    for (method, request) in [
      ("GetReservation", of(id)), ("ListReservations", Message()), ("GetStock", stock("a")),
      ("BatchGetStock", Message().with(1, stock("a").adding(bytes))), ("ListStock", Message()),
    ] {
      #expect(try service.ok(method, request.adding(bytes)).messages(1).count == 1, "\(method)")
    }
    #expect(try service.ok("Check", Message().adding(bytes)).number(1) == 1)
    let reflection = Message().with(7, "*").adding(bytes)
    #expect(try service.ok("ServerReflectionInfo", reflection).message(6) != nil)
  }

  /// Known fields in a wire type that is not theirs, groups that do not end as they began, and field
  /// number 0: no reader that follows the .proto files can tell what was meant.
  private static let malformed: [(String, Message)] = [
    ("Reserve", reserve("k", [line("a", 1)]).adding(tag(1, 0) + [1])),
    ("Reserve", reserve("k", [line("a", 1)]).adding(tag(2, 5) + [0, 0, 0, 0])),
    ("Reserve", reserve("k", [line("a", 1).adding(tag(3, 2) + [1, 1])])),
    ("Reserve", reserve("k", [line("a", 1).adding(tag(3, 1) + [1, 0, 0, 0, 0, 0, 0, 0])])),
    ("Reserve", reserve("k", [line("a", 1)], ttl: Message().with(1, "60"))),
    ("Reserve", reserve("k", [line("a", 1)]).with(3, 60 as Int64)),
    // A bool with a length: protobuf-c alone would read true.
    ("Confirm", of(id).with(3, "no")), ("Confirm", of(id).adding(tag(3, 5) + [1, 0, 0, 0])),
    ("AdjustStock", adjust("k", "a", by: 1).with(7, "")),
    ("AdjustStock", adjust("k", "a", by: 1).with(4, [1])),
    ("Release", of(id).adding([0x00, 0x01])),
    ("Release", of(id).adding(tag(9, 3))), ("Release", of(id).adding(tag(9, 4))),
    ("Release", of(id).adding(tag(9, 3) + tag(10, 4))),
    ("Release", of(id).adding(tag(9, 3) + tag(8, 3) + tag(9, 4) + tag(8, 4))),
    ("Release", of(id).adding(tag(9, 3) + [0x00, 0x01] + tag(9, 4))),
    ("Release", of(id).adding(tag(9, 3) + tag(1, 6) + tag(9, 4))),
    ("Release", of(id).adding(groups(9, depth: 101))),
    ("Release", of(id).adding(groups(9, depth: 40_000))),
    ("Release", of(id).adding(tag(1, 3) + tag(1, 4))),
    ("Reserve", reserve("k", [line("a", 1).adding(tag(3, 3) + tag(3, 4))])),
    // A group ends in the submessage that it began in.
    ("Reserve", reserve("k", [line("a", 1).adding(tag(9, 3))]).adding(tag(9, 4))),
    ("Extend", of(id).adding(tag(9, 6))), ("Extend", of(id).adding(tag(9, 7) + [0])),
    ("Release", of(id).adding([0x8a, 0x80, 0x80, 0x80, 0x80, 0x01, 0x00])),
    // A tag and a length of six bytes, and a number past the largest.
    ("Release", of(id).adding([0xc8, 0x80, 0x80, 0x80, 0x80, 0x00, 0x01])),
    ("Release", of(id).adding([0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00])),
    ("Release", of(id).adding([0xf8, 0xff, 0xff, 0xff, 0x1f, 0x01])),
  ]

  @Test("A known field in another wire type, and what is no field", arguments: malformed.indices)
  func wrongWireType(index: Int) throws {
    let service = Service()
    _ = try service.ok("AdjustStock", adjust("put", "a", by: 10))
    let (method, request) = Self.malformed[index]
    let refused = try service.refused(method, request)
    #expect(refused.code == .invalidArgument)
    #expect(refused.reason == "MALFORMED_MESSAGE")
    #expect(service.store.statistics().recordedDecisions == 1)
  }
}
