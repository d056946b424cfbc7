internal import Synchronization

/// A part of the recorded decisions, chosen by their identity: the records, the keys by which they are
/// found, the timers of the live ones and the order in which the others ended. Guarded by its lock.
///
/// The fields stand in the order of their use: what every command changes lies on the first cache line,
/// which passes from core to core.
package struct ReservationShard: ~Copyable {
  /// Free slots that were used before, through `next`; slot + 1.
  private var free: UInt32 = 0
  /// Guards everything else here, and the records.
  package let lock = SpinLock()
  /// Slots of the newest chunk that were never used.
  private var fresh: Range<UInt32> = 0..<0
  /// Recorded decisions that are no live hold, in the order in which they ended.
  private(set) var ended = SlotList()
  private var keys = KeyTable()
  private let records: RecordTable
  private let capacity: Int
  var wheel: ExpiryWheel
  private let number: Int
  private let slab: ReservationSlab
  private let references: ReferenceIndex
  // What `prefetchUnlocked` reads: where the keys lay and which slot came next when the lock was last given
  // back, or a little later.
  private let keyPlace = Atomic<UInt>(0)
  private let slotAhead = Atomic<UInt32>(0)

  init(
    number: Int, slab: ReservationSlab, dues: DueIndex, references: ReferenceIndex, capacity: Int,
    now: Int64
  ) {
    self.number = number
    self.references = references
    self.slab = slab
    self.capacity = capacity
    records = slab.records
    wheel = ExpiryWheel(records: slab.records, dues: dues, now: now)
    keyPlace.store(keys.place, ordering: .relaxed)
  }

  /// Recorded decisions.
  var count: Int { keys.count }

  /// Whether a new decision needs room to be made first.
  var isFull: Bool { count >= capacity }

  var keyBytes: Int { keys.bytes }

  @inline(__always)
  func find(_ identity: Identity) -> UInt32? {
    keys.find(identity.tag) { records[$0].identity == identity }
  }

  /// Fetches what `find` reads, and the record that `add` will fill.
  @inline(__always)
  func prefetch(_ identity: Identity) {
    keys.prefetch(identity.tag)
    records.prefetch(free != 0 ? free - 1 : fresh.lowerBound)
  }

  /// The same for who does not hold the lock, and has something else to do until it does.
  @inline(__always)
  borrowing func prefetchUnlocked(_ identity: Identity) {
    KeyTable.prefetch(identity.tag, at: keyPlace.load(ordering: .relaxed))
    records.prefetch(slotAhead.load(ordering: .relaxed))
  }

  /// Fetches what a hold of this end changes besides, likewise.
  @inline(__always)
  borrowing func prefetchUnlocked(expiresAt: Int64, now: Int64) {
    wheel.prefetchUnlocked(expiresAt: expiresAt, now: now)
    // The timers of two holds that come one after the other are often linked.
    records.prefetch(slotAhead.load(ordering: .relaxed) &- 1)
  }

  /// The slot that the next decision gets, and the generation that this use of it has: what `add`
  /// gives once there is room.
  @inline(__always)
  mutating func nextSlot() -> (slot: UInt32, generation: UInt32) {
    if isFull, let slot = ended.first {
      return (slot, records[slot].generation &+ slab.generationStep)
    }
    if free != 0 { return (free - 1, records[free - 1].generation) }
    if fresh.isEmpty { takeChunk() }
    return (fresh.lowerBound, records[fresh.lowerBound].generation)
  }

  /// A record for `identity`, which has none; its other fields are left over from earlier use. The
  /// shard must not be full.
  @inline(__always)
  mutating func add(_ identity: Identity) -> UInt32 {
    assert(!isFull && find(identity) == nil, "a decision without room, or for the second time")
    let slot = takeSlot()
    records[slot].identity = identity
    keys.insert(identity.tag, slot)
    keyPlace.store(keys.place, ordering: .relaxed)
    slotAhead.store(free != 0 ? free - 1 : fresh.lowerBound, ordering: .relaxed)
    return slot
  }

  /// The decision is no live hold, or none any more: from now on it may be forgotten.
  @inline(__always)
  package mutating func appendEnded(_ slot: UInt32) { ended.append(slot, records) }

  mutating func removeEnded(_ slot: UInt32) { ended.remove(slot, records) }

  /// Forgets an ended decision. Ids that name this use of the slot name nothing from here on.
  mutating func forget(_ slot: UInt32) {
    assert(
      records[slot].kind != .held && records[slot].kind != .free, "forgetting what has not ended")
    ended.remove(slot, records)
    keys.remove(records[slot].identity.tag, slot)
    removeLines(slot)
    records[slot].kind = .free
    records[slot].generation &+= slab.generationStep
    records[slot].next = free
    free = slot + 1
  }

  /// Frees what of the record lies elsewhere.
  private func removeLines(_ slot: UInt32) {
    if records[slot].state != nil, let node = records[slot].referenceNode, node.isIndexed {
      references.remove(node)
    }
    records[slot].removeLines()
  }

  /// Gives the reservation in `slot` a reference, in the place of the one that it has; its limits stay.
  func setReference(_ slot: UInt32, _ text: BorrowedBytes, hash: UInt64) {
    let before = records[slot].referenceNode
    setNode(slot, ReferenceNode(text, hash: hash, slot: slot, limits: before?.limits ?? .empty))
    guard let before else { return }
    if before.isIndexed { references.remove(before) }
    before.free()
  }

  /// Gives the record in `slot`, which has none, a reference and limits.
  func setNode(_ slot: UInt32, _ node: ReferenceNode) {
    records[slot].referenceNode = node
    if node.isIndexed { references.add(node) }
  }

  // MARK: Recovery, while one thread has the shard to itself

  package mutating func reserveKeys(_ count: Int) { keys.reserve(count) }

  /// Fetches what `restoreKey` reads.
  package func prefetchKey(_ identity: Identity) { keys.prefetch(identity.tag) }

  /// Makes the decision in `slot` found by its identity. Where another slot has the same: the slot that
  /// was changed earlier, which is found no more.
  package mutating func restoreKey(_ slot: UInt32) -> UInt32? {
    let identity = records[slot].identity
    guard let other = find(identity) else {
      keys.insert(identity.tag, slot)
      return nil
    }
    if records[other].lsn > records[slot].lsn { return slot }
    keys.remove(identity.tag, other)
    keys.insert(identity.tag, slot)
    return other
  }

  /// Timers run from this time on.
  package mutating func advanceTimers(to now: Int64) { wheel.catchUp(now) }

  /// Sets the timer of the live hold in `slot`.
  package mutating func restoreTimer(_ slot: UInt32) { _ = wheel.insert(slot) }

  /// No hold is due or to be moved before.
  package var nextWork: Int64 { wheel.nextWork }

  /// Makes a slot that is not in use one that can be taken.
  package mutating func restoreFree(_ slot: UInt32) {
    records[slot].generation = slab.firstGeneration
    records[slot].next = free
    free = slot + 1
  }

  @inline(__always)
  private mutating func takeSlot() -> UInt32 {
    if free != 0 {
      let slot = free - 1
      free = records[slot].next
      return slot
    }
    if fresh.isEmpty { takeChunk() }
    let slot = fresh.lowerBound
    fresh = (slot + 1)..<fresh.upperBound
    return slot
  }

  private mutating func takeChunk() {
    let first = slab.takeChunk(shard: number)
    fresh = first..<(first + UInt32(ReservationSlab.chunkRecords))
    for slot in fresh { records[slot].generation = slab.firstGeneration }
  }
}
