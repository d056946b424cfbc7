internal import Log
// How processes end and begin: closed, killed, without power; and what must then be there.
internal import Posix
internal import StockStore
internal import StorePersistence
internal import Synchronization

extension SimulationRun {
  /// What a store said of itself before it was closed.
  struct Farewell {
    let digest: StateDigest
    let time: Timestamp
    let lsn: UInt64
  }

  /// The process ends without a chance to do anything.
  func crash() throws(Violation) {
    // What was not synced is what `os` does not promise to keep: there, only processes die.
    let losesPower = settings.options.durability == .fsync && random.chance(70)
    log(losesPower ? "the power fails" : "the process is killed")
    if losesPower { counts.powerCuts += 1 } else { counts.killed += 1 }
    endProcess(losingPower: losesPower)
    try loseHistory()
    try start(after: nil)
  }

  /// The process is asked to end, and does.
  func stop() throws(Violation) {
    guard let store, !hasFailed, !storage.isDown else { return try crash() }
    if random.chance(50) { try settle() }
    if hasFailed || storage.isDown { return try crash() }
    let time = clock.now()
    let digest = store.stateDigest(at: time)
    let last = sessions[0].lastLSN
    log("close at \(last)")
    do throws(JournalError) {
      try store.closeJournal()
    } catch {
      try noteFailure(error)
      return try crash()
    }
    if sessions[0].durableLSN < last && storage.bytesMax == .max {
      throw violation("all durable after closing: \(last)", "\(sessions[0].durableLSN)")
    }
    notePromise()
    if chanceOfBackups(70) { try finishArchive() }
    if random.chance(30), let position = store.journalPosition { try openWithoutEnd(position) }
    if random.chance(30) { try verifyWithHarmedCheckpoint() }
    counts.closed += 1
    let end = store.journalPosition?.lsn ?? last
    // On a full disk there may be no room for what was not promised yet.
    let isAllDurable = sessions[0].durableLSN >= last
    endProcess(losingPower: settings.options.durability == .fsync && random.chance(50))
    if try loseHistory() { return try start(after: nil) }
    if let state = snapshots.last, promisedLSN >= last, random.chance(50) {
      log("copy the directory at \(last)")
      backup = Backup(
        files: storage.files, state: state, endLSN: end, cuts: cuts,
        shownVersions: shownVersions, feed: feed?.copy, history: backups?.current ?? 0)
    }
    try start(after: isAllDurable ? Farewell(digest: digest, time: time, lsn: last) : nil)
  }

  /// After an orderly stop the disk loses the last block that the journal is in: that must not pass for the
  /// end of the journal.
  private func openWithoutEnd(_ end: JournalPosition) throws(Violation) {
    let name = FileNames.segment(end.sequence)
    // Where there was no room to write the end down, nobody can tell.
    guard end.offset > SegmentHeader.blockBytes, var bytes = storage.files[name],
      let closing = storage.files[FileNames.closing],
      closing[16..<24].reversed().reduce(UInt64(0), { $0 << 8 | UInt64($1) }) == end.lsn
    else { return }
    let start = max(SegmentHeader.blockBytes, (end.offset - 1) & -SegmentHeader.blockBytes)
    for offset in start..<max(start, end.offset) { bytes[offset] = 0 }
    let copy = SimulatedStorage(files: storage.files.merging([name: bytes]) { $1 })
    counts.endsLost += 1
    let summary: RecoverySummary
    do throws(JournalError) {
      (_, summary) = try StockStore.open(
        storage: copy, limits: settings.limits, options: settings.options, secret: (seed, ~seed),
        nonce: 0, fault: fault?.ofStore, makeClock: { SimulatedClock($0.nanoseconds) },
        progress: { _ in })
    } catch .damaged {
      return
    } catch {
      throw violation("the directory without its end: damage", "\(error)")
    }
    if summary.lsn < end.lsn {
      throw violation("to hear that the journal went on to \(end.lsn)", "a start at \(summary.lsn)")
    }
  }

  /// After an orderly stop one bit of the newest checkpoint goes bad: the one before has all that it had.
  private func verifyWithHarmedCheckpoint() throws(Violation) {
    let checkpoints = storage.files.keys.filter { $0.hasPrefix("checkpoint-") }.sorted()
    guard checkpoints.count > 1, let name = checkpoints.last, var bytes = storage.files[name] else {
      return
    }
    bytes[random.number(0...bytes.count - 1)] ^= 1 << random.number(0...7 as ClosedRange<UInt8>)
    let copy = SimulatedStorage(files: storage.files.merging([name: bytes]) { $1 })
    counts.checkpointsHarmed += 1
    let (whole, harmed): (RecoverySummary, RecoverySummary)
    do throws(JournalError) {
      whole = try StockStore.verify(storage: SimulatedStorage(files: storage.files))
      harmed = try StockStore.verify(storage: copy)
    } catch {
      throw violation("the state, with one bit of \(name) harmed", "\(error)")
    }
    guard harmed.lsn == whole.lsn, harmed.damagedCheckpoints.map(\.file) == [name],
      harmed.digest == whole.digest || harmed.time != whole.time
    else { throw violation("with one bit of \(name) harmed: \(whole)", "\(harmed)") }
  }

