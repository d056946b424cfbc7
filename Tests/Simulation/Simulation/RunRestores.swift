// Restores of a run's backups: to the end of what there is, to a log sequence number, to a time, with the archive
// and without, cut off at any call, and each looked at as a start would find it.
internal import Log
internal import Posix
internal import StockStore
internal import StorePersistence

extension SimulationRun {
  /// What one restore is asked for, and may come to.
  private struct Order {
    let taken: BackupsOfRun.Taken
    let usesArchive: Bool
    var target: RecoveryTarget?
    /// The states that it may come to.
    let states: [Snapshot]
    /// All up to here is there for certain.
    let certainLSN: UInt64
    /// Where it ends at the earliest, and at the latest.
    var ends: ClosedRange<UInt64>
  }

  private func chance(_ percent: Int) -> Bool { backups?.random.chance(percent) ?? false }

  // MARK: Operators

  /// An operator goes back to what a backup, and maybe the archive, has. False where none is there.
  func restoreBackup() throws(Violation) -> Bool {
    guard backups?.taken.isEmpty == false, let order = anyOrder() else { return false }
    guard let (report, files, state) = try restore(order) else { return false }
    var lifted = state.model
    lifted.liftVersions(by: report.versionLift)
    backups?.noteTold(shownVersions, from: model.firstVersion)
    try requireNewVersions(lifted)
    storage = SimulatedStorage(files: files, random: backups?.random.split() ?? random.split())
    let at = Snapshot(lsn: state.lsn, model: lifted)
    goBack(to: at)
    backups?.beginHistory(at)
    feed?.restoreBackup(of: state, lift: report.versionLift)
    shownVersions = [:]
    cuts = []
    return true
  }

  /// Restores and looks at what came of it, and goes on as before.
  func tryRestore() throws(Violation) {
    guard backups?.taken.isEmpty == false, let order = anyOrder() else { return }
    guard let (report, files, state) = try restore(order) else { return }
    var lifted = state.model
    lifted.liftVersions(by: report.versionLift)
    let probe = SimulationRun(of: self, files, Snapshot(lsn: state.lsn, model: lifted))
    try probe.start(after: nil)
    counts.restoresProbed += 1
  }

  /// In the end everything can be restored.
  func finishBackups() throws(Violation) {
    guard backups != nil else { return }
    if backups?.archive?.disk.isDown == true || backups?.archive?.disk.hasFailed == true {
      restartArchive(losingPower: true)
    }
    backups?.archive?.disk.plan = .none
    backups?.archive?.disk.bytesMax = .max
    try finishArchive()
    try finishBackup()
    for _ in 0..<2 { try tryRestore() }
    try restoreFromShortFile()
  }

  /// The last segment of the archive loses its end: a restore of all there is must not pass for one.
  private func restoreFromShortFile() throws(Violation) {
    guard let archive = backups?.archive, let taken = backups?.taken.last else { return }
    let own = taken.files.keys.compactMap(FileNames.segmentSequence).max() ?? 0
    var files = archive.disk.files.filter {
      FileNames.archivedSegment($0.key).map { !$0.isTail } ?? false
    }
    let names = files.keys.compactMap(FileNames.archivedSegment)
      .filter { $0.history == taken.manifest.history && $0.sequence >= own }
    guard let last = names.max(by: { $0.sequence < $1.sequence }),
      let bytes = files[FileNames.archived(last)]
    else { return }
    let length = backups?.random.number(SegmentHeader.blockBytes...bytes.count - 1) ?? 0
    files[FileNames.archived(last)] = Array(bytes[..<length])
    counts.archivesHarmed += 1
    let what = "damage: \(FileNames.archived(last)) has \(length) of \(bytes.count) bytes"
    let report: RestoreReport
    do throws(RestoreError) {
      let source = try Restore(
        backup: SimulatedStorage(files: taken.files), archive: SimulatedStorage(files: files),
        fault: fault?.ofLog)
      report = try source.restore(until: nil, to: newDraft(isFaulty: false))
    } catch {
      switch error {
      case .failed(.damaged), .gap: return
      default: throw violation(what, "\(error)")
      }
    }
    throw violation(what, "a state, \(report.lsn)")
  }

