// From an identity's tag to the slot of its record, guarded by the shard's lock. Open addressing with
// eight-byte entries: tag, slot + 1 (0: empty). The tag's high bits give the home position, so that
// neither growth nor removal looks at a record; removal shifts back what follows and leaves no trace.
//
// A table that is full gets one of twice the size beside it, and each insertion moves a few entries on,
// from the front: nobody waits for all of them. Homes keep their order in the larger table, and a search
// goes on to the right and never around, into some slack behind the last home. So the entries move
// run by run, where a run ends at an empty place: those whose home is before a boundary are all in the
// new table, the others in the old one, and each search looks into one of the two.
internal import CPlatform

@safe struct KeyTable: ~Copyable {
  /// What stands in front of a table's entries.
  @unsafe private struct Growth {
    /// The table that this one takes the place of; nil where none is left.
    var old: UnsafeMutablePointer<UInt64>?
    /// Places of the old table whose entries have moved.
    var moved: Int
    /// Bytes of the old table that are given back already.
    var freedBytes: Int
    /// Bytes of this table whose pages were filled while entries moved here.
    var filledBytes: Int
  }

  /// In front of the entries, a cache line.
  private static let headerBytes = 64
  /// Places of the old table that an insertion goes through. Two would do to be done in time.
  static let placesPerInsertion = 32
  /// A table of no more homes is moved at once.
  static let homesMovedAtOnce = 512
  /// The pages that entries move to are filled in such pieces: a fault for each costs twice as much.
  private static let bytesFilledAtOnce = 64 * 1024
  /// The old table is given back in such pieces.
  private static let bytesPerPiece = 256 * 1024
  private static let allHomes = UInt32.max

  private var entries: UnsafeMutablePointer<UInt64>
  /// Entries whose home is before are in this table; `allHomes` where there is no other.
  private var movedHomes = KeyTable.allHomes
  private var entryCount: UInt32 = 0
  /// Of a tag, down to its home.
  private var shift: UInt32

  var count: Int { Int(entryCount) }

  /// Entries are being moved.
  var isGrowing: Bool { movedHomes != Self.allHomes }

  init() {
    shift = 32 - 4
    unsafe entries = Self.makeEntries(homesLog2: 4)
  }

  deinit {
    unsafe Self.freeOld(Self.growth(entries), shift: shift)
    unsafe Self.free(entries, shift: shift, after: 0)
  }

  // MARK: Memory

  /// Homes, and the slack behind them, whose last place stays empty. What does not fit in front of the end is a queue
  /// of one step for each home: in a table that is 3/4 full it is longer than k with a chance of e^(-0.55 k), in one
  /// that is growing, and a little fuller, of e^(-0.45 k).
  private static func placeCount(shift: UInt32) -> Int {
    let homes = 1 << Int(32 - shift)
    return homes + min(homes / 8, 256) + 8
  }

  private static func byteCount(shift: UInt32) -> Int { headerBytes + placeCount(shift: shift) * 8 }

  /// - Parameter isFilled: as ZeroedMemory's.
  private static func makeEntries(
    homesLog2: UInt32, isFilled: Bool = false
  ) -> UnsafeMutablePointer<UInt64> {
    let byteCount = byteCount(shift: 32 - homesLog2)
    let memory = unsafe ZeroedMemory.allocate(byteCount: byteCount, isFilled: isFilled)
    unsafe memory.bindMemory(to: Growth.self, capacity: 1)
      .initialize(to: Growth(old: nil, moved: 0, freedBytes: 0, filledBytes: 0))
    return unsafe (memory + headerBytes).bindMemory(
      to: UInt64.self, capacity: placeCount(shift: 32 - homesLog2))
  }

  /// The header in front of `entries`, which `makeEntries` has made.
  private static func growth(
    _ entries: UnsafeMutablePointer<UInt64>
  ) -> UnsafeMutablePointer<Growth> {
    unsafe (UnsafeMutableRawPointer(entries) - headerBytes).assumingMemoryBound(to: Growth.self)
  }

  private static func free(
    _ entries: UnsafeMutablePointer<UInt64>, shift: UInt32, after freedBytes: Int
  ) {
    let memory = unsafe UnsafeMutableRawPointer(entries) - headerBytes
    let byteCount = byteCount(shift: shift)
    unsafe ZeroedMemory.free(memory, byteCount: byteCount, after: freedBytes)
  }

  /// Frees what is left of the old table, if there is one, of a table with this shift.
  private static func freeOld(_ growth: UnsafeMutablePointer<Growth>, shift: UInt32) {
    if let old = unsafe growth.pointee.old {
      unsafe free(old, shift: shift + 1, after: growth.pointee.freedBytes)
      unsafe growth.pointee.old = nil
    }
  }

