// What the operator may set: a flag, else an environment variable, else the configuration file, else
// the default. Every value is read as text by one set of rules, so that each says the same of a mistake.
internal import Configuration
internal import Foundation
internal import Posix
internal import StockStore
internal import SystemPackage

/// The settings of `holdfast serve`, all checked.
struct Settings {
  var host = ""
  var port: UInt16 = 0
  var adminHost = ""
  var adminPort: UInt16 = 0
  var loops = 1
  /// nil: decisions end with the process (`memory`).
  var durability: Durability?
  var dataDirectory = ""
  var journalSegmentBytes = 0
  var maxItems = 0
  var maxReservations = 0
  var maxConnections = 0
  var defaultTTLNanoseconds: Int64 = 0
  var maxHoldNanoseconds: Int64 = 0
  var retentionNanoseconds: Int64 = 0
  var handshakeTimeoutNanoseconds: Int64 = 0
  var shutdownTimeoutNanoseconds: Int64 = 0
  var clockJumpMaxNanoseconds: Int64 = 0
  /// This start takes the machine's clock whatever the newest record says. A flag alone: where it could
  /// stay set, it would be of no use.
  var acceptsClock = false
  var concurrency = ConcurrencyControl.optimistic
  var logLevel = ""
  var logFormat = ""

  /// Where each value came from, for --print-config: name, value, source.
  private(set) var sources: [(name: String, value: String, source: String)] = []

  /// The names of all settings: flags with dashes, HOLDFAST_ variables, keys of the file.
  static let defaults: [(name: String, value: String)] = [
    ("host", "127.0.0.1"), ("port", "7420"), ("admin-host", "127.0.0.1"), ("admin-port", "7421"),
    ("loops", "auto"), ("durability", "fsync"), ("data-dir", "holdfast-data"),
    ("journal-segment-bytes", String(Limits.journalSegmentBytes)),
    ("max-items", String(Limits.itemsMax)),
    ("max-reservations", String(Limits.reservationsMax)),
    ("max-connections", String(Limits.connectionsMax)), ("default-ttl", "600s"),
    ("max-hold", "24h"), ("retention", "24h"), ("handshake-timeout", "10s"),
    ("shutdown-timeout", "10s"), ("clock-jump-max", "24h"),
    ("concurrency", ConcurrencyControl.optimistic.rawValue),
    ("log-level", "info"), ("log-format", "auto"),
  ]

  /// - Parameters:
  ///   - flags: what the command line says, by name.
  ///   - file: path of the configuration file, a JSON object of names and values.
  init(flags: [String: String], file: String?) async throws {
    let environment = ConfigReader(provider: EnvironmentVariablesProvider())
      .scoped(to: "holdfast")
    let path = file ?? environment.string(forKey: "config")
    let fileReader = try await Self.reader(ofFile: path)
    for (name, fallback) in Self.defaults {
      // Environment variables have underscores where flags have dashes; the library joins the parts of
      // a key, so that this is HOLDFAST_MAX_HOLD.
      let variableKey = ConfigKey(name.split(separator: "-").map(String.init))
      let variable = "HOLDFAST_" + name.uppercased().replacing("-", with: "_")
      if let value = flags[name] {
        try set(name, value, source: "--\(name)")
      } else if let value = environment.string(forKey: variableKey) {
        try set(name, value, source: variable)
      } else if let value = Self.text(in: fileReader, name) {
        try set(name, value, source: "\(name) in \(path ?? "")")
      } else {
        try set(name, fallback, source: "default")
      }
    }
    if defaultTTLNanoseconds > maxHoldNanoseconds {
      // A default that nobody chose gives way to what somebody did.
      guard sources.contains(where: { $0.name == "default-ttl" && $0.source == "default" }) else {
        throw Self.mistake("--default-ttl: longer than --max-hold, which no hold outlives")
      }
      defaultTTLNanoseconds = maxHoldNanoseconds
    }
    guard journalSegmentBytes / Limits.journalSegmentBytesPerLoop > loops else {
      throw Self.mistake(
        "--journal-segment-bytes: \(journalSegmentBytes) are too few for \(loops) loops")
    }
    if concurrency == Self.broken && durability != nil {
      throw Self.mistake(
        "--concurrency \(concurrency.rawValue) goes with --durability \(Self.memory) only: "
          + "nobody wants to keep what it does")
    }
  }
}

