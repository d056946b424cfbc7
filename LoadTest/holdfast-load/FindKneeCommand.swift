internal import ArgumentParser
internal import LoadHistory
internal import LoadKit
internal import LoadReport
internal import Posix

struct FindKneeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "find-knee",
    abstract: "Finds the highest rate that keeps requirements, and says what breaks beyond it.",
    discussion: """
      Raises the rate of an open loop step by step until a requirement breaks, or lowers it until all \
      are kept, closes in on the highest rate that keeps all of them, and runs that once more. Every \
      step is a run of its own, with stock of its own, and is checked. A step also breaks where the \
      schedule could not be carried, and where more than 0.1 % of its calls failed, unless a \
      requirement speaks of errors.

        holdfast-load find-knee --require 'p99<5ms'
        holdfast-load find-knee --scenario carts --require 'p99.9<20ms'

      Where the generator was the limit it says so, gives no figure of the server, and says what to \
      change.

      Exit status: 0 found, 1 an invariant is violated, 2 nothing found or the run could not be made.
      """)

  @Option(
    help: ArgumentHelp(
      """
      What a rate has to keep, as --require of `run` takes it: 'p99<5ms', 'Reserve.p99.9<20ms', \
      'errors<0.1%'. May be given again.
      """, valueName: "requirement"))
  var require: [String] = []
  @Option(
    help: ArgumentHelp("The same as --require, for one more release.", valueName: "requirement"))
  var limit: [String] = []
  @Option(
    help: ArgumentHelp(
      """
      The first rate, calls per second. (default: a tenth of what a closed loop of two seconds \
      carries)
      """, valueName: "rate"))
  var from: Double?
  @Option(
    help: ArgumentHelp(
      "How close the answer is to the lowest rate that broke: 0.5 to 100 percent.",
      valueName: "percent"))
  var resolution = 5.0
  @Option(
    help: ArgumentHelp("How long a step is measured; longer is steadier.", valueName: "time"))
  var stepSeconds = Seconds(5)
  @Option(help: ArgumentHelp("Load before the measurement of a step.", valueName: "time"))
  var warmUp = Seconds(1)
  @Option(help: "How calls are spread: as customers are, or at even distances.")
  var arrivals = Arrivals.poisson

  @OptionGroup(title: "Server") var server: TargetFlags
  @OptionGroup(title: "Orders") var orders: OrderFlags
  @OptionGroup(title: "Load") var connections: ConnectionFlags
  @OptionGroup(title: "Workload") var scenario: ScenarioFlags
  @OptionGroup(title: "Workload") var workload: WorkloadFlags
  @Option(
    help: ArgumentHelp(
      "Write the steps and the answer as JSON to this file; - is standard output.",
      valueName: "file"))
  var json: String?
  @Option(
    help: ArgumentHelp(
      "Write the answer, and the verdict of every step, as JUnit XML to this file, for CI.",
      valueName: "file"))
  var junit: String?

  func run() throws {
    let limits =
      try require.map { try Threshold(flag: "--require", $0) }
      + limit.map { try Threshold(flag: "--limit", $0) }
    for text in limit {
      HoldfastLoad.tell("holdfast-load: --limit '\(text)' will go: write --require '\(text)'")
    }
    let base = try options()
    let planned = try PlannedFiles([json, junit])
    defer { withExtendedLifetime(planned) {} }
    var report = KneeReport(limits: limits, threads: base.threads)
    // A step that a signal ended has the signal's status.
    var status: Int32 = 2
    do throws(LoadError) {
      let result = try search(base, limits, &report, &status)
      report.conclude(result)
      switch result {
      case .found: status = 0
      case .violated: status = 1
      case .unlimited, .none, .generatorWasLimit, .unsteady: break
      }
    } catch {
      // What there is by then is told all the same.
      report.conclusion = "the search ended early: \(error)"
    }
    say("\n" + report.text)
    try write(report)
    if status != 0 { throw ExitCode(status) }
  }

  private func search(
    _ base: RunOptions, _ limits: [Threshold], _ report: inout KneeReport, _ status: inout Int32
  ) throws(LoadError) -> KneeResult {
    var fromRate = from ?? 0
    if from == nil {
      let closed = try step(base, at: nil, &status)
      let carried = closed.requestsPerSecond
      if closed.result == .violated {
        return .violated(rate: carried, verdict: closed.verdict.sentence)
      }
      say("closed loop: \(KneeReport.rate(carried)); the search begins at a tenth of it")
      fromRate = max(1, carried / 10)
    }
    say(KneeReport.heading)
    var search = KneeSearch(
      fromRate: fromRate,
      lowestRate: FindKneeCommand.callsOfAStep / (stepSeconds.seconds + warmUp.seconds))
    search.resolution = resolution / 100
    return try search.run { (rate, isConfirmation) throws(LoadError) in
      let run = try self.step(base, at: rate, &status)
      let outcome = try report.add(run, rate: rate, isConfirmation: isConfirmation, limits: limits)
      if let step = report.steps.last { say(KneeReport.line(step)) }
      return outcome
    }
  }

  private func options() throws -> RunOptions {
    if require.isEmpty, limit.isEmpty {
      throw LoadError("--require is missing: such as --require 'p99<5ms'")
    }
    if let from, !(LoadProfile.rateMinimum...LoadProfile.rateMaximum).contains(from) {
      throw LoadError("--from must be 0.001 to 10000000 calls per second")
    }
    guard (0.5...100).contains(resolution) else {
      throw LoadError("--resolution must be 0.5 to 100 percent")
    }
    var options = try server.options()
    options.via = try orders.route()
    connections.apply(to: &options)
    let (scenario, file) = try scenario.read()
    options.workload = try workload.workload(scenario, file, operations: nil)
    options.arrivals = arrivals
    options.durationSeconds = stepSeconds.seconds
    options.warmUpSeconds = warmUp.seconds
    options.commandLine = CommandLine.quoted
    guard (0.05...3_600).contains(stepSeconds.seconds) else {
      throw LoadError("--step-seconds must be 0.05 to 3600 s")
    }
    if options.workload.dueTogetherNanoseconds != nil {
      throw LoadError("--due-together makes a load that is not steady: there is no knee to find")
    }
    try options.validate()
    return options
  }

  /// A run at one rate, or in a closed loop of two seconds, with stock of its own.
  private func step(
    _ base: RunOptions, at rate: Double?, _ status: inout Int32
  ) throws(LoadError) -> Report {
    var options = base
    options.run = RunID(Machine.random64())
    options.profile = rate.map { LoadProfile(ratePerSecond: $0) }
    if rate == nil { options.durationSeconds = 2 }
    // Without a terminal, the line of each step is sign of life enough.
    var live = Terminal(descriptor: 2).canRedraw ? LiveView() : nil
    defer { live?.clear() }
    var hooks = RunHooks()
    hooks.progress = { live?.show($0) }
    let result = try LoadKit.run(options, hooks: hooks)
    if result.exitStatus >= 128 {
      status = result.exitStatus
      throw LoadError("interrupted")
    }
    return result.report
  }

  /// A rate that makes so few calls in a step says nothing.
  private static let callsOfAStep = 10.0

  /// On standard error where the answer goes to standard output as JSON.
  private func say(_ line: String) { HoldfastLoad.tell(line, on: json == "-" ? 2 : 1) }

  private func write(_ report: KneeReport) throws {
    if let junit { try save(JUnit(report).xml.utf8, to: junit) }
    guard let json else { return }
    let data = try JSONReport.encode(report)
    try FindKneeCommand.attempt(json) { () throws(Errno) in
      let file = try json == "-" ? OutputFile(duplicating: 1) : OutputFile(path: json)
      if json != "-" { try file.empty() }
      try file.write(Array(data))
    }
  }

  private static func attempt(
    _ path: String, _ body: () throws(Errno) -> Void
  ) throws(LoadError) {
    do { try body() } catch { throw LoadError("cannot write \(path): \(error)") }
  }
}
