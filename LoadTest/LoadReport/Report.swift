// What a run has to say, as data: the text, the JSON and the HTML report are views of it. The JSON
// is this, with its names in snake case; LoadTest/report.schema.json describes it.

/// The report of one run.
package struct Report: Codable, Sendable {
  /// Changes when a field changes its meaning or goes; fields may be added at any time.
  package static let schemaVersionNow = 3
  package var schemaVersion = Report.schemaVersionNow

  /// The program that wrote this, as name/version.
  package var generator = ""
  /// When the first call was due, UTC, ISO 8601.
  package var startedAt = ""
  /// Runs with the same label are repetitions of the same thing; `compare` groups by it.
  package var label: String?

  package var verdict = Verdict()
  /// True where the run ended before it was to: interrupted, or the server went away.
  package var isPartial = false
  package var limitedBy = LimitedBy.unknown
  /// Why `limitedBy` says what it says, in one sentence.
  package var limitReason = ""

  package var environment = Environment()
  package var configuration = Configuration()
  /// Absent with --no-verify and --no-check, or where the server was gone before the comparison.
  package var check: Check?

  package var measuredSeconds = 0.0
  package var requestsMeasured = 0
  package var requestsPerSecond = 0.0
  /// By method, and "all". Open loop: from the scheduled send.
  package var latencyMicroseconds: [String: LatencySummary] = [:]
  /// Where Reserves go out many in a message.
  package var messages: Messages?
  /// From the actual send, all methods together; in a closed loop it is the latency.
  package var serviceTimeMicroseconds: LatencySummary?
  /// Open loop: how late the generator looked at each tick of the schedule.
  package var scheduleLagMicroseconds: LatencySummary?
  /// All methods together.
  package var latencySpectrum: [SpectrumPoint] = []
  package var serviceTimeSpectrum: [SpectrumPoint] = []
  /// By method, where there is more than one.
  package var methodSpectra: [String: [SpectrumPoint]] = [:]
  /// Calls that were due and never sent: failures, with the time that they had waited as their latency
  /// and as their service time.
  package var unsent = 0
  /// In the order of time; they cover the whole run, warm-up and drain included.
  package var intervals: [Interval] = []

  /// Over the whole run, warm-up and drain included.
  package var attempts = 0
  package var outcomes: [String: Int] = [:]
  package var codes: [String: Int] = [:]
  package var connectionsLost = 0
  package var connectionsRedialled = 0
  package var firstFailure: String?

  package var server: ServerSide?
  package var serverCPUMicrosecondsPerRequest: Double?
  package var generatorCPUMicrosecondsPerRequest = 0.0
  /// Of the busiest thread, 0 to 1.
  package var generatorBusyShare = 0.0
  package var thresholds: [ThresholdResult] = []
  /// The --abort-if that ended the run, where one did.
  package var abort: Abort?
  /// How the warm-up ended, where it was left to the run (--warm-up auto).
  package var warmUp: WarmUp?
  /// The generators that made the load, where others did (--agents).
  package var agents: [AgentSide] = []
  package var warnings: [String] = []
  /// What the figures do not say.
  package var leavesOut: [String] = []

  package init() {}
}

extension Report {
  package var result: Result {
    get { verdict.result }
    set { verdict.result = newValue }
  }

  package enum Result: String, Codable, Sendable {
    /// Every invariant holds.
    case good
    /// One is violated.
    case violated
    /// It could not be compared.
    case unknown
    /// Nobody asked.
    case notChecked = "not_checked"
  }

  /// What kept the run from more requests per second.
  package enum LimitedBy: String, Codable, Sendable {
    /// The schedule, or think times: the load that was asked for was carried.
    case load
    case server
    /// The generator's own CPU or lateness: the figures are no limit of the server.
    case generator
    case unknown
  }

  package struct Environment: Codable, Sendable {
    /// Kernel name and release.
    package var system = ""
    package var processors = 0
    package var processorModel = ""
    package var memoryBytes: Int64 = 0
    /// What the server says of itself in its metrics, "holdfast 0.3 optimistic fsync"; if it does.
    package var server: String?

    package init() {}
  }

