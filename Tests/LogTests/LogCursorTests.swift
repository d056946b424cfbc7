// Reading a directory's log behind its writer.
import Bytes
import LogFixtures
import Posix
import Synchronization
import Testing

@testable import Log

@Suite("A cursor in a directory's log")
struct LogCursorTests {
  private static let segmentBytes = 16384

  private final class TickingClock: Posix.Clock {
    private let time = Atomic<Int64>(1000)

    func now() -> Timestamp {
      Timestamp(nanoseconds: time.wrappingAdd(1, ordering: .relaxed).newValue)
    }
  }

  /// A log in memory that goes from segment to segment by itself.
  private final class Written {
    let storage = MemoryStorage()
    let pool: SegmentPool
    let log: DirectoryLog
    private var next: UInt8 = 1

    init(historyBytes: Int = 0, clock: any Posix.Clock = TickingClock()) throws {
      var options = JournalOptions(
        durability: .fsync, segmentBytes: segmentBytes, ringBytes: 16384, groupBytesMax: 4096,
        spareSegments: 2, checkpointSegments: 2)
      options.historyBytes = historyBytes
      let identity = LogIdentity(
        storeID: TestJournal.storeID, key: JournalKey(secret: TestJournal.secret),
        segmentBytes: segmentBytes)
      pool = try SegmentPool(
        storage: storage, storeID: identity.storeID, segmentBytes: segmentBytes, lastSequence: 0,
        options: options)
      while try pool.prepareNext() {}
      let first = try #require(pool.takeNext())
      log = try DirectoryLog(
        storage: storage, identity: identity, shape: RecordShape(bytesMax: 512, uncountedKind: 8),
        options: options, clock: clock, pool: pool,
        position: JournalPosition(
          sequence: 1, offset: SegmentHeader.blockBytes, lsn: 0, run: 1, counted: 0),
        file: first.file, statistics: JournalCounters())
    }

    /// Appends a batch of so many bytes, all of them the batch's number or `byte`.
    func append(_ count: Int = 1024, byte: UInt8? = nil) throws {
      while log.batchBytesMax < count {
        _ = try pool.prepareNext()
        #expect(try log.makeRoom())
      }
      let bytes = [UInt8](repeating: byte ?? next, count: count)
      next &+= 1
      _ = try unsafe bytes.span.withUnsafeBytes { (bytes) throws(JournalError) in
        let nothing = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        let group = unsafe RecordGroup(
          first: bytes, second: nothing, recordCount: 1, countedCount: 1)
        return try log.append(group, at: log.end, epoch: 1)
      }
    }

    /// The first byte of each batch that a cursor gives.
    func bytes(_ cursor: any LogCursor, bytesMax: Int = .max) throws(LogCursorError) -> [UInt8] {
      var found: [UInt8] = []
      try unsafe cursor.read(bytesMax: bytesMax) { _, records in unsafe found.append(records[0]) }
      return found
    }
  }

  @Test("It gives every batch once, across segments, and goes on as more are written")
  func follows() throws {
    let it = try Written()
    try it.append()
    let cursor = try it.log.cursorFromOldest()
    #expect(try it.bytes(cursor) == [1])
    #expect(try it.bytes(cursor) == [])
    for _ in 2...30 { try it.append() }
    #expect(it.log.position.sequence > 2)
    #expect(try it.bytes(cursor, bytesMax: 2048) == [2, 3])
    #expect(try it.bytes(cursor) == Array(4...30))
    try it.append(4096)
    #expect(try it.bytes(cursor) == [31])
  }

  @Test("A point is found again, whether a batch ends there or not")
  func locates() throws {
    let it = try Written()
    for _ in 1...30 { try it.append() }
    var batches: [LogBatch] = []
    try unsafe it.log.cursorFromOldest().read(bytesMax: .max) { batch, _ in batches.append(batch) }
    for (index, batch) in batches.enumerated() {
      for lsn in [batch.end.lsn, batch.lsn + 8, batch.lsn + 1016] {
        let point = batch.point(behind: lsn)
        let next = lsn == batch.end.lsn ? index + 2 : index + 1
        for known in [point, LogPoint(lsn: lsn, mark: point.mark)] {
          #expect(try it.bytes(it.log.cursor(from: known)).first ?? 31 == UInt8(next))
        }
      }
    }
    let end = try it.log.endPoint()
    #expect(end.lsn == batches[29].end.lsn && end.mark == batches[29].end.mark)
  }

