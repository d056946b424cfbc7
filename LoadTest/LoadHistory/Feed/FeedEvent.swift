// The messages of EventService.Watch as the load generator writes and reads them
// (proto/holdfast/v1/event.proto).

/// What happened: holdfast.v1.EventKind.
package enum FeedKind: UInt8, CaseIterable, BitwiseCopyable, Sendable {
  case held = 1
  case replaced, extended
  case confirmed, released, expired, adjusted, refused

  package var name: String {
    switch self {
    case .held: "HELD"
    case .replaced: "REPLACED"
    case .extended: "EXTENDED"
    case .confirmed: "CONFIRMED"
    case .released: "RELEASED"
    case .expired: "EXPIRED"
    case .adjusted: "ADJUSTED"
    case .refused: "REFUSED"
    }
  }
}

/// Some units of one item in an event.
package struct FeedLine: Equatable, BitwiseCopyable, Sendable {
  package var sku: UInt32
  package var units: Int64

  package init(sku: UInt32, units: Int64) {
    self.sku = sku
    self.units = units
  }
}

/// One item's balances after an event.
package struct FeedLevel: Equatable, BitwiseCopyable, Sendable {
  package var sku: UInt32
  package var onHand: Int64 = 0
  package var held: Int64 = 0
  package var safetyStock: Int64 = 0
  package var available: Int64 = 0
  package var version: UInt64 = 0
  package var committed: Int64 = 0

  package init(sku: UInt32) { self.sku = sku }
}

/// One decision as the feed tells it. What is of other runs and other clients is left out of it, and counted.
package struct FeedEvent: Equatable, Sendable {
  package var lsn: UInt64 = 0
  /// nil where it is none that the API knows.
  package var kind: FeedKind?
  /// By the server's clock, in nanoseconds since the Unix epoch; 0 where it is absent.
  package var decidedNanoseconds: Int64 = 0
  package var expiresNanoseconds: Int64 = 0
  /// nil where it is absent, or of another length than any.
  package var id: ReservationID?
  package var lines: [FeedLine] = []
  package var stock: [FeedLevel] = []
  package var key = FeedKey.none
  package var reason = RefusalReason.unnamed
  /// Lines and balances of items that are not the run's.
  package var othersItems = 0

  package init() {}

  /// Whether it names an item or a key of the run.
  var isOfRun: Bool { !lines.isEmpty || !stock.isEmpty || key.isOfRun }

  /// Reads the message in `range` in place of what was read before. False if malformed.
  package mutating func read(
    _ bytes: Span<UInt8>, _ range: Range<Int>, _ names: SKUNames, _ keys: KeyNames
  ) -> Bool {
    clear()
    var isWhole = true
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      switch field.number {
      case 1: lsn = field.varint
      case 2: kind = UInt8(exactly: field.varint).flatMap { FeedKind(rawValue: $0) }
      case 3: isWhole = readTimestamp(bytes, field.content, &decidedNanoseconds) && isWhole
      case 4: id = ReservationID(bytes.extracting(field.content))
      case 6: isWhole = readLine(bytes, field.content, names) && isWhole
      case 7: isWhole = readTimestamp(bytes, field.content, &expiresNanoseconds) && isWhole
      case 8: isWhole = readLevel(bytes, field.content, names) && isWhole
      case 10: key = keys.read(bytes.extracting(field.content))
      case 11: reason = RefusalReason(bytes.extracting(field.content))
      default: break
      }
    }
    return isWhole && !reader.isMalformed
  }

  private mutating func clear() {
    // The arrays keep their memory from one event to the next.
    lines.removeAll(keepingCapacity: true)
    stock.removeAll(keepingCapacity: true)
    (lsn, kind, id, key, reason) = (0, nil, nil, .none, .unnamed)
    (decidedNanoseconds, expiresNanoseconds, othersItems) = (0, 0, 0)
  }

  private func readTimestamp(
    _ bytes: Span<UInt8>, _ range: Range<Int>, _ time: inout Int64
  ) -> Bool {
    guard let read = ReserveAnswer.timestamp(bytes, range) else { return false }
    time = read
    return true
  }

  /// ReservationLine: sku (1), location (2), quantity (3).
  private mutating func readLine(
    _ bytes: Span<UInt8>, _ range: Range<Int>, _ names: SKUNames
  ) -> Bool {
    var (name, location) = (0..<0, 0..<0)
    var units: Int64 = 0
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      switch field.number {
      case 1: name = field.content
      case 2: location = field.content
      case 3: units = Int64(truncatingIfNeeded: field.varint)
      default: break
      }
    }
    if location.isEmpty, let sku = names.index(of: bytes.extracting(name)) {
      lines.append(FeedLine(sku: sku, units: units))
    } else {
      othersItems += 1
    }
    return !reader.isMalformed
  }

  /// StockLevel: sku (1), location (2), on_hand (3), held (4), safety_stock (5), available (6), version (7),
  /// committed (8).
  private mutating func readLevel(
    _ bytes: Span<UInt8>, _ range: Range<Int>, _ names: SKUNames
  ) -> Bool {
    var (name, location) = (0..<0, 0..<0)
    var level = FeedLevel(sku: 0)
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      switch field.number {
      case 1: name = field.content
      case 2: location = field.content
      case 3: level.onHand = Int64(truncatingIfNeeded: field.varint)
      case 4: level.held = Int64(truncatingIfNeeded: field.varint)
      case 5: level.safetyStock = Int64(truncatingIfNeeded: field.varint)
      case 6: level.available = Int64(truncatingIfNeeded: field.varint)
      case 7: level.version = field.varint
      case 8: level.committed = Int64(truncatingIfNeeded: field.varint)
      default: break
      }
    }
    if location.isEmpty, let sku = names.index(of: bytes.extracting(name)) {
      level.sku = sku
      stock.append(level)
    } else {
      othersItems += 1
    }
    return !reader.isMalformed
  }
}

