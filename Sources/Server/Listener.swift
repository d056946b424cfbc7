// How connections come to a loop: accepted by one, and placed on the one that has the fewest.
internal import Posix

/// One loop's share of the port (SO_REUSEPORT), or the unix socket.
struct Listener: ~Copyable {
  static let token = UInt64.max
  private static let acceptsPerTurnMax = 64

  /// What becomes of a new connection.
  enum Placement {
    case here
    /// It was handed to another loop.
    case elsewhere
    /// The server has as many as it may have, this one counted as this loop's.
    case full
    /// Its peer has as many as it may have; it is not counted.
    case refused
  }

  private let descriptor: FileDescriptor
  private let connectionsMax: Int
  /// This loop's, and those of all loops.
  private let mailbox: Mailbox
  private let mailboxes: [Mailbox]
  private let peers: PeerTable
  /// Out of descriptors: the queue stays readable, so look away until `resume`.
  private(set) var isPaused = false

  init(
    _ descriptor: consuming FileDescriptor, connectionsMax: Int, mailbox: Mailbox,
    mailboxes: [Mailbox], peers: PeerTable, poller: borrowing Poller
  ) throws(Errno) {
    try poller.add(descriptor.number, token: Self.token)
    self.descriptor = descriptor
    self.connectionsMax = connectionsMax
    self.mailbox = mailbox
    self.mailboxes = mailboxes
    self.peers = peers
  }

  /// Before it goes: a port may keep its sockets for a server to come, and they would wake this loop for ever.
  borrowing func leave(_ poller: borrowing Poller) { try? poller.remove(descriptor.number) }

  /// Takes connections off the queue, and calls `body` with those that are not another loop's.
  mutating func accept(_ poller: borrowing Poller, _ body: (Mailbox.Arrival, Placement) -> Void) {
    for _ in 0..<Self.acceptsPerTurnMax {
      switch Socket.accept(descriptor.number) {
      case .connection(let descriptor):
        let connection = Mailbox.Arrival(
          descriptor: descriptor, peer: peers.address(ofAccepted: descriptor))
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
  private func place(_ connection: Mailbox.Arrival) -> Placement {
    guard peers.admit(connection.peer) else { return .refused }
    var best = mailbox
    var fewest = mailbox.connectionCount
    var total = fewest
    for other in mailboxes where other !== mailbox {
      let count = other.connectionCount
      total += count
      if count < fewest {
        fewest = count
        best = other
      }
    }
    if total >= connectionsMax {
      mailbox.addConnections(1)
      return .full
    }
    best.addConnections(1)
    if best === mailbox { return .here }
    best.post(connection)
    return .elsewhere
  }
}
