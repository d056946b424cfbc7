internal import ArgumentParser
internal import LoadReport

/// Where a run's report goes, and what it must not say.
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
    name: .customLong("fail-if"),
    help: ArgumentHelp(
      """
      Exit with status 3 if this is true: 'p99>5ms', 'rate<5000/s', 'errors>0.1%', \
      'conflicts>10%', 'Reserve.p99.9>20ms', 'service.max>1s', 'lag.p99>1ms'. Also if it was not \
      measured. May be given again.
      """, valueName: "threshold"))
  var failIf: [String] = []

  func validate() throws {
    _ = try thresholds()
    for (name, path) in [("--html", html), ("--hdr", hdr)] where path == "-" {
      throw ValidationError("\(name) needs a file: only --json can go to standard output")
    }
    let paths = [json, html, hdr].compactMap { $0 }
    if Set(paths).count < paths.count {
      throw ValidationError("--json, --html and --hdr need a file each")
    }
  }

  func thresholds() throws -> [Threshold] {
    try failIf.map { text in
      do {
        return try Threshold(text)
      } catch {
        throw ValidationError("--fail-if: \(error)")
      }
    }
  }
}
