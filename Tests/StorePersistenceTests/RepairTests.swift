import Bytes
import LogFixtures
import Posix
import Testing

@testable import Log
@testable import StockStore
@testable import StorePersistence

@Suite("Repair")
struct RepairTests {
  /// Three segments, and an empty checkpoint to begin from. Batches hold clock records.
  private static func journal(checkpointEnd: UInt64 = 0) throws -> TestJournal {
    var journal = TestJournal()
    let clocks = [UInt8]((0..<10).map { _ in record(.clock) }.joined())
    for _ in 0..<10 { journal.append(clocks, run: 1, recordCount: 10) }
    journal.endSegment(run: 1)
    for _ in 0..<10 { journal.append(clocks, run: 2, recordCount: 10) }
    journal.endSegment(run: 2)
    for _ in 0..<10 { journal.append(clocks, run: 3, recordCount: 10) }
    journal.makeSegment(4)
    try journal.writeCheckpoint(end: checkpointEnd)
    return journal
  }

  private static func segments(_ journal: TestJournal) throws -> [UInt64] {
    try journal.storage.names().compactMap(FileNames.segmentSequence).sorted()
  }

  @Test("The journal ends at any batch that it is told to end at", arguments: 0...30)
  func everyBatch(count: Int) throws {
    var journal = try Self.journal()
    let lsn = UInt64(count) * 400
    let report = try Repair.truncate(storage: journal.storage, at: lsn)
    #expect(report.batches == 30 - count)
    #expect(report.bytes == 12_000 - lsn)
    let reading = journal.read()
    #expect(reading.isPrefix(of: journal, count))
    let end = try #require(reading.end)
    #expect(end.position.lsn == lsn)
    #expect(end.tornBytes == 0)
    // The cut is as early as can be: in the segment of the batch before.
    #expect(end.position.sequence == UInt64(max(0, count - 1) / 10 + 1))
    #expect(try Self.segments(journal) == Array(1...end.position.sequence))
    // Nothing behind the cut can come back, whatever run is next.
    if count < 30 {
      journal.cut(at: count)
      let again = try Repair.truncate(storage: journal.storage, at: lsn)
      #expect(again.batches == 0 && again.decisions == 0 && again.bytes == 0)
    }
    #expect(journal.read() == reading)
  }

  @Test("Decisions that are given up are counted, the time is none")
  func decisions() throws {
    var journal = TestJournal()
    let clock = Self.record(.clock)
    let expired = Self.record(.expired)
    journal.append(clock, run: 1, recordCount: 1)
    journal.append(expired + clock + expired, run: 1)
    journal.append(expired + expired + [UInt8](repeating: 0, count: 8), run: 1)
    try journal.writeCheckpoint(end: 0)
    let lsn = UInt64(clock.count)
    let report = try Repair.truncate(storage: journal.storage, at: lsn)
    #expect(report.batches == 2 && report.decisions == 4)
    #expect(report.bytes == journal.position.lsn - lsn)
  }

  /// A record without lines.
  private static func record(_ kind: RecordWriter.Kind) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: RecordWriter.headBytes)
    bytes[0] = UInt8(RecordWriter.headBytes)
    bytes[4] = kind.rawValue
    return bytes
  }

  @Test("What is damaged is given up, as its hint says", arguments: 0..<30)
  func damaged(batch index: Int) throws {
    let journal = try Self.journal()
    let batch = journal.batches[index]
    let file = try #require(journal.storage.file(FileNames.segment(batch.sequence)))
    file.flip(bit: 3, at: batch.offset + 60)
    let before = journal.read()
    if index == 29 {
      #expect(before.end?.position.lsn == batch.header.lsn)
      return
    }
    let damage = try #require(before.damage)
    let lsn = try #require(damage.lsn)
    let report = try Repair.truncate(storage: journal.storage, at: lsn)
    // The damaged one cannot be counted, those behind it can.
    #expect(report.batches == 29 - index)
    #expect(report.bytes == UInt64(30 - index) * 400)
    let after = journal.read()
    #expect(after.isPrefix(of: journal, index))
    #expect(after.end?.position.lsn == lsn)
  }

  @Test("Segments that are missing, harmed or too short", arguments: [1, 2, 3] as [UInt64], 0..<3)
  func segments(sequence: UInt64, harm: Int) throws {
    let journal = try Self.journal()
    let name = FileNames.segment(sequence)
    let file = try #require(journal.storage.file(name))
    switch harm {
    case 0: journal.storage.change { $0.files[name] = nil }
    case 1: file.flip(bit: 0, at: 20)
    default: file.bytes = Array(file.bytes.prefix(4096 + 448 * 3 + 100))
    }
    let damage = try #require(journal.read().damage)
    let lsn = try #require(damage.lsn)
    #expect(lsn == (sequence - 1) * 4000 + (harm == 2 ? 1200 : 0))
    _ = try Repair.truncate(storage: journal.storage, at: lsn)
    let reading = journal.read()
    #expect(reading.isPrefix(of: journal, Int(lsn / 400)))
    #expect(reading.end?.position.lsn == lsn)
    let last = try #require(try Self.segments(journal).last)
    #expect(last == max(1, harm == 2 ? sequence : sequence - 1))
    #expect(journal.storage.file(FileNames.segment(last))?.bytes.count == journal.segmentBytes)
  }

  @Test("Where it was interrupted it can be done again")
  func interrupted() throws {
    let calls: [MemoryStorage.Call] = [
      .open, .remove, .write, .sync, .syncDirectory, .names, .read,
    ]
    for call in calls {
      let journal = try Self.journal()
      journal.storage.change { $0.failures[call] = .inputOutput }
      #expect(throws: JournalError.self) {
        try Repair.truncate(storage: journal.storage, at: 2000)
      }
      _ = try Repair.truncate(storage: journal.storage, at: 2000)
      #expect(journal.read().isPrefix(of: journal, 5))
    }
  }

  @Test(
    "Places at which it cannot end", arguments: [1, 399, 401, 12_001, 12_400, .max] as [UInt64])
  func noBatch(lsn: UInt64) throws {
    let journal = try Self.journal()
    let before = journal.storage.copy()
    do {
      _ = try Repair.truncate(storage: journal.storage, at: lsn)
      Issue.record("cut at \(lsn)")
    } catch .unsuitable {
    }
    #expect(journal.read() == journal.read(before))
    #expect(try Self.segments(journal) == [1, 2, 3, 4])
  }

  @Test("What the checkpoint needs cannot be given up")
  func checkpoint() throws {
    let journal = try Self.journal(checkpointEnd: 4000)
    #expect(throws: JournalError.self) {
      try Repair.truncate(storage: journal.storage, at: 3600)
    }
    _ = try Repair.truncate(storage: journal.storage, at: 4000)
    #expect(journal.read(mustReach: 4000).isPrefix(of: journal, 10))
  }

  @Test("A directory without a store is not touched")
  func noStore() throws {
    #expect(throws: JournalError.self) { try Repair.truncate(storage: MemoryStorage(), at: 0) }
  }
}
