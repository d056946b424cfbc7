import GRPC
import StockStore
import Testing

/// ReserveRequest.alternatives and min_quantity, from message to message.
@Suite("Alternatives")
struct AlternativeCallTests {
  private static func alternative(_ lines: Message...) -> Message { alternative(lines) }

  private static func alternative(_ lines: [Message]) -> Message {
    lines.reduce(Message()) { $0.with(1, $1) }
  }

  private static func atLeast(_ sku: String, _ quantity: Int64, min: Int64) -> Message {
    line(sku, quantity).with(4, min)
  }

  private static func request(_ lines: [Message], or alternatives: [Message] = []) -> Message {
    alternatives.reduce(reserve("k", lines)) { $0.with(5, $1) }
  }

  private static let one = line("a", 1)
  private static let id = "00000000000000000000"

  /// What breaks a rule, and the fields that are named, in their order.
  private static let breaches:
    [(note: String, method: String, request: Message, fields: [String])] =
      [
        (
          "nine", "Reserve",
          request([one], or: Array(repeating: alternative(one), count: 9)), ["alternatives"]
        ),
        (
          "a thousand", "Reserve",
          request([one], or: Array(repeating: alternative(one), count: 1000)), ["alternatives"]
        ),
        (
          "129 lines", "Reserve",
          request(
            Array(repeating: one, count: 65 - 1),
            or: [
              alternative(Array(repeating: one, count: 64)), alternative(one),
            ]), ["alternatives"]
        ),
        (
          "129 lines in all but the first", "Reserve",
          request(
            [one],
            or: (0..<8).map { _ in alternative(Array(repeating: one, count: 16)) }),
          ["alternatives"]
        ),
        (
          "an empty one", "Reserve", request([one], or: [alternative(one), alternative()]),
          ["alternatives[1].lines"]
        ),
        (
          "65 lines of one", "Reserve",
          request([one], or: [alternative(Array(repeating: one, count: 65))]),
          ["alternatives[0].lines"]
        ),
        ("alternatives to nothing", "Reserve", request([], or: [alternative(one)]), ["lines"]),
        (
          "bad lines everywhere", "Reserve",
          Message().with(5, alternative(one, line("a b", 1))).with(1, "k")
            .with(2, line("a", 0))
            .with(5, alternative(atLeast("a", 5, min: 6), line("", 1))),
          [
            "lines[0].quantity", "alternatives[0].lines[1].sku",
            "alternatives[1].lines[0].min_quantity", "alternatives[1].lines[1].sku",
          ]
        ),
        (
          "more than quantity", "Reserve", request([atLeast("a", 5, min: 6)]),
          ["lines[0].min_quantity"]
        ),
        (
          "below zero", "Reserve", request([one, atLeast("a", 5, min: -1)]),
          ["lines[1].min_quantity"]
        ),
        ("the least", "Reserve", request([atLeast("a", 5, min: .min)]), ["lines[0].min_quantity"]),
        ("the most", "Reserve", request([atLeast("a", 5, min: .max)]), ["lines[0].min_quantity"]),
        (
          "a quantity below it that is none", "Reserve", request([atLeast("a", -5, min: 1)]),
          ["lines[0].quantity", "lines[0].min_quantity"]
        ),
        (
          "below zero in an alternative", "Reserve",
          request([one], or: [alternative(atLeast("a", 5, min: -1))]),
          ["alternatives[0].lines[0].min_quantity"]
        ),
        (
          "of a Confirm", "Confirm", of(id).with(2, one).with(2, atLeast("a", 5, min: 5)),
          ["lines[1].min_quantity"]
        ),
        (
          "of a Replace", "Replace", of("k").with(2, id).with(3, atLeast("a", 5, min: 1)),
          ["lines[0].min_quantity"]
        ),
      ]

