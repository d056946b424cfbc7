// What makes a log in a database certain. Consensus, failure detection and promotion are the database's and its
// manager's, and the statements are an engine's (LogEngine); here is what their answers are worth.
//
// A write is one statement, which compares epoch and end with one row, changes that row, and puts the batch there.
// Its answer comes when a quorum of standbys has it. Everything else is about answers that do not come:
//
// - A statement that changes no row does not say that somebody else is the owner: it may have waited behind the
//   one before, whose answer was lost. Fenced is who finds a later epoch, and nobody else.
// - A wait for the standbys that was cancelled ends in success, with a notice. So does one for a primary that has
//   no standbys any more. Neither is an answer.
// - What a primary says that was cut off proves nothing. A write that it acknowledges proves what was before it, and
//   what the row says that this write has changed is so. What another statement says, a moment later, is not:
//   it may have gone to another primary.
// - Numbers that only count may come again where a failover takes back what they counted. So each write leaves a
//   number in the row that no other write has: who sees it twice has seen the same write twice.
//
// So after a doubt: write a beat until one is acknowledged; what the row says then is where the log ends.
internal import Synchronization

/// What an owner writes: a statement that is tried once.
package enum EngineWrite {
  case append(PlacedBatch)
  /// Asks besides whether a batch is in the log; nil: no question.
  case beat(epoch: UInt32, behind: BatchName?)
  case take(after: LogState, owner: String, address: String, lease: Int64)
  case release(epoch: UInt32)
  /// Completes a checkpoint of so many parts, too, without which it changes nothing.
  case begin(at: UInt64, epoch: UInt32, checkpoint: UInt64, parts: Int)
}

/// What such a statement has come to.
package enum EngineAnswer {
  /// It has changed the row.
  /// - Parameters:
  ///   - state: what the row says now.
  ///   - hasBatch: the batch is there that a beat was asked for.
  ///   - doubt: why several machines may not have it; nil: they have, and all before it.
  case changed(state: LogState, hasBatch: Bool, doubt: String?)
  /// It has changed nothing.
  case nothing
  /// There is none, and there may be none later. It may have been carried out, or may yet be.
  case none
}

/// A database, statement by statement. All but `write` throws `unreachable` where there is no answer.
package protocol LogEngine: AnyObject, Sendable {
  /// - Parameter beats: what the row gets to say as its beats.
  func write(_ change: EngineWrite, beats: UInt64) -> EngineAnswer
  /// What is in the row.
  /// - Parameter asOwner: asks where `write` writes, as far as is known.
  func state(asOwner: Bool) throws(JournalError) -> LogState
  func want() throws(JournalError)
  /// Calls `body` with batches that begin at `lsn` or behind, ascending, until it says false, or enough were read for
  /// one statement. Those before `whole` have no bytes.
  /// - Returns: the row at the same moment.
  func read(
    from lsn: UInt64, whole: UInt64, asOwner: Bool,
    _ body: (PlacedBatch) throws(JournalError) -> Bool
  ) throws(JournalError) -> LogState
  /// Gives up batches, where a complete checkpoint begins at `lsn` or behind.
  func trim(before lsn: UInt64) throws(JournalError)

  /// Complete ones, ascending.
  func checkpoints() throws(JournalError) -> [KeptCheckpoint]
  func addCheckpoint(_ checkpoint: KeptCheckpoint) throws(JournalError)
  func addPart(
    _ part: Int, of checkpoint: KeptCheckpoint, _ bytes: [UInt8]
  ) throws(JournalError)
  /// - Returns: false where it is not there, or not with so many parts.
  func completeCheckpoint(_ checkpoint: KeptCheckpoint, parts: Int) throws(JournalError) -> Bool
  /// Calls `body` with a part of a complete checkpoint.
  /// - Returns: how many parts it has; nil where it is not there.
  func part(
    _ part: Int, of checkpoint: KeptCheckpoint,
    _ body: (UnsafeRawBufferPointer) throws(JournalError) -> Void
  ) throws(JournalError) -> Int?
  /// Removes a checkpoint, where a newer one is there.
  func removeCheckpoint(_ checkpoint: KeptCheckpoint) throws(JournalError)

  /// Tells the operator, once, what is wrong; nil: all is well again.
  func note(_ trouble: String?)
  /// The steady clock, in nanoseconds.
  func now() -> Int64
  /// A number that comes once: below 2^62, for a column that has a sign.
  func uniqueNumber() -> UInt64
  /// Waits before the next try.
  func pause()
  /// Ends pauses.
  func close()
}

