// The arithmetic behind LedgerCheck: what one SKU's calls add up to, and step functions over time.

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

  /// How many workers' ledgers these are.
  package var count: Int { ledgers.count }

  package mutating func withLedger<Failure: Error>(
    _ number: Int, _ body: (inout Ledger) throws(Failure) -> Void
  ) throws(Failure) {
    try body(&ledgers[number].ledger)
  }

  func forEachLedger(_ body: (borrowing Ledger) -> Void) {
    for box in ledgers { body(box.ledger) }
  }

  func record(_ ledger: Int, _ operation: Int) -> ReserveRecord {
    ledgers[ledger].ledger.records[operation]
  }

  func key(_ ledger: Int, _ operation: Int) -> String { ledgers[ledger].ledger.key(of: operation) }

  /// The units of `sku` in a cart, all its lines together.
  func units(of sku: UInt32, _ ledger: Int, _ operation: Int) -> Int64 {
    var sum: Int64 = 0
    for index in ledgers[ledger].ledger.cart(of: operation) {
      let line = ledgers[ledger].ledger.line(index)
      if line.sku == sku { sum += Int64(line.quantity) }
    }
    return sum
  }
}

/// All lines of all carts, grouped by SKU (a counting sort).
struct LinesBySKU {
  struct Entry {
    let ledger: Int
    let operation: Int
    let quantity: UInt32
  }

  private struct Packed {
    var operation: UInt32 = 0
    var quantity: UInt32 = 0
    var ledger: UInt16 = 0
  }

  private var starts: [Int]
  private var entries: [Packed]

  init(_ books: borrowing Books, skuCount: Int) {
    var counts = [Int](repeating: 0, count: skuCount + 1)
    LinesBySKU.forEachLine(books) { line, _, _ in
      if line.sku < skuCount { counts[Int(line.sku) + 1] += 1 }
    }
    for index in 1...skuCount { counts[index] += counts[index - 1] }
    var next = counts
    var grouped = [Packed](repeating: Packed(), count: counts[skuCount])
    LinesBySKU.forEachLine(books) { line, ledger, operation in
      guard line.sku < skuCount else { return }
      let at = next[Int(line.sku)]
      grouped[at] = Packed(
        operation: UInt32(truncatingIfNeeded: operation), quantity: line.quantity,
        ledger: UInt16(truncatingIfNeeded: ledger))
      next[Int(line.sku)] += 1
    }
    starts = counts
    entries = grouped
  }

  private static func forEachLine(
    _ books: borrowing Books, _ body: (CartLine, Int, Int) -> Void
  ) {
    var number = 0
    books.forEachLedger { ledger in
      for operation in 0..<ledger.count {
        for index in ledger.cart(of: operation) { body(ledger.line(index), number, operation) }
      }
      number += 1
    }
  }

  func entries(of sku: Int) -> some Sequence<Entry> {
    entries[starts[sku]..<starts[sku + 1]].lazy.map {
      Entry(ledger: Int($0.ledger), operation: Int($0.operation), quantity: $0.quantity)
    }
  }
}

/// Units over time, as a list of changes.
struct Steps {
  /// Units that arrive (above 0) or leave (below 0) at an instant.
  private(set) var changes: [(time: Int64, units: Int64)] = []

  mutating func add(_ units: Int64, from start: Int64, until end: Int64) {
    changes.append((start, units))
    if end != .max { changes.append((end, -units)) }
  }

  /// The most units at once; at equal times what leaves goes first, which is the lower bound.
  func peak() -> Int64 {
    var peak: Int64 = 0
    var current: Int64 = 0
    for change in changes.sorted(by: { ($0.time, $0.units) < ($1.time, $1.units) }) {
      current += change.units
      peak = max(peak, current)
    }
    return peak
  }
}

/// Answers "the most units between two instants", both included, in logarithmic time. At equal times
/// what arrives goes first, which is the upper bound.
struct RangePeaks {
  private let times: [Int64]
  /// A binary tree over the sums after each change: leaf i stands at `leafCount + i`.
  private var tree: [Int64]
  private let leafCount: Int

