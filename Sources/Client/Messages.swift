// What a holdfast server says to a command: stock.proto, reservation.proto and event.proto, read field by field. Fields
// that are not known are passed over: a newer server may say more.
package import Bytes

/// A StockItem: the place of one product's units.
package struct ItemName: Hashable, Sendable, CustomStringConvertible {
  package var sku: String
  /// Empty: the default location.
  package var location: String

  package init(sku: String = "", location: String = "") {
    self.sku = sku
    self.location = location
  }

  /// `SKU` or `SKU@LOCATION`, as the command line takes it: what is behind the last @ is the location, so that a SKU with
  /// an @ is written with one more at its end.
  package init(parsing text: String) {
    guard let at = text.lastIndex(of: "@") else {
      self.init(sku: text)
      return
    }
    self.init(sku: String(text[..<at]), location: String(text[text.index(after: at)...]))
  }

  package var description: String {
    location.isEmpty ? (sku.contains("@") ? sku + "@" : sku) : "\(sku)@\(location)"
  }
}

/// A SaleWindow: when an item may be reserved.
package struct SaleWindow: Equatable, Sendable {
  package var from: Instant?
  package var until: Instant?
  package var isFrozen = false

  package init() {}

  init?(_ message: WireFields.Field) {
    var fields = unsafe WireFields(message.bytes)
    while let field = fields.next() {
      switch field.number {
      case 1: from = Instant(field)
      case 2: until = Instant(field)
      case 3: isFrozen = field.value != 0
      default: break
      }
    }
    if fields.isMalformed { return nil }
  }
}

/// A StockLevel: the balances of one item.
package struct StockLevel: Equatable, Sendable {
  package var item = ItemName()
  package var onHand: Int64 = 0
  package var held: Int64 = 0
  package var committed: Int64 = 0
  package var safetyStock: Int64 = 0
  package var available: Int64 = 0
  package var version: UInt64 = 0
  /// nil: always on sale, or the message does not say.
  package var sale: SaleWindow?

  package init() {}

  package init?(_ message: WireFields.Field) {
    var fields = unsafe WireFields(message.bytes)
    while let field = fields.next() {
      switch field.number {
      case 1: item.sku = field.text
      case 2: item.location = field.text
      case 3: onHand = field.signed
      case 4: held = field.signed
      case 5: safetyStock = field.signed
      case 6: available = field.signed
      case 7: version = field.value
      case 8: committed = field.signed
      case 9:
        guard let window = SaleWindow(field) else { return nil }
        sale = window
      default: break
      }
    }
    if fields.isMalformed || !isPlausible { return nil }
  }

  /// Balances that no sum of a few can overflow: far beyond what a server keeps.
  private var isPlausible: Bool {
    [onHand, held, committed, safetyStock, available].allSatisfy { $0.magnitude <= 1 << 53 }
  }
}

/// A ReservationLine: some units of one item.
package struct ReservationLine: Equatable, Sendable {
  package var item: ItemName
  package var quantity: Int64
  /// 0: all of quantity or nothing.
  package var minimum: Int64

  package init(_ item: ItemName, _ quantity: Int64, minimum: Int64 = 0) {
    self.item = item
    self.quantity = quantity
    self.minimum = minimum
  }

  /// nil where it is none.
  package init?(_ message: WireFields.Field) {
    self.init(ItemName(), 0)
    var fields = unsafe WireFields(message.bytes)
    while let field = fields.next() {
      switch field.number {
      case 1: item.sku = field.text
      case 2: item.location = field.text
      case 3: quantity = field.signed
      default: break
      }
    }
    if fields.isMalformed { return nil }
  }
}

/// A ReservationState. One that this version does not know has its number as a name.
package struct ReservationState: RawRepresentable, Hashable, Sendable {
  package let rawValue: UInt64

  package init(rawValue: UInt64) { self.rawValue = rawValue }

  package static let unspecified = ReservationState(rawValue: 0)
  package static let held = ReservationState(rawValue: 1)
  package static let confirmed = ReservationState(rawValue: 2)
  package static let released = ReservationState(rawValue: 3)
  package static let expired = ReservationState(rawValue: 4)

  private static let names = ["UNSPECIFIED", "HELD", "CONFIRMED", "RELEASED", "EXPIRED"]

  package var name: String {
    rawValue < UInt64(Self.names.count) ? Self.names[Int(rawValue)] : "STATE_\(rawValue)"
  }
}

