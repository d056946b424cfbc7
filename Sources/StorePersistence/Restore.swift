// Makes a data directory of a backup, and of the segments that an archive has since: the state at its end, or at
// any moment before. Nothing of the journal goes into it: the state is written as a checkpoint of a new history,
// as after a repair (Repair.swift), in front of a segment that nothing was written to.
package import Log
package import Posix
package import StockStore

/// What backup and archive cover without a gap.
package struct RestoreRange: Equatable, Sendable {
  package let firstLSN: UInt64
  package let firstTime: Timestamp
  package let lastLSN: UInt64
  package let lastTime: Timestamp
}

package enum RestoreError: Error, Equatable {
  case failed(JournalError)
  /// The moment that was asked for lies before or behind.
  case outside(RestoreRange)
  /// The archive lacks what lies between: from `range.lastLSN` up to the second number.
  case gap(RestoreRange, goesOnAt: UInt64, segments: ClosedRange<UInt64>)
}

/// What was restored.
package struct RestoreReport: Equatable, Sendable {
  package let backup: BackupManifest
  package let lsn: UInt64
  package let time: Timestamp
  package let decisions: UInt64
  /// Of the state that was restored, as it was before its versions were lifted.
  package let digest: StateDigest
  package let items: Int
  package let liveReservations: Int
  /// What was added to the version of each item, and to that which new items begin with.
  package let versionLift: UInt64
}

