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
    for seed in 1...300 * testScale {
      let run = SimulationRun(seed: seed)
      try run.run()
      counts.add(run.counts)
    }
    #expect(counts.commands > 50_000 && counts.expired > 2000, "\(counts)")
    #expect(counts.killed > 50 && counts.powerCuts > 100 && counts.closed > 300, "\(counts)")
    #expect(counts.endsLost > 50 && counts.checkpointsHarmed > 5, "\(counts)")
    #expect(counts.crashedStarts > 50 && counts.tornTails > 0, "\(counts)")
    #expect(counts.failures > 10 && counts.fullDisks > 10, "\(counts)")
    #expect(counts.checkpoints > 50 && counts.unavailable > 500, "\(counts)")
    #expect(counts.restored > 2 && counts.repaired > 20, "\(counts)")
    #expect(counts.feedEvents > 10_000 && counts.feedResumed > 500, "\(counts)")
    #expect(counts.feedForeign > 5, "\(counts)")
  }

  @Test(arguments: Mutant.allCases) func everyMutantIsFound(_ fault: Mutant) {
    #expect(findMutant(fault, seeds: 1..<1001) != nil)
  }

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
    for calls in 1...160 * Int(testScale) {
      let plan = FaultPlan(calls: calls, fault: faults[calls % faults.count])
      try SimulationRun(seed: UInt64(12 + calls / faults.count % 3), firstPlan: plan).run()
    }
  }

  @Test func doctoredDirectoriesAreRefusedOrLoseTheirTornTail() throws {
    let directory = try RecordedDirectory(seed: 1)
    var random = SeededRandom(seed: 1)
    for _ in 0..<300 * testScale { try directory.openWithFlippedBit(&random) }
    try directory.openWithFlippedHeaders()
    #expect(directory.tornLengths.count > 100)
    for length in directory.tornLengths { try directory.openWithTornTail(length: length) }
  }
}
