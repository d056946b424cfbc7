// A store in memory for tests that go command by command.
package import Posix
package import StockStore
internal import Synchronization

/// A store on a clock of its own, in a turn.
package struct Fixture {
  package let clock = ManualClock()
  package let store: StockStore
  package let session: StoreSession

  package init(
    _ limits: StoreLimits = testLimits(), _ concurrency: ConcurrencyControl = .optimistic
  ) {
    store = StockStore(limits: limits, clock: clock, concurrency: concurrency, secret: (1, 2))
    session = store.makeSession()
    _ = session.beginTurn()
  }

  /// Ends the turn, waits, and begins the next.
  package func advance(_ nanoseconds: Int64) {
    session.endTurn()
    clock.advance(byNanoseconds: nanoseconds)
    _ = session.beginTurn()
  }
}

extension StockStore {
  /// So many keys whose reserves can be in hand at the same time: each under another shard's lock. Not under
  /// the first shard's, which a session takes when its first turn begins.
  package func distinctKeys(_ count: Int) -> [String] {
    var keys: [String] = []
    var shards: Set<Int> = [0]
    var number = 0
    while keys.count < count {
      number += 1
      let key = "key\(number)"
      let shard = withScope(key, caller: "") { shardNumber(ofReserve: $0) }
      if shards.insert(shard).inserted { keys.append(key) }
    }
    return keys
  }
}

/// A clock that goes on by some milliseconds whenever it is looked at: who waits sees leases end.
package final class TickingClock: Posix.Clock {
  private let nanoseconds = Atomic<Int64>(seconds(1))

  package init() {}

  package func now() -> Timestamp {
    Timestamp(nanoseconds: nanoseconds.add(5_000_000, ordering: .relaxed).newValue)
  }
}
