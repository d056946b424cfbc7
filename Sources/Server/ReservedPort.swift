// The port of a process, and the sockets that listen on it for one server after the other.
package import Posix
internal import Synchronization

/// A port that is this process's, and on which nothing listens yet: clients that connect are refused at
/// once and can go elsewhere, while a server has still to recover. A unix socket cannot be reserved so: it
/// is looked whether it could be had.
///
/// Servers may follow each other on it. One that is started with `keepsListening` leaves the sockets to the
/// next: whatever connects between them waits in the kernel's queue, and nobody is refused. Until the next is
/// started, or `close` is called, the port looks open.
package final class ReservedPort: Sendable {
  /// The address, in text; of a unix socket unix: and the path.
  package let host: String
  /// The port; the one that the kernel chose where 0 was asked for. 0 of a unix socket.
  package let number: UInt16
  private let socket: FileDescriptor?
  /// Of a unix socket.
  private let path: String?
  /// For the next server: numbers that are owned here.
  private let kept = Mutex(Kept())

  private struct Kept {
    var listeners: [Int32] = []
    var file: UnixSocket.File?
  }

  /// - Parameters:
  ///   - host: an IP address in text.
  ///   - port: 0 for a free one.
  package init(host: String, port: UInt16) throws(Errno) {
    try Socket.checkUnused(host: host, port: port)
    self.host = host
    let socket = try Socket.bind(host: host, port: port)
    number = try Socket.localPort(socket.number)
    self.socket = consume socket
    path = nil
  }

  /// A unix socket with this path; see `UnixSocket.listen`.
  package init(unixSocket path: String) throws(Errno) {
    try UnixSocket.checkUnused(path: path)
    host = "unix:\(path)"
    number = 0
    socket = nil
    self.path = path
  }

  deinit { close() }

  /// Ends the sockets that a server has left to one that does not come; no effect on those of a server that
  /// runs.
  package func close() {
    let kept = kept.withLock { exchange(&$0, with: Kept()) }
    for listener in kept.listeners { FileDescriptor.close(number: listener) }
    if let file = kept.file { UnixSocket.remove(file) }
  }

  /// Sockets that listen, as many as there are loops: the kernel spreads connections over several. A unix
  /// socket has only one, and its loop hands them on. Goes on with those that an earlier server has left.
  /// - Parameter keeps: they are left to the next server too; otherwise they end with this one.
  func listen(
    count: Int, keeps: Bool
  ) throws(Errno) -> (listeners: [Int32?], file: UnixSocket.File?) {
    var kept = kept.withLock { exchange(&$0, with: Kept()) }
    do throws(Errno) {
      try add(&kept, count: path == nil ? count : 1)
      var listeners: [Int32?] = []
      if keeps {
        for listener in kept.listeners.prefix(count) {
          listeners.append(try FileDescriptor.duplicate(listener).take())
        }
      } else {
        listeners = kept.listeners.prefix(count).map { $0 }
        // A server with fewer loops follows: nobody would take the connections of the rest.
        for listener in kept.listeners.dropFirst(count) { FileDescriptor.close(number: listener) }
      }
      listeners += Array(repeating: nil, count: count - listeners.count)
      let file = kept.file
      if keeps { self.kept.withLock { $0 = kept } }
      // Who ends the sockets removes the file.
      return (listeners, keeps ? nil : file)
    } catch {
      self.kept.withLock { $0 = kept }
      close()
      throw error
    }
  }

  private func add(_ kept: inout Kept, count: Int) throws(Errno) {
    if kept.listeners.count >= count { return }
    if let path {
      let listener = try UnixSocket.listen(path: path)
      kept.file = listener.file
      kept.listeners.append(listener.take())
      return
    }
    // Two servers that started at the same time may both have reserved it: one of them listens first.
    if kept.listeners.isEmpty { try Socket.checkUnused(host: host, port: number) }
    while kept.listeners.count < count {
      kept.listeners.append(try Socket.listen(host: host, port: number).take())
    }
  }
}
