import Posix
import Testing

@testable import LoadHistory
@testable import LoadKit
@testable import LoadReport

/// Whole runs against a server in this process.
@Suite(.serialized) struct RunTests {
  private func result(
    _ fault: FakeServer.Fault, _ change: (inout RunOptions) -> Void
  ) throws -> (report: Report, exitStatus: Int32) {
    let server = try FakeServer(fault)
    defer { server.stop() }
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:\(server.port)")))
    options.connections = 2
    options.streams = 4
    options.operations = 400
    options.seed = 3
    options.run = RunID(42)
    options.workload.duplicateShare = 0
    change(&options)
    let ended = try LoadKit.run(options)
    return (ended.report, ended.exitStatus)
  }

  @Test(arguments: [1, 2])
  func aGoodStoreHolds(threads: Int) throws {
    let result = try result(.none) {
      $0.threads = threads
      $0.workload.units = 100
      $0.workload.skuCount = 3
      $0.workload.lines = 1...3
      $0.workload.quantity = 1...2
      $0.workload.duplicateShare = 0.3
    }
    let check = try #require(result.report.check)
    #expect(check.holds, "\(result.report.text)")
    #expect(result.exitStatus == 0)
    #expect(check.duplicatesCompared > 20)
    #expect(check.refusalsJustified > 0)
    #expect(check.stock == 300)
    #expect(check.held == check.accepted - check.confirmed - check.released)
    #expect(
      result.report.verdict.sentence.hasPrefix(
        "VERDICT: nothing oversold, nothing lost — 300 units"))
    #expect(result.report.codes["OK", default: 0] > 0)
    #expect(result.report.latencyMicroseconds["all"]?.count == result.report.requestsMeasured)
  }

  /// Check, then decrement, unlocked: 16 buyers see the same 10 units.
  @Test func aBrokenStoreOversells() throws {
    let result = try result(.checksThenDecrements(batch: 16)) {
      $0.connections = 2
      $0.streams = 8
      $0.operations = 16
      $0.workload.units = 10
      $0.workload.confirmShare = 0
      $0.workload.releaseShare = 0
    }
    #expect(result.exitStatus == 1)
    #expect(
      result.report.verdict.sentence
        == "VERDICT: OVERSOLD by 6 units on SKU load-000000002a-0000000 — 10 units in "
        + "stock, 16 units accepted: 0 confirmed, 0 released, 0 expired, 16 held")
    #expect(result.report.check?.violations == ["oversold": 1])
  }

  @Test(arguments: [
    (FakeServer.Fault.forgetsKeys, "duplicate answered differently"),
    (.losesConfirms, "units lost or invented"), (.refusesWithStock, "refused without reason"),
  ])
  func otherFaultsAreFound(fault: FakeServer.Fault, kind: String) throws {
    let result = try result(fault) { $0.workload.duplicateShare = 0.2 }
    #expect(result.exitStatus == 1)
    #expect(result.report.check?.violations[kind] != nil, "\(result.report.text)")
    #expect(result.report.verdict.sentence.hasPrefix("VERDICT: VIOLATED: "))
  }

  @Test func callsCutOffAreUnknownNotViolations() throws {
    let result = try result(.hangsUp(after: 200)) { $0.operations = 1_000 }
    #expect(result.report.connectionsLost > 0)
    // Nobody is there to compare with, or the next connection dies as well.
    #expect(result.exitStatus == 2)
    #expect(result.report.verdict.sentence.hasPrefix("NO VERDICT: the balances could not be read"))
    #expect(result.report.outcomes["connection lost", default: 0] > 0)
  }

  @Test func openLoopKeepsItsSchedule() throws {
    let result = try result(.none) {
      $0.operations = nil
      $0.profile = LoadProfile(ratePerSecond: 500)
      $0.durationSeconds = 0.4
      $0.warmUpSeconds = 0.1
    }
    #expect(result.exitStatus == 0, "\(result.report.text)")
    #expect(result.report.latencyMicroseconds["all"]?.count == 200)
    // Ticks that fell due while every stream was busy are left out: some, or all, on a busy machine.
    #expect(result.report.scheduleLagMicroseconds?.count ?? 0 <= 200)
    #expect(result.report.unsent == 0)
  }

  @Test func prepareSetsStock() throws {
    let server = try FakeServer(.none)
    defer { server.stop() }
    let target = try #require(Endpoint("127.0.0.1:\(server.port)"))
    try prepareStock(target: target, skus: 1_000, units: 1 << 40, run: RunID(1))
    var client = try StockClient.connect(to: target)
    let levels = try client.readLevels(1_001, SKUNames(prefix: "sku-"))
    #expect(levels.prefix(1_000).allSatisfy { $0.level == StockLevel(onHand: 1 << 40, held: 0) })
    #expect(levels[1_000].level == nil)
  }

  @Test func nobodyThere() throws {
    let socket = try Socket.listen(host: "127.0.0.1", port: 0)
    let port = try Socket.localPort(socket.number)
    FileDescriptor.close(number: socket.take())
    let options = RunOptions(target: try #require(Endpoint("127.0.0.1:\(port)")))
    #expect(throws: LoadError.self) { _ = try LoadKit.run(options) }
  }

  private static let outOfRange: [(flag: String, change: @Sendable (inout RunOptions) -> Void)] = [
    ("--threads", { $0.threads = 0 }), ("--connections", { $0.connections = 0 }),
    ("--interval", { $0.intervalSeconds = 0 }), ("--skus", { $0.workload.skuCount = 0 }),
    ("--lines", { $0.workload.lines = 1...65 }),
    ("--ttl", { $0.workload.timeToLiveNanoseconds = 1...1 }),
    ("--confirm-share", { $0.workload.confirmShare = 0.9 }),
    ("--units", { $0.workload.units = -1 }),
    ("--operations", { $0.operations = 0 }), ("--duration", { $0.durationSeconds = .nan }),
  ]

  @Test(arguments: outOfRange.indices)
  func outOfRangeNamesTheFlag(index: Int) throws {
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:1")))
    Self.outOfRange[index].change(&options)
    let error = #expect(throws: LoadError.self) { try options.validate() }
    #expect(error?.description.contains(Self.outOfRange[index].flag) == true)
  }
}