  /// No version of an item that was told in a history which was given up.
  private func requireNewVersions(_ model: Model) throws(Violation) {
    for (sku, versions) in backups?.told ?? []
    where versions.contains(model.lastVersion(sku) ?? model.firstVersion) {
      throw violation("a version of \(sku) that none was told", "one of \(versions)")
    }
  }

  // MARK: Orders

  private func anyOrder() -> Order? {
    guard let backups, let taken = self.backups?.random.pick(backups.taken) else { return nil }
    let history = backups.histories[taken.history]
    let usesArchive = chance(75) && archiveHas(taken.manifest.history)
    // What a crash has taken from the end of a backup never was: what the archive has since was.
    let isContinued = history.archivedLSN > taken.survivedLSN ?? 0
    if usesArchive, let survived = taken.survivedLSN, !isContinued, survived < taken.manifest.lsn,
      history.states.last.map({ $0.lsn > survived }) ?? true
    {
      return nil
    }
    let isOfArchive = usesArchive && (taken.survivedLSN == nil || isContinued)
    let states = isOfArchive ? history.states : taken.states
    let certain =
      usesArchive && isContinued
      ? max(history.archivedLSN, taken.survivedLSN == nil ? taken.manifest.lsn : 0)
      : taken.manifest.lsn
    // Behind the last decision there may be records of the time.
    let last = usesArchive ? UInt64.max : taken.manifest.lsn
    var order = Order(
      taken: taken, usesArchive: usesArchive, target: nil, states: states, certainLSN: certain,
      ends: min(certain, last)...last)
    if history.mayHaveGap, usesArchive {
      order.ends = min(order.ends.lowerBound, surely(taken))...last
    }
    if chance(70) { choose(&order) }
    return order
  }

  /// What no crash has taken from the backup.
  private func surely(_ taken: BackupsOfRun.Taken) -> UInt64 {
    min(taken.survivedLSN ?? .max, taken.manifest.lsn)
  }

  private func archiveHas(_ history: UInt64) -> Bool {
    guard let archive = backups?.archive, !archive.disk.isDown else { return false }
    return archive.disk.files.keys.contains {
      FileNames.archivedSegment($0)?.history == history
    }
  }

  /// A state that is known, by its number or its time.
  private func choose(_ order: inout Order) {
    guard order.states.count > 1 else { return }
    // Most are behind the backup, where there is something.
    let behind = order.states.firstIndex { $0.lsn > order.taken.manifest.lsn } ?? 0
    let first = chance(70) ? behind : 0
    let index = backups?.random.number(first...order.states.count - 1) ?? 0
    let state = order.states[index]
    let next = index + 1 < order.states.count ? order.states[index + 1].lsn : nil
    if chance(60) {
      var lsn = state.lsn
      // Within the record behind it.
      if let next, next > lsn + 8, chance(30) { lsn = chance(50) ? lsn + 1 : next - 1 }
      order.target = .lsn(lsn)
      order.ends = state.lsn...lsn
    } else {
      let time = state.model.now
      guard let after = order.states.firstIndex(where: { $0.model.now > time }) else { return }
      guard after > 0 else { return }
      order.target = .time(time)
      // Behind a decision there may be records of the time, which are later; and what is not archived is not missed.
      let last = order.states[after - 1]
      let first = order.states.first { $0.model.decisionCount == last.model.decisionCount } ?? last
      let least = min(first.lsn, order.certainLSN, order.ends.lowerBound)
      order.ends = least...(order.states[after].lsn - 1)
    }
  }

  // MARK: Restoring

