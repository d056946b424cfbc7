// The stock in memory: items, reservations, and the decisions that were made under idempotency keys.
// Threads work on it through sessions, one each.
package import Log
package import Posix
internal import Synchronization

/// All stock of one server.
package final class StockStore: Sendable {
  package let core: StoreCore
  let clock: any Clock
  let epochs = Epochs()
  /// nil: what is decided ends with the process.
  package let journal: Journal?
  /// Without a journal: where the newest records are kept for readers; nil: nowhere.
  package let memoryLog: MemoryLog?
  /// The log that the journal is a copy of, which this process owns; nil: the journal is one of its own.
  package let replica: (any ReplicatedLog)?
  /// For whoever reads what was decided before.
  package let safetyStockChanges = SafetyStockChanges()
  private let sessions = Mutex<[PaddedArray<SessionShared>]>([])
  private let readers = Mutex<[PaddedArray<EpochMark>]>([])
  /// In nanoseconds since the Unix epoch.
  let madeAt: Int64
  let deliberateGap = Mutex<(@Sendable () -> Void)?>(nil)
  /// For a look without the lock.
  let hasDeliberateGap = Atomic<Bool>(false)
  let expiryObserver = Mutex<(@Sendable (ReservationID, UInt64) -> Void)?>(nil)
  let hasExpiryObserver = Atomic<Bool>(false)

  /// Finds out whether the system has room for the tables of a store, before one is made: making it
  /// without is a trap.
  /// - Parameter reservationsMaxBefore: the cap under which the records of a data directory were made.
  /// - Throws: `tooLittleMemory`.
  package static func requireAddressSpace(
    _ limits: StoreLimits, _ concurrency: ConcurrencyControl = .optimistic,
    reservationsMaxBefore: Int = 0
  ) throws(JournalError) {
    let tables = StoreCore.addressSpace(
      limits, concurrency, reservationsMaxBefore: reservationsMaxBefore)
    guard hasAddressSpace(bytes: tables + addressSpaceKept) else {
      throw .tooLittleMemory(
        "the system gives no \(tables >> 20) MiB of address space for tables of \(limits.itemsMax) items "
          + "and \(limits.reservationsMax) reservations: lower --max-items and --max-reservations of "
          + "holdfast serve, or raise the limit (ulimit -v, vm.overcommit_memory)")
    }
  }

  /// For the journal, the stacks of threads, and what the process needs besides.
  private static let addressSpaceKept = 256 << 20

  /// - Parameter secret: the key of all hashes; 128 unpredictable bits, unless a test wants the same
  ///   run again.
  package init(
    limits: StoreLimits, clock: any Clock, concurrency: ConcurrencyControl = .optimistic,
    secret: (UInt64, UInt64) = (Machine.random64(), Machine.random64())
  ) {
    core = StoreCore(
      limits: limits, concurrency: concurrency, secret: secret, now: clock.now().nanoseconds,
      log: LogRing(shape: .decisions))
    self.clock = clock
    madeAt = clock.now().nanoseconds
    journal = nil
    memoryLog = nil
    replica = nil
  }

  /// A store in memory whose newest records are kept for readers, from `keepDecisions` on.
  /// - Parameters:
  ///   - ringBytes: as JournalOptions has it.
  ///   - historyBytes: a power of two.
  package init(
    limits: StoreLimits, clock: any Clock, concurrency: ConcurrencyControl = .optimistic,
    ringBytes: Int, historyBytes: Int,
    secret: (UInt64, UInt64) = (Machine.random64(), Machine.random64())
  ) throws(Errno) {
    let core = StoreCore(
      limits: limits, concurrency: concurrency, secret: secret, now: clock.now().nanoseconds,
      log: LogRing(ringBytes: ringBytes, shape: .decisions(limits)))
    do throws(Errno) {
      memoryLog = try MemoryLog(ring: core.log, capacity: historyBytes)
    } catch {
      core.free()
      throw error
    }
    self.core = core
    self.clock = clock
    madeAt = clock.now().nanoseconds
    journal = nil
    replica = nil
  }

  /// A store whose tables were recovered, and whose decisions go to `journal`, or nowhere.
  package init(
    core: StoreCore, clock: any Clock, journal: Journal?, replica: (any ReplicatedLog)? = nil
  ) {
    self.replica = replica
    self.core = core
    self.clock = clock
    madeAt = clock.now().nanoseconds
    self.journal = journal
    memoryLog = nil
  }

  /// Shows tables that another thread fills by replay, and frees: between two batches, for reads alone
  /// (`StoreSession.beginReading`).
  /// - Parameter clock: what it says is the time of all that is read.
  package init(showing tables: StoreCore, clock: any Clock) {
    core = tables.followed()
    self.clock = clock
    madeAt = clock.now().nanoseconds
    journal = nil
    memoryLog = nil
    replica = nil
  }

  // Sessions keep their store alive, so none is left.
  deinit {
    core.free()
    sessions.withLock { list in
      for session in list { session.free() }
    }
    readers.withLock { list in
      for mark in list { mark.free() }
    }
  }

  /// The store's time now.
  package var time: Timestamp { clock.now() }

  /// How commands that run at the same time are kept apart.
  package var concurrency: ConcurrencyControl { core.concurrency }

  /// Sessions that there may be: the journal keeps room in memory for a record of each.
  package var sessionsMax: Int { core.log.sessionsMax }

  /// A session for one thread, of at most `sessionsMax`. Make one for each thread, at any time.
  /// - Parameter wake: called by the journal's thread when something that the session waits for has
  ///   become durable.
  package func makeSession(wake: @escaping @Sendable () -> Void = {}) -> StoreSession {
    let shared = PaddedArray<SessionShared>(count: 1) { _ in SessionShared() }
    let number = sessions.withLock { list in
      list.append(shared)
      return list.count
    }
    precondition(number <= core.log.sessionsMax, "more sessions than sessionsMax")
    journal?.add(SessionWaiter(shared: shared, wakeThread: wake))
    return StoreSession(store: self, shared: shared, number: number)
  }

  /// Sums over all sessions. Any thread, any time. Takes the locks of the
  /// shards one at a time, each for a few nanoseconds.
  package func statistics() -> StoreStatistics {
    var sums = statisticsWithoutTables()
    sums.itemBytes = core.items.bytes + core.tables.bytes(items: Int(core.items.count))
    sums.itemIndexBytes = core.index.bytes
    sums.reservationBytes = core.slab.bytes
    for number in 0..<core.shards.count {
      core.shards[number].lock.lock()
      sums.keyTableBytes += core.shards[number].keyBytes
      sums.timerBytes += core.shards[number].wheel.bytes
      core.shards[number].lock.unlock()
    }
    sums.timerBytes += core.dues.bytes
    sums.subjectEntries = core.subjects.count
    sums.subjectBytes = core.subjects.bytes
    return sums
  }

  /// What the sessions counted.
  func statisticsWithoutTables() -> StoreStatistics {
    var sums = StoreStatistics()
    sessions.withLock { list in
      for session in list { session[0].counters.add(to: &sums) }
    }
    return sums
  }

  /// Calls `body` with what others may see of each session.
  func forEachSession(_ body: (borrowing SessionShared) -> Void) {
    sessions.withLock { list in
      for session in list { body(session[0]) }
    }
  }

  /// For a reader of the tables beside the sessions: what it reads in an epoch is kept for it.
  func makeReaderMark() -> PaddedArray<EpochMark> {
    let mark = PaddedArray<EpochMark>(count: 1) { _ in EpochMark() }
    readers.withLock { $0.append(mark) }
    return mark
  }

  /// Whether the mark of any session says that it is in a turn.
  private var isAnyInTurn: Bool {
    sessions.withLock { list in list.contains { $0[0].mark.isInTurn } }
  }

  /// Without a journal: keeps what is decided from now on for readers, where it is not kept already.
  /// Sessions wait for some microseconds before their next turn. By one thread, which is in no turn.
  package func keepDecisions() {
    guard let memoryLog, !memoryLog.isKeeping else { return }
    let keep = { [self] in safetyStockChanges.begin(at: memoryLog.keep()) }
    epochs.betweenTurns(isAnyInTurn: { isAnyInTurn }, keep)
  }

  /// Without a journal: gives up what was kept, and keeps nothing more. By the same thread.
  package func forgetDecisions() {
    guard let memoryLog, memoryLog.isKeeping else { return }
    epochs.betweenTurns(isAnyInTurn: { isAnyInTurn }, memoryLog.forget)
  }

  /// Frees index tables that were replaced and that no session reads any more.
  func collectRetired() {
    epochs.collect {
      sessions.withLock { list in
        var oldest = UInt64.max
        for session in list {
          let epoch = session[0].mark.epoch.load(ordering: .acquiring)
          if epoch != 0 { oldest = min(oldest, epoch) }
        }
        readers.withLock { list in
          for mark in list {
            let epoch = mark[0].epoch.load(ordering: .acquiring)
            if epoch != 0 { oldest = min(oldest, epoch) }
          }
        }
        return oldest
      }
    }
  }
}

