// Brings segments into the archive, on a thread of its own: an archive that is slow, full or gone stops nobody.
// It is tried again and again; meanwhile the journal keeps what the archive lacks (SegmentPool).
package import Posix
internal import Synchronization

/// What the operator should hear of.
package enum ArchiveNotice: Sendable {
  /// It is tried again.
  case failed(JournalError)
  /// After a failure.
  case works
  /// So many segments were given up before they were archived: no backup from before can be brought past them.
  case lost(segments: Int)
}

/// The archive's numbers at one moment.
package struct ArchiveStatistics: Sendable, Equatable {
  /// Archived since the start.
  package var segments: UInt64 = 0
  package var failures: UInt64 = 0
  /// Given up since the start before they were archived.
  package var lost: UInt64 = 0
  /// Segments that have come to their end and are not archived yet.
  package var waiting = 0
  /// Bytes of durable records that the archive does not have yet.
  package var lagBytes: UInt64 = 0
}

package final class Archiver: Sendable {
  private struct State {
    /// The archive has every record before it.
    var archivedLSN: UInt64
    /// Monotonic nanoseconds.
    var tailNotBefore: Int64 = 0
    var segments: UInt64 = 0
    var failures: UInt64 = 0
    var isFailing = false
    var lostTold = 0
  }

  private static let idleNanoseconds: Int64 = 500_000_000
  private static let retryNanoseconds: ClosedRange<Int64> = 1_000_000_000...60_000_000_000

  private let archive: SegmentArchive
  private let source: any Storage
  private let pool: SegmentPool
  private let options: JournalOptions
  private let state: Mutex<State>
  private let wakeup: Wakeup
  private let finished: Wakeup
  private let isStopping = Atomic<Bool>(false)
  /// There is a thread, and it leaves the disk to others now and then.
  private let rests = Atomic<Bool>(false)
  private let thread = Mutex<Thread?>(nil)
  private let notices = Mutex<(@Sendable (ArchiveNotice) -> Void)?>(nil)

  /// Looks what the archive has, and keeps what it lacks. Before the pool retires anything.
  /// - Parameters:
  ///   - source: the journal's.
  ///   - position: where the journal ends.
  package init(
    _ archive: SegmentArchive, source: any Storage, pool: SegmentPool, options: JournalOptions,
    position: JournalPosition
  ) throws(JournalError) {
    self.archive = archive
    self.source = source
    self.pool = pool
    self.options = options
    (wakeup, finished) = try JournalError.attempt("make", "the archive's thread") {
      () throws(Errno) in (try Wakeup(), try Wakeup())
    }
    let segments = try archive.segments()
    // Where there is a tail alone, whatever is before it may be missing, and what is behind its beginning must not.
    let newest =
      segments.last { !$0.isTail }?.sequence ?? segments.first.map { $0.sequence - 1 } ?? 0
    let isContinued =
      options.fault == .archiveForgetsTail
      ? segments.contains { !$0.isTail } : !segments.isEmpty
    if options.fault != .archiveOfNewer {
      try Self.requireBehind(segments, archive, position)
    }
    pool.keepForArchive(from: newest + 1)
    let next = pool.unarchived(before: position.sequence)?.next ?? position.sequence
    let name = FileNames.segment(next)
    let first = try JournalError.attempt("read", name) { () throws(Errno) in
      try BatchHeader.first(
        ofSegment: next, try source.open(name), key: archive.identity.key)
    }
    state = Mutex(State(archivedLSN: first?.lsn ?? position.lsn))
    // Where it was off for a while, or its newest segments were removed, some are gone for good.
    if isContinued, next > newest + 1 {
      missing = Int(clamping: next - newest - 1)
    } else {
      missing = 0
    }
  }

  /// An archive that has more than the journal is that of a directory which this one is an older copy of.
  private static func requireBehind(
    _ segments: [ArchivedSegment], _ archive: SegmentArchive, _ position: JournalPosition
  ) throws(JournalError) {
    guard let last = segments.max(by: { $0.sequence < $1.sequence }) else { return }
    var isAhead =
      last.sequence > position.sequence || (last.sequence == position.sequence && !last.isTail)
    if last.sequence == position.sequence, last.isTail {
      do throws(JournalError) {
        isAhead = try archive.end(of: last).lsn > position.lsn
      } catch .damaged {
        // It is replaced.
      } catch {
        throw error
      }
    }
    if isAhead {
      throw .unsuitable(
        """
        the archive has more of the journal than the directory, which is an older copy, then: holdfast repair \
        DIR --truncate-at \(position.lsn) begins another history
        """)
    }
  }

  /// Segments that neither the archive nor the directory has.
  private let missing: Int

  package func onNotice(_ body: @escaping @Sendable (ArchiveNotice) -> Void) {
    notices.withLock { $0 = body }
    if missing > 0 { body(.lost(segments: missing)) }
  }

  // MARK: One step

  /// Archives the oldest segment that is not, or else, where it is time, what the newest has.
  /// - Parameters:
  ///   - position: the end of what is durable.
  ///   - tailNow: the newest too, whether or not it is time.
  /// - Returns: whether something was done.
  package func step(
    _ position: JournalPosition, tailNow: Bool = false
  ) throws(JournalError) -> Bool {
    tellLosses()
    let syncs = options.durability != .fsync
    if let next = pool.unarchived(before: position.sequence)?.next {
      let end: UInt64
      do throws(JournalError) {
        end = try archive.put(next, of: source, syncsSource: syncs, rest: rest)
      } catch {
        // It was given up, and used again, in the middle of it.
        if pool.unarchived(before: position.sequence)?.next != next { return true }
        throw error
      }
      pool.archived(through: options.fault == .archiveSkipsSegment ? next + 1 : next)
      state.withLock { state in
        state.archivedLSN = max(state.archivedLSN, end)
        state.segments += 1
      }
      return true
    }
    let now = SystemClock.monotonicNanoseconds()
    let isDue = state.withLock { state in
      position.lsn > state.archivedLSN && (tailNow || now >= state.tailNotBefore)
    }
    guard isDue else { return false }
    try archive.putTail(until: position, of: source, syncsSource: syncs, rest: rest)
    state.withLock { state in
      state.archivedLSN = max(state.archivedLSN, position.lsn)
      state.tailNotBefore =
        SystemClock.monotonicNanoseconds() + options.archiveTailNanoseconds
    }
    return true
  }

  private func rest(_ nanoseconds: Int64) {
    if rests.load(ordering: .relaxed) { wakeup.wait(nanoseconds: nanoseconds) }
  }

  private func tellLosses() {
    let lost = pool.lostToArchive
    let news = state.withLock { state in
      defer { state.lostTold = lost }
      return lost - state.lostTold
    }
    if news > 0 { notify(.lost(segments: news)) }
  }

  private func notify(_ notice: ArchiveNotice) { notices.withLock { $0 }?(notice) }

  // MARK: The thread

  /// - Parameter position: the end of what is durable.
  package func start(_ position: @escaping @Sendable () -> JournalPosition) throws(Errno) {
    rests.store(true, ordering: .relaxed)
    let started = try Thread(name: "archive") { [self] in
      run(position)
      finished.signal()
    }
    thread.withLock { $0 = started }
  }

  /// Archives what is left, the newest segment included, and ends the thread. The journal has ended. Where the
  /// archive does not take it in time, the thread is left to its fate.
  /// - Returns: whether the archive has everything.
  package func finish(patienceNanoseconds: Int64) -> Bool {
    rests.store(false, ordering: .relaxed)
    isStopping.store(true, ordering: .releasing)
    wakeup.signal()
    let started = thread.withLock { thread in
      let started = thread
      thread = nil
      return started
    }
    guard let started else { return true }
    guard finished.wait(nanoseconds: patienceNanoseconds) else { return false }
    started.join()
    return state.withLock { !$0.isFailing }
  }

  private func run(_ position: @Sendable () -> JournalPosition) {
    var retry = Self.retryNanoseconds.lowerBound
    while true {
      let stops = isStopping.load(ordering: .acquiring)
      do throws(JournalError) {
        let hasWorked = try step(position(), tailNow: stops)
        if state.withLock({ state in
          defer { if hasWorked { state.isFailing = false } }
          return hasWorked && state.isFailing
        }) {
          notify(.works)
        }
        retry = Self.retryNanoseconds.lowerBound
        if !hasWorked {
          if stops { return }
          wakeup.wait(nanoseconds: Self.idleNanoseconds)
        }
      } catch {
        state.withLock { state in
          state.failures += 1
          state.isFailing = true
        }
        notify(.failed(error))
        // Once more at the end, and no longer.
        if stops { return }
        wakeup.wait(nanoseconds: retry)
        retry = min(2 * retry, Self.retryNanoseconds.upperBound)
      }
    }
  }

  // MARK: Numbers

  package func statistics(_ position: JournalPosition) -> ArchiveStatistics {
    let waiting = pool.unarchived(before: position.sequence)?.count ?? 0
    return state.withLock { state in
      ArchiveStatistics(
        segments: state.segments, failures: state.failures,
        lost: UInt64(missing + pool.lostToArchive), waiting: waiting,
        lagBytes: position.lsn - min(position.lsn, state.archivedLSN))
    }
  }
}
