internal import ChangeFeed
// An event of the change feed as a consumer reads it: the bytes of holdfast.v1.Event, by hand.
internal import StockStore

struct SeenEvent {
  struct Level {
    var sku = ""
    var onHand: Int64 = 0
    var held: Int64 = 0
    var safetyStock: Int64 = 0
    var available: Int64 = 0
    var version: UInt64 = 0
    var committed: Int64 = 0
    /// Where the event has set it.
    var sale: TestSale?
  }

  var lsn: UInt64 = 0
  var kind: EventKind?
  var id: ReservationID?
  var reference = ""
  var lines: [String: Int64] = [:]
  var expiresAt: Int64 = 0
  var stock: [Level] = []
  var caller = ""
  var key = ""
  var reason = ""

  init(_ bytes: Span<UInt8>) {
    Self.forEachField(bytes) { number, value, content in
      switch number {
      case 1: lsn = value
      case 2: kind = EventKind(rawValue: UInt8(truncatingIfNeeded: value))
      case 4: id = ReservationID(text: content)
      case 5: reference = Self.text(content)
      case 6: readLine(content)
      case 7: expiresAt = Self.time(content)
      case 8: readLevel(content)
      case 9: caller = Self.text(content)
      case 10: key = Self.text(content)
      case 11: reason = Self.text(content)
      default: break
      }
    }
  }

  private mutating func readLine(_ bytes: Span<UInt8>) {
    var sku = ""
    var quantity: Int64 = 0
    Self.forEachField(bytes) { number, value, content in
      if number == 1 { sku = Self.text(content) }
      if number == 3 { quantity = Int64(bitPattern: value) }
    }
    lines[sku, default: 0] += quantity
  }

  private mutating func readLevel(_ bytes: Span<UInt8>) {
    var level = Level()
    Self.forEachField(bytes) { number, value, content in
      switch number {
      case 1: level.sku = Self.text(content)
      case 3: level.onHand = Int64(bitPattern: value)
      case 4: level.held = Int64(bitPattern: value)
      case 5: level.safetyStock = Int64(bitPattern: value)
      case 6: level.available = Int64(bitPattern: value)
      case 7: level.version = value
      case 8: level.committed = Int64(bitPattern: value)
      case 9: level.sale = Self.sale(content)
      default: break
      }
    }
    stock.append(level)
  }

  private static func sale(_ bytes: Span<UInt8>) -> TestSale {
    var sale = TestSale()
    forEachField(bytes) { number, value, content in
      if number == 1 { sale.from = time(content) }
      if number == 2 { sale.until = time(content) }
      if number == 3 { sale.isFrozen = value == 1 }
    }
    return sale
  }

  /// google.protobuf.Timestamp.
  private static func time(_ bytes: Span<UInt8>) -> Int64 {
    var time: Int64 = 0
    forEachField(bytes) { number, value, _ in
      time += Int64(bitPattern: value) * (number == 1 ? 1_000_000_000 : 1)
    }
    return time
  }

  private static func text(_ bytes: Span<UInt8>) -> String {
    String(decoding: bytes.indices.map { bytes[$0] }, as: UTF8.self)
  }

  /// Calls `body` with each field: its number, and its value or its bytes.
  private static func forEachField(
    _ bytes: Span<UInt8>, _ body: (UInt64, UInt64, Span<UInt8>) -> Void
  ) {
    var at = 0
    func varint() -> UInt64 {
      var (value, shift): (UInt64, UInt64) = (0, 0)
      while at < bytes.count {
        let byte = bytes[at]
        at += 1
        value |= UInt64(byte & 0x7f) << shift
        shift += 7
        if byte < 0x80 { break }
      }
      return value
    }
    while at < bytes.count {
      let tag = varint()
      let value = varint()
      if tag & 7 == 0 {
        body(tag >> 3, value, Span())
      } else {
        let end = min(bytes.count, at + Int(value))
        body(tag >> 3, 0, bytes.extracting(at..<end))
        at = end
      }
    }
  }
}
