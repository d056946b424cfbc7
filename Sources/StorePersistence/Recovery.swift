internal import Bytes
// From the files of a data directory to the state that they hold: the newest checkpoint, then the journal
// from there on. Reads and never writes, so that a server at its start and `holdfast verify` do the same.
internal import Log
internal import Posix
internal import StockStore

/// The tables of a store, as they were left.
struct Recovery {
  /// Bytes to read below which a second thread is not worth its making.
  static let bytesWorthAThread = 8 << 20

  /// Of which the directory can be read anew: of a copy that took newer ones meanwhile, the newest.
  var checkpoint: CheckpointReader
  let core: StoreCore
  /// Where the journal ends, decisions included.
  let position: JournalPosition
  /// Bytes of the newest batch of records, header included; 0 where none was read.
  let newestBatchBytes: Int
  let counts: Assembly.Counts
  let summary: RecoverySummary
  /// The journal has something behind the moment that was asked for.
  let isPastTarget: Bool

  fileprivate init(
    checkpoint: CheckpointReader, core: StoreCore, position: JournalPosition, newestBatchBytes: Int,
    counts: Assembly.Counts, summary: RecoverySummary, isPastTarget: Bool
  ) {
    self.checkpoint = checkpoint
    self.core = core
    self.position = position
    self.newestBatchBytes = newestBatchBytes
    self.counts = counts
    self.summary = summary
    self.isPastTarget = isPastTarget
  }

  /// - Parameters:
  ///   - segmentCount: from the one where the checkpoint begins on.
  ///   - progress: called about every half second.
  ///   - others: as Refill's.
  /// - Throws: `damaged`; `unsuitable` where the limits are too small for what is there.
  init(
    storage: any Storage, checkpoint: CheckpointReader, segmentCount: Int, limits: StoreLimits,
    concurrency: ConcurrencyControl = .optimistic, log: LogRing = LogRing(shape: .decisions),
    nonce: UInt64? = nil, isNew: Bool = false, fault: LogFault? = nil,
    storeFault: DeliberateFault? = nil, target: RecoveryTarget? = nil,
    progress: (RecoveryProgress) -> Void = { _ in }
  ) throws(JournalError) {
    let refill = try Refill(
      storage: storage, checkpoint: checkpoint, limits: limits, concurrency: concurrency, log: log,
      nonce: nonce, fault: fault, storeFault: storeFault, target: target)
    let end = try refill.readJournal(storage, segmentCount: segmentCount, progress)
    self = try refill.finish(end, isNew: isNew)
  }

  /// A store goes on counting where it was left.
  /// - Parameter freed: places of removed items that others can have.
  func count(in session: StoreSession, freed: Int = 0) {
    session.restoreCounts(
      items: counts.items, removedItems: counts.removedItems - freed, liveHolds: counts.liveHolds,
      recordedDecisions: counts.recordedDecisions)
  }
}

/// Tables that are being filled: from a checkpoint, then batch by batch of the journal since. Used by one thread
/// at a time. What `finish` has not handed on is freed with it.
final class Refill {
  let checkpoint: CheckpointReader
  private var core: StoreCore
  private var ownsCore = true
  private let stamps: Region<UInt64>
  private let replay: Replay
  /// Of the orderly stop before; read first, since a server may write it meanwhile.
  private let closing: ClosingRecord.Found
  private let fault: LogFault?
  private let began = SystemClock.monotonicNanoseconds()
  /// What shows the tables meanwhile: its index must not go before the replay has ended.
  private var shown: StockStore?
  /// The newest batch of records; nil where none was read.
  private(set) var newestBatch: BatchHeader?

