internal import Log
// One seed's run: commands on two sessions, interleaved with steps of the journal and of its maintenance,
// restarts, crashes, failing calls and full disks. The model is asked after every command, and after
// every start for the state that was recovered.
internal import Posix
package import StockStore
internal import StorePersistence
internal import Synchronization

/// Used by one thread.
package final class SimulationRun: @unchecked Sendable {
  /// The model when the log ended at `lsn`.
  struct Snapshot {
    let lsn: UInt64
    let model: Model
  }

  private static let cutsMax = 20
  /// In one of so many seeds the change feed is watched.
  private static let seedsForAFeed: UInt64 = 3
  /// In one of so many, backups are taken.
  private static let seedsForBackups: UInt64 = 8

  struct Backup {
    let files: [String: [UInt8]]
    let state: Snapshot
    /// Of its journal, which may end with a record of the time.
    let endLSN: UInt64
    let cuts: [Snapshot]
    let shownVersions: [String: UInt64]
    let feed: FeedOfRun.Copy?
    /// Of `BackupsOfRun.histories`.
    let history: Int
  }

  /// A checkpoint while it is written.
  static let checkpointName = "checkpoint.tmp"

  let seed: UInt64
  let fault: Mutant?
  var settings: RunSettings
  var random: SeededRandom
  /// Where the run tells what it does.
  let trace: ((String) -> Void)?

  var firstPlan: FaultPlan?
  var storage: SimulatedStorage
  /// What the wall clock says when a process starts, in nanoseconds since the Unix epoch.
  var wallTime: Int64 = 1_577_836_800_000_000_000
  var clock: SimulatedClock
  var store: StockStore?
  var sessions: [StoreSession] = []
  /// By session: the time of its turn.
  var turnTimes: [Int64] = [0, 0]

  /// Of the directory, since it was made.
  let segmentBytes: Int
  var model: Model
  /// The state at every log sequence number that a crash may leave, oldest first.
  var snapshots: [Snapshot]
  /// Everything up to here was said to be durable.
  var promisedLSN: UInt64 = 0
  /// Of each item, the newest version that anybody was shown.
  var shownVersions: [String: UInt64] = [:]
  /// A call has failed: nothing may be acknowledged any more.
  var hasFailed = false
  /// The full disk has room again at this step.
  var fullUntilStep = 0
  /// Holds that the process has ended because they were due, as far as the model knows.
  var expiredBefore: UInt64 = 0
  /// Holds that the store has ended because they are due, which the model does not know of yet.
  let expiries = ExpiryList()
  /// By session: decisions made when its last turn had begun.
  var decisionsBefore: [UInt64] = [0, 0]
  /// While some holds are due and not ended: the model as if they were, before the command.
  var expected: Model?
  /// The process was started with a shorter retention than the one before.
  var hasOtherRetention = false

  var step = 0
  var keysMade = 0
  var reserves: [ReserveCommand] = []
  var adjustments: [AdjustCommandText] = []
  var batches: [BatchCommandText] = []
  var removals: [RemoveCommandText] = []
  var replaces: [ReplaceCommandText] = []
  var ids: [ReservationID] = []
  /// All ids that were ever given, also in histories that were given up since: none may come again.
  var idsGiven: Set<ReservationID> = []
  /// States at which the journal was synced and can be cut, oldest first.
  var cuts: [Snapshot] = []
  /// A copy of the directory, as an operator makes it while no server runs.
  var backup: Backup?
  /// The journal is to catch up at the end of the turn.
  var wantsSettling = false
  /// Of a reserve that another one was made inside of: see RunGap.swift.
  var isInGap = false
  var insideGap: (ReserveCommand, Decision<Hold>)?
  var foundInGap: Violation?
  /// nil: nobody watches.
  var feed: FeedOfRun?
  /// nil: nothing is archived, and nobody takes a backup.
  var backups: BackupsOfRun?
  package var counts = RunCounts()
  /// The digest of the state at the end of every group; kept where the history is asked for.
  private(set) var history: [UInt64: StateDigest] = [:]
  private(set) var keepsHistory = false
  /// Up to here, there are no states but those in `history`.
  private(set) var historyLSN: UInt64 = 0
  /// The directory and the log's end before the last group, where the history is asked for.
  private(set) var ending: (files: [String: [UInt8]], lsn: UInt64) = ([:], 0)

  /// - Parameters:
  ///   - strategy: how the store keeps commands apart, instead of what the seed says.
  ///   - firstPlan: what goes wrong in the first process, instead of what the seed says.
  package init(
    seed: UInt64, fault: Mutant? = nil, strategy: ConcurrencyControl? = nil,
    firstPlan: FaultPlan? = nil, trace: ((String) -> Void)? = nil
  ) {
    self.firstPlan = firstPlan
    self.seed = seed
    self.fault = fault
    self.trace = trace
    random = SeededRandom(seed: seed)
    settings = RunSettings(seed: seed, &random, fault: fault, strategy: strategy)
    segmentBytes = settings.options.segmentBytes
    storage = SimulatedStorage(random: random.split())
    clock = SimulatedClock(wallTime)
    model = Model(limits: settings.limits, now: wallTime)
    snapshots = [Snapshot(lsn: 0, model: model)]
    let isWatched = seed.isMultiple(of: Self.seedsForAFeed)
    if fault.map({ $0.isOfFeed || $0.isOfBackups && isWatched }) ?? isWatched {
      feed = FeedOfRun(seed: seed)
      feed?.note(snapshots[0])
      settings.options.historyBytes = feed?.historyBytes(segmentBytes) ?? 0
    }
    if fault?.isOfBackups ?? seed.isMultiple(of: Self.seedsForBackups) {
      backups = BackupsOfRun(seed: seed, fault)
      backups?.beginHistory(snapshots[0])
      backups?.set(&settings.options)
      if backups?.isBulky == true { settings.makeBulky() }
    }
  }

  /// A look at a directory that was restored from a backup of `run`, and must have this state.
  init(of run: SimulationRun, _ files: [String: [UInt8]], _ state: Snapshot) {
    (seed, fault, step) = (run.seed, run.fault, run.step)
    trace = run.trace.map { trace in { trace("  restored: \($0)") } }
    firstPlan = FaultPlan.none
    random = SeededRandom(seed: run.seed ^ state.lsn)
    settings = run.settings
    settings.options.historyBytes = 0
    segmentBytes = run.segmentBytes
    storage = SimulatedStorage(files: files, random: random.split())
    wallTime = run.clock.now().nanoseconds
    clock = SimulatedClock(wallTime)
    model = state.model
    snapshots = [state]
    promisedLSN = state.lsn
    hasOtherRetention = true
    ids = run.ids
  }

  /// A run for its history: every group is one decision, but for the last, and nothing fails.
  init(history seed: UInt64) {
    self.seed = seed
    fault = nil
    trace = nil
    random = SeededRandom(seed: seed)
    settings = RunSettings(history: &random)
    segmentBytes = settings.options.segmentBytes
    storage = SimulatedStorage(random: random.split())
    clock = SimulatedClock(wallTime)
    model = Model(limits: settings.limits, now: wallTime)
    snapshots = [Snapshot(lsn: 0, model: model)]
    keepsHistory = true
  }

  /// Runs to the end, or to the first violation.
  package func run() throws(Violation) {
    log("\(settings)")
    try start(after: nil)
    while step < settings.steps {
      step += 1
      try runStep()
      if let foundInGap { throw foundInGap }
    }
    try keepsHistory ? endHistory() : end()
  }

  /// Whatever has happened: with a disk that works, everything goes on, and everything is there.
  private func end() throws(Violation) {
    storage.plan = .none
    storage.bytesMax = .max
    if hasFailed { try crash() }
    try settle()
    try finishSweep()
    try finishFeed()
    try finishBackups()
    try stop()
    try compareAll()
  }

  /// One group of many decisions, all in one segment.
  private func endHistory() throws(Violation) {
    try settle()
    historyLSN = promisedLSN
    repeat {
      keepsHistory = true
      noteHistory()
      keepsHistory = false
      ending = (storage.files, promisedLSN)
      for _ in 0..<3 { try runTurn() }
      try stepJournal()
      let changed = storage.files.count { ending.files[$0.key] != $0.value }
      if changed == 1 && promisedLSN == sessions[0].lastLSN { break }
      try settle()
    } while true
    keepsHistory = true
    noteHistory()
  }

  private func runStep() throws(Violation) {
    if storage.isDown { return try crash() }
    if step >= fullUntilStep, storage.bytesMax != .max {
      log("space again")
      storage.bytesMax = .max
      if !hasFailed { try settle() }
    } else if random.chance(settings.restartPercent) {
      try random.chance(50) ? stop() : crash()
    } else if hasFailed, random.chance(25) {
      try crash()
    } else if random.chance(settings.timePercent) {
      try passTime()
    } else {
      try runTurn()
    }
    if random.chance(settings.journalPercent) { try stepJournal() }
    let isCheckpointing = storage.hasFile(Self.checkpointName)
    let percent = isCheckpointing ? settings.checkpointPercent : 100
    if random.chance(min(settings.maintenancePercent, percent)) {
      for _ in 0..<random.number(1...settings.maintenanceBurstMax) { try stepMaintenance() }
    }
    try watch()
    try stepBackups()
  }

  // MARK: The journal

  /// Writes a group. False: nothing to write, or the disk has failed.
  @discardableResult
  func stepJournal() throws(Violation) -> Bool {
    guard let store, !storage.isDown else { return false }
    let before = sessions[0].durableLSN
    var hasWorked = false
    do throws(JournalError) {
      hasWorked = try store.stepJournal()
    } catch {
      try noteFailure(error)
    }
    if hasFailed, sessions[0].durableLSN != before {
      throw violation("nothing durable after a failure", "\(before) to \(sessions[0].durableLSN)")
    }
    if hasWorked { log("durable up to \(sessions[0].durableLSN)") }
    notePromise()
    return hasWorked
  }

  /// A segment made ready, or a piece of a checkpoint. False: nothing to do, or the disk has failed.
  @discardableResult
  func stepMaintenance() throws(Violation) -> Bool {
    guard let store, !storage.isDown else { return false }
    do throws(JournalError) {
      return try store.stepMaintenance()
    } catch {
      try noteFailure(error)
      return false
    }
  }

  /// The steps of both until nothing is left to do.
  func settle() throws(Violation) {
    for _ in 0..<10_000 {
      let hasWritten = try stepJournal()
      let hasMaintained = try stepMaintenance()
      if !hasWritten && !hasMaintained { return try checkSettled() }
    }
    throw violation("the journal to come to an end", "10,000 steps, and more to do")
  }

  private func checkSettled() throws(Violation) {
    guard let statistics = store?.journalStatistics, !hasFailed, !storage.isDown,
      storage.bytesMax == .max
    else { return }
    counts.settled += 1
    if let reason = statistics.unavailable {
      throw violation("changes to be taken: everything is written", "\(reason)")
    }
    if statistics.durableLSN != statistics.lsn {
      throw violation("all durable: \(statistics.lsn)", "\(statistics.durableLSN)")
    }
    let history = (settings.options.historyBytes + segmentBytes - 1) / segmentBytes
    let segments =
      2 * settings.options.checkpointSegments + settings.options.spareSegments + 7 + history
    // A checkpoint of so few records is smaller than a segment. What the archive lacks is kept for it.
    let most = (segments + 3 + (statistics.archive?.waiting ?? 0)) * segmentBytes
    if storage.byteCount > most {
      throw violation("at most \(most) bytes on the disk", "\(storage.byteCount)")
    }
  }

  /// The journal gave up: it must have had a reason.
  func noteFailure(_ error: JournalError) throws(Violation) {
    log("the journal failed: \(error)")
    guard case .failed = error, storage.isDown || storage.hasFailed else {
      throw violation("no failure but those injected", "\(error)")
    }
    counts.failures += 1
    hasFailed = true
    // Who watches is shown no more than what was durable before.
    if !storage.isDown {
      try stepFeed(times: 100)
      try stepBackupsAfterFailure()
    }
  }

  // MARK: What was said

  /// Takes down what any session would acknowledge now.
  func notePromise() {
    guard let session = sessions.first else { return }
    let durable = session.durableLSN
    if durable <= promisedLSN { return }
    promisedLSN = durable
    // The newest state that is durable stays: a crash can leave nothing older.
    if let index = snapshots.lastIndex(where: { $0.lsn <= durable }), index > 0 {
      snapshots.removeFirst(index)
    }
    if let newest = snapshots.first, newest.lsn == durable {
      cuts.append(newest)
      if cuts.count > Self.cutsMax { cuts.removeFirst() }
    }
  }

  /// Takes down the state of the model at the end of the log.
  func noteState() throws(Violation) {
    guard let last = sessions.first?.lastLSN, let newest = snapshots.last else { return }
    let hasDecided = model.decisionCount != newest.model.decisionCount
    if hasDecided != (last != newest.lsn) {
      throw violation(
        "a record for every decision and no other",
        "\(model.decisionCount - newest.model.decisionCount) decisions, the log at \(last), "
          + "before at \(newest.lsn)")
    }
    if hasDecided {
      if hasFailed { throw violation("no decision after a failure", "the log at \(last)") }
      append(Snapshot(lsn: last, model: model))
      if keepsHistory { while try stepJournal() {} }
      noteHistory()
    }
  }

  /// Takes down the digest of the state at the end of the log, where the history is asked for.
  func noteHistory() {
    guard keepsHistory, let store, let session = sessions.first else { return }
    history[session.lastLSN] = store.stateDigest(at: clock.now())
  }

  /// An answer with `lsn` would be shown if that is durable: then what it says must be.
  func checkShown(
    _ lsn: UInt64, _ what: String, _ isSame: (_ durable: Model, _ now: Model) -> Bool
  ) throws(Violation) {
    guard let session = sessions.first, let base = snapshots.first else { return }
    let durable = session.durableLSN
    if lsn > session.lastLSN {
      throw violation("\(what): a number of the log", "\(lsn), the log ends at \(session.lastLSN)")
    }
    guard lsn <= durable, base.lsn == durable else { return }
    if !isSame(base.model, model) {
      throw violation(
        "\(what): shown when what changed it is durable",
        "its number is \(lsn), up to \(durable) is durable, and what it says is newer")
    }
  }

  func violation(_ expected: String, _ seen: String) -> Violation {
    let mutant = fault.map { " --mutant \($0.name)" } ?? ""
    let name = settings.concurrency.rawValue
    let strategy =
      ConcurrencyControl.sound.contains(settings.concurrency) ? " --concurrency \(name)" : ""
    return Violation(
      seed: seed, step: step, expected: expected, seen: seen,
      arguments: "--seed \(seed)\(mutant)\(strategy)")
  }

  func log(_ text: @autoclosure () -> String) {
    if let trace { trace("\(step): \(text())") }
  }
}

