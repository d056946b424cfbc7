// What commands that call a server have in common: where it is, how results look, what a change says of itself, and how a
// failure is told.
internal import ArgumentParser
internal import Client
internal import GRPC
internal import Posix
internal import Version

/// Where the server is, and who calls.
struct TargetOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      """
      The server: HOST:PORT, https://HOST:PORT or unix:/path; of several, between commas, the one that answers \
      (HOLDFAST_TARGET, or 127.0.0.1:7420).
      """, valueName: "address"))
  var target: String?
  @OptionGroup var access: ServiceAccess
  @Option(
    help: ArgumentHelp(
      "The name that keys and the journal know the caller by; with tokens, the token's.",
      valueName: "name"))
  var caller: String?
  static let program = "holdfast-cli/\(Build.version)"

  func targets() throws(CommandFailure) -> [ServiceTarget] {
    let text = target ?? ProcessEnvironment.value("HOLDFAST_TARGET") ?? ServiceTarget.standard
    let addresses = text.split(separator: ",", omittingEmptySubsequences: false)
    guard addresses.count <= 16 else {
      throw ServiceAccess.mistake("--target: \(addresses.count) addresses; 16 at most")
    }
    var more: [ClientMetadata] = []
    if let caller, !caller.isEmpty {
      more.append(ClientMetadata(name: "holdfast-caller", value: try Self.code(caller, "--caller")))
    }
    var targets: [ServiceTarget] = []
    for address in addresses {
      let text = String(address.drop { $0 == " " })
      do throws(CommandFailure) {
        targets.append(try access.target(text, with: more, warns: targets.isEmpty))
      } catch {
        // What is no mistake of the command line is a file of TLS.
        guard error.status == CommandFailure.usage else {
          throw CommandFailure(description: error.description, status: ExitStatus.noInput)
        }
        throw error
      }
    }
    return targets
  }

  func connect(_ patience: CallPatience) throws(CommandFailure) -> ServiceCaller {
    ServiceCaller(try targets(), program: Self.program, patience: patience) {
      CommandFailure.complain($0)
    }
  }

  /// 0 to 64 bytes of printable ASCII without spaces, as names of callers, items and orders are.
  static func code(_ text: String, _ flag: String) throws(CommandFailure) -> String {
    guard text.utf8.count <= 64, text.utf8.allSatisfy({ 0x21...0x7e ~= $0 }) else {
      throw ServiceAccess.mistake("\(flag): not up to 64 bytes of printable ASCII without spaces")
    }
    return text
  }
}

/// The same, for commands whose calls are over soon.
struct ServerOptions: ParsableArguments {
  @OptionGroup var server: TargetOptions
  @Option(help: ArgumentHelp("How long to try for an answer: 100ms to 1h.", valueName: "duration"))
  var timeout = "10s"

  func connect() throws(CommandFailure) -> ServiceCaller {
    let patience = try Settings.duration(
      timeout, Limits.second / 10...3600 * Limits.second, "--timeout")
    return try server.connect(CallPatience(total: patience))
  }
}

/// How results are written.
struct ResultOptions: ParsableArguments {
  enum Format: EnumerableFlag {
    case json, plain, table

    static func help(for value: Format) -> ArgumentHelp? {
      switch value {
      case .json: "One JSON object a line (docs/COMMAND-LINE.md)."
      case .plain:
        "One line of fields between tabs; what is written where nobody sits at a terminal."
      case .table: "A table; what is written on a terminal."
      }
    }
  }

  @Flag(exclusivity: .exclusive) var format: Format?
  @Flag(help: "Leave out the names of the columns.")
  var noHeader = false

  var isJSON: Bool { format == .json }

  func output() -> CommandOutput {
    let chosen: OutputFormat? =
      switch format {
      case .json: .json
      case .plain: .plain
      case .table: .table
      case nil: nil
      }
    return CommandOutput(format: chosen, hasHeader: !noHeader)
  }
}

/// Whether a person, or a script, has meant it.
struct ConsentOptions: ParsableArguments {
  @Flag(name: [.short, .long], help: "Do not ask.")
  var yes = false
  @Flag(name: [.customShort("n"), .long], help: "Say what would be done, and do nothing.")
  var dryRun = false

  /// Whether to go on. Asks at a terminal.
  /// - Throws: where nobody can be asked, and --yes was not given.
  func agreed(to question: String) throws(CommandFailure) -> Bool {
    if yes { return true }
    guard Question.isPossible else {
      throw ServiceAccess.mistake("\(question) Nobody can be asked: give --yes")
    }
    return Question.ask(question)
  }
}

/// What a change says of itself.
struct ChangeOptions: ParsableArguments {
  @Option(help: ArgumentHelp("Why, for the audit (by hand, and who).", valueName: "text"))
  var reason: String?
  @Option(
    help: ArgumentHelp("The order, return or delivery that this is about.", valueName: "text"))
  var reference: String?
  @OptionGroup var key: KeyOption

  func note() throws(CommandFailure) -> ChangeNote {
    let reason = reason ?? "by hand: " + (ProcessEnvironment.value("USER") ?? "holdfast")
    guard 1...256 ~= reason.utf8.count else {
      throw ServiceAccess.mistake("--reason: 1 to 256 bytes")
    }
    return ChangeNote(
      key: try key.value(), reason: reason,
      reference: try TargetOptions.code(reference ?? "", "--reference"))
  }
}

