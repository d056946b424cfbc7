// One operation by all its attempts: what was decided, when that can have been, and what of it nobody
// knows.

/// What is known of a decision.
enum Decision: UInt8, BitwiseCopyable, Sendable {
  case unknown, accepted, refused
}

/// The attempts of one call: the first send and its repetitions share one decision.
struct CallSummary: BitwiseCopyable {
  /// When the first of them was sent, and when the first decision arrived; `Int64.max` for never.
  /// What the server did lies between the two.
  var sentNanoseconds = Int64.max
  var answeredNanoseconds = Int64.max
  var decision = Decision.unknown
  /// Of the refusal that came first.
  var reason = RefusalReason.unnamed
  var sent = 0
  /// Answers that say what was decided, or found.
  var decided = 0
  /// Decisions that say they are the first, and decisions that say they repeat it.
  var first = 0
  var replayed = 0
  var refused = 0
  /// Attempts whose effect nobody knows: cut off, or never answered.
  var unknown = 0

  /// Whether the server may have acted, or may still act, without our knowing.
  var mayHaveActed: Bool { decision == .unknown && unknown > 0 }
  var isAccepted: Bool { decision == .accepted }

  init() {}

  /// The attempts of `method` of an operation.
  init(_ ledger: borrowing Ledger, _ operation: Int, _ method: Method) {
    var next = ledger.latestAttempt(of: operation)
    while let index = next {
      let attempt = ledger.attempt(index)
      if attempt.method == method { add(attempt) }
      next = ledger.attempt(before: attempt)
    }
  }

  fileprivate mutating func add(_ attempt: Attempt) {
    sent += 1
    sentNanoseconds = min(sentNanoseconds, attempt.sentNanoseconds)
    if attempt.isUnknown { unknown += 1 }
    if attempt.isDecision {
      if attempt.isReplayed { replayed += 1 } else { first += 1 }
    }
    if attempt.isRefused, attempt.isDecided { refused += 1 }
    if attempt.isDecided { decided += 1 }
    if attempt.isDecided, attempt.answeredNanoseconds < answeredNanoseconds {
      answeredNanoseconds = attempt.answeredNanoseconds
      decision = attempt.isRefused ? .refused : .accepted
      reason = attempt.reason
    }
  }
}

/// A reserve and what was done with its reservation.
struct ReserveSummary {
  var reserve = CallSummary()
  var confirm = CallSummary()
  var release = CallSummary()
  var extend = CallSummary()
  var replace = CallSummary()
  /// Of the refusal of Replace that came first.
  var replaceRefusal: Refusal?
  /// expires_at of the acceptance that came first.
  var expiresNanoseconds: Int64 = 0
  /// The latest expires_at that Reserve or Extend was answered.
  var latestExpiresNanoseconds: Int64 = 0
  /// When the last acceptance of an Extend arrived.
  var extendAnsweredNanoseconds = Int64.min
  /// Of the refusal that came first.
  var refusal: Refusal?
  let timeToLiveNanoseconds: Int64

  init(_ ledger: borrowing Ledger, _ operation: Int) {
    timeToLiveNanoseconds = ledger[operation].timeToLiveNanoseconds
    var next = ledger.latestAttempt(of: operation)
    while let index = next {
      let attempt = ledger.attempt(index)
      add(attempt, ledger)
      next = ledger.attempt(before: attempt)
    }
    latestExpiresNanoseconds = max(latestExpiresNanoseconds, expiresNanoseconds)
  }

  private mutating func add(_ attempt: Attempt, _ ledger: borrowing Ledger) {
    switch attempt.method {
    case .reserve:
      let before = reserve.answeredNanoseconds
      reserve.add(attempt)
      guard reserve.answeredNanoseconds < before else { break }
      if attempt.isAccepted { expiresNanoseconds = attempt.expiresNanoseconds }
      refusal = nil
      if case .refused(let refusal) = ledger.answer(to: attempt) { self.refusal = refusal }
    case .replace:
      let before = replace.answeredNanoseconds
      replace.add(attempt)
      guard replace.answeredNanoseconds < before else { break }
      replaceRefusal = nil
      if case .refused(let refusal) = ledger.answer(to: attempt) { replaceRefusal = refusal }
    case .confirm: confirm.add(attempt)
    case .release: release.add(attempt)
    case .extend:
      extend.add(attempt)
      if attempt.isAccepted {
        latestExpiresNanoseconds = max(latestExpiresNanoseconds, attempt.expiresNanoseconds)
        extendAnsweredNanoseconds = max(extendAnsweredNanoseconds, attempt.answeredNanoseconds)
      }
    default: break
    }
  }

  /// Whether Confirm or Release found that the hold was over.
  var foundExpiredNanoseconds: Int64? {
    for call in [confirm, release, extend, replace]
    where call.decision == .refused && call.reason == .reservationExpired {
      return call.answeredNanoseconds
    }
    return nil
  }

