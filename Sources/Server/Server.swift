package import GRPC
// The server: listeners on one port, an event loop on a thread each, and the way down.
internal import HTTP2
package import Metrics
package import Posix
internal import Synchronization

/// A port that is this process's, and on which nothing listens yet: clients that connect are refused at
/// once and can go elsewhere, while a server has still to recover.
package final class ReservedPort: Sendable {
  /// The address, in text.
  package let host: String
  /// The port; the one that the kernel chose where 0 was asked for.
  package let number: UInt16
  private let socket: FileDescriptor

  /// - Parameters:
  ///   - host: an IP address in text.
  ///   - port: 0 for a free one.
  package init(host: String, port: UInt16) throws(Errno) {
    try Socket.checkUnused(host: host, port: port)
    self.host = host
    socket = try Socket.bind(host: host, port: port)
    number = try Socket.localPort(socket.number)
  }
}

/// A running server. Made by `start`; ends with `shutDown` and `wait`.
package final class Server: Sendable {
  /// Makes the handler of one loop, on that loop's thread. `wake` wakes the loop from any thread.
  package typealias HandlerFactory =
    @Sendable (_ wake: @escaping @Sendable () -> Void) ->
    any CallHandler

  /// The port that it listens on.
  package let port: UInt16
  private let mailboxes: [Mailbox]
  private let threads: [Thread]
  private let failure: Failure

  /// The first error that ended a loop other than by shutdown.
  private final class Failure: Sendable {
    let error = Mutex<Errno?>(nil)
  }

  private init(port: UInt16, mailboxes: [Mailbox], threads: [Thread], failure: Failure) {
    self.port = port
    self.mailboxes = mailboxes
    self.threads = threads
    self.failure = failure
  }

  /// Listens on the port and starts the loops.
  /// - Parameters:
  ///   - loops: how many threads, at least 1.
  ///   - tls: what makes connections of TLS; nil: they are plain.
  ///   - notices: takes what the operator should hear of.
  package static func start(
    on port: ReservedPort, loops: Int, limits: ServerLimits, metrics: RPCMetrics,
    tls: TLSServerContext? = nil, notices: ConnectionNotices = ConnectionNotices(),
    makeHandler: @escaping HandlerFactory
  ) throws(Errno) -> Server {
    // Two servers that started at the same time may both have reserved it: one of them listens first.
    try Socket.checkUnused(host: port.host, port: port.number)
    var listeners: [Int32] = []
    var mailboxes: [Mailbox] = []
    for _ in 0..<max(1, loops) {
      listeners.append(try Socket.listen(host: port.host, port: port.number).take())
      mailboxes.append(try Mailbox())
    }
    let failure = Failure()
    let peers = PeerTable(limits.connectionPolicy)
    var threads: [Thread] = []
    for (index, listener) in listeners.enumerated() {
      let mailbox = mailboxes[index]
      let mailboxes = mailboxes
      let recorder = metrics.makeRecorder()
      threads.append(
        try Thread(name: "loop-\(index)") {
          do throws(Errno) {
            let loop = try EventLoop(
              limits: limits, listener: FileDescriptor(owning: listener), mailbox: mailbox,
              mailboxes: mailboxes, peers: peers, tls: tls, notices: notices,
              handler: makeHandler { mailbox.wake() }, metrics: recorder)
            try loop.run()
          } catch {
            failure.error.withLock { $0 = $0 ?? error }
            for mailbox in mailboxes { mailbox.postDrain() }
          }
        })
    }
    return Server(port: port.number, mailboxes: mailboxes, threads: threads, failure: failure)
  }

  /// Begins an orderly shutdown: no new connections, clients are told, open calls are finished, and
  /// after the limit the rest is refused. Any thread, any number of times.
  package func shutDown() {
    for mailbox in mailboxes { mailbox.postDrain() }
  }

  /// Waits until all loops have ended; throws what ended one of them before its time. Blocks; call once.
  package func wait() throws(Errno) {
    for thread in threads { thread.join() }
    if let error = failure.error.withLock({ $0 }) { throw error }
  }
}
