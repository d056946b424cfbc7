import Posix
import Testing

@testable import LoadHistory
@testable import LoadKit
@testable import LoadReport

/// Runs of reserves with alternatives, some content with less: of a server that does as it should, and of servers that do
/// not.
@Suite(.serialized) struct ChoiceRunTests {
  private func report(
    _ fault: FakeServer.Fault, _ change: (inout RunOptions) -> Void = { _ in }
  ) throws -> (report: Report, exitStatus: Int32, history: [UInt8]) {
    let server = try FakeServer(fault)
    defer { server.stop() }
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:\(server.port)")))
    options.connections = 2
    options.streams = 4
    options.operations = 600
    options.seed = 5
    options.run = RunID(42)
    options.savesHistory = true
    options.workload = try Scenario.named("warehouses").workload(operations: nil)
    options.workload.skuCount = 6
    options.workload.units = 40
    options.workload.restockUnits = 1...10
    change(&options)
    let ended = try LoadKit.run(options)
    return (ended.report, ended.exitStatus, ended.encodedHistory)
  }

  @Test(arguments: [ReserveAPI.unary, .stream])
  func theFirstThatFitsIsHeld(api: ReserveAPI) throws {
    let (report, exitStatus, file) = try report(.none) {
      $0.workload.api = api
      $0.workload.duplicateShare = 0.2
      $0.workload.keepsCommitted = true
      $0.workload.shipTimeNanoseconds = 0...5_000_000
      $0.operations = 1_500
    }
    #expect(exitStatus == 0, "\(report.text)")
    #expect(report.check?.linearizable != .no)
    #expect(report.outcomes["refused, no stock"] ?? 0 > 20, "\(report.text)")
    #expect(report.check?.refusalsJustified ?? 0 > 40, "\(report.text)")
    // The file says the same.
    let again = try History(file)
    #expect(again.encoded() == file)
    #expect(again.check().holds)
    var (others, partial) = (0, 0)
    again.books.forEachLedger { ledger in
      for operation in 0..<ledger.count {
        others += ledger.alternative(of: operation) > 0 ? 1 : 0
        ledger.forEachAttempt(of: operation) { attempt in
          guard case .accepted(_, _, _, let grant) = ledger.answer(to: attempt) else { return }
          partial += grant.lines.isEmpty ? 0 : 1
        }
      }
    }
    #expect(others > 20 && partial > 20, "\(others), \(partial)")
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
    (FakeServer.Fault.prefersTheLast, Violation.Kind.passedOver),
    (.triesLinesAlone, .passedOver), (.misnamesAlternatives, .heldDiffers),
    (.grantsTheLeast, .wrongGrant), (.grantsWhatIsNotThere, .oversold),
    (.overstatesGrants, .heldDiffers), (.changesAlternatives, .answeredDifferently),
  ])
  func faultsAreFound(fault: FakeServer.Fault, kind: Violation.Kind) throws {
    let (report, exitStatus, _) = try report(fault) {
      ($0.connections, $0.streams) = (1, 1)
      // Without a sale all that is wrong shows in what is held.
      $0.workload.confirmShare = 0
      $0.workload.restockShare = 0
    }
    #expect(exitStatus == 1, "\(report.text)")
    #expect(report.verdict.violations[kind.rawValue] ?? 0 > 0, "\(report.text)")
  }

  private static let outOfRange: [(flag: String, change: @Sendable (inout Workload) -> Void)] = [
    ("--warehouses", { $0.warehouses = 2 }),
    ("--warehouses", { ($0.skuCount, $0.warehouses) = (20, 10) }),
    ("--lines", { ($0.skuCount, $0.warehouses, $0.lines) = (20, 3, 1...43) }),
    ("--partial-share", { ($0.partialShare, $0.maxUnits) = (0.5, 2) }),
    ("--warehouses", { ($0.skuCount, $0.warehouses, $0.replaceShare) = (20, 2, 0.1) }),
  ]

  @Test(arguments: outOfRange.indices)
  func whatDoesNotGoTogetherIsSaid(index: Int) {
    var workload = Workload()
    Self.outOfRange[index].change(&workload)
    let error = #expect(throws: LoadError.self) { try workload.validate() }
    #expect(error?.description.contains(Self.outOfRange[index].flag) == true)
  }
}
