internal import CPlatform
internal import Synchronization

/// All reservation records. Shards take them in chunks of 64, side by side, so that a small store
/// stays small whatever its cap; a byte for each chunk says whose it is. A handle, as Region.
package struct ReservationSlab {
  package static let chunkRecords = 64

  private struct Header: ~Copyable {
    let chunks = Atomic<UInt32>(0)
    /// Up to which chunk recovery has had pages filled.
    let filledChunks = Atomic<UInt32>(0)
    /// Slots that are not in use when the store is opened begin with this generation.
    let firstGeneration: UInt32
    /// From one use of a slot to the next; odd, so that no generation comes back before all were there.
    let generationStep: UInt32
  }

  /// 16 pages of 4 KiB in one call to the kernel, of some microseconds: a fault for each costs twice as much.
  private static let chunksFilledAtOnce: UInt32 = 8

  package let records: RecordTable
  private let memory: Region<ReservationRecord>
  /// Shard + 1 of each chunk; 0: nobody's yet.
  private let owners: Region<Atomic<UInt8>>
  /// Apart, so that the shards, which each have the slab, stay small.
  private let header: PaddedArray<Header>

  /// - Parameter nonce: what the generations of this opening are made of.
  init(chunkCount: Int, nonce: UInt64) {
    header = PaddedArray(count: 1) { _ in
      Header(
        firstGeneration: UInt32(truncatingIfNeeded: nonce),
        generationStep: UInt32(truncatingIfNeeded: nonce >> 32) | 1)
    }
    precondition(MemoryLayout<ReservationRecord>.size == 128, "a record is two cache lines")
    let chunkCount = min(chunkCount, Int(UInt32.max) / Self.chunkRecords - 1)
    // Every decision takes a record that was never touched before, one behind the other, until the table is
    // as full as it gets: what filling the pages costs is a part of each decision. Small ones halve it, and
    // no decision waits for a huge one.
    memory = Region(capacity: chunkCount * Self.chunkRecords, pages: .small)
    records = RecordTable(memory)
    owners = Region(capacity: chunkCount, pages: .small)
  }

  func free() {
    for slot in 0..<slotCount { self[slot].removeLines() }
    memory.free()
    owners.free()
    header.free()
  }

  /// Slots that belong to some shard: all below this.
  package var slotCount: UInt32 {
    header[0].chunks.load(ordering: .acquiring) * UInt32(Self.chunkRecords)
  }

  /// Chunks that belong to some shard, and most that there can be.
  package var chunkCount: UInt32 { header[0].chunks.load(ordering: .acquiring) }
  package var chunkCapacity: Int { owners.capacity }

  var firstGeneration: UInt32 { header[0].firstGeneration }
  var generationStep: UInt32 { header[0].generationStep }

  /// Bytes in use.
  var bytes: Int { Int(slotCount) * MemoryLayout<ReservationRecord>.stride }

  /// The record of a slot that `takeChunk` gave.
  @inline(__always)
  package subscript(slot: UInt32) -> ReservationRecord {
    unsafeAddress { unsafe UnsafePointer(records.address(slot)) }
    nonmutating unsafeMutableAddress { unsafe records.address(slot) }
  }

  /// Hands a chunk to `shard`: its first slot. There are as many chunks as all shards together need
  /// to be full.
  func takeChunk(shard: Int) -> UInt32 {
    let chunk = header[0].chunks.wrappingAdd(1, ordering: .acquiringAndReleasing).oldValue
    precondition(chunk < owners.capacity, "a shard takes more than its share")
    owners[chunk].store(UInt8(truncatingIfNeeded: shard + 1), ordering: .releasing)
    if chunk % Self.chunksFilledAtOnce == 0 {
      fillPages(from: chunk, count: min(Self.chunksFilledAtOnce, UInt32(owners.capacity) - chunk))
    }
    return chunk * UInt32(Self.chunkRecords)
  }

  /// Gives a chunk to the shard that had it; false where it is another's. The number is below
  /// `chunkCapacity`. Only while one thread has the slab to itself.
  package func restoreChunk(_ chunk: UInt32, shard: Int) -> Bool {
    let owner = owners[chunk].load(ordering: .relaxed)
    if owner != 0 { return Int(owner) == shard + 1 }
    owners[chunk].store(UInt8(truncatingIfNeeded: shard + 1), ordering: .releasing)
    if chunk >= chunkCount {
      header[0].chunks.store(chunk + 1, ordering: .releasing)
      if chunk >= header[0].filledChunks.load(ordering: .relaxed) { fillPages(behind: chunk) }
    }
    return true
  }

  /// Has the pages of this chunk and of those behind it filled that come next: as many as there are before
  /// it, since more will, up to 2 MiB. No call waits for them, so they need not come one by one.
  private func fillPages(behind chunk: UInt32) {
    let end = min(UInt32(owners.capacity), chunk + max(8, min(chunk, 256)))
    header[0].filledChunks.store(end, ordering: .relaxed)
    fillPages(from: chunk, count: end - chunk)
  }

  /// - Parameter count: so many chunks from the first on are within the table.
  private func fillPages(from chunk: UInt32, count: UInt32) {
    let bytes = Self.chunkRecords * MemoryLayout<ReservationRecord>.stride
    unsafe hf_fill_pages(
      records.address(chunk * UInt32(Self.chunkRecords)), Int(count) * bytes)
  }

  /// Puts a record that was kept into its slot; false where there is one. The slot is of a chunk that has an
  /// owner. Only while one thread has the slab to itself.
  package func restore(_ record: ReservationRecord, _ slot: UInt32) -> Bool {
    guard self[slot].kind == .free else { return false }
    self[slot] = record
    return true
  }

  /// Whose slot it is; nil where it is nobody's. Any number is allowed.
  @inline(__always)
  package func owner(_ slot: UInt32) -> Int? {
    let chunk = slot / UInt32(Self.chunkRecords)
    guard chunk < owners.capacity else { return nil }
    let owner = owners[chunk].load(ordering: .acquiring)
    return owner == 0 ? nil : Int(owner) - 1
  }
}

