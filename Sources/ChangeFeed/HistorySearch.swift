// What became of one item or one reservation, from the log that Watch reads: for an operator's look. The log has no
// index, so what is searched is bounded in bytes and in time, from the newest segment backwards, and the result says
// how far it has come.
package import Log
package import Posix
package import StockStore

/// Whose history it is.
package enum HistorySubject: Sendable {
  case item(ItemHandle)
  /// It is searched no further back than to its creation.
  case reservation(ReservationID, createdAt: Timestamp)
}

/// How much is read for one search.
package struct HistoryLimits: Sendable {
  /// Bytes of records, about: the segment in which it is reached is read to its end.
  package var bytesMax: Int
  package var nanosecondsMax: Int64
  /// The newest are kept.
  package var entriesMax: Int

  package init(bytesMax: Int, nanosecondsMax: Int64, entriesMax: Int) {
    precondition(bytesMax > 0 && entriesMax > 0, "no such limits")
    self.bytesMax = bytesMax
    self.nanosecondsMax = nanosecondsMax
    self.entriesMax = entriesMax
  }
}

/// One decision, as far as an operator wants to know it.
package struct HistoryEntry: Sendable, Equatable {
  package struct Line: Sendable, Equatable {
    package var sku: [UInt8]
    package var location: [UInt8]
    package var quantity: Int64
    /// The item's balances and version after the decision; nil where it was refused.
    package var after: Balances?
    package var version: UInt64
  }

  package var lsn: UInt64
  package var time: Timestamp
  package var kind: EventKind
  package var reservation: ReservationID?
  /// Of a hold that goes on: when it ends.
  package var expiresAt: Timestamp?
  package var lines: [Line]
  /// Why it was refused, in words; or the reason that came with an adjustment.
  package var note: String
  package var caller: [UInt8]
  package var key: [UInt8]
}

/// What was found, and where it was looked for.
package struct History: Sendable, Equatable {
  package enum End: Sendable, Equatable {
    /// There is no more to be found: its creation was reached, or the beginning of the whole log.
    case complete
    /// The log does not go back further.
    case trimmed
    /// So much was found that the older ones were left out.
    case entries
    /// So much was read.
    case bytes
    /// So much time was taken: of the segment that was being read, the newer part is missing.
    case time
  }

  /// The oldest first.
  package var entries: [HistoryEntry] = []
  package var end = End.complete
  package var bytesRead = 0
  /// Of the oldest batch that was read; nil where nothing was.
  package var searchedBackTo: Timestamp?
}

