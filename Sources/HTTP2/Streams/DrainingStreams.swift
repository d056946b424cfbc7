// Streams whose response is out before their request was whole. What still comes of the request is read
// and dropped, with credit for it, so that the peer can end its side. A reset at once would be allowed
// (RFC 9113 section 8.1), but proxies carry many users' streams on one connection, and some of them lose
// track of the connection's window where a stream that they are sending on is reset.

/// How much is read of requests that are answered already.
package struct DrainLimits: Sendable {
  /// Streams of one connection at a time.
  package var streamsMax: Int
  /// Bytes of one stream.
  package var streamBytesMax: Int
  /// How long one stream has for it, in nanoseconds.
  package var nanosecondsMax: Int64
  /// KiB that one connection may send so.
  package var kibibytes: Budget

  package init(
    streamsMax: Int, streamBytesMax: Int, nanosecondsMax: Int64, kibibytes: Budget
  ) {
    self.streamsMax = streamsMax
    self.streamBytesMax = streamBytesMax
    self.nanosecondsMax = nanosecondsMax
    self.kibibytes = kibibytes
  }
}

/// One connection's draining streams: few, so that a search through all of them is short. Has no memory
/// while there are none.
@safe struct DrainingStreams {
  struct Entry: BitwiseCopyable {
    let stream: Int32
    /// What the peer may send before it gets more credit, and what credit it may still get.
    var receiveWindow: Int64
    var creditLeft: Int64
    /// When it began, in monotonic nanoseconds.
    let sinceNanoseconds: Int64
  }

  private var entries: UnsafeMutablePointer<Entry>?
  private(set) var count = 0

  /// The place of a stream; nil where it is none of these.
  func find(_ stream: Int32) -> Int? {
    guard let entries = unsafe entries else { return nil }
    for index in 0..<count where unsafe entries[index].stream == stream { return index }
    return nil
  }

  subscript(index: Int) -> Entry {
    get {
      precondition(index >= 0 && index < count, "no such stream")
      guard let entries = unsafe entries else { preconditionFailure("there are none") }
      return unsafe entries[index]
    }
    set {
      precondition(index >= 0 && index < count, "no such stream")
      unsafe entries?[index] = newValue
    }
  }

  /// Adds a stream; false where there are `limit` of them, or no memory.
  mutating func add(_ entry: Entry, limit: Int, _ pool: inout MemoryPool) -> Bool {
    guard count < limit else { return false }
    if unsafe entries == nil {
      guard let memory = unsafe pool.allocate(limit * MemoryLayout<Entry>.stride) else {
        return false
      }
      unsafe entries = memory.bindMemory(to: Entry.self, capacity: limit)
    }
    unsafe entries?[count] = entry
    count += 1
    return true
  }

  /// Takes one out; the last one takes its place.
  mutating func remove(at index: Int, _ pool: inout MemoryPool) {
    self[index] = self[count - 1]
    count -= 1
    if count == 0 { destroy(&pool) }
  }

  mutating func destroy(_ pool: inout MemoryPool) {
    if let entries = unsafe entries { unsafe pool.free(UnsafeMutableRawPointer(entries)) }
    unsafe entries = nil
    count = 0
  }
}

extension ServerConnectionState {
  /// The response of a stream is out, and the peer has not sent everything: reads on for a while. False
  /// where there are too many such streams, or the connection has had too much read so.
  mutating func drain(_ record: UnsafeMutablePointer<StreamRecord>) -> Bool {
    let context = unsafe context
    let limits = unsafe context.pointee.limits.drain
    let window = unsafe max(0, record.pointee.receiveWindow)
    guard draining.count < limits.streamsMax, spendDrained(window) else { return false }
    let entry = unsafe DrainingStreams.Entry(
      stream: record.pointee.number, receiveWindow: window,
      creditLeft: max(0, Int64(limits.streamBytesMax) - window),
      sinceNanoseconds: context.pointee.nowNanoseconds)
    guard unsafe draining.add(entry, limit: limits.streamsMax, &context.pointee.pool) else {
      return false
    }
    goOnDraining(draining.count - 1)
    return true
  }

  /// DATA of a draining stream came: `length` bytes with its padding, all of them to be dropped. What is to
  /// be told where the peer has sent more than its window; nil where it has not.
  mutating func drainData(_ index: Int, _ length: Int, ends: Bool) -> ErrorCode? {
    draining[index].receiveWindow -= Int64(length)
    if draining[index].receiveWindow < 0 {
      endDraining(index)
      return .flowControlError
    }
    if ends {
      endDraining(index)
    } else {
      goOnDraining(index)
    }
    return nil
  }

  /// A peer that has used its window up gets more, or is reset. Not one that has some left: it may have sent
  /// everything by now, and nginx, which then uses the connection for its next call, takes a frame on the
  /// stream before for an error of the connection.
  private mutating func goOnDraining(_ index: Int) {
    let entry = draining[index]
    guard entry.receiveWindow == 0 else { return }
    let credit = unsafe min(
      Int64(context.pointee.limits.streamWindowBytes), entry.creditLeft)
    guard credit > 0, spendDrained(credit) else { return resetDraining(index) }
    sendWindowUpdate(credit, stream: entry.stream)
    draining[index].receiveWindow = credit
    draining[index].creditLeft -= credit
  }

  /// The connection's budget pays for what the peer may send, and gets back what it has not sent.
  private mutating func spendDrained(_ bytes: Int64) -> Bool {
    unsafe drained.spend(
      (bytes + 1023) / 1024, context.pointee.limits.drain.kibibytes,
      nowNanoseconds: context.pointee.nowNanoseconds)
  }

  /// The peer has ended its side.
  mutating func endDraining(_ index: Int) {
    let context = unsafe context
    let left = max(0, draining[index].receiveWindow)
    unsafe drained.giveBack(left / 1024, context.pointee.limits.drain.kibibytes)
    unsafe draining.remove(at: index, &context.pointee.pool)
  }

  /// Section 8.1: NO_ERROR asks the peer to stop sending without ill will.
  mutating func resetDraining(_ index: Int) {
    let stream = draining[index].stream
    endDraining(index)
    sendReset(stream, .noError)
  }
}

extension ServerConnection {
  /// Streams that were answered and whose requests still come.
  package var drainingCount: Int { unsafe state.pointee.draining.count }

  /// Ends them all: by a reset, unless the connection has said already why it ends.
  package func resetDraining() {
    for index in unsafe (0..<state.pointee.draining.count).reversed() {
      if unsafe state.pointee.fault == nil {
        unsafe state.pointee.resetDraining(index)
      } else {
        unsafe state.pointee.endDraining(index)
      }
    }
  }

  /// Resets the draining streams whose time is over.
  package func endDraining(nowNanoseconds: Int64) {
    let limit = unsafe state.pointee.context.pointee.limits.drain.nanosecondsMax
    for index in unsafe (0..<state.pointee.draining.count).reversed()
    where unsafe nowNanoseconds - state.pointee.draining[index].sinceNanoseconds >= limit {
      unsafe state.pointee.resetDraining(index)
    }
  }
}
