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
  let troubles: EngineTroubles<ReplicatedNode>
  private(set) var truth = LogTruth()
  /// Who has had an epoch.
  private var owners: [UInt32: String] = [:]
  /// Who has taken the log over, all of it.
  private var serving: Set<String> = []
  /// A server keeps two, for those who are copying the older one: that is not what keeps the log whole.
  let keptCheckpoints: Int

  var options: EngineOptions { troubles.options }
  var cluster: EngineCluster { troubles.cluster }
  package var counts: SituationCounts { cluster.counts }

  package init(seed: UInt64, fault: EngineFault? = nil, trace: ((String) -> Void)? = nil) {
    troubles = EngineTroubles(
      seed: seed, fault: fault, arguments: "--replicated", readPercent: 30, trace: trace)
    keptCheckpoints = troubles.cluster.random.number(1...2)
    troubles.begin(
      meanwhile: { [unowned self] in
        if cluster.steps.isMultiple(of: 16) { checkServers() }
      },
      makeNode: { number, clock in ReplicatedNode(number, self, clock: clock) })
  }

  package func run() throws(Violation) { try troubles.run { truth.answeredLSN } }

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

  func found(_ expected: String, _ seen: String) { troubles.found(expected, seen) }

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
