// The command line of the simulation. Exit status: 0 nothing was found, or every mutant was; 1 otherwise.
internal import ArgumentParser
internal import Glibc
internal import Log
internal import Posix
internal import Simulation
internal import StockStore

@main
struct Simulate: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "simulate",
    abstract: "Runs the store and its journal on a disk that fails, and looks for what was lost.",
    discussion: """
      One seed is one run: commands on two sessions, steps of the journal, restarts, crashes at any \
      call, calls that fail, full disks. Every answer and every recovered state is compared with a \
      model. Some seeds watch the change feed, some archive the journal, take backups and restore them. The same \
      seed is the same run, on every machine.
      """)

  @Option(help: "How many seeds to run.")
  var seeds: UInt64 = 1000
  @Option(help: "The first of them.")
  var firstSeed: UInt64 = 1
  @Option(help: "Run this one alone and tell all it does.")
  var seed: UInt64?
  @Flag(
    help:
      "Run a log on several database servers instead: nodes that follow it and own it, failovers, lost answers."
  )
  var replicated = false
  @Flag(help: "With --replicated: with the real store, its directory and its checkpoints; slower.")
  var realStore = false
  @Option(
    help: ArgumentHelp(
      "A bug to make on purpose, or `all`: \(Mutant.allCases.map(\.name).joined(separator: ", ")).",
      discussion:
        "With --replicated: \(EngineFault.allCases.map(\.rawValue).joined(separator: ", ")). Runs until it is found, in at most 1,000 seeds, or 20,000."
    ))
  var mutant: String?
  @Option(
    help:
      "Flip so many bits of a data directory, one at a time, cut its tail at every byte, and open it."
  )
  var bitFlips: Int?

  @Option(
    help:
      "How the store keeps commands apart, instead of each seed's way: \(ConcurrencyControl.sound.map(\.rawValue).joined(separator: ", "))."
  )
  var concurrency: String?

  private static let mutantSeedsMax: UInt64 = 1000
  /// Those take a millisecond each.
  private static let replicatedSeedsMax: UInt64 = 20_000

  func validate() throws {
    if seeds > 1 << 40 || firstSeed > 1 << 60 || bitFlips.map({ $0 < 0 }) ?? false {
      throw ValidationError("numbers of this size are never reached")
    }
    let names =
      replicated ? EngineFault.allCases.map(\.rawValue) : Mutant.allCases.map(\.name)
    if let mutant, mutant != "all", !names.contains(mutant) {
      throw ValidationError("there is no mutant \(mutant)")
    }
    if realStore, !replicated { throw ValidationError("--real-store goes with --replicated") }
    if replicated, bitFlips != nil || concurrency != nil {
      throw ValidationError("--bit-flips and --concurrency are for one machine's store")
    }
    if let concurrency, strategy == nil {
      throw ValidationError("there is no strategy \(concurrency)")
    }
  }

  private var strategy: ConcurrencyControl? {
    ConcurrencyControl.sound.first { $0.rawValue == concurrency }
  }

  func run() throws {
    #if DEBUG
      print("This is a debug build: it is slow. Use make simulate.")
    #endif
    if replicated { return try runReplicated() }
    let faults = mutant.map { name in
      Mutant.allCases.filter { name == "all" || $0.name == name }
    }
    if let seed {
      try runOne(seed, faults?.first)
    } else if let faults {
      try findMutants(faults)
    } else if let bitFlips {
      try flipBits(bitFlips)
    } else {
      try runSeeds()
    }
  }

  private func runOne(_ seed: UInt64, _ fault: Mutant?) throws {
    let run = SimulationRun(seed: seed, fault: fault, strategy: strategy) { print($0) }
    do throws(Violation) {
      try run.run()
      print("seed \(seed): nothing found\n\(run.counts)")
    } catch {
      print(error)
      throw ExitCode(1)
    }
  }

  private func runSeeds() throws {
    var progress = Progress()
    var counts = RunCounts()
    var violations = 0
    for seed in firstSeed..<firstSeed + seeds {
      let run = SimulationRun(seed: seed, strategy: strategy)
      do throws(Violation) {
        try run.run()
      } catch {
        violations += 1
        print(error)
      }
      counts.add(run.counts)
      progress.ran(of: seeds, violations)
    }
    print(counts)
    print("\(progress.summary), \(violations) violations")
    if violations > 0 { throw ExitCode(1) }
  }

  /// - Returns: what was found, and what was come across.
  private func runReplicated(
    _ seed: UInt64, _ fault: EngineFault?, _ trace: ((String) -> Void)? = nil
  ) -> (Violation?, SituationCounts) {
    do throws(Violation) {
      if realStore {
        let run = StoreRun(seed: seed, fault: fault, trace: trace)
        try run.run()
        return (nil, run.counts)
      }
      let run = ReplicatedRun(seed: seed, fault: fault, trace: trace)
      try run.run()
      return (nil, run.counts)
    } catch {
      return (error, SituationCounts())
    }
  }

  private func runReplicated() throws {
    let faults = mutant.map { name in
      EngineFault.allCases.filter { name == "all" || $0.rawValue == name }
    }
    if let seed {
      let (violation, counts) = runReplicated(seed, faults?.first) { print($0) }
      print(violation?.description ?? "seed \(seed): nothing found\n\(counts)")
      if violation != nil { throw ExitCode(1) }
      return
    }
    if let faults {
      var missed = 0
      for fault in faults {
        let found = (firstSeed..<firstSeed + Self.replicatedSeedsMax).lazy
          .compactMap { runReplicated($0, fault).0 }.first
        if found == nil { missed += 1 }
        print("\(fault.rawValue): \(found.map { "found by \($0)" } ?? "not found")")
      }
      if missed > 0 { throw ExitCode(1) }
      return
    }
    var progress = Progress()
    var counts = SituationCounts()
    var violations = 0
    for seed in firstSeed..<firstSeed + seeds {
      let (violation, found) = runReplicated(seed, nil)
      if let violation {
        violations += 1
        print(violation)
      }
      counts.add(found)
      progress.ran(of: seeds, violations)
    }
    print(counts)
    print("\(progress.summary), \(violations) violations")
    if violations > 0 { throw ExitCode(1) }
  }

  private func findMutants(_ faults: [Mutant]) throws {
    var missed = 0
    for fault in faults {
      let seeds = firstSeed..<firstSeed + Self.mutantSeedsMax
      if let found = findMutant(fault, strategy: strategy, seeds: seeds) {
        print("\(fault.name): found by \(found)")
      } else {
        missed += 1
        print("\(fault.name): not found in \(Self.mutantSeedsMax) seeds")
      }
    }
    if missed > 0 { throw ExitCode(1) }
  }

  private func flipBits(_ count: Int) throws {
    var findings = 0
    var directories = 0
    func look(_ open: () throws -> Void) throws {
      do {
        try open()
      } catch let violation as Violation {
        findings += 1
        print(violation)
      }
    }
    for first in stride(from: 0, to: count, by: RecordedDirectory.flips) {
      let seed = firstSeed + UInt64(directories)
      directories += 1
      let directory = try RecordedDirectory(seed: seed)
      var random = SeededRandom(seed: seed)
      for _ in first..<min(count, first + RecordedDirectory.flips) {
        try look { try directory.openWithFlippedBit(&random) }
      }
      try look { try directory.openWithFlippedHeaders() }
      for length in directory.tornLengths {
        try look { try directory.openWithTornTail(length: length) }
      }
    }
    print(
      "\(count) flipped bits in \(directories) directories, each tail cut at every byte: "
        + "\(findings) violations")
    if findings > 0 { throw ExitCode(1) }
  }
}

/// Says now and then how far a long command has come.
struct Progress {
  private static let intervalNanoseconds: Int64 = 5_000_000_000

  private let began = SystemClock.monotonicNanoseconds()
  private var said = SystemClock.monotonicNanoseconds()
  private var count: UInt64 = 0

  mutating func ran(of total: UInt64, _ violations: Int) {
    count += 1
    let now = SystemClock.monotonicNanoseconds()
    if now - said < Self.intervalNanoseconds { return }
    said = now
    print("\(count) of \(total) seeds, \(violations) violations")
    // Also where the output is a file.
    fflush(nil)
  }

  /// How many, how long, how fast.
  var summary: String {
    let seconds = Double(SystemClock.monotonicNanoseconds() - began) / 1e9
    let rate = Int(Double(count) / max(seconds, 1e-9))
    return "\(count) seeds in \(Int(seconds.rounded())) s, \(rate) a second"
  }
}
