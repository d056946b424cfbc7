// Reads one record of the journal. RecordFormat.swift has the byte table and writes it.

/// A record that was read: every part of it lies within its bytes. Good as long as these are.
@safe package struct JournalRecord: BitwiseCopyable {
  /// Of one line; version and balances are the item's after the decision.
  package struct Line {
    package var ordinal: UInt32
    package var quantity: Int64
    package var version: UInt64
    package var onHand: Int64
    package var held: Int64
    package var committed: Int64
  }

  private let base: UnsafeRawPointer
  /// Bytes of the whole record.
  package let byteCount: Int
  package let kind: RecordWriter.Kind
  /// Where the parts begin; 0 where there are none.
  private var partsOffset = 0

  /// The record at the beginning of `bytes`; nil where there is no valid one.
  package init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= RecordWriter.headBytes, let base = bytes.baseAddress else { return nil }
    unsafe self.base = base
    let length = unsafe UInt32(littleEndian: base.loadUnaligned(as: UInt32.self))
    guard length <= bytes.count, length >= RecordWriter.headBytes, length % 8 == 0,
      let kind = RecordWriter.Kind(
        rawValue: unsafe base.loadUnaligned(fromByteOffset: 4, as: UInt8.self))
    else { return nil }
    byteCount = Int(length)
    self.kind = kind
    guard fixedEnd <= byteCount else { return nil }
    let end = textEnd
    if end < byteCount, byte(end) != 0 {
      partsOffset = end
      guard let partsEnd, (partsEnd + 7) & ~7 == byteCount else { return nil }
    } else if (end + 7) & ~7 != byteCount {
      return nil
    }
    if isGroup, !hasWholeChanges { return nil }
  }

  package var lineCount: Int { isGroup ? 0 : Int(byte(5)) }
  package var time: Int64 { load(8) }
  package var slot: UInt32 { load(16) }
  package var generation: UInt32 { load(20) }
  package var fingerprint: UInt64 { load(24) }
  /// Of the reservation's id, where it changes; 0 where the first release has written the record.
  package var idTag: UInt64 { fingerprint & (1 << ReservationID.tagBits - 1) }

  private static let lackOfUnits = RecordKind.refusedInsufficientStock.rawValue

  private var isRefused: Bool { kind == .refused }

  // MARK: The number at 32, by kind

  /// Held, extended, replaced: when the hold ends.
  package var expiresAt: Int64 {
    kind == .replaced ? number(.replaced, .replaced) : number(.held, .extended)
  }
  /// Confirmed: whether an expired hold was taken again.
  package var isTakenAgain: Bool {
    kind == .confirmed && number(.confirmed, .confirmed) & 1 != 0
  }
  /// Confirmed: whether the units stay on hand as committed.
  package var keepsCommitted: Bool {
    kind == .confirmed && number(.confirmed, .confirmed) & 2 != 0
  }
  /// Expired: when it fell due.
  package var fellDueAt: Int64 { number(.expired, .expired) }

  /// Adjusted: the safety stock before, where it was asked for of an item that there was; nil in records of
  /// versions that did not say. Removed: the safety stock before.
  package var safetyStockBefore: Int64? {
    if kind == .removed { return level.safetyStock }
    let value = number(.adjusted, .adjusted)
    return value == 0 ? nil : value > 0 ? value - 1 : value
  }

  private func number(_ kind: RecordWriter.Kind, _ other: RecordWriter.Kind) -> Int64 {
    assert(self.kind == kind || self.kind == other, "another kind has another number there")
    return load(32)
  }

  /// Line `index`, from 0 to `lineCount` - 1; nothing but item and quantity where refused.
  @inline(__always)
  package func line(_ index: Int) -> Line {
    precondition(index >= 0 && index < lineCount, "no such line")
    let offset = linesOffset + index * lineBytes
    if isRefused {
      return Line(
        ordinal: load(offset), quantity: load(offset + 4), version: 0, onHand: 0, held: 0,
        committed: 0)
    }
    return Line(
      ordinal: load(offset), quantity: load(offset + 4), version: load(offset + 12),
      onHand: load(offset + 20), held: load(offset + 28),
      committed: partsOffset == 0 ? 0 : number(.committed, index) ?? 0)
  }

  // MARK: Reservations

  /// The id of the reservation that a held, replaced, confirmed, released, expired or extended record is about.
  package func reservationID(_ core: StoreCore) -> ReservationID {
    if kind == .replaced { return replacedID }
    let useHash = core.keys.useHash(slot: slot, generation: generation)
    let tag =
      kind == .held
      ? core.idTag(
        useHash, core.keys.identity(.reserve, IdempotencyScope(caller: caller, key: key)),
        createdAt: time)
      : idTag == 0 ? StoreKeys.firstReleaseTag(useHash) : idTag
    return ReservationID(slot: slot, generation: generation, tag: tag)
  }

  // MARK: Replaced

  /// The reservation that has other lines.
  package var replacedID: ReservationID {
    ReservationID(
      slot: load(40), generation: load(44), tag: load(48) & (1 << ReservationID.tagBits - 1))
  }
  /// When it was made.
  package var reservationCreatedAt: Int64 { load(64) }

  // MARK: Refused

  /// Under which method's key; nil where it is none of them.
  package var refusedMethod: StoreKeys.Method? { StoreKeys.Method(rawValue: UInt64(byte(40))) }

  /// nil where it is no refusal that is recorded.
  package var refusal: RecordedRefusal? {
    guard isRefused else { return nil }
    let item: UInt32 = load(44)
    switch refusedKind {
    case .refusedInsufficientStock:
      return .insufficientStock(
        item: ItemHandle(ordinal: item), requested: load(48), available: load(56))
    case .refusedItemsNotFound: return .itemsNotFound(first: Int(item), places: load(48))
    case .refusedLineNotFound: return .lineNotFound(Int(item))
    case .refusedOnHandLimit: return .onHandLimit(change: Int(item))
    case .refusedItemNotEmpty:
      return .itemNotEmpty(
        item: ItemHandle(ordinal: item), onHand: load(48), held: load(56),
        committed: number(.adjustment, 0) ?? 0)
    case .refusedNotOnSale:
      return sale(0).map { .notOnSale(item: ItemHandle(ordinal: item), $0.window) }
    case .refusedInsufficientCommitted:
      return .insufficientCommitted(
        item: ItemHandle(ordinal: item), requested: load(48), committed: load(56))
    case .refusedLimitExceeded:
      return .limitExceeded(
        item: ItemHandle(ordinal: item), requested: load(48), used: load(56))
    default: return nil
    }
  }

  /// Items that lack units, besides the first.
  package var shortageCount: Int {
    // init asks for this only where the record has these bytes.
    isRefused && byte(41) == Self.lackOfUnits ? Int(byte(42)) : 0
  }

  /// Shortage `index`, from 0 to `shortageCount` - 1.
  package func shortage(_ index: Int) -> Shortage {
    precondition(index >= 0 && index < shortageCount, "no such shortage")
    let offset = linesOffset + lineCount * lineBytes + index * RecordWriter.shortageBytes
    return Shortage(
      item: ItemHandle(ordinal: load(offset)), requested: load(offset + 4),
      available: load(offset + 12))
  }

  /// Items that are not on sale, where that is why; the refusal names the first.
  package var closedSaleCount: Int {
    isRefused ? (range(.sale)?.count ?? 0) / RecordWriter.saleBytes : 0
  }

  /// One of them, from 0 to `closedSaleCount` - 1.
  package func closedSale(_ index: Int) -> ClosedSale {
    guard let sale = sale(index) else { preconditionFailure("no such item") }
    return sale
  }

  /// Entry `index` of the sale windows; nil where there is none.
  private func sale(_ index: Int) -> ClosedSale? {
    guard let range = range(.sale), range.count >= RecordWriter.saleBytes * (index + 1) else {
      return nil
    }
    let offset = range.lowerBound + RecordWriter.saleBytes * index
    return ClosedSale(
      item: ItemHandle(ordinal: load(offset)),
      window: SaleWindow(
        fromWord: load(offset + 8), untilWord: load(offset + 16), lowBits: load(offset + 4)))
  }

  private var refusedKind: RecordKind? { RecordKind(rawValue: byte(41)) }

  // MARK: Adjusted, and removed

  /// nil where it is no change that there is.
  package var change: AdjustCommand.Change? {
    switch byte(40) {
    case 0: AdjustCommand.Change.none
    case 1: .delta(load(48))
    case 2: .setOnHand(load(48))
    case 3: .ship(load(48))
    case 4: .uncommit(load(48))
    default: nil
    }
  }
  package var safetyStockAsked: Int64? { byte(41) & 1 == 0 ? nil : load(56) }
  package var check: AdjustCommand.Check {
    if byte(41) & 2 != 0 { return .version(load(64)) }
    return byte(41) & 4 == 0 ? .none : .onHand(load(64))
  }
  package var allowsShortage: Bool { byte(41) & 8 != 0 }
  /// Whether the sale window is what was asked for; else it is what it was.
  package var setsSale: Bool { byte(41) & 16 != 0 }

  /// The balances after; of an item that is removed, those before, and the version after.
  package var level: StockLevel {
    let ordinal: UInt64 = load(72)
    return StockLevel(
      item: ItemHandle(ordinal: UInt32(clamping: ordinal)), onHand: load(88), held: load(96),
      committed: number(.adjustment, 0) ?? 0, safetyStock: load(104), version: load(80),
      sale: sale(0)?.window ?? .always)
  }

  // MARK: Adjusted together

  /// Changes of a group; of other records none.
  package var changeCount: Int { isGroup ? Int(byte(5)) : 0 }

  /// Imported: rows of the import that are done, and how many of them this record tells of.
  package var importedRows: (done: UInt64, here: UInt64) {
    let rows: UInt32 = load(44)
    return (UInt64(bitPattern: number(.imported, .imported)), UInt64(rows))
  }

  /// It has changes, in the place of lines.
  package var isGroup: Bool {
    @inline(__always) get { kind == .adjustedTogether || kind == .imported }
  }

  /// Calls `body` with each change of a group, in their order.
  package func forEachChange<Failure: Error>(
    _ body: (GroupChange) throws(Failure) -> Void
  ) throws(Failure) {
    if changeCount == 0 { return }
    var reader = unsafe GroupReader(changes)
    for _ in 0..<changeCount {
      // init has found them whole.
      guard let change = reader.next() else { return }
      try body(change)
    }
  }

  /// Whether there are as many changes as it says, and nothing else.
  private var hasWholeChanges: Bool {
    // Of an import's rows all may have been refused.
    let least = kind == .imported ? 0 : 1
    guard least...StoreLimits.linesMax ~= changeCount else { return false }
    var reader = unsafe GroupReader(changes)
    for _ in 0..<changeCount where reader.next() == nil { return false }
    return reader.isAtEnd
  }

  @unsafe private var changes: UnsafeRawBufferPointer {
    // They end where the texts end.
    unsafe UnsafeRawBufferPointer(start: base + textEnd - changeBytes, count: changeBytes)
  }

  // MARK: Texts

  package var key: BorrowedBytes { text(textOffset, Int(byte(6))) }
  package var caller: BorrowedBytes { text(textOffset + Int(byte(6)), Int(byte(7))) }
  /// Empty where the record has none.
  package var name: ItemName {
    let offset = textOffset + Int(byte(6)) + Int(byte(7))
    return ItemName(
      sku: text(offset, nameCounts.sku),
      location: text(offset + nameCounts.sku, nameCounts.location))
  }
  package var reason: BorrowedBytes {
    text(
      textOffset + Int(byte(6)) + Int(byte(7)) + nameCounts.sku + nameCounts.location, reasonCount)
  }

  // MARK: Parts

  /// Of the reservation, or of the adjustment; empty where it has none.
  package var reference: BorrowedBytes { part(.reference) ?? .empty }

  /// Of a hold, of a sale, or the one that a refusal is about, as LimitText has them; empty where there are none.
  package var limits: BorrowedBytes { part(.limits) ?? .empty }

  /// The reservation's revision after the decision; nil where the decision leaves it as it is, and in records
  /// of versions that knew of none.
  package var revision: UInt64? { kind == .replaced ? load(56) : number(.revision, 0) }

  /// Of a hold: what was chosen (HoldChoice). Of a refusal for lack of units: how many alternatives were tried.
  /// nil where there was nothing to choose from.
  package var choice: UInt8? { range(.choice).map { byte($0.lowerBound) } }

  /// Number `index` of a part that has one for each line, or one alone; nil where there is no such part.
  package func number<Value: FixedWidthInteger & BitwiseCopyable>(
    _ part: RecordPart, _ index: Int
  ) -> Value? {
    guard let range = range(part) else { return nil }
    precondition(index >= 0 && range.count >= 8 * (index + 1), "no such number")
    return load(range.lowerBound + 8 * index)
  }

  /// What a part says; nil where the record has none with this tag.
  package func part(_ part: RecordPart) -> BorrowedBytes? {
    range(part).map { text($0.lowerBound, $0.count) }
  }

  private func range(_ part: RecordPart) -> Range<Int>? {
    if partsOffset == 0 { return nil }
    var offset = partsOffset
    // init has found that they end within the record.
    while offset < byteCount, byte(offset) != 0 {
      let range = payloadRange(ofPartAt: offset)
      if byte(offset) == part.rawValue { return range }
      offset = range.upperBound
    }
    return nil
  }

  /// The end of the last part; nil where one is not known, comes twice, or is none that this record can have.
  private var partsEnd: Int? {
    var offset = partsOffset
    var seen: UInt64 = 0
    while offset < byteCount, byte(offset) != 0 {
      guard let part = RecordPart(rawValue: byte(offset)),
        offset + RecordPart.headBytes <= byteCount
      else { return nil }
      let range = payloadRange(ofPartAt: offset)
      let tag: UInt64 = 1 << UInt64(part.rawValue)
      guard seen & tag == 0, range.upperBound <= byteCount,
        part.canHave(byteCount: range.count, lineCount: lineCount)
      else { return nil }
      seen |= tag
      offset = range.upperBound
    }
    return offset
  }

  private func payloadRange(ofPartAt offset: Int) -> Range<Int> {
    let length: UInt16 = load(offset + 1)
    let start = offset + RecordPart.headBytes
    return start..<(start + Int(length))
  }

  // MARK: Layout

  private var fixedBytes: Int {
    @inline(__always) get {
      switch kind {
      case .refused: RecordWriter.refusedBytes
      case .adjusted, .removed: RecordWriter.adjustedBytes
      case .replaced: RecordWriter.replacedBytes
      case .adjustedTogether, .imported: RecordWriter.groupBytes
      default: 0
      }
    }
  }
  private var linesOffset: Int { RecordWriter.headBytes + fixedBytes }
  private var lineBytes: Int {
    isRefused ? RecordWriter.refusedLineBytes : RecordWriter.lineBytes
  }
  /// The end of what is at fixed places, lines included: nothing before it may be read until it is
  /// known to lie within the record.
  private var fixedEnd: Int {
    @inline(__always) get {
      linesOffset + lineCount * lineBytes
        + (isRefused && byteCount >= linesOffset
          ? shortageCount * RecordWriter.shortageBytes : 0)
    }
  }
  private var textOffset: Int { fixedEnd }
  private var textEnd: Int {
    @inline(__always) get {
      textOffset + Int(byte(6)) + Int(byte(7)) + nameCounts.sku + nameCounts.location + reasonCount
        + changeBytes
    }
  }
  private var nameCounts: (sku: Int, location: Int) {
    @inline(__always) get {
      guard kind == .refused || kind == .adjusted || kind == .removed, shortageCount == 0 else {
        return (0, 0)
      }
      return (Int(byte(42)), Int(byte(43)))
    }
  }
  private var reasonCount: Int {
    if isGroup {
      let count: UInt16 = load(42)
      return Int(count)
    }
    if kind != .adjusted && kind != .removed { return 0 }
    let count: UInt32 = load(44)
    return Int(count)
  }
  /// Of a group, all changes.
  private var changeBytes: Int {
    if !isGroup { return 0 }
    let count: UInt16 = load(40)
    return Int(count)
  }

  @inline(__always)
  private func byte(_ offset: Int) -> UInt8 {
    unsafe base.loadUnaligned(fromByteOffset: offset, as: UInt8.self)
  }

  /// Everything that is loaded lies before `fixedEnd`, or in a part: init has found them within the record.
  @inline(__always)
  private func load<Value: FixedWidthInteger & BitwiseCopyable>(_ offset: Int) -> Value {
    unsafe Value(littleEndian: base.loadUnaligned(fromByteOffset: offset, as: Value.self))
  }

  private func text(_ offset: Int, _ count: Int) -> BorrowedBytes {
    // init has found that all texts end within the record.
    unsafe BorrowedBytes(
      (base + offset).assumingMemoryBound(to: UInt8.self), count: count)
  }
}
