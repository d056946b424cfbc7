import LoadReport
import Testing

@testable import LoadKit

/// The search against servers that are curves.
@Suite struct KneeSearchTests {
  private struct Steps {
    var rates: [Double] = []
    var confirmations: [Double] = []
  }

  private func search(
    from: Double, resolution: Double = 0.05, _ outcome: (Double, Int) -> KneeStepOutcome
  ) throws -> (result: KneeResult, steps: Steps) {
    var search = KneeSearch(fromRate: from)
    search.resolution = resolution
    var steps = Steps()
    let result = try search.run { (rate, isConfirmation) throws(LoadError) in
      steps.rates.append(rate)
      if isConfirmation { steps.confirmations.append(rate) }
      return outcome(rate, steps.rates.count)
    }
    return (result, steps)
  }

  private func found(_ result: KneeResult) throws -> (rate: Double, brokeAt: Double) {
    guard case .found(let rate, let brokeAt, _) = result else {
      Issue.record("\(result)")
      return (0, 0)
    }
    return (rate, brokeAt)
  }

  @Test(arguments: [10.0, 999, 12_345, 98_765, 5_000_000], [1.0, 1_000, 40_000])
  func closesInOnTheKnee(knee: Double, from: Double) throws {
    let (result, steps) = try search(from: from) { rate, _ in
      rate <= knee ? .kept : .broke("p99")
    }
    let (rate, brokeAt) = try found(result)
    #expect(rate <= knee && brokeAt > knee)
    #expect(brokeAt <= rate * 1.05 * 1.001)
    #expect(steps.rates.count < 50)
    #expect(steps.confirmations == [rate])
  }

  @Test(arguments: [0.005, 0.02, 0.5])
  func asCloseAsAsked(resolution: Double) throws {
    let (result, _) = try search(from: 100, resolution: resolution) { rate, _ in
      rate <= 7_777 ? .kept : .broke("p99")
    }
    let (rate, brokeAt) = try found(result)
    #expect(brokeAt <= rate * (1 + resolution) * 1.001)
  }

  @Test func aRateThatHoldsOnlyOnceIsAboveTheKnee() throws {
    var tries: [Double: Int] = [:]
    let (result, steps) = try search(from: 100) { rate, _ in
      tries[rate, default: 0] += 1
      // Between 500 and 600 it holds at the first try only.
      return rate <= 500 || rate <= 600 && tries[rate] == 1 ? .kept : .broke("p99")
    }
    let (rate, brokeAt) = try found(result)
    #expect(rate <= 500 && brokeAt > rate)
    #expect(steps.confirmations.count > 1)
    #expect(steps.confirmations.last == rate)
  }

  @Test func nothingKept() throws {
    let (result, steps) = try search(from: 100) { _, _ in .broke("p99") }
    #expect(result == .none(lowest: 1, reason: "p99"))
    #expect(steps.rates == steps.rates.sorted(by: >))
  }

  @Test func nothingBroken() throws {
    let (result, _) = try search(from: 100_000) { _, _ in .kept }
    #expect(result == .unlimited(upTo: LoadProfile.rateMaximum))
  }

  @Test func theGeneratorWasTheLimit() throws {
    let (result, steps) = try search(from: 100) { rate, _ in
      rate < 300 ? .kept : .generatorWasLimit("busy")
    }
    #expect(result == .generatorWasLimit(rate: 337.5, kept: 225, reason: "busy"))
    #expect(steps.rates.suffix(2) == [337.5, 337.5])
  }

  @Test func aGeneratorThatWasLateOnceIsNoLimit() throws {
    var tries: [Double: Int] = [:]
    let (result, _) = try search(from: 100) { rate, _ in
      tries[rate, default: 0] += 1
      if tries[rate] == 1 { return .generatorWasLimit("busy") }
      return rate <= 500 ? .kept : .broke("p99")
    }
    #expect(try found(result).rate <= 500)
    #expect(tries.values.allSatisfy { $0 >= 2 })
  }

  /// The first rate is too high already, for the server or for the generator: lower ones are tried.
  @Test(arguments: [KneeStepOutcome.broke("p99"), .generatorWasLimit("busy")])
  func lowerRatesThanTheFirst(above: KneeStepOutcome) throws {
    let (result, steps) = try search(from: 10_000) { rate, _ in
      if rate > 2_000 { return above }
      return rate <= 700 ? .kept : .broke("p99")
    }
    let (rate, brokeAt) = try found(result)
    #expect(rate <= 700 && brokeAt > 700 && brokeAt <= rate * 1.051)
    #expect(steps.rates.count < 25)
  }

  @Test func aGeneratorThatIsTheLimitEverywhereIsSaidToBe() throws {
    let (result, steps) = try search(from: 100) { _, _ in .generatorWasLimit("busy") }
    #expect(result == .generatorWasLimit(rate: 1, kept: nil, reason: "busy"))
    #expect(steps.rates.prefix(3) == [100, 100, 33.33])
    let (second, _) = try search(from: 90) { rate, _ in
      rate <= 20 ? .kept : .generatorWasLimit("busy")
    }
    guard case .generatorWasLimit(let rate, let kept, _) = second else {
      Issue.record("\(second)")
      return
    }
    #expect(rate > 20 && (kept ?? 0) <= 20 && (kept ?? 0) >= 10)
  }

