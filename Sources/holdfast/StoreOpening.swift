// From a data directory to a running store with its journal, and back.
internal import ChangeFeed
internal import Glibc
internal import Log
internal import Logging
internal import Posix
internal import StockStore
internal import StorePersistence
internal import Supervision
internal import Synchronization

/// A store that is about to be opened. Its data directory, if it has one, is this process's already.
final class StoreOpening: Sendable {
  private let settings: Settings
  private let logger: Logger
  private let retention: RetentionWatch
  private let manager: ServiceManager?
  private let storage: DirectoryStorage?
  private let archive: ArchiveDirectory?
  /// With durability quorum: the log that the directory is a copy of.
  private let ownership = Mutex<LogOwnership?>(nil)
  private let clockKeeper = Mutex<ClockKeeper?>(nil)

  /// Takes the data directory, which is made if need be.
  init(
    _ settings: Settings, _ logger: Logger, _ retention: RetentionWatch, _ manager: ServiceManager?
  ) throws(CommandFailure) {
    self.settings = settings
    self.retention = retention
    self.manager = manager
    self.logger = logger
    if settings.durability == nil {
      storage = nil
      archive = nil
      return
    }
    do {
      storage = try DirectoryStorage(path: settings.dataDirectory, access: .owner)
    } catch {
      throw Self.failure(error, settings)
    }
    archive = settings.archive.isEmpty ? nil : try ArchiveDirectory(settings, logger)
  }

  /// The log is in an engine.
  func follow(_ log: LogOwnership) { ownership.withLock { $0 = log } }

  /// The store as it was left, its journal running. Blocks while it reads; with a log in an engine, until that is
  /// this server's.
  func open() throws(CommandFailure) -> StockStore {
    if let storage, let log = ownership.withLock({ $0 }) { return try open(storage, log) }
    let limits = Limits.store(settings)
    guard let storage, let durability = settings.durability else {
      do throws(JournalError) {
        let clock = try ServerClock.start(after: nil, settings, logger)
        try StockStore.requireAddressSpace(limits, settings.concurrency)
        let store = try JournalError.attempt("make", "the log in memory") { () throws(Errno) in
          guard let history = Limits.memoryHistory(settings) else {
            return StockStore(limits: limits, clock: clock, concurrency: settings.concurrency)
          }
          let store = try StockStore(
            limits: limits, clock: clock, concurrency: settings.concurrency,
            ringBytes: Limits.memoryRingBytes, historyBytes: history)
          // Otherwise from the first watch on.
          if settings.historyBytes != nil { store.keepDecisions() }
          try store.memoryLog?.start()
          return store
        }
        try keepClock(store)
        return store
      } catch {
        throw CommandFailure(description: error.description)
      }
    }
    logger.info("recovering", metadata: ["data-dir": "\(settings.dataDirectory)"])
    do {
      let (store, summary) = try StockStore.open(
        storage: storage, limits: limits, concurrency: settings.concurrency,
        options: Limits.journal(settings, durability), archive: archive?.storage,
        makeClock: { (newest) throws(JournalError) in
          try ServerClock.start(
            after: newest.nanoseconds == 0 ? nil : newest, settings, logger)
        }, progress: report)
      report(summary)
      archive?.watch(store)
      try start(store)
      return store
    } catch let error as CommandFailure {
      throw error
    } catch let error as JournalError {
      throw archive?.failure(error) ?? Self.failure(error, settings)
    } catch {
      throw CommandFailure(description: "cannot start the journal: \(error)")
    }
  }

