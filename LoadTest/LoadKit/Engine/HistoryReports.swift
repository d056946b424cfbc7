// What `check` and `audit` have to say of histories, as data. The JSON is this, with its names in snake
// case; LoadTest/check.schema.json and LoadTest/audit.schema.json describe it.
package import LoadHistory
package import LoadReport

/// The report of `check`.
package struct CheckReport: Encodable, Sendable {
  package struct Violation: Encodable, Sendable {
    package let kind: String
    package let text: String
    /// Units, where the kind counts in units; otherwise 1.
    package let count: Int64
    /// The SKU that is oversold; absent for other kinds.
    package let sku: String?
    package let calls: [CallLine]
  }

  /// What is found of one history.
  package struct History: Encodable, Sendable {
    package let file: String
    package let run: String
    package let seed: UInt64
    package let configuration: String
    /// Whether the history has the balances after the run.
    package let hasBalances: Bool
    package let verdict: Verdict
    package let check: Report.Check
    package let violations: [Violation]

    /// - Parameters:
    ///   - history: read from `file`.
    ///   - seconds: what the check took.
    package init(
      file: String, _ history: borrowing LoadHistory.History, _ findings: Findings, seconds: Double
    ) {
      self.file = file
      run = history.run.text
      seed = history.seed
      configuration = history.configuration
      hasBalances = history.levels != nil
      var check = Report.Check(findings)
      check.seconds = seconds
      self.check = check
      verdict = check.verdict
      violations = findings.violationsByWeight.map {
        Violation(
          kind: $0.kind.rawValue, text: $0.text, count: $0.count, sku: $0.sku, calls: $0.calls)
      }
    }
  }

  /// Changes when a field changes its meaning or goes; fields may be added at any time.
  package let schemaVersion = 1
  /// The program that wrote this, as name/version.
  package let generator = RunOptions.generator
  package var histories: [History] = []

  package init() {}
}

/// The report of `audit`.
package struct AuditReport: Encodable, Sendable {
  package struct History: Encodable, Sendable {
    package let file: String
    package let run: String
    /// Nothing is lost, nothing was applied twice, and whatever else a run checks holds too.
    package let holds: Bool
    package let verdict: Verdict
    package let audit: Audit

    package init(file: String, run: String, _ audit: Audit) {
      self.file = file
      self.run = run
      holds = audit.holds
      verdict = audit.check.verdict
      self.audit = audit
    }
  }

  /// Changes when a field changes its meaning or goes; fields may be added at any time.
  package let schemaVersion = 1
  /// The program that wrote this, as name/version.
  package let generator = RunOptions.generator
  package var histories: [History] = []

  package init() {}
}
