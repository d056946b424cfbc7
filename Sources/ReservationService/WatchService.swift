internal import Bytes
internal import ChangeFeed
internal import GRPC
internal import Log
internal import Posix
internal import Synchronization

/// holdfast.v1.EventService on one loop: who watches, and how far each has been sent. Reads nothing itself:
/// blocks of events come from the feed's threads, and the next is asked for when one is sent.
final class WatchService {
  /// What a Watch asks for.
  struct Options {
    var start = WatchStart.now
    var filter = EventFilter()
    var heartbeatNanoseconds = WatchService.heartbeatNanoseconds
    /// Caller and key are not shown.
    var isOpen = true
  }

  private struct Watch {
    let options: Options
    /// Sent up to here, or filtered out; nil until the feed has said where it begins.
    var point: LogPoint?
    /// Being sent; nil while the feed was asked for the next.
    var block: EventBlock?
    /// The first event of it that is not sent.
    var next = 0
    /// The client does not read; `resumed` says when it does.
    var isFull = false
    /// Monotonic nanoseconds: when the last message was sent.
    var sentNanoseconds: Int64
  }

  static let heartbeatNanoseconds: Int64 = 10_000_000_000
  /// Of events in one message: an event is 30 KiB at most, and a message 1 MiB.
  private static let messageBytes = 64 << 10
  /// How often heartbeats are looked after.
  private static let tickNanoseconds: Int64 = 100_000_000

  private let feed: ChangeFeed
  private let port: WatchPort
  private let errors: ErrorReplies
  private var watches: [CallID: Watch] = [:]
  private var resumedCalls: [CallID] = []
  private var nextTickNanoseconds: Int64 = 0

  init(feed: ChangeFeed, errors: ErrorReplies, wake: @escaping @Sendable () -> Void) {
    self.feed = feed
    self.errors = errors
    port = feed.makePort(wake: wake)
  }

  var tokens: ResumeToken { feed.tokens }

  /// Begins a watch; false where there are too many.
  func begin(_ call: CallID, _ options: Options) -> Bool {
    guard feed.begin(call.rawValue, options.start, options.filter, port) else { return false }
    watches[call] = Watch(
      options: options, sentNanoseconds: SystemClock.monotonicNanoseconds())
    return true
  }

  func cancelled(_ call: CallID) {
    // Asked of every call that is cut short, nearly never with watches about.
    if !watches.isEmpty { remove(call) }
  }

  func resumed(_ call: CallID) {
    if watches[call] != nil { resumedCalls.append(call) }
  }

  private func remove(_ call: CallID) {
    if watches.removeValue(forKey: call) != nil { feed.end(call.rawValue, port) }
    if watches.isEmpty { port.sentLSN.store(.max, ordering: .relaxed) }
  }

  // MARK: Once an iteration

  func deliver(to sink: any CallSink) {
    let deliveries = port.take()
    if watches.isEmpty { return }
    for (watch, delivery) in deliveries { take(delivery, CallID(rawValue: watch), sink) }
    let resumed = resumedCalls
    resumedCalls.removeAll(keepingCapacity: true)
    for call in resumed {
      watches[call]?.isFull = false
      send(call, sink)
    }
    let now = SystemClock.monotonicNanoseconds()
    if now >= nextTickNanoseconds {
      nextTickNanoseconds = now + Self.tickNanoseconds
      tick(now, sink)
    }
  }

  private func take(_ delivery: WatchDelivery, _ call: CallID, _ sink: any CallSink) {
    guard watches[call] != nil else { return }
    switch delivery {
    case .begun(let point):
      watches[call]?.point = point
      sendEmpty(call, sink)
      request(call, behind: point)
    case .passed(let point): watches[call]?.point = point
    case .block(let block):
      let isFirst = watches[call]?.point == nil
      let start = watches[call]?.point?.lsn ?? block.start
      watches[call]?.block = block
      watches[call]?.next = block.firstIndex(behind: start)
      if isFirst { watches[call]?.sentNanoseconds = 0 }
      send(call, sink)
    case .failed(let failure):
      feed.countEnded(failure)
      end(call, sink) { errors.watchEnded(failure, response: $0) }
    }
  }

