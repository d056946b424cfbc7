// The journal on disk. All numbers are little endian.
//
// A journal is a chain of segment files of equal size, numbered from 1. A segment is a header block of
// 4096 bytes and then batches, one behind the other, each beginning at a multiple of 8:
//
//   Segment header
//     0  u64  magic "HFSEGMNT"
//     8  u32  format version, 2; 1 is read, whose records have no parts (RecordFormat.swift)
//    12  u32  CRC32C of bytes 0..<12 and 16..<64
//    16  u64  sequence: the number in the file's name
//    24  u64  bytes of the file
//    32  u64  store id, low half
//    40  u64  store id, high half
//    48       zeros to the end of the block, the first 16 under the CRC
//
//   Batch
//     0  u32  magic "HFBA"
//     4  u32  CRC32C of bytes 8..<48, with salt
//     8  u64  LSN: bytes of records in all batches before this one, since the store was made
//    16  u32  bytes of records, a multiple of 8, at most 64 MiB
//    20  u32  number of records
//    24  u32  CRC32C of the records, with salt; zero for an end of segment
//    28  u8   kind: 0 records, 1 end of segment (no records)
//    29       3 zeros
//    32  u32  run: how often the directory had been opened, from 1
//    36  u32  zero
//    40  i64  store clock when the batch was made, nanoseconds since the Unix epoch
//    48       records (RecordFormat.swift)
//
// Every version keeps magic, version and CRC where they are: so one that is newer than the reader is told
// from damage.
//
// A segment is valid if and only if the file has the CRC, the sequence of its name, the store's id and
// the store's segment size.
//
// A batch is valid if and only if
//   - both CRCs hold under the salt of its segment's sequence and its own run,
//   - its fields are in range, and it ends within the segment,
//   - its LSN is the LSN of the batch before plus that one's bytes of records,
//   - its run is not below the run of the batch before.
//
// The journal is the longest chain of valid batches that begins where the newest checkpoint says, and
// continues behind the block of the next segment after each batch of kind 1. Where it stops, the rest is
// damaged, or torn by a crash; JournalReader says how the two are told apart.
//
// Why so:
//   - The salt, a keyed hash of sequence and run, is what the CRCs begin with. Segments are used again
//     without being cleared, and what clients send stands in records as they sent it: neither an old
//     batch nor bytes made to look like one may count. A CRC with another initial value differs for
//     certain, so an old batch can pass only where two salts of 32 bits are equal, and then its LSN is
//     too low. Clients do not know the key.
//   - A run is one opening of the directory. After a crash the writer continues at the cut, over what
//     was torn; batches behind the cut were written by a lower run, and the rule on runs keeps them out.
//   - Each run begins with a batch of one clock record, synced before anything else is written. So if
//     a crash leaves the new run's number unknown (that batch was torn) there is nothing else of that
//     run anywhere, and the next one may take the same number.
//   - One batch at a time is written and synced: only the newest can be torn. A batch header behind
//     bytes that are not valid proves that these had been synced, and were harmed since.
//   - A batch never spans segments, so a segment can be read by itself, and one write makes a group
//     durable. Room for a batch of kind 1 is always left, and that batch is synced before the next
//     segment is written to. The next segment exists, synced, before that: so a chain that leads to a
//     missing segment is damage.
//   - Power-safe overwrite is assumed: a write that power cuts short does not harm bytes beside it,
//     though it leaves any mixture of old and new within it.
package import Bytes
internal import CPlatform

/// The secret half of the checksums.
package struct JournalKey: Sendable {
  private let key: SipKey

  /// - Parameter secret: the store's.
  package init(secret: SipKey) { key = secret.derived(5) }

  /// What the CRCs of a batch begin with.
  package func salt(sequence: UInt64, run: UInt32) -> UInt32 {
    var hasher = SipHasher(key)
    hasher.absorb(sequence)
    return UInt32(truncatingIfNeeded: hasher.finish(UInt64(run)))
  }
}

/// 128 random bits that tell the files of one store from those of another.
package struct StoreID: Equatable, Sendable {
  package var low: UInt64
  package var high: UInt64

  package init(low: UInt64, high: UInt64) {
    self.low = low
    self.high = high
  }
}

/// Which log it is: what all files of one log have in common.
package struct LogIdentity: Sendable {
  package let storeID: StoreID
  package let key: JournalKey
  package let segmentBytes: Int

  package init(storeID: StoreID, key: JournalKey, segmentBytes: Int) {
    self.storeID = storeID
    self.key = key
    self.segmentBytes = segmentBytes
  }
}

