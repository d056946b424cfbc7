package import Posix

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
  /// Where the journal was read from.
  package let checkpointLSN: UInt64
  /// Decisions read from the journal.
  package let recordsReplayed: UInt64
  package let journalBytesRead: UInt64
  /// Bytes of a batch that a crash has cut short: nobody was told of what was in it.
  package let tornBytes: Int
  package let seconds: Double
  /// The directory was empty, or nothing was ever recorded in it.
  package let isNew: Bool
}

/// How far the reading of a journal has come.
package struct RecoveryProgress: Sendable {
  /// Decisions read so far.
  package let records: UInt64
  /// Of the journal.
  package let bytes: UInt64
  package let seconds: Double
}
