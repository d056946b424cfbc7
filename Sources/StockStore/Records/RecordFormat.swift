// One decision as the journal keeps it. All numbers are little endian.
//
//   offset  bytes
//        0      4  length of the whole record, a multiple of 8
//        4      1  kind: 1 held, 2 refused, 3 adjusted, 4 confirmed, 5 released, 6 expired, 7 extended,
//                  8 clock (no decision: says what time it is), 9 replaced, 10 adjusted together,
//                  11 imported, 12 removed
//        5      1  number of lines; of changes, where adjusted together or imported
//        6      1  length of the key         (held, refused, adjusted, replaced, adjusted together, removed;
//                  imported: of the import's id; else 0)
//        7      1  length of the caller      (the same; confirmed, released, extended: who decided
//                  it, 0 where it came without a name and in records of versions that did not say)
//        8      8  time of the decision, nanoseconds since the Unix epoch
//       16      4  slot of the decision's record (but for clock)
//       20      4  generation of the slot
//       24      8  held, refused, adjusted, replaced, adjusted together, removed: fingerprint of the payload
//                  confirmed, released, expired, extended: tag of the reservation's id (the first
//                  release: 0)
//       32      8  held, extended, replaced: when the hold ends
//                  confirmed: 1 if an expired hold was taken again, plus 2 if the units stay on hand as
//                  committed
//                  expired: when it fell due
//                  adjusted: where safety stock was asked for of an item that there was, what it was
//                  before, plus 1 unless it was below zero; else 0, and in records of versions that did
//                  not say
//                  imported: rows of the import that are done after it
//       40     24  refused: see below          72  adjusted: see below        32  replaced: see below
//               8  adjusted together, imported: see below
//                  removed: as adjusted, with 0 for what is not asked; balances before, version after
//        …     36  for each line: item 4, quantity 8, and after it the item's version 8, on hand 8, held 8
//                  held: units held; confirmed: units sold; released, expired: units given back;
//                  replaced: units held from now on, which may be 0 behind all that are not; version and
//                  balances 0 where the item keeps what was held of it
//        …     12  for each line, where refused: item 4, quantity 8
//        …     20  for each further item that lacks units: item 4, requested 8, available 8
//        …         key, caller, then SKU and location, then the reason; then the changes, where adjusted together or
//                  imported
//        …         parts, in any order, each tag at most once; zeros up to the length
//
//   part       0  1  tag       1  2  length of what follows
//   tag        1  reference of the reservation or the adjustment, 1 to 64 bytes: where it has one
//              2  8 for each line: units committed (sold and not shipped) of the item after the decision;
//                 without it, none are of any of the items
//              3  8, of an adjustment: units committed after; of a refusal of an item that is not empty: units
//                 committed; likewise
//              4  8: the reservation's revision after the decision
//              5  limits, one behind the other, each: units 8, length of the subject 1, the subject. Held: those of
//                 the hold; confirmed: those that the units sold count for; refused (20): the one that is passed
//              6  1: held, where it is not as asked: which alternative, from 1 (0: the lines), plus 16 where the
//                 answer told what is held; refused for lack of units, where there were alternatives: how many
//                 were tried, the lines included
//              9  24 for each sale window: item 4, then the window's 20 bytes: lower bits 4, from 8, until 8
//                 (SaleWindow.swift). Adjusted: the item's after the decision; without it, it has none. Refused
//                 because items are not on sale: theirs, that of the item at 44 first
//   The first zero that stands where a tag would ends the parts: records of the first versions have none.
//
//   refused, from 40:
//        0      1  method whose key it is: 1 Reserve, 2 AdjustStock, 3 Replace, 40 BatchAdjustStock, 42 RemoveItem
//        1      1  why: 6 lack of units, 7 an unknown line (the first release), 8 more on hand than may be,
//                  10 unknown items, 18 lack of committed units, 20 a limit, 32 not on sale, 43 an item that
//                  is not empty (the numbers of RecordKind, CheckpointFormat.swift)
//        2      1  length of the SKU, or, for lack of units, how many further items lack some
//        3      1  length of the location
//        4      4  item; of unknown items the place of the first, or the number of the line (7), or of the
//                  change (8)
//        8      8  units requested, or on hand (43), or the places of all unknown items as bits
//       16      8  units available, or committed, or those that the subject has, or held (43)
//   Places are those of the command's items in the order of their hashes.
//
//   adjusted, from 40:
//        0      1  0 none, 1 delta, 2 set, 3 ship, 4 uncommit
//        1      1  flags: 1 safety stock, 2 expected version, 4 expected on hand, 8 shortage allowed,
//                  16 sale window
//        2      1  length of the SKU              3  1  length of the location
//        4      4  length of the reason           8  8  delta, or units set, shipped, uncommitted
//       16      8  safety stock asked for        24  8  version or on hand expected
//       32      8  item                          40  8  version after
//       48      8  on hand after                 56  8  held
//       64      8  safety stock after
//
//   replaced, from 40 (slot and generation at 16 are the answer's, under the key of the Replace):
//        0      4  slot of the reservation        4  4  generation of that slot
//        8      8  tag of its id                 16  8  its revision after
//       24      8  when it was made
//
//   adjusted together, imported, from 40:
//        0      2  bytes of all changes           2  2  length of the reason
//        4      4  imported: rows that it tells of, also those that were refused; else zero
//   change     0  1  flags: 0 none, 1 delta, 2 set, 3 ship, 4 uncommit; plus 8 safety stock, 16 expected version,
//                    32 expected on hand, 64 shortage allowed, 128 the item was made by it
//   then, as numbers of seven bits a byte (Varint.swift; s: may be below zero): item, version after, on hand, held,
//   committed, safety stock (s) after; of a delta, ship or uncommit of an item that there was its units (s); the on
//   hand expected of an item that was set and that there was; safety stock (s) before, where it was asked for of an
//   item that there was. Of an item that was made, a byte each for the length of SKU and location, and these. What
//   is not said follows: what was set is what is there after, what was expected is what was there before.
//
// SKU and location stand where the item was made by the decision, and where it is unknown. A record is
// valid if and only if its kind and the tags of its parts are known, all that it has comes to its length,
// rounded up to 8, and its batch is valid (JournalFormat.swift). JournalRecord.swift reads it.
package import Log

