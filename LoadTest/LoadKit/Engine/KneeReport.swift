// What the search for the knee says: a step's figures, the conclusion, the table.

package import LoadReport
internal import Posix

/// The report of a search. The JSON is this, with its names in snake case.
package struct KneeReport: Codable, Sendable {
  /// Changes when a field changes its meaning or goes; fields may be added at any time.
  package static let schemaVersionNow = 2
  package var schemaVersion = KneeReport.schemaVersionNow

  /// The program that wrote this, as name/version.
  package var generator = RunOptions.generator
  /// As they were given; each has to hold.
  package var requirements: [String] = []
  package var isFound = false
  /// Calls per second that kept the limits twice.
  package var ratePerSecond: Double?
  /// The lowest rate above it that broke something, and what broke.
  package var brokeAtRatePerSecond: Double?
  package var brokeBecause: String?
  /// One sentence.
  package var conclusion = ""
  /// What to change where the generator was the limit; absent where it was not.
  package var advice: String?
  /// In the order in which they ran.
  package var steps: [Step] = []

  /// One run at one rate.
  package struct Step: Codable, Sendable {
    package var scheduledPerSecond = 0.0
    package var requestsPerSecond = 0.0
    /// Whether the rate had kept the limits before.
    package var isConfirmation = false
    package var isKept = false
    /// What broke; empty where nothing did.
    package var reason = ""
    /// From the scheduled send.
    package var latencyMicroseconds = LatencySummary()
    package var serviceTimeMicroseconds: LatencySummary?
    package var scheduleLagMicroseconds: LatencySummary?
    package var unsent = 0
    /// Share of calls upon which nothing was decided.
    package var failedShare = 0.0
    package var requirements: [Report.ThresholdResult] = []
    package var limitedBy = Report.LimitedBy.unknown
    package var limitReason = ""
    package var generatorBusyShare = 0.0
    package var verdict = Verdict()
  }

  /// Of the generator, and of the machine that it runs on.
  private var threads = 1
  private var processors = 1

  private enum CodingKeys: String, CodingKey {
    case schemaVersion, generator, requirements, isFound, ratePerSecond, brokeAtRatePerSecond
    case brokeBecause, conclusion, advice, steps
  }

  /// - Parameters:
  ///   - threads: of the generator.
  ///   - processors: that it may run on; nil: those of this process.
  package init(limits: [Threshold], threads: Int = 1, processors: Int? = nil) {
    requirements = limits.map(\.expression)
    self.threads = threads
    self.processors = processors ?? Machine.usableProcessors
  }

  /// Adds a step, and says what it showed.
  ///
  /// - Parameters:
  ///   - report: of a run at `rate`.
  ///   - isConfirmation: whether the rate had kept the limits before.
  /// - Throws: where the run says nothing about the limits.
  package mutating func add(
    _ report: Report, rate: Double, isConfirmation: Bool, limits: [Threshold]
  ) throws(LoadError) -> KneeStepOutcome {
    if report.isPartial { throw LoadError("the step at \(KneeReport.rate(rate)) ended early") }
    if report.result == .unknown { throw LoadError(report.verdict.sentence) }
    let results = limits.map { $0.evaluate(report) }
    if let missing = results.first(where: { $0.actual == nil }) {
      throw LoadError("\(missing.expression): \(missing.actualText)")
    }
    var step = Step()
    step.scheduledPerSecond = rate
    step.requestsPerSecond = report.requestsPerSecond
    step.isConfirmation = isConfirmation
    step.latencyMicroseconds = report.latencyMicroseconds["all"] ?? LatencySummary()
    step.serviceTimeMicroseconds = report.serviceTimeMicroseconds
    step.scheduleLagMicroseconds = report.scheduleLagMicroseconds
    step.unsent = report.unsent
    step.failedShare = report.failedShare ?? 0
    step.requirements = results
    step.limitedBy = report.limitedBy
    step.limitReason = report.limitReason
    step.generatorBusyShare = report.generatorBusyShare
    step.verdict = report.verdict
    let outcome = KneeReport.outcome(of: step, report)
    step.isKept = outcome == .kept
    switch outcome {
    case .kept: break
    case .broke(let reason), .generatorWasLimit(let reason), .violated(let reason):
      step.reason = reason
    }
    steps.append(step)
    return outcome
  }

  /// The share of failed calls that a step may have where no limit speaks of errors.
  private static let failedShareMaximum = 0.001

  private static func outcome(of step: Step, _ report: Report) -> KneeStepOutcome {
    if report.result == .violated { return .violated(report.verdict.sentence) }
    guard let reason = whatBroke(in: step) ?? whatWasNotCarried(of: step, report) else {
      return .kept
    }
    guard report.limitedBy == .generator else { return .broke(reason) }
    let why = report.limitReason.isEmpty ? "" : " (\(report.limitReason))"
    return .generatorWasLimit(reason + why)
  }

  private static func whatBroke(in step: Step) -> String? {
    if let broken = step.requirements.first(where: { !$0.isPassed }) {
      return "\(broken.expression) broke: \(broken.actualText)"
    }
    if step.unsent > 0 {
      return
        "the schedule was not carried: \(Text.counted(step.unsent, "call")) due and never sent, "
        + "every stream was busy"
    }
    let boundsErrors = step.requirements.contains { $0.expression.hasPrefix("errors") }
    if !boundsErrors, step.failedShare > failedShareMaximum {
      return "errors: \(Text.percent(step.failedShare)) of the calls failed"
    }
    return nil
  }

  /// What the server had not answered when the step ended was sent and answered in its drain: the
  /// rate was not carried, however few its calls missed a limit.
  private static func whatWasNotCarried(of step: Step, _ report: Report) -> String? {
    let share = LimitEvidence.carriedShare(
      answered: step.requestsPerSecond * report.measuredSeconds,
      scheduled: step.scheduledPerSecond * report.measuredSeconds,
      isPoisson: report.configuration.arrivals == Arrivals.poisson.rawValue)
    guard share < LimitEvidence.carriedEnough else { return nil }
    return "the schedule was not carried: \(Text.percent(share)) of it was answered in time"
  }

  // MARK: The end

  /// Takes down how the search ended.
  package mutating func conclude(_ result: KneeResult) {
    let rate = KneeReport.rate
    switch result {
    case .found(let kept, let broken, let reason):
      isFound = true
      ratePerSecond = kept
      brokeAtRatePerSecond = broken
      brokeBecause = reason
      conclusion =
        "\(rate(kept)) keeps \(keptLimits); at \(rate(broken)) \(reason)\(doubt(at: broken))"
    case .unlimited(let highest):
      conclusion = "no limit found: \(keptLimits) held up to \(rate(highest)), the highest tried"
    case .none(let lowest, let reason):
      brokeAtRatePerSecond = lowest
      brokeBecause = reason
      conclusion =
        "no rate keeps \(keptLimits): even at \(rate(lowest)) \(reason); lower rates need longer steps "
        + "(--step-seconds)"
    case .generatorWasLimit(let broken, let kept, let reason):
      let held =
        kept.map { "; the limits held up to \(rate($0)), and the server may do more" } ?? ""
      conclusion =
        "no server limit found: the generator was the limit at \(rate(broken)): \(reason)\(held)"
      advice = makeAdvice(at: broken)
    case .violated(let at, let verdict):
      conclusion = "an invariant is violated at \(rate(at)): \(verdict)"
    case .unsteady(let low, let high, let reason):
      conclusion =
        "no steady answer: rates from \(rate(low)) to \(rate(high)) kept the limits and broke them; "
        + "last, \(reason); longer steps (--step-seconds) are steadier"
    }
  }

  /// What gives the generator more room.
  private func makeAdvice(at rate: Double) -> String {
    let step = steps.last { $0.scheduledPerSecond == rate && !$0.isKept }
    let isBusy = (step?.generatorBusyShare ?? 1) >= LimitEvidence.threadFull
    if isBusy, threads < processors {
      return "give the generator more threads: --threads \(min(processors, threads * 2))"
    }
    if isBusy {
      return
        "all \(Text.counted(processors, "processor")) have a thread of the generator: run it on a "
        + "machine with more"
    }
    return
      "the generator ran late without being busy: run it on a machine of its own, or leave it a "
      + "processor that the server does not use (taskset)"
  }

  /// What there is to say against calling it the server's limit.
  private func doubt(at rate: Double) -> String {
    let step = steps.last { $0.scheduledPerSecond == rate && !$0.isKept }
    guard let step, step.limitedBy == .unknown, !step.limitReason.isEmpty else { return "" }
    return " (not surely the server's limit: \(step.limitReason))"
  }

  private var keptLimits: String { requirements.joined(separator: ", ") }

  package static func rate(_ rate: Double) -> String {
    "\(Text.decimal(rate, rate < 1 ? 3 : rate < 100 ? 1 : 0))/s"
  }

  // MARK: As text

  private static let columns = ["rate", "carried", "p50", "p99", "p99.9", "failed", "busy"]

  /// The heading of `line`.
  package static var heading: String {
    columns.map { Text.right($0, 10) }.joined() + "  "
  }

  /// A step in a line: figures, then what broke.
  package static func line(_ step: Step) -> String {
    let latency = step.latencyMicroseconds
    let figures = [
      rate(step.scheduledPerSecond), rate(step.requestsPerSecond),
      Text.duration(microseconds: latency.p50), Text.duration(microseconds: latency.p99),
      Text.duration(microseconds: latency.p999), Text.percent(step.failedShare),
      Text.percent(step.generatorBusyShare),
    ]
    let remark = step.isKept ? (step.isConfirmation ? "kept again" : "kept") : step.reason
    return figures.map { Text.right($0, 10) }.joined() + "  " + remark
  }

  /// The conclusion, and the steps ordered by their rates.
  package var text: String {
    var lines = [conclusion] + (advice.map { ["To find it, \($0)."] } ?? [])
    lines += ["", KneeReport.heading]
    let ordered = steps.sorted { $0.scheduledPerSecond < $1.scheduledPerSecond }
    lines += ordered.map { KneeReport.line($0) }
    return lines.joined(separator: "\n")
  }
}
