// One connection that is passed on: two sockets, and what is under way between them.
internal import Posix

/// Bytes that are read from one side are written to the other at once. What that does not take waits, and until
/// it is taken nothing more is read: so much memory a direction has, and an idle one has none.
struct ForwardedConnection {
  enum Side: UInt64 {
    case client = 0
    case owner = 1

    var other: Side { self == .client ? .owner : .client }
  }

  /// What goes to one side.
  private struct Direction {
    /// Taken off the other side, and not yet written from `start` on.
    var waiting: [UInt8] = []
    var start = 0
    /// Since then what waits has not moved.
    var waitingSinceNanoseconds: Int64 = 0
    /// The other side has ended its sending.
    var isEnding = false
    /// Nothing goes this way any more: the end was passed on, or the side takes nothing.
    var isOver = false

    var hasWaiting: Bool { start < waiting.count }
  }

  /// What a side's socket is watched for.
  private struct Interest: Equatable {
    var readable = false
    var writable = false

    var isNone: Bool { !readable && !writable }
  }

  private struct End {
    var descriptor: Int32 = -1
    var interest = Interest()
    /// What goes to it.
    var incoming = Direction()
  }

  /// Tells it from those that had its place before.
  let generation: UInt32
  let acceptedNanoseconds: Int64
  /// Where the owner was when it was connected to; nil: not yet.
  var address: String?
  /// The addresses of that name that are left to try.
  var addressesLeft: [Address] = []
  private(set) var isConnected = false
  /// When bytes moved last.
  private(set) var movedNanoseconds: Int64
  private var client: End
  private var owner = End()

  /// A reader gets its turn between so many reads of a fast one.
  private static let readsPerTurnMax = 4

  struct Address {
    let host: String
    let port: UInt16
  }

  init(client descriptor: Int32, generation: UInt32, header: [UInt8], at now: Int64) {
    client = End(descriptor: descriptor)
    self.generation = generation
    acceptedNanoseconds = now
    movedNanoseconds = now
    owner.incoming.waiting = header
    owner.incoming.waitingSinceNanoseconds = now
  }

  /// The number of a socket and its side, as the poller says it.
  private func token(_ index: Int, _ side: Side) -> UInt64 {
    UInt64(generation) << 32 | UInt64(index) << 1 | side.rawValue
  }

  private subscript(side: Side) -> End {
    get { side == .client ? client : owner }
    _modify { if side == .client { yield &client } else { yield &owner } }
  }

  /// Nothing is left to be passed on.
  var isOver: Bool { client.incoming.isOver && owner.incoming.isOver }

  /// One side has ended, and the other goes on.
  var isHalfOver: Bool { client.incoming.isOver != owner.incoming.isOver }

  var isConnecting: Bool { !isConnected && owner.descriptor >= 0 }

  /// A side has not taken what waits for it since then; nil where nothing waits.
  var waitsSinceNanoseconds: Int64? {
    let since = [client, owner].filter { $0.incoming.hasWaiting }
      .map(\.incoming.waitingSinceNanoseconds)
    return isConnected ? since.min() : nil
  }

  // MARK: Connecting

  /// Begins to connect to the next of `addressesLeft`. False where none is left.
  mutating func connectToNext(_ index: Int, _ poller: borrowing Poller) -> Bool {
    abandonOwner(poller)
    while let address = addressesLeft.popLast() {
      guard let socket = try? Socket.connect(host: address.host, port: address.port) else {
        continue
      }
      guard (try? poller.add(socket.number, token: token(index, .owner), writable: true)) != nil
      else { continue }
      owner.interest = Interest(readable: true, writable: true)
      owner.descriptor = socket.take()
      return true
    }
    address = nil
    return false
  }

  /// The owner's socket is ready: whether it is connected.
  mutating func finishConnecting(keepaliveSeconds: Int32) -> Bool {
    if Socket.connectError(owner.descriptor) != nil { return false }
    isConnected = true
    // Of unix sockets they are not known.
    try? Socket.detectDeadPeers(client.descriptor, idleSeconds: keepaliveSeconds)
    try? Socket.detectDeadPeers(owner.descriptor, idleSeconds: keepaliveSeconds)
    return true
  }

