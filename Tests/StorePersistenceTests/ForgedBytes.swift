// Files that no server has written, with checksums that are right.
import Bytes
import Log
import LogFixtures
import Posix
import Testing

@testable import StockStore
@testable import StorePersistence

extension TestJournal {
  /// Writes an empty checkpoint, at the journal's beginning, that needs it up to `end`.
  func writeCheckpoint(end: UInt64) throws {
    let limits = StoreLimits(
      linesPerReservation: 64, quantityMax: 1 << 40, ttlNanosecondsMin: 1,
      ttlNanosecondsDefault: 1, holdNanosecondsMax: 2, retentionNanoseconds: 1, itemsMax: 10,
      reservationsMax: 100)
    let secret = Self.secret
    let core = StoreCore(
      limits: limits, concurrency: .optimistic, secret: (secret.low, secret.high), now: 0,
      log: LogRing(shape: .decisions))
    defer { core.free() }
    core.log.resume(after: end)
    let identity = DirectoryIdentity(
      storeID: Self.storeID, secret: secret, shardCount: StoreCore.shardCount(limits),
      segmentBytes: segmentBytes)
    let start = JournalPosition(
      sequence: 1, offset: SegmentHeader.blockBytes, lsn: 0, run: 0, counted: 0)
    let writer = try CheckpointWriter(
      core: core, storage: storage, identity: identity, start: start,
      time: Timestamp(nanoseconds: 0))
    while try writer.step() {}
    try writer.finish()
  }
}

/// A checkpoint's bytes as its format has them.
enum CheckpointBytes {
  /// Offsets of a slot in the file, by what is recorded there.
  static func slots(_ bytes: [UInt8]) -> [RecordKind: Int] {
    var slots: [RecordKind: Int] = [:]
    for (place, end) in blocks(bytes) where bytes[place + 28] == BlockKind.reservations.rawValue {
      var chunk = place + BlockHeader.byteCount
      while chunk < end {
        var slot = chunk + 24
        for _ in 0..<number(bytes, at: chunk + 16, byteCount: 4) {
          if let kind = RecordKind(rawValue: bytes[slot + 1]) { slots[kind] = slot }
          let hasChoice = bytes[slot + 3] & CheckpointFlags.slotHasChoice != 0
          slot += 72 + (hasChoice ? 8 : 0) + 16 * number(bytes, at: slot + 2, byteCount: 1)
        }
        chunk = slot
      }
    }
    return slots
  }

  /// Where the first block of a kind begins.
  static func block(_ kind: BlockKind, _ bytes: [UInt8]) -> Int? {
    blocks(bytes).first { bytes[$0.place + 28] == kind.rawValue }?.place
  }

  static func number(_ bytes: [UInt8], at offset: Int, byteCount: Int) -> Int {
    (0..<byteCount).reduce(0) { $0 | Int(bytes[offset + $1]) << (8 * $1) }
  }

  static func put(_ value: UInt64, _ byteCount: Int, at offset: Int, _ bytes: inout [UInt8]) {
    for index in 0..<byteCount {
      bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * index))
    }
  }

  /// As far as the blocks can be told apart.
  private static func blocks(_ bytes: [UInt8]) -> [(place: Int, end: Int)] {
    var blocks: [(place: Int, end: Int)] = []
    var place = 0
    while place + BlockHeader.byteCount <= bytes.count {
      let end = place + BlockHeader.byteCount + number(bytes, at: place + 24, byteCount: 4)
      guard end <= bytes.count else { break }
      blocks.append((place, end))
      place = end
    }
    return blocks
  }

  /// Gives every block another checkpoint to be in.
  static func setLSN(_ lsn: UInt64, _ bytes: inout [UInt8]) {
    for block in blocks(bytes) { put(lsn, 8, at: block.place + 16, &bytes) }
    put(lsn, 8, at: BlockHeader.byteCount + 64, &bytes)
  }

  /// Makes the checksum of every block right.
  static func repairChecksums(_ bytes: inout [UInt8]) {
    for (place, end) in blocks(bytes) {
      let checksum = unsafe bytes.withUnsafeBytes { bytes in
        unsafe BatchHeader.checksum(
          UnsafeRawBufferPointer(rebasing: bytes[(place + BlockHeader.checkedOffset)..<end]),
          salt: 0)
      }
      put(UInt64(checksum), 4, at: place + 4, &bytes)
    }
  }
}

/// A segment's bytes.
enum SegmentBytes {
  /// Gives the header another version, with the right checksum.
  static func setVersion(_ version: UInt32, _ bytes: inout [UInt8]) {
    CheckpointBytes.put(UInt64(version), 4, at: 8, &bytes)
    let checksum = unsafe bytes.withUnsafeBytes { bytes in
      let first = unsafe BatchHeader.checksum(
        UnsafeRawBufferPointer(rebasing: bytes[0..<12]), salt: 0)
      return unsafe BatchHeader.checksum(
        UnsafeRawBufferPointer(rebasing: bytes[16..<64]), salt: first)
    }
    CheckpointBytes.put(UInt64(checksum), 4, at: 12, &bytes)
  }
}
