// How much load: the flags that `run`, `find-knee` and `compare` share.
internal import ArgumentParser
internal import LoadHistory
internal import LoadKit
internal import Posix

/// Whom.
struct TargetFlags: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      """
      The server's gRPC address: a host and a port. Of servers that take over from each other all, with \
      commas between them.
      """, valueName: "address"),
    transform: Endpoint.resolvingList)
  var target = Endpoint.standard
  @Option(
    help: ArgumentHelp(
      "The server's admin address, to read conflicts, retries and more from /metrics.",
      valueName: "address"), transform: AdminAddress.resolving)
  var admin: AdminAddress?
  @Option(
    help: ArgumentHelp(
      "The server's process id, where it runs on this machine: CPU per request.", valueName: "pid"))
  var serverPid: Int32?

  @OptionGroup var access: AccessFlags
  @OptionGroup var agents: AgentFlags

  func options() throws(LoadError) -> RunOptions {
    try access.check(usesTLS: access.tls || admin?.isSecure ?? false)
    var options = RunOptions(target: try access.apply(to: target))
    if let admin {
      options.admin =
        admin.isSecure ? try access.secure(admin.endpoint, offersHTTP2: false) : admin.endpoint
    }
    options.serverPID = serverPid
    try agents.apply(to: &options)
    return options
  }
}

/// By how many.
struct ConnectionFlags: ParsableArguments {
  @Option(help: ArgumentHelp("Connections, 1 to 20000.", valueName: "n"))
  var connections = 8
  @Option(help: ArgumentHelp("Calls in flight on each connection, 1 to 10000.", valueName: "n"))
  var streams = 10
  @Option(
    help: ArgumentHelp(
      "Threads of the generator, 1 to 64; each has its own connections.", valueName: "n"))
  var threads = 1
  @Option(
    help: ArgumentHelp(
      """
      The same seed, with as many --threads, makes the same draws. (default: random; the report \
      names it)
      """, valueName: "n"))
  var seed: UInt64?

  /// Also draws the seed, where none was given, and the name of the run.
  func apply(to options: inout RunOptions) {
    options.connections = connections
    options.streams = streams
    options.threads = threads
    options.seed = seed ?? Machine.random64() >> 32
    options.run = RunID(Machine.random64())
  }
}

/// How fast, and how long.
struct LoadFlags: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      """
      Open loop: calls per second over all connections, on schedule, whatever the server does; \
      latencies count from the scheduled send. \(LoadProfile.textHelp). Without it (closed loop) \
      every stream waits for its answer.
      """, valueName: "rate"), transform: { try LoadFlags.profile($0) })
  var rate: LoadProfile?
  @Option(
    help: """
      Open loop: how calls are spread, at even distances or independent of each other as customers \
      are.
      """)
  var arrivals = Arrivals.constant
  @Option(
    help: ArgumentHelp(
      """
      How long is measured, up to 24 h: seconds, or with a unit: 500ms, 10m. A rate with an end of \
      its own has its own length. (default: 10)
      """, valueName: "time"))
  var duration: Seconds?
  @Option(
    help: ArgumentHelp(
      """
      Load before the measurement, up to an hour; at the first rate of an open loop, none where that is 0. auto: until rate \
      and 99th percentile have settled, a minute at most; auto:5m has another most.
      """, valueName: "time"))
  var warmUp = WarmUp(seconds: 1)
  @Option(
    help: ArgumentHelp(
      "Calls in all, 1 to 1000000000, in place of --duration and --warm-up.", valueName: "n"))
  var operations: Int?
  @Option(
    help: ArgumentHelp(
      """
      How long each interval of the report is, 50ms to an hour, 10000 of them at most. (default: a 120th of the duration, \
      0.25 to 10 s)
      """, valueName: "time"))
  var interval: Seconds?

  private static func profile(_ text: String) throws(LoadError) -> LoadProfile {
    guard let profile = LoadProfile(text) else {
      throw LoadError("it is \(LoadProfile.textHelp); rates are 0.001 to 10000000, 24 h at most")
    }
    return profile
  }

  /// Calls in all, where neither flags nor the scenario make it a matter of time.
  func operations(of scenario: Scenario?) -> Int? {
    operations ?? (duration == nil && rate == nil ? scenario?.operations : nil)
  }

  func apply(to options: inout RunOptions, scenario: Scenario?) throws(LoadError) {
    options.operations = operations(of: scenario)
    options.profile = rate
    options.arrivals = arrivals
    options.warmUpSeconds = warmUp.seconds
    // A number of calls has no warm-up, asked for or not; only --operations says so to who asks for auto.
    options.warmsUpUntilSteady = warmUp.isAuto
    options.intervalSeconds = interval?.seconds
    if let duration { options.durationSeconds = duration.seconds }
    if duration != nil, operations != nil {
      throw LoadError("--duration or --operations, not both")
    }
    if duration != nil, let length = rate?.seconds {
      throw LoadError("--duration goes without the lengths of --rate, which add up to \(length) s")
    }
    if rate == nil, arrivals != .constant { throw LoadError("--arrivals goes with --rate") }
  }
}

extension Arrivals: ExpressibleByArgument {}

/// How long the warm-up lasts: a time, or until the run is steady.
struct WarmUp: ExpressibleByArgument {
  /// With `isAuto` the most.
  let seconds: Double
  var isAuto = false

  private static let autoSeconds = 60.0

  init(seconds: Double) { self.seconds = seconds }

  init?(argument: String) {
    let parts = argument.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
    isAuto = parts.first == "auto"
    if isAuto, parts.count == 1 {
      seconds = WarmUp.autoSeconds
      return
    }
    guard let given = Seconds(isAuto ? String(parts[1]) : argument) else { return nil }
    seconds = given.seconds
  }

  var defaultValueDescription: String { Seconds.decimal(seconds) }
}

extension Seconds: ExpressibleByArgument {
  package init?(argument: String) { self.init(argument) }
  package var defaultValueDescription: String { description }
}

extension CommandLine {
  /// As a shell takes it; without the values of metadata and the password of --via, which are secrets.
  static var quoted: String {
    let bare = Set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,@%+")
    return Metadata.hidingValues(OrderRoute.hidingPassword(arguments)).map { argument in
      if !argument.isEmpty, argument.allSatisfy({ bare.contains($0) }) { return argument }
      return "'" + argument.replacing("'", with: "'\\''") + "'"
    }.joined(separator: " ")
  }
}