  package struct Configuration: Codable, Sendable {
    package var target = ""
    /// The name of the scenario, or "custom".
    package var scenario = ""
    /// The whole workload as --workload FILE takes it, by the names that it has there.
    package var workload: [String: WorkloadValue] = [:]
    /// "closed" or "open".
    package var loop = ""
    /// "constant" or "poisson", open loop.
    package var arrivals: String?
    /// As --rate takes it: "5000", "0-50000/30s,50000/60s".
    package var rate: String?
    /// The highest of the profile.
    package var ratePerSecond: Double?
    package var connections = 0
    package var streams = 0
    package var threads = 0
    package var warmUpSeconds = 0.0
    package var durationSeconds: Double?
    package var operations: Int?
    package var seed: UInt64 = 0
    package var run = ""
    /// The command line, for running it again.
    package var commandLine = ""

    package init() {}
  }

  package struct Check: Codable, Sendable {
    /// All invariants hold.
    package var holds = false
    /// Of the histories by SKU: every one is linearizable, one is not, or it could not be decided.
    package var linearizable = Linearizable.undecided
    package var skus = 0
    package var skusUndecided = 0
    package var keys = 0
    package var stock: Int64 = 0
    package var restocked: Int64 = 0
    package var accepted: Int64 = 0
    package var confirmed: Int64 = 0
    package var released: Int64 = 0
    package var expired: Int64 = 0
    package var held: Int64 = 0
    package var duplicatesCompared = 0
    package var refusalsJustified = 0
    package var readsJustified = 0
    package var unknownOutcomes = 0
    /// Samples of balances that were compared while the load ran.
    package var samplesCompared = 0
    /// Of the change feed, where it was followed.
    package var feed: Feed?
    /// How many violations of each kind.
    package var violations: [String: Int] = [:]
    /// The first few of each kind, in words.
    package var examples: [String] = []
    package var oversold: Verdict.Oversold?
    /// What the check took.
    package var seconds = 0.0

    package init() {}
  }

  /// What the change feed has told during the run.
  package struct Feed: Codable, Equatable, Sendable {
    /// Of the run.
    package var events = 0
    /// By the name of their kind: "HELD".
    package var kinds: [String: Int] = [:]
    /// Of other runs and other clients.
    package var others = 0
    /// Acknowledged decisions that were looked up in it.
    package var decisionsCompared = 0
    /// How often its stream broke and went on from the last token.
    package var reconnects = 0
    /// It was read to the last decision.
    package var isWhole = false

    package init() {}
  }

  package enum Linearizable: String, Codable, Sendable {
    case yes, no, undecided
  }

  /// Messages of many Reserves.
  package struct Messages: Codable, Equatable, Sendable {
    /// BatchReserve or ReserveStream.
    package var method = ""
    /// Reserves of a message, at most.
    package var requestsMaximum = 0
    /// Sent over the whole run, and the Reserves that they asked for.
    package var sent = 0
    package var requests = 0
    package var requestsPerMessage = 0.0
    /// Measured answers, per second.
    package var perSecond = 0.0
    /// By message, from its send to its answer; that of each Reserve is among the others.
    package var latencyMicroseconds = LatencySummary()

    package init() {}
  }

  package struct ServerSide: Codable, Sendable {
    /// By reason.
    package var conflicts: [String: Double] = [:]
    package var commits = 0.0
    package var retries = 0.0
    package var conflictsPerCommit = 0.0
    /// Times that a command waited for another: for a lock, its turn or a writer.
    package var waits = 0.0
    /// Commit attempts of holders whose lock had been taken over.
    package var fenced = 0.0
    /// Commits that another thread did for the one that asked.
    package var combined = 0.0
    package var invariantViolations = 0.0

    package init() {}
  }

  /// What happened between two instants of the run.
  package struct Interval: Codable, Sendable {
    /// Since the first call was due.
    package var startSeconds = 0.0
    package var seconds = 0.0
    /// False in warm-up and drain.
    package var isMeasured = false
    /// What the schedule asked for, open loop.
    package var scheduledPerSecond: Double?
    package var answered = 0
    /// Of the answers that came in it, open loop from the scheduled send; in the last also of the calls
    /// that were never answered.
    package var latencyMicroseconds = LatencySummary()
    /// The same by method.
    package var methods: [String: LatencySummary] = [:]
    package var serviceTimeMicroseconds: LatencySummary?
    /// 99th percentile.
    package var scheduleLagMicroseconds: Double?
    /// By `Outcome.name`.
    package var outcomes: [String: Int] = [:]
    /// By gRPC code.
    package var codes: [String: Int] = [:]
    /// Of the busiest thread, 0 to 1.
    package var generatorBusyShare = 0.0
    /// What the server's metrics said at its end, if they were read.
    package var server: ServerSample?

    package init() {}
  }

