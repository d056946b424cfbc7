// How a run's counts and findings become its report.
package import LoadHistory
package import LoadReport
internal import Posix

extension Report {
  /// - Parameters:
  ///   - busyShares: each thread's CPU time over wall time in the measured part.
  ///   - checkFailure: why there is no comparison with the server, if there is none.
  init(
    _ options: RunOptions, _ statistics: Statistics, busyShares: [Double], findings: Findings?,
    checkFailure: String?, server: MetricsPage?
  ) {
    self.init()
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
    if options.profile != nil {
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
    result =
      check.map { $0.holds ? .good : .violated } ?? (checkFailure == nil ? .notChecked : .unknown)
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
    if options.profile == nil {
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

extension Report.Configuration {
  package init(_ options: RunOptions) {
    let shape = options.workload
    self.init()
    target = options.target.description
    loop = options.profile == nil ? "closed" : "open"
    rate = options.profile?.description
    ratePerSecond = options.profile?.ratePerSecondHighest
    arrivals = options.profile == nil ? nil : options.arrivals.rawValue
    connections = options.connections
    streams = options.streams
    threads = options.threads
    warmUpSeconds = options.operations == nil ? options.warmUpSeconds : 0
    durationSeconds = options.measuredSeconds
    operations = options.operations
    scenario = shape.scenario
    for field in Workload.fields { workload[field.key] = field.text(shape) }
    seed = String(options.seed)
    run = options.run.text
  }
}

extension Report.Check {
  /// - Parameter findings: of the whole run.
  package init(_ findings: Findings) {
    self.init()
    holds = findings.holds
    skus = findings.skus
    keys = findings.keys
    linearizable = Report.Linearizable(rawValue: findings.linearizable.rawValue) ?? .undecided
    skusUndecided = findings.skusUndecided
    readsJustified = findings.readsJustified
    restocked = findings.restocked
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
    examples = findings.violationsByWeight.map(\.description)
    let oversold = findings.violations.filter { $0.kind == .oversold }
    oversoldUnits = oversold.map(\.count).max() ?? 0
    oversoldItems = findings.counts[.oversold] ?? 0
  }
}

extension Report.ServerSide {
  init(_ page: MetricsPage) {
    self.init()
    conflicts = page.conflicts
    commits = page.commits
    retries = max(0, page.commitAttempts - page.commits)
    let all = page.conflicts.values.reduce(0, +)
    conflictsPerCommit = page.commits > 0 ? all / page.commits : 0
    invariantViolations = page.invariantViolations
  }
}