package struct EngineOptions: Sendable {
  /// Nobody takes the log for so long after its owner was heard of: it is told with the log, as `LogState.lease`.
  package var leaseNanoseconds: Int64 = 2_500_000_000
  /// By so much earlier the owner ends its lease: the clocks of two machines do not drift apart by more meanwhile.
  package var marginNanoseconds: Int64 = 500_000_000
  /// For a host to be reached, and for a statement that waits for nobody.
  package var timeoutNanoseconds: Int64 = 3_000_000_000
  /// For what waits for standbys: then the connection is given up, and the doubt begins.
  package var writeNanoseconds: Int64 = 10_000_000_000
  /// Between tries.
  package var pauseNanoseconds: Int64 = 200_000_000
  /// A bug to make on purpose, for showing that the simulation finds it.
  package var fault: EngineFault?

  package init() {}
}

/// Bugs that a replicated log can have, each at the line where somebody might make it. Those of statements are in the
/// simulation's engine.
package enum EngineFault: String, Sendable, CaseIterable {
  /// A statement that changed no row is taken for one of an owner that is none any more.
  case zeroRowsIsFenced = "zero-rows-is-fenced"
  /// Success is success, whatever notice comes with it.
  case ignoreNotice = "ignore-notice"
  /// After a doubt, a batch counts as durable when it is seen in the log.
  case acknowledgeBeforeQuorum = "ack-before-quorum"
  /// Who has taken the log answers from memory until it is told that somebody else has it.
  case readWithoutLease = "read-without-lease"
  /// A copy is not compared with the log that it goes on with.
  case keepPhantomTail = "keep-phantom-tail"
  /// After a doubt, a statement of its own says where the log ends.
  case readEndApart = "read-end-apart"
  /// Who took the log in doubt owns it when a beat under its epoch is acknowledged.
  case keepDoubtfulTake = "keep-doubtful-take"
  /// Who waits for the end of the owner's lease waits for as long as its own would be.
  case trustOwnLease = "trust-own-lease"
  /// Giving the log up renews the lease, as any write does.
  case renewByRelease = "renew-by-release"
  /// The lease begins when the answer comes, not when the write was sent.
  case renewWhenAnswered = "renew-when-answered"
  /// Statement: beats are counted, so that another write can leave the same number.
  case countBeats = "count-beats"
  /// Statement: batches are given up without a checkpoint that replaces them.
  case trimBeforeCheckpoint = "trim-before-checkpoint"
  /// Statement: an append compares the end alone.
  case ignoreEpoch = "ignore-epoch"
  /// Statement: a checkpoint is complete whatever its parts are.
  case completeAnyParts = "complete-any-parts"
  /// Statement: also the newest checkpoint can be removed.
  case removeNewest = "remove-newest"
}

