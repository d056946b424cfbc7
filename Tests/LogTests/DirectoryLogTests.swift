// The seam to where a log is kept, as a directory has it.
import Bytes
import LogFixtures
import Posix
import Testing

@testable import Log

@Suite("A log in a directory")
struct DirectoryLogTests {
  static let segmentBytes = 16384

  private final class FixedClock: Posix.Clock {
    func now() -> Timestamp { Timestamp(nanoseconds: 1000) }
  }

  /// An empty log in memory, with the pool that its segments come from.
  static func makeLog(
    durability: Durability = .fsync, replica: (any ReplicatedLog)? = nil
  ) throws -> (log: DirectoryLog, pool: SegmentPool, storage: MemoryStorage) {
    let options = JournalOptions(
      durability: durability, segmentBytes: segmentBytes, ringBytes: 16384, groupBytesMax: 4096,
      spareSegments: 2, checkpointSegments: 2)
    let storage = MemoryStorage()
    let identity = LogIdentity(
      storeID: TestJournal.storeID, key: JournalKey(secret: TestJournal.secret),
      segmentBytes: segmentBytes)
    let pool = try SegmentPool(
      storage: storage, storeID: identity.storeID, segmentBytes: segmentBytes, lastSequence: 0,
      options: options)
    while try pool.prepareNext() {}
    let first = try #require(pool.takeNext())
    let log = try DirectoryLog(
      storage: storage, identity: identity, shape: RecordShape(bytesMax: 512, uncountedKind: 8),
      options: options, clock: FixedClock(), pool: pool,
      position: JournalPosition(
        sequence: 1, offset: SegmentHeader.blockBytes, lsn: 0, run: 7, counted: 3),
      file: first.file, statistics: JournalCounters(), replica: replica)
    return (log, pool, storage)
  }

  static func append(
    _ records: [UInt8], to log: DirectoryLog, epoch: UInt32 = 7
  ) throws(JournalError) -> LogEnd {
    // In two pieces, as from a ring.
    let half = records.count / 16 * 8
    return try unsafe records.span.withUnsafeBytes { (bytes) throws(JournalError) in
      let group = unsafe RecordGroup(
        first: UnsafeRawBufferPointer(rebasing: bytes[..<half]),
        second: UnsafeRawBufferPointer(rebasing: bytes[half...]), recordCount: 2, countedCount: 1)
      return try log.append(group, at: log.end, epoch: epoch)
    }
  }

  private static func read(
    _ log: DirectoryLog, from lsn: UInt64, bytesMax: Int = .max
  ) throws -> (batches: [UInt64: [UInt8]], next: UInt64) {
    var batches: [UInt64: [UInt8]] = [:]
    let next = try unsafe log.read(from: lsn, bytesMax: bytesMax) { lsn, records in
      batches[lsn] = unsafe Array(records)
    }
    return (batches, next)
  }

  /// Fills some segments; what was appended, by its log sequence number.
  @discardableResult
  static func fill(_ log: DirectoryLog, _ pool: SegmentPool) throws -> [UInt64: [UInt8]] {
    var written: [UInt64: [UInt8]] = [:]
    for index in 0..<40 {
      let records = [UInt8](repeating: UInt8(index), count: 8 * (index % 50 + 20))
      while log.batchBytesMax < records.count {
        while try pool.prepareNext() {}
        #expect(try log.makeRoom())
      }
      let end = log.end
      written[end.lsn] = records
      let next = try append(records, to: log)
      #expect(next == LogEnd(lsn: end.lsn + UInt64(records.count), counted: end.counted + 1))
      #expect(log.end == next)
    }
    return written
  }

  @Test("What was appended is read, from any place on")
  func readBack() throws {
    let (log, pool, _) = try Self.makeLog()
    let written = try Self.fill(log, pool)
    #expect(log.position.sequence > 1)
    for lsn in stride(from: 0, through: log.end.lsn, by: 40) {
      let (batches, next) = try Self.read(log, from: lsn)
      #expect(next == log.end.lsn)
      // From the batch on that holds it.
      #expect(batches == written.filter { $0.key + UInt64($0.value.count) > lsn })
    }
    #expect(try Self.read(log, from: log.end.lsn + 8).batches.isEmpty)
  }

  @Test("It is read in pieces")
  func pieces() throws {
    let (log, pool, _) = try Self.makeLog()
    let written = try Self.fill(log, pool)
    var read: [UInt64: [UInt8]] = [:]
    var next: UInt64 = 0
    while next < log.end.lsn {
      let piece = try Self.read(log, from: next, bytesMax: 1000)
      #expect(piece.next > next && piece.batches.values.map(\.count).reduce(0, +) < 1000 + 560)
      read.merge(piece.batches) { _, _ in
        Issue.record("twice")
        return []
      }
      next = piece.next
    }
    #expect(read == written)
  }

  @Test("What is gone is told, with where the log begins")
  func trimmed() throws {
    let (log, pool, _) = try Self.makeLog()
    let written = try Self.fill(log, pool)
    try pool.retire(before: log.position.sequence)
    while try pool.prepareNext() {}
    // What was retired may have been made ready again, under another sequence.
    let oldest = try #require(
      written.keys.sorted().first { (try? Self.read(log, from: $0)) != nil })
    #expect(oldest > 0)
    #expect(throws: JournalError.trimmed(oldest: oldest)) { try Self.read(log, from: 0) }
    #expect(try Self.read(log, from: oldest).batches == written.filter { $0.key >= oldest })
  }

  @Test("Harm to what was durable is damage")
  func damaged() throws {
    let (log, pool, storage) = try Self.makeLog()
    _ = try Self.fill(log, pool)
    let file = try #require(storage.file(FileNames.segment(1)))
    file.flip(bit: 2, at: SegmentHeader.blockBytes + 1000)
    #expect {
      try Self.read(log, from: 0)
    } throws: {
      if case .damaged? = $0 as? JournalError { true } else { false }
    }
  }

  @Test("Nothing is appended under another epoch", arguments: [UInt32(0), 6, 8])
  func fenced(epoch: UInt32) throws {
    let (log, _, storage) = try Self.makeLog()
    let before = storage.file(FileNames.segment(1))?.bytes
    #expect(throws: JournalError.fenced(by: 7)) {
      try Self.append([UInt8](repeating: 1, count: 80), to: log, epoch: epoch)
    }
    #expect(log.end == LogEnd(lsn: 0, counted: 3))
    #expect(storage.file(FileNames.segment(1))?.bytes == before)
  }

  @Test("What fails to be written for lack of room can be appended again")
  func lackOfRoom() throws {
    let (log, _, storage) = try Self.makeLog()
    storage.change { $0.failures[.write] = .noSpace }
    let records = [UInt8](repeating: 5, count: 160)
    #expect(
      throws: JournalError.failed(operation: "write", file: FileNames.segment(1), .noSpace)
    ) { try Self.append(records, to: log) }
    #expect(log.end.lsn == 0)
    #expect(try Self.append(records, to: log).lsn == 160)
    #expect(try Self.read(log, from: 0).batches == [0: records])
  }

  @Test("Room is what can be appended for certain")
  func room() throws {
    let (log, pool, _) = try Self.makeLog()
    let admissible = try #require(log.admissibleBytes(batchCount: 10))
    var appended = 0
    while appended < admissible {
      if log.batchBytesMax < 480, try !log.makeRoom() { break }
      _ = try Self.append([UInt8](repeating: 9, count: 480), to: log)
      appended += 480
    }
    #expect(appended + 480 > admissible && pool.readyCount == 0)
  }
}