  @Test("A point of another history is none of this one")
  func otherHistories() throws {
    let clock = TickingClock()
    let (one, other) = (try Written(clock: clock), try Written(clock: clock))
    for it in [one, other] { for _ in 1...5 { try it.append() } }
    let point = try one.log.endPoint()
    // The same records at the same place, written at another time.
    #expect(throws: LogCursorError.otherHistory) {
      _ = try other.log.locate(LogPoint(lsn: point.lsn, mark: point.mark))
    }
    try one.append()
    let later = try one.log.endPoint()
    #expect(throws: LogCursorError.otherHistory) {
      _ = try other.log.locate(LogPoint(lsn: later.lsn, mark: later.mark))
    }
  }

  @Test("What was used again is told to be gone, with where the log begins", arguments: [0, 2, 5])
  func trimmed(history: Int) throws {
    let it = try Written(historyBytes: history * Self.segmentBytes)
    try it.append()
    let first = try it.log.endPoint()
    let cursor = try it.log.cursorFromOldest()
    #expect(try it.bytes(cursor) == [1])
    while it.log.position.sequence < 12 {
      try it.append()
      try it.pool.retire(before: it.log.position.sequence)
    }
    let oldest = try it.log.oldestLSN()
    #expect(oldest > 0)
    let kept = try it.bytes(it.log.cursorFromOldest())
    #expect(kept.count >= max(1, history * 10))
    #expect(throws: LogCursorError.trimmed(oldest: oldest)) {
      _ = try it.log.locate(LogPoint(lsn: first.lsn, mark: first.mark))
    }
    #expect(throws: LogCursorError.trimmed(oldest: oldest)) { _ = try it.bytes(cursor) }
  }

  @Test("Who had read all of a segment that is used again goes on with the next")
  func segmentReadToItsEnd() throws {
    let it = try Written()
    let cursor = try it.log.cursorFromOldest()
    var batches: [LogBatch] = []
    while it.log.batchBytesMax >= 1024 {
      try it.append()
      try unsafe cursor.read(bytesMax: .max) { batch, _ in batches.append(batch) }
    }
    let last = try #require(batches.last)
    #expect(it.log.position.sequence == 1 && last.place != nil)
    try it.append()
    try it.pool.retire(before: 2)
    while try it.pool.prepareNext() {}
    #expect(try it.log.oldestLSN() == last.end.lsn)
    let next = UInt8(batches.count + 1)
    // It stands before the end of the segment, or before the last batch that is there.
    #expect(try it.bytes(cursor) == [next])
    #expect(try it.bytes(it.log.cursor(from: last.end)) == [next])
    // Where nobody has been yet, nothing tells that it is this log's; and what was not read is gone.
    #expect(throws: LogCursorError.trimmed(oldest: last.end.lsn)) {
      _ = try it.log.locate(LogPoint(lsn: last.end.lsn, mark: last.end.mark))
    }
    #expect(throws: LogCursorError.trimmed(oldest: last.end.lsn)) {
      _ = try it.bytes(it.log.cursor(from: last.point(behind: last.end.lsn - 8)))
    }
  }

  @Test("On a full disk the history is given up")
  func historyIsGivenUp() throws {
    let it = try Written(historyBytes: 100 * Self.segmentBytes)
    while it.log.position.sequence < 6 {
      try it.append()
      try it.pool.retire(before: it.log.position.sequence)
    }
    #expect(try it.log.oldestLSN() == 0)
    let bytesBefore = it.pool.bytesOnDisk
    try it.pool.retireHistory()
    while it.log.position.sequence < 9 { try it.append() }
    let oldest = try it.log.oldestLSN()
    #expect(it.pool.bytesOnDisk <= bytesBefore && oldest > 0)
  }

  @Test("A batch that was harmed is damage, not the end")
  func damage() throws {
    let it = try Written()
    for _ in 1...3 { try it.append() }
    let file = try it.storage.open(FileNames.segment(1))
    let byte: [UInt8] = [0xff]
    try unsafe byte.span.withUnsafeBytes { (bytes) throws(Errno) in
      try unsafe file.write(bytes, at: SegmentHeader.blockBytes + 1024 + 48 + 100)
    }
    #expect {
      _ = try it.bytes(it.log.cursorFromOldest())
    } throws: { error in
      guard case .failed(.damaged(let damage))? = error as? LogCursorError else { return false }
      return damage.lsn == 1024
    }
  }
}
