// The command line: `holdfast serve`, and what is done with a data directory.
internal import ArgumentParser
internal import Client
internal import Log
internal import Posix
internal import StockStore
internal import StorePersistence
internal import Version

@main
struct Holdfast: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "holdfast",
    abstract: "A stock-reservation server: holds units while a customer pays, and never oversells.",
    version: Build.text,
    subcommands: [
      ServeCommand.self, BackupCommand.self, RestoreCommand.self, VerifyCommand.self,
      RepairCommand.self, DumpCommand.self, TokenCommand.self, EngineCommand.self,
      HandoverCommand.self, ProjectCommand.self, RelayCommand.self, IntakeCommand.self,
      HealthCommand.self, StockCommand.self, ReservationCommand.self, EventsCommand.self,
    ])

  static func main() async {
    Signals.makeFailedWritesErrors()
    TLSLibrary.keepUntilTheEnd()
    // Nothing can be told where this fails.
    try? FileDescriptor.openStandardStreams()
    await main(nil)
  }
}

/// Why a command ends, in one line that says what to do, and its exit status.
struct CommandFailure: Error, CustomStringConvertible {
  let description: String
  var status: Int32 = 1

  /// What was once durable is damaged.
  static let damaged: Int32 = 3
  /// The command line or a setting makes no sense (EX_USAGE of sysexits.h).
  static let usage: Int32 = 64
  /// The disk failed while the server ran (EX_IOERR).
  static let diskFailed: Int32 = 74
  /// Another server owns the log: start again, as a standby (EX_TEMPFAIL).
  static let fenced: Int32 = 75
}

extension CommandFailure {
  /// What `error` means to whoever called a command on `directory`.
  /// - Parameter remedy: what to do where another process has the directory.
  init(_ error: JournalError, directory: String, remedy: String) {
    switch error {
    case .inUse:
      self.init(description: "\(directory) is in use by another holdfast: \(remedy)")
    case .damaged(let damage) where Self.isCopy(directory):
      self.init(
        description:
          "\(directory): \(damage.place); it is a copy of a log in an engine: the next start with "
          + "--durability quorum makes it anew", status: Self.damaged)
    case .damaged:
      // The hint names a command; now it can be pasted.
      let text = error.description.replacing("repair DIR", with: "repair '\(directory)'")
      self.init(description: "\(directory): \(text)", status: Self.damaged)
    case .failed, .displaced, .unsuitable, .tooLittleMemory, .newer, .fenced, .unreachable,
      .lost, .takenBack, .trimmed:
      let text = error.description
      self.init(description: text.contains(directory) ? text : "\(directory): \(text)")
    }
  }

  /// Whether the log of a directory is kept in an engine too.
  static func isCopy(_ directory: String) -> Bool {
    (try? FileStatus(path: "\(directory)/\(FileNames.copy)")) != nil
  }

  /// Runs a command; where it fails, says why on standard error and ends with the failure's status.
  static func report(_ body: () async throws -> Void) async throws {
    do {
      try await body()
    } catch let failure as CommandFailure {
      complain(failure.description)
      throw ExitCode(failure.status)
    }
  }

  /// Writes to standard error, line by line. What is told may be a server's words: none of them steers a terminal.
  static func complain(_ text: String) {
    let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    let shown = lines.map { PlainText.printable(String($0)) }.joined(separator: "\n")
    _ = FileDescriptor.write(2, Array("holdfast: \(shown)\n".utf8), patienceMilliseconds: -1)
  }
}
