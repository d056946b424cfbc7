// Journals that no server has written: whatever the bytes, a reader gives batches that were written, in
// order, or refuses; it never traps and never reads the same over and over.
import Bytes
import LogFixtures
import Posix
import Testing

@testable import Log

@Suite("Hostile journals")
struct HostileJournalTests {
  private static func journal() -> TestJournal {
    var journal = TestJournal()
    journal.append(40, run: 1)
    for size in [112, 2048, 8, 0, 4096, 1000] { journal.append(size, run: 1) }
    journal.endSegment(run: 1)
    for size in [112, 3000, 112] { journal.append(size, run: 2) }
    journal.endSegment(run: 2)
    for size in [40, 256, 112, 112] { journal.append(size, run: 3) }
    return journal
  }

  /// Numbers that look random, the same every time.
  private struct Numbers {
    var state: UInt64
    mutating func next(below limit: Int) -> Int {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      return Int(state % UInt64(limit))
    }
  }

  @Test("Bits, bytes, blocks and lengths at random", arguments: 1...40 as ClosedRange<UInt64>)
  func random(seed: UInt64) throws {
    let journal = Self.journal()
    var numbers = Numbers(state: seed &* 0x9e37_79b9_7f4a_7c15)
    for step in 0..<60 {
      let copy = journal.storage.copy()
      let file = try #require(copy.file(FileNames.segment(UInt64(1 + numbers.next(below: 3)))))
      let place = numbers.next(below: journal.segmentBytes)
      let kind = numbers.next(below: 5)
      switch kind {
      case 0, 1: file.flip(bit: numbers.next(below: 8), at: place)
      case 2:
        let count = min(1 + numbers.next(below: 64), journal.segmentBytes - place)
        file.put((0..<count).map { _ in UInt8(numbers.next(below: 256)) }, at: place)
      case 3: file.bytes = Array(file.bytes.prefix(place))
      default:
        // A block of another place or another file, as a disk may give.
        let other = try #require(copy.file(FileNames.segment(UInt64(1 + numbers.next(below: 3)))))
        let from = numbers.next(below: journal.segmentBytes / 512) * 512
        file.put(Array(other.bytes[from..<(from + 512)]), at: place / 512 * 512)
      }
      let reading = journal.read(copy, readsAhead: step % 10 == 0)
      #expect(reading.isPrefix(of: journal, reading.headers.count), "seed \(seed), step \(step)")
      if let end = reading.end {
        #expect(end.position.lsn == reading.headers.last?.endLSN ?? 0)
        // What is given up without a word is the newest batch; or what lies in one block with it.
        let lost = journal.batches.count - reading.headers.count
        #expect(lost <= (kind <= 1 ? 1 : 4), "seed \(seed), step \(step)")
      } else {
        #expect(reading.damage != nil, "seed \(seed), step \(step)")
      }
    }
  }

  @Test("Files of nothing but noise", arguments: [0, 1, 63, 64, 4095, 4096, 4097, 16384, 20000])
  func noise(byteCount: Int) throws {
    let journal = Self.journal()
    var numbers = Numbers(state: 99)
    for sequence in 1...3 as ClosedRange<UInt64> {
      let copy = journal.storage.copy()
      let file = try #require(copy.file(FileNames.segment(sequence)))
      file.bytes = (0..<byteCount).map { _ in UInt8(numbers.next(below: 256)) }
      #expect(journal.read(copy).damage?.file == FileNames.segment(sequence))
    }
  }

  @Test("Bytes that a client sends are no batch, whatever they look like")
  func clientBytes() throws {
    // The record of the last batch holds what would be a later batch, but for the key.
    var journal = TestJournal()
    journal.append(40, run: 1)
    journal.append(4000, run: 1)
    let last = try #require(journal.batches.last)
    let file = try #require(journal.lastFile)
    let header = BatchHeader(
      lsn: 100_000, payloadLength: 8, recordCount: 0, payloadCRC: 0, kind: .records, run: 1,
      time: 0)
    for salt in 0..<80 as Range<UInt32> {
      file.put(
        TestJournal.bytes(of: header, salt: salt), at: last.offset + 48 + Int(salt) * 48)
    }
    #expect(journal.read().end?.position.offset == last.offset)
  }

  @Test("Headers made with the key cost no more than their bytes")
  func overlapping() throws {
    var journal = TestJournal(segmentBytes: 4 << 20)
    journal.append(40, run: 5)
    let file = try #require(journal.lastFile)
    // Each says that the whole rest is its payload, and that the journal had it before.
    let header = BatchHeader(
      lsn: 0, payloadLength: 3 << 20, recordCount: 0, payloadCRC: 1, kind: .records, run: 5,
      time: 0)
    let salt = journal.key.salt(sequence: 1, run: 5)
    let bytes = TestJournal.bytes(of: header, salt: salt)
    for offset in stride(from: 8192, to: (4 << 20) - 48, by: 48) { file.put(bytes, at: offset) }
    let reading = journal.read()
    #expect(reading.end?.position == journal.position)
    #expect(journal.storage.change { $0.bytesRead } < 4 * (4 << 20))
  }

  @Test("Batches that hardly fit into what is read at once are read twice at most")
  func misfits() throws {
    var journal = TestJournal(segmentBytes: 64 << 20)
    for _ in 0..<7 {
      journal.append(8, run: 1)
      journal.append((4 << 20) - 48, run: 1)
      journal.append((4 << 20) - 8, run: 1)
    }
    #expect(journal.read().end?.position == journal.position)
    #expect(journal.storage.change { $0.bytesRead } < 3 * (64 << 20))
  }

  @Test("A chain of segments that each end at once")
  func shortSegments() {
    var journal = TestJournal(segmentBytes: 8192)
    for _ in 0..<500 { journal.endSegment(run: 1) }
    journal.append(40, run: 1)
    #expect(journal.read().isPrefix(of: journal, 1))
  }

  @Test("A reader that fails or has enough ends, with its thread", arguments: [false, true])
  func failures(readsAhead: Bool) throws {
    let journal = Self.journal()
    var count = 0
    let stopped = journal.read(readsAhead: readsAhead) { () throws(JournalError) in
      count += 1
      if count == 5 { throw .unsuitable("enough") }
    }
    #expect(stopped.error == .unsuitable("enough"))
    #expect(stopped.isPrefix(of: journal, 5))
    for call in [.open, .read, .names] as [MemoryStorage.Call] {
      journal.storage.change { $0.failures[call] = .inputOutput }
      let failed = journal.read(readsAhead: readsAhead)
      guard case .failed(_, _, .inputOutput) = failed.error else {
        Issue.record("\(call): \(String(describing: failed.error))")
        continue
      }
    }
    #expect(journal.read(readsAhead: readsAhead).end != nil)
  }

  @Test("Damage far ahead is told after all that is before it", arguments: [false, true])
  func farAhead(readsAhead: Bool) throws {
    var journal = TestJournal(segmentBytes: 32 << 20)
    for _ in 0..<28 { journal.append(1 << 20, run: 1) }
    let batch = journal.batches[25]
    try #require(journal.lastFile).flip(bit: 1, at: batch.offset + 1000)
    let reading = journal.read(readsAhead: readsAhead)
    #expect(reading.isPrefix(of: journal, 25))
    #expect(reading.damage?.offset == batch.offset)
  }
}
