package import Metrics
package import Posix
internal import Synchronization

/// Serves the operator's pages (see `AdminPages`) over HTTP/1.1 on a port of their own.
///
/// One thread serves them all, and never waits for any of them: see `AdminLoop` for the order and
/// `AdminLimits` for what a client can take.
package final class AdminServer: Sendable {
  /// The address that it listens on.
  package let host: String
  /// The port that it listens on; the one that the kernel chose if 0 was asked for.
  package let port: UInt16

  private let pages: AdminPages
  private let limits: AdminLimits
  private let tls: TLSServerContext?
  /// Until `run` takes it.
  private let listener: Mutex<FileDescriptor?>
  private let wakeup: Wakeup
  private let isStopping = Atomic<Bool>(false)

  /// Binds the port and listens: connections queue from now on, and are answered by `run`.
  ///
  /// - Parameters:
  ///   - host: The IP address to listen on, such as 127.0.0.1 or ::1.
  ///   - port: The port; 0 for a free one.
  ///   - tls: What makes connections of TLS, of a context that speaks HTTP/1; nil: they are plain.
  ///   - page: What `/metrics` answers.
  ///   - readiness: What `/readyz` answers; asked at every request, on the server's thread, and must
  ///     not wait for anything.
  ///   - information: Says the lines for the front page, such as "Version" and "1.0", in this order.
  ///   - isAllowed: Whether a request may see anything but the probes, which everybody may; where it
  ///     answers false, so does the server, with 401. Everybody may where there is none. On the
  ///     server's thread; must not wait for anything.
  ///   - console: What `/console` shows, and to whom; nil: there is no such page.
  /// - Throws: `AdminServerError`, where that address cannot be had.
  package init(
    host: String = "127.0.0.1", port: UInt16 = 0, tls: TLSServerContext? = nil, limits: AdminLimits,
    page: MetricsPage,
    readiness: @escaping @Sendable () -> ServingState,
    information: @escaping @Sendable () -> [(name: String, value: String)] = { [] },
    isAllowed: (@Sendable (AdminRequest) -> Bool)? = nil,
    console: Console? = nil
  ) throws(AdminServerError) {
    self.host = host
    self.limits = limits
    self.tls = tls
    do throws(Errno) {
      wakeup = try Wakeup()
      try Socket.checkUnused(host: host, port: port)
      let listener = try Socket.listen(host: host, port: port)
      let port = try Socket.localPort(listener.number)
      self.port = port
      pages = AdminPages(
        page: page, readiness: readiness, information: information, isAllowed: isAllowed,
        console: console.map { ConsolePages($0, port: port, isTLS: tls != nil) })
      self.listener = Mutex(consume listener)
    } catch {
      throw AdminServerError(host: host, port: port, cause: error)
    }
  }

  /// Serves until the task is cancelled, then closes the port, finishes the responses that are on their
  /// way, and returns. To be called once.
  ///
  /// - Throws: `Errno`, where there is no thread or no epoll set to be had.
  package func run() async throws {
    try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation {
        (continuation: CheckedContinuation<Void, any Error>) in
        do throws(Errno) {
          _ = try Thread(name: "admin") {
            continuation.resume(with: Result { try self.serve() })
          }
        } catch {
          continuation.resume(throwing: error)
        }
      }
    } onCancel: {
      isStopping.store(true, ordering: .releasing)
      wakeup.signal()
    }
  }

  /// The thread's body.
  private func serve() throws(Errno) {
    guard let listener = listener.withLock({ $0.take() }) else { return }
    let loop = try AdminLoop(
      pages: pages, limits: limits, tls: tls, listener: listener, wakeup: wakeup
    ) { self.isStopping.load(ordering: .acquiring) }
    try loop.run()
  }
}

/// The admin pages cannot be served at the address that was asked for.
package struct AdminServerError: Error, CustomStringConvertible {
  /// The address that cannot be had.
  package let address: String
  /// Why, in the system's words.
  package let reason: String

  package var description: String { "cannot listen on \(address) for the admin pages (\(reason))" }

  init(host: String, port: UInt16, cause: Errno) {
    reason = "\(cause)"
    address = host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
  }
}
