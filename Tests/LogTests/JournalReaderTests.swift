import Bytes
import LogFixtures
import Posix
import Testing

@testable import Log

@Suite("Reading the journal")
struct JournalReaderTests {
  /// Three segments of batches of many sizes, in three runs.
  private static func longJournal() -> TestJournal {
    var journal = TestJournal()
    journal.append(40, run: 1)
    for size in [112, 8, 0, 4096, 1000, 2400] { journal.append(size, run: 1) }
    journal.endSegment(run: 1)
    for size in [112, 11_000] { journal.append(size, run: 1) }
    journal.append(40, run: 2)
    journal.endSegment(run: 2)
    journal.append(40, run: 4)
    for size in [256, 112, 112] { journal.append(size, run: 4) }
    return journal
  }

  private static func end(_ journal: TestJournal, tornBytes: Int = 0) -> JournalEnd {
    JournalEnd(
      position: journal.position, time: journal.batches.last?.header.time ?? 0,
      tornBytes: tornBytes)
  }

  // MARK: Whole journals

  @Test("All batches of several segments, in order", arguments: [false, true])
  func chain(readsAhead: Bool) {
    let journal = Self.longJournal()
    let reading = journal.read(readsAhead: readsAhead)
    #expect(reading.error == nil)
    #expect(reading.isPrefix(of: journal, journal.batches.count))
    #expect(reading.end == Self.end(journal))
  }

  @Test("A journal without batches ends where it begins", arguments: [false, true])
  func empty(readsAhead: Bool) {
    let journal = TestJournal()
    let reading = journal.read(readsAhead: readsAhead)
    #expect(reading.headers.isEmpty)
    #expect(reading.end == JournalEnd(position: journal.position, time: 0, tornBytes: 0))
  }

  @Test("It is read from any batch on")
  func start() {
    let journal = Self.longJournal()
    for (index, batch) in journal.batches.enumerated() {
      let start = JournalPosition(
        sequence: batch.sequence, offset: batch.offset, lsn: batch.header.lsn, run: 1, counted: 9)
      let reading = journal.read(start: start)
      #expect(reading.headers == journal.batches.dropFirst(index).map(\.header))
      #expect(reading.end?.position.counted == 9)
    }
  }

  @Test("Batches longer than what is read at once, and many of them", arguments: [false, true])
  func large(readsAhead: Bool) {
    var journal = TestJournal(segmentBytes: 12 << 20)
    journal.append(40, run: 1)
    journal.append(5 << 20, run: 1)
    for _ in 0..<5 { journal.append(1 << 20, run: 1) }
    journal.endSegment(run: 1)
    journal.append((12 << 20) - 4096 - 96, run: 1)
    journal.endSegment(run: 1)
    for _ in 0..<1000 { journal.append(4096, run: 1) }
    let reading = journal.read(readsAhead: readsAhead)
    #expect(reading.isPrefix(of: journal, journal.batches.count))
    #expect(reading.end == Self.end(journal))
  }

  @Test("Segments that are ready behind the last are no part of it")
  func spares() {
    let journal = Self.longJournal()
    journal.makeSegment(4)
    journal.makeSegment(5, old: journal.storage.file(FileNames.segment(1))?.bytes ?? [])
    #expect(journal.read().end == Self.end(journal))
  }

  // MARK: Torn tails

  /// What is behind the bytes that were written.
  enum Rest: CaseIterable { case zeros, oldSegment }

