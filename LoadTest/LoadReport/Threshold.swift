// What is required of a run's figures, as --require takes it: 'p99<5ms', 'errors<0.1%'.
//
//   threshold = metric operator number [unit]
//   metric    = [("service" | "lag" | "message" | method) "."] figure | "rate" | "errors" | "conflicts"
//   figure    = "p50" | "p90" | "p95" | "p99" | "p99.9" | "p99.99" | "mean" | "max"
//   operator  = "<" | "<=" | ">" | ">="
//   unit      = "ns" | "us" | "µs" | "ms" | "s" (of figures), "/s" (of rate), "%" (of shares)

/// What one figure has to be. Spaces between its parts count for nothing.
package struct Threshold: Sendable {
  /// As it was given.
  package let expression: String
  private let metric: Metric
  private let comparison: Comparison
  /// In `unit`.
  private let limit: Double
  private let unit: Unit

  /// Throws where `expression` is none, in one line that says what would be right.
  package init(_ expression: String) throws(ThresholdError) {
    func refuse(_ reason: String) -> ThresholdError {
      ThresholdError("'\(Text.printable(expression))' is no threshold: \(reason)")
    }
    let text = expression.filter { !$0.isWhitespace }
    guard let sign = text.firstIndex(where: { "<>=!".contains($0) }) else {
      throw refuse("it has none of < <= > >=; such as 'p99<5ms'")
    }
    let signs = text[sign...].prefix { "<>=!".contains($0) }
    guard let comparison = Comparison(rawValue: String(signs)) else {
      throw refuse("\(signs) is none of < <= > >=")
    }
    guard let metric = Metric(String(text[..<sign])) else {
      throw refuse(
        "'\(Text.printable(String(text[..<sign])))' is no metric; there are "
          + "\(Metric.figures.joined(separator: " ")), the same behind service. lag. message. or a method "
          + "(Reserve.p99), rate, errors, conflicts")
    }
    let value = text[signs.endIndex...]
    let digits = value.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
    guard let limit = Double(digits), limit.isFinite else {
      throw refuse("it has no number behind \(signs)")
    }
    let name = String(value[digits.endIndex...])
    guard let unit = metric.units.first(where: { $0.names.contains(name) }) else {
      let names = metric.units.map { $0.names[0].isEmpty ? "no unit" : $0.names[0] }
      let given = name.isEmpty ? "a unit is missing" : "'\(Text.printable(name))' is no unit of it"
      throw refuse("\(given); \(metric.name) takes \(names.joined(separator: " or "))")
    }
    self.expression = expression
    self.metric = metric
    self.comparison = comparison
    self.limit = limit
    self.unit = unit
  }

  /// What a threshold is about.
  package enum Subject: Equatable, Sendable {
    case rate, errors, conflicts
    /// A method, "all", "service", "lag" or "message".
    case latency(String)
  }

  package var subject: Subject {
    switch metric {
    case .rate: .rate
    case .errors: .errors
    case .conflicts: .conflicts
    case .latency(let subject, _): .latency(subject)
    }
  }

  /// What is required where this is what must not be: 'p99<=5ms' of 'p99>5ms'.
  package var negated: Threshold {
    Threshold(
      metric: metric, comparison: comparison.negated, limit: limit, unit: unit,
      expression: expression.filter { !$0.isWhitespace }.replacing(
        comparison.rawValue, with: comparison.negated.rawValue, maxReplacements: 1))
  }

  private init(
    metric: Metric, comparison: Comparison, limit: Double, unit: Unit, expression: String
  ) {
    self.metric = metric
    self.comparison = comparison
    self.limit = limit
    self.unit = unit
    self.expression = expression
  }

  /// Whether it is so. Where nothing was measured it did not pass.
  package func evaluate(_ report: Report) -> Report.ThresholdResult {
    var result = Report.ThresholdResult()
    result.expression = expression
    result.actualText = "not measured"
    guard let value = metric.value(in: report) else { return result }
    result.actual = value / unit.size
    result.actualText = metric.text(value)
    result.isPassed = comparison.holds(value / unit.size, limit)
    return result
  }
}

/// Says why a text is no threshold, in one line.
package struct ThresholdError: Error, CustomStringConvertible {
  package let description: String

  package init(_ description: String) { self.description = description }
}

