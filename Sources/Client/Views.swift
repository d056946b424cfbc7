// How items, reservations and events look in rows: for a person on a terminal, for a script between tabs. Columns are only
// ever added, behind those that there are.

extension Instant {
  /// To the second: for people.
  fileprivate var inSeconds: String { (Instant(seconds: seconds) ?? self).description }
}

extension [ReservationLine] {
  /// `ticket=2 mug@oslo=1`
  fileprivate var text: String { map { "\($0.item)=\($0.quantity)" }.joined(separator: " ") }
}

extension SaleWindow {
  /// Empty: always.
  package var text: String {
    var parts: [String] = []
    if isFrozen { parts.append("frozen") }
    if let from { parts.append("from \(from)") }
    if let until { parts.append("until \(until)") }
    return parts.joined(separator: " ")
  }
}

extension StockLevel {
  package static let columns = [
    TableColumn("SKU"), TableColumn("LOCATION"), TableColumn("ON_HAND", isNumber: true),
    TableColumn("HELD", isNumber: true), TableColumn("COMMITTED", isNumber: true),
    TableColumn("SAFETY_STOCK", isNumber: true, .optional),
    TableColumn("AVAILABLE", isNumber: true), TableColumn("VERSION", isNumber: true, .optional),
    TableColumn("SALE", .optional),
  ]

  package var cells: [TableCell] {
    [
      TableCell(item.sku), TableCell(item.location), TableCell(onHand), TableCell(held),
      TableCell(committed), TableCell(safetyStock),
      TableCell(available, available < 0 ? .bad : available == 0 ? .warning : .plain),
      TableCell(String(version), .dim), TableCell(sale?.text ?? "", .warning),
    ]
  }
}

extension Reservation {
  package static let columns = [
    TableColumn("RESERVATION_ID"), TableColumn("STATE"), TableColumn("REFERENCE", .flexible),
    TableColumn("LINES", .flexible), TableColumn("EXPIRES_AT"), TableColumn("ENDED_AT", .optional),
    TableColumn("CREATED_AT", .optional), TableColumn("REVISION", isNumber: true, .optional),
  ]

  /// - Parameter format: a table has times to the second.
  package func cells(_ format: OutputFormat) -> [TableCell] {
    let tone: TableCell.Tone =
      switch state {
      case .held: .good
      case .expired: .warning
      default: .plain
      }
    func time(_ instant: Instant?) -> TableCell {
      TableCell((format == .table ? instant?.inSeconds : instant?.description) ?? "")
    }
    return [
      TableCell(id), TableCell(state.name, tone), TableCell(reference), TableCell(lines.text),
      time(expiresAt), time(endedAt), time(createdAt), TableCell(String(revision), .dim),
    ]
  }
}

extension HeldReservation {
  package static let columns = Array(Reservation.columns.prefix(5))

  /// - Parameter asked: the lines of the request.
  package func cells(
    _ format: OutputFormat, _ asked: [ReservationLine], reference: String
  ) -> [TableCell] {
    var reservation = Reservation()
    reservation.id = id
    reservation.state = state
    reservation.lines = lines.isEmpty ? asked : lines
    reservation.expiresAt = expiresAt
    reservation.reference = reference
    return Array(reservation.cells(format).prefix(Self.columns.count))
  }
}

extension Event {
  package static let columns = [
    TableColumn("DECIDED_AT", usual: 20), TableColumn("LSN", isNumber: true, usual: 9),
    TableColumn("KIND", usual: 9), TableColumn("RESERVATION_ID", usual: 20),
    TableColumn("REFERENCE", .flexible, usual: 12), TableColumn("LINES", .flexible, usual: 12),
    TableColumn("AVAILABLE", .flexible, usual: 12), TableColumn("CALLER", .flexible, usual: 8),
    TableColumn("REASON", .flexible, usual: 12),
  ]

  /// - Parameter format: a table has times to the second.
  package func cells(_ format: OutputFormat) -> [TableCell] {
    let tone: TableCell.Tone =
      switch kind.name {
      case "HELD", "CONFIRMED": .good
      case "EXPIRED", "REMOVED": .warning
      case "REFUSED": .bad
      default: .plain
      }
    let available = stock.map { "\($0.item)=\($0.available)" }.joined(separator: " ")
    return [
      TableCell((format == .table ? decidedAt?.inSeconds : decidedAt?.description) ?? "", .dim),
      TableCell(String(lsn), .dim), TableCell(kind.name, tone), TableCell(reservationID),
      TableCell(reference), TableCell(lines.text), TableCell(available), TableCell(caller),
      TableCell(reason),
    ]
  }
}
