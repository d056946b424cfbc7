// How much does a subject have of an item? An entry for each of the two, as long as it has any: units in live holds
// that were made with a limit for it, and units that such holds have sold. Whoever sets no limits has none.
//
// An entry changes only in a commit that has its item locked, before the item is unlocked with its next version.
// So what a commit reads of it is true if the item is as it was read, like its balances; and the sales of one entry
// come in the order of their log sequence numbers. What links the entries of one stripe is guarded by a lock of the
// stripe, for a few dozen instructions: nobody takes another lock under it.
//
// What was sold of an item before it was removed counts no more: nobody looks for these entries, each says itself when
// its last sale was. They leave when they are touched, or when the directory is opened.
//
// A stripe grows bucket by bucket as its entries do (linear hashing: Litwin, 1980): each new one takes its share of
// the entries of one other, so nobody ever waits for all to be moved. Entries go by hashes under a key that nobody
// outside knows, so no bucket is long.
internal import Synchronization

/// Of one subject and one item.
struct SubjectEntry: BitwiseCopyable {
  var subject: SubjectHash
  var ordinal: UInt32
  /// The next one of the bucket, or the next that is not in use: number + 1; 0: none.
  var next: UInt32
  /// Units in live holds.
  var held: Int64
  /// Units sold.
  var sold: Int64
  /// Log sequence number of the last sale.
  var lsn: UInt64

  /// Units sold since the item was removed last.
  /// - Parameter removal: its log sequence number; 0: it never was.
  func sold(since removal: UInt64) -> Int64 { lsn > removal ? sold : 0 }
}

/// What a checkpoint keeps of an entry: what live holds have follows from these.
package struct SubjectSales: Equatable {
  package var subject: SubjectHash
  package var ordinal: UInt32
  package var sold: Int64
  /// Of the last sale.
  package var lsn: UInt64

  package init(subject: SubjectHash, ordinal: UInt32, sold: Int64, lsn: UInt64) {
    self.subject = subject
    self.ordinal = ordinal
    self.sold = sold
    self.lsn = lsn
  }
}

