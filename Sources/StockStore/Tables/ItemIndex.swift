// From an item's hash to its record's number. 64 stripes by the hash's low bits, each an open-addressing
// table of eight-byte slots: the hash's high 32 bits, and the number + 1 (0: empty). The high bits give
// the home position too, so that a table grows without a look at any record. Items are never removed.
//
// Lookups take no lock: a slot is one atomic word, written once. A full table gets one of twice the size in
// its place, and each insertion copies a few slots on. Until all are there, a lookup that finds nothing in
// the larger table looks into the old one, which has all that it ever had. The old one is freed when every
// session has ended the turn in which it may have seen it (Epochs).
internal import CPlatform
internal import Synchronization

/// A handle, as Region.
package struct ItemIndex {
  private struct Stripe: ~Copyable {
    let lock = SpinLock()
    let table: Atomic<UInt>
    /// While the table grows, the one that it takes the place of; else 0.
    let old = Atomic<UInt>(0)
    /// Guarded by the lock.
    var count = 0
    /// Slots of the old table that were copied; guarded by the lock.
    var copied = 0

    init(_ table: IndexTable) { self.table = Atomic(table.packed) }
  }

  /// Slots of the old table that an insertion copies, in a microsecond. Two would do to be done in time, but
  /// until all are there, look-ups go to both tables, and a shop may stop adding items in between.
  static let slotsPerInsertion = 256
  /// A table of no more slots is copied at once.
  static let slotsCopiedAtOnce = 512
  static let stripeCount = 64

  private let stripes = PaddedArray<Stripe>(count: ItemIndex.stripeCount) { _ in
    Stripe(IndexTable(slotCountLog2: 3))
  }

  func free() {
    for stripe in 0..<Self.stripeCount {
      old(stripe)?.free()
      table(stripe).free()
    }
    stripes.free()
  }

  /// Bytes in use.
  var bytes: Int {
    (0..<Self.stripeCount).reduce(0) { bytes, stripe in
      bytes + table(stripe).byteCount + (old(stripe)?.byteCount ?? 0)
    }
  }

  /// The number of the record with this hash for which `matches` is true.
  @inline(__always)
  package func find(_ hash: UInt64, _ matches: (UInt32) -> Bool) -> UInt32? {
    let stripe = stripe(hash)
    let tag = UInt32(truncatingIfNeeded: hash >> 32)
    let table = table(stripe)
    if let ordinal = table.find(tag, matches) { return ordinal }
    return table.isGrowing ? findInOld(table, stripe, tag, matches) : nil
  }

  /// What `table` did not have while it grew.
  @inline(never)
  private func findInOld(
    _ table: IndexTable, _ stripe: Int, _ tag: UInt32, _ matches: (UInt32) -> Bool
  ) -> UInt32? {
    // Where there is no old table any more, all of it is in this one by now. Where it is a later one, that is
    // this one or has all that it had.
    (old(stripe) ?? table).find(tag, matches)
  }

  /// Fetches where the hash's search begins.
  @inline(__always)
  package func prefetch(_ hash: UInt64) {
    table(stripe(hash)).prefetch(UInt32(truncatingIfNeeded: hash >> 32))
  }

  /// The number of the first record whose hash may be this one: worth fetching.
  @inline(__always)
  func candidate(_ hash: UInt64) -> UInt32? { find(hash) { _ in true } }

  @inline(__always)
  func lock(_ hash: UInt64) { stripes[stripe(hash)].lock.lock() }

  @inline(__always)
  func unlock(_ hash: UInt64) { stripes[stripe(hash)].lock.unlock() }

  /// Puts a record into the index. The caller holds the stripe's lock and knows that it is not there.
  /// The table that was replaced, for the caller to retire; else nil.
  package func insert(_ hash: UInt64, _ ordinal: UInt32) -> IndexTable? {
    let stripe = stripe(hash)
    var replaced = table(stripe).isGrowing ? copySlots(stripe, Self.slotsPerInsertion) : nil
    stripes[stripe].count += 1
    // At most 3/4 full: a miss then probes 8.5 slots on average, and a hit 2.5.
    let current = table(stripe)
    if stripes[stripe].count * 4 > current.slotCount * 3 {
      precondition(!current.isGrowing, "a table is full before all of the old one is in it")
      let larger = IndexTable(slotCountLog2: current.slotCountLog2 + 1, isGrowing: true)
      // In this order: whoever sees the larger table must see that there is an old one.
      stripes[stripe].old.store(current.packed, ordering: .releasing)
      stripes[stripe].table.store(larger.packed, ordering: .releasing)
      if current.slotCount <= Self.slotsCopiedAtOnce { replaced = copySlots(stripe, .max) }
    }
    table(stripe).insert(UInt64(hash >> 32) << 32 | UInt64(ordinal + 1))
    return replaced
  }

  /// Makes room for about so many records at once, before the first is put in. Only while one thread has the
  /// index to itself, and nobody waits.
  package func reserve(_ count: Int) {
    let countOfEach = count / Self.stripeCount
    var slotCountLog2 = table(0).slotCountLog2
    while countOfEach * 4 > (1 << slotCountLog2) * 3 { slotCountLog2 += 1 }
    for stripe in 0..<Self.stripeCount
    where stripes[stripe].count == 0 && slotCountLog2 > table(stripe).slotCountLog2 {
      table(stripe).free()
      let larger = IndexTable(slotCountLog2: slotCountLog2)
      stripes[stripe].table.store(larger.packed, ordering: .releasing)
    }
  }

  /// Copies so many further slots from the old table. That one where it was the last of them; else nil.
  private func copySlots(_ stripe: Int, _ count: Int) -> IndexTable? {
    guard let old = old(stripe) else { return nil }
    let table = table(stripe)
    let first = stripes[stripe].copied
    let end = first + min(count, old.slotCount - first)
    for index in first..<end {
      let slot = old.load(index)
      if slot != 0 { table.insert(slot) }
    }
    stripes[stripe].copied = end
    if end < old.slotCount { return nil }
    stripes[stripe].copied = 0
    // In this order: whoever sees no old table must see all that was copied.
    stripes[stripe].old.store(0, ordering: .releasing)
    stripes[stripe].table.store(table.grown.packed, ordering: .releasing)
    return old
  }

  @inline(__always)
  private func stripe(_ hash: UInt64) -> Int {
    Int(truncatingIfNeeded: hash) & (Self.stripeCount - 1)
  }

  @inline(__always)
  private func table(_ stripe: Int) -> IndexTable {
    IndexTable(packed: stripes[stripe].table.load(ordering: .acquiring))
  }

  private func old(_ stripe: Int) -> IndexTable? {
    let packed = stripes[stripe].old.load(ordering: .acquiring)
    return packed == 0 ? nil : IndexTable(packed: packed)
  }
}

