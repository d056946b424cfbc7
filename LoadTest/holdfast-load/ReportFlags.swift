internal import ArgumentParser
internal import LoadKit
internal import LoadReport

/// Where a run's report goes, and what it has to say.
struct ReportFlags: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "A name that repetitions of this run share; `compare` groups by it.", valueName: "text"))
  var label: String?
  @Option(
    help: ArgumentHelp(
      "Write the report as JSON; - is standard output, and the text then goes to standard error.",
      valueName: "file"))
  var json: String?
  @Option(
    help: ArgumentHelp(
      "Write the report as one HTML page, with charts, that needs no network.", valueName: "file"))
  var html: String?
  @Option(
    help: ArgumentHelp(
      "Write the latencies of each interval as an HdrHistogram V2 log, while the run goes on.",
      valueName: "file"))
  var hdr: String?
  @Option(
    help: ArgumentHelp(
      "Write requirements and verdict as JUnit XML, a test case each, for CI.", valueName: "file"))
  var junit: String?
  @Option(
    help: ArgumentHelp(
      """
      End the run with status 4 once this is so: 'errors>5% for 3s', 'p99>200ms for 5s', over the last seconds of the \
      measured part together; 5s where none are named. May be given again.
      """, valueName: "condition"))
  var abortIf: [String] = []
  @Option(
    help: ArgumentHelp(
      """
      Answer GET /metrics with the run's own metrics (OpenMetrics) on this port while it lasts; 0: a free one, which is told \
      on standard error.
      """, valueName: "port"))
  var metricsPort: UInt16?
  @Option(
    help: ArgumentHelp("The IP address for --metrics-port.", valueName: "address"))
  var metricsHost = "127.0.0.1"
  @Option(
    help: ArgumentHelp(
      """
      Exit with status 3 unless this is so: 'p99<5ms', 'rate>=5000/s', 'errors<0.1%', \
      'conflicts<10%', 'Reserve.p99.9<20ms', 'service.max<1s', 'lag.p99<1ms'. What was not measured \
      is not so. May be given again.
      """, valueName: "requirement"))
  var require: [String] = []
  @Option(
    name: .customLong("fail-if"),
    help: ArgumentHelp(
      "The opposite of --require, for one more release: 'p99>5ms' is --require 'p99<=5ms'.",
      valueName: "threshold"))
  var failIf: [String] = []

  func validate() throws {
    _ = try requirements()
    _ = try conditions()
    for (name, path) in [("--html", html), ("--hdr", hdr), ("--junit", junit)] where path == "-" {
      throw ValidationError("\(name) needs a file: only --json can go to standard output")
    }
    let paths = [json, html, hdr, junit].compactMap { $0 }
    if Set(paths).count < paths.count {
      throw ValidationError("--json, --html, --hdr and --junit need a file each")
    }
  }

  /// Of --require, and of --fail-if the opposites.
  func requirements() throws -> [Threshold] {
    try require.map { try Threshold(flag: "--require", $0) }
      + failIf.map { try Threshold(flag: "--fail-if", $0).negated }
  }

  /// Of --abort-if.
  func conditions() throws -> [AbortCondition] {
    try abortIf.map { text in
      do {
        return try AbortCondition(text)
      } catch {
        throw ValidationError("--abort-if: \(error)")
      }
    }
  }

  /// What to write in place of a flag that will go, a line each.
  func notices() throws -> [String] {
    try failIf.map { text in
      let requirement = try Threshold(flag: "--fail-if", text).negated.expression
      return "--fail-if '\(text)' will go: write --require '\(requirement)'"
    }
  }
}

extension Threshold {
  /// - Throws: one line that names the flag where `text` is none.
  init(flag: String, _ text: String) throws {
    do {
      try self.init(text)
    } catch {
      throw ValidationError("\(flag): \(error)")
    }
  }
}
