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

/// What the owner of the streams writes down about one; HTTP/2 itself never looks at it.
package struct StreamNotes: Sendable {
  /// What the header fields mean to the owner.
  package var head: Int32 = .min
  /// When the request's header fields were received: the turn's time, in nanoseconds.
  package var receivedNanoseconds: Int64 = 0
  /// Whether the call was counted as begun, and the status it was answered with; below zero: none yet.
  package var isStarted = false
  package var status: Int8 = -1

  package init() {}
}

struct StreamFlags: OptionSet {
  let rawValue: UInt16

  static let closed = StreamFlags(rawValue: 1 << 0)
  /// The peer has sent END_STREAM.
  static let endReceived = StreamFlags(rawValue: 1 << 1)
  static let oversize = StreamFlags(rawValue: 1 << 2)
  static let headerListTooLarge = StreamFlags(rawValue: 1 << 3)
  /// The answer has begun.
  static let answered = StreamFlags(rawValue: 1 << 4)
  /// Nothing comes after the bytes in the record.
  static let answerEnds = StreamFlags(rawValue: 1 << 5)
  /// Incoming data is of no interest any more.
  static let discards = StreamFlags(rawValue: 1 << 6)
  /// Waits for the peer's window of this stream.
  static let blocked = StreamFlags(rawValue: 1 << 7)
  /// The owner wants to hear of bytes before the end.
  static let wantsData = StreamFlags(rawValue: 1 << 8)
  /// The answer's HEADERS frame is out.
  static let headersSent = StreamFlags(rawValue: 1 << 9)
  /// The timeout field came, be it empty.
  static let hasTimeout = StreamFlags(rawValue: 1 << 11)
  /// The record's answer is a header block, and all that is sent.
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

  /// What the first five bytes, a gRPC message's prefix, say of the whole: prefix and message.
  var announcedLength: Int {
    unsafe (Int(start[1]) << 24 | Int(start[2]) << 16 | Int(start[3]) << 8 | Int(start[4])) + 5
  }

  /// Appends `length` bytes; room must have been made.
  mutating func append(_ source: UnsafePointer<UInt8>, _ length: Int) {
    unsafe (start + count).update(from: source, count: length)
    count += length
  }
}

/// One stream.
@unsafe struct StreamRecord {
  var session: UnsafeMutablePointer<SessionState>?
  var previous: UnsafeMutablePointer<StreamRecord>?
  /// Next stream of the session, or next free record.
  var next: UnsafeMutablePointer<StreamRecord>?
  var previousToSend: UnsafeMutablePointer<StreamRecord>?
  var nextToSend: UnsafeMutablePointer<StreamRecord>?
  var sendQueue = SendQueue.Membership.none
  var number: Int32 = 0
  var index: UInt32 = 0
  var generation: UInt32 = 0
  var flags: StreamFlags = []
  var timeoutCount: UInt8 = 0
  var timeout = InlineArray<16, UInt8>(repeating: 0)
  /// What the peer takes of this stream, and what we take; may be below zero (section 6.9.2).
  var sendWindow: Int64 = 0
  var receiveWindow: Int64 = 0
  /// The content-length field, or -1, and what came.
  var contentLength: Int64 = -1
  var bodyReceived: Int64 = 0
  var notes = StreamNotes()
  /// The fields of interest, one behind the other.
  var fieldBytes = PoolBytes()
  var fieldStarts = InlineArray<5, UInt32>(repeating: 0)
  var fieldCounts = InlineArray<5, UInt32>(repeating: 0)
  /// The fields of interest that came, be they empty, and those that came more than once: a bit each.
  var fieldsSeen: UInt8 = 0
  var fieldsRepeated: UInt8 = 0
  /// What the peer sent; the first `bodyOffset` bytes are consumed.
  var body: StreamBytes
  var bodyOffset = 0
  /// What is on its way to the peer.
  var answer: StreamBytes
  /// Bytes of `answer` that are out.
  var answerOffset = 0
  /// Bytes at the end of `answer` that are the block of its trailers; 0: the trailers are status 0.
  var trailersCount = 0

  /// Bytes that wait to be consumed.
  var unreadCount: Int { unsafe body.count - bodyOffset }

  /// Makes room in a body of many messages, as `dropSentAnswer` does.
  mutating func dropConsumedBody() {
    guard unsafe bodyOffset > 0, unsafe bodyOffset * 2 >= body.count else { return }
    let left = unsafe unreadCount
    unsafe body.start.update(from: body.start + bodyOffset, count: left)
    unsafe body.count = left
    unsafe bodyOffset = 0
  }

