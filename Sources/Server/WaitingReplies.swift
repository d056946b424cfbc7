internal import GRPC
internal import HTTP2

/// Replies that wait until the journal is durable up to their log sequence number, oldest first. A
/// reply behind one that still waits, waits with it: numbers rise, so that costs one sync at most.
///
/// With a journal every reply comes through here, so keeping one and giving it back are a copy each:
/// entries lie one behind the other in one block of memory, which grows to the longest queue and stays.
@safe struct WaitingReplies: ~Copyable {
  private enum Kind: BitwiseCopyable {
    case message
    case failure
    /// Not a reply but the end of a streaming call.
    case end
  }

  /// What stands before a reply's bytes.
  private struct Entry: BitwiseCopyable {
    let stream: StreamID
    let lsn: UInt64
    /// Bytes of the message, or of the text of a failure, and behind them the failure's details.
    let contentCount: Int
    let detailsCount: Int
    let ends: Bool
    let kind: Kind
    /// Of a failure or an end.
    let code: StatusCode

    static let byteCount = MemoryLayout<Entry>.stride

    /// Bytes from here to the next entry, which is aligned as this one is.
    var distance: Int {
      let bytes = Self.byteCount + contentCount + detailsCount
      let alignment = MemoryLayout<Entry>.alignment
      return (bytes + alignment - 1) & -alignment
    }
  }

  private static let capacityAtFirst = 64 * 1024

  private var storage: UnsafeMutableRawPointer
  private var capacity: Int
  /// Offsets of the oldest entry, and of where the next one goes.
  private var first = 0
  private var last = 0
  /// Of the newest entry.
  private var lastLSN: UInt64 = 0
  private let bytesMax: Int

  /// - Parameter bytesMax: most bytes that wait, what is noted about each reply (40 bytes) included.
  init(bytesMax: Int) {
    self.bytesMax = bytesMax
    capacity = Self.capacityAtFirst
    unsafe storage = Self.allocate(capacity)
  }

  deinit { unsafe storage.deallocate() }

  var isEmpty: Bool { first == last }

  /// Keeps a copy of `reply`; false where the limit is reached.
  mutating func append(_ reply: Reply, for stream: StreamID, lsn: UInt64, ends: Bool) -> Bool {
    var kind = Kind.message
    var code = StatusCode.ok
    if case .failure(let failure) = reply.kind { (kind, code) = (.failure, failure) }
    let contentCount = reply.withContent { $0.count }
    let entry = Entry(
      stream: stream, lsn: lsn, contentCount: contentCount,
      detailsCount: reply.count - contentCount, ends: ends, kind: kind,
      code: code)
    guard last - first + entry.distance <= bytesMax else { return false }
    let place = unsafe append(entry) + Entry.byteCount
    // Room for both was just made.
    reply.withContent { unsafe Self.copy($0, to: place) }
    reply.withDetails { unsafe Self.copy($0, to: place + contentCount) }
    return true
  }

  /// Keeps the end of a streaming call behind everything that waits; false where nothing does.
  mutating func appendEnd(of stream: StreamID, _ code: StatusCode) -> Bool {
    if isEmpty { return false }
    _ = unsafe append(
      Entry(
        stream: stream, lsn: lastLSN, contentCount: 0, detailsCount: 0, ends: true, kind: .end,
        code: code))
    return true
  }

  /// What may be sent now.
  struct Next {
    let stream: StreamID
    /// The reply ends its call.
    let ends: Bool
    /// Not a reply but the end of a streaming call.
    let end: StatusCode?
  }

  /// Puts the oldest reply that may be sent into `reply`, and says what it is; nil where there is none.
  mutating func next(durableLSN: UInt64, into reply: Reply) -> Next? {
    if isEmpty { return nil }
    // Between `first` and `last` lie whole entries.
    let entry = unsafe storage.load(fromByteOffset: first, as: Entry.self)
    guard entry.lsn <= durableLSN else { return nil }
    if entry.kind == .failure { reply.fail(entry.code) } else { reply.reset() }
    let content = unsafe storage + first + Entry.byteCount
    unsafe Self.append(content, entry.contentCount, to: reply)
    if entry.kind == .failure {
      reply.beginDetails()
      unsafe Self.append(content + entry.contentCount, entry.detailsCount, to: reply)
    }
    first += entry.distance
    if isEmpty {
      first = 0
      last = 0
    }
    return Next(stream: entry.stream, ends: entry.ends, end: entry.kind == .end ? entry.code : nil)
  }

  // MARK: Memory

  /// Appends an entry and makes room for its bytes. Where it stands.
  private mutating func append(_ entry: Entry) -> UnsafeMutableRawPointer {
    if last + entry.distance > capacity { makeRoom(entry.distance) }
    let place = unsafe storage + last
    unsafe place.storeBytes(of: entry, as: Entry.self)
    last += entry.distance
    lastLSN = entry.lsn
    return unsafe place
  }

  private mutating func makeRoom(_ more: Int) {
    let count = last - first
    if count + more <= capacity / 2 {
      // At least as much was given away since the last move as is moved now: a byte a byte.
      unsafe storage.copyMemory(from: storage + first, byteCount: count)
    } else {
      capacity = max(capacity * 2, count + more)
      let larger = unsafe Self.allocate(capacity)
      unsafe larger.copyMemory(from: storage + first, byteCount: count)
      unsafe storage.deallocate()
      unsafe storage = larger
    }
    first = 0
    last = count
  }

  private static func allocate(_ byteCount: Int) -> UnsafeMutableRawPointer {
    .allocate(byteCount: byteCount, alignment: MemoryLayout<Entry>.alignment)
  }

  /// - Safety: there must be room for the bytes.
  @unsafe private static func copy(_ bytes: Span<UInt8>, to place: UnsafeMutableRawPointer) {
    unsafe bytes.withUnsafeBufferPointer { source in
      guard let base = source.baseAddress else { return }
      unsafe place.copyMemory(from: base, byteCount: source.count)
    }
  }

  /// - Safety: `count` bytes must stand at `bytes`.
  @unsafe private static func append(
    _ bytes: UnsafeMutableRawPointer, _ count: Int, to reply: Reply
  ) {
    let bound = unsafe bytes.bindMemory(to: UInt8.self, capacity: count)
    reply.append(unsafe UnsafeBufferPointer(start: bound, count: count).span)
  }
}
