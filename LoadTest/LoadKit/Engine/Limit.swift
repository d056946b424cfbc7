// What kept a run from more requests per second. A figure that the generator was the limit of says
// nothing about the server, and is never told as if it did.
internal import LoadReport

/// What that is judged by, all of it of the measured part.
struct LimitEvidence {
  var isOpenLoop = false
  /// CPU time over wall time of the busiest thread.
  var busiestThread = 0.0
  /// Open loop.
  var lagMicroseconds = 0.0
  var latencyMicroseconds = 0.0
  var unsent = 0
  /// Answers over what the schedule asked for.
  var carriedShare = 1.0
  /// Closed loop: streams pause between operations, or wait with a steady load for a storm of expiries.
  var thinks = false
  var processors = 1
  /// Of all processors together, 0 to 1, if the system says.
  var machineBusy: Double?
  /// Processors that generator and server kept busy: 1.5 is one and a half. The server's only where
  /// its process is known to be on this machine.
  var generatorProcessors = 0.0
  var serverProcessors: Double?

  /// From here on a thread, or the machine, counts as busy all the time.
  static let threadFull = 0.9
  static let threadFree = 0.7
  static let machineFull = 0.95
  /// A schedule is carried if so much of it was answered while it lasted.
  static let carriedEnough = 0.97
  static let lagMicrosecondsMaximum = 1_000.0
  static let lagShareMaximum = 0.1
  /// A server that takes so many times the generator's CPU has the machine for itself.
  static let serverPredominates = 4.0

  /// What share of the calls that a schedule asked for was answered while it lasted.
  ///
  /// - Parameters:
  ///   - scheduled: how many it asks for on average.
  ///   - isPoisson: by chance a Poisson process has fewer; four standard deviations below are no chance.
  ///     An even schedule has one fewer at most, by where it is cut.
  static func carriedShare(answered: Double, scheduled: Double, isPoisson: Bool) -> Double {
    let chance = isPoisson ? 4 * scheduled.squareRoot() : 1
    return answered / max(1, scheduled - chance)
  }

  /// The limit, and why it is that in one sentence.
  func judge() -> (limit: Report.LimitedBy, reason: String) {
    let verdict = judgeAlone()
    guard let machineBusy, machineBusy >= LimitEvidence.machineFull else { return verdict }
    let all =
      processors == 1 ? "the one processor was busy" : "all \(processors) processors were busy"
    let generator = Text.decimal(generatorProcessors, 2)
    switch (verdict.limit, serverProcessors) {
    case (.load, _):
      return (.load, "\(verdict.reason), though \(all)")
    case (.generator, _):
      return (.generator, "\(verdict.reason); \(all)")
    case (_, .some(let server)):
      let shares = "\(all): \(Text.decimal(server, 2)) by the server, \(generator) by the generator"
      if server >= LimitEvidence.serverPredominates * generatorProcessors,
        server + generatorProcessors >= LimitEvidence.machineFull * Double(processors)
      {
        return (verdict.limit, "\(verdict.reason); \(shares)")
      }
      let others = Double(processors) * machineBusy - server - generatorProcessors
      return (
        .unknown,
        "\(shares), \(Text.decimal(max(0, others), 2)) by others: they shared the cores, and "
          + "neither was free to do more"
      )
    case (_, .none):
      return (
        .unknown,
        "\(all), \(generator) of them by the generator, and nobody says whose the rest were "
          + "(--server-pid)"
      )
    }
  }

  private func judgeAlone() -> (limit: Report.LimitedBy, reason: String) {
    let busy = "the generator's busiest thread was busy \(Text.percent(busiestThread)) of the time"
    if busiestThread >= LimitEvidence.threadFull {
      return (.generator, "\(busy); use more --threads")
    }
    if isOpenLoop { return judgeOpenLoop(busy) }
    if thinks {
      return (.load, "the pauses of the workload (--think-time, --due-together) set the pace")
    }
    if busiestThread < LimitEvidence.threadFree {
      return (.server, "every stream waited for the server; \(busy)")
    }
    return (.unknown, "\(busy): too much to call this the server's limit")
  }

  private func judgeOpenLoop(_ busy: String) -> (limit: Report.LimitedBy, reason: String) {
    let lagMost = max(
      LimitEvidence.lagMicrosecondsMaximum, LimitEvidence.lagShareMaximum * latencyMicroseconds)
    let late = "it ran late: schedule lag p99 \(Text.duration(microseconds: lagMicroseconds))"
    let isLate = lagMicroseconds > lagMost
    if unsent == 0, carriedShare >= LimitEvidence.carriedEnough {
      return isLate
        ? (.generator, "\(late); \(busy)") : (.load, "the schedule was carried; \(busy)")
    }
    let carried = "\(Text.percent(min(1, carriedShare))) of the schedule was answered in time"
    if isLate { return (.unknown, "\(carried), and the generator had a part in it: \(late)") }
    if busiestThread < LimitEvidence.threadFree {
      return (.server, "\(carried): every stream waited for the server; \(busy)")
    }
    return (.unknown, "\(carried); \(busy): too much to call this the server's limit")
  }
}
