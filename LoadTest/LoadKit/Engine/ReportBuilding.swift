// How what is known of a run becomes its report.
package import LoadHistory
package import LoadReport
internal import Posix
internal import Version

extension Report {
  init(_ options: RunOptions, _ facts: RunFacts) {
    self.init()
    let statistics = facts.statistics
    generator = RunOptions.generator
    startedAt = utcText(nanoseconds: facts.startedUnixNanoseconds)
    label = options.label
    environment = .ofThisMachine()
    environment.server = facts.serverName
    configuration = Configuration(options)
    intervals = facts.intervals
    attempts = statistics.attempts
    for outcome in Outcome.allCases where statistics.outcomes[outcome.rawValue] > 0 {
      outcomes[outcome.name] = statistics.outcomes[outcome.rawValue]
    }
    for (code, name) in grpcCodeNames.enumerated() where statistics.codes[code] > 0 {
      codes[name] = statistics.codes[code]
    }
    connectionsLost = statistics.connectionsLost
    connectionsRedialled = statistics.connectionsRedialled
    firstFailure = statistics.firstFailure
    isPartial = facts.endedEarly != nil
    agents = facts.agents
    abort = facts.abort
    warmUp = facts.warmUp
    if let warmUp { configuration.warmUpSeconds = warmUp.seconds }
    setMeasured(facts)
    setVerdict(options, facts)
    addWarnings(options, facts)
    addWhatIsLeftOut(options)
  }

  private mutating func setMeasured(_ facts: RunFacts) {
    let statistics = facts.statistics
    measuredSeconds = facts.measuredSeconds
    requestsMeasured = statistics.measured
    requestsPerSecond = measuredSeconds > 0 ? Double(requestsMeasured) / measuredSeconds : 0
    for method in Method.measured {
      let latencies = statistics.latencies[method.rawValue]
      if latencies.count > 0 { latencyMicroseconds[method.name] = latencies.summary }
    }
    if latencyMicroseconds.count > 1 {
      for method in Method.measured where latencyMicroseconds[method.name] != nil {
        methodSpectra[method.name] = statistics.latencies[method.rawValue].spectrum
      }
    }
    messages = Messages(facts, seconds: measuredSeconds)
    let all = facts.latencies
    latencyMicroseconds["all"] = all.summary
    latencySpectrum = all.spectrum
    let serviceTimes = facts.serviceTimes
    serviceTimeMicroseconds = serviceTimes.summary
    serviceTimeSpectrum = serviceTimes.spectrum
    if statistics.scheduleLag.count > 0 {
      scheduleLagMicroseconds = statistics.scheduleLag.summary
    }
    unsent = statistics.unsent
    let requests = Double(max(1, requestsMeasured))
    generatorCPUMicrosecondsPerRequest = Double(statistics.cpuNanoseconds) / 1_000 / requests
    generatorBusyShare = facts.busyShares.max() ?? 0
    serverCPUMicrosecondsPerRequest = statistics.serverCPUNanoseconds.map {
      Double($0) / 1_000 / requests
    }
    server = facts.server.map { ServerSide($0) }
    if let endedEarly = statistics.endedEarly {
      limitReason = endedEarly
    } else {
      (limitedBy, limitReason) = facts.limitEvidence(all).judge()
    }
  }

  private mutating func setVerdict(_ options: RunOptions, _ facts: RunFacts) {
    if let findings = facts.findings {
      var found = Check(findings)
      found.samplesCompared = facts.samplesCompared
      found.feed = facts.feed.map { Report.Feed($0) }
      found.seconds = facts.checkSeconds
      check = found
      verdict = found.verdict
    } else if let failure = facts.checkFailure {
      verdict = Verdict(.unknown, reason: failure)
    } else {
      let flag = options.verifies ? "--no-check" : "--no-verify"
      verdict = Verdict(.notChecked, reason: "nothing was compared (\(flag))")
    }
  }

