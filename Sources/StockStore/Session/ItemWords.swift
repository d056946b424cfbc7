// The items' words: version << 1 | locked, and the highest bit where the item was removed (ItemWord). Whatever the strategy, who writes an item's balances locks its
// word before and unlocks it with the next version after. Balances are stored with release and loaded with
// acquire: a reader that got one of them sees the locked word too, so reading the same unlocked word
// before and after proves them consistent (a sequence lock).
internal import Posix
internal import Synchronization

extension StoreSession {
  /// How often the CPU is given to whoever keeps others from an item before that counts as a conflict:
  /// tens of milliseconds. It needs a few dozen instructions, so it is late only where the system has
  /// taken the CPU from it, and that is no reason to refuse a command.
  static let yieldsMax = 1 << 16

  /// The item's word, unlocked; nil where somebody kept it locked for long, which is counted.
  @inline(__always)
  func unlockedWord(_ ordinal: UInt32) -> UInt64? {
    let word = core.items[ordinal].word.load(ordering: .acquiring)
    return word & 1 == 0 ? word : waitForUnlock(ordinal)
  }

  @inline(never)
  private func waitForUnlock(_ ordinal: UInt32) -> UInt64? {
    // Not through `wait`, whose closure would be retained each time.
    counters.waits.add()
    var waiting = Waiting()
    while waiting.yields < Self.yieldsMax {
      waiting.once()
      let word = core.items[ordinal].word.load(ordering: .acquiring)
      if word & 1 == 0 { return word }
    }
    counters.conflictsLocked.add()
    noteConflict(ordinal)
    return nil
  }

  /// Whether what was read since `word` was is consistent; counts a conflict where it is not.
  @inline(__always)
  func isUnchanged(_ ordinal: UInt32, _ word: UInt64) -> Bool {
    if core.items[ordinal].word.load(ordering: .relaxed) == word { return true }
    counters.conflictsVersionChanged.add()
    noteConflict(ordinal)
    return false
  }

  /// Locks every item of `scratch.changes` whose word still is what was read, all or none; counts a
  /// conflict where one is not.
  @inline(__always)
  func lockAllIfUnchanged() -> Bool {
    for position in 0..<scratch.changes.count {
      let index = scratch.changes.lockOrder(position)
      if lockIfUnchanged(scratch.changes[index].ordinal, scratch.changes[index].word) { continue }
      for taken in 0..<position {
        let index = scratch.changes.lockOrder(taken)
        core.items[scratch.changes[index].ordinal].word.store(
          scratch.changes[index].word, ordering: .releasing)
      }
      return false
    }
    return true
  }

  @inline(__always)
  private func lockIfUnchanged(_ ordinal: UInt32, _ word: UInt64) -> Bool {
    let (exchanged, seen) = core.items[ordinal].word.compareExchange(
      expected: word, desired: word | 1, ordering: .acquiringAndReleasing)
    if exchanged { return true }
    noteConflict(ordinal)
    // Locked by somebody who read what we read: not changed yet.
    if seen == word | 1 {
      counters.conflictsLocked.add()
    } else {
      counters.conflictsVersionChanged.add()
    }
    return false
  }

  /// Locks every item of `scratch.changes` where nobody else can: for readers to see. No comparing is
  /// needed, and the balances are stored with release, behind this.
  @inline(__always)
  func lockAll() {
    for index in 0..<scratch.changes.count {
      core.items[scratch.changes[index].ordinal].word.store(
        scratch.changes[index].word | 1, ordering: .relaxed)
    }
  }

  /// Unlocks an item that was locked from `word`, with its next version.
  @inline(__always)
  func unlock(_ ordinal: UInt32, _ word: UInt64) {
    core.items[ordinal].word.store(word &+ 2, ordering: .releasing)
    counters.rowsAffected.add()
  }

  /// The balances as read since `word` was; consistent if the word has not changed. Of version 0 where there is no
  /// item, whether it was removed or is yet to be made.
  @inline(__always)
  func balances(_ ordinal: UInt32, _ word: UInt64) -> StockLevel {
    core.items.level(ordinal, version: ItemWord.isMade(word) ? word >> 1 : 0)
  }

  /// The version that a change of the item would give it.
  @inline(__always)
  func nextVersion(_ word: UInt64) -> UInt64 {
    word == 0 ? core.firstVersion : ItemWord.version(word) + 1
  }

  /// Waits until `isOver`, which is counted; false where that takes too long.
  @inline(never)
  func wait(yieldsMax: Int = StoreSession.yieldsMax, until isOver: () -> Bool) -> Bool {
    counters.waits.add()
    var waiting = Waiting()
    while waiting.yields < yieldsMax {
      waiting.once()
      if isOver() { return true }
    }
    return false
  }
}
