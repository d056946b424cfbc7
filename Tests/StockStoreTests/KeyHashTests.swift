import Bytes
import Log
import Simulation
import Testing

@testable import StockStore

@Suite struct KeyHashTests {
  /// Strings of all lengths around the word size, cut differently, never hash alike.
  @Test func fieldsKeepTheirBoundaries() {
    let keys = StoreKeys(secret: SipKey(low: 1, high: 2))
    let text = "abcdefghijklmnopqrstuvwxyz"
    var seen: Set<UInt64> = []
    var count = 0
    for length in 0...text.count {
      for cut in 0...length {
        let sku = String(text.prefix(cut))
        let location = String(text.prefix(length).dropFirst(cut))
        seen.insert(withName(sku, location) { keys.itemHash($0) })
        count += 1
      }
    }
    #expect(seen.count == count)
  }
}
