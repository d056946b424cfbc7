// The start of a server with a data directory: what was left is recovered, then the journal goes on where
// it ended.
internal import Bytes
package import Log
package import Posix
package import StockStore
internal import Synchronization

/// A replicated log that this process owns.
struct OwnedLog {
  let log: any ReplicatedLog
  let epoch: UInt32
}

extension StockStore {
  /// Opens the store in a directory, or makes one in an empty directory. Call `startJournal` then.
  /// - Parameters:
  ///   - secret: for a new directory; an old one keeps its own. 128 unpredictable bits, unless a test
  ///     wants the same run again.
  ///   - nonce: what tells the ids that this opening makes from those of every other one, also one of a
  ///     copy of the directory: 64 unpredictable bits, unless a test wants the same run again.
  ///   - makeClock: makes the store's clock, which must not start before the time it is given: the
  ///     one after the newest in the directory, 0 for a new one. What it throws ends the opening, before
  ///     anything is changed.
  ///   - archive: where segments go that have come to their end; nil: nowhere.
  ///   - fault: a bug to make on purpose; those of the log stand in the options.
  ///   - progress: called about every half second while the journal is read.
  /// - Throws: `damaged`; `unsuitable` where the limits are too small for what is there, or the archive is of
  ///   another store; `failed`;
  ///   `tooLittleMemory`.
  package static func open(
    storage: any Storage, limits: StoreLimits, concurrency: ConcurrencyControl = .optimistic,
    options: JournalOptions,
    secret: (UInt64, UInt64) = (Machine.random64(), Machine.random64()),
    nonce: UInt64 = Machine.random64(), archive: (any Storage)? = nil,
    fault: DeliberateFault? = nil,
    makeClock: (_ notBefore: Timestamp) throws(JournalError) -> any Clock,
    progress: (RecoveryProgress) -> Void = { _ in }
  ) throws(JournalError) -> (store: StockStore, summary: RecoverySummary) {
    let listing = try DirectoryListing(storage)
    try listing.requireRepaired()
    try listing.requireNoBackup()
    try CopyMark.requireNone(storage)
    // A new directory begins with an empty checkpoint, under these caps.
    let before =
      listing.checkpoints.isEmpty
      ? limits.reservationsMax
      : try newestCheckpoint(storage, isChecked: false).header.reservationsMax
    try requireAddressSpace(limits, concurrency, reservationsMaxBefore: before)
    if listing.checkpoints.isEmpty { try requireUnused(listing, storage) }
    // All of them, before anything is promised: they are used again one day.
    for sequence in listing.segments {
      let name = FileNames.segment(sequence)
      _ = try JournalError.attempt("open", name) { () throws(Errno) in try storage.open(name) }
    }
    for name in listing.unfinished {
      try JournalError.attempt("remove", name) { () throws(Errno) in try storage.remove(name) }
    }
    if listing.checkpoints.isEmpty {
      let time = try makeClock(Timestamp(nanoseconds: 0)).now()
      try makeDirectory(storage, limits, options, secret, time)
    }
    var options = options
    let recovery = try recover(storage) { (checkpoint) throws(JournalError) in
      let header = checkpoint.header
      options = options.fitting(segmentBytes: header.identity.segmentBytes)
      try requireAddressSpace(
        limits, concurrency, reservationsMaxBefore: header.reservationsMax)
      return try Recovery(
        storage: storage, checkpoint: checkpoint,
        segmentCount: listing.segmentCount(from: header.start.sequence), limits: limits,
        concurrency: concurrency,
        log: LogRing(ringBytes: options.ringBytes, shape: .decisions(limits)),
        nonce: fault == .predictIDs ? header.start.lsn : nonce,
        isNew: listing.checkpoints.isEmpty, fault: options.fault, storeFault: fault,
        progress: progress)
    }
    let checkpoint = recovery.checkpoint
    var core = recovery.core
    let clock: any Clock
    do throws(JournalError) {
      clock = try makeClock(recovery.summary.time.advanced(byNanoseconds: 1))
    } catch {
      core.free()
      throw error
    }
    if checkpoint.header.version == 1 {
      core.firstReleaseUntil = recovery.summary.time.nanoseconds
    }
    if fault == .predictIDs { core.firstReleaseUntil = .max }
    return (try resume(recovery, core, storage, archive, options, clock), recovery.summary)
  }

