// `holdfast dump`: the journal for programs.
internal import ArgumentParser
internal import Glibc
internal import Log
internal import Posix
internal import StockStore
internal import StorePersistence

struct DumpCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "dump",
    abstract: "Print the journal as JSON, one record a line.",
    discussion: """
      Begins at the newest checkpoint and ends with the last whole record. Changes nothing, and keeps \
      no server from anything: beside one that runs it ends with what was there when it began.

      Exit status: 0, 1 where the directory cannot be read, 3 where it is \
      damaged: what stands before the damage has been printed then.
      """)

  @Argument(help: ArgumentHelp("The data directory.", valueName: "directory"))
  var directory: String

  func run() async throws {
    try await CommandFailure.report {
      let output = LineOutput()
      do throws(JournalError) {
        try StockStore.dump(
          storage: try DirectoryStorage(path: directory, access: .reader)
        ) { output.write($0) }
        output.flush()
      } catch {
        output.flush()
        throw CommandFailure(error, directory: directory, remedy: "stop it first")
      }
    }
  }
}

/// Standard output with a large buffer. Ends the process where nobody reads on.
private final class LineOutput {
  private static let bufferBytes = 64 * 1024

  private var buffer: [UInt8] = []

  func write(_ line: String) {
    buffer.append(contentsOf: line.utf8)
    buffer.append(UInt8(ascii: "\n"))
    if buffer.count >= Self.bufferBytes { flush() }
  }

  func flush() {
    do throws(Errno) {
      try OutputFile(duplicating: STDOUT_FILENO).write(buffer)
      buffer.removeAll(keepingCapacity: true)
    } catch {
      // A closed pipe is its reader's wish; anything else is worth a word.
      if error.code == EPIPE { exit(0) }
      CommandFailure.complain("cannot write: \(error)")
      exit(1)
    }
  }
}
