/// Everything that a run was asked to do.
package import LoadHistory

package struct RunOptions: Sendable {
  package var target: Endpoint
  package var connections = 8
  /// Calls in flight on each connection.
  package var streams = 10
  package var threads = 1
  package var durationSeconds = 10.0
  package var warmUpSeconds = 1.0
  /// Calls in all; then there is no warm-up, and the duration is what it takes.
  package var operations: Int?
  /// Calls per second of an open loop, over all connections; nil means a closed loop.
  package var ratePerSecond: Double?
  /// Units put behind every SKU, and behind SKU 0 where that differs.
  package var units: Int64 = 1_000_000
  package var hotUnits: Int64?
  package var workload = Workload()
  package var seed: UInt64 = 1
  /// Where the server's /metrics are.
  package var admin: Endpoint?
  package var serverPID: Int32?
  /// Off: no stock is prepared, nothing is compared. For servers that keep no stock.
  package var verifies = true
  /// Nothing is compared: the ledger is handed over, for an `audit` later. The server may die.
  package var savesLedger = false
  package var run: RunID = RunID(0)

  package init(target: Endpoint) { self.target = target }

  /// Units behind each SKU.
  package var stock: [Int64] {
    var stock = [Int64](repeating: units, count: workload.skuCount)
    if let hotUnits { stock[0] = hotUnits }
    return stock
  }

  /// What the stock is put there for, as the server is told. A part of the payload: `audit` sends the
  /// same calls again.
  static let stockReason = "holdfast-load run"

  /// How long the last answers may take.
  package static let drainSeconds = 10.0

  /// Throws what is out of range, with what would be in it.
  package func validate() throws(LoadError) {
    func require(_ holds: Bool, _ text: String) throws(LoadError) {
      if !holds { throw LoadError(text) }
    }
    try require((1...20_000).contains(connections), "--connections must be 1 to 20000")
    try require((1...10_000).contains(streams), "--streams must be 1 to 10000")
    try require(
      (1...min(64, connections)).contains(threads),
      "--threads must be 1 to 64, and no more than --connections")
    try require(
      durationSeconds > 0 && durationSeconds <= 86_400, "--duration must be above 0, up to 86400 s")
    try require(
      warmUpSeconds >= 0 && warmUpSeconds <= 3_600, "--warm-up must be 0 to 3600 s")
    try require(
      (1...1_000_000_000).contains(operations ?? 1), "--operations must be 1 to 1000000000")
    try require(
      ratePerSecond == nil || (0.01...100_000_000).contains(ratePerSecond ?? 0),
      "--rate must be 0.01 to 100000000 calls per second")
    try require(
      ratePerSecond == nil || operations == nil, "--rate goes with --duration, not --operations")
    try require(verifies || !savesLedger, "--save-ledger goes without --no-verify")
    try require((0...1 << 40).contains(units), "--units must be 0 to 2^40")
    try require((0...1 << 40).contains(hotUnits ?? 0), "--hot-units must be 0 to 2^40")
    try workload.validate()
  }
}

extension Workload {
  func validate() throws(LoadError) {
    func require(_ holds: Bool, _ text: String) throws(LoadError) {
      if !holds { throw LoadError(text) }
    }
    try require(
      (1...SKUNames.countMaximum).contains(skuCount),
      "--skus must be 1 to \(SKUNames.countMaximum)")
    try require(
      lines.lowerBound >= 1 && lines.upperBound <= 64, "--lines must lie within 1 to 64: N or A-B")
    try require(
      quantity.lowerBound >= 1 && quantity.upperBound <= 1_000_000,
      "--quantity must lie within 1 to 1000000: N or A-B")
    for (name, share) in [
      ("--hot-share", hotShare), ("--confirm-share", confirmShare),
      ("--release-share", releaseShare), ("--duplicate-share", duplicateShare),
    ] {
      try require((0...1).contains(share), "\(name) must be 0 to 1")
    }
    try require(
      confirmShare + releaseShare <= 1.000001, "--confirm-share and --release-share exceed 1")
    try require(
      (1_000_000_000...86_400_000_000_000).contains(timeToLiveNanoseconds),
      "--ttl must be 1 to 86400 s")
  }
}
