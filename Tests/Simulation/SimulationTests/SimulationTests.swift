import Foundation
import Log
import Simulation
import StockStore
import Testing

/// Multiplies the length of the long tests; 1 unless HOLDFAST_TEST_SCALE says otherwise.
private let testScale =
  UInt64(ProcessInfo.processInfo.environment["HOLDFAST_TEST_SCALE"] ?? "") ?? 1

/// A few of the runs of `make simulate`, in a debug build, where every precondition is checked.
@Suite struct SimulationTests {
  /// What these seeds come across is looked at too: runs that never crash prove nothing.
  @Test func nothingAcknowledgedIsLost() throws {
    var counts = RunCounts()
    for seed in 1...120 * testScale {
      let run = SimulationRun(seed: seed)
      try run.run()
      counts.add(run.counts)
    }
    #expect(counts.commands > 18_000 && counts.expired > 600, "\(counts)")
    #expect(counts.killed > 20 && counts.powerCuts > 40 && counts.closed > 100, "\(counts)")
    #expect(counts.endsLost > 20 && counts.checkpointsHarmed > 2, "\(counts)")
    #expect(counts.crashedStarts > 20 && counts.tornTails > 0, "\(counts)")
    #expect(counts.failures > 5 && counts.fullDisks > 5, "\(counts)")
    #expect(counts.checkpoints > 20 && counts.unavailable > 150, "\(counts)")
    #expect(counts.restored > 0 && counts.repaired > 5, "\(counts)")
    #expect(counts.feedEvents > 5_000 && counts.feedResumed > 150, "\(counts)")
    #expect(counts.feedForeign > 2, "\(counts)")
    #expect(counts.backups > 10 && counts.backupsFailed > 1, "\(counts)")
    #expect(counts.archiveSteps > 100 && counts.archiveFailures > 3, "\(counts)")
    #expect(counts.restores > 10 && counts.restoresProbed > 5, "\(counts)")
    #expect(counts.restoresCut > 1, "\(counts)")
    #expect(counts.alternativesHeld > 100 && counts.minimumsHeld > 100, "\(counts)")
    #expect(counts.alternativesRefused > 20, "\(counts)")
  }

  /// `make simulate ARGS='--mutant all'` says it.
  private static let foundBy: [String: UInt64] = [
    "accept-bad-checksum": 33,
    "act-on-due-hold": 82,
    "archive-before-sync": 60,
    "archive-forgets-tail": 1148,
    "archive-of-newer": 285,
    "backup-undercut": 203,
    "backup-unheld": 203,
    "forget-fallback": 67,
    "limit-outlives-item": 48,
    "recycle-too-early": 67,
    "replace-frozen": 29,
    "restore-over-gap": 1096,
    "sell-until-included": 29,
    "skip-directory-sync": 54,
    "watch-any-history": 311,
    "watch-before-sync": 58,
    "watch-past-history": 77,
  ]

  /// No run among the first few thousand has backups and segments enough for it. BackupTests has what it breaks.
  private static let rare: [Mutant] = [.log(.backupLeftBehind)]

