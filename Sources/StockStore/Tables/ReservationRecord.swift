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
  package var lineCount: Int { Int(rawLineCount) }

  /// Where the reservation stands; nil for other records.
  package var state: ReservationState? {
    switch kind {
    case .held: .held
    case .confirmed, .confirmedInPart: .confirmed
    case .released: .released
    case .expired: .expired
    default: nil
    }
  }

  /// A hold that must end before anything else is done.
  package func isDue(_ now: Int64) -> Bool { kind == .held && expiresAt <= now }

  /// Where the reservation stands at this time, also where a due hold could not be ended yet.
  package func state(at now: Int64) -> ReservationState? { isDue(now) ? .expired : state }

  /// Makes room for lines: in place, or in a block of their own.
  package mutating func setLineCount(_ count: Int) {
    rawLineCount = UInt8(truncatingIfNeeded: count)
    if count > Self.inlineLinesMax { unsafe block = .allocate(capacity: count) }
  }

  /// Frees the block of many lines, if there is one.
  package mutating func removeLines() {
    if lineCount > Self.inlineLinesMax { unsafe block?.deallocate() }
    rawLineCount = 0
  }

  package func line(_ index: Int) -> ViewLine {
    if lineCount > Self.inlineLinesMax, let block = unsafe block {
      precondition(index < lineCount, "no such line")
      return unsafe block[index]
    }
    let quantity = UInt64(quantitiesHigh[index]) << 32 | UInt64(quantitiesLow[index])
    return ViewLine(
      item: ItemHandle(ordinal: ordinals[index]), quantity: Int64(truncatingIfNeeded: quantity))
  }

  /// - Parameter line: its quantity is below 2^48: 64 lines of 2^40 units at most.
  package mutating func setLine(_ index: Int, _ line: ViewLine) {
    if lineCount > Self.inlineLinesMax, let block = unsafe block {
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

  /// The refusal that the record holds.
  package var refusal: RecordedRefusal? {
    switch kind {
    case .refusedInsufficientStock:
      .insufficientStock(
        item: ItemHandle(ordinal: ordinals[0]), requested: firstNumber, available: secondNumber)
    case .refusedItemsNotFound: .itemsNotFound(first: Int(ordinals[0]), places: spareWord)
    case .refusedLineNotFound: .lineNotFound(Int(ordinals[0]))
    case .refusedOnHandLimit: .onHandLimit
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
    case .itemsNotFound(let first, let places):
      precondition(
        RecordedRefusal.arePlaces(first: first, places), "a refusal of items that are none")
      kind = .refusedItemsNotFound
      ordinals[0] = UInt32(clamping: first)
      spareWord = places
    case .lineNotFound(let line):
      kind = .refusedLineNotFound
      ordinals[0] = UInt32(clamping: line)
    case .onHandLimit: kind = .refusedOnHandLimit
    }
  }

  // Two lines of a block for each further item that lacks units: requested, available.

  /// Items that lack units, besides the first.
  package var shortageCount: Int { kind == .refusedInsufficientStock ? Int(ordinals[3]) : 0 }

  /// Makes room for the shortages of a refusal that is set already: up to 63.
  package mutating func setShortageCount(_ count: Int) {
    assert(kind == .refusedInsufficientStock && count < StoreLimits.linesMax)
    ordinals[3] = UInt32(truncatingIfNeeded: count)
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

  /// The answer to an adjustment; set it with `kind`.
  package var adjusted: StockLevel {
    get {
      StockLevel(
        item: ItemHandle(ordinal: ordinals[0]), onHand: firstNumber, held: secondNumber,
        safetyStock: Int64(bitPattern: UInt64(ordinals[3]) | UInt64(ordinals[4]) << 32),
        version: spareWord)
    }
    set {
      ordinals[0] = newValue.item.ordinal
      firstNumber = newValue.onHand
      secondNumber = newValue.held
      ordinals[3] = UInt32(truncatingIfNeeded: newValue.safetyStock)
      ordinals[4] = UInt32(truncatingIfNeeded: newValue.safetyStock >> 32)
      spareWord = newValue.version
    }
  }
}
