// `holdfast stock`: look at items and change them, by hand.
internal import ArgumentParser
internal import Client

struct StockCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "stock",
    abstract: "Look at and change the stock of items on a server.",
    discussion: """
      An item is written SKU, or SKU@LOCATION. Changes are made once, however often they are tried: each has a key, \
      which is told where the outcome is not known, and given back with --key.

      What takes away without looking (set, remove) asks at a terminal, and needs --yes elsewhere. Exit status: 0 done, \
      1 refused, 64 usage, 65 and 66 a file, 69 no server, 74 output, 75 not known or cut off, 76 TLS, 77 credentials.
      """,
    subcommands: [
      GetStock.self, ListStock.self, SetStock.self, AdjustStock.self, ShipStock.self,
      UncommitStock.self, TransferStock.self, SaleStock.self, ImportStock.self, RemoveStock.self,
    ])
}

struct GetStock: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "get", abstract: "Show the balances of items.",
    discussion: """
      On hand: units that exist. Held: in live reservations. Committed: sold, not shipped. Safety stock: never offered. \
      Available: what can be reserved now.
      """)

  @Argument(help: ArgumentHelp("Items: SKU or SKU@LOCATION.", valueName: "item"))
  var items: [String]
  @OptionGroup var location: LocationOption
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      var names: [ItemName] = []
      for item in items { names.append(try location.item(item)) }
      let caller = try server.connect()
      let (levels, missing) = try caller.stock(of: names)
      let output = results.output()
      try output.begin(StockLevel.columns)
      for level in levels { try output.add(level.cells, json: level.json) }
      try output.finish()
      if !missing.isEmpty { throw CallFailure.notFound(missing, server: caller.server) }
    }
  }
}

struct ListStock: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "Show all items, mostly in the order in which they were made.")

  @Option(help: ArgumentHelp("Only SKUs that begin with this.", valueName: "text"))
  var prefix = ""
  @Option(help: ArgumentHelp("Only items at this location.", valueName: "name"))
  var location: String?
  @Flag(help: "Only items of which nothing is available.")
  var soldOut = false
  @Option(help: ArgumentHelp("So many at most (all).", valueName: "count"))
  var limit: Int?
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  func validate() throws {
    if let limit, limit < 1 { throw ValidationError("--limit: 1 or more") }
  }

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      let caller = try server.connect()
      let output = results.output()
      try output.begin(StockLevel.columns)
      var left = limit ?? .max
      let isFiltered = !prefix.isEmpty || location != nil || soldOut
      try caller.listStock(pageSize: isFiltered ? nil : limit) {
        (levels: [StockLevel]) throws(any Error) in
        for level in levels where isWanted(level) && left > 0 {
          try output.add(level.cells, json: level.json)
          left -= 1
        }
        return left > 0
      } failed: {
        $0
      }
      try output.finish(nothing: "no items")
    }
  }

  private func isWanted(_ level: StockLevel) -> Bool {
    level.item.sku.hasPrefix(prefix) && location.map { $0 == level.item.location } ?? true
      && (!soldOut || level.available <= 0)
  }
}

/// What a change of one item may depend on.
struct CheckOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Only if the item is at this version; 0: only if it is not there.", valueName: "number"))
  var ifVersion: UInt64?
  @Option(help: ArgumentHelp("Only if so many are on hand.", valueName: "units"))
  var ifOnHand: Int64?

  func check() throws(CommandFailure) -> VersionCheck {
    switch (ifVersion, ifOnHand) {
    case (nil, nil): return .any
    case (let version?, nil): return .version(version)
    case (nil, let units?):
      guard 0...Units.max ~= units else {
        throw ServiceAccess.mistake("--if-on-hand: 0 to \(Units.max)")
      }
      return .onHand(units)
    default: throw ServiceAccess.mistake("--if-version or --if-on-hand, not both")
    }
  }
}

/// One change of one item: what set, adjust, ship, uncommit and sale come to.
struct OneChange {
  let adjustment: Adjustment
  let note: ChangeNote
  let consent: ConsentOptions
  let results: ResultOptions
  let caller: ServiceCaller

  /// - Parameter question: asked with the balances as they are; nil: nobody is asked.
  func make(question: ((StockLevel?) -> String)? = nil) throws {
    if consent.dryRun { return try foresee() }
    if let question, !consent.yes {
      let level = try caller.stock(of: adjustment.item)
      guard try consent.agreed(to: question(level)) else { throw ClientCommand.notDone() }
    }
    _ = Interruption()
    let changed = try caller.adjust(adjustment, note)
    ClientCommand.tellReplay(changed.isReplayed)
    try write(changed.value, isReplayed: changed.isReplayed, key: note.key)
  }

