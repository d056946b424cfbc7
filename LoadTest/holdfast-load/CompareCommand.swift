internal import ArgumentParser
internal import FoundationEssentials
internal import LoadKit
internal import LoadReport

struct CompareCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compare",
    abstract: "Compares runs or servers, and says what difference they show beyond their noise.",
    discussion: """
      Reports of earlier runs, five of each, taken in turn. Reports of one --label are runs of one \
      variant; without labels, old-1.json and old-2.json are runs of old. The first variant is the \
      baseline of all ratios:
        holdfast-load compare old-*.json new-*.json --html difference.html
      Servers, each started afresh for every run, in turns, with the same load and seed:
        holdfast-load compare --duration 3 \\
          --server 'one=holdfast serve --port {port} --admin-port {admin} --data-dir {data} --loops 1' \\
          --server 'two=holdfast serve --port {port} --admin-port {admin} --data-dir {data} --loops 2'

      {port} and {admin} become free ports, {data} an empty folder. Commands are split at blanks; \
      '…', "…" and \\ keep words together as in a shell, and nothing else has a meaning: sh -c '…' is \
      a shell.

      Exit status: 0 whatever the difference, 1 a run violated an invariant (such a variant loses), \
      2 it could not be compared.
      """)

  @Argument(help: "Reports that `run --json` wrote.")
  var reports: [String] = []
  @OptionGroup(title: "Servers") var sideBySide: SideBySideFlags
  @OptionGroup(title: "Load of servers") var connections: ConnectionFlags
  @OptionGroup(title: "Load of servers") var load: LoadFlags
  @OptionGroup(title: "Load of servers") var access: AccessFlags
  @OptionGroup(title: "Workload of servers") var workload: WorkloadFlags
  @OptionGroup(title: "Output") var output: ComparisonFlags

  func run() throws {
    let files = try ComparisonOutput(output)
    var comparison = try sideBySide.server.isEmpty ? compareReports() : compareServers()
    let failures = try files.finish(&comparison)
    for failure in failures { HoldfastLoad.tell("holdfast-load: \(failure)") }
    if !comparison.disqualified.isEmpty { throw ExitCode(1) }
    if !failures.isEmpty { throw ExitCode(2) }
  }

  private func compareReports() throws -> Comparison {
    let comparison = Comparison(try reports.map { try CompareCommand.read($0) })
    if comparison.variants.count > 1 { return comparison }
    throw LoadError(
      comparison.variants.isEmpty
        ? "name reports or servers to compare; holdfast-load compare --help says how"
        : "all reports are of one variant, \(comparison.variants[0]): run with --label, or name the "
          + "files by variant")
  }

  private static func read(_ path: String) throws(LoadError) -> ComparedReport {
    let bytes: [UInt8]
    do {
      bytes = [UInt8](try Data(contentsOf: URL(filePath: path)))
    } catch {
      throw LoadError("cannot read \(path): \(reason(error))")
    }
    do throws(ReportError) {
      return try ComparedReport(file: path, json: bytes)
    } catch {
      throw LoadError("cannot compare \(path): \(error)")
    }
  }

  // MARK: Servers

  private func compareServers() throws -> Comparison {
    if !reports.isEmpty { throw LoadError("compare reports, or servers with --server, not both") }
    var options = try sideBySide.options()
    options.loads = try loads()
    let total = options.runCount
    HoldfastLoad.tell("\(Text.counted(total, "run")), each of a server that was started for it")
    var comparison: Comparison
    do {
      comparison = try LoadKit.compareServers(options) { (done, what, report) throws(LoadError) in
        let width = String(total).count
        let all = report.latencyMicroseconds["all"] ?? LatencySummary()
        HoldfastLoad.tell(
          "[\(Text.right(String(done), width))/\(total)] \(what): "
            + "\(Text.decimal(report.requestsPerSecond, 0)) requests/s, "
            + "p99 \(Text.duration(microseconds: all.p99))"
            + (report.result == .violated ? " — \(report.verdict.sentence)" : ""))
        return try sideBySide.keep(report, number: done, of: total, what)
      }
    } catch {
      if let signal = EndSignals.received { throw ExitCode(128 + signal) }
      throw error
    }
    comparison.commandLine = CommandLine.quoted
    return comparison
  }

  /// A load for every workload; where there is a rate, a closed loop and the open one.
  private func loads() throws -> [SideBySideOptions.Load] {
    if load.rate != nil, sideBySide.peakShare != nil {
      throw LoadError("--rate or --peak-share, not both")
    }
    // Who names nothing means the workload of `run`.
    var sources: [(name: String, scenario: Scenario?, file: WorkloadFile?)] = []
    for name in sideBySide.scenario { sources.append((name, try Scenario.named(name), nil)) }
    for path in sideBySide.workload {
      let file = try WorkloadFile(path: path)
      let last = path.split(separator: "/").last.map(String.init) ?? path
      let name = last.hasSuffix(".json") ? String(last.dropLast(5)) : last
      sources.append((name, try file.namedScenario(), file))
    }
    if sources.isEmpty { sources.append(("", nil, nil)) }
    return try sources.flatMap { source in
      try access.check(usesTLS: access.tls)
      var options = RunOptions(target: try access.apply(to: .standard))
      connections.apply(to: &options)
      try load.apply(to: &options, scenario: source.scenario)
      options.workload = try workload.workload(
        source.scenario, source.file, operations: options.operations)
      options.commandLine = CommandLine.quoted
      try options.validate()
      var closed = options
      closed.profile = nil
      return (load.rate == nil ? [closed] : [closed, options]).map {
        SideBySideOptions.Load(name: source.name, options: $0)
      }
    }
  }
}

