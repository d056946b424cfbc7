import GRPC
import StockStore
import Testing

@testable import ReservationService

/// A change of several: an AdjustStockRequest without what stands beside the list.
func part(_ sku: String, _ rest: (Message) -> Message) -> Message {
  rest(Message().with(2, sku).with(7, true))
}

func part(_ sku: String, by delta: Int64) -> Message { part(sku) { $0.with(4, delta) } }

func batch(_ key: String, _ changes: [Message]) -> Message {
  changes.reduce(Message().with(1, key).with(3, "because")) { $0.with(2, $1) }
}

@Suite("BatchAdjustStock")
struct AdjustTogetherTests {
  private let service = Service()

  init() throws {
    for (sku, units) in [("a", 10), ("b", 5)] as [(String, Int64)] {
      _ = try service.ok("AdjustStock", adjust("put " + sku, sku, by: units))
    }
  }

  @Test("All balances are answered in order, and again with the same key")
  func answer() throws {
    let request = batch("k", [part("b", by: -2), part("new", by: 7), part("a", by: 2)])
    let answer = try service.ok("BatchAdjustStock", request)
    #expect(answer.messages(1).map { $0.text(1) } == ["b", "new", "a"])
    #expect(answer.messages(1).map { $0.number(3) } == [3, 7, 12] && !answer.flag(2))
    _ = try service.ok("AdjustStock", adjust("later", "b", by: 1))
    let again = try service.ok("BatchAdjustStock", request)
    #expect(again.messages(1) == answer.messages(1) && again.flag(2))
    // Another payload under the key; the key of another method; another caller's.
    for other in [
      batch("k", [part("new", by: 7), part("b", by: -2), part("a", by: 2)]),
      request.with(4, "order:1"),
      request.with(3, "other"), request.with(2, part("c", by: 1)),
    ] {
      #expect(try service.refused("BatchAdjustStock", other).reason == "IDEMPOTENCY_KEY_REUSED")
    }
    #expect(try service.ok("AdjustStock", adjust("k", "a", by: 1)).flag(2) == false)
    #expect(try service.ok("BatchAdjustStock", request, caller: "shop").flag(2) == false)
  }

  private static let name = ["index": "1", "sku": "a", "location": ""]

  private static let refusals:
    [(String, Message, StatusCode, String, [String: String], isRecorded: Bool)] = [
      (
        "stock", part("a", by: -11), .failedPrecondition, "INSUFFICIENT_STOCK",
        ["requested": "11", "available": "10"], true
      ),
      (
        "committed", part("a") { $0.with(10, 1 as Int64) }, .failedPrecondition,
        "INSUFFICIENT_COMMITTED", ["requested": "1", "committed": "0"], true
      ),
      (
        "limit", part("a", by: quantityMax), .failedPrecondition, "ON_HAND_LIMIT", [:], true
      ),
      ("unknown", part("x", by: -1), .notFound, "ITEM_NOT_FOUND", ["sku": "x"], true),
      (
        "version", part("a") { $0.with(4, 1 as Int64).with(6, 9 as Int64) }, .aborted,
        "VERSION_MISMATCH", ["current_version": "1"], false
      ),
      (
        "on hand", part("a") { $0.with(4, 1 as Int64).with(12, 9 as Int64) }, .aborted,
        "ON_HAND_MISMATCH", ["current_on_hand": "10"], false
      ),
    ]

  @Test("A refusal names the change and its item, and changes nothing", arguments: refusals.indices)
  func refusal(_ index: Int) throws {
    let (name, change, code, reason, metadata, isRecorded) = Self.refusals[index]
    let request = batch("k", [part("b", by: 1), change])
    let refused = try service.refused("BatchAdjustStock", request)
    #expect(refused.code == code && refused.reason == reason, "\(name)")
    #expect(refused.metadata == Self.name.merging(metadata) { $1 }, "\(name)")
    #expect(balances(try service.ok("GetStock", stock("b")).message(1)) == [5, 0, 0, 5, 1])
    let again = try service.refused("BatchAdjustStock", request)
    #expect(again == (isRecorded ? refused.replayed : refused), "\(name)")
    // Alone, it is refused alike, without an index.
    let alone = try service.refused(
      "AdjustStock", change.with(1, "alone").with(9, "because"))
    #expect(alone.code == code && alone.reason == reason && alone.metadata["index"] == nil)
  }

  @Test("A table that is full")
  func full() throws {
    let small = Service(itemsMax: 2)
    let refused = try small.refused(
      "BatchAdjustStock", batch("k", [part("a", by: 1), part("b", by: 1), part("c", by: 1)]))
    #expect(refused.reason == "TABLE_FULL")
    #expect(refused.metadata == ["table": "items", "index": "2", "sku": "c", "location": ""])
    _ = try small.ok("BatchAdjustStock", batch("k", [part("a", by: 1), part("b", by: 1)]))
  }

  private static let good = [part("b", by: 1)]
  private static let hostile: [(String, Message, field: String)] = [
    ("no change", batch("k", []), "changes"),
    ("65 changes", batch("k", (0..<65).map { part("s\($0)", by: 1) }), "changes"),
    (
      "an item twice", batch("k", [part("a", by: 1), part("b", by: 1), part("a", by: 2)]),
      "changes[2].sku"
    ),
    ("an empty change", batch("k", good + [Message()]), "changes[1].sku"),
    ("nothing to do", batch("k", good + [part("a") { $0 }]), "changes[1].change"),
    (
      "no check", batch("k", [Message().with(2, "a").with(4, 1 as Int64)]),
      "changes[0].version_check"
    ),
    (
      "an inner key", batch("k", [part("a") { $0.with(4, 1 as Int64).with(1, "k") }]),
      "changes[0].idempotency_key"
    ),
    (
      "an inner reason", batch("k", [part("a") { $0.with(4, 1 as Int64).with(9, "r") }]),
      "changes[0].reason"
    ),
    (
      "an inner reference", batch("k", [part("a") { $0.with(4, 1 as Int64).with(14, "r") }]),
      "changes[0].reference"
    ),
    ("too much", batch("k", [part("a", by: quantityMax + 1)]), "changes[0].delta"),
    ("no key", batch("", good), "idempotency_key"),
    ("a long key", batch(String(repeating: "k", count: 65), good), "idempotency_key"),
    ("no reason", Message().with(1, "k").with(2, part("b", by: 1)), "reason"),
    ("a long reason", batch("k", good).with(3, String(repeating: "r", count: 257)), "reason"),
    ("a reference with a space", batch("k", good).with(4, "a b"), "reference"),
    (
      "names that are too long together",
      batch(
        "k", (10..<63).map { part("\($0)" + String(repeating: "s", count: 62), by: 1) }),
      "changes[48].sku"
    ),
  ]

  @Test("A field that breaks its rule is named, and nothing is changed", arguments: hostile.indices)
  func breach(_ index: Int) throws {
    let (name, request, field) = Self.hostile[index]
    let refused = try service.refused("BatchAdjustStock", request)
    #expect(refused.code == .invalidArgument && refused.reason == "INVALID_FIELD", "\(name)")
    #expect(refused.violations.first?.first == field, "\(name)")
    #expect(balances(try service.ok("GetStock", stock("b")).message(1)) == [5, 0, 0, 5, 1])
    // What was gathered of it is not part of the next.
    let answer = try service.ok("BatchAdjustStock", batch("k", Self.good))
    #expect(answer.messages(1).count == 1)
  }
}
