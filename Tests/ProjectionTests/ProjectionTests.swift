// What the server says, and what of it goes into one transaction.
import Bytes
import Client
import Foundation
import Metrics
import Posix
import PostgresLog
import Testing

@testable import Projection

/// Written as a server writes it.
private func message(_ body: (ProtoWriter) -> Void) -> [UInt8] {
  let writer = ProtoWriter()
  defer { writer.destroy() }
  body(writer)
  return writer.withBytes { bytes in (0..<bytes.count).map { bytes[$0] } }
}

private func text(_ writer: ProtoWriter, _ number: Int, _ text: String) {
  writer.nested(number) { writer.text(text) }
}

private func level(
  _ version: UInt64, _ onHand: Int64 = 10, sku: String = "a", sale: SaleWindow? = nil
) -> StockLevel {
  var level = StockLevel()
  level.item.sku = sku
  level.version = version
  level.onHand = onHand
  level.sale = sale
  return level
}

/// - Parameter microseconds: since the year 2000.
private func instant(_ microseconds: Int64) -> Instant {
  Instant(
    seconds: 946_684_800 + microseconds / 1_000_000, nanos: Int32(microseconds % 1_000_000 * 1000))!
}

private func event(
  _ lsn: UInt64, _ kind: EventKind, id: String = "", lines: [ReservationLine] = [],
  expires: Int64? = nil,
  stock: [StockLevel] = [], caller: String = ""
) -> Event {
  var event = Event()
  event.lsn = lsn
  event.kind = kind
  event.decidedAt = instant(Int64(lsn) * 10)
  event.reservationID = id
  event.lines = lines
  event.expiresAt = expires.map(instant)
  event.stock = stock
  event.caller = caller
  return event
}

@Suite struct MessageTests {
  @Test func aResponseIsRead() throws {
    let bytes = message { writer in
      writer.nested(1) {
        writer.field(1, UInt64(7))
        writer.field(2, UInt64(1))
        writer.field(3, seconds: 946_684_801_000_002_999)
        text(writer, 4, "id")
        text(writer, 5, "cart")
        writer.nested(6) {
          text(writer, 1, "a")
          text(writer, 2, "here")
          writer.field(3, Int64(4))
        }
        writer.nested(8) {
          text(writer, 1, "a")
          writer.field(3, Int64(10))
          writer.field(5, Int64(-2))
          writer.field(7, UInt64(3))
          writer.nested(9) { writer.field(3, true) }
        }
        text(writer, 9, "shop")
        // What a newer server may say.
        writer.field(99, UInt64(1))
      }
      text(writer, 2, "token")
    }
    let read = unsafe bytes.withUnsafeBytes { unsafe WatchMessage($0) }
    let response = try #require(read)
    #expect(response.token == "token")
    let event = try #require(response.events.first)
    #expect(event.lsn == 7 && event.kind == .held && event.reservationID == "id")
    #expect(event.decidedMoment == Moment(microseconds: 1_000_002))
    #expect(event.lines == [ReservationLine(ItemName(sku: "a", location: "here"), 4)])
    #expect(event.stock[0].safetyStock == -2 && event.stock[0].sale?.isFrozen == true)
    #expect(event.reference == "cart" && event.caller == "shop" && event.expiresAt == nil)
  }

  @Test(
    arguments: [
      [], [0x0a], [0x0a, 5, 1], [0x00], [0x08, 0x80], [0x0b], [0x0a, 2, 0x08, 0x80],
      // Whole, but without a token.
      [0x0a, 0],
    ] as [[UInt8]])
  func whatIsNoResponseIsNone(bytes: [UInt8]) {
    #expect(unsafe bytes.withUnsafeBytes { unsafe WatchMessage($0) } == nil)
  }

  @Test func aTokenSaysItsLSN() {
    let number = "00000000000004d2"
    let zeros = String(repeating: "0", count: 16)
    #expect(WatchMessage.lsn(ofToken: "1" + zeros + number + zeros + zeros) == 1234)
    for other in ["", "1", "2" + zeros + number + zeros + zeros, String(repeating: "x", count: 65)]
    {
      #expect(WatchMessage.lsn(ofToken: other) == nil)
    }
  }

