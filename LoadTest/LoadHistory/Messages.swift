// The messages of the API as the load generator writes and reads them (proto/holdfast/v1). Field
// numbers stand in the proto files; nothing else of the API is needed here.

/// Some units of one SKU in a cart.
package struct CartLine: Equatable, Sendable, BitwiseCopyable {
  package let sku: UInt32
  package let quantity: UInt32
  /// So many of them will do; 0: none but all.
  package let minimum: UInt32

  package init(sku: UInt32, quantity: UInt32, minimum: UInt32 = 0) {
    self.sku = sku
    self.quantity = quantity
    self.minimum = minimum
  }

  /// The fewest units that will do.
  package var least: UInt32 { minimum == 0 ? quantity : minimum }
}

/// What an accepted Reserve says is held.
package struct Grant: Equatable, Sendable {
  /// Which alternative, from 1; 0: its lines.
  package var alternative = 0
  /// Each item once, where a line is content with less; empty: as asked. `Ledger.none` is an item of others.
  package var lines: [CartLine] = []

  package init(alternative: Int = 0, lines: [CartLine] = []) {
    self.alternative = alternative
    self.lines = lines
  }
}

// MARK: Requests

/// What an AdjustStock does that is no restock.
enum StockCall {
  case ship(units: Int64)
  case uncommit(units: Int64)
  /// set_on_hand (5) where it is still expected_on_hand (12).
  case count(onHand: Int64, expected: Int64)
}

extension MessageBuffer {
  mutating func appendSKU(_ index: UInt32, _ names: SKUNames) {
    append(names.prefix)
    appendDecimal(index, digits: SKUNames.digits)
  }

  /// ReserveRequest: a key (1), then lines (2) and ttl (3). Begin with the key, as AdjustStock does.
  mutating func writeReserveKey(_ keys: KeyNames, worker: Int, operation: Int) {
    removeAll()
    let key = beginField(1)
    keys.append(worker: worker, operation: operation, to: &self)
    endField(key)
  }

  /// ReservationLine as field `field`: of Reserve (2), of Replace (3), of Alternative (1).
  mutating func appendLine(_ line: CartLine, _ names: SKUNames, field: UInt8) {
    let start = beginField(field)
    let sku = beginField(1)
    appendSKU(line.sku, names)
    endField(sku)
    appendField(3, varint: UInt64(line.quantity))
    if line.minimum > 0 { appendField(4, varint: UInt64(line.minimum)) }
    endField(start)
  }

  /// Limit as field `field`, of Reserve (6), of an order (5): subject (1), max_units (2). The items are the run's own,
  /// and so is what a subject has of them.
  mutating func appendLimit(_ limit: SubjectLimit, field: UInt8) {
    let start = beginField(field)
    let subject = beginField(1)
    append(Array("customer:".utf8))
    appendDecimal(limit.subject, digits: SKUNames.digits)
    endField(subject)
    appendField(2, varint: UInt64(limit.maxUnits))
    endField(start)
  }

  /// ReserveRequest: reference (4), which of an order is its id.
  mutating func appendReference(_ keys: KeyNames, worker: Int, operation: Int) {
    let start = beginField(4)
    keys.append(worker: worker, operation: operation, to: &self)
    endField(start)
  }

  /// ReplaceRequest: behind the key (1), the reservation's id (2); then lines (3), expected_revision (4).
  mutating func appendReplaced(_ id: ReservationID) {
    let start = beginField(2)
    id.append(to: &self)
    endField(start)
  }

  /// google.protobuf.Duration as field `field`: of Reserve (3), of Extend (2).
  mutating func appendTimeToLive(nanoseconds: Int64, field: UInt8) {
    let start = beginField(field)
    appendField(1, varint: UInt64(nanoseconds / 1_000_000_000))
    let rest = nanoseconds % 1_000_000_000
    if rest > 0 { appendField(2, varint: UInt64(rest)) }
    endField(start)
  }

  /// ConfirmRequest, ReleaseRequest and the beginning of ExtendRequest alike: the reservation's id (1).
  mutating func writeEndRequest(_ id: ReservationID) {
    removeAll()
    let start = beginField(1)
    id.append(to: &self)
    endField(start)
  }

  /// GetStockRequest: sku (1).
  mutating func writeGetStock(_ sku: UInt32, _ names: SKUNames) {
    removeAll()
    let start = beginField(1)
    appendSKU(sku, names)
    endField(start)
  }

  /// AdjustStockRequest: key (1), sku (2), delta (4), any_version (7), reason (9).
  mutating func writeRestock(
    _ keys: KeyNames, worker: Int, operation: Int, line: CartLine, _ names: SKUNames
  ) {
    writeReserveKey(keys, worker: worker, operation: operation)
    let sku = beginField(2)
    appendSKU(line.sku, names)
    endField(sku)
    appendField(4, varint: UInt64(line.quantity))
    appendField(7, varint: 1)
    let reason = beginField(9)
    for byte in "restock".utf8 { append(byte) }
    endField(reason)
  }

