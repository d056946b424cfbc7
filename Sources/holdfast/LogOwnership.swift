internal import Log
internal import Logging
internal import Metrics
internal import Posix
internal import PostgresLog
internal import StockStore
internal import StorePersistence
internal import Synchronization

// With durability quorum: from following the log in the engine to owning it, and what an owner does beside serving.

/// The log that this server follows, and then owns.
final class LogOwnership: Sendable {
  /// What is done while it owns the log.
  private struct Duties {
    var epoch: UInt32 = 0
    var keeper: LeaseKeeper?
    var carrier: CheckpointCarrier?
  }

  private let settings: Settings
  private let logger: Logger
  /// No other server has it, in this run or any other.
  let name: String
  /// Where clients reach this server.
  let address: String
  let log: PostgresLog
  /// What a standby shows of its copy; nil: nothing.
  let reads: StandbyReads?
  private let members: EngineMembers
  private let duties = Mutex(Duties())
  /// The newest that is known of the log.
  private let seen = Mutex<LogState?>(nil)
  private let copiedLSN = Atomic<UInt64>(0)
  /// When the copy last had all that the log was known to have, in steady nanoseconds; at first, the start.
  private let caughtUp = Atomic<Int64>(SystemClock.steadyNanoseconds())
  private let copiesMadeAnew = Atomic<UInt64>(0)
  private let takeovers = Atomic<UInt64>(0)
  private let standbys = Atomic<Int>(0)
  private let isEnding = Atomic<Bool>(false)
  private let wasWanted = Atomic<Bool>(false)
  private let watching: Wakeup
  private let watcher = Mutex<Thread?>(nil)

  init(_ settings: Settings, _ address: String, _ logger: Logger) throws(CommandFailure) {
    self.settings = settings
    self.logger = logger
    reads = settings.readsStale ? StandbyReads() : nil
    self.address = settings.advertise.isEmpty ? address : settings.advertise
    name = "\(HostName.own):\(Machine.processID):\(String(Machine.random64(), radix: 36))"
    members = EngineMembers(address: settings.engine)
    do {
      log = try PostgresLog(
        address: settings.engine, options: Limits.engine(settings)
      ) { logger.warning("\($0)") }
      watching = try Wakeup()
    } catch {
      throw CommandFailure(description: "cannot prepare for the engine: \(error)")
    }
  }

  /// Where the log's owner is reached, as far as is known; nil where there is none, or it is this server.
  var owner: String? {
    seen.withLock { state in
      guard let state, !state.owner.isEmpty, state.owner != name else { return nil }
      return state.address
    }
  }

  /// The engine has not answered for a lease.
  var isLeaseOver: Bool { log.leaseEnd < SystemClock.steadyNanoseconds() }

  /// Somebody has asked this owner for the log.
  var isWanted: Bool { wasWanted.load(ordering: .acquiring) }

  // MARK: Until it is ours

  /// Follows the log until this server may take it, and takes it.
  /// - Parameters:
  ///   - onFenced: called once, from any thread, when somebody else has it.
  func own(
    _ follower: Follower, onFenced: @escaping @Sendable (JournalError) -> Void
  ) throws(JournalError) -> (StockStore, RecoverySummary) {
    try log.check()
    var watch = OwnerWatch(lease: settings.leaseNanoseconds)
    var follow = Following(checkpoint: 0, member: 0)
    while true {
      do throws(JournalError) {
        try look(&watch)
        defer { note(follower) }
        var asked = SystemClock.steadyNanoseconds()
        while try follower.step() {
          note(follower)
          try look(&watch)
          asked = SystemClock.steadyNanoseconds()
        }
        caughtUp.store(asked, ordering: .relaxed)
        if !settings.isStandby { try requireNoOwner(watch) }
        let now = SystemClock.steadyNanoseconds()
        if let seen = watch.seen, watch.isOver(now) {
          // Whoever took it first may have something to begin it with, and comes back.
          if settings.isStandby, !seen.hasBegun, seen.epoch > 0 {
            throw .unreachable("the log has not begun")
          }
          if let taken = try log.take(after: seen, owner: name, address: address) {
            return try begin(follower, taken, onFenced)
          }
          continue
        }
        try tend(follower, &watch, &follow, now)
      } catch .unreachable(let reason) {
        watch.lostSight()
        // PostgresLog has said so once.
        logger.debug("the engine is not reached", metadata: ["reason": "\(reason)"])
      } catch .takenBack, .trimmed {
        // While a new copy was being made: of a primary that is none any more.
        watch.lostSight()
      } catch {
        throw error
      }
      watching.wait(nanoseconds: Limits.engineFollowedNanoseconds)
    }
  }

