// A primary and two standbys, one of which must have a commit before it is answered; a network between them and the
// nodes; and a manager that promotes a standby which has all that was answered. All of it moves by steps of time.
internal import Log
internal import Posix

/// What runs of a replicated log come across: a simulation in which nothing goes wrong proves nothing.
package enum Situation: String, CaseIterable, Sendable {
  case appends
  case doubts
  case appendsTakenAfterDoubt = "appends taken though their client had given up"
  case appendsRefusedAfterDoubt = "appends refused that came when their client had given up"
  case appendsLost = "appends lost on their way"
  case frozenBehindTrim = "frozen appends that came where the log was trimmed since"
  case notices = "waits cancelled, with a notice"
  case cuts = "waits ended without an answer"
  case noStandbys = "times in which commits waited for no standby"
  case answersLost = "answers lost"
  case failovers
  case isolated = "primaries cut off that went on answering"
  case tailsTakenBack = "failovers that took a tail back"
  case takes
  case takesFailed = "takes that somebody else was faster than"
  case fenced = "owners fenced"
  case released = "logs given up"
  case madeAnew = "copies made anew"
  case phantoms = "copies of a tail that was taken back"
  case checkpoints
  case checkpointsFailed = "checkpoints that could not be put"
  case trims
  case crashes
  case gaveUp = "followers that gave up, and began anew"
  case frozen = "processes frozen when an answer had come"
  case reads
  case readsRefused = "reads refused without a lease"
  case staleReads = "reads of standbys"
  case readsOfStale = "reads refused of a state that was old"
}

package struct SituationCounts: Sendable, CustomStringConvertible {
  private var counts: [Situation: Int] = [:]

  package init() {}

  package subscript(situation: Situation) -> Int {
    get { counts[situation, default: 0] }
    set { counts[situation] = newValue }
  }

  package mutating func add(_ other: SituationCounts) {
    for (situation, count) in other.counts { counts[situation, default: 0] += count }
  }

  package var description: String {
    Situation.allCases.map { "  \($0.rawValue): \(self[$0])" }.joined(separator: "\n")
  }
}

/// Used by one thread.
final class EngineCluster: @unchecked Sendable {
  static let millisecond: Int64 = 1_000_000
  private static let nodeCount = 3

  /// How often, in a thousand steps, something goes wrong; each seed has its own.
  private struct Rates {
    var cancel = 0
    var cut = 0
    var disconnect = 0
    var loseAnswer = 0
    var late = 0
    var isolate = 0
    var kill = 0
    var unreachable = 0
    var noStandbys = 0
    var slowStandby = 0
    var freeze = 0

    init(_ random: inout SeededRandom) {
      func rate(_ most: Int) -> Int { random.chance(60) ? random.number(0...most) : 0 }
      cancel = rate(150)
      cut = rate(150)
      disconnect = rate(40)
      loseAnswer = rate(80)
      late = rate(60)
      isolate = rate(12)
      kill = rate(12)
      unreachable = rate(30)
      noStandbys = rate(8)
      slowStandby = rate(700)
      freeze = rate(20)
    }
  }

  var random: SeededRandom
  private let fault: EngineFault?
  private let rates: Rates
  private(set) var servers: [EngineServer] = []
  private var lastID: UInt64 = 0
  /// True time, in nanoseconds.
  private(set) var now: Int64 = 1 << 40
  private(set) var steps = 0
  /// From here on nothing goes wrong, and what has is mended.
  private(set) var isHealing = false
  /// Transactions that were answered of the newest primary.
  private var answered = 0
  /// By node, server: it does not get through.
  private var isBlocked: [[Bool]]
  /// When the manager acts next.
  private var failoverAt: Int64?
  private var rejoinAt: Int64?
  /// The newest that any server ever had, also if it was taken back.
  private(set) var highestEpoch: UInt32 = 0
  var counts = SituationCounts()
  let trace: ((String) -> Void)?
  /// Called with every step: what nodes do meanwhile.
  var onStep: () -> Void = {}

  init(seed: UInt64, fault: EngineFault?, trace: ((String) -> Void)?) {
    random = SeededRandom(seed: seed)
    rates = Rates(&random)
    self.fault = fault
    self.trace = trace
    isBlocked = Array(repeating: Array(repeating: false, count: 3), count: Self.nodeCount)
    servers = (0..<3).map { number in
      EngineServer(number: number, fault: fault) { [unowned self] in
        lastID += 1
        return lastID
      }
    }
  }

  func tell(_ text: @autoclosure () -> String) {
    if let trace { trace("\(steps) \(now / Self.millisecond % 10_000_000) ms: \(text())") }
  }

  /// The one that the manager knows.
  private(set) var primaryNumber = 0
  var primary: EngineServer { servers[primaryNumber] }

  func heal() {
    isHealing = true
    tell("all heals")
  }

  private func happens(_ perThousand: Int) -> Bool {
    !isHealing && random.number(0...999) < perThousand
  }

  /// Time goes on, and whatever is due, or goes wrong, happens.
  func step() {
    steps += 1
    now += random.number(1...(random.chance(3) ? 700 : 60)) * Self.millisecond
    for server in servers where server.isUp && server.isPrimary { run(server) }
    replicate()
    goWrong()
    manage()
    onStep()
  }

