internal import Bytes
// The journal for people and scripts: one line of JSON for each decision.
package import Log
internal import Posix
package import StockStore
internal import Synchronization

extension StockStore {
  /// Calls `line` with one JSON object for the checkpoint from which the directory would be recovered,
  /// then with one for each record of the journal behind it, in their order, up to where the journal ends when
  /// it begins. Reads only.
  /// - Throws: `damaged`, after the records before the damage; `unsuitable` where there is no store.
  package static func dump(
    storage: any Storage, to line: (String) -> Void
  ) throws(JournalError) {
    let storage = try snapshot(of: storage)
    let checkpoint = try newestCheckpoint(storage)
    let header = checkpoint.header
    let text = try JournalText(checkpoint)
    defer { text.free() }
    line(JSONObject.checkpoint(checkpoint))
    let closing = try ClosingRecord.read(storage, storeID: header.identity.storeID)
    let reader = JournalReader(
      storage: storage, identity: header.identity.log, start: header.start,
      mustReach: checkpoint.mustReach)
    // A server may write on, faster than somebody reads what is printed. Damage is told after what is before it.
    let endLSN = unsafe try? reader.forEachBatch(readsAhead: false, { _, _ in }).position.lsn
    var decisions = header.start.counted
    let end = unsafe try reader.forEachBatch(readsAhead: false, until: endLSN) {
      (batch, payload) throws(JournalError) in
      let isWhole = unsafe text.forEachRecord(payload, lsn: batch.lsn) { record, lsn in
        if record.kind != .clock { decisions += 1 }
        line(text.line(record, lsn: lsn))
      }
      if !isWhole {
        throw .damaged(
          Damage(
            file: "the journal", offset: Int(clamping: batch.lsn), lsn: batch.lsn,
            finding: "a malformed record"))
      }
    }
    if let damage = ClosingRecord.damage(closing, of: end.position, counted: decisions) {
      throw .damaged(damage)
    }
  }
}

/// Records as text, with the names of items and the ids of reservations. Whoever makes it frees it.
struct JournalText {
  private let core: StoreCore

  /// Knows the items of the checkpoint.
  init(_ checkpoint: CheckpointReader) throws(JournalError) {
    let header = checkpoint.header
    let secret = header.identity.secret
    core = StoreCore(
      limits: try StockStore.limits(toRead: header), concurrency: .optimistic,
      secret: (secret.low, secret.high), now: header.time,
      log: LogRing(shape: .decisions), shardCount: header.identity.shardCount,
      firstReleaseUntil: header.firstReleaseUntil)
    do throws(JournalError) {
      _ = try checkpoint.loadItems(into: core)
    } catch {
      core.free()
      throw error
    }
  }

  func free() { core.free() }

  /// Calls `body` with each record of a batch and the log's end behind it; the items that they make get their
  /// names. False where a record is malformed.
  func forEachRecord(
    _ payload: UnsafeRawBufferPointer, lsn: UInt64, _ body: (JournalRecord, UInt64) -> Void
  ) -> Bool {
    var offset = 0
    while offset < payload.count {
      // The offset is where the record before ended: within the payload.
      guard let record = unsafe JournalRecord(UnsafeRawBufferPointer(rebasing: payload[offset...]))
      else { return false }
      offset += record.byteCount
      core.rememberName(record)
      body(record, lsn &+ UInt64(offset))
    }
    return true
  }

  func line(_ record: JournalRecord, lsn: UInt64) -> String {
    JSONObject.record(record, lsn: lsn, core)
  }
}

extension StoreCore {
  /// Items that the journal makes get their names.
  fileprivate func rememberName(_ record: JournalRecord) {
    if record.kind == .adjusted, record.name.sku.count > 0 {
      remember(record.name, record.level.item)
    }
    record.forEachChange { change in
      if let name = change.name { remember(name, change.level.item) }
    }
  }

  private func remember(_ name: ItemName, _ item: ItemHandle) {
    // Another one where the place was a removed item's.
    if item.ordinal < items.count, items.hasName(item.ordinal, name) { return }
    _ = items.restore(item.ordinal, name)
  }
}

/// An object of JSON, member by member.
struct JSONObject {
  private(set) var text = "{"

  /// The object's text, whole.
  private var closed: String { text + "}" }

  // MARK: Lines

