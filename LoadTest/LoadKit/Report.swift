// What a run has to say, as data: the text and the JSON report are two views of it.
internal import Posix

/// The report of one run. `schemaVersion` changes when a field changes its meaning or goes.
package struct Report: Codable, Sendable {
  package struct Configuration: Codable, Sendable {
    package var target = ""
    package var loop = ""
    package var ratePerSecond: Double?
    package var connections = 0
    package var streams = 0
    package var threads = 0
    package var warmUpSeconds = 0.0
    package var durationSeconds: Double?
    package var operations: Int?
    package var skus = 0
    package var unitsPerSKU: Int64 = 0
    package var hotUnits: Int64?
    package var distribution = ""
    package var hotShare = 0.0
    package var linesLeast = 0
    package var linesMost = 0
    package var confirmShare = 0.0
    package var releaseShare = 0.0
    package var duplicateShare = 0.0
    package var timeToLiveSeconds = 0.0
    package var seed = ""
    package var run = ""
  }

  package struct Check: Codable, Sendable {
    /// All invariants hold.
    package var holds = false
    package var skus = 0
    package var keys = 0
    package var stock: Int64 = 0
    package var accepted: Int64 = 0
    package var confirmed: Int64 = 0
    package var released: Int64 = 0
    package var expired: Int64 = 0
    package var held: Int64 = 0
    package var duplicatesCompared = 0
    package var refusalsJustified = 0
    package var unknownOutcomes = 0
    /// How many violations of each kind.
    package var violations: [String: Int] = [:]
    /// The first few of each kind, in words.
    package var examples: [String] = []
    /// The most units by which one SKU was oversold; 0 if none was.
    package var oversoldUnits: Int64 = 0
    package var oversoldItems = 0
  }

  package struct ServerSide: Codable, Sendable {
    package var conflicts: [String: Double] = [:]
    package var commits = 0.0
    package var retries = 0.0
    package var conflictsPerCommit = 0.0
    package var invariantViolations = 0.0
  }

  package var schemaVersion = 1
  package var verdict = ""
  package var configuration = Configuration()
  /// Absent with --no-verify, or where the server was gone before the comparison.
  package var check: Check?
  package var measuredSeconds = 0.0
  package var requestsMeasured = 0
  package var requestsPerSecond = 0.0
  /// By method, and "all".
  package var latencyMicroseconds: [String: LatencySummary] = [:]
  /// Open loop: from the actual send, all methods together.
  package var serviceTimeMicroseconds: LatencySummary?
  package var scheduleLagMicroseconds: LatencySummary?
  package var unsentTicks = 0
  /// Over the whole run, warm-up and drain included.
  package var attempts = 0
  package var outcomes: [String: Int] = [:]
  package var codes: [String: Int] = [:]
  package var connectionsLost = 0
  package var firstFailure: String?
  package var server: ServerSide?
  package var serverCPUMicrosecondsPerRequest: Double?
  package var generatorCPUMicrosecondsPerRequest = 0.0
  /// Of the busiest thread, 0 to 1.
  package var generatorBusyShare = 0.0
  package var warnings: [String] = []
  /// What the figures do not say.
  package var leavesOut: [String] = []
}

extension Report.Configuration {
  init(_ options: RunOptions) {
    let workload = options.workload
    target = options.target.description
    loop = options.ratePerSecond == nil ? "closed" : "open"
    ratePerSecond = options.ratePerSecond
    connections = options.connections
    streams = options.streams
    threads = options.threads
    warmUpSeconds = options.operations == nil ? options.warmUpSeconds : 0
    durationSeconds = options.operations == nil ? options.durationSeconds : nil
    operations = options.operations
    skus = workload.skuCount
    unitsPerSKU = options.units
    hotUnits = options.hotUnits
    distribution = workload.distribution.description
    hotShare = workload.hotShare
    linesLeast = workload.lines.lowerBound
    linesMost = workload.lines.upperBound
    confirmShare = workload.confirmShare
    releaseShare = workload.releaseShare
    duplicateShare = workload.duplicateShare
    timeToLiveSeconds = Double(workload.timeToLiveNanoseconds) / 1e9
    seed = String(options.seed)
    run = options.run.text
  }
}

extension Report.Check {
  /// - Parameter findings: of the whole run.
  package init(_ findings: Findings) {
    holds = findings.holds
    skus = findings.skus
    keys = findings.keys
    stock = findings.stock
    accepted = findings.accepted
    confirmed = findings.confirmed
    released = findings.released
    expired = findings.expired
    held = findings.held
    duplicatesCompared = findings.duplicatesCompared
    refusalsJustified = findings.refusalsJustified
    unknownOutcomes = findings.unknownOutcomes
    for (kind, count) in findings.counts { violations[kind.rawValue] = count }
    // The order of the kinds is the order of their weight: oversold comes first.
    for kind in Violation.Kind.allCases {
      examples += findings.violations.filter { $0.kind == kind }
        .sorted { $0.count > $1.count }.map { "\(kind.rawValue): \($0.text)" }
    }
    let oversold = findings.violations.filter { $0.kind == .oversold }
    oversoldUnits = oversold.map(\.count).max() ?? 0
    oversoldItems = findings.counts[.oversold] ?? 0
  }

