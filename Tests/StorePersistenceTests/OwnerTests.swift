// Whose a hold is, who may change it, and that the journal says who did.
import Bytes
import Foundation
import LogFixtures
import Posix
import Simulation
import Testing

@testable import Log
@testable import StockStore
@testable import StorePersistence

@Suite struct OwnerTests {
  private static let shop = TestRequester("shop", ownHoldsOnly: true)

  /// A store with 100 units of `a`, in a turn.
  private func stocked() -> Fixture {
    let it = Fixture()
    _ = it.session.adjust("stock", "a", .setOnHand(100))
    return it
  }

  private func hold(
    _ session: StoreSession, _ key: String, by caller: String, ttl: Int64 = seconds(60)
  ) throws -> ReservationID {
    try #require(
      session.reserve(key, [TestLine(sku: "a", quantity: 1)], ttl: ttl, caller: caller).value?.id)
  }

  /// Confirm, release and extend by `requester` of a hold each.
  private func change(
    _ session: StoreSession, _ ids: [ReservationID], _ requester: TestRequester
  ) -> [Refusal?] {
    [
      session.confirm(ids[0], by: requester).refusal,
      session.release(ids[1], by: requester).refusal,
      session.extend(ids[2], ttl: seconds(600), by: requester).refusal,
    ]
  }

  @Test(arguments: [
    ("shop", TestRequester("shop", ownHoldsOnly: true), true),
    ("shop", TestRequester("shop2", ownHoldsOnly: true), false),
    ("shop", TestRequester("sho", ownHoldsOnly: true), false),
    ("shop", TestRequester("", ownHoldsOnly: true), false),
    ("", TestRequester("shop", ownHoldsOnly: true), false),
    // Nobody is nameless by proof.
    ("", TestRequester("", ownHoldsOnly: true), false),
    ("shop", TestRequester("other"), true), ("shop", TestRequester(""), true),
    // The same words of the hash, but for the length.
    ("a", TestRequester("aa", ownHoldsOnly: true), false),
    (
      String(repeating: "a", count: 64),
      TestRequester(String(repeating: "a", count: 63), ownHoldsOnly: true), false
    ),
    (
      String(repeating: "a", count: 64),
      TestRequester(String(repeating: "a", count: 64), ownHoldsOnly: true), true
    ),
  ])
  func whoMayChangeAHold(_ caller: String, _ requester: TestRequester, _ may: Bool) throws {
    let it = stocked()
    let ids = try (0..<3).map { try hold(it.session, "k\($0)", by: caller) }
    let refusals = change(it.session, ids, requester)
    #expect(refusals == Array(repeating: may ? nil : .notOwnHold, count: 3))
    #expect(it.session.level("a")?.held == (may ? 1 : 3))
    #expect(it.session.level("a")?.onHand == (may ? 99 : 100))
    for id in ids { #expect(it.session.reservation(id).value != nil) }
  }

  @Test func anExpiredHoldIsTakenAgainByItsOwnerAlone() throws {
    let it = stocked()
    let id = try hold(it.session, "k", by: "shop", ttl: seconds(5))
    it.advance(seconds(6))
    let other = TestRequester("other", ownHoldsOnly: true)
    for reacquire in [false, true] {
      #expect(it.session.confirm(id, reacquire: reacquire, by: other).refusal == .notOwnHold)
    }
    #expect(it.session.release(id, by: other).refusal == .notOwnHold)
    #expect(it.session.confirm(id, by: Self.shop).refusal == .reservationExpired)
    let view = try #require(it.session.reservation(id).value)
    #expect(view.state == .expired && view.endedAt == view.expiresAt)
    #expect(it.session.confirm(id, reacquire: true, by: Self.shop).value?.state == .confirmed)
    #expect(it.session.reservation(id).value?.endedAt == it.clock.now())
  }

  @Test func whatHasEndedForGoodTellsEverybodyTheSame() throws {
    let it = stocked()
    let sold = try hold(it.session, "sold", by: "shop")
    let returned = try hold(it.session, "returned", by: "shop")
    #expect(it.session.confirm(sold, by: Self.shop).value?.state == .confirmed)
    #expect(it.session.release(returned, by: Self.shop).value?.state == .released)
    for requester in [Self.shop, TestRequester("other", ownHoldsOnly: true)] {
      #expect(it.session.confirm(sold, by: requester).replayed)
      #expect(it.session.release(returned, by: requester).replayed)
      #expect(it.session.release(sold, by: requester).refusal == .reservationConfirmed)
      #expect(it.session.confirm(returned, by: requester).refusal == .reservationReleased)
    }
  }

  @Test func anIdOfNoReservationLooksTheSameToAll() throws {
    let it = stocked()
    let id = try hold(it.session, "k", by: "shop")
    let wrong = ReservationID(slot: id.slot, generation: id.generation, tag: id.tag ^ 1)
    for requester in [Self.shop, TestRequester("other", ownHoldsOnly: true), TestRequester()] {
      #expect(
        change(it.session, [wrong, wrong, wrong], requester)
          == Array(repeating: .reservationNotFound, count: 3))
    }
  }

  /// What is kept of a directory: the journal, a checkpoint, or one that an older version has written,
  /// which said nothing of owners.
  enum Kept: CaseIterable { case journal, checkpoint, olderCheckpoint }

  @Test(arguments: Kept.allCases) func ownersOutliveAProcess(_ kept: Kept) throws {
    let running = try JournaledStore(testLimits(), seed: 4)
    let before = running.session
    _ = before.beginTurn()
    _ = before.adjust("stock", "a", .setOnHand(100))
    let expired = try hold(before, "expired", by: "shop", ttl: seconds(2))
    let held = try (0..<3).map { try hold(before, "held\($0)", by: "shop") }
    let ended = try hold(before, "ended", by: "shop")
    _ = before.release(ended, by: Self.shop)
    before.endTurn()
    running.clock.advance(byNanoseconds: seconds(3))
    _ = before.beginTurn()
    before.endTurn()
    try running.settle()
    if kept == .olderCheckpoint {
      for slot in (held + [expired]).map(\.slot) {
        let record = running.store.core.slab[slot]
        running.store.core.slab[slot].restoreEnd(record.kind == .held ? 0 : record.expiresAt)
      }
    }
    let digest = running.digest
    if kept != .journal { try running.makeCheckpoint {} }
    try running.restart()
    #expect(running.summary.digest == digest)

    let after = running.session
    _ = after.beginTurn()
    let others = change(after, held, TestRequester("other", ownHoldsOnly: true))
    #expect(others == Array(repeating: .notOwnHold, count: 3))
    let isKnown = kept != .olderCheckpoint
    #expect(
      change(after, held, Self.shop) == Array(repeating: isKnown ? nil : .notOwnHold, count: 3))
    #expect(
      after.confirm(expired, reacquire: true, by: Self.shop).refusal
        == (isKnown ? nil : .notOwnHold))
    // Anybody else who has the id may end it.
    if !isKnown { #expect(after.confirm(expired, reacquire: true).refusal == nil) }
    #expect(after.release(ended, by: Self.shop).replayed)
    #expect(try #require(after.reservation(ended).value?.endedAt) < running.clock.now())
    after.endTurn()
    #expect(running.store.audit() == [])
  }

  // MARK: The journal

  @Test func recordsGrowByTheNameAlone() throws {
    // Of one line: 40 bytes, 36 for the line, padded to 80; without lines 40.
    for (caller, sold, extended) in [
      ("", 80, 40), ("shop", 80, 48), (String(repeating: "c", count: 64), 144, 104),
    ] {
      var record = RecordWriter()
      withBytes(caller) { caller in
        for (kind, lines, bytes) in [
          (RecordWriter.Kind.confirmed, 1, sold), (.released, 1, sold), (.extended, 0, extended),
        ] {
          record.begin(
            kind, time: 5, slot: 6, generation: 7, tag: 8, value: 9, lineCount: lines,
            caller: caller)
          if lines > 0 {
            record.setLine(0, ordinal: 1, quantity: 2, version: 3, onHand: 4, held: 5)
          }
          #expect(unsafe record.bytes.count == bytes)
          let read = unsafe JournalRecord(record.bytes)
          #expect(read?.kind == kind && read?.idTag == 8)
          #expect(read?.isTakenAgain == (kind == .confirmed))
          if kind == .extended { #expect(read?.expiresAt == 9) }
          #expect(read.map { unsafe $0.caller.pointer.elementsEqual(caller.pointer) } == true)
          #expect(read?.lineCount == lines && read?.key.count == 0)
        }
      }
    }
  }

  @Test func theDumpSaysWhoDecided() throws {
    let running = try JournaledStore(testLimits(), seed: 4)
    let session = running.session
    _ = session.beginTurn()
    _ = session.adjust("stock", "a", .setOnHand(100))
    let ids = try (0..<3).map { try hold(session, "k\($0)", by: "shop") }
    let expiring = try hold(session, "expiring", by: "shop", ttl: seconds(1))
    #expect(change(session, ids, TestRequester("till")) == [nil, nil, nil])
    _ = session.release(ids[2])
    session.endTurn()
    running.clock.advance(byNanoseconds: seconds(2))
    _ = session.beginTurn()
    #expect(session.reservation(expiring).value?.state == .expired)
    session.endTurn()
    try running.settle()
    var callers: [String: [String]] = [:]
    try StockStore.dump(storage: running.copyOfFiles()) { line in
      let object = try? JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any]
      guard let kind = object?["kind"] as? String else { return }
      callers[kind, default: []].append(object?["caller"] as? String ?? "none")
    }
    #expect(callers["held"] == ["shop", "shop", "shop", "shop"])
    #expect(callers["confirmed"] == ["till"] && callers["extended"] == ["till"])
    #expect(callers["released"] == ["till", "none"] && callers["expired"] == ["none"])
  }
}
