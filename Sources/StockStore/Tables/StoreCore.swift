// The tables that all sessions share, and what they all must know. A value of handles: each session has
// a copy, so that a command reaches a table without a reference count.
internal import Bytes
package import Log
internal import Synchronization

package struct StoreCore: Sendable {
  package let limits: StoreLimits
  package let concurrency: ConcurrencyControl
  let tables: StrategyTables
  package let keys: StoreKeys
  package let items: ItemTable
  package private(set) var index = ItemIndex()
  package let slab: ReservationSlab
  package let shards: PaddedArray<ReservationShard>
  let dues: DueIndex
  package let references: ReferenceIndex
  package let subjects: SubjectTable
  package let workTimes: WorkTimes
  let sweep = PaddedArray<Sweep>(count: 1) { _ in Sweep() }
  private let shortages = PaddedArray<ShortageMark>(count: 1) { _ in ShortageMark() }
  package let log: LogRing
  /// Decisions made up to this time, in nanoseconds since the Unix epoch, were made by the first
  /// release: their ids have its tags. 0 where it never had the directory.
  package var firstReleaseUntil: Int64
  /// The version that an item is made with, from 1: higher where a repair has given up versions that
  /// somebody may have seen of an item that is not there any more.
  package var firstVersion: UInt64
  /// A bug to make on purpose.
  package var fault: DeliberateFault?
  /// Another thread fills the tables by replay; keys, timers and references are made when that has come to its end.
  package private(set) var isFollowed = false

  package static let shardsMax = 64
  /// Below this many records to a shard, chance would fill one long before the others.
  private static let shardCapacityMin = 8192

  /// - Parameters:
  ///   - shardCount: a power of two up to `shardsMax`; where records are on a disk, what it was when
  ///     they were made.
  ///   - reservationsMaxBefore: room for the records that were made under another cap.
  ///   - nonce: fresh random bits for the ids that this opening makes; nil: from the secret, where that
  ///     is as fresh, or where no ids are made.
  package init(
    limits: StoreLimits, concurrency: ConcurrencyControl, secret: (UInt64, UInt64), now: Int64,
    log: LogRing, shardCount: Int? = nil,
    reservationsMaxBefore: Int = 0,
    nonce: UInt64? = nil, firstReleaseUntil: Int64 = 0, firstVersion: UInt64 = 1
  ) {
    self.limits = limits
    self.log = log
    self.firstReleaseUntil = firstReleaseUntil
    self.firstVersion = firstVersion
    self.concurrency = concurrency
    tables = StrategyTables(concurrency, items: limits.itemsMax)
    let secret = SipKey(low: secret.0, high: secret.1)
    keys = StoreKeys(secret: secret)
    items = ItemTable(capacity: limits.itemsMax)
    let shardCount = shardCount ?? Self.shardCount(limits)
    let capacity = Self.divideRoundingUp(limits.reservationsMax, shardCount)
    let chunks = Self.divideRoundingUp(capacity, ReservationSlab.chunkRecords) * shardCount
    let chunksBefore = Self.divideRoundingUp(reservationsMaxBefore, ReservationSlab.chunkRecords)
    let slab = ReservationSlab(
      chunkCount: chunks + chunksBefore, nonce: nonce ?? secret.derived(8).low)
    self.slab = slab
    let dues = DueIndex(
      items: items.capacity, holds: slab.chunkCapacity * ReservationSlab.chunkRecords)
    self.dues = dues
    let references = ReferenceIndex()
    self.references = references
    subjects = SubjectTable(capacity: limits.subjectEntriesMax, items: items)
    shards = PaddedArray(count: shardCount) {
      ReservationShard(
        number: $0, slab: slab, dues: dues, references: references, capacity: capacity, now: now)
    }
    workTimes = WorkTimes(count: shardCount)
  }

  /// What the tables take of the address space that are as large as the caps: no less than that.
  package static func addressSpace(
    _ limits: StoreLimits, _ concurrency: ConcurrencyControl, reservationsMaxBefore: Int
  ) -> Int {
    let items = limits.itemsMax
    let partial = shardsMax * ReservationSlab.chunkRecords
    let reservations = limits.reservationsMax + reservationsMaxBefore + partial
    return StrategyTables.addressSpace(concurrency, items: items)
      + ItemTable.addressSpace(capacity: items)
      + Region<ReservationRecord>.mappedBytes(capacity: reservations)
      + DueIndex.addressSpace(items: items, holds: reservations)
      + SubjectTable.addressSpace(capacity: limits.subjectEntriesMax)
      // Of each chunk its owner, and at a recovery its stamp.
      + Region<UInt64>.mappedBytes(capacity: 2 * (reservations / ReservationSlab.chunkRecords))
  }

  /// Into how many shards a store with this cap is divided.
  package static func shardCount(_ limits: StoreLimits) -> Int {
    var shardCount = 1
    while shardCount < shardsMax,
      limits.reservationsMax / (shardCount * 2) >= shardCapacityMin
    {
      shardCount *= 2
    }
    return shardCount
  }

  private static func divideRoundingUp(_ count: Int, _ parts: Int) -> Int {
    count / parts + (count % parts == 0 ? 0 : 1)
  }

  /// The same tables for reading what replay has come to so far, with an index of names of its own.
  func followed() -> StoreCore {
    var core = self
    core.index = ItemIndex()
    core.isFollowed = true
    core.index.reserve(Int(items.count))
    for ordinal in 0..<items.count where items[ordinal].word.load(ordering: .relaxed) != 0 {
      core.insert(ordinal)
    }
    return core
  }

  package func free() {
    if isFollowed { return index.free() }
    items.free()
    index.free()
    tables.free()
    shards.free()
    slab.free()
    dues.free()
    references.free()
    subjects.free()
    workTimes.free()
    sweep.free()
    shortages.free()
    log.free()
  }

  /// Whether more may be promised of some item than there is of it: somebody has asked for that, since the
  /// store was opened or before.
  var mayBeShort: Bool { shortages[0].isSet.load(ordering: .relaxed) }

  /// Notes where an adjustment leaves more promised than there is, or lets it come to that.
  @inline(__always)
  func noteShortage(_ balances: Balances) {
    if balances.unpromised < 0 || balances.safetyStock < 0 { setMayBeShort() }
  }

  @inline(never)
  private func setMayBeShort() {
    if !mayBeShort { shortages[0].isSet.store(true, ordering: .relaxed) }
  }

  @inline(__always)
  package func shardNumber(_ identity: Identity) -> Int {
    Int(truncatingIfNeeded: identity.low) & (shards.count - 1)
  }

  /// The number of the item with this name; nil where it is unknown.
  @inline(__always)
  package func find(_ name: ItemName, _ hash: UInt64) -> UInt32? {
    guard let ordinal = index.find(hash, { items.hasName($0, name) }), isMade(ordinal) else {
      return nil
    }
    return ordinal
  }

  /// The number of the record with this name, whether there is an item, was one, or is yet to be; nil where there is
  /// none.
  package func findRecord(_ name: ItemName, _ hash: UInt64) -> UInt32? {
    // During a replay an item that was removed may have the name in one place, and the item in another (Places.swift).
    index.find(hash) { items.hasName($0, name) && (!isFollowed || isMade($0)) }
  }

  /// Whether there is the item: its record is in the index before it is made, and after it was removed. Whoever
  /// changes it looks again.
  @inline(__always)
  package func isMade(_ ordinal: UInt32) -> Bool {
    ItemWord.isMade(items[ordinal].word.load(ordering: .relaxed))
  }

  /// Whether a record is what is left of an item.
  package func isRemoved(_ ordinal: UInt32) -> Bool {
    ItemWord.isRemoved(items[ordinal].word.load(ordering: .relaxed))
  }

  /// The id of the reservation that is in `slot` now.
  @inline(__always)
  package func id(_ slot: UInt32) -> ReservationID {
    ReservationID(slot: slot, generation: slab[slot].generation, tag: idTag(slot))
  }

  /// The tag of that id.
  @inline(__always)
  package func idTag(_ slot: UInt32) -> UInt64 {
    idTag(
      keys.useHash(slot: slot, generation: slab[slot].generation), slab[slot].identity,
      createdAt: slab[slot].createdAt)
  }

  /// The tag of a reservation: of the use of its slot, of who made it, and when.
  @inline(__always)
  package func idTag(_ useHash: UInt64, _ identity: Identity, createdAt: Int64) -> UInt64 {
    createdAt <= firstReleaseUntil
      ? StoreKeys.firstReleaseTag(useHash)
      : StoreKeys.idTag(useHash, identity, createdAt: createdAt)
  }
}

/// Set once, for as long as the store is open.
private struct ShortageMark: ~Copyable {
  let isSet = Atomic<Bool>(false)
}
