// Places that no item has, when a directory is opened. A number must not mean another item while anybody may read it, so
// a removed item's place is kept while the server runs. Here it is seen which places nothing names any more: neither a
// decision in the tables nor, where the caller says so, a record that is kept. Another item may have these, and those
// that an earlier start has given up, and those of names that were taken for items that were never made.
//
// A journal does not say that a place was given up, nor that a decision was forgotten. So a replay from an older
// checkpoint may find what was left of an item where another has the place by then, or another place has the name. What
// named the first was forgotten when that came to be: it is forgotten again.
internal import Synchronization

extension Assembly {
  /// What is left of items that were removed.
  struct Remains {
    var count = 0
    /// Those that no decision names. They are not found by their names until `giveUpPlaces`.
    var unnamed: [UInt32] = []
  }

  /// Finds what is left of removed items by their names, but for what nothing names. The items are found already.
  func settleRemains() -> Remains {
    core.subjects.removeDead()
    var givenAway = givenAway
    var unnamed: Set<UInt32> = []
    var count = 0
    for ordinal in 0..<core.items.count where core.isRemoved(ordinal) {
      if find(core.items.name(ordinal)) == nil {
        count += 1
        unnamed.insert(ordinal)
      } else {
        // Its name has another place.
        core.items.clear(ordinal)
        givenAway[ordinal] = .max
      }
    }
    forget(givenAway)
    if unnamed.isEmpty { return Remains() }
    let all = unnamed
    for slot in 0..<core.slab.slotCount where core.slab[slot].kind != .free {
      core.slab[slot].forEachItem { unnamed.remove($0) }
    }
    for ordinal in all.subtracting(unnamed) { core.insert(ordinal) }
    return Remains(count: count, unnamed: unnamed.sorted())
  }

  private func find(_ name: ItemName) -> UInt32? {
    core.index.find(core.keys.itemHash(name)) { core.items.hasName($0, name) }
  }

  /// Forgets decisions that name a place and were made before another item got it.
  private func forget(_ givenAway: [UInt32: UInt64]) {
    if givenAway.isEmpty { return }
    for slot in 0..<core.slab.slotCount where core.slab[slot].kind != .free {
      var isForgotten = false
      core.slab[slot].forEachItem { item in
        if let lsn = givenAway[item], core.slab[slot].lsn < lsn { isForgotten = true }
      }
      if !isForgotten { continue }
      core.slab[slot].removeLines()
      core.slab[slot].kind = .free
    }
  }
}

extension StoreCore {
  /// Gives the places of removed items that no decision names to others, where no record that is kept names them
  /// either; what is left of the others is found by their names again.
  /// - Parameters:
  ///   - unnamed: of `Assembly.Counts`.
  ///   - oldestLSN: what is before is not kept.
  /// - Returns: how many removed items have lost their places.
  package func giveUpPlaces(_ unnamed: [UInt32], before oldestLSN: UInt64) -> Int {
    var givenUp = 0
    for ordinal in unnamed {
      if items.removedAt(ordinal) <= oldestLSN {
        items.clear(ordinal)
        givenUp += 1
      } else {
        insert(ordinal)
      }
    }
    // The first is taken first.
    items.setFree(
      (0..<items.count).filter { items[$0].word.load(ordering: .relaxed) == 0 }.reversed())
    return givenUp
  }

  /// Makes an item found by its name. By the only thread that uses the index.
  func insert(_ ordinal: UInt32) {
    index.insert(keys.itemHash(items.name(ordinal)), ordinal)?.free()
  }
}
