/// A place between two batches of the journal.
package struct JournalPosition: Equatable, Sendable {
  /// The segment, from 1.
  package var sequence: UInt64
  /// Byte offset in the segment's file: where the next batch begins.
  package var offset: Int
  /// Log sequence number: bytes of records before this place, since the directory was made.
  package var lsn: UInt64
  /// Of the batch before: how often the directory had been opened.
  package var run: UInt32
  /// Counted records before this place, since the directory was made (RecordShape).
  package var counted: UInt64

  package init(sequence: UInt64, offset: Int, lsn: UInt64, run: UInt32, counted: UInt64) {
    self.sequence = sequence
    self.offset = offset
    self.lsn = lsn
    self.run = run
    self.counted = counted
  }

  /// Whether a log can be there: numbers from a disk may be anything, and none may be so high that it
  /// cannot be counted on from.
  package func isPossible(segmentBytes: Int) -> Bool {
    SegmentHeader.isPossible(segmentBytes: segmentBytes) && offset >= SegmentHeader.blockBytes
      && offset <= segmentBytes && offset % 8 == 0 && sequence > 0 && sequence <= Self.countMax
      && lsn <= Self.countMax && lsn % 8 == 0 && counted <= Self.countMax && run < UInt32.max
  }

  /// More bytes, segments or records than any log comes to.
  package static var countMax: UInt64 { 1 << 62 }
}