  /// Loads the checkpoint.
  /// - Parameters:
  ///   - checkpoint: the newest.
  ///   - log: for what comes after.
  ///   - nonce: as StoreCore's; nil where no ids will be made.
  ///   - target: where to stop; nil: where the journal ends.
  /// - Throws: `damaged`; `unsuitable` where the limits are too small for what is there.
  init(
    storage: any Storage, checkpoint: CheckpointReader, limits: StoreLimits,
    concurrency: ConcurrencyControl, log: LogRing, nonce: UInt64?, fault: LogFault? = nil,
    storeFault: DeliberateFault? = nil, target: RecoveryTarget? = nil
  ) throws(JournalError) {
    let header = checkpoint.header
    closing = try ClosingRecord.read(storage, storeID: header.identity.storeID)
    let secret = header.identity.secret
    core = StoreCore(
      limits: limits, concurrency: concurrency, secret: (secret.low, secret.high),
      now: header.time, log: log, shardCount: header.identity.shardCount,
      reservationsMaxBefore: header.reservationsMax, nonce: nonce,
      firstReleaseUntil: header.firstReleaseUntil, firstVersion: header.firstVersion)
    core.fault = storeFault
    self.checkpoint = checkpoint
    self.fault = fault
    stamps = Region<UInt64>(capacity: core.slab.chunkCapacity, pages: .small)
    replay = Replay(
      core: core, stamps: stamps, startLSN: header.start.lsn, decisions: header.start.counted,
      newestTime: max(header.time, checkpoint.end.time), target: target, fault: fault)
    try checkpoint.load(into: core, stamps: stamps)
  }

  deinit {
    stamps.free()
    if ownsCore { core.free() }
  }

  /// The newest time seen, in nanoseconds since the Unix epoch.
  var newestTime: Int64 { replay.newestTime }

  /// A store that shows the tables between two calls of `apply`, until `finish`.
  /// - Parameter clock: as StockStore's.
  func show(_ clock: any Clock) -> StockStore {
    let store = StockStore(showing: core, clock: clock)
    (shown, replay.shown) = (store, store.core)
    return store
  }

  func apply(_ batch: BatchHeader, _ payload: UnsafeRawBufferPointer) throws(JournalError) {
    try unsafe replay.apply(batch, payload)
    newestBatch = batch
  }

  /// Applies what the directory has of the journal; where that ends.
  func readJournal(
    _ storage: any Storage, segmentCount: Int, _ progress: (RecoveryProgress) -> Void
  ) throws(JournalError) -> JournalEnd {
    let header = checkpoint.header
    let reader = JournalReader(
      storage: storage, identity: header.identity.log, start: header.start,
      mustReach: checkpoint.mustReach, fault: fault)
    let readsAhead =
      (segmentCount - 1) * header.identity.segmentBytes > Recovery.bytesWorthAThread
    let progressEvery: Int64 = 500_000_000
    var nextProgress = began + progressEvery
    let wantsMore = { !self.replay.isPastTarget }
    return unsafe try reader.forEachBatch(readsAhead: readsAhead, while: wantsMore) {
      (batch, payload) throws(JournalError) in
      try unsafe apply(batch, payload)
      let now = SystemClock.monotonicNanoseconds()
      if now >= nextProgress {
        nextProgress = now + progressEvery
        progress(
          RecoveryProgress(
            records: replay.recordCount, bytes: batch.lsn &- header.start.lsn,
            seconds: Double(now - began) / 1e9))
      }
    }
  }