  /// AdjustStockRequest: key (1), sku (2), then as `change` says, reason (9).
  mutating func writeChange(
    _ keys: KeyNames, worker: Int, operation: Int, sku: UInt32, _ names: SKUNames,
    _ change: StockCall
  ) {
    writeReserveKey(keys, worker: worker, operation: operation)
    let start = beginField(2)
    appendSKU(sku, names)
    endField(start)
    switch change {
    case .ship(let units):
      appendField(10, varint: UInt64(units))
      appendField(7, varint: 1)
    case .uncommit(let units):
      appendField(11, varint: UInt64(units))
      appendField(7, varint: 1)
    case .count(let counted, let expected):
      appendField(5, varint: UInt64(counted))
      appendField(12, varint: UInt64(expected))
    }
    appendField(9, bytes: Array("run".utf8))
  }

  /// AdjustStockRequest: key (1), sku (2), set_on_hand (5), any_version (7), set_safety_stock (8) unless it is 0,
  /// reason (9).
  package mutating func writeSetOnHand(
    key: String, sku: UInt32, _ names: SKUNames, units: Int64, safetyStock: Int64 = 0,
    reason: String
  ) {
    removeAll()
    appendField(1, bytes: Array(key.utf8))
    let start = beginField(2)
    appendSKU(sku, names)
    endField(start)
    appendField(5, varint: UInt64(units))
    appendField(7, varint: 1)
    if safetyStock != 0 { appendField(8, varint: UInt64(bitPattern: safetyStock)) }
    appendField(9, bytes: Array(reason.utf8))
  }

  /// BatchGetStockRequest: items (1), each a sku (1).
  package mutating func writeBatchGetStock(_ skus: Range<Int>, _ names: SKUNames) {
    removeAll()
    for index in skus {
      let item = beginField(1)
      let sku = beginField(1)
      appendSKU(UInt32(index), names)
      endField(sku)
      endField(item)
    }
  }
}

// MARK: Responses

/// What the generator reads from ReserveResponse: id (1), expires_at (2), replayed (3), alternative (4), lines (5).
struct ReserveAnswer {
  let id: ReservationID
  /// Nanoseconds since the Unix epoch by the server's clock.
  let expiresNanoseconds: Int64
  let isReplayed: Bool
  let grant: Grant

  init?(_ bytes: Span<UInt8>, _ names: SKUNames) {
    var id: ReservationID?
    var expires: Int64?
    var isReplayed = false
    var grant = Grant()
    var reader = MessageReader(0..<bytes.count)
    while let field = reader.next(in: bytes) {
      switch field.number {
      case 1: id = ReservationID(bytes.extracting(field.content))
      case 2: expires = ReserveAnswer.timestamp(bytes, field.content)
      case 3: isReplayed = field.varint != 0
      case 4: grant.alternative = Int(UInt8(clamping: field.varint))
      case 5 where field.isBytes:
        guard let line = ReserveAnswer.line(bytes, field.content, names), grant.lines.count < 64
        else { return nil }
        grant.lines.append(line)
      default: break
      }
    }
    guard let id, let expires, !reader.isMalformed else { return nil }
    self.id = id
    expiresNanoseconds = expires
    self.isReplayed = isReplayed
    self.grant = grant
  }

  /// OrderReserved says the same with other numbers: reservation_id (2), expires_at (3), alternative (4), lines (5).
  init?(order bytes: Span<UInt8>, _ names: SKUNames) {
    var id: ReservationID?
    var expires: Int64?
    var grant = Grant()
    var reader = MessageReader(0..<bytes.count)
    while let field = reader.next(in: bytes) {
      switch field.number {
      case 2: id = ReservationID(bytes.extracting(field.content))
      case 3: expires = ReserveAnswer.timestamp(bytes, field.content)
      case 4: grant.alternative = Int(UInt8(clamping: field.varint))
      case 5 where field.isBytes:
        guard let line = ReserveAnswer.line(bytes, field.content, names), grant.lines.count < 64
        else { return nil }
        grant.lines.append(line)
      default: break
      }
    }
    guard let id, let expires, !reader.isMalformed else { return nil }
    self.id = id
    expiresNanoseconds = expires
    isReplayed = false
    self.grant = grant
  }

