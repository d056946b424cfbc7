// `holdfast relay`: what a server decides, published to a broker.
internal import Admin
internal import ArgumentParser
internal import Client
internal import GRPC
internal import Glibc
internal import Messaging
internal import Metrics
internal import Posix
internal import Relay
internal import Supervision
internal import Version

struct RelayCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "relay",
    abstract: "Publish what a server decides to RabbitMQ or Kafka.",
    discussion: """
      holdfast relay --broker amqp://holdfast@127.0.0.1/ --broker-password-file rabbit.password --resume-file relay.token

      Follows a server, and publishes each decision as a CloudEvent: at least once, and those of one SKU in order. The \
      resume file has the position up to which the broker has confirmed everything, so that nothing is lost whoever is \
      killed; what comes twice has the same id. docs/EVENTS.md describes the messages.

      Goes on by itself where the server or the broker is away, or takes nothing, until SIGINT or SIGTERM; then it waits \
      for what is not confirmed. A message that the broker refuses for good goes to the queue of dead letters. With \
      callers, the server wants the role read, and stock to tell keys and callers.

      Exit status: 0 after a signal; 1 where --admin-port is taken; 64 usage; 65 where the server cannot go on from the position in the resume file \
      (RESUME_TOKEN_TOO_OLD, RESUME_TOKEN_FOREIGN); 66 or 74 where a file cannot be read or written; 69 no such host, 75 \
      where another relay has the resume file, 76 TLS, 77 credentials.
      """)

  @Option(
    help: ArgumentHelp(
      "The file with the position; made if missing. One relay has it at a time.", valueName: "file"),
    completion: .file())
  var resumeFile: String
  @Option(
    help: ArgumentHelp(
      "Where to begin without a position: oldest (what the server keeps) or now (oldest).",
      valueName: "place"))
  var from = Place.oldest
  @Option(
    help: ArgumentHelp(
      """
      Where to go on if the server has no events from the position on any more, or is another one: what lies between is \
      not published. Without it the command ends then (65).
      """, valueName: "place"))
  var beginAgain: Place?
  @Option(
    help: ArgumentHelp(
      "The exchange, or Kafka's topic, of the events.", valueName: "name"))
  var destination = "holdfast.events"
  @Option(
    help: ArgumentHelp(
      "The queue, or topic, of messages that the broker refuses for good.", valueName: "name"))
  var deadLetters = "holdfast.events.dead"
  @Flag(help: "Do not make the exchange and the queue where they are missing.")
  var noDeclare = false
  @Option(help: ArgumentHelp("The body: json or protobuf (json).", valueName: "format"))
  var format = EventFormat.json
  @Option(help: ArgumentHelp("The source of the events, as CloudEvents has it.", valueName: "text"))
  var source = "holdfast"
  @Option(
    help: ArgumentHelp(
      "How many messages may be unconfirmed at once: 1 to 1000000.", valueName: "count"))
  var window = 20_000
  @Option(
    help: ArgumentHelp(
      "How long to wait for confirmations at the end: 0s to 10m.", valueName: "duration"))
  var shutdownTimeout = "10s"
  @Option(help: ArgumentHelp("A port for metrics; 0: a free one (none).", valueName: "port"))
  var adminPort: UInt16?
  @Option(help: ArgumentHelp("Where the port for metrics is.", valueName: "address"))
  var adminHost = "127.0.0.1"
  @OptionGroup(title: "Broker") var broker: BrokerFlags
  @OptionGroup(title: "Server") var server: TargetOptions

  /// Where to begin.
  enum Place: String, ExpressibleByArgument, CaseIterable {
    case oldest, now

    var start: WatchStart { self == .now ? .now : .oldest }
  }

  /// What an exchange's name or a topic's may have.
  private static let nameBytesMax = 249

  func run() async throws {
    try await CommandFailure.report {
      let run = RelayRun(
        options: try options(), broker: try broker.source(program: RelayRun.program),
        targets: try server.targets(), resumeFile: try Self.open(resumeFile), from: from,
        beginAgain: beginAgain, deadLetters: deadLetters, declares: !noDeclare, window: window)
      let position = try Self.position(in: run.resumeFile)
      let metrics = RelayMetrics()
      let service = try ClientService(
        "relay", metrics: { metrics.add(to: &$0) }, adminHost: adminHost, adminPort: adminPort,
        readiness: { metrics.isEnding ? .draining : metrics.isReady ? .ready : .recovering },
        lastRound: { metrics.lastRound }, status: { metrics.status })
      service.announce(
        "holdfast relaying: broker \(run.broker.access.address) destination \(destination)")
      let problem = await service.run { interruption in
        run.run(
          behind: position, metrics, isStopped: { interruption.hasCome },
          stopping: { service.stopping(within: run.options.drainNanoseconds) })
      }
      if let problem { throw problem }
    }
  }

  private func options() throws(CommandFailure) -> RelayOptions {
    var options = RelayOptions()
    for (flag, name) in [("--destination", destination), ("--dead-letters", deadLetters)] {
      guard 1...Self.nameBytesMax ~= name.utf8.count, name.utf8.allSatisfy({ 0x21...0x7e ~= $0 })
      else {
        throw Self.mistake(
          "\(flag): not 1 to \(Self.nameBytesMax) bytes of printable ASCII without spaces")
      }
    }
    guard destination != deadLetters else {
      throw Self.mistake("--dead-letters: another name than --destination")
    }
    guard 1...255 ~= source.utf8.count, source.utf8.allSatisfy({ 0x21...0x7e ~= $0 }) else {
      throw Self.mistake("--source: not 1 to 255 bytes of printable ASCII without spaces")
    }
    guard 1...1_000_000 ~= window else { throw Self.mistake("--window: 1 to 1000000") }
    (options.destination, options.source, options.format) = (destination, source, format)
    options.drainNanoseconds = try Settings.duration(
      shutdownTimeout, 0...600 * Limits.second, "--shutdown-timeout")
    return options
  }

  // MARK: The resume file

  private static func open(_ path: String) throws(CommandFailure) -> ResumeFile {
    do throws(ResumeFile.Failure) {
      return try ResumeFile(path: path) { CommandFailure.complain($0) }
    } catch {
      switch error {
      case .inUse:
        throw CommandFailure(
          description: "--resume-file \(path): another relay has it", status: ExitStatus.again)
      case .unusable(let error):
        throw CommandFailure(
          description: "--resume-file \(path): \(error)", status: ExitStatus.outputFailed)
      case .noToken: throw Self.withoutToken(path)
      }
    }
  }

  private static func position(in file: ResumeFile) throws(CommandFailure) -> WatchPosition? {
    do throws(ResumeFile.Failure) {
      return try file.position()
    } catch {
      switch error {
      case .unusable(let error):
        throw CommandFailure(
          description: "--resume-file \(file.path): \(error)", status: ExitStatus.noInput)
      case .inUse, .noToken: throw Self.withoutToken(file.path)
      }
    }
  }

  private static func withoutToken(_ path: String) -> CommandFailure {
    CommandFailure(
      description: "--resume-file \(path): there is no resume token in it",
      status: ExitStatus.badData)
  }

  private static func mistake(_ text: String) -> CommandFailure {
    CommandFailure(description: text, status: CommandFailure.usage)
  }
}