  /// The line that the report begins with.
  package var verdict: String {
    let units = Text.count
    let balance =
      "\(units(stock)) units, \(units(accepted)) accepted: \(units(confirmed)) confirmed, "
      + "\(units(released)) released, \(units(expired)) expired, \(units(held)) held"
    if oversoldUnits > 0, let worst = examples.first {
      let others = oversoldItems > 1 ? " (and \(units(Int64(oversoldItems - 1))) more SKUs)" : ""
      let sku = worst.split(separator: " ").first { $0.contains("-") } ?? ""
      return "VERDICT: OVERSOLD by \(units(oversoldUnits)) units on SKU "
        + "\(sku.hasSuffix(":") ? sku.dropLast() : sku)\(others) — \(balance)"
    }
    if !holds {
      let kinds = Violation.Kind.allCases.compactMap { kind in
        violations[kind.rawValue].map { "\(kind.rawValue) (\(units(Int64($0))))" }
      }
      return "VERDICT: VIOLATED — \(kinds.joined(separator: ", ")) — \(balance)"
    }
    return "VERDICT: nothing oversold, nothing lost — \(balance)"
  }
}

extension Report.ServerSide {
  init(_ page: MetricsPage) {
    conflicts = page.conflicts
    commits = page.commits
    retries = max(0, page.commitAttempts - page.commits)
    let all = page.conflicts.values.reduce(0, +)
    conflictsPerCommit = page.commits > 0 ? all / page.commits : 0
    invariantViolations = page.invariantViolations
  }
}

extension Report {
  /// - Parameters:
  ///   - busyShares: each thread's CPU time over wall time in the measured part.
  ///   - checkFailure: why there is no comparison with the server, if there is none.
  init(
    _ options: RunOptions, _ statistics: Statistics, busyShares: [Double], findings: Findings?,
    checkFailure: String?, server: MetricsPage?
  ) {
    configuration = Configuration(options)
    measuredSeconds = Double(statistics.wallNanoseconds) / 1e9
    requestsMeasured = statistics.measured
    requestsPerSecond = measuredSeconds > 0 ? Double(requestsMeasured) / measuredSeconds : 0
    var all = Latencies()
    for method in Method.measured {
      let latencies = statistics.latencies[method.rawValue]
      if latencies.count > 0 { latencyMicroseconds[method.name] = latencies.summary }
      all.add(latencies)
    }
    latencyMicroseconds["all"] = all.summary
    if options.ratePerSecond != nil {
      serviceTimeMicroseconds = statistics.serviceTimes.summary
      scheduleLagMicroseconds = statistics.scheduleLag.summary
    }
    unsentTicks = statistics.unsentTicks
    attempts = statistics.attempts
    for outcome in Outcome.allCases where statistics.outcomes[outcome.rawValue] > 0 {
      outcomes[outcome.name] = statistics.outcomes[outcome.rawValue]
    }
    for (code, name) in grpcCodeNames.enumerated() where statistics.codes[code] > 0 {
      codes[name] = statistics.codes[code]
    }
    connectionsLost = statistics.connectionsLost
    firstFailure = statistics.firstFailure
    let requests = Double(max(1, requestsMeasured))
    generatorCPUMicrosecondsPerRequest = Double(statistics.cpuNanoseconds) / 1_000 / requests
    generatorBusyShare = busyShares.max() ?? 0
    serverCPUMicrosecondsPerRequest = statistics.serverCPUNanoseconds.map {
      Double($0) / 1_000 / requests
    }
    self.server = server.map { ServerSide($0) }
    check = findings.map { Check($0) }
    verdict =
      check?.verdict ?? "NO VERDICT: \(checkFailure ?? "nothing was compared (--no-verify)")"
    addWarnings(options, statistics)
    addWhatIsLeftOut(options)
  }

  private mutating func addWarnings(_ options: RunOptions, _ statistics: Statistics) {
    if generatorBusyShare >= 0.9 {
      let share = Text.percent(generatorBusyShare)
      warnings.append(
        "the generator was the limit: a thread was busy \(share) of the time; use more --threads")
    }
    if let lag = scheduleLagMicroseconds, lag.p99 > 1_000 {
      warnings.append(
        "the generator ran late: schedule lag p99 \(Text.duration(microseconds: lag.p99)); "
          + "latencies include it; use more --threads or a lower --rate")
    }
    if unsentTicks > 0 {
      warnings.append(
        "\(Text.count(Int64(unsentTicks))) calls of the schedule were not sent in time: every "
          + "stream was busy; the latencies leave them out")
    }
    if connectionsLost > 0 {
      warnings.append(
        "\(connectionsLost) of \(options.connections) connections were lost: "
          + (statistics.firstConnectionLoss ?? ""))
    }
    if let firstFailure { warnings.append("first failure: \(firstFailure)") }
    if let server, server.invariantViolations > 0 {
      warnings.append("the server itself counts \(server.invariantViolations) invariant violations")
    }
    #if DEBUG
      warnings.append("this is a debug build of holdfast-load: its figures mean nothing")
    #endif
  }

  private mutating func addWhatIsLeftOut(_ options: RunOptions) {
    if options.ratePerSecond == nil {
      leavesOut.append(
        "calls that a stalled server was never asked (closed loop; --rate counts them)")
    }
    leavesOut.append("connection set-up, warm-up and drain")
    if options.serverPID == nil { leavesOut.append("server CPU (--server-pid)") }
    if options.admin == nil { leavesOut.append("conflicts and retries (--admin)") }
    if options.verifies {
      leavesOut.append("wrong refusals that the real-time bounds cannot tell")
    }
  }
}
