// One whole run: stock, workers, verdict.
package import LoadHistory
package import LoadReport
internal import Posix
internal import Synchronization

/// How a run ended.
package struct RunResult: ~Copyable {
  package let report: Report
  /// Status for exit(3): 0 all invariants hold, 1 one is violated, 2 nothing could be said.
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

/// Prepares stock, runs the load, compares with the server.
///
/// - Parameter progress: told a few times a second how the run stands.
package func run(
  _ options: RunOptions, progress: (Progress) -> Void
) throws(LoadError) -> RunResult {
  try options.validate()
  Machine.raiseDescriptorLimit()
  let names = SKUNames(run: options.run)
  if let pid = options.serverPID, Machine.processCPUNanoseconds(of: pid) == nil {
    throw LoadError("there is no process \(pid); give the server's process id as --server-pid")
  }
  if options.verifies {
    var client = try StockClient.connect(to: options.target)
    try client.setStock(
      options.workload.stock, names, run: options.run, reason: RunOptions.stockReason)
  }
  let workers = try startWorkers(options)
  let before = try options.admin.map { (admin) throws(LoadError) in try MetricsPage.fetch(admin) }
  try work(workers, options, progress)
  let after = options.admin.flatMap { try? MetricsPage.fetch($0) }

  var statistics = Statistics()
  var books = Books()
  var busyShares: [Double] = []
  for worker in workers.all {
    if let failure = worker.failure { throw failure }
    statistics.add(worker.statistics)
    busyShares.append(
      Double(worker.statistics.cpuNanoseconds) / Double(max(1, worker.statistics.wallNanoseconds)))
    if let ledger = worker.takeLedger() { books.add(ledger) }
  }
  if statistics.attempts == 0 {
    throw LoadError("no call was sent: \(statistics.firstConnectionLoss ?? "too short a run")")
  }
  let start = workers.control.startNanoseconds.load(ordering: .relaxed)
  var history = History(run: options.run, stock: options.workload.stock, books: books)
  history.seed = options.seed
  history.startNanoseconds = start
  history.startedUnixNanoseconds =
    SystemClock().now().nanoseconds + start - SystemClock.monotonicNanoseconds()
  var findings: Findings?
  var checkFailure: String?
  if !options.compares {
    checkFailure = "nothing was compared"
  } else if options.verifies {
    do throws(LoadError) {
      var client = try StockClient.connect(to: options.target)
      history.levels = try client.readLevels(options.workload.skuCount, names)
      findings = history.check()
    } catch {
      checkFailure = "the balances could not be read: \(error)"
    }
  }
  let page = before.flatMap { before in after.map { $0.since(before) } }
  let report = Report(
    options, statistics, busyShares: busyShares, findings: findings, checkFailure: checkFailure,
    server: page)
  let isCompared = options.verifies && options.compares
  let status: Int32 = findings.map { $0.holds ? 0 : 1 } ?? (isCompared ? 2 : 0)
  if !options.savesHistory {
    return RunResult(report: report, exitStatus: status, history: nil)
  }
  return RunResult(report: report, exitStatus: status, history: history)
}

private struct Workers {
  let all: [Worker]
  let threads: [Thread]
  let control: RunControl
}

/// Starts a thread per worker, and waits until all are connected.
private func startWorkers(_ options: RunOptions) throws(LoadError) -> Workers {
  let control = RunControl()
  let weights = AliasTable(options.workload)
  var workers: [Worker] = []
  var threads: [Thread] = []
  for number in 0..<options.threads {
    let worker = Worker(number: number, options: options, control: control, weights: weights)
    workers.append(worker)
    do {
      threads.append(try Thread(name: "load-\(number)") { worker.run() })
    } catch { throw LoadError("cannot start a thread: \(error)") }
  }
  while control.ready.load(ordering: .acquiring) < options.threads { sleep(milliseconds: 1) }
  return Workers(all: workers, threads: threads, control: control)
}

/// Sets off the workers, shows how they stand, and joins them.
private func work(
  _ workers: Workers, _ options: RunOptions, _ progress: (Progress) -> Void
) throws(LoadError) {
  let control = workers.control
  let hasFailed = workers.all.contains { $0.failure != nil }
  let start = SystemClock.monotonicNanoseconds() + 2_000_000
  control.startNanoseconds.store(hasFailed ? -1 : start, ordering: .releasing)
  let warmUp = options.operations == nil ? options.warmUpSeconds : 0
  while control.finished.load(ordering: .acquiring) < workers.threads.count {
    sleep(milliseconds: 50)
    var standing = Progress()
    standing.elapsedSeconds = Double(max(0, SystemClock.monotonicNanoseconds() - start)) / 1e9
    standing.totalSeconds = options.measuredSeconds.map { warmUp + $0 }
    standing.totalOperations = options.operations
    standing.answered = control.answered.load(ordering: .relaxed)
    standing.accepted = control.accepted.load(ordering: .relaxed)
    standing.refused = control.refused.load(ordering: .relaxed)
    standing.failed = control.failed.load(ordering: .relaxed)
    progress(standing)
  }
  for thread in workers.threads { thread.join() }
}
