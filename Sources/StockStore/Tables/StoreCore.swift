// The tables that all sessions share, and what they all must know. A value of handles: each session has
// a copy, so that a command reaches a table without a reference count.
internal import Synchronization

struct StoreCore: Sendable {
  let limits: StoreLimits
  let concurrency: ConcurrencyControl
  let tables: StrategyTables
  let keys: StoreKeys
  let items: ItemTable
  let index = ItemIndex()
  let slab: ReservationSlab
  let shards: PaddedArray<ReservationShard>
  let dueTimes: DueTimes
  let log: DecisionLog
  /// Decisions made up to this time, in nanoseconds since the Unix epoch, were made by the first
  /// release: their ids have its tags. 0 where it never had the directory.
  var firstReleaseUntil: Int64
  /// The version that an item is made with, from 1: higher where a repair has given up versions that
  /// somebody may have seen of an item that is not there any more.
  var firstVersion: UInt64

  static let shardsMax = 64
  /// Below this many records to a shard, chance would fill one long before the others.
  private static let shardCapacityMin = 8192

  /// - Parameters:
  ///   - shardCount: a power of two up to `shardsMax`; where records are on a disk, what it was when
  ///     they were made.
  ///   - reservationsMaxBefore: room for the records that were made under another cap.
  ///   - nonce: fresh random bits for the ids that this opening makes; nil: from the secret, where that
  ///     is as fresh, or where no ids are made.
  init(
    limits: StoreLimits, concurrency: ConcurrencyControl, secret: (UInt64, UInt64), now: Int64,
    log: DecisionLog = DecisionLog(), shardCount: Int? = nil, reservationsMaxBefore: Int = 0,
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
    shards = PaddedArray(count: shardCount) {
      ReservationShard(number: $0, slab: slab, capacity: capacity, now: now)
    }
    dueTimes = DueTimes(count: shardCount)
  }

  /// What the tables take of the address space that are as large as the caps: no less than that.
  static func addressSpace(
    _ limits: StoreLimits, _ concurrency: ConcurrencyControl, reservationsMaxBefore: Int
  ) -> Int {
    let items = limits.itemsMax
    let partial = shardsMax * ReservationSlab.chunkRecords
    let reservations = limits.reservationsMax + reservationsMaxBefore + partial
    return StrategyTables.addressSpace(concurrency, items: items)
      + Region<ItemRecord>.mappedBytes(capacity: items)
      + Region<ReservationRecord>.mappedBytes(capacity: reservations)
      // Of each chunk its owner, and at a recovery its stamp.
      + Region<UInt64>.mappedBytes(capacity: 2 * (reservations / ReservationSlab.chunkRecords))
  }

  /// Into how many shards a store with this cap is divided.
  static func shardCount(_ limits: StoreLimits) -> Int {
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

  func free() {
    items.free()
    index.free()
    tables.free()
    shards.free()
    slab.free()
    dueTimes.free()
    log.free()
  }

  @inline(__always)
  func shardNumber(_ identity: Identity) -> Int {
    Int(truncatingIfNeeded: identity.low) & (shards.count - 1)
  }

  /// The number of the item with this name; nil where it is unknown.
  @inline(__always)
  func find(_ name: ItemName, _ hash: UInt64) -> UInt32? {
    guard let ordinal = index.find(hash, { items.hasName($0, name) }), isMade(ordinal) else {
      return nil
    }
    return ordinal
  }

  /// Whether the item has a version: its record is in the index before it is made.
  @inline(__always)
  func isMade(_ ordinal: UInt32) -> Bool {
    items[ordinal].word.load(ordering: .relaxed) >> 1 != 0
  }

  /// The id of the reservation that is in `slot` now.
  @inline(__always)
  func id(_ slot: UInt32) -> ReservationID {
    ReservationID(slot: slot, generation: slab[slot].generation, tag: idTag(slot))
  }

  /// The tag of that id.
  @inline(__always)
  func idTag(_ slot: UInt32) -> UInt64 {
    idTag(
      keys.useHash(slot: slot, generation: slab[slot].generation), slab[slot].identity,
      createdAt: slab[slot].createdAt)
  }

  /// The tag of a reservation: of the use of its slot, of who made it, and when.
  @inline(__always)
  func idTag(_ useHash: UInt64, _ identity: Identity, createdAt: Int64) -> UInt64 {
    createdAt <= firstReleaseUntil
      ? StoreKeys.firstReleaseTag(useHash)
      : StoreKeys.idTag(useHash, identity, createdAt: createdAt)
  }
}

/// When each shard must be looked at next: side by side, since every turn reads them all. Each is
/// written under its shard's lock. A handle, as Region.
@safe struct DueTimes: @unchecked Sendable {
  private let times: UnsafeMutablePointer<Atomic<Int64>>
  private let count: Int

