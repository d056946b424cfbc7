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

  /// What a start may find besides a full disk.
  enum Beside: CaseIterable {
    case nothing, kill, otherRetention, harmedCheckpoint, checkpointUnderWay
  }

  /// A disk on which nothing at all can be written, also where bytes are already: a start serves what is there,
  /// refuses changes, and takes them once there is room.
  @Test(arguments: Beside.allCases) func aStartOnAFullDisk(beside: Beside) throws {
    var limits = crampedLimits()
    limits.itemsMax = 200
    let it = try JournaledStore(limits, seed: 9)
    for _ in 0..<6000 { try it.command() }
    try it.settle()
    let before = it.digest
    if beside != .kill { try it.store.closeJournal() }
    var files = it.storage.files
    let checkpoints = files.keys.filter { $0.hasPrefix("checkpoint-") }.sorted()
    #expect(checkpoints.count == 2)
    if beside == .harmedCheckpoint { files[checkpoints[1]]?[100] ^= 1 }
    if beside == .checkpointUnderWay { files["checkpoint.tmp"] = [1, 2, 3] }
    let disk = SimulatedStorage(files: files, random: SeededRandom(seed: 1))
    disk.refusesWrites = true
    disk.bytesMax = 0
    if beside == .otherRetention { limits.retentionNanoseconds /= 2 }
    let (store, summary) = try JournaledStore.open(disk, limits, it.options, it.clock)
    if beside != .otherRetention { #expect(summary.digest == before) }
    let session = store.makeSession()
    func adjust(_ key: String) -> Refusal? {
      _ = session.beginTurn()
      defer { session.endTurn() }
      return session.adjust(key, "s1", .delta(1)).refusal
    }
    for number in 0..<20 {
      guard case .unavailable(.noSpace)? = adjust("full-\(number)") else {
        Issue.record("a change was taken")
        return
      }
      _ = try store.stepJournal()
      _ = try store.stepMaintenance()
    }
    disk.refusesWrites = false
    disk.bytesMax = .max
    for _ in 0..<10_000 where try store.stepJournal() || store.stepMaintenance() {}
    #expect(adjust("room") == nil)
    #expect(store.audit() == [])
    try store.closeJournal()
    #expect(disk.files.keys.count { $0.hasPrefix("checkpoint-") } <= 2)
    _ = try StockStore.verify(storage: disk)
  }

  /// What fails while the journal is being closed is told.
  @Test func aFailureAtTheEndIsTold() throws {
    let it = try JournaledStore(crampedLimits(), seed: 4)
    for _ in 0..<50 { try it.command() }
    it.storage.plan = FaultPlan(calls: 1, fault: .error)
    #expect(throws: JournalError.self) { try it.store.closeJournal() }
  }
}
