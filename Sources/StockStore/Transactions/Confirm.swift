// Confirm sells what a reservation holds: a transition of its record and, in the same commit, of stock.
internal import Log

extension StoreSession {
  /// Sells what the reservation holds: the lines that were appended, at most what is held of each item
  /// (the remainder returns in the same step), or everything where none was.
  /// - Parameter reacquireIfExpired: takes the units again in the same step if the hold has expired.
  /// - Returns: the reservation, `replayed` if it was confirmed before with the same lines; or
  ///   `reservationNotFound`, `reservationExpired`, `reservationReleased`, `reservationConfirmed` (with
  ///   other lines), `moreThanHeld`, `insufficientStock` (reacquiring), `notOwnHold`,
  ///   `conflictTooBusy`, `unavailable`.
  package func confirm(
    _ id: ReservationID, reacquireIfExpired: Bool, by requester: Requester = .nameless
  ) -> Decision<ReservationView> {
    defer { scratch.lineCount = 0 }
    let decision = decideConfirm(id, reacquireIfExpired, requester)
    guard scratch.hasBacklog, case .refused(.insufficientStock) = decision.result else {
      return decision
    }
    finishDueOfChanges()
    return decideConfirm(id, reacquireIfExpired, requester)
  }

  @inline(__always)
  private func decideConfirm(
    _ id: ReservationID, _ reacquireIfExpired: Bool, _ requester: Requester
  ) -> Decision<ReservationView> {
    withReservation(id, toChangeBy: requester) { slot, number, state in
      switch state {
      case .held: return confirmHeld(id, number, requester)
      case .expired:
        return reacquireIfExpired
          ? reacquire(id, number, requester) : refused(.reservationExpired, slot)
      case .released: return refused(.reservationReleased, slot)
      case .confirmed:
        let isRepeat =
          scratch.lineCount == 0
          ? core.slab[slot].kind == .confirmed : asksForWhatIsRecorded(slot)
        guard isRepeat else {
          return refused(.reservationConfirmed, slot)
        }
        counters.replays.add()
        return accepted(id, replayed: true)
      }
    }
  }

  /// Sells units of a live hold.
  private func confirmHeld(
    _ id: ReservationID, _ number: Int, _ requester: Requester
  ) -> Decision<ReservationView> {
    let slot = id.slot
    if let refusal = gatherSale(slot) { return refused(refusal, slot) }
    if let unavailable { return refused(.unavailable(unavailable), slot) }
    beginRecord(.confirmed, slot, id.tag, by: requester)
    switch commit() {
    case .refused(let refusal, _): return refused(refusal, slot)
    case .committed(let lsn):
      end(slot, number, keepSoldQuantities(slot), at: now, lsn: lsn)
      counters.confirmed.add()
      return accepted(id, replayed: false)
    }
  }

  /// Sells units of a hold that has expired, if they are there.
  private func reacquire(
    _ id: ReservationID, _ number: Int, _ requester: Requester
  ) -> Decision<ReservationView> {
    let slot = id.slot
    if let refusal = gatherSale(slot) { return refused(refusal, slot) }
    if let unavailable { return refused(.unavailable(unavailable), slot) }
    scratch.changes.turnIntoReacquiring()
    beginRecord(.confirmed, slot, id.tag, value: 1, by: requester)
    switch commit() {
    case .refused(let refusal, _):
      guard case .insufficientStock = refusal else { return refused(refusal, slot) }
      // It tells of what others have taken: that must be durable, too.
      return Decision(.refused(refusal), replayed: false, lsn: core.log.last)
    case .committed(let lsn):
      core.slab[slot].kind = keepSoldQuantities(slot)
      core.slab[slot].endedAt = now
      core.slab[slot].lsn = lsn
      // It has ended already: it only moves to the end of the queue.
      core.shards[number].removeEnded(slot)
      core.shards[number].appendEnded(slot)
      counters.confirmed.add()
      return accepted(id, replayed: false)
    }
  }

  /// Makes one change for each line of the reservation, in their order: all that is held goes out of
  /// held, and what the command asks for (no lines: all) out of on hand.
  private func gatherSale(_ slot: UInt32) -> Refusal? {
    scratch.changes.removeAll()
    for index in 0..<core.slab[slot].lineCount {
      let line = core.slab[slot].line(index)
      core.items.prefetch(line.item.ordinal)
      scratch.changes.append(
        ItemChange(
          ordinal: line.item.ordinal,
          onHandChange: scratch.lineCount == 0 ? -line.quantity : 0,
          heldChange: -line.quantity))
    }
    var refusal: Refusal?
    for line in 0..<scratch.lineCount {
      guard let ordinal = ordinal(line: line),
        let index = scratch.changes.index(ordinal)
      else {
        if !isItemOfEarlierLine(line) { note(.moreThanHeld(line: line, held: 0), &refusal) }
        continue
      }
      let held = -scratch.changes[index].heldChange
      let wasWithinHeld = -scratch.changes[index].onHandChange <= held
      scratch.changes[index].onHandChange -= scratch.lines[line].quantity
      if wasWithinHeld, -scratch.changes[index].onHandChange > held {
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

  /// Each line keeps what was sold of it: what the last commit took out of on hand.
  /// - Returns: what the record is now.
  private func keepSoldQuantities(_ slot: UInt32) -> RecordKind {
    var kind = RecordKind.confirmed
    for index in 0..<core.slab[slot].lineCount {
      let line = core.slab[slot].line(index)
      let change = scratch.changes.index(line.item.ordinal).map { scratch.changes[$0] }
      let sold = -(change?.onHandChange ?? 0)
      if sold < line.quantity { kind = .confirmedInPart }
      core.slab[slot].setLine(index, ViewLine(item: line.item, quantity: sold))
    }
    return kind
  }

  /// Whether the command's lines are what the reservation was confirmed with.
  private func asksForWhatIsRecorded(_ slot: UInt32) -> Bool {
    if gatherSale(slot) != nil {
      scratch.further.removeAll()
      return false
    }
    for index in 0..<scratch.changes.count
    where scratch.changes[index].onHandChange != scratch.changes[index].heldChange {
      return false
    }
    return true
  }
}