  private mutating func abandonOwner(_ poller: borrowing Poller) {
    guard owner.descriptor >= 0 else { return }
    try? poller.remove(owner.descriptor)
    FileDescriptor.close(number: owner.descriptor)
    owner.descriptor = -1
    owner.interest = Interest()
  }

  /// Ends both sides, whatever is under way.
  mutating func close(_ poller: borrowing Poller) {
    abandonOwner(poller)
    FileDescriptor.close(number: client.descriptor)
    client.descriptor = -1
  }

  // MARK: Bytes

  /// Writes what waits for `side`. How many bytes were written.
  mutating func flush(_ side: Side, at now: Int64) -> Int {
    let descriptor = self[side].descriptor
    var count = 0
    while self[side].incoming.hasWaiting {
      let start = self[side].incoming.start
      let result = unsafe self[side].incoming.waiting[start...].withUnsafeBytes {
        unsafe FileDescriptor.send(descriptor, from: $0)
      }
      switch result {
      case .moved(let moved):
        count += moved
        self[side].incoming.start += moved
        self[side].incoming.waitingSinceNanoseconds = now
        movedNanoseconds = now
      case .wouldBlock: return count
      case .failed:
        giveUp(side)
        return count
      }
    }
    self[side].incoming.waiting = []
    self[side].incoming.start = 0
    passEndOn(to: side)
    return count
  }

  /// Reads from `side`, and writes to the other. How many bytes were written; nil where the connection broke.
  mutating func pump(
    from side: Side, through buffer: UnsafeMutableRawBufferPointer, at now: Int64
  ) -> Int? {
    let other = side.other
    var count = 0
    for _ in 0..<Self.readsPerTurnMax where isReadable(side) {
      switch unsafe FileDescriptor.read(self[side].descriptor, into: buffer) {
      case .wouldBlock: return count
      case .failed: return nil
      case .moved(0):
        self[other].incoming.isEnding = true
        passEndOn(to: other)
        return count
      case .moved(let moved):
        movedNanoseconds = now
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: buffer[..<moved])
        count += unsafe write(bytes, to: other, at: now)
      }
    }
    return count
  }

  private mutating func write(
    _ bytes: UnsafeRawBufferPointer, to side: Side, at now: Int64
  ) -> Int {
    var done = 0
    while done < bytes.count {
      let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[done...])
      switch unsafe FileDescriptor.send(self[side].descriptor, from: rest) {
      case .moved(let moved): done += moved
      case .wouldBlock:
        self[side].incoming.waiting = unsafe Array(rest)
        self[side].incoming.waitingSinceNanoseconds = now
        return done
      case .failed:
        giveUp(side)
        return done
      }
    }
    return done
  }

  /// The side takes nothing more. It may have sent something before: that is still passed on.
  private mutating func giveUp(_ side: Side) {
    self[side].incoming = Direction()
    self[side].incoming.isOver = true
  }

  private mutating func passEndOn(to side: Side) {
    guard self[side].incoming.isEnding, !self[side].incoming.hasWaiting,
      !self[side].incoming.isOver
    else { return }
    self[side].incoming.isOver = true
    Socket.endSending(self[side].descriptor)
  }

  // MARK: Readiness

  private func isReadable(_ side: Side) -> Bool {
    let way = self[side.other].incoming
    return isConnected && !way.hasWaiting && !way.isEnding && !way.isOver
  }

  /// Has both sockets watched for what can go on. One that nothing is wanted of is not watched at all: that it
  /// hung up would be said again and again. False where the kernel does not do it.
  mutating func watch(_ index: Int, _ poller: borrowing Poller) -> Bool {
    guard isConnected else { return true }
    for side in [Side.client, .owner] {
      let wanted = Interest(readable: isReadable(side), writable: self[side].incoming.hasWaiting)
      let current = self[side].interest
      if wanted == current { continue }
      let descriptor = self[side].descriptor
      do throws(Errno) {
        if wanted.isNone {
          try poller.remove(descriptor)
        } else {
          if current.isNone { try poller.add(descriptor, token: token(index, side)) }
          try poller.modify(
            descriptor, token: token(index, side), readable: wanted.readable,
            writable: wanted.writable)
        }
      } catch { return false }
      self[side].interest = wanted
    }
    return true
  }
}
