// Events as they go out, made once for all who watch.
package import Log

/// What happened: holdfast.v1.EventKind.
package enum EventKind: UInt8, CaseIterable, Sendable {
  case held = 1
  case extended = 3
  case confirmed
  case released
  case expired
  case adjusted
  case refused
}

/// Which events a watcher wants.
package struct EventFilter: Sendable {
  private var kinds: UInt32
  /// Hashes of the items' names; empty: all.
  private let items: Set<UInt64>

  /// - Parameters:
  ///   - kinds: empty: all but refused.
  ///   - items: hashes of names; empty: all.
  package init(kinds: [EventKind] = [], items: Set<UInt64> = []) {
    let wanted = kinds.isEmpty ? EventKind.allCases.filter { $0 != .refused } : kinds
    self.kinds = wanted.reduce(0) { $0 | 1 << UInt32($1.rawValue) }
    self.items = items
  }

  fileprivate func takes(_ entry: EventBlock.Entry, _ itemHashes: [UInt64]) -> Bool {
    guard kinds & 1 << UInt32(entry.kind.rawValue) != 0 else { return false }
    if items.isEmpty { return true }
    return entry.items.contains { items.contains(itemHashes[$0]) }
  }
}

/// Some events behind each other, and the points between them.
package final class EventBlock: Sendable {
  struct Entry: Sendable {
    var lsn: UInt64
    var kind: EventKind
    /// Of the message's fields, in `bytes`: who called stands behind the others.
    var fields: Range<Int>
    /// Where the fields end that everybody may see.
    var openEnd: Int
    /// In `itemHashes`.
    var items: Range<Int>
    /// In `batches`.
    var batch: Int
  }

  /// Everything behind `start` up to `end` is in the block.
  package let start: UInt64
  package let end: LogPoint
  let entries: [Entry]
  let bytes: [UInt8]
  private let itemHashes: [UInt64]
  private let batches: [LogBatch]
  private let retained: RetainedBytes

  init(
    start: UInt64, end: LogPoint, entries: [Entry], bytes: [UInt8], itemHashes: [UInt64],
    batches: [LogBatch], retained: RetainedBytes
  ) {
    self.start = start
    self.end = end
    self.entries = entries
    self.bytes = bytes
    self.itemHashes = itemHashes
    self.batches = batches
    self.retained = retained
    retained.add(bytes.count)
  }

  deinit { retained.add(-bytes.count) }

  /// The index of the first event behind `lsn`.
  package func firstIndex(behind lsn: UInt64) -> Int {
    var (low, high) = (0, entries.count)
    while low < high {
      let middle = (low + high) / 2
      if entries[middle].lsn > lsn { high = middle } else { low = middle + 1 }
    }
    return low
  }

  /// The index of the next event from `index` on that the filter takes; nil where there is none.
  package func next(from index: Int, _ filter: EventFilter) -> Int? {
    var index = index
    while index < entries.count {
      if filter.takes(entries[index], itemHashes) { return index }
      index += 1
    }
    return nil
  }

  /// The point behind event `index`.
  package func point(behind index: Int) -> LogPoint {
    batches[entries[index].batch].point(behind: entries[index].lsn)
  }

  /// Calls `body` with the fields of event `index`, a message of holdfast.v1.Event.
  /// - Parameter isOpen: without caller and key.
  package func withFields(_ index: Int, isOpen: Bool, _ body: (Span<UInt8>) -> Void) {
    let entry = entries[index]
    let end = isOpen ? entry.openEnd : entry.fields.upperBound
    // The bytes stay as long as the block.
    unsafe bytes.withUnsafeBufferPointer { bytes in
      let fields = unsafe UnsafeBufferPointer(rebasing: bytes[entry.fields.lowerBound..<end])
      body(unsafe fields.span)
    }
  }
}
