// What is known while the load runs: units of the first SKUs by what became of them, held against
// the balances that the server states meanwhile.
//
// A worker counts `sent` before a request leaves, and `done` after its answer came. For a balance
// that was asked for at s and answered at a, whatever `done` was at s has happened before the server
// looked, and nothing has happened by then that `sent` does not have at a. So for every correct
// server, with confirms C, releases R, reserves V, refused reserves N and restocks T in units:
//
//     stock + T.done(s) − C.sent(a)   ≤ on hand ≤   stock + T.sent(a) − C.done(s)
//     V.done(s) − C.sent(a) − R.sent(a)  ≤ held ≤   V.sent(a) − N.done(s) − C.done(s) − R.done(s)
//     0 ≤ held ≤ on hand
//
// Where what is confirmed is kept as committed, on hand falls by what is shipped and what a count finds missing, G, in
// the place of C, and committed by what is shipped and unsold, S:
//
//     C.done(s) − S.sent(a)  ≤ committed ≤  C.sent(a) − S.done(s)
//     held + committed ≤ on hand and what may be held beyond
//
// The lower bound of held is left out from the first instant at which a hold can have expired. Only
// first answers count as done: one that repeats another may have been counted already. Calls of
// unknown outcome are sent and not done, which widens the bounds, as it has to.
internal import LoadHistory
internal import Synchronization

/// One worker's counts for the watched SKUs: written by that worker, read by main.
@safe final class WatchCounters: Sendable {
  enum Kind: Int, CaseIterable {
    case reserveSent, reserveDone, reserveRefused, confirmSent, confirmDone
    case releaseSent, releaseDone, restockSent, restockDone
    case goneSent, goneDone, settledSent, settledDone
  }

  /// The first SKUs, which are the hot ones.
  static let skusMaximum = 64

  /// `skusMaximum` × kinds, owned by this object. Atomics: any thread may read them.
  private nonisolated(unsafe) let cells: UnsafeMutablePointer<Atomic<Int64>>
  private static let cellCount = skusMaximum * Kind.allCases.count

  private let earliestExpiry = Atomic<Int64>(.max)

  init() {
    unsafe cells = .allocate(capacity: WatchCounters.cellCount)
    for index in 0..<WatchCounters.cellCount { unsafe (cells + index).initialize(to: Atomic(0)) }
  }

  deinit {
    unsafe cells.deinitialize(count: WatchCounters.cellCount)
    unsafe cells.deallocate()
  }

  /// Counts units of `sku`, which may be any. One thread alone may call this.
  func add(_ units: UInt32, _ kind: Kind, sku: UInt32) {
    guard sku < WatchCounters.skusMaximum else { return }
    let index = Int(sku) * Kind.allCases.count + kind.rawValue
    // In bounds: sku was checked. Nobody else writes: a load and a store suffice.
    let before = unsafe cells[index].load(ordering: .relaxed)
    unsafe cells[index].store(before + Int64(units), ordering: .releasing)
  }

  /// Takes down expires_at of an acceptance, before it counts as done. One thread alone may call this.
  func noteExpiry(unixNanoseconds: Int64) {
    if unixNanoseconds < earliestExpiry.load(ordering: .relaxed) {
      earliestExpiry.store(unixNanoseconds, ordering: .releasing)
    }
  }

  /// The earliest of all that were noted, by the server's clock.
  var earliestExpiryUnixNanoseconds: Int64 { earliestExpiry.load(ordering: .acquiring) }

  func units(_ kind: Kind, sku: Int) -> Int64 {
    guard (0..<WatchCounters.skusMaximum).contains(sku) else { return 0 }
    // In bounds: sku was checked.
    return unsafe cells[sku * Kind.allCases.count + kind.rawValue].load(ordering: .acquiring)
  }
}

/// What was done before a balance was asked for, and what was sent before it was answered.
struct WatchBounds: Equatable {
  var stock: Int64 = 0
  var reserveDone: Int64 = 0
  var reserveRefused: Int64 = 0
  var confirmDone: Int64 = 0
  var releaseDone: Int64 = 0
  var restockDone: Int64 = 0
  var reserveSent: Int64 = 0
  var confirmSent: Int64 = 0
  var releaseSent: Int64 = 0
  var restockSent: Int64 = 0
  /// Shipped, and found missing by counts; shipped, and unsold.
  var goneDone: Int64 = 0
  var settledDone: Int64 = 0
  var goneSent: Int64 = 0
  var settledSent: Int64 = 0
  /// What is confirmed stays on hand, as committed.
  var keepsCommitted = false
  /// What may be held beyond what is on hand.
  var overcommit: Int64 = 0
  /// No hold can have expired yet.
  var nothingExpired = false

  /// Reads what is done, before a balance is asked for.
  mutating func readDone(_ workers: [WatchCounters], sku: Int) {
    for worker in workers {
      reserveDone += worker.units(.reserveDone, sku: sku)
      reserveRefused += worker.units(.reserveRefused, sku: sku)
      confirmDone += worker.units(.confirmDone, sku: sku)
      releaseDone += worker.units(.releaseDone, sku: sku)
      restockDone += worker.units(.restockDone, sku: sku)
      goneDone += worker.units(.goneDone, sku: sku)
      settledDone += worker.units(.settledDone, sku: sku)
    }
  }

  /// Reads what was sent, after the balance came.
  mutating func readSent(_ workers: [WatchCounters], sku: Int) {
    for worker in workers {
      reserveSent += worker.units(.reserveSent, sku: sku)
      confirmSent += worker.units(.confirmSent, sku: sku)
      releaseSent += worker.units(.releaseSent, sku: sku)
      restockSent += worker.units(.restockSent, sku: sku)
      goneSent += worker.units(.goneSent, sku: sku)
      settledSent += worker.units(.settledSent, sku: sku)
    }
  }

  var onHandLeast: Int64 { stock + restockDone - goneSent - (keepsCommitted ? 0 : confirmSent) }
  var onHandMost: Int64 { stock + restockSent - goneDone - (keepsCommitted ? 0 : confirmDone) }
  var committedLeast: Int64 { keepsCommitted ? max(0, confirmDone - settledSent) : 0 }
  var committedMost: Int64 { keepsCommitted ? confirmSent - settledDone : 0 }
  var heldLeast: Int64 { nothingExpired ? max(0, reserveDone - confirmSent - releaseSent) : 0 }
  var heldMost: Int64 { reserveSent - reserveRefused - confirmDone - releaseDone }

  /// What is wrong with the balance, in words; nil where a correct server may state it.
  func fault(of level: StockLevel) -> String? {
    if level.onHand < onHandLeast || level.onHand > onHandMost {
      return "on hand \(level.onHand), where only \(onHandLeast) to \(onHandMost) can be"
    }
    if level.held < heldLeast || level.held > heldMost {
      return "held \(level.held), where only \(heldLeast) to \(heldMost) can be"
    }
    if level.committed < committedLeast || level.committed > committedMost {
      return
        "committed \(level.committed), where only \(committedLeast) to \(committedMost) can be"
    }
    if level.held > level.onHand + overcommit - level.committed {
      let committed = level.committed > 0 ? " and \(level.committed) committed" : ""
      let beyond = overcommit > 0 ? " and \(overcommit) beyond it" : ""
      return "held \(level.held)\(committed), more than the \(level.onHand) on hand\(beyond)"
    }
    return nil
  }
}
