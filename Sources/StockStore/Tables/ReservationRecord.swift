// One recorded decision, 128 bytes: a reservation, a refusal, or the answer to an adjustment. It is the
// idempotency entry as well: found by the hash of who asked under which key.

/// 128-bit keyed hash of (method, caller, key): names a decision. Two different ones never meet (2^-128).
package struct Identity: Equatable, BitwiseCopyable {
  package let low: UInt64
  package let high: UInt64

  package init(low: UInt64, high: UInt64) {
    self.low = low
    self.high = high
  }

  /// What the key table keeps of it.
  package var tag: UInt32 { UInt32(truncatingIfNeeded: high >> 32) }
}

/// Whose hold it is: a keyed hash of the caller's name, of 63 bits. Names are the operator's, and nobody
/// who does not have the key can look for two that meet.
package struct HoldOwner: Equatable {
  /// Below zero, which no time is; 0: unknown.
  package let rawValue: Int64

  /// Of holds without a caller, and of those that an older version has left in a checkpoint.
  package static var unknown: HoldOwner { HoldOwner(rawValue: 0) }

  package init(hash: UInt64) { rawValue = Int64(bitPattern: hash | 1 << 63) }

  /// - Parameter rawValue: 0 and above stand for unknown.
  fileprivate init(rawValue: Int64) { self.rawValue = min(0, rawValue) }
}

