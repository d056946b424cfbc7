// A run's own metrics, as OpenMetrics 1.0 text: what Prometheus reads while the load goes on.
internal import LoadHistory
internal import LoadReport

/// The text of one page.
struct RunMetrics {
  private(set) var text = ""

  /// - Parameters:
  ///   - information: what the run is, as labels.
  ///   - progress: how it stands.
  ///   - live: what it has counted.
  init(information: [(name: String, value: String)], _ progress: Progress, _ live: LiveStatistics) {
    // Gauges where OpenMetrics also has info and stateset: promtool does not know these.
    family("holdfast_load_run_info", "gauge", "What is run.")
    sample("holdfast_load_run_info", information, 1)
    family("holdfast_load_phase", "gauge", "1 for the part of the run that it is in.")
    for (name, phase) in [
      ("warm-up", Progress.Phase.warmUp), ("measuring", .measuring), ("draining", .draining),
      ("ending", .ending),
    ] {
      sample("holdfast_load_phase", [("phase", name)], progress.phase == phase ? 1 : 0)
    }
    family("holdfast_load_elapsed_seconds", "gauge", "Since the first call was due.", "seconds")
    sample("holdfast_load_elapsed_seconds", [], progress.elapsedSeconds)
    counters(live)
    family(
      "holdfast_load_latency_seconds", "histogram",
      "Latency by method; in an open loop from when the call was due.", "seconds")
    for (method, buckets) in live.latencies {
      histogram("holdfast_load_latency_seconds", [("method", method.name)], buckets)
    }
    if live.serviceTimes.count > 0 {
      family(
        "holdfast_load_service_time_seconds", "histogram",
        "From the actual send; in a closed loop that is the latency.", "seconds")
      histogram("holdfast_load_service_time_seconds", [], live.serviceTimes)
    }
    if live.scheduleLag.count > 0 {
      family(
        "holdfast_load_schedule_lag_seconds", "histogram",
        "How late the generator looked at its schedule.", "seconds")
      histogram("holdfast_load_schedule_lag_seconds", [], live.scheduleLag)
    }
    gauges(progress, live)
    text += "# EOF\n"
  }

  private mutating func counters(_ live: LiveStatistics) {
    family("holdfast_load_calls", "counter", "Calls by how they ended.")
    for outcome in Outcome.allCases {
      sample(
        "holdfast_load_calls_total",
        [("group", outcome.group.rawValue), ("outcome", outcome.name)],
        Double(live.outcomes[outcome.rawValue]))
    }
    family("holdfast_load_responses", "counter", "Responses by gRPC code.")
    for (code, name) in grpcCodeNames.enumerated() where code == 0 || live.codes[code] > 0 {
      sample("holdfast_load_responses_total", [("code", name)], Double(live.codes[code]))
    }
  }

  private mutating func gauges(_ progress: Progress, _ live: LiveStatistics) {
    if let scheduled = progress.interval?.scheduledPerSecond {
      family(
        "holdfast_load_scheduled_rate", "gauge", "Calls per second that the schedule asks for.")
      sample("holdfast_load_scheduled_rate", [], scheduled)
    }
    family(
      "holdfast_load_generator_busy_ratio", "gauge",
      "How much of its time the generator's busiest thread worked.", "ratio")
    sample("holdfast_load_generator_busy_ratio", [], live.busyShare)
    if let compared = progress.balancesCompared {
      family("holdfast_load_balances_compared", "counter", "Balances held against the calls.")
      sample("holdfast_load_balances_compared_total", [], Double(compared))
    }
    family("holdfast_load_faults", "gauge", "What was found wrong so far.")
    sample("holdfast_load_faults", [], Double(progress.faults))
    guard !progress.agents.isEmpty else { return }
    family("holdfast_load_agents", "gauge", "Generators that take part.")
    sample("holdfast_load_agents", [], Double(progress.agents.count))
  }

  // MARK: Lines

  private mutating func family(
    _ name: String, _ type: String, _ help: String, _ unit: String? = nil
  ) {
    text += "# TYPE \(name) \(type)\n"
    if let unit { text += "# UNIT \(name) \(unit)\n" }
    text += "# HELP \(name) \(help)\n"
  }

  private mutating func sample(
    _ name: String, _ labels: [(name: String, value: String)], _ value: Double
  ) {
    text += name
    if !labels.isEmpty {
      text += "{"
      text += labels.map { "\($0.name)=\"\(RunMetrics.escaped($0.value))\"" }.joined(separator: ",")
      text += "}"
    }
    text += " \(RunMetrics.number(value))\n"
  }

  private mutating func histogram(
    _ name: String, _ labels: [(name: String, value: String)], _ buckets: LatencyBuckets
  ) {
    var count = 0
    for (index, bound) in LatencyBuckets.boundsNanoseconds.enumerated() {
      count += buckets.counts[index]
      let le = RunMetrics.number(Double(bound) / 1e9)
      sample("\(name)_bucket", labels + [("le", le)], Double(count))
    }
    sample("\(name)_bucket", labels + [("le", "+Inf")], Double(buckets.count))
    sample("\(name)_sum", labels, buckets.sumSeconds)
    sample("\(name)_count", labels, Double(buckets.count))
  }

  private static func number(_ value: Double) -> String {
    guard value.isFinite else { return "0" }
    return Int64(exactly: value).map { abs($0) < 1 << 53 ? "\($0)" : "\(value)" } ?? "\(value)"
  }

  private static func escaped(_ text: String) -> String {
    Text.printable(text).replacing("\\", with: "\\\\").replacing("\"", with: "\\\"")
  }
}
