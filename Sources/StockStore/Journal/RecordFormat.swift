// One decision as the journal keeps it. All numbers are little endian.
//
//   offset  bytes
//        0      4  length of the whole record, a multiple of 8
//        4      1  kind (RecordWriter.Kind)
//        5      1  number of lines
//        6      1  length of the key         (held, refused, adjusted; else 0)
//        7      1  length of the caller      (the same; confirmed, released, extended: who decided
//                  it, 0 where it came without a name and in records of versions that did not say)
//        8      8  time of the decision, nanoseconds since the Unix epoch
//       16      4  slot of the decision's record (but for clock)
//       20      4  generation of the slot
//       24      8  held, refused, adjusted: fingerprint of the payload
//                  confirmed, released, expired, extended: tag of the reservation's id (the first
//                  release: 0)
//       32      8  held, extended: when the hold ends
//                  confirmed: 1 if an expired hold was taken again, else 0
//                  expired: when it fell due
//       40     24  refused: see below          72  adjusted: see below
//        …     36  for each line: item 4, quantity 8, and after it the item's version 8, on hand 8, held 8
//                  held: units held; confirmed: units sold; released, expired: units given back
//        …     12  for each line, where refused: item 4, quantity 8
//        …     20  for each further item that lacks units: item 4, requested 8, available 8
//        …         key, caller, then SKU and location, then the reason; zeros up to the length
//
//   refused, from 40:
//        0      1  method (StoreKeys.Method)      1  1  what was refused (RecordKind)
//        2      1  length of the SKU, or, for lack of units, how many further items lack some
//        3      1  length of the location
//        4      4  item; of unknown items the place of the first, or the number of the line (7)
//        8      8  units requested, or the places of all unknown items as bits
//       16      8  units available
//   Places are those of the command's items in the order of their hashes.
//
//   adjusted, from 40:
//        0      1  0 none, 1 delta, 2 set         1  1  flags: 1 safety stock, 2 expected version
//        2      1  length of the SKU              3  1  length of the location
//        4      4  length of the reason           8  8  delta, or units set
//       16      8  safety stock asked for        24  8  version expected
//       32      8  item                          40  8  version after
//       48      8  on hand after                 56  8  held
//       64      8  safety stock after
//
// SKU and location stand where the item was made by the decision, and where it is unknown. A record is
// valid if and only if its kind is known, its parts come to its length, rounded up to 8, and its batch is
// valid (JournalFormat.swift).

/// Builds one record in memory of its own, before anything is locked.
@safe struct RecordWriter: ~Copyable {
  enum Kind: UInt8 {
    case held = 1
    case refused, adjusted, confirmed, released, expired, extended
    /// No decision: says what time it is.
    case clock
  }

  static let headBytes = 40
  static let lineBytes = 36
  static let refusedLineBytes = 12
  static let shortageBytes = 20
  static let refusedBytes = 24
  static let adjustedBytes = 72
  /// 64 lines, and every text at the most that one byte of length can say; the reason is cut to it.
  static let byteCountMax = 4096
  static let reasonBytesMax = 512

  private let memory: UnsafeMutableRawPointer
  private var count = 0
  private(set) var kind = Kind.clock

  init() { unsafe memory = .allocate(byteCount: Self.byteCountMax, alignment: 8) }

  deinit { unsafe memory.deallocate() }

  /// The record, good until the next is begun.
  var bytes: UnsafeRawBufferPointer {
    @inline(__always) get { unsafe UnsafeRawBufferPointer(start: memory, count: count) }
  }

  // MARK: Whole records

  /// A record of the time: clock.
  mutating func begin(_ kind: Kind, time: Int64) {
    begin(
      kind, time: time, slot: 0, generation: 0, fingerprint: 0, value: 0, lineCount: 0, scope: nil)
    end(at: Self.headBytes)
  }

  /// A record without key: confirmed, released, expired, extended. The lines are set later.
  /// - Parameter caller: who decided it; empty for expired, which nobody decides.
  mutating func begin(
    _ kind: Kind, time: Int64, slot: UInt32, generation: UInt32, tag: UInt64, value: Int64,
    lineCount: Int, caller: BorrowedBytes
  ) {
    begin(
      kind, time: time, slot: slot, generation: generation, fingerprint: tag, value: value,
      lineCount: lineCount, scope: IdempotencyScope(caller: caller, key: .empty))
    var offset = Self.headBytes + lineCount * Self.lineBytes
    append(caller, at: &offset)
    end(at: offset)
  }

  /// The lines are set later.
  mutating func beginHeld(
    time: Int64, slot: UInt32, generation: UInt32, fingerprint: UInt64, expiresAt: Int64,
    lineCount: Int, scope: IdempotencyScope
  ) {
    begin(
      .held, time: time, slot: slot, generation: generation, fingerprint: fingerprint,
      value: expiresAt, lineCount: lineCount, scope: scope)
    var offset = Self.headBytes + lineCount * Self.lineBytes
    append(scope.key, at: &offset)
    append(scope.caller, at: &offset)
    end(at: offset)
  }

