internal import Log
internal import Posix
internal import Synchronization

/// One thread's access to the store. Every batch of commands stands between `beginTurn` and `endTurn`;
/// they all happen at the turn's time.
package final class StoreSession {
  let store: StockStore
  /// 1 for the store's first session, and so on.
  let number: Int
  let core: StoreCore
  private let clock: any Clock
  let epochs: Epochs
  private let shared: PaddedArray<SessionShared>
  private let journal: Journal?
  private let memoryLog: MemoryLog?
  private let replica: (any ReplicatedLog)?
  private let scratchMemory: PaddedArray<SessionScratch>

  init(store: StockStore, shared: PaddedArray<SessionShared>, number: Int) {
    self.store = store
    self.number = number
    self.shared = shared
    journal = store.journal
    memoryLog = store.memoryLog
    replica = store.replica
    core = store.core
    clock = store.clock
    epochs = store.epochs
    scratchMemory = PaddedArray(count: 1) { _ in
      // Nobody is to know which of his calls are looked at.
      SessionScratch(random: UInt64(number), draws: Machine.random64())
    }
  }

  // The counters stay with the store: their sums go on.
  deinit {
    endTurn()
    scratchMemory.free()
  }

  /// This session's working memory: behind a constant address, so that reaching it costs no check.
  var scratch: SessionScratch {
    @inline(__always) unsafeAddress { unsafe UnsafePointer(scratchMemory.address(0)) }
    @inline(__always) unsafeMutableAddress { unsafe scratchMemory.address(0) }
  }

  var counters: SessionCounters {
    @inline(__always) _read { yield shared[0].counters }
  }

  var hot: HotItems {
    @inline(__always) _read { yield shared[0].hot }
  }

  /// The turn's time in nanoseconds since the Unix epoch.
  var now: Int64 {
    @inline(__always) get { scratch.now }
  }

  /// The same, for others: what is decided in this turn happens then.
  package var time: Int64 { now }

  /// What the clock says by now, while the turn goes on. In nanoseconds since the Unix epoch.
  var clockNanoseconds: Int64 { clock.now().nanoseconds }

  /// Enters a turn: from here on no table that it may read is freed, and all happens at this time.
  func enterTurn() -> Timestamp {
    let now = clock.now()
    scratch.now = now.nanoseconds
    scratch.unavailable = nil
    epochs.enter(shared[0].mark)
    return now
  }

  /// Enters a turn for reads of a store that is filled by replay. It sees each hold as the log has it: one that is
  /// due is held until its end is recorded, so that holds and balances agree.
  package func beginReading() {
    precondition(core.isFollowed, "a store that ends what is due")
    _ = enterTurn()
  }

  /// By then holds are due that are not ended: in a store that is filled by replay, none is.
  var dueTime: Int64 {
    @inline(__always) get { core.isFollowed ? .min : now }
  }

  /// Index tables that were replaced are kept for sessions that are in a turn, and only for them.
  @inline(__always)
  func assertInTurn() {
    assert(shared[0].mark.isInTurn, "a command outside a turn")
  }

  /// Ends the turn: the thread may block now. What the turn decided is on its way to the disk.
  package func endTurn() {
    epochs.leave(shared[0].mark)
    guard let journal else {
      if scratch.hasAppended {
        scratch.hasAppended = false
        if core.log.isKeeping { memoryLog?.request() }
      }
      return
    }
    // First the mark, then whatever is durable is read: or a wake-up could be missed.
    shared[0].awaitedLSN.store(scratch.awaitedLSN, ordering: .sequentiallyConsistent)
    if scratch.hasAppended {
      scratch.hasAppended = false
      journal.request()
    }
  }

  /// Answers up to this log sequence number may be shown. In memory, all.
  package var durableLSN: UInt64 { core.log.durable }

  /// Somebody waits for `lsn`: the session's thread is woken when it is durable, if that is later.
  @inline(__always)
  package func await(lsn: UInt64) {
    if lsn > scratch.awaitedLSN { scratch.awaitedLSN = lsn }
  }

  /// Why nothing can be changed now; nil where all is well. Asked before every change.
  @inline(__always)
  var unavailable: Unavailable? {
    if scratch.unavailable == nil && core.log.isAdmitting { return nil }
    return scratch.unavailable ?? core.log.reason
  }

  /// Appends the record that was built to the log. Everything that it is about is locked.
  @inline(__always)
  func appendRecord() -> UInt64 {
    scratch.hasAppended = true
    return core.log.append(scratch.record)
  }

  /// The log sequence number of the store's newest decision: what a read of many records waits for.
  package var lastLSN: UInt64 { core.log.last }

  /// Others may own the store's log some day: what no record of its own backs is an answer only while
  /// `isLeaseLive`.
  @inline(__always)
  package var hasLease: Bool { replica != nil }

  /// Whether nobody else can have decided anything until now.
  package var isLeaseLive: Bool {
    guard let replica else { return true }
    return SystemClock.steadyNanoseconds() < replica.leaseEnd
  }

  /// Empties lines, alternatives and limits for the next reserve or confirm. Both leave them empty.
  package func clearLines() {
    scratch.lineCount = 0
    scratch.limits.removeAll()
    if scratch.alternatives.isAsked { scratch.alternatives.removeAll() }
  }

  /// Adds a line for the next reserve or confirm; false where StoreLimits.linesPerReservation lines
  /// (64 at most) are there already. The line's bytes must stay until that command has returned.
  package func appendLine(_ line: LineRequest) -> Bool {
    let count = scratch.lineCount
    guard count < min(core.limits.linesPerReservation, StoreLimits.linesMax) else {
      return false
    }
    assertInTurn()
    let hash: UInt64
    var candidate = UInt32.max
    if let prepared = preparedHash(line.item) {
      hash = prepared
      candidate = scratch.prepared[scratch.preparedInUse].candidate
    } else {
      hash = core.keys.itemHash(line.item)
      core.index.prefetch(hash)
    }
    scratch.lines[count] = CommandLine(
      hash: hash, item: line.item, quantity: line.quantity, candidate: candidate)
    scratch.lineCount = count + 1
    return true
  }

  /// The item that line `line` of the last reserve named, for telling which one is unknown: from 0. Good
  /// as long as the bytes that the line borrowed.
  package func namedItem(line: Int) -> ItemName { scratch.lines[line].item }

  /// The number of the item that line `index` of the command names; nil where it is unknown.
  @inline(__always)
  func ordinal(line index: Int) -> UInt32? {
    core.find(scratch.lines[index].item, scratch.lines[index].hash)
  }

  /// Fetches the records of the items that the command names, all at once.
  @inline(__always)
  func prefetchItems() {
    for line in 0..<scratch.lineCount where scratch.lines[line].candidate == .max {
      let candidate = core.index.candidate(scratch.lines[line].hash)
      scratch.lines[line].candidate = candidate ?? .max
      if let candidate { core.items.prefetch(candidate) }
    }
  }

  /// `ordinal(line:)` after `prefetchItems`: the index has been asked already.
  @inline(__always)
  func fetchedOrdinal(line index: Int) -> UInt32? {
    let candidate = scratch.lines[index].candidate
    if candidate != .max, core.items.hasName(candidate, scratch.lines[index].item),
      core.isMade(candidate)
    {
      return candidate
    }
    return ordinal(line: index)
  }

  /// Bad lines of the last command, if it was refused for some, besides the one that its refusal names:
  /// `insufficientStock`, `itemNotFound` and `moreThanHeld` name all, each item once.
  package var furtherRefusalCount: Int { scratch.further.count }

  /// Refusal `index` of them, from 0 to `furtherRefusalCount` - 1, of the same kind as the first.
  package func furtherRefusal(_ index: Int) -> Refusal { scratch.further[index] }

  /// Lines of the reservation that the last command answered; each item once, none with 0 units.
  package var viewLineCount: Int { scratch.viewCount }

  /// Line `index` of them, from 0 to viewLineCount - 1.
  package func viewLine(_ index: Int) -> ViewLine {
    precondition(index >= 0 && index < scratch.viewCount, "no such line")
    return scratch.view[index]
  }
}