  /// What the change would come to, by the balances as they are.
  private func foresee() throws {
    let level = try caller.stock(of: adjustment.item)
    let outcome = adjustment.foreseen(on: level)
    switch outcome {
    case .success(let after):
      CommandFailure.complain("dry run: nothing was changed; as it stands now, it would become")
      try write(after, isReplayed: false, key: nil)
    case .failure(let problem):
      throw CommandFailure(
        description:
          "dry run: as it stands now, it would be refused: \(problem.text) (\(problem.reason))",
        status: ExitStatus.refused)
    }
  }

  private func write(_ level: StockLevel, isReplayed: Bool, key: String?) throws {
    let output = results.output()
    try output.begin(StockLevel.columns)
    var line = JSONLine()
    line.add("stock", level.json)
    line.add("replayed", isReplayed)
    line.add("idempotency_key", key)
    try output.add(level.cells, json: line)
    try output.finish()
  }
}

struct SetStock: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "set", abstract: "Set how many units of an item are on hand; makes the item.",
    discussion: """
      holdfast stock set ticket 100

      Holds and sold units stay as they are: fewer than held and committed are refused, but with --allow-shortage.
      """)

  @Argument(help: ArgumentHelp("SKU or SKU@LOCATION.", valueName: "item"))
  var item: String
  @Argument(help: "On hand from now on: 0 to 1099511627776.")
  var units: Int64
  @OptionGroup var location: LocationOption
  @Option(help: ArgumentHelp("Set the units that are never offered, too.", valueName: "units"))
  var safetyStock: Int64?
  @Flag(help: "On hand may fall below what is held and committed, but not below 0.")
  var allowShortage = false
  @OptionGroup var check: CheckOptions
  @OptionGroup var change: ChangeOptions
  @OptionGroup var consent: ConsentOptions
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      var adjustment = Adjustment(try location.item(item), .set(units))
      guard 0...Units.max ~= units else { throw ServiceAccess.mistake("units: 0 to \(Units.max)") }
      adjustment.check = try check.check()
      adjustment.safetyStock = try safetyStock.map(UnitsText.safetyStock)
      adjustment.allowsShortage = allowShortage
      let name = adjustment.item
      try OneChange(
        adjustment: adjustment, note: try change.note(), consent: consent, results: results,
        caller: try server.connect()
      ).make(
        question: adjustment.check != .any
          ? nil
          : { level in
            guard let level else { return "\(name) is not there. Make it, with \(units) on hand?" }
            return
              "\(name) has \(level.onHand) on hand (\(level.held) held, \(level.committed) committed). Set it to \(units)?"
          })
    }
  }
}

struct AdjustStock: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "adjust", abstract: "Add units to an item, or take them away.",
    discussion: """
      holdfast stock adjust ticket +5
      holdfast stock adjust ticket -3 --reason 'three are torn'

      Without units, --safety-stock alone is changed.
      """)

  @Argument(help: ArgumentHelp("SKU or SKU@LOCATION.", valueName: "item"))
  var item: String
  // A number below zero looks like a flag that nobody knows.
  @Argument(parsing: .allUnrecognized, help: ArgumentHelp("Such as +5 or -3.", valueName: "units"))
  var units: [String] = []
  @OptionGroup var location: LocationOption
  @Option(help: ArgumentHelp("Set the units that are never offered.", valueName: "units"))
  var safetyStock: Int64?
  @Flag(help: "On hand may fall below what is held and committed, but not below 0.")
  var allowShortage = false
  @OptionGroup var check: CheckOptions
  @OptionGroup var change: ChangeOptions
  @OptionGroup var consent: ConsentOptions
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  func validate() throws {
    for text in units where Int64(text) == nil {
      throw ValidationError(
        text.hasPrefix("-") ? "Unknown option '\(text)'" : "'\(text)' is no whole number")
    }
    if units.count > 1 { throw ValidationError("one number of units, such as +5 or -3") }
    if units.isEmpty && safetyStock == nil {
      throw ValidationError("say by how much: +5 or -3, or --safety-stock")
    }
  }

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      var adjustment = Adjustment(try location.item(item))
      if let text = units.first {
        adjustment.change = .add(try UnitsText.parse(text, -Units.max...Units.max, "units"))
      }
      adjustment.check = try check.check()
      adjustment.safetyStock = try safetyStock.map(UnitsText.safetyStock)
      adjustment.allowsShortage = allowShortage
      try OneChange(
        adjustment: adjustment, note: try change.note(), consent: consent, results: results,
        caller: try server.connect()
      ).make()
    }
  }
}