  /// Asks for the block behind `point`, if the watch is still there.
  private func request(_ call: CallID, behind point: LogPoint) {
    guard let filter = watches[call]?.options.filter else { return }
    feed.request(call.rawValue, behind: point, filter, port)
  }

  private func tick(_ now: Int64, _ sink: any CallSink) {
    var least = UInt64.max
    for (call, watch) in watches {
      guard let point = watch.point else { continue }
      least = min(least, point.lsn)
      // One tick early rather than late.
      let due = watch.sentNanoseconds + watch.options.heartbeatNanoseconds - Self.tickNanoseconds
      if !watch.isFull && now >= due { sendEmpty(call, sink) }
    }
    port.sentLSN.store(least, ordering: .relaxed)
  }

  // MARK: Messages

  /// Sends of the block what the client takes, and asks for the next where all of it is sent.
  private func send(_ call: CallID, _ sink: any CallSink) {
    while let watch = watches[call], !watch.isFull {
      guard let block = watch.block else {
        // It was given back while the client did not read.
        if let point = watch.point { request(call, behind: point) }
        return
      }
      guard let first = block.next(from: watch.next, watch.options.filter) else {
        watches[call]?.point = block.end
        watches[call]?.block = nil
        // The first message comes at once, and who has been silent for long says how far it is.
        if watch.sentNanoseconds == 0 { sendEmpty(call, sink) }
        request(call, behind: block.end)
        return
      }
      send(block, from: first, watch, call, sink)
    }
  }

  private func send(
    _ block: EventBlock, from first: Int, _ watch: Watch, _ call: CallID, _ sink: any CallSink
  ) {
    let (filter, isOpen) = (watch.options.filter, watch.options.isOpen)
    var next: Int? = first
    var count = 0
    var point = block.end
    let delivery = sink.respond(to: call, lsn: 0, ends: false) { response in
      let writer = response.message
      while let index = next, writer.count < Self.messageBytes {
        var end = index + 1
        if isOpen {
          block.withFields(index, isOpen: true) { writer.field(1, $0) }
        } else {
          // As they stand in the block, mostly all of them.
          end = block.endOfRun(from: index, filter, bytesMax: Self.messageBytes - writer.count)
          block.withEvents(index..<end) { writer.text($0) }
        }
        count += end - index
        point = block.point(behind: end - 1)
        next = block.next(from: end, filter)
      }
      if next == nil { point = block.end }
      put(point, to: writer)
    }
    switch delivery {
    case .taken:
      feed.countSent(count)
      watches[call]?.point = point
      watches[call]?.next = next ?? block.firstIndex(behind: .max)
      watches[call]?.sentNanoseconds = SystemClock.monotonicNanoseconds()
    case .full:
      watches[call]?.isFull = true
      // What was sent is a point that the feed can go on from; before the first, it is kept.
      if watch.point != nil, !feed.hasRoomForBlocks { watches[call]?.block = nil }
    case .gone: remove(call)
    }
  }

  private func sendEmpty(_ call: CallID, _ sink: any CallSink) {
    guard let point = watches[call]?.point else { return }
    switch sink.respond(to: call, lsn: 0, ends: false, { put(point, to: $0.message) }) {
    case .taken: watches[call]?.sentNanoseconds = SystemClock.monotonicNanoseconds()
    case .full: watches[call]?.isFull = true
    case .gone: remove(call)
    }
  }

  private func put(_ point: LogPoint, to writer: ProtoWriter) {
    writer.field(2, length: ResumeToken.textLength) { feed.tokens.write(point, to: &$0) }
  }

  private func end(_ call: CallID, _ sink: any CallSink, _ write: (Response) -> Void) {
    // A full queue does not matter to a failure; should it not be taken, the call ends without a reason.
    _ = sink.respond(to: call, lsn: 0, ends: true, write)
    remove(call)
  }
}