  @Test func linesAreJSONForAnySKU() throws {
    let lines = [
      ReservationLine(ItemName(sku: #"a"b\c"#, location: "\u{1}"), 1),
      ReservationLine(ItemName(sku: "x"), 1 << 40),
    ]
    struct Entry: Decodable, Equatable {
      let sku: String
      let location: String
      let quantity: Int64
    }
    let read = try JSONDecoder().decode([Entry].self, from: Data(ReservationLine.json(lines).utf8))
    #expect(
      read == [
        Entry(sku: #"a"b\c"#, location: "\u{1}", quantity: 1),
        Entry(sku: "x", location: "", quantity: 1 << 40),
      ])
    #expect(ReservationLine.json([]) == "[]")
  }

  @Test(arguments: [
    ("a", true), ("holdfast view", true), ("", false), ("pg_x", false), ("a\u{0}", false),
    (String(repeating: "x", count: 64), false), ("information_schema", false),
  ])
  func schemaNames(name: String, isOne: Bool) {
    #expect(ProjectionOptions.isSchema(name) == isOne)
  }

  @Test func aSchemaIsQuoted() {
    #expect(ProjectionSchema(#"a"b"#).quoted == #""a""b""#)
  }
}

@Suite struct ArrayColumnTests {
  private func bytes(_ column: ArrayColumn) -> [UInt8] {
    guard case .binary(_, let bytes) = column.value else { return [] }
    return bytes
  }

  @Test func arraysAreOfTheBinaryFormat() {
    #expect(bytes(ArrayColumn(.int8)) == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20])
    var column = ArrayColumn(.text)
    column.append("ab")
    column.append(nil as String?)
    column.append(ifAny: "")
    column.append("x\u{0}")
    #expect(
      bytes(column) == [
        0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 25, 0, 0, 0, 4, 0, 0, 0, 1,
        0, 0, 0, 2, 97, 98, 255, 255, 255, 255, 255, 255, 255, 255,
        // U+2400 for what no text of PostgreSQL may have.
        0, 0, 0, 4, 120, 0xe2, 0x90, 0x80,
      ])
  }
}

@Suite struct BatchTests {
  @Test func ofManyEventsOfAnItemTheLastCounts() {
    var batch = Batch()
    for lsn in 1...5 as ClosedRange<UInt64> {
      batch.add(event(lsn, .adjusted, stock: [level(lsn, Int64(lsn))]))
    }
    #expect(batch.events.count == 5 && batch.items.count == 1)
    #expect(batch.items[ItemName(sku: "a")]?.level == level(5, 5))
    #expect(batch.items[ItemName(sku: "a")]?.lsn == 5)
    // One that comes late changes nothing.
    batch.add(event(6, .adjusted, stock: [level(4, 99)]))
    #expect(batch.items[ItemName(sku: "a")]?.level == level(5, 5))
  }

  @Test func aSaleStaysUntilItIsSetAgain() {
    var frozen = SaleWindow()
    frozen.isFrozen = true
    var batch = Batch()
    batch.add(event(1, .adjusted, stock: [level(1, sale: frozen)]))
    batch.add(event(2, .adjusted, stock: [level(2)]))
    #expect(batch.items[ItemName(sku: "a")]?.sale == frozen)
    batch.add(event(3, .adjusted, stock: [level(3, sale: SaleWindow())]))
    #expect(batch.items[ItemName(sku: "a")]?.sale == SaleWindow())
  }

  @Test func anItemIsRemovedAndMadeAnew() {
    var batch = Batch()
    batch.add(event(1, .adjusted, stock: [level(8, sale: SaleWindow())]))
    batch.add(event(2, .removed, stock: [level(9, 0)]))
    #expect(
      batch.items[ItemName(sku: "a")] == ItemChange(level: nil, removedVersion: 9, lsn: 2))
    // From 1 again, and removed once more: rows of both lives go.
    batch.add(event(3, .adjusted, stock: [level(1, 3)]))
    batch.add(event(4, .removed, stock: [level(2, 0)]))
    batch.add(event(5, .adjusted, stock: [level(1, 4)]))
    #expect(
      batch.items[ItemName(sku: "a")]
        == ItemChange(level: level(1, 4), removedVersion: 9, lsn: 5))
  }

  @Test func aReservationIsWhatItHasComeTo() {
    let lines = [ReservationLine(ItemName(sku: "a"), 2)]
    let fewer = [ReservationLine(ItemName(sku: "a"), 1)]
    var batch = Batch()
    batch.add(event(1, .held, id: "r", lines: lines, expires: 100, caller: "shop"))
    batch.add(event(2, .extended, id: "r", expires: 200, caller: "other"))
    var expected = ReservationChange(
      state: "HELD", caller: "shop", lines: lines, createdAt: Moment(microseconds: 10),
      expiresAt: Moment(microseconds: 200), lsn: 2)
    #expect(batch.reservations["r"] == expected)
    batch.add(event(3, .replaced, id: "r", lines: fewer, expires: 300))
    batch.add(event(4, .expired, id: "r", lines: fewer, expires: 300))
    expected.state = "EXPIRED"
    expected.lines = fewer
    expected.expiresAt = Moment(microseconds: 300)
    expected.endedAt = Moment(microseconds: 300)
    expected.lsn = 4
    #expect(batch.reservations["r"] == expected)
    // EXPIRED is not the last word.
    batch.add(event(5, .confirmed, id: "r", lines: fewer))
    expected.state = "CONFIRMED"
    expected.endedAt = Moment(microseconds: 50)
    expected.lsn = 5
    #expect(batch.reservations["r"] == expected)
  }

  @Test func anEventOfAnUnknownKindIsKept() {
    var batch = Batch()
    let kind = EventKind(rawValue: 42)
    batch.add(event(1, .held, id: "r"))
    batch.add(event(2, kind, id: "r", stock: [level(3)]))
    #expect(batch.unknownKinds == [kind] && kind.name == "KIND_42")
    #expect(batch.events.count == 2 && batch.items[ItemName(sku: "a")]?.level == level(3))
    #expect(batch.reservations["r"]?.lsn == 1)
  }
}
