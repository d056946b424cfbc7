package import StockStore

extension Model {
  /// Confirm, as the store must decide it: why not, or whether it had happened before.
  package mutating func confirm(
    _ id: ReservationID, _ lines: [TestLine], reacquire: Bool
  ) -> (Refusal?, replayed: Bool) {
    guard let reservation = reservation(id) else { return (.reservationNotFound, false) }
    let sold = lines.isEmpty ? reservation.lines : Self.merged(lines)
    switch reservation.state {
    case .released: return (.reservationReleased, false)
    case .confirmed:
      return isRepeat(of: reservation, lines, sold) ? (nil, true) : (.reservationConfirmed, false)
    case .expired where !reacquire: return (.reservationExpired, false)
    default: break
    }
    if let refusal = moreThanHeld(reservation, lines) { return (refusal, false) }
    if reservation.state == .expired, let refusal = lacking(reservation, sold) {
      return (refusal, false)
    }
    for line in reservation.lines {
      let quantity = sold.first { $0.sku == line.sku }?.quantity ?? 0
      if reservation.state == .held {
        change(line.sku, onHand: -quantity, held: -line.quantity)
      } else if quantity > 0 {
        change(line.sku, onHand: -quantity)
      }
    }
    sell(id, sold)
    end(id, .confirmed, at: now)
    return (nil, false)
  }

  /// Whether a confirm asks for what the reservation was confirmed with.
  private func isRepeat(
    of reservation: Reservation, _ lines: [TestLine], _ sold: [TestLine]
  ) -> Bool {
    if lines.isEmpty { return !reservation.isSoldInPart }
    let recorded = reservation.lines.filter { $0.quantity > 0 }
    return recorded.count == sold.count && recorded.allSatisfy { sold.contains($0) }
  }

  private func moreThanHeld(_ reservation: Reservation, _ lines: [TestLine]) -> Refusal? {
    var asked: [String: Int64] = [:]
    for (index, line) in lines.enumerated() {
      let held = reservation.lines.first { $0.sku == line.sku }?.quantity ?? 0
      asked[line.sku, default: 0] += line.quantity
      if asked[line.sku, default: 0] > held { return .moreThanHeld(line: index, held: held) }
    }
    return nil
  }

  /// What an expired hold cannot get again, in the order of the reservation's lines.
  private func lacking(_ reservation: Reservation, _ sold: [TestLine]) -> Refusal? {
    for line in reservation.lines {
      guard let wanted = sold.first(where: { $0.sku == line.sku }), wanted.quantity > 0,
        let level = items[line.sku]?.level, level.available < wanted.quantity
      else { continue }
      return .insufficientStock(
        item: level.item, requested: wanted.quantity, available: level.available)
    }
    return nil
  }

  /// Release, likewise.
  package mutating func release(_ id: ReservationID) -> (Refusal?, replayed: Bool) {
    guard let reservation = reservation(id) else { return (.reservationNotFound, false) }
    switch reservation.state {
    case .released: return (nil, true)
    case .confirmed: return (.reservationConfirmed, false)
    case .expired: return (.reservationExpired, false)
    case .held:
      for line in reservation.lines { change(line.sku, held: -line.quantity) }
      end(id, .released, at: now)
      return (nil, false)
    }
  }

  /// Extend, likewise.
  package mutating func extend(_ id: ReservationID, ttl: Int64) -> (Refusal?, replayed: Bool) {
    guard let reservation = reservation(id) else { return (.reservationNotFound, false) }
    switch reservation.state {
    case .released: return (.reservationReleased, false)
    case .confirmed: return (.reservationConfirmed, false)
    case .expired: return (.reservationExpired, false)
    case .held:
      let expiresAt = min(now + ttl, reservation.createdAt + limits.holdNanosecondsMax)
      if expiresAt == reservation.expiresAt { return (nil, true) }
      setExpiry(id, expiresAt)
      return (nil, false)
    }
  }
}
