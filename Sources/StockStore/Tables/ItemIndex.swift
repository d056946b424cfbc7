// From an item's hash to its record's number. 64 stripes by the hash's low bits, each an open-addressing
// table of eight-byte slots: the hash's high 32 bits, and the number + 1 (0: empty). The high bits give
// the home position too, so that a table grows without a look at any record. Items are never removed.
//
// Lookups take no lock: a slot is one atomic word, written once. A full table is replaced by a larger
// copy, and who still reads the old one sees all that it held; the old one is freed when every session
// has ended the turn in which it may have seen it (Epochs).
internal import CPlatform
internal import Synchronization

/// A handle, as Region.
package struct ItemIndex {
  private struct Stripe: ~Copyable {
    let lock = SpinLock()
    let table: Atomic<UInt>
    /// Guarded by the lock.
    var count = 0

    init(_ table: IndexTable) { self.table = Atomic(table.packed) }
  }

  static let stripeCount = 64

  private let stripes = PaddedArray<Stripe>(count: ItemIndex.stripeCount) { _ in
    Stripe(IndexTable(slotCountLog2: 3))
  }

  func free() {
    for stripe in 0..<Self.stripeCount { table(stripe).free() }
    stripes.free()
  }

  /// Bytes in use.
  var bytes: Int { (0..<Self.stripeCount).reduce(0) { $0 + table($1).slotCount * 8 } }

  /// The number of the record with this hash for which `matches` is true.
  @inline(__always)
  package func find(_ hash: UInt64, _ matches: (UInt32) -> Bool) -> UInt32? {
    table(stripe(hash)).find(UInt32(truncatingIfNeeded: hash >> 32), matches)
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
  /// The table that this replaced, for the caller to retire; else nil.
  package func insert(_ hash: UInt64, _ ordinal: UInt32) -> IndexTable? {
    let stripe = stripe(hash)
    let old = table(stripe)
    var current = old
    stripes[stripe].count += 1
    // At most 3/4 full: a miss then probes 8.5 slots on average, and a hit 2.5.
    if stripes[stripe].count * 4 > old.slotCount * 3 {
      current = old.doubled()
      stripes[stripe].table.store(current.packed, ordering: .releasing)
    }
    current.insert(UInt64(hash >> 32) << 32 | UInt64(ordinal + 1))
    return current.packed == old.packed ? nil : old
  }

  @inline(__always)
  private func stripe(_ hash: UInt64) -> Int {
    Int(truncatingIfNeeded: hash) & (Self.stripeCount - 1)
  }

  @inline(__always)
  private func table(_ stripe: Int) -> IndexTable {
    IndexTable(packed: stripes[stripe].table.load(ordering: .acquiring))
  }
}

/// One stripe's slots: address and size in one word, so that both are read in one load.
package struct IndexTable {
  private static let alignment = 64

  /// The slots' address, with the logarithm of their number in the low six bits.
  let packed: UInt

  init(packed: UInt) { self.packed = packed }

  init(slotCountLog2: Int) {
    let count = 1 << slotCountLog2
    let memory = UnsafeMutableRawPointer.allocate(byteCount: count * 8, alignment: Self.alignment)
    let slots = unsafe memory.bindMemory(to: Atomic<UInt64>.self, capacity: count)
    for index in 0..<count { unsafe (slots + index).initialize(to: Atomic(0)) }
    packed = UInt(bitPattern: memory) | UInt(slotCountLog2)
  }

  package func free() { unsafe UnsafeMutableRawPointer(slots).deallocate() }

  @inline(__always)
  var slotCount: Int { 1 << slotCountLog2 }

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

  func doubled() -> IndexTable {
    let larger = IndexTable(slotCountLog2: slotCountLog2 + 1)
    for index in 0..<slotCount {
      let slot = load(index)
      if slot != 0 { larger.insert(slot) }
    }
    return larger
  }

  @inline(__always)
  private var slotCountLog2: Int { Int(packed & 63) }

  @inline(__always)
  private var slots: UnsafeMutablePointer<Atomic<UInt64>> {
    // The word was made from an aligned address that is not null.
    unsafe UnsafeMutablePointer(bitPattern: packed & ~63).unsafelyUnwrapped
  }

  @inline(__always)
  private func home(_ tag: UInt32) -> Int { Int(tag >> UInt32(32 - slotCountLog2)) }

  @inline(__always)
  private func load(_ index: Int) -> UInt64 { unsafe slots[index].load(ordering: .acquiring) }
}
