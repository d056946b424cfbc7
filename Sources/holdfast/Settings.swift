// What the operator may set: a flag, else an environment variable, else the configuration file, else
// for files a credential of the service manager's, else the default. Every value is read as text by one set of rules, so that each says the same of a mistake.
internal import Configuration
internal import FoundationEssentials
internal import Glibc
internal import Log
internal import Posix
internal import PostgresLog
internal import StockStore

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
  /// Where the replicated log is, as libpq takes it; goes with durability `quorum`.
  var engine = ""
  /// Stands by until the log's owner is gone.
  var isStandby = false
  /// A standby answers reads from its copy of the log.
  var readsStale = false
  /// A standby passes connections on to the owner, rather than saying where that is.
  var forwards = false
  /// Where clients reach this server, told by others; empty: as `host` and `port` say.
  var advertise = ""
  var leaseNanoseconds: Int64 = 0
  var journalSegmentBytes = 0
  /// nil: `Limits.historyBytes`, in memory while somebody watches.
  var historyBytes: Int?
  /// Empty: segments that are not needed any more are gone.
  var archive = ""
  var maxItems = 0
  var maxReservations = 0
  var maxLimits = 0
  var maxConnections = 0
  /// nil: half of them, and peers on the machine itself are not counted.
  var maxConnectionsPerPeer: Int?
  /// 0: never.
  var maxConnectionAgeNanoseconds: Int64 = 0
  var maxConnectionAgeGraceNanoseconds: Int64 = 0
  var maxConnectionIdleNanoseconds: Int64 = 0
  var keepaliveTimeNanoseconds: Int64 = 0
  var keepaliveTimeoutNanoseconds: Int64 = 0
  var defaultTTLNanoseconds: Int64 = 0
  var maxHoldNanoseconds: Int64 = 0
  var retentionNanoseconds: Int64 = 0
  var handshakeTimeoutNanoseconds: Int64 = 0
  var stallTimeoutNanoseconds: Int64 = 0
  var shutdownTimeoutNanoseconds: Int64 = 0
  var clockJumpMaxNanoseconds: Int64 = 0
  /// Path of the token file; empty: access is off, whoever reaches the port may call everything.
  var tokens = ""
  /// nil: connections are not encrypted.
  var tls: TLSFiles?
  /// Connections begin with a header of the PROXY protocol.
  var proxyProtocol = false
  /// The admin pages are served over TLS too, with the same certificate.
  var adminTLS = false
  /// This start takes the machine's clock whatever the newest record says. A flag alone: where it could
  /// stay set, it would be of no use.
  var acceptsClock = false
  var concurrency = ConcurrencyControl.optimistic
  /// 0: none is told in the log.
  var slowCallNanoseconds: Int64 = 0
  var logLevel = ""
  var logFormat = ""

  /// As they are read one by one: `tls` once they are complete.
  private var tlsCertificate = ""
  private var tlsKey = ""
  private var tlsClientAuthority = ""

  /// What is in force and where it came from, for --print-config: name, value, source.
  private(set) var sources: [(name: String, value: String, source: String)] = []

  /// What the operator should know about how the settings were read.
  private(set) var warnings: [String] = []

  /// The names of all settings: flags with dashes, HOLDFAST_ variables, keys of the file.
  static let defaults: [(name: String, value: String)] = [
    ("host", "127.0.0.1"), ("port", "7420"), ("admin-host", "127.0.0.1"), ("admin-port", "7421"),
    ("loops", "auto"), ("durability", "fsync"), ("data-dir", "holdfast-data"),
    ("engine", ""), ("standby", "false"), ("forward", "false"),
    ("stale-reads", "false"), ("advertise", ""), ("lease", "2500ms"),
    ("journal-segment-bytes", String(Limits.journalSegmentBytes)),
    ("history", "auto"), ("archive", ""),
    ("max-items", String(Limits.itemsMax)),
    ("max-reservations", String(Limits.reservationsMax)),
    ("max-limits", String(Limits.subjectEntriesMax)),
    ("max-connections", String(Limits.connectionsMax)), ("max-connections-per-peer", "auto"),
    ("max-connection-age", "0s"), ("max-connection-age-grace", "30s"),
    ("max-connection-idle", "0s"), ("keepalive-time", "10m"), ("keepalive-timeout", "20s"),
    ("default-ttl", "600s"),
    ("max-hold", "24h"), ("retention", "24h"), ("handshake-timeout", "10s"),
    ("stall-timeout", "\(Limits.stallTimeoutNanoseconds / Limits.second)s"),
    ("shutdown-timeout", "10s"), ("clock-jump-max", "24h"),
    ("tokens", ""), ("tls-cert", ""), ("tls-key", ""), ("tls-client-ca", ""),
    ("admin-tls", "false"), ("proxy-protocol", "false"),
    ("concurrency", ConcurrencyControl.optimistic.rawValue),
    ("slow-call", "0s"), ("log-level", "info"), ("log-format", "auto"),
  ]

  /// - Parameters:
  ///   - flags: what the command line says, by name.
  ///   - file: path of the configuration file, a JSON object of names and values.
  init(flags: [String: String], file: String?) async throws {
    let environment = ConfigReader(provider: EnvironmentVariablesProvider())
      .scoped(to: "holdfast")
    let path = file ?? environment.string(forKey: "config")
    let file = try Self.contents(ofFile: path)
    for (name, fallback) in Self.defaults {
      // Environment variables have underscores where flags have dashes; the library joins the parts of
      // a key, so that this is HOLDFAST_MAX_HOLD.
      let variableKey = ConfigKey(name.split(separator: "-").map(String.init))
      let variable = "HOLDFAST_" + name.uppercased().replacing("-", with: "_")
      if let value = flags[name] {
        try set(name, value, source: "--\(name)")
      } else if let value = environment.string(forKey: variableKey),
        !skipsServiceLink(name, value, variable)
      {
        try set(name, value, source: variable)
      } else if let value = file[name] {
        let source = "\(name) in \(path ?? "")"
        try set(name, Self.text(name, value, source), source: source)
      } else if let credential = Self.credential(name) {
        try set(name, credential.path, source: "credential \(credential.name)")
      } else {
        try set(name, fallback, source: "default")
      }
    }
    if defaultTTLNanoseconds > maxHoldNanoseconds {
      // A default that nobody chose gives way to what somebody did.
      guard
        let index = sources.firstIndex(where: { $0.name == "default-ttl" && $0.source == "default" }
        )
      else { throw Self.mistake("--default-ttl: longer than --max-hold, which no hold outlives") }
      defaultTTLNanoseconds = maxHoldNanoseconds
      sources[index].value = sources.first { $0.name == "max-hold" }?.value ?? ""
      sources[index].source = "default, but no longer than --max-hold"
    }
    lowerToDescriptors()
    try checkTLS()
    guard journalSegmentBytes / Limits.journalSegmentBytesPerLoop > loops else {
      throw Self.mistake(
        "--journal-segment-bytes: \(journalSegmentBytes) are too few for \(loops) loops")
    }
    if !archive.isEmpty && durability == nil {
      throw Self.mistake(
        "--archive: with --durability \(Self.memory) there is no journal to be archived")
    }
    try checkEngine()
    if concurrency == Self.broken && durability != nil {
      throw Self.mistake(
        "--concurrency \(concurrency.rawValue) goes with --durability \(Self.memory) only: "
          + "nobody wants to keep what it does")
    }
  }
}

