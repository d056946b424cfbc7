// The ledgers of a run, and their operations by SKU.

/// The ledgers of all workers.
package struct Books: ~Copyable {
  private var ledgers: [Box] = []

  /// Ledgers can't be copied; a box can be listed.
  private final class Box {
    var ledger: Ledger
    init(_ ledger: consuming Ledger) { self.ledger = ledger }
  }

  package init() {}

  package mutating func add(_ ledger: consuming Ledger) { ledgers.append(Box(ledger)) }

  /// Adds all ledgers of `others`, which then has none.
  package mutating func take(_ others: inout Books) {
    ledgers += others.ledgers
    others.ledgers = []
  }

  /// What is confirmed stays on hand, as committed, until it is shipped.
  package var keepsCommitted: Bool { ledgers.first?.ledger.keepsCommitted ?? false }

  /// Reserves went out as orders: an order's id is its key and its reference.
  package var isOfOrders: Bool { ledgers.first?.ledger.isOfOrders ?? false }

  /// How many workers' ledgers these are.
  package var count: Int { ledgers.count }

  package mutating func withLedger<Failure: Error>(
    _ number: Int, _ body: (inout Ledger) throws(Failure) -> Void
  ) throws(Failure) {
    try body(&ledgers[number].ledger)
  }

  package func forEachLedger(_ body: (borrowing Ledger) -> Void) {
    for box in ledgers { body(box.ledger) }
  }

  func withLedger<Value>(_ number: Int, _ body: (borrowing Ledger) -> Value) -> Value {
    body(ledgers[number].ledger)
  }
}

/// All lines of all operations, grouped by SKU (a counting sort). Two lines of one cart stand side by
/// side, behind them those of its alternatives, and those that a Replace has put in their place.
struct LinesBySKU {
  struct Entry {
    let reference: OperationReference
    /// Of a reserve, from 1; 0: its lines.
    let alternative: Int
    var units: Int64
    /// The fewest that will do.
    var least: Int64
    /// Units of the lines that a Replace asked for.
    var newUnits: Int64 = 0
  }

  /// Which of an operation's lines one is of.
  private enum Part {
    case alternative(UInt8)
    case new
  }

  private struct Packed {
    var operation: UInt32 = 0
    var quantity: UInt32 = 0
    var least: UInt32 = 0
    var ledger: UInt16 = 0
    var part = Part.new
  }

  private var starts: [Int]
  private var entries: [Packed]

  init(_ books: borrowing Books, skuCount: Int) {
    var counts = [Int](repeating: 0, count: skuCount + 1)
    LinesBySKU.forEachLine(books) { line, _, _, _ in
      if line.sku < skuCount { counts[Int(line.sku) + 1] += 1 }
    }
    for index in 0..<skuCount { counts[index + 1] += counts[index] }
    var next = counts
    var grouped = [Packed](repeating: Packed(), count: counts[skuCount])
    LinesBySKU.forEachLine(books) { line, ledger, operation, part in
      guard line.sku < skuCount else { return }
      let at = next[Int(line.sku)]
      grouped[at] = Packed(
        operation: UInt32(truncatingIfNeeded: operation), quantity: line.quantity,
        least: line.least, ledger: UInt16(truncatingIfNeeded: ledger), part: part)
      next[Int(line.sku)] += 1
    }
    starts = counts
    entries = grouped
  }

  private static func forEachLine(
    _ books: borrowing Books, _ body: (CartLine, Int, Int, Part) -> Void
  ) {
    for number in 0..<books.count {
      books.withLedger(number) { ledger in
        for operation in 0..<ledger.count {
          for alternative in 0...ledger[operation].alternativeCount {
            for index in ledger.cart(of: operation, alternative: Int(alternative)) {
              body(ledger.line(at: index), number, operation, .alternative(alternative))
            }
          }
          for index in ledger.newCart(of: operation) {
            body(ledger.line(at: index), number, operation, .new)
          }
        }
      }
    }
  }

  func entries(of sku: Int) -> some Sequence<Entry> {
    entries[starts[sku]..<starts[sku + 1]].lazy.map { packed in
      let reference = OperationReference(
        ledger: Int(packed.ledger), operation: Int(packed.operation))
      switch packed.part {
      case .alternative(let alternative):
        return Entry(
          reference: reference, alternative: Int(alternative), units: Int64(packed.quantity),
          least: Int64(packed.least))
      case .new:
        return Entry(
          reference: reference, alternative: 0, units: 0, least: 0,
          newUnits: Int64(packed.quantity))
      }
    }
  }
}
