// What a command asks a server: stock.proto, reservation.proto and event.proto.
internal import Bytes

/// What becomes of on hand.
package enum StockChange: Equatable, Sendable {
  /// Units to add, or to take away if negative.
  case add(Int64)
  case set(Int64)
  /// Units that leave the house: on hand and committed both fall.
  case ship(Int64)
  /// Sold units that are not shipped after all.
  case uncommit(Int64)
}

/// What the caller knows of an item.
package enum VersionCheck: Equatable, Sendable {
  case any
  /// 0: only if the item is unknown.
  case version(UInt64)
  case onHand(Int64)
}

/// An AdjustStockRequest, or a change of several, or a row of an import.
package struct Adjustment: Equatable, Sendable {
  package var item: ItemName
  package var change: StockChange?
  package var check = VersionCheck.any
  package var safetyStock: Int64?
  package var allowsShortage = false
  /// nil: no change.
  package var sale: SaleWindow?

  package init(_ item: ItemName, _ change: StockChange? = nil) {
    self.item = item
    self.change = change
  }

  func write(to writer: ProtoWriter) {
    writer.write(2, item.sku)
    writer.write(3, item.location)
    // A member of a oneof is written also where it is zero.
    switch change {
    case .add(let units): writer.member(4, UInt64(bitPattern: units))
    case .set(let units): writer.member(5, UInt64(bitPattern: units))
    case .ship(let units): writer.member(10, UInt64(bitPattern: units))
    case .uncommit(let units): writer.member(11, UInt64(bitPattern: units))
    case nil: break
    }
    switch check {
    case .any: writer.member(7, 1)
    case .version(let version): writer.member(6, version)
    case .onHand(let units): writer.member(12, UInt64(bitPattern: units))
    }
    if let safetyStock { writer.member(8, UInt64(bitPattern: safetyStock)) }
    writer.field(13, allowsShortage)
    guard let sale else { return }
    writer.nested(15) {
      if let from = sale.from { writer.write(1, from) }
      if let until = sale.until { writer.write(2, until) }
      writer.field(3, sale.isFrozen)
    }
  }
}

/// Why a change is made, and under which key.
package struct ChangeNote: Equatable, Sendable {
  package var key: String
  package var reason: String
  package var reference: String

  package init(key: String, reason: String = "", reference: String = "") {
    self.key = key
    self.reason = reason
    self.reference = reference
  }
}