  /// - Parameters:
  ///   - further: other items that lack units, for `insufficientStock`, which has no name.
  ///   - name: of the first item that is unknown.
  mutating func beginRefused(
    _ method: StoreKeys.Method, _ refusal: RecordedRefusal, time: Int64, slot: UInt32,
    generation: UInt32, fingerprint: UInt64, scope: IdempotencyScope, lines: borrowing WriteSet,
    further: borrowing RefusalList, name: ItemName?
  ) {
    begin(
      .refused, time: time, slot: slot, generation: generation, fingerprint: fingerprint, value: 0,
      lineCount: lines.count, scope: scope)
    var kind = RecordKind.refusedOnHandLimit
    var item: UInt32 = 0
    var requestedUnits: Int64 = 0
    var availableUnits: Int64 = 0
    var nameCounts = (
      UInt8(clamping: name?.sku.count ?? 0), UInt8(clamping: name?.location.count ?? 0)
    )
    switch refusal {
    case .insufficientStock(let handle, let requested, let available):
      kind = .refusedInsufficientStock
      item = handle.ordinal
      requestedUnits = requested
      availableUnits = available
      nameCounts = (UInt8(truncatingIfNeeded: further.count), 0)
    case .itemsNotFound(let first, let places):
      kind = .refusedItemsNotFound
      item = UInt32(clamping: first)
      requestedUnits = Int64(bitPattern: places)
    case .lineNotFound(let line):
      kind = .refusedLineNotFound
      item = UInt32(clamping: line)
    case .onHandLimit: break
    }
    store(UInt8(truncatingIfNeeded: method.rawValue), at: 40)
    store(kind.rawValue, at: 41)
    store(nameCounts.0, at: 42)
    store(nameCounts.1, at: 43)
    store(item, at: 44)
    store(requestedUnits, at: 48)
    store(availableUnits, at: 56)
    var offset = Self.headBytes + Self.refusedBytes
    for index in 0..<lines.count {
      store(lines[index].ordinal, at: offset)
      store(lines[index].required, at: offset + 4)
      offset += Self.refusedLineBytes
    }
    if kind == .refusedInsufficientStock {
      for index in 0..<further.count {
        guard case .insufficientStock(let item, let requested, let available) = further[index]
        else { preconditionFailure("the further refusals are not of the first one's kind") }
        store(item.ordinal, at: offset)
        store(requested, at: offset + 4)
        store(available, at: offset + 12)
        offset += Self.shortageBytes
      }
    }
    append(scope.key, at: &offset)
    append(scope.caller, at: &offset)
    append(name, at: &offset)
    end(at: offset)
  }

  /// - Parameters:
  ///   - name: of an item that the decision makes.
  ///   - level: the balances after.
  mutating func beginAdjusted(
    _ command: AdjustCommand, time: Int64, slot: UInt32, generation: UInt32, fingerprint: UInt64,
    level: StockLevel, name: ItemName?
  ) {
    begin(
      .adjusted, time: time, slot: slot, generation: generation, fingerprint: fingerprint,
      value: 0, lineCount: 0, scope: command.scope)
    var change: (kind: UInt8, units: Int64) = (0, 0)
    switch command.change {
    case .none: break
    case .delta(let units): change = (1, units)
    case .setOnHand(let units): change = (2, units)
    }
    let flags: UInt8 =
      (command.safetyStock == nil ? 0 : 1) | (command.expectedVersion == nil ? 0 : 2)
    let reasonCount = min(command.reason.count, Self.reasonBytesMax)
    store(change.kind, at: 40)
    store(flags, at: 41)
    store(UInt8(clamping: name?.sku.count ?? 0), at: 42)
    store(UInt8(clamping: name?.location.count ?? 0), at: 43)
    store(UInt32(truncatingIfNeeded: reasonCount), at: 44)
    store(change.units, at: 48)
    store(command.safetyStock ?? 0, at: 56)
    store(command.expectedVersion ?? 0, at: 64)
    store(UInt64(level.item.ordinal), at: 72)
    store(level.version, at: 80)
    store(level.onHand, at: 88)
    store(level.held, at: 96)
    store(level.safetyStock, at: 104)
    var offset = Self.headBytes + Self.adjustedBytes
    append(command.scope.key, at: &offset)
    append(command.scope.caller, at: &offset)
    append(name, at: &offset)
    append(command.reason, at: &offset, bytesMax: Self.reasonBytesMax)
    end(at: offset)
  }

  // MARK: Parts

