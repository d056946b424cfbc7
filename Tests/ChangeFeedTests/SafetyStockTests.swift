import Testing

@testable import StockStore

/// What the safety stock was, told by its changes.
@Suite struct SafetyStockTests {
  @Test func anItemHasWhatItHadBeforeTheNextChange() throws {
    let it = try WatchedStore()
    let changes = it.store.safetyStockChanges
    changes.setOlder([(0, 1, 100), (1, 50, 150), (0, 2, 200)], completeFrom: 40)
    #expect(changes.completeFrom == 40)
    let table: [(UInt32, UInt64, Int64)] = [
      (0, 40, 1), (0, 99, 1), (0, 100, 2), (0, 199, 2), (0, 200, 9), (0, 999, 9), (1, 149, 50),
      (1, 150, 9), (2, 50, 9),
    ]
    for (ordinal, lsn, units) in table {
      #expect(changes.value(of: ordinal, at: lsn, current: 9) == units, "\(ordinal) at \(lsn)")
    }
  }

  @Test("Of more changes than are kept, the newest are, and from where is told")
  func dropped() {
    let changes = SafetyStockChanges(countMax: 8)
    changes.begin(at: 50)
    #expect(!changes.hasDropped && changes.completeFrom == 50)
    // What it was before each change is the change's number.
    for number in 1...9 { changes.append(0, before: Int64(number), lsn: UInt64(100 * number)) }
    #expect(changes.hasDropped && changes.completeFrom == 400)
    for lsn in 400..<900 {
      #expect(changes.value(of: 0, at: UInt64(lsn), current: 99) == Int64(lsn / 100 + 1))
    }
    #expect(changes.value(of: 0, at: 900, current: 99) == 99)
  }
}
