import GRPC
import StockStore
import Testing

@testable import ReservationService

@Suite("RemoveItem")
struct RemoveItemTests {
  private let service = Service()

  @Test("An empty item goes, once for a key and its payload")
  func answer() throws {
    _ = try service.ok("AdjustStock", adjust("put", "a", by: 1, at: "x"))
    let request = remove("k", "a").with(3, "x")
    let refused = try service.refused("RemoveItem", request)
    #expect(refused.code == .failedPrecondition && refused.reason == "ITEM_NOT_EMPTY")
    #expect(
      refused.metadata
        == ["sku": "a", "location": "x", "on_hand": "1", "held": "0", "committed": "0"])
    _ = try service.ok("AdjustStock", adjust("take", "a", by: -1, at: "x"))
    // The refusal is recorded.
    #expect(try service.refused("RemoveItem", request).reason == "ITEM_NOT_EMPTY")
    let other = try service.refused(
      "RemoveItem", remove("k2", "a").with(3, "x").with(4, 1 as Int64))
    #expect(other.code == .aborted && other.metadata == ["current_version": "2"])
    let versioned = remove("k2", "a").with(3, "x").with(4, 2 as Int64)
    #expect(try service.ok("RemoveItem", versioned).flag(1) == false)
    #expect(try service.ok("RemoveItem", versioned).flag(1))
    for another in [
      remove("k2", "a").with(3, "x"), versioned.with(5, "other"), versioned.with(2, "b"),
    ] {
      #expect(try service.refused("RemoveItem", another).reason == "IDEMPOTENCY_KEY_REUSED")
    }
    #expect(try service.refused("GetStock", stock("a", at: "x")).reason == "ITEM_NOT_FOUND")
    #expect(try service.refused("RemoveItem", remove("k3", "a")).reason == "ITEM_NOT_FOUND")
    #expect(
      try service.ok("AdjustStock", adjust("k2", "a", by: 1, at: "x")).messages(1)[0].number(7) == 4
    )
  }

  @Test("A field that breaks its rule", arguments: [1, 2, 3, 5])
  func fields(_ field: Int) throws {
    let names = [1: "idempotency_key", 2: "sku", 3: "location", 5: "reason"]
    let bad = field == 3 ? "a b" : ""
    let refused = try service.refused("RemoveItem", remove("k", "a").with(field, bad))
    #expect(refused.code == .invalidArgument && refused.reason == "INVALID_FIELD")
    #expect(refused.violations.map { $0[0] } == [names[field] ?? ""])
  }
}