  /// ReservationLine: sku (1), quantity (3).
  private static func line(
    _ bytes: Span<UInt8>, _ range: Range<Int>, _ names: SKUNames
  ) -> CartLine? {
    var name = 0..<0
    var units: UInt64 = 0
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      if field.number == 1 { name = field.content }
      if field.number == 3 { units = field.varint }
    }
    if reader.isMalformed { return nil }
    return CartLine(
      sku: names.index(of: bytes.extracting(name)) ?? Ledger.none,
      quantity: UInt32(clamping: units))
  }

  /// google.protobuf.Timestamp: seconds (1), nanos (2). nil outside the years that 64 bits can say.
  static func timestamp(_ bytes: Span<UInt8>, _ range: Range<Int>) -> Int64? {
    var seconds: Int64 = 0
    var nanoseconds: Int64 = 0
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      if field.number == 1 { seconds = Int64(truncatingIfNeeded: field.varint) }
      if field.number == 2 { nanoseconds = Int64(truncatingIfNeeded: field.varint) }
    }
    guard !reader.isMalformed, (0..<9_000_000_000).contains(seconds),
      (0..<1_000_000_000).contains(nanoseconds)
    else { return nil }
    return seconds * 1_000_000_000 + nanoseconds
  }
}

/// What the generator reads from ExtendResponse: reservation (1) with expires_at (5), replayed (2).
struct ExtendAnswer {
  /// Nanoseconds since the Unix epoch by the server's clock.
  let expiresNanoseconds: Int64
  let isReplayed: Bool

  init?(_ bytes: Span<UInt8>) {
    var expires: Int64?
    var isReplayed = false
    var reader = MessageReader(0..<bytes.count)
    while let field = reader.next(in: bytes) {
      if field.number == 2 { isReplayed = field.varint != 0 }
      guard field.number == 1, field.isBytes else { continue }
      var reservation = MessageReader(field.content)
      while let field = reservation.next(in: bytes) {
        if field.number == 5 { expires = ReserveAnswer.timestamp(bytes, field.content) }
      }
      if reservation.isMalformed { return nil }
    }
    guard let expires, !reader.isMalformed else { return nil }
    expiresNanoseconds = expires
    self.isReplayed = isReplayed
  }
}

/// ConfirmResponse, ReleaseResponse and AdjustStockResponse alike: replayed (2). nil if malformed.
package func readIsReplayed(_ bytes: Span<UInt8>) -> Bool? {
  var isReplayed = false
  var reader = MessageReader(0..<bytes.count)
  while let field = reader.next(in: bytes) {
    if field.number == 2 { isReplayed = field.varint != 0 }
  }
  return reader.isMalformed ? nil : isReplayed
}

/// The balances of one item as the server states them.
package struct StockLevel: Equatable, Sendable, BitwiseCopyable {
  package var onHand: Int64
  package var held: Int64
  package var committed: Int64

  package init(onHand: Int64, held: Int64, committed: Int64 = 0) {
    self.onHand = onHand
    self.held = held
    self.committed = committed
  }
}

/// BatchGetStockResponse: stock (1), each with sku (1), on_hand (3), held (4), committed (8). Calls `each` for the
/// SKUs of this run. False if malformed.
package func readStockLevels(
  _ bytes: Span<UInt8>, _ names: SKUNames, each: (Int, StockLevel) -> Void
) -> Bool {
  var reader = MessageReader(0..<bytes.count)
  while let item = reader.next(in: bytes) {
    guard item.number == 1, item.isBytes else { continue }
    guard let (name, level) = readStockLevel(bytes, item.content) else { return false }
    if let sku = names.index(of: bytes.extracting(name)) { each(Int(sku), level) }
  }
  return !reader.isMalformed
}

/// GetStockResponse: stock (1). nil if malformed, or empty.
func readStockLevel(_ bytes: Span<UInt8>) -> StockLevel? {
  var level: StockLevel?
  var reader = MessageReader(0..<bytes.count)
  while let item = reader.next(in: bytes) {
    guard item.number == 1, item.isBytes else { continue }
    level = readStockLevel(bytes, item.content)?.level
  }
  return reader.isMalformed ? nil : level
}

/// StockLevel: sku (1), on_hand (3), held (4), committed (8). Where its name stands, and what it says.
private func readStockLevel(
  _ bytes: Span<UInt8>, _ range: Range<Int>
) -> (name: Range<Int>, level: StockLevel)? {
  var name = 0..<0
  var level = StockLevel(onHand: 0, held: 0)
  var fields = MessageReader(range)
  while let field = fields.next(in: bytes) {
    switch field.number {
    case 1: name = field.content
    case 3: level.onHand = Int64(truncatingIfNeeded: field.varint)
    case 4: level.held = Int64(truncatingIfNeeded: field.varint)
    case 8: level.committed = Int64(truncatingIfNeeded: field.varint)
    default: break
    }
  }
  return fields.isMalformed ? nil : (name, level)
}
