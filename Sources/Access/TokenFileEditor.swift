// Changes of a token file by `holdfast token`: a new file takes the old one's place in one step, so that
// a server that reads it meanwhile finds the one or the other.
internal import Posix

/// A token file to change, by one process at a time. Comments and everything else stay as they are.
package struct TokenFileEditor: ~Copyable {
  private let path: String
  private let directory: LockedDirectory
  private let name: String
  private let limits: AccessLimits
  /// The file, or nothing where there is none yet.
  private var bytes: [UInt8]
  package private(set) var entries: [TokenFileEntry]

  /// - Parameter mayBeNew: there need not be a file yet.
  /// - Throws: why it cannot be read, or the first mistake in it: a file with mistakes is not changed.
  package init(path: String, limits: AccessLimits, mayBeNew: Bool = false) throws(AccessError) {
    // The file that a link leads to is replaced, not the link.
    let path = ResolvedPath.of(path)
    let parts = path.split(separator: "/", omittingEmptySubsequences: false)
    guard let name = parts.last, !name.isEmpty, !path.utf8.contains(0) else {
      throw AccessError("\(path): not the path of a file")
    }
    let parent = parts.dropLast().joined(separator: "/")
    let directory: LockedDirectory
    var bytes: [UInt8] = []
    do throws(Errno) {
      // First the lock: what another process adds must not be lost.
      directory = try LockedDirectory(
        path: parts.count == 1 ? "." : parent.isEmpty ? "/" : parent)
    } catch {
      throw AccessError("\(path): \(error)")
    }
    do throws(Errno) {
      let contents = try FileContents(path: path, byteCountMax: limits.fileBytesMax)
      guard contents.status.isRegular else { throw .invalid }
      bytes = contents.bytes
    } catch {
      guard error == .noSuchFile, mayBeNew else { throw AccessError("\(path): \(error)") }
    }
    entries = try TokenFile.parse(bytes, path: path, limits: limits)
    self.path = path
    self.name = String(name)
    self.directory = directory
    self.limits = limits
    self.bytes = bytes
  }

  /// The entries of a file that is only to be read.
  package static func entries(
    ofFile path: String, limits: AccessLimits
  ) throws(AccessError) -> [TokenFileEntry] {
    try TokenFile.parse(TokenFile.read(path, limits).bytes, path: path, limits: limits)
  }

  /// Adds a line for `entry` at the end.
  package mutating func append(_ entry: TokenFileEntry) {
    if let last = bytes.last, last != 0x0a { bytes.append(0x0a) }
    bytes += Array((entry.text + "\n").utf8)
  }

  /// Takes the lines of these entries away.
  package mutating func remove(_ entries: [TokenFileEntry]) {
    let numbers = Set(entries.map(\.line))
    let lines = bytes.split(separator: 0x0a, omittingEmptySubsequences: false)
    bytes = Array(
      lines.enumerated().filter { !numbers.contains($0.offset + 1) }.map(\.element)
        .joined(separator: [0x0a]))
  }

  /// Writes the file as it is now: synced under another name, then renamed. Its permission bits stay; a
  /// new file is its owner's alone (0600).
  /// - Throws: why not; the old file is there then. What would not be a good file is not written.
  package func write() throws(AccessError) {
    _ = try TokenFile.parse(bytes, limits: limits)
    do throws(Errno) {
      try directory.replace(name, with: bytes)
    } catch {
      throw AccessError("\(path): \(error)")
    }
  }
}
