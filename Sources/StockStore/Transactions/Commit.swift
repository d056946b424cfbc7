// The commit protocol (optimistic concurrency control):
//   1. read each item's word and balances, and decide;
//   2. compare-and-swap each word, in the order of the items' numbers, from what was read to locked;
//      a word that has changed is a conflict: unlock, count, back off, begin again;
//   3. under the locks: take the log sequence number, write the balances;
//   4. unlock each word with its version + 1.
// Balances are stored with release and loaded with acquire: a reader that got one of them sees the
// locked word too, so reading the same unlocked word before and after proves them consistent.
internal import CPlatform
internal import Synchronization

#if canImport(Glibc)
  internal import Glibc
#else
  internal import Darwin
#endif

/// What a commit does to one item.
struct ItemChange {
  var ordinal: UInt32 = 0
  /// Units that must be available; 0: the change is made whatever is there.
  var required: Int64 = 0
  var onHandChange: Int64 = 0
  var heldChange: Int64 = 0
  /// What was read of the item.
  var word: UInt64 = 0
  var onHand: Int64 = 0
  var held: Int64 = 0
}

/// What a commit does, each item once.
struct WriteSet {
  private let changes: FixedArray<ItemChange>
  private(set) var count = 0
  /// Indices of `changes` by item number.
  private let order: FixedArray<UInt8>

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

  mutating func removeAll() { count = 0 }

  /// Adds a change of an item that is not there yet.
  @inline(__always)
  mutating func append(_ change: ItemChange) {
    changes[count] = change
    var position = count
    while position > 0, changes[Int(order[position - 1])].ordinal > change.ordinal {
      order[position] = order[position - 1]
      position -= 1
    }
    order[position] = UInt8(truncatingIfNeeded: count)
    count += 1
  }

  /// Turns a sale of held units into one of units that must be available: what is not sold of an
  /// expired hold is not touched.
  mutating func turnIntoReacquiring() {
    let gathered = count
    removeAll()
    // The set is filled from the front again, behind what is read.
    for index in 0..<gathered where changes[index].onHandChange != 0 {
      let sale = changes[index]
      append(
        ItemChange(
          ordinal: sale.ordinal, required: -sale.onHandChange, onHandChange: sale.onHandChange))
    }
  }

  /// The index of the change of this item.
  @inline(__always)
  func index(_ ordinal: UInt32) -> Int? {
    for index in 0..<count where changes[index].ordinal == ordinal { return index }
    return nil
  }
}

enum CommitResult {
  case committed(lsn: UInt64)
  /// The change at `index` lacks units.
  case insufficient(index: Int, available: Int64)
  case tooBusy
}

enum Attempt<Result> {
  case done(Result)
  case conflict
}

/// How often a commit is tried, and how long it waits in between.
enum RetryPolicy {
  static let attemptsMax = SessionCounters.attemptsMax
  static let immediateRetries = 3
  /// How often the CPU is given to whoever holds an item's lock before that counts as a conflict:
  /// tens of milliseconds. The holder does a few dozen instructions, so it is late only where the
  /// system has taken the CPU from it, and that is no reason to refuse a command.
  static let yieldsMax = 1 << 16
  static let pausesMax: UInt64 = 4096
}

extension StoreSession {
  /// Makes the changes in `scratch.changes`, all or none.
  /// - Parameter untilDone: goes on whatever the number of attempts.
  func commit(untilDone: Bool = false) -> CommitResult {
    let result = retry(untilDone: untilDone) {
      switch core.concurrency {
      case .optimistic: attemptCommit()
      case .uncheckedForDemonstration: commitUnchecked()
      case .lateNumberForDemonstration: commitNumberedLate()
      }
    }
    return result ?? .tooBusy
  }

  /// Calls `attempt` until it is done; nil after the last attempt.
  @inline(__always)
  func retry<Result>(untilDone: Bool, _ attempt: () -> Attempt<Result>) -> Result? {
    var attempts = 1
    while true {
      if case .done(let result) = attempt() {
        counters.commitsByAttempts[min(attempts, RetryPolicy.attemptsMax) - 1].add()
        return result
      }
      if attempts >= RetryPolicy.attemptsMax && !untilDone {
        counters.tooBusy.add()
        return nil
      }
      backOff(attempts)
      attempts += 1
    }
  }

  private func attemptCommit() -> Attempt<CommitResult> {
    if let result = readAll() { return result }
    writeLines()
    guard lockAll() else { return .conflict }
    let lsn = appendRecord()
    applyAll(lsn: lsn)
    return .done(.committed(lsn: lsn))
  }

  /// Reads every item of the write set; a result where it cannot be committed as it stands.
  @inline(__always)
  private func readAll() -> Attempt<CommitResult>? {
    for index in 0..<scratch.changes.count {
      let ordinal = scratch.changes[index].ordinal
      guard let word = unlockedWord(ordinal) else { return .conflict }
      let onHand = core.items[ordinal].onHand.load(ordering: .acquiring)
      let held = core.items[ordinal].held.load(ordering: .acquiring)
      let required = scratch.changes[index].required
      if required > 0 {
        let safetyStock = core.items[ordinal].safetyStock.load(ordering: .acquiring)
        let available = onHand - held - safetyStock
        if available < required {
          guard isUnchanged(ordinal, word) else { return .conflict }
          return .done(.insufficient(index: index, available: available))
        }
      }
      scratch.changes[index].word = word
      scratch.changes[index].onHand = onHand
      scratch.changes[index].held = held
    }
    return nil
  }

