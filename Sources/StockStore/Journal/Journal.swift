// The journal of a running store: its log, the thread that makes it durable for all sessions, and the
// thread that keeps its files in order.
internal import CPlatform
package import Posix
internal import Synchronization

final class Journal: Sendable {
  /// A session's mark, and how its thread is woken.
  private struct Waiter {
    let shared: PaddedArray<SessionShared>
    let wake: @Sendable () -> Void
  }

  let log: DecisionLog
  let writer: JournalWriter
  let maintenance: Maintenance
  let counters: JournalCounters
  private let pool: SegmentPool
  private let gathering: Gathering
  private let threads = Mutex<[Thread]>([])
  private let waiters = Mutex<[Waiter]>([])
  private let isStopping = Atomic<Bool>(false)
  private let hasFailed = Atomic<Bool>(false)
  private let firstFailure = Mutex<JournalError?>(nil)

  /// What went wrong first.
  var failure: JournalError? { firstFailure.withLock { $0 } }

  init(
    log: DecisionLog, options: JournalOptions, writer: JournalWriter, pool: SegmentPool,
    maintenance: Maintenance, counters: JournalCounters
  ) throws(Errno) {
    gathering = try Gathering(options)
    self.log = log
    self.writer = writer
    self.pool = pool
    self.maintenance = maintenance
    self.counters = counters
  }

  // MARK: One step

  /// Writes one group and wakes whom it concerns: how many records; 0: nothing to write.
  func step() throws(JournalError) -> Int {
    if hasFailed.load(ordering: .acquiring) { return 0 }
    let before = log.durable
    let records: Int
    do throws(JournalError) {
      records = try writer.step()
    } catch {
      fail(error)
      throw error
    }
    // The other thread may have failed since: what was synced is, but nothing more is admitted.
    if hasFailed.load(ordering: .acquiring) { log.fail() }
    if records == 0 { return 0 }
    waiters.withLock { list in
      for waiter in list
      where waiter.shared[0].awaitedLSN.load(ordering: .sequentiallyConsistent) > before {
        waiter.wake()
      }
    }
    return records
  }

  /// A piece of a checkpoint, or a segment made ready. False: nothing to do.
  func stepMaintenance() throws(JournalError) -> Bool {
    if hasFailed.load(ordering: .acquiring) { return false }
    do throws(JournalError) {
      let hasWorked = try maintenance.step(durable: log.durable, position: writer.position)
      writer.admit(isDiskFull: maintenance.isDiskFull)
      // The journal's thread may have failed since.
      if hasFailed.load(ordering: .acquiring) { log.fail() }
      return hasWorked
    } catch {
      fail(error)
      throw error
    }
  }

  /// From here on nothing is admitted and, but for what is being synced, nothing becomes durable.
  private func fail(_ error: JournalError) {
    firstFailure.withLock { $0 = $0 ?? error }
    hasFailed.store(true, ordering: .releasing)
    log.fail()
  }

  // MARK: Sessions

  func add(_ shared: PaddedArray<SessionShared>, wake: @escaping @Sendable () -> Void) {
    waiters.withLock { $0.append(Waiter(shared: shared, wake: wake)) }
  }

  private var isAnyInTurn: Bool {
    waiters.withLock { list in list.contains { $0.shared[0].mark.isInTurn } }
  }

  /// A session has appended something.
  @inline(__always)
  func request() { gathering.request(log.last) }

  // MARK: Threads

  /// - Parameter onFailure: called once, from either thread, after nothing is acknowledged any more.
  func start(onFailure: @escaping @Sendable (JournalError) -> Void) throws(Errno) {
    let report: @Sendable (JournalError) -> Void = { [self] error in
      if isStopping.exchange(true, ordering: .acquiringAndReleasing) { return }
      onFailure(error)
    }
    let writing = try Thread(name: "journal") { [self] in run(report) }
    let keeping = try Thread(name: "checkpoint") { [self] in runMaintenance(report) }
    threads.withLock { $0 = [writing, keeping] }
  }

  /// Makes everything durable that was appended, and ends the threads. The sessions have ended their
  /// last turn.
  func stop() {
    isStopping.store(true, ordering: .releasing)
    gathering.interrupt()
    maintenance.wake()
    let threads = threads.withLock { list in
      let threads = list
      list = []
      return threads
    }
    for thread in threads { thread.join() }
  }