  static func checkpoint(_ checkpoint: CheckpointReader) -> String {
    var object = JSONObject()
    object.add("kind", "checkpoint")
    object.add("file", checkpoint.name)
    object.add("lsn", checkpoint.header.start.lsn)
    object.addTime("time", checkpoint.header.time)
    object.add("decisions", checkpoint.header.start.counted)
    object.add("items", checkpoint.end.items)
    object.add("recorded_decisions", checkpoint.end.records)
    return object.closed
  }

  /// A batch that cannot be read any more.
  static func unreadable(_ batch: BatchHeader, file: String, offset: Int) -> String {
    var object = JSONObject()
    object.add("lsn", batch.endLSN)
    object.addTime("time", batch.time)
    object.add("kind", "unreadable")
    object.add("file", file)
    object.add("offset", offset)
    object.add("records", batch.recordCount)
    return object.closed
  }

  static func record(_ record: JournalRecord, lsn: UInt64, _ core: StoreCore) -> String {
    var object = JSONObject()
    object.add("lsn", lsn)
    object.addTime("time", record.time)
    object.add("kind", record.kind == .adjustedTogether ? "adjusted_together" : "\(record.kind)")
    switch record.kind {
    case .held, .extended, .replaced:
      object.addReservation(record, core)
      object.addTime("expires", record.expiresAt)
    case .confirmed:
      object.addReservation(record, core)
      object.add("reacquired", record.isTakenAgain ? "yes" : "no")
      if record.keepsCommitted { object.add("kept_committed", "yes") }
    case .released: object.addReservation(record, core)
    case .expired:
      object.addReservation(record, core)
      object.addTime("expired", record.fellDueAt)
    case .refused: object.addRefusal(record, core)
    case .adjusted, .removed: object.addAdjustment(record, core)
    case .adjustedTogether: object.addChanges(record, core)
    case .imported:
      let rows = record.importedRows
      object.add("first_row", rows.done &- rows.here)
      object.add("next_row", rows.done)
      object.addChanges(record, core)
    case .clock: break
    }
    if record.kind == .held { object.addChoice(record) }
    if let revision = record.revision { object.add("revision", revision) }
    if record.reference.count > 0 { object.add("reference", record.reference) }
    if record.limits.count > 0 { object.addLimits(record) }
    if record.lineCount > 0 { object.addLines(record, core) }
    switch record.kind {
    case .held, .replaced, .refused, .adjusted, .adjustedTogether, .removed:
      object.add("key", record.key)
      object.add("caller", record.caller)
      object.add("fingerprint", String(record.fingerprint, radix: 16))
    case .confirmed, .released, .expired, .extended, .clock:
      if record.caller.count > 0 { object.add("caller", record.caller) }
    case .imported:
      object.add("import", record.key)
      object.add("caller", record.caller)
    }
    return object.closed
  }

  private mutating func addReservation(_ record: JournalRecord, _ core: StoreCore) {
    let id = record.reservationID(core)
    var digits: [UInt8] = Array(repeating: 0, count: ReservationID.textLength)
    var span = digits.mutableSpan
    id.write(to: &span)
    add("reservation", String(decoding: digits, as: UTF8.self))
  }

  /// Of a hold that is not simply what was asked for.
  private mutating func addChoice(_ record: JournalRecord) {
    guard let choice = record.choice.flatMap({ HoldChoice(rawValue: $0) }) else { return }
    if choice.alternative > 0 { add("alternative", Int64(choice.alternative)) }
    if choice.tellsLines { add("minimum", "yes") }
  }

  private mutating func addRefusal(_ record: JournalRecord, _ core: StoreCore) {
    add("method", record.refusedMethod.map { "\($0)" } ?? "unknown")
    switch record.refusal {
    case .insufficientStock(let item, let requested, let available):
      add("refusal", "insufficient_stock")
      addItem(item.ordinal, core)
      add("requested", requested)
      add("available", available)
      if let tried = record.choice { add("alternatives", Int64(tried)) }
      if record.shortageCount > 0 { addShortages(record, core) }
    case .notOnSale(let item, let window):
      add("refusal", "not_on_sale")
      addItem(item.ordinal, core)
      addSale(window)
      if record.closedSaleCount > 1 { addClosedSales(record, core) }
    case .itemNotEmpty(let item, let onHand, let held, let committed):
      add("refusal", "item_not_empty")
      addItem(item.ordinal, core)
      add("on_hand", onHand)
      add("held", held)
      add("committed", committed)
    case .itemsNotFound(_, let places):
      add("refusal", "item_not_found")
      add("unknown_items", places.nonzeroBitCount)
      add("sku", record.name.sku)
      add("location", record.name.location)
    case .lineNotFound(let line):
      add("refusal", "item_not_found")
      add("line", line)
      add("sku", record.name.sku)
      add("location", record.name.location)
    case .onHandLimit(let change):
      add("refusal", "on_hand_limit")
      if record.refusedMethod == .adjustTogether { add("change", change) }
    case .insufficientCommitted(let item, let requested, let committed):
      add("refusal", "insufficient_committed")
      addItem(item.ordinal, core)
      add("requested", requested)
      add("committed", committed)
    case .limitExceeded(let item, let requested, let used):
      add("refusal", "limit_exceeded")
      addItem(item.ordinal, core)
      add("requested", requested)
      add("used", used)
    default: add("refusal", "unknown")
    }
  }

