import Bytes
import CPlatform
import LogFixtures
import Posix
import Testing

@testable import Log

@Suite("The journal's format")
struct JournalFormatTests {
  // MARK: Checksums

  private static func checksum(_ bytes: [UInt8], initial: UInt32 = 0) -> UInt32 {
    // The array stays for the length of the call.
    unsafe bytes.withUnsafeBytes { unsafe hf_crc32c(initial, $0.baseAddress, $0.count) }
  }

  /// RFC 3720, B.4; and the usual check value.
  @Test(
    arguments: [
      ([UInt8](repeating: 0, count: 32), 0x8a91_36aa),
      ([UInt8](repeating: 0xff, count: 32), 0x62a8_ab43),
      (Array(0..<32), 0x46dd_794e),
      (Array((0..<32).reversed()), 0x113f_db5c),
      (
        [
          0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0,
          0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
        ], 0xd996_3a56
      ),
      (Array("123456789".utf8), 0xe306_9283),
      ([], 0),
    ] as [([UInt8], UInt32)])
  func checksumVectors(bytes: [UInt8], expected: UInt32) {
    #expect(Self.checksum(bytes) == expected)
    let byTable = unsafe bytes.withUnsafeBytes {
      unsafe hf_crc32c_by_table(0, $0.baseAddress, $0.count)
    }
    #expect(byTable == expected)
  }

  @Test("Instruction and table agree on any length and alignment")
  func checksumImplementations() {
    let bytes = (0..<10_000).map { UInt8(truncatingIfNeeded: $0 &* 131 &+ $0 >> 3) }
    // Long parts are gone through in stretches of 3 times 1,024 bytes.
    let long = [1, 2, 3].flatMap { (3072 * $0 - 9)...(3072 * $0 + 9) }
    var initial: UInt32 = 0
    for start in 0..<9 {
      for count in (0..<300) + long {
        unsafe bytes.withUnsafeBytes { all in
          let part = unsafe UnsafeRawBufferPointer(rebasing: all[start..<(start + count)])
          let expected = unsafe hf_crc32c_by_table(initial, part.baseAddress, part.count)
          let found = unsafe hf_crc32c(initial, part.baseAddress, part.count)
          if found != expected { Issue.record("\(count) bytes from \(start) on") }
          initial = found
        }
      }
    }
  }

