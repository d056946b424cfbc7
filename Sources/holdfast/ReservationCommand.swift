// `holdfast reservation`: look at holds, make them and end them, by hand.
internal import ArgumentParser
internal import Client

struct ReservationCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "reservation",
    abstract: "Look at reservations on a server, make them and end them.",
    discussion: """
      holdfast reservation list --reference order-123
      holdfast reservation release --reference order-123

      Lines are written SKU=UNITS or SKU@LOCATION=UNITS; without =UNITS one unit. With --reference instead of ids, all \
      live holds with it are meant; of several, a terminal asks, and --yes is needed elsewhere.

      Exit status: 0 done, 1 refused, 64 usage, 69 no server, 74 output, 75 not known, 76 TLS, 77 credentials.
      """,
    subcommands: [
      GetReservation.self, ListReservations.self, ReserveUnits.self, ConfirmReservation.self,
      ReleaseReservation.self, ExtendReservation.self, ReplaceReservation.self,
    ])
}

/// Writes reservations.
private struct ReservationOutput {
  private let output: CommandOutput

  init(_ results: ResultOptions) throws {
    output = results.output()
    try output.begin(Reservation.columns)
  }

  func add(_ reservation: Reservation) throws {
    try output.add(reservation.cells(output.format), json: reservation.json)
  }

  /// What a change has answered.
  func add(_ reservation: Reservation, isReplayed: Bool, key: String? = nil) throws {
    var line = JSONLine()
    line.add("reservation", reservation.json)
    line.add("replayed", isReplayed)
    line.add("idempotency_key", key)
    try output.add(reservation.cells(output.format), json: line)
  }

  func finish(nothing: String? = nil) throws { try output.finish(nothing: nothing) }
}

struct GetReservation: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "get", abstract: "Show reservations, also ones that have ended.")

  @Argument(help: ArgumentHelp("Ids, as reserve has answered them.", valueName: "id"))
  var ids: [String] = []
  @Option(
    help: ArgumentHelp("The one that was reserved under this idempotency key.", valueName: "key"))
  var key: String?
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  func validate() throws {
    if ids.isEmpty == (key == nil) { throw ValidationError("say which: ids, or --key") }
  }

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      let caller = try server.connect()
      let output = try ReservationOutput(results)
      if let key {
        try output.add(try caller.reservation(id: "", key: key))
        return try output.finish()
      }
      try Each(results, ids).run {
        try output.add(try caller.reservation(id: $0))
      } finish: {
        try output.finish()
      }
    }
  }
}

struct ListReservations: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "Show the reservations that the server still knows.",
    discussion: "holdfast reservation list --reference order-123")

  enum State: String, ExpressibleByArgument, CaseIterable {
    case held, confirmed, released, expired, all

    var state: ReservationState {
      switch self {
      case .held: .held
      case .confirmed: .confirmed
      case .released: .released
      case .expired: .expired
      case .all: .unspecified
      }
    }
  }

  @Option(help: ArgumentHelp("Only those with this reference (order, cart).", valueName: "text"))
  var reference = ""
  @Option(help: "Only those in this state: held, confirmed, released, expired or all.")
  var state = State.all
  @Option(help: ArgumentHelp("So many at most (all).", valueName: "count"))
  var limit: Int?
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  func validate() throws {
    if let limit, limit < 1 { throw ValidationError("--limit: 1 or more") }
  }

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      let reference = try TargetOptions.code(reference, "--reference")
      let caller = try server.connect()
      let output = try ReservationOutput(results)
      var left = limit ?? .max
      try caller.listReservations(state: state.state, reference: reference, pageSize: limit) {
        (page: [Reservation]) throws(any Error) in
        for reservation in page where left > 0 {
          try output.add(reservation)
          left -= 1
        }
        return left > 0
      } failed: {
        $0
      }
      try output.finish(nothing: "no reservations")
    }
  }
}

