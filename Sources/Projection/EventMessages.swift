// What a holdfast server says, as far as the tables need it: event.proto, stock.proto and reservation.proto.
// Fields that are not known are passed over: a newer server may say more.
internal import Bytes

/// A point in time as PostgreSQL counts it: microseconds since the year 2000.
struct Moment: Equatable, Comparable {
  static let unixMicroseconds: Int64 = 946_684_800_000_000

  let microseconds: Int64

  init(microseconds: Int64) { self.microseconds = microseconds }

  init(unixNanoseconds: Int64) {
    microseconds = unixNanoseconds / 1000 - Self.unixMicroseconds
  }

  /// A google.protobuf.Timestamp; nil where it is none.
  init?(_ timestamp: WireFields.Field) {
    var fields = unsafe WireFields(timestamp.bytes)
    var (seconds, nanoseconds) = (Int64(0), Int64(0))
    while let field = fields.next() {
      if field.number == 1 { seconds = field.signed }
      if field.number == 2 { nanoseconds = field.signed }
    }
    // The years 1 to 9999, as Timestamp says.
    guard !fields.isMalformed, -62_135_596_800...253_402_300_799 ~= seconds,
      0..<1_000_000_000 ~= nanoseconds
    else { return nil }
    microseconds = seconds * 1_000_000 + nanoseconds / 1000 - Self.unixMicroseconds
  }

  var unixNanoseconds: Int64 { (microseconds + Self.unixMicroseconds) &* 1000 }

  static func < (a: Moment, b: Moment) -> Bool { a.microseconds < b.microseconds }
}

/// A StockItem.
struct ItemName: Hashable {
  var sku = ""
  var location = ""
}

/// A ReservationLine.
struct Line: Equatable {
  var item = ItemName()
  var quantity: Int64 = 0

  init(_ item: ItemName, _ quantity: Int64) { (self.item, self.quantity) = (item, quantity) }

  init?(_ message: WireFields.Field) {
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

  /// For a column of jsonb.
  static func json(_ lines: [Line]) -> String {
    var text = "["
    for line in lines {
      if text.utf8.count > 1 { text += "," }
      text += "{\"sku\":\(quoted(line.item.sku)),\"location\":\(quoted(line.item.location))"
      text += ",\"quantity\":\(line.quantity)}"
    }
    return text + "]"
  }

  private static func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\": result += "\\" + String(scalar)
      case "\u{0}"..<" ":
        let digits = String(scalar.value, radix: 16)
        result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }
}

/// A SaleWindow.
struct Sale: Equatable {
  var from: Moment?
  var until: Moment?
  var isFrozen = false

  init() {}

  init?(_ message: WireFields.Field) {
    var fields = unsafe WireFields(message.bytes)
    while let field = fields.next() {
      switch field.number {
      case 1: from = Moment(field)
      case 2: until = Moment(field)
      case 3: isFrozen = field.value != 0
      default: break
      }
    }
    if fields.isMalformed { return nil }
  }
}

/// A StockLevel.
struct Level: Equatable {
  var item = ItemName()
  var onHand: Int64 = 0
  var held: Int64 = 0
  var safetyStock: Int64 = 0
  var committed: Int64 = 0
  var version: UInt64 = 0
  /// nil: the message does not say.
  var sale: Sale?

  init() {}

  init?(_ message: WireFields.Field) {
    var fields = unsafe WireFields(message.bytes)
    while let field = fields.next() {
      switch field.number {
      case 1: item.sku = field.text
      case 2: item.location = field.text
      case 3: onHand = field.signed
      case 4: held = field.signed
      case 5: safetyStock = field.signed
      case 7: version = field.value
      case 8: committed = field.signed
      case 9:
        guard let sale = Sale(field) else { return nil }
        self.sale = sale
      default: break
      }
    }
    if fields.isMalformed { return nil }
  }
}

/// An EventKind. One that this version does not know has its number as a name.
struct EventKind: RawRepresentable, Hashable {
  let rawValue: UInt64

  static let held = EventKind(rawValue: 1)
  static let replaced = EventKind(rawValue: 2)
  static let extended = EventKind(rawValue: 3)
  static let confirmed = EventKind(rawValue: 4)
  static let released = EventKind(rawValue: 5)
  static let expired = EventKind(rawValue: 6)
  static let adjusted = EventKind(rawValue: 7)
  static let refused = EventKind(rawValue: 8)
  static let removed = EventKind(rawValue: 9)

