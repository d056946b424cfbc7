// A standby that forwards: each connection goes through to the owner byte by byte, whatever it speaks, so that
// every client works behind any load balancer. TLS ends at the owner.
package import Posix
internal import Synchronization

/// Limits of a forwarder.
package struct ForwarderLimits: Sendable {
  /// Connections at once; each takes two descriptors, and 128 KiB at most.
  package var connectionsMax: Int
  /// How long a connection waits for an owner that takes it, in nanoseconds: a takeover fits in. Then it is
  /// closed, and clients try again by themselves.
  package var connectNanosecondsMax: Int64 = 3_000_000_000
  /// Silence after which a connection is closed that goes to who is the owner no more, in nanoseconds. Such a
  /// process may be frozen, or its machine gone without a word. Connections to the owner may be silent.
  package var formerOwnerNanosecondsMax: Int64 = 1_000_000_000
  /// How long a side may take no byte that waits for it, and be silent where the other has ended, in nanoseconds.
  package var stalledWriteNanosecondsMax: Int64 = 60_000_000_000
  /// Silence after which the kernel probes a side, in seconds.
  package var keepaliveSeconds: Int32 = 60
  /// How long a shutdown leaves connections to end by themselves, in nanoseconds. Nothing can tell the clients:
  /// the owner does, where it ends in order.
  package var shutdownNanosecondsMax: Int64 = 500_000_000

  package init(connectionsMax: Int) { self.connectionsMax = connectionsMax }
}

/// What a forwarder has done.
package struct ForwarderStatistics: Sendable, Equatable {
  /// Connections that were accepted.
  package var connections = 0
  /// Those of them that are open.
  package var open = 0
  package var bytesToOwner = 0
  package var bytesToClients = 0
  /// Connections that were closed because no owner took them in time.
  package var unreachable = 0
  /// Connections that were closed at once: there are as many as there may be.
  package var refused = 0
}

/// Passes connections on to the owner, on a thread of its own. Made by `start`; ends with `shutDown` and `wait`.
package final class Forwarder: Sendable {
  private let shared: Shared
  private let thread: Thread

  /// What the thread and the others share.
  final class Shared: Sendable {
    let wakeup: Wakeup
    let isEnding = Atomic<Bool>(false)
    let statistics = Mutex(ForwarderStatistics())
    let error = Mutex<Errno?>(nil)
    let round = Atomic<Int64>(SystemClock.monotonicNanoseconds())

    init() throws(Errno) { wakeup = try Wakeup() }
  }

  private init(_ shared: Shared, _ thread: Thread) {
    self.shared = shared
    self.thread = thread
  }

  /// When the thread came round last, in monotonic nanoseconds: at most a second ago, unless it hangs or has ended.
  package var lastRound: Int64 { shared.round.load(ordering: .relaxed) }

  package var statistics: ForwarderStatistics { shared.statistics.withLock { $0 } }

  /// Listens on the port and starts the thread.
  /// - Parameters:
  ///   - sendsProxyHeader: begins each connection with a header that names the client (PROXY protocol,
  ///     version 2): the owner must expect it.
  ///   - keepsListening: a server follows on the port (`ReservedPort`).
  ///   - owner: where the owner is now, as HOST:PORT, or unix: and a path; nil or empty where that is not known.
  ///     Asked often, from the thread. A name is looked up by the thread when it is new, and everything waits.
  package static func start(
    on port: ReservedPort, limits: ForwarderLimits, sendsProxyHeader: Bool = false,
    keepsListening: Bool = true, owner: @escaping @Sendable () -> String?
  ) throws(Errno) -> Forwarder {
    let shared = try Shared()
    let (listeners, file) = try port.listen(count: 1, keeps: keepsListening)
    let listener = listeners[0] ?? -1
    let thread = try Thread(name: "forward") {
      defer { if let file { UnixSocket.remove(file) } }
      do throws(Errno) {
        let loop = try ForwarderLoop(
          listener: listener, limits: limits, sendsProxyHeader: sendsProxyHeader, owner: owner,
          shared: shared)
        try loop.run()
      } catch {
        shared.error.withLock { $0 = error }
      }
    }
    return Forwarder(shared, thread)
  }

  /// Begins the end: no new connections, and what is open has a moment to end by itself. Any thread, any number
  /// of times.
  package func shutDown() {
    shared.isEnding.store(true, ordering: .releasing)
    shared.wakeup.signal()
  }

  /// Waits until the thread has ended; throws what ended it before its time. Blocks; call once.
  package func wait() throws(Errno) {
    thread.join()
    if let error = shared.error.withLock({ $0 }) { throw error }
  }
}
