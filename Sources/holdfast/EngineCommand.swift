// `holdfast engine` and `holdfast handover`: the log in an engine, for whoever operates it.
internal import ArgumentParser
internal import Log
internal import Posix
internal import PostgresLog

struct EngineCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "engine",
    abstract: "The engine that keeps the log with serve --durability quorum.",
    subcommands: [Init.self, Status.self])

  struct Init: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Make the engine's tables, or look whether they are as they should be.",
      discussion: """
        The schema is called holdfast. Whoever runs this owns it; --role gets the rights that servers need, \
        and no more. Run again, it changes nothing but those rights.
        """)
    @Option(help: engineHelp) var engine: String
    @Option(help: ArgumentHelp("Who servers connect as, if not its owner.", valueName: "role"))
    var role: String?

    func run() async throws {
      try await CommandFailure.report {
        try EngineCommand.attempt { () throws(JournalError) in
          let isNew = try PostgresSchema.make(at: engine, role: role)
          if isNew { print("made the engine's tables") }
          try EngineCommand.log(engine).check()
          if !isNew { print("the engine's tables are there already") }
        }
      }
    }
  }

  struct Status: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Who owns the log, where it ends, and who stands by.")
    @Option(help: engineHelp) var engine: String

    func run() async throws {
      try await CommandFailure.report {
        try EngineCommand.attempt { () throws(JournalError) in
          let log = try EngineCommand.log(engine)
          try log.check()
          let state = try log.state()
          print("epoch    \(state.epoch)")
          print("owner    \(state.owner.isEmpty ? "none" : "\(state.address) (\(state.owner))")")
          if let lease = state.lease { print("lease    \(Double(lease) / 1e9) s") }
          print("log      from \(state.trimmedLSN) to \(state.endLSN)")
          for checkpoint in try log.checkpoints() { print("checkpoint at \(checkpoint.lsn)") }
          for member in try EngineMembers(address: engine).list() {
            print(
              "standby  \(member.address) (\(member.name)): at \(member.lsn), heard of \(member.secondsAgo) s ago"
            )
          }
        }
      }
    }
  }

  static let engineHelp = ArgumentHelp(
    "The engine's database, as libpq takes it, with all its hosts.", valueName: "address")

  static func log(_ address: String) throws(JournalError) -> PostgresLog {
    try JournalError.attempt("prepare for", "the engine") { () throws(Errno) in
      try PostgresLog(address: address)
    }
  }

  /// Calls the engine; what it throws is for whoever called the command.
  static func attempt(_ body: () throws(JournalError) -> Void) throws(CommandFailure) {
    do throws(JournalError) {
      try body()
    } catch {
      throw CommandFailure(description: error.description)
    }
  }
}

struct HandoverCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "handover",
    abstract: "Move the log from its owner to a standby, in well under a second.",
    discussion: """
      The owner finishes what it has, gives the log up, and ends with status 75; a standby takes it. Exit status 1 \
      where no standby is there, or none has taken it.
      """)
  @Option(help: EngineCommand.engineHelp) var engine: String
  @Option(help: ArgumentHelp("How long it may take (30s).", valueName: "time"))
  var timeout = "30s"

  func run() async throws {
    try await CommandFailure.report {
      let patience = try Settings.duration(
        timeout, Limits.second...(3600 * Limits.second), "--timeout")
      try EngineCommand.attempt { () throws(JournalError) in
        let log = try EngineCommand.log(engine)
        try log.check()
        let before = try log.state()
        guard !before.owner.isEmpty else { throw .unsuitable("the log has no owner") }
        let standbys = try EngineMembers(address: engine).list().filter {
          $0.secondsAgo < Limits.memberSecondsMax
        }
        guard !standbys.isEmpty else {
          throw .unsuitable(
            "no standby has been heard of in \(Int(Limits.memberSecondsMax)) s: nobody would take the log"
          )
        }
        try log.want()
        let began = SystemClock.monotonicNanoseconds()
        let pause = try JournalError.attempt("make", "a wake-up") { () throws(Errno) in try Wakeup()
        }
        while SystemClock.monotonicNanoseconds() - began < patience {
          if let now = try? log.state(), now.epoch > before.epoch {
            let seconds = Double(SystemClock.monotonicNanoseconds() - began) / 1e9
            print("handed over from \(before.address) to \(now.address) in \(seconds) s")
            return
          }
          pause.wait(nanoseconds: Limits.engineFollowedNanoseconds / 5)
        }
        throw .unreachable(
          "the owner at \(before.address) has not handed over in \(patience / Limits.second) s")
      }
    }
  }
}
