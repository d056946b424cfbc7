// A directory as an owner's copy of a replicated log, and as somebody else's.
import LogFixtures
import Posix
import Synchronization
import Testing

@testable import Log

@Suite("A log in a directory that is a copy")
struct ReplicaTests {
  /// Batches in memory; the rest of a replicated log is not asked for.
  private final class BatchesInMemory: ReplicatedLog {
    struct Kept: Sendable {
      var lsn: UInt64
      var byteCount: Int
      var epoch: UInt32
      var sequence: UInt64
      var offset: Int
      var mark: UInt64
      var bytes: [UInt8]
    }

    let kept = Mutex<[Kept]>([])
    let failure = Mutex<JournalError?>(nil)

    func append(_ batch: PlacedBatch) throws(JournalError) {
      if let failure = failure.withLock({ $0 }) { throw failure }
      let bytes = unsafe Array(batch.bytes)
      kept.withLock {
        $0.append(
          Kept(
            lsn: batch.lsn, byteCount: batch.byteCount, epoch: batch.epoch,
            sequence: batch.sequence, offset: batch.offset, mark: batch.mark, bytes: bytes))
      }
    }

    private static let unasked = JournalError.unreachable("nobody asks for it here")
    func state() throws(JournalError) -> LogState { throw Self.unasked }
    func take(
      after seen: LogState, owner: String, address: String
    ) throws(JournalError) -> LogState? { nil }
    func beat(epoch: UInt32) throws(JournalError) { throw Self.unasked }
    func release(epoch: UInt32) throws(JournalError) { throw Self.unasked }
    func want() throws(JournalError) { throw Self.unasked }
    func ends(
      at lsn: UInt64, behind last: BatchName?, epoch: UInt32
    ) throws(JournalError) -> Bool { false }
    var leaseEnd: Int64 { .min }
    func read(
      from lsn: UInt64, behind last: BatchName?, bytesMax: Int,
      _ body: (PlacedBatch) throws(JournalError) -> Void
    ) throws(JournalError) -> UInt64 { throw Self.unasked }
    func begin(
      at endLSN: UInt64, epoch: UInt32, _ nextPart: () throws(JournalError) -> [UInt8]?
    ) throws(JournalError) { throw Self.unasked }
    func trim(before lsn: UInt64) throws(JournalError) { throw Self.unasked }
    func checkpoints() throws(JournalError) -> [KeptCheckpoint] { [] }
    func putCheckpoint(
      _ lsn: UInt64, _ nextPart: () throws(JournalError) -> [UInt8]?
    ) throws(JournalError) { throw Self.unasked }
    func getCheckpoint(
      _ checkpoint: KeptCheckpoint, _ body: (UnsafeRawBufferPointer) throws(JournalError) -> Void
    ) throws(JournalError) { throw Self.unasked }
    func removeCheckpoint(_ checkpoint: KeptCheckpoint) throws(JournalError) { throw Self.unasked }
    func close() {}
  }

  /// What an owner has appended: more than a segment holds.
  private static func owned() throws -> (BatchesInMemory, MemoryStorage) {
    let batches = BatchesInMemory()
    let (log, pool, storage) = try DirectoryLogTests.makeLog(durability: .quorum, replica: batches)
    try DirectoryLogTests.fill(log, pool)
    #expect(log.position.sequence > 1)
    return (batches, storage)
  }

  private static func copy(_ kept: BatchesInMemory.Kept, to log: DirectoryLog) throws -> Int {
    var records = 0
    try unsafe kept.bytes.withUnsafeBytes { bytes in
      let batch = unsafe PlacedBatch(
        lsn: kept.lsn, byteCount: kept.byteCount, epoch: kept.epoch, sequence: kept.sequence,
        offset: kept.offset, mark: kept.mark, bytes: bytes)
      try unsafe log.copy(batch) { _, payload in records = payload.count }
    }
    return records
  }

  @Test("A copy is the same to the byte")
  func sameBytes() throws {
    let (batches, theirs) = try Self.owned()
    let (log, pool, ours) = try DirectoryLogTests.makeLog(durability: .quorum)
    for kept in batches.kept.withLock({ $0 }) {
      while try pool.prepareNext() {}
      #expect(try Self.copy(kept, to: log) == kept.byteCount)
    }
    for sequence in 1...log.position.sequence {
      let name = FileNames.segment(sequence)
      let theirBytes = try #require(theirs.file(name)).bytes
      #expect(
        theirBytes.count == DirectoryLogTests.segmentBytes && theirBytes == ours.file(name)?.bytes,
        "\(name)")
    }
  }

  /// What a database may give instead of what was put there.
  private static let harms: [(name: String, harm: @Sendable (inout BatchesInMemory.Kept) -> Void)] =
    [
      ("another place in the log", { $0.lsn += 8 }), ("another length", { $0.byteCount += 8 }),
      ("a length below zero", { $0.byteCount = -8 }), ("another epoch", { $0.epoch += 1 }),
      ("an epoch before", { $0.epoch = 6 }), ("another segment", { $0.sequence = 9 }),
      ("no segment", { $0.sequence = 0 }), ("the last segment", { $0.sequence = .max }),
      ("another offset", { $0.offset += 8 }), ("an offset below zero", { $0.offset = -4096 }),
      ("an offset that is none", { $0.offset = .max }), ("another mark", { $0.mark += 1 }),
      ("nothing", { $0.bytes = [] }),
      ("half a header", { $0.bytes.removeLast($0.bytes.count - 20) }),
      ("less than it says", { $0.bytes.removeLast(8) }),
      ("more than it says", { $0.bytes += [UInt8](repeating: 0, count: 8) }),
      ("more than any group", { $0.bytes += [UInt8](repeating: 0, count: 1 << 20) }),
      ("a harmed header", { $0.bytes[17] ^= 1 }), ("harmed records", { $0.bytes[60] ^= 1 }),
    ]

  @Test("What is not the next batch is refused", arguments: harms.indices)
  func refused(index: Int) throws {
    let (batches, _) = try Self.owned()
    let all = batches.kept.withLock { $0 }
    let (log, pool, _) = try DirectoryLogTests.makeLog(durability: .quorum)
    // In the middle of a segment, and where the next one begins.
    let change = try #require(all.firstIndex { $0.sequence == 2 })
    for (number, kept) in all.enumerated() {
      while try pool.prepareNext() {}
      if number == 3 || number == change {
        var harmed = kept
        Self.harms[index].harm(&harmed)
        let before = log.position.lsn
        #expect(throws: JournalError.takenBack(before: before), "\(Self.harms[index].name)") {
          try Self.copy(harmed, to: log)
        }
        #expect(log.position.lsn == before)
        // Where it began another segment first, a new copy is made; in the middle it goes on.
        if number == change { return }
      }
      #expect(try Self.copy(kept, to: log) == kept.byteCount)
    }
  }

  @Test("What the replicated log does not take is not written")
  func fenced() throws {
    let batches = BatchesInMemory()
    let (log, _, storage) = try DirectoryLogTests.makeLog(durability: .quorum, replica: batches)
    _ = try DirectoryLogTests.append([UInt8](repeating: 1, count: 64), to: log)
    let before = (log.end, storage.file(FileNames.segment(1))?.bytes)
    batches.failure.withLock { $0 = .fenced(by: 8) }
    #expect(throws: JournalError.fenced(by: 8)) {
      try DirectoryLogTests.append([UInt8](repeating: 2, count: 64), to: log)
    }
    #expect(log.end == before.0 && storage.file(FileNames.segment(1))?.bytes == before.1)
  }
}
