// `holdfast intake`: orders from a broker, held by a server and answered.
internal import Admin
internal import ArgumentParser
internal import Client
internal import Intake
internal import Messaging
internal import Posix
internal import Version

struct IntakeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "intake",
    abstract: "Take orders from RabbitMQ or Kafka, hold what they want, and answer them.",
    discussion: """
      holdfast intake --broker amqp://holdfast@127.0.0.1/ --broker-password-file rabbit.password

      Takes OrderPlaced from partitioned queues, reserves with the order's id as the idempotency key, and answers \
      StockReserved or StockRejected. A delivery is accepted once the broker has confirmed its answer: orders that come \
      twice, or again, are harmless. Orders of one SKU are decided in the order of their queue. docs/EVENTS.md describes \
      the messages.

      Goes on by itself where the server or the broker is away, or takes nothing, until SIGINT or SIGTERM; then it answers \
      what the server has. What can never be decided goes to the queue of dead letters with its reason. With callers, the \
      server wants the role reserve.

      Exit status: 0 after a signal; 1 where --admin-port is taken; 64 usage; 66 a file that cannot be read. What else goes \
      wrong it tells on standard error, and tries again.
      """)

  @Option(
    help: ArgumentHelp(
      "The exchange of the orders and the beginning of its queues' names, or Kafka's topic.",
      valueName: "name"))
  var orders = "orders"
  @Option(
    help: ArgumentHelp(
      "How many queues, or partitions, there are: 1 to 256. Every intake of them says the same.",
      valueName: "count"))
  var partitions = 4
  @Option(
    help: ArgumentHelp(
      "The exchange, or topic, of answers to orders that do not say where.", valueName: "name"))
  var answers = "orders.answers"
  @Option(
    help: ArgumentHelp("The queue, or topic, of what can never be decided.", valueName: "name"))
  var deadLetters = "orders.dead"
  @Option(
    help: ArgumentHelp("How many orders may be in hand: 1 to 65535.", valueName: "count"))
  var prefetch = 1000
  @Option(
    help: ArgumentHelp(
      "How many orders a call may have: 1 to 8192, what a server takes.", valueName: "count"))
  var batch = 1000
  @Option(
    help: ArgumentHelp(
      """
      How often an order over which the server fails is tried: 1 to 1000. What is only busy or away is tried for ever.
      """, valueName: "count"))
  var tries = 5
  @Option(
    help: ArgumentHelp(
      """
      How often an order may be delivered, where the broker counts that (RabbitMQ), before it is tried alone; and how often \
      then before it goes to the dead letters: 1 to 100000. Ends of intakes count, and of connections of other intakes.
      """, valueName: "count"))
  var deliveries = 10
  @Option(
    help: ArgumentHelp(
      """
      How long to hold, of orders that do not say it: 1s to 8784h (the server's). Part of what an order asks for: those \
      that come again after it was changed are refused as others.
      """, valueName: "duration"))
  var ttl: String?
  @Option(help: ArgumentHelp("Kafka's consumer group.", valueName: "name"))
  var group = "holdfast-intake"
  @Option(
    help: ArgumentHelp("The source of the answers, as CloudEvents has it.", valueName: "text"))
  var source = "holdfast-intake"
  @Flag(help: "Do not make exchanges and queues where they are missing.")
  var noDeclare = false
  @Option(
    help: ArgumentHelp(
      "How long to wait for what the server has at the end: 0s to 10m.", valueName: "duration"))
  var shutdownTimeout = "10s"
  @Option(help: ArgumentHelp("A port for metrics; 0: a free one (none).", valueName: "port"))
  var adminPort: UInt16?
  @Option(help: ArgumentHelp("Where the port for metrics is.", valueName: "address"))
  var adminHost = "127.0.0.1"
  @OptionGroup(title: "Broker") var broker: BrokerFlags
  @OptionGroup(title: "Server") var server: TargetOptions

  private static let program = "holdfast-intake/\(Build.version)"
  /// What an exchange's name or a topic's may have, with room for the number of a queue.
  private static let nameBytesMax = 240

  func run() async throws {
    try await CommandFailure.report {
      let options = try self.options()
      let broker = try self.broker.source(program: Self.program)
      let targets = try server.targets()
      let hasQueues = if case .amqp = broker.access.address { true } else { false }
      let metrics = IntakeMetrics(options, hasQueues: hasQueues)
      let service = try ClientService(
        "intake", metrics: { metrics.add(to: &$0) }, adminHost: adminHost, adminPort: adminPort,
        readiness: { metrics.isEnding ? .draining : metrics.isReady ? .ready : .recovering },
        lastRound: { metrics.lastRound }, status: { metrics.status })
      service.announce("holdfast taking orders: broker \(broker.access.address) orders \(orders)")
      let problem = await service.run { interruption in
        Self.watchQueues(options, hasQueues: hasQueues, broker, metrics, interruption)
        let intake = Self.intake(options, broker, targets, metrics)
        intake.run(isStopped: { interruption.hasCome })
        service.stopping(within: options.shutdownNanoseconds)
        let left = intake.drain()
        if left > 0 {
          CommandFailure.complain(
            "\(left) orders were not answered: the broker delivers them again")
        }
        return nil
      }
      if let problem { throw problem }
    }
  }

  private static func intake(
    _ options: IntakeOptions, _ broker: BrokerSource, _ targets: [ServiceTarget],
    _ metrics: IntakeMetrics
  ) -> OrderIntake {
    OrderIntake(
      options, targets, metrics: metrics, address: broker.access.address,
      connectBroker: { () throws(BrokerError) in try broker.connect() },
      connectServer: { (target) throws(CallFailure) in
        try ServiceOrderServer(target, program: program)
      }, report: { CommandFailure.complain($0) })
  }

  private static func watchQueues(
    _ options: IntakeOptions, hasQueues: Bool, _ broker: BrokerSource, _ metrics: IntakeMetrics,
    _ interruption: Interruption
  ) {
    // Without it, less is known.
    _ = try? Thread(name: "queue-depths") {
      let depths = QueueDepths(options, hasQueues: hasQueues, metrics: metrics) {
        () throws(BrokerError) in
        try broker.connect()
      }
      depths.run(isStopped: { interruption.hasCome })
    }
  }

  private func options() throws(CommandFailure) -> IntakeOptions {
    var options = IntakeOptions()
    for (flag, text, most) in [
      ("--orders", orders, Self.nameBytesMax), ("--answers", answers, Self.nameBytesMax),
      ("--dead-letters", deadLetters, Self.nameBytesMax), ("--group", group, 255),
      ("--source", source, 255),
    ] {
      guard 1...most ~= text.utf8.count, text.utf8.allSatisfy({ 0x21...0x7e ~= $0 }) else {
        throw Self.mistake("\(flag): not 1 to \(most) bytes of printable ASCII without spaces")
      }
    }
    for (flag, value, range) in [
      ("--partitions", partitions, 1...256), ("--prefetch", prefetch, 1...65_535),
      ("--batch", batch, 1...8192), ("--tries", tries, 1...1000),
      ("--deliveries", deliveries, 1...100_000),
    ] {
      guard range.contains(value) else {
        throw Self.mistake("\(flag): \(range.lowerBound) to \(range.upperBound)")
      }
    }
    // An order that nobody can read would be buried among the orders, and dug up again, without end.
    guard Set([orders, answers, deadLetters]).count == 3 else {
      throw Self.mistake("--orders, --answers, --dead-letters: three names")
    }
    (options.orders, options.partitions) = (orders, partitions)
    (options.answers, options.deadLetters) = (answers, deadLetters)
    guard !(options.queues + [options.suspects]).contains(deadLetters) else {
      throw Self.mistake("--dead-letters: \(deadLetters) is a queue of orders")
    }
    (options.prefetch, options.batchMax) = (prefetch, batch)
    (options.tries, options.deliveriesMax) = (tries, deliveries)
    (options.group, options.source, options.declares) = (group, source, !noDeclare)
    options.ttlNanoseconds = try ClientCommand.ttl(ttl)
    options.shutdownNanoseconds = try Settings.duration(
      shutdownTimeout, 0...600 * Limits.second, "--shutdown-timeout")
    return options
  }

  private static func mistake(_ text: String) -> CommandFailure {
    CommandFailure(description: text, status: CommandFailure.usage)
  }
}