extension Settings {
  /// Kubernetes tells every container of the services that it has beside it: to one named `holdfast` point
  /// HOLDFAST_PORT=tcp://10.0.0.7:7420 and more, of which this has the name of a setting.
  private mutating func skipsServiceLink(
    _ name: String, _ value: String, _ variable: String
  ) -> Bool {
    guard name == "port" || name.hasSuffix("-port"),
      value.wholeMatch(of: /(tcp|udp|sctp):\/\/[0-9A-Fa-f.:\[\]]+:[0-9]+/) != nil
    else { return false }
    warnings.append(
      "skipped \(variable)=\(value): Kubernetes sets it where a service has that name "
        + "(enableServiceLinks: false ends that); --\(name) is not taken from it")
    return true
  }

  private mutating func checkEngine() throws(CommandFailure) {
    guard durability == .quorum else {
      for (name, isSet) in [
        ("--engine", !engine.isEmpty), ("--standby", isStandby), ("--forward", forwards),
        ("--stale-reads", readsStale), ("--advertise", !advertise.isEmpty),
      ] where isSet {
        throw Self.mistake("\(name): goes with --durability quorum only")
      }
      return
    }
    guard !engine.isEmpty else {
      throw Self.mistake(
        "--durability quorum: --engine says where, such as postgresql://holdfast@db1,db2,db3/holdfast"
      )
    }
    guard isStandby || !forwards else { throw Self.mistake("--forward: goes with --standby only") }
    guard isStandby || !readsStale else {
      throw Self.mistake("--stale-reads: goes with --standby only")
    }
    guard !forwards || !readsStale else {
      throw Self.mistake("--stale-reads: with --forward the owner answers every call")
    }
    guard archive.isEmpty else {
      throw Self.mistake("--archive: with --durability quorum the engine's own archive does that")
    }
    // A password in it is nobody's business.
    if let index = sources.firstIndex(where: { $0.name == "engine" }) {
      sources[index].value = PostgresAddress.shown(engine)
    }
  }

