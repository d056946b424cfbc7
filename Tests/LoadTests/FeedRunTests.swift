import Posix
import Testing

@testable import LoadHistory
@testable import LoadKit
@testable import LoadReport

/// Whole runs that follow the change feed: of a server that tells what it does, and of servers that do not.
@Suite(.serialized) struct FeedRunTests {
  private func result(
    _ feed: FakeFeed.Fault, _ fault: FakeServer.Fault = .none,
    _ change: (inout RunOptions) -> Void = { _ in }
  ) throws -> (report: Report, exitStatus: Int32) {
    let server = try FakeServer(fault, feed: feed)
    defer { server.stop() }
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:\(server.port)")))
    options.connections = 2
    options.streams = 4
    options.threads = 2
    options.operations = 400
    options.seed = 3
    options.run = RunID(42)
    options.workload.skuCount = 3
    options.workload.units = 60
    options.workload.lines = 1...2
    options.workload.extendShare = 0.2
    options.workload.restockShare = 0.1
    options.workload.duplicateShare = 0.1
    options.followsFeed = true
    change(&options)
    let result = try LoadKit.run(options)
    return (result.report, result.exitStatus)
  }

  @Test func everyDecisionIsInTheFeedOnce() throws {
    let (report, exitStatus) = try result(.none) {
      $0.workload.timeToLiveNanoseconds = 1_000_000_000...1_000_000_000
      $0.workload.units = 6
      $0.workload.restockShare = 0.02
      $0.workload.confirmShare = 0.3
      $0.workload.releaseShare = 0.3
      $0.operations = nil
      $0.durationSeconds = 1.5
      $0.warmUpSeconds = 0
      $0.workload.thinkTimeNanoseconds = 5_000_000...20_000_000
    }
    #expect(exitStatus == 0, "\(report.text)")
    let feed = try #require(report.check?.feed)
    #expect(
      Set(feed.kinds.keys) == [
        "HELD", "EXTENDED", "CONFIRMED", "RELEASED", "EXPIRED", "ADJUSTED", "REFUSED",
      ], "\(report.text)")
    #expect(feed.isWhole && feed.reconnects == 0 && feed.others == 0)
    #expect(feed.events == feed.kinds.values.reduce(0, +) && feed.decisionsCompared > 100)
    #expect(report.verdict.feedEvents == feed.events)
    #expect(
      report.verdict.sentence.contains("each of \(Text.counted(feed.events, "event")) once"),
      "\(report.verdict.sentence)")
    #expect(report.text.contains("acknowledged decisions looked up"))
    #expect(report.html.contains("Events of the change feed"))
  }

  @Test(arguments: [
    (FakeFeed.Fault.drops, Violation.Kind.feedMissing), (.repeats, .feedRepeated),
    (.repeatsUnderAnotherNumber, .feedGap), (.swaps, .feedOrder),
    (.misstates, .feedBalance), (.skipsVersion, .feedGap), (.mistakesKind, .feedMissing),
    (.invents, .feedUnknown), (.standsStill, .feedMissing),
  ])
  func whatIsWrongIsFound(fault: FakeFeed.Fault, kind: Violation.Kind) throws {
    let (report, exitStatus) = try result(fault)
    #expect(exitStatus == 1, "\(report.text)")
    #expect(report.verdict.violations[kind.rawValue] ?? 0 > 0, "\(report.text)")
    #expect(report.result == .violated)
    // What the answers say by themselves is right.
    let others = Violation.Kind.allCases.filter { !"\($0)".hasPrefix("feed") }
    #expect(others.allSatisfy { report.verdict.violations[$0.rawValue] == nil }, "\(report.text)")
  }

  /// What scenarios do beyond holds and their ends is followed too.
  @Test(arguments: ["cart-changes", "preorder", "count", "warehouses", "per-customer"])
  func everyScenarioIsFollowed(name: String) throws {
    func ofScenario(_ feed: FakeFeed.Fault) throws -> (report: Report, exitStatus: Int32) {
      try result(feed) {
        let scenario = try? Scenario.named(name)
        $0.workload = scenario?.workload(operations: nil) ?? $0.workload
        $0.workload.distribution = .uniform
        $0.workload.skuCount = 6
        $0.workload.units = 60
        $0.workload.shipTimeNanoseconds = 0...2_000_000
        $0.workload.duplicateShare = 0.1
      }
    }
    let (report, exitStatus) = try ofScenario(.none)
    #expect(exitStatus == 0, "\(report.text)")
    let feed = try #require(report.check?.feed)
    #expect(feed.isWhole && feed.decisionsCompared > 200, "\(report.text)")
    #expect(feed.kinds["REPLACED"] ?? 0 > 0 || name != "cart-changes", "\(report.text)")
    // Which event it is, and so what shows it, is up to how the calls fall; that it shows is not.
    for fault in [FakeFeed.Fault.drops, .misstates] {
      let (report, exitStatus) = try ofScenario(fault)
      #expect(exitStatus == 1, "\(report.text)")
      let shown: [Violation.Kind] = [.feedGap, .feedMissing, .feedBalance, .feedWrongEvent]
      #expect(shown.contains { report.verdict.violations[$0.rawValue] != nil }, "\(report.text)")
    }
  }

  @Test func aBrokenStreamGoesOnFromItsToken() throws {
    let (report, exitStatus) = try result(.breaksOff)
    #expect(exitStatus == 0, "\(report.text)")
    #expect(report.check?.feed?.reconnects ?? 0 >= 1)
  }

  @Test func connectionsOfTheLoadThatBreakAreNoConcernOfTheFeed() throws {
    let (report, exitStatus) = try result(.none, .hangsUp(after: 200, times: 3))
    #expect(exitStatus == 0, "\(report.text)")
    #expect(report.check?.feed?.isWhole == true)
  }

  /// Of what is missing then nothing can be said.
  @Test(arguments: [FakeFeed.Fault.forgetsTokens, .garbles])
  func aFeedThatCannotBeReadLeavesTheRunUndecided(fault: FakeFeed.Fault) throws {
    let (report, exitStatus) = try result(fault)
    #expect(exitStatus == 2, "\(report.text)")
    #expect(report.result == .unknown)
    #expect(report.verdict.reason?.contains("change feed") == true, "\(report.text)")
  }

  @Test func aServerThatIsGoneHasNoFeedToBeReadToItsEnd() throws {
    let (report, exitStatus) = try result(.none, .dies(after: 200)) { $0.quietSeconds = 2 }
    #expect(exitStatus == 2, "\(report.text)")
    #expect(report.check == nil)
  }

  @Test func aServerThatSellsWhatItDoesNotHaveShowsItInTheFeed() throws {
    let (report, exitStatus) = try result(.none, .losesConfirms)
    #expect(exitStatus == 1)
    #expect(report.verdict.violations[Violation.Kind.feedBalance.rawValue] ?? 0 > 0)
  }

  @Test func anAuditReadsTheWholeFeed() throws {
    for (feed, holds) in [(FakeFeed.Fault.none, true), (.drops, false)] {
      let server = try FakeServer(.hangsUp(after: 150, times: 3), feed: feed)
      defer { server.stop() }
      var options = RunOptions(target: try #require(Endpoint("127.0.0.1:\(server.port)")))
      options.connections = 2
      options.operations = 300
      options.run = RunID(42)
      options.savesHistory = true
      options.compares = false
      options.workload.skuCount = 2
      let result = try LoadKit.run(options)
      var history = try History(result.encodedHistory)
      let audit = try LoadKit.audit(&history, target: options.target, followsFeed: true)
      #expect(audit.holds == holds, "\(audit.check.examples)")
      #expect(audit.check.feed?.isWhole == true)
      #expect(audit.check.verdict.feedEvents ?? 0 > 200)
      let again = try LoadKit.audit(&history, target: options.target, followsFeed: true)
      #expect(again.holds == holds, "\(again.check.examples)")
    }
  }
}