/// The first block of a segment file.
package struct SegmentHeader: Equatable {
  /// Where the first batch begins.
  package static let blockBytes = 4096
  /// A segment holds its block and something more, and is recycled before it is huge.
  package static let segmentBytesRange = 2 * blockBytes...(1 << 32)

  package static func isPossible(segmentBytes: Int) -> Bool {
    segmentBytesRange.contains(segmentBytes) && segmentBytes % blockBytes == 0
  }

  private static let magic: UInt64 = 0x544e_4d47_4553_4648  // "HFSEGMNT"
  /// The newest format, and the one that is written.
  package static let version: UInt32 = 2
  private static let fieldBytes = 64

  package var sequence: UInt64
  package var segmentBytes: Int
  package var storeID: StoreID

  package init(sequence: UInt64, segmentBytes: Int, storeID: StoreID) {
    self.sequence = sequence
    self.segmentBytes = segmentBytes
    self.storeID = storeID
  }

  /// nil where the CRC, or what is under it, is wrong. Whether it is the right segment of the right
  /// store is for the caller to say.
  package init?(_ bytes: UnsafeRawBufferPointer) {
    guard let version = unsafe Self.readVersion(of: bytes), 1...Self.version ~= version,
      let base = bytes.baseAddress
    else { return nil }
    // All loads lie within the first 64 bytes, which `readVersion` has found.
    guard unsafe base.load64(48) == 0, unsafe base.load64(56) == 0,
      let segmentBytes = unsafe Int(exactly: base.load64(24)),
      Self.isPossible(segmentBytes: segmentBytes)
    else { return nil }
    self.segmentBytes = segmentBytes
    sequence = unsafe base.load64(16)
    storeID = StoreID(low: unsafe base.load64(32), high: unsafe base.load64(40))
  }

  /// The version of the format, whether or not it is one that `init` reads; nil where the CRC does not hold.
  package static func readVersion(of bytes: UnsafeRawBufferPointer) -> UInt32? {
    guard bytes.count >= fieldBytes, let base = bytes.baseAddress else { return nil }
    // All loads lie within the first 64 bytes.
    guard unsafe base.load64(0) == magic, unsafe base.load32(12) == checksum(base) else {
      return nil
    }
    return unsafe base.load32(8)
  }

  /// Fills a block: `bytes` must hold `blockBytes`.
  package func write(to bytes: UnsafeMutableRawBufferPointer) {
    precondition(bytes.count >= Self.blockBytes, "no room for a segment's header")
    guard let base = bytes.baseAddress else { return }
    // All stores lie within the first 64 bytes.
    unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: Self.blockBytes)
    unsafe base.store64(Self.magic, 0)
    unsafe base.store32(Self.version, 8)
    unsafe base.store64(sequence, 16)
    unsafe base.store64(UInt64(segmentBytes), 24)
    unsafe base.store64(storeID.low, 32)
    unsafe base.store64(storeID.high, 40)
    unsafe base.store32(Self.checksum(UnsafeRawPointer(base)), 12)
  }

  private static func checksum(_ base: UnsafeRawPointer) -> UInt32 {
    unsafe hf_crc32c(hf_crc32c(0, base, 12), base + 16, fieldBytes - 16)
  }
}

