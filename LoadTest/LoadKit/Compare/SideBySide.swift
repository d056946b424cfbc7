// Servers beside each other: each is started afresh for every run, in turns that favour nobody, and gets
// the same load with the same seed.
internal import LoadHistory
package import LoadReport
internal import Posix

/// What `compareServers` is asked to do.
package struct SideBySideOptions: Sendable {
  /// One load that every server gets.
  package struct Load: Sendable {
    /// Told in the comparison where there are several.
    package var name: String
    /// Where it goes is filled in.
    package var options: RunOptions

    package init(name: String, options: RunOptions) {
      self.name = name
      self.options = options
    }
  }

  /// A further placeholder of the commands, every value of which is tried: `{durability}`.
  package struct Placeholder: Sendable {
    package var name: String
    package var values: [String]

    package init(name: String, values: [String]) {
      self.name = name
      self.values = values
    }
  }

  package var servers: [(name: String, command: ServerCommand)] = []
  /// Closed or open, as their options say.
  package var loads: [Load] = []
  package var placeholder: Placeholder?
  /// Runs of each server under each load.
  package var repeats = 5
  /// After each closed loop an open one, at this share of the rate that the slowest had in it.
  package var peakShare: Double?
  /// Where the servers' folders are made: on the disk that is meant, where they sync.
  package var folder = "/tmp"

  package init() {}

  /// How many runs it makes.
  package var runCount: Int {
    let columns = placeholder?.values.count ?? 1
    return servers.count * repeats * columns * loads.count * (peakShare == nil ? 1 : 2)
  }
}

/// Compares servers.
///
/// - Parameter finished: told after each run how many were made, what this one was and its report;
///   answers where the report is kept, if it is.
/// - Throws: as soon as a server does not start, dies or gives no verdict. A violated invariant is no
///   such failure: it stands in the comparison.
package func compareServers(
  _ options: SideBySideOptions,
  finished: @escaping (_ done: Int, _ what: String, Report) throws(LoadError) -> String
) throws(LoadError) -> Comparison {
  EndSignals.handle()
  var sideBySide = SideBySide(options: options, finished: finished)
  var comparison = Comparison()
  comparison.variants = options.servers.map(\.name)
  for server in options.servers { comparison.commands[server.name] = server.command.command }
  for value in options.placeholder?.values ?? [""] {
    for load in options.loads {
      let prefix =
        load.name.isEmpty || value.isEmpty ? load.name + value : "\(load.name) (\(value))"
      let first = try sideBySide.run(load.options, prefix, value)
      comparison.cases.append(first)
      guard let share = options.peakShare else { continue }
      let rates = options.servers.compactMap { server in
        first.values(of: "rate", server.name).min()
      }
      var open = load.options
      open.operations = nil
      open.profile = LoadProfile(ratePerSecond: max(1, ((rates.min() ?? 0) * share).rounded()))
      comparison.cases.append(try sideBySide.run(open, prefix, value))
    }
  }
  comparison.finish()
  return comparison
}

private struct SideBySide {
  let options: SideBySideOptions
  let finished: (_ done: Int, _ what: String, Report) throws(LoadError) -> String
  private var done = 0

  init(
    options: SideBySideOptions,
    finished: @escaping (_ done: Int, _ what: String, Report) throws(LoadError) -> String
  ) {
    self.options = options
    self.finished = finished
  }

  /// Every server under one load.
  mutating func run(
    _ load: RunOptions, _ prefix: String, _ value: String
  ) throws(LoadError) -> Comparison.Case {
    let loop = load.profile == nil ? "closed loop" : "open loop"
    let name = prefix.isEmpty ? loop : "\(prefix), \(loop)"
    var reports: [ComparedReport] = []
    for round in 0..<options.repeats {
      for index in turns(of: options.servers.count, round: round) {
        let server = options.servers[index]
        let report = try runOnce(load, server, value)
        done += 1
        let file = try finished(done, "\(name): \(server.name)", report)
        reports.append(ComparedReport(variant: server.name, file: file, report: report))
      }
    }
    return Comparison.Case(name, variants: options.servers.map(\.name), reports: reports)
  }

  private func runOnce(
    _ load: RunOptions, _ server: (name: String, command: ServerCommand), _ value: String
  ) throws(LoadError) -> Report {
    var values: [String: String] = [:]
    if let placeholder = options.placeholder { values[placeholder.name] = value }
    var started = try StartedServer.start(
      server.command, name: server.name, values: values, parent: options.folder)
    var run = load
    run.target = started.target.spokenTo(as: load.target)
    run.admin = started.admin
    run.serverPID = started.processIdentifier
    // Whoever compares the kept reports again has to be able to tell the columns apart.
    run.label = value.isEmpty ? server.name : "\(server.name) \(value)"
    run.run = RunID(Machine.random64())
    var report: Report
    do {
      report = try LoadKit.run(run).report
    } catch {
      // Its own last words say more, if it is that which has ended.
      try started.checkAlive("under the load")
      throw LoadError("\(server.name): \(error)")
    }
    if EndSignals.received != nil { throw LoadError("interrupted") }
    try started.checkAlive("under the load")
    if report.result == .unknown { throw LoadError("\(server.name): \(report.verdict.sentence)") }
    try started.stop()
    report.label = run.label
    return report
  }
}

/// The order of a round: every server comes early and late as often, and not always behind the same one.
/// Of two: AB, BA, BA, AB; of three: ABC, CBA, BCA, ACB, CAB, BAC.
func turns(of count: Int, round: Int) -> [Int] {
  let rotated = (0..<count).map { ($0 + round / 2) % count }
  return round % 2 == 0 ? rotated : rotated.reversed()
}
