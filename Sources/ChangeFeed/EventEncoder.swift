// From records of the journal to messages: holdfast.v1.Event, field by field (proto/holdfast/v1/event.proto).
package import Log
package import StockStore
internal import Synchronization

/// Makes blocks of events. Used by one thread.
package final class EventEncoder {
  /// Events that nobody wants are left out.
  var interest: Interest {
    get { maker.interest }
    set { maker.interest = newValue }
    _modify {
      yield &maker.interest
    }
  }

  private let retained: RetainedBytes
  private var maker: EventMaker

  package convenience init(store: StockStore) { self.init(store, RetainedBytes()) }

  init(_ store: StockStore, _ retained: RetainedBytes) {
    self.retained = retained
    maker = EventMaker(store)
  }

  deinit { maker.free() }

  /// Reads the events behind `point`, from records of about `bytesMax` bytes; nil where none are durable.
  package func block(
    behind point: LogPoint, _ cursor: any LogCursor, bytesMax: Int
  ) throws(LogCursorError) -> EventBlock? {
    maker.removeAll()
    try unsafe cursor.read(bytesMax: bytesMax) { batch, records in
      unsafe maker.append(records, batch, behind: point.lsn)
    }
    return maker.block(behind: point.lsn, retained)
  }
}

/// The events of one block, as they are made. A value: what is a property of a class is checked at every use.
@safe private struct EventMaker {
  /// What a block begins with: what most hold.
  private static let bytesMin = 16 << 10

  var interest = Interest(EventFilter(kinds: EventKind.allCases)) {
    didSet { wantedItems.removeAll(keepingCapacity: true) }
  }

  private let core: StoreCore
  private let changes: SafetyStockChanges
  /// Of `DeliberateFault.watchOneExpiry`: asked of each record.
  private let tellsOneExpiry: Bool
  /// Bytes of the last event's length: most are as long as the one before, and need not be moved.
  private var lengthBytes = 2
  /// Bytes of an id's text.
  private let idLength = ReservationID.textLength
  /// Of the block that is made; the block that comes of it frees them.
  private var out = EventBytes(capacity: EventMaker.bytesMin)
  private var entries: [EventBlock.Entry] = []
  private var itemHashes: [UInt64] = []
  private var touchedItems: Set<UInt64> = []
  private var batches: [LogBatch] = []
  /// By the items' numbers: whether anybody wants their events alone, once it was looked up.
  private var wantedItems: [Wanted] = []

  private enum Wanted: UInt8 { case unknown, yes, no }

  init(_ store: StockStore) {
    core = store.core
    changes = store.safetyStockChanges
    tellsOneExpiry = core.fault == .watchOneExpiry
  }

  func free() { out.free() }

  mutating func removeAll() {
    entries.removeAll(keepingCapacity: true)
    itemHashes.removeAll(keepingCapacity: true)
    touchedItems.removeAll(keepingCapacity: true)
    batches.removeAll(keepingCapacity: true)
    out.removeAll()
  }

  /// What was appended, which the block takes along; nil where it was nothing.
  mutating func block(behind start: UInt64, _ retained: RetainedBytes) -> EventBlock? {
    guard let first = batches.first, let last = batches.last else { return nil }
    let made = out
    out = EventBytes(capacity: max(Self.bytesMin, made.count + made.count / 4))
    return EventBlock(
      start: max(start, first.lsn), end: last.end, entries: entries, bytes: made,
      itemHashes: itemHashes, wantedItems: touchedItems, batches: batches, retained: retained,
      fault: core.fault)
  }

  mutating func append(
    _ records: UnsafeRawBufferPointer, _ batch: LogBatch, behind start: UInt64
  ) {
    batches.append(batch)
    var offset = 0
    // A batch holds whole records; what is none ends it.
    while offset < records.count,
      let record = unsafe JournalRecord(UnsafeRawBufferPointer(rebasing: records[offset...]))
    {
      offset += record.byteCount
      let lsn = batch.lsn &+ UInt64(offset)
      guard lsn > start, let kind = EventKind(record.kind), isWanted(record, kind) else { continue }
      if tellsOneExpiry, kind == .expired, entries.last?.kind == .expired { continue }
      append(record, kind, lsn)
    }
  }