  @Test("The checksum of two parts is that of the whole")
  func checksumParts() {
    let bytes = Array("the quick brown fox jumps over the lazy dog".utf8)
    for cut in 0...bytes.count {
      let first = Self.checksum(Array(bytes[..<cut]), initial: 77)
      #expect(
        Self.checksum(Array(bytes[cut...]), initial: first) == Self.checksum(bytes, initial: 77))
    }
  }

  @Test("Every segment and run has a salt of its own")
  func salts() {
    let key = JournalKey(secret: SipKey(low: 5, high: 6))
    var salts: Set<UInt32> = []
    for sequence in 1...50 as ClosedRange<UInt64> {
      for run in 0..<20 as Range<UInt32> { salts.insert(key.salt(sequence: sequence, run: run)) }
    }
    #expect(salts.count == 1000)
    let other = JournalKey(secret: SipKey(low: 5, high: 7))
    #expect(other.salt(sequence: 1, run: 1) != key.salt(sequence: 1, run: 1))
  }

  // MARK: Segment headers

  private static let segment = SegmentHeader(
    sequence: 0x1122_3344_5566_7788, segmentBytes: 1 << 26,
    storeID: StoreID(low: 0x99aa_bbcc_ddee_ff00, high: 0x0123_4567_89ab_cdef))

  private static func block(_ header: SegmentHeader) -> [UInt8] {
    var block = [UInt8](repeating: 0xee, count: SegmentHeader.blockBytes)
    unsafe block.withUnsafeMutableBytes { unsafe header.write(to: $0) }
    return block
  }

  private static func segment(_ bytes: [UInt8]) -> SegmentHeader? {
    unsafe bytes.withUnsafeBytes { unsafe SegmentHeader($0) }
  }

  @Test("A segment header is read as it was written, and stands where the table says")
  func segmentHeader() {
    let block = Self.block(Self.segment)
    #expect(Self.segment(block) == Self.segment)
    #expect(Array(block[0..<8]) == Array("HFSEGMNT".utf8))
    #expect(block[8] == 2)
    #expect(block[16] == 0x88 && block[23] == 0x11)
    #expect(block[27] == 4)
    #expect(block[39] == 0x99 && block[40] == 0xef)
    #expect(block[48...].allSatisfy { $0 == 0 })
  }

  @Test("No bit of a segment header may change")
  func segmentBits() {
    let block = Self.block(Self.segment)
    for bit in 0..<(64 * 8) {
      var changed = block
      changed[bit / 8] ^= 1 << UInt8(bit % 8)
      if Self.segment(changed) != nil { Issue.record("bit \(bit)") }
    }
  }

  @Test("Parts of a segment header are none")
  func segmentParts() {
    let block = Self.block(Self.segment)
    for count in 0..<64 { #expect(Self.segment(Array(block.prefix(count))) == nil) }
    #expect(Self.segment(Array(block.prefix(64))) == Self.segment)
  }

  @Test("Segments of impossible sizes", arguments: [0, 4096, 8193, 8192 + 8, (1 << 32) + 4096, -1])
  func segmentSizes(byteCount: Int) {
    var block = Self.block(Self.segment)
    for index in 0..<8 {
      block[24 + index] = UInt8(truncatingIfNeeded: byteCount >> (8 * index))
    }
    let checksum = Self.checksum(
      Array(block[16..<64]), initial: Self.checksum(Array(block[0..<12])))
    for index in 0..<4 {
      block[12 + index] = UInt8(truncatingIfNeeded: checksum >> UInt32(8 * index))
    }
    #expect(Self.segment(block) == nil)
  }

  // MARK: Batch headers

  private static let key = JournalKey(secret: SipKey(low: 1, high: 2))

  private static let batch = BatchHeader(
    lsn: 0x0102_0304_0506_0708, payloadLength: 0x00ab_cde8, recordCount: 0x1234,
    payloadCRC: 0xdead_beef, kind: .records, run: 0x0a0b_0c0d, time: -5)

  private static func bytes(_ header: BatchHeader, sequence: UInt64 = 7) -> [UInt8] {
    TestJournal.bytes(of: header, salt: key.salt(sequence: sequence, run: header.run))
  }

  private static func batch(
    _ bytes: [UInt8], sequence: UInt64 = 7, key: JournalKey = key
  ) -> BatchHeader? {
    unsafe bytes.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress, bytes.count >= BatchHeader.byteCount else { return nil }
      return unsafe BatchHeader.read(base, sequence: sequence, key: key)
    }
  }

  @Test("A batch header is read as it was written, and stands where the table says")
  func batchHeader() {
    let bytes = Self.bytes(Self.batch)
    #expect(Self.batch(bytes) == Self.batch)
    #expect(Array(bytes[0..<4]) == Array("HFBA".utf8))
    #expect(bytes[8] == 8 && bytes[15] == 1)
    #expect(bytes[16] == 0xe8 && bytes[18] == 0xab)
    #expect(bytes[20] == 0x34 && bytes[24] == 0xef && bytes[28] == 0)
    #expect(bytes[32] == 0x0d && bytes[40] == 0xfb && bytes[47] == 0xff)
    let end = BatchHeader(
      lsn: 8, payloadLength: 0, recordCount: 0, payloadCRC: 0, kind: .end, run: 1, time: 0)
    #expect(Self.batch(Self.bytes(end)) == end)
    #expect(Self.bytes(end)[28] == 1)
  }

  @Test("No bit of a batch header may change")
  func batchBits() {
    let bytes = Self.bytes(Self.batch)
    for bit in 0..<(BatchHeader.byteCount * 8) {
      var changed = bytes
      changed[bit / 8] ^= 1 << UInt8(bit % 8)
      if Self.batch(changed) != nil { Issue.record("bit \(bit)") }
    }
  }

  @Test("A batch header counts in its own segment and under its own key only")
  func batchElsewhere() {
    let bytes = Self.bytes(Self.batch)
    #expect(Self.batch(bytes, sequence: 8) == nil)
    #expect(Self.batch(bytes, key: JournalKey(secret: SipKey(low: 1, high: 3))) == nil)
  }

  /// Byte, and what stands there though the checksum is right.
  @Test(
    "Fields out of range",
    arguments: [
      (16, [0xec]), (16, [0, 0, 0, 4 + 1]), (16, [0xf8, 0xff, 0xff, 0xff]),
      (20, [0xff, 0xff, 0xff, 0xff]), (28, [2]), (28, [0, 1]), (29, [1]), (31, [0x80]), (36, [1]),
      (8, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), (28, [1]),
    ] as [(Int, [UInt8])])
  func batchFields(offset: Int, values: [UInt8]) {
    var bytes = Self.bytes(Self.batch)
    bytes.replaceSubrange(offset..<(offset + values.count), with: values)
    let checksum = Self.checksum(
      Array(bytes[8...]), initial: Self.key.salt(sequence: 7, run: Self.batch.run))
    for index in 0..<4 {
      bytes[4 + index] = UInt8(truncatingIfNeeded: checksum >> UInt32(8 * index))
    }
    #expect(Self.batch(bytes) == nil)
  }

  @Test("The search for a magic finds it at multiples of 8 only")
  func search() {
    let magic = Array("HFBA".utf8)
    for place in 0...60 {
      var bytes = [UInt8](repeating: 0x48, count: 64)
      bytes.replaceSubrange(place..<(place + 4), with: magic)
      let found = unsafe bytes.withUnsafeBytes { bytes in
        guard let base = bytes.baseAddress else { return -1 }
        return unsafe BatchHeader.bytesBeforeMagic(base, count: bytes.count)
      }
      #expect(found == (place % 8 == 0 ? place : 64))
    }
  }

  // MARK: Names

  @Test(
    "Names of segments",
    arguments: [
      (1, "journal-00000000000000000001"), (9_876_543_210, "journal-00000000009876543210"),
      (.max, "journal-18446744073709551615"),
    ] as [(UInt64, String)])
  func names(number: UInt64, segment: String) {
    #expect(FileNames.segment(number) == segment)
    #expect(FileNames.segmentSequence(segment) == number)
  }

  @Test(
    "Names that are none",
    arguments: [
      "", "journal-", "journal-1", "journal-00000000000000000000", "journal-18446744073709551616",
      "journal-99999999999999999999", "journal-+0000000000000000001",
      "journal--0000000000000000001", "journal- 0000000000000000001",
      "journal-000000000000000000001", "Journal-00000000000000000001",
      "journal-00000000000000000001~", "journal-0000000000000000000a",
      "journal-0000000000000000000\u{0661}", "segment.tmp", "lock", "xjournal-00000000000000000001",
    ])
  func otherNames(name: String) {
    #expect(FileNames.segmentSequence(name) == nil)
  }
}
