/// What a decision must have outlived before it is acknowledged.
package enum Durability: String, Sendable, CaseIterable {
  /// A power cut: it is on the disk (write and fdatasync).
  case fsync
  /// The process: the system has it (write).
  case os
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
  package var fault: DeliberateFault?

  package init(
    durability: Durability, segmentBytes: Int, ringBytes: Int, groupBytesMax: Int,
    spareSegments: Int, checkpointSegments: Int, fault: DeliberateFault? = nil
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

/// Bugs that a journal, the expiry of holds, or the change feed can have. Each stands at the line where somebody might make
/// it, so that `make simulate` can show, at any time, that it would be found.
package enum DeliberateFault: String, Sendable, CaseIterable {
  /// Decisions count as durable once they are written.
  case acknowledgeBeforeSync = "acknowledge-before-sync"
  /// Renamed files may lose their new names.
  case skipDirectorySync = "skip-directory-sync"
  /// A batch is read whatever its checksum says.
  case acceptBadChecksum = "accept-bad-checksum"
  /// A decision takes its place in the log after others can see what it did.
  case numberAfterUnlock = "number-after-unlock"
  /// Segments are used again before the checkpoint that replaces them is safe.
  case recycleTooEarly = "recycle-too-early"
  /// Segments are used again though the older checkpoint, which stands in for the newest, needs them.
  case forgetFallback = "forget-fallback"
  /// A start does not ask where the journal ended when its server was stopped.
  case ignoreClosing = "ignore-closing"
  /// The ids that an opening makes follow from what it finds in the directory alone.
  case predictIDs = "predict-ids"
  /// A command that lacks units is refused though some of its items are due to come back.
  case refuseBeforeExpiry = "refuse-before-expiry"
  /// Units of holds that are due and not ended are shown as held.
  case showDueHolds = "show-due-holds"
  /// A hold is worked with by its id until the sweep has ended it.
  case actOnDueHold = "act-on-due-hold"
  /// The sweep never gets to what is due.
  case starveExpiry = "starve-expiry"
  /// Watchers are shown what is written and not synced.
  case watchBeforeSync = "watch-before-sync"
  /// Who reads on from one segment to the next passes over the first batch there.
  case watchPastBorder = "watch-past-border"
  /// Where what a token stands before is not kept any more, a watch goes on with the oldest that is.
  case watchPastHistory = "watch-past-history"
  /// A token is taken for one of this history by its number alone.
  case watchAnyHistory = "watch-any-history"
  /// A token is taken for one of this store though a repair has given it other versions since.
  case watchAfterRepair = "watch-after-repair"
  /// The token behind an event covers the whole batch that the event is in.
  case watchTokenOfBatch = "watch-token-of-batch"
  /// A watch that goes on within a block begins with its first event.
  case watchBlockAgain = "watch-block-again"
  /// Events of holds show the safety stock that the item has now.
  case watchSafetyStockNow = "watch-safety-stock-now"
  /// Events from before the process began show the safety stock that was there when it began.
  case watchSafetyStockUnread = "watch-safety-stock-unread"
  /// Of the holds that one turn of the sweep ends, one is told.
  case watchOneExpiry = "watch-one-expiry"
  /// Who comes late to the tail gets a block that was read there, whatever came before it.
  case watchNewestBlock = "watch-newest-block"

  /// Of the change feed: found by who watches alone.
  package var isOfFeed: Bool { rawValue.hasPrefix("watch-") }
}
