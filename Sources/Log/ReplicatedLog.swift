// The seam between an owner of the store and a log that several machines can write to, of which one may: batches
// behind each other, under an epoch, in a database that keeps each of them on more than one machine.
//
// An owner is whoever took the log last. It appends, and renews its lease with every append; while that holds,
// nobody else takes the log, and what the owner answers from memory is the newest there is.

/// Where the log stands, and whose it is.
package struct LogState: Equatable, Sendable {
  /// The owner's: 0 while nobody has ever had it.
  package var epoch: UInt32
  /// Counts what the owner does: while it does not change, no owner is heard of.
  package var beats: UInt64
  /// Behind the newest batch.
  package var endLSN: UInt64
  /// Batches before are not kept.
  package var trimmedLSN: UInt64
  /// The owner's name, and where clients reach it.
  package var owner: String
  package var address: String

  package init(
    epoch: UInt32, beats: UInt64, endLSN: UInt64, trimmedLSN: UInt64, owner: String, address: String
  ) {
    self.epoch = epoch
    self.beats = beats
    self.endLSN = endLSN
    self.trimmedLSN = trimmedLSN
    self.owner = owner
    self.address = address
  }
}

/// A batch as it stands in a segment, and where: so a copy of the log is the same to the byte. Borrowed for the
/// length of a call.
@safe package struct PlacedBatch {
  package let lsn: UInt64
  /// Bytes of records.
  package let byteCount: Int
  package let epoch: UInt32
  /// The segment, and the offset of the batch in it.
  package let sequence: UInt64
  package let offset: Int
  /// CRC32C of `bytes`.
  package let checksum: UInt32
  /// Header and records.
  package let bytes: UnsafeRawBufferPointer

  @unsafe package init(
    lsn: UInt64, byteCount: Int, epoch: UInt32, sequence: UInt64, offset: Int, checksum: UInt32,
    bytes: UnsafeRawBufferPointer
  ) {
    self.lsn = lsn
    self.byteCount = byteCount
    self.epoch = epoch
    self.sequence = sequence
    self.offset = offset
    self.checksum = checksum
    unsafe self.bytes = bytes
  }

  package var endLSN: UInt64 { lsn &+ UInt64(byteCount) }
}

/// Errors as BatchLog's. What is in doubt, because a connection was cut while the log had not answered, is
/// resolved inside: `append` and `beat` return when it is certain, however long that takes.
package protocol ReplicatedLog: AnyObject, Sendable {
  /// - Throws: `unreachable`.
  func state() throws(JournalError) -> LogState

  /// Takes the log, if nothing has happened since `seen`: from then on nobody appends under a lower epoch.
  /// - Returns: nil where something has.
  func take(
    after seen: LogState, owner: String, address: String
  ) throws(JournalError) -> LogState?

  /// Appends a batch where the log ends; it is on several machines on return.
  /// - Throws: `fenced`; `damaged` where the log has lost what it had; `unreachable` when it is closed.
  func append(_ batch: PlacedBatch) throws(JournalError)

  /// Says that the owner is there, where it appends nothing.
  func beat(epoch: UInt32) throws(JournalError)

  /// Until when nobody else takes the log, for certain: in nanoseconds of the steady clock.
  var leaseEnd: Int64 { get }

  /// Calls `body` with batches from the one that begins at `lsn` on, until about `bytesMax` bytes were read.
  /// What is read there may be taken back until `take` has been acknowledged.
  /// - Returns: where to go on.
  /// - Throws: `trimmed`; `unreachable`; `damaged` where a batch is not as it was written; what `body` throws.
  func read(
    from lsn: UInt64, bytesMax: Int, _ body: (PlacedBatch) throws(JournalError) -> Void
  ) throws(JournalError) -> UInt64

  /// Gives up batches before `lsn`, which a checkpoint replaces.
  /// Nothing is given up where no whole checkpoint begins there or behind.
  func trim(before lsn: UInt64) throws(JournalError)

  /// The log sequence numbers of whole checkpoints, ascending.
  func checkpoints() throws(JournalError) -> [UInt64]

  /// Puts a checkpoint there, part by part; `nextPart` says nil behind the last.
  func putCheckpoint(
    _ lsn: UInt64, _ nextPart: () throws(JournalError) -> [UInt8]?
  ) throws(JournalError)

  /// Calls `body` with the parts of a checkpoint in order.
  func getCheckpoint(
    _ lsn: UInt64, _ body: (UnsafeRawBufferPointer) throws(JournalError) -> Void
  ) throws(JournalError)

  func removeCheckpoint(_ lsn: UInt64) throws(JournalError)

  /// Ends what waits.
  func close()
}