/// What stands before the records of a batch.
package struct BatchHeader: Equatable {
  package static let byteCount = 48
  /// Who reads a batch has all of it in memory.
  package static let payloadBytesMax = 64 << 20

  package enum Kind: UInt8 {
    case records = 0
    /// The journal continues in the next segment.
    case end = 1
  }

  private static let magic: UInt32 = 0x4142_4648  // "HFBA"

  /// Log sequence number of the first byte of records.
  package var lsn: UInt64
  /// Bytes of records, a multiple of 8.
  package var payloadLength: Int
  package var recordCount: Int
  /// `checksum` of the records.
  package var payloadCRC: UInt32
  package var kind: Kind
  package var run: UInt32
  /// Store clock, nanoseconds.
  package var time: Int64

  /// Log sequence number of the batch behind this one.
  package var endLSN: UInt64 { lsn &+ UInt64(payloadLength) }

  /// CRC32C of a batch's records, or of the next part of them if `salt` is the CRC of those before.
  package static func checksum(_ payload: UnsafeRawBufferPointer, salt: UInt32) -> UInt32 {
    unsafe hf_crc32c(salt, payload.baseAddress, payload.count)
  }

  /// Fills the 48 bytes from `bytes` on. `salt` is that of the segment's sequence and `run`.
  package func write(to bytes: UnsafeMutableRawPointer, salt: UInt32) {
    precondition(payloadLength <= Self.payloadBytesMax, "a batch that nobody would read")
    unsafe bytes.store32(Self.magic, 0)
    unsafe bytes.store64(lsn, 8)
    unsafe bytes.store32(UInt32(payloadLength), 16)
    unsafe bytes.store32(UInt32(recordCount), 20)
    unsafe bytes.store32(payloadCRC, 24)
    unsafe bytes.store32(UInt32(kind.rawValue), 28)
    unsafe bytes.store32(run, 32)
    unsafe bytes.store32(0, 36)
    unsafe bytes.store64(UInt64(bitPattern: time), 40)
    unsafe bytes.store32(Self.checksum(ofHeader: UnsafeRawPointer(bytes), salt: salt), 4)
  }

  /// Reads the 48 bytes from `bytes` on. nil where the CRC does not hold for that segment and the
  /// header's own run, or a field is out of range.
  package static func read(
    _ bytes: UnsafeRawPointer, sequence: UInt64, key: JournalKey
  ) -> BatchHeader? {
    guard unsafe bytes.load32(0) == magic else { return nil }
    let salt = key.salt(sequence: sequence, run: unsafe bytes.load32(32))
    guard unsafe bytes.load32(4) == checksum(ofHeader: bytes, salt: salt) else { return nil }
    return unsafe BatchHeader(fields: bytes)
  }

  /// How far it is from `bytes`, in steps of 8, to the next place where a header may begin: `count` or
  /// a little less where there is none.
  package static func bytesBeforeMagic(_ bytes: UnsafeRawPointer, count: Int) -> Int {
    unsafe hf_find32(bytes, count, magic.littleEndian)
  }

  /// The fields as they stand, whatever the CRC; nil where one is out of range.
  package init?(fields bytes: UnsafeRawPointer) {
    let word = unsafe bytes.load32(28)
    guard unsafe bytes.load32(0) == Self.magic, word <= UInt8.max,
      let kind = Kind(rawValue: UInt8(word)), unsafe bytes.load32(36) == 0
    else { return nil }
    self.kind = kind
    lsn = unsafe bytes.load64(8)
    payloadLength = unsafe Int(bytes.load32(16))
    recordCount = unsafe Int(bytes.load32(20))
    payloadCRC = unsafe bytes.load32(24)
    run = unsafe bytes.load32(32)
    time = unsafe Int64(bitPattern: bytes.load64(40))
    // A record has 8 bytes at least, so a count that is too high does not get past here.
    guard payloadLength % 8 == 0, payloadLength <= Self.payloadBytesMax,
      recordCount <= payloadLength / 8,
      !lsn.addingReportingOverflow(UInt64(payloadLength)).overflow,
      kind == .records || (payloadLength == 0 && payloadCRC == 0)
    else { return nil }
  }

  package init(
    lsn: UInt64, payloadLength: Int, recordCount: Int, payloadCRC: UInt32, kind: Kind, run: UInt32,
    time: Int64
  ) {
    self.lsn = lsn
    self.payloadLength = payloadLength
    self.recordCount = recordCount
    self.payloadCRC = payloadCRC
    self.kind = kind
    self.run = run
    self.time = time
  }

  /// How many bits of magic and LSN are not as they must be: 0 or 1 where a header was harmed or not
  /// written whole, many more where something else lies.
  package static func differingBits(_ bytes: UnsafeRawPointer, lsn: UInt64) -> Int {
    unsafe (bytes.load32(0) ^ magic).nonzeroBitCount + (bytes.load64(8) ^ lsn).nonzeroBitCount
  }

  /// As it stands, whatever it is worth.
  package static func payloadLength(of bytes: UnsafeRawPointer) -> Int {
    unsafe Int(bytes.load32(16))
  }

  private static func checksum(ofHeader bytes: UnsafeRawPointer, salt: UInt32) -> UInt32 {
    unsafe hf_crc32c(salt, bytes + 8, byteCount - 8)
  }
}

/// The names of a log's files. Whoever keeps other files beside them adds names of its own.
package enum FileNames {
  package static let newSegment = "segment.tmp"
  /// Where the journal ended at the last orderly stop (ClosingRecord.swift).
  package static let closing = "journal.closed"
  package static let newClosing = "journal.closed.tmp"

  private static let segmentPrefix = "journal-"
  /// As many as UInt64.max has, so that names sort as their numbers do.
  private static let digits = 20

  package static func segment(_ sequence: UInt64) -> String { name(segmentPrefix, sequence) }

  /// nil where it is not the name of a segment.
  package static func segmentSequence(_ name: String) -> UInt64? {
    number(name, segmentPrefix).flatMap { $0 > 0 ? $0 : nil }
  }

  /// A name that ends with a number.
  package static func name(_ prefix: String, _ number: UInt64) -> String {
    let text = String(number)
    return prefix + String(repeating: "0", count: digits - text.utf8.count) + text
  }

  /// The number that such a name ends with; nil where it is none.
  package static func number(_ name: String, _ prefix: String) -> UInt64? {
    let text = name.utf8.dropFirst(prefix.utf8.count)
    guard name.hasPrefix(prefix), text.count == digits,
      text.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) })
    else { return nil }
    return UInt64(Substring(text))
  }
}

// Fields at their offsets. Little endian, at any alignment; the caller has checked the bounds.
extension UnsafeRawPointer {
  @inline(__always)
  package func load32(_ offset: Int) -> UInt32 {
    unsafe UInt32(littleEndian: loadUnaligned(fromByteOffset: offset, as: UInt32.self))
  }

  @inline(__always)
  package func load64(_ offset: Int) -> UInt64 {
    unsafe UInt64(littleEndian: loadUnaligned(fromByteOffset: offset, as: UInt64.self))
  }
}

extension UnsafeMutableRawPointer {
  @inline(__always)
  package func store32(_ value: UInt32, _ offset: Int) {
    unsafe storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt32.self)
  }

  @inline(__always)
  package func store64(_ value: UInt64, _ offset: Int) {
    unsafe storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt64.self)
  }
}
