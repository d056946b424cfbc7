/// How far a loop's shutdown is: clients are told first, and only then refused, so that a call that
/// was on its way when it began is still served (RFC 9113 section 6.8).
struct ShutdownProgress {
  enum Step: Equatable {
    case wait
    /// Clients have had time to see the notice: streams that come now are refused.
    case refuseNewStreams
    /// The time is over: whatever is open is refused and closed.
    case cutOff
  }

  /// A round trip's worth of time between the notice and the refusal.
  private static let noticeNanoseconds: Int64 = 100_000_000

  private var begunNanoseconds: Int64?
  private(set) var hasRefused = false
  private(set) var isComplete = false

  var hasBegun: Bool { begunNanoseconds != nil }

  mutating func begin(nowNanoseconds: Int64) { begunNanoseconds = nowNanoseconds }

  /// What to do now. Complete once no connection is left, or one step after the cut-off.
  mutating func step(
    nowNanoseconds: Int64, limitNanoseconds: Int64, connectionCount: Int
  ) -> Step {
    guard let begun = begunNanoseconds else { return .wait }
    if connectionCount == 0 {
      isComplete = true
      return .wait
    }
    if nowNanoseconds - begun >= limitNanoseconds {
      isComplete = true
      return .cutOff
    }
    if !hasRefused && nowNanoseconds - begun >= Self.noticeNanoseconds {
      hasRefused = true
      return .refuseNewStreams
    }
    return .wait
  }
}