  @Test("A rule that is broken is named, and nothing is recorded", arguments: breaches.indices)
  func breach(index: Int) throws {
    let breach = Self.breaches[index]
    let service = Service()
    _ = try service.ok("AdjustStock", adjust("put", "a", by: 10))
    for method in breach.method == "Reserve" ? ["Reserve", "BatchReserve"] : [breach.method] {
      if method == "BatchReserve" {
        let answer = try service.ok(method, Message().with(1, breach.request))
        let failure = try #require(answer.message(1)?.message(2))
        #expect(failure.text(2) == "INVALID_FIELD", "\(breach.note)")
        #expect(failure.text(3).hasPrefix("\(breach.fields[0]): "), "\(breach.note)")
      } else {
        let refused = try service.refused(method, breach.request)
        #expect(refused.code == .invalidArgument && refused.reason == "INVALID_FIELD")
        #expect(refused.violations.map { $0[0] } == breach.fields, "\(breach.note)")
      }
    }
    #expect(service.store.statistics().recordedDecisions == 1)
    // And nothing of it is left for the call after.
    let held = try service.ok("Reserve", reserve("k", [Self.one]))
    #expect(held.number(4) == 0 && held.messages(5).isEmpty && !held.flag(3))
  }

  @Test("As many as may be")
  func most() throws {
    let service = Service()
    _ = try service.ok("AdjustStock", adjust("put", "a", by: 10))
    let full = Self.alternative(Array(repeating: Self.one, count: 64))
    let first = try service.refused(
      "Reserve", Self.request(Array(repeating: Self.one, count: 64), or: [full]))
    #expect(first.reason == "INSUFFICIENT_STOCK")
    #expect(first.metadata["alternatives"] == "2" && first.metadata["requested"] == "64")
    let eight = (0..<8).map { number in
      Self.alternative(Array(repeating: Self.one, count: number == 7 ? 10 : 11))
    }
    let answer = try service.ok(
      "Reserve",
      eight.reduce(reserve("eight", Array(repeating: Self.one, count: 41))) { $0.with(5, $1) })
    #expect(answer.number(4) == 8)
  }

