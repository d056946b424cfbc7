// A history's file: written beside the one that it replaces, and read as a whole.
internal import Glibc

/// A file that is being written.
struct HistoryFile: ~Copyable {
  private let path: String
  /// Where the bytes go until all are there; the path itself if that is a device or a pipe.
  private let writtenPath: String
  private let descriptor: Int32

  init(replacing path: String) throws(HistoryError) {
    self.path = path
    var status = stat()
    let isOther = unsafe stat(path, &status) == 0 && status.st_mode & S_IFMT != S_IFREG
    writtenPath = isOther ? path : path + ".new"
    let flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC
    descriptor = unsafe open(writtenPath, flags, 0o644)
    if descriptor < 0 { throw HistoryFile.failure("write", path) }
  }

  deinit { _ = close(descriptor) }

  func write(_ bytes: Span<UInt8>) throws(HistoryError) {
    var done = 0
    while done < bytes.count {
      // The span lives for the length of the call.
      let count = unsafe bytes.extracting(done..<bytes.count).withUnsafeBytes {
        unsafe Glibc.write(descriptor, $0.baseAddress, $0.count)
      }
      if count < 0, errno == EINTR { continue }
      if count <= 0 {
        let failure = HistoryFile.failure("write", path)
        if writtenPath != path { _ = unsafe unlink(writtenPath) }
        throw failure
      }
      done += count
    }
  }

  /// All bytes are there: they take the path.
  func finish() throws(HistoryError) {
    guard writtenPath != path else { return }
    if unsafe rename(writtenPath, path) != 0 { throw HistoryFile.failure("write", path) }
  }

  /// Every byte of the file at `path`.
  static func read(_ path: String) throws(HistoryError) -> [UInt8] {
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
    if descriptor < 0 { throw failure("read", path) }
    defer { _ = close(descriptor) }
    var status = stat()
    _ = unsafe fstat(descriptor, &status)
    var bytes: [UInt8] = []
    bytes.reserveCapacity(max(0, Int(status.st_size)))
    var piece = [UInt8](repeating: 0, count: 1 << 20)
    while true {
      let count = unsafe piece.withUnsafeMutableBytes {
        unsafe Glibc.read(descriptor, $0.baseAddress, $0.count)
      }
      if count < 0, errno == EINTR { continue }
      if count < 0 { throw failure("read", path) }
      if count == 0 { return bytes }
      bytes += piece[..<count]
    }
  }

  private static func failure(_ verb: String, _ path: String) -> HistoryError {
    // The text is the C library's, until the next failure.
    HistoryError("cannot \(verb) \(path): \(unsafe String(cString: strerror(errno)))")
  }
}
