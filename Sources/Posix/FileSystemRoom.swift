// How much room a file system has.

#if canImport(Glibc)
  internal import Glibc
#else
  internal import Darwin
#endif

/// The room on a file system (statvfs(3)).
package struct FileSystemRoom: Equatable, Sendable {
  /// What this process may still write: without what is kept for root, unless it is root.
  package let freeBytes: Int
  package let totalBytes: Int

  package init(freeBytes: Int, totalBytes: Int) {
    self.freeBytes = freeBytes
    self.totalBytes = totalBytes
  }

  /// Of the file system that has `path`. Waits for it, where it is on a network.
  package init(path: String) throws(Errno) {
    var status = statvfs()
    _ = try retrying { unsafe statvfs(path, &status) }
    let unit = Int(status.f_frsize)
    let free = geteuid() == 0 ? status.f_bfree : status.f_bavail
    freeBytes = Self.bytes(free, of: unit)
    totalBytes = Self.bytes(status.f_blocks, of: unit)
  }

  /// As many bytes as there are numbers for: a file system without a limit may say 2^64 - 1 blocks.
  static func bytes(_ blocks: some BinaryInteger, of unit: Int) -> Int {
    let (bytes, isTooMany) = Int(clamping: blocks).multipliedReportingOverflow(by: unit)
    return isTooMany ? .max : bytes
  }
}
