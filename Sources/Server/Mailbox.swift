internal import Posix
internal import Synchronization

/// What other threads leave for a loop: connections that another loop accepted, and the word to stop.
/// The lock is held for an append or a swap, never across I/O.
final class Mailbox: Sendable {
  /// A connection that was accepted and counted, on its way to its loop.
  struct Arrival {
    let descriptor: Int32
    let peer: PeerAddress
    /// Loops that have no room for it and no idle connection to give up.
    var rejections = 0
  }

  struct Contents {
    var connections: [Arrival] = []
    var drains = false
  }

  private let contents = Mutex(Contents())
  private let wakeup: Wakeup
  private let connections = Atomic<Int>(0)
  private let round = Atomic<Int64>(SystemClock.monotonicNanoseconds())

  init() throws(Errno) { wakeup = try Wakeup() }

  var descriptor: Int32 { wakeup.number }

  /// Connections that the loop has or will have.
  var connectionCount: Int { connections.load(ordering: .relaxed) }

  /// When the loop began its newest iteration, in monotonic nanoseconds.
  var lastRound: Int64 { round.load(ordering: .relaxed) }

  /// Of the loop's own thread.
  func noteRound(at nanoseconds: Int64) { round.store(nanoseconds, ordering: .relaxed) }

  func addConnections(_ change: Int) { connections.add(change, ordering: .relaxed) }

  func post(_ connection: Arrival) {
    contents.withLock { $0.connections.append(connection) }
    wakeup.signal()
  }

  func postDrain() {
    contents.withLock { $0.drains = true }
    wakeup.signal()
  }

  /// Wakes the loop with nothing for it but what it looks at in every turn.
  func wake() { wakeup.signal() }

  /// Everything that has come since the last call.
  func take() -> Contents {
    wakeup.clear()
    return contents.withLock { contents in
      let taken = contents
      contents = Contents(drains: taken.drains)
      return taken
    }
  }
}