/// What other threads may see of a session.
struct SessionShared: ~Copyable {
  /// The session's thread is woken when the journal has come this far.
  let awaitedLSN = Atomic<UInt64>(0)
  let mark = EpochMark()
  let counters = SessionCounters()
  let hot = HotItems()
}

extension StockStore {
  /// What happens once in the middle of the next commit, where a strategy other than the optimistic one
  /// has read the items and is about to write them, or where `DeliberateFault.numberAfterUnlock` has
  /// unlocked them and takes the number.
  package func setDeliberateGap(_ body: (@Sendable () -> Void)?) {
    deliberateGap.withLock { $0 = body }
    hasDeliberateGap.store(body != nil, ordering: .releasing)
  }

  /// Tells a simulation of every hold that is ended because it is due, and the number of the record.
  package func setExpiryObserver(_ body: (@Sendable (ReservationID, _ lsn: UInt64) -> Void)?) {
    expiryObserver.withLock { $0 = body }
    hasExpiryObserver.store(body != nil, ordering: .releasing)
  }

  @inline(never)
  func observeExpiry(_ id: ReservationID, _ lsn: UInt64) {
    expiryObserver.withLock { $0 }?(id, lsn)
  }

  /// The lock that guards the decision of a reserve, by number: in that gap a simulation may only give
  /// commands that need another one.
  package func shardNumber(ofReserve scope: IdempotencyScope) -> Int {
    core.shardNumber(core.keys.identity(.reserve, scope))
  }

