// A machine that follows a log in a scripted engine, and owns it.
import Log
import LogFixtures
import Posix
import Synchronization
import Testing

@testable import Simulation
@testable import StockStore
@testable import StorePersistence

/// Set once, and seen by other threads.
final class Flag: Sendable {
  private let value = Atomic<Bool>(false)
  var isSet: Bool { value.load(ordering: .acquiring) }
  func set() { value.store(true, ordering: .releasing) }
}

final class Machine {
  static let options = JournalOptions(
    durability: .quorum, segmentBytes: 4096 * 8, ringBytes: 1 << 15, groupBytesMax: 1 << 13,
    spareSegments: 2, checkpointSegments: 2)
  static let skus = ["a", "b", "c", "d"]

  let name: String
  let engine: ScriptedEngine
  let log: EngineLog<ScriptedEngine>
  let clock: ManualClock
  var storage: MemoryStorage
  let reads = StandbyReads()
  private(set) var reports: [String] = []
  private(set) var follower: Follower?
  private(set) var store: StockStore?
  private(set) var session: StoreSession?
  private var lastNumber: Int64 = 0
  private var reader: (store: StockStore, session: StoreSession)?

  init(
    _ number: UInt64, _ server: EngineServer, clock: ManualClock,
    storage: MemoryStorage = MemoryStorage()
  ) {
    name = "machine \(number)"
    engine = ScriptedEngine(server, machine: number)
    log = EngineLog(engine: engine, options: EngineOptions())
    self.clock = clock
    self.storage = storage
    follow()
  }

  /// A process begins.
  func follow() {
    (session, store, follower) = (nil, nil, nil)
    var setup = Follower.Setup(
      limits: testLimits(items: 64, reservations: 4000), concurrency: .optimistic,
      options: Self.options, makeClock: { [clock] _ in clock },
      report: { [unowned self] in reports.append($0) }, reads: reads)
    setup.secret = (1, 2)
    follower = Follower(storage: storage, log: log, setup: setup)
  }

  /// What a server does with an engine that does not answer: it tries again.
  func patiently<Result>(_ body: () throws(JournalError) -> Result) throws(JournalError) -> Result {
    var triesLeft = 20
    while true {
      do throws(JournalError) {
        return try body()
      } catch .unreachable(let reason) {
        triesLeft -= 1
        if triesLeft == 0 { throw .unreachable(reason) }
      } catch {
        throw error
      }
    }
  }

  /// Reads on until there is nothing new.
  func readOn() throws(JournalError) {
    guard let follower else { return }
    while try patiently({ () throws(JournalError) in try follower.step() }) {}
  }

  func take() throws(JournalError) -> LogState {
    for _ in 0..<20 {
      let taken = try patiently { () throws(JournalError) in
        try log.take(after: log.state(), owner: name, address: "\(name):1")
      }
      if let taken { return taken }
    }
    throw .unreachable("nobody can take it")
  }

  /// Takes the log and becomes its owner.
  func own() throws(JournalError) {
    for _ in 0..<5 {
      try readOn()
      let taken = try take()
      do throws(JournalError) {
        try takeOver(taken)
        return
      } catch .unreachable where !taken.hasBegun {
        // As a server that is started again.
        follow()
      } catch {
        throw error
      }
    }
    throw .unreachable("it does not begin")
  }

  func takeOver(_ taken: LogState) throws(JournalError) {
    guard let follower else { return }
    let opened =
      taken.hasBegun
      ? try patiently { () throws(JournalError) in try follower.takeOver(taken).store }
      : try follower.takeOver(taken).store
    self.follower = nil
    (store, session) = (opened, opened.makeSession())
  }

  /// Makes one decision for each of `skus`, `count` times, each with a number of its own, and waits for the log.
  func decide(_ count: Int) throws {
    let session = try #require(session)
    for _ in 0..<count {
      _ = session.beginTurn()
      lastNumber += 1
      let sku = Self.skus[Int(lastNumber) % Self.skus.count]
      func tryOnce() -> Bool {
        session.adjust(
          "key \(name) \(lastNumber)", sku, .setOnHand(lastNumber),
          reason: String(repeating: "x", count: 450)
        ).value != nil
      }
      var isDecided = tryOnce()
      session.endTurn()
      // The journal is full until it is written.
      if !isDecided {
        try settle()
        _ = session.beginTurn()
        isDecided = tryOnce()
        session.endTurn()
      }
      #expect(isDecided)
    }
    try settle()
  }

  /// All that is left to do for the journal.
  func settle() throws {
    let store = try #require(store)
    repeat { while try store.stepJournal() {} } while try store.stepMaintenance()
  }

  /// The answers of `decide` are given again.
  func expectAnswers(of other: Machine) throws {
    let session = try #require(session)
    _ = session.beginTurn()
    defer { session.endTurn() }
    for number in 1...max(1, other.lastNumber) {
      let decision = session.adjust(
        "key \(other.name) \(number)", Self.skus[Int(number) % Self.skus.count],
        .setOnHand(number), reason: String(repeating: "x", count: 450))
      #expect(decision.replayed && decision.value?.onHand == number, "\(number): \(decision)")
    }
  }

  var levels: [Int64?] {
    get throws {
      let session = try #require(session)
      _ = session.beginTurn()
      defer { session.endTurn() }
      return Self.skus.map { session.level($0)?.onHand }
    }
  }

  /// What a reader of the copy sees, and where it stands; nil: nothing is shown.
  var shown: (levels: [Int64?], lsn: UInt64)? {
    var seen: ([Int64?], UInt64)?
    let isShown = reads.read { store, moment in
      if reader?.store !== store { reader = (store, store.makeSession()) }
      guard let session = reader?.session else { return }
      session.beginReading()
      seen = (Self.skus.map { session.level($0)?.onHand }, moment.lsn)
      session.endTurn()
    }
    #expect(isShown == (seen != nil) && isShown == reads.isShown)
    return seen
  }
}
