// A checkpoint: the whole state, written beside the running store. All numbers are little endian.
//
// The file is one block behind the other: a header, blocks of items, blocks of sales under limits, blocks of
// reservations, an end.
// It is valid if and only if every block is, they come in that order, the end's totals are those of the
// blocks, and nothing follows the end. A block is 32 bytes, then its payload; it is valid if and only if
// its checksum is right, its place is where it lies, and it names the checkpoint that it is in.
//
//   block      0  4  magic                          4  4  CRC32C of all behind it, payload included
//              8  8  place: its offset in the file 16  8  the checkpoint's start: log sequence number
//             24  4  length of the payload         28  4  kind: 1 header, 2 items, 3 reservations, 4 end,
//                                                        20 sales
//
//   header     0  4  version of the format          4  4  shards
//              8 16  id of the store               24 16  secret
//             40  8  bytes of a segment            48  8  start: segment
//             56  8  start: offset in it           64  8  start: log sequence number
//             72  8  start: decisions              80  4  start: run
//             84  4  cap of the subjects' entries; 0 where no version knew of any
//             88  8  time                          96  8  cap of the items
//            104  8  cap of the reservations      112  8  retention in nanoseconds
//            120  8  time up to which decisions were made by the first release, 0: none (not in version 1)
//            128  8  version that an item is made with (not in version 1, where it is 1)
//
//   item       0  4  number                         4  1  length of the SKU
//              5  1  length of the location         6  2  1 where units are committed, plus 2 where it has
//                                                         a sale window, plus 4 where it was removed,
//                                                         plus 8 where it ever was
//              8  8  version                       16  8  on hand
//             24  8  held                          32  8  safety stock
//             40  8  log sequence number of its last change
//             48  8  committed, where there is
//              … 24  sale window, where it has one: lower bits 4, zero 4, from 8, until 8
//              …  8  log sequence number of its last removal, where it ever was removed
//              …  …  SKU, location; zeros up to a multiple of 8
//
//   sales      0 16  subject: a keyed hash of its name
//             16  4  item                         20  4  zero
//             24  8  units sold to it under a limit
//             32  8  log sequence number of the last of these sales
//   A subject and item may come twice, the later with the higher number. Those to whom nothing was sold have none:
//   what they hold follows from the reservations.
//
//   chunk      0  4  number: 64 slots from 64 times it
//              4  4  shard                          8  8  stamp: the log's end when it was copied
//             16  4  slots in use                  20  4  zero; then each slot in use:
//     slot     0  1  which of the 64
//              1  1  kind: 1 held, 2 confirmed, 3 confirmed in part, 4 released, 5 expired, 9 adjusted,
//                    10 refused for unknown items, 6 for lack of units, 8 for more on hand than may be,
//                    7 for an unknown line (the first release), 11 the answer to a Replace; 16 and 17: 2 and 3
//                    whose units stay on hand as committed; 18 refused for lack of committed units; 20 refused for
//                    a limit; 32 refused because items are not on sale; 40 adjusted together, whose lines are
//                    balances; 41 an import; 42 an item was removed, 43 refused since it is not empty
//              2  1  number of lines
//              3  1  flags: 1 details behind the lines, 2 a choice before them, 4 details that end with limits
//              4  4  generation
//              8 16  identity                      24  8  fingerprint
//             32  8  created at
//             40  8  first number                  48  8  second number
//             56  8  ended at, or owner
//             64  8  log sequence number of its last change
//             72  8  of a reservation that is not simply what was asked for: its choice, as the journal's part 6
//                    has it (RecordFormat.swift); how many of the lines, the last ones, are those that the first
//                    answer told, where they are others by now; zeros
//              …  …  16 for each line: item 4, zero 4, quantity 8
//              …  …  details: revision 8, length of the reference 1, reference; where there are limits, their length
//                    2 and the limits (RecordFormat.swift); zeros up to a multiple of 8
//
//   end        0  8  items                          8  8  slots in use
//             16  8  chunks                        24  8  the log's end after the last block
//             32  8  offset of the first block of reservations
//             40  8  sales (version 1: smallest generation for slots that are not in use)
//             48  8  time after the last block: what was forgotten by then is not in the chunks
//
// Of a hold, live or expired, the owner stands where others have their end: bit 63, and 63 bits of a keyed
// hash of the caller's name. Without it, a live hold has 0 there and an expired one when it expired: the
// caller had no name, or an older version wrote the file. Those versions read it too, but forget at once
// what has expired under a caller's name.
//
// The two numbers and the lines, by kind:
//   reservations (1 to 5, 16, 17)  expires at; first expires at; a line for each item
//   lack of units (6)          units requested; units available; one line with the item and how many alternatives
//                              were tried (0: there were none), then two for each further item that lacks
//                              units: requested, available
//   unknown items (10)         0; 0; one line: the place of the first and, as its quantity, the places of all
//                              as bits (RecordFormat.swift)
//   unknown line (7)           0; 0; one line: its number, and quantity 0
//   more on hand (8)           0; 0; no lines, or one where the change is not the first: its number, and quantity 0
//   lack of committed (18)     units requested; units committed; one line with the item and quantity 0
//   a limit (20)               units requested; units that the subject has; one line with the item and quantity 0;
//                              details with the limit
//   not on sale (32)           of the first item's window, from and until; one line with the item and the window's
//                              lower bits, then two for each further item: item and from, lower bits and until
//   removed (42)               0; 0; no lines
//   not empty (43)             on hand; held; one line with the item and what is committed
//   adjusted (9)               on hand; held; one line with the item and its safety stock, one with 0 and the
//                              version, and where units are committed, or there is a sale window, one with 0 and
//                              these; then of the window one with lower bits and from, one with 0 and until
//   adjusted together (40)     0; 0; for each item in the place of a line, as numbers of seven bits a byte (Varint.swift):
//                              item, version, on hand, held, committed, safety stock, which may be below zero;
//                              behind the last, zeros up to a multiple of 8
//   import (41)                rows that are done; 0; no lines. Its identity is that of its id; it ended with its last row
//   answer to a Replace (11)   as the reservation was right after: expires at; created at; one line with slot and
//                              tag of its id, one with generation and 0, then a line for each item; details
//
// Versions: 1 is the first release's. 2 knows of it up to when it made decisions, since their ids have
// other tags (StoreCore.idTag), and of repairs, which lift versions (Repair.swift). 3 stands before records with
// parts (RecordFormat.swift). Whoever opens a directory of an older version to go on with it writes a checkpoint of
// the newest before anything else, which the older program refuses to read. Every version begins with a header block whose payload begins with its version: so one that
// is newer than the reader is told from damage.
internal import Bytes
internal import CPlatform
internal import Log
internal import StockStore

