import Log
import Posix
import Simulation
import Synchronization
import Testing

@testable import StockStore

/// Two sessions on one thread: what the second does happens between the first one's reading and its
/// sealing, as if the first one's thread had lost the CPU there.
private struct TwoSessions {
  let store: StockStore
  let holder: StoreSession
  let other: StoreSession

  init(_ concurrency: ConcurrencyControl, stock: [Int64]) {
    store = StockStore(
      limits: testLimits(reservations: 1 << 20), clock: TickingClock(), concurrency: concurrency,
      secret: (1, 2))
    holder = store.makeSession()
    other = store.makeSession()
    _ = holder.beginTurn()
    _ = other.beginTurn()
    for (index, onHand) in stock.enumerated() {
      _ = other.adjust("make\(index)", "sku\(index)", .setOnHand(onHand))
    }
  }

  /// The holder reserves `lines`, and in the middle of that `inGap` happens to the other session.
  func reserve(
    _ lines: [TestLine], inGap: @escaping (StoreSession) -> Void
  ) -> Decision<Hold> {
    // It runs on this thread, while the holder's command waits.
    nonisolated(unsafe) let (other, inGap) = (other, inGap)
    store.setDeliberateGap { unsafe inGap(other) }
    return holder.reserve(store.distinctKeys(1)[0], lines)
  }

  /// The holder and the other one both want one unit: what they get.
  func reserveTwice() -> (holder: Decision<Hold>, other: Decision<Hold>?) {
    let taken = Mutex<Decision<Hold>?>(nil)
    let late = reserve([TestLine(sku: "sku0", quantity: 1)]) { other in
      let decision = other.reserve(otherKey, "sku0", 1)
      taken.withLock { $0 = decision }
    }
    return (late, taken.withLock { $0 })
  }

  /// A key that the other session can use meanwhile.
  var otherKey: String { store.distinctKeys(2)[1] }
}

@Suite struct LockingTests {
  /// Tokens begin at 1 and only grow.
  @Test func onlyTheNewestGrantCanBeSealed() {
    let lock = ItemLock()
    #expect((lock.take(), lock.take()) == (1, nil))
    #expect((lock.takeOver(from: 1), lock.takeOver(from: 1)) == (2, nil))
    // The first holder comes back: it can neither seal nor free.
    #expect((lock.seal(1), lock.heldToken) == (false, 2))
    lock.freeHeld(1)
    #expect((lock.seal(2), lock.heldToken) == (true, nil))
    // Sealed: there is no way in, and no way back.
    lock.freeHeld(2)
    #expect((lock.take(), lock.takeOver(from: 2)) == (nil, nil))
    lock.freeSealed(2)
    #expect((lock.takeOver(from: 2), lock.take()) == (nil, 3))
    lock.freeHeld(3)
    #expect((lock.seal(3), lock.take()) == (false, 4))
  }

  /// The last unit is sold by the one that took the lock over; the stale one comes back and is too late.
  @Test func aStaleHolderIsFencedOff() {
    let it = TwoSessions(.locking, stock: [1])
    let (late, taken) = it.reserveTwice()
    #expect(taken?.value != nil)
    #expect(
      late.refusal
        == .insufficientStock(item: ItemHandle(ordinal: 0), requested: 1, available: 0))
    let statistics = it.store.statistics()
    #expect(statistics.fenced == 1 && statistics.waits == 1)
    #expect(statistics.conflictsVersionChanged == 0 && statistics.conflictsLocked == 0)
    #expect(statistics.commitsByAttempts[1] == 1)
    #expect(it.store.audit() == [])
  }

  /// The same without the seal sells the last unit twice: so the test above can fail.
  @Test func withoutTheFenceTheSameOversells() {
    let it = TwoSessions(.unfencedForDemonstration, stock: [1])
    let (late, taken) = it.reserveTwice()
    #expect(taken?.value != nil && late.value != nil)
    #expect(it.store.audit() == ["item 0: 1 held, its live holds have 2"])
  }

  /// A refusal tells of what was read: a stale one is not given either.
  @Test func aStaleRefusalIsNotGiven() throws {
    let it = TwoSessions(.locking, stock: [1])
    let hold = try #require(it.other.reserve(it.otherKey, "sku0", 1).value)
    let late = it.reserve([TestLine(sku: "sku0", quantity: 1)]) { _ = $0.release(hold.id) }
    #expect(late.value != nil)
    #expect(it.store.statistics().fenced == 1)
    #expect(it.store.audit() == [])
  }

  /// One lock of several was taken over: none of the others stays behind, whatever the place of it.
  @Test(arguments: 0..<3) func nothingIsLeftOfASealThatFailed(place: Int) {
    let it = TwoSessions(.locking, stock: [5, 5, 5])
    let cart = (0..<3).map { TestLine(sku: "sku\($0)", quantity: 2) }
    let hold = it.reserve(cart) { _ = $0.reserve(it.otherKey, "sku\(place)", 1) }
    #expect(hold.value != nil)
    let statistics = it.store.statistics()
    #expect(statistics.fenced == 1 && statistics.waits == 1)
    for index in 0..<3 {
      #expect(it.other.level("sku\(index)")?.held == (index == place ? 3 : 2))
      let token = it.store.core.tables.locks[UInt32(index)].take()
      #expect(token != nil)
    }
    #expect(it.store.audit() == [])
  }

  /// Waiting is for the whole lease of one grant, not for some of several.
  @Test func aLeaseIsWaitedForInFull() throws {
    let it = TwoSessions(.locking, stock: [5])
    let locks = it.store.core.tables.locks
    let granted = locks[0].take()
    let token = try #require(granted)
    let before = it.other.clockNanoseconds
    #expect(it.other.reserve(it.otherKey, "sku0", 1).value != nil)
    #expect(it.other.clockNanoseconds - before >= Locking.leaseNanoseconds)
    let isSealed = locks[0].seal(token)
    #expect(!isSealed)
    #expect(it.store.audit() == [])
  }
}
