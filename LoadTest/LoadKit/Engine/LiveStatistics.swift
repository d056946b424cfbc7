// What a run has counted so far, for who looks at it while it lasts: the live view, the metrics page.
internal import LoadHistory
internal import LoadReport

struct LiveStatistics {
  /// Since the start of the run.
  private(set) var latencies: [(method: Method, buckets: LatencyBuckets)] = []
  private(set) var serviceTimes = LatencyBuckets()
  private(set) var scheduleLag = LatencyBuckets()
  private(set) var outcomes = [Int](repeating: 0, count: Outcome.allCases.count)
  private(set) var codes = [Int](repeating: 0, count: grpcCodeNames.count)
  /// Of the busiest thread, in the last slice.
  private(set) var busyShare = 0.0
  /// The last second or more that is whole.
  private(set) var window: Progress.Window?
  private var counts = IntervalCounts()
  private var seconds = 0.0

  /// Percentiles of less would jump about.
  private static let windowSeconds = 0.999

  mutating func take(_ slice: Slice) {
    for method in slice.counts.latencies.methods {
      guard let new = slice.counts.latencies[method] else { continue }
      let place = latencies.firstIndex { $0.method == method } ?? latencies.count
      if place == latencies.count { latencies.append((method, LatencyBuckets())) }
      latencies[place].buckets.add(new)
    }
    serviceTimes.add(slice.counts.serviceTimes)
    scheduleLag.add(slice.counts.scheduleLag)
    for index in outcomes.indices { outcomes[index] += slice.counts.outcomes[index] }
    for index in codes.indices { codes[index] += slice.counts.codes[index] }
    guard slice.seconds > 0 else { return }
    busyShare = min(1, Double(slice.counts.cpuNanoseconds) / 1e9 / slice.seconds)
    counts.append(slice.counts)
    seconds += slice.seconds
    guard seconds >= LiveStatistics.windowSeconds else { return }
    window = makeWindow(endSeconds: slice.endSeconds)
    counts.removeAll()
    seconds = 0
  }

  private func makeWindow(endSeconds: Double) -> Progress.Window {
    var window = Progress.Window()
    window.endSeconds = endSeconds
    window.requestsPerSecond = Double(counts.answered) / seconds
    let all = counts.latencies.all
    window.latency = all.summary
    window.buckets.add(all)
    for method in counts.latencies.methods {
      guard let latencies = counts.latencies[method] else { continue }
      window.methods.append(
        Progress.MethodWindow(
          name: method.name, perSecond: Double(latencies.count) / seconds,
          latency: latencies.summary))
    }
    return window
  }

  /// By name, those that have happened.
  var outcomesByName: [String: Int] {
    var named: [String: Int] = [:]
    for outcome in Outcome.allCases where outcomes[outcome.rawValue] > 0 {
      named[outcome.name] = outcomes[outcome.rawValue]
    }
    return named
  }

  var codesByName: [String: Int] {
    var named: [String: Int] = [:]
    for (code, name) in grpcCodeNames.enumerated() where codes[code] > 0 {
      named[name] = codes[code]
    }
    return named
  }
}
