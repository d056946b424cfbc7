// The coordinator's side of a run that agents make: they get one schedule and start together, tell what
// they count slice by slice, and hand over their ledgers for one check.
internal import LoadHistory
internal import LoadReport
internal import Posix
internal import Synchronization

/// An agent's clock by ours: ours less its is between the two.
struct ClockBounds: Equatable {
  var least: Int64
  var most: Int64

  /// What one question shows.
  ///
  /// - Parameters:
  ///   - asked, answered: by our clock.
  ///   - said: what it answered, by its own.
  init(asked: Int64, said: Int64, answered: Int64) {
    least = asked - said
    most = answered - said
  }

  /// Of one instant: both hold.
  mutating func narrow(_ other: ClockBounds) {
    // Where they do not meet the clocks ran apart meanwhile: then nothing less than both is sure.
    if other.least > most || other.most < least { return widen(other) }
    least = max(least, other.least)
    most = min(most, other.most)
  }

  /// From one instant to another: what lies between them, either holds.
  mutating func widen(_ other: ClockBounds) {
    least = min(least, other.least)
    most = max(most, other.most)
  }

  var middle: Int64 { least + (most - least) / 2 }
}

/// All agents of a run. Confined to the main thread.
final class Fleet {
  private let options: RunOptions
  private let control: RunControl
  private var members: [Member] = []
  private var isStopped = false
  private var startNanoseconds: Int64 = 0
  private var slices: IntervalGrid

  /// One agent.
  private final class Member {
    let name: String
    let index: Int
    let link: AgentLink
    var clock: ClockBounds
    var ready = AgentReady()
    /// When the run starts, by its clock.
    var startNanoseconds: Int64 = 0
    var heardNanoseconds: Int64 = 0
    var progress = AgentProgress()
    var doneBelow = Int.min
    var statistics: AgentStatistics?
    var reader: BooksReader?
    var books: Books?
    var loss: String?

    init(_ name: String, _ index: Int, _ link: AgentLink, _ clock: ClockBounds) {
      self.name = name
      self.index = index
      self.link = link
      self.clock = clock
    }

    var isDone: Bool {
      switch books {
      case .some: true
      case .none: loss != nil
      }
    }

    var state: String {
      if loss != nil { return "LOST" }
      if isDone { return "done" }
      return statistics != nil ? "reporting" : "running"
    }
  }

  /// An agent that says nothing for so long is lost.
  private static let silenceNanoseconds: Int64 = 10_000_000_000
  private static let readyMilliseconds: Int64 = 15_000
  /// Questions for the time, one after the other: the best of them counts.
  private static let questions = 32
  /// The start lies so far ahead that every agent has heard of it.
  static let startDelayNanoseconds: Int64 = 500_000_000
  /// Frames of one agent that are taken before the next one's turn.
  private static let framesTogether = 64

  /// Connects to all, and gives each its part.
  ///
  /// - Throws: in one line which of them cannot, and why. The others are let go.
  init(_ options: RunOptions, _ control: RunControl) throws(LoadError) {
    self.options = options
    self.control = control
    slices = IntervalGrid(options, startNanoseconds: 0).slices
    for (index, endpoint) in options.agents.enumerated() {
      do throws(LoadError) {
        if options.agentSecret.isEmpty, !AgentServer.isLoopback(endpoint.host) {
          throw LoadError(
            "an agent on another machine needs a secret (HOLDFAST_LOAD_SECRET or "
              + "--agent-secret-file)")
        }
        let link = try AgentLink.connect(to: endpoint)
        try link.greet(isCoordinator: true, secret: options.agentSecret)
        try link.send(.job, try AgentMessage.encode(AgentJob(options, index: index)))
        members.append(
          Member(
            endpoint.description, index, link, ClockBounds(asked: 0, said: 0, answered: 0)))
      } catch {
        throw LoadError("agent \(endpoint): \(error)")
      }
    }
    for member in members {
      do throws(LoadError) {
        member.ready = try AgentMessage.decode(
          AgentReady.self, try member.link.expect(.ready, within: Fleet.readyMilliseconds))
        member.clock = try Fleet.askTime(member.link, endsBySignal: true)
      } catch {
        stop()
        throw LoadError("agent \(member.name): \(error)")
      }
    }
  }

  var count: Int { members.count }

  private static func askTime(
    _ link: AgentLink, endsBySignal: Bool
  ) throws(LoadError) -> ClockBounds {
    var bounds: ClockBounds?
    for _ in 0..<questions {
      let asked = SystemClock.monotonicNanoseconds()
      try link.send(.clock)
      let payload = try link.expect(.clock, endsBySignal: endsBySignal)
      let answered = SystemClock.monotonicNanoseconds()
      let said = try AgentLink.number(in: AgentFrame(kind: .clock, payload: payload))
      guard (0...Int64(1) << 60).contains(said) else { throw LoadError("its clock is none") }
      let one = ClockBounds(asked: asked, said: said, answered: answered)
      if bounds == nil { bounds = one } else { bounds?.narrow(one) }
    }
    return bounds ?? ClockBounds(asked: 0, said: 0, answered: 0)
  }

  // MARK: The run

  /// - Parameter start: by our clock.
  func start(at start: Int64) {
    startNanoseconds = start
    slices = IntervalGrid(options, startNanoseconds: start).slices
    let now = SystemClock.monotonicNanoseconds()
    for member in members {
      member.startNanoseconds = start - member.clock.middle
      member.heardNanoseconds = now
      attempt(member) { () throws(LoadError) in
        try member.link.send(.start, member.startNanoseconds)
      }
    }
  }

