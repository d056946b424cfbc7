// What tells one version of a file from the next, and a whole small file at once.
internal import CPlatform

#if canImport(Glibc)
  internal import Glibc
#else
  internal import Darwin
#endif

/// What stat(2) says of a file, whatever links lead to it.
package struct FileStatus: Equatable, Sendable {
  package let device: UInt64
  package let inode: UInt64
  package let byteCount: Int
  /// When its bytes and when its status changed last, in nanoseconds since the Unix epoch.
  package let modified: Int64
  package let changed: Int64
  package let isRegular: Bool
  /// The permission bits.
  package let mode: UInt32

  package init(path: String) throws(Errno) {
    var status = stat()
    _ = try retrying { unsafe stat(path, &status) }
    self.init(status)
  }

  /// Of what is open, whatever its name is now.
  init(of descriptor: borrowing FileDescriptor) throws(Errno) {
    let number = descriptor.number
    var status = stat()
    _ = try retrying { unsafe fstat(number, &status) }
    self.init(status)
  }

  /// Of a file in the directory.
  init(_ name: String, in directory: borrowing FileDescriptor) throws(Errno) {
    let number = directory.number
    var status = stat()
    _ = try retrying { unsafe fstatat(number, name, &status, 0) }
    self.init(status)
  }

  /// Whether both say the same file, or directory.
  package func isSameFile(as other: FileStatus) -> Bool {
    device == other.device && inode == other.inode
  }

  fileprivate init(_ status: stat) {
    device = UInt64(truncatingIfNeeded: status.st_dev)
    inode = UInt64(truncatingIfNeeded: status.st_ino)
    byteCount = Int(status.st_size)
    #if canImport(Glibc)
      modified = Self.nanoseconds(status.st_mtim)
      changed = Self.nanoseconds(status.st_ctim)
    #else
      modified = Self.nanoseconds(status.st_mtimespec)
      changed = Self.nanoseconds(status.st_ctimespec)
    #endif
    isRegular = status.st_mode & S_IFMT == S_IFREG
    mode = UInt32(status.st_mode) & 0o7777
  }

  private static func nanoseconds(_ time: timespec) -> Int64 {
    Int64(time.tv_sec) &* 1_000_000_000 &+ Int64(time.tv_nsec)
  }

  /// Whether somebody besides its owner and its group may read it.
  package var isReadableByAll: Bool { mode & UInt32(S_IROTH) != 0 }
  /// Whether somebody besides its owner may write to it.
  package var isWritableByOthers: Bool { mode & UInt32(S_IWGRP | S_IWOTH) != 0 }
}

/// A whole file of bounded length, and its status while it was read.
package struct FileContents: Sendable {
  package let bytes: [UInt8]
  package let status: FileStatus

  /// Does not wait: where the path names a pipe or a device, its status says so and nothing is read.
  /// - Parameter byteCountMax: one byte more is read of a file that is longer.
  package init(path: String, byteCountMax: Int) throws(Errno) {
    let descriptor = FileDescriptor(
      owning: try retrying {
        unsafe hf_open_at(AT_FDCWD, path, O_RDONLY | O_NONBLOCK)
      })
    let number = descriptor.number
    var before = stat()
    _ = try retrying { unsafe fstat(number, &before) }
    status = FileStatus(before)
    guard status.isRegular else {
      bytes = []
      return
    }
    var bytes = [UInt8](repeating: 0, count: max(0, byteCountMax) + 1)
    var done = 0
    while done < bytes.count {
      // The array is ours for the length of the call, and the range is within it.
      let result = unsafe bytes.withUnsafeMutableBytes { bytes in
        moving {
          unsafe pread(
            number, bytes.baseAddress.map { unsafe $0 + done }, bytes.count - done, off_t(done))
        }
      }
      switch result {
      case .moved(0), .wouldBlock:
        bytes.removeLast(bytes.count - done)
      case .moved(let count): done += count
      case .failed(let error): throw error
      }
    }
    self.bytes = bytes
  }
}

/// The names of files by which processes keep apart.
package enum LockNames {
  /// In a data directory, held by its owner, who has the directory itself locked too.
  package static let dataDirectory = "lock"
  /// In a data directory, by whoever replaces another file there, such as a token file or a socket.
  static let withinDataDirectory = ".lock"
}