  init(count: Int) {
    self.count = count
    unsafe times = .allocate(capacity: count)
    for index in 0..<count { unsafe (times + index).initialize(to: Atomic(.max)) }
  }

  func free() { unsafe times.deallocate() }

  /// In nanoseconds since the Unix epoch: no hold of the shard is due before.
  subscript(shard: Int) -> Int64 {
    @inline(__always) get {
      assert(shard >= 0 && shard < count)
      return unsafe times[shard].load(ordering: .acquiring)
    }
    @inline(__always) nonmutating set {
      assert(shard >= 0 && shard < count)
      unsafe times[shard].store(newValue, ordering: .releasing)
    }
  }
}

/// The keyed hashes, each with a key of its own.
struct StoreKeys: Sendable {
  enum Method: UInt64 {
    case reserve = 1
    case adjust
  }

  private let item: SipKey
  private let identity: SipKey
  private let fingerprint: SipKey
  private let reservePayload: SipKey
  private let page: SipKey
  private let use: SipKey
  private let owner: SipKey
  /// For the state's digest.
  let digest: SipKey

  init(secret: SipKey) {
    item = secret.derived(1)
    identity = secret.derived(2)
    fingerprint = secret.derived(3)
    use = secret.derived(4)
    digest = secret.derived(6)
    reservePayload = secret.derived(9)
    page = secret.derived(16)
    owner = secret.derived(17)
  }

  @inline(__always)
  func itemHash(_ name: ItemName) -> UInt64 {
    var hasher = SipHasher(item)
    unsafe hasher.absorb(bytes: name.sku.pointer)
    unsafe hasher.absorb(bytes: name.location.pointer)
    return hasher.finish(UInt64(name.sku.count) | UInt64(name.location.count) << 32)
  }

  @inline(__always)
  func identity(_ method: Method, _ scope: IdempotencyScope) -> Identity {
    var hasher = SipHasher(identity, wide: true)
    unsafe hasher.absorb(bytes: scope.caller.pointer)
    unsafe hasher.absorb(bytes: scope.key.pointer)
    let lengths = UInt64(scope.caller.count) << 8 | UInt64(scope.key.count) << 32
    let (low, high) = hasher.finish128(method.rawValue | lengths)
    return Identity(low: low, high: high)
  }

  /// Whose hold it is that this caller reserves.
  @inline(__always)
  func owner(_ caller: BorrowedBytes) -> HoldOwner {
    if caller.count == 0 { return .unknown }
    var hasher = SipHasher(owner)
    unsafe hasher.absorb(bytes: caller.pointer)
    return HoldOwner(hash: hasher.finish(UInt64(caller.count)))
  }

  /// For the payload that comes with the key of an AdjustStock; and of the first release's Reserve.
  @inline(__always)
  func fingerprintHasher() -> SipHasher { SipHasher(fingerprint) }

  /// For the payload that comes with the key of a Reserve. Its key is another than the first release's, so
  /// that a fingerprint of the one kind never meets one of the other.
  @inline(__always)
  func reserveFingerprintHasher() -> SipHasher { SipHasher(reservePayload) }

  /// For the position that a page of a list ends at. No two lists feed the same words: the number of
  /// the list is in the last one.
  func pageTag(list: UInt8, filter: UInt8, position: UInt64) -> UInt64 {
    var hasher = SipHasher(page)
    hasher.absorb(position)
    return hasher.finish(UInt64(list) | UInt64(filter) << 8)
  }

  /// Of one use of a slot: what of a reservation's tag can be computed before its record is there.
  @inline(__always)
  func useHash(slot: UInt32, generation: UInt32) -> UInt64 {
    var hasher = SipHasher(use)
    return hasher.finish(UInt64(slot) << 32 | UInt64(generation))
  }

  /// The tag that the first release gave.
  @inline(__always)
  static func firstReleaseTag(_ useHash: UInt64) -> UInt64 { useHash & 0xffff_ffff }

  /// Two histories of one directory may use a slot with the same generation, if rarely; hardly for the
  /// same customer's same call in the same nanosecond. Both hashes are keyed, so that who knows the one
  /// by some other id does not know their sum. Never 0, which stands for none in the journal.
  @inline(__always)
  static func idTag(_ useHash: UInt64, _ identity: Identity, createdAt: Int64) -> UInt64 {
    // Times differ in their lower bits, the tag has the upper ones.
    let time = UInt64(bitPattern: createdAt) &* 0x9e37_79b9_7f4a_7c15
    return max(1, (useHash &+ identity.high &+ time) >> (64 - ReservationID.tagBits))
  }
}
