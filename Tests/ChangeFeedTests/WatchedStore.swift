import Bytes
import Log
import Posix
import Simulation
import StockStore
import Testing

@testable import ChangeFeed

let second: Int64 = 1_000_000_000

/// A store in memory, and what a watcher would see of it.
final class WatchedStore {
  let clock = SimulatedClock(1000 * second)
  let store: StockStore
  let session: StoreSession
  let log: MemoryLog

  init(historyBytes: Int = 1 << 20, keeps: Bool = true) throws {
    let limits = StoreLimits(
      linesPerReservation: 64, quantityMax: 1 << 40, ttlNanosecondsMin: second,
      ttlNanosecondsDefault: 600 * second, holdNanosecondsMax: 24 * 3600 * second,
      retentionNanoseconds: 24 * 3600 * second, itemsMax: 1000, reservationsMax: 10_000)
    store = try StockStore(
      limits: limits, clock: clock, ringBytes: 1 << 20, historyBytes: historyBytes,
      secret: (1, 2))
    session = store.makeSession()
    log = try #require(store.memoryLog)
    if keeps { store.keepDecisions() }
  }

  /// Everything behind `point`, as one block.
  func block(
    behind lsn: UInt64 = 0, _ filter: EventFilter = EventFilter(kinds: EventKind.allCases)
  ) throws -> EventBlock? {
    log.drain()
    let point = LogPoint(lsn: lsn, mark: 0)
    let encoder = EventEncoder(store: store)
    encoder.interest = Interest(filter)
    return try encoder.block(behind: point, log.cursor(from: point), bytesMax: .max)
  }

  /// The events behind `lsn` that a filter takes, as text.
  func events(
    behind lsn: UInt64 = 0, _ filter: EventFilter = EventFilter(kinds: EventKind.allCases),
    isOpen: Bool = false
  ) throws -> [String] {
    try block(behind: lsn, filter).map { Self.texts(of: $0, filter, isOpen: isOpen) } ?? []
  }

  private static func texts(
    of block: EventBlock, from first: Int = 0, _ filter: EventFilter, isOpen: Bool
  ) -> [String] {
    var texts: [String] = []
    var next = block.next(from: first, filter)
    while let index = next {
      block.withFields(index, isOpen: isOpen) { fields in
        texts.append(Self.text(fields.indices.map { fields[$0] }))
      }
      next = block.next(from: index + 1, filter)
    }
    return texts
  }

  /// The versions of the one item that all events behind `lsn` are about.
  func versions(behind lsn: UInt64) throws -> [Int] {
    try block(behind: lsn).map { Self.versions(of: $0, behind: lsn) } ?? []
  }

  static func versions(of block: EventBlock, behind lsn: UInt64) -> [Int] {
    let filter = EventFilter(kinds: EventKind.allCases)
    let first = block.firstIndex(behind: lsn)
    return texts(of: block, from: first, filter, isOpen: true).map { event in
      Int(event.split(separator: " 7=")[1].prefix { $0.isNumber }) ?? 0
    }
  }

  /// Fields as `number=value`; what has a message or a text in it as `number{…}` or `number"…"`. Leaves out
  /// number and time of the event.
  private static func text(_ bytes: [UInt8], isEvent: Bool = true) -> String {
    var parts: [String] = []
    var rest = bytes[...]
    func varint() -> UInt64 {
      var (value, shift): (UInt64, UInt64) = (0, 0)
      while let byte = rest.popFirst() {
        value |= UInt64(byte & 0x7f) << shift
        shift += 7
        if byte < 0x80 { break }
      }
      return value
    }
    while !rest.isEmpty {
      let tag = varint()
      let number = tag >> 3
      let isShown = !isEvent || (number != 1 && number != 3)
      if tag & 7 == 0 {
        let value = Int64(bitPattern: varint())
        if isShown { parts.append("\(number)=\(value)") }
      } else {
        let count = Int(varint())
        let content = Array(rest.prefix(count))
        rest = rest.dropFirst(count)
        let isMessage = isEvent && (number == 6 || number == 7 || number == 8)
        if isMessage {
          parts.append("\(number){\(text(content, isEvent: false))}")
        } else if isShown {
          parts.append("\(number)\"\(String(decoding: content, as: UTF8.self))\"")
        }
      }
    }
    return parts.joined(separator: " ")
  }

  // MARK: Commands

  func turn(_ body: () -> Void) {
    _ = session.beginTurn()
    body()
    session.endTurn()
  }

  @discardableResult
  func adjust(
    _ sku: String, _ change: AdjustCommand.Change, safetyStock: Int64? = nil, key: String
  ) -> UInt64 {
    var lsn: UInt64 = 0
    turn {
      withTexts(["till", key, sku, "because"]) { texts in
        lsn =
          session.adjust(
            AdjustCommand(
              scope: IdempotencyScope(caller: texts[0], key: texts[1]),
              item: ItemName(sku: texts[2], location: .empty), change: change,
              safetyStock: safetyStock, check: .none, reason: texts[3])
          ).lsn
      }
    }
    return lsn
  }
}

extension WatchedStore {
  /// The text of the new hold's id; empty where it was refused.
  @discardableResult
  func reserve(_ lines: [(sku: String, quantity: Int64)], ttl: Int64 = 600, key: String) -> String {
    var id = ""
    turn {
      withTexts(["till", key] + lines.map(\.sku)) { texts in
        session.clearLines()
        for (index, line) in lines.enumerated() {
          let item = ItemName(sku: texts[2 + index], location: .empty)
          _ = session.appendLine(LineRequest(item: item, quantity: line.quantity))
        }
        let scope = IdempotencyScope(caller: texts[0], key: texts[1])
        let decision = session.reserve(scope, ttlNanoseconds: ttl * second)
        if case .accepted(let hold) = decision.result { id = Self.text(of: hold.id) }
      }
    }
    return id
  }

  static func text(of id: ReservationID) -> String {
    var text = [UInt8](repeating: 0, count: ReservationID.textLength)
    var span = text.mutableSpan
    id.write(to: &span)
    return String(decoding: text, as: UTF8.self)
  }

  static func id(_ text: String) -> ReservationID {
    let bytes = Array(text.utf8)
    return ReservationID(text: bytes.span) ?? ReservationID(slot: 0, generation: 0, tag: 0)
  }
}

/// Calls `body` with the bytes of each text.
func withTexts<R>(_ texts: [String], _ body: ([BorrowedBytes]) -> R) -> R {
  let all = texts.map { Array($0.utf8) }
  let joined = all.flatMap { $0 }
  return unsafe joined.withUnsafeBufferPointer { bytes in
    var borrowed: [BorrowedBytes] = []
    var offset = 0
    for text in all {
      // The array stays for the length of the call.
      borrowed.append(
        unsafe BorrowedBytes(bytes.baseAddress.map { unsafe $0 + offset }, count: text.count))
      offset += text.count
    }
    return body(borrowed)
  }
}
