// A sale window as a test has it: by its nanoseconds, beside what the store packs into 20 bytes.
package import StockStore

package struct TestSale: Equatable, Sendable {
  /// In nanoseconds since the Unix epoch; nil: from ever, for ever.
  package var from: Int64?
  package var until: Int64?
  package var isFrozen: Bool

  package init(from: Int64? = nil, until: Int64? = nil, isFrozen: Bool = false) {
    self.from = from
    self.until = until
    self.isFrozen = isFrozen
  }

  /// As the store has it.
  package var window: SaleWindow {
    func instant(_ time: Int64?) -> SaleWindow.Instant? {
      time.flatMap {
        SaleWindow.Instant(seconds: $0 / 1_000_000_000, nanoseconds: $0 % 1_000_000_000)
      }
    }
    return SaleWindow(from: instant(from), until: instant(until), isFrozen: isFrozen)
  }

  func admits(_ now: Int64) -> Bool {
    !isFrozen && from ?? .min <= now && now < until ?? .max
  }

  /// Its next bound behind `time`.
  func nextBound(after time: Int64) -> Int64? {
    [from, until].compactMap { $0 }.filter { $0 > time }.min()
  }
}