  // MARK: A new directory

  /// Without a checkpoint, only a segment that was never written to may be there: the making of the
  /// directory was cut short.
  static func requireUnused(
    _ listing: DirectoryListing, _ storage: any Storage
  ) throws(JournalError) {
    for sequence in listing.segments {
      try JournalReader.requireKnownFormat(ofSegment: sequence, storage)
      let name = FileNames.segment(sequence)
      let isUnused = try JournalError.attempt("read", name) { () throws(Errno) -> Bool in
        let file = try storage.open(name)
        return unsafe try withUnsafeTemporaryAllocation(
          byteCount: BatchHeader.byteCount, alignment: 8
        ) { (first) throws(Errno) in
          let count = try unsafe file.read(into: first, at: SegmentHeader.blockBytes)
          return unsafe first.prefix(count).allSatisfy { $0 == 0 }
        }
      }
      guard isUnused && sequence == 1 else {
        throw .damaged(
          Damage(
            file: name, offset: 0, lsn: nil, finding: "there is no checkpoint to begin from"))
      }
    }
  }

  /// Makes the first segment and an empty checkpoint, from which the rest goes on.
  static func makeDirectory(
    _ storage: any Storage, _ limits: StoreLimits, _ options: JournalOptions,
    _ secret: (UInt64, UInt64), _ time: Timestamp
  ) throws(JournalError) {
    let key = SipKey(low: secret.0, high: secret.1)
    // Tells files of different stores apart; says nothing of the secret.
    let id = key.derived(7)
    let identity = DirectoryIdentity(
      storeID: StoreID(low: id.low, high: id.high), secret: key,
      shardCount: StoreCore.shardCount(limits), segmentBytes: options.segmentBytes)
    let pool = try SegmentPool(
      storage: storage, storeID: identity.storeID, segmentBytes: identity.segmentBytes,
      lastSequence: 0, options: options)
    _ = try pool.prepareNext()
    let core = StoreCore(
      limits: limits, concurrency: .optimistic, secret: secret, now: time.nanoseconds,
      log: LogRing(shape: .decisions))
    defer { core.free() }
    let start = JournalPosition(
      sequence: 1, offset: SegmentHeader.blockBytes, lsn: 0, run: 0, counted: 0)
    let writer = try CheckpointWriter(
      core: core, storage: storage, identity: identity, start: start, time: time,
      fault: options.fault)
    while try writer.step() {}
    try writer.finish()
  }

  // MARK: Going on

  /// The recovered store, with a journal that goes on where it ended: nothing is due, and everything is
  /// durable.
  /// - Parameter replica: the log that the directory is a copy of, which this process owns; nil: none.
  static func resume(
    _ recovery: Recovery, _ core: StoreCore, _ storage: any Storage, _ archive: (any Storage)?,
    _ options: JournalOptions, _ clock: any Clock, replica: OwnedLog? = nil
  ) throws(JournalError) -> StockStore {
    let journal: Journal
    do throws(JournalError) {
      core.log.resume(after: recovery.position.lsn)
      journal = try makeJournal(recovery, core, storage, archive, options, clock, replica)
    } catch {
      core.free()
      throw error
    }
    // What cannot be told is kept: nothing is lost but room.
    let oldestLSN = (try? journal.log.oldestLSN()) ?? 0
    let freed = core.giveUpPlaces(recovery.counts.unnamed, before: oldestLSN)
    let store = StockStore(core: core, clock: clock, journal: journal, replica: replica?.log)
    let session = store.makeSession()
    recovery.count(in: session, freed: freed)
    // By the format, a run begins with a batch of its own that says what time it is.
    var record = RecordWriter()
    record.begin(.clock, time: clock.now().nanoseconds)
    _ = core.log.append(record)
    // Without room for that on the disk it serves reads until there is some.
    try journal.stepUntilDurable()
    // Where a segment is nearly full, the first callers need not meet that.
    while !core.log.isAdmitting, try journal.stepMaintenance() {}
    try session.expireAllDue()
    return store
  }