  @Test(arguments: Mutant.allCases.filter { !rare.contains($0) })
  func everyMutantIsFound(_ fault: Mutant) {
    // Most are found by one of the first seeds. Of the others it is tried first where they were found the last
    // time, which is only faster.
    let seed = Self.foundBy[fault.name] ?? 1
    #expect(
      findMutant(fault, seeds: seed..<(seed + 1)) != nil
        || findMutant(fault, seeds: 1..<1001) != nil)
  }

  /// Runs that have found faults of the store. Another draw in a run makes them runs like any other.
  @Test(arguments: [5043] as [UInt64])
  func seedsThatFoundSomething(seed: UInt64) throws { try SimulationRun(seed: seed).run() }

  @Test func theSameSeedIsTheSameRun() throws {
    for seed in [5, 17, 40] as [UInt64] {
      var told: [[String]] = [[], []]
      for index in 0...1 {
        try SimulationRun(seed: seed) { told[index].append($0) }.run()
      }
      #expect(told[0] == told[1] && told[0].count > 100)
    }
  }

  /// One seed, with something wrong at every call of its first process, one call after the other.
  @Test func everyCallMayBeTheLast() throws {
    let faults: [FaultPlan.Fault] = [.crashBefore, .crashDuring, .crashAfter, .error]
    for calls in 1...100 * Int(testScale) {
      let plan = FaultPlan(calls: calls, fault: faults[calls % faults.count])
      try SimulationRun(seed: UInt64(12 + calls / faults.count % 3), firstPlan: plan).run()
    }
  }

  @Test func doctoredDirectoriesAreRefusedOrLoseTheirTornTail() throws {
    let directory = try RecordedDirectory(seed: 1)
    var random = SeededRandom(seed: 1)
    for _ in 0..<150 * testScale { try directory.openWithFlippedBit(&random) }
    try directory.openWithFlippedHeaders()
    #expect(directory.tornLengths.count > 100)
    for length in directory.tornLengths { try directory.openWithTornTail(length: length) }
  }
}

/// A few of the runs of `simulate --replicated`, and with `--real-store`.
@Suite struct ReplicatedSimulationTests {
  @Test func whatWasAnsweredStaysAndIsRead() throws {
    var counts = SituationCounts()
    for seed in 1...200 * testScale {
      let run = ReplicatedRun(seed: seed)
      try run.run()
      counts.add(run.counts)
    }
    for situation in Situation.allCases where ![.gaveUp, .staleReads].contains(situation) {
      #expect(counts[situation] > 2, "\(situation): \(counts)")
    }
  }

  /// `make simulate ARGS='--replicated --mutant all'` says it.
  private static let foundBy: [EngineFault: UInt64] = [
    .zeroRowsIsFenced: 87, .ignoreNotice: 1, .acknowledgeBeforeQuorum: 2, .readWithoutLease: 20,
    .keepPhantomTail: 11, .readEndApart: 455, .keepDoubtfulTake: 2, .trustOwnLease: 7,
    .renewByRelease: 2, .renewWhenAnswered: 36, .countBeats: 230, .trimBeforeCheckpoint: 3,
    .ignoreEpoch: 29, .completeAnyParts: 1440, .removeNewest: 847,
  ]

  @Test(arguments: EngineFault.allCases) func everyMutantIsFound(_ fault: EngineFault) {
    let seed = Self.foundBy[fault] ?? 1
    #expect(
      findReplicatedMutant(fault, seeds: seed..<(seed + 1)) != nil
        || findReplicatedMutant(fault, seeds: 1..<3001) != nil)
  }

  /// Some of these were faults of the rules before they were mutants; none is there without them.
  @Test func noneOfTheseFindsAnythingElse() throws {
    for seed in Self.foundBy.values { try ReplicatedRun(seed: seed).run() }
  }

  @Test func theRealStoreKeepsItToo() throws {
    var counts = SituationCounts()
    for seed in 1...20 * testScale {
      let run = StoreRun(seed: seed)
      try run.run()
      counts.add(run.counts)
    }
    let seen: [Situation] = [
      .appends, .reads, .doubts, .failovers, .tailsTakenBack, .takes, .checkpoints, .trims,
      .madeAnew, .staleReads,
    ]
    for situation in seen { #expect(counts[situation] > 0, "\(situation): \(counts)") }
  }

  /// Runs that have found faults of the store as an owner of a log.
  @Test(arguments: [95, 1112, 1177] as [UInt64])
  func seedsThatFoundSomething(seed: UInt64) throws { try StoreRun(seed: seed).run() }

  @Test func theSameSeedIsTheSameRun() throws {
    for seed in [5, 17] as [UInt64] {
      var told: [[String]] = [[], []]
      for index in 0...1 {
        try ReplicatedRun(seed: seed) { told[index].append($0) }.run()
      }
      #expect(told[0] == told[1] && told[0].count > 20)
    }
  }
}
