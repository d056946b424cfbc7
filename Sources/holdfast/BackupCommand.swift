// `holdfast backup`: a copy of the state that can be restored, also of a server that goes on serving.
internal import ArgumentParser
internal import Foundation
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
  var dataDir: String

  @Argument(
    help: ArgumentHelp("A new directory for the backup.", valueName: "directory"))
  var directory: String

  func run() async throws {
    try await CommandFailure.report {
      let interruption = Interruption()
      let partial = try NewDirectory.make(directory)
      do throws(JournalError) {
        let source = try DirectoryStorage(path: dataDir, access: .reader)
        guard
          let manifest = try Backup.copy(
            of: source, to: partial, isInterrupted: { interruption.hasCome })
        else {
          throw .unsuitable("interrupted: there is no backup")
        }
        Self.tell(manifest, partial.path)
      } catch {
        partial.discard()
        throw CommandFailure(error, directory: dataDir, remedy: "stop it first")
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
