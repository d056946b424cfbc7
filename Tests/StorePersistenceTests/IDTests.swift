import Bytes
import LogFixtures
import Posix
import Simulation
import Testing

@testable import Log
@testable import StockStore
@testable import StorePersistence

@Suite("Reservation ids")
struct IDTests {
  private static func text(_ id: ReservationID) -> String {
    var bytes = [UInt8](repeating: 0, count: ReservationID.textLength)
    var span = bytes.mutableSpan
    id.write(to: &span)
    return String(decoding: bytes, as: UTF8.self)
  }

  private static func id(_ text: String) -> ReservationID? {
    let bytes = Array(text.utf8)
    return ReservationID(text: bytes.span)
  }

  @Test(
    "As text and back",
    arguments: [
      (0, 0, 0, "00000000000000000000"), (0, 0, 1, "00000000000000000001"),
      (.max, .max, 1 << 36 - 1, "vvvvvvvvvvvvvvvvvvvv"),
      // As the first release wrote them: the tag has 32 bits.
      (.max, .max, 1 << 32 - 1, "1vvvvvvvvvvvvvvvvvvv"),
      (0, 0, 1 << 32 - 1, "00000000000003vvvvvv"),
      (1 << 31, 0, 0, "10000000000000000000"), (0, 0, 1 << 32, "20000000000000000000"),
      (0, 0, 1 << 35, "g0000000000000000000"), (0, 1, 0, "00000000000004000000"),
      (1, 0, 0, "0000000g000000000000"),
    ] as [(UInt32, UInt32, UInt64, String)])
  func text(slot: UInt32, generation: UInt32, tag: UInt64, text: String) {
    let id = ReservationID(slot: slot, generation: generation, tag: tag)
    #expect(Self.text(id) == text)
    #expect(Self.id(text) == id)
  }

  @Test(
    "What is none",
    arguments: ["", "0", "0000000000000000000w", "0000000000000000000A", "000000000000000000000"])
  func noID(text: String) { #expect(Self.id(text) == nil) }

  /// Opens the same files again and again, as copies of one directory.
  @Test("Each opening of the same directory gives other ids")
  func openings() throws {
    let limits = testLimits(reservations: 100)
    let clock = ManualClock()
    let original = try JournaledStore(limits, seed: 1)
    let session = original.session
    _ = session.beginTurn()
    _ = session.adjust("stock", "a", .setOnHand(1000))
    let held = try (0..<50).map { try #require(session.reserve("held\($0)", "a", 1).value).id }
    let ended = try (0..<20).map { try #require(session.reserve("ended\($0)", "a", 1).value).id }
    for id in ended { _ = session.release(id) }
    session.endTurn()
    try original.settle()
    var given = Set(held + ended)
    var generations: [UInt32: Set<UInt32>] = [:]
    let openings = 20
    for _ in 0..<openings {
      let storage = original.copyOfFiles()
      let (store, _) = try StockStore.open(
        storage: storage, limits: limits, options: testOptions(), makeClock: { _ in clock })
      let session = store.makeSession()
      _ = session.beginTurn()
      // The same calls at the same time, and as many that ended decisions make room for them.
      for number in 0..<50 {
        let hold = try #require(session.reserve("new\(number)", "a", 1).value)
        #expect(given.insert(hold.id).inserted)
        #expect(generations[hold.id.slot, default: []].insert(hold.id.generation).inserted)
        #expect(session.reservation(hold.id).value?.id == hold.id)
      }
      for id in held { #expect(session.reservation(id).value?.id == id) }
      #expect(session.reserve("held7", "a", 1).value?.id == held[7])
      session.endTurn()
    }
    #expect(given.count == 70 + 50 * openings)
  }

  @Test("Neither another key, nor another time, nor another use of the slot has the same tag")
  func tags() {
    let keys = StoreKeys(secret: SipKey(low: 1, high: 2))
    var tags: Set<UInt64> = []
    for slot in 0..<10 as Range<UInt32> {
      for generation in 0..<10 as Range<UInt32> {
        for high in 0..<10 as Range<UInt64> {
          for createdAt in 0..<10 as Range<Int64> {
            tags.insert(
              StoreKeys.idTag(
                keys.useHash(slot: slot, generation: generation),
                Identity(low: 0, high: high << 32), createdAt: createdAt))
          }
        }
      }
    }
    #expect(tags.count == 10_000)
    #expect(tags.allSatisfy { $0 > 0 && $0 < 1 << 36 })
    // Spread over all 36 bits.
    #expect(tags.reduce(0, |) == 1 << 36 - 1 && tags.reduce(.max, &) == 0)
  }

  @Test("A repair lifts the versions of items that are there, and of those to come")
  func versions() throws {
    let it = try JournaledStore(testLimits(), seed: 1)
    let session = it.session
    _ = session.beginTurn()
    let level = try #require(session.adjust("stock", "a", .setOnHand(5)).value)
    #expect(level.version == 1)
    session.endTurn()
    try it.settle()
    let storage = it.copyOfFiles()
    var versions: [UInt64] = [1]
    for _ in 0..<3 {
      let lsn = try StockStore.verify(storage: storage).lsn
      let report = try Repair.truncate(storage: storage, at: lsn)
      #expect(report.decisions == 0 && (1 << 32..<1 << 33).contains(report.versionLift))
      let (store, _) = try StockStore.open(
        storage: storage, limits: testLimits(), options: testOptions(), makeClock: { _ in it.clock }
      )
      let session = store.makeSession()
      _ = session.beginTurn()
      let adjusted = try #require(session.adjust("n\(versions.count)", "a", .delta(1)).value)
      #expect(adjusted.version == versions[versions.count - 1] + report.versionLift + 1)
      versions.append(adjusted.version)
      // A new item begins above what a lost one of its name may have had.
      let made = try #require(
        session.adjust("m\(versions.count)", "b\(versions.count)", .delta(1)).value)
      #expect(made.version > UInt64(versions.count - 1) << 32)
      #expect(
        session.adjust("x\(versions.count)", "a", .delta(1)).value?.version == adjusted.version + 1)
      versions[versions.count - 1] += 1
      session.endTurn()
      try store.closeJournal()
    }
  }
}
