/// A place between two batches of the journal.
struct JournalPosition: Equatable, Sendable {
  /// The segment, from 1.
  var sequence: UInt64
  /// Byte offset in the segment's file: where the next batch begins.
  var offset: Int
  /// Log sequence number: bytes of records before this place, since the directory was made.
  var lsn: UInt64
  /// Of the batch before: how often the directory had been opened.
  var run: UInt32
  /// Decisions before this place, since the directory was made.
  var decisions: UInt64
}
