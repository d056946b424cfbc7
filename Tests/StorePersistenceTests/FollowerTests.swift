// What a copy of a log does with an engine that fails, forgets, and lies.
import Log
import LogFixtures
import Posix
import Testing

@testable import Simulation
@testable import StockStore
@testable import StorePersistence

@Suite("A standby's copy")
struct FollowerTests {
  private let server = ScriptedEngine.makeServer()
  private let clock = ManualClock()

  private func machine(_ number: UInt64, _ storage: MemoryStorage = MemoryStorage()) -> Machine {
    Machine(number, server, clock: clock, storage: storage)
  }

  /// An owner with a log of some segments, of which the older are trimmed.
  private func owner() throws -> Machine {
    let owner = machine(1)
    try owner.own()
    try owner.decide(10)
    return owner
  }

  /// Fills segments until the owner has a new checkpoint, and brings that to the engine.
  private func carry(_ owner: Machine) throws {
    let before = try owner.log.checkpoints().last?.lsn ?? 0
    for _ in 0..<40 where try DirectoryListing(owner.storage).checkpoints.last ?? 0 <= before {
      try owner.decide(30)
    }
    let carrier = try CheckpointCarrier(owner.log, from: owner.storage, interval: .max / 4)
    defer { carrier.stop() }
    try carrier.step()
    #expect(try owner.log.checkpoints().last?.lsn ?? 0 > before)
  }

  // MARK: Calls that fail

