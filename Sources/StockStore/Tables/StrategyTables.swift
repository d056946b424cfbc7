// What the strategies of Concurrency/ keep besides the items' own words: locks, queues, and the seats and
// mailboxes of writers. Here are their bits, there is what is done with them and why that is sound.
internal import Synchronization

/// What strategies keep besides the items' own words; empty but for the one that runs. The locks and the
/// queues of neighbouring items share cache lines, eight to a line. A value of handles, as StoreCore.
struct StrategyTables: Sendable {
  let locks: Region<ItemLock>
  let queues: Region<ItemQueue>
  let writers: WriterShards

  init(_ concurrency: ConcurrencyControl, items: Int) {
    locks = Region(capacity: Self.lockCount(concurrency, items), pages: .huge)
    queues = Region(capacity: Self.queueCount(concurrency, items), pages: .huge)
    writers = WriterShards(isUsed: concurrency == .singleWriter)
  }

  private static func lockCount(_ concurrency: ConcurrencyControl, _ items: Int) -> Int {
    concurrency == .locking || concurrency == .unfencedForDemonstration ? items : 0
  }

  private static func queueCount(_ concurrency: ConcurrencyControl, _ items: Int) -> Int {
    concurrency == .queued ? items : 0
  }

  /// What they take of the address space.
  static func addressSpace(_ concurrency: ConcurrencyControl, items: Int) -> Int {
    Region<ItemLock>.mappedBytes(capacity: lockCount(concurrency, items))
      + Region<ItemQueue>.mappedBytes(capacity: queueCount(concurrency, items))
  }

  /// Bytes in use for so many items.
  func bytes(items: Int) -> Int {
    min(items, locks.capacity) * MemoryLayout<ItemLock>.stride
      + min(items, queues.capacity) * MemoryLayout<ItemQueue>.stride + writers.bytes
  }

  func free() {
    locks.free()
    queues.free()
    writers.free()
  }
}

/// One item's lock, 8 bytes: token << 2 | phase. Zero bits are a free one that was never granted.
struct ItemLock: ~Copyable {
  private enum Phase {
    static let free: UInt64 = 0
    static let held: UInt64 = 1
    static let sealed: UInt64 = 2
    static let mask: UInt64 = 3
  }

  private let word = Atomic<UInt64>(0)

  /// The token of the grant; nil where the lock is not free.
  @inline(__always)
  borrowing func take() -> UInt64? {
    let seen = word.load(ordering: .relaxed)
    return seen & Phase.mask == Phase.free ? grant(after: seen) : nil
  }

  /// The token of the grant that holds it, unsealed.
  var heldToken: UInt64? {
    let seen = word.load(ordering: .relaxed)
    return seen & Phase.mask == Phase.held ? seen >> 2 : nil
  }

  /// The token of the grant that ends the one of `token`; nil where that has ended already, or is sealed.
  borrowing func takeOver(from token: UInt64) -> UInt64? {
    grant(after: token << 2 | Phase.held)
  }

  /// Whether the grant of `token` is still good; it cannot be taken over any more then.
  @inline(__always)
  borrowing func seal(_ token: UInt64) -> Bool {
    word.compareExchange(
      expected: token << 2 | Phase.held, desired: token << 2 | Phase.sealed,
      ordering: .acquiringAndReleasing
    ).exchanged
  }

  /// Ends a grant that was sealed.
  @inline(__always)
  borrowing func freeSealed(_ token: UInt64) {
    assert(word.load(ordering: .relaxed) == token << 2 | Phase.sealed, "another grant's lock")
    word.store(token << 2 | Phase.free, ordering: .releasing)
  }

  /// Ends a grant that was not, if nobody has taken it over.
  borrowing func freeHeld(_ token: UInt64) {
    _ = word.compareExchange(
      expected: token << 2 | Phase.held, desired: token << 2 | Phase.free, ordering: .releasing)
  }

  @inline(__always)
  private borrowing func grant(after seen: UInt64) -> UInt64? {
    let token = seen >> 2 &+ 1
    let (exchanged, _) = word.compareExchange(
      expected: seen, desired: token << 2 | Phase.held, ordering: .acquiring)
    return exchanged ? token : nil
  }
}

/// One item's queue, 8 bytes. Zero bits are an empty one.
struct ItemQueue: ~Copyable {
  /// Sessions in a queue, at most: as many as a large machine has event loops.
  static let waitersMax = 64

  private let next: Atomic<UInt32>
  private let serving: Atomic<UInt32>

  /// - Parameter first: the first ticket's number.
  init(first: UInt32 = 0) {
    next = Atomic(first)
    serving = Atomic(first)
  }

  /// Sessions that have a ticket and have not ended their turn.
  var count: Int { Int(next.load(ordering: .relaxed) &- serving.load(ordering: .relaxed)) }