  private mutating func append(
    _ record: JournalRecord, _ kind: EventKind, _ lsn: UInt64
  ) {
    let start = out.count
    let head = record.head
    let firstItem = itemHashes.count
    if interest.isOfSomeItems { noteItems(record, kind) }
    out.reserve(bytes: idLength + StoreLimits.referenceBytesMax, numbers: 13)
    let begun = out.begin(1, lengthBytes: lengthBytes)
    out.field(1, lsn)
    out.field(2, UInt64(kind.rawValue))
    out.field(3, seconds: head.time)
    if kind != .adjusted, kind != .removed, kind != .refused { writeID(record) }
    let reference = record.reference
    let referenceStart = out.count - begun
    unsafe out.field(5, reference.pointer)
    // Most have one line, which stands in the event twice.
    let first = head.lineCount > 0 ? record.namedLine(0, core) : nil
    switch kind {
    case .held, .extended, .replaced:
      writeReservation(record, head, first, endsAt: record.expiresAt)
    case .confirmed, .released: writeReservation(record, head, first, endsAt: nil)
    case .expired: writeReservation(record, head, first, endsAt: record.fellDueAt)
    case .adjusted, .removed:
      if record.isGroup {
        record.forEachChange { write($0.level, setsSale: false) }
      } else {
        write(record.level, setsSale: record.setsSale)
      }
      let reason = record.reason
      if record.kind == .imported {
        writeImport(record.key)
      } else {
        out.reserve(bytes: reason.count, numbers: 1)
        unsafe out.field(11, reason.pointer)
      }
    case .refused: writeRefusal(record, head, first)
    }
    if kind != .refused, let first {
      writeLevel(first, lsn)
      for index in 1..<head.lineCount { writeLevel(record.namedLine(index, core), lsn) }
    }
    let openLength = out.count - begun
    let (caller, key) = unsafe (head.caller, head.key)
    out.reserve(bytes: caller.count + key.count, numbers: 2)
    unsafe out.field(9, caller)
    unsafe out.field(10, key)
    let content = out.end(begun, lengthBytes: lengthBytes)
    lengthBytes = content - start - 1
    entries.append(
      EventBlock.Entry(
        lsn: lsn, start: UInt32(start), content: UInt32(content),
        openEnd: UInt32(content + openLength), end: UInt32(out.count),
        firstItem: UInt32(firstItem), itemCount: UInt32(itemHashes.count - firstItem),
        batch: UInt32(batches.count - 1), kind: kind,
        referenceCount: UInt8(clamping: reference.count),
        // Behind tag and length: a byte each, since a reference has no more than 64.
        referenceStart: UInt16(clamping: referenceStart + 2)))
  }

  // MARK: Who wants it

  private mutating func isWanted(_ record: JournalRecord, _ kind: EventKind) -> Bool {
    guard interest.takes(kind) else { return false }
    if interest.isOfAllItems { return true }
    switch kind {
    case .adjusted, .removed:
      if !record.isGroup { return isWanted(record.level.item.ordinal) }
      var isAnyWanted = false
      record.forEachChange {
        if !isAnyWanted { isAnyWanted = isWanted($0.level.item.ordinal) }
      }
      return isAnyWanted
    case .refused:
      var isWanted = false
      Self.forEachItem(ofRefusal: record, core) { isWanted = isWanted || interest.takes(item: $0) }
      return isWanted
    default: return (0..<record.lineCount).contains { isWanted(record.line($0).ordinal) }
    }
  }

  private mutating func isWanted(_ ordinal: UInt32) -> Bool {
    let index = Int(ordinal)
    if index >= wantedItems.count {
      wantedItems += repeatElement(.unknown, count: index + 1 - wantedItems.count)
    }
    switch wantedItems[index] {
    case .yes: return true
    case .no: return false
    case .unknown:
      let isWanted = interest.takes(item: Self.hash(ordinal, core))
      wantedItems[index] = isWanted ? .yes : .no
      return isWanted
    }
  }

  /// Notes what items the event touches, for the filters.
  private mutating func noteItems(_ record: JournalRecord, _ kind: EventKind) {
    switch kind {
    case .adjusted, .removed:
      if !record.isGroup { return note(Self.hash(record.level.item.ordinal, core)) }
      record.forEachChange { note(Self.hash($0.level.item.ordinal, core)) }
    case .refused: Self.forEachItem(ofRefusal: record, core) { note($0) }
    default: for index in 0..<record.lineCount { note(Self.hash(record.line(index).ordinal, core)) }
    }
  }

  private mutating func note(_ item: UInt64) {
    itemHashes.append(item)
    if interest.takes(item: item) { touchedItems.insert(item) }
  }

  private static func forEachItem(
    ofRefusal record: JournalRecord, _ core: StoreCore, _ body: (UInt64) -> Void
  ) {
    for index in 0..<record.lineCount { body(hash(record.line(index).ordinal, core)) }
    switch record.refusal {
    case .insufficientStock(let item, _, _), .insufficientCommitted(let item, _, _),
      .limitExceeded(let item, _, _), .itemNotEmpty(let item, _, _, _):
      // Of an adjustment, which has no lines.
      if record.lineCount == 0 { body(hash(item.ordinal, core)) }
    case .itemsNotFound, .lineNotFound: body(core.keys.itemHash(record.name))
    default: break
    }
  }

  private static func hash(_ ordinal: UInt32, _ core: StoreCore) -> UInt64 {
    core.keys.itemHash(core.items.name(ordinal))
  }

  // MARK: Parts

  private mutating func writeID(_ record: JournalRecord) {
    let id = record.reservationID(core)
    out.field(4, length: idLength) { id.write(to: &$0) }
  }

