// The journal of a running process: the ring that its sessions append to, the thread that makes that durable
// for all of them, and the thread that keeps the files in order.
internal import CPlatform
package import Posix
internal import Synchronization

/// Somebody who appends to the ring and waits until that is durable. Asked by the journal's thread.
package protocol JournalClient: Sendable {
  /// The client is woken when the journal has come this far. Read after, and written before, what is
  /// durable (sequentially consistent): or a wake-up could be missed.
  var awaitedLSN: UInt64 { get }

  /// Whether it is in the middle of appending: it asks for nothing before it is done.
  var isAppending: Bool { get }

  /// Called when something that it waits for has become durable.
  func wake()
}

package final class Journal: Sendable {
  package let ring: LogRing
  package let log: DirectoryLog
  private let writer: GroupWriter
  package let maintenance: Maintenance
  /// nil: there is no archive.
  package let archiver: Archiver?
  package let counters: JournalCounters
  private let pool: SegmentPool
  private let gathering: Gathering
  private let watching: Wakeup
  private let threads = Mutex<[Thread]>([])
  private let clients = Mutex<[any JournalClient]>([])
  private let isStopping = Atomic<Bool>(false)
  private let hasFailed = Atomic<Bool>(false)
  private let firstFailure = Mutex<JournalError?>(nil)
  private let round = Atomic<Int64>(SystemClock.monotonicNanoseconds())

  /// How often the directory is looked at.
  private static let watchNanoseconds: Int64 = 500_000_000

  /// When the thread that makes decisions durable came round last, in monotonic nanoseconds: at most a second ago,
  /// unless the disk does not answer.
  package var lastRound: Int64 { round.load(ordering: .relaxed) }

  /// What went wrong first.
  package var failure: JournalError? { firstFailure.withLock { $0 } }

  package init(
    ring: LogRing, log: DirectoryLog, options: JournalOptions, pool: SegmentPool,
    maintenance: Maintenance, archiver: Archiver? = nil, counters: JournalCounters
  ) throws(Errno) {
    gathering = try Gathering(options)
    watching = try Wakeup()
    self.ring = ring
    self.log = log
    writer = GroupWriter(ring: ring, log: log, options: options)
    self.pool = pool
    self.maintenance = maintenance
    self.archiver = archiver
    self.counters = counters
  }

  // MARK: One step

  /// Writes one group and wakes whom it concerns: how many records; 0: nothing to write.
  package func step() throws(JournalError) -> Int {
    if hasFailed.load(ordering: .acquiring) { return 0 }
    let before = ring.durable
    let records: Int
    do throws(JournalError) {
      records = try writer.step()
    } catch {
      throw fail(error)
    }
    // The other thread may have failed since: what was synced is, but nothing more is admitted.
    if hasFailed.load(ordering: .acquiring) { ring.fail() }
    if records == 0 { return 0 }
    clients.withLock { list in
      for client in list where client.awaitedLSN > before { client.wake() }
    }
    return records
  }

  /// A piece of a checkpoint, or a segment made ready. False: nothing to do.
  package func stepMaintenance() throws(JournalError) -> Bool {
    if hasFailed.load(ordering: .acquiring) { return false }
    do throws(JournalError) {
      let hasWorked = try maintenance.step(durable: ring.durable, position: log.position)
      writer.admit(isDiskFull: maintenance.isDiskFull)
      // The journal's thread may have failed since.
      if hasFailed.load(ordering: .acquiring) { ring.fail() }
      return hasWorked
    } catch {
      throw fail(error)
    }
  }

  /// Looks whether the directory and its segments still are where a start will look for them: otherwise what
  /// is acknowledged would be lost, and another process may be serving under the same name.
  /// - Throws: `displaced`; from then on nothing is acknowledged.
  package func checkPlace() throws(JournalError) {
    guard let finding = try? displacement() else { return }
    throw fail(.displaced(finding))
  }

  private func displacement() throws(Errno) -> String? {
    let needed = files()
    guard let finding = try log.checkpoints.displacement(of: Array(needed.values)) else {
      return nil
    }
    // Segments may have been retired meanwhile. What is needed from before until after was there all the time.
    let stillNeeded = files()
    let both = needed.filter { stillNeeded[$0.key] != nil }.map(\.value)
    return try log.checkpoints.displacement(of: both) == nil ? nil : finding
  }

  /// The segments that must be there, by their sequences.
  private func files() -> [UInt64: NamedFile] {
    var files: [UInt64: NamedFile] = [:]
    let (current, file) = log.segment
    for (sequence, ready) in pool.needed {
      files[sequence] = NamedFile(
        FileNames.segment(sequence), sequence == current ? file : ready)
    }
    return files
  }

  /// From here on nothing is admitted and, but for what is being synced, nothing becomes durable.
  /// - Returns: why: where the directory was taken away, that, rather than the call that came across it.
  private func fail(_ error: JournalError) -> JournalError {
    hasFailed.store(true, ordering: .releasing)
    ring.fail()
    var reason = error
    if case .failed = error, let finding = try? displacement() { reason = .displaced(finding) }
    return firstFailure.withLock { first in
      first = first ?? reason
      return reason
    }
  }

  // MARK: Clients

  package func add(_ client: any JournalClient) { clients.withLock { $0.append(client) } }

  private var isAnyAppending: Bool { clients.withLock { $0.contains { $0.isAppending } } }

  /// A client has appended something.
  @inline(__always)
  package func request() { gathering.request(ring.last) }

  // MARK: Threads

  /// - Parameter onFailure: called once, from either thread, after nothing is acknowledged any more.
  package func start(onFailure: @escaping @Sendable (JournalError) -> Void) throws(Errno) {
    let report: @Sendable (JournalError) -> Void = { [self] error in
      if isStopping.exchange(true, ordering: .acquiringAndReleasing) { return }
      onFailure(error)
    }
    let writing = try Thread(name: "journal") { [self] in run(report) }
    let keeping = try Thread(name: "checkpoint") { [self] in runMaintenance(report) }
    let watching = try Thread(name: "directory") { [self] in runWatch(report) }
    threads.withLock { $0 = [writing, keeping, watching] }
    try archiver?.start { [log] in log.position }
  }

  /// Makes everything durable that was appended, and ends the threads. The clients append no
  /// more.
  package func stop() {
    isStopping.store(true, ordering: .releasing)
    gathering.interrupt()
    maintenance.wake()
    watching.signal()
    let threads = threads.withLock { list in
      let threads = list
      list = []
      return threads
    }
    for thread in threads { thread.join() }
  }

  /// Writes down where the journal ends, when the threads have ended and everything is durable: a later start
  /// must find at least that. Where there is no room for it, what was written down before still holds.
  package func close() throws(JournalError) {
    let position = log.position
    try maintenance.syncForClosing(position)
    do throws(JournalError) {
      try log.writeClosing()
    } catch .failed(_, _, let error) where error.isShortage {
      try? log.checkpoints.remove(FileNames.newClosing)
    } catch {
      throw error
    }
  }

  private func run(_ report: @Sendable (JournalError) -> Void) {
    hf_use_precise_timers()
    var waiting = Waiting()
    do throws(JournalError) {
      while true {
        let stops = isStopping.load(ordering: .acquiring)
        let before = ring.durable
        let began = SystemClock.monotonicNanoseconds()
        round.store(began, ordering: .relaxed)
        let records = try step()
        if records > 0 {
          waiting = Waiting()
          gathering.wrote(
            records: records, bytes: ring.durable - before, arrived: ring.last - ring.durable,
            nanoseconds: SystemClock.monotonicNanoseconds() - began)
          maintenance.segmentUsed(log.position.sequence)
        } else if stops {
          return
        } else if ring.last > ring.durable, !ring.isAdmitting, ring.reason == .noSpace {
          gathering.rest()
        } else if ring.last > ring.durable {
          // Somebody has a place in the log and is not done with it, or a segment is being made.
          waiting.once()
        }
        if !stops {
          gathering.wait(
            durable: ring.durable, last: { ring.last }, isAppending: { isAnyAppending })
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

  private func runWatch(_ report: @Sendable (JournalError) -> Void) {
    do throws(JournalError) {
      while !isStopping.load(ordering: .acquiring) {
        try checkPlace()
        watching.wait(nanoseconds: Self.watchNanoseconds)
      }
    } catch {
      report(error)
    }
  }

  /// Counted records that are not durable yet; exact while the journal's thread stands still.
  package var waitingCount: Int { ring.pending(from: ring.durable, bytesMax: .max).counted }

  /// The numbers now.
  package var statistics: JournalStatistics {
    var numbers = counters.snapshot
    numbers.archive = archiver?.statistics(log.position)
    numbers.lsn = ring.last
    numbers.durableLSN = ring.durable
    numbers.lagBytesMax = ring.lagBytesMax
    numbers.counted = log.end.counted
    numbers.segmentBytesOnDisk = pool.bytesOnDisk
    numbers.unavailable =
      ring.isAdmitting ? nil : (hasFailed.load(ordering: .acquiring) ? .failed : ring.reason)
    return numbers
  }
}

extension Journal {
  /// Makes everything durable that was appended, without threads. False where there is no room for it on
  /// the disk.
  @discardableResult
  package func stepUntilDurable() throws(JournalError) -> Bool {
    while ring.durable < ring.last {
      if try step() > 0 { continue }
      // The segment is full and none is ready.
      if try !stepMaintenance(), try step() == 0 { return false }
    }
    return true
  }
}