  @Test(arguments: [0.001, 0.2, 0.999])
  func ratesBelowOneAreTriedAsGiven(from: Double) throws {
    let (result, steps) = try search(from: from) { _, _ in .broke("p99") }
    #expect(result == .none(lowest: from, reason: "p99"))
    #expect(steps.rates == [from])
  }

  @Test func aViolationEndsIt() throws {
    let (result, steps) = try search(from: 100) { rate, _ in
      rate < 200 ? .kept : .violated("OVERSOLD")
    }
    #expect(result == .violated(rate: 225, verdict: "OVERSOLD"))
    #expect(steps.rates == [100, 150, 225])
  }

  /// A server that answers by the toss of a coin is given up, or found somewhere; it never loops.
  @Test(arguments: 1...20 as ClosedRange<UInt64>)
  func noiseEnds(seed: UInt64) throws {
    var random = Random(seed: seed)
    let (_, steps) = try search(from: 1_000) { _, _ in
      random.chance(0.5) ? .kept : .broke("p99")
    }
    #expect(steps.rates.count <= 60)
    #expect(steps.rates.allSatisfy { (1...LoadProfile.rateMaximum).contains($0) })
  }

  @Test func aStepThatThrowsEndsIt() {
    var search = KneeSearch(fromRate: 5)
    #expect(throws: LoadError.self) {
      _ = try search.run { (_, _) throws(LoadError) in throw LoadError("gone") }
    }
  }
}

@Suite struct KneeReportTests {
  /// A run of 10,000 answers with a p99.
  private func run(p99: Double, _ change: (inout Report) -> Void = { _ in }) -> Report {
    var report = Report()
    report.result = .good
    report.measuredSeconds = 5
    report.requestsPerSecond = 2_000
    report.latencyMicroseconds["all"] = LatencySummary(count: 10_000, p50: p99 / 4, p99: p99)
    report.outcomes = [Outcome.reserved.name: 10_000]
    change(&report)
    return report
  }

  private func outcome(_ limits: [String], _ report: Report) throws -> KneeStepOutcome {
    let limits = try limits.map { try Threshold($0) }
    var knee = KneeReport(limits: limits)
    return try knee.add(report, rate: 2_000, isConfirmation: false, limits: limits)
  }