struct KeyOption: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      """
      The idempotency key: of a command whose outcome was not known, to do it once (a new one is made). 1 to 64 bytes.
      """, valueName: "key"))
  var key: String?

  func value() throws(CommandFailure) -> String {
    let key = key ?? "cli-" + RandomName.make(20)
    guard 1...64 ~= key.utf8.count else { throw ServiceAccess.mistake("--key: 1 to 64 bytes") }
    return key
  }
}

/// An item on the command line.
struct LocationOption: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Where the units lie, of all items that are named; else it is written behind the SKU: SKU@LOCATION.",
      valueName: "name"))
  var location: String?

  func item(_ text: String) throws(CommandFailure) -> ItemName {
    try Self.item(text, at: location)
  }

  /// - Parameter location: nil: it is written behind the SKU. With a location of its own, an @ is part of the SKU.
  static func item(_ text: String, at location: String?) throws(CommandFailure) -> ItemName {
    let item = location.map { ItemName(sku: text, location: $0) } ?? ItemName(parsing: text)
    guard !item.sku.isEmpty else {
      throw ServiceAccess.mistake("'\(text)' names no item: SKU or SKU@LOCATION")
    }
    _ = try TargetOptions.code(item.sku, "'\(text)'")
    _ = try TargetOptions.code(item.location, "'\(text)'")
    return item
  }

  /// `SKU=UNITS`, or `SKU` for one; with `hasMinimum` also `SKU=MIN..UNITS`.
  func line(_ text: String, hasMinimum: Bool = false) throws(CommandFailure) -> ReservationLine {
    guard let equals = text.lastIndex(of: "=") else {
      return ReservationLine(try item(text), 1)
    }
    var units = text[text.index(after: equals)...]
    var minimum: Int64 = 0
    if hasMinimum, let dots = units.firstRange(of: "..") {
      minimum = try UnitsText.parse(String(units[..<dots.lowerBound]), 1...Units.max, "'\(text)'")
      units = units[dots.upperBound...]
    }
    let quantity = try UnitsText.parse(String(units), 1...Units.max, "'\(text)'")
    guard minimum <= quantity else {
      throw ServiceAccess.mistake("'\(text)': the least is more than the most")
    }
    return ReservationLine(try item(String(text[..<equals])), quantity, minimum: minimum)
  }
}

enum UnitsText {
  static func parse(
    _ text: String, _ range: ClosedRange<Int64>, _ what: String
  ) throws(CommandFailure) -> Int64 {
    guard let units = Int64(text), range.contains(units) else {
      throw ServiceAccess.mistake(
        "\(what): '\(text)' is no whole number from \(range.lowerBound) to \(range.upperBound)")
    }
    return units
  }

  /// Of --safety-stock; below 0, more is offered than there is.
  static func safetyStock(_ units: Int64) throws(CommandFailure) -> Int64 {
    guard -Units.max...Units.max ~= units else {
      throw ServiceAccess.mistake("--safety-stock: \(-Units.max) to \(Units.max)")
    }
    return units
  }
}

/// Runs commands that call a server, and tells what becomes of them.
enum ClientCommand {
  /// Runs a command. Where it fails, says why on standard error, as a JSON object with --json, and ends with the
  /// failure's status (docs/COMMAND-LINE.md).
  static func report(json: Bool, _ body: () throws -> Void) throws {
    do {
      try body()
    } catch let failure as CommandFailure {
      if json {
        write(JSONLine.failure(failure.description, exitStatus: failure.status))
      } else {
        CommandFailure.complain(failure.description)
      }
      throw ExitCode(failure.status)
    } catch let failure as CallFailure {
      tell(failure, json: json)
      throw ExitCode(failure.exitStatus)
    } catch OutputError.closed {
      // Its reader has enough.
      throw ExitCode.success
    } catch OutputError.failed(let error) {
      CommandFailure.complain("standard output: \(error)")
      throw ExitCode(ExitStatus.outputFailed)
    }
  }

  static func tell(_ failure: CallFailure, json: Bool) {
    if json {
      write(failure.json)
    } else {
      CommandFailure.complain(failure.lines().joined(separator: "\n"))
    }
  }

  /// To standard error.
  private static func write(_ line: JSONLine) {
    try? OutputFile(duplicating: 2).write(line.line + "\n")
  }

  /// So that nobody takes a change that was made before for another one.
  static func tellReplay(_ isReplayed: Bool) {
    if !isReplayed { return }
    CommandFailure.complain(
      "this was done before, under the same key: the first answer again")
  }

  static func notDone() -> CommandFailure {
    CommandFailure(description: "nothing was changed", status: ExitStatus.refused)
  }

  static func ttl(_ text: String?) throws(CommandFailure) -> Int64? {
    guard let text else { return nil }
    return try Settings.duration(text, Limits.second...366 * 86_400 * Limits.second, "--ttl")
  }

  static func instant(_ text: String?, _ flag: String) throws(CommandFailure) -> Instant? {
    guard let text else { return nil }
    guard let instant = Instant(text) else {
      throw ServiceAccess.mistake(
        "\(flag): '\(text)' is no time such as 2026-11-29T03:00:00Z, or a day")
    }
    return instant
  }
}