extension Settings {
  private mutating func set(_ name: String, _ text: String, source: String) throws(CommandFailure) {
    let at = source == "default" ? "--\(name)" : source
    switch name {
    case "host": host = text
    case "port": port = UInt16(try Self.number(text, 0...65535, at))
    case "admin-host": adminHost = text
    case "admin-port": adminPort = UInt16(try Self.number(text, 0...65535, at))
    case "loops":
      loops =
        text == "auto"
        ? min(Machine.usableProcessors, Limits.loopsMax)
        : try Self.number(text, 1...Limits.loopsMax, at)
    case "durability":
      durability = Durability(
        rawValue: try Self.choice(text, Durability.allCases.map(\.rawValue) + [Self.memory], at))
    case "data-dir": dataDirectory = try Self.path(text, at)
    case "journal-segment-bytes":
      journalSegmentBytes = try Self.number(text, Limits.journalSegmentBytesAllowed, at)
      guard journalSegmentBytes.isMultiple(of: 4096) else {
        throw Self.mistake("\(at): '\(text)' is not a multiple of 4096")
      }
    case "max-items": maxItems = try Self.number(text, 1...(1 << 31), at)
    case "max-reservations": maxReservations = try Self.number(text, 64...(1 << 30), at)
    case "max-connections": maxConnections = try Self.number(text, 1...1_000_000, at)
    case "default-ttl":
      defaultTTLNanoseconds = try Self.duration(
        text, Limits.ttlNanosecondsMin...(365 * 24 * 3600 * Limits.second), at)
    case "max-hold":
      maxHoldNanoseconds = try Self.duration(
        text, Limits.second...(365 * 24 * 3600 * Limits.second), at)
    case "retention":
      retentionNanoseconds = try Self.duration(text, 0...(365 * 24 * 3600 * Limits.second), at)
    case "handshake-timeout":
      handshakeTimeoutNanoseconds = try Self.duration(
        text, (Limits.second / 10)...(3600 * Limits.second), at)
    case "shutdown-timeout":
      shutdownTimeoutNanoseconds = try Self.duration(text, 0...(3600 * Limits.second), at)
    case "clock-jump-max":
      clockJumpMaxNanoseconds = try Self.duration(
        text, (60 * Limits.second)...(10 * 365 * 24 * 3600 * Limits.second), at)
    case "concurrency":
      let choices = ConcurrencyControl.sound + [Self.broken]
      let name = try Self.choice(text, choices.map(\.rawValue), at)
      concurrency = choices.first { $0.rawValue == name } ?? .optimistic
    case "log-level":
      logLevel = try Self.choice(
        text, ["trace", "debug", "info", "notice", "warning", "error", "critical"], at)
    case "log-format": logFormat = try Self.choice(text, ["auto", "text", "json"], at)
    default: break
    }
    sources.append((name, text, source))
  }

  /// The durability without a journal.
  static let memory = "memory"

  /// The strategy that oversells, for showing what a verdict is worth. Not in the help.
  static let broken = ConcurrencyControl.uncheckedForDemonstration

  // MARK: Rules

  /// A mistake of the operator's.
  private static func mistake(_ text: String) -> CommandFailure {
    CommandFailure(description: text, status: CommandFailure.usage)
  }

  static func number(_ text: String, _ range: ClosedRange<Int>, _ at: String) throws(CommandFailure)
    -> Int
  {
    guard let value = Int(text), range.contains(value) else {
      throw Self.mistake(
        "\(at): '\(text)' is not a number from \(range.lowerBound) to \(range.upperBound)")
    }
    return value
  }

  static func path(_ text: String, _ at: String) throws(CommandFailure) -> String {
    guard !text.isEmpty, !text.utf8.contains(0) else {
      throw Self.mistake("\(at): not the path of a directory")
    }
    return text
  }

  static func choice(_ text: String, _ choices: [String], _ at: String) throws(CommandFailure)
    -> String
  {
    guard choices.contains(text) else {
      let visible = choices.filter { $0 != broken.rawValue }
      throw Self.mistake(
        "\(at): '\(text)' is not one of: \(visible.joined(separator: ", "))")
    }
    return text
  }

  /// A duration such as 500ms, 30s, 10m or 24h, in nanoseconds.
  static func duration(_ text: String, _ range: ClosedRange<Int64>, _ at: String)
    throws(CommandFailure) -> Int64
  {
    let units: [(suffix: String, nanoseconds: Int64)] = [
      ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000),
    ]
    for unit in units where text.hasSuffix(unit.suffix) {
      guard let value = Int64(text.dropLast(unit.suffix.count)) else { continue }
      let (nanoseconds, overflow) = value.multipliedReportingOverflow(by: unit.nanoseconds)
      guard !overflow, range.contains(nanoseconds) else {
        let least = Double(range.lowerBound) / 1e9
        throw Self.mistake(
          "\(at): '\(text)' is not from \(least)s to \(range.upperBound / 1_000_000_000)s")
      }
      return nanoseconds
    }
    throw Self.mistake(
      "\(at): '\(text)' is not a duration such as 500ms, 30s, 10m or 24h")
  }

  // MARK: Sources

  private static func reader(ofFile path: String?) async throws -> ConfigReader? {
    guard let path else { return nil }
    do {
      let object = try JSONSerialization.jsonObject(with: Data(contentsOf: URL(filePath: path)))
      let names = Set(defaults.map(\.name))
      for key in (object as? [String: Any] ?? [:]).keys.sorted() where !names.contains(key) {
        throw Self.mistake(
          "\(path): no setting is called '\(key)'; holdfast serve --help lists them")
      }
      return ConfigReader(provider: try await FileProvider<JSONSnapshot>(filePath: FilePath(path)))
    } catch let error as CommandFailure {
      throw error
    } catch {
      throw Self.mistake(
        "\(path): not a readable JSON object of settings (--config)")
    }
  }

  /// A value of the file: a string or a number.
  private static func text(in reader: ConfigReader?, _ name: String) -> String? {
    let key = ConfigKey([name])
    return reader?.string(forKey: key) ?? reader?.int(forKey: key).map(String.init)
  }
}
