// Confirm sells what a reservation holds: a transition of its record and, in the same commit, of stock. The units
// leave the house at once, or stay on hand as committed until AdjustStock ships them.
//
// Where more is promised of an item than there is of it (AdjustCommand.allowsShortage, negative safety stock), who
// holds units keeps the promise: a sale as committed always goes through. One that takes units out of the house
// needs them on hand, and is refused where they are not: the hold stays as it is.
internal import Log

extension StoreSession {
  /// Sells what the reservation holds: the lines that were appended, at most what is held of each item
  /// (the remainder returns in the same step), or everything where none was.
  /// - Parameters:
  ///   - reacquireIfExpired: takes the units again in the same step if the hold has expired.
  ///   - keepCommitted: the units stay on hand as committed; part of what a repeat must repeat.
  /// - Returns: the reservation, `replayed` if it was confirmed before in the same way; or
  ///   `reservationNotFound`, `reservationExpired`, `reservationReleased`, `reservationConfirmed` (in
  ///   another way), `moreThanHeld`, `insufficientStock` (reacquiring, or not on hand), `notOnSale` (reacquiring),
  ///   `limitExceeded` (reacquiring, by the limits of its Reserve), `notOwnHold`, `conflictTooBusy`, `unavailable`.
  package func confirm(
    _ id: ReservationID, reacquireIfExpired: Bool, keepCommitted: Bool = false,
    by requester: Requester = .nameless
  ) -> Decision<ReservationView> {
    defer { scratch.lineCount = 0 }
    let sale = Sale(reacquires: reacquireIfExpired, keepsCommitted: keepCommitted)
    let decision = decideConfirm(id, sale, requester)
    guard scratch.hasBacklog, case .refused(let refusal) = decision.result,
      refusal.mayPassWithExpiry
    else { return decision }
    finishDueOfChanges()
    return decideConfirm(id, sale, requester)
  }

  /// How units are to be sold.
  private struct Sale {
    let reacquires: Bool
    let keepsCommitted: Bool
  }

  @inline(__always)
  private func decideConfirm(
    _ id: ReservationID, _ sale: Sale, _ requester: Requester
  ) -> Decision<ReservationView> {
    withReservation(id, toChangeBy: requester) { slot, number, state in
      switch state {
      case .held: return confirmHeld(id, number, sale, requester)
      case .expired:
        return sale.reacquires
          ? reacquire(id, number, sale, requester) : refused(.reservationExpired, slot)
      case .released: return refused(.reservationReleased, slot)
      case .confirmed:
        let kind = core.slab[slot].kind
        guard kind.keepsCommitted == sale.keepsCommitted,
          scratch.lineCount == 0 ? !kind.isInPart : asksForWhatIsRecorded(slot)
        else {
          return refused(.reservationConfirmed, slot)
        }
        counters.replays.add()
        return accepted(id, replayed: true)
      }
    }
  }

  /// Sells units of a live hold.
  private func confirmHeld(
    _ id: ReservationID, _ number: Int, _ sale: Sale, _ requester: Requester
  ) -> Decision<ReservationView> {
    let slot = id.slot
    if let refusal = gatherSale(slot, sale) { return refused(refusal, slot) }
    if let unavailable { return refused(.unavailable(unavailable), slot) }
    takeLimits(of: slot)
    beginRecord(
      .confirmed, slot, id.tag,
      value: RecordWriter.confirmedValue(takenAgain: false, committed: sale.keepsCommitted),
      by: requester)
    switch commit() {
    case .refused(let refusal, _): return refusedSale(refusal, slot)
    case .committed(let lsn):
      end(slot, number, keepSoldQuantities(slot, sale), at: now, lsn: lsn)
      counters.confirmed.add()
      return accepted(id, replayed: false)
    }
  }