  @Test func whatBreaksAStep() throws {
    let slow = "p99<5ms broke: 7.20 ms"
    #expect(try outcome(["p99<5ms"], run(p99: 4_900)) == .kept)
    #expect(try outcome(["p99<5ms"], run(p99: 7_200)) == .broke(slow))
    #expect(try outcome(["p50<5ms", "p99<5ms"], run(p99: 7_200)) == .broke(slow))
    let unsent = try outcome(["p99<5ms"], run(p99: 100) { $0.unsent = 3 })
    #expect(
      unsent
        == .broke("the schedule was not carried: 3 calls due and never sent, every stream was busy")
    )
    let failing = run(p99: 100) { $0.outcomes[Outcome.tooBusy.name] = 50 }
    let failed = try outcome(["p99<5ms"], failing)
    #expect(failed == .broke("errors: 0.5 % of the calls failed"))
    #expect(try outcome(["errors<1%"], failing) == .kept)
    #expect(try outcome(["errors<0.1%"], failing) == .broke("errors<0.1% broke: 0.5 %"))
  }

  /// A step of 5 s at 2,000 per second, within all its limits.
  @Test(arguments: [
    (1_999.0, "constant", true), (1_950, "constant", true), (1_930, "constant", false),
    (1_900, "poisson", true), (1_850, "poisson", false), (400, "poisson", false),
  ])
  func aRateIsKeptWhereItWasCarried(perSecond: Double, arrivals: String, isKept: Bool) throws {
    let report = run(p99: 100) {
      $0.requestsPerSecond = perSecond
      $0.configuration.arrivals = arrivals
    }
    switch try outcome(["p99<5ms"], report) {
    case .kept: #expect(isKept)
    case .broke(let reason):
      #expect(!isKept)
      #expect(reason.hasPrefix("the schedule was not carried: "))
    case let other: Issue.record("\(other)")
    }
  }

  @Test func aBrokenStepOfABusyGeneratorSaysNothing() throws {
    let report = run(p99: 7_200) {
      $0.limitedBy = .generator
      $0.limitReason = "a thread was busy 97 % of the time"
    }
    #expect(
      try outcome(["p99<5ms"], report)
        == .generatorWasLimit("p99<5ms broke: 7.20 ms (a thread was busy 97 % of the time)"))
    // What it carried, it carried.
    #expect(try outcome(["p99<10ms"], report) == .kept)
  }

  @Test func whatSaysNothingThrows() throws {
    let noVerdict = run(p99: 1) {
      $0.verdict = Verdict(.unknown, reason: "gone")
    }
    #expect(throws: LoadError.self) { _ = try outcome(["p99<5ms"], noVerdict) }
    #expect(throws: LoadError.self) {
      _ = try outcome(["p99<5ms"], run(p99: 1) { $0.isPartial = true })
    }
    let error = #expect(throws: LoadError.self) { _ = try outcome(["conflicts<5%"], run(p99: 1)) }
    #expect(error?.description == "conflicts<5%: not measured")
  }

  @Test func aViolationComesBeforeAllElse() throws {
    let report = run(p99: 7_200) {
      $0.result = .violated
      $0.verdict.violations = ["decided twice": 1]
    }
    #expect(try outcome(["p99<5ms"], report) == .violated("VERDICT: VIOLATED: decided twice (1)"))
  }

  private static let conclusions: [(result: KneeResult, text: String)] = [
    (
      .found(rate: 41_770, brokeAt: 42_840, reason: "p99<5ms broke: 7.20 ms"),
      "41,770/s keeps p99<5ms, rate>1/s; at 42,840/s p99<5ms broke: 7.20 ms"
    ),
    (
      .unlimited(upTo: 1_000),
      "no limit found: p99<5ms, rate>1/s held up to 1,000/s, the highest tried"
    ),
    (
      .none(lowest: 1, reason: "errors: 100.0 % of the calls failed"),
      "no rate keeps p99<5ms, rate>1/s: even at 1.0/s errors: 100.0 % of the calls failed; lower "
        + "rates need longer steps (--step-seconds)"
    ),
    (
      .generatorWasLimit(rate: 900, kept: 600, reason: "it ran late"),
      "no server limit found: the generator was the limit at 900/s: it ran late; the limits held up "
        + "to 600/s, and the server may do more"
    ),
    (
      .violated(rate: 10, verdict: "VERDICT: VIOLATED"),
      "an invariant is violated at 10.0/s: VERDICT: VIOLATED"
    ),
  ]

  @Test(arguments: conclusions.indices)
  func conclusionsInWords(index: Int) throws {
    var report = KneeReport(limits: [try Threshold("p99<5ms"), try Threshold("rate>1/s")])
    report.conclude(Self.conclusions[index].result)
    #expect(report.conclusion == Self.conclusions[index].text)
    #expect(report.isFound == (report.ratePerSecond != nil))
  }

  @Test func aLimitThatMayNotBeTheServersIsSaidToBe() throws {
    let limits = [try Threshold("p99<5ms")]
    var report = KneeReport(limits: limits)
    let broken = run(p99: 7_200) {
      $0.limitedBy = .unknown
      $0.limitReason = "all 2 processors were busy"
    }
    _ = try report.add(broken, rate: 2_000, isConfirmation: false, limits: limits)
    report.conclude(.found(rate: 1_900, brokeAt: 2_000, reason: "p99<5ms broke: 7.20 ms"))
    #expect(
      report.conclusion
        == "1,900/s keeps p99<5ms; at 2,000/s p99<5ms broke: 7.20 ms (not surely the server's limit: "
        + "all 2 processors were busy)")
  }

  /// Threads of the generator, processors, how busy a thread was.
  @Test(arguments: [
    (1, 4, 0.97, "more threads: --threads 2"), (3, 4, 0.97, "more threads: --threads 4"),
    (4, 4, 0.97, "all 4 processors have a thread"), (1, 1, 0.97, "all 1 processor have a thread"),
    (1, 4, 0.3, "ran late without being busy"),
  ])
  func whereTheGeneratorWasTheLimitItSaysWhatToChange(
    threads: Int, processors: Int, busy: Double, words: String
  ) throws {
    let limits = [try Threshold("p99<5ms")]
    var report = KneeReport(limits: limits, threads: threads, processors: processors)
    let step = run(p99: 7_200) {
      $0.limitedBy = .generator
      $0.generatorBusyShare = busy
    }
    _ = try report.add(step, rate: 900, isConfirmation: false, limits: limits)
    report.conclude(.generatorWasLimit(rate: 900, kept: nil, reason: "it ran late"))
    #expect(report.advice?.contains(words) == true, "\(report.advice ?? "")")
    #expect(report.text.contains(words))
  }

  @Test func theTableIsInOrderOfRates() throws {
    let limits = [try Threshold("p99<5ms")]
    var report = KneeReport(limits: limits)
    for (rate, p99) in [(1_000.0, 900.0), (2_000, 7_200), (1_414, 2_000), (1_414, 2_100)] {
      _ = try report.add(
        run(p99: p99), rate: rate, isConfirmation: report.steps.count == 3, limits: limits)
    }
    let lines = report.text.split(separator: "\n").suffix(5)
    #expect(
      lines.map { $0.split(separator: " ").first } == [
        "rate", "1,000/s", "1,414/s", "1,414/s", "2,000/s",
      ])
    #expect(lines.last?.hasSuffix("p99<5ms broke: 7.20 ms") == true)
    #expect(lines.dropFirst(3).first?.hasSuffix("kept again") == true)
  }
}
