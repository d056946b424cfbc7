// A machine with the real store: a copy of the log in a directory on a simulated disk (Follower, DirectoryLog), the
// tables that it comes to, and the owner's journal and checkpoints.
internal import Log
internal import Posix
internal import StockStore
internal import StorePersistence

/// The wall clock of a machine, as far off as it likes.
private final class WallClock: Clock, @unchecked Sendable {
  private let cluster: EngineCluster
  private let offset: Int64
  private let notBefore: Int64

  init(_ cluster: EngineCluster, offset: Int64, notBefore: Timestamp) {
    self.cluster = cluster
    self.offset = offset
    self.notBefore = notBefore.nanoseconds
  }

  func now() -> Timestamp { Timestamp(nanoseconds: max(notBefore, cluster.now + offset)) }
}

final class StoreNode: SimulatedNode {
  private enum Role {
    case follower
    case owner(epoch: UInt32)
    /// Until then, of true time.
    case down(until: Int64)
  }

  static let skus = ["a", "b", "c", "d"]

  private let number: Int
  private unowned let run: StoreRun
  private let clock: (offset: Int64, rate: Double)
  private var cluster: EngineCluster { run.cluster }
  private(set) var name = ""
  private var role = Role.down(until: 0)
  private var engine: SimulatedEngine
  private var log: EngineLog<SimulatedEngine>
  private var storage: SimulatedStorage
  private var follower: Follower?
  private let reads = StandbyReads()
  /// Of the copy that is shown.
  private var reader: (store: StockStore, session: StoreSession)?
  private var store: StockStore?
  private var session: StoreSession?
  private var carrier: CheckpointCarrier?
  private var watch: OwnerWatch
  /// A call of its is under way; so is the carrier's.
  private var isBusy = false
  private var isCarrying = false
  /// Decided, and not durable yet: in the order of the log.
  private var waiting: [(command: StoreRun.Command, lsn: UInt64)] = []

  init(_ number: Int, _ run: StoreRun, clock: (offset: Int64, rate: Double)) {
    self.number = number
    self.run = run
    self.clock = clock
    storage = SimulatedStorage(random: run.cluster.random.split())
    engine = SimulatedEngine(run.cluster, node: number, options: run.options, clock: clock)
    log = EngineLog(engine: engine, options: run.options)
    watch = OwnerWatch(lease: run.options.leaseNanoseconds)
  }

  private func tell(_ text: @autoclosure () -> String) { cluster.tell("\(name): \(text())") }

  private func start() {
    let (incarnation, options) = run.troubles.nextIncarnation()
    name = "node \(number).\(incarnation)"
    engine = SimulatedEngine(cluster, node: number, options: options, clock: clock)
    log = EngineLog(engine: engine, options: options)
    watch = OwnerWatch(lease: options.leaseNanoseconds, fault: options.fault)
    // Its disk may be gone with it.
    storage =
      cluster.random.chance(30)
      ? SimulatedStorage(random: cluster.random.split())
      : storage.restart(losingPower: cluster.random.chance(30))
    let offset = clock.offset &* 7 % (86_400 * 1_000_000_000) + 1_700_000_000_000_000_000
    var setup = Follower.Setup(
      limits: testLimits(items: 8, reservations: 4000), concurrency: .optimistic,
      options: run.journal,
      makeClock: { [cluster] notBefore in
        WallClock(cluster, offset: offset, notBefore: notBefore)
      },
      report: { [weak self] text in
        self?.tell(text)
        self?.cluster.counts[.madeAnew] += 1
      }, reads: reads)
    setup.secret = (cluster.random.next(), cluster.random.next())
    setup.nonce = cluster.random.next()
    follower = Follower(storage: storage, log: log, setup: setup)
    role = .follower
  }

  private func end(_ why: String) {
    tell(why)
    cluster.counts[.doubts] += Int(log.doubts)
    log.close()
    carrier?.stop()
    (follower, store, session, carrier, reader) = (nil, nil, nil, nil, nil)
    waiting = []
    role = .down(until: cluster.now + cluster.random.number(10...3_000) * EngineCluster.millisecond)
  }

  /// Is killed, also in the middle of a call.
  func crash() {
    if case .down = role { return }
    cluster.counts[.crashes] += 1
    end("is killed")
  }

  private var isDown: Bool { if case .down = role { true } else { false } }