  private func open(
    _ storage: DirectoryStorage, _ log: LogOwnership
  ) throws(CommandFailure) -> StockStore {
    let follower = Follower(
      storage: storage, log: log.log,
      setup: Follower.Setup(
        limits: Limits.store(settings), concurrency: settings.concurrency,
        options: Limits.journal(settings, .quorum),
        makeClock: { (newest) throws(JournalError) in
          try ServerClock.start(
            after: newest.nanoseconds == 0 ? nil : newest, self.settings, self.logger)
        }, progress: report, report: { [logger] in logger.warning("\($0)") },
        reads: log.reads))
    do {
      let (store, summary) = try log.own(follower) { [logger] in Self.end($0, logger) }
      report(summary)
      try start(store)
      // As an orderly shutdown; what this process ends with tells it from one (Service.run).
      try log.begin(storage) { kill(getpid(), SIGTERM) }
      return store
    } catch let error as CommandFailure {
      throw error
    } catch JournalError.fenced(let epoch) {
      throw CommandFailure(
        description: JournalError.fenced(by: epoch).description, status: CommandFailure.fenced)
    } catch let error as JournalError {
      throw Self.failure(error, settings)
    } catch {
      throw CommandFailure(description: "cannot start the journal: \(error)")
    }
  }

  private func start(_ store: StockStore) throws {
    // One session was the opening's.
    guard settings.loops < store.sessionsMax else {
      throw CommandFailure(
        description:
          "\(settings.dataDirectory) was made with segments too small for \(settings.loops) loops: "
          + "use --loops \(store.sessionsMax - 1) at most")
    }
    try store.startJournal { [logger] error in Self.end(error, logger) }
    try keepClock(store)
  }

  private func keepClock(_ store: StockStore) throws(JournalError) {
    do {
      let keeper = try ClockKeeper(store, logger, retention)
      clockKeeper.withLock { $0 = keeper }
    } catch {
      throw .failed(operation: "make", file: "the clock's thread", error)
    }
  }

  /// The change feed of a store that was just opened.
  func openFeed(_ store: StockStore) throws(CommandFailure) -> ChangeFeed? {
    guard let log: any ReadableLog = store.journal?.log ?? store.memoryLog else { return nil }
    do {
      let feed = try ChangeFeed(
        store: store, log: log, limits: Limits.feed,
        keepNanoseconds: settings.historyBytes == nil ? Limits.keepNanoseconds : nil
      ) { [logger] in logger.error("\($0)") }
      store.journal?.add(feed.durabilityClient)
      store.memoryLog?.add(feed.durabilityClient)
      return feed
    } catch {
      throw CommandFailure(description: "cannot start the change feed's threads: \(error)")
    }
  }

  /// Who reads backups of the store's directory for callers.
  func backups(of store: StockStore) -> BackupStreams? {
    guard let journal = store.journal else { return nil }
    let path = settings.dataDirectory
    return BackupStreams(streamsMax: Limits.backupsMax) { () throws(JournalError) in
      // Opened anew, as a reader: so what it reads is held.
      try BackupReader(
        of: DirectoryStorage(path: path, access: .reader), until: journal.ring.durable)
    } report: { [logger] in
      logger.error("\($0)")
    }
  }

  /// Makes everything durable and ends the journal. The event loops have ended. Where the disk does not
  /// answer within `patienceNanoseconds`, ends the process: nothing else can end a thread that waits for it.
  func close(_ store: StockStore, patienceNanoseconds: Int64) throws {
    let closed = try Wakeup()
    let guardian = try Thread(name: "closing") { [logger] in
      if !closed.wait(nanoseconds: patienceNanoseconds) { Self.endWaiting(store, logger) }
    }
    defer {
      closed.signal()
      guardian.join()
    }
    clockKeeper.withLock { $0 }?.stop()
    store.memoryLog?.stop()
    let log = ownership.withLock { $0 }
    do {
      // At once: whoever takes the log waits for that. Nothing is answered any more.
      try store.closeJournal { log?.giveUp() }
    } catch {
      let isFenced = if case .fenced = error { true } else { false }
      throw CommandFailure(
        description: "\(settings.dataDirectory): \(error)",
        status: isFenced ? CommandFailure.fenced : CommandFailure.diskFailed)
    }
    closed.signal()
    archive?.finish(store)
  }

