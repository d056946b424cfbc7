import Posix
import Testing

@testable import LoadHistory
@testable import LoadKit
@testable import LoadReport

/// Runs whose Reserves go out many in a message: what is told of each is as if it had gone alone.
@Suite(.serialized) struct MessageRunTests {
  private func report(
    _ fault: FakeServer.Fault = .none, _ api: ReserveAPI,
    _ change: (inout RunOptions) -> Void = { _ in }
  ) throws -> (report: Report, exitStatus: Int32) {
    let server = try FakeServer(fault)
    defer { server.stop() }
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:\(server.port)")))
    options.connections = 2
    options.streams = 3
    options.operations = 2_000
    options.seed = 3
    options.run = RunID(42)
    options.workload.api = api
    options.workload.batch = 40
    options.workload.units = 300
    options.workload.skuCount = 3
    options.workload.lines = 1...2
    options.workload.duplicateShare = 0.1
    change(&options)
    let ended = try LoadKit.run(options)
    return (ended.report, ended.exitStatus)
  }

  private static let apis: [ReserveAPI] = [.batch, .stream]

  @Test(arguments: apis)
  func everyResultIsOfItsRequest(api: ReserveAPI) throws {
    let (report, exitStatus) = try report(.none, api) {
      $0.workload.units = 60
      $0.workload.readShare = 0.05
      $0.workload.restockShare = 0.02
    }
    #expect(exitStatus == 0, "\(report.text)")
    let messages = try #require(report.messages)
    #expect(messages.method == api.method?.name)
    #expect(messages.requestsPerMessage > 5 && messages.requestsPerMessage <= 40)
    #expect(messages.latencyMicroseconds.count > 0)
    // Whatever goes out is counted as a call: messages are none.
    #expect(report.outcomes.values.reduce(0, +) == report.attempts)
    #expect(report.codes.values.reduce(0, +) == report.attempts)
    #expect(report.latencyMicroseconds["all"]?.count == report.requestsMeasured)
    // Of the whole run, as attempts are: late repetitions, and what else customers do, go alone.
    #expect(
      messages.requests < report.attempts && messages.requests > report.attempts / 3,
      "\(messages.requests) of \(report.attempts)")
    for outcome in [Outcome.reserved, .insufficientStock, .confirmed, .replayed, .read, .restocked]
    {
      #expect(report.outcomes[outcome.name] ?? 0 > 0, "\(outcome.name)")
    }
    #expect(report.check?.duplicatesCompared ?? 0 > 20)
    #expect(report.text.contains("per message"))
    #expect(report.text.contains("\(messages.method), "))
    for requirement in ["message.p99<10s", "Reserve.p50<10s"] {
      #expect(try Threshold(requirement).evaluate(report).isPassed, "\(requirement)")
    }
    let page = report.html
    #expect(page.contains("per message"))
  }

  /// The largest message that the API takes spans frames and windows, both ways.
  @Test(arguments: apis)
  func theLargestMessage(api: ReserveAPI) throws {
    let (report, exitStatus) = try report(.none, api) {
      $0.operations = 16_384
      // A debug build on a busy machine takes its time over 8,192 requests.
      ($0.drainSeconds, $0.quietSeconds) = (120, 120)
      $0.connections = 1
      $0.streams = 2
      $0.workload.batch = 8_192
      $0.workload.units = 100_000
      $0.workload.confirmShare = 0
      $0.workload.releaseShare = 0
      $0.workload.duplicateShare = 0
    }
    #expect(exitStatus == 0, "\(report.text)")
    // 1 MiB is less than 8,192 requests of two lines.
    #expect(report.messages?.requestsPerMessage ?? 0 > 4_000, "\(report.text)")
    #expect(report.outcomes["reserved"] == report.attempts)
  }

  @Test(arguments: apis)
  func anOpenLoopSendsWhatIsDue(api: ReserveAPI) throws {
    let (report, exitStatus) = try report(.none, api) {
      $0.operations = nil
      $0.profile = LoadProfile(ratePerSecond: 2_000)
      $0.durationSeconds = 0.4
      $0.warmUpSeconds = 0.1
      $0.workload.duplicateShare = 0
      $0.workload.confirmShare = 0
      $0.workload.releaseShare = 0
    }
    #expect(exitStatus == 0, "\(report.text)")
    #expect(report.latencyMicroseconds["Reserve"]?.count == 800)
    #expect(report.unsent == 0)
  }

  /// A server that stands still is in the latency of each Reserve from when it was due, not in the rate alone.
  @Test func aPauseIsInEveryDecision() throws {
    let (report, _) = try report(.stalls(after: 20, milliseconds: 300), .stream) {
      $0.operations = nil
      $0.profile = LoadProfile(ratePerSecond: 1_000)
      $0.durationSeconds = 0.6
      $0.warmUpSeconds = 0
      $0.workload.confirmShare = 0
      $0.workload.releaseShare = 0
      $0.workload.duplicateShare = 0
    }
    let latency = try #require(report.latencyMicroseconds["Reserve"])
    #expect(latency.p90 > 150_000, "\(report.text)")
  }

  @Test(
    arguments: apis,
    [
      FakeServer.Fault.none, .hangsUp(after: 60, times: 3), .endsStreams(after: 9),
      .saysGoodbye(every: 30),
    ])
  func whatIsLostIsDecidedByRetries(api: ReserveAPI, fault: FakeServer.Fault) throws {
    let (report, exitStatus) = try report(fault, api) {
      $0.connections = 3
      $0.workload.batch = 12
      $0.workload.retriesUnknown = true
      if case .none = fault {
        $0.workload.cutShare = 0.1
        $0.workload.closeShare = 0.02
      }
    }
    #expect(exitStatus == 0, "\(report.text)")
    #expect(report.check?.unknownOutcomes == 0, "\(report.text)")
    #expect(report.outcomes.values.reduce(0, +) == report.attempts)
    if case .none = fault {
      #expect(report.outcomes["cut off on purpose"] ?? 0 > 20)
      #expect(report.failedShare == 0, "\(report.text)")
    }
  }

  @Test(arguments: apis)
  func aServerThatDiesEndsTheRun(api: ReserveAPI) throws {
    let (report, exitStatus) = try report(.dies(after: 40), api)
    #expect(exitStatus == 2)
    #expect(report.isPartial)
    #expect(report.outcomes.values.reduce(0, +) == report.attempts + report.unsent)
  }

  @Test(
    arguments: [
      (FakeServer.Fault.swapsResults, "units lost or invented"),
      (.forgetsKeys, "duplicate answered differently"),
      (.refusesWithStock, "refused without reason"),
    ], apis)
  func faultsAreFound(fault: (FakeServer.Fault, String), api: ReserveAPI) throws {
    let (report, exitStatus) = try report(fault.0, api) {
      $0.workload.quantity = 1...3
      $0.workload.units = 5_000
      $0.workload.duplicateShare = 0.2
    }
    #expect(exitStatus == 1, "\(report.text)")
    if case .swapsResults = fault.0 { return }
    #expect(report.check?.violations[fault.1] != nil, "\(report.text)")
  }

  /// Which result is of which request is not to be guessed.
  @Test(arguments: apis)
  func resultsThatAreMissingDecideNothing(api: ReserveAPI) throws {
    let (report, exitStatus) = try report(.dropsResults, api) { $0.workload.units = 100_000 }
    #expect(exitStatus == 0, "\(report.text)")
    #expect(report.outcomes["malformed"] ?? 0 > 20)
    #expect(report.check?.unknownOutcomes ?? 0 > 20)
    #expect(report.firstFailure?.contains("results do not match the requests") == true)
  }
}
