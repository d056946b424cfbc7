// How much does a subject have of an item? An entry for each of the two, as long as it has any: units in live holds
// that were made with a limit for it, and units that such holds have sold. Whoever sets no limits has none.
//
// An entry changes only in a commit that has its item locked, before the item is unlocked with its next version.
// So what a commit reads of it is true if the item is as it was read, like its balances; and the sales of one entry
// come in the order of their log sequence numbers. The entries of one stripe are found by its key table, which is
// guarded by a lock of the stripe, for a few dozen instructions: nobody takes another lock under it.
//
// What was sold of an item before it was removed counts no more: nobody looks for these entries, each says itself when
// its last sale was. They leave when they are touched, or when the directory is opened.
//
// An entry never moves, and the key table grows little by little. Most entries are new ones, of a customer who comes
// for the first time: such a one costs two cache lines, that of its key and its own, and `prefetch` fetches both.
// Entries go by hashes under a key that nobody outside knows, so no stripe has many more than the others.
internal import CPlatform
internal import Synchronization

/// Of one subject and one item.
struct SubjectEntry: BitwiseCopyable {
  var subject: SubjectHash
  var ordinal: UInt32
  /// The next that is not in use: number + 1; 0: none.
  var next: UInt32
  /// Units in live holds.
  var held: Int64
  /// Units sold.
  var sold: Int64
  /// Log sequence number of the last sale.
  var lsn: UInt64

