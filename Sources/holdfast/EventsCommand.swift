// `holdfast events`: what was decided, as it is decided.
internal import ArgumentParser
internal import Client
internal import Posix

struct EventsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "events", abstract: "Follow what a server decides.",
    subcommands: [WatchEvents.self])
}

struct WatchEvents: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "watch", abstract: "Print every decision as it becomes durable, until Ctrl-C.",
    discussion: """
      holdfast events watch --sku ticket
      holdfast events watch --json --resume-file orders.token --kind held,expired

      Goes on by itself where the server or the connection is lost, without a gap. With --resume-file it begins behind \
      what was printed last time: what is printed is printed at least once, whoever is killed.

      Exit status: 0 after Ctrl-C, --limit, or where nobody reads on; 1 where the server cannot go on from there \
      (RESUME_TOKEN_TOO_OLD, RESUME_TOKEN_FOREIGN); 64 usage, 69 no such host, 74 output or resume file, 76 TLS, 77 \
      credentials.
      """)

  @Option(
    help: ArgumentHelp(
      "Where to begin: now, oldest (what is kept), or a resume token (now).", valueName: "place"))
  var from: String?
  @Option(
    help: ArgumentHelp(
      "Go on behind the token in this file, if it is there, and keep the newest one in it.",
      valueName: "file"), completion: .file())
  var resumeFile: String?
  @Option(
    name: .customLong("sku"),
    help: ArgumentHelp(
      "Only events that touch this item: SKU or SKU@LOCATION. May be given again.",
      valueName: "item"))
  var items: [String] = []
  @Option(help: ArgumentHelp("Only references that begin with this.", valueName: "text"))
  var reference = ""
  @Option(
    help: ArgumentHelp(
      """
      Only these, between commas: held, replaced, extended, confirmed, released, expired, adjusted, refused, removed \
      (all but refused).
      """, valueName: "kinds"))
  var kind: String?
  @Option(help: ArgumentHelp("End after so many events.", valueName: "count"))
  var limit: Int?
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: TargetOptions

  func validate() throws {
    if let limit, limit < 1 { throw ValidationError("--limit: 1 or more") }
    if items.count > 500 { throw ValidationError("--sku: 500 at most") }
  }

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      let filter = try filter()
      let saved = try savedLine()
      let start = try start(saved)
      let interruption = Interruption()
      let watch = EventWatch(
        try server.targets(), program: TargetOptions.program, filter: filter, from: start.0
      ) { CommandFailure.complain($0) }
      let printer = try EventPrinter(
        results.output(), saved, from: start, limit: limit ?? .max)
      // Also where the watch ends with an error.
      defer { printer.save() }
      try watch.run {
        printer.take($0)
      } isStopped: {
        interruption.hasCome || printer.isDone
      }
      printer.save()
      if let problem = printer.problem { throw problem }
    }
  }

  private func filter() throws(CommandFailure) -> WatchFilter {
    var filter = WatchFilter()
    for item in items { filter.items.append(try LocationOption.item(item, at: nil)) }
    filter.referencePrefix = try TargetOptions.code(reference, "--reference")
    for name in kind?.split(separator: ",") ?? [] {
      guard let kind = EventKind(name: name) else {
        throw ServiceAccess.mistake(
          "--kind: '\(name)' is none of \(EventKind.allNames.map { $0.lowercased() }.joined(separator: ", "))"
        )
      }
      filter.kinds.append(kind)
    }
    return filter
  }

  private func savedLine() throws(CommandFailure) -> SavedLine? {
    guard let resumeFile else { return nil }
    do throws(Errno) {
      let saved = try SavedLine(path: ResolvedPath.replaceable(resumeFile))
      try saved.requireWritable()
      return saved
    } catch {
      throw CommandFailure(
        description: "--resume-file \(resumeFile): \(error)", status: ExitStatus.outputFailed)
    }
  }

  /// Where to begin, and what was printed already.
  private func start(_ saved: SavedLine?) throws(CommandFailure) -> (WatchStart, printed: UInt64) {
    if let saved {
      let text: String?
      do throws(Errno) { text = try saved.read() } catch {
        throw CommandFailure(
          description: "--resume-file \(saved.path): \(error)", status: ExitStatus.noInput)
      }
      if let text {
        guard let position = WatchPosition(text) else {
          throw CommandFailure(
            description: "--resume-file \(saved.path): there is no resume token in it",
            status: ExitStatus.badData)
        }
        return (position.start, position.printed)
      }
    }
    switch from {
    case nil, "now": return (.now, 0)
    case "oldest": return (.oldest, 0)
    case let token?: return (.after(token), 0)
    }
  }
}

/// Prints events, and keeps how far it is.
private final class EventPrinter {
  private static let saveNanoseconds: Int64 = 250_000_000

  private let output: CommandOutput
  private let saved: SavedLine?
  private var left: Int
  /// What the next message begins behind, and what of it was printed.
  private var place: WatchStart
  private var printed: UInt64
  private var savedText: String?
  private var savedAt: Int64 = 0
  private(set) var problem: (any Error)?

  init(
    _ output: CommandOutput, _ saved: SavedLine?, from start: (WatchStart, printed: UInt64),
    limit: Int
  ) throws {
    self.output = output
    self.saved = saved
    (place, printed) = start
    left = limit
    try output.begin(Event.columns)
    try output.flush()
  }

  /// Whether more is of no use.
  var isDone: Bool {
    if left == 0 || problem != nil { return true }
    if output.isClosed { problem = OutputError.closed }
    return problem != nil
  }

  /// False: enough.
  func take(_ message: WatchMessage) -> Bool {
    let events = message.events.drop { $0.lsn <= printed }
    let count = min(left, events.count)
    do {
      for (index, event) in events.prefix(count).enumerated() {
        // The token covers the whole message.
        let isLast = index == events.count - 1
        try output.add(
          event.cells(output.format), json: event.json(resumeToken: isLast ? message.token : nil))
      }
      try output.flush()
    } catch {
      problem = error
      return false
    }
    left -= count
    if count == events.count {
      place = .after(message.token)
      // A message without new events may end before what was printed of a longer one.
      if count > 0 { printed = 0 }
    } else if count > 0 {
      printed = events[events.startIndex + count - 1].lsn
    }
    if SystemClock.monotonicNanoseconds() - savedAt > Self.saveNanoseconds { save() }
    return left > 0 && problem == nil
  }

  /// Keeps how far it is.
  func save() {
    let text = WatchPosition(place, printed: printed).text
    // From now: nothing was printed yet.
    if place == .now, printed == 0 { return }
    guard let saved, text != savedText else { return }
    do throws(Errno) {
      try saved.save(text)
      savedText = text
      savedAt = SystemClock.monotonicNanoseconds()
    } catch {
      problem =
        problem
        ?? CommandFailure(
          description: "--resume-file \(saved.path): \(error)", status: ExitStatus.outputFailed)
    }
  }
}
