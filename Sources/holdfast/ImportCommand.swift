// `holdfast stock import`: a file of rows, with progress, going on where it was cut off.
internal import ArgumentParser
internal import Client
internal import Posix

struct ImportStock: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "import",
    abstract: "Change many items by a CSV file; goes on where it was cut off.",
    discussion: """
      The first line names the columns, in any order: sku, location, one of on_hand, delta, ship and uncommit, \
      safety_stock, expected_version or expected_on_hand, allow_shortage. An empty field changes nothing. The whole file \
      is read first: of one with mistakes nothing is sent, but with --skip-mistakes.

      Each row is changed by itself, and once: whatever is killed, the same command goes on behind the last row that is \
      done (FILE.holdfast-import says which import it is; --id does so elsewhere). Rows that are rejected go to \
      FILE.rejected.csv, which can be mended and imported.

      Exit status: 0 all rows were changed, 1 some were refused, 65 the file has mistakes or is another one, 75 cut off: \
      the same command again goes on.
      """)

  @Argument(
    help: ArgumentHelp("A CSV file (RFC 4180, UTF-8).", valueName: "file"), completion: .file())
  var file: String
  @Option(
    help: ArgumentHelp(
      "Go on with this import, as it was told when it began; on another machine, or without its state file.",
      valueName: "id"))
  var id: String?
  @Option(
    help: ArgumentHelp(
      "What stands between fields: one character, or tab (a comma).", valueName: "character"))
  var separator = ","
  @Option(
    name: .customLong("ignore-column"),
    help: ArgumentHelp("A column to pass over. May be given again.", valueName: "name"))
  var ignoredColumns: [String] = []
  @Flag(help: "Import rows without mistakes, and reject the others.")
  var skipMistakes = false
  @Option(
    help: ArgumentHelp("Where rejected rows go (FILE.rejected.csv).", valueName: "file"),
    completion: .file())
  var rejects: String?
  @Flag(
    help:
      "Begin anew, although an import of this file was cut off: rows that are done are done again.")
  var restart = false
  @Option(
    help: ArgumentHelp(
      "How long to wait for a server that is away: 1s to 1h.", valueName: "duration"))
  var patience = "5m"
  @OptionGroup var consent: ConsentOptions
  @Flag(help: "Write the result as a JSON object.")
  var json = false
  @OptionGroup(title: "Server") var server: TargetOptions

  func validate() throws {
    if file == "-" {
      throw ValidationError("standard input cannot be read twice: save it as a file")
    }
    if id != nil && restart { throw ValidationError("--id goes on, --restart begins anew") }
    if separator != "tab" {
      let bytes = Array(separator.utf8)
      guard bytes.count == 1, 0x20...0x7e ~= bytes[0], bytes[0] != UInt8(ascii: "\"") else {
        throw ValidationError("--separator: one printable ASCII character that is no quote, or tab")
      }
    }
  }

  func run() throws {
    try ClientCommand.report(json: json) {
      let (source, summary) = try readable { () throws(ImportFileError) in
        let source = try ImportFile(path: file, options: options)
        return (source, try source.check())
      }
      for mistake in summary.mistakes { CommandFailure.complain("\(file):\(mistake): rejected") }
      let wait = try Settings.duration(patience, Limits.second...3600 * Limits.second, "--patience")
      if consent.dryRun { return try tell(summary) }
      let files = try ImportFiles(path: file, rejects: rejects, separator: options.separator)
      let (state, isNew) = try begin(files, summary)
      if isNew, summary.setsWithoutCheck,
        try !consent.agreed(
          to:
            "Set on hand of \(PlainText.counted(Int64(clamping: summary.rows), "row")) of \(file), whatever it is now?"
        )
      {
        throw ClientCommand.notDone()
      }
      let caller = try server.connect(CallPatience(total: wait, each: 30 * Limits.second))
      // Until here, nothing was sent: an interruption is the end.
      _ = Interruption()
      try ImportRun(
        source, state, isNew: isNew, summary, files, caller, asksJSON: json
      ).run()
    }
  }

  private var options: ImportOptions {
    var options = ImportOptions()
    options.separator = separator == "tab" ? 0x09 : Array(separator.utf8)[0]
    options.ignoredColumns = ignoredColumns
    options.skipsMistakes = skipMistakes
    return options
  }

  private func readable<Value>(
    _ body: () throws(ImportFileError) -> Value
  ) throws(CommandFailure) -> Value {
    do throws(ImportFileError) { return try body() } catch {
      throw Self.failure(error, file, "nothing was sent")
    }
  }

  /// - Parameters:
  ///   - path: of the file that has the mistakes, to say it with each.
  ///   - end: what has become of the import.
  static func failure(
    _ error: ImportFileError, _ path: String, _ end: String
  ) -> CommandFailure {
    switch error {
    case .unreadable(let text): return CommandFailure(description: text, status: ExitStatus.noInput)
    case .mistakes(let mistakes, let count):
      var lines = mistakes.map { "\(path):\($0)" }
      if count > mistakes.count {
        lines.append("and \(PlainText.counted(Int64(count - mistakes.count), "more mistake"))")
      }
      lines.append(end)
      return CommandFailure(
        description: lines.map(PlainText.printable).joined(separator: "\n"),
        status: ExitStatus.badData)
    }
  }

  /// --dry-run: the file alone.
  private func tell(_ summary: ImportSummary) throws(OutputError) {
    let rejected = summary.mistakeCount == 0 ? "" : ", \(summary.mistakeCount) rejected"
    let text = PlainText.counted(Int64(clamping: summary.rows), "row")
    if json {
      var line = JSONLine()
      line.add("rows", large: summary.rows)
      line.add("mistakes", large: UInt64(summary.mistakeCount))
      try write(line)
    } else {
      CommandFailure.complain("dry run: \(text) without mistakes\(rejected); nothing was sent")
    }
  }

  /// Which import this is, and whether it begins.
  private func begin(
    _ files: ImportFiles, _ summary: ImportSummary
  ) throws(CommandFailure) -> (ImportState, isNew: Bool) {
    if let id {
      guard let state = ImportState("holdfast-import 1 \(id) 0"), state.importID == id else {
        throw ServiceAccess.mistake("--id: no id that an import was given")
      }
      try check(state, summary)
      return (state, false)
    }
    if !restart, let state = try files.state() {
      try check(state, summary)
      CommandFailure.complain("going on with import \(state.importID)")
      return (state, false)
    }
    return (ImportState(importID: ImportState.newID(digest: summary.digest)), true)
  }

  private func check(_ state: ImportState, _ summary: ImportSummary) throws(CommandFailure) {
    if state.digest == summary.digest { return }
    throw CommandFailure(
      description: """
        \(file) is not the file that import \(state.importID) began with, or is read otherwise (--separator, \
        --ignore-column, --skip-mistakes): bring that one back, or begin anew with --restart
        """, status: ExitStatus.badData)
  }
}

