// Backups beside a run: an archive and disks for backups that fail on their own, backups that are read piece by
// piece while the journal, its checkpoints and its recycling go on, and restores to any moment, each held against
// the model as it was then.
internal import Log
internal import Posix
internal import StockStore
internal import StorePersistence

extension SimulationRun {
  private func chance(_ percent: Int) -> Bool { backups?.random.chance(percent) ?? false }

  /// True so many times of a hundred, where backups are taken.
  func chanceOfBackups(_ percent: Int) -> Bool { chance(percent) }

  // MARK: Steps

  /// Now and then the archive takes something, and somebody takes a backup.
  func stepBackups() throws(Violation) {
    guard let backups else { return }
    disturbArchive()
    if chance(backups.archivePercent) { try stepArchive() }
    if backups.open == nil, chance(backups.backupPercent) { try beginBackup() }
    if self.backups?.open != nil, chance(backups.piecePercent) {
      try stepBackup(pieces: chance(30) ? 8 : 2)
    }
  }

  /// What the archive and a server's backup show when the disk has failed.
  func stepBackupsAfterFailure() throws(Violation) {
    guard backups != nil, !storage.isDown else { return }
    while try stepArchive() {}
    backups?.open = nil
    try beginBackup(ofServer: true)
    try stepBackup(pieces: .max)
  }

  // MARK: The archive

  /// The archive's disk loses power, comes back, fills up, and has room again.
  private func disturbArchive() {
    guard let archive = backups?.archive, let faults = backups?.faultPercent else { return }
    if archive.disk.isDown || archive.disk.hasFailed {
      if chance(30) { restartArchive(losingPower: chance(70)) }
    } else if chance(1), faults > 0 {
      restartArchive(losingPower: true)
    }
    if archive.disk.bytesMax != .max {
      if chance(10) { archive.disk.bytesMax = .max }
    } else if chance(1), faults > 0 {
      archive.disk.bytesMax = archive.disk.byteCount + (chance(50) ? 0 : segmentBytes)
    }
  }

  func restartArchive(losingPower: Bool) {
    guard let archive = backups?.archive else { return }
    // What was not synced is what `os` does not promise to keep.
    archive.restart(losingPower: losingPower)
    if let plan = anyPlan(calls: 30) { archive.disk.plan = plan }
    if losingPower { log("the archive loses power") }
  }

  func anyPlan(calls: Int) -> FaultPlan? {
    guard let percent = backups?.faultPercent, chance(percent) else { return nil }
    let faults: [FaultPlan.Fault] = [.crashBefore, .crashDuring, .crashAfter, .error]
    let scope: FaultPlan.Scope = chance(30) ? .directory : .all
    return FaultPlan(
      calls: backups?.random.number(1...calls) ?? 1, scope: scope,
      fault: backups?.random.pick(faults) ?? .error)
  }

  @discardableResult
  private func stepArchive() throws(Violation) -> Bool {
    guard let journal = store?.journal, let archiver = journal.archiver, !storage.isDown,
      let archive = backups?.archive
    else { return false }
    let position = journal.log.position
    let refusedBefore = archive.disk.refusedForSpaceCount
    do throws(JournalError) {
      guard try archiver.step(position, tailNow: true) else { return false }
    } catch {
      log("the archive: \(error)")
      let isInjected =
        archive.disk.isDown || archive.disk.hasFailed || storage.isDown || storage.hasFailed
        || archive.disk.refusedForSpaceCount > refusedBefore
      guard case .failed = error, isInjected else {
        throw violation("the archive to take what is durable", "\(error)")
      }
      counts.archiveFailures += 1
      return false
    }
    counts.archiveSteps += 1
    noteLosses()
    let lag = archiver.statistics(position).lagBytes
    log("the archive has all but \(lag) bytes: \(archive.disk.files.keys.sorted())")
    backups?.noteArchived(position.lsn - min(position.lsn, lag))
    return true
  }

  private func noteLosses() {
    guard let isNew = backups?.noteLosses(), isNew else { return }
    log("the archive lacks segments for good")
    counts.archiveLosses += 1
  }

  /// Nobody starts a server without its archive.
  func readyArchive() throws(Violation) {
    guard let archive = backups?.archive, archive.disk.isDown || archive.disk.hasFailed else {
      return
    }
    restartArchive(losingPower: chance(70))
  }

  /// A process has begun.
  func openArchive() throws(Violation) {
    guard let archiver = store?.journal?.archiver, let losses = backups?.losses else { return }
    log("with an archive: \(backups?.archive?.disk.files.keys.sorted() ?? [])")
    archiver.onNotice { notice in
      if case .lost(let segments) = notice { losses.add(segments) }
    }
    noteLosses()
    try requireTold()
    if let fork = backups?.fork, let known = backups?.histories[fork.history],
      known.archivedLSN > fork.endLSN
    {
      throw violation(
        "an archive that goes on to \(known.archivedLSN) to be refused by a copy of \(fork.endLSN)",
        "it was opened")
    }
    backups?.acceptFork()
  }

