// The report as text: the verdict first, one screen in all.

extension Report {
  private static let labelWidth = 11

  /// The report for a terminal or a log.
  package var text: String {
    var lines = [verdict]
    if let check { lines += checkLines(check) }
    lines += ["", configurationLine, ""]
    lines += latencyTable
    lines.append("")
    lines += wrapped("outcomes", Outcome.allCases.compactMap { entry($0.name, outcomes[$0.name]) })
    lines += wrapped("gRPC", grpcCodeNames.compactMap { entry($0, codes[$0]) })
    lines += serverLines
    lines.append(generatorLine)
    for warning in warnings { lines.append(labelled("WARNING", warning)) }
    lines += wrapped("left out", leavesOut, separator: "; ")
    return lines.joined(separator: "\n") + "\n"
  }

  private func checkLines(_ check: Check) -> [String] {
    var facts = [
      "\(number(check.keys)) keys on \(skus(check.skus)) compared with the server",
      "\(number(check.duplicatesCompared)) duplicates compared with the first answer",
      "\(number(check.refusalsJustified)) refusals justified",
    ]
    if check.unknownOutcomes > 0 {
      facts.append("\(number(check.unknownOutcomes)) outcomes unknown, bounds widened by them")
    }
    var lines = wrapped("checked", facts)
    for example in check.examples { lines.append(labelled("violated", example)) }
    return lines
  }

  private var configurationLine: String {
    let shape = configuration
    let loop = shape.rate.map { "open loop, \($0) requests/s" } ?? "closed loop"
    let length =
      shape.operations.map { "\(number($0)) operations" }
      ?? "\(Text.decimal(shape.durationSeconds ?? 0, 1)) s after "
      + "\(Text.decimal(shape.warmUpSeconds, 1)) s warm-up"
    return labelled(
      "run",
      "\(loop) · \(shape.connections) × \(shape.streams) streams · \(shape.threads) "
        + "\(shape.threads == 1 ? "thread" : "threads") · \(length) · \(shape.scenario) · "
        + "seed \(shape.seed)")
  }

  private var latencyTable: [String] {
    let columns = ["p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"]
    func row(_ name: String, _ latency: LatencySummary, _ perSecond: Double? = nil) -> String {
      let rate = perSecond ?? Double(latency.count) / max(1e-9, measuredSeconds)
      let values = [
        latency.p50, latency.p90, latency.p95, latency.p99, latency.p999, latency.p9999,
        latency.max,
      ]
      return Text.left(name, Report.labelWidth) + Text.right(number(latency.count), 12)
        + Text.right(Text.decimal(rate, 0), 11)
        + values.map { Text.right(Text.duration(microseconds: $0), 9) }.joined()
    }
    var rows = [
      Text.left("latency", Report.labelWidth) + Text.right("count", 12) + Text.right("per s", 11)
        + columns.map { Text.right($0, 9) }.joined()
    ]
    for method in measuredMethodNames {
      if let latency = latencyMicroseconds[method] { rows.append(row(method, latency)) }
    }
    rows.append(row("all", latencyMicroseconds["all"] ?? LatencySummary(), requestsPerSecond))
    if let service = serviceTimeMicroseconds { rows.append(row("from send", service)) }
    if let lag = scheduleLagMicroseconds { rows.append(row("sched. lag", lag)) }
    return rows
  }

  private var serverLines: [String] {
    var facts: [String] = []
    if let server {
      let conflicts = server.conflicts.sorted { $0.key < $1.key }.filter { $0.value > 0 }
      let total = conflicts.reduce(0) { $0 + $1.value }
      let byReason = conflicts.map { "\($0.key) \(Text.decimal($0.value, 0))" }
      facts.append(
        "\(Text.decimal(total, 0)) conflicts (\(Text.percent(server.conflictsPerCommit)) of commits"
          + (byReason.isEmpty ? ")" : "; \(byReason.joined(separator: ", ")))"))
      facts.append("\(Text.decimal(server.retries, 0)) retries")
    }
    if let cpu = serverCPUMicrosecondsPerRequest {
      facts.append("\(Text.decimal(cpu, 2)) µs CPU per request")
    }
    return facts.isEmpty ? [] : wrapped("server", facts)
  }

  private var generatorLine: String {
    labelled(
      "generator",
      "\(Text.decimal(generatorCPUMicrosecondsPerRequest, 2)) µs CPU per request · busiest thread "
        + "\(Text.percent(generatorBusyShare)) of the time")
  }

  private func number(_ value: Int) -> String { Text.count(Int64(value)) }

  private func skus(_ count: Int) -> String { "\(number(count)) SKU\(count == 1 ? "" : "s")" }

  private func entry(_ name: String, _ count: Int?) -> String? {
    count.map { "\(name) \(number($0))" }
  }

  private func labelled(_ label: String, _ text: String) -> String {
    Text.left(label, Report.labelWidth) + text
  }

  /// `facts` behind a label, on as many lines as they need.
  private func wrapped(_ label: String, _ facts: [String], separator: String = " · ") -> [String] {
    var lines: [String] = []
    var line = ""
    for fact in facts {
      if !line.isEmpty, line.count + separator.count + fact.count > 100 {
        lines.append(labelled(lines.isEmpty ? label : "", line))
        line = ""
      }
      line += line.isEmpty ? fact : separator + fact
    }
    lines.append(labelled(lines.isEmpty ? label : "", line))
    return lines
  }
}