/// A directory in which files are replaced in one step, by one process at a time: another that wants the
/// same waits.
package struct LockedDirectory: ~Copyable, Sendable {
  private let descriptor: FileDescriptor
  /// What is locked: the directory, or a file in it.
  private let lock: FileDescriptor

  /// Waits for its turn. The lock (flock(2)) ends with this value, and with the process.
  package init(path: String) throws(Errno) {
    let folder = FileDescriptor(
      owning: try retrying { unsafe hf_open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY) })
    let number = folder.number
    var other = stat()
    // The lock of a data directory is its server's for as long as that runs, and it may be this process.
    let isOfServer = unsafe fstatat(number, LockNames.dataDirectory, &other, 0) == 0
    let lock = FileDescriptor(
      owning: try retrying {
        isOfServer
          ? unsafe hf_open_at(number, LockNames.withinDataDirectory, O_RDWR | O_CREAT | O_NONBLOCK)
          : unsafe hf_open_at(number, ".", O_RDONLY | O_DIRECTORY)
      })
    let lockNumber = lock.number
    _ = try retrying { flock(lockNumber, LOCK_EX) }
    descriptor = folder
    self.lock = lock
  }

  /// Ends the lock: nothing more is done with this value.
  package func unlock() { _ = flock(lock.number, LOCK_UN) }

  /// Writes `bytes` to a file beside the one that is called `name`, syncs it, and gives it that name. Its
  /// owner, group and permission bits are those of the old file; where there is none, it is its owner's alone (0600).
  /// - Parameter name: without slashes; up to 200 bytes.
  /// - Throws: after which the old file is there, as it was; but for a failed sync of the directory.
  package func replace(_ name: String, with bytes: [UInt8]) throws(Errno) {
    let number = descriptor.number
    let temporary = ".\(name).new"
    // What a process left that was killed. Never written to: somebody else may have made it.
    _ = unsafe unlinkat(number, temporary, 0)
    let file = FileDescriptor(
      owning: try retrying {
        unsafe hf_open_at(number, temporary, O_WRONLY | O_CREAT | O_EXCL)
      })
    do throws(Errno) {
      var old = stat()
      if unsafe fstatat(number, name, &old, 0) == 0 {
        let fileNumber = file.number
        let mode = old.st_mode & 0o7777
        // First the owner, which may clear bits of the mode: root changes the file of a server that is not.
        let (owner, group) = (old.st_uid, old.st_gid)
        if owner != geteuid() || group != getegid() {
          _ = try retrying { fchown(fileNumber, owner, group) }
        }
        _ = try retrying { fchmod(fileNumber, mode) }
      }
      try Self.write(bytes, to: file.number)
      if fsync(file.number) != 0 { throw .current }
      _ = try retrying { unsafe renameat(number, temporary, number, name) }
    } catch {
      _ = unsafe unlinkat(number, temporary, 0)
      throw error
    }
    if fsync(number) != 0 { throw .current }
  }

  private static func write(_ bytes: [UInt8], to number: Int32) throws(Errno) {
    var done = 0
    while done < bytes.count {
      // The array is ours for the length of the call, and the range is within it.
      let result = unsafe bytes.withUnsafeBytes { bytes in
        moving {
          unsafe pwrite(
            number, bytes.baseAddress.map { unsafe $0 + done }, bytes.count - done, off_t(done))
        }
      }
      switch result {
      case .moved(let count) where count > 0: done += count
      case .moved, .wouldBlock: throw .inputOutput
      case .failed(let error): throw error
      }
    }
  }
}

/// Where a path leads.
package enum ResolvedPath {
  /// The path without symbolic links (realpath(3)); as it is where there is no such file.
  package static func of(_ path: String) -> String {
    guard !path.utf8.contains(0), let resolved = unsafe realpath(path, nil) else { return path }
    defer { unsafe free(resolved) }
    // realpath's text ends with a NUL and is ours.
    return unsafe String(cString: resolved)
  }

  /// The same, of a file that is to be replaced.
  /// - Throws: `noSuchFile` where it is a link that leads nowhere, perhaps to a disk that is not mounted.
  package static func replaceable(_ path: String) throws(Errno) -> String {
    let resolved = of(path)
    var status = stat()
    let isLink = unsafe lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFLNK
    if isLink, resolved == path { throw .noSuchFile }
    return resolved
  }
}
