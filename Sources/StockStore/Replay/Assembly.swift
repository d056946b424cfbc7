// Makes a working store of the items and slots that recovery has restored: what is found by name or key,
// timers, free slots, and the order in which decisions ended. All of it follows from the records.
package import Log
internal import Synchronization

package struct Assembly: Sendable {
  /// What there is.
  package struct Counts: Sendable {
    package fileprivate(set) var items = 0
    /// What is left of items that were removed.
    package fileprivate(set) var removedItems = 0
    /// Those of them that no decision names: for `StoreCore.giveUpPlaces`.
    package fileprivate(set) var unnamed: [UInt32] = []
    package fileprivate(set) var liveHolds = 0
    /// Live holds included.
    package fileprivate(set) var recordedDecisions = 0
  }

  private static let recordsWorthAThread = 100_000

  let core: StoreCore
  /// The newest time in nanoseconds since the Unix epoch: timers run from here.
  private let now: Int64
  let givenAway: [UInt32: UInt64]

  /// - Parameter givenAway: as Replay has found.
  package init(core: StoreCore, now: Int64, givenAway: [UInt32: UInt64] = [:]) {
    self.core = core
    self.now = now
    self.givenAway = givenAway
  }

  package func run() throws(JournalError) -> Counts {
    giveAwayChunks()
    if core.items.hasRemovals {
      let items = try indexItems()
      let remains = settleRemains()
      var counts = try assembleShards()
      (counts.items, counts.removedItems, counts.unnamed) = (items, remains.count, remains.unnamed)
      return counts
    }
    let recordCount = Int(core.items.count) + Int(core.slab.slotCount)
    let (items, counts) = try concurrently(
      isWorthIt: recordCount > Self.recordsWorthAThread,
      { () throws(JournalError) in try indexItems() },
      { () throws(JournalError) in try assembleShards() })
    return Counts(
      items: items, liveHolds: counts.liveHolds, recordedDecisions: counts.recordedDecisions)
  }

  // MARK: Items

  /// How many items there are.
  private func indexItems() throws(JournalError) -> Int {
    /// So many items ahead of the one that is inserted, its place in the index is fetched.
    let itemsAhead: UInt32 = 16
    var hashes = [UInt64](repeating: 0, count: Int(itemsAhead))
    let count = core.items.count
    core.index.reserve(Int(count))
    var made = 0
    for next in 0..<(count + itemsAhead) {
      let ordinal = next &- itemsAhead
      let place = Int(next % itemsAhead)
      if next >= itemsAhead, isItem(ordinal) {
        let hash = hashes[place]
        guard core.index.find(hash, { core.items.hasName($0, core.items.name(ordinal)) }) == nil
        else { throw impossible("items \(ordinal) and another have the same name") }
        core.index.insert(hash, ordinal)?.free()
        made += 1
      }
      if next < count, isItem(next) {
        hashes[place] = core.keys.itemHash(core.items.name(next))
        core.index.prefetch(hashes[place])
      }
    }
    return made
  }

  /// Numbers whose names were taken, but whose items were not made, are lost.
  private func isItem(_ ordinal: UInt32) -> Bool { core.isMade(ordinal) }

  // MARK: Reservations

  /// Chunks that a shard took and never used, as far as is known, go to those that have few.
  private func giveAwayChunks() {
    var owned = [Int](repeating: 0, count: core.shards.count)
    var ownerless: [UInt32] = []
    for chunk in 0..<core.slab.chunkCount {
      if let number = core.slab.owner(firstSlot(chunk)) {
        owned[number] += 1
      } else {
        ownerless.append(chunk)
      }
    }
    for chunk in ownerless {
      var least = 0
      for number in 1..<core.shards.count where owned[number] < owned[least] { least = number }
      owned[least] += 1
      _ = core.slab.restoreChunk(chunk, shard: least)
    }
    for number in 0..<core.shards.count {
      core.shards[number].reserveKeys(owned[number] * ReservationSlab.chunkRecords)
    }
  }

  /// One shard after the other: its keys, and mostly its records too, stay in the processor's cache
  /// meanwhile.
  private func assembleShards() throws(JournalError) -> Counts {
    var chunks = [[UInt32]](repeating: [], count: core.shards.count)
    for chunk in 0..<core.slab.chunkCount {
      if let number = core.slab.owner(firstSlot(chunk)) { chunks[number].append(chunk) }
    }
    var counts = Counts()
    var found = FoundSlots()
    for number in 0..<core.shards.count {
      core.shards[number].advanceTimers(to: now)
      found.removeAll()
      for (index, chunk) in chunks[number].enumerated() {
        let next = index + 1 < chunks[number].count ? chunks[number][index + 1] : chunk
        try restore(slots(chunk), number, next: firstSlot(next), &found)
      }
      EndedSlot.sortByEnd(&found.ended)
      appendEnded(number, &found)
      // From the last, so that free slots are taken from the first on.
      for slot in found.free.reversed() { core.shards[number].restoreFree(slot) }
      core.workTimes[number] = core.shards[number].nextWork
      counts.liveHolds += found.liveHolds
      counts.recordedDecisions += found.liveHolds + found.endedCount
    }
    return counts
  }

  /// What a shard's slots hold.
  private struct FoundSlots {
    var liveHolds = 0
    var ended: [EndedSlot] = []
    /// Of `ended`, without those that were forgotten.
    var endedCount = 0
    var free: [UInt32] = []

    mutating func removeAll() {
      (liveHolds, endedCount) = (0, 0)
      ended.removeAll(keepingCapacity: true)
      free.removeAll(keepingCapacity: true)
    }
  }

  /// Makes the chunk's decisions found by their keys, sets the timers of its holds, and collects what has
  /// ended or is free.
  /// - Parameter next: the first slot of the chunk that comes then, which is fetched.
  private func restore(
    _ slots: Range<UInt32>, _ number: Int, next: UInt32, _ found: inout FoundSlots
  ) throws(JournalError) {
    for slot in slots where core.slab[slot].kind != .free {
      core.shards[number].prefetchKey(core.slab[slot].identity)
    }
    for slot in slots {
      core.slab.records.prefetch(next + (slot - slots.lowerBound))
      switch core.slab[slot].kind {
      case .free:
        found.free.append(slot)
        continue
      case .held:
        found.liveHolds += 1
        restoreReference(slot)
        if core.slab[slot].limits.count > 0 { try restoreLimits(slot) }
      default: found.ended.append(EndedSlot(lsn: core.slab[slot].lsn, slot: slot))
      }
      try requirePossible(slot)
      // The same key in two slots: the earlier decision was forgotten before the later one was made.
      if let forgotten = core.shards[number].restoreKey(slot) { try forget(forgotten) }
      if core.slab[slot].kind == .held { core.shards[number].restoreTimer(slot) }
    }
  }

  private func requirePossible(_ slot: UInt32) throws(JournalError) {
    guard core.slab[slot].namesItems(below: core.items.count) else {
      throw impossible("slot \(slot) tells of an item that is not there")
    }
  }

  /// Frees the slot of a decision that was forgotten, which the list of what has ended has already, or will.
  private func forget(_ slot: UInt32) throws(JournalError) {
    guard core.slab[slot].kind != .held else {
      throw impossible("slot \(slot) is held under a key that was used again")
    }
    core.slab[slot].removeLines()
    core.slab[slot].kind = .free
  }

  /// Puts what has ended in the shard's queue, in its order.
  private func appendEnded(_ number: Int, _ found: inout FoundSlots) {
    /// So many slots ahead of the one that is appended, the record is fetched.
    let slotsAhead = 12
    for index in found.ended.indices {
      if index + slotsAhead < found.ended.count {
        core.slab.records.prefetch(found.ended[index + slotsAhead].slot)
      }
      let slot = found.ended[index].slot
      if core.slab[slot].kind == .free {
        found.free.append(slot)
      } else {
        core.shards[number].appendEnded(slot)
        found.endedCount += 1
        restoreReference(slot)
      }
    }
  }

  /// Makes a reservation found by its reference, which other decisions do not have an entry for.
  private func restoreReference(_ slot: UInt32) {
    guard core.slab[slot].state != nil, let node = core.slab[slot].referenceNode, node.isIndexed
    else { return }
    core.references.add(node)
  }

  /// What the live hold has counts for its subjects.
  private func restoreLimits(_ slot: UInt32) throws(JournalError) {
    var reader = LimitReader(core.slab[slot].limits)
    while let limit = reader.next() {
      let subject = core.keys.subjectHash(limit.subject)
      for index in 0..<core.slab[slot].lineCount {
        guard !core.subjects.isBeyondCap else { throw .tooManyLimits(core.limits) }
        let line = core.slab[slot].line(index)
        _ = core.subjects.add(subject, line.item.ordinal, held: line.quantity, sold: 0, lsn: 0)
      }
    }
  }

  private func slots(_ chunk: UInt32) -> Range<UInt32> {
    firstSlot(chunk)..<(firstSlot(chunk) + UInt32(ReservationSlab.chunkRecords))
  }

  private func firstSlot(_ chunk: UInt32) -> UInt32 { chunk * UInt32(ReservationSlab.chunkRecords) }

  private func impossible(_ finding: String) -> JournalError {
    .damaged(Damage(file: "the state", offset: 0, lsn: nil, finding: finding))
  }
}

/// A decision that has ended, and when.
struct EndedSlot {
  let lsn: UInt64
  let slot: UInt32

  /// Sorts by the log sequence number: by its digits of 11 bits, the last first, each pass keeping the
  /// order of the one before.
  static func sortByEnd(_ entries: inout [EndedSlot]) {
    let digitBits: UInt64 = 11
    guard let first = entries.first else { return }
    var differing: UInt64 = 0
    for entry in entries { differing |= entry.lsn ^ first.lsn }
    var sorted = entries
    var shift: UInt64 = 0
    while shift < 64, differing >> shift != 0 {
      var starts = [Int](repeating: 0, count: 1 << Int(digitBits))
      let mask = UInt64(starts.count - 1)
      for entry in entries { starts[Int(entry.lsn >> shift & mask)] += 1 }
      var start = 0
      for digit in starts.indices {
        let count = starts[digit]
        starts[digit] = start
        start += count
      }
      for entry in entries {
        let digit = Int(entry.lsn >> shift & mask)
        sorted[starts[digit]] = entry
        starts[digit] += 1
      }
      swap(&entries, &sorted)
      shift += digitBits
    }
  }
}