/// Which servers, how often, and what they are tried with.
struct SideBySideFlags: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      """
      A command that starts a server on {port}; NAME=COMMAND names it. Give two or more; the first \
      is the baseline.
      """, valueName: "command"))
  var server: [String] = []
  @Option(
    name: .customLong("repeat"),
    help: ArgumentHelp("Runs of each server under each load, 1 to 1000.", valueName: "n"))
  var repeats = 5
  @Option(help: "A named workload, as of `run`. May be given again: each is tried.")
  var scenario: [String] = []
  @Option(
    help: ArgumentHelp("A workload file. May be given again: each is tried.", valueName: "file"))
  var workload: [String] = []
  @Option(
    name: .customLong("with"),
    help: ArgumentHelp(
      """
      A placeholder of your own, and the values that are tried: durability=memory,fsync puts each in \
      the place of {durability}.
      """, valueName: "name=value,…"))
  var placeholder: String?
  @Option(
    help: ArgumentHelp(
      """
      After the closed loop an open one, at this share of the rate that the slowest server carried \
      in it, above 0 to 1: their tails at one rate. --rate names the rate itself.
      """, valueName: "share"))
  var peakShare: Double?
  @Option(
    help: ArgumentHelp(
      "Where the folders of the servers are made: on the disk that is meant.", valueName: "folder"))
  var folder = "/tmp"
  @Option(
    help: ArgumentHelp(
      "Keep the report of every run, as JSON, in this folder.", valueName: "folder"))
  var keep: String?

  func options() throws(LoadError) -> SideBySideOptions {
    var options = SideBySideOptions()
    options.servers = ServerCommand.named(
      try server.map { (text) throws(LoadError) in try ServerCommand(text) })
    if options.servers.count < 2 { throw LoadError("--server: give two or more to compare") }
    guard (1...1_000).contains(repeats) else { throw LoadError("--repeat must be 1 to 1000") }
    options.repeats = repeats
    if let peakShare, !(peakShare > 0 && peakShare <= 1) {
      throw LoadError("--peak-share must be above 0, up to 1")
    }
    options.peakShare = peakShare
    options.folder = folder
    if let placeholder {
      let parts = placeholder.split(separator: "=", maxSplits: 1)
      let values = parts.last?.split(separator: ",").map(String.init) ?? []
      guard parts.count == 2, !values.isEmpty else {
        throw LoadError("--with is a name and values: durability=memory,fsync")
      }
      let name = String(parts[0])
      guard options.servers.contains(where: { $0.command.uses(name) }) else {
        throw LoadError("--with \(name): no --server says {\(name)}")
      }
      options.placeholder = SideBySideOptions.Placeholder(name: name, values: values)
    }
    if let keep { try makeFolder(keep) }
    return options
  }

  /// Writes a report where reports are kept. Answers the path, or nothing where they are not.
  func keep(
    _ report: Report, number: Int, of total: Int, _ what: String
  ) throws(LoadError) -> String {
    guard let keep else { return "" }
    let digits = String(number)
    let padded = String(repeating: "0", count: String(total).count - digits.count) + digits
    let words = what.split { !$0.isLetter && !$0.isNumber && $0 != "." && $0 != "-" }
    let path = "\(keep)/\(padded)-\(words.joined(separator: "-").prefix(100)).json"
    do {
      try save(JSONReport.encode(report), to: path)
    } catch {
      throw LoadError("cannot write \(path): \(error)")
    }
    return path
  }
}
