// `holdfast verify`: reads a data directory as a start would, and says what it holds.
internal import ArgumentParser
internal import FoundationEssentials
internal import Log
internal import StockStore
internal import StorePersistence

struct VerifyCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify",
    abstract: "Read a data directory and print what state it holds.",
    discussion: """
      Prints one line, "state N DIGEST": the number of decisions recorded since the directory was \
      made, and a digest of items, live reservations and idempotency entries, equal for equal \
      states of one directory. More is said on standard error. Changes nothing, and keeps no server \
      from anything: one may run on the directory, or be started.

      Exit status: 0 where the directory is whole, 1 where it cannot be read, 3 \
      where it is damaged; then standard error says where, and what to do.
      """)

  @Argument(help: ArgumentHelp("The data directory.", valueName: "directory"))
  var directory: String

  func run() async throws {
    try await CommandFailure.report {
      let summary: RecoverySummary
      do throws(JournalError) {
        summary = try StockStore.verify(
          storage: try DirectoryStorage(path: directory, access: .reader))
      } catch {
        throw CommandFailure(error, directory: directory, remedy: "stop it first")
      }
      print("state \(summary.decisions) \(summary.digest)")
      for line in Self.details(summary) { CommandFailure.complain(line) }
      if CommandFailure.isCopy(directory) {
        CommandFailure.complain(
          "it is a copy of a log in an engine, as far as it has come: the log may have more")
      }
    }
  }

  private static func details(_ summary: RecoverySummary) -> [String] {
    var lines = [
      "\(summary.items) items, \(summary.liveReservations) live reservations, "
        + "\(summary.recordedDecisions) decisions kept for retries",
      "checkpoint at \(summary.checkpointLSN), then \(summary.recordsReplayed) records "
        + "(\(summary.journalBytesRead) bytes of journal) up to \(summary.lsn), "
        + "in \(summary.seconds) s",
    ]
    if summary.tornBytes > 0 {
      lines.append(
        "behind \(summary.lsn), \(summary.tornBytes) bytes of a write that is not whole: a server was ended in "
          + "the middle of it, or it was harmed since; the next start cuts it off")
    }
    for damage in summary.damagedCheckpoints {
      lines.append(
        "\(damage.place); another checkpoint stands in for it, and the next start replaces it")
    }
    switch summary.wasClosed {
    case true?: lines.append("the journal ends where it did when its server was stopped")
    case false?:
      lines.append(
        "the last server was not stopped in an orderly way, or runs: what it wrote last may be missing, if the "
          + "disk has lost or harmed it")
    case nil: lines.append("nothing says where the journal ended when a server was last stopped")
    }
    return lines
  }
}
