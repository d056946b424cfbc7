import Foundation
import Posix
import Testing

@testable import LoadHistory
@testable import LoadKit
@testable import LoadReport

/// What agents and coordinators say to each other; Tests/EndToEnd/test_load_agents.py has them run.
@Suite struct AgentTests {
  // MARK: Secrets

  /// RFC 4231, test cases 1, 2 and 6.
  @Test(arguments: [
    (
      [UInt8](repeating: 0x0b, count: 20), "Hi There",
      "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    ),
    (
      Array("Jefe".utf8), "what do ya want for nothing?",
      "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    ),
    (
      [UInt8](repeating: 0xaa, count: 131),
      "Test Using Larger Than Block-Size Key - Hash Key First",
      "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
    ),
  ])
  func messagesAreAuthenticated(key: [UInt8], message: String, digest: String) {
    let bytes = MessageDigest.hmac(key: key, Array(message.utf8))
    let text = bytes.map { byte in
      let digits = String(byte, radix: 16)
      return digits.count < 2 ? "0" + digits : digits
    }.joined()
    #expect(text == digest)
  }

  @Test func digestsAreCompared() {
    #expect(MessageDigest.areEqual([1, 2, 3], [1, 2, 3]))
    #expect(!MessageDigest.areEqual([1, 2, 3], [1, 2, 4]))
    #expect(!MessageDigest.areEqual([1, 2, 3], [1, 2]))
  }

  // MARK: Clocks

  @Test func clocksAreKnownWithinBounds() {
    // It is 1,000 behind; what it says was so at some time between question and answer.
    var bounds = ClockBounds(asked: 5_000, said: 4_100, answered: 5_300)
    #expect(bounds.least == 900 && bounds.most == 1_200)
    bounds.narrow(ClockBounds(asked: 6_000, said: 5_010, answered: 6_100))
    #expect(bounds.least == 990 && bounds.most == 1_090)
    #expect(bounds.middle == 1_040)
    // Later it has drifted.
    bounds.widen(ClockBounds(asked: 9_000, said: 7_800, answered: 9_010))
    #expect(bounds.least == 990 && bounds.most == 1_210)
    // Two that cannot both be so of one instant: either may.
    var apart = ClockBounds(asked: 0, said: 0, answered: 10)
    apart.narrow(ClockBounds(asked: 100, said: 50, answered: 105))
    #expect(apart.least == 0 && apart.most == 55)
  }

  // MARK: Jobs

  @Test func aJobIsWhatWasAskedFor() throws {
    for scenario in Scenario.all {
      var options = RunOptions(target: try #require(Endpoint("127.0.0.1:7420")))
      options.workload = scenario.workload(operations: nil)
      options.connections = 12
      options.threads = 2
      options.seed = 77
      options.run = RunID(0x12_3456_789a)
      options.arrivals = .poisson
      options.profile =
        options.workload.dueTogetherNanoseconds == nil ? LoadProfile("100/1s,0-300/2s") : nil
      options.agents = [
        try #require(Endpoint("127.0.0.1:1")), try #require(Endpoint("127.0.0.1:2")),
      ]
      let bytes = try AgentMessage.encode(AgentJob(options, index: 1))
      let job = try AgentMessage.decode(AgentJob.self, bytes)
      let theirs = try job.options(target: options.target)
      var workload = theirs.workload
      workload.scenario = options.workload.scenario
      #expect(workload == options.workload, "\(scenario.name)")
      #expect(theirs.profile == options.profile && theirs.arrivals == .poisson)
      #expect(theirs.run == options.run && theirs.seed == 77)
      #expect(theirs.firstWorker == 2 && theirs.workers == 4 && options.workers == 4)
      // Twelve connections, three for each of four threads.
      #expect((0..<4).map { theirs.share(of: 12, worker: $0) } == [3, 3, 3, 3])
      #expect(!theirs.watches)
    }
  }

  @Test(
    arguments: [
      { $0.workload = "{}{" }, { $0.rate = "fast" }, { $0.arrivals = "late" }, { $0.run = "x" },
      { $0.agents = 0 }, { $0.index = 2 }, { $0.threads = 65 }, { $0.threads = -1 },
      { $0.connections = Int.max }, { $0.streams = 0 }, { $0.durationSeconds = .infinity },
      { $0.workload = "{\"skus\": -1}" }, { $0.threads = Int.min },
    ] as [@Sendable (inout AgentJob) -> Void])
  func noJob(change: @Sendable (inout AgentJob) -> Void) throws {
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:7420")))
    options.agents = [try #require(Endpoint("127.0.0.1:1")), try #require(Endpoint("127.0.0.1:2"))]
    var job = AgentJob(options, index: 0)
    change(&job)
    #expect(throws: LoadError.self) { try job.options(target: options.target) }
  }

  // MARK: Counts

  @Test func countsComeAsTheyWere() throws {
    var counts = IntervalCounts()
    counts.isMeasured = true
    counts.answered = 3
    counts.endNanoseconds = 1_500
    counts.cpuNanoseconds = 77
    for value: Int64 in [1_000, 1_000, 5_000_000] { counts.latencies.record(value, .confirm) }
    counts.serviceTimes.record(900)
    counts.outcomes[Outcome.confirmed.rawValue] = 3
    counts.codes[0] = 3
    let bytes = try AgentMessage.encode(AgentCounts(counts, number: 4, start: 1_000))
    let message = try AgentMessage.decode(AgentCounts.self, bytes)
    let theirs = try message.counts(start: 9_000, numbers: 0...4)
    #expect(theirs.number == 4 && theirs.endNanoseconds == 9_500 && theirs.isMeasured)
    #expect(theirs.latencies[.confirm]?.summary == counts.latencies[.confirm]?.summary)
    #expect(theirs.latencies.methods == [.confirm] && theirs.serviceTimes.count == 1)
    #expect(theirs.outcomes == counts.outcomes && theirs.codes == counts.codes)
    #expect(throws: LoadError.self) { try message.counts(start: 0, numbers: 5...9) }
    #expect(throws: LoadError.self) { try message.counts(start: 0, numbers: 0...3) }
  }

  @Test func hostileCountsAreRefused() throws {
    var message = AgentCounts(IntervalCounts(), number: 0, start: 0)
    message.answered = -1
    #expect(throws: LoadError.self) { try message.counts(start: 0, numbers: 0...0) }
    message.answered = .max
    #expect(throws: LoadError.self) { try message.counts(start: 0, numbers: 0...0) }
    message.answered = 0
    message.outcomes = [1]
    #expect(throws: LoadError.self) { try message.counts(start: 0, numbers: 0...0) }
    // The last: each count alone may be, and their sum may not.
    for values: [UInt64] in [[1], [5, .max], [5, 1 << 41], [5, 1 << 40, 6, 1 << 40]] {
      var latencies = AgentLatencies(Latencies())
      latencies.values = values
      #expect(throws: LoadError.self) { try latencies.latencies() }
    }
    var statistics = AgentStatistics(Statistics(), busyShares: [0.5], endedEarly: nil)
    #expect(try statistics.statistics().attempts == 0)
    statistics.busyShares = [.nan]
    #expect(throws: LoadError.self) { try statistics.statistics() }
    #expect(throws: LoadError.self) { try AgentMessage.decode(AgentCounts.self, [0x7b]) }
  }

  // MARK: Ledgers

  /// A ledger whose clock is 10,000 behind, give or take 100: what was sent is earlier, what was answered later.
  @Test func aLedgerComesInTheCoordinatorsTime() throws {
    let run = RunID(5)
    let names = SKUNames(run: run)
    var ledger = Ledger(worker: 3, names: names, keys: KeyNames(run: run))
    for number in 0..<3 {
      let operation = ledger.openRestock(sku: UInt32(number), units: 5)
      ledger.sent(operation, .adjustStock, at: 1_000 + Int64(number))
      ledger.answered(
        operation, .adjustStock,
        .accepted(id: ReservationID(number: 0), expiresNanoseconds: 0, isReplayed: false),
        sentAt: 1_000 + Int64(number), at: 1_500)
    }
    var books = Books()
    books.add(ledger)
    var pieces: [[UInt8]] = []
    let count = books.encode(startNanoseconds: 900) { piece in
      pieces.append(piece.indices.map { piece[$0] })
    }
    #expect(count == 3)
    func reader(skus: Int = 3, workers: Range<Int> = 2..<4) -> BooksReader {
      BooksReader(
        run: run, skuCount: skus, keepsCommitted: false, workers: workers,
        sentFrom: 900 + 10_000 - 100, answeredFrom: 900 + 10_000 + 100)
    }
    var good = reader()
    for piece in pieces { try good.take(piece) }
    var theirs = try good.takeBooks(operations: 3)
    theirs.forEachLedger { ledger in
      #expect(ledger.worker == 3 && ledger.count == 3)
      let attempts = ledger.attempts(of: 0).map { ledger.attempt($0) }
      #expect(attempts.map(\.sentNanoseconds) == [10_900])
      #expect(attempts.map(\.answeredNanoseconds) == [11_600])
    }
    var all = Books()
    all.take(&theirs)
    #expect(all.count == 1 && theirs.count == 0)
    // A piece is missing; it is another agent's; it names an SKU that there is not; it is no piece.
    var short = reader()
    #expect(throws: HistoryError.self) { _ = try short.takeBooks(operations: 3) }
    var foreign = reader(workers: 0..<2)
    #expect(throws: HistoryError.self) { try foreign.take(pieces[0]) }
    var few = reader(skus: 2)
    #expect(throws: HistoryError.self) { try few.take(pieces[0]) }
    var garbage = reader()
    #expect(throws: HistoryError.self) { try garbage.take([0x08, 0x01]) }
    #expect(throws: HistoryError.self) { try garbage.take(Array(pieces[0].dropLast())) }
  }

  // MARK: SKUs of its own

  @Test(arguments: [Distribution.uniform, .zipf(exponent: 1), .hot(count: 3, share: 0.5)])
  func agentsDrawTheirOwnSKUs(distribution: Distribution) {
    var workload = Workload()
    workload.skuCount = 11
    workload.distribution = distribution
    workload.hotShare = 0.2
    let weights = AliasTable(workload)
    for index in 0..<4 {
      var draws = Draws(workload, weights: weights, owner: (index, 4), seed: 5)
      let drawn = Set((0..<2_000).map { _ in Int(draws.sku()) })
      #expect(drawn == Set(stride(from: index, to: 11, by: 4)), "\(index)")
    }
  }
}
