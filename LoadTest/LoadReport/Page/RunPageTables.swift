// The tables of a run's page: latencies, outcomes, the check, the configuration, the intervals.

extension Report {
  var latencyTableMarkup: Markup {
    func row(_ name: String, _ latency: LatencySummary) -> [Markup] {
      let rate = Double(latency.count) / max(1e-9, measuredSeconds)
      let values = [
        latency.p50, latency.p90, latency.p95, latency.p99, latency.p999, latency.p9999,
        latency.max, latency.mean,
      ]
      return ["\(name)"] + values.map { "\(Text.duration(microseconds: $0))" }
        + ["\(Text.count(Int64(latency.count)))", "\(Text.decimal(rate, 0))"]
    }
    var rows = measuredMethodNames.compactMap { name in
      latencyMicroseconds[name].map { row(name, $0) }
    }
    if let messages { rows.append(row("per message", messages.latencyMicroseconds)) }
    if let all = latencyMicroseconds["all"] { rows.append(row("all", all)) }
    if configuration.rate != nil, let service = serviceTimeMicroseconds {
      rows.append(row("from send", service))
    }
    if let lag = scheduleLagMicroseconds { rows.append(row("schedule lag", lag)) }
    guard !rows.isEmpty else { return "" }
    return .table(
      "Latency by method",
      // A telephone shows the first few: p99 is one of them.
      columns: [
        "", "p50", "p90", "p95", "p99", "p99.9", "p99.99", "Max", "Mean", "Calls", "Calls per s",
      ], rows: rows, narrowLeavesOut: ["p95"])
  }

  // MARK: Agents

  var agentTable: Markup {
    guard !agents.isEmpty else { return "" }
    return .table(
      "Agents",
      columns: ["", "Calls measured", "Busiest thread", "Clock known within", "Machine", "State"],
      rows: agents.map { agent in
        let state: Markup =
          agent.lost.map { "<span class=\"mark bad\">✗ lost: \($0)</span>" }
          ?? "<span class=\"mark good\">✓ to its end</span>"
        let machine = "\(agent.processors) × \(agent.processorModel)"
        return [
          "\(agent.address)", "\(Text.count(Int64(agent.requestsMeasured)))",
          "\(Text.percent(agent.busyShare))",
          "\(Text.duration(microseconds: agent.clockUncertaintyMicroseconds))", "\(machine)", state,
        ]
      })
  }

  // MARK: Outcomes

  var outcomeTables: Markup {
    let connections =
      connectionsLost > 0
      ? "\(Text.count(Int64(connectionsLost))), \(Text.count(Int64(connectionsRedialled))) dialled again"
      : nil
    let facts = Markup.facts([
      ("Connections lost", connections), ("First failure", firstFailure),
      ("Calls due and never sent", unsent > 0 ? Text.count(Int64(unsent)) : nil),
    ])
    let tables = [
      countTable("By outcome", Outcome.allCases.map(\.name), outcomes),
      countTable("By gRPC code", grpcCodeNames, codes),
    ]
    return "<div class=\"pair\">\(tables)</div>\(facts)"
  }

  private func countTable(_ title: String, _ names: [String], _ counts: [String: Int]) -> Markup {
    let all = counts.values.reduce(0, +)
    let rows: [[Markup]] = names.compactMap { name in
      guard let count = counts[name], count > 0 else { return nil }
      let share = Text.percent(Double(count) / Double(max(1, all)))
      return ["\(name)", "\(Text.count(Int64(count)))", "\(share)"]
    }
    guard !rows.isEmpty else { return "" }
    return .table(title, columns: ["", "Calls", "Share"], rows: rows)
  }

  // MARK: Check

