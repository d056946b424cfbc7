// The seam between the journal and the disk. A server has a directory behind it (DirectoryStorage);
// the simulation has a disk that tears, drops and reorders what was not synced.
package import Posix

/// A flat directory of files. Names come from the journal itself, never from outside.
package protocol Storage: AnyObject, Sendable {
  /// The names of all files.
  func names() throws(Errno) -> [String]

  /// An existing file, for reading and, where the storage is owned, writing.
  func open(_ name: String) throws(Errno) -> any StorageFile

  /// A new, empty file; one of the same name is emptied. It outlives a crash after `syncDirectory`.
  func create(_ name: String) throws(Errno) -> any StorageFile

  /// Gives a file another name, replacing what has it, in one step: after a crash the file has the one
  /// name or the other, and the new one for certain after `syncDirectory`.
  func rename(_ name: String, to newName: String) throws(Errno)

  /// Removes a file, for certain after `syncDirectory`.
  func remove(_ name: String) throws(Errno)

  /// Makes all names that were created, changed and removed so far outlive a crash (fsync(2) of the
  /// directory).
  func syncDirectory() throws(Errno)

  /// Whether the process that owns the files has gone on behind those that are seen here, so that the segment
  /// `sequence`, which is not there, came and went since.
  func hasGoneOn(past sequence: UInt64) throws(Errno) -> Bool

  /// Looks whether what is written here is still what a later start will read: whether the directory has its
  /// name, and these files theirs.
  /// - Returns: what is wrong, in a few words; nil: nothing.
  func displacement(of files: [NamedFile]) throws(Errno) -> String?
}

/// A file that must be there, and where it is open, must be that one.
package struct NamedFile: Sendable {
  package let name: String
  package let file: (any StorageFile)?

  package init(_ name: String, _ file: (any StorageFile)? = nil) {
    self.name = name
    self.file = file
  }
}

extension Storage {
  package func hasGoneOn(past sequence: UInt64) throws(Errno) -> Bool { false }

  package func displacement(of files: [NamedFile]) throws(Errno) -> String? {
    let present = Set(try names())
    return files.first { !present.contains($0.name) }.map { "\($0.name) was removed" }
  }
}

/// One open file, closed when nobody uses it any more.
package protocol StorageFile: AnyObject, Sendable {
  /// Its length in bytes.
  func byteCount() throws(Errno) -> Int

  /// Reads until `buffer` is full or the file ends. How many bytes.
  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(Errno) -> Int

  /// Writes all parts, one behind the other; empty parts are allowed. After a failure any of the bytes
  /// may have been written. They outlive a crash after `sync`.
  func write(
    _ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer,
    _ third: UnsafeRawBufferPointer, at offset: Int) throws(Errno)

  /// Writes zeros over the bytes from `start` to `end`.
  func fill(from start: Int, to end: Int) throws(Errno)

  /// From now on every write is of whole blocks of 4096 bytes, at such a place and from such an address:
  /// it may go past the system's cache.
  func writeDirectly()

  /// From now on no more is read from the disk than is asked for.
  func readExactly()

  /// Whether nobody else has the file open to read it as it is: then nobody can, until `release`.
  func takeForReuse() -> Bool

  /// Ends what `takeForReuse` began.
  func release()

  /// Makes what was written, and the file's length, outlive a crash (fdatasync(2)). After a failure
  /// nobody knows what did: never try again.
  func sync() throws(Errno)
}

extension StorageFile {
  package func writeDirectly() {}
  package func readExactly() {}
  package func takeForReuse() -> Bool { true }
  package func release() {}

  package func fill(from start: Int, to end: Int) throws(Errno) {
    let zeros = [UInt8](repeating: 0, count: max(0, min(1 << 20, end - start)))
    var offset = start
    while offset < end {
      let count = min(zeros.count, end - offset)
      unsafe try zeros.span.withUnsafeBytes { (bytes) throws(Errno) in
        try unsafe write(UnsafeRawBufferPointer(rebasing: bytes[..<count]), at: offset)
      }
      offset += count
    }
  }

  /// Writes one part.
  package func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(Errno) {
    let nothing = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
    try unsafe write(bytes, nothing, nothing, at: offset)
  }
}
