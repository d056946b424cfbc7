import Messaging
import Posix
import Testing

@testable import LoadHistory
@testable import LoadKit
@testable import LoadReport

/// Runs whose Reserves go through a queue: what is told of each is as if it had been called.
@Suite(.serialized) struct OrderRunTests {
  private func run(
    _ fault: FakeQueue.Fault = .none, server: FakeServer.Fault = .none,
    _ change: (inout RunOptions) -> Void = { _ in }, _ look: (consuming RunResult) throws -> Void
  ) throws {
    let server = try FakeServer(server)
    defer { server.stop() }
    let target = try #require(Endpoint("127.0.0.1:\(server.port)"))
    let queue = FakeQueue(fault, server: target)
    var options = RunOptions(target: target)
    options.connections = 2
    options.streams = 8
    options.operations = 800
    options.seed = 3
    options.run = RunID(42)
    options.via = queue.route
    options.workload.units = 300
    options.workload.skuCount = 3
    options.workload.lines = 1...2
    options.workload.duplicateShare = 0.1
    change(&options)
    try look(try LoadKit.run(options))
  }

  @Test func everyAnswerIsOfItsOrder() throws {
    try run(.none) {
      // So many that each outcome comes, however the calls fall.
      $0.operations = 1600
      $0.workload.units = 60
      $0.workload.readShare = 0.05
      $0.workload.restockShare = 0.02
      $0.savesHistory = true
    } _: { result in
      let report = result.report
      #expect(result.exitStatus == 0, "\(report.text)")
      for outcome in [
        Outcome.reserved, .insufficientStock, .confirmed, .released, .replayed, .read, .restocked,
      ] {
        #expect(report.outcomes[outcome.name] ?? 0 > 0, "\(outcome.name)")
      }
      #expect(report.outcomes.values.reduce(0, +) == report.attempts)
      #expect(report.codes.values.reduce(0, +) == report.attempts)
      #expect(report.latencyMicroseconds["Reserve"]?.count ?? 0 > 200)
      #expect(report.check?.duplicatesCompared ?? 0 > 10)
      #expect(report.configuration.target.hasSuffix(" via amqp://queue:5672"))
      switch result.history {
      case .some(let history):
        let read = try History(history.encoded())
        let isOfOrders = read.books.isOfOrders
        #expect(isOfOrders)
      case .none: Issue.record("no history")
      }
    }
  }

  /// What carts, alternatives and limits are, an order says too.
  @Test func ordersSayAllThatReservesSay() throws {
    try run {
      $0.workload.skuCount = 6
      $0.workload.warehouses = 3
      $0.workload.partialShare = 0.3
      $0.workload.units = 30
    } _: { result in
      #expect(result.exitStatus == 0, "\(result.report.text)")
    }
    try run {
      $0.workload.maxUnits = 3
      $0.workload.subjectCount = 40
    } _: { result in
      #expect(result.exitStatus == 0, "\(result.report.text)")
      #expect(result.report.outcomes[Outcome.limitExceeded.name] ?? 0 > 0)
    }
  }

  @Test func threadsAndSchedules() throws {
    try run {
      $0.threads = 2
      $0.operations = nil
      $0.durationSeconds = 1
      $0.warmUpSeconds = 0
      $0.profile = LoadProfile("400")
    } _: { result in
      #expect(result.exitStatus == 0, "\(result.report.text)")
      #expect(result.report.outcomes[Outcome.reserved.name] ?? 0 > 50)
    }
  }

  @Test func connectionsThatAreLost() throws {
    try run(.losesAnswers(every: 100)) {
      // What is decided and not answered is asked for again.
      $0.workload.units = 100
    } _: { result in
      let report = result.report
      #expect(result.exitStatus == 0, "\(report.text)")
      #expect(report.connectionsLost > 3)
      #expect(report.connectionsRedialled == report.connectionsLost)
      #expect(report.outcomes[Outcome.unanswered.name] == nil)
      #expect(report.outcomes[Outcome.lost.name] == nil)
    }
  }

  @Test(arguments: [FakeQueue.Fault.answersTwice, .postpones(every: 7), .babbles])
  func whatHappensWithQueues(_ fault: FakeQueue.Fault) throws {
    try run(fault) {
      $0.operations = 300
    } _: { result in
      #expect(result.exitStatus == 0, "\(result.report.text)")
      #expect(result.report.connectionsLost == 0)
    }
  }

