package import Log
internal import Posix
package import StockStore

extension StockStore {
  /// Recovers the state of a directory in memory and looks whether it is one that can be, reading only.
  /// - Throws: `damaged`, or `unsuitable` where there is no store.
  package static func verify(storage: any Storage) throws(JournalError) -> RecoverySummary {
    let storage = try snapshot(of: storage)
    let listing = try DirectoryListing(storage)
    try listing.requireRepaired()
    let checkpoint = try newestCheckpoint(storage)
    let recovery = try Recovery(
      storage: storage, checkpoint: checkpoint,
      segmentCount: listing.segmentCount(from: checkpoint.header.start.sequence),
      limits: try limits(toRead: checkpoint.header))
    let store = StockStore(
      core: recovery.core, clock: FixedClock(recovery.summary.time), journal: nil)
    recovery.count(in: store.makeSession())
    if let finding = store.audit().first {
      throw .damaged(
        Damage(file: checkpoint.name, offset: 0, lsn: nil, finding: "the state is none: \(finding)")
      )
    }
    return recovery.summary
  }

  /// The directory as it is now, also beside a server that goes on with it.
  static func snapshot(of storage: any Storage) throws(JournalError) -> ReaderSnapshot {
    try ReaderSnapshot(of: storage) { name in
      FileNames.segmentSequence(name) != nil || FileNames.checkpointLSN(name) != nil
    }
  }

  /// The checkpoint from which the directory would be recovered.
  static func newestCheckpoint(_ storage: any Storage) throws(JournalError) -> CheckpointReader {
    let listing = try DirectoryListing(storage)
    guard let newest = listing.checkpoints.last else {
      guard let segment = listing.segments.last else {
        throw .unsuitable("there is no store in the directory")
      }
      try JournalReader.requireKnownFormat(ofSegment: segment, storage)
      throw .damaged(
        Damage(
          file: FileNames.segment(segment), offset: 0, lsn: nil,
          finding: "there is no checkpoint to begin from"))
    }
    return try CheckpointReader(storage: storage, lsn: newest)
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
      reservationsMax: max(header.reservationsMax, recordsMax))
  }
}
