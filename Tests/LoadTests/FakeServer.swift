import Posix
import Synchronization
import WireTesting

@testable import LoadHistory
@testable import LoadKit

/// A gRPC server in the test's own process, with a store that can be told to be wrong. It asks for a
/// header table of size 0, so that every request names its path in plain text.
final class FakeServer: Sendable {
  enum Fault: Sendable {
    case none
    /// Checks `batch` reserves against the stock, then takes the units of all: check, then
    /// decrement, unlocked, at its worst.
    case checksThenDecrements(batch: Int)
    /// Makes a new reservation for a key that it knows.
    case forgetsKeys
    /// Confirms, but leaves the units on hand.
    case losesConfirms
    /// Refuses every seventh reserve.
    case refusesWithStock
    /// After so many calls cuts the connections that call, one for each of the next `times` calls.
    case hangsUp(after: Int, times: Int = .max)
    /// Once the stock is set a second time it has never heard of anything.
    case losesEverything
    /// Answers a repeated reserve with another time of expiry.
    case changesReplays
    /// After so many calls it is gone: every connection is cut, nobody listens any more.
    case dies(after: Int)
    /// After so many calls it does nothing at all for so long, once.
    case stalls(after: Int, milliseconds: Int)
    /// Says goodbye (GOAWAY) on a connection with each of its calls of this number.
    case saysGoodbye(every: Int)
    /// After so many calls does not answer the next reserves, so many of them.
    case ignores(after: Int, count: Int)
    /// After so many calls reads no more, on any connection; new ones are taken and not read either.
    case stopsReading(after: Int)
    /// After so many calls allows no more streams on the connections that call.
    case allowsNoStreams(after: Int)
    /// Replaces without a look at what is available.
    case replacesWithoutStock
    /// Answers a Replace, and leaves the hold as it was.
    case replacesNothing
    /// A Replace has to find all of its lines, its own hold's units not among them.
    case replacesFromScratch
    /// Replaces again under a key that it knows.
    case replacesTwice
    /// Offers what is committed.
    case resellsCommitted
    /// Ships, but leaves the units on hand.
    case keepsShipped
    /// Has units unsold, and does not offer them again.
    case losesUncommitted
    /// Says that on hand has changed when it has not.
    case refusesCounts
    /// Holds twice as much beyond what is on hand as it may.
    case exceedsOvercommit
    /// Holds the last alternative that fits.
    case prefersTheLast
    /// Looks at no alternative.
    case triesLinesAlone
    /// Says that it has held the lines, whatever it has held.
    case misnamesAlternatives
    /// Grants the fewest units that will do.
    case grantsTheLeast
    /// Grants all units that were asked for where the fewest are there.
    case grantsWhatIsNotThere
    /// Says that it has granted one unit more than it has.
    case overstatesGrants
    /// Says of a repetition that another alternative is held.
    case changesAlternatives
    /// Knows no limits.
    case ignoresLimits
    /// Counts what a subject holds, and not what it has bought.
    case limitsHoldsAlone
    /// A Release does not give back what the subject may have.
    case keepsReleasedLimits
    /// Says LIMIT_EXCEEDED also where units are lacking.
    case limitsBeforeStock
    /// Answers the first two requests of a message in each other's place.
    case swapsResults
    /// Leaves the last result of every fourth message out.
    case dropsResults
    /// After so many messages of a ReserveStream ends it, without an answer to the next.
    case endsStreams(after: Int)
    /// States 7 units too many on hand in the first balances that it is asked for.
    case misstatesOnce
  }

  let port: UInt16
  private let listener: Int32
  private let fault: Fault
  private let feedFault: FakeFeed.Fault
  private let isStopping = Atomic<Bool>(false)
  private let thread = Mutex<Posix.Thread?>(nil)

  init(_ fault: Fault, feed: FakeFeed.Fault = .none) throws {
    self.fault = fault
    feedFault = feed
    let socket = try Socket.listen(host: "127.0.0.1", port: 0)
    port = try Socket.localPort(socket.number)
    listener = socket.take()
    let made = try Posix.Thread(name: "fake") { [self] in serve() }
    thread.withLock { $0 = made }
  }

  /// Stops serving and waits for its thread.
  func stop() {
    isStopping.store(true, ordering: .releasing)
    thread.withLock { $0.take() }?.join()
    if case .dies = fault { return }
    FileDescriptor.close(number: listener)
  }

  // MARK: Bytes

  private final class Peer {
    let socket: Int32
    var input: [UInt8] = []
    var output: [UInt8] = []
    var paths: [UInt32: String] = [:]
    /// Of requests that have come in part.
    var bodies: [UInt32: [UInt8]] = [:]
    var calls = 0
    var greeted = false
    /// Its Watch, and the first event that was not sent.
    var watch: (stream: UInt32, next: Int)?
    /// ReserveStreams whose response has begun.
    var hasBegun: Set<UInt32> = []
    /// To be cut.
    var isBroken = false
    init(_ socket: Int32) { self.socket = socket }
    deinit { FileDescriptor.close(number: socket) }
  }

