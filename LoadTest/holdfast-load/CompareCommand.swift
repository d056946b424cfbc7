internal import ArgumentParser
internal import FoundationEssentials
internal import Glibc
internal import LoadKit
internal import LoadReport

struct CompareCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compare",
    abstract: "Compares runs, and says what difference they show beyond their noise.",
    discussion: """
      Reads reports that `run --json` wrote. Reports of the same --label are runs of one variant; \
      without labels, fast-1.json and fast-2.json are runs of fast. The first variant is the baseline \
      of all ratios. Runs that took turns are compared pair by pair.

      Exit status: 0 whatever the difference, 1 a run violated an invariant, 2 it could not be compared.
      """)

  @Argument(help: "Reports of `run --json`.")
  var reports: [String] = []

  @Option(help: ArgumentHelp("What the page is headed by.", valueName: "text"))
  var title: String?
  @Option(
    help: ArgumentHelp("Write the comparison as JSON; - is standard output.", valueName: "file"))
  var json: String?
  @Option(help: ArgumentHelp("Write the comparison as a page.", valueName: "file"))
  var html: String?
  @Option(
    help: ArgumentHelp(
      "Paragraphs of text, parted by empty lines, that the comparison shows as they are.",
      valueName: "file"))
  var notes: String?

  func run() throws {
    var comparison = Comparison(try reports.map { try CompareCommand.read($0) })
    if comparison.variants.count < 2 {
      throw LoadError(
        comparison.variants.isEmpty
          ? "name the reports to compare; holdfast-load compare --help says how"
          : "all reports are of one variant, \(comparison.variants[0]): run with --label, or name the "
            + "files by variant")
    }
    try finish(&comparison)
  }

  private static func read(_ path: String) throws -> ComparedReport {
    let bytes: [UInt8]
    do {
      bytes = [UInt8](try Data(contentsOf: URL(filePath: path)))
    } catch {
      throw LoadError("cannot read \(path): \(error)")
    }
    do {
      return try ComparedReport(file: path, json: bytes)
    } catch {
      throw LoadError("cannot compare \(path): \(error)")
    }
  }

  private func finish(_ comparison: inout Comparison) throws {
    comparison.generator = "holdfast-load"
    comparison.title = title ?? ""
    if let notes {
      comparison.notes = try String(contentsOf: URL(filePath: notes), encoding: .utf8)
        .split(separator: "\n\n").map { $0.split(separator: "\n").joined(separator: " ") }
    }
    let encoded = try JSONReport.encode(comparison)
    if json == "-" {
      print(String(decoding: encoded, as: UTF8.self), terminator: "")
    } else {
      print(comparison.text(drawsRatios: isatty(1) == 1), terminator: "")
      if let json { try save(encoded, to: json) }
    }
    if let html { try save(Array(comparison.html.utf8), to: html) }
    if !comparison.disqualified.isEmpty { throw ExitCode(1) }
  }
}