  private static func makeJournal(
    _ recovery: Recovery, _ core: StoreCore, _ storage: any Storage, _ archive: (any Storage)?,
    _ options: JournalOptions, _ clock: any Clock, _ replica: OwnedLog?
  ) throws(JournalError) -> Journal {
    let identity = recovery.checkpoint.header.identity
    var position = recovery.position
    precondition(replica.map { $0.epoch > position.run } ?? true, "an epoch that was before")
    position.run = replica?.epoch ?? position.run &+ 1
    // What a replicated log has is safe there.
    let file =
      replica == nil
      ? try syncEverything(recovery, storage, writableBytes: options.writableBytes)
      : try JournalError.attempt("open", FileNames.segment(position.sequence)) {
        () throws(Errno) in try storage.open(FileNames.segment(position.sequence))
      }
    let (start, fallback) = try settleCheckpoints(recovery, core, storage, options)
    try CheckpointWriter.removeCheckpoints(except: [start.lsn, fallback.lsn], storage)
    let pool = try SegmentPool(
      storage: storage, storeID: identity.storeID, segmentBytes: identity.segmentBytes,
      lastSequence: position.sequence, options: options)
    // First of all it looks what must be kept.
    let archiver = try archive.map { (archive) throws(JournalError) in
      try Archiver(
        SegmentArchive(
          storage: archive, identity: identity.log,
          history: core.keys.history(firstVersion: core.firstVersion), fault: options.fault),
        source: storage, pool: pool, options: options, position: position)
    }
    try pool.retire(before: fallback.sequence)
    let counters = JournalCounters()
    counters.recovered(
      records: recovery.summary.recordsReplayed, seconds: recovery.summary.seconds)
    let log = try DirectoryLog(
      storage: storage, identity: identity.log, shape: .decisions(core.limits), options: options,
      clock: clock,
      pool: pool, position: position, file: file, statistics: counters, replica: replica?.log)
    return try JournalError.attempt("make", "the journal's threads") { () throws(Errno) in
      let maintenance = try Maintenance(
        storage: storage, pool: pool, options: options, counters: counters, start: start,
        fallback: fallback,
        makeCheckpoint: { (position) throws(JournalError) in
          try CheckpointWriter(
            core: core, storage: storage, identity: identity, start: position, time: clock.now(),
            fault: options.fault)
        },
        removeCheckpoints: { (lsn) throws(JournalError) in
          try CheckpointWriter.removeCheckpoints(except: [lsn], storage)
        })
      return try Journal(
        ring: core.log, log: log, options: options, pool: pool, maintenance: maintenance,
        archiver: archiver, counters: counters)
    }
  }
}

extension StockStore {
  /// Writes the state once more where the newest checkpoint does not say what holds from now on: `verify`
  /// counts retention as it says, and a directory of the first release must say that it was. Then no other can
  /// stand in for it. Also where it is damaged: then the one that stood in for it goes on doing so.
  /// - Returns: the start of the newest checkpoint, and of the one that can stand in for it; or the first twice.
  private static func settleCheckpoints(
    _ recovery: Recovery, _ core: StoreCore, _ storage: any Storage, _ options: JournalOptions
  ) throws(JournalError) -> (start: JournalPosition, fallback: JournalPosition) {
    let header = recovery.checkpoint.header
    let isAsItWas =
      header.retentionNanoseconds == core.limits.retentionNanoseconds
      && header.version == CheckpointHeader.version
    if isAsItWas && recovery.checkpoint.newerDamaged.isEmpty {
      return (header.start, try fallback(behind: header, storage) ?? header.start)
    }
    do throws(JournalError) {
      let writer = try CheckpointWriter(
        core: core, storage: storage, identity: header.identity, start: recovery.position,
        time: recovery.summary.time, fault: options.fault)
      while try writer.step() {}
      try writer.finish(keeping: isAsItWas ? header.start.lsn : nil)
      return (recovery.position, isAsItWas ? header.start : recovery.position)
    } catch .failed(let operation, let file, let error) {
      // On a full disk the one that is there does: the next start tries again, unless one was made by then. One
      // of the first release does not.
      guard error.isShortage, header.version == CheckpointHeader.version else {
        throw .failed(operation: operation, file: file, error)
      }
      try? storage.remove(FileNames.newCheckpoint)
      return (header.start, header.start)
    } catch {
      throw error
    }
  }