  /// What comes to nothing leaves.
  var isInUse: Bool { held != 0 || sold != 0 }

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
    /// Entries of the stripe that were ever in use.
    var taken: UInt32 = 0
    /// From an entry's tag to its number.
    var keys = KeyTable()
    // What `prefetch` reads: where the keys lay and which entry came next when the lock was last given back, or a
    // little later.
    let keyPlace = Atomic<UInt>(0)
    let numberAhead = Atomic<UInt32>(0)
  }

  private struct Header: ~Copyable {
    let count = Atomic<Int>(0)
    /// Entries whose pages are filled: all below.
    let filled = Atomic<UInt32>(0)
  }

  private static let stripeCount: UInt32 = 64
  /// 12 pages of 4 KiB in one call to the kernel: a fault for each costs twice as much.
  private static let entriesFilledAtOnce: UInt32 = 1024

  /// Those of the stripes lie in turns: entry n of stripe s has the number n * stripeCount + s. All stripes grow alike,
  /// so that there is no gap.
  private let entries: Region<SubjectEntry>
  private let stripes = PaddedArray<Stripe>(count: Int(stripeCount)) { _ in Stripe() }
  private let header = PaddedArray<Header>(count: 1) { _ in Header() }
  private let countMax: Int
  /// Of the store: it knows when each was removed.
  private let items: ItemTable

  /// - Parameter capacity: the cap.
  init(capacity: Int, items: ItemTable) {
    self.items = items
    countMax = capacity
    entries = Region(capacity: Self.entryCapacity(capacity), pages: .small)
  }

  func free() {
    entries.free()
    stripes.free()
    header.free()
  }

  /// Commits that come together may pass the cap, a stripe has more than its share by chance, and keeps the entries
  /// that it has had.
  private static func entryCapacity(_ capacity: Int) -> Int {
    min(2 * capacity + (1 << 16), Int(Int32.max))
  }

  static func addressSpace(capacity: Int) -> Int {
    Region<SubjectEntry>.mappedBytes(capacity: entryCapacity(capacity))
  }

  /// Entries in use.
  package var count: Int { header[0].count.load(ordering: .relaxed) }

  /// Bytes in use.
  var bytes: Int {
    var bytes = 0
    for stripe in 0..<stripes.count {
      stripes[stripe].lock.lock()
      bytes +=
        Int(stripes[stripe].taken) * MemoryLayout<SubjectEntry>.stride + stripes[stripe].keys.bytes
      stripes[stripe].lock.unlock()
    }
    return bytes
  }

  /// Whether there may be no further entry.
  var isFull: Bool { count >= countMax }

  /// The same where a directory is opened, which may have a few more than the cap.
  package var isBeyondCap: Bool { count >= entries.capacity / 4 * 3 }

  // MARK: One entry

  /// Fetches what `used` and `add` look at. A hint: any item is allowed.
  @inline(__always)
  func prefetch(_ subject: SubjectHash, _ ordinal: UInt32) {
    let hash = Self.hash(subject, ordinal)
    let stripe = Self.stripe(hash)
    KeyTable.prefetch(
      Self.tag(hash), at: stripes[stripe].keyPlace.load(ordering: .relaxed))
    // Its number is one that the stripe had, or comes next.
    let next = unsafe UnsafeRawPointer(
      entries.address(stripes[stripe].numberAhead.load(ordering: .relaxed)))
    unsafe hf_prefetch(next)
    // An entry may lie on two cache lines.
    unsafe hf_prefetch(next + MemoryLayout<SubjectEntry>.size - 1)
  }

  /// Units that the subject has of the item, held and sold; nil where there is no entry.
  /// - Parameter heldAlone: `DeliberateFault.limitOfHeldAlone`.
  func used(_ subject: SubjectHash, _ ordinal: UInt32, heldAlone: Bool) -> Int64? {
    let hash = Self.hash(subject, ordinal)
    let stripe = lock(hash)
    defer { stripes[stripe].lock.unlock() }
    guard let number = find(subject, ordinal, hash, stripe) else { return nil }
    let entry = entries[number]
    return entry.held &+ (heldAlone ? 0 : entry.sold(since: items.removedAt(ordinal)))
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

  /// Takes back what a checkpoint has. One of an older version may have an entry twice: the later counts. While one
  /// thread has the table to itself.
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

  /// The places of all entries that are or were there are below. An entry stays at its place.
  package var placeEnd: UInt32 {
    var taken: UInt32 = 0
    for stripe in 0..<stripes.count {
      stripes[stripe].lock.lock()
      taken = max(taken, stripes[stripe].taken)
      stripes[stripe].lock.unlock()
    }
    return taken * Self.stripeCount
  }

  /// Calls `body` with what was sold to the subject at `place`, if anything was. Whoever goes through the places from
  /// the first to the last sees every entry that is there all the time.
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
      let stripe = Int(place % Self.stripeCount)
      guard place / Self.stripeCount < stripes[stripe].taken, entries[place].isInUse,
        entries[place].sold(since: items.removedAt(entries[place].ordinal)) == 0
      else { continue }
      entries[place].sold = 0
      remove(place, Self.hash(entries[place].subject, entries[place].ordinal), stripe)
    }
  }

  /// Calls `body` with the entry at `place`, if there is one.
  func forEach(at place: UInt32, _ body: (SubjectEntry) -> Void) {
    let stripe = Int(place % Self.stripeCount)
    stripes[stripe].lock.lock()
    defer { stripes[stripe].lock.unlock() }
    guard place / Self.stripeCount < stripes[stripe].taken, entries[place].isInUse else { return }
    body(entries[place])
  }

  // MARK: Under the stripe's lock

  @inline(__always)
  private static func hash(_ subject: SubjectHash, _ ordinal: UInt32) -> UInt64 {
    subject.low &+ UInt64(ordinal) &* 0x9e37_79b9_7f4a_7c15
  }

  @inline(__always)
  private static func stripe(_ hash: UInt64) -> Int {
    Int(truncatingIfNeeded: hash & UInt64(stripeCount - 1))
  }

  /// What the key table knows an entry by.
  @inline(__always)
  private static func tag(_ hash: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: hash >> 32) }

  @inline(__always)
  private func lock(_ hash: UInt64) -> Int {
    let stripe = Self.stripe(hash)
    stripes[stripe].lock.lock()
    return stripe
  }

  @inline(__always)
  private func find(
    _ subject: SubjectHash, _ ordinal: UInt32, _ hash: UInt64, _ stripe: Int
  ) -> UInt32? {
    stripes[stripe].keys.find(Self.tag(hash)) { number in
      entries[number].ordinal == ordinal && entries[number].subject == subject
    }
  }

  private func insert(
    _ subject: SubjectHash, _ ordinal: UInt32, _ hash: UInt64, _ stripe: Int
  ) -> UInt32 {
    let number = take(stripe)
    entries[number] = SubjectEntry(
      subject: subject, ordinal: ordinal, next: 0, held: 0, sold: 0, lsn: 0)
    stripes[stripe].keys.insert(Self.tag(hash), number)
    stripes[stripe].keyPlace.store(stripes[stripe].keys.place, ordering: .relaxed)
    header[0].count.wrappingAdd(1, ordering: .relaxed)
    return number
  }

  private func take(_ stripe: Int) -> UInt32 {
    let free = stripes[stripe].free
    let number: UInt32
    if free != 0 {
      number = free - 1
      stripes[stripe].free = entries[number].next
    } else {
      number = stripes[stripe].taken * Self.stripeCount + UInt32(stripe)
      precondition(number < entries.capacity, "more subjects than the cap and what comes together")
      stripes[stripe].taken += 1
      if number >= header[0].filled.load(ordering: .relaxed) { fillPages(through: number) }
    }
    noteAhead(stripe)
    return number
  }

  private func remove(_ number: UInt32, _ hash: UInt64, _ stripe: Int) {
    stripes[stripe].keys.remove(Self.tag(hash), number)
    entries[number].next = stripes[stripe].free
    stripes[stripe].free = number + 1
    noteAhead(stripe)
    header[0].count.wrappingSubtract(1, ordering: .relaxed)
  }

  @inline(__always)
  private func noteAhead(_ stripe: Int) {
    let free = stripes[stripe].free
    let next = free != 0 ? free - 1 : stripes[stripe].taken * Self.stripeCount + UInt32(stripe)
    stripes[stripe].numberAhead.store(
      min(next, UInt32(entries.capacity - 1)), ordering: .relaxed)
  }

  /// Has the pages of this entry filled, and of some that come next. Two threads may fill the same.
  @inline(never)
  private func fillPages(through number: UInt32) {
    let end = min(
      UInt32(entries.capacity),
      number / Self.entriesFilledAtOnce * Self.entriesFilledAtOnce + Self.entriesFilledAtOnce)
    let first = header[0].filled.exchange(end, ordering: .relaxed)
    guard first < end else { return }
    unsafe hf_fill_pages(
      entries.address(first), Int(end - first) * MemoryLayout<SubjectEntry>.stride)
  }
}
