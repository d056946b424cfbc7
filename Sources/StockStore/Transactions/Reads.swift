internal import Posix
internal import Synchronization

extension StoreSession {
  /// The balances of one item, or `itemNotFound`.
  package func stock(_ name: ItemName) -> Decision<StockLevel> {
    assertInTurn()
    scratch.further.removeAll()
    guard let ordinal = core.findRecord(name, core.keys.itemHash(name)) else {
      return Decision(.refused(.itemNotFound(line: 0)), replayed: false, lsn: 0)
    }
    if scratch.hasBacklog { finishDueToShow(ordinal) }
    let (level, lsn) = level(ordinal)
    // That it was removed must be as durable as what it had.
    if level.version == 0 {
      return Decision(.refused(.itemNotFound(line: 0)), replayed: false, lsn: lsn)
    }
    return Decision(.accepted(level), replayed: false, lsn: lsn)
  }

  /// Calls `each` with the balances of items in the order of their places, from number
  /// `ordinal` (0: the first) until it returns false. The number to go on from; nil at the end.
  package func listStock(from ordinal: UInt32, each: (StockLevel) -> Bool) -> UInt32? {
    let count = core.items.count
    var next = ordinal
    while next < count {
      if scratch.hasBacklog { finishDueToShow(next) }
      let (level, _) = level(next)
      next += 1
      // Version 0: the name is taken, but the item was not made, or was removed.
      if level.version != 0, !each(level) { return next < count ? next : nil }
    }
    return nil
  }

  /// The name of an item. Its bytes stay as long as the store.
  package func name(of item: ItemHandle) -> ItemName {
    guard item.ordinal < core.items.count else { return ItemName(sku: .empty, location: .empty) }
    return core.items.name(item.ordinal)
  }

  /// Calls `each` with reservations, in no particular order, until it returns false or `scanMax`
  /// records were looked at. Inside `each`, `viewLine` gives the reservation's lines.
  /// - Parameters:
  ///   - cursor: 0 to begin, then what the last call returned. Any number is allowed.
  ///   - state: nil for all.
  /// - Returns: the cursor to go on from; nil at the end.
  package func listReservations(
    cursor: UInt64, scanMax: Int, state: ReservationState?, each: (ReservationView) -> Bool
  ) -> UInt64? {
    scan(from: cursor, scanMax, state, .empty, each)
  }

  /// - Parameter reference: empty for any.
  private func scan(
    from cursor: UInt64, _ scanMax: Int, _ state: ReservationState?, _ reference: BorrowedBytes,
    _ each: (ReservationView) -> Bool
  ) -> UInt64? {
    let end = core.slab.slotCount
    guard cursor < UInt64(end) else { return nil }
    var slot = UInt32(truncatingIfNeeded: cursor)
    let scanEnd = slot + UInt32(clamping: min(max(1, scanMax), Int(end - slot)))
    while slot < scanEnd {
      let view = viewIfKnown(slot, state, reference)
      slot += 1
      if let view, !each(view) { break }
    }
    return slot < end ? UInt64(slot) : nil
  }

  /// Calls `each` with the reservations that have this reference, as `listReservations` does.
  /// - Returns: the cursor to go on from; nil at the end.
  package func listReservations(
    cursor: UInt64, scanMax: Int, state: ReservationState?, reference: BorrowedBytes,
    each: (ReservationView) -> Bool
  ) -> UInt64? {
    // The index is made when the replay has come to its end.
    if core.isFollowed { return scan(from: cursor, scanMax, state, reference, each) }
    let hash = core.keys.referenceHash(reference)
    var from = UInt32(exactly: cursor)
    var left = max(1, scanMax)
    while let first = from, let slot = core.references.next(hash, from: first) {
      if left == 0 { return UInt64(slot) }
      left -= 1
      from = slot == .max ? nil : slot + 1
      if let view = viewIfKnown(slot, state, reference), !each(view) { left = 0 }
    }
    return nil
  }

  /// A keyed hash of where a page of a list ends. Only this store computes it, and a store that is
  /// opened again on the same directory: a page token that carries it was made here.
  /// - Parameters:
  ///   - list: which list, 1 to 255.
  ///   - filter: what was asked of it; 0 for all.
  ///   - reference: the one that was asked for; empty for all.
  package func pageTag(
    list: UInt8, filter: UInt8, reference: BorrowedBytes, position: UInt64
  ) -> UInt64 {
    core.keys.pageTag(
      list: list, filter: filter,
      reference: reference.count == 0 ? nil : core.keys.referenceHash(reference),
      position: position)
  }

  /// The hash under which the change feed knows an item.
  package func itemHash(_ name: ItemName) -> UInt64 { core.keys.itemHash(name) }

  /// - Parameter reference: empty for any.
  private func viewIfKnown(
    _ slot: UInt32, _ state: ReservationState?, _ reference: BorrowedBytes
  ) -> ReservationView? {
    guard let number = core.slab.owner(slot) else { return nil }
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }
    endIfDue(slot, number)
    guard let current = core.slab[slot].state(at: dueTime), state == nil || state == current,
      !isForgotten(slot), reference.count == 0 || core.slab[slot].reference.isEqual(reference)
    else { return nil }
    return view(core.id(slot))
  }

  /// The reservation with this id, which is in its slot now, and its lines in `scratch.view`. The caller
  /// holds the shard's lock.
  func view(_ id: ReservationID) -> ReservationView {
    let slot = id.slot
    var count = 0
    for index in 0..<core.slab[slot].lineCount {
      let line = core.slab[slot].line(index)
      if line.quantity == 0 { continue }
      scratch.view[count] = line
      count += 1
    }
    scratch.viewCount = count
    showReference(core.slab[slot].reference)
    let state = core.slab[slot].state(at: dueTime) ?? .held
    let endedAt =
      core.slab[slot].isDue(dueTime) ? core.slab[slot].expiresAt : core.slab[slot].endedAt
    return ReservationView(
      id: id, state: state,
      createdAt: Timestamp(nanoseconds: core.slab[slot].createdAt),
      expiresAt: Timestamp(nanoseconds: core.slab[slot].expiresAt),
      endedAt: state == .held ? nil : Timestamp(nanoseconds: endedAt),
      revision: core.slab[slot].revision)
  }

  /// Up to which log sequence number must be durable that the item is unknown; 0 where it never was known.
  func removalLSN(_ name: ItemName, _ hash: UInt64) -> UInt64 {
    core.findRecord(name, hash).map { core.items[$0].lsn.load(ordering: .acquiring) } ?? 0
  }

  /// The balances of one version of the item, and the log sequence number of its last change.
  private func level(_ ordinal: UInt32) -> (StockLevel, lsn: UInt64) {
    while true {
      guard let word = unlockedWord(ordinal) else { continue }
      let level = balances(ordinal, word)
      let lsn = core.items[ordinal].lsn.load(ordering: .acquiring)
      if isUnchanged(ordinal, word) { return (level, lsn) }
    }
  }
}
