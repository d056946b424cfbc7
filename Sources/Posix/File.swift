internal import CPlatform
internal import Glibc

/// An open file: positioned reads and writes, so that threads need not agree on a place in it.
package struct File: ~Copyable, Sendable {
  private let descriptor: FileDescriptor

  fileprivate init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }

  /// Its length in bytes.
  package func byteCount() throws(Errno) -> Int {
    let number = descriptor.number
    var status = stat()
    _ = try retrying { unsafe fstat(number, &status) }
    return Int(status.st_size)
  }

  /// pread(2) until `buffer` is full or the file ends. How many bytes.
  package func read(
    into buffer: UnsafeMutableRawBufferPointer, at offset: Int
  ) throws(Errno) -> Int {
    var done = 0
    while done < buffer.count {
      // The buffer is the caller's for the length of the call.
      let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done...])
      let count = try transferring {
        unsafe pread(descriptor.number, rest.baseAddress, rest.count, off_t(offset + done))
      }
      if count == 0 { break }
      done += count
    }
    return done
  }

  /// Writes all parts, one behind the other (pwritev(2)); empty parts are allowed. After a failure any
  /// of the bytes may have been written.
  package func write(
    _ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer,
    _ third: UnsafeRawBufferPointer, at offset: Int
  ) throws(Errno) {
    let total = first.count + second.count + third.count
    var done = 0
    while done < total {
      // The parts are the caller's for the length of the call. What was written already is skipped.
      let written = done
      let afterFirst = max(0, written - first.count)
      let afterSecond = max(0, afterFirst - second.count)
      let count = try transferringDirectly {
        var parts = unsafe (
          vector(first.dropFirst(written)), vector(second.dropFirst(afterFirst)),
          vector(third.dropFirst(afterSecond))
        )
        return unsafe withUnsafePointer(to: &parts) { parts in
          unsafe parts.withMemoryRebound(to: iovec.self, capacity: 3) {
            unsafe pwritev(descriptor.number, $0, 3, off_t(offset + written))
          }
        }
      }
      // No disk writes nothing without a reason; asking on and on would never end.
      if count == 0 { throw .inputOutput }
      done += count
    }
  }

  /// From now on every write is of whole blocks of 4096 bytes, at such a place and from such an address:
  /// it goes past the system's cache where the file system can (O_DIRECT). What the cache holds of the file
  /// is given back: otherwise every write would have to look for pages there, and drop them.
  package func writeDirectly() {
    if hf_set_direct(descriptor.number, 1) == 1 { hf_drop_cached(descriptor.number) }
  }

  /// From now on no more is read from the disk than is asked for, and kept in the system's cache.
  package func readExactly() { hf_read_exactly(descriptor.number) }

  /// Runs `call`; where it fails because the file system cannot write past its cache, as some say only
  /// then, once more without that.
  private func transferringDirectly(_ call: () -> Int) throws(Errno) -> Int {
    do {
      return try transferring(call)
    } catch {
      guard error == .invalid, hf_set_direct(descriptor.number, 0) == 1 else { throw error }
      return try transferring(call)
    }
  }

  /// Writes zeros over the bytes from `start` to `end`; where both are multiples of 4096 and the file
  /// system can, past the system's cache (O_DIRECT): through it, filling a file costs more CPU than all
  /// that is written there later.
  package func fill(from start: Int, to end: Int) throws(Errno) {
    let zeros = UnsafeMutableRawBufferPointer.allocate(
      byteCount: max(0, min(1 << 20, end - start)), alignment: 4096)
    defer { unsafe zeros.deallocate() }
    unsafe zeros.initializeMemory(as: UInt8.self, repeating: 0)
    if (start | end) % 4096 == 0 { _ = hf_set_direct(descriptor.number, 1) }
    defer { _ = hf_set_direct(descriptor.number, 0) }
    var offset = start
    while offset < end {
      let count = min(zeros.count, end - offset)
      // There are as many zeros, ours until the end.
      let written = try transferringDirectly {
        unsafe pwrite(descriptor.number, zeros.baseAddress, count, off_t(offset))
      }
      if written == 0 { throw .inputOutput }
      offset += written
    }
  }

  /// Makes what was written, and the file's length, outlive a power cut (fdatasync(2)). Not even an
  /// interrupted call is made again: the kernel reports a page that it lost only once.
  package func sync() throws(Errno) {
    if fdatasync(descriptor.number) != 0 { throw .current }
  }

  /// flock(2) without waiting: exclusive, or shared with others that want it shared. False where
  /// another process has it. The lock lasts as long as the file is open.
  package func lock(exclusive: Bool) throws(Errno) -> Bool {
    try descriptor.lock(exclusive: exclusive)
  }

  /// Ends the lock.
  package func unlock() { _ = flock(descriptor.number, LOCK_UN) }

  package func status() throws(Errno) -> FileStatus { try FileStatus(of: descriptor) }
}

extension FileDescriptor {
  fileprivate func lock(exclusive: Bool) throws(Errno) -> Bool {
    let number = number
    do {
      _ = try retrying { flock(number, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) }
      return true
    } catch  where error.code == EWOULDBLOCK {
      return false
    }
  }
}

