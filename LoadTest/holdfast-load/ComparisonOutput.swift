internal import ArgumentParser
internal import FoundationEssentials
internal import Glibc
internal import LoadKit
internal import LoadReport
internal import Posix

/// Where a comparison goes, and what it says beside its figures.
struct ComparisonFlags: ParsableArguments {
  @Option(
    help: ArgumentHelp("Write the comparison as JSON; - is standard output.", valueName: "file"))
  var json: String?
  @Option(help: ArgumentHelp("Write the comparison as a page, with charts.", valueName: "file"))
  var html: String?
  @Option(
    help: ArgumentHelp(
      "Write the comparison as text, every load with every measure.", valueName: "file"))
  var text: String?
  @Option(
    help: ArgumentHelp(
      "Write the verdict of every run as JUnit XML to this file, for CI.", valueName: "file"))
  var junit: String?
  @Option(help: ArgumentHelp("What the page is headed by.", valueName: "text"))
  var title = ""
  @Option(
    help: ArgumentHelp(
      "Paragraphs, parted by empty lines, that text and page show as they are.", valueName: "file"))
  var notes: String?
}

/// The files of a comparison, opened before its runs: a slip in a path is not to cost an hour.
struct ComparisonOutput {
  private let flags: ComparisonFlags
  private let notes: [String]
  private let planned: PlannedFiles

  /// Throws where a file cannot be opened.
  init(_ flags: ComparisonFlags) throws(LoadError) {
    self.flags = flags
    planned = try PlannedFiles([flags.json, flags.html, flags.text, flags.junit])
    guard let path = flags.notes else {
      notes = []
      return
    }
    do {
      notes = try String(contentsOf: URL(filePath: path), encoding: .utf8)
        .split(separator: "\n\n").map { $0.split(separator: "\n").joined(separator: " ") }
    } catch {
      throw LoadError("cannot read \(path): \(reason(error))")
    }
  }

  /// Prints the comparison, and writes it to each of the files. Answers what could not be written.
  func finish(_ comparison: inout Comparison) throws -> [LoadError] {
    comparison.generator = RunOptions.generator
    comparison.title = flags.title
    comparison.notes = notes
    let json = [UInt8](try JSONReport.encode(comparison))
    print(
      flags.json == "-"
        ? String(decoding: json, as: UTF8.self)
        : comparison.text(drawsRatios: isatty(1) == 1, isWhole: false),
      terminator: "")
    var failures: [LoadError] = []
    for (path, bytes) in [
      (flags.json, json), (flags.html, Array(comparison.html.utf8)),
      (flags.text, Array(comparison.text(drawsRatios: true).utf8)),
      (flags.junit, Array(JUnit(comparison).xml.utf8)),
    ] {
      guard let path, path != "-" else { continue }
      do throws(LoadError) {
        try write(bytes, to: path)
      } catch {
        failures.append(error)
      }
    }
    return failures
  }

  private func write(_ bytes: [UInt8], to path: String) throws(LoadError) {
    do throws(Errno) {
      let file = try OutputFile(path: path)
      try file.empty()
      try file.write(bytes)
    } catch {
      throw LoadError("cannot write \(path): \(error)")
    }
  }
}

/// Makes the folder, unless it is there.
func makeFolder(_ path: String) throws(LoadError) {
  do {
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  } catch {
    throw LoadError("cannot make the folder \(path): \(reason(error))")
  }
}

/// Why a file could not be read or made, in a few words: what the library says is of many lines.
func reason(_ error: any Error) -> String {
  guard let error = error as? CocoaError else { return "\(error)" }
  switch error.code {
  case .fileReadNoSuchFile, .fileNoSuchFile: return "there is no such file"
  case .fileReadNoPermission, .fileWriteNoPermission: return "permission denied"
  case .fileWriteFileExists: return "it is no folder"
  default: return "error \(error.code.rawValue)"
  }
}