/// A result, to standard output.
private func write(_ line: JSONLine) throws(OutputError) {
  let output = CommandOutput(format: .json, hasHeader: false)
  try output.add([], json: line)
  try output.finish()
}

/// The files beside that of an import.
final class ImportFiles {
  private static let rejectedColumns = ["rejected_line", "rejected_reason"]

  private let saved: SavedLine
  /// Of the file, and so of the one for rejected rows, which have to be read as they stand.
  private let separator: UInt8
  let rejectedPath: String
  /// What is to be written to the file for rejected rows.
  private var rejected: [UInt8] = []
  private var rejectedFile: RejectedFile?
  private var header: [UInt8] = []
  /// Of an import that goes on: an earlier run has rejected rows.
  private(set) var hasEarlierRows = false
  /// Said once.
  private var saysUnsaved = false

  /// - Throws: also where rejected rows would go into a file that has something else.
  init(path: String, rejects: String?, separator: UInt8) throws(CommandFailure) {
    self.separator = separator
    rejectedPath = rejects ?? path + ".rejected.csv"
    do throws(Errno) { saved = try SavedLine(path: path + ".holdfast-import") } catch {
      throw CommandFailure(description: "\(path): \(error)", status: ExitStatus.noInput)
    }
    if ResolvedPath.of(rejectedPath) == ResolvedPath.of(path) {
      throw ServiceAccess.mistake("--rejects: \(path) is the file that is imported")
    }
    if ResolvedPath.of(rejectedPath) == ResolvedPath.of(saved.path) {
      throw ServiceAccess.mistake("--rejects: \(saved.path) is where the import's state is kept")
    }
    guard let head = Self.head(rejectedPath) else { return }
    guard head.isEmpty || Self.isOfRejectedRows(head) else {
      throw CommandFailure(
        description:
          "\(rejectedPath) is there already, and has no rejected rows: --rejects names another",
        status: ExitStatus.outputFailed)
    }
  }

