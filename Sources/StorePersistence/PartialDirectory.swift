// A data directory in the making: it gets its name once it is whole, verified and on the disk.
package import Log
internal import Posix

/// The seam between what is written into such a directory and where that is.
package protocol DirectoryDraft: AnyObject {
  /// What it is called until it has its name, for messages.
  var partialPath: String { get }
  var storage: any Storage { get }

  /// Gives the directory its name, in one step, which outlives a power cut then. All in it was synced.
  func publish() throws(JournalError)
}

package final class PartialDirectory: DirectoryDraft, Sendable {
  package let path: String
  package let partialPath: String
  package let storage: any Storage

  /// Makes `path.partial`, or empties the one that a process has left which was killed.
  /// - Throws: `unsuitable` where there is something at `path`; `inUse`; `failed`.
  package init(_ path: String) throws(JournalError) {
    let path = Self.withoutSlashes(path)
    self.path = path
    partialPath = path + ".partial"
    do throws(Errno) {
      _ = try FileStatus(path: path)
    } catch {
      guard error == .noSuchFile else { throw .failed(operation: "look for", file: path, error) }
      storage = try DirectoryStorage(path: partialPath, access: .owner)
      try empty()
      return
    }
    throw .unsuitable("\(path) is there already: choose another name")
  }

  private static func withoutSlashes(_ path: String) -> String {
    var path = path
    while path.utf8.count > 1, path.hasSuffix("/") { path.removeLast() }
    return path
  }

  /// Files that have no business here are left, and stand in the way.
  private func empty() throws(JournalError) {
    for name in try names() where name != LockNames.dataDirectory {
      guard Self.isKnown(name) else {
        throw .unsuitable("\(partialPath)/\(name) is in the way: remove it")
      }
      try JournalError.attempt("remove", "\(partialPath)/\(name)") { () throws(Errno) in
        try storage.remove(name)
      }
    }
  }

  private func names() throws(JournalError) -> [String] {
    try JournalError.attempt("list", partialPath) { () throws(Errno) in try storage.names() }
  }

  static func isKnown(_ name: String) -> Bool {
    FileNames.segmentSequence(name) != nil || FileNames.checkpointLSN(name) != nil
      || [
        FileNames.closing, FileNames.newClosing, FileNames.newCheckpoint, FileNames.newSegment,
        FileNames.backup, LockNames.dataDirectory,
      ].contains(name)
  }

  /// Gives the directory its name.
  package func publish() throws(JournalError) {
    try JournalError.attempt("rename \(partialPath) to", path) { () throws(Errno) in
      try storage.syncDirectory()
      try Directory.rename(path: partialPath, to: path)
    }
  }

  /// Removes what was made. What cannot be removed is left under its partial name.
  package func discard() {
    for name in (try? storage.names()) ?? [] where Self.isKnown(name) {
      try? storage.remove(name)
    }
    try? Directory.remove(path: partialPath)
  }
}
