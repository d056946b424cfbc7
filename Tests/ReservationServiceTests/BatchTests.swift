import GRPC
import Posix
import StockStore
import Testing

/// BatchReserve, and with it ReserveStream, whose messages are handled by the same code.
@Suite("Batches")
struct BatchTests {
  /// One request of a batch, and what a call of its own has to do with it.
  struct Case: CustomTestStringConvertible {
    let testDescription: String
    let request: Message
    /// Empty: it is held.
    let reason: String

    init(_ note: String, _ request: Message, _ reason: String = "") {
      testDescription = note
      self.request = request
      self.reason = reason
    }
  }

  private static let long = String(repeating: "x", count: 65)

  /// What is refused, malformed and held, each under a key of its own.
  static let cases: [Case] = [
    Case("one line", reserve("k1", [line("a", 1)])),
    Case("lines of the same item", reserve("k2", [line("a", 1), line("b", 2), line("a", 3)])),
    Case("a location", reserve("k3", [line("a", 1, at: "Oslo")])),
    Case("a ttl", reserve("k4", [line("a", 1)], ttl: duration(60, nanos: 5))),
    Case("the key last", Message().with(2, line("a", 1)).with(1, "k5")),
    Case("the key twice", Message().with(1, "k0").adding(reserve("k6", [line("a", 1)]).bytes)),
    Case("no key", Message().with(2, line("a", 1)), "INVALID_FIELD"),
    Case("nothing", Message(), "INVALID_FIELD"),
    Case("a long key", reserve(long, [line("a", 1)]), "INVALID_FIELD"),
    Case("a key of bad UTF-8", Message().with(1, [0xff]).with(2, line("a", 1)), "INVALID_FIELD"),
    Case("no lines", reserve("k7", []), "INVALID_FIELD"),
    Case("65 lines", reserve("k8", (0..<65).map { _ in line("a", 1) }), "INVALID_FIELD"),
    Case("no SKU", reserve("k9", [line("", 1)]), "INVALID_FIELD"),
    Case("two bad lines", reserve("k10", [line("a b", 1), line("a", 0)]), "INVALID_FIELD"),
    Case("a long SKU", reserve("k11", [line(long, 1)]), "INVALID_FIELD"),
    Case("a long location", reserve("k12", [line("a", 1, at: long)]), "INVALID_FIELD"),
    Case("too many units", reserve("k13", [line("a", quantityMax + 1)]), "INVALID_FIELD"),
    Case("a short ttl", reserve("k14", [line("a", 1)], ttl: duration(0)), "INVALID_FIELD"),
    Case("a long ttl", reserve("k15", [line("a", 1)], ttl: duration(86_401)), "INVALID_FIELD"),
    Case("an unknown item", reserve("k16", [line("nothing", 1)]), "ITEM_NOT_FOUND"),
    Case(
      "unknown items", reserve("k17", [line("a", 1), line("no", 1, at: "x"), line("ne", 2)]),
      "ITEM_NOT_FOUND"),
    Case("too little", reserve("k18", [line("b", 1000)]), "INSUFFICIENT_STOCK"),
    Case("too little, again", reserve("k19", [line("b", 1000)]), "INSUFFICIENT_STOCK"),
    Case(
      "too little of two", reserve("k20", [line("b", 1000), line("a", 1001, at: "Oslo")]),
      "INSUFFICIENT_STOCK"),
    Case("a retry", reserve("k1", [line("a", 1)])),
    Case("a retry of a refusal", reserve("k18", [line("b", 1000)]), "INSUFFICIENT_STOCK"),
    Case(
      "a retry of another", reserve("k17", [line("ne", 2), line("a", 1), line("no", 1, at: "x")]),
      "ITEM_NOT_FOUND"),
    Case("another payload", reserve("k1", [line("a", 2)]), "IDEMPOTENCY_KEY_REUSED"),
    Case("another payload, again", reserve("k1", [line("a", 2)]), "IDEMPOTENCY_KEY_REUSED"),
    Case("an unknown field", reserve("k21", [line("a", 1)]).with(99, 1 as Int64), "UNKNOWN_FIELD"),
    Case(
      "an unknown field of a line", reserve("k22", [line("a", 1).with(98, "x")]), "UNKNOWN_FIELD"),
    Case(
      "an unknown field of a ttl", reserve("k25", [line("a", 1)], ttl: duration(60).with(9, "x")),
      "UNKNOWN_FIELD"),
    Case(
      "a ttl in two parts", reserve("k26", [line("a", 1)], ttl: duration(1)).with(3, duration(60))),
    Case("a SKU twice", reserve("k27", [Message().with(1, "no").adding(line("a", 1).bytes)])),
    Case("a key of UTF-8", reserve("kü", [line("a", 1)])),
    Case("no units", reserve("k28", [Message().with(1, "a")]), "INVALID_FIELD"),
    Case("units twice", reserve("k29", [line("a", 9).with(3, 1 as Int64)])),
    Case("a SKU in UTF-8", reserve("k30", [line("ä", 1)]), "INVALID_FIELD"),
    Case("a reference", reserve("k31", [line("a", 1)]).with(4, "order:1")),
    Case("another wire type", Message().with(1, 5 as Int64), "MALFORMED_MESSAGE"),
    Case("a line cut off", Message().with(1, "k23").adding([0x12, 9, 0x0a]), "MALFORMED_MESSAGE"),
    Case("a limit", reserve("l1", [line("a", 1)]).with(6, limit("c", 2))),
    Case("over it", reserve("l2", [line("a", 2)]).with(6, limit("c", 2)), "LIMIT_EXCEEDED"),
    Case("over it, again", reserve("l2", [line("a", 2)]).with(6, limit("c", 2)), "LIMIT_EXCEEDED"),
    Case("over another", reserve("l3", [line("a", 3)]).with(6, limit("d", 2)), "LIMIT_EXCEEDED"),
    Case("a bad limit", reserve("l4", [line("a", 1)]).with(6, limit("", 2)), "INVALID_FIELD"),
    Case("no limit", reserve("l5", [line("a", 9)])),
    Case("and one line more", reserve("k24", [line("a", 1)])),
  ]

