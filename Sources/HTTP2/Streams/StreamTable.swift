// The open streams of one loop: records that never move, so that lists can run through them, found
// by number and generation, so that a stale number finds nothing.

/// Names a stream of one loop; never means another stream.
package struct StreamID: Equatable, Sendable, BitwiseCopyable {
  package let index: UInt32
  package let generation: UInt32

  package init(index: UInt32, generation: UInt32) {
    self.index = index
    self.generation = generation
  }
}

struct StreamFlags: OptionSet {
  let rawValue: UInt16

  static let closed = StreamFlags(rawValue: 1 << 0)
  /// The peer has sent END_STREAM.
  static let endReceived = StreamFlags(rawValue: 1 << 1)
  static let oversize = StreamFlags(rawValue: 1 << 2)
  /// The owner has said what the header block means.
  static let accepted = StreamFlags(rawValue: 1 << 3)
  /// The response is whole: nothing comes after the bytes in the record.
  static let responseEnds = StreamFlags(rawValue: 1 << 5)
  /// Incoming data is of no interest any more.
  static let discards = StreamFlags(rawValue: 1 << 6)
  /// Waits for the peer's window of this stream.
  static let blocked = StreamFlags(rawValue: 1 << 7)
  /// A `data` event was told of; the next comes with every frame, if the owner streams.
  static let toldOfData = StreamFlags(rawValue: 1 << 8)
  /// The response's HEADERS frame is out.
  static let headersSent = StreamFlags(rawValue: 1 << 9)
  /// The response has header fields of its own.
  static let ownHeaders = StreamFlags(rawValue: 1 << 10)
  /// The outgoing bytes are a header block, and all that is sent.
  static let headersOnly = StreamFlags(rawValue: 1 << 12)
}

/// Bytes of a stream: inline in its record until they outgrow that.
@safe struct StreamBytes {
  var start: UnsafeMutablePointer<UInt8>
  var capacity: Int
  var count = 0
  let inline: UnsafeMutablePointer<UInt8>
  let inlineCapacity: Int

  init(inline: UnsafeMutablePointer<UInt8>, capacity: Int) {
    unsafe start = inline
    unsafe self.inline = inline
    self.capacity = capacity
    inlineCapacity = capacity
  }

  var isInline: Bool { unsafe start == inline }
  /// What it takes of the loop's budget.
  var heldBytes: Int { isInline ? 0 : capacity }

  /// Appends `length` bytes; room must have been made.
  mutating func append(_ source: UnsafePointer<UInt8>, _ length: Int) {
    unsafe (start + count).update(from: source, count: length)
    count += length
  }
}

/// One stream.
@unsafe struct StreamRecord {
  var connection: UnsafeMutablePointer<ServerConnectionState>?
  var previous: UnsafeMutablePointer<StreamRecord>?
  /// Next stream of the connection, or next free record.
  var next: UnsafeMutablePointer<StreamRecord>?
  var previousToSend: UnsafeMutablePointer<StreamRecord>?
  var nextToSend: UnsafeMutablePointer<StreamRecord>?
  var sendQueue = SendQueue.Membership.none
  var number: Int32 = 0
  var index: UInt32 = 0
  var generation: UInt32 = 0
  var flags: StreamFlags = []
  /// What the peer takes of this stream, and what we take; may be below zero (section 6.9.2).
  var sendWindow: Int64 = 0
  /// Since when bytes wait for the peer's window and none was sent; 0: none wait, or some were sent.
  var stalledSinceNanoseconds: Int64 = 0
  var receiveWindow: Int64 = 0
  /// The content-length field, or -1, and what came.
  var contentLength: Int64 = -1
  var bodyReceived: Int64 = 0
  /// When the header block came: the iteration's time, in monotonic nanoseconds.
  var openedNanoseconds: Int64 = 0
  /// What the owner made of the header block; nil before it has.
  var notes: UnsafeMutablePointer<HeaderNotes>?
  var policy = BodyPolicy(bytesMax: 0, tellsAt: 0, isStreaming: false)
  /// The captured header fields, one behind the other, until the owner has seen them.
  var fieldBytes = PoolBytes()
  var fieldStarts = InlineArray<9, UInt32>(repeating: 0)
  var fieldCounts = InlineArray<9, UInt32>(repeating: 0)
  /// Fields that came, be they empty, and those that came again, as bits.
  var fieldsPresent: UInt16 = 0
  var fieldsRepeated: UInt16 = 0
  /// What the peer sent; the first `bodyOffset` bytes are consumed.
  var body: StreamBytes
  var bodyOffset = 0
  /// The response: header fields of its own, data, and the block of its trailers.
  var outgoing: StreamBytes
  /// Bytes of `outgoing` that are out.
  var sentCount = 0
  /// Bytes of `outgoing` that may go out; the others wait for `release(_:upTo:)`.
  var releasedCount = 0
  /// Bytes that were dropped from the front of `outgoing` after they were out.
  var droppedCount = 0
  /// Bytes at the front that are a block for the response's headers.
  var headersCount = 0
  /// Bytes at the end that are the block of the trailers; 0: the owner's constant trailer.
  var trailersCount = 0
  /// The whole response, where its owner keeps it; one byte of `outgoing` stands for it.
  var keptBlock: UnsafeMutablePointer<KeptBlock>?
  /// Queued bytes at which a `writable` event is due; 0: none is wanted.
  var tellsWritableAt = 0