  /// What the server knows; only its thread does.
  private struct State {
    var store: FakeStore
    var calls = 0
    /// Of many Reserves.
    var messages = 0
    var isDead = false
    var hasStalled = false
    var ignored = 0
    var hasBrokenOff = false
    /// Reserves that wait for their batch.
    var waiting: [(peer: Peer, stream: UInt32, message: [UInt8])] = []
  }

  private func serve() {
    guard let poller = try? Poller() else { return }
    try? poller.add(listener, token: 0)
    var peers: [UInt64: Peer] = [:]
    var next: UInt64 = 1
    var state = State(store: FakeStore(fault, feed: feedFault))
    while !isStopping.load(ordering: .acquiring), !state.isDead {
      let count = (try? poller.wait(timeoutMilliseconds: 20)) ?? 0
      for position in 0..<count {
        let token = poller.event(at: position).token
        if token == 0 {
          guard case .connection(let socket) = Socket.accept(listener) else { continue }
          peers[next] = Peer(socket)
          try? poller.add(socket, token: next)
          next += 1
        } else if case .stopsReading(let after) = fault, state.calls >= after {
          // What is not read would wake the poller again and again.
          sleep(milliseconds: 1)
        } else if let peer = peers[token] {
          let isOpen = receive(peer, &state)
          for each in peers.values {
            tell(each, &state)
            flush(each)
          }
          if !isOpen { peers[token] = nil }
          peers = peers.filter { !$0.value.isBroken }
        }
      }
    }
    if state.isDead { FileDescriptor.close(number: listener) }
  }

  /// Sends what the peer's Watch has not been sent.
  private func tell(_ peer: Peer, _ state: inout State) {
    while let (stream, next) = peer.watch, next < state.store.feed.events.count {
      var sent = next
      peer.output += state.store.feed.message(stream, from: &sent)
      peer.watch = (stream, sent)
      let isCut = feedFault == .breaksOff || feedFault == .forgetsTokens
      if isCut, !state.hasBrokenOff, sent > FakeFeed.faultyEvent {
        state.hasBrokenOff = true
        peer.isBroken = true
        return
      }
    }
  }

  private func watch(_ peer: Peer, _ stream: UInt32, _ message: [UInt8], _ state: State) {
    guard var next = state.store.feed.start(Fields(message)) else {
      peer.output += Frames.frame(
        1, 5, stream,
        Frames.status200 + Frames.literal("grpc-status", "9")
          + Frames.literal("grpc-message", "RESUME_TOKEN_FOREIGN"))
      return
    }
    // The first message comes at once.
    peer.output += Frames.frame(1, 4, stream, Frames.status200)
    peer.output += state.store.feed.message(stream, from: &next)
    peer.watch = (stream, next)
  }

  private func flush(_ peer: Peer) {
    while !peer.output.isEmpty {
      let result = unsafe peer.output.withUnsafeBytes {
        unsafe FileDescriptor.send(peer.socket, from: $0)
      }
      guard case .moved(let count) = result else {
        if result == .wouldBlock { continue }
        return
      }
      peer.output.removeFirst(count)
    }
  }

  private func receive(_ peer: Peer, _ state: inout State) -> Bool {
    var buffer = [UInt8](repeating: 0, count: 65_536)
    let result = unsafe buffer.withUnsafeMutableBytes {
      unsafe FileDescriptor.read(peer.socket, into: $0)
    }
    guard case .moved(let count) = result, count > 0 else { return result == .wouldBlock }
    peer.input += buffer[..<count]
    if !peer.greeted, peer.input.count >= 24 {
      peer.greeted = true
      peer.input.removeFirst(24)
      peer.output += Frames.settings([(1, 0), (3, 1000)])
    }
    var at = 0
    while peer.greeted, peer.input.count - at >= 9 {
      let header = peer.input[at..<at + 9].map { Int($0) }
      let length = header[0] << 16 | header[1] << 8 | header[2]
      guard peer.input.count - at >= 9 + length else { break }
      let stream = UInt32(header[5] << 24 | header[6] << 16 | header[7] << 8 | header[8])
      let payload = Array(peer.input[at + 9..<at + 9 + length])
      at += 9 + length
      if header[3] == 1 {
        let text = String(decoding: payload, as: UTF8.self)
        let paths = Method.paths + ["/holdfast.v1.EventService/Watch"]
        // One path may begin as another does.
        peer.paths[stream] = paths.filter { text.contains($0) }.max { $0.count < $1.count }
      } else if header[3] == 0 {
        let credit = Frames.number(UInt32(max(1, length)))
        peer.output += Frames.frame(8, 0, 0, credit) + Frames.frame(8, 0, stream, credit)
        peer.bodies[stream, default: []] += payload
        while let message = Self.message(&peer.bodies[stream, default: []]) {
          guard isServed(peer, stream, &state) else { return false }
          take(peer, stream, message, &state)
        }
        if header[4] & 1 == 1, peer.paths.removeValue(forKey: stream) != nil {
          // The client ends its ReserveStream.
          peer.output += Frames.trailers(stream)
        }
      } else if header[3] == 3 {
        peer.paths[stream] = nil
        peer.bodies[stream] = nil
      }
    }
    peer.input.removeFirst(at)
    return true
  }