  init(_ steps: Steps) {
    let changes = steps.changes.sorted { ($0.time, -$0.units) < ($1.time, -$1.units) }
    times = changes.map(\.time)
    var count = 1
    while count < changes.count { count *= 2 }
    leafCount = count
    tree = Array(repeating: 0, count: 2 * count)
    var current: Int64 = 0
    for (index, change) in changes.enumerated() {
      current += change.units
      tree[count + index] = current
    }
    for index in (1..<count).reversed() { tree[index] = max(tree[2 * index], tree[2 * index + 1]) }
  }

  func peak(from start: Int64, through end: Int64) -> Int64 {
    // Changes before `start` that are over by then count with their sum alone; from the last of
    // them on, every sum was true at some instant of the interval.
    let first = max(0, firstIndex { $0 >= start } - 1)
    var low = first + leafCount
    var high = firstIndex { $0 > end } + leafCount
    var peak: Int64 = 0
    while low < high {
      if low & 1 == 1 {
        peak = max(peak, tree[low])
        low += 1
      }
      if high & 1 == 1 {
        high -= 1
        peak = max(peak, tree[high])
      }
      low /= 2
      high /= 2
    }
    return peak
  }

  private func firstIndex(where isAfter: (Int64) -> Bool) -> Int {
    var low = 0
    var high = times.count
    while low < high {
      let middle = (low + high) / 2
      if isAfter(times[middle]) { high = middle } else { low = middle + 1 }
    }
    return low
  }
}

/// What the calls for one SKU add up to.
struct SKUBalance {
  private(set) var accepted: Int64 = 0
  private(set) var confirmed: Int64 = 0
  private(set) var released: Int64 = 0
  /// Due before the balances were read, and ended by nothing else.
  private(set) var expired: Int64 = 0
  /// Units that may have left on hand.
  private(set) var soldMost: Int64 = 0
  /// Units held when the balances were read.
  private(set) var heldLeast: Int64 = 0
  private(set) var heldMost: Int64 = 0
  private(set) var sure = Steps()
  private(set) var possible = Steps()

  /// An accepted reserve whose expiry fell into `expiry` by the generator's clock.
  mutating func add(
    _ record: ReserveRecord, units: Int64, expiry: (earliest: Int64, latest: Int64),
    _ level: ReadLevel
  ) {
    accepted += units
    let end = record.end
    let isConfirmed = record.ending == .confirm && end.decision == .accepted
    let isReleased = record.ending == .release && end.decision == .accepted
    let isFoundExpired = end.decision == .refused && end.reason == .reservationExpired
    var surelyUntil = expiry.earliest
    var possiblyUntil = expiry.latest
    if isConfirmed {
      surelyUntil = .max
      possiblyUntil = .max
    } else if isReleased {
      surelyUntil = min(surelyUntil, end.sentNanoseconds)
      possiblyUntil = min(possiblyUntil, end.answeredNanoseconds)
    } else if isFoundExpired {
      possiblyUntil = min(possiblyUntil, end.answeredNanoseconds)
    } else if end.mayHaveActed {
      if record.ending == .confirm { possiblyUntil = .max }
      if record.ending == .release { surelyUntil = min(surelyUntil, end.sentNanoseconds) }
    }
    let answered = record.reserve.answeredNanoseconds
    sure.add(units, from: answered, until: max(surelyUntil, answered))
    possible.add(units, from: record.reserve.sentNanoseconds, until: possiblyUntil)

    if isConfirmed {
      confirmed += units
      soldMost += units
    } else if isReleased {
      released += units
    } else {
      let isSurelyOver = isFoundExpired || expiry.latest <= level.sentNanoseconds
      let isSurelyLive =
        expiry.earliest > level.answeredNanoseconds && !end.mayHaveActed && !isFoundExpired
      if isSurelyOver { expired += units } else { heldMost += units }
      if isSurelyLive { heldLeast += units }
      if end.mayHaveActed, record.ending == .confirm { soldMost += units }
    }
  }

  /// A reserve of which nobody knows whether it was accepted.
  mutating func addUnknown(_ record: ReserveRecord, units: Int64) {
    possible.add(units, from: record.reserve.sentNanoseconds, until: .max)
    heldMost += units
  }
}