  /// The measured part begins then, by our clock.
  func measure(from begin: Int64) {
    for member in members where !member.isDone {
      let theirs = member.startNanoseconds + (begin - startNanoseconds)
      attempt(member) { () throws(LoadError) in try member.link.send(.measure, theirs) }
    }
  }

  /// Nothing new is begun by any of them.
  func stop() {
    if isStopped { return }
    isStopped = true
    for member in members where !member.isDone && member.statistics == nil {
      attempt(member) { () throws(LoadError) in try member.link.send(.stop) }
    }
  }

  /// Takes what has come of all, and tells main.
  func poll(_ now: Int64) {
    for member in members where !member.isDone {
      attempt(member) { () throws(LoadError) in
        for _ in 0..<Fleet.framesTogether {
          guard !member.isDone, let frame = try member.link.next(within: 0) else { break }
          member.heardNanoseconds = SystemClock.monotonicNanoseconds()
          try take(frame, of: member)
        }
        if !member.isDone, now - member.heardNanoseconds > Fleet.silenceNanoseconds {
          throw LoadError(
            "it said nothing for \(Fleet.silenceNanoseconds / 1_000_000_000) s")
        }
      }
    }
    let progress = members.map(\.progress)
    control.answered.store(progress.reduce(0) { $0 + $1.answered }, ordering: .relaxed)
    control.accepted.store(progress.reduce(0) { $0 + $1.accepted }, ordering: .relaxed)
    control.refused.store(progress.reduce(0) { $0 + $1.refused }, ordering: .relaxed)
    control.failed.store(progress.reduce(0) { $0 + $1.failed }, ordering: .relaxed)
    control.finished.store(members.count { $0.isDone }, ordering: .releasing)
  }

  /// Without one of them the run is not what was asked for: the others end too.
  private func attempt(_ member: Member, _ body: () throws(LoadError) -> Void) {
    do throws(LoadError) {
      try body()
    } catch {
      guard !member.isDone else { return }
      member.loss = error.description
      member.reader = nil
      control.intervals[member.index].finish()
      control.isEnding.store(true, ordering: .relaxed)
    }
  }

  private func take(_ frame: AgentFrame, of member: Member) throws(LoadError) {
    switch frame.kind {
    case .progress:
      let progress = try AgentMessage.decode(AgentProgress.self, frame.payload)
      for count in [progress.answered, progress.accepted, progress.refused, progress.failed] {
        _ = try AgentLatencies.count(count)
      }
      member.progress = progress
    case .slice where member.statistics == nil:
      try takeSlice(try AgentMessage.decode(AgentCounts.self, frame.payload), of: member)
    case .statistics where member.statistics == nil:
      let statistics = try AgentMessage.decode(AgentStatistics.self, frame.payload)
      // What cannot be counted is not kept.
      _ = try statistics.statistics()
      member.statistics = statistics
      control.intervals[member.index].finish()
      member.clock.widen(try Fleet.askTime(member.link, endsBySignal: false))
      try askForLedger(member)
    case .ledger where member.statistics != nil:
      do throws(HistoryError) {
        try member.reader?.take(frame.payload)
      } catch {
        throw LoadError("its ledger: \(error)")
      }
    case .ledgerEnd where member.statistics != nil:
      let count = try AgentLink.number(in: frame)
      do throws(HistoryError) {
        member.books = try member.reader?.takeBooks(operations: Int(clamping: count))
      } catch {
        throw LoadError("its ledger: \(error)")
      }
      member.reader = nil
    case .refused: throw LoadError("it says: \(AgentLink.text(frame.payload))")
    default: throw LoadError("it sent what was not expected of it")
    }
  }

  private func takeSlice(_ message: AgentCounts, of member: Member) throws(LoadError) {
    let now = SystemClock.monotonicNanoseconds()
    let first = slices.number(at: startNanoseconds)
    let latest = slices.number(at: now + Fleet.silenceNanoseconds)
    var counts = try message.counts(
      start: startNanoseconds,
      numbers: max(first, member.doneBelow)...max(latest, member.doneBelow, first))
    member.doneBelow = message.number + 1
    control.intervals[member.index].exchange(&counts, next: message.number + 1)
  }

  private func askForLedger(_ member: Member) throws(LoadError) {
    let workers = member.index * options.threads..<(member.index + 1) * options.threads
    member.reader = BooksReader(
      run: options.run, skuCount: options.workload.skuCount,
      keepsCommitted: options.workload.keepsCommitted, workers: workers,
      sentFrom: member.startNanoseconds + member.clock.least,
      answeredFrom: member.startNanoseconds + member.clock.most)
    try member.link.send(.ledger)
  }

  // MARK: Afterwards

  var standings: [(name: String, state: String)] { members.map { ($0.name, $0.state) } }

  /// Hands over what all have counted.
  func takeResults(_ facts: inout RunFacts, _ books: inout Books) throws(LoadError) {
    for member in members {
      var side = Report.AgentSide()
      side.address = member.name
      side.system = agentText(member.ready.system)
      side.processors = max(0, member.ready.processors)
      side.processorModel = agentText(member.ready.processorModel)
      side.clockUncertaintyMicroseconds = Double(member.clock.most - member.clock.least) / 1_000
      side.lost = member.loss
      if let statistics = member.statistics {
        facts.add(try statistics.statistics(), busyShares: statistics.busyShares)
        side.requestsMeasured = statistics.measured
        side.busyShare = min(1, statistics.busyShares.max() ?? 0)
      }
      if let loss = member.loss {
        facts.agentsLost.append("agent \(member.name) was lost: \(loss)")
      }
      facts.agents.append(side)
      if var ledgers = member.books.take() { books.take(&ledgers) }
    }
  }
}
