// What a command found, as JUnit XML: what most CI systems show. Nobody owns the form; this is what those of
// Jenkins (junit-10.xsd), GitLab and others agree on, Tests/EndToEnd/fixtures/junit.xsd: suites, properties,
// and a test case for each requirement and each part of a verdict.

package struct JUnit: Sendable {
  package enum Outcome: Equatable, Sendable {
    case passed
    /// What was asked for is not so.
    case failed(String)
    /// It could not be said.
    case error(String)
    case skipped(String)
  }

  package struct Case: Sendable {
    package var name: String
    package var outcome: Outcome
    package var seconds: Double
    /// More than fits a line.
    package var details: String

    package init(_ name: String, _ outcome: Outcome, seconds: Double = 0, details: String = "") {
      self.name = name
      self.outcome = outcome
      self.seconds = seconds
      self.details = details
    }
  }

  package struct Suite: Sendable {
    package var name: String
    /// UTC, ISO 8601; empty if not known.
    package var startedAt = ""
    package var properties: [(name: String, value: String)] = []
    package var cases: [Case] = []

    package init(_ name: String) { self.name = name }
  }

  package var suites: [Suite] = []

  package init() {}

  // MARK: XML

  package var xml: String {
    var xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
    xml += "<testsuites name=\"holdfast-load\"\(JUnit.counts(suites.flatMap(\.cases)))>\n"
    for suite in suites { xml += suite.xml }
    return xml + "</testsuites>\n"
  }

  fileprivate static func counts(_ cases: [Case]) -> String {
    func count(_ isIt: (Outcome) -> Bool) -> Int { cases.count { isIt($0.outcome) } }
    let failures = count { if case .failed = $0 { true } else { false } }
    let errors = count { if case .error = $0 { true } else { false } }
    let seconds = cases.reduce(0) { $0 + $1.seconds }
    return " tests=\"\(cases.count)\" failures=\"\(failures)\" errors=\"\(errors)\""
      + " time=\"\(time(seconds))\""
  }

  fileprivate static func time(_ seconds: Double) -> String {
    Text.decimal(seconds, 3).replacing(",", with: "")
  }

  /// Text of an attribute in double quotes, or of an element.
  ///
  /// - Parameter keepsLines: of an element.
  static func escaped(_ text: String, keepsLines: Bool = false) -> String {
    let lines = text.split(separator: "\n", omittingEmptySubsequences: false).map { line in
      // What steers, XML 1.0 does not even allow.
      Text.printable(String(line)).replacing("&", with: "&amp;").replacing("<", with: "&lt;")
        .replacing(">", with: "&gt;").replacing("\"", with: "&quot;")
    }
    return lines.joined(separator: keepsLines ? "\n" : " ")
  }
}

extension JUnit.Suite {
  fileprivate var xml: String {
    let skipped = cases.count { if case .skipped = $0.outcome { true } else { false } }
    // The schema has no zone.
    let stamp = startedAt.isEmpty ? "" : " timestamp=\"\(startedAt.replacing("Z", with: ""))\""
    var xml = "  <testsuite name=\"\(JUnit.escaped(name))\"\(JUnit.counts(cases))"
    xml += " skipped=\"\(skipped)\"\(stamp)>\n"
    if !properties.isEmpty {
      xml += "    <properties>\n"
      for property in properties {
        xml += "      <property name=\"\(JUnit.escaped(property.name))\""
        xml += " value=\"\(JUnit.escaped(property.value))\"/>\n"
      }
      xml += "    </properties>\n"
    }
    for each in cases {
      xml += "    <testcase name=\"\(JUnit.escaped(each.name))\""
      xml +=
        " classname=\"holdfast-load.\(JUnit.escaped(name))\" time=\"\(JUnit.time(each.seconds))\""
      xml += each.body
    }
    return xml + "  </testsuite>\n"
  }
}

extension JUnit.Case {
  fileprivate var body: String {
    let (element, message) =
      switch outcome {
      case .passed: ("", "")
      case .failed(let message): ("failure", message)
      case .error(let message): ("error", message)
      case .skipped(let message): ("skipped", message)
      }
    if element.isEmpty { return "/>\n" }
    let head = ">\n      <\(element) message=\"\(JUnit.escaped(message))\""
    if element == "skipped" { return "\(head)/>\n    </testcase>\n" }
    return "\(head) type=\"\(element)\">\(JUnit.escaped(details, keepsLines: true))</\(element)>\n"
      + "    </testcase>\n"
  }
}

// MARK: - A run

