import Bytes
import LogFixtures
import Posix
import Simulation
import Testing

@testable import Log
@testable import StockStore
@testable import StorePersistence

@Suite("The clock of an opening")
struct OpeningClockTests {
  private static let limits = testLimits()

  /// A directory with one hold.
  private static func directory() throws -> JournaledStore {
    let it = try JournaledStore(limits, seed: 1)
    _ = it.session.beginTurn()
    _ = it.session.adjust("stock", "a", .setOnHand(5))
    _ = it.session.reserve("hold", "a", 1)
    it.session.endTurn()
    try it.settle()
    return it
  }

  @Test("A clock that is refused ends the opening, and nothing was changed")
  func refused() throws {
    let it = try Self.directory()
    let storage = it.copyOfFiles()
    let files = storage.files
    var asked: [Timestamp] = []
    #expect(throws: JournalError.unsuitable("no")) {
      try StockStore.open(
        storage: storage, limits: Self.limits, options: testOptions(),
        makeClock: { (newest) throws(JournalError) in
          asked.append(newest)
          throw .unsuitable("no")
        })
    }
    #expect(asked == [it.clock.now().advanced(byNanoseconds: 1)])
    #expect(storage.files == files)
    #expect(try StockStore.verify(storage: storage).liveReservations == 1)
  }

  @Test("A new directory has no newest record, and none is left where its clock is refused")
  func new() throws {
    let storage = SimulatedStorage(files: [:])
    #expect(throws: JournalError.unsuitable("0")) {
      try StockStore.open(
        storage: storage, limits: Self.limits, options: testOptions(),
        makeClock: { (newest) throws(JournalError) in
          throw .unsuitable("\(newest.nanoseconds)")
        })
    }
    #expect(storage.files.isEmpty)
  }

  @Test("The time is noted where nothing else was written for long enough")
  func noted() throws {
    let it = try Self.directory()
    let minute = seconds(60)
    let before = it.session.lastLSN
    it.clock.advance(byNanoseconds: minute - 1)
    it.store.noteTime(afterNanoseconds: minute)
    #expect(it.session.lastLSN == before)
    it.clock.advance(byNanoseconds: 1)
    it.store.noteTime(afterNanoseconds: minute)
    #expect(it.session.lastLSN == before + UInt64(RecordWriter.headBytes))
    try it.stepAll()
    #expect(it.session.durableLSN == it.session.lastLSN)
    // That was written now.
    it.store.noteTime(afterNanoseconds: minute)
    #expect(it.session.lastLSN == before + UInt64(RecordWriter.headBytes))
    let summary = try StockStore.verify(storage: it.copyOfFiles())
    #expect(summary.time == it.clock.now() && summary.decisions == 2)
  }

  @Test("A full disk is no reason to note anything")
  func notedOnAFullDisk() throws {
    let it = try Self.directory()
    it.store.core.log.admit(cleared: 0, spaceEnd: 0, isDiskFull: true)
    let before = it.session.lastLSN
    it.clock.advance(byNanoseconds: seconds(1000))
    it.store.noteTime(afterNanoseconds: seconds(60))
    #expect(it.session.lastLSN == before)
  }

  @Test("In memory there is nowhere to note it")
  func inMemory() {
    let store = StockStore(limits: Self.limits, clock: ManualClock())
    store.noteTime(afterNanoseconds: 0)
    #expect(store.makeSession().lastLSN == 0)
  }
}
