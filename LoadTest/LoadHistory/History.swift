// A run's history: all that is needed to check it again, anywhere and at any time.

/// A file that is no history. One line that says why.
package struct HistoryError: Error, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// Every request and every answer of a run, and the server's balances before and after it.
package struct History: ~Copyable {
  package let run: RunID
  /// Units put behind each SKU before the run.
  package let stock: [Int64]
  /// Of every SKU, 0 or below: so many units may be held beyond what is on hand.
  package var safetyStock: Int64 = 0
  package var seed: UInt64 = 0
  /// What the run was asked to do, in one line.
  package var configuration = ""
  /// The run's start by the generator's monotonic clock, and by its wall clock since the Unix epoch;
  /// 0 if not known. The two bound the offset of the server's clock.
  package var startNanoseconds: Int64 = 0
  package var startedUnixNanoseconds: Int64 = 0
  package var books: Books
  /// By SKU, read after all calls were drained; nil where the server was gone.
  package var levels: [ReadLevel]?
  /// What was found on the way.
  package var violations: [Violation] = []

  /// What the SKUs of the run are called.
  package var names: SKUNames { SKUNames(run: run) }

  package init(run: RunID, stock: [Int64], books: consuming Books) {
    self.run = run
    self.stock = stock
    self.books = books
  }

  /// Checks everything.
  /// - Parameter skus: those whose calls are checked together; nil for all.
  package borrowing func check(skus: Range<Int>? = nil) -> Findings {
    var check = HistoryCheck(
      names: names, stock: stock, safetyStock: safetyStock, levels: levels,
      startNanoseconds: startNanoseconds,
      startedUnixNanoseconds: startedUnixNanoseconds)
    return check.run(books, noted: violations, skus: skus)
  }
}