  /// nil where there is nothing that could be restored, as must be.
  private func restore(
    _ order: Order
  ) throws(Violation) -> (RestoreReport, files: [String: [UInt8]], Snapshot)? {
    let with = order.usesArchive ? "with" : "without"
    log(
      "restore the backup of \(order.taken.manifest.lsn) \(with) the archive to \(order.target as Any)"
    )
    var attempt = 0
    while true {
      attempt += 1
      let draft = newDraft(isFaulty: attempt < 3)
      let report: RestoreReport
      do throws(RestoreError) {
        let source = try Restore(
          backup: SimulatedStorage(files: order.taken.files),
          archive: order.usesArchive ? backups?.archive?.disk.reader : nil, fault: fault?.ofLog)
        report = try source.restore(
          until: order.target, to: draft, nonce: backups?.random.next() ?? 0)
      } catch {
        if case .failed(.failed) = error, draft.hasMishap {
          try lookAt(draft, order)
          continue
        }
        try requireReason(error, order)
        return nil
      }
      draft.restart(losingPower: chance(50))
      guard draft.disk.hasName else {
        throw violation("a restored directory that outlives a power cut", "none")
      }
      return try check(report, draft.disk.files, order)
    }
  }

  private func newDraft(isFaulty: Bool) -> SimulatedDraft {
    let disk = SimulatedStorage(random: backups?.random.split() ?? SeededRandom(seed: 0))
    if isFaulty, let plan = anyPlan(calls: 20) { disk.plan = plan }
    return SimulatedDraft(disk)
  }

  /// One that was cut off does not have its name, or is whole nevertheless.
  private func lookAt(_ draft: SimulatedDraft, _ order: Order) throws(Violation) {
    counts.restoresCut += 1
    draft.restart(losingPower: chance(70))
    guard draft.disk.hasName else { return }
    let summary: RecoverySummary
    do throws(JournalError) {
      summary = try StockStore.verify(storage: draft.disk)
    } catch {
      throw violation("a restored directory that has its name to be whole", "\(error)")
    }
    if !order.ends.contains(summary.lsn) {
      throw violation("a state of \(order.ends)", "\(summary.lsn)")
    }
  }

  private func check(
    _ report: RestoreReport, _ files: [String: [UInt8]], _ order: Order
  ) throws(Violation) -> (RestoreReport, files: [String: [UInt8]], Snapshot)? {
    log("restored up to \(report.lsn)")
    counts.restores += 1
    if !order.ends.contains(report.lsn) {
      throw violation("a state of \(order.ends), to \(order.target as Any)", "\(report.lsn)")
    }
    if order.target == nil, let missing = missingSegment(order) {
      throw violation("to hear that the archive lacks segment \(missing)", "a state, \(report.lsn)")
    }
    guard let index = order.states.lastIndex(where: { $0.lsn <= report.lsn }) else { return nil }
    return (report, files, order.states[index])
  }

  /// The first segment that the archive lacks though it has later ones.
  private func missingSegment(_ order: Order) -> UInt64? {
    guard order.usesArchive, let archive = backups?.archive else { return nil }
    let own = order.taken.files.keys.compactMap(FileNames.segmentSequence).max() ?? 0
    let kept = archive.disk.files.keys.compactMap(FileNames.archivedSegment)
      .filter { $0.history == order.taken.manifest.history && $0.sequence > own }
    let last = kept.map(\.sequence).max() ?? own
    guard own < last else { return nil }
    return (own + 1...last).first { number in !kept.contains { $0.sequence == number } }
  }

  /// Nothing was restored: there must be a reason.
  private func requireReason(_ error: RestoreError, _ order: Order) throws(Violation) {
    log("not restored: \(error)")
    let history = backups?.histories[order.taken.history]
    let isRight =
      switch (error, order.target) {
      case (.gap(let range, _, _), _):
        history?.mayHaveGap == true && range.lastLSN >= surely(order.taken)
          && (order.target == nil || order.ends.upperBound > range.lastLSN)
      case (.outside(let range), .lsn(let lsn)):
        lsn < range.firstLSN && range.firstLSN <= order.taken.manifest.lsn
          || lsn > range.lastLSN
            && (range.lastLSN >= order.certainLSN || history?.mayHaveGap == true)
      case (.outside(let range), .time(let time)):
        time < range.firstTime.nanoseconds && range.firstLSN <= order.taken.manifest.lsn
          || time > range.lastTime.nanoseconds
            && (range.lastLSN >= order.certainLSN || history?.mayHaveGap == true)
      default: false
      }
    if !isRight {
      throw violation("a state of \(order.ends), to \(order.target as Any)", "\(error)")
    }
    counts.restoresRefused += 1
  }
}
