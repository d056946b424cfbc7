import Posix
import Testing

@testable import LoadHistory
@testable import LoadKit
@testable import LoadReport

/// Runs whose stock is as it is on the shelf: kept when sold, shipped, counted, sold before it is there.
@Suite(.serialized) struct ShelfRunTests {
  private func report(
    _ scenario: String, _ fault: FakeServer.Fault, _ change: (inout RunOptions) -> Void = { _ in }
  ) throws -> (report: Report, exitStatus: Int32, history: [UInt8]) {
    let server = try FakeServer(fault)
    defer { server.stop() }
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:\(server.port)")))
    options.connections = 2
    options.streams = 4
    options.operations = 800
    options.seed = 3
    options.run = RunID(42)
    options.savesHistory = true
    options.workload = try Scenario.named(scenario).workload(operations: nil)
    options.workload.skuCount = 3
    change(&options)
    let ended = try LoadKit.run(options)
    return (ended.report, ended.exitStatus, ended.encodedHistory)
  }

  @Test(arguments: ["count", "preorder"])
  func aShelfAddsUp(scenario: String) throws {
    let (report, exitStatus, file) = try report(scenario, .none) {
      $0.workload.duplicateShare = 0.2
      $0.workload.shipTimeNanoseconds = 0...5_000_000
      $0.workload.units = 60
      if $0.workload.overcommit > 0 { $0.workload.overcommit = 40 }
    }
    #expect(exitStatus == 0, "\(report.text)")
    #expect(report.check?.linearizable != .no)
    #expect(report.outcomes["restocked"] ?? 0 > 0, "\(report.text)")
    #expect(report.check?.refusalsJustified ?? 0 > 20, "\(report.text)")
    // The file says the same.
    let again = try History(file)
    #expect(again.encoded() == file)
    #expect(again.check().holds)
  }

  @Test(arguments: ["count", "preorder"], [true, false])
  func callsThatAreCutOff(scenario: String, retries: Bool) throws {
    let (report, exitStatus, _) = try report(scenario, .none) {
      $0.workload.cutShare = 0.1
      $0.workload.retriesUnknown = retries
      $0.workload.shipTimeNanoseconds = 0...5_000_000
    }
    #expect(exitStatus == 0, "\(report.text)")
  }

  @Test(arguments: [
    ("count", FakeServer.Fault.resellsCommitted), ("count", .keepsShipped),
    ("count", .losesUncommitted), ("count", .refusesCounts),
    ("preorder", .resellsCommitted), ("preorder", .exceedsOvercommit),
  ])
  func faultsAreFound(scenario: String, fault: FakeServer.Fault) throws {
    let (report, exitStatus, _) = try report(scenario, fault) {
      // One call at a time: no other change excuses what is wrong, however the calls fall.
      ($0.connections, $0.streams) = (1, 1)
      $0.operations = 500
      $0.workload.shipTimeNanoseconds = 0...3_000_000
      $0.workload.units = 40
      if $0.workload.overcommit > 0 { $0.workload.overcommit = 30 }
      $0.workload.uncommitShare = scenario == "count" ? 0.3 : 0
      $0.workload.shipShare = scenario == "count" ? 0.3 : 0
      if case .refusesCounts = fault { $0.workload.units = 100_000 }
    }
    #expect(exitStatus == 1, "\(report.text)")
  }

  private static let outOfRange: [(flag: String, change: @Sendable (inout Workload) -> Void)] = [
    ("--overcommit", { $0.overcommit = 5 }),
    (
      "--overcommit",
      {
        $0.overcommit = 5
        $0.keepsCommitted = true
      }
    ),
    (
      "--ship-share",
      {
        $0.shipShare = 0.6
        $0.uncommitShare = 0.6
      }
    ),
    (
      "--count-share",
      {
        $0.countShare = 0.6
        $0.readShare = 0.6
      }
    ),
    ("--count-missing", { $0.countMissing = 0...2_000_000 }),
  ]

  @Test(arguments: outOfRange.indices)
  func whatDoesNotGoTogetherIsSaid(index: Int) {
    var workload = Workload()
    Self.outOfRange[index].change(&workload)
    let error = #expect(throws: LoadError.self) { try workload.validate() }
    #expect(error?.description.contains(Self.outOfRange[index].flag) == true)
  }
}
