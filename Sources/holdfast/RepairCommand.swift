// `holdfast repair`: gives up the end of a damaged journal, on purpose and for good.
internal import ArgumentParser
internal import Log
internal import Posix
internal import StockStore
internal import StorePersistence

struct RepairCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "repair",
    abstract: "Give up every decision after a place in the journal, for good.",
    discussion: """
      For a journal that is damaged, where no copy of the directory is at hand. The place is a log \
      sequence number (LSN), such as `holdfast verify` names. First lists what is given up, as far as \
      it can still be read, in a file: one JSON object a line, as `holdfast dump` prints them, and one \
      for each batch that cannot be read. Then does it, and does not ask: keep a copy of the directory.

      Versions of items go on above all that may have been told, so that an expected_version from a \
      decision that was given up is refused. Do the same to a copy that takes the place of a \
      directory that went on: with the last LSN, which `holdfast verify` names, nothing is given up. A copy of \
      a log in an engine is not repaired: the next start makes it anew.

      Exit status: 0 where it was done, 1 where nothing was changed, 3 where it is the checkpoint \
      that is damaged: then only a copy helps.
      """)

  @Argument(help: ArgumentHelp("The data directory.", valueName: "directory"))
  var directory: String
  @Option(
    help: ArgumentHelp(
      "Log sequence number of the last decision to keep.", valueName: "lsn"))
  var truncateAt: UInt64
  @Option(
    help: ArgumentHelp(
      "A new file for what is given up (given-up-LSN.jsonl in the directory).", valueName: "file"))
  var list: String?

  func run() async throws {
    try await CommandFailure.report {
      // An owner makes the directory where there is none: not here.
      guard (try? FileStatus(path: directory)) != nil else {
        throw CommandFailure(description: "\(directory): there is no such directory")
      }
      let path: String
      let report: RepairReport
      do throws(JournalError) {
        let storage = try DirectoryStorage(path: directory, access: .owner)
        path = list ?? newListPath
        let file = GivenUpList(path)
        report = try Repair.truncate(
          storage: storage, at: truncateAt, to: { file.write($0) },
          whenListed: { () throws(JournalError) in try file.close() })
      } catch {
        throw CommandFailure(error, directory: directory, remedy: "stop it first")
      }
      print(
        "gave up \(report.decisions) decisions (\(report.bytes) bytes) after \(truncateAt), "
          + "listed in \(path), and what is too damaged to be counted; item versions go on \(report.versionLift) higher, "
          + "so that none that was told comes back")
    }
  }

  /// What an earlier repair has listed stays: one that was interrupted found more than the same one again.
  private var newListPath: String {
    let stem = "\(directory)/given-up-\(truncateAt)"
    let paths = ["\(stem).jsonl"] + (2...1000).map { "\(stem)-\($0).jsonl" }
    return paths.first { (try? FileStatus(path: $0)) == nil } ?? paths[0]
  }
}

/// What is given up, in a file that is made with the first line, or at the end.
private final class GivenUpList {
  private static let bufferBytes = 64 * 1024

  private let path: String
  private var buffer: [UInt8] = []
  private var isMade = false
  private var failure: Errno?

  init(_ path: String) { self.path = path }

  func write(_ line: String) {
    buffer += Array((line + "\n").utf8)
    if buffer.count >= Self.bufferBytes { flush(syncing: false) }
  }

  /// Makes it outlive a power cut.
  func close() throws(JournalError) {
    flush(syncing: true)
    if let failure {
      throw .unsuitable(
        "cannot list what is given up in \(path) (\(failure)), so nothing was changed: choose another file "
          + "with --list")
    }
  }

  private func flush(syncing: Bool) {
    if failure != nil { return }
    do throws(Errno) {
      let file = isMade ? try OutputFile(appendingTo: path) : try OutputFile(newPath: path)
      isMade = true
      try file.write(buffer)
      buffer.removeAll(keepingCapacity: true)
      if syncing { try file.sync() }
    } catch {
      failure = error
    }
  }
}
