import Posix
import Testing

@testable import LoadHistory
@testable import LoadKit
@testable import LoadReport

/// Runs of carts that are changed.
@Suite(.serialized) struct ReplaceRunTests {
  private func report(
    _ fault: FakeServer.Fault, _ change: (inout RunOptions) -> Void = { _ in }
  ) throws -> (report: Report, exitStatus: Int32) {
    let server = try FakeServer(fault)
    defer { server.stop() }
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:\(server.port)")))
    options.connections = 2
    options.streams = 4
    options.operations = 1_500
    options.seed = 3
    options.run = RunID(42)
    options.workload = try Scenario.named("cart-changes").workload(operations: nil)
    options.workload.skuCount = 4
    options.workload.distribution = .uniform
    options.workload.units = 60
    change(&options)
    let ended = try LoadKit.run(options)
    return (ended.report, ended.exitStatus)
  }

  @Test func changedCartsAddUp() throws {
    let (report, exitStatus) = try report(.none) {
      $0.workload.duplicateShare = 0.2
      $0.workload.readShare = 0.1
      $0.workload.restockShare = 0.05
      $0.workload.restockUnits = 1...20
    }
    #expect(exitStatus == 0, "\(report.text)")
    #expect(report.outcomes["replaced"] ?? 0 > 50, "\(report.text)")
    #expect(report.latencyMicroseconds["Replace"] != nil)
    #expect(report.check?.linearizable != .no)
    #expect(report.check?.refusalsJustified ?? 0 > 10)
    #expect(report.check?.duplicatesCompared ?? 0 > 100)
  }

  @Test(arguments: [true, false])
  func changesThatAreCutOff(retries: Bool) throws {
    let (report, exitStatus) = try report(.none) {
      $0.workload.cutShare = 0.1
      $0.workload.closeShare = 0.005
      $0.workload.retriesUnknown = retries
    }
    #expect(exitStatus == 0, "\(report.text)")
    #expect((report.check?.unknownOutcomes ?? 0 > 0) != retries)
  }

  @Test(arguments: [
    (FakeServer.Fault.replacesWithoutStock, nil as String?),
    (.replacesNothing, nil), (.replacesFromScratch, "refused without reason"),
    (.replacesTwice, "duplicate answered differently"),
  ])
  func faultsAreFound(fault: FakeServer.Fault, kind: String?) throws {
    let (report, exitStatus) = try report(fault) {
      // One call at a time: no other change excuses what is wrong, however the calls fall.
      ($0.connections, $0.streams) = (1, 1)
      $0.workload.duplicateShare = 0.2
      if case .replacesNothing = fault { $0.workload.units = 100_000 }
    }
    #expect(exitStatus == 1, "\(report.text)")
    if let kind { #expect(report.check?.violations[kind] != nil, "\(report.text)") }
  }

}
