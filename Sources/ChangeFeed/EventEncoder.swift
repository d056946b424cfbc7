// From records of the journal to messages: holdfast.v1.Event, field by field (proto/holdfast/v1/event.proto).
internal import Bytes
package import Log
package import StockStore
internal import Synchronization

/// Makes blocks of events. Used by one thread.
@safe package final class EventEncoder {
  private let core: StoreCore
  private let changes: SafetyStockChanges
  private let retained: RetainedBytes
  private let writer = ProtoWriter(capacity: 1 << 16)
  private var entries: [EventBlock.Entry] = []
  private var itemHashes: [UInt64] = []
  private var batches: [LogBatch] = []

  package convenience init(store: StockStore) { self.init(store, RetainedBytes()) }

  init(_ store: StockStore, _ retained: RetainedBytes) {
    core = store.core
    changes = store.safetyStockChanges
    self.retained = retained
  }

  deinit { writer.destroy() }

  /// Reads the events behind `point`, from records of about `bytesMax` bytes; nil where none are durable.
  package func block(
    behind point: LogPoint, _ cursor: any LogCursor, bytesMax: Int
  ) throws(LogCursorError) -> EventBlock? {
    writer.reset()
    entries.removeAll(keepingCapacity: true)
    itemHashes.removeAll(keepingCapacity: true)
    batches.removeAll(keepingCapacity: true)
    try unsafe cursor.read(bytesMax: bytesMax) { batch, records in
      batches.append(batch)
      unsafe append(records, batch, behind: point.lsn)
    }
    guard let last = batches.last else { return nil }
    return EventBlock(
      start: max(point.lsn, batches[0].lsn), end: last.end, entries: entries,
      bytes: writer.withBytes { unsafe $0.withUnsafeBufferPointer { unsafe Array($0) } },
      itemHashes: itemHashes, batches: batches, retained: retained)
  }

  private func append(
    _ records: UnsafeRawBufferPointer, _ batch: LogBatch, behind start: UInt64
  ) {
    var offset = 0
    // A batch holds whole records; what is none ends it.
    while offset < records.count,
      let record = unsafe JournalRecord(UnsafeRawBufferPointer(rebasing: records[offset...]))
    {
      offset += record.byteCount
      let lsn = batch.lsn &+ UInt64(offset)
      if lsn > start, let kind = EventKind(record.kind) { append(record, kind, lsn) }
    }
  }

  private func append(_ record: JournalRecord, _ kind: EventKind, _ lsn: UInt64) {
    let start = writer.count
    let firstItem = itemHashes.count
    writer.field(1, lsn)
    writer.field(2, UInt64(kind.rawValue))
    writer.field(3, seconds: record.time)
    switch kind {
    case .held, .extended: writeReservation(record, endsAt: record.expiresAt)
    case .confirmed, .released: writeReservation(record, endsAt: nil)
    case .expired: writeReservation(record, endsAt: record.fellDueAt)
    case .adjusted:
      write(record.level, lsn)
      field(11, record.reason)
    case .refused: writeRefusal(record)
    }
    if kind != .refused {
      for index in 0..<record.lineCount { writeLevel(record.line(index), lsn) }
    }
    let openEnd = writer.count
    field(9, record.caller)
    field(10, record.key)
    entries.append(
      EventBlock.Entry(
        lsn: lsn, kind: kind, fields: start..<writer.count, openEnd: openEnd,
        items: firstItem..<itemHashes.count, batch: batches.count - 1))
  }

  // MARK: Parts

  private func writeReservation(_ record: JournalRecord, endsAt: Int64?) {
    let id = record.reservationID(core)
    writer.field(4, length: ReservationID.textLength) { id.write(to: &$0) }
    for index in 0..<record.lineCount { writeLine(record.line(index)) }
    if let endsAt { writer.field(7, seconds: endsAt) }
  }

  private func writeRefusal(_ record: JournalRecord) {
    for index in 0..<record.lineCount {
      let line = record.line(index)
      writeLine(line)
      touch(line.ordinal)
    }
    switch record.refusal {
    case .insufficientStock(let item, _, _):
      // Of an adjustment, which has no lines.
      if record.lineCount == 0 { touch(item.ordinal) }
      writer.field(11, "INSUFFICIENT_STOCK")
    case .itemsNotFound, .lineNotFound:
      itemHashes.append(core.keys.itemHash(record.name))
      writer.field(11, "ITEM_NOT_FOUND")
    case .onHandLimit: writer.field(11, "ON_HAND_LIMIT")
    default: break
    }
  }

  /// Of a confirm in parts, the record has lines of which nothing was sold.
  private func writeLine(_ line: JournalRecord.Line) {
    guard line.quantity != 0 else { return }
    let name = core.items.name(line.ordinal)
    writer.nested(6) {
      field(1, name.sku)
      field(2, name.location)
      writer.field(3, line.quantity)
    }
  }

  private func writeLevel(_ line: JournalRecord.Line, _ lsn: UInt64) {
    // First what it is now: whoever changes it tells of that before.
    let current = core.items[line.ordinal].safetyStock.load(ordering: .acquiring)
    let safetyStock = changes.value(of: line.ordinal, at: lsn, current: current)
    write(
      StockLevel(
        item: ItemHandle(ordinal: line.ordinal), onHand: line.onHand, held: line.held,
        safetyStock: safetyStock, version: line.version), lsn)
  }

  private func write(_ level: StockLevel, _ lsn: UInt64) {
    let name = core.items.name(level.item.ordinal)
    touch(level.item.ordinal)
    writer.nested(8) {
      field(1, name.sku)
      field(2, name.location)
      writer.field(3, level.onHand)
      writer.field(4, level.held)
      writer.field(5, level.safetyStock)
      writer.field(6, level.available)
      writer.field(7, level.version)
    }
  }

  private func touch(_ ordinal: UInt32) {
    itemHashes.append(core.keys.itemHash(core.items.name(ordinal)))
  }

  private func field(_ number: Int, _ bytes: BorrowedBytes) {
    let bytes = unsafe bytes.pointer.bindMemory(to: UInt8.self)
    writer.field(number, unsafe bytes.span)
  }
}

extension EventKind {
  /// nil for a record that is no decision.
  fileprivate init?(_ kind: RecordWriter.Kind) {
    switch kind {
    case .held: self = .held
    case .refused: self = .refused
    case .adjusted: self = .adjusted
    case .confirmed: self = .confirmed
    case .released: self = .released
    case .expired: self = .expired
    case .extended: self = .extended
    case .clock: return nil
    }
  }
}
