// Changes of several items in one record: written one behind the other, and read so. RecordFormat.swift has the byte
// table.

/// One change of a group, with what became of its item.
package struct GroupChange {
  package var change = AdjustCommand.Change.none
  package var safetyStockAsked: Int64?
  /// Where it was asked for of an item that there was.
  package var safetyStockBefore: Int64?
  package var check = AdjustCommand.Check.none
  package var allowsShortage = false
  /// The balances after.
  package var level = StockLevel(item: ItemHandle(ordinal: 0), .none, version: 0)
  /// Of an item that was made; good as long as the record's bytes.
  package var name: ItemName?
}

/// The bits of a change's first byte.
private enum GroupFlags {
  static let changeMask: UInt8 = 7
  static let safetyStock: UInt8 = 8
  static let expectedVersion: UInt8 = 16
  static let expectedOnHand: UInt8 = 32
  static let allowsShortage: UInt8 = 64
  static let makesItem: UInt8 = 128
}

extension RecordWriter {
  /// A record of a group of which the changes are to come. `endGroup` ends it.
  mutating func beginGroup(_ group: borrowing AdjustmentGroup, time: Int64) {
    begin(
      group.isImport ? .imported : .adjustedTogether, time: time, slot: group.slot,
      generation: group.generation,
      fingerprint: group.fingerprint,
      value: group.isImport ? Int64(bitPattern: group.nextRow) : 0, lineCount: 0, scope: group.scope
    )
    let reasonCount = min(group.reason.count, Self.groupReasonBytesMax)
    store(UInt16(0), at: 40)
    store(UInt16(truncatingIfNeeded: reasonCount), at: 42)
    store(UInt32(truncatingIfNeeded: group.isImport ? group.count : 0), at: 44)
    var offset = Self.headBytes + Self.groupBytes
    append(group.scope.key, at: &offset)
    append(group.scope.caller, at: &offset)
    append(group.reason, at: &offset, bytesMax: Self.groupReasonBytesMax)
    groupStart = offset
    groupEnd = offset
    groupCount = 0
  }

  /// Adds a change that was made.
  mutating func append(_ adjustment: borrowing GroupedAdjustment) {
    let (command, after) = (adjustment.command, adjustment.after)
    let makesItem = adjustment.makesItem
    var flags: UInt8 = 0
    var units: Int64?
    switch command.change {
    case .none: break
    case .delta(let delta): (flags, units) = (1, delta)
    case .setOnHand: flags = 2
    case .ship(let shipped): (flags, units) = (3, shipped)
    case .uncommit(let uncommitted): (flags, units) = (4, uncommitted)
    }
    var expected: Int64?
    switch command.check {
    case .none: break
    case .version: flags |= GroupFlags.expectedVersion
    case .onHand(let onHand):
      flags |= GroupFlags.expectedOnHand
      // Of all other changes it follows from what is there after.
      if case .setOnHand = command.change { expected = onHand }
    }
    if command.safetyStock != nil { flags |= GroupFlags.safetyStock }
    if command.allowsShortage { flags |= GroupFlags.allowsShortage }
    if makesItem { flags |= GroupFlags.makesItem }
    var offset = groupEnd
    store(flags, at: offset)
    offset += 1
    append(VarintBytes(UInt64(after.item.ordinal)), at: &offset)
    append(VarintBytes(after.version), at: &offset)
    append(VarintBytes(UInt64(bitPattern: after.onHand)), at: &offset)
    append(VarintBytes(UInt64(bitPattern: after.held)), at: &offset)
    append(VarintBytes(UInt64(bitPattern: after.committed)), at: &offset)
    append(VarintBytes(signed: after.safetyStock), at: &offset)
    if makesItem {
      let name = command.item
      store(UInt8(clamping: name.sku.count), at: offset)
      store(UInt8(clamping: name.location.count), at: offset + 1)
      offset += 2
      append(name.sku, at: &offset)
      append(name.location, at: &offset)
    } else {
      if let units { append(VarintBytes(signed: units), at: &offset) }
      if let expected { append(VarintBytes(UInt64(bitPattern: expected)), at: &offset) }
      if command.safetyStock != nil {
        append(VarintBytes(signed: adjustment.before.safetyStock), at: &offset)
      }
    }
    groupEnd = offset
    groupCount += 1
  }