  @Test("Of the last batch, any part may be there", arguments: Rest.allCases, [false, true])
  func tornTail(rest: Rest, readsAhead: Bool) throws {
    var journal = Self.longJournal()
    let old: [UInt8] =
      rest == .zeros ? [] : try #require(journal.storage.file(FileNames.segment(1))).bytes
    // The same batches on what was there before.
    journal.endSegment(run: 4)
    journal.makeSegment(4, old: old)
    for size in [40, 112, 264] { journal.append(size, run: 5) }
    let file = try #require(journal.lastFile)
    let last = try #require(journal.batches.last)
    let whole = file.bytes
    let before = Array(old.prefix(journal.segmentBytes))
    journal.cut(at: journal.batches.count - 1)
    for count in 0..<(BatchHeader.byteCount + last.payload.count) {
      let end = last.offset + count
      file.bytes =
        whole[..<end]
        + (old.isEmpty
          ? [UInt8](repeating: 0, count: journal.segmentBytes - end) : Array(before[end...]))
      let reading = journal.read(readsAhead: readsAhead)
      #expect(reading.isPrefix(of: journal, journal.batches.count), "\(count) bytes")
      #expect(reading.end?.position.offset == last.offset, "\(count) bytes")
      #expect(reading.end?.position.lsn == last.header.lsn, "\(count) bytes")
      #expect(reading.end?.position.run == 5)
      if count >= BatchHeader.byteCount {
        #expect(reading.end?.tornBytes == BatchHeader.byteCount + last.payload.count)
      }
      if count < 4 { #expect(reading.end?.tornBytes == 0) }
    }
  }

  @Test("Sectors of the last batch may be there in any mixture", arguments: 0..<64)
  func tornSectors(mixture: Int) throws {
    var journal = Self.longJournal()
    journal.endSegment(run: 4)
    journal.append(40, run: 5)
    let file = try #require(journal.lastFile)
    let before = file.bytes
    journal.append(2600, run: 5)
    let after = file.bytes
    let last = try #require(journal.batches.last)
    for sector in 0..<6 where mixture >> sector & 1 == 0 {
      let start = last.offset / 512 * 512 + sector * 512
      file.put(Array(before[start..<(start + 512)]), at: start)
    }
    let isWhole = file.bytes == after
    #expect(isWhole == (mixture == 63))
    let count = journal.batches.count - (isWhole ? 0 : 1)
    let reading = journal.read()
    #expect(reading.isPrefix(of: journal, count))
    #expect(reading.end?.position.offset == (isWhole ? journal.position.offset : last.offset))
  }

  @Test("A bit that is wrong in the last batch looks like a tear")
  func lastBits() throws {
    let journal = Self.longJournal()
    let last = try #require(journal.batches.last)
    let file = try #require(journal.lastFile)
    for bit in 0..<((BatchHeader.byteCount + last.payload.count) * 8) {
      file.flip(bit: bit % 8, at: last.offset + bit / 8)
      let reading = journal.read()
      #expect(reading.isPrefix(of: journal, journal.batches.count - 1), "bit \(bit)")
      #expect(reading.end?.position.offset == last.offset, "bit \(bit)")
      file.flip(bit: bit % 8, at: last.offset + bit / 8)
    }
  }

  @Test("What an earlier run left behind a cut is no damage")
  func cut() {
    var journal = TestJournal()
    journal.append(40, run: 1)
    for _ in 0..<20 { journal.append(40, run: 1) }
    // Batches of run 1 follow in their places, right behind those of run 2.
    journal.cut(at: 5)
    journal.append(40, run: 2)
    journal.append(40, run: 2)
    let reading = journal.read()
    #expect(reading.error == nil)
    #expect(reading.isPrefix(of: journal, 7))
    #expect(reading.end == Self.end(journal))
  }

  @Test("A run's first batch may be torn, and the run may be tried again")
  func tornRun() throws {
    var journal = TestJournal()
    journal.append(40, run: 1)
    journal.append(112, run: 1)
    for _ in 0..<3 {
      journal.append(40, run: 2)
      let file = try #require(journal.lastFile)
      file.put([UInt8](repeating: 0xaa, count: 16), at: journal.position.offset - 16)
      let reading = journal.read()
      #expect(reading.isPrefix(of: journal, 2))
      #expect(reading.end?.position.run == 1)
      journal.cut(at: 2)
    }
    journal.append(40, run: 2)
    #expect(journal.read().isPrefix(of: journal, 3))
  }

  // MARK: Old bytes

  @Test("Batches of a recycled segment never count, though their LSN fits")
  func recycled() throws {
    var journal = TestJournal()
    for _ in 0..<30 { journal.append(112, run: 1) }
    let old = try #require(journal.lastFile).bytes
    var other = TestJournal()
    other.makeSegment(2, old: old)
    other.endSegment(run: 1)
    let reading = other.read()
    #expect(reading.headers.isEmpty)
    #expect(reading.end?.position == other.position)
  }

  @Test("Batches of another store never count")
  func otherStore() throws {
    var journal = TestJournal()
    journal.append(40, run: 1)
    let file = try #require(journal.lastFile)
    let header = BatchHeader(
      lsn: 40, payloadLength: 0, recordCount: 0, payloadCRC: 0, kind: .end, run: 1, time: 0)
    let key = JournalKey(secret: SipKey(low: 11, high: 23))
    file.put(
      TestJournal.bytes(of: header, salt: key.salt(sequence: 1, run: 1)),
      at: journal.position.offset)
    #expect(journal.read().end?.position == journal.position)
  }

  @Test("Runs never go back")
  func runs() {
    var journal = TestJournal()
    journal.append(40, run: 3)
    journal.append(40, run: 2)
    #expect(journal.read().isPrefix(of: journal, 1))
  }

  // MARK: Damage

  @Test("A bit that is wrong before the tail is damage, at the batch that has it")
  func earlierBits() throws {
    let journal = Self.longJournal()
    for (index, batch) in journal.batches.dropLast().enumerated() {
      let name = FileNames.segment(batch.sequence)
      let file = try #require(journal.storage.file(name))
      let byteCount = BatchHeader.byteCount + batch.payload.count
      for bit in 0..<(byteCount * 8) where bit < 48 * 8 || bit % 4093 == 0 {
        file.flip(bit: bit % 8, at: batch.offset + bit / 8)
        let reading = journal.read(readsAhead: bit % 64 == 0)
        #expect(reading.isPrefix(of: journal, index), "batch \(index), bit \(bit)")
        let damage = try #require(reading.damage, "batch \(index), bit \(bit)")
        #expect(damage.file == name)
        #expect(damage.offset == batch.offset)
        #expect(damage.lsn == batch.header.lsn)
        file.flip(bit: bit % 8, at: batch.offset + bit / 8)
      }
    }
  }

  @Test("A bit that is wrong in the batch that ends a segment is damage")
  func endBits() throws {
    let journal = Self.longJournal()
    let last = try #require(journal.batches.last { $0.sequence == 1 })
    let offset = last.offset + BatchHeader.byteCount + last.payload.count
    let file = try #require(journal.storage.file(FileNames.segment(1)))
    for bit in 0..<(BatchHeader.byteCount * 8) {
      file.flip(bit: bit % 8, at: offset + bit / 8)
      let damage = try #require(journal.read().damage, "bit \(bit)")
      #expect(damage.file == FileNames.segment(1))
      #expect(damage.offset == offset)
      #expect(damage.lsn == last.header.endLSN)
      file.flip(bit: bit % 8, at: offset + bit / 8)
    }
  }

  @Test("A bit that is wrong in a segment's header is damage")
  func segmentBits() throws {
    let journal = Self.longJournal()
    for (sequence, lsn) in [(1, 0), (2, 7656), (3, 18808)] as [(UInt64, UInt64)] {
      let name = FileNames.segment(sequence)
      let file = try #require(journal.storage.file(name))
      for bit in 0..<(64 * 8) {
        file.flip(bit: bit % 8, at: bit / 8)
        let damage = try #require(journal.read().damage, "bit \(bit)")
        #expect(damage.file == name)
        #expect(damage.offset == 0)
        #expect(damage.lsn == lsn)
        file.flip(bit: bit % 8, at: bit / 8)
      }
    }
  }

  @Test("A segment that is missing is damage", arguments: [1, 2, 3] as [UInt64])
  func missing(sequence: UInt64) throws {
    let journal = Self.longJournal()
    let name = FileNames.segment(sequence)
    journal.storage.change { $0.files[name] = nil }
    let damage = try #require(journal.read().damage)
    #expect(damage.file == name)
    #expect(damage.finding == "it is missing")
  }

  @Test("A segment in another's place is damage")
  func exchanged() throws {
    let journal = Self.longJournal()
    let (second, third) = (FileNames.segment(2), FileNames.segment(3))
    journal.storage.change { state in
      (state.files[second], state.files[third]) = (state.files[third], state.files[second])
    }
    let damage = try #require(journal.read().damage)
    #expect(damage.file == second)
    #expect(damage.offset == 0)
  }

  @Test("A file that is shorter than it was made is damage where the journal stops in it")
  func shortened() throws {
    let journal = Self.longJournal()
    let name = FileNames.segment(3)
    let file = try #require(journal.storage.file(name))
    let whole = file.bytes
    for byteCount in stride(from: 0, to: journal.segmentBytes, by: 61) {
      file.bytes = Array(whole.prefix(byteCount))
      let reading = journal.read()
      let damage = try #require(reading.damage, "\(byteCount) bytes")
      #expect(damage.file == name)
      #expect(damage.offset == (byteCount < 4096 ? 0 : Self.stop(journal, byteCount)))
    }
  }

  /// Where the third segment's chain stops when it has so many bytes.
  private static func stop(_ journal: TestJournal, _ byteCount: Int) -> Int {
    var offset = SegmentHeader.blockBytes
    for batch in journal.batches where batch.sequence == 3 {
      let end = batch.offset + BatchHeader.byteCount + batch.payload.count
      if end <= byteCount { offset = end }
    }
    return offset
  }

  @Test("Two segments may be harmed: what is behind them still tells")
  func farBehind() throws {
    let journal = Self.longJournal()
    let first = try #require(journal.storage.file(FileNames.segment(1)))
    let second = try #require(journal.storage.file(FileNames.segment(2)))
    let last = try #require(journal.batches.last { $0.sequence == 1 })
    first.put([UInt8](repeating: 0, count: 48), at: last.offset)
    first.put([UInt8](repeating: 0, count: 48), at: last.offset + 48 + last.payload.count)
    second.bytes = [UInt8](repeating: 0, count: journal.segmentBytes)
    let damage = try #require(journal.read().damage)
    #expect(damage.offset == last.offset)
    #expect(damage.finding.contains(FileNames.segment(3)))
  }

  @Test("A journal that ends before the checkpoint is whole is damaged, and cannot be cut")
  func mustReach() throws {
    let journal = Self.longJournal()
    #expect(journal.read(mustReach: journal.position.lsn).error == nil)
    let damage = try #require(journal.read(mustReach: journal.position.lsn + 1).damage)
    #expect(damage.offset == journal.position.offset)
    #expect(damage.lsn == nil)
    #expect(damage.description.contains("restore"))
  }

  @Test(
    "Places where no journal can begin",
    arguments: [
      (0, 4096), (.max, 4096), (1, 0), (1, -8), (1, 4097), (1, 4100), (1, 16392), (1, .max),
    ] as [(UInt64, Int)])
  func impossibleStart(sequence: UInt64, offset: Int) throws {
    let journal = Self.longJournal()
    let start = JournalPosition(
      sequence: sequence, offset: offset, lsn: 0, run: 0, counted: 0)
    #expect(journal.read(start: start).damage != nil)
  }

  @Test("A journal may begin at the very end of a segment")
  func startAtEnd() {
    let journal = TestJournal()
    for offset in stride(from: 16384 - 64, through: 16384, by: 8) {
      let start = JournalPosition(sequence: 1, offset: offset, lsn: 8, run: 1, counted: 0)
      #expect(journal.read(start: start).end?.position == start)
    }
  }

  @Test("The deliberate bug: a batch with another checksum is read")
  func acceptBadChecksum() throws {
    let journal = Self.longJournal()
    let last = try #require(journal.batches.last)
    try #require(journal.lastFile).flip(bit: 0, at: last.offset + BatchHeader.byteCount)
    #expect(journal.read().headers.count == journal.batches.count - 1)
    #expect(journal.read(fault: .acceptBadChecksum).headers.count == journal.batches.count)
    try #require(journal.lastFile).flip(bit: 0, at: last.offset)
    #expect(
      journal.read(fault: .acceptBadChecksum).headers.count == journal.batches.count - 1)
  }
}