  /// Bytes that wait to be consumed.
  var unreadCount: Int { unsafe body.count - bodyOffset }

  mutating func dropKeptBlock() {
    guard let kept = unsafe keptBlock else { return }
    unsafe kept.pointee.references -= 1
    unsafe keptBlock = nil
  }

  /// Makes room in a body of many messages, as `dropSentBytes` does.
  mutating func dropConsumedBody() {
    guard unsafe bodyOffset > 0, unsafe bodyOffset * 2 >= body.count else { return }
    let left = unsafe unreadCount
    unsafe body.start.update(from: body.start + bodyOffset, count: left)
    unsafe body.count = left
    unsafe bodyOffset = 0
  }

  /// Makes room in a response of many messages: what is out is dropped once it is more than what waits.
  mutating func dropSentBytes() {
    guard unsafe sentCount > 0, unsafe sentCount * 2 >= outgoing.count else { return }
    let left = unsafe outgoing.count - sentCount
    unsafe outgoing.start.update(from: outgoing.start + sentCount, count: left)
    unsafe outgoing.count = left
    unsafe releasedCount -= sentCount
    unsafe droppedCount += sentCount
    unsafe headersCount = 0
    unsafe sentCount = 0
  }

  /// Something may be sent as far as the owner is concerned.
  var hasReleased: Bool {
    unsafe releasedCount > sentCount
      || (flags.contains(.responseEnds) && releasedCount == outgoing.count)
  }

  /// Longest part of a field that is kept: a bearer token of 8 KiB and its scheme. What is longer is cut,
  /// and then matches nothing that anybody looks for.
  static let fieldBytesMax = 8 * 1024 + 64

  /// Captures a field; without memory it counts as absent.
  mutating func capture(
    _ index: Int, _ value: UnsafeBufferPointer<UInt8>, _ pool: inout MemoryPool
  ) {
    let bit = UInt16(1) << UInt16(index)
    if unsafe fieldsPresent & bit != 0 {
      unsafe fieldsRepeated |= bit
      return
    }
    unsafe fieldsPresent |= bit
    guard let base = value.baseAddress, value.count > 0 else { return }
    let start = unsafe fieldBytes.count
    let count = unsafe min(value.count, Self.fieldBytesMax)
    guard unsafe fieldBytes.append(base, count, &pool) else { return }
    unsafe fieldStarts[index] = UInt32(start)
    unsafe fieldCounts[index] = UInt32(count)
  }

  /// A captured field; empty where it is absent.
  func field(_ index: Int) -> UnsafeBufferPointer<UInt8> {
    guard let start = unsafe fieldBytes.start, unsafe fieldCounts[index] > 0 else {
      return unsafe UnsafeBufferPointer(start: nil, count: 0)
    }
    return unsafe UnsafeBufferPointer(
      start: start + Int(fieldStarts[index]), count: Int(fieldCounts[index]))
  }