// MARK: Messages

/// Reads WatchResponse: events (1), resume_token (2). Calls `each` with where every event stands.
/// - Returns: the token, empty where there is none; nil if malformed.
package func readWatchResponse(
  _ bytes: Span<UInt8>, each: (Range<Int>) -> Void
) -> [UInt8]? {
  var token: [UInt8] = []
  var reader = MessageReader(0..<bytes.count)
  while let field = reader.next(in: bytes) {
    if field.number == 1, field.isBytes { each(field.content) }
    if field.number == 2 { token = field.content.map { bytes[$0] } }
  }
  return reader.isMalformed ? nil : token
}

/// Where a watch begins.
package enum FeedStart: Equatable, Sendable {
  case now
  case oldest
  case behind(token: [UInt8])
}

extension MessageBuffer {
  /// WatchRequest: resume_token (1) or oldest (2), kinds (3), all of them, heartbeat (6).
  package mutating func writeWatch(_ start: FeedStart, heartbeatSeconds: UInt64) {
    removeAll()
    switch start {
    case .now: break
    case .oldest: appendField(2, varint: 1)
    case .behind(let token): appendField(1, bytes: token)
    }
    // Packed, as proto3 has it.
    appendField(3, bytes: FeedKind.allCases.map(\.rawValue))
    let heartbeat = beginField(6)
    appendField(1, varint: heartbeatSeconds)
    endField(heartbeat)
  }

  /// AdjustStockRequest of a decision that changes nothing but the version: key (1), sku (2), any_version (7),
  /// set_safety_stock (8), reason (9).
  /// - Parameter safetyStock: what the item has.
  package mutating func writeMark(key: String, _ names: SKUNames, safetyStock: Int64) {
    removeAll()
    appendField(1, bytes: Array(key.utf8))
    let sku = beginField(2)
    appendSKU(0, names)
    endField(sku)
    appendField(7, varint: 1)
    appendField(8, varint: UInt64(bitPattern: safetyStock))
    appendField(9, bytes: Array("holdfast-load watch".utf8))
  }
}

// MARK: Keys

/// What an event's idempotency key says of the call.
package enum FeedKey: Equatable, Sendable {
  /// It has none, or it is not shown.
  case none
  case operation(worker: Int, operation: Int)
  /// Put the stock of this SKU there, before the run.
  case stock(sku: Int)
  /// Marks the end of a watch.
  case mark(number: UInt64)
  /// Of another run, or of another client.
  case other

  var isOfRun: Bool { self != .none && self != .other }
}

extension KeyNames {
  private static let stockPrefix = "stock-"
  private static let markPrefix = "watched-"

  /// Of the call that puts the stock of `sku` there.
  package static func stock(_ run: RunID, sku: Int) -> String { "\(stockPrefix)\(run.text)-\(sku)" }

  /// Of a decision behind which nothing of the run comes.
  package static func mark(_ run: RunID, number: UInt64) -> String {
    "\(markPrefix)\(run.text)-\(number)"
  }

  /// What the key of a call stands for.
  func read(_ text: Span<UInt8>) -> FeedKey {
    if text.count == 0 { return .none }
    if text.count == 22, Self.hexadecimal(text, 0..<10) == run.bits,
      let worker = Self.hexadecimal(text, 10..<12), let operation = Self.hexadecimal(text, 12..<22)
    {
      return .operation(worker: Int(worker), operation: Int(operation))
    }
    if let number = number(text, behind: Self.stockPrefix) { return .stock(sku: Int(number)) }
    if let number = number(text, behind: Self.markPrefix) { return .mark(number: number) }
    return .other
  }

  /// The decimal digits behind `prefix`, the run, and a dash.
  private func number(_ text: Span<UInt8>, behind prefix: String) -> UInt64? {
    let start = prefix.utf8.count + 11
    guard text.count > start, text.count < start + 19,
      Self.hexadecimal(text, start - 11..<start - 1) == run.bits,
      zip(prefix.utf8, 0...).allSatisfy({ text[$1] == $0 }), text[start - 1] == UInt8(ascii: "-")
    else { return nil }
    var number: UInt64 = 0
    for index in start..<text.count {
      guard (0x30...0x39).contains(text[index]) else { return nil }
      number = number * 10 + UInt64(text[index] - 0x30)
    }
    return number
  }

  private static func hexadecimal(_ text: Span<UInt8>, _ range: Range<Int>) -> UInt64? {
    var value: UInt64 = 0
    for index in range {
      switch text[index] {
      case 0x30...0x39: value = value << 4 | UInt64(text[index] - 0x30)
      case 0x61...0x66: value = value << 4 | UInt64(text[index] - 0x57)
      default: return nil
      }
    }
    return value
  }
}
