// Places of items that were removed, over restarts.
import Log
import Posix
import Simulation
import Testing

@testable import StockStore
@testable import StorePersistence

@Suite("Places of removed items")
struct RemovedItemTests {
  private func turn(_ running: JournaledStore, _ body: (StoreSession) -> Void) throws {
    _ = running.session.beginTurn()
    body(running.session)
    running.session.endTurn()
    try running.settle()
  }

  /// Names, ordinals and versions of all items.
  private func items(_ running: JournaledStore) -> [String] {
    var items: [String] = []
    _ = running.session.beginTurn()
    _ = running.session.listStock(from: 0) {
      let name = running.session.name(of: $0.item)
      let sku = unsafe String(decoding: name.sku.pointer, as: UTF8.self)
      items.append("\(sku) \($0.item.ordinal) \($0.version)")
      return true
    }
    running.session.endTurn()
    return items
  }

  @Test("What was removed is removed after a restart", arguments: [false, true])
  func outlivesARestart(withCheckpoint: Bool) throws {
    let running = try JournaledStore(testLimits(items: 2), seed: 1)
    try turn(running) { session in
      _ = session.adjust("a", "a", .setOnHand(0), safetyStock: 3)
      _ = session.adjust("b", "b", .setOnHand(1))
      _ = session.remove("r", "a")
      _ = session.remove("n", "b")
    }
    if withCheckpoint { try running.makeCheckpoint {} }
    let digest = running.digest
    try running.restart()
    #expect(running.digest == digest && items(running) == ["b 1 1"])
    try turn(running) { session in
      #expect(session.remove("r", "a").replayed && session.remove("n", "b").replayed)
      // An answer names the place still.
      #expect(session.adjust("c", "c", .setOnHand(1)).refusal == .tableFull(.items))
      #expect(session.adjust("a2", "a", .setOnHand(4)).value?.version == 3)
    }
    try running.restart()
    #expect(items(running) == ["a 0 3", "b 1 1"] && running.store.audit() == [])
  }

  @Test("When nothing names it any more, another item has its place")
  func placesAreUsedAgain() throws {
    var limits = testLimits(items: 2)
    limits.retentionNanoseconds = seconds(40)
    let running = try JournaledStore(limits, seed: 1)
    let long = "long-" + String(repeating: "x", count: 50)
    try turn(running) { session in
      _ = session.adjust("a", long, .setOnHand(0))
      _ = session.adjust("b", "b", .setOnHand(1))
      _ = session.remove("r", long)
    }
    running.clock.advance(byNanoseconds: seconds(100))
    // Enough for the journal to leave what was before.
    for round in 0..<6000 {
      try turn(running) { _ = $0.adjust("k\(round)", "b", .delta(1)) }
      if round % 50 == 0 { while try running.store.stepMaintenance() {} }
      if round % 500 == 0 { running.clock.advance(byNanoseconds: seconds(100)) }
    }
    try running.stepAll()
    #expect(running.store.statistics().removedItems == 1)
    try running.restart()
    #expect(running.store.statistics().removedItems == 0)
    try turn(running) { session in
      #expect(session.adjust("c", "c", .setOnHand(2)).value?.item.ordinal == 0)
      #expect(session.level(long) == nil)
    }
    let digest = running.digest
    for _ in 0..<2 {
      try running.restart()
      #expect(running.digest == digest && running.store.audit() == [])
      #expect(items(running).first == "c 0 1")
    }
  }
}
