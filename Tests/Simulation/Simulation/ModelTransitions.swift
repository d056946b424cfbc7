package import StockStore

/// Who asks for a change of a hold.
package struct TestRequester: Sendable {
  package var caller = ""
  package var ownHoldsOnly = false

  package init(_ caller: String = "", ownHoldsOnly: Bool = false) {
    self.caller = caller
    self.ownHoldsOnly = ownHoldsOnly
  }

  /// Whether the hold is another's, and may not be changed.
  func isKept(from reservation: Model.Reservation) -> Bool {
    guard ownHoldsOnly, reservation.state == .held || reservation.state == .expired else {
      return false
    }
    return caller.isEmpty || reservation.key.caller != caller
  }
}

extension Model {
  /// Confirm, as the store must decide it: why not, or whether it had happened before.
  package mutating func confirm(
    _ id: ReservationID, _ lines: [TestLine], reacquire: Bool, keepCommitted: Bool = false,
    by requester: TestRequester = TestRequester()
  ) -> (refusals: [Refusal], replayed: Bool) {
    guard let reservation = reservation(id) else { return ([.reservationNotFound], false) }
    if requester.isKept(from: reservation) { return ([.notOwnHold], false) }
    let sold = lines.isEmpty ? reservation.lines : Self.merged(lines)
    switch reservation.state {
    case .released: return ([.reservationReleased], false)
    case .confirmed:
      return reservation.isCommitted == keepCommitted && isRepeat(of: reservation, lines, sold)
        ? ([], true) : ([.reservationConfirmed], false)
    case .expired where !reacquire: return ([.reservationExpired], false)
    default: break
    }
    var refusals = moreThanHeld(reservation, lines)
    if refusals.isEmpty {
      // In the order of the reservation's lines.
      let wanted = reservation.lines.compactMap { line in
        sold.first { $0.sku == line.sku && $0.quantity > 0 }
      }
      refusals = notThere(
        wanted, takesAnew: reservation.state == .expired, takesAway: !keepCommitted)
      if refusals.isEmpty, reservation.state == .expired {
        refusals = passing(reservation.limits, wanted)
      }
    }
    if !refusals.isEmpty { return (refusals, false) }
    for line in reservation.lines {
      let quantity = sold.first { $0.sku == line.sku }?.quantity ?? 0
      let held = reservation.state == .held ? line.quantity : 0
      if held == 0, quantity == 0 { continue }
      if keepCommitted {
        change(line.sku, held: -held, committed: quantity)
      } else {
        change(line.sku, onHand: -quantity, held: -held)
      }
    }
    sell(id, sold, keepCommitted: keepCommitted)
    end(id, .confirmed, at: now)
    return ([], false)
  }

  /// What of the units that are sold is not on offer, where an expired hold takes them anew, or not on hand, where
  /// they leave the house.
  private func notThere(
    _ sold: [TestLine], takesAnew: Bool, takesAway: Bool
  ) -> [Refusal] {
    func notThere(_ line: TestLine) -> Refusal? {
      guard let level = items[line.sku]?.level else {
        // Of an item that was removed there is nothing.
        return .insufficientStock(
          item: ItemHandle(ordinal: ordinal(line.sku) ?? .max), requested: line.quantity,
          available: 0)
      }
      if takesAnew, level.available < line.quantity {
        return .insufficientStock(
          item: level.item, requested: line.quantity, available: level.available)
      }
      guard takesAway, level.onHand < line.quantity else { return nil }
      return .insufficientStock(
        item: level.item, requested: line.quantity, available: level.onHand)
    }
    for (index, line) in sold.enumerated() {
      if takesAnew, closed(line) != nil { return sold[index...].compactMap(closed) }
      if notThere(line) != nil { return sold[index...].compactMap(notThere) }
    }
    return []
  }

  /// Whether a confirm asks for what the reservation was confirmed with.
  private func isRepeat(
    of reservation: Reservation, _ lines: [TestLine], _ sold: [TestLine]
  ) -> Bool {
    if lines.isEmpty { return !reservation.isSoldInPart }
    let recorded = reservation.lines.filter { $0.quantity > 0 }
    return recorded.count == sold.count && recorded.allSatisfy { sold.contains($0) }
  }

  /// Each item once, at the line that passes what is held.
  private func moreThanHeld(_ reservation: Reservation, _ lines: [TestLine]) -> [Refusal] {
    var asked: [String: Int64] = [:]
    var refusals: [Refusal] = []
    for (index, line) in lines.enumerated() {
      let held = reservation.lines.first { $0.sku == line.sku }?.quantity ?? 0
      let before = asked[line.sku, default: 0]
      asked[line.sku] = before + line.quantity
      if before <= held, before + line.quantity > held {
        refusals.append(.moreThanHeld(line: index, held: held))
      }
    }
    return refusals
  }

