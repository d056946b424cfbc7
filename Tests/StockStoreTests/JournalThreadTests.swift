import Posix
import Simulation
import Testing

@testable import StockStore

/// What the journal's two threads decide: when a group is large enough, and what a full disk needs.
@Suite struct JournalThreadTests {
  /// Segments cannot be made, but a checkpoint has room: it frees the old ones, and changes go on.
  @Test func aCheckpointMakesRoomOnAFullDisk() throws {
    var options = testOptions()
    options.checkpointSegments = 1000
    let it = try JournaledStore(crampedLimits(), seed: 3, options: options)
    while try it.store.stepMaintenance() {}
    let journal = try #require(it.store.journal)
    // Room for a checkpoint of this small store, not for one more segment.
    let bytes = it.storage.files.values.reduce(0) { $0 + $1.count }
    it.storage.bytesMax = bytes + 48 << 10
    for _ in 0..<20_000 { try it.command() }
    #expect(it.store.journalStatistics?.outOfSpace ?? 0 > 0)
    #expect(it.store.journalStatistics?.checkpoints ?? 0 > 3)
    #expect(journal.writer.position.sequence > 5)
    #expect(it.store.core.log.isAdmitting && it.store.audit() == [])
    let before = it.digest
    try it.settle()
    try it.restart()
    #expect(it.digest == before)
  }

  /// A write to a segment that is ready finds no room: nothing is told, changes are refused, and once there
  /// is room all of it is written again.
  @Test(arguments: 1...8) func aWriteWithoutRoomIsTriedAgain(seed: Int) throws {
    let it = try JournaledStore(crampedLimits(), seed: UInt64(seed))
    for _ in 0..<100 { try it.command() }
    try it.settle()
    let log = it.store.core.log
    let durable = log.durable
    func adjust(_ number: Int) {
      _ = it.session.beginTurn()
      _ = it.session.adjust("room-\(number)", "s1", .delta(1))
      it.session.endTurn()
    }
    it.storage.refusesWrites = true
    for number in 0..<5 {
      // From the second on they are refused.
      adjust(number)
      let wrote = try it.store.stepJournal()
      #expect(!wrote && log.durable == durable)
      if number == 0 { #expect(it.store.waitingDecisions == 1) }
      #expect(!log.isAdmitting && log.reason == .noSpace)
      // A process that comes now finds nothing damaged.
      _ = try StockStore.verify(storage: it.copyOfFiles())
    }
    it.storage.refusesWrites = false
    try it.stepAll()
    #expect(log.isAdmitting && it.store.waitingDecisions == 0)
    adjust(5)
    try it.settle()
    let before = it.digest
    try it.restart(losingPower: true)
    #expect(it.digest == before && it.store.audit() == [])
  }

  /// Somebody alone is served at once, whatever came before: a target of 0 is reached by any record.
  @Test(arguments: [(1, 2400, 0), (1, 120, 0)]) func aLoneCallerNeverWaits(
    records: Int, bytes: UInt64, arrived: UInt64
  ) throws {
    let gathering = try Gathering(testOptions())
    gathering.wrote(records: records, bytes: bytes, arrived: arrived, nanoseconds: 1 << 40)
    // With any target that the next record does not reach, this would sleep for a millisecond, and
    // then ask again; without, it asks once.
    var asked = 0
    let last: () -> UInt64 = {
      asked += 1
      return 1040
    }
    gathering.wait(durable: 1000, last: last, isInTurn: { true })
    #expect(asked == 2)
  }

  /// A group that has not gathered in time waits for a session in its turn, and only where one is in it.
  @Test(arguments: [(9_000, true), (9_000, false), (100, true)] as [(UInt64, Bool)])
  func aSessionInItsTurnIsWaitedFor(bytes: UInt64, isInTurn: Bool) throws {
    let gathering = try Gathering(testOptions())
    gathering.wrote(records: 100, bytes: bytes, arrived: 0, nanoseconds: 1)
    var asked = 0
    let last: () -> UInt64 = { 1100 }
    gathering.wait(durable: 1000, last: last) {
      asked += 1
      // Its turn ends while the thread goes to sleep: the signal must not be lost.
      gathering.request(1100)
      return isInTurn
    }
    #expect(asked == (bytes == 100 ? 0 : 1))
    // Nor is it left over: the next sleep ends by its own signal.
    #expect(!gathering.hasSignal)
  }

  /// What fails while the journal is being closed is told.
  @Test func aFailureAtTheEndIsTold() throws {
    let it = try JournaledStore(crampedLimits(), seed: 4)
    for _ in 0..<50 { try it.command() }
    it.storage.plan = FaultPlan(calls: 1, fault: .error)
    #expect(throws: JournalError.self) { try it.store.closeJournal() }
  }
}
