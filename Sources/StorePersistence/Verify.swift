package import Log
internal import Posix
package import StockStore

extension StockStore {
  /// Recovers the state of a directory in memory and looks whether it is one that can be, reading only.
  /// - Throws: `damaged`, or `unsuitable` where there is no store.
  package static func verify(storage: any Storage) throws(JournalError) -> RecoverySummary {
    try examine(storage).summary
  }

  /// - Returns: what was found, and what a backup of it has to say.
  static func examine(
    _ storage: any Storage
  ) throws(JournalError) -> (summary: RecoverySummary, state: BackupManifest) {
    let storage = try snapshot(of: storage)
    let listing = try DirectoryListing(storage)
    try listing.requireRepaired()
    let recovery = try recover(storage) { (checkpoint) throws(JournalError) in
      try Recovery(
        storage: storage, checkpoint: checkpoint,
        segmentCount: listing.segmentCount(from: checkpoint.header.start.sequence),
        limits: try limits(toRead: checkpoint.header))
    }
    let checkpoint = recovery.checkpoint
    let store = StockStore(
      core: recovery.core, clock: FixedClock(recovery.summary.time), journal: nil)
    recovery.count(in: store.makeSession())
    if let finding = store.audit().first {
      throw .damaged(
        Damage(file: checkpoint.name, offset: 0, lsn: nil, finding: "the state is none: \(finding)")
      )
    }
    var state = BackupManifest(recovery)
    if let manifest = try BackupManifest.read(storage) {
      state.byteCount = manifest.byteCount
      try manifest.check(state)
    }
    var summary = recovery.summary
    summary.damagedCheckpoints = try damagedCheckpoints(beside: checkpoint, storage)
    return (summary, state)
  }

  /// The directory as it is now, also beside a server that goes on with it.
  static func snapshot(
    of storage: any Storage, fault: LogFault? = nil
  ) throws(JournalError) -> ReaderSnapshot {
    try ReaderSnapshot(of: storage, fault: fault) { name in
      FileNames.segmentSequence(name) != nil || FileNames.checkpointLSN(name) != nil
    }
  }

  /// Recovers from the newest checkpoint that is whole, which is read once: where one turns out to be damaged,
  /// from the one before it.
  static func recover(
    _ storage: any Storage, from body: (CheckpointReader) throws(JournalError) -> Recovery
  ) throws(JournalError) -> Recovery {
    var damaged: [Damage] = []
    while true {
      let checkpoint = try newestCheckpoint(storage, besides: damaged, isChecked: false)
      do throws(JournalError) {
        return try body(checkpoint)
      } catch .damaged(let damage) where damage.file == checkpoint.name {
        damaged.append(damage)
      } catch {
        throw error
      }
    }
  }

  /// The checkpoint from which the directory would be recovered: the newest that is whole. Where there is one
  /// alone, the parts behind its header are checked as they are read.
  /// - Parameters:
  ///   - damaged: what is known to be wrong with newer ones, one for each.
  ///   - isChecked: false: of none is looked at more than its header and its end.
  static func newestCheckpoint(
    _ storage: any Storage, besides damaged: [Damage] = [], isChecked: Bool = true
  ) throws(JournalError) -> CheckpointReader {
    let listing = try DirectoryListing(storage)
    guard let newest = listing.checkpoints.last else {
      if listing.segments.isEmpty {
        throw .unsuitable("there is no store in the directory")
      }
      try requireUnused(listing, storage)
      throw .unsuitable(
        "there is no store in the directory yet: its making was cut short, and a start completes it"
      )
    }
    let isAlone = listing.checkpoints.count == 1
    var damaged = damaged
    let known = Set(damaged.map(\.file))
    for lsn in listing.checkpoints.reversed() where !known.contains(FileNames.checkpoint(lsn)) {
      do throws(JournalError) {
        var checkpoint = try CheckpointReader(storage: storage, lsn: lsn)
        if isChecked, !isAlone { try checkpoint.check() }
        // Of the first release, what is newer may not be read as if it were (firstReleaseUntil).
        if !damaged.isEmpty, checkpoint.header.version == 1 { break }
        checkpoint.newerDamaged = damaged
        if !damaged.isEmpty { checkpoint.mustReach = max(checkpoint.mustReach, newest) }
        return checkpoint
      } catch .damaged(let damage) {
        damaged.append(damage)
      } catch {
        throw error
      }
    }
    throw .damaged(damaged[0])
  }

  /// What is wrong with the checkpoints besides the one that recovery begins with.
  static func damagedCheckpoints(
    beside chosen: CheckpointReader, _ storage: any Storage
  ) throws(JournalError) -> [Damage] {
    var damaged = chosen.newerDamaged
    for lsn in try DirectoryListing(storage).checkpoints where lsn < chosen.header.start.lsn {
      do throws(JournalError) {
        try CheckpointReader(storage: storage, lsn: lsn).check()
      } catch .damaged(let damage) {
        damaged.append(damage)
      } catch {
        throw error
      }
    }
    return damaged
  }

  /// Limits for looking at a directory: address space for many times what its server may have had,
  /// since it may have been started with other caps after the checkpoint; where the system has not so
  /// much, for what the checkpoint's server had.
  /// - Throws: `tooLittleMemory`.
  static func limits(toRead header: CheckpointHeader) throws(JournalError) -> StoreLimits {
    let ample = limits(toRead: header, recordsMax: 1 << 28)
    do throws(JournalError) {
      try requireAddressSpace(ample, reservationsMaxBefore: header.reservationsMax)
      return ample
    } catch {
      let least = limits(toRead: header, recordsMax: 0)
      try requireAddressSpace(least, reservationsMaxBefore: header.reservationsMax)
      return least
    }
  }

  private static func limits(toRead header: CheckpointHeader, recordsMax: Int) -> StoreLimits {
    StoreLimits(
      linesPerReservation: StoreLimits.linesMax, quantityMax: RecoveryLimits.unitsMax,
      ttlNanosecondsMin: 0, ttlNanosecondsDefault: 0,
      holdNanosecondsMax: .max, retentionNanoseconds: header.retentionNanoseconds,
      itemsMax: max(header.itemsMax, recordsMax),
      reservationsMax: max(header.reservationsMax, recordsMax),
      subjectEntriesMax: max(header.subjectEntriesMax, recordsMax / 4))
  }
}
