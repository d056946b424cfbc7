/// Everything that a run was asked to do.
package import LoadHistory

package struct RunOptions: Sendable {
  package var target: Endpoint
  package var connections = 8
  /// Calls in flight on each connection.
  package var streams = 10
  package var threads = 1
  /// Measured; with a profile that has an end, that profile's length counts in its place.
  package var durationSeconds = 10.0
  /// Before the measured part; an open loop keeps the first rate of its profile in it, which may
  /// be 0.
  package var warmUpSeconds = 1.0
  /// The warm-up ends once the run is steady, and `warmUpSeconds` is the longest that it may last.
  package var warmsUpUntilSteady = false
  /// Calls in all; then there is no warm-up, and the duration is what it takes.
  package var operations: Int?
  /// Calls per second of an open loop, over all connections; nil means a closed loop.
  package var profile: LoadProfile?
  /// Of an open loop.
  package var arrivals = Arrivals.constant
  package var workload = Workload()
  package var seed: UInt64 = 1
  package var run: RunID = RunID(0)

  /// Where the server's /metrics are.
  package var admin: Endpoint?
  package var serverPID: Int32?
  /// Off: no stock is prepared, nothing is compared. For servers that keep no stock.
  package var verifies = true
  /// Off: nothing is compared during the run and at its end.
  package var compares = true
  /// Reserves go through a queue as orders; nil: they are calls to the target.
  package var via: OrderRoute?
  /// The change feed is followed during the run, and compared with the ledgers.
  package var followsFeed = false
  /// The result has the history, to be written out. The server may die.
  package var savesHistory = false
  /// Length of a report's interval; nil: a 120th of the duration, 0.25 to 10 s, but a
  /// thousandth of the run at least.
  package var intervalSeconds: Double?
  /// What ends the run before its time.
  package var abortConditions: [AbortCondition] = []
  /// Generators that make the load in this one's place, and what they know this one by.
  package var agents: [Endpoint] = []
  package var agentSecret: [UInt8] = []
  /// Each agent asks for SKUs of its own; otherwise all ask for all.
  package var agentsOwnSKUs = false
  /// Where this run is an agent's part of another.
  var agentShare: AgentShare?
  /// For the report: a name that repetitions share, and the command line.
  package var label: String?
  package var commandLine = ""

  package init(target: Endpoint) { self.target = target }

  /// The measured part: of the profile, where that has an end, else `durationSeconds`; nil where the
  /// number of calls decides.
  package var measuredSeconds: Double? {
    operations == nil ? profile?.seconds ?? durationSeconds : nil
  }

  /// The load is the same from its beginning to its end.
  var isSteadyLoad: Bool {
    operations == nil && profile?.seconds == nil && workload.dueTogetherNanoseconds == nil
  }

  /// Threads of all agents together, and the number of this program's first among them.
  var workers: Int { agentShare?.workers ?? threads * max(1, agents.count) }
  var firstWorker: Int { agentShare?.firstWorker ?? 0 }

  /// How many of `count` are a worker's: as many as another's, or one more.
  ///
  /// - Parameter worker: its number among all of the run's.
  func share(of count: Int, worker: Int) -> Int {
    count / workers + (worker < count % workers ? 1 : 0)
  }

  /// What the stock is put there for, as the server is told. A part of the payload: `audit` sends the
  /// same calls again.
  static let stockReason = "holdfast-load run"

  /// How long the last answers may take.
  var drainSeconds = 10.0
  /// A server from which no answer has come for so long, while it was asked or could not be asked, is
  /// given up.
  var quietSeconds = 30.0

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
    try validateAgents()
    try require(
      (0.05...86_400).contains(durationSeconds), "--duration must be 0.05 to 86400 s")
    try require(
      (0.05...86_400).contains(profile?.seconds ?? 1),
      "the lengths of --rate must add up to 0.05 to 86400 s")
    try require(
      warmUpSeconds >= 0 && warmUpSeconds <= 3_600, "--warm-up must be 0 to 3600 s")
    try require(
      warmUpSeconds <= 1_000 * (measuredSeconds ?? .infinity),
      "--warm-up must be no more than a thousand times what is measured")
    try require(
      (1...1_000_000_000).contains(operations ?? 1), "--operations must be 1 to 1000000000")
    try require(
      profile == nil || operations == nil, "--rate goes with --duration, not --operations")
    try require(
      !warmsUpUntilSteady
        || operations == nil && profile?.seconds == nil
          && workload.dueTogetherNanoseconds == nil,
      "--warm-up auto goes with a load that stays the same: a closed loop or one --rate, without "
        + "--operations and --due-together")
    try require(
      abortConditions.count <= 16, "--abort-if may be given 16 times at most")
    try require(verifies || !savesHistory, "--history goes without --no-verify")
    try require(
      verifies && compares || !followsFeed, "--watch goes without --no-verify and --no-check")

    try require(
      (0.05...3_600).contains(intervalSeconds ?? 1), "--interval must be 0.05 to 3600 s")
    if let intervalSeconds, let measuredSeconds {
      try require(
        (warmUpSeconds + measuredSeconds) / intervalSeconds <= 10_000,
        "--interval must be a 10000th of the run or more")
    }
    try workload.validate()
    try validateOrders()
  }
}

/// What part of a run is an agent's.
struct AgentShare: Sendable {
  let index: Int
  let count: Int
  /// Its first thread among those of all agents.
  let firstWorker: Int
  let workers: Int
  let ownsSKUs: Bool
}

extension RunOptions {
  private func validateAgents() throws(LoadError) {
    func require(_ holds: Bool, _ text: String) throws(LoadError) {
      if !holds { throw LoadError(text) }
    }
    try require(agents.count <= 64, "--agents must be 64 at most")
    try require(
      workers <= min(256, connections),
      "--threads of all --agents together must be 256 at most, and no more than --connections")
    try require(
      agents.isEmpty || workload.catalogue == nil, "--agents goes without --skus-file")
    let owners = agentShare?.count ?? agents.count
    try require(
      !(agentShare?.ownsSKUs ?? agentsOwnSKUs)
        || workload.skuCount >= owners && workload.warehouses == 1,
      "--agent-skus own needs an SKU for each agent at least, and goes without --warehouses")
  }
}

extension Endpoint {
  /// Where `holdfast serve` listens by itself.
  package static let standard = Endpoint(host: "127.0.0.1", port: 7_420)
}
