import GRPC
import Log
import Posix
import StockStore
import Testing

@testable import ReservationService

/// The table of errors in docs/ARCHITECTURE.md, row by row.
@Suite("Refusals")
struct RefusalTests {
  private let service = Service()

  private func put(_ sku: String, _ units: Int64, at location: String = "") throws {
    _ = try service.ok(
      "AdjustStock", adjust("put \(sku)\(location)", sku, by: units, at: location))
  }

  private func hold(_ key: String, _ lines: Message..., ttl: Message? = nil) throws -> String {
    try service.ok("Reserve", reserve(key, lines, ttl: ttl)).text(1)
  }

  private func expect(
    _ method: String, _ request: Message, _ code: StatusCode, _ reason: String,
    _ metadata: [String: String] = [:], location: SourceLocation = #_sourceLocation
  ) throws {
    let refused = try service.refused(method, request)
    #expect(refused.code == code, sourceLocation: location)
    #expect(refused.reason == reason, sourceLocation: location)
    #expect(refused.domain == "holdfast", sourceLocation: location)
    #expect(refused.metadata == metadata, sourceLocation: location)
    #expect(!refused.text.isEmpty, sourceLocation: location)
  }

  @Test("Not enough stock")
  func insufficientStock() throws {
    try put("a", 5, at: "Oslo")
    try put("b", 5)
    let wanted = ["sku": "a", "location": "Oslo", "requested": "6", "available": "5"]
    try expect(
      "Reserve", reserve("1", [line("b", 1), line("a", 4, at: "Oslo"), line("a", 2, at: "Oslo")]),
      .failedPrecondition, "INSUFFICIENT_STOCK", wanted)
    // All or nothing: the other line took nothing.
    let other = try service.ok("GetStock", stock("b")).message(1)
    #expect(balances(other) == [5, 0, 0, 5, 1])
    _ = try service.ok(
      "AdjustStock", adjustment("s", "b") { $0.with(8, 7 as Int64).with(7, true) })
    try expect(
      "Reserve", reserve("2", [line("b", 1)]), .failedPrecondition, "INSUFFICIENT_STOCK",
      ["sku": "b", "location": "", "requested": "1", "available": "-2"])
  }

