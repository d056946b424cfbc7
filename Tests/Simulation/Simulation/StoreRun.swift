// One seed's run of the real store on a replicated log: as ReplicatedRun, with fewer questions and all of the code.
// Each command leaves a number that no other leaves, so a level says which command it is of.
package import Log
internal import StockStore

/// Used by one thread.
package final class StoreRun {
  struct Command {
    let number: Int64
    let sku: String
    let key: String
    let reason: String
  }

  /// Answers that are asked for again at a takeover.
  private static let askedAgain = 20

  let troubles: EngineTroubles<StoreNode>
  let journal = JournalOptions(
    durability: .quorum, segmentBytes: 4096 * 8, ringBytes: 1 << 15, groupBytesMax: 1 << 13,
    spareSegments: 2, checkpointSegments: 2)
  private var lastNumber: Int64 = 0
  /// By SKU, the newest that somebody was shown.
  private(set) var certain: [String: Int64] = [:]
  private var answers: [Command] = []
  /// Where the record of each answer ends, by SKU.
  private var records: [String: [(lsn: UInt64, number: Int64)]] = [:]

  var options: EngineOptions { troubles.options }
  var cluster: EngineCluster { troubles.cluster }
  package var counts: SituationCounts { cluster.counts }

  package init(seed: UInt64, fault: EngineFault? = nil, trace: ((String) -> Void)? = nil) {
    troubles = EngineTroubles(
      seed: seed, fault: fault, arguments: "--replicated --real-store", readPercent: 20,
      trace: trace)
    troubles.begin { number, clock in StoreNode(number, self, clock: clock) }
  }

  package func run() throws(Violation) { try troubles.run { answers.count } }

  func found(_ expected: String, _ seen: String) { troubles.found(expected, seen) }

  // MARK: What nodes say

  func nextCommand(sku: String) -> Command {
    lastNumber += 1
    // Long records fill segments, so that there are checkpoints.
    return Command(
      number: lastNumber, sku: sku, key: "key \(lastNumber)",
      reason: String(repeating: "x", count: 450))
  }

  func answered(_ command: Command, lsn: UInt64, _ name: String) {
    answers.append(command)
    records[command.sku, default: []].append((lsn, command.number))
    certain[command.sku] = max(certain[command.sku] ?? 0, command.number)
  }

  /// - Parameter before: what was certain before the log was taken.
  func tookOver(_ session: StoreSession, _ before: [String: Int64], _ name: String) {
    _ = session.beginTurn()
    defer { session.endTurn() }
    for sku in StoreNode.skus {
      let onHand = session.level(sku)?.onHand ?? 0
      if onHand < before[sku] ?? 0 {
        return found(
          "\(sku) is what was answered, \(before[sku] ?? 0), or newer", "\(name) has \(onHand)")
      }
    }
    let asked = answers.filter { $0.number <= before[$0.sku] ?? 0 }.suffix(Self.askedAgain)
    for command in asked {
      let decision = session.adjust(
        command.key, command.sku, .setOnHand(command.number), reason: command.reason)
      guard decision.replayed, decision.value?.onHand == command.number else {
        return found(
          "a command that is sent again gets its answer, \(command.number)", "\(name): \(decision)")
      }
    }
  }

  func wasRead(_ sku: String, _ onHand: Int64, isShown: Bool, _ name: String) {
    if onHand < certain[sku] ?? 0 {
      found(
        "\(sku) is read as it was answered, \(certain[sku] ?? 0), or newer", "\(name): \(onHand)")
    }
    if isShown { certain[sku] = max(certain[sku] ?? 0, onHand) }
  }

  /// What a standby has shows neither less nor more than the place in the log that it is of. After a failover it may have
  /// asked a primary of the past, or have read a tail that was taken back: it finds that out when it reads on.
  func wasReadStale(_ sku: String, _ onHand: Int64, at lsn: UInt64, _ name: String) {
    if counts[.failovers] > 0 { return }
    let (before, behind) = (
      records[sku]?.last { $0.lsn <= lsn }?.number ?? 0,
      records[sku]?.first { $0.lsn > lsn }?.number ?? .max
    )
    if onHand < before || onHand >= behind {
      found(
        "\(sku) at \(lsn) is \(before) or newer, and older than \(behind)", "\(name): \(onHand)")
    }
  }
}