/// Holds that a store has ended, for whoever asks next.
final class ExpiryList: Sendable {
  private let list = Mutex<[(id: ReservationID, lsn: UInt64)]>([])

  func append(_ id: ReservationID, _ lsn: UInt64) { list.withLock { $0.append((id, lsn)) } }

  func take() -> [(id: ReservationID, lsn: UInt64)] {
    list.withLock { list in
      let taken = list
      list = []
      return taken
    }
  }
}

/// What runs have come across: a simulation that never crashes proves nothing.
package struct RunCounts: Sendable, Equatable {
  package var commands = 0
  package var unavailable = 0
  package var killed = 0
  package var powerCuts = 0
  package var closed = 0
  /// Directories that were opened without the end that they were stopped with.
  package var endsLost = 0
  /// Directories whose newest checkpoint was harmed while an older one was there.
  package var checkpointsHarmed = 0
  package var failures = 0
  package var fullDisks = 0
  package var crashedStarts = 0
  package var tornTails = 0
  package var checkpoints = 0
  package var journalBytes = 0
  package var settled = 0
  package var expired = 0
  package var restored = 0
  package var repaired = 0
  /// Events that were consumed, and tokens that a watch began with: those that were taken, those of another
  /// history, and those from before what is kept.
  package var feedEvents = 0
  package var feedResumed = 0
  package var feedForeign = 0
  package var feedTooOld = 0
  /// Backups that were taken, those of them while a checkpoint was written, and those that a failing disk ended.
  package var backups = 0
  package var backupsBesideCheckpoint = 0
  package var backupsFailed = 0
  /// What the archive took, could not take, and said that it lacks; and copies that it was ahead of.
  package var archiveSteps = 0
  package var archiveFailures = 0
  package var archiveLosses = 0
  package var archiveAhead = 0
  /// Restores that came to a state, those that were looked at and not gone on with, those for which there was no
  /// such moment, and those that a failing disk cut off.
  package var restores = 0
  package var restoresProbed = 0
  package var restoresRefused = 0
  package var restoresCut = 0
  /// Archives whose last whole segment was cut short.
  package var archivesHarmed = 0
  /// Holds of another alternative than the first, those that got less than they asked for or could have, and
  /// refusals of several alternatives.
  package var alternativesHeld = 0
  package var minimumsHeld = 0
  package var alternativesRefused = 0
  /// Items that were removed, and those whose places another may have.
  package var removed = 0
  package var placesGivenUp = 0

  package init() {}

  /// Adds those of another run.
  package mutating func add(_ other: RunCounts) {
    commands += other.commands
    unavailable += other.unavailable
    killed += other.killed
    powerCuts += other.powerCuts
    closed += other.closed
    endsLost += other.endsLost
    checkpointsHarmed += other.checkpointsHarmed
    failures += other.failures
    fullDisks += other.fullDisks
    crashedStarts += other.crashedStarts
    tornTails += other.tornTails
    checkpoints += other.checkpoints
    journalBytes += other.journalBytes
    settled += other.settled
    expired += other.expired
    restored += other.restored
    repaired += other.repaired
    feedEvents += other.feedEvents
    feedResumed += other.feedResumed
    feedForeign += other.feedForeign
    feedTooOld += other.feedTooOld
    backups += other.backups
    backupsBesideCheckpoint += other.backupsBesideCheckpoint
    backupsFailed += other.backupsFailed
    archiveSteps += other.archiveSteps
    archiveFailures += other.archiveFailures
    archiveLosses += other.archiveLosses
    archiveAhead += other.archiveAhead
    restores += other.restores
    restoresProbed += other.restoresProbed
    restoresRefused += other.restoresRefused
    restoresCut += other.restoresCut
    archivesHarmed += other.archivesHarmed
    alternativesHeld += other.alternativesHeld
    minimumsHeld += other.minimumsHeld
    alternativesRefused += other.alternativesRefused
    removed += other.removed
    placesGivenUp += other.placesGivenUp
  }
}