  /// The captured fields are of no use any more.
  mutating func dropFields(_ pool: inout MemoryPool) {
    guard unsafe fieldsPresent != 0 else { return }
    unsafe fieldBytes.destroy(&pool)
    unsafe fieldCounts = .init(repeating: 0)
    unsafe fieldsPresent = 0
    unsafe fieldsRepeated = 0
  }
}

/// All stream records of one loop. Memory grows to the largest number ever open and stays.
@safe struct StreamTable {
  private static let chunkLength = 256
  private static let chunksMax = 4096
  /// Bytes of body and of response that a record holds itself: a Reserve of one line takes about 50 each.
  private static let inlineBody = 160
  private static let inlineOutgoing = 96

  // A plain directory: an Array would be retained at every look-up.
  private let chunks: UnsafeMutablePointer<UnsafeMutablePointer<StreamRecord>>
  private var chunkCount = 0
  private var free: UnsafeMutablePointer<StreamRecord>?

  init() { unsafe chunks = .allocate(capacity: Self.chunksMax) }

  /// A clean record; nil where 1,048,576 are open.
  mutating func allocate() -> UnsafeMutablePointer<StreamRecord>? {
    if unsafe free == nil { grow() }
    guard let record = unsafe free else { return nil }
    unsafe free = record.pointee.next
    unsafe record.pointee.next = nil
    return unsafe record
  }

  /// Takes a record back; every name of it is stale from here on. Its bytes must be its inline ones.
  mutating func release(_ record: UnsafeMutablePointer<StreamRecord>) {
    unsafe record.pointee.connection = nil
    unsafe record.pointee.previous = nil
    unsafe record.pointee.flags = []
    unsafe record.pointee.contentLength = -1
    unsafe record.pointee.bodyReceived = 0
    unsafe record.pointee.body.count = 0
    unsafe record.pointee.bodyOffset = 0
    unsafe record.pointee.outgoing.count = 0
    unsafe record.pointee.sentCount = 0
    unsafe record.pointee.releasedCount = 0
    unsafe record.pointee.droppedCount = 0
    unsafe record.pointee.headersCount = 0
    unsafe record.pointee.trailersCount = 0
    unsafe record.pointee.dropKeptBlock()
    unsafe record.pointee.tellsWritableAt = 0
    unsafe record.pointee.stalledSinceNanoseconds = 0
    unsafe record.pointee.generation &+= 1
    unsafe record.pointee.next = free
    unsafe free = record
  }

  /// The record of a stream; nil where the name is stale.
  func find(_ id: StreamID) -> UnsafeMutablePointer<StreamRecord>? {
    let chunk = Int(id.index) / Self.chunkLength
    guard chunk < chunkCount else { return nil }
    let record = unsafe chunks[chunk] + Int(id.index) % Self.chunkLength
    guard unsafe record.pointee.generation == id.generation, unsafe record.pointee.connection != nil
    else { return nil }
    return unsafe record
  }

  /// Gives all memory back; nothing may be open.
  func destroy() {
    for chunk in 0..<chunkCount {
      unsafe chunks[chunk][0].body.inline.deallocate()
      unsafe chunks[chunk].deallocate()
    }
    unsafe chunks.deallocate()
  }

  private mutating func grow() {
    guard chunkCount < Self.chunksMax else { return }
    let chunk = UnsafeMutablePointer<StreamRecord>.allocate(capacity: Self.chunkLength)
    let each = Self.inlineBody + Self.inlineOutgoing
    let inline = UnsafeMutablePointer<UInt8>.allocate(capacity: Self.chunkLength * each)
    let first = chunkCount * Self.chunkLength
    for offset in stride(from: Self.chunkLength - 1, through: 0, by: -1) {
      let bytes = unsafe inline + offset * each
      unsafe (chunk + offset).initialize(
        to: StreamRecord(
          body: StreamBytes(inline: bytes, capacity: Self.inlineBody),
          outgoing: StreamBytes(inline: bytes + Self.inlineBody, capacity: Self.inlineOutgoing)))
      unsafe chunk[offset].index = UInt32(first + offset)
      unsafe chunk[offset].next = free
      unsafe free = chunk + offset
    }
    unsafe chunks[chunkCount] = chunk
    chunkCount += 1
  }
}