struct ReserveUnits: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "reserve", abstract: "Hold units: all lines or none.",
    discussion: """
      holdfast reservation reserve ticket=2 mug@oslo=1 --ttl 15m --reference order-123

      SKU=MIN..UNITS takes what is available, up to UNITS, if that is at least MIN.
      """)

  @Argument(help: ArgumentHelp("SKU=UNITS, SKU@LOCATION=UNITS.", valueName: "line"))
  var lines: [String]
  @OptionGroup var location: LocationOption
  @Option(
    help: ArgumentHelp(
      "How long to hold: 30s, 10m, 2h (the server's default).", valueName: "duration"))
  var ttl: String?
  @Option(help: ArgumentHelp("What the units are for: an order, a cart.", valueName: "text"))
  var reference = ""
  @Option(
    name: .customLong("limit"),
    help: ArgumentHelp(
      "At most so many units of each item for a subject: customer:4711=2. May be given again.",
      valueName: "subject=units"))
  var limits: [String] = []
  @OptionGroup var key: KeyOption
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      var lines: [ReservationLine] = []
      for line in self.lines { lines.append(try location.line(line, hasMinimum: true)) }
      var limits: [(subject: String, units: Int64)] = []
      for text in self.limits {
        guard let equals = text.lastIndex(of: "=") else {
          throw ServiceAccess.mistake("--limit: '\(text)' is not SUBJECT=UNITS")
        }
        let units = String(text[text.index(after: equals)...])
        limits.append(
          (
            try TargetOptions.code(String(text[..<equals]), "--limit"),
            try UnitsText.parse(units, 1...Units.max, "--limit")
          ))
      }
      let key = try key.value()
      let reference = try TargetOptions.code(reference, "--reference")
      let caller = try server.connect()
      _ = Interruption()
      let held = try caller.reserve(
        lines, ttlNanoseconds: try ClientCommand.ttl(ttl), reference: reference, key: key,
        limits: limits)
      ClientCommand.tellReplay(held.isReplayed)
      if [.confirmed, .released, .expired].contains(held.state) {
        CommandFailure.complain("no unit is held by it any more: it is \(held.state.name)")
      }
      let output = results.output()
      try output.begin(HeldReservation.columns)
      try output.add(
        held.cells(output.format, lines, reference: reference),
        json: held.json(lines, reference: reference, key: key))
      try output.finish()
    }
  }
}

/// Several reservations, one after the other; a failure of one does not keep the others.
private struct Each {
  private let results: ResultOptions
  private let ids: [String]

  init(_ results: ResultOptions, _ ids: [String]) {
    self.results = results
    self.ids = ids
  }

  func run(_ body: (String) throws -> Void, finish: () throws -> Void) throws {
    var status: Int32 = 0
    for (index, id) in ids.enumerated() {
      do {
        try body(id)
      } catch let failure as CallFailure {
        // Whoever cannot be reached will not be reached for the next one either.
        if failure.exitStatus != ExitStatus.refused || ids.count == 1 {
          try finish()
          if index + 1 < ids.count {
            CommandFailure.complain(
              "not tried: \(ids[(index + 1)...].joined(separator: " "))")
          }
          throw failure
        }
        if !results.isJSON { CommandFailure.complain("\(id):") }
        ClientCommand.tell(failure, json: results.isJSON)
        status = failure.exitStatus
      }
    }
    try finish()
    if status != 0 { throw ExitCode(status) }
  }
}

/// Which holds a command is about.
struct HoldSelection: ParsableArguments {
  @Argument(help: ArgumentHelp("Ids of reservations.", valueName: "id"))
  var ids: [String] = []
  @Option(help: ArgumentHelp("All live holds with this reference.", valueName: "text"))
  var reference: String?

  func validate() throws {
    if ids.isEmpty == (reference == nil) { throw ValidationError("say which: ids, or --reference") }
    if reference == "" { throw ValidationError("--reference: that would be all there are") }
  }

  /// Their ids, once a person has agreed where there are several. nil: a dry run, which has shown them.
  func chosen(
    _ caller: ServiceCaller, to verb: String, _ consent: ConsentOptions, _ results: ResultOptions
  ) throws -> [String]? {
    var found: [Reservation] = []
    if let reference {
      _ = try TargetOptions.code(reference, "--reference")
      try caller.listReservations(state: .held, reference: reference) {
        (page: [Reservation]) throws(CallFailure) in
        found += page
        return true
      } failed: {
        $0
      }
      if found.isEmpty {
        throw CommandFailure(
          description:
            "no live hold has the reference \(reference); reservation list --reference shows those that have ended",
          status: ExitStatus.refused)
      }
    } else if consent.dryRun {
      for id in ids { found.append(try caller.reservation(id: id)) }
    }
    if consent.dryRun {
      let output = try ReservationOutput(results)
      for reservation in found { try output.add(reservation) }
      try output.finish()
      CommandFailure.complain(
        "dry run: nothing was changed; as it stands now, it would \(verb) these")
      return nil
    }
    guard let reference else { return ids }
    if found.count > 1 {
      let list = found.prefix(10).map {
        "\($0.id) (\($0.lines.map { "\($0.item)=\($0.quantity)" }.joined(separator: " ")))"
      }
      let rest = found.count > 10 ? " and \(found.count - 10) more" : ""
      let question =
        "\(found.count) holds have the reference \(reference): \(list.joined(separator: ", "))\(rest). \(verb.prefix(1).uppercased() + verb.dropFirst()) all?"
      guard try consent.agreed(to: question) else { throw ClientCommand.notDone() }
    }
    return found.map(\.id)
  }
}