  @Test("A refusal names every item that lacks units, and a replay the same")
  func everyShortage() throws {
    try put("a", 5, at: "Oslo")
    try put("b", 5)
    try put("c", 1)
    let lines = [
      line("c", 2), line("b", 5), line("a", 4, at: "Oslo"), line("a", 3, at: "Oslo"),
    ]
    let refused = try service.refused("Reserve", reserve("k", lines))
    #expect(refused.reason == "INSUFFICIENT_STOCK")
    #expect(
      refused.metadata == [
        "sku": "c", "location": "", "requested": "2", "available": "1", "bad_lines": "2",
      ])
    #expect(
      refused.violations == [
        ["INSUFFICIENT_STOCK", "c", "2 requested, 1 available"],
        ["INSUFFICIENT_STOCK", "a Oslo", "7 requested, 5 available"],
      ])
    _ = try service.ok("AdjustStock", adjust("more a", "a", by: 50, at: "Oslo"))
    _ = try service.ok("AdjustStock", adjust("more c", "c", by: 50))
    #expect(try service.refused("Reserve", reserve("k", lines)) == refused.replayed)
    #expect(try service.refused("Reserve", reserve("k", lines.reversed())) == refused.replayed)
    let one = try service.refused("Reserve", reserve("one", [line("b", 6), line("c", 1)]))
    #expect(one.violations == [["INSUFFICIENT_STOCK", "b", "6 requested, 5 available"]])
    #expect(one.metadata["bad_lines"] == nil)
  }

  @Test("Over a limit")
  func limitExceeded() throws {
    try put("a", 50, at: "Oslo")
    func wanted(_ key: String, _ units: Int64) -> Message {
      reserve(key, [line("a", units, at: "Oslo")]).with(6, limit("card", 9))
        .with(6, limit("customer:4711", 2))
    }
    let id = try service.ok("Reserve", wanted("1", 1)).text(1)
    let metadata = [
      "subject": "customer:4711", "sku": "a", "location": "Oslo", "max_units": "2", "used": "1",
      "requested": "2",
    ]
    try expect("Reserve", wanted("2", 2), .failedPrecondition, "LIMIT_EXCEEDED", metadata)
    let again = try service.refused("Reserve", wanted("2", 2))
    #expect(again.metadata == metadata.merging(["replayed": "true"]) { $1 })
    #expect(
      again.violations == [
        ["LIMIT_EXCEEDED", "a Oslo", "2 requested, customer:4711 has 1 of 2"]
      ])
    try expect(
      "Replace", Message().with(1, "r").with(2, id).with(3, line("a", 4, at: "Oslo")),
      .failedPrecondition, "LIMIT_EXCEEDED", metadata.merging(["requested": "3"]) { $1 })
    service.clock.advance(byNanoseconds: 601 * second)
    _ = try service.ok("Reserve", wanted("3", 2))
    try expect(
      "Confirm", of(id).with(3, true), .failedPrecondition, "LIMIT_EXCEEDED",
      metadata.merging(["requested": "1", "used": "2"]) { $1 })
  }

  @Test("A refusal names every unknown item, and a replay the same")
  func everyUnknownItem() throws {
    try put("a", 5)
    let lines = [
      line("a", 1), line("x", 1), line("y", 1, at: "Oslo"), line("x", 2), line("z", 1),
    ]
    let refused = try service.refused("Reserve", reserve("k", lines))
    #expect(refused.metadata == ["sku": "x", "location": "", "bad_lines": "3"])
    #expect(
      refused.violations == [
        ["ITEM_NOT_FOUND", "x", "unknown item"], ["ITEM_NOT_FOUND", "y Oslo", "unknown item"],
        ["ITEM_NOT_FOUND", "z", "unknown item"],
      ])
    try put("z", 5)
    #expect(try service.refused("Reserve", reserve("k", lines)) == refused.replayed)
    let reversed = try service.refused("Reserve", reserve("k", lines.reversed()))
    #expect(reversed.metadata == refused.replayed.metadata)
    #expect(Set(reversed.violations) == Set(refused.violations))
  }

  @Test("However many lines are bad, the details stay small enough for every client")
  func manyShortages() throws {
    let longest = String(repeating: "s", count: 62)
    let lines = (10..<74).map { line("\(longest)\($0)", quantityMax, at: longest) }
    for number in 10..<74 {
      let sku = "\(longest)\(number)"
      _ = try service.ok("AdjustStock", adjust("put \(number)", sku, by: 1, at: longest))
    }
    let refused = try service.refused("Reserve", reserve("k", lines))
    #expect(refused.metadata["bad_lines"] == "64")
    #expect(refused.violations.count >= 16 && refused.violations.count < 64)
    #expect(refused.detailsByteCount <= 5_632)
    let short = (10..<74).map { line("s\($0)", 2) }
    for number in 10..<74 { try put("s\(number)", 1) }
    #expect(try service.refused("Reserve", reserve("k2", short)).violations.count == 64)
    #expect(try service.refused("Reserve", reserve("k", lines)) == refused.replayed)
  }

  @Test("A confirm of an expired hold names every item that was taken meanwhile")
  func everyShortageOfReacquiring() throws {
    try put("a", 2)
    try put("b", 2)
    let id = try hold("k", line("a", 2), line("b", 1), ttl: duration(1))
    service.clock.advance(byNanoseconds: second)
    _ = try hold("other", line("a", 1), line("b", 2))
    let refused = try service.refused("Confirm", of(id).with(3, true))
    #expect(
      refused.violations == [
        ["INSUFFICIENT_STOCK", "a", "2 requested, 1 available"],
        ["INSUFFICIENT_STOCK", "b", "1 requested, 0 available"],
      ])
    // What a call names besides is of that call alone.
    _ = try service.ok("AdjustStock", adjust("less", "a", by: -1))
    let belowHeld = try service.refused("AdjustStock", adjust("less2", "a", by: -1))
    #expect(belowHeld.violations == [["INSUFFICIENT_STOCK", "a", "1 requested, 0 available"]])
  }

  @Test("On hand below what is held")
  func belowHeld() throws {
    try put("a", 5)
    _ = try hold("k", line("a", 3))
    let refused = try service.refused("AdjustStock", adjust("1", "a", by: -3))
    #expect(refused.code == .failedPrecondition)
    #expect(refused.reason == "INSUFFICIENT_STOCK")
    #expect(refused.metadata["sku"] == "a")
    #expect(try service.refused("AdjustStock", adjust("1", "a", by: -3)) == refused.replayed)
    let set = adjustment("2", "a") { $0.with(5, 2 as Int64).with(7, true) }
    #expect(try service.refused("AdjustStock", set).reason == "INSUFFICIENT_STOCK")
    _ = try service.ok("AdjustStock", adjust("3", "a", by: -2))
  }

  @Test("On hand above its limit")
  func onHandLimit() throws {
    try put("a", quantityMax)
    try expect("AdjustStock", adjust("1", "a", by: 1), .failedPrecondition, "ON_HAND_LIMIT")
  }

  @Test("Unknown items")
  func unknownItem() throws {
    try put("a", 5)
    let name = ["sku": "b", "location": "x"]
    try expect(
      "Reserve", reserve("1", [line("a", 1), line("b", 1, at: "x")]), .notFound,
      "ITEM_NOT_FOUND", name)
    try expect("GetStock", stock("b", at: "x"), .notFound, "ITEM_NOT_FOUND", name)
    try expect(
      "AdjustStock", adjust("2", "b", by: -1, at: "x"), .notFound, "ITEM_NOT_FOUND", name)
    try expect(
      "GetStock", stock("a", at: "x"), .notFound, "ITEM_NOT_FOUND",
      ["sku": "a", "location": "x"])
  }

  @Test(
    "Unknown reservations", arguments: ["Confirm", "Release", "Extend", "GetReservation"],
    ["00000000000000000000", "vvvvvvvvvvvvvvvvvvvv", "20000000000000000000"])
  func unknownReservation(method: String, id: String) throws {
    try expect(method, of(id), .notFound, "RESERVATION_NOT_FOUND")
  }

  @Test("An id with one character changed names nothing")
  func guessedID() throws {
    try put("a", 5)
    let id = try hold("k", line("a", 1))
    for index in id.indices {
      var guess = id
      guess.replaceSubrange(index...index, with: id[index] == "0" ? "1" : "0")
      try expect("Release", of(guess), .notFound, "RESERVATION_NOT_FOUND")
    }
    _ = try service.ok("Release", of(id))
  }

  /// How a reservation ended, what is asked of it then, and the reason why not.
  private static let transitions = [
    ("Confirm", "Release", "RESERVATION_CONFIRMED"),
    ("Confirm", "Extend", "RESERVATION_CONFIRMED"),
    ("Release", "Confirm", "RESERVATION_RELEASED"),
    ("Release", "Extend", "RESERVATION_RELEASED"),
    ("expire", "Confirm", "RESERVATION_EXPIRED"),
    ("expire", "Release", "RESERVATION_EXPIRED"),
    ("expire", "Extend", "RESERVATION_EXPIRED"),
  ]

  @Test("A reservation that ended otherwise", arguments: transitions)
  func endedOtherwise(end: String, method: String, reason: String) throws {
    try put("a", 5)
    let id = try hold("k", line("a", 1), ttl: duration(1))
    if end == "expire" {
      service.clock.advance(byNanoseconds: second)
    } else {
      _ = try service.ok(end, of(id))
    }
    try expect(method, of(id), .failedPrecondition, reason)
    try expect(method, of(id), .failedPrecondition, reason)
  }

  @Test("Confirmed with other lines")
  func confirmedOtherwise() throws {
    try put("a", 5)
    let id = try hold("k", line("a", 3))
    _ = try service.ok("Confirm", of(id).with(2, line("a", 2)))
    let request = of(id).with(2, line("a", 1))
    try expect("Confirm", request, .failedPrecondition, "RESERVATION_CONFIRMED")
  }

  @Test("More than is held, or an item that is not held")
  func moreThanHeld() throws {
    try put("a", 50)
    try put("b", 50)
    let id = try hold("k", line("a", 3))
    for (lines, indices, held) in [
      ([line("a", 4)], [0], "3"), ([line("a", 1), line("b", 1)], [1], "0"),
      ([line("a", 2), line("a", 2), line("a", 1), line("b", 1), line("c", 1)], [1, 3, 4], "3"),
    ] {
      let request = lines.reduce(of(id)) { $0.with(2, $1) }
      let refused = try service.refused("Confirm", request)
      #expect(refused.code == .invalidArgument)
      #expect(refused.violations.map { $0[0] } == indices.map { "lines[\($0)].quantity" })
      #expect(refused.metadata["held"] == held)
      #expect(refused.metadata["bad_lines"] == (indices.count > 1 ? "\(indices.count)" : nil))
    }
    #expect(try service.ok("GetReservation", of(id)).message(1)?.number(2) == 1)
  }

  @Test("A stale version")
  func versionMismatch() throws {
    try put("a", 5)
    let request = adjustment("1", "a") { $0.with(4, 1 as Int64).with(6, 9 as Int64) }
    try expect(
      "AdjustStock", request, .aborted, "VERSION_MISMATCH", ["current_version": "1"])
    let fresh = adjustment("2", "a") { $0.with(4, 1 as Int64).with(6, 0 as Int64) }
    try expect("AdjustStock", fresh, .aborted, "VERSION_MISMATCH", ["current_version": "1"])
    // Not recorded: the same request succeeds once the version is what it says.
    for number in 0..<8 { _ = try service.ok("AdjustStock", adjust("n\(number)", "a", by: 1)) }
    #expect(balances(try service.ok("AdjustStock", request).message(1)) == [14, 0, 0, 14, 10])
  }

  @Test("A key with another payload")
  func keyReused() throws {
    try put("a", 5)
    _ = try hold("k", line("a", 1))
    for other in [
      reserve("k", [line("a", 2)]), reserve("k", [line("b", 1)]),
      reserve("k", [line("a", 1)], ttl: duration(5)), reserve("k", [line("a", 1, at: "x")]),
      reserve("k", [line("a", 1), line("a", 1)]),
      // What is not sent is not what the default is.
      reserve("k", [line("a", 1)], ttl: duration(600)),
    ] {
      try expect("Reserve", other, .invalidArgument, "IDEMPOTENCY_KEY_REUSED")
    }
    try put("b", 5)
    let id = try hold("cart", line("a", 2), line("b", 1))
    for same in [
      [line("b", 1), line("a", 2)], [line("a", 1), line("b", 1), line("a", 1)],
    ] {
      let again = try service.ok("Reserve", reserve("cart", same))
      #expect(again.text(1) == id && again.flag(3))
    }
    _ = try service.ok("AdjustStock", adjust("k", "a", by: 1))
    try expect(
      "AdjustStock", adjust("k", "a", by: 2), .invalidArgument, "IDEMPOTENCY_KEY_REUSED")
    let set = adjustment("k", "a") { $0.with(5, 1 as Int64).with(7, true) }
    try expect("AdjustStock", set, .invalidArgument, "IDEMPOTENCY_KEY_REUSED")
  }

  @Test(
    "Nothing can be recorded: the same call is worth another try",
    arguments: [
      (Unavailable.journalFull, "OVERLOADED", second / 4), (.noSpace, "STORAGE_FULL", 2 * second),
      (.failed, "SHUTTING_DOWN", second / 4),
    ])
  func unavailable(reason: Unavailable, name: String, retryNanoseconds: Int64) throws {
    let response = Response()
    ErrorReplies().refuse(
      .unavailable(reason), isReplay: false, session: service.session, response: response
    ) { _ in ItemName(sku: .empty, location: .empty) }
    guard case .failure(let refused) = try Service.answer(in: response) else {
      Issue.record("no failure")
      return
    }
    #expect(refused.code == .unavailable)
    #expect(refused.reason == name)
    #expect(refused.domain == "holdfast")
    #expect(refused.retryNanoseconds == retryNanoseconds)
    #expect(!refused.text.isEmpty)
  }

  @Test("What is kept of a refusal says whether it was a replay")
  func replays() throws {
    let response = Response()
    let errors = ErrorReplies()
    for isReplay in [false, true, false, true] {
      errors.refuse(
        .reservationExpired, isReplay: isReplay, session: service.session, response: response
      ) { _ in ItemName(sku: .empty, location: .empty) }
      guard case .failure(let refused) = try Service.answer(in: response) else {
        Issue.record("no failure")
        return
      }
      #expect(refused.reason == "RESERVATION_EXPIRED")
      #expect(refused.metadata == (isReplay ? ["replayed": "true"] : [:]))
    }
  }

  @Test("Tables that are full")
  func tableFull() throws {
    let small = Service(itemsMax: 4, reservationsMax: 64)
    func fill(_ table: String, _ call: (Int) throws -> Answer) throws -> Int {
      for number in 0..<100_000 {
        guard case .failure(let refused) = try call(number) else { continue }
        #expect(refused.code == .resourceExhausted)
        #expect(refused.reason == "TABLE_FULL")
        #expect(refused.metadata == ["table": table])
        return number
      }
      Issue.record("\(table) never full")
      return 0
    }
    let items = try fill("items") { number in
      try small.call("AdjustStock", adjust("i\(number)", "item\(number)", by: 1_000_000))
    }
    #expect(items == 4)
    let holds = try fill("reservations") { number in
      try small.call("Reserve", reserve("r\(number)", [line("item0", 1)]))
    }
    #expect(holds > 0)
  }

  @Test("Too many others at once")
  func conflict() throws {
    let response = Response()
    ErrorReplies().refuse(
      .conflictTooBusy(attempts: 16), isReplay: false, session: service.session, response: response
    ) { _ in ItemName(sku: .empty, location: .empty) }
    let refused = Answer.Refused(
      code: .unavailable, text: "too many others change the same items",
      reason: "CONFLICT_TOO_BUSY", domain: "holdfast", metadata: ["attempts": "16"],
      retryNanoseconds: 5_000_000, retryMilliseconds: 5)
    #expect(try Service.answer(in: response) == .failure(refused))
  }

  @Test("Calls that the loop rejects", arguments: Rejection.allCases)
  func rejected(_ rejection: Rejection) throws {
    let response = Response()
    // Each is kept, and told from the others.
    for other in Rejection.allCases + [rejection] {
      service.handler.reject(other, response: response)
    }
    let isTemporary = rejection == .overloaded || rejection == .shuttingDown
    let refused = Answer.Refused(
      code: rejection.code, text: "\(rejection.text)", reason: "\(rejection.reason)",
      domain: "holdfast", retryNanoseconds: isTemporary ? second / 4 : nil,
      retryMilliseconds: isTemporary ? 250 : 0)
    #expect(try Service.answer(in: response) == .failure(refused))
  }
}
