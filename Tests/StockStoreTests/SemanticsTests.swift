import Log
import Posix
import Simulation
import Testing

@testable import StockStore

/// The contract (proto/holdfast/v1), case by case, under every strategy.
@Suite struct SemanticsTests {
  @Test(arguments: ConcurrencyControl.sound)
  func holdsConfirmsAndReleases(_ concurrency: ConcurrencyControl) throws {
    let it = Fixture(testLimits(), concurrency)
    let session = it.session
    _ = session.makeStock("a", 10)
    let first = try #require(session.reserve("k1", "a", 4).value)
    let second = try #require(session.reserve("k2", "a", 6).value)
    #expect(
      session.reserve("k3", "a", 1).refusal
        == .insufficientStock(item: ItemHandle(ordinal: 0), requested: 1, available: 0))
    #expect(session.confirm(first.id).value?.state == .confirmed)
    #expect(session.viewLines == [0: 4])
    #expect(session.release(second.id).value?.state == .released)
    let level = try #require(session.level("a"))
    #expect(level.onHand == 6 && level.held == 0 && level.version == 5)
    #expect(it.store.audit() == [])
  }

  @Test(arguments: ConcurrencyControl.sound)
  func allOrNothingAndLinesOfOneItemAreSummed(_ concurrency: ConcurrencyControl) throws {
    let it = Fixture(testLimits(), concurrency)
    let session = it.session
    let a = session.makeStock("a", 10)
    let b = session.makeStock("b", 1)
    let cart = [
      TestLine(sku: "a", quantity: 2), TestLine(sku: "b", quantity: 1),
      TestLine(sku: "b", quantity: 1),
    ]
    #expect(
      session.reserve("k1", cart).refusal
        == .insufficientStock(item: b, requested: 2, available: 1))
    #expect(session.level("a")?.held == 0)
    let hold = try #require(
      session.reserve("k2", [cart[0], cart[1], cart[0]]).value)
    #expect(session.reservation(hold.id).value?.state == .held)
    #expect(session.viewLines == [a.ordinal: 4, b.ordinal: 1])
    #expect(it.store.audit() == [])
  }

  @Test(arguments: ConcurrencyControl.sound)
  func theSameKeyGetsTheSameAnswer(_ concurrency: ConcurrencyControl) throws {
    let it = Fixture(testLimits(), concurrency)
    let session = it.session
    _ = session.makeStock("a", 10)
    let hold = try #require(session.reserve("k", "a", 4).value)
    let again = session.reserve("k", "a", 4)
    #expect(again.value == hold && again.replayed)
    #expect(session.reserve("k", "a", 5).refusal == .idempotencyKeyReused)
    #expect(session.reserve("k", "a", 4, ttl: seconds(1)).refusal == .idempotencyKeyReused)
    let refused = session.reserve("k2", "a", 7)
    _ = session.release(hold.id)
    let refusedAgain = session.reserve("k2", "a", 7)
    #expect(refusedAgain.refusal == refused.refusal && refusedAgain.replayed)
    #expect(session.reserve("unknown", "zzz", 1).refusal == .itemNotFound(line: 0))
    _ = session.makeStock("zzz", 1)
    #expect(session.reserve("unknown", "zzz", 1).refusal == .itemNotFound(line: 0))
    let adjusted = session.adjust("k", "a", .delta(5))
    let adjustedAgain = session.adjust("k", "a", .delta(5))
    #expect(adjusted.value == adjustedAgain.value && adjustedAgain.replayed)
    #expect(session.adjust("k", "a", .delta(6)).refusal == .idempotencyKeyReused)
    #expect(
      session.reserve("k", [TestLine(sku: "a", quantity: 4)], caller: "other").replayed == false)
    #expect(it.store.audit() == [])
  }

  @Test(arguments: ConcurrencyControl.sound)
  func stockOfADueHoldIsFreeAtThatMoment(_ concurrency: ConcurrencyControl) throws {
    let it = Fixture(testLimits(), concurrency)
    let session = it.session
    _ = session.makeStock("a", 1)
    let hold = try #require(session.reserve("k1", "a", 1, ttl: seconds(5)).value)
    it.advance(seconds(5) - 1)
    #expect(session.reserve("k2", "a", 1).refusal != nil)
    #expect(session.reservation(hold.id).value?.state == .held)
    it.advance(1)
    #expect(session.reservation(hold.id).value?.state == .expired)
    #expect(session.reservation(hold.id).value?.endedAt == hold.expiresAt)
    #expect(session.confirm(hold.id).refusal == .reservationExpired)
    #expect(session.confirm(hold.id, reacquire: true).value?.state == .confirmed)
    #expect(session.level("a")?.onHand == 0)
    #expect(session.confirm(hold.id, reacquire: true).replayed)
    #expect(it.store.audit() == [])
  }

  @Test(arguments: ConcurrencyControl.sound)
  func confirmsInPart(_ concurrency: ConcurrencyControl) throws {
    let it = Fixture(testLimits(), concurrency)
    let session = it.session
    let a = session.makeStock("a", 10)
    let b = session.makeStock("b", 10)
    let lines = [TestLine(sku: "a", quantity: 3), TestLine(sku: "b", quantity: 4)]
    let hold = try #require(session.reserve("k", lines).value)
    #expect(
      session.confirm(hold.id, [TestLine(sku: "a", quantity: 4)]).refusal
        == .moreThanHeld(line: 0, held: 3))
    #expect(
      session.confirm(hold.id, [TestLine(sku: "c", quantity: 4)]).refusal
        == .moreThanHeld(line: 0, held: 0))
    let part = [TestLine(sku: "a", quantity: 1), TestLine(sku: "a", quantity: 1)]
    #expect(session.confirm(hold.id, part).value?.state == .confirmed)
    #expect(session.viewLines == [a.ordinal: 2])
    #expect(session.level("a")?.onHand == 8 && session.level("a")?.held == 0)
    #expect(session.level("b")?.onHand == 10 && session.level("b")?.held == 0)
    #expect(session.confirm(hold.id, [TestLine(sku: "a", quantity: 2)]).replayed)
    #expect(session.confirm(hold.id).refusal == .reservationConfirmed)
    #expect(session.confirm(hold.id, lines).refusal == .reservationConfirmed)
    #expect(
      session.confirm(hold.id, [TestLine(sku: "a", quantity: 1)]).refusal == .reservationConfirmed)
    #expect(session.release(hold.id).refusal == .reservationConfirmed)
    _ = b
    #expect(it.store.audit() == [])
  }

  @Test(arguments: ConcurrencyControl.sound)
  func extendsUpToTheCap(_ concurrency: ConcurrencyControl) throws {
    let it = Fixture(testLimits(), concurrency)
    let session = it.session
    _ = session.makeStock("a", 1)
    let hold = try #require(session.reserve("k", "a", 1, ttl: seconds(5)).value)
    it.advance(seconds(2))
    let longer = session.extend(hold.id, ttlNanoseconds: seconds(2000))
    #expect(longer.value?.expiresAt == hold.expiresAt.advanced(byNanoseconds: seconds(1997)))
    #expect(session.extend(hold.id, ttlNanoseconds: seconds(2000)).replayed)
    let again = session.reserve("k", "a", 1, ttl: seconds(5)).value
    #expect(again?.id == hold.id && again?.expiresAt == hold.expiresAt && again?.state == .held)
    #expect(again?.remainingNanoseconds == seconds(2000))
    it.advance(seconds(1999))
    #expect(session.reservation(hold.id).value?.state == .held)
    let day = seconds(86_400)
    let capped = session.extend(hold.id, ttlNanoseconds: day).value
    #expect(capped?.expiresAt == capped?.createdAt.advanced(byNanoseconds: day))
    it.advance(seconds(1))
    #expect(session.extend(hold.id, ttlNanoseconds: day).replayed)
    // What comes late does not shorten, unless it is asked to.
    let late = session.extend(hold.id, ttlNanoseconds: seconds(1))
    #expect(late.replayed && late.value?.expiresAt == capped?.expiresAt)
    let shortened = session.extend(hold.id, ttlNanoseconds: seconds(1), mayShorten: true)
    #expect(shortened.value?.expiresAt == it.clock.now().advanced(byNanoseconds: seconds(1)))
    #expect(!shortened.replayed)
    #expect(session.extend(hold.id, ttlNanoseconds: nil).value?.state == .held)
    #expect(
      session.extend(hold.id, ttlNanoseconds: seconds(1), mayShorten: true).value?.state == .held)
    it.advance(seconds(1))
    #expect(session.extend(hold.id, ttlNanoseconds: seconds(1)).refusal == .reservationExpired)
    #expect(it.store.audit() == [])
  }

  @Test(arguments: ConcurrencyControl.sound)
  func adjusts(_ concurrency: ConcurrencyControl) throws {
    let it = Fixture(testLimits(), concurrency)
    let session = it.session
    #expect(session.adjust("1", "a", .delta(-1)).refusal == .itemNotFound(line: 0))
    #expect(
      session.adjust("2", "a", .delta(1), expectedVersion: 1).refusal
        == .versionMismatch(current: 0))
    #expect(session.level("a") == nil)
    let made = try #require(session.adjust("3", "a", .delta(5), expectedVersion: 0).value)
    #expect(made.version == 1 && made.onHand == 5)
    #expect(
      session.adjust("4", "a", .none, safetyStock: 2, expectedVersion: 0).refusal
        == .versionMismatch(current: 1))
    #expect(
      session.adjust("4", "a", .none, safetyStock: 2, expectedVersion: 1).value?.available == 3)
    #expect(session.reserve("k", "a", 4).refusal != nil)
    _ = session.reserve("l", "a", 3)
    #expect(
      session.adjust("5", "a", .setOnHand(2)).refusal
        == .insufficientStock(item: made.item, requested: 3, available: 2))
    #expect(session.adjust("6", "a", .delta(1 << 40)).refusal == .onHandLimit)
    #expect(session.adjust("7", "a", .none, safetyStock: 9).value?.available == -7)
    #expect(it.store.audit() == [])
  }

  @Test(arguments: ConcurrencyControl.sound)
  func manyLinesAndLongNames(_ concurrency: ConcurrencyControl) throws {
    let it = Fixture(testLimits(), concurrency)
    let session = it.session
    let name = String(repeating: "s", count: 64)
    let location = String(repeating: "l", count: 64)
    var lines: [TestLine] = []
    for index in 0..<64 {
      let sku = String(name.dropLast(2)) + String(10 + index)
      _ = session.adjust("m\(index)", sku, .setOnHand(1 << 40), location: location)
      lines.append(TestLine(sku: sku, location: location, quantity: Int64(1 << 34) + Int64(index)))
    }
    #expect(session.withLines(lines + [lines[0]]) { $0 } == false)
    let hold = try #require(session.reserve("k", lines).value)
    #expect(session.reservation(hold.id).value?.state == .held)
    #expect(session.viewLineCount == 64)
    #expect(session.viewLine(63).quantity == 1 << 34 + 63)
    let text = withBytes(lines[5].sku) { expected in
      unsafe session.name(of: session.viewLine(5).item).sku.pointer.elementsEqual(expected.pointer)
    }
    #expect(text)
    #expect(session.confirm(hold.id, Array(lines[0..<3])).value?.state == .confirmed)
    #expect(session.viewLineCount == 3)
    #expect(it.store.audit() == [])
  }

  @Test(arguments: ConcurrencyControl.sound)
  func idsOfOthersNameNothing(_ concurrency: ConcurrencyControl) throws {
    let it = Fixture(testLimits(), concurrency)
    let session = it.session
    _ = session.makeStock("a", 1)
    let id = try #require(session.reserve("k", "a", 1).value).id
    for wrong in [
      ReservationID(slot: id.slot + 1, generation: id.generation, tag: id.tag),
      ReservationID(slot: id.slot, generation: id.generation + 1, tag: id.tag),
      ReservationID(slot: id.slot, generation: id.generation, tag: id.tag ^ 1),
      ReservationID(slot: .max, generation: .max, tag: 1 << 36 - 1),
    ] {
      #expect(session.release(wrong).refusal == .reservationNotFound)
    }
  }

  @Test(arguments: ConcurrencyControl.sound)
  func lists(_ concurrency: ConcurrencyControl) throws {
    let it = Fixture(testLimits(), concurrency)
    let session = it.session
    for index in 0..<10 { _ = session.makeStock("item\(index)", 10) }
    var ids: Set<ReservationID> = []
    for index in 0..<150 {
      let hold = session.reserve("k\(index)", "item\(index % 10)", index < 100 ? 1 : 100).value
      if let hold { ids.insert(hold.id) }
    }
    var seen: Set<ReservationID> = []
    var cursor: UInt64? = 0
    while let from = cursor {
      var page = 0
      cursor = session.listReservations(cursor: from, scanMax: 32, state: .held) { view in
        #expect(session.viewLineCount == 1)
        seen.insert(view.id)
        page += 1
        return page < 7
      }
    }
    #expect(seen == ids && ids.count == 100)
    var ordinals: [UInt32] = []
    var next: UInt32? = 0
    while let from = next {
      var page = 0
      next = session.listStock(from: from) { level in
        ordinals.append(level.item.ordinal)
        page += 1
        return page < 3
      }
    }
    #expect(ordinals == Array(0..<10))
  }
}

extension StoreSession {
  func makeStock(_ sku: String, _ onHand: Int64) -> ItemHandle {
    adjust("make-\(sku)", sku, .setOnHand(onHand)).value?.item ?? ItemHandle(ordinal: .max)
  }
}