  /// The server's metrics, as rates since the sample before.
  package struct ServerSample: Codable, Sendable {
    package var conflictsPerSecond: Double?
    package var retriesPerSecond: Double?
    /// Mean of the syncs since the sample before.
    package var syncMicroseconds: Double?
    package var syncsPerSecond: Double?
    /// Mean decisions that shared a sync.
    package var groupRecords: Double?
    /// Of one processor: 1.5 is one and a half busy cores.
    package var processorShare: Double?
    package var residentBytes: Double?
    package var liveHolds: Double?

    package init() {}
  }

  /// A condition that ended a run before its time.
  package struct Abort: Codable, Equatable, Sendable {
    /// As it was given: "errors>5% for 3s".
    package var expression = ""
    /// What was measured in the window, in the unit of the expression.
    package var actual: Double?
    /// As a person reads it.
    package var actualText = ""
    /// How long the window was, and when it ended, since the first call was due.
    package var windowSeconds = 0.0
    package var atSeconds = 0.0

    package init() {}
  }

  /// A warm-up that lasted until rate and 99th percentile had settled.
  package struct WarmUp: Codable, Equatable, Sendable {
    /// How long it took.
    package var seconds = 0.0
    /// False where it ended because it had lasted as long as it may.
    package var isSteady = false

    /// What stands behind its length, in words.
    var qualification: String { isSteady ? " (until steady)" : " (never steady)" }

    package init() {}
  }

  /// A generator on another machine.
  package struct AgentSide: Codable, Equatable, Sendable {
    package var address = ""
    /// Kernel name and release.
    package var system = ""
    package var processors = 0
    package var processorModel = ""
    package var requestsMeasured = 0
    /// Of its busiest thread, 0 to 1.
    package var busyShare = 0.0
    /// How exactly its clock is known by the coordinator's: its calls count as so much longer.
    package var clockUncertaintyMicroseconds = 0.0
    /// Why it was lost, where it was.
    package var lost: String?

    package init() {}
  }

  /// One --require, and what became of it.
  package struct ThresholdResult: Codable, Equatable, Sendable {
    /// What has to be so: "p99<5ms".
    package var expression = ""
    /// What was measured, in the unit of the expression; absent where there is no such figure.
    package var actual: Double?
    /// As a person reads it: "4.2 ms".
    package var actualText = ""
    package var isPassed = false

    package init() {}
  }
}

/// A value of a workload: a number, true or false where it is one, else the text that its flag takes.
package enum WorkloadValue: Equatable, Sendable {
  case number(Double)
  case whole(Int64)
  case bool(Bool)
  case text(String)

  /// - Parameter text: as a flag takes it.
  package init(_ text: String) {
    if let whole = Int64(text) {
      self = .whole(whole)
    } else if let number = Double(text), number.isFinite {
      self = .number(number)
    } else if let bool = Bool(text) {
      self = .bool(bool)
    } else {
      self = .text(text)
    }
  }

  /// As a flag takes it.
  package var text: String {
    switch self {
    case .number(let number): "\(number)"
    case .whole(let whole): "\(whole)"
    case .bool(let bool): "\(bool)"
    case .text(let text): text
    }
  }
}

extension WorkloadValue: Codable {
  package init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    if let bool = try? container.decode(Bool.self) {
      self = .bool(bool)
    } else if let whole = try? container.decode(Int64.self) {
      self = .whole(whole)
    } else if let number = try? container.decode(Double.self) {
      self = .number(number)
    } else {
      self = .text(try container.decode(String.self))
    }
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    switch self {
    case .number(let number): try container.encode(number)
    case .whole(let whole): try container.encode(whole)
    case .bool(let bool): try container.encode(bool)
    case .text(let text): try container.encode(text)
    }
  }
}