  var checkMarkup: Markup {
    guard let check else { return "" }
    func number(_ value: Int) -> String { Text.count(Int64(value)) }
    let history =
      switch check.linearizable {
      case .yes: "linearizable, SKU by SKU"
      case .no: "NOT linearizable"
      case .undecided where check.skusUndecided > 0:
        "not decided for \(Text.counted(check.skusUndecided, "SKU"))"
      case .undecided: "not decided"
      }
    var content: Markup = ""
    if !check.violations.isEmpty {
      content += .table(
        "Violations", columns: ["", "Count"],
        rows: check.violations.sorted { $0.key < $1.key }.map {
          ["<span class=\"mark bad\">✗ \($0.key)</span>", "\(number($0.value))"]
        })
    }
    for example in check.examples { content += .verbatim(example) }
    content += .facts([
      ("Invariants", check.holds ? "all hold" : "VIOLATED"), ("Histories", history),
      ("SKUs", number(check.skus)), ("Keys", number(check.keys)),
      ("Stock", Text.counted(check.stock, "unit")),
      ("Restocked", check.restocked > 0 ? Text.counted(check.restocked, "unit") : nil),
      ("Accepted", Text.counted(check.accepted, "unit")),
      ("Confirmed", Text.counted(check.confirmed, "unit")),
      ("Released", Text.counted(check.released, "unit")),
      ("Expired", Text.counted(check.expired, "unit")),
      ("Still held", Text.counted(check.held, "unit")),
      ("Duplicates like the first answer", number(check.duplicatesCompared)),
      ("Refusals justified", number(check.refusalsJustified)),
      ("Reads justified", check.readsJustified > 0 ? number(check.readsJustified) : nil),
      ("Balances sampled during the run", number(check.samplesCompared)),
      ("Outcomes unknown", number(check.unknownOutcomes)),
      ("Events of the change feed", check.feed.map { number($0.events) }),
      ("Decisions looked up in it", check.feed.map { number($0.decisionsCompared) }),
      (
        "It broke and was resumed",
        check.feed.flatMap { $0.reconnects > 0 ? Text.counted($0.reconnects, "time") : nil }
      ),
      ("The check took", Text.decimal(check.seconds, 2) + " s"),
    ])
    return content
  }

  // MARK: Configuration

  var configurationMarkup: Markup {
    let shape = configuration
    func seconds(_ value: Double) -> String { Text.shortest(value) + " s" }
    let run = Markup.facts([
      ("Target", shape.target), ("Loop", loopText), ("Scenario", shape.scenario),
      (
        "Connections × streams",
        "\(Text.count(Int64(shape.connections))) × \(Text.count(Int64(shape.streams)))"
      ),
      ("Threads", String(shape.threads)),
      ("Warm-up", seconds(shape.warmUpSeconds) + (warmUp?.qualification ?? "")),
      ("Duration", shape.durationSeconds.map(seconds)),
      ("Operations", shape.operations.map { Text.count(Int64($0)) }),
      ("Measured", seconds(measuredSeconds)), ("Seed", String(shape.seed)), ("Run", shape.run),
      ("Server", environment.server), ("System", environment.system),
      ("Processor", environment.processorModel),
      ("Processors", environment.processors > 0 ? String(environment.processors) : nil),
      (
        "Memory", environment.memoryBytes > 0 ? Text.bytes(Double(environment.memoryBytes)) : nil
      ),
    ])
    let workload = Markup.facts(
      shape.workload.sorted { $0.key < $1.key }.map { ($0.key, $0.value.text) })
    var content = run
    if !shape.commandLine.isEmpty {
      content +=
        "<h3>Command line</h3>\n<pre class=\"wrapped\" tabindex=\"0\">\(shape.commandLine)</pre>\n"
    }
    if !workload.isEmpty { content += .details("The whole workload", workload) }
    return content
  }

  // MARK: Intervals

  var intervalTable: Markup {
    let time = Timeline(intervals)
    guard !time.intervals.isEmpty else { return "" }
    let rows: [[Markup]] = time.intervals.map { interval in
      let latency = interval.latencyMicroseconds
      func count(_ group: Outcome.Group) -> Int {
        Outcome.allCases.filter { $0.group == group }
          .reduce(0) { $0 + (interval.outcomes[$1.name] ?? 0) }
      }
      let counts = Outcome.Group.allCases.map { Text.count(Int64(count($0))) }
      let latencies = [latency.p50, latency.p99, latency.p999, latency.max]
        .map { latency.count > 0 ? Text.duration(microseconds: $0) : "—" }
      let rate = Text.decimal(Double(interval.answered) / interval.seconds, 0)
      let texts =
        [Text.decimal(interval.startSeconds, 2) + " s", rate] + latencies + counts
        + [Text.percent(interval.generatorBusyShare)]
      return texts.map { "\($0)" }
    }
    let table = Markup.table(
      "Intervals",
      columns: [
        "From", "Calls per s", "p50", "p99", "p99.9", "Max", "Accepted calls", "Refused calls",
        "Failed calls", "Generator",
      ], rows: rows)
    return .details("The figures behind the charts", table)
  }
}