  /// A service with stock.
  private static func service(partBudget: Int = .max) throws -> Service {
    let service = Service()
    service.partBudget = partBudget
    for (sku, location) in [("a", ""), ("a", "Oslo"), ("b", "")] {
      _ = try service.ok(
        "AdjustStock", adjust("put \(sku)\(location)", sku, by: 900, at: location))
    }
    return service
  }

  private static func batch(_ requests: [Message]) -> Message {
    requests.reduce(Message()) { $0.with(1, $1) }
  }

  /// A Failure as what a call of its own is told; it has no violations.
  private static func refused(_ failure: Fields) -> Answer.Refused {
    var refused = Answer.Refused(
      code: StatusCode(rawValue: Int(failure.number(1))) ?? .ok, text: failure.text(3))
    refused.reason = failure.text(2)
    refused.domain = "holdfast"
    for entry in failure.messages(4) { refused.metadata[entry.text(1)] = entry.text(2) }
    refused.retryNanoseconds = failure.time(5)
    return refused
  }

  @Test(
    "A request of a batch gets what it gets alone", arguments: [Int.max, 1, 3],
    ["BatchReserve", "ReserveStream"])
  func asAlone(partBudget: Int, method: String) throws {
    let (alone, together) = (try Self.service(), try Self.service(partBudget: partBudget))
    let answer = try together.ok(method, Self.batch(Self.cases.map(\.request)))
    #expect(answer.fields.count == Self.cases.count)
    #expect(partBudget == .max ? together.partCount == 1 : together.partCount > 10)
    for (item, result) in zip(Self.cases, answer.messages(1)) {
      #expect(result.fields.count == 1, "\(item)")
      switch try alone.call("Reserve", item.request) {
      case .message(let held):
        #expect(result.message(1) == held, "\(item)")
        #expect(item.reason.isEmpty, "\(item)")
      case .failure(var refused):
        refused.violations = []
        refused.retryMilliseconds = 0
        let failure = try #require(result.message(2), "\(item)")
        #expect(Self.refused(failure) == refused, "\(item)")
        #expect(refused.reason == item.reason, "\(item)")
      }
    }
    #expect(together.store.statistics() == alone.store.statistics())
  }

  @Test("Keys of one batch are keys of each other, of calls and of other batches, by their caller")
  func keys() throws {
    let service = try Self.service()
    let one = reserve("k", [line("a", 1)])
    let held = try service.ok("BatchReserve", Self.batch([one, one, one])).messages(1)
    let id = try #require(held.first?.message(1)?.text(1))
    #expect(held.map { $0.message(1)?.text(1) } == [id, id, id])
    #expect(held.map { $0.message(1)?.flag(3) } == [false, true, true])
    let alone = try service.ok("Reserve", one)
    #expect(alone.text(1) == id && alone.flag(3))
    let again = try service.ok("ReserveStream", Self.batch([one])).messages(1)
    #expect(again.map { $0.message(1) } == [alone])
    let other = try service.ok("BatchReserve", Self.batch([one]), caller: "other").messages(1)
    #expect(other.first?.message(1)?.flag(3) == false)
    #expect(other.first?.message(1)?.text(1) != id)
    #expect(balances(try service.ok("GetStock", stock("a")).message(1))[1] == 2)
  }