  /// Line `index` of a held, confirmed, released or expired record: what becomes of one item.
  @inline(__always)
  mutating func setLine(
    _ index: Int, ordinal: UInt32, quantity: Int64, version: UInt64, onHand: Int64, held: Int64
  ) {
    let offset = Self.headBytes + index * Self.lineBytes
    store(ordinal, at: offset)
    store(quantity, at: offset + 4)
    store(version, at: offset + 12)
    store(onHand, at: offset + 20)
    store(held, at: offset + 28)
  }

  @inline(__always)
  private mutating func begin(
    _ kind: Kind, time: Int64, slot: UInt32, generation: UInt32, fingerprint: UInt64, value: Int64,
    lineCount: Int, scope: IdempotencyScope?
  ) {
    self.kind = kind
    store(kind.rawValue, at: 4)
    store(UInt8(truncatingIfNeeded: lineCount), at: 5)
    store(UInt8(clamping: scope?.key.count ?? 0), at: 6)
    store(UInt8(clamping: scope?.caller.count ?? 0), at: 7)
    store(time, at: 8)
    store(slot, at: 16)
    store(generation, at: 20)
    store(fingerprint, at: 24)
    store(value, at: 32)
  }

  /// Ends the record behind what stands before `offset`.
  @inline(__always)
  private mutating func end(at offset: Int) {
    let padded = (offset + 7) & ~7
    // Bytes of an earlier record must not get into the journal. Most ends are not a multiple of 8.
    for index in offset..<padded { store(UInt8(0), at: index) }
    count = padded
    store(UInt32(truncatingIfNeeded: padded), at: 0)
  }

  @inline(__always)
  private mutating func append(_ text: BorrowedBytes, at offset: inout Int, bytesMax: Int = 255) {
    let count = min(text.count, bytesMax)
    guard count > 0, let base = unsafe text.pointer.baseAddress else { return }
    precondition(offset + count <= Self.byteCountMax, "a record is longer than its parts allow")
    unsafe (memory + offset).copyMemory(from: base, byteCount: count)
    offset += count
  }

  private mutating func append(_ name: ItemName?, at offset: inout Int) {
    guard let name else { return }
    append(name.sku, at: &offset)
    append(name.location, at: &offset)
  }

  @inline(__always)
  private mutating func store<Value: BitwiseCopyable>(_ value: Value, at offset: Int) {
    assert(offset >= 0 && offset + MemoryLayout<Value>.size <= Self.byteCountMax)
    unsafe memory.storeBytes(of: value, toByteOffset: offset, as: Value.self)
  }
}

/// A record that was read: every part of it lies within its bytes. Good as long as these are.
@safe struct JournalRecord {
  /// Of one line; version and balances are the item's after the decision.
  struct Line {
    var ordinal: UInt32
    var quantity: Int64
    var version: UInt64
    var onHand: Int64
    var held: Int64
  }

  private let base: UnsafeRawPointer
  /// Bytes of the whole record.
  let byteCount: Int
  let kind: RecordWriter.Kind