/// A Reservation: a hold on units, and what became of it.
package struct Reservation: Equatable, Sendable {
  package var id = ""
  package var state = ReservationState.unspecified
  package var lines: [ReservationLine] = []
  package var createdAt: Instant?
  package var expiresAt: Instant?
  package var endedAt: Instant?
  package var reference = ""
  package var revision: UInt64 = 0

  package init() {}

  package init?(_ message: WireFields.Field) {
    var fields = unsafe WireFields(message.bytes)
    while let field = fields.next() {
      switch field.number {
      case 1: id = field.text
      case 2: state = ReservationState(rawValue: field.value)
      case 3:
        guard let line = ReservationLine(field) else { return nil }
        lines.append(line)
      case 4: createdAt = Instant(field)
      case 5: expiresAt = Instant(field)
      case 6: endedAt = Instant(field)
      case 7: reference = field.text
      case 8: revision = field.value
      default: break
      }
    }
    if fields.isMalformed { return nil }
  }
}

/// A ReserveResponse.
package struct HeldReservation: Equatable, Sendable {
  package var id = ""
  package var expiresAt: Instant?
  package var isReplayed = false
  /// What was held, where that is not as asked.
  package var lines: [ReservationLine] = []
  package var state = ReservationState.unspecified

  package init?(_ message: [UInt8]) {
    let isWhole = readFields(message) { field in
      switch field.number {
      case 1: id = field.text
      case 2: expiresAt = Instant(field)
      case 3: isReplayed = field.value != 0
      case 5:
        guard let line = ReservationLine(field) else { return false }
        lines.append(line)
      case 6: state = ReservationState(rawValue: field.value)
      default: break
      }
      return true
    }
    guard isWhole, !id.isEmpty else { return nil }
  }
}

/// An EventKind. One that this version does not know has its number as a name.
package struct EventKind: RawRepresentable, Hashable, Sendable {
  package let rawValue: UInt64

  package init(rawValue: UInt64) { self.rawValue = rawValue }

  package static let held = EventKind(rawValue: 1)
  package static let replaced = EventKind(rawValue: 2)
  package static let extended = EventKind(rawValue: 3)
  package static let confirmed = EventKind(rawValue: 4)
  package static let released = EventKind(rawValue: 5)
  package static let expired = EventKind(rawValue: 6)
  package static let adjusted = EventKind(rawValue: 7)
  package static let removed = EventKind(rawValue: 9)

  private static let names = [
    "UNSPECIFIED", "HELD", "REPLACED", "EXTENDED", "CONFIRMED", "RELEASED", "EXPIRED", "ADJUSTED",
    "REFUSED", "REMOVED",
  ]

  /// This version knows what it means.
  package var isKnown: Bool { 1..<UInt64(Self.names.count) ~= rawValue }

  package static var all: [EventKind] {
    (1..<UInt64(names.count)).map { EventKind(rawValue: $0) }
  }

  /// Those that there are, in words.
  package static var allNames: [String] { Array(names.dropFirst()) }

  /// By its name, in whatever case.
  package init?(name: some StringProtocol) {
    let wanted = name.uppercased()
    guard let index = Self.names.firstIndex(of: wanted), index > 0 else { return nil }
    rawValue = UInt64(index)
  }

  package var name: String {
    rawValue < UInt64(Self.names.count) ? Self.names[Int(rawValue)] : "KIND_\(rawValue)"
  }
}

/// An Event: one decision.
package struct Event: Equatable, Sendable {
  package var lsn: UInt64 = 0
  package var kind = EventKind(rawValue: 0)
  package var decidedAt: Instant?
  package var reservationID = ""
  package var reference = ""
  package var lines: [ReservationLine] = []
  package var expiresAt: Instant?
  package var stock: [StockLevel] = []
  package var caller = ""
  package var idempotencyKey = ""
  package var reason = ""

  package init() {}

  init?(_ message: WireFields.Field) {
    var fields = unsafe WireFields(message.bytes)
    while let field = fields.next() {
      guard set(field) else { return nil }
    }
    if fields.isMalformed { return nil }
  }

  private mutating func set(_ field: WireFields.Field) -> Bool {
    switch field.number {
    case 1: lsn = field.value
    case 2: kind = EventKind(rawValue: field.value)
    case 3:
      guard let instant = Instant(field) else { return false }
      decidedAt = instant
    case 4: reservationID = field.text
    case 5: reference = field.text
    case 6:
      guard let line = ReservationLine(field) else { return false }
      lines.append(line)
    case 7: expiresAt = Instant(field)
    case 8:
      guard let level = StockLevel(field) else { return false }
      stock.append(level)
    case 9: caller = field.text
    case 10: idempotencyKey = field.text
    case 11: reason = field.text
    default: break
    }
    return true
  }
}