extension StoreSession {
  /// The reference of the reservation that the last command answered; empty where it has none. Good until the
  /// next command.
  package var viewReference: BorrowedBytes {
    if scratch.viewReferenceCount == 0 { return .empty }
    // The scratch stays where it is.
    return unsafe withUnsafeMutablePointer(to: &scratch.viewReference) {
      unsafe BorrowedBytes(
        UnsafeRawPointer($0).assumingMemoryBound(to: UInt8.self),
        count: scratch.viewReferenceCount)
    }
  }

  /// Keeps the reference for `viewReference`: the record's may go once its shard is unlocked.
  func showReference(_ reference: BorrowedBytes) {
    if reference.count == 0 {
      scratch.viewReferenceCount = 0
      return
    }
    let text = unsafe reference.pointer
    let count = min(text.count, StoreLimits.referenceBytesMax)
    for index in 0..<count { scratch.viewReference[index] = unsafe text[index] }
    scratch.viewReferenceCount = count
  }
}

/// A line as a command brought it.
struct CommandLine {
  var hash: UInt64
  var item: ItemName
  var quantity: Int64
  /// The number of the item that `prefetchItems` has found, or `fetchPrepared`, if its name is the line's; UInt32.max: none.
  var candidate: UInt32 = .max
}

/// What the journal is to say of a hold, should there be units for it.
struct HoldToRecord {
  var slot: UInt32
  var generation: UInt32
  var fingerprint: UInt64
  var expiresAt: Int64
  /// Borrowed from the command.
  var scope: IdempotencyScope
}