  /// Bytes in use.
  var bytes: Int {
    let growth = unsafe Self.growth(entries)
    let old =
      unsafe growth.pointee.old == nil
      ? 0 : Self.byteCount(shift: shift + 1) - growth.pointee.freedBytes
    return Self.byteCount(shift: shift) + old
  }

  private var capacity: Int { 1 << Int(32 - shift) }

  @inline(__always)
  private func home(_ tag: UInt32) -> UInt32 { tag &>> shift }

  /// Where the search for the tag begins. It ends at the next empty place, of which there is one.
  @inline(__always)
  private func firstPlace(_ tag: UInt32) -> UnsafeMutablePointer<UInt64> {
    let home = home(tag)
    if home < movedHomes { return unsafe entries + Int(home) }
    return unsafe oldPlace(home)
  }

  /// - Parameter home: one that is not moved, so there is an old table.
  @inline(never)
  private func oldPlace(_ home: UInt32) -> UnsafeMutablePointer<UInt64> {
    unsafe Self.growth(entries).pointee.old.unsafelyUnwrapped + Int(home >> 1)
  }

  // MARK: Entries

  /// The slot with this tag for which `matches` is true.
  @inline(__always)
  func find(_ tag: UInt32, _ matches: (UInt32) -> Bool) -> UInt32? {
    var place = unsafe firstPlace(tag)
    while true {
      let entry = unsafe place.pointee
      if entry == 0 { return nil }
      if UInt32(truncatingIfNeeded: entry >> 32) == tag {
        let slot = UInt32(truncatingIfNeeded: entry) &- 1
        if matches(slot) { return slot }
      }
      unsafe place += 1
    }
  }

  /// Fetches where the tag's search begins.
  @inline(__always)
  func prefetch(_ tag: UInt32) { unsafe hf_prefetch(firstPlace(tag)) }

  /// Where the entries lie and how many homes there are, in one word: for who has no lock.
  @inline(__always)
  var place: UInt { unsafe UInt(bitPattern: entries) | UInt(32 - shift) }

  /// `prefetch` by what `place` was some time ago. A hint: the entries may have moved since.
  ///
  /// A search is a few entries long: of where it begins, and seven entries on, the one is often the same cache
  /// line as the other, and where it is not, both are looked at.
  @inline(__always)
  static func prefetch(_ tag: UInt32, at place: UInt) {
    // The entries are aligned to a cache line.
    let home = UInt(tag &>> UInt32(truncatingIfNeeded: 32 - place & 63))
    let address = place & ~63 &+ home &* 8
    unsafe hf_prefetch(UnsafeRawPointer(bitPattern: address))
    unsafe hf_prefetch(UnsafeRawPointer(bitPattern: address &+ 56))
  }

  /// Makes room for `wanted` entries at once. Nobody waits.
  mutating func reserve(_ wanted: Int) {
    var log2 = 32 - shift
    while (wanted + 1) * 4 > (1 << Int(log2)) * 3 { log2 += 1 }
    if log2 > 32 - shift { rebuild(homesLog2: log2, isFilled: true) }
  }

  /// Adds an entry that is not there yet.
  mutating func insert(_ tag: UInt32, _ slot: UInt32) {
    if isGrowing { moveEntries(Self.placesPerInsertion) }
    // At most 3/4 full: every new decision is a miss, of 8.5 steps in a full table. At 7/8 it would be 32, a
    // sixth of what a Reserve in a batch costs.
    if (count + 1) * 4 > capacity * 3 { grow() }
    let entry = UInt64(tag) << 32 | UInt64(slot + 1)
    while !place(entry, isMoved: home(tag) < movedHomes) { rebuild(homesLog2: 33 - shift) }
    entryCount += 1
  }

  /// Removes the entry, if it is there.
  mutating func remove(_ tag: UInt32, _ slot: UInt32) {
    let wanted = UInt64(tag) << 32 | UInt64(slot + 1)
    // Of the table that the entry is in: homes are numbered in places from its first one.
    let isMoved = home(tag) < movedHomes
    let shift = isMoved ? shift : shift + 1
    let first = unsafe firstPlace(tag) - Int(tag &>> shift)
    var hole = Int(tag &>> shift)
    while unsafe first[hole] != wanted {
      if unsafe first[hole] == 0 { return }
      hole += 1
    }
    entryCount -= 1
    // Every entry behind the hole whose home is not behind it moves forward.
    var index = hole + 1
    while true {
      let entry = unsafe first[index]
      if entry == 0 { break }
      if Int(UInt32(truncatingIfNeeded: entry >> 32) &>> shift) <= hole {
        unsafe first[hole] = entry
        hole = index
      }
      index += 1
    }
    unsafe first[hole] = 0
  }

