import Log
import StockStore
import Testing

@testable import ChangeFeed

/// What a store without a directory keeps for readers.
@Suite struct MemoryLogTests {
  @Test("The newest records stay, whole ones, and what is older is told to be gone")
  func newest() throws {
    let it = try WatchedStore(historyBytes: 1 << 16)
    for number in 0..<3000 {
      it.adjust("a", .delta(1), key: "k\(number)")
      if number % 7 == 0 { it.log.drain() }
    }
    let end = it.log.drained()
    let oldest = it.log.oldestLSN()
    #expect(end - oldest <= 1 << 16 && end - oldest > 1 << 16 - 4096)
    let versions = try it.versions(behind: oldest)
    #expect(versions == Array((3001 - versions.count)...3000))
    #expect(throws: LogCursorError.trimmed(oldest: oldest)) {
      _ = try it.log.cursor(from: LogPoint(lsn: oldest - 8, mark: 0))
    }
    #expect(throws: LogCursorError.otherHistory) {
      _ = try it.log.cursor(from: LogPoint(lsn: end + 8, mark: 0))
    }
  }

  @Test("A reader that is overtaken is told so")
  func overtaken() throws {
    let it = try WatchedStore(historyBytes: 1 << 16)
    it.adjust("a", .delta(1), key: "first")
    it.log.drain()
    let cursor = it.log.cursorFromOldest()
    for number in 0..<3000 {
      it.adjust("a", .delta(1), key: "k\(number)")
      if number % 7 == 0 { it.log.drain() }
    }
    it.log.drain()
    let oldest = it.log.oldestLSN()
    #expect(throws: LogCursorError.trimmed(oldest: oldest)) {
      try unsafe cursor.read(bytesMax: .max) { _, _ in }
    }
  }

  @Test("Nothing that is answered waits for it")
  func answers() throws {
    let it = try WatchedStore()
    let lsn = it.adjust("a", .delta(1), key: "k")
    #expect(lsn > 0 && it.session.durableLSN >= lsn && it.log.endLSN == 0)
  }
}