/// Searches the log on the caller's thread.
package struct HistorySearch {
  /// Between two looks at the clock.
  private static let blockBytes = 256 << 10
  /// How often a log may give up what the search was about to begin with.
  private static let beginningsMax = 8

  private let core: StoreCore
  private let log: any ReadableLog
  private let limits: HistoryLimits

  package init(store: StockStore, log: any ReadableLog, limits: HistoryLimits) {
    core = store.core
    self.log = log
    self.limits = limits
  }

  /// - Parameter lastLSN: nothing of the subject is behind it; nil where nobody knows.
  /// - Throws: why the log cannot be read. Of a segment that is given up meanwhile: `trimmed` in the result.
  package func history(
    of subject: HistorySubject, lastLSN: UInt64? = nil
  ) throws(LogCursorError) -> History {
    let deadline = SystemClock.monotonicNanoseconds() + limits.nanosecondsMax
    var history = History()
    var before = min(lastLSN ?? .max, log.endLSN)
    var beginnings = 0
    while before > 0 {
      var segment: Segment
      do throws(LogCursorError) {
        segment = try read(subject, before: before, deadline)
      } catch .trimmed {
        // In memory, the oldest goes while much is written: what is newer is still there.
        beginnings += 1
        if history.bytesRead == 0, beginnings < Self.beginningsMax { continue }
        history.end = .trimmed
        break
      } catch {
        throw error
      }
      history.bytesRead += segment.bytesRead
      history.entries = segment.entries + history.entries
      if let time = segment.firstTime { history.searchedBackTo = time }
      let surplus = history.entries.count - limits.entriesMax
      if surplus > 0 { history.entries.removeFirst(surplus) }
      if isBegun(subject, history, segment) { break }
      if surplus > 0 || segment.isCut {
        history.end = .entries
      } else if segment.isLate {
        history.end = .time
      } else if history.bytesRead >= limits.bytesMax, segment.firstLSN > 0 {
        history.end = .bytes
      } else if segment.firstLSN >= before {
        // What it would have been read from is gone.
        history.end = .trimmed
      } else {
        before = segment.firstLSN
        continue
      }
      break
    }
    return history
  }

  /// Whether nothing older is of the subject.
  private func isBegun(_ subject: HistorySubject, _ history: History, _ segment: Segment) -> Bool {
    guard case .reservation(_, let createdAt) = subject else { return false }
    if history.entries.first?.kind == .held { return true }
    return segment.firstTime.map { $0 < createdAt } ?? false
  }

  /// What was found in one segment.
  private struct Segment {
    var entries: [HistoryEntry] = []
    var bytesRead = 0
    var firstLSN = UInt64.max
    var firstTime: Timestamp?
    var isLate = false
    /// More were found than are kept.
    var isCut = false
  }

  private func read(
    _ subject: HistorySubject, before end: UInt64, _ deadline: Int64
  ) throws(LogCursorError) -> Segment {
    var segment = Segment()
    let cursor = try log.cursorFromSegment(before: end)
    var isAtEnd = false
    while !isAtEnd {
      let bytesBefore = segment.bytesRead
      try unsafe cursor.read(bytesMax: Self.blockBytes) { batch, records in
        segment.firstLSN = min(segment.firstLSN, batch.lsn)
        segment.bytesRead += records.count
        if batch.lsn >= end {
          isAtEnd = true
        } else {
          unsafe collect(subject, records, batch, before: end, &segment)
        }
      }
      if segment.bytesRead == bytesBefore { break }
      if SystemClock.monotonicNanoseconds() > deadline {
        segment.isLate = true
        break
      }
    }
    return segment
  }

  private func collect(
    _ subject: HistorySubject, _ records: UnsafeRawBufferPointer, _ batch: LogBatch,
    before end: UInt64, _ segment: inout Segment
  ) {
    var offset = 0
    while offset < records.count,
      let record = unsafe JournalRecord(UnsafeRawBufferPointer(rebasing: records[offset...]))
    {
      offset += record.byteCount
      if segment.firstTime == nil { segment.firstTime = Timestamp(nanoseconds: record.time) }
      let lsn = batch.lsn &+ UInt64(offset)
      guard lsn <= end, let kind = EventKind(record.kind), isOf(subject, record, kind) else {
        continue
      }
      segment.entries.append(entry(record, kind, lsn, subject))
      if segment.entries.count > 2 * limits.entriesMax {
        segment.entries.removeFirst(limits.entriesMax)
        segment.isCut = true
      }
    }
  }

  private func isOf(
    _ subject: HistorySubject, _ record: JournalRecord, _ kind: EventKind
  ) -> Bool {
    switch subject {
    case .reservation(let id, _):
      switch kind {
      case .adjusted, .removed, .refused: return false
      case .replaced: return record.replacedID == id
      default:
        return record.slot == id.slot && record.generation == id.generation
          && record.reservationID(core) == id
      }
    case .item(let item):
      switch kind {
      case .adjusted, .removed:
        if !record.isGroup { return record.level.item == item }
        var isOf = false
        record.forEachChange { if $0.level.item == item { isOf = true } }
        return isOf
      case .refused:
        if (0..<record.lineCount).contains(where: { record.line($0).ordinal == item.ordinal }) {
          return true
        }
        return record.lineCount == 0 && record.refusal?.item == item
      default:
        return (0..<record.lineCount).contains { record.line($0).ordinal == item.ordinal }
      }
    }
  }

  private func entry(
    _ record: JournalRecord, _ kind: EventKind, _ lsn: UInt64, _ subject: HistorySubject
  ) -> HistoryEntry {
    let head = record.head
    var entry = unsafe HistoryEntry(
      lsn: lsn, time: Timestamp(nanoseconds: head.time), kind: kind, reservation: nil,
      expiresAt: nil, lines: [], note: "", caller: Array(head.caller), key: Array(head.key))
    switch kind {
    case .held, .extended, .replaced:
      entry.expiresAt = Timestamp(nanoseconds: record.expiresAt)
      entry.reservation = record.reservationID(core)
    case .confirmed, .released, .expired: entry.reservation = record.reservationID(core)
    case .adjusted, .removed:
      entry.note = unsafe String(decoding: record.reason.pointer, as: UTF8.self)
      if record.kind == .imported { entry.note = "import" }
    case .refused: entry.note = record.refusal?.words ?? "refused"
    }
    if record.isGroup {
      record.forEachChange { change in
        if case .item(let item) = subject, change.level.item != item { return }
        entry.lines.append(line(change.level, quantity: 0))
      }
    } else if kind == .adjusted || kind == .removed {
      entry.lines = [line(record.level, quantity: 0)]
    } else {
      for index in 0..<record.lineCount {
        let line = record.namedLine(index, core)
        let after = Balances(
          onHand: line.onHand, held: line.held, committed: line.committed,
          safetyStock: line.safetyStockNow)
        entry.lines.append(
          unsafe HistoryEntry.Line(
            sku: Array(line.sku), location: Array(line.location), quantity: line.quantity,
            after: kind == .refused ? nil : after, version: line.version))
      }
    }
    return entry
  }

  private func line(_ level: StockLevel, quantity: Int64) -> HistoryEntry.Line {
    let name = core.items.name(level.item.ordinal)
    return unsafe HistoryEntry.Line(
      sku: Array(name.sku.pointer), location: Array(name.location.pointer), quantity: quantity,
      after: level.balances, version: level.version)
  }
}

extension RecordedRefusal {
  /// The item that it is about, where it names one.
  fileprivate var item: ItemHandle? {
    switch self {
    case .insufficientStock(let item, _, _), .insufficientCommitted(let item, _, _),
      .limitExceeded(let item, _, _), .itemNotEmpty(let item, _, _, _), .notOnSale(let item, _):
      item
    case .itemsNotFound, .lineNotFound, .onHandLimit: nil
    }
  }

  fileprivate var words: String {
    switch self {
    case .insufficientStock(_, let requested, let available):
      "insufficient stock: \(requested) asked for, \(available) available"
    case .insufficientCommitted(_, let requested, let committed):
      "insufficient committed: \(requested) asked for, \(committed) committed"
    case .limitExceeded(_, let requested, let used):
      "limit exceeded: \(requested) asked for, \(used) used"
    case .itemNotEmpty: "the item is not empty"
    case .notOnSale: "not on sale"
    case .itemsNotFound, .lineNotFound: "item not found"
    case .onHandLimit: "on hand would be too much"
    }
  }
}