/// A handle, as Region.
package struct SubjectTable {
  private struct Stripe: ~Copyable {
    let lock = SpinLock()
    /// Entries that were in use once, through `next`; number + 1.
    var free: UInt32 = 0
    var buckets: UInt32 = 1
    var count: UInt32 = 0
  }

  private struct Header: ~Copyable {
    let count = Atomic<Int>(0)
    /// Entries that were ever in use.
    let taken = Atomic<UInt32>(0)
  }

  private static let stripeCount: UInt32 = 64
  private static let stripeBits: UInt64 = 6
  /// Of one stripe; 2^26 entries come to one in a bucket.
  private static let bucketsMax: UInt32 = 1 << 20

  private let entries: Region<SubjectEntry>
  /// The first entry of each bucket, number + 1. The buckets of the stripes lie side by side.
  private let heads: Region<UInt32>
  private let stripes = PaddedArray<Stripe>(count: 64) { _ in Stripe() }
  private let header = PaddedArray<Header>(count: 1) { _ in Header() }
  private let countMax: Int
  /// Of the store: it knows when each was removed.
  private let items: ItemTable

  /// - Parameter capacity: the cap.
  init(capacity: Int, items: ItemTable) {
    self.items = items
    countMax = capacity
    entries = Region(capacity: Self.entryCapacity(capacity), pages: .small)
    heads = Region(capacity: Int(Self.headCapacity(capacity)), pages: .small)
  }

  func free() {
    entries.free()
    heads.free()
    stripes.free()
    header.free()
  }

  /// Commits that come together may pass the cap, and each stripe keeps the entries that it has had.
  private static func entryCapacity(_ capacity: Int) -> Int {
    min(2 * capacity + (1 << 16), Int(Int32.max))
  }

  private static func headCapacity(_ capacity: Int) -> UInt32 {
    var buckets: UInt32 = 1
    while buckets < bucketsMax, Int(buckets) * Int(stripeCount) < capacity { buckets *= 2 }
    return buckets * stripeCount
  }

  static func addressSpace(capacity: Int) -> Int {
    Region<SubjectEntry>.mappedBytes(capacity: entryCapacity(capacity))
      + Region<UInt32>.mappedBytes(capacity: Int(headCapacity(capacity)))
  }

  /// Entries in use.
  package var count: Int { header[0].count.load(ordering: .relaxed) }

  /// Bytes in use.
  var bytes: Int {
    Int(header[0].taken.load(ordering: .relaxed)) * MemoryLayout<SubjectEntry>.stride
      + Int(placeEnd) * MemoryLayout<UInt32>.stride
  }

  /// Whether there may be no further entry.
  var isFull: Bool { count >= countMax }

  /// The same where a directory is opened, which may have a few more than the cap.
  package var isBeyondCap: Bool {
    Int(header[0].taken.load(ordering: .relaxed)) >= entries.capacity - (1 << 10)
  }

  // MARK: One entry

  /// Units that the subject has of the item, held and sold; nil where there is no entry.
  /// - Parameter heldAlone: `DeliberateFault.limitOfHeldAlone`.
  func used(_ subject: SubjectHash, _ ordinal: UInt32, heldAlone: Bool) -> Int64? {
    let hash = Self.hash(subject, ordinal)
    let stripe = lock(hash)
    defer { stripes[stripe].lock.unlock() }
    var next = heads[head(hash, stripe)]
    while next != 0 {
      let entry = entries[next - 1]
      if entry.ordinal == ordinal, entry.subject == subject {
        return entry.held &+ (heldAlone ? 0 : entry.sold(since: items.removedAt(ordinal)))
      }
      next = entry.next
    }
    return nil
  }

  /// Adds to what the subject has of the item, which the caller has locked, or the table to itself. What comes to
  /// nothing leaves at once.
  /// - Parameter lsn: of a sale.
  /// - Returns: false where it would come to less than nothing: then it is nothing.
  func add(
    _ subject: SubjectHash, _ ordinal: UInt32, held: Int64, sold: Int64, lsn: UInt64
  ) -> Bool {
    if held == 0, sold == 0 { return true }
    let hash = Self.hash(subject, ordinal)
    let stripe = lock(hash)
    defer { stripes[stripe].lock.unlock() }
    let number = find(subject, ordinal, hash, stripe) ?? insert(subject, ordinal, hash, stripe)
    let heldAfter = entries[number].held &+ held
    let soldAfter = entries[number].sold(since: items.removedAt(ordinal)) &+ sold
    entries[number].held = max(0, heldAfter)
    entries[number].sold = max(0, soldAfter)
    if sold != 0 { entries[number].lsn = lsn }
    if heldAfter <= 0, soldAfter <= 0 { remove(number, hash, stripe) }
    return heldAfter >= 0 && soldAfter >= 0
  }

  /// Adds a sale that the journal tells of, if the entry has not seen it. While one thread has the table to itself.
  func replay(_ sale: SubjectSales) {
    let removal = items.removedAt(sale.ordinal)
    if sale.lsn <= removal { return }
    let hash = Self.hash(sale.subject, sale.ordinal)
    let stripe = lock(hash)
    defer { stripes[stripe].lock.unlock() }
    let number =
      find(sale.subject, sale.ordinal, hash, stripe)
      ?? insert(sale.subject, sale.ordinal, hash, stripe)
    if sale.lsn <= entries[number].lsn { return }
    entries[number].sold = entries[number].sold(since: removal) &+ sale.sold
    entries[number].lsn = sale.lsn
  }

  /// Takes back what a checkpoint has. It may have an entry twice, where its bucket was divided meanwhile: the later
  /// counts. While one thread has the table to itself.
  package func restore(_ sales: SubjectSales) {
    let hash = Self.hash(sales.subject, sales.ordinal)
    let stripe = lock(hash)
    defer { stripes[stripe].lock.unlock() }
    let number =
      find(sales.subject, sales.ordinal, hash, stripe)
      ?? insert(sales.subject, sales.ordinal, hash, stripe)
    if sales.lsn < entries[number].lsn { return }
    entries[number].sold = sales.sold
    entries[number].lsn = sales.lsn
  }

  // MARK: All entries

  /// Buckets of all stripes: places are below.
  package var placeEnd: UInt32 {
    var buckets: UInt32 = 0
    for stripe in 0..<stripes.count {
      stripes[stripe].lock.lock()
      buckets = max(buckets, stripes[stripe].buckets)
      stripes[stripe].lock.unlock()
    }
    return buckets * Self.stripeCount
  }

  /// Calls `body` with what was sold to the subjects at `place`. Whoever goes through the places from the first to
  /// the last sees every entry that is there all the time, and some twice: what is moved goes to a later place.
  package func forEachSales(at place: UInt32, _ body: (SubjectSales) -> Void) {
    forEach(at: place) { entry in
      if entry.sold(since: items.removedAt(entry.ordinal)) == 0 { return }
      body(
        SubjectSales(
          subject: entry.subject, ordinal: entry.ordinal, sold: entry.sold, lsn: entry.lsn))
    }
  }

  /// Removes what was sold of items that were removed since. While one thread has the table to itself, and nothing is
  /// held yet.
  func removeDead() {
    for place in 0..<placeEnd {
      var dead: [UInt32] = []
      let stripe = Int(place % Self.stripeCount)
      guard place / Self.stripeCount < stripes[stripe].buckets else { continue }
      var next = heads[place]
      while next != 0 {
        let entry = entries[next - 1]
        if entry.sold(since: items.removedAt(entry.ordinal)) == 0 { dead.append(next - 1) }
        next = entry.next
      }
      for number in dead {
        remove(number, Self.hash(entries[number].subject, entries[number].ordinal), stripe)
      }
    }
  }

  func forEach(at place: UInt32, _ body: (SubjectEntry) -> Void) {
    let stripe = Int(place % Self.stripeCount)
    stripes[stripe].lock.lock()
    defer { stripes[stripe].lock.unlock() }
    guard place / Self.stripeCount < stripes[stripe].buckets else { return }
    var next = heads[place]
    while next != 0 {
      body(entries[next - 1])
      next = entries[next - 1].next
    }
  }

  // MARK: Under the stripe's lock

  private static func hash(_ subject: SubjectHash, _ ordinal: UInt32) -> UInt64 {
    subject.low &+ UInt64(ordinal) &* 0x9e37_79b9_7f4a_7c15
  }

  private func lock(_ hash: UInt64) -> Int {
    let stripe = Int(truncatingIfNeeded: hash & UInt64(Self.stripeCount - 1))
    stripes[stripe].lock.lock()
    return stripe
  }

  /// Where the first entry of the bucket stands that the hash leads to.
  private func head(_ hash: UInt64, _ stripe: Int) -> UInt32 {
    let buckets = stripes[stripe].buckets
    let bits = 31 - UInt32(buckets.leadingZeroBitCount)
    var bucket = Self.bucket(hash, bits + 1)
    if bucket >= buckets { bucket = Self.bucket(hash, bits) }
    return bucket * Self.stripeCount + UInt32(stripe)
  }

  private static func bucket(_ hash: UInt64, _ bits: UInt32) -> UInt32 {
    UInt32(truncatingIfNeeded: hash >> stripeBits) & (1 << bits - 1)
  }

  private func find(
    _ subject: SubjectHash, _ ordinal: UInt32, _ hash: UInt64, _ stripe: Int
  ) -> UInt32? {
    var next = heads[head(hash, stripe)]
    while next != 0 {
      let number = next - 1
      if entries[number].ordinal == ordinal, entries[number].subject == subject { return number }
      next = entries[number].next
    }
    return nil
  }

  private func insert(
    _ subject: SubjectHash, _ ordinal: UInt32, _ hash: UInt64, _ stripe: Int
  ) -> UInt32 {
    let number = take(stripe)
    let head = head(hash, stripe)
    entries[number] = SubjectEntry(
      subject: subject, ordinal: ordinal, next: heads[head], held: 0, sold: 0, lsn: 0)
    heads[head] = number + 1
    stripes[stripe].count += 1
    header[0].count.wrappingAdd(1, ordering: .relaxed)
    if stripes[stripe].count > stripes[stripe].buckets { divide(stripe) }
    return number
  }

  private func take(_ stripe: Int) -> UInt32 {
    let free = stripes[stripe].free
    if free != 0 {
      stripes[stripe].free = entries[free - 1].next
      return free - 1
    }
    let number = header[0].taken.wrappingAdd(1, ordering: .relaxed).oldValue
    precondition(number < entries.capacity, "more subjects than the cap and what comes together")
    return number
  }

  private func remove(_ number: UInt32, _ hash: UInt64, _ stripe: Int) {
    let head = head(hash, stripe)
    if heads[head] == number + 1 {
      heads[head] = entries[number].next
    } else {
      var before = heads[head] - 1
      while entries[before].next != number + 1 { before = entries[before].next - 1 }
      entries[before].next = entries[number].next
    }
    entries[number].next = stripes[stripe].free
    stripes[stripe].free = number + 1
    stripes[stripe].count -= 1
    header[0].count.wrappingSubtract(1, ordering: .relaxed)
  }

  /// Adds a bucket, which takes its entries from the one that had them so far.
  private func divide(_ stripe: Int) {
    let new = stripes[stripe].buckets
    guard Int(new + 1) * Int(Self.stripeCount) <= heads.capacity else { return }
    stripes[stripe].buckets = new + 1
    let bits = 31 - UInt32(new.leadingZeroBitCount)
    let old = (new - 1 << bits) * Self.stripeCount + UInt32(stripe)
    let added = new * Self.stripeCount + UInt32(stripe)
    var next = heads[old]
    (heads[old], heads[added]) = (0, 0)
    while next != 0 {
      let number = next - 1
      next = entries[number].next
      let hash = Self.hash(entries[number].subject, entries[number].ordinal)
      let head = Self.bucket(hash, bits + 1) == new ? added : old
      entries[number].next = heads[head]
      heads[head] = number + 1
    }
  }
}
