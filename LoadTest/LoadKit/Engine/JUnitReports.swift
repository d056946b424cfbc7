// What `check`, `audit`, `find-knee` and `compare` found, as JUnit XML.
package import LoadReport

extension JUnit {
  /// A suite for each history.
  package init(_ report: CheckReport) {
    self.init()
    suites = report.histories.map { history in
      var suite = Suite("check \(history.file)")
      suite.properties = [
        ("run", history.run), ("command_line", history.configuration),
        ("verdict", history.verdict.sentence),
      ]
      suite.cases = [
        Case(
          "the history has the balances after the run",
          history.hasBalances
            ? .passed : .skipped("what the server has in the end was not compared"))
      ]
      suite.cases += history.check.cases(seconds: history.check.seconds)
      return suite
    }
  }

  /// A suite for each history that a server was held to.
  package init(_ report: AuditReport) {
    self.init()
    suites = report.histories.map { history in
      var suite = Suite("audit \(history.file)")
      suite.properties = [("run", history.run), ("verdict", history.verdict.sentence)]
      let audit = history.audit
      suite.cases = [
        Case(
          "every acknowledged decision still stands",
          audit.lost == 0
            ? .passed
            : .failed("\(audit.lost) of \(Text.counted(audit.acknowledged, "decision")) lost"))
      ]
      suite.cases += audit.check.cases(seconds: audit.check.seconds)
      return suite
    }
  }

  /// A case for the answer, and one for the verdict of every step.
  package init(_ report: KneeReport) {
    self.init()
    var suite = Suite("find-knee")
    suite.properties = [("generator", report.generator), ("conclusion", report.conclusion)]
    if let rate = report.ratePerSecond {
      suite.properties.append(("rate_per_second", KneeReport.plain(rate)))
    }
    let isViolated = report.steps.contains { $0.verdict.result == .violated }
    suite.cases = [
      Case(
        "there is a highest rate that keeps \(report.requirements.joined(separator: ", "))",
        report.isFound
          ? .passed : isViolated ? .skipped(report.conclusion) : .error(report.conclusion))
    ]
    suite.cases += report.steps.enumerated().map { index, step in
      let name =
        "step \(index + 1), at \(KneeReport.rate(step.scheduledPerSecond)): invariants hold"
      switch step.verdict.result {
      case .good: return Case(name, .passed)
      case .violated: return Case(name, .failed(step.verdict.sentence))
      case .unknown: return Case(name, .error(step.verdict.sentence))
      case .notChecked: return Case(name, .skipped(step.verdict.headline))
      }
    }
    suites = [suite]
  }

  /// A suite for each load, a case for each run. What is faster is no matter of passing.
  package init(_ comparison: Comparison) {
    self.init()
    suites = comparison.cases.map { load in
      var suite = Suite(load.name.isEmpty ? "compare" : "compare, \(load.name)")
      suite.startedAt = load.runs.first?.startedAt ?? ""
      suite.properties = [("command_line", comparison.commandLine)]
      suite.properties += comparison.findings.enumerated().map { ("finding_\($0 + 1)", $1) }
      suite.cases = load.runs.enumerated().map { index, run in
        let name = "run \(index + 1), \(run.variant): invariants hold"
        switch run.verdict.result {
        case .good: return Case(name, run.isPartial ? .error("it ended early") : .passed)
        case .violated: return Case(name, .failed(run.verdict.sentence))
        case .unknown: return Case(name, .error(run.verdict.sentence))
        case .notChecked: return Case(name, .skipped(run.verdict.headline))
        }
      }
      return suite
    }
  }
}

extension KneeReport {
  fileprivate static func plain(_ rate: Double) -> String {
    Text.decimal(rate, 3).replacing(",", with: "")
  }
}
