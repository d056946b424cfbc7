package import Posix

/// A directory of the file system. One process owns it at a time; any number read it meanwhile.
package final class DirectoryStorage: Storage {
  package enum Access: Sendable {
    /// Reads and writes; makes the directory where there is none.
    case owner
    /// Reads only; the directory must exist. Somebody may own it, and is not kept from anything.
    case reader
  }

  private let directory: Directory
  private let path: String
  private let access: Access
  /// Open for as long as the lock is needed; nil for a reader.
  private let lockFile: DirectoryFile?

  private static let lockName = LockNames.dataDirectory

  /// - Throws: `.inUse` where another process has the directory.
  package init(path: String, access: Access) throws(JournalError) {
    self.access = access
    self.path = path
    let directory: Directory
    let isMine: Bool
    do {
      directory = try Self.openDirectory(path: path, access: access)
    } catch {
      throw .failed(operation: "open the directory", file: path, error)
    }
    // The file alone is not enough: whoever removes it would let a second owner in. The directory alone is not
    // either: earlier versions look at the file.
    do {
      isMine = access == .owner ? try directory.lock() : true
    } catch {
      throw .failed(operation: "lock", file: path, error)
    }
    if !isMine { throw .inUse(path: path) }
    if access == .owner {
      // Before anything is promised: it would be found out when the first segment is full.
      do {
        try directory.requireWritable()
      } catch {
        throw .failed(operation: "write to", file: path, error)
      }
    }
    lockFile = access == .owner ? try Self.lockFile(directory, path: path) : nil
    self.directory = directory
  }

  private static func openDirectory(path: String, access: Access) throws(Errno) -> Directory {
    if access == .reader { return try Directory(path: path) }
    let isNew = try Directory.make(path: path)
    let directory = try Directory(path: path)
    do {
      try directory.syncParent()
    } catch {
      // One that was there before is most likely safe, and its parent may be none of our business. It
      // is tried in case that the process that made it was killed right then.
      if isNew { throw error }
    }
    return directory
  }

  private static func lockFile(
    _ directory: borrowing Directory, path: String
  ) throws(JournalError) -> DirectoryFile {
    let name = "\(path)/\(Self.lockName)"
    let file: DirectoryFile
    let isMine: Bool
    do throws(Errno) {
      file = try DirectoryFile(directory, lockName, for: .writingOrCreating)
    } catch {
      throw .failed(operation: "open", file: name, error)
    }
    do throws(Errno) {
      isMine = try file.file.lock(exclusive: true)
    } catch {
      throw .failed(operation: "lock", file: name, error)
    }
    if !isMine { throw .inUse(path: path) }
    return file
  }

  package func names() throws(Errno) -> [String] { try directory.names() }

  package func open(_ name: String) throws(Errno) -> any StorageFile {
    let file = try DirectoryFile(directory, name, for: access == .owner ? .writing : .reading)
    // The owner does not use it again before this reader is done. Where it just does, there is nothing to read;
    // where the file system locks nothing, whoever reads a running server's directory may have to do it again.
    if access == .reader, (try? file.file.lock(exclusive: false)) == false { throw .tryAgain }
    return file
  }

  package func create(_ name: String) throws(Errno) -> any StorageFile {
    try checkOwned()
    return try DirectoryFile(directory, name, for: .replacing)
  }

  package func rename(_ name: String, to newName: String) throws(Errno) {
    try checkOwned()
    try directory.rename(name, to: newName)
  }

  package func remove(_ name: String) throws(Errno) {
    try checkOwned()
    try directory.remove(name)
  }

  package func syncDirectory() throws(Errno) {
    try checkOwned()
    try directory.sync()
  }

  package func displacement(of files: [NamedFile]) throws(Errno) -> String? {
    guard let there = try Self.ifThere({ () throws(Errno) in try FileStatus(path: path) }) else {
      return "\(path) was removed or renamed"
    }
    guard there.isSameFile(as: try directory.status()) else {
      return "another directory has taken the place of \(path)"
    }
    for named in files {
      let name = named.name
      let status = try Self.ifThere { () throws(Errno) in try directory.status(name) }
      guard let status else { return "\(path)/\(name) was removed or renamed" }
      if let file = named.file as? DirectoryFile, try !status.isSameFile(as: file.file.status()) {
        return "another file has taken the place of \(path)/\(name)"
      }
    }
    return nil
  }

  /// nil where there is no such file.
  private static func ifThere(
    _ status: () throws(Errno) -> FileStatus
  ) throws(Errno) -> FileStatus? {
    do {
      return try status()
    } catch  where [.noSuchFile, .notADirectory].contains(error) {
      return nil
    }
  }

  private func checkOwned() throws(Errno) {
    if access != .owner { throw .readOnly }
  }
}

/// A file of a directory. One that a reader opened refuses to be written (EBADF).
private final class DirectoryFile: StorageFile {
  let file: File

  /// - Throws: `notRegular` for a pipe, a socket, a directory or a device.
  init(
    _ directory: borrowing Directory, _ name: String, for purpose: Directory.Purpose
  ) throws(Errno) {
    let file = try directory.file(name, for: purpose)
    guard try file.status().isRegular else { throw .notRegular }
    self.file = file
  }

  func byteCount() throws(Errno) -> Int { try file.byteCount() }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(Errno) -> Int {
    try unsafe file.read(into: buffer, at: offset)
  }

  func write(
    _ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer,
    _ third: UnsafeRawBufferPointer, at offset: Int
  ) throws(Errno) {
    try unsafe file.write(first, second, third, at: offset)
  }

  func fill(from start: Int, to end: Int) throws(Errno) { try file.fill(from: start, to: end) }

  func writeDirectly() { file.writeDirectly() }

  func readExactly() { file.readExactly() }

  func takeForReuse() -> Bool { (try? file.lock(exclusive: true)) ?? true }

  func release() { file.unlock() }

  func sync() throws(Errno) { try file.sync() }
}
