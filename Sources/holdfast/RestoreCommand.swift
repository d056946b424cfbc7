// `holdfast restore`: a data directory of a backup, as it was at its end or at any moment since.
internal import ArgumentParser
internal import FoundationEssentials
internal import Log
internal import Posix
internal import StockStore
internal import StorePersistence

struct RestoreCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "restore",
    abstract: "Make a data directory of a backup, and of an archive up to any moment since.",
    discussion: """
      Without --until the state at the end of what there is. With it, the last state that has nothing beyond: \
      no decision behind that log sequence number, or none that is later. Reads what it made as a start would, \
      and only then gives it its name. Backup and archive stay as they are.

      What is restored begins a history of its own: versions of items go on above all that may have been told, \
      reservations get ids that nobody had, and resume tokens of watchers are foreign. Idempotency keys keep their \
      answers. Times of holds stay: what fell due since ends at the first start, which wants --accept-clock \
      where the restored state is older than a day.

      Exit status: 0 where it was done, 1 where nothing was made, 3 where backup or archive is damaged, 64 for \
      a command line that makes no sense.
      """)

  @Argument(help: ArgumentHelp("The directory of the backup.", valueName: "backup"))
  var backup: String
  @Argument(help: ArgumentHelp("A new data directory.", valueName: "directory"))
  var directory: String
  @Option(
    help: ArgumentHelp("Where the server's --archive is.", valueName: "directory"))
  var archive: String?
  @Option(
    help: ArgumentHelp(
      "A log sequence number, as dump, watches and metrics tell it, or a time such as 2027-01-31T12:00:00Z.",
      valueName: "moment"))
  var until: String?

  func run() async throws {
    try await CommandFailure.report {
      let target = try target()
      let source: Restore
      do throws(RestoreError) {
        source = try Restore(
          backup: try Self.reading(backup), archive: try archive.map(Self.reading))
      } catch {
        throw failure(error)
      }
      let partial = try NewDirectory.make(directory)
      do throws(RestoreError) {
        tell(try source.restore(until: target, to: partial), partial.path)
      } catch {
        partial.discard()
        throw failure(error)
      }
    }
  }

  private static func reading(_ path: String) throws(RestoreError) -> DirectoryStorage {
    do throws(JournalError) {
      return try DirectoryStorage(path: path, access: .reader)
    } catch {
      throw .failed(error)
    }
  }

  private func target() throws(CommandFailure) -> RecoveryTarget? {
    guard let until else { return nil }
    if let lsn = UInt64(until) { return .lsn(lsn) }
    if let time = RestoreTime.nanoseconds(until) { return .time(time) }
    throw CommandFailure(
      description:
        "--until: '\(until)' is neither a log sequence number nor a time such as 2027-01-31T12:00:00Z",
      status: CommandFailure.usage)
  }

  private func tell(_ report: RestoreReport, _ path: String) {
    print("restored \(report.lsn) \(RestoreTime.text(report.time)) \(report.decisions)")
    CommandFailure.complain(
      "\(path) has \(report.items) items, \(report.liveReservations) live reservations and all "
        + "\(report.decisions) decisions up to LSN \(report.lsn), \(RestoreTime.text(report.time)); "
        + "item versions go on \(report.versionLift) higher, so that none that was told comes back")
  }

  private func failure(_ error: RestoreError) -> CommandFailure {
    switch error {
    case .failed(.damaged(let damage)):
      CommandFailure(
        description:
          "\(damage.place); another copy of it helps, and so does --until with a moment before that",
        status: CommandFailure.damaged)
    case .failed(let error):
      CommandFailure(error, directory: backup, remedy: "wait until it is done")
    case .outside(let range):
      CommandFailure(description: "--until lies outside of what there is: \(Self.text(range))")
    case .gap(let range, let goesOnAt, let segments):
      CommandFailure(
        description:
          "the archive lacks the journal from LSN \(range.lastLSN) to \(goesOnAt) "
          + "(segments \(segments.lowerBound) to \(segments.upperBound)); without that only --until up "
          + "to there helps: \(Self.text(range))")
    }
  }

  private static func text(_ range: RestoreRange) -> String {
    "backup and archive go from LSN \(range.firstLSN) (\(RestoreTime.text(range.firstTime))) "
      + "to LSN \(range.lastLSN) (\(RestoreTime.text(range.lastTime)))"
  }
}
