// One seed's run of a replicated log: three nodes on an engine of three servers, in which waits are cut off, answers
// lost, statements late, servers and nodes gone. What was answered must be there ever after, and what is read must be
// the newest.
package import Log

/// What is certain of the log.
struct LogTruth {
  /// By where they end: the registers.
  private(set) var states: [UInt64: Registers] = [64: Registers()]
  private(set) var entries: [UInt64: Entry] = [:]
  /// Behind the newest batch that is certain: nothing takes it back any more.
  private(set) var endLSN: UInt64 = 64
  /// Behind the newest batch that somebody was answered.
  var answeredLSN: UInt64 = 64
  private var epoch: UInt32 = 0

  /// What is wrong with a batch that is certain; nil: nothing.
  mutating func note(_ entry: Entry) -> String? {
    if entry.lsn < endLSN {
      return entries[entry.lsn] == entry ? nil : "another batch at \(entry.lsn)"
    }
    guard entry.lsn == endLSN else {
      return "a batch at \(entry.lsn), where the log ends at \(endLSN)"
    }
    guard entry.epoch >= epoch else {
      return "a batch of epoch \(entry.epoch) at \(entry.lsn), behind one of \(epoch)"
    }
    epoch = entry.epoch
    entries[entry.lsn] = entry
    var state = states[endLSN] ?? Registers()
    state.apply(entry.number)
    endLSN = entry.endLSN
    states[endLSN] = state
    return nil
  }
}