/// A WatchResponse.
package struct WatchMessage {
  package private(set) var events: [Event] = []
  /// Covers everything up to here, sent or filtered out.
  package private(set) var token = ""

  /// nil where it is none.
  /// - Safety: nothing of it refers to the bytes.
  @unsafe package init?(_ bytes: UnsafeRawBufferPointer) {
    var fields = unsafe WireFields(bytes)
    while let field = fields.next() {
      if field.number == 1 {
        guard let event = Event(field) else { return nil }
        events.append(event)
      }
      if field.number == 2 { token = field.text }
    }
    if fields.isMalformed || token.isEmpty { return nil }
  }

  /// Up to where it covers everything; nil where the token is of a form that is not known.
  package var lsn: UInt64? { Self.lsn(ofToken: token) }

  /// The LSN in a resume token; nil where it is of a form that is not known. Only to say how far somebody is behind: where
  /// to go on is the token itself.
  package static func lsn(ofToken token: String) -> UInt64? {
    let digits = Array(token.utf8)
    guard digits.count == 65, digits[0] == UInt8(ascii: "1") else { return nil }
    return UInt64(String(decoding: digits[17..<33], as: UTF8.self), radix: 16)
  }
}

/// An ImportStockResponse.
package struct ImportAnswer: Equatable {
  /// Rows below this are done and durable.
  package private(set) var nextRow: UInt64 = 0
  package private(set) var changed: UInt64 = 0
  package private(set) var failed: UInt64 = 0
  /// Numbers and reasons of rows that were refused.
  package private(set) var failures: [(row: UInt64, reason: String)] = []

  package init?(_ message: [UInt8]) {
    let isWhole = readFields(message) { field in
      switch field.number {
      case 1: nextRow = field.value
      case 2: changed = field.value
      case 3:
        var parts = unsafe WireFields(field.bytes)
        var (row, reason) = (UInt64(0), "")
        while let part = parts.next() {
          if part.number == 1 { row = part.value }
          if part.number == 2 { reason = part.text }
        }
        failures.append((row, reason))
      case 4: failed = field.value
      default: break
      }
      return true
    }
    if !isWhole { return nil }
  }

  package static func == (a: ImportAnswer, b: ImportAnswer) -> Bool {
    a.nextRow == b.nextRow && a.changed == b.changed && a.failed == b.failed
      && a.failures.elementsEqual(b.failures) { $0 == $1 }
  }
}

/// A response that has messages in field 1, and whether it is a replay in field 2, or where the next page is.
package struct Response<Entry> {
  package private(set) var entries: [Entry] = []
  private(set) var isReplayed = false
  /// Empty: there is none.
  package private(set) var nextPage = ""
  /// Of BatchGetStock: what is not there.
  private(set) var missing: [ItemName] = []

  /// nil where the message is none, or `read` takes an entry for none.
  package init?(_ message: [UInt8], _ read: (WireFields.Field) -> Entry?) {
    let isWhole = readFields(message) { field in
      if field.number == 1 {
        guard let entry = read(field) else { return false }
        entries.append(entry)
      }
      if field.number == 2 {
        isReplayed = field.value != 0
        nextPage = field.text
        var names = unsafe WireFields(field.bytes)
        var item = ItemName()
        while let name = names.next() {
          if name.number == 1 { item.sku = name.text }
          if name.number == 2 { item.location = name.text }
        }
        missing.append(item)
      }
      return true
    }
    if !isWhole { return nil }
  }
}

/// Shows every field of a message to `take`, until it answers false. Whether all were shown.
func readFields(_ message: [UInt8], _ take: (WireFields.Field) -> Bool) -> Bool {
  unsafe message.withUnsafeBytes { bytes in
    var fields = unsafe WireFields(bytes)
    while let field = fields.next() {
      if !take(field) { return false }
    }
    return !fields.isMalformed
  }
}