  private mutating func checkTLS() throws(CommandFailure) {
    guard !tlsCertificate.isEmpty else {
      for (name, isSet) in [
        ("--tls-key", !tlsKey.isEmpty), ("--tls-client-ca", !tlsClientAuthority.isEmpty),
        ("--admin-tls", adminTLS),
      ] where isSet {
        throw Self.mistake("\(name): goes with --tls-cert and --tls-key only")
      }
      return
    }
    guard !tlsKey.isEmpty else { throw Self.mistake("--tls-cert: goes with --tls-key only") }
    tls = TLSFiles(
      certificate: tlsCertificate, key: tlsKey,
      clientAuthority: tlsClientAuthority.isEmpty ? nil : tlsClientAuthority)
  }

  /// Clients must not take the descriptors that the journal needs: without one it could go no further.
  private mutating func lowerToDescriptors() {
    let descriptors = Machine.raiseDescriptorLimit()
    let most = max(1, descriptors - Limits.descriptorsKept)
    guard maxConnections > most,
      let index = sources.firstIndex(where: { $0.name == "max-connections" })
    else { return }
    // A default that nobody chose gives way without a word, but for --print-config's.
    if sources[index].source != "default" {
      warnings.append(
        "--max-connections: \(most) instead of \(maxConnections), since the process may have "
          + "\(descriptors) open files (ulimit -n)")
    }
    sources[index].value = "\(most)"
    sources[index].source += ": \(maxConnections), but \(descriptors) open files are allowed"
    maxConnections = most
  }

