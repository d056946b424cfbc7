import Posix

@testable import StockStore

/// What the store must answer, by dictionaries and in a straight line.
struct Model {
  struct Item: Equatable {
    var ordinal: UInt32
    var onHand: Int64
    var held: Int64 = 0
    var safetyStock: Int64 = 0
    var version: UInt64 = 0

    var level: StockLevel {
      StockLevel(
        item: ItemHandle(ordinal: ordinal), onHand: onHand, held: held, safetyStock: safetyStock,
        version: version)
    }
  }

  struct Reservation {
    /// Item and units, in the order of the command; each item once.
    var lines: [(sku: String, quantity: Int64)]
    var state = ReservationState.held
    var createdAt: Int64
    var expiresAt: Int64
    var endedAt: Int64?
    var key: String
    /// Confirmed with fewer units than were held.
    var isSoldInPart = false

    mutating func sell(_ sold: [(sku: String, quantity: Int64)]) {
      for index in lines.indices {
        let quantity = sold.first { $0.sku == lines[index].sku }?.quantity ?? 0
        if quantity < lines[index].quantity { isSoldInPart = true }
        lines[index].quantity = quantity
      }
    }
  }

  enum Answer: Equatable {
    case hold(id: ReservationID, expiresAt: Int64)
    case level(StockLevel)
    case refused(Refusal)
  }

  struct Recorded {
    var payload: String
    var answer: Answer
    /// nil: a live hold.
    var endedAt: Int64?
  }

  let limits: StoreLimits
  var now: Int64
  var items: [String: Item] = [:]
  var reservations: [ReservationID: Reservation] = [:]
  /// By method and key.
  var decisions: [String: Recorded] = [:]
  /// Keys of `decisions` that are no live holds, the one that ended first in front.
  var ended: [String] = []
  var evictedEarly = 0

  // MARK: Time

  mutating func beginTurn(_ time: Int64) {
    now = time
    let due = reservations.filter { $0.value.state == .held && $0.value.expiresAt <= now }
    for (id, reservation) in due.sorted(by: { $0.value.expiresAt < $1.value.expiresAt }) {
      end(id, .expired, at: reservation.expiresAt)
      for line in reservation.lines { change(line.sku, held: -line.quantity) }
    }
    while let key = ended.first, let endedAt = decisions[key]?.endedAt,
      endedAt <= now - limits.retentionNanoseconds
    {
      forget(key)
    }
  }

  private mutating func end(_ id: ReservationID, _ state: ReservationState, at time: Int64) {
    guard let key = reservations[id]?.key else { return }
    reservations[id]?.state = state
    reservations[id]?.endedAt = time
    decisions[key]?.endedAt = time
    ended.removeAll { $0 == key }
    ended.append(key)
  }

  private mutating func forget(_ key: String) {
    decisions[key] = nil
    ended.removeAll { $0 == key }
    if let id = reservations.first(where: { $0.value.key == key })?.key { reservations[id] = nil }
  }

  private mutating func change(_ sku: String, onHand: Int64 = 0, held: Int64 = 0) {
    items[sku]?.onHand += onHand
    items[sku]?.held += held
    items[sku]?.version += 1
  }

  // MARK: Decisions under a key

  /// The recorded answer; nil where `decide` must be asked.
  private func replay(_ key: String, _ payload: String) -> (Answer, replayed: Bool)? {
    guard let recorded = decisions[key] else {
      if decisions.count >= limits.reservationsMax && ended.isEmpty {
        return (.refused(.tableFull(.reservations)), false)
      }
      return nil
    }
    if recorded.payload != payload { return (.refused(.idempotencyKeyReused), false) }
    return (recorded.answer, true)
  }

  private mutating func record(_ key: String, _ payload: String, _ answer: Answer, live: Bool) {
    if decisions.count >= limits.reservationsMax, let first = ended.first {
      forget(first)
      evictedEarly += 1
    }
    decisions[key] = Recorded(payload: payload, answer: answer, endedAt: live ? nil : now)
    if !live { ended.append(key) }
  }

  /// - Parameter id: what the store answered, if it accepted: ids are its own affair.
  mutating func reserve(
    _ key: String, _ lines: [TestLine], ttl: Int64, id: ReservationID?
  ) -> (Answer, replayed: Bool) {
    let key = "reserve/" + key
    let payload = "\(lines.map { "\($0.sku)=\($0.quantity)" }) \(ttl)"
    if let answer = replay(key, payload) { return answer }
    let answer = decideReserve(lines, ttl, id)
    var live = false
    if case .hold = answer { live = true }
    record(key, payload, answer, live: live)
    if live, let id {
      reservations[id] = Reservation(
        lines: merged(lines), createdAt: now, expiresAt: now + ttl, key: key)
    }
    return (answer, false)
  }

