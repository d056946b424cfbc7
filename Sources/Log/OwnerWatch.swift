// When a log may be taken: no two machines' clocks are compared.

/// Whether a log's owner is still there, by this machine's clock alone.
package struct OwnerWatch {
  private let ownLease: Int64
  private let fault: EngineFault?
  package private(set) var seen: LogState?
  private var since: Int64 = 0
  /// It has done something since it was first looked at.
  package private(set) var hasOwnerMoved = false
  private var isBlind = false

  /// - Parameter lease: in nanoseconds: what this server's would be, for an owner that does not tell its own.
  package init(lease: Int64, fault: EngineFault? = nil) {
    ownLease = lease
    self.fault = fault
  }

  /// - Parameter now: steady nanoseconds, when the state had come.
  package mutating func note(_ state: LogState, at now: Int64) {
    if let seen, seen.epoch == state.epoch, seen.beats == state.beats {
      if isBlind { (since, isBlind) = (now, false) }
      return
    }
    isBlind = false
    if seen != nil { hasOwnerMoved = !state.owner.isEmpty }
    seen = state
    since = now
  }

  /// The engine was not reached, and perhaps not by the owner either: it has a lease's time again once the engine
  /// is back, or each failover of the engine would be one of the owner too.
  package mutating func lostSight() { isBlind = true }

  /// Nobody has been heard of for as long as the owner's lease is, or it was given up. Whether that holds is for `take`
  /// to say. The owner's, not this server's: whoever changes leases does so on one server after the other.
  package func isOver(_ now: Int64) -> Bool {
    guard let seen else { return false }
    let lease = fault == .trustOwnLease ? ownLease : seen.lease ?? ownLease
    return seen.owner.isEmpty || !isBlind && now - since >= lease
  }
}
