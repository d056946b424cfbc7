/// Holds that end within the running tick, earliest first: a binary heap. Entries are never removed
/// before their time: who pops one checks whether it still means anything.
///
/// They lie in chunks that never move: however many there are, adding one copies none of the others.
@safe struct DueHeap: ~Copyable {
  struct Entry {
    let expiresAt: Int64
    let slot: UInt32
    let generation: UInt32
  }

  private static let chunkEntriesLog2 = 9
  static let chunkEntries = 1 << chunkEntriesLog2

  /// The chunks' addresses; of 8 KiB each, so that even a million entries have few.
  private var chunks: UnsafeMutablePointer<UnsafeMutablePointer<Entry>>
  private var chunksMax = 4
  private var chunkCount = 0
  private(set) var count = 0

  init() { unsafe chunks = .allocate(capacity: chunksMax) }

  deinit {
    for chunk in 0..<chunkCount { unsafe chunks[chunk].deallocate() }
    unsafe chunks.deallocate()
  }

  var bytes: Int { chunkCount * Self.chunkEntries * MemoryLayout<Entry>.stride }

  var first: Entry? { count == 0 ? nil : unsafe address(1).pointee }

  /// The entry at `index`, from 0 to count - 1, in no particular order.
  subscript(index: Int) -> Entry {
    precondition(index >= 0 && index < count, "no such entry")
    return unsafe address(index + 1).pointee
  }

  mutating func push(_ entry: Entry) {
    // The place before the first is not used, so that the two below a place are in one chunk.
    if count + 1 >= chunkCount * Self.chunkEntries { addChunk() }
    count += 1
    var index = count
    var hole = unsafe address(index)
    // All indices are from 1 to count, and there are chunks for as many.
    while index > 1 {
      let parent = unsafe address(index / 2)
      if unsafe parent.pointee.expiresAt <= entry.expiresAt { break }
      unsafe hole.pointee = parent.pointee
      unsafe hole = parent
      index /= 2
    }
    unsafe hole.pointee = entry
  }

  /// Drops the first entry; there must be one.
  mutating func dropFirst() {
    precondition(count > 0, "the heap is empty")
    let moved = unsafe address(count).pointee
    count -= 1
    var hole = unsafe address(1)
    var index = 2
    // All indices are from 1 to the old count.
    while index <= count {
      var child = unsafe address(index)
      if index < count, unsafe child[1].expiresAt < child.pointee.expiresAt {
        unsafe child += 1
        index += 1
      }
      if unsafe child.pointee.expiresAt >= moved.expiresAt { break }
      unsafe hole.pointee = child.pointee
      unsafe hole = child
      index *= 2
    }
    unsafe hole.pointee = moved
  }

  /// - Parameter index: below what the chunks have room for.
  @inline(__always)
  private func address(_ index: Int) -> UnsafeMutablePointer<Entry> {
    unsafe chunks[index &>> Self.chunkEntriesLog2] + (index & (Self.chunkEntries - 1))
  }

  private mutating func addChunk() {
    if chunkCount == chunksMax {
      let larger = UnsafeMutablePointer<UnsafeMutablePointer<Entry>>.allocate(
        capacity: chunksMax * 2)
      unsafe larger.initialize(from: chunks, count: chunkCount)
      unsafe chunks.deallocate()
      unsafe chunks = larger
      chunksMax *= 2
    }
    let chunk = UnsafeMutablePointer<Entry>.allocate(capacity: Self.chunkEntries)
    let none = Entry(expiresAt: 0, slot: 0, generation: 0)
    unsafe chunk.initialize(repeating: none, count: Self.chunkEntries)
    unsafe (chunks + chunkCount).initialize(to: chunk)
    chunkCount += 1
  }
}