  private mutating func decideReserve(
    _ lines: [TestLine], _ ttl: Int64, _ id: ReservationID?
  ) -> Answer {
    if let unknown = lines.firstIndex(where: { items[$0.sku] == nil }) {
      return .refused(.itemNotFound(line: unknown))
    }
    for line in merged(lines) {
      guard let level = items[line.sku]?.level else { continue }
      if level.available < line.quantity {
        return .refused(
          .insufficientStock(
            item: level.item, requested: line.quantity, available: level.available))
      }
    }
    for line in merged(lines) { change(line.sku, held: line.quantity) }
    return .hold(
      id: id ?? ReservationID(slot: .max, generation: .max, tag: .max), expiresAt: now + ttl)
  }

  private func merged(_ lines: [TestLine]) -> [(sku: String, quantity: Int64)] {
    var merged: [(sku: String, quantity: Int64)] = []
    for line in lines {
      if let index = merged.firstIndex(where: { $0.sku == line.sku }) {
        merged[index].quantity += line.quantity
      } else {
        merged.append((line.sku, line.quantity))
      }
    }
    return merged
  }

  mutating func adjust(
    _ key: String, _ sku: String, _ change: AdjustCommand.Change, safetyStock: Int64?,
    expectedVersion: UInt64?, reason: String
  ) -> (Answer, replayed: Bool) {
    let key = "adjust/" + key
    let payload =
      "\(sku) \(change) \(String(describing: safetyStock)) "
      + "\(String(describing: expectedVersion)) \(reason)"
    if let answer = replay(key, payload) { return answer }
    let known = items[sku]
    if let expectedVersion, expectedVersion != known?.version ?? 0 {
      return (.refused(.versionMismatch(current: known?.version ?? 0)), false)
    }
    var item = known ?? Item(ordinal: UInt32(items.count), onHand: 0)
    var refusal: Refusal?
    switch change {
    case .none: break
    case .delta(let delta):
      if known == nil && delta < 0 { refusal = .itemNotFound(line: 0) }
      item.onHand += delta
    case .setOnHand(let onHand): item.onHand = onHand
    }
    if refusal == nil && known == nil && items.count >= limits.itemsMax {
      return (.refused(.tableFull(.items)), false)
    }
    if let known, item.onHand < known.held {
      refusal = .insufficientStock(
        item: known.level.item, requested: known.onHand - item.onHand,
        available: known.onHand - known.held)
    } else if item.onHand > limits.quantityMax {
      refusal = .onHandLimit
    }
    if let refusal {
      record(key, payload, .refused(refusal), live: false)
      return (.refused(refusal), false)
    }
    item.safetyStock = safetyStock ?? item.safetyStock
    item.version += 1
    items[sku] = item
    record(key, payload, .level(item.level), live: false)
    return (.level(item.level), false)
  }

  // MARK: Transitions

  mutating func confirm(
    _ id: ReservationID, _ lines: [TestLine], reacquire: Bool
  ) -> (Refusal?, replayed: Bool) {
    guard let reservation = reservations[id] else { return (.reservationNotFound, false) }
    let sold = lines.isEmpty ? reservation.lines : merged(lines)
    switch reservation.state {
    case .released: return (.reservationReleased, false)
    case .confirmed:
      let recorded = reservation.lines.filter { $0.quantity > 0 }
      let same =
        lines.isEmpty
        ? !reservation.isSoldInPart
        : (recorded.count == sold.count
          && recorded.allSatisfy { line in sold.contains { $0 == line } })
      return same ? (nil, true) : (.reservationConfirmed, false)
    case .expired where !reacquire: return (.reservationExpired, false)
    default: break
    }
    if let refusal = moreThanHeld(reservation, lines) { return (refusal, false) }
    if reservation.state == .expired {
      // In the order of the reservation's lines.
      for line in reservation.lines {
        guard let wanted = sold.first(where: { $0.sku == line.sku }), wanted.quantity > 0,
          let level = items[line.sku]?.level, level.available < wanted.quantity
        else { continue }
        return (
          .insufficientStock(
            item: level.item, requested: wanted.quantity, available: level.available), false
        )
      }
    }
    for line in reservation.lines {
      let quantity = sold.first { $0.sku == line.sku }?.quantity ?? 0
      if reservation.state == .held {
        change(line.sku, onHand: -quantity, held: -line.quantity)
      } else if quantity > 0 {
        change(line.sku, onHand: -quantity)
      }
    }
    reservations[id]?.sell(sold)
    end(id, .confirmed, at: now)
    return (nil, false)
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

  mutating func release(_ id: ReservationID) -> (Refusal?, replayed: Bool) {
    guard let reservation = reservations[id] else { return (.reservationNotFound, false) }
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

  mutating func extend(_ id: ReservationID, ttl: Int64) -> (Refusal?, replayed: Bool) {
    guard let reservation = reservations[id] else { return (.reservationNotFound, false) }
    switch reservation.state {
    case .released: return (.reservationReleased, false)
    case .confirmed: return (.reservationConfirmed, false)
    case .expired: return (.reservationExpired, false)
    case .held:
      let expiresAt = min(now + ttl, reservation.createdAt + limits.holdNanosecondsMax)
      reservations[id]?.expiresAt = expiresAt
      return (nil, expiresAt == reservation.expiresAt)
    }
  }
}