  @Test func aBrokerThatTakesNothing() throws {
    try run(.refuses) {
      $0.operations = 100
    } _: { result in
      #expect(result.report.outcomes[Outcome.otherFailure.name] ?? 0 >= 100)
      #expect(result.report.firstFailure?.contains("REJECTED, no order") == true)
      #expect(result.exitStatus == 2, "\(result.report.text)")
      #expect(result.report.verdict.sentence.contains("no order was answered: "))
    }
  }

  /// Nobody reads the queue, or nobody does any more.
  @Test(arguments: [0, 100])
  func ordersThatNobodyAnswers(_ answered: Int) throws {
    try run(.fallsSilent(after: answered)) {
      $0.operations = nil
      $0.durationSeconds = 0.3
      $0.warmUpSeconds = 0
      $0.drainSeconds = 0.5
    } _: { result in
      #expect(result.exitStatus == 2, "\(result.report.text)")
      #expect(result.report.result == .unknown)
      let sentence = result.report.verdict.sentence
      #expect(
        sentence.hasPrefix("NO VERDICT: ")
          && sentence.contains("does `holdfast intake` take orders"))
      #expect(
        sentence.contains(answered == 0 ? "no order was answered" : "no answer in the last 0.5 s"))
    }
  }

  @Test func anExchangeThatIsNotThere() throws {
    do {
      try run(.isElsewhere) { _ in
      } _: { _ in
        Issue.record("it runs")
      }
    } catch let error as LoadError {
      #expect(error.description == "amqp://queue:5672: no exchange 'orders'")
    }
  }

  @Test func aBrokerThatIsGone() throws {
    try run(.diesAfter(orders: 100)) {
      $0.quietSeconds = 2
    } _: { result in
      #expect(result.report.isPartial)
      #expect(result.report.connectionsLost == 1)
      #expect(result.report.outcomes[Outcome.unanswered.name] ?? 0 > 0)
    }
  }

  /// Wrong servers, and wrong queues, are found out.
  @Test(
    arguments: [
      (.swapsAnswers, .none), (.none, .losesConfirms),
      (.losesAnswers(every: 50), .forgetsKeys), (.none, .forgetsKeys),
    ] as [(FakeQueue.Fault, FakeServer.Fault)])
  func whatIsWrongIsFound(_ fault: FakeQueue.Fault, _ server: FakeServer.Fault) throws {
    try run(fault, server: server) {
      $0.workload.units = 100
    } _: { result in
      #expect(result.exitStatus == 1, "\(result.report.text)")
    }
  }

  @Test func aBrokerThatIsNotThere() throws {
    let nobody = try Socket.bind(host: "127.0.0.1", port: 0)
    let port = try Socket.localPort(nobody.number)
    do {
      try run(.none) {
        let address = BrokerAddress("amqp://me:secret@127.0.0.1:\(port)")!
        $0.via = OrderRoute(BrokerAccess(address, program: "test"))
      } _: { _ in
        Issue.record("it runs")
      }
    } catch let error as LoadError {
      #expect(error.description.hasPrefix("amqp://127.0.0.1:\(port): "))
    }
    // Until here the port is nobody else's.
    #expect(nobody.number >= 0)
  }

  @Test(
    arguments: [
      ("--api batch", { @Sendable in $0.workload.api = .batch }),
      ("--api stream", { @Sendable in $0.workload.api = .stream }),
      ("--cut-share", { @Sendable in $0.workload.cutShare = 0.1 }),
      ("--close-share", { @Sendable in $0.workload.closeShare = 0.1 }),
      ("--agents", { @Sendable in $0.agents = [Endpoint.standard] }),
    ] as [(String, @Sendable (inout RunOptions) -> Void)])
  func whatGoesThroughNoQueue(
    _ words: String, _ change: @Sendable (inout RunOptions) -> Void
  ) throws {
    var options = RunOptions(target: .standard)
    options.via = FakeQueue(server: .standard).route
    change(&options)
    do throws(LoadError) {
      try options.validate()
      Issue.record("it takes \(words)")
    } catch {
      #expect(error.description.hasPrefix("--via ") && error.description.contains(words))
    }
  }

  @Test func reportsSayNoPassword() {
    let lines = [
      ["run", "--via", "amqp://me:secret@host/vhost", "--seed", "1"],
      ["run", "--via=amqps://me:secret@host:1"],
    ]
    #expect(
      lines.map { OrderRoute.hidingPassword($0) } == [
        ["run", "--via", "amqp://host:5672", "--seed", "1"], ["run", "--via=amqps://host:1"],
      ])
    #expect(OrderRoute.hidingPassword(["--via"]) == ["--via"])
    #expect(OrderRoute.hidingPassword(["--via", "nonsense"]) == ["--via", "nonsense"])
  }
}