  /// Sells units of a hold that has expired, if they are there.
  private func reacquire(
    _ id: ReservationID, _ number: Int, _ sale: Sale, _ requester: Requester
  ) -> Decision<ReservationView> {
    let slot = id.slot
    if let refusal = gatherSale(slot, sale) { return refused(refusal, slot) }
    if let unavailable { return refused(.unavailable(unavailable), slot) }
    scratch.changes.turnIntoReacquiring()
    takeLimits(of: slot)
    beginRecord(
      .confirmed, slot, id.tag,
      value: RecordWriter.confirmedValue(takenAgain: true, committed: sale.keepsCommitted),
      by: requester)
    switch commit() {
    case .refused(let refusal, _): return refusedSale(refusal, slot)
    case .committed(let lsn):
      core.slab[slot].kind = keepSoldQuantities(slot, sale)
      core.slab[slot].endedAt = now
      core.slab[slot].lsn = lsn
      // It has ended already: it only moves to the end of the queue.
      core.shards[number].removeEnded(slot)
      core.shards[number].appendEnded(slot)
      counters.confirmed.add()
      return accepted(id, replayed: false)
    }
  }

  private func refusedSale(_ refusal: Refusal, _ slot: UInt32) -> Decision<ReservationView> {
    switch refusal {
    case .insufficientStock, .limitExceeded, .notOnSale:
      // It tells of what others have taken, or set: that must be durable, too.
      return Decision(.refused(refusal), replayed: false, lsn: core.log.last)
    default: return refused(refusal, slot)
    }
  }

  /// Makes one change for each line of the reservation, in their order: all that is held goes out of
  /// held, and what the command asks for (no lines: all) out of on hand, or into committed.
  private func gatherSale(_ slot: UInt32, _ sale: Sale) -> Refusal? {
    scratch.changes.removeAll()
    for index in 0..<core.slab[slot].lineCount {
      let line = core.slab[slot].line(index)
      core.items.prefetch(line.item.ordinal)
      var change = ItemChange(ordinal: line.item.ordinal, heldChange: -line.quantity)
      if scratch.lineCount == 0 { change.sell(line.quantity, keepCommitted: sale.keepsCommitted) }
      scratch.changes.append(change)
    }
    var refusal: Refusal?
    for line in 0..<scratch.lineCount {
      // Also of an item that was removed: what was sold of it is not asked for anew.
      let name = scratch.lines[line]
      guard let ordinal = core.findRecord(name.item, name.hash),
        let index = scratch.changes.index(ordinal)
      else {
        if !isItemOfEarlierLine(line) { note(.moreThanHeld(line: line, held: 0), &refusal) }
        continue
      }
      let held = -scratch.changes[index].heldChange
      let wasWithinHeld = scratch.changes[index].sold <= held
      scratch.changes[index].sell(
        scratch.lines[line].quantity, keepCommitted: sale.keepsCommitted)
      if wasWithinHeld, scratch.changes[index].sold > held {
        note(.moreThanHeld(line: line, held: held), &refusal)
      }
    }
    return refusal
  }

  /// Keeps the first refusal apart from the others.
  private func note(_ refusal: Refusal, _ first: inout Refusal?) {
    if first == nil { first = refusal } else { scratch.further.append(refusal) }
  }

  private func isItemOfEarlierLine(_ line: Int) -> Bool {
    (0..<line).contains { scratch.lines[$0].hash == scratch.lines[line].hash }
  }

  /// Each line keeps what was sold of it by the last commit.
  /// - Returns: what the record is now.
  private func keepSoldQuantities(_ slot: UInt32, _ sale: Sale) -> RecordKind {
    var isInPart = false
    for index in 0..<core.slab[slot].lineCount {
      let line = core.slab[slot].line(index)
      let sold = scratch.changes.index(line.item.ordinal).map { scratch.changes[$0].sold } ?? 0
      if sold < line.quantity {
        isInPart = true
        core.slab[slot].keepToldLines()
      }
      core.slab[slot].setLine(index, ViewLine(item: line.item, quantity: sold))
    }
    return .confirmed(inPart: isInPart, committed: sale.keepsCommitted)
  }

  /// Whether the command's lines are what the reservation was confirmed with.
  private func asksForWhatIsRecorded(_ slot: UInt32) -> Bool {
    if gatherSale(slot, Sale(reacquires: false, keepsCommitted: false)) != nil {
      scratch.further.removeAll()
      return false
    }
    for index in 0..<scratch.changes.count
    where scratch.changes[index].sold != -scratch.changes[index].heldChange {
      return false
    }
    return true
  }
}