  /// Makes room in an answer of many messages: what is out is dropped once it is more than what waits.
  mutating func dropSentAnswer() {
    guard unsafe answerOffset > 0, unsafe answerOffset * 2 >= answer.count else { return }
    let left = unsafe answer.count - answerOffset
    unsafe answer.start.update(from: answer.start + answerOffset, count: left)
    unsafe answer.count = left
    unsafe answerOffset = 0
  }

  /// The field of interest that is kept for the length of the call.
  static let keptField = 4
  /// Longest part of a field that is kept: what is longer matches nothing that anybody looks for.
  private static let fieldBytesMax = 256

  /// Keeps a field of interest, the first of its name; without memory it counts as absent.
  mutating func keepField(
    _ index: Int, _ value: UnsafeBufferPointer<UInt8>, _ pool: inout MemoryPool
  ) {
    let bit: UInt8 = 1 << UInt8(index)
    if unsafe fieldsSeen & bit != 0 {
      unsafe fieldsRepeated |= bit
      return
    }
    unsafe fieldsSeen |= bit
    guard let base = value.baseAddress else { return }
    let start = unsafe fieldBytes.count
    let count = unsafe min(value.count, Self.fieldBytesMax)
    guard unsafe fieldBytes.append(base, count, &pool) else { return }
    unsafe fieldStarts[index] = UInt32(start)
    unsafe fieldCounts[index] = UInt32(count)
  }

  /// Drops the fields of interest.
  mutating func forgetFields(_ pool: inout MemoryPool) {
    unsafe fieldBytes.destroy(&pool)
    for index in 0..<5 { unsafe fieldCounts[index] = 0 }
    unsafe fieldsSeen = 0
    unsafe fieldsRepeated = 0
  }

  /// A field of interest; empty where it is absent.
  func field(_ index: Int) -> UnsafeBufferPointer<UInt8> {
    guard let start = unsafe fieldBytes.start else {
      return unsafe UnsafeBufferPointer(start: nil, count: 0)
    }
    return unsafe UnsafeBufferPointer(
      start: start + Int(fieldStarts[index]), count: Int(fieldCounts[index]))
  }
}

/// All stream records of one loop. Memory grows to the largest number ever open and stays.
@safe struct StreamTable {
  private static let chunkLength = 256
  private static let chunksMax = 4096
  /// Bytes of body and of answer that a record holds itself: a Reserve of one line takes about 50 each.
  private static let inlineBody = 160
  private static let inlineAnswer = 96

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
    unsafe record.pointee.session = nil
    unsafe record.pointee.previous = nil
    unsafe record.pointee.flags = []
    unsafe record.pointee.timeoutCount = 0
    unsafe record.pointee.contentLength = -1
    unsafe record.pointee.bodyReceived = 0
    unsafe record.pointee.notes = StreamNotes()
    unsafe record.pointee.body.count = 0
    unsafe record.pointee.bodyOffset = 0
    unsafe record.pointee.answer.count = 0
    unsafe record.pointee.answerOffset = 0
    unsafe record.pointee.trailersCount = 0
    unsafe record.pointee.generation &+= 1
    unsafe record.pointee.next = free
    unsafe free = record
  }

  /// The record of a stream; nil where the name is stale.
  func find(_ id: StreamID) -> UnsafeMutablePointer<StreamRecord>? {
    let chunk = Int(id.index) / Self.chunkLength
    guard chunk < chunkCount else { return nil }
    let record = unsafe chunks[chunk] + Int(id.index) % Self.chunkLength
    guard unsafe record.pointee.generation == id.generation, unsafe record.pointee.session != nil
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
    let each = Self.inlineBody + Self.inlineAnswer
    let inline = UnsafeMutablePointer<UInt8>.allocate(capacity: Self.chunkLength * each)
    let first = chunkCount * Self.chunkLength
    for offset in stride(from: Self.chunkLength - 1, through: 0, by: -1) {
      let bytes = unsafe inline + offset * each
      unsafe (chunk + offset).initialize(
        to: StreamRecord(
          body: StreamBytes(inline: bytes, capacity: Self.inlineBody),
          answer: StreamBytes(inline: bytes + Self.inlineBody, capacity: Self.inlineAnswer)))
      unsafe chunk[offset].index = UInt32(first + offset)
      unsafe chunk[offset].next = free
      unsafe free = chunk + offset
    }
    unsafe chunks[chunkCount] = chunk
    chunkCount += 1
  }
}
