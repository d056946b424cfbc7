// The outbox of a server: its decisions, published to a broker.
package import Client
package import Messaging
internal import Posix

/// What a relay is told at its start.
package struct RelayOptions: Sendable {
  /// Of events: an exchange, or a topic.
  package var destination = "holdfast.events"
  /// The CloudEvents' source.
  package var source = "holdfast"
  package var format = EventFormat.json
  /// How long the broker may take to confirm at the end, in nanoseconds.
  package var drainNanoseconds: Int64 = 10_000_000_000
  /// Without room for so long, the watch is given up until there is some: a server would end a connection that is not
  /// read from.
  package var holdNanoseconds: Int64 = 5_000_000_000

  package init() {}
}

/// Takes what a watch says, and publishes it. Used by one thread, which waits for the server in the watch and asks the
/// broker in between: what waits for a confirmation is asked for every millisecond.
package final class Relay {
  /// How long to wait for the server where the broker has something to say soon, and where it has not.
  private static let soonMilliseconds: Int32 = 1
  private static let idleMilliseconds: Int32 = 50
  /// While there is no room, the broker is waited for, and the server is not read from.
  private static let fullMilliseconds: Int32 = 100
  private static let noteNanoseconds: Int64 = 100_000_000

  /// A place up to which everything is the broker's once the outbox has settled `number`.
  private struct Mark {
    let number: UInt64
    let token: String
  }

  private let outbox: Outbox
  private let metrics: RelayMetrics
  private let keep: (String) -> Void
  private let isStopped: () -> Bool
  private let options: RelayOptions
  private var maker: MessageMaker
  /// Events up to this number were published by an earlier run.
  private var skipThrough: UInt64

  /// Oldest first; the first `marksDone` of them are over.
  private var marks: [Mark] = []
  private var marksDone = 0
  /// Up to here everything is the broker's.
  private var lsn: UInt64 = 0
  private var events: UInt64 = 0
  private var fullSince: Int64?
  private var notedAt: Int64 = .min / 2
  private let savesFailed: () -> UInt64

  /// - Parameters:
  ///   - outbox: used by this alone, and empty.
  ///   - skipThrough: events up to this number are left out.
  ///   - keep: gets resume tokens, as soon as the broker has everything that they cover.
  ///   - savesFailed: how often one could not be saved.
  ///   - isStopped: asked many times a second.
  package init(
    _ options: RelayOptions, outbox: Outbox, metrics: RelayMetrics, skipThrough: UInt64 = 0,
    keep: @escaping (String) -> Void, savesFailed: @escaping () -> UInt64 = { 0 },
    isStopped: @escaping () -> Bool
  ) {
    self.outbox = outbox
    self.metrics = metrics
    self.skipThrough = skipThrough
    self.keep = keep
    self.savesFailed = savesFailed
    self.isStopped = isStopped
    self.options = options
    maker = MessageMaker(
      destination: options.destination, source: options.source, format: options.format)
    metrics.change { $0.heardAt = SystemClock.wall().nanoseconds }
  }

  // MARK: The server

  /// From now on another watch is read, which does not begin behind what an earlier run has published.
  package func beginAgain() { skipThrough = 0 }

  /// Takes a WatchResponse: its messages wait in the outbox then.
  /// - Safety: nothing of it refers to the bytes afterwards.
  @unsafe package func read(_ bytes: UnsafeRawBufferPointer) -> WatchReading {
    guard let response = unsafe ResponseOutline(bytes) else { return .malformed }
    let store = response.store
    for index in unsafe response.events.indices {
      guard let event = unsafe EventOutline(response.events[index]) else { return .malformed }
      if event.lsn <= skipThrough { continue }
      events += 1
      maker.make(event, of: store) { outbox.add($0) }
    }
    let mark = Mark(number: outbox.newest, token: response.token)
    // A message without events only moves the token.
    if marksDone < marks.count, marks[marks.count - 1].number == mark.number {
      marks[marks.count - 1] = mark
    } else {
      marks.append(mark)
    }
    return .taken(token: response.token)
  }

  // MARK: The broker

  /// What the watch does next; meanwhile the broker was asked.
  package func pause(_ watch: EventWatch) -> WatchPause {
    while true {
      if isStopped() { return .stop }
      step(outbox.hasRoom ? 0 : Self.fullMilliseconds, watch)
      if outbox.hasRoom { break }
      let now = SystemClock.monotonicNanoseconds()
      let since = fullSince ?? now
      fullSince = since
      if now - since > options.holdNanoseconds { return .hold }
    }
    fullSince = nil
    let isSoon = !outbox.isSettled && outbox.isConnected && outbox.blocked == nil
    return .wait(isSoon ? Self.soonMilliseconds : Self.idleMilliseconds)
  }

  private func step(_ milliseconds: Int32, _ watch: EventWatch?) {
    outbox.step(milliseconds: milliseconds) { _ in }
    keepSettled()
    note(watch)
  }

  private func keepSettled() {
    let before = marksDone
    while marksDone < marks.count, marks[marksDone].number <= outbox.settledThrough {
      marksDone += 1
    }
    if marksDone == before { return }
    let token = marks[marksDone - 1].token
    lsn = WatchMessage.lsn(ofToken: token) ?? lsn
    keep(token)
    if marksDone * 2 > marks.count {
      marks.removeFirst(marksDone)
      marksDone = 0
    }
  }

  /// Ends: waits for what the broker has not confirmed yet, and no longer than it may; not at all for a broker that is away.
  /// - Returns: how many messages it has not confirmed: they come again.
  package func drain() -> Int {
    metrics.change { $0.isEnding = true }
    let end = SystemClock.monotonicNanoseconds() + options.drainNanoseconds
    while outbox.isConnected, !outbox.isSettled, SystemClock.monotonicNanoseconds() < end {
      step(Self.idleMilliseconds, nil)
    }
    outbox.close()
    return outbox.count
  }

  // MARK: What others hear of it

  private func note(_ watch: EventWatch?) {
    let now = SystemClock.monotonicNanoseconds()
    if now - notedAt < Self.noteNanoseconds { return }
    notedAt = now
    let wall = SystemClock.wall().nanoseconds
    metrics.change { state in
      state.lastRound = now
      state.events = events
      state.messages = outbox.newest
      state.lsn = lsn
      state.oldestDecidedAt = outbox.oldestTime
      // A watch that is held waits for the broker, and not for the server.
      state.isServerConnected = watch.map { $0.isConnected || $0.isHeld } ?? false
      if let watch {
        state.heardAt = wall - (now - watch.heardAt)
        state.serverConnections = watch.connections
        state.head = watch.headToken.flatMap(WatchMessage.lsn) ?? state.head
      }
      state.isBrokerConnected = outbox.isConnected
      state.unconfirmed = outbox.count
      state.blocked = outbox.blocked != nil
      state.isStuck = outbox.stuck != nil
      state.outbox = outbox.counts
      state.savesFailed = savesFailed()
    }
  }
}