  /// The disk has not answered until the time of the shutdown was over.
  private static func endWaiting(_ store: StockStore, _ logger: Logger) {
    logger.critical(
      "the \(store.replica == nil ? "disk" : "engine") does not answer; ended without its word that the last decisions are on it",
      metadata: [
        "decisions-not-acknowledged": .stringConvertible(store.waitingDecisions),
        "status": .stringConvertible(CommandFailure.diskFailed),
      ])
    _exit(CommandFailure.diskFailed)
  }

  /// The disk has failed. What it holds of the last writes nobody knows, a second try would not tell
  /// (fsync(2)), and clients had better ask a server that has read the directory anew. Or the directory is
  /// not where it was: what is written goes nowhere.
  private static func end(_ error: JournalError, _ logger: Logger) {
    if case .fenced = error {
      logger.critical(
        "another server owns the log now; ending at once, nothing is acknowledged any more",
        metadata: [
          "error": "\(error)", "status": .stringConvertible(CommandFailure.fenced),
        ])
      _exit(CommandFailure.fenced)
    }
    let isDisplaced = if case .displaced = error { true } else { false }
    logger.critical(
      isDisplaced
        ? "the data directory is not in its place any more; ending at once, nothing is acknowledged any more"
        : "the journal failed; ending at once, nothing is acknowledged any more",
      metadata: ["error": "\(error)", "status": .stringConvertible(CommandFailure.diskFailed)])
    _exit(CommandFailure.diskFailed)
  }

  private func report(_ progress: RecoveryProgress) {
    manager?.tell(
      status: "recovers: \(progress.records) decisions, \(progress.bytes >> 20) MiB of the journal")
    logger.info(
      "recovering",
      metadata: [
        "records": .stringConvertible(progress.records),
        "bytes": .stringConvertible(progress.bytes),
        "seconds": .stringConvertible(progress.seconds),
      ])
  }

  private func report(_ summary: RecoverySummary) {
    for damage in summary.damagedCheckpoints {
      logger.warning(
        "a checkpoint is damaged; recovered from the one before it and the journal since",
        metadata: ["damage": "\(damage.place)"])
    }
    if summary.tornBytes > 0 {
      logger.notice(
        """
        cut off the end of the journal, a write that is not whole: the server before was ended in the middle \
        of it, or it was harmed since
        """,
        metadata: [
          "bytes": .stringConvertible(summary.tornBytes), "lsn": .stringConvertible(summary.lsn),
        ])
    }
    logger.info(
      summary.isNew ? "made a new data directory" : "recovered",
      metadata: [
        "data-dir": "\(settings.dataDirectory)", "digest": "\(summary.digest)",
        "decisions": .stringConvertible(summary.decisions),
        "items": .stringConvertible(summary.items),
        "live-reservations": .stringConvertible(summary.liveReservations),
        "recorded-decisions": .stringConvertible(summary.recordedDecisions),
        "checkpoint-lsn": .stringConvertible(summary.checkpointLSN),
        "lsn": .stringConvertible(summary.lsn),
        "records": .stringConvertible(summary.recordsReplayed),
        "bytes": .stringConvertible(summary.journalBytesRead),
        "torn-bytes": .stringConvertible(summary.tornBytes),
        "stopped": "\(RecoveryText.ending(summary))",
        "seconds": .stringConvertible(summary.seconds),
      ])
  }

  private static func failure(_ error: JournalError, _ settings: Settings) -> CommandFailure {
    CommandFailure(
      error, directory: settings.dataDirectory,
      remedy: "stop that one, or choose another --data-dir")
  }
}

/// What can be said of how the server before ended.
enum RecoveryText {
  static func ending(_ summary: RecoverySummary) -> String {
    switch summary.wasClosed {
    case true?: "orderly"
    case false?: "not orderly"
    case nil: "unknown"
    }
  }
}