  @Test("An unknown field is named where it lies")
  func unknownFields() throws {
    let service = Service()
    let strange = Self.one.with(5, "x")
    for (path, request) in [
      ("lines[1]", Self.request([Self.one, strange])),
      ("alternatives[0]", Self.request([Self.one], or: [Self.alternative(Self.one).with(2, "x")])),
      (
        "alternatives[1].lines[2]",
        Self.request(
          [Self.one],
          or: [Self.alternative(Self.one), Self.alternative(Self.one, Self.one, strange)])
      ),
    ] {
      let refused = try service.refused("Reserve", request)
      #expect(refused.reason == "UNKNOWN_FIELD" && refused.metadata["path"] == path)
    }
    // A known field in another wire type, and one cut off.
    for bytes: [UInt8] in [[0x28, 1], [0x2a, 2, 0x08, 1], [0x2a, 5, 0x0a]] {
      #expect(
        try service.refused("Reserve", reserve("k", [Self.one]).adding(bytes)).reason
          == "MALFORMED_MESSAGE")
    }
  }

  @Test(
    "The answer says which, and what where a line takes less; a replay the same",
    arguments: ["Reserve", "BatchReserve", "ReserveStream"])
  func answers(method: String) throws {
    let service = Service()
    for (sku, units) in [("a", 1), ("b", 3)] as [(String, Int64)] {
      _ = try service.ok("AdjustStock", adjust("put \(sku)", sku, by: units, at: ""))
    }
    _ = try service.ok("AdjustStock", adjust("put far", "a", by: 5, at: "far"))
    func call(_ request: Message) throws -> Fields {
      if method == "Reserve" { return try service.ok(method, request) }
      return try #require(service.ok(method, Message().with(1, request)).message(1)?.message(1))
    }
    let near = reserve("near", [line("a", 2)]).with(5, Self.alternative(line("a", 2, at: "far")))
    let less = reserve("less", [Self.atLeast("b", 9, min: 4)]).with(
      5, Self.alternative(Self.atLeast("b", 9, min: 2), line("a", 2, at: "far")))
    let all = reserve("all", [Self.atLeast("a", 1, min: 1)]).with(5, Self.alternative(Self.one))
    for isReplay in [false, true] {
      let first = try call(near)
      #expect(first.number(4) == 1 && first.messages(5).isEmpty && first.flag(3) == isReplay)
      let second = try call(less)
      #expect(second.number(4) == 1 && second.flag(3) == isReplay)
      let lines = second.messages(5).map { "\($0.text(1)) \($0.text(2)) \($0.number(3))" }
      #expect(lines == ["b  3", "a far 2"])
      #expect(second.messages(5).allSatisfy { $0.number(4) == 0 })
      let third = try call(all)
      #expect(third.number(4) == 0 && third.flag(3) == isReplay)
      #expect(third.messages(5).map { $0.number(3) } == [1])
      // State and time are behind it, whatever stands before.
      for answer in [first, second, third] {
        #expect(answer.number(6) == 1 && answer.time(7) != nil && answer.text(1).count == 20)
      }
      // What became of the hold changes nothing of it.
      let id = second.text(1)
      if !isReplay {
        let changed = of("r").with(2, id).with(3, line("a", 1, at: "far"))
        _ = try service.ok("Replace", changed)
      }
      #expect(
        try service.ok("GetReservation", of(id)).message(1)?.messages(3).map { $0.number(3) }
          == [1])
    }
    #expect(service.store.audit() == [])
  }

  @Test("Where none can be held, the first lack of units is told, and how many were tried")
  func refusals() throws {
    let service = Service()
    for (sku, units) in [("a", 1), ("b", 3)] as [(String, Int64)] {
      _ = try service.ok("AdjustStock", adjust("put \(sku)", sku, by: units))
    }
    let request = Self.request(
      [line("zz", 1)],
      or: [
        Self.alternative(Self.atLeast("b", 9, min: 4), line("a", 2)),
        Self.alternative(line("a", 3)),
      ])
    let refused = try service.refused("Reserve", request)
    #expect(refused.code == .failedPrecondition && refused.reason == "INSUFFICIENT_STOCK")
    #expect(
      refused.metadata == [
        "sku": "b", "location": "", "requested": "4", "available": "3", "bad_lines": "2",
        "alternatives": "3",
      ])
    #expect(
      refused.violations == [
        ["INSUFFICIENT_STOCK", "b", "4 requested, 3 available"],
        ["INSUFFICIENT_STOCK", "a", "2 requested, 1 available"],
      ])
    _ = try service.ok("AdjustStock", adjust("more", "b", by: 50))
    #expect(try service.refused("Reserve", request) == refused.replayed)
    let byKey = try service.refused("GetReservation", Message().with(2, "k"))
    #expect(byKey.metadata["alternatives"] == "3" && byKey.metadata["requested"] == "4")
    // One item, whose refusal is kept for others that get the same: with and without alternatives.
    for (key, alternatives, tried) in [
      ("1", [], nil), ("2", [Self.alternative(line("a", 9))], "2"), ("3", [], nil),
      ("4", [Self.alternative(line("a", 9)), Self.alternative(line("zz", 1))], "3"),
    ] as [(String, [Message], String?)] {
      let plain = alternatives.reduce(reserve(key, [line("a", 7)])) { $0.with(5, $1) }
      #expect(try service.refused("Reserve", plain).metadata["alternatives"] == tried)
      let batch = try service.ok("BatchReserve", Message().with(1, plain))
      let entries = batch.message(1)?.message(2)?.messages(4).filter {
        $0.text(1) == "alternatives"
      }
      #expect(entries?.first?.text(2) == tried)
    }
    let unknown = try service.refused(
      "Reserve",
      reserve("u", [line("b", 1), line("y", 1)]).with(5, Self.alternative(line("x", 1))))
    #expect(unknown.code == .notFound && unknown.reason == "ITEM_NOT_FOUND")
    #expect(unknown.metadata == ["sku": "y", "location": ""])
    _ = try service.ok("AdjustStock", adjust("put x", "x", by: 1))
    let again = try service.refused(
      "Reserve",
      reserve("u", [line("y", 1), line("b", 1)]).with(5, Self.alternative(line("x", 1))))
    #expect(again == unknown.replayed)
  }
}