/// Used by one thread.
package final class ReplicatedRun {
  private static let stepsOfTrouble = 900
  private static let stepsOfHealing = 3_000

  private let seed: UInt64
  let options: EngineOptions
  let cluster: EngineCluster
  private var nodes: [ReplicatedNode] = []
  private(set) var truth = LogTruth()
  private var violation: Violation?
  /// Who has had an epoch.
  private var owners: [UInt32: String] = [:]
  /// Who has taken the log over, all of it.
  private var serving: Set<String> = []
  var incarnations = 0
  /// A server keeps two, for those who are copying the older one: that is not what keeps the log whole.
  let keptCheckpoints: Int
  private var depth = 0

  package var counts: SituationCounts { cluster.counts }

  package init(seed: UInt64, fault: EngineFault? = nil, trace: ((String) -> Void)? = nil) {
    self.seed = seed
    var options = EngineOptions()
    options.fault = fault
    cluster = EngineCluster(seed: seed, fault: fault, trace: trace)
    options.writeNanoseconds =
      cluster.random.pick([200, 1_000, 10_000]) * EngineCluster.millisecond
    self.options = options
    keptCheckpoints = cluster.random.number(1...2)
    nodes = (0..<3).map { number in
      // As far apart as the margin allows: an owner's 2 s are less than a standby's 2.5 s.
      let rate = Double(cluster.random.number(0...18)) / 100 + 0.88
      return ReplicatedNode(
        number, self, clock: (cluster.random.number(0...1 << 50), rate))
    }
    cluster.onStep = { [unowned self] in meanwhile() }
  }

  package func run() throws(Violation) {
    defer { cluster.onStep = {} }
    while cluster.steps < Self.stepsOfTrouble, violation == nil { act() }
    if let violation { throw violation }
    cluster.heal()
    let before = truth.answeredLSN
    while truth.answeredLSN == before, violation == nil { act() }
    if let violation { throw violation }
  }

  private func act() {
    cluster.step()
    cluster.random.pick(nodes).step()
  }

  /// What happens while a statement waits.
  private func meanwhile() {
    if cluster.steps > Self.stepsOfTrouble, !cluster.isHealing { cluster.heal() }
    if cluster.steps > Self.stepsOfTrouble + Self.stepsOfHealing {
      found("the log goes on when all is well again", "nothing was appended any more")
    }
    // Then all calls end.
    if violation != nil {
      for node in nodes { node.crash() }
      return
    }
    if cluster.steps.isMultiple(of: 16) { checkServers() }
    if cluster.random.chance(30) { cluster.random.pick(nodes).read() }
    if !cluster.isHealing, cluster.random.number(0...999) < 3 { cluster.random.pick(nodes).crash() }
    // Each call waits in the one that began before it.
    guard depth < 12 else { return }
    depth += 1
    defer { depth -= 1 }
    if cluster.random.number(0...999) < 15 { return cluster.random.pick(nodes).carry() }
    if cluster.random.chance(50) { cluster.random.pick(nodes).step() }
  }

  /// Whatever server is promoted, a new copy can be made of what it has. A primary of the past, which was promoted
  /// over, is none of them: there a checkpoint may have come to where its log has other batches.
  private func checkServers() {
    for server in cluster.servers
    where server.tables.row.hasBegun && (!server.isPrimary || server === cluster.primary) {
      let (tables, what) = (server.tables, "server \(server.number)")
      let row = tables.row
      guard let newest = tables.complete.last, newest.lsn >= row.trimmedLSN,
        let stored = tables.checkpoints[newest.name]
      else {
        return found(
          "a log has a checkpoint of what was trimmed", "\(what): \(row), \(tables.complete)")
      }
      let parts = stored.parts.sorted { $0.key < $1.key }.flatMap(\.value)
      if parts.count != Registers.count * 8
        || truth.states[newest.lsn].map({ $0 != Registers(parts: parts) }) ?? false
      {
        return found("a checkpoint is whole, and as it was written", "\(what): \(newest)")
      }
      var next = newest.lsn
      for batch in tables.batches where batch.lsn >= next {
        if batch.lsn != next { break }
        next = batch.endLSN
      }
      if next != row.endLSN {
        return found("a log goes on up to its end", "\(what): up to \(next), of \(row)")
      }
    }
  }

  func found(_ expected: String, _ seen: String) {
    if violation != nil { return }
    let mutant = options.fault.map { " --mutant \($0.rawValue)" } ?? ""
    violation = Violation(
      seed: seed, step: cluster.steps, expected: expected, seen: seen,
      arguments: "--replicated --seed \(seed)\(mutant)")
    cluster.tell("found: \(expected): \(seen)")
  }

  // MARK: What nodes say

  func took(_ epoch: UInt32, _ name: String) {
    if let other = owners[epoch] {
      found("an epoch has one owner", "\(other) and \(name) have epoch \(epoch)")
    }
    owners[epoch] = name
  }

  func serves(_ name: String) -> Bool { serving.contains(name) }

  /// - Parameter answered: before the log was taken somebody was answered up to there.
  func tookOver(_ copy: LogCopy, _ answered: UInt64, _ name: String) {
    serving.insert(name)
    if copy.base > truth.endLSN {
      return found("a checkpoint shows what is certain", "\(name) has one at \(copy.base)")
    }
    if copy.lsn < answered {
      return found("a log has all that was answered, up to \(answered)", "\(name) has \(copy.lsn)")
    }
    for entry in copy.entries {
      if let wrong = truth.note(entry) {
        return found("nothing is lost or changed", "\(name): \(wrong)")
      }
    }
    if truth.states[copy.lsn] != copy.registers {
      found("what was rebuilt is what was written", "\(name) has another state at \(copy.lsn)")
    }
  }

  func answered(_ entry: Entry, _ name: String) {
    if owners[entry.epoch] != name {
      found("who answers owns the log", "\(name) answers under epoch \(entry.epoch)")
    }
    if let wrong = truth.note(entry) {
      found("what is answered is in the log, and stays", "\(name): \(wrong)")
    }
    truth.answeredLSN = max(truth.answeredLSN, entry.endLSN)
  }

  func wasRead(_ copy: LogCopy, _ name: String) {
    if copy.lsn < truth.answeredLSN {
      found(
        "what is read has all that was answered, up to \(truth.answeredLSN)",
        "\(name) answers of \(copy.lsn)")
    }
    if truth.states[copy.lsn] != copy.registers {
      found("what is read was written", "\(name) has another state at \(copy.lsn)")
    }
  }

  func fenced(_ epoch: UInt32, by later: UInt32) {
    if later <= epoch || later > cluster.highestEpoch {
      found(
        "fenced is who meets a later epoch",
        "an owner of \(epoch) is fenced by \(later), and there is none")
    }
  }
}

/// Runs seeds with a bug until one finds it: what it found; nil where none does.
package func findReplicatedMutant(_ fault: EngineFault, seeds: Range<UInt64>) -> Violation? {
  for seed in seeds {
    do throws(Violation) {
      try ReplicatedRun(seed: seed, fault: fault).run()
    } catch {
      return error
    }
  }
  return nil
}