/// One stripe's slots: address and size in one word, so that both are read in one load.
package struct IndexTable {
  private static let growing: UInt = 32

  /// The slots' address, with the logarithm of their number in the low five bits, and in the next whether
  /// there is an old table from which not all was copied.
  let packed: UInt

  init(packed: UInt) { self.packed = packed }

  init(slotCountLog2: Int, isGrowing: Bool = false) {
    precondition(slotCountLog2 < Self.growing, "more slots than items")
    let count = 1 << slotCountLog2
    // A slot is one word, and 0 for none.
    let memory = unsafe ZeroedMemory.allocate(byteCount: count * 8)
    _ = unsafe memory.bindMemory(to: Atomic<UInt64>.self, capacity: count)
    packed = UInt(bitPattern: memory) | UInt(slotCountLog2) | (isGrowing ? Self.growing : 0)
  }

  package func free() {
    unsafe ZeroedMemory.free(UnsafeMutableRawPointer(slots), byteCount: byteCount)
  }

  @inline(__always)
  var isGrowing: Bool { packed & Self.growing != 0 }

  /// The same, once it has all of the old one.
  var grown: IndexTable { IndexTable(packed: packed & ~Self.growing) }

  @inline(__always)
  var slotCount: Int { 1 << slotCountLog2 }

  var byteCount: Int { slotCount * 8 }

  @inline(__always)
  func find(_ tag: UInt32, _ matches: (UInt32) -> Bool) -> UInt32? {
    var index = home(tag)
    while true {
      let slot = load(index)
      if slot == 0 { return nil }
      if UInt32(truncatingIfNeeded: slot >> 32) == tag {
        let ordinal = UInt32(truncatingIfNeeded: slot) &- 1
        if matches(ordinal) { return ordinal }
      }
      index = (index + 1) & (slotCount - 1)
    }
  }

  @inline(__always)
  func prefetch(_ tag: UInt32) { unsafe hf_prefetch_read(slots + home(tag)) }

  /// Writes the slot behind all it must come after. The caller holds the stripe's lock.
  func insert(_ slot: UInt64) {
    var index = home(UInt32(truncatingIfNeeded: slot >> 32))
    while load(index) != 0 { index = (index + 1) & (slotCount - 1) }
    // Who sees the number must see the record's key: release.
    unsafe slots[index].store(slot, ordering: .releasing)
  }

  @inline(__always)
  fileprivate var slotCountLog2: Int { Int(packed & 31) }

  @inline(__always)
  private var slots: UnsafeMutablePointer<Atomic<UInt64>> {
    // The word was made from an aligned address that is not null.
    unsafe UnsafeMutablePointer(bitPattern: packed & ~63).unsafelyUnwrapped
  }

  @inline(__always)
  private func home(_ tag: UInt32) -> Int { Int(tag >> UInt32(32 - slotCountLog2)) }

  @inline(__always)
  fileprivate func load(_ index: Int) -> UInt64 { unsafe slots[index].load(ordering: .acquiring) }
}
