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

  /// What is found of one file.
  private struct Result: Encodable {
    struct Violation: Encodable {
      let kind: String
      let text: String
      /// Units, where the kind counts in units; otherwise 1.
      let count: Int64
      let calls: [CallLine]
    }

    let file: String
    let run: String
    let seed: String
    let configuration: String
    /// Whether the history has the balances after the run.
    let hasBalances: Bool
    let check: Report.Check
    let violations: [Violation]
  }

  func run() throws {
    var results: [Result] = []
    for path in histories {
      let history = try History(reading: path)
      let start = SystemClock.monotonicNanoseconds()
      let findings = history.check(skus: try skus(of: history, path))
      var check = Report.Check(findings)
      check.seconds = Double(SystemClock.monotonicNanoseconds() - start) / 1e9
      results.append(
        Result(
          file: path, run: history.run.text, seed: String(history.seed),
          configuration: history.configuration, hasBalances: history.levels != nil, check: check,
          violations: findings.violationsByWeight.map {
            Result.Violation(
              kind: $0.kind.rawValue, text: $0.text, count: $0.count, calls: $0.calls)
          }))
      show(path, check, attempts: findings.attempts, hasBalances: history.levels != nil)
    }
    if let json { try save(JSONReport.encode(results), to: json) }
    if !results.allSatisfy(\.check.holds) { throw ExitCode(1) }
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
    let count = { (number: Int) in Text.count(Int64(number)) }
    print("\(path): \(check.verdict)")
    let undecided = check.skusUndecided > 0 ? ", \(count(check.skusUndecided)) undecided" : ""
    print(
      "  linearizable: \(check.linearizable.rawValue) (\(count(check.skus)) SKUs\(undecided)); "
        + "\(count(check.keys)) operations, \(count(attempts)) calls, "
        + "\(count(check.unknownOutcomes)) of unknown outcome")
    print(
      "  \(count(check.refusalsJustified)) refusals, \(count(check.readsJustified)) reads and "
        + "\(count(check.duplicatesCompared)) repetitions hold; "
        + "checked in \(Text.duration(microseconds: check.seconds * 1e6))")
    if !hasBalances {
      print("  the history has no balances: what the server has in the end was not compared")
    }
    for example in check.examples {
      for line in example.split(separator: "\n") { print("  \(line)") }
    }
  }
}
