// What a standby shows of its copy of the log, where it was asked to.
//
// The follower's thread applies a batch at a time, and whoever reads does so between two of them, under the same lock:
// an answer is of one place in the log, and nothing of a standby is in such a hurry that this would cost anybody. A copy
// is not shown until it has once come to where the log ended, and not any more when it is about to be given up: for a
// new one, or for the store of an owner.
package import StockStore
internal import Synchronization

/// Where an answer of a standby stands.
package struct StandbyMoment: Equatable, Sendable {
  /// All records before are in it, and none behind.
  package var lsn: UInt64
  /// In steady nanoseconds: what the log in the engine had then is in it.
  package var caughtUp: Int64
}

/// The tables of a standby, for reads. Any thread.
package final class StandbyReads: Sendable {
  private struct Shown {
    let store: StockStore
    var lsn: UInt64
    var caughtUp: Int64?
  }

  private let shown = Mutex<Shown?>(nil)

  package init() {}

  /// Whether a read finds anything now.
  package var isShown: Bool { shown.withLock { $0?.caughtUp != nil } }

  /// Calls `body` with the store, which stands still meanwhile. `body` must not block, and keeps nothing that it read;
  /// the store itself it may keep, and use within another call that is given the same one.
  /// - Returns: false where there is nothing to be shown now.
  package func read(_ body: (StockStore, StandbyMoment) -> Void) -> Bool {
    shown.withLock { shown in
      guard let shown, let caughtUp = shown.caughtUp else { return false }
      body(shown.store, StandbyMoment(lsn: shown.lsn, caughtUp: caughtUp))
      return true
    }
  }

  // MARK: The follower's thread

  /// - Parameter lsn: what the tables have come to.
  func show(_ store: StockStore, at lsn: UInt64) {
    let isNew = shown.withLock { shown in
      if shown != nil { return false }
      shown = Shown(store: store, lsn: lsn, caughtUp: nil)
      return true
    }
    precondition(isNew, "tables that are about to be freed are shown")
  }

  /// Changes the tables, so that they come to `lsn`. Where `body` throws they are not shown any more.
  func change<Failure: Error>(to lsn: UInt64, _ body: () throws(Failure) -> Void) throws(Failure) {
    try shown.withLock { (shown) throws(Failure) in
      do throws(Failure) {
        try body()
      } catch {
        shown = nil
        throw error
      }
      shown?.lsn = lsn
    }
  }

  /// When the log was asked for more than the tables have, and had none.
  func caughtUp(at time: Int64) {
    shown.withLock { $0?.caughtUp = time }
  }

  /// From its return on nobody reads the tables.
  func hide() {
    shown.withLock { $0 = nil }
  }
}