/// A session's working memory.
struct SessionScratch: ~Copyable {
  var now: Int64 = 0
  /// State of the generator that spreads the back-off.
  var random: UInt64
  /// Which events the sketches of hot items look at.
  var hotSamples: HotSamples
  var lineCount = 0
  let lines = FixedArray<CommandLine>(
    capacity: StoreLimits.linesMax,
    repeating: CommandLine(
      hash: 0, item: ItemName(sku: .empty, location: .empty), quantity: 0))
  /// Numbers of `lines` in the order of their hashes: lines for the same item stand together.
  let sortedLines = FixedArray<UInt8>(capacity: StoreLimits.linesMax, repeating: 0)
  /// Set by a command that is refused; empty before.
  var further = RefusalList(capacity: StoreLimits.linesMax)
  var changes = WriteSet(capacity: StoreLimits.changesMax)
  var adjustment = Adjustment()
  /// Of a BatchAdjustStock.
  var group = AdjustmentGroup()
  var record = RecordWriter()
  /// Of a reserve or a replace, borrowed from the command; empty where it has none.
  var reference = BorrowedBytes.empty
  /// Of a reserve, which leaves none; those of a commit are in `changes`.
  var limits = LimitSet()
  /// The same as bytes, where there are any.
  var limitText = LimitText()
  /// The one that the last command was refused for as `limitExceeded`.
  var refusedLimit = LimitText()
  /// Of a reserve, from before it commits until after; nil for all other commands.
  var holdToRecord: HoldToRecord?
  /// Of a reserve.
  var alternatives = Alternatives()
  var replacement = Replacement()
  /// Commands that come soon in this turn.
  var expected = ExpectedIdentities()
  /// Reserves that were prepared, and the one that comes next; below 0: that is none of them.
  let prepared = FixedArray<PreparedReserve>(
    capacity: StoreSession.preparedMax,
    repeating: PreparedReserve(
      scope: IdempotencyScope(caller: .empty, key: .empty), identity: Identity(low: 0, high: 0),
      item: ItemName(sku: .empty, location: .empty), itemHash: 0))
  var preparedInUse = -1
  /// Some holds may be due and not ended (Expire.swift).
  var hasBacklog = false
  /// In this turn, all that are due have been staged.
  var hasStagedDue = false
  /// Set where due holds could not be ended: nothing is changed in this turn.
  var unavailable: Unavailable?
  /// Since the turn's end before.
  var hasAppended = false
  /// The highest number that anybody waited for.
  var awaitedLSN: UInt64 = 0
  /// Balances that the last BatchAdjustStock answered.
  var viewLevelCount = 0
  let viewLevels = FixedArray<StockLevel>(
    capacity: StoreLimits.linesMax,
    repeating: StockLevel(item: ItemHandle(ordinal: 0), .none, version: 0))
  var viewCount = 0
  let view = FixedArray<ViewLine>(
    capacity: StoreLimits.linesMax, repeating: ViewLine(item: ItemHandle(ordinal: 0), quantity: 0))
  /// The reference of the reservation in `view`.
  var viewReference = InlineArray<64, UInt8>(repeating: 0)
  var viewReferenceCount = 0
  /// The shard whose ended decisions are looked at next.
  var collectShard = 0
  /// Decisions recorded since the last look.
  var recordedSinceCollect = 0
  /// What the locks of `changes` were granted with, in their order (Locking).
  let tokens = FixedArray<UInt64>(capacity: StoreLimits.changesMax, repeating: 0)

  init(random: UInt64, draws: UInt64) {
    self.random = random &* 0x9e37_79b9_7f4a_7c15 | 1
    hotSamples = HotSamples(random: draws)
  }

  deinit {
    lines.free()
    sortedLines.free()
    further.free()
    alternatives.free()
    changes.free()
    group.free()
    limitText.free()
    refusedLimit.free()
    replacement.lines.free()
    expected.free()
    prepared.free()
    tokens.free()
    view.free()
    viewLevels.free()
  }
}
