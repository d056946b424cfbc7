// The items' records: one cache line each, numbered in the order in which they were made.
//
// They lie in huge pages, since commands look at any of them. Filling one stops a thread for long, so that
// is done before it is needed, by a thread of its own.
internal import CPlatform
internal import Posix
package import Synchronization

/// One item, 64 bytes. The word is the item's lock and version; balances and LSN are guarded by it:
/// only who holds the lock writes them, and readers check the word again after reading. All are
/// atomics, so that reading beside a writer is defined. The key never changes once it is in the index.
package struct ItemRecord: ~Copyable {
  /// version << 1 | locked, as ItemWord reads it. Version 0: the name is taken, but the item was not made yet.
  package let word: Atomic<UInt64>
  // Each has its balance in the upper 48 bits, and 16 bits of committed below: the lowest are in the first.
  // No balance is as large as 2^47, and a fifth word would cost every item a second cache line. So the third has a
  // bit to spare, which says that the item has a sale window.
  private let onHandWord: Atomic<Int64>
  private let heldWord: Atomic<Int64>
  private let safetyStockWord: Atomic<Int64>
  /// Of the last change.
  package let lsn: Atomic<UInt64>
  var key: ItemKey

  private static let committedBits: Int64 = 16
  private static let committedMask: Int64 = 1 << committedBits - 1
  private static let committedTopMask: Int64 = committedMask >> 1
  private static let saleWindowBit: Int64 = 1 << (committedBits - 1)

  /// The four balances; consistent if the word is the same before and after.
  @inline(__always)
  var balances: Balances { balancesAndSale.balances }

  /// The same, and whether the item has a sale window: ItemTable.sale(_:).
  @inline(__always)
  var balancesAndSale: (balances: Balances, hasSaleWindow: Bool) {
    let first = onHandWord.load(ordering: .acquiring)
    let second = heldWord.load(ordering: .acquiring)
    let third = safetyStockWord.load(ordering: .acquiring)
    let bits = Self.committedBits
    let balances = Balances(
      onHand: first >> bits, held: second >> bits,
      committed: first & Self.committedMask | (second & Self.committedMask) << bits
        | (third & Self.committedTopMask) << (2 * bits),
      safetyStock: third >> bits)
    return (balances, third & Self.saleWindowBit != 0)
  }

  /// For whoever holds the lock, or has the table to itself.
  fileprivate borrowing func setHasSaleWindow(_ hasOne: Bool) {
    let others = safetyStockWord.load(ordering: .relaxed) & ~Self.saleWindowBit
    safetyStockWord.store(others | (hasOne ? Self.saleWindowBit : 0), ordering: .releasing)
  }

  /// For whoever holds the lock, or has the table to itself. On hand, held and committed are not below zero.
  @inline(__always)
  borrowing func store(_ balances: Balances) {
    assert(
      balances.areStorable, "a balance beyond 48 bits would take bits of another one")
    let committed = balances.committed
    let bits = Self.committedBits
    onHandWord.store(
      balances.onHand << bits | committed & Self.committedMask, ordering: .releasing)
    heldWord.store(
      balances.held << bits | committed >> bits & Self.committedMask, ordering: .releasing)
    let sale = safetyStockWord.load(ordering: .relaxed) & Self.saleWindowBit
    safetyStockWord.store(
      balances.safetyStock << bits | committed >> (2 * bits) & Self.committedTopMask | sale,
      ordering: .releasing)
  }

  /// The safety stock alone: for whoever knows the others.
  package var safetyStock: Int64 {
    safetyStockWord.load(ordering: .acquiring) >> Self.committedBits
  }
}

/// What an item's word says.
package enum ItemWord {
  /// The item was removed: its record is what is left of it, and the version that of its removal.
  package static let removed: UInt64 = 1 << 63

  /// Whether there is an item: it was made, and not removed since.
  @inline(__always)
  package static func isMade(_ word: UInt64) -> Bool { Int64(bitPattern: word) > 1 }

  @inline(__always)
  package static func isRemoved(_ word: UInt64) -> Bool { Int64(bitPattern: word) < 0 }

  /// Of an item, of what is left of one, or 0.
  @inline(__always)
  package static func version(_ word: UInt64) -> UInt64 { (word & ~removed) >> 1 }

  /// Of an unlocked word of a version.
  package static func word(_ version: UInt64, isRemoved: Bool = false) -> UInt64 {
    version << 1 | (isRemoved ? removed : 0)
  }
}

/// An item's name: the two lengths, then SKU and location behind each other where both fit, else the
/// address of a copy in the last eight bytes.
struct ItemKey {
  var skuLength: UInt8
  var locationLength: UInt8
  var inline: InlineArray<6, UInt8>
  var inlineTail: InlineArray<2, UInt64>

