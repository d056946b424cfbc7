// Events on their way into one transaction: every event is a row, and of each item and each reservation only what
// it has come to.
internal import Client

/// What became of an item.
struct ItemChange: Equatable {
  /// The newest balances; nil: it was removed.
  var level: StockLevel?
  /// Set where this batch says so.
  var sale: SaleWindow?
  /// The highest version with which it was removed on the way: rows below are of an item that is gone.
  var removedVersion: UInt64?
  var lsn: UInt64 = 0
}

/// What became of a reservation; nil: as it was.
struct ReservationChange: Equatable {
  var state: String
  var reference = ""
  var caller: String?
  var lines: [ReservationLine]?
  var createdAt: Moment?
  var expiresAt: Moment?
  var endedAt: Moment?
  var lsn: UInt64 = 0
}

struct Batch {
  private(set) var events: [Event] = []
  private(set) var items: [ItemName: ItemChange] = [:]
  private(set) var reservations: [String: ReservationChange] = [:]
  private(set) var unknownKinds: Set<EventKind> = []

  var isEmpty: Bool { events.isEmpty && items.isEmpty && reservations.isEmpty }
  /// Rows to be written, nearly.
  var rowCount: Int { events.count + items.count + reservations.count }

  /// Events come in the order of their numbers.
  mutating func add(_ event: Event) {
    events.append(event)
    for level in event.stock {
      if event.kind == .removed {
        remove(level, event.lsn)
      } else {
        add(level, event.lsn)
      }
    }
    if !event.kind.isKnown { unknownKinds.insert(event.kind) }
    if !event.reservationID.isEmpty, let change = Self.change(event) {
      add(change, to: event.reservationID)
    }
  }

  /// Also of a listing, with 0 for `lsn`.
  mutating func add(_ level: StockLevel, _ lsn: UInt64) {
    var change = items[level.item] ?? ItemChange()
    if let known = change.level, known.version >= level.version { return }
    change.level = level
    change.lsn = lsn
    if let sale = level.sale { change.sale = sale }
    items[level.item] = change
  }

  private mutating func remove(_ level: StockLevel, _ lsn: UInt64) {
    let before = items[level.item]?.removedVersion ?? 0
    items[level.item] = ItemChange(
      level: nil, sale: nil, removedVersion: max(before, level.version), lsn: lsn)
  }

  mutating func add(_ listed: Reservation) {
    reservations[listed.id] = ReservationChange(
      state: listed.state.name, reference: listed.reference, lines: listed.lines,
      createdAt: listed.createdAt.map(Moment.init), expiresAt: listed.expiresAt.map(Moment.init),
      endedAt: listed.endedAt.map(Moment.init))
  }

  private mutating func add(_ change: ReservationChange, to id: String) {
    guard var known = reservations[id] else {
      reservations[id] = change
      return
    }
    known.state = change.state
    known.reference = change.reference
    known.caller = known.caller ?? change.caller
    known.lines = change.lines ?? known.lines
    known.createdAt = known.createdAt ?? change.createdAt
    known.expiresAt = change.expiresAt ?? known.expiresAt
    known.endedAt = change.endedAt
    known.lsn = change.lsn
    reservations[id] = known
  }

  /// nil: of a kind that is not known.
  private static func change(_ event: Event) -> ReservationChange? {
    var change = ReservationChange(
      state: "HELD", reference: event.reference, expiresAt: event.expiresAt.map(Moment.init),
      lsn: event.lsn)
    switch event.kind {
    case .held:
      change.createdAt = event.decidedMoment
      change.caller = event.caller
      change.lines = event.lines
    case .replaced: change.lines = event.lines
    case .extended: break
    case .confirmed, .released:
      change.state = event.kind.name
      change.lines = event.lines
      change.endedAt = event.decidedMoment
    case .expired:
      change.state = event.kind.name
      change.lines = event.lines
      change.endedAt = event.expiresAt.map(Moment.init)
    default: return nil
    }
    return change
  }
}