  /// Release, likewise.
  package mutating func release(
    _ id: ReservationID, by requester: TestRequester = TestRequester()
  ) -> (refusals: [Refusal], replayed: Bool) {
    guard let reservation = reservation(id) else { return ([.reservationNotFound], false) }
    if requester.isKept(from: reservation) { return ([.notOwnHold], false) }
    switch reservation.state {
    case .released: return ([], true)
    case .confirmed: return ([.reservationConfirmed], false)
    case .expired: return ([.reservationExpired], false)
    case .held:
      for line in reservation.lines { change(line.sku, held: -line.quantity) }
      end(id, .released, at: now)
      return ([], false)
    }
  }

  /// Extend, likewise.
  package mutating func extend(
    _ id: ReservationID, ttl: Int64?, mayShorten: Bool,
    by requester: TestRequester = TestRequester()
  ) -> (refusals: [Refusal], replayed: Bool) {
    guard let reservation = reservation(id) else { return ([.reservationNotFound], false) }
    if requester.isKept(from: reservation) { return ([.notOwnHold], false) }
    switch reservation.state {
    case .released: return ([.reservationReleased], false)
    case .confirmed: return ([.reservationConfirmed], false)
    case .expired: return ([.reservationExpired], false)
    case .held:
      let expiresAt = min(
        now + (ttl ?? limits.ttlNanosecondsDefault),
        reservation.createdAt + limits.holdNanosecondsMax)
      if expiresAt == reservation.expiresAt { return ([], true) }
      if expiresAt < reservation.expiresAt, !mayShorten || expiresAt <= now { return ([], true) }
      setExpiry(id, expiresAt)
      return ([], false)
    }
  }

  /// Replace, likewise.
  package mutating func replace(
    _ key: String, _ replacement: Replacement, by requester: TestRequester = TestRequester()
  ) -> (Answer, replayed: Bool) {
    let key = DecisionKey(method: .replace, caller: requester.caller, key: key)
    seek(key)
    let merged = Self.merged(replacement.lines)
    var normal = replacement
    normal.lines = merged.sorted { $0.sku < $1.sku }
    let payload = Payload.replace(normal)
    if let answer = recordedAnswer(key, payload, replacement.lines) { return answer }
    func refused(_ refusal: Refusal) -> (Answer, replayed: Bool) { (.refused([refusal]), false) }
    if let ttl = replacement.ttl, ttl > limits.holdNanosecondsMax {
      return refused(.longerThanMaxHold)
    }
    guard let reservation = reservation(replacement.id) else {
      return refused(.reservationNotFound)
    }
    if requester.isKept(from: reservation) { return refused(.notOwnHold) }
    switch reservation.state {
    case .released: return refused(.reservationReleased)
    case .confirmed: return refused(.reservationConfirmed)
    case .expired: return refused(.reservationExpired)
    case .held: break
    }
    if replacement.expectedRevision != 0, replacement.expectedRevision != reservation.revision {
      return refused(.revisionMismatch(current: reservation.revision))
    }
    if !hasRoom { return refused(.tableFull(.reservations)) }
    let unknown = merged.map(\.sku).filter { items[$0] == nil }
    func held(_ sku: String) -> Int64 {
      reservation.lines.first { $0.sku == sku }?.quantity ?? 0
    }
    let added = merged.compactMap { line -> TestLine? in
      let quantity = line.quantity - held(line.sku)
      return quantity > 0 ? TestLine(sku: line.sku, quantity: quantity) : nil
    }
    var refusals =
      unknown.isEmpty ? lacking(added) : Self.refusals(unknown: unknown, replacement.lines)
    if refusals.isEmpty { refusals = passing(reservation.limits, added) }
    if !refusals.isEmpty {
      record(key, payload, .refused(refusals), unknown: unknown, live: false)
      return (.refused(refusals), false)
    }
    for line in merged where line.quantity != held(line.sku) {
      change(line.sku, held: line.quantity - held(line.sku))
    }
    for line in reservation.lines where !merged.contains(where: { $0.sku == line.sku }) {
      change(line.sku, held: -line.quantity)
    }
    var expiresAt = reservation.expiresAt
    if let ttl = replacement.ttl {
      expiresAt = max(
        expiresAt, min(now + ttl, reservation.createdAt + limits.holdNanosecondsMax))
    }
    let answer = replace(replacement, merged: merged, expiresAt: expiresAt, key, payload)
    return (answer, false)
  }
}