/// The records by their slots, without what else belongs to the slab: one address, so that a shard can
/// keep it beside what it changes. Asks no more of a slot than that `takeChunk` gave it.
@safe package struct RecordTable: @unchecked Sendable {
  private let base: UnsafeMutablePointer<ReservationRecord>

  init(_ memory: Region<ReservationRecord>) { unsafe base = memory.address(0) }

  @inline(__always)
  package func address(_ slot: UInt32) -> UnsafeMutablePointer<ReservationRecord> {
    unsafe base + Int(slot)
  }

  @inline(__always)
  package subscript(slot: UInt32) -> ReservationRecord {
    unsafeAddress { unsafe UnsafePointer(address(slot)) }
    nonmutating unsafeMutableAddress { unsafe address(slot) }
  }

  /// Fetches a record so that other cores keep their copies. The slot is one that `takeChunk` gave.
  @inline(__always)
  package func prefetchToRead(_ slot: UInt32) {
    // Both cache lines are the record's.
    unsafe hf_prefetch_read(address(slot))
    unsafe hf_prefetch_read(UnsafeRawPointer(address(slot)) + 64)
  }

  /// Fetches the record of any slot, also of one that is not there.
  @inline(__always)
  package func prefetch(_ slot: UInt32) {
    // Computed without a claim that it points into the table: it is only hinted at, never followed.
    let address =
      unsafe UInt(bitPattern: base) &+ UInt(slot) &* UInt(MemoryLayout<ReservationRecord>.stride)
    unsafe hf_prefetch(UnsafeRawPointer(bitPattern: address))
    unsafe hf_prefetch(UnsafeRawPointer(bitPattern: address &+ 64))
  }
}

/// A doubly linked list through the records' own links; slot + 1, 0: none.
struct SlotList {
  private(set) var head: UInt32 = 0
  private var tail: UInt32 = 0

  /// The slot at the head.
  var first: UInt32? { head == 0 ? nil : head - 1 }

  mutating func append(_ slot: UInt32, _ records: RecordTable) {
    records[slot].next = 0
    records[slot].previous = tail
    if tail == 0 { head = slot + 1 } else { records[tail - 1].next = slot + 1 }
    tail = slot + 1
  }

  mutating func remove(_ slot: UInt32, _ records: RecordTable) {
    let next = records[slot].next
    let previous = records[slot].previous
    assert(
      (previous == 0 ? head : records[previous - 1].next) == slot + 1
        && (next == 0 ? tail : records[next - 1].previous) == slot + 1, "a slot of another list")
    if previous == 0 { head = next } else { records[previous - 1].next = next }
    if next == 0 { tail = previous } else { records[next - 1].previous = previous }
  }
}
