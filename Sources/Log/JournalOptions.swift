/// What a record must have outlived before it is acknowledged.
package enum Durability: String, Sendable, CaseIterable {
  /// A power cut: it is on the disk (write and fdatasync).
  case fsync
  /// The process: the system has it (write).
  case os
  /// This machine and its disk: a replicated log has it, and the system (ReplicatedLog.swift).
  case quorum
}

/// How the journal works. The values and the reasons for them stand in the executable's Limits.swift.
package struct JournalOptions: Sendable {
  package var durability: Durability
  /// Bytes of one segment file, a multiple of 4096. A directory keeps those that it was made with.
  package var segmentBytes: Int
  /// Bytes of records that wait in memory for the disk, a power of two from 16 KiB. Beyond it
  /// changes are refused.
  package var ringBytes: Int
  /// Most bytes of one group: one write and one sync.
  package var groupBytesMax: Int
  /// Segments ready beyond the one in use, at least 1.
  package var spareSegments: Int
  /// Segments of journal that start a checkpoint, at least 2. Bounds the disk in use, and the time that
  /// a start takes.
  package var checkpointSegments: Int
  /// Bytes of segments that are kept for readers beyond what a start needs, where the disk has room.
  package var historyBytes = 0
  /// Bytes of segments that are kept until the archive has them, where the disk has room; beyond it the archive
  /// goes without the oldest.
  package var unarchivedBytesMax = Int.max
  /// How often what the newest segment has so far is archived.
  package var archiveTailNanoseconds: Int64 = 60_000_000_000
  /// No byte of a file can stand at this offset or beyond (setrlimit(2), RLIMIT_FSIZE): then a segment has
  /// less room than its length says.
  package var fileBytesMax = Int.max
  /// A bug to make on purpose, for showing that the simulation finds it.
  package var fault: LogFault?

  package init(
    durability: Durability, segmentBytes: Int, ringBytes: Int, groupBytesMax: Int,
    spareSegments: Int, checkpointSegments: Int, fault: LogFault? = nil
  ) {
    self.durability = durability
    self.segmentBytes = segmentBytes
    self.ringBytes = ringBytes
    self.groupBytesMax = groupBytesMax
    self.spareSegments = spareSegments
    self.checkpointSegments = checkpointSegments
    self.fault = fault
  }

  /// The end of what can be written of a segment, in whole blocks.
  package var writableBytes: Int { min(segmentBytes, fileBytesMax) & -4096 }

  /// These options in a directory that was made with segments of `segmentBytes`: where these are smaller,
  /// less may wait in memory, since it has to fit those that are ready.
  package func fitting(segmentBytes: Int) -> JournalOptions {
    var options = self
    options.segmentBytes = segmentBytes
    if segmentBytes >= self.segmentBytes { return options }
    while options.ringBytes > max(segmentBytes / 2, LogRing.ringBytesMin) {
      options.ringBytes /= 2
    }
    options.groupBytesMax = min(groupBytesMax, options.ringBytes)
    return options
  }
}

/// Bugs that a log can have. Each stands at the line where somebody might make it, so that `make simulate`
/// can show, at any time, that it would be found.
package enum LogFault: String, Sendable, CaseIterable {
  /// Records count as durable once they are written.
  case acknowledgeBeforeSync = "acknowledge-before-sync"
  /// Renamed files may lose their new names.
  case skipDirectorySync = "skip-directory-sync"
  /// A batch is read whatever its checksum says.
  case acceptBadChecksum = "accept-bad-checksum"
  /// Segments are used again before the checkpoint that replaces them is safe.
  case recycleTooEarly = "recycle-too-early"
  /// Segments are used again though the older checkpoint, which stands in for the newest, needs them.
  case forgetFallback = "forget-fallback"
  /// A start does not ask where the journal ended when its server was stopped.
  case ignoreClosing = "ignore-closing"
  /// Readers are shown what is written and not synced.
  case watchBeforeSync = "watch-before-sync"
  /// Who reads on from one segment to the next passes over the first batch there.
  case watchPastBorder = "watch-past-border"
  /// Where what a point stands before is not kept any more, a reader goes on with the oldest that is.
  case watchPastHistory = "watch-past-history"
  /// A point is taken for one of this history by its number alone.
  case watchAnyHistory = "watch-any-history"
  /// The archive goes on with the segment after the next.
  case archiveSkipsSegment = "archive-skips-segment"
  /// What is archived gets its name before it is synced.
  case archiveUnsynced = "archive-unsynced"
  /// Names in the archive are not synced before the segments are given up where they were.
  case archiveNameUnsynced = "archive-name-unsynced"
  /// What is written and not synced is archived.
  case archiveBeforeSync = "archive-before-sync"
  /// A directory goes on with an archive that has more of the journal than the directory.
  case archiveOfNewer = "archive-of-newer"
  /// Segments are used again before the archive has them, and nothing is said of it.
  case archiveKeepsNone = "archive-keeps-none"
  /// An archive that has the beginning of a segment alone does not say that what is behind is missing.
  case archiveForgetsTail = "archive-forgets-tail"
  /// A backup is the checkpoint, without the journal since.
  case backupWithoutLog = "backup-without-log"
  /// A backup says that it has more than it has.
  case backupClaimsMore = "backup-claims-more"
  /// A backup that a server gives has what is written and not synced.
  case backupPastDurable = "backup-past-durable"
  /// A backup gets its name before its files are synced.
  case backupUnsynced = "backup-unsynced"
  /// Who reads beside a server does not hold the files that the reading began with.
  case backupUnheld = "backup-unheld"
  /// A segment is used again though somebody reads it.
  case backupUndercut = "backup-undercut"
  /// A reader that its server has left behind takes what is gone for damage.
  case backupLeftBehind = "backup-left-behind"
  /// A restored state has the record behind the moment that was asked for.
  case restoreTooFar = "restore-too-far"
  /// A restored state lacks the last record before the moment that was asked for.
  case restoreTooShort = "restore-too-short"
  /// A restored store goes on with the versions, and so the history, of the one before.
  case restoreSameHistory = "restore-same-history"
  /// All that are restored from one store have the same history.
  case restoreOneHistory = "restore-one-history"
  /// A restored directory has its name before it is written.
  case restoreNamedFirst = "restore-named-first"
  /// Where the archive lacks a segment, that passes for its end.
  case restoreOverGap = "restore-over-gap"
  /// What an archived file lacks at its end is not missed.
  case restoreShortFile = "restore-short-file"
  /// Where the archive goes on in the backup's last segment is not looked at.
  case restoreOwnSegment = "restore-own-segment"
}