  // MARK: Operators

  /// Now and then an operator goes back: to a copy of the directory, or to an earlier place in the
  /// journal. What was decided since is gone, but not from the memory of those who were told.
  @discardableResult
  private func loseHistory() throws(Violation) -> Bool {
    if keepsHistory || storage.bytesMax != .max { return false }
    if chanceOfBackups(25), try restoreBackup() { return true }
    if !random.chance(8) { return false }
    if random.chance(70), let backup {
      log("restore the copy of \(backup.state.lsn)")
      counts.restored += 1
      storage = SimulatedStorage(files: backup.files, random: random.split())
      cuts = backup.cuts
      backups?.noteTold(shownVersions, from: model.firstVersion)
      goBack(to: backup.state)
      if let copy = backup.feed { feed?.restore(copy, at: backup.endLSN) }
      backups?.putBack(backup.history, backup.state, endLSN: backup.endLSN)
      shownVersions = backup.shownVersions
      return true
    }
    return try repair()
  }

  /// Cuts the journal, if it can be cut there.
  private func repair() throws(Violation) -> Bool {
    guard !cuts.isEmpty else { return false }
    let cut = random.pick(cuts)
    return try repair(at: cut.lsn, cut)
  }

  /// - Parameter cut: the state at `lsn`, behind which there may be records of the time.
  func repair(at lsn: UInt64, _ cut: Snapshot) throws(Violation) -> Bool {
    let report: RepairReport
    do throws(JournalError) {
      report = try Repair.truncate(storage: storage, at: lsn, nonce: random.next())
    } catch .unsuitable {
      // The checkpoint needs more.
      return false
    } catch {
      throw violation("the journal to be cut at \(lsn)", "\(error)")
    }
    log("give up what is behind \(lsn): \(report)")
    counts.repaired += 1
    var state = cut.model
    state.liftVersions(by: report.versionLift)
    for (sku, version) in shownVersions
    where version >= state.lastVersion(sku) ?? state.firstVersion {
      throw violation("a version of \(sku) above \(version), which was shown", "\(state.items)")
    }
    backups?.noteTold(shownVersions, from: model.firstVersion)
    goBack(to: Snapshot(lsn: cut.lsn, model: state))
    backups?.beginHistory(snapshots[0])
    feed?.repair(at: cut, lift: report.versionLift)
    // What was shown is no version any more.
    shownVersions = [:]
    cuts = []
    return true
  }

  func goBack(to state: Snapshot) {
    snapshots = [state]
    model = state.model
    promisedLSN = state.lsn
    // The checkpoint may say another retention.
    hasOtherRetention = true
  }

  private func endProcess(losingPower: Bool) {
    if let statistics = store?.journalStatistics {
      counts.checkpoints += Int(statistics.checkpoints)
      counts.journalBytes += Int(statistics.bytesWritten)
    }
    closeFeed()
    backups?.open = nil
    if losingPower, chanceOfBackups(50) { restartArchive(losingPower: true) }
    sessions = []
    store = nil
    storage = storage.restart(losingPower: losingPower)
    storage.trace = trace
    hasFailed = false
    changeSettings()
    // The wall clock may have been set, and a minute or a day may have passed.
    wallTime =
      clock.now().nanoseconds + seconds(random.pick([0, 0, 1, 60, 90_000, -3600, -90_000]))
  }

  /// The next process may be started with other options, with room for more decisions, and with a
  /// shorter retention: a longer one would bring back some of what was forgotten.
  private func changeSettings() {
    if keepsHistory { return }
    hasOtherRetention = random.chance(5)
    if hasOtherRetention { settings.limits.retentionNanoseconds /= 2 }
    settings.options.groupBytesMax = random.pick([1 << 12, 1 << 13, 1 << 14])
    settings.options.checkpointSegments = random.number(2...3)
    settings.options.historyBytes = feed?.historyBytes(segmentBytes) ?? 0
    let archives = chanceOfBackups(80)
    backups?.isArchiving = archives
    // The directory keeps the segments that it was made with.
    if promisedLSN > 0 {
      settings.options.segmentBytes = 4096 * random.number(5...segmentBytes / 4096)
    }
    if !settings.hasShards && random.chance(10) {
      settings.limits.reservationsMax += random.number(1...20)
      settings.limits.itemsMax += 1
    }
  }