/// What a data directory was made with: it stays so.
struct DirectoryIdentity: Sendable {
  var storeID: StoreID
  /// Of all keyed hashes.
  var secret: SipKey
  var shardCount: Int
  var segmentBytes: Int

  /// Of the journal.
  var log: LogIdentity {
    LogIdentity(
      storeID: storeID, key: JournalKey(secret: secret), segmentBytes: segmentBytes)
  }
}

enum BlockKind: UInt32 {
  case header = 1
  case items = 2
  case reservations = 3
  case end = 4
  case sales = 20
}

enum CheckpointFlags {
  /// Of an item.
  static let itemHasCommitted: UInt16 = 1
  static let itemHasSale: UInt16 = 2
  /// What is left of an item that was removed.
  static let itemIsRemoved: UInt16 = 4
  /// It was removed once, and made again or not.
  static let itemHasRemoval: UInt16 = 8
  static let ofItem = itemHasCommitted | itemHasSale | itemIsRemoved | itemHasRemoval
  /// Of a slot.
  static let slotHasDetails: UInt8 = 1
  static let slotHasChoice: UInt8 = 2
  /// Besides `slotHasDetails`.
  static let slotHasLimits: UInt8 = 4
  static let ofSlot = slotHasDetails | slotHasChoice | slotHasLimits
}

/// What stands before a block's payload.
struct BlockHeader {
  static let byteCount = 32
  static let magic: UInt32 = 0x4b43_4648
  /// Where the part begins that the checksum is of.
  static let checkedOffset = 8

  var checksum: UInt32
  var place: UInt64
  var checkpointLSN: UInt64
  var payloadBytes: Int
  var kind: BlockKind

  /// nil where the magic is another, the kind unknown, or the payload longer than any.
  init?(_ fields: inout FieldReader) {
    let magic: UInt32 = fields.next()
    checksum = fields.next()
    place = fields.next()
    checkpointLSN = fields.next()
    let payloadBytes: UInt32 = fields.next()
    let kind = BlockKind(rawValue: fields.next())
    guard magic == Self.magic, let kind, payloadBytes <= BlockBuilder.payloadBytesMax,
      !fields.hasFailed
    else { return nil }
    self.payloadBytes = Int(payloadBytes)
    self.kind = kind
  }
}

struct CheckpointHeader: Sendable {
  static let version: UInt32 = 3
  static let byteCount = 136

  var identity: DirectoryIdentity
  /// Every decision before it is in the checkpoint.
  var start: JournalPosition
  /// When it was begun, in nanoseconds since the Unix epoch.
  var time: Int64
  /// The limits of the store that wrote it, or what it has beyond them.
  var itemsMax: Int
  var reservationsMax: Int
  var subjectEntriesMax: Int
  var retentionNanoseconds: Int64
  /// As StoreCore's; all time where it is of version 1.
  var firstReleaseUntil: Int64
  /// As StoreCore's.
  var firstVersion: UInt64
  /// Of the format of the file.
  let version: UInt32

  init(identity: DirectoryIdentity, start: JournalPosition, time: Int64, core: StoreCore) {
    version = Self.version
    firstReleaseUntil = core.firstReleaseUntil
    firstVersion = core.firstVersion
    self.identity = identity
    self.start = start
    self.time = time
    itemsMax = core.items.capacity
    reservationsMax = max(
      min(core.limits.reservationsMax, Int(UInt32.max)), Int(core.slab.slotCount))
    subjectEntriesMax = max(core.limits.subjectEntriesMax, core.subjects.count)
    retentionNanoseconds = core.limits.retentionNanoseconds
  }

