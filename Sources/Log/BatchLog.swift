// The seam between group commit and where the log is kept: batches of records, one behind the other, under
// an epoch. DirectoryLog keeps them in a directory's segments. A log that is replicated fits in here: the
// batch is its unit too, and "behind `end`, under `epoch`" its compare-and-append.

/// A place between two batches, wherever they are kept.
package struct LogEnd: Equatable, Sendable {
  /// Log sequence number: bytes of records before this place, since the log was made.
  package var lsn: UInt64
  /// Counted records before this place, since the log was made (LogRing).
  package var counted: UInt64

  package init(lsn: UInt64, counted: UInt64) {
    self.lsn = lsn
    self.counted = counted
  }
}

/// The records of one batch, where they lie: in two pieces, since a ring has an end. Borrowed for the
/// length of a call: who needs them longer copies them.
@safe package struct RecordGroup {
  package let first: UnsafeRawBufferPointer
  package let second: UnsafeRawBufferPointer
  package let recordCount: Int
  /// How many of the records are counted.
  package let countedCount: Int

  @unsafe package init(
    first: UnsafeRawBufferPointer, second: UnsafeRawBufferPointer, recordCount: Int,
    countedCount: Int
  ) {
    unsafe self.first = first
    unsafe self.second = second
    self.recordCount = recordCount
    self.countedCount = countedCount
  }

  /// Bytes of all records.
  package var byteCount: Int { unsafe first.count + second.count }
}

/// What the log has to know of the records that it keeps. A record begins with its length, a u32 that is a
/// multiple of 8, and a byte that says its kind.
package struct RecordShape: Sendable {
  /// Bytes of the longest record.
  package let bytesMax: Int
  /// Records of this kind are not counted (`LogEnd.counted`).
  package let uncountedKind: UInt8

  package init(bytesMax: Int, uncountedKind: UInt8) {
    self.bytesMax = bytesMax
    self.uncountedKind = uncountedKind
  }
}

/// A log of batches. `append`, `makeRoom` and `admissibleBytes` are for one thread at a time, or as the
/// implementation says; `end` and `read` for any.
///
/// Of the errors, three are about the log itself. `fenced`: another epoch has begun, and nothing more can
/// be appended under this one; whoever owned the log ends. `unreachable`: nobody can say now whether the
/// batch was taken; the log may find out by itself, and until then nothing is acknowledged. `damaged`: what
/// was once durable is not there as it was written.
package protocol BatchLog: AnyObject, Sendable {
  /// Behind the newest batch that is durable.
  var end: LogEnd { get }

  /// The epoch under which this process appends: of a directory, its run.
  var epoch: UInt32 { get }

  /// Most bytes of records that the next batch can have; below 0 where it can have none.
  var batchBytesMax: Int { get }

  /// Goes on to where there is room for a batch, of which `batchBytesMax` has too little. False where there
  /// is none now.
  func makeRoom() throws(JournalError) -> Bool

  /// Bytes of records for which there is room behind `end` for certain, in up to `batchCount` batches. nil
  /// where the log has come to its limit and goes no further.
  func admissibleBytes(batchCount: Int) -> Int?

  /// Appends one batch behind `end`, as durable on return as the log makes anything. Nothing is appended
  /// where the log has another end, or another epoch.
  /// - Returns: the new end.
  /// - Throws: `fenced`, `unreachable`, `failed`; after `failed` with a lack of room to write nothing was
  ///   appended, and the same batch may be tried again.
  func append(
    _ group: RecordGroup, at end: LogEnd, epoch: UInt32
  ) throws(JournalError) -> LogEnd

  /// Calls `body` with the log sequence number and the records of each durable batch from the one that holds
  /// `lsn` on, in order, until about `bytesMax` bytes were read or the log ends.
  /// - Returns: the log sequence number to go on from.
  /// - Throws: `trimmed` where the log begins behind `lsn`; `damaged`, `failed`; what `body` throws.
  func read(
    from lsn: UInt64, bytesMax: Int,
    _ body: (UInt64, UnsafeRawBufferPointer) throws(JournalError) -> Void
  ) throws(JournalError) -> UInt64

  /// Where checkpoints of what the log says are kept: they are written from front to back.
  var checkpoints: any Storage { get }
}