/// What the thread of a relay does.
private struct RelayRun: Sendable {
  static let program = "holdfast-relay/\(Build.version)"
  /// Bytes of messages that are unconfirmed.
  private static let windowBytes = 64 << 20

  let options: RelayOptions
  let broker: BrokerSource
  let targets: [ServiceTarget]
  let resumeFile: ResumeFile
  let from: RelayCommand.Place
  let beginAgain: RelayCommand.Place?
  let deadLetters: String
  let declares: Bool
  let window: Int

  /// nil: it was asked to end.
  func run(
    behind position: WatchPosition?, _ metrics: RelayMetrics, isStopped: @escaping () -> Bool,
    stopping: () -> Void
  ) -> CommandFailure? {
    do throws(Errno) { try resumeFile.start() } catch {
      return CommandFailure(description: "cannot start a thread: \(error)")
    }
    let relay = Relay(
      options, outbox: outbox(), metrics: metrics, skipThrough: position?.printed ?? 0,
      keep: { resumeFile.keep($0) }, savesFailed: { resumeFile.failures }, isStopped: isStopped)
    let problem = follow(relay, from: position?.start ?? from.start)
    stopping()
    let unconfirmed = relay.drain()
    if unconfirmed > 0 {
      CommandFailure.complain(
        "\(unconfirmed) messages were not confirmed: they are published again by the next start")
    }
    guard let error = resumeFile.finish(), problem == nil else { return problem }
    return CommandFailure(
      description: "--resume-file \(resumeFile.path): \(error)", status: ExitStatus.outputFailed)
  }

  private func outbox() -> Outbox {
    let declarations: [BrokerDeclaration] =
      declares ? [.destination(options.destination), .deadLetters(deadLetters)] : []
    return Outbox(
      OutboxLimits(messagesMax: window, bytesMax: Self.windowBytes),
      deadLetters: DeadLetters(deadLetters, on: broker.access.address),
      connect: { () throws(BrokerError) in
        let connection = try broker.connect()
        do throws(BrokerError) { try connection.declare(declarations) } catch {
          connection.close()
          throw error
        }
        return connection
      }, report: { CommandFailure.complain("\(broker.access.address): \($0)") })
  }

  private func follow(_ relay: Relay, from start: WatchStart) -> CommandFailure? {
    var start = start
    var nextPlace = beginAgain
    while true {
      let watch = EventWatch(
        targets, program: Self.program, filter: .everything, from: start, endures: true
      ) { CommandFailure.complain($0) }
      do throws(CallFailure) {
        try unsafe watch.run(read: { unsafe relay.read($0) }, pause: { relay.pause(watch) })
        return nil
      } catch {
        let isLost = ["RESUME_TOKEN_TOO_OLD", "RESUME_TOKEN_FOREIGN"].contains(error.details.reason)
        guard isLost, let place = nextPlace else { return failure(error, isLost: isLost, start) }
        let words = "\(error.server): \(error.text) (\(error.label))"
        CommandFailure.complain(
          "\(words); begins again at \(place.rawValue): what lies between is not published")
        (start, nextPlace) = (place.start, nil)
        relay.beginAgain()
      }
    }
  }

  /// - Parameter isLost: there are decisions that this relay does not get any more: somebody has to know.
  private func failure(
    _ error: CallFailure, isLost: Bool, _ start: WatchStart
  ) -> CommandFailure {
    // Damaged, or another file.
    if error.kind == .answered(.invalidArgument), case .after = start {
      return CommandFailure(
        description: """
          --resume-file \(resumeFile.path): the server cannot read the resume token in it: the file is damaged, or is \
          another one (\(error.label))
          """, status: ExitStatus.badData)
    }
    guard isLost else {
      return CommandFailure(
        description: error.lines().joined(separator: "\n"), status: error.exitStatus)
    }
    return CommandFailure(
      description: """
        \(error.server): \(error.text) (\(error.label))
          The server cannot go on behind the position in \(resumeFile.path). Let the consumers read the stock anew, and \
        start with --begin-again oldest (all that is kept) or --begin-again now.
        """, status: ExitStatus.badData)
  }
}

extension EventFormat: ExpressibleByArgument {}