struct ShipStock: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ship", abstract: "Say that sold units have left the house.",
    discussion: """
      On hand and committed both fall. Only units of holds that were confirmed with --keep-committed are committed.
      """)

  @Argument(help: ArgumentHelp("SKU or SKU@LOCATION.", valueName: "item"))
  var item: String
  @Argument(help: "1 to what is committed.")
  var units: Int64
  @OptionGroup var location: LocationOption
  @OptionGroup var change: ChangeOptions
  @OptionGroup var consent: ConsentOptions
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      guard 1...Units.max ~= units else { throw ServiceAccess.mistake("units: 1 to \(Units.max)") }
      try OneChange(
        adjustment: Adjustment(try location.item(item), .ship(units)), note: try change.note(),
        consent: consent, results: results, caller: try server.connect()
      ).make()
    }
  }
}

struct UncommitStock: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "uncommit",
    abstract: "Say that sold units are not shipped after all: they can be reserved again.")

  @Argument(help: ArgumentHelp("SKU or SKU@LOCATION.", valueName: "item"))
  var item: String
  @Argument(help: "1 to what is committed.")
  var units: Int64
  @OptionGroup var location: LocationOption
  @OptionGroup var change: ChangeOptions
  @OptionGroup var consent: ConsentOptions
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      guard 1...Units.max ~= units else { throw ServiceAccess.mistake("units: 1 to \(Units.max)") }
      try OneChange(
        adjustment: Adjustment(try location.item(item), .uncommit(units)),
        note: try change.note(), consent: consent, results: results, caller: try server.connect()
      ).make()
    }
  }
}

struct TransferStock: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "transfer",
    abstract: "Move units of a SKU from one location to another, in one step.",
    discussion: "holdfast stock transfer mug 5 --from oslo --to bergen")

  @Argument(help: "The product.")
  var sku: String
  @Argument(help: "Units to move.")
  var units: Int64
  @Option(help: ArgumentHelp("Where they are (the default location).", valueName: "location"))
  var from = ""
  @Option(help: ArgumentHelp("Where they go (the default location).", valueName: "location"))
  var to = ""
  @OptionGroup var change: ChangeOptions
  @OptionGroup var consent: ConsentOptions
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      guard 1...Units.max ~= units else { throw ServiceAccess.mistake("units: 1 to \(Units.max)") }
      if from == to { throw ServiceAccess.mistake("--from and --to are the same location") }
      let changes = [
        Adjustment(try LocationOption.item(sku, at: from), .add(-units)),
        Adjustment(try LocationOption.item(sku, at: to), .add(units)),
      ]
      let caller = try server.connect()
      let output = results.output()
      try output.begin(StockLevel.columns)
      if consent.dryRun {
        for change in changes {
          switch change.foreseen(on: try caller.stock(of: change.item)) {
          case .success(let level): try output.add(level.cells, json: level.json)
          case .failure(let problem):
            throw CommandFailure(
              description:
                "dry run: as it stands now, it would be refused at \(change.item): \(problem.text) (\(problem.reason))",
              status: ExitStatus.refused)
          }
        }
        CommandFailure.complain("dry run: nothing was changed; as it stands now, they would become")
        return try output.finish()
      }
      _ = Interruption()
      let note = try change.note()
      let changed = try caller.adjustTogether(changes, note)
      ClientCommand.tellReplay(changed.isReplayed)
      for level in changed.value {
        var line = JSONLine()
        line.add("stock", level.json)
        line.add("replayed", changed.isReplayed)
        line.add("idempotency_key", note.key)
        try output.add(level.cells, json: line)
      }
      try output.finish()
    }
  }
}

