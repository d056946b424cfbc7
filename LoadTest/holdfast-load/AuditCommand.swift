internal import ArgumentParser
internal import FoundationEssentials
internal import LoadHistory
internal import LoadKit
internal import LoadReport

struct AuditCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "audit",
    abstract: "Proves that a server still knows all that it told earlier runs.",
    discussion: """
      Sends the calls of the histories again, the same bytes, to a server that may have been killed \
      and started since. What it had acknowledged it has to repeat; what was cut off is decided \
      here, once; then the balances have to be exactly what the answers say. The outcomes are added \
      to the files, so that a later audit holds the server to them too.
      """)

  @Argument(help: "Files that `run --history` has written.")
  var histories: [String]
  @Option(
    help: """
      The server's gRPC address, a host and a port; of several servers of one store: h1:p1,h2:p2.
      """,
    transform: Endpoint.resolvingList)
  var target: Endpoint
  @OptionGroup var access: AccessFlags
  @Flag(
    help: """
      Read the change feed too, from the oldest event that is kept, which has to be older than the \
      runs: each decision has to be in it once.
      """)
  var watch = false
  @Option(help: "Write the findings as JSON to this file.")
  var json: String?

  @Option(
    help: ArgumentHelp(
      "Write the findings as JUnit XML to this file, for CI.", valueName: "file"))
  var junit: String?

  func run() throws {
    try access.check(usesTLS: access.tls)
    let target = try access.apply(to: target)
    var report = AuditReport()
    for path in histories {
      var history = try History(reading: path)
      let audit = try LoadKit.audit(&history, target: target, followsFeed: watch)
      try history.write(to: path)
      print("\(path): \(audit.text)")
      for example in audit.check.examples {
        for line in example.split(separator: "\n") { print("  \(line)") }
      }
      report.histories.append(AuditReport.History(file: path, run: history.run.text, audit))
    }
    if let json { try save(JSONReport.encode(report), to: json) }
    if let junit { try save(JUnit(report).xml.utf8, to: junit) }
    if !report.histories.allSatisfy(\.holds) { throw ExitCode(1) }
  }
}
