internal import Posix
internal import StockStore

/// One thread's session with the loops that use it.
@safe final class Worker {
  private static let keyLength = 24

  private let session: StoreSession
  /// The key of the command: eight changing bytes, then constant ones.
  private let key: UnsafeMutablePointer<UInt8>
  private let holds: UnsafeMutablePointer<ReservationID>
  private(set) var holdCount = 0
  /// Gives the keys.
  var keys: SplitMix

  /// CPU time of the thread when the turn began, where turns are timed.
  private var turnBegan: Int64?
  /// Nanoseconds of CPU time of each.
  private var turns: [Int64] = []

  init(_ session: StoreSession, seed: UInt64) {
    self.session = session
    keys = SplitMix(state: seed)
    unsafe key = .allocate(capacity: Self.keyLength)
    unsafe key.initialize(repeating: 107, count: Self.keyLength)
    unsafe holds = .allocate(capacity: StoreBenchmark.liveHolds)
  }

  deinit {
    unsafe key.deallocate()
    unsafe holds.deallocate()
  }

  var hasBacklog: Bool { session.hasBacklog }

  func nextTurn() {
    session.endTurn()
    if let began = turnBegan {
      turns.append(Machine.threadCPUNanoseconds() - began)
      turnBegan = Machine.threadCPUNanoseconds()
    }
    _ = session.beginTurn()
  }

  /// From here on, turns are timed.
  func timeTurns() {
    turns.removeAll()
    turns.reserveCapacity(1 << 20)
    turnBegan = Machine.threadCPUNanoseconds()
  }

  /// Of the turns since `timeTurns`, the one that takes this place by its length, from 1.
  func turn(longest place: Int) -> Int64 { turns.sorted(by: >)[place - 1] }

  func makeStock(_ name: [UInt8], _ onHand: Int64) {
    let scope = nextScope()
    unsafe name.withUnsafeBufferPointer { name in
      let decision = session.adjust(
        AdjustCommand(
          scope: scope, item: unsafe item(name, 0), change: .setOnHand(onHand), safetyStock: nil,
          check: .none, reason: .empty))
      precondition(decision.isAccepted)
    }
  }

  /// Reserves one unit of each pick, `lines` to a reservation.
  /// - Parameter isLimited: each with a limit for a customer of its own.
  func reserve(
    _ picks: Picks, lines: Int = 1, ttlNanoseconds: Int64 = 600_000_000_000,
    expectAccepted: Bool = true, isLimited: Bool = false
  ) {
    unsafe picks.names.withUnsafeBufferPointer { names in
      var pick = 0
      var command = 0
      while pick + lines <= picks.count {
        if command % Bench.commandsPerTurn == 0 { nextTurn() }
        session.clearLines()
        for line in 0..<lines {
          _ = session.appendLine(LineRequest(item: unsafe item(names, pick + line), quantity: 1))
        }
        let scope = nextScope()
        if isLimited { _ = session.appendLimit(SubjectLimit(subject: scope.key, maxUnits: 2)) }
        let decision = session.reserve(scope, ttlNanoseconds: ttlNanoseconds)
        if case .accepted(let hold) = decision.result {
          unsafe holds[holdCount] = hold.id
          holdCount += 1
        } else if expectAccepted {
          preconditionFailure("a reserve was refused")
        }
        pick += lines
        command += 1
      }
    }
    nextTurn()
  }

  /// Has every hold of the reserve loops hold one unit of a pick in the place of what it held.
  func replaceHolds(_ picks: Picks) {
    changeHolds(picks, releasesFirst: false) { index in
      // `holds` has `holdCount` ids.
      let id = unsafe holds[index]
      let command = ReplaceCommand(scope: nextScope(), reservation: id)
      precondition(session.replace(command).isAccepted, "a replace was refused")
    }
  }

  /// The same without Replace: each hold is released, and another is made.
  func swapHolds(_ picks: Picks) {
    changeHolds(picks, releasesFirst: true) { index in
      let decision = session.reserve(nextScope(), ttlNanoseconds: 600_000_000_000)
      guard case .accepted(let hold) = decision.result else {
        preconditionFailure("a reserve was refused")
      }
      // The released hold's place.
      unsafe holds[index] = hold.id
    }
  }

  private func changeHolds(_ picks: Picks, releasesFirst: Bool, _ change: (Int) -> Void) {
    precondition(picks.count >= holdCount, "a pick for each hold")
    unsafe picks.names.withUnsafeBufferPointer { names in
      for index in 0..<holdCount {
        if index % Bench.commandsPerTurn == 0 { nextTurn() }
        if releasesFirst {
          // `holds` has `holdCount` ids.
          let isEnded = unsafe session.release(holds[index]).isAccepted
          precondition(isEnded, "a release was refused")
        }
        session.clearLines()
        _ = session.appendLine(LineRequest(item: unsafe item(names, index), quantity: 1))
        change(index)
      }
    }
    nextTurn()
  }

  /// Ends all holds of the reserve loops since the last call, and lets the store forget them.
  func endHolds(_ end: (StoreSession, ReservationID) -> Bool) {
    for index in 0..<holdCount {
      if index % Bench.commandsPerTurn == 0 { nextTurn() }
      let isEnded = unsafe end(session, holds[index])
      precondition(isEnded)
    }
    holdCount = 0
    nextTurn()
  }

  func read(_ picks: Picks) {
    unsafe picks.names.withUnsafeBufferPointer { names in
      for pick in 0..<picks.count {
        if pick % Bench.commandsPerTurn == 0 { nextTurn() }
        let isKnown = unsafe session.stock(item(names, pick)).isAccepted
        precondition(isKnown)
      }
    }
  }

  /// The holds of the last loops stay.
  func forgetHolds() { holdCount = 0 }

  @inline(__always)
  private func nextScope() -> IdempotencyScope {
    // `key` has keyLength bytes and stays as long as this object.
    unsafe UnsafeMutableRawPointer(key).storeBytes(of: keys.next(), as: UInt64.self)
    return unsafe IdempotencyScope(
      caller: .empty, key: BorrowedBytes(UnsafePointer(key), count: Self.keyLength))
  }

  @inline(__always)
  private func item(_ names: UnsafeBufferPointer<UInt8>, _ pick: Int) -> ItemName {
    // `names` has a whole name for each pick, and outlives the command.
    let name = unsafe names.baseAddress.map { unsafe $0 + pick * Picks.nameLength }
    return unsafe ItemName(
      sku: BorrowedBytes(name, count: Picks.nameLength), location: .empty)
  }
}