package struct Restore {
  private let backup: any Storage
  private let checkpoint: CheckpointReader
  private let manifest: BackupManifest
  private let archive: SegmentArchive?
  private let journal: JoinedSegments
  /// The segment of the archive that the journal ends with; nil where it ends with the backup's.
  private let last: ArchivedSegment?
  private let gap: (goesOnAt: UInt64, segments: ClosedRange<UInt64>)?
  private let archived: [UInt64: ArchivedSegment]
  private let fault: LogFault?

  /// Looks for what there is.
  package init(
    backup: any Storage, archive: (any Storage)?, fault: LogFault? = nil
  ) throws(RestoreError) {
    do throws(JournalError) {
      let backup = try StockStore.snapshot(of: backup)
      guard let manifest = try BackupManifest.read(backup) else {
        throw .unsuitable("it is no backup: holdfast backup makes one of a data directory")
      }
      let checkpoint = try StockStore.newestCheckpoint(backup)
      let identity = checkpoint.header.identity.log
      guard identity.storeID == manifest.storeID else {
        throw .unsuitable("its parts are of different stores")
      }
      let kept = try archive.map { (archive) throws(JournalError) in
        try SegmentArchive(
          storage: ReaderSnapshot(of: archive) { FileNames.archivedSegment($0) != nil },
          identity: identity, history: manifest.history)
      }
      let chosen = try Self.choose(checkpoint, manifest, backup, kept, fault)
      var segments: [UInt64: any StorageFile] = [:]
      for (sequence, source) in chosen.sources {
        segments[sequence] = try Self.open(sequence, source, backup, kept)
      }
      journal = JoinedSegments(segments, identity: identity, other: backup)
      gap = chosen.gap
      archived = chosen.sources.compactMapValues { $0 }
      last = chosen.sources.max { $0.key < $1.key }?.value
      self.fault = fault
      self.backup = backup
      self.checkpoint = checkpoint
      self.manifest = manifest
      self.archive = kept
    } catch {
      throw .failed(error)
    }
  }

  /// Whose file each segment is taken of: the archive's, or (nil) the backup's. As far as they go on without a gap.
  private static func choose(
    _ checkpoint: CheckpointReader, _ manifest: BackupManifest, _ backup: any Storage,
    _ archive: SegmentArchive?, _ fault: LogFault?
  ) throws(JournalError) -> (
    sources: [UInt64: ArchivedSegment?], gap: (goesOnAt: UInt64, segments: ClosedRange<UInt64>)?
  ) {
    // The backup's own are whole but for the last, which goes on after the backup, or in the archive.
    let first = checkpoint.header.start.sequence
    let ownLast = try DirectoryListing(backup).segments.last ?? first
    let kept = try archive?.segments() ?? []
    if archive != nil, kept.isEmpty {
      throw .unsuitable("the archive has nothing of the history that the backup is of")
    }
    // A whole one takes the place of its tail.
    let archived = Dictionary(kept.map { ($0.sequence, $0) }) { first, _ in first }
    var sources: [UInt64: ArchivedSegment?] = [:]
    var next = first
    while true {
      if next < ownLast {
        sources.updateValue(nil, forKey: next)
      } else if next == ownLast {
        var own = fault == .restoreOwnSegment ? nil : archived[next]
        if let name = own, try !goesOn(name, behind: manifest.lsn, archive) { own = nil }
        sources.updateValue(own, forKey: next)
        if own?.isTail ?? true { break }
      } else {
        guard let name = archived[next] else { break }
        sources.updateValue(name, forKey: next)
        if name.isTail { break }
      }
      next += 1
    }
    let beyond = archived.values.filter { $0.sequence > next }.min { $0.sequence < $1.sequence }
    guard let beyond, let archive else { return (sources, nil) }
    return (sources, (try archive.firstLSN(of: beyond), next...(beyond.sequence - 1)))
  }

  /// Whether the archive has more of the backup's last segment than the backup.
  private static func goesOn(
    _ name: ArchivedSegment, behind lsn: UInt64, _ archive: SegmentArchive?
  ) throws(JournalError) -> Bool {
    guard name.isTail, let archive else { return true }
    do throws(JournalError) {
      return try archive.end(of: name).lsn >= lsn
    } catch .damaged {
      // Nobody knows what it had. Reading it will say where it is damaged.
      return true
    } catch {
      throw error
    }
  }

  private static func open(
    _ sequence: UInt64, _ source: ArchivedSegment?, _ backup: any Storage,
    _ archive: SegmentArchive?
  ) throws(JournalError) -> any StorageFile {
    if let source, let archive { return try archive.open(source) }
    let name = FileNames.segment(sequence)
    return try JournalError.attempt("open", name) { () throws(Errno) in try backup.open(name) }
  }

  // MARK: Restoring

  /// Makes the directory, reads it as a start would, and gives it its name.
  /// - Parameter nonce: 64 unpredictable bits, unless a test wants the same again.
  package func restore(
    until target: RecoveryTarget?, to directory: any DirectoryDraft,
    nonce: UInt64 = Machine.random64()
  ) throws(RestoreError) -> RestoreReport {
    if isBeforeBackup(target) { throw try outside() }
    let recovery: Recovery
    do throws(JournalError) {
      recovery = try recover(target)
    } catch {
      if case .trimmed = error { throw try outside() }
      throw .failed(error)
    }
    defer { recovery.core.free() }
    try requireReached(target, recovery)
    do throws(JournalError) {
      return try write(recovery, to: directory, lift: lift(nonce))
    } catch {
      throw .failed(error)
    }
  }

  /// Whether the checkpoint has decisions that lie beyond.
  private func isBeforeBackup(_ target: RecoveryTarget?) -> Bool {
    switch target {
    case .lsn(let lsn)?: lsn < checkpoint.end.endLSN
    case .time(let time)?: time < checkpoint.end.time
    case nil: false
    }
  }

  private func recover(_ target: RecoveryTarget?) throws(JournalError) -> Recovery {
    let recovery: Recovery
    do throws(JournalError) {
      recovery = try Recovery(
        storage: journal, checkpoint: checkpoint,
        segmentCount: DirectoryListing(journal).segmentCount(from: 0),
        limits: try StockStore.limits(toRead: checkpoint.header), fault: fault, target: target)
    } catch {
      throw named(error)
    }
    do throws(JournalError) {
      // Nothing follows that would show that its end is missing.
      if !recovery.isPastTarget, let last, let archive, fault != .restoreShortFile {
        let end = try archive.end(of: last)
        if end.lsn != recovery.position.lsn {
          throw .damaged(
            Damage(
              file: FileNames.archived(last), offset: 0, lsn: nil,
              finding: "it does not go on where the journal before it ends"))
        }
      }
    } catch {
      recovery.core.free()
      throw error
    }
    return recovery
  }

  /// Says whose file it is that is damaged.
  private func named(_ error: JournalError) -> JournalError {
    guard case .damaged(let damage) = error, let sequence = FileNames.segmentSequence(damage.file),
      let name = archived[sequence]
    else { return error }
    return .damaged(
      Damage(
        file: FileNames.archived(name), offset: damage.offset, lsn: damage.lsn,
        finding: damage.finding))
  }

  private func requireReached(
    _ target: RecoveryTarget?, _ recovery: Recovery
  ) throws(RestoreError) {
    if recovery.isPastTarget { return }
    let isReached =
      switch target {
      case .lsn(let lsn)?: lsn <= recovery.summary.lsn
      case .time(let time)?: time <= recovery.summary.time.nanoseconds
      case nil: gap == nil || fault == .restoreOverGap
      }
    if isReached { return }
    let range = range(to: recovery)
    if let gap { throw .gap(range, goesOnAt: gap.goesOnAt, segments: gap.segments) }
    throw .outside(range)
  }

  private func range(to recovery: Recovery) -> RestoreRange {
    RestoreRange(
      firstLSN: checkpoint.end.endLSN, firstTime: Timestamp(nanoseconds: checkpoint.end.time),
      lastLSN: recovery.summary.lsn, lastTime: recovery.summary.time)
  }

  private func outside() throws(RestoreError) -> RestoreError {
    do throws(JournalError) {
      let recovery = try recover(nil)
      defer { recovery.core.free() }
      return .outside(range(to: recovery))
    } catch {
      throw .failed(error)
    }
  }

  // MARK: Writing

  private func lift(_ nonce: UInt64) -> UInt64 {
    switch fault {
    case .restoreSameHistory: 0
    case .restoreOneHistory: Repair.lift(0)
    default: Repair.lift(nonce)
    }
  }

  private func write(
    _ recovery: Recovery, to directory: any DirectoryDraft, lift: UInt64
  ) throws(JournalError) -> RestoreReport {
    if fault == .restoreNamedFirst { try directory.publish() }
    let summary = recovery.summary
    let header = checkpoint.header
    let storage = directory.storage
    let last = recovery.position.sequence
    let options = JournalOptions(
      durability: .fsync, segmentBytes: header.identity.segmentBytes,
      ringBytes: LogRing.ringBytesMin, groupBytesMax: LogRing.ringBytesMin, spareSegments: 1,
      checkpointSegments: 2)
    _ = try SegmentPool(
      storage: storage, storeID: header.identity.storeID,
      segmentBytes: header.identity.segmentBytes, lastSequence: last, options: options
    ).prepareNext()
    let start = JournalPosition(
      sequence: last + 1, offset: SegmentHeader.blockBytes, lsn: summary.lsn,
      run: recovery.position.run, counted: summary.decisions)
    let digest = try writeState(recovery, storage, start, lift: lift)
    try ClosingRecord(
      lsn: start.lsn, counted: start.counted, storeID: header.identity.storeID,
      time: summary.time.nanoseconds
    ).write(to: storage)
    let written = try StockStore.verify(storage: storage)
    guard written.digest == digest, written.lsn == summary.lsn,
      written.decisions == summary.decisions
    else {
      throw .damaged(
        Damage(
          file: FileNames.checkpoint(start.lsn), offset: 0, lsn: nil,
          finding: "what was written is not what was restored"))
    }
    try directory.publish()
    return RestoreReport(
      backup: manifest, lsn: summary.lsn, time: summary.time, decisions: summary.decisions,
      digest: summary.digest, items: summary.items, liveReservations: summary.liveReservations,
      versionLift: lift)
  }

  /// - Returns: the digest of what was written.
  private func writeState(
    _ recovery: Recovery, _ storage: any Storage, _ start: JournalPosition, lift: UInt64
  ) throws(JournalError) -> StateDigest {
    let header = checkpoint.header
    let time = recovery.summary.time
    var core = recovery.core
    core.log.resume(after: start.lsn)
    try core.liftVersions(by: lift)
    if header.version == 1 { core.firstReleaseUntil = time.nanoseconds }
    let writer = try CheckpointWriter(
      core: core, storage: storage, identity: header.identity, start: start, time: time,
      capsOf: header)
    while try writer.step() {}
    try writer.finish()
    return core.digest(at: time.nanoseconds)
  }
}
