/// Holds that end within the running tick, earliest first: a binary heap. Entries are never removed
/// before their time: who pops one checks whether it still means anything.
@safe struct DueHeap: ~Copyable {
  struct Entry {
    let expiresAt: Int64
    let slot: UInt32
    let generation: UInt32
  }

  private var entries: UnsafeMutablePointer<Entry>
  private var capacity: Int
  private(set) var count = 0

  init() {
    capacity = 8
    unsafe entries = .allocate(capacity: capacity)
  }

  deinit { unsafe entries.deallocate() }

  var bytes: Int { capacity * MemoryLayout<Entry>.stride }

  var first: Entry? { count == 0 ? nil : unsafe entries[0] }

  /// The entry at `index`, from 0 to count - 1, in no particular order.
  subscript(index: Int) -> Entry {
    precondition(index >= 0 && index < count, "no such entry")
    return unsafe entries[index]
  }

  mutating func push(_ entry: Entry) {
    if count == capacity { grow() }
    var index = count
    count += 1
    // All indices are below count, and count is at most capacity.
    while index > 0 {
      let parent = (index - 1) / 2
      if unsafe entries[parent].expiresAt <= entry.expiresAt { break }
      unsafe entries[index] = entries[parent]
      index = parent
    }
    unsafe entries[index] = entry
  }

  /// Drops the first entry; there must be one.
  mutating func dropFirst() {
    precondition(count > 0, "the heap is empty")
    count -= 1
    let moved = unsafe entries[count]
    var index = 0
    // All indices are below the old count.
    while true {
      var child = index * 2 + 1
      if child >= count { break }
      if child + 1 < count, unsafe entries[child + 1].expiresAt < entries[child].expiresAt {
        child += 1
      }
      if unsafe entries[child].expiresAt >= moved.expiresAt { break }
      unsafe entries[index] = entries[child]
      index = child
    }
    unsafe entries[index] = moved
  }

  private mutating func grow() {
    let larger = UnsafeMutablePointer<Entry>.allocate(capacity: capacity * 2)
    unsafe larger.initialize(from: entries, count: count)
    unsafe entries.deallocate()
    unsafe entries = larger
    capacity *= 2
  }
}