extension RecordShape {
  /// Of the records of decisions, whatever the limits are.
  package static var decisions: RecordShape { decisions(lines: StoreLimits.linesMax) }

  /// Of the records that a store with these limits makes: what a segment and the ring must have room for.
  package static func decisions(_ limits: StoreLimits) -> RecordShape {
    decisions(lines: min(limits.linesPerReservation, StoreLimits.linesMax))
  }

  private static func decisions(lines: Int) -> RecordShape {
    RecordShape(
      bytesMax: RecordWriter.byteCountMax(lines: lines),
      uncountedKind: RecordWriter.Kind.clock.rawValue)
  }
}

extension LogRing {
  /// Appends the record, which stays as it is for the length of the call.
  @inline(__always)
  package func append(_ record: borrowing RecordWriter) -> UInt64 { unsafe append(record.bytes) }
}

/// What a record has behind its texts, by tag: only where there is something to say.
package enum RecordPart: UInt8, CaseIterable {
  case reference = 1
  case committed = 2
  case adjustment = 3
  case revision = 4
  case limits = 5
  case choice = 6
  case sale = 9

  /// Bytes before a part's payload: tag and length.
  static let headBytes = 3

  /// Whether a part of a record with `lineCount` lines can have so many bytes.
  func canHave(byteCount: Int, lineCount: Int) -> Bool {
    switch self {
    case .reference: 1...StoreLimits.referenceBytesMax ~= byteCount
    case .committed: byteCount == 8 * lineCount && lineCount > 0
    case .adjustment: byteCount == 8
    case .revision: byteCount == 8
    case .limits: LimitReader.headBytes + 1...LimitReader.bytesMax ~= byteCount
    case .choice: byteCount == 1
    case .sale: byteCount % RecordWriter.saleBytes == 0 && byteCount / RecordWriter.saleBytes <= 64
    }
  }
}

