/// A part of the recorded decisions, chosen by their identity: the records, the keys by which they are
/// found, the timers of the live ones and the order in which the others ended. Guarded by its lock.
struct ReservationShard: ~Copyable {
  private let number: Int
  /// Guards everything else here, and the records.
  let lock = SpinLock()
  private let slab: ReservationSlab
  private let capacity: Int
  private var keys = KeyTable()
  var wheel: ExpiryWheel
  /// Recorded decisions that are no live hold, in the order in which they ended.
  private(set) var ended = SlotList()
  /// Free slots that were used before, through `next`; slot + 1.
  private var free: UInt32 = 0
  /// Slots of the newest chunk that were never used.
  private var fresh: Range<UInt32> = 0..<0

  init(number: Int, slab: ReservationSlab, capacity: Int, now: Int64) {
    self.number = number
    self.slab = slab
    self.capacity = capacity
    wheel = ExpiryWheel(slab: slab, now: now)
  }

  /// Recorded decisions.
  var count: Int { keys.count }

  /// Whether a new decision needs room to be made first.
  var isFull: Bool { count >= capacity }

  var keyBytes: Int { keys.bytes }

  @inline(__always)
  func find(_ identity: Identity) -> UInt32? {
    keys.find(identity.tag) { slab[$0].identity == identity }
  }

  /// Fetches what `find` reads, and the record that `add` will fill.
  @inline(__always)
  func prefetch(_ identity: Identity) {
    keys.prefetch(identity.tag)
    slab.prefetch(free != 0 ? free - 1 : fresh.lowerBound)
  }

  /// A record for `identity`, which has none; its other fields are left over from earlier use. The
  /// shard must not be full.
  @inline(__always)
  mutating func add(_ identity: Identity) -> UInt32 {
    let slot = takeSlot()
    slab[slot].identity = identity
    keys.insert(identity.tag, slot)
    return slot
  }

  /// The decision is no live hold, or none any more: from now on it may be forgotten.
  @inline(__always)
  mutating func appendEnded(_ slot: UInt32) { ended.append(slot, slab) }

  mutating func removeEnded(_ slot: UInt32) { ended.remove(slot, slab) }

  /// Forgets an ended decision. Ids that name this use of the slot name nothing from here on.
  mutating func forget(_ slot: UInt32) {
    ended.remove(slot, slab)
    keys.remove(slab[slot].identity.tag, slot)
    slab[slot].removeLines()
    slab[slot].kind = .free
    slab[slot].generation &+= 1
    slab[slot].next = free
    free = slot + 1
  }

  @inline(__always)
  private mutating func takeSlot() -> UInt32 {
    if free != 0 {
      let slot = free - 1
      free = slab[slot].next
      return slot
    }
    if fresh.isEmpty {
      let first = slab.takeChunk(shard: number)
      fresh = first..<(first + UInt32(ReservationSlab.chunkRecords))
    }
    let slot = fresh.lowerBound
    fresh = (slot + 1)..<fresh.upperBound
    return slot
  }
}