  /// Makes a working store of them.
  /// - Parameter end: of all that was applied.
  func finish(_ end: JournalEnd, isNew: Bool) throws(JournalError) -> Recovery {
    let (start, isPastTarget) = (checkpoint.header.start, replay.isPastTarget)
    // The pieces of a checkpoint are of different moments, and a state only together with the journal up to there.
    if replay.endLSN < checkpoint.end.endLSN, isPastTarget {
      throw .trimmed(oldest: checkpoint.end.endLSN)
    }
    if fault != .ignoreClosing, !isPastTarget,
      let damage = ClosingRecord.damage(closing, of: end.position, counted: replay.decisions)
    {
      throw .damaged(damage)
    }
    let newestTime = isPastTarget ? replay.newestTime : max(replay.newestTime, end.time)
    let counts = try Assembly(core: core, now: newestTime, givenAway: replay.givenAway).run()
    var position = end.position
    position.lsn = isPastTarget ? replay.endLSN : end.position.lsn
    position.counted = replay.decisions
    let summary = RecoverySummary(
      decisions: position.counted, lsn: position.lsn, digest: core.digest(at: newestTime),
      time: Timestamp(nanoseconds: newestTime), items: counts.items,
      liveReservations: counts.liveHolds, recordedDecisions: counts.recordedDecisions,
      damagedCheckpoints: checkpoint.newerDamaged, checkpointLSN: start.lsn,
      recordsReplayed: replay.recordCount,
      journalBytesRead: position.lsn &- start.lsn, tornBytes: end.tornBytes,
      seconds: Double(SystemClock.monotonicNanoseconds() - began) / 1e9,
      isNew: isNew, wasClosed: closing.lsn.map { $0 == position.lsn })
    ownsCore = false
    return Recovery(
      checkpoint: checkpoint, core: core, position: position,
      newestBatchBytes: newestBatch.map { BatchHeader.byteCount + $0.payloadLength } ?? 0,
      counts: counts, summary: summary, isPastTarget: isPastTarget)
  }
}

/// The names of a data directory's files, sorted out.
struct DirectoryListing {
  /// The log sequence numbers at which checkpoints start, ascending.
  private(set) var checkpoints: [UInt64] = []
  /// Segments by their numbers, ascending.
  private(set) var segments: [UInt64] = []
  /// Files in the making, which a start removes.
  private(set) var unfinished: [String] = []
  private var hasUnfinishedRepair = false
  private(set) var isBackup = false

  init(_ storage: any Storage) throws(JournalError) {
    let names = try JournalError.attempt("list", "the directory") { () throws(Errno) in
      try storage.names()
    }
    for name in names {
      if let lsn = FileNames.checkpointLSN(name) { checkpoints.append(lsn) }
      if let sequence = FileNames.segmentSequence(name) { segments.append(sequence) }
      if [FileNames.newCheckpoint, FileNames.newClosing].contains(name) { unfinished.append(name) }
      if name == FileNames.unfinishedRepair { hasUnfinishedRepair = true }
      if name == FileNames.backup { isBackup = true }
    }
    checkpoints.sort()
    segments.sort()
  }

  /// A repair that was cut short may have given up decisions, but not lifted the versions yet.
  func requireRepaired() throws(JournalError) {
    if hasUnfinishedRepair {
      throw .unsuitable("a repair was interrupted: run the same holdfast repair again")
    }
  }

  /// A server would go on with the versions, and the history, of the one that it is a copy of; and it would be a
  /// backup no more.
  func requireNoBackup() throws(JournalError) {
    if isBackup {
      throw .unsuitable("it is a backup: holdfast restore makes a data directory of it")
    }
  }

  func segmentCount(from sequence: UInt64) -> Int { segments.count { $0 >= sequence } }
}

extension ClosingRecord {
  /// What the record says against a journal that ends at `position`; nil where it is as it should be.
  static func damage(
    _ found: Found, of position: JournalPosition, counted: UInt64
  ) -> Damage? {
    switch found {
    case .none: nil
    case .damaged:
      Damage(
        file: FileNames.closing, offset: 0, lsn: position.lsn,
        finding: "it should say where the journal ended when its server was stopped")
    case .record(let record) where record.lsn > position.lsn:
      Damage(
        file: FileNames.segment(position.sequence), offset: position.offset, lsn: position.lsn,
        finding:
          "the journal ends at \(position.lsn), but went on to \(record.lsn) when its server "
          + "was stopped: \(record.counted - min(record.counted, counted)) decisions are missing")
    case .record: nil
    }
  }
}
