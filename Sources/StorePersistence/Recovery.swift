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

  let checkpoint: CheckpointReader
  let core: StoreCore
  /// Where the journal ends, decisions included.
  let position: JournalPosition
  /// Bytes of the newest batch of records, header included; 0 where none was read.
  let newestBatchBytes: Int
  let counts: Assembly.Counts
  let summary: RecoverySummary
  /// The journal has something behind the moment that was asked for.
  let isPastTarget: Bool

  /// - Parameters:
  ///   - checkpoint: the newest.
  ///   - segmentCount: from the one where the checkpoint begins on.
  ///   - log: for what comes after.
  ///   - nonce: as StoreCore's; nil where no ids will be made.
  ///   - target: where to stop; nil: where the journal ends.
  ///   - progress: called about every half second.
  /// - Throws: `damaged`; `unsuitable` where the limits are too small for what is there.
  init(
    storage: any Storage, checkpoint: CheckpointReader, segmentCount: Int, limits: StoreLimits,
    concurrency: ConcurrencyControl = .optimistic, log: LogRing = LogRing(shape: .decisions),
    nonce: UInt64? = nil, isNew: Bool = false, fault: LogFault? = nil,
    storeFault: DeliberateFault? = nil, target: RecoveryTarget? = nil,
    progress: (RecoveryProgress) -> Void = { _ in }
  ) throws(JournalError) {
    let began = SystemClock.monotonicNanoseconds()
    let header = checkpoint.header
    let secret = header.identity.secret
    var core = StoreCore(
      limits: limits, concurrency: concurrency, secret: (secret.low, secret.high),
      now: header.time, log: log, shardCount: header.identity.shardCount,
      reservationsMaxBefore: header.reservationsMax, nonce: nonce,
      firstReleaseUntil: header.firstReleaseUntil, firstVersion: header.firstVersion)
    core.fault = storeFault
    do throws(JournalError) {
      // First: a server may write it meanwhile.
      let closing = try ClosingRecord.read(storage, storeID: header.identity.storeID)
      let reader = JournalReader(
        storage: storage, identity: header.identity.log, start: header.start,
        mustReach: checkpoint.mustReach, fault: fault)
      let readsAhead =
        (segmentCount - 1) * header.identity.segmentBytes > Self.bytesWorthAThread
      let (end, newestBatchBytes, replay) = try Self.fill(
        core, checkpoint, reader, readsAhead: readsAhead, target, began: began, progress)
      isPastTarget = replay.isPastTarget
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
      counts = try Assembly(core: core, now: newestTime, givenAway: replay.givenAway).run()
      var position = end.position
      position.lsn = isPastTarget ? replay.endLSN : end.position.lsn
      position.counted = replay.decisions
      self.position = position
      self.newestBatchBytes = newestBatchBytes
      self.checkpoint = checkpoint
      self.core = core
      summary = RecoverySummary(
        decisions: position.counted, lsn: position.lsn, digest: core.digest(at: newestTime),
        time: Timestamp(nanoseconds: newestTime), items: counts.items,
        liveReservations: counts.liveHolds, recordedDecisions: counts.recordedDecisions,
        damagedCheckpoints: checkpoint.newerDamaged, checkpointLSN: header.start.lsn,
        recordsReplayed: replay.recordCount,
        journalBytesRead: position.lsn &- header.start.lsn, tornBytes: end.tornBytes,
        seconds: Double(SystemClock.monotonicNanoseconds() - began) / 1e9,
        isNew: isNew, wasClosed: closing.lsn.map { $0 == position.lsn })
    } catch {
      core.free()
      throw error
    }
  }

  /// Puts everything into the tables; what the journal ends with, and what came of it.
  private static func fill(
    _ core: StoreCore, _ checkpoint: CheckpointReader, _ reader: JournalReader, readsAhead: Bool,
    _ target: RecoveryTarget?, began: Int64, _ progress: (RecoveryProgress) -> Void
  ) throws(JournalError) -> (JournalEnd, newestBatchBytes: Int, Replay) {
    let stamps = Region<UInt64>(capacity: core.slab.chunkCapacity, pages: .small)
    defer { stamps.free() }
    try checkpoint.load(into: core, stamps: stamps)
    let replay = Replay(
      core: core, stamps: stamps, startLSN: checkpoint.header.start.lsn,
      decisions: checkpoint.header.start.counted,
      newestTime: max(checkpoint.header.time, checkpoint.end.time), target: target,
      fault: reader.fault)
    let progressEvery: Int64 = 500_000_000
    var nextProgress = began + progressEvery
    var newestBatchBytes = 0
    let wantsMore = { !replay.isPastTarget }
    let end = unsafe try reader.forEachBatch(readsAhead: readsAhead, while: wantsMore) {
      (batch, payload) throws(JournalError) in
      try unsafe replay.apply(batch, payload)
      newestBatchBytes = BatchHeader.byteCount + batch.payloadLength
      let now = SystemClock.monotonicNanoseconds()
      if now >= nextProgress {
        nextProgress = now + progressEvery
        progress(
          RecoveryProgress(
            records: replay.recordCount, bytes: batch.lsn &- checkpoint.header.start.lsn,
            seconds: Double(now - began) / 1e9))
      }
    }
    return (end, newestBatchBytes, replay)
  }

  /// A store goes on counting where it was left.
  /// - Parameter freed: places of removed items that others can have.
  func count(in session: StoreSession, freed: Int = 0) {
    session.restoreCounts(
      items: counts.items, removedItems: counts.removedItems - freed, liveHolds: counts.liveHolds,
      recordedDecisions: counts.recordedDecisions)
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