  /// Segments that neither has were told of.
  private func requireTold() throws(Violation) {
    guard let backups, let archive = backups.archive, let core = store?.core else { return }
    let history = core.keys.history(firstVersion: core.firstVersion)
    let newest = archive.disk.files.keys.compactMap(FileNames.archivedSegment)
      .filter { $0.history == history }.max { $0.sequence < $1.sequence }
    guard let newest else {
      self.backups?.noteEmptyArchive()
      return
    }
    guard let oldest = storage.files.keys.compactMap(FileNames.segmentSequence).min() else {
      return
    }
    let next = newest.isTail ? newest.sequence : newest.sequence + 1
    if oldest > next, !backups.histories[backups.current].isLossTold {
      throw violation("to hear that the archive lacks segments from \(next) on", "nothing")
    }
  }

  /// The archive has more than the directory, which is an older copy: as the message says, another history begins.
  /// False where that is not the reason.
  func leaveArchive(_ error: JournalError) throws(Violation) -> Bool {
    guard case .unsuitable(let text) = error, text.contains("older copy"),
      let fork = backups?.fork
    else { return false }
    log("the archive is ahead of the copy of \(fork.endLSN)")
    counts.archiveAhead += 1
    storage.plan = .none
    storage.bytesMax = .max
    guard try repair(at: fork.endLSN, fork.state) else {
      throw violation("the copy to be repaired at \(fork.endLSN)", "it cannot be")
    }
    return true
  }

  /// At an orderly stop the archive gets the rest, if it takes it.
  func finishArchive() throws(Violation) {
    guard store?.journal?.archiver != nil else { return }
    while try stepArchive() {}
  }

  // MARK: Taking

  private func newDraft() -> SimulatedDraft {
    let disk = SimulatedStorage(random: backups?.random.split() ?? SeededRandom(seed: 0))
    if let plan = anyPlan(calls: 25) {
      disk.plan = plan
    } else if let percent = backups?.faultPercent, chance(percent / 4) {
      disk.bytesMax = backups?.random.number(0...100_000) ?? 0
    }
    disk.trace = trace.map { trace in { trace("  new: \($0)") } }
    return SimulatedDraft(disk)
  }

  private func beginBackup(ofServer: Bool? = nil) throws(Violation) {
    guard let session = sessions.first, !storage.isDown else { return }
    let isOfServer = ofServer ?? chance(50)
    let durable = session.durableLSN
    let draft = newDraft()
    log("a backup begins, \(isOfServer ? "of the server" : "of the directory"), at \(durable)")
    do throws(JournalError) {
      let reader = try BackupReader(
        of: storage.reader, until: isOfServer ? durable : nil, fault: fault?.ofLog)
      backups?.open = BackupsOfRun.Open(
        reader: reader, writer: BackupWriter(draft, fault: fault?.ofLog), draft: draft,
        durableLSN: durable, isOfServer: isOfServer)
    } catch {
      throw violation("a backup of the directory to begin", "\(error)")
    }
  }

  /// A slow one is far behind the journal by now.
  func finishBackup() throws(Violation) { try stepBackup(pieces: .max) }

  private func stepBackup(pieces: Int) throws(Violation) {
    guard let open = backups?.open else { return }
    var manifest: BackupManifest?
    do throws(JournalError) {
      var left = pieces
      while manifest == nil, left > 0 {
        left -= 1
        let hasMore = try open.reader.next { piece throws(JournalError) in
          try open.writer.write(piece)
        }
        if !hasMore { manifest = try open.writer.finish() }
      }
    } catch {
      backups?.open = nil
      guard case .failed = error, storage.isDown || open.draft.hasMishap else {
        throw violation("a backup of the directory", "\(error)")
      }
      log("no backup: \(error)")
      counts.backupsFailed += 1
      return try lookAt(open)
    }
    guard let manifest else { return }
    backups?.open = nil
    try keep(open, manifest)
  }

  /// A backup that has come to nothing: it does not have its name, or is whole nevertheless.
  private func lookAt(_ open: BackupsOfRun.Open) throws(Violation) {
    open.draft.restart(losingPower: chance(70))
    if !open.draft.disk.hasName { return }
    var read: BackupManifest?
    do throws(JournalError) {
      read = try BackupManifest.read(open.draft.disk)
    } catch {
      throw violation("a backup that has its name to be whole", "\(error)")
    }
    guard let read else { throw violation("a backup that has its name to be one", "none") }
    try keep(open, read, isDone: false)
  }

  private func keep(
    _ open: BackupsOfRun.Open, _ manifest: BackupManifest, isDone: Bool = true
  ) throws(Violation) {
    log("a backup up to \(manifest.lsn)")
    guard let last = sessions.first?.lastLSN, let backups else { return }
    let most = open.isOfServer ? open.durableLSN : last
    if manifest.lsn < open.durableLSN || manifest.lsn > most {
      throw violation(
        "a backup of all from \(open.durableLSN) up to \(most) at most", "one of \(manifest.lsn)")
    }
    open.draft.restart(losingPower: chance(50))
    guard open.draft.disk.hasName else {
      // Nobody was told that it is there.
      if !isDone { return }
      throw violation("a backup that was made to outlive a power cut", "none")
    }
    counts.backups += 1
    if storage.hasFile(Self.checkpointName) { counts.backupsBesideCheckpoint += 1 }
    self.backups?.add(
      BackupsOfRun.Taken(
        files: open.draft.disk.files, manifest: manifest, history: backups.current,
        states: backups.histories[backups.current].states.filter { $0.lsn <= manifest.lsn }))
  }
}