package struct ReservationRecord: BitwiseCopyable {
  package static let inlineLinesMax = 5
  /// Of a record with details, which lie where the other two lines would.
  static let inlineLinesMaxBesideDetails = 3
  /// Of the answer to a Replace, which has the id of its reservation there besides.
  static let inlineLinesMaxOfReplaced = 1
  private static let detailsBit: UInt8 = 0x80
  /// In the fourth upper half of the quantities, where there are details: the lines lie in a block.
  private static let blockBit: UInt16 = 1

  package var identity: Identity
  /// Of the payload that came with the key.
  package var fingerprint: UInt64
  /// In nanoseconds since the Unix epoch, as all times.
  package var createdAt: Int64
  /// A union: two numbers that each kind has for itself. `expiresAt` and `firstExpiresAt`, `refusal` and
  /// `adjusted` are the views of it.
  private var firstNumber: Int64
  private var secondNumber: Int64
  /// Of a hold, live or expired, its `owner`; of all others when they ended. A live hold has not ended, an
  /// expired one has ended when it was to expire, and what is confirmed or released stays so whoever asks.
  package private(set) var endedAtOrOwner: Int64
  package var lsn: UInt64
  /// Tells this use of the slot from all others.
  package var generation: UInt32
  /// Neighbours in the list that the record is in, slot + 1 each; 0: none.
  package var next: UInt32
  package var previous: UInt32
  private var ordinals: InlineArray<5, UInt32>
  private var quantitiesLow: InlineArray<5, UInt32>
  private var quantitiesHigh: InlineArray<5, UInt16>
  package var kind: RecordKind
  /// The highest bit says that there are details.
  private var rawLineCount: UInt8

  /// A record that is not in use: all bits zero, as in memory that was never touched.
  package static var free: ReservationRecord {
    ReservationRecord(
      identity: Identity(low: 0, high: 0), fingerprint: 0, createdAt: 0, firstNumber: 0,
      secondNumber: 0, endedAtOrOwner: 0, lsn: 0, generation: 0, next: 0, previous: 0,
      ordinals: InlineArray(repeating: 0), quantitiesLow: InlineArray(repeating: 0),
      quantitiesHigh: InlineArray(repeating: 0), kind: .free, rawLineCount: 0)
  }

  /// Of a reservation: when the hold ends.
  package var expiresAt: Int64 {
    @inline(__always) get { firstNumber }
    @inline(__always) set {
      assert(state != nil, "only a reservation ends")
      firstNumber = newValue
    }
  }

  /// Of a reservation: what Reserve answered, whatever Extend did since.
  package var firstExpiresAt: Int64 {
    @inline(__always) get { secondNumber }
    @inline(__always) set {
      assert(state != nil, "only a reservation ends")
      secondNumber = newValue
    }
  }

  /// What a checkpoint keeps of the union, whatever the kind.
  package var savedNumbers: (first: Int64, second: Int64) { (firstNumber, secondNumber) }

  /// Takes back what `savedNumbers` was, while the kind is not set yet.
  package mutating func restoreNumbers(_ saved: (first: Int64, second: Int64)) {
    (firstNumber, secondNumber) = saved
  }

  /// When it ended; nothing that counts while it is held.
  package var endedAt: Int64 {
    get { kind == .expired ? expiresAt : endedAtOrOwner }
    set {
      assert(kind != .held && kind != .expired, "a hold has its owner there")
      endedAtOrOwner = newValue
    }
  }

  /// Whose hold it is, live or expired.
  package var owner: HoldOwner {
    get { HoldOwner(rawValue: endedAtOrOwner) }
    set {
      assert(kind == .held, "only a hold has an owner")
      endedAtOrOwner = newValue.rawValue
    }
  }

  /// What a checkpoint keeps of both: 0 for a hold whose owner is unknown.
  package var savedEnd: Int64 {
    switch kind {
    case .held: owner.rawValue
    case .expired: owner == .unknown ? expiresAt : owner.rawValue
    default: endedAtOrOwner
    }
  }

  /// Takes back what `savedEnd` was, while the kind is not set yet.
  package mutating func restoreEnd(_ saved: Int64) { endedAtOrOwner = saved }

  /// Lines, each item once.
  package var lineCount: Int { Int(rawLineCount & ~Self.detailsBit) }

  /// Where the reservation stands; nil for other records.
  package var state: ReservationState? {
    switch kind {
    case .held: .held
    case .confirmed, .confirmedInPart, .confirmedCommitted, .confirmedInPartCommitted: .confirmed
    case .released: .released
    case .expired: .expired
    default: nil
    }
  }

  /// A hold that must end before anything else is done.
  package func isDue(_ now: Int64) -> Bool { kind == .held && expiresAt <= now }

  /// Where the reservation stands at this time, also where a due hold could not be ended yet.
  package func state(at now: Int64) -> ReservationState? { isDue(now) ? .expired : state }

  // MARK: Lines

  /// Makes room for the lines of a record that has none, nor details: in place, or in a block of their own.
  package mutating func setLineCount(_ count: Int) {
    rawLineCount = UInt8(truncatingIfNeeded: count)
    if count > Self.inlineLinesMax { unsafe block = .allocate(capacity: count) }
  }

  /// Takes other lines in the place of those that are there; details stay, or come, and so do the lines of the
  /// first answer where that told them.
  package mutating func replaceLines(_ count: Int, _ line: (Int) -> ViewLine) {
    addDetails()
    let inlineMax =
      kind == .replaced ? Self.inlineLinesMaxOfReplaced : Self.inlineLinesMaxBesideDetails
    let needsBlock = count > inlineMax || choice.tellsLines
    if needsBlock || hasBlock { return replaceBlock(count, needsBlock: needsBlock, line) }
    rawLineCount = UInt8(truncatingIfNeeded: count) | Self.detailsBit
    for index in 0..<count { setLine(index, line(index)) }
  }

  /// The same where the lines lie in a block, or will.
  @inline(never)
  private mutating func replaceBlock(_ count: Int, needsBlock: Bool, _ line: (Int) -> ViewLine) {
    let old = unsafe hasBlock ? block : nil
    let first = toldLines
    rawLineCount = UInt8(truncatingIfNeeded: count) | Self.detailsBit
    quantitiesHigh[3] = needsBlock ? Self.blockBit : 0
    // A block has an address also where it has no lines.
    if needsBlock { unsafe block = .allocate(capacity: max(1, count + first.count)) }
    for index in 0..<count { setLine(index, line(index)) }
    if let old = unsafe old {
      for (index, told) in first.enumerated() {
        unsafe ((block ?? old) + count + index).initialize(to: old[told])
      }
      unsafe old.deallocate()
    }
    setFirstLineCount(first.count)
  }

  /// Frees what lies elsewhere: the block of many lines, and the reference, which is in no index any more.
  package mutating func removeLines() {
    if hasBlock { unsafe block?.deallocate() }
    if kind == .adjustedTogether { unsafe levels?.deallocate() }
    referenceNode?.free()
    rawLineCount = 0
  }

  /// Something of it lies elsewhere, and goes when the record does.
  package var liesElsewhere: Bool {
    hasBlock || referenceNode != nil || kind == .adjustedTogether
  }

  private var hasBlock: Bool {
    @inline(__always) get {
      hasDetails ? quantitiesHigh[3] & Self.blockBit != 0 : lineCount > Self.inlineLinesMax
    }
  }

  package func line(_ index: Int) -> ViewLine {
    if hasBlock, let block = unsafe block {
      precondition(index < lineCount, "no such line")
      return unsafe block[index]
    }
    let quantity = UInt64(quantitiesHigh[index]) << 32 | UInt64(quantitiesLow[index])
    return ViewLine(
      item: ItemHandle(ordinal: ordinals[index]), quantity: Int64(truncatingIfNeeded: quantity))
  }

  /// - Parameter line: its quantity is below 2^48: 64 lines of 2^40 units at most.
  package mutating func setLine(_ index: Int, _ line: ViewLine) {
    if hasBlock, let block = unsafe block {
      precondition(index < lineCount, "no such line")
      unsafe block[index] = line
      return
    }
    ordinals[index] = line.item.ordinal
    quantitiesLow[index] = UInt32(truncatingIfNeeded: line.quantity)
    quantitiesHigh[index] = UInt16(truncatingIfNeeded: line.quantity >> 32)
  }

  /// The block of more lines than fit in place. Its address takes the place of two line fields.
  private var block: UnsafeMutablePointer<ViewLine>? {
    get { unsafe UnsafeMutablePointer(bitPattern: UInt(spareWord)) }
    set { spareWord = UInt64(UInt(bitPattern: newValue)) }
  }

  private var spareWord: UInt64 {
    get { UInt64(ordinals[1]) | UInt64(ordinals[2]) << 32 }
    set {
      ordinals[1] = UInt32(truncatingIfNeeded: newValue)
      ordinals[2] = UInt32(truncatingIfNeeded: newValue >> 32)
    }
  }

  // MARK: Details

  // Of a reservation that is as it was made, and has no reference, there are none. Where there are, they take
  // the places of the fourth and the fifth line: revision in the ordinals, the address of the reference in the
  // lower halves of the quantities, in the fourth upper half whether the lines lie in a block, and in the fifth
  // what was chosen: HoldChoice, and in its upper byte how many lines of the first answer lie behind the others.

  private var hasDetails: Bool {
    @inline(__always) get { rawLineCount & Self.detailsBit != 0 }
  }

  private mutating func addDetails() {
    if hasDetails { return }
    let count = lineCount
    if count > Self.inlineLinesMaxBesideDetails, count <= Self.inlineLinesMax {
      let block = UnsafeMutablePointer<ViewLine>.allocate(capacity: count)
      // The block is as long as there are lines.
      for index in 0..<count { unsafe (block + index).initialize(to: line(index)) }
      unsafe self.block = block
    }
    rawLineCount |= Self.detailsBit
    quantitiesHigh[3] = count > Self.inlineLinesMaxBesideDetails ? Self.blockBit : 0
    quantitiesHigh[4] = 0
    Self.setDetail(1, of: &ordinals)
    Self.setDetail(0, of: &quantitiesLow)
  }

  private static func detail(of words: InlineArray<5, UInt32>) -> UInt64 {
    UInt64(words[3]) | UInt64(words[4]) << 32
  }

  private static func setDetail(_ value: UInt64, of words: inout InlineArray<5, UInt32>) {
    words[3] = UInt32(truncatingIfNeeded: value)
    words[4] = UInt32(truncatingIfNeeded: value >> 32)
  }

  /// Of a reservation: 1 when it is made, one more with each Replace and Extend.
  package var revision: UInt64 {
    get { hasDetails ? Self.detail(of: ordinals) : 1 }
    set {
      if newValue == revision { return }
      addDetails()
      Self.setDetail(newValue, of: &ordinals)
    }
  }

  /// The reference and the limits of the reservation, or the limit that a refusal is about; nil where there are none.
  /// Who sets it sees to the index, and frees the one before.
  package var referenceNode: ReferenceNode? {
    @inline(__always) get {
      hasDetails ? ReferenceNode(address: UInt(Self.detail(of: quantitiesLow))) : nil
    }
    set {
      if newValue == nil, !hasDetails { return }
      addDetails()
      Self.setDetail(UInt64(newValue?.address ?? 0), of: &quantitiesLow)
    }
  }

  /// Good as long as the record keeps it.
  package var reference: BorrowedBytes { referenceNode?.text ?? .empty }

  /// Likewise, as LimitText has them.
  package var limits: BorrowedBytes { referenceNode?.limits ?? .empty }

  // MARK: What was chosen

  // The first answer to a Reserve that told what is held must be told again, whatever has become of the lines since.
  // Such a reservation has its lines in a block, and behind them, once they are others, those of that answer.

  /// Of a reservation: which alternative it is, and whether its answer told the lines.
  package var choice: HoldChoice {
    guard hasDetails else { return .asAsked }
    return HoldChoice(rawValue: UInt8(truncatingIfNeeded: quantitiesHigh[4])) ?? .asAsked
  }

  /// Of a hold that has its lines, and was made as this.
  @inline(never)
  package mutating func setChoice(_ choice: HoldChoice) {
    if choice == .asAsked { return }
    addDetails()
    if choice.tellsLines, !hasBlock {
      let count = lineCount
      let lines = UnsafeMutablePointer<ViewLine>.allocate(capacity: count)
      for index in 0..<count { unsafe (lines + index).initialize(to: line(index)) }
      unsafe block = lines
      quantitiesHigh[3] = Self.blockBit
    }
    quantitiesHigh[4] = UInt16(choice.rawValue)
  }

  /// Lines of the first answer that are kept besides the others: 0 where they are the same, or were not told.
  package var firstLineCount: Int { hasDetails ? Int(quantitiesHigh[4] >> 8) : 0 }

  private mutating func setFirstLineCount(_ count: Int) {
    quantitiesHigh[4] = quantitiesHigh[4] & 0xff | UInt16(truncatingIfNeeded: count) << 8
  }

  /// Where the lines of the first answer lie in the block; none where it did not tell them.
  private var toldLines: Range<Int> {
    guard choice.tellsLines else { return 0..<0 }
    return firstLineCount == 0 ? 0..<lineCount : lineCount..<lineCount + firstLineCount
  }

  /// Lines of the first answer; 0 where it did not tell them.
  package var toldLineCount: Int { toldLines.count }

  package func toldLine(_ index: Int) -> ViewLine {
    guard let block = unsafe block else { preconditionFailure("what is told lies in a block") }
    return unsafe block[toldLines[toldLines.startIndex + index]]
  }

  /// Keeps the lines of the first answer, which are about to change.
  package mutating func keepToldLines() {
    guard choice.tellsLines, firstLineCount == 0 else { return }
    let count = lineCount
    setFirstLines(count) { (record, index) in record.line(index) }
  }

  /// Puts lines of the first answer, which told them, behind those that are there.
  package mutating func setFirstLines(
    _ first: Int, _ firstLine: (borrowing ReservationRecord, Int) -> ViewLine
  ) {
    let count = lineCount
    let lines = UnsafeMutablePointer<ViewLine>.allocate(capacity: count + first)
    for index in 0..<count { unsafe (lines + index).initialize(to: line(index)) }
    for index in 0..<first {
      unsafe (lines + count + index).initialize(to: firstLine(self, index))
    }
    unsafe block?.deallocate()
    unsafe block = lines
    setFirstLineCount(first)
  }

  // MARK: The answer to a Replace

  /// Becomes the answer to a Replace: what the reservation was right after. Its reference is set apart, and it has
  /// no other details. It ends, so to say, when the hold was to end.
  package mutating func setReplaced(
    _ id: ReservationID, expiresAt: Int64, createdAt: Int64, revision: UInt64, lineCount: Int,
    _ line: (Int) -> ViewLine
  ) {
    kind = .replaced
    replacedTimes = (expiresAt, createdAt)
    endedAt = expiresAt
    replaceLines(lineCount, line)
    self.revision = revision
    replacedID = id
  }

  /// Which reservation has got other lines. Its id leaves room for one line in place, and lies beside the address of
  /// a block for more: the upper four bits of the tag beside `blockBit`.
  package private(set) var replacedID: ReservationID {
    get {
      let tag =
        UInt64(quantitiesHigh[1]) | UInt64(quantitiesHigh[2]) << 16
        | UInt64(quantitiesHigh[3] >> 4 & 0xf) << 32
      return ReservationID(slot: quantitiesLow[1], generation: quantitiesLow[2], tag: tag)
    }
    set {
      quantitiesLow[1] = newValue.slot
      quantitiesLow[2] = newValue.generation
      quantitiesHigh[1] = UInt16(truncatingIfNeeded: newValue.tag)
      quantitiesHigh[2] = UInt16(truncatingIfNeeded: newValue.tag >> 16)
      let upperBits = UInt16(truncatingIfNeeded: newValue.tag >> 32) & 0xf
      quantitiesHigh[3] = quantitiesHigh[3] & Self.blockBit | upperBits << 4
    }
  }

  /// Of a Replace: when the hold was to end, and when it was made.
  package var replacedTimes: (expiresAt: Int64, createdAt: Int64) {
    get { (firstNumber, secondNumber) }
    set { (firstNumber, secondNumber) = newValue }
  }

  // MARK: The answer to a refusal

  /// The refusal that the record holds.
  package var refusal: RecordedRefusal? {
    switch kind {
    case .refusedInsufficientStock:
      .insufficientStock(
        item: ItemHandle(ordinal: ordinals[0]), requested: firstNumber, available: secondNumber)
    case .refusedItemsNotFound: .itemsNotFound(first: Int(ordinals[0]), places: spareWord)
    case .refusedLineNotFound: .lineNotFound(Int(ordinals[0]))
    case .refusedOnHandLimit: .onHandLimit(change: Int(ordinals[0]))
    case .refusedNotOnSale:
      .notOnSale(
        item: ItemHandle(ordinal: ordinals[0]),
        SaleWindow(
          fromWord: UInt64(bitPattern: firstNumber), untilWord: UInt64(bitPattern: secondNumber),
          lowBits: quantitiesLow[0]))
    case .refusedItemNotEmpty:
      .itemNotEmpty(
        item: ItemHandle(ordinal: ordinals[0]), onHand: firstNumber, held: secondNumber,
        committed: Int64(bitPattern: UInt64(quantitiesLow[0]) | UInt64(quantitiesLow[1]) << 32))
    case .refusedInsufficientCommitted:
      .insufficientCommitted(
        item: ItemHandle(ordinal: ordinals[0]), requested: firstNumber, committed: secondNumber)
    case .refusedLimitExceeded:
      .limitExceeded(
        item: ItemHandle(ordinal: ordinals[0]), requested: firstNumber, used: secondNumber)
    default: nil
    }
  }

  /// Becomes a refusal. Lines, if it had any, are removed already; `setShortageCount` and `setShortage`
  /// add further items.
  package mutating func setRefusal(_ refusal: RecordedRefusal) {
    switch refusal {
    case .insufficientStock(let item, let requested, let available):
      kind = .refusedInsufficientStock
      ordinals[0] = item.ordinal
      ordinals[3] = 0
      firstNumber = requested
      secondNumber = available
    case .itemNotEmpty(let item, let onHand, let held, let committed):
      kind = .refusedItemNotEmpty
      ordinals[0] = item.ordinal
      firstNumber = onHand
      secondNumber = held
      quantitiesLow[0] = UInt32(truncatingIfNeeded: committed)
      quantitiesLow[1] = UInt32(truncatingIfNeeded: committed >> 32)
    case .notOnSale(let item, let window):
      kind = .refusedNotOnSale
      ordinals[0] = item.ordinal
      ordinals[3] = 0
      firstNumber = Int64(bitPattern: window.fromWord)
      secondNumber = Int64(bitPattern: window.untilWord)
      quantitiesLow[0] = window.lowBits
    case .itemsNotFound(let first, let places):
      precondition(
        RecordedRefusal.arePlaces(first: first, places), "a refusal of items that are none")
      kind = .refusedItemsNotFound
      ordinals[0] = UInt32(clamping: first)
      spareWord = places
    case .lineNotFound(let line):
      kind = .refusedLineNotFound
      ordinals[0] = UInt32(clamping: line)
    case .onHandLimit(let change):
      kind = .refusedOnHandLimit
      ordinals[0] = UInt32(clamping: change)
    case .insufficientCommitted(let item, let requested, let committed):
      kind = .refusedInsufficientCommitted
      ordinals[0] = item.ordinal
      firstNumber = requested
      secondNumber = committed
    case .limitExceeded(let item, let requested, let used):
      kind = .refusedLimitExceeded
      ordinals[0] = item.ordinal
      firstNumber = requested
      secondNumber = used
    }
  }

  // Two lines of a block for each further item: that lacks units: requested, available; that is not on sale: the
  // words of its window, the lower bits in the place of the second line's item.

  // In the fourth ordinal: how many there are, and above them how many alternatives were tried.

  /// Items that lack units, or are not on sale, besides the first.
  package var shortageCount: Int {
    kind == .refusedInsufficientStock || kind == .refusedNotOnSale ? Int(ordinals[3] & 0xff) : 0
  }

  /// Alternatives that were tried, lines included; 0 where there were none besides the lines.
  package var alternativesTried: Int {
    kind == .refusedInsufficientStock ? Int(ordinals[3] >> 8) : 0
  }

  /// Of a refusal for lack of units: whether it says either.
  var tellsMore: Bool {
    @inline(__always) get { ordinals[3] != 0 }
  }

  /// Of a refusal that is set already.
  package mutating func setAlternativesTried(_ count: Int) {
    assert(kind == .refusedInsufficientStock)
    ordinals[3] = ordinals[3] & 0xff | UInt32(truncatingIfNeeded: count) << 8
  }

  /// Makes room for the shortages of a refusal that is set already: up to 63.
  package mutating func setShortageCount(_ count: Int) {
    assert(
      kind == .refusedInsufficientStock || kind == .refusedNotOnSale,
      "only these have further items")
    assert(count < StoreLimits.linesMax, "more items than a command has")
    ordinals[3] = ordinals[3] & ~0xff | UInt32(truncatingIfNeeded: count)
    if count == 0 { return }
    let lineCount = max(2 * count, Self.inlineLinesMax + 1)
    setLineCount(lineCount)
    let unused = ViewLine(item: ItemHandle(ordinal: ordinals[0]), quantity: 0)
    for index in 0..<lineCount { setLine(index, unused) }
  }

  package mutating func setShortage(_ index: Int, _ shortage: Shortage) {
    setLine(2 * index, ViewLine(item: shortage.item, quantity: shortage.requested))
    setLine(2 * index + 1, ViewLine(item: shortage.item, quantity: shortage.available))
  }

  package func shortage(_ index: Int) -> Shortage {
    let (requested, available) = (line(2 * index), line(2 * index + 1))
    return Shortage(
      item: requested.item, requested: requested.quantity, available: available.quantity)
  }

  package mutating func setClosedSale(_ index: Int, _ sale: ClosedSale) {
    let window = sale.window
    setLine(
      2 * index, ViewLine(item: sale.item, quantity: Int64(bitPattern: window.fromWord)))
    setLine(
      2 * index + 1,
      ViewLine(
        item: ItemHandle(ordinal: window.lowBits), quantity: Int64(bitPattern: window.untilWord)))
  }

  package func closedSale(_ index: Int) -> ClosedSale {
    let (first, second) = (line(2 * index), line(2 * index + 1))
    return ClosedSale(
      item: first.item,
      window: SaleWindow(
        fromWord: UInt64(bitPattern: first.quantity),
        untilWord: UInt64(bitPattern: second.quantity), lowBits: second.item.ordinal))
  }

  /// The answer to an adjustment; set it with `kind`. Where no block is, quantities have room for a window.
  package var adjusted: StockLevel {
    get {
      StockLevel(
        item: ItemHandle(ordinal: ordinals[0]), onHand: firstNumber, held: secondNumber,
        committed: Int64(bitPattern: UInt64(quantitiesLow[0]) | UInt64(quantitiesLow[1]) << 32),
        safetyStock: Int64(bitPattern: UInt64(ordinals[3]) | UInt64(ordinals[4]) << 32),
        version: spareWord,
        sale: SaleWindow(
          fromWord: UInt64(quantitiesLow[2]) | UInt64(quantitiesLow[3]) << 32,
          untilWord: UInt64(quantitiesLow[4]) | UInt64(quantitiesHigh[0]) << 32
            | UInt64(quantitiesHigh[1]) << 48,
          lowBits: UInt32(quantitiesHigh[2])))
    }
    set {
      ordinals[0] = newValue.item.ordinal
      firstNumber = newValue.onHand
      secondNumber = newValue.held
      ordinals[3] = UInt32(truncatingIfNeeded: newValue.safetyStock)
      ordinals[4] = UInt32(truncatingIfNeeded: newValue.safetyStock >> 32)
      quantitiesLow[0] = UInt32(truncatingIfNeeded: newValue.committed)
      quantitiesLow[1] = UInt32(truncatingIfNeeded: newValue.committed >> 32)
      spareWord = newValue.version
      let sale = newValue.sale
      quantitiesLow[2] = UInt32(truncatingIfNeeded: sale.fromWord)
      quantitiesLow[3] = UInt32(truncatingIfNeeded: sale.fromWord >> 32)
      quantitiesLow[4] = UInt32(truncatingIfNeeded: sale.untilWord)
      quantitiesHigh[0] = UInt16(truncatingIfNeeded: sale.untilWord >> 32)
      quantitiesHigh[1] = UInt16(truncatingIfNeeded: sale.untilWord >> 48)
      // 15 bits are in use.
      quantitiesHigh[2] = UInt16(truncatingIfNeeded: sale.lowBits)
    }
  }

  // MARK: An import

  /// Of an import: how many rows are done.
  package var importedRows: UInt64 {
    get { UInt64(bitPattern: firstNumber) }
    set {
      assert(kind == .imported, "no import")
      (firstNumber, secondNumber) = (Int64(bitPattern: newValue), 0)
    }
  }

  // MARK: The answer to several adjustments

  /// Becomes the answer to a BatchAdjustStock: the balances of so many items right after, which lie in a block of their
  /// own.
  package mutating func setAdjustedTogether(_ count: Int, _ level: (Int) -> StockLevel) {
    precondition(1...StoreLimits.linesMax ~= count, "an answer of no items, or of too many")
    let block = UnsafeMutablePointer<StockLevel>.allocate(capacity: count)
    // The block is as long as there are levels.
    for index in 0..<count { unsafe (block + index).initialize(to: level(index)) }
    kind = .adjustedTogether
    (firstNumber, secondNumber) = (0, 0)
    ordinals[0] = UInt32(truncatingIfNeeded: count)
    spareWord = UInt64(UInt(bitPattern: block))
  }

  /// Items of the answer to a BatchAdjustStock; of other records none.
  package var levelCount: Int { kind == .adjustedTogether ? Int(ordinals[0]) : 0 }

  /// What item `index` of the answer was, from 0 to `levelCount` - 1.
  package func level(_ index: Int) -> StockLevel {
    precondition(index >= 0 && index < levelCount, "no such item")
    guard let levels = unsafe levels else { preconditionFailure("an answer without its block") }
    return unsafe levels[index]
  }

  private var levels: UnsafeMutablePointer<StockLevel>? {
    unsafe UnsafeMutablePointer(bitPattern: UInt(spareWord))
  }
}