  private mutating func addLimits(_ record: JournalRecord) {
    var limits: [String] = []
    var reader = LimitReader(record.limits)
    while let limit = reader.next() {
      var object = JSONObject()
      object.add("subject", limit.subject)
      object.add("max_units", limit.maxUnits)
      limits.append(object.closed)
    }
    begin("limits")
    text += "[" + limits.joined(separator: ",") + "]"
  }

  /// The items that lack units besides the first.
  private mutating func addShortages(_ record: JournalRecord, _ core: StoreCore) {
    let shortages = (0..<record.shortageCount).map { index in
      let shortage = record.shortage(index)
      var object = JSONObject()
      object.addItem(shortage.item.ordinal, core)
      object.add("requested", shortage.requested)
      object.add("available", shortage.available)
      return object.closed
    }
    begin("also_lacking")
    text += "[" + shortages.joined(separator: ",") + "]"
  }

  /// The items that are not on sale besides the first.
  private mutating func addClosedSales(_ record: JournalRecord, _ core: StoreCore) {
    let sales = (1..<record.closedSaleCount).map { index in
      let sale = record.closedSale(index)
      var object = JSONObject()
      object.addItem(sale.item.ordinal, core)
      object.addSale(sale.window)
      return object.closed
    }
    begin("also_not_on_sale")
    text += "[" + sales.joined(separator: ",") + "]"
  }

  private mutating func addSale(_ window: SaleWindow) {
    if let from = window.from { add("sellable_from", CalendarTime(from).description) }
    if let until = window.until { add("sellable_until", CalendarTime(until).description) }
    if window.isFrozen { add("frozen", "yes") }
  }

  private mutating func addAdjustment(_ record: JournalRecord, _ core: StoreCore) {
    let level = record.level
    addItem(level.item.ordinal, core)
    addChange(
      record.change, safetyStock: record.safetyStockAsked, record.check, record.allowsShortage)
    add(level)
    if record.reference.count > 0 { add("reference", record.reference) }
    add("reason", record.reason)
  }

  private mutating func addChanges(_ record: JournalRecord, _ core: StoreCore) {
    var changes: [String] = []
    record.forEachChange { change in
      var object = JSONObject()
      object.addItem(change.level.item.ordinal, core)
      object.addChange(
        change.change, safetyStock: change.safetyStockAsked, change.check, change.allowsShortage)
      object.add(change.level)
      changes.append(object.closed)
    }
    begin("changes")
    text += "[" + changes.joined(separator: ",") + "]"
    if record.kind != .imported { add("reason", record.reason) }
  }

  private mutating func addChange(
    _ change: AdjustCommand.Change?, safetyStock: Int64?, _ check: AdjustCommand.Check,
    _ allowsShortage: Bool
  ) {
    switch change {
    case .delta(let units): add("delta", units)
    case .setOnHand(let units): add("set_on_hand", units)
    case .ship(let units): add("ship", units)
    case .uncommit(let units): add("uncommit", units)
    case .none?, nil: break
    }
    if let units = safetyStock { add("set_safety_stock", units) }
    switch check {
    case .version(let version): add("expected_version", version)
    case .onHand(let onHand): add("expected_on_hand", onHand)
    case .none: break
    }
    if allowsShortage { add("allow_shortage", "yes") }
  }

  private mutating func add(_ level: StockLevel) {
    add("version", level.version)
    add("on_hand", level.onHand)
    add("held", level.held)
    if level.committed != 0 { add("committed", level.committed) }
    add("safety_stock", level.safetyStock)
  }