  /// Whether the decision under a key is kept, also where it is past its retention and so is none for
  /// anybody.
  package func keeps(reserve scope: IdempotencyScope) -> Bool {
    keeps(core.keys.identity(.reserve, scope))
  }

  package func keeps(adjust scope: IdempotencyScope) -> Bool {
    keeps(core.keys.identity(.adjust, scope))
  }

  package func keeps(adjustTogether scope: IdempotencyScope) -> Bool {
    keeps(core.keys.identity(.adjustTogether, scope))
  }

  package func keeps(importRows scope: IdempotencyScope) -> Bool {
    keeps(core.keys.identity(.importRows, scope))
  }

  package func keeps(remove scope: IdempotencyScope) -> Bool {
    keeps(core.keys.identity(.remove, scope))
  }

  package func keeps(replace scope: IdempotencyScope) -> Bool {
    keeps(core.keys.identity(.replace, scope))
  }

  private func keeps(_ identity: Identity) -> Bool {
    let number = core.shardNumber(identity)
    core.shards[number].lock.lock()
    defer { core.shards[number].lock.unlock() }
    return core.shards[number].find(identity) != nil
  }

  @inline(__always)
  func runDeliberateGap() {
    if hasDeliberateGap.load(ordering: .relaxed) { enterDeliberateGap() }
  }

  @inline(never)
  private func enterDeliberateGap() {
    hasDeliberateGap.store(false, ordering: .relaxed)
    let body = deliberateGap.withLock { body in
      let taken = body
      body = nil
      return taken
    }
    body?()
  }
}