  // MARK: Starting

  func start(after farewell: Farewell?) throws(Violation) {
    var attempt = 0
    while store == nil {
      attempt += 1
      storage.trace = trace
      planFaults(attempt)
      let verified = try verify()
      let files = storage.files
      try readyArchive()
      guard let summary = try open() else {
        counts.crashedStarts += 1
        try forgetLost(files)
        storage = storage.restart(
          losingPower: settings.options.durability == .fsync && random.chance(50))
        continue
      }
      try adopt(summary)
      if let verified, !hasOtherRetention,
        verified.digest != summary.digest || verified.lsn != summary.lsn
      {
        throw violation("what verify found: \(verified)", "\(summary)")
      }
      try compare(summary, attempt == 1 ? farewell : nil)
      try compareAll()
    }
  }

  /// Chooses what goes wrong in the process that begins. From the fourth attempt on nothing does.
  private func planFaults(_ attempt: Int) {
    if let plan = firstPlan {
      firstPlan = nil
      storage.plan = plan
      return
    }
    guard attempt < 4 else { return }
    // Most calls write and sync batches; the others deserve as much.
    let (scope, calls): (FaultPlan.Scope, Int) = random.pick([
      (.all, settings.faultCallsMax), (.all, settings.faultCallsMax), (.directory, 8),
      (.whileThereIs(Self.checkpointName), 30),
    ])
    if random.chance(settings.crashPercent) {
      let faults: [FaultPlan.Fault] = [.crashBefore, .crashDuring, .crashAfter]
      storage.plan = FaultPlan(
        calls: random.number(1...calls), scope: scope, fault: random.pick(faults))
    } else if random.chance(settings.errorPercent) {
      storage.plan = FaultPlan(calls: random.number(1...calls), scope: scope, fault: .error)
    } else if random.chance(settings.fullPercent) {
      counts.fullDisks += 1
      storage.bytesMax =
        storage.byteCount + random.number(0...2) * settings.options.segmentBytes
      fullUntilStep = step + random.number(1...60)
    }
  }

  /// What reading alone finds, now and then.
  private func verify() throws(Violation) -> RecoverySummary? {
    guard random.chance(3), storage.callCount > 0 || step > 0 else { return nil }
    let before = storage.callCount
    let summary: RecoverySummary
    do throws(JournalError) {
      summary = try StockStore.verify(storage: storage)
    } catch {
      // Before the first start has come to its end, there is nothing to verify.
      if promisedLSN == 0, case .unsuitable = error { return nil }
      throw violation("the directory to be sound", "verify: \(error)")
    }
    if storage.callCount != before { throw violation("verify only to read", "it changes files") }
    return summary
  }

  /// nil where an injected fault made it fail.
  private func open() throws(Violation) -> RecoverySummary? {
    let refusedBefore = storage.refusedForSpaceCount
    let summary: RecoverySummary
    do throws(JournalError) {
      (store, summary) = try StockStore.open(
        storage: storage, limits: settings.limits, concurrency: settings.concurrency,
        options: settings.options, secret: (seed, ~seed), nonce: random.next(),
        archive: backups?.archiveInUse, fault: fault?.ofStore,
        makeClock: { notBefore in
          clock = SimulatedClock(max(wallTime, notBefore.nanoseconds) + timeToClock)
          return clock
        }, progress: { _ in })
    } catch {
      log("cannot open: \(error)")
      if try leaveArchive(error) { return nil }
      let isInjected =
        storage.isDown || storage.hasFailed || storage.refusedForSpaceCount > refusedBefore
      guard case .failed = error, isInjected else {
        throw violation("the directory to be opened", "\(error)")
      }
      return nil
    }
    if storage.hasFailed { throw violation("to hear of the call that failed", "it was opened") }
    return summary
  }

  /// A start that failed may have gone on from what it found, so that log sequence numbers behind that
  /// mean something else from now on.
  /// - Parameter files: what it found.
  private func forgetLost(_ files: [String: [UInt8]]) throws(Violation) {
    let copy = SimulatedStorage(files: files)
    let summary: RecoverySummary
    do throws(JournalError) {
      (_, summary) = try StockStore.open(
        storage: copy, limits: settings.limits, options: settings.options, secret: (seed, ~seed),
        nonce: 0, fault: fault?.ofStore, makeClock: { SimulatedClock($0.nanoseconds) },
        progress: { _ in })
    } catch {
      throw violation("the directory to be opened where nothing fails", "\(error)")
    }
    try requirePromised(summary)
    snapshots.removeAll { $0.lsn > summary.lsn }
    cuts.removeAll { $0.lsn > summary.lsn }
    feed?.forget(behind: summary.lsn)
    backups?.forget(behind: summary.lsn)
  }

