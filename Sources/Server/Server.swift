// The server: an event loop on a thread each, and the way down.
package import GRPC
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

  /// The port that it listens on; 0 on a unix socket.
  package let port: UInt16
  /// The file of the unix socket that it listens on.
  private let socketFile: UnixSocket.File?
  private let mailboxes: [Mailbox]
  private let threads: [Thread]
  private let failure: Failure

  /// The first error that ended a loop other than by shutdown.
  private final class Failure: Sendable {
    let error = Mutex<Errno?>(nil)
  }

  private init(
    port: UInt16, socketFile: UnixSocket.File?, mailboxes: [Mailbox], threads: [Thread],
    failure: Failure
  ) {
    self.port = port
    self.socketFile = socketFile
    self.mailboxes = mailboxes
    self.threads = threads
    self.failure = failure
  }

  /// Listens on the port and starts the loops.
  /// - Parameters:
  ///   - loops: how many threads, at least 1.
  ///   - limits: of the server as a whole, but where they say otherwise.
  ///   - tls: what makes connections of TLS; nil: they are plain.
  ///   - keepsListening: another server follows on the port (`ReservedPort`).
  ///   - notices: takes what the operator should hear of.
  ///   - slowCalls: takes slow calls; nil: no call is measured for that.
  package static func start(
    on port: ReservedPort, loops: Int, limits: ServerLimits, metrics: RPCMetrics,
    tls: TLSServerContext? = nil, keepsListening: Bool = false,
    notices: ConnectionNotices = ConnectionNotices(), slowCalls: SlowCalls? = nil,
    makeHandler: @escaping HandlerFactory
  ) throws(Errno) -> Server {
    let (listeners, socketFile) = try port.listen(
      count: max(1, loops), keeps: keepsListening)
    let limits = limits.share(ofLoops: listeners.count)
    var mailboxes: [Mailbox] = []
    for _ in listeners { mailboxes.append(try Mailbox()) }
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
              limits: limits, listener: listener, mailbox: mailbox,
              mailboxes: mailboxes, peers: peers, tls: tls, notices: notices,
              handler: makeHandler { mailbox.wake() }, metrics: recorder,
              slowCalls: slowCalls)
            try loop.run()
          } catch {
            failure.error.withLock { $0 = $0 ?? error }
            for mailbox in mailboxes { mailbox.postDrain() }
          }
        })
    }
    return Server(
      port: port.number, socketFile: socketFile, mailboxes: mailboxes, threads: threads,
      failure: failure)
  }

  /// When each loop began its newest iteration, in monotonic nanoseconds: at most a second ago, unless it hangs, has
  /// much to do, or has ended.
  package var lastRounds: [@Sendable () -> Int64] { mailboxes.map { each in { each.lastRound } } }

  /// Begins an orderly shutdown: no new connections, clients are told, open calls are finished, and
  /// after the limit the rest is refused. Any thread, any number of times.
  package func shutDown() {
    for mailbox in mailboxes { mailbox.postDrain() }
  }

  /// Waits until all loops have ended; throws what ended one of them before its time. Blocks; call once.
  package func wait() throws(Errno) {
    for thread in threads { thread.join() }
    if let socketFile { UnixSocket.remove(socketFile) }
    if let error = failure.error.withLock({ $0 }) { throw error }
  }
}
