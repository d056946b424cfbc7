internal import ArgumentParser
internal import LoadHistory
internal import LoadKit
internal import LoadReport
internal import Posix

struct RunCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run",
    abstract: "Runs a load, and compares every answer with the server's balances.",
    discussion: """
      Closed loop, 8 connections of 10 calls in flight, for 10 seconds:
        holdfast-load run
      20,000 calls a second, spread as customers are, for a minute:
        holdfast-load run --rate 20000 --arrivals poisson --duration 60
      A ramp, then a plateau, of carts, with a page to look at:
        holdfast-load run --scenario carts --rate 0-50000/30s,50000/60s --html report.html
      A scenario with numbers of one's own, written down and used:
        holdfast-load run --scenario checkout --pay-time 50ms-2s --print-workload > mine.json
        holdfast-load run --workload mine.json --threads 2
      For a pipeline: fails with status 3 where the requirement is broken:
        holdfast-load run --rate 5000 --require 'p99<5ms' --json report.json

      Exit status: 0 all invariants hold, 1 one is violated, 2 the run could not be made or \
      compared, 3 a --require is broken, 4 an --abort-if ended it.
      """)

  @OptionGroup(title: "Server") var server: TargetFlags
  @OptionGroup(title: "Orders") var orders: OrderFlags
  @OptionGroup(title: "Load") var connections: ConnectionFlags
  @OptionGroup(title: "Load") var load: LoadFlags
  @OptionGroup(title: "Workload") var scenario: ScenarioFlags
  @OptionGroup(title: "Workload") var workload: WorkloadFlags
  @OptionGroup(title: "Check") var check: CheckFlags
  @OptionGroup(title: "Report") var report: ReportFlags
  @Flag(help: "Print the workload as --workload takes it, and do nothing else.")
  var printWorkload = false
  @Flag(
    help: """
      Two runs that show what this is about: a flash sale of 1,000 units, then a mixed load. Flags \
      of the load and the workload do not count beside it.
      """)
  var demo = false

  struct CheckFlags: ParsableArguments {
    @Option(
      help: ArgumentHelp(
        """
        Write every call and its answer to this file; `check` and `audit` read it, also after the \
        server has died.
        """, valueName: "file"))
    var history: String?
    @Flag(
      help: """
        Follow the change feed meanwhile (EventService.Watch), and hold each of its events against \
        the calls.
        """)
    var watch = false
    @Flag(name: .customLong("no-check"), help: "Compare nothing with the server's balances.")
    var noCheck = false
    @Flag(
      name: .customLong("no-verify"),
      help: "Prepare no stock and compare nothing: for servers that only answer.")
    var noVerify = false
  }

  func run() throws {
    if printWorkload {
      print(try options().workload.json, terminator: "")
      return
    }
    let runs = demo ? try demoRuns() : [try options()]
    var status: Int32 = 0
    for (number, options) in runs.enumerated() {
      if demo { HoldfastLoad.tell(RunCommand.demoTitles[number], on: report.json == "-" ? 2 : 1) }
      let ended = try run(options)
      if status == 0 { status = ended }
    }
    if status != 0 { throw ExitCode(status) }
  }

  private func run(_ options: RunOptions) throws -> Int32 {
    // Before any file is made.
    try options.validate()
    let output = try ReportOutput(
      report, history: check.history, title: Report.Configuration(options).title)
    defer { output.clear() }
    var hooks = RunHooks()
    var metrics: MetricsServer?
    if let port = report.metricsPort {
      let server = try MetricsServer(host: report.metricsHost, port: port)
      HoldfastLoad.tell(
        "holdfast-load: metrics at http://\(report.metricsHost):\(server.port)/metrics")
      hooks.metrics = { server.publish($0) }
      metrics = server
    }
    defer { metrics?.stop() }
    hooks.progress = { output.progress($0) }
    hooks.interval = { output.interval($0, $1, startEpochNanoseconds: $2) }
    let result = try LoadKit.run(options, hooks: hooks)
    let status = output.finish(result.report, exitStatus: result.exitStatus)
    guard let path = check.history else { return status }
    do throws(HistoryError) {
      try result.writeHistory(to: path)
    } catch {
      HoldfastLoad.tell("holdfast-load: \(error)")
      // A violation, or a signal, stays what the run is known by.
      return status == 0 || status == 3 ? 2 : status
    }
    return status
  }

  private func options() throws -> RunOptions {
    var options = try common()
    let (scenario, file) = try scenario.read()
    try load.apply(to: &options, scenario: scenario)
    options.workload = try workload.workload(scenario, file, operations: options.operations)
    // Without stock and checked answers there is no reservation to end.
    if check.noVerify {
      options.workload.confirmShare = 0
      options.workload.releaseShare = 0
      options.workload.extendShare = 0
      options.workload.replaceShare = 0
      options.workload.countShare = 0
    }
    options.verifies = !check.noVerify
    options.compares = !check.noCheck
    options.followsFeed = check.watch
    options.savesHistory = check.history != nil
    options.abortConditions = try report.conditions()
    return options
  }

  private func common() throws(LoadError) -> RunOptions {
    var options = try server.options()
    options.via = try orders.route()
    connections.apply(to: &options)
    options.label = report.label
    options.commandLine = CommandLine.quoted
    return options
  }

  // MARK: Demo

  private static let demoTitles = [
    "\nFlash sale: one SKU, 1,000 units, everybody at once\n",
    "\nMixed load: a hot SKU and 999 others, carts of 1 to 3 lines, retries, releases\n",
  ]

  private func demoRuns() throws(LoadError) -> [RunOptions] {
    var sale = try common()
    sale.durationSeconds = 2.5
    sale.warmUpSeconds = 0
    sale.workload.scenario = "flash-sale"
    sale.workload.units = 1_000
    // What is sold stays sold: exactly 1,000 can win.
    sale.workload.confirmShare = 0.9
    sale.workload.releaseShare = 0
    sale.workload.duplicateShare = 0.05
    var mixed = try common()
    mixed.durationSeconds = 5
    mixed.workload.scenario = "mixed"
    mixed.workload.hotUnits = 1_000
    mixed.workload.skuCount = 1_000
    mixed.workload.distribution = .zipf(exponent: 0.9)
    mixed.workload.hotShare = 0.1
    mixed.workload.lines = 1...3
    mixed.workload.duplicateShare = 0.05
    return [sale, mixed]
  }
}