  func write(to block: inout BlockBuilder) {
    block.append(Self.version)
    block.append(UInt32(truncatingIfNeeded: identity.shardCount))
    block.append(identity.storeID.low)
    block.append(identity.storeID.high)
    block.append(identity.secret.low)
    block.append(identity.secret.high)
    block.append(UInt64(clamping: identity.segmentBytes))
    block.append(start.sequence)
    block.append(UInt64(clamping: start.offset))
    block.append(start.lsn)
    block.append(start.counted)
    block.append(start.run)
    block.append(UInt32(clamping: subjectEntriesMax))
    block.append(time)
    block.append(UInt64(clamping: itemsMax))
    block.append(UInt64(clamping: reservationsMax))
    block.append(retentionNanoseconds)
    block.append(firstReleaseUntil)
    block.append(firstVersion)
  }

  /// nil where a field is missing or out of its range.
  init?(_ fields: inout FieldReader) {
    version = fields.next()
    let shardCount: UInt32 = fields.next()
    let storeID = StoreID(low: fields.next(), high: fields.next())
    let secret = SipKey(low: fields.next(), high: fields.next())
    let segmentBytes: UInt64 = fields.next()
    let sequence: UInt64 = fields.next()
    let offset: UInt64 = fields.next()
    let lsn: UInt64 = fields.next()
    let counted: UInt64 = fields.next()
    let run: UInt32 = fields.next()
    let subjectEntriesMax: UInt32 = fields.next()
    time = fields.next()
    let itemsMax: UInt64 = fields.next()
    let reservationsMax: UInt64 = fields.next()
    retentionNanoseconds = fields.next()
    firstReleaseUntil = version == 1 ? .max : fields.next()
    firstVersion = version == 1 ? 1 : fields.next()
    guard !fields.hasFailed, fields.isAtEnd, 1...Self.version ~= version,
      subjectEntriesMax <= 1 << 30,
      shardCount.nonzeroBitCount == 1, shardCount <= StoreCore.shardsMax,
      let segmentBytes = Int(exactly: segmentBytes), let offset = Int(exactly: offset),
      let itemsMax = Int(exactly: itemsMax), itemsMax <= 1 << 31,
      let reservationsMax = Int(exactly: reservationsMax), reservationsMax <= UInt32.max,
      retentionNanoseconds >= 0, RecoveryLimits.isPossible(time: time), firstReleaseUntil >= 0,
      1..<(UInt64.max >> 2) ~= firstVersion
    else { return nil }
    identity = DirectoryIdentity(
      storeID: storeID, secret: secret, shardCount: Int(shardCount), segmentBytes: segmentBytes)
    start = JournalPosition(
      sequence: sequence, offset: offset, lsn: lsn, run: run, counted: counted)
    guard start.isPossible(segmentBytes: segmentBytes) else { return nil }
    self.itemsMax = itemsMax
    self.reservationsMax = reservationsMax
    self.subjectEntriesMax = Int(subjectEntriesMax)
  }
}

struct CheckpointEnd: Equatable, Sendable {
  static let byteCount = 56

  var items: UInt64 = 0
  /// Slots in use.
  var records: UInt64 = 0
  var chunks: UInt64 = 0
  /// The checkpoint is a state that existed once the journal is replayed up to here.
  var endLSN: UInt64 = 0
  var reservationsOffset: UInt64 = 0
  var sales: UInt64 = 0
  /// Nanoseconds since the Unix epoch. No later start may find it earlier.
  var time: Int64 = 0

  init() {}

  func write(to block: inout BlockBuilder) {
    block.append(items)
    block.append(records)
    block.append(chunks)
    block.append(endLSN)
    block.append(reservationsOffset)
    block.append(sales)
    block.append(time)
  }

  /// nil where a field is missing.
  init?(_ fields: inout FieldReader) {
    items = fields.next()
    records = fields.next()
    chunks = fields.next()
    endLSN = fields.next()
    reservationsOffset = fields.next()
    sales = fields.next()
    time = fields.next()
    guard !fields.hasFailed, fields.isAtEnd, RecoveryLimits.isPossible(time: time) else {
      return nil
    }
  }
}

/// The names of the files beside the log's.
extension FileNames {
  static let newCheckpoint = "checkpoint.tmp"
  /// Empty; there while a repair is on its way.
  static let unfinishedRepair = "repair.unfinished"

  /// What a backup says of itself (BackupManifest.swift).
  static let backup = "backup"

  /// The directory is a copy of a log that is kept elsewhere (CopyMark.swift).
  package static let copy = "copy-of-a-log"
  static let newCopy = "copy-of-a-log.tmp"
  /// What a copy had that the log has not: kept for whoever wants to know.
  static let asidePrefix = "set-aside."

  private static let checkpointPrefix = "checkpoint-"

  static func checkpoint(_ lsn: UInt64) -> String { name(checkpointPrefix, lsn) }

  /// nil where it is not the name of a checkpoint.
  static func checkpointLSN(_ name: String) -> UInt64? { number(name, checkpointPrefix) }
}
