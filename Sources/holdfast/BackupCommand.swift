// `holdfast backup`: a copy of the state that can be restored, also of a server that goes on serving.
internal import ArgumentParser
internal import Client
internal import FoundationEssentials
internal import Log
internal import Posix
internal import StorePersistence

struct BackupCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "backup",
    abstract: "Copy the state of a data directory, also beside the server that has it.",
    discussion: """
      Copies the newest checkpoint and the journal since, as far as it is written when the copy comes to \
      its end, reads the copy as a start would, and only then gives it its name: until then it is called \
      DIRECTORY.partial. Prints one line, "backup LSN TIME DECISIONS BYTES": everything up to that log \
      sequence number is in it. No call waits for it.

      Exit status: 0 where the backup is whole and on the disk, 1 where there is none, 3 where what was to be \
      copied is damaged, 64 for a command line that makes no sense.
      """)

  @Option(
    help: ArgumentHelp(
      "The data directory to copy, on this machine.", valueName: "directory"))
  var dataDir: String?
  @Option(
    help: ArgumentHelp(
      "A server to copy from, over the network: 127.0.0.1:7420, or unix:/path. With callers, the role admin is needed.",
      valueName: "address"))
  var target: String?
  @OptionGroup(title: "With --target")
  var access: ServiceAccess

  @Argument(
    help: ArgumentHelp("A new directory for the backup.", valueName: "directory"))
  var directory: String

  func validate() throws {
    if (dataDir == nil) == (target == nil) {
      throw ValidationError("say where to copy from: --data-dir or --target")
    }
  }

  func run() async throws {
    try await CommandFailure.report {
      let interruption = Interruption()
      let server = try target.map { (text) throws(CommandFailure) in try access.target(text) }
      let partial = try NewDirectory.make(directory)
      do throws(CommandFailure) {
        let manifest =
          if let server {
            try Self.copy(from: server, to: partial, interruption)
          } else {
            try Self.copy(of: dataDir ?? "", to: partial, interruption)
          }
        Self.tell(manifest, partial.path)
      } catch {
        partial.discard()
        throw error
      }
    }
  }

  private static func copy(
    of dataDir: String, to partial: PartialDirectory, _ interruption: Interruption
  ) throws(CommandFailure) -> BackupManifest {
    do throws(JournalError) {
      let source = try DirectoryStorage(path: dataDir, access: .reader)
      let manifest = try Backup.copy(
        of: source, to: partial, isInterrupted: { interruption.hasCome })
      guard let manifest else { throw .unsuitable("interrupted: there is no backup") }
      return manifest
    } catch {
      throw CommandFailure(error, directory: dataDir, remedy: "stop it first")
    }
  }

  private static func copy(
    from server: ServiceTarget, to partial: PartialDirectory, _ interruption: Interruption
  ) throws(CommandFailure) -> BackupManifest {
    do throws(BackupClientError) {
      let writer = BackupWriter(partial)
      try BackupClient(server).receive(to: writer) { interruption.hasCome }
      do throws(JournalError) {
        return try writer.finish()
      } catch {
        throw .writing(error)
      }
    } catch {
      switch error {
      case .failed(let text):
        throw CommandFailure(description: "\(server): \(text)")
      case .damaged(let text):
        throw CommandFailure(description: "\(server): \(text)", status: CommandFailure.damaged)
      case .writing(let error):
        throw CommandFailure(error, directory: partial.partialPath, remedy: "wait until it is done")
      case .interrupted: throw CommandFailure(description: "interrupted: there is no backup")
      }
    }
  }

  static func tell(_ manifest: BackupManifest, _ path: String) {
    let time = RestoreTime.text(manifest.time)
    print("backup \(manifest.lsn) \(time) \(manifest.decisions) \(manifest.byteCount)")
    CommandFailure.complain(
      "\(path) has all \(manifest.decisions) decisions up to LSN \(manifest.lsn), and was read "
        + "back whole")
  }
}

/// A directory that a command makes.
enum NewDirectory {
  static func make(_ path: String) throws(CommandFailure) -> PartialDirectory {
    do {
      return try PartialDirectory(path)
    } catch {
      throw CommandFailure(error, directory: path, remedy: "wait until it is done")
    }
  }
}

/// SIGINT and SIGTERM, which end a command between two pieces of its work: what it made is removed.
struct Interruption {
  init() { Signals.rememberInterruption() }

  var hasCome: Bool { Signals.isInterrupted }
}
