/// What a commit does to one item.
struct ItemChange {
  var ordinal: UInt32 = 0
  /// Units that must be available; 0: the change is made whatever is there.
  var required: Int64 = 0
  var onHandChange: Int64 = 0
  var heldChange: Int64 = 0
  var committedChange: Int64 = 0
  /// What was read of the item.
  var word: UInt64 = 0
  var before = Balances.none

  /// What becomes of the item.
  var after: Balances {
    @inline(__always) get {
      Balances(
        onHand: before.onHand &+ onHandChange, held: before.held &+ heldChange,
        committed: before.committed &+ committedChange, safetyStock: before.safetyStock)
    }
  }

  /// Of a confirm: the units that are sold, from on hand or as committed.
  var sold: Int64 {
    @inline(__always) get { committedChange - onHandChange }
  }

  /// Sells `units` more: they leave the house, or stay on hand as committed.
  mutating func sell(_ units: Int64, keepCommitted: Bool) {
    if keepCommitted { committedChange += units } else { onHandChange -= units }
  }

  /// What the item, as it was read, lacks for the change; nil where it has all. A hold needs units on offer.
  /// A sale that takes units out of the house needs them there: of who holds units or has bought some, the
  /// first to take them gets them.
  @inline(__always)
  var lack: (requested: Int64, available: Int64)? {
    if required > 0, before.available < required { return (required, before.available) }
    if onHandChange < 0, before.onHand &+ onHandChange < 0 { return (-onHandChange, before.onHand) }
    return nil
  }

  /// Whether the change of the item, as it was read, would leave what no change may: balances below zero, more
  /// promised than there was to promise.
  @inline(__always)
  var breaksInvariants: Bool {
    let after = after
    if after.onHand < 0 || after.held < 0 || after.committed < 0 { return true }
    return required > 0 ? after.available < 0 : after.unpromised < before.unpromised
  }
}

/// What a commit does, each item once.
struct WriteSet {
  private let changes: FixedArray<ItemChange>
  private(set) var count = 0
  /// Indices of `changes` by item number.
  private let order: FixedArray<UInt8>
  /// What the changes have to keep.
  var limits = LimitSet()

  init(capacity: Int) {
    changes = FixedArray(capacity: capacity, repeating: ItemChange())
    order = FixedArray(capacity: capacity, repeating: 0)
  }

  func free() {
    changes.free()
    order.free()
  }

  subscript(index: Int) -> ItemChange {
    @inline(__always) unsafeAddress { unsafe UnsafePointer(changes.address(index)) }
    @inline(__always) nonmutating unsafeMutableAddress { unsafe changes.address(index) }
  }

  /// The index of the change that is to be locked at `position`.
  @inline(__always)
  func lockOrder(_ position: Int) -> Int { Int(order[position]) }

  /// The item that is to be locked at `position`.
  @inline(__always)
  func ordinal(lockedAt position: Int) -> UInt32 { changes[lockOrder(position)].ordinal }

  mutating func removeAll() {
    count = 0
    limits.removeAll()
  }

  /// Adds a change of an item that is not there yet.
  @inline(__always)
  mutating func append(_ change: ItemChange) {
    assert(index(change.ordinal) == nil, "an item that is there already")
    changes[count] = change
    var position = count
    while position > 0, changes[Int(order[position - 1])].ordinal > change.ordinal {
      order[position] = order[position - 1]
      position -= 1
    }
    order[position] = UInt8(truncatingIfNeeded: count)
    count += 1
  }

  /// Leaves out what changes nothing.
  mutating func removeUnchanged() {
    let gathered = count
    guard (0..<gathered).contains(where: { changes[$0].heldChange == 0 }) else { return }
    removeAll()
    // As below.
    for index in 0..<gathered where changes[index].heldChange != 0 { append(changes[index]) }
  }

  /// Turns a sale of held units into one of units that must be available: what is not sold of an
  /// expired hold is not touched.
  mutating func turnIntoReacquiring() {
    let gathered = count
    removeAll()
    // The set is filled from the front again, behind what is read.
    for index in 0..<gathered where changes[index].sold != 0 {
      let sale = changes[index]
      append(
        ItemChange(
          ordinal: sale.ordinal, required: sale.sold, onHandChange: sale.onHandChange,
          committedChange: sale.committedChange))
    }
  }

  /// The index of the change of this item.
  @inline(__always)
  func index(_ ordinal: UInt32) -> Int? {
    for index in 0..<count where changes[index].ordinal == ordinal { return index }
    return nil
  }
}