  private func requirePromised(_ summary: RecoverySummary) throws(Violation) {
    if summary.lsn < promisedLSN {
      throw violation("everything up to \(promisedLSN), which was durable", "\(summary.lsn)")
    }
  }

  /// Sets the model back to what was recovered, which must be a state that may be there.
  private func adopt(_ summary: RecoverySummary) throws(Violation) {
    guard let store else { return }
    log("recovered up to \(summary.lsn), \(summary.decisions) decisions, \(summary.tornBytes) torn")
    try requirePromised(summary)
    let index = snapshots.lastIndex { $0.lsn <= summary.lsn } ?? 0
    var state = snapshots[index].model
    // Between two states lie only holds that fell due while a store was being opened, each with a record
    // of its own, in the order in which they fell due.
    let isBetween = summary.decisions > state.decisionCount
    if isBetween {
      let missing = Int(summary.decisions - state.decisionCount)
      state.beginTurn(summary.time.nanoseconds, expiriesMax: missing)
    }
    if summary.decisions != state.decisionCount {
      throw violation("\(state.decisionCount) decisions", "\(summary.decisions)")
    }
    for (sku, version) in shownVersions where state.lastVersion(sku) ?? 0 < version {
      throw violation(
        "version \(version) of \(sku), which was shown", "\(state.lastVersion(sku) ?? 0)")
    }
    if clock.now().nanoseconds < state.now {
      throw violation("time not to run back before \(state.now)", "\(clock.now().nanoseconds)")
    }
    if summary.tornBytes > 0 { counts.tornTails += 1 }
    state.limits = settings.limits
    try settlePlaces(&state, store.core)
    cuts.removeAll { $0.lsn > summary.lsn }
    feed?.forget(behind: summary.lsn)
    backups?.forget(behind: summary.lsn)
    sessions = [store.makeSession(), store.makeSession()]
    // What fell due meanwhile has ended as the store was opened, where there was room to record it.
    snapshots = []
    append(Snapshot(lsn: summary.lsn, model: state))
    try openFeed()
    try openArchive()
    model = state
    expiredBefore = store.statistics().reservationsExpired
    let (expired, isAll) = model.beginTurn(
      clock.now().nanoseconds, expiriesMax: Int(expiredBefore))
    if expired != expiredBefore || !isAll && store.journalStatistics?.unavailable == nil {
      throw violation("\(expired) holds to end, or all", "\(expiredBefore)")
    }
    forgetPassed(store)
    append(Snapshot(lsn: sessions[0].lastLSN, model: model))
    _ = expiries.take()
    store.setExpiryObserver { [expiries] id, lsn in expiries.append(id, lsn) }
    decisionsBefore = [model.decisionCount, model.decisionCount]
    notePromise()
    noteHistory()
  }

  /// What the process has found of items that were removed. One whose place was given up begins anew.
  private func settlePlaces(_ state: inout Model, _ core: StoreCore) throws(Violation) {
    var remains: [String: Model.Remains] = [:]
    for ordinal in 0..<core.items.count where core.isRemoved(ordinal) {
      let sku = unsafe String(
        decoding: core.items.name(ordinal).sku.pointer, as: UTF8.self)
      remains[sku] = Model.Remains(
        ordinal: ordinal,
        version: ItemWord.version(core.items[ordinal].word.load(ordering: .relaxed)))
    }
    let (wrong, lost) = state.settle(remains: remains, count: core.items.count)
    if let wrong { throw violation("what was left of removed items", wrong) }
    for sku in lost { shownVersions[sku] = nil }
    counts.placesGivenUp += lost.count
  }

  private func compare(_ summary: RecoverySummary, _ farewell: Farewell?) throws(Violation) {
    guard let store else { return }
    // Nothing else has changed since, if no hold fell due.
    let hasExpired = expiredBefore > 0 || model.hasDue(at: clock.now().nanoseconds)
    if !hasExpired {
      let digest = store.stateDigest(at: summary.time)
      if digest != summary.digest {
        throw violation("digest \(summary.digest), as recovered", "\(digest)")
      }
    }
    guard let farewell else { return }
    if summary.lsn < farewell.lsn || summary.tornBytes > 0 {
      throw violation("all that was closed, up to \(farewell.lsn)", "\(summary)")
    }
    if !hasExpired && !hasOtherRetention {
      let digest = store.stateDigest(at: farewell.time)
      if digest != farewell.digest {
        throw violation("digest \(farewell.digest), as closed", "\(digest)")
      }
    }
  }
}