  static let inlineBytesMax = 22
  /// Of `inline` in an ItemRecord.
  static let inlineOffset = 42

  var count: Int { Int(skuLength) + Int(locationLength) }

  var copy: UnsafeMutableRawPointer? {
    get { unsafe UnsafeMutableRawPointer(bitPattern: UInt(inlineTail[1])) }
    set { inlineTail[1] = UInt64(UInt(bitPattern: newValue)) }
  }
}

/// The sale window of an item that has one, guarded as its balances are. Whoever reads it before it has seen that the
/// item's word is still the same may read anything.
private struct SaleWindowRecord: ~Copyable {
  let fromWord: Atomic<UInt64>
  let untilWord: Atomic<UInt64>
  let lowBits: Atomic<UInt32>
}

/// When an item was removed last, guarded as its balances are.
private struct RemovalRecord: ~Copyable {
  let lsn: Atomic<UInt64>
}

/// All items. A handle, as Region.
package struct ItemTable {
  private struct Header: ~Copyable {
    /// Records handed out.
    let count = Atomic<UInt32>(0)
    /// Bytes of the copies of long names.
    let copiedBytes = Atomic<Int>(0)
    /// The pages of the records before this number are filled, or being filled.
    let filledEnd = Atomic<Int>(ItemTable.recordsPerPage)
    let isFilling = Atomic<Bool>(false)
    /// The newest thread that fills a page.
    let filler = Mutex<Thread?>(nil)
    /// Some item was removed, as far as anything that is kept knows.
    let hasRemovals = Atomic<Bool>(false)
    /// Records below `count` that no item has, and another may have.
    let freeRecords = Mutex<[UInt32]>([])
    let freeCount = Atomic<Int>(0)
  }

  /// Of a huge page.
  static let recordsPerPage = (2 << 20) / 64
  /// A page is filled when no more records than these are left before it: half a page, and as soon as there
  /// are many, up to four.
  @inline(__always)
  private static func recordsAhead(of ordinal: UInt32) -> Int {
    recordsPerPage / 2 + min(Int(ordinal) / 2, 4 * recordsPerPage)
  }

  private let records: Region<ItemRecord>
  /// By the items' numbers. Small pages: those of items without a window are never touched.
  private let sales: Region<SaleWindowRecord>
  /// By the items' numbers, likewise: the log sequence number of the item's last removal.
  private let removals: Region<RemovalRecord>
  private let header = PaddedArray<Header>(count: 1) { _ in Header() }

  init(capacity: Int) {
    precondition(MemoryLayout<ItemRecord>.size == 64, "an item is one cache line")
    records = Region(capacity: min(capacity, Int(UInt32.max) - 1), pages: .huge)
    sales = Region(capacity: records.capacity, pages: .small)
    removals = Region(capacity: records.capacity, pages: .small)
    fillPages(0..<1)
  }

  func free() {
    header[0].filler.withLock { $0?.join() }
    for ordinal in 0..<count where records[ordinal].key.count > ItemKey.inlineBytesMax {
      unsafe records[ordinal].key.copy?.deallocate()
    }
    records.free()
    sales.free()
    removals.free()
    header.free()
  }

  /// What the tables of so many items take of the address space.
  static func addressSpace(capacity: Int) -> Int {
    Region<ItemRecord>.mappedBytes(capacity: capacity)
      + Region<SaleWindowRecord>.mappedBytes(capacity: capacity)
      + Region<RemovalRecord>.mappedBytes(capacity: capacity)
  }

  /// The cap.
  package var capacity: Int { records.capacity }

  /// Records handed out; those whose version is 0 are not items yet.
  package var count: UInt32 { header[0].count.load(ordering: .acquiring) }

  /// Bytes in use.
  var bytes: Int {
    Int(count) * MemoryLayout<ItemRecord>.stride + header[0].copiedBytes.load(ordering: .relaxed)
  }

  /// The balances of an item and `version`, which was read before; consistent if it is the same after.
  @inline(__always)
  package func level(_ ordinal: UInt32, version: UInt64) -> StockLevel {
    let (balances, hasSaleWindow) = records[ordinal].balancesAndSale
    return StockLevel(
      item: ItemHandle(ordinal: ordinal), balances, version: version,
      sale: hasSaleWindow ? sale(ordinal) : .always)
  }

  /// The sale window of an item that has one; consistent if the item's word is the same before and after.
  func sale(_ ordinal: UInt32) -> SaleWindow {
    SaleWindow(
      fromWord: sales[ordinal].fromWord.load(ordering: .acquiring),
      untilWord: sales[ordinal].untilWord.load(ordering: .acquiring),
      lowBits: sales[ordinal].lowBits.load(ordering: .acquiring))
  }

  /// For whoever has the item locked, or the table to itself.
  package func setSale(_ ordinal: UInt32, _ sale: SaleWindow) {
    if sale.isAlways { return records[ordinal].setHasSaleWindow(false) }
    sales[ordinal].fromWord.store(sale.fromWord, ordering: .releasing)
    sales[ordinal].untilWord.store(sale.untilWord, ordering: .releasing)
    sales[ordinal].lowBits.store(sale.lowBits, ordering: .releasing)
    records[ordinal].setHasSaleWindow(true)
  }

  /// Log sequence number of the last time the item was removed; 0: never, as far as anything that is kept knows. For
  /// whoever has it locked, or reads its word before and after.
  package func removedAt(_ ordinal: UInt32) -> UInt64 {
    removals[ordinal].lsn.load(ordering: .acquiring)
  }

  /// For whoever has the item locked, or the table to itself.
  package func setRemovedAt(_ ordinal: UInt32, _ lsn: UInt64) {
    removals[ordinal].lsn.store(lsn, ordering: .releasing)
    if lsn != 0, !hasRemovals { header[0].hasRemovals.store(true, ordering: .relaxed) }
  }

  /// Whether some item was ever removed.
  package var hasRemovals: Bool { header[0].hasRemovals.load(ordering: .relaxed) }

  /// The record of a number that `add` gave.
  @inline(__always)
  package subscript(ordinal: UInt32) -> ItemRecord {
    unsafeAddress { unsafe UnsafePointer(records.address(ordinal)) }
  }

  @inline(__always)
  func prefetch(_ ordinal: UInt32) { unsafe hf_prefetch(records.address(ordinal)) }

  /// The same for any number.
  @inline(__always)
  package func prefetchIfThere(_ ordinal: UInt32) {
    if ordinal < records.capacity { prefetch(ordinal) }
  }

  /// Makes a record with `name` at version 0; nil where the table is full. Nobody else sees it until
  /// its number is in the index. The caller holds the lock of the name's stripe.
  func add(_ name: ItemName) -> UInt32? {
    if let ordinal = takeFree() {
      setName(ordinal, name)
      return ordinal
    }
    var ordinal = header[0].count.load(ordering: .relaxed)
    repeat {
      if ordinal >= records.capacity { return nil }
      let (exchanged, seen) = header[0].count.weakCompareExchange(
        expected: ordinal, desired: ordinal + 1, ordering: .acquiringAndReleasing)
      if exchanged { break }
      ordinal = seen
    } while true
    setName(ordinal, name)
    if Int(ordinal) + Self.recordsAhead(of: ordinal) >= header[0].filledEnd.load(ordering: .relaxed)
    {
      fillAhead(of: ordinal)
    }
    return ordinal
  }

  /// Gives these records to the next items, the last first. Only while one thread has the table to itself.
  package func setFree(_ ordinals: [UInt32]) {
    header[0].freeRecords.withLock { $0 = ordinals }
    header[0].freeCount.store(ordinals.count, ordering: .relaxed)
  }

  /// Those that `setFree` has given and nobody has taken.
  package var freeRecords: [UInt32] { header[0].freeRecords.withLock { $0 } }

  private func takeFree() -> UInt32? {
    if header[0].freeCount.load(ordering: .relaxed) == 0 { return nil }
    return header[0].freeRecords.withLock { free in
      let ordinal = free.popLast()
      header[0].freeCount.store(free.count, ordering: .relaxed)
      return ordinal
    }
  }

  /// Empties a record, as if it had never had an item. Only while one thread has the table to itself.
  package func clear(_ ordinal: UInt32) {
    removeName(ordinal)
    setSale(ordinal, .always)
    setRemovedAt(ordinal, 0)
    records[ordinal].store(.none)
    records[ordinal].lsn.store(0, ordering: .relaxed)
    records[ordinal].word.store(0, ordering: .releasing)
  }

  /// Has the next page filled that is not, and comes after this record's.
  @inline(never)
  private func fillAhead(of ordinal: UInt32) {
    // Where the page before is still being filled, one of the next records asks again.
    if header[0].isFilling.exchange(true, ordering: .acquiring) { return }
    let first = max(
      (Int(ordinal) / Self.recordsPerPage + 1) * Self.recordsPerPage,
      header[0].filledEnd.load(ordering: .relaxed))
    let end = min(first + Self.recordsPerPage, records.capacity)
    header[0].filledEnd.store(first + Self.recordsPerPage, ordering: .relaxed)
    header[0].filler.withLock { filler in
      // It has nothing more to do.
      filler?.join()
      filler = nil
      if first < end {
        filler = try? Thread(name: "page-filler") { [self] in
          fillPages(first..<end)
          header[0].isFilling.store(false, ordering: .releasing)
        }
      }
      // Without a thread the page is filled by who comes to it.
      if filler == nil { header[0].isFilling.store(false, ordering: .releasing) }
    }
  }

  /// Touches every page of these records, small ones where the kernel has no huge one.
  private func fillPages(_ range: Range<Int>) {
    for ordinal in stride(from: range.lowerBound, to: range.upperBound, by: 4096 / 64) {
      // Changes nothing, whoever uses the record meanwhile. It counts as a write: an addition of nothing becomes
      // a load, for which the kernel fills no page.
      _ = records[UInt32(ordinal)].word.compareExchange(
        expected: 0, desired: 0, ordering: .relaxed)
    }
  }

  /// Gives a record that had another place in the order of making its number and name back; false where
  /// the number is beyond the cap. Only while one thread has the table to itself.
  package func restore(_ ordinal: UInt32, _ name: ItemName) -> Bool {
    guard ordinal < records.capacity else { return false }
    setName(ordinal, name)
    if ordinal >= count { header[0].count.store(ordinal + 1, ordering: .releasing) }
    return true
  }

  private func removeName(_ ordinal: UInt32) {
    if records[ordinal].key.count > ItemKey.inlineBytesMax {
      header[0].copiedBytes.wrappingAdd(-records[ordinal].key.count, ordering: .relaxed)
      unsafe records[ordinal].key.copy?.deallocate()
    }
    records[ordinal].key.skuLength = 0
    records[ordinal].key.locationLength = 0
  }

  private func setName(_ ordinal: UInt32, _ name: ItemName) {
    removeName(ordinal)
    let skuLength = UInt8(clamping: name.sku.count)
    let locationLength = UInt8(clamping: name.location.count)
    records[ordinal].key.skuLength = skuLength
    records[ordinal].key.locationLength = locationLength
    let count = records[ordinal].key.count
    if count > ItemKey.inlineBytesMax {
      unsafe records[ordinal].key.copy = .allocate(byteCount: count, alignment: 1)
      header[0].copiedBytes.wrappingAdd(count, ordering: .relaxed)
    }
    // There is room for `count` bytes, in place or in the copy made above.
    let bytes = unsafe keyBytes(ordinal)
    if let sku = unsafe name.sku.pointer.baseAddress {
      unsafe bytes.copyMemory(from: sku, byteCount: Int(skuLength))
    }
    if let location = unsafe name.location.pointer.baseAddress {
      unsafe (bytes + Int(skuLength)).copyMemory(from: location, byteCount: Int(locationLength))
    }
  }

  /// Whether the record has this name.
  @inline(__always)
  package func hasName(_ ordinal: UInt32, _ name: ItemName) -> Bool {
    let skuLength = Int(records[ordinal].key.skuLength)
    guard skuLength == name.sku.count,
      Int(records[ordinal].key.locationLength) == name.location.count
    else { return false }
    let bytes = unsafe keyBytes(ordinal)
    return unsafe equal(bytes, name.sku.pointer) && equal(bytes + skuLength, name.location.pointer)
  }

  /// The record's name. Its bytes stay as long as the store.
  package func name(_ ordinal: UInt32) -> ItemName {
    let skuLength = Int(records[ordinal].key.skuLength)
    let locationLength = Int(records[ordinal].key.locationLength)
    let bytes = unsafe UnsafePointer(
      keyBytes(ordinal).assumingMemoryBound(to: UInt8.self))
    return unsafe ItemName(
      sku: BorrowedBytes(bytes, count: skuLength),
      location: BorrowedBytes(bytes + skuLength, count: locationLength))
  }

  @inline(__always)
  private func keyBytes(_ ordinal: UInt32) -> UnsafeMutableRawPointer {
    if records[ordinal].key.count > ItemKey.inlineBytesMax,
      let copy = unsafe records[ordinal].key.copy
    {
      return unsafe copy
    }
    return unsafe UnsafeMutableRawPointer(records.address(ordinal)) + ItemKey.inlineOffset
  }
}

/// Whether the bytes at `a` are those of `b`; `a` must have as many.
@inline(__always)
private func equal(_ a: UnsafeMutableRawPointer, _ b: UnsafeRawBufferPointer) -> Bool {
  let count = b.count
  guard count > 0, let b = b.baseAddress else { return true }
  if count < 8 {
    for index in 0..<count
    where unsafe a.load(fromByteOffset: index, as: UInt8.self)
      != b.load(fromByteOffset: index, as: UInt8.self)
    {
      return false
    }
    return true
  }
  // All loads lie within [0, count); the last two overlap where count is no multiple of 8.
  var offset = 0
  while offset + 8 < count {
    let left = unsafe a.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
    let right = unsafe b.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
    if left != right { return false }
    offset += 8
  }
  let left = unsafe a.loadUnaligned(fromByteOffset: count - 8, as: UInt64.self)
  return unsafe left == b.loadUnaligned(fromByteOffset: count - 8, as: UInt64.self)
}