  func step() {
    guard !isBusy else { return }
    isBusy = true
    defer { isBusy = false }
    do throws(JournalError) {
      switch role {
      case .down(let until): if cluster.now >= until, !isCarrying { start() }
      case .follower: try follow()
      case .owner(let epoch): try own(epoch)
      }
    } catch .unreachable {
      // Tried again; an owner's journal does not go on behind it.
      if case .owner = role { end("its journal has failed") }
    } catch .fenced(let epoch) {
      if epoch > cluster.highestEpoch {
        run.found(
          "fenced is who meets a later epoch", "\(name) is fenced by \(epoch), and there is none")
      }
      cluster.counts[.fenced] += 1
      end("is fenced by epoch \(epoch)")
    } catch {
      if isDown { return }
      if case .follower = role {
        cluster.counts[.gaveUp] += 1
        return end("gives up: \(error)")
      }
      run.found("nothing is lost or changed", "\(name): \(error)")
    }
  }

  // MARK: Following

  private func follow() throws(JournalError) {
    watch.note(try log.state(), at: engine.now())
    guard let follower else { return }
    while try follower.step(), cluster.random.chance(50) {}
    if cluster.random.chance(5) { try follower.takeCheckpoint {} }
    guard let seen = watch.seen, watch.isOver(engine.now()) else { return }
    guard let taken = try log.take(after: seen, owner: name, address: "") else {
      cluster.counts[.takesFailed] += 1
      return
    }
    cluster.counts[.takes] += 1
    tell("has taken the log: epoch \(taken.epoch), end \(taken.endLSN)")
    let certain = run.certain
    var opened: StockStore?
    while opened == nil {
      if isDown { return }
      do throws(JournalError) {
        opened = try follower.takeOver(taken).store
      } catch .unreachable(let reason) {
        if isDown || !taken.hasBegun { return end("could not begin: \(reason)") }
      } catch {
        throw error
      }
    }
    guard let store = opened, !isDown else { return }
    self.follower = nil
    let session = store.makeSession()
    (self.store, self.session) = (store, session)
    role = .owner(epoch: store.journal?.log.epoch ?? taken.epoch)
    carrier = try? CheckpointCarrier(log, from: storage, interval: .max / 4)
    tell("serves from \(session.lastLSN) on")
    run.tookOver(session, certain, name)
  }

  // MARK: Owning

  private func own(_ epoch: UInt32) throws(JournalError) {
    guard let store, let session else { return }
    for _ in 0..<cluster.random.number(0...8) { decide(session) }
    switch cluster.random.number(0...99) {
    case ..<70:
      while try store.stepJournal(), !isDown { show(session) }
    case ..<85: try log.beat(epoch: epoch)
    case ..<88 where session.durableLSN == session.lastLSN:
      cluster.counts[.released] += 1
      try log.release(epoch: epoch)
      return end("has given the log up")
    default: break
    }
    if isDown { return }
    for _ in 0..<cluster.random.number(0...6) where !isCarrying {
      if try !store.stepMaintenance() { break }
    }
  }

  private func decide(_ session: StoreSession) {
    let command = run.nextCommand(sku: cluster.random.pick(Self.skus))
    _ = session.beginTurn()
    let decision = session.adjust(
      command.key, command.sku, .setOnHand(command.number), reason: command.reason)
    session.endTurn()
    if decision.value != nil { waiting.append((command, decision.lsn)) }
  }

  /// What is durable is answered.
  private func show(_ session: StoreSession) {
    while let first = waiting.first, first.lsn <= session.durableLSN {
      waiting.removeFirst()
      cluster.counts[.appends] += 1
      run.answered(first.command, lsn: first.lsn, name)
    }
  }

  /// Somebody asks for a level, also while an append waits.
  func read() {
    guard case .owner = role, let session else { return readStale() }
    let leaseEnd = log.leaseEnd
    guard leaseEnd != .min, engine.now() < leaseEnd else {
      cluster.counts[.readsRefused] += 1
      return
    }
    let sku = cluster.random.pick(Self.skus)
    _ = session.beginTurn()
    let onHand = session.level(sku)?.onHand ?? 0
    session.endTurn()
    cluster.counts[.reads] += 1
    // An answer waits until all that it may have seen is durable.
    run.wasRead(sku, onHand, isShown: session.lastLSN <= session.durableLSN, name)
  }

  /// A standby shows a place in the log, also while it reads on.
  private func readStale() {
    _ = reads.read { store, moment in
      if reader?.store !== store { reader = (store, store.makeSession()) }
      guard let session = reader?.session else { return }
      session.beginReading()
      for sku in Self.skus {
        run.wasReadStale(sku, session.level(sku)?.onHand ?? 0, at: moment.lsn, name)
      }
      session.endTurn()
      cluster.counts[.staleReads] += 1
    }
  }

  func carry() {
    guard case .owner = role, let carrier, !isCarrying else { return }
    isCarrying = true
    defer { isCarrying = false }
    let before = carrier.newestCarried
    do throws(JournalError) {
      try carrier.step()
      if carrier.newestCarried > before { cluster.counts[.checkpoints] += 1 }
    } catch {
      cluster.counts[.checkpointsFailed] += 1
    }
  }
}