  /// Where the checkpoint before that one starts, if it and the journal since are there and come to the same
  /// state: one that was to be removed may be left from a start that did not come to its end.
  private static func fallback(
    behind header: CheckpointHeader, _ storage: any Storage
  ) throws(JournalError) -> JournalPosition? {
    let listing = try DirectoryListing(storage)
    guard let lsn = listing.checkpoints.last(where: { $0 < header.start.lsn }),
      let older = try? CheckpointReader(storage: storage, lsn: lsn).header,
      older.version == CheckpointHeader.version, older.start.sequence <= header.start.sequence,
      older.identity.storeID == header.identity.storeID,
      older.retentionNanoseconds == header.retentionNanoseconds,
      older.firstVersion == header.firstVersion
    else { return nil }
    let needed = older.start.sequence...header.start.sequence
    return needed.count == listing.segments.count(where: needed.contains) ? older.start : nil
  }

  /// The process before may have been killed between a write or a change of a name and the sync that
  /// belongs to it. What was read is made safe before anything builds on it, or is removed because of it.
  /// - Returns: the last segment.
  private static func syncEverything(
    _ recovery: Recovery, _ storage: any Storage, writableBytes: Int
  ) throws(JournalError) -> any StorageFile {
    try JournalError.attempt("sync the directory of", recovery.checkpoint.name) {
      () throws(Errno) in try storage.syncDirectory()
    }
    var sequence = recovery.checkpoint.header.start.sequence
    while true {
      let name = FileNames.segment(sequence)
      let file = try JournalError.attempt("sync", name) { () throws(Errno) in
        let file = try storage.open(name)
        // What stands beyond the limit of a file's size cannot be written once more.
        let newest = newestBatch(of: recovery, in: sequence).clamped(to: 0..<writableBytes)
        do throws(Errno) {
          try rewrite(newest, file)
        } catch {
          // A full disk that writes elsewhere than where the bytes were. It is the same bytes: those that are
          // there are left, and only a sync that failed before this start would have lost them.
          if !error.isLackOfRoom { throw error }
        }
        try file.sync()
        return file
      }
      if sequence >= recovery.position.sequence { return file }
      sequence += 1
    }
  }

  /// Where the newest batch may be in a segment. If the process before ended because a sync had failed,
  /// the disk may lack that batch, though the system shows it and takes it for synced (fsync(2) reports
  /// an error once). It is the only one: nothing is written after a sync that failed.
  private static func newestBatch(of recovery: Recovery, in sequence: UInt64) -> Range<Int> {
    // After an orderly stop everything was synced.
    if recovery.summary.wasClosed == true { return 0..<0 }
    let position = recovery.position
    if sequence == position.sequence, position.offset > SegmentHeader.blockBytes {
      return position.offset - recovery.newestBatchBytes..<position.offset
    }
    // It is the batch that ends the segment before: anywhere.
    if sequence + 1 == position.sequence, position.offset == SegmentHeader.blockBytes {
      return 0..<recovery.checkpoint.header.identity.segmentBytes
    }
    return 0..<0
  }

  /// Writes what is there once more, so that the next sync covers it.
  private static func rewrite(_ range: Range<Int>, _ file: any StorageFile) throws(Errno) {
    var bytes = [UInt8](repeating: 0, count: min(range.count, 1 << 20))
    var offset = range.lowerBound
    while offset < range.upperBound {
      let count = min(bytes.count, range.upperBound - offset)
      var span = bytes.mutableSpan
      try unsafe span.withUnsafeMutableBytes { (bytes) throws(Errno) in
        let part = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[..<count])
        let read = try unsafe file.read(into: part, at: offset)
        try unsafe file.write(UnsafeRawBufferPointer(rebasing: part[..<read]), at: offset)
      }
      offset += count
    }
  }
}