/// Messages as bytes.
package enum Requests {
  // MARK: Stock

  package static func adjust(_ adjustment: Adjustment, _ note: ChangeNote) -> [UInt8] {
    message { writer in
      writer.write(1, note.key)
      adjustment.write(to: writer)
      writer.write(9, note.reason)
      writer.write(14, note.reference)
    }
  }

  package static func adjustTogether(_ changes: [Adjustment], _ note: ChangeNote) -> [UInt8] {
    message { writer in
      writer.write(1, note.key)
      for change in changes { writer.nested(2) { change.write(to: writer) } }
      writer.write(3, note.reason)
      writer.write(4, note.reference)
    }
  }

  package static func importRows(
    _ importID: String, firstRow: UInt64, _ rows: ArraySlice<Adjustment>
  ) -> [UInt8] {
    message { writer in
      writer.write(1, importID)
      writer.field(2, firstRow)
      for row in rows { writer.nested(3) { row.write(to: writer) } }
    }
  }

  package static func getStock(_ items: [ItemName]) -> [UInt8] {
    message { writer in
      for item in items { writer.nested(1) { writer.write(item) } }
    }
  }

  package static func removeItem(
    _ item: ItemName, expectedVersion: UInt64, _ note: ChangeNote
  ) -> [UInt8] {
    message { writer in
      writer.write(1, note.key)
      writer.write(2, item.sku)
      writer.write(3, item.location)
      writer.field(4, expectedVersion)
      writer.write(5, note.reason)
    }
  }

  package static func listStock(pageSize: Int, token: String) -> [UInt8] {
    message { writer in
      writer.field(1, Int64(pageSize))
      writer.write(2, token)
    }
  }

  // MARK: Reservations

  /// - Parameters:
  ///   - ttlNanoseconds: nil: the server's default.
  ///   - limits: at most so many units of each item for a subject.
  package static func reserve(
    _ lines: [ReservationLine], ttlNanoseconds: Int64?, reference: String, key: String,
    limits: [(subject: String, units: Int64)]
  ) -> [UInt8] {
    message { writer in
      writer.write(1, key)
      for line in lines { writer.nested(2) { writer.write(line) } }
      if let ttlNanoseconds { writer.field(3, seconds: ttlNanoseconds) }
      writer.write(4, reference)
      for limit in limits {
        writer.nested(6) {
          writer.write(1, limit.subject)
          writer.field(2, limit.units)
        }
      }
    }
  }

  package static func getReservation(id: String, key: String) -> [UInt8] {
    message { writer in
      writer.write(1, id)
      writer.write(2, key)
    }
  }

  package static func listReservations(
    pageSize: Int, token: String, state: ReservationState, reference: String
  ) -> [UInt8] {
    message { writer in
      writer.field(1, Int64(pageSize))
      writer.write(2, token)
      writer.field(3, state.rawValue)
      writer.write(4, reference)
    }
  }

  /// - Parameter lines: empty: everything.
  package static func confirm(
    id: String, _ lines: [ReservationLine], reacquires: Bool, keepsCommitted: Bool
  ) -> [UInt8] {
    message { writer in
      writer.write(1, id)
      for line in lines { writer.nested(2) { writer.write(line) } }
      writer.field(3, reacquires)
      writer.field(4, keepsCommitted)
    }
  }

  package static func release(id: String) -> [UInt8] { message { $0.write(1, id) } }

  package static func extend(id: String, ttlNanoseconds: Int64?, mayShorten: Bool) -> [UInt8] {
    message { writer in
      writer.write(1, id)
      if let ttlNanoseconds { writer.field(2, seconds: ttlNanoseconds) }
      writer.field(3, mayShorten)
    }
  }

  package static func replace(
    id: String, _ lines: [ReservationLine], expectedRevision: UInt64, ttlNanoseconds: Int64?,
    reference: String, key: String
  ) -> [UInt8] {
    message { writer in
      writer.write(1, key)
      writer.write(2, id)
      for line in lines { writer.nested(3) { writer.write(line) } }
      writer.field(4, expectedRevision)
      if let ttlNanoseconds { writer.field(5, seconds: ttlNanoseconds) }
      writer.write(6, reference)
    }
  }

  // MARK: Events

  package static func watch(
    _ start: WatchStart, kinds: [EventKind], items: [ItemName], referencePrefix: String,
    heartbeatNanoseconds: Int64
  ) -> [UInt8] {
    message { writer in
      switch start {
      case .now: break
      case .oldest: writer.field(2, true)
      case .after(let token): writer.nested(1) { writer.text(token) }
      }
      for kind in kinds { writer.member(3, kind.rawValue) }
      for item in items { writer.nested(4) { writer.write(item) } }
      writer.write(5, referencePrefix)
      writer.field(6, seconds: heartbeatNanoseconds)
    }
  }

  private static func message(_ body: (ProtoWriter) -> Void) -> [UInt8] {
    let writer = ProtoWriter(capacity: 256)
    defer { writer.destroy() }
    body(writer)
    return writer.withBytes { bytes in unsafe bytes.withUnsafeBytes { unsafe Array($0) } }
  }
}

/// Where a watch begins.
package enum WatchStart: Equatable, Sendable {
  case now
  /// At the oldest event that is kept.
  case oldest
  /// After everything that a resume token covers.
  case after(String)
}

extension ProtoWriter {
  /// A string, unless it is empty.
  fileprivate func write(_ number: Int, _ text: String) {
    if !text.isEmpty { nested(number) { self.text(text) } }
  }

  /// A number, also where it is zero: of a oneof, and of a list.
  fileprivate func member(_ number: Int, _ value: UInt64) {
    if value == 0 {
      // A tag of one byte, varint, and its value.
      precondition(number < 16, "a tag of one byte")
      text(byte: UInt8(number << 3))
      text(byte: 0)
    } else {
      field(number, value)
    }
  }

  fileprivate func write(_ item: ItemName) {
    write(1, item.sku)
    write(2, item.location)
  }

  fileprivate func write(_ line: ReservationLine) {
    write(line.item)
    field(3, line.quantity)
    field(4, line.minimum)
  }

  fileprivate func write(_ number: Int, _ instant: Instant) {
    nested(number) {
      field(1, instant.seconds)
      field(2, Int64(instant.nanos))
    }
  }
}
