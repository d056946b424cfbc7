import Posix
import Simulation
import Testing

@testable import StockStore

@Suite struct RecoveryTests {
  /// What a directory holds is what its server had: looked at, and opened.
  private func expectSameState(_ running: JournaledStore, _ place: String) throws {
    try running.settle()
    let digest = running.digest
    let found = try StockStore.verify(storage: running.copyOfFiles())
    #expect(found.digest == digest, "\(place)")
    let (opened, summary) = try JournaledStore.open(
      running.copyOfFiles(), running.limits, running.options, running.clock)
    #expect(summary.digest == digest, "\(place)")
    #expect(opened.audit() == [], "\(place)")
    let before = running.store.statistics()
    #expect(summary.items == before.items, "\(place)")
    #expect(summary.liveReservations == before.liveHolds, "\(place)")
  }

  @Test(arguments: UInt64(1)...12)
  func aJournalAlone(seed: UInt64) throws {
    let running = try JournaledStore(seed % 2 == 0 ? testLimits() : crampedLimits(), seed: seed)
    for round in 0..<8 {
      for _ in 0..<60 { try running.command() }
      try expectSameState(running, "seed \(seed), round \(round)")
    }
  }

  @Test(arguments: UInt64(1)...12)
  func checkpointsBesideCommands(seed: UInt64) throws {
    let running = try JournaledStore(seed % 2 == 0 ? testLimits() : crampedLimits(), seed: seed)
    for round in 0..<5 {
      for _ in 0..<100 { try running.command() }
      try running.makeCheckpoint { for _ in 0..<4 { try running.command() } }
      for _ in 0..<20 { try running.command() }
      try expectSameState(running, "seed \(seed), round \(round)")
    }
  }

  @Test(arguments: UInt64(1)...8, [false, true])
  func restarts(seed: UInt64, losingPower: Bool) throws {
    let running = try JournaledStore(seed % 2 == 0 ? testLimits() : crampedLimits(), seed: seed)
    for round in 0..<10 {
      for _ in 0..<40 { try running.command() }
      if round % 3 == 1 { try running.makeCheckpoint { try running.command() } }
      try running.settle()
      let digest = running.digest
      try running.restart(losingPower: losingPower)
      #expect(running.summary.digest == digest, "seed \(seed), round \(round)")
      #expect(running.store.audit() == [], "seed \(seed), round \(round)")
    }
  }
}