extension Threshold {
  private enum Comparison: String {
    case less = "<"
    case atMost = "<="
    case more = ">"
    case atLeast = ">="

    var negated: Comparison {
      switch self {
      case .less: .atLeast
      case .atMost: .more
      case .more: .atMost
      case .atLeast: .less
      }
    }

    func holds(_ value: Double, _ limit: Double) -> Bool {
      switch self {
      case .less: value < limit
      case .atMost: value <= limit
      case .more: value > limit
      case .atLeast: value >= limit
      }
    }
  }

  /// `size` in the metric's own unit: microseconds, requests per second, or a share of 1.
  private struct Unit {
    let names: [String]
    let size: Double

    static let ofTime = [
      Unit(names: ["ns"], size: 0.001), Unit(names: ["us", "µs", "μs"], size: 1),
      Unit(names: ["ms"], size: 1_000), Unit(names: ["s"], size: 1_000_000),
    ]
    static let ofRate = [Unit(names: ["/s", ""], size: 1)]
    static let ofShare = [Unit(names: ["%"], size: 0.01), Unit(names: [""], size: 1)]
  }

  private enum Metric {
    case rate, errors, conflicts
    /// A figure of the latencies of a method, of "all", of "service", of "lag" or of "message".
    case latency(of: String, figure: String)

    static let figures = ["p50", "p90", "p95", "p99", "p99.9", "p99.99", "mean", "max"]

    init?(_ name: String) {
      switch name {
      case "rate": self = .rate
      case "errors": self = .errors
      case "conflicts": self = .conflicts
      default:
        let parts = name.split(separator: ".", maxSplits: 1).map(String.init)
        let subjects = measuredMethodNames + ["service", "lag", "message"]
        if Metric.figures.contains(name) {
          self = .latency(of: "all", figure: name)
        } else if parts.count == 2, let subject = subjects.first(where: { $0 == parts[0] }),
          Metric.figures.contains(parts[1])
        {
          self = .latency(of: subject, figure: parts[1])
        } else {
          return nil
        }
      }
    }

    var name: String {
      switch self {
      case .rate: "rate"
      case .errors: "errors"
      case .conflicts: "conflicts"
      case .latency(let subject, let figure): subject == "all" ? figure : "\(subject).\(figure)"
      }
    }

    var units: [Unit] {
      switch self {
      case .rate: Unit.ofRate
      case .errors, .conflicts: Unit.ofShare
      case .latency: Unit.ofTime
      }
    }

    /// In microseconds, requests per second, or as a share of 1; nil where it was not measured.
    func value(in report: Report) -> Double? {
      switch self {
      case .rate: return report.measuredSeconds > 0 ? report.requestsPerSecond : nil
      case .errors: return report.failedShare
      case .conflicts: return report.server?.conflictsPerCommit
      case .latency(let subject, let figure):
        let summary =
          switch subject {
          case "service": report.serviceTimeMicroseconds
          case "lag": report.scheduleLagMicroseconds
          case "message": report.messages?.latencyMicroseconds
          default: report.latencyMicroseconds[subject]
          }
        guard let summary, summary.count > 0 else { return nil }
        return summary.figure(figure)
      }
    }

    func text(_ value: Double) -> String {
      switch self {
      case .rate: Text.decimal(value, value < 100 ? 1 : 0) + " /s"
      case .errors, .conflicts: Text.percent(value)
      case .latency: Text.duration(microseconds: value)
      }
    }
  }
}

extension Report {
  /// The share of calls, duplicates included, upon which nothing was decided as far as anybody knows;
  /// nil where there was none at all.
  package var failedShare: Double? {
    let all = outcomes.values.reduce(0, +)
    let failed = Outcome.allCases.filter { $0.group == .failed }
      .reduce(0) { $0 + (outcomes[$1.name] ?? 0) }
    return all > 0 ? Double(failed) / Double(all) : nil
  }
}

extension LatencySummary {
  /// A figure by its name: "p99.9", "mean", "max"; nil where there is none of that name.
  package func figure(_ name: String) -> Double? {
    switch name {
    case "p50": p50
    case "p90": p90
    case "p95": p95
    case "p99": p99
    case "p99.9": p999
    case "p99.99": p9999
    case "mean": mean
    case "max": max
    default: nil
    }
  }
}