  private mutating func addLines(_ record: JournalRecord, _ core: StoreCore) {
    let lines = (0..<record.lineCount).map { index in
      let line = record.line(index)
      var object = JSONObject()
      object.addItem(line.ordinal, core)
      object.add("quantity", line.quantity)
      // Of what a Replace keeps, the item has seen nothing.
      if record.kind != .refused, line.version > 0 {
        object.add("version", line.version)
        object.add("on_hand", line.onHand)
        object.add("held", line.held)
        if line.committed != 0 { object.add("committed", line.committed) }
      }
      return object.closed
    }
    begin("lines")
    text += "[" + lines.joined(separator: ",") + "]"
  }

  /// The item's name; its number where nobody knows the name.
  private mutating func addItem(_ ordinal: UInt32, _ core: StoreCore) {
    guard ordinal < core.items.count, core.items.name(ordinal).sku.count > 0 else {
      return add("item", ordinal)
    }
    let name = core.items.name(ordinal)
    add("sku", name.sku)
    add("location", name.location)
  }

  // MARK: Members

  private mutating func begin(_ name: String) {
    if text.utf8.count > 1 { text += "," }
    text += "\"\(name)\":"
  }

  private mutating func add(_ name: String, _ value: some FixedWidthInteger) {
    begin(name)
    text += String(value)
  }

  private mutating func add(_ name: String, _ value: String) {
    begin(name)
    text += Self.quoted(value)
  }

  private mutating func addTime(_ name: String, _ nanoseconds: Int64) {
    add(name, CalendarTime(nanoseconds).description)
  }

  private mutating func add(_ name: String, _ value: BorrowedBytes) {
    // The record's bytes stay as long as its line is made.
    unsafe add(name, Self.string(unsafe value.pointer))
  }

  /// The text where it is UTF-8; else its bytes, `\xHH` for those that are not printable ASCII.
  static func string(_ bytes: UnsafeRawBufferPointer) -> String {
    if let text = unsafe String(validating: bytes, as: UTF8.self) { return text }
    var text = ""
    for index in bytes.indices {
      let byte = unsafe bytes[index]
      if (0x20..<0x7f).contains(byte) {
        text.unicodeScalars.append(Unicode.Scalar(byte))
      } else {
        text += "\\x" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
      }
    }
    return text
  }

  static func quoted(_ value: String) -> String {
    var quoted = "\""
    for scalar in value.unicodeScalars {
      switch scalar {
      case "\"": quoted += "\\\""
      case "\\": quoted += "\\\\"
      case "\0"..<" ", "\u{7f}":
        let digits = String(scalar.value, radix: 16)
        quoted += "\\u" + String(repeating: "0", count: 4 - digits.utf8.count) + digits
      default: quoted.unicodeScalars.append(scalar)
      }
    }
    return quoted + "\""
  }
}

/// A time as RFC 3339 writes it, in UTC with nanoseconds.
package struct CalendarTime: CustomStringConvertible {
  private let instant: SaleWindow.Instant

  /// - Parameter nanoseconds: since the Unix epoch.
  package init(_ nanoseconds: Int64) { instant = SaleWindow.Instant(time: nanoseconds) }

  package init(_ instant: SaleWindow.Instant) { self.instant = instant }

  package var description: String {
    let secondsPerDay: Int64 = 86_400
    // Rounded down, also before 1970.
    let seconds = (instant.seconds % secondsPerDay + secondsPerDay) % secondsPerDay
    let day = instant.seconds / secondsPerDay - (instant.seconds % secondsPerDay < 0 ? 1 : 0)
    let (year, month, date) = Self.date(day)
    return Self.digits(year, 4) + "-" + Self.digits(month, 2) + "-" + Self.digits(date, 2) + "T"
      + Self.digits(seconds / 3600, 2) + ":" + Self.digits(seconds / 60 % 60, 2) + ":"
      + Self.digits(seconds % 60, 2) + "." + Self.digits(instant.nanoseconds, 9) + "Z"
  }

  /// The Gregorian date of a day counted from 1970-01-01. Years begin in March here, so that the leap
  /// day is the last, and lengths of months follow a formula (Hinnant, days_from_civil). From the year 1 on.
  private static func date(_ day: Int64) -> (year: Int64, month: Int64, date: Int64) {
    let daysPerEra: Int64 = 146_097
    let sinceMarch0 = day + 719_468
    let era = sinceMarch0 / daysPerEra
    let dayOfEra = sinceMarch0 % daysPerEra
    let yearOfEra =
      (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let monthFromMarch = (5 * dayOfYear + 2) / 153
    let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
    return (
      yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month,
      dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
    )
  }

  private static func digits(_ number: Int64, _ count: Int) -> String {
    let digits = String(number)
    return String(repeating: "0", count: max(0, count - digits.utf8.count)) + digits
  }
}
