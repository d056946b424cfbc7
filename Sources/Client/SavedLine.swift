// A small file that is replaced in one step: a resume token, or where an import is.
package import Posix

/// A file of one line. What was saved outlives whoever is killed.
package struct SavedLine: Sendable {
  /// Longer ones are no lines of ours.
  private static let byteCountMax = 4096

  package let path: String
  private let folder: String
  private let name: String

  /// - Throws: where the path names no file.
  package init(path: String) throws(Errno) {
    let parts = path.split(separator: "/", omittingEmptySubsequences: false)
    let parent = parts.dropLast().joined(separator: "/")
    guard let last = parts.last, !last.isEmpty, last.utf8.count <= 200 else { throw .invalid }
    self.path = path
    name = String(last)
    folder = parts.count == 1 ? "." : parent.isEmpty ? "/" : parent
  }

  /// The line, without its end; nil where there is no such file.
  package func read() throws(Errno) -> String? {
    do throws(Errno) {
      let contents = try FileContents(path: path, byteCountMax: Self.byteCountMax)
      guard contents.status.isRegular else { throw .notRegular }
      guard contents.bytes.count <= Self.byteCountMax else { throw .tooLarge }
      let line = contents.bytes.prefix { $0 != 0x0a }
      return String(decoding: line, as: UTF8.self)
    } catch {
      if error == .noSuchFile { return nil }
      throw error
    }
  }

  /// Whether it can be saved: throws why not.
  package func requireWritable() throws(Errno) { try Directory(path: folder).requireWritable() }

  /// A file beside it, `FILE.lock`, to be locked by whoever wants the line for itself: the file of the line is another one
  /// after every save. It stays there.
  package func openLock() throws(Errno) -> File {
    try Directory(path: folder).file(name + ".lock", for: .writingOrCreating)
  }

  /// Writes the line to a file beside it, syncs it, and gives it the name.
  package func save(_ line: String) throws(Errno) {
    try LockedDirectory(path: folder).replace(name, with: Array((line + "\n").utf8))
  }

  /// Takes the file away, if it is there.
  package func remove() throws(Errno) {
    do throws(Errno) {
      try Directory(path: folder).remove(name)
    } catch {
      if error != .noSuchFile { throw error }
    }
  }
}