package final class EngineLog<Engine: LogEngine>: ReplicatedLog {
  package typealias Options = EngineOptions

  package let engine: Engine
  private let options: EngineOptions
  /// When the newest write that was acknowledged had been sent; Int64.min: none, or it was given up since.
  private let renewed = Atomic<Int64>(.min)
  private let isReleased = Atomic<Bool>(false)
  private let isClosed = Atomic<Bool>(false)
  private let doubtCount = Atomic<UInt64>(0)

  package init(engine: Engine, options: EngineOptions) {
    self.engine = engine
    self.options = options
  }

  /// Writes whose answer was lost, and which were cleared up.
  package var doubts: UInt64 { doubtCount.load(ordering: .relaxed) }

  package var leaseEnd: Int64 {
    let sent = renewed.load(ordering: .acquiring)
    if sent == .min { return .min }
    if options.fault == .readWithoutLease { return .max }
    return sent + options.leaseNanoseconds - options.marginNanoseconds
  }

  /// The log was taken: what is read then is better read where writes are acknowledged.
  private var isOwner: Bool { renewed.load(ordering: .relaxed) != .min }

  package func close() {
    isClosed.store(true, ordering: .releasing)
    engine.close()
  }

  package func state() throws(JournalError) -> LogState { try engine.state(asOwner: false) }

  package func want() throws(JournalError) { try engine.want() }

  // MARK: What the owner writes

  /// What a write has come to.
  private enum Written {
    /// A quorum has it, and all before. The row says that, and has the batch that was asked for.
    case acknowledged(LogState, hasBatch: Bool)
    /// It has changed nothing.
    case nothing
    /// Nobody knows.
    case doubtful
  }

  /// Writes once.
  private func write(_ change: EngineWrite, beats: UInt64? = nil) -> Written {
    let sent = engine.now()
    switch engine.write(change, beats: beats ?? engine.uniqueNumber()) {
    case .nothing: return .nothing
    case .none: return .doubtful
    case .changed(let state, let hasBatch, let doubt):
      if let doubt, options.fault != .ignoreNotice {
        engine.note(doubt)
        return .doubtful
      }
      if !isReleased.load(ordering: .acquiring) {
        let from = options.fault == .renewWhenAnswered ? engine.now() : sent
        renewed.store(max(from, renewed.load(ordering: .relaxed)), ordering: .releasing)
      }
      return .acknowledged(state, hasBatch: hasBatch)
    }
  }

  package func append(_ batch: PlacedBatch) throws(JournalError) {
    if case .acknowledged = write(.append(batch)) { return }
    try clearUp(batch.epoch) { (state) throws(JournalError) in
      if state.endLSN == batch.endLSN { return true }
      guard state.endLSN == batch.lsn else {
        throw .lost(
          "the engine's log ends at \(state.endLSN), and should at \(batch.lsn) or \(batch.endLSN)")
      }
      if case .acknowledged = self.write(.append(batch)) { return true }
      return false
    }
  }

  package func beat(epoch: UInt32) throws(JournalError) {
    if case .acknowledged = write(.beat(epoch: epoch, behind: nil)) { return }
    try clearUp(epoch) { _ in true }
  }

  /// Tries until `isDone` says that what was written is there.
  /// - Parameter isDone: asked with what the row said when a beat had changed it, which was acknowledged.
  private func clearUp(
    _ epoch: UInt32, _ isDone: (LogState) throws(JournalError) -> Bool
  ) throws(JournalError) {
    doubtCount.add(1, ordering: .relaxed)
    while true {
      if isClosed.load(ordering: .acquiring) {
        throw .unreachable("the engine had not answered when the server ended")
      }
      if options.fault == .acknowledgeBeforeQuorum, let seen = try? engine.state(asOwner: true),
        seen.epoch == epoch, try isDone(seen)
      {
        return
      }
      switch write(.beat(epoch: epoch, behind: nil)) {
      case .acknowledged(let state, _):
        let apart = options.fault == .readEndApart ? try? engine.state(asOwner: true) : nil
        if try isDone(apart ?? state) {
          engine.note(nil)
          return
        }
      case .nothing where options.fault == .zeroRowsIsFenced: throw .fenced(by: epoch &+ 1)
      case .nothing, .doubtful:
        // Whoever sees a later epoch is fenced, whomever it asked: nobody makes up an epoch.
        if let found = try? engine.state(asOwner: true), found.epoch > epoch {
          throw .fenced(by: found.epoch)
        }
      }
      engine.pause()
    }
  }

  package func release(epoch: UInt32) throws(JournalError) {
    // Whoever sees it takes the log at once, also where this hears no answer.
    isReleased.store(options.fault != .renewByRelease, ordering: .releasing)
    renewed.store(.min, ordering: .releasing)
    if case .acknowledged = write(.release(epoch: epoch)) { return }
    // Once is enough: whoever wants it takes it a little later where this was in vain.
    let found = try engine.state(asOwner: true)
    if found.epoch > epoch { throw .fenced(by: found.epoch) }
  }

  package func begin(
    at endLSN: UInt64, epoch: UInt32, _ nextPart: () throws(JournalError) -> [UInt8]?
  ) throws(JournalError) {
    let (checkpoint, parts) = try put(endLSN, nextPart)
    let change = EngineWrite.begin(
      at: endLSN, epoch: epoch, checkpoint: checkpoint.name, parts: parts)
    if case .acknowledged = write(change) { return }
    var isInVain = false
    try clearUp(epoch) { (state) throws(JournalError) in
      if state.hasBegun { return true }
      // A failover may have taken the checkpoint back, and it cannot be put there from here.
      if isInVain {
        throw .unreachable("the engine has lost the checkpoint that the log begins with")
      }
      switch self.write(change) {
      case .acknowledged: return true
      case .nothing: isInVain = true
      case .doubtful: break
      }
      return false
    }
  }

  package func ends(
    at lsn: UInt64, behind last: BatchName?, epoch: UInt32
  ) throws(JournalError) -> Bool {
    var (isSo, noes) = (false, 0)
    func hear(_ state: LogState, _ hasBatch: Bool) -> Bool {
      isSo = state.endLSN == lsn && (last == nil || hasBatch)
      if options.fault == .keepPhantomTail { isSo = true }
      // A statement that waited has looked for the batch before it waited, so one no is none.
      noes += 1
      return isSo || noes == 2
    }
    let question = EngineWrite.beat(epoch: epoch, behind: last)
    while true {
      if case .acknowledged(let state, let hasBatch) = write(question) {
        if hear(state, hasBatch) { return isSo }
      } else {
        try clearUp(epoch) { _ in true }
      }
    }
  }

  package func take(
    after seen: LogState, owner: String, address: String
  ) throws(JournalError) -> LogState? {
    isReleased.store(false, ordering: .releasing)
    let mark = engine.uniqueNumber()
    let lease = options.leaseNanoseconds
    switch write(.take(after: seen, owner: owner, address: address, lease: lease), beats: mark) {
    case .acknowledged(let state, _): return state
    case .nothing: return nil
    case .doubtful:
      // It may be ours alone, or become so yet. By its mark it is the one that was just written, after which nobody
      // has done anything: so it can be taken after that, as it was before. Otherwise nobody has it.
      let found = try engine.state(asOwner: true)
      if options.fault == .keepDoubtfulTake, found.epoch == seen.epoch + 1, found.owner == owner {
        try beat(epoch: found.epoch)
        return try state()
      }
      guard found.epoch == seen.epoch + 1, found.beats == mark, found.owner == owner,
        case .acknowledged(let state, _) = write(
          .take(after: found, owner: owner, address: address, lease: lease))
      else { return nil }
      return state
    }
  }
}

