// Reads the store beside the sessions: for an operator's look at an item or a reservation, and for the sweep that
// checks balances. It decides nothing and writes nothing: a hold that is due is told as expired, whether or not
// a session has ended it yet. What it tells may be ahead of the disk.
package import Posix
internal import Synchronization

/// A reservation as it stands.
package struct ReservationReading: Sendable, Equatable {
  package var id: ReservationID
  package var state: ReservationState
  /// It is due, and no session has ended it yet.
  package var isDue: Bool
  package var createdAt: Timestamp
  package var expiresAt: Timestamp
  /// nil while it is held.
  package var endedAt: Timestamp?
  package var revision: UInt64
  package var lines: [ViewLine]
  package var reference: [UInt8]
  /// Log sequence number of its last change.
  package var lsn: UInt64
}

/// What a sweep has found by now.
package struct SweepReport: Sendable, Equatable {
  /// Items that were looked at, since the start.
  package var itemsChecked: UInt64 = 0
  /// Balances that cannot be, since the start: each time one is met.
  package var violations: UInt64 = 0
  /// Sweeps over all items that were ended.
  package var sweeps: UInt64 = 0
  /// The last of them, in words; at most a few.
  package var findings: [String] = []

  /// Of no sweep yet.
  package init() {}
}

/// For one thread.
package final class StoreReader {
  private static let attemptsMax = 1 << 16
  private static let findingsMax = 5
  /// Of a shard: what is counted under its lock.
  private static let duePerShardMax = 500

  private let store: StockStore
  private let core: StoreCore
  private let mark: PaddedArray<EpochMark>
  private var next: UInt32 = 0
  private(set) package var report = SweepReport()

  /// - Parameter store: keeps a little memory for each reader that was ever made.
  package init(_ store: StockStore) {
    self.store = store
    core = store.core
    mark = store.makeReaderMark()
  }

  /// One item's balances, and the log sequence number of its last change; nil where there is no such item, or it stays
  /// locked.
  package func stock(_ name: ItemName) -> (level: StockLevel, lsn: UInt64)? {
    store.epochs.enter(mark[0])
    defer { store.epochs.leave(mark[0]) }
    guard let ordinal = core.findRecord(name, core.keys.itemHash(name)) else { return nil }
    return level(ordinal).flatMap { $0.level.version == 0 ? nil : $0 }
  }

  /// The name of an item; its bytes stay as long as the store.
  package func name(of item: ItemHandle) -> ItemName {
    guard item.ordinal < core.items.count else { return ItemName(sku: .empty, location: .empty) }
    return core.items.name(item.ordinal)
  }

  /// The reservation with this id, if it is remembered.
  package func reservation(_ id: ReservationID) -> ReservationReading? {
    let now = store.time.nanoseconds
    let useHash = core.keys.useHash(slot: id.slot, generation: id.generation)
    guard let number = core.slab.owner(id.slot) else { return nil }
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }
    let slot = id.slot
    guard core.slab[slot].generation == id.generation,
      let state = core.slab[slot].state(at: now),
      core.idTag(useHash, core.slab[slot].identity, createdAt: core.slab[slot].createdAt) == id.tag
    else { return nil }
    let isDue = core.slab[slot].isDue(now)
    let lines = (0..<core.slab[slot].lineCount).map { core.slab[slot].line($0) }
    let reference = core.slab[slot].reference
    let text = unsafe Array(reference.pointer)
    let endedAt = isDue ? core.slab[slot].expiresAt : core.slab[slot].endedAt
    return ReservationReading(
      id: id, state: state, isDue: isDue,
      createdAt: Timestamp(nanoseconds: core.slab[slot].createdAt),
      expiresAt: Timestamp(nanoseconds: core.slab[slot].expiresAt),
      endedAt: state == .held ? nil : Timestamp(nanoseconds: endedAt),
      revision: core.slab[slot].revision, lines: lines.filter { $0.quantity > 0 }, reference: text,
      lsn: core.slab[slot].lsn)
  }

  /// Holds that are due and that no session has ended yet, as far as they are known to be due, and whether there may
  /// be more. Takes the shards' locks, one at a time, for some microseconds at most.
  package func dueHolds() -> (count: Int, isAtLeast: Bool) {
    let now = store.time.nanoseconds
    var count = 0
    var isAtLeast = false
    for number in 0..<core.shards.count {
      core.shards[number].lock.lock()
      let found = core.shards[number].wheel.countDue(now, max: Self.duePerShardMax)
      core.shards[number].lock.unlock()
      count += found
      if found == Self.duePerShardMax { isAtLeast = true }
    }
    return (count, isAtLeast)
  }

  /// Checks the balances of the next items, `count` at most, and begins again behind the last. Each item is read as of
  /// one version, and no session waits.
  ///
  /// It checks what one item shows by itself: no balance below zero or beyond what an item can have, and no more
  /// promised than on hand where nobody has allowed that. That held is the sum of the live holds is for `audit`,
  /// which stops every session.
  package func sweep(items count: Int) {
    store.epochs.enter(mark[0])
    defer { store.epochs.leave(mark[0]) }
    let end = core.items.count
    for _ in 0..<count {
      if next >= end {
        next = 0
        report.sweeps += 1
        return
      }
      check(next)
      next += 1
    }
  }

  private func check(_ ordinal: UInt32) {
    // Asked before: who lets an item run short says so before it is changed.
    guard let (level, _) = level(ordinal) else { return }
    report.itemsChecked += 1
    let balances = level.balances
    let isShort = balances.unpromised < 0 && !core.mayBeShort
    if balances.areStorable, !isShort { return }
    report.violations += 1
    let name = core.items.name(ordinal)
    let sku = unsafe String(decoding: name.sku.pointer, as: UTF8.self)
    let finding =
      "\(sku): \(balances.onHand) on hand, \(balances.held) held, \(balances.committed) committed"
    report.findings.removeAll { $0 == finding }
    report.findings.append(finding)
    if report.findings.count > Self.findingsMax { report.findings.removeFirst() }
  }

  /// The balances of one version of the item; nil where it stays locked.
  private func level(_ ordinal: UInt32) -> (level: StockLevel, lsn: UInt64)? {
    var waiting = Waiting()
    for _ in 0..<Self.attemptsMax {
      let word = core.items[ordinal].word.load(ordering: .acquiring)
      if word & 1 == 0 {
        let level = core.items.level(
          ordinal, version: ItemWord.isMade(word) ? ItemWord.version(word) : 0)
        let lsn = core.items[ordinal].lsn.load(ordering: .acquiring)
        if core.items[ordinal].word.load(ordering: .relaxed) == word { return (level, lsn) }
      }
      waiting.once()
    }
    return nil
  }
}
