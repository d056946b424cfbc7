// The streams that a client has open on one connection, found by their number.

/// A stream that a client opened, until its last event. Trivial to copy.
package struct ClientStream: Equatable, Sendable, BitwiseCopyable {
  /// Where the owner may keep what it knows of the stream: below `ClientConnection.indexCount`. No two
  /// open streams have the same.
  package var index: Int { Int(slot) }
  /// Its number on the wire; never used twice on a connection, and never 0.
  package let number: UInt32
  private let slot: Int32

  init(index: Int, number: UInt32) {
    slot = Int32(truncatingIfNeeded: index)
    self.number = number
  }
}

/// One open stream.
struct ClientStreamRecord: ~Copyable {
  /// 0: the slot is free.
  var number: UInt32 = 0
  /// The :status; -1 before the response's headers.
  var status: Int16 = -1
  /// The owner hears of headers and of data as they come, not only of the end.
  var streamsResponse = false
  /// END_STREAM is not out.
  var isSending = false
  /// END_STREAM goes with the last of `unsent`.
  var endsUnsent = false
  /// Bytes that the peer still takes on this stream; kept up to date while it is sending.
  var sendWindow: Int64 = 0
  /// Bytes of the response that were consumed since we last gave credit for them.
  var uncredited = 0
  /// The captured fields of the block that ended the response, and their text.
  var captured = CapturedFields()
  var text = ByteBuffer()
  /// The response's DATA that was not consumed yet.
  var body = ByteBuffer()
  /// What of the request the peer's windows have not let through yet.
  var unsent = ByteBuffer()
}

/// A table of slots with linear probing from a stream's number on. Slots never move, and their
/// buffers keep their memory from one stream to the next.
@safe struct ClientStreamTable: ~Copyable {
  /// `count` initialized slots, owned by this value.
  private let slots: UnsafeMutablePointer<ClientStreamRecord>
  /// A power of two.
  let count: Int

  /// Room for `streamsMax` streams, and as many free slots at least: probes are short.
  init(streamsMax: Int) {
    var count = 8
    while count < 2 * streamsMax { count *= 2 }
    self.count = count
    unsafe slots = .allocate(capacity: count)
    for index in 0..<count { unsafe (slots + index).initialize(to: ClientStreamRecord()) }
  }

  deinit {
    unsafe slots.deinitialize(count: count)
    unsafe slots.deallocate()
  }

  subscript(slot: Int) -> ClientStreamRecord {
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
  func freeSlot(for number: UInt32) -> Int {
    var slot = Int(number >> 1) & (count - 1)
    while self[slot].number != 0 { slot = (slot + 1) & (count - 1) }
    return slot
  }

  /// The slot of the stream with this number (not 0), or nil where it has ended.
  func slot(of number: UInt32) -> Int? {
    var slot = Int(number >> 1) & (count - 1)
    for _ in 0..<count {
      if self[slot].number == number { return slot }
      slot = (slot + 1) & (count - 1)
    }
    return nil
  }
}