  /// Takes a gRPC message off the front of a body, if it is whole.
  private static func message(_ body: inout [UInt8]) -> [UInt8]? {
    guard body.count >= 5 else { return nil }
    let length = body[1..<5].reduce(0) { $0 << 8 | Int($1) }
    guard body.count >= 5 + length else { return nil }
    defer { body.removeFirst(5 + length) }
    return Array(body[5..<5 + length])
  }

  /// A message in as many DATA frames as it takes.
  private static func data(_ stream: UInt32, _ message: [UInt8]) -> [UInt8] {
    let body = Frames.body(message)
    return stride(from: 0, to: body.count, by: 16_384).flatMap { start in
      Frames.frame(0, 0, stream, Array(body[start..<min(body.count, start + 16_384)]))
    }
  }

  private func takeMany(
    _ peer: Peer, _ stream: UInt32, _ path: String, _ message: [UInt8], _ state: inout State
  ) {
    state.messages += 1
    if case .endsStreams(let after) = fault, state.messages % (after + 1) == 0 {
      peer.paths[stream] = nil
      peer.output += Frames.frame(
        1, 5, stream,
        (peer.hasBegun.remove(stream) == nil ? Frames.status200 : [])
          + Frames.literal("grpc-status", "14"))
      return
    }
    var results = state.store.reserveMany(message)
    if case .swapsResults = fault, results.count > 1 { results.swapAt(0, 1) }
    if case .dropsResults = fault, state.messages % 4 == 0 { results.removeLast() }
    let response = results.flatMap { Fields.bytes(1, $0) }
    let isStream = path.hasSuffix("Stream")
    if !isStream || peer.hasBegun.insert(stream).inserted {
      peer.output += Frames.frame(1, 4, stream, Frames.status200)
    }
    peer.output += Self.data(stream, response)
    if isStream { return }
    peer.paths[stream] = nil
    peer.output += Frames.trailers(stream)
  }

  /// Counts a call. False where the fault cuts its connection in place of an answer.
  private func isServed(_ peer: Peer, _ stream: UInt32, _ state: inout State) -> Bool {
    state.calls += 1
    peer.calls += 1
    switch fault {
    case .hangsUp(let after, let times):
      return state.calls <= after || state.calls - after > times
    case .dies(let after):
      state.isDead = state.calls > after
      return !state.isDead
    case .stalls(let after, let milliseconds) where state.calls > after && !state.hasStalled:
      state.hasStalled = true
      sleep(milliseconds: milliseconds)
    case .allowsNoStreams(let after) where state.calls > after:
      peer.output += Frames.settings([(3, 0)])
    case .saysGoodbye(let every) where peer.calls == every:
      // The call that it comes with is still answered; later ones are not looked at.
      peer.output += Frames.frame(7, 0, 0, Frames.number(stream) + Frames.number(0))
    default: break
    }
    return true
  }

  private func take(
    _ peer: Peer, _ stream: UInt32, _ message: [UInt8], _ state: inout State
  ) {
    if case .saysGoodbye(let every) = fault, peer.calls > every { return }
    let path = peer.paths[stream] ?? ""
    if path.hasSuffix("/BatchReserve") || path.hasSuffix("/ReserveStream") {
      return takeMany(peer, stream, path, message, &state)
    }
    peer.paths[stream] = nil
    peer.bodies[stream] = nil
    if path.hasSuffix("/Watch") { return watch(peer, stream, message, state) }
    if case .ignores(let after, let count) = fault, path.hasSuffix("/Reserve"),
      state.calls > after, state.ignored < count
    {
      state.ignored += 1
      return
    }
    guard case .checksThenDecrements(let batch) = fault, path.hasSuffix("/Reserve") else {
      peer.output += state.store.answer(path, message, stream)
      return
    }
    state.waiting.append((peer, stream, message))
    guard state.waiting.count == batch else { return }
    // Each sees the stock as it was before any of them.
    let checked = state.store.items
    for call in state.waiting {
      call.peer.output += state.store.reserve(call.message, call.stream, stock: checked)
    }
    state.waiting.removeAll()
  }
}