  /// The record at the beginning of `bytes`; nil where there is no valid one.
  init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= RecordWriter.headBytes, let base = bytes.baseAddress else { return nil }
    unsafe self.base = base
    let length = unsafe base.loadUnaligned(as: UInt32.self)
    guard length <= bytes.count, length >= RecordWriter.headBytes, length % 8 == 0,
      let kind = RecordWriter.Kind(
        rawValue: unsafe base.loadUnaligned(fromByteOffset: 4, as: UInt8.self))
    else { return nil }
    byteCount = Int(length)
    self.kind = kind
    guard fixedEnd <= byteCount, (textEnd + 7) & ~7 == byteCount else { return nil }
  }

  var lineCount: Int { Int(byte(5)) }
  var time: Int64 { load(8) }
  var slot: UInt32 { load(16) }
  var generation: UInt32 { load(20) }
  var fingerprint: UInt64 { load(24) }
  /// Of the reservation's id, where it changes; 0 where the first release has written the record.
  var idTag: UInt64 { fingerprint & (1 << ReservationID.tagBits - 1) }
  /// See the table above.
  var value: Int64 { load(32) }

  /// Line `index`, from 0 to `lineCount` - 1; nothing but item and quantity where refused.
  @inline(__always)
  func line(_ index: Int) -> Line {
    precondition(index >= 0 && index < lineCount, "no such line")
    let offset = linesOffset + index * lineBytes
    if kind == .refused {
      return Line(
        ordinal: load(offset), quantity: load(offset + 4), version: 0, onHand: 0, held: 0)
    }
    return Line(
      ordinal: load(offset), quantity: load(offset + 4), version: load(offset + 12),
      onHand: load(offset + 20), held: load(offset + 28))
  }

  // MARK: Refused

  /// Under which method's key; nil where it is none of them.
  var refusedMethod: StoreKeys.Method? { StoreKeys.Method(rawValue: UInt64(byte(40))) }

  /// nil where it is no refusal that is recorded.
  var refusal: RecordedRefusal? {
    guard kind == .refused else { return nil }
    let item: UInt32 = load(44)
    switch refusedKind {
    case .refusedInsufficientStock:
      return .insufficientStock(
        item: ItemHandle(ordinal: item), requested: load(48), available: load(56))
    case .refusedItemsNotFound: return .itemsNotFound(first: Int(item), places: load(48))
    case .refusedLineNotFound: return .lineNotFound(Int(item))
    case .refusedOnHandLimit: return .onHandLimit
    default: return nil
    }
  }

  /// Items that lack units, besides the first.
  var shortageCount: Int {
    // init asks for this only where the record has these bytes.
    kind == .refused && refusedKind == .refusedInsufficientStock ? Int(byte(42)) : 0
  }

  /// Shortage `index`, from 0 to `shortageCount` - 1.
  func shortage(_ index: Int) -> Shortage {
    precondition(index >= 0 && index < shortageCount, "no such shortage")
    let offset = linesOffset + lineCount * lineBytes + index * RecordWriter.shortageBytes
    return Shortage(
      item: ItemHandle(ordinal: load(offset)), requested: load(offset + 4),
      available: load(offset + 12))
  }

  private var refusedKind: RecordKind? { RecordKind(rawValue: byte(41)) }

  // MARK: Adjusted

  /// nil where it is no change that there is.
  var change: AdjustCommand.Change? {
    switch byte(40) {
    case 0: AdjustCommand.Change.none
    case 1: .delta(load(48))
    case 2: .setOnHand(load(48))
    default: nil
    }
  }
  var safetyStockAsked: Int64? { byte(41) & 1 == 0 ? nil : load(56) }
  var expectedVersion: UInt64? { byte(41) & 2 == 0 ? nil : load(64) }

  /// The balances after.
  var level: StockLevel {
    let ordinal: UInt64 = load(72)
    return StockLevel(
      item: ItemHandle(ordinal: UInt32(clamping: ordinal)), onHand: load(88), held: load(96),
      safetyStock: load(104), version: load(80))
  }

  // MARK: Texts

  var key: BorrowedBytes { text(textOffset, Int(byte(6))) }
  var caller: BorrowedBytes { text(textOffset + Int(byte(6)), Int(byte(7))) }
  /// Empty where the record has none.
  var name: ItemName {
    let offset = textOffset + Int(byte(6)) + Int(byte(7))
    return ItemName(
      sku: text(offset, nameCounts.sku),
      location: text(offset + nameCounts.sku, nameCounts.location))
  }
  var reason: BorrowedBytes {
    text(
      textOffset + Int(byte(6)) + Int(byte(7)) + nameCounts.sku + nameCounts.location, reasonCount)
  }

  // MARK: Layout

  private var partBytes: Int {
    switch kind {
    case .refused: RecordWriter.refusedBytes
    case .adjusted: RecordWriter.adjustedBytes
    default: 0
    }
  }
  private var linesOffset: Int { RecordWriter.headBytes + partBytes }
  private var lineBytes: Int {
    kind == .refused ? RecordWriter.refusedLineBytes : RecordWriter.lineBytes
  }
  /// The end of what is at fixed places, lines included: nothing before it may be read until it is
  /// known to lie within the record.
  private var fixedEnd: Int {
    linesOffset + lineCount * lineBytes
      + (kind == .refused && byteCount >= linesOffset
        ? shortageCount * RecordWriter.shortageBytes : 0)
  }
  private var textOffset: Int { fixedEnd }
  private var textEnd: Int {
    textOffset + Int(byte(6)) + Int(byte(7)) + nameCounts.sku + nameCounts.location + reasonCount
  }
  private var nameCounts: (sku: Int, location: Int) {
    if partBytes == 0 || shortageCount > 0 { return (0, 0) }
    return (Int(byte(42)), Int(byte(43)))
  }
  private var reasonCount: Int {
    guard kind == .adjusted else { return 0 }
    let count: UInt32 = load(44)
    return Int(count)
  }

  @inline(__always)
  private func byte(_ offset: Int) -> UInt8 {
    unsafe base.loadUnaligned(fromByteOffset: offset, as: UInt8.self)
  }

  /// Everything that is loaded lies before `fixedEnd`, which init has found within the record.
  @inline(__always)
  private func load<Value: BitwiseCopyable>(_ offset: Int) -> Value {
    unsafe base.loadUnaligned(fromByteOffset: offset, as: Value.self)
  }

  private func text(_ offset: Int, _ count: Int) -> BorrowedBytes {
    // init has found that all texts end within the record.
    unsafe BorrowedBytes(
      (base + offset).assumingMemoryBound(to: UInt8.self), count: count)
  }
}