  private mutating func addWarnings(_ options: RunOptions, _ facts: RunFacts) {
    if let endedEarly = facts.endedEarly {
      warnings.append("the run ended early: \(endedEarly); the report is of what there was by then")
    }
    if limitedBy == .generator {
      warnings.append(
        "the generator was the limit: \(limitReason); these figures are no limit of the server")
    }
    if !facts.agentsLost.isEmpty, options.savesHistory {
      warnings.append("no history was written: the calls of an agent are missing")
    }
    if let warmUp, !warmUp.isSteady {
      warnings.append(
        "no steady state in \(Text.decimal(warmUp.seconds, 1)) s of warm-up: what was measured may be "
          + "the beginning of something else (--warm-up auto:TIME gives it longer)")
    }
    if options.isSteadyLoad {
      for sentence in Drift.sentences(intervals) {
        warnings.append("the measured part was not steady: \(sentence); see --warm-up auto")
      }
    }
    if let profile = options.profile, options.warmUpSeconds > 0, profile.rate(atSeconds: 0) == 0 {
      warnings.append(
        "there was no load in the warm-up: the rate begins at 0, and it keeps the first rate")
    }
    if unsent > 0 {
      warnings.append(
        "\(Text.counted(unsent, "call")) due and never sent: no stream was free; counted as failed, "
          + "with the time that had passed since they were due")
    }
    if let unanswered = outcomes[Outcome.unanswered.name] {
      warnings.append(
        "\(Text.counted(unanswered, "call")) not answered by the end of the run; what had passed by "
          + "then counts as the latency, which is longer")
    }
    if connectionsLost > 0 {
      let lost = Text.counted(connectionsLost, "connection")
      warnings.append("\(lost) lost: \(facts.statistics.firstConnectionLoss ?? "")")
    }
    if let failure = facts.metricsEndedEarly {
      warnings.append("the server's figures end before the run does: \(failure)")
    }
    if let server, server.invariantViolations > 0 {
      let count = Text.counted(server.invariantViolations, "invariant violation")
      warnings.append("the server itself counts \(count)")
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
    if !options.agents.isEmpty { leavesOut.append("balances during the run (--agents)") }
    if options.serverPID == nil { leavesOut.append("server CPU (--server-pid)") }
    if options.admin == nil { leavesOut.append("conflicts and retries (--admin)") }
  }
}

extension RunOptions {
  /// What reports say they were written by.
  package static let generator = "holdfast-load/\(Build.version)"
}

extension Report.Configuration {
  package init(_ options: RunOptions) {
    self.init()
    target = options.target.all.map(\.description).joined(separator: ",")
    if let via = options.via { target += " via \(via.description)" }
    loop = options.profile == nil ? "closed" : "open"
    arrivals = options.profile == nil ? nil : options.arrivals.rawValue
    rate = options.profile?.description
    ratePerSecond = options.profile?.ratePerSecondHighest
    connections = options.connections
    streams = options.streams
    threads = options.threads
    warmUpSeconds = options.operations == nil ? options.warmUpSeconds : 0
    durationSeconds = options.measuredSeconds
    operations = options.operations
    scenario = options.workload.scenario
    for field in Workload.fields {
      workload[field.key] = field.text(options.workload).map { WorkloadValue($0) }
    }
    seed = options.seed
    run = options.run.text
    commandLine = options.commandLine
  }
}

extension Report.Messages {
  /// nil where every Reserve is a call of its own.
  init?(_ facts: RunFacts, seconds: Double) {
    guard let method = facts.options.workload.api.method else { return nil }
    self.init()
    let statistics = facts.statistics
    self.method = method.name
    requestsMaximum = facts.options.workload.batch
    sent = statistics.messages
    requests = statistics.messageRequests
    requestsPerMessage = Double(requests) / Double(max(1, sent))
    perSecond = seconds > 0 ? Double(statistics.messageLatencies.count) / seconds : 0
    latencyMicroseconds = statistics.messageLatencies.summary
  }
}

extension Report.Check {
  /// - Parameter findings: of the whole run.
  package init(_ findings: Findings) {
    self.init()
    holds = findings.holds
    linearizable = Report.Linearizable(rawValue: findings.linearizable.rawValue) ?? .undecided
    skus = findings.skus
    skusUndecided = findings.skusUndecided
    keys = findings.keys
    stock = findings.stock
    restocked = findings.restocked
    accepted = findings.accepted
    confirmed = findings.confirmed
    released = findings.released
    expired = findings.expired
    held = findings.held
    duplicatesCompared = findings.duplicatesCompared
    refusalsJustified = findings.refusalsJustified
    readsJustified = findings.readsJustified
    unknownOutcomes = findings.unknownOutcomes
    for (kind, count) in findings.counts { violations[kind.rawValue] = count }
    examples = findings.violationsByWeight.map(\.description)
    if let worst = findings.violationsByWeight.first(where: { $0.kind == .oversold }) {
      var found = Verdict.Oversold()
      found.sku = worst.sku ?? ""
      found.units = worst.count
      found.skus = findings.counts[.oversold] ?? 0
      oversold = found
    }
  }
}

extension Report.Feed {
  init(_ facts: FeedFacts) {
    self.init()
    events = facts.counts.events
    for (kind, count) in facts.counts.byKind { kinds[kind.name] = count }
    others = facts.counts.others
    decisionsCompared = facts.counts.compared
    reconnects = facts.reconnects
    isWhole = facts.isWhole
  }
}

extension Report.ServerSide {
  init(_ page: MetricsPage) {
    self.init()
    conflicts = page.conflicts
    commits = page.commits
    retries = max(0, page.commitAttempts - page.commits)
    let all = page.conflicts.values.reduce(0, +)
    conflictsPerCommit = page.commits >= 1 ? all / page.commits : 0
    waits = page.waits
    fenced = page.fenced
    combined = page.combined
    invariantViolations = page.invariantViolations
  }
}
