import LogFixtures
import Posix
import Synchronization
import Testing

@testable import Log

@Suite("The archive")
struct SegmentArchiveTests {
  private static let segmentBytes = 16384
  private static let options = JournalOptions(
    durability: .fsync, segmentBytes: Self.segmentBytes, ringBytes: 1 << 14,
    groupBytesMax: 1 << 12, spareSegments: 1, checkpointSegments: 2)

  /// Three segments that have come to their end, and some batches in the fourth.
  private static func journal(_ batches: Int = 5) -> TestJournal {
    var journal = TestJournal()
    for _ in 0..<3 {
      for _ in 0..<batches { journal.append(80, run: 1) }
      journal.endSegment(run: 1)
    }
    for _ in 0..<batches { journal.append(80, run: 1) }
    return journal
  }

  private static func archiver(
    _ journal: TestJournal, _ archive: MemoryStorage, history: UInt64 = 7,
    options: JournalOptions = options
  ) throws -> (Archiver, SegmentPool) {
    let pool = try SegmentPool(
      storage: journal.storage, storeID: TestJournal.storeID,
      segmentBytes: Self.segmentBytes, lastSequence: journal.position.sequence,
      options: options)
    let archiver = try Archiver(
      SegmentArchive(storage: archive, identity: journal.identity, history: history),
      source: journal.storage, pool: pool, options: options, position: journal.position)
    return (archiver, pool)
  }

  private static func name(_ sequence: UInt64, tail: Bool = false, history: UInt64 = 7) -> String {
    FileNames.archived(ArchivedSegment(sequence: sequence, history: history, isTail: tail))
  }

  private static func drain(_ archiver: Archiver, _ journal: TestJournal) throws {
    while try archiver.step(journal.position, tailNow: true) {}
  }

  @Test("Names")
  func names() {
    #expect(Self.name(3) == "journal-00000000000000000003.0000000000000007")
    for tail in [false, true] {
      let name = ArchivedSegment(sequence: .max, history: .max, isTail: tail)
      #expect(FileNames.archivedSegment(FileNames.archived(name)) == name)
    }
    for other in [
      "journal-00000000000000000003", "journal-00000000000000000003.7",
      "journal-00000000000000000003.000000000000000g",
      "journal-00000000000000000003.00000000000000AB",
      "journal-00000000000000000003.0000000000000007.tmp",
      "journal-00000000000000000000.0000000000000007",
      "journal-00000000000000000003.+000000000000007", "archive.tmp", "lock",
    ] { #expect(FileNames.archivedSegment(other) == nil, "\(other)") }
  }

  /// As a journal stands that failed when it had ended a segment.
  @Test("A tail may go on to the end of its segment")
  func endedTail() throws {
    var journal = TestJournal()
    journal.append(80, run: 1)
    var end = journal.position
    end.offset += BatchHeader.byteCount
    journal.endSegment(run: 1)
    let archive = MemoryStorage()
    try SegmentArchive(storage: archive, identity: journal.identity, history: 7)
      .putTail(until: end, of: journal.storage, syncsSource: false) { _ in }
    let copy = try #require(archive.file(Self.name(1, tail: true))?.bytes)
    #expect(copy.count == end.offset)
  }

  @Test("What was written is there, up to its last batch and no further")
  func bytes() throws {
    let journal = Self.journal()
    let archive = MemoryStorage()
    let (archiver, _) = try Self.archiver(journal, archive)
    try Self.drain(archiver, journal)
    #expect(
      Set(try archive.names()) == [
        Self.name(1), Self.name(2), Self.name(3), Self.name(4, tail: true),
      ])
    for sequence in UInt64(1)...4 {
      let name = ArchivedSegment(sequence: sequence, history: 7, isTail: sequence == 4)
      let bytes = try #require(archive.file(FileNames.archived(name))).bytes
      let source = try #require(journal.storage.file(FileNames.segment(sequence))).bytes
      #expect(bytes == Array(source.prefix(bytes.count)))
      #expect(bytes.count == SegmentHeader.blockBytes + 5 * 128 + (sequence == 4 ? 0 : 48))
      let kept = try SegmentArchive(storage: archive, identity: journal.identity, history: 7)
      #expect(try kept.end(of: name).lsn == sequence * 400)
    }
    #expect(archiver.statistics(journal.position).lagBytes == 0)
  }

