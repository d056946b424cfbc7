// One whole run: stock, workers, verdict.
package import LoadHistory
package import LoadReport
internal import Posix
internal import Synchronization

/// What a run tells while it goes on, all on the thread that called `run`.
package struct RunHooks {
  /// A few times a second: how the run stands.
  package var progress: (Progress) -> Void = { _ in }
  /// Every interval once it is whole, in the order of time; the latencies of all methods in it, open
  /// loop from the scheduled send; and when the run's first call was due, in nanoseconds since the
  /// Unix epoch.
  package var interval: (Report.Interval, borrowing Latencies, Int64) -> Void = { _, _, _ in }
  /// About once a second: the run's own metrics, as OpenMetrics text. nil: nobody reads them.
  package var metrics: ((String) -> Void)?
  /// Every slice of an interval, with its number.
  var slice: (Int, Slice) -> Void = { _, _ in }

  package init() {}
}

/// How a run ended.
package struct RunResult: ~Copyable {
  package let report: Report
  /// Status for exit(3): 0 all invariants hold, 1 one is violated, 2 nothing could be said or the
  /// server went away, 4 a condition ended the run, 128 and the signal's number where one did.
  package let exitStatus: Int32
  /// With `savesHistory`: every request and every answer.
  package let history: History?

  /// Writes the history, if there is one, to the file at `path`.
  package borrowing func writeHistory(to path: String) throws(HistoryError) {
    switch history {
    case .some(let history): try history.write(to: path)
    case .none: break
    }
  }
}

/// Puts stock behind the SKUs `sku-0000000` and so on, for tools that bring their own load.
package func prepareStock(
  target: Endpoint, skus: Int, units: Int64, run: RunID
) throws(LoadError) {
  guard (1...SKUNames.countMaximum).contains(skus) else {
    throw LoadError("--skus must be 1 to \(SKUNames.countMaximum)")
  }
  guard (0...1 << 40).contains(units) else { throw LoadError("--units must be 0 to 2^40") }
  var client = try StockClient.connect(to: target)
  try client.setStock(
    Array(repeating: units, count: skus), SKUNames(prefix: "sku-"), run: run,
    reason: "holdfast-load prepare")
}

/// Prepares stock, runs the load, compares with the server. SIGINT and SIGTERM end it early: what
/// there is by then is compared and reported.
package func run(
  _ options: RunOptions, hooks: RunHooks = RunHooks()
) throws(LoadError) -> RunResult {
  try options.validate()
  EndSignals.handle()
  Machine.raiseDescriptorLimit()
  if let pid = options.serverPID, Machine.processCPUNanoseconds(of: pid) == nil {
    throw LoadError("there is no process \(pid); give the server's process id as --server-pid")
  }
  var options = options
  options.target = try StockClient.findOwner(options.target, run: options.run)
  var monitor = ServerMonitor(options)
  try monitor.begin()
  let feed = options.followsFeed ? FeedWatcher(options) : nil
  defer { feed?.stop() }
  try feed?.begin()
  if options.verifies {
    var client = try StockClient.connect(to: options.target)
    try client.setStock(
      options.workload.stock, safetyStock: -options.workload.overcommit,
      SKUNames(run: options.run), run: options.run, reason: RunOptions.stockReason)
  }
  var supervisor = try Supervisor(options, monitor)
  try supervisor.work(hooks)

  var facts = RunFacts(options)
  supervisor.tell(&facts)
  var books = Books()
  try supervisor.takeResults(&facts, &books)
  if let lost = facts.agentsLost.first {
    // Its calls are in no ledger: what they took and gave back nobody knows.
    facts.checkFailure = "\(lost), and its calls with it"
  } else if facts.statistics.attempts == 0 {
    let reason = facts.statistics.firstConnectionLoss ?? "too short a run"
    throw LoadError("no call was sent: \(reason)")
  } else {
    facts.checkFailure = facts.silenceOfOrders
  }
  var history = History(run: options.run, stock: options.workload.stock, books: books)
  history.safetyStock = -options.workload.overcommit
  history.seed = options.seed
  history.configuration = options.commandLine
  history.startNanoseconds = facts.startNanoseconds
  history.startedUnixNanoseconds = facts.startedUnixNanoseconds
  for fault in facts.sampleFaults { history.note(fault) }
  if facts.checkFailure == nil, options.verifies, options.compares || options.savesHistory {
    do throws(LoadError) {
      history.levels = try readLevels(options)
    } catch {
      facts.checkFailure = "the balances could not be read: \(error)"
    }
  }
  if let feed { facts.conclude(feed, &history) }
  if options.verifies, options.compares, facts.agentsLost.isEmpty { facts.check(history) }
  let report = Report(options, facts)
  if !options.savesHistory || !facts.agentsLost.isEmpty {
    return RunResult(report: report, exitStatus: facts.exitStatus, history: nil)
  }
  return RunResult(report: report, exitStatus: facts.exitStatus, history: consume history)
}

private func readLevels(_ options: RunOptions) throws(LoadError) -> [ReadLevel] {
  var client = try StockClient.connect(to: options.target)
  return try client.readLevels(options.workload.skuCount, SKUNames(run: options.run))
}

extension FeedWatcher {
  /// Beside a run: from now on, before anything of it is decided.
  fileprivate convenience init(_ options: RunOptions) {
    self.init(
      options.target, run: options.run, stock: options.workload.stock,
      safetyStock: -options.workload.overcommit, keepsCommitted: options.workload.keepsCommitted,
      workers: options.workers, from: .now, mark: 0)
  }
}

extension RunFacts {
  /// Compares the feed with the ledgers, where the server is still there to end it.
  fileprivate mutating func conclude(_ feed: FeedWatcher, _ history: inout History) {
    var failure: String?
    if checkFailure == nil {
      failure = feed.finish(history)
    } else {
      feed.stop()
    }
    if let failure { checkFailure = "the change feed could not be followed: \(failure)" }
    history.violations += feed.violations
    self.feed = FeedFacts(
      counts: feed.counts, reconnects: feed.reconnects, isWhole: checkFailure == nil)
  }
}

extension RunOptions {
  /// Balances are compared while the load runs.
  ///
  /// What agents have sent so far nobody knows at the instant of a read.
  var watches: Bool { verifies && compares && agents.isEmpty && agentShare == nil }
}
