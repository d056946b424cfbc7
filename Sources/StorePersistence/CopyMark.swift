// Says of a data directory that it is a copy of a log that is kept elsewhere. A server that took it for a store of
// its own would decide what the owner of that log decides too.
internal import Log
internal import Posix

enum CopyMark: String {
  /// The log is about to begin with what is in the directory.
  case beginning = "beginning\n"
  case copy = "copy\n"

  /// nil: the directory is a store of its own, or empty.
  static func read(_ storage: any Storage) throws(JournalError) -> CopyMark? {
    try JournalError.attempt("read", FileNames.copy) { () throws(Errno) -> CopyMark? in
      let file: any StorageFile
      do throws(Errno) {
        file = try storage.open(FileNames.copy)
      } catch {
        if error == .noSuchFile { return nil }
        throw error
      }
      var bytes = [UInt8](repeating: 0, count: 16)
      var span = bytes.mutableSpan
      let count = try unsafe span.withUnsafeMutableBytes { (bytes) throws(Errno) in
        try unsafe file.read(into: bytes, at: 0)
      }
      // What is not whole was about to become one.
      return CopyMark(rawValue: String(decoding: bytes[..<count], as: UTF8.self)) ?? .copy
    }
  }

  func write(to storage: any Storage) throws(JournalError) {
    try JournalError.attempt("write", FileNames.copy) { () throws(Errno) in
      let file = try storage.create(FileNames.newCopy)
      let bytes = Array(rawValue.utf8)
      try unsafe bytes.span.withUnsafeBytes { (bytes) throws(Errno) in
        try unsafe file.write(bytes, at: 0)
      }
      try file.sync()
      try storage.rename(FileNames.newCopy, to: FileNames.copy)
      try storage.syncDirectory()
    }
  }

  /// A server that keeps its log in its directory alone must not take a copy for it.
  static func requireNone(_ storage: any Storage) throws(JournalError) {
    try refuse(
      storage, "which may have another owner by now: start with --durability quorum")
  }

  /// A copy that has given up what the log has would be none.
  static func requireNoneToCut(_ storage: any Storage) throws(JournalError) {
    try refuse(
      storage,
      "which keeps what would be given up: one that is damaged is made anew by the next start with --durability quorum"
    )
  }

  private static func refuse(
    _ storage: any Storage, _ reason: String
  ) throws(JournalError) {
    guard try read(storage) != nil else { return }
    throw .unsuitable(
      "it is a copy of a log in an engine, \(reason); where that log is gone for good, remove the file "
        + "\(FileNames.copy) in it")
  }
}
