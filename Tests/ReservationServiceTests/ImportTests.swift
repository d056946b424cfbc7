import GRPC
import StockStore
import Testing

@testable import ReservationService

private func rows(_ id: String, from first: Int64, _ rows: [Message]) -> Message {
  rows.reduce(Message().with(1, id).with(2, first)) { $0.with(3, $1) }
}

private struct NoAnswer: Error {}

@Suite("ImportStock")
struct ImportTests {
  private let service = Service()

  private func onHand(_ sku: String) throws -> Int64 {
    try service.ok("GetStock", stock(sku)).message(1)?.number(3) ?? -1
  }

  private func answered(_ messages: [Message], between: () throws -> Void = {}) throws -> Fields {
    guard case .message(let fields)? = try service.gather("ImportStock", messages, between: between)
    else { throw NoAnswer() }
    return fields
  }

  @Test("Parts of any size come to the same", arguments: [1, 2, 7, 40, 1000])
  func parts(budget: Int) throws {
    service.partBudget = budget
    let messages = (0..<3).map { number in
      rows(
        "i", from: Int64(number * 300),
        (0..<300).map { part("s\(($0 * 7 + number) % 90)", by: $0 % 50 == 9 ? -99_999 : 1) })
    }
    var others = 0
    let answer = try answered(messages) {
      // Another's calls come in between.
      others += 1
      _ = try service.ok("AdjustStock", adjust("other \(budget) \(others)", "other", by: 1))
    }
    #expect(answer.number(1) == 900 && answer.number(2) == 882 && answer.number(4) == 18)
    #expect(answer.messages(3).map { $0.number(1) }.prefix(3) == [9, 59, 109])
    let sum = try (0..<90).map { try onHand("s\($0)") }.reduce(0, +)
    #expect(sum == 882 && service.store.audit() == [])
    #expect(try onHand("other") == Int64(others))
  }

  @Test("Rows that are done are passed over, wherever a client begins", arguments: [0, 3, 7, 9])
  func resumed(first: Int64) throws {
    let all = (0..<10).map { part("s\($0)", by: 1) }
    // Cut off: what is done is done, and nothing is kept of the call.
    #expect(
      try service.gather("ImportStock", [rows("i", from: 0, Array(all[..<9]))], cancelled: true)
        == nil)
    let answer = try answered([rows("i", from: first, Array(all[Int(first)...]))])
    #expect(answer.number(1) == 10 && answer.number(2) == 1)
    for number in 0..<10 { #expect(try onHand("s\(number)") == 1) }
  }

