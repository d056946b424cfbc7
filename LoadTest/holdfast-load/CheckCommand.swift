internal import ArgumentParser
internal import LoadHistory
internal import LoadKit
internal import LoadReport
internal import Posix

struct CheckCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check",
    abstract: "Checks histories again, without a server.",
    discussion: """
      A history has every request of a run, every answer, and the balances at the end. The check \
      says whether a correct server can have answered so, and if not, which calls show it: their \
      keys, when they were sent and answered since the run's start, and what they were answered. \
      LoadTest/history.proto describes the file.

      Exit status: 0 all invariants hold, 1 one is violated, 2 a file could not be read.
      """)

  @Argument(help: "Files that `run --history` has written.")
  var histories: [String]
  @Option(
    help: ArgumentHelp(
      """
      Check the calls for this SKU alone: its name, or its index. What every call says by itself \
      is checked all the same.
      """, valueName: "name"))
  var sku: String?
  @Option(
    help: ArgumentHelp(
      "Write the findings as JSON to this file, with every call that they name.",
      valueName: "file"))
  var json: String?

  @Option(
    help: ArgumentHelp(
      "Write the findings as JUnit XML to this file, for CI.", valueName: "file"))
  var junit: String?

  func run() throws {
    var report = CheckReport()
    for path in histories {
      let history = try History(reading: path)
      let start = SystemClock.monotonicNanoseconds()
      let findings = history.check(skus: try skus(of: history, path))
      let seconds = Double(SystemClock.monotonicNanoseconds() - start) / 1e9
      let found = CheckReport.History(file: path, history, findings, seconds: seconds)
      show(path, found.check, attempts: findings.attempts, hasBalances: found.hasBalances)
      report.histories.append(found)
    }
    if let json { try save(JSONReport.encode(report), to: json) }
    if let junit { try save(JUnit(report).xml.utf8, to: junit) }
    if !report.histories.allSatisfy(\.check.holds) { throw ExitCode(1) }
  }

  /// The SKU that --sku names; nil for all.
  private func skus(
    of history: borrowing History, _ path: String
  ) throws(LoadError) -> Range<Int>? {
    guard let sku else { return nil }
    let names = history.names
    let index = Int(sku) ?? history.stock.indices.first { names.name($0) == sku }
    guard let index, history.stock.indices.contains(index) else {
      let last = names.name(history.stock.count - 1)
      throw LoadError("\(path) has no SKU \(sku): they are \(names.name(0)) to \(last)")
    }
    return index..<index + 1
  }

  private func show(_ path: String, _ check: Report.Check, attempts: Int, hasBalances: Bool) {
    print("\(path): \(check.verdict.sentence)")
    let undecided =
      check.skusUndecided > 0 ? ", \(Text.count(Int64(check.skusUndecided))) undecided" : ""
    print(
      "  linearizable: \(check.linearizable.rawValue) (\(Text.counted(check.skus, "SKU"))\(undecided)); "
        + "\(Text.counted(check.keys, "operation")), \(Text.counted(attempts, "call")), "
        + "\(Text.count(Int64(check.unknownOutcomes))) of unknown outcome")
    print(
      "  hold: \(Text.counted(check.refusalsJustified, "refusal")), "
        + "\(Text.counted(check.readsJustified, "read")) and "
        + "\(Text.counted(check.duplicatesCompared, "repetition")); "
        + "checked in \(Text.duration(microseconds: check.seconds * 1e6))")
    if !hasBalances {
      print("  the history has no balances: what the server has in the end was not compared")
    }
    for example in check.examples {
      for line in example.split(separator: "\n") { print("  \(line)") }
    }
  }
}