// MARK: - Reading, and what the log no longer needs

extension EngineLog {
  package func read(
    from lsn: UInt64, behind last: BatchName?, bytesMax: Int,
    _ body: (PlacedBatch) throws(JournalError) -> Void
  ) throws(JournalError) -> UInt64 {
    var (next, bytesRead) = (lsn, 0)
    var (isBehind, hasGap) = (last == nil, false)
    // The batch before in the same statement: both of one moment of one primary.
    let state = try engine.read(from: last?.lsn ?? lsn, whole: lsn, asOwner: isOwner) {
      (batch) throws(JournalError) in
      if let last, !isBehind {
        isBehind = batch.lsn == last.lsn && batch.mark == last.mark && batch.endLSN == lsn
        if options.fault == .keepPhantomTail { isBehind = true }
        if isBehind, batch.lsn < lsn { return true }
        if !isBehind { return false }
      }
      guard batch.lsn == next else {
        hasGap = true
        return false
      }
      try body(batch)
      next = batch.endLSN
      bytesRead += unsafe batch.bytes.count
      return bytesRead < bytesMax
    }
    if options.fault == .keepPhantomTail { isBehind = true }
    if let last, !isBehind {
      if last.lsn < state.trimmedLSN { throw .trimmed(oldest: state.trimmedLSN) }
      throw .takenBack(before: lsn)
    }
    if last == nil, lsn > state.endLSN { throw .takenBack(before: lsn) }
    if next == lsn, lsn < state.trimmedLSN { throw .trimmed(oldest: state.trimmedLSN) }
    if hasGap, next == lsn {
      // Where another primary is asked than the one before, a place of the one may be none of the other.
      if !isOwner { throw .takenBack(before: lsn) }
      throw .lost("the engine has no batch at \(next)")
    }
    return next
  }

  package func trim(before lsn: UInt64) throws(JournalError) { try engine.trim(before: lsn) }

  package func checkpoints() throws(JournalError) -> [KeptCheckpoint] {
    try engine.checkpoints()
  }

  package func putCheckpoint(
    _ lsn: UInt64, _ nextPart: () throws(JournalError) -> [UInt8]?
  ) throws(JournalError) {
    let (checkpoint, parts) = try put(lsn, nextPart)
    guard try engine.completeCheckpoint(checkpoint, parts: parts) else {
      throw .unreachable("the engine has lost parts of a checkpoint while it was put there")
    }
  }

  /// Puts it there; it is not complete yet. Its parts may come to two primaries, of which neither has all.
  private func put(
    _ lsn: UInt64, _ nextPart: () throws(JournalError) -> [UInt8]?
  ) throws(JournalError) -> (KeptCheckpoint, parts: Int) {
    let checkpoint = KeptCheckpoint(name: engine.uniqueNumber(), lsn: lsn)
    try engine.addCheckpoint(checkpoint)
    var parts = 0
    while let bytes = try nextPart() {
      try engine.addPart(parts, of: checkpoint, bytes)
      parts += 1
    }
    return (checkpoint, parts)
  }

  package func getCheckpoint(
    _ checkpoint: KeptCheckpoint, _ body: (UnsafeRawBufferPointer) throws(JournalError) -> Void
  ) throws(JournalError) {
    var part = 0
    while true {
      var isThere = false
      let count = unsafe try engine.part(part, of: checkpoint) { (bytes) throws(JournalError) in
        isThere = true
        try unsafe body(bytes)
      }
      guard let count else { throw .trimmed(oldest: try state().trimmedLSN) }
      guard isThere || part >= count else {
        throw .lost(
          "the engine has not part \(part) of \(count) of its checkpoint at \(checkpoint.lsn)")
      }
      part += 1
      if part >= count { return }
    }
  }

  package func removeCheckpoint(_ checkpoint: KeptCheckpoint) throws(JournalError) {
    try engine.removeCheckpoint(checkpoint)
  }
}
