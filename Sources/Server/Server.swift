package import GRPC
// The server: listeners on one port, an event loop on a thread each, and the way down.
internal import HTTP2
package import Metrics
package import Posix
internal import Synchronization

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

  /// Listens and starts the loops.
  /// - Parameters:
  ///   - host: an IP address in text.
  ///   - port: 0 for a free one.
  ///   - loops: how many threads, at least 1.
  package static func start(
    host: String, port: UInt16, loops: Int, limits: ServerLimits, metrics: RPCMetrics,
    makeHandler: @escaping HandlerFactory
  ) throws(Errno) -> Server {
    try Socket.checkUnused(host: host, port: port)
    let first = try Socket.listen(host: host, port: port)
    let boundPort = try Socket.localPort(first.number)
    var listeners = [first.take()]
    var mailboxes: [Mailbox] = []
    for index in 0..<max(1, loops) {
      if index > 0 { listeners.append(try Socket.listen(host: host, port: boundPort).take()) }
      mailboxes.append(try Mailbox())
    }
    let failure = Failure()
    var threads: [Thread] = []
    for (index, listener) in listeners.enumerated() {
      let mailbox = mailboxes[index]
      let peers = mailboxes
      let recorder = metrics.makeRecorder()
      threads.append(
        try Thread(name: "loop-\(index)") {
          do throws(Errno) {
            let loop = try EventLoop(
              limits: limits, listener: FileDescriptor(owning: listener), mailbox: mailbox,
              peers: peers, handler: makeHandler { mailbox.wake() }, metrics: recorder)
            try loop.run()
          } catch {
            failure.error.withLock { $0 = $0 ?? error }
            for mailbox in peers { mailbox.postDrain() }
          }
        })
    }
    return Server(port: boundPort, mailboxes: mailboxes, threads: threads, failure: failure)
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
