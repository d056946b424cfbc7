import Posix
import Simulation
import Testing

@testable import StockStore

/// A store on a clock of its own, in a turn.
struct Fixture {
  let clock = ManualClock()
  let store: StockStore
  let session: StoreSession

  init(_ limits: StoreLimits = testLimits()) {
    store = StockStore(limits: limits, clock: clock, secret: (1, 2))
    session = store.makeSession()
    _ = session.beginTurn()
  }

  /// Ends the turn, waits, and begins the next.
  func advance(_ nanoseconds: Int64) {
    session.endTurn()
    clock.advance(byNanoseconds: nanoseconds)
    _ = session.beginTurn()
  }
}
