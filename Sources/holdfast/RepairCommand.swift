// `holdfast repair`: gives up the end of a damaged journal, on purpose and for good.
internal import ArgumentParser
internal import Foundation
internal import Log
internal import StockStore
internal import StorePersistence

struct RepairCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "repair",
    abstract: "Give up every decision after a place in the journal, for good.",
    discussion: """
      For a journal that is damaged, where no copy of the directory is at hand. The place is a log \
      sequence number (LSN), such as `holdfast verify` names. Says what was given up, as far as it \
      can still be read. Does not ask: keep a copy of the directory.

      Versions of items go on above all that may have been told, so that an expected_version from a \
      decision that was given up is refused. Do the same to a copy that takes the place of a \
      directory that went on: with the last LSN, which `holdfast verify` names, nothing is given up.

      Exit status: 0 where it was done, 1 where nothing was changed, 3 where it is the checkpoint \
      that is damaged: then only a copy helps.
      """)

  @Argument(help: ArgumentHelp("The data directory.", valueName: "directory"))
  var directory: String
  @Option(
    help: ArgumentHelp(
      "Log sequence number of the last decision to keep.", valueName: "lsn"))
  var truncateAt: UInt64

  func run() async throws {
    try await CommandFailure.report {
      // An owner makes the directory where there is none: not here.
      guard FileManager.default.fileExists(atPath: directory) else {
        throw CommandFailure(description: "\(directory): there is no such directory")
      }
      let report: RepairReport
      do throws(JournalError) {
        report = try Repair.truncate(
          storage: try DirectoryStorage(path: directory, access: .owner), at: truncateAt)
      } catch {
        throw CommandFailure(error, directory: directory, remedy: "stop it first")
      }
      print(
        "gave up \(report.decisions) decisions (\(report.bytes) bytes) after \(truncateAt), "
          + "and what is too damaged to be counted; item versions go on \(report.versionLift) higher, "
          + "so that none that was told comes back")
    }
  }
}