  /// nil where `waitersMax` are before it.
  @inline(__always)
  borrowing func takeTicket() -> UInt32? {
    var ticket = next.load(ordering: .relaxed)
    while true {
      // Both only move on: no more can be before us than this says, and where it is less than none,
      // `ticket` is not the next any more.
      let before = Int32(bitPattern: ticket &- serving.load(ordering: .relaxed))
      if before >= Self.waitersMax { return nil }
      let (exchanged, seen) = next.compareExchange(
        expected: ticket, desired: ticket &+ 1, ordering: .relaxed)
      if exchanged { return ticket }
      ticket = seen
    }
  }

  /// Whether it is the ticket's turn; acquires what the one before has written.
  @inline(__always)
  borrowing func isServing(_ ticket: UInt32) -> Bool {
    serving.load(ordering: .acquiring) == ticket
  }

  /// Ends the turn of the ticket that is served. Its holder only.
  @inline(__always)
  borrowing func callNext() {
    serving.store(serving.load(ordering: .relaxed) &+ 1, ordering: .releasing)
  }
}

/// All shards and mailboxes. A handle, as Region.
struct WriterShards: Sendable {
  /// One bit of a word each.
  static let shardsMax = 64
  static let mailboxesMax = 64

  let shards: PaddedArray<WriterShard>
  let mailboxes: PaddedArray<Mailbox>

  /// - Parameter isUsed: false: there are none.
  init(isUsed: Bool) {
    shards = PaddedArray(count: isUsed ? Self.shardsMax : 0) { _ in WriterShard() }
    mailboxes = PaddedArray(count: isUsed ? Self.mailboxesMax : 0) { _ in Mailbox() }
  }

  var bytes: Int { shards.bytes + mailboxes.bytes }

  func free() {
    shards.free()
    mailboxes.free()
  }

  @inline(__always)
  static func shard(_ ordinal: UInt32) -> Int { Int(ordinal) & (shardsMax - 1) }
}

/// A part of the items: those whose number leaves the same rest.
struct WriterShard: ~Copyable {
  private let isTaken = Atomic<Bool>(false)
  /// The mailboxes with something for the writer, as bits.
  private let posted = Atomic<UInt64>(0)

  /// Whether the seat was free, and is the caller's now; acquires what the last writer has written.
  @inline(__always)
  borrowing func takeSeat() -> Bool {
    !isTaken.load(ordering: .relaxed) && !isTaken.exchange(true, ordering: .acquiring)
  }

  @inline(__always)
  borrowing func leaveSeat() {
    assert(isTaken.load(ordering: .relaxed), "a seat that nobody has")
    isTaken.store(false, ordering: .releasing)
  }

  borrowing func post(_ mailbox: Int) {
    posted.bitwiseOr(1 << UInt64(mailbox), ordering: .releasing)
  }

  /// Whether nobody has taken what the mailbox has posted; nobody will then.
  borrowing func takeBack(_ mailbox: Int) -> Bool {
    let bit: UInt64 = 1 << UInt64(mailbox)
    return posted.bitwiseAnd(~bit, ordering: .relaxed).oldValue & bit != 0
  }

  /// All that is posted, which the caller must answer.
  @inline(__always)
  borrowing func takePosted() -> UInt64 {
    if posted.load(ordering: .relaxed) == 0 { return 0 }
    return posted.exchange(0, ordering: .acquiring)
  }

  /// Mailboxes that wait for the writer.
  var postedCount: Int { posted.load(ordering: .relaxed).nonzeroBitCount }
}

/// Where one session leaves a transaction, and finds the answer.
@safe struct Mailbox: ~Copyable {
  /// The session, which these tables know nothing of.
  private var poster: Unmanaged<AnyObject>?
  private var kind = TransactionKind.writeSet
  private(set) var answer = Attempt.conflict
  private let hasAnswer = Atomic<Bool>(false)

  var isAnswered: Bool { hasAnswer.load(ordering: .acquiring) }

  /// The session stays where it is until it has its answer, or has taken its bit back.
  mutating func put(_ session: AnyObject, _ kind: TransactionKind) {
    unsafe poster = .passUnretained(session)
    self.kind = kind
    hasAnswer.store(false, ordering: .relaxed)
  }

  /// Answers with what `execute` makes of what was put here. The shard's writer only.
  @inline(__always)
  mutating func answerPoster(_ execute: (_ session: AnyObject, TransactionKind) -> Attempt) {
    // The poster waits for us, so it is there.
    guard let poster = unsafe poster else { return }
    answer = unsafe poster._withUnsafeGuaranteedRef { execute($0, kind) }
    hasAnswer.store(true, ordering: .releasing)
  }
}