  /// When what is done now and then was done last, in steady nanoseconds.
  private struct Following {
    var checkpoint: Int64
    var member: Int64
  }

  private func look(_ watch: inout OwnerWatch) throws(JournalError) {
    let state = try log.state()
    watch.note(state, at: SystemClock.steadyNanoseconds())
    seen.withLock { $0 = state }
  }

  private func note(_ follower: Follower) {
    copiedLSN.store(follower.endLSN ?? 0, ordering: .relaxed)
    copiesMadeAnew.store(follower.copiesMadeAnew, ordering: .relaxed)
  }

  /// A server that was not told to stand by has nothing to wait for while another one is alive.
  private func requireNoOwner(_ watch: OwnerWatch) throws(JournalError) {
    guard watch.hasOwnerMoved, let state = watch.seen, state.owner != name else { return }
    throw .unsuitable(
      "the log has an owner, at \(state.address) (\(state.owner)): start with --standby to take over when it ends"
    )
  }

  /// What a standby does now and then.
  private func tend(
    _ follower: Follower, _ watch: inout OwnerWatch, _ follow: inout Following, _ now: Int64
  ) throws(JournalError) {
    if now - follow.member > Limits.memberToldNanoseconds {
      follow.member = now
      try? members.note(name: name, address: address, lsn: follower.endLSN ?? 0)
    }
    guard now - follow.checkpoint > Limits.checkpointsCarriedNanoseconds else { return }
    follow.checkpoint = now
    var ended = false
    do throws(JournalError) {
      try follower.takeCheckpoint { () throws(JournalError) in
        try self.look(&watch)
        while try follower.step() {}
        if watch.isOver(SystemClock.steadyNanoseconds()) {
          ended = true
          throw .unreachable("the owner is gone")
        }
      }
    } catch {
      if !ended { throw error }
    }
  }

  private func begin(
    _ follower: Follower, _ taken: LogState, _ onFenced: @escaping @Sendable (JournalError) -> Void
  ) throws(JournalError) -> (StockStore, RecoverySummary) {
    let began = SystemClock.monotonicNanoseconds()
    takeovers.add(1, ordering: .relaxed)
    logger.notice(
      "has taken the log",
      metadata: ["epoch": "\(taken.epoch)", "lsn": "\(taken.endLSN)", "owner": "\(name)"])
    let keeper = try keep(taken.epoch, onFenced)
    duties.withLock { ($0.keeper, $0.epoch) = (keeper, taken.epoch) }
    defer { copiesMadeAnew.store(follower.copiesMadeAnew, ordering: .relaxed) }
    let (store, summary) = try takeOver(follower, taken) { epoch in
      keeper.raise(to: epoch)
      self.duties.withLock { $0.epoch = epoch }
    }
    let epoch = store.journal?.log.epoch ?? taken.epoch
    try? members.forget(name: name)
    logger.info(
      "serves under it",
      metadata: [
        "epoch": "\(epoch)",
        "seconds": "\(Double(SystemClock.monotonicNanoseconds() - began) / 1e9)",
      ])
    return (store, summary)
  }

  /// The log is ours, and the lease is kept: an engine that goes away meanwhile comes back.
  private func takeOver(
    _ follower: Follower, _ taken: LogState, _ willRaise: (UInt32) -> Void
  ) throws(JournalError) -> (StockStore, RecoverySummary) {
    while true {
      do throws(JournalError) {
        return try follower.takeOver(taken, willRaise: willRaise)
      } catch .takenBack, .trimmed {
        watching.wait(nanoseconds: Limits.engineFollowedNanoseconds)
      } catch .unreachable(let reason) {
        guard taken.hasBegun else {
          throw .unsuitable(
            "the engine was not reached while its log was begun: \(reason); start again")
        }
        watching.wait(nanoseconds: Limits.engineFollowedNanoseconds)
      } catch {
        throw error
      }
    }
  }

