// What a comparison has to say, as data: the text, the JSON and the HTML page are views of it. The JSON
// is this, with its names in snake case.

/// Variants of a server (or of anything else that runs were labelled with) beside each other.
package struct Comparison: Codable, Sendable {
  /// Changes when a field changes its meaning or goes; fields may be added at any time.
  package static let schemaVersionNow = 2
  package var schemaVersion = Comparison.schemaVersionNow

  /// The program that wrote this, as name/version.
  package var generator = ""
  /// When the first run's first call was due, UTC, ISO 8601.
  package var startedAt = ""
  package var title = ""
  /// In the order in which they were named; the first is the baseline of all ratios.
  package var variants: [String] = []
  /// How each is started, where the comparison started them.
  package var commands: [String: String] = [:]
  /// One for every load: workload, and closed or open loop.
  package var cases: [Case] = []
  /// What the figures say, in sentences that are made of them.
  package var findings: [String] = []
  /// Of runs whose invariants do not hold: a variant that oversells loses, however fast it is.
  package var disqualified: [String] = []
  /// What whoever asked for the comparison wants said beside it: fixed paragraphs.
  package var notes: [String] = []
  /// The command line, for running it again; empty where reports of earlier runs were read.
  package var commandLine = ""

  package init() {}
}

extension Comparison {
  /// All variants under one load.
  package struct Case: Codable, Sendable {
    /// "contention-low, closed loop"; empty where there is only one.
    package var name = ""
    /// Of the first run.
    package var configuration = Report.Configuration()
    package var environment = Report.Environment()
    /// In the order of time.
    package var runs: [Run] = []
    /// Those that at least one run has a figure of.
    package var measures: [Measured] = []
    /// By variant, the middle one of its runs at each percentile; all methods together.
    package var spectra: [String: [SpectrumPoint]] = [:]
    /// What makes the variants not comparable, or less so.
    package var warnings: [String] = []
  }

  /// One run of one variant.
  package struct Run: Codable, Sendable {
    package var variant = ""
    /// Where its report was read from, or is kept; empty if nowhere.
    package var file = ""
    package var startedAt = ""
    package var verdict = Verdict()
    package var isPartial = false
    /// By `Measure.name`; what was not measured is absent.
    package var values: [String: Double] = [:]
  }

  /// One measure of all variants.
  package struct Measured: Codable, Sendable {
    package var name = ""
    /// In the order of `variants`.
    package var figures: [Figure] = []
  }

  /// One measure of one variant.
  package struct Figure: Codable, Sendable {
    package var variant = ""
    /// How many of its runs have measured it.
    package var runs = 0
    /// Of its runs: the geometric mean, or the plain one where a run has nothing of it; absent where
    /// no run has measured it.
    package var mean: Double?
    /// To the baseline; absent for the baseline itself, and where there is nothing to divide.
    package var ratio: Ratio?
  }

  /// What runs are compared by.
  package struct Measure: Sendable {
    package enum Unit: Sendable { case perSecond, microseconds, perThing }
    package enum Better: Sendable { case higher, lower, neither }

    /// As the JSON spells it.
    package let name: String
    /// As people read it.
    package let title: String
    package let unit: Unit
    package let better: Better
    let value: @Sendable (Report) -> Double?

    /// `figure` as people read it.
    package func text(_ figure: Double) -> String {
      switch unit {
      case .perSecond: Text.decimal(figure, figure < 100 ? 1 : 0)
      case .microseconds where figure < 100: Text.decimal(figure, 2) + " µs"
      case .microseconds: Text.duration(microseconds: figure)
      case .perThing where figure == 0: "0"
      case .perThing where figure < 0.000_1: "<0.0001"
      case .perThing: Text.decimal(figure, figure < 0.1 ? 4 : 2)
      }
    }
  }
}

extension Comparison.Measure {
  /// All of them, in the order of the page.
  package static let all: [Self] = [
    Self(name: "rate", title: "requests per second", unit: .perSecond, better: .higher) {
      $0.requestsPerSecond
    },
    latency("p50") { $0.p50 }, latency("p99") { $0.p99 }, latency("p99.9") { $0.p999 },
    Self(
      name: "server_cpu", title: "server CPU per request", unit: .microseconds, better: .lower
    ) { $0.serverCPUMicrosecondsPerRequest },
    Self(
      name: "generator_cpu", title: "generator CPU per request", unit: .microseconds,
      better: .neither
    ) { $0.generatorCPUMicrosecondsPerRequest },
    Self(name: "conflicts", title: "conflicts per commit", unit: .perThing, better: .lower) {
      $0.server?.conflictsPerCommit
    },
    perCommit("retries", better: .lower) { $0.retries },
    // Waiting is how some strategies work; so it is no fault of theirs.
    perCommit("waits", better: .neither) { $0.waits },
    perCommit("fenced", better: .neither) { $0.fenced },
    perCommit("combined", better: .neither) { $0.combined },
  ]

  package static func named(_ name: String) -> Self? { all.first { $0.name == name } }

  private static func perCommit(
    _ name: String, better: Better, _ count: @escaping @Sendable (Report.ServerSide) -> Double
  ) -> Self {
    Self(name: name, title: "\(name) per commit", unit: .perThing, better: better) { report in
      report.server.map { $0.commits > 0 ? count($0) / $0.commits : 0 }
    }
  }

  private static func latency(
    _ name: String, _ value: @escaping @Sendable (LatencySummary) -> Double
  ) -> Self {
    Self(name: name, title: "latency \(name)", unit: .microseconds, better: .lower) { report in
      report.latencyMicroseconds["all"].flatMap { $0.count > 0 ? value($0) : nil }
    }
  }
}

extension Ratio {
  /// What the ratio means to somebody who reads it: "1.23× (1.18–1.29)".
  package var text: String {
    guard let low, let high else {
      return "\(Ratio.times(value, 2)), one run each: noise unknown, no difference shown"
    }
    let decimals = high - low < 0.02 ? 3 : 2
    // How far beyond those says nothing more.
    let ends = (
      low < 0.01 ? "<0.01" : Text.decimal(low, decimals),
      high > 100 ? ">100" : Text.decimal(high, decimals)
    )
    let interval = "(\(ends.0)–\(ends.1))"
    return isShown
      ? "\(Ratio.times(value, decimals)) \(interval)" : "no difference shown \(interval)"
  }

  package static func times(_ value: Double, _ decimals: Int) -> String {
    Text.decimal(value, decimals) + "×"
  }
}
