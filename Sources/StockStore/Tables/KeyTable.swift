internal import CPlatform

/// From an identity's tag to the slot of its record, guarded by the shard's lock. Open addressing with
/// eight-byte entries: tag, slot + 1 (0: empty). The tag's high bits give the home position, so that
/// neither growth nor removal looks at a record; removal shifts back what follows and leaves no trace.
@safe struct KeyTable: ~Copyable {
  private var entries: UnsafeMutablePointer<UInt64>
  private var entryCountLog2: Int
  private(set) var count = 0

  init() {
    entryCountLog2 = 4
    unsafe entries = Self.makeEntries(1 << 4)
  }

  deinit { unsafe entries.deallocate() }

  private static func makeEntries(_ count: Int) -> UnsafeMutablePointer<UInt64> {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: count * 8, alignment: 64)
    return unsafe memory.initializeMemory(as: UInt64.self, repeating: 0, count: count)
  }

  /// Bytes in use.
  var bytes: Int { capacity * 8 }

  private var capacity: Int {
    @inline(__always) get { 1 << entryCountLog2 }
  }

  /// The slot with this tag for which `matches` is true.
  @inline(__always)
  func find(_ tag: UInt32, _ matches: (UInt32) -> Bool) -> UInt32? {
    var index = home(tag)
    while true {
      let entry = unsafe entries[index]
      if entry == 0 { return nil }
      if UInt32(truncatingIfNeeded: entry >> 32) == tag {
        let slot = UInt32(truncatingIfNeeded: entry) &- 1
        if matches(slot) { return slot }
      }
      index = (index + 1) & (capacity - 1)
    }
  }

  /// Fetches where the tag's search begins.
  @inline(__always)
  func prefetch(_ tag: UInt32) { unsafe hf_prefetch(entries + home(tag)) }

  /// Makes room for `entryCount` entries at once.
  mutating func reserve(_ entryCount: Int) {
    while (entryCount + 1) * 8 > capacity * 7 { grow() }
  }

  /// Adds an entry that is not there yet.
  mutating func insert(_ tag: UInt32, _ slot: UInt32) {
    // At most 7/8 full: the table is walked under one lock and its entries lie side by side, so that
    // the 32 steps of a miss in a full table stay within a few cache lines.
    if (count + 1) * 8 > capacity * 7 { grow() }
    count += 1
    place(UInt64(tag) << 32 | UInt64(slot + 1))
  }

  /// Removes the entry; it must be there.
  mutating func remove(_ tag: UInt32, _ slot: UInt32) {
    let wanted = UInt64(tag) << 32 | UInt64(slot + 1)
    var hole = home(tag)
    while unsafe entries[hole] != wanted {
      if unsafe entries[hole] == 0 { return }
      hole = (hole + 1) & (capacity - 1)
    }
    count -= 1
    // Every entry behind the hole whose home is not behind it moves forward.
    var index = (hole + 1) & (capacity - 1)
    while true {
      let entry = unsafe entries[index]
      if entry == 0 { break }
      let distanceFromHome =
        (index - home(UInt32(truncatingIfNeeded: entry >> 32))) & (capacity - 1)
      if distanceFromHome >= (index - hole) & (capacity - 1) {
        unsafe entries[hole] = entry
        hole = index
      }
      index = (index + 1) & (capacity - 1)
    }
    unsafe entries[hole] = 0
  }

  private mutating func grow() {
    let old = unsafe entries
    let oldCapacity = capacity
    entryCountLog2 += 1
    unsafe entries = Self.makeEntries(capacity)
    for index in 0..<oldCapacity where unsafe old[index] != 0 { unsafe place(old[index]) }
    unsafe old.deallocate()
  }

  private mutating func place(_ entry: UInt64) {
    var index = home(UInt32(truncatingIfNeeded: entry >> 32))
    while unsafe entries[index] != 0 { index = (index + 1) & (capacity - 1) }
    unsafe entries[index] = entry
  }

  @inline(__always)
  private func home(_ tag: UInt32) -> Int { Int(tag >> UInt32(32 - entryCountLog2)) }
}
