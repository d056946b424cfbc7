// Unix sockets (unix(7)): a name in the file system, which outlives the process that listens there.
internal import Glibc

/// Stream sockets with a path, non-blocking and closed on exec.
///
/// Who may connect is decided by the file's permission bits, which are those that the umask leaves, and by
/// the folder's. A server that is killed leaves the file: the next one replaces it where nobody answers.
package enum UnixSocket {
  /// The longest path in bytes: `sun_path` has 108, one of them for the end.
  package static let pathBytesMax = 107

  /// The file of a socket that listens, as it was made: another one may have taken its place since.
  package struct File: Sendable {
    package let path: String
    fileprivate let device: dev_t
    fileprivate let inode: ino_t
  }

  /// A socket that listens. Closing it leaves its file: see `remove`.
  package struct Listener: ~Copyable {
    private let descriptor: FileDescriptor
    package let file: File

    fileprivate init(_ descriptor: consuming FileDescriptor, _ file: File) {
      self.descriptor = descriptor
      self.file = file
    }

    package var number: Int32 { descriptor.number }

    /// Gives up ownership: the caller closes the number, or hands it on.
    package consuming func take() -> Int32 { descriptor.take() }
  }

  /// The path in an address such as unix:/run/holdfast.sock or, as a URL, unix:///run/holdfast.sock; nil
  /// where it is none. It may be empty.
  package static func path(ofHost host: String) -> String? {
    guard host.hasPrefix("unix:") else { return nil }
    let path = host.dropFirst("unix:".count)
    return String(path.hasPrefix("///") ? path.dropFirst(2) : path)
  }

  /// Listens on `path`. The file of a socket on which nobody listens any more is replaced. Servers that
  /// start at the same time wait for each other (flock(2) on the folder).
  /// - Throws: EADDRINUSE where somebody listens there, EEXIST where the file is no socket, ENAMETOOLONG
  ///   for a path of more than `pathBytesMax` bytes, and what stat(2), unlink(2) and bind(2) say.
  package static func listen(path: String, backlog: Int32 = 4096) throws(Errno) -> Listener {
    let lock = try LockedDirectory(path: folder(of: path))
    defer { lock.unlock() }
    if try isStale(path) { _ = try retrying { unsafe unlink(path) } }
    let socket = try open()
    let number = socket.number
    var address = try Address(path: path)
    _ = unsafe try address.with { (pointer, length) throws(Errno) in
      try retrying { unsafe bind(number, pointer, length) }
    }
    _ = try retrying { Glibc.listen(number, backlog) }
    guard let status = try status(path) else { throw Errno(code: ENOENT) }
    return Listener(socket, File(path: path, device: status.st_dev, inode: status.st_ino))
  }

  /// Throws what `listen` would throw, where it can be told before.
  package static func checkUnused(path: String) throws(Errno) {
    let lock = try LockedDirectory(path: folder(of: path))
    defer { lock.unlock() }
    _ = try isStale(path)
  }

  /// Removes the file of a socket that listened, unless it has been replaced. No error: who cannot remove
  /// it leaves it to the next server.
  package static func remove(_ file: File) {
    guard let lock = try? LockedDirectory(path: folder(of: file.path)) else { return }
    defer { lock.unlock() }
    guard let status = try? status(file.path), status.st_dev == file.device,
      status.st_ino == file.inode
    else { return }
    _ = unsafe unlink(file.path)
  }

  /// Connects. Unlike over TCP, that is done at once or not at all.
  /// - Throws: ECONNREFUSED where nobody listens, EAGAIN where the listener's queue is full, and others.
  package static func connect(path: String) throws(Errno) -> FileDescriptor {
    let socket = try open()
    let number = socket.number
    var address = try Address(path: path)
    _ = unsafe try address.with { (pointer, length) throws(Errno) in
      try retrying { unsafe Glibc.connect(number, pointer, length) }
    }
    return socket
  }

  /// Whether there is the file of a socket on which nobody listens; false where there is no file.
  private static func isStale(_ path: String) throws(Errno) -> Bool {
    guard let status = try status(path) else {
      // For its length alone.
      _ = try Address(path: path)
      return false
    }
    guard status.st_mode & S_IFMT == S_IFSOCK else { throw Errno(code: EEXIST) }
    do {
      _ = try connect(path: path)
    } catch  where error.code == ECONNREFUSED {
      return true
    } catch  where error.code == EAGAIN {
    }
    throw .alreadyInUse
  }

  /// lstat(2): of the file itself. nil where there is none.
  private static func status(_ path: String) throws(Errno) -> stat? {
    var status = stat()
    do {
      _ = try retrying { unsafe lstat(path, &status) }
      return status
    } catch  where error.code == ENOENT {
      return nil
    }
  }

  private static func folder(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  fileprivate static func open(
    _ kind: __socket_type = SOCK_STREAM
  ) throws(Errno) -> FileDescriptor {
    let type = Int32(kind.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
    return FileDescriptor(owning: try retrying { socket(AF_UNIX, type, 0) })
  }

  fileprivate struct Address {
    private var storage = sockaddr_un()
    private var length = MemoryLayout<sockaddr_un>.size

    init(path: String) throws(Errno) {
      let bytes = Array(path.utf8)
      guard bytes.count <= UnixSocket.pathBytesMax else { throw Errno(code: ENAMETOOLONG) }
      // An empty path, and one that begins with a zero byte, would be names outside the file system.
      guard !bytes.isEmpty, !bytes.contains(0) else { throw .invalid }
      storage.sun_family = sa_family_t(AF_UNIX)
      // Zeros behind it end it.
      unsafe withUnsafeMutableBytes(of: &storage.sun_path) { unsafe $0.copyBytes(from: bytes) }
    }

    /// A name outside the file system: it ends with the address, and no byte ends it.
    init(abstract name: some StringProtocol) throws(Errno) {
      let bytes = [0] + Array(name.utf8)
      guard bytes.count <= UnixSocket.pathBytesMax + 1 else { throw Errno(code: ENAMETOOLONG) }
      guard bytes.count > 1 else { throw .invalid }
      storage.sun_family = sa_family_t(AF_UNIX)
      unsafe withUnsafeMutableBytes(of: &storage.sun_path) { unsafe $0.copyBytes(from: bytes) }
      length = MemoryLayout<sockaddr_un>.size - UnixSocket.pathBytesMax - 1 + bytes.count
    }

    mutating func with<R>(
      _ body: (UnsafePointer<sockaddr>, socklen_t) throws(Errno) -> R
    ) throws(Errno) -> R {
      let length = socklen_t(length)
      return unsafe try withUnsafePointer(to: &storage) { (pointer) throws(Errno) -> R in
        let raw = unsafe UnsafeRawPointer(pointer).assumingMemoryBound(to: sockaddr.self)
        return unsafe try body(raw, length)
      }
    }
  }
}

/// Sends datagrams to one address, which need not be there yet. Any thread.
package final class UnixDatagramSocket: Sendable {
  private let descriptor: FileDescriptor
  private let address: UnixSocket.Address

  /// - Parameter text: a path from the root, or `@` and an abstract name.
  /// - Throws: EINVAL for another text, ENAMETOOLONG, and what socket(2) says.
  package init(to text: String) throws(Errno) {
    switch text.first {
    case "/": address = try UnixSocket.Address(path: text)
    case "@": address = try UnixSocket.Address(abstract: text.dropFirst())
    default: throw .invalid
    }
    descriptor = try UnixSocket.open(SOCK_DGRAM)
  }

  /// Sends one datagram, or loses it: where nobody takes it, or its reader is behind. Never blocks.
  package func send(_ bytes: [UInt8]) -> Bool {
    var address = address
    let number = descriptor.number
    let sent = unsafe try? address.with { (pointer, length) throws(Errno) -> Int in
      // The array and the address are ours for the length of the call.
      unsafe bytes.withUnsafeBytes {
        unsafe sendto(number, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL), pointer, length)
      }
    }
    return sent == bytes.count
  }
}
