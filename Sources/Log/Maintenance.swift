// What the journal needs besides writing: segments made ready before they are needed, and checkpoints,
// so that old segments can be used again and a start has little to read.
package import Posix
internal import Synchronization

/// A checkpoint in the making: somebody else's state, written beside the log into `BatchLog.checkpoints`.
/// Used by one thread at a time: whoever hands it on sees to that. `step` is called until it returns false;
/// then, once the log is durable up to `endLSN`, `finish`; or `abandon` at any time.
package protocol CheckpointTask: AnyObject, Sendable {
  /// Every record before it is in the checkpoint.
  var start: JournalPosition { get }

  /// When `step` has returned false: the log must be durable up to here before `finish`.
  var endLSN: UInt64 { get }

  /// Writes one piece; false when all is written and synced.
  func step() throws(JournalError) -> Bool

  /// How long to leave the disk to others before the next step, in nanoseconds.
  func takeRest() -> Int64

  /// Puts the checkpoint in the place of all others, but for the one that starts at `lsn`: that can stand in for
  /// this one should it be harmed.
  /// - Returns: its bytes.
  func finish(keeping lsn: UInt64?) throws(JournalError) -> Int

  /// Removes what was written.
  func abandon()
}

/// Used by one thread at a time, the checkpoint's, but for `wake` and `segmentUsed`.
package final class Maintenance: Sendable {
  private struct State {
    /// Where recovery would begin to read now.
    var start: JournalPosition
    /// Where it would begin if the newest checkpoint were harmed: of the one before, or the same.
    var fallback: JournalPosition
    var checkpoint: (any CheckpointTask)?
    /// Monotonic nanoseconds.
    var checkpointBegan: Int64 = 0
    /// Where the last checkpoint ran out of space: the next one waits for another segment.
    var gaveUpAt: UInt64 = 0
  }

  /// While a checkpoint waits for the journal.
  private static let retryNanoseconds: Int64 = 20_000_000
  private static let idleNanoseconds: Int64 = 1_000_000_000

  private let pool: SegmentPool
  private let options: JournalOptions
  private let counters: JournalCounters
  private let makeCheckpoint: @Sendable (JournalPosition) throws(JournalError) -> any CheckpointTask
  private let removeCheckpoints: @Sendable (_ keeping: UInt64) throws(JournalError) -> Void
  private let storage: any Storage
  private let state: Mutex<State>
  private let wakeup: Wakeup
  /// The newest segment in use, as the journal's thread last told.
  private let newestSequence: Atomic<UInt64>
  private let diskIsFull = Atomic<Bool>(false)
  private let skipsSegment = Atomic<Bool>(false)

  /// - Parameters:
  ///   - start: of the newest checkpoint.
  ///   - fallback: of the one before, if it is kept; or the same.
  ///   - makeCheckpoint: begins one that starts there.
  ///   - removeCheckpoints: removes all but the one that starts there.
  package init(
    storage: any Storage, pool: SegmentPool, options: JournalOptions, counters: JournalCounters,
    start: JournalPosition, fallback: JournalPosition,
    makeCheckpoint:
      @escaping @Sendable (JournalPosition) throws(JournalError) -> any CheckpointTask,
    removeCheckpoints: @escaping @Sendable (_ keeping: UInt64) throws(JournalError) -> Void
  ) throws(Errno) {
    self.pool = pool
    self.options = options
    self.counters = counters
    self.makeCheckpoint = makeCheckpoint
    self.removeCheckpoints = removeCheckpoints
    self.storage = storage
    state = Mutex(State(start: start, fallback: fallback))
    wakeup = try Wakeup()
    newestSequence = Atomic(start.sequence)
  }

  /// There was no room for the segment that is needed next.
  package var isDiskFull: Bool { diskIsFull.load(ordering: .relaxed) }

  /// Does one piece of work. False: there is nothing to do, or not yet.
  /// - Parameters:
  ///   - durable: the end of what is durable.
  ///   - position: where the journal is written now.
  package func step(durable: UInt64, position: JournalPosition) throws(JournalError) -> Bool {
    // Changes wait for segments, nobody for a checkpoint; but on a full disk a checkpoint may be what
    // makes room.
    if !skipsSegment.load(ordering: .relaxed), try prepareSegment() { return true }
    if isDiskFull, try giveUpFallback() { return true }
    do throws(JournalError) {
      if try stepCheckpoint(durable: durable, position: position) { return true }
    } catch .failed(_, _, let error) where error.isShortage {
      // What was begun is taken back, and what is served goes on.
      counters.ranOutOfSpace()
      try pool.retireHistory()
      abandonCheckpoint()
      if try giveUpFallback() { return true }
      state.withLock { $0.gaveUpAt = position.sequence }
    } catch {
      throw error
    }
    // Nothing else is to do: the segment that could not be made is tried again.
    return skipsSegment.load(ordering: .relaxed) ? try prepareSegment() : false
  }

  /// False where enough are ready, or none can be made now.
  private func prepareSegment() throws(JournalError) -> Bool {
    do throws(JournalError) {
      guard try pool.prepareNext() else { return false }
      diskIsFull.store(false, ordering: .relaxed)
      skipsSegment.store(false, ordering: .relaxed)
      return true
    } catch .failed(_, _, let error) where error.isShortage {
      counters.ranOutOfSpace()
      try pool.retireHistory()
      diskIsFull.store(true, ordering: .relaxed)
      // Not once more before everything else is done.
      skipsSegment.store(true, ordering: .relaxed)
      return false
    } catch {
      throw error
    }
  }

  /// Removes what is kept for the case that the newest checkpoint is harmed: there is no room for it. False
  /// where nothing is.
  private func giveUpFallback() throws(JournalError) -> Bool {
    let (start, fallback) = state.withLock { ($0.start, $0.fallback) }
    if fallback.lsn == start.lsn { return false }
    try removeCheckpoints(start.lsn)
    state.withLock { $0.fallback = start }
    try pool.retire(before: start.sequence)
    skipsSegment.store(false, ordering: .relaxed)
    return true
  }

  private func stepCheckpoint(
    durable: UInt64, position: JournalPosition
  ) throws(JournalError) -> Bool {
    let start = state.withLock { $0.start }
    var (checkpoint, began) = state.withLock {
      ($0.checkpoint, $0.checkpointBegan)
    }
    guard let writer = checkpoint else {
      let segments = position.sequence - start.sequence
      guard segments >= (isDiskFull ? 1 : UInt64(options.checkpointSegments)),
        isDiskFull || state.withLock({ $0.gaveUpAt != position.sequence })
      else { return false }
      began = SystemClock.monotonicNanoseconds()
      checkpoint = try makeCheckpoint(position)
      if options.fault == .recycleTooEarly { try pool.retire(before: position.sequence) }
      let begun = (checkpoint, began)
      state.withLock { ($0.checkpoint, $0.checkpointBegan) = begun }
      return true
    }
    if try writer.step() { return true }
    // What a checkpoint shows must not be undone by a crash.
    guard durable >= writer.endLSN else { return false }
    // Those before the new start too: should this checkpoint be harmed, the one before needs them.
    if options.durability != .fsync { try syncSegments(start.sequence, position.sequence) }
    let bytes = try writer.finish(keeping: start.lsn)
    let (reached, fallback) = (writer.start, start)
    state.withLock {
      $0.start = reached
      $0.fallback = fallback
      $0.checkpoint = nil
    }
    try pool.retire(
      before: options.fault == .forgetFallback ? reached.sequence : fallback.sequence)
    counters.madeCheckpoint(began: began, bytes: bytes)
    return true
  }

  /// Makes what the journal has up to `position` outlive a power cut, where that is not so already.
  func syncForClosing(_ position: JournalPosition) throws(JournalError) {
    if options.durability == .fsync { return }
    try syncSegments(state.withLock { $0.fallback.sequence }, position.sequence)
  }

  /// Makes the segments from the one sequence to the other outlive a power cut.
  private func syncSegments(_ first: UInt64, _ last: UInt64) throws(JournalError) {
    for sequence in first...max(first, last) {
      let name = FileNames.segment(sequence)
      try JournalError.attempt("sync", name) { () throws(Errno) in try storage.open(name).sync() }
    }
  }

  private func abandonCheckpoint() {
    let writer = state.withLock { state in
      let writer = state.checkpoint
      state.checkpoint = nil
      return writer
    }
    writer?.abandon()
  }

  // MARK: The thread

  /// The journal writes to the segment `sequence`.
  package func segmentUsed(_ sequence: UInt64) {
    if newestSequence.exchange(sequence, ordering: .relaxed) != sequence { wakeup.signal() }
  }

  package func wake() { wakeup.signal() }

  /// Lets others have the disk for a while, or until a segment is needed.
  package func rest() {
    let nanoseconds = state.withLock { $0.checkpoint?.takeRest() ?? 0 }
    if nanoseconds > 0 { wakeup.wait(nanoseconds: nanoseconds) }
  }

  /// Waits until there may be something to do.
  package func wait() {
    let isBusy = state.withLock { $0.checkpoint != nil } || pool.readyCount < options.spareSegments
    wakeup.wait(
      nanoseconds: isBusy && !isDiskFull ? Self.retryNanoseconds : Self.idleNanoseconds)
  }
}