  private func run(_ server: EngineServer) {
    server.run(now: now) { write, isDone in
      if isDone, case .take(let seen, _, _, _) = write.change {
        highestEpoch = max(highestEpoch, seen.epoch + 1)
      }
      guard let batch = write.append, write.isGivenUp else { return }
      counts[isDone ? .appendsTakenAfterDoubt : .appendsRefusedAfterDoubt] += 1
      if batch.lsn < server.tables.row.trimmedLSN { counts[.frozenBehindTrim] += 1 }
    }
  }

  private func replicate() {
    let primary = primary
    guard primary.isUp, !primary.isCutOff else { return }
    for standby in servers where standby !== primary && standby.isUp && !standby.isPrimary {
      if happens(rates.slowStandby) { continue }
      standby.receive(isHealing ? .max : random.number(1...4), from: primary)
      if let waiting = primary.waiting, standby.writeAhead.count >= waiting.index {
        answered = max(answered, waiting.index)
        primary.end(nil)
      }
    }
  }

  private func goWrong() {
    if isHealing {
      isBlocked = Array(repeating: Array(repeating: false, count: 3), count: Self.nodeCount)
      for server in servers {
        server.waitsForNone = false
        // What was isolated is stopped by its manager at last.
        if server.isPrimary, server !== primary { server.follow(primary) }
      }
      if primary.isUp, primary.isCutOff, failoverAt == nil { primary.isCutOff = false }
      return
    }
    for server in servers where server.isUp && server.isPrimary {
      if server.waiting != nil {
        if happens(rates.cancel) {
          server.end("canceling wait for synchronous replication due to user request")
          counts[.notices] += 1
          tell("server \(server.number): a wait is cancelled")
        } else if happens(rates.cut) {
          server.end(nil, isCut: true)
          counts[.cuts] += 1
          tell("server \(server.number): a wait is cut off")
        }
      }
      if happens(rates.noStandbys) {
        server.waitsForNone = true
        counts[.noStandbys] += 1
        if server.waiting != nil { server.end("it has no synchronous standby") }
      } else if server.waitsForNone, random.chance(10) {
        server.waitsForNone = false
      }
    }
    if happens(rates.unreachable) {
      let (node, server) = (random.number(0...Self.nodeCount - 1), random.number(0...2))
      isBlocked[node][server].toggle()
    }
    if failoverAt == nil, primary.isUp, !primary.isCutOff {
      if happens(rates.isolate) {
        primary.isCutOff = true
        counts[.isolated] += 1
        tell("server \(primary.number) is cut off")
        failoverAt = now + random.number(100...8_000) * Self.millisecond
      } else if happens(rates.kill) {
        primary.stop()
        tell("server \(primary.number) is killed")
        failoverAt = now + random.number(100...8_000) * Self.millisecond
      }
    }
  }

  /// What Patroni does, or a cloud: nothing of it is the rules'.
  private func manage() {
    if let due = failoverAt, now >= due {
      failoverAt = nil
      // Also one that has less than the other, if it has all that was answered.
      let able = servers.filter {
        $0 !== primary && $0.isUp && !$0.isPrimary && $0.writeAhead.count >= answered
      }
      if able.isEmpty {
        // The standby that has it is not there yet: the primary goes on.
        primary.isUp = true
        primary.isCutOff = false
      } else {
        promote(random.pick(able))
      }
    }
    if let due = rejoinAt, now >= due || isHealing {
      rejoinAt = nil
      for server in servers where server !== primary && (server.isPrimary || !server.isUp) {
        server.follow(primary)
        tell("server \(server.number) follows")
      }
    }
  }

  private func promote(_ new: EngineServer) {
    let old = primary
    primaryNumber = new.number
    new.isPrimary = true
    old.isCutOff = true
    counts[.failovers] += 1
    if old.writeAhead.count > old.shared(with: new) { counts[.tailsTakenBack] += 1 }
    // Receivers of the old one are stopped first.
    for server in servers where server !== new && server !== old && !server.isPrimary {
      server.follow(new)
      tell("server \(server.number) follows \(new.number)")
    }
    tell(
      "server \(new.number) is promoted: epoch \(new.tables.row.epoch), end \(new.tables.row.endLSN)"
    )
    rejoinAt = now + random.number(500...15_000) * Self.millisecond
  }

  // MARK: For nodes

  /// A server that takes writes, as far as it knows; nil: none is reached.
  func connect(from node: Int) -> EngineServer? {
    let able = servers.filter { $0.isPrimary && isReached($0, from: node) }
    return able.isEmpty ? nil : random.pick(able)
  }

  func isReached(_ server: EngineServer, from node: Int) -> Bool {
    server.isUp && !isBlocked[node][server.number]
  }

  func isDisconnected() -> Bool { happens(rates.disconnect) }
  /// A process stands still for a while, between what it is told and what it makes of that.
  func freeze() {
    guard happens(rates.freeze) else { return }
    counts[.frozen] += 1
    let until = now + random.number(500...6_000) * Self.millisecond
    while now < until { step() }
  }

  func losesAnswer() -> Bool { happens(rates.loseAnswer) }

  /// When what is sent now arrives.
  func arrival() -> Int64 {
    if happens(rates.late) { return now + random.number(300...20_000) * Self.millisecond }
    return now + random.number(0...20) * Self.millisecond
  }
}