struct ConfirmReservation: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "confirm", abstract: "Sell the held units, whole or in part.")

  @OptionGroup var holds: HoldSelection
  @Option(
    name: .customLong("line"),
    help: ArgumentHelp(
      "Sell these units alone; the others go back. May be given again.", valueName: "sku=units"))
  var lines: [String] = []
  @OptionGroup var location: LocationOption
  @Flag(help: "The units stay on hand, as committed, until stock ship.")
  var keepCommitted = false
  @Flag(help: "If the hold has expired, take the units again, if they are still there.")
  var reacquire = false
  @OptionGroup var consent: ConsentOptions
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  func validate() throws {
    if !lines.isEmpty, holds.ids.count != 1 {
      throw ValidationError("--line is for one reservation, by its id")
    }
  }

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      var sold: [ReservationLine] = []
      for line in lines { sold.append(try location.line(line)) }
      let caller = try server.connect()
      guard let ids = try holds.chosen(caller, to: "confirm", consent, results) else { return }
      _ = Interruption()
      let output = try ReservationOutput(results)
      try Each(results, ids).run {
        let changed = try caller.confirm(
          id: $0, sold, reacquires: reacquire, keepsCommitted: keepCommitted)
        try output.add(changed.value, isReplayed: changed.isReplayed)
      } finish: {
        try output.finish()
      }
    }
  }
}

struct ReleaseReservation: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "release", abstract: "Give held units back to stock.",
    discussion: """
      holdfast reservation release 00fp0t3v1e0dhqvt8q3g
      holdfast reservation release --reference order-123
      """)

  @OptionGroup var holds: HoldSelection
  @OptionGroup var consent: ConsentOptions
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      let caller = try server.connect()
      guard let ids = try holds.chosen(caller, to: "release", consent, results) else { return }
      _ = Interruption()
      let output = try ReservationOutput(results)
      try Each(results, ids).run {
        let changed = try caller.release(id: $0)
        try output.add(changed.value, isReplayed: changed.isReplayed)
      } finish: {
        try output.finish()
      }
    }
  }
}

struct ExtendReservation: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "extend", abstract: "Hold units for longer, counted from now.")

  @OptionGroup var holds: HoldSelection
  @Option(
    help: ArgumentHelp("From now: 30s, 10m, 2h (the server's default).", valueName: "duration"))
  var ttl: String?
  @Flag(help: "The hold may also end earlier than it did.")
  var mayShorten = false
  @OptionGroup var consent: ConsentOptions
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      let ttl = try ClientCommand.ttl(ttl)
      let caller = try server.connect()
      guard let ids = try holds.chosen(caller, to: "extend", consent, results) else { return }
      _ = Interruption()
      let output = try ReservationOutput(results)
      try Each(results, ids).run {
        let changed = try caller.extend(id: $0, ttlNanoseconds: ttl, mayShorten: mayShorten)
        try output.add(changed.value, isReplayed: changed.isReplayed)
      } finish: {
        try output.finish()
      }
    }
  }
}

struct ReplaceReservation: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "replace", abstract: "Put other lines in the place of a live hold's, in one step.",
    discussion: """
      holdfast reservation replace 00fp0t3v1e0dhqvt8q3g ticket=3

      What is kept needs no stock; what is not held any more is free at once.
      """)

  @Argument(help: ArgumentHelp("The reservation.", valueName: "id"))
  var id: String
  @Argument(help: ArgumentHelp("What is held from now on: SKU=UNITS.", valueName: "line"))
  var lines: [String]
  @OptionGroup var location: LocationOption
  @Option(
    help: ArgumentHelp("A new time to live, from now (its end stays).", valueName: "duration"))
  var ttl: String?
  @Option(help: ArgumentHelp("A new reference (it stays).", valueName: "text"))
  var reference = ""
  @Option(help: ArgumentHelp("Only if the reservation is at this revision.", valueName: "number"))
  var ifRevision: UInt64?
  @OptionGroup var key: KeyOption
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  func validate() throws {
    if ifRevision == 0 { throw ValidationError("--if-revision: 1 or more") }
  }

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      var held: [ReservationLine] = []
      for line in lines { held.append(try location.line(line)) }
      let key = try key.value()
      let reference = try TargetOptions.code(reference, "--reference")
      let caller = try server.connect()
      _ = Interruption()
      let changed = try caller.replace(
        id: id, held, expectedRevision: ifRevision ?? 0,
        ttlNanoseconds: try ClientCommand.ttl(ttl), reference: reference, key: key)
      ClientCommand.tellReplay(changed.isReplayed)
      let output = try ReservationOutput(results)
      try output.add(changed.value, isReplayed: changed.isReplayed, key: key)
      try output.finish()
    }
  }
}