  /// Ends the group's record.
  mutating func endGroup(_ group: borrowing AdjustmentGroup) {
    store(UInt8(truncatingIfNeeded: groupCount), at: 5)
    store(UInt16(truncatingIfNeeded: groupEnd - groupStart), at: 40)
    end(at: groupEnd)
    append(.reference, group.reference)
  }

  @inline(__always)
  private mutating func append(_ bytes: VarintBytes, at offset: inout Int) {
    for byte in bytes {
      store(byte, at: offset)
      offset += 1
    }
  }
}

/// Reads the changes of a group. Good as long as the bytes.
@safe struct GroupReader {
  private let bytes: UnsafeRawBufferPointer
  private var offset = 0

  init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = bytes }

  var isAtEnd: Bool { unsafe offset == bytes.count }

  /// The next change; nil where there is no whole one, or one that cannot be.
  mutating func next() -> GroupChange? {
    guard let flags = nextByte(), let ordinal = number(), ordinal <= UInt64(UInt32.max),
      let version = number(), let onHand = number(), let held = number(),
      let committed = number(), let safetyStock = signed()
    else { return nil }
    var change = GroupChange()
    change.level = StockLevel(
      item: ItemHandle(ordinal: UInt32(ordinal)), onHand: Int64(bitPattern: onHand),
      held: Int64(bitPattern: held), committed: Int64(bitPattern: committed),
      safetyStock: safetyStock, version: version)
    change.allowsShortage = flags & GroupFlags.allowsShortage != 0
    if flags & GroupFlags.safetyStock != 0 { change.safetyStockAsked = safetyStock }
    let makesItem = flags & GroupFlags.makesItem != 0
    if makesItem {
      guard let skuCount = nextByte(), let locationCount = nextByte(),
        let sku = text(Int(skuCount)), let location = text(Int(locationCount)), sku.count > 0
      else { return nil }
      change.name = ItemName(sku: sku, location: location)
    }
    guard readChange(flags, makesItem, &change), readCheck(flags, makesItem, &change) else {
      return nil
    }
    if !makesItem, flags & GroupFlags.safetyStock != 0 {
      guard let before = signed() else { return nil }
      change.safetyStockBefore = before
    }
    return change
  }

  private mutating func readChange(
    _ flags: UInt8, _ makesItem: Bool, _ change: inout GroupChange
  ) -> Bool {
    func readUnits() -> Int64? { makesItem ? change.level.onHand : signed() }
    switch flags & GroupFlags.changeMask {
    case 0: change.change = .none
    case 1:
      guard let units = readUnits() else { return false }
      change.change = .delta(units)
    case 2: change.change = .setOnHand(change.level.onHand)
    case 3:
      guard let units = readUnits() else { return false }
      change.change = .ship(units)
    case 4:
      guard let units = readUnits() else { return false }
      change.change = .uncommit(units)
    default: return false
    }
    return true
  }

  private mutating func readCheck(
    _ flags: UInt8, _ makesItem: Bool, _ change: inout GroupChange
  ) -> Bool {
    if flags & GroupFlags.expectedVersion != 0 {
      change.check = .version(makesItem ? 0 : change.level.version &- 1)
    } else if flags & GroupFlags.expectedOnHand != 0 {
      guard let onHand = makesItem ? 0 : onHandBefore(change) else { return false }
      change.check = .onHand(onHand)
    }
    return true
  }

  private mutating func onHandBefore(_ change: GroupChange) -> Int64? {
    switch change.change {
    case .setOnHand: number().map { Int64(bitPattern: $0) }
    case .delta(let units): change.level.onHand &- units
    case .ship(let units): change.level.onHand &+ units
    case .none, .uncommit: change.level.onHand
    }
  }

  @inline(__always)
  private mutating func nextByte() -> UInt8? {
    guard unsafe offset < bytes.count else { return nil }
    defer { offset += 1 }
    return unsafe bytes[offset]
  }

  @inline(__always)
  private mutating func number() -> UInt64? { VarintBytes.value { nextByte() } }

  @inline(__always)
  private mutating func signed() -> Int64? { VarintBytes.signedValue { nextByte() } }

  private mutating func text(_ count: Int) -> BorrowedBytes? {
    guard count > 0 else { return .empty }
    guard unsafe bytes.count - offset >= count, let base = unsafe bytes.baseAddress else {
      return nil
    }
    defer { offset += count }
    // It lies within the bytes.
    return unsafe BorrowedBytes(
      (base + offset).assumingMemoryBound(to: UInt8.self), count: count)
  }
}
