// Where is the knee: the highest rate that keeps the limits.
//
// The search climbs by a factor until a step breaks a limit, or comes down until a step keeps all, then
// halves the gap (geometrically) until kept and broken rates are close enough, then runs the best kept
// rate once more: a rate that holds only sometimes is above the knee. A step that the generator was the
// limit of says nothing of the server and may have been bad luck, so it is made once more. If it is late
// again and a lower rate was kept, that is the answer; if none was, lower rates are tried.
//
// The search knows nothing of servers: a closure runs a step.

internal import Glibc

/// What one step at a constant rate showed.
package enum KneeStepOutcome: Equatable, Sendable {
  case kept
  /// What broke, in words.
  case broke(String)
  /// It broke, but the generator was the limit, for a reason in words: nothing is learnt of the server.
  case generatorWasLimit(String)
  /// An invariant is violated, with the run's verdict.
  case violated(String)
}

/// How the search ended.
package enum KneeResult: Equatable, Sendable {
  /// The highest rate that kept the limits twice, and what broke just beyond it.
  case found(rate: Double, brokeAt: Double, reason: String)
  /// The limits held as far as the search goes.
  case unlimited(upTo: Double)
  /// Even the lowest rate that was tried broke something.
  case none(lowest: Double, reason: String)
  /// - kept: the highest rate that kept the limits, if one did.
  case generatorWasLimit(rate: Double, kept: Double?, reason: String)
  case violated(rate: Double, verdict: String)
  /// The same rates kept the limits and broke them until the steps ran out.
  case unsteady(between: Double, and: Double, reason: String)
}

/// The search; see above.
package struct KneeSearch {
  /// Where it begins, calls per second.
  package var fromRate: Double
  /// Kept and broken rates end up within this of each other, as a share: 0.005 to 1.
  package var resolution = 0.05
  /// The climb's factor, above 1.
  package var growth = 1.5
  /// Where it comes down, the factor.
  package var descent = 3.0
  /// It does not go below.
  package var lowestRate: Double
  package var highestRate = LoadProfile.rateMaximum
  package var stepsMaximum = 60

  private var steps = 0
  /// Rates that kept the limits, ascending.
  private var kept: [Double] = []
  /// Where the generator was the limit in the last step.
  private var lateRate: Double?
  /// The lowest rate that broke something. Where the generator was the limit of it, a rate above is no
  /// server's limit.
  private var broken: (rate: Double, reason: String, isGenerators: Bool)?

  /// - Parameters:
  ///   - fromRate: calls per second, above 0.
  ///   - lowestRate: below it a step says nothing; where `fromRate` is lower still, that counts.
  package init(fromRate: Double, lowestRate: Double = 1) {
    self.fromRate = fromRate
    self.lowestRate = max(LoadProfile.rateMinimum, min(lowestRate, fromRate))
  }

  /// Runs steps until the knee is found or it is clear that it will not be.
  ///
  /// - Parameter step: runs one step at a rate. The second argument says that the rate has kept the
  ///   limits before.
  package mutating func run(
    _ step: (Double, Bool) throws(LoadError) -> KneeStepOutcome
  ) throws(LoadError) -> KneeResult {
    while let (rate, isConfirmation) = next() {
      steps += 1
      let outcome = try step(rate, isConfirmation)
      let wasLate = lateRate == rate
      lateRate = nil
      switch outcome {
      case .kept:
        if isConfirmation, let broken {
          return broken.isGenerators
            ? .generatorWasLimit(rate: broken.rate, kept: rate, reason: broken.reason)
            : .found(rate: rate, brokeAt: broken.rate, reason: broken.reason)
        }
        kept.append(rate)
        if broken == nil, rate >= highestRate { return .unlimited(upTo: rate) }
      case .broke(let reason):
        broken = (rate, reason, false)
        if isConfirmation { kept.removeLast() }
        if kept.isEmpty, rate <= lowestRate { return .none(lowest: rate, reason: reason) }
      case .generatorWasLimit(let reason):
        guard wasLate else {
          lateRate = rate
          continue
        }
        if !kept.isEmpty || rate <= lowestRate {
          return .generatorWasLimit(rate: rate, kept: kept.last, reason: reason)
        }
        broken = (rate, reason, true)
      case .violated(let verdict): return .violated(rate: rate, verdict: verdict)
      }
    }
    let reason = broken?.reason ?? ""
    guard let low = kept.last else {
      if let broken, broken.isGenerators {
        return .generatorWasLimit(rate: broken.rate, kept: nil, reason: reason)
      }
      return .none(lowest: broken?.rate ?? fromRate, reason: reason)
    }
    return .unsteady(between: low, and: broken?.rate ?? low, reason: reason)
  }

  /// The next rate to try, and whether it was kept before; nil when the steps have run out.
  private func next() -> (rate: Double, isConfirmation: Bool)? {
    guard steps < stepsMaximum else { return nil }
    switch (kept.last, broken?.rate) {
    case (nil, nil): return (within(fromRate), false)
    case (let low?, nil): return (within(low * growth), false)
    case (nil, let high?): return (within(high / descent), false)
    case (let low?, let high?):
      if high <= low * (1 + resolution) { return (low, true) }
      return (within((low * high).squareRoot()), false)
    }
  }

  /// To four digits, which is what a person can compare, and within the bounds.
  private func within(_ rate: Double) -> Double {
    let scale = pow(10, 3 - floor(log10(max(rate, lowestRate))))
    return min(highestRate, max(lowestRate, (rate * scale).rounded() / scale))
  }
}