  @Test("A batch sees what it has done itself: the last units go to the first who ask")
  func order() throws {
    let service = try Self.service()
    let requests = (0..<1000).map { reserve("k\($0)", [line("b", 1)]) }
    let results = try service.ok("BatchReserve", Self.batch(requests)).messages(1)
    #expect(results.map { $0.message(1) != nil } == (0..<1000).map { $0 < 900 })
    #expect(results.last?.message(2)?.text(2) == "INSUFFICIENT_STOCK")
    let again = try service.ok("BatchReserve", Self.batch(requests)).messages(1)
    for (result, before) in zip(again, results) {
      #expect(result.message(1)?.text(1) == before.message(1)?.text(1))
      #expect(result.message(1)?.flag(3) ?? true)
      if let failure = result.message(2) {
        #expect(failure.messages(4).last?.text(1) == "replayed")
      }
    }
    #expect(service.store.statistics().replays == 1000)
  }

  @Test("A full table is a result", arguments: ["BatchReserve", "ReserveStream"])
  func fullTable(method: String) throws {
    let service = Service(reservationsMax: 1)
    _ = try service.ok("AdjustStock", adjust("put", "a", by: 9))
    let requests = (0..<3).map { reserve("k\($0)", [line("a", 1)]) }
    let results = try service.ok(method, Self.batch(requests)).messages(1)
    let reasons = results.map { $0.message(2)?.text(2) ?? "" }
    #expect(reasons == ["", "TABLE_FULL", "TABLE_FULL"])
  }

  /// Messages of which nothing is decided.
  static let wrong: [(String, Message, String)] = [
    ("no request", Message(), "INVALID_FIELD"),
    (
      "8,193 requests", batch((0..<8193).map { reserve("k\($0)", [line("a", 1)]) }), "INVALID_FIELD"
    ),
    (
      "a field more", batch([reserve("k", [line("a", 1)])]).with(2, 1 as Int64), "UNKNOWN_FIELD"
    ),
    (
      "another wire type", batch([reserve("k", [line("a", 1)])]).with(1, 1 as Int64),
      "MALFORMED_MESSAGE"
    ),
    (
      "a request cut off", batch([reserve("k", [line("a", 1)])]).adding([0x0a, 2]),
      "MALFORMED_MESSAGE"
    ),
  ]

  @Test(
    "What is wrong with the message is the call's", arguments: wrong.indices,
    ["BatchReserve", "ReserveStream"])
  func wholeMessage(index: Int, method: String) throws {
    let (_, message, reason) = Self.wrong[index]
    let service = try Self.service()
    let refused = try service.refused(method, message)
    #expect(refused.code == .invalidArgument && refused.reason == reason)
    if reason == "INVALID_FIELD" {
      #expect(refused.violations == [["requests", "1 to 8192 requests"]])
    }
    #expect(service.store.statistics().reservationsHeld == 0)
  }

  @Test("8,192 requests come in parts, and are the same as one by one")
  func largest() throws {
    let service = Service()
    service.partBudget = 500
    _ = try service.ok("AdjustStock", adjust("put", "a", by: 10_000))
    let requests = (0..<8192).map { reserve("key-\($0)", [line("a", 1)]) }
    let results = try service.ok("BatchReserve", Self.batch(requests)).messages(1)
    #expect(service.partCount == 17)
    #expect(results.count == 8192)
    #expect(Set(results.map { $0.message(1)?.text(1) ?? "" }).count == 8192)
    #expect(balances(try service.ok("GetStock", stock("a")).message(1))[1] == 8192)
  }

  @Test("Many lines are more work than one")
  func work() throws {
    let service = try Self.service(partBudget: 100)
    let wide = (0..<100).map { key in reserve("k\(key)", (0..<64).map { _ in line("a", 1) }) }
    let results = try service.ok("BatchReserve", Self.batch(wide)).messages(1)
    #expect(results.count == 100)
    #expect(service.partCount > 4)
  }
}