  @Test("A tail grows, and goes when the segment is whole")
  func tail() throws {
    var journal = Self.journal()
    let archive = MemoryStorage()
    try Self.drain(Self.archiver(journal, archive).0, journal)
    let short = try #require(archive.file(Self.name(4, tail: true))).bytes.count
    journal.append(80, run: 2)
    try Self.drain(Self.archiver(journal, archive).0, journal)
    #expect(try #require(archive.file(Self.name(4, tail: true))).bytes.count == short + 128)
    journal.endSegment(run: 2)
    try Self.drain(Self.archiver(journal, archive).0, journal)
    #expect(archive.file(Self.name(4, tail: true)) == nil)
    #expect(archive.file(Self.name(4)) != nil)
  }

  @Test("What is behind the durable end is left out")
  func notDurable() throws {
    var journal = Self.journal()
    let durable = journal.position
    journal.append(80, run: 1)
    let archive = MemoryStorage()
    let (archiver, _) = try Self.archiver(journal, archive)
    while try archiver.step(durable, tailNow: true) {}
    let kept = try SegmentArchive(storage: archive, identity: journal.identity, history: 7)
    #expect(
      try kept.end(of: ArchivedSegment(sequence: 4, history: 7, isTail: true)).lsn == durable.lsn)
  }

  @Test("Another store's archive is refused, another history's is shared")
  func owners() throws {
    let journal = Self.journal()
    let archive = MemoryStorage()
    try Self.drain(Self.archiver(journal, archive).0, journal)
    try Self.drain(Self.archiver(journal, archive, history: 8).0, journal)
    #expect(try archive.names().count == 8)
    let other = LogIdentity(
      storeID: StoreID(low: 99, high: 99), key: journal.identity.key,
      segmentBytes: journal.identity.segmentBytes)
    #expect(throws: JournalError.self) {
      _ = try SegmentArchive(storage: archive, identity: other, history: 7)
    }
    #expect(throws: JournalError.self) {
      _ = try SegmentArchive(storage: journal.storage, identity: journal.identity, history: 7)
    }
  }

  @Test(
    "An archive that is ahead of the journal belongs to a newer copy", arguments: [false, true])
  func ahead(tail: Bool) throws {
    var journal = Self.journal()
    let older = journal.position
    journal.append(80, run: 1)
    if !tail { journal.endSegment(run: 1) }
    let archive = MemoryStorage()
    try Self.drain(Self.archiver(journal, archive).0, journal)
    let pool = try SegmentPool(
      storage: journal.storage, storeID: TestJournal.storeID,
      segmentBytes: Self.segmentBytes, lastSequence: 4, options: Self.options)
    #expect(throws: JournalError.self) {
      _ = try Archiver(
        SegmentArchive(storage: archive, identity: journal.identity, history: 7),
        source: journal.storage, pool: pool, options: Self.options, position: older)
    }
  }

  @Test("After any failure it is tried again, and nothing half made has a name")
  func failures() throws {
    let journal = Self.journal()
    for (call, error) in [
      (MemoryStorage.Call.create, Errno.noSpace), (.write, .noSpace), (.sync, .inputOutput),
      (.rename, .inputOutput), (.syncDirectory, .inputOutput),
    ] {
      let archive = MemoryStorage()
      let (archiver, pool) = try Self.archiver(journal, archive)
      archive.change { $0.failures[call] = error }
      #expect(throws: JournalError.self) { _ = try archiver.step(journal.position) }
      #expect(pool.unarchived(before: 4)?.next == 1)
      try Self.drain(archiver, journal)
      for sequence in UInt64(1)...3 {
        let kept = try SegmentArchive(storage: archive, identity: journal.identity, history: 7)
        #expect(
          try kept.end(of: ArchivedSegment(sequence: sequence, history: 7, isTail: false)).lsn
            == sequence * 400)
      }
    }
  }

  @Test("A segment that is being used again in the middle of it is not archived as what it was")
  func usedAgain() throws {
    let journal = Self.journal()
    let archive = MemoryStorage()
    let (archiver, _) = try Self.archiver(journal, archive)
    // Another header, as its next use begins.
    let file = try #require(journal.storage.file(FileNames.segment(1)))
    var block = [UInt8](repeating: 0, count: SegmentHeader.blockBytes)
    let header = SegmentHeader(
      sequence: 9, segmentBytes: Self.segmentBytes, storeID: TestJournal.storeID)
    unsafe block.withUnsafeMutableBytes { unsafe header.write(to: $0) }
    file.put(block, at: 0)
    #expect(throws: JournalError.self) { _ = try archiver.step(journal.position) }
    #expect(archive.file(Self.name(1)) == nil)
  }

  // MARK: What is kept for it

  @Test("Nothing is used again before it is archived")
  func kept() throws {
    let journal = Self.journal()
    let (archiver, pool) = try Self.archiver(journal, MemoryStorage())
    try pool.retire(before: 4)
    #expect(pool.needed.keys.sorted() == [1, 2, 3, 4])
    #expect(pool.unarchived(before: 4)?.count == 3)
    _ = try archiver.step(journal.position)
    try pool.retire(before: 4)
    #expect(pool.needed.keys.sorted() == [2, 3, 4])
    try Self.drain(archiver, journal)
    try pool.retire(before: 4)
    #expect(pool.needed.keys.sorted() == [4])
    #expect(pool.lostToArchive == 0)
  }

  @Test("Beyond the limit, and on a full disk, the oldest are given up, and that is told")
  func givenUp() throws {
    let journal = Self.journal()
    var options = Self.options
    options.unarchivedBytesMax = 2 * Self.segmentBytes
    let (archiver, pool) = try Self.archiver(journal, MemoryStorage(), options: options)
    let told = Mutex(0)
    archiver.onNotice { if case .lost(let count) = $0 { told.withLock { $0 += count } } }
    try pool.retire(before: 4)
    #expect(pool.needed.keys.sorted() == [2, 3, 4])
    #expect(pool.lostToArchive == 1)
    // Files that nobody needs are there: nothing else is given up for room.
    try pool.retireHistory()
    #expect(pool.lostToArchive == 1)
    while try pool.prepareNext() {}
    try pool.retireHistory()
    #expect(pool.needed.keys.sorted() == [4, 5])
    #expect(pool.lostToArchive == 3)
    _ = try archiver.step(journal.position)
    #expect(told.withLock { $0 } == 3)
    #expect(archiver.statistics(journal.position).lost == 3)
  }

  @Test("One that has the beginning of a segment alone says so too")
  func missingBehindTail() throws {
    var journal = TestJournal()
    for _ in 0..<5 { journal.append(80, run: 1) }
    let archive = MemoryStorage()
    try Self.drain(Self.archiver(journal, archive).0, journal)
    #expect(try archive.names() == [Self.name(1, tail: true)])
    for _ in 0..<3 {
      journal.endSegment(run: 1)
      journal.append(80, run: 1)
    }
    for sequence in UInt64(1)...2 { try journal.storage.remove(FileNames.segment(sequence)) }
    let (archiver, _) = try Self.archiver(journal, archive)
    let told = Mutex(0)
    archiver.onNotice { if case .lost(let count) = $0 { told.withLock { $0 += count } } }
    #expect(told.withLock { $0 } == 2)
    #expect(archiver.statistics(journal.position).lost == 2)
  }

  @Test("An archive that was off for a while says what it lacks")
  func missing() throws {
    let journal = Self.journal()
    let archive = MemoryStorage()
    try Self.drain(Self.archiver(journal, archive).0, journal)
    for name in [Self.name(2), Self.name(3), Self.name(4, tail: true)] { try archive.remove(name) }
    try journal.storage.remove(FileNames.segment(2))
    let (archiver, _) = try Self.archiver(journal, archive)
    let told = Mutex(0)
    archiver.onNotice { if case .lost(let count) = $0 { told.withLock { $0 += count } } }
    #expect(told.withLock { $0 } == 1)
    try Self.drain(archiver, journal)
    #expect(archive.file(Self.name(3)) != nil)
  }
}
