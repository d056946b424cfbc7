import Posix
import Testing

@testable import LoadHistory
@testable import LoadKit
@testable import LoadReport

/// Runs with so many units of each item for one customer: of a server that keeps to it, and of servers that do not.
@Suite(.serialized) struct LimitRunTests {
  private func report(
    _ fault: FakeServer.Fault, _ change: (inout RunOptions) -> Void = { _ in }
  ) throws -> (report: Report, exitStatus: Int32, history: [UInt8]) {
    let server = try FakeServer(fault)
    defer { server.stop() }
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:\(server.port)")))
    options.connections = 2
    options.streams = 4
    options.operations = 800
    options.seed = 5
    options.run = RunID(42)
    options.savesHistory = true
    options.workload = try Scenario.named("per-customer").workload(operations: nil)
    options.workload.skuCount = 3
    options.workload.units = 40
    options.workload.subjectCount = 30
    change(&options)
    let ended = try LoadKit.run(options)
    return (ended.report, ended.exitStatus, ended.encodedHistory)
  }

  @Test(arguments: [ReserveAPI.unary, .stream], [0, 0.3])
  func nobodyGetsMore(api: ReserveAPI, replaceShare: Double) throws {
    let (report, exitStatus, file) = try report(.none) {
      $0.workload.api = api
      // Few: on a slow machine holds end while it runs, and what they give back is to be wanted by others.
      $0.workload.units = 12
      $0.workload.replaceShare = replaceShare
      $0.workload.duplicateShare = 0.2
      $0.workload.restockShare = 0.02
    }
    #expect(exitStatus == 0, "\(report.text)")
    #expect(report.check?.linearizable == .yes)
    #expect(report.outcomes["refused, over the limit"] ?? 0 > 20, "\(report.text)")
    #expect(report.outcomes["refused, no stock"] ?? 0 > 20, "\(report.text)")
    #expect(report.outcomes["replayed"] ?? 0 > 20, "\(report.text)")
    // The file says the same.
    let again = try History(file)
    #expect(again.encoded() == file)
    #expect(again.check().holds)
  }

  @Test(arguments: [true, false])
  func callsThatAreCutOff(retries: Bool) throws {
    let (report, exitStatus, _) = try report(.none) {
      $0.workload.cutShare = 0.1
      $0.workload.retriesUnknown = retries
    }
    #expect(exitStatus == 0, "\(report.text)")
  }

  /// One call at a time: no other excuses an answer, however the calls fall.
  @Test(arguments: [
    (FakeServer.Fault.ignoresLimits, Violation.Kind.limitPassed),
    (.limitsHoldsAlone, .limitPassed),
    (.keepsReleasedLimits, .unjustifiedRefusal),
    (.limitsBeforeStock, .unjustifiedRefusal),
  ])
  func faultsAreFound(fault: FakeServer.Fault, kind: Violation.Kind) throws {
    let (report, exitStatus, _) = try report(fault) {
      ($0.connections, $0.streams) = (1, 1)
      // No hold falls due meanwhile.
      $0.workload.timeToLiveNanoseconds = 600_000_000_000...600_000_000_000
    }
    #expect(exitStatus == 1, "\(report.text)")
    #expect(report.verdict.violations[kind.rawValue] ?? 0 > 0, "\(report.text)")
  }
}