/// An open directory. Names are those of files right in it, without slashes.
package struct Directory: ~Copyable, Sendable {
  private let descriptor: FileDescriptor

  /// What is meant to be done with a file.
  package enum Purpose {
    case reading
    /// Reading and writing what exists.
    case writing
    /// Reading and writing; made if need be.
    case writingOrCreating
    /// Reading and writing; made if need be, emptied if not.
    case replacing
  }

  package init(path: String) throws(Errno) {
    descriptor = FileDescriptor(
      owning: try retrying {
        unsafe hf_open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY)
      })
  }

  /// Makes a directory for its owner alone (0700). False where there is something of that name.
  package static func make(path: String) throws(Errno) -> Bool {
    do {
      _ = try retrying { unsafe mkdir(path, 0o700) }
      return true
    } catch  where error.code == EEXIST {
      return false
    }
  }

  /// Gives a directory another name beside the old one, which outlives a power cut then. Nothing of that name may
  /// be there, but for an empty directory.
  package static func rename(path: String, to newPath: String) throws(Errno) {
    _ = try retrying { unsafe Glibc.rename(path, newPath) }
    try Directory(path: newPath).syncParent()
  }

  /// Removes a directory that is empty.
  package static func remove(path: String) throws(Errno) {
    _ = try retrying { unsafe rmdir(path) }
  }

  /// The names of everything in it, in no order.
  package func names() throws(Errno) -> [String] {
    // A descriptor of its own, since reading moves the place in the directory.
    let list = FileDescriptor(owning: try open(".", O_RDONLY | O_DIRECTORY))
    guard let stream = unsafe fdopendir(list.number) else { throw .current }
    _ = list.take()
    defer { unsafe closedir(stream) }
    var names: [String] = []
    while true {
      errno = 0
      guard let entry = unsafe readdir(stream) else {
        if errno != 0 { throw .current }
        return names
      }
      // The entry is valid until the next call; its name ends with a zero byte.
      let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) {
        unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name != "." && name != ".." { names.append(name) }
    }
  }

  /// Whether files can be made in it, renamed and removed: throws why not (faccessat(2), with the rights that
  /// the process has).
  package func requireWritable() throws(Errno) {
    let number = descriptor.number
    _ = try retrying { unsafe faccessat(number, ".", W_OK | X_OK, AT_EACCESS) }
  }

  /// Opens a file. Does not wait for one that is no file, such as a pipe without a writer.
  /// - Throws: `notRegular` for what cannot be opened as one.
  package func file(_ name: String, for purpose: Purpose) throws(Errno) -> File {
    let flags =
      switch purpose {
      case .reading: O_RDONLY
      case .writing: O_RDWR
      case .writingOrCreating: O_RDWR | O_CREAT
      case .replacing: O_RDWR | O_CREAT | O_TRUNC
      }
    do throws(Errno) {
      return File(FileDescriptor(owning: try open(name, flags | O_NONBLOCK)))
    } catch  where [EISDIR, ENXIO].contains(error.code) {
      throw .notRegular
    }
  }

  /// Gives a file another name, replacing what has it, in one step (renameat(2)).
  package func rename(_ name: String, to newName: String) throws(Errno) {
    let number = descriptor.number
    _ = try retrying { unsafe renameat(number, name, number, newName) }
  }

  /// Removes a file.
  package func remove(_ name: String) throws(Errno) {
    let number = descriptor.number
    _ = try retrying { unsafe unlinkat(number, name, 0) }
  }

  /// flock(2) of the directory itself, exclusive and without waiting: whatever becomes of the files in it.
  /// False where another process has it. The lock lasts as long as the directory is open. Some network file
  /// systems lock nothing that is not open for writing: there it does nothing.
  package func lock() throws(Errno) -> Bool {
    do {
      return try descriptor.lock(exclusive: true)
    } catch  where [EBADF, EINVAL, ENOLCK, EOPNOTSUPP].contains(error.code) {
      return true
    }
  }

  /// Of the directory.
  package func status() throws(Errno) -> FileStatus { try FileStatus(of: descriptor) }

  /// Of a file in it, whatever a symbolic link leads to.
  package func status(_ name: String) throws(Errno) -> FileStatus {
    try FileStatus(name, in: descriptor)
  }

  /// Makes names that were made, changed and removed outlive a power cut (fsync(2)).
  package func sync() throws(Errno) {
    if fsync(descriptor.number) != 0 { throw .current }
  }

  /// The same for the directory's own name.
  package func syncParent() throws(Errno) {
    let parent = FileDescriptor(owning: try open("..", O_RDONLY | O_DIRECTORY))
    if fsync(parent.number) != 0 { throw .current }
  }

  private func open(_ name: String, _ flags: Int32) throws(Errno) -> Int32 {
    let number = descriptor.number
    return try retrying { unsafe hf_open_at(number, name, flags) }
  }
}

extension Errno {
  package static let noSuchFile = Errno(code: ENOENT)
  package static let notADirectory = Errno(code: ENOTDIR)
  package static let inputOutput = Errno(code: EIO)
  package static let tryAgain = Errno(code: EAGAIN)
  package static let readOnly = Errno(code: EROFS)
}

/// One part of a pwritev.
private func vector(_ part: Slice<UnsafeRawBufferPointer>) -> iovec {
  let part = unsafe UnsafeRawBufferPointer(rebasing: part)
  // pwritev only reads; the type does not say so.
  return unsafe iovec(
    iov_base: UnsafeMutableRawPointer(mutating: part.baseAddress), iov_len: part.count)
}

/// Runs `call` until it is not interrupted. -1 becomes an Errno.
private func transferring(_ call: () -> Int) throws(Errno) -> Int {
  while true {
    let result = call()
    if result >= 0 { return result }
    let error = Errno.current
    if error.code != EINTR { throw error }
  }
}
