import Posix
import Synchronization
import Testing

@testable import StockStore

/// Tables that grow while they are used: little by little, and right at every step.
@Suite struct GrowthTests {
  /// splitmix64.
  private struct Random: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
      state &+= 0x9E37_79B9_7F4A_7C15
      var word = state
      word = (word ^ word >> 30) &* 0xBF58_476D_1CE4_E5B9
      word = (word ^ word >> 27) &* 0x94D0_49BB_1331_11EB
      return word ^ word >> 31
    }
  }

  /// How tags lie: all over, and so that many share a home, or all have the last ones, where a search has
  /// only the slack to go on into.
  enum Tags: CaseIterable {
    case spread, few, last

    func tag(_ word: UInt64) -> UInt32 {
      switch self {
      case .spread: UInt32(truncatingIfNeeded: word)
      case .few: UInt32(word % 7) << 29 | UInt32(truncatingIfNeeded: word >> 40) & 0xFF
      case .last: .max - UInt32(truncatingIfNeeded: word) & 0xFFF
      }
    }
  }

  @Test(arguments: Tags.allCases)
  func aKeyTableHasWhatWasAddedAndNotRemoved(tags: Tags) {
    var random = Random(state: 17)
    var table = KeyTable()
    var slots: [(tag: UInt32, slot: UInt32)] = []
    let additions = tags == .spread ? 60_000 : 3_000
    var sawGrowth = 0
    for slot in 0..<UInt32(additions) {
      let tag = tags.tag(random.next())
      table.insert(tag, slot)
      slots.append((tag, slot))
      if table.isGrowing { sawGrowth += 1 }
      if random.next() % 3 == 0 {
        let index = Int(random.next() % UInt64(slots.count))
        slots.swapAt(index, slots.count - 1)
        let removed = slots.removeLast()
        table.remove(removed.tag, removed.slot)
        let found = table.find(removed.tag) { $0 == removed.slot }
        #expect(found == nil)
      }
      let known = slots[Int(random.next() % UInt64(slots.count))]
      let found = table.find(known.tag) { $0 == known.slot }
      #expect(found == known.slot)
    }
    let count = table.count
    #expect(count == slots.count)
    for known in slots {
      let found = table.find(known.tag) { $0 == known.slot }
      #expect(found == known.slot)
    }
    // A few hundred insertions for each time that a large table grew.
    if tags == .spread { #expect(sawGrowth > 1_000) }
    for known in slots { table.remove(known.tag, known.slot) }
    let left = table.count
    #expect(left == 0)
    for known in slots {
      let found = table.find(known.tag) { _ in true }
      #expect(found == nil)
    }
  }

  @Test func aKeyTableIsWholeAtEveryStepOfItsGrowth() {
    var random = Random(state: 3)
    var table = KeyTable()
    var tags: [UInt32] = []
    func insert() {
      tags.append(UInt32(truncatingIfNeeded: random.next()))
      table.insert(tags[tags.count - 1], UInt32(tags.count - 1))
    }
    while tags.count < 2_500 || table.isGrowing { insert() }
    while !table.isGrowing { insert() }
    var steps = 0
    while table.isGrowing {
      for (slot, tag) in tags.enumerated() {
        if table.find(tag, { Int($0) == slot }) == nil { Issue.record("\(slot) at step \(steps)") }
      }
      insert()
      steps += 1
    }
    // 4,096 homes: 128 insertions, or fewer where runs are longer.
    #expect(steps > 50 && steps <= 145)
  }

  @Test func aKeyTableMakesRoomForManyAtOnce() {
    var random = Random(state: 5)
    var table = KeyTable()
    let tags = (0..<50_000).map { _ in UInt32(truncatingIfNeeded: random.next()) }
    for slot in 0..<1_000 { table.insert(tags[slot], UInt32(slot)) }
    table.reserve(tags.count)
    let bytes = table.bytes
    for slot in 1_000..<tags.count {
      table.insert(tags[slot], UInt32(slot))
      let isGrowing = table.isGrowing
      #expect(!isGrowing)
    }
    let bytesAfter = table.bytes
    #expect(bytesAfter == bytes)
    for (slot, tag) in tags.enumerated() {
      let found = table.find(tag) { Int($0) == slot }
      #expect(found == UInt32(slot))
    }
  }

  @Test func anItemIndexIsWholeAtEveryStepOfItsGrowth() {
    var random = Random(state: 7)
    let index = ItemIndex()
    defer { index.free() }
    // All in one stripe.
    let hashes = (0..<6_000).map { _ in random.next() & ~63 }
    var atOnce = 0
    for (ordinal, hash) in hashes.enumerated() {
      index.insert(hash, UInt32(ordinal))?.free()
      if ordinal % 8 != 0 && ordinal < 5_000 { continue }
      for known in stride(from: 0, through: ordinal, by: 31) {
        if index.find(hashes[known], { Int($0) == known }) == nil {
          Issue.record("\(known) after \(ordinal)")
        }
      }
      atOnce += 1
    }
    #expect(atOnce > 1_000)
    #expect(index.find(random.next() & ~63) { _ in true } == nil)
  }

  /// What was in the index before the search began is found, however it grows meanwhile.
  @Test func readersOfAnItemIndexMissNothingWhileItGrows() throws {
    var random = Random(state: 11)
    let index = ItemIndex()
    // Two stripes, so that they grow for long.
    let hashes = (0..<150_000).map { _ in random.next() & ~62 }
    let inserted = Atomic<Int>(0)
    let missed = Atomic<Int>(0)
    let sought = Atomic<Int>(0)
    let readers = try (0..<2).map { number in
      try Thread(name: "reader-\(number)") {
        var random = Random(state: UInt64(number))
        while true {
          let count = inserted.load(ordering: .acquiring)
          if count == 0 { continue }
          let known = Int(random.next() % UInt64(count))
          if index.find(hashes[known], { Int($0) == known }) == nil {
            missed.wrappingAdd(1, ordering: .relaxed)
          }
          sought.wrappingAdd(1, ordering: .relaxed)
          if count == hashes.count { return }
        }
      }
    }
    var replaced: [IndexTable] = []
    for (ordinal, hash) in hashes.enumerated() {
      index.lock(hash)
      if let old = index.insert(hash, UInt32(ordinal)) { replaced.append(old) }
      index.unlock(hash)
      inserted.store(ordinal + 1, ordering: .releasing)
    }
    for reader in readers { reader.join() }
    #expect(missed.load(ordering: .relaxed) == 0)
    #expect(sought.load(ordering: .relaxed) > 1)
    for table in replaced { table.free() }
    index.free()
  }

  @Test(arguments: [1, DueHeap.chunkEntries, 6 * DueHeap.chunkEntries + 5])
  func aHeapGivesTheEarliestFirst(count: Int) {
    var random = Random(state: 13)
    var heap = DueHeap()
    var times: [Int64] = []
    for slot in 0..<count {
      times.append(Int64(random.next() % 10_000))
      heap.push(DueHeap.Entry(expiresAt: times[slot], slot: UInt32(slot), generation: 1))
    }
    // Some chunks come to be empty, and are filled again.
    for expected in times.sorted().prefix(count / 2) {
      let first = heap.first?.expiresAt
      #expect(first == expected)
      heap.dropFirst()
    }
    times = Array(times.sorted().dropFirst(count / 2))
    for slot in 0..<count {
      times.append(Int64(random.next() % 10_000))
      heap.push(DueHeap.Entry(expiresAt: times[times.count - 1], slot: UInt32(slot), generation: 2))
    }
    for expected in times.sorted() {
      let first = heap.first?.expiresAt
      #expect(first == expected)
      heap.dropFirst()
    }
    let (rest, count) = (heap.first?.slot, heap.count)
    #expect(rest == nil && count == 0)
  }
}