extension Report.Check {
  /// What is proved, part by part, and the kinds of violations of each.
  package static let parts: [(name: String, kinds: [String])] = [
    ("nothing is oversold", ["oversold", "more than a limit for one subject"]),
    ("the calls are linearizable by SKU", ["not linearizable"]),
    (
      "no unit is lost or invented",
      [
        "units lost or invented", "held units differ", "item missing",
        "balance out of bounds during the run", "wrong balance read",
      ]
    ),
    (
      "every decision is made once and kept",
      [
        "acknowledged decision forgotten", "decided twice", "duplicate answered differently",
        "replayed what was never answered", "ended twice", "reservation id used twice",
      ]
    ),
    (
      "every refusal and every grant has its reason",
      [
        "refused without reason", "alternative passed over without reason", "wrong units granted",
      ]
    ),
    ("holds end when they are due", ["accepted after expiry", "wrong expires_at"]),
    (
      "the change feed says what was decided",
      [
        "missing in the feed", "twice in the feed", "in the feed and never decided",
        "wrong balance in the feed", "version missing in the feed", "feed out of order",
        "wrong event in the feed",
      ]
    ),
  ]

  /// A case for each part.
  ///
  /// - Parameter seconds: what the check took; the first case has it.
  package func cases(seconds: Double) -> [JUnit.Case] {
    let known = Set(Report.Check.parts.flatMap(\.kinds))
    var parts = Report.Check.parts
    let others = violations.keys.filter { !known.contains($0) }.sorted()
    if !others.isEmpty { parts.append(("other invariants", others)) }
    return parts.enumerated().map { index, part in
      let broken = part.kinds.filter { (violations[$0] ?? 0) > 0 }
      let spent = index == 0 ? seconds : 0
      if !broken.isEmpty {
        let text = broken.map { "\($0) (\(violations[$0] ?? 0))" }.joined(separator: ", ")
        let shown = examples.filter { example in broken.contains { example.hasPrefix($0) } }
        return JUnit.Case(
          part.name, .failed(text), seconds: spent, details: shown.joined(separator: "\n"))
      }
      if part.kinds.contains("missing in the feed"), feed == nil {
        return JUnit.Case(part.name, .skipped("the feed was not followed (--watch)"))
      }
      if part.kinds == ["not linearizable"], linearizable == .undecided, skusUndecided > 0 {
        return JUnit.Case(
          part.name, .skipped("\(Text.counted(skusUndecided, "SKU")) could not be decided"))
      }
      return JUnit.Case(part.name, .passed, seconds: spent)
    }
  }
}

extension JUnit {
  /// Of a run: how it ended, its verdict, and its requirements.
  package init(_ report: Report) {
    var run = Suite("run")
    run.startedAt = report.startedAt
    run.properties = report.junitProperties
    run.cases = [Case("the run went to its end", report.junitEnd, seconds: report.wholeSeconds)]
    var verdict = Suite("verdict")
    verdict.startedAt = report.startedAt
    let compared: Outcome =
      switch report.result {
      case .good, .violated: .passed
      case .notChecked: .skipped(report.verdict.headline)
      case .unknown: .error(report.verdict.headline)
      }
    verdict.cases = [Case("the server was compared with the calls", compared)]
    if let check = report.check { verdict.cases += check.cases(seconds: check.seconds) }
    suites = [run, verdict]
    guard !report.thresholds.isEmpty else { return }
    var requirements = Suite("requirements")
    requirements.startedAt = report.startedAt
    requirements.cases = report.thresholds.map { threshold in
      Case(
        threshold.expression,
        threshold.isPassed ? .passed : .failed("measured: \(threshold.actualText)"),
        seconds: report.measuredSeconds)
    }
    suites.append(requirements)
  }
}

extension Report {
  fileprivate var wholeSeconds: Double {
    intervals.last.map { $0.startSeconds + $0.seconds } ?? measuredSeconds
  }

  fileprivate var junitEnd: JUnit.Outcome {
    if let abort { return .failed("--abort-if \(abort.expression): \(abort.actualText)") }
    return isPartial ? .error(warnings.first ?? "the run ended before it was to") : .passed
  }

  fileprivate var junitProperties: [(name: String, value: String)] {
    let all = latencyMicroseconds["all"] ?? LatencySummary()
    var properties = [
      ("generator", generator), ("target", configuration.target),
      ("scenario", configuration.scenario), ("load", configuration.loopText),
      ("run", configuration.run), ("seed", String(configuration.seed)),
      ("command_line", configuration.commandLine), ("verdict", verdict.sentence),
      ("requests_per_second", Text.decimal(requestsPerSecond, 1).replacing(",", with: "")),
      ("limited_by", limitedBy.rawValue),
    ]
    for name in ["p50", "p99", "p99.9", "max"] {
      let text = Text.decimal(all.figure(name) ?? 0, 1).replacing(",", with: "")
      properties.append(("\(name)_microseconds", text))
    }
    if let label { properties.append(("label", label)) }
    if let server = environment.server { properties.append(("server", server)) }
    return properties.map { (name: $0.0, value: $0.1) }
  }
}