  private mutating func set(_ name: String, _ text: String, source: String) throws(CommandFailure) {
    let at = source == "default" ? "--\(name)" : source
    switch name {
    case "host":
      host = text
      try Self.checkUnixSocket(text, at)
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
    case "engine": engine = text
    case "standby": isStandby = try Self.choice(text, ["true", "false"], at) == "true"
    case "forward": forwards = try Self.choice(text, ["true", "false"], at) == "true"
    case "stale-reads": readsStale = try Self.choice(text, ["true", "false"], at) == "true"
    case "advertise": advertise = text
    case "lease":
      leaseNanoseconds = try Self.duration(
        text, (Limits.second / 2)...(60 * Limits.second), at)
    case "tokens": tokens = try Self.file(text, at, source)
    case "tls-cert": tlsCertificate = try Self.file(text, at, source)
    case "tls-key": tlsKey = try Self.file(text, at, source)
    case "tls-client-ca": tlsClientAuthority = try Self.file(text, at, source)
    case "proxy-protocol": proxyProtocol = try Self.choice(text, ["true", "false"], at) == "true"
    case "admin-tls": adminTLS = try Self.choice(text, ["true", "false"], at) == "true"
    case "journal-segment-bytes":
      journalSegmentBytes = try Self.number(text, Limits.journalSegmentBytesAllowed, at)
      guard journalSegmentBytes.isMultiple(of: 4096) else {
        throw Self.mistake("\(at): '\(text)' is not a multiple of 4096")
      }
    case "history":
      historyBytes =
        text == "auto" ? nil : try Self.number(text, 0...Limits.historyBytesMax, at)
    case "archive": archive = try Self.file(text, at, source)
    case "max-items": maxItems = try Self.number(text, 1...(1 << 31), at)
    case "max-reservations": maxReservations = try Self.number(text, 64...(1 << 30), at)
    case "max-limits": maxLimits = try Self.number(text, 1...(1 << 30), at)
    case "max-connections": maxConnections = try Self.number(text, 1...1_000_000, at)
    case "max-connections-per-peer":
      maxConnectionsPerPeer = text == "auto" ? nil : try Self.number(text, 1...1_000_000, at)
    case "max-connection-age": maxConnectionAgeNanoseconds = try Self.lifetime(text, at)
    case "max-connection-age-grace": maxConnectionAgeGraceNanoseconds = try Self.lifetime(text, at)
    case "max-connection-idle": maxConnectionIdleNanoseconds = try Self.lifetime(text, at)
    case "keepalive-time": keepaliveTimeNanoseconds = try Self.lifetime(text, at)
    case "keepalive-timeout":
      keepaliveTimeoutNanoseconds = try Self.duration(
        text, (Limits.second / 10)...(3600 * Limits.second), at)
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
    case "stall-timeout":
      stallTimeoutNanoseconds = try Self.duration(
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
    case "slow-call": slowCallNanoseconds = try Self.lifetime(text, at)
    case "log-level":
      logLevel = try Self.choice(
        text, ["trace", "debug", "info", "notice", "warning", "error", "critical"], at)
    case "log-format": logFormat = try Self.choice(text, ["auto", "text", "json"], at)
    default: break
    }
    if name == "loops" && text == "auto" {
      sources.append((name, "\(loops)", "\(source): auto"))
    } else {
      sources.append((name, text, source))
    }
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

  /// How long connections live, in nanoseconds; 0 is for ever.
  private static func lifetime(_ text: String, _ at: String) throws(CommandFailure) -> Int64 {
    try duration(text, 0...(365 * 24 * 3600 * Limits.second), at)
  }

  /// A host that is a unix socket has a path that one may have.
  private static func checkUnixSocket(_ text: String, _ at: String) throws(CommandFailure) {
    guard let path = UnixSocket.path(ofHost: text) else { return }
    guard !path.isEmpty, !path.utf8.contains(0) else {
      throw Self.mistake("\(at): '\(text)' has no path, such as unix:/run/holdfast.sock")
    }
    guard path.utf8.count <= UnixSocket.pathBytesMax else {
      throw Self.mistake(
        "\(at): the path of a unix socket has \(UnixSocket.pathBytesMax) bytes at most, this one "
          + "\(path.utf8.count)")
    }
  }

  /// A file or a directory that is not needed. Empty is the default: a flag that is empty is a variable that was not set.
  private static func file(
    _ text: String, _ at: String, _ source: String
  ) throws(CommandFailure) -> String {
    guard source == "default" || !text.isEmpty, !text.utf8.contains(0) else {
      throw mistake("\(at): not a path")
    }
    return text
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

  /// The smallest one first.
  private static let durationUnits: [(suffix: String, nanoseconds: Int64)] = [
    ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000),
  ]

  /// As `duration` reads it, in the largest unit that has no rest.
  private static func durationText(_ nanoseconds: Int64) -> String {
    let unit = durationUnits.last { nanoseconds > 0 && nanoseconds % $0.nanoseconds == 0 }
    guard let unit else { return "\(nanoseconds / 1_000_000_000)s" }
    return "\(nanoseconds / unit.nanoseconds)\(unit.suffix)"
  }

  /// A duration such as 500ms, 30s, 10m or 24h, in nanoseconds.
  static func duration(_ text: String, _ range: ClosedRange<Int64>, _ at: String)
    throws(CommandFailure) -> Int64
  {
    for unit in durationUnits where text.hasSuffix(unit.suffix) {
      guard let value = Int64(text.dropLast(unit.suffix.count)) else { continue }
      let (nanoseconds, overflow) = value.multipliedReportingOverflow(by: unit.nanoseconds)
      guard !overflow, range.contains(nanoseconds) else {
        let (least, most) = (durationText(range.lowerBound), durationText(range.upperBound))
        throw Self.mistake("\(at): '\(text)' is not from \(least) to \(most)")
      }
      return nanoseconds
    }
    throw Self.mistake(
      "\(at): '\(text)' is not a duration such as 500ms, 30s, 10m or 24h")
  }

  // MARK: Sources

  /// Settings that are files which nobody but the server should read.
  private static let secrets: Set = ["tokens", "tls-cert", "tls-key", "tls-client-ca"]

  private static func credential(_ setting: String) -> (name: String, path: String)? {
    secrets.contains(setting) ? ServiceCredential.file(setting) : nil
  }

  /// An entry of the configuration file. Settings are texts and whole numbers; the rest is of no use.
  private enum FileValue: Decodable {
    case text(String)
    case number(Int)
    case flag(Bool)
    case useless

    init(from decoder: any Decoder) throws {
      let container = try decoder.singleValueContainer()
      if let text = try? container.decode(String.self) {
        self = .text(text)
      } else if let flag = try? container.decode(Bool.self) {
        self = .flag(flag)
      } else if let number = try? container.decode(Int.self) {
        self = .number(number)
      } else {
        self = .useless
      }
    }
  }

  /// Settings that are whole numbers.
  private static let numbers: Set = [
    "port", "admin-port", "loops", "journal-segment-bytes", "max-items", "max-reservations",
    "max-limits", "max-connections", "max-connections-per-peer",
  ]

  /// Settings that are true or false.
  private static let flags: Set = [
    "admin-tls", "proxy-protocol", "standby", "forward", "stale-reads",
  ]

  private static func contents(ofFile path: String?) throws -> [String: FileValue] {
    guard let path else { return [:] }
    let entries: [String: FileValue]
    do {
      entries = try JSONDecoder().decode(
        [String: FileValue].self, from: Data(contentsOf: URL(filePath: path)))
    } catch {
      throw Self.mistake("\(path): not a readable JSON object of settings (--config)")
    }
    let names = Set(defaults.map(\.name))
    for key in entries.keys.sorted() where !names.contains(key) {
      throw Self.mistake(
        "\(path): no setting is called '\(key)'; holdfast serve --help lists them")
    }
    return entries
  }

  /// The text of an entry, as a flag would have it.
  private static func text(
    _ name: String, _ value: FileValue, _ at: String
  ) throws(CommandFailure) -> String {
    switch value {
    case .text(let text): return text
    case .number(let number) where numbers.contains(name): return String(number)
    case .flag(let flag) where flags.contains(name): return String(flag)
    case .number, .flag, .useless:
      throw Self.mistake(
        numbers.contains(name)
          ? "\(at): not a whole number, such as 1000" : "\(at): not a string, such as \"30s\"")
    }
  }
}

/// What logs at level debug show of whatever holds the settings: not the engine's password. --print-config shows them.
extension Settings: CustomStringConvertible {
  var description: String { "settings" }
}
