import Bytes
import LogFixtures
import Posix
import Simulation
import Testing

@testable import Log
@testable import StockStore
@testable import StorePersistence

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
    #expect(journal.log.position.sequence > 5)
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

  /// What fails while the journal is being closed is told.
  @Test func aFailureAtTheEndIsTold() throws {
    let it = try JournaledStore(crampedLimits(), seed: 4)
    for _ in 0..<50 { try it.command() }
    it.storage.plan = FaultPlan(calls: 1, fault: .error)
    #expect(throws: JournalError.self) { try it.store.closeJournal() }
  }
}
