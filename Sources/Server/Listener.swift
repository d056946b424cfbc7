// How connections come to a loop: accepted by one, and placed on the one that has the fewest.
internal import Posix

/// One loop's share of the port (SO_REUSEPORT).
struct Listener: ~Copyable {
  static let token = UInt64.max
  private static let acceptsPerTurnMax = 64

  /// Where a new connection goes.
  enum Placement {
    case here
    /// It was handed to another loop.
    case elsewhere
    /// The server has as many as it may have.
    case refused
  }

  private let descriptor: FileDescriptor
  private let connectionsMax: Int
  /// This loop's, and those of all loops.
  private let mailbox: Mailbox
  private let peers: [Mailbox]
  /// Out of descriptors: the queue stays readable, so look away until `resume`.
  private(set) var isPaused = false

  init(
    _ descriptor: consuming FileDescriptor, connectionsMax: Int, mailbox: Mailbox,
    peers: [Mailbox], poller: borrowing Poller
  ) throws(Errno) {
    try poller.add(descriptor.number, token: Self.token)
    self.descriptor = descriptor
    self.connectionsMax = connectionsMax
    self.mailbox = mailbox
    self.peers = peers
  }

  /// Takes connections off the queue, and calls `body` with those that are this loop's or nobody's.
  mutating func accept(_ poller: borrowing Poller, _ body: (Int32, Placement) -> Void) {
    for _ in 0..<Self.acceptsPerTurnMax {
      switch Socket.accept(descriptor.number) {
      case .connection(let connection):
        let placement = place(connection)
        if placement != .elsewhere { body(connection, placement) }
      case .vanished: continue
      case .wouldBlock: return
      case .exhausted, .failed:
        isPaused = true
        try? poller.modify(descriptor.number, token: Self.token, readable: false, writable: false)
        return
      }
    }
  }

  /// Goes on after a pause.
  mutating func resume(_ poller: borrowing Poller) {
    guard isPaused else { return }
    isPaused = false
    try? poller.modify(descriptor.number, token: Self.token, readable: true, writable: false)
  }

  /// Gives a new connection to the loop that has the fewest: the kernel's spread over SO_REUSEPORT
  /// sockets is by hash, and eight connections often fall six to two. It is counted from here on.
  private func place(_ connection: Int32) -> Placement {
    var best = mailbox
    var fewest = mailbox.connectionCount
    var total = fewest
    for peer in peers where peer !== mailbox {
      let count = peer.connectionCount
      total += count
      if count < fewest {
        fewest = count
        best = peer
      }
    }
    best.addConnections(1)
    if total >= connectionsMax { return .refused }
    if best === mailbox { return .here }
    best.post(connection: connection)
    return .elsewhere
  }
}