  /// Whether an Extend or Replace was refused for what had happened, or can have happened, by its answer.
  func justifiesRefusal(of extend: Attempt, _ earliestExpiry: Int64) -> Bool {
    switch extend.reason {
    case .reservationExpired: extend.answeredNanoseconds >= earliestExpiry
    case .reservationConfirmed: extend.answeredNanoseconds >= confirm.sentNanoseconds
    case .reservationReleased: extend.answeredNanoseconds >= release.sentNanoseconds
    default: false
    }
  }

  /// By the server's clock, when the hold falls due unless it is ended: between the two. Every Extend
  /// of unknown outcome may have added a time to live.
  var expiry: (earliest: Int64, latest: Int64) {
    let (more, isTooLong) = timeToLiveNanoseconds.multipliedReportingOverflow(
      by: Int64(extend.unknown))
    let (latest, isTooLate) = latestExpiresNanoseconds.addingReportingOverflow(more)
    return (latestExpiresNanoseconds, isTooLong || isTooLate ? .max : latest)
  }
}

/// The offset of the server's clock from the generator's, in nanoseconds, within bounds.
///
/// A server may shorten a hold, to its longest life for one, and never makes it longer: expires_at less
/// the time to live that was asked for is the time of the decision by the server's clock, or before it.
/// So every acceptance bounds the offset from below, and from above only where nothing was shortened.
/// That is not known; but the generator's own wall clock is, which the server's seldom trails, and on
/// one machine is the same. The upper bound is the higher of the two.
struct ClockOffset {
  private(set) var low = Int64.min / 4
  /// By the acceptances, if no hold was shortened.
  private var highUnlessShortened = Int64.max / 4
  private let generatorsOwn: Int64
  /// The reserves that `low` and `highUnlessShortened` are due to.
  private var lowIsOf: OperationReference?
  private var highIsOf: OperationReference?
  /// The most that was left of a hold when its acceptance arrived, as the server's clock stood to ours.
  private var leftMost = Int64.min / 4
  /// What a server may round expires_at to, and what the clocks may drift apart during the run.
  private(set) var slackNanoseconds: Int64 = 5_000_000
  /// 200 millionths: twice what a poor quartz is off by.
  static let driftShare: Int64 = 5_000

  /// - Parameters:
  ///   - lengthNanoseconds: of the run.
  ///   - generatorsOwn: the generator's wall clock less its monotonic clock; nil if not known.
  init(lengthNanoseconds: Int64, generatorsOwn: Int64? = nil) {
    slackNanoseconds += max(0, lengthNanoseconds) / ClockOffset.driftShare
    self.generatorsOwn = generatorsOwn ?? .min / 4
  }

  var high: Int64 { max(highUnlessShortened, generatorsOwn) }

  /// Whether `high` is due to the generator's own clock.
  var isBoundByOwn: Bool { generatorsOwn > highUnlessShortened }

  /// The reserves that `low` and `high` are due to.
  var extremes: [OperationReference] {
    let high = isBoundByOwn || highIsOf == lowIsOf ? nil : highIsOf
    return [high, lowIsOf].compactMap { $0 }
  }

  /// A hold was accepted between `sent` and `answered`, for `timeToLive` or less, until `expires` by
  /// the server's clock.
  mutating func add(
    expires: Int64, timeToLive: Int64, sent: Int64, answered: Int64, of reserve: OperationReference
  ) {
    let decided = expires.minus(timeToLive)
    add(decidedAtLeast: decided, answered: answered, of: reserve)
    if decided.minus(sent) < highUnlessShortened {
      highUnlessShortened = decided.minus(sent)
      highIsOf = reserve
    }
    leftMost = max(leftMost, expires.minus(answered))
  }

  /// A decision before `answered` had the time `decided`, or a later one.
  mutating func add(
    decidedAtLeast decided: Int64, answered: Int64, of reserve: OperationReference
  ) {
    if decided.minus(answered) > low {
      low = decided.minus(answered)
      lowIsOf = reserve
    }
  }

  /// How long a hold lives at least for which `timeToLive` was asked. The longest that any other was
  /// given, the server would have given to this one too.
  func lifeAtLeast(timeToLive: Int64) -> Int64 {
    let longest = leftMost.minus(high)
    return max(0, min(timeToLive, longest).minus(slackNanoseconds))
  }

  /// By how much no one offset explains all that was added; 0 if one does.
  var gapNanoseconds: Int64 {
    let gap = low.minus(high)
    return gap > 2 * slackNanoseconds ? gap : 0
  }

  /// The interval of the generator's clock in which the server's clock passed `time`.
  func local(earliest: Int64, latest: Int64) -> (earliest: Int64, latest: Int64) {
    let start = earliest.minus(max(low, high))
    let end = latest.minus(min(low, high))
    return (start.minus(slackNanoseconds), end.plus(slackNanoseconds))
  }
}
