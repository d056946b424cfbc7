package import Log
package import Posix
package import StockStore

/// What was found in a data directory.
package struct RecoverySummary: Sendable {
  /// Decisions since the directory was made.
  package let decisions: UInt64
  /// The log sequence number of the newest.
  package let lsn: UInt64
  /// Of the state as it was left, before anything else happens to it.
  package let digest: StateDigest
  /// The newest time in the directory: what the digest counts retention by.
  package let time: Timestamp
  package let items: Int
  package let liveReservations: Int
  /// Live reservations included.
  package let recordedDecisions: Int
  /// Checkpoints that are damaged; another, and the journal since that, have all that they should.
  package var damagedCheckpoints: [Damage]
  /// Where the journal was read from.
  package let checkpointLSN: UInt64
  /// Decisions read from the journal.
  package let recordsReplayed: UInt64
  package let journalBytesRead: UInt64
  /// Bytes of a batch that is not whole behind the journal's end: it was being written when the process before
  /// ended, or was harmed since. Nothing in the directory says which.
  package let tornBytes: Int
  package let seconds: Double
  /// This opening has made the directory.
  package let isNew: Bool
  /// Whether the journal ends where it did when its server was stopped in an orderly way; nil where none ever
  /// was, or by a version that did not write that down.
  package let wasClosed: Bool?
}

/// How far the reading of a journal has come.
package struct RecoveryProgress: Sendable {
  /// Decisions read so far.
  package let records: UInt64
  /// Of the journal.
  package let bytes: UInt64
  package let seconds: Double
}