  private func run(_ report: @Sendable (JournalError) -> Void) {
    hf_use_precise_timers()
    var waiting = Waiting()
    do throws(JournalError) {
      while true {
        let stops = isStopping.load(ordering: .acquiring)
        let before = log.durable
        let began = SystemClock.monotonicNanoseconds()
        let records = try step()
        if records > 0 {
          waiting = Waiting()
          gathering.wrote(
            records: records, bytes: log.durable - before, arrived: log.last - log.durable,
            nanoseconds: SystemClock.monotonicNanoseconds() - began)
          maintenance.segmentUsed(writer.position.sequence)
        } else if stops {
          return
        } else if log.last > log.durable, !log.isAdmitting, log.reason == .noSpace {
          gathering.rest()
        } else if log.last > log.durable {
          // Somebody has a place in the log and is not done with it, or a segment is being made.
          waiting.once()
        }
        if !stops {
          gathering.wait(durable: log.durable, last: { log.last }, isInTurn: { isAnyInTurn })
        }
      }
    } catch {
      report(error)
    }
  }

  private func runMaintenance(_ report: @Sendable (JournalError) -> Void) {
    do throws(JournalError) {
      while !isStopping.load(ordering: .acquiring) {
        if try stepMaintenance() { maintenance.rest() } else { maintenance.wait() }
      }
    } catch {
      report(error)
    }
  }

  var waitingDecisions: Int { log.pending(from: log.durable, bytesMax: .max).decisions }

  /// The numbers now.
  var statistics: JournalStatistics {
    var numbers = counters.snapshot
    numbers.lsn = log.last
    numbers.durableLSN = log.durable
    numbers.decisions = writer.position.decisions
    numbers.segmentBytesOnDisk = pool.bytesOnDisk
    numbers.unavailable =
      log.isAdmitting ? nil : (hasFailed.load(ordering: .acquiring) ? .failed : log.reason)
    return numbers
  }
}

extension StockStore {
  /// Starts the journal's threads. Until then, and in a simulation, `stepJournal` and
  /// `stepMaintenance` do their work.
  /// - Parameter onFailure: called once, from one of the threads, when the disk has failed: from then
  ///   on nothing is acknowledged, and the process had best end.
  package func startJournal(
    onFailure: @escaping @Sendable (JournalError) -> Void
  ) throws(Errno) {
    try journal?.start(onFailure: onFailure)
  }

  /// Writes what time it is, where nothing was written for `duration` nanoseconds: so the next start can
  /// tell an outage from a clock that is wrong. By one thread, not while the journal is closed.
  package func noteTime(afterNanoseconds duration: Int64) {
    // There is room for it: the session that opened the store appends no more.
    guard let journal, journal.writer.isQuiet(forNanoseconds: duration), core.log.isAdmitting else {
      return
    }
    var record = RecordWriter()
    record.begin(.clock, time: clock.now().nanoseconds)
    _ = core.log.append(record)
    journal.request()
  }

  /// Makes everything durable, notes the time, and ends the journal's threads. The sessions have ended
  /// their last turn. Without threads, in a simulation, it steps until nothing is left.
  package func closeJournal() throws(JournalError) {
    guard let journal else { return }
    journal.stop()
    if let failure = journal.failure { throw failure }
    if try !journal.stepUntilDurable(), journal.waitingDecisions > 0 {
      throw .failed(
        operation: "write", file: FileNames.segment(journal.writer.position.sequence), .noSpace)
    }
    if core.log.isAdmitting {
      var record = RecordWriter()
      record.begin(.clock, time: clock.now().nanoseconds)
      _ = core.log.append(record)
      try journal.stepUntilDurable()
    }
  }

  /// Makes one group durable. False: there was nothing to write.
  package func stepJournal() throws(JournalError) -> Bool {
    try journal.map { (journal) throws(JournalError) in try journal.step() > 0 } ?? false
  }

  /// Does one piece of what the checkpoint thread does. False: there was nothing to do.
  package func stepMaintenance() throws(JournalError) -> Bool {
    try journal?.stepMaintenance() ?? false
  }

  /// Decisions that are not yet as durable as they were asked to be: nobody was told of them. Once the
  /// sessions have ended their last turn; exact while the journal's thread stands still.
  package var waitingDecisions: Int { journal?.waitingDecisions ?? 0 }

  /// The journal's numbers; nil where there is none.
  package var journalStatistics: JournalStatistics? { journal?.statistics }

  /// What happens once in the middle of the next commit, where a strategy other than the optimistic one
  /// has read the items and is about to write them, or where `DeliberateFault.numberAfterUnlock` has
  /// unlocked them and takes the number.
  package func setDeliberateGap(_ body: (@Sendable () -> Void)?) {
    deliberateGap.withLock { $0 = body }
    hasDeliberateGap.store(body != nil, ordering: .releasing)
  }

  /// The lock that guards the decision of a reserve, by number: in that gap a simulation may only give
  /// commands that need another one.
  package func shardNumber(ofReserve scope: IdempotencyScope) -> Int {
    core.shardNumber(core.keys.identity(.reserve, scope))
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
