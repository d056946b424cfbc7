// What runs of a replicated log have in common: three machines and an engine in which things go wrong for a while, and
// then nothing does any more: from there on it has to go on.
internal import Log

protocol SimulatedNode: AnyObject {
  /// Does what comes next for it, if it is not in the middle of something.
  func step()
  func crash()
  /// Somebody asks it for something.
  func read()
  /// What its carrier of checkpoints does.
  func carry()
}

/// Used by one thread.
final class EngineTroubles<Node: SimulatedNode> {
  private static var stepsOfTrouble: Int { 900 }
  private static var stepsOfHealing: Int { 3_000 }

  let options: EngineOptions
  let cluster: EngineCluster
  private let seed: UInt64
  private let arguments: String
  private let readPercent: Int
  private var nodes: [Node] = []
  private var violation: Violation?
  /// Each call waits in the one that began before it.
  private var depth = 0
  private var incarnations = 0

  /// - Parameters:
  ///   - arguments: with which `simulate` does the same.
  ///   - readPercent: of steps, in which something is read.
  init(
    seed: UInt64, fault: EngineFault?, arguments: String, readPercent: Int,
    trace: ((String) -> Void)?
  ) {
    self.seed = seed
    self.arguments = arguments
    self.readPercent = readPercent
    var options = EngineOptions()
    options.fault = fault
    cluster = EngineCluster(seed: seed, fault: fault, trace: trace)
    options.writeNanoseconds =
      cluster.random.pick([200, 1_000, 10_000]) * EngineCluster.millisecond
    self.options = options
  }

  /// - Parameter meanwhile: called while a statement waits, before anything else happens.
  func begin(
    meanwhile: @escaping () -> Void = {},
    makeNode: (_ number: Int, _ clock: (offset: Int64, rate: Double)) -> Node
  ) {
    nodes = (0..<3).map { number in
      // As far apart as the margin allows: an owner's 2 s are less than a standby's 2.5 s.
      let rate = Double(cluster.random.number(0...18)) / 100 + 0.88
      return makeNode(number, (cluster.random.number(0...1 << 50), rate))
    }
    cluster.onStep = { [unowned self] in act(meanwhile) }
  }

  /// - Parameter answered: more with all that is answered.
  func run<Count: Equatable>(_ answered: () -> Count) throws(Violation) {
    defer {
      cluster.onStep = {}
      for node in nodes { node.crash() }
    }
    while cluster.steps < Self.stepsOfTrouble, violation == nil { step() }
    if let violation { throw violation }
    cluster.heal()
    let before = answered()
    while answered() == before, violation == nil { step() }
    if let violation { throw violation }
  }

  private func step() {
    cluster.step()
    cluster.random.pick(nodes).step()
  }

  private func act(_ meanwhile: () -> Void) {
    if cluster.steps > Self.stepsOfTrouble, !cluster.isHealing { cluster.heal() }
    if cluster.steps > Self.stepsOfTrouble + Self.stepsOfHealing {
      found("the log goes on when all is well again", "nothing was answered any more")
    }
    // Then all calls end.
    if violation != nil {
      for node in nodes { node.crash() }
      return
    }
    meanwhile()
    if cluster.random.chance(readPercent) { cluster.random.pick(nodes).read() }
    if !cluster.isHealing, cluster.random.number(0...999) < 3 { cluster.random.pick(nodes).crash() }
    guard depth < 12 else { return }
    depth += 1
    defer { depth -= 1 }
    if cluster.random.number(0...999) < 15 { return cluster.random.pick(nodes).carry() }
    if cluster.random.chance(50) { cluster.random.pick(nodes).step() }
  }

  /// A number that no process had before, and what it is told: leases are changed on one server after the other.
  func nextIncarnation() -> (number: Int, options: EngineOptions) {
    incarnations += 1
    var options = options
    options.leaseNanoseconds = options.leaseNanoseconds * [2, 1, 4][incarnations % 3] / 2
    options.marginNanoseconds = options.leaseNanoseconds / 5
    return (incarnations, options)
  }

  func found(_ expected: String, _ seen: String) {
    if violation != nil { return }
    let mutant = options.fault.map { " --mutant \($0.rawValue)" } ?? ""
    violation = Violation(
      seed: seed, step: cluster.steps, expected: expected, seen: seen,
      arguments: "\(arguments) --seed \(seed)\(mutant)")
    cluster.tell("found: \(expected): \(seen)")
  }
}