  private func keep(
    _ epoch: UInt32, _ onFenced: @escaping @Sendable (JournalError) -> Void
  ) throws(JournalError) -> LeaseKeeper {
    try JournalError.attempt("make", "the lease's thread") { () throws(Errno) in
      try LeaseKeeper(
        log, epoch: epoch, interval: settings.leaseNanoseconds / 4, onFailure: onFenced)
    }
  }

  // MARK: While it is ours

  /// Begins what an owner does beside serving.
  /// - Parameter onWanted: called once, when somebody has asked for the log.
  func begin(
    _ storage: any Storage, onWanted: @escaping @Sendable () -> Void
  ) throws(Errno) {
    let carrier = try CheckpointCarrier(
      log, from: storage, interval: Limits.checkpointsCarriedNanoseconds)
    duties.withLock { $0.carrier = carrier }
    let started = try Thread(name: "engine") { [self] in
      var counted: Int64 = 0
      while !isEnding.load(ordering: .acquiring) {
        let now = SystemClock.steadyNanoseconds()
        if now - counted > Limits.memberToldNanoseconds, let heard = try? members.list() {
          counted = now
          let there = heard.count { $0.secondsAgo < Limits.memberSecondsMax && $0.name != name }
          standbys.store(there, ordering: .relaxed)
        }
        if let state = try? log.state() {
          seen.withLock { $0 = state }
          if state.isWanted, state.owner == name {
            wasWanted.store(true, ordering: .releasing)
            return onWanted()
          }
        }
        watching.wait(nanoseconds: Limits.engineWatchedNanoseconds)
      }
    }
    watcher.withLock { $0 = started }
  }

  /// Ends what waits: it will not be appended to any more.
  func giveUp() {
    isEnding.store(true, ordering: .releasing)
    let duties = duties.withLock { $0 }
    duties.keeper?.stop()
    do throws(JournalError) {
      try log.release(epoch: duties.epoch)
      logger.info("has given the log up", metadata: ["epoch": "\(duties.epoch)"])
    } catch {
      // Then it is free when the lease is over.
      logger.warning("could not give the log up: \(error)")
    }
    log.close()
    watching.signal()
    watcher.withLock { $0 }?.join()
    duties.carrier?.stop()
  }

  // MARK: Metrics

  /// For the admin server's front page.
  var lines: [(name: String, value: String)] {
    let epoch = duties.withLock { $0.epoch }
    let state = seen.withLock { $0 }
    return [
      ("Role", epoch > 0 ? "owner of the log" : "standby"),
      ("Epoch", state.map { "\($0.epoch)" } ?? "unknown"),
      ("Owner", owner ?? (epoch > 0 ? address : "none")),
    ]
  }

  func expose(into page: inout Exposition) { numbers.expose(into: &page) }

  /// As they stand.
  var numbers: EngineNumbers {
    let (epoch, carrier) = duties.withLock { ($0.epoch, $0.carrier) }
    let state = seen.withLock { $0 }
    let now = SystemClock.steadyNanoseconds()
    var numbers = EngineNumbers(isOwner: epoch > 0, epoch: epoch > 0 ? epoch : state?.epoch ?? 0)
    if log.leaseEnd != .min {
      let lease = settings.leaseNanoseconds
      numbers.leaseLeft = Double(log.leaseEnd - now) / 1e9
      numbers.leaseAge =
        Double(lease - lease / Limits.leaseMarginPart) / 1e9 - numbers.leaseLeft
    }
    numbers.takeovers = takeovers.load(ordering: .relaxed)
    numbers.doubts = log.doubts
    numbers.standbys = standbys.load(ordering: .relaxed)
    numbers.checkpointLSN = carrier?.newestCarried ?? 0
    numbers.checkpointFailures = carrier?.failures ?? 0
    numbers.copiesMadeAnew = copiesMadeAnew.load(ordering: .relaxed)
    if let state {
      let copied = copiedLSN.load(ordering: .relaxed)
      numbers.logBytes = state.endLSN - min(state.endLSN, state.trimmedLSN)
      numbers.standbyLagBytes = epoch > 0 ? 0 : state.endLSN - min(state.endLSN, copied)
    }
    if epoch == 0 {
      numbers.standbyLagSeconds = Double(now - caughtUp.load(ordering: .relaxed)) / 1e9
    }
    return numbers
  }
}
