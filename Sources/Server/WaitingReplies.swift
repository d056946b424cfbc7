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
    /// Of a failure.
    let code: StatusCode
    let retryMilliseconds: Int32

    static let byteCount = MemoryLayout<Entry>.stride

    /// Bytes from here to the next entry, which is aligned as this one is.
    var distance: Int {
      let bytes = Self.byteCount + contentCount + detailsCount
      let alignment = MemoryLayout<Entry>.alignment
      return (bytes + alignment - 1) & -alignment
    }
  }

  private static let capacityAtFirst = 64 * 1024

  @unsafe private struct State {
    var storage: UnsafeMutableRawPointer
    var capacity: Int
    /// Offsets of the oldest entry, and of where the next one goes.
    var first = 0
    var last = 0
    /// Of the newest entry.
    var lastLSN: UInt64 = 0
  }

  // Behind a constant pointer: properties of a class, the loop, are checked for exclusive access at
  // every use.
  private let state: UnsafeMutablePointer<State>
  private let bytesMax: Int

  /// - Parameter bytesMax: most bytes that wait, what is noted about each reply (40 bytes) included.
  init(bytesMax: Int) {
    self.bytesMax = bytesMax
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(
      to: State(storage: Self.allocate(Self.capacityAtFirst), capacity: Self.capacityAtFirst))
  }

  deinit {
    unsafe state.pointee.storage.deallocate()
    unsafe state.deallocate()
  }

  var isEmpty: Bool { unsafe state.pointee.first == state.pointee.last }

  private var waitingBytes: Int { unsafe state.pointee.last - state.pointee.first }

  /// Keeps a copy of `reply`; false where the limit is reached.
  func append(_ reply: Reply, for stream: StreamID, lsn: UInt64, ends: Bool) -> Bool {
    var kind = Kind.message
    var code = StatusCode.ok
    if case .failure(let failure) = reply.kind { (kind, code) = (.failure, failure) }
    let contentCount = reply.withContent { $0.count }
    let entry = Entry(
      stream: stream, lsn: lsn, contentCount: contentCount,
      detailsCount: reply.count - contentCount, ends: ends, kind: kind,
      code: code, retryMilliseconds: kind == .failure ? reply.retryMilliseconds : 0)
    guard waitingBytes + entry.distance <= bytesMax else { return false }
    let place = unsafe append(entry) + Entry.byteCount
    // Room for both was just made.
    reply.withContent { unsafe Self.copy($0, to: place) }
    reply.withDetails { unsafe Self.copy($0, to: place + contentCount) }
    return true
  }

  /// Keeps the end of a streaming call behind everything that waits; false where nothing does.
  func appendEnd(of stream: StreamID) -> Bool {
    if isEmpty { return false }
    _ = unsafe append(
      Entry(
        stream: stream, lsn: state.pointee.lastLSN, contentCount: 0, detailsCount: 0, ends: true,
        kind: .end, code: .ok, retryMilliseconds: 0))
    return true
  }

  /// What may be sent now.
  struct Next {
    let stream: StreamID
    /// The reply ends its call.
    let ends: Bool
    /// Not a reply but the end of a streaming call.
    let isEnd: Bool
  }

  /// Puts the oldest reply that may be sent into `reply`, and says what it is; nil where there is none.
  func next(durableLSN: UInt64, into reply: Reply) -> Next? {
    if isEmpty { return nil }
    // Between `first` and `last` lie whole entries.
    let place = unsafe state.pointee.storage + state.pointee.first
    let entry = unsafe place.load(as: Entry.self)
    guard entry.lsn <= durableLSN else { return nil }
    if entry.kind == .failure { reply.fail(entry.code) } else { reply.reset() }
    let content = unsafe place + Entry.byteCount
    unsafe Self.append(content, entry.contentCount, to: reply)
    if entry.kind == .failure {
      reply.beginDetails()
      unsafe Self.append(content + entry.contentCount, entry.detailsCount, to: reply)
      reply.retryMilliseconds = entry.retryMilliseconds
    }
    unsafe state.pointee.first += entry.distance
    if isEmpty {
      unsafe state.pointee.first = 0
      unsafe state.pointee.last = 0
    }
    return Next(stream: entry.stream, ends: entry.ends, isEnd: entry.kind == .end)
  }

  // MARK: Memory

  /// Appends an entry and makes room for its bytes. Where it stands.
  private func append(_ entry: Entry) -> UnsafeMutableRawPointer {
    if unsafe state.pointee.last + entry.distance > state.pointee.capacity {
      makeRoom(entry.distance)
    }
    let place = unsafe state.pointee.storage + state.pointee.last
    unsafe place.storeBytes(of: entry, as: Entry.self)
    unsafe state.pointee.last += entry.distance
    unsafe state.pointee.lastLSN = entry.lsn
    return unsafe place
  }

  private func makeRoom(_ more: Int) {
    let count = waitingBytes
    let (storage, capacity) = unsafe (state.pointee.storage, state.pointee.capacity)
    let waiting = unsafe storage + state.pointee.first
    if count + more <= capacity / 2 {
      // At least as much was given away since the last move as is moved now: a byte a byte.
      unsafe storage.copyMemory(from: waiting, byteCount: count)
    } else {
      let larger = max(capacity * 2, count + more)
      unsafe state.pointee.storage = Self.allocate(larger)
      unsafe state.pointee.capacity = larger
      unsafe state.pointee.storage.copyMemory(from: waiting, byteCount: count)
      unsafe storage.deallocate()
    }
    unsafe state.pointee.first = 0
    unsafe state.pointee.last = count
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