/// Builds one record in memory of its own, before anything is locked.
@safe package struct RecordWriter: ~Copyable {
  package enum Kind: UInt8, BitwiseCopyable {
    case held = 1
    case refused = 2
    case adjusted = 3
    case confirmed = 4
    case released = 5
    case expired = 6
    case extended = 7
    /// No decision: says what time it is.
    case clock = 8
    case replaced = 9
    case adjustedTogether = 10
    case imported = 11
    case removed = 12
  }

  static let headBytes = 40
  static let lineBytes = 36
  static let refusedLineBytes = 12
  static let shortageBytes = 20
  static let saleBytes = 24
  static let refusedBytes = 24
  static let adjustedBytes = 72
  static let replacedBytes = 32
  static let groupBytes = 8
  /// Of a change of a group, but for a name: kind and flags, and numbers of seven bits a byte.
  static let changeBytesMax = 46
  /// Of any record.
  package static let byteCountMax = byteCountMax(lines: StoreLimits.linesMax)

  /// The longest record of commands with so many lines, or changes: a Replace of all of them by as many others, each
  /// item with what is committed of it, or an adjustment, or a group of which some make items with the longest names;
  /// all texts at their most.
  package static func byteCountMax(lines: Int) -> Int {
    let texts = 2 * 64 + RecordPart.headBytes + StoreLimits.referenceBytesMax
    let limits = RecordPart.headBytes + LimitReader.bytesMax
    let replaced =
      replacedBytes + 2 * lines * (lineBytes + 8) + RecordPart.headBytes
    let numbers = 2 * (RecordPart.headBytes + 8)
    let adjusted = adjustedBytes + 2 * 64 + reasonBytesMax + numbers
    let names = StoreLimits.adjustedNameBytesMax(lines: lines)
    let group = groupBytes + lines * changeBytesMax + names + groupReasonBytesMax
    return (headBytes + texts + max(replaced + limits, adjusted, group) + 7) & ~7
  }

  package static let reasonBytesMax = 512
  /// Of a group.
  package static let groupReasonBytesMax = 256

  private let memory: UnsafeMutableRawPointer
  private var count = 0
  /// Where the next part goes: behind texts and parts, before the zeros.
  private var contentEnd = 0
  /// Of the part that says what is committed; 0 where the record has none.
  private var committedPlace = 0
  /// Of a group: how many changes it has, and where they begin and end.
  var groupCount = 0
  var groupStart = 0
  var groupEnd = 0
  package private(set) var kind = Kind.clock

  package init() { unsafe memory = .allocate(byteCount: Self.byteCountMax, alignment: 8) }

  deinit { unsafe memory.deallocate() }

  /// The record, good until the next is begun.
  package var bytes: UnsafeRawBufferPointer {
    @inline(__always) get { unsafe UnsafeRawBufferPointer(start: memory, count: count) }
  }

  /// The decision's slot, as the record says.
  var slot: UInt32 {
    unsafe UInt32(littleEndian: memory.load(fromByteOffset: 16, as: UInt32.self))
  }

  // MARK: Whole records

  /// A record of the time: clock.
  package mutating func begin(_ kind: Kind, time: Int64) {
    begin(
      kind, time: time, slot: 0, generation: 0, fingerprint: 0, value: 0, lineCount: 0, scope: nil)
    end(at: Self.headBytes)
  }

  /// A record without key: confirmed, released, expired, extended. The lines are set later.
  /// - Parameter caller: who decided it; empty for expired, which nobody decides.
  package mutating func begin(
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
  package mutating func beginHeld(
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
    case .onHandLimit(let change): item = UInt32(clamping: change)
    case .notOnSale(let handle, _):
      kind = .refusedNotOnSale
      item = handle.ordinal
    case .itemNotEmpty(let handle, let onHand, let held, _):
      kind = .refusedItemNotEmpty
      item = handle.ordinal
      requestedUnits = onHand
      availableUnits = held
    case .insufficientCommitted(let handle, let requested, let committed):
      kind = .refusedInsufficientCommitted
      item = handle.ordinal
      requestedUnits = requested
      availableUnits = committed
    case .limitExceeded(let handle, let requested, let used):
      kind = .refusedLimitExceeded
      item = handle.ordinal
      requestedUnits = requested
      availableUnits = used
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
    if case .itemNotEmpty(_, _, _, let committed) = refusal, committed != 0 {
      append(.adjustment, UInt64(bitPattern: committed))
    }
    if case .notOnSale(let item, let window) = refusal {
      let place = appendNumbers(.sale, count: 3 * (1 + further.count))
      setSale(0, at: place, item, window)
      for index in 0..<further.count {
        guard case .notOnSale(let item, let window) = further[index]
        else { preconditionFailure("the further refusals are not of the first one's kind") }
        setSale(index + 1, at: place, item, window)
      }
    }
  }

  /// - Parameters:
  ///   - name: of an item that the decision makes.
  ///   - level: the balances after.
  ///   - safetyStockBefore: of an item that there was.
  package mutating func beginAdjusted(
    _ command: AdjustCommand, time: Int64, slot: UInt32, generation: UInt32, fingerprint: UInt64,
    level: StockLevel, safetyStockBefore: Int64? = nil, name: ItemName?
  ) {
    beginAdjusted(
      .adjusted, command, time: time, slot: slot, generation: generation, fingerprint: fingerprint,
      level: level, safetyStockBefore: safetyStockBefore, name: name)
  }

  /// - Parameters:
  ///   - command: of which item, check and reason say how the item is removed.
  ///   - level: the balances before, which are gone, and the version after.
  package mutating func beginRemoved(
    _ command: AdjustCommand, time: Int64, slot: UInt32, generation: UInt32, fingerprint: UInt64,
    level: StockLevel
  ) {
    beginAdjusted(
      .removed, command, time: time, slot: slot, generation: generation, fingerprint: fingerprint,
      level: level, safetyStockBefore: nil, name: nil)
  }

  private mutating func beginAdjusted(
    _ kind: Kind, _ command: AdjustCommand, time: Int64, slot: UInt32, generation: UInt32,
    fingerprint: UInt64, level: StockLevel, safetyStockBefore: Int64?, name: ItemName?
  ) {
    let isAsked = command.safetyStock != nil
    begin(
      kind, time: time, slot: slot, generation: generation, fingerprint: fingerprint,
      value: isAsked ? safetyStockBefore.map { $0 < 0 ? $0 : $0 + 1 } ?? 0 : 0, lineCount: 0,
      scope: command.scope)
    var change: (kind: UInt8, units: Int64) = (0, 0)
    switch command.change {
    case .none: break
    case .delta(let units): change = (1, units)
    case .setOnHand(let units): change = (2, units)
    case .ship(let units): change = (3, units)
    case .uncommit(let units): change = (4, units)
    }
    var flags: UInt8 =
      (isAsked ? 1 : 0) | (command.allowsShortage ? 8 : 0) | (command.sale == nil ? 0 : 16)
    var expected: UInt64 = 0
    switch command.check {
    case .none: break
    case .version(let version):
      flags |= 2
      expected = version
    case .onHand(let onHand):
      flags |= 4
      expected = UInt64(bitPattern: onHand)
    }
    let reasonCount = min(command.reason.count, Self.reasonBytesMax)
    store(change.kind, at: 40)
    store(flags, at: 41)
    store(UInt8(clamping: name?.sku.count ?? 0), at: 42)
    store(UInt8(clamping: name?.location.count ?? 0), at: 43)
    store(UInt32(truncatingIfNeeded: reasonCount), at: 44)
    store(change.units, at: 48)
    store(command.safetyStock ?? 0, at: 56)
    store(expected, at: 64)
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
    append(.reference, command.reference)
    if level.committed != 0 { append(.adjustment, UInt64(bitPattern: level.committed)) }
    if !level.sale.isAlways {
      setSale(0, at: appendNumbers(.sale, count: 3), level.item, level.sale)
    }
  }

  /// The lines are set later.
  /// - Parameters:
  ///   - reservation: whose lines these are.
  ///   - createdAt: when it was made.
  ///   - slot: of the answer.
  mutating func beginReplaced(
    _ reservation: ReservationID, revision: UInt64, createdAt: Int64, time: Int64, slot: UInt32,
    generation: UInt32, fingerprint: UInt64, expiresAt: Int64, lineCount: Int,
    scope: IdempotencyScope
  ) {
    begin(
      .replaced, time: time, slot: slot, generation: generation, fingerprint: fingerprint,
      value: expiresAt, lineCount: lineCount, scope: scope)
    store(reservation.slot, at: 40)
    store(reservation.generation, at: 44)
    store(reservation.tag, at: 48)
    store(revision, at: 56)
    store(createdAt, at: 64)
    var offset = linesOffset + lineCount * Self.lineBytes
    append(scope.key, at: &offset)
    append(scope.caller, at: &offset)
    end(at: offset)
  }

  // MARK: Lines

  /// Where lines with balances begin.
  @inline(__always)
  private var linesOffset: Int {
    Self.headBytes + (kind == .replaced ? Self.replacedBytes : 0)
  }

  /// Line `index` of a held, replaced, confirmed, released or expired record: what becomes of one item.
  @inline(__always)
  package mutating func setLine(
    _ index: Int, ordinal: UInt32, quantity: Int64, version: UInt64, onHand: Int64, held: Int64
  ) {
    assert(
      kind != .refused && kind != .adjusted && kind != .removed && index >= 0
        && index < SavedLines.countMax)
    let offset = linesOffset + index * Self.lineBytes
    store(ordinal, at: offset)
    store(quantity, at: offset + 4)
    store(version, at: offset + 12)
    store(onHand, at: offset + 20)
    store(held, at: offset + 28)
  }

  // MARK: Parts

  /// Says how much of each line's item is committed. The record may be written again with other balances before it
  /// is appended.
  @inline(never)
  package mutating func setCommitted(lineCount: Int, _ committed: (_ line: Int) -> Int64) {
    for line in 0..<lineCount { setCommitted(line, of: lineCount, committed(line)) }
  }

  /// Says how much of the item of line `line` is committed; of lines for which nothing is said, nothing is.
  package mutating func setCommitted(_ line: Int, of lineCount: Int, _ committed: Int64) {
    if committedPlace == 0 { committedPlace = appendNumbers(.committed, count: lineCount) }
    setNumber(line, at: committedPlace, committed)
  }

  /// Whether it says so.
  var tellsCommitted: Bool {
    @inline(__always) get { committedPlace != 0 }
  }

  /// The number of a confirmed record that is not of a line.
  static func confirmedValue(takenAgain: Bool, committed: Bool) -> Int64 {
    (takenAgain ? 1 : 0) | (committed ? 2 : 0)
  }

  /// Adds a part of text to the record that was begun; none where there is no text.
  package mutating func append(_ part: RecordPart, _ text: BorrowedBytes) {
    if text.count == 0 { return }
    var offset = beginPart(part, byteCount: text.count)
    append(text, at: &offset)
    end(at: offset)
  }

  /// Adds a part of one number.
  package mutating func append(_ part: RecordPart, _ number: UInt64) {
    let offset = beginPart(part, byteCount: 8)
    store(number, at: offset)
    end(at: offset + 8)
  }

  /// Adds a part of one byte.
  @inline(never)
  package mutating func append(_ part: RecordPart, byte: UInt8) {
    let offset = beginPart(part, byteCount: 1)
    store(byte, at: offset)
    end(at: offset + 1)
  }

  /// Adds a part of so many numbers, which `setNumber` sets later: where they stand.
  package mutating func appendNumbers(_ part: RecordPart, count: Int) -> Int {
    let offset = beginPart(part, byteCount: 8 * count)
    for index in 0..<count { store(Int64(0), at: offset + 8 * index) }
    end(at: offset + 8 * count)
    return offset
  }

  /// Number `index` of those that `appendNumbers` has put at `place`.
  package mutating func setNumber(_ index: Int, at place: Int, _ number: Int64) {
    assert(place + 8 * index + 8 <= contentEnd, "no such number")
    store(number, at: place + 8 * index)
  }

  /// Sets the sale window `index` of those at `place`, with its item.
  private mutating func setSale(
    _ index: Int, at place: Int, _ item: ItemHandle, _ window: SaleWindow
  ) {
    setNumber(
      3 * index, at: place,
      Int64(bitPattern: UInt64(item.ordinal) | UInt64(window.lowBits) << 32))
    setNumber(3 * index + 1, at: place, Int64(bitPattern: window.fromWord))
    setNumber(3 * index + 2, at: place, Int64(bitPattern: window.untilWord))
  }

  /// - Returns: where what it says goes.
  private mutating func beginPart(_ part: RecordPart, byteCount: Int) -> Int {
    let offset = contentEnd
    precondition(
      offset + RecordPart.headBytes + byteCount <= Self.byteCountMax,
      "a record is longer than its parts allow")
    store(part.rawValue, at: offset)
    store(UInt16(truncatingIfNeeded: byteCount), at: offset + 1)
    return offset + RecordPart.headBytes
  }

  // MARK: Bytes

  @inline(__always)
  mutating func begin(
    _ kind: Kind, time: Int64, slot: UInt32, generation: UInt32, fingerprint: UInt64, value: Int64,
    lineCount: Int, scope: IdempotencyScope?
  ) {
    assert(lineCount >= 0 && lineCount <= SavedLines.countMax, "more lines than a decision has")
    self.kind = kind
    committedPlace = 0
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
  mutating func end(at offset: Int) {
    let padded = (offset + 7) & ~7
    // Bytes of an earlier record must not get into the journal. Most ends are not a multiple of 8.
    for index in offset..<padded { store(UInt8(0), at: index) }
    count = padded
    contentEnd = offset
    store(UInt32(truncatingIfNeeded: padded), at: 0)
  }

  @inline(__always)
  mutating func append(_ text: BorrowedBytes, at offset: inout Int, bytesMax: Int = 255) {
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
  mutating func store<Value: FixedWidthInteger & BitwiseCopyable>(
    _ value: Value, at offset: Int
  ) {
    assert(offset >= 0 && offset + MemoryLayout<Value>.size <= Self.byteCountMax)
    unsafe memory.storeBytes(of: value.littleEndian, toByteOffset: offset, as: Value.self)
  }
}
