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

  private static let stepsOfTrouble = 900
  private static let stepsOfHealing = 3_000
  /// Answers that are asked for again at a takeover.
  private static let askedAgain = 20

  private let seed: UInt64
  let options: EngineOptions
  let journal: JournalOptions
  let cluster: EngineCluster
  private var nodes: [StoreNode] = []
  private var violation: Violation?
  private var lastNumber: Int64 = 0
  /// By SKU, the newest that somebody was shown.
  private(set) var certain: [String: Int64] = [:]
  private var answers: [Command] = []
  /// Where the record of each answer ends, by SKU.
  private var records: [String: [(lsn: UInt64, number: Int64)]] = [:]
  var incarnations = 0
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
    journal = JournalOptions(
      durability: .quorum, segmentBytes: 4096 * 8, ringBytes: 1 << 15, groupBytesMax: 1 << 13,
      spareSegments: 2, checkpointSegments: 2)
    nodes = (0..<3).map { number in
      let rate = Double(cluster.random.number(0...18)) / 100 + 0.88
      return StoreNode(number, self, clock: (cluster.random.number(0...1 << 50), rate))
    }
    cluster.onStep = { [unowned self] in meanwhile() }
  }

  package func run() throws(Violation) {
    defer {
      cluster.onStep = {}
      for node in nodes { node.crash() }
    }
    while cluster.steps < Self.stepsOfTrouble, violation == nil { act() }
    if let violation { throw violation }
    cluster.heal()
    let before = answers.count
    while answers.count == before, violation == nil { act() }
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
      found("the log goes on when all is well again", "nothing was answered any more")
    }
    // Then all calls end.
    if violation != nil {
      for node in nodes { node.crash() }
      return
    }
    if cluster.random.chance(20) { cluster.random.pick(nodes).read() }
    if !cluster.isHealing, cluster.random.number(0...999) < 3 { cluster.random.pick(nodes).crash() }
    guard depth < 12 else { return }
    depth += 1
    defer { depth -= 1 }
    if cluster.random.number(0...999) < 15 { return cluster.random.pick(nodes).carry() }
    if cluster.random.chance(50) { cluster.random.pick(nodes).step() }
  }

  func found(_ expected: String, _ seen: String) {
    if violation != nil { return }
    let mutant = options.fault.map { " --mutant \($0.rawValue)" } ?? ""
    violation = Violation(
      seed: seed, step: cluster.steps, expected: expected, seen: seen,
      arguments: "--replicated --real-store --seed \(seed)\(mutant)")
    cluster.tell("found: \(expected): \(seen)")
  }

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

  /// What a standby has shows neither less nor more than the place in the log that it is of: unless it has read a tail
  /// that was taken back, which it finds out when it reads on.
  func wasReadStale(_ sku: String, _ onHand: Int64, at lsn: UInt64, _ name: String) {
    if counts[.tailsTakenBack] > 0 { return }
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