  /// How a file begins; nil where there is none, or it is a pipe or a device.
  private static func head(_ path: String) -> [UInt8]? {
    guard
      let contents = try? FileContents(
        path: path, byteCountMax: rejectedColumns.joined(separator: ",").utf8.count),
      contents.status.isRegular
    else { return nil }
    return contents.bytes
  }

  /// Whether a file that begins so is one of rejected rows, whatever its separator is.
  private static func isOfRejectedRows(_ head: [UInt8]) -> Bool {
    head.starts(with: rejectedColumns[0].utf8)
      && head.dropFirst(rejectedColumns[0].utf8.count + 1).starts(with: rejectedColumns[1].utf8)
  }

  /// Of an import that was cut off; nil: there is none.
  func state() throws(CommandFailure) -> ImportState? {
    let text: String?
    do throws(Errno) { text = try saved.read() } catch {
      throw CommandFailure(description: "\(saved.path): \(error)", status: ExitStatus.noInput)
    }
    guard let text else { return nil }
    guard let state = ImportState(text) else {
      throw CommandFailure(
        description: "\(saved.path) does not say which import it is of: --id, or --restart",
        status: ExitStatus.badData)
    }
    return state
  }

  /// Where that cannot be, the import goes on: its id is the other way to go on with it.
  func save(_ state: ImportState) {
    do throws(Errno) { try saved.save(state.text) } catch {
      if saysUnsaved { return }
      saysUnsaved = true
      CommandFailure.complain(
        "warning: \(saved.path): \(error); if this is cut off, --id \(state.importID) goes on")
    }
  }

  /// The import has ended.
  func forget() { try? saved.remove() }

  /// An import begins, or goes on: of one that begins, what an earlier one has rejected goes.
  func begin(header: [UInt8], isNew: Bool) {
    self.header = Self.rejectedColumns.flatMap { Array($0.utf8) + [separator] } + header + [0x0a]
    guard let head = Self.head(rejectedPath) else { return }
    if isNew { try? SavedLine(path: rejectedPath).remove() } else { hasEarlierRows = !head.isEmpty }
  }

  func add(_ row: RejectedRow) {
    let reason = CSVReader.quoted(PlainText.printable(row.reason), separator: separator)
    for field in [String(row.line), reason] { rejected += Array(field.utf8) + [separator] }
    rejected += row.bytes + [0x0a]
  }

  /// Writes what was added, for good.
  func flush() throws(ImportError) {
    if rejected.isEmpty { return }
    do throws(Errno) {
      if rejectedFile == nil { rejectedFile = try RejectedFile(rejectedPath, header: header) }
      try rejectedFile?.write(rejected)
    } catch {
      throw .output("\(rejectedPath): \(error)")
    }
    rejected = []
  }
}

/// The file for rejected rows, which is there only if there is one.
private final class RejectedFile {
  private let file: OutputFile

