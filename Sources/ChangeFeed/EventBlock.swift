// Events as they go out, made once for all who watch.
package import Log
internal import StockStore

/// What happened: holdfast.v1.EventKind.
package enum EventKind: UInt8, CaseIterable, Sendable {
  case held = 1
  case replaced
  case extended
  case confirmed
  case released
  case expired
  case adjusted
  case refused
  case removed

  /// Of a set of kinds.
  var bit: UInt32 { 1 << UInt32(rawValue) }
}

/// Which events a watcher wants.
package struct EventFilter: Sendable {
  /// Bits.
  let kinds: UInt32
  /// Hashes of the items' names; empty: all.
  let items: Set<UInt64>
  /// What the event's reference begins with; empty: whatever it is.
  let referencePrefix: [UInt8]

  /// - Parameters:
  ///   - kinds: empty: all but refused.
  ///   - items: hashes of names; empty: all.
  ///   - referencePrefix: empty: all.
  package init(
    kinds: [EventKind] = [], items: Set<UInt64> = [], referencePrefix: [UInt8] = []
  ) {
    self.referencePrefix = referencePrefix
    let wanted = kinds.isEmpty ? EventKind.allCases.filter { $0 != .refused } : kinds
    self.kinds = wanted.reduce(0) { $0 | $1.bit }
    self.items = items
  }

  func takes(_ kind: EventKind) -> Bool { kinds & kind.bit != 0 }
}

/// Some events behind each other, and the points between them. Those are left out that nobody wanted when it
/// was made.
@safe package final class EventBlock: @unchecked Sendable {
  struct Entry: Sendable {
    var lsn: UInt64
    /// Of the response's field, in the block's bytes: where it starts, where its content does, where the part
    /// of that ends that everybody may see, and all of it. Who called stands behind the rest.
    var start: UInt32
    var content: UInt32
    var openEnd: UInt32
    var end: UInt32
    /// In `itemHashes`; none where nobody asks for some items alone.
    var firstItem: UInt32
    var itemCount: UInt32
    /// In `batches`.
    var batch: UInt32
    var kind: EventKind
    /// The event's reference, in its content.
    var referenceCount: UInt8
    var referenceStart: UInt16
  }

  /// Everything behind `start` up to `end` is in the block.
  package let start: UInt64
  package let end: LogPoint
  let entries: [Entry]
  /// Never changed: any thread may read it. Freed with the block.
  private let bytes: EventBytes
  private let itemHashes: [UInt64]
  /// Those of them that somebody asks for.
  private let wantedItems: Set<UInt64>
  private let kinds: UInt32
  private let batches: [LogBatch]
  private let retained: RetainedBytes
  private let fault: DeliberateFault?

  /// - Parameter bytes: the block frees them.
  init(
    start: UInt64, end: LogPoint, entries: [Entry], bytes: EventBytes, itemHashes: [UInt64],
    wantedItems: Set<UInt64>, batches: [LogBatch], retained: RetainedBytes,
    fault: DeliberateFault? = nil
  ) {
    self.start = start
    self.end = end
    self.entries = entries
    self.bytes = bytes
    self.itemHashes = itemHashes
    self.wantedItems = wantedItems
    kinds = entries.reduce(0) { $0 | $1.kind.bit }
    self.batches = batches
    self.retained = retained
    self.fault = fault
    retained.add(bytes.capacity)
  }

  deinit {
    retained.add(-bytes.capacity)
    bytes.free()
  }

  /// Whether there may be an event that the filter takes.
  func mayConcern(_ filter: EventFilter) -> Bool {
    kinds & filter.kinds != 0
      && (filter.items.isEmpty || !wantedItems.isDisjoint(with: filter.items))
      && (filter.referencePrefix.isEmpty
        || entries.contains { hasReference($0, filter.referencePrefix) })
  }

  /// Whether the event's reference begins so.
  private func hasReference(_ entry: Entry, _ prefix: [UInt8]) -> Bool {
    if Int(entry.referenceCount) < prefix.count { return false }
    let start = Int(entry.content) + Int(entry.referenceStart)
    var isEqual = true
    bytes.withSpan(start..<start + prefix.count) { text in
      for index in prefix.indices where text[index] != prefix[index] { isEqual = false }
    }
    return isEqual
  }

  /// The index of the first event behind `lsn`.
  package func firstIndex(behind lsn: UInt64) -> Int {
    if fault == .watchBlockAgain { return 0 }
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
      if takes(index, filter) { return index }
      index += 1
    }
    return nil
  }

  /// The end of the events from `first` on that the filter takes one after the other, of no more bytes than
  /// `bytesMax`, but for the first.
  package func endOfRun(from first: Int, _ filter: EventFilter, bytesMax: Int) -> Int {
    let start = Int(entries[first].start)
    var end = first + 1
    while end < entries.count, Int(entries[end].end) - start <= bytesMax, takes(end, filter) {
      end += 1
    }
    return end
  }

  private func takes(_ index: Int, _ filter: EventFilter) -> Bool {
    guard filter.takes(entries[index].kind),
      filter.referencePrefix.isEmpty || hasReference(entries[index], filter.referencePrefix)
    else { return false }
    if filter.items.isEmpty { return true }
    let first = Int(entries[index].firstItem)
    return itemHashes[first..<first + Int(entries[index].itemCount)].contains {
      filter.items.contains($0)
    }
  }

  /// The point behind event `index`.
  package func point(behind index: Int) -> LogPoint {
    let batch = batches[Int(entries[index].batch)]
    return fault == .watchTokenOfBatch ? batch.end : batch.point(behind: entries[index].lsn)
  }

  /// Calls `body` with the fields of event `index`, a message of holdfast.v1.Event.
  /// - Parameter isOpen: without caller and key.
  package func withFields(_ index: Int, isOpen: Bool, _ body: (Span<UInt8>) -> Void) {
    let entry = entries[index]
    bytes.withSpan(Int(entry.content)..<Int(isOpen ? entry.openEnd : entry.end), body)
  }

  /// Calls `body` with the events of a range, each as it stands in a holdfast.v1.WatchResponse.
  package func withEvents(_ range: Range<Int>, _ body: (Span<UInt8>) -> Void) {
    guard let last = range.last else { return }
    bytes.withSpan(Int(entries[range.lowerBound].start)..<Int(entries[last].end), body)
  }
}