  /// Two owners one after the other, with all that they do to the engine.
  /// - Returns: how many calls each has made.
  private func run(
    _ failures: [(machine: Int, call: Int, failure: ScriptedEngine.Failure)]
  ) throws -> [Int] {
    let server = ScriptedEngine.makeServer()
    let machines = (0...1).map { Machine(UInt64($0 + 1), server, clock: clock) }
    for each in failures { machines[each.machine].engine.failures[each.call] = each.failure }
    let (first, second) = (machines[0], machines[1])
    try first.own()
    try first.decide(40)
    try second.readOn()
    try first.decide(70)
    let carrier = try CheckpointCarrier(first.log, from: first.storage, interval: .max / 4)
    try first.patiently { () throws(JournalError) in try carrier.step() }
    carrier.stop()
    try first.log.beat(epoch: #require(first.store?.journal?.log.epoch))
    try second.readOn()
    try second.patiently { () throws(JournalError) in try second.follower?.takeCheckpoint {} }
    #expect(second.shown?.levels == (try first.levels))
    let epoch = try #require(first.store?.journal?.log.epoch)
    try first.patiently { () throws(JournalError) in try first.log.release(epoch: epoch) }
    #expect(first.log.leaseEnd == .min)
    try second.own()
    #expect(second.shown == nil)
    #expect(try second.levels == first.levels)
    try second.expectAnswers(of: first)
    try second.decide(3)
    try second.expectAnswers(of: second)
    return machines.map(\.engine.calls)
  }

  @Test("Whichever call of an owner or a standby fails, nothing is lost")
  func everyCall() throws {
    let calls = try run([])
    #expect(calls.allSatisfy { $0 > 10 }, "\(calls)")
    for (machine, count) in calls.enumerated() {
      for call in 1...count {
        for failure in ScriptedEngine.Failure.allCases {
          do {
            _ = try run([(machine, call, failure)])
          } catch {
            Issue.record("machine \(machine), call \(call), \(failure): \(error)")
          }
        }
      }
    }
  }

  // MARK: Another log than was read

  @Test("What was read and taken back is set aside, and the copy made anew")
  func takenBack() throws {
    let (owner, standby) = (try owner(), machine(2))
    try standby.readOn()
    try carry(owner)
    let before = server.tables
    try owner.decide(5)
    try standby.readOn()
    let phantom = try #require(standby.shown)
    // A failover: the batch is gone, and another one comes to its place.
    server.tables = before
    let next = machine(3)
    try next.own()
    try next.decide(3)
    try standby.readOn()
    #expect(standby.follower?.copiesMadeAnew == 1)
    #expect(standby.reports.count == 1 && standby.reports[0].contains("taken back"))
    #expect(try standby.shown?.levels == next.levels && standby.shown?.levels != phantom.levels)
    let aside = try standby.storage.names().filter { $0.hasPrefix(FileNames.asidePrefix) }
    #expect(!aside.isEmpty)
    try standby.own()
    try standby.expectAnswers(of: next)
  }

  @Test("The tail that was taken back is found at a takeover, too, where nothing came to its place")
  func phantomTail() throws {
    let (owner, standby) = (try owner(), machine(2))
    let before = server.tables
    try owner.decide(1)
    try standby.readOn()
    server.tables = before
    try standby.own()
    #expect(standby.reports.count == 1)
    #expect(try standby.levels[1] == 9)
  }

  @Test("A copy that is too old is made anew of a checkpoint")
  func trimmed() throws {
    let (owner, standby) = (try owner(), machine(2))
    try standby.readOn()
    for _ in 0..<3 { try carry(owner) }
    #expect(server.tables.row.trimmedLSN > 0)
    try standby.readOn()
    #expect(standby.reports.count == 1 && standby.reports[0].contains("too old"))
    #expect(try standby.shown?.levels == owner.levels)
    #expect(try !standby.storage.names().contains { $0.hasPrefix(FileNames.asidePrefix) })
    // One that begins late begins so.
    let late = machine(4)
    try late.readOn()
    #expect(late.reports.isEmpty)
    #expect(try late.shown?.levels == owner.levels)
  }

  @Test("A copy that its disk has harmed is made anew", arguments: ["checkpoint-", "journal-"])
  func harmedCopy(kind: String) throws {
    let (owner, standby) = (try owner(), machine(2))
    try carry(owner)
    try standby.readOn()
    let storage = standby.storage
    for name in try storage.names() where name.hasPrefix(kind) {
      for offset in stride(from: 200, to: 8000, by: 400) {
        guard let file = storage.file(name), file.bytes.count > offset else { continue }
        file.flip(bit: 3, at: offset)
      }
    }
    standby.follow()
    #expect(standby.shown == nil)
    try standby.readOn()
    #expect(try standby.shown?.levels == owner.levels)
    try standby.own()
    try standby.expectAnswers(of: owner)
  }

  // MARK: Directories

  @Test("A directory of its own is not given up for a log")
  func ownStore() throws {
    let other = Machine(9, ScriptedEngine.makeServer(), clock: clock)
    try other.own()
    try other.storage.remove(FileNames.copy)
    _ = try owner()
    let standby = machine(2, other.storage)
    #expect(throws: JournalError.self) { try standby.readOn() }
    expectUnsuitable("a store of its own") { () throws(JournalError) in try standby.readOn() }
  }

  @Test("A directory that was about to begin a log begins no other, and follows none")
  func begunHalfway() throws {
    let first = machine(1)
    // Its call to begin is lost, and so is the server.
    let calls = try countCalls { try $0.own() }
    for call in 1...calls { first.engine.failures[call] = nil }
    let taken = try first.take()
    for call in first.engine.calls + 1...first.engine.calls + 40 {
      first.engine.failures[call] = .lost
    }
    #expect(throws: JournalError.self) { try first.takeOver(taken) }
    #expect(try CopyMark.read(first.storage) == .beginning)
    let other = machine(2)
    try other.own()
    first.engine.failures = [:]
    first.follow()
    expectUnsuitable("cut short") { () throws(JournalError) in try first.readOn() }
  }

  /// Calls that `body` makes on a machine of an engine of its own.
  private func countCalls(_ body: (Machine) throws -> Void) rethrows -> Int {
    let machine = Machine(1, ScriptedEngine.makeServer(), clock: clock)
    try body(machine)
    return machine.engine.calls
  }

  @Test("A copy does not begin a log in an engine that has none")
  func anotherEngine() throws {
    let owner = try owner()
    let elsewhere = Machine(3, ScriptedEngine.makeServer(), clock: clock, storage: owner.storage)
    try elsewhere.readOn()
    let taken = try elsewhere.take()
    expectUnsuitable("it has lost all") { () throws(JournalError) in
      try elsewhere.takeOver(taken)
    }
  }

  private func expectUnsuitable(_ words: String, _ body: () throws(JournalError) -> Void) {
    do throws(JournalError) {
      try body()
      Issue.record("nothing was wrong")
    } catch .unsuitable(let text) {
      #expect(text.contains(words))
    } catch {
      Issue.record("\(error)")
    }
  }

  private func expectLost(_ words: String, _ body: () throws(JournalError) -> Void) {
    do throws(JournalError) {
      try body()
      Issue.record("nothing was wrong")
    } catch .lost(let text) {
      #expect(text.contains(words))
    } catch {
      Issue.record("\(error)")
    }
  }

  // MARK: Taking over

  @Test("Who takes the log over while somebody else takes it is fenced")
  func fenced() throws {
    let (_, first, second) = (try owner(), machine(2), machine(3))
    try first.readOn()
    let taken = try first.take()
    try second.own()
    #expect(throws: JournalError.fenced(by: taken.epoch + 1)) { try first.takeOver(taken) }
  }

  @Test("An owner that was deposed appends nothing more")
  func deposed() throws {
    let (owner, other) = (try owner(), machine(2))
    try other.own()
    let epoch = try #require(other.store?.journal?.log.epoch)
    #expect(throws: JournalError.fenced(by: epoch)) { try owner.decide(1) }
    #expect(try other.log.state().epoch == epoch)
  }

  @Test("An engine whose epochs have gone back is refused")
  func epochsGoBack() throws {
    let (owner, standby) = (machine(1), machine(2))
    for _ in 0..<3 { _ = try owner.take() }
    try owner.own()
    try owner.decide(1)
    try standby.readOn()
    server.tables.row.epoch = 0
    expectLost("not above") { () throws(JournalError) in
      try standby.takeOver(standby.take())
    }
  }

  // MARK: What the engine's tables may hold

  @Test("A log without a checkpoint is lost")
  func noCheckpoint() throws {
    _ = try owner()
    server.tables.checkpoints = [:]
    let standby = machine(2)
    expectLost("no checkpoint") { () throws(JournalError) in try standby.readOn() }
  }

  private typealias Harm = (name: String, harm: @Sendable (inout StoredCheckpoint) -> Void)
  private static let harmedCheckpoints: [Harm] = [
    ("no parts", { $0.parts = [:] }),
    ("no parts, and says so", { ($0.parts, $0.count) = ([:], 0) }),
    ("more parts than there are", { $0.count = 9 }),
    ("more parts than anybody has", { $0.count = .max }),
    ("an empty part", { $0.parts[0] = [] }),
    ("half a header", { $0.parts[0] = $0.parts[0].map { Array($0.prefix(40)) } }),
    ("cut off", { $0.parts[0]?.removeLast(9) }),
    ("something behind it", { $0.parts[0]? += [1, 2] }),
    ("a harmed header", { $0.parts[0]?[20] ^= 1 }),
    (
      "a harmed end",
      { stored in
        let count = stored.parts[0]?.count ?? 1
        stored.parts[0]?[count - 5] ^= 1
      }
    ),
    ("nothing but zeros", { $0.parts[0] = [UInt8](repeating: 0, count: 8192) }),
    ("nothing but ones", { $0.parts[0] = [UInt8](repeating: 255, count: 8192) }),
  ]

  @Test("A checkpoint that is none is told, and tried again", arguments: harmedCheckpoints.indices)
  func harmedCheckpoint(index: Int) throws {
    let (name, harm) = Self.harmedCheckpoints[index]
    let owner = try owner()
    try carry(owner)
    let standby = machine(2)
    let newest = try #require(server.tables.complete.last)
    let before = try #require(server.tables.checkpoints[newest.name])
    var harmed = before
    harm(&harmed)
    server.tables.checkpoints[newest.name] = harmed
    if name.hasPrefix("more parts") || name == "no parts" {
      expectLost("has not part") { () throws(JournalError) in try standby.readOn() }
    } else {
      expectLost("cannot be read") { () throws(JournalError) in try standby.readOn() }
    }
    #expect(standby.shown == nil)
    server.tables.checkpoints[newest.name] = before
    try standby.readOn()
    #expect(try standby.shown?.levels == owner.levels)
  }

  private typealias BatchHarm = (name: String, harm: @Sendable (inout StoredBatch) -> Void)
  private static let harmedBatches: [BatchHarm] = [
    ("another place", { $0.lsn &+= 8 }), ("the last place", { $0.lsn = .max }),
    ("another length", { $0.byteCount += 8 }), ("a length below zero", { $0.byteCount = -8 }),
    ("the longest", { $0.byteCount = .max }), ("another epoch", { $0.epoch += 1 }),
    ("the last epoch", { $0.epoch = .max }), ("no segment", { $0.sequence = 0 }),
    ("the last segment", { $0.sequence = .max }), ("an offset that is none", { $0.offset = .min }),
    ("another mark", { $0.mark &+= 1 }), ("nothing", { $0.bytes = [] }),
    ("half a header", { $0.bytes = Array($0.bytes.prefix(20)) }),
    ("less than it says", { $0.bytes.removeLast(8) }),
    ("more than any group", { $0.bytes += [UInt8](repeating: 0, count: 1 << 20) }),
    ("a harmed header", { $0.bytes[17] ^= 1 }), ("harmed records", { $0.bytes[60] ^= 1 }),
    ("nothing but ones", { $0.bytes = [UInt8](repeating: 255, count: $0.bytes.count) }),
  ]

  @Test(
    "A batch that is none is not applied, and the log goes on when it is whole again",
    arguments: harmedBatches.indices)
  func harmedBatch(index: Int) throws {
    let (owner, standby) = (try owner(), machine(2))
    try standby.readOn()
    let before = try #require(standby.shown)
    try owner.decide(4)
    let first = before.lsn
    standby.engine.harm = { batch in
      if batch.lsn >= first { Self.harmedBatches[index].harm(&batch) }
    }
    // It may be a primary of the past: a new copy is made a few times before that is taken for a loss.
    var failure: JournalError?
    for _ in 0..<30 where failure == nil {
      do throws(JournalError) {
        _ = try standby.follower?.step()
      } catch {
        failure = error
      }
    }
    switch failure {
    case nil, .lost, .takenBack, .unreachable: break
    case let other?: Issue.record("\(other)")
    }
    #expect(standby.shown == nil || standby.shown?.levels == before.levels)
    standby.engine.harm = { _ in }
    if case .lost = failure { standby.follow() }
    try standby.readOn()
    #expect(try standby.shown?.levels == owner.levels)
    try standby.own()
    try standby.expectAnswers(of: owner)
  }

  // MARK: What is shown

  @Test("A copy is shown once it has caught up, and until it is given up")
  func shown() throws {
    let (owner, standby) = (try owner(), machine(2))
    #expect(standby.shown == nil)
    #expect(try standby.follower?.step() == true)
    // What the log had then is not in it yet.
    #expect(standby.shown == nil)
    try standby.readOn()
    var last = try #require(standby.shown).lsn
    for _ in 0..<5 {
      try owner.decide(3)
      #expect(standby.shown?.lsn == last)
      try standby.readOn()
      let next = try #require(standby.shown)
      #expect(try next.lsn > last && next.levels == owner.levels)
      last = next.lsn
    }
    standby.follow()
    #expect(standby.shown == nil)
    try standby.readOn()
    #expect(standby.shown?.lsn == last)
    try standby.own()
    #expect(standby.shown == nil)
  }

  @Test("Who reads while batches are applied sees none of them by halves")
  func noTornReads() throws {
    let (owner, standby) = (try owner(), machine(2))
    let session = try #require(owner.session)
    let reads = standby.reads
    let (hasEnded, seen) = (Flag(), Flag())
    try standby.readOn()
    let reader = try Posix.Thread(name: "reader") {
      var known: (store: StockStore, session: StoreSession)?
      while !hasEnded.isSet {
        _ = reads.read { store, _ in
          if known?.store !== store { known = (store, store.makeSession()) }
          guard let session = known?.session else { return }
          session.beginReading()
          // Each decision holds as much of one as of the other.
          let held = ["a", "b"].map { session.level($0)?.held ?? 0 }
          session.endTurn()
          if held[0] != held[1] { Issue.record("\(held)") }
          if held[0] > 0 { seen.set() }
        }
      }
    }
    defer {
      hasEnded.set()
      reader.join()
    }
    for round in 0..<200 {
      _ = session.beginTurn()
      _ = session.adjust("more \(round)", "a", .delta(10))
      _ = session.adjust("more too \(round)", "b", .delta(10))
      for number in 0..<8 {
        let decision = session.reserve(
          "cart \(round) \(number)",
          [TestLine(sku: "a", quantity: 1), TestLine(sku: "b", quantity: 1)])
        #expect(decision.value != nil)
      }
      session.endTurn()
      try owner.settle()
      try standby.readOn()
    }
    #expect(standby.shown != nil && seen.isSet)
    // The tables become a store while somebody reads them.
    try standby.own()
    #expect(standby.shown == nil)
    try standby.expectAnswers(of: owner)
  }
}