  private mutating func writeReservation(
    _ record: JournalRecord, _ head: RecordHead, _ first: NamedLine?, endsAt: Int64?
  ) {
    writeLines(record, head, first)
    if let endsAt {
      out.reserve(bytes: 0, numbers: 3)
      out.field(7, seconds: endsAt)
    }
  }

  private mutating func writeRefusal(
    _ record: JournalRecord, _ head: RecordHead, _ first: NamedLine?
  ) {
    writeLines(record, head, first)
    out.reserve(bytes: 32, numbers: 1)
    switch record.refusal {
    case .insufficientStock: out.field(11, "INSUFFICIENT_STOCK")
    case .itemsNotFound, .lineNotFound: out.field(11, "ITEM_NOT_FOUND")
    case .onHandLimit: out.field(11, "ON_HAND_LIMIT")
    case .notOnSale: out.field(11, "NOT_ON_SALE")
    case .insufficientCommitted: out.field(11, "INSUFFICIENT_COMMITTED")
    case .limitExceeded: out.field(11, "LIMIT_EXCEEDED")
    case .itemNotEmpty: out.field(11, "ITEM_NOT_EMPTY")
    default: break
    }
  }

  private mutating func writeLines(
    _ record: JournalRecord, _ head: RecordHead, _ first: NamedLine?
  ) {
    guard let first else { return }
    write(first)
    for index in 1..<head.lineCount { write(record.namedLine(index, core)) }
  }

  /// Of a confirm in parts, the record has lines of which nothing was sold.
  private mutating func write(_ line: NamedLine) {
    guard line.quantity != 0 else { return }
    let start = beginItem(6, line)
    out.field(3, line.quantity)
    out.end(start)
  }

  /// Begins a submessage with an item's name: fields 1 and 2, and room for six numbers more.
  private mutating func beginItem(_ number: UInt8, _ line: NamedLine) -> Int {
    let (sku, location) = unsafe (line.sku, line.location)
    out.reserve(bytes: sku.count + location.count, numbers: 9)
    let start = out.begin(number)
    unsafe out.field(1, sku)
    unsafe out.field(2, location)
    return start
  }

  private mutating func writeLevel(_ line: NamedLine, _ lsn: UInt64) {
    // Of what a Replace keeps, the item has seen nothing.
    if line.version == 0 { return }
    // First what it is now: whoever changes it tells of that before.
    let current = line.safetyStockNow
    let safetyStock =
      core.fault == .watchSafetyStockNow
      ? current : changes.value(of: line.ordinal, at: lsn, current: current)
    let start = beginItem(8, line)
    out.field(3, line.onHand)
    out.field(4, line.held)
    out.field(5, safetyStock)
    out.field(6, line.onHand - line.held - line.committed - safetyStock)
    out.field(7, line.version)
    out.field(8, line.committed)
    out.end(start)
  }

  /// The reason of an import's rows: "import" and its id.
  private mutating func writeImport(_ id: BorrowedBytes) {
    out.reserve(bytes: 7 + id.count, numbers: 1)
    let text = unsafe id.pointer
    out.field(11, length: 7 + id.count) { span in
      let word: StaticString = "import "
      for index in 0..<7 { span[index] = unsafe word.utf8Start[index] }
      for index in 0..<id.count { span[7 + index] = unsafe text[index] }
    }
  }

  /// Of an adjustment. Only where it has set the sale window is that told.
  private mutating func write(_ level: StockLevel, setsSale: Bool) {
    let name = core.items.name(level.item.ordinal)
    out.reserve(bytes: name.sku.count + name.location.count, numbers: 9)
    let start = out.begin(8)
    unsafe out.field(1, name.sku.pointer)
    unsafe out.field(2, name.location.pointer)
    out.field(3, level.onHand)
    out.field(4, level.held)
    out.field(5, level.safetyStock)
    out.field(6, level.available)
    out.field(7, level.version)
    out.field(8, level.committed)
    if setsSale { write(level.sale) }
    out.end(start)
  }

  private mutating func write(_ sale: SaleWindow) {
    out.reserve(bytes: 0, numbers: 9)
    let start = out.begin(9)
    if let from = sale.from { write(1, from) }
    if let until = sale.until { write(2, until) }
    if sale.isFrozen { out.field(3, 1 as UInt64) }
    out.end(start)
  }

  /// A google.protobuf.Timestamp: seconds = 1, nanos = 2.
  private mutating func write(_ number: UInt8, _ instant: SaleWindow.Instant) {
    let start = out.begin(number)
    out.field(1, instant.seconds)
    out.field(2, instant.nanoseconds)
    out.end(start)
  }
}

extension EventKind {
  /// nil for a record that is no decision.
  init?(_ kind: RecordWriter.Kind) {
    switch kind {
    case .held: self = .held
    case .replaced: self = .replaced
    case .refused: self = .refused
    case .adjusted, .adjustedTogether, .imported: self = .adjusted
    case .removed: self = .removed
    case .confirmed: self = .confirmed
    case .released: self = .released
    case .expired: self = .expired
    case .extended: self = .extended
    case .clock: return nil
    }
  }
}