  /// Goes on behind what is there; where there is nothing, the names of the columns come first.
  init(_ path: String, header: [UInt8]) throws(Errno) {
    let isEmpty = (try? FileStatus(path: path))?.byteCount ?? 0 == 0
    do throws(Errno) {
      file = try OutputFile(appendingTo: path)
    } catch {
      guard error == .noSuchFile else { throw error }
      file = try OutputFile(newPath: path)
    }
    if isEmpty { try file.write(header) }
  }

  func write(_ bytes: [UInt8]) throws(Errno) {
    try file.write(bytes)
    do throws(Errno) { try file.sync() } catch {
      // A pipe or a device has nothing to sync.
      if error != .invalid { throw error }
    }
  }
}

/// One run of an import, and what is told of it.
private struct ImportRun: ~Copyable {
  private static let saveNanoseconds: Int64 = 1_000_000_000

  private let source: ImportFile
  private var state: ImportState
  private let isNew: Bool
  private let summary: ImportSummary
  private let files: ImportFiles
  private let caller: ServiceCaller
  private let asksJSON: Bool
  private var progress: ImportProgress
  private var meter: ImportMeter
  private var savedAt: Int64 = 0

  init(
    _ source: ImportFile, _ state: ImportState, isNew: Bool, _ summary: ImportSummary,
    _ files: ImportFiles, _ caller: ServiceCaller, asksJSON: Bool
  ) {
    self.source = source
    self.state = state
    self.isNew = isNew
    self.summary = summary
    self.files = files
    self.caller = caller
    self.asksJSON = asksJSON
    progress = ImportProgress(total: summary.rows)
    meter = ImportMeter(total: summary.rows)
  }

  consuming func run() throws {
    do throws(ImportFileError) {
      files.begin(header: try ImportRows(source).header.bytes, isNew: isNew)
    } catch { throw ImportStock.failure(error, source.path, "nothing was sent") }
    files.save(state)
    if isNew {
      CommandFailure.complain(
        "import \(state.importID): \(PlainText.counted(Int64(clamping: summary.rows), "row"))")
    }
    do throws(ImportError) {
      var run = StockImport(caller, state, total: summary.rows)
      try run.run(
        source, isNew: isNew, reject: { (row) throws(ImportError) in files.add(row) },
        advance: { (progress) throws(ImportError) in try advance(progress) })
    } catch {
      meter.end()
      files.save(state)
      throw failure(error)
    }
    meter.end()
    files.forget()
    try tell()
  }

  private mutating func advance(_ progress: ImportProgress) throws(ImportError) {
    self.progress = progress
    // What is rejected is written before the state says that it is done.
    try files.flush()
    state.done = progress.done
    let now = SystemClock.monotonicNanoseconds()
    if now - savedAt > Self.saveNanoseconds {
      files.save(state)
      savedAt = now
    }
    meter.show(progress)
  }

  private func failure(_ error: ImportError) -> any Error {
    let done = PlainText.count(Int64(clamping: progress.done))
    let goOn =
      "\(done) of \(PlainText.counted(Int64(clamping: progress.total), "row")) are done; the same command goes on"
    switch error {
    case .call(var failure):
      // It is known where the import is: nothing is to be done by hand.
      failure.isOutcomeUnknown = false
      CommandFailure.complain(goOn)
      return failure
    case .file(let error): return ImportStock.failure(error, source.path, goOn)
    case .interrupted:
      return CommandFailure(description: "interrupted: \(goOn)", status: ExitStatus.again)
    case .forgotten(let done):
      return CommandFailure(
        description: """
          the server knows nothing of import \(state.importID), of which \(PlainText.counted(Int64(clamping: done), "row")) \
          were done: it has forgotten it, or is another one. Compare its stock with the file; --restart does all rows again
          """, status: ExitStatus.badData)
    case .output(let text):
      return CommandFailure(description: "\(text); \(goOn)", status: ExitStatus.outputFailed)
    }
  }