struct SaleStock: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sale", abstract: "Say when an item may be reserved, or that it may not for now.",
    discussion: """
      holdfast stock sale ticket --freeze
      holdfast stock sale ticket --from 2026-12-01T09:00:00+01:00 --until 2026-12-24

      What is not named stays as it is. Live holds go on as they were. Times are RFC 3339.
      """)

  @Argument(help: ArgumentHelp("SKU or SKU@LOCATION.", valueName: "item"))
  var item: String
  @OptionGroup var location: LocationOption
  @Option(help: ArgumentHelp("From then on.", valueName: "time"))
  var from: String?
  @Option(help: ArgumentHelp("Until then.", valueName: "time"))
  var until: String?
  @Flag(help: "Not for now, whatever the time is.")
  var freeze = false
  @Flag(help: "No longer frozen.")
  var unfreeze = false
  @Flag(help: "At any time: takes away what was set.")
  var always = false
  @OptionGroup var change: ChangeOptions
  @OptionGroup var consent: ConsentOptions
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  private static let triesMax = 20

  func validate() throws {
    if freeze && unfreeze { throw ValidationError("--freeze or --unfreeze, not both") }
    if always, freeze || from != nil || until != nil {
      throw ValidationError("--always takes everything away: nothing goes with it")
    }
    if from == nil, until == nil, !freeze, !unfreeze, !always {
      throw ValidationError("say what to change: --from, --until, --freeze, --unfreeze or --always")
    }
  }

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      let name = try location.item(item)
      let window = (
        from: try ClientCommand.instant(from, "--from"),
        until: try ClientCommand.instant(until, "--until")
      )
      let caller = try server.connect()
      var note = try change.note()
      for tries in 1... {
        guard let level = try caller.stock(of: name) else {
          throw CallFailure.notFound([name], server: caller.server)
        }
        var adjustment = Adjustment(name)
        // What stays is what was read: nothing else may have been set meanwhile.
        adjustment.check = .version(level.version)
        var sale = always ? SaleWindow() : level.sale ?? SaleWindow()
        if let from = window.from { sale.from = from }
        if let until = window.until { sale.until = until }
        if freeze || unfreeze { sale.isFrozen = freeze }
        if let from = sale.from, let until = sale.until, until <= from {
          throw ServiceAccess.mistake("the sale would end (\(until)) before it begins (\(from))")
        }
        adjustment.sale = sale
        do {
          return try OneChange(
            adjustment: adjustment, note: note, consent: consent, results: results, caller: caller
          ).make()
        } catch let failure as CallFailure
          where failure.details.reason == "VERSION_MISMATCH" && tries < Self.triesMax
          && change.key.key == nil
        {
          // Somebody has reserved it meanwhile. Another change, so another key.
          note.key = try change.key.value()
        }
      }
    }
  }
}

struct RemoveStock: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "remove",
    abstract: "Remove an item of which nothing is on hand, held or committed.")

  @Argument(help: ArgumentHelp("SKU or SKU@LOCATION.", valueName: "item"))
  var item: String
  @OptionGroup var location: LocationOption
  @Option(help: ArgumentHelp("Only if the item is at this version.", valueName: "number"))
  var ifVersion: UInt64?
  @OptionGroup var change: ChangeOptions
  @OptionGroup var consent: ConsentOptions
  @OptionGroup(title: "Results") var results: ResultOptions
  @OptionGroup(title: "Server") var server: ServerOptions

  func validate() throws {
    if ifVersion == 0 { throw ValidationError("--if-version: 1 or more") }
    if change.reference != nil { throw ValidationError("--reference: a removal has none") }
  }

  func run() throws {
    try ClientCommand.report(json: results.isJSON) {
      let name = try location.item(item)
      let caller = try server.connect()
      if consent.dryRun { return try foresee(name, caller) }
      if ifVersion == nil,
        try !consent.agreed(to: "Remove \(name), its safety stock and its sale window?")
      {
        throw ClientCommand.notDone()
      }
      _ = Interruption()
      let note = try change.note()
      let isReplayed = try caller.remove(name, expectedVersion: ifVersion ?? 0, note)
      ClientCommand.tellReplay(isReplayed)
      let output = results.output()
      let columns = [TableColumn("SKU"), TableColumn("LOCATION"), TableColumn("REMOVED")]
      try output.begin(columns)
      var line = JSONLine()
      line.add("sku", name.sku)
      line.add("location", name.location)
      line.add("removed", true)
      line.add("replayed", isReplayed)
      line.add("idempotency_key", note.key)
      try output.add([TableCell(name.sku), TableCell(name.location), "yes"], json: line)
      try output.finish()
    }
  }

  private func foresee(_ name: ItemName, _ caller: ServiceCaller) throws {
    guard let level = try caller.stock(of: name) else {
      throw CallFailure.notFound([name], server: caller.server)
    }
    guard level.onHand == 0, level.held == 0, level.committed == 0 else {
      throw CommandFailure(
        description:
          "dry run: it would be refused: \(level.onHand) on hand, \(level.held) held, \(level.committed) committed",
        status: ExitStatus.refused)
    }
    CommandFailure.complain(
      "dry run: nothing was changed; as it stands now, \(name) would be removed")
  }
}
