/// An adjustment of several that are tried at once.
struct GroupedAdjustment: BitwiseCopyable {
  var command: AdjustCommand
  /// Of the item's name.
  var hash: UInt64
  var before = StockLevel(item: ItemHandle(ordinal: 0), .none, version: 0)
  /// What becomes of the item, where there is no refusal.
  var after = StockLevel(item: ItemHandle(ordinal: 0), .none, version: 0)
  var refusal: Refusal?
  /// Its item's number in the write set; nil where there is nothing to be changed.
  var place: Int?

  init(_ command: AdjustCommand, hash: UInt64) {
    self.command = command
    self.hash = hash
  }

  /// The item comes to be.
  var makesItem: Bool { before.version == 0 }
}

/// Adjustments of different items that stand in one record.
struct AdjustmentGroup {
  private(set) var count = 0
  /// Bytes of the names.
  private(set) var nameBytes = 0
  /// Of the command, for the record.
  var scope = IdempotencyScope(caller: .empty, key: .empty)
  var reason = BorrowedBytes.empty
  var reference = BorrowedBytes.empty
  var fingerprint: UInt64 = 0
  var slot: UInt32 = 0
  var generation: UInt32 = 0
  /// Each is decided by itself: rows of an import.
  var isImport = false
  /// Of an import, after these.
  var nextRow: UInt64 = 0
  /// The one that the refusal of all is about.
  var refused: Int?
  private let adjustments = FixedArray<GroupedAdjustment>(
    capacity: StoreLimits.linesMax,
    repeating: GroupedAdjustment(
      AdjustCommand(
        scope: IdempotencyScope(caller: .empty, key: .empty),
        item: ItemName(sku: .empty, location: .empty), change: .none, safetyStock: nil,
        check: .none, reason: .empty), hash: 0))

  func free() { adjustments.free() }

  subscript(index: Int) -> GroupedAdjustment {
    @inline(__always) unsafeAddress { unsafe UnsafePointer(adjustments.address(index)) }
    @inline(__always) nonmutating unsafeMutableAddress { unsafe adjustments.address(index) }
  }

  mutating func removeAll() {
    count = 0
    isImport = false
    nameBytes = 0
    refused = nil
  }

  /// The caller has seen that there is room, and that the item is another than those that are there.
  mutating func append(_ command: AdjustCommand, hash: UInt64) {
    adjustments[count] = GroupedAdjustment(command, hash: hash)
    nameBytes += command.item.byteCount
    count += 1
  }

  /// - Parameter lines: how many changes there may be.
  func hasRoom(for name: ItemName, lines: Int) -> Bool {
    nameBytes + name.byteCount <= StoreLimits.adjustedNameBytesMax(lines: lines)
  }

  /// The adjustment of this item.
  func index(_ name: ItemName, _ hash: UInt64) -> Int? {
    for index in 0..<count where adjustments[index].hash == hash {
      let other = adjustments[index].command.item
      if other.sku.isEqual(name.sku), other.location.isEqual(name.location) { return index }
    }
    return nil
  }
}

extension ItemName {
  var byteCount: Int { sku.count + location.count }
}
