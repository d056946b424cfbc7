// When a worker does what: its phases, and in an open loop the instants at which calls are due. No clock
// of its own: whoever asks says what time it is.

struct Schedule {
  enum Phase { case warmUp, measuring, draining }

  enum Change {
    case measuring
    /// The holds of a storm are made: `beginProbing`.
    case probing
    /// Nothing new is begun from here on.
    case draining
  }

  private(set) var phase = Phase.warmUp
  private(set) var measureFrom: Int64 = 0
  private var measuredNanoseconds: Int64?
  private(set) var measureTo = Int64.max
  /// When the holds of an expiry storm are due.
  private(set) var stormNanoseconds: Int64?
  /// Open loop: two cursors in one schedule. `seen` is before the first tick that is not due yet,
  /// `pacer` before the first that was not sent.
  private var pacer: Pacer?
  private var seen: Pacer?
  /// Calls that this worker makes in all; without --operations there is no such bound.
  private var attemptsMaximum: Int
  /// Operations from this number on are probes: single reserves that are released at once, until the
  /// storm is over.
  private var firstProbe = Int.max
  private let worker: Int
  private let workers: Int

  /// What goes on while the holds of a storm fall due, over all workers, and until how long after.
  private static let probesPerSecond = 1_000.0
  static let probeAfterNanoseconds: Int64 = 3_000_000_000

  init(_ options: RunOptions, worker: Int) {
    self.worker = worker
    workers = options.workers
    attemptsMaximum = options.operations.map { options.share(of: $0, worker: worker) } ?? .max
  }

  /// - Parameters:
  ///   - start: when the first call is due.
  ///   - measureFrom: when the measured part begins.
  ///   - seed: of the draws of an open loop's schedule.
  mutating func start(
    _ options: RunOptions, at start: Int64, measureFrom: Int64, seed: @autoclosure () -> UInt64
  ) {
    measuredNanoseconds = options.measuredSeconds.map { Int64($0 * 1e9) }
    if options.warmsUpUntilSteady {
      self.measureFrom = .max
    } else {
      learn(measureFrom: measureFrom)
    }
    stormNanoseconds = options.workload.dueTogetherNanoseconds.map { start + $0 }
    guard let profile = options.profile else { return }
    pace(
      options.warmsUpUntilSteady ? profile : profile.warmedUp(seconds: options.warmUpSeconds),
      options.arrivals, from: start, seed: seed())
  }

  /// The measured part begins then.
  mutating func learn(measureFrom: Int64) {
    self.measureFrom = measureFrom
    if let measuredNanoseconds { measureTo = measureFrom + measuredNanoseconds }
  }

  /// The warm-up lasts until somebody says when it ends.
  var awaitsMeasuring: Bool { phase == .warmUp && measureFrom == .max }

  private mutating func pace(
    _ profile: LoadProfile, _ arrivals: Arrivals, from start: Int64, seed: UInt64
  ) {
    pacer = Pacer(
      profile: profile, arrivals: arrivals, startNanoseconds: start, worker: worker,
      workers: workers, seed: seed)
    seen = pacer
  }

  // MARK: Phases

  var isDraining: Bool { phase == .draining }
  var isProbing: Bool { firstProbe < .max }

  func isProbe(_ operation: Int) -> Bool { operation >= firstProbe }

  /// The next change of phase that has come by `now`, if one has.
  ///
  /// - Parameters:
  ///   - attempts: sends so far.
  ///   - isEnding: the run is to end now.
  mutating func advance(_ now: Int64, attempts: Int, isEnding: Bool) -> Change? {
    if phase == .warmUp, now >= measureFrom {
      phase = .measuring
      return .measuring
    }
    guard phase != .draining else { return nil }
    if isEnding {
      measureTo = min(measureTo, now)
    } else if now < measureTo, attempts >= attemptsMaximum, stormNanoseconds != nil, !isProbing {
      return .probing
    }
    guard now >= measureTo || attempts >= attemptsMaximum else { return nil }
    phase = .draining
    return .draining
  }

  /// The holds of the storm are made: from here on few and steady calls, on a schedule, show what
  /// the storm does to others.
  ///
  /// - Parameters:
  ///   - firstProbe: the number of the next operation.
  ///   - seed: of the draws of their schedule.
  mutating func beginProbing(_ now: Int64, firstProbe: Int, seed: UInt64) {
    self.firstProbe = firstProbe
    attemptsMaximum = .max
    // Holds that were opened late live for a second.
    measureTo =
      max(stormNanoseconds ?? now, now + 1_000_000_000) + Schedule.probeAfterNanoseconds
    pace(
      LoadProfile(ratePerSecond: Schedule.probesPerSecond), .constant, from: now, seed: seed)
  }

  /// Nothing is due after `end`.
  mutating func end(at end: Int64) {
    measureTo = min(measureTo, end)
    phase = .draining
  }

  /// Whether a new operation may be begun.
  func opensOperations(_ now: Int64, attempts: Int) -> Bool {
    phase != .draining && now < measureTo && attempts < attemptsMaximum
  }

  // MARK: Ticks

  var isOpenLoop: Bool { pacer != nil }
  var hasSentAllSeen: Bool { pacer?.count == seen?.count }

  /// The next tick that is due and was not looked at before.
  mutating func look(_ now: Int64) -> Int64? {
    guard let tick = seen?.scheduledNanoseconds, tick <= min(now, measureTo - 1) else { return nil }
    seen?.advance()
    return tick
  }

  /// The first tick that was looked at and not sent.
  var nextUnsent: Int64? { hasSentAllSeen ? nil : pacer?.scheduledNanoseconds }

  /// Whether there is one behind `nextUnsent`.
  var hasAnotherUnsent: Bool {
    guard let pacer, let seen else { return false }
    return pacer.count + 1 < seen.count
  }

  /// `nextUnsent` is sent.
  mutating func noteSent() { pacer?.advance() }

  /// Takes out the next tick that was due before the end of the measured part, looked at or not.
  mutating func popUnsent() -> Int64? {
    guard let tick = pacer?.scheduledNanoseconds, tick < measureTo else { return nil }
    pacer?.advance()
    return tick
  }

  /// An open loop measures the calls that were due in the measured part; a closed loop the answers that
  /// come in it, and what was begun in it and never answered.
  func wasDueInMeasuredPart(_ since: Int64) -> Bool { since >= measureFrom && since < measureTo }

  /// When something changes by itself.
  var nextNanoseconds: Int64 {
    if phase == .draining { return .max }
    var next = phase == .warmUp ? min(measureFrom, measureTo) : measureTo
    // Ticks that wait for a free stream are sent when an answer comes, not at a time.
    if let pacer, hasSentAllSeen { next = min(next, pacer.scheduledNanoseconds) }
    return next
  }
}