  /// Puts what becomes of the items into the journal's record, by what was read: ahead of the locks.
  @inline(__always)
  private func writeLines() {
    guard core.log.isJournaled else { return }
    for index in 0..<scratch.changes.count {
      let change = scratch.changes[index]
      scratch.record.setLine(
        index, ordinal: change.ordinal,
        quantity: scratch.record.kind == .confirmed ? -change.onHandChange : abs(change.heldChange),
        version: change.word >> 1 + 1, onHand: change.onHand + change.onHandChange,
        held: change.held + change.heldChange)
    }
  }

  @inline(__always)
  private func applyAll(lsn: UInt64) {
    for index in 0..<scratch.changes.count {
      write(scratch.changes[index], lsn: lsn)
      unlock(scratch.changes[index].ordinal, scratch.changes[index].word)
    }
  }

  private func lockAll() -> Bool {
    for position in 0..<scratch.changes.count {
      let index = scratch.changes.lockOrder(position)
      if lock(scratch.changes[index].ordinal, scratch.changes[index].word) { continue }
      for taken in 0..<position {
        let index = scratch.changes.lockOrder(taken)
        core.items[scratch.changes[index].ordinal].word.store(
          scratch.changes[index].word, ordering: .releasing)
      }
      return false
    }
    return true
  }

  /// The item's word, unlocked; nil where somebody kept it locked for long, which is counted.
  @inline(__always)
  func unlockedWord(_ ordinal: UInt32) -> UInt64? {
    let word = core.items[ordinal].word.load(ordering: .acquiring)
    return word & 1 == 0 ? word : waitForUnlock(ordinal)
  }

  @inline(never)
  private func waitForUnlock(_ ordinal: UInt32) -> UInt64? {
    var waiting = Waiting()
    while waiting.yields < RetryPolicy.yieldsMax {
      waiting.once()
      let word = core.items[ordinal].word.load(ordering: .acquiring)
      if word & 1 == 0 { return word }
    }
    counters.conflictsLocked.add()
    return nil
  }

  /// Whether what was read since `word` was is consistent; counts a conflict where it is not.
  @inline(__always)
  func isUnchanged(_ ordinal: UInt32, _ word: UInt64) -> Bool {
    if core.items[ordinal].word.load(ordering: .relaxed) == word { return true }
    counters.conflictsVersionChanged.add()
    return false
  }

  /// Locks the item if its word still is `word`; counts a conflict where it is not.
  @inline(__always)
  func lock(_ ordinal: UInt32, _ word: UInt64) -> Bool {
    let (exchanged, seen) = core.items[ordinal].word.compareExchange(
      expected: word, desired: word | 1, ordering: .acquiringAndReleasing)
    if exchanged { return true }
    // Locked by somebody who read what we read: not changed yet.
    if seen == word | 1 {
      counters.conflictsLocked.add()
    } else {
      counters.conflictsVersionChanged.add()
    }
    return false
  }

  /// Unlocks an item that was locked from `word`, with its next version.
  @inline(__always)
  func unlock(_ ordinal: UInt32, _ word: UInt64) {
    core.items[ordinal].word.store(word &+ 2, ordering: .releasing)
    counters.rowsAffected.add()
  }

  /// Writes the balances of an item that the caller has locked.
  @inline(__always)
  private func write(_ change: ItemChange, lsn: UInt64) {
    let held = change.held + change.heldChange
    let onHand = change.onHand + change.onHandChange
    if held < 0 || onHand < held { counters.invariantViolations.add() }
    core.items[change.ordinal].onHand.store(max(0, onHand), ordering: .releasing)
    core.items[change.ordinal].held.store(max(0, held), ordering: .releasing)
    core.items[change.ordinal].lsn.store(lsn, ordering: .releasing)
  }

  /// Check, then write, with the CPU given away in between: what another thread wrote meanwhile is lost.
  private func commitUnchecked() -> Attempt<CommitResult> {
    for index in 0..<scratch.changes.count {
      let ordinal = scratch.changes[index].ordinal
      let onHand = core.items[ordinal].onHand.load(ordering: .acquiring)
      let held = core.items[ordinal].held.load(ordering: .acquiring)
      let safetyStock = core.items[ordinal].safetyStock.load(ordering: .acquiring)
      let available = onHand - held - safetyStock
      if scratch.changes[index].required > max(0, available) {
        return .done(.insufficient(index: index, available: available))
      }
      scratch.changes[index].onHand = onHand
      scratch.changes[index].held = held
    }
    _ = sched_yield()
    writeLines()
    let lsn = appendRecord()
    for index in 0..<scratch.changes.count {
      let ordinal = scratch.changes[index].ordinal
      write(scratch.changes[index], lsn: lsn)
      core.items[ordinal].word.wrappingAdd(2, ordering: .acquiringAndReleasing)
      counters.rowsAffected.add()
    }
    return .done(.committed(lsn: lsn))
  }

  /// The log sequence number is taken when others can see what was done already: what they do about
  /// it may come to stand before it in the log.
  private func commitNumberedLate() -> Attempt<CommitResult> {
    if let result = readAll() { return result }
    writeLines()
    guard lockAll() else { return .conflict }
    applyAll(lsn: core.log.last)
    store.runDeliberateGap()
    return .done(.committed(lsn: appendRecord()))
  }

  /// Waits before attempt `attempts` + 1: not at all at first, then for a random time that grows.
  @inline(never)
  private func backOff(_ attempts: Int) {
    if attempts <= RetryPolicy.immediateRetries { return }
    // Marsaglia's xorshift: good enough to keep two threads from marching in step.
    scratch.random ^= scratch.random << 13
    scratch.random ^= scratch.random >> 7
    scratch.random ^= scratch.random << 17
    let pausesMax = min(32 << UInt64(attempts), RetryPolicy.pausesMax)
    for _ in 0..<scratch.random % pausesMax { hf_pause() }
  }
}
