// What the log still knows of an item or a reservation.
import Log
import Posix
import Simulation
import StockStore
import Synchronization
import Testing

@testable import ChangeFeed

@Suite struct HistoryTests {
  private func limits(bytes: Int = 1 << 30, entries: Int = 100) -> HistoryLimits {
    HistoryLimits(bytesMax: bytes, nanosecondsMax: 60 * second, entriesMax: entries)
  }

  private func search(_ it: WatchedStore, _ limits: HistoryLimits? = nil) -> HistorySearch {
    it.log.drain()
    return HistorySearch(store: it.store, log: it.log, limits: limits ?? self.limits())
  }

  private func adjust(_ it: WatchedStore, _ sku: String, _ onHand: Int64) {
    it.adjust(sku, .setOnHand(onHand), key: "\(sku)-\(onHand)")
  }

  private func kinds(_ history: History) -> [String] { history.entries.map { "\($0.kind)" } }

  @Test("A reservation's decisions are found from its creation on, and no other's")
  func reservation() throws {
    let it = try WatchedStore()
    adjust(it, "a", 10)
    let other = WatchedStore.id(it.reserve([("a", 1)], key: "other"))
    let id = WatchedStore.id(it.reserve([("a", 2)], key: "key"))
    it.turn {
      _ = it.session.extend(id, ttlNanoseconds: 900 * second)
      _ = it.session.confirm(other)
      _ = it.session.confirm(id)
    }
    let reading = try #require(StoreReader(it.store).reservation(id))
    let history = try search(it).history(
      of: .reservation(id, createdAt: reading.createdAt), lastLSN: reading.lsn)
    #expect(kinds(history) == ["held", "extended", "confirmed"])
    #expect(history.end == .complete)
    #expect(history.entries.allSatisfy { $0.reservation == id })
    let held = try #require(history.entries.first)
    #expect(held.lines.map(\.quantity) == [2] && held.lines.first?.sku == Array("a".utf8))
    #expect(held.lines.first?.after?.held == 3 && held.key == Array("key".utf8))
    #expect(held.expiresAt != nil)
  }

  @Test("An item's adjustments, holds and refusals are found, and no other's")
  func item() throws {
    let it = try WatchedStore()
    adjust(it, "a", 2)
    adjust(it, "b", 2)
    it.reserve([("b", 1)], key: "1")
    it.reserve([("a", 2)], key: "2")
    it.reserve([("a", 1)], key: "3")
    let history = try search(it).history(of: .item(ItemHandle(ordinal: 0)))
    #expect(kinds(history) == ["adjusted", "held", "refused"])
    #expect(history.end == .complete)
    #expect(history.entries.last?.note == "insufficient stock: 1 asked for, 0 available")
    #expect(history.entries.last?.lines.first?.after == nil)
    #expect(history.entries.first?.lines.first?.after?.onHand == 2)
  }

  @Test("The newest are kept, and it is said that there were more")
  func entries() throws {
    let it = try WatchedStore()
    for number in 0..<40 { adjust(it, "a", Int64(number)) }
    let history = try search(it, limits(entries: 7)).history(of: .item(ItemHandle(ordinal: 0)))
    #expect(history.entries.map { $0.lines.first?.after?.onHand } == (33..<40).map { Int64($0) })
    #expect(history.end == .entries)
  }

  @Test("Where the log was given up, it is said that it does not go back further")
  func trimmed() throws {
    let it = try WatchedStore(historyBytes: 1 << 16)
    for number in 0..<2000 { adjust(it, "a", Int64(number)) }
    let history = try search(it).history(of: .item(ItemHandle(ordinal: 0)))
    #expect(history.end == .entries)
    let none = try search(it).history(of: .item(ItemHandle(ordinal: 5)))
    #expect(none.entries.isEmpty && none.end == .trimmed && none.bytesRead > 0)
    #expect(none.searchedBackTo != nil)
  }

  @Test(
    "What is given up while the search begins does not hide what is newer",
    arguments: [(1, 1), (7, 1), (8, 0)])
  func givenUpMeanwhile(times: Int, found: Int) throws {
    let it = try WatchedStore()
    adjust(it, "a", 2)
    it.log.drain()
    let log = FleetingLog(it.log, times: times)
    let history = try HistorySearch(store: it.store, log: log, limits: limits()).history(
      of: .item(ItemHandle(ordinal: 0)))
    #expect(history.entries.count == found && history.end == (found > 0 ? .complete : .trimmed))
  }

  @Test("Of an empty log there is no history, and that is all")
  func empty() throws {
    let it = try WatchedStore()
    let history = try search(it).history(of: .item(ItemHandle(ordinal: 0)))
    #expect(history == History())
  }
}

/// A log whose oldest records are given up, some times, before anybody reads them.
private final class FleetingLog: ReadableLog {
  private final class Gone: LogCursor {
    func read(
      bytesMax: Int, _ body: (LogBatch, UnsafeRawBufferPointer) -> Void
    ) throws(LogCursorError) {
      throw .trimmed(oldest: 1)
    }
  }

  private let log: any ReadableLog
  private let left: Atomic<Int>

  init(_ log: any ReadableLog, times: Int) {
    self.log = log
    left = Atomic(times)
  }

  var endLSN: UInt64 { log.endLSN }

  func endPoint() throws(LogCursorError) -> LogPoint { try log.endPoint() }

  func locate(_ point: LogPoint) throws(LogCursorError) -> LogPoint { try log.locate(point) }

  func cursor(from point: LogPoint) throws(LogCursorError) -> any LogCursor {
    try log.cursor(from: point)
  }

  func oldestLSN() throws(LogCursorError) -> UInt64 { try log.oldestLSN() }

  func cursorFromOldest() throws(LogCursorError) -> any LogCursor { try log.cursorFromOldest() }

  func cursorFromSegment(before lsn: UInt64) throws(LogCursorError) -> any LogCursor {
    if left.subtract(1, ordering: .relaxed).oldValue > 0 { return Gone() }
    return try log.cursorFromSegment(before: lsn)
  }
}
