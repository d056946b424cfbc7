internal import FoundationEssentials
internal import LoadKit
internal import LoadReport
internal import Posix

/// All that a run tells: how it stands while it goes on, and its report at the end. Files are opened
/// before the run, so that a slip in a path costs no hour; what cannot be written is said at the end,
/// after all else was.
final class ReportOutput {
  private let thresholds: [Threshold]
  private let files: [(path: String, kind: Kind)]
  private var live: LiveView
  private var log: HistogramLog?
  private let logPath: String
  private var failures: [String] = []
  private let planned: PlannedFiles

  private enum Kind {
    case json, html, junit
  }

  /// - Parameters:
  ///   - history: where the calls go, if anywhere.
  ///   - title: what is run, in a few words.
  /// - Throws: where a file cannot be opened for writing.
  init(_ flags: ReportFlags, history: String?, title: String) throws {
    live = LiveView(title: title)
    thresholds = try flags.requirements()
    for notice in try flags.notices() { HoldfastLoad.tell("holdfast-load: \(notice)") }
    files =
      [(flags.json, Kind.json), (flags.html, Kind.html), (flags.junit, Kind.junit)]
      .compactMap { path, kind in path.map { ($0, kind) } }
    planned = try PlannedFiles([flags.json, flags.html, flags.hdr, flags.junit, history])
    logPath = flags.hdr ?? ""
    if let path = flags.hdr { log = HistogramLog(into: try PlannedFiles.open(path)) }
  }

  /// Shows how the run stands on standard error.
  func progress(_ progress: Progress) { live.show(progress) }

  /// Takes down one interval. `startEpochNanoseconds` is when the run's first call was due.
  func interval(
    _ interval: Report.Interval, _ latencies: borrowing Latencies, startEpochNanoseconds: Int64
  ) {
    do throws(Errno) {
      try log?.write(interval, latencies, startEpochNanoseconds: startEpochNanoseconds)
    } catch {
      failures.append("cannot write \(logPath): \(error)")
      // The rest of the run has its report nevertheless.
      log = nil
    }
  }

  /// Takes the live view away, for something else to be told.
  func clear() { live.clear() }

  /// Prints and writes the report. The exit status: the run's own, else 2 where something could not be
  /// written, else 3 where a threshold failed, else 0.
  func finish(_ report: Report, exitStatus: Int32) -> Int32 {
    clear()
    var report = report
    report.thresholds = thresholds.map { $0.evaluate(report) }
    let jsonIsPrinted = files.contains { $0.path == "-" }
    attempt("standard \(jsonIsPrinted ? "error" : "output")") { () throws(Errno) in
      let number: Int32 = jsonIsPrinted ? 2 : 1
      try OutputFile(duplicating: number).write(report.text(on: Terminal(descriptor: number)))
    }
    for file in files { write(report, file.kind, to: file.path) }
    for failure in failures { HoldfastLoad.tell("holdfast-load: \(failure)") }
    if exitStatus != 0 { return exitStatus }
    if !failures.isEmpty { return 2 }
    return report.thresholds.allSatisfy(\.isPassed) ? 0 : 3
  }

  private func write(_ report: Report, _ kind: Kind, to path: String) {
    let bytes: [UInt8]
    switch kind {
    case .html: bytes = Array(report.html.utf8)
    case .junit: bytes = Array(JUnit(report).xml.utf8)
    case .json:
      do {
        bytes = try Array(JSONReport.encode(report))
      } catch {
        failures.append("cannot write \(path): \(error)")
        return
      }
    }
    attempt(path == "-" ? "standard output" : path) { () throws(Errno) in
      let file = try path == "-" ? OutputFile(duplicating: 1) : OutputFile(path: path)
      if path != "-" { try file.empty() }
      try file.write(bytes)
    }
  }

  private func attempt(_ name: String, _ body: () throws(Errno) -> Void) {
    do throws(Errno) {
      try body()
    } catch {
      failures.append("cannot write \(name): \(error)")
    }
  }
}