  private consuming func tell() throws {
    let mistakes = UInt64(summary.mistakeCount)
    let hasRejected = progress.refused + mistakes > 0 || files.hasEarlierRows
    if asksJSON {
      var line = JSONLine()
      line.add("import_id", state.importID)
      line.add("rows", large: progress.total)
      line.add("done", large: progress.done)
      line.add("changed", large: progress.changed)
      line.add("refused", large: progress.refused)
      line.add("mistakes", large: mistakes)
      line.add("unheard", large: progress.unheard)
      line.add("rejected_file", hasRejected ? files.rejectedPath : nil)
      try write(line)
    } else {
      func count(_ number: UInt64) -> String { PlainText.count(Int64(clamping: number)) }
      var text =
        "\(count(progress.done)) rows done: \(count(progress.changed)) changed, \(count(progress.refused)) refused"
      if mistakes > 0 { text += ", \(count(mistakes)) with mistakes" }
      // A server that was restored has had some rows again.
      let told = progress.changed + progress.refused + progress.unheard
      let before = progress.done > told ? progress.done - told : 0
      if before > 0 { text += ", \(count(before)) in earlier runs" }
      CommandFailure.complain(text)
      if hasRejected { CommandFailure.complain("rejected rows are in \(files.rejectedPath)") }
    }
    if progress.unheard > 0 {
      CommandFailure.complain(
        "of \(PlainText.counted(Int64(clamping: progress.unheard), "row")) it is not known here whether they were refused: the server's answer was lost, or not written down when the command was ended"
      )
    }
    if hasRejected { throw ExitCode(ExitStatus.refused) }
  }
}

/// Tells how far an import is: a line that is redrawn at a terminal, one every few seconds elsewhere.
private struct ImportMeter {
  private static let redrawNanoseconds: Int64 = 200_000_000
  private static let lineNanoseconds: Int64 = 5_000_000_000

  private let terminal = TerminalShape(descriptor: 2)
  private let total: UInt64
  private let began = SystemClock.monotonicNanoseconds()
  private var shownAt: Int64
  private var first: UInt64?
  private var isDrawn = false

  init(total: UInt64) {
    self.total = total
    shownAt = began
  }

  mutating func show(_ progress: ImportProgress) {
    let now = SystemClock.monotonicNanoseconds()
    let start = first ?? progress.done
    first = start
    let pause = terminal.isTerminal ? Self.redrawNanoseconds : Self.lineNanoseconds
    guard now - shownAt >= pause, progress.done < total else { return }
    shownAt = now
    let seconds = Double(now - began) / 1e9
    let rate = Double(progress.done - min(start, progress.done)) / max(seconds, 0.001)
    var text = "\(progress.done * 100 / max(total, 1)) %  "
    text +=
      "\(PlainText.count(Int64(clamping: progress.done))) of \(PlainText.count(Int64(clamping: total))) rows"
    text += "  \(PlainText.count(Int64(rate)))/s"
    if rate > 0 { text += "  \(Self.remaining(Double(total - progress.done) / rate)) left" }
    if progress.refused > 0 {
      text += "  \(PlainText.count(Int64(clamping: progress.refused))) refused"
    }
    if terminal.isTerminal {
      write("\r\u{1b}[K" + PlainText.cut(text, to: max(20, terminal.columns - 1)))
      isDrawn = true
    } else {
      write("holdfast: \(text)\n")
    }
  }

  /// Takes the line away.
  mutating func end() {
    if isDrawn { write("\r\u{1b}[K") }
    isDrawn = false
  }

  private func write(_ text: String) { try? OutputFile(duplicating: 2).write(text) }

  private static func remaining(_ seconds: Double) -> String {
    let seconds = Int64(min(seconds, 1e9)) + 1
    if seconds < 60 { return "\(seconds) s" }
    if seconds < 3600 { return "\(seconds / 60) m \(seconds % 60) s" }
    return "\(seconds / 3600) h \(seconds / 60 % 60) m"
  }
}