  /// Puts an entry into this table or the old one; false where there is no place left to the right of its
  /// home.
  private func place(_ entry: UInt64, isMoved: Bool) -> Bool {
    let tag = UInt32(truncatingIfNeeded: entry >> 32)
    let shift = isMoved ? shift : shift + 1
    let home = Int(tag &>> shift)
    let first = unsafe isMoved ? entries : oldPlace(0)
    // The last place stays empty, so that every search ends.
    let last = Self.placeCount(shift: shift) - 1
    var index = home
    while unsafe first[index] != 0 { index += 1 }
    if index == last { return false }
    unsafe first[index] = entry
    return true
  }

  // MARK: Growth

  /// Goes over to a table of twice the size: little by little, where there is much to move.
  private mutating func grow() {
    if isGrowing { moveEntries(.max) }
    let old = unsafe entries
    shift -= 1
    unsafe entries = Self.makeEntries(homesLog2: 32 - shift)
    unsafe Self.growth(entries).pointee.old = old
    movedHomes = 0
    if capacity / 2 <= Self.homesMovedAtOnce { moveEntries(.max) }
  }

  /// Moves the entries in at least `wanted` further places, up to the next empty one.
  @inline(never)
  private mutating func moveEntries(_ wanted: Int) {
    let growth = unsafe Self.growth(entries)
    guard let old = unsafe growth.pointee.old else { return }
    let end = Self.placeCount(shift: shift + 1)
    var index = unsafe growth.pointee.moved
    let enough = wanted < end - index ? index + wanted : end
    // The homes of what is at a place of the old table are up to twice as far on.
    unsafe fillPages(through: enough * 2, growth)
    while index < end {
      // Below the old table's number of places.
      let entry = unsafe old[index]
      if entry == 0 {
        if index >= enough { break }
      } else if !place(entry, isMoved: true) {
        unsafe growth.pointee.moved = index
        return rebuild(homesLog2: 33 - shift)
      }
      index += 1
    }
    unsafe growth.pointee.moved = index
    if index == end {
      unsafe Self.freeOld(growth, shift: shift)
      movedHomes = Self.allHomes
      return
    }
    // The place at `index` is empty, so nothing behind it has its home before.
    movedHomes = UInt32(min(index, capacity / 2)) * 2
    let passed = Self.headerBytes + index * 8
    while unsafe passed - growth.pointee.freedBytes >= Self.bytesPerPiece {
      unsafe ZeroedMemory.freePages(
        of: UnsafeMutableRawPointer(old) - Self.headerBytes,
        byteCount: Self.byteCount(shift: shift + 1), growth.pointee.freedBytes,
        count: Self.bytesPerPiece)
      unsafe growth.pointee.freedBytes += Self.bytesPerPiece
    }
  }

  /// Has the pages filled up to this place, and of some places behind it.
  private func fillPages(through place: Int, _ growth: UnsafeMutablePointer<Growth>) {
    let byteCount = Self.byteCount(shift: shift)
    let wanted = min(Self.headerBytes + place * 8, byteCount)
    while unsafe growth.pointee.filledBytes < wanted {
      let filled = unsafe growth.pointee.filledBytes
      let count = min(Self.bytesFilledAtOnce, byteCount - filled)
      unsafe ZeroedMemory.fillPages(
        of: UnsafeMutableRawPointer(entries) - Self.headerBytes, byteCount: byteCount, filled,
        count: count)
      unsafe growth.pointee.filledBytes += count
    }
  }

  /// Makes one table of both at once: before many entries are added, and where chance has filled the
  /// slack.
  private mutating func rebuild(homesLog2: UInt32, isFilled: Bool = false) {
    let (before, beforeShift) = unsafe (entries, shift)
    let growth = unsafe Self.growth(before)
    shift = 32 - homesLog2
    unsafe entries = Self.makeEntries(homesLog2: homesLog2, isFilled: isFilled)
    movedHomes = Self.allHomes
    var fits = unsafe placeAll(before, 0..<Self.placeCount(shift: beforeShift))
    if let old = unsafe growth.pointee.old {
      let rest = unsafe growth.pointee.moved..<Self.placeCount(shift: beforeShift + 1)
      fits = unsafe placeAll(old, rest) && fits
    }
    if !fits {
      // Once more from what was, into twice as much.
      unsafe Self.free(entries, shift: shift, after: 0)
      unsafe (entries, shift) = (before, beforeShift)
      return rebuild(homesLog2: homesLog2 + 1)
    }
    unsafe Self.freeOld(growth, shift: beforeShift)
    unsafe Self.free(before, shift: beforeShift, after: 0)
  }

  /// Puts all entries of another table into this one; false where one finds no place.
  private func placeAll(_ other: UnsafeMutablePointer<UInt64>, _ places: Range<Int>) -> Bool {
    for index in places where unsafe other[index] != 0 {
      if unsafe !place(other[index], isMoved: true) { return false }
    }
    return true
  }
}