  @Test("Another stream of the import that is quicker")
  func overtaken() throws {
    let all = (0..<400).map { part("s\($0)", by: 1) }
    service.partBudget = 1
    var isOvertaken = false
    let answer = try answered([rows("i", from: 0, all)]) {
      guard !isOvertaken else { return }
      isOvertaken = true
      // Through the store: this handler is in the middle of the call.
      let other = service.store.makeSession()
      _ = other.beginTurn()
      for first in stride(from: 64, to: 192, by: 64) {
        let decision = other.importRows(
          "i", firstRow: UInt64(first), (first..<(first + 64)).map { "s\($0)" })
        #expect(decision?.changed == 64)
      }
      other.endTurn()
    }
    #expect(answer.number(1) == 400)
    for number in 0..<400 { #expect(try onHand("s\(number)") == 1, "\(number)") }
  }

  @Test("Of 1,500 refused rows, 1,000 are named")
  func manyFailures() throws {
    let messages = (0..<3).map { number in
      rows("i", from: Int64(number * 500), (0..<500).map { part("s\($0)", by: -1) })
    }
    let answer = try answered(messages)
    #expect(answer.number(1) == 1500 && answer.number(2) == 0 && answer.number(4) == 1500)
    #expect(answer.messages(3).count == 1000)
    #expect(Set(answer.messages(3).map { $0.text(2) }) == ["ITEM_NOT_FOUND"])
  }

  private static let good = [part("a", by: 1)]
  private static let hostile: [(String, [Message], field: String, done: Int64)] = [
    ("nothing", [], "rows", 0),
    ("no rows", [rows("i", from: 0, [])], "rows", 0),
    ("501 rows", [rows("i", from: 0, (0..<501).map { part("s\($0)", by: 1) })], "rows", 0),
    ("no id", [rows("", from: 0, good)], "import_id", 0),
    ("an id with a space", [rows("a b", from: 0, good)], "import_id", 0),
    ("a long id", [rows(String(repeating: "i", count: 65), from: 0, good)], "import_id", 0),
    ("the last row of all", [rows("i", from: .max, good)], "first_row", 0),
    ("below zero", [rows("i", from: -1, good)], "first_row", 0),
    ("a row that would pass 2^62", [rows("i", from: 1 << 62, good)], "first_row", 0),
    (
      "a bad row behind a good one", [rows("i", from: 0, good + [part("", by: 1)])], "rows[1].sku",
      0
    ),
    (
      "an inner key", [rows("i", from: 0, [part("a") { $0.with(4, 1 as Int64).with(1, "k") }])],
      "rows[0].idempotency_key", 0
    ),
    (
      "an inner reason", [rows("i", from: 0, [part("a") { $0.with(4, 1 as Int64).with(9, "k") }])],
      "rows[0].reason", 0
    ),
    ("another id", [rows("i", from: 0, good), rows("j", from: 1, good)], "import_id", 1),
    ("not on", [rows("i", from: 0, good), rows("i", from: 2, good)], "first_row", 1),
    ("back", [rows("i", from: 0, good), rows("i", from: 0, good)], "first_row", 1),
  ]

  @Test(
    "What breaks a rule ends the call, and what came before is done", arguments: hostile.indices)
  func breach(_ index: Int) throws {
    let (name, messages, field, done) = Self.hostile[index]
    guard case .failure(let refused)? = try service.gather("ImportStock", messages) else {
      Issue.record("\(name) is answered")
      return
    }
    #expect(refused.code == .invalidArgument && refused.reason == "INVALID_FIELD", "\(name)")
    #expect(refused.violations.first?.first == field, "\(name)")
    let found = try service.call("GetStock", stock("a"))
    if done == 0 {
      if case .message = found { Issue.record("\(name): the item was made") }
    } else {
      #expect(try onHand("a") == done)
    }
    // It can be gone on with.
    let answer = try answered([rows("i", from: done, Self.good)])
    #expect(answer.number(1) == done + 1 && answer.number(2) == 1)
  }

  @Test("Unknown fields, and rows before the first")
  func others() throws {
    guard
      case .failure(let unknown)? = try service.gather(
        "ImportStock", [rows("i", from: 0, Self.good + [part("b", by: 1).with(99, 1 as Int64)])])
    else { throw NoAnswer() }
    #expect(unknown.reason == "UNKNOWN_FIELD" && unknown.metadata["path"] == "rows[1]")
    guard
      case .failure(let gap)? = try service.gather("ImportStock", [rows("i", from: 5, Self.good)])
    else { throw NoAnswer() }
    #expect(gap.code == .failedPrecondition && gap.reason == "IMPORT_GAP")
    #expect(gap.metadata == ["next_row": "0"])
  }
}

extension StoreSession {
  /// Rows that add one unit each.
  fileprivate func importRows(_ id: String, firstRow: UInt64, _ skus: [String]) -> ImportProgress? {
    clearChanges()
    return append(skus[...]) {
      withBorrowed(id) {
        let scope = IdempotencyScope(caller: .empty, key: $0)
        guard
          case .accepted(let progress) = importRows(ImportCommand(scope: scope, firstRow: firstRow))
            .result
        else { return nil }
        return progress
      }
    }
  }

  private func append<R>(_ skus: ArraySlice<String>, _ body: () -> R) -> R {
    guard let sku = skus.first else { return body() }
    return withBorrowed(sku) {
      _ = appendChange(
        AdjustCommand(
          scope: IdempotencyScope(caller: .empty, key: .empty),
          item: ItemName(sku: $0, location: .empty),
          change: .delta(1), safetyStock: nil, check: .none, reason: .empty))
      return append(skus.dropFirst(), body)
    }
  }

  private func withBorrowed<R>(_ text: String, _ body: (BorrowedBytes) -> R) -> R {
    var text = text
    return text.withUTF8 { unsafe body(BorrowedBytes($0.baseAddress, count: $0.count)) }
  }
}
