// The seam between an owner of the store and a log that several machines can write to, of which one may: batches
// behind each other, under an epoch, in a database that keeps each of them on more than one machine.
//
// An owner is whoever took the log last. It appends, and renews its lease with every append; while that holds,
// nobody else takes the log, and what the owner answers from memory is the newest there is.

/// Where the log stands, and whose it is.
package struct LogState: Equatable, Sendable {
  /// The owner's: 0 while nobody has ever had it.
  package var epoch: UInt32
  /// Another number with all that the owner does, which never comes again: while it does not change, no owner is
  /// heard of.
  package var beats: UInt64
  /// Behind the newest batch.
  package var endLSN: UInt64
  /// Batches before are not kept.
  package var trimmedLSN: UInt64
  /// The owner's name, and where clients reach it. Without a name it was given up: whoever wants it takes it.
  package var owner: String
  package var address: String
  /// The owner's, in nanoseconds: nobody takes the log for so long after it was heard of. nil where it does not say: an
  /// older server, or none.
  package var lease: Int64?
  /// There is a store in it. Until `begin` there is none.
  package var hasBegun: Bool
  /// Somebody has asked the owner to give it up.
  package var isWanted: Bool

  package init(
    epoch: UInt32, beats: UInt64, endLSN: UInt64, trimmedLSN: UInt64, owner: String,
    address: String, lease: Int64?, hasBegun: Bool, isWanted: Bool
  ) {
    self.hasBegun = hasBegun
    self.isWanted = isWanted
    self.epoch = epoch
    self.beats = beats
    self.endLSN = endLSN
    self.trimmedLSN = trimmedLSN
    self.owner = owner
    self.address = address
    self.lease = lease
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
  /// What tells it from any other at its place (LogPoint).
  package let mark: UInt64
  /// Header and records.
  package let bytes: UnsafeRawBufferPointer

  @unsafe package init(
    lsn: UInt64, byteCount: Int, epoch: UInt32, sequence: UInt64, offset: Int, mark: UInt64,
    bytes: UnsafeRawBufferPointer
  ) {
    self.lsn = lsn
    self.byteCount = byteCount
    self.epoch = epoch
    self.sequence = sequence
    self.offset = offset
    self.mark = mark
    unsafe self.bytes = bytes
  }

  package var endLSN: UInt64 { lsn &+ UInt64(byteCount) }
}

/// A batch by its name: where it begins, and its mark.
package struct BatchName: Equatable, Sendable {
  package var lsn: UInt64
  package var mark: UInt64

  package init(lsn: UInt64, mark: UInt64) {
    self.lsn = lsn
    self.mark = mark
  }
}

/// A whole checkpoint in the log, and its name there: two machines may have put one of the same place.
package struct KeptCheckpoint: Equatable, Sendable {
  package var name: UInt64
  package var lsn: UInt64

  package init(name: UInt64, lsn: UInt64) {
    self.name = name
    self.lsn = lsn
  }
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
  /// - Throws: `fenced`; `unreachable` when it is closed.
  func beat(epoch: UInt32) throws(JournalError)

  /// Gives the log up, for whoever wants it. The owner appends nothing more, and answers nothing.
  /// - Throws: `fenced`; `unreachable`.
  func release(epoch: UInt32) throws(JournalError)

  /// Asks the owner to give it up.
  /// - Throws: `unreachable`.
  func want() throws(JournalError)

  /// Whether the log ends at `lsn`, behind that batch, for certain: a quorum has heard it asked.
  /// - Parameter last: nil: there is none, what is before is a checkpoint's.
  /// - Throws: `fenced`; `unreachable` when it is closed.
  func ends(at lsn: UInt64, behind last: BatchName?, epoch: UInt32) throws(JournalError) -> Bool

  /// Until when nobody else takes the log, for certain: in nanoseconds of the steady clock.
  var leaseEnd: Int64 { get }

  /// Calls `body` with batches from the one that begins at `lsn` on, until about `bytesMax` bytes were read.
  /// What is read there may be taken back until `take` has been acknowledged.
  /// - Parameter last: the batch before, as the caller has it; nil where it has none.
  /// - Returns: where to go on.
  /// - Throws: `takenBack` where the batch before is another; `trimmed`; `unreachable`; what `body` throws.
  func read(
    from lsn: UInt64, behind last: BatchName?, bytesMax: Int,
    _ body: (PlacedBatch) throws(JournalError) -> Void
  ) throws(JournalError) -> UInt64

  /// Makes a log that has not begun one that ends at `endLSN`, where a checkpoint says what was before.
  /// - Parameter nextPart: as for `putCheckpoint`.
  /// - Throws: `fenced`; `unreachable`.
  func begin(
    at endLSN: UInt64, epoch: UInt32, _ nextPart: () throws(JournalError) -> [UInt8]?
  ) throws(JournalError)

  /// Gives up batches before `lsn`, which a checkpoint replaces.
  /// Nothing is given up where no whole checkpoint begins there or behind.
  func trim(before lsn: UInt64) throws(JournalError)

  /// Whole checkpoints, ascending.
  func checkpoints() throws(JournalError) -> [KeptCheckpoint]

  /// Puts a checkpoint there, part by part; `nextPart` says nil behind the last. All that it shows was
  /// acknowledged before.
  func putCheckpoint(
    _ lsn: UInt64, _ nextPart: () throws(JournalError) -> [UInt8]?
  ) throws(JournalError)

  /// Calls `body` with the parts of a checkpoint in order.
  /// - Throws: `trimmed` where it is not there any more; `lost` where a part is not; `unreachable`; what `body`
  ///   throws.
  func getCheckpoint(
    _ checkpoint: KeptCheckpoint, _ body: (UnsafeRawBufferPointer) throws(JournalError) -> Void
  ) throws(JournalError)

  /// Removes a checkpoint, where there is a newer one.
  func removeCheckpoint(_ checkpoint: KeptCheckpoint) throws(JournalError)

  /// Ends what waits.
  func close()
}
