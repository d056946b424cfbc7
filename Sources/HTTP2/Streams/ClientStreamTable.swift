// The calls in flight of one connection, found by their stream.

/// One call in flight.
struct ClientCall: ~Copyable {
  /// 0: the slot is free.
  var stream: UInt32 = 0
  var httpStatus: Int16 = -1
  var callID: UInt64 = 0
  /// The answer's DATA so far: five bytes of gRPC prefix, then the message.
  var body = ClientBytes()
  /// The answer's grpc-message and details.
  var text = ClientBytes()
  /// What of the request the peer's windows have not let through yet.
  var unsent = ClientBytes()
  /// Bytes that the peer still takes on this stream; kept only while something is unsent.
  var sendWindow: Int64 = 0
}

/// A table of slots with linear probing from a stream's number on. Slots never move, and their
/// buffers keep their memory from one call to the next.
@safe struct ClientCallTable: ~Copyable {
  /// `count` initialized slots, owned by this value.
  private let slots: UnsafeMutablePointer<ClientCall>
  /// A power of two.
  let count: Int

  /// Room for `callsMaximum` calls, and as many free slots at least: probes are short.
  init(callsMaximum: Int) {
    var count = 8
    while count < 2 * callsMaximum { count *= 2 }
    self.count = count
    unsafe slots = .allocate(capacity: count)
    for index in 0..<count { unsafe (slots + index).initialize(to: ClientCall()) }
  }

  deinit {
    unsafe slots.deinitialize(count: count)
    unsafe slots.deallocate()
  }

  subscript(slot: Int) -> ClientCall {
    _read {
      precondition(slot >= 0 && slot < count, "no such slot")
      yield unsafe slots[slot]
    }
    _modify {
      precondition(slot >= 0 && slot < count, "no such slot")
      yield unsafe &slots[slot]
    }
  }

  /// A slot for a new stream. There is one while fewer than half are in use.
  func freeSlot(for stream: UInt32) -> Int {
    var slot = Int(stream >> 1) & (count - 1)
    while self[slot].stream != 0 { slot = (slot + 1) & (count - 1) }
    return slot
  }

  /// The slot of `stream` (not 0), or nil where it has ended.
  func slot(of stream: UInt32) -> Int? {
    var slot = Int(stream >> 1) & (count - 1)
    for _ in 0..<count {
      if self[slot].stream == stream { return slot }
      slot = (slot + 1) & (count - 1)
    }
    return nil
  }
}
