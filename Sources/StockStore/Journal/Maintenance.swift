// What the journal needs besides writing: segments made ready before they are needed, and checkpoints,
// so that old segments can be used again and a start has little to read.
internal import Posix
internal import Synchronization

/// Used by one thread at a time, the checkpoint's, but for `wake` and `segmentUsed`.
final class Maintenance: Sendable {
  private struct State {
    /// Where recovery would begin to read now.
    var start: JournalPosition
    var checkpoint: CheckpointWriter?
    /// Monotonic nanoseconds.
    var checkpointBegan: Int64 = 0
  }

  /// After the disk was found full, and while a checkpoint waits for the journal.
  private static let retryNanoseconds: Int64 = 20_000_000
  private static let idleNanoseconds: Int64 = 1_000_000_000

  private let pool: SegmentPool
  private let options: JournalOptions
  private let counters: JournalCounters
  private let makeCheckpoint: @Sendable (JournalPosition) throws(JournalError) -> CheckpointWriter
  private let state: Mutex<State>
  private let wakeup: Wakeup
  /// The newest segment in use, as the journal's thread last told.
  private let newestSequence: Atomic<UInt64>
  private let diskIsFull = Atomic<Bool>(false)

  /// - Parameters:
  ///   - start: of the newest checkpoint.
  ///   - makeCheckpoint: begins one that starts there.
  init(
    pool: SegmentPool, options: JournalOptions, counters: JournalCounters, start: JournalPosition,
    makeCheckpoint:
      @escaping @Sendable (JournalPosition) throws(JournalError) -> CheckpointWriter
  ) throws(Errno) {
    self.pool = pool
    self.options = options
    self.counters = counters
    self.makeCheckpoint = makeCheckpoint
    state = Mutex(State(start: start))
    wakeup = try Wakeup()
    newestSequence = Atomic(start.sequence)
  }

  /// There was no room for the segment that is needed next.
  var isDiskFull: Bool { diskIsFull.load(ordering: .relaxed) }

  /// Does one piece of work. False: there is nothing to do, or not yet.
  /// - Parameters:
  ///   - durable: the end of what is durable.
  ///   - position: where the journal is written now.
  func step(durable: UInt64, position: JournalPosition) throws(JournalError) -> Bool {
    do throws(JournalError) {
      // Changes wait for segments, nobody for a checkpoint.
      if pool.readyCount < options.spareSegments, try pool.prepareNext() {
        diskIsFull.store(false, ordering: .relaxed)
        return true
      }
      return try stepCheckpoint(durable: durable, position: position)
    } catch .failed(_, _, .noSpace) {
      // What was begun is taken back, and what is served goes on: with reads, and with changes while
      // there is room in the segments that are ready.
      counters.ranOutOfSpace()
      if pool.readyCount < options.spareSegments { diskIsFull.store(true, ordering: .relaxed) }
      abandonCheckpoint()
      return false
    } catch {
      throw error
    }
  }

  private func stepCheckpoint(
    durable: UInt64, position: JournalPosition
  ) throws(JournalError) -> Bool {
    var (start, checkpoint, began) = state.withLock {
      ($0.start, $0.checkpoint, $0.checkpointBegan)
    }
    guard let writer = checkpoint else {
      guard position.sequence - start.sequence >= UInt64(options.checkpointSegments) else {
        return false
      }
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
    let bytes = try writer.finish()
    start = writer.start
    let reached = start
    state.withLock {
      $0.start = reached
      $0.checkpoint = nil
    }
    try pool.retire(before: start.sequence)
    counters.madeCheckpoint(began: began, bytes: bytes)
    return true
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
  func segmentUsed(_ sequence: UInt64) {
    if newestSequence.exchange(sequence, ordering: .relaxed) != sequence { wakeup.signal() }
  }

  func wake() { wakeup.signal() }

  /// Lets others have the disk for a while, or until a segment is needed.
  func rest() {
    let nanoseconds = state.withLock { $0.checkpoint?.takeRest() ?? 0 }
    if nanoseconds > 0 { wakeup.wait(nanoseconds: nanoseconds) }
  }

  /// Waits until there may be something to do.
  func wait() {
    let isBusy = state.withLock { $0.checkpoint != nil } || pool.readyCount < options.spareSegments
    wakeup.wait(nanoseconds: isBusy ? Self.retryNanoseconds : Self.idleNanoseconds)
  }
}
