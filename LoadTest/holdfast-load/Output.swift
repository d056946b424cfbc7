// Files that the load generator writes.
internal import FoundationEssentials
internal import Glibc
internal import LoadKit
internal import LoadReport
internal import Posix

/// The files that a command is to write. They are opened before its work begins, so that a slip in a path
/// costs no hour, and those that this made go again where nothing came of it.
final class PlannedFiles {
  private var made: [String] = []

  /// - Parameter paths: "-" is standard output.
  /// - Throws: where one cannot be opened for writing.
  init(_ paths: [String?]) throws(LoadError) {
    for case .some(let path) in paths where path != "-" {
      let isThere = FileManager.default.fileExists(atPath: path)
      do {
        _ = try PlannedFiles.open(path)
      } catch {
        removeEmpty()
        throw error
      }
      if !isThere { made.append(path) }
    }
  }

  deinit { removeEmpty() }

  /// What was written stays.
  private func removeEmpty() {
    for path in made {
      var status = stat()
      guard unsafe lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG,
        status.st_size == 0
      else { continue }
      _ = unsafe unlink(path)
    }
    made = []
  }

  static func open(_ path: String) throws(LoadError) -> OutputFile {
    do throws(Errno) {
      return try OutputFile(path: path)
    } catch {
      throw LoadError("cannot write \(path): \(error)")
    }
  }
}

enum JSONReport {
  /// For programs: keys in snake case, sorted.
  static func encode(_ value: some Encodable) throws -> Data {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    encoder.keyEncodingStrategy = .convertToSnakeCase
    // No figure ought to be infinite or no number. If one is, the rest is written all the same.
    encoder.nonConformingFloatEncodingStrategy = .convertToString(
      positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
    return try encoder.encode(value) + Data("\n".utf8)
  }
}

/// Replaces the file at `path` as a whole.
func save(_ bytes: some Sequence<UInt8>, to path: String) throws(LoadError) {
  do {
    try Data(bytes).write(to: URL(filePath: path), options: .atomic)
  } catch {
    throw LoadError("cannot write \(path): \(error)")
  }
}
