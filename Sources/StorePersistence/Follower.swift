// A data directory that is a copy of a replicated log, and the tables that it comes to: what a standby keeps up to
// date, and what an owner begins with.
//
// The copy is the same to the byte as the owner's directory: checkpoints are copied as files, batches to where the
// owner has them. So whatever reads a directory reads this one, and a resume token that one owner gave is good at the
// next. A copy that is not a part of the log any more (a failover of the engine has taken back what it had read, or
// what it has was trimmed, or its disk has harmed it) is made anew.
internal import Bytes
package import Log
package import Posix
package import StockStore
internal import Synchronization

/// Used by one thread at a time.
package final class Follower {
  package struct Setup {
    package var limits: StoreLimits
    package var concurrency: ConcurrencyControl
    package var options: JournalOptions
    /// As `StockStore.open` has it.
    package var secret = (Machine.random64(), Machine.random64())
    package var nonce = Machine.random64()
    package var makeClock: (_ notBefore: Timestamp) throws(JournalError) -> any Clock
    package var progress: (RecoveryProgress) -> Void
    /// Takes what the operator should hear of.
    package var report: (String) -> Void
    /// Shows the tables meanwhile; nil: nobody sees them.
    package var reads: StandbyReads?

    package init(
      limits: StoreLimits, concurrency: ConcurrencyControl, options: JournalOptions,
      makeClock: @escaping (_ notBefore: Timestamp) throws(JournalError) -> any Clock,
      progress: @escaping (RecoveryProgress) -> Void = { _ in },
      report: @escaping (String) -> Void = { _ in }, reads: StandbyReads? = nil
    ) {
      self.reads = reads
      self.limits = limits
      self.concurrency = concurrency
      self.options = options
      self.makeClock = makeClock
      self.progress = progress
      self.report = report
    }
  }

  /// What is copied and applied at a time.
  private static let bytesPerTurn = 4 << 20

  private let storage: any Storage
  private let log: any ReplicatedLog
  private let setup: Setup
  /// nil: the log has not begun.
  private var copy: Copy?
  /// A copy that cannot be read on from here is made anew a few times: a primary of the past may have been asked.
  private var madeAnewAt: UInt64?
  private var timesMadeAnew = 0
  private static let timesMadeAnewMax = 20
  /// Copies that were given up for a new one.
  package private(set) var copiesMadeAnew: UInt64 = 0

  /// The directory, as far as it has come.
  private struct Copy {
    let refill: Refill
    let directory: DirectoryLog
    let pool: SegmentPool
    let options: JournalOptions
    let clock: CopiedTime
    /// The newest batch; nil where there is none behind the checkpoint.
    var last: BatchName?
  }

  /// The time of the batch that was copied last: a copy has no time of its own.
  private final class CopiedTime: Clock {
    let newest: Atomic<Int64>

    init(_ nanoseconds: Int64) { newest = Atomic(nanoseconds) }

    func now() -> Timestamp { Timestamp(nanoseconds: newest.load(ordering: .relaxed)) }
  }

  package init(storage: any Storage, log: any ReplicatedLog, setup: Setup) {
    self.storage = storage
    self.log = log
    self.setup = setup
  }

  // Before the tables go.
  deinit { setup.reads?.hide() }

  /// Behind the newest batch that was copied; nil while the log has not begun.
  package var endLSN: UInt64? { copy?.directory.position.lsn }

  /// Of the newest record that was applied, in nanoseconds since the Unix epoch.
  package var newestTime: Int64 { copy?.refill.newestTime ?? 0 }

  // MARK: Following

  /// Copies and applies some of what is new.
  /// - Returns: false where nothing was: then the copy has all that the log had when this was called.
  /// - Throws: `unreachable`: try again; anything else is for good: `unsuitable` where the directory holds a store
  ///   of its own; `lost` where the log cannot be read; `failed`.
  package func step() throws(JournalError) -> Bool {
    guard copy != nil else {
      // One that says it has not may be a primary of the past: whoever takes the log knows.
      guard try log.state().hasBegun else { return false }
      try prepare()
      show()
      return true
    }
    let asked = SystemClock.steadyNanoseconds()
    do throws(JournalError) {
      if try copyBatches() { return true }
      setup.reads?.caughtUp(at: asked)
      return false
    } catch .takenBack(let lsn) {
      try makeAnew(
        "what was read of it was taken back: it is another before \(lsn)", keepsOld: true)
    } catch .trimmed(let oldest) {
      try makeAnew("this copy is too old: the log begins at \(oldest)", keepsOld: false)
    } catch {
      throw error
    }
    show()
    return true
  }

  private func show() {
    guard let reads = setup.reads, let copy else { return }
    reads.show(copy.refill.show(copy.clock), at: copy.directory.position.lsn)
  }

  /// The copy, which is nobody's any more.
  private func giveUpCopy() -> Copy? {
    setup.reads?.hide()
    defer { copy = nil }
    return copy
  }

  private func copyBatches() throws(JournalError) -> Bool {
    guard let copy else { return false }
    let begin = copy.directory.position.lsn
    if copy.pool.readyCount == 0 { _ = try copy.pool.prepareNext() }
    let next = try log.read(from: begin, behind: copy.last, bytesMax: Self.bytesPerTurn) {
      (batch) throws(JournalError) in
      try unsafe copy.directory.copy(batch) { (header, records) throws(JournalError) in
        let apply = { () throws(JournalError) in
          try unsafe copy.refill.apply(header, records)
          copy.clock.newest.store(header.time, ordering: .relaxed)
        }
        guard let reads = setup.reads else { return try apply() }
        try reads.change(to: batch.endLSN, apply)
      }
      self.copy?.last = BatchName(lsn: batch.lsn, mark: batch.mark)
    }
    return next > begin
  }

  /// Whoever takes a log that has not begun begins it with what is in the directory: not with a copy of another.
  private func requireFresh() throws(JournalError) {
    guard try CopyMark.read(storage) == .copy else { return }
    throw .unsuitable(
      """
      it is a copy of a log, and the engine has none: it is another engine, or it has lost all; to begin the log with \
      this copy, remove the file \(FileNames.copy) in it
      """)
  }

  /// Fills the tables with what the directory has.
  private func prepare() throws(JournalError) {
    let listing = try DirectoryListing(storage)
    let mark = try CopyMark.read(storage)
    if mark == .beginning {
      throw .unsuitable(
        """
        the engine's log was to begin with what is in it, and that was cut short; the log has begun since, with this \
        directory or another's: choose another --data-dir, and keep this one until you know which
        """)
    }
    if mark == nil {
      guard listing.checkpoints.isEmpty, listing.segments.isEmpty else {
        throw .unsuitable(
          "it holds a store of its own, and the engine has another: choose another --data-dir")
      }
    }
    try CopyMark.copy.write(to: storage)
    if listing.checkpoints.isEmpty { return try makeAnew(nil, keepsOld: false) }
    do throws(JournalError) {
      try fill()
    } catch .damaged(let damage) {
      try makeAnew("this copy is damaged: \(damage.place)", keepsOld: false)
    } catch {
      throw error
    }
  }

  private func fill() throws(JournalError) {
    let listing = try DirectoryListing(storage)
    for name in listing.unfinished {
      try JournalError.attempt("remove", name) { () throws(Errno) in try storage.remove(name) }
    }
    var damaged: [Damage] = []
    while true {
      let checkpoint = try StockStore.newestCheckpoint(
        storage, besides: damaged, isChecked: false)
      do throws(JournalError) {
        copy = try fill(from: checkpoint, listing)
        return
      } catch .damaged(let damage) where damage.file == checkpoint.name {
        damaged.append(damage)
      } catch {
        throw error
      }
    }
  }

  private func fill(
    from checkpoint: CheckpointReader, _ listing: DirectoryListing
  ) throws(JournalError) -> Copy {
    let header = checkpoint.header
    let options = setup.options.fitting(segmentBytes: header.identity.segmentBytes)
    try StockStore.requireAddressSpace(
      setup.limits, setup.concurrency, reservationsMaxBefore: header.reservationsMax)
    let refill = try Refill(
      storage: storage, checkpoint: checkpoint, limits: setup.limits,
      concurrency: setup.concurrency,
      log: LogRing(ringBytes: options.ringBytes, shape: .decisions(setup.limits)),
      nonce: setup.nonce, fault: options.fault)
    let end = try refill.readJournal(
      storage, segmentCount: listing.segmentCount(from: header.start.sequence), setup.progress)
    let pool = try SegmentPool(
      storage: storage, storeID: header.identity.storeID,
      segmentBytes: header.identity.segmentBytes, lastSequence: end.position.sequence,
      options: options)
    let oldest = try listing.checkpoints.first.map { (lsn) throws(JournalError) in
      try CheckpointReader(storage: storage, lsn: lsn).header.start.sequence
    }
    try pool.retire(before: min(oldest ?? header.start.sequence, header.start.sequence))
    let name = FileNames.segment(end.position.sequence)
    let file = try JournalError.attempt("open", name) { () throws(Errno) in try storage.open(name) }
    let clock = CopiedTime(max(refill.newestTime, end.time))
    let directory = try DirectoryLog(
      storage: storage, identity: header.identity.log, shape: .decisions(setup.limits),
      options: options, clock: clock, pool: pool, position: end.position, file: file,
      statistics: JournalCounters())
    return Copy(
      refill: refill, directory: directory, pool: pool, options: options, clock: clock,
      last: refill.newestBatch.map { BatchName(lsn: $0.lsn, mark: LogPoint.mark($0)) })
  }

  // MARK: A new copy

  /// Makes the copy anew: of the newest checkpoint in the log, and all behind it.
  /// - Parameters:
  ///   - reason: nil: there was none.
  ///   - keepsOld: what there is is set aside.
  private func makeAnew(_ reason: String?, keepsOld: Bool) throws(JournalError) {
    let end = copy?.directory.position.lsn ?? 0
    if let reason {
      timesMadeAnew = madeAnewAt == end ? timesMadeAnew + 1 : 0
      guard timesMadeAnew < Self.timesMadeAnewMax || end == 0 else {
        throw .lost("a new copy of the engine's log cannot be read on from \(end): \(reason)")
      }
      madeAnewAt = end
      copiesMadeAnew += 1
      setup.report(
        "the copy is made anew: \(reason)\(keepsOld ? "; what it had is set aside" : "")")
    }
    _ = giveUpCopy()
    guard let newest = try log.checkpoints().last else {
      throw .lost("the engine's log has begun, and there is no checkpoint in it")
    }
    try empty(keepsOld: keepsOld)
    let checkpoint = try fetch(newest)
    let header = checkpoint.header
    let start = header.start
    let options = setup.options.fitting(segmentBytes: header.identity.segmentBytes)
    let pool = try SegmentPool(
      storage: storage, storeID: header.identity.storeID,
      segmentBytes: header.identity.segmentBytes, lastSequence: start.sequence - 1,
      options: options)
    _ = try pool.prepareNext()
    guard let segment = pool.takeNext() else { preconditionFailure("it was just made") }
    let directory = try DirectoryLog(
      storage: storage, identity: header.identity.log, shape: .decisions(setup.limits),
      options: options, clock: CopiedTime(header.time), pool: pool, position: start,
      file: segment.file, statistics: JournalCounters())
    // The pieces of the checkpoint are a state together with the log up to its end alone.
    var last: BatchName?
    while directory.position.lsn < checkpoint.mustReach {
      let begin = directory.position.lsn
      let next = try log.read(from: begin, behind: last, bytesMax: Self.bytesPerTurn) {
        (batch) throws(JournalError) in
        try unsafe directory.copy(batch) { _, _ throws(JournalError) in }
        last = BatchName(lsn: batch.lsn, mark: batch.mark)
      }
      if next == begin {
        throw .unreachable(
          "the engine's log ends before its newest checkpoint: a server of the past")
      }
    }
    try fill()
  }

  private func empty(keepsOld: Bool) throws(JournalError) {
    let names = try JournalError.attempt("list", "the directory") { () throws(Errno) in
      try storage.names()
    }
    for name in names where keepsOld && name.hasPrefix(FileNames.asidePrefix) {
      try JournalError.attempt("remove", name) { () throws(Errno) in try storage.remove(name) }
    }
    for name in names
    where name != FileNames.copy && !name.hasPrefix(FileNames.asidePrefix)
      && PartialDirectory.isKnown(name) && name != LockNames.dataDirectory
    {
      try JournalError.attempt("remove", name) { () throws(Errno) in
        if keepsOld {
          try storage.rename(name, to: FileNames.asidePrefix + name)
        } else {
          try storage.remove(name)
        }
      }
    }
    try JournalError.attempt("sync", "the directory") { () throws(Errno) in
      try storage.syncDirectory()
    }
  }

  /// Copies a checkpoint into the directory.
  /// - Parameter each: called after each part, of a megabyte.
  private func fetch(
    _ kept: KeptCheckpoint, each: () throws(JournalError) -> Void = {}
  ) throws(JournalError) -> CheckpointReader {
    let name = FileNames.newCheckpoint
    let file = try JournalError.attempt("make", name) { () throws(Errno) in
      try storage.create(name)
    }
    var offset = 0
    try unsafe log.getCheckpoint(kept) { (bytes) throws(JournalError) in
      try JournalError.attempt("write", name) { () throws(Errno) in
        try unsafe file.write(bytes, at: offset)
      }
      offset += bytes.count
      try each()
    }
    try JournalError.attempt("rename", name) { () throws(Errno) in
      try file.sync()
      try storage.rename(name, to: FileNames.checkpoint(kept.lsn))
      try storage.syncDirectory()
    }
    do throws(JournalError) {
      let checkpoint = try CheckpointReader(storage: storage, lsn: kept.lsn)
      try checkpoint.check()
      return checkpoint
    } catch {
      try? storage.remove(FileNames.checkpoint(kept.lsn))
      throw .lost("the engine's checkpoint at \(kept.lsn) cannot be read: \(error)")
    }
  }

  /// Copies the newest checkpoint, where the directory has none as new, and gives up what it replaces: so a start
  /// has little to read, and the disk is not filled.
  /// - Parameter each: called while it is copied; what it throws ends that.
  package func takeCheckpoint(each: () throws(JournalError) -> Void) throws(JournalError) {
    let copies = copiesMadeAnew
    guard let copy, let newest = try log.checkpoints().last else { return }
    let have = try DirectoryListing(storage).checkpoints
    guard newest.lsn > have.last ?? 0 else { return }
    let checkpoint: CheckpointReader
    do throws(JournalError) {
      checkpoint = try fetch(newest) { () throws(JournalError) in
        try each()
        // Its file is gone with the copy that it was for.
        if copies != copiesMadeAnew { throw .unreachable("the copy was made anew meanwhile") }
      }
    } catch {
      try? storage.remove(FileNames.newCheckpoint)
      throw error
    }
    guard copy.directory.position.lsn >= checkpoint.mustReach, let before = have.last else {
      // It would be of no use without what is behind it.
      try JournalError.attempt("remove", checkpoint.name) { () throws(Errno) in
        try storage.remove(checkpoint.name)
      }
      return
    }
    try CheckpointWriter.removeCheckpoints(except: [newest.lsn, before], storage)
    try copy.pool.retire(
      before: CheckpointReader(storage: storage, lsn: before).header.start.sequence)
  }

  // MARK: Taking over

  /// The store, when the log was taken. From here on this follower is of no use.
  /// - Parameters:
  ///   - taken: what `take` has said.
  ///   - willRaise: called before it takes the log once more, with that epoch: to begin it with a directory that has
  ///     had many runs.
  /// - Throws: `fenced` where somebody else has taken it since; else as `step`.
  package func takeOver(
    _ taken: LogState, archive: (any Storage)? = nil, willRaise: (UInt32) -> Void = { _ in }
  ) throws(JournalError) -> (store: StockStore, summary: RecoverySummary) {
    if !taken.hasBegun { return try begin(taken, archive, willRaise) }
    var triesLeft = 100
    while true {
      while try step() {}
      let position = copy?.directory.position.lsn
      guard let position else { throw .lost("the engine's log is not there any more") }
      if position == taken.endLSN {
        if try log.ends(at: position, behind: copy?.last, epoch: taken.epoch) { break }
        try makeAnew("what was read of it was taken back", keepsOld: true)
      }
      // Somebody else may have taken it since, and have gone on.
      try log.beat(epoch: taken.epoch)
      triesLeft -= 1
      if triesLeft == 0 {
        throw .lost(
          "the engine's log should end at \(taken.endLSN), and can be read up to \(position)")
      }
    }
    guard let copy = giveUpCopy() else { preconditionFailure("it was just looked at") }
    guard taken.epoch > copy.directory.position.run else {
      throw .lost(
        "the engine's epoch \(taken.epoch) is not above \(copy.directory.position.run), that of its newest batch"
      )
    }
    let end = JournalEnd(position: copy.directory.position, time: 0, tornBytes: 0)
    // The one that the tables were filled from may be gone since.
    let newest = try StockStore.newestCheckpoint(storage, isChecked: false)
    var recovery = try copy.refill.finish(end, isNew: false)
    recovery.checkpoint = newest
    return try resume(
      recovery, recovery.core, OwnedLog(log: log, epoch: taken.epoch), copy.options, archive)
  }

  /// Begins the log with what the directory has, or with nothing.
  private func begin(
    _ taken: LogState, _ archive: (any Storage)?, _ willRaise: (UInt32) -> Void
  ) throws(JournalError) -> (store: StockStore, summary: RecoverySummary) {
    try requireFresh()
    let listing = try DirectoryListing(storage)
    try listing.requireRepaired()
    try listing.requireNoBackup()
    let isNew = listing.checkpoints.isEmpty
    if isNew {
      try StockStore.requireUnused(listing, storage)
      let time = try setup.makeClock(Timestamp(nanoseconds: 0)).now()
      try StockStore.makeDirectory(storage, setup.limits, setup.options, setup.secret, time)
    }
    try CopyMark.beginning.write(to: storage)
    try fill()
    guard let copy = giveUpCopy() else { preconditionFailure("it was just filled") }
    let recovery = try copy.refill.finish(
      JournalEnd(position: copy.directory.position, time: 0, tornBytes: 0), isNew: isNew)
    var core = recovery.core
    if recovery.checkpoint.header.version == 1 {
      core.firstReleaseUntil = recovery.summary.time.nanoseconds
    }
    let owned: OwnedLog
    do throws(JournalError) {
      owned = try raise(taken, above: recovery.position.run, willRaise)
      let lsn = try checkpointAtEnd(recovery, core)
      // Whoever stands by has nothing but this.
      try CheckpointReader(storage: storage, lsn: lsn).check()
      let name = FileNames.checkpoint(lsn)
      let file = try JournalError.attempt("open", name) { () throws(Errno) in
        try storage.open(name)
      }
      try log.begin(at: lsn, epoch: owned.epoch, CheckpointCarrier.parts(of: file, name))
      try CopyMark.copy.write(to: storage)
    } catch {
      core.free()
      throw error
    }
    return try resume(recovery, core, owned, copy.options, archive)
  }

  /// An epoch above every run that the directory has had: batches of a lower one would not count behind them.
  private func raise(
    _ taken: LogState, above run: UInt32, _ willRaise: (UInt32) -> Void
  ) throws(JournalError) -> OwnedLog {
    var taken = taken
    while taken.epoch <= run {
      willRaise(taken.epoch + 1)
      let seen = try log.state()
      guard seen.epoch == taken.epoch,
        let next = try log.take(after: seen, owner: taken.owner, address: taken.address)
      else {
        if seen.epoch > taken.epoch { throw .fenced(by: seen.epoch) }
        continue
      }
      taken = next
    }
    return OwnedLog(log: log, epoch: taken.epoch)
  }

  /// Writes the state as a checkpoint that begins where the journal ends, if there is none. Its number.
  private func checkpointAtEnd(
    _ recovery: Recovery, _ core: StoreCore
  ) throws(JournalError) -> UInt64 {
    let header = recovery.checkpoint.header
    if header.start.lsn == recovery.position.lsn { return header.start.lsn }
    // Nothing is appended meanwhile: the checkpoint ends where it begins.
    core.log.resume(after: recovery.position.lsn)
    let writer = try CheckpointWriter(
      core: core, storage: storage, identity: header.identity, start: recovery.position,
      time: recovery.summary.time, fault: setup.options.fault)
    while try writer.step() {}
    precondition(writer.endLSN == recovery.position.lsn, "somebody has decided something")
    _ = try writer.finish(keeping: header.start.lsn)
    return recovery.position.lsn
  }

  private func resume(
    _ recovery: Recovery, _ core: consuming StoreCore, _ owned: OwnedLog,
    _ options: JournalOptions, _ archive: (any Storage)?
  ) throws(JournalError) -> (store: StockStore, summary: RecoverySummary) {
    let clock: any Clock
    do throws(JournalError) {
      clock = try setup.makeClock(recovery.summary.time.advanced(byNanoseconds: 1))
    } catch {
      core.free()
      throw error
    }
    let store = try StockStore.resume(
      recovery, core, storage, archive, options, clock, replica: owned)
    return (store, recovery.summary)
  }
}
