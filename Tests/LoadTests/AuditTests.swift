import Testing

@testable import LoadHistory
@testable import LoadKit
@testable import LoadReport

/// Runs whose ledgers are saved, and held against the server once more.
@Suite(.serialized) struct AuditTests {
  /// A run against a server with `fault`, and what each of `audits` audits after it says.
  private func audits(
    _ fault: FakeServer.Fault, count: Int = 1, _ change: (inout RunOptions) -> Void = { _ in }
  ) throws -> [Audit] {
    let server = try FakeServer(fault)
    defer { server.stop() }
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:\(server.port)")))
    options.connections = 2
    options.streams = 4
    options.operations = 600
    options.seed = 3
    options.workload.units = 60
    options.savesHistory = true
    options.compares = false
    options.run = RunID(42)
    options.workload.skuCount = 3
    options.workload.lines = 1...3
    change(&options)
    let result = try LoadKit.run(options)
    #expect(result.exitStatus == 0)
    #expect(result.report.check == nil)
    var file = result.encodedHistory
    var audits: [Audit] = []
    for _ in 0..<count {
      var history = try History(file)
      audits.append(try LoadKit.audit(&history, target: options.target))
      file = history.encoded()
    }
    return audits
  }

  @Test func whatWasAcknowledgedStands() throws {
    let audits = try audits(.none, count: 2) { $0.threads = 2 }
    for audit in audits {
      #expect(audit.holds, "\(audit.text) \(audit.check.examples)")
      #expect(audit.acknowledged > 400)
      #expect(audit.standing == audit.acknowledged)
      #expect(audit.unknown == 0)
      #expect(audit.check.refusalsJustified > 0)
      #expect(audit.check.confirmed > 0 && audit.check.released > 0)
    }
    #expect(audits[0].calls < audits[1].calls)
  }

  /// The calls that were under way when the connections were cut: known after one audit, and then a
  /// part of what the next one demands.
  @Test func whatWasCutOffIsDecidedOnce() throws {
    let audits = try audits(.hangsUp(after: 300, times: 2), count: 2)
    #expect(audits[0].holds, "\(audits[0].text) \(audits[0].check.examples)")
    #expect((1...8).contains(audits[0].unknown))
    #expect(audits[0].check.unknownOutcomes == 0)
    #expect(audits[1].holds, "\(audits[1].text) \(audits[1].check.examples)")
    #expect(audits[1].unknown == 0)
    #expect(audits[1].acknowledged == audits[0].acknowledged + audits[0].unknown)
  }

  @Test func aServerThatForgotIsFoundOut() throws {
    let audit = try #require(try audits(.losesEverything).first)
    #expect(!audit.holds)
    #expect(audit.lost == audit.acknowledged)
    #expect(audit.check.violations["acknowledged decision forgotten"] != nil)
  }

  @Test(arguments: [
    (FakeServer.Fault.forgetsKeys, "held units differ"),
    (.forgetsKeys, "acknowledged decision forgotten"), (.losesConfirms, "units lost or invented"),
  ])
  func otherFaultsAreFoundOut(fault: FakeServer.Fault, kind: String) throws {
    let audit = try #require(
      try audits(fault) {
        $0.workload.duplicateShare = 0
        $0.workload.units = 1_000
      }.first)
    #expect(!audit.holds)
    #expect(audit.check.violations[kind] != nil, "\(audit.text)")
  }
}

extension RunResult {
  var encodedHistory: [UInt8] {
    switch history {
    case .some(let history): history.encoded()
    case .none: []
    }
  }
}