  private static let names = [
    "HELD", "REPLACED", "EXTENDED", "CONFIRMED", "RELEASED", "EXPIRED", "ADJUSTED", "REFUSED",
    "REMOVED",
  ]

  var isKnown: Bool { 1...UInt64(Self.names.count) ~= rawValue }
  var name: String { isKnown ? Self.names[Int(rawValue) - 1] : "KIND_\(rawValue)" }
}

/// An Event.
struct Event: Equatable {
  var lsn: UInt64 = 0
  var kind = EventKind(rawValue: 0)
  var decidedAt = Moment(microseconds: 0)
  var reservationID = ""
  var reference = ""
  var lines: [Line] = []
  var expiresAt: Moment?
  var stock: [Level] = []
  var caller = ""
  var key = ""
  var reason = ""

  init() {}

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
      guard let moment = Moment(field) else { return false }
      decidedAt = moment
    case 4: reservationID = field.text
    case 5: reference = field.text
    case 6:
      guard let line = Line(field) else { return false }
      lines.append(line)
    case 7: expiresAt = Moment(field)
    case 8:
      guard let level = Level(field) else { return false }
      stock.append(level)
    case 9: caller = field.text
    case 10: key = field.text
    case 11: reason = field.text
    default: break
    }
    return true
  }
}

/// A WatchResponse.
struct WatchMessage {
  var events: [Event] = []
  var token = ""

  /// - Safety: nothing of it refers to the bytes.
  @unsafe init?(_ bytes: UnsafeRawBufferPointer) {
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

  /// The LSN in a resume token; nil where it is of a form that is not known. Only to say how far behind the
  /// tables are: where to go on is the token itself.
  static func lsn(ofToken token: String) -> UInt64? {
    let digits = Array(token.utf8)
    guard digits.count == 65, digits[0] == UInt8(ascii: "1") else { return nil }
    return UInt64(String(decoding: digits[17..<33], as: UTF8.self), radix: 16)
  }
}

/// A Reservation of a listing.
struct ListedReservation {
  var id = ""
  var state: UInt64 = 0
  var lines: [Line] = []
  var createdAt: Moment?
  var expiresAt: Moment?
  var endedAt: Moment?
  var reference = ""

  private static let states = ["HELD", "CONFIRMED", "RELEASED", "EXPIRED"]

  var stateName: String {
    1...4 ~= state ? Self.states[Int(state) - 1] : "STATE_\(state)"
  }

  init?(_ message: WireFields.Field) {
    var fields = unsafe WireFields(message.bytes)
    while let field = fields.next() {
      switch field.number {
      case 1: id = field.text
      case 2: state = field.value
      case 3:
        guard let line = Line(field) else { return nil }
        lines.append(line)
      case 4: createdAt = Moment(field)
      case 5: expiresAt = Moment(field)
      case 6: endedAt = Moment(field)
      case 7: reference = field.text
      default: break
      }
    }
    if fields.isMalformed { return nil }
  }
}

/// A page of ListStock or ListReservations.
struct Page<Entry> {
  var entries: [Entry] = []
  var next = ""

  init?(_ message: [UInt8], _ read: (WireFields.Field) -> Entry?) {
    let isWhole = unsafe message.withUnsafeBytes { bytes in
      var fields = unsafe WireFields(bytes)
      while let field = fields.next() {
        if field.number == 1 {
          guard let entry = read(field) else { return false }
          entries.append(entry)
        }
        if field.number == 2 { next = field.text }
      }
      return !fields.isMalformed
    }
    if !isWhole { return nil }
  }
}

/// What the server is asked.
enum Requests {
  /// A heartbeat every second, so that the position goes on where nothing happens.
  static func watch(token: String?, fromOldest: Bool = false) -> [UInt8] {
    message { writer in
      if let token { writer.nested(1) { writer.text(token) } }
      if fromOldest { writer.field(2, true) }
      writer.field(6, seconds: 1_000_000_000)
    }
  }

  static func page(token: String) -> [UInt8] {
    message { writer in
      writer.field(1, Int64(500))
      if !token.isEmpty { writer.nested(2) { writer.text(token) } }
    }
  }

  private static func message(_ body: (ProtoWriter) -> Void) -> [UInt8] {
    let writer = ProtoWriter(capacity: 256)
    defer { writer.destroy() }
    body(writer)
    return writer.withBytes { bytes in unsafe bytes.withUnsafeBytes { unsafe Array($0) } }
  }
}
